import numpy as np
import pytest

from interp.errors import DataError, ParameterError
from probes import grouped_folds, leakage, released_split


def test_groups_stay_whole_and_classes_are_spread():
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 60, 600)
    y = rng.integers(0, 3, 600)
    fold = grouped_folds(y, groups, folds=5, seed=1)
    assert set(fold) == set(range(5))
    for g in range(60):
        assert len(set(fold[groups == g])) == 1
    shares = [np.mean(y[fold == k] == 0) for k in range(5)]
    assert max(shares) - min(shares) < 0.15
    free = grouped_folds(y, folds=5, seed=1)
    assert any(len(set(free[groups == g])) > 1 for g in range(60))  # the test can fail


def test_without_groups_every_fold_has_the_class_shares():
    y = np.repeat([0, 1], [80, 20])
    fold = grouped_folds(y, folds=5)
    assert [int(y[fold == k].sum()) for k in range(5)] == [4] * 5


def test_the_seed_alone_decides():
    y = np.arange(50) % 2
    np.testing.assert_array_equal(grouped_folds(y, seed=3), grouped_folds(y, seed=3))
    assert (grouped_folds(y, seed=3) != grouped_folds(y, seed=4)).any()


def test_a_class_rarer_than_the_folds_is_left_out_of_some_tests_only():
    y = np.array([0] * 30 + [1] * 3)
    fold = grouped_folds(y, folds=5)
    assert all((y[fold != k] == 1).any() for k in range(5))


@pytest.mark.parametrize(
    ("y", "groups", "folds", "match"),
    [
        ([0, 1, 0], None, 5, "3 rows cannot be split into 5 folds"),
        ([0, 1, 0, 1, 0, 1], ["a"] * 6, 5, "1 group cannot be split into 5 folds"),
        ([0, 0, 0, 0, 0, 1], None, 3, "class 1 has only one row"),
        (["no"] * 4 + ["yes"] * 2, [0, 1, 2, 3, 4, 4], 3, "class yes has only one group"),
        ([0, 0, 1, 1, 2, 2], None, 3, "fewer rows than the 3 folds"),
    ],
)
def test_what_cannot_be_split_is_said(y, groups, folds, match):
    with pytest.raises(DataError, match=match):
        grouped_folds(y, groups, folds=folds)


def test_one_fold_is_refused():
    with pytest.raises(ParameterError, match="at least 2; got 1"):
        grouped_folds([0, 1], folds=1)


def test_released_split_has_the_published_sizes():
    for n, size in ((1496, 599), (4000, 1600), (500, 200), (2290, 916)):
        train, test = released_split(n)
        assert len(test) == size
        assert sorted([*train, *test]) == list(range(n))


def test_leakage_names_matched_rows():
    y, groups = [0, 1, 0, 1, 0, 0], ["a", "a", "b", "b", "c", "c"]
    assert leakage(y, groups).startswith("2 of 3 groups hold more than one class")
    assert "rows of 1 of 3 cities" in leakage(y, groups, [0, 1, 0, 0, 0, 1], unit="cities")
    assert leakage(y, groups, [0, 0, 1, 1, 0, 1]) is None
    assert leakage([0, 0, 1, 1], ["a", "a", "b", "b"]) is None
