"""``demo:python``: windows of Python source, labelled with concepts of rising depth.

The text is the standard library of the running Python, in the files that ``demo:pylm`` was not
trained on. The labels come from ``tokenize`` and ``ast`` (:mod:`interp.demo.labels`), so they are
exact. Each concept has rows of its own; in the others its column is missing.
"""

import random
import tokenize
from bisect import bisect_right
from collections.abc import Hashable, Iterator
from typing import NamedTuple

import pandas as pd

from interp.data import Dataset
from interp.demo.labels import CONCEPTS, Position, Source
from interp.demo.stdlib import held_out_files, read_source
from interp.errors import DataError, ParameterError

__all__ = ["python_source"]

WINDOW = 280  # characters, about 80 tokens of pylm
SHORTEST = 40
MOST_FROM_ONE_FILE = 0.06  # of the rows of a concept
LOOKED_AT = 800  # positions of a concept in one file, for speed

_ABOUT = {
    "keyword": "lexical: the next token is a keyword",
    "string": "syntactic: the text ends inside a string or comment",
    "bracket_depth": "syntactic: brackets open at the end, 0, 1, or 2 for more",
    "loop": "semantic: the text ends in the body of a for or while loop",
    "argument": "semantic: the last name is an argument of the function, not a local variable",
}


class _Candidate(NamedTuple):
    """A position that a window can show: its file, its line, and where its window starts."""

    position: Position
    file: str
    line: int
    start: int


def python_source(n: int = 2500, seed: int = 0) -> Dataset:
    """Prefixes of source text, each labelled at its last character.

    Every text starts at the start of a line, at most 280 characters before its end, and holds all
    that its label depends on: the opening bracket, the loop's header, the signature. Within a
    concept the classes are equally large, also within each surface cue:

    - ``keyword``: the token before, in the same line, is the same sign or the same kind of token.
    - ``string``: the last word is the same, and a string or comment of the same kind has begun in
      the window; it is over where the label is 0.
    - ``bracket_depth`` (0, 1, 2 for more): the last token is the same sign or of the same kind.
    - ``loop``: the indentation is the same, and there is a loop in the window, over in class 0.
    - ``argument``: the last name is the same, an argument here and a local variable there.

    Parameters
    ----------
    n : rows in all, a fifth for each concept; at least 30. A concept has fewer where the standard
        library does not hold as many matched positions; ``label_notes`` say so.
    seed : chooses the positions.

    Returns
    -------
    Dataset
        ``text``, ``file`` (the group), ``line``, ``concept`` (the one that the row is for) and the
        five labels, missing (``<NA>``) outside the concept. ``marks`` has every place of a text
        whose label for its concept can be known from it, for a row a token; these are as the
        source has them, with no classes balanced. The rows depend on ``n``, ``seed`` and
        the standard library, so on the version of Python.

    Raises
    ------
    ParameterError : ``n`` is below 30.
    DataError : the running Python has no source of its standard library.
    """
    if n < 30:
        raise ParameterError(f"demo:python takes at least 30 rows, got n={n}.")
    texts: dict[str, str] = {}
    candidates: dict[str, list[_Candidate]] = {concept: [] for concept in CONCEPTS}
    everywhere: dict[tuple[str, str], list[Position]] = {}
    for file, source in _sources():
        texts[file] = source.text
        for concept, found in CONCEPTS.items():
            positions = list(found(source))
            everywhere[concept, file] = sorted(positions, key=lambda p: p.end)
            if len(positions) > LOOKED_AT:
                positions = random.Random(f"{seed} {concept} {file}").sample(positions, LOOKED_AT)
            candidates[concept] += _visible(file, source, positions)
    if not texts:
        raise DataError("demo:python finds no source files of the standard library in this Python.")
    marks: dict[str, list[dict[int, int]]] = {concept: [] for concept in CONCEPTS}
    data, notes = [], []
    for concept in CONCEPTS:
        chosen = _matched(
            candidates[concept], n // len(CONCEPTS), random.Random(f"{seed} {concept}")
        )
        if len(chosen) < n // len(CONCEPTS) - 2:
            notes.append(f"{concept}: {len(chosen)} rows, for want of more matched positions")
        for c in sorted(chosen, key=lambda c: (c.file, c.position.end)):
            text = texts[c.file][c.start : c.position.end]
            data.append((text, c.file, c.line, concept, c.position.label))
            for other in CONCEPTS:
                marks[other].append(_inside(c, everywhere[concept, c.file], other == concept))
    rows = pd.DataFrame(data, columns=["text", "file", "line", "concept", "label"])
    for concept in CONCEPTS:
        rows[concept] = rows["label"].where(rows["concept"] == concept).astype("Int64")
    rows = rows.drop(columns="label")
    return Dataset(
        name="python",
        kind="text",
        inputs=rows["text"].tolist(),
        rows=rows,
        labels=tuple(CONCEPTS),
        group="file",
        text_column="text",
        about=dict(_ABOUT),
        marks=marks,
        notes=(f"seed {seed}; {len(texts)} files that pylm was not trained on",),
        label_notes=tuple(notes),
    )


