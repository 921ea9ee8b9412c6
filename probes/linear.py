"""A linear probe as a scikit-learn estimator: logistic, ridge, LDA, or one of the class means."""

import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from torch import Tensor

from interp.errors import ParameterError, UndefinedMeasure
from probes.closed import CLOSED, PROBABILISTIC, fit_closed
from probes.logistic import fit_logistic

__all__ = ["KINDS", "LinearProbe"]

KINDS = ("logistic", *CLOSED)
"""Kinds of linear probe."""


def _has_probabilities(probe: "LinearProbe") -> bool:
    if probe.kind in PROBABILISTIC:
        return True
    raise AttributeError(f"a {probe.kind} probe has no probabilities; its margins are no log odds.")


class LinearProbe(ClassifierMixin, BaseEstimator):
    """A linear probe; by default logistic regression with an L2 penalty, binary or multinomial.

    The objective of the logistic probe and its parameters are those of
    `sklearn.linear_model.LogisticRegression`::

        C * sum_i s_i * loss(y_i, x_i w + b) + |w|^2 / 2

    with the intercept free of penalty. The optimum is reached: coefficients lie within about
    ``tol``, relative, of it. X and y may be arrays, data frames or torch tensors; a tensor is
    worked on where it lies.

    Parameters
    ----------
    C : inverse strength of the penalty, positive.
    kind : ``logistic``, ``ridge``, ``lda``, ``difference_of_means`` or ``nearest_centroid``
        (`probes.closed` defines the last four; those of means have no penalty and leave C unread).
    standardize : divide each feature by its deviation over the (weighted) training rows first, so
        that the penalty treats all features alike. ``coef_`` stays in the units of X.
    class_weight : ``None``, ``"balanced"``, or {class: weight}. The mean of a class does not move
        with its weight, so ``nearest_centroid`` answers the same with any.
    tol : bound on the relative error of the coefficients of a logistic probe.
    max_iter : most Newton steps of a logistic probe.

    Attributes
    ----------
    coef_ : [1, d] for two classes, the larger being positive; [classes, d] for more.
    intercept_ : [1] or [classes].
    classes_ : [classes], sorted.
    n_iter_ : [1] Newton steps taken.
    error_ : bound on the relative distance of the coefficients to the optimum.
    converged_ : whether ``tol`` was met before ``max_iter``.
    n_features_in_ : d.

    Notes
    -----
    Differs from `LogisticRegression`: always lbfgs's objective, always with an intercept, dense
    input, float64 results; the optimum is found by batched Newton steps (`probes.logistic`).
    """

    coef_: NDArray
    intercept_: NDArray
    classes_: NDArray
    n_iter_: NDArray
    n_features_in_: int
    error_: float
    converged_: bool

    def __init__(
        self,
        C: float = 1.0,
        *,
        kind: str = "logistic",
        standardize: bool = False,
        class_weight: str | dict[Any, float] | None = None,
        tol: float = 1e-8,
        max_iter: int = 100,
    ) -> None:
        self.C = C
        self.kind = kind
        self.standardize = standardize
        self.class_weight = class_weight
        self.tol = tol
        self.max_iter = max_iter

    def fit(
        self, X: ArrayLike | Tensor, y: ArrayLike | Tensor, sample_weight: ArrayLike | None = None
    ) -> "LinearProbe":
        """Fit to rows X [n, d] and classes y [n], each row weighted if wished.

        Raises
        ------
        ParameterError
            C, tol or max_iter is not positive, or there is no such kind.
        ValueError
            scikit-learn's, for X or y that are no finite matrix and its classes.
        """
        for name in ("C", "tol", "max_iter"):
            value = getattr(self, name)
            if not value > 0:
                raise ParameterError(f"LinearProbe: {name} must be positive; got {value!r}.")
        if self.kind not in KINDS:
            raise ParameterError(
                f"LinearProbe: kind must be one of {', '.join(KINDS)}; got {self.kind!r}."
            )
        device = X.device if isinstance(X, Tensor) else torch.device("cpu")
        checked: Any = validate_data(self, _array(X), _array(y), dtype=np.float64)
        rows, y = checked
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        k = len(self.classes_)
        if k < 2:
            raise ValueError(
                f"LinearProbe needs two classes; y has one class: {self.classes_[0]!r}."
            )
        weight = _check_sample_weight(_array(sample_weight), rows, dtype=np.float64)
        mean, scale = np.zeros(rows.shape[1]), np.ones(rows.shape[1])
        if self.standardize:
            mean = np.average(rows, axis=0, weights=weight)
            scale = np.sqrt(np.average((rows - mean) ** 2, axis=0, weights=weight))
            scale[scale <= 1e-12 * np.abs(mean)] = 1.0  # a constant feature
        by_class = compute_class_weight(
            self.class_weight, classes=self.classes_, y=y, sample_weight=weight
        )
        weight = weight * by_class[codes]
        Z = torch.from_numpy((rows - mean) / scale).to(device)
        label = torch.from_numpy(codes)[None].to(device)
        C = torch.tensor([float(self.C)], device=device, dtype=torch.float64)
        weights = torch.from_numpy(weight)[None].to(device)
        if self.kind == "logistic":
            fits = fit_logistic(
                Z, label, C, n_classes=k, weights=weights, tol=self.tol, max_iter=self.max_iter
            )
        else:
            empty = np.bincount(codes, weights=weight, minlength=k) <= 0
            if empty.any():
                raise ValueError(
                    f"LinearProbe: class {self.classes_[empty][0]} has no weight; a "
                    f"{self.kind} probe needs some of each class."
                )
            fits = fit_closed(self.kind, Z, label, C, n_classes=k, weights=weights)
        self.coef_ = fits.coef[0].cpu().numpy() / scale
        self.intercept_ = fits.intercept[0].cpu().numpy() - self.coef_ @ mean
        self.n_iter_ = np.maximum(fits.n_iter.cpu().numpy(), 1)
        self.error_ = float(fits.error[0])
        self.converged_ = bool(fits.converged[0])
        if not self.converged_:
            warnings.warn(
                f"LinearProbe took {self.max_iter} Newton steps and is within {self.error_:.1e} "
                f"of the optimum, not {self.tol:.1e}; raise max_iter or tol.",
                ConvergenceWarning,
                stacklevel=2,
            )
        return self

    def decision_function(self, X: ArrayLike | Tensor) -> NDArray:
        """Margins: [n] for two classes, positive for the larger; [n, classes] for more."""
        check_is_fitted(self)
        rows: Any = validate_data(self, _array(X), dtype=np.float64, reset=False)
        margin = rows @ self.coef_.T + self.intercept_
        return margin[:, 0] if len(self.classes_) == 2 else margin

    def predict(self, X: ArrayLike | Tensor) -> NDArray:
        """Classes [n]."""
        margin = self.decision_function(X)
        return self.classes_[(margin > 0).astype(int) if margin.ndim == 1 else margin.argmax(1)]

    @available_if(_has_probabilities)
    def predict_proba(self, X: ArrayLike | Tensor) -> NDArray:
        """Probabilities [n, classes]; rows sum to one. Ridge and nearest centroid have none."""
        margin = self.decision_function(X)
        if margin.ndim == 1:
            return np.stack([expit(-margin), expit(margin)], axis=1)
        return softmax(margin, axis=1)

    @available_if(_has_probabilities)
    def predict_log_proba(self, X: ArrayLike | Tensor) -> NDArray:
        """Logarithms of `predict_proba`."""
        return np.log(self.predict_proba(X))

    @property
    def direction_(self) -> NDArray:
        """Unit direction, in the units of X, along which the class becomes likelier.

        [d] for two classes, towards the larger; [classes, d] for more.

        Degenerate: nan, with a warning `UndefinedMeasure`, where the coefficients are all zero.
        """
        check_is_fitted(self)
        length = np.linalg.norm(self.coef_, axis=1, keepdims=True)
        if not length.all():
            warnings.warn(
                "LinearProbe: coefficients that are all zero have no direction.",
                UndefinedMeasure,
                stacklevel=2,
            )
        direction = self.coef_ / np.where(length > 0, length, np.nan)
        return direction[0] if len(direction) == 1 else direction


def _array(x: Any) -> Any:
    """A tensor as an array, bfloat16 as float32; anything else as it is."""
    if not isinstance(x, Tensor):
        return x
    x = x.detach().cpu()
    return (x.float() if x.dtype == torch.bfloat16 else x).numpy()
