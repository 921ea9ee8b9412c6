"""Results as one page: a file that opens from disk, alone, with no network."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.offline

from dashboards import html
from dashboards.figures import CONFIG, FIGURES, PARTNERS, figure, heatmap
from interp.errors import ParameterError
from interp.results import Result
from interp.runs import write_text
from probes.depth import ConceptDepth

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Report", "summary_html"]

BUDGET = 8_000_000
"""Bytes that a page may have, plotly.js included."""
ROWS = 200
"""Rows of one table that are shown."""
EXAMPLES = 8
"""Rows of the data that are shown for a concept."""
NARROW = 600
"""Width in px below which figures use smaller type."""
SUMMARY_BYTES = 200_000
CAREFUL = "Careful: "
"""How a note that is a warning begins."""


class Report:
    """Results, and the page that shows them.

    Parameters
    ----------
    results : of any kind; figures are drawn for those in `dashboards.figures.FIGURES`, and every
        one gets its table and its provenance.
    title : heading of the page; by default it names the model.
    command : the command that made the results, shown with the provenance.
    budget : bytes the page may have. What does not fit is left out, and the page says what.

    Raises
    ------
    ParameterError
        There are no results, or something else is among them.
    """

    def __init__(
        self,
        results: Iterable[Result],
        *,
        title: str | None = None,
        command: str | None = None,
        budget: int = BUDGET,
    ) -> None:
        self.results = [results] if isinstance(results, Result) else list(results)
        for result in self.results:
            if not isinstance(result, Result):
                raise ParameterError(f"Report takes results, and got a {type(result).__name__}.")
        if not self.results:
            raise ParameterError("Report needs at least one result, and got none.")
        self.title = title or _title(self.results)
        self.command = command
        self.budget = budget

    def write(self, path: str | Path) -> Path:
        """Write the page, whole or not at all, and return its path.

        Raises
        ------
        StoreError
            The file cannot be written.
        """
        return write_text(path, self.html())

    def html(self) -> str:
        """The page, which states its own size."""
        library, style, script = plotly.offline.get_plotlyjs(), _asset("css"), _asset("js")
        fixed = len(library.encode()) + len(style.encode()) + len(script.encode())
        overview = [*_overview(self.results), *_heatmaps(self.results)]
        provenance = _provenance(self.results, self.command)
        room = self.budget - fixed - 20_000 - _bytes(overview) - _bytes(provenance)
        sections, cuts = _sections(self.results, room)
        parts = (html.Section("Overview", tuple(overview), id="overview"), *sections, provenance)

        def page(size: int) -> str:
            return html.Page(
                title=self.title,
                lead=_lead(self.results),
                contents=_contents(parts),
                parts=parts,
                footer=_footer(size, len(library.encode()), self.budget, cuts),
                style=style,
                library=library,
                script=script,
                settings={"config": CONFIG, "dark": PARTNERS, "narrow": NARROW},
            ).html()

        return page(len(page(0).encode("utf-8")))

    def _repr_html_(self) -> str:
        """The headline numbers, without a script: a page in a notebook would add 5 MB a cell."""
        return _summary(self.results)


def summary_html(result: Result) -> str:
    """The headline numbers of a result as a small piece of HTML without scripts, for a notebook."""
    return _summary([result])


def _summary(results: Sequence[Result]) -> str:
    depths = [r for r in results if isinstance(r, ConceptDepth)]
    others = [r for r in results if not isinstance(r, ConceptDepth)]
    parts: list[html.Part] = []
    if depths:
        parts.append(_headlines(depths, linked=False))
    for result in others[:ROWS]:
        parts.append(html.Paragraph((html.Strong(result.kind), " ", html.Data(result.name))))
        parts.append(_frame_table(result.to_frame(), "", rows=20))
    text = ""
    for i, part in enumerate(parts):
        piece = html.render(part)
        if len(text) + len(piece) > SUMMARY_BYTES - 1000:
            return text + html.render(html.Paragraph((f"{len(parts) - i} tables are cut.",)))
        text += piece
    return text


# ---- the parts of the page


def _title(results: Sequence[Result]) -> str:
    models = _distinct(_model(r) for r in results)
    return f"What {models[0]} represents" if len(models) == 1 and models[0] else "Results of interp"


def _lead(results: Sequence[Result]) -> tuple[html.Part, ...]:
    models = [m for m in _distinct(_model(r) for r in results) if m]
    sets = _distinct(_data_set(r) for r in results)
    depths = [r for r in results if isinstance(r, ConceptDepth)]
    text: list[html.Cell] = []
    if depths:
        counts = sorted({len(r.hookpoints) for r in depths})
        layers = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        text.append(
            f"At which depth does the model know a concept? {_plural(len(depths), 'concept')} "
            f"in {_plural(len(sets), 'data set')}, probed at {_plural(layers, 'hook point')} of "
        )
        text += _listed([html.Code(m, 80) for m in models]) or ["a model without a name"]
        text.append(".")
    others = len(results) - len(depths)
    if others:
        text.append(f" {_plural(others, 'result')} of other kinds.")
    return (html.Paragraph(tuple(text), "lead"),)


def _overview(results: Sequence[Result]) -> list[html.Part]:
    parts: list[html.Part] = []
    depths = [r for r in results if isinstance(r, ConceptDepth)]
    others = [r for r in results if not isinstance(r, ConceptDepth)]
    if depths:
        parts.append(_headlines(depths, linked=True, ids=_ids(results)))
        if len(depths) > ROWS:
            parts.append(html.Paragraph((f"{len(depths) - ROWS} more are not shown.",), "note"))
        parts.append(
            html.Paragraph(
                (
                    "Accuracy is on rows that the probe was not fitted on; brackets hold its 95 % "
                    "interval. Bag of words is a probe on the words alone, over the same split. "
                    "Jump is the depth, as a fraction of the layers, at which accuracy first rises "
                    "by a tenth in one step; converging is the depth from which every step stays "
                    "within 3 %. In each curve the dotted line is the majority class and the dot "
                    "is the peak.",
                ),
                "note",
            )
        )
    if others:
        rows = tuple((html.Link(r.name, _ids(results)[id(r)]), r.kind, r.n) for r in others[:ROWS])
        columns = (html.Column("name"), html.Column("analysis"), html.Column("n", True))
        parts.append(html.Table("Other results", columns, rows))
    return parts


def _headlines(
    depths: Sequence[ConceptDepth], *, linked: bool, ids: Mapping[int, str] | None = None
) -> html.Table:
    """One row a concept: the numbers that a reader takes away."""
    notes: dict[str, str] = {}
    low = min([0.5, *(float(np.nanmin(_finite(r.accuracy))) for r in depths)])

    def missing(result: ConceptDepth, name: str) -> html.Cell:
        reason = result.reasons.get(name) or "no reason was recorded."
        mark = notes.setdefault(f"{reason}", str(len(notes) + 1))
        return html.Missing(reason, mark)

    def number(result: ConceptDepth, name: str, digits: int = 3) -> html.Cell:
        value = getattr(result, name)
        if value is None or not math.isfinite(value):
            return missing(result, name)
        return f"{value:.{digits}f}"

    rows = []
    for r in depths[:ROWS]:
        name = html.Link(r.name, (ids or {})[id(r)]) if linked else html.Data(r.name, 80)
        at = _peak(r)
        if at is None:
            peak, where = missing(r, "accuracy"), "—"
        else:
            interval = f"[{r.accuracy_low[at]:.3f}, {r.accuracy_high[at]:.3f}]"
            peak, where = f"{r.accuracy[at]:.3f} {interval}", html.Code(r.hookpoints[at], 40)
        alt = f"accuracy by depth of {html.clip(r.name, 60)}"
        rows.append(
            (
                name,
                r.n,
                html.Sparkline(r.accuracy.tolist(), alt, low=low - 0.03, high=1.0, rule=r.majority),
                peak,
                where,
                number(r, "bag_of_words"),
                number(r, "majority"),
                number(r, "jump_point", 2),
                number(r, "converging_point", 2),
            )
        )
    columns = (
        html.Column("concept"),
        html.Column("n", True),
        html.Column("by depth"),
        html.Column("peak accuracy", True),
        html.Column("at"),
        html.Column("bag of words", True),
        html.Column("majority", True),
        html.Column("jump", True),
        html.Column("converging", True),
    )
    return html.Table("Concept depth", columns, tuple(rows), tuple(notes))


def _heatmaps(results: Sequence[Result]) -> list[html.Part]:
    """One heat map for each set of hook points that two or more results share."""
    groups: dict[tuple[Any, ...], list[ConceptDepth]] = {}
    for r in results:
        if isinstance(r, ConceptDepth):
            groups.setdefault((_model(r), r.hookpoints), []).append(r)
    parts: list[html.Part] = []
    for i, ((model, hookpoints), depths) in enumerate(groups.items()):
        if len(depths) < 2:
            continue
        shown = depths[:ROWS]
        fig = heatmap(shown)
        widest = min(max(len(r.name) for r in shown), 34)
        columns = (html.Column("concept"), *(html.Column(h, True) for h in hookpoints[:ROWS]))
        rows = tuple((html.Data(r.name, 80), *r.accuracy[:ROWS].tolist()) for r in shown)
        caption = "Accuracy by concept and hook point"
        if len(depths) > ROWS or len(hookpoints) > ROWS:
            counts = (len(rows), len(depths), len(columns) - 1, len(hookpoints))
            caption += " ({} of {} concepts, {} of {} hook points)".format(*counts)
        part = html.Figure(
            f"map{i + 1}",
            _spec(fig),
            fig.layout.meta["alt"],
            ("The number in bold is the first peak of its row.",),
            html.Table(caption, columns, rows),
            height=int(fig.layout.height) - 40,
            min_width=min(60 + 6 * widest + 37 * len(hookpoints), 1400),
        )
        title = "Accuracy by concept and depth"
        parts.append(html.Section(f"{title}, {model}" if len(groups) > 1 else title, (part,)))
    return parts


def _sections(results: Sequence[Result], room: int) -> tuple[list[html.Section], list[str]]:
    """A section a data set, a part a result, and what is left out to keep within ``room`` bytes."""
    ids, cuts = _ids(results), []
    groups: dict[str, list[html.Part]] = {}
    left_out = 0
    for i, result in enumerate(results):
        for full in (True, False):
            part = _concept(result, ids[id(result)], f"fig{i + 1}", full=full)
            size = _bytes([part])
            if size <= room:
                room -= size
                groups.setdefault(_data_set(result), []).append(part)
                if not full:
                    cuts.append(f"the figure and tables of {html.clip(result.name, 60)}")
                break
        else:
            left_out += 1
    if left_out:
        cuts.append(f"the sections of {_plural(left_out, 'result')}")
    read = {_data_set(r): _data_notes(r) for r in reversed(results)}
    sections = [
        html.Section(f"Data set {name}", (*read[name], *parts), id=f"data{i + 1}")
        for i, (name, parts) in enumerate(groups.items())
    ]
    return sections, cuts


def _concept(result: Result, part_id: str, figure_id: str, *, full: bool) -> html.Section:
    """What was found for one result: its figure, its table, its data, and warnings."""
    parts: list[html.Part] = []
    if isinstance(result, ConceptDepth):
        parts += _asked(result)
        parts += _warnings(result)
    drawable = any(t in FIGURES for t in type(result).__mro__)
    if not full:
        notice = "The figure and the tables are left out to keep the page within its size."
        parts.append(html.Paragraph((notice,), "warning"))
    elif drawable:
        fig = figure(result)
        table = _frame_table(result.to_frame(), f"{result.name}, by hook point")
        height = int(fig.layout.height or 440) - 40
        alt = fig.layout.meta["alt"]
        parts.append(html.Figure(figure_id, _spec(fig), alt, _reading(result), table, height))
    else:
        parts.append(_frame_table(result.to_frame(), result.name))
    if isinstance(result, ConceptDepth):
        done = html.Items(tuple(map(html.Data, (*_done(result), result.interval))))
        parts.append(html.Details("How it was measured", (done,)))
    examples = getattr(result, "examples", ())
    if full and len(examples):
        table = _rows_table(examples, f"First rows of the data of {result.name}")
        parts.append(html.Details("First rows of the data", (table,)))
    return html.Section(result.name, tuple(parts), id=part_id)


def _data_notes(result: Result) -> tuple[html.Part, ...]:
    """What was found and chosen while the data was read."""
    data = result.provenance.get("data")
    notes = data.get("notes", ()) if isinstance(data, Mapping) else ()
    return tuple(html.Paragraph((html.Data(str(note)),), "note") for note in list(notes)[:10])


def _asked(result: ConceptDepth) -> list[html.Part]:
    """What the concept asks, and of how many rows."""
    counts = [f"{k}: {n:,}" for k, n in list(result.class_counts.items())[:10]]
    more = len(result.class_counts) - len(counts)
    text = f"{result.n:,} rows ({', '.join(counts)}{f', and {more} classes more' if more else ''})"
    if result.n_groups is not None:
        text += f" in {_plural(f'{result.n_groups:,}', 'group')} that are never split"
    about = result.about.strip()
    end = "" if not about or about[-1] in ".?!" else "."
    return [html.Paragraph((html.Data(f"{about}{end} {text}.".strip(), 600),), "note")]


def _done(result: ConceptDepth) -> list[str]:
    return [note for note in result.notes if not note.startswith(CAREFUL)]


def _warnings(result: ConceptDepth) -> list[html.Part]:
    """What takes the meaning from a high accuracy."""
    careful = [note for note in result.notes if note.startswith(CAREFUL)]
    parts: list[html.Part] = [
        html.Paragraph((html.Data(note.removeprefix(CAREFUL).strip()),), "warning")
        for note in careful
    ]
    at, bag = _peak(result), result.bag_of_words
    if at is not None and bag is not None and bag >= result.accuracy_low[at]:
        low, high = result.accuracy_low[at], result.accuracy_high[at]
        text = (
            f"A bag of words reaches {bag:.3f}, which is not below the interval of the probe's "
            f"peak ({low:.3f} to {high:.3f}): the words alone may carry this concept."
        )
        parts.append(html.Paragraph((text,), "warning"))
    return parts


def _reading(result: Result) -> tuple[html.Cell, ...]:
    """How to read a depth curve's marks, and why one is not there."""
    if not isinstance(result, ConceptDepth):
        return ()
    lines = ["The band around the probe is its 95 % interval."]
    if np.isfinite(result.shuffled_low).any():
        lines.append("That of the shuffled labels holds one more such run with 95 % probability.")
    for name in ("jump_point", "converging_point", "bag_of_words"):
        if getattr(result, name) is None and name in result.reasons:
            lines.append(f"No {name.replace('_', ' ')}: {html.clip(result.reasons[name])}")
    return (" ".join(lines),)


