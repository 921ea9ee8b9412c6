"""`interp sae train`: from a store and from a model, sweeps, dry runs, resuming, refusals."""

import json
import re

import pytest
import torch

import interp
import saes
from interp.runs import read_results
from saes.training import Training


@pytest.fixture
def learn(invoke):
    """``learn("--store", path, …)``: what `interp sae train` did."""
    return lambda *arguments: invoke("sae", "train", *arguments)


@pytest.fixture
def data(tmp_path):
    rows = (f"w{2 + i % 70} w{3 + 7 * i % 60} w{5 + 11 * i % 50}" for i in range(60))
    (tmp_path / "texts.txt").write_text("\n".join(rows))
    return tmp_path / "texts.txt"


@pytest.fixture
def store(folder, data, tmp_path):
    points = ["resid_post.0", "resid_post.1"]
    interp.capture(str(folder("gpt2")), str(data), points, pool="all", out=tmp_path / "acts")
    return tmp_path / "acts"


SHORT = ("--steps", 6, "--batch-size", 32, "--n-latents", 24)


def test_a_sweep_from_a_store(learn, store, tmp_path):
    """One SAE a hook point and k, each in its folder, with log, metrics and report."""
    out = tmp_path / "run"
    points = ("-p", "resid_post.0,resid_post.1")
    done = learn("--store", store, *points, "--k", "2,4", *SHORT, "--out", out)
    assert done.exit_code == 0, done.output
    names = {f"resid_post.{i}.topk-k{k}" for i in (0, 1) for k in (2, 4)}
    assert {p.name for p in (out / "sae").iterdir()} == names
    sae = saes.SAE.from_pretrained(out / "sae" / "resid_post.1.topk-k4")
    assert sae.config == saes.TopKConfig(n_latents=24, k=4)
    assert sae.metadata["hookpoint"] == "resid_post.1" and sae.metadata["pool"] == "all"
    assert len(sae.encode_sparse(torch.randn(3, 32))) == 3
    results = read_results(out)
    assert all(isinstance(r, Training) for r in results)
    assert {r.name for r in results} == {f"texts.{n}" for n in names}
    metrics = json.loads((out / "metrics.json").read_text())["sae_training"]
    assert metrics["texts.resid_post.0.topk-k2"]["l0"] <= 2
    assert "per_second" not in json.dumps(metrics)
    page = (out / "report.html").read_text()
    assert "counts as dead" in page and "resid_post.1.topk-k4" in page
    assert "FVU" not in done.stdout and "fvu" in done.stdout


def test_from_a_model_equal_runs_give_equal_files(learn, folder, data, tmp_path):
    arguments = (folder("gpt2"), data, "-p", "resid_post.1", "--k", 3, *SHORT)
    for name in ("a", "b"):
        done = learn(*arguments, "--out", tmp_path / name)
        assert done.exit_code == 0, done.output
    for file in ("metrics.json", "sae/model.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    done = learn(*arguments, "--seed", 1, "--out", tmp_path / "c")
    a, c = (tmp_path / n / "sae/model.safetensors" for n in "ac")
    assert a.read_bytes() != c.read_bytes()


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        (("-p", "resid_post.0", "--target", "resid_post.1", "--architecture", "transcoder",
          "--k", 3), saes.Transcoder),
        (("-p", "resid_post.0,resid_post.1", "--architecture", "crosscoder"), saes.Crosscoder),
        (("-p", "resid_post.0", "--architecture", "jumprelu", "--set", "bandwidth=0.1"),
         saes.JumpReLUSAE),
    ],
)  # fmt: skip
def test_other_architectures(learn, store, tmp_path, options, kind):
    done = learn("--store", store, *options, *SHORT, "--out", tmp_path / "run")
    assert done.exit_code == 0, done.output
    assert type(saes.SAE.from_pretrained(tmp_path / "run" / "sae")) is kind


