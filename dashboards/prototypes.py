"""Prototypes of a layer by class, and associative recall by gap."""

import numpy as np

from dashboards import tables
from dashboards.html import label
from dashboards.lines import add_cells, add_line, axis_names, said
from dashboards.style import Plot, f32, house, light
from probes.prototype_rows import Prototypes
from probes.recall import Recall

__all__ = ["prototype_figure", "prototype_reading", "recall_figure", "recall_reading"]


def prototype_figure(result: Prototypes) -> Plot:
    """Share of each prototype's rows that is of each class; its rows, where there are no classes.

    Parameters
    ----------
    result : of `probes.prototypes`.
    """
    fig, k = Plot(), len(result.sizes)
    names = [f"{i}: row {r}" for i, r in enumerate(result.nearest)]
    house(fig, label(f"{tables.concept(result)}"), alt=_prototype_alt(result))
    if result.counts.size:
        shares = result.counts / np.maximum(result.sizes, 1)[:, None]
        add_cells(fig, shares, names, result.classes, (0, 1))
        fig.update_xaxes(title_text="class", **axis_names(result.classes))
        fig.update_yaxes(range=[k - 0.5, -0.5], **axis_names(names))
    else:
        fig.add_bar(
            x=f32(result.sizes), y=f32(range(k)), orientation="h", name="rows",
            marker={"color": light("curve")}, hovertemplate="%{x} rows<extra></extra>",
        )  # fmt: skip
        fig.update_xaxes(title_text="rows")
        fig.update_yaxes(range=[k - 0.5, -0.5], **axis_names(names))
    fig.update_layout(height=170 + 26 * k, hovermode="closest")
    return fig


def prototype_reading(result: Prototypes) -> str:
    """R1 and R2, and what they are beside."""
    return (
        f"R2, the mean squared distance of a row to its prototype, is {result.r2:.4g} of a "
        f"variance of {result.variance:.4g}; R1, of a prototype to its nearest row, "
        f"{result.r1:.4g}. Beside each prototype stands the row that is nearest to it."
    )


def recall_figure(result: Recall) -> Plot:
    """Accuracy by the gap from a key to its query, beside chance.

    Parameters
    ----------
    result : of `probes.recall_by_gap`.
    """
    fig, x = Plot(), np.arange(len(result.by_gap))
    add_line(fig, x, result.by_gap, "answers", 0, ": %{y:.3f}")
    for value, name, dash in (
        (result.seen_chance, "a value of the example", "dash"),
        (result.chance, "any value", "dot"),
    ):
        fig.add_scatter(
            x=f32(x[[0, -1]]), y=f32([value] * 2), name=name, mode="lines", hoverinfo="skip",
            line={"color": light("soft"), "dash": dash, "width": 1.5},
        )  # fmt: skip
    names = [f"{a} to {b}" for a, b in zip(result.low, result.high, strict=True)]
    house(fig, label(f"{tables.concept(result)}"), alt=_recall_alt(result))
    fig.update_xaxes(title_text="tokens from the key to its query", **axis_names(names))
    fig.update_yaxes(title_text="accuracy", range=[0, 1.03])
    fig.update_layout(height=400, hovermode="closest")
    return fig


def recall_reading(result: Recall) -> str:
    """What the oracle does."""
    return (
        f"{result.accuracy:.3f} of the queries are answered with their key's value. A rule that "
        f"copies what followed the key before answers {result.oracle:.3f}."
    )


def _prototype_alt(result: Prototypes) -> str:
    parts = []
    for i, size in enumerate(result.sizes[:12]):
        told = f"{i} has {size} rows"
        if result.counts.size and size:
            told += f", most of {result.classes[int(result.counts[i].argmax())]}"
        parts.append(told)
    purity = f" Purity {said(result.purity)}." if result.counts.size else ""
    return f"Prototypes: {'; '.join(parts)}. R1 {said(result.r1)}, R2 {said(result.r2)}.{purity}"


def _recall_alt(result: Recall) -> str:
    parts = [
        f"{a} to {b} {said(v, 3)}"
        for a, b, v in zip(result.low, result.high, result.by_gap, strict=True)
    ]
    return (
        f"Accuracy by tokens from key to query: {'; '.join(parts)}; in all {result.accuracy:.3f}."
    )
