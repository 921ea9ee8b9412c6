"""The facets of a unit: a map of the inputs, and for each facet its images or its contexts."""

import numpy as np
from numpy.typing import NDArray

from dashboards import html, tables
from dashboards.html import label
from dashboards.style import Plot, f32, house, light
from interp.images import encoded
from probes.multifaceted.record import Facets

__all__ = ["facet_map", "facet_parts", "facets_reading"]

COLOURS = ("curve", "bag", "shuffled", "untrained", "features", "majority")
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "x", "star")
SIDE = 64
"""Least side in px at which an image is shown."""
LARGEST = 128
"""Greatest side in px of an image as it is kept."""
MAPS = {"tsne": "t-SNE", "umap": "UMAP", "pca": "principal components"}


def facet_map(result: Facets) -> Plot:
    """The inputs that fire a unit where the map puts them, by facet.

    Parameters
    ----------
    result : of `probes.facets`.
    """
    fig = Plot()
    for i in range(-1, result.n_facets):
        mine = np.flatnonzero(result.labels == i)
        if not len(mine):
            continue
        name = "in no facet" if i < 0 else f"{i}: {result.title(i)}"
        turn = max(i, 0)
        colour = "majority" if i < 0 else COLOURS[turn % len(COLOURS)]
        fig.add_scatter(
            x=f32(result.xy[mine, 0]),
            y=f32(result.xy[mine, 1]),
            mode="markers",
            name=label(f"{name} ({len(mine):,})", 48),
            text=[label(_point(result, int(j)), 80) for j in mine],
            marker={
                "color": light(colour),
                "symbol": "circle-open" if i < 0 else SYMBOLS[(turn + turn // 6) % len(SYMBOLS)],
                "size": 6,
                "opacity": 0.75,
            },
            hovertemplate="%{text}<extra></extra>",
        )
    house(fig, label(f"{tables.concept(result)}, facets"), alt=_alt(result))
    hidden = {"showticklabels": False, "ticks": "", "title_text": ""}
    fig.update_xaxes(**hidden)
    fig.update_yaxes(**hidden, scaleanchor="x")
    fig.update_layout(height=480, hovermode="closest")
    return fig


def facets_reading(result: Facets) -> str:
    """What the map does not say."""
    if not result.n:
        return ""
    where = MAPS[result.settings["embed"]]
    return (
        f"A map ({where}) of the codes at {result.codes_at}, made without labels. Distances and "
        "gaps in it mean little; the tests and the control are computed on the codes themselves."
    )


def facet_parts(result: Facets) -> list[html.Part]:
    """What is said of the facets below the map: the verdict, then each facet."""
    parts: list[html.Part] = [_verdict(result)]
    if result.reasons:
        items = tuple(html.Data(f"{k}: {v}") for k, v in result.reasons.items())
        parts.append(html.Details("What is undefined, and why", (html.Items(items),)))
    if result.means is not None:
        parts.append(_pictures(result))
    for i, own in enumerate(result.snippets):
        rows = tuple(html.Highlight(t, v, result.strongest, at) for t, v, at in own)
        words = ", ".join(f"{w} (z {z:.1f})" for w, z in result.words[i]) or "none"
        inside = (
            html.Paragraph(("Words that its contexts have more often: ", html.Data(words))),
            html.Items(rows, kind="examples"),
        )
        title = f"Facet {i} · {result.title(i)} · {result.sizes[i]:,} contexts"
        parts.append(html.Details(title, inside, open=True))
    return parts


# ---- its parts


def _verdict(result: Facets) -> html.Part:
    if not result.n:
        return html.Paragraph((html.Data(result.reasons.get("labels", "")),), "warning")
    cells: list[html.Cell] = [f"{tables.plural(result.n, 'input')}, "]
    cells += [html.Strong(tables.plural(result.n_facets, "facet")), ". "]
    if result.several is None:
        cells.append("Whether there is more than one could not be tested. ")
    else:
        found = "There is more than one" if result.several else "No more than one was found"
        cells.append(
            f"{found}: k-means groups have a silhouette of {result.null['found']:.3f} in the codes "
            f"(Gaussians of the same covariance: p = {result.null['p']:.3g}), and for a valley "
            f"between two of them p = {result.valley:.2g}; both must be at most .05. "
        )
    if result.n_facets > 1:
        cells.append(
            f"Silhouette {result.silhouette:.3f} in the map and {result.code_silhouette:.3f} in "
            "the codes; k-means in the codes makes the same groups to an adjusted Rand index of "
            f"{result.control['agreement']:.3f}. "
        )
    if result.label is not None and np.isfinite(result.adjusted_rand_index):
        cells += ["Against the column ", html.Data(result.label, 60),
                  f" the adjusted Rand index is {result.adjusted_rand_index:.3f}. "]  # fmt: skip
    if np.isfinite(result.diversity):
        cells.append(f"The codes of synthesised images differ by {result.diversity:.3f} "
                     "(1 - cosine, mean over pairs).")  # fmt: skip
    return html.Paragraph(tuple(cells))


def _pictures(result: Facets) -> html.Part:
    """A row a facet: its mean image, the synthesised one, real ones, and what they score."""
    assert result.means is not None  # noqa: S101  the caller has looked
    columns = [html.Column("facet"), html.Column("mean of the nearest")]
    if result.images is not None:
        columns.append(html.Column("synthesised"))
    columns += [html.Column("nearest real inputs"), html.Column("scores")]
    rows = []
    for i, mean in enumerate(result.means):
        name = result.title(i)
        cells: list[html.Cell] = [html.Data(f"{i}: {name}", 60)]
        cells.append(picture(mean, f"Mean image of facet {i}, {name}"))
        if result.images is not None:
            cells.append(picture(result.images[i], f"Image synthesised for facet {i}, {name}"))
        if result.shown is not None:
            count = int((result.nearest[i] >= 0).sum())
            own = result.shown[i][:count].astype(np.float32) / 255
            alt = f"{len(own)} real inputs nearest the centre of facet {i}, {name}"
            cells.append(picture(strip(own), alt))
        cells.append(html.Items(tuple(_scores(result, i))))
        rows.append(tuple(cells))
    return html.Table("The facets, the largest first", tuple(columns), tuple(rows))


def _scores(result: Facets, i: int) -> list[html.Cell]:
    lines: list[html.Cell] = [tables.plural(f"{result.sizes[i]:,}", "input")]
    if np.isfinite(result.purity[i]):
        lines.append(f"purity {result.purity[i]:.3f}")
    lines.append(f"tightness {result.tightness[i]:.2f}")
    if result.contrast is not None:
        lines.append(f"contrast of the mean {result.contrast[i]:.2f}")
    scores = result.image_scores
    if scores:
        lines.append(f"fires {scores['ratio'][i]:.2f} of the best real input")
        other = f", next facet {scores['other_cosine'][i]:.3f}" if result.n_facets > 1 else ""
        lines.append(f"cosine to its facet {scores['own_cosine'][i]:.3f}{other}")
        if int(scores["facet"][i]) not in (i, -1):
            lines.append(html.Strong(f"nearer to facet {int(scores['facet'][i])}"))
    return lines


def picture(image: NDArray, alt: str) -> html.Picture:
    """An image [c, h, w] in 0..1 as a small PNG, at least 64 px high."""
    from PIL import Image

    pixels = np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
    if len(pixels) not in (1, 3):  # no colours: the mean of the channels
        pixels = pixels.mean(0, keepdims=True).astype(np.uint8)
    drawn = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
    width, height = drawn.size
    if height > LARGEST:
        width, height = round(width * LARGEST / height), LARGEST
        drawn = drawn.resize((width, height))
    scale = max(1, -(-SIDE // height))
    png = encoded(drawn, "PNG", optimize=True)
    return html.Picture(png, alt, width=width * scale, height=height * scale)


def strip(images: NDArray) -> NDArray:
    """Images [n, c, h, w] side by side, a white line between them."""
    n, c, h, w = images.shape
    gap = max(1, w // 16)
    out = np.ones((c, h, n * w + (n - 1) * gap), dtype=np.float32)
    for i, image in enumerate(images):
        out[:, :, i * (w + gap) : i * (w + gap) + w] = image
    return out


def _point(result: Facets, j: int) -> str:
    text = f"row {result.rows[j]}, fires {result.activation[j]:.3g}"
    if result.label is not None and result.truth[j] >= 0:
        text += f", {result.label} {result.classes[result.truth[j]]}"
    return text


def _alt(result: Facets) -> str:
    if not result.n:
        return f"{tables.concept(result)}: no input fires the unit."
    sizes = ", ".join(
        f"{result.title(i)} ({int(s):,})" for i, s in enumerate(result.sizes.tolist()[:12])
    )
    return (
        f"{tables.concept(result)}: {tables.plural(result.n, 'input')} that fire the unit in "
        f"{tables.plural(result.n_facets, 'facet')}: {sizes}."
    )
