"""Every gradient against autograd's through dense float64 arithmetic."""

import pytest
import torch
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from saes import Codes
from saes.kernels import (
    batch_topk_codes,
    decode,
    encode_batch_topk,
    encode_topk,
    topk_codes,
)

ENCODERS = {"topk": encode_topk, "batch_topk": encode_batch_topk}
N, D, F, OUT = 37, 6, 20, 5


def weights(seed=0, x_grad=True):
    generator = torch.Generator().manual_seed(seed)
    shapes = {"x": (N, D), "encoder": (F, D), "b_enc": (F,), "W_dec": (F, OUT), "b_dec": (OUT,)}
    shapes["b_pre"] = (D,)
    made = {
        name: torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()
        for name, shape in shapes.items()
    }
    made["x"].requires_grad_(x_grad)
    return made


def dense(w, chosen):
    """Latents as autograd would have them: ReLU of the chosen pre-activations."""
    pre = (w["x"] - w["b_pre"]) @ w["encoder"].T + w["b_enc"]
    return torch.where(chosen, pre.relu(), 0)


def chosen_by(rule, pre, k):
    """The k largest of each row, or n * k of the batch, by a plain sort."""
    flat = pre if rule == "topk" else pre.reshape(1, -1)
    take = k if rule == "topk" else k * len(pre)
    order = flat.argsort(dim=1, descending=True, stable=True)[:, :take]
    return torch.zeros_like(flat, dtype=torch.bool).scatter(1, order, True).view_as(pre)


