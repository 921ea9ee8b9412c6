"""Capture: the right numbers in the right rows, nothing else computed, nothing half-written."""

import copy
import gc
import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import interp
from interp import capturing, planning
from interp.errors import (
    DataError,
    LayerNotFound,
    ModelError,
    ParameterError,
    ShapeError,
    StoreError,
)


def load(tiny, tokenizer, name="gpt2", side="right"):
    return interp.load(tiny(name), tokenizer=tokenizer(side))


def alone(model, text):
    """Hidden states of a text run alone, straight from the Hugging Face model: [t, width] each,
    the last one before the final norm."""
    ids = torch.tensor([model.tokenizer(text)["input_ids"]])
    last = {}
    norms = ("final_norm",) if model.points.stacks[0].final_norm else ()
    with torch.no_grad():
        if norms:
            norm = model.module.get_submodule(model.points.stacks[0].final_norm.module)
            handle = norm.register_forward_pre_hook(lambda m, a: last.update(x=a[0]))
        states = model.module(input_ids=ids, output_hidden_states=True).hidden_states
        if norms:
            handle.remove()
    return [*(s[0] for s in states[:-1]), (last["x"] if norms else states[-1])[0]]


REDUCE = {
    "last": lambda x: x[-1],
    "first": lambda x: x[0],
    "mean": lambda x: x.mean(0),
    "max": lambda x: x.amax(0),
}


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("batch_size", [1, 16])
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "opt", "bert", "roberta"])
def test_rows_equal_each_text_alone(tiny, tokenizer, texts, name, batch_size, side):
    model = load(tiny, tokenizer, name, side)
    store = interp.capture(model, texts, ["embed", "resid_post.*"], batch_size=batch_size)
    assert store.hookpoints == ("embed", "resid_post.0", "resid_post.1", "resid_post.2")
    for i, text in enumerate(texts):
        states = alone(model, text)
        for held, hookpoint in zip(states, store.hookpoints, strict=True):
            torch.testing.assert_close(store[hookpoint][i], held[-1], atol=1e-5, rtol=1e-5)
    first = store["resid_post.2"]
    assert not torch.allclose(first[0], first[1], atol=1e-3)


@pytest.mark.parametrize("how", list(REDUCE))
@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_each_pool_over_the_real_positions(tiny, tokenizer, texts, name, how):
    model = load(tiny, tokenizer, name)
    store = interp.capture(model, texts, "resid_post.1", pool=how, batch_size=5)
    for i, text in enumerate(texts):
        by_hand = REDUCE[how](alone(model, text)[2])
        torch.testing.assert_close(store["resid_post.1"][i], by_hand, atol=1e-5, rtol=1e-5)


def test_all_positions_have_a_table(tiny, tokenizer, texts):
    model = load(tiny, tokenizer)
    frame = pd.DataFrame({"text": texts, "label": range(12)})
    store = interp.capture(model, frame, ["resid_post.*", "head_out.1"], pool="all", batch_size=4)
    lengths = [len(t.split()) for t in texts]
    assert len(store["resid_post.0"]) == sum(lengths) == len(store.rows)
    assert store["head_out.1"].shape == (sum(lengths), 4, 8)
    assert list(store.rows.columns) == ["document", "position", "text", "label"]
    assert store.rows["document"].tolist() == [i for i, n in enumerate(lengths) for _ in range(n)]
    assert store.rows["position"].tolist() == [p for n in lengths for p in range(n)]
    assert store.rows["label"].tolist() == store.rows["document"].tolist()
    start = 0
    for text, n in zip(texts, lengths, strict=True):
        rows = store["resid_post.0"][start : start + n]
        torch.testing.assert_close(rows, alone(model, text)[1], atol=1e-5, rtol=1e-5)
        start += n


@pytest.mark.parametrize("how", ["last", "all"])
def test_an_mlp_that_runs_on_flat_tokens_is_told_apart_by_row(tiny, tokenizer, texts, how):
    """OPT's MLP sees [b * t, width]."""
    model = load(tiny, tokenizer, "opt")
    store = interp.capture(model, texts, ["mlp_act.1", "mlp_out.1"], pool=how, batch_size=5)
    start = 0
    for i, text in enumerate(texts):
        _, acts = interp.run_with_cache(model, text, ["mlp_act.1", "mlp_out.1"])
        n = len(text.split())
        for name in acts:
            by_hand = acts[name].reshape(n, -1)
            got = store[name][start : start + n] if how == "all" else store[name][i][None]
            torch.testing.assert_close(got, by_hand[-len(got) :], atol=1e-5, rtol=1e-5)
        start += n


