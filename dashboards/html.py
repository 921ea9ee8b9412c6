"""Typed parts that render themselves to escaped HTML: the only place that makes HTML strings.

A part never takes markup. Text that comes from data, such as labels, names and examples, is an
argument like any other: it is escaped, its invisible characters are shown, and it is cut where it
is long. Headings take their level from the nesting of `Section`, so that none is ever skipped.
"""

import base64
import hashlib
import html
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

__all__ = [
    "Bars",
    "Cell",
    "Code",
    "Column",
    "Data",
    "Details",
    "Figure",
    "Filtered",
    "Highlight",
    "Items",
    "Link",
    "Live",
    "Missing",
    "Page",
    "Paragraph",
    "Part",
    "Picture",
    "Pictures",
    "Section",
    "Sparkline",
    "Strong",
    "Table",
    "clip",
    "label",
    "render",
    "visible",
]

LIMIT = 300
"""Characters of one text that are shown; the rest is cut with a notice."""

# Controls but tab and newline, lone surrogates, marks that reorder text, and non-characters.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069"
    "\ud800-\udfff\ufdd0-\ufdef\ufeff\ufffe\uffff]"
)


def visible(text: str) -> str:
    """The text with each character that a reader would not see, or that reorders text, shown.

    ASCII controls become their pictures (NUL is ␀); the rest is spelt out, such as ⟨U+202E⟩.
    """
    return _UNSEEN.sub(_picture, text.replace("\r\n", "\n"))


