"""What a model loses where its activations are made sparser: loss against density."""

import numpy as np

from dashboards import tables
from dashboards.html import clip, label
from dashboards.style import Plot, band, f32, house, light
from probes.thinning import DensityCurve

__all__ = ["thinning_figure", "thinning_reading"]

INPUTS = (("clean", "curve", "solid", "circle"), ("noisy", "bag", "dash", "square"))
LAYERS = ("curve", "bag", "untrained", "shuffled", "features", "majority")
"""Colours of the layers, in turn."""


def thinning_figure(result: DensityCurve) -> Plot:
    """Loss, then accuracy and calibration error, by density; below, what each layer really kept.

    Above the densities are the realised ones, the mean over layers; the band is the paired 95 %
    interval of the loss less that of the model as it is.

    Parameters
    ----------
    result : of `probes.density_curve`.
    """
    fig = Plot()
    spread = result.realised @ np.array(result.widths) / sum(result.widths)
    for row in range(len(result.loss)):
        name, colour, dash, symbol = INPUTS[row]
        x = f32(spread[row])
        base = result.loss[row, 0]
        low, high = base + result.increase_low[row], base + result.increase_high[row]
        band(fig, x, low, high, f"{colour} band", group=name)
        style = {"line": {"color": light(colour), "width": 2.2, "dash": dash},
                 "marker": {"size": 7, "symbol": symbol}, "mode": "lines+markers"}  # fmt: skip
        asked = f32(result.densities)
        fig.add_scatter(
            x=x, y=f32(result.loss[row]), name=f"{name} input", legendgroup=name, customdata=asked,
            hovertemplate="loss %{y:.3f} at %{x:.3f} (asked %{customdata:g})", **style,
        )  # fmt: skip
        for y, axis, what in (
            (result.accuracy[row], "y2", "accuracy"),
            (result.calibration_error[row], "y3", "calibration error"),
        ):
            fig.add_scatter(
                x=x, y=f32(y), yaxis=axis, legendgroup=name, showlegend=False,
                hovertemplate=what + " %{y:.3f} at %{x:.3f}", **style,
            )  # fmt: skip
    for i, hookpoint in enumerate(result.hookpoints):
        fig.add_scatter(
            x=f32(result.densities),
            y=f32(result.realised[0, :, i]),
            name=label(hookpoint, 24),
            xaxis="x4",
            yaxis="y4",
            mode="lines",
            line={"color": light(LAYERS[i % len(LAYERS)]), "width": 1.6},
            showlegend=len(result.hookpoints) <= 8,
            hovertemplate=label(hookpoint, 40) + " asked %{x:g}, kept %{y:.3f}<extra></extra>",
        )
    house(fig, label(f"{tables.concept(result)}, loss against density"), alt=_alt(result))
    _axes(fig)
    return fig


def thinning_reading(result: DensityCurve) -> str:
    """The method, where it was put, and how to read the figure."""
    what = {
        "topk": "the largest units of each token are kept and the others set to 0",
        "statistical": "mean + deviation x normal quantile of each token is taken off and what is "
        "below 0 set to 0 (ddof " + str(result.ddof) + ")",
    }[result.method]
    where = clip(", ".join(result.hookpoints), 60)
    text = (
        f"At {where} {what}, without any training for it. The upper three have the realised "
        "density, on a logarithmic axis; the lowest shows it for each layer beside what was asked. "
    )
    if result.noise is not None:
        text += (
            f"The noise has a deviation of {result.noise:g} times the root mean square of the "
            "input or its embedding. "
        )
    return text + f"The calibration error has {result.bins} equal bins."


def _axes(fig: Plot) -> None:
    layout = fig.to_dict()["layout"]
    x, y = layout["xaxis"], layout["yaxis"]
    log = {"type": "log", "autorange": "reversed", "tickformat": "~g", "dtick": "D2"}

    def titled(text: str) -> dict:
        return {"text": text, "font": {"size": 13, "color": light("soft")}}

    fig.update_layout(
        xaxis={**x, **log, "anchor": "y3", "title": titled("realised density, mean over layers")},
        xaxis4={**x, **log, "anchor": "y4", "title": titled("density asked for")},
        yaxis={**y, "domain": [0.74, 1.0], "title": titled("loss, nats")},
        yaxis2={**y, "anchor": "x", "domain": [0.54, 0.70], "nticks": 4, "tickformat": "~p",
                "title": titled("accuracy")},
        yaxis3={**y, "anchor": "x", "domain": [0.36, 0.50], "nticks": 4, "rangemode": "tozero",
                "title": titled("calib. error")},
        yaxis4={**y, **log, "autorange": True, "anchor": "x4", "domain": [0, 0.22],
                "title": titled("realised")},
        height=820,
        hovermode="closest",
    )  # fmt: skip
    fig.update_traces(xaxis="x", selector={"xaxis": None})


def _alt(result: DensityCurve) -> str:
    spread = result.realised[0] @ np.array(result.widths) / sum(result.widths)
    steps = ", ".join(
        f"{d:g} asked ({s:.3f} realised): {v:.3f}"
        for d, s, v in zip(result.densities, spread, result.loss[0], strict=True)
    )
    text = (
        f"Loss of {tables.concept(result)} over {result.n:,} answers by density: {steps}. Accuracy "
        f"goes from {result.accuracy[0, 0]:.3f} to {result.accuracy[0, -1]:.3f}, calibration error "
        f"from {result.calibration_error[0, 0]:.3f} to {result.calibration_error[0, -1]:.3f}"
    )
    if result.noise is not None:
        text += (
            f"; under noise the loss goes from {result.loss[1, 0]:.3f} to {result.loss[1, -1]:.3f}"
        )
    return text + "."
