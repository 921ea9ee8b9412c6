"""Several results of concept depth in one figure: concepts by depth, and models side by side.

Models differ in their number of layers, so here depth is a fraction: the layers passed at a hook
point over all layers, 0 at the embedding and 1 at the last layer. All points are placed where
their hook points lie, whichever way the measure itself counts.
"""

import math
from collections.abc import Sequence

import numpy as np

from dashboards import tables
from dashboards.depth import POINTS, Point, curve_of, interval_of
from dashboards.html import label
from dashboards.style import (
    Plot,
    band,
    f32,
    house,
    least,
    light,
)
from interp.errors import ParameterError
from interp.results import Result
from probes.depth import ConceptDepth

__all__ = [
    "PEAK",
    "by_concept",
    "compare",
    "depth_points",
    "fractions",
    "only_depths",
    "ordered_by",
    "placed",
    "series",
]

LOOKS = (
    ("curve", "solid", "circle"),
    ("bag", "dash", "square"),
    ("untrained", "dashdot", "diamond"),
    ("shuffled", "dot", "triangle-up"),
    ("features", "longdash", "x"),
    ("majority", "longdashdot", "triangle-down"),
)
"""Colour, dash and marker of one model after the other."""
PEAK = Point("peak", "peak", "peak_hookpoint", "circle", 10, 4)
AXIS = "depth (layers passed / all layers)"


def fractions(result: ConceptDepth) -> np.ndarray:
    """Depth of each hook point: layers passed over all layers; nan where there are none.

    A hook point that is no layer, such as the final norm, lies half a layer after the one before.
    """
    counted, passed, depths = set(result.layers), 0, []
    for i in range(len(result.hookpoints)):
        passed += i in counted
        depths.append(passed if i in counted or not passed else passed + 0.5)
    return np.array(depths) / (len(counted) or math.nan)


def placed(result: ConceptDepth, hookpoint: str | None) -> float:
    """Depth of a hook point as in `fractions`, or nan."""
    if hookpoint is None or hookpoint not in result.hookpoints:
        return math.nan
    return float(fractions(result)[result.hookpoints.index(hookpoint)])


def series(results: Sequence[ConceptDepth]) -> list[str]:
    """What tells each result from the others of its concept: the model, then what else differs."""
    told = [
        (
            model or "a model without a name",
            r.mode,
            str(getattr(r, "probe", "logistic")),
            "a prompt" if getattr(r, "prompt", None) else "no prompt",
        )
        for r, model in zip(results, tables.model_names(results), strict=True)
    ]
    differ = [i for i in range(1, 4) if len({t[i] for t in told}) > 1]
    return [", ".join([t[0], *(t[i].replace("_", " ") for i in differ)]) for t in told]


def by_concept(results: Sequence[ConceptDepth]) -> dict[str, list[ConceptDepth]]:
    """Results by concept, the earliest concept first: by mean onset, else by mean convergence."""
    groups: dict[str, list[ConceptDepth]] = {}
    for r in results:
        groups.setdefault(tables.concept(r), []).append(r)

    def depth(name: str) -> tuple[float, str]:
        at = np.array([placed(r, getattr(r, ordered_by(results)[1], None)) for r in groups[name]])
        return (float(np.nanmean(at)) if np.isfinite(at).any() else math.inf), name

    return {name: groups[name] for name in sorted(groups, key=depth)}


def ordered_by(results: Sequence[ConceptDepth]) -> tuple[str, str]:
    """The measure that orders the concepts, in words and as a field."""
    if any(getattr(r, "onset_hookpoint", None) for r in results):
        return "onset", "onset_hookpoint"
    return "converging point", "converging_hookpoint"


