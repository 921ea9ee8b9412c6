"""Steering and the logit lens against hand computations, and the random control."""

import random
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import interp
import probes
from interp.data import read
from interp.errors import DataError, LayerNotFound, ModelError, ParameterError, ShapeError
from interp.models import Model
from probes import LogitLens, Steering, logit_lens, steering_effect
from probes.concepts import Concept
from probes.steering import _shares, _step, check_language_model, stream_hookpoints

QUICK = {"folds": 3, "permutations": 2, "strengths": (0.01, 1.0)}
ANSWERS = {"no": ["w20", "w21"], "yes": ["w30"]}
LAST = "resid_post.2"


@pytest.fixture
def data():
    """Forty texts of unequal length; the last word gives the class away."""
    rng = random.Random(0)
    rows = []
    for i in range(40):
        words = [f"w{rng.randrange(60, 90)}" for _ in range(2 + i % 3)]
        rows.append({"text": " ".join([*words, f"w{2 + 40 * (i % 2) + i % 3}"]),
                     "label": ["no", "yes"][i % 2]})  # fmt: skip
    return read(pd.DataFrame(rows), name="things")


@pytest.fixture
def depth(gpt2, data):
    store = interp.capture(gpt2, data, ["resid_post.*"])
    return probes.concept_depth(store, "label", **QUICK)


def test_the_log_odds_are_those_of_a_hand_computation(gpt2, data, depth):
    alphas = (-2.0, 0.0, 0.5, 3.0)
    found = steering_effect(gpt2, data, depth, LAST, alphas, answers=ANSWERS, directions=2)
    X = interp.capture(gpt2, data, [LAST])[LAST][:].double()
    yes = torch.tensor((data.rows["label"] == "yes").to_numpy())
    unit = depth.direction(LAST).double()
    step = float(X[yes].mean(0) @ unit - X[~yes].mean(0) @ unit)
    assert found.step == pytest.approx(step) and step > 0
    gpt2.module.double()
    norm, head = gpt2.module.transformer.ln_f, gpt2.module.lm_head
    for a, alpha in enumerate(alphas):
        with torch.no_grad():
            p = head(norm(X + alpha * step * unit)).softmax(-1)
        odds = (p[:, 30] / (p[:, 20] + p[:, 21])).log()
        assert found.log_odds[a] == pytest.approx(odds.mean().item(), abs=1e-4)
        assert found.positive[a] == (odds > 0).double().mean()
        assert found.right[a] == ((odds > 0) == yes).double().mean()
        assert found.log_odds_low[a] <= found.log_odds[a] <= found.log_odds_high[a]
        if alpha == 0:
            mass = p[:, [20, 21, 30]].sum(1).mean().item()
            assert found.answer_mass == pytest.approx(mass, abs=1e-6)
            assert any("hardly says" in note for note in found.notes) == (mass < 0.01)
    assert found.flipped[1] == 0 and found.alphas == alphas
    assert found.answers == {"no": ["w20", "w21"], "yes": ["w30"]}


def test_the_unembedding_s_own_direction_flips_answers_and_random_ones_do_not(gpt2, data, depth):
    """The best direction there is: from the tokens of one answer to that of the other."""
    weight = gpt2.module.lm_head.weight.detach()
    best = (weight[30] - weight[[20, 21]].mean(0)).numpy()[None]
    made = replace(depth, directions={LAST: best})
    # the step is small where a direction hardly tells the classes apart, so alpha is large
    alphas = (-40.0, 0.0, 40.0)
    found = steering_effect(gpt2, data, made, LAST, alphas, answers=ANSWERS)
    assert np.sign(found.step) * found.slope > 4 * abs(found.random_slope)
    assert found.flipped[[0, 2]].max() > 0.25
    assert found.flipped[[0, 2]].max() > 2 * found.random_flipped[[0, 2]].max()
    assert (found.random_low <= found.random_log_odds).all()
    assert (found.random_log_odds <= found.random_high).all()


