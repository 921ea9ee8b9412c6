"""``interp sae features`` and ``interp sae steer``."""

import json

import pytest
import torch
from typer.testing import CliRunner

import saes
from interp.cli import app
from interp.runs import read_results


@pytest.fixture
def sae(tmp_path):
    draw = torch.Generator().manual_seed(0)  # the same directions whatever ran before
    sae = saes.TopKSAE(saes.TopKConfig(n_latents=16, k=4), 32, generator=draw)
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
    assert 'data-live="latents"' in (out / "report.html").read_text(encoding="utf-8")
    assert json.loads((out / "metrics.json").read_text())["sae_features"]
    again = run("features", sae, folder("gpt2"), texts_file, "-p", "resid_post.1", "--out", out)
    assert again.exit_code == 1 and "already holds a run" in again.stderr


def test_neurons_are_read_in_the_place_of_an_sae(folder, texts_file, tmp_path):
    fixed = ("features", "neurons", folder("gpt2"), texts_file, "--out", tmp_path / "run")
    done = run(*fixed, "-p", "mlp_act.1", "--map", "pca", "--json")
    assert done.exit_code == 0, done.output
    (found,) = read_results(tmp_path / "run")
    assert found.unit == "neuron" and found.hookpoint == "mlp_act.1" and found.layout == "pca"
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "Each neuron has a page" in page
    assert run(*fixed, "--force").exit_code == 2
    wrong = run(*fixed, "-p", "resid_post.1", "--force")
    assert wrong.exit_code == 2 and "enter a linear layer" in wrong.stderr
    wrong = run(*fixed, "-p", "mlp_act.1", "--force", "--map", "tsne")
    assert wrong.exit_code == 2 and "--map must be one of umap, pca, none" in wrong.stderr


@pytest.fixture
def features(folder, sae, texts_file, tmp_path):
    """``features("--top", 3)``: the command on the tiny model, into ``tmp_path / "run"``."""
    fixed = ("features", sae, folder("gpt2"), texts_file, "-p", "resid_post.1", "--out",
             tmp_path / "run")  # fmt: skip
    return lambda *more: run(*fixed, *more)


@pytest.fixture
def no_pass(monkeypatch):
    """``no_pass(error)``: from then on a pass over the tokens raises this."""

    def forbid(error):
        def stop(*arguments, **options):
            raise error

        monkeypatch.setattr(saes, "features", stop)

    return forbid


def test_a_dry_run_counts_and_writes_nothing(features, texts, tmp_path):
    done = features("--latents", "1,2,3", "--top", 5, "--context", 2, "--dry-run", "--json")
    assert done.exit_code == 0, done.output
    plan = json.loads(done.stdout)
    tokens = sum(len(text.split()) for text in texts)
    assert (plan["documents"], plan["tokens"], plan["latents"]) == (12, tokens, 3)
    example = 3 * 8 + 5 * 4  # key, document, position; a window of five activations
    tables = 3 * (5 + 32) * example + 16 * (8 + 8 + 4 + 128 * 8)
    assert tables < plan["bytes"] <= tables + tokens * (16 + 4 * 4)
    assert plan["seconds"] > 0 and "ablation_seconds" not in plan
    assert not (tmp_path / "run").exists()
    said = features("--dry-run", "--ablate", "3").stdout
    assert f"12 texts, {tokens} tokens at resid_post.1:" in said and "for --ablate" in said
    assert features("--dry-run", "--latents", "99").exit_code == 2


def test_a_finished_run_is_found_and_its_report_written_again(features, no_pass, tmp_path):
    assert features("--ablate", "3").exit_code == 0
    report, numbers = (tmp_path / "run" / n for n in ("report.html", "metrics.json"))
    before = report.read_text(encoding="utf-8"), numbers.read_bytes()
    report.unlink()
    no_pass(AssertionError("the tokens are read again"))
    again = features("--ablate", "3", "--resume")
    assert again.exit_code == 0 and "complete and are kept" in again.stderr, again.output
    assert (report.read_text(encoding="utf-8"), numbers.read_bytes()) == before
    other = features("--ablate", "3", "--top", 3, "--resume")
    assert other.exit_code == 1 and "other options (top)" in other.stderr
    assert numbers.read_bytes() == before[1]
    assert features("--ablate", "3", "--force").exit_code == 1
    assert numbers.read_bytes() == before[1], "the old run stays where the new one fails"


def test_the_report_names_the_command(features, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["interp", "sae", "features", "SAE", "--top", "3"])
    assert features("--top", 3).exit_code == 0
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "interp sae features SAE --top 3" in page


def test_resume_asks_for_the_same_weights(features, sae):
    assert features().exit_code == 0
    other = saes.TopKSAE(saes.TopKConfig(n_latents=16, k=4), 32)
    other.save_pretrained(sae)
    done = features("--resume")
    assert done.exit_code == 1 and "other options (sae)" in done.stderr


def test_a_pass_that_was_cut_short_starts_over_and_says_so(features, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(saes, "features", _interrupted)
        killed = features()
    assert killed.exit_code == 130 and not (tmp_path / "run").exists()
    done = features("--resume")
    assert done.exit_code == 0 and "holds no run; this one begins" in done.stderr
    for left in (tmp_path / "run" / "results").iterdir():
        left.unlink()
    done = features("--resume")
    assert done.exit_code == 0 and "was cut short; it starts over" in done.stderr


def test_an_ablation_that_was_cut_short_keeps_the_features(features, no_pass, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(saes, "ablation_effect", _interrupted)
        assert features("--ablate", "3").exit_code == 130
    no_pass(AssertionError("the tokens are read again"))
    done = features("--ablate", "3", "--resume")
    assert done.exit_code == 0 and "complete and are kept" in done.stderr, done.output
    assert {r.kind for r in read_results(tmp_path / "run")} == {"sae_features", "sae_ablation"}


def _interrupted(*arguments, **options):
    raise KeyboardInterrupt


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
        (("features", sae, model, texts_file, "-p", "resid_post.*", "--out", tmp_path / "c"),
         "means resid_post.0, resid_post.1, resid_post.2"),
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
