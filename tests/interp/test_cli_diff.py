"""``interp diff``: two runs compared, the gate's exit codes, and runs that cannot be compared."""

import json
import shutil

import pandas as pd
import pytest


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("diff") / "things.csv"
    lengths = [3, 9, 1, 5, 2, 8, 4, 9, 6, 1, 7, 5] * 2
    texts = [
        " ".join(f"w{2 + (7 * i + 11 * j) % 96}" for j in range(n)) for i, n in enumerate(lengths)
    ]
    frame = pd.DataFrame({"text": texts, "label": [0, 1] * 12, "city": list("aabbccddeeff") * 2})
    frame.to_csv(path, index=False)
    return path


@pytest.fixture
def runs(invoke, folder, data, tmp_path):
    """Makes ``command`` runs of a model and of one whose last block is changed."""
    other = tmp_path / "other"
    shutil.copytree(folder("gpt2"), other)
    from transformers import AutoModelForCausalLM

    net = AutoModelForCausalLM.from_pretrained(other)
    last = net.get_submodule(f"transformer.h.{net.config.n_layer - 1}.mlp.c_proj")
    last.get_parameter("weight").data.mul_(3)
    net.save_pretrained(other)

    def make(command, *options):
        outs = []
        for name, model in (("before", folder("gpt2")), ("after", other)):
            out = tmp_path / f"{command.replace(' ', '-')}-{name}"
            done = invoke(*command.split(), model, data, "--out", out, *options)
            assert done.exit_code == 0, done.output
            outs.append(out)
        return outs

    return make


def test_depth_changes_only_behind_what_was_changed(invoke, runs, tmp_path):
    first, second = runs("probe", "--label-column", "label", "--folds", "3")
    done = invoke("diff", first, second, "--out", tmp_path / "d", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    (depth,) = found["depth_difference"].values()
    *same, last = depth["delta"]
    assert not any(same) and depth["hookpoints"][-1].startswith("resid_post")
    assert found["run_changes"] and found["fail_if"] == {}
    page = (tmp_path / "d" / "report.html").read_text(encoding="utf-8")
    assert "difference by depth" in page
    assert json.loads((tmp_path / "d" / "metrics.json").read_text()).keys() >= {"depth_difference"}
    # and the run folder is a run: it is refused a second time, and its report is made again
    assert invoke("diff", first, second, "--out", tmp_path / "d").exit_code == 1
    assert invoke("report", tmp_path / "d").exit_code == 0


def test_the_gate(invoke, runs):
    first, second = runs("aqi", "--label-column", "label", "--safe", "0", "--map", "none")
    done = invoke("diff", first, second, "--json")
    assert done.exit_code == 0, done.output
    (aqi,) = json.loads(done.stdout)["delta_aqi"].values()
    known = [d for d in aqi["delta"] if d is not None]
    below, above = min(known) - 0.1, max(known) + 0.1
    passed = invoke("diff", first, second, "--fail-if", f"aqi.delta < {below}")
    assert passed.exit_code == 0
    broken = invoke("diff", first, second, "--fail-if", f"aqi.delta < {above}")
    assert broken.exit_code == 3 and "holds: aqi of" in broken.stderr
    unknown = invoke("diff", first, second, "--fail-if", "aqi.dleta < 0")
    assert unknown.exit_code == 2 and "no measure" in unknown.stderr
    shutil.rmtree(first / "acts")
    # without activations there is no delta-AQI: a gate on it is an error, never a pass
    gone = invoke("diff", first, second, "--fail-if", f"aqi.delta < {below}")
    assert gone.exit_code == 2 and "not compared" in gone.stderr


def test_latents_are_matched(invoke, runs):
    first, second = runs(
        "sae train", "-p", "resid_post.0", "--n-latents", "16", "--k", "4", "--steps", "3",
        "--text-column", "text",
    )  # fmt: skip
    done = invoke("diff", first, second, "--json")
    assert done.exit_code == 0, done.output
    (match,) = json.loads(done.stdout)["latent_match"].values()
    assert match["kept"] == 16  # block 0 is the same in both models, and so is the seed


@pytest.mark.parametrize("what", ["same", "missing", "file", "other"])
def test_runs_that_cannot_be_compared(invoke, runs, tmp_path, what):
    first, _ = runs("probe", "--label-column", "label", "--folds", "3")
    second = {
        "same": first,
        "missing": tmp_path / "nothing",
        "file": first / "config.json",
        "other": tmp_path / "empty",
    }[what]
    (tmp_path / "empty").mkdir()
    done = invoke("diff", first, second)
    assert done.exit_code == 1 and "Traceback" not in done.output
    assert done.stderr.splitlines()[-1].startswith("interp: ")


def test_other_data_is_said(invoke, runs, data, folder, tmp_path):
    first, _ = runs("probe", "--label-column", "label", "--folds", "3")
    frame = pd.read_csv(data)
    frame["text"] = frame["text"] + " w3"
    frame.to_csv(tmp_path / "things.csv", index=False)
    out = tmp_path / "third"
    done = invoke("probe", folder("gpt2"), tmp_path / "things.csv", "--label-column", "label",
                  "--folds", "3", "--out", out)  # fmt: skip
    assert done.exit_code == 0, done.output
    done = invoke("diff", first, out, "--json")
    assert "read other data" in done.stderr
    assert "depth_difference" not in json.loads(done.stdout)
