"""Results as one page: a file that opens from disk, alone, with no network."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import plotly.offline

from dashboards import alignment, depth_page, html, tables
from dashboards.bias import complexity_reading, explained_reading, shortcut_reading
from dashboards.codebook import (
    codebook_reading,
    pattern_reading,
    steering_bars_reading,
    tokfsm_reading,
)
from dashboards.compare import series
from dashboards.concepts import (
    concept_headline,
    concept_list,
    concept_reading,
    explanation_reading,
    explanation_table,
)
from dashboards.difference import difference_reading, match_reading
from dashboards.effects import lens_reading, perturbed_reading, steering_reading
from dashboards.facets import facet_parts, facets_reading
from dashboards.features import densities_reading, feature_list
from dashboards.figures import CONFIG, FIGURES, PARTNERS, figure
from dashboards.flow import flow_reading
from dashboards.geometry import geometry_reading, more_figures
from dashboards.headlines import glossary, headlines
from dashboards.information import infomec_reading, plane_reading
from dashboards.journey import journey
from dashboards.layers import layer_views
from dashboards.maximized import climbed_images
from dashboards.overview import analyses
from dashboards.pairs import pair_reading, zero_shot_reading
from dashboards.prototypes import prototype_reading, recall_reading
from dashboards.removal import patching_reading, removal_reading
from dashboards.sae import density_reading, recovered_reading
from dashboards.spaces import spaces_reading
from dashboards.sparsity import sparsity_reading
from dashboards.thinning import thinning_reading
from dashboards.training import training_reading
from interp.errors import ParameterError
from interp.results import Result
from interp.runs import write_text
from probes.alignment import AQI
from probes.alignment_shift import DeltaAQI
from probes.alignment_tables import AQIByAxiom, AQIByLayer
from probes.depth import ConceptDepth
from probes.difference import DepthDifference, SparsityDifference
from probes.disentangling import InfoMEC
from probes.explained import VarianceExplained
from probes.firing import Sparsity
from probes.flow import Flow
from probes.geometry_result import Geometry
from probes.layer_pooling import LayerPooling
from probes.maps import ClusterMap
from probes.merging import FeatureComplexity
from probes.multifaceted.maximized import Maximized
from probes.multifaceted.record import Facets
from probes.perturb import Perturbed
from probes.plane import InformationPlane
from probes.prototype_rows import Prototypes
from probes.recall import Recall
from probes.removal import RemovalCurve
from probes.shortcut import ShortcutBias
from probes.spaces import Spaces
from probes.steering import LogitLens, Steering
from probes.thinning import DensityCurve
from probes.token_vectors import TokenPatching
from saes.classification import ZeroShot
from saes.codebook import CodebookTraining, CodePatterns, CodeSteering, TokFSMScores
from saes.concept_records import Concepts
from saes.evaluation import Evaluation
from saes.explaining import Explanation
from saes.matching import LatentMatch
from saes.pairs import PairEvaluation
from saes.records import Features
from saes.recovery import LossRecovered
from saes.training import Training

__all__ = ["Report", "summary_html"]

BUDGET = 12_000_000
"""Bytes that a page may have, plotly.js included."""
SCRIPTS = ("shared", "table", "latents", "points", "layers", "report")
"""The page's own scripts, in the order they run."""
NARROW = 600
"""Width in px below which figures use smaller type."""
SUMMARY_BYTES = 200_000
KINDS = {
    "perturbation": "perturbations",
    "steering": "steering",
    "logit_lens": "logit lens",
    "sparsity": "sparsity",
    "density_curve": "loss against density",
    "hidden_flow": "MoHD-style flow",
    "sae_training": "training",
    "sae_features": "features",
    "sae_ablation": "ablated latents",
    "sae_evaluation": "evaluation",
    "aqi": "AQI",
    "aqi_by_layer": "AQI by layer",
    "aqi_by_axiom": "AQI by axiom",
    "layer_pooling": "pooled layers",
    "delta_aqi": "delta-AQI",
    "depth_difference": "difference by depth",
    "sparsity_difference": "difference of sparsity",
    "latent_match": "latents matched",
    "run_changes": "what differs",
    "cluster_map": "map",
    "codebook_training": "training",
    "code_patterns": "codes of patterns",
    "codebook_steering": "codes put in",
    "tokfsm": "finite-state language",
    "vl_concepts": "concepts",
    "vl_explanation": "explained",
    "vl_pairs": "what pairs share",
    "vl_zero_shot": "zero-shot classification",
    "spaces": "two spaces",
    "information_plane": "information plane",
    "infomec": "InfoMEC",
    "variance_explained": "variance explained",
    "shortcut_bias": "shortcut bias",
    "feature_complexity": "feature complexity",
    "removal_curve": "input removal",
    "token_patching": "token patching",
    "recall": "associative recall",
    "maximized": "images that fire it",
    "facet_scores": "scores of facet images",
}
"""Kinds of result in words, for headings."""
UNITS = {
    "logit_lens": "tokens",
    "sparsity": "tokens",
    "density_curve": "answers",
    "hidden_flow": "tokens",
    "facets": "inputs",
    "vl_concepts": "pairs",
    "vl_explanation": "input",
    "vl_pairs": "pairs",
    "vl_zero_shot": "images",
    "recall": "examples",
    "removal_curve": "images",
    "token_patching": "tokens",
    "latent_match": "latents and pairs",
    "run_changes": "differences",
    "sparsity_difference": "tokens",
    "maximized": "images",
    "facet_scores": "facets",
}
"""Kinds of result whose n is no number of rows."""
READING: dict[type[Result], Callable[[Any], str]] = {
    ConceptDepth: depth_page.reading,
    Perturbed: perturbed_reading,
    Steering: steering_reading,
    LogitLens: lens_reading,
    Training: training_reading,
    Facets: facets_reading,
    Features: densities_reading,
    Evaluation: density_reading,
    LossRecovered: recovered_reading,
    Sparsity: sparsity_reading,
    DensityCurve: thinning_reading,
    Flow: flow_reading,
    AQI: alignment.aqi_reading,
    AQIByLayer: alignment.curve_reading,
    AQIByAxiom: alignment.axiom_reading,
    LayerPooling: alignment.weight_reading,
    DeltaAQI: alignment.delta_reading,
    DepthDifference: difference_reading,
    SparsityDifference: difference_reading,
    LatentMatch: match_reading,
    ClusterMap: alignment.map_reading,
    CodebookTraining: codebook_reading,
    CodePatterns: pattern_reading,
    CodeSteering: steering_bars_reading,
    TokFSMScores: tokfsm_reading,
    Concepts: concept_reading,
    Explanation: explanation_reading,
    PairEvaluation: pair_reading,
    ZeroShot: zero_shot_reading,
    Geometry: geometry_reading,
    Spaces: spaces_reading,
    InformationPlane: plane_reading,
    InfoMEC: infomec_reading,
    VarianceExplained: explained_reading,
    ShortcutBias: shortcut_reading,
    FeatureComplexity: complexity_reading,
    RemovalCurve: removal_reading,
    TokenPatching: patching_reading,
    Prototypes: prototype_reading,
    Recall: recall_reading,
}
"""Result type -> what helps to read its figure."""


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
        library, style = plotly.offline.get_plotlyjs(), _asset("report.css")
        script = "\n".join(_asset(f"{name}.js") for name in SCRIPTS)
        fixed = len(library.encode()) + len(style.encode()) + len(script.encode())
        overview = [
            *_overview(self.results),
            *depth_page.points(self.results),
            *depth_page.heatmaps(self.results),
        ]
        provenance = _provenance(self.results, self.command)
        room = self.budget - fixed - 20_000 - _bytes([*overview, provenance])
        models = depth_page.models(self.results, room // 2)
        room -= _bytes(models)
        sections, cuts = _sections(self.results, room)
        first = html.Section("Overview", tuple(overview), id="overview")
        parts = (first, *models, *sections, provenance)

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
        parts += headlines(depths)
    for result in others[: tables.ROWS]:
        parts.append(
            html.Paragraph((html.Strong(result.kind), " ", html.Data(tables.concept(result))))
        )
        parts.append(tables.frame_table(result.to_frame(), "", rows=20))
    text = ""
    for i, part in enumerate(parts):
        piece = html.render(part)
        if len(text) + len(piece) > SUMMARY_BYTES - 1000:
            return text + html.render(html.Paragraph((f"{len(parts) - i} tables are cut.",)))
        text += piece
    return text


# ---- the parts of the page


def _title(results: Sequence[Result]) -> str:
    models = tables.distinct(tables.model_names(results))
    if not all(models) or len(models) > 3:
        return "Results of interp"
    if len(models) == 1:
        return f"What {models[0]} represents"
    return f"What {', '.join(models[:-1])} and {models[-1]} represent"


def _lead(results: Sequence[Result]) -> tuple[html.Part, ...]:
    models = [m for m in tables.distinct(tables.model_names(results)) if m]
    sets = tables.distinct(tables.data_set(r) for r in results)
    depths = [r for r in results if isinstance(r, ConceptDepth)]
    text: list[html.Cell] = []
    if depths:
        counts = sorted({len(r.hookpoints) for r in depths})
        layers = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        text.append(
            "At which depth does the model know a concept? "
            f"{tables.plural(len({tables.concept(r) for r in depths}), 'concept')} in "
            f"{tables.plural(len(sets), 'data set')}, "
            f"probed at {tables.plural(layers, 'hook point')} of "
        )
        text += tables.listed([html.Code(m, 80) for m in models]) or ["a model without a name"]
        text.append(".")
    others = len(results) - len(depths)
    if others and depths:
        text.append(f" {tables.plural(others, 'result')} of other kinds.")
    elif others:
        names = tables.listed([html.Code(m, 80) for m in models])
        text += [tables.plural(others, "result"), *([" on ", *names] if names else []), "."]
    return (html.Paragraph(tuple(text), "lead"),)


def _overview(results: Sequence[Result]) -> list[html.Part]:
    parts: list[html.Part] = []
    depths = [r for r in results if isinstance(r, ConceptDepth)]
    others = [r for r in results if not isinstance(r, ConceptDepth)]
    if depths:
        parts += headlines(depths, ids=_ids(results))
        if len(depths) > tables.ROWS:
            parts.append(
                html.Paragraph((f"{len(depths) - tables.ROWS} more are not shown.",), "note")
            )
        parts.append(glossary(depths))
    for result in others:
        if isinstance(result, DeltaAQI):
            parts += alignment.alarm(result)
    ids = _ids(results)
    parts += [concept_headline(r, ids[id(r)]) for r in others if isinstance(r, Concepts)]
    if others:
        titles = {id(r): title for r, title in zip(results, _titles(results), strict=True)}
        parts.append(analyses(others, titles, ids, UNITS))
    return parts


def _sections(results: Sequence[Result], room: int) -> tuple[list[html.Section], list[str]]:
    """A section a data set, a part a result, and what is left out to keep within ``room`` bytes."""
    ids, cuts = _ids(results), []
    groups: dict[str, list[html.Part]] = {}
    left_out = 0
    titles = _titles(results)
    concepts = tables.distinct(tables.concept(r) for r in results)
    # What was found about one concept stands together, in whatever order it was found.
    order = sorted(
        range(len(results)), key=lambda i: (concepts.index(tables.concept(results[i])), i)
    )
    for i, result in ((i, results[i]) for i in order):
        near: list[html.Part] = []
        if isinstance(result, ConceptDepth):
            near = layer_views(result, results, ids, ids[id(result)], f"fig{i + 1}")
        for full in (True, False):
            part = _part(result, titles[i], ids[id(result)], f"fig{i + 1}", near, full, room)
            size = _bytes([part])
            if size <= room:
                room -= size
                groups.setdefault(tables.data_set(result), []).append(part)
                if not full:
                    cuts.append(f"the figure and tables of {html.clip(tables.concept(result), 60)}")
                break
        else:
            left_out += 1
    if left_out:
        cuts.append(f"the sections of {tables.plural(left_out, 'result')}")
    read = {tables.data_set(r): _data_notes(r) for r in reversed(results)}
    sections = [
        html.Section(f"Data set {name}", (*read[name], *parts), id=f"data{i + 1}")
        for i, (name, parts) in enumerate(groups.items())
    ]
    return sections, cuts


def _titles(results: Sequence[Result]) -> list[str]:
    """The heading of each result: its name, and what tells it from others of that name."""
    depths = [r for r in results if isinstance(r, ConceptDepth)]
    told = dict(zip(map(id, depths), series(depths), strict=True)) if depths else {}
    models = tables.model_names(results)
    titles = []
    for r, model in zip(results, models, strict=True):
        who = told.get(id(r), model)
        more = [] if isinstance(r, ConceptDepth) else [KINDS.get(r.kind, r.kind.replace("_", " "))]
        if isinstance(r, LogitLens) and r.towards is not None:
            more[0] += f" towards {r.towards}"
        if isinstance(r, ClusterMap):
            more[0] = f"{r.method} {more[0]}"
        more += [who] if who and len({*models, *told.values()} - {""}) > 1 else []
        titles.append(
            ": ".join([tables.concept(r), ", ".join(more)]) if any(more) else tables.concept(r)
        )
    return titles


def _part(
    result: Result,
    title: str,
    part_id: str,
    figure_id: str,
    near: Sequence[html.Part],
    full: bool,
    room: int,
) -> html.Section:
    """What was found for one result: its figure, its table, its data, and warnings.

    ``near`` is what stands below the figure.
    """
    parts: list[html.Part] = []
    if isinstance(result, ConceptDepth):
        parts += depth_page.asked(result)
        parts += depth_page.warnings(result)
    if isinstance(result, DeltaAQI):
        parts += alignment.alarm(result)
    if isinstance(result, Geometry):
        parts += journey(result)
    drawable = any(t in FIGURES for t in type(result).__mro__)
    if not full:
        notice = "The figure and the tables are left out to keep the page within its size."
        parts.append(html.Paragraph((notice,), "warning"))
    elif isinstance(result, ClusterMap):
        parts.append(alignment.map_points(result, part_id))
    elif drawable:
        fig = figure(result)
        if isinstance(result, ConceptDepth):
            table = depth_page.curve_table(result)
        else:
            table = tables.frame_table(result.to_frame(), tables.concept(result))
        height = int(fig.layout.height or 440) - 40
        alt = fig.layout.meta["alt"]
        parts.append(html.Figure(figure_id, tables.spec(fig), alt, _reading(result), table, height))
        parts += near
    else:
        parts.append(tables.frame_table(result.to_frame(), tables.concept(result)))
    if full and isinstance(result, Facets):
        parts += facet_parts(result)
    if full and isinstance(result, Maximized):
        parts.append(climbed_images(result))
    if full and isinstance(result, Explanation):
        parts.append(explanation_table(result))
    if full and isinstance(result, Concepts):
        parts += concept_list(result, part_id, room - _bytes(parts) - 5_000)
    if full and isinstance(result, Features):
        parts += feature_list(result, part_id, room - _bytes(parts) - 5_000)
    if full and isinstance(result, Geometry):
        parts += more_figures(result, figure_id)
    if isinstance(result, ConceptDepth):
        done = [*depth_page.done(result), result.interval]
    else:
        done = [str(note) for note in getattr(result, "notes", ())]
        done += [result.interval] if isinstance(result, Perturbed) and result.interval else []
    if done:
        items = html.Items(tuple(map(html.Data, done[: tables.ROWS])))
        parts.append(html.Details("How it was measured", (items,)))
    examples = getattr(result, "examples", ())
    if full and len(examples):
        table = tables.rows_table(examples, f"First rows of the data of {tables.concept(result)}")
        parts.append(html.Details("First rows of the data", (table,)))
    return html.Section(title, tuple(parts), id=part_id)


def _reading(result: Result) -> tuple[html.Cell, ...]:
    """What the caption adds to the figure in words."""
    for kind, read in READING.items():
        if isinstance(result, kind):
            return (read(result),)
    return ()


def _data_notes(result: Result) -> tuple[html.Part, ...]:
    """What was found and chosen while the data was read."""
    data = result.provenance.get("data")
    notes = data.get("notes", ()) if isinstance(data, Mapping) else ()
    return tuple(html.Paragraph((html.Data(str(note)),), "note") for note in list(notes)[:10])


def _provenance(results: Sequence[Result], command: str | None) -> html.Section:
    """What every result shares once, and what differs in a table."""
    flat = [tables.flatten(r.provenance) | {"mode": r.mode} for r in results]
    for f in flat:
        f.pop("data.notes", None)  # shown with the data set
    keys = tables.distinct(key for f in flat for key in f)
    shared = [k for k in keys if len({f.get(k, "—") for f in flat}) == 1]
    varying = [k for k in keys if k not in shared]
    rows = tuple((html.Data(k, 80), html.Code(flat[0][k])) for k in shared[: tables.ROWS])
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
            for r, f in zip(results[: tables.ROWS], flat, strict=False)
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


def _ids(results: Sequence[Result]) -> dict[int, str]:
    return {id(r): f"result{i + 1}" for i, r in enumerate(results)}


def _bytes(parts: "Sequence[html.Part] | html.Part") -> int:
    return len(html.render(parts).encode("utf-8"))


def _asset(name: str) -> str:
    return resources.files("dashboards").joinpath(f"assets/{name}").read_text("utf-8")