def test_batches_and_seeds(gpt2, data, depth):
    def run(**more):
        settings = {"answers": ANSWERS, "alphas": (1.0,), **more}
        return steering_effect(gpt2, data, depth, LAST, **settings)

    one = run()
    assert one.alphas == (0.0, 1.0)  # what flips is measured against no steering
    np.testing.assert_allclose(run(batch_size=3).log_odds, one.log_odds, atol=1e-4)
    assert run().metrics() == one.metrics()
    other = run(seed=1)
    np.testing.assert_allclose(other.log_odds, one.log_odds, atol=1e-6)
    assert not np.allclose(other.random_log_odds[1], one.random_log_odds[1], atol=1e-6)
    assert run(rows=10).n == 10
    assert not gpt2.module.transformer.h[2]._forward_hooks


def test_it_is_saved_and_read(gpt2, data, depth, tmp_path):
    found = steering_effect(gpt2, data, depth, answers=ANSWERS, rows=12)
    assert found.hookpoint == depth.peak_hookpoint
    again = Steering.load(found.save(tmp_path / "a.json"))
    assert again.metrics() == found.metrics() and again.notes == found.notes
    assert list(found.to_frame()["alpha"]) == list(found.alphas)


def test_the_classes_names_are_the_default_answers(gpt2, data, depth):
    names = {"no": "w20", "yes": "w30"}
    rows = data.rows.assign(label=[names[v] for v in data.rows["label"]])
    named = replace(data, rows=rows)
    store = interp.capture(gpt2, named, [LAST])
    depth = probes.concept_depth(store, "label", **QUICK)
    found = steering_effect(gpt2, named, depth, rows=8, alphas=(1.0,))
    assert found.answers == {"w20": ["w20"], "w30": ["w30"]}
    assert "w20 is answered by 'w20'; w30 is answered by 'w30'." in found.notes


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"answers": {"no": ["w2"]}}, ParameterError, "the classes are no, yes"),
        ({"answers": {"no": ["w2 w3"], "yes": ["w4"]}}, ParameterError, "no single token"),
        ({"answers": {"no": ["w2"], "yes": ["w2"]}}, ParameterError, "share a token"),
        ({"answers": None}, ParameterError, "'no' is no single token"),
        ({"alphas": []}, ParameterError, "finite numbers"),
        ({"alphas": [float("nan")]}, ParameterError, "finite numbers"),
        ({"directions": 0}, ParameterError, "at least 1"),
        ({"pool": "all"}, ParameterError, "each token has a row"),
        ({"hookpoint": "resid_post.7"}, LayerNotFound, "resid_post.7"),
    ],
)
def test_refusals(gpt2, data, depth, change, error, says):
    with pytest.raises(error, match=says):
        steering_effect(gpt2, data, depth, **{"answers": ANSWERS, **change})


def test_more_refusals(gpt2, data, depth, tiny):
    with pytest.raises(ModelError, match="no language model"):
        steering_effect(tiny("bert"), data, depth, answers=ANSWERS)
    with pytest.raises(DataError, match="holds no texts"):
        steering_effect(gpt2, read(torch.zeros(3, 2)), depth, answers=ANSWERS)
    three = replace(depth, classes=("a", "b", "c"))
    with pytest.raises(ParameterError, match="two classes; things.label has 3"):
        steering_effect(gpt2, data, three, answers=ANSWERS)
    numbers = replace(depth, classes=("0", "1"))
    with pytest.raises(ParameterError, match="are numbers"):
        steering_effect(gpt2, data, numbers)
    other = replace(depth, classes=("bad", "good"))
    with pytest.raises(DataError, match="the direction was fitted for bad, good"):
        steering_effect(gpt2, data, other, answers={"bad": ["w2"], "good": ["w3"]})


# -- what is degenerate --------------------------------------------------------------------------


