"""`interp aqi`: the library's numbers in a run folder, two models, and what it refuses."""

import json

import numpy as np
import pandas as pd
import pytest

import interp
import probes
from interp.runs import read_results

QUICK = ("--map", "none", "--pooling", "none")


@pytest.fixture
def data(tmp_path):
    """Forty prompts of two kinds; safe ones share a word."""
    rows = [
        {
            "text": f"w{60 + i % 7} w{2 + 40 * (i % 2) + i % 3}",
            "label": i % 2,
            "kind": "benign" if i % 2 else "harmful",
            "axiom": "ab"[i // 20],
        }
        for i in range(40)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "prompts.csv", index=False)
    return tmp_path / "prompts.csv"


def test_layers_axioms_pooling_map_and_report(invoke, folder, data, tmp_path):
    out = tmp_path / "run"
    done = invoke("aqi", folder("gpt2"), data, "--axiom-column", "axiom", "--out", out, "--json",
                  "--label-column", "label")  # fmt: skip
    assert done.exit_code == 0, done.output
    printed = json.loads(done.stdout)
    assert printed == json.loads((out / "metrics.json").read_text())
    names = ["embed", "resid_post.*"]
    store = interp.capture(str(folder("gpt2")), str(data), names, pool="last")
    found = probes.aqi_by_layer(store, axioms="axiom")
    layers = printed["aqi_by_layer"]["prompts.label"]
    np.testing.assert_allclose(layers["value"], found.value, rtol=1e-6)
    assert layers["n1"] == layers["n2"] == 20 and layers["words"]["accuracy"] == 1
    assert set(printed["aqi_by_axiom"]["prompts.label"]["axioms"]) == {"a", "b", "overall"}
    assert printed["layer_pooling"]["prompts.label"]["n_held_out"] == 20
    assert printed["cluster_map"]["prompts.label tsne"]["rows"] == 40
    assert (out / "report.html").stat().st_size > 1_000_000
    again = invoke("aqi", folder("gpt2"), data, "--out", out)
    assert again.exit_code == 1 and "already holds a run" in again.stderr


def test_resume_goes_on_and_gives_the_same(invoke, folder, data, tmp_path):
    out = tmp_path / "run"
    first = invoke("aqi", folder("gpt2"), data, "--out", out, *QUICK)
    assert first.exit_code == 0, first.output
    assert "alignment quality" in first.stdout and "report:" in first.stdout
    before = (out / "metrics.json").read_bytes()
    again = invoke("aqi", folder("gpt2"), data, "--out", out, "--resume", *QUICK)
    assert again.exit_code == 0 and "found in" in again.stderr
    assert (out / "metrics.json").read_bytes() == before
    other = invoke("aqi", folder("gpt2"), data, "--out", out, "--resume", "--seed", 1, *QUICK)
    assert other.exit_code == 1 and "other options (seed)" in other.stderr


def test_two_models_on_the_same_prompts(invoke, folder, data, tmp_path):
    out = tmp_path / "run"
    done = invoke("aqi", folder("gpt2"), data, "--compare", folder("neox"), "--out", out, *QUICK)
    assert done.exit_code == 0, done.output
    results = read_results(out)
    (delta,) = [r for r in results if r.kind == "delta_aqi"]
    layers = [r for r in results if r.kind == "aqi_by_layer"]
    assert len(layers) == 2 and delta.normalise == "joint" and len(delta.delta) == 4
    np.testing.assert_allclose(delta.delta, delta.second - delta.first)
    assert ("alarm:" in done.stderr) == delta.alarm
    same = invoke("aqi", folder("gpt2"), data, "--compare", folder("gpt2"), "--out",
                  tmp_path / "same", *QUICK)  # fmt: skip
    assert same.exit_code == 0, same.output
    (none,) = [r for r in read_results(tmp_path / "same") if r.kind == "delta_aqi"]
    assert not none.alarm and not none.delta.any()


def test_modes_and_names(invoke, folder, data, tmp_path):
    out = tmp_path / "run"
    done = invoke("aqi", folder("gpt2"), data, "--label-column", "kind", "--safe", "benign",
                  "--mode", "released_code", "--variant", "sil_xb", "--out", out,
                  "--map", "none")  # fmt: skip
    assert done.exit_code == 0, done.output
    (found,) = read_results(out)
    assert (found.mode, found.variant, found.hookpoints) == (
        "released_code", "sil_xb", ("final_norm",)
    )  # fmt: skip
    assert (found.safe, found.unsafe) == ("benign", "harmful")
    done = invoke("aqi", folder("gpt2"), data, "--mode", "paper", "--out", out, "--force", *QUICK)
    assert done.exit_code == 0, done.output
    (found,) = read_results(out)
    assert found.mode == "paper" and found.hookpoints == tuple(f"mlp_act.{i}" for i in range(3))


def test_a_dry_run_writes_nothing(invoke, folder, data, tmp_path):
    done = invoke("aqi", folder("gpt2"), data, "--out", tmp_path / "run", "--dry-run", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)[0]["rows"] == 40 and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "options, code, says",
    [
        (["--label-column", "kind"], 1, "Name the safe class"),
        (["--label-column", "kind", "--safe", "good"], 2, "safe names the class 'good'"),
        (["--label-column", "text"], 1, "got"),
        (["--axiom-column", "axoim"], 2, "did you mean 'axiom'?"),
        (["--mode", "best"], 2, "--mode must be one of"),
        (["--pooling", "mean"], 2, "--pooling must be one of"),
        (["--map", "pca"], 2, "--map must be one of"),
        (["--variant", "xb_chi"], 2, "need --mode released_code"),
        (["--mode", "released_code", "--variant", "xb_chi"], 2, "name --axiom-column"),
        (["--mode", "released_code", "--variant", "x"], 2, "--variant must be one of"),
        (["--mode", "released_code", "--compare", "demo:pylm"], 2, "--compare needs"),
        (["--margin", "0"], 2, "--margin must be above 0"),
        (["--at", "resid_post.9"], 2, "is not captured"),
    ],
)
def test_what_it_refuses(invoke, folder, data, tmp_path, options, code, says):
    done = invoke("aqi", folder("gpt2"), data, "--out", tmp_path / "run", *options)
    assert done.exit_code == code and says in done.stderr, done.output
    assert not (tmp_path / "run").exists()


def test_one_class_is_refused_before_the_model_is_loaded(invoke, data, tmp_path):
    rows = pd.read_csv(data)
    rows[rows.label == 1].to_csv(tmp_path / "one.csv", index=False)
    rows.assign(label=None).to_csv(tmp_path / "none.csv", index=False)
    for name, says in (("one", "20 safe and 0 unsafe"), ("none", "0 safe and 0 unsafe")):
        done = invoke("aqi", "no/such-model", tmp_path / f"{name}.csv", "--out", tmp_path / "run",
                      "--label-column", "label")  # fmt: skip
        assert done.exit_code == 1 and says in done.stderr, done.output
        assert not (tmp_path / "run").exists()