def _provenance(results: Sequence[Result], command: str | None) -> html.Section:
    """What every result shares once, and what differs in a table."""
    flat = [_flatten(r.provenance) | {"mode": r.mode} for r in results]
    for f in flat:
        f.pop("data.notes", None)  # shown with the data set
    keys = _distinct(key for f in flat for key in f)
    shared = [k for k in keys if len({f.get(k, "—") for f in flat}) == 1]
    varying = [k for k in keys if k not in shared]
    rows = tuple((html.Data(k, 80), html.Code(flat[0][k])) for k in shared[:ROWS])
    parts: list[html.Part] = []
    if command:
        parts.append(html.Paragraph(("Made by ", html.Code(command, 1000))))
    columns = (html.Column("field"), html.Column("value"))
    title = "Shared by all results" if len(results) > 1 else "How the result came about"
    parts.append(html.Table(title, columns, rows))
    if varying:
        head = tuple(html.Column(k) for k in ("result", *varying[:20]))
        body = tuple(
            (html.Data(r.name, 80), *(html.Code(f.get(k, "—"), 80) for k in varying[:20]))
            for r, f in zip(results[:ROWS], flat, strict=False)
        )
        parts.append(html.Table("What differs", head, body))
    return html.Section("Provenance", tuple(parts), id="provenance")


