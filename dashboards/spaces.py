"""Two models' spaces as a figure: which layers of the one are those of the other."""

import math

import numpy as np

from dashboards import tables
from dashboards.geometry import layer_heat
from dashboards.html import label
from dashboards.style import Plot, depth_axis, f32, house, ticks
from probes.spaces import Spaces

__all__ = ["spaces_figure", "spaces_reading"]


def spaces_figure(result: Spaces) -> Plot:
    """CKA of each layer of the first model with each of the second.

    Parameters
    ----------
    result : of `probes.compare_spaces`.
    """
    fig = Plot()
    layer_heat(fig, result.cka, 0, 1, "CKA")
    house(fig, label(f"{tables.concept(result)}, two spaces"), alt=_alt(result))
    depth_axis(fig, result.others)
    names, role = ticks(result.hookpoints)
    step = math.ceil(len(names) / 24)
    fig.update_xaxes(showgrid=False, showline=False, ticks="",
                     title_text=label(f"layers of {result.models[1]}", 60))  # fmt: skip
    fig.update_yaxes(
        tickmode="array",
        tickvals=f32(np.arange(0, len(names), step)),
        ticktext=names[::step],
        range=[len(names) - 0.5, -0.5],
        title_text=label(f"layers of {result.models[0]}", 60),
        showgrid=False,
        showline=False,
        ticks="",
    )
    fig.update_layout(height=min(190 + 34 * len(names), 620), hovermode="closest")
    return fig


def spaces_reading(result: Spaces) -> str:
    """What one space is worth in place of the other, in words."""
    first, second = result.models
    n, said = result.numbers, []
    relative = n["relative, centred"]
    if math.isfinite(relative["value"]):
        said.append(
            f"Described by its likeness to common anchors, a row of {first} at {result.at[0]} "
            f"finds itself among those of {second} at {result.at[1]} with a mean reciprocal rank "
            f"of {relative['value']:.2f}"
        )
        if "absolute_mrr" in relative:
            said[-1] += f" ({relative['absolute_mrr']:.2f} by coordinates)"
    stitched = n["stitching"]
    if math.isfinite(stitched["value"]):
        said.append(
            f"A probe that learned on {first} is right in {stitched['x']:.0%} of its own held-out "
            f"rows and in {stitched['x_to_y']:.0%} of those of {second}, the other way round "
            f"{stitched['y']:.0%} and {stitched['y_to_x']:.0%} (the commonest class: "
            f"{stitched['majority']:.0%})"
        )
    old = n["compatibility"]
    if math.isfinite(old["value"]):
        verdict = "backward compatible" if old["value"] > 0 else "not backward compatible"
        said.append(
            f"{second} is {verdict} with {first}: nearest rows are of the class in "
            f"{old['cross']:.0%} where {second} asks rows of {first}, and in {old['old']:.0%} "
            f"where {first} asks them"
        )
    return ". ".join([*said, ""]).strip()


def _alt(result: Spaces) -> str:
    if not np.isfinite(result.cka).any():
        return "CKA is undefined between all layers of the two models."
    i, j = np.unravel_index(int(np.nanargmax(result.cka)), result.cka.shape)
    last = result.cka[-1, -1]
    return (
        f"CKA of {len(result.hookpoints)} layers of {result.models[0]} with {len(result.others)} "
        f"of {result.models[1]}: highest {result.cka[i, j]:.2f}, {result.hookpoints[int(i)]} with "
        f"{result.others[int(j)]}; the last two "
        + (f"{last:.2f}." if math.isfinite(last) else "undefined.")
    )
