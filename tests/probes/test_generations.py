"""Backward compatibility: what an old gallery is worth to new queries."""

import numpy as np
import pytest

from interp.errors import ShapeError
from probes.geometry import backward_compatibility


@pytest.fixture(scope="module")
def generations():
    """An old space, and a new one in which the same classes lie tighter about the same centres."""
    draw = np.random.default_rng(0)
    y = np.arange(200) % 4
    centres = 2 * np.eye(8)[:4][y]
    return centres + draw.normal(size=(200, 8)), centres + 0.4 * draw.normal(size=(200, 8)), y


def test_a_better_space_in_the_same_place_is_compatible(generations):
    old, new, y = generations
    found = backward_compatibility(old, new, y)
    assert found > 0.02 and found.parts["new"] > found.parts["cross"] > found.parts["old"]
    gain = (found.parts["cross"] - found.parts["old"]) / (found.parts["new"] - found.parts["old"])
    assert found.parts["gain"] == pytest.approx(gain)


def test_turned_alone_it_is_not_and_turned_together_it_is(generations):
    old, new, y = generations
    turned = np.linalg.qr(np.random.default_rng(1).normal(size=(8, 8)))[0]
    clean = backward_compatibility(old, new, y)
    alone = backward_compatibility(old, new @ turned, y)
    assert alone < -0.3 and alone.parts["new"] == pytest.approx(clean.parts["new"], abs=0.011)
    both = backward_compatibility(2 * old @ turned, 5 * new @ turned, y)
    assert both == pytest.approx(float(clean), abs=0.011)


def test_the_same_space_gains_nothing_and_a_row_does_not_find_itself(generations):
    old, _, y = generations
    found = backward_compatibility(old, old, y)
    assert found == 0 and np.isnan(found.parts["gain"])
    noise = np.random.default_rng(2).normal(size=(200, 8))
    assert backward_compatibility(noise, noise, y).parts["old"] < 0.4  # 1 if it found itself


def test_by_hand():
    old = np.array([[1, 0.0], [1, 0.1], [0, 1], [0.1, 1]])
    new = old[[0, 2, 1, 3]]  # the second and the third have changed places
    found = backward_compatibility(old, new, [0, 0, 1, 1])
    assert found.parts == {
        "old": 1.0,
        "cross": 0.5,
        "new": 0.0,
        "gain": pytest.approx(float("nan"), nan_ok=True),
    }


def test_what_has_none(generations):
    old, new, y = generations
    assert "one class" in backward_compatibility(old, new, np.zeros(200)).reason
    assert "too few" in backward_compatibility(old[:2], new[:2], y[:2]).reason
    zero = old.copy()
    zero[0] = 0
    assert "length 0" in backward_compatibility(zero, new, y).reason
    with pytest.raises(ShapeError, match="width 8; got 5"):
        backward_compatibility(old, new[:, :5], y)
