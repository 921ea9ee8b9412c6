"""Interventions against the same thing done by hand."""

import pytest
import torch
from torch import nn

import interp
from interp.errors import LayerNotFound, ParameterError, ShapeError

CLEAN = torch.tensor([[5, 17, 33, 8, 90, 2, 41]])
OTHER = torch.tensor([[5, 17, 34, 8, 91, 2, 40]])


@pytest.fixture
def gpt2(tiny):
    return interp.load(tiny("gpt2"))


def logits(model, ids=CLEAN):
    with torch.no_grad():
        return model(ids).logits


def test_steering_adds_a_vector_at_every_position(gpt2):
    vector = torch.linspace(-1, 1, 32)
    _, plain = interp.run_with_cache(gpt2, CLEAN, ["resid_post.1", "resid_post.0"])
    with interp.steer(gpt2, "resid_post.1", vector, alpha=-2.5):
        out, steered = interp.run_with_cache(gpt2, CLEAN, ["resid_pre.2", "resid_post.0"])
    torch.testing.assert_close(steered["resid_pre.2"], plain["resid_post.1"] - 2.5 * vector)
    assert torch.equal(steered["resid_post.0"], plain["resid_post.0"])  # nothing before moves
    block = gpt2.module.transformer
    by_hand = block.h[2](plain["resid_post.1"] - 2.5 * vector)
    by_hand = by_hand[0] if isinstance(by_hand, tuple) else by_hand
    torch.testing.assert_close(
        out.logits, gpt2.module.lm_head(block.ln_f(by_hand)), atol=1e-4, rtol=1e-4
    )
    assert not torch.allclose(out.logits, logits(gpt2))
    with interp.steer(gpt2, "resid_post.1", vector, alpha=0):
        assert torch.equal(logits(gpt2), logits(gpt2))


def test_two_interventions_nest(gpt2):
    a, b = torch.linspace(0, 1, 32), torch.linspace(1, -1, 32)
    with interp.steer(gpt2, "resid_post.1", a), interp.steer(gpt2, "resid_post.1", b):
        both = logits(gpt2)
    with interp.steer(gpt2, "resid_post.1", a + b):
        torch.testing.assert_close(both, logits(gpt2), atol=1e-4, rtol=1e-4)


def test_ablating_a_head_zeroes_its_columns_of_the_projection(gpt2, tiny):
    with interp.ablate(gpt2, "head_out.1", 2):
        found = logits(gpt2)
    by_hand = tiny("gpt2")
    by_hand.transformer.h[1].attn.c_proj.weight.data[16:24] = 0  # its d_head rows of [in, out]
    torch.testing.assert_close(found, by_hand(CLEAN).logits, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(found, logits(gpt2), atol=1e-3)
    with interp.ablate(gpt2, "head_out.1", [0, 1, 3]):
        assert not torch.allclose(found, logits(gpt2), atol=1e-3)


def test_ablating_neurons_in_a_llama_zeroes_their_columns(tiny):
    model = interp.load(tiny("llama"))
    with interp.ablate(model, "mlp_act.0", [3, -1]):
        found = logits(model)
    by_hand = tiny("llama")
    by_hand.model.layers[0].mlp.down_proj.weight.data[:, [3, -1]] = 0
    torch.testing.assert_close(found, by_hand(CLEAN).logits, atol=1e-5, rtol=1e-5)


def test_ablating_to_values(gpt2):
    with interp.ablate(gpt2, "mlp_act.1", [4, 7], value=torch.tensor([1.5, -2.0])):
        _, acts = interp.run_with_cache(gpt2, CLEAN, "mlp_out.1")
        # seen after it, at the same place
        with interp.record(gpt2, "mlp_act.1") as seen:
            logits(gpt2)
    assert seen["mlp_act.1"][..., 4].unique().tolist() == [1.5]
    assert seen["mlp_act.1"][..., 7].unique().tolist() == [-2.0]
    assert len(seen["mlp_act.1"][..., 5].unique()) > 1
    with interp.ablate(gpt2, "mlp_act.1", value=torch.arange(48.0)):
        with interp.record(gpt2, "mlp_act.1") as seen:
            logits(gpt2)
    assert torch.equal(seen["mlp_act.1"][0, 3], torch.arange(48.0))
    with interp.ablate(gpt2, "head_out.1", [0, 2], value=torch.tensor([1.0, 2.0])):
        with interp.record(gpt2, "head_out.1") as seen:
            logits(gpt2)
    assert seen["head_out.1"][..., 0, :].unique().tolist() == [1.0]
    assert seen["head_out.1"][..., 2, :].unique().tolist() == [2.0]


def test_all_of_a_block_ablated_leaves_the_stream(gpt2):
    with interp.ablate(gpt2, "attn_out.1"), interp.ablate(gpt2, "mlp_out.1"):
        _, acts = interp.run_with_cache(gpt2, CLEAN, ["resid_pre.1", "resid_post.1"])
    assert torch.equal(acts["resid_pre.1"], acts["resid_post.1"])


def test_a_channel_of_a_feature_map_is_ablated_and_steered():
    model = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(5, 4, 1))
    x = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    with interp.ablate(model, "0", [1]), interp.record(model, "1:in") as acts:
        model(x)
    held = acts["1:in"]
    assert float(held[:, 1].abs().max()) == 0 and float(held[:, :, 1].abs().max()) > 0
    with torch.no_grad():
        plain = model[0](x)
        vector = torch.arange(5.0)
        with interp.steer(model, "0", vector, alpha=2), interp.record(model, "1:in") as acts:
            model(x)
    torch.testing.assert_close(acts["1:in"], plain + 2 * vector[:, None, None])


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_patching_a_whole_layer_gives_the_clean_logits(tiny, name):
    model = interp.load(tiny(name))
    clean, acts = interp.run_with_cache(model, CLEAN, ["resid_post.1", "mlp_out.1"])
    corrupt = logits(model, OTHER)
    assert not torch.allclose(clean.logits, corrupt, atol=1e-3)
    with interp.patch(model, {"resid_post.1": acts["resid_post.1"]}):
        torch.testing.assert_close(logits(model, OTHER), clean.logits, atol=1e-5, rtol=1e-5)
    with interp.patch(model, {"mlp_out.1": acts["mlp_out.1"]}):  # a part is not the whole
        assert not torch.allclose(logits(model, OTHER), clean.logits, atol=1e-3)
    assert torch.equal(logits(model, OTHER), corrupt)


