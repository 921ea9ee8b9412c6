"""How images climbed: the objective over the steps, a curve an image, and the images."""

import numpy as np

from dashboards import html
from dashboards.facets import picture
from dashboards.html import label
from dashboards.style import Plot, f32, house, light
from probes.multifaceted.maximized import Maximized

__all__ = ["climb_curves", "climbed_images"]

LOOKS = ("curve", "bag", "shuffled", "untrained", "features")
"""Colours of the curves, in turn."""
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
"""Each round of colours has a dash of its own."""
MOST = 25
"""Curves that a figure tells apart."""


def climb_curves(result: Maximized) -> Plot:
    """The objective of each image at each step, as the model saw it then.

    Parameters
    ----------
    result : of `probes.maximize`; of more than 25 images the first are drawn.
    """
    fig = Plot()
    steps = f32(np.arange(len(result.trace)))
    drawn = min(result.n, MOST)
    for i in range(drawn):
        look, dash = LOOKS[i % len(LOOKS)], DASHES[i // len(LOOKS)]
        fig.add_scatter(
            x=steps,
            y=f32(result.trace[:, i]),
            name=f"image {i}",
            mode="lines" if len(steps) > 1 else "markers",
            line={"color": light(look), "width": 2, "dash": dash},
            hovertemplate="%{y:.4g}",
        )
    house(fig, label(f"{result.name}, {result.schedule}"), alt=_alt(result, drawn))
    fig.update_xaxes(title_text="step", rangemode="tozero")
    fig.update_yaxes(title_text=label(result.objective, 40))
    fig.update_layout(hovermode="x unified")
    return fig


def climbed_images(result: Maximized) -> html.Part:
    """The images with what they fire, and why one of them climbed no further; 25 at most."""
    columns = (html.Column("image"), html.Column("picture"), html.Column("activation"))
    rows = []
    for i in range(min(result.n, MOST)):
        first, last = result.start_activation[i], result.activation[i]
        said: list[html.Cell] = [f"{last:.4g}, from {first:.4g}"]
        if why := result.reasons.get(f"image {i}"):
            said.append(html.Strong(why))
        alt = f"Image {i} of {result.objective}"
        rows.append((str(i), picture(result.images[i], alt), html.Items(tuple(said))))
    return html.Table(f"Images that fire {result.objective[:60]}", columns, tuple(rows))


def _alt(result: Maximized, drawn: int) -> str:
    rest = "" if drawn == result.n else f" The first {drawn} of {result.n} images are drawn."
    first, last = result.start_activation, result.activation
    return (
        f"{result.objective} over {len(result.trace)} steps of {result.schedule}: {result.n} "
        f"images start between {first.min():.4g} and {first.max():.4g} and end between "
        f"{last.min():.4g} and {last.max():.4g}.{rest}"
    )
