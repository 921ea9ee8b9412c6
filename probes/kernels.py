"""Centred kernel alignment of two representations of the same rows (CKA), with linear kernels.

Notation: K = X X' and L = Y Y' are the rows' products; HSIC is the covariance of the two. The
biased estimate takes the means out of K and L and sums their product; it counts each row's product
with itself, so that independent noise looks alike where d is not far below n. The unbiased one
leaves the diagonal out.
"""

from typing import Any, Self

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from interp.errors import ParameterError
from probes.measured import EQUAL, Measured, Unit, class_codes, paired_rows, unusable

__all__ = ["KernelSums", "cka", "kernel_unit", "one_hot"]

BLOCK = 4096
FEWEST = 4
"""Rows that the unbiased estimate needs: it divides by n (n - 3)."""


class KernelSums:
    """What CKA needs of rows that come a batch at a time: products of widths, never of rows.

    `merge` joins what was read apart. Memory: three matrices of width by width, in float64.

    Parameters
    ----------
    centre : (mean of X [p], mean of Y [q]) or points near them. CKA does not depend on them, but
        where rows lie far from 0 beside their spread, digits are lost without.
    """

    def __init__(self, centre: tuple[Tensor, Tensor] | None = None) -> None:
        self.centre = centre
        self._bad = 0
        self._xy, self._xx, self._yy = _Products(), _Products(), _Products()

    def update(self, X: Any, Y: Any) -> Self:
        """Add the same rows of both: X [n, p], Y [n, q]."""
        X, Y = paired_rows(X, Y)
        self._bad += int((~(torch.isfinite(X).all(1) & torch.isfinite(Y).all(1))).sum())
        for x, y in zip(X.split(BLOCK), Y.split(BLOCK), strict=True):
            if self.centre is not None:
                x, y = x - self.centre[0], y - self.centre[1]
            self._xy.update(x, y)
            self._xx.update(x, x)
            self._yy.update(y, y)
        return self

    def merge(self, other: "KernelSums") -> Self:
        """Add what another has read about the same centre; ParameterError for another centre."""
        mine, theirs = ([m.tolist() for m in s.centre or ()] for s in (self, other))
        if mine != theirs:
            raise ParameterError("sums about different centres cannot be joined; use the same one.")
        self._bad += other._bad
        for mine, its in ((self._xy, other._xy), (self._xx, other._xx), (self._yy, other._yy)):
            mine.merge(its)
        return self

    def result(self, *, unbiased: bool = True) -> Measured:
        """CKA of the rows so far, as `cka` gives it."""
        n = self._xy.n
        if self._bad:
            return Measured(0, f"{self._bad:,} rows are not finite.")
        if n < FEWEST:
            return Measured(0, f"{n} rows are too few; {FEWEST} are needed.")
        xy, xx, yy = (p.hsic(unbiased) for p in (self._xy, self._xx, self._yy))
        floors = [EQUAL * float(p.size) for p in (self._xx, self._yy)]
        return _ratio(xy, xx, yy, floors)


class _Products:
    """Sums over rows of products of x and y, from which HSIC follows."""

    def __init__(self) -> None:
        self.n = 0
        self.sums: tuple[Tensor, ...] = ()

    def update(self, x: Tensor, y: Tensor) -> None:
        a, b = x.square().sum(1), y.square().sum(1)
        new = (x.T @ y, x.sum(0), y.sum(0), b @ x, a @ y, a.sum(), b.sum(), a @ b)
        self._add(len(x), new)

    def merge(self, other: "_Products") -> None:
        self._add(other.n, other.sums)

    def _add(self, n: int, new: tuple[Tensor, ...]) -> None:
        if n:
            pairs = zip(self.sums, new, strict=True)
            self.sums = tuple(s + t for s, t in pairs) if self.sums else new
            self.n += n

    @property
    def size(self) -> Tensor:
        """What HSIC is measured against: the mean square of a product, if rows were not centred."""
        return self.sums[0].square().sum() / self.n**2

    def hsic(self, unbiased: bool) -> float:
        """HSIC of the two; over n^2 where it is biased."""
        C, sx, sy, xb, ya, a, b, ab = self.sums
        n = self.n
        if not unbiased:
            return float((C - torch.outer(sx, sy) / n).square().sum()) / n**2
        trace = C.square().sum() - ab
        sums = (sx @ sx - a) * (sy @ sy - b)
        cross = sx @ C @ sy - sx @ xb - sy @ ya + ab
        found = trace + sums / ((n - 1) * (n - 2)) - 2 * cross / (n - 2)
        return float(found) / (n * (n - 3))


