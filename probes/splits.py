"""Splits that keep matched rows together, and the check for those that do not."""

import warnings

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, train_test_split

from interp.errors import DataError, ParameterError

__all__ = ["grouped_folds", "leakage", "released_split"]


def grouped_folds(
    y: ArrayLike, groups: ArrayLike | None = None, *, folds: int = 5, seed: int = 0
) -> NDArray[np.int64]:
    """The fold, 0 to ``folds - 1``, in which each row is held out.

    Folds have about the same share of each class. The rows of a group stay in one fold; without
    groups each row is free.

    Parameters
    ----------
    y : [n] class of each row.
    groups : [n] group of each row, or None.
    folds : how many, at least 2.
    seed : of the shuffle.

    Raises
    ------
    ParameterError
        Fewer than 2 folds.
    DataError
        Fewer rows, or fewer groups, than folds; or a training set would lack a class.
    """
    y = np.asarray(y)
    if folds < 2:
        raise ParameterError(f"folds must be at least 2; got {folds}.")
    if len(y) < folds:
        raise DataError(
            f"{len(y)} rows cannot be split into {folds} folds; give more rows or fewer folds."
        )
    fold = np.empty(len(y), dtype=np.int64)
    if groups is None:
        ids = np.arange(len(y))
        _enough(y, ids, folds, "row")
        # StratifiedKFold refuses where every class is rarer than the folds are many.
        most = np.unique(y, return_counts=True)[1].max()
        if most < folds:
            raise DataError(
                f"each class has fewer rows than the {folds} folds (at most {most}); give more "
                "rows or fewer folds."
            )
        splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
    else:
        ids = np.unique(np.asarray(groups), return_inverse=True)[1]
        found = len(np.unique(ids))
        if found < folds:
            raise DataError(
                f"{found} group{'s' * (found != 1)} cannot be split into {folds} folds; group by "
                "another column, or give fewer folds."
            )
        _enough(y, ids, folds, "group")
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # A class with fewer members than folds is absent from some test folds; its training sets
        # are checked below.
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        free = None if groups is None else ids
        for k, (_, test) in enumerate(splitter.split(np.zeros(len(y)), y, free)):
            fold[test] = k
    for k in range(folds):
        if not (fold == k).any():
            raise DataError(
                f"the groups leave fold {k} of {folds} empty; give fewer folds or smaller groups."
            )
        absent = np.setdiff1d(y, y[fold != k])
        if len(absent):
            raise DataError(
                f"class {absent[0]!s} is missing from the training rows of fold {k}: too few of "
                "its groups; give fewer folds or leave the class out."
            )
    return fold


def _enough(y: NDArray, ids: NDArray, folds: int, unit: str) -> None:
    """A class that has one row or group is never both trained on and tested."""
    for value in np.unique(y):
        if len(np.unique(ids[y == value])) < 2:
            raise DataError(
                f"class {value!s} has only one {unit}, which cannot be in training and test; leave "
                "the class out or give it more."
            )


def released_split(n: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Training and test rows of the split in the code of Concept Depth.

    40 % are test rows, shuffled with seed 42; neither stratified nor grouped. On matched pairs it
    drives a lexical probe below chance (`leakage`).

    Source: arXiv 2404.07066, the released ``main.py``.
    """
    train, test = train_test_split(np.arange(n), test_size=0.4, random_state=42)
    return np.asarray(train), np.asarray(test)


def leakage(
    y: ArrayLike, groups: ArrayLike, fold: ArrayLike | None = None, *, unit: str = "groups"
) -> str | None:
    """A sentence on matched rows that a split separates, or None where there are none.

    Rows are matched where a group holds more than one class, as the true and the false statement
    about a city do. If one of them is in training and the other in test, a probe that reads words
    alone learns the wrong answer for the other: its accuracy falls below chance.

    Parameters
    ----------
    y : [n] class of each row.
    groups : [n] group of each row.
    fold : [n] fold, or 0 for training and 1 for test; None asks what a random split would do.
    unit : what to call the groups in the sentence.
    """
    y, ids = np.asarray(y), np.unique(np.asarray(groups), return_inverse=True)[1]
    total = len(np.unique(ids))
    mixed = _varied(ids, y)
    if not mixed.any():
        return None
    if fold is None:
        return (
            f"{int(mixed.sum()):,} of {total:,} {unit} hold more than one class: a random split "
            "would separate matched rows and push a probe that reads words alone below chance."
        )
    apart = mixed & _varied(ids, np.asarray(fold))
    if not apart.any():
        return None
    return (
        f"the split separates the matched rows of {int(apart.sum()):,} of {total:,} {unit}: a "
        "probe that reads words alone is pushed below chance; split by group instead."
    )


def _varied(ids: NDArray, value: NDArray) -> NDArray[np.bool_]:
    """Which groups (ids 0..g-1) hold more than one value."""
    codes = np.unique(value, return_inverse=True)[1]
    low, high = np.full(ids.max() + 1, codes.max() + 1), np.full(ids.max() + 1, -1)
    np.minimum.at(low, ids, codes)
    np.maximum.at(high, ids, codes)
    return low != high
