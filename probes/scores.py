"""Scores of held-out answers, and bootstrap intervals for them over whole groups."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

__all__ = [
    "accuracy_in_draws",
    "area_interval",
    "area_under_curve",
    "bootstrap_weights",
    "calibration_bins",
    "calibration_error",
    "calibration_interval",
    "calibration_of_bins",
    "f1_interval",
    "f1_score",
    "hits_of_groups",
    "weighted_interval",
]

BINS = 15
"""Bins of confidence in the calibration error, all of one width."""

CHUNK = 2**22
"""Most draws * rows weighed at once: 32 MiB."""


def f1_score(y: ArrayLike, predicted: ArrayLike, n_classes: int) -> float:
    """F1 of class 1 where there are two classes, else the mean of the classes' F1.

    F1 = 2 tp / (2 tp + fp + fn).

    Range: 0 to 1, higher is better.
    Degenerate: nan where class 1 occurs neither among the labels nor among the answers; of
    several classes, those are left out of the mean.
    """
    y, predicted = np.asarray(y), np.asarray(predicted)
    scores = []
    for c in [1] if n_classes == 2 else range(n_classes):
        hit = ((y == c) & (predicted == c)).sum()
        of = (y == c).sum() + (predicted == c).sum()
        scores.append(2 * hit / of if of else np.nan)
    scores = np.asarray(scores)[np.isfinite(scores)]
    return float(scores.mean()) if len(scores) else float("nan")


def area_under_curve(y: ArrayLike, scores: NDArray, fold: ArrayLike) -> float:
    """Area under the ROC curve of scores [n], or of one against the rest from scores [k, n].

    Each fold has a probe of its own, whose scores need not be on the scale of another's; so the
    area is taken within each fold and averaged. For more than two classes the classes' areas are
    averaged too (macro).

    Range: 0 to 1, chance 0.5.
    Degenerate: a class that is absent from a fold's test rows has no area there, and is left out
    of the mean; nan where no class has one in any fold.
    """
    y, fold = np.asarray(y), np.asarray(fold)
    rows = scores[None] if scores.ndim == 1 else scores
    first = 1 if scores.ndim == 1 else 0
    areas = []
    for c, score in enumerate(rows, start=first):
        within = []
        for k in np.unique(fold):
            positive, rank = y[fold == k] == c, rankdata(score[fold == k])
            p, q = int(positive.sum()), int((~positive).sum())
            if p and q:
                within.append((rank[positive].sum() - p * (p + 1) / 2) / (p * q))
        if within:
            areas.append(np.mean(within))
    return float(np.mean(areas)) if areas else float("nan")


def calibration_error(y: ArrayLike, probability: ArrayLike, *, bins: int = BINS) -> float:
    """How far confidence lies from the share that is right: the expected calibration error.

    Rows are put into ``bins`` of equal width, open below and closed above, by the probability of
    the answer given; ``sum over bins of (rows / n) * |share right - mean confidence|``.

    Parameters
    ----------
    y : [n] classes from 0.
    probability : [classes, n]; columns sum to one.

    Range: 0 to 1, lower is better. Biased upwards where bins hold few rows.
    Degenerate: nan for no rows.
    Source: Guo et al., arXiv 1706.04599, equation 3; 15 bins as there.
    """
    gap, place = _calibration(np.asarray(y), np.asarray(probability), bins)
    return calibration_of_bins(np.bincount(place, weights=gap, minlength=bins), len(gap))


def calibration_bins(
    confidence: ArrayLike, right: ArrayLike, *, bins: int = BINS
) -> NDArray[np.float64]:
    """Sums over the rows of each bin of ``right - confidence``, [bins]; sums of batches add up.

    Parameters
    ----------
    confidence : [n] probability of the answer given, above 0 and at most 1.
    right : [n] whether it is right.
    """
    confidence, right = np.asarray(confidence, np.float64), np.asarray(right)
    gap = (right - confidence).astype(np.float64)
    sums = np.zeros(bins)
    np.add.at(sums, _bin(confidence, bins), gap)
    return sums


def calibration_of_bins(sums: NDArray, n: int) -> float:
    """`calibration_error` of n rows from what `calibration_bins` gave.

    Range: 0 to 1, lower is better. Degenerate: nan for no rows.
    Source: Guo et al., arXiv 1706.04599, equation 3.
    """
    return float(np.abs(sums).sum() / n) if n else float("nan")


def _bin(confidence: NDArray, bins: int) -> NDArray:
    return (np.ceil(confidence * bins).astype(np.int64) - 1).clip(0, bins - 1)


def _calibration(y: NDArray, probability: NDArray, bins: int) -> tuple[NDArray, NDArray]:
    """Right less confidence [n], and the bin of each row [n]."""
    answer, confidence = probability.argmax(0), probability.max(0)
    return (answer == y) - confidence, _bin(confidence, bins)


def bootstrap_weights(ids: NDArray, *, draws: int, seed: int) -> NDArray:
    """How often each group is drawn, [draws, groups], when as many groups are drawn as there are.

    ``ids`` are the groups of the rows, 0 to g - 1.
    """
    g, rng = int(ids.max()) + 1, np.random.default_rng(seed)
    out = np.empty((draws, g), dtype=np.float32)
    for row in out:
        row[:] = np.bincount(rng.integers(0, g, g), minlength=g)
    return out


def hits_of_groups(right: NDArray, ids: NDArray) -> tuple[NDArray, NDArray]:
    """How many rows of each group are answered rightly at each of h places, and have an answer.

    Parameters
    ----------
    right : [h, n] whether each row is answered rightly.
    ids : [n] group of each row, 0 to g - 1.

    Returns
    -------
    tuple
        Hits [h, g] and sizes [g], in the smallest unsigned integers that hold the largest group.
    """
    sizes = np.bincount(ids)
    hits = np.stack([np.bincount(ids[row], minlength=len(sizes)) for row in right])
    small = np.min_scalar_type(int(sizes.max()))
    return hits.astype(small), sizes.astype(small)


def accuracy_in_draws(hits: NDArray, sizes: NDArray, weights: NDArray) -> NDArray:
    """Accuracy at each of h places in each draw of whole groups, [draws, h].

    ``hits`` [h, g] and ``sizes`` [g] are of `hits_of_groups`, ``weights`` [draws, g] of
    `bootstrap_weights`. Counts are whole numbers in float64, so a draw that takes every group once
    gives the accuracy itself.
    """
    counts = np.concatenate([hits, sizes[None]]).T.astype(np.float64)
    drawn = np.concatenate([part @ counts for part in _parts(weights, len(sizes))])
    return drawn[:, :-1] / drawn[:, -1:]


def weighted_interval(
    right: NDArray, ids: NDArray, weights: NDArray, level: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of the share of rows that are right, over draws of whole groups.

    Range: 0 to 1.
    Degenerate: with one group every draw is the data, and the interval is a point.
    """
    size = np.bincount(ids).astype(np.float64)
    hits = np.bincount(ids, weights=right.astype(np.float64))
    return _percentiles((weights @ hits) / (weights @ size), level)


