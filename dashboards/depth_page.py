"""Concept depth on the page: headline numbers, warnings, heat maps, and how it was measured."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dashboards import html, tables
from dashboards.compare import (
    PEAK,
    by_concept,
    compare,
    depth_points,
    fractions,
    ordered_by,
    placed,
    series,
)
from dashboards.depth import POINTS, Point, curve_of, interval_of, range_text
from dashboards.heat import heatmap
from interp.results import Result
from probes.depth import ConceptDepth

__all__ = [
    "asked",
    "curve_table",
    "done",
    "glossary",
    "headlines",
    "heatmaps",
    "models",
    "points",
    "reading",
    "warnings",
]

CAREFUL = "Careful: "
"""How a note that is a warning begins in results of the first version."""
TITLES = {
    "hookpoint": "hook point",
    "is_layer": "layer",
    "calibration_error": "calibration error",
    "p_value": "p",
    "p_adjusted": "p (Holm)",
    "variation_rate": "variation rate",
    "random_model": "random-initialised model",
    "random_features": "random features",
}
"""Columns of the data table, where the field's name is not the best one."""
PROBES = {
    "logistic": "logistic regression",
    "ridge": "ridge regression",
    "difference_of_means": "difference of means",
    "lda": "linear discriminant analysis",
    "nearest_centroid": "nearest centroid",
    "random_forest": "random forest",
}
"""Names of the kinds of probe in words."""
MISSING = {
    "onset_depth": "onset",
    "jump_point": "jump point",
    "converging_point": "converging point",
    "bag_of_words": "bag of words",
    "random_model": "random-initialised model",
    "random_features": "random features",
}
"""Fields whose absence a figure's caption explains."""


def headlines(
    depths: Sequence[ConceptDepth], *, ids: Mapping[int, str] | None = None
) -> list[html.Part]:
    """Two tables, a row a concept: what is read how well, and from which depth on.

    With ``ids`` the concepts link to their sections. Columns that no result fills are left out.
    """
    concepts = tables.distinct(map(tables.concept, depths))
    depths = sorted(depths[: tables.ROWS], key=lambda r: concepts.index(tables.concept(r)))
    return [_scores(depths, ids), _depths(depths, ids)]


class _Notes:
    """Cells of a table, and the footnotes that say why some are undefined."""

    def __init__(self) -> None:
        self.found: dict[str, str] = {}

    def missing(self, result: ConceptDepth, name: str) -> html.Cell:
        reason = result.reasons.get(name) or "no reason was recorded."
        return html.Missing(reason, self.found.setdefault(reason, str(len(self.found) + 1)))

    def number(self, result: ConceptDepth, name: str, digits: int = 3) -> html.Cell:
        value = getattr(result, name, None)
        if value is None or not math.isfinite(value):
            return self.missing(result, name)
        return f"{value:.{digits}f}"

    def at(self, result: ConceptDepth, name: str, where: int | None) -> html.Cell:
        """One entry of a curve."""
        values = curve_of(result, name)
        if values is None or where is None or not math.isfinite(values[where]):
            return self.missing(result, name)
        return f"{values[where]:.3f}"

    def point(self, result: ConceptDepth, point: Point) -> html.Cell:
        """A depth with its interval."""
        value, ends = self.number(result, point.field, 2), interval_of(result, point.name)
        if ends is None or not isinstance(value, str):
            return value
        return f"{value} [{range_text(ends, ', ')}]"


def _names(
    depths: Sequence[ConceptDepth], ids: Mapping[int, str] | None
) -> tuple[list[html.Column], list[tuple[html.Cell, ...]]]:
    """The columns that name each row: the concept, and what else tells the results apart."""
    told = series(depths)
    several = len(set(told)) > 1
    columns = [html.Column("concept"), *([html.Column("model")] if several else [])]
    rows: list[tuple[html.Cell, ...]] = []
    for r, who in zip(depths, told, strict=True):
        name = html.Link(tables.concept(r), ids[id(r)]) if ids else html.Data(tables.concept(r), 80)
        rows.append((name, html.Code(who, 60)) if several else (name,))
    return columns, rows


