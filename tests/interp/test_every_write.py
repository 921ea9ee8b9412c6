"""Struck at every single write: killed, interrupted, or the disk full; then resumed, and compared.

`Disk` counts each step of a write below a folder (open, write, flush to the disk, rename, remove, a
new folder) and strikes at the n-th, for every n until nothing is left to strike.
"""

import builtins
import errno
import os
import signal

import numpy as np
import pytest

import dashboards
import interp
import saes
from interp.errors import StoreError
from interp.runs import Run, write_text
from interp.stopping import Interrupted, heeding


class Killed(BaseException):
    """What no code of ours catches; after it nothing reaches the disk."""


class Disk:
    """Steps of writes below a folder; the n-th is struck."""

    def __init__(self, folder, n, how):
        self.folder, self.n, self.how = str(folder), n, how
        self.steps, self.struck = 0, False

    def __enter__(self):
        self.patched = pytest.MonkeyPatch()
        true_open = builtins.open

        def opened(path, mode="r", *args, **kwargs):
            if not self.ours(path) or not set(mode) & set("wax"):
                return true_open(path, mode, *args, **kwargs)
            self.step()
            return File(self, true_open(path, mode, *args, **kwargs))

        self.patched.setattr(builtins, "open", opened)
        for name in ("replace", "unlink", "mkdir", "rmdir"):
            self.patched.setattr(os, name, self.stepping(getattr(os, name), name))
        fsync = os.fsync
        self.patched.setattr(os, "fsync", lambda handle: (self.step(), fsync(handle))[1])
        return self

    def __exit__(self, *error):
        self.patched.undo()

    def ours(self, path):
        return not isinstance(path, int) and str(path).startswith(self.folder)

    def stepping(self, true, name):
        frees = name in ("unlink", "rmdir")  # a full disk can still remove, and rename

        def stepped(path, *args, **kwargs):
            if self.ours(path) or kwargs.get("dir_fd") is not None:
                self.step(needs_room=not frees and name != "replace")
            return true(path, *args, **kwargs)

        return stepped

    def step(self, needs_room=True):
        if self.how == "full" and not needs_room:
            return
        self.steps += 1
        if self.struck and self.how == "interrupt":
            return  # one signal, and the process may tidy up
        if self.steps <= self.n:
            return
        self.struck = True
        if self.how == "interrupt":
            signal.raise_signal(signal.SIGINT)
        elif self.how == "full":
            raise OSError(errno.ENOSPC, "No space left on device")
        else:
            raise Killed


class File:
    """A file that is half written when it is struck."""

    def __init__(self, disk, true):
        self.disk, self.true = disk, true

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.true.close()

    def __getattr__(self, name):
        return getattr(self.true, name)

    def write(self, data):
        half = len(data) // 2
        self.true.write(data[:half])
        self.disk.step()
        self.true.write(data[half:])
        return len(data)


def exhaust(work, folder, compare, how, least, before=lambda out: None):
    """Strike ``work(folder, resume)`` at every step, resume it, compare it with an unbroken one."""
    whole = folder / "whole" / "out"
    whole.parent.mkdir(parents=True)
    before(whole)
    work(whole, False)
    for n in range(1000):
        place = folder / str(n) / "out"
        place.parent.mkdir()
        before(place)
        with Disk(place.parent, n, how) as disk:
            try:
                with heeding():
                    work(place, False)
            except Killed:
                assert how == "kill"
            except Interrupted as stop:
                assert how == "interrupt" and stop.code == 130
            except StoreError as error:
                assert how == "full"
                assert "No space left on device; free some space" in str(error), error
        if not disk.struck:
            break
        assert compare["damaged"](place, asked=how != "kill") == [], f"struck at step {n}"
        work(place, True)
        found = compare["differences"](whole.parent, place.parent)
        assert found == [], f"struck at step {n}"
        assert not list(place.rglob(".*.tmp"))
    assert n >= least, "steps that were struck"


@pytest.fixture(scope="module")
def compare():
    """The comparisons of examples/kills.py."""
    import runpy
    from pathlib import Path

    return runpy.run_path(str(Path(__file__).parents[2] / "examples" / "kills.py"))


HOW = pytest.mark.parametrize("how", ["kill", "interrupt", "full"])


@HOW
def test_capture(how, gpt2, texts, tmp_path, compare):
    def work(out, resume):
        points = ["embed", "resid_post.1"]
        interp.capture(gpt2, texts, points, pool="all", out=out, resume=resume, shard_rows=5)

    exhaust(work, tmp_path, compare, how, least=20)  # manifest and rows, 3 shards, 4 manifests


@HOW
def test_training(how, tmp_path, compare):
    x = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)

    def work(out, resume):
        saes.train(
            x, saes.TopKConfig(n_latents=16, k=2), steps=4, batch_size=16, checkpoint_every=2,
            backend="eager", out=out, resume=resume,
        )  # fmt: skip

    exhaust(work, tmp_path, compare, how, least=15)  # 2 checkpoints, 2 files and the log


@pytest.fixture(scope="module")
def results():
    """Two small results."""
    x = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)
    sae = saes.train(x, saes.TopKConfig(n_latents=16, k=2), steps=4, batch_size=16, seed=0)
    return [saes.evaluate(sae, x, name=name) for name in ("a", "b")]


@pytest.fixture(scope="module")
def page(results):
    """Their report, drawn once: what is tried here is the writing."""
    return dashboards.Report(results, title="t").html()


def finish(run, results, page):
    for result in results:
        if run.found(type(result), result.name) is None:
            run.add(result)
    run.finish()
    write_text(run.path / "report.html", page)


@HOW
def test_a_run_with_its_report(how, tmp_path, results, page, compare):
    def work(out, resume):
        finish(Run(out, "sae eval", {"seed": 0}, resume=resume), results, page)

    exhaust(work, tmp_path, compare, how, least=20)  # config, 2 results, metrics, manifest, report


@pytest.mark.parametrize("how", ["kill", "interrupt"])
def test_a_run_that_replaces_another(how, tmp_path, results, page, compare):
    def before(out):
        earlier = Run(out, "probe", {"seed": 1})
        (out / "acts").mkdir()
        (out / "acts" / "rows.parquet").write_bytes(b"PAR1PAR1")
        finish(earlier, results[:1], page)

    def work(out, resume):
        options = ("sae eval", {"seed": 0})
        try:
            run = Run(out, *options, resume=resume, force=not resume)
        except StoreError as error:  # the earlier run is still there, then all of it
            assert resume and "--force replaces the run" in str(error)
            assert len(list(out.rglob("*.*"))) == 6
            run = Run(out, *options, force=True)
        finish(run, results, page)

    exhaust(work, tmp_path, compare, how, least=30, before=before)


def test_a_write_in_place_is_found_out(tmp_path, results, page, compare, monkeypatch):
    def in_place(path, data):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as file:
            file.write(data)
        return path

    monkeypatch.setattr(interp.runs, "write_bytes", in_place)
    with pytest.raises(AssertionError, match="half written"):
        exhaust(
            lambda out, resume: finish(Run(out, "probe", {}, resume=resume), results, page),
            tmp_path, compare, "kill", least=9,
        )  # fmt: skip
