"""TV smoothing against a row-by-row solver written out here, and its exact properties."""

import math

import pytest
import torch

from interp.errors import ParameterError
from probes.multifaceted.total_variation import denoise_tv


def sequential(image, weight, max_iter=100, eps=1e-3):
    """Split Bregman in row order on one plane, in plain Python."""
    h, w = len(image), len(image[0])
    u = [[0.0] * (w + 2) for _ in range(h + 2)]
    for r in range(h):
        u[r + 1][1:-1] = image[r]
        u[r + 1][0], u[r + 1][-1] = image[r][1], image[r][-1]
    u[0][1:-1], u[-1][1:-1] = image[1], image[-1]
    dx, dy, bx, by = ([[0.0] * (w + 2) for _ in range(h + 2)] for _ in range(4))
    lam = 2 * weight
    for _ in range(max_iter):
        total = 0.0
        for r in range(1, h + 1):
            for c in range(1, w + 1):
                old = u[r][c]
                ux, uy = u[r][c + 1] - old, u[r + 1][c] - old
                near = u[r + 1][c] + u[r - 1][c] + u[r][c + 1] + u[r][c - 1]
                near += dx[r][c - 1] - dx[r][c] + dy[r - 1][c] - dy[r][c]
                near += bx[r][c] - bx[r][c - 1] + by[r][c] - by[r - 1][c]
                u[r][c] = (lam * near + weight * image[r - 1][c - 1]) / (weight + 4 * lam)
                total += (u[r][c] - old) ** 2
                tx, ty = ux + bx[r][c], uy + by[r][c]
                s = lam * math.hypot(tx, ty)
                dx[r][c], dy[r][c] = s * tx / (s + 1), s * ty / (s + 1)
                bx[r][c], by[r][c] = tx - dx[r][c], ty - dy[r][c]
        if math.sqrt(total / (h * w)) <= eps:
            break
    return torch.tensor(u, dtype=torch.float64)[1:-1, 1:-1]


def noisy(n=1, side=12, seed=0):
    drawn = torch.Generator().manual_seed(seed)
    x = torch.zeros(n, 1, side, side, dtype=torch.float64)
    x[..., side // 3 :, side // 3 :] = 120.0
    return x + 60 + 25 * torch.randn(x.shape, generator=drawn, dtype=torch.float64)


def variation(x):
    return float(x.diff(dim=-1).abs().sum() + x.diff(dim=-2).abs().sum())


@pytest.mark.parametrize("weight", [0.05, 0.4, 2.0])
def test_rows_are_the_row_by_row_solver_and_the_checkerboard_is_near(weight):
    x = noisy()
    theirs = sequential(x[0, 0].tolist(), weight)
    rows = denoise_tv(x, weight, levels=1.0)[0, 0]
    torch.testing.assert_close(rows, theirs, rtol=0, atol=1e-9)
    single = denoise_tv(x.float(), weight, levels=1.0)[0, 0]
    torch.testing.assert_close(single.double(), theirs, rtol=0, atol=0.02)
    moved = float((theirs - x).abs().mean())
    board = denoise_tv(x, weight, levels=1.0, order="checkerboard")[0, 0]
    apart = (board - theirs).abs()
    assert float(apart.mean()) < 0.03 * moved and float(apart.max()) < 0.2 * moved
    other = denoise_tv(x, weight * 2, levels=1.0)[0, 0]  # the arm: another weight is further away
    assert (other - theirs).abs().mean() > 3 * apart.mean()


def test_a_constant_image_stays():
    x = torch.full((2, 3, 6, 5), 0.7, dtype=torch.float64)
    torch.testing.assert_close(denoise_tv(x, 0.4), x, rtol=0, atol=1e-15)
    assert not torch.equal(denoise_tv(noisy() / 255, 0.4), noisy() / 255)


def test_scaling_pixels_weight_and_eps_together_changes_nothing():
    drawn = torch.Generator().manual_seed(0)
    x = 255 * torch.rand(2, 1, 24, 24, generator=drawn, dtype=torch.float64)
    grey = denoise_tv(x, 0.4, levels=1.0)
    torch.testing.assert_close(denoise_tv(x / 255, 0.4) * 255, grey, rtol=0, atol=1e-10)
    assert variation(grey) / variation(x) == pytest.approx(0.86, abs=0.03)
    wrong = denoise_tv(x / 255, 0.4, levels=1.0) * 255  # the weight not rescaled
    assert variation(wrong) / variation(x) == pytest.approx(0.05, abs=0.03)


def test_a_smaller_weight_smooths_more():
    x = noisy()
    found = [variation(denoise_tv(x, w, levels=1.0)) for w in (0.01, 0.1, 1.0, 10.0)]
    assert found == sorted(found) and found[-1] < variation(x)


@pytest.mark.parametrize("order", ["rows", "checkerboard"])
def test_each_plane_is_smoothed_by_itself(order):
    x = torch.cat([noisy(1, seed=1), noisy(1, seed=2) * 0 + 9, noisy(1, seed=3)]).repeat(1, 2, 1, 1)
    together = denoise_tv(x, 0.3, levels=1.0, order=order)
    for i in range(3):
        alone = denoise_tv(x[i : i + 1, :1], 0.3, levels=1.0, order=order)
        torch.testing.assert_close(together[i : i + 1, :1], alone, rtol=0, atol=1e-11)


def test_a_weight_of_zero_is_refused_and_a_single_row_is_itself():
    with pytest.raises(ParameterError, match="a weight above 0; got 0"):
        denoise_tv(noisy(), 0)
    with pytest.raises(ParameterError, match="rows or checkerboard; got 'spiral'"):
        denoise_tv(noisy(), 0.4, order="spiral")
    x = torch.rand(1, 1, 1, 5)
    assert torch.equal(denoise_tv(x, 0.4), x)
