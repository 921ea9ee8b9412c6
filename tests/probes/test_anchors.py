"""Relative representations: rotated copies are one space, and unrelated spaces are not."""

import numpy as np
import pytest

from interp.errors import ParameterError, ShapeError
from probes.geometry import relative, relative_similarity, stitching


@pytest.fixture(scope="module")
def spaces():
    """Rows, and the same rows turned and three times as large."""
    draw = np.random.default_rng(0)
    y = np.arange(240) % 3
    X = draw.normal(size=(240, 12)) + 3 * np.eye(3)[y].repeat(4, axis=1)
    turned = np.linalg.qr(draw.normal(size=(12, 12)))[0]
    return X, 3 * X @ turned, y, draw.normal(size=(240, 12))


def test_a_turned_copy_is_the_same_space(spaces):
    X, Y, _, _ = spaces
    np.testing.assert_allclose(relative(X, X[:20]), relative(Y, Y[:20]), atol=1e-12)
    found = relative_similarity(X, Y, anchors=40)
    for value in (found, *(found.parts[k] for k in ("jaccard", "cosine", "cka"))):
        assert value == pytest.approx(1, abs=1e-9)
    assert found.parts["absolute_mrr"] < 0.1 and found.parts["absolute_jaccard"] < 0.1


def test_unrelated_spaces_share_about_k_in_n(spaces):
    X, _, _, other = spaces
    found = relative_similarity(X, other, anchors=240, k=5)
    assert found.parts["jaccard"] < 3 * 5 / 240 and found < 3 * 5 / 240
    assert abs(found.parts["cka"]) < 0.05


def test_translation_matters_unless_it_is_taken_out(spaces):
    X, Y, _, _ = spaces
    moved = X + 1
    assert float((relative(X, X[:20]) - relative(moved, moved[:20])).abs().max()) > 0.1
    centred = relative(moved, moved[:20], centre=True)
    np.testing.assert_allclose(relative(X, X[:20], centre=True), centred, atol=1e-12)
    few = relative(moved[:7], moved[:20], centre=True)  # a row's code is its own and the anchors'
    np.testing.assert_allclose(few, centred[:7], atol=1e-12)
    assert relative_similarity(moved, Y, anchors=40).parts["cosine"] < 0.99
    assert relative_similarity(moved, Y, anchors=40, centre=True) == pytest.approx(1)


def test_anchors_are_drawn_or_named(spaces):
    X, Y, _, _ = spaces
    named = relative_similarity(X, Y + 1, anchors=[3, 5, 8, 9], k=2)
    assert named == relative_similarity(X, Y + 1, anchors=[3, 5, 8, 9], k=2, seed=9)
    drawn = [relative_similarity(X, Y + 1, anchors=4, seed=s) for s in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    for wrong in (0, [240], [[1]]):
        with pytest.raises(ParameterError, match="anchors must be"):
            relative_similarity(X, Y, anchors=wrong)
    with pytest.raises(ParameterError, match="k of relative_similarity"):
        relative_similarity(X, Y, k=0)


def test_mrr_and_jaccard_by_hand():
    X = np.array([[1, 0.0], [0, 1], [-1, 0]])
    Y = X[[1, 0, 2]]  # the first two things have changed places
    found = relative_similarity(X, Y, anchors=3, k=1).parts
    assert found["absolute_mrr"] == pytest.approx(1 / 3)
    assert found["absolute_jaccard"] == pytest.approx(1 / 3)
    assert found["absolute_cosine"] == pytest.approx(1 / 3)
    two = relative_similarity(X, Y, anchors=3, k=2).parts
    assert two["absolute_mrr"] == pytest.approx((1 / 2 + 1 / 2 + 1) / 3)


def test_a_probe_reads_the_other_space_through_anchors_alone(spaces):
    X, Y, y, other = spaces
    found = stitching(X, Y, y, anchors=40)
    assert found == pytest.approx(found.parts["x"]) and found > 0.9
    assert found.parts["absolute_x_to_y"] < 0.7 and found.parts["majority"] < 0.4
    # Three tight clusters are answered as wholes, so one draw alone says little of chance.
    noise = [stitching(X, other, y, anchors=40, seed=s).parts for s in range(8)]
    assert np.mean([p["x_to_y"] for p in noise]) < 0.45
    assert np.mean([p["y_to_x"] for p in noise]) < 0.55
    wider = np.c_[Y, np.zeros((240, 3))]
    found = stitching(X, wider, y, anchors=40)
    assert found > 0.9 and "absolute_x_to_y" not in found.parts


def test_what_has_none(spaces):
    X, Y, y, _ = spaces
    zero = X.copy()
    zero[3] = 0
    assert "length 0" in relative_similarity(zero, Y).reason
    assert "length 0" in stitching(X, zero, y).reason
    assert "one class" in stitching(X, Y, np.zeros(240)).reason
    assert "only one row" in stitching(X[:5], Y[:5], [0, 0, 1, 1, 2]).reason
    with pytest.raises(ShapeError, match="one width; got 12 and 3"):
        relative(X, X[:, :3])
