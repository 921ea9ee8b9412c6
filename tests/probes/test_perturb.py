"""Perturbations: what the noise is, that weights come back, and that measures shift."""

import random
from dataclasses import replace

import pandas as pd
import pytest
import torch
from torch import nn

import interp
from interp.data import read
from interp.errors import DataError, ModelError, ParameterError
from interp.models import Model
from probes import Perturbed, perturbation_effect
from probes.paired import MEASURES, clears_zero
from probes.perturb import (
    PERTURBATIONS,
    Perturbation,
    embedding_noise,
    fake_quantised,
    noisy,
    quantised,
    read_perturbation,
)


@pytest.fixture
def gpt2(tiny, tokenizer):
    return Model(tiny("gpt2"), spec="tiny", tokenizer=tokenizer())


@pytest.fixture
def data():
    """Forty texts of two kinds of word."""
    rng = random.Random(0)
    texts, labels = [], []
    for i in range(40):
        low = 2 if i % 2 else 50
        texts.append(" ".join(f"w{rng.randrange(low, low + 4)}" for _ in range(4 + i % 3)))
        labels.append(i % 2)
    return read(pd.DataFrame({"text": texts, "label": labels}), name="things")


def state(module):
    return {k: v.clone() for k, v in module.state_dict().items()}


# -- what was asked ------------------------------------------------------------------------------


def test_a_perturbation_is_read():
    assert read_perturbation("swap=0.2") == Perturbation("swap", 0.2)
    assert read_perturbation("swap") == Perturbation("swap", PERTURBATIONS["swap"])
    assert str(read_perturbation("gaussian=0.25")) == "gaussian=0.25"
    assert str(read_perturbation("int8")) == "int8"


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("swop", "did you mean"),
        ("noise-of-mine", "there is prefix, swap"),
        ("int8=3", "no strength to choose"),
        ("swap=0", "above 0 and at most 1; got '0'"),
        ("swap=1.5", "at most 1"),
        ("drop=much", "got 'much'"),
        ("gaussian=inf", "above 0; got"),
    ],
)
def test_a_wrong_one_is_refused(spec, says):
    with pytest.raises(ParameterError, match=says):
        read_perturbation(spec)


# -- text ----------------------------------------------------------------------------------------


def test_the_prefix_is_on_every_row_by_a_coin_flip(data):
    done = noisy(data, "prefix", seed=1)
    assert all(
        new in ("aaa" + old, "bbb" + old) for new, old in zip(done.inputs, data.inputs, strict=True)
    )
    assert 8 < sum(t.startswith("aaa") for t in done.inputs) < 32
    assert "40 of 40" in done.notes[-1] and done.rows.equals(data.rows)


@pytest.mark.parametrize("kind", ["prefix", "swap=0.3", "drop=0.5"])
def test_text_noise_depends_on_the_seed_and_on_nothing_else(data, kind):
    random.seed(1)
    first = noisy(data, kind, seed=3).inputs
    random.seed(2)
    assert noisy(data, kind, seed=3).inputs == first
    assert noisy(data, kind, seed=4).inputs != first


def test_swapping_keeps_letters_within_words():
    text = "abcdefghij klmnopqrst " * 200
    done = noisy(read([text]), "swap=0.2", seed=0).inputs[0]
    assert len(done) == len(text) and done != text
    for old, new in zip(text.split(), done.split(), strict=True):
        assert sorted(old) == sorted(new)
    # a swap is tried at each letter that is followed by one and was not just swapped in: of 9
    # pairs a word, a share s gives 9 s - 8 s^2 + 7 s^3 - ... swaps, 1.53 for s = 0.2
    moved = sum(a != b for a, b in zip(text, done, strict=True))
    assert moved / 2 / 400 == pytest.approx(1.53, abs=0.12)
    assert noisy(read(["a b. c"]), "swap=1").inputs == ["a b. c"]  # there is no pair
    assert noisy(read(["abc"]), "swap=1").inputs == ["bac"]


def test_dropping_keeps_the_order_and_one_word():
    words = [f"w{i}" for i in range(2000)]
    done = noisy(read([" ".join(words)]), "drop=0.1").inputs[0].split()
    assert done == [w for w in words if w in set(done)]
    assert len(done) == pytest.approx(1800, abs=60)
    assert noisy(read(["one two"]), "drop=1").inputs == ["one"]


def test_text_noise_needs_text(data):
    with pytest.raises(DataError, match="holds no texts"):
        noisy(read(torch.zeros(2, 3)), "swap")
    with pytest.raises(ParameterError, match="disturbs no text"):
        noisy(data, "int8")


# -- the embedding -------------------------------------------------------------------------------


def embedded(model, texts):
    with torch.no_grad():
        return interp.run_with_cache(model, texts, ["embed"])[1]["embed"]


