"""Scores of images by hand, and the pull that keeps an image with its facet."""

import numpy as np
import torch

import interp
from probes.multifaceted.objectives import Objective, Seen
from probes.multifaceted.synthesis import (
    image_scores,
    kept_near,
    objective_of,
    towards,
    typical_cosines,
)
from probes.multifaceted.units import find_unit


def test_scores_by_hand():
    centres = np.array([[1.0, 0], [0, 2]])
    codes = np.array([[3.0, 4], [0, 5]])
    scores, diversity = image_scores(np.array([4.0, 1.0]), codes, centres, best=2.0)
    assert np.allclose(scores["ratio"], [2, 0.5])
    assert np.allclose(scores["own_cosine"], [0.6, 1]) and scores["facet"].tolist() == [1, 1]
    assert np.allclose(scores["other_cosine"], [0.8, 0])
    assert np.isclose(diversity, 0.2)
    scores, diversity = image_scores(np.array([1.0]), codes[:1], centres[:1], best=-1.0)
    assert np.isnan(scores["ratio"]).all() and np.isnan(scores["other_cosine"]).all()
    assert np.isnan(diversity)
    dark = image_scores(np.ones(2), np.array([[0.0, 0], [0, 5]]), centres, 1.0)
    assert np.isnan(dark[0]["own_cosine"][0]) and dark[0]["facet"].tolist() == [-1, 1]
    assert np.isnan(dark[1])
    same = image_scores(np.ones(2), np.ones((2, 2)), centres, 1.0)[1]
    assert np.isclose(same, 0)


def test_the_pull_is_one_at_a_facets_own_centre_and_views_keep_the_order():
    net = interp.load("demo:digits")
    centres = np.array([[2.0, 0, 0], [0, 2, 0]])
    mean = np.full(3, 0.5)
    codes = torch.tensor(np.concatenate([centres, centres[::-1]]), dtype=torch.float32)
    goal = towards("flatten", centres, mean)
    seen = Seen(torch.zeros(4, 1, 2, 2), {"flatten": codes}, {"flatten": net.resolve("flatten")[0]})
    values = goal.value(seen)
    assert torch.allclose(values[:2], torch.ones(2), atol=1e-6)
    assert (values[2:] < 0.5).all() and goal.coupled


def test_an_image_is_free_to_climb_while_it_is_near_its_facet():
    net = interp.load("demo:digits")
    centres, mean = np.array([[1.0, 0], [0, 1]]), np.zeros(2)
    codes = torch.tensor([[1.0, 0], [0.6, 0.8], [0, -1], [0, 2]])
    seen = Seen(torch.zeros(4, 1, 2, 2), {"flatten": codes}, {"flatten": net.resolve("flatten")[0]})
    goal = Objective("7", ("flatten",), lambda s: torch.full((4,), 7.0))
    kept = kept_near(goal, towards("flatten", centres, mean), np.array([0.9, 0.9]), weight=10)
    # rows take facets 0, 1, 0, 1 in turn: cosines 1, .8, 0, 1
    assert torch.allclose(kept.value(seen), torch.tensor([7.0, 6.0, -2.0, 7.0]), atol=1e-5)
    assert kept.coupled and kept.hookpoints == ("flatten",)


def test_typical_cosines_by_hand():
    codes = np.array([[1.0, 0], [3, 4], [0, 5], [0, -1]])
    labels = np.array([0, 0, 0, 1])
    centres = np.array([[2.0, 0], [0, -1]])
    # 1, .6 and 0 with the first centre: the median is .6
    assert np.allclose(typical_cosines(codes, labels, centres, np.zeros(2)), [0.6, 1])
    assert typical_cosines(codes, labels, centres, centres[0])[0] == 0


def test_objectives_read_what_the_unit_reads():
    net = interp.load("demo:digits")
    assert objective_of(find_unit(net, None, "even")).hookpoints == ("out",)
    assert objective_of(find_unit(net, "relu3", np.ones(32))).hookpoints == ("relu3",)
