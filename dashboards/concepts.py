"""The concepts of a VL-SAE: what images and texts they share, one below the other."""

import numpy as np

from dashboards import html, tables
from dashboards.html import label
from dashboards.style import Plot, f32, house, light
from saes.concept_records import Concept, Concepts
from saes.explaining import Explanation

__all__ = [
    "concept_dots",
    "concept_headline",
    "concept_list",
    "concept_reading",
    "explanation_bars",
    "explanation_reading",
    "explanation_table",
]

LIMIT = 1_800_000
"""Bytes of one result's concepts, thumbnails included."""
TEXTS = 6
"""Texts that are shown of a concept."""
OPEN = 4
"""Concepts that are unfolded at first."""


def concept_dots(result: Concepts) -> Plot:
    """A dot a latent: the share of images, and of texts, at which it fires.

    Parameters
    ----------
    result : of `saes.concepts`.
    """
    fig = Plot()
    x, y = 100 * result.image_fires / result.n, 100 * result.text_fires / result.n
    kinds = _kinds(result)
    looks = (("agrees on a label", "curve", "circle"), ("has a name only", "bag", "diamond"),
             ("no name", "majority", "x"))  # fmt: skip
    for i, (name, colour, symbol) in enumerate(looks):
        mine = np.flatnonzero(kinds == i)
        fig.add_scatter(
            x=f32(x[mine]),
            y=f32(y[mine]),
            mode="markers",
            name=name,
            marker={"color": light(colour), "symbol": symbol, "size": 8},
            text=[label(_title(result[int(j)])) for j in mine],
            hovertemplate="%{text}<br>%{x:.1f} % of images, %{y:.1f} % of texts<extra></extra>",
        )
    house(fig, label(tables.concept(result)), alt=_alt(result))
    fig.update_xaxes(title_text="images at which a latent fires, %", rangemode="tozero")
    fig.update_yaxes(title_text="texts at which it fires, %", rangemode="tozero")
    fig.update_layout(height=420)
    return fig


def concept_reading(result: Concepts) -> str:
    """How to read the dots."""
    text = (
        "A latent on an axis fires for one of the two alone, so it stands for no concept that "
        "both share."
    )
    if result.intra is not None and result.inter is not None:
        text += (
            f" The images and texts of one latent have a cosine of {result.intra:.3f} in the mean, "
            f"those of different latents {result.inter:.3f}."
        )
    return text


def concept_headline(result: Concepts, target: str) -> html.Part:
    """What was found, in a sentence or two, with a link to the section."""
    found = result.metrics()
    text = (
        f": of {result.n_latents:,} latents {found['named']:,} have a name from their texts "
        f"(blind draws give {found['named_control']:,}), {found['dead']:,} never fire."
    )
    if result.columns:
        text += (
            f" Of {found['meant']:,} the images and the texts agree on a label "
            f"(blind draws: {found['meant_control']:,})"
        )
        if found["purity"] is not None:
            text += f", with a purity of {found['purity']:.2f}"
        text += "."
    return html.Items(((html.Link(tables.concept(result), target), text),), kind="findings")


def concept_list(result: Concepts, part_id: str, room: int) -> list[html.Part]:
    """Each concept under a field that searches them, in at most ``room`` bytes.

    Those that agree on a label come first, then the named, then the rest, the purest and the
    commonest first. What does not fit is left out, and the page says how many.
    """
    kinds = _kinds(result)
    alive = [i for i in range(len(result)) if str(i) not in result.dead]
    order = sorted(
        alive, key=lambda i: (kinds[i], -_purity(result, i), -_least_fires(result, i), i)
    )
    room = min(room, LIMIT) - 4_000
    cards: list[html.Part] = []
    for i in order:
        card = _card(result[i], part_id, open_=len(cards) < OPEN)
        size = len(card.html().encode()) + 10
        if size > room:
            break
        room -= size
        cards.append(card)
    text = (
        "A concept is a latent: on the left its strongest images, on the right its strongest "
        "texts. Its name are the words that set these texts apart from all others; where none "
        "does, it says so. "
    )
    more: list[html.Cell] = []
    if len(cards) < len(alive):
        more = [
            html.Strong(f"{len(cards):,} of the {len(alive):,} that fire are shown"),
            "; the others do not fit in the page's size and are in the saved result.",
        ]
    parts: list[html.Part] = [html.Paragraph((text, *more), "note")]
    if result.dead:
        which = ", ".join(list(result.dead)[:60])
        why = next(iter(result.dead.values()))
        parts.append(html.Paragraph((f"Dead, {len(result.dead):,} ({why}): ", html.Data(which))))
    if cards:
        search = 'Search the concepts (words, or a "phrase")'
        parts.append(html.Filtered(f"{part_id}-list", search, tuple(cards)))
    return parts


