"""Concept depth on the page: headline numbers, warnings, heat maps, and how it was measured."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dashboards import html, tables
from dashboards.compare import heatmap
from interp.results import Result
from probes.depth import ConceptDepth

__all__ = ["asked", "done", "headlines", "heatmaps", "reading", "warnings"]

CAREFUL = "Careful: "
"""How a note that is a warning begins in results of the first version."""


def headlines(
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
    for r in depths[: tables.ROWS]:
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


def heatmaps(results: Sequence[Result]) -> list[html.Part]:
    """One heat map for each set of hook points that two or more results share."""
    groups: dict[tuple[Any, ...], list[ConceptDepth]] = {}
    for r in results:
        if isinstance(r, ConceptDepth):
            groups.setdefault((tables.model(r), r.hookpoints), []).append(r)
    parts: list[html.Part] = []
    for i, ((model, hookpoints), depths) in enumerate(groups.items()):
        if len(depths) < 2:
            continue
        shown = depths[: tables.ROWS]
        fig = heatmap(shown)
        widest = min(max(len(r.name) for r in shown), 34)
        columns = (
            html.Column("concept"),
            *(html.Column(h, True) for h in hookpoints[: tables.ROWS]),
        )
        rows = tuple((html.Data(r.name, 80), *r.accuracy[: tables.ROWS].tolist()) for r in shown)
        caption = "Accuracy by concept and hook point"
        if len(depths) > tables.ROWS or len(hookpoints) > tables.ROWS:
            counts = (len(rows), len(depths), len(columns) - 1, len(hookpoints))
            caption += " ({} of {} concepts, {} of {} hook points)".format(*counts)
        part = html.Figure(
            f"map{i + 1}",
            tables.spec(fig),
            fig.layout.meta["alt"],
            ("The number in bold is the first peak of its row.",),
            html.Table(caption, columns, rows),
            height=int(fig.layout.height) - 40,
            min_width=min(60 + 6 * widest + 37 * len(hookpoints), 1400),
        )
        title = "Accuracy by concept and depth"
        parts.append(html.Section(f"{title}, {model}" if len(groups) > 1 else title, (part,)))
    return parts


def asked(result: ConceptDepth) -> list[html.Part]:
    """What the concept asks, and of how many rows."""
    counts = [f"{k}: {n:,}" for k, n in list(result.class_counts.items())[:10]]
    more = len(result.class_counts) - len(counts)
    text = f"{result.n:,} rows ({', '.join(counts)}{f', and {more} classes more' if more else ''})"
    if result.n_groups is not None:
        text += f" in {tables.plural(f'{result.n_groups:,}', 'group')} that are never split"
    about = result.about.strip()
    end = "" if not about or about[-1] in ".?!" else "."
    return [html.Paragraph((html.Data(f"{about}{end} {text}.".strip(), 600),), "note")]


def done(result: ConceptDepth) -> list[str]:
    """What was done to the data, in sentences."""
    return [note for note in result.notes if not note.startswith(CAREFUL)]


def warnings(result: ConceptDepth) -> list[html.Part]:
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


def reading(result: Result) -> tuple[html.Cell, ...]:
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


def _peak(result: ConceptDepth) -> int | None:
    return int(np.nanargmax(result.accuracy)) if np.isfinite(result.accuracy).any() else None


def _finite(values: np.ndarray) -> np.ndarray:
    kept = values[np.isfinite(values)]
    return kept if kept.size else np.array([0.5])
