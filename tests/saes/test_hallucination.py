"""Guided generation: the edit and the mix by the reference's numbers, in a tiny LLaVA."""

import math

import pytest
import torch
from torch.testing import assert_close

import interp
from interp.errors import DataError, LayerNotFound, ParameterError, ShapeError
from saes import (
    VLSAE,
    AuxiliaryAE,
    AuxiliaryConfig,
    ConceptGuidance,
    VLConfig,
    mixed_logits,
    moved_text_mean,
)
from saes.rows import seeded

IMAGE, PATCHES, WIDTH = 3, 4, 16
POINT = "model.language_model.layers.1"


def reference():
    """The weights of V1 and V6."""
    sae = VLSAE(VLConfig(n_latents=4, k=2, ties="strict"), 2)
    with torch.no_grad():
        W = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0], [1.0, 1.0]])
        sae.encoders["both"].copy_(W)
        sae.decoders["text"].copy_(torch.tensor([[1, 0, -1, 0.5], [0, 1, 0, 0.5]]).T)
        sae.b_decs["text"].copy_(torch.tensor([0.1, -0.1]))
    return sae.eval()


IMAGES, TEXTS = torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 4.0]])


@torch.no_grad()
def test_v6_the_edit_of_the_released_code():
    sae = reference()
    got = moved_text_mean(sae, IMAGES, TEXTS, alpha=0.8, beta=0.9)
    assert_close(got, torch.tensor([[2.638797, 1.348200]]), atol=1e-5, rtol=0)
    whole = moved_text_mean(sae, IMAGES, TEXTS, alpha=1.0, beta=0.9)
    assert_close(whole, torch.tensor([[2.548496, 0.685250]]), atol=1e-5, rtol=0)
    assert torch.equal(moved_text_mean(sae, IMAGES, TEXTS, alpha=0.0), TEXTS)


@torch.no_grad()
def test_v6_the_paper_s_form_adds():
    h = torch.tensor([0, 1.367544, 0, 1.858222]) + 0.9 * torch.tensor([2, 0, 0, 1.234633])
    heard = torch.stack([h[0] - h[2] + h[3] / 2 + 0.1, h[1] + h[3] / 2 - 0.1])
    got = moved_text_mean(reference(), IMAGES, TEXTS, alpha=0.8, beta=0.9, form="paper")
    assert_close(got, TEXTS + 0.8 * heard, atol=1e-5, rtol=0)
    code = moved_text_mean(reference(), IMAGES, TEXTS, alpha=0.8, beta=0.9)
    assert (got - code).abs().max() > 1


@torch.no_grad()
def test_v6_behind_auxiliary_maps():
    """Identity maps change nothing; others are gone through both ways."""
    own = AuxiliaryAE(AuxiliaryConfig(width=2), 2, 2, generator=seeded(0))
    plain = moved_text_mean(reference(), IMAGES, TEXTS)
    assert not torch.allclose(moved_text_mean(reference(), IMAGES, TEXTS, auxiliary=own), plain)
    for linear in (*own.encoders.values(), *own.decoders.values()):
        linear.weight.copy_(torch.eye(2))
        linear.bias.zero_()
    assert_close(moved_text_mean(reference(), IMAGES, TEXTS, auxiliary=own), plain)
    own.decoders["text"].weight.mul_(2)
    twice = moved_text_mean(reference(), IMAGES, TEXTS, auxiliary=own, alpha=1.0)
    assert_close(twice, 2 * moved_text_mean(reference(), IMAGES, TEXTS, alpha=1.0))


def test_v7_the_mix_of_logits():
    plain, guided = torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[0.0, 1.0, 3.0]])
    out = -math.inf
    assert_close(mixed_logits(plain, guided), torch.tensor([[0.8, out, out]]))
    wide = mixed_logits(plain, guided, cutoff=0.1)
    assert_close(wide, torch.tensor([[0.8, 1.0, 1.8]]))
    for wrong in ({"share": 1.1}, {"cutoff": 0.0}, {"cutoff": 1.5}):
        with pytest.raises(ParameterError, match="share must be from 0 to 1"):
            mixed_logits(plain, guided, **wrong)


# ---- in a model


@pytest.fixture(scope="module")
def llava():
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig
    from transformers import LlavaForConditionalGeneration as Llava

    vision = CLIPVisionConfig(
        hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        image_size=8, patch_size=4,
    )  # fmt: skip
    text = LlamaConfig(
        hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=2, vocab_size=40, max_position_embeddings=64,
    )  # fmt: skip
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE)
    config.vision_feature_layer = -1
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Llava(config)
    model.generation_config.eos_token_id = None
    return model.eval()


def inputs(n=1):
    draw = seeded(n, "llava")
    ids = torch.randint(10, 40, (n, 9), generator=draw)
    ids[:, 1 : 1 + PATCHES] = IMAGE
    pixels = torch.randn(n, 3, 8, 8, generator=draw)
    return {"input_ids": ids, "pixel_values": pixels, "attention_mask": torch.ones_like(ids)}


