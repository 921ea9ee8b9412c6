"""One layer of a sweep: all folds, strengths and label sets, each answer from a held-out row."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probes.closed import PENALISED, PROBABILISTIC, fit_closed
from probes.logistic import Fits, fit_logistic

__all__ = ["STRENGTHS", "HeldOut", "Weighing", "held_out"]

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
"""Values of C from which the training folds choose."""

SHARED_FLOP = 2e8
"""FLOP of one pass over X, all columns, from which several threads pay."""

CHOICE_TOL, FIT_TOL = 1e-2, 1e-5
"""Relative error of the coefficients: to rank strengths ten times apart, and to answer with."""


@dataclass(frozen=True)
class HeldOut:
    """Answers of probes to rows that they were not trained on; l label sets, n rows.

    Attributes
    ----------
    margin : [l, k, n]; k = 1 for two classes.
    predicted : [l, n] class.
    strength : [l, folds] the C of each fold's probe; nan where the kind has none.
    converged : whether all probes reached the optimum.
    probability : [classes, n] for the first label set, or None where margins are no log odds.
    coef : [k, d] in the units of X, of the first label set, from a probe on all rows; or None.
    """

    margin: NDArray
    predicted: NDArray
    strength: NDArray
    converged: bool
    probability: NDArray | None = None
    coef: NDArray | None = None


@dataclass(frozen=True)
class Weighing:
    """How training rows count: ``sample`` [n] weights, and a weight a class.

    ``classes`` is [classes], or ``"balanced"`` for ``rows / (classes * rows of the class)`` over
    the (weighted) training rows, as in scikit-learn.
    """

    sample: NDArray | None = None
    classes: NDArray | str | None = None

    def __bool__(self) -> bool:
        return self.sample is not None or self.classes is not None

    def weights(self, y: Tensor, train: Tensor, n_classes: int) -> Tensor | None:
        """[p, n] weights of labels y [p, n]; None where all are one."""
        if not self:
            return None
        sample = torch.ones(y.shape[1], dtype=torch.float64, device=y.device)
        if self.sample is not None:
            sample = torch.from_numpy(self.sample).to(sample)
        if self.classes is None:
            return sample.expand(len(y), -1)
        if isinstance(self.classes, str):
            member = torch.nn.functional.one_hot(y[:, train], n_classes).to(sample)
            size = sample[train] @ member
            each = sample[train].sum() / (n_classes * size.clamp_min(1e-300))
        else:
            each = torch.from_numpy(self.classes).to(sample).expand(len(y), -1)
        return sample * each.gather(1, y)


def held_out(
    X: Tensor,
    labels: NDArray,
    fold: NDArray,
    n_classes: int,
    strengths: Sequence[float],
    *,
    kind: str = "logistic",
    weighing: Weighing | None = None,
    whole: bool = False,
) -> HeldOut:
    """Fit each fold's probes on the other folds and answer it.

    Features are standardised with the (weighted) mean and deviation of the training rows, save
    for ``difference_of_means``, which lives in the units of X. Where there are several strengths,
    a fold's is the one with the least loss on its training rows (log loss; squared error for
    ``ridge``), in a cross-validation over the other folds. The probe trained without folds a and
    b serves twice: it scores b in the choice for a, and a in the choice for b. All label sets and
    strengths of a set of training rows are one batched solve.

    Parameters
    ----------
    X : [n, d] float32 or float64; worked on in float64, the training rows of a fold at a time.
    labels : [l, n] classes from 0 to ``n_classes - 1``.
    fold : [n] fold of each row, 0 to f - 1.
    n_classes : of every label set.
    strengths : values of C; one is taken as it is, several need three folds or more.
    kind : of probe (`probes.linear.KINDS`).
    weighing : of training rows; scores count each row once.
    whole : whether to fit the first label set on all rows too, at the median of the folds'
        strengths, for its coefficients.
    """
    if kind not in PENALISED:
        strengths = (1.0,)
    with _threads(2.0 * X.numel() * len(labels) * len(strengths) * max(1, n_classes - 1)):
        return _held_out(X, labels, fold, _Solver(kind, n_classes, weighing), strengths, whole)


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


@dataclass(frozen=True)
class _Solver:
    """Fits probes of a kind to some rows."""

    kind: str
    n_classes: int
    weighing: Weighing | None

    def fit(
        self, X: Tensor, y: Tensor, train: Tensor, C: Tensor, tol: float
    ) -> tuple[Fits, Tensor, Tensor, Tensor | None]:
        """Probes of standardised rows, the mean and scale of the rows, and weights of all rows."""
        rows = X[train].double()
        weights = self.weighing.weights(y, train, self.n_classes) if self.weighing else None
        mean, scale = torch.zeros_like(rows[0]), torch.ones_like(rows[0])
        sample = self.weighing.sample if self.weighing else None
        if self.kind != "difference_of_means":
            mean, scale = _moments(rows, None if sample is None else sample[train.cpu().numpy()])
            rows.sub_(mean).div_(scale)
        chosen = None if weights is None else weights[:, train]
        k = self.n_classes
        if self.kind == "logistic":
            # One pass more over X costs less than a copy of it.
            centred = sample is None
            fits = fit_logistic(
                rows, y[:, train], C, n_classes=k, weights=chosen, tol=tol, centred=centred
            )
        else:
            fits = fit_closed(self.kind, rows, y[:, train], C, n_classes=k, weights=chosen)
        return fits, mean, scale, weights

    def loss(self, margin: Tensor, y: Tensor) -> Tensor:
        """Loss [p, n] of margins [p, k, n], by which strengths are chosen."""
        if self.kind != "ridge":
            return _log_loss(margin, y)
        classes = torch.arange(self.n_classes, device=y.device)[:, None]
        target = y[:, None] == (classes if margin.shape[1] > 1 else 1)
        return (margin - (2.0 * target - 1)).square().sum(1)


def _moments(rows: Tensor, sample: NDArray | None) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each feature; 1 for the deviation of a constant one."""
    if sample is None:
        mean, scale = rows.mean(0), rows.std(0, correction=0)
    else:
        w = torch.from_numpy(sample).to(rows)
        w = w / w.sum()
        mean = w @ rows
        scale = ((w @ rows.square()) - mean.square()).clamp_min(0).sqrt()
        small = scale < 1e-6 * mean.abs()  # too near to rounding for the shorter formula
        if small.any():
            scale[small] = (w @ (rows[:, small] - mean[small]).square()).sqrt()
    return mean, torch.where(scale > 1e-12 * mean.abs().clamp_min(1e-300), scale, 1.0)


