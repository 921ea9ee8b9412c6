"""How many dimensions a representation uses: five answers, all from its singular values.

Notation: s are the singular values of X [n, d], of its rows less their mean unless said otherwise;
p = s / sum(s), and l = s^2. No rank exceeds min(n, d), or n - 1 where the mean is taken out: with
fewer rows than dimensions all of them count rows.
"""

from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from interp.errors import ParameterError, ShapeError
from probes.measured import Curve, Measured, float_rows, unusable

__all__ = [
    "Spectrum",
    "effective_rank",
    "numerical_rank",
    "participation_ratio",
    "rank_curve",
    "singular_values",
    "srank",
    "stable_rank",
]

BLOCK = 4096
"""Rows that are factored at a time."""


class Spectrum:
    """Singular values of rows that come a batch at a time, to full precision.

    It holds the triangle R of a QR factorisation of the rows with a column of ones before them:
    without its first row and column it is the triangle of the rows less their mean. So no product
    X'X is formed, which would lose half of the digits. `merge` joins what was read apart. Memory:
    [d + 1, d + 1] and one batch.
    """

    def __init__(self) -> None:
        self.n = 0
        self._triangle: Tensor | None = None

    def update(self, X: Any) -> Self:
        """Add rows [n, d]."""
        X = float_rows(X)
        for part in X.split(BLOCK):
            ones = torch.ones(len(part), 1, dtype=part.dtype, device=part.device)
            self._join(torch.cat([ones, part], 1))
        self.n += len(X)
        return self

    def merge(self, other: "Spectrum") -> Self:
        """Add the rows that another has read."""
        if other._triangle is not None:
            self._join(other._triangle)
        self.n += other.n
        return self

    def result(self, *, centre: bool = True) -> NDArray:
        """Singular values [min(n, d)], falling; of the rows less their mean, or as they are."""
        if self._triangle is None:
            return np.zeros(0)
        R = self._triangle[1:, 1:] if centre else self._triangle[:, 1:]
        return torch.linalg.svdvals(R).cpu().numpy()

    def _join(self, rows: Tensor) -> None:
        if self._triangle is not None:
            if rows.shape[1] != self._triangle.shape[1]:
                was, got = self._triangle.shape[1] - 1, rows.shape[1] - 1
                raise ShapeError(f"batches have widths {was} and {got}; give one width.")
            rows = torch.cat([self._triangle, rows])
        self._triangle = torch.linalg.qr(rows, mode="r").R


def singular_values(X: Any, *, centre: bool = True) -> tuple[NDArray, str | None]:
    """Singular values of X [n, d], falling, and why there are none, or None."""
    X = float_rows(X)
    why = unusable(X) if centre else _nothing(X)
    return (np.zeros(0), why) if why else (Spectrum().update(X).result(centre=centre), None)


def effective_rank(X: Any, *, centre: bool = True) -> Measured:
    """``exp(-sum p ln p)``, the number of equal singular values with that entropy.

    Parameters
    ----------
    X : [n, d] array, tensor, or matrix of a store.
    centre : take the mean of the rows out first.

    Range: 1 to min(n, d); higher spreads over more dimensions. Unchanged by rotation and scale, and
    by translation where the mean is taken out; not by the scale of one dimension.
    Degenerate: nan with the reason where all rows are one point or some are not finite.
    Cost: a QR of the rows and the SVD of a [d, d] triangle (8 to 10 s at n = 10,000, d = 2,048).
    Source: Roy and Vetterli 2007; RankMe (2210.02885) is the same, uncentred, with 1e-7 added to p.
    """
    s, why = singular_values(X, centre=centre)
    return Measured(_effective(s) if len(s) else 0, why)


def participation_ratio(X: Any, *, centre: bool = True) -> Measured:
    """``(sum l)^2 / sum l^2``, the number of equal variances with that concentration.

    Parameters, range, invariances, degenerate cases and cost as of `effective_rank`, which it is
    never above by more than rounding: it weighs large variances more.
    Source: Gao et al. 2017.
    """
    s, why = singular_values(X, centre=centre)
    return Measured(_participation(s) if len(s) else 0, why)


