"""Models spread by a device map: every number is that of the model in one place."""

import json
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

import interp
from interp.errors import ModelError, ParameterError
from interp.placement import device_map_of, is_spread, real, weights
from probes.perturb import quantised
from probes.steering import lens_logits

IDS = torch.tensor([[5, 17, 33, 8, 90, 2, 41], [3, 3, 61, 7, 12, 88, 1]])
ROLES = ["embed", "resid_pre.*", "attn_out.*", "head_out.*", "mlp_in.*", "mlp_act.*"]
ROLES += ["mlp_out.*", "resid_post.*", "final_norm"]
MAPS = {
    "gpt2": {
        "transformer.wte": "cpu",
        "transformer.wpe": "disk",
        "transformer.drop": "cpu",
        "transformer.h.0": "disk",
        "transformer.h.1": "cpu",
        "transformer.h.2": "disk",
        "transformer.ln_f": "disk",
        "lm_head": "cpu",
    },
    "llama": {
        "model.embed_tokens": "disk",  # the first parameter is not in memory
        "model.layers.0": "cpu",
        "model.layers.1": "disk",
        "model.layers.2": "cpu",
        "model.norm": "cpu",
        "model.rotary_emb": "cpu",
        "lm_head": "disk",
    },
}


@pytest.fixture(params=sorted(MAPS))
def pair(request, folder):
    """A model in one place, and the same one spread."""
    path = folder(request.param)
    plain = interp.load(path, device="cpu")
    spread = interp.load(path, device_map=MAPS[request.param])
    assert any(p.is_meta for p in spread.module.parameters())
    return plain, spread


def hooks(model):
    modules = list(model.module.modules())
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)


def test_every_hook_point_holds_the_same_bits(pair):
    plain, spread = pair
    assert spread.device.type == "cpu"  # where inputs go; not meta
    names = [f"{n}{side}" for n, m in plain.module.named_modules() for side in ("", ":in")
             if n and isinstance(m, nn.Linear | nn.LayerNorm | nn.Embedding)]  # fmt: skip
    for wanted in (ROLES, names):
        expected_out, expected = interp.run_with_cache(plain, IDS, wanted)
        out, found = interp.run_with_cache(spread, IDS, wanted)
        assert list(found) == list(expected)
        for key in expected:
            assert torch.equal(found[key], expected[key]), key
        assert torch.equal(out.logits, expected_out.logits)
    assert hooks(spread) == 0
    assert any(p.is_meta for p in spread.module.parameters())  # read, and forgotten again


@pytest.mark.parametrize("pool", ["last", "mean", "all"])
def test_a_store_is_the_same(pair, texts, pool, tmp_path):
    stores = []
    for i, model in enumerate(pair):
        stores.append(interp.capture(model, texts, ROLES, pool=pool, out=tmp_path / str(i)))
    one, two = stores
    assert two.manifest["key"] == one.manifest["key"]  # the weights' fingerprint among it
    assert [s["sha256"] for s in two.manifest["shards"]] == [
        s["sha256"] for s in one.manifest["shards"]
    ]
    assert two.manifest["certificate"] == one.manifest["certificate"]
    assert hooks(pair[1]) == 0


# Releases of transformers before 5.20 look at where the first weight is, which lies on the disk.
@pytest.mark.filterwarnings("ignore:You are calling .generate")
def test_interventions_gradients_and_generation(pair):
    plain, spread = pair
    vector = torch.linspace(-1, 1, 32)

    def outcomes(model):
        _, held = interp.run_with_cache(model, IDS.flip(1), ["resid_post.1"])
        changes = [
            interp.steer(model, "resid_post.1", vector, alpha=2),
            interp.ablate(model, "mlp_act.1", [1, 5]),
            interp.patch(model, {"resid_post.0": held["resid_post.1"]}),
            interp.splice(model, "attn_out.2", torch.tanh),
        ]
        for change in changes:
            with change:
                yield model(IDS).logits.detach()
        with interp.record(model, ["embed", "resid_post.2"], grad=True) as acts:
            model(IDS)
        yield torch.autograd.grad(acts["resid_post.2"].square().sum(), acts["embed"])[0]
        yield model.module.generate(IDS[:1], max_new_tokens=5, do_sample=False)
        yield lens_logits(model, vector[None])

    before = plain(IDS).logits
    for expected, found in zip(outcomes(plain), outcomes(spread), strict=True):
        assert torch.equal(found, expected)
        assert found.shape != before.shape or not torch.equal(found, before)
    assert torch.equal(spread(IDS).logits, before)
    assert hooks(spread) == 0
    assert interp.certificate.certify(spread) == interp.certificate.certify(plain)