def test_the_last_class_is_the_one_that_counts(gpt2, data, depth):
    """With the classes turned, the direction, the answers and what is right turn with them."""
    store = interp.capture(gpt2, data, ["resid_post.*"])
    turned = probes.concept_depth(store, "label", positive="no", **QUICK)
    assert turned.classes == ("yes", "no")
    keep = [i for i in range(40) if i % 4]  # ten of "no", twenty of "yes"
    some = replace(data, inputs=[data.inputs[i] for i in keep],
                   rows=data.rows.iloc[keep].reset_index(drop=True))  # fmt: skip
    alphas = (-2.0, 0.0, 2.0)
    one = steering_effect(gpt2, some, depth, LAST, alphas, answers=ANSWERS)
    other = steering_effect(gpt2, some, turned, LAST, alphas, answers=ANSWERS)
    assert one.step > 0 and other.step == pytest.approx(one.step, rel=1e-3)
    np.testing.assert_allclose(other.log_odds, -one.log_odds[::-1], atol=1e-3)
    np.testing.assert_allclose(other.right, one.right[::-1])
    assert not np.allclose(one.right, 1 - one.right), "else the order of classes would not show"


def test_a_rare_class_is_among_the_chosen_rows(gpt2, data, depth):
    keep = [i for i in range(40) if i % 2 == 0 or i == 7]  # twenty and one
    rare = replace(data, inputs=[data.inputs[i] for i in keep],
                   rows=data.rows.iloc[keep].reset_index(drop=True))  # fmt: skip
    for seed in range(5):  # of three rows at random, six of seven times none is of the rare class
        found = steering_effect(
            gpt2, rare, depth, LAST, (1.0,), answers=ANSWERS, rows=3, directions=1, seed=seed
        )
        assert found.n == 3 and np.isfinite(found.step)


@pytest.mark.parametrize(("first", "rows"), [(1, 2), (1, 39), (39, 2), (39, 39), (20, 7), (38, 5)])
def test_each_class_has_its_share_of_the_rows(first, rows):
    y = np.random.default_rng(0).permutation(np.repeat([0, 1], [first, 40 - first]))
    chosen = _shares(y, rows, 0)
    assert len(set(chosen)) == rows == len(chosen) and (np.diff(chosen) > 0).all()
    ones = int(y[chosen].sum())
    assert 1 <= ones < rows
    assert abs(ones - rows * y.mean()) <= 0.5 or ones in (1, rows - 1)


def test_classes_that_do_not_differ_along_the_direction_give_no_unit(gpt2, data, depth):
    asked = replace(data, inputs=[f"{t} w9" for t in data.inputs])
    with pytest.raises(ParameterError, match="do not differ along the direction at embed"):
        # the embedding of a last word that all rows share, at positions that differ in rounding
        same = replace(data, inputs=["w4 w5 w9"] * 40)
        made = replace(depth, hookpoints=("embed",), directions={"embed": np.ones((1, 32))})
        steering_effect(gpt2, same, made, "embed", answers=ANSWERS)
    store = interp.capture(gpt2, asked, [LAST])
    after = probes.concept_depth(store, "label", **QUICK)
    assert steering_effect(gpt2, asked, after, LAST, (1.0,), answers=ANSWERS).step > 0


def test_a_difference_that_is_rounding_gives_no_unit():
    y = np.arange(40) % 2
    concept = Concept(np.arange(40), y, ("no", "yes"), None, ())
    unit = torch.ones(4, dtype=torch.float64) / 2
    gap = torch.from_numpy(y)[:, None] * torch.ones(4, dtype=torch.float64)
    with pytest.raises(ParameterError, match="do not differ along the direction at here"):
        _step(100 + 1e-6 * gap, concept, "here", unit)
    step, doubts = _step(100 + 1e-3 * gap, concept, "here", unit)
    assert step == pytest.approx(2e-3) and doubts == []


