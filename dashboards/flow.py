"""MoHD-style flow: how far the active dimensions of one token are those of the next."""

import numpy as np

from dashboards import tables
from dashboards.html import label
from dashboards.style import Plot, depth_axis, f32, house, light
from probes.flow import Flow

__all__ = ["flow_figure", "flow_reading"]

CURVES = (
    ("jaccard", "neighbouring tokens", "curve", "solid", "circle"),
    ("jaccard_shuffled", "shuffled tokens", "shuffled", "dot", "x-thin-open"),
)


def flow_figure(result: Flow) -> Plot:
    """Overlap of neighbours by depth beside its controls, above the kinds of dimensions.

    Below, the share of dimensions that are shared and specialised, as they are (bars) and after a
    random rotation (marks).

    Parameters
    ----------
    result : of `probes.hidden_flow`.
    """
    fig = Plot()
    x = np.arange(len(result.hookpoints), dtype=np.float32)
    names = [label(h) for h in result.hookpoints]
    lines = [(getattr(result, field), *look) for field, *look in CURVES]
    lines.append((result.rotated["jaccard"], "rotated", "untrained", "dashdot", "circle-open"))
    for values, name, colour, dash, symbol in lines:
        fig.add_scatter(
            x=x,
            y=f32(values),
            name=name,
            mode="lines+markers",
            line={"color": light(colour), "width": 2.2, "dash": dash},
            marker={"size": 7, "symbol": symbol, "line": {"width": 2}},
            text=names,
            hovertemplate="%{text} %{y:.3f}",
        )
    widths = np.array([len(r) for r in result.rates])
    for i, (kind, colour) in enumerate((("shared", "bag"), ("specialised", "features"))):
        fig.add_bar(
            x=x,
            y=f32(getattr(result, kind) / widths),
            name=kind,
            yaxis="y2",
            offsetgroup=kind,
            marker={"color": light(colour)},
            text=names,
            textposition="none",
            hovertemplate="%{text} " + kind + " %{y:.1%}<extra></extra>",
        )
        fig.add_scatter(
            x=x + (0.2 if i else -0.2),
            y=f32(result.rotated[kind] / widths),
            name=f"{kind}, rotated",
            yaxis="y2",
            mode="markers",
            marker={"symbol": "line-ew-open", "size": 16, "color": light("ink"),
                    "line": {"width": 2}},
            showlegend=not i,
            hovertemplate=kind + ", rotated %{y:.1%}<extra></extra>",
        )  # fmt: skip
    fig.data[-3].update(name="rotated")
    house(fig, label(f"{tables.concept(result)}, MoHD-style flow"), alt=_alt(result))
    base = fig.to_dict()["layout"]["yaxis"]
    soft = {"size": 13, "color": light("soft")}
    depth_axis(fig, result.hookpoints)
    fig.update_xaxes(anchor="y2")
    fig.update_layout(
        yaxis={**base, "domain": [0.46, 1], "rangemode": "tozero",
               "title": {"text": "overlap", "font": soft}},
        yaxis2={**base, "domain": [0, 0.38], "rangemode": "tozero", "tickformat": "~p",
                "anchor": "x", "title": {"text": "dimensions", "font": soft}},
        height=520,
        barmode="group",
        bargap=0.2,
        hovermode="closest",
    )  # fmt: skip
    return fig


def flow_reading(result: Flow) -> str:
    """The rule, the two rates, and what the controls take away."""
    rule = {
        "topk": f"among the {result.level:.3g} x d largest of its token",
        "mass": f"in the smallest set that holds {result.level:g} of its token's {result.norm}",
        "rms": f"above {result.level:g} times its token's root mean square",
    }[result.rule]
    return (
        f"MoHD-style: the measure is interp's own. A dimension is active where it is {rule}; "
        f"shared in at least {result.tau_shared:g} of the tokens, specialised in at most "
        f"{result.tau_special:g}. What shuffled tokens keep is no flow along the text, and what a "
        "random rotation keeps does not belong to the single dimensions."
    )


def _alt(result: Flow) -> str:
    parts = []
    for i, h in enumerate(result.hookpoints[:12]):
        known = (result.jaccard[i], result.jaccard_shuffled[i], result.rotated["jaccard"][i])
        values = [f"{v:.3f}" if np.isfinite(v) else "undefined" for v in known]
        parts.append(
            f"{h} {values[0]} (shuffled {values[1]}, rotated {values[2]}), {result.shared[i]} "
            f"shared and {result.specialised[i]} specialised of {len(result.rates[i])}"
        )
    more = len(result.hookpoints) - len(parts)
    text = f"Overlap of the active dimensions of neighbouring tokens: {'; '.join(parts)}"
    return text + (f"; and {more} more." if more else ".")
