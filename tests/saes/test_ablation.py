"""Latents taken out of a running model: what changes, what must not, and how much is lost."""

import numpy as np
import pytest
import torch

import interp
import saes
from interp.errors import DataError, ParameterError, ShapeError

POINT = "resid_post.1"


@pytest.fixture
def lm(tiny, tokenizer):
    return interp.load(tiny("gpt2"), tokenizer=tokenizer())


@pytest.fixture
def sae():
    generator = torch.Generator().manual_seed(0)
    sae = saes.TopKSAE(saes.TopKConfig(n_latents=48, k=6), 32, generator=generator)
    with torch.no_grad():
        sae.b_dec += 0.1 * torch.randn(32, generator=generator)
        sae.b_enc[5] = -1e9  # never fires
    return sae.eval()


@pytest.fixture
def busy(lm, sae, texts):
    """Two latents that fire at some tokens and not at others, commoner first."""
    found = saes.features(sae, lm, texts, POINT)
    some = np.flatnonzero((found.density > 0.05) & (found.density < 0.5))
    return some[np.argsort(-found.density[some], kind="stable")][:2].tolist()


def logits(lm, texts):
    with torch.no_grad():
        return lm(texts).logits


def hooks(lm):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in lm.module.modules())


def test_a_latent_that_never_fires_changes_no_bit(lm, sae, texts):
    before = logits(lm, texts)
    with saes.ablate_latents(lm, sae, POINT, [5]):
        assert torch.equal(logits(lm, texts), before)
    _, acts = interp.run_with_cache(lm, texts[:1], POINT)
    fires = int(sae.encode(acts[POINT])[0, 0].argmax())
    with saes.ablate_latents(lm, sae, POINT, [fires]):
        assert not torch.equal(logits(lm, texts), before)
    assert torch.equal(logits(lm, texts), before) and hooks(lm) == 0


def test_all_latents_and_the_bias_leave_the_error(lm, sae, texts):
    with interp.splice(lm, POINT, lambda x: x - sae(x).output):
        error = logits(lm, texts)
    with saes.ablate_latents(lm, sae, POINT, None, bias=True):
        assert torch.allclose(logits(lm, texts), error, atol=1e-4)
    with saes.ablate_latents(lm, sae, POINT, None):
        assert not torch.allclose(logits(lm, texts), error, atol=1e-2)


def test_what_is_subtracted_by_hand(lm, sae, busy, texts):
    i, j = busy
    _, acts = interp.run_with_cache(lm, texts, POINT)
    x = acts[POINT]
    z = sae.encode(x).detach()
    wanted = x - z[..., [i]] * sae.W_dec[i].detach() - z[..., [j]] * sae.W_dec[j].detach()
    with saes.ablate_latents(lm, sae, POINT, busy), torch.no_grad():
        with interp.record(lm, "resid_pre.2") as after:
            lm(texts)
    assert torch.allclose(after["resid_pre.2"], wanted, atol=1e-5)
    assert not torch.allclose(wanted, x, atol=1e-2)


def test_hooks_go_also_after_an_exception(lm, sae, texts):
    with pytest.raises(RuntimeError, match="mine"):
        with saes.ablate_latents(lm, sae, POINT, [1]):
            assert hooks(lm) == 1
            raise RuntimeError("mine")
    assert hooks(lm) == 0
    narrow = saes.TopKSAE(saes.TopKConfig(n_latents=8, k=2), 16)
    with pytest.raises(ShapeError):
        with saes.ablate_latents(lm, narrow, POINT, [1]):
            logits(lm, texts)
    assert hooks(lm) == 0


