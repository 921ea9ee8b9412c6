"""Scores of held-out answers, and bootstrap intervals for them."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

__all__ = ["area_under_curve", "bootstrap_weights", "f1_score", "weighted_interval"]


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


def bootstrap_weights(ids: NDArray, *, draws: int, seed: int) -> NDArray:
    """How often each group is drawn, [draws, groups], when as many groups are drawn as there are.

    ``ids`` are the groups of the rows, 0 to g - 1.
    """
    g, rng = int(ids.max()) + 1, np.random.default_rng(seed)
    out = np.empty((draws, g), dtype=np.float32)
    for row in out:
        row[:] = np.bincount(rng.integers(0, g, g), minlength=g)
    return out


def weighted_interval(
    right: NDArray, ids: NDArray, weights: NDArray, level: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of the share of rows that are right, over draws of whole groups.

    Range: 0 to 1.
    Degenerate: with one group every draw is the data, and the interval is a point.
    """
    size = np.bincount(ids).astype(np.float64)
    hits = np.bincount(ids, weights=right.astype(np.float64))
    share = (weights @ hits) / (weights @ size)
    tail = (1 - level) / 2
    low, high = np.quantile(share, [tail, 1 - tail])
    return float(low), float(high)