def stable_rank(X: Any, *, centre: bool = True) -> Measured:
    """``sum l / max l``, the squared Frobenius norm over the squared spectral norm.

    Parameters, range, invariances, degenerate cases and cost as of `effective_rank`.
    Source: Rudelson and Vershynin 2007.
    """
    s, why = singular_values(X, centre=centre)
    return Measured(_stable(s) if len(s) else 0, why)


def srank(X: Any, *, delta: float = 0.01, centre: bool = True) -> Measured:
    """The least k whose k largest singular values hold a share ``1 - delta`` of their sum.

    Parameters, range, invariances, degenerate cases and cost as of `effective_rank`.
    Source: Kumar et al. 2021 (2010.14498), uncentred there.
    """
    if not 0 <= delta < 1:
        raise ParameterError(f"delta of srank must be from 0 to below 1; got {delta}.")
    s, why = singular_values(X, centre=centre)
    return Measured(_srank(s, delta) if len(s) else 0, why)


def numerical_rank(X: Any, *, centre: bool = True) -> Measured:
    """How many singular values are above rounding: ``max(n, d) * eps * max s``.

    ``eps`` is that of X's dtype, so float32 and float64 of the same rows may differ.
    Parameters, range, invariances, degenerate cases and cost as of `effective_rank`.
    Source: Golub and Van Loan, section 5.4.1; as numpy's matrix_rank.
    """
    rows = float_rows(X)
    s, why = singular_values(rows, centre=centre)
    return Measured(_numerical(s, rows.shape, eps_of(X)) if len(s) else 0, why)


def ranks(X: Tensor, eps: float) -> Measured:
    """All five at once, the effective rank as the number and the others as its parts."""
    s, why = singular_values(X)
    if why:
        return Measured(0, why)
    return Measured(
        _effective(s),
        participation_ratio=_participation(s),
        stable_rank=_stable(s),
        srank=_srank(s, 0.01),
        numerical_rank=_numerical(s, X.shape, eps),
    )


def rank_curve(X: Any, *, centre: bool = True) -> Curve:
    """The share of all variance that the k first principal components hold, for each k.

    Range: 0 to 1, rising; the sooner it is high, the fewer dimensions carry the representation.
    Degenerate: no curve and the reason, as for `effective_rank`.
    """
    s, why = singular_values(X, centre=centre)
    if why:
        return Curve(np.zeros(0), {}, why)
    share = np.cumsum(s**2) / (s**2).sum()
    return Curve(np.arange(1, len(s) + 1), {"variance": share})


def _effective(s: NDArray) -> float:
    p = s[s > 0] / s.sum()
    return float(np.exp(-(p * np.log(p)).sum()))


def _participation(s: NDArray) -> float:
    squares = (s / s[0]) ** 2
    return float(squares.sum() ** 2 / (squares**2).sum())


def _stable(s: NDArray) -> float:
    return float(((s / s[0]) ** 2).sum())


def _srank(s: NDArray, delta: float) -> float:
    # The last sum is the whole; a share that it misses by rounding is held all the same.
    return float(1 + np.searchsorted(np.cumsum(s), (1 - delta) * s.sum() * (1 - 1e-12)))


def _numerical(s: NDArray, shape: tuple[int, ...], eps: float) -> float:
    return float((s > max(shape) * eps * s[0]).sum())


def eps_of(X: Any) -> float:
    """The rounding of the dtype that numbers come in; of float64 for whole numbers."""
    dtype = torch.as_tensor(X[:1]).dtype
    return torch.finfo(dtype if dtype.is_floating_point else torch.float64).eps


def _nothing(X: Tensor) -> str | None:
    bad = int((~torch.isfinite(X).all(1)).sum())
    if bad:
        return f"{bad:,} rows are not finite."
    return None if len(X) and bool(X.any()) else "there are no rows that are not zero."
