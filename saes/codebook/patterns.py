"""What codes stand for: precision and recall of a pattern, purity, and neurons as a baseline."""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from interp.errors import ParameterError, ShapeError

__all__ = ["Found", "Neuron", "best_neuron", "code_scores", "concept_map", "find", "purity"]

LEAST_RECALL = 0.01


class Found(NamedTuple):
    """Codes that fire on a pattern, the most precise first; of equals the one of most recall.

    ``codes``, ``precision``, ``recall``, ``fires`` are [m]; ``fires`` counts rows on or off the
    pattern.
    """

    codes: NDArray
    precision: NDArray
    recall: NDArray
    fires: NDArray


class Neuron(NamedTuple):
    """A unit and how precise it is, where its threshold is set for ``recall``."""

    unit: int
    precision: float
    recall: float
    threshold: float


def code_scores(
    latents: Int[NDArray, "n k"],
    on: Bool[NDArray, " n"],
    n_latents: int,
    *,
    least_recall: float = LEAST_RECALL,
) -> Found:
    """Precision and recall of each code as a sign of a pattern.

    Recall is the share of the pattern's rows in which the code fires; precision the share of the
    rows in which it fires that are the pattern's. Range: 0 to 1, higher is better; the chance of
    precision is the pattern's share of rows.

    Parameters
    ----------
    latents : [n, k] codes of each row, -1 for none.
    on : [n] which rows are the pattern's.
    n_latents : how many codes there are.
    least_recall : codes whose recall is no greater are left out.

    Degenerate: without a row of the pattern nothing is found.
    Source: the paper's code, code_search_utils.
    """
    if len(latents) != len(on):
        raise ShapeError(f"code_scores: {len(latents)} rows of codes and {len(on)} of the pattern.")
    row, code = _firing(latents)
    fires = np.bincount(code, minlength=n_latents)
    hits = np.bincount(code[on[row]], minlength=n_latents)
    total = int(on.sum())
    recall = hits / total if total else np.zeros(n_latents)
    kept = np.flatnonzero(recall > least_recall)
    precision = hits[kept] / fires[kept]
    order = np.lexsort((kept, -recall[kept], -precision))
    kept = kept[order]
    return Found(kept, precision[order], recall[kept], fires[kept])


def best_neuron(
    acts: Float[NDArray, "n units"], on: Bool[NDArray, " n"], recall: float
) -> Neuron | None:
    """The unit that is most precise for a pattern at a recall.

    Each unit's threshold is its m-th largest activation on the pattern's rows, m being
    ``int(recall * rows)``; its precision is m over the rows at or above it.

    Degenerate: None where m is 0.
    Source: the paper's code, code_search_utils.
    """
    total = int(on.sum())
    m = int(recall * total + 1e-9)  # a recall of 3 / 5 means 3 rows, whatever its rounding
    if m == 0:
        return None
    threshold = np.partition(acts[on], total - m, axis=0)[total - m]
    precision = m / (acts >= threshold).sum(0)
    unit = int(precision.argmax())
    return Neuron(unit, float(precision[unit]), m / total, float(threshold[unit]))


def purity(
    latents: Int[NDArray, "n k"], classes: Int[NDArray, " n"], n_latents: int
) -> tuple[float, int]:
    """Share of the codes that fire which fire in rows of one class only; and how many fire.

    Range: 0 to 1, higher is purer. A code that fires once is pure: give several rows a class where
    that should not count. Degenerate: nan where no code fires.

    Parameters
    ----------
    latents : [n, k] codes of each row, -1 for none.
    classes : [n] what each row is; rows below 0 are left out.
    """
    latents, classes = latents[classes >= 0], classes[classes >= 0]
    row, code = _firing(latents)
    pairs = np.unique(np.stack([code, classes[row]]), axis=1)
    several = np.bincount(pairs[0], minlength=n_latents)
    active = int((several > 0).sum())
    return (float((several == 1).sum() / active) if active else float("nan")), active


def concept_map(
    latents: Int[NDArray, "n k"], classes: Int[NDArray, " n"], n_latents: int, n_classes: int
) -> tuple[NDArray, NDArray]:
    """[n_latents, n_classes] share of a code's rows that are each class; and [n_latents] its rows.

    Rows of a class below 0 are left out. Degenerate: nan in the rows of codes that do not fire.
    """
    latents, classes = latents[classes >= 0], classes[classes >= 0]
    row, code = _firing(latents)
    table = np.bincount(code * n_classes + classes[row], minlength=n_latents * n_classes)
    table = table.reshape(n_latents, n_classes).astype(float)
    fires = table.sum(1)
    return table / np.where(fires > 0, fires, np.nan)[:, None], fires.astype(int)


def find(pattern: str, texts: Sequence[str], *, parity: int | None = None) -> list[tuple[int, int]]:
    """Where a regular expression matches: (text, character) pairs, overlaps included.

    Parameters
    ----------
    pattern : with a group, the place is where the first group begins; else where the match ends,
        its last character. A match of no character, as of a word's edge, has no place.
    parity : 0 or 1 keeps places at even or odd characters.

    Raises
    ------
    ParameterError
        The pattern is no regular expression, or matches the empty text.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ParameterError(f"{pattern!r} is no regular expression: {error}.") from error
    if compiled.fullmatch("") is not None:
        raise ParameterError(f"{pattern!r} matches the empty text, so it is everywhere.")
    places = []
    for i, text in enumerate(texts):
        start = 0
        while start < len(text) and (match := compiled.search(text, start)) is not None:
            nothing = not compiled.groups and match.end() == match.start()
            place = match.start(1) if compiled.groups else match.end() - 1
            if place >= 0 and not nothing and (parity is None or place % 2 == parity):
                places.append((i, place))
            start = match.start() + 1
    return sorted(set(places))


def _firing(latents: NDArray) -> tuple[NDArray, NDArray]:
    """(row, code) of every firing, each pair once."""
    latents = latents.reshape(len(latents), math.prod(latents.shape[1:]))
    rows = np.repeat(np.arange(len(latents)), latents.shape[1])
    flat = latents.ravel()
    rows, flat = rows[flat >= 0], flat[flat >= 0]
    if latents.shape[1] > 1:
        rows, flat = np.unique(np.stack([rows, flat]), axis=1)
    return rows, flat
