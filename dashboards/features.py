"""The latents of an SAE, one below the other: what each fires for and what it does."""

from collections.abc import Mapping, Sequence

import numpy as np

from dashboards import html, tables
from dashboards.html import label
from dashboards.style import Plot, f32, house, light
from saes.records import Example, Feature, Features, Partner

__all__ = ["densities", "densities_reading", "feature_list"]

LIMIT = 1_500_000
"""Bytes of one result's features, so that those of several results fit in a page."""
TOP = 5
"""Top examples that are shown."""
OPEN = 3
"""Features that are unfolded at first."""
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
        hovertemplate="10^%{x:.2f}: %{y} latents<extra></extra>",
    )
    house(fig, label(f"{tables.concept(result)}, densities"), alt=_alt(result))
    whole = np.arange(np.floor(low), 0.5)
    fig.update_xaxes(
        title_text="share of tokens at which a latent fires",
        tickmode="array",
        tickvals=f32(whole),
        ticktext=[f"{100 * 10.0**v:g} %" for v in whole],
    )
    fig.update_yaxes(title_text="latents")
    fig.update_layout(height=300, showlegend=False)
    return fig


def densities_reading(result: Features) -> str:
    """How to read the histogram of densities."""
    return (
        f"Counted over {result.n:,} tokens of {result.documents:,} texts; bins are a quarter of a "
        "decade wide."
    )


def feature_list(result: Features, part_id: str, room: int) -> list[html.Part]:
    """What is known of each latent, under a field that searches it, in at most ``room`` bytes.

    Named latents come first, the best predicted label before the others, then the rest, the
    commonest first. What does not fit is left out, and the page says how many.
    """
    alive = [i for i in np.lexsort((-result.fires,)) if result.fires[i]]
    order = sorted(alive, key=lambda i: -result.f1[i] if result.named[i] else 1.0)
    room = min(room, LIMIT) - 2_000
    shown: list[Feature] = []
    for i in order:
        feature = result[int(result.latents[i])]
        size = len(_card(feature, result, part_id, set()).html().encode()) + 10
        size += 60 * len(feature.partners)  # their links
        if size > room:
            break
        room -= size
        shown.append(feature)
    present = {f.latent for f in shown}
    parts: list[html.Part] = [_summary(result, len(order), len(shown))]
    if result.dead:
        parts.append(_dead(result))
    if shown:
        cards = tuple(
            _card(f, result, part_id, present, open_=i < OPEN) for i, f in enumerate(shown)
        )
        parts.append(
            html.Filtered(f"{part_id}-list", 'Search the latents (words, or a "phrase")', cards)
        )
    return parts


