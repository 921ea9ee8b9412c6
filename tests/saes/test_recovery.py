"""Losses against each text run alone, and what a perfect, an empty and a constant SAE recover."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.functional import cross_entropy, kl_div

import interp
from interp.errors import DataError, LayerNotFound, ModelError, ParameterError, ShapeError
from interp.models import Model
from interp.results import Result
from saes import TopKConfig, TopKSAE, loss_recovered
from saes.recovery import _intervals, _measures

WHERE = "resid_post.1"


@pytest.fixture
def spoken(gpt2):
    """Texts of several lengths that the model itself would write, so that it predicts them."""
    texts = []
    for i in range(8):
        ids = [2 + 9 * i]
        while len(ids) < 3 + i:
            with torch.no_grad():
                logits = gpt2.module(torch.tensor([ids])).logits[0, -1]
            ids.append(2 + int(logits[2:98].argmax()))
        texts.append(" ".join(f"w{j}" for j in ids))
    return [*texts, "w5"]  # one token predicts nothing


def linear_sae(d=32, *, keep=None, b_dec=None):
    """Plus and minus the unit vectors; with ``keep`` only so many dimensions come back."""
    eye = torch.eye(d)
    sae = TopKSAE(TopKConfig(n_latents=2 * d, k=d), d)
    with torch.no_grad():
        sae.encoder.copy_(torch.cat([eye, -eye]))
        decoder = eye.clone()
        decoder[d if keep is None else keep :] = 0
        sae.decoder.copy_(torch.cat([decoder, -decoder]))
        if b_dec is not None:
            sae.b_dec.copy_(b_dec)
    return sae


def alone(model, texts, change=None):
    """Mean loss a token and log-probabilities, each text run alone without pads."""
    losses, logs = [], []
    for text in texts:
        ids = torch.tensor(model.tokenize([text]))
        with torch.no_grad():
            if change is None:
                logits = model.module(ids).logits
            else:
                with interp.splice(model, WHERE, change):
                    logits = model.module(ids).logits
        losses += cross_entropy(logits[0, :-1].double(), ids[0, 1:], reduction="none").tolist()
        logs.append(logits[0, :-1].double().log_softmax(1))
    return np.mean(losses), torch.cat(logs)


def test_losses_are_those_of_each_text_alone(gpt2, spoken):
    sae = linear_sae(keep=20)
    r = loss_recovered(gpt2, sae, spoken, WHERE, draws=20)
    acts = interp.capture(gpt2, spoken[:-1], WHERE, pool="all")[WHERE][:]
    mean = acts.double().mean(0).float()
    clean, p = alone(gpt2, spoken)
    spliced, q = alone(gpt2, spoken, lambda x: sae(x).output)
    zero, _ = alone(gpt2, spoken, torch.zeros_like)
    flat, _ = alone(gpt2, spoken, lambda x: mean.expand_as(x))
    for found, wanted in zip(
        (r.ce_clean, r.ce_spliced, r.ce_zero, r.ce_mean),
        (clean, spliced, zero, flat),
        strict=True,
    ):
        assert found == pytest.approx(wanted, rel=1e-5)
    assert len({round(v, 4) for v in (clean, spliced, zero, flat)}) == 4
    assert clean < min(zero, flat)
    assert r.kl == pytest.approx(float(kl_div(q, p, log_target=True, reduction="sum")) / len(p),
                                 rel=1e-4)  # fmt: skip
    assert r.recovered_zero == pytest.approx((zero - spliced) / (zero - clean), rel=1e-4)
    assert r.recovered_mean == pytest.approx((flat - spliced) / (flat - clean), rel=1e-4)
    assert r.ce_increase == pytest.approx(spliced - clean, rel=1e-4)
    assert (r.n, r.n_texts, r.documents) == (len(p), 8, 8)


@pytest.mark.parametrize("size", [1, 3, 20])
def test_pads_and_batches_change_nothing(gpt2, spoken, size):
    sae = linear_sae(keep=20)
    one = loss_recovered(gpt2, sae, spoken, WHERE, batch_size=size, draws=5)
    two = loss_recovered(gpt2, sae, spoken[::-1], WHERE, draws=5)
    for name in ("ce_clean", "ce_spliced", "ce_zero", "ce_mean", "recovered_mean", "kl"):
        assert getattr(one, name) == pytest.approx(getattr(two, name), rel=1e-4), name
    fewer = loss_recovered(gpt2, sae, spoken[:4], WHERE, draws=5)
    assert fewer.ce_clean != pytest.approx(one.ce_clean, rel=1e-4)


def test_a_perfect_sae_recovers_everything(gpt2, spoken):
    r = loss_recovered(gpt2, linear_sae(), spoken, WHERE, draws=20)
    assert r.recovered_zero == r.recovered_mean == 1
    assert r.ce_spliced == r.ce_clean and r.kl == r.ce_increase == 0
    assert r.intervals["recovered_zero"] == (1, 1) and r.intervals["kl"] == (0, 0)


def test_an_empty_sae_is_the_ablation(gpt2, spoken):
    zero = loss_recovered(gpt2, linear_sae(keep=0), spoken, WHERE, draws=5)
    assert zero.ce_spliced == zero.ce_zero and zero.recovered_zero == 0
    assert zero.recovered_mean != 0 and zero.kl > 0.1
    acts = interp.capture(gpt2, spoken[:-1], WHERE, pool="all")[WHERE][:]
    mean = linear_sae(keep=0, b_dec=acts.double().mean(0).float())
    r = loss_recovered(gpt2, mean, spoken, WHERE, draws=5)
    assert r.ce_spliced == pytest.approx(r.ce_mean, rel=1e-6)
    assert r.recovered_mean == pytest.approx(0, abs=1e-5) and abs(r.recovered_zero) > 1e-3


def test_a_transcoder_replaces_what_it_predicts(gpt2, spoken):
    eye = torch.eye(32)
    sae = TopKSAE(TopKConfig(n_latents=64, k=32), 32, 32)
    with torch.no_grad():
        sae.encoder.copy_(torch.cat([eye, -eye]))
        sae.decoder.copy_(torch.cat([eye, -eye]))
    r = loss_recovered(gpt2, sae, spoken, "mlp_out.0", out_hookpoint="mlp_out.1", draws=5)
    losses = []
    for text in spoken:
        ids = torch.tensor(gpt2.tokenize([text]))
        _, cache = interp.run_with_cache(gpt2, ids, "mlp_out.0")
        with torch.no_grad(), interp.patch(gpt2, {"mlp_out.1": cache["mlp_out.0"]}):
            logits = gpt2.module(ids).logits
        losses += cross_entropy(logits[0, :-1].double(), ids[0, 1:], reduction="none").tolist()
    assert r.ce_spliced == pytest.approx(np.mean(losses), rel=1e-5)
    assert r.ce_spliced != pytest.approx(r.ce_clean, rel=1e-3)
    assert (r.hookpoint, r.out_hookpoint) == ("mlp_out.0", "mlp_out.1")
    with pytest.raises(ParameterError, match="mlp_out.0 fires before mlp_out.1"):
        loss_recovered(gpt2, sae, spoken, "mlp_out.1", out_hookpoint="mlp_out.0")
    with pytest.raises(ParameterError, match="needs out_hookpoint"):
        loss_recovered(gpt2, sae, spoken, "mlp_out.1")


def test_measures_by_hand():
    values, reasons = _measures(np.array([10.0, 20, 25, 40, 30, 4]))
    assert values == {
        "recovered_zero": 0.75,
        "recovered_mean": 0.5,
        "ce_increase": 0.5,
        "kl": 0.4,
    }
    assert not reasons
    values, reasons = _measures(np.array([10.0, 20, 25, 40, 20, 4]))
    assert values["recovered_mean"] is None and values["recovered_zero"] == 0.75
    assert "does not raise the loss (2.0000 from 2.0000)" in reasons["recovered_mean"]
    worse, _ = _measures(np.array([10.0, 20, 50, 40, 30, 4]))
    assert worse["recovered_zero"] == -0.5


def test_intervals_are_over_documents():
    rng = np.random.default_rng(0)
    n = 400
    tokens = rng.integers(5, 20, n).astype(float)
    clean = tokens * rng.normal(2, 0.2, n)
    table = np.stack([tokens, clean, clean + 0.5 * tokens * rng.normal(1, 0.3, n),
                      clean + 3 * tokens, clean + 2 * tokens, 0.1 * tokens], 1)  # fmt: skip
    found, reasons = _intervals(table, 500, 0)
    low, high = found["ce_increase"]
    value = _measures(table.sum(0))[0]["ce_increase"]
    assert low < value < high and not reasons
    ratio = table[:, 2] - table[:, 1] - value * tokens
    error = 1.96 * math.sqrt((ratio**2).sum()) / tokens.sum()  # the delta method
    assert high - low == pytest.approx(2 * error, rel=0.15)
    assert found["kl"] == pytest.approx((0.1, 0.1))
    assert _intervals(table, 500, 0)[0] == found
    twice, _ = _intervals(np.repeat(table, 4, 0), 500, 0)
    assert twice["ce_increase"][1] - twice["ce_increase"][0] < 0.7 * (high - low)
    table[:, 4] = clean + tokens * rng.normal(0, 1, n)
    undefined, reasons = _intervals(table, 200, 0)
    assert undefined["recovered_mean"] is None and undefined["recovered_zero"] is not None
    assert "of 200 draws" in reasons["intervals.recovered_mean"]
    one, reasons = _intervals(table[:1], 10, 0)
    assert set(one.values()) == {None} and "one document" in reasons["intervals"]


def test_groups_are_the_documents(gpt2, spoken):
    table = pd.DataFrame({"text": spoken, "group": ["a", "b"] * 4 + ["a"]})
    r = loss_recovered(gpt2, linear_sae(keep=20), table, WHERE, draws=50)
    assert r.documents == 2 and r.n_texts == 8
    one = loss_recovered(gpt2, linear_sae(keep=20), table.assign(group="a"), WHERE, draws=50)
    assert set(one.intervals.values()) == {None} and one.kl == r.kl


def test_the_model_is_left_as_it_was(gpt2, spoken):
    before, _ = alone(gpt2, spoken)
    loss_recovered(gpt2, linear_sae(keep=3), spoken, WHERE, draws=2)
    with pytest.raises(ShapeError):
        loss_recovered(gpt2, linear_sae(16), spoken, WHERE, draws=2)
    assert alone(gpt2, spoken)[0] == before
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in gpt2.module.modules())


def test_saved_and_loaded(gpt2, spoken, tmp_path):
    r = loss_recovered(gpt2, linear_sae(keep=20), spoken, WHERE, draws=5)
    back = Result.load(r.save(tmp_path / "r.json"))
    assert back.metrics() == r.metrics() and len(back.to_frame()) == 8
    assert r.provenance["model"]["spec"] == "tiny"


def test_what_has_no_loss_is_refused(gpt2, tiny, tokenizer, spoken):
    sae = linear_sae()
    with pytest.raises(ParameterError, match="out_hookpoint is for transcoders"):
        loss_recovered(gpt2, sae, spoken, WHERE, out_hookpoint="resid_post.2")
    with pytest.raises(ParameterError, match="means several"):
        loss_recovered(gpt2, sae, spoken, "resid_post.*")
    with pytest.raises(LayerNotFound, match="resid_post.9"):
        loss_recovered(gpt2, sae, spoken, "resid_post.9")
    with pytest.raises(DataError, match="no text of data has two tokens"):
        loss_recovered(gpt2, sae, ["w5", "w6"], WHERE)
    with pytest.raises(DataError, match="holds no texts"):
        loss_recovered(gpt2, sae, torch.zeros(3, 4), WHERE)
    with pytest.raises(ParameterError, match="at least 1"):
        loss_recovered(gpt2, sae, spoken, WHERE, draws=0)
    bert = Model(tiny("bert"), spec="bert", tokenizer=tokenizer())
    t5 = Model(tiny("t5"), spec="t5", tokenizer=tokenizer())
    for model, match in ((bert, "no language model"), (t5, "encoder-decoder")):
        with pytest.raises(ModelError, match=match):
            loss_recovered(model, sae, spoken, WHERE)


def test_mean_activation_of_a_model_that_flattens_its_texts(tiny, tokenizer, spoken):
    opt = Model(tiny("opt"), spec="opt", tokenizer=tokenizer())
    r = loss_recovered(opt, linear_sae(48), spoken, "mlp_act.1", draws=2)
    assert r.ce_spliced == r.ce_clean
    assert r.ce_mean != r.ce_clean
