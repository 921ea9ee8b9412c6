"""Relative representations: a row by its likeness to anchors, so that two spaces can be compared.

Two encoders of the same things may agree up to a rotation and a scale, which no coordinate shows.
Described by their cosines with the same anchor rows, they become one space.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from interp.errors import DataError, ParameterError, ShapeError
from probes.kernels import cka
from probes.linear import LinearProbe
from probes.measured import Measured, class_codes, float_rows, paired_rows, unusable
from probes.splits import grouped_folds

__all__ = ["relative", "relative_similarity", "stitching"]

ANCHORS = 300
NEIGHBOURS = 5
FOLDS = 4
BLOCK = 1024


def relative(X: Any, anchors: Any, *, centre: bool = False) -> Tensor:
    """Cosines [n, a] of rows with anchors.

    Parameters
    ----------
    X : [n, d] rows.
    anchors : [a, d] rows of the same space.
    centre : take the anchors' mean from both first, which the paper does not.

    Range: -1 to 1. Unchanged by rotation and scale of the space; unchanged by translation only with
    ``centre``. A row, or an anchor, of length zero gives nan.
    Source: Moschella et al. 2023 (2209.15430), equation 1.

    Raises
    ------
    ShapeError
        The widths differ.
    """
    X, A = float_rows(X), float_rows(anchors)
    if X.shape[1] != A.shape[1]:
        raise ShapeError(f"rows and anchors have one width; got {X.shape[1]} and {A.shape[1]}.")
    if centre:
        X, A = X - A.mean(0), A - A.mean(0)
    return _unit(X) @ _unit(A).T


def relative_similarity(
    X: Any,
    Y: Any,
    *,
    anchors: int | ArrayLike = ANCHORS,
    k: int = NEIGHBOURS,
    centre: bool = False,
    seed: int = 0,
) -> Measured:
    """How alike two spaces of the same rows are once both are relative to the same anchors.

    Parameters
    ----------
    X, Y : [n, p] and [n, q], the same rows.
    anchors : how many rows are drawn, or which rows.
    k : neighbours that are compared.
    centre : as of `relative`.
    seed : of the draw.

    Returns
    -------
    Measured
        The mean reciprocal rank, among all rows of Y, of the row that a row of X asks for; 0 beyond
        the k-th. Its parts: ``jaccard``, the overlap of the k rows of Y nearest to a row of X with
        those nearest to the same row of Y; ``cosine``, of the two codes of a row; ``cka`` of the
        codes; and where the widths are equal ``absolute_mrr``, ``absolute_jaccard`` and
        ``absolute_cosine``, the same without anchors.

    Range: all but CKA -1 or 0 to 1, higher is more alike. 1 for spaces that differ by a rotation
    and a scale; about k / n for unrelated ones. Not unchanged by translation, unless ``centre``.
    Fewer anchors than dimensions lose some of the space.
    Degenerate: nan with the reason for rows that are not finite, are one point, or have length 0.
    Cost: n^2 a products in float32, a block at a time, and n^2 d where the widths are equal: 13 s
    at n = 10,000, d = 2,048.
    Source: Moschella et al. 2023 (2209.15430), section 4.1.

    Raises
    ------
    ShapeError, ParameterError
        The rows differ in number; anchors or k are outside 1 to n.
    """
    X, Y = paired_rows(X, Y)
    n = len(X)
    at = _choose(anchors, n, seed)
    if not 1 <= k <= max(n, 1):
        raise ParameterError(f"k of relative_similarity must be in [1, {n}]; got {k}.")
    why = _why_not(X, at, centre) or _why_not(Y, at, centre)
    if why is not None:
        return Measured(0, why)
    a, b = (relative(Z, Z[at], centre=centre) for Z in (X, Y))
    mrr, jaccard, cosine = _search(a, b, k)
    parts = {"jaccard": jaccard, "cosine": cosine, "cka": float(cka(a, b))}
    if X.shape[1] == Y.shape[1]:
        names = ("absolute_mrr", "absolute_jaccard", "absolute_cosine")
        parts |= dict(zip(names, _search(X, Y, k), strict=True))
    return Measured(mrr, None, **parts)


def stitching(
    X: Any,
    Y: Any,
    labels: ArrayLike,
    *,
    groups: NDArray | None = None,
    anchors: int = ANCHORS,
    centre: bool = False,
    seed: int = 0,
) -> Measured:
    """Zero-shot stitching: does a probe that learned one space's relative codes read the other's?

    A ridge probe learns from three quarters of the rows, less the anchors, which are drawn from
    them, and answers the rest. An anchor is nearest to itself in any space: a probe that learned
    from it would know which anchor is of which class, and so read a good space having learned from
    one without meaning.

    Parameters
    ----------
    X, Y : [n, p] and [n, q], the same rows.
    labels : [n] classes.
    groups : [n] rows of a group stay on one side of the split.
    anchors : how many are drawn, at most half of the rows to learn from.
    centre, seed : as of `relative_similarity`.

    Returns
    -------
    Measured
        The accuracy across, mean of both ways. Its parts: ``x_to_y`` and ``y_to_x`` (learned on,
        answered on), ``x`` and ``y`` unstitched, ``majority``, and where widths are equal
        ``absolute_x_to_y`` and ``absolute_y_to_x``, without anchors.

    Range: 0 to 1, higher is better; to be held against ``x``, ``y`` and ``majority``.
    Degenerate: nan with the reason as for `relative_similarity`, for one class, and for a class of
    one row.
    Cost: two probes of as many dimensions as there are anchors, and two of d where the widths are
    equal: 16 s at n = 10,000, d = 2,048.
    Source: Moschella et al. 2023 (2209.15430), section 5.
    """
    X, Y = paired_rows(X, Y)
    y = class_codes(labels, len(X))
    why = "there is one class only; two are needed." if len(np.unique(y)) < 2 else None
    try:
        fold = None if why else grouped_folds(y, groups, folds=FOLDS, seed=seed)
    except DataError as error:
        why, fold = str(error), None
    if fold is None:
        return Measured(0, why)
    learned, asked = np.flatnonzero(fold != 0), np.flatnonzero(fold == 0)
    at = learned[_choose(min(anchors, len(learned) // 2), len(learned), seed)]
    learned = np.setdiff1d(learned, at)
    why = _why_not(X, at, centre) or _why_not(Y, at, centre)
    if why is None and len(np.unique(y[learned])) < len(np.unique(y)):
        why = "the anchors leave a class without rows to learn from."
    if why is not None:
        return Measured(0, why)
    codes = {name: relative(Z, Z[at], centre=centre) for name, Z in (("x", X), ("y", Y))}
    parts = _across(codes, y, learned, asked)
    if X.shape[1] == Y.shape[1]:
        found = _across({"x": X, "y": Y}, y, learned, asked)
        parts |= {f"absolute_{k}": v for k, v in found.items() if "_to_" in k}
    most = np.bincount(y[learned]).argmax()
    parts["majority"] = float((y[asked] == most).mean())
    return Measured((parts["x_to_y"] + parts["y_to_x"]) / 2, None, **parts)


def _across(
    codes: dict[str, Tensor], y: NDArray, learned: NDArray, asked: NDArray
) -> dict[str, float]:
    """Accuracy of a probe of each space on each space."""
    found = {}
    for a, rows in codes.items():
        probe = LinearProbe(kind="ridge").fit(rows[learned].numpy(), y[learned])
        for b, others in codes.items():
            right = probe.predict(others[asked].numpy()) == y[asked]
            found[a if a == b else f"{a}_to_{b}"] = float(right.mean())
    return found


def _search(a: Tensor, b: Tensor, k: int) -> tuple[float, float, float]:
    """Mean reciprocal rank and Jaccard of the k nearest by cosine, and the mean cosine."""
    a, b = _unit(a), _unit(b)
    cosine = float((a * b).sum(1).mean())
    a, b = a.float(), b.float()  # which rows are nearest needs no more digits
    ranks, overlap = 0.0, 0.0
    for start in range(0, len(a), BLOCK):
        rows = torch.arange(start, min(start + BLOCK, len(a)), device=a.device)
        mine = (a[rows] @ b.T).topk(k, dim=1).indices
        own = (b[rows] @ b.T).topk(k, dim=1).indices
        hit = mine == rows[:, None]
        ranks += float((hit.double() / torch.arange(1, k + 1, device=a.device)).sum())
        shared = (mine[:, :, None] == own[:, None]).any(2).sum(1).double()
        overlap += float((shared / (2 * k - shared)).sum())
    return ranks / len(a), overlap / len(a), cosine


def _choose(anchors: int | ArrayLike, n: int, seed: int) -> NDArray:
    if isinstance(anchors, int | np.integer):
        if anchors < 1:
            raise ParameterError(f"anchors must be at least 1; got {anchors}.")
        return np.sort(np.random.default_rng(seed).permutation(n)[: int(anchors)])
    at = np.asarray(anchors)
    if at.ndim != 1 or not len(at) or at.min() < 0 or at.max() >= n:
        raise ParameterError(f"anchors must be a number, or rows in [0, {n - 1}]; got {at}.")
    return at


def _unit(X: Tensor) -> Tensor:
    return X / X.norm(dim=1, keepdim=True)


def _why_not(X: Tensor, anchors: NDArray, centre: bool) -> str | None:
    why = unusable(X)
    if why is None:
        moved = X - X[anchors].mean(0) if centre else X
        zero = int((moved.norm(dim=1) == 0).sum())
        why = f"{zero:,} rows have length 0, and no direction." if zero else None
    return why
