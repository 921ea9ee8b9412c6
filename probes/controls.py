"""What a probe must beat: the majority class, the words alone, and labels that mean nothing."""

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from interp.errors import DataError

__all__ = ["bag_of_words", "majority", "shuffled_labels", "stratified"]


def majority(y: ArrayLike, fold: ArrayLike, test: ArrayLike | None = None) -> float:
    """Accuracy of answering each fold with the commonest class of its training rows.

    ``test`` are the rows that count, all by default; a single split is two folds, of which one is
    read.

    Range: 0 to 1; about the share of the largest class.
    Degenerate: classes that are equally common in a training set count as the first of them.
    """
    y, fold = np.unique(np.asarray(y), return_inverse=True)[1], np.asarray(fold)
    right = np.zeros(len(y))
    for k in np.unique(fold):
        right[fold == k] = y[fold == k] == np.bincount(y[fold != k]).argmax()
    return float(right.mean() if test is None else right[np.asarray(test)].mean())


def stratified(y: ArrayLike, fold: ArrayLike, test: ArrayLike | None = None) -> float:
    """Expected accuracy of drawing each answer from the class shares of the training rows.

    ``test`` are the rows that count, as in `majority`.

    Range: 0 to 1; the sum of the squared class shares where folds are stratified.
    """
    y, fold = np.unique(np.asarray(y), return_inverse=True)[1], np.asarray(fold)
    right = np.zeros(len(y))
    for k in np.unique(fold):
        share = np.bincount(y[fold != k], minlength=y.max() + 1) / (fold != k).sum()
        right[fold == k] = share[y[fold == k]]
    return float(right.mean() if test is None else right[np.asarray(test)].mean())


def bag_of_words(
    texts: Sequence[str], y: ArrayLike, fold: ArrayLike, *, marks: bool = True
) -> NDArray:
    """Predicted classes [n] of a probe that sees only how often each word occurs.

    Each fold is predicted by a logistic regression (C = 1) on the word counts of the others;
    the vocabulary is theirs too. A single split is two folds, of which one is read.

    Parameters
    ----------
    marks : count words of one letter, capitals and punctuation marks too, as a model sees them:
        in source code the brackets are the words. False is scikit-learn's default, words of two
        letters or more in lower case.

    Raises
    ------
    DataError
        The training texts hold nothing to count.
    """
    y, fold = np.asarray(y), np.asarray(fold)
    predicted = y.copy()
    words = np.asarray([str(t) for t in texts], dtype=object)
    for k in np.unique(fold):
        train, test = fold != k, fold == k
        options = {"token_pattern": r"\w+|[^\w\s]", "lowercase": False} if marks else {}
        counter = CountVectorizer(**options)
        try:
            counts = counter.fit_transform(words[train])
        except ValueError as error:
            raise DataError("the texts hold no word to count.") from error
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a control need not be exact
            probe = LogisticRegression(C=1.0, max_iter=1000).fit(counts, y[train])
        predicted[test] = probe.predict(counter.transform(words[test]))
    return predicted


def shuffled_labels(
    y: ArrayLike,
    fold: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    permutations: int = 10,
    seed: int = 0,
) -> NDArray:
    """Labels [permutations, n] that have lost their rows.

    The labels of the rows of each fold are permuted among them. Folds keep their class counts,
    and both what the probe is trained on and what it is tested on is shuffled: what it still
    gets right is what a probe of its size gets right on labels without meaning. Where each group
    has one label, whole groups swap labels, so that the rows of a group still share theirs.
    """
    y, fold = np.asarray(y), np.asarray(fold)
    unit = np.arange(len(y))
    if groups is not None:
        ids = np.unique(np.asarray(groups), return_inverse=True)[1]
        first = np.unique(ids, return_index=True)[1]
        if (y == y[first][ids]).all():
            unit = ids
    label_of, fold_of = (v[np.unique(unit, return_index=True)[1]] for v in (y, fold))
    rng = np.random.default_rng(seed)
    out = np.empty((permutations, len(y)), dtype=y.dtype)
    for row in out:
        label = label_of.copy()
        for k in np.unique(fold_of):
            here = np.flatnonzero(fold_of == k)
            label[here] = label[rng.permutation(here)]
        row[:] = label[unit]
    return out
