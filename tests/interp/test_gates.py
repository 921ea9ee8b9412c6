"""Conditions on a comparison: what holds, what cannot be judged, and what is no condition."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest

from interp.changes import Changes
from interp.errors import DataError, ParameterError
from interp.gates import Gate, holding
from interp.results import Result
from probes.difference import DepthDifference


@dataclass(frozen=True, kw_only=True)
class Numbers(Result):
    kind: ClassVar[str] = "test_numbers"

    table: dict[str, Any]

    def metrics(self):
        return self.table


def judge(text, *tables):
    results = [Numbers(name=f"r{i}", n=1, table=t) for i, t in enumerate(tables)]
    return holding([Gate.parse(text)], results)


CURVE = {"hookpoints": ["a", "b", "c"], "delta": np.array([0.1, np.nan, -0.2]), "low": [None] * 3}


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("test_numbers.delta < -0.1", True),
        ("test_numbers.delta<-.2", False),
        ("test_numbers.delta <= -.2", True),
        ("test_numbers.delta > 0.1", False),
        ("test_numbers.delta >= 1e-1", True),
        ("test_numbers.delta == 0.1", True),
        ("test_numbers.delta != 0.1", True),
        ("test_numbers.r0.delta < -0.1", True),
    ],
)
def test_a_curve_holds_where_any_hook_point_does(text, holds):
    assert bool(judge(text, CURVE)) is holds


def test_it_says_where():
    (where,) = judge("test_numbers.delta < 0", CURVE).values()
    assert where == ["test_numbers of r0: delta at c = -0.2"]


def test_one_result_can_be_named():
    tables = ({"x": 1.0}, {"x": 3.0})
    assert judge("test_numbers.x > 2", *tables)
    assert judge("test_numbers.r1.x > 2", *tables)
    assert not judge("test_numbers.r0.x > 2", *tables)


def test_an_undefined_measure_passes_no_gate():
    for field in ("low", "single"):
        with pytest.raises(DataError, match="cannot be judged"):
            judge(f"test_numbers.{field} < 0", CURVE | {"single": None})


def test_an_unknown_measure_is_an_error_and_not_a_pass():
    with pytest.raises(ParameterError, match="did you mean 'test_numbers.delta'"):
        judge("test_numbers.dleta < 0", CURVE)


@pytest.mark.parametrize("text", ["", "x", "x <", "< 3", "x < y", "x < 1 or True", "x < nan",
                                  "x < 1.2.3", "__import__('os')", "x << 3"])  # fmt: skip
def test_what_is_no_condition_is_refused(text):
    with pytest.raises(ParameterError, match="has the form NAME < NUMBER"):
        Gate.parse(text)


def test_what_was_not_compared_passes_no_gate_on_all():
    left = {"concept_depth facts.label": "only in base", "sparsity x": "only in base"}
    about = Changes(name="a and b", n=0, what=(), key=(), first=(), second=(), delta=(),
                    models=("a", "b"), equal=0, not_compared=left)  # fmt: skip
    depth = DepthDifference(
        name="python.string", n=9, models=("a", "b"), hookpoints=("x",), first=np.zeros(1),
        second=np.zeros(1), delta=np.zeros(1), low=np.zeros(1), high=np.zeros(1), draws=9, seed=0,
        points={},
    )  # fmt: skip

    def judged(text):
        return holding([Gate.parse(text)], [depth, about])

    with pytest.raises(DataError, match=r"concept_depth facts.label is not compared: only in base"):
        judged("depth.delta < -0.1")
    assert judged("depth.python.string.delta < -0.1") == {}  # of one that was
    assert judged("depth.delta < 0.1")  # it fails whatever the other would say
    assert judged("run.equal > 5") == {}


def test_the_sentence_about_an_unknown_measure_ends_once():
    with pytest.raises(ParameterError, match=r"\?$"):
        judge("test_numbers.dleta < 0", CURVE)
    with pytest.raises(ParameterError, match=r"[^.?]\.$"):
        judge("qqq < 0", CURVE)
