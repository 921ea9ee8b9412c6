"""How well labelled classes stand apart, dimension by dimension on one scale: the GDV."""

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from probes.distances import distances
from probes.measured import EQUAL, Measured, class_codes, float_rows, unusable

__all__ = ["gdv"]


def gdv(X: Any, y: ArrayLike) -> Measured:
    """``(mean_c intra_c - mean_{c<c'} inter_cc') / sqrt(d)`` of rows scaled to ``(x - m) / 2s``.

    m and s are the mean and the population deviation of each dimension over all rows; intra_c is
    the mean distance of two different rows of a class, inter_cc' of a row of each. Every class and
    every pair of classes weighs the same, however many rows it has.

    Parameters
    ----------
    X : [n, d] array, tensor, or matrix of a store.
    y : [n] classes: whole numbers, bools or texts.

    Returns
    -------
    Measured
        The value; its parts are ``intra`` and ``inter`` (both over sqrt(d)), ``live``, the
        dimensions that are not constant, ``over_live``, the value if only those were there, and
        ``skipped``, classes of one row, which are left out.

    Range: lower is better separated, 0 is no structure. Two balanced classes of one point each give
    -1, and nothing else has -1 for its end: K balanced classes at the corners of a simplex give
    ``-sqrt(K / (2 (K - 1)))``, unequal classes can go below -1. So compare layers on the same rows
    only. A constant dimension dilutes it: the value times ``sqrt(d / live)`` is ``over_live``.
    Unchanged by translation, by the scale of each dimension and by their order; not by rotation.
    Degenerate: nan with the reason for fewer than two classes of two rows, rows that are one point
    and rows that are not finite.
    Cost: all pairs of rows in float64, a block at a time: 2 * 10^11 products at n = 10,000 and
    d = 2,048.
    Source: Schilling et al. 2021; 2302.07588.
    Differs: no; ``live`` and ``over_live`` are added.
    """
    X = float_rows(X)
    classes = class_codes(y, len(X))
    counts = np.bincount(classes)
    kept = np.flatnonzero(counts >= 2)
    why = unusable(X)
    if why is None and len(kept) < 2:
        why = f"{len(kept)} of {len(counts)} classes have two rows or more; two are needed."
    if why is not None:
        return Measured(0, why)
    Z, live = _scaled(X)
    some = np.isin(classes, kept)
    if not some.all():
        Z, classes = Z[torch.from_numpy(some)], np.searchsorted(kept, classes[some])
    intra, inter = (v / np.sqrt(X.shape[1]) for v in _means(Z, classes, counts[kept]))
    value = intra - inter
    return Measured(
        value,
        intra=intra,
        inter=inter,
        live=live,
        over_live=value * np.sqrt(X.shape[1] / live),
        skipped=len(counts) - len(kept),
    )


def _scaled(X: Tensor) -> tuple[Tensor, int]:
    """Rows as (x - m) / 2s, 0 in constant dimensions, and how many are not constant."""
    centred = X - X.mean(0)
    deviation = centred.square().mean(0).sqrt()
    live = deviation > EQUAL * X.abs().amax(0)
    return torch.where(live, centred / (2 * deviation), 0), int(live.sum())


def _means(Z: Tensor, y: NDArray, counts: NDArray) -> tuple[float, float]:
    """The mean over classes of intra, and over pairs of classes of inter."""
    sums = distances(Z, y).sums.cpu().numpy()  # [n, c] of each row to each class
    between = np.stack([sums[y == c].sum(0) for c in range(len(counts))])
    intra = np.diag(between) / (counts * (counts - 1))
    inter = between / np.outer(counts, counts)
    return float(intra.mean()), float(inter[np.triu_indices(len(counts), 1)].mean())
