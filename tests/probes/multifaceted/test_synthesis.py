"""Scores of images by hand, and the pull that keeps an image with its facet."""

import numpy as np
import torch

import interp
from probes.multifaceted.objectives import Seen
from probes.multifaceted.synthesis import image_scores, objective_of, towards
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


def test_objectives_read_what_the_unit_reads():
    net = interp.load("demo:digits")
    assert objective_of(find_unit(net, None, "even")).hookpoints == ("out",)
    assert objective_of(find_unit(net, "relu3", np.ones(32))).hookpoints == ("relu3",)