def test_a_store_on_disk_is_the_one_in_memory(tiny, tokenizer, texts, tmp_path, monkeypatch):
    monkeypatch.setattr(planning, "SHARD_ROWS", 5)
    model = load(tiny, tokenizer)
    for how in ("last", "all"):
        kept = interp.capture(model, texts, ["embed", "head_out.*"], pool=how, batch_size=2)
        disk = interp.capture(
            model, texts, ["embed", "head_out.*"], pool=how, batch_size=2, out=tmp_path / how
        )
        assert len(list((tmp_path / how).glob("shard-*.safetensors"))) == 3
        assert disk.hookpoints == kept.hookpoints
        for name in kept.hookpoints:
            assert torch.equal(disk[name][:], kept[name][:])
        pd.testing.assert_frame_equal(disk.rows, kept.rows)


def test_nothing_after_the_last_hook_point_runs(tiny, tokenizer, texts):
    model = load(tiny, tokenizer)
    calls = {"before": 0, "after": 0}
    blocks = model.module.transformer.h
    blocks[1].register_forward_hook(lambda *a: calls.update(before=calls["before"] + 1))
    blocks[2].register_forward_pre_hook(lambda *a: calls.update(after=calls["after"] + 1))
    interp.capture(model, texts, "resid_post.1", batch_size=4)
    whole = calls["after"]  # the first forward looks at the whole model, once
    assert whole <= 1
    assert calls["before"] >= 4
    interp.capture(model, texts, ["resid_post.0", "resid_post.2"], batch_size=4)
    assert calls["after"] >= 4 + whole  # the arm that must run it


def test_the_model_is_its_old_self_afterwards(tiny, tokenizer, texts):
    model = load(tiny, tokenizer)
    module = model.module
    module.train()
    module.transformer.h[1].eval()
    before = {n: m.training for n, m in module.named_modules()}
    inside = []
    module.transformer.h[0].register_forward_hook(lambda m, a, o: inside.append(m.training))
    interp.capture(model, texts, "resid_post.0")
    assert inside and not any(inside)
    assert {n: m.training for n, m in module.named_modules()} == before
    module.eval()
    ids = torch.arange(2, 9)[None]
    assert len(module(ids, output_hidden_states=True).hidden_states) == 4  # after an early stop


def hooks_of(module):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())


def test_hooks_are_gone_after_a_failure(tiny, tokenizer, texts):
    model = load(tiny, tokenizer)
    before = hooks_of(model.module)

    def stop(done, total, what):
        assert hooks_of(model.module) > before
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interp.capture(model, texts, "resid_post.*", batch_size=2, progress=stop)
    assert hooks_of(model.module) == before


def test_many_captures_leave_no_hook_and_flat_memory(tiny, tokenizer, texts):
    model = load(tiny, tokenizer)
    before = hooks_of(model.module)

    kept = []

    def some(n, keep=False):
        for _ in range(n):
            store = interp.capture(model, texts[:3], "resid_post.0", batch_size=3)
            kept.extend([store] if keep else [])
        gc.collect()

    some(20)
    tracemalloc.start()
    some(20)
    early = tracemalloc.get_traced_memory()[0]
    some(160)
    late = tracemalloc.get_traced_memory()[0]
    some(20, keep=True)
    leaking = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert hooks_of(model.module) == before
    assert len(model.certificates) == 1
    assert late - early < 8 * (leaking - late) / 20  # eight stores' worth, after 160 of them


# -- batch invariance ----------------------------------------------------------------------------


class Lookup(nn.Module):
    """An embedding and one layer; ``leak`` adds the mean over the batch to every row."""

    def __init__(self, leak=0.0):
        super().__init__()
        torch.nn.init.orthogonal_(weight := torch.empty(100, 8))
        self.table = nn.Embedding(100, 8)
        self.table.weight.data = weight
        self.leaky = nn.Identity()
        self.leak = leak

    def forward(self, input_ids, attention_mask=None):
        x = self.table(input_ids)
        return self.leaky(x + self.leak * x.mean((0, 1)))


