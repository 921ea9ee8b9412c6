"""Results as Plotly figures, each with its alternative text in ``layout.meta["alt"]``."""

from collections.abc import Callable, Sequence
from typing import Any

from dashboards import tables
from dashboards.alignment import (
    aqi_bars,
    aqi_curve,
    axiom_bars,
    delta_curve,
    map_scatter,
    weight_bars,
)
from dashboards.bias import complexity_figure, explained_figure, shortcut_figure
from dashboards.codebook import codebook_curves, pattern_dots, steering_bars, tokfsm_bars
from dashboards.compare import compare, depth_points, series
from dashboards.concepts import concept_dots, explanation_bars
from dashboards.depth import depth_curve
from dashboards.difference import difference_curves, match_bars
from dashboards.effects import lens_bars, shifts, steering_curve
from dashboards.facet_scores import score_dots
from dashboards.facets import facet_map
from dashboards.features import densities
from dashboards.flow import flow_figure
from dashboards.geometry import geometry_figure
from dashboards.heat import heatmap
from dashboards.information import infomec_figure, plane_figure
from dashboards.maximized import climb_curves
from dashboards.pairs import pair_bars, zero_shot_curve
from dashboards.prototypes import prototype_figure, recall_figure
from dashboards.removal import patching_figure, removal_figure
from dashboards.sae import density_bars, loss_bars
from dashboards.spaces import spaces_figure
from dashboards.sparsity import sparsity_figure
from dashboards.style import COLOURS, CONFIG, PARTNERS, SCALE, Plot
from dashboards.thinning import thinning_figure
from dashboards.training import training_curves
from interp.errors import ParameterError
from interp.results import Result
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
from probes.multifaceted.scoring import FacetScores
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

__all__ = ["COLOURS", "CONFIG", "FIGURES", "PARTNERS", "SCALE", "Plot", "figure"]


def figure(result: Result | Sequence[Result]) -> Plot:
    """The figure of a result, or one figure that compares several.

    Parameters
    ----------
    result : a result of a kind in `FIGURES`, or several of concept depth: concepts of one model
        over the same hook points (a heat map), one concept in several models (a line each), or
        several concepts in several models (a dot a point).

    Returns
    -------
    Plot
        A `plotly.graph_objects.Figure`; ``layout.meta["alt"]`` says in words what it shows.

    Raises
    ------
    ParameterError
        No figure is known for this type, or the results cannot be drawn together.
    """
    if isinstance(result, Sequence):
        depths = [r for r in result if isinstance(r, ConceptDepth)]
        if len(depths) < len(result) or len(set(series(depths))) < 2:
            return heatmap(result)
        return (
            compare(depths)
            if len({tables.concept(r) for r in depths}) == 1
            else depth_points(depths)
        )
    for known in type(result).__mro__:
        if known in FIGURES:
            return FIGURES[known](result)
    if isinstance(result, Result):
        raise ParameterError(
            f"{type(result).__name__} has no figure; its numbers are in to_frame() and metrics()."
        )
    raise ParameterError(
        f"figure draws a result, or a list of results, and got {type(result).__name__}."
    )


FIGURES: dict[type[Result], Callable[[Any], Plot]] = {
    ConceptDepth: depth_curve,
    Perturbed: shifts,
    Steering: steering_curve,
    LogitLens: lens_bars,
    Evaluation: density_bars,
    LossRecovered: loss_bars,
    Training: training_curves,
    Facets: facet_map,
    Features: densities,
    Sparsity: sparsity_figure,
    DensityCurve: thinning_figure,
    Flow: flow_figure,
    AQI: aqi_bars,
    AQIByLayer: aqi_curve,
    AQIByAxiom: axiom_bars,
    LayerPooling: weight_bars,
    DeltaAQI: delta_curve,
    DepthDifference: difference_curves,
    SparsityDifference: difference_curves,
    LatentMatch: match_bars,
    ClusterMap: map_scatter,
    CodebookTraining: codebook_curves,
    CodePatterns: pattern_dots,
    CodeSteering: steering_bars,
    TokFSMScores: tokfsm_bars,
    Concepts: concept_dots,
    Explanation: explanation_bars,
    PairEvaluation: pair_bars,
    ZeroShot: zero_shot_curve,
    Geometry: geometry_figure,
    Spaces: spaces_figure,
    InformationPlane: plane_figure,
    InfoMEC: infomec_figure,
    VarianceExplained: explained_figure,
    ShortcutBias: shortcut_figure,
    FeatureComplexity: complexity_figure,
    RemovalCurve: removal_figure,
    TokenPatching: patching_figure,
    Prototypes: prototype_figure,
    Recall: recall_figure,
    Maximized: climb_curves,
    FacetScores: score_dots,
}
"""Result type -> what draws it; subclasses are drawn as their base."""
