"""A model with new weights, and its way out: the final norm and the unembedding."""

import pytest
import torch
from torch import nn
from transformers import PreTrainedTokenizerFast

import interp
from interp.errors import ModelError


def weights(model):
    return dict(model.module.state_dict())


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert", "vit", "t5"])
def test_fresh_weights_have_the_shapes_and_not_the_values(tiny, name):
    model = interp.load(tiny(name))
    before = {k: v.clone() for k, v in weights(model).items()}
    fresh = model.reinitialised(seed=3)
    assert {k: v.shape for k, v in weights(fresh).items()} == {
        k: v.shape for k, v in before.items()
    }
    assert all(torch.equal(v, before[k]) for k, v in weights(model).items())  # the old is as it was
    assert fresh.fingerprint == model.reinitialised(seed=3).fingerprint
    assert len({model.fingerprint, fresh.fingerprint, model.reinitialised(4).fingerprint}) == 3
    assert not fresh.module.training and "random weights, seed 3" in fresh.spec


def test_weights_are_those_of_the_library(tiny):
    model = interp.load(tiny("gpt2"))
    fresh = model.reinitialised()
    spread = fresh.module.transformer.h[0].mlp.c_fc.weight.std().item()
    assert spread == pytest.approx(model.config.initializer_range, rel=0.1)
    assert model.module.transformer.h[0].mlp.c_fc.weight.std() > 2 * spread  # the fixture's differ


def test_dtype_and_the_global_random_state_stay(tiny):
    model = interp.load(tiny("llama"), dtype="bfloat16")
    state = torch.get_rng_state()
    assert model.reinitialised(5).dtype == torch.bfloat16
    assert torch.equal(torch.get_rng_state(), state)


def test_a_module_without_a_config_is_reset():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2)).eval()
    with torch.no_grad():
        net[1].running_mean += 7
    fresh = interp.load(net).reinitialised(1)
    assert not torch.equal(fresh.module[3].weight, net[3].weight)
    assert fresh.module[1].running_mean.eq(0).all() and net[1].running_mean.eq(7).all()
    assert fresh.fingerprint == interp.load(net).reinitialised(1).fingerprint


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(2, 2)
        self.gain = nn.Parameter(torch.ones(2))


def test_a_part_that_says_nothing_on_its_weights_is_refused(folder):
    with pytest.raises(ModelError, match="part itself .Own. holds parameters"):
        interp.load(Own()).reinitialised()
    with pytest.raises(ModelError, match="load that one by its own name"):
        interp.load(f"tl:{folder('gpt2')}").reinitialised()


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "opt"])
def test_norm_and_unembedding_give_the_logits(tiny, name):
    model = interp.load(tiny(name))
    ids = torch.tensor([[5, 6, 7]])
    out, cache = interp.run_with_cache(model, {"input_ids": ids}, ["resid_post.2"])
    norm = model.final_norm()
    assert norm is not None
    logits = model.unembedding()(norm(cache["resid_post.2"]))
    cap = getattr(model.config, "final_logit_softcapping", None)
    logits = cap * torch.tanh(logits / cap) if cap else logits
    torch.testing.assert_close(logits, out.logits, atol=1e-4, rtol=1e-4)


def test_a_model_without_words_has_no_unembedding(tiny):
    for name in ("bert", "vit"):
        with pytest.raises(ModelError, match="no language model"):
            interp.load(tiny(name)).unembedding()
    with pytest.raises(ModelError, match="no language model"):
        interp.load(nn.Linear(2, 2)).unembedding()
    assert interp.load(nn.Linear(2, 2)).final_norm() is None


def test_token_text_keeps_the_space_before_a_word(tiny):
    from tokenizers import Tokenizer, models, pre_tokenizers

    model = interp.load(tiny("gpt2"))
    words = {"[UNK]": 0, "with": 1, "##out": 2, "[CLS]": 3}
    inner = Tokenizer(models.WordPiece(words, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    model.tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="[UNK]", cls_token="[CLS]"
    )
    assert [model.token_text(i) for i in (1, 2, 3)] == [" with", "out", "[CLS]"]
    ids = model.tokenizer("with without", add_special_tokens=False)["input_ids"]
    assert "".join(map(model.token_text, ids)) == " with without"


def test_token_text_of_bytes_of_the_demo_and_without_a_tokenizer(tiny):
    pylm = interp.load("demo:pylm")
    (ids,) = pylm.tokenize(["def area(self): return 2"])
    assert "".join(map(pylm.token_text, ids)).endswith("def area(self): return 2")
    (partial,) = pylm.tokenize(["é"])
    assert "(token " in pylm.token_text(partial[-1])
    pylm.tokenizer = None
    assert pylm.token_text(7) == "7"