def small_sae():
    sae = VLSAE(VLConfig(n_latents=32, k=4), WIDTH, generator=seeded(3))
    with torch.no_grad():
        for table in sae.decoders.values():
            table *= 20
    sae.metadata = {"hookpoints": {"image": POINT, "text": POINT}}
    return sae.eval()


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@torch.no_grad()
def test_the_text_is_moved_and_the_image_is_not(llava):
    """The guided forward is that of a model whose hook point holds the edited activations."""
    given = inputs(2)
    guidance = ConceptGuidance(llava, small_sae(), given, alpha=0.5, beta=0.7)
    with interp.record(llava, [POINT]) as acts:
        llava(**given)
    x = acts[POINT]
    image, text = x[:, 1:5].mean(1), x[:, 5:].mean(1)
    edited = x.clone()
    edited[:, 5:] += (moved_text_mean(small_sae(), image, text, alpha=0.5, beta=0.7) - text)[
        :, None
    ]
    with interp.patch(llava, {POINT: edited}):
        want = llava(**given).logits[:, -1]
    got = guidance.guided(given["input_ids"])
    assert_close(got, want, atol=1e-5, rtol=1e-5)
    plain = llava(**given).logits[:, -1]
    assert (got - plain).abs().max() > 1e-2
    still = ConceptGuidance(llava, small_sae(), given, alpha=0.0)
    assert_close(still.guided(given["input_ids"]), plain, atol=1e-5, rtol=1e-5)
    # In both forms of the plain scores: raw logits, or what beam search has, log-probabilities.
    for scores in (plain, plain.log_softmax(-1)):
        mixed = guidance(given["input_ids"], scores)
        apart = mixed_logits(scores, want).softmax(-1)
        assert_close(mixed.softmax(-1), apart, atol=1e-5, rtol=1e-5)
    assert (mixed.logsumexp(-1) <= 1e-5).all()  # a beam cannot gain from being mixed


def test_it_writes_in_generate_and_leaves_no_hook(llava):
    given = inputs(2)
    options = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    plain = llava.generate(**given, **options)
    before = hooks(llava)  # some releases of transformers leave hooks of their own at the first run
    guidance = ConceptGuidance(llava, small_sae(), given, share=1.0, cutoff=1e-9)
    written = llava.generate(**given, **options, logits_processor=[guidance])
    assert written.shape == (2, 14) and not torch.equal(written, plain)
    # each token is the one that the guided model ranks first
    for t in range(9, 14):
        assert torch.equal(guidance.guided(written[:, :t]).argmax(1), written[:, t])
    none = ConceptGuidance(llava, small_sae(), given, share=0.0, cutoff=1e-9)
    assert torch.equal(llava.generate(**given, **options, logits_processor=[none]), plain)
    beams = llava.generate(**given, **options, num_beams=2, logits_processor=[guidance])
    assert beams.shape == (2, 14)
    assert hooks(llava) == before


def test_the_hook_is_gone_after_an_error(llava):
    given = inputs()
    before = hooks(llava)
    wrong = VLSAE(VLConfig(n_latents=8, k=2), 5, generator=seeded(0))
    guidance = ConceptGuidance(llava, wrong, given, hookpoint=POINT)
    with pytest.raises(ShapeError, match="5"):
        guidance.guided(given["input_ids"])
    assert hooks(llava) == before


def test_padded_on_the_left_it_is_the_same(llava):
    given = inputs()
    ids = given["input_ids"]
    padded = torch.cat([torch.zeros(1, 3, dtype=torch.long), ids], 1)
    mask = torch.cat([torch.zeros(1, 3, dtype=torch.long), torch.ones_like(ids)], 1)
    guidance = ConceptGuidance(llava, small_sae(), given)
    with_pads = ConceptGuidance(llava, small_sae(), {**given, "attention_mask": mask})
    place = (mask.cumsum(1) - 1).clamp_min(0)
    with_pads.inputs["position_ids"] = place
    assert_close(with_pads.guided(padded), guidance.guided(ids), atol=1e-4, rtol=1e-4)


def test_bad_input_is_refused_in_a_sentence(llava):
    given, sae = inputs(2), small_sae()
    guidance = ConceptGuidance(llava, sae, given)
    ids = given["input_ids"].clone()
    ids[1] = 11
    with pytest.raises(DataError, match="sequence 1 has no image position"):
        guidance.guided(ids)
    with pytest.raises(DataError, match="sequence 0 has no text after its image"):
        guidance.guided(given["input_ids"][:, :5])
    bare = small_sae()
    bare.metadata = {}
    with pytest.raises(ParameterError, match="names no hook point"):
        ConceptGuidance(llava, bare, given)
    with pytest.raises(ParameterError, match="no image token"):
        ConceptGuidance(torch.nn.Linear(2, 2), sae, given)
    for wrong, said in (({"alpha": 2}, "alpha"), ({"form": "x"}, "form"), ({"share": -1}, "share")):
        with pytest.raises(ParameterError, match=said):
            ConceptGuidance(llava, sae, given, **wrong)
    with pytest.raises(LayerNotFound):
        ConceptGuidance(llava, sae, given, hookpoint="layers.9").guided(given["input_ids"])
    with pytest.raises(ShapeError, match="2 image means and 1 text means"):
        moved_text_mean(sae, torch.ones(2, WIDTH), torch.ones(1, WIDTH))
