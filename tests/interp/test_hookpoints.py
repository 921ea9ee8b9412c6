"""Names, roles, globs and slices, checked on every family against what the model itself says."""

import pytest
import torch
from torch import nn

import interp
from interp.errors import LayerNotFound
from interp.hookpoints import HookPoints

DECODERS = ("gpt2", "neox", "llama", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "mistral")
DECODERS += ("opt",)
ENCODERS = ("bert", "distilbert", "roberta")
GATED = ("llama", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "mistral")
ALL = (
    *[(name, "") for name in (*DECODERS, *ENCODERS, "vit")],
    ("clip", "text."),
    ("clip", "vision."),
    ("t5", "encoder."),
    ("t5", "decoder."),
)
NORMED_BEFORE = {("bert", ""), ("distilbert", ""), ("roberta", "")}  # no norm after the last block


def run(model, name, prefix, points):
    """A forward of a tiny model: (hidden states of the stack, what the points held)."""
    x = torch.tensor([[5, 17, 33, 8, 90, 2, 41], [3, 3, 61, 7, 12, 88, 1]])
    if name == "vit":
        pixels = torch.linspace(-1, 1, 2 * 3 * 16 * 16).reshape(2, 3, 16, 16).sin()
        out, acts = interp.run_with_cache(model, {"pixel_values": pixels, **STATES}, points)
        return out.hidden_states, acts
    if name == "clip":
        tower = model.text_model if prefix == "text." else model.vision_model
        with torch.no_grad(), interp.record(model, points) as acts:
            if prefix == "text.":
                out = tower(input_ids=x, **STATES)
            else:
                pixels = torch.linspace(-1, 1, 2 * 3 * 16 * 16).reshape(2, 3, 16, 16).sin()
                out = tower(pixel_values=pixels, **STATES)
        return out.hidden_states, acts
    if name == "t5":
        inputs = {"input_ids": x, "decoder_input_ids": x[:, :4], **STATES}
        out, acts = interp.run_with_cache(model, inputs, points)
        encoder = prefix == "encoder."
        return (out.encoder_hidden_states if encoder else out.decoder_hidden_states), acts
    out, acts = interp.run_with_cache(model, {"input_ids": x, **STATES}, points)
    return out.hidden_states, acts


STATES = {"output_hidden_states": True}


@pytest.mark.parametrize(("name", "prefix"), ALL)
def test_the_residual_stream_is_what_output_hidden_states_says(tiny, name, prefix):
    model = tiny(name)
    roles = [prefix + r for r in ("embed", "resid_pre.*", "resid_post.*")]
    has_norm = (name, prefix) not in NORMED_BEFORE
    if has_norm:
        roles.append(prefix + "final_norm")
    hidden, acts = run(model, name, prefix, roles)
    assert len(hidden) == 4
    torch.testing.assert_close(acts[prefix + "embed"], hidden[0])
    for i in range(3):
        torch.testing.assert_close(acts[f"{prefix}resid_pre.{i}"], hidden[i])
    for i in range(2):
        torch.testing.assert_close(acts[f"{prefix}resid_post.{i}"], hidden[i + 1])
        assert not torch.allclose(acts[f"{prefix}resid_post.{i}"], hidden[i], atol=1e-3)
    last = acts[f"{prefix}resid_post.2"]
    if not has_norm:
        torch.testing.assert_close(last, hidden[3])
        return
    norm = model.get_submodule(interp.load(model).resolve(prefix + "final_norm")[0].module)
    normed = norm(last)[:, 0] if prefix == "vision." else norm(last)  # CLIP norms its class token
    torch.testing.assert_close(normed, acts[prefix + "final_norm"])
    if prefix in ("", "encoder.", "decoder.") and name != "vit":  # their last state is normed
        torch.testing.assert_close(hidden[3], acts[prefix + "final_norm"])
        assert not torch.allclose(last, hidden[3], atol=1e-3)
    elif prefix == "vision.":
        torch.testing.assert_close(last, hidden[3])


def affine(module, x):
    """A linear layer by hand, from its weight and bias."""
    weight = module.weight.T if type(module).__name__ != "Conv1D" else module.weight
    bias = getattr(module, "bias", None)
    return x @ weight + (0 if bias is None else bias)


