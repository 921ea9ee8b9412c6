"""Where training starts: scale, centre, and the scale folded into the weights."""

import math

import pytest
import torch

from interp.errors import DataError, ParameterError
from saes import ARCHITECTURES
from saes.denormals import flushed_denormals
from saes.initialise import centre, fold_scale, geometric_median, unit_scale
from saes.rows import seeded


def test_the_mean_norm_becomes_the_root_of_the_width():
    x = 7 * torch.randn(50, 3, 16, generator=seeded(0)) * torch.tensor([1.0, 5.0, 0.1])[:, None]
    scaled = x * unit_scale(x)
    assert torch.allclose(scaled.norm(dim=2).mean(0), torch.tensor(4.0))
    assert unit_scale(x[:, 0]).shape == (1,)
    with pytest.raises(DataError, match="all activations are 0"):
        unit_scale(torch.zeros(5, 4))


def test_the_geometric_median_of_a_triangle_is_its_fermat_point():
    """The unit vectors from it to the corners add to 0."""
    corners = torch.tensor([[0.0, 0.0], [4.0, 0.0], [1.0, 3.0]])
    point = geometric_median(corners, steps=1000, tolerance=1e-10)
    rays = corners - point
    assert (rays / rays.norm(dim=1, keepdim=True)).sum(0).abs().max() < 1e-6
    mean = corners - corners.mean(0)
    assert (mean / mean.norm(dim=1, keepdim=True)).sum(0).abs().max() > 0.1


def test_the_geometric_median_resists_outliers_and_the_mean_does_not():
    x = torch.randn(200, 4, generator=seeded(1))
    x[:20] += 1000
    assert centre(x, "geometric_median").norm() < 1 < 50 < centre(x, "mean").norm()
    assert centre(x, "zero").abs().sum() == 0
    assert torch.equal(geometric_median(torch.ones(3, 2)), torch.ones(2).double())
    with pytest.raises(ParameterError, match="mean, geometric_median, zero"):
        centre(x, "median")


@pytest.mark.parametrize("name", sorted(set(ARCHITECTURES) - {"vl"}))
def test_a_folded_sae_takes_raw_activations(small, batch, name):
    """fold(sae)(x) = sae(s x) / t, with the latents as they were; for every architecture."""
    fields = {"skip": True} if name == "transcoder" else {}
    inner, folded = small(name, **fields).eval(), small(name, **fields).eval()
    if inner.transcodes:
        with torch.no_grad():
            for sae in (inner, folded):
                sae.W_skip.copy_(torch.randn(sae.W_skip.shape, generator=seeded(0)))
    s = torch.full((1,), 3.0)
    t = torch.full((1,), 0.2) if inner.transcodes else s
    if name == "crosscoder":
        s = t = torch.tensor([[3.0], [0.5], [40.0]])
    x = batch(inner, 20)
    fold_scale(folded, s, t)
    assert torch.allclose(folded(x).output, inner(s * x).output / t, rtol=1e-4, atol=1e-5)
    assert torch.allclose(folded.encode(x), inner.encode(s * x), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(inner(x).output, inner(s * x).output / t, rtol=1e-2)  # can fail


def test_denormals_are_flushed_inside_alone():
    def kept():
        return float(torch.tensor(1e-39) * torch.tensor(1.0)) > 0

    if not torch.set_flush_denormal(False):
        pytest.skip("a processor that can flush denormals would un-skip this")
    assert kept()
    with pytest.raises(ZeroDivisionError), flushed_denormals():
        assert not kept()
        _ = 1 / 0
    assert kept()
    with flushed_denormals():
        with flushed_denormals():
            pass
        assert not kept()
    assert math.isfinite(1e-39)
