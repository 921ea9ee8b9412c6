"""What `load` takes, and one sentence for what it cannot."""

import time

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import interp
from interp.errors import InterpError, ModelError, ParameterError

IDS = torch.tensor([[5, 17, 33, 8, 90, 2, 41], [3, 3, 61, 7, 12, 88, 1]])


@pytest.mark.parametrize(
    ("name", "cls"),
    [("gpt2", "GPT2LMHeadModel"), ("bert", "BertModel"), ("clip", "CLIPModel"), ("vit", "ViTFor")],
)
def test_a_folder_gives_the_class_of_its_config(folder, tiny, name, cls):
    model = interp.load(str(folder(name)))
    assert type(model.module).__name__.startswith(cls)
    assert not model.module.training
    for key, value in tiny(name).state_dict().items():
        assert torch.equal(model.module.state_dict()[key], value)
    assert (model.tokenizer is None) == (name == "vit")
    assert model.spec == str(folder(name))


def test_a_base_model_saved_without_architectures(folder, tmp_path):
    import json
    import shutil

    path = shutil.copytree(folder("bert"), tmp_path / "bert")
    config = json.loads((path / "config.json").read_text())
    del config["architectures"]
    (path / "config.json").write_text(json.dumps(config))
    assert type(interp.load(path).module).__name__ == "BertModel"


@pytest.mark.parametrize("prefix", ["tl", "nnsight"])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_the_same_roles_and_numbers_through_other_libraries(folder, tiny, prefix, name):
    roles = ["embed", "resid_pre.*", "attn_out.*", "head_out.*", "mlp_in.*", "mlp_act.*"]
    roles += ["mlp_out.*", "resid_post.*", "final_norm"]
    ours = interp.load(tiny(name))
    theirs = interp.load(f"{prefix}:{folder(name)}")
    _, expected = interp.run_with_cache(ours, IDS, roles)
    _, found = interp.run_with_cache(theirs, IDS, roles)
    assert list(found) == list(expected)
    for key in expected:
        torch.testing.assert_close(found[key], expected[key], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(found["resid_post.0"], found["resid_post.1"], atol=1e-3)


@pytest.mark.parametrize("prefix", ["tl", "nnsight"])
def test_a_capture_through_other_libraries(folder, tiny, tokenizer, texts, prefix):
    theirs = interp.load(f"{prefix}:{folder('gpt2')}")
    ours = interp.load(tiny("gpt2"), tokenizer=tokenizer())
    for how in ("last", "mean"):
        a = interp.capture(theirs, texts, "resid_post.*", pool=how, batch_size=5)
        b = interp.capture(ours, texts, "resid_post.*", pool=how, batch_size=5)
        for key in b.hookpoints:
            torch.testing.assert_close(a[key][:], b[key][:], atol=1e-5, rtol=1e-5)


def test_a_tl_model_has_its_own_names_too(folder):
    model = interp.load(f"tl:{folder('gpt2')}")
    names = ["blocks.1.hook_resid_post", "blocks.1.hook_out", "resid_post.1"]
    _, acts = interp.run_with_cache(model, IDS, names)
    assert len(acts) >= 2
    for name in acts:
        assert torch.equal(acts[name], acts["resid_post.1"])
    assert not model.module.training


def test_steering_a_tl_model_moves_it(folder):
    model = interp.load(f"tl:{folder('gpt2')}")
    plain = model(IDS)
    with interp.steer(model, "resid_post.1", torch.ones(32), alpha=3):
        assert not torch.allclose(model(IDS), plain)
    assert torch.equal(model(IDS), plain)


FACTORY = """
import torch
from torch import nn
from dataclasses import dataclass

@dataclass
class Size:
    n: int = 3

def make():
    return nn.Linear(Size().n, 2)

def pair():
    return nn.Linear(3, 2), "a tokenizer"

def number():
    return 3

def broken():
    raise RuntimeError("the weights have gone")

constant = 3
"""


def test_a_factory(tmp_path):
    file = tmp_path / "some_factory.py"
    file.write_text(FACTORY)
    assert isinstance(interp.load(f"{file}:make").module, nn.Linear)
    assert interp.load(f"{file}:pair").tokenizer == "a tokenizer"
    assert isinstance(interp.load("torch.nn:Identity").module, nn.Identity)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("number", r"number\(\) must give an nn.Module.*got int"),
        ("broken", r"broken\(\) failed: the weights have gone"),
        ("constant", "has no function 'constant'"),
        ("missing", "has no function 'missing'"),
    ],
)
def test_a_bad_factory(tmp_path, name, says):
    file = tmp_path / "bad_factory.py"
    file.write_text(FACTORY)
    with pytest.raises(ModelError, match=says):
        interp.load(f"{file}:{name}")


