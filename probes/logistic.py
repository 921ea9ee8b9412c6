"""Many L2 logistic regressions on one matrix, solved together.

The folds, strengths and control labels of a sweep share the matrix X; they differ in labels,
sample weights and C. Here each is a column of one problem, so that one pass over X serves all.

For a column with labels y, weights s and strength C the objective is scikit-learn's::

    F(w, b) = C * sum_i s_i * loss(y_i, x_i w + b) + |w|^2 / 2

with the sigmoid loss for two classes and the softmax loss, one weight vector a class, for more.

*Coordinates.* X is centred (the intercept is free of penalty and takes up the shift) and rotated
onto its principal axes: A = X V, [n, r] with r = min(n, d). A rotation leaves the penalty as it
is. V comes from the Gram matrix of the smaller side: X'X where d <= n, XX' where n < d.

*Steps.* Newton steps, each found by conjugate gradients that run on all columns at once, with the
diagonal ``C * mean(curvature) * eigenvalue + 1`` as preconditioner, exact where the curvature is
the same for all rows. Gradients, margins and the line search are float64; the Hessian products
inside the conjugate gradients are float32. They only shape the direction, so they cost no
accuracy. Columns that have converged leave the batch.

*Stopping.* F is strongly convex with modulus 1 in w, so the distance of w to the optimum is at
most |gradient|. A column has converged when |gradient| <= tol * |w|: its coefficients are then
within about ``tol`` relative of the optimum.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Fits", "fit_logistic"]

CHUNK = 2**24
"""Largest n * columns * classes solved at once: 128 MiB for each float64 array of that shape."""

FLOOR = 1e-13
"""Rounding level of a gradient, relative to the sum of its terms' magnitudes."""


@dataclass(frozen=True)
class Fits:
    """Solutions of `fit_logistic`; p columns, k = 1 weight vector for two classes, else one each.

    Attributes
    ----------
    coef : [p, k, d].
    intercept : [p, k].
    n_iter : [p] Newton steps taken.
    error : [p] bound on the relative distance of ``coef`` to the optimum, ``|gradient| / |w|``.
    converged : [p] whether that bound met the tolerance.
    """

    coef: Tensor
    intercept: Tensor
    n_iter: Tensor
    error: Tensor
    converged: Tensor

    def decision(self, X: Tensor) -> Tensor:
        """Margins [n, p, k] of the rows of X."""
        p, k, d = self.coef.shape
        return (X @ self.coef.reshape(p * k, d).T).reshape(-1, p, k) + self.intercept


