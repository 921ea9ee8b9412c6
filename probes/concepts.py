"""A concept: the rows of a table that have a label, their classes and their groups."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from interp.errors import DataError, ShapeError, closest

__all__ = ["Concept", "concept_name", "first_rows", "read_concept", "text_column_of"]

EXAMPLES, EXAMPLE_LENGTH = 8, 200


@dataclass(frozen=True)
class Concept:
    """Rows that have a label.

    Attributes
    ----------
    rows : [n] positions in the table.
    y : [n] classes, 0 to ``len(classes) - 1``.
    classes : their names, in rising order of the values in the table.
    groups : [n] group ids, 0 to ``n_groups - 1``, or None.
    notes : what was left out, in sentences.
    """

    rows: NDArray[np.int64]
    y: NDArray[np.int64]
    classes: tuple[str, ...]
    groups: NDArray[np.int64] | None
    notes: tuple[str, ...]

    @property
    def n_groups(self) -> int | None:
        """How many groups, or None where rows are not grouped."""
        return None if self.groups is None else int(self.groups.max()) + 1

    @property
    def units(self) -> NDArray[np.int64]:
        """[n] group ids; each row is its own where there are no groups."""
        return np.arange(len(self.y)) if self.groups is None else self.groups


def concept_name(data: str, label: str) -> str:
    """``"cities.label"``: the name of a concept in titles and in ``metrics.json``."""
    return f"{data}.{label}"


def column(table: pd.DataFrame, name: str, what: str) -> pd.Series:
    """A column of the table; where it is missing, an error that lists the columns."""
    if name not in table.columns:
        names = [str(c) for c in table.columns]
        shown = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
        hint = closest(str(name), names)
        raise DataError(
            f"there is no column {name!r} for the {what}; the table has "
            f"{shown or 'no columns'}{'; ' + hint if hint else '.'}"
        )
    return pd.Series(table[name])


def read_concept(table: pd.DataFrame, label: str, groups: str | ArrayLike | None) -> Concept:
    """The rows of a table that have a label, and their groups.

    Parameters
    ----------
    table : a row an activation row.
    label : column of the classes: bools, whole numbers, text, or numbers with few values. A
        missing value leaves its row out. Where rows are single positions it may hold a list for
        each document, with an entry a token.
    groups : column, or a group for each row; a row without one is left out.

    Raises
    ------
    DataError
        No such column, no label at all, one class, or a class for every other row.
    ShapeError
        Groups that do not fit the rows.
    """
    values = _of_tokens(column(table, label, "label"), table, label)
    keep = values.notna().to_numpy(dtype=bool)
    notes = []
    if not keep.all():
        notes.append(f"{int((~keep).sum()):,} of {len(keep):,} rows have no {label!r}; left out.")
    group_values: pd.Series | None = None
    if groups is not None:
        if isinstance(groups, str):
            group_values = column(table, groups, "groups")
        else:
            group_values = pd.Series(np.asarray(groups).reshape(-1))
        if len(group_values) != len(table):
            raise ShapeError(
                f"groups must have one entry a row; got {len(group_values)} for {len(table)} rows."
            )
        grouped = group_values.notna().to_numpy(dtype=bool)
        lost = int((keep & ~grouped).sum())
        if lost:
            notes.append(f"{lost:,} labelled rows have no group; left out.")
            keep = keep & grouped
    rows = np.flatnonzero(keep)
    if not len(rows):
        raise DataError(f"no row has a value in the label column {label!r}.")
    y, names = _classes(values.iloc[rows].tolist(), label)
    ids = None
    if group_values is not None:
        try:
            ids = pd.factorize(group_values.iloc[rows])[0].astype(np.int64)
        except TypeError as error:  # lists and tables
            raise DataError(
                "the groups hold values that are no numbers or texts; name another column."
            ) from error
    return Concept(rows, y, names, ids, tuple(notes))


def groups_of(store: Any, groups: str | None) -> str | None:
    """The column whose values stay together: the one asked for, or documents of single positions.

    Positions of a document share its words and its label: on both sides of a split they leak.
    """
    if groups is None and store.manifest.get("pool") == "all" and "document" in store.rows:
        return "document"
    return groups


def _of_tokens(values: pd.Series, table: pd.DataFrame, label: str) -> pd.Series:
    """Labels of single positions, where the column holds a list of them for each document.

    The list of a document is repeated on each of its rows, and ``position`` says which entry is
    the row's own.
    """
    first = next((v for v in values if v is not None and v is not pd.NA), None)
    if "position" not in table.columns or not isinstance(first, list | tuple | np.ndarray):
        return values
    own = []
    for row, (entry, at) in enumerate(zip(values, table["position"], strict=True)):
        if not isinstance(entry, list | tuple | np.ndarray):
            own.append(None)
        elif not 0 <= at < len(entry):
            raise DataError(
                f"the label column {label!r} has {len(entry)} entries for the document of row "
                f"{row}, which is at position {at}; give one entry a token."
            )
        else:
            own.append(entry[at])
    return pd.Series(own, dtype=object)


def _classes(values: list[Any], label: str) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Classes 0..k-1 in rising order of value, and their names."""
    values = [v.item() if isinstance(v, np.generic) else v for v in values]
    kinds = {str if isinstance(v, str) else float if isinstance(v, bool | int | float) else type(v)
             for v in values}  # fmt: skip
    if kinds - {str, float}:
        odd = next(iter(kinds - {str, float})).__name__
        raise DataError(
            f"the label column {label!r} holds values of type {odd}; a label is a number, a bool "
            "or a text."
        )
    if len(kinds) > 1:
        raise DataError(
            f"the label column {label!r} mixes text and numbers; make it one or the other."
        )
    found = sorted(set(values))
    if len(found) == 1:
        raise DataError(
            f"the label column {label!r} has one class only ({found[0]!r}, {len(values)} rows); a "
            "probe needs two."
        )
    if len(found) > 2 and 2 * len(found) > len(values):
        raise DataError(
            f"the label column {label!r} has {len(found):,} different values in {len(values):,} "
            "rows; a label has few, so name another column."
        )
    place = {v: i for i, v in enumerate(found)}
    whole = all(isinstance(v, float) and v.is_integer() for v in found)
    names = tuple(str(int(v)) if whole else str(v) for v in found)
    return np.array([place[v] for v in values], dtype=np.int64), names


def text_column_of(table: pd.DataFrame, asked: str | None, known: str | None) -> str | None:
    """The column of texts: the one asked for, else the one known, if the table has it."""
    if asked is not None:
        column(table, asked, "texts")
        return asked
    return known if known in table.columns else None


def first_rows(table: pd.DataFrame, columns: Sequence[str | None]) -> list[dict[str, Any]]:
    """The first rows of some columns as JSON values; None among the names is passed over."""
    kept = list(dict.fromkeys(c for c in columns if c is not None))
    return [
        {str(c): _plain(v) for c, v in zip(kept, row, strict=True)}
        for row in table[kept].head(EXAMPLES).itertuples(index=False, name=None)
    ]


def _plain(value: Any) -> Any:
    """A cell as a JSON value; long text clipped, a missing value None."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    text = "" if str(value) in ("<NA>", "NaT") else str(value)
    return text if len(text) <= EXAMPLE_LENGTH else text[: EXAMPLE_LENGTH - 1] + "…"
