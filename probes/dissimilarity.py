"""Representational similarity analysis: do two representations order the pairs of rows alike?"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor

from interp.errors import ParameterError
from probes.measured import Measured, Unit, float_rows, paired_rows, unusable

__all__ = ["dissimilarities", "rank_unit", "rsa"]

DISTANCES = ("euclidean", "correlation")
ROWS = 2000
"""Rows that are compared by default: two million pairs."""
DIGITS = 10
"""Digits of a squared distance, relative to the largest, that ranks see: the rest is rounding."""


def rsa(
    X: Any, Y: Any, *, distance: str = "euclidean", rows: int | None = ROWS, seed: int = 0
) -> Measured:
    """Spearman's correlation of the distances between all pairs of rows, ties at their mean rank.

    Parameters
    ----------
    X, Y : [n, p] and [n, q], the same rows: arrays, tensors, or matrices of a store.
    distance : ``"euclidean"``, or ``"correlation"``, 1 less the correlation of two rows.
    rows : most rows that are compared, drawn by the seed; None for all.
    seed : of the draw.

    Range: -1 to 1, higher is more alike; about 0 for independent ones. Unchanged by rotation, scale
    and shift under ``"euclidean"``, and by any rule that keeps the order of distances; under
    ``"correlation"`` by scale and shift of each row, not by rotation.
    Degenerate: nan with the reason for fewer than three rows, rows that are not finite or are one
    point, equal distances of all pairs, and under ``"correlation"`` a row that is constant.
    Cost: n^2 / 2 distances are ranked: all rows at n = 10,000 would take 2 GB and half a minute,
    which is why 2,000 are drawn; the error that this adds is below .01.
    Source: Kriegeskorte et al. 2008.
    """
    X, Y = paired_rows(X, Y)
    if rows is not None and len(X) > rows:
        kept = np.sort(np.random.default_rng(seed).permutation(len(X))[:rows])
        at = torch.from_numpy(kept)
        X, Y = X[at], Y[at]
    a, b = rank_unit(X, distance=distance), rank_unit(Y, distance=distance)
    if a.vector is None or b.vector is None:
        return Measured(0, a.reason or b.reason)
    return Measured(float(a.vector @ b.vector))


def rank_unit(X: Any, *, distance: str = "euclidean") -> Unit:
    """The ranks of the distances as a vector of unit length: products of two are their `rsa`."""
    X = float_rows(X)
    why = unusable(X, 3)
    if why is None and distance == "correlation" and _flat(X):
        why = f"{_flat(X):,} rows are constant, so they correlate with nothing."
    if why is not None:
        return Unit(None, why)
    ranks = rankdata(dissimilarities(X, distance=distance))
    ranks -= ranks.mean()
    size = float(np.linalg.norm(ranks))
    if size == 0:
        return Unit(None, "all pairs of rows are equally far apart.")
    return Unit(ranks / size)


def dissimilarities(X: Any, *, distance: str = "euclidean") -> NDArray:
    """Distances of all pairs of rows, [n (n - 1) / 2], row by row: squared where euclidean.

    They are rounded to ten digits of the largest, so that pairs that are equally far are so in
    numbers too.

    Raises
    ------
    ParameterError
        No such distance.
    """
    if distance not in DISTANCES:
        raise ParameterError(f"distance must be one of {', '.join(DISTANCES)}; got {distance!r}.")
    X = float_rows(X)
    if distance == "correlation":
        X = X - X.mean(1, keepdim=True)
        X = X / X.norm(dim=1, keepdim=True)
        D = 1 - X @ X.T
    else:
        X = X - X.mean(0)
        squares = X.square().sum(1)
        D = (squares[:, None] + squares[None] - 2 * (X @ X.T)).clamp_(min=0)
    upper = torch.triu_indices(len(X), len(X), 1, device=X.device)
    found = D[upper[0], upper[1]].cpu().numpy()
    largest = np.abs(found).max(initial=0.0)
    return np.round(found / largest, DIGITS) * largest if largest > 0 else found


def _flat(X: Tensor) -> int:
    spread = (X - X.mean(1, keepdim=True)).abs().amax(1)
    return int((spread <= 1e-12 * X.abs().amax(1)).sum())
