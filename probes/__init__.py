"""Measure: linear probes and concept depth, activation sparsity, alignment quality.

A probe takes a matrix, activations and latents alike, and knows no model.
"""

from probes import clusters, geometry
from probes.alignment import AQI, aqi, compare_aqi
from probes.alignment_shift import DeltaAQI, delta_aqi, delta_aqi_by_layer
from probes.alignment_tables import AQIByAxiom, AQIByLayer, aqi_by_axiom, aqi_by_layer
from probes.concepts import concept_name
from probes.controls import bag_of_words, majority, shuffled_labels, stratified
from probes.curves import ConceptDepth
from probes.depth import concept_depth
from probes.difference import (
    DepthDifference,
    SparsityDifference,
    depth_difference,
    sparsity_difference,
)
from probes.disentangling import InfoMEC, infomec
from probes.explained import VarianceExplained, variance_explained
from probes.firing import Sparsity
from probes.flops import mlp_flops, spark_flops
from probes.flow import Flow, hidden_flow
from probes.geometry import Geometry, geometry_by_layer
from probes.head_projections import head_projections
from probes.layer_masking import layer_masked
from probes.layer_pooling import LayerPooling, pool_layers
from probes.linear import LinearProbe
from probes.maps import ClusterMap, cluster_map
from probes.merging import FeatureComplexity, feature_complexity, merge_channels
from probes.multifaceted.discover import adjusted_rand_index, find_facets
from probes.multifaceted.maximize import maximize, objective_values
from probes.multifaceted.maximized import Maximized
from probes.multifaceted.record import Facets
from probes.multifaceted.scoring import FacetScores, facet_scores
from probes.multifaceted.unit_facets import facets
from probes.neurons import SparsityCounter, sparsity
from probes.perturb import Perturbed, perturbation_effect
from probes.plane import InformationPlane, information_plane
from probes.points import converging_point, jump_point
from probes.prototype_rows import Prototypes, prototypes
from probes.recall import Recall, induction_oracle, mqar, recall_by_gap
from probes.removal import RemovalCurve, removal_curve
from probes.scores import calibration_error
from probes.shortcut import ShortcutBias, shortcut_bias, shortcut_data
from probes.spaces import Spaces, compare_spaces
from probes.splits import grouped_folds, leakage, released_split
from probes.steering import LogitLens, Steering, logit_lens, steering_effect
from probes.thinning import DensityCurve, density_curve
from probes.token_vectors import TokenPatching, keep_only, replace_with, token_patching
from probes.topk import hard_topk, sparsified, statistical_topk

__all__ = [
    "AQI",
    "AQIByAxiom",
    "AQIByLayer",
    "ClusterMap",
    "ConceptDepth",
    "DeltaAQI",
    "DensityCurve",
    "DepthDifference",
    "FacetScores",
    "Facets",
    "FeatureComplexity",
    "Flow",
    "Geometry",
    "InfoMEC",
    "InformationPlane",
    "LayerPooling",
    "LinearProbe",
    "LogitLens",
    "Maximized",
    "Perturbed",
    "Prototypes",
    "Recall",
    "RemovalCurve",
    "ShortcutBias",
    "Spaces",
    "Sparsity",
    "SparsityCounter",
    "SparsityDifference",
    "Steering",
    "TokenPatching",
    "VarianceExplained",
    "adjusted_rand_index",
    "aqi",
    "aqi_by_axiom",
    "aqi_by_layer",
    "bag_of_words",
    "calibration_error",
    "cluster_map",
    "clusters",
    "compare_aqi",
    "compare_spaces",
    "concept_depth",
    "concept_name",
    "converging_point",
    "delta_aqi",
    "delta_aqi_by_layer",
    "density_curve",
    "depth_difference",
    "facet_scores",
    "facets",
    "feature_complexity",
    "find_facets",
    "geometry",
    "geometry_by_layer",
    "grouped_folds",
    "hard_topk",
    "head_projections",
    "hidden_flow",
    "induction_oracle",
    "infomec",
    "information_plane",
    "jump_point",
    "keep_only",
    "layer_masked",
    "leakage",
    "logit_lens",
    "majority",
    "maximize",
    "merge_channels",
    "mlp_flops",
    "mqar",
    "objective_values",
    "perturbation_effect",
    "pool_layers",
    "prototypes",
    "recall_by_gap",
    "released_split",
    "removal_curve",
    "replace_with",
    "shortcut_bias",
    "shortcut_data",
    "shuffled_labels",
    "spark_flops",
    "sparsified",
    "sparsity",
    "sparsity_difference",
    "statistical_topk",
    "steering_effect",
    "stratified",
    "token_patching",
    "variance_explained",
]