def test_a_killed_run_goes_on_where_it_stopped(learn, store, tmp_path, monkeypatch):
    arguments = ("--store", store, "-p", "resid_post.0", "--k", 3, *SHORT, "--checkpoint-every", 2)
    assert learn(*arguments, "--out", tmp_path / "whole").exit_code == 0
    step = saes.trainee.Trainee.step

    def stop(self, pair, at, *, log):
        if at == 4:
            raise KeyboardInterrupt
        step(self, pair, at, log=log)

    with monkeypatch.context() as patch:
        patch.setattr(saes.trainee.Trainee, "step", stop)
        killed = learn(*arguments, "--out", tmp_path / "run")
    assert killed.exit_code == 130 and "--resume" in killed.stderr
    refused = learn(*arguments, "--out", tmp_path / "run")
    assert refused.exit_code == 1 and "already holds a run" in refused.stderr
    other = learn(*arguments, "--lr", 0.1, "--resume", "--out", tmp_path / "run")
    assert other.exit_code == 1 and "other options (lr)" in other.stderr
    assert learn(*arguments, "--resume", "--out", tmp_path / "run").exit_code == 0
    left, right = (tmp_path / n / "sae/model.safetensors" for n in ("whole", "run"))
    assert left.read_bytes() == right.read_bytes()
    assert learn(*arguments, "--force", "--lr", 0.1, "--out", tmp_path / "run").exit_code == 0
    assert left.read_bytes() != right.read_bytes()


def test_shards_are_refused_where_there_is_one_process(learn, store, tmp_path):
    arguments = ("--store", store, "-p", "resid_post.0", "--k", 3, *SHORT)
    alone = learn(*arguments, "--shards", 2, "--out", tmp_path / "run")
    assert alone.exit_code == 2 and "shards must be from 2 up and divide the 1" in alone.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow  # test_sharded compares them; here it is the option
