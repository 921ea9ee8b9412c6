"""Schedules: the table of step sizes and TV weights, as released and corrected."""

import pytest

from interp.errors import ParameterError
from probes.multifaceted import schedules

# iterations, step start -> end, TV weight nominal start -> end, actual first -> last, scale, margin
MEAN = [
    (190, 1, 2, 0.4, 0.4, 0.398, 0.796, 1.0, 0),
    (150, 1, 1, 0.01, 2, 0.0099, 1.997, 1.2, 0),
    (20, 2, 2, 0.1, 2, 0.095, 1.995, 1.0, 50),
    (10, 2, 2, 0.4, 2, 0.36, 2.16, 1.0, 0),
]
CENTRE = [
    (190, 11, 11, 0.001, 0.05, 0.00099, 0.0507, 1.0, 0),
    (150, 6, 6, 0.01, 0.08, 0.0099, 0.0894, 1.2, 0),
    (150, 1, 1, 0.01, 2, 0.0099, 1.997, 1.2, 0),
    (30, 3, 3, 0.1, 2, 0.0967, 2.03, 1.0, 50),
    (10, 6, 3, 0.01, 2, 0.009, 1.809, 1.0, 0),
]


@pytest.mark.parametrize(
    "schedule, table, total",
    [(schedules.mfv_mean(), MEAN, 370), (schedules.mfv_cbr(), CENTRE, 530)],
)
def test_the_released_schedules_are_those_of_the_table(schedule, table, total):
    assert schedule.steps == total and schedule.mode == "released_code"
    assert len(schedule.octaves) == len(table)
    for octave, row in zip(schedule.octaves, table, strict=True):
        n, step, end, weight, weight_end, first, last, scale, margin = row
        assert octave.steps == n and octave.scale == scale
        assert round(octave.margin * 227) == margin
        assert octave.rate_at(0) == step
        assert octave.rate_at(n - 1) == pytest.approx(step + (end - step) * (n - 1) / n)
        assert octave.tv == (weight, weight_end)
        assert octave.tv_at(0, True) == pytest.approx(first, rel=6e-3)
        assert octave.tv_at(n - 1, True) == pytest.approx(last, rel=1e-3)


def test_corrected_tv_ends_where_the_table_says_and_the_slip_does_not():
    corrected = schedules.mfv_mean(corrected=True)
    assert corrected.mode == "recommended" and not corrected.slip
    octave = corrected.octaves[0]
    assert octave.tv_at(189, corrected.slip) == pytest.approx(0.4)
    assert octave.tv_at(189, True) == pytest.approx(0.796, abs=5e-4)  # the arm: nearly s + e
    last = corrected.octaves[3]
    assert last.tv_at(9, False) == pytest.approx(0.4 + 1.6 * 0.9)


def test_only_the_first_two_octaves_of_cbr_climb_a_probability():
    assert [o.probability for o in schedules.mfv_cbr().octaves] == [True, True] + [False] * 3
    assert not any(o.probability for o in schedules.mfv_mean().octaves)


def test_lucid_and_maco_have_the_constants_of_their_code():
    lucid = schedules.lucid()
    assert (lucid.steps, lucid.octaves[0].rate, lucid.optimiser) == (512, (0.05, 0.05), "adam")
    assert lucid.redirect == 16 and lucid.views.shifts == (8 / 128, 4 / 128)
    assert (min(lucid.views.scales), max(lucid.views.scales)) == pytest.approx((0.9, 1.1))
    assert len(lucid.views.angles) == 26 and lucid.views.angles.count(0.0) == 6
    maco = schedules.maco()
    assert (maco.steps, maco.octaves[0].rate, maco.optimiser) == (256, (1.0, 1.0), "nadam")
    assert (maco.views.count, maco.views.side, maco.views.noise) == (32, (0.5, 0.05), 0.08)


def test_a_shortened_schedule_keeps_its_ramps():
    short = schedules.mfv_mean().shortened(0.1)
    assert [o.steps for o in short.octaves] == [19, 15, 2, 2]
    assert short.octaves[0].tv == (0.4, 0.4) and short.mode == "recommended"
    with pytest.raises(ParameterError, match="a share above 0, at most 1; got 0"):
        schedules.mfv_mean().shortened(0)


def test_wrong_schedules_are_refused():
    with pytest.raises(ParameterError, match="did you mean 'mfv_mean'"):
        schedules.named("mfv_men")
    octave = schedules.Octave(steps=1, rate=(1, 1), tv=(0.4, 0.4))
    with pytest.raises(ParameterError, match="two steps or more"):
        schedules.Schedule(
            name="x",
            parameterisation="pixel",
            octaves=(octave,),
            optimiser="mean_abs",
            slip=True,
        )
    with pytest.raises(ParameterError, match="optimiser of fourier must be one of adam, nadam"):
        schedules.Schedule(
            name="x", parameterisation="fourier", octaves=(octave,), optimiser="mean_abs"
        )
