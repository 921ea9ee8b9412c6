"""Hard and statistical top-k: reference numbers, gradients, Gemma 3n, and a running model."""

import numpy as np
import pytest
import torch

import interp
from interp.errors import ParameterError, ShapeError
from probes import hard_topk, sparsified, statistical_topk
from probes.topk import Counting

TEN = torch.arange(10, dtype=torch.float64)


# ---- reference checks of the methods file, section 4


@pytest.mark.parametrize(
    ("k", "ddof", "theta", "survivors"),
    [
        (1, 0, 8.180976627, [0.819023]),
        (2, 0, 6.917372950, [0.082627, 1.082627, 2.082627]),
        (3, 0, 6.006225799, [0.993774, 1.993774, 2.993774]),
        (5, 0, 4.5, [0.5, 1.5, 2.5, 3.5, 4.5]),
        (1, 1, 8.380090051, [0.619910]),
        (2, 1, 7.048134826, [0.951865, 1.951865]),
        (3, 1, 6.087701398, [0.912299, 1.912299, 2.912299]),
        (5, 1, 4.5, [0.5, 1.5, 2.5, 3.5, 4.5]),
    ],
)
def test_the_reference_rows(k, ddof, theta, survivors):
    out = statistical_topk(TEN, k=k, ddof=ddof)
    np.testing.assert_allclose(out[out > 0], survivors, atol=6e-7)
    assert 9 - out[-1].item() == pytest.approx(theta, abs=6e-10)
    assert torch.equal(out, statistical_topk(TEN, s=1 - k / 10, ddof=ddof))


@pytest.mark.parametrize(
    ("s", "quantile"),
    [(0.5, 0), (0.9, 1.281551566), (0.92, 1.405071560), (0.95, 1.644853627), (0.99, 2.326347874)],
)
def test_the_quantile(s, quantile):
    x = torch.cat([torch.tensor([-1.0, 1.0]).repeat(50), torch.tensor([10.0])]).double()
    mean, std = x.mean(), x.std(correction=0)
    out = statistical_topk(x, s=s)
    assert ((10 - out[-1] - mean) / std).item() == pytest.approx(quantile, abs=6e-10)


@pytest.mark.parametrize("layer", [0, 9, 10])
def test_it_is_that_of_gemma_3n(layer):
    from transformers.models.gemma3n.configuration_gemma3n import Gemma3nTextConfig
    from transformers.models.gemma3n.modeling_gemma3n import Gemma3nTextMLP

    config = Gemma3nTextConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=12,
        activation_sparsity_pattern=[0.95] * 10 + [0.0] * 2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        mlp = Gemma3nTextMLP(config, layer).eval()
        x = torch.randn(4, 25, 32)
    s = config.activation_sparsity_pattern[layer]
    with torch.no_grad():
        gate = statistical_topk(mlp.gate_proj(x), s=s)
        ours = mlp.down_proj(mlp.act_fn(gate) * mlp.up_proj(x))
        theirs = mlp(x)
        dense = mlp.down_proj(mlp.act_fn(mlp.gate_proj(x)) * mlp.up_proj(x))
    assert torch.equal(ours, theirs)
    assert torch.equal(dense, theirs) == (layer == 10)  # the arm: it does something
    if s:
        assert 0.03 < (gate > 0).double().mean() < 0.09  # .05 asked for


def test_the_gradient_goes_through_theta():
    x = torch.randn(3, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: statistical_topk(x, k=4), (x,))
    out = statistical_topk(x, k=4)
    (slope,) = torch.autograd.grad(out.sum(), x)
    mask = (out > 0).double()
    assert (slope - mask).abs().max() > 0.05  # a shortcut by the mask alone would fail
    assert torch.autograd.gradcheck(lambda x: hard_topk(x, 4), (x,))


# ---- density of what is kept


def test_it_keeps_k_of_a_gaussian_and_not_of_others():
    """Target 8 % of 13,824: Gaussian 8.00, a ReLU of one 11.14, Student's t(3) 4.74, chi2 8.39."""
    d, rng = 13824, np.random.default_rng(0)
    rows = {
        "gaussian": (rng.normal(size=(60, d)), 0.08, 0.0008),
        "relu": (np.maximum(rng.normal(size=(60, d)), 0), 0.1114, 0.0008),
        "t3": (rng.standard_t(3, size=(60, d)), 0.0474, 0.002),
        "chi2": (rng.chisquare(1, size=(60, d)), 0.0839, 0.001),
    }
    for x, expected, error in rows.values():
        found = float((statistical_topk(x, k=0.08 * d) > 0).double().mean())
        assert found == pytest.approx(expected, abs=error)


# ---- edges


def test_all_is_the_identity_by_definition():
    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(statistical_topk(x, s=0), x) and torch.equal(statistical_topk(x, k=8), x)
    assert torch.equal(hard_topk(x, 8), x)
    for tiny in (1e-12, 1e-300):  # in float32 these round to a quantile of -inf
        low = statistical_topk(x, s=tiny)
        assert torch.isfinite(low).all() and (low > 0).all()
    assert not statistical_topk(x, s=1 - 1e-12).any()