def _scores(depths: Sequence[ConceptDepth], ids: Mapping[int, str] | None) -> html.Table:
    notes, low = _Notes(), min([0.5, *(float(np.nanmin(_finite(r.accuracy))) for r in depths)])
    columns, rows = _names(depths, ids)
    calibrated = _any(depths, "calibration_error")
    untrained = _any(depths, "random_model")
    for i, r in enumerate(depths):
        at = _peak(r)
        alt = f"accuracy by depth of {html.clip(tables.concept(r), 60)}"
        rows[i] += (
            r.n,
            html.Sparkline(r.accuracy.tolist(), alt, low=low - 0.03, high=1.0, rule=r.majority),
            notes.missing(r, "accuracy") if at is None else _peak_text(r, at),
            "—" if at is None else html.Code(r.hookpoints[at], 40),
            notes.at(r, "selectivity", at),
            *((notes.at(r, "calibration_error", at),) if calibrated else ()),
            *((notes.at(r, "random_model", at),) if untrained else ()),
            notes.number(r, "bag_of_words"),
            notes.number(r, "majority"),
        )
    columns += [
        html.Column("n", True),
        html.Column("by depth"),
        html.Column("peak accuracy", True),
        html.Column("at"),
        html.Column("selectivity", True),
        *([html.Column("calibration error", True)] if calibrated else []),
        *([html.Column("random model", True)] if untrained else []),
        html.Column("bag of words", True),
        html.Column("majority", True),
    ]
    return html.Table("Concept depth", tuple(columns), tuple(rows), tuple(notes.found))


def _depths(depths: Sequence[ConceptDepth], ids: Mapping[int, str] | None) -> html.Table:
    notes = _Notes()
    columns, rows = _names(depths, ids)
    onset, literal = _any(depths, "onset_depth"), _any(depths, "converging_literal")
    onset = onset or any("onset_depth" in r.reasons for r in depths)
    tested = _any(depths, "p_adjusted")
    first, converging, jump = POINTS
    for i, r in enumerate(depths):
        p = curve_of(r, "p_adjusted")
        rows[i] += (
            *((notes.point(r, first), _where(r, first)) if onset else ()),
            *((notes.missing(r, "p_adjusted") if p is None else _p(p),) if tested else ()),
            notes.point(r, jump),
            _where(r, jump),
            notes.point(r, converging),
            _where(r, converging),
            *((notes.number(r, "converging_literal", 2),) if literal else ()),
        )
    columns += [
        *([html.Column("onset", True), html.Column("at")] if onset else []),
        *([html.Column("p (Holm)", True)] if tested else []),
        html.Column("jump", True),
        html.Column("at"),
        html.Column("converging", True),
        html.Column("at"),
        *([html.Column("literal rule", True)] if literal else []),
    ]
    caption = "From which depth on, as a fraction of the layers"
    return html.Table(caption, tuple(columns), tuple(rows), tuple(notes.found))


def _any(depths: Sequence[ConceptDepth], name: str) -> bool:
    """Whether some result has a number, or a curve with one."""
    values = [getattr(r, name, None) for r in depths]
    return any(v is not None and np.isfinite(np.asarray(v, float)).any() for v in values)


def _peak_text(result: ConceptDepth, at: int) -> str:
    low, high = result.accuracy_low[at], result.accuracy_high[at]
    return f"{result.accuracy[at]:.3f} [{low:.3f}, {high:.3f}]"


def _where(result: ConceptDepth, point: Point) -> html.Cell:
    at = getattr(result, point.at, None)
    return "—" if at is None else html.Code(at, 40)


def _p(values: np.ndarray) -> str:
    least = float(np.nanmin(values))
    return "below 0.001" if least < 0.001 else f"{least:.3f}"


def glossary(depths: Sequence[ConceptDepth]) -> html.Part:
    """What the columns of the overview mean; of columns that are not there nothing is said."""
    text = (
        "Accuracy is on rows that the probe was not fitted on; brackets hold its 95 % interval. "
        "Selectivity is that accuracy less the accuracy of the same probe on shuffled labels. "
    )
    if _any(depths, "calibration_error"):
        text += (
            "The calibration error is how far the probe's confidence lies from its accuracy, on "
            "average; 0 is best. "
        )
    if _any(depths, "random_model"):
        text += (
            "The random model is random-initialised: it has the same architecture and nothing "
            "learned, and is probed in the same way at the same place. "
        )
    text += "Bag of words is a probe on the words alone, over the same split. "
    if _any(depths, "onset_depth"):
        text += (
            "Onset is the first place that beats shuffled labels, at a p of 0.05 after Holm's "
            "correction over all places; p is the "
            "least of those. "
        )
    text += (
        "Jump is the depth at which accuracy first rises by a tenth in one step; converging is the "
        "depth from which every step stays within 3 %"
    )
    if _any(depths, "converging_literal"):
        text += "; the literal rule is the last step within 3 %"
    text += ". In each small curve the dotted line is the majority class and the dot is the peak."
    return html.Paragraph((text,), "note")


