import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from interp.errors import DataError
from probes import (
    bag_of_words,
    grouped_folds,
    leakage,
    majority,
    released_split,
    shuffled_labels,
    stratified,
)


def test_majority_and_stratified_by_hand():
    y = ["b", "b", "b", "a", "b", "b", "b", "a"]
    fold = [0, 0, 0, 0, 1, 1, 1, 1]
    assert majority(y, fold) == 0.75
    assert stratified(y, fold) == pytest.approx(0.75**2 + 0.25**2)


def test_bag_of_words_reads_words_and_nothing_else():
    texts = ["good film", "bad film"] * 20
    y = np.array([1, 0] * 20)
    fold = grouped_folds(y)
    assert (bag_of_words(texts, y, fold) == y).all()
    assert (bag_of_words(["film"] * 40, y, fold) == y).mean() <= 0.5


def pairs(n=200):
    """A true and a false statement about each of n places, as in the published data."""
    rng = np.random.default_rng(0)
    texts, y, groups = [], [], []
    for i in range(n):
        home = rng.integers(6)
        for true in (1, 0):
            land = home if true else (home + 1 + rng.integers(5)) % 6
            texts.append(f"place{i}x lies in land{land}x")
            y.append(true)
            groups.append(i)
    return texts, np.array(y), np.array(groups)


def test_a_split_through_matched_pairs_drives_words_below_chance():
    texts, y, groups = pairs()
    at_random, grouped = grouped_folds(y, seed=1), grouped_folds(y, groups, seed=1)
    apart = (bag_of_words(texts, y, at_random) == y).mean()
    together = (bag_of_words(texts, y, grouped) == y).mean()
    assert apart < 0.35
    assert 0.4 < together < 0.6
    assert leakage(y, groups, at_random) is not None
    assert leakage(y, groups, grouped) is None


@pytest.mark.real
@pytest.mark.skipif("INTERP_REAL" not in os.environ, reason="set INTERP_REAL to read cities.csv")
def test_published_cities_under_the_released_split_and_by_group():
    table = pd.read_csv(Path(os.environ["INTERP_REAL"]) / "cities.csv")
    table = pd.concat([table[table.label == 1], table[table.label == 0]])  # their class order
    y, test = (table.label == 0).to_numpy().astype(int), released_split(len(table))[1]
    fold = np.isin(np.arange(len(y)), test).astype(int)
    # the published control counts scikit-learn's default words
    right = bag_of_words(table.statement.tolist(), y, fold, marks=False) == y
    assert (len(test), y[test].sum()) == (599, 300)
    assert right[test].mean() == pytest.approx(0.2471, abs=5e-5)
    assert "407 of 748" in leakage(y, table.city, fold)
    grouped = grouped_folds(y, table.city)
    # Not below chance: within two standard errors over the cities.
    assert (bag_of_words(table.statement.tolist(), y, grouped) == y).mean() > 0.5 - 2 * 0.014


def test_texts_without_words_are_said():
    with pytest.raises(DataError, match="no word"):
        bag_of_words(["", " "] * 4, [0, 1] * 4, [0, 0, 0, 0, 1, 1, 1, 1])


def test_marks_and_capitals_are_words_unless_left_out():
    texts, y, fold = ["x (a", "x a"] * 20, [0, 1] * 20, [0] * 20 + [1] * 20
    assert (bag_of_words(texts, y, fold) == y).all()
    with pytest.raises(DataError, match="no word"):  # scikit-learn's default sees no letter here
        bag_of_words(texts, y, fold, marks=False)


def test_shuffles_keep_each_folds_class_counts():
    rng = np.random.default_rng(0)
    y, fold = rng.integers(0, 3, 200), rng.integers(0, 4, 200)
    out = shuffled_labels(y, fold, permutations=5, seed=2)
    assert out.shape == (5, 200)
    for row in out:
        assert 0.2 < (row == y).mean() < 0.5
        for k in range(4):
            np.testing.assert_array_equal(np.sort(row[fold == k]), np.sort(y[fold == k]))
    assert (out[0] != out[1]).any()
    np.testing.assert_array_equal(out, shuffled_labels(y, fold, permutations=5, seed=2))


def test_shuffles_move_whole_groups_where_a_group_has_one_label():
    groups = np.repeat(np.arange(20), 5)
    y = np.repeat(np.arange(20) % 2, 5)
    fold = np.repeat(np.arange(20) % 4 // 2, 5)
    for row in shuffled_labels(y, fold, groups, permutations=3):
        assert all(len(set(row[groups == g])) == 1 for g in range(20))
    y[0] = 1 - y[0]
    row = shuffled_labels(y, fold, groups, permutations=1)[0]
    assert any(len(set(row[groups == g])) == 2 for g in range(20))
