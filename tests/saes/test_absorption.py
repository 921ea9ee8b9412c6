"""SAEs made by hand that absorb a concept, split it, miss it, or hold it as they should."""

import numpy as np
import pandas as pd
import pytest
import torch

import interp
from interp.errors import DataError, ModelError, ParameterError
from interp.models import Model
from interp.results import Result
from saes import TopKConfig, TopKSAE, feature_absorption, first_letters

D, TOKENS, EACH = 10, 8, 30
"""Token t lies along dimension t; those below 4 are of the concept, along dimension 8."""


@pytest.fixture(scope="module")
def rows():
    """Activations [n, d], the concept, and the token of each row."""
    rng = np.random.default_rng(0)
    token = np.repeat(np.arange(TOKENS), EACH)
    concept = (token < 4).astype(int)
    x = rng.normal(0, 0.02, (len(token), D))
    x[np.arange(len(token)), token] += 1
    x[:, 8] += concept
    return torch.from_numpy(x).float(), concept, token


def make(rows_of):
    """A TopK SAE from {latent: (encoder row, threshold, decoder row)}, each by dimension."""
    sae = TopKSAE(TopKConfig(n_latents=len(rows_of), k=len(rows_of)), D)
    with torch.no_grad():
        for i, (encoder, threshold, decoder) in enumerate(rows_of):
            for parameter, values in ((sae.encoder, encoder), (sae.decoder, decoder)):
                parameter[i] = 0
                for at, value in values.items():
                    parameter[i, at] = value
            sae.b_enc[i] = -threshold
    return sae


def tokens(skip=()):
    return [({t: 1.0}, 0.5, {t: 1.0}) for t in range(TOKENS) if t not in skip]


CONCEPT = ({8: 1.0}, 0.5, {8: 1.0})
SPARES_0 = ({8: 1.0, 0: -2.0}, 0.5, {8: 1.0})
TOKEN_0 = ({0: 1.0}, 0.2, {0: 1.0})
ABSORBS_0 = ({0: 1.0}, 0.2, {0: 1.0, 8: 1.0})


def run(sae, rows, **options):
    x, concept, token = rows
    return feature_absorption(sae, x, concept, seed=1, **options)


def test_a_latent_that_holds_its_concept_absorbs_nothing(rows):
    r = run(make([CONCEPT, *tokens()]), rows)
    (c,) = r.concepts
    assert (c["found"], c["missed"], c["absorbed"]) == (120, 0, 0) and r.rate == 0
    assert c["probe_f1"] == c["main_f1"] == 1 and c["main"] == [[0], [0]] and c["class"] == "1"


def test_a_token_s_latent_that_took_the_concept_in_is_counted(rows):
    r = run(make([SPARES_0, ABSORBS_0, *tokens(skip=[0])]), rows, max_main=1)
    (c,) = r.concepts
    assert (c["found"], c["missed"], c["absorbed"]) == (120, EACH, EACH)
    assert r.rate == c["rate"] == pytest.approx(1 / 4) == r.missed_rate
    assert c["absorbers"] == [[1, EACH]] and c["main"] == [[0], [0]]


def test_what_is_missed_without_an_aligned_latent_is_not_absorbed(rows):
    r = run(make([SPARES_0, TOKEN_0, *tokens(skip=[0])]), rows, max_main=1)
    (c,) = r.concepts
    assert (c["missed"], c["absorbed"]) == (EACH, 0) and c["absorbers"] == []
    assert r.rate == 0 and r.missed_rate == pytest.approx(1 / 4)


def test_each_threshold_decides(rows):
    absorbs = make([SPARES_0, ABSORBS_0, *tokens(skip=[0])])
    assert run(absorbs, rows, max_main=1, share=5.0).rate == 0
    assert run(absorbs, rows, max_main=1, cosine=0.99).rate == 0
    assert run(absorbs, rows, max_main=1, share=0.01).rate == pytest.approx(1 / 4)


