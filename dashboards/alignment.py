"""Alignment quality as figures: by layer, by axiom, pooled, from model to model, and as a map."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from dashboards import html, tables
from dashboards.html import label
from dashboards.points import points
from dashboards.style import Plot, band, depth_axis, f32, house, light
from probes.alignment import AQI
from probes.alignment_shift import DeltaAQI
from probes.alignment_tables import AQIByAxiom, AQIByLayer
from probes.layer_pooling import ON_LAYER, LayerPooling
from probes.maps import ClusterMap

__all__ = [
    "alarm",
    "aqi_bars",
    "aqi_curve",
    "aqi_reading",
    "axiom_bars",
    "axiom_reading",
    "curve_reading",
    "delta_curve",
    "delta_reading",
    "map_points",
    "map_reading",
    "map_scatter",
    "weight_bars",
    "weight_reading",
]

METHODS = {"tsne": "t-SNE", "umap": "UMAP"}
CLASSES = (
    ("safe", "curve", "circle"), ("unsafe", "bag", "x"), ("", "untrained", "square"),
    ("", "shuffled", "diamond"), ("", "features", "cross"),
)  # fmt: skip
"""What the classes of a map are drawn with, in turn."""
PALEST = 0.5
"""Opacity of a map's points."""


# ---- one matrix


def aqi_bars(result: AQI) -> Plot:
    """The index with its interval, beside what shuffled labels and the words alone give.

    Parameters
    ----------
    result : of `probes.aqi`.
    """
    low, high = result.interval or (math.nan, math.nan)
    null, words = result.null or {}, result.words or {}
    rows = [("AQI", result.value, low, high, "curve")]
    if null:
        rows.append(("shuffled labels, 95 %", null["high"], math.nan, math.nan, "shuffled"))
    if words and result.mode == "recommended":
        rows.append(("words alone", words["score"], math.nan, math.nan, "bag"))
    fig = Plot()
    for i, (name, value, down, up, colour) in enumerate(rows):
        _dot(fig, value, i, (down, up), name, colour)
    house(fig, label(f"{tables.concept(result)}, AQI"), alt=_aqi_alt(result))
    _named_rows(fig, [row[0] for row in rows], _axis(result.mode, result.variant))
    return fig


def aqi_reading(result: AQI) -> str:
    """How to read the index."""
    return _reading(result.mode)


# ---- by layer


def aqi_curve(result: AQIByLayer) -> Plot:
    """AQI by depth with its 95 % interval, above what 95 % of shuffled labels stay below.

    Parameters
    ----------
    result : of `probes.aqi_by_layer`.
    """
    x = np.arange(len(result.hookpoints), dtype=np.float32)
    fig = Plot()
    band(fig, x, result.low, result.high, "curve band", group="aqi")
    words = result.words if result.mode == "recommended" else None
    for values, name, colour, dash in (
        (result.null_high, "shuffled labels, 95 %", "shuffled", "dot"),
        (np.full(len(x), words["score"]) if words else None, "words alone", "bag", "longdashdot"),
    ):
        if values is not None and np.isfinite(values).any():
            fig.add_scatter(
                x=x,
                y=f32(values),
                name=name,
                mode="lines" if len(x) > 1 else "markers",
                line={"color": light(colour), "width": 1.8, "dash": dash},
                hovertemplate="%{y:.4f}",
            )
    fig.add_scatter(
        x=x,
        y=f32(result.value),
        name="AQI",
        mode="lines+markers",
        legendgroup="aqi",
        line={"color": light("curve"), "width": 2.4},
        hovertemplate="%{y:.4f}",
    )
    house(fig, label(f"{tables.concept(result)}, AQI by layer"), alt=_curve_alt(result))
    depth_axis(fig, result.hookpoints)
    fig.update_yaxes(title_text=_axis(result.mode, result.variant), rangemode="tozero")
    fig.update_layout(hovermode="x unified", height=420)
    return fig


def curve_reading(result: AQIByLayer) -> str:
    """How to read the curve, and what the words alone say."""
    text = _reading(result.mode)
    if result.words:
        text += (
            f" A probe of the words alone tells {result.words['accuracy']:.0%} of held-out rows "
            f"rightly, where the commonest class is {result.words['majority']:.0%}."
        )
    return text


# ---- by axiom


