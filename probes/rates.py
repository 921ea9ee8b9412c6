"""Coding rate: how many nats it takes to write a representation down to a given error.

Notation: Z holds n tokens of width d in rows, ``eps2`` is the squared error of a token's vector, U
holds K subspaces [K, d, p] and lambda is the price of a non-zero.
"""

from typing import Any, Self

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from interp.errors import ParameterError, ShapeError
from probes.measured import Measured, class_codes, float_rows, positive

__all__ = ["RateSums", "class_rate_reduction", "coding_rate", "sparse_rate_reduction"]

EPS2 = 0.01
"""What the released code of CRATE takes for the squared error, of tokens of unit length."""
BLOCK = 4096


class RateSums:
    """The coding rate of rows that come a batch at a time; `merge` joins what was read apart.

    Memory: [d, d].

    Parameters
    ----------
    eps2, unit_rows : as of `coding_rate`.
    """

    def __init__(self, eps2: float = EPS2, *, unit_rows: bool = False) -> None:
        positive(eps2, "eps2", "RateSums")
        self.eps2, self.unit_rows = eps2, unit_rows
        self.n = 0
        self.why: str | None = None
        self._gram: Tensor | None = None

    def update(self, Z: Any) -> Self:
        """Add tokens [n, d]."""
        for part in float_rows(Z).split(BLOCK):
            self.why = self.why or _why_not(part, self.unit_rows)
            rows = _unit(part) if self.unit_rows else part
            gram = rows.T @ rows
            self._gram = gram if self._gram is None else self._gram + gram
            self.n += len(part)
        return self

    def merge(self, other: "RateSums") -> Self:
        """Add what another has read with the same settings; ParameterError for others."""
        mine, theirs = ((s.eps2, s.unit_rows) for s in (self, other))
        if mine != theirs:
            raise ParameterError(f"rates of other settings cannot be joined: {mine}, {theirs}.")
        if other._gram is not None:
            self._gram = other._gram if self._gram is None else self._gram + other._gram
        self.n, self.why = self.n + other.n, self.why or other.why
        return self

    def result(self) -> Measured:
        """The rate of the rows so far, as `coding_rate` gives it."""
        if self.why is not None or self._gram is None:
            return Measured(0, self.why or "there are no rows.")
        d = len(self._gram)
        return Measured(_half_logdet(self._gram, d / (self.n * self.eps2)))


def coding_rate(Z: Any, eps2: float = EPS2, *, unit_rows: bool = False) -> Measured:
    """``1/2 log det(I + d / (n eps2) Z' Z)``, in nats.

    Parameters
    ----------
    Z : [n, d] array, tensor, or matrix of a store: tokens in rows.
    eps2 : the squared error, in the squared units of Z.
    unit_rows : scale each row to length 1 first, so that layers of different size can be compared.

    Range: 0 up; higher takes more to write down, and spreads over more directions. Unchanged by a
    rotation of Z and by the order of rows and of dimensions; not by scale (but with ``unit_rows``)
    and not by translation.
    Degenerate: nan with the reason where there are no rows or some are not finite, and with
    ``unit_rows`` where a row is zero. Equal rows have a rate, that of one direction.
    Cost: the smaller of Z'Z and ZZ', and its Cholesky factor: min(n, d)^2 max(n, d) products.
    Source: Ma et al. 2007; CRATE (2306.01129), equation 3.
    """
    positive(eps2, "eps2", "coding_rate")
    Z = float_rows(Z)
    why = _why_not(Z, unit_rows)
    if why is not None:
        return Measured(0, why)
    Z = _unit(Z) if unit_rows else Z
    n, d = Z.shape
    return Measured(_rate(Z, d / (n * eps2)))


