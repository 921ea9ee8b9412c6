"""The recipe of the code released with Concept Depth, and probes that scikit-learn fits."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from interp.errors import DataError
from probes.sweep import HeldOut, Weighing

__all__ = ["FOREST_SEED", "released_answers", "released_probe", "split_folds"]

FOREST_SEED = 42

Make = Callable[[], Any]


def released_probe(kind: str, class_weight: Any = None) -> Make:
    """Maker of the released probe: logistic regression or a random forest, at the defaults."""
    if kind == "random_forest":
        return lambda: RandomForestClassifier(random_state=FOREST_SEED, class_weight=class_weight)
    return lambda: LogisticRegression(class_weight=class_weight)


def split_folds(n: int, train: NDArray) -> NDArray[np.int64]:
    """0 for training rows and 1 for test rows, [n]."""
    fold = np.ones(n, dtype=np.int64)
    fold[train] = 0
    return fold


def released_answers(
    X: NDArray,
    labels: NDArray,
    splits: Sequence[tuple[NDArray, NDArray]],
    classes: Sequence[str],
    make: Make,
    weighing: Weighing | None = None,
) -> HeldOut:
    """Answers of a scikit-learn classifier to the test rows of one or more splits.

    As in the released code features are as they are, the score of a row is its predicted
    probability (of class 1 where there are two), and a logistic regression that has not converged
    after its 100 iterations is read as it is; ``converged`` says so.

    Parameters
    ----------
    X : [n, d].
    labels : [l, n] classes from 0.
    splits : training rows and test rows; the rows of the answers are the test rows, in turn.
    classes : their names.
    make : gives a new classifier.
    weighing : its sample weights; class weights are the classifier's.

    Raises
    ------
    DataError
        The training rows of a split lack a class.
    """
    n_classes = len(classes)
    sets, rows = len(labels), sum(len(test) for _, test in splits)
    probability = np.zeros((sets, n_classes, rows))
    predicted = np.empty((sets, rows), dtype=np.int64)
    sample = None if weighing is None else weighing.sample
    converged, coef, start = True, None, 0
    for train, test in splits:
        here = slice(start, start + len(test))
        start += len(test)
        for i, y in enumerate(labels):
            absent = np.setdiff1d(np.arange(n_classes), y[train])
            if len(absent):
                raise DataError(
                    f"class {classes[absent[0]]!r} is missing from the {len(train)} training rows "
                    "of the split; give more rows, or use mode='recommended'."
                )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # read as released
                probe = make().fit(X[train], y[train], None if sample is None else sample[train])
            probability[i, :, here] = probe.predict_proba(X[test]).T
            predicted[i, here] = probe.predict(X[test])
            if hasattr(probe, "coef_"):
                converged &= bool((probe.n_iter_ < probe.max_iter).all())
                if i == 0 and len(splits) == 1:
                    coef = np.asarray(probe.coef_, dtype=np.float64)
    score = probability[:, 1:] if n_classes == 2 else probability
    strength = np.full((sets, len(splits)), np.nan if coef is None else 1.0)
    return HeldOut(score, predicted, strength, converged, probability[0], coef)
