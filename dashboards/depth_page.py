"""Concept depth on the page: overviews of several results, warnings, and how it was measured."""

from collections.abc import Sequence
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
from dashboards.depth import POINTS, curve_of, interval_of
from dashboards.findings import peak_at
from dashboards.heat import heatmap
from interp.results import Result
from probes.depth import ConceptDepth

__all__ = [
    "asked",
    "curve_table",
    "done",
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
    at, bag = peak_at(result), result.bag_of_words
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