def _summary(result: Features, alive: int, shown: int) -> html.Part:
    named = int(result.named.sum())
    text = f"Of {tables.plural(len(result), 'latent')} {len(result.dead):,} never fired. "
    if result.labels:
        text += (
            f"{named:,} have a name: a label of the data of which a firing is a good sign, on "
            f"texts that did not choose it. With the labels turned within each text, as a control, "
            f"{result.named_control:,} would have one. "
        )
    else:
        text += "None has a name, for want of labels of single tokens. "
    text += (
        "The stronger a token's background, the stronger the latent fires there, against its "
        "strongest firing anywhere; a token's title says the number."
    )
    cells: list[html.Cell] = [text]
    if shown < alive:
        cells += [
            " ",
            html.Strong(f"{shown:,} of the {alive:,} that fire are shown"),
            "; the others do not fit in the page's size and are in the saved result.",
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
    columns = (html.Column("why"), html.Column("latents", True), html.Column("which"))
    return html.Details("Latents that never fired", (html.Table("", columns, tuple(rows)),))


def _card(
    feature: Feature, result: Features, part_id: str, present: set[int], *, open_: bool = False
) -> html.Details:
    """A feature, folded to its number, its name, its density and its strongest tokens."""
    parts: list[html.Part] = [_numbers(feature, result)]
    if feature.predicts is not None:
        parts.append(_label(feature, result.about))
    parts.append(_examples(_distinct(feature.top)[:TOP], feature.strongest))
    parts.append(_bands(feature))
    for side, words in (("Raises", feature.raised), ("Lowers", feature.lowered)):
        if words:
            shown = tables.listed([html.Code(_seen(w), 40) for w, _ in words])
            parts.append(html.Paragraph((f"{side} the logits of ", *shown)))
    if feature.partners:
        said = [_partner(p, part_id, present) for p in feature.partners]
        cells: list[html.Cell] = []
        for i, cell in enumerate(said):
            cells += ["; " if i else "", *cell]
        parts.append(html.Paragraph(("Fires together with ", *cells)))
    if feature.aligned:
        probes = [f"{a.probe} {a.cosine:+.2f}" for a in feature.aligned[:5]]
        level = f" (random directions reach {result.random_alignment:.2f})"
        parts.append(
            html.Paragraph(("Cosine with probes: ", html.Data(", ".join(probes), 400), level))
        )
    return html.Details(_title(feature), tuple(parts), id=f"{part_id}-{feature.latent}", open=open_)


def _title(feature: Feature) -> str:
    name = f" · {feature.name}" if feature.name else ""
    tokens = tables.distinct(_seen(e.tokens[e.at]) for e in feature.top)[:4]
    return " · ".join(
        [
            f"Latent {feature.latent}{name}",
            f"{_percent(feature.density)} of tokens",
            "  ".join(html.clip(t, 30) for t in tokens),
        ]
    )


def _numbers(feature: Feature, result: Features) -> html.Part:
    used = np.flatnonzero(feature.histogram)
    first, last = int(used[0]), int(used[-1]) + 1
    bars = html.Bars(
        feature.histogram[first:last].tolist(),
        f"Histogram of its activations above 0, on a logarithmic axis from "
        f"{result.edges[first]:.3g} to {result.edges[last]:.3g}",
    )
    text = (
        f" Fires at {_percent(feature.density)} of the tokens ({feature.fires:,}), with "
        f"{feature.mean:.3g} in the mean and {feature.strongest:.3g} at most."
    )
    return html.Paragraph((bars, text))


def _label(feature: Feature, about: Mapping[str, str]) -> html.Part:
    best = feature.predicts
    assert best is not None  # noqa: S101  the caller has looked
    asked = about.get(best.label.rpartition("=")[0], "")
    said = "Named for" if feature.name else "No name; best predicts"
    return html.Paragraph(
        (
            f"{said} ",
            html.Data(best.label, 80),
            *((" (", html.Data(asked, 120), ")") if asked else ()),
            f": precision {_score(best.precision)} at a base rate of {_score(best.base_rate)}, "
            f"recall {_score(best.recall)}, F1 {_score(best.f1)} (chance "
            f"{_score(best.chance_f1)}).",
        )
    )


def _examples(examples: Sequence[Example], most: float) -> html.Part:
    rows = tuple(html.Highlight(e.tokens, e.activations, most, e.at) for e in examples)
    return html.Items(rows, kind="examples")


def _bands(feature: Feature) -> html.Part:
    parts: list[html.Part] = []
    for band in reversed(feature.bands):
        if not band.examples:
            continue
        text = (
            f"Quantiles {band.low:g} to {band.high:g}: activations {band.least:.3g} to "
            f"{band.most:.3g}"
        )
        parts.append(html.Paragraph((text,), "note"))
        parts.append(_examples(_distinct(band.examples), feature.strongest))
    return html.Details("Weaker firings", tuple(parts))


def _distinct(examples: Sequence[Example]) -> list[Example]:
    """Examples that differ in the last four tokens: data may hold a passage several times."""
    passages = {e.tokens[max(0, e.at - 3) : e.at + 1]: e for e in reversed(examples)}
    return list(passages.values())[::-1]


def _partner(partner: Partner, part_id: str, present: set[int]) -> tuple[html.Cell, ...]:
    name = f"latent {partner.latent}"
    link = html.Link(name, f"{part_id}-{partner.latent}") if partner.latent in present else name
    return (link, f" ({partner.tokens:,} times, {partner.expected:,.0f} by chance)")


def _seen(token: str) -> str:
    return token.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥") or "∅"


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"


def _score(value: float) -> str:
    return f"{value:.2f}" if np.isfinite(value) else "undefined"


def _alt(result: Features) -> str:
    alive = result.density[result.fires > 0]
    if not len(alive):
        return f"{tables.concept(result)}: no latent fires."
    return (
        f"{tables.concept(result)}: {len(alive):,} of {len(result):,} latents fire, half of them "
        f"at {_percent(float(np.median(alive)))} of the tokens or less, the commonest at "
        f"{_percent(float(alive.max()))}."
    )
