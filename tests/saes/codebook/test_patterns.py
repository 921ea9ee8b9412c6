"""Precision, recall, purity, concept maps and neurons: by hand, and where they can fail."""

import math

import numpy as np
import pytest

from interp.errors import ParameterError, ShapeError
from saes.codebook.patterns import best_neuron, code_scores, concept_map, find, purity

NONE = -1


def published():
    """Two texts of ten tokens; code 7 fires at four of them, three of which are the pattern's."""
    latents = np.full((20, 1), NONE)
    latents[[3, 9, 15, 11]] = 7
    on = np.zeros(20, bool)
    on[[3, 9, 15]] = True
    return latents, on


def test_precision_and_recall_by_hand():
    latents, on = published()
    found = code_scores(latents, on, 10)
    assert found.codes.tolist() == [7] and found.fires.tolist() == [4]
    assert found.precision.tolist() == [0.75] and found.recall.tolist() == [1]
    latents[15] = 3
    found = code_scores(latents, on, 10)
    assert found.codes.tolist() == [3, 7]
    np.testing.assert_allclose(found.precision, [1, 2 / 3])
    np.testing.assert_allclose(found.recall, [1 / 3, 2 / 3])
    assert code_scores(latents, on, 10, least_recall=0.4).codes.tolist() == [7]
    assert not len(code_scores(latents, np.zeros(20, bool), 10).codes)
    with pytest.raises(ShapeError, match="20 rows of codes and 3"):
        code_scores(latents, on[:3], 10)


def test_a_code_in_several_slots_fires_once():
    latents = np.array([[1, 1], [1, 2], [2, NONE]])
    found = code_scores(latents, np.array([True, False, False]), 4)
    assert found.codes.tolist() == [1] and found.fires.tolist() == [2]
    assert found.precision.tolist() == [0.5]


def test_places_of_patterns():
    texts = ["1840391840", "0018401800"]
    assert find("4(0)", texts) == [(0, 3), (0, 9), (1, 5)] == find("4(0)", texts, parity=1)
    assert find("4(0)", texts, parity=0) == []
    assert find("184", texts) == [(0, 2), (0, 8), (1, 4)]  # without a group, where it ends
    assert find("aa", ["aaaa"]) == [(0, 1), (0, 2), (0, 3)]  # overlaps too
    assert find("a(b)?", ["ab a"]) == [(0, 1)]  # a group that took no part is nowhere
    assert find(r"\b", ["ab a"]) == []  # a match of no character has no place, and ends
    assert find(r"(?=(aa))", ["aaa"]) == [(0, 0), (0, 1)]  # but its group may have one
    for wrong, said in (("(", "no regular expression"), ("x*", "matches the empty text")):
        with pytest.raises(ParameterError, match=said):
            find(wrong, texts)


def test_purity_by_hand():
    latents = np.array([[0], [0], [1], [1], [2], [NONE]])
    classes = np.array([0, 0, 0, 1, 1, 1])
    assert purity(latents, classes, 5) == (2 / 3, 3)
    assert purity(latents, np.array([0, 0, 0, -1, 1, 1]), 5) == (1, 3)
    share, active = purity(np.full((2, 1), NONE), np.array([0, 1]), 5)
    assert math.isnan(share) and active == 0


def test_concept_map_by_hand():
    latents = np.array([[0], [0], [0], [1], [0]])
    table, fires = concept_map(latents, np.array([0, 0, 1, 1, -1]), 3, 2)
    np.testing.assert_allclose(table, [[2 / 3, 1 / 3], [0, 1], [np.nan, np.nan]])
    assert fires.tolist() == [3, 1, 0]


def test_the_best_neuron_by_hand():
    on = np.array([True, True, True, True, False, False])
    acts = np.array([[5.0, 1], [4, 1], [1, 1], [0, 1], [2, 1], [3, 0]])
    best = best_neuron(acts, on, 0.5)
    assert (best.unit, best.precision, best.threshold) == (0, 1, 4)
    whole = best_neuron(acts, on, 1.0)  # at full recall the other one has four of five
    assert (whole.unit, whole.precision) == (1, 0.8)
    assert best_neuron(acts, on, 0.1) is None
    assert best_neuron(acts, on, 0.75).precision == pytest.approx(3 / 5)


def test_no_rows_hold_no_codes():
    found = code_scores(np.empty((0, 2), int), np.zeros(0, bool), 4)
    assert not len(found.codes)
