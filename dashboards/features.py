"""The latents of an SAE, one below the other: what each fires for and what it does."""

from typing import Any

import numpy as np

from dashboards import html, tables
from dashboards.feature_data import feature_data, order_of
from dashboards.html import label
from dashboards.points import points
from dashboards.style import Plot, f32, house, light
from saes.records import Features

__all__ = ["densities", "densities_reading", "feature_list"]

LIMIT = 3_500_000
"""Bytes of one result's features, so that those of several results fit in a page."""
STILL = 50
"""Latents that are there without a script."""
DEAD = 60
"""Dead latents that are named."""


def densities(result: Features) -> Plot:
    """How many latents fire how often: a histogram over the decimal logarithm of the density.

    Parameters
    ----------
    result : of `saes.features`.
    """
    fig = Plot()
    alive = np.log10(result.density[result.fires > 0])
    low = np.floor(alive.min() * 4) / 4 if len(alive) else -1.0
    edges = np.arange(low, 0.5, 0.25)
    count, _ = np.histogram(alive, edges)
    fig.add_bar(
        x=f32(edges[:-1] + 0.125),
        y=f32(count),
        width=0.23,
        marker={"color": light("curve")},
        hovertemplate=f"10^%{{x:.2f}}: %{{y}} {label(result.unit, 40)}s<extra></extra>",
    )
    house(fig, label(f"{tables.concept(result)}, densities"), alt=_alt(result))
    whole = np.arange(np.floor(low), 0.5)
    fig.update_xaxes(
        title_text=f"share of tokens at which a {label(result.unit, 40)} fires",
        tickmode="array",
        tickvals=f32(whole),
        ticktext=[f"{100 * 10.0**v:g} %" for v in whole],
    )
    fig.update_yaxes(title_text=f"{label(result.unit, 40)}s")
    fig.update_layout(height=300, showlegend=False)
    return fig


def densities_reading(result: Features) -> str:
    """How to read the histogram of densities."""
    return (
        f"Counted over {result.n:,} tokens of {result.documents:,} texts; bins are a quarter of a "
        "decade wide."
    )


def feature_list(result: Features, part_id: str, room: int) -> list[html.Part]:
    """A table of the latents and a page for each, in at most ``room`` bytes, and a map of them.

    The page's script builds both: the table sorts and searches, a page is built when it is opened.
    Named latents come first, the best predicted label before the others, then the rest, the
    commonest first. Where all does not fit, the examples of the last are left out, then the last
    latents, and the page says how many. Without a script the first latents stand in a table.
    """
    order = order_of(result)
    room = min(room, LIMIT) - 12_000
    chart = None if result.places is None else _map(result, order, part_id)
    size = len(chart.html()) if chart else 0
    if size > room / 4:
        chart, size = None, 0
    ids = {"page": f"{part_id}-"}
    rows, shown, data = _fitted(result, order, room - size, ids)
    parts: list[html.Part] = [_summary(result, len(order), len(rows), shown)]
    if result.places is not None and chart is None:
        parts.append(html.Paragraph(("The map of the decoder directions does not fit.",), "note"))
    if result.dead:
        parts.append(_dead(result))
    if not len(rows):
        return parts
    if chart is not None:
        parts.append(chart)
    still = _still(result, rows)
    parts.append(html.Live(f"{part_id}-list", "latents", data, (still,)))
    return parts


def _fitted(
    result: Features, order: np.ndarray, room: int, ids: dict[str, str]
) -> tuple[np.ndarray, int, dict[str, Any]]:
    """The latents of the table, how many with examples, and their data, as many as fit."""

    def fits(rows: int, shown: int) -> dict[str, Any] | None:
        data = feature_data(result, order[:rows], shown, ids)
        return data if len(html.Live("x", "x", data).html()) <= room else None

    found = fits(len(order), len(order))
    if found is not None or not len(order):
        return order, len(order), found or {}
    whole = fits(len(order), 0)
    low, high, best = 0, len(order), whole  # all in the table if that fits, and examples of some
    for _ in range(8):
        middle = (low + high) // 2
        rows = len(order) if whole is not None else middle
        data = fits(rows, middle if whole is not None else 0)
        low, high, best = (low, middle, best) if data is None else (middle, high, data)
    return (order, low, best or {}) if whole is not None else (order[:low], 0, best or {})


