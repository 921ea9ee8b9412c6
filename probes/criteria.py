"""When a neuron counts as active: five criteria, each decided within one row at a time."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from interp.errors import ParameterError

__all__ = ["CRITERIA", "Criterion"]

CRITERIA: dict[str, float | None] = {
    "exact": None,
    "abs_eps": 1e-3,
    "rel_eps": 1e-2,
    "mass": 0.99,
    "topk_ratio": 0.1,
}
"""Name -> the level that it has where none is given; None where there is none to choose."""
NORMS = {"rel_eps": ("max", "rms"), "mass": ("l1", "l2")}
"""What the level is a share of, the default first."""
CHUNK = 2**21
"""Values worked on at once in float64: 16 MiB a copy."""


@dataclass(frozen=True)
class Criterion:
    """What "active" means for the values a of one row (a token), d of them.

    Attributes
    ----------
    kind : ``"exact"``: ``a != 0``, for units that give exact zeros; ``"abs_eps"``:
        ``|a| > level``; ``"rel_eps"``: ``|a| > level * max |a|`` of the row, or its root mean
        square; ``"mass"``: a is in the smallest set that holds the share ``level`` of the row's
        ``sum |a|`` (of ``sum a^2`` with ``"l2"``); ``"topk_ratio"``: a is not 0 and among the
        ``round(level * d)`` largest ``|a|``, at least one. Ties go to the lower index.
    level : None takes that of `CRITERIA`.
    norm : ``"max"`` or ``"rms"`` for rel_eps, ``"l1"`` or ``"l2"`` for mass; None takes the first.
    gated : for ``"exact"``: the rows are the product of a ReLU gate and a linear half, so that
        negative values are activity and no sign of another non-linearity.

    Raises
    ------
    ParameterError
        No such criterion, a level outside its range, or a setting that the criterion lacks.
    """

    kind: str
    level: float | None = None
    norm: str | None = None
    gated: bool = False

    def __post_init__(self) -> None:
        if self.kind not in CRITERIA:
            raise ParameterError(
                f"criterion must be one of {', '.join(CRITERIA)}; got {self.kind!r}."
            )
        default = CRITERIA[self.kind]
        if self.level is None:
            object.__setattr__(self, "level", default)
        elif default is None:
            raise ParameterError(f"the criterion exact has no level; got {self.level!r}.")
        top = float("inf") if self.kind.endswith("eps") else 1.0
        if self.level is not None and not 0 <= self.level < top:
            allowed = "at least 0" if self.kind.endswith("eps") else "at least 0 and below 1"
            raise ParameterError(f"the level of {self.kind} must be {allowed}; got {self.level!r}.")
        norms = NORMS.get(self.kind, ())
        if self.norm is None:
            object.__setattr__(self, "norm", norms[0] if norms else None)
        elif self.norm not in norms:
            allowed = f"{' or '.join(norms)}" if norms else "left out"
            raise ParameterError(f"the norm of {self.kind} is {allowed}; got {self.norm!r}.")
        if self.gated and self.kind != "exact":
            raise ParameterError("gated says how exact reads signs; leave it out.")

    def __str__(self) -> str:
        norm = "" if self.norm is None else f" {self.norm}"
        level = "" if self.level is None else f"={self.level:g}"
        return f"{self.kind}{level}{norm}{' gated' if self.gated else ''}"

    def active(self, x: Tensor) -> Tensor:
        """Which values are active, bool [n, d]; what is not finite never is.

        Parameters
        ----------
        x : [n, d] floats, a row a token.
        """
        if self.kind == "exact":
            return (x != 0) & x.isfinite()
        return torch.cat([self._part(rows) for rows in _parts(x)]) if len(x) else x.bool()

    def _part(self, x: Tensor) -> Tensor:
        size = x.double().abs()
        size = torch.where(size.isfinite(), size, 0.0)
        level = 0.0 if self.level is None else self.level
        if self.kind == "abs_eps":
            return size > level
        if self.kind == "rel_eps":
            return size > level * _scale(size, x, self.norm)
        order = size.argsort(dim=1, descending=True, stable=True)
        rank = torch.empty_like(order).scatter_(
            1, order, torch.arange(x.shape[1], device=x.device).expand_as(order)
        )
        if self.kind == "topk_ratio":
            kept = max(1, round(level * x.shape[1]))
            return (rank < kept) & (size > 0)
        return (rank < _covering(size, order, level, self.norm)) & (size > 0)


def _scale(size: Tensor, x: Tensor, norm: Literal["max", "rms"] | str | None) -> Tensor:
    """The largest value of each row, or the root mean square of its finite ones, [n, 1]."""
    if norm == "max":
        return size.amax(1, keepdim=True)
    known = x.isfinite().sum(1, keepdim=True).clamp(min=1)
    return (size.square().sum(1, keepdim=True) / known).sqrt()


def _covering(size: Tensor, order: Tensor, level: float, norm: str | None) -> Tensor:
    """How many of the largest values hold the share ``level`` of each row's mass, [n, 1]."""
    sums = (size.square() if norm == "l2" else size).gather(1, order).cumsum(1)
    return (sums < level * sums[:, -1:]).sum(1, keepdim=True) + 1


def _parts(x: Tensor) -> Iterator[Tensor]:
    step = max(1, CHUNK // max(1, x.shape[1]))
    for start in range(0, len(x), step):
        yield x[start : start + step]
