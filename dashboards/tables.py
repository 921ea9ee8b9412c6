"""What the page's parts share: tables of frames and rows, names and counts."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dashboards import html
from interp.results import Result

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "EXAMPLES",
    "ROWS",
    "cell",
    "concept",
    "data_set",
    "distinct",
    "flatten",
    "frame_table",
    "listed",
    "model",
    "model_names",
    "plural",
    "rows_table",
    "spec",
]

ROWS = 200
"""Rows of one table that are shown."""
EXAMPLES = 8
"""Rows of the data that are shown for a concept."""


def frame_table(frame: "pd.DataFrame", caption: str, rows: int | None = None) -> html.Table:
    """A DataFrame as a table, cut with a notice."""
    rows = rows or ROWS
    named = frame.index.name is not None
    shown = (frame.reset_index() if named else frame).head(rows)
    columns = tuple(html.Column(str(c), shown[c].dtype.kind in "iuf") for c in shown.columns)
    cells = zip(*(shown[c].tolist() for c in shown.columns), strict=True)
    body = tuple(tuple(cell(v) for v in row) for row in cells)
    if len(frame) > rows:
        caption = f"{caption} ({rows:,} of {len(frame):,} rows)"
    return html.Table(caption, columns, body)


def rows_table(rows: Any, caption: str) -> html.Table:
    """The first rows of the data: mappings by column, anything else as one column of text."""
    table = [row if isinstance(row, Mapping) else {"text": row} for row in list(rows)[:EXAMPLES]]
    names = distinct(str(k) for row in table for k in row)[:12]
    columns = (html.Column("row", True), *(html.Column(n) for n in names))
    body = tuple((i, *(cell(row.get(n)) for n in names)) for i, row in enumerate(table))
    return html.Table(caption, columns, body, hidden_caption=True)


def cell(value: Any) -> html.Cell:
    """A value as a cell: numbers stay numbers, all else is text from data."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, int | float):
        return value
    return html.Data(str(value))


def spec(fig: Any) -> dict[str, Any]:
    """What the page draws: arrays stay typed, and the title is the page's own heading."""
    spec = fig.to_dict()
    spec["layout"].pop("title", None)
    spec["layout"].pop("height", None)
    spec["layout"].pop("meta", None)
    margin = spec["layout"].get("margin", {})
    spec["layout"]["margin"] = {**margin, "t": max(22, margin.get("t", 0) - 34)}
    return spec


def flatten(values: Mapping[str, Any], above: str = "") -> dict[str, str]:
    """Nested provenance with dotted names."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{above}{key}.")
        elif isinstance(value, str):
            flat[f"{above}{key}"] = value
        else:
            flat[f"{above}{key}"] = json.dumps(value, default=str, ensure_ascii=False)
    return flat


def model(result: Result) -> str:
    """The model's specification, or nothing."""
    model = result.provenance.get("model", "")
    return str(model.get("spec", "") if isinstance(model, Mapping) else model)


def _short(spec: str) -> str:
    """The last part of the path of a folder; any other specification as it is."""
    return spec.rstrip("/").rpartition("/")[2] if spec[:1] in (".", "/", "~") else spec


def concept(result: Result) -> str:
    """The concept: the result's name without that of the model, which a study of several adds."""
    return str(result.provenance.get("concept") or result.name)


def model_names(results: Sequence[Result]) -> list[str]:
    """A name for the model of each result: the short one, unless two models share it."""
    names = []
    for r in results:
        about = r.provenance.get("model", "")
        names.append(
            str(about.get("short") or _short(model(r)))
            if isinstance(about, Mapping)
            else _short(model(r))
        )
    meant: dict[str, set[str]] = {}
    for name, r in zip(names, results, strict=True):
        meant.setdefault(name, set()).add(model(r))
    return [n if len(meant[n]) == 1 else model(r) for n, r in zip(names, results, strict=True)]


def data_set(result: Result) -> str:
    """The data set's name."""
    data = result.provenance.get("data", "")
    name = data.get("name", "") if isinstance(data, Mapping) else data
    return str(name) or concept(result).partition(".")[0]


def distinct(values: Iterable[str]) -> list[str]:
    """Each value once, in order."""
    return list(dict.fromkeys(values))


def plural(count: int | str, noun: str) -> str:
    """A count and its noun."""
    return f"{count} {noun}" if str(count) == "1" else f"{count} {noun}s"


def listed(parts: Sequence[html.Cell]) -> list[html.Cell]:
    """The parts with commas between them."""
    joined: list[html.Cell] = []
    for i, part in enumerate(parts):
        joined += [", " if i else "", part]
    return joined
