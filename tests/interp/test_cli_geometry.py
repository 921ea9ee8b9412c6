"""``interp geometry``: a model or a store, two models, refusals, and going on."""

import json
import os

import numpy as np
import pandas as pd
import pytest

import interp
from interp.runs import read_results
from probes.geometry import NOISE

QUICK = "rank,cka,alignment_input"


@pytest.fixture
def data(tmp_path, texts):
    path = tmp_path / "things.csv"
    rows = {"text": texts * 2, "label": [0, 1] * 12, "city": list("aabbccddeeff") * 2}
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def test_a_model_and_the_store_of_its_run_say_the_same(invoke, folder, data, tmp_path):
    out = tmp_path / "run"
    arguments = ("geometry", folder("gpt2"), data, "--label-column", "label", "--out", out)
    done = invoke(*arguments, "--json")
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)["geometry"]["things.label"]
    assert said["hookpoints"] == ["embed", *(f"resid_post.{i}" for i in range(3))]
    assert said["inputs"] == "the counts of its words" and said["n"] == 24
    rates = said["values"]["sparse_rate"]
    assert rates[-1] is None and all(np.isfinite(v) for v in rates[:-1])
    assert len(said["values"]["gdv"]) == 4 and np.shape(said["matrices"]["cka"]) == (4, 4)
    assert said["curves"] == ["prefixes", "rank_curve"]
    kinds = {"geometry", "information_plane", "variance_explained"}
    assert set(json.loads(done.stdout)) == kinds
    page = (out / "report.html").read_text()
    assert "CKA of layers" in page and "Variance by components" in page and "Dimensions" in page
    again = invoke(*arguments)
    assert again.exit_code == 1 and "already holds a run" in again.stderr
    resumed = invoke(*arguments, "--resume")
    assert resumed.exit_code == 0 and "found in" in resumed.stderr
    assert "geometry by layer" in resumed.stdout
    store = out / "acts" / "things"
    from_store = invoke(
        "geometry", store, "--label-column", "label", "--json", "--out", tmp_path / "s"
    )
    assert from_store.exit_code == 0, from_store.output
    theirs = json.loads(from_store.stdout)["geometry"]["things.label"]
    assert theirs["values"]["gdv"] == said["values"]["gdv"]
    assert theirs["inputs"] == "the first hook point, embed"
    assert theirs["values"]["alignment_input"][0] == pytest.approx(1)


def test_measures_are_chosen_and_labels_are_not_needed(invoke, folder, data, tmp_path):
    out = tmp_path / "run"
    done = invoke("geometry", folder("gpt2"), data, "-m", QUICK, "-p", "resid_post.*", "--out", out)
    assert done.exit_code == 0, done.output
    (found,) = read_results(out)
    assert found.measures == ("alignment_input", "rank", "cka")
    assert set(found.values) == {"alignment_input", "rank"}
    plain = tmp_path / "plain.txt"
    plain.write_text("\n".join(f"w{i} w{i + 1}" for i in range(2, 22)))
    done = invoke("geometry", folder("gpt2"), plain, "-m", "information_plane", "--json", "--out",
                  tmp_path / "x")  # fmt: skip
    assert set(json.loads(done.stdout)) == {"information_plane"}, done.output
    done = invoke(
        "geometry", folder("gpt2"), plain, "-m", "rank,gdv", "--json", "--out", tmp_path / "p"
    )
    said = json.loads(done.stdout)["geometry"]["plain"]
    assert (
        said["values"]["gdv"] == [None] * 4
        and said["reasons"]["embed: gdv"] == "there are no labels."
    )
    assert "what needs labels is left out" in done.stderr


def test_a_label_that_is_missing_is_no_class_and_one_that_labels_nothing_is_left_out(
    invoke, folder, texts, tmp_path
):
    path = tmp_path / "things.csv"
    rows = {"text": texts * 2, "label": [0, 1] * 12, "city": ["a", "b", None] * 8}
    pd.DataFrame(rows | {"own": range(24)}).to_csv(path, index=False)
    done = invoke("geometry", folder("gpt2"), path, "-m", "variance_explained,information_plane",
                  "--label-column", "label,city,own", "--out", tmp_path / "run")  # fmt: skip
    assert done.exit_code == 0, done.output
    found = {r.kind: r for r in read_results(tmp_path / "run")}
    explained = found["variance_explained"]
    assert explained.n == 16 and explained.features == ("label", "city")
    assert "leaves own out" in done.stderr
    plane = found["information_plane"]
    assert plane.n == 24 and plane.setting["noise"] == NOISE