def test_gaussian_noise_has_the_asked_size_and_stops(gpt2):
    text = " ".join(f"w{2 + i}" for i in range(60))
    clean = embedded(gpt2, text)
    with embedding_noise(gpt2, 0.5, seed=1):
        noised = embedded(gpt2, text)
    ratio = (noised - clean).pow(2).mean().sqrt() / clean.pow(2).mean().sqrt()
    assert ratio.item() == pytest.approx(0.5, rel=0.06)  # 1,920 numbers
    assert torch.equal(embedded(gpt2, text), clean)
    with pytest.raises(RuntimeError), embedding_noise(gpt2, 0.5):
        raise RuntimeError
    assert torch.equal(embedded(gpt2, text), clean)


def test_gaussian_noise_is_the_seed_s_and_the_text_s(gpt2):
    def run(texts, seed):
        with embedding_noise(gpt2, 0.5, seed=seed):
            return embedded(gpt2, texts)

    both = run(["w3 w4 w5", "w6"], 1)
    assert torch.equal(both, run(["w3 w4 w5", "w6"], 1))
    assert not torch.equal(both, run(["w3 w4 w5", "w6"], 2))
    torch.testing.assert_close(both[1:, :1], run(["w6"], 1))  # alone as in a padded batch
    assert torch.equal(both[1, 1:], embedded(gpt2, ["w3 w4 w5", "w6"])[1, 1:])  # pads are left
    clean = embedded(gpt2, ["w3 w4", "w4 w3"])
    noise = run(["w3 w4", "w4 w3"], 1) - clean
    assert not torch.allclose(noise[0], noise[1], atol=1e-3)


def test_gaussian_noise_needs_one_stack(tiny):
    for module in (tiny("clip"), nn.Sequential(nn.Linear(2, 2))):
        with (
            pytest.raises(ModelError, match="stacks of blocks"),
            embedding_noise(interp.load(module), 0.1),
        ):
            pass


# -- the weights ---------------------------------------------------------------------------------


def test_rounding_by_hand():
    w = torch.tensor([[1.27, -0.634, 0.0049], [0.0, 0.0, 0.0]])
    # scale 1.27 / 127 = 0.01: 127, -63.4 -> -63, 0.49 -> 0
    torch.testing.assert_close(
        fake_quantised(w, 0, 8), torch.tensor([[1.27, -0.63, 0.0], [0.0, 0.0, 0.0]])
    )
    # scale 1.27 / 7: 7, -3.49 -> -3, 0
    torch.testing.assert_close(fake_quantised(w, 0, 4)[0], torch.tensor([1.27, -3 * 1.27 / 7, 0.0]))


@pytest.mark.parametrize(("kind", "top"), [("int8", 127), ("int4", 7)])
@pytest.mark.parametrize("name", ["gpt2", "llama", "conv"])
def test_the_error_is_within_half_a_step_of_the_channel_s_grid(tiny, kind, top, name):
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Conv2d(5, 4, 1)) if name == "conv" else tiny(name)
    before = state(net)
    layers = {
        n: (1 if type(m).__name__ == "Conv1D" else 0)
        for n, m in net.named_modules()
        if isinstance(m, nn.Linear | nn.Conv2d) or type(m).__name__ == "Conv1D"
    }
    layers.pop("lm_head", None)
    with quantised(net, kind) as count:
        assert count == len(layers)
        changed = {n for n, v in net.state_dict().items() if not torch.equal(v, before[n])}
        assert changed == {f"{n}.weight" for n in layers}  # no bias, norm, embedding or head
        for n, axis in layers.items():
            w = before[f"{n}.weight"].movedim(axis, 0).flatten(1)
            q = net.get_submodule(n).weight.detach().movedim(axis, 0).flatten(1)
            largest = w.abs().amax(1, keepdim=True)
            assert ((w - q).abs() <= largest / (2 * top) * (1 + 1e-5)).all()
            assert max(len(row.unique()) for row in q) <= 2 * top + 1
            torch.testing.assert_close(q.abs().amax(1, keepdim=True), largest)
    assert all(torch.equal(v, before[n]) for n, v in net.state_dict().items())


def test_the_channel_s_axis_matters(tiny):
    """Rounded along the wrong axis, GPT-2's layers would miss their channels' grid."""
    w = tiny("gpt2").transformer.h[0].mlp.c_fc.weight.detach()
    w = w * torch.logspace(0, 2, w.shape[1])  # output channels of very different size
    step = w.abs().amax(0, keepdim=True) / 14
    assert ((fake_quantised(w, 1, 4) - w).abs() <= step * (1 + 1e-5)).all()
    assert not ((fake_quantised(w, 0, 4) - w).abs() <= step * (1 + 1e-5)).all()