def compare(results: Sequence[Result]) -> Plot:
    """One concept in several models: accuracy with its interval by depth as a fraction.

    Parameters
    ----------
    results : of `probes.concept_depth`, all of one concept, one a model (or mode, or probe).

    Raises
    ------
    ParameterError
        There are no results, they are of another kind, or of different concepts.
    """
    depths = only_depths(results, "compare")
    if len({tables.concept(r) for r in depths}) > 1:
        raise ParameterError("compare draws one concept in several models; draw one a concept.")
    names = series(depths)
    fig = Plot()
    drawn = []
    for i, (r, name) in enumerate(zip(depths, names, strict=True)):
        colour, dash, symbol = LOOKS[i % len(LOOKS)]
        dash = "solid" if i >= len(LOOKS) else dash
        x = f32(fractions(r))
        band(fig, x, r.accuracy_low, r.accuracy_high, f"{colour} band", group=f"s{i}")
        fig.add_scatter(
            x=x,
            y=f32(r.accuracy),
            name=label(name, 40),
            legendgroup=f"s{i}",
            mode="lines+markers",
            line={"color": light(colour), "width": 2.2, "dash": dash},
            marker={"symbol": symbol, "size": 7, "color": light(colour)},
            customdata=np.stack([f32(r.accuracy_low), f32(r.accuracy_high)], axis=1),
            text=[label(h) for h in r.hookpoints],
            hovertemplate="%{y:.3f} at %{text} (%{customdata[0]:.3f} to %{customdata[1]:.3f})",
        )
        drawn += [r.accuracy, r.accuracy_low]
    house(fig, label(tables.concept(depths[0])), alt=_compare_alt(depths, names))
    bottom = math.floor((least(np.concatenate(drawn)) - 0.03) * 20) / 20
    fig.update_yaxes(
        title_text="accuracy on held-out rows",
        range=[max(0.0, bottom), 1.03],
        tickformat=".1f" if bottom < 0.6 else ".2f",
    )
    fig.update_xaxes(title_text=AXIS, range=[-0.04, 1.06], dtick=0.2, tickformat=".1f")
    fig.update_layout(hovermode="closest", height=420 + 18 * max(0, len(depths) - 3))
    return fig


def depth_points(results: Sequence[Result]) -> Plot:
    """Onset, jump, converging and peak depth: a row a concept and model, the earliest first.

    Parameters
    ----------
    results : of `probes.concept_depth`; concepts and models may both differ.

    Raises
    ------
    ParameterError
        There are no results, or they are of another kind.
    """
    depths = only_depths(results, "depth_points")
    groups = by_concept(depths)
    names = dict(zip(map(id, depths), series(depths), strict=True))
    several = any(len(g) > 1 for g in groups.values())
    rows: list[tuple[float, ConceptDepth]] = []
    ticks: list[str] = []
    heads: list[tuple[float, str]] = []
    y = 0.0
    for concept, group in groups.items():
        if several:
            heads.append((y, concept))
            y += 0.8
        for r in group:
            rows.append((y, r))
            ticks.append(label(names[id(r)] if several else concept, 30))
            y += 1.0
    fig = Plot()
    points = (POINTS[0], POINTS[2], POINTS[1], PEAK)
    at = np.array([[placed(r, getattr(r, p.at, None)) for p in points] for _, r in rows])
    for (row, _), places in zip(rows, at, strict=True):
        known = places[np.isfinite(places)]
        if known.size:
            fig.add_scatter(
                x=f32([known.min(), known.max()]),
                y=f32([row, row]),
                mode="lines",
                line={"color": light("line"), "width": 6},
                hoverinfo="skip",
                showlegend=False,
            )
    colours = ("curve", "bag", "shuffled", "untrained")
    for i, (point, colour) in enumerate(zip(points, colours, strict=True)):
        if not np.isfinite(at[:, i]).any():
            continue
        fig.add_scatter(
            x=f32(at[:, i]),
            # Points of one depth would cover each other: each measure has its own height in a row.
            y=f32([row + (i - 1.5) * 0.17 for row, _ in rows]),
            name=point.name if point in (PEAK, POINTS[0]) else f"{point.name} point",
            legendrank=i,
            mode="markers",
            marker={"symbol": point.symbol, "size": 10, "color": light(colour)},
            error_x=_spread([r for _, r in rows], at[:, i], point, colour),
            text=[label(f"{tables.concept(r)}, {names[id(r)]}", 90) for _, r in rows],
            customdata=[label(str(getattr(r, point.at, None))) for _, r in rows],
            hovertemplate=f"{point.name} at %{{customdata}}, depth %{{x:.2f}}"
            "<br>%{text}<extra></extra>",
        )
    for row, concept in heads:
        fig.add_annotation(
            text=f"<b>{label(concept, 44)}</b>",
            x=0,
            xref="paper",
            xanchor="left",
            y=row + 0.1,
            yanchor="middle",
            showarrow=False,
            font={"size": 13, "color": light("ink")},
        )
    house(fig, "Depth by concept", alt=_points_alt(groups, names, several))
    fig.update_xaxes(title_text=AXIS, range=[-0.04, 1.06], dtick=0.2, tickformat=".1f")
    fig.update_yaxes(
        tickmode="array",
        tickvals=f32([row for row, _ in rows]),
        ticktext=ticks,
        range=[y - 0.4, -0.6],
        showgrid=False,
        showline=False,
        ticks="",
    )
    fig.update_layout(height=int(170 + 36 * min(y, 120)), hovermode="closest")
    return fig


