"""What decides a representation: features' shares of the variance, shortcuts, merged channels."""

import numpy as np

from dashboards import tables
from dashboards.html import label
from dashboards.lines import LOOKS, add_cells, add_line, axis_names, said
from dashboards.style import Plot, depth_axis, f32, house, light
from probes.explained import VarianceExplained
from probes.merging import FeatureComplexity
from probes.shortcut import ShortcutBias

__all__ = [
    "complexity_figure",
    "complexity_reading",
    "explained_figure",
    "explained_reading",
    "shortcut_figure",
    "shortcut_reading",
]


def explained_figure(result: VarianceExplained) -> Plot:
    """Share of each layer's variance that each feature explains, raw (filled), unit by unit (open).

    Parameters
    ----------
    result : of `probes.variance_explained`.
    """
    fig, x = Plot(), np.arange(len(result.layers))
    for i, feature in enumerate(result.features):
        add_line(fig, x, result.raw[:, i], feature, i, " %{y:.3f}", legendgroup=f"f{i}")
        fig.add_scatter(
            x=f32(x), y=f32(result.standardised[:, i]), mode="markers", legendgroup=f"f{i}",
            name=f"{label(feature, 30)}, each unit alike", showlegend=len(result.features) < 4,
            marker={"symbol": "circle-open", "size": 9, "line": {"width": 2},
                    "color": light(LOOKS[i % len(LOOKS)][0])},
            hovertemplate=label(feature, 30) + ", each unit alike %{y:.3f}<extra></extra>",
        )  # fmt: skip
    if len(result.features) > 1:
        fig.add_scatter(
            x=f32(x), y=f32(result.together), mode="lines+markers", name="all together",
            line={"color": light("soft"), "dash": "dash", "width": 1.5},
            hovertemplate="all together %{y:.3f}<extra></extra>",
        )  # fmt: skip
    house(fig, label(f"{tables.concept(result)}, by feature"), alt=_explained_alt(result))
    depth_axis(fig, result.layers)
    fig.update_yaxes(title_text="share of the variance")
    fig.update_layout(height=440, hovermode="closest")
    return fig


def explained_reading(result: VarianceExplained) -> str:
    """What raw, standardised, unique and shared mean."""
    held = f"held out in {result.folds} folds" if result.folds > 1 else "of the rows fitted"
    return (
        f"Shares are {held}. The line counts units by their variance, so a few large ones decide "
        "it; open marks count each live unit alike. In the table, unique goes where the feature is "
        "left out of all, shared is what others tell too. A share says how much room a feature "
        "takes, not how well it is computed."
    )


def shortcut_figure(result: ShortcutBias) -> Plot:
    """Shortcut bias by availability and predictivity.

    Parameters
    ----------
    result : of `probes.shortcut_bias`.
    """
    fig = Plot()
    rows = [f"x {a:g}" for a in result.availability]
    columns = [f"{p:g}" for p in result.predictivity]
    most = max(0.25, float(np.nanmax(np.abs(result.bias))))
    add_cells(fig, result.bias, rows, columns, (-most, most))
    house(fig, label(f"Shortcut bias of {result.model}"), alt=_shortcut_alt(result))
    fig.update_xaxes(title_text="predictivity of the shortcut", **axis_names(columns))
    fig.update_yaxes(
        title_text="availability", range=[len(rows) - 0.5, -0.5], **axis_names(rows)
    )  # fmt: skip
    fig.update_layout(height=170 + 40 * len(rows), hovermode="closest")
    return fig


def shortcut_reading(result: ShortcutBias) -> str:
    """What 0 and 1 mean."""
    return (
        "0 relies on the two latents as the best classifier does; above 0 it leans on the shortcut "
        f"more than its predictivity is worth beside the core's {result.core:g}. Each number is "
        f"the mean of {tables.plural(result.seeds, 'training')}."
    )


def complexity_figure(result: FeatureComplexity) -> Plot:
    """Share of each layer's channels that is left, by the threshold of merging.

    Parameters
    ----------
    result : of `probes.feature_complexity`.
    """
    fig = Plot()
    for i, (layer, width) in enumerate(zip(result.layers, result.widths, strict=True)):
        more = {"visible": True if i < 12 else "legendonly"}
        add_line(
            fig, result.betas, result.kept[:, i] / width, f"{layer} ({width})", i,
            " %{y:.1%} at beta %{x:g}", **more,
        )  # fmt: skip
    house(fig, label(f"{tables.concept(result)}"), alt=_complexity_alt(result))
    fig.update_xaxes(type="log", title_text="beta", tickformat="~g", dtick="D2")
    fig.update_yaxes(title_text="channels left", tickformat="~p", range=[0, 1.03])
    fig.update_layout(height=460, hovermode="closest")
    return fig


def complexity_reading(result: FeatureComplexity) -> str:
    """The rule of merging."""
    how = (
        "with batch norm folded in and both sides of a channel balanced"
        if result.distance == "balanced"
        else "of the weights as they are"
    )
    return (
        "The nearest two channels are merged while their squared distance is at most beta times "
        f"that of the farthest two, {how}. From the weights alone. {' '.join(result.notes)}"
    )


def _explained_alt(result: VarianceExplained) -> str:
    parts = []
    for i, feature in enumerate(result.features[:12]):
        row = result.raw[:, i]
        if np.isfinite(row).any():
            at = int(np.nanargmax(row))
            parts.append(f"{feature} most at {result.layers[at]}, {said(row[at], 3)}")
        else:
            parts.append(f"{feature} undefined")
    return f"Share of a layer's variance that each feature explains: {'; '.join(parts)}."


def _shortcut_alt(result: ShortcutBias) -> str:
    row = [
        f"x {a:g} {', '.join(said(v) for v in line)}"
        for a, line in zip(result.availability, result.bias, strict=True)
    ]
    at = ", ".join(f"{p:g}" for p in result.predictivity)
    return f"Shortcut bias at predictivities {at}, by availability: {'; '.join(row)}."


def _complexity_alt(result: FeatureComplexity) -> str:
    low, high = result.betas[0], result.betas[-1]
    parts = [
        f"{layer} {a} of {w} at beta {low:g}, {b} at {high:g}"
        for layer, w, a, b in zip(
            result.layers[:12], result.widths, result.kept[0], result.kept[-1], strict=False
        )
    ]
    return f"Channels left after merging: {'; '.join(parts)}."
