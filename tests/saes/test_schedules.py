"""Schedules: numbers at the ends and in the middle, worked by hand."""

import pytest

from interp.errors import ParameterError
from saes.schedules import Schedule


def test_the_learning_rate_rises_stays_and_falls():
    s = Schedule(steps=100, warmup=10, decay="linear", decay_steps=20)
    assert [s.lr_scale(i) for i in (0, 4, 9, 10, 79, 80)] == [0.1, 0.5, 1, 1, 1, 1]
    assert s.lr_scale(90) == 0.5 and s.lr_scale(99) == pytest.approx(1 / 20)
    cosine = Schedule(steps=100, decay="cosine", decay_steps=20)
    assert cosine.lr_scale(90) == pytest.approx(0.5) and cosine.lr_scale(95) < 0.25
    constant = Schedule(steps=100, decay="constant", decay_steps=20)
    assert {constant.lr_scale(i) for i in range(100)} == {1.0}


def test_the_penalty_rises_from_nothing():
    s = Schedule(steps=10, penalty_warmup=4)
    assert [s.penalty_scale(i) for i in (0, 1, 4, 9)] == [0, 0.25, 1, 1]
    assert Schedule(steps=10).penalty_scale(0) == 1


def test_k_falls_to_the_config_s():
    s = Schedule(steps=100, k_start=40, k_steps=30)
    assert [s.k(i, 10) for i in (0, 15, 29, 30, 99)] == [40, 25, 11, None, None]
    assert s.k(0, 64) is None  # never rises
    assert Schedule(steps=100).k(0, 10) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"steps": 1.5},
        {"warmup": -1},
        {"warmup": 11},
        {"decay": "step"},
        {"decay_steps": 11},
        {"penalty_warmup": True},
        {"k_start": 0, "k_steps": 2},
        {"k_start": 8, "k_steps": 0},
    ],
)
def test_what_is_no_schedule_is_refused(wrong):
    Schedule(steps=10)
    with pytest.raises(ParameterError, match=next(iter(wrong))):
        Schedule(**{"steps": 10, **wrong})


def test_v4_the_schedule_of_vl_sae_s_authors_ends_at_nothing():
    want = [0.5, 1, 0.96194, 0.85355, 0.69134, 0.5, 0.30866, 0.14645, 0.038060, 0]
    s = Schedule(steps=70, decay="vl_paper")
    assert [s.lr_scale(7 * i) for i in range(10)] == pytest.approx(want, abs=5e-6)
    assert [s.lr_scale(7 * i + 6) for i in range(10)] == pytest.approx(want, abs=5e-6)
    uneven = Schedule(steps=73, decay="vl_paper")
    assert uneven.lr_scale(0) == 0.5 and uneven.lr_scale(72) == 0
    for option in ({"warmup": 2}, {"decay_steps": 2}):
        with pytest.raises(ParameterError, match="a whole schedule"):
            Schedule(steps=70, decay="vl_paper", **option)