def fit_logistic(
    X: Tensor,
    y: Tensor,
    C: Tensor,
    *,
    n_classes: int = 2,
    weights: Tensor | None = None,
    tol: float = 1e-6,
    max_iter: int = 100,
) -> Fits:
    """Fit p logistic regressions on one matrix.

    Parameters
    ----------
    X : [n, d] float64, finite, on the device that does the work.
    y : [n, p] integer classes from 0 to ``n_classes - 1``.
    C : [p] strengths, positive: the inverse of the penalty, as in scikit-learn.
    n_classes : two give one weight vector, more give one each (softmax).
    weights : [n, p] sample weights, zero to leave a row out of a column; None for all one.
    tol : bound on the relative error of the coefficients.
    max_iter : most Newton steps a column.

    Returns
    -------
    Fits
        With ``converged`` False where ``max_iter`` came first.
    """
    n, p = y.shape
    k = 1 if n_classes == 2 else n_classes
    basis = _Basis(X)
    step = max(1, CHUNK // max(1, n * k))
    parts = []
    for first in range(0, p, step):
        columns = slice(first, first + step)
        s = torch.ones_like(y[:, columns], dtype=X.dtype) if weights is None else weights[:, columns]
        parts.append(_solve(basis, y[:, columns], s * C[columns], k, tol, max_iter))
    return Fits(*(torch.cat(part) for part in zip(*parts, strict=True)))


class _Basis:
    """X in coordinates in which X'X is diagonal: rows ``A`` [n, r], eigenvalues ``power`` [r]."""

    def __init__(self, X: Tensor) -> None:
        n, d = X.shape
        self.mean = X.mean(0)
        self.X = X - self.mean
        self.primal = d <= n
        if self.primal:
            power, self.V = torch.linalg.eigh(self.X.T @ self.X)
            self.A = self.X @ self.V
        else:
            power, U = torch.linalg.eigh(self.X @ self.X.T)
            self.A = U * power.clamp_min(0).sqrt()
        self.power = power.clamp_min(0)
        self.A32 = self.A.float()

    def coef(self, z: Tensor, residual: Tensor) -> Tensor:
        """Weights [d, columns] in the coordinates of X.

        In the dual they follow from stationarity, w = -X' residual, which divides by no small
        singular value and is as exact as the solution itself.
        """
        return self.V @ z if self.primal else -(self.X.T @ residual)


def _solve(
    basis: _Basis, y: Tensor, cs: Tensor, k: int, tol: float, max_iter: int
) -> tuple[Tensor, ...]:
    """Newton's method on the columns of y [n, p] with weights cs = C * s [n, p]."""
    A, (n, p) = basis.A, y.shape
    target = (y[:, :, None] == torch.arange(k, device=y.device)).to(A) if k > 1 else y[:, :, None].to(A)
    r = A.shape[1]
    z_out, b_out = A.new_zeros(r, p, k), A.new_zeros(p, k)
    residual_out = A.new_zeros(n, p, k)
    n_iter = torch.zeros(p, dtype=torch.long, device=A.device)
    error = A.new_full((p,), torch.inf)
    floor = FLOOR * cs.sum(0) * A.square().sum(1).max().sqrt()

    live = torch.arange(p, device=A.device)
    z, b, margin = z_out.clone(), b_out.clone(), A.new_zeros(n, p, k)
    start = A.new_zeros(p)
    for iteration in range(max_iter + 1):
        prob, residual = _residual(margin, target, cs)
        g = (A.T @ residual.flatten(1)).view_as(z) + z
        gb = residual.sum(0)
        curvature = (cs[:, :, None] * prob * (1 - prob)).sum(0)  # [p, k], the trace of each block
        norm = g.square().sum((0, 2)).sqrt()
        size = z.square().sum((0, 2)).sqrt()
        slack = (gb.abs() / curvature.clamp_min(1e-300)).amax(1)
        exact = norm <= floor[live]
        relative = torch.where(exact, 0.0, norm / size)
        if iteration == 0:
            start = norm
        small_shift = (slack <= tol) | (gb.abs().amax(1) <= floor[live])
        done = (relative <= tol) & small_shift
        n_iter[live] = iteration
        error[live] = relative
        if iteration == max_iter:
            done = torch.ones_like(done)
        if done.any():
            out = live[done]
            z_out[:, out], b_out[out] = z[:, done], b[done]
            residual_out[:, out] = residual[:, done]
            keep = ~done
            live, z, b = live[keep], z[:, keep], b[keep]
            margin, target, cs, prob = (t[:, keep] for t in (margin, target, cs, prob))
            residual, g, gb, curvature = residual[:, keep], g[:, keep], gb[keep], curvature[keep]
            norm, start = norm[keep], start[keep]
            if not len(live):
                break
        forcing = (norm / start).sqrt().clamp(max=0.1)
        dz, db = _direction(basis, prob, cs, g, gb, curvature, forcing)
        slope = (A @ dz.flatten(1)).view_as(margin) + db
        t = _step_length(margin, slope, target, cs, z, dz)
        margin = margin + t[:, None] * slope
        z, b = z + t[:, None] * dz, b + t[:, None] * db

    coef = basis.coef(z_out.flatten(1), residual_out.flatten(1)).view(-1, p, k).permute(1, 2, 0)
    if k > 1:
        b_out = b_out - b_out.mean(1, keepdim=True)  # softmax leaves a common shift open
    intercept = b_out - coef @ basis.mean
    return coef, intercept, n_iter, error, error <= tol


def _residual(margin: Tensor, target: Tensor, cs: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities and the gradient of the weighted loss by the margins, both [n, p, k]."""
    prob = margin.sigmoid() if margin.shape[2] == 1 else margin.softmax(2)
    return prob, cs[:, :, None] * (prob - target)


def _step_length(
    margin: Tensor, slope: Tensor, target: Tensor, cs: Tensor, z: Tensor, dz: Tensor
) -> Tensor:
    """Step lengths [p], at most 1, that do not run past the minimum along the direction.

    Along a line F is convex and its derivative needs no pass over X. A step is taken where the
    derivative is still negative or has fallen to a tenth; else its secant gives a shorter one.
    """
    linear, quadratic = (z * dz).sum((0, 2)), dz.square().sum((0, 2))

    def derivative(t: Tensor) -> Tensor:
        residual = _residual(margin + t[:, None] * slope, target, cs)[1]
        return (residual * slope).sum((0, 2)) + linear + t * quadratic

    t = torch.ones_like(linear)
    first = derivative(torch.zeros_like(t))
    for _ in range(20):
        here = derivative(t)
        over = here > 0.1 * first.abs()
        if not over.any():
            break
        secant = t * (first.abs() / (first.abs() + here)).clamp(0.1, 0.9)
        t = torch.where(over, secant, t)
    return t


def _direction(
    basis: _Basis, prob: Tensor, cs: Tensor, g: Tensor, gb: Tensor, curvature: Tensor, forcing: Tensor
) -> tuple[Tensor, Tensor]:
    """Newton directions [r, p, k] and [p, k] by preconditioned conjugate gradients in float32."""
    A = basis.A32
    r, p, k = g.shape
    scale = g.abs().amax((0, 2)).clamp_min(1e-300)  # keeps float32 away from its ends
    weight, prob = cs.float()[:, :, None], prob.float()
    if k == 1:
        weight = weight * prob * (1 - prob)
    metric = basis.power[:, None, None].float() * (curvature / A.shape[0]).float() + 1
    metric_b = curvature.float().clamp_min(1e-30)

    res = -(g / scale[:, None]).float()
    res_b = -(gb / scale[:, None]).float()
    x, x_b = torch.zeros_like(res), torch.zeros_like(res_b)
    pre, pre_b = res / metric, res_b / metric_b
    d, d_b = pre.clone(), pre_b.clone()
    rho = (res * pre).sum((0, 2)) + (res_b * pre_b).sum(1)
    goal = rho * forcing.float().square()
    out, out_b = torch.zeros_like(x), torch.zeros_like(x_b)
    live = torch.arange(p, device=A.device)
    for _ in range(250):
        Ad = (A @ d.flatten(1)).view(A.shape[0], -1, k) + d_b
        if k == 1:
            Ad *= weight
        else:
            Ad = weight * prob * (Ad - (prob * Ad).sum(2, keepdim=True))
        q, q_b = (A.T @ Ad.flatten(1)).view_as(d) + d, Ad.sum(0)
        alpha = (rho / ((d * q).sum((0, 2)) + (d_b * q_b).sum(1)).clamp_min(1e-30))[:, None]
        x += alpha * d
        x_b += alpha * d_b
        res -= alpha * q
        res_b -= alpha * q_b
        pre, pre_b = res / metric, res_b / metric_b
        rho_new = (res * pre).sum((0, 2)) + (res_b * pre_b).sum(1)
        open_ = rho_new > goal
        beta = (rho_new / rho.clamp_min(1e-38))[:, None]
        d, d_b, rho = pre + beta * d, pre_b + beta * d_b, rho_new
        count = int(open_.sum())
        if count <= 0.8 * len(live):
            out[:, live], out_b[live] = x, x_b
            live, goal, rho = live[open_], goal[open_], rho[open_]
            x, res, d, metric = (t[:, open_] for t in (x, res, d, metric))
            x_b, res_b, d_b, metric_b = (t[open_] for t in (x_b, res_b, d_b, metric_b))
            weight, prob = weight[:, open_], prob[:, open_]
            if not count:
                break
    out[:, live], out_b[live] = x, x_b
    return out.double() * scale[:, None], out_b.double() * scale[:, None]