def test_weights_are_read_from_the_disk_one_by_one(pair):
    plain, spread = pair
    expected = dict(plain.module.state_dict())
    found = dict(weights(spread.module))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[k], expected[k]) for k in expected)
    assert spread.fingerprint == plain.fingerprint
    assert torch.equal(real(spread.unembedding()), plain.unembedding().weight)
    changed = plain.module.state_dict()
    next(v for k, v in changed.items() if v.ndim == 2)[0, 0] += 1  # the fingerprint sees them
    assert spread.fingerprint != plain.fingerprint


def test_what_needs_weights_in_memory_says_so(pair):
    plain, spread = pair
    for kind in ("bfloat16", "int8"):
        with quantised(plain, kind) as n:
            assert n > 0
        with pytest.raises(ModelError, match=r"rounding its weights needs all weights"):
            with quantised(spread, kind):
                pass
    with pytest.raises(ModelError, match="random weights are drawn for a model that is in one"):
        spread.reinitialised()
    with pytest.raises(ModelError, match="where its device map put it"):
        interp.load(spread.module, device="cpu")
    assert interp.load(spread.module)(IDS).logits.equal(plain(IDS).logits)


def test_auto_with_little_memory_goes_to_the_disk(tmp_path, folder):
    path = folder("llama")
    plain = interp.load(path, device="cpu")
    spread = interp.load(
        path, device_map="auto", max_memory={"cpu": 60_000}, offload_folder=tmp_path / "off"
    )
    if not torch.cuda.is_available():
        assert "disk" in spread.module.hf_device_map.values()
    assert torch.allclose(spread(IDS).logits.cpu(), plain(IDS).logits, atol=1e-5)
    whole = interp.load(path, device_map={"": "cpu"})
    assert not is_spread(whole.module)
    assert torch.equal(whole(IDS).logits, plain(IDS).logits)
    assert whole.reinitialised().fingerprint != whole.fingerprint


def test_another_dtype_than_the_file_holds(folder, tmp_path):
    path = folder("llama")
    plain = interp.load(path, device="cpu", dtype="bfloat16")
    spread = interp.load(
        path, dtype="bfloat16", device_map=MAPS["llama"], offload_folder=tmp_path / "off"
    )
    assert spread.dtype == torch.bfloat16
    assert torch.equal(spread(IDS).logits, plain(IDS).logits)
    assert spread.fingerprint == plain.fingerprint


def test_the_demo_takes_a_map():
    plain = interp.load("demo:pylm", device="cpu")
    where = {n: "cpu" for n, m in plain.module.named_children()}
    inner = plain.module.base_model_prefix
    del where[inner]
    where |= {f"{inner}.{n}": "cpu" for n, _ in getattr(plain.module, inner).named_children()}
    stack = plain.points.stacks[0].blocks[0]["resid_post"].module.rpartition(".")[0]
    count = len(plain.module.get_submodule(stack))
    del where[stack]
    where |= {f"{stack}.{i}": "disk" if i % 2 else "cpu" for i in range(count)}
    spread = interp.load("demo:pylm", device_map=where)
    lines = ["import os", "def f(x):\n    return x", "x = 1"]
    one = interp.capture(plain, lines, "resid_post.*")
    two = interp.capture(spread, lines, "resid_post.*")
    assert all(torch.equal(one[h][:], two[h][:]) for h in one.hookpoints)
    assert spread.generate("import", 5) == plain.generate("import", 5)


