"""Several processes write one store: the bytes of one process's, whoever dies on the way."""

import re
import shutil

import pytest

import interp
from interp.integrity import verify

MODEL = """
import os
import torch

def load():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = torch.nn.Sequential(torch.nn.Conv2d(2, 4, 3), torch.nn.ReLU())
    seen = []

    def die(module, inputs):
        seen.append(1)
        mine = os.environ.get("RANK") == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
        if mine and len(seen) > 10 and "DIE" in os.environ:
            if os.environ["DIE"] == "raise":
                raise ValueError("the light went out")
            os.kill(os.getpid(), 9)

    network.register_forward_pre_hook(die)
    return network

def images():
    return torch.randn(23, 2, 5, 5, generator=torch.Generator().manual_seed(0))
"""
SCRIPT = """
import sys
import torch
torch.set_num_threads(1)
import interp
from interp.distributed import world

options = {"pool": "last", "batch_size": 3, "shard_rows": 4, "text_column": "text"}
out, data = sys.argv[1:]
store = interp.capture("demo:pylm", data, ["embed", "resid_post.*"], out=out, **options)
whole = interp.capture("demo:pylm", data, ["embed", "resid_post.*"], pool="last", batch_size=3)
for name in whole.hookpoints:  # in memory each process has all of it
    assert torch.allclose(whole[name][:], store[name][:], atol=1e-4)
print("rank", world().rank, "read", len(store["embed"]))
"""


def content(path):
    return {p.name: p.read_bytes() for p in sorted(path.iterdir())}


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """A capture of images in six shards; what makes it follows."""
    file = tmp_path_factory.mktemp("model") / "model.py"
    file.write_text(MODEL)
    return ["capture", f"{file}:load", f"{file}:images", "-p", "0,1", "--pool", "all",
            "--shard-rows", "4", "--batch-size", "2", "--device", "cpu"]  # fmt: skip


@pytest.fixture
def alone(command, invoke, tmp_path):
    """The store of one process."""
    assert invoke(*command, "--out", tmp_path / "alone").exit_code == 0
    return content(tmp_path / "alone")


def test_what_a_killed_process_leaves_is_gone_on_with(command, invoke, alone, torchrun, tmp_path):
    out = tmp_path / "cut"
    died = torchrun(2, "-m", "interp", *command, "--out", out, DIE="kill")
    assert died.returncode != 0
    assert "exitcode  : -9" in died.stderr and "rank      : 1 (local_rank: 1)" in died.stderr
    assert list(out.glob("shard-*")) and not verify(out).complete and not verify(out).damaged
    shutil.copytree(out, tmp_path / "second")
    done = invoke(*command, "--out", tmp_path / "second", "--resume")  # by one process
    assert done.exit_code == 0 and content(tmp_path / "second") == alone
    assert re.search("[1-5] of 6 shards are whole", done.stderr)
    (out / "shard-00004.safetensors").unlink(missing_ok=True)
    done = torchrun(3, "-m", "interp", *command, "--out", out, "--resume")  # by three
    assert done.returncode == 0, done.stderr
    assert content(out) == alone


def test_torchruns_restart_goes_on(command, alone, torchrun, tmp_path):
    out = tmp_path / "again"
    arguments = ["--max-restarts", 1, "-m", "interp", *command, "--out", out, "--force"]
    done = torchrun(2, *arguments, DIE="raise")
    assert done.returncode == 0, done.stderr
    assert content(out) == alone
    assert "interp, rank 1: unexpected ValueError: the light went out" in done.stderr
    assert "of 6 shards are whole" in done.stderr
    assert done.stdout.count("hook points in") == 1


def test_all_processes_end_where_the_first_refuses(command, torchrun, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis").write_text("x")
    done = torchrun(2, "-m", "interp", *command, "--out", tmp_path / "mine", "--force")
    assert done.returncode == 1
    for rank in (0, 1):
        assert f"interp, rank {rank}: {tmp_path}/mine holds files that are no act" in done.stderr
    assert "terminate called" not in done.stderr
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis"]


def test_three_processes_of_a_script_write_the_store_of_one(torchrun, tmp_path):
    data, script = tmp_path / "texts.csv", tmp_path / "script.py"
    lines = [f"x{i} = " + " + ".join(["a", "bb", "c_c"] * (1 + i % 5)) for i in range(18)]
    data.write_text("text\n" + "\n".join(lines) + "\n")
    script.write_text(SCRIPT)
    done = torchrun(3, script, tmp_path / "three", data)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split("\n"))[1:] == [f"rank {i} read 18" for i in range(3)]
    interp.capture("demo:pylm", data, ["embed", "resid_post.*"], pool="last", batch_size=3,
                   shard_rows=4, text_column="text", out=tmp_path / "one")  # fmt: skip
    found, wanted = content(tmp_path / "three"), content(tmp_path / "one")
    assert found == wanted and len(wanted) == 7
