"""``interp doctor STORE``: a table, one sentence, and the command that mends what is damaged."""

import json
import shlex
import shutil

import pytest
import torch
from safetensors.torch import save_file

import interp


@pytest.fixture
def store(invoke, folder, texts, tmp_path):
    """A store in four shards, and how it was made."""
    data, out = tmp_path / "things.csv", tmp_path / "a store"
    data.write_text("words,city\n" + "\n".join(f"{t},c{i // 2}" for i, t in enumerate(texts)))
    command = ["capture", folder("gpt2"), data, "-p", "embed,resid_post.*", "--out", out,
               "--text-column", "words", "--group-column", "city", "--pool", "mean",
               "--shard-rows", "3", "--batch-size", "2", "--max-length", "9"]  # fmt: skip
    assert invoke(*command).exit_code == 0
    return out, command


def content(path):
    return {p.name: p.read_bytes() for p in sorted(path.iterdir())}


def sentence(done, code):
    assert done.exit_code == code, done.output
    lines = [x for x in done.stderr.splitlines() if x.startswith("interp: ")]
    assert len(lines) == 1 and "Traceback" not in done.output
    return lines[0]


def test_a_whole_store_is_said_to_be(invoke, store):
    out, _ = store
    done = invoke("doctor", out)
    assert done.exit_code == 0, done.output
    assert done.stdout.count(" whole ") == 6 and "is undamaged" in done.stdout
    found = json.loads(invoke("doctor", out, "--json").stdout)
    assert found["whole"] and found["command"] is None and len(found["files"]) == 6
    (out / ".manifest.json.7.tmp").write_text("{")
    assert "1 files that a kill left are removed by --repair" in invoke("doctor", out).stdout
    assert invoke("doctor", out, "--repair").exit_code == 0
    assert not (out / ".manifest.json.7.tmp").exists()


def test_damage_is_a_sentence_with_the_command_that_mends_it(invoke, store):
    out, _ = store
    before = content(out)
    shard = out / "shard-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-9])
    done = invoke("doctor", out)
    says = sentence(done, 1)
    assert "shard-00002.safetensors of the store" in says and "is truncated" in says
    assert "--repair" in says and "truncated" in done.stdout
    found = invoke("doctor", out, "--json")
    assert sentence(found, 1)
    command = json.loads(found.stdout)["command"]
    assert command in says
    repaired = invoke("doctor", out, "--repair")
    assert "removed shard-00002.safetensors" in repaired.stderr and not shard.exists()
    assert "not complete" in sentence(repaired, 1) and command in repaired.stderr
    with pytest.raises(interp.errors.StoreError, match="not complete"):
        interp.ActivationStore.open(out)
    words = shlex.split(command)
    assert words[:2] == ["interp", "capture"] and words[-1] == "--resume"
    assert invoke(*words[1:]).exit_code == 0
    assert content(out) == before


def test_the_command_is_that_of_the_manifest(invoke, store):
    out, _ = store
    (out / "shard-00000.safetensors").unlink()
    manifest = json.loads((out / "manifest.json").read_text())
    for change in ({"data": None}, {"data": "a\x1b[2Jb"}, {"data": "--config"}, {"columns": 3}):
        (out / "manifest.json").write_text(
            json.dumps({**manifest, "source": {**manifest["source"], **change}})
        )
        found = json.loads(invoke("doctor", out, "--json").stdout)
        assert found["command"] is None
        assert "the same capture with --resume" in sentence(invoke("doctor", out), 1)
    harm = {**manifest["source"], "data": "x; touch here"}
    (out / "manifest.json").write_text(json.dumps({**manifest, "source": harm}))
    assert "'x; touch here'" in json.loads(invoke("doctor", out, "--json").stdout)["command"]


def test_a_manifest_that_is_no_json(invoke, store):
    out, _ = store
    (out / "manifest.json").write_text("")
    assert "capture it again with --force" in sentence(invoke("doctor", out), 1)
    sentence(invoke("doctor", out, "--repair"), 1)
    (out / "manifest.json").unlink()
    assert "holds no manifest.json" in sentence(invoke("doctor", out), 1)


def test_a_store_of_pairs_and_of_python_have_their_command(invoke, tmp_path):
    out = tmp_path / "p"
    command = ["capture", "demo:digits-clip", "demo:digits-clip", "--pairs", "--out", out]
    assert invoke(*command, "--shard-rows", "500").exit_code == 0
    before = content(out)
    (out / "shard-00001.safetensors").unlink()
    mends = json.loads(invoke("doctor", out, "--json").stdout)["command"]
    assert "--pairs" in mends
    assert invoke(*shlex.split(mends)[1:]).exit_code == 0
    assert content(out) == before


def test_a_run_folder_is_read(invoke, folder, tmp_path):
    run = tmp_path / "run"
    (run / "results").mkdir(parents=True)
    (run / "config.json").write_text('{"command": "probe"}')
    (run / "results" / "a.json").write_text("{}")
    assert invoke("doctor", run).exit_code == 0
    (run / "results" / "a.json").write_text("{")
    assert "results/a.json of the run" in sentence(invoke("doctor", run), 1)
    assert "--repair takes the folder of a store" in sentence(invoke("doctor", run, "--repair"), 2)
    (run / "results" / "a.json").write_text("{}")
    save_file({"w": torch.ones(9)}, run / "w.safetensors")
    assert invoke("doctor", run).exit_code == 0
    (run / "w.safetensors").write_bytes((run / "w.safetensors").read_bytes()[:-1])
    assert "w.safetensors of the run" in sentence(done := invoke("doctor", run), 1)
    assert "is truncated; the run's command with --force" in done.stderr
    (run / "w.safetensors").write_bytes(b"cut")
    (run / "results" / "a.json").write_text("{")
    assert "and 1 more of its files are damaged" in sentence(invoke("doctor", run), 1)
    model = json.loads(invoke("doctor", folder("gpt2"), "--json").stdout)
    assert "certificate" in model  # a model's folder is a model


def test_the_stores_of_a_run_are_verified(invoke, store):
    out, _ = store
    (run := out.parent / "run").mkdir()
    (run / "config.json").write_text('{"command": "probe"}')
    shutil.copytree(out, run / "acts" / "t")
    whole = invoke("doctor", run, "--json")
    assert whole.exit_code == 0 and "is undamaged" in invoke("doctor", run).stdout
    assert json.loads(whole.stdout)["files"]["acts/t/shard-00002.safetensors"] == "whole"
    held = bytearray((run / "acts" / "t" / "shard-00002.safetensors").read_bytes())
    held[-1] ^= 1
    (run / "acts" / "t" / "shard-00002.safetensors").write_bytes(held)
    says = sentence(invoke("doctor", run), 1)
    assert "acts/t/shard-00002.safetensors of the run" in says and "is altered" in says


def test_what_is_neither(invoke, tmp_path):
    (tmp_path / "void").mkdir()
    (tmp_path / "file.txt").write_text("x")
    assert "is no store (no manifest.json)" in sentence(invoke("doctor", tmp_path / "void"), 1)
    assert "file.txt is a file" in sentence(invoke("doctor", tmp_path / "file.txt"), 1)
