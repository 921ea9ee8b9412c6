"""Token patching: a bag of embeddings leaks nothing, a clean run put back is the clean output."""

import numpy as np
import pytest
import torch
from torch import nn

import interp
from interp.errors import DataError, ModelError, ParameterError, ShapeError
from interp.models import Model
from probes.token_vectors import keep_only, replace_with, token_patching


class Bag(nn.Module):
    """Embeddings that are never mixed; the output is a vector a token."""

    def __init__(self, mix=0.0):
        super().__init__()
        self.embed, self.mix = nn.Embedding(100, 16), mix
        self.out = nn.Identity()
        with torch.no_grad():
            g = torch.Generator().manual_seed(0)
            self.embed.weight.copy_(torch.randn(100, 16, generator=g))

    def forward(self, input_ids, attention_mask=None):
        x = self.embed(input_ids)
        seen = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        whole = (x * seen[..., None]).sum(1, keepdim=True) / seen.sum(1)[:, None, None]
        return self.out(x + self.mix * whole)


TEXT = "w10 w20 w30 w40"
ITEMS = {"w10": "w50", "w30": "w60"}


def bag(tokenizer, mix=0.0):
    return Model(Bag(mix), spec="bag", tokenizer=tokenizer())


def test_an_encoder_that_mixes_nothing_leaks_nothing_and_one_that_mixes_does(tokenizer):
    found = token_patching(bag(tokenizer), TEXT, ITEMS, hookpoint="out")
    off = ~np.eye(2, dtype=bool)
    assert np.all(found.leakage[off] == 0) and np.isnan(found.leakage[~off]).all()
    assert np.all(found.isolated == 0)
    mixed = token_patching(bag(tokenizer, 0.5), TEXT, ITEMS, hookpoint="out")
    assert np.all(np.abs(mixed.leakage[off]) > 1e-4) and np.all(np.abs(mixed.isolated) > 1e-4)
    at = [found.tokens.index(item) for item in ("w10", "w30")]
    assert found.sufficiency.argmax(1).tolist() == at  # the item's own token holds it
    assert np.allclose(np.diag(found.item_alone), found.sufficiency[[0, 1], at])


def test_a_clean_run_put_back_everywhere_is_the_clean_output_exactly(tiny, tokenizer):
    model = Model(tiny("bert"), spec="bert", tokenizer=tokenizer())
    other, clean = ["w5 w6 w7 w8"], ["w10 w20 w30 w40"]
    out, cache = interp.run_with_cache(model, clean, "resid_post.0")
    values, t = cache["resid_post.0"], cache["resid_post.0"].shape[1]

    def run(texts):
        with torch.no_grad():
            return model(texts).last_hidden_state

    with interp.hooks.evaluating(model.module):
        own = run(other)
        with replace_with(model, "resid_post.0", values, range(t)):
            assert torch.equal(run(other), out.last_hidden_state)
        with replace_with(model, "resid_post.0", values, [1]):
            assert not torch.allclose(run(other), out.last_hidden_state, atol=1e-4)
        with keep_only(model, "resid_post.0", range(t), values[0, 0]):
            assert torch.equal(run(other), own)
        with keep_only(model, "resid_post.0", [], values):
            assert torch.equal(run(other), out.last_hidden_state)
        with pytest.raises(RuntimeError), keep_only(model, "resid_post.0", [0], values[0, 0]):
            raise RuntimeError
        assert torch.equal(run(other), own)  # the hooks are gone, also after an exception


def test_keep_only_by_hand(tokenizer):
    model, fill = bag(tokenizer), torch.full((16,), 9.0)
    with keep_only(model, "out", [0, -1], fill):
        found = model(["w10 w20 w30"])[0]
    assert torch.equal(found[0], model.module.embed.weight[10])
    assert bool((found[1] == 9).all())


def test_a_judge_of_your_own_and_an_item_that_is_not_told_apart(tokenizer, tmp_path):
    direction = torch.zeros(16, 2)
    direction[0, 0] = 1.0

    def judge(output):
        return output.sum(1) @ direction

    found = token_patching(bag(tokenizer), TEXT, ITEMS, hookpoint="out", judge=judge)
    assert np.isnan(found.sufficiency[1]).all() and "empty text" in found.reasons["w30"]
    assert found.sufficiency[0].sum() == pytest.approx(1, abs=1e-5)  # the judge is linear
    plain = token_patching(bag(tokenizer), TEXT, ["w10"], hookpoint="out")
    assert np.isnan(plain.leakage).all() and "swapped for" in plain.reasons["leakage"]
    loaded = type(found).load(found.save(tmp_path / "r.json"))
    assert np.array_equal(loaded.leakage, found.leakage, equal_nan=True)
    assert len(found.to_frame()) == 2


def test_an_item_is_found_again_though_its_neighbour_s_new_words_hold_it(tokenizer):
    class Placed(Bag):
        def forward(self, input_ids, attention_mask=None):
            place = torch.arange(input_ids.shape[1], dtype=torch.float32)[:, None]
            return self.out(self.embed(input_ids) + place)

    model = Model(Placed(), spec="placed", tokenizer=tokenizer())
    items = {"w10": "w30", "w30": "w60"}  # what w10 is swapped for is the other item
    assert token_patching(model, TEXT, items, hookpoint="out").leakage[1, 0] == 0
    longer = token_patching(model, TEXT, items | {"w10": "w71 w72"}, hookpoint="out")
    assert longer.leakage[1, 0] != 0  # one place on, which this model does tell


def test_refusals(tokenizer):
    with pytest.raises(DataError, match="'w99' is not in the text"):
        token_patching(bag(tokenizer), TEXT, ["w99"], hookpoint="out")
    with pytest.raises(ModelError, match="fast tokenizer"):
        token_patching(Model(Bag(), spec="bag"), TEXT, ["w10"], hookpoint="out")
    with pytest.raises(ParameterError, match="give a judge"):
        _no_vectors(tokenizer)
    model = bag(tokenizer)
    with pytest.raises(ShapeError, match="positions are 0 to 3"):
        with replace_with(model, "out", torch.zeros(16), [7]):
            model([TEXT])
    with pytest.raises(ShapeError, match=r"the vectors for it are \[5\]"):
        with replace_with(model, "out", torch.zeros(5), [0]):
            model([TEXT])


def _no_vectors(tokenizer):
    class Flat(Bag):
        def forward(self, input_ids, attention_mask=None):
            return super().forward(input_ids, attention_mask).mean(1)

    model = Model(Flat(), spec="flat", tokenizer=tokenizer())
    return token_patching(model, TEXT, ["w10"], hookpoint="out")


@pytest.mark.real
def test_minilm_holds_an_item_in_its_own_tokens_and_lets_items_leak(real):
    model = interp.load(str(real / "minilm"))
    text = "A black dog sits beside a wooden chair."
    found = token_patching(model, text, {"black dog": "small boat", "wooden chair": "red apple"})
    own = [set(s) for s in found.spans]
    best = found.sufficiency.argmax(1)
    assert best[0] in own[0] and best[1] in own[1]
    assert np.abs(found.leakage[~np.eye(2, dtype=bool)]).min() > 1e-4
    assert (np.diag(found.item_alone) > found.item_alone[[0, 1], [1, 0]]).all()