@pytest.mark.parametrize(
    ("spec", "options", "said"),
    [
        ("tl:LLAMA", {"device_map": "auto"}, "takes no device map; load .* by its plain name"),
        ("nnsight:LLAMA", {"device": "map"}, "takes no device map; load .* by its plain name"),
        ("demo:digits", {"device": "map"}, "is no Hugging Face model"),
        ("torch.nn:Identity", {"device_map": "auto"}, "places its module itself"),
        (nn.Linear(2, 2), {"device_map": "auto"}, "a module is where it is"),
        ("LLAMA", {"device_map": "auto", "device": "cpu"}, "both say where"),
        ("LLAMA", {"device": "map", "device_map": "auto"}, "both say where"),
        ("LLAMA", {"device_map": "everywhere"}, "device_map must be auto, balanced"),
        ("LLAMA", {"device_map": {}}, "device_map must be auto"),
        ("LLAMA", {"device_map": {"model": "tape"}}, "device_map must be auto"),
        ("LLAMA", {"device_map": {"": 10**30}}, "device_map must be auto"),
        ("LLAMA", {"device_map": {"": "meta"}}, "device_map must be auto"),
        (
            "LLAMA",
            {"device_map": {"": "cpu", "model.layer.1": "disk"}},
            "'model.layer.1', which is no part of the model; did you mean .*model.layers.1",
        ),
        ("LLAMA", {"device_map": "auto", "max_memory": {"cpu": -5}}, "max_memory must be bytes"),
        ("LLAMA", {"device_map": "auto", "max_memory": {0: float("nan")}}, "got nan for 0"),
        ("LLAMA", {"device": "map:nowhere.json"}, "nowhere.json cannot be read"),
        ("LLAMA", {"max_memory": {"cpu": 1}}, "are for a model with a device_map"),
        ("LLAMA", {"device_map": {"lm_head": "cpu", "model.norm": "disk"}}, "cannot be loaded"),
    ],
)
def test_one_sentence_for_what_cannot_be(folder, spec, options, said):
    spec = spec.replace("LLAMA", str(folder("llama"))) if isinstance(spec, str) else spec
    with pytest.raises((ParameterError, ModelError), match=said) as caught:
        interp.load(spec, **options)
    assert "\n" not in str(caught.value)


def test_a_map_by_name_under_torchrun_would_take_all_devices_for_each(monkeypatch):
    from interp.distributed import World

    monkeypatch.setattr("interp.placement.world", lambda: World(1, 2, 1))
    with pytest.raises(ParameterError, match="gives all devices to each process"):
        device_map_of("map")
    assert device_map_of("auto", {"": "cpu"}) is not None


def test_maps_from_the_command_line(folder, texts, tmp_path, invoke, monkeypatch):
    file = tmp_path / "map.json"
    file.write_text(json.dumps(MAPS["llama"]))
    assert device_map_of(f"map:{file}").where == MAPS["llama"]
    assert device_map_of("map").where == "auto"
    assert device_map_of("map:balanced").where == "balanced"
    assert device_map_of("cpu") is None
    more = {"device_map": "auto", "max_memory": {"0": "1GB", "cpu": "2GB"}, "offload_folder": "x"}
    file.write_text(json.dumps(more))
    assert device_map_of(f"map:{file}").options() == {
        **more, "max_memory": {0: "1GB", "cpu": "2GB"}
    }  # fmt: skip
    file.write_text('{"device_map": "auto", "max_memory": {"²": 1}}')  # a digit, and no number
    assert device_map_of(f"map:{file}").max_memory == {"²": 1}
    for bad in ("[]", "{", '{"device_map": "auto", "speed": 1}', '{"device_map": null}',
                '{"device_map": "auto", "offload_folder": 5}', "[" * 99_999):  # fmt: skip
        file.write_text(bad)
        with pytest.raises(ParameterError):
            device_map_of(f"map:{file}")
    file.write_text(json.dumps(MAPS["llama"]))
    data = tmp_path / "data.txt"
    data.write_text("\n".join(texts))
    for name, device in (("one", "cpu"), ("two", f"map:{file}")):
        done = invoke(
            "capture", folder("llama"), data, "-p", "resid_post.*", "--device", device,
            "--out", tmp_path / name,
        )  # fmt: skip
        assert done.exit_code == 0, done.output
    one, two = (interp.ActivationStore.open(tmp_path / n) for n in ("one", "two"))
    assert one.manifest["shards"] == two.manifest["shards"]