def only_depths(results: Sequence[Result], name: str) -> list[ConceptDepth]:
    """The results, refused where there are none or some are of another kind."""
    depths = [r for r in results if isinstance(r, ConceptDepth)]
    if not depths or len(depths) < len(results):
        raise ParameterError(f"{name} draws one or more results of concept_depth and no others.")
    return depths


def _spread(
    rows: Sequence[ConceptDepth], at: np.ndarray, point: Point, colour: str
) -> dict[str, object] | None:
    """Intervals of a point, whose ends count layers from 0, moved to where the axis has them."""
    ends = [interval_of(r, point.name) for r in rows]
    if not any(ends):
        return None
    shifts = [1 / len(r.layers) if r.layers else 0.0 for r in rows]
    low = [a - (e[0] + s) if e else 0.0 for a, e, s in zip(at, ends, shifts, strict=True)]
    high = [min(e[1] + s, 1.0) - a if e else 0.0 for a, e, s in zip(at, ends, shifts, strict=True)]
    return {
        "type": "data",
        "symmetric": False,
        "array": f32(np.maximum(np.nan_to_num(high), 0)),
        "arrayminus": f32(np.maximum(np.nan_to_num(low), 0)),
        "color": light(colour),
        "thickness": 1.6,
        "width": 3,
    }


def _compare_alt(depths: Sequence[ConceptDepth], names: Sequence[str]) -> str:
    said = []
    for r, name in list(zip(depths, names, strict=True))[:8]:
        curve = curve_of(r, "accuracy")
        if curve is None:
            said.append(f"{name} is undefined")
            continue
        i = int(np.nanargmax(curve))
        text = f"{name} peaks at {curve[i]:.2f} ({r.accuracy_low[i]:.2f} to "
        text += f"{r.accuracy_high[i]:.2f}) at depth {fractions(r)[i]:.2f}"
        onset = placed(r, getattr(r, "onset_hookpoint", None))
        said.append(text + (f", onset at {onset:.2f}" if math.isfinite(onset) else ""))
    more = f"; and {len(depths) - 8} more in the table" if len(depths) > 8 else ""
    return f"{tables.concept(depths[0])} by depth as a fraction: {'; '.join(said)}{more}."


def _points_alt(groups: dict[str, list[ConceptDepth]], names: dict[int, str], several: bool) -> str:
    said = []
    rows = [(concept, r) for concept, group in groups.items() for r in group]
    for concept, r in rows[:6]:
        places = [
            f"{p.name} {placed(r, getattr(r, p.at, None)):.2f}"
            for p in (POINTS[0], POINTS[2], POINTS[1], PEAK)
            if math.isfinite(placed(r, getattr(r, p.at, None)))
        ]
        who = f"{concept} in {names[id(r)]}" if several else concept
        said.append(f"{who}: {', '.join(places) or 'no point'}")
    more = f"; and {len(rows) - 6} more in the table" if len(rows) > 6 else ""
    return f"Depth as a fraction of the layers. {'; '.join(said)}{more}."
