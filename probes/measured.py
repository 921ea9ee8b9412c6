"""What a measure of representations takes and gives, whichever it is."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from interp.errors import ParameterError, ShapeError
from probes.clusters import codes

__all__ = [
    "Curve",
    "Measure",
    "Measured",
    "Setting",
    "Unit",
    "class_codes",
    "float_rows",
    "paired_rows",
    "positive",
    "unusable",
]

EQUAL = 1e-12
"""Rows whose spread is this small a share of their size are one point: it is rounding."""


class Measured(float):
    """A number that knows what belongs to it, and why it is nan.

    Attributes
    ----------
    reason : why the number is undefined; None where it is defined.
    parts : numbers that belong to it, by name.
    """

    reason: str | None
    parts: dict[str, float]

    def __new__(cls, value: float, reason: str | None = None, **parts: float) -> "Measured":
        """Nan where there is a reason, whatever the value."""
        found = super().__new__(cls, float("nan") if reason else value)
        found.reason, found.parts = reason, parts
        return found

    def __repr__(self) -> str:
        said = super().__repr__()
        return f"{said} ({self.reason})" if self.reason else said

    def __reduce__(self) -> Any:
        return _again, (float(self), self.reason, self.parts)


def _again(value: float, reason: str | None, parts: dict[str, float]) -> Measured:
    return Measured(value, reason, **parts)


@dataclass(frozen=True)
class Curve:
    """Numbers along an axis: a spectrum, or accuracy by length.

    Attributes
    ----------
    x : [m] rising.
    lines : name -> [m].
    reason : why there is no curve, which is then empty; None where there is one.
    """

    x: NDArray
    lines: dict[str, NDArray]
    reason: str | None = None


@dataclass(frozen=True)
class Unit:
    """A layer as a vector of unit length; the likeness of two layers is their product.

    Attributes
    ----------
    vector : [m] float64, or None where there is none.
    reason : why there is none.
    """

    vector: NDArray | None
    reason: str | None = None


@dataclass(frozen=True)
class Setting:
    """What a measure may use beside the rows of a layer.

    Attributes
    ----------
    labels : [n] class of each row as a whole number, 0 to c - 1, or None.
    inputs : [n, ...] what the model was given, as numbers, or None: whatever rows can be taken of.
    groups : [n] rows of a group stay on one side of a split, or None.
    seed : of draws.
    eps : of the dtype that the rows were kept in.
    features : column -> [n] value of each row as a whole number, -1 where it has none.
    heads : [K, d, p] projections of the heads that read these rows, or None.
    """

    labels: Any = None
    inputs: Any = None
    groups: NDArray[np.int64] | None = None
    seed: int = 0
    eps: float = float(np.finfo(np.float64).eps)
    features: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    heads: Tensor | None = None

    def at(self, rows: NDArray) -> "Setting":
        """The same for some of the rows."""
        return replace(
            self,
            labels=None if self.labels is None else self.labels[rows],
            inputs=None if self.inputs is None else self.inputs[rows],
            groups=None if self.groups is None else self.groups[rows],
            features={name: values[rows] for name, values in self.features.items()},
        )


@dataclass(frozen=True)
class Measure:
    """A measure in the table of `probes.geometry`.

    Attributes
    ----------
    name : as `interp geometry --measure` takes it.
    find : (rows [n, d] float64, `Setting`) -> `Measured`, `Curve` or `Unit`.
    about : what it says, its range and its direction, in a line.
    gives : ``"number"``, ``"curve"`` or ``"matrix"`` (of layers, from their `Unit`).
    needs : ``"labels"``, ``"inputs"``, ``"heads"``, or none.
    rows : most rows that it is given, drawn by the seed; all where None.
    """

    name: str
    find: Callable[[Tensor, Setting], Any]
    about: str
    gives: str = "number"
    needs: Sequence[str] = field(default=())
    rows: int | None = None


def float_rows(X: Any) -> Tensor:
    """Rows as a float64 matrix [n, d]; axes after the first lie side by side.

    Raises
    ------
    ShapeError
        X has no two axes, or no columns.
    """
    if hasattr(X, "toarray"):
        X = X.toarray()  # counts of words
    X = torch.as_tensor(X[:] if hasattr(X, "batches") else X).detach()
    if X.ndim < 2 or not X[:1].numel() >= min(len(X), 1) or 0 in X.shape[1:]:
        raise ShapeError(f"X must be a matrix [rows, width]; got {list(X.shape)}.")
    return X.flatten(1).to(torch.float64)


def paired_rows(X: Any, Y: Any) -> tuple[Tensor, Tensor]:
    """Two matrices of the same rows.

    Raises
    ------
    ShapeError
        They are no matrices, or of different numbers of rows.
    """
    X, Y = float_rows(X), float_rows(Y)
    if len(X) != len(Y):
        raise ShapeError(
            f"the two matrices hold the same rows in the same order; got {len(X)} and {len(Y)} "
            "rows."
        )
    return X, Y


def unusable(X: Tensor, fewest: int = 2) -> str | None:
    """Why the rows have no geometry: not finite, too few, or all one point; else None."""
    bad = int((~torch.isfinite(X).all(1)).sum()) if len(X) else 0
    if bad:
        return f"{bad:,} rows are not finite."
    if len(X) < fewest:
        return f"{len(X)} rows are too few; {fewest} are needed."
    spread = float((X - X.mean(0)).abs().max())
    if spread <= EQUAL * float(X.abs().max()) or spread == 0:
        return "all rows are one point."
    return None


def class_codes(labels: ArrayLike, n: int) -> NDArray[np.int64]:
    """The class of each row as a whole number, 0 to c - 1.

    Raises
    ------
    DataError, ShapeError
        As `probes.clusters.codes`.
    """
    return codes(labels, n)[1].astype(np.int64)


def positive(value: float, name: str, owner: str) -> None:
    """Refuse a setting that is not above 0."""
    if not value > 0:
        raise ParameterError(f"{name} of {owner} must be above 0; got {value}.")
