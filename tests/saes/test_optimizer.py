"""Optimisers against torch's operators, one after the other, in float64."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from saes.optimizer import OPTIMIZERS, Adam, Lion

SHAPES = {"encoder": (37, 19), "decoder": (37, 19), "b_enc": (37,), "b_dec": (19,)}


def parameters(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    made = {k: torch.randn(*s, generator=generator).to(dtype) for k, s in SHAPES.items()}
    made["decoder"] = nn.functional.normalize(made["decoder"], dim=1)
    return {k: nn.Parameter(t) for k, t in made.items()}


def gradients(step, dtype):
    generator = torch.Generator().manual_seed(100 + step)
    return {k: torch.randn(*s, generator=generator).to(dtype) for k, s in SHAPES.items()}


def by_hand(kind, lr, clip, steps, unit):
    """What the papers say, in float64."""
    held = {k: p.detach().clone() for k, p in parameters(torch.float64).items()}
    mean = {k: torch.zeros_like(p) for k, p in held.items()}
    square = {k: torch.zeros_like(p) for k, p in held.items()}
    for step in range(1, steps + 1):
        grads = gradients(step, torch.float64)
        if unit:
            rows = held["decoder"] / held["decoder"].norm(dim=1, keepdim=True)
            grads["decoder"] -= rows * (rows * grads["decoder"]).sum(1, keepdim=True)
        total = torch.cat([g.flatten() for g in grads.values()]).norm()
        factor = min(1.0, clip / float(total)) if clip else 1.0
        for k, p in held.items():
            g = grads[k] * factor
            if kind == "adam":
                mean[k] = 0.9 * mean[k] + 0.1 * g
                square[k] = 0.999 * square[k] + 0.001 * g**2
                unbiased = mean[k] / (1 - 0.9**step), square[k] / (1 - 0.999**step)
                p -= lr * unbiased[0] / (unbiased[1].sqrt() + 6.25e-10)
            else:
                p -= lr * (0.9 * mean[k] + 0.1 * g).sign()
                mean[k] = 0.99 * mean[k] + 0.01 * g
        if unit:
            held["decoder"] /= held["decoder"].norm(dim=1, keepdim=True)
    return held


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("backend", ["eager", "numba"])
@pytest.mark.parametrize("clip", [None, 0.7])
@pytest.mark.parametrize("unit", [True, False])
def test_each_is_what_its_paper_says(kind, backend, clip, unit):
    held = parameters()
    optimizer = OPTIMIZERS[kind](
        held.values(), 0.01, unit=held["decoder"] if unit else None, clip=clip, backend=backend
    )
    for step in range(1, 6):
        for k, g in gradients(step, torch.float32).items():
            held[k].grad = g
        optimizer.step()
    expected = by_hand(kind, 0.01, clip, 5, unit)
    for k, p in held.items():
        assert_close(p.detach().double(), expected[k], rtol=1e-5, atol=1e-5)
    other = by_hand(kind, 0.01, None if clip else 0.7, 5, not unit)
    assert not torch.allclose(held["decoder"].double(), other["decoder"], atol=1e-4)
    lengths = held["decoder"].detach().norm(dim=1)
    assert torch.allclose(lengths, torch.ones(37), atol=1e-6) == unit


@pytest.mark.parametrize("backend", ["eager", "numba"])
def test_a_row_of_zeros_and_a_parameter_without_a_gradient_stay(backend):
    held = parameters()
    with torch.no_grad():
        held["decoder"][3] = 0
    optimizer = Adam(held.values(), 0.01, unit=held["decoder"], backend=backend)
    before = held["encoder"].detach().clone()
    held["decoder"].grad = torch.ones(37, 19)
    held["decoder"].grad[3] = 0
    optimizer.step()
    assert not held["decoder"][3].any() and torch.equal(held["encoder"], before)
    assert held["decoder"].isfinite().all()


def test_moments_that_sink_become_zero():
    p = nn.Parameter(torch.ones(4, 4))
    optimizer = Adam([p], 0.01, backend="numba")
    p.grad = torch.full((4, 4), 1e-36)
    optimizer.step()
    for name in ("exp_avg", "exp_avg_sq"):
        moment = optimizer.state[p][name]
        assert ((moment == 0) | (moment.abs() >= 1.17e-38)).all()
    assert not optimizer.state[p]["exp_avg_sq"].any() and optimizer.state[p]["exp_avg"].any()


def test_lion_holds_one_moment():
    p = nn.Parameter(torch.ones(4))
    optimizer = Lion([p], 0.01)
    p.grad = torch.ones(4)
    optimizer.step()
    assert list(optimizer.state[p]) == ["exp_avg"]


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("backend", ["eager", "numba"])
def test_a_nan_gradient_is_not_lost(kind, backend):
    """Else a training that broke goes on as if nothing had been."""
    p = nn.Parameter(torch.ones(4, 4))
    optimizer = OPTIMIZERS[kind]([p], 0.01, backend=backend)
    p.grad = torch.ones(4, 4)
    p.grad[1, 2] = float("nan")
    optimizer.step()
    assert optimizer.state[p]["exp_avg"].isnan().nonzero().tolist() == [[1, 2]]
