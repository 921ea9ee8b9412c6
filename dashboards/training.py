"""How the training of a sparse autoencoder went: loss, FVU, L0 and dead latents over the steps."""

import numpy as np

from dashboards import tables
from dashboards.html import label
from dashboards.style import Plot, f32, house, light
from saes.training import Training

__all__ = ["training_curves", "training_reading"]

PARTS = ("bag", "shuffled", "untrained", "features")
"""Colours of the loss's parts, in turn."""
DASHES = ("dot", "dash", "dashdot", "longdash")


def training_curves(result: Training) -> Plot:
    """Four curves over the steps, one below the other: loss and its parts, FVU, L0, dead latents.

    Parameters
    ----------
    result : the `training_log` of an SAE that `saes.train` made.
    """
    fig = Plot()
    x = f32(result.steps)
    parts = [name for name, v in result.loss.items() if name != "total" and (v > 0).any()]
    for i, name in enumerate(parts if len(parts) > 1 else []):  # a single part is the total
        values = np.where(result.loss[name] > 0, result.loss[name], np.nan)  # the axis is a log
        _line(fig, x, values, name, PARTS[i % 4], DASHES[i % 4], "y", "%{y:.4g}")
    _line(fig, x, result.loss["total"], "loss", "curve", "solid", "y", "%{y:.4g}")
    _line(fig, x, result.fvu, "FVU", "curve", "solid", "y2", "%{y:.4f}")
    _line(fig, x, result.l0, "L0", "curve", "solid", "y3", "%{y:.1f}")
    _line(fig, x, result.dead, "dead", "curve", "solid", "y4", "%{y:.2%}")
    house(fig, label(f"{tables.concept(result)}, training"), alt=_alt(result))
    base = fig.to_dict()["layout"]["yaxis"]
    rows = (
        ("yaxis", [0.70, 1.0], "loss", {"type": "log", "tickformat": "~g"}),
        ("yaxis2", [0.46, 0.64], "FVU", {"rangemode": "tozero"}),
        ("yaxis3", [0.23, 0.41], "L0", {"rangemode": "tozero"}),
        ("yaxis4", [0.0, 0.18], "dead", {"rangemode": "tozero", "tickformat": "~p"}),
    )
    for axis, domain, title, more in rows:
        heading = {"text": title, "font": {"size": 13, "color": light("soft")}}
        look = {**base, "domain": domain, "anchor": "x", "nticks": 4, "title": heading, **more}
        fig.update_layout({axis: look})
    fig.update_xaxes(title_text="step", anchor="y4", rangemode="tozero")
    fig.update_layout(hovermode="x unified", height=640)
    fig.update_traces(xaxis="x")
    return fig


def training_reading(result: Training) -> str:
    """How to read the curves."""
    scale = "" if result.scale is None else ", scaled so that their mean norm is sqrt(width)"
    return (
        "The loss is in squared units of the activations"
        f"{scale}. FVU is the share of the batch's variance that is not explained. A latent counts "
        f"as dead when it did not fire in the last {result.dead_after:,} rows."
    )


def _line(
    fig: Plot,
    x: np.ndarray,
    y: np.ndarray,
    name: str,
    colour: str,
    dash: str,
    axis: str,
    hover: str,
) -> None:
    fig.add_scatter(
        x=x,
        y=f32(y),
        name=name,
        yaxis=axis,
        mode="lines" if len(x) > 1 else "markers",
        line={"color": light(colour), "width": 2, "dash": dash},
        hovertemplate=hover,
        showlegend=axis == "y",
    )


def _alt(result: Training) -> str:
    found = result.metrics()
    first, last = int(result.steps[0]), int(result.steps[-1])
    return (
        f"{tables.concept(result)} from step {first:,} to {last:,}: the loss goes from "
        f"{result.loss['total'][0]:.4g} to {found['loss']['total']:.4g}, FVU from "
        f"{result.fvu[0]:.3f} to {found['fvu']:.3f}, L0 from {result.l0[0]:.1f} to "
        f"{found['l0']:.1f}; at the end {found['dead']:.1%} of the latents are dead."
    )
