"""Which rows are safe and which are not: two classes, told by name, and nothing guessed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from interp.errors import DataError, ParameterError, ShapeError
from probes.concepts import column, text_column_of

if TYPE_CHECKING:
    from interp.store import ActivationStore

__all__ = ["Labelled", "Safety", "labelled_rows", "read_safety", "repeated"]

KNOWN = (("1", "0"), ("safe", "unsafe"))
"""Pairs of names that need no word on which is safe."""


@dataclass(frozen=True)
class Safety:
    """Labels read.

    Attributes
    ----------
    safe : [n] whether a row is safe.
    names : of the safe and of the unsafe class.
    """

    safe: NDArray[np.bool_]
    names: tuple[str, str]

    @property
    def labels(self) -> NDArray:
        """[n] ``safe`` or ``unsafe``: labels that need no word on which is which."""
        return np.where(self.safe, "safe", "unsafe")

    @property
    def counts(self) -> tuple[int, int]:
        """Safe and unsafe rows."""
        return int(self.safe.sum()), int((~self.safe).sum())


def read_safety(y: ArrayLike, n: int, safe: Any = None) -> Safety:
    """Safe or unsafe for each row.

    Parameters
    ----------
    y : [n] of 1 and 0, True and False, or ``safe`` and ``unsafe``; with ``safe`` of any two.
    safe : the class that is safe; 1 or ``"safe"`` by default.

    Raises
    ------
    ShapeError
        There is not one label a row.
    DataError
        A label is missing or unknown, or there are more than two. The released code takes every
        label that it does not know for unsafe.
    ParameterError
        No row has the class named as safe.
    """
    y = y.detach().cpu().numpy() if hasattr(y, "detach") else np.asarray(y)  # type: ignore[union-attr]
    if y.shape != (n,):
        raise ShapeError(f"y must have one label a row, [{n}]; got {list(y.shape)}.")
    names = np.array([_name(v) for v in y.tolist()], dtype=object)
    found = sorted(set(names))
    if "" in found:
        raise DataError(f"{int((names == '').sum()):,} rows have no label; leave them out.")
    pair = _pair(found, None if safe is None else _name(safe))
    return Safety((names == pair[0]).astype(bool), pair)


def _pair(found: list[str], safe: str | None) -> tuple[str, str]:
    shown = ", ".join(map(repr, found[:8])) + (", …" if len(found) > 8 else "")
    if safe is None:
        for pair in KNOWN:
            if set(found) <= set(pair):
                return pair
        raise DataError(
            f"labels are 1 (safe) and 0 (unsafe), or 'safe' and 'unsafe'; got {shown}. Name the "
            "safe class (safe=, on the command line --safe), of two."
        )
    if safe not in found:
        raise ParameterError(f"safe names the class {safe!r}; the labels are {shown}.")
    if len(found) > 2:
        raise DataError(f"labels are of two classes, safe ({safe!r}) and unsafe; got {shown}.")
    others = [name for name in found if name != safe]
    return safe, others[0] if others else f"not {safe}"


def _name(value: Any) -> str:
    """A label as a name: whole numbers and bools as digits, a missing one as nothing."""
    if value is None or value != value or str(value) in ("<NA>", "NaT"):
        return ""
    if isinstance(value, bool | int | float | np.number) and float(value).is_integer():
        return str(int(value))
    return str(value)


def repeated(texts: Sequence[str] | None) -> NDArray | None:
    """The texts as groups where some are copies, which are no evidence; else None."""
    if texts is None or len(set(texts)) == len(texts):
        return None
    return np.array([str(t) for t in texts], dtype=object)


@dataclass(frozen=True)
class Labelled:
    """The rows of a table that have a label, and what belongs to them.

    Attributes
    ----------
    rows : [n] places in the table.
    labels : [n] names of classes.
    safety : the labels read.
    groups, axioms : [n] or None.
    texts : or None, also where rows are single positions of a text.
    notes : what was left out, in sentences.
    """

    rows: NDArray
    labels: NDArray
    safety: Safety
    groups: NDArray | None
    axioms: NDArray | None
    texts: list[str] | None
    notes: tuple[str, ...]


def labelled_rows(
    store: "ActivationStore",
    label: str,
    *,
    safe: Any = None,
    groups: str | None = None,
    axioms: str | None = None,
) -> Labelled:
    """The rows of a store that have a label, a group and an axiom, as far as columns are named.

    Where rows are single positions, those of a document are a group. Where no column of groups is
    named, rows of one text are a group: a copy is no evidence, and must not be on both sides of a
    split.

    Raises
    ------
    DataError
        A column is missing, no row has a label, or the labels are not of two known classes.
    """
    table = store.rows
    pooled = store.manifest.get("pool") != "all"
    if groups is None and not pooled and "document" in table.columns:
        groups = "document"
    values = column(table, label, "label")
    keep = values.notna().to_numpy(dtype=bool)
    notes = []
    if not keep.all():
        notes.append(f"{int((~keep).sum()):,} of {len(keep):,} rows have no {label!r}; left out.")
    held: dict[str, NDArray] = {}
    for name, what in ((groups, "groups"), (axioms, "axioms")):
        if name is None:
            continue
        found = column(table, name, what)
        missing = keep & found.isna().to_numpy(dtype=bool)
        if missing.any():
            notes.append(f"{int(missing.sum()):,} labelled rows have no {name!r}; left out.")
            keep = keep & ~missing
        held[what] = found.to_numpy(dtype=object)
    rows = np.flatnonzero(keep)
    if not len(rows):
        raise DataError(f"no row has a value in the label column {label!r}.")
    labels = np.array([_name(v) for v in values.iloc[rows].tolist()], dtype=object)
    data = store.manifest.get("data") or {}
    text_column = text_column_of(table, None, data.get("text_column")) if pooled else None
    texts = [str(t) for t in table[text_column].iloc[rows]] if text_column else None
    ids = held["groups"][rows].astype(str) if "groups" in held else None
    if ids is None and (ids := repeated(texts)) is not None:
        copies = len(ids) - len(set(ids))
        notes.append(f"{copies:,} of {len(ids):,} rows repeat a text; rows of one are a group.")
    return Labelled(
        rows=rows,
        labels=labels,
        safety=read_safety(labels, len(rows), safe),
        groups=ids,
        axioms=held["axioms"][rows].astype(str) if "axioms" in held else None,
        texts=texts,
        notes=tuple(notes),
    )
