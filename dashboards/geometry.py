"""The geometry of a model's layers: a table of measures, likeness of layers, and curves."""

import math

import numpy as np

from dashboards import html, tables
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
    spread,
    ticks,
)
from probes.geometry import MEASURES
from probes.geometry_result import Geometry

__all__ = [
    "curve_figure",
    "geometry_figure",
    "geometry_reading",
    "layer_heat",
    "matrix_figure",
    "meanings",
    "more_figures",
]

NUMBERS = 600
"""Cells of a figure beyond which no numbers are printed in it."""
FLAT = 0.02
"""Least width of a row's colours: what moves less is drawn as hardly moving."""
POINTS = 160
"""Points of a drawn curve; the result keeps all."""
TITLES = {
    "cka": "CKA of layers",
    "rsa": "RSA of layers",
    "rank_curve": "Variance by components",
    "prefixes": "Accuracy by prefix length",
}
LOOKS = (
    ("probe", "probe", "curve", "solid", "circle"),
    ("probe, PCA", "probe, principal components", "untrained", "dash", "circle-open"),
    ("probe, permuted", "probe, random order", "shuffled", "dot", "x-thin-open"),
    ("neighbour", "nearest neighbour", "bag", "solid", "square"),
    ("neighbour, PCA", "neighbour, principal components", "features", "dash", "square-open"),
    ("neighbour, permuted", "neighbour, random order", "majority", "dot", "cross-thin-open"),
)
"""Line of a prefix curve -> its name, colour, dash and marker."""


def geometry_figure(result: Geometry) -> Plot:
    """Layer by measure: each row's colour runs from its own least value to its greatest.

    Parameters
    ----------
    result : of `probes.geometry_by_layer`.
    """
    names = list(result.values)
    z = np.stack([result.values[m] for m in names]) if names else np.zeros((0, 0))
    fig = Plot()
    if names:
        low, high = (np.array([f(row) for row in z]) for f in (_least, _most))
        span = np.maximum(high - low, FLAT)
        shade = (z - low[:, None]) / span[:, None]
        _heat(fig, shade, [[_number(v) for v in row] for row in z], 0, 1, "row")
    house(fig, label(f"{tables.concept(result)}, geometry"), alt=_alt(result))
    depth_axis(fig, result.hookpoints)
    fig.update_xaxes(showgrid=False, showline=False, ticks="")
    fig.update_yaxes(
        tickmode="array",
        tickvals=f32(np.arange(len(names))),
        ticktext=[name.replace("_", " ") for name in names],
        range=[len(names) - 0.5, -0.5],
        showgrid=False,
        showline=False,
        ticks="",
    )
    fig.update_layout(height=150 + 34 * max(len(names), 2), hovermode="closest")
    return fig


def geometry_reading(result: Geometry) -> str:
    """What each row of the table says."""
    text = "A row's colour runs from its least value, pale, to its greatest."
    if result.inputs is not None and "alignment_input" in result.values:
        text += f" For the input stand {result.inputs}."
    return text


def meanings(result: Geometry) -> html.Part:
    """What each measure of the table says, folded away."""
    said = [(name, MEASURES[name].about) for name in result.values if name in MEASURES]
    items = tuple((html.Strong(name.replace("_", " ")), f": {about}.") for name, about in said)
    return html.Details("What the rows say", (html.Items(items),))


def more_figures(result: Geometry, figure_id: str) -> list[html.Part]:
    """The matrices of layers and the curves, each a figure with its table."""
    parts: list[html.Part] = [meanings(result)] if result.values else []
    for name, matrix in result.matrices.items():
        fig = matrix_figure(result, name)
        table = _matrix_table(result, matrix, TITLES.get(name, name))
        parts.append(_figure(fig, f"{figure_id}-{name}", _about(name), table))
    for name, curves in result.curves.items():
        if curves:
            fig = curve_figure(result, name)
            table = _curve_table(result, name)
            parts.append(_figure(fig, f"{figure_id}-{name}", _about(name), table))
    return parts


def matrix_figure(result: Geometry, name: str) -> Plot:
    """How like each layer is to each other.

    Parameters
    ----------
    result : of `probes.geometry_by_layer`.
    name : of one of its matrices.
    """
    z = result.matrices[name]
    fig = Plot()
    low = min(0.0, math.floor(least(f32(z)) * 10) / 10)
    layer_heat(fig, z, low, 1, name.upper())
    house(
        fig,
        label(f"{tables.concept(result)}, {TITLES.get(name, name)}"),
        alt=_near(result, z, name),
    )
    depth_axis(fig, result.hookpoints)
    names, _ = ticks(result.hookpoints)
    shown = spread(len(names), 24)
    fig.update_xaxes(showgrid=False, showline=False, ticks="")
    fig.update_yaxes(
        tickmode="array",
        tickvals=f32(shown),
        ticktext=[names[i] for i in shown],
        range=[len(names) - 0.5, -0.5],
        showgrid=False,
        showline=False,
        ticks="",
    )
    fig.update_layout(height=min(190 + 34 * len(names), 620), hovermode="closest")
    return fig