def test_degenerate_rows():
    assert not statistical_topk(torch.full((2, 6), 3.0), k=2).any()
    x = torch.tensor([[1.0, float("nan"), 2.0], [0.0, 1.0, 5.0]])
    out = statistical_topk(x, k=1)
    assert out[0].isnan().all() and (out[1] > 0).sum() == 1
    assert statistical_topk(torch.ones(3, 1), s=0.5).eq(0).all()
    constant = torch.full((1, 4), 2.0, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(statistical_topk(constant, k=1).sum(), constant)
    assert torch.isfinite(slope).all()
    low = statistical_topk(torch.arange(-10.0, 0), k=8)  # theta = -5.5 - .8416 * 2.8723 = -7.917
    assert (low > 0).tolist() == [False] * 3 + [True] * 7  # negative values survive


def test_the_dtype_stays():
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        x = torch.randn(3, 32, generator=torch.Generator().manual_seed(0)).to(dtype)
        assert statistical_topk(x, k=4).dtype == hard_topk(x, 4).dtype == dtype


def test_hard_topk_keeps_the_values_and_no_more_than_k():
    x = torch.tensor([[0.0, 0, 3, 3, 3, 1], [-5, 2, -1, -2, -3, -4]])
    out = hard_topk(x, 2)
    assert out.tolist() == [[0, 0, 3, 3, 0, 0], [0, 2, -1, 0, 0, 0]]
    assert (x >= x.sort(descending=True).values[:, 1:2]).sum(1).tolist() == [3, 2]  # the trap
    assert (hard_topk(x.relu(), 4)[1] != 0).sum() == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "k or s"),
        ({"k": 2, "s": 0.5}, "k or s"),
        ({"k": 0}, r"\[1, 10\]"),
        ({"k": 11}, r"\[1, 10\]"),
        ({"s": 1.0}, r"\[0, 1\)"),
        ({"s": -0.1}, r"\[0, 1\)"),
        ({"s": float("nan")}, r"\[0, 1\)"),
        ({"k": 2, "ddof": 2}, "ddof"),
    ],
)
def test_wrong_settings_are_refused(options, said):
    with pytest.raises(ParameterError, match=said):
        statistical_topk(TEN, **options)


def test_wrong_rows_are_refused():
    with pytest.raises(ShapeError, match="floats"):
        statistical_topk(torch.arange(4), k=1)
    with pytest.raises(ShapeError, match="last axis"):
        hard_topk(torch.tensor(1.0), 1)
    with pytest.raises(ParameterError, match="ddof 1"):
        statistical_topk(torch.ones(2, 1), s=0.5, ddof=1)
    with pytest.raises(ParameterError, match=r"\[1, 4\]"):
        hard_topk(torch.ones(4), 5)


# ---- in a running model


def logits(model, texts):
    with torch.no_grad():
        return model(texts).logits


def test_the_whole_is_bit_identical_and_one_keeps_one(gpt2):
    text = "w5 w6 w7 w8"
    plain = logits(gpt2, text)
    with sparsified(gpt2, density=1.0):
        assert torch.equal(logits(gpt2, text), plain)
    counting = Counting()
    with sparsified(gpt2, density=1e-6, counting=counting):
        with interp.record(gpt2, "mlp_act.*") as acts:
            changed = logits(gpt2, text)
    assert not torch.equal(changed, plain)
    assert counting.density() == dict.fromkeys(("mlp_act.0", "mlp_act.1", "mlp_act.2"), 1 / 48)
    assert all(((acts[name] != 0).sum(-1) <= 1).all() for name in acts)
    assert torch.equal(logits(gpt2, text), plain)  # the hooks are gone


@pytest.mark.parametrize("method", ["topk", "statistical"])
def test_each_layer_has_its_own_density(gpt2, method):
    counting = Counting()
    wanted = {"mlp_act.0": 0.25, "mlp_act.2": 0.5}
    with sparsified(gpt2, density=wanted, method=method, counting=counting):
        logits(gpt2, "w5 w6 w7")
    found = counting.density()
    assert found["mlp_act.1"] == 1
    if method == "topk":
        assert found["mlp_act.0"] == 0.25 and found["mlp_act.2"] == 0.5
    else:
        assert 0 < found["mlp_act.0"] < 1 and found["mlp_act.0"] != 0.25


def test_pads_are_not_counted(gpt2):
    counting = Counting()
    counting.mask = torch.tensor([[True, True, True], [True, False, False]])
    with sparsified(gpt2, density=0.25, counting=counting):
        logits(gpt2, ["w5 w6 w7", "w8"])
    assert counting.values["mlp_act.0"] == 4 * 48 and counting.nonzero["mlp_act.0"] == 4 * 12


def test_channels_are_the_units_of_a_feature_map():
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU())
    x = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    with sparsified(module, "0", density=0.25), torch.no_grad():
        out = module[0](x)
        whole = module(x)
    assert ((out != 0).sum(1) == 2).all() and whole.shape == (2, 8, 4, 4)


def test_hooks_go_also_after_an_error(gpt2):
    with pytest.raises(RuntimeError):
        with sparsified(gpt2, density=0.1):
            raise RuntimeError
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in gpt2.module.modules())


def test_wrong_densities_are_refused(gpt2):
    for density, said in ((0.0, "above 0"), (1.5, "at most 1"), ({"mlp_act.7": 0.5}, "mlp_act.7")):
        with pytest.raises(ParameterError, match=said):
            with sparsified(gpt2, density=density):
                pass
    with pytest.raises(ParameterError, match="method must be"):
        with sparsified(gpt2, density=0.5, method="magic"):
            pass