def test_a_factory_file_that_is_not_there_or_does_not_run(tmp_path):
    with pytest.raises(ModelError, match="there is no file"):
        interp.load(f"{tmp_path / 'none.py'}:make")
    (tmp_path / "wrong.py").write_text("import nothing_of_that_name")
    with pytest.raises(ModelError, match="importing .* failed: No module named"):
        interp.load(f"{tmp_path / 'wrong.py'}:make")
    (tmp_path / "wrong.py").write_text("def f(:")
    with pytest.raises(ModelError, match="importing .* failed"):
        interp.load(f"{tmp_path / 'wrong.py'}:make")
    with pytest.raises(ModelError, match="importing .* failed"):
        interp.load("no_such_package.module:make")


def one_sentence(error: InterpError) -> str:
    text = str(error)
    assert "\n" not in text and text[-1] in ".?" and len(text) < 500
    return text


def test_a_missing_folder():
    with pytest.raises(ModelError) as caught:
        interp.load("./no/such/folder")
    assert "no model folder" in one_sentence(caught.value)
    assert "demo:pylm" in str(caught.value)


def test_an_unknown_name_offline_is_quick():
    started = time.perf_counter()
    with pytest.raises(ModelError) as caught:
        interp.load("nobody/has-this-model-7f3a")
    assert time.perf_counter() - started < 10
    text = one_sentence(caught.value)
    assert "HF_HUB_OFFLINE" in text and "local folder" in text and "demo:pylm" in text


@pytest.mark.parametrize("prefix", ["tl", "nnsight"])
def test_an_unknown_name_through_other_libraries(prefix):
    with pytest.raises(ModelError) as caught:
        interp.load(f"{prefix}:nobody/has-this-model-7f3a")
    one_sentence(caught.value)


def test_a_folder_without_a_config(tmp_path):
    (tmp_path / "readme.txt").write_text("hello")
    with pytest.raises(ModelError, match=r"holds no config.json"):
        interp.load(tmp_path)


def copy_of(folder, tmp_path, name="gpt2"):
    import shutil

    return shutil.copytree(folder(name), tmp_path / "copy")


def test_a_folder_without_weights(folder, tmp_path):
    path = copy_of(folder, tmp_path)
    (path / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"holds no weights"):
        interp.load(path)


