"""Neuronpedia's layout: every number is the record's own, and lists that belong together fit."""

import json
from dataclasses import replace

import numpy as np
import pytest

import saes
from interp.errors import ParameterError
from saes import export_neuronpedia


@pytest.fixture(scope="module")
def found():
    import interp

    model = interp.load("demo:pylm")
    texts = [f"def f{i}(self):\n    return self.x{i} + {i}\n" for i in range(12)]
    sae = saes.TopKSAE(saes.TopKConfig(n_latents=150, k=4), 128)
    return saes.features(sae, model, texts, "resid_post.2", top=3, context=4)


def test_the_numbers_are_the_records_own(found, tmp_path):
    files = export_neuronpedia(found, tmp_path, source="res")
    assert [f.name for f in files] == ["batch-0.json", "batch-1.json"]
    batches = [json.loads(f.read_text()) for f in files]
    assert {(b["layer"], b["sae_set"], b["model_id"]) for b in batches} == {(2, "res", "demo:pylm")}
    rows = [row for batch in batches for row in batch["features"]]
    assert [r["feature_index"] for r in rows] == list(range(150))
    live = [r for r in rows if r["frac_nonzero"] > 0]
    assert live and len(live) < 150  # both kinds are tried
    for row in rows:
        record = found[row["feature_index"]]
        assert sum(row["freq_hist_data_bar_heights"]) == record.fires
        assert len(row["freq_hist_data_bar_heights"]) == len(row["freq_hist_data_bar_values"])
        assert row["frac_nonzero"] == record.fires / found.n
        assert row["pos_str"] == [t for t, _ in record.raised]
        assert row["neg_values"] == sorted(row["neg_values"])
        for example in row["activations"]:
            assert len(example["tokens"]) == len(example["values"])
        tops = [a for a in row["activations"] if a["bin_max"] == -1]
        strongest = [a["values"][a["qualifying_token_index"]] for a in tops]
        assert strongest == [e.activation for e in record.top]
        if record.fires:
            assert max(strongest) == pytest.approx(record.strongest)
        else:
            assert not row["activations"]


def test_the_layer_must_be_known(found, tmp_path):
    nameless = replace(found, hookpoint="embed")
    with pytest.raises(ParameterError, match="names no layer"):
        export_neuronpedia(nameless, tmp_path, source="res")
    (first, *_) = export_neuronpedia(nameless, tmp_path, source="res", layer=5)
    assert json.loads(first.read_text())["layer"] == 5
    with pytest.raises(ParameterError, match="must not be empty"):
        export_neuronpedia(found, tmp_path, source="")


def test_text_that_attacks_stays_text(found, tmp_path):
    words = ("</script>\u202e\x00", *found.words[1:])
    (first, *_) = export_neuronpedia(replace(found, words=words), tmp_path, source="res")
    assert "\u202e" not in first.read_text()  # escaped, and read back as it was
    tokens = {
        t
        for r in json.loads(first.read_text())["features"]
        for a in r["activations"]
        for t in a["tokens"]
    }
    assert tokens & {words[0]} or not np.isin(0, found.top["tokens"])