MEASURE = """
import json, sys, torch, interp
def held():
    told = open("/proc/self/status").read().splitlines()
    return sum(int(line.split()[1]) for line in told if line.startswith("VmRSS")) / 1024
torch.set_grad_enabled(False)
interp.load(sys.argv[1], device="cpu")(torch.tensor([[5]]))
for where in json.loads(sys.argv[3]):
    before = held()
    model = interp.load(sys.argv[2], device_map=where)
    found = [held()]
    for part in model.module.modules():
        part.register_forward_hook(lambda *_: found.append(held()))
    logits = model(torch.tensor([[5, 6, 7]])).logits
    print(json.dumps([max(found) - before, float(logits.double().sum())]))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads Linux's /proc")
def test_what_is_on_the_disk_takes_no_memory(tmp_path, folder):
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.device("meta"):
        big = LlamaForCausalLM(
            LlamaConfig(
                hidden_size=512, intermediate_size=2048, num_hidden_layers=4,
                num_attention_heads=8, vocab_size=100, max_position_embeddings=32,
            )
        )  # fmt: skip
    big.to_empty(device="cpu")
    for i, parameter in enumerate(big.parameters()):
        parameter.data.fill_(0.01 * (-1) ** i)
    big.save_pretrained(tmp_path / "big")
    size = sum(p.numel() for p in big.parameters()) * 4 / 2**20
    del big
    disk = {"model.embed_tokens": "cpu", "model.layers": "disk", "model.norm": "cpu",
            "model.rotary_emb": "cpu", "lm_head": "cpu"}  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, folder("llama"), tmp_path / "big",
         json.dumps([disk, {"": "cpu"}])],
        capture_output=True, text=True, timeout=100, check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    spread, plain = map(json.loads, done.stdout.splitlines()[-2:])
    print(f"{size:.1f} MiB of weights; MiB held at most: {spread[0]} spread, {plain[0]} plain")
    assert plain[0] > 0.9 * size
    assert spread[0] < 0.35 * size  # a block at most, and little else
    assert spread[1] == plain[1]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_over_a_gpu_memory_and_disk(folder, texts):
    where = {**MAPS["llama"], "model.embed_tokens": 0, "model.layers.0": 0, "lm_head": "cpu"}
    plain = interp.load(folder("llama"), device="cuda:0")
    spread = interp.load(folder("llama"), device_map=where)
    assert spread.device == torch.device("cuda:0")
    assert spread.fingerprint == plain.fingerprint
    for pool in ("last", "all"):
        one = interp.capture(plain, texts, ROLES, pool=pool)
        two = interp.capture(spread, texts, ROLES, pool=pool)
        for name in one.hookpoints:
            assert torch.equal(one[name][:], two[name][:]), name
    vector = torch.ones(32)
    with interp.steer(plain, "resid_post.1", vector), interp.steer(spread, "resid_post.1", vector):
        assert torch.equal(spread(IDS).logits, plain(IDS).logits)
    assert torch.equal(lens_logits(plain, vector[None]), lens_logits(spread, vector[None]).cuda())
    with pytest.raises(ModelError, match="needs all weights"):
        with quantised(spread, "int8"):
            pass