def f1_interval(
    y: NDArray, predicted: NDArray, n_classes: int, ids: NDArray, weights: NDArray
) -> tuple[float, float]:
    """95 % percentile interval of `f1_score` over draws of whole groups."""
    scores = []
    for c in [1] if n_classes == 2 else range(n_classes):
        hit = weights @ np.bincount(ids, weights=((y == c) & (predicted == c)).astype(float))
        of = weights @ np.bincount(ids, weights=(y == c) * 1.0 + (predicted == c))
        scores.append(np.divide(2 * hit, of, out=np.full(len(of), np.nan), where=of > 0))
    return _percentiles(_mean(scores))


def area_interval(
    y: NDArray, scores: NDArray, fold: NDArray, ids: NDArray, weights: NDArray
) -> tuple[float, float]:
    """95 % percentile interval of `area_under_curve` over draws of whole groups."""
    rows = scores[None] if scores.ndim == 1 else scores
    first = 1 if scores.ndim == 1 else 0
    classes = []
    for c, score in enumerate(rows, start=first):
        within = []
        for k in np.unique(fold):
            here = np.flatnonzero(fold == k)
            here = here[np.argsort(score[here], kind="stable")]
            ties = np.flatnonzero(np.diff(score[here], prepend=-np.inf) != 0)
            within.append(_areas(y[here] == c, ties, ids[here], weights))
        classes.append(_mean(within))
    return _percentiles(_mean(classes))


def _areas(positive: NDArray, ties: NDArray, ids: NDArray, weights: NDArray) -> NDArray:
    """Areas [draws] of rows in rising order of score; ``ties`` are where a new score begins."""
    areas = []
    for part in _parts(weights, len(ids)):
        w = part[:, ids].astype(np.float64)
        p, q = w * positive, w * ~positive
        if len(ties) < len(ids):
            p, q = np.add.reduceat(p, ties, axis=1), np.add.reduceat(q, ties, axis=1)
        below = q.cumsum(1) - q / 2
        pairs = p.sum(1) * q.sum(1)
        won = (p * below).sum(1)
        areas.append(np.divide(won, pairs, out=np.full(len(w), np.nan), where=pairs > 0))
    return np.concatenate(areas)


def _parts(weights: NDArray, n: int) -> Iterator[NDArray]:
    """Draws in parts of which each row's weight fits in memory."""
    size = max(1, CHUNK // max(n, 1))
    for start in range(0, len(weights), size):
        yield weights[start : start + size]


def calibration_interval(
    y: NDArray, probability: NDArray, ids: NDArray, weights: NDArray
) -> tuple[float, float]:
    """95 % interval of `calibration_error` over draws of whole groups.

    A draw adds noise to each bin, and its absolute value only grows: the percentiles are moved
    back by the amount by which the draws' mean exceeds the value itself.
    """
    gap, place = _calibration(y, probability, BINS)
    groups = weights.shape[1]
    sums = np.bincount(ids * BINS + place, weights=gap, minlength=groups * BINS)
    draws = np.abs(weights @ sums.reshape(groups, BINS)).sum(1)
    draws = draws / (weights @ np.bincount(ids).astype(np.float64))
    value = np.abs(sums.reshape(groups, BINS).sum(0)).sum() / len(y)
    low, high = _percentiles(draws - (draws.mean() - value))
    return min(max(0.0, low), value), max(high, value)


def _mean(rows: list[NDArray]) -> NDArray:
    """Mean over the rows of what is defined; nan where nothing is."""
    stack = np.stack(rows)
    count = np.isfinite(stack).sum(0)
    total = np.where(np.isfinite(stack), stack, 0.0).sum(0)
    return np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)


def _percentiles(draws: NDArray, level: float = 0.95) -> tuple[float, float]:
    """The middle ``level`` of the draws that are defined; nan where none is."""
    draws = draws[np.isfinite(draws)]
    if not len(draws):
        return float("nan"), float("nan")
    tail = (1 - level) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return float(low), float(high)