def test_the_effect_against_single_texts(lm, sae, busy, texts):
    latent = busy[0]
    found = saes.ablation_effect(sae, lm, texts, POINT, [5, *busy], controls=2, batch_size=4)
    loss, change, kl, firing, fires, n = 0.0, 0.0, 0.0, 0.0, 0, 0
    for text in (t for t in texts if " " in t):
        ids = torch.tensor(lm.tokenize([text])[0])
        _, acts = interp.run_with_cache(lm, [text], POINT)
        on = sae.encode(acts[POINT])[0, :-1, latent] > 0
        p = logits(lm, [text])[0, :-1].double().log_softmax(-1)
        with saes.ablate_latents(lm, sae, POINT, [latent]):
            q = logits(lm, [text])[0, :-1].double().log_softmax(-1)
        rise = (p - q)[torch.arange(len(p)), ids[1:]]
        loss -= float(p[torch.arange(len(p)), ids[1:]].sum())
        change, kl = change + float(rise.sum()), kl + float((p.exp() * (p - q)).sum())
        firing, fires, n = firing + float(rise[on].sum()), fires + int(on.sum()), n + len(p)
    assert found.n == n and fires > 0
    assert found.density[1] == fires / n
    assert found.loss == pytest.approx(loss / n, rel=1e-5)
    assert found.loss_change[1] == pytest.approx(change / n, rel=1e-3)
    assert found.kl[1] == pytest.approx(kl / n, rel=1e-3) and found.kl[1] > 0
    assert found.loss_change_firing[1] == pytest.approx(firing / fires, rel=1e-3)
    assert found.loss_low[1] <= found.loss_change[1] <= found.loss_high[1]
    assert found.kl_low[1] < found.kl[1] < found.kl_high[1]
    assert found.loss_change[1] != found.loss_change[2]


def test_a_dead_latent_has_no_effect_and_no_control(lm, sae, busy, texts):
    found = saes.ablation_effect(sae, lm, texts, POINT, [5, busy[0]], controls=2)
    assert found.density[0] == found.loss_change[0] == found.kl[0] == found.kl_high[0] == 0
    assert np.isnan(found.kl_firing[0]) and "[5]" in found.reasons["loss_change_firing"]
    assert (found.controls[0] == -1).all() and np.isnan(found.control_kl[0]).all()
    assert found.metrics()["control_kl"][0] is None and found.metrics()["control_kl"][1] > 0


def test_controls_are_other_latents_of_similar_density(lm, sae, busy, texts):
    found = saes.ablation_effect(sae, lm, texts, POINT, busy, controls=1)
    assert not {5, *busy} & set(found.controls.ravel().tolist())
    few = saes.ablation_effect(sae, lm, texts, POINT, busy, controls=100)
    every = few.control_density[0]
    every = every[np.isfinite(every)]
    assert len(every) < 46 and (every > 0).all()  # all others that fire
    far = np.sort(np.abs(np.log(every / found.density[0])))
    assert abs(np.log(found.control_density[0, 0] / found.density[0])) <= far[9] < far[-1]
    again = saes.ablation_effect(sae, lm, texts, POINT, busy, controls=1)
    assert again.to_frame().equals(found.to_frame())
    other = saes.ablation_effect(sae, lm, texts, POINT, busy, controls=1, seed=1)
    assert not np.array_equal(other.controls, found.controls)
    none = saes.ablation_effect(sae, lm, texts, POINT, busy[:1], controls=0)
    assert none.kl[0] == found.kl[0] and np.isnan(none.to_frame()["control_kl"][0])


def test_results_survive_the_file(lm, sae, busy, texts, tmp_path):
    found = saes.ablation_effect(sae, lm, texts, POINT, busy, controls=1)
    again = saes.Ablation.load(found.save(tmp_path / "a.json"))
    assert again.metrics() == found.metrics()


def test_bad_input_ends_in_a_sentence(lm, sae, texts):
    for latents, said in (
        ([48], "0 to 47"),
        ([-1], "0 to 47"),
        ([], "at least one"),
        ([1, 1], "each once"),
    ):
        with pytest.raises(ParameterError, match=said):
            saes.ablation_effect(sae, lm, texts, POINT, latents)
    with pytest.raises(ParameterError, match="0 to 47"):
        with saes.ablate_latents(lm, sae, POINT, [48]):
            pass
    with pytest.raises(DataError, match="two tokens"):
        saes.ablation_effect(sae, lm, ["w1", "w2"], POINT, [1])
    other = saes.Transcoder(saes.TranscoderConfig(n_latents=8, k=2), 32, 32)
    with pytest.raises(ParameterError, match="does not write where it reads"):
        with saes.ablate_latents(lm, other, POINT, [1]):
            pass
