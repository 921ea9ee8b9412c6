"""What is left when parts of the input are taken away: of images, and of the tokens of a text."""

import numpy as np

from dashboards import tables
from dashboards.html import clip, label
from dashboards.lines import add_cells, add_line, axis_names, said
from dashboards.style import Plot, house, light
from probes.removal import RemovalCurve
from probes.token_vectors import TokenPatching

__all__ = ["patching_figure", "patching_reading", "removal_figure", "removal_reading"]


def removal_figure(result: RemovalCurve) -> Plot:
    """Accuracy (agreement, where there are no labels) against the share of pixels taken, by way.

    Parameters
    ----------
    result : of `probes.removal_curve`.
    """
    fig = Plot()
    known = bool(np.isfinite(result.accuracy).any())
    for i, way in enumerate(result.ways):
        y = (result.accuracy if known else result.agreement)[i]
        add_line(fig, result.shares, y, way, i, ": %{y:.3f} with %{x:.0%} taken")
    house(fig, label(f"{tables.concept(result)}"), alt=_removal_alt(result, known))
    fig.update_xaxes(title_text="share of the pixels taken", tickformat="~p")
    fig.update_yaxes(
        title_text="accuracy" if known else "same answer as whole", rangemode="tozero"
    )  # fmt: skip
    fig.update_layout(height=420, hovermode="closest")
    return fig


def removal_reading(result: RemovalCurve) -> str:
    """Why ways of taking differ."""
    return (
        f"Square patches of {result.patch} pixels are taken at random, the same in every way. "
        "Layer masking takes them at every layer; the others paint them over, which shows the "
        "model edges and colours that no image had."
    )


def patching_figure(result: TokenPatching) -> Plot:
    """Above, what each token's vector alone brings back of each item; below, what leaks.

    Parameters
    ----------
    result : of `probes.token_patching`.
    """
    fig, k = Plot(), len(result.items)
    tokens = [f"{t.strip() or t} " for t in result.tokens]
    add_cells(fig, result.sufficiency, result.items, tokens, (0, 1))
    leaks = np.concatenate([result.leakage, result.isolated[:, None]], 1)
    beside = [f"{i} swapped" for i in result.items] + ["seen alone"]
    most = max(float(np.nanmax(np.abs(leaks))) if np.isfinite(leaks).any() else 0, 1e-3)
    add_cells(
        fig, leaks, result.items, beside, (-most, most), axes=("x2", "y2"), digits=3
    )  # fmt: skip
    house(fig, label(f"{tables.concept(result)} at {result.hookpoint}"), alt=_patch_alt(result))
    layout = fig.to_dict()["layout"]
    soft = {"font": {"size": 13, "color": light("soft")}}
    rows = {"range": [k - 0.5, -0.5], **axis_names(result.items)}
    fig.update_layout(
        xaxis={**layout["xaxis"], "anchor": "y", **axis_names(tokens),
               "title": {"text": "one token kept: share of the score it brings back", **soft}},
        yaxis={**layout["yaxis"], "domain": [0.62, 1], **rows},
        xaxis2={**layout["xaxis"], "anchor": "y2", **axis_names(beside),
                "title": {"text": "change of the score with its vectors from that run", **soft}},
        yaxis2={**layout["yaxis"], "domain": [0, 0.32], "anchor": "x2", **rows},
        height=300 + 70 * k,
        hovermode="closest",
    )  # fmt: skip
    return fig


def patching_reading(result: TokenPatching) -> str:
    """How to read both parts."""
    return (
        f"Text: {clip(result.text, 200)} Above, 1 means that the token's vector alone scores as "
        "the whole text does beside an empty one. Below, an item's vectors are taken from a run in "
        "which the other item was swapped, or all else hidden: 0 means that they know nothing of "
        f"it. {' '.join(result.notes)}"
    )


def _removal_alt(result: RemovalCurve, known: bool) -> str:
    what = "Accuracy" if known else "Agreement with the answer on the whole image"
    lines = result.accuracy if known else result.agreement
    parts = [
        f"{way} {', '.join(said(v, 3) for v in line)}"
        for way, line in zip(result.ways, lines, strict=True)
    ]
    at = ", ".join(f"{s:.0%}" for s in result.shares)
    return f"{what} with {at} of the pixels taken: {'; '.join(parts)}."


def _patch_alt(result: TokenPatching) -> str:
    parts = []
    for item, row in zip(result.items, result.sufficiency, strict=True):
        if np.isfinite(row).any():
            best = int(np.nanargmax(row))
            parts.append(f"{item} most by {result.tokens[best].strip()}, {said(row[best])}")
        else:
            parts.append(f"{item} undefined")
    off = result.leakage[np.isfinite(result.leakage)]
    leak = f"; largest leak {said(float(np.abs(off).max()), 3)}" if off.size else ""
    return f"Share of each item's score that one token brings back: {'; '.join(parts)}{leak}."
