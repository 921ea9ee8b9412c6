"""``interp sae eval``: the library's numbers, in a run folder; and what it refuses."""

import json
import signal

import numpy as np
import pytest
import torch

import interp
import saes
from interp.store import ActivationStore

WHERE = "resid_post.1"


@pytest.fixture
def saved(tmp_path):
    """Folders of two TopK SAEs of width 32 that name their hook point."""
    for seed in (0, 1):
        generator = torch.Generator().manual_seed(seed)
        sae = saes.TopKSAE(saes.TopKConfig(n_latents=64, k=8), 32, generator=generator)
        sae.metadata = {"hookpoint": WHERE}
        sae.save_pretrained(tmp_path / f"sae{seed}")
    return tmp_path / "sae0", tmp_path / "sae1"


@pytest.fixture
def table(tmp_path, texts):
    """Texts with a label and a group, as a csv file."""
    lines = [f"{t},{i % 2},g{i // 2}" for i, t in enumerate(texts)]
    (tmp_path / "some.csv").write_text("\n".join(["text,odd,pair", *lines]))
    return tmp_path / "some.csv"


def test_model_and_data(invoke, folder, saved, table, tmp_path):
    model, out = folder("gpt2"), tmp_path / "run"
    done = invoke("sae", "eval", saved[0], model, table, "--out", out, "--other", saved[1],
                  "--label-column", "odd", "--ks", "1,2", "--json")  # fmt: skip
    assert done.exit_code == 0, done.output
    printed = json.loads(done.stdout)
    assert printed == json.loads((out / "metrics.json").read_text())
    sae = saes.SAE.from_pretrained(saved[0])
    acts = interp.capture(str(model), str(table), WHERE, pool="all")[WHERE]
    found = saes.evaluate(sae, acts)
    assert printed["sae_evaluation"][WHERE]["fvu"] == pytest.approx(found.fvu)
    loss = saes.loss_recovered(interp.load(str(model)), sae, str(table), WHERE)
    assert printed["loss_recovered"][WHERE]["kl"] == pytest.approx(loss.kl)
    assert printed["seed_stability"][WHERE]["n"] == 64
    assert printed["sparse_probing"]["some.odd"]["ks"] == [1, 2]
    assert (out / "report.html").stat().st_size > 1_000_000
    again = invoke("sae", "eval", saved[0], model, table, "--out", out)
    assert again.exit_code != 0 and "already holds a run" in again.stderr


def test_a_store(invoke, saved, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(0, 1, (50, 32))).float()
    store = ActivationStore.from_tensors({WHERE: x, "b": x + 1})
    monkeypatch.setattr(ActivationStore, "open", lambda path: store)
    out = tmp_path / "run"
    done = invoke("sae", "eval", saved[0], "--store", tmp_path, "--out", out)
    assert done.exit_code == 0, done.output
    assert "explained_variance" in done.stdout and "report:" in done.stdout
    numbers = json.loads((out / "metrics.json").read_text())
    sae = saes.SAE.from_pretrained(saved[0])
    assert numbers["sae_evaluation"][WHERE]["fvu"] == pytest.approx(saes.evaluate(sae, x).fvu)
    other = invoke("sae", "eval", saved[0], "--store", tmp_path, "-p", "b", "--out", out, "--force")
    assert other.exit_code == 0, other.output
    numbers = json.loads((out / "metrics.json").read_text())
    assert list(numbers["sae_evaluation"]) == ["b"]


def test_resume_keeps_what_is_there_and_ends_the_same(
    invoke, folder, saved, table, tmp_path, monkeypatch
):
    out, evaluate = tmp_path / "run", saes.evaluate
    arguments = ["sae", "eval", saved[0], folder("gpt2"), table, "--out", out, "--other", saved[1],
                 "--label-column", "odd", "--ks", "1,2"]  # fmt: skip
    calls = []
    monkeypatch.setattr(saes, "evaluate", lambda *a, **k: calls.append(1) or evaluate(*a, **k))
    monkeypatch.setattr("sys.argv", ["interp", *map(str, arguments)])
    with monkeypatch.context() as patched:
        patched.setattr(saes, "sparse_probing", lambda *a, **k: signal.raise_signal(signal.SIGINT))
        killed = invoke(*arguments)
    assert killed.exit_code == 130 and "--resume goes on" in killed.stderr
    assert len(list((out / "results").glob("*.json"))) == 3 and not (out / "report.html").exists()
    done = invoke(*arguments, "--resume")
    assert done.exit_code == 0 and len(calls) == 1, done.output
    left = {f: (out / f).read_bytes() for f in ("metrics.json", "report.html")}
    assert invoke(*arguments, "--force").exit_code == 0 and len(calls) == 2
    assert left == {f: (out / f).read_bytes() for f in left}
    other = invoke(*arguments, "--seed", 1, "--resume")
    assert other.exit_code == 1 and "other options (seed)" in other.stderr


