"""Concept depth at a glance: what was found, two tables, and what their columns mean."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from dashboards import html, tables
from dashboards.compare import series
from dashboards.depth import POINTS, Point, curve_of, interval_of, range_text
from dashboards.findings import finding, peak_at
from probes.depth import ConceptDepth

__all__ = ["glossary", "headlines"]

SAID = 24
"""Results that are put into sentences; of more, the tables tell."""


def headlines(
    depths: Sequence[ConceptDepth], *, ids: Mapping[int, str] | None = None
) -> list[html.Part]:
    """A sentence or three a concept, and two tables: what is read how well, and from where on.

    With ``ids`` the concepts link to their sections. Columns that no result fills are left out.
    """
    concepts = tables.distinct(map(tables.concept, depths))
    depths = sorted(depths[: tables.ROWS], key=lambda r: concepts.index(tables.concept(r)))
    told = series(depths)
    several = len(set(told)) > 1
    said = tuple(
        finding(r, ids[id(r)] if ids else None, who if several else "")
        for r, who in zip(depths[:SAID], told, strict=False)
    )
    parts: list[html.Part] = [html.Items(said, kind="findings")]
    if len(depths) > SAID:
        more = f"The tables tell of {tables.plural(len(depths) - SAID, 'more result')}."
        parts.append(html.Paragraph((more,), "note"))
    return [*parts, _scores(depths, ids), _depths(depths, ids)]


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
        at = peak_at(r)
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
    text += (
        ". Onset and jump count the layers before their place, as the jump is published, and "
        "converging those up to it; the figure of depths places all of them by the layers passed"
    )
    text += ". In each small curve the dotted line is the majority class and the dot is the peak."
    return html.Paragraph((text,), "note")


def _finite(values: np.ndarray) -> np.ndarray:
    kept = values[np.isfinite(values)]
    return kept if kept.size else np.array([0.5])
