"""Run folders: whole or absent, and never two runs in one."""

import json
import os
from dataclasses import dataclass
from typing import ClassVar

import pytest

from interp.errors import StoreError
from interp.results import Result
from interp.runs import (
    DEEPEST,
    Run,
    parse_json,
    read_results,
    versions,
    write_bytes,
    write_text,
)


@dataclass(frozen=True, kw_only=True)
class Count(Result):
    kind: ClassVar[str] = "test_count"
    value: float = 0.0

    def metrics(self):
        return {"value": self.value}


OPTIONS = {"model": "tiny", "seed": 0, "hookpoints": ("embed",), "rate": float("nan")}


def finished(path, seed=0, **how):
    run = Run(path, "probe", {**OPTIONS, "seed": seed}, **how)
    run.add(Count(name="b/../c", n=3, value=2.5))
    run.add(Count(name="a", n=3, value=float("nan")))
    run.finish()
    return run


def test_a_run_folder_holds_what_it_says(tmp_path):
    finished(tmp_path / "run")
    files = {p.relative_to(tmp_path / "run").as_posix() for p in (tmp_path / "run").rglob("*.json")}
    assert {"config.json", "metrics.json", "manifest.json"} <= files
    assert len([f for f in files if f.startswith("results/")]) == 2  # and none outside
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics == {"test_count": {"a": {"value": None}, "b/../c": {"value": 2.5}}}
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["versions"]["python"] == versions()["python"] and manifest["seconds"] >= 0
    assert {r.name for r in read_results(tmp_path / "run")} == {"a", "b/../c"}


def test_what_killed_writes_left_goes_with_resume_and_force(tmp_path):
    folder = tmp_path / "run"
    finished(folder)
    left = [".checkpoint.safetensors.9.tmp", "results/.a.json.9.tmp", "sae/k8/.config.json.9.tmp"]
    for how in ({"resume": True}, {"force": True}):
        for name in (*left, ".mine.tmp"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("half")
        with pytest.raises(StoreError, match="already holds a run"):
            finished(folder)
        assert all((folder / name).exists() for name in left), "another process may be at work"
        finished(folder, **how)
        assert not any((folder / name).exists() for name in left)
        assert (folder / ".mine.tmp").exists()


def test_two_equal_runs_give_equal_metrics(tmp_path):
    for name in ("one", "two"):
        finished(tmp_path / name)
    one, two = ((tmp_path / n / "metrics.json").read_bytes() for n in ("one", "two"))
    assert one == two and b"seconds" not in one and str(tmp_path).encode() not in one


def test_another_run_is_refused(tmp_path):
    finished(tmp_path / "run")
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    with pytest.raises(StoreError, match="already holds a run; use --resume .* --force"):
        finished(tmp_path / "run")
    with pytest.raises(StoreError, match=r"other options \(seed\)"):
        finished(tmp_path / "run", seed=1, resume=True)
    assert {p: p.read_bytes() for p in before} == before


def test_resume_finds_what_is_there(tmp_path):
    finished(tmp_path / "run")
    run = Run(tmp_path / "run", "probe", OPTIONS, resume=True)
    found = run.found(Count, "b/../c")
    assert found is not None and found.value == 2.5
    assert run.found(Count, "zzz") is None
    assert run.results == [found]


def test_a_result_that_is_added_again_takes_its_place(tmp_path):
    finished(tmp_path / "run")
    run = Run(tmp_path / "run", "probe", OPTIONS, resume=True)
    assert run.found(Count, "b/../c") is not None
    run.add(Count(name="a", n=3, value=1.0))
    run.add(Count(name="b/../c", n=3, value=9.0))
    assert [(r.name, r.value) for r in run.results] == [("b/../c", 9.0), ("a", 1.0)]


def test_the_same_run_forced_is_that_run(tmp_path):
    finished(tmp_path / "run")
    config = (tmp_path / "run" / "config.json").read_bytes()
    finished(tmp_path / "run", force=True)
    assert (tmp_path / "run" / "config.json").read_bytes() == config


def test_force_clears_the_run_and_nothing_else(tmp_path):
    finished(tmp_path / "run")
    (tmp_path / "run" / "my notes.txt").write_text("keep")
    run = Run(tmp_path / "run", "probe", {**OPTIONS, "seed": 9}, force=True)
    assert run.found(Count, "a") is None
    assert not (tmp_path / "run" / "metrics.json").exists()
    assert (tmp_path / "run" / "my notes.txt").read_text() == "keep"
    assert json.loads((tmp_path / "run" / "config.json").read_text())["seed"] == 9


@pytest.mark.parametrize("how", [{}, {"resume": True}, {"force": True}])
def test_files_of_another_kind_are_left_alone(tmp_path, how):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text('{"mine": 1}')
    with pytest.raises(StoreError, match="no run of interp; name another folder"):
        Run(tmp_path / "run", "probe", OPTIONS, **how)
    assert (tmp_path / "run" / "config.json").read_text() == '{"mine": 1}'
    with pytest.raises(StoreError, match="is a file; --out takes a folder"):
        Run(tmp_path / "run" / "config.json", "probe", OPTIONS, **how)


def test_an_empty_folder_is_a_new_run(tmp_path):
    (tmp_path / "run").mkdir()
    finished(tmp_path / "run")


def test_no_results(tmp_path):
    with pytest.raises(StoreError, match="holds no results"):
        read_results(tmp_path)


def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    write_text(tmp_path / "a", "old")
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", lambda h: (_ for _ in ()).throw(OSError(28, "No space left")))
        with pytest.raises(StoreError, match="cannot write .*: No space left"):
            write_text(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_a_failed_rename_leaves_the_old_file(tmp_path, monkeypatch):
    write_bytes(tmp_path / "a", b"old")
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", lambda *a: (_ for _ in ()).throw(OSError(5, "I/O error")))
        with pytest.raises(StoreError, match="I/O error"):
            write_bytes(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="cannot write"):
        write_text(tmp_path / "file" / "a.json", "x")


def test_two_names_that_look_alike_do_not_share_a_file(tmp_path):
    run = Run(tmp_path / "run", "probe", OPTIONS)
    run.add(Count(name="a b", n=1, value=1.0))
    run.add(Count(name="a-b", n=1, value=2.0))
    run.add(Count(name="x" * 90 + "1", n=1, value=3.0))
    run.add(Count(name="x" * 90 + "2", n=1, value=4.0))
    assert sorted(r.value for r in read_results(tmp_path / "run")) == [1.0, 2.0, 3.0, 4.0]


def test_json_of_a_stranger_is_as_deep_as_anything_here_needs():
    def nested(n):
        return "[" * n + "{}" + "]" * n

    assert parse_json(nested(DEEPEST - 1)) is not None and parse_json("3") == 3
    text = json.dumps({"a": "[" * 500, "b": [[]] * 500})  # long, and not deep
    assert parse_json(text) == json.loads(text)
    for deep in (DEEPEST, 600, 100_000):
        with pytest.raises(ValueError, match="nested too deeply"):
            parse_json(nested(deep))
