"""Experts of a mixture: each with its own tokens, in both layouts, pads never among them."""

import pytest
import torch
from torch import nn

import interp
from interp.errors import ModelError
from interp.experts import Experts
from probes import sparsity


@pytest.fixture
def mixtral(tokenizer):
    import transformers as t

    config = t.MixtralConfig(
        hidden_size=32,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=4,
        num_experts_per_tok=2,
        vocab_size=100,
        max_position_embeddings=64,
        hidden_act="relu",
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = t.MixtralForCausalLM(config).eval()
    return interp.Model(model, spec="tiny-moe", tokenizer=tokenizer())


def test_the_rows_are_what_the_experts_compute(mixtral, texts):
    """Weighted and projected down, they give the mixture's own output."""
    name = "model.layers.1.mlp.experts"
    experts = mixtral.module.get_submodule(name)
    held = {}

    def see(module, args, output):
        held.update(args=args, output=output)

    handle = experts.register_forward_hook(see)
    (batch,) = list(Experts(mixtral, texts[:1]).stream())
    handle.remove()
    hidden, index, weights = held["args"]
    total = torch.zeros_like(hidden)
    for e in range(4):
        token, slot = (index == e).nonzero(as_tuple=True)
        down = batch[f"expert_act.1.{e}"] @ experts.down_proj[e].T
        total.index_add_(0, token, down * weights[token, slot, None])
    torch.testing.assert_close(total, held["output"], rtol=1e-5, atol=1e-7)


def test_each_expert_has_its_own_tokens_and_no_pads(mixtral, texts):
    words = sum(len(t.split()) for t in texts)
    found = sparsity(Experts(mixtral, texts, batch_size=3), "exact", gated=True)
    assert len(found.hookpoints) == 8 and found.hookpoints[0] == "expert_act.0.0"
    assert sum(found.tokens[:4]) == sum(found.tokens[4:]) == 2 * words  # two experts a token
    assert len(set(found.tokens)) > 1
    one = sparsity(Experts(mixtral, texts, batch_size=1), "exact", gated=True)
    assert one.tokens == found.tokens
    assert 0.3 < found.density.mean() < 0.7
    assert found.sites[5] == "model.layers.1.mlp.experts (1)"
    assert not any(m._forward_pre_hooks for m in mixtral.module.modules())


class Expert(nn.Module):
    def __init__(self):
        super().__init__()
        self.w1 = nn.Linear(8, 16)
        self.w2 = nn.Linear(16, 8)

    def forward(self, x):
        return self.w2(self.w1(x).relu())


class Mixture(nn.Module):
    """Rows go to the expert that the sign of their first value names; the third gets none."""

    def __init__(self):
        super().__init__()
        self.experts = nn.ModuleList(Expert() for _ in range(3))

    def forward(self, x):
        first = x[:, 0] > 0
        return torch.cat([self.experts[0](x[first]), self.experts[1](x[~first])])


def test_a_list_of_experts():
    x = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    model = Mixture()
    found = sparsity(Experts(model, x), "exact")
    first = int((x[:, 0] > 0).sum())
    assert found.tokens == (first, 50 - first, 0)
    expected = (model.experts[0].w1(x[x[:, 0] > 0]) > 0).double().mean()
    assert found.density[0] == pytest.approx(float(expected), abs=1e-12)
    assert "no token" in found.reasons["density.expert_act.0.2"]


def test_a_model_without_experts_is_refused(gpt2, texts):
    with pytest.raises(ModelError, match="no mixture of experts"):
        Experts(gpt2, texts)
