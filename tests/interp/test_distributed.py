import pytest

from interp.distributed import World, world
from interp.errors import ParameterError

TALK = """
import sys
import torch
from interp.distributed import world
w = world()
assert w.gather({"rank": w.rank, "é": [None, "x" * w.rank]}) == [
    {"rank": i, "é": [None, "x" * i]} for i in range(w.size)
]
total = w.sum_(torch.full((3,), float(w.rank + 1)))
assert total.tolist() == [w.size * (w.size + 1) / 2] * 3
w.wait()
w.stop()
sys.stdout.write(f"rank {w.rank} of {w.size}\\n")  # in one piece: others write too
"""


def test_without_torchrun_there_is_one_process(monkeypatch):
    world.cache_clear()
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RANK", "3")  # left there by something else
    assert world() == World(0, 1, 0) and world().leads
    assert world().gather({"a": 1}) == [{"a": 1}]
    world.cache_clear()


def test_an_environment_that_torchrun_does_not_make_is_refused(monkeypatch):
    world.cache_clear()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("RANK", "x")
    with pytest.raises(ParameterError, match="torchrun sets RANK, WORLD_SIZE, LOCAL_RANK"):
        world()
    world.cache_clear()


def test_processes_tell_each_other_json_and_sums(tmp_path, torchrun):
    script = tmp_path / "talk.py"
    script.write_text(TALK)
    done = torchrun(2, str(script))
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split("\n"))[1:] == ["rank 0 of 2", "rank 1 of 2"]


def test_a_command_for_one_process_says_so_under_torchrun(torchrun, tmp_path):
    done = torchrun(2, "-m", "interp", "report", tmp_path, "--out", tmp_path / "r.html")
    assert done.returncode == 1
    assert "interp, rank 0: report runs in one process; start it without torchrun" in done.stderr
    assert "interp, rank 1: report" in done.stderr
    assert done.stdout == ""
    assert 'File "' not in done.stderr.split("elastic")[0]  # torchrun itself ends in a traceback