def _picture(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x20:
        return chr(0x2400 + code)
    return "␡" if code == 0x7F else f"⟨U+{code:04X}⟩"


def clip(text: str, limit: int = LIMIT) -> str:
    """The first ``limit`` characters, and a notice of how many there were."""
    if len(text) <= limit:
        return text
    return f"{text[:limit]}… [cut: {limit:,} of {len(text):,} characters shown]"


def label(text: str, limit: int = 60) -> str:
    """Text for Plotly, which reads tags and entities in every label: none is left to read."""
    short = text if len(text) <= limit else f"{text[: limit - 1]}…"
    flat = visible(short.replace("\n", " ").replace("\t", " "))
    # Plotly fills %{...} in templates; a word joiner between the two characters leaves it as text.
    return html.escape(flat.replace("%{", "%\u2060{"), quote=False)


def _text(text: str) -> str:
    return html.escape(visible(text))


def _attributes(**values: str | int | None) -> str:
    names = {k.rstrip("_").replace("_", "-"): v for k, v in values.items() if v is not None}
    return "".join(f' {k}="{_text(str(v))}"' for k, v in names.items())


def _json(value: Any) -> str:
    """JSON that is inert inside a script element: no ``<``, ``>`` or ``&``, and ASCII only."""
    text = json.dumps(
        value, ensure_ascii=True, allow_nan=False, separators=(",", ":"), default=_plain
    )
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _plain(value: Any) -> Any:
    """An array that Plotly did not type, as it does to empty ones."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"no JSON for a {type(value).__name__}")


class Part:
    """Something that renders itself; ``level`` is the level of a heading inside it."""

    def html(self, level: int = 2) -> str:
        """The part as escaped HTML."""
        raise NotImplementedError


Cell = str | int | float | Part | None


def render(value: Cell | Sequence[Cell], level: int = 2) -> str:
    """Escaped HTML of a part, of plain text, of a number, or of several of them in a row.

    Integers get thousands separators, other numbers four decimals; None and nan an em dash.
    """
    if isinstance(value, Part):
        return value.html(level)
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Sequence):
        return "".join(render(v, level) for v in value)
    if value is None or isinstance(value, float | np.floating) and math.isnan(value):
        return "—"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int | np.integer) else f"{value:.4f}"


@dataclass(frozen=True)
class Data(Part):
    """Text from data: escaped, cut, and kept from reordering what stands around it."""

    text: str
    limit: int = LIMIT

    def html(self, level: int = 2) -> str:
        """An isolated span."""
        return f'<bdi class="data">{_text(clip(self.text, self.limit))}</bdi>'


@dataclass(frozen=True)
class Code(Part):
    """A name, hash or command."""

    text: str
    limit: int = LIMIT

    def html(self, level: int = 2) -> str:
        """Monospaced text."""
        return f'<code dir="ltr">{_text(clip(self.text, self.limit))}</code>'


@dataclass(frozen=True)
class Strong(Part):
    """What matters in a sentence."""

    text: str

    def html(self, level: int = 2) -> str:
        """Strong text."""
        return f"<strong>{_text(clip(self.text))}</strong>"


@dataclass(frozen=True)
class Link(Part):
    """A link to a part of the same page."""

    text: str
    target: str

    def html(self, level: int = 2) -> str:
        """An anchor; its target can only be an id."""
        return (
            f"<a{_attributes(href=f'#{self.target}')}><bdi>{_text(clip(self.text, 80))}</bdi></a>"
        )


@dataclass(frozen=True)
class Missing(Part):
    """A value that is undefined, and why; ``mark`` points at the footnote that says so."""

    reason: str
    mark: str = ""

    def html(self, level: int = 2) -> str:
        """An em dash with the reason as its title and for screen readers."""
        reason = clip(self.reason)
        mark = f"<sup>{_text(self.mark)}</sup>" if self.mark else ""
        spoken = f'<span class="unseen"> (undefined: {_text(reason)})</span>' if not mark else ""
        return f'<span class="missing"{_attributes(title=reason)}>—{mark}{spoken}</span>'


@dataclass(frozen=True)
class Sparkline(Part):
    """A curve the size of a word, with a dot at its greatest value; no script.

    ``low`` and ``high`` bound the vertical axis, so that lines in one column compare.
    """

    values: Sequence[float]
    alt: str
    low: float = 0.0
    high: float = 1.0
    rule: float | None = None
    width: int = 104
    height: int = 28

    def html(self, level: int = 2) -> str:
        """An inline SVG in the colour of the text."""
        values = [float(v) for v in self.values]
        finite = [(i, v) for i, v in enumerate(values) if math.isfinite(v)]
        across = (self.width - 8) / max(len(values) - 1, 1)
        span = (self.high - self.low) or 1.0

        def y(value: float) -> float:
            inside = min(max((value - self.low) / span, 0.0), 1.0)
            return self.height - 4 - inside * (self.height - 8)

        drawn = "".join(
            f"{'L' if i and math.isfinite(values[i - 1]) else 'M'}{4 + i * across:.1f} {y(v):.1f}"
            for i, v in finite
        )
        parts = [f'<path d="{drawn}" fill="none" stroke="currentColor" stroke-width="1.6"/>']
        if self.rule is not None and math.isfinite(self.rule):
            at = f"{y(self.rule):.1f}"
            parts.append(
                f'<line x1="2" x2="{self.width - 2}" y1="{at}" y2="{at}" stroke="currentColor" '
                'stroke-dasharray="2 3" opacity="0.6"/>'
            )
        if finite:
            i, v = max(finite, key=lambda pair: pair[1])
            parts.append(
                f'<circle cx="{4 + i * across:.1f}" cy="{y(v):.1f}" r="2.8" fill="currentColor"/>'
            )
        frame = _attributes(
            class_="spark",
            role="img",
            aria_label=clip(self.alt),
            width=self.width,
            height=self.height,
            viewBox=f"0 0 {self.width} {self.height}",
        )
        return f"<svg{frame}>{''.join(parts)}</svg>"


@dataclass(frozen=True)
class Bars(Part):
    """A histogram the size of a word, from 0 up; no script."""

    values: Sequence[float]
    alt: str
    width: int = 132
    height: int = 28

    def html(self, level: int = 2) -> str:
        """An inline SVG in the colour of the text."""
        most = max([float(v) for v in self.values], default=0.0) or 1.0
        step = self.width / max(len(self.values), 1)
        bars = "".join(
            f'<rect x="{i * step:.1f}" y="{self.height - tall:.1f}" width="{step * 0.86:.1f}" '
            f'height="{tall:.1f}"/>'
            for i, v in enumerate(self.values)
            if (tall := max(float(v) / most * self.height, 1.0 if v > 0 else 0.0))
        )
        frame = _attributes(
            class_="spark bars",
            role="img",
            aria_label=clip(self.alt),
            width=self.width,
            height=self.height,
            viewBox=f"0 0 {self.width} {self.height}",
        )
        return f'<svg{frame} fill="currentColor">{bars}</svg>'


@dataclass(frozen=True)
class Highlight(Part):
    """Tokens of a text, each on a background as strong as its value.

    ``values`` are from 0 to ``most``; one above 0 is in its token's title. The token ``at`` is
    underlined, and its value is there for screen readers.
    """

    tokens: Sequence[str]
    values: Sequence[float]
    most: float
    at: int

    def html(self, level: int = 2) -> str:
        """An isolated span with a mark for each token whose value is above 0."""
        parts = []
        for i, (token, value) in enumerate(zip(self.tokens, self.values, strict=True)):
            seen = token.replace("\r", "␍").replace("\n", "⏎").replace("\t", "⇥")
            text = _text(clip(seen, 80)) or "∅"
            if not value > 0:
                parts.append(text)
                continue
            share = round(100 * min(value / self.most, 1.0)) if self.most > 0 else 0
            frame = _attributes(
                title=f"{value:.3g}", style=f"--a:{share}", class_="at" if i == self.at else None
            )
            said = f'<span class="unseen"> ({value:.3g}) </span>' if i == self.at else ""
            parts.append(f"<mark{frame}>{text}{said}</mark>")
        return f'<bdi class="tokens" dir="ltr">{"".join(parts)}</bdi>'


@dataclass(frozen=True)
class Picture(Part):
    """A small image inside the page: a PNG in base64, with its alternative text.

    ``width`` and ``height`` are in px as shown; pixels keep their edges. What is no base64 is not
    drawn; its alternative text stands in its place.
    """

    png: str
    alt: str
    title: str | None = None
    width: int = 40
    height: int = 40

    def html(self, level: int = 2) -> str:
        """An image whose address is its data."""
        if not re.fullmatch("[A-Za-z0-9+/]+={0,2}", self.png):
            return f'<span class="missing">{_text(clip(self.alt, 80))}</span>'
        frame = _attributes(
            class_="thumb",
            src=f"data:image/png;base64,{self.png}",
            alt=clip(self.alt, 120),
            title=self.title,
            width=self.width,
            height=self.height,
        )
        return f"<img{frame}>"


@dataclass(frozen=True)
class Pictures(Part):
    """Images on the left and a list on the right; on a narrow screen one below the other."""

    pictures: tuple[Picture, ...]
    beside: Part

    def html(self, level: int = 2) -> str:
        """Two columns."""
        held = "".join(p.html(level) for p in self.pictures)
        return (
            f'<div class="beside"><div class="thumbs">{held}</div>\n'
            f"<div>{self.beside.html(level)}</div></div>\n"
        )


@dataclass(frozen=True)
class Filtered(Part):
    """Parts under a field that hides those without the words typed into it.

    The field is there only where the page's script runs; without it all parts stand.
    """

    id: str
    label: str
    parts: tuple[Part, ...]

    def html(self, level: int = 2) -> str:
        """A labelled field, how many parts are left, and a list."""
        field = _attributes(
            id=f"{self.id}-field", type="search", data_filter=self.id, autocomplete="off"
        )
        rows = "".join(f"<li>{part.html(level)}</li>" for part in self.parts)
        return (
            f'<div class="filter" hidden><label{_attributes(for_=f"{self.id}-field")}>'
            f"{_text(clip(self.label))}</label> <input{field}>"
            f' <output{_attributes(for_=f"{self.id}-field")} aria-live="polite"></output></div>\n'
            f'<ul class="filtered"{_attributes(id=self.id)}>{rows}</ul>\n'
        )


@dataclass(frozen=True)
class Paragraph(Part):
    """A paragraph of text and inline parts; a warning or note is said in words as well."""

    parts: tuple[Cell, ...]
    kind: Literal["plain", "lead", "note", "warning"] = "plain"

    def html(self, level: int = 2) -> str:
        """A paragraph."""
        said = {"warning": "<strong>Warning.</strong> "}.get(self.kind, "")
        name = None if self.kind == "plain" else self.kind
        return f"<p{_attributes(class_=name)}>{said}{render(self.parts)}</p>\n"


@dataclass(frozen=True)
class Items(Part):
    """A list."""

    items: tuple[Cell | Sequence[Cell], ...]
    ordered: bool = False
    kind: str | None = None

    def html(self, level: int = 2) -> str:
        """A list, with numbers where it is ordered."""
        tag = "ol" if self.ordered else "ul"
        rows = "".join(f"<li>{render(item)}</li>" for item in self.items)
        return f"<{tag}{_attributes(class_=self.kind)}>{rows}</{tag}>\n"


@dataclass(frozen=True)
class Column:
    """A column's heading; numbers stand to the right."""

    name: str
    numeric: bool = False


@dataclass(frozen=True)
class Table(Part):
    """A table that scrolls inside its own box; the first column heads its row."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell | Sequence[Cell], ...], ...]
    footnotes: tuple[str, ...] = ()
    hidden_caption: bool = False

    def html(self, level: int = 2) -> str:
        """A table, its caption, and numbered footnotes."""
        caption = clip(self.caption)
        hidden = "unseen" if self.hidden_caption else None
        head = "".join(
            f'<th scope="col"{_attributes(class_="number" if c.numeric else None)}>'
            f"<bdi>{_text(clip(c.name, 80))}</bdi></th>"
            for c in self.columns
        )
        body = "\n".join(f"<tr>{self._row(row)}</tr>" for row in self.rows)
        table = (
            f"<table><caption{_attributes(class_=hidden)}>{_text(caption)}</caption>"
            f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table>"
        )
        # A region that scrolls must take the keyboard's focus.
        box = _attributes(class_="scroll", role="region", aria_label=caption, tabindex=0)
        notes = Items(tuple(map(Data, self.footnotes)), ordered=True, kind="footnotes")
        return f"<div{box}>{table}</div>\n{render(notes) if self.footnotes else ''}"

    def _row(self, row: tuple[Cell | Sequence[Cell], ...]) -> str:
        cells = []
        for i, (column, value) in enumerate(zip(self.columns, row, strict=True)):
            name = _attributes(class_="number" if column.numeric else None)
            tag, scope = ("th", ' scope="row"') if i == 0 else ("td", "")
            cells.append(f"<{tag}{scope}{name}>{render(value)}</{tag}>")
        return "".join(cells)


@dataclass(frozen=True)
class Details(Part):
    """Parts behind a summary that opens them, by mouse and by keyboard."""

    summary: str
    parts: tuple[Part, ...]
    id: str | None = None
    open: bool = False

    def html(self, level: int = 2) -> str:
        """A disclosure."""
        inside = render(self.parts, level)
        frame = _attributes(id=self.id) + " open" * self.open
        return (
            f"<details{frame}><summary>{_text(clip(self.summary))}</summary>\n{inside}</details>\n"
        )


@dataclass(frozen=True)
class Figure(Part):
    """A Plotly figure with its alternative text and, folded away, the numbers it draws.

    ``spec`` is ``{"data": ..., "layout": ...}``; ``min_width`` in px makes the box scroll on a
    screen that is narrower.
    """

    id: str
    spec: Mapping[str, Any]
    alt: str
    caption: tuple[Cell, ...] = ()
    table: Table | None = None
    height: int = 420
    min_width: int = 0

    def html(self, level: int = 2) -> str:
        """A figure element; the page's script draws what the JSON beside it holds."""
        alt = clip(self.alt, 2000)
        size = f"height:{self.height}px" + (f";min-width:{self.min_width}px" * bool(self.min_width))
        box = _attributes(class_="plot", role="img", aria_label=alt, style=size, data_spec=self.id)
        focus = _attributes(tabindex=0, role="group", aria_label="Figure, scrolls sideways")
        outer = f'<div class="scroll"{focus if self.min_width else ""}>'
        table = Details("Data table", (self.table,)).html(level) if self.table else ""
        return (
            f"<figure{_attributes(id=self.id)}>\n{outer}<div{box}></div></div>\n"
            f"<figcaption>{_text(alt)} {render(self.caption)}</figcaption>\n{table}"
            f'<script type="application/json"{_attributes(id=f"{self.id}-spec")}>'
            f"{_json(self.spec)}</script>\n</figure>\n"
        )


@dataclass(frozen=True)
class Live(Part):
    """What the page's script builds when it is there: a table, pages of features, a map.

    Parameters
    ----------
    id : of the box; its data stand in ``{id}-data``.
    kind : which of the script's builders fills it.
    data : JSON, arrays as `dashboards.packed.pack` makes them; texts already visible and cut.
    still : what stands there without a script.
    """

    id: str
    kind: str
    data: Mapping[str, Any]
    still: tuple[Part, ...] = ()

    def html(self, level: int = 2) -> str:
        """A box, what is in it without a script, and its data."""
        frame = _attributes(id=self.id, class_="live", data_live=self.kind, data_level=level)
        return (
            f'<div{frame}><div class="still">{render(self.still, level)}</div></div>\n'
            f'<script type="application/json"{_attributes(id=f"{self.id}-data")}>'
            f"{_json(self.data)}</script>\n"
        )


@dataclass(frozen=True)
class Section(Part):
    """A heading and what stands under it; sections inside it are one level lower."""

    title: str
    parts: tuple[Part, ...]
    id: str | None = None

    def html(self, level: int = 2) -> str:
        """A section element."""
        n = min(level, 6)
        title = f"<h{n}><bdi>{_text(clip(self.title, 120))}</bdi></h{n}>"
        return (
            f"<section{_attributes(id=self.id)}>\n{title}\n{render(self.parts, n + 1)}</section>\n"
        )


@dataclass(frozen=True)
class Page:
    """A whole document: no network, and only the two scripts it was written with may run.

    ``library`` and ``script`` are program text that ships with a package, never text from data;
    the policy names their hashes, so that nothing else in the page can run even if it got in.
    """

    title: str
    lead: tuple[Part, ...]
    contents: tuple[Link, ...]
    parts: tuple[Part, ...]
    footer: tuple[Part, ...]
    style: str
    library: str
    script: str
    settings: Mapping[str, Any]

    def html(self) -> str:
        """The document."""
        scripts = [f"\n{text}\n" for text in (self.library, self.script) if text]
        allowed = " ".join(f"'sha256-{_sha256(text)}'" for text in scripts) or "'none'"
        policy = (
            f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; "
            "img-src data: blob:; base-uri 'none'; form-action 'none'"
        )
        links = "".join(f"<li>{link.html()}</li>" for link in self.contents)
        settings = f'<script type="application/json" id="settings">{_json(self.settings)}</script>'
        return "\n".join(
            [
                '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
                # Written by hand: the quotes of the policy must not become entities in old tools.
                f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
                '<meta name="viewport" content="width=device-width, initial-scale=1">',
                '<meta name="color-scheme" content="light dark">',
                '<meta name="referrer" content="no-referrer">',
                f"<title>{_text(clip(self.title, 120))}</title>",
                f"<style>\n{self.style}\n</style>\n</head>\n<body>",
                '<a class="skip" href="#main">Skip to the results</a>',
                f"<header>\n<h1><bdi>{_text(clip(self.title, 120))}</bdi></h1>",
                f"{render(self.lead)}</header>",
                f'<nav aria-label="Contents"><ul>{links}</ul></nav>' if links else "",
                f'<main id="main" tabindex="-1">\n{render(self.parts)}</main>',
                f"<footer>\n{render(self.footer)}</footer>\n{settings}",
                *(f"<script>{text}</script>" for text in scripts),
                "</body>\n</html>\n",
            ]
        )


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
