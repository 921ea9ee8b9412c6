"""One lump passes both tests together, whatever its shape; two facets fail both."""

import numpy as np
import pytest

from probes.multifaceted.embedding import components
from probes.multifaceted.null import gaussian_null, valley

N, D = 160, 12
LUMPS = {
    "gaussian": lambda r: r.standard_normal((N, D)) * np.linspace(3, 0.3, D),
    "exponential": lambda r: r.exponential(1.0, (N, D)),
    "scale mixture": lambda r: r.standard_normal((N, D)) * r.lognormal(0, 0.6, (N, 1)),
    "relu": lambda r: np.maximum(r.standard_normal((N, D)) @ r.standard_normal((D, D)) / 3, 0),
    "line": lambda r: np.c_[r.uniform(-5, 5, (N, 1)), r.standard_normal((N, D - 1)) * 0.3],
}


def two(rng, gap=6.0):
    """Two Gaussian blobs a distance apart along a random direction."""
    way = rng.standard_normal(D)
    side = np.repeat([-0.5, 0.5], N // 2)[:, None]
    return rng.standard_normal((N, D)) + side * gap * way / np.linalg.norm(way)


@pytest.mark.parametrize("lump", sorted(LUMPS))
def test_no_lump_has_a_valley(lump):
    rng = np.random.default_rng(0)
    ps = [valley(LUMPS[lump](rng), k, seed=i) for i in range(6) for k in (2, 4)]
    assert sum(p <= 0.05 for p in ps) <= 1


def test_two_facets_have_one_and_it_closes_as_they_meet():
    rng = np.random.default_rng(0)
    assert all(valley(two(rng), k) < 0.05 for k in (2, 3))
    assert valley(two(rng, gap=1.5), 2) > 0.05


def test_the_gaussian_null_is_right_for_gaussians_and_finds_two():
    rng = np.random.default_rng(1)
    ps = [gaussian_null(LUMPS["gaussian"](rng), (2, 3), draws=19).p for _ in range(10)]
    assert min(ps) > 0.05 or np.mean(np.array(ps) <= 0.05) <= 0.2
    found = gaussian_null(two(rng), (2, 3), draws=19)
    assert found.p == 1 / 20 and found.found > found.drawn.max()


def test_a_heavy_tailed_lump_beats_the_gaussian_which_is_why_the_valley_is_asked():
    rng = np.random.default_rng(0)
    lump = LUMPS["scale mixture"](rng)
    assert gaussian_null(lump, (2,), draws=19).p == 1 / 20
    assert valley(lump, 2) > 0.05


def test_permuted_components_would_miss_two_facets():
    rng = np.random.default_rng(0)
    points = components(two(rng)).points
    shuffled = np.stack([rng.permutation(c) for c in points.T], axis=1)
    assert valley(shuffled, 2) < 0.05  # the null itself has two


def test_equal_seeds_and_what_is_undefined():
    rng = np.random.default_rng(0)
    codes = two(rng)
    one, again = (gaussian_null(codes, (2,), draws=5, seed=3) for _ in range(2))
    assert (one.drawn == again.drawn).all() and one.p == again.p
    assert np.isnan(gaussian_null(np.ones((30, 4)), (2,)).p)
    assert np.isnan(gaussian_null(codes[:2], (2,)).p)
    assert np.isnan(valley(codes[:7], 2)) and np.isnan(valley(codes, 1))