def test_shards_train_what_one_process_does(learn, store, tmp_path, torchrun):
    arguments = ("--store", store, "-p", "resid_post.0", "--k", 3, *SHORT)
    assert learn(*arguments, "--out", tmp_path / "one").exit_code == 0
    command = ("-m", "interp", "sae", "train", *arguments, "--shards", 2)
    done = torchrun(2, *command, "--out", tmp_path / "two")
    assert done.returncode == 0, done.stderr
    one, two = (saes.SAE.from_pretrained(tmp_path / n / "sae").state_dict() for n in ("one", "two"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-5, atol=1e-5)


def test_what_fails_leaves_no_run_behind_and_costs_none(learn, store, tmp_path):
    out = tmp_path / "run"
    arguments = ("--store", store, "-p", "resid_post.0", "--k", 3, *SHORT, "--out", out,
                 "--checkpoint-every", 6)  # fmt: skip
    for wrong in (("--lr", "nan"), ("--lr", 1e30, "--clip", 0), ("--ema", 2)):
        assert learn(*arguments, *wrong).exit_code == 2 and not out.exists(), wrong
    assert learn(*arguments).exit_code == 0
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    for wrong in (("--lr", "nan"), ("--ema", 2)):
        assert learn(*arguments, *wrong, "--force").exit_code == 2
        assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before
    assert learn(*arguments, "--seed", 1, "--force").exit_code == 0
    assert (out / "sae/model.safetensors").read_bytes() != before[out / "sae/model.safetensors"]
    assert (out / "checkpoint.safetensors").is_file()


def test_a_dry_run_counts_and_writes_nothing(learn, store, tmp_path):
    arguments = ("--store", store, "-p", "resid_post.0", "--k", "2,3", *SHORT, "--dry-run")
    done = learn(*arguments, "--json", "--out", tmp_path / "run")
    assert done.exit_code == 0, done.output
    plan = json.loads(done.stdout)
    weights = 2 * 4 * (24 * 32 * 2 + 24 + 32)
    assert (plan["rows"], plan["steps"], plan["saes"]) == (180, 6, 2)
    assert plan["bytes"] == weights and plan["checkpoint_bytes"] == 3 * weights
    assert plan["epochs"] == pytest.approx(6 * 32 / 180) and plan["seconds"] > 0
    assert not (tmp_path / "run").exists()
    assert re.search(
        r"180 rows, 6 steps of 32 \(1\.1 epochs\) for 2 SAEs", learn(*arguments).stdout
    )


def test_the_gradient_is_not_clipped_where_clip_is_0(learn, store, tmp_path):
    arguments = ("--store", store, "-p", "resid_post.0", "--k", 3, *SHORT)
    for name, clip in (("cut", 0.01), ("free", 0), ("huge", 1e9)):
        done = learn(*arguments, "--clip", clip, "--out", tmp_path / name)
        assert done.exit_code == 0, done.output
    cut, free, huge = (
        (tmp_path / n / "sae/model.safetensors").read_bytes() for n in ("cut", "free", "huge")
    )
    assert free == huge != cut
    assert read_results(tmp_path / "free")[0].provenance["training"]["clip"] is None
    done = learn(*arguments, "--clip", -1, "--out", tmp_path / "wrong")
    assert done.exit_code == 2 and "clip must be a finite number above 0" in done.stderr


def test_what_labels_there_are_is_not_said(learn, folder, tmp_path):
    (tmp_path / "data.csv").write_text("text,label\n" + "w2 w3 w4,a\nw5 w6 w9,b\n" * 20)
    done = learn(folder("gpt2"), tmp_path / "data.csv", "-p", "resid_post.1", "--k", 3, *SHORT,
                 "--out", tmp_path / "run")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "texts from column 'text'" in done.stderr and "labels" not in done.stderr


def test_options_from_a_file(learn, store, tmp_path):
    (tmp_path / "c.toml").write_text(
        f'store = "{store}"\nhookpoint = "resid_post.0"\nk = "3"\nsteps = 4\nbatch-size = 32\n'
    )
    done = learn("--config", tmp_path / "c.toml", "--out", tmp_path / "run", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["sae_training"]["texts.resid_post.0.topk"]["n_latents"] == 256


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "takes MODEL and DATA, or --store"),
        (("-p", "resid_post.0"), "takes MODEL and DATA, or --store"),
        (("--store", "STORE"), "--hookpoint such as"),
        (("--store", "STORE", "-p", "resid_post.0", "--architecture", "topp"), "must be one of"),
        (("--store", "STORE", "-p", "resid_post.0", "--architecture", "transcoder"), "--target"),
        (("--store", "STORE", "-p", "resid_post.0,resid_post.1", "--target", "resid_post.1"),
         "one --hookpoint"),
        (("--store", "STORE", "-p", "resid_post.0", "--set", "auxk"), "NAME=VALUE"),
        (("--store", "STORE", "-p", "resid_post.0", "--set", "aux=1"), "did you mean 'auxk'"),
        (("--store", "STORE", "-p", "resid_post.0", "--l1", "1"), "no field 'l1'"),
        (("--store", "STORE", "-p", "resid_post.0", "--k", "300"), "at most 256"),
        (("--store", "STORE", "-p", "resid_post.0", "--k", "many"), "whole number"),
        (("--store", "STORE", "-p", "resid_post.0", "--steps", "0"), "steps"),
    ],
)  # fmt: skip
def test_wrong_usage_is_one_sentence(learn, store, tmp_path, arguments, said):
    arguments = [store if a == "STORE" else a for a in arguments]
    done = learn(*arguments, "--out", tmp_path / "run")
    assert done.exit_code == 2, done.output
    assert said in done.stderr and "Traceback" not in done.output


def test_a_hook_point_that_the_store_lacks(learn, store, tmp_path):
    done = learn("--store", store, "-p", "resid_post.7", "--out", tmp_path / "run")
    assert done.exit_code == 1 and "resid_post.0" in done.stderr