def points(results: Sequence[Result]) -> list[html.Part]:
    """Every depth of every concept and model in one figure, where there are two or more."""
    depths = [r for r in results if isinstance(r, ConceptDepth)][: tables.ROWS]
    if len(depths) < 2:
        return []
    fig = depth_points(depths)
    told = dict(zip(map(id, depths), series(depths), strict=True))
    rows = []
    for concept, group in by_concept(depths).items():
        for r in group:
            places = [placed(r, getattr(r, p.at, None)) for p in (*POINTS, PEAK)]
            rows.append((html.Data(concept, 80), html.Code(told[id(r)], 60), *places))
    names = [p.name for p in (*POINTS, PEAK)]
    columns = (
        html.Column("concept"),
        html.Column("model"),
        *(html.Column(n, True) for n in names),
    )
    table = html.Table("Depth of each point as it is drawn", columns, tuple(rows))
    note = f"Concepts are in order of their {ordered_by(depths)[0]}, the earliest first."
    if any(interval_of(r, "onset") for r in depths):
        note += " Lines around the onset are its 95 % interval."
    alt, height = fig.layout.meta["alt"], int(fig.layout.height) - 40
    part = html.Figure("points", tables.spec(fig), alt, (note,), table, height)
    return [html.Section("Depth by concept", (part,))]


def models(results: Sequence[Result], room: int) -> list[html.Section]:
    """A figure for each concept that several models share, the earliest concept first.

    What does not fit into ``room`` bytes is left out, with a notice.
    """
    depths = [r for r in results if isinstance(r, ConceptDepth)]
    parts: list[html.Part] = []
    shared = [
        (concept, group)
        for concept, group in by_concept(depths).items()
        if len(set(series(group))) > 1
    ]
    for i, (concept, group) in enumerate(shared):
        fig = compare(group)
        rows = [
            (html.Code(who, 60), html.Code(r.hookpoints[k], 40), *map(float, numbers))
            for r, who in zip(group, series(group), strict=True)
            for k, numbers in enumerate(
                zip(fractions(r), r.accuracy, r.accuracy_low, r.accuracy_high, strict=True)
            )
        ]
        numeric = ("depth", "accuracy", "low", "high")
        columns = (
            html.Column("model"),
            html.Column("hook point"),
            *(html.Column(c, True) for c in numeric),
        )
        caption = f"{html.clip(concept, 80)} in {tables.plural(len(group), 'model')}"
        if len(rows) > tables.ROWS:
            caption += f" ({tables.ROWS} of {len(rows)} rows)"
        table = html.Table(caption, columns, tuple(rows[: tables.ROWS]))
        note = "The band around each line is its 95 % interval."
        alt, height = fig.layout.meta["alt"], int(fig.layout.height) - 40
        figure = html.Figure(f"models{i + 1}", tables.spec(fig), alt, (note,), table, height)
        part = html.Section(concept, (figure,))
        room -= len(html.render(part).encode("utf-8"))
        if room < 0:
            more = (
                f"{tables.plural(len(shared) - i, 'more concept')} not drawn, for the page's size."
            )
            parts.append(html.Paragraph((more,), "note"))
            break
        parts.append(part)
    if not parts:
        return []
    return [html.Section("Models side by side", tuple(parts), id="models")]


def heatmaps(results: Sequence[Result]) -> list[html.Part]:
    """One heat map for each set of hook points that two or more results share."""
    groups: dict[tuple[Any, ...], list[ConceptDepth]] = {}
    found = [r for r in results if isinstance(r, ConceptDepth)]
    for r, who in zip(found, series(found), strict=True):
        groups.setdefault((who, r.hookpoints), []).append(r)
    parts: list[html.Part] = []
    for i, ((model, hookpoints), depths) in enumerate(groups.items()):
        if len(depths) < 2:
            continue
        shown = depths[: tables.ROWS]
        fig = heatmap(shown)
        widest = min(max(len(tables.concept(r)) for r in shown), 34)
        columns = (
            html.Column("concept"),
            *(html.Column(h, True) for h in hookpoints[: tables.ROWS]),
        )
        rows = tuple(
            (html.Data(tables.concept(r), 80), *r.accuracy[: tables.ROWS].tolist()) for r in shown
        )
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
    about = about[:1].upper() + about[1:]
    end = "" if not about or about[-1] in ".?!" else "."
    return [html.Paragraph((html.Data(f"{about}{end} {text}.".strip(), 600),), "note")]


