"""What changed between two runs: curves above their difference, and what became of each latent."""

import numpy as np

from dashboards import tables
from dashboards.html import label
from dashboards.style import Plot, band, depth_axis, f32, house, light
from probes.difference import DepthDifference, SparsityDifference
from saes.matching import LatentMatch

__all__ = ["difference_curves", "difference_reading", "match_bars", "match_reading"]

BINS = 40
STATES = {"kept": "curve", "changed": "bag"}
"""State of a pair -> colour of its bars."""

Difference = DepthDifference | SparsityDifference


def difference_curves(result: Difference) -> Plot:
    """Both runs by depth, and below them the second less the first with its interval.

    Parameters
    ----------
    result : of `probes.depth_difference` or `probes.sparsity_difference`.
    """
    fig = Plot()
    x = np.arange(len(result.hookpoints), dtype=np.float32)
    names = [label(h) for h in result.hookpoints]
    what = _measure(result)
    for values, name, colour, dash, symbol in (
        (result.first, result.models[0], "untrained", "dash", "circle-open"),
        (result.second, result.models[1], "curve", "solid", "circle"),
    ):
        fig.add_scatter(
            x=x,
            y=f32(values),
            name=label(name, 40),
            mode="lines+markers",
            line={"color": light(colour), "width": 2.2, "dash": dash},
            marker={"size": 7, "symbol": symbol},
            text=names,
            hovertemplate="%{text} %{y:.3f}",
        )
    band(fig, x, result.low, result.high, "bag band", group="delta")
    fig.add_scatter(
        x=x,
        y=f32(result.delta),
        name="difference",
        legendgroup="delta",
        mode="lines+markers",
        line={"color": light("bag"), "width": 2.2},
        marker={"size": 8, "symbol": "diamond"},
        customdata=np.stack([f32(result.low), f32(result.high)], axis=1),
        text=names,
        hovertemplate="%{text} %{y:+.3f} (%{customdata[0]:+.3f} to %{customdata[1]:+.3f})",
    )
    fig.update_traces(yaxis="y2", selector={"legendgroup": "delta"})
    house(fig, label(f"{tables.concept(result)}, difference"), alt=_alt(result))
    base = fig.to_dict()["layout"]["yaxis"]
    soft = {"size": 13, "color": light("soft")}
    depth_axis(fig, result.hookpoints)
    fig.update_xaxes(anchor="y2")
    fig.update_layout(
        yaxis={**base, "domain": [0.45, 1], "title": {"text": what, "font": soft}},
        yaxis2={**base, "domain": [0, 0.37], "anchor": "x", "zeroline": True,
                "zerolinecolor": light("soft"), "title": {"text": "second - first", "font": soft}},
        height=500,
        hovermode="closest",
    )  # fmt: skip
    return fig


def difference_reading(result: Difference) -> str:
    """Where the interval comes from, and how the points moved."""
    if isinstance(result, SparsityDifference):
        return (
            f"Active by {result.rule}. There is no interval: tokens of a text are not independent. "
            "Neurons that woke are active in the second run alone, those that died in the first."
        )
    moved = []
    for name in ("onset_depth", "jump_point", "converging_point", "peak"):
        shift, low, high = (result.points.get(f"{name}_shift{e}") for e in ("", "_low", "_high"))
        if shift is not None:
            ends = f" ({low:+.3f} to {high:+.3f})" if low is not None else ""
            moved.append(f"{name.replace('_', ' ')} {shift:+.3f}{ends}")
    text = (
        "The same draws of whole groups are taken for both runs; the band holds at all hook points "
        "together."
    )
    return f"{text} Moved: {', '.join(moved)}." if moved else text


def match_bars(result: LatentMatch) -> Plot:
    """How many pairs of latents have which cosine; what is kept, and where chance ends.

    Parameters
    ----------
    result : of `saes.match_latents`.
    """
    fig = Plot()
    state = np.array(result.state)
    edges = np.linspace(min(0.0, result.chance), 1, BINS + 1)
    for name, colour in STATES.items():
        counts, _ = np.histogram(np.clip(result.cosine[state == name], edges[0], 1), edges)
        fig.add_bar(
            x=f32((edges[:-1] + edges[1:]) / 2),
            y=f32(counts),
            width=f32(np.diff(edges)),
            name=f"{name}: {result.counts[name]:,}",
            marker={"color": light(colour), "pattern": {"shape": "/" if name == "changed" else ""}},
            hovertemplate="%{y:,} pairs at cosine %{x:.2f}<extra></extra>",
        )
    house(fig, label(f"{tables.concept(result)}, matched"), alt=_match_alt(result))
    for at, text in ((result.chance, "chance"), (result.same, "same")):
        fig.add_vline(x=at, line={"color": light("soft"), "width": 1.4, "dash": "dash"})
        fig.add_annotation(
            x=at, y=1, yref="paper", yanchor="bottom", text=text, showarrow=False,
            font={"color": light("soft")},
        )  # fmt: skip
    fig.update_xaxes(title_text="cosine of the matched decoder directions", range=[edges[0], 1.02])
    fig.update_yaxes(title_text="pairs of latents", rangemode="tozero")
    fig.update_layout(height=400, bargap=0, barmode="stack", hovermode="closest")
    return fig


def match_reading(result: LatentMatch) -> str:
    """What the states mean, and those that have no bar."""
    lost, gained = result.counts["gone"], result.counts["new"]
    return (
        f"{lost:,} of {result.n_a:,} latents of {result.models[0]} are gone and {gained:,} of "
        f"{result.n_b:,} of {result.models[1]} are new: their best partner is no more like them "
        f"than random directions are, 95 % of whose matched pairs stay below {result.chance:.2f}."
    )


def _measure(result: Difference) -> str:
    return "accuracy" if isinstance(result, DepthDifference) else "share of active neurons"


def _alt(result: Difference) -> str:
    what, (one, two) = _measure(result), result.models
    known = np.flatnonzero(np.isfinite(result.delta))
    if not known.size:
        return f"{what.capitalize()} of {one} and {two}: no hook point is in both."
    i = known[np.abs(result.delta[known]).argmax()]
    clear = int(((result.low > 0) | (result.high < 0)).sum())
    ends = f", interval {result.low[i]:+.3f} to {result.high[i]:+.3f}"
    text = (
        f"{what.capitalize()} of {two} less that of {one} by depth: largest at "
        f"{result.hookpoints[i]}, {result.delta[i]:+.3f}"
    )
    if not np.isfinite(result.low).any():
        return f"{text}; without an interval."
    return (
        f"{text}{ends}; the interval is clear of 0 at {clear} of {len(result.delta)} hook points."
    )


def _match_alt(result: LatentMatch) -> str:
    said = ", ".join(f"{v:,} {k}" for k, v in result.counts.items())
    return (
        f"Latents of {result.models[0]} and {result.models[1]}, matched one to one: {said}; mean "
        f"cosine {result.mean:.2f}."
    )