def test_a_direction_against_the_classes_means_is_said(gpt2, data, depth):
    against = replace(depth, directions={LAST: -depth.directions[LAST]})
    said = ("the other way round", "two standard errors")
    straight = steering_effect(gpt2, data, depth, LAST, (1.0,), answers=ANSWERS)
    assert not any(s in note for s in said for note in straight.notes)
    found = steering_effect(gpt2, data, against, LAST, (1.0,), answers=ANSWERS)
    assert found.step == pytest.approx(-straight.step)
    assert any(said[0] in note for note in found.notes)
    np.testing.assert_allclose(found.log_odds, straight.log_odds, atol=1e-5)  # the same vector
    X = interp.capture(gpt2, data, [LAST])[LAST][:].double().numpy()
    yes = (data.rows["label"] == "yes").to_numpy()
    gap = X[yes].mean(0) - X[~yes].mean(0)
    noise = np.random.default_rng(0).standard_normal(32)
    across = noise - noise @ gap / (gap @ gap) * gap + 1e-3 * gap  # nearly nothing of the gap
    weak = replace(depth, directions={LAST: across[None]})
    found = steering_effect(gpt2, data, weak, LAST, (1.0,), answers=ANSWERS)
    assert any(said[1] in note for note in found.notes)


def test_no_steering_at_all_has_no_slope(gpt2, data, depth):
    found = steering_effect(gpt2, data, depth, LAST, (0.0,), answers=ANSWERS)
    assert np.isnan(found.slope) and {"slope", "random_slope"} <= set(found.reasons)


def test_texts_are_cut_as_the_capture_cut_them(gpt2, data, depth):
    cut = replace(data, inputs=[" ".join(t.split()[:2]) for t in data.inputs])
    settings = {"hookpoint": LAST, "alphas": (1.0,), "answers": ANSWERS, "rows": None}
    long = steering_effect(gpt2, data, depth, max_length=2, **settings)
    short = steering_effect(gpt2, cut, depth, **settings)
    assert long.step == pytest.approx(short.step)
    np.testing.assert_allclose(long.log_odds, short.log_odds, atol=1e-6)
    whole = steering_effect(gpt2, data, depth, **settings)
    assert not np.allclose(whole.log_odds, short.log_odds, atol=1e-3)


def test_progress_counts_the_directions(gpt2, data, depth):
    seen = []
    steering_effect(gpt2, data, depth, LAST, (1.0,), answers=ANSWERS, directions=2,
                    progress=lambda *a: seen.append(a))  # fmt: skip
    assert [s[:2] for s in seen] == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert seen[0][2] == "the probe's direction"


@pytest.mark.parametrize("where", ["encoder.resid_post.1", "decoder.resid_post.1"])
def test_an_encoder_decoder_answers_at_the_decoder_s_first_position(tiny, tokenizer, data, where):
    model = Model(tiny("t5"), spec="tiny", tokenizer=tokenizer())
    changed = replace(data, inputs=[t + f" w{30 + i % 2}" for i, t in enumerate(data.inputs)])
    store = interp.capture(model, changed, [where])
    depth = probes.concept_depth(store, "label", **QUICK)
    found = steering_effect(
        model, changed, depth, where, (0.0, 3.0), answers=ANSWERS, directions=1, batch_size=4
    )
    vector = (found.step * depth.direction(where).double()).float()
    for a, alpha in enumerate(found.alphas):
        odds = []
        for ids in model.tokenize(changed.inputs):  # one at a time: no padding, no batch
            inputs = {"input_ids": torch.tensor([ids]), "decoder_input_ids": torch.tensor([[0]])}
            with torch.no_grad(), interp.steer(model, where, vector, alpha):
                logits = model.module(**inputs).logits
            assert logits.shape[:2] == (1, 1)
            p = logits[0, 0].double().softmax(-1)
            odds.append((p[30] / (p[20] + p[21])).log().item())
        assert found.log_odds[a] == pytest.approx(np.mean(odds), abs=1e-4)
    assert abs(found.log_odds[1] - found.log_odds[0]) > 1e-3
    assert any("the decoder's first position" in note for note in found.notes)


# -- the logit lens ------------------------------------------------------------------------------


