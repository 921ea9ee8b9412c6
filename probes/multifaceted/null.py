"""Is there more than one facet at all? Two tests that one lump of codes passes.

`gaussian_null` is the comparison with shuffled codes: does k-means find tighter groups than in a
Gaussian of the same covariance? Columns permuted on their own, the other way to shuffle, are no
null here: permuted units lose their correlation, so one long lump beats them; permuted principal
components keep the two peaks of two facets, so two facets do not. A lump that is no Gaussian
(skewed, heavy-tailed) beats the Gaussian too, though; so `valley` asks of rows that did not make
the groups whether fewer lie between two of them than within either, which no single-peaked lump
has, whatever its shape.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import pdist, squareform
from scipy.stats import binom

from probes.multifaceted.grouping import k_means, silhouette_of

__all__ = ["GaussianNull", "gaussian_null", "valley"]

MOST = 300
"""Rows of the Gaussian comparison; of more a sample is taken."""
SPLITS = 5
WINDOW = 0.2
"""Half the width of the three windows of `valley`, in distances of the two centroids; below .25, so
that they do not touch."""


@dataclass(frozen=True)
class GaussianNull:
    """Silhouettes of the best k-means grouping: of the codes, and of Gaussians like them.

    ``p`` is the share of draws, the codes counted as one, that reach ``found``.
    """

    found: float
    drawn: NDArray
    p: float


def gaussian_null(
    codes: ArrayLike, ks: Sequence[int], *, draws: int = 99, seed: int = 0
) -> GaussianNull:
    """Best silhouette over ``ks`` of k-means, against Gaussians with the codes' covariance.

    Parameters
    ----------
    codes : [n, d] finite.
    ks : numbers of groups that are tried, of the codes and of each draw alike.
    draws : Gaussians.
    seed : of the sample (at most 300 rows), the draws and k-means.

    Range: p from 1 / (draws + 1) to 1, low where one Gaussian does not explain the codes.
    Degenerate: nan where the codes are constant or no k is below the number of rows.
    Source: the idea of Liu et al. 2008 (SigClust), with the silhouette as its statistic.
    """
    rng = np.random.default_rng(seed)
    Z = np.asarray(codes, dtype=np.float64)
    if len(Z) > MOST:
        Z = Z[np.sort(rng.choice(len(Z), MOST, replace=False))]
    tried = [k for k in ks if 2 <= k < len(Z)]
    centred = Z - Z.mean(0) if len(Z) else Z
    scale = float(np.abs(Z).max(initial=0.0))
    if not tried or np.abs(centred).max() <= 1e-9 * scale:
        return GaussianNull(float("nan"), np.full(0, np.nan), float("nan"))
    _, s, axes = np.linalg.svd(centred, full_matrices=False)
    spread = s[:, None] * axes / np.sqrt(len(Z) - 1)  # rows: principal axes, as long as their sd
    found = _best(centred, tried, seed)
    drawn = np.array(
        [_best(rng.standard_normal((len(Z), len(s))) @ spread, tried, seed) for _ in range(draws)]
    )
    return GaussianNull(found, drawn, (1 + int((drawn >= found).sum())) / (draws + 1))


def _best(Z: NDArray, ks: Sequence[int], seed: int) -> float:
    apart = squareform(pdist(Z))
    return max(silhouette_of(apart, k_means(Z, k, seed=seed, starts=1)[0]) for k in ks)


def valley(codes: ArrayLike, k: int, *, seed: int = 0) -> float:
    """The p value of "no two of k groups have a valley between them".

    Half of the rows make k groups by k-means. The other half, of two groups at a time, is projected
    on the line between their centroids (at 0 and 1). A density with one peak has in a window around
    the middle at least what the emptier of two like windows around the ends has: what lies between
    an end and the peak rises, what lies beyond falls. So the count in the middle is at least a fair
    coin's share of it and that end's. Groups with a third between them are no pair. Holm's
    first step over the pairs; twice the median over 5 splits (Meinshausen et al. 2009).

    Parameters
    ----------
    codes : [n, d] finite.
    k : groups, at least 2.
    seed : of the splits and k-means.

    Range: 0 to 1, low where there is a valley. It is conservative: rarely below .05 under one lump.
    Degenerate: nan for fewer than 4 k rows.
    """
    Z = np.asarray(codes, dtype=np.float64)
    if k < 2 or len(Z) < 4 * k:
        return float("nan")
    rng = np.random.default_rng(seed)
    found = [_split(Z, k, rng, seed) for _ in range(SPLITS)]
    return min(1.0, 2 * float(np.median(found)))


def _split(Z: NDArray, k: int, rng: np.random.Generator, seed: int) -> float:
    order = rng.permutation(len(Z))
    make, test = Z[order[: len(Z) // 2]], Z[order[len(Z) // 2 :]]
    centres = k_means(make, k, seed=seed, starts=2)[1]
    label = ((test[:, None] - centres[None]) ** 2).sum(2).argmin(1)
    least, pairs = 1.0, 0
    for i in range(k):
        for j in range(i):
            middle = (centres[i] + centres[j]) / 2
            nearest = ((centres - middle) ** 2).sum(1)
            if nearest.argmin() not in (i, j):
                continue
            pairs += 1
            line = centres[j] - centres[i]
            along = (test[(label == i) | (label == j)] - centres[i]) @ line
            along = along / max(float(line @ line), np.finfo(float).tiny)
            first, between, last = (
                int((np.abs(along - at) < WINDOW).sum()) for at in (0.0, 0.5, 1.0)
            )
            side = min(first, last)
            if side > between:
                least = min(least, float(binom.cdf(between, between + side, 0.5)))
    return min(1.0, least * pairs)