def explanation_bars(result: Explanation) -> Plot:
    """A bar a concept: its score.

    Parameters
    ----------
    result : of `saes.explain`.
    """
    fig = Plot()
    names = [f"{i} {n}".strip() for i, n in zip(result.latents.tolist(), result.names, strict=True)]
    y = np.arange(len(names), dtype=np.float32)
    fig.add_bar(
        x=f32(result.scores),
        y=y,
        orientation="h",
        marker={"color": light("curve")},
        hovertemplate="%{x:.2f}<extra></extra>",
    )
    said = "; ".join(f"{n} {s:.1f}" for n, s in zip(names, result.scores, strict=True))
    alt = f"Concepts of the {result.of}: {html.clip(said, 400) or 'none is active'}."
    house(fig, label(tables.concept(result)), alt=alt)
    fig.update_yaxes(
        tickmode="array",
        tickvals=y,
        ticktext=[label(n, 34) for n in names],
        range=[len(names) - 0.5, -0.5],
        automargin=True,
    )
    fig.update_xaxes(title_text="score: activation over its mean", rangemode="tozero")
    fig.update_layout(height=150 + 30 * max(3, len(names)), showlegend=False)
    return fig


def explanation_reading(result: Explanation) -> str:
    """How to read the bars."""
    if result.of == "pair":
        return "The score is the product of both activations over the latent's mean activation."
    return "The score is the activation over the latent's mean activation."


def explanation_table(result: Explanation) -> html.Part:
    """What was explained, and each concept beside its strongest image."""
    rows = tuple(
        (
            int(latent),
            html.Data(name, 80) if name else html.Missing("no word is distinctive"),
            html.Picture(png, f"strongest image of latent {latent}") if png else "—",
            float(score),
        )
        for latent, name, png, score in zip(
            result.latents, result.names, result.thumbnails, result.scores, strict=True
        )
    )
    columns = (html.Column("latent"), html.Column("name"), html.Column("its strongest image"),
               html.Column("score", True))  # fmt: skip
    said = " and ".join(t for t in (result.image, result.text) if t) or f"the {result.of}"
    return html.Table(f"Concepts of {html.clip(said, 160)}", columns, rows)


def _kinds(result: Concepts) -> np.ndarray:
    """0 for a latent that agrees on a label, 1 for one that is named only, 2 for the rest."""
    kinds = np.full(len(result), 2)
    kinds[[int(i) for i in result.names]] = 1
    kinds[[int(i) for i in result.meanings]] = 0
    return kinds


def _least_fires(result: Concepts, i: int) -> int:
    """How often a latent fires on the side where it fires less."""
    return int(min(result.image_fires[i], result.text_fires[i]))


def _purity(result: Concepts, i: int) -> float:
    """The lesser purity of a latent that agrees on a label, 0 for others."""
    meaning = result[i].meaning
    return 0.0 if meaning is None else min(meaning.image_purity, meaning.text_purity)


def _title(concept: Concept) -> str:
    said = concept.name or "no name"
    meant = concept.meaning
    more = f" · {meant.column} = {meant.value}" if meant else ""
    return f"Latent {concept.latent} · {said}{more}"


def _card(concept: Concept, part_id: str, *, open_: bool) -> html.Details:
    """A concept, folded to its number and its name."""
    parts: list[html.Part] = [html.Paragraph((_facts(concept),))]
    if concept.meaning is not None:
        m = concept.meaning
        parts.append(
            html.Paragraph(
                (
                    "Images and texts agree on ",
                    html.Data(f"{m.column} = {m.value}", 80),
                    f": {m.image_purity:.0%} of the strongest images and {m.text_purity:.0%} of "
                    f"the strongest texts, where {m.base_rate:.0%} of all rows are so.",
                )
            )
        )
    if concept.unnamed is not None:
        parts.append(html.Paragraph(("No name: ", html.Data(concept.unnamed), ".")))
    pictures = tuple(
        html.Picture(
            e.thumbnail,
            f"image {html.clip(e.text, 60)}, activation {e.activation:.2f}",
            f"{html.clip(e.text, 60)}: {e.activation:.3g}",
        )
        for e in concept.images
        if e.thumbnail
    )
    texts = html.Items(
        tuple((html.Data(e.text, 200), f" ({e.activation:.2f})") for e in concept.texts[:TEXTS]),
        kind="examples",
    )
    if concept.images and not pictures:
        names = tables.listed([html.Data(e.text, 60) for e in concept.images[:TEXTS]])
        parts.append(html.Paragraph(("Strongest images: ", *names)))
    if not concept.images:
        parts.append(html.Paragraph(("It fires at no image.",), "note"))
    if not concept.texts:
        parts.append(html.Paragraph(("It fires at no text.",), "note"))
    parts.append(html.Pictures(pictures, texts) if pictures else texts)
    return html.Details(_title(concept), tuple(parts), f"{part_id}-{concept.latent}", open=open_)


def _facts(concept: Concept) -> str:
    text = (
        f"Fires at {concept.image_fires:,} images and {concept.text_fires:,} texts; mean "
        f"activation {concept.mean_activation:.3g}"
    )
    if np.isfinite(concept.similarity):
        text += f"; cosine of its mean image and text {concept.similarity:.2f}"
    if concept.words:
        said = "; ".join(
            f"“{html.clip(w.term, 40)}” in {w.share:.0%} of its texts, {w.base_rate:.1%} of all"
            for w in concept.words
        )
        text += f". Distinctive: {said}"
    return text + "."


def _alt(result: Concepts) -> str:
    found = result.metrics()
    one = int(((result.image_fires == 0) != (result.text_fires == 0)).sum())
    return (
        f"{tables.concept(result)}: of {len(result):,} latents {found['meant']:,} agree on a "
        f"label, {found['named']:,} have a name, {one:,} fire for images alone or texts alone, "
        f"{found['dead']:,} never."
    )