def _contents(parts: Iterable[html.Part]) -> tuple[html.Link, ...]:
    sections = [p for p in parts if isinstance(p, html.Section) and p.id]
    return tuple(html.Link(s.title, s.id or "") for s in sections[:30])


def _footer(size: int, library: int, budget: int, cuts: Sequence[str]) -> tuple[html.Part, ...]:
    text = (
        f"This page is {size / 1e6:.1f} MB, of which plotly.js is {library / 1e6:.1f} MB; its "
        f"budget is {budget / 1e6:.1f} MB. It is one file and asks nothing of the network."
    )
    parts: list[html.Part] = [html.Paragraph((text,))]
    if cuts:
        shown = "; ".join(cuts[:20]) + (f"; and {len(cuts) - 20} more" if len(cuts) > 20 else "")
        parts.append(html.Paragraph((f"Left out to stay within it: {shown}.",)))
    return tuple(parts)


# ---- tables and small things


def _frame_table(frame: "pd.DataFrame", caption: str, rows: int | None = None) -> html.Table:
    """A DataFrame as a table, cut with a notice."""
    rows = rows or ROWS
    named = frame.index.name is not None
    shown = (frame.reset_index() if named else frame).head(rows)
    columns = tuple(html.Column(str(c), shown[c].dtype.kind in "iuf") for c in shown.columns)
    cells = zip(*(shown[c].tolist() for c in shown.columns), strict=True)
    body = tuple(tuple(_cell(v) for v in row) for row in cells)
    if len(frame) > rows:
        caption = f"{caption} ({rows:,} of {len(frame):,} rows)"
    return html.Table(caption, columns, body)


