"""One process writes to a folder: the lock goes with the process, and never stands in the way."""

import errno
import fcntl
import os
import subprocess
import sys

import pytest
import torch

import interp
from interp.distributed import World
from interp.errors import DataError, StoreError
from interp.integrity import repair
from interp.locking import hold, holding, let_go, let_go_of_all
from interp.runs import Run, find_run

HOLD = """
import sys
from pathlib import Path
from interp.locking import hold
hold(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path):
    """Another process that holds the folder until it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()
    let_go_of_all()


def test_another_process_is_named_and_its_end_frees_the_folder(tmp_path, other):
    before = list(tmp_path.iterdir())
    for how in ({}, {"resume": True}, {"force": True}):
        with pytest.raises(StoreError, match=rf"being written by another process \({other.pid}\)"):
            Run(tmp_path, "probe", {}, **how)
    with pytest.raises(StoreError, match="wait for it, or name another folder"):
        find_run(tmp_path, resume=True, force=False)
    assert list(tmp_path.iterdir()) == before == []
    other.kill()
    other.wait()
    Run(tmp_path, "probe", {}).finish()


def test_its_temporary_files_are_left_alone(tmp_path, other):
    half = tmp_path / ".config.json.99.tmp"
    half.write_text("half")
    with pytest.raises(StoreError, match="another process"):
        find_run(tmp_path, resume=True, force=False)
    assert half.exists()


def test_a_command_says_it_in_a_sentence(tmp_path, other, invoke, folder):
    (tmp_path / "texts.txt").write_text("w2\nw3\n")
    (tmp_path / "texts.txt").rename(data := tmp_path.parent / f"{tmp_path.name}.txt")
    done = invoke("capture", folder("gpt2"), data, "-p", "embed", "--out", tmp_path)
    assert done.exit_code == 1 and "is being written by another process" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_capture_and_a_repair_say_it_too(tmp_path, other):
    network, x = torch.nn.Sequential(torch.nn.Linear(2, 2)), torch.ones(3, 2)
    (tmp_path / "manifest.json").write_text("{}")
    for refused in (
        lambda: interp.capture(network, x, "0", out=tmp_path, force=True),
        lambda: repair(tmp_path),
    ):
        with pytest.raises(StoreError, match="is being written by another process"):
            refused()
    assert [p.name for p in tmp_path.iterdir()] == ["manifest.json"]


def test_who_reads_needs_no_lock(tmp_path, other):
    network, x = torch.nn.Sequential(torch.nn.Linear(2, 2)), torch.ones(3, 2)
    interp.capture(network, x, "0", out=tmp_path / "s")
    for file in (tmp_path / "s").iterdir():
        file.rename(tmp_path / file.name)
    assert interp.ActivationStore.open(tmp_path).verify().whole


def test_a_folder_that_came_to_nothing_is_let_go(tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    network, x = torch.nn.Sequential(torch.nn.Linear(2, 2)), torch.full((3, 2), torch.nan)
    with pytest.raises(DataError, match="row 0"):
        interp.capture(network, x, "0", batch_size=1, out=tmp_path / "s")
    Run(tmp_path / "r", "probe", {}).drop()
    assert list(tmp_path.iterdir()) == []
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_same_process_may_hold_it_twice_and_must_let_go_twice(tmp_path):
    hold(tmp_path)
    hold(tmp_path)
    let_go(tmp_path)
    assert not free(tmp_path)
    let_go(tmp_path)
    assert free(tmp_path)


def test_a_finished_or_refused_run_lets_go(tmp_path):
    Run(tmp_path / "a", "probe", {}).finish()
    assert free(tmp_path / "a")
    with pytest.raises(StoreError, match="already holds a run"):
        Run(tmp_path / "a", "probe", {})
    assert free(tmp_path / "a")
    run = Run(tmp_path / "b", "probe", {})
    assert not free(tmp_path / "b")
    run.drop()
    assert not (tmp_path / "b").exists()


def test_an_empty_folder_that_was_made_for_the_lock_goes_again(tmp_path):
    with pytest.raises(KeyError), holding(tmp_path / "new" / "er"):
        raise KeyError
    assert not (tmp_path / "new" / "er").exists()
    with holding(tmp_path / "new" / "er"):
        (tmp_path / "new" / "er" / "file").write_text("x")
    assert (tmp_path / "new" / "er" / "file").exists() and free(tmp_path / "new" / "er")


def test_ranks_of_torchrun_share_the_first_ones_lock(tmp_path, other, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("RANK", "1")
    hold(tmp_path)  # its rank 0 holds it
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(StoreError, match="another process"):
        hold(tmp_path)


def test_all_ranks_are_told_that_the_folder_is_held(tmp_path, monkeypatch):
    class Second(World):
        def led(self, work):
            raise StoreError("told by rank 0")

    monkeypatch.setattr("interp.capturing.world", lambda: Second(rank=1, size=2))
    network, x = torch.nn.Sequential(torch.nn.Linear(2, 2)), torch.ones(3, 2)
    with pytest.raises(StoreError, match="told by rank 0"):
        interp.capture(network, x, "0", out=tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_a_drive_that_locks_no_folders_is_written_without_a_lock(tmp_path, monkeypatch):
    def refuse(*given):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    Run(tmp_path / "a", "probe", {}).finish()


def free(path):
    """Whether somebody else could lock the folder now."""
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True
