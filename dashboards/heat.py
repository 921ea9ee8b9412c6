"""Concept by depth as a heat map: one model, all its concepts."""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from dashboards import tables
from dashboards.compare import only_depths
from dashboards.html import label
from dashboards.style import (
    ON_DEEP,
    ON_PALE,
    SCALE,
    Plot,
    depth_axis,
    f32,
    house,
    least,
    light,
    most,
)
from interp.errors import ParameterError
from interp.results import Result
from probes.depth import ConceptDepth

__all__ = ["heatmap", "heatmap_alt"]

NUMBERS = 600
"""Cells of a heat map beyond which no numbers are printed in it."""


def heatmap(
    results: Sequence[Result], value: Literal["accuracy", "selectivity"] = "accuracy"
) -> Plot:
    """Concept by depth: one row a result, one column a hook point, the peak of each row in bold.

    Parameters
    ----------
    results : of `probes.concept_depth`, all over the same hook points in the same order.
    value : ``"accuracy"``, or ``"selectivity"`` (accuracy less that on shuffled labels).

    Raises
    ------
    ParameterError
        There are no results, they are of another kind, or their hook points differ.
    """
    depths = only_depths(results, "heatmap")
    if len({r.hookpoints for r in depths}) > 1:
        raise ParameterError(
            "heatmap draws results over the same hook points, and these differ; draw one for each "
            "model."
        )
    if value not in ("accuracy", "selectivity"):
        raise ParameterError(f"heatmap shows accuracy or selectivity, and got {value!r}.")
    z = np.stack([f32(getattr(r, value)) for r in depths])
    x = np.arange(z.shape[1], dtype=np.float32)
    y = np.arange(z.shape[0], dtype=np.float32)
    low, high = (0.0, 1.0) if value == "accuracy" else (min(0.0, least(z)), max(most(z), 0.1))
    if value == "accuracy":
        low = min(0.5, math.floor(least(z) * 10) / 10)
    fig = Plot()
    fig.add_heatmap(
        x=x,
        y=y,
        z=z,
        zmin=low,
        zmax=high,
        xgap=1.5,
        ygap=1.5,
        colorscale=[[i / (len(SCALE) - 1), colour] for i, colour in enumerate(SCALE)],
        colorbar={
            "title": {
                "text": value,
                "side": "right",
                "font": {"size": 13, "color": light("soft")},
            },
            "thickness": 11,
            "outlinewidth": 0,
        },
        hovertemplate="%{y} at %{x}: %{z:.3f}<extra></extra>",
    )
    if z.size <= NUMBERS:
        full = [[label(h) for h in depths[0].hookpoints]] * len(depths)
        fig.data[0].update(
            customdata=full, hovertemplate="%{y} at %{customdata}: %{z:.3f}<extra></extra>"
        )
        _print_numbers(fig, z, low, high)
    names = [label(tables.concept(r), 34) for r in depths]
    title = {"accuracy": "Accuracy by concept and depth", "selectivity": "Selectivity by depth"}
    house(fig, title[value], alt=heatmap_alt(depths, value))
    depth_axis(fig, depths[0].hookpoints)
    fig.update_xaxes(showgrid=False, showline=False, ticks="")
    fig.update_yaxes(
        tickmode="array",
        tickvals=y,
        ticktext=names,
        range=[len(depths) - 0.5, -0.5],
        showgrid=False,
        showline=False,
        ticks="",
    )
    fig.update_layout(height=150 + 34 * min(len(depths), 60), hovermode="closest")
    return fig


def heatmap_alt(results: Sequence[ConceptDepth], value: str = "accuracy") -> str:
    """The heat map in words: the peak of each concept, for at most twelve of them."""
    peaks = []
    for r in results[:12]:
        curve = getattr(r, value)
        if np.isfinite(curve).any():
            i = int(np.nanargmax(curve))
            peaks.append(f"{tables.concept(r)} {curve[i]:.2f} at {r.hookpoints[i]}")
        else:
            peaks.append(f"{tables.concept(r)} undefined")
    more = f", and {len(results) - 12} more in the table" if len(results) > 12 else ""
    return f"Highest {value} of each concept: {'; '.join(peaks)}{more}."


def _print_numbers(fig: Plot, z: np.ndarray, low: float, high: float) -> None:
    """Two decimals in each cell, the first peak of each row in bold."""
    rows, columns = np.indices(z.shape)
    texts, colours = [], []
    for row in z:
        peak = int(np.nanargmax(row)) if np.isfinite(row).any() else -1
        for i, value in enumerate(row):
            text = f"{value:.2f}" if math.isfinite(value) else "—"
            texts.append(f"<b>{text}</b>" if i == peak else text)
            colours.append(ON_DEEP if (value - low) / (high - low) >= 0.5 else ON_PALE)
    fig.add_scatter(
        x=f32(columns.ravel()),
        y=f32(rows.ravel()),
        mode="text",
        text=texts,
        textfont={"size": 12, "color": colours},
        hoverinfo="skip",
        showlegend=False,
    )