def test_patching_several_places_and_heads(gpt2):
    clean, acts = interp.run_with_cache(gpt2, CLEAN, ["embed", "head_out.0"])
    with interp.patch(gpt2, dict(acts)):
        torch.testing.assert_close(logits(gpt2, OTHER), clean.logits, atol=1e-5, rtol=1e-5)


def test_splicing_the_identity_changes_nothing_and_zero_does(gpt2):
    with interp.splice(gpt2, "resid_post.1", lambda x: x):
        assert torch.equal(logits(gpt2), logits(gpt2))
    coder = nn.Linear(32, 32)
    with interp.splice(gpt2, "resid_post.1", coder):
        found = logits(gpt2)
    _, acts = interp.run_with_cache(gpt2, CLEAN, "resid_post.1")
    with torch.no_grad(), interp.patch(gpt2, {"resid_post.1": coder(acts["resid_post.1"])}):
        torch.testing.assert_close(found, logits(gpt2))
    assert not torch.allclose(found, logits(gpt2))


def test_a_glob_intervenes_everywhere(gpt2):
    with interp.ablate(gpt2, "mlp_out.*"), interp.ablate(gpt2, "attn_out.*"):
        _, acts = interp.run_with_cache(gpt2, CLEAN, ["embed", "resid_post.2"])
    assert torch.equal(acts["embed"], acts["resid_post.2"])


def test_steering_generation_moves_it(tiny, tokenizer):
    model = interp.load(tiny("gpt2"), tokenizer=tokenizer())
    plain = model.generate("w5 w6", 8)
    token = 50
    vector = model.module.lm_head.weight[token].detach()
    with interp.steer(model, "resid_post.2", vector, alpha=50.0):
        assert model.generate("w5 w6", 8).split()[2:] == [f"w{token}"] * 8
    assert model.generate("w5 w6", 8) == plain


@pytest.mark.parametrize(
    ("context", "error", "says"),
    [
        (lambda m: interp.steer(m, "resid_post.1", torch.ones(31)), ShapeError, "width is"),
        (lambda m: interp.steer(m, "resid_post.9", torch.ones(32)), LayerNotFound, "0..2"),
        (lambda m: interp.ablate(m, "head_out.1", 4), ParameterError, r"0..3; got \[4\]"),
        (lambda m: interp.ablate(m, "mlp_act.1", [-49]), ParameterError, r"0..47; got \[-49\]"),
        (lambda m: interp.ablate(m, "mlp_act.1", []), ParameterError, "no units|at least one"),
        (lambda m: interp.patch(m, {"resid_post.1": torch.ones(1, 3, 32)}), ShapeError, "holds"),
        (lambda m: interp.patch(m, {"resid_post.*": CLEAN}), ParameterError, "exact names"),
        (lambda m: interp.splice(m, "resid_post.1", lambda x: x[..., :3]), ShapeError, "keep"),
    ],
)
def test_refusals_are_one_sentence(gpt2, context, error, says):
    with pytest.raises(error, match=says), context(gpt2):
        logits(gpt2)
