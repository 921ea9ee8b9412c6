"""Killed at random moments and resumed, as processes: `make slow` prints the tables."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    "what, times", [("capture", 50), ("train", 50), ("probe", 10), ("report", 10)]
)
def test_what_is_killed_and_resumed_ends_as_if_it_had_not_been(what, times, capsys):
    done = subprocess.run(
        [sys.executable, "examples/kills.py", "--what", what, "--times", str(times)],
        capture_output=True, text=True, timeout=3600, cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    with capsys.disabled():
        print(f"\n{done.stdout}")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert f"{what}: {times} of {times} identical" in done.stdout
