"""Groups of points: k-means or HDBSCAN, k given or chosen by the silhouette."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import pdist, squareform
from threadpoolctl import threadpool_limits

from interp.errors import DataError, ParameterError

__all__ = ["CLUSTERS", "Groups", "group", "k_means", "silhouette_of"]

CLUSTERS = ("kmeans", "hdbscan")
STARTS = 10
STEPS = 100
"""Of Lloyd's, at most, from each start."""
SMALLEST = 0.02
"""Share of the rows that a group of HDBSCAN has at least (and 5 rows)."""


@dataclass(frozen=True)
class Groups:
    """A group a row, numbered from 0, the largest first; -1 for HDBSCAN's noise.

    ``tried`` is the silhouette of each k that was tried.
    """

    labels: NDArray
    tried: dict[int, float] = field(default_factory=dict)

    @property
    def k(self) -> int:
        """How many groups there are."""
        return int(self.labels.max(initial=-1)) + 1


def group(
    points: ArrayLike, how: str = "kmeans", *, k: int | None, ks: Sequence[int], seed: int = 0
) -> Groups:
    """The groups of points in the space where they lie.

    Parameters
    ----------
    points : [n, d] finite.
    how : ``kmeans``, or ``hdbscan``, which finds its number of groups and leaves noise out.
    k : of k-means; None takes that of ``ks`` with the greatest silhouette.
    ks : what is tried without a k.
    seed : of k-means.

    Raises
    ------
    DataError
        There are fewer rows than groups.
    """
    Z = np.asarray(points, dtype=np.float64)
    if how not in CLUSTERS:
        raise ParameterError(f"cluster must be one of {', '.join(CLUSTERS)}; got {how!r}.")
    if k is not None and not 1 <= k <= len(Z):
        raise DataError(
            f"{k} facets need at least so many inputs that fire the unit; there are {len(Z)}."
        )
    if how == "hdbscan":
        return Groups(_by_size(_hdbscan(Z)))
    if k is not None:
        return Groups(_by_size(k_means(Z, k, seed=seed)[0]))
    apart = squareform(pdist(Z))
    found = {i: k_means(Z, i, seed=seed)[0] for i in ks if 2 <= i < len(Z)}
    tried = {i: silhouette_of(apart, labels) for i, labels in found.items()}
    known = {i: v for i, v in tried.items() if v == v}
    if not known:
        return Groups(np.zeros(len(Z), dtype=np.int64), tried)
    return Groups(_by_size(found[max(known, key=lambda i: known[i])]), tried)


def k_means(
    points: NDArray, k: int, *, seed: int = 0, starts: int = STARTS
) -> tuple[NDArray, NDArray]:
    """Labels [n] and centres [k, d] of the best of some starts: k-means++, then Lloyd's steps.

    Differs: scikit-learn's does the same, in several times the time where there are few rows.
    """
    rng = np.random.default_rng(seed)
    norms = (points**2).sum(1)
    best: tuple[float, NDArray, NDArray] | None = None
    for _ in range(starts):
        centres = _spread(points, norms, k, rng)
        labels = np.full(len(points), -1)
        for _ in range(STEPS):
            gaps = norms[:, None] - 2 * points @ centres.T + (centres**2).sum(1)
            new = gaps.argmin(1)
            if (new == labels).all():
                break
            labels = new
            member = np.eye(k)[labels]
            counts = member.sum(0)
            held = counts > 0  # an empty group keeps its centre
            centres[held] = (member.T @ points)[held] / counts[held, None]
        cost = float(((points - centres[labels]) ** 2).sum())
        if best is None or cost < best[0]:
            best = cost, labels.astype(np.int64), centres
    assert best is not None  # noqa: S101  there is at least one start
    return best[1], best[2]


def _spread(points: NDArray, norms: NDArray, k: int, rng: np.random.Generator) -> NDArray:
    """First centres: rows drawn with the square of their distance to those before (k-means++)."""
    chosen = [int(rng.integers(len(points)))]
    gap = np.full(len(points), np.inf)
    for _ in range(k - 1):
        last = points[chosen[-1]]
        gap = np.minimum(gap, np.maximum(norms - 2 * points @ last + last @ last, 0))
        total = gap.sum()
        drawn = rng.random() * total
        at = (
            int(np.searchsorted(np.cumsum(gap), drawn))
            if total > 0
            else int(rng.integers(len(gap)))
        )
        chosen.append(min(at, len(points) - 1))
    return points[chosen].copy()


def silhouette_of(apart: NDArray, labels: NDArray) -> float:
    """Mean silhouette from distances [n, n]; rows labelled -1 are left out.

    Range: -1 to 1, higher is better. Degenerate: nan for one group, or as many as rows.
    Source: Rousseeuw 1987; `probes.clusters.silhouette` has the same value from the rows.
    """
    values = silhouettes(apart, labels)
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def silhouettes(apart: NDArray, labels: NDArray) -> NDArray:
    """The silhouette of each row, nan where its label is -1 or there is no second group."""
    kept = labels >= 0
    names, place = np.unique(labels[kept], return_inverse=True)
    out = np.full(len(labels), np.nan)
    n = int(kept.sum())
    if not 2 <= len(names) < n:
        return out
    member = np.eye(len(names))[place]  # [n, groups]
    counts = member.sum(0)
    sums = apart[np.ix_(kept, kept)] @ member
    mine = np.arange(n), place
    a = sums[mine] / np.maximum(counts[place] - 1, 1)
    sums = sums / counts
    sums[mine] = np.inf
    b = sums.min(1)
    most = np.maximum(a, b)
    value = np.divide(b - a, most, out=np.zeros(n), where=most > 0)
    value[counts[place] == 1] = 0.0
    out[kept] = value
    return out


def _hdbscan(Z: NDArray) -> NDArray:
    from sklearn.cluster import HDBSCAN

    smallest = max(5, int(SMALLEST * len(Z)))
    if len(Z) < smallest:
        return np.zeros(len(Z), dtype=np.int64)
    with threadpool_limits(1):
        labels = HDBSCAN(min_cluster_size=smallest, copy=cast(Any, True)).fit_predict(Z)
    if (labels < 0).all():  # no part is denser than the rest: one group
        return np.zeros(len(Z), dtype=np.int64)
    return labels.astype(np.int64)


def _by_size(labels: NDArray) -> NDArray:
    """The same groups numbered by their size, the largest first; -1 stays."""
    names, counts = np.unique(labels[labels >= 0], return_counts=True)
    order = np.argsort(-counts, kind="stable")
    new = np.full(int(labels.max(initial=-1)) + 1, -1, dtype=np.int64)
    new[names[order]] = np.arange(len(names))
    return np.where(labels >= 0, new[labels], -1)
