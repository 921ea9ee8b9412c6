import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from interp.resuming import table_room

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, and forks")

ROOT = Path(__file__).parents[2]
BIG = os.environ.get("INTERP_BIG_STORE", "3")
"""Gigabytes of the large store."""


def run(*arguments, timeout=600):
    """The standard output of a program, in a process of its own."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, timeout=timeout,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def cases():
    """``cases("capture all", …)``: bytes before, stated and taken."""
    script = Path(__file__).with_name("memory_cases.py")
    return lambda *names: json.loads(run(script, *names))


def close(found):
    """Stated within a fifth of what was taken, which imports alone are not."""
    for name, (before, stated, taken) in found.items():
        assert 0.8 < stated / taken < 1.2, (name, before, stated, taken)
        assert before / taken < 0.8, (name, before, stated, taken)


def test_the_stated_peaks_of_a_capture_and_of_a_training_are_kept(cases):
    close(cases("capture all", "train from a store"))


@pytest.mark.slow
def test_more_stated_peaks_are_kept(cases):
    names = ("capture last", "capture a long table", "train wide", "train from a model")
    close(cases(*names))


@pytest.mark.slow
def test_memory_and_speed_stay_over_ten_thousand_steps(capsys):
    program = ROOT / "examples" / "long_run.py"
    found = json.loads(run(program, "--json", timeout=3000))
    leaky = json.loads(run(program, "--json", "--leak", timeout=3000))
    with capsys.disabled():
        print(json.dumps({"found": found, "with a leak of 16 kB a step": leaky}, indent=1))
    for name, f in found.items():
        assert f["growth"] < max(0.01 * f["first"], 2e6), name
        assert f["slope"] < 400, name
        assert f["speeds"][1] > 0.5 * f["speeds"][0], name  # other work may share the machine
        assert leaky[name]["slope"] > 10_000 and leaky[name]["growth"] > 20e6, name


@pytest.mark.slow
def test_a_store_larger_than_memory_is_written_read_and_trained_from(capsys):
    said = run(ROOT / "examples" / "big_store.py", "--gigabytes", BIG, timeout=7200)
    with capsys.disabled():
        print(said)
    assert [line.split()[0] for line in said.splitlines()[1:]] == ["write", "read", "train"]


def test_the_room_of_a_table_is_a_group_of_its_rows_and_a_column_of_objects():
    draw = random.Random(0)
    texts = [draw.randbytes(draw.randrange(200)).hex() for _ in range(60_000)]
    rows = pd.DataFrame(
        {"text": pd.array(texts, "string"), "label": [i % 2 for i in range(60_000)]}
    )
    few, many = table_room(rows[:20_000]), table_room(rows)
    assert sum(map(len, texts[:16_384])) < few < 5 * sum(map(len, texts[:16_384]))
    assert abs(many / few - 1) < 0.05  # three times the rows
    assert table_room(rows.astype(object)) > many + sum(map(len, texts))
    assert table_room(rows[:0]) == 0


@pytest.mark.slow
def test_texts_larger_than_memory_are_captured(capsys):
    program = ROOT / "examples" / "big_text.py"
    found = json.loads(run(program, "--megabytes", "150", "--json", timeout=3000))
    with capsys.disabled():
        print(json.dumps(found, indent=1))
    assert set(found) == {"csv", "jsonl", "parquet", "txt"}
    for kind, f in found.items():
        assert f["growth"]["pieces"] < 40e6 < 200e6 < f["growth"]["whole"], kind
        assert f["same"], kind
        assert 0.8 < f["pieces all"]["stated"] / f["pieces all"]["peak"] < 1.2, kind
