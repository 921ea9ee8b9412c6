"""Measure: linear probes and concept depth.

A probe takes a matrix, activations and latents alike, and knows no model.
"""

from probes.concepts import concept_name
from probes.controls import bag_of_words, majority, shuffled_labels, stratified
from probes.curves import ConceptDepth
from probes.depth import concept_depth
from probes.linear import LinearProbe
from probes.points import converging_point, jump_point
from probes.splits import grouped_folds, leakage, released_split

__all__ = [
    "ConceptDepth",
    "LinearProbe",
    "bag_of_words",
    "concept_depth",
    "concept_name",
    "converging_point",
    "grouped_folds",
    "jump_point",
    "leakage",
    "majority",
    "released_split",
    "shuffled_labels",
    "stratified",
]
