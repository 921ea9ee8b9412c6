"""``interp facets``: the run, its refusals, and going on."""

import json

import pytest
import torch

import interp
import saes
from interp.runs import read_results

QUICK = ("--n-top", 60, "--embed", "pca", "--schedule", "none")


def test_a_run_of_two_units(invoke, tmp_path):
    out = tmp_path / "run"
    arguments = ("facets", "demo:digits", "demo:digits", "--unit", "even", "--unit", 2, *QUICK,
                 "--n-facets", 3, "--out", out)  # fmt: skip
    done = invoke(*arguments, "--json")
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)["facets"]
    assert set(said) == {"digits.even", "digits.has a loop"}
    even = said["digits.even"]
    assert even["n_facets"] == 3 and even["n"] == 60 and even["hookpoint"] == "out"
    assert 0 < even["adjusted_rand_index"] <= 1 and even["label"] == "digit"
    assert {r.kind for r in read_results(out)} == {"facets"}
    assert json.loads((out / "metrics.json").read_text())["facets"] == said
    page = (out / "report.html").read_text()
    assert "data:image/png;base64," in page and "Mean image of facet 0" in page
    assert invoke(*arguments).exit_code == 1
    resumed = invoke(*arguments, "--resume")
    assert resumed.exit_code == 0 and "found in" in resumed.stderr
    assert "adjusted Rand index" in resumed.stdout
    assert json.loads((out / "metrics.json").read_text())["facets"] == said


def test_a_hidden_unit_of_a_language_model(invoke, folder, texts, tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(texts * 3), encoding="utf-8")
    done = invoke("facets", folder("gpt2"), path, "-p", "mlp_act.0", "--unit", 3, "--threshold",
                  -9, *QUICK, "--n-facets", 2, "--out", tmp_path / "run", "--json")  # fmt: skip
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)["facets"]["texts.mlp_act.0[3]"]
    assert found["codes_at"] == "resid_post.2" and found["n"] == 36 and found["n_facets"] == 2
    assert "Words that its contexts" in (tmp_path / "run" / "report.html").read_text()


def test_a_latent_of_an_autoencoder_in_a_folder(invoke, tmp_path):
    net, data = interp.load("demo:digits"), interp.read("demo:digits")
    _, acts = interp.run_with_cache(net, data.inputs, ["flatten"])
    coder = saes.TopKSAE(saes.TopKConfig(n_latents=24, k=6), d_in=512)
    coder.metadata["hookpoint"] = "flatten"
    latents = coder.encode(acts["flatten"]).detach()
    index = int((latents > 0).sum(0).argmax())
    coder.save_pretrained(tmp_path / "sae")
    done = invoke("facets", "demo:digits", "demo:digits", "--sae", tmp_path / "sae", "--unit",
                  index, *QUICK, "--n-facets", 2, "--out", tmp_path / "run", "--json")  # fmt: skip
    assert done.exit_code == 0, done.output
    (found,) = json.loads(done.stdout)["facets"].values()
    assert found["hookpoint"] == "flatten" and found["unit"] == f"latent {index} at flatten"
    assert found["firing"] == int((latents[:, index] > 0).sum())
    assert found["strongest"] == pytest.approx(float(latents[:, index].max()), rel=1e-4)
    with torch.no_grad():
        coder.W_dec.mul_(2)
    coder.save_pretrained(tmp_path / "sae")  # another autoencoder at the same place
    assert len(read_results(tmp_path / "run")[0].provenance["coder"]["fingerprint"]) == 16
    other = invoke("facets", "demo:digits", "demo:digits", "--sae", tmp_path / "sae", "--unit",
                   index, *QUICK, "--n-facets", 2, "--out", tmp_path / "run",
                   "--resume")  # fmt: skip
    assert other.exit_code == 1 and "other options (sae)" in other.stderr, other.output
    wrong = invoke("facets", "demo:digits", "demo:digits", "--sae", tmp_path / "sae", "--unit", 24,
                   *QUICK, "--out", tmp_path / "other")  # fmt: skip
    assert wrong.exit_code == 2 and "latents 0 to 23" in wrong.stderr
    assert not (tmp_path / "other").exists()


def test_refusals_leave_nothing(invoke, tmp_path):
    out = tmp_path / "run"
    for code, words, *more in (
        (2, "--unit is needed"),
        (2, "no output of demo:digits is called 'odd'", "--unit", "odd"),
        (2, "out has units 0 to 2", "--unit", 3),
        (2, "schedule must be one of", "--unit", 0, "--schedule", "lucit"),
        (2, "embed must be one of", "--unit", 0, "--embed", "mds"),
        (2, "go together", "--unit", 0, "--image-mean", "0.5"),
        (2, "--image-mean and --image-std take numbers", "--unit", 0, "--image-mean", "a",
         "--image-std", "b"),
        (1, "no hook point matches", "--unit", 0, "-p", "nowhere"),
    ):  # fmt: skip
        done = invoke("facets", "demo:digits", "demo:digits", *more, "--out", out)
        assert done.exit_code == code and words in done.stderr, done.output
        assert "Traceback" not in done.output and not out.exists()


@pytest.mark.parametrize("json_flag", [False, True])
def test_a_dry_run_writes_nothing(invoke, tmp_path, json_flag):
    out = tmp_path / "run"
    done = invoke("facets", "demo:digits", "demo:digits", "--unit", "even", "--dry-run", "--out",
                  out, *(["--json"] if json_flag else []))  # fmt: skip
    assert done.exit_code == 0 and not out.exists(), done.output
    if json_flag:
        assert json.loads(done.stdout)["units"] == 1
    else:
        assert "nothing is stored" in done.stdout


def test_options_from_a_file(invoke, tmp_path):
    path = tmp_path / "options.toml"
    path.write_text('unit = ["prime"]\nn-top = 40\nembed = "pca"\nschedule = "none"\n')
    done = invoke("facets", "demo:digits", "demo:digits", "--config", path, "--n-facets", 2,
                  "--out", tmp_path / "run", "--json")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["facets"]["digits.prime"]["n"] == 40
