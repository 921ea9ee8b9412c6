"""Reading and steering: patterns, records and searches on a model whose codes are known."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from interp.data import Dataset
from interp.errors import DataError, ModelError, ParameterError
from interp.results import Result
from saes.codebook import (
    CodebookConfig,
    CodePatterns,
    blocked,
    code_concepts,
    code_features,
    codes_on,
    insert,
    read_patterns,
    steer_codes,
)
from saes.codebook.generating import sample
from saes.codebook.steering import _random_codes


@pytest.fixture
def books(gpt2):
    """A codebook behind the first MLP that spells words: code i is chosen at word i."""
    books = insert(gpt2, "mlp_out.0", CodebookConfig(n_codes=100, k=1))
    with books.disabled(), torch.no_grad():
        import interp

        ids = torch.arange(2, 98)[:, None]
        with interp.record(gpt2, ["mlp_out.0"]) as held:
            gpt2({"input_ids": ids})
        book = books["mlp_out.0"]
        book.codes[2:98] = book.normed(held["mlp_out.0"].flatten(0, 1))
    return books


SINGLES = [f"w{i}" for i in range(2, 98)] * 6


def test_the_code_of_a_word_is_found(books, tmp_path):
    found = read_patterns(books, SINGLES, {"nine": r"w9$", "thirties": r"w3\d"}, name="words")
    assert isinstance(found, CodePatterns) and found.n == 576 and found.documents == 576
    nine, thirties = found.best()
    assert (nine.code, nine.precision, nine.recall, nine.fires) == (9, 1, 1, 6)
    assert nine.share == pytest.approx(1 / 96)
    assert thirties.code in range(30, 40) and thirties.precision == 1
    assert 0 < thirties.recall < 0.3  # one word of ten
    assert nine.neuron.split(":")[0] in {
        f"{r}.{i}" for r in ("attn_out", "mlp_out") for i in (0, 1, 2)
    }
    assert found.fired == {"mlp_out.0": 0.96}
    back = Result.load(found.save(tmp_path / "found.json"))
    assert back.metrics() == json.loads(json.dumps(found.metrics()))
    assert len(back.to_frame()) == 2
    none = read_patterns(books, SINGLES, {"no": "w1 w1", "nine": "w9$"})
    assert [r.pattern for r in none.best()] == ["nine"] and "no code fires" in none.reasons["no"]


def test_batches_and_pads_change_nothing(books, texts):
    whole = read_patterns(books, texts, {"ones": r"w\d*1\b"})
    longest_last = sorted(texts, key=len)
    other = read_patterns(books, longest_last, {"ones": r"w\d*1\b"})
    assert whole.n == other.n == sum(len(t.split()) for t in texts)
    assert whole.fired == other.fired


def test_records_of_codes(books):
    found = code_features(books, "mlp_out.0", SINGLES, top=2)
    assert found.fires[2:98].tolist() == [6] * 96 and found.fires[:2].tolist() == [0, 0]
    record = found[17]
    assert [e.tokens[e.at] for e in record.top] == [" w17", " w17"] or all(
        "w17" in e.tokens[e.at] for e in record.top
    )
    assert record.strongest == pytest.approx(2, abs=1e-4)  # 1 + the cosine of a row and itself
    assert found.hookpoint == "mlp_out.0" and found.architecture == "codebook"


def test_the_map_of_codes_and_concepts(books):
    import pandas as pd

    marks = [{len(t): "even" if int(t[1:]) % 2 == 0 else "odd"} for t in SINGLES]
    data = Dataset(
        name="words", kind="text", inputs=SINGLES,
        rows=pd.DataFrame({"text": SINGLES, "parity": None}),
        labels=("parity",), marks={"parity": marks},
    )  # fmt: skip
    frame = code_concepts(books, "mlp_out.0", data, "parity", documents=None)
    assert len(frame) == 96 and (frame["fires"] == 6).all()
    assert (frame.loc[[2, 40], "even"] == 1).all() and (frame.loc[[3, 41], "even"] == 0).all()
    assert np.allclose(frame["even"] + frame["odd"], 1)
    few = [one if int(t[1:]) < 20 else {} for t, one in zip(SINGLES, marks, strict=True)]
    half = replace(data, marks={"parity": few})
    best = read_patterns(books, half, {}, documents=None).best()
    assert [(r.pattern, r.share, r.precision) for r in best] == [
        ("parity=even", 0.5, 1.0),
        ("parity=odd", 0.5, 1.0),
    ]  # what has no label counts neither way
    with pytest.raises(DataError, match="marks no tokens for 'colour'; its columns are parity"):
        code_concepts(books, "mlp_out.0", data, "colour")


def test_which_codes_fire_on_a_text(books):
    frame = codes_on(books, "w5")
    assert frame["codes"].tolist() == [(5,)] and frame["hookpoint"].tolist() == ["mlp_out.0"]
    frame = codes_on(books, "w5 w9 w30")
    assert len(frame) == 3 and frame["position"].tolist() == [0, 1, 2]


def test_reading_leaves_the_model_as_it_was(books):
    books.disable()
    assert not books.enabled
    books.enable()
    read_patterns(books, SINGLES[:40], {"nine": "w9$"})
    assert books.enabled
    assert sum(len(m._forward_hooks) for m in books.model.module.modules()) == 1


def test_bad_data_ends_in_a_sentence(books, gpt2):
    with pytest.raises(DataError, match="holds no text"):
        read_patterns(books, torch.ones(3, 2), {"a": "w1"})
    with pytest.raises(ParameterError, match="needs a pattern"):
        read_patterns(books, SINGLES, {})
    with pytest.raises(ParameterError, match="documents must be at least 2"):
        read_patterns(books, SINGLES, {"a": "w9"}, documents=1)
    words, gpt2.tokenizer = gpt2.tokenizer, lambda texts, **o: {"input_ids": [[3]] * len(texts)}
    with pytest.raises(ModelError, match="does not say where its tokens lie"):
        read_patterns(books, SINGLES, {"a": "w9"})
    gpt2.tokenizer = words


def test_empty_slots_are_no_codes(books):
    with blocked(books, [("mlp_out.0", i) for i in range(50)], refill=False):
        found = read_patterns(books, SINGLES, {"nine": "w9$", "ninety": "w90$"})
        fires = code_features(books, "mlp_out.0", SINGLES).fires
    assert found.fired == {"mlp_out.0": 0.48} and found.best()[0].code == 90
    assert list(found.reasons) == ["nine"] and len(fires) == 100


# ---- steering


def test_random_codes_are_none_of_those_put_in(gpt2):
    books = insert(gpt2, "head_out.0", CodebookConfig(n_codes=4, k=2))
    codes = [("head_out.0", 4), ("head_out.0", 5)]
    for i in range(20):
        assert sorted(_random_codes(books, codes, 0, i)) == [("head_out.0", 6), ("head_out.0", 7)]
    assert len({tuple(_random_codes(books, codes[:1], 0, i)) for i in range(20)}) == 3
    whole = [("head_out.0", i) for i in range(4)]
    assert _random_codes(books, whole, 0, 0) == whole  # no other is left


def test_a_code_put_in_changes_what_is_said(gpt2):
    """A codebook over the last block decides the next word: each code says one word."""
    books = insert(gpt2, "resid_post.2", CodebookConfig(n_codes=300, k=1))
    said = books.model.unembedding()(books.model.final_norm()(books["resid_post.2"].codes))
    word = int(said[17].argmax())
    found = steer_codes(
        books, [("resid_post.2", 17)], rf"w{word}\b", ["w5 w9", "w3", ""],
        samples=4, tokens=5, temperature=0.2,
    )  # fmt: skip
    assert found.n == 12 and found.counts["with"] > found.counts["without"]
    assert found.counts["with"] > found.counts["random codes"]
    for condition, (low, high) in found.intervals.items():
        assert low <= found.counts[condition] / 12 <= high
    again = steer_codes(
        books, [("resid_post.2", 17)], rf"w{word}\b", ["w5 w9", "w3", ""],
        samples=4, tokens=5, temperature=0.2,
    )  # fmt: skip
    assert again.metrics() == found.metrics() and again.texts == found.texts
    assert found.to_frame()["of"].tolist() == [12] * 3
    with pytest.raises(ParameterError, match="codes of resid_post.2 are 0 to 299; got 300"):
        steer_codes(books, [("resid_post.2", 300)], "w", ["w5"])
    with pytest.raises(ParameterError, match="no regular expression"):
        steer_codes(books, [("resid_post.2", 3)], "(", ["w5"])
    with pytest.raises(ParameterError, match="needs a code, a prompt"):
        steer_codes(books, [], "w", ["w5"])


# ---- generating


def test_samples_have_the_chances_of_the_model(gpt2):
    ids = torch.tensor([[5, 9]]).expand(3000, -1)
    state = torch.random.get_rng_state()
    out = sample(gpt2, ids, 1, generator=torch.Generator().manual_seed(0))
    assert torch.equal(torch.random.get_rng_state(), state)
    with torch.no_grad():
        chances = gpt2({"input_ids": ids[:1]}).logits[0, -1].softmax(-1)
    share = np.bincount(out[:, -1].numpy(), minlength=100) / 3000
    error = np.abs(share - chances.numpy())
    assert (error < 4 * np.sqrt(chances.numpy() / 3000) + 1e-3).all()


def test_cold_samples_are_the_greedy_continuation(gpt2):
    ids = torch.tensor([[5, 9, 30]])
    out = sample(gpt2, ids, 6, temperature=0)
    text = gpt2.generate("w5 w9 w30", max_new_tokens=6)
    assert gpt2.tokenizer.decode(out[0], skip_special_tokens=True) == text
    for wrong in ({"tokens": 0}, {"tokens": 3, "temperature": -1.0}):
        with pytest.raises(ParameterError, match="tokens must be at least 1"):
            sample(gpt2, ids, **wrong)
    with pytest.raises(ParameterError, match="takes 64 tokens"):
        sample(gpt2, ids, 80)