def curve_figure(result: Geometry, name: str) -> Plot:
    """Curves by layer, pale to deep from the first to the last; or one layer's prefix curve.

    Parameters
    ----------
    result : of `probes.geometry_by_layer`.
    name : of one of its curves.
    """
    curves = result.curves[name]
    if name == "prefixes":
        return _prefixes(result, *list(curves.items())[-1])
    fig = Plot()
    known = [h for h in result.hookpoints if h in curves]
    for i, hookpoint in enumerate(known):
        curve = curves[hookpoint]
        kept = _thinned(len(curve["x"]))
        # The palest colours of the scale do not read as lines.
        shade = SCALE[2 + round((len(SCALE) - 3) * i / max(len(known) - 1, 1))]
        for line in (k for k in curve if k != "x"):
            fig.add_scatter(
                x=f32(curve["x"][kept]),
                y=f32(curve[line][kept]),
                name=label(hookpoint, 30),
                mode="lines" if len(kept) > 1 else "markers",
                line={"color": shade, "width": 2, "dash": ("solid", "dash", "dot")[i % 3]},
                hovertemplate=f"{label(hookpoint, 30)}: %{{x}} %{{y:.3f}}<extra></extra>",
            )
    house(
        fig, label(f"{tables.concept(result)}, {TITLES.get(name, name)}"), alt=_reach(result, name)
    )
    fig.update_xaxes(type="log", title_text="principal components", tickformat="~g", dtick="D2")
    fig.update_yaxes(title_text="share of the variance", range=[0, 1.02])
    fig.update_layout(height=440, hovermode="closest")
    return fig


def _prefixes(result: Geometry, hookpoint: str, curve: dict[str, np.ndarray]) -> Plot:
    """Accuracy on the first dimensions of a layer beside principal components and random orders."""
    fig = Plot()
    for line, name, colour, dash, symbol in LOOKS:
        fig.add_scatter(
            x=f32(curve["x"]),
            y=f32(curve[line]),
            name=name,
            mode="lines+markers",
            line={"color": light(colour), "width": 2, "dash": dash},
            marker={"size": 7, "symbol": symbol, "line": {"width": 2}},
            hovertemplate=name + ", first %{x}: %{y:.3f}<extra></extra>",
        )
    fig.add_scatter(
        x=f32(curve["x"]),
        y=f32(curve["majority"]),
        name="commonest class",
        mode="lines",
        line={"color": light("soft"), "width": 1.5, "dash": "longdashdot"},
        hoverinfo="skip",
    )
    title = f"{tables.concept(result)}, {TITLES['prefixes'].lower()} at {hookpoint}"
    house(fig, label(title), alt=_prefix_alt(hookpoint, curve))
    lengths = curve["x"].tolist()
    fig.update_xaxes(
        type="log",
        title_text=f"first dimensions of {label(hookpoint, 40)}",
        tickmode="array",
        tickvals=f32(lengths),
        ticktext=[str(int(m)) for m in lengths],
    )
    fig.update_yaxes(title_text="held-out accuracy")
    fig.update_layout(height=480, hovermode="closest")
    return fig


# ---- what they share


def layer_heat(fig: Plot, z: np.ndarray, low: float, high: float, title: str) -> None:
    """A heat map of likeness, with its numbers in the cells where they fit."""
    _heat(fig, z, [[_number(v) for v in row] for row in z], low, high, title)


def _heat(
    fig: Plot, z: np.ndarray, texts: list[list[str]], low: float, high: float, title: str
) -> None:
    """A heat map over places 0, 1, …, with its numbers in the cells where they fit."""
    fig.add_heatmap(
        x=f32(np.arange(z.shape[1])),
        y=f32(np.arange(z.shape[0])),
        z=f32(z),
        zmin=low,
        zmax=high,
        xgap=1.5,
        ygap=1.5,
        colorscale=[[i / (len(SCALE) - 1), colour] for i, colour in enumerate(SCALE)],
        showscale=title != "row",
        colorbar={
            "title": {"text": title, "side": "right", "font": {"size": 13, "color": light("soft")}},
            "thickness": 11,
            "outlinewidth": 0,
        },
        customdata=texts,
        hovertemplate="%{customdata}<extra></extra>",
    )
    if z.size > NUMBERS or z.shape[1] > 20:
        return
    pale = np.isnan(z) | ((z - low) / (high - low) < 0.5)
    for deep in (False, True):
        places = np.argwhere(pale != deep)
        if len(places):
            fig.add_scatter(
                x=f32(places[:, 1]),
                y=f32(places[:, 0]),
                mode="text",
                text=[texts[i][j] for i, j in places],
                textfont={"color": ON_DEEP if deep else ON_PALE, "size": 12},
                hoverinfo="skip",
                showlegend=False,
            )


