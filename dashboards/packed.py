"""Numbers and texts as the page's script reads them: typed arrays, and text made visible."""

import base64
from collections.abc import Iterable
from typing import Any

import numpy as np

from dashboards.html import visible

__all__ = ["pack", "smallest", "texts"]

HALF = 65504.0
"""The greatest number that two bytes hold as a float."""


def pack(values: Any, dtype: str | None = None) -> dict[str, Any]:
    """An array as base64 of its little-endian bytes, in Plotly's notation beside its shape.

    Parameters
    ----------
    values : numbers; booleans become bytes.
    dtype : such as ``"f2"`` (beyond its range the greatest it holds) or ``"f4"``; of integers None
        takes the smallest that holds them.
    """
    array = np.asarray(values)
    kind = dtype or smallest(array)
    if kind == "f2":
        array = np.clip(array, -HALF, HALF)
    data = np.ascontiguousarray(array.astype(np.dtype(kind).newbyteorder("<")))
    return {
        "dtype": kind,
        "shape": list(array.shape),
        "bdata": base64.b64encode(data.tobytes()).decode("ascii"),
    }


def smallest(values: np.ndarray) -> str:
    """The smallest type of integers that holds the values."""
    if values.dtype.kind == "b" or not values.size:
        return "u1"
    low, high = int(values.min()), int(values.max())
    for kind in ("u1", "i1", "u2", "i2", "i4"):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return kind
    return "f8"  # whole numbers to 2^53, which is more than any count here


def texts(values: Iterable[str], limit: int = 80) -> list[str]:
    """Texts from data for the script, which shows them as text: visible, each cut at a limit."""
    return [visible(v if len(v) <= limit else f"{v[: limit - 1]}…") for v in values]