def test_the_lens_by_hand(gpt2):
    v = torch.randn(32, generator=torch.Generator().manual_seed(0))
    norm, W = gpt2.module.transformer.ln_f, gpt2.module.lm_head.weight.detach().double()
    centred = (v - v.mean()).double()
    z = norm.weight.detach().double() * centred / centred.pow(2).mean().sqrt()
    logits = W @ z
    logits = (logits - logits.mean())[: len(gpt2.tokenizer)]
    found = logit_lens(gpt2, v, 4)
    order = logits.argsort(descending=True).tolist()
    assert list(found.raised_ids) == order[:4] and list(found.lowered_ids) == order[:-5:-1]
    assert found.raised[0] == gpt2.tokenizer.decode([order[0]])
    np.testing.assert_allclose(found.raised_logits, logits[order[:4]], rtol=1e-3)
    assert found.spread == pytest.approx(logits.std(correction=0).item(), rel=1e-3)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
def test_the_reading_is_linear(tiny, name):
    """Twice the direction names the same; its opposite names the same the other way round."""
    model = interp.load(tiny(name))
    v = torch.randn(32, generator=torch.Generator().manual_seed(1))
    one, twice, minus = logit_lens(model, v), logit_lens(model, 2 * v), logit_lens(model, -v)
    assert one.raised_ids == twice.raised_ids == minus.lowered_ids
    np.testing.assert_allclose(one.raised_logits, twice.raised_logits, rtol=1e-4)
    np.testing.assert_allclose(one.raised_logits, -minus.lowered_logits, rtol=1e-4)


def test_a_row_of_the_unembedding_names_its_token(gpt2):
    weight = gpt2.module.lm_head.weight.detach()
    hits = [logit_lens(gpt2, weight[i] / gpt2.module.transformer.ln_f.weight, 1).raised_ids[0] == i
            for i in range(2, 98)]  # fmt: skip
    assert np.mean(hits) > 0.9


def test_a_depth_gives_its_direction(gpt2, depth, tmp_path):
    found = logit_lens(gpt2, depth, 3)
    assert found.hookpoint == depth.peak_hookpoint and found.name == depth.name
    direct = logit_lens(gpt2, depth.direction(depth.peak_hookpoint), 3)
    assert direct.raised_ids == found.raised_ids
    assert LogitLens.load(found.save(tmp_path / "a.json")).metrics() == found.metrics()
    assert len(found.to_frame()) == 6 and len(logit_lens(gpt2, depth, 10**6).raised) == 100


def test_each_of_several_classes_has_its_lens(gpt2, data):
    rows = data.rows.assign(kind=["abc"[i % 3] for i in range(40)])
    store = interp.capture(gpt2, replace(data, rows=rows), [LAST])
    depth = probes.concept_depth(store, "kind", **QUICK)
    lenses = [logit_lens(gpt2, depth, 3, class_=c) for c in "abc"]
    assert [r.towards for r in lenses] == ["a", "b", "c"]
    assert len({r.raised_ids for r in lenses}) == 3
    direct = logit_lens(gpt2, depth.direction(LAST, "b"), 3)
    assert direct.raised_ids == lenses[1].raised_ids and direct.towards is None
    with pytest.raises(ParameterError, match="3 classes and a direction for each"):
        logit_lens(gpt2, depth)


def test_only_the_stream_that_is_unembedded_is_read(gpt2, tiny, depth):
    model = gpt2.module.transformer
    names = ["embed", "resid_pre.1", "resid_post.2", "transformer.h.0", "mlp_in.1", "attn_out.0"]
    assert model.h and stream_hookpoints(gpt2, names) == tuple(names[:4])
    t5 = interp.load(tiny("t5"))
    both = ["encoder.resid_post.1", "decoder.resid_post.1"]
    assert stream_hookpoints(t5, both) == ("decoder.resid_post.1",)
    away = replace(depth, hookpoints=("mlp_in.1",), directions={"mlp_in.1": np.ones((1, 32))})
    with pytest.raises(ParameterError, match="mlp_in.1 is not known to lie in it"):
        logit_lens(gpt2, away, hookpoint="mlp_in.1")
    assert logit_lens(gpt2, away.direction("mlp_in.1") + torch.arange(32)).hookpoint is None


