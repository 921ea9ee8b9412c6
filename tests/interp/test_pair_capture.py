"""Capture of pairs against the models' own functions, on tiny random CLIP, SigLIP and LLaVA."""

import json

import numpy as np
import pytest
import torch
import transformers as t
from PIL import Image

import interp
from interp.errors import DataError, LayerNotFound, ModelError, ParameterError, StoreError
from interp.pair_capture import PairCapture
from interp.pairs import read_pairs

SIZE = 16
TOWER = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
         "intermediate_size": 48}  # fmt: skip
VISION = {**TOWER, "image_size": SIZE, "patch_size": 8}
TEXT = {**TOWER, "vocab_size": 100, "max_position_embeddings": 24, "bos_token_id": 1,
        "eos_token_id": 3, "pad_token_id": 0}  # fmt: skip


def reader(image_token=False):
    """Words between a start and an end; a token for the image where it is asked."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = ["<pad>", "<start>", "<unk>", "<end>", *(["<image>"] if image_token else [])]
    words += [f"w{i}" for i in range(60)]
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 1), ("<end>", 3)]
    )
    return t.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<start>", eos_token="<end>",
        unk_token="<unk>", extra_special_tokens=["<image>"] if image_token else [],
    )  # fmt: skip


def processor():
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    size = {"height": SIZE, "width": SIZE}
    return CLIPImageProcessorPil(size={"shortest_edge": SIZE}, crop_size=size)


def build(make, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = make()
        for p in module.parameters():  # so that a mistake shows
            p.data += 0.1 * torch.randn_like(p)
    return interp.load(module.eval(), processor=processor(), **options)


@pytest.fixture(scope="module")
def pairs():
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 255, (20, 30, 3), dtype=np.uint8)) for _ in range(7)]
    texts = [" ".join(f"w{j}" for j in rng.integers(0, 60, n)) for n in (3, 8, 1, 5, 2, 7, 4)]
    return read_pairs(list(zip(images, texts, strict=True)))


@pytest.fixture(scope="module")
def clip():
    config = t.CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=16)
    return build(lambda: t.CLIPModel(config), tokenizer=reader())


@pytest.fixture(scope="module")
def siglip():
    config = t.SiglipConfig(text_config={**TEXT, "projection_size": 32}, vision_config=VISION)
    return build(lambda: t.SiglipModel(config), tokenizer=reader())


@pytest.fixture(scope="module")
def llava():
    config = t.LlavaConfig(
        vision_config=t.CLIPVisionConfig(**VISION),
        text_config=t.LlamaConfig(**{**TEXT, "max_position_embeddings": 64}),
        image_token_index=4,
    )
    return build(lambda: t.LlavaForConditionalGeneration(config), tokenizer=reader(True))


def pixels(pairs):
    return processor()(images=[i for i, _ in pairs.inputs], return_tensors="pt")["pixel_values"]


@torch.no_grad()
def test_clip_gives_its_own_projections(clip, pairs):
    store = interp.capture_pairs(clip, pairs, batch_size=3)
    assert store.hookpoints == ("image_embeds", "text_embeds")
    sides = {k: store.manifest["pairs"][k] for k in ("image", "text")}
    assert sides == {"image": "image_embeds", "text": "text_embeds"}
    module = clip.module
    images = module.get_image_features(pixel_values=pixels(pairs)).pooler_output
    torch.testing.assert_close(store["image_embeds"][:], images, rtol=1e-4, atol=1e-5)
    for row, (_, text) in enumerate(pairs.inputs):  # each alone, so without a pad
        ids = clip.tokenizer([text], return_tensors="pt")["input_ids"]
        alone = module.get_text_features(input_ids=ids).pooler_output[0]
        torch.testing.assert_close(store["text_embeds"][row], alone, rtol=1e-4, atol=1e-5)
    assert store["text_embeds"][:].norm(dim=1).std() > 0.01, "not normalised"
    assert not torch.equal(store["image_embeds"][0], store["image_embeds"][1])


@torch.no_grad()
def test_any_hook_points_of_the_towers(clip, pairs):
    points = ["vision.resid_post.1", "text.resid_post.1"]
    store = interp.capture_pairs(clip, pairs, points, pool=("first", "mean"))
    hidden = clip.module.vision_model(pixels(pairs), output_hidden_states=True).hidden_states
    torch.testing.assert_close(store[points[0]][:], hidden[2][:, 0], rtol=1e-4, atol=1e-5)
    ids = clip.tokenizer([pairs.inputs[2][1]], return_tensors="pt")["input_ids"]
    alone = clip.module.text_model(input_ids=ids, output_hidden_states=True).hidden_states[2]
    torch.testing.assert_close(store[points[1]][2], alone[0].mean(0), rtol=1e-4, atol=1e-5)
    assert store.manifest["pool"] == "first, mean"


@torch.no_grad()
def test_siglip_reads_texts_at_full_length_without_a_mask(siglip, pairs):
    store = interp.capture_pairs(siglip, pairs, batch_size=3)
    texts = [text for _, text in pairs.inputs]
    full = siglip.tokenizer(texts, padding="max_length", max_length=24, return_tensors="pt")
    theirs = siglip.module.get_text_features(input_ids=full["input_ids"]).pooler_output
    torch.testing.assert_close(store["text_embeds"][:], theirs, rtol=1e-4, atol=1e-5)
    short = siglip.tokenizer(texts, padding=True, return_tensors="pt")["input_ids"]
    other = siglip.module.get_text_features(input_ids=short).pooler_output
    assert not torch.allclose(theirs, other, atol=1e-2), "padding matters here"
    images = siglip.module.get_image_features(pixel_values=pixels(pairs)).pooler_output
    torch.testing.assert_close(store["image_embeds"][:], images, rtol=1e-4, atol=1e-5)
    interp.capture_pairs(siglip, pairs, ["vision.resid_post.1", "text.resid_post.1"])


@torch.no_grad()
def test_llava_gives_means_over_image_tokens_and_the_text_after_them(llava, pairs):
    store = interp.capture_pairs(llava, pairs, "text.resid_pre.1", batch_size=3)
    names = ("text.resid_pre.1@image", "text.resid_pre.1@text")
    assert store.hookpoints == names
    x = pixels(pairs)
    for row, (_, text) in enumerate(pairs.inputs):
        ids = llava.tokenizer([f"<image> {text}"])["input_ids"][0]
        ids = [i for i in ids for _ in range(4 if i == 4 else 1)]  # four patches
        out = llava.module(input_ids=torch.tensor([ids]), pixel_values=x[row : row + 1],
                           output_hidden_states=True).hidden_states[1][0]  # fmt: skip
        at = torch.tensor(ids) == 4
        last = int(at.nonzero().max())
        torch.testing.assert_close(store[names[0]][row], out[at].mean(0), rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(
            store[names[1]][row], out[last + 1 :].mean(0), rtol=1e-3, atol=1e-4
        )
        assert not torch.allclose(store[names[1]][row], out[~at].mean(0), atol=1e-3)


def test_llava_refuses_what_it_cannot_read(llava, clip, pairs):
    for points in (None, ["text.resid_pre.0", "text.resid_pre.1"], "text.resid_pre.*"):
        with pytest.raises(LayerNotFound, match="need one hook point"):
            PairCapture(llava, pairs, points)
    with pytest.raises(LayerNotFound, match="sees no text"):
        PairCapture(llava, pairs, "vision.resid_pre.0")
    with pytest.raises(ParameterError, match="must hold <image>"):
        PairCapture(llava, pairs, "text.resid_pre.0", prompt="{text} <image>")
    with pytest.raises(ParameterError, match="means over image and text"):
        PairCapture(llava, pairs, "text.resid_pre.0", pool="last")
    with pytest.raises(ParameterError, match="prompt is for a decoder"):
        PairCapture(clip, pairs, prompt="<image> {text}")
    twice = read_pairs([*pairs.inputs[:2], (pairs.inputs[0][0], "w1 <image> w2")])
    with pytest.raises(DataError, match="row 2 of pairs has 2 image tokens"):
        PairCapture(llava, twice, "text.resid_pre.0")
    long = read_pairs([*pairs.inputs[:1], (pairs.inputs[0][0], "w1 " * 60)])
    with pytest.raises(DataError, match=r"row 1 of pairs has 6\d tokens.* takes 64"):
        PairCapture(llava, long, "text.resid_pre.0")
    cut = PairCapture(llava, long, "text.resid_pre.0", max_length=20)
    assert max(cut.feed.lengths) == 23


def test_any_two_models(tiny, tokenizer, pairs):
    images = interp.load(tiny("vit"), processor=processor())
    texts = interp.load(tiny("bert"), tokenizer=tokenizer())
    store = interp.capture_pairs(
        images, pairs, ["resid_post.1", "resid_post.2"], text_model=texts, pool=("first", "mean")
    )
    alone = interp.capture(texts, [text for _, text in pairs.inputs], "resid_post.2", pool="mean")
    torch.testing.assert_close(store["resid_post.2"][:], alone["resid_post.2"][:])
    same = interp.capture_pairs(images, pairs, ["resid_post.1"] * 2, text_model=texts)
    assert same.hookpoints == ("resid_post.1@image", "resid_post.1@text")
    with pytest.raises(ModelError, match="has no image processor"):
        interp.capture_pairs(tiny("vit"), pairs, ["resid_post.1"] * 2, text_model=texts)


def test_single_captures_know_the_two_vectors(clip, pairs):
    both = interp.capture_pairs(clip, pairs)
    texts = [text for _, text in pairs.inputs]
    alone = interp.capture(clip, texts, "text_embeds")["text_embeds"][:]
    torch.testing.assert_close(alone, both["text_embeds"][:], rtol=1e-4, atol=1e-5)
    assert {"image_embeds", "text_embeds"} <= set(clip.hookpoints()["alias"])
    with pytest.raises(DataError, match="interp.capture_pairs"):
        interp.capture(clip, pairs, "text_embeds")


def test_wrong_hook_points_and_pools_are_refused(clip, pairs, tiny):
    with pytest.raises(LayerNotFound, match="two hook points"):
        PairCapture(clip, pairs, "image_embeds")
    with pytest.raises(LayerNotFound, match="means 3 hook points"):
        PairCapture(clip, pairs, ["vision.resid_post.*", "text_embeds"])
    with pytest.raises(DataError, match="reads images, and the data is text"):
        PairCapture(clip, pairs, ["text_embeds", "image_embeds"])
    for pool in ("all", "median", ("mean",), ("mean", "all")):
        with pytest.raises(ParameterError, match="pool of pairs must be"):
            PairCapture(clip, pairs, pool=pool)
    with pytest.raises(LayerNotFound, match="no hook point matches 'image_embeds'"):
        PairCapture(interp.load(tiny("vit"), processor=processor()), pairs)


def test_a_long_text_is_named_and_can_be_cut(clip, pairs):
    long = read_pairs([*pairs.inputs[:2], (pairs.inputs[2][0], "w1 " * 40)])
    with pytest.raises(DataError, match=r"row 2 of pairs has 42 tokens .* takes 24"):
        interp.capture_pairs(clip, long)
    store = interp.capture_pairs(clip, long, max_length=24)
    assert len(store["text_embeds"]) == 3


def test_a_capture_resumes_bit_for_bit_and_refuses_another(clip, pairs, tmp_path, monkeypatch):
    monkeypatch.setattr("interp.planning.SHARD_ROWS", 3)
    whole = interp.capture_pairs(clip, pairs, out=tmp_path / "whole")
    assert len(list((tmp_path / "whole").glob("shard-*"))) == 3
    path = tmp_path / "part"

    def stop(done, total, what):
        if done > 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interp.capture_pairs(clip, pairs, out=path, progress=stop)
    with pytest.raises(StoreError, match="already holds a store"):
        interp.capture_pairs(clip, pairs, out=path)
    again = interp.capture_pairs(clip, pairs, out=path, resume=True)
    for name in whole.hookpoints:
        assert torch.equal(again[name][:], whole[name][:])
    with pytest.raises(StoreError, match="another model, data or setting"):
        interp.capture_pairs(clip, pairs, ["vision.resid_post.1", "text_embeds"], out=path,
                             resume=True)  # fmt: skip
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["pairs"]["text"] == "text_embeds"


def test_a_plan_writes_nothing(clip, pairs, tmp_path):
    plan = PairCapture(clip, pairs).plan()
    assert (plan.rows, plan.bytes) == (7, 7 * 2 * 16 * 4) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["clip", "siglip", "llava"])
def test_what_is_captured_trains_and_gives_concepts(request, pairs, name):
    import saes

    model = request.getfixturevalue(name)
    points = "text.resid_pre.1" if name == "llava" else None
    store = interp.capture_pairs(model, pairs, points)
    sides = store.manifest["pairs"]
    both = (store[sides["image"]], store[sides["text"]])
    config = saes.VLConfig(n_latents=6, k=2)
    sae = saes.train(both, config, steps=3, batch_size=7, backend="eager")
    found = saes.concepts(sae, store, pairs, top=2)
    assert found.n == 7 and found.image_fires.sum() == found.text_fires.sum() == 14
    assert found.names == {}, "seven texts of random words name nothing"
    explained = saes.explain(sae, found, image=both[0][0], text=both[1][0])
    assert explained.of == "pair" and (explained.scores > 0).all()
    if name == "llava":  # what was learnt at NAME@image and NAME@text guides the model at NAME
        sae.metadata["hookpoints"] = sides
        ids = torch.tensor([[model.config.image_token_id] * 4 + [5, 6]])
        given = {"pixel_values": pixels(pairs)[:1]}
        guidance = saes.ConceptGuidance(model, sae, given)
        assert guidance.hookpoint == points
        moved, plain = guidance.guided(ids), model.module(input_ids=ids, **given).logits[:, -1]
        assert moved.shape == plain.shape and not torch.equal(moved, plain)
