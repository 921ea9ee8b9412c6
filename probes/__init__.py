"""Measure: linear probes and concept depth, activation sparsity.

A probe takes a matrix, activations and latents alike, and knows no model.
"""

from probes.concepts import concept_name
from probes.controls import bag_of_words, majority, shuffled_labels, stratified
from probes.curves import ConceptDepth
from probes.depth import concept_depth
from probes.firing import Sparsity
from probes.linear import LinearProbe
from probes.neurons import SparsityCounter, sparsity
from probes.perturb import Perturbed, perturbation_effect
from probes.points import converging_point, jump_point
from probes.scores import calibration_error
from probes.splits import grouped_folds, leakage, released_split
from probes.steering import LogitLens, Steering, logit_lens, steering_effect
from probes.topk import hard_topk, sparsified, statistical_topk

__all__ = [
    "ConceptDepth",
    "LinearProbe",
    "LogitLens",
    "Perturbed",
    "Sparsity",
    "SparsityCounter",
    "Steering",
    "bag_of_words",
    "calibration_error",
    "concept_depth",
    "concept_name",
    "converging_point",
    "grouped_folds",
    "hard_topk",
    "jump_point",
    "leakage",
    "logit_lens",
    "majority",
    "perturbation_effect",
    "released_split",
    "shuffled_labels",
    "sparsified",
    "sparsity",
    "statistical_topk",
    "steering_effect",
    "stratified",
]