def test_a_token_that_is_part_of_a_character_has_its_number():
    model = interp.load("demo:pylm")
    halves = [i for i in range(2048) if "\ufffd" in model.tokenizer.decode([i])]
    assert len(halves) > 1, "else nothing is told apart"
    found = logit_lens(model, torch.ones(128).cumsum(0), 2048)
    words = dict(zip(found.raised_ids, found.raised, strict=True))
    assert {words[i] for i in halves} >= {f"\ufffd (token {i})" for i in halves[:1]}
    assert sum("(token" in w for w in found.raised) == len(halves)


@pytest.mark.parametrize("decoder", [False, True])
def test_a_model_that_reads_from_both_sides_is_refused(tokenizer, data, decoder):
    from transformers import BertConfig, BertForMaskedLM, BertLMHeadModel

    config = BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, vocab_size=100,
                        intermediate_size=48, is_decoder=decoder)  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = (BertLMHeadModel if decoder else BertForMaskedLM)(config)
    model = Model(module, spec="tiny", tokenizer=tokenizer())
    if decoder:  # the same parts, masked to the left: it passes
        check_language_model(model)
        return
    depth = probes.concept_depth(interp.capture(model, data, ["resid_post.*"]), "label", **QUICK)
    for use in (
        lambda: logit_lens(model, depth),
        lambda: steering_effect(model, data, depth, answers=ANSWERS),
    ):
        with pytest.raises(ModelError, match="reads texts from both sides"):
            use()


def test_a_direction_of_what_no_layer_reads_is_doubted(gpt2, data, depth):
    unread = replace(depth, onset_hookpoint=None, onset_depth=None)
    for found in (
        logit_lens(gpt2, unread),
        steering_effect(gpt2, data, unread, LAST, (1.0,), answers=ANSWERS, directions=1),
    ):
        assert "may be noise" in found.reasons["direction"]
    known = replace(depth, onset_hookpoint=LAST)
    assert "direction" not in logit_lens(gpt2, known).reasons
    assert "direction" not in logit_lens(gpt2, depth.direction(LAST)).reasons


def test_lens_refusals(gpt2, tiny):
    with pytest.raises(ShapeError, match="reads vectors of 32; the direction has 31"):
        logit_lens(gpt2, torch.ones(31))
    with pytest.raises(ParameterError, match="zero or not finite"):
        logit_lens(gpt2, torch.zeros(32))
    with pytest.raises(ParameterError, match="k must be"):
        logit_lens(gpt2, torch.ones(32), 0)
    with pytest.raises(ModelError, match="no language model"):
        logit_lens(tiny("vit"), torch.ones(32))


def test_on_the_demo_model():
    """pylm tells apart places inside strings; the direction moves its answer, noise does not."""
    model, data = interp.load("demo:pylm"), read("demo:python")
    keep = data.rows["string"].notna().to_numpy().nonzero()[0][::3]
    rows = data.rows.iloc[keep].reset_index(drop=True)
    data = replace(data, inputs=[data.inputs[i] for i in keep], rows=rows, labels=("string",))
    store = interp.capture(model, data, ["resid_post.2", "resid_post.3"])
    depth = probes.concept_depth(store, "string", "file", **QUICK)
    answers = {"0": ["(", ")", ",", " ="], "1": [" the", " is", " of", " and"]}
    found = steering_effect(
        model, data, depth, "resid_post.3", (-2.0, 0.0, 2.0), answers=answers, rows=60
    )
    assert found.log_odds[0] < found.log_odds[1] < found.log_odds[2]
    assert found.slope > abs(found.random_slope)  # the largest of five random directions
    assert found.log_odds[2] > found.random_high[2] and found.log_odds[0] < found.random_low[0]
    assert found.flipped[[0, 2]].max() > 0.1
