"""Concept depth as a figure: accuracy by depth, the controls it must beat, and its points."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from dashboards import tables
from dashboards.html import label
from dashboards.style import Plot, band, depth_axis, f32, house, least, light, most
from probes.depth import ConceptDepth

__all__ = ["POINTS", "Point", "curve_of", "depth_alt", "depth_curve", "interval_of", "range_text"]


@dataclass(frozen=True)
class Point:
    """A depth that is one number, and how it is drawn.

    ``name`` is what the legend says, ``field`` the attribute with the fraction and ``at`` the one
    with the hook point. Sizes differ, so that points in one place are all seen.
    """

    name: str
    field: str
    at: str
    symbol: str
    size: int
    rank: int


POINTS = (
    Point("onset", "onset_depth", "onset_hookpoint", "diamond", 18, 7),
    Point("converging", "converging_point", "converging_hookpoint", "square", 13, 9),
    Point("jump", "jump_point", "jump_hookpoint", "triangle-up", 8, 8),
)
"""The points of a depth curve, in the order they are drawn."""


LETTER = 7 / 280
"""Width of a letter of a label, as a share of the picture's width on a phone."""


@dataclass(frozen=True)
class _Control:
    """A curve that the probe must beat; ``shown`` is False where only the legend offers it."""

    field: str
    name: str
    colour: str
    dash: str
    symbol: str
    rank: int
    shown: bool = True


CONTROLS = (
    _Control("random_features", "random features", "features", "2px,5px", "cross-thin", 6, False),
    _Control("random_model", "random-initialised model", "untrained", "dashdot", "circle-open", 3),
    _Control("shuffled", "shuffled labels", "shuffled", "dot", "x-thin", 5),
)
"""The controls that are curves, in the order they are drawn. Random features say least: where a
random-initialised model is there it is the harder one to beat."""


def curve_of(result: ConceptDepth, name: str) -> np.ndarray | None:
    """A curve of the result, or None where it is absent or undefined at every hook point."""
    values = getattr(result, name, None)
    if values is None or not np.isfinite(np.asarray(values, dtype=float)).any():
        return None
    return np.asarray(values)


def interval_of(result: ConceptDepth, name: str) -> tuple[float, float] | None:
    """The interval of a point such as ``"onset"``, as fractions of depth, or None.

    The upper end is inf where the point may lie beyond the last layer, which is nowhere.
    """
    low, high = (getattr(result, f"{name}_{end}", None) for end in ("low", "high"))
    if low is None or not math.isfinite(low):
        return None
    return float(low), math.inf if high is None else float(high)


def range_text(ends: tuple[float, float], joined: str = " to ") -> str:
    """An interval of depth in words."""
    return f"{ends[0]:.2f}{joined}" + ("none" if math.isinf(ends[1]) else f"{ends[1]:.2f}")


def depth_curve(result: ConceptDepth) -> Plot:
    """Accuracy by depth with its 95 % interval, the controls, and onset, jump and convergence.

    What the result does not hold is not drawn; random features are drawn from the legend.

    Parameters
    ----------
    result : of `probes.concept_depth`.
    """
    x = np.arange(len(result.hookpoints), dtype=np.float32)
    fig = Plot()
    for control in CONTROLS:
        _control(fig, x, result, control)
    for name, value, dash, said, rank in (
        ("majority", result.majority, "dash", "majority class", 4),
        ("bag", result.bag_of_words, "longdashdot", "bag of words", 2),
    ):
        if value is not None and math.isfinite(value):
            fig.add_scatter(
                x=x,
                y=np.full(len(x), value, dtype=np.float32),
                name=said,
                legendrank=rank,
                mode="lines",
                line={"color": light(name), "width": 1.8, "dash": dash},
                hovertemplate="%{y:.3f}",
            )
    band(fig, x, result.accuracy_low, result.accuracy_high, "curve band")
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
    rows = _marks(fig, result)
    house(fig, label(tables.concept(result)), alt=depth_alt(result))
    depth_axis(fig, result.hookpoints)
    bottom, top = _accuracy_range(result)
    fig.update_yaxes(
        title_text="accuracy on held-out rows",
        range=[bottom, top],
        tickformat=".1f" if top - bottom > 0.4 else ".2f",
    )
    # Plotly knows only the number of x in this title, which is not the layer's: the row names it.
    fig.update_xaxes(unifiedhovertitle_text="accuracy")
    above = 15 * max(0, rows - 1)
    traces: Any = fig.data
    entries = sum(t.showlegend is not False for t in traces)
    # A phone fits two entries of the legend in a row: the picture keeps its height under more.
    below = 22 * max(0, math.ceil(entries / 2) - 3)
    fig.update_layout(hovermode="x unified", height=430 + above + below, margin={"t": 56 + above})
    return fig