def test_a_folder_with_only_a_pickle_is_not_loaded(folder, tmp_path):
    path = copy_of(folder, tmp_path)
    weights = load_file(path / "model.safetensors")
    (path / "model.safetensors").unlink()
    torch.save(weights, path / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pickle \(pytorch_model.bin\).*convert"):
        interp.load(path)


@pytest.mark.parametrize("name", ["gpt2", "bert", "llama"])
def test_incomplete_weights_are_refused(folder, tmp_path, name):
    path = copy_of(folder, tmp_path, name)
    weights = load_file(path / "model.safetensors")
    lost = next(k for k in sorted(weights) if "mlp" in k or "intermediate" in k)
    del weights[lost]
    save_file(weights, path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 of its weights") as caught:
        interp.load(path)
    assert lost.split(".")[-2] in one_sentence(caught.value)


def test_a_head_without_weights_is_a_warning(folder, tmp_path):
    path = copy_of(folder, tmp_path, "vit")
    weights = load_file(path / "model.safetensors")
    weights = {k: v for k, v in weights.items() if "classifier" not in k}
    save_file(weights, path / "model.safetensors", {"format": "pt"})
    with pytest.warns(UserWarning, match="classifier.*are random"):
        interp.load(path)


def test_an_encoder_without_a_pooler_is_a_warning(folder, tmp_path):
    path = copy_of(folder, tmp_path, "bert")
    weights = load_file(path / "model.safetensors")
    weights = {k: v for k, v in weights.items() if "pooler" not in k}
    save_file(weights, path / "model.safetensors", {"format": "pt"})
    with pytest.warns(UserWarning, match="pooler.*are random"):
        interp.load(path)


def test_damaged_weights(folder, tmp_path):
    path = copy_of(folder, tmp_path)
    (path / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    with pytest.raises(ModelError, match="cannot be loaded") as caught:
        interp.load(path)
    one_sentence(caught.value)
    (path / "config.json").write_text("{")
    with pytest.raises(ModelError) as caught:
        interp.load(path)
    one_sentence(caught.value)


def test_a_module_in_hand_stays_as_it_is():
    module = nn.Sequential(nn.Linear(2, 2), nn.Dropout()).train()
    model = interp.load(module)
    assert model.module is module and module.training
    assert model.spec == "Sequential"
    assert interp.load(model) is model
    assert interp.load(module, dtype="float64").dtype == torch.float64


@pytest.mark.parametrize("dtype", ["bfloat16", "float64", torch.float16])
def test_dtype(folder, dtype):
    wanted = dtype if isinstance(dtype, torch.dtype) else getattr(torch, dtype)
    assert interp.load(folder("gpt2"), dtype=dtype).dtype == wanted
    assert interp.load(folder("gpt2")).dtype == torch.float32


def test_a_wrong_dtype_or_device(folder):
    with pytest.raises(ParameterError, match="float16, bfloat16, float32, float64; got 'int4'"):
        interp.load(folder("gpt2"), dtype="int4")
    with pytest.raises(ParameterError, match="use auto, cpu, cuda"):
        interp.load(folder("gpt2"), device="toaster")


def test_the_fingerprint_tells_models_apart(tiny):
    same = interp.load(tiny("gpt2")).fingerprint
    assert interp.load(tiny("gpt2")).fingerprint == same
    changed = tiny("gpt2")
    changed.lm_head.weight.data[:] += 1
    assert interp.load(changed).fingerprint != same
    assert interp.load(tiny("gpt2"), dtype="float64").fingerprint != same


def test_generate_is_greedy_and_repeats_itself(tiny, tokenizer):
    model = interp.load(tiny("gpt2"), tokenizer=tokenizer("left"))
    text = model.generate("w5 w6 w7", 5)
    assert text.startswith("w5 w6 w7") and text == model.generate("w5 w6 w7", 5)
    ids = model.tokenizer(text)["input_ids"]
    logits = model.module(torch.tensor([ids[:3]])).logits[0, -1]
    assert int(logits.argmax()) == ids[3]
    with pytest.raises(ModelError, match="no language model"):
        interp.load(nn.Linear(2, 2)).generate("hello")


def test_text_without_a_tokenizer(tiny):
    with pytest.raises(ModelError, match="has no tokenizer"):
        interp.load(tiny("gpt2"))("hello")
    with pytest.raises(ParameterError, match="got int"):
        interp.load(tiny("gpt2"))(3)


def test_a_batch_of_texts_is_each_text(tiny, tokenizer, texts):
    model = interp.load(tiny("gpt2"), tokenizer=tokenizer("left"))
    together = model(texts[:3]).logits
    for i, text in enumerate(texts[:3]):
        n = len(text.split())
        torch.testing.assert_close(model(text).logits[0], together[i, :n], atol=1e-4, rtol=1e-4)