@pytest.mark.parametrize(("name", "prefix"), ALL)
def test_heads_and_mlp_go_through_their_projections(tiny, name, prefix):
    model = tiny(name)
    d_head = 16 if name == "qwen3" else 8
    roles = ("attn_out", "head_out", "mlp_in", "mlp_act", "mlp_out")
    _, acts = run(model, name, prefix, [f"{prefix}{r}.*" for r in roles])
    loaded = interp.load(model)
    for i in range(3):
        heads = acts[f"{prefix}head_out.{i}"]
        assert heads.shape[2:] == (4, d_head)
        out = model.get_submodule(loaded.resolve(f"{prefix}attn_out.{i}")[0].module)
        torch.testing.assert_close(
            affine(out, heads.flatten(2)), acts[f"{prefix}attn_out.{i}"], atol=1e-5, rtol=1e-4
        )
        act = acts[f"{prefix}mlp_act.{i}"]
        assert act.shape[-1] == 48
        down = model.get_submodule(loaded.resolve(f"{prefix}mlp_out.{i}")[0].module)
        torch.testing.assert_close(
            affine(down, act), acts[f"{prefix}mlp_out.{i}"], atol=1e-5, rtol=1e-4
        )
        assert acts[f"{prefix}mlp_in.{i}"].shape[-1] == 32


@pytest.mark.parametrize("name", GATED)
def test_a_gated_mlp_act_is_the_product(tiny, name):
    model = tiny(name)
    _, acts = run(model, name, "", ["mlp_in.1", "mlp_act.1"])
    mlp = model.model.layers[1].mlp
    x = acts["mlp_in.1"]
    gate = mlp.act_fn(x @ mlp.gate_proj.weight.T)
    torch.testing.assert_close(acts["mlp_act.1"], gate * (x @ mlp.up_proj.weight.T))
    assert not torch.allclose(acts["mlp_act.1"], gate, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "first", "act"),
    [
        ("gpt2", "transformer.h.1.mlp.c_fc", "gelu_new"),
        ("neox", "gpt_neox.layers.1.mlp.dense_h_to_4h", "gelu"),
        ("opt", "model.decoder.layers.1.fc1", "relu"),
        ("bert", "encoder.layer.1.intermediate.dense", "gelu"),
        ("distilbert", "transformer.layer.1.ffn.lin1", "gelu"),
    ],
)
def test_a_plain_mlp_act_is_the_non_linearity(tiny, name, first, act):
    from transformers.activations import ACT2FN

    model = tiny(name)
    _, acts = run(model, name, "", ["mlp_in.1", "mlp_act.1"])
    by_hand = ACT2FN[act](affine(model.get_submodule(first), acts["mlp_in.1"]))
    torch.testing.assert_close(acts["mlp_act.1"], by_hand, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen3", "opt"])
def test_the_stream_is_a_sum(tiny, name):
    """In a pre-norm block resid_post = resid_pre + attn_out + mlp_out."""
    _, acts = run(tiny(name), name, "", ["resid_pre.1", "attn_out.1", "mlp_out.1", "resid_post.1"])
    pre, attention, mlp, post = (acts[k] for k in acts)
    mlp = mlp.view_as(pre)  # OPT runs its MLP on [b * t, width]
    torch.testing.assert_close(pre + attention + mlp, post, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(pre + attention, post, atol=1e-3)


@pytest.mark.parametrize("name", ["gemma2", "gemma3"])
def test_a_norm_between_mlp_and_stream_is_not_part_of_mlp_out(tiny, name):
    model = tiny(name)
    roles = ["resid_pre.1", "attn_out.1", "mlp_out.1", "resid_post.1"]
    _, acts = run(model, name, "", roles)
    pre, attention, mlp, post = (acts[k] for k in acts)
    block = model.model.layers[1]
    middle = pre + block.post_attention_layernorm(attention)
    torch.testing.assert_close(
        middle + block.post_feedforward_layernorm(mlp), post, atol=1e-5, rtol=1e-4
    )


def names(model, wanted):
    return [p.name for p in interp.load(model).resolve(wanted)]


def places(model, wanted):
    return [p.place for p in interp.load(model).resolve(wanted)]


def test_slices_negatives_and_lists(tiny):
    model = tiny("gpt2")
    post = [f"resid_post.{i}" for i in range(3)]
    assert names(model, "resid_post.*") == post
    assert names(model, "resid_post.-1") == ["resid_post.2"]
    assert names(model, "resid_post.0:3:2") == ["resid_post.0", "resid_post.2"]
    assert names(model, "resid_post.:2") == post[:2]
    assert names(model, "resid_post.-2:") == post[1:]
    assert names(model, "resid_post.::-1") == post
    assert names(model, ["resid_post.1", "resid_post.*", "embed"]) == [
        "resid_post.1",
        "resid_post.0",
        "resid_post.2",
        "embed",
    ]


def test_a_star_stays_in_its_segment_and_two_cross(tiny):
    model = tiny("gpt2")
    assert names(model, "transformer.h.*") == [f"transformer.h.{i}" for i in range(3)]
    assert names(model, "transformer.h.*.mlp") == [f"transformer.h.{i}.mlp" for i in range(3)]
    assert "transformer.h.0.mlp.c_fc" in names(model, "transformer.h.**")
    assert names(model, "**.c_fc") == [f"transformer.h.{i}.mlp.c_fc" for i in range(3)]
    assert names(model, "transformer.h.[02].mlp") == ["transformer.h.0.mlp", "transformer.h.2.mlp"]
    assert names(model, "transformer.h.?.ln_1") == [f"transformer.h.{i}.ln_1" for i in range(3)]
    with pytest.raises(LayerNotFound):
        names(model, "*.c_fc")
    with pytest.raises(LayerNotFound):
        names(model, "transformerXh.0")  # a dot is a dot


def test_in_and_out(tiny):
    model = tiny("gpt2")
    assert places(model, "transformer.h.1.mlp:in") == ["transformer.h.1.mlp:in"]
    assert places(model, "transformer.h.1.mlp:out") == ["transformer.h.1.mlp"]
    _, acts = interp.run_with_cache(
        model, torch.arange(5)[None], ["transformer.h.1.mlp:in", "transformer.h.1.ln_2", "mlp_in.1"]
    )
    held = acts["transformer.h.1.mlp:in"]
    assert torch.equal(held, acts["transformer.h.1.ln_2"])
    assert torch.equal(held, acts["mlp_in.1"])


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ("resid_psot.1", "did you mean 'resid_post"),
        ("transformer.h.1.mpl", "'transformer.h.1.mlp'"),
        ("resid_post.3", "layers 0..2"),
        ("resid_post.-4", "layers 0..2"),
        ("resid_post", "names no layer"),
        ("resid_post.5:9", "selects none"),
        ("resid_post.0:3:0", "no layer, slice"),
        ("embed.0", "has no layers"),
        ("encoder.resid_post.0", "no stack 'encoder'"),
        ("zzzzqqqq", "interp hookpoints"),
        ([], "no hook point was asked for"),
        ("", "no hook point"),
    ],
)
def test_a_miss_says_what_is_near(tiny, wanted, says):
    with pytest.raises(LayerNotFound, match=".") as caught:
        names(tiny("gpt2"), wanted)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_bare_role_on_two_stacks_names_the_prefixes(tiny):
    with pytest.raises(LayerNotFound, match=r"encoder\.resid_post\.0 or decoder\.resid_post\.0"):
        names(tiny("t5"), "resid_post.0")
    with pytest.raises(LayerNotFound, match=r"text\.embed or vision\.embed"):
        names(tiny("clip"), "embed")
    assert names(tiny("t5"), "decoder.head_out.-1") == ["decoder.head_out.2"]