def axiom_bars(result: AQIByAxiom) -> Plot:
    """AQI of each axiom with its interval, and what 95 % of shuffled labels stay below.

    Parameters
    ----------
    result : of `probes.aqi_by_axiom`.
    """
    fig = Plot()
    names = [
        f"{name} ({a}/{b})" for name, a, b in zip(result.axioms, result.n1, result.n2, strict=True)
    ]
    for i, name in enumerate(names):
        colour = "majority" if result.axioms[i] == "overall" else "curve"
        ends = float(result.low[i]), float(result.high[i])
        _dot(fig, float(result.value[i]), i, ends, name, colour)
    fig.add_scatter(
        x=f32(result.null_high),
        y=f32(np.arange(len(names))),
        mode="markers",
        name="shuffled labels, 95 %",
        marker={"symbol": "line-ns", "size": 14, "line": {"color": light("shuffled"), "width": 2}},
        hovertemplate="%{x:.4f}",
    )
    house(fig, label(f"{tables.concept(result)}, AQI by axiom"), alt=_axiom_alt(result))
    _named_rows(fig, names, _axis(result.mode, None))
    return fig


def axiom_reading(result: AQIByAxiom) -> str:
    """How to read the rows."""
    where = f" Read at {result.hookpoint}." if result.hookpoint else ""
    return f"Safe and unsafe rows in brackets.{where} {_reading(result.mode)}"


# ---- pooled layers


def weight_bars(result: LayerPooling) -> Plot:
    """The learned weight of each layer.

    Parameters
    ----------
    result : of `probes.pool_layers`.
    """
    fig = Plot()
    fig.add_bar(
        x=f32(np.arange(len(result.hookpoints))),
        y=f32(result.weights),
        marker={"color": light("curve")},
        hovertemplate="%{y:.4f}<extra></extra>",
        showlegend=False,
    )
    house(fig, label(f"{tables.concept(result)}, pooled layers"), alt=_weight_alt(result))
    depth_axis(fig, result.hookpoints)
    fig.update_yaxes(title_text=f"weight ({result.method})", range=[0, 1.02])
    fig.update_layout(height=360, hovermode="closest", bargap=0.4)
    return fig


def weight_reading(result: LayerPooling) -> str:
    """What the pooled rows score where the weights were not learned, beside simpler choices."""
    return (
        "Held out is the half that the weights were not learned on; on the half that they were, "
        f"AQI is {result.trained:.3f}. On held-out rows equal weights give {result.uniform:.3f}, "
        f"and {result.best_hookpoint} alone, the best of the training half, {result.best:.3f}."
    )


# ---- from model to model


def delta_curve(result: DeltaAQI) -> Plot:
    """How far AQI moves from the first model to the second, with its paired interval.

    Parameters
    ----------
    result : of `probes.delta_aqi` or `delta_aqi_by_layer`.
    """
    x = np.arange(len(result.hookpoints), dtype=np.float32)
    fig = Plot()
    if len(x) > 1:
        band(fig, x, result.low, result.high, "curve band", group="delta")
    error = {
        "type": "data",
        "symmetric": False,
        "array": f32(result.high - result.delta),
        "arrayminus": f32(result.delta - result.low),
        "color": light("curve"),
    }
    for values, name, colour, dash in (
        (result.first, result.models[0], "untrained", "dash"),
        (result.second, result.models[1], "bag", "dot"),
    ):
        fig.add_scatter(
            x=x,
            y=f32(values),
            name=label(f"AQI of {name}", 40),
            mode="lines+markers",
            line={"color": light(colour), "width": 1.6, "dash": dash},
            hovertemplate="%{y:.4f}",
        )
    fig.add_scatter(
        x=x,
        y=f32(result.delta),
        name="difference",
        mode="lines+markers",
        legendgroup="delta",
        line={"color": light("curve"), "width": 2.4},
        error_y=error if len(x) == 1 else None,
        hovertemplate="%{y:.4f}",
    )
    at = [i for i, h in enumerate(result.hookpoints) if h in result.alarms]
    if at:
        fig.add_scatter(
            x=f32(at),
            y=f32(result.delta[at]),
            name="alarm",
            mode="markers",
            marker={"symbol": "x", "size": 12, "color": light("bag")},
            hoverinfo="skip",
        )
    fig.add_hline(y=0, line={"color": light("soft"), "width": 1})
    house(fig, label(f"{tables.concept(result)}, delta-AQI"), alt=_delta_alt(result))
    depth_axis(fig, result.hookpoints)
    fig.update_yaxes(title_text="AQI, and its difference")
    fig.update_layout(hovermode="x unified", height=420)
    return fig