def _held_out(
    X: Tensor,
    labels: NDArray,
    fold: NDArray,
    solver: _Solver,
    strengths: Sequence[float],
    whole: bool,
) -> HeldOut:
    folds, k = int(fold.max()) + 1, solver.n_classes
    sets, n = labels.shape
    y, where = torch.from_numpy(labels).to(X.device), torch.from_numpy(fold).to(X.device)
    strength = np.full((sets, folds), float(strengths[0]))
    converged = True
    if len(strengths) > 1:
        loss = _choice_losses(X, labels, y, where, folds, solver, strengths)
        strength = np.asarray(strengths)[loss.argmin(2)]
    margin = np.empty((sets, 1 if k == 2 else k, n))
    for a in range(folds):
        C = torch.from_numpy(strength[:, a].copy()).to(X.device)
        scores, fits, _ = _score(X, y, where != a, where == a, C, solver, FIT_TOL)
        margin[:, :, fold == a] = scores.cpu().numpy()
        converged &= bool(fits.converged.all())
    coef = None
    if whole:
        C = torch.tensor([np.quantile(strength[0], 0.5, method="lower")], dtype=torch.float64)
        fits, _, scale, _ = solver.fit(
            X, y[:1], torch.ones_like(where, dtype=torch.bool), C.to(X.device), FIT_TOL
        )
        coef = (fits.coef[0] / scale).cpu().numpy()
        converged &= bool(fits.converged.all())
    predicted = (margin[:, 0] > 0).astype(np.int64) if k == 2 else margin.argmax(1)
    probability = _probability(margin[0]) if solver.kind in PROBABILISTIC else None
    if solver.kind not in PENALISED:
        strength = np.full_like(strength, np.nan)
    return HeldOut(margin, predicted, strength, converged, probability, coef)


def _choice_losses(
    X: Tensor,
    labels: NDArray,
    y: Tensor,
    fold: Tensor,
    folds: int,
    solver: _Solver,
    strengths: Sequence[float],
) -> NDArray:
    """Loss [l, folds, strengths], summed over the rows of the other folds."""
    sets, many = len(y), len(strengths)
    C = torch.tensor(strengths, dtype=torch.float64, device=X.device).repeat(sets)
    repeated = y.repeat_interleave(many, 0)
    total = np.zeros((sets, folds, many))
    for a, b in combinations(range(folds), 2):
        train = (fold != a) & (fold != b)
        here = labels[:, train.cpu().numpy()]
        if any(len(np.unique(row)) < solver.n_classes for row in here):
            continue  # a rare class lies in these two folds alone
        scores, _, weights = _score(X, repeated, train, ~train, C, solver, CHOICE_TOL)
        loss = solver.loss(scores, repeated[:, ~train])
        if weights is not None:
            loss = loss * weights[:, ~train]
        for out, scored in ((a, b), (b, a)):
            rows = fold[~train] == scored
            total[:, out] += loss[:, rows].sum(1).view(sets, many).cpu().numpy()
    return total


def _score(
    X: Tensor, y: Tensor, train: Tensor, test: Tensor, C: Tensor, solver: _Solver, tol: float
) -> tuple[Tensor, Fits, Tensor | None]:
    """Margins [p, k, test rows] of probes fitted on the training rows."""
    fits, mean, scale, weights = solver.fit(X, y, train, C, tol)
    return fits.decision(X[test].double().sub_(mean).div_(scale)), fits, weights


def _log_loss(margin: Tensor, y: Tensor) -> Tensor:
    """Log loss [p, n] of margins [p, k, n]."""
    if margin.shape[1] == 1:
        return torch.nn.functional.softplus(torch.where(y == 1, -margin[:, 0], margin[:, 0]))
    return torch.nn.functional.cross_entropy(margin, y, reduction="none")


def _probability(margin: NDArray) -> NDArray:
    """[classes, n] from margins [k, n]."""
    scores = torch.from_numpy(margin)
    if len(scores) == 1:
        return torch.cat([(-scores).sigmoid(), scores.sigmoid()]).numpy()
    return scores.softmax(0).numpy()