def test_bfloat16_rounds_every_parameter(tiny):
    net = tiny("gpt2")
    before = state(net)
    with quantised(net, "bfloat16"):
        for name, p in net.named_parameters():
            assert p.dtype == torch.float32
            assert torch.equal(p, before[name].bfloat16().float())
        assert not torch.equal(net.transformer.wte.weight, before["transformer.wte.weight"])
    assert all(torch.equal(v, before[n]) for n, v in net.state_dict().items())


@pytest.mark.parametrize("kind", ["bfloat16", "int8", "int4"])
def test_weights_come_back_after_an_exception(tiny, kind):
    model = interp.load(tiny("llama"))
    before = state(model.module)
    with pytest.raises(RuntimeError), quantised(model, kind):
        assert any(not torch.equal(v, before[n]) for n, v in model.module.state_dict().items())
        raise RuntimeError
    assert all(torch.equal(v, before[n]) for n, v in model.module.state_dict().items())


def test_the_fingerprint_tells_rounded_weights_from_true_ones(tiny):
    model = interp.load(tiny("gpt2"))
    before = model.fingerprint
    with quantised(model, "int4"):
        assert model.fingerprint != before
    assert model.fingerprint == before


def test_weights_that_cannot_be_rounded(tiny):
    with (
        pytest.raises(ParameterError, match="bfloat16, int8 or int4"),
        quantised(tiny("gpt2"), "int2"),
    ):
        pass
    with pytest.raises(ModelError, match="no weight"), quantised(nn.LayerNorm(3), "int8"):
        pass


# -- the effect ----------------------------------------------------------------------------------

QUICK = {"folds": 3, "permutations": 2, "strengths": (0.01, 1.0)}


def test_every_kind_runs_and_the_model_is_as_it_was(gpt2, data, tmp_path):
    before = state(gpt2.module)
    (found,) = perturbation_effect(gpt2, data, "all", folder=tmp_path / "acts", **QUICK)
    assert [r["kind"] for r in found.runs] == list(PERTURBATIONS)
    assert found.name == "things.label" and found.n == 40
    for run in found.runs:
        assert len(run["accuracy"]) == len(found.hookpoints) == 4
        assert run["peak_shift"] == pytest.approx(run["peak"] - found.clean["peak"])
        for m in ("jump_point", "converging_point", "onset_depth"):
            undefined = run[m] is None or found.clean[m] is None
            assert (run[f"{m}_shift"] is None) == undefined
        for m in MEASURES:
            low, high = run[f"{m}_shift_low"], run[f"{m}_shift_high"]
            assert (low is None) == (high is None) and (low is None or low <= high)
            assert (f"{m}_shift" in run["reasons"]) == (run[f"{m}_shift"] is None)
            assert (low is None) == any(k.startswith(f"{m}_shift") for k in run["reasons"])
    assert all(torch.equal(v, before[n]) for n, v in gpt2.module.state_dict().items())
    assert not gpt2.module._forward_pre_hooks
    assert Perturbed.load(found.save(tmp_path / "a.json")) == found
    frame = found.to_frame()
    assert list(frame["kind"]) == ["clean", *PERTURBATIONS]
    assert list(frame["peak_shift_low"][1:]) == [r["peak_shift_low"] for r in found.runs]
    assert list(frame.columns).index("peak_shift_high") == len(frame.columns) - 1
    assert "1,000 draws over rows, the same ones" in found.metrics()["interval"]
    assert found.metrics()["runs"][1]["strength"] == 0.05
    # each store is its own, and a second start finds them
    assert len(list((tmp_path / "acts").iterdir())) == 8
    (again,) = perturbation_effect(gpt2, data, "all", folder=tmp_path / "acts", **QUICK)
    assert again.metrics() == found.metrics()


def test_strong_noise_lowers_the_peak_and_weak_noise_does_not(gpt2, data):
    (found,) = perturbation_effect(gpt2, data, ["gaussian=0.001", "gaussian=30"], **QUICK)
    weak, strong = found.runs
    assert found.clean["peak"] > 0.9
    assert abs(weak["peak_shift"]) < 0.06 and strong["peak_shift"] < -0.15
    assert clears_zero(strong, "peak") and not clears_zero(weak, "peak")
    assert strong["peak_shift_low"] <= strong["peak_shift"] <= strong["peak_shift_high"] < 0


def test_rounding_that_changes_nothing_moves_nothing(gpt2, data):
    with torch.no_grad():
        for p in gpt2.module.parameters():
            p.copy_(p.bfloat16())
    (found,) = perturbation_effect(gpt2, data, ["bfloat16", "gaussian=30"], **QUICK)
    same, moved = found.runs
    assert same["accuracy"] == found.clean["accuracy"] != moved["accuracy"]
    for m in MEASURES:
        if found.clean[m] is not None and same[f"{m}_shift_undefined"] <= 0.05:
            assert [same[f"{m}_shift{end}"] for end in ("", "_low", "_high")] == [0.0, 0.0, 0.0]
    assert same["peak_shift_low"] == same["converging_point_shift_low"] == 0.0
    assert moved["peak_shift_low"] < moved["peak_shift_high"] < 0


