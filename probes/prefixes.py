"""How much the first dimensions of a representation say by themselves: accuracy by prefix length.

A nested (Matryoshka) representation puts what matters first. Two controls tell that from a
representation that is merely redundant: the same curve over principal components, the best linear
order for keeping variance, and over random orders of the dimensions.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from interp.errors import DataError, ParameterError
from probes.measured import Curve, class_codes, float_rows, unusable
from probes.spectrum import eigen
from probes.splits import grouped_folds

__all__ = ["prefix_curve"]

ROWS = 4000
ORDERS = 3
"""Random orders whose mean is the control."""
FOLDS = 4
"""One of these is held out."""
RIDGE = 0.01
"""Strength of the probe's penalty, relative to the mean variance of a dimension."""


def prefix_curve(
    X: Any,
    labels: ArrayLike,
    *,
    groups: NDArray | None = None,
    lengths: NDArray | None = None,
    rows: int | None = ROWS,
    seed: int = 0,
) -> Curve:
    """Held-out accuracy of a linear probe and of the nearest neighbour on the first m dimensions.

    The probe is ridge regression on the classes: one Cholesky factor holds the solution for every
    prefix, so the curve costs as much as its last point. Three quarters of the rows are learned
    from, and are the neighbours; the accuracy is on the other quarter.

    Parameters
    ----------
    X : [n, d] array, tensor, or matrix of a store.
    labels : [n] classes.
    groups : [n] rows of a group stay on one side of the split.
    lengths : rising, 1 to d; by default the powers of two, and d.
    rows : most rows that are used, drawn by the seed; None for all.
    seed : of the draw, the split and the random orders.

    Returns
    -------
    Curve
        x: the lengths; ``probe`` and ``neighbour``, each with ``…, PCA`` (components of the rows
        learned from) and ``…, permuted`` (mean over three orders), and ``majority``.

    Range: 0 to 1, higher is better. At length d all orders agree: neither method sees a rotation.
    The curve itself depends on the order of dimensions, its controls do not; both methods depend on
    the scale of single dimensions, and not on translation.
    Degenerate: no curve and the reason for one class, a class of one row, rows that
    are not finite or are one point.
    Cost: an eigendecomposition [d, d], and products of 4,000 rows (12 s at d = 2,048).
    Source: Kusupati et al. 2022 (2205.13147).
    Differs: one fixed ridge probe in place of a head a length, so that no length is tuned.

    Raises
    ------
    ParameterError
        The lengths are no rising numbers from 1 to d.
    """
    X = float_rows(X)
    y = class_codes(labels, len(X))
    lengths = _lengths(X.shape[1]) if lengths is None else np.asarray(lengths)
    if not len(lengths) or (np.diff(lengths) <= 0).any() or not 0 < lengths[0] <= lengths[-1] <= (
        X.shape[1]
    ):  # fmt: skip
        raise ParameterError(f"lengths must rise from 1 to {X.shape[1]} at most; got {lengths}.")
    if rows is not None and len(X) > rows:
        kept = np.sort(np.random.default_rng(seed).permutation(len(X))[:rows])
        X, y = X[torch.from_numpy(kept)], np.unique(y[kept], return_inverse=True)[1]
        groups = None if groups is None else groups[kept]
    why, fold = unusable(X), np.zeros(0)
    why = "there is one class only; two are needed." if why is None and not y.any() else why
    try:
        fold = fold if why else grouped_folds(y, groups, folds=FOLDS, seed=seed)
    except DataError as error:
        why = str(error)
    if why is not None:
        return Curve(np.zeros(0), {}, why)
    train, test = torch.from_numpy(fold != 0), torch.from_numpy(fold == 0)
    why = unusable(X[train])
    if why is not None:
        return Curve(np.zeros(0), {}, f"among the rows to learn from, {why}")
    centred = X - X[train].mean(0)
    known, asked = torch.from_numpy(y[fold != 0]), torch.from_numpy(y[fold == 0])
    made = [
        _accuracies(centred[train] @ V, centred[test] @ V, known, asked, lengths.tolist())
        if V.ndim == 2
        else _accuracies(centred[train][:, V], centred[test][:, V], known, asked, lengths.tolist())
        for V in _orders(centred[train], seed)
    ]
    lines = {}
    for i, name in enumerate(("probe", "neighbour")):
        lines[name], lines[f"{name}, PCA"] = made[0][i], made[1][i]
        lines[f"{name}, permuted"] = np.mean([m[i] for m in made[2:]], axis=0)
    most = torch.bincount(known).argmax()
    lines["majority"] = np.full(len(lengths), float((asked == most).double().mean()))
    return Curve(lengths, lines)


def _lengths(d: int) -> NDArray:
    """1, 2, 4, … and d."""
    return np.unique(np.append(2 ** np.arange(int(np.log2(d)) + 1), d))


def _orders(train: Tensor, seed: int) -> Iterator[Tensor]:
    """The dimensions as they are, their principal directions [d, d], and random orders."""
    d = train.shape[1]
    yield torch.arange(d)
    yield eigen(train.T @ train)[1].flip(1)
    draw = np.random.default_rng(seed)
    for _ in range(ORDERS):
        yield torch.from_numpy(draw.permutation(d))


def _accuracies(
    train: Tensor, test: Tensor, y: Tensor, asked: Tensor, lengths: list[int]
) -> tuple[NDArray, NDArray]:
    """Held-out accuracy of the probe and of the nearest neighbour at each length."""
    target = torch.nn.functional.one_hot(y).to(train.dtype)
    mean = target.mean(0)
    gram = train.T @ train
    strength = RIDGE * float(gram.diagonal().mean())
    L = torch.linalg.cholesky(gram + strength * torch.eye(len(gram), dtype=gram.dtype))
    # The factor of a leading block is the leading block of the factor, and so is this solution.
    half = torch.linalg.solve_triangular(L, train.T @ (target - mean), upper=False)
    D = torch.zeros(len(test), len(train), dtype=train.dtype)
    probe, neighbour = [], []
    for start, m in zip([0, *lengths], lengths, strict=False):
        W = torch.linalg.solve_triangular(L[:m, :m].T, half[:m], upper=True)
        probe.append(float(((test[:, :m] @ W + mean).argmax(1) == asked).double().mean()))
        a, b = test[:, start:m], train[:, start:m]
        D += a.square().sum(1)[:, None] + b.square().sum(1)[None] - 2 * (a @ b.T)
        neighbour.append(float((y[D.argmin(1)] == asked).double().mean()))
    return np.array(probe), np.array(neighbour)