def done(result: ConceptDepth) -> list[str]:
    """Mode, probe and prompt, and what was done to the data, in sentences."""
    lines = [f"Mode: {result.mode.replace('_', ' ')}."]
    probe = getattr(result, "probe", None)
    if probe:
        lines.append(f"Probe: {PROBES.get(probe, probe)}.")
    prompt = getattr(result, "prompt", None)
    if prompt:
        lines.append(f"Prompt: “{prompt}”")
    return lines + [note for note in result.notes if not note.startswith(CAREFUL)]


def warnings(result: ConceptDepth) -> list[html.Part]:
    """What takes the meaning from a high accuracy."""
    old = [n.removeprefix(CAREFUL).strip() for n in result.notes if n.startswith(CAREFUL)]
    said = tables.distinct([*getattr(result, "warnings", ()), *old])
    parts: list[html.Part] = [html.Paragraph((html.Data(text),), "warning") for text in said]
    at, bag = _peak(result), result.bag_of_words
    if at is not None and bag is not None and bag >= result.accuracy_low[at]:
        low, high = result.accuracy_low[at], result.accuracy_high[at]
        text = (
            f"A bag of words reaches {bag:.3f}, which is not below the interval of the probe's "
            f"peak ({low:.3f} to {high:.3f}): the words alone may carry this concept."
        )
        parts.append(html.Paragraph((text,), "warning"))
    above = result.bag_of_words_high
    if bag is not None and above is not None and above < result.majority:
        text = (
            f"A bag of words reaches {bag:.3f}, which is below the majority class "
            f"({result.majority:.3f}). This happens where rows that match in all but the label "
            "stand on both sides of the split, and it pulls the probe's accuracy down too: name "
            "the column that pairs them as the groups."
        )
        parts.append(html.Paragraph((text,), "warning"))
    return parts


def curve_table(result: ConceptDepth) -> html.Table:
    """The numbers of the curve, a row a hook point; an interval stands behind its number."""
    frame = result.to_frame()
    shown = frame.head(tables.ROWS)
    ends = {f"{c}_{end}" for c in frame.columns for end in ("low", "high")} & set(frame.columns)
    names = [c for c in frame.columns if c not in ends]
    cells = []
    for name in names:
        values = [tables.cell(v) for v in shown[name].tolist()]
        if {f"{name}_low", f"{name}_high"} <= ends:
            both = zip(values, shown[f"{name}_low"], shown[f"{name}_high"], strict=True)
            values = [
                f"{v:.4f} [{low:.4f}, {high:.4f}]"
                if isinstance(v, float) and np.isfinite([v, low, high]).all()
                else v
                for v, low, high in both
            ]
        cells.append(values)
    columns = tuple(html.Column(TITLES.get(n, str(n)), frame[n].dtype.kind in "iuf") for n in names)
    caption = f"{tables.concept(result)}, by hook point"
    if len(frame) > tables.ROWS:
        caption += f" ({tables.ROWS:,} of {len(frame):,} rows)"
    return html.Table(caption, columns, tuple(zip(*cells, strict=True)))


def reading(result: ConceptDepth) -> str:
    """How to read a depth curve's marks, and why one is not there."""
    lines = ["The band around the probe is its 95 % interval."]
    if np.isfinite(result.shuffled_low).any():
        lines.append("That of the shuffled labels holds one more such run with 95 % probability.")
    if curve_of(result, "random_features") is not None:
        lines.append("A click on random features in the legend draws them.")
    if interval_of(result, "onset") is not None:
        lines.append("The bar through the onset is the 95 % interval of its depth.")
    for name, said in MISSING.items():
        if getattr(result, name, None) is None and name in result.reasons:
            lines.append(f"No {said}: {html.clip(result.reasons[name])}")
    return " ".join(lines)


def _peak(result: ConceptDepth) -> int | None:
    return int(np.nanargmax(result.accuracy)) if np.isfinite(result.accuracy).any() else None


def _finite(values: np.ndarray) -> np.ndarray:
    kept = values[np.isfinite(values)]
    return kept if kept.size else np.array([0.5])
