"""Signals end a command with every file whole; a library's caller keeps its own Ctrl-C."""

import os
import signal
import threading
import time

import numpy as np
import pytest
import torch

import interp.storing
import saes
from interp.runs import write_text
from interp.stopping import HEEDED, Interrupted, heeding, undisturbed
from saes.resuming import read_state


@pytest.mark.parametrize("number, code", [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_raises_and_the_handlers_go(number, code):
    before = [signal.getsignal(n) for n in HEEDED]
    with pytest.raises(KeyboardInterrupt) as stop, heeding():
        signal.raise_signal(getattr(signal, number))
    assert isinstance(stop.value, Interrupted) and stop.value.code == code
    assert [signal.getsignal(n) for n in HEEDED] == before


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup starts a process
    try:
        with heeding():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_first_signal_waits_for_the_block_and_the_second_does_not():
    seen = []
    with pytest.raises(Interrupted), heeding(), undisturbed() as asked:
        seen.append(asked())
        with undisturbed():
            signal.raise_signal(signal.SIGTERM)
        seen.append(asked())  # the inner block's end is not the outer one's
    assert seen == [False, True]
    with pytest.raises(Interrupted) as stop, heeding(), undisturbed():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        raise AssertionError("the second signal waits")
    assert stop.value.code == 143
    with heeding(), undisturbed() as asked:
        assert not asked(), "a signal is kept from one block to the next"


def test_an_error_in_the_block_is_what_is_told():
    with pytest.raises(ValueError, match="mine"), heeding(), undisturbed():
        signal.raise_signal(signal.SIGINT)
        raise ValueError("mine")
    with heeding(), undisturbed():
        pass


def test_a_block_of_another_thread_holds_no_signal_back():
    held, go = threading.Event(), threading.Event()

    def work():
        with undisturbed():
            held.set()
            go.wait(10)

    thread = threading.Thread(target=work)
    thread.start()
    held.wait(10)
    try:
        with pytest.raises(Interrupted), heeding():
            signal.raise_signal(signal.SIGTERM)
    finally:
        go.set()
        thread.join()


def test_a_write_is_finished_first(tmp_path, monkeypatch):
    fsync = os.fsync

    def struck(handle):
        signal.raise_signal(signal.SIGTERM)
        fsync(handle)

    monkeypatch.setattr(os, "fsync", struck)
    with pytest.raises(Interrupted), heeding():
        write_text(tmp_path / "a", "all of it")
    assert (tmp_path / "a").read_text() == "all of it" and len(list(tmp_path.iterdir())) == 1


X = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)


def train(out=None, at=None, resume=False):
    def progress(done, total, what):
        if done == at:
            signal.raise_signal(signal.SIGINT)

    config = saes.TopKConfig(n_latents=16, k=2)
    options = {"steps": 9, "batch_size": 16, "checkpoint_every": 9, "backend": "eager"}
    return saes.train(X, config, **options, out=out, resume=resume, progress=progress)


def test_a_training_is_interrupted_after_a_step_that_is_kept(tmp_path, capfd):
    with pytest.raises(Interrupted), heeding():
        train(tmp_path, at=4)
    assert "stopping as soon as" in capfd.readouterr().err
    found = read_state(tmp_path)
    assert found is not None and found[0]["step"] == 4
    resumed, unbroken = train(tmp_path, resume=True), train()
    for name, tensor in unbroken.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name])


def test_a_notebooks_ctrl_c_is_at_once(tmp_path):
    with pytest.raises(KeyboardInterrupt) as stop:
        train(tmp_path, at=4)
    assert type(stop.value) is KeyboardInterrupt and read_state(tmp_path) is None


@pytest.fixture
def data(tmp_path, texts):
    path = tmp_path / "t.jsonl"
    path.write_text("".join(f'{{"text": "{t}"}}\n' for t in texts))
    return path


@pytest.mark.parametrize("force", [False, True])
def test_sigterm_is_143_and_says_how_to_go_on(invoke, folder, data, tmp_path, monkeypatch, force):
    arguments = ["capture", folder("gpt2"), data, "-p", "embed", "--out", tmp_path / "acts"]
    write = interp.storing.write_shard

    def struck(*given):
        signal.raise_signal(signal.SIGTERM)
        return write(*given)

    with monkeypatch.context() as patched:
        patched.setattr(interp.storing, "write_shard", struck)
        done = invoke(*arguments, *["--force"] * force)
    instead = " in place of --force" if force else ""
    assert done.exit_code == 143, done.output
    assert done.stderr.rstrip().endswith(
        f"interp: interrupted; the same command with --resume{instead} goes on where it stopped."
    )
    assert invoke(*arguments, "--resume").exit_code == 0


def test_a_command_without_resume_does_not_promise_one(invoke, tmp_path, monkeypatch):
    monkeypatch.setattr(
        interp.runs, "read_results", lambda path: signal.raise_signal(signal.SIGINT)
    )
    done = invoke("report", tmp_path)
    assert done.exit_code == 130
    assert done.stderr == "interp: interrupted; nothing is half written, start it again.\n"


@pytest.mark.parametrize("jump", [3e8, -3e8])
def test_a_clock_that_jumps_changes_no_duration(invoke, folder, data, tmp_path, monkeypatch, jump):
    true, calls = time.time, []

    def jumping():
        calls.append(1)
        return max(0.0, true() + jump * len(calls))

    monkeypatch.setattr(time, "time", jumping)
    out = tmp_path / "run"
    acts = [
        "capture",
        folder("gpt2"),
        data,
        "-p",
        "embed",
        "--pool",
        "all",
        "--out",
        tmp_path / "a",
    ]
    learn = ["sae", "train", "--store", tmp_path / "a", "-p", "embed", "--steps", 4, "--n-latents",
             16, "--k", 2, "--batch-size", 8, "--out", out, "--json"]  # fmt: skip
    for arguments in (acts, learn):
        done = invoke(*arguments)
        assert done.exit_code == 0, done.output
        assert "nan" not in done.stderr and " -" not in done.stderr
    manifest = interp.runs.json.loads((out / "manifest.json").read_text())
    assert 0 <= manifest["seconds"] < 600
    log = saes.Training.load(out / "sae" / "training.json")
    assert (log.rows_per_second > 0).all() and np.isfinite(log.rows_per_second).all()
    time.time()
    assert calls, "the clock jumps for this process"
