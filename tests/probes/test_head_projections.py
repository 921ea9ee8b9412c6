"""Projections of the heads: they are what the attention computes, block by block, head by head."""

import pytest
import torch

import probes
from interp.errors import ParameterError
from interp.hooks import evaluating
from interp.models import Model
from probes.head_projections import head_projections

PLACES = {
    "gpt2": ("transformer.h.{}.attn.c_attn", {"key": slice(32, 64), "value": slice(64, 96)}),
    "llama": ("model.layers.{}.self_attn.{}_proj", None),
    "gemma2": ("model.layers.{}.self_attn.{}_proj", None),
    "bert": ("encoder.layer.{}.attention.self.{}", None),
}


@pytest.mark.parametrize("which", ["value", "key"])
@pytest.mark.parametrize("name", PLACES)
def test_they_are_what_the_attention_computes_of_its_input(tiny, tokenizer, name, which):
    model = Model(tiny(name), spec=name, tokenizer=tokenizer())
    pattern, part = PLACES[name]
    short = which if name == "bert" else which[0]
    found = head_projections(model, which)
    assert list(found)[:2] == ["resid_pre.0", "embed"] and "resid_post.2" not in found
    for i in range(3):
        layer = model.module.get_submodule(pattern.format(i, short))
        seen = {}

        def keep(module, args, out, seen=seen):
            seen["x"], seen["y"] = args[0], out

        handle = layer.register_forward_hook(keep)
        with evaluating(model.module), torch.no_grad():
            model(["w3 w4 w5 w6"])
        handle.remove()
        bias = 0 if layer.bias is None else layer.bias
        y = (seen["y"] - bias)[0]
        y = y[:, part[which]] if part else y
        U = found[f"resid_pre.{i}"]
        assert U is found["embed" if i == 0 else f"resid_post.{i - 1}"]
        for k, u in enumerate(U):
            p = u.shape[1]
            torch.testing.assert_close(seen["x"][0] @ u, y[:, k * p : (k + 1) * p])
        assert len(U) == (2 if name in ("llama", "gemma2") else 4)  # shared heads are counted once


def test_towers_have_their_own_and_unknown_layouts_none(tiny, tokenizer):
    names = {n: list(head_projections(Model(tiny(n), spec=n))) for n in ("clip", "neox", "mamba")}
    assert {"text.embed", "vision.embed", "vision.resid_post.1"} <= set(names["clip"])
    assert names["neox"] == [] == names["mamba"]
    for kind in ("vit", "distilbert", "opt", "t5"):
        assert head_projections(Model(tiny(kind), spec=kind))
    with pytest.raises(ParameterError, match="value or key; got 'query'"):
        head_projections(Model(tiny("gpt2"), spec="gpt2"), "query")


def test_a_pass_over_a_store_has_a_rate_where_a_block_reads(gpt2, texts):
    import interp

    acts = interp.capture(gpt2, texts, ["embed", "resid_post.*"], pool="mean")
    heads = head_projections(gpt2)
    found = probes.geometry_by_layer(acts, measures=["sparse_rate", "rank"], heads=heads)
    rate, parts = found.values["sparse_rate"], found.parts["sparse_rate"]
    own = probes.geometry.sparse_rate_reduction(
        acts["resid_post.0"][:], heads["resid_post.0"], unit_rows=True
    )
    assert rate[1] == pytest.approx(float(own)) and parts["Rc"][1] == pytest.approx(own.parts["Rc"])
    assert rate[1] != pytest.approx(rate[0])
    assert (
        torch.isnan(torch.tensor(rate[3]))
        and "no attention" in (found.reasons["resid_post.2: sparse_rate"])
    )
    without = probes.geometry_by_layer(acts, measures=["sparse_rate", "rank"])
    assert without.measures == ("rank",)
    alone = probes.geometry_by_layer(acts, measures=["sparse_rate"])
    assert "no attention" in alone.reasons["embed: sparse_rate"]