def _still(result: Features, rows: np.ndarray) -> html.Table:
    """The first latents, for a reader without scripts."""
    named = [_named(result, i) for i in rows[:STILL]]
    body = tuple(
        (
            f"{result.unit} {result.latents[i]}",
            html.Data(name, 80),
            _percent(float(result.density[i])),
            html.Data(_strongest(result, i), 200),
        )
        for i, name in zip(rows, named, strict=False)
    )
    columns = (
        html.Column(result.unit),
        html.Column("label"),
        html.Column("density", True),
        html.Column("strongest tokens"),
    )
    caption = f"The first {len(body):,} of {len(rows):,} {result.unit}s; the rest needs scripts"
    return html.Table(caption, columns, body)


def _named(result: Features, i: int) -> str:
    return result.labels[result.predicts[i]] if result.named[i] else ""


def _strongest(result: Features, i: int) -> str:
    """The tokens at which a latent fires most strongly, each once."""
    middle = result.top["tokens"][i][:, result.context]
    words = tables.distinct(_seen(html.clip(result.words[t], 30)) for t in middle if t >= 0)
    return "  ".join(words[:4])


def _map(result: Features, rows: np.ndarray, part_id: str) -> html.Part:
    """Decoder directions as points; a click on one opens its page."""
    assert result.places is not None  # noqa: S101  the caller has looked
    drawn = rows[np.isfinite(result.places[rows]).all(1)]
    names = [_named(result, i).rpartition("=")[0] or "no name" for i in drawn]
    way = {"umap": "UMAP", "pca": "PCA"}.get(result.layout or "", "")
    alt = (
        f"{way} map of the decoder directions of {len(drawn):,} {result.unit}s, of which "
        f"{sum(n != 'no name' for n in names):,} have a name. Gaps and distances in it mean little."
    )
    said = [
        " · ".join(filter(None, (f"{result.unit} {result.latents[i]}", _named(result, i),
                                 _strongest(result, i))))
        for i in drawn
    ]  # fmt: skip
    return points(
        f"{part_id}-map",
        result.places[drawn],
        names,
        said,
        alt=alt,
        kind=result.unit,
        link=f"{part_id}-",
        number=result.latents[drawn],
    )


def _summary(result: Features, alive: int, shown: int, whole: int) -> html.Part:
    named = int(result.named.sum())
    one = result.unit
    text = f"Of {tables.plural(len(result), one)} {len(result.dead):,} never fired. "
    if result.labels:
        text += (
            f"{named:,} have a name: a label of the data of which a firing is a good sign, on "
            f"texts that did not choose it. With the labels turned within each text, as a control, "
            f"{result.named_control:,} would have one. "
        )
    else:
        text += "None has a name, for want of labels of single tokens. "
    text += (
        f"Each {one} has a page, which opens from the table or the map. The stronger a token's "
        f"background there, the stronger the {one} fires, against its strongest firing anywhere."
    )
    cells: list[html.Cell] = [text]
    if shown < alive:
        cells += [
            " ",
            html.Strong(f"{shown:,} of the {alive:,} that fire are shown"),
            "; the others do not fit in the page's size and are in the saved result.",
        ]
    if whole < shown:
        cells += [
            " ",
            html.Strong(f"Examples are there for the first {whole:,} of {shown:,}"),
            "; the others' do not fit in the page's size and are in the saved result.",
        ]
    return html.Paragraph(tuple(cells), "note")


def _dead(result: Features) -> html.Part:
    by_reason: dict[str, list[str]] = {}
    for latent, reason in result.dead.items():
        by_reason.setdefault(reason, []).append(latent)
    rows = []
    for reason, latents in by_reason.items():
        more = f" and {len(latents) - DEAD:,} more" if len(latents) > DEAD else ""
        rows.append(
            (html.Data(reason), len(latents), html.Data(", ".join(latents[:DEAD]) + more, 1000))
        )
    columns = (html.Column("why"), html.Column(f"{result.unit}s", True), html.Column("which"))
    return html.Details(
        f"{result.unit.capitalize()}s that never fired", (html.Table("", columns, tuple(rows)),)
    )


def _seen(token: str) -> str:
    return token.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥") or "∅"


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"


def _alt(result: Features) -> str:
    alive = result.density[result.fires > 0]
    if not len(alive):
        return f"{tables.concept(result)}: no {result.unit} fires."
    return (
        f"{tables.concept(result)}: {len(alive):,} of {len(result):,} {result.unit}s fire, half of "
        f"them at {_percent(float(np.median(alive)))} of the tokens or less, the commonest at "
        f"{_percent(float(alive.max()))}."
    )