def cka(X: Any, Y: Any, *, unbiased: bool = True) -> Measured:
    """``HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L))`` with linear kernels.

    Parameters
    ----------
    X, Y : [n, p] and [n, q], the same rows: arrays, tensors, or matrices of a store.
    unbiased : the estimate that leaves each row's product with itself out.

    Range: 1 for representations that differ by a rotation, a scale and a shift, 0 for independent
    ones; higher is more alike. The unbiased one is about 0 for independent noise at any width, and
    can be a little below; the biased one is in 0 to 1, and for noise about .50 at n = d = 50 and
    .91 at n = 50, d = 500. Unchanged by rotation, scale and shift; not by the scale of single
    dimensions.
    Degenerate: nan with the reason for fewer than four rows, rows that are not finite or are one
    point, and kernels in which all pairs of rows are alike.
    Cost: products of widths where n exceeds them, else of rows: 10^11 at n = 10,000,
    p = q = 2,048.
    Source: Kornblith et al. 2019 (biased); Song et al. 2012, equation 5 (the unbiased HSIC).
    """
    X, Y = paired_rows(X, Y)
    why = unusable(X, FEWEST) or unusable(Y, FEWEST)
    if why is not None:
        return Measured(0, why)
    if len(X) > max(X.shape[1], Y.shape[1]):
        return KernelSums((X.mean(0), Y.mean(0))).update(X, Y).result(unbiased=unbiased)
    (K, k), (L, m) = (_centred_gram(rows, unbiased) for rows in (X, Y))
    return _ratio(float((K * L).sum()), float(K.square().sum()), float(L.square().sum()), (k, m))


def kernel_unit(X: Any, *, unbiased: bool = True) -> Unit:
    """The centred kernel of X as a vector of unit length: products of two are their `cka`.

    For tables of many representations of the same rows. Memory: n^2 numbers.
    """
    X = paired_rows(X, X)[0]
    why = unusable(X, FEWEST)
    if why is not None:
        return Unit(None, why)
    K, floor = _centred_gram(X, unbiased)
    size = float(K.square().sum())
    if size <= floor:
        return Unit(None, ALIKE)
    return Unit((K / size**0.5).flatten().cpu().numpy())


def one_hot(labels: ArrayLike, n: int) -> Tensor:
    """Classes as rows [n, c] of zeros and a one: their kernel is 1 within a class and 0 between."""
    at = torch.from_numpy(class_codes(labels, n))
    return torch.nn.functional.one_hot(at).to(torch.float64)


ALIKE = "all pairs of rows are alike."


def _centred_gram(X: Tensor, unbiased: bool) -> tuple[Tensor, float]:
    """The kernel [n, n] with its means taken out, and the square size of rounding in it."""
    X = X - X.mean(0)
    K, n = X @ X.T, len(X)
    floor = EQUAL * float(K.square().sum())
    if not unbiased:
        return K, floor  # its rows sum to 0, as the columns of X do
    K.fill_diagonal_(0)
    rows = K.sum(1) / (n - 2)
    K = K - rows[:, None] - rows[None] + K.sum() / ((n - 1) * (n - 2))
    return K.fill_diagonal_(0), floor


def _ratio(xy: float, xx: float, yy: float, floors: Any) -> Measured:
    if xx <= floors[0] or yy <= floors[1]:
        return Measured(0, ALIKE)
    return Measured(xy / (xx * yy) ** 0.5)