def delta_reading(result: DeltaAQI) -> str:
    """How to read the difference."""
    scaled = (
        "Activations are standardised over the rows of both models together, so AQI is not that of "
        "the curve of either. "
        if result.normalise == "joint"
        else ""
    )
    return (
        f"{scaled}The interval is of a bootstrap that draws the same prompts for both models, and "
        "holds at all hook points together. Below 0 the second model separates less."
    )


def alarm(result: DeltaAQI) -> list[html.Part]:
    """The alarm in words, or nothing."""
    if not result.alarm:
        return []
    i = min(
        (result.hookpoints.index(h) for h in result.alarms), key=lambda j: float(result.delta[j])
    )
    text = (
        "Alarm: ", html.Code(result.models[1], 60), " separates safe from unsafe less than ",
        html.Code(result.models[0], 60), " at ",
        f"{tables.plural(len(result.alarms), 'hook point')} of {len(result.hookpoints)}; most at ",
        html.Code(result.hookpoints[i], 60),
        f", where AQI falls from {result.first[i]:.3f} to {result.second[i]:.3f} "
        f"(difference {result.delta[i]:.3f}, interval {result.low[i]:.3f} to "
        f"{result.high[i]:.3f}).",
    )  # fmt: skip
    return [html.Paragraph(text, "warning")]


# ---- the map


def map_scatter(result: ClusterMap) -> Plot:
    """The rows where the map puts them, by class.

    Parameters
    ----------
    result : of `probes.cluster_map`.
    """
    fig = Plot()
    labels = np.array(result.labels, dtype=object)
    for name, colour, symbol in _classes(result.labels):
        mine = np.flatnonzero(labels == name)
        texts = [label(result.texts[i], 80) for i in mine] if result.texts else None
        fig.add_scatter(
            x=f32(result.xy[mine, 0]),
            y=f32(result.xy[mine, 1]),
            mode="markers",
            name=label(f"{name} ({len(mine):,})", 40),
            text=texts,
            marker={"color": light(colour), "symbol": symbol, "size": 6, "opacity": PALEST},
            hovertemplate="%{text}" if texts else "%{x:.2f}, %{y:.2f}",
        )
    title = f"{tables.concept(result)}, {METHODS[result.method]} map"
    house(fig, label(title), alt=_map_alt(result))
    hidden = {"showticklabels": False, "ticks": "", "title_text": ""}
    fig.update_xaxes(**hidden)
    fig.update_yaxes(**hidden, scaleanchor="x")
    fig.update_layout(height=480, hovermode="closest")
    return fig


def map_reading(result: ClusterMap) -> str:
    """What a map does not say."""
    where = f" of {result.hookpoint}" if result.hookpoint else ""
    return (
        f"A {METHODS[result.method]} map{where}, of the activations alone, without the labels. "
        "Gaps and distances in it mean little, and no number here is computed on it."
    )


def map_points(result: ClusterMap, part_id: str) -> html.Part:
    """The map on the page: a point opens the input it is; thousands are drawn at once."""
    said = result.texts or [""] * len(result.rows)
    return points(
        f"{part_id}-map",
        result.xy,
        result.labels,
        said,
        alt=_map_alt(result),
        kind="input",
        number=result.rows,
        caption=map_reading(result),
    )


# ---- what they share


def _reading(mode: str) -> str:
    if mode == "recommended":
        return (
            "AQI is the share of variance that lies between safe and unsafe rows, both counted "
            "alike: 0 where the two have one mean, 1 where neither has any spread."
        )
    if mode == "paper":
        return "The paper's AQI grows with the number of rows: compare it at one n only."
    return "As the authors' code computes it."


def _axis(mode: str, variant: str | None) -> str:
    return {"recommended": "AQI", "paper": "AQI (paper)"}.get(mode, f"AQI ({variant})")


def _dot(
    fig: Plot, value: float, row: int, ends: tuple[float, float], name: str, colour: str
) -> None:
    known = all(map(math.isfinite, ends))
    interval = {
        "type": "data",
        "symmetric": False,
        "array": f32([ends[1] - value]),
        "arrayminus": f32([value - ends[0]]),
        "color": light(colour),
    }
    said = f"{value:.4f}" + (f" ({ends[0]:.4f} to {ends[1]:.4f})" if known else "")
    fig.add_scatter(
        x=f32([value]),
        y=f32([row]),
        mode="markers",
        marker={"color": light(colour), "size": 10},
        error_x=interval if known else None,
        hovertemplate=f"{label(name, 60)}: {said}<extra></extra>",
        showlegend=False,
    )


