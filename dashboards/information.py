"""The information plane, and latents against known factors."""

import numpy as np

from dashboards import tables
from dashboards.html import clip, label
from dashboards.lines import add_cells, add_line, axis_names, said
from dashboards.style import Plot, f32, house, light
from probes.disentangling import InfoMEC
from probes.plane import InformationPlane

__all__ = ["infomec_figure", "infomec_reading", "plane_figure", "plane_reading"]

LATENTS = 40
"""Latents of a figure: those that tell most."""


def plane_figure(result: InformationPlane) -> Plot:
    """Bits of the label against bits of the input, a mark a layer and a line a step.

    Parameters
    ----------
    result : of `probes.information_plane`.
    """
    fig = Plot()
    names = [label(n) for n in result.layers]
    for i, step in enumerate(result.steps):
        name = f"step {step}" if len(result.steps) > 1 else "layers, first to last"
        add_line(
            fig, result.xt[i], result.ty[i], name, i,
            " %{text}: %{x:.2f} bits of the input, %{y:.2f} of the label",
            text=names, visible=True if i < 12 or i == len(result.steps) - 1 else "legendonly",
        )  # fmt: skip
    if len(result.layers) <= 14 and len(result.steps) == 1:
        fig.data[0].update(mode="lines+markers+text", textposition="top center")
        fig.data[0].update(text=[str(i) for i in range(len(names))], customdata=names)
        fig.data[0].update(
            hovertemplate="%{customdata}: %{x:.2f} bits of the input, %{y:.2f} of the label"
            "<extra></extra>"
        )
    ends = np.array([0, np.nanmax([result.label_entropy, np.nanmax([*result.ty.ravel(), 0.0])])])
    fig.add_scatter(
        x=f32([result.ceiling] * 2), y=f32(ends), mode="lines", name="log2 n, the ceiling",
        line={"color": light("soft"), "dash": "dash", "width": 1.5}, hoverinfo="skip",
    )  # fmt: skip
    if np.isfinite(result.label_entropy):
        fig.add_scatter(
            x=f32([0, result.ceiling]), y=f32([result.label_entropy] * 2), mode="lines",
            name="entropy of the labels", hoverinfo="skip",
            line={"color": light("soft"), "dash": "dot", "width": 1.5},
        )  # fmt: skip
    house(fig, label(f"{tables.concept(result)}, information plane"), alt=_plane_alt(result))
    fig.update_xaxes(title_text="I(X;T), bits", rangemode="tozero")
    fig.update_yaxes(title_text="I(T;Y), bits", rangemode="tozero")
    _zoom(fig, result)
    fig.update_layout(height=460, hovermode="closest")
    return fig


def _zoom(fig: Plot, result: InformationPlane) -> None:
    """Where the layers of one step lie close together, show them alone; the lines are outside."""
    x, y = (v[np.isfinite(v)] for v in (result.xt.ravel(), result.ty.ravel()))
    if len(result.steps) > 1 or len(x) < 2 or not y.size or np.ptp(x) > 0.3 * result.ceiling:
        return
    for update, v in ((fig.update_xaxes, x), (fig.update_yaxes, y)):
        margin = max(0.25 * float(np.ptp(v)), 0.02)
        update(range=[float(v.min()) - margin, float(v.max()) + margin], rangemode="normal")
    fig.update_xaxes(title_text=f"I(X;T), bits (log2 n is {result.ceiling:.2f})")
    fig.update_yaxes(title_text=f"I(T;Y), bits (H(Y) {said(result.label_entropy)})")


def plane_reading(result: InformationPlane) -> str:
    """How it was estimated, and the caveats."""
    how = (
        f"by a Gaussian kernel of variance {result.setting.get('noise'):g} (upper estimates)"
        if result.method == "kernel"
        else "by binning"
    )
    places = "; ".join(f"{i} is {n}" for i, n in enumerate(result.layers[:14]))
    return (
        f"Estimated {how} from {result.n:,} rows. {clip(places, 400)}. {' '.join(result.caveats)}"
    )


def infomec_figure(result: InfoMEC) -> Plot:
    """Factor by latent: the share of a factor's entropy that a latent tells.

    Parameters
    ----------
    result : of `probes.infomec`; the 40 latents that tell most are drawn.
    """
    told = np.nan_to_num(result.nmi, nan=0.0)
    chosen = np.sort(np.argsort(-told.max(0), kind="stable")[:LATENTS])
    fig = Plot()
    names = [f"z{j}" for j in chosen]
    add_cells(fig, result.nmi[:, chosen], result.factors, names, (0, 1))
    house(fig, label(f"{tables.concept(result)}, latents and factors"), alt=_infomec_alt(result))
    fig.update_xaxes(title_text="latent", **axis_names(names))
    fig.update_yaxes(range=[len(result.factors) - 0.5, -0.5], **axis_names(result.factors))
    fig.update_layout(height=170 + 34 * len(result.factors), hovermode="closest")
    return fig


def infomec_reading(result: InfoMEC) -> str:
    """The three numbers and what was done."""
    return (
        f"Modularity {said(result.modularity)}: does a latent tell of one factor only. Compactness "
        f"{said(result.compactness)}: is a factor told by one latent only. Explicitness "
        f"{said(result.explicitness)}: can the factors be read linearly. {' '.join(result.notes)}"
    )


def _plane_alt(result: InformationPlane) -> str:
    parts = []
    for i in dict.fromkeys((0, len(result.steps) - 1)):
        at = f" at step {result.steps[i]}" if len(result.steps) > 1 else ""
        told = ", ".join(
            f"{n} {said(x)} and {said(y)}"
            for n, x, y in zip(result.layers[:12], result.xt[i], result.ty[i], strict=False)
        )
        parts.append(f"Bits of the input and of the label{at}: {told}")
    return f"{'; '.join(parts)}. log2 n is {result.ceiling:.2f}."


def _infomec_alt(result: InfoMEC) -> str:
    best = [
        f"{f} {said(float(np.nanmax(row)))} by latent {int(np.nanargmax(row))}"
        if np.isfinite(row).any() else f"{f} undefined"
        for f, row in zip(result.factors, result.nmi, strict=True)
    ]  # fmt: skip
    return (
        f"Most that one latent tells of each factor: {'; '.join(best)}. Modularity "
        f"{said(result.modularity)}, explicitness {said(result.explicitness)}, compactness "
        f"{said(result.compactness)}."
    )