@pytest.mark.parametrize("how", ["last", "mean"])
def test_a_model_that_mixes_the_batch_is_refused_by_name(tokenizer, texts, how):
    sound = interp.load(Lookup(), tokenizer=tokenizer())
    assert len(interp.capture(sound, texts, "leaky", pool=how)["leaky"]) == 12
    leaking = interp.load(Lookup(leak=0.3), tokenizer=tokenizer())
    with pytest.raises(ModelError, match=r"leaky differs .*batch_size=1"):
        interp.capture(leaking, texts, ["table", "leaky"], pool=how)
    assert len(interp.capture(leaking, texts, "leaky", pool=how, batch_size=1)["leaky"]) == 12


def test_an_encoder_that_ignores_the_mask_is_refused(tiny, tokenizer, texts):
    class Maskless(nn.Module):
        def __init__(self, inner, ignore):
            super().__init__()
            self.inner, self.ignore, self.config = inner, ignore, inner.config

        def forward(self, input_ids, attention_mask):
            mask = torch.ones_like(attention_mask) if self.ignore else attention_mask
            return self.inner(input_ids, attention_mask=mask)

    sound = interp.load(Maskless(tiny("bert"), False), tokenizer=tokenizer())
    interp.capture(sound, texts, "resid_post.*")
    deaf = interp.load(Maskless(tiny("bert"), True), tokenizer=tokenizer())
    interp.capture(deaf, ["w3 w4", "w5 w6", "w7 w8"], "resid_post.*")  # no pads: nothing to see
    with pytest.raises(ModelError, match="resid_post.0 differs"):
        interp.capture(deaf, texts, "resid_post.*")


def test_one_text_certifies_nothing(tokenizer, texts):
    leaking = interp.load(Lookup(leak=0.3), tokenizer=tokenizer())
    interp.capture(leaking, texts[:1], "leaky")
    with pytest.raises(ModelError, match="leaky differs"):
        interp.capture(leaking, texts, "leaky")


# -- what cannot be captured ---------------------------------------------------------------------


