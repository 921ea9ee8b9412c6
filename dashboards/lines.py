"""Lines told apart by colour, dash and marker, and cells with their numbers, for any figure."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from dashboards.html import label
from dashboards.style import ON_DEEP, ON_PALE, SCALE, Plot, f32, light, spread

__all__ = ["LOOKS", "add_cells", "add_line", "axis_names", "said"]

LOOKS = (
    ("curve", "solid", "circle"),
    ("bag", "dash", "square"),
    ("untrained", "dot", "diamond"),
    ("shuffled", "dashdot", "x-thin-open"),
    ("features", "longdash", "triangle-up"),
    ("majority", "longdashdot", "cross-thin-open"),
)
"""Colour, dash and marker of the first lines; more lines begin again."""
NUMBERS = 300
"""Cells beyond which no numbers are printed in them."""


def add_line(fig: Plot, x: Any, y: Any, name: str, i: int, hover: str, **more: Any) -> None:
    """The i-th line; ``hover`` stands after the name."""
    colour, dash, symbol = LOOKS[i % len(LOOKS)]
    fig.add_scatter(
        x=f32(x),
        y=f32(y),
        name=label(name, 34),
        mode="lines+markers",
        line={"color": light(colour), "width": 2.2, "dash": dash},
        marker={"size": 7, "symbol": symbol, "line": {"width": 2}},
        hovertemplate=label(name, 34) + hover + "<extra></extra>",
        **more,
    )


def add_cells(
    fig: Plot, z: np.ndarray, rows: Sequence[str], columns: Sequence[str],
    ends: tuple[float, float], *, axes: tuple[str, str] = ("x", "y"), digits: int = 2,
) -> None:  # fmt: skip
    """Cells from pale at the first end to deep at the second, each with its number if few."""
    low, high = ends[0], ends[1] if ends[1] > ends[0] else ends[0] + 1
    names = [[f"{label(r, 40)}, {label(c, 40)}" for c in columns] for r in rows]
    fig.add_heatmap(
        z=f32(z),
        x=f32(range(len(columns))),
        y=f32(range(len(rows))),
        zmin=low,
        zmax=high,
        xgap=1.5,
        ygap=1.5,
        colorscale=[[i / (len(SCALE) - 1), colour] for i, colour in enumerate(SCALE)],
        showscale=False,
        customdata=names,
        hovertemplate="%{customdata}: %{z:.3f}<extra></extra>",
        xaxis=axes[0],
        yaxis=axes[1],
    )
    if z.size > NUMBERS:
        return
    at_row, at_column = np.indices(z.shape)
    shade = ((z - low) / (high - low)).ravel()
    fig.add_scatter(
        x=f32(at_column.ravel()),
        y=f32(at_row.ravel()),
        mode="text",
        text=[said(v, digits) for v in z.ravel()],
        textfont={"size": 12, "color": [ON_DEEP if s >= 0.5 else ON_PALE for s in shade]},
        hoverinfo="skip",
        showlegend=False,
        xaxis=axes[0],
        yaxis=axes[1],
    )


def axis_names(names: Sequence[str], most: int = 24, width: int = 24) -> dict[str, Any]:
    """Settings of an axis with a name at each place, not all of them where there are many."""
    shown = spread(len(names), most)
    return {
        "tickmode": "array",
        "tickvals": f32(shown),
        "ticktext": [label(names[i], width) for i in shown],
        "autotickangles": [0, -30, -90],  # to the right, a name at the end would be cut off
        "showgrid": False,
    }


def said(value: float, digits: int = 2) -> str:
    """A number, or a dash where it is undefined; no minus before a zero."""
    text = f"{value:.{digits}f}" if math.isfinite(value) else "—"
    return text.lstrip("-") if not text.strip("-0.") else text
