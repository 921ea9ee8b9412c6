"""Reading codes: what each fires for, which stand for a pattern, and which fire on a text."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, cast

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from interp.data import Dataset, read
from interp.errors import DataError, ModelError, ParameterError
from interp.feeds import TextFeed
from interp.hookpoints import HookPoint
from interp.hooks import evaluating, hooked
from interp.models import quiet_transformers
from interp.results import Result
from interp.runs import versions
from interp.store import ActivationStore
from saes.codebook.layer import Codebook
from saes.codebook.model import Codebooks
from saes.codebook.patterns import best_neuron, code_scores, concept_map, find
from saes.codes import Codes
from saes.latents import features
from saes.records import Features
from saes.tallies import uniform

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "CodePatterns",
    "PatternCode",
    "code_concepts",
    "code_features",
    "codes_on",
    "read_patterns",
]

DOCUMENTS = 1000
"""Texts that are read, at most, unless more are asked for: neurons of all their tokens are held."""

Progress = Callable[[int, int, str], None]


class PatternCode(NamedTuple):
    """The code and the neuron that stand best for a pattern at a hook point.

    ``precision``, ``recall``, ``neuron_precision`` and ``neuron_recall`` are of documents that did
    not choose them; None where the code or neuron fires nowhere there. ``share`` is the pattern's
    share of tokens (a label's of those that its column labels), which is the precision of chance;
    ``fires`` counts such tokens, of all documents.
    """

    pattern: str
    hookpoint: str
    code: int
    precision: float | None
    recall: float
    neuron: str
    neuron_precision: float | None
    neuron_recall: float
    share: float
    fires: int


@dataclass(frozen=True, kw_only=True)
class CodePatterns(Result):
    """Which codes stand for patterns, beside the best single neurons.

    Attributes
    ----------
    n : tokens read, of ``documents`` texts.
    patterns : name -> regular expression, or the column of labels and its class.
    hookpoints : where codebooks stand.
    found : pattern by pattern, each hook point's best code. A pattern that no code fires for is in
        ``reasons``.
    fired : hook point -> share of its codes that fire on some token, 0 to 1.
    """

    kind: ClassVar[str] = "code_patterns"

    documents: int
    patterns: dict[str, str]
    hookpoints: tuple[str, ...]
    found: tuple[PatternCode, ...]
    fired: dict[str, float]

    def __post_init__(self) -> None:
        rows = tuple(PatternCode(*row) for row in self.found)  # a saved one holds plain tuples
        object.__setattr__(self, "found", rows)

    def best(self) -> tuple[PatternCode, ...]:
        """Of each pattern the code of greatest F1, whatever its hook point."""
        chosen: dict[str, PatternCode] = {}
        for row in self.found:
            if row.pattern not in chosen or _f1(row) > _f1(chosen[row.pattern]):
                chosen[row.pattern] = row
        return tuple(chosen.values())

    def to_frame(self) -> "pd.DataFrame":
        """A row a pattern and hook point."""
        import pandas as pd

        return pd.DataFrame(list(self.found), columns=list(PatternCode._fields))

    def metrics(self) -> dict[str, Any]:
        """Numbers and names for ``metrics.json``: the best code of each pattern."""
        best = {r.pattern: {k: v for k, v in r._asdict().items() if k != "pattern"}
                for r in self.best()}  # fmt: skip
        return {"n": self.n, "documents": self.documents, "patterns": self.patterns,
                "fired": self.fired, "best": best, "reasons": self.reasons}  # fmt: skip


def read_patterns(
    books: Codebooks,
    data: Any,
    patterns: Mapping[str, str],
    *,
    documents: int | None = DOCUMENTS,
    labels: bool = True,
    max_length: int | None = None,
    seed: int = 0,
    name: str | None = None,
    progress: Progress | None = None,
) -> CodePatterns:
    """The codes that stand for regular expressions and labels, beside the best neurons.

    A token is a pattern's where it holds the place that `saes.codebook.patterns.find` gives: the
    first group's beginning, or the match's end. Half of the documents (of the groups) choose each
    hook point's code, by F1, and the neuron that is most precise at its recall, out of all outputs
    of attention and MLPs; the other half scores both.

    Parameters
    ----------
    books : enabled codebooks.
    data : texts, as `interp.data.read` takes them.
    patterns : name -> regular expression.
    documents : texts to read at most, evenly spaced; None for all.
    labels : add the classes of labels of single tokens, where the data marks them; each is looked
        for among the tokens that its column labels.
    max_length : cut texts to so many tokens.
    seed : of the halves.

    Raises
    ------
    DataError
        The data are no texts.
    ModelError
        The tokenizer does not say where tokens lie in a text.
    ParameterError
        A pattern is no regular expression, or matches everywhere.

    Source: "Codebook Features", section 4.2, code search. Differs: what chooses does not score.
    """
    texts = _texts(data, documents)
    feed = TextFeed(books.model, texts, max_length)
    ends = _spans(books, texts, max_length)
    on = {k: _tokens_on(p, texts, ends) for k, p in patterns.items()}
    about = dict(patterns)
    known: dict[str, NDArray] = {}  # of a label, the tokens that have one of its column
    if labels:
        marked = _marked(texts, ends)
        on |= marked
        columns: dict[str, list[NDArray]] = {}
        for k, places in marked.items():
            columns.setdefault(k.partition("=")[0], []).append(np.concatenate(places))
        any_of = {c: np.any(flags, axis=0) for c, flags in columns.items()}
        known = {k: any_of[k.partition("=")[0]] for k in marked}
        about |= {k: "label" for k in marked}
    if not on:
        raise ParameterError("read_patterns needs a pattern, or data with labels of tokens.")
    latents: dict[str, list[NDArray]] = {n: [] for n in books.names}
    acts: list[NDArray] = []
    widths: dict[str, int] = {}
    points = books.model.resolve(_neurons(books))
    for before, chosen, mask in _runs(books, feed, points, progress):
        for n in books.names:
            latents[n].append(chosen[n][mask].flatten(1).cpu().numpy())
        acts.append(torch.cat([before[p.name][mask] for p in points], 1).cpu().numpy())
        widths = {p.name: before[p.name].shape[2] for p in points}
    table = {n: np.concatenate(v) for n, v in latents.items()}
    neurons = np.concatenate(acts)
    units = [f"{p.name}:{i}" for p in points for i in range(widths[p.name])]
    first = np.repeat(_half(texts, seed), feed.lengths)
    found, reasons = [], {}
    for pattern, places in on.items():
        flags = np.concatenate(places)
        among = known.get(pattern, slice(None))
        flags, chooses, acted = flags[among], first[among], neurons[among]
        rows = [
            row
            for n in books.names
            if (row := _scored(pattern, n, table[n][among], flags, chooses, acted, units, books[n]))
        ]
        if not rows:
            reasons[pattern] = "no code fires on it in the documents that choose"
        found += rows
    return CodePatterns(
        name=name or texts.name,
        n=len(first),
        provenance=_about(books, texts, seed),
        reasons=reasons,
        documents=len(texts),
        patterns=about,
        hookpoints=books.names,
        found=tuple(found),
        fired={n: float((_fires(t, books[n]) > 0).mean()) for n, t in table.items()},
    )


def code_features(
    books: Codebooks,
    hookpoint: str,
    data: Any,
    *,
    documents: int | None = DOCUMENTS,
    max_length: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    **options: Any,
) -> Features:
    """A record of each code of a hook point, as `saes.features` makes them of latents.

    A code's activation is 1 + the cosine of the row and the code where it is chosen, so that its
    top examples are the tokens most like it. The rows are what the codebook reads while all
    codebooks act.

    Parameters
    ----------
    documents : texts to read at most, evenly spaced; None for all.
    options : for `saes.features`, such as ``top``, ``context`` and ``latents``.
    """
    texts = _texts(data, documents)
    feed = TextFeed(books.model, texts, max_length)
    book, (point,) = books[hookpoint], [p for p in books.points if p.name == hookpoint]
    parts: list[Tensor] = []
    for before, _, mask in _runs(books, feed, [point], progress):
        parts.append(before[hookpoint][mask].cpu())
    place = {
        "document": np.repeat(np.arange(len(texts)), feed.lengths),
        "position": np.concatenate([np.arange(t) for t in feed.lengths]),
    }
    store = ActivationStore.from_tensors({hookpoint: torch.cat(parts)}, place)
    near = _Nearness(book.config, book.d_in, generator=torch.Generator()).to(book.codes)
    near.load_state_dict(book.state_dict())
    return features(
        near, store, texts, hookpoint, model=books.model, max_length=max_length, seed=seed,
        **options,
    )  # fmt: skip


def code_concepts(
    books: Codebooks,
    hookpoint: str,
    data: Any,
    column: str,
    *,
    documents: int | None = DOCUMENTS,
    max_length: int | None = None,
) -> "pd.DataFrame":
    """The code x concept map: of each code's labelled tokens, the share that is each class.

    A row a code that fires on a labelled token, those that fire most first; a column a class, whose
    shares sum to 1 over the row, and ``fires``, the labelled tokens. Range: 0 to 1.

    Parameters
    ----------
    data : texts whose tokens are labelled (`interp.Dataset.marks`), as `demo:python`.
    column : of the labels.

    Raises
    ------
    DataError
        The data marks no tokens in that column.
    """
    import pandas as pd

    texts = _texts(data, documents)
    if column not in texts.marks:
        known = ", ".join(texts.marks) or "none"
        raise DataError(f"{texts.name} marks no tokens for {column!r}; its columns are {known}.")
    feed, book = TextFeed(books.model, texts, max_length), books[hookpoint]
    marked = _marked(texts, _spans(books, texts, max_length))
    names = [n for n in marked if n.startswith(f"{column}=")]
    classes = np.full(sum(feed.lengths), -1)
    for i, name in enumerate(names):
        classes[np.concatenate(marked[name])] = i
    parts = [
        chosen[hookpoint][mask].flatten(1).cpu().numpy()
        for _, chosen, mask in _runs(books, feed, [], None)
    ]
    table, fires = concept_map(np.concatenate(parts), classes, book.n_latents, len(names))
    frame = pd.DataFrame(table, columns=[n.partition("=")[2] for n in names])
    frame.index.name = "code"
    frame["fires"] = fires
    order = np.argsort(-fires, kind="stable")
    return frame.iloc[order[fires[order] > 0]]


def codes_on(books: Codebooks, text: str) -> "pd.DataFrame":
    """Which codes fire on a text: a row a token and hook point, nearest code first.

    Columns: ``position``, ``token``, ``hookpoint``, ``codes`` (numbered through the groups).
    """
    import pandas as pd

    ids = books.model.tokenize([text])[0]
    latents = {n: books[n].latents(c) for n, c in books.codes(text).items()}
    rows = [
        (i, books.model.token_text(token), name, tuple(latents[name][0, i].flatten().tolist()))
        for i, token in enumerate(ids)
        for name in latents
    ]
    return pd.DataFrame(rows, columns=["position", "token", "hookpoint", "codes"])


class _Nearness(Codebook):
    """A codebook whose latents say how near the chosen codes are: 1 + cosine, 0 to 2."""

    unit = "code"

    def encode_sparse(self, x: Float[Tensor, "... d_in"]) -> Codes:
        a = self.normed(self._rows(x, self.in_shape))
        ids = self.nearest(a)[0]
        latents = self.latents(ids)
        chunks = a.unflatten(1, (self.config.groups, 1, -1))
        cosine = torch.cosine_similarity(chunks, self.codes[latents], dim=-1)
        values = (1 + cosine).clamp_min(1e-6).flatten(1)
        return Codes(values.to(x.dtype), latents.flatten(1))


def _texts(data: Any, documents: int | None) -> Dataset:
    texts = read(data)
    if texts.kind != "text":
        raise DataError(f"{texts.name} holds no text, and codes are read on text.")
    if documents is None or documents >= len(texts):
        return texts
    if documents < 2:
        raise ParameterError(f"documents must be at least 2; got {documents}.")
    chosen = np.linspace(0, len(texts) - 1, documents).round().astype(int)
    return replace(
        texts,
        inputs=[cast("list[str]", texts.inputs)[i] for i in chosen],
        rows=texts.rows.iloc[chosen].reset_index(drop=True),
        marks={k: [v[i] for i in chosen] for k, v in texts.marks.items()},
    )


def _runs(
    books: Codebooks, feed: TextFeed, points: Sequence[HookPoint], progress: Progress | None
) -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor], Tensor]]:
    """Batches of texts in order: what hook points hold, codes, and which tokens are no pads.

    The points' tensors [b, t, width] are what they hold before a codebook there acts; the codes are
    latents [b, t, groups, k] of each codebook; the mask is [b, t].
    """
    books.check_enabled()
    held: dict[str, Tensor] = {}

    def keep(point: HookPoint, x: Tensor) -> None:
        held[point.name] = x.reshape(*cast(Tensor, feed.mask).shape, -1).float()

    module, done = books.model.module, 0
    while done < len(feed.lengths):
        size = feed.batch_rows(max(feed.lengths[done : done + 64]))
        rows = list(range(done, min(done + size, len(feed.lengths))))
        with hooked(module, points, keep, first=True), books.watching() as seen:
            with evaluating(module), torch.inference_mode():
                feed.run(rows)
        mask = cast(Tensor, feed.mask)
        chosen = {n: books[n].latents(s.ids).unflatten(0, mask.shape) for n, s in seen.items()}
        yield dict(held), chosen, mask
        done = rows[-1] + 1
        if progress is not None:
            progress(done, len(feed.lengths), "documents")


def _neurons(books: Codebooks) -> list[str]:
    """Where neurons are looked for: outputs of attention and MLPs, of stacks that have them."""
    wanted = []
    for role in ("attn_out.*", "mlp_out.*"):
        try:
            books.model.resolve(role)
        except LookupError:
            continue
        wanted.append(role)
    if not wanted:
        raise ModelError(f"{books.model.spec} has no attn_out and no mlp_out to find neurons in.")
    return wanted


def _spans(books: Codebooks, texts: Dataset, max_length: int | None) -> list[list[tuple[int, int]]]:
    """First and last character + 1 of every token of every text."""
    options = {} if max_length is None else {"truncation": True, "max_length": max_length}
    with quiet_transformers():
        try:
            return books.model.tokenizer(
                list(texts.inputs), return_offsets_mapping=True, **options
            )["offset_mapping"]
        except (NotImplementedError, KeyError, TypeError) as error:
            raise ModelError(
                f"the tokenizer of {books.model.spec} does not say where its tokens lie in the "
                "text, so patterns cannot be brought to tokens."
            ) from error


def _tokens_on(
    pattern: str, texts: Dataset, spans: list[list[tuple[int, int]]]
) -> list[NDArray[np.bool_]]:
    """For each text, which tokens hold a place of the pattern."""
    places: dict[int, set[int]] = {}
    for i, at in find(pattern, cast("list[str]", texts.inputs)):
        places.setdefault(i, set()).add(at)
    return [
        np.array([any(at in places.get(i, ()) for at in range(a, b)) for a, b in row], bool)
        for i, row in enumerate(spans)
    ]


def _marked(
    texts: Dataset, spans: list[list[tuple[int, int]]]
) -> dict[str, list[NDArray[np.bool_]]]:
    """``column=class`` -> which tokens are labelled so."""
    found: dict[str, list[NDArray[np.bool_]]] = {}
    for column, marks in texts.marks.items():
        classes = sorted({label for one in marks for label in one.values()}, key=str)
        for one in classes:
            found[f"{column}={one}"] = [
                np.array([b > a and own.get(b) == one for a, b in row], bool)
                for row, own in zip(spans, marks, strict=True)
            ]
    return found


def _half(texts: Dataset, seed: int) -> NDArray[np.bool_]:
    """Which documents choose; groups stay together."""
    groups = np.arange(len(texts))
    if texts.group is not None:
        names = texts.rows[texts.group].astype(str).to_numpy()
        groups = np.unique(names, return_inverse=True)[1].astype(np.int64)
    return uniform(seed, groups) < 0.5


def _scored(
    pattern: str,
    hookpoint: str,
    latents: NDArray,
    on: NDArray,
    first: NDArray,
    neurons: NDArray,
    units: list[str],
    book: Codebook,
) -> PatternCode | None:
    """The best code of one hook point, and its neuron; None where none fires."""
    found = code_scores(latents[first], on[first], book.n_latents)
    if not len(found.codes):
        return None
    f1 = 2 * found.precision * found.recall / (found.precision + found.recall)
    best = int(f1.argmax())
    code, recall = int(found.codes[best]), float(found.recall[best])
    neuron = best_neuron(neurons[first], on[first], recall)
    other, mine = on[~first], (latents == code).any(1)
    precision, recall = _rates(mine[~first], other)
    theirs = (None, float("nan"))
    if neuron is not None:
        theirs = _rates(neurons[~first, neuron.unit] >= neuron.threshold, other)
    return PatternCode(
        pattern, hookpoint, code, precision, recall,
        "" if neuron is None else units[neuron.unit], *theirs, float(on.mean()), int(mine.sum()),
    )  # fmt: skip


def _rates(fires: NDArray, on: NDArray) -> tuple[float | None, float]:
    """Precision, None where it never fires, and recall, nan where there is nothing to find."""
    hits, total = int((fires & on).sum()), int(on.sum())
    return (hits / int(fires.sum()) if fires.any() else None), (
        hits / total if total else float("nan")
    )


def _f1(row: PatternCode) -> float:
    if not row.precision or not row.recall > 0:
        return 0.0
    return 2 * row.precision * row.recall / (row.precision + row.recall)


def _fires(latents: NDArray, book: Codebook) -> NDArray:
    return np.bincount(latents[latents >= 0], minlength=book.n_latents)


def _about(books: Codebooks, texts: Dataset, seed: int) -> dict[str, Any]:
    return {
        "model": books.model.identity(),
        "data": {"name": texts.name, "hash": texts.hash, "n": len(texts)},
        "codebooks": {n: books[n].config.to_dict() for n in books.names},
        "seed": seed,
        "versions": versions(),
    }