def test_a_latent_that_belongs_to_the_concept_is_a_split_and_not_an_absorber(rows):
    """With the gain in F1 that token 0's latent gives, it is a main latent itself."""
    absorbs = make([SPARES_0, ABSORBS_0, *tokens(skip=range(4))])
    split = run(absorbs, rows)
    assert all(set(main) >= {0, 1} for main in split.concepts[0]["main"])
    assert split.rate == 0 and split.concepts[0]["missed"] == 0
    assert run(absorbs, rows, gain=0.9).rate == pytest.approx(1 / 4)


def test_several_classes_each_against_the_rest(rows):
    x, _, token = rows
    names = np.array(list("aabbcccc"))[token]
    r = feature_absorption(make(tokens()), x, names)
    assert [c["class"] for c in r.concepts] == ["a", "b", "c"]
    assert [c["positives"] for c in r.concepts] == [60, 60, 120]
    assert len(r.to_frame()) == 3


def test_a_concept_that_no_probe_reads_has_no_rate(rows):
    x, _, token = rows
    noise = np.random.default_rng(0).integers(0, 2, len(token))
    r = feature_absorption(make(tokens()), x, noise, groups=np.arange(len(token)) // 3, min_f1=0.8)
    (c,) = r.concepts
    assert c["found"] > 0 and c["rate"] is None and np.isnan(r.rate) and np.isnan(r.missed_rate)
    assert "F1 of at least 0.8" in r.reasons["rate"]
    assert run(make(tokens()), rows, min_f1=0.8).rate is not None


def test_rare_classes_are_left_out(rows):
    x, _, token = rows
    names = np.array(list("aabbcccc"), dtype=object)[token]
    names[:3] = "z"
    r = feature_absorption(make(tokens()), x, names)
    assert [c["class"] for c in r.concepts] == ["a", "b", "c"] and r.n == len(token) - 3
    assert r.notes == ("classes with fewer than 10 rows are left out: z.",)
    with pytest.raises(DataError, match="two classes of at least 10 groups each; a, b, c, z have"):
        feature_absorption(make(tokens()), x, names, groups=token)


def test_saved_and_loaded(rows, tmp_path):
    r = run(make([SPARES_0, ABSORBS_0, *tokens(skip=[0])]), rows, max_main=1)
    back = Result.load(r.save(tmp_path / "r.json"))
    assert back.metrics() == r.metrics()


def test_bad_input_is_refused(rows):
    x, concept, _ = rows
    transcoder = TopKSAE(TopKConfig(n_latents=4, k=1), D, D)
    with pytest.raises(ParameterError, match="reads an autoencoder"):
        feature_absorption(transcoder, x, concept)
    for options in ({"max_main": 0}, {"cosine": 2}, {"share": -1}, {"gain": -0.1}):
        with pytest.raises(ParameterError, match="max_main must be at least 1"):
            run(make(tokens()), rows, **options)


def test_first_letters_are_of_tokens_that_begin_a_word():
    model = interp.load("demo:pylm")
    texts = ["def main(self):\n    return None", "import os; self.import_module = 3"]
    table = first_letters(model, texts)
    store = interp.capture(model, texts, "resid_post.0", pool="all")
    assert len(table) == len(store["resid_post.0"])
    pd.testing.assert_frame_equal(
        table[["document", "position"]], store.rows[["document", "position"]], check_dtype=False
    )
    told = {(t, x) for t, x in zip(table["token"], table["letter"], strict=True)}
    assert {("def", "d"), ("return", "r"), ("None", "n"), ("import", "i")} <= told
    assert {x for t, x in told if not t.isalpha() or len(t) < 2} == {None}
    words = {t for t, x in told if x is not None}
    assert all(any(w in text for text in texts) for w in words)
    inside = table[(table["document"] == 1) & (table["token"] == "import")]
    assert inside["letter"].tolist()[0] == "i"
    cut = first_letters(model, texts, max_length=3)
    assert cut.groupby("document").size().tolist() == [3, 3]


def test_a_tokenizer_without_offsets_is_refused(gpt2):
    class Plain:
        pad_token_id = 0

        def __call__(self, texts, **options):
            if options.get("return_offsets_mapping"):
                raise NotImplementedError
            return {"input_ids": [[2, 3] for _ in texts]}

    model = Model(gpt2.module, spec="plain", tokenizer=Plain())
    with pytest.raises(ModelError, match="does not say where its tokens lie"):
        first_letters(model, ["a b"])
