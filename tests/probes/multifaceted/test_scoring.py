"""Scores of facet images, by hand."""

import numpy as np
import pytest
import torch
from torch import nn

import interp
import probes
from interp.errors import ShapeError
from probes.multifaceted import objectives as o
from probes.multifaceted import schedules
from probes.multifaceted.scoring import deep_codes


class Means(nn.Module):
    """The deep code is the mean of each of three channels."""

    def __init__(self):
        super().__init__()
        self.deep = nn.Identity()
        self.out = nn.Linear(3, 1)

    def forward(self, x):
        return self.out(self.deep(x).mean((2, 3)))


def made(colours):
    """A result whose images are flat colours."""
    images = torch.tensor(colours).view(-1, 3, 1, 1).expand(-1, -1, 4, 4)
    schedule = schedules.lucid(steps=1)
    found = probes.maximize(Means(), o.logit(0), starts=images, schedule=schedule)
    object.__setattr__(found, "images", images.numpy())
    return found


def test_scores_by_hand():
    found = made([[1.0, 0, 0], [0.6, 0.8, 0]])
    scores = probes.facet_scores(
        Means(),
        found,
        hookpoint="deep",
        centroids=[[2.0, 0, 0], [0, 5.0, 0]],
        best_real=1.0,
        labels=[["a", "a", "b"], [3]],
    )
    np.testing.assert_allclose(scores.own_cosine, [1, 0.8], rtol=1e-6)
    np.testing.assert_allclose(scores.other_cosine, [0, 0.6], atol=1e-6)
    assert scores.nearest == (0, 1) and scores.recognised == 1
    assert scores.diversity == pytest.approx(1 - 0.6)
    np.testing.assert_allclose(scores.purity, [2 / 3, 1])
    np.testing.assert_allclose(scores.gain, found.activation - 1)
    assert scores.reasons == {} and scores.metrics()["recognised"] == 1
    swapped = probes.facet_scores(  # the arm: each image beside the other's centroid
        Means(), found, hookpoint="deep", centroids=[[0, 5.0, 0], [2.0, 0, 0]]
    )
    assert swapped.recognised == 0 and swapped.nearest == (1, 0)


def test_equal_images_have_no_diversity_and_orthogonal_ones_have_one():
    for colours, right in [([[0.2, 0.4, 0]] * 3, 0.0), (torch.eye(3).tolist(), 1.0)]:
        scores = probes.facet_scores(Means(), made(colours), hookpoint="deep")
        assert scores.diversity == pytest.approx(right, abs=1e-6)


def test_what_is_undefined_is_nan_with_its_reason():
    plain = probes.facet_scores(Means(), made([[0.5, 0.5, 0.5]]))
    assert np.isnan(plain.gain).all() and np.isnan(plain.purity).all()
    assert np.isnan(plain.diversity) and np.isnan(plain.recognised) and plain.nearest == (None,)
    assert set(plain.reasons) == {"diversity", "own_cosine", "purity", "gain"}
    one = probes.facet_scores(
        Means(), made([[0.5, 0.5, 0.5]]), hookpoint="deep", centroids=[[1.0, 1, 1]], labels=[[]]
    )
    assert one.own_cosine == pytest.approx(1) and np.isnan(one.other_cosine).all()
    assert one.reasons["recognised"] == "there is no other facet"
    assert one.reasons["purity"] == "a facet has no labelled member"
    pure = probes.facet_scores(Means(), made([[0.1, 0, 0], [0.2, 0, 0]]), labels=[["a"], ["a"]])
    assert np.isnan(pure.purity).all() and "any facet is pure" in pure.reasons["purity"]
    black = probes.facet_scores(
        Means(), made([[0.0, 0, 0], [1.0, 0, 0]]), hookpoint="deep", centroids=np.ones((2, 3))
    )
    assert np.isnan(black.own_cosine[0]) and black.nearest[0] is None and np.isnan(black.diversity)
    assert "image 0 is zero" in black.reasons["diversity"]


def test_what_does_not_fit_is_refused():
    found = made([[1.0, 0, 0], [0, 1.0, 0]])
    with pytest.raises(ShapeError, match="a centroid for each of 2 images, of 3 entries"):
        probes.facet_scores(Means(), found, hookpoint="deep", centroids=np.ones((2, 4)))
    with pytest.raises(ShapeError, match="labels of 2 facets; got 1 lists"):
        probes.facet_scores(Means(), found, labels=[[1]])


def test_deep_codes_are_what_capture_gives():
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))
    x = torch.rand(7, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    net(x)
    store = interp.capture(net.eval(), x, ["1"], pool="mean")
    codes = deep_codes(net, x, "1", batch_size=3)
    np.testing.assert_allclose(codes, store["1"][:].numpy(), atol=1e-6)