def _sources() -> Iterator[tuple[str, Source]]:
    for file in held_out_files():
        text = read_source(file)
        if text is None:
            continue
        try:
            yield file, Source(text)
        except (SyntaxError, ValueError, tokenize.TokenError):
            continue  # a template, or another language version's example


def _visible(file: str, source: Source, positions: list[Position]) -> Iterator[_Candidate]:
    """The positions whose window reaches back to all that the label needs."""
    for position in positions:
        start = source.line_start_from(max(0, position.end - WINDOW))
        if start <= position.needs and position.end - start >= SHORTEST:
            yield _Candidate(position, file, source.line_of(position.end), start)


def _inside(window: _Candidate, positions: list[Position], own: bool) -> dict[int, int]:
    """Offset in a window's text -> label, of the places whose label can be known from it."""
    if not own:
        return {}
    first = bisect_right(positions, window.start, key=lambda p: p.end)
    last = bisect_right(positions, window.position.end, key=lambda p: p.end)
    return {p.end - window.start: p.label for p in positions[first:last] if p.needs >= window.start}


def _matched(candidates: list[_Candidate], n: int, rng: random.Random) -> list[_Candidate]:
    """At most n candidates: sets of one of each class with equal cues, on lines of their own."""
    labels = sorted({candidate.position.label for candidate in candidates})
    limit = max(len(labels), int(MOST_FROM_ONE_FILE * n))
    chosen: list[_Candidate] = []
    lines: set[tuple[str, int]] = set()
    from_file: dict[str, int] = {}

    def free(candidate: _Candidate) -> bool:
        line = (candidate.file, candidate.line)
        return line not in lines and from_file.get(candidate.file, 0) < limit

    while sets := _sets([c for c in candidates if free(c)], labels, rng):
        before = len(chosen)
        for members in sets:
            if len(chosen) + len(labels) > n:
                return chosen
            places = {(c.file, c.line) for c in members}
            if len(places) == len(members) and all(free(c) for c in members):
                chosen += members
                lines |= places
                for c in members:
                    from_file[c.file] = from_file.get(c.file, 0) + 1
        if len(chosen) == before:
            break
    return chosen


def _sets(
    candidates: list[_Candidate], labels: list[int], rng: random.Random
) -> list[tuple[_Candidate, ...]]:
    """Disjoint sets of one candidate of each class with equal cues, in random order."""
    by_cue: dict[Hashable, dict[int, list[_Candidate]]] = {}
    for c in candidates:
        classes = by_cue.get(c.position.cue)
        if classes is None:
            classes = by_cue[c.position.cue] = {label: [] for label in labels}
        classes[c.position.label].append(c)
    sets = []
    for classes in by_cue.values():
        for members in classes.values():
            rng.shuffle(members)
        sets += zip(*classes.values(), strict=False)
    rng.shuffle(sets)
    return sets
