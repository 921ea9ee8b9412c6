"""`interp sae train --architecture codebook`, `interp sae codes` and `interp sae force`."""

import json

import pytest

import interp
import saes
from saes.codebook import Codebooks


@pytest.fixture
def data(tmp_path):
    rows = (f"w{2 + i % 70} w{3 + 7 * i % 60} w{5 + 11 * i % 50}" for i in range(60))
    (tmp_path / "texts.txt").write_text("\n".join(rows))
    return tmp_path / "texts.txt"


SHORT = ("--steps", 6, "--batch-size", 640, "--n-latents", 24, "--k", 2)


@pytest.fixture
def learnt(invoke, folder, data, tmp_path):
    out = tmp_path / "run"
    done = invoke(
        "sae", "train", folder("gpt2"), data, "--arch", "codebook", "-p", "head_out.0,mlp_out.*",
        *SHORT, "--out", out,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    return out, done.stdout


def test_train_read_and_force(invoke, learnt, data, tmp_path):
    out, said = learnt
    assert "held-out loss, with codebooks" in said and "head_out.0" in said
    books = Codebooks.load(out / "model")
    assert books.names == ("head_out.0", "mlp_out.0", "mlp_out.1", "mlp_out.2")
    assert books["head_out.0"].config == saes.CodebookConfig(n_codes=24, k=2, groups=4)
    metrics = json.loads((out / "metrics.json").read_text())["codebook_training"]
    found = metrics["texts.codebooks"]
    assert found["steps"] == 6 and set(found["held_out"]) == {
        "the model as it was", "with codebooks", "trained, without codebooks",
    }  # fmt: skip
    assert "FVU of codes" in (out / "report.html").read_text()
    assert interp.load(str(out / "model")).tokenizer is not None

    read = invoke(
        "sae", "codes", out / "model", data, "--pattern", r"thirties=w3\d", "--search", "w5 w9",
        "-p", "mlp_out.1", "--out", tmp_path / "codes",
    )  # fmt: skip
    assert read.exit_code == 0, read.output
    assert "thirties" in read.stdout and "codes that fire" in read.stdout
    page = (tmp_path / "codes" / "report.html").read_text()
    assert "codes of patterns" in page and "features" in page
    none = invoke(
        "sae", "codes", out / "model", data, "--pattern", r"edge=\b", "--out", tmp_path / "none"
    )
    assert none.exit_code == 0 and "edge: no code fires on it" in none.stderr
    as_json = invoke("sae", "codes", out / "model", data, "--search", "w5 w9", "--json")
    assert len(json.loads(as_json.stdout)["search"]) == 8

    for code, exit_code in (("mlp_out.1:7", 0), ("mlp_out.1:24", 2), ("attn_out.1:7", 2)):
        planned = invoke("sae", "force", out / "model", "--code", code, "--dry-run")
        assert planned.exit_code == exit_code, planned.output
    forced = invoke(
        "sae", "force", out / "model", "--code", "mlp_out.1:7", "--pattern", "w3", "--prompt",
        "w5 w9", "--samples", 2, "--tokens", 4, "--out", tmp_path / "force", "--json",
    )  # fmt: skip
    assert forced.exit_code == 0, forced.output
    counts = json.loads(forced.stdout)["counts"]
    assert set(counts) == {"without", "with", "random codes"} and max(counts.values()) <= 2
    assert "codes put in" in (tmp_path / "force" / "report.html").read_text()
    again = invoke(
        "sae", "force", out / "model", "--code", "mlp_out.1:7", "--out", tmp_path / "force"
    )
    assert again.exit_code == 1 and "already holds a run" in again.stderr


def test_resumed_is_the_same(invoke, folder, data, learnt):
    out, _ = learnt
    before = (out / "metrics.json").read_bytes()
    arguments = ("sae", "train", folder("gpt2"), data, "--arch", "codebook", "-p",
                 "head_out.0,mlp_out.*", *SHORT, "--out", out)  # fmt: skip
    refused = invoke(*arguments)
    assert refused.exit_code == 1 and "already holds a run" in refused.stderr
    assert invoke(*arguments, "--resume").exit_code == 0
    assert (out / "metrics.json").read_bytes() == before
    other = invoke(*arguments, "--lr", 0.5, "--resume")
    assert other.exit_code == 1 and "lr" in other.stderr
    theirs = [folder("neox") if a == folder("gpt2") else a for a in arguments]
    other = invoke(*theirs, "--resume")  # its weights would be those of the checkpoint
    assert other.exit_code == 1 and "(model)" in other.stderr


def test_what_is_refused_leaves_no_run_and_costs_none(invoke, folder, data, learnt, tmp_path):
    out, _ = learnt
    arguments = ("sae", "train", folder("gpt2"), data, "--arch", "codebook", "-p", "mlp_out.0",
                 *SHORT, "--lr", -1)  # fmt: skip
    done = invoke(*arguments, "--out", tmp_path / "new")
    assert done.exit_code == 2 and "lr must be" in done.stderr and not (tmp_path / "new").exists()
    before = sorted(p for p in out.rglob("*") if p.is_file())
    assert invoke(*arguments, "--out", out, "--force").exit_code == 2
    assert sorted(p for p in out.rglob("*") if p.is_file()) == before
    wild = (*arguments[:-1], 1e30, "--clip", 0, "--warmup", 0, "--log-every", 1)
    done = invoke(*wild, "--checkpoint-every", 6, "--out", tmp_path / "wild")
    assert done.exit_code == 2 and "the loss is" in done.stderr
    assert not (tmp_path / "wild").exists()


def test_a_dry_run_writes_nothing(invoke, folder, data, tmp_path):
    done = invoke(
        "sae", "train", folder("gpt2"), data, "--arch", "codebook", "-p", "mlp_out.0", *SHORT,
        "--from-scratch", "--out", tmp_path / "none", "--dry-run", "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    plan = json.loads(done.stdout)
    assert plan["steps"] == 6 and plan["codebooks"] == 1 and plan["bytes"] > 10_000
    assert not (tmp_path / "none").exists()


def test_from_a_store_it_is_an_sae_like_others(invoke, folder, data, tmp_path):
    interp.capture(str(folder("gpt2")), str(data), ["mlp_out.0"], pool="all", out=tmp_path / "acts")
    arguments = ("sae", "train", "--store", tmp_path / "acts", "-p", "mlp_out.0", "--steps", 4,
                 "--batch-size", 32, "--n-latents", 24, "--k", 2, "--arch", "codebook")  # fmt: skip
    refused = invoke(*arguments, "--out", tmp_path / "a")
    assert refused.exit_code == 2 and "layer_norm=False" in refused.stderr
    done = invoke(*arguments, "--set", "layer_norm=false", "--out", tmp_path / "b")
    assert done.exit_code == 0, done.output
    assert isinstance(saes.SAE.from_pretrained(tmp_path / "b" / "sae"), saes.Codebook)


@pytest.mark.parametrize(
    "more, said",
    [
        (("--k", "2,4"), "--k takes one number for codebooks"),
        (("--k", "30"), "k must be at most 24"),
        (("--l1", "3"), "--l1 means nothing for codebooks"),
        (("--no-normalize",), "--no-normalize means nothing for codebooks"),
        (("--b-dec", "zero"), "--b-dec means nothing for codebooks"),
        (("--pool", "mean"), "--pool means nothing for codebooks"),
        (("--buffer-rows", "9"), "--buffer-rows means nothing for codebooks"),
        (("--max-length", "65"), "max_length must be at most 64"),
        (("--set", "groups=5"), "groups must divide the width"),
        (("--set", "k=3"), "--k, not --set"),
        (("--init", "zeros"), "init must be one of"),
    ],
)
def test_wrong_use_ends_in_a_sentence(invoke, folder, data, tmp_path, more, said):
    done = invoke(
        "sae", "train", folder("gpt2"), data, "--arch", "codebook", "-p", "mlp_out.0", *SHORT,
        *more, "--out", tmp_path / "x",
    )  # fmt: skip
    assert done.exit_code == 2 and said in done.stderr, done.output


def test_options_of_codebooks_are_theirs_alone(invoke, folder, data, tmp_path):
    done = invoke("sae", "train", folder("gpt2"), data, "-p", "mlp_out.0", "--from-scratch",
                  "--out", tmp_path / "x")  # fmt: skip
    assert done.exit_code == 2 and "--architecture codebook" in done.stderr
    done = invoke("sae", "force", tmp_path, "--code", "mlp_out.1")
    assert done.exit_code == 2 and "HOOKPOINT:NUMBER" in done.stderr
    done = invoke("sae", "force", tmp_path, "--code", "mlp_out.1:3", "--samples", 0)
    assert done.exit_code == 2 and "must be at least 1; got 0 and 50" in done.stderr
    done = invoke("sae", "force", tmp_path, "--code", "mlp_out.1:3", "--dry-run")
    assert done.exit_code == 1 and "holds no codebooks" in done.stderr
    done = invoke("sae", "codes", tmp_path, data, "--pattern", "a=b", "--pattern", "a=c")
    assert done.exit_code == 2 and "--pattern a is given twice" in done.stderr
    done = invoke("sae", "codes", tmp_path, data, "--pattern", "a")
    assert done.exit_code == 2 and "NAME=REGEX" in done.stderr
    done = invoke("sae", "codes", tmp_path, data, "--pattern", "a=b")
    assert done.exit_code == 1 and "holds no codebooks" in done.stderr