def test_a_dry_run_writes_nothing(invoke, folder, saved, table, tmp_path, monkeypatch):
    store = ActivationStore.from_tensors({WHERE: torch.ones(50, 32)})
    monkeypatch.setattr(ActivationStore, "open", lambda path: store)
    out = tmp_path / "run"
    for source in ([folder("gpt2"), table], ["--store", tmp_path]):
        done = invoke("sae", "eval", saved[0], *source, "--out", out, "--dry-run", "--json")
        assert done.exit_code == 0, done.output
        assert {"rows", "bytes", "seconds"} <= json.loads(done.stdout).keys()
        said = invoke("sae", "eval", saved[0], *source, "--out", out, "--dry-run").stdout
        assert "rows" in said and "about" in said
    assert json.loads(done.stdout)["bytes"] == 50 * 32 * 4 and not out.exists()


def test_another_width_is_refused_before_the_data_is_captured(
    invoke, folder, table, tmp_path, monkeypatch
):
    def capture(*arguments):
        raise AssertionError("captured")

    monkeypatch.setattr("interp.capturing.Capture.in_memory", capture)
    sae = saes.TopKSAE(saes.TopKConfig(n_latents=64, k=8), 16)
    path = sae.save_pretrained(tmp_path / "narrow")
    done = invoke("sae", "eval", path, folder("gpt2"), table, "-p", WHERE, "--out", tmp_path / "r")
    assert done.exit_code == 1 and not (tmp_path / "r").exists()
    assert f"for rows of 16 numbers, and {WHERE} of" in done.stderr and "[32]" in done.stderr


def test_a_transcoder(invoke, tmp_path, monkeypatch):
    sae = saes.TopKSAE(saes.TopKConfig(n_latents=16, k=4), 32, 8)
    sae.save_pretrained(tmp_path / "t")
    x = torch.randn(50, 32, generator=torch.Generator().manual_seed(0))
    store = ActivationStore.from_tensors({"x": x, "y": x[:, :8]})
    monkeypatch.setattr(ActivationStore, "open", lambda path: store)
    common = (
        "sae",
        "eval",
        tmp_path / "t",
        "--store",
        tmp_path,
        "-p",
        "x",
        "--out",
        tmp_path / "r",
    )
    done = invoke(*common, "--target", "y", "--json")
    assert done.exit_code == 0, done.output
    wanted = saes.evaluate(sae, x, y=x[:, :8]).fvu
    assert json.loads(done.stdout)["sae_evaluation"]["x"]["fvu"] == pytest.approx(wanted)
    refused = invoke(*common, "--force")
    assert refused.exit_code == 2 and "--target is needed" in refused.stderr


def test_a_crosscoder_reads_its_layers_side_by_side(invoke, tmp_path, monkeypatch):
    config = saes.CrosscoderConfig(n_latents=16, n_layers=2, l1=0.1)
    sae = saes.Crosscoder(config, 8, generator=torch.Generator().manual_seed(0))
    sae.metadata = {"hookpoint": "a+b"}
    sae.save_pretrained(tmp_path / "c")
    x = torch.randn(50, 2, 8, generator=torch.Generator().manual_seed(0))
    store = ActivationStore.from_tensors({"b": x[:, 1], "a": x[:, 0]})
    monkeypatch.setattr(ActivationStore, "open", lambda path: store)
    done = invoke("sae", "eval", tmp_path / "c", "--store", tmp_path, "--out", tmp_path / "r",
                  "--json")  # fmt: skip
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)["sae_evaluation"]["a+b"]
    assert found["fvu"] == pytest.approx(saes.evaluate(sae, x).fvu)
    assert found["fvu"] != pytest.approx(saes.evaluate(sae, x.flip(1)).fvu)


def test_tokens_of_a_text_are_never_split(invoke, saved, tmp_path, monkeypatch):
    """Rows of a text share a mark and a label of chance: by rows the mark gives it away."""
    import pandas as pd

    rng = np.random.default_rng(0)
    documents = np.repeat(np.arange(40), 8)
    x = torch.from_numpy(rng.normal(0, 3, (40, 32))[documents]).float()
    x += 0.01 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    rows = pd.DataFrame({"document": documents, "y": rng.permutation([0, 1] * 20)[documents]})
    out = tmp_path / "r"
    accuracy = {}
    for pool in ("all", "last"):
        store = ActivationStore.from_tensors({WHERE: x}, rows, pool=pool)
        monkeypatch.setattr(ActivationStore, "open", lambda path, store=store: store)
        done = invoke("sae", "eval", saved[0], "--store", tmp_path, "--out", out, "--force",
                      "--label-column", "y", "--ks", "10", "--json")  # fmt: skip
        assert done.exit_code == 0, done.output
        accuracy[pool] = json.loads(done.stdout)["sparse_probing"]["data.y"]["full_accuracy"]
    assert accuracy["last"] > 0.95 and accuracy["all"] < 0.8


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "takes SAE and MODEL and DATA, or --store"),
        (["--store", "s", "--first-letters"], "--first-letters needs MODEL and DATA"),
        (["--store", "s", "--absorption"], "--absorption needs --label-column"),
        (["--store", "s", "--ks", "1,x"], "--ks takes whole numbers"),
        (["--store", "s", "-p", "a,b"], "must name what this SAE reads, 1 hook point; got a, b"),
        (["--store", "s", "--target", "y"], "no transcoder"),
    ],
)
def test_wrong_usage_ends_in_one_sentence(invoke, saved, tmp_path, options, sentence):
    done = invoke("sae", "eval", saved[0], *options, "--out", tmp_path / "run")
    assert done.exit_code == 2 and sentence in done.stderr
    assert not (tmp_path / "run").exists()
