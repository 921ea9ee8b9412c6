"""What the latents of an image and of its text share, and whether that helps to classify."""

import math

import numpy as np

from dashboards import tables
from dashboards.html import label
from dashboards.style import Plot, f32, house, light
from saes.classification import ZeroShot
from saes.pairs import PairEvaluation

__all__ = ["pair_bars", "pair_reading", "zero_shot_curve", "zero_shot_reading"]


def pair_bars(result: PairEvaluation) -> Plot:
    """A bar a measure of what pairs share, and a mark where chance would be.

    Parameters
    ----------
    result : of `saes.evaluate_pairs`.
    """
    fig = Plot()
    shown = _shared(result)
    y = np.arange(len(shown), dtype=np.float32)
    fig.add_bar(
        x=f32([value for value, _ in shown.values()]),
        y=y,
        orientation="h",
        name="pairs",
        marker={"color": light("curve")},
        hovertemplate="%{x:.3f}<extra></extra>",
    )
    fig.add_scatter(
        x=f32([chance for _, chance in shown.values()]),
        y=y,
        mode="markers",
        name="without the pairing",
        marker={"symbol": "line-ns-open", "size": 18, "color": light("bag"), "line": {"width": 2}},
        hovertemplate="%{x:.3g}<extra></extra>",
    )
    house(fig, label(f"{tables.concept(result)}, pairs"), alt=_pair_alt(result))
    fig.update_yaxes(
        tickmode="array",
        tickvals=y,
        ticktext=list(shown),
        range=[len(shown) - 0.5, -0.5],
        automargin=True,
    )
    fig.update_xaxes(title_text="cosine, or share", range=[0, 1.02])
    fig.update_layout(height=300, hovermode="closest")
    return fig


def pair_reading(result: PairEvaluation) -> str:
    """What the bars are; the price of what they show is in the figure's words."""
    return (
        f"The cosine is that of an image's latents with its text's; the mark, with other texts. In "
        f"common are the {result.top} strongest images of a latent and the pairs of its "
        f"{result.top} strongest texts. Found is the one partner of {result.pool:,} by the cosine "
        "of latents."
    )


def zero_shot_curve(result: ZeroShot) -> Plot:
    """Accuracy on the validation images by the weight, and that of the test images beside it.

    Parameters
    ----------
    result : of `saes.zero_shot`.
    """
    fig = Plot()
    x = np.arange(len(result.alphas), dtype=np.float32)
    chosen = float(np.flatnonzero(result.alphas == result.alpha)[0])
    fig.add_scatter(
        x=x,
        y=f32(result.validation),
        mode="lines+markers",
        name="validation images",
        line={"color": light("curve"), "width": 2},
        text=[f"{a:g}" for a in result.alphas],
        hovertemplate="weight %{text}: %{y:.4f}<extra></extra>",
    )
    for name, at, value, symbol, colour in (
        ("test images, without", 0.0, result.plain, "x", "majority"),
        ("test images, with the chosen weight", chosen, result.enhanced, "diamond", "bag"),
    ):
        fig.add_scatter(
            x=f32([at]),
            y=f32([value]),
            mode="markers",
            name=name,
            marker={"symbol": symbol, "size": 11, "color": light(colour)},
            hovertemplate="%{y:.4f}<extra></extra>",
        )
    said = ", ".join(
        f"{v:.3f} at {a:g}" for a, v in zip(result.alphas, result.validation, strict=True)
    )
    alt = f"{tables.concept(result)}. {result.verdict} Validation accuracy by weight: {said}."
    house(fig, label(f"{tables.concept(result)}, zero-shot"), alt=alt)
    fig.update_xaxes(
        title_text=f"weight of the cosine of {result.form}",
        tickmode="array",
        tickvals=x,
        ticktext=[f"{a:g}" for a in result.alphas],
    )
    fig.update_yaxes(title_text="accuracy")
    fig.update_layout(height=400, hovermode="closest")
    return fig


def zero_shot_reading(result: ZeroShot) -> str:
    """What the verdict, which is in the figure's words, rests on."""
    return (
        f"{result.n_validation:,} images chose the weight, {result.n:,} others "
        f"judge it. The added cosine alone is right for {100 * result.added:.1f} % of these, the "
        f"commonest class for {100 * result.chance:.1f} %."
    )


def _shared(result: PairEvaluation) -> dict[str, tuple[float, float]]:
    """Measure in words -> its value, and what it would be without the pairing."""
    found = 1 / result.pool
    return {
        "cosine of latents": (result.latent_cosine, result.shuffled_cosine),
        "exemplars in common": (result.overlap, result.overlap_chance),
        "an image finds its text": (result.image_to_text, found),
        "a text finds its image": (result.text_to_image, found),
    }


def _price(result: PairEvaluation) -> str:
    return (
        f"Unexplained is {result.fvu['image']:.3f} of the variance of images and "
        f"{result.fvu['text']:.3f} of texts; of {result.n_latents:,} latents {result.dead:,} never "
        f"fire and {result.one_sided:,} fire for one modality alone."
    )


def _pair_alt(result: PairEvaluation) -> str:
    said = "; ".join(
        f"{name} {'undefined' if math.isnan(value) else f'{value:.3f}'} (without the pairing "
        f"{'undefined' if math.isnan(chance) else f'{chance:.3g}'})"
        for name, (value, chance) in _shared(result).items()
    )
    return f"{tables.concept(result)}, {result.n:,} pairs: {said}. {_price(result)}"