def test_t5_decoder_roles_are_self_attention_and_the_mlp(tiny):
    assert places(tiny("t5"), "decoder.attn_out.1") == ["decoder.block.1.layer.0.SelfAttention.o"]
    assert places(tiny("t5"), "decoder.mlp_out.1") == ["decoder.block.1.layer.2.DenseReluDense.wo"]


def test_transformer_lens_names_mean_the_same(tiny):
    model = tiny("llama")
    pairs = {
        "blocks.1.hook_resid_pre": "resid_pre.1",
        "blocks.*.hook_resid_post": "resid_post.*",
        "blocks.0.attn.hook_z": "head_out.0",
        "blocks.-1.mlp.hook_post": "mlp_act.-1",
    }
    for tl, role in pairs.items():
        assert names(model, tl) == names(model, role)


def test_a_model_without_blocks_has_names_and_no_roles():
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    assert names(model, "*") == ["0", "1", "2"]
    with pytest.raises(LayerNotFound, match="no stack of attention blocks"):
        names(model, "resid_post.0")


def test_the_table_lists_roles_in_depth_order_then_the_rest(tiny):
    table = interp.load(tiny("gpt2")).hookpoints()
    assert list(table.columns) == ["name", "alias", "type", "width"]
    aliases = [a for a in table["alias"] if a]
    assert aliases[0] == "embed"
    assert aliases[-1] == "final_norm"
    assert aliases.index("resid_post.0") < aliases.index("resid_pre.1")
    by_alias = table.set_index("alias")
    assert by_alias.loc["mlp_act.1", "width"] == 48
    assert by_alias.loc["resid_post.1", "width"] == 32
    assert by_alias.loc["head_out.1", "width"] == "4 x 8"
    every = {n for n, _ in tiny("gpt2").named_modules() if n} - {"transformer.h"}  # never called
    assert every == set(table["name"].str.removesuffix(":in"))
    assert "transformer.h" not in {p.name for p in interp.load(tiny("gpt2")).resolve("**")}


def test_a_shared_block_is_found_once(tiny):
    """ALBERT runs one block three times: what it is called is its module's name."""
    points = HookPoints(tiny("albert"))
    assert "encoder.albert_layer_groups.0.albert_layers.0.ffn" in points.modules
    with pytest.raises(LayerNotFound, match="fired 3 times"):
        _, acts = interp.run_with_cache(
            tiny("albert"), torch.arange(5)[None], "encoder.albert_layer_groups.0.albert_layers.0"
        )
        acts["encoder.albert_layer_groups.0.albert_layers.0"]