def test_a_known_clean_result_is_not_made_again(gpt2, data, tmp_path, monkeypatch):
    import probes
    import probes.perturb

    store = interp.capture(gpt2, data, ["embed", "resid_post.*"])
    clean = probes.concept_depth(store, "label", **QUICK)
    calls = []
    inner = probes.perturb.concept_depth
    monkeypatch.setattr(
        probes.perturb, "concept_depth", lambda *a, **k: calls.append(1) or inner(*a, **k)
    )
    (found,) = perturbation_effect(gpt2, data, "int8", clean={"label": clean}, **QUICK)
    assert len(calls) == 1 and found.clean["peak"] == clean.peak
    (made,) = perturbation_effect(gpt2, data, "int8", **QUICK)
    saved = probes.ConceptDepth.load(clean.save(tmp_path / "clean.json"))
    (loaded,) = perturbation_effect(gpt2, data, "int8", clean={"label": saved}, **QUICK)
    assert made.runs == loaded.runs == found.runs
    calls.clear()
    old = replace(clean, hits=None, group_sizes=None, rows_hash=None)
    (anew,) = perturbation_effect(gpt2, data, "int8", clean={"label": old}, **QUICK)
    assert len(calls) == 2 and anew.runs == found.runs


def test_a_clean_result_of_something_else_is_refused(gpt2, data, tiny, tokenizer, monkeypatch):
    import probes.perturb

    def clean(model, data, **options):
        store = interp.capture(model, data, ["embed", "resid_post.*"])
        return {"label": probes.concept_depth(store, "label", **{**QUICK, **options})}

    mine = clean(gpt2, data)
    other = replace(data, inputs=[t + " w9" for t in data.inputs])
    captures = []
    inner = probes.perturb.Capture
    monkeypatch.setattr(probes.perturb, "Capture", lambda *a: captures.append(1) or inner(*a))
    with pytest.raises(DataError, match="is of other data than things"):
        perturbation_effect(gpt2, data, "int8", clean=clean(gpt2, other), **QUICK)
    with torch.no_grad():
        gpt2.module.transformer.wte.weight.mul_(2)
    with pytest.raises(DataError, match="is of another model than tiny"):
        perturbation_effect(gpt2, data, "int8", clean=mine, **QUICK)
    assert captures == []  # before anything is captured
    for kind, options, says in (
        (DataError, {"seed": 1}, "same rows, classes, groups and folds"),
        (ParameterError, {"permutations": 3}, "same permutations"),
    ):
        wrong = clean(gpt2, data, **options)
        with pytest.raises(kind, match=says):
            perturbation_effect(gpt2, data, ["int8", "int4"], clean=wrong, **QUICK)
    assert captures == [1, 1]  # after the first run, not after all


def test_what_does_not_fit_is_refused(gpt2, data, tiny):
    with pytest.raises(ParameterError, match="which tokens a text has"):
        perturbation_effect(gpt2, data, ["swap"], pool="all")
    vit = interp.load(tiny("vit"))
    images = read((torch.randn(4, 3, 16, 16), [0, 1, 0, 1]))
    with pytest.raises(DataError, match="disturbs text"):
        perturbation_effect(vit, images, ["prefix"])
    with pytest.raises(DataError, match="no label column"):
        perturbation_effect(gpt2, read(["w3", "w4"]), ["int8"])
    with pytest.raises(ParameterError, match="no perturbation was asked for"):
        perturbation_effect(gpt2, data, [])


def test_images_take_what_is_not_text(tiny):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(24, 3, 16, 16, generator=generator)
    images[::2] += 1
    data = read((images, [0, 1] * 12), name="squares")
    (found,) = perturbation_effect(
        interp.load(tiny("vit")), data, "all", pool="mean", hookpoints="resid_post.*", **QUICK
    )
    assert [r["kind"] for r in found.runs] == ["gaussian", "bfloat16", "int8", "int4"]


def test_a_convolutional_net_has_no_embedding_to_disturb():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2)).eval()
    images = torch.randn(24, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    images[::2] += 1
    data = read((images, [0, 1] * 12), name="squares")
    settings = {"hookpoints": ["0", "3"], "pool": "mean", **QUICK}
    (found,) = perturbation_effect(interp.load(net), data, "all", **settings)
    assert [r["kind"] for r in found.runs] == ["bfloat16", "int8", "int4"]
    with pytest.raises(ModelError, match="0 stacks of blocks"):
        perturbation_effect(interp.load(net), data, "gaussian", **settings)