def _named_rows(fig: Plot, names: Sequence[str], title: str) -> None:
    fig.update_xaxes(title_text=title, rangemode="tozero")
    fig.update_yaxes(
        tickmode="array",
        tickvals=f32(np.arange(len(names))),
        ticktext=[label(name, 34) for name in names],
        range=[len(names) - 0.5, -0.5],
        showgrid=False,
        ticks="",
    )
    fig.update_layout(height=150 + 34 * len(names), hovermode="closest")


def _classes(labels: Sequence[str]) -> list[tuple[str, str, str]]:
    """Class, colour and symbol; safe and unsafe always have theirs."""
    names = sorted(set(labels), key=lambda n: (n == "unsafe", n))
    return [
        (name, CLASSES[i % len(CLASSES)][1], CLASSES[i % len(CLASSES)][2])
        for i, name in enumerate(names)
    ]


def _number(value: Any, digits: int = 3) -> str:
    if value is None or not math.isfinite(value):
        return "undefined"
    return f"{value:.{digits}f}"


def _interval(low: Any, high: Any) -> str:
    if low is None or high is None or not math.isfinite(low + high):
        return ""
    return f" ({low:.3f} to {high:.3f})"


def _aqi_alt(result: AQI) -> str:
    low, high = result.interval or (None, None)
    text = f"AQI of {tables.concept(result)}: {_number(result.value)}{_interval(low, high)}"
    if "value" in result.reasons:
        text += f", because {result.reasons['value'].rstrip('.')}"
    if result.null:
        text += f"; 95 % of shuffled labels stay below {result.null['high']:.3f}"
    return f"{text}; {result.n1:,} safe and {result.n2:,} unsafe rows."


def _curve_alt(result: AQIByLayer) -> str:
    if result.peak is None:
        return f"AQI of {tables.concept(result)} is undefined at every hook point."
    i = result.hookpoints.index(result.peak_hookpoint or "")
    above = sum(p <= 0.05 for p in result.p_adjusted if math.isfinite(p))
    first, last = (_number(v) for v in (result.value[0], result.value[-1]))
    return (
        f"AQI of {tables.concept(result)} over {len(result.hookpoints)} hook points, "
        f"{result.n1:,} safe and {result.n2:,} unsafe rows: from {first} at {result.hookpoints[0]} "
        f"to {last} at {result.hookpoints[-1]}, highest {result.peak:.3f}"
        f"{_interval(result.low[i], result.high[i])} at {result.peak_hookpoint}. It beats shuffled "
        f"labels at {above} of them."
    )


def _axiom_alt(result: AQIByAxiom) -> str:
    rows = [
        f"{name} {_number(value)}{_interval(low, high)}"
        for name, value, low, high in zip(
            result.axioms, result.value, result.low, result.high, strict=True
        )
    ]
    shown = "; ".join(rows[:12]) + (f"; and {len(rows) - 12} more" if len(rows) > 12 else "")
    return f"AQI of {tables.concept(result)} by axiom: {shown}."


def _held(result: LayerPooling) -> str:
    found = result.held_out
    return f"{_number(found['value'])}{_interval(found['low'], found['high'])}"


def _weight_alt(result: LayerPooling) -> str:
    used = int((result.weights > ON_LAYER).sum())
    most = int(np.argmax(result.weights))
    return (
        f"Weights of {len(result.hookpoints)} layers of {tables.concept(result)} by "
        f"{result.method}: {used} are above 0, the largest {result.weights[most]:.2f} at "
        f"{result.hookpoints[most]}. Held-out AQI {_held(result)}."
    )


def _delta_alt(result: DeltaAQI) -> str:
    known = np.isfinite(result.delta)
    if not known.any():
        return f"Delta-AQI of {tables.concept(result)} is undefined at every hook point."
    i = int(np.nanargmin(result.delta))
    ends = _interval(result.low[i], result.high[i])
    where = f"{len(result.alarms)} of {len(result.hookpoints)} hook points raise the alarm"
    return (
        f"AQI of {tables.concept(result)} in {result.models[1]} less that in {result.models[0]}: "
        f"lowest {result.delta[i]:.3f}{ends} at {result.hookpoints[i]}; {where}."
    )


def _map_alt(result: ClusterMap) -> str:
    counts = ", ".join(
        f"{result.labels.count(name):,} {name}" for name in dict.fromkeys(result.labels)
    )
    return f"{METHODS[result.method]} map of {tables.concept(result)}: {counts}. For the eye only."