@pytest.mark.parametrize("rule", ENCODERS)
@pytest.mark.parametrize("k", [1, 4, 15, F])  # with 15 most rows lack positive pre-activations
@pytest.mark.parametrize("x_grad", [True, False])
def test_gradients_are_those_of_dense_autograd(rule, k, x_grad):
    w = weights(x_grad=x_grad)
    weight = torch.randn(N, OUT, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    wanted = [t for t in w.values() if t.requires_grad]

    codes = ENCODERS[rule](w["x"], w["encoder"], w["b_enc"], k, b_pre=w["b_pre"])
    out = decode(codes, w["W_dec"], w["b_dec"])
    ours = torch.autograd.grad((out * weight).sum() + codes.values.square().sum(), wanted)

    pre = ((w["x"] - w["b_pre"]) @ w["encoder"].T + w["b_enc"]).detach()
    z = dense(w, chosen_by(rule, pre, k))
    expected = z @ w["W_dec"] + w["b_dec"]
    theirs = torch.autograd.grad((expected * weight).sum() + z.square().sum(), wanted)

    assert_close(codes.dense(F), z)
    assert_close(out, expected)
    assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    assert len(wanted) == 5 + x_grad and all(g.any() for g in ours)
    if k == 15:
        assert (codes.l0() < 15).any(), "some rows lack k positive pre-activations"
        unmasked = torch.where(chosen_by(rule, pre, k), w["x"] @ w["encoder"].T, 0)
        wrong = torch.autograd.grad(unmasked.sum(), w["encoder"])[0]
        assert not torch.allclose(wrong, theirs[list(w).index("encoder") - (not x_grad)])


def test_without_a_bias_taken_off():
    w = weights()
    codes = encode_topk(w["x"], w["encoder"], w["b_enc"], 3)
    with torch.no_grad():
        w["b_pre"].zero_()
    zero = encode_topk(w["x"], w["encoder"], w["b_enc"], 3, b_pre=w["b_pre"])
    assert torch.equal(codes.values, zero.values) and torch.equal(codes.indices, zero.indices)


@pytest.mark.parametrize("ragged", [False, True])
def test_a_latent_that_stands_twice_in_a_row_adds_up(ragged):
    w = weights()
    values = torch.tensor([[1.0, 2.0, -0.5], [3.0, 0.0, 1.0]], dtype=torch.float64)
    indices = torch.tensor([[4, 4, 1], [1, 7, 1]])
    offsets = torch.tensor([0, 3, 6]) if ragged else None
    if ragged:
        values, indices = values.flatten(), indices.flatten()
    values.requires_grad_()
    codes = Codes(values, indices, offsets)
    out = decode(codes, w["W_dec"], w["b_dec"])
    W = w["W_dec"]
    by_hand = torch.stack([3 * W[4] - 0.5 * W[1], 4 * W[1]]) + w["b_dec"]
    assert_close(out, by_hand)
    assert_close(codes.dense(F) @ W + w["b_dec"], by_hand)
    weight = torch.arange(10, dtype=torch.float64).view(2, 5)
    ours = torch.autograd.grad((out * weight).sum(), [values, W])
    theirs = torch.autograd.grad(((codes.dense(F) @ W) * weight).sum(), [values, W])
    assert_close(ours, theirs)


def test_rows_without_slots():
    values = torch.tensor([2.0, 1.0], requires_grad=True)
    codes = Codes(values, torch.tensor([3, 0]), torch.tensor([0, 0, 2, 2]))
    W = torch.eye(5)[:, :4].contiguous().requires_grad_()
    out = decode(codes, W, torch.ones(4))
    assert_close(out.detach(), torch.tensor([[1.0] * 4, [2, 1, 1, 3], [1.0] * 4]))
    out.sum().backward()
    assert_close(values.grad, torch.ones(2))
    assert_close(W.grad.sum(1), torch.tensor([4.0, 0, 0, 8, 0]))


def test_no_slots_at_all():
    values = torch.zeros(0, requires_grad=True)
    empty = torch.zeros(0, dtype=torch.long)
    W = torch.ones(5, 4, requires_grad=True)
    decode(Codes(values, empty, torch.zeros(4, dtype=torch.long)), W).sum().backward()
    assert values.grad.shape == (0,) and not W.grad.any()


class Shapes(TorchDispatchMode):
    """Records the shape of every tensor that an operation makes."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for t in out if isinstance(out, tuple | list) else (out,):
            if isinstance(t, torch.Tensor):
                self.seen.add((tuple(t.shape), t.numel()))
        return out


@pytest.mark.parametrize("rule", ENCODERS)
def test_backward_makes_nothing_of_the_size_of_the_pre_activations(rule):
    n, f, d = 300, 400, 6
    generator = torch.Generator().manual_seed(0)
    x, E = (torch.randn(*s, generator=generator) for s in ((n, d), (f, d)))
    E.requires_grad_()
    b_enc, b = torch.zeros(f, requires_grad=True), torch.zeros(d, requires_grad=True)
    W = E.detach().clone().requires_grad_()
    codes = ENCODERS[rule](x, E, b_enc, 4, b_pre=b)
    loss = (decode(codes, W, b) - x).square().sum()
    with Shapes() as sparse:
        loss.backward()
    assert W.grad is not None and E.grad is not None
    largest = max(size for _, size in sparse.seen)
    assert largest < n * f // 4, sparse.seen
    assert largest < n * 4 * d // 2, "nor of [n, k, d]"

    z = dense({"x": x, "b_pre": b, "encoder": E, "b_enc": b_enc}, codes.dense(f) > 0)
    with Shapes() as seen:
        (z @ W + b - x).square().sum().backward()
    assert ((n, f), n * f) in seen.seen, "the dense route makes such a gradient"


def test_topk_takes_the_largest_and_the_lowest_index_of_ties():
    pre = torch.tensor([[1.0, 3, 2, 3, 3], [2, 2, 2, 2, 2], [-1, -2, 5, -4, -5]])
    codes = topk_codes(pre, 2)
    assert codes.indices[:2].tolist() == [[1, 3], [0, 1]]
    assert codes.values.tolist() == [[3, 3], [2, 2], [5, 0]]
    many = torch.randint(0, 4, (200, 50), generator=torch.Generator().manual_seed(0)).float() + 1
    expected = many.argsort(dim=1, descending=True, stable=True)[:, :9]
    assert torch.equal(topk_codes(many, 9).indices, expected)
    assert not torch.equal(many.topk(9, dim=1).indices, expected), "topk alone would not do"
    assert torch.equal(topk_codes(many, 50).values, many.sort(dim=1, descending=True).values)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("levels", [3, 10**6])  # many ties, none
def test_batch_topk_is_a_sort_of_the_whole_batch(seed, levels):
    generator = torch.Generator().manual_seed(seed)
    pre = torch.randint(-levels // 2, levels, (30, 40), generator=generator).float()
    pre[4] = levels * torch.rand(40, generator=generator) + levels  # one row takes all it can
    codes = batch_topk_codes(pre, 2)
    chosen = chosen_by("batch_topk", pre.relu(), 2)
    assert len(codes.values) == 60 and len(codes) == 30
    assert torch.equal(codes.dense(40), torch.where(chosen, pre.relu(), 0))
    assert codes.l0()[4] == 40
    key = codes.rows * 40 + codes.indices
    assert torch.equal(key, key.sort().values), "by rising row, then latent"


def test_batch_topk_with_too_few_positive():
    pre = torch.full((4, 6), -1.0)
    pre[1, 2], pre[3, 5] = 2.0, 1.0
    codes = batch_topk_codes(pre, 3)
    assert len(codes.values) == 12 and codes.l0().tolist() == [0, 1, 0, 1]
    assert torch.equal(codes.dense(6), pre.relu())
