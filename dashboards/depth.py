"""Concept depth as figures: accuracy by depth, and concept by depth."""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from dashboards.html import label
from dashboards.style import (
    ON_DEEP,
    ON_PALE,
    SCALE,
    Plot,
    band,
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

__all__ = ["depth_alt", "depth_curve", "heatmap", "heatmap_alt"]

NUMBERS = 600
"""Cells of a heat map beyond which no numbers are printed in it."""


def depth_curve(result: ConceptDepth) -> Plot:
    """Accuracy by depth with its 95 % interval, the controls, and the jump and converging points.

    Parameters
    ----------
    result : of `probes.concept_depth`.
    """
    x = np.arange(len(result.hookpoints), dtype=np.float32)
    fig = Plot()
    shuffled = bool(np.isfinite(result.shuffled).any())
    if shuffled:
        band(fig, x, result.shuffled_low, result.shuffled_high, "shuffled band")
    band(fig, x, result.accuracy_low, result.accuracy_high, "curve band")
    if shuffled:
        fig.add_scatter(
            x=x,
            y=f32(result.shuffled),
            name="shuffled labels",
            legendrank=4,
            mode="lines+markers",
            line={"color": light("shuffled"), "width": 1.6, "dash": "dot"},
            marker={
                "symbol": "x-thin",
                "size": 7,
                "line": {"width": 1.6, "color": light("shuffled")},
            },
            hovertemplate="%{y:.3f}",
        )
    for name, value, dash in (
        ("majority", result.majority, "dash"),
        ("bag", result.bag_of_words, "longdashdot"),
    ):
        if value is not None and math.isfinite(value):
            fig.add_scatter(
                x=x,
                y=np.full(len(x), value, dtype=np.float32),
                name={"majority": "majority class", "bag": "bag of words"}[name],
                legendrank={"majority": 3, "bag": 2}[name],
                mode="lines",
                line={"color": light(name), "width": 1.8, "dash": dash},
                hovertemplate="%{y:.3f}",
            )
    bounds = np.stack([f32(result.accuracy_low), f32(result.accuracy_high)], axis=1)
    fig.add_scatter(
        x=x,
        y=f32(result.accuracy),
        name="probe",
        legendrank=1,
        mode="lines+markers",
        line={"color": light("curve"), "width": 2.6},
        marker={"size": 7, "color": light("curve")},
        customdata=bounds,
        text=[label(h) for h in result.hookpoints],
        hovertemplate="%{y:.3f} at %{text} (%{customdata[0]:.3f} to %{customdata[1]:.3f})",
    )
    _marks(fig, result)
    house(fig, label(result.name), alt=depth_alt(result))
    depth_axis(fig, result.hookpoints)
    bottom, top = _accuracy_range(result)
    fig.update_yaxes(
        title_text="accuracy on held-out rows",
        range=[bottom, top],
        tickformat=".1f" if top - bottom > 0.4 else ".2f",
    )
    # Plotly knows only the number of x in this title, which is not the layer's: the row names it.
    fig.update_xaxes(unifiedhovertitle_text="accuracy")
    fig.update_layout(hovermode="x unified", height=430)
    return fig


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
    depths = [r for r in results if isinstance(r, ConceptDepth)]
    if not depths or len(depths) < len(results):
        raise ParameterError("heatmap draws one or more results of concept_depth and no others.")
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
    names = [label(r.name, 34) for r in depths]
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


def depth_alt(result: ConceptDepth) -> str:
    """The curve in words: where it starts, peaks and ends, its controls and its two points."""
    curve, names = result.accuracy, result.hookpoints
    known = [i for i in range(len(names)) if math.isfinite(curve[i])]
    if not known:
        return f"{result.name}: the accuracy is undefined at every hook point."
    first, last = known[0], known[-1]
    peak = max(known, key=lambda i: (curve[i], -i))
    start, top = f"{curve[first]:.2f} at {names[first]}", f"{curve[peak]:.2f} at {names[peak]}"
    if peak == first:
        text = f"{result.name}: accuracy is highest at the first hook point, {start}"
    else:
        text = f"{result.name}: accuracy rises from {start} to {top}"
    low, high = result.accuracy_low[peak], result.accuracy_high[peak]
    text += f" (95 % interval {low:.2f} to {high:.2f})"
    if last != peak:
        text += f" and is {curve[last]:.2f} at {names[last]}"
    parts = []
    for name, value in (("majority", result.majority), ("bag of words", result.bag_of_words)):
        if value is not None and math.isfinite(value):
            parts.append(f"{name} {value:.2f}")
    if np.isfinite(result.shuffled).any():
        parts.append(f"shuffled labels {least(result.shuffled):.2f} to {most(result.shuffled):.2f}")
    for name, at in (("jump", result.jump_hookpoint), ("convergence", result.converging_hookpoint)):
        if at is not None:
            parts.append(f"{name} at {at}")
    return f"{text}; {', '.join(parts)}." if parts else f"{text}."


def heatmap_alt(results: Sequence[ConceptDepth], value: str = "accuracy") -> str:
    """The heat map in words: the peak of each concept, for at most twelve of them."""
    peaks = []
    for r in results[:12]:
        curve = getattr(r, value)
        if np.isfinite(curve).any():
            i = int(np.nanargmax(curve))
            peaks.append(f"{r.name} {curve[i]:.2f} at {r.hookpoints[i]}")
        else:
            peaks.append(f"{r.name} undefined")
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


def _accuracy_range(result: ConceptDepth) -> list[float]:
    """The least of all that is drawn, less a little, up to just above 1."""
    values = [result.accuracy_low, result.accuracy, result.shuffled, result.shuffled_low]
    values += [[v] for v in (result.majority, result.bag_of_words) if v is not None]
    lowest = least(np.concatenate([f32(v).ravel() for v in values]))
    return [max(0.0, math.floor((lowest - 0.03) * 20) / 20), 1.03]


def _marks(fig: Plot, result: ConceptDepth) -> None:
    """Mark the jump and converging points on the curve, each with a labelled line to the axis."""
    wide = len(result.hookpoints) - 1
    taken: float | None = None
    for name, point, hookpoint, symbol, rank in (
        ("jump", result.jump_point, result.jump_hookpoint, "triangle-up", 5),
        ("converging", result.converging_point, result.converging_hookpoint, "square", 6),
    ):
        if point is None or hookpoint is None:
            continue
        at = result.hookpoints.index(hookpoint)
        fig.add_scatter(
            x=f32([at]),
            y=f32([result.accuracy[at]]),
            name=f"{name} point",
            legendrank=rank,
            mode="markers",
            marker={
                "symbol": symbol,
                "size": 13,
                "color": light("paper"),
                "line": {"width": 2.4, "color": light("curve")},
            },
            hoverinfo="skip",
        )
        # Two labels side by side would overlap on a phone: the second then goes to the foot.
        crowded = taken is not None and abs(at - taken) < 0.5 * wide
        taken = at
        fig.add_vline(
            x=at,
            line={"width": 1, "dash": "2px,3px", "color": light("soft")},
            layer="below",
            annotation={
                "text": f"{name} {point:.2f}",
                "yref": "paper",
                "y": 0.0 if crowded else 1.0,
                "yanchor": "bottom",
                "xanchor": "right" if at > wide / 2 else "left",
                "showarrow": False,
                "font": {"size": 12, "color": light("soft")},
            },
        )
