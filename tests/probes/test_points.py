import numpy as np
import pytest

from interp.errors import ParameterError
from probes import converging_point, jump_point
from probes.points import converging_points, jump_points

GEMMA_2B_CITIES = [
    0.445, 0.521, 0.869, 0.905, 0.939, 0.975, 0.981, 0.986, 0.984,
    0.993, 0.994, 0.992, 0.990, 0.986, 0.987, 0.988, 0.988, 0.989,
]  # fmt: skip


@pytest.mark.parametrize(
    ("curve", "jump", "stable", "literal"),
    [
        ([0.5, 0.5, 0.6, 0.8, 0.9, 0.91, 0.905, 0.91], 0.25, 0.75, 0.875),
        ([0.7, 0.71, 0.7, 0.705, 0.71, 0.7], None, 3 / 6, 5 / 6),
        ([0.5, 0.52, 0.6, 0.75, 0.9, 0.95, 0.94, 0.8], 0.25, 1.0, 0.75),
        (GEMMA_2B_CITIES, 1 / 18, 7 / 18, 17 / 18),
        ([0.5, 0.55], 0.5, 1.0, None),  # a rise by a tenth counts, whatever its rounding
        ([0.5, 0.5], None, 1.0, 0.5),
        ([0.0, 0.5, 0.5, 0.5], 0.25, 0.75, 0.75),
        ([0.0, 0.0, 0.0], None, 1.0, 2 / 3),
    ],
)
def test_by_hand(curve, jump, stable, literal):
    assert jump_point(curve) == (pytest.approx(jump) if jump is not None else None)
    assert converging_point(curve) == pytest.approx(stable)
    found = converging_point(np.array(curve), rule="literal")
    assert found == (pytest.approx(literal) if literal is not None else None)


@pytest.mark.parametrize("curve", [[], [0.7], [0.5, float("nan"), 0.9]])
def test_undefined_is_none(curve):
    assert jump_point(curve) is None
    assert converging_point(curve) is None
    assert converging_point(curve, rule="literal") is None


def test_points_do_not_depend_on_the_scale():
    curve = np.array(GEMMA_2B_CITIES)
    assert jump_point(curve / 2) == jump_point(curve)
    assert converging_point(curve / 2) == converging_point(curve)
    assert converging_point(np.append(curve, 0.5)) == 1.0  # a late fall is no convergence


@pytest.mark.parametrize("d", [0, 1, 2, 7])
def test_many_curves_are_each_by_itself(d):
    curves = np.random.default_rng(d).choice([0.0, 0.5, 0.505, 0.56, np.nan], (60, d))

    def each(point, **rule):
        return [np.nan if (p := point(c, **rule)) is None else p for c in curves]

    np.testing.assert_array_equal(jump_points(curves), each(jump_point))
    for rule in ("stable_after", "literal"):
        np.testing.assert_array_equal(
            converging_points(curves, rule), each(converging_point, rule=rule)
        )
    some = np.isfinite(jump_points(curves))
    assert not some.any() if d < 2 else (some.any() and not some.all())


def test_refuses():
    with pytest.raises(ParameterError, match="'stable_after' or 'literal'; got 'last'"):
        converging_point([0.5, 0.9], rule="last")
    with pytest.raises(ParameterError, match="one number a layer"):
        jump_point([[0.5, 0.9]])