def test_two_models_are_held_together(invoke, folder, data, tmp_path):
    out = tmp_path / "run"
    arguments = ("geometry", folder("gpt2"), data, "-m", QUICK, "--compare", folder("llama"),
                 "--label-column", "label", "--out", out)  # fmt: skip
    done = invoke(*arguments, "--json")
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert len(said["geometry"]) == 2
    (spaces,) = said["spaces"].values()
    assert np.shape(spaces["cka"]) == (4, 4) and spaces["at"] == ["resid_post.2"] * 2
    assert set(spaces["numbers"]) == {"relative", "relative, centred", "stitching", "compatibility"}
    assert "two spaces" in (out / "report.html").read_text()
    resumed = invoke(*arguments, "--resume")
    assert resumed.exit_code == 0 and resumed.stderr.count("found in") == 3
    assert "stitching" in resumed.stdout


def test_a_dry_run_writes_nothing(invoke, folder, data, tmp_path):
    out = tmp_path / "run"
    done = invoke("geometry", folder("gpt2"), data, "--out", out, "--dry-run")
    assert done.exit_code == 0 and "hook points" in done.stdout and not out.exists()
    (plan,) = json.loads(invoke("geometry", folder("gpt2"), data, "--dry-run", "--json").stdout)
    assert plan["rows"] == 24
    store = interp.capture(interp.load(str(folder("gpt2"))), data, ["embed"], out=tmp_path / "acts")
    assert store.n == 24
    done = invoke("geometry", tmp_path / "acts", "--dry-run")
    assert "24 rows of 1 hook points are read" in done.stdout
    (plan,) = json.loads(invoke("geometry", tmp_path / "acts", "--dry-run", "--json").stdout)
    assert plan == {"rows": 24, "hookpoints": ["embed"], "bytes": 0}


def test_a_config_file_gives_the_options(invoke, folder, data, tmp_path):
    config = tmp_path / "c.toml"
    config.write_text('measure = ["rank"]\npool = "last"\n')
    done = invoke(
        "geometry", folder("gpt2"), data, "--config", config, "--out", tmp_path / "r", "--json"
    )
    assert done.exit_code == 0, done.output
    (found,) = read_results(tmp_path / "r")
    assert found.measures == ("rank",) and found.provenance["pool"] == "last"


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--measure", "gvd"), 2, "did you mean 'gdv'"),
        (("--hookpoints", "mlp_act.9"), 1, "layers 0..2"),
        (("--label-column", "magic"), 2, "no label column"),
        (("--pool", "magic"), 2, "pool"),
    ],
)
def test_wrong_usage_ends_in_a_sentence(invoke, folder, data, tmp_path, options, code, said):
    done = invoke("geometry", folder("gpt2"), data, "--out", tmp_path / "run", *options)
    assert done.exit_code == code, done.output
    assert said in done.stderr and "Traceback" not in done.output
    assert not (tmp_path / "run").exists()


def test_what_is_no_store_is_refused(invoke, tmp_path):
    done = invoke("geometry", tmp_path, "--out", tmp_path / "run")
    assert done.exit_code == 2 and "is no store" in done.stderr and not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.skipif(
    "INTERP_REAL" not in os.environ, reason="set INTERP_REAL to read minilm/ and resnet20.py"
)
def test_two_real_models_read_as_a_story_from_input_to_output(invoke, real, tmp_path):
    texts, images = tmp_path / "texts", tmp_path / "images"
    done = invoke("geometry", real / "minilm", real / "sentiment.csv", "--out", texts)
    assert done.exit_code == 0, done.output
    done = invoke("geometry", f"{real}/resnet20.py:load", f"{real}/resnet20.py:images", "-p",
                  "relu,layer*.*.relu2", "--out", images)  # fmt: skip
    assert done.exit_code == 0, done.output
    for out in (texts, images):
        found = next(r for r in read_results(out) if r.kind == "geometry")
        # From input to output: less of the input, more of the classes.
        assert found.values["alignment_input"][-1] < 0.6 * found.values["alignment_input"][0]
        assert found.values["alignment_target"][-1] > 2 * found.values["alignment_target"][0]
        assert found.values["gdv"].argmin() > 0
    page = tmp_path / "story.html"
    assert invoke("report", texts, images, "--out", page).exit_code == 0
    text = page.read_text(encoding="utf-8")
    assert text.count("likeness to the input falls from") == 2
    assert text.count("likeness to the classes rises from") == 2
