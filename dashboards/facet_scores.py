"""Scores of facet images: is each image like its own facet, or more like another?"""

import numpy as np

from dashboards.html import label
from dashboards.style import Plot, f32, house, light
from dashboards.tables import plural
from probes.multifaceted.scoring import FacetScores

__all__ = ["score_dots"]


def score_dots(result: FacetScores) -> Plot:
    """Cosine of each image's code with its own facet and with the nearest other one.

    Without centroids the activation of each image is drawn instead, beside the best real input's.

    Parameters
    ----------
    result : of `probes.facet_scores`.
    """
    fig = Plot()
    at = f32(np.arange(result.n))
    liked = bool(np.isfinite(result.own_cosine).any())
    if liked:
        drawn = (("its own facet", result.own_cosine, "curve", "circle"),
                 ("nearest other facet", result.other_cosine, "bag", "diamond-open"))  # fmt: skip
    else:
        best = np.full(result.n, result.best_real)
        drawn = (("image", result.activation, "curve", "circle"),
                 ("best real input", best, "bag", "line-ew-open"))  # fmt: skip
    for name, values, colour, symbol in drawn:
        if not np.isfinite(values).any():
            continue
        fig.add_scatter(
            x=at,
            y=f32(values),
            name=name,
            mode="markers",
            marker={"color": light(colour), "symbol": symbol, "size": 11, "line": {"width": 2}},
            hovertemplate="%{y:.3f}",
        )
    house(fig, label(f"{result.name}, scores of facet images"), alt=_alt(result, liked))
    fig.update_xaxes(
        title_text="facet", tickmode="array", tickvals=at, range=[-0.5, result.n - 0.5]
    )
    fig.update_yaxes(title_text="cosine of deep codes" if liked else "activation")
    fig.update_layout(hovermode="x unified", height=360)
    return fig


def _alt(result: FacetScores, liked: bool) -> str:
    if not liked:
        low, high = result.activation.min(), result.activation.max()
        return f"{plural(result.n, 'facet image')}: activations from {low:.4g} to {high:.4g}."
    own = np.nanmean(result.own_cosine)
    known = [i == j for i, j in enumerate(result.nearest) if j is not None]
    return (
        f"{plural(result.n, 'facet image')}: mean cosine {own:.3f} with their own facets; "
        f"{sum(known)} of {len(known)} are nearest their own."
    )