class Poisoned(nn.Module):
    """Gives NaN where a row holds the token 13."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(100, 8)
        self.second = nn.Identity()

    def forward(self, input_ids, attention_mask=None):
        x = self.table(input_ids)
        bad = (input_ids == 13)[..., None]
        return self.second(x.masked_fill(bad, float("nan")))


@pytest.mark.parametrize("how", ["last", "mean", "all"])
@pytest.mark.parametrize("batch_size", [1, 16])
def test_nan_is_named_by_row_and_hook_point(tokenizer, texts, how, batch_size):
    model = interp.load(Poisoned(), tokenizer=tokenizer())
    data = [t.replace("w13", "w14") for t in texts]
    interp.capture(model, data, ["table", "second"], pool=how, batch_size=batch_size)
    data[7] = "w4 w13"
    with pytest.raises(DataError, match=r"row 7 of data gives NaN or infinity at second"):
        interp.capture(model, data, ["table", "second"], pool=how, batch_size=batch_size)


def test_nan_in_a_pad_is_no_matter(tokenizer):
    model = Poisoned()
    model.table.weight.data[0] = float("nan")
    loaded = interp.load(model, tokenizer=tokenizer())
    for how in ("last", "mean", "max", "all"):
        store = interp.capture(loaded, ["w3", "w4 w5 w6"], "second", pool=how, batch_size=2)
        assert bool(torch.isfinite(store["second"][:]).all())


def test_overflow_in_a_narrow_store_is_named(tokenizer):
    model = Poisoned()
    model.table.weight.data[5] = 1e6
    loaded = interp.load(model, tokenizer=tokenizer())
    assert float(interp.capture(loaded, ["w3", "w5"], "second")["second"][1, 0]) == 1e6
    with pytest.raises(DataError, match=r"row 1 .*second in float16; use float32 or bfloat16"):
        interp.capture(loaded, ["w3", "w5"], "second", dtype="float16")


def test_a_hook_point_that_never_fires_is_named(tiny, tokenizer, texts):
    class Idle(Lookup):
        def __init__(self):
            super().__init__()
            self.unused = nn.Linear(2, 2)

    model = interp.load(Idle(), tokenizer=tokenizer())
    with pytest.raises(LayerNotFound, match="unused never fired"):
        interp.capture(model, texts, ["leaky", "unused"])
    with pytest.raises(LayerNotFound, match="unused never fired"):
        interp.run_with_cache(model, texts, ["leaky", "unused"])


def test_a_shared_module_has_no_one_activation(tiny, tokenizer, texts):
    model = load(tiny, tokenizer, "albert")
    with pytest.raises(LayerNotFound, match=r"albert_layers.0.ffn fires 3 times"):
        interp.capture(model, texts, "**.ffn")


@pytest.mark.parametrize(
    ("data", "options", "error", "says"),
    [
        (["w3", " ".join(["w4"] * 65)], {}, DataError, r"row 1 of data has 65 tokens.*takes 64"),
        (["w3", ""], {}, DataError, "row 1 of data has no token"),
        (["w3", None], {}, DataError, "data must be"),
        ([], {}, DataError, "no rows"),
        (["w3"], {"pool": "median"}, ParameterError, "last, first, mean, weighted_mean, max, all"),
        (["w3"], {"batch_size": 0}, ParameterError, "at least 1"),
        (["w3"], {"dtype": "int8"}, ParameterError, "float16, bfloat16"),
        (["w3"], {"max_length": 65}, ParameterError, "at most 64"),
        (["w3"], {"max_length": 0}, ParameterError, "max_length must be"),
        (["w3"], {"label_column": "y"}, ParameterError, "no label column 'y'"),
    ],
)
def test_bad_input_is_one_sentence(tiny, tokenizer, data, options, error, says):
    with pytest.raises(error, match=says) as caught:
        interp.capture(load(tiny, tokenizer), data, "resid_post.0", **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["vit", "clip"])
def test_a_forward_that_cannot_read_the_data_is_a_model_error(tiny, tokenizer, texts, name):
    model = load(tiny, tokenizer, name)
    point = "resid_post.0" if name == "vit" else "text_model.encoder.layers.0"
    with pytest.raises(ModelError, match=r"the forward of \w+ fails on data \(text\)") as caught:
        interp.capture(model, texts, point)
    assert "\n" not in str(caught.value) and caught.value.__cause__ is not None


def test_max_length_keeps_the_first_tokens(tiny, tokenizer):
    model = load(tiny, tokenizer)
    text = " ".join(f"w{i}" for i in range(2, 92))
    store = interp.capture(model, [text, "w3"], "resid_post.1", max_length=64)
    by_hand = alone(model, " ".join(text.split()[:64]))[2][-1]
    torch.testing.assert_close(store["resid_post.1"][0], by_hand, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("name", "limit"), [("opt", 64), ("roberta", 62), ("gpt2", 64)])
def test_the_longest_text_a_model_takes(tiny, tokenizer, name, limit):
    model = load(tiny, tokenizer, name)
    assert model.max_length == limit
    text = " ".join(["w5"] * limit)
    interp.capture(model, [text], "resid_post.0")
    with pytest.raises(DataError, match=f"takes {limit}"):
        interp.capture(model, [text + " w5"], "resid_post.0")
    with pytest.raises((IndexError, RuntimeError)):  # one more and the model itself fails
        ids = torch.full((1, limit + 1), 5)
        model.module(ids, attention_mask=torch.ones_like(ids))


def test_token_ids_are_no_activation(tiny, tokenizer, texts):
    with pytest.raises((ShapeError, LayerNotFound), match="transformer.wte:in"):
        interp.capture(load(tiny, tokenizer), texts, "transformer.wte:in")


def test_a_module_without_attention_mask_reads_text(tokenizer, texts):
    class Plain(Lookup):
        def forward(self, input_ids):
            return super().forward(input_ids)

    model = interp.load(Plain(), tokenizer=tokenizer())
    store = interp.capture(model, texts, "leaky")
    ids = [int(t.split()[-1][1:]) for t in texts]
    torch.testing.assert_close(store["leaky"][:], model.module.table.weight[ids].detach())


# -- images and tensors --------------------------------------------------------------------------


def cnn():
    with torch.random.fork_rng():
        torch.manual_seed(0)  # a position whose channels all cancel out is no fair judge of batches
        return nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(4, 5, 3, stride=2, padding=1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(5, 2),
        )


def test_positions_of_a_feature_map_are_its_tokens():
    model = cnn()
    x = torch.randn(7, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        first = model[:2](x)
        second = model[2](first)
        out = model(x)
    mean = interp.capture(model, x, ["1", "2", "5"], pool="mean", batch_size=3)
    torch.testing.assert_close(mean["1"][:], first.mean((2, 3)), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(mean["5"][:], out, atol=1e-6, rtol=1e-5)
    largest = interp.capture(model, x, ["2"], pool="max", batch_size=3)
    torch.testing.assert_close(largest["2"][:], second.amax((2, 3)))
    every = interp.capture(model, x, ["1", "2"], pool="all", batch_size=3)
    assert every["1"].shape == (7 * 36, 4)
    assert every["2"].shape == (7 * 9, 5)
    torch.testing.assert_close(every["2"][:], second.flatten(2).transpose(1, 2).flatten(0, 1))
    assert every.rows_of("2")["position"].tolist() == [*range(9)] * 7
    assert every.rows_of("1")["document"].tolist() == [i for i in range(7) for _ in range(36)]
    with pytest.raises(StoreError, match="rows_of"):
        _ = every.rows
    for how in ("last", "first", "weighted_mean"):
        with pytest.raises(ParameterError, match=f"1 is a feature map .* no order, as {how} needs"):
            interp.capture(model, x, "1", pool=how)


def test_batch_norm_in_a_training_model_is_frozen():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train()
    x = torch.randn(6, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    interp.capture(model, x, "1", pool="mean", batch_size=2)
    assert model.training and int(model[1].num_batches_tracked) == 0


def test_raw_images_are_refused_with_the_way_on():
    raw = torch.randint(0, 255, (4, 3, 6, 6), dtype=torch.uint8)
    with pytest.raises(DataError, match=r"raw uint8 images; normalise"):
        interp.capture(cnn(), raw, "1", pool="mean")


def test_a_vit_takes_a_tensor_of_pixels(tiny):
    model = tiny("vit")
    x = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        states = model(pixel_values=x, output_hidden_states=True).hidden_states
    store = interp.capture(model, x, "resid_post.0", pool="first", batch_size=2)
    torch.testing.assert_close(store["resid_post.0"][:], states[1][:, 0], atol=1e-5, rtol=1e-5)
    whole = interp.capture(model, x, "resid_post.0", pool="all", batch_size=2)
    torch.testing.assert_close(
        whole["resid_post.0"][:], states[1].flatten(0, 1), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("prefix", ["text", "vision"])
def test_a_tower_of_clip_runs_alone(tiny, tokenizer, texts, prefix):
    model = load(tiny, tokenizer, "clip")
    x = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    name = f"{prefix}.resid_post.1"
    store = interp.capture(model, texts if prefix == "text" else x, name, pool="mean")
    with torch.no_grad():
        if prefix == "vision":
            out = model.module.vision_model(pixel_values=x, output_hidden_states=True)
            by_hand = out.hidden_states[2].mean(1)
        else:
            rows = [torch.tensor([model.tokenizer(t)["input_ids"]]) for t in texts]
            outs = [model.module.text_model(input_ids=r, output_hidden_states=True) for r in rows]
            by_hand = torch.stack([o.hidden_states[2][0].mean(0) for o in outs])
    torch.testing.assert_close(store[name][:], by_hand, atol=1e-5, rtol=1e-5)
    if prefix == "text":
        with pytest.raises(DataError, match="reads images"):
            interp.capture(model, texts, "vision.resid_post.0")


def test_the_encoder_of_t5_runs_alone(tiny, tokenizer, texts):
    model = load(tiny, tokenizer, "t5")
    store = interp.capture(model, texts, "encoder.resid_post.1", pool="mean")
    for i, text in enumerate(texts):
        ids = torch.tensor([model.tokenizer(text)["input_ids"]])
        with torch.no_grad():
            out = model.module.encoder(ids, output_hidden_states=True)
        by_hand = out.hidden_states[2][0].mean(0)
        got = store["encoder.resid_post.1"][i]
        torch.testing.assert_close(got, by_hand, atol=1e-5, rtol=1e-5)


# -- killed and resumed --------------------------------------------------------------------------

CAPTURE = """
import os, signal, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
import interp
from interp import planning
planning.SHARD_ROWS = 3
def progress(done, total, what):
    if done >= 9 and len(sys.argv) > 4:
        while not Path(sys.argv[3], "shard-00001.safetensors").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
