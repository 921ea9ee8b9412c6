"""Measure: linear probes and concept depth, activation sparsity, alignment quality.

A probe takes a matrix, activations and latents alike, and knows no model.
"""

from probes import clusters
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
from probes.firing import Sparsity
from probes.flops import mlp_flops, spark_flops
from probes.flow import Flow, hidden_flow
from probes.layer_pooling import LayerPooling, pool_layers
from probes.linear import LinearProbe
from probes.maps import ClusterMap, cluster_map
from probes.neurons import SparsityCounter, sparsity
from probes.perturb import Perturbed, perturbation_effect
from probes.points import converging_point, jump_point
from probes.scores import calibration_error
from probes.splits import grouped_folds, leakage, released_split
from probes.steering import LogitLens, Steering, logit_lens, steering_effect
from probes.thinning import DensityCurve, density_curve
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
    "Flow",
    "LayerPooling",
    "LinearProbe",
    "LogitLens",
    "Perturbed",
    "Sparsity",
    "SparsityCounter",
    "SparsityDifference",
    "Steering",
    "aqi",
    "aqi_by_axiom",
    "aqi_by_layer",
    "bag_of_words",
    "calibration_error",
    "cluster_map",
    "clusters",
    "compare_aqi",
    "concept_depth",
    "concept_name",
    "converging_point",
    "delta_aqi",
    "delta_aqi_by_layer",
    "density_curve",
    "depth_difference",
    "grouped_folds",
    "hard_topk",
    "hidden_flow",
    "jump_point",
    "leakage",
    "logit_lens",
    "majority",
    "mlp_flops",
    "perturbation_effect",
    "pool_layers",
    "released_split",
    "shuffled_labels",
    "spark_flops",
    "sparsified",
    "sparsity",
    "sparsity_difference",
    "statistical_topk",
    "steering_effect",
    "stratified",
]
