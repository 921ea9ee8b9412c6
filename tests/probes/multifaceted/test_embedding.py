"""Principal components are exact either way round, and maps follow their seed."""

import numpy as np
import pytest

from interp.errors import ParameterError
from probes.multifaceted.embedding import components, place


@pytest.mark.parametrize("shape", [(40, 6), (6, 40)])
def test_components_give_the_codes_back(shape):
    codes = np.random.default_rng(0).standard_normal(shape) + 3
    found = components(codes)
    kept = min(shape[1], shape[0] - 1)
    assert found.points.shape == (shape[0], kept)
    assert np.allclose(found.points @ found.axes + found.mean, codes)
    assert np.allclose(found.axes @ found.axes.T, np.eye(kept), atol=1e-8)
    assert np.isclose(found.share, 1)
    assert np.allclose(found.project(codes), found.points)
    assert (np.diff(found.points.var(0)) <= 1e-9).all()


def test_signs_are_fixed_and_at_most_some_are_kept():
    codes = np.random.default_rng(0).standard_normal((30, 8))
    a, b = components(codes, 3), components(codes[::-1], 3)
    assert a.points.shape == (30, 3) and a.share < 1
    assert np.allclose(a.points, b.points[::-1])


def test_one_point_has_no_axis():
    assert components(np.full((9, 4), 2.5)).constant
    assert np.isnan(components(np.full((9, 4), 2.5)).share)
    assert components(np.zeros((0, 4))).constant
    assert not components(np.eye(3)).constant


def test_maps():
    points = components(np.random.default_rng(0).standard_normal((40, 5))).points
    xy, how = place(points, "pca")
    assert (xy == points[:, :2]).all() and how == {"embed": "pca"}
    one, how = place(points, "tsne", seed=1)
    assert (one == place(points, "tsne", seed=1)[0]).all()
    assert how["perplexity"] == 13 and one.shape == (40, 2)
    with pytest.raises(ParameterError, match="embed must be one of tsne, umap, pca; got 'x'"):
        place(points, "x")
    assert place(points[:3], "tsne")[1] == {"embed": "pca"}  # too few for a neighbourhood
