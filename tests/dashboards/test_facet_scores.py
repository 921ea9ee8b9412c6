"""The figure of facet scores shows each image's cosines, or its activation where there are none."""

from dataclasses import replace

import numpy as np
import pytest

import dashboards
from dashboards.facet_scores import score_dots
from probes import FacetScores


@pytest.fixture
def result():
    return FacetScores(
        name="even",
        n=3,
        hookpoint="flatten",
        activation=np.array([1.0, 2.0, 3.0]),
        best_real=2.5,
        gain=np.array([-1.5, -0.5, 0.5]),
        own_cosine=np.array([0.9, 0.8, np.nan]),
        other_cosine=np.array([0.5, 0.85, np.nan]),
        nearest=(0, 0, None),
        recognised=0.5,
        diversity=0.3,
        purity=np.full(3, np.nan),
        provenance={"data": {"name": "digits"}},
    )


def test_the_dots_are_the_cosines(result):
    fig = score_dots(result)
    assert [t.name for t in fig.data] == ["its own facet", "nearest other facet"]
    assert np.allclose(fig.data[0].y, result.own_cosine, equal_nan=True)
    assert np.allclose(fig.data[1].y, result.other_cosine, equal_nan=True)
    assert "mean cosine 0.850" in fig.layout.meta["alt"]
    assert "1 of 2 are nearest their own" in fig.layout.meta["alt"]


def test_without_centroids_activations_are_drawn(result):
    none = replace(result, own_cosine=np.full(3, np.nan), other_cosine=np.full(3, np.nan))
    fig = score_dots(none)
    assert np.allclose(fig.data[0].y, [1, 2, 3]) and np.allclose(fig.data[1].y, 2.5)
    assert len(score_dots(replace(none, best_real=float("nan"))).data) == 1
    assert "from 1 to 3" in fig.layout.meta["alt"]


def test_the_page_draws_it(result):
    page = dashboards.Report([result]).html()
    assert "2 of 3" not in page and "1 of 2 are nearest their own" in page
