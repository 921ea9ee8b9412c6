"""One layer of a sweep: all folds, strengths and label sets, each answer from a held-out row."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probes.logistic import Fits, fit_logistic

__all__ = ["STRENGTHS", "HeldOut", "held_out"]

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
"""Values of C from which the training folds choose."""

SHARED_FLOP = 2e8
"""FLOP of one pass over X, all columns, from which several threads pay."""

CHOICE_TOL, FIT_TOL = 1e-2, 1e-5
"""Relative error of the coefficients: to rank strengths ten times apart, and to answer with."""


@dataclass(frozen=True)
class HeldOut:
    """Answers of probes to rows that they were not trained on; l label sets.

    Attributes
    ----------
    margin : [l, k, n]; k = 1 for two classes.
    predicted : [l, n] class.
    strength : [l, folds] the C of each fold's probe.
    converged : whether all probes reached the optimum.
    """

    margin: NDArray
    predicted: NDArray
    strength: NDArray
    converged: bool


def held_out(
    X: Tensor, labels: NDArray, fold: NDArray, n_classes: int, strengths: Sequence[float]
) -> HeldOut:
    """Fit each fold's probes on the other folds and answer it.

    Features are standardised with the mean and deviation of the training rows. Where there are
    several strengths, a fold's is the one with the least log loss on its training rows, in a
    cross-validation over the other folds. The probe trained without folds a and b serves twice:
    it scores b in the choice for a, and a in the choice for b. All label sets and strengths of a
    set of training rows are one batched solve.

    Parameters
    ----------
    X : [n, d] float64.
    labels : [l, n] classes from 0 to ``n_classes - 1``.
    fold : [n] fold of each row, 0 to f - 1.
    n_classes : of every label set.
    strengths : values of C; one is taken as it is, several need three folds or more.
    """
    with _threads(2.0 * X.numel() * len(labels) * len(strengths) * max(1, n_classes - 1)):
        return _held_out(X, labels, fold, n_classes, strengths)


@contextmanager
def _threads(flop: float) -> Iterator[None]:
    """One thread where a pass over X is too short to share: waiting for the others costs more.

    On a machine whose cores are taken, that wait can be a hundred times the work.
    """
    before = torch.get_num_threads()
    if flop >= SHARED_FLOP or before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _held_out(
    X: Tensor, labels: NDArray, fold: NDArray, n_classes: int, strengths: Sequence[float]
) -> HeldOut:
    folds = int(fold.max()) + 1
    sets, n = labels.shape
    y, where = torch.from_numpy(labels).to(X.device), torch.from_numpy(fold).to(X.device)
    strength = np.full((sets, folds), float(strengths[0]))
    converged = True
    if len(strengths) > 1:
        loss = _choice_losses(X, labels, y, where, folds, n_classes, strengths)
        strength = np.asarray(strengths)[loss.argmin(2)]
    margin = np.empty((sets, 1 if n_classes == 2 else n_classes, n))
    for k in range(folds):
        C = torch.from_numpy(strength[:, k].copy()).to(X.device)
        scores, fits = _score(X, y, where != k, where == k, C, n_classes, FIT_TOL)
        margin[:, :, fold == k] = scores.cpu().numpy()
        converged &= bool(fits.converged.all())
    predicted = (margin[:, 0] > 0).astype(np.int64) if n_classes == 2 else margin.argmax(1)
    return HeldOut(margin, predicted, strength, converged)


def _choice_losses(
    X: Tensor,
    labels: NDArray,
    y: Tensor,
    fold: Tensor,
    folds: int,
    n_classes: int,
    strengths: Sequence[float],
) -> NDArray:
    """Log loss [l, folds, strengths], summed over the rows of the other folds."""
    sets, many = len(y), len(strengths)
    C = torch.tensor(strengths, dtype=torch.float64, device=X.device).repeat(sets)
    repeated = y.repeat_interleave(many, 0)
    total = np.zeros((sets, folds, many))
    for a, b in combinations(range(folds), 2):
        train = (fold != a) & (fold != b)
        here = labels[:, train.cpu().numpy()]
        if any(len(np.unique(row)) < n_classes for row in here):
            continue  # a rare class lies in these two folds alone
        scores, _ = _score(X, repeated, train, ~train, C, n_classes, CHOICE_TOL)
        loss = _log_loss(scores, repeated[:, ~train])
        for out, scored in ((a, b), (b, a)):
            rows = fold[~train] == scored
            total[:, out] += loss[:, rows].sum(1).view(sets, many).cpu().numpy()
    return total


def _score(
    X: Tensor, y: Tensor, train: Tensor, test: Tensor, C: Tensor, n_classes: int, tol: float
) -> tuple[Tensor, Fits]:
    """Margins [p, k, test rows] of probes fitted on the training rows."""
    rows = X[train]
    mean, scale = rows.mean(0), rows.std(0, correction=0)
    scale = torch.where(scale > 1e-12 * mean.abs().clamp_min(1e-300), scale, 1.0)
    fits = fit_logistic((rows - mean) / scale, y[:, train], C, n_classes=n_classes, tol=tol)
    return fits.decision((X[test] - mean) / scale), fits


def _log_loss(margin: Tensor, y: Tensor) -> Tensor:
    """Log loss [p, n] of margins [p, k, n]."""
    if margin.shape[1] == 1:
        return torch.nn.functional.softplus(torch.where(y == 1, -margin[:, 0], margin[:, 0]))
    return torch.nn.functional.cross_entropy(margin, y, reduction="none")
