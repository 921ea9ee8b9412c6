"""What was found about a sparse autoencoder: how often its latents fire, and what it keeps."""

import numpy as np

from dashboards import tables
from dashboards.html import label
from dashboards.style import Plot, f32, house, light
from saes.evaluation import Evaluation
from saes.recovery import LossRecovered

__all__ = ["density_bars", "density_reading", "loss_bars", "recovered_reading"]


def density_bars(result: Evaluation) -> Plot:
    """Live latents by the logarithm of their firing rate, and a line where dense ones begin.

    Parameters
    ----------
    result : of `saes.evaluate`.
    """
    fig = Plot()
    edges, counts = result.histogram()
    fig.add_bar(
        x=f32((edges[:-1] + edges[1:]) / 2),
        y=f32(counts),
        width=f32(np.diff(edges)),
        marker={"color": light("curve")},
        customdata=np.stack([f32(10 ** edges[:-1]), f32(10 ** edges[1:])], axis=1),
        hovertemplate="%{y:,} latents fire in %{customdata[0]:.2g} to %{customdata[1]:.2g} of the "
        "rows<extra></extra>",
        showlegend=False,
    )
    house(fig, label(f"{tables.concept(result)}, firing rates"), alt=_density_alt(result))
    if result.dense_above > 0:
        at = float(np.log10(result.dense_above))
        fig.add_vline(x=at, line={"color": light("bag"), "width": 1.6, "dash": "dash"})
        fig.add_annotation(
            x=at,
            y=1,
            yref="paper",
            yanchor="bottom",
            text=f"dense: {result.dense:,}",
            showarrow=False,
            font={"color": light("bag")},
        )
    low = int(np.floor(edges[0]))
    fig.update_xaxes(
        title_text="share of rows in which a latent fires",
        tickmode="array",
        tickvals=f32(np.arange(low, 1)),
        ticktext=[f"{10.0**p:g}" for p in range(low, 1)],
        range=[edges[0] - 0.1, 0.1],
    )
    fig.update_yaxes(title_text="latents", rangemode="tozero")
    fig.update_layout(height=400, bargap=0, hovermode="closest")
    return fig


def density_reading(result: Evaluation) -> str:
    """What is not in the figure, and what its sentence rests on."""
    text = "Bars are a quarter of a factor of ten wide."
    if result.dead:
        text += " Dead latents fired in no row and are in no bar; more rows would leave fewer."
    return text


def loss_bars(result: LossRecovered) -> Plot:
    """The model's loss as it is, with reconstructions, and with the activation ablated.

    Parameters
    ----------
    result : of `saes.loss_recovered`.
    """
    fig = Plot()
    shown = (
        ("clean", result.ce_clean, "untrained"),
        ("reconstruction", result.ce_spliced, "curve"),
        ("mean-ablated", result.ce_mean, "majority"),
        ("zero-ablated", result.ce_zero, "shuffled"),
    )
    for i, (name, value, colour) in enumerate(shown):
        fig.add_bar(
            x=f32([value]),
            y=f32([i]),
            orientation="h",
            marker={"color": light(colour)},
            text=[f"{value:.3f}"],
            hovertemplate=f"{name} %{{x:.4f}}<extra></extra>",
            showlegend=False,
        )
    house(fig, label(f"{tables.concept(result)}, loss recovered"), alt=_loss_alt(result))
    fig.update_xaxes(title_text="cross-entropy, nats a token", rangemode="tozero")
    fig.update_yaxes(
        tickmode="array",
        tickvals=f32(np.arange(len(shown))),
        ticktext=[name for name, *_ in shown],
        range=[len(shown) - 0.5, -0.5],
        showgrid=False,
        showline=False,
        ticks="",
    )
    fig.update_layout(height=300, hovermode="closest", bargap=0.3)
    return fig


def recovered_reading(result: LossRecovered) -> str:
    """How to read the bars."""
    return (
        "What the SAE gives back is how far its bar lies from an ablated one towards the clean "
        f"one; over {result.n:,} tokens of {result.documents:,} documents. The mean is the harder "
        "of the two to beat where zero is far from any activation."
    )


def _density_alt(result: Evaluation) -> str:
    live = result.density[result.density > 0]
    text = (
        f"{tables.concept(result)}: {result.dead:,} of {result.n_latents:,} latents are dead over "
        f"{result.n:,} rows, and {result.dense:,} fire in more than {result.dense_above:g} of them"
    )
    if len(live):
        text += (
            f". The live ones fire in {live.min():.2g} to {live.max():.2g} of the rows, the median "
            f"in {np.median(live):.2g}"
        )
    return f"{text}. {_kept(result)}."


def _kept(result: Evaluation) -> str:
    """FVU and L0 in words."""
    if np.isnan(result.fvu):
        unexplained = f"The share of variance unexplained is undefined: {result.reasons['fvu']}"
    else:
        unexplained = f"Unexplained is {result.fvu:.3f} of the variance"
    return f"{unexplained}, at {result.l0:.1f} active latents a row"


def _loss_alt(result: LossRecovered) -> str:
    parts = [
        "undefined" if value is None else f"{value:.3f}"
        for value in (result.recovered_mean, result.recovered_zero)
    ]
    return (
        f"Loss with {tables.concept(result)} reconstructed: {result.ce_spliced:.3f} nats a token, "
        f"from {result.ce_clean:.3f} clean; {result.ce_mean:.3f} mean-ablated and "
        f"{result.ce_zero:.3f} zero-ablated. Recovered: {parts[0]} against the mean, {parts[1]} "
        f"against zero; KL {result.kl:.3f}."
    )
