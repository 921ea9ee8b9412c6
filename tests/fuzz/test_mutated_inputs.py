"""Each surface: sound input gives a correct result, and spoilt input that or a clear error."""

import json
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from mutated_inputs import SURFACES, shares
from mutations.junk import Sound
from mutations.trial import CLEAR, CORRECT, Case, run

PROGRAM = Path(__file__).parents[2] / "examples" / "mutated_inputs.py"


@pytest.mark.parametrize("surface", SURFACES)
def test_sound_input_is_correct(bench, tmp_path, surface):
    """The arm that shows that errors come of the mutation, not of the bench."""
    for i in range(3):
        place = tmp_path / f"{i}"
        place.mkdir()
        case = SURFACES[surface][0](bench, place, Sound(f"sound {i}"))
        outcome = run(case)
        assert outcome.kind == CORRECT, (case.what, case.argv, outcome)


@pytest.mark.parametrize("surface", SURFACES)
def test_spoilt_input(bench, tmp_path, surface):
    for i in range(6):
        place = tmp_path / f"{i}"
        place.mkdir()
        case = SURFACES[surface][0](bench, place, Random(f"test {surface} {i}"))
        outcome = run(case)
        assert outcome.good, (surface, i, case.what, outcome)


@settings(max_examples=200, deadline=None, derandomize=True, phases=[Phase.generate],
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(
    st.lists(st.sampled_from(["*", "**", "?", ".", "mlp", "h", "[a-m]", "[!.]", "0", "resid_post.",
             "transformer", ":in", "-1", ":", "c_proj"]), min_size=1, max_size=12).map("".join)
    | st.text(max_size=30)
)  # fmt: skip
def test_hook_points(bench, text):
    from mutations import expressions

    points = bench.points()
    case = Case(
        text,
        call=lambda: [(p.name, p.module) for p in points.resolve(text)],
        judge=lambda found: expressions.judge(text, found, list(points.modules)),
    )
    outcome = run(case, limit=2)
    assert outcome.good, outcome


@settings(max_examples=25, deadline=None, derandomize=True, phases=[Phase.generate],
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(
    cells=st.lists(
        st.tuples(
            st.text(max_size=12), st.text(max_size=4), st.none() | st.integers() | st.booleans()
        ),
        max_size=6,
    ),
    kind=st.sampled_from(["csv", "tsv", "jsonl", "json"]),
)  # fmt: skip
def test_tables_of_any_text(bench, tmp_path_factory, cells, kind):
    """What is read of a table that other means wrote is what was put in."""
    from mutations import tables

    rows = [{"text": f"w3 {text}", "label": label, "more": more} for text, label, more in cells]
    folder = tmp_path_factory.mktemp("table")
    file, out = folder / f"data.{kind}", folder / "acts"
    if not rows:
        return
    file.write_bytes(tables.encoded(rows, kind))
    line = ["capture", str(bench.model), str(file), "-p", "resid_post.0", "--out", str(out)]
    outcome = run(
        Case(kind, line, judge=lambda done: tables.captured(bench, file, out), keep=[out])
    )
    assert outcome.good, outcome


def test_the_judges_can_fail(bench, tmp_path):
    """A traceback, a hang, a silent success, a wrong result and a touched folder are each seen."""

    def fails():
        raise KeyError("x")

    def hangs():
        while True:
            pass

    def writes():
        (tmp_path / "new").mkdir()
        raise ValueError

    assert run(Case("", call=fails)).kind == "traceback"
    assert run(Case("", call=hangs), limit=0.2).kind == "hang"
    assert run(Case("", call=int)).kind == "silent success"
    assert run(Case("", call=int, judge=lambda n: "it is 0")).kind == "wrong result"
    assert run(Case("", call=int, judge=lambda n: str(1 // n))).kind == "wrong result"
    assert run(Case("", call=writes, keep=[tmp_path / "new"])).kind == "touched"
    assert run(Case("", ["hookpoints", str(tmp_path / "absent")])).kind == CLEAR
    from mutations import expressions, saved, tables

    names = ["transformer", "transformer.h.0"]
    assert expressions.judge("transformer.*", [("x", "transformer")], names)
    assert expressions.judge("resid_post.0:1", [], names)
    other = tmp_path / "other.txt"
    other.write_text("w3\nw4\n")
    assert tables.captured(bench, other, bench.store)
    spoilt = bench.copy(bench.probed, tmp_path / "spoilt")
    assert saved.kinds(spoilt, bench.probed) is None
    (file,) = (spoilt / "results").iterdir()
    told = json.loads(file.read_text())
    told["fields"]["n"] = "24"
    file.write_text(json.dumps(told))
    assert "n of" in saved.kinds(spoilt, bench.probed)


def test_the_bench_leaves_interp_as_it_was(bench):
    """It lives as long as the session: what it changed, every later test would have."""
    from interp import planning

    assert planning.SHARD_ROWS == 4096 and len(list(bench.store.glob("shard-*"))) == 3


def test_the_shares_add_up():
    assert sum(shares(500).values()) == 500 and sum(shares(7).values()) == 7


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_the_table_of_five_hundred(seed, capsys):
    command = [sys.executable, str(PROGRAM), "--count", "500", "--seed", str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    with capsys.disabled():
        print(f"\n{done.stdout}")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    header = done.stdout.splitlines()[0].split()
    assert " ".join(header) == f"{CLEAR} {CORRECT}"
