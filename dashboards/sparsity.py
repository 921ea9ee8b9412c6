"""How sparse activations are by depth, neuron by neuron, and what a model loses where they are
made sparser.
"""

import math

import numpy as np

from dashboards import tables
from dashboards.html import label
from dashboards.style import SCALE, Plot, depth_axis, f32, house, light, most, ticks
from probes.firing import Sparsity

__all__ = ["sparsity_figure", "sparsity_reading"]

STRIPS = 100
"""Cells of a layer's strip of neurons."""
FAINTEST = -4
"""Logarithm of the rate from which on down all cells look the same."""
LINE = 26
"""Height of a strip in px."""


def sparsity_figure(result: Sparsity) -> Plot:
    """Density by layer beside that of random weights, above a strip of neurons for each layer.

    A strip holds the layer's neurons from the one that fires most to the one that fires least, in
    at most 100 cells, each the mean rate of its neurons; the colour is the logarithm of the rate.

    Parameters
    ----------
    result : of `probes.sparsity`.
    """
    fig = Plot()
    h = len(result.hookpoints)
    x = np.arange(h, dtype=np.float32)
    names = [label(p) for p in result.hookpoints]
    if result.initial_density is not None:
        fig.add_scatter(
            x=x,
            y=f32(result.initial_density),
            name="random weights",
            mode="lines+markers",
            line={"color": light("untrained"), "width": 2, "dash": "dashdot"},
            marker={"size": 7, "symbol": "circle-open"},
            text=names,
            hovertemplate="%{text} random %{y:.3f}<extra></extra>",
        )
    fig.add_bar(
        x=x,
        y=f32(result.density),
        width=0.6,
        name="active",
        marker={"color": light("curve")},
        text=names,
        textposition="none",
        customdata=np.stack([f32(result.dead), f32(result.tokens)], axis=1),
        hovertemplate="%{text}: %{y:.3f} active, %{customdata[0]} dead in %{customdata[1]:,} "
        "tokens<extra></extra>",
    )
    cells = np.stack([_strip(r) for r in result.rates])
    low = max(FAINTEST, math.floor(-math.log10(max(result.n, 10))))
    fig.add_heatmap(
        x=f32(np.arange(cells.shape[1]) + 0.5) * (100 / cells.shape[1]),
        y=x,
        z=f32(np.log10(np.maximum(cells, 10.0**low))),
        customdata=f32(cells),
        zmin=low,
        zmax=0,
        ygap=2,
        colorscale=[[i / (len(SCALE) - 1), colour] for i, colour in enumerate(SCALE)],
        colorbar={
            "title": {"text": "rate", "font": {"size": 13, "color": light("soft")}},
            "tickvals": f32(np.arange(low, 1)),
            "ticktext": [f"{10.0**p:g}{' or less' if p == low else ''}" for p in range(low, 1)],
            "thickness": 11,
            "outlinewidth": 0,
            "len": 0.5,
            "y": 0.2,
        },
        xaxis="x2",
        yaxis="y2",
        hovertemplate="%{y}, %{x:.0f} % of neurons fire more: rate %{customdata:.2g}"
        "<extra></extra>",
    )
    house(fig, label(f"{tables.concept(result)}, sparsity"), alt=_alt(result))
    _axes(fig, result, h)
    return fig


def sparsity_reading(result: Sparsity) -> str:
    """The criterion, and how to read the strips."""
    text = (
        f"A neuron is active by {result.rule}, in {', '.join(tables.distinct(result.dtypes))}. "
        "Below, the neurons of each layer from the one that fires most to the one that fires "
        "least. "
    )
    if sum(result.dead):
        text += (
            f"{sum(result.dead):,} of {sum(result.widths):,} neurons fired in none of "
            f"{result.n:,} tokens; more tokens would leave fewer. "
        )
    if sum(result.not_finite):
        text += f"{sum(result.not_finite):,} values are not finite and count nowhere. "
    return text.strip()


def _axes(fig: Plot, result: Sparsity, h: int) -> None:
    """The density above, the strips below."""
    strips = max(120, LINE * h + 60)
    height = 300 + strips
    split = strips / height
    base = fig.to_dict()["layout"]["xaxis"]
    depth_axis(fig, result.hookpoints)
    top = max(
        most(f32(result.density)),
        most(f32([0.0] if result.initial_density is None else result.initial_density)),
    )
    fig.update_xaxes(anchor="y")
    fig.update_yaxes(
        title_text="share active",
        range=[0, min(1.0, max(top, 0.05) * 1.1)],
        domain=[split + 0.1, 1],
    )
    names, _ = ticks(result.hookpoints)
    step = math.ceil(h / 24)
    fig.update_layout(
        xaxis2={
            **base,
            "anchor": "y2",
            "range": [0, 100],
            "title": {"text": "neurons, % of the layer, by rate", **base["title"]},
            "showgrid": False,
        },
        yaxis2={
            **base,
            "anchor": "x2",
            "domain": [0, split - 0.06],
            "range": [h - 0.5, -0.5],
            "tickvals": f32(np.arange(0, h, step)),
            "ticktext": names[::step],
            "title": {"text": "layer", **base["title"]},
            "showgrid": False,
            "showline": False,
            "ticks": "",
        },
        height=height,
        bargap=0.3,
        hovermode="closest",
    )


def _strip(rates: np.ndarray) -> np.ndarray:
    """Rates in falling order, as means of `STRIPS` runs of neurons; nan where there are none."""
    known = np.sort(rates[np.isfinite(rates)])[::-1]
    if not len(known):
        return np.full(STRIPS, np.nan)
    edges = np.linspace(0, len(known), STRIPS + 1)
    place = np.arange(len(known))
    if len(known) <= STRIPS:  # a neuron is one cell or several
        return known[(np.arange(STRIPS) * len(known)) // STRIPS]
    cell = np.searchsorted(edges, place, side="right") - 1
    return np.bincount(cell, weights=known, minlength=STRIPS) / np.bincount(cell, minlength=STRIPS)


def _alt(result: Sparsity) -> str:
    parts = []
    for i, hookpoint in enumerate(result.hookpoints[:12]):
        d = result.density[i]
        said = f"{hookpoint} undefined" if math.isnan(d) else f"{hookpoint} {d:.3f}"
        if result.initial_density is not None:
            said += f" (random weights {result.initial_density[i]:.3f})"
        parts.append(said)
    more = len(result.hookpoints) - len(parts)
    rare = result.rare()
    known = rare[np.isfinite(rare)]
    text = f"Share of active neurons by {result.rule}: {', '.join(parts)}"
    text += f", and {more} more" if more else ""
    if len(known):
        text += (
            f". In a layer {known.min():.0%} to {known.max():.0%} of the neurons fire in fewer "
            f"than a tenth of {result.n:,} tokens; {sum(result.dead):,} never fire"
        )
    return text + "."