def _rows_table(rows: Any, caption: str) -> html.Table:
    """The first rows of the data: mappings by column, anything else as one column of text."""
    table = [row if isinstance(row, Mapping) else {"text": row} for row in list(rows)[:EXAMPLES]]
    names = _distinct(str(k) for row in table for k in row)[:12]
    columns = (html.Column("row", True), *(html.Column(n) for n in names))
    body = tuple((i, *(_cell(row.get(n)) for n in names)) for i, row in enumerate(table))
    return html.Table(caption, columns, body, hidden_caption=True)


def _cell(value: Any) -> html.Cell:
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, int | float):
        return value
    return html.Data(str(value))


def _spec(fig: Any) -> dict[str, Any]:
    """What the page draws: arrays stay typed, and the title is the page's own heading."""
    spec = fig.to_dict()
    spec["layout"].pop("title", None)
    spec["layout"].pop("height", None)
    spec["layout"].pop("meta", None)
    spec["layout"]["margin"] = {**spec["layout"].get("margin", {}), "t": 22}
    return spec


def _flatten(values: Mapping[str, Any], above: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{above}{key}.")
        elif isinstance(value, str):
            flat[f"{above}{key}"] = value
        else:
            flat[f"{above}{key}"] = json.dumps(value, default=str, ensure_ascii=False)
    return flat


def _model(result: Result) -> str:
    model = result.provenance.get("model", "")
    return str(model.get("spec", "") if isinstance(model, Mapping) else model)


def _data_set(result: Result) -> str:
    data = result.provenance.get("data", "")
    name = data.get("name", "") if isinstance(data, Mapping) else data
    return str(name) or result.name.partition(".")[0]


def _ids(results: Sequence[Result]) -> dict[int, str]:
    return {id(r): f"result{i + 1}" for i, r in enumerate(results)}


def _peak(result: ConceptDepth) -> int | None:
    return int(np.nanargmax(result.accuracy)) if np.isfinite(result.accuracy).any() else None


def _finite(values: np.ndarray) -> np.ndarray:
    kept = values[np.isfinite(values)]
    return kept if kept.size else np.array([0.5])


def _distinct(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))


def _plural(count: int | str, noun: str) -> str:
    return f"{count} {noun}" if str(count) == "1" else f"{count} {noun}s"


def _listed(parts: Sequence[html.Cell]) -> list[html.Cell]:
    """The parts with commas between them."""
    joined: list[html.Cell] = []
    for i, part in enumerate(parts):
        joined += [", " if i else "", part]
    return joined


def _bytes(parts: "Sequence[html.Part] | html.Part") -> int:
    return len(html.render(parts).encode("utf-8"))


def _asset(kind: str) -> str:
    return resources.files("dashboards").joinpath(f"assets/report.{kind}").read_text("utf-8")