def _figure(fig: Plot, figure_id: str, reading: str, table: html.Table) -> html.Figure:
    height = int(fig.layout.height or 440) - 40
    return html.Figure(
        figure_id, tables.spec(fig), fig.layout.meta["alt"], (reading,), table, height
    )


def _about(name: str) -> str:
    known = MEASURES.get(name)
    about = known.about if known else name
    return about[:1].upper() + about[1:] + "."


def _number(value: float) -> str:
    """Three digits, which fit a cell."""
    if not math.isfinite(value):
        return "—"
    size = abs(value)
    if size < 0.0005:
        return "0.00"  # no minus before a zero
    digits = 3 if size < 0.1 else 2 if size < 10 else 1 if size < 100 else 0
    return f"{value:.{digits}f}"


def _thinned(n: int) -> np.ndarray:
    """At most `POINTS` of n places, closer at the start, as a logarithmic axis shows them."""
    if n <= POINTS:
        return np.arange(n)
    return np.unique(np.round(np.geomspace(1, n, POINTS)).astype(int)) - 1


def _least(row: np.ndarray) -> float:
    return float(np.nanmin(row)) if np.isfinite(row).any() else 0.0


def _most(row: np.ndarray) -> float:
    return float(np.nanmax(row)) if np.isfinite(row).any() else 0.0


def _matrix_table(result: Geometry, matrix: np.ndarray, caption: str) -> html.Table:
    columns = (html.Column("hook point"), *(html.Column(h, True) for h in result.hookpoints))
    rows = tuple(
        (html.Data(h), *(float(v) for v in row))
        for h, row in zip(result.hookpoints, matrix, strict=True)
    )
    return html.Table(caption, columns[: tables.ROWS], tuple(r[: tables.ROWS] for r in rows))


def _curve_table(result: Geometry, name: str) -> html.Table:
    """A row a hook point and point drawn."""
    curves = result.curves[name]
    lines = list(dict.fromkeys(k for c in curves.values() for k in c))
    columns = (html.Column("hook point"), *(html.Column(k, True) for k in lines))
    rows = []
    for hookpoint, curve in curves.items():
        # Of long curves the powers of two, which say enough in a table.
        x = curve["x"]
        kept = [i for i, v in enumerate(x) if i == len(x) - 1 or math.log2(v).is_integer()]
        rows += [(html.Data(hookpoint), *(float(curve[k][i]) for k in lines)) for i in kept]
    cut = rows[: tables.ROWS]
    caption = TITLES.get(name, name)
    if len(rows) > len(cut):
        caption = f"{caption} ({len(cut)} of {len(rows)} rows)"
    return html.Table(caption, columns, tuple(cut))


# ---- in words


def _alt(result: Geometry) -> str:
    said = [
        f"{name.replace('_', ' ')} {_number(row[0])} to {_number(row[-1])}"
        for name, row in list(result.values.items())[:16]
    ]
    return (
        f"Measures of {len(result.hookpoints)} layers, from {result.hookpoints[0]} to "
        f"{result.hookpoints[-1]}: {', '.join(said) or 'none that is a number a layer'}."
    )


def _near(result: Geometry, z: np.ndarray, name: str) -> str:
    beside = np.diag(z, 1)
    if not np.isfinite(beside).any():
        return f"{name.upper()} is undefined between all neighbouring layers."
    i = int(np.nanargmin(beside))
    return (
        f"{name.upper()} of {len(z)} layers with each other. Neighbours are at least "
        f"{_number(beside[i])} alike, {result.hookpoints[i]} and {result.hookpoints[i + 1]}; the "
        f"first and the last {_number(z[0, -1])}."
    )


def _reach(result: Geometry, name: str) -> str:
    said = []
    for hookpoint, curve in list(result.curves[name].items())[:12]:
        share = (
            curve["variance"]
            if "variance" in curve
            else next(v for k, v in curve.items() if k != "x")
        )
        half = int(np.searchsorted(share, 0.5) + 1)
        most = int(min(np.searchsorted(share, 0.9) + 1, len(share)))
        said.append(f"{hookpoint} {half} and {most} of {len(share)}")
    return (
        f"Principal components that hold half and nine tenths of the variance: {'; '.join(said)}."
    )


def _prefix_alt(hookpoint: str, curve: dict[str, np.ndarray]) -> str:
    said = []
    for line in ("probe", "probe, PCA", "probe, permuted"):
        full = float(curve[line][-1])
        enough = int(curve["x"][int(np.argmax(curve[line] >= full - 0.01))])
        said.append(f"{line} {enough}")
    return (
        f"Held-out accuracy of the first dimensions of {hookpoint}: all {int(curve['x'][-1])} give "
        f"{curve['probe'][-1]:.2f} to a probe and {curve['neighbour'][-1]:.2f} to the nearest "
        f"neighbour. Dimensions that come within .01 of all of them: {', '.join(said)}."
    )