interp.capture(sys.argv[1], sys.argv[2], ["resid_post.*"], batch_size=2, out=sys.argv[3],
    progress=progress)
"""


def content(path):
    return {p.name: p.read_bytes() for p in sorted(path.iterdir())}


def test_a_stopped_capture_resumes_bit_for_bit(tiny, tokenizer, texts, tmp_path, monkeypatch):
    monkeypatch.setattr(planning, "SHARD_ROWS", 3)
    model = load(tiny, tokenizer)
    frame = pd.DataFrame({"text": texts, "label": [0, 1] * 6})
    options = {"pool": "all", "batch_size": 2}
    interp.capture(model, frame, "resid_post.*", out=tmp_path / "whole", **options)

    def stop(done, total, what):
        if done >= 7:
            raise KeyboardInterrupt

    out = tmp_path / "cut"
    with pytest.raises(KeyboardInterrupt):
        interp.capture(model, frame, "resid_post.*", out=out, progress=stop, **options)
    assert len(json.loads((out / "manifest.json").read_text())["shards"]) < 4
    with pytest.raises(StoreError, match="not complete.*--resume"):
        interp.ActivationStore.open(out)
    with pytest.raises(StoreError, match="already holds a store.*--resume.*--force"):
        interp.capture(model, frame, "resid_post.*", out=out, **options)
    for changed in (
        {"pool": "mean"},
        {"dtype": "float64"},
        {"max_length": 5},
    ):
        with pytest.raises(StoreError, match="another model, data or setting"):
            interp.capture(
                model, frame, "resid_post.*", out=out, resume=True, **{**options, **changed}
            )
    with pytest.raises(StoreError, match="another model, data or setting"):
        interp.capture(model, frame[:11], "resid_post.*", out=out, resume=True, **options)
    found = []
    interp.capture(
        model,
        frame,
        "resid_post.*",
        pool="all",
        batch_size=7,  # the batches of the first start hold
        out=out,
        resume=True,
        progress=lambda d, n, what: found.append(what),
    )
    assert found.count("found") == 2  # the two whole shards are not computed again
    assert content(out) == content(tmp_path / "whole")


def test_a_killed_capture_resumes_bit_for_bit(folder, texts, tmp_path, monkeypatch):
    monkeypatch.setattr(planning, "SHARD_ROWS", 3)
    data = tmp_path / "data.txt"
    data.write_text("\n".join(texts))
    out = tmp_path / "cut"
    arguments = [sys.executable, "-c", CAPTURE, str(folder("gpt2")), str(data), str(out), "kill"]
    killed = subprocess.run(arguments, capture_output=True, text=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    (out / ".shard-00002.safetensors.99.tmp").write_bytes(b"half")
    options = {"hookpoints": ["resid_post.*"], "batch_size": 2}
    interp.capture(str(folder("gpt2")), data, out=out, resume=True, **options)
    interp.capture(str(folder("gpt2")), data, out=tmp_path / "whole", **options)
    assert content(out) == content(tmp_path / "whole")


def test_a_kill_before_the_rows_are_written_resumes(tiny, tokenizer, texts, tmp_path):
    model = load(tiny, tokenizer)
    interp.capture(model, texts, "resid_post.0", out=tmp_path / "a")
    for lost in ("rows.parquet", "manifest.json"):
        (tmp_path / "a" / lost).rename(tmp_path / lost)
        if lost == "manifest.json":
            for shard in (tmp_path / "a").glob("shard*"):
                shard.unlink()
            (tmp_path / "a" / "rows.parquet").unlink()
            (tmp_path / "a" / ".manifest.json.7.tmp").write_text("{")
        store = interp.capture(model, texts, "resid_post.0", out=tmp_path / "a", resume=True)
        assert store.rows["text"].tolist() == texts
        assert (tmp_path / "a" / lost).read_bytes() == (tmp_path / lost).read_bytes()


def test_a_damaged_shard_is_found_and_captured_again(tiny, tokenizer, texts, tmp_path, monkeypatch):
    monkeypatch.setattr(planning, "SHARD_ROWS", 3)
    model = load(tiny, tokenizer)
    interp.capture(model, texts, "resid_post.*", out=tmp_path / "a")
    whole = content(tmp_path / "a")
    shard = tmp_path / "a" / "shard-00002.safetensors"
    data = bytearray(shard.read_bytes())
    data[-3] ^= 1
    shard.write_bytes(data)
    interp.capture(model, texts, "resid_post.*", out=tmp_path / "a", resume=True)
    assert content(tmp_path / "a") == whole
    shard.unlink()
    with pytest.raises(StoreError, match="lacks shard-00002"):
        interp.ActivationStore.open(tmp_path / "a")
    interp.capture(model, texts, "resid_post.*", out=tmp_path / "a", resume=True)
    assert content(tmp_path / "a") == whole


def test_force_replaces_a_store_and_spares_other_folders(tiny, tokenizer, texts, tmp_path):
    model = load(tiny, tokenizer)
    interp.capture(model, texts, "resid_post.*", out=tmp_path / "a")
    store = interp.capture(model, texts[:4], "resid_post.1", out=tmp_path / "a", force=True)
    assert store.hookpoints == ("resid_post.1",) and len(store["resid_post.1"]) == 4
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.txt").write_text("mine")
    with pytest.raises(StoreError, match="no activation store"):
        interp.capture(model, texts, "resid_post.*", out=tmp_path / "b", force=True)
    assert (tmp_path / "b" / "thesis.txt").read_text() == "mine"
    with pytest.raises(StoreError, match="is a file"):
        interp.capture(model, texts, "resid_post.*", out=tmp_path / "b" / "thesis.txt")


def test_no_space_left_is_a_sentence_and_resumable(tiny, tokenizer, texts, tmp_path, monkeypatch):
    monkeypatch.setattr(planning, "SHARD_ROWS", 3)
    model = load(tiny, tokenizer)
    interp.capture(model, texts, "resid_post.*", out=tmp_path / "whole")
    real, count = os.fsync, iter(range(99))

    def full(handle):
        if next(count) >= 5:
            raise OSError(28, "No space left on device")
        real(handle)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(StoreError, match="cannot write .*No space left on device"):
            interp.capture(model, texts, "resid_post.*", out=tmp_path / "a")
    assert not list((tmp_path / "a").glob(".*"))
    interp.capture(model, texts, "resid_post.*", out=tmp_path / "a", resume=True)
    assert content(tmp_path / "a") == content(tmp_path / "whole")


def test_the_key_is_what_changes_the_numbers(tiny, tokenizer, texts):
    model = load(tiny, tokenizer)

    def key(data=texts, hookpoints="resid_post.0", model=model, **options):
        return interp.capture(model, data, hookpoints, **options).manifest["key"]

    same = key()
    assert key(batch_size=3) == same
    assert key(data=list(texts)) == same
    assert key(model=load(tiny, tokenizer)) == same
    other = load(tiny, tokenizer)
    other.module.transformer.h[0].mlp.c_fc.weight.data[0, 0] += 1
    different = [
        key(data=texts[::-1]),
        key(hookpoints="resid_post.1"),
        key(pool="mean"),
        key(dtype="float64"),
        key(max_length=5),
        key(model=other),
        key(model=load(tiny, tokenizer, "llama")),
    ]
    assert len({same, *different}) == 8


def test_the_plan_counts_rows_positions_and_bytes(tiny, tokenizer, texts):
    lengths = [len(t.split()) for t in texts]
    work = capturing.Capture(load(tiny, tokenizer), texts, ["resid_post.*", "mlp_act.0"])
    plan = work.plan()
    assert (plan.rows, plan.tokens, plan.shards) == (12, sum(lengths), 1)
    assert plan.bytes == 12 * 4 * (3 * 32 + 48)
    work = capturing.Capture(load(tiny, tokenizer), texts, ["resid_post.0"], "all", None, "float16")
    assert work.plan().bytes == sum(lengths) * 2 * 32
    assert plan.seconds > 0


def test_a_batch_holds_its_tokens_and_the_longest_come_first(tiny, tokenizer, texts):
    work = capturing.Capture(load(tiny, tokenizer), texts, "resid_post.0", "last", 5)
    batches = list(work.batches(0, 12))
    assert sorted(i for b in batches for i in b) == [*range(12)]
    lengths = [work.feed.lengths[i] for b in batches for i in b]
    assert lengths == sorted(lengths, reverse=True)
    assert [len(b) for b in batches] == [5, 5, 2]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_model_in_half_precision_gives_rows_in_it(tiny, tokenizer, texts, tmp_path, dtype):
    model = interp.load(tiny("llama"), tokenizer=tokenizer(), dtype=dtype)
    store = interp.capture(model, texts, "resid_post.1", out=tmp_path / "a", batch_size=4)
    assert str(store["resid_post.1"].dtype) == f"torch.{dtype}"
    exact = interp.capture(
        interp.load(tiny("llama"), tokenizer=tokenizer()), texts, "resid_post.1"
    )["resid_post.1"][:]
    found = store["resid_post.1"][:].float()
    assert float((found - exact).norm() / exact.norm()) < 0.05
    assert np.asarray(store["resid_post.1"]).shape == (12, 32)


@pytest.mark.real
def test_a_real_network_of_images(real):
    model = interp.load(f"{real / 'resnet20.py'}:load")
    start = time.perf_counter()
    data = interp.read(f"{real / 'resnet20.py'}:images")
    data = interp.read(data.inputs[:64])
    names = [n for n, m in model.module.named_modules() if isinstance(m, nn.Conv2d)][-1:]
    store = interp.capture(model, data, names, pool="mean")
    with torch.no_grad(), interp.record(model, names) as acts:
        model(data.inputs[:64].float())
    torch.testing.assert_close(
        store[names[0]][:], acts[names[0]].mean((2, 3)), atol=1e-4, rtol=1e-3
    )
    assert time.perf_counter() - start < 60


class Rows(torch.nn.Module):
    """A linear layer on [b, h, w, c], as in models that keep channels last."""

    def __init__(self):
        super().__init__()
        self.mix = torch.nn.Linear(3, 5)
        self.table = torch.nn.Embedding(4, 5)

    def forward(self, x):
        return self.mix(x).mean((1, 2)) + self.table(torch.arange(4)).mean(0)


def test_a_linear_layer_on_a_feature_map_keeps_its_channels_last():
    model, x = Rows(), torch.randn(6, 4, 7, 3)
    store = interp.capture(model, x, ["mix", "mix:in"], pool="mean")
    with torch.no_grad():
        expected = model.mix(x).mean((1, 2))
    assert torch.allclose(store["mix"][:], expected, atol=1e-6)
    assert store["mix:in"].shape == (6, 3)
    conv = torch.nn.Sequential(torch.nn.Conv2d(4, 5, 1))  # the arm that is channels first
    assert interp.capture(conv, x, "0", pool="mean")["0"].shape == (6, 5)


def test_a_hook_point_without_a_row_for_each_input_is_named():
    with pytest.raises(ShapeError, match="table holds 4 rows for 1 inputs"):
        interp.capture(Rows(), torch.randn(6, 4, 7, 3), "table", pool="mean")


def test_a_model_that_changed_is_looked_at_again(tiny, texts, tokenizer):
    model = interp.load(copy.deepcopy(tiny("gpt2")), tokenizer=tokenizer())
    first = interp.capture(model, texts, "resid_post.0")
    before = model.fingerprint
    with torch.no_grad():
        model.module.transformer.h[0].mlp.c_fc.weight[3, 5] += 1e-3
    assert model.fingerprint != before  # one weight of one neuron
    model.module.to(torch.float64)
    second = interp.capture(model, texts, "resid_post.0")
    assert first["resid_post.0"].dtype == torch.float32
    assert second["resid_post.0"][:].dtype == second["resid_post.0"].dtype == torch.float64


def test_force_does_not_take_a_foreign_folder(tiny, texts, tokenizer, tmp_path):
    model = interp.load(tiny("gpt2"), tokenizer=tokenizer())
    (tmp_path / "manifest.json").write_text('{"name": "a web page"}')
    with pytest.raises(StoreError, match="no activation store"):
        interp.capture(model, texts, "embed", out=tmp_path, force=True)
    assert "web page" in (tmp_path / "manifest.json").read_text()
