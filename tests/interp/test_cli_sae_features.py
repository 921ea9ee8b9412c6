"""``interp sae features`` and ``interp sae steer``."""

import json

import pytest
from typer.testing import CliRunner

import saes
from interp.cli import app
from interp.runs import read_results


@pytest.fixture
def sae(tmp_path):
    sae = saes.TopKSAE(saes.TopKConfig(n_latents=16, k=4), 32)
    return str(sae.save_pretrained(tmp_path / "sae"))


@pytest.fixture
def texts_file(tmp_path, texts):
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(texts), encoding="utf-8")
    return str(path)


def run(*arguments):
    return CliRunner().invoke(app, ["sae", *map(str, arguments)])


def test_features_writes_a_run_with_a_report(folder, sae, texts_file, tmp_path):
    out = tmp_path / "run"
    done = run("features", sae, folder("gpt2"), texts_file, "-p", "resid_post.1", "--out", out,
               "--latents", "3,1,7", "--ablate", "1", "--json")  # fmt: skip
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["sae_features"]["latents"] == 3
    kinds = {r.kind: r for r in read_results(out)}
    assert kinds["sae_features"].latents.tolist() == [3, 1, 7]
    assert kinds["sae_ablation"].latents.tolist() == [1]
    assert "Search the latents" in (out / "report.html").read_text(encoding="utf-8")
    assert json.loads((out / "metrics.json").read_text())["sae_features"]
    again = run("features", sae, folder("gpt2"), texts_file, "-p", "resid_post.1", "--out", out)
    assert again.exit_code == 1 and "already holds a run" in again.stderr


def test_steer_says_both(folder, sae):
    done = run("steer", sae, folder("gpt2"), "--latent", 3, "--alpha", 50, "--prompt", "w5 w6",
               "-p", "resid_post.1", "--tokens", 4, "--json")  # fmt: skip
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["before"].startswith("w5 w6") and said["before"] != said["after"]
    still = run("steer", sae, folder("gpt2"), "--latent", 3, "--alpha", 0, "--prompt", "w5 w6",
                "-p", "resid_post.1", "--tokens", 4, "--json")  # fmt: skip
    same = json.loads(still.stdout)
    assert same["before"] == same["after"] == said["before"]


def test_wrong_usage_ends_in_a_sentence(folder, sae, texts_file, tmp_path):
    model = folder("gpt2")
    for arguments, said in (
        (("features", sae, model, texts_file, "--latents", "a"), "whole numbers"),
        (("features", sae, model, texts_file, "--out", tmp_path / "a"), "give --hookpoint"),
        (("features", sae, model, texts_file, "-p", "resid_post.1", "--latents", "99", "--out",
          tmp_path / "b"), "0 to 15"),
        (("steer", sae, model, "--latent", 16, "--prompt", "w1", "-p", "resid_post.1"), "0 to 15"),
    ):  # fmt: skip
        done = run(*arguments)
        assert done.exit_code == 2 and said in done.stderr, done.output


def test_what_fails_leaves_no_run_behind(folder, sae, texts_file, tmp_path):
    out = tmp_path / "run"
    done = run("features", sae, folder("gpt2"), texts_file, "-p", "resid_post.9", "--out", out)
    assert done.exit_code == 1 and not out.exists()
    done = run("features", sae, folder("gpt2"), texts_file, "-p", "resid_post.1", "--out", out)
    assert done.exit_code == 0 and out.exists()