def sparse_rate_reduction(
    Z: Any,
    U: Any,
    eps2: float = EPS2,
    *,
    price: float = 0.1,
    threshold: float = 0.0,
    unit_rows: bool = False,
) -> Measured:
    """``R(Z) - R^c(Z; U) - lambda |Z|_0 / n``: spread as a whole, compact in each subspace.

    ``R^c = 1/2 sum_k log det(I + p / (n eps2) (Z U_k)' (Z U_k))``. For a model without subspaces of
    its own, the heads' value or key projections stand in for U.

    Parameters
    ----------
    Z : [n, d] tokens.
    U : [K, d, p] projections.
    eps2 : the squared error.
    price : lambda, of each number of a token that is not 0.
    threshold : largest absolute value that counts as 0; models without ReLU have no exact zeros.
    unit_rows : scale each token to length 1, in R as a whole and in R^c within each subspace, as
        the released code of CRATE does in each head.

    Returns
    -------
    Measured
        The objective; its parts are ``R``, ``Rc``, ``difference`` and ``nonzero``, the share of
        numbers beyond the threshold.

    Range: any; CRATE is built to raise it. Both R^c and the share fall along its layers.
    Degenerate, cost, source: as of `coding_rate`; R^c takes K times that of [n, p].
    Differs: the published sum of non-zeros is divided by n here, so that it does not grow with the
    number of tokens, as R does not.

    Raises
    ------
    ShapeError
        U has no three axes, or another width than Z.
    """
    positive(eps2, "eps2", "sparse_rate_reduction")
    Z, U = float_rows(Z), torch.as_tensor(U).detach().to(torch.float64)
    if U.ndim != 3 or U.shape[1] != Z.shape[1]:
        raise ShapeError(
            f"U must be projections [K, {Z.shape[1]}, p] for tokens of width {Z.shape[1]}; got "
            f"{list(U.shape)}."
        )
    heads = [Z @ u for u in U]
    why = _why_not(Z, unit_rows)
    why = why or next((w for h in heads if (w := _why_not(h, unit_rows))), None)
    if why is not None:
        return Measured(0, why)
    n, d = Z.shape
    whole = _rate(_unit(Z) if unit_rows else Z, d / (n * eps2))
    scale = U.shape[2] / (n * eps2)
    compact = sum(_rate(_unit(h) if unit_rows else h, scale) for h in heads)
    nonzero = float((Z.abs() > threshold).double().mean())
    return Measured(
        whole - compact - price * nonzero * d,
        R=whole,
        Rc=compact,
        difference=whole - compact,
        nonzero=nonzero,
    )


def class_rate_reduction(
    Z: Any, labels: ArrayLike, eps2: float = EPS2, *, unit_rows: bool = False
) -> Measured:
    """``R(Z) - sum_c (n_c / n) R(Z_c)``: what knowing the class saves of the coding rate, in nats.

    Parameters
    ----------
    Z : [n, d] rows.
    labels : [n] classes.
    eps2, unit_rows : as of `coding_rate`.

    Returns
    -------
    Measured
        The reduction; its parts are ``R`` and ``Rc``.

    Range: 0 up, higher is better: the classes lie in directions of their own. It depends on d, n
    and eps2, so compare layers on the same rows, and of one width.
    Degenerate: nan with the reason as for `coding_rate`, and for fewer than two classes.
    Source: Yu et al. 2020 (2006.08558), equation 4.
    """
    positive(eps2, "eps2", "class_rate_reduction")
    Z = float_rows(Z)
    classes = torch.from_numpy(class_codes(labels, len(Z)))
    counts = torch.bincount(classes).tolist()
    why = _why_not(Z, unit_rows)
    if why is None and len(counts) < 2:
        why = "there is one class only; two are needed."
    if why is not None:
        return Measured(0, why)
    Z = _unit(Z) if unit_rows else Z
    n, d = Z.shape
    whole = _rate(Z, d / (n * eps2))
    classes = classes.to(Z.device)
    own = [_rate(Z[classes == c], d / (m * eps2)) * m / n for c, m in enumerate(counts)]
    return Measured(whole - sum(own), R=whole, Rc=sum(own))


def _rate(Z: Tensor, scale: float) -> float:
    """``1/2 log det(I + scale Z'Z)`` through the smaller of the two Gram matrices."""
    return _half_logdet(Z @ Z.T if len(Z) < Z.shape[1] else Z.T @ Z, scale)


def _half_logdet(gram: Tensor, scale: float) -> float:
    factor = torch.linalg.cholesky(torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
                                   + scale * gram)  # fmt: skip
    return float(factor.diagonal().log().sum())


def _unit(Z: Tensor) -> Tensor:
    return Z / Z.norm(dim=1, keepdim=True)


def _why_not(Z: Tensor, unit_rows: bool) -> str | None:
    if not len(Z):
        return "there are no rows."
    bad = int((~torch.isfinite(Z).all(1)).sum())
    if bad:
        return f"{bad:,} rows are not finite."
    zero = int((~Z.any(1)).sum()) if unit_rows else 0
    return f"{zero:,} rows are zero and have no direction." if zero else None
