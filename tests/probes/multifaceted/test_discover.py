"""Facets of codes: planted ones are found, one lump is one, and every score by hand."""

import numpy as np
import pytest

from interp.errors import DataError, ParameterError, ShapeError
from probes import adjusted_rand_index, find_facets
from probes.multifaceted.discover import purity


def planted(sizes, d=10, gap=9.0, seed=0):
    rng = np.random.default_rng(seed)
    truth = np.repeat(np.arange(len(sizes)), sizes)
    return rng.standard_normal((len(truth), d)) + gap * np.eye(len(sizes), d)[truth], truth


def test_planted_facets_are_found_with_their_number():
    codes, truth = planted([60, 50, 40])
    found = find_facets(codes, embed="pca", draws=19)
    assert found.k == 3 and found.several is True
    assert adjusted_rand_index(found.labels, truth) == 1
    assert found.null["p"] == 1 / 20 and found.valley < 0.05
    assert found.control["agreement"] == 1
    assert (truth[found.nearest[0]] == 0).all()
    again = find_facets(codes, embed="pca", draws=19)
    assert (again.labels == found.labels).all() and again.null["p"] == found.null["p"]


def test_one_lump_is_one_facet_unless_more_are_asked_for():
    codes, _ = planted([120])
    found = find_facets(codes, embed="pca", draws=19)
    assert found.k == 1 and found.several is False
    assert np.isnan(found.silhouette) and "silhouette" in found.reasons
    forced = find_facets(codes, 3, embed="pca", draws=19)
    assert forced.k == 3 and forced.several is False
    paper = find_facets(codes, mode="paper", embed="pca", draws=19)
    assert paper.k == 10 and paper.several is False


def test_tsne_finds_them_too():
    codes, truth = planted([30, 30], d=6)
    assert adjusted_rand_index(find_facets(codes, draws=19).labels, truth) == 1


def test_nearest_rows_are_those_nearest_the_centre():
    codes, _ = planted([30, 30])
    found = find_facets(codes, 2, embed="pca", draws=5, nearest=4)
    for i in range(2):
        mine = np.flatnonzero(found.labels == i)
        gap = ((codes[mine] - codes[mine].mean(0)) ** 2).sum(1)
        assert found.nearest[i].tolist() == mine[np.argsort(gap)[:4]].tolist()
    few = find_facets(codes[:32], 2, embed="pca", draws=5, nearest=4)
    assert (few.nearest[1] >= 0).sum() == 2 and (few.nearest[1] == -1).sum() == 2


def test_tightness_by_hand():
    codes = np.array([[0.0, 0], [0, 2], [10, 0], [10, 2]])
    found = find_facets(codes, 2, embed="pca")
    # to the centres 1 each; to the mean of all 25 + 1
    assert np.allclose(found.tightness, 1 - 1 / 26)


def test_equal_and_few_codes_say_so():
    found = find_facets(np.ones((40, 3)))
    assert found.k == 1 and found.several is None and "one point" in found.reasons["several"]
    assert np.isnan(found.tightness).all() and np.isnan(found.null["p"])
    forced = find_facets(np.ones((40, 3)), 3)
    assert forced.k == 1 and "3 facets cannot share" in forced.reasons["labels"]
    few, _ = planted([5, 5])
    found = find_facets(few, embed="pca")
    assert found.k == 1 and "10 inputs fire the unit" in found.reasons["several"]
    assert find_facets(few[:1]).k == 1


def test_refusals():
    codes, _ = planted([10, 10])
    with pytest.raises(DataError, match="30 facets need .* there are 20"):
        find_facets(codes, 30)
    with pytest.raises(DataError, match="there are 5"):
        find_facets(codes[:5], mode="paper")
    with pytest.raises(DataError, match="finite"):
        find_facets(np.full((4, 2), np.nan))
    with pytest.raises(ParameterError, match="mode must be one of recommended, paper"):
        find_facets(codes, mode="x")
    with pytest.raises(ParameterError, match="n_facets must be at least 1; got 0"):
        find_facets(codes, 0)
    with pytest.raises(ParameterError, match="hdbscan finds its own"):
        find_facets(codes, 2, cluster="hdbscan")
    with pytest.raises(DataError, match="at most 10,000 rows; got 10,001"):
        find_facets(np.zeros((10_001, 1)))
    with pytest.raises(ShapeError, match=r"matrix \[rows, width\]; got \[3\]"):
        find_facets(np.zeros(3))


def test_fewer_places_than_facets_is_said():
    codes = np.repeat(np.eye(3), 8, axis=0)
    found = find_facets(codes, 5, embed="pca", draws=5)
    assert found.k == 3
    assert found.reasons["labels"] == "5 facets were asked for and the map has 3 different places."
    assert "labels" not in find_facets(codes, 3, embed="pca", draws=5).reasons


def test_agreement_and_purity_by_hand():
    truth = np.array([0, 0, 0, 1, 1, -1])
    labels = np.array([0, 0, 1, 1, 1, 1])
    share, common = purity(labels, truth, 3)
    assert np.allclose(share[:2], [1, 2 / 3]) and np.isnan(share[2])
    assert common.tolist() == [0, 1, -1]
    assert adjusted_rand_index([1, 1, 0, 0], [0, 0, 1, 1]) == 1
    assert adjusted_rand_index([0, 1, 0, 1], [0, 0, 1, 1]) == -0.5
    assert adjusted_rand_index([0, 0, 0, 0], [0, 0, 1, 1]) == 0
    assert np.isnan(adjusted_rand_index([0, 1], [2, 2])) and np.isnan(adjusted_rand_index([], []))