def depth_alt(result: ConceptDepth) -> str:
    """The curve in words: where it starts, peaks and ends, its controls and its points."""
    curve, names = result.accuracy, result.hookpoints
    known = [i for i in range(len(names)) if math.isfinite(curve[i])]
    if not known:
        return f"{tables.concept(result)}: the accuracy is undefined at every hook point."
    first, last = known[0], known[-1]
    peak = max(known, key=lambda i: (curve[i], -i))
    start, top = f"{curve[first]:.2f} at {names[first]}", f"{curve[peak]:.2f} at {names[peak]}"
    if peak == first:
        text = f"{tables.concept(result)}: accuracy is highest at the first hook point, {start}"
    else:
        text = f"{tables.concept(result)}: accuracy rises from {start} to {top}"
    low, high = result.accuracy_low[peak], result.accuracy_high[peak]
    text += f" (95 % interval {low:.2f} to {high:.2f})"
    if last != peak:
        text += f" and is {curve[last]:.2f} at {names[last]}"
    parts = []
    for name, value in (("majority", result.majority), ("bag of words", result.bag_of_words)):
        if value is not None and math.isfinite(value):
            parts.append(f"{name} {value:.2f}")
    for control in reversed(CONTROLS):
        values = curve_of(result, control.field)
        if values is not None:
            parts.append(f"{control.name} {least(values):.2f} to {most(values):.2f}")
    for name, point in (("jump", "jump"), ("convergence", "converging"), ("onset", "onset")):
        at = getattr(result, f"{point}_hookpoint", None)
        if at is not None:
            parts.append(f"{name} at {at}")
    ends = interval_of(result, "onset")
    if ends is not None:
        parts[-1] += f" (95 % interval of its depth {range_text(ends)})"
    return f"{text}; {', '.join(parts)}." if parts else f"{text}."


def _control(fig: Plot, x: np.ndarray, result: ConceptDepth, control: _Control) -> None:
    """One control with its band, which the legend hides and shows together."""
    values = curve_of(result, control.field)
    if values is None:
        return
    shown: Any = True if control.shown else "legendonly"
    ends = [curve_of(result, f"{control.field}_{end}") for end in ("low", "high")]
    if ends[0] is not None and ends[1] is not None:
        band(fig, x, ends[0], ends[1], f"{control.colour} band", group=control.field, visible=shown)
    colour = light(control.colour)
    fig.add_scatter(
        x=x,
        y=f32(values),
        name=control.name,
        legendgroup=control.field,
        legendrank=control.rank,
        visible=shown,
        mode="lines+markers",
        line={"color": colour, "width": 1.6, "dash": control.dash},
        marker={
            "symbol": control.symbol,
            "size": 7,
            "color": colour,
            "line": {"width": 1.6, "color": colour},
        },
        hovertemplate="%{y:.3f}",
    )


def _accuracy_range(result: ConceptDepth) -> list[float]:
    """The least of all that is drawn, less a little, up to just above 1."""
    values: list[Any] = [result.accuracy_low, result.accuracy]
    for control in CONTROLS:
        values += [curve_of(result, f"{control.field}{end}") for end in ("", "_low")]
    values += [result.majority, result.bag_of_words]
    drawn = [f32(v).ravel() for v in values if v is not None]
    return [max(0.0, math.floor((least(np.concatenate(drawn)) - 0.03) * 20) / 20), 1.03]


def _marks(fig: Plot, result: ConceptDepth) -> int:
    """Mark each point on the curve with its interval, and name it above the picture."""
    said: dict[int, list[tuple[int, str]]] = {}
    for point in POINTS:
        value, hookpoint = getattr(result, point.field, None), getattr(result, point.at, None)
        if value is None or hookpoint not in result.hookpoints:
            continue
        at = result.hookpoints.index(hookpoint)
        fig.add_scatter(
            x=f32([at]),
            y=f32([result.accuracy[at]]),
            name=f"{point.name} point" if point.name != "onset" else "onset",
            legendrank=point.rank,
            mode="markers",
            marker={
                "symbol": point.symbol,
                "size": point.size,
                "color": light("paper"),
                "line": {"width": 2.2, "color": light("curve")},
            },
            error_x=_error(result, point, at),
            hoverinfo="skip",
        )
        said.setdefault(at, []).append((point.rank, f"{point.name} {value:.2f}"))
    texts = {at: ", ".join(text for _, text in sorted(said[at])) for at in sorted(said)}
    return _labels(fig, texts, len(result.hookpoints) - 1)


def _labels(fig: Plot, said: dict[int, str], wide: int) -> int:
    """A line from each point to its label, in as many rows as a phone needs, which it returns."""
    rows: list[list[tuple[float, float]]] = []
    for at, text in said.items():
        # Labels that would overlap on a phone stand in different rows.
        length = len(text) * LETTER * (wide + 1)
        start, end = (at - length, at) if at > wide / 2 else (at, at + length)
        free = [i for i, row in enumerate(rows) if all(end < a or b < start for a, b in row)]
        row = free[0] if free else len(rows)
        rows += [[]] if row == len(rows) else []
        rows[row].append((start, end))
        fig.add_vline(
            x=at,
            line={"width": 1, "dash": "2px,3px", "color": light("soft")},
            layer="below",
            annotation={
                "text": text,
                "yref": "paper",
                "y": 1.0,
                "yshift": 15 * row,
                "yanchor": "bottom",
                "xanchor": "right" if at > wide / 2 else "left",
                "showarrow": False,
                "font": {"size": 12, "color": light("soft")},
            },
        )
    return len(rows)


def _error(result: ConceptDepth, point: Point, at: int) -> dict[str, Any] | None:
    """The interval of a point along the axis of hook points; depths count layers from 0."""
    ends = interval_of(result, point.name)
    if ends is None or not result.layers:
        return None
    last = len(result.layers) - 1
    low, high = (result.layers[round(min(max(e * (last + 1), 0), last))] for e in ends)
    low = min(low, at)
    return {
        "type": "data",
        "symmetric": False,
        "array": f32([max(high - at, 0)]),
        "arrayminus": f32([max(at - low, 0)]),
        "color": light("curve"),
        "thickness": 1.6,
        "width": 6,
    }
