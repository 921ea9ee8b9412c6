"""Many L2 logistic regressions on one matrix, solved together.

The folds, strengths and control labels of a sweep share the matrix X; they differ in labels,
sample weights and C. Here they are p problems solved as one, so that a pass over X serves all.

For a problem with labels y, weights s and strength C the objective is scikit-learn's::

    F(w, b) = C * sum_i s_i * loss(y_i, w x_i + b) + |w|^2 / 2

with the sigmoid loss for two classes and the softmax loss, one weight vector a class, for more.

*Coordinates.* X is centred (the intercept is free of penalty and takes up the shift) and rotated
onto its principal axes: A = X V, [n, r] with r = min(n, d). A rotation leaves the penalty as it
is. V comes from the Gram matrix of the smaller side: X'X where d <= n, XX' where n < d.

*Steps.* Newton steps, each found by conjugate gradients that run on all problems at once, with
the diagonal ``mean curvature * eigenvalue + 1`` as preconditioner, exact where the curvature is
the same for all rows. Gradients, margins and the line search are float64; the Hessian products
inside the conjugate gradients are float32. They only shape the direction, so they cost no
accuracy. Problems that have converged leave the batch.

*One alone.* A problem that is alone does not pay for eigenvectors: it stays in the coordinates of
X. Where X is small, and where as many conjugate gradients as a factorisation costs have not come
to the end, it factorises its own Hessian in each step, by way of the smaller of its two sides.

*Stopping.* F is strongly convex with modulus 1 in w, so the distance of w to the optimum is at
most |gradient|. A problem has converged when |gradient| <= tol * |w|: its coefficients are then
within about ``tol`` relative of the optimum.

*Layout.* Problems come first, [p, k, r] and [p, k, n]: a product of few rows with a wide matrix
runs several times faster than its transpose.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from probes.spectrum import eigen

__all__ = ["Fits", "fit_logistic"]

CHUNK = 2**24
"""Largest problems * classes * n solved at once: 128 MiB for each float64 array of that shape."""

FLOOR = 3e-13
"""Rounding level of a gradient, relative to the sum of its terms' magnitudes."""

SATURATED = 1e-4
"""Mean curvature below which probabilities are so near 0 and 1 that float32 loses the Hessian."""

CG_STEPS = 250
"""Most conjugate gradients a Newton step; what it has by then is a descent direction."""

SMALL = 256
"""Smaller side of X up to which a problem that is alone factorises its Hessian at once."""

PATIENCE = 8
"""The smaller side over this is how many conjugate gradients cost what factorising costs."""


@dataclass(frozen=True)
class Fits:
    """Solutions of p problems; k = 1 weight vector for two classes, else one a class.

    Attributes
    ----------
    coef : [p, k, d].
    intercept : [p, k].
    n_iter : [p] Newton steps taken.
    error : [p] bound on the relative distance of ``coef`` to the optimum, ``|gradient| / |w|``.
    converged : [p] whether the tolerance was met, or the gradient has come down to the rounding of
        its terms, below which no step could be told from noise; ``error`` says how far that is.
    """

    coef: Tensor
    intercept: Tensor
    n_iter: Tensor
    error: Tensor
    converged: Tensor

    def decision(self, X: Tensor) -> Tensor:
        """Margins [p, k, n] of the rows of X."""
        p, k, d = self.coef.shape
        return (self.coef.view(p * k, d) @ X.T).view(p, k, -1) + self.intercept[..., None]


def fit_logistic(
    X: Tensor,
    y: Tensor,
    C: Tensor,
    *,
    n_classes: int = 2,
    weights: Tensor | None = None,
    tol: float = 1e-6,
    max_iter: int = 100,
    centred: bool = False,
) -> Fits:
    """Fit p logistic regressions on one matrix.

    Parameters
    ----------
    X : [n, d] float64, finite, on the device that does the work.
    y : [p, n] integer classes from 0 to ``n_classes - 1``.
    C : [p] strengths, positive: the inverse of the penalty, as in scikit-learn.
    n_classes : two give one weight vector, more give one each (softmax).
    weights : [p, n] sample weights, zero to leave a row out of a problem; None for all one.
    tol : bound on the relative error of the coefficients.
    max_iter : most Newton steps a problem.
    centred : the columns of X have a mean of 0 already, which saves a copy of X.

    Returns
    -------
    Fits
        With ``converged`` False where ``max_iter`` came first.
    """
    p, n = y.shape
    k = 1 if n_classes == 2 else n_classes
    basis = _Alone(X, centred) if p * k == 1 else _Basis(X, centred)
    chunk = max(1, CHUNK // max(1, n * k))
    parts = []
    for first in range(0, p, chunk):
        part = slice(first, first + chunk)
        cs = C[part, None].to(X).expand(-1, n)
        if weights is not None:
            cs = cs * weights[part]
        parts.append(_solve(basis, y[part], cs, k, tol, max_iter))
    return Fits(*(torch.cat(part) for part in zip(*parts, strict=True)))


class _Basis:
    """X in coordinates ``A`` [n, r] on which X'X is diagonal, with eigenvalues ``power`` [r]."""

    steps = CG_STEPS

    def __init__(self, X: Tensor, centred: bool) -> None:
        n, d = X.shape
        self.mean = torch.zeros_like(X[0]) if centred else X.mean(0)
        self.X = X if centred else X - self.mean
        self.primal = d <= n
        if self.primal:
            power, self.V = eigen(self.X.T @ self.X)
            self.A = self.X @ self.V
            del self.X  # read in the dual alone
        else:
            power, U = eigen(self.X @ self.X.T)
            self.A = U * power.clamp_min(0).sqrt()
        self.power = power.clamp_min(0)
        self.A32 = self.A.float()

    def metric(self, row: Tensor, dtype: torch.dtype) -> Tensor:
        """Diagonal preconditioners [p, k, r] of problems whose rows have curvatures [p, k, n]."""
        level = row.mean(2, keepdim=True).to(dtype)
        return level * self.power.to(dtype) + 1

    def solve(self, metric: Tensor, rest: Tensor) -> Tensor:
        """The preconditioners' solutions for right-hand sides [p, k, r]."""
        return rest / metric

    def coef(self, z: Tensor, residual: Tensor) -> Tensor:
        """Weights [p, k, d] in the coordinates of X, from those in A's and the loss's residual.

        In the dual they follow from stationarity, w = -X' residual, which divides by no small
        singular value and is as exact as the solution itself.
        """
        return _times(z, self.V.T) if self.primal else -_times(residual, self.X)


class _Alone:
    """X as it is, for one problem, which factorises its own Hessian once its patience is spent.

    With row curvatures D the Hessian is ``X'DX + I``: [d, d], or by Woodbury's identity
    ``I - X'R (I + R XX' R)^-1 RX`` with R the root of D, where n < d.
    """

    def __init__(self, X: Tensor, centred: bool) -> None:
        n, d = X.shape
        self.mean = torch.zeros_like(X[0]) if centred else X.mean(0)
        self.A = X if centred else X - self.mean
        self.A32 = self.A.float()
        self.primal = d <= n
        self.patience = 0 if min(n, d) <= SMALL else int(min(n, d) / PATIENCE)
        self.power = self.A.square().sum(0)
        self.gram: Tensor | None = None
        self.factor: Tensor | None = None
        self.root = self.mean.new_ones(n)

    @property
    def steps(self) -> int:
        """Conjugate gradients that the next Newton step may take."""
        return min(CG_STEPS, self.patience) if self.patience > 0 else CG_STEPS

    def metric(self, row: Tensor, dtype: torch.dtype) -> Tensor:
        """The Hessian's diagonal [1, 1, d], about; or all of it, kept here as a factor."""
        if self.patience > 0:
            return (row.mean() * self.power + 1).to(dtype)[None, None]
        curvature = row[0, 0].double()
        if self.primal:
            matrix = (self.A.T * curvature) @ self.A
        else:
            self.gram = self.A @ self.A.T if self.gram is None else self.gram
            self.root = curvature.sqrt()
            matrix = self.root[:, None] * self.gram * self.root
        matrix.diagonal().add_(1)
        self.factor = _factor(matrix)
        return self.factor[None]

    def solve(self, metric: Tensor, rest: Tensor) -> Tensor:
        """The preconditioner's solution for a right-hand side [1, 1, d]."""
        if self.factor is None:
            self.patience -= 1
            return rest / metric
        wide = rest[0, 0].double()[:, None]
        if self.primal:
            out = torch.cholesky_solve(wide, self.factor)
        else:
            inner = torch.cholesky_solve(self.root[:, None] * (self.A @ wide), self.factor)
            out = wide - self.A.T @ (self.root[:, None] * inner)
        return out[:, 0].to(rest)[None, None]

    def coef(self, z: Tensor, residual: Tensor) -> Tensor:
        """Weights [1, 1, d] as they are."""
        return z


def _factor(matrix: Tensor) -> Tensor:
    """Cholesky factor of a positive semidefinite matrix, lifted above rounding where it must be."""
    lift = 1e-14 * matrix.trace().clamp_min(1e-200)
    while True:
        L, failed = torch.linalg.cholesky_ex(matrix)
        if not failed or not torch.isfinite(lift):
            return L
        matrix.diagonal().add_(lift)
        lift = 10 * lift


def _times(x: Tensor, matrix: Tensor) -> Tensor:
    """[p, k, a] times [a, b] as one product of matrices."""
    return (x.reshape(-1, x.shape[2]) @ matrix).view(*x.shape[:2], -1)


def _solve(
    basis: _Basis | _Alone, y: Tensor, cs: Tensor, k: int, tol: float, max_iter: int
) -> tuple[Tensor, ...]:
    """Newton's method on the problems y [p, n] with weights cs = C * s [p, n]."""
    A, (p, n) = basis.A, y.shape
    classes = torch.arange(k, device=y.device) if k > 1 else torch.ones(1, device=y.device)
    target = (y[:, None] == classes[:, None]).to(A)
    cs = cs[:, None]
    floor = FLOOR * cs.sum((1, 2)) * A.square().sum(1).max().sqrt()

    z_all, b_all, residual_all = (
        A.new_zeros(p, k, A.shape[1]),
        A.new_zeros(p, k),
        A.new_zeros(p, k, n),
    )
    n_iter = torch.zeros(p, dtype=torch.long, device=A.device)
    error, converged = A.new_zeros(p), torch.zeros(p, dtype=torch.bool, device=A.device)
    live = torch.arange(p, device=A.device)
    z, b, margin = z_all.clone(), b_all.clone(), residual_all.clone()
    start = A.new_ones(p)
    for iteration in range(max_iter + 1):
        prob, residual = _residual(margin, target, cs)
        g, gb = _centred(_times(residual, A) + z), _centred(residual.sum(2))
        curvature = (cs * prob * (1 - prob)).sum(2)
        norm, size = g.square().sum((1, 2)).sqrt(), z.square().sum((1, 2)).sqrt()
        if iteration == 0:
            start = norm.clamp_min(1e-300)
        shift = gb.abs().amax(1)  # of the intercepts' gradient; over the curvature, their error
        relative = torch.where(norm > 0, norm / size, 0.0)
        good = ((relative <= tol) | (norm <= floor)) & (
            (shift <= tol * curvature.amin(1)) | (shift <= floor)
        )
        done = good if iteration < max_iter else torch.ones_like(good)
        n_iter[live], error[live], converged[live] = iteration, relative, good
        if done.any():
            out, keep = live[done], ~done
            z_all[out], b_all[out], residual_all[out] = z[done], b[done], residual[done]
            live, z, b, margin, target, cs = (t[keep] for t in (live, z, b, margin, target, cs))
            prob, g, gb, curvature = (t[keep] for t in (prob, g, gb, curvature))
            norm, size, start, floor = (t[keep] for t in (norm, size, start, floor))
            if not len(live):
                break
        forcing = (norm / start).sqrt().clamp(1e-4, 0.1)  # float32 gives no more
        enough = 0.3 * tol * size
        dz, db = torch.empty_like(g), torch.empty_like(gb)
        fine = curvature.amin(1) < SATURATED * cs.sum((1, 2))
        for chosen, matrix in ((~fine, basis.A32), (fine, A)):
            if chosen.any():
                rest = (t[chosen] for t in (prob, cs, g, gb, curvature, forcing, enough))
                dz[chosen], db[chosen] = _direction(basis, matrix, *rest)
        dz, db = _centred(dz), _centred(db)
        slope = _times(dz, A.T) + db[..., None]
        t = _step_length(margin, slope, target, cs, z, dz)[:, None, None]
        margin, z, b = margin + t * slope, z + t * dz, b + t[..., 0] * db

    coef = basis.coef(z_all, residual_all)
    return coef, b_all - coef @ basis.mean, n_iter, error, converged


class _Hessian:
    """The product of the Hessian of F, penalty included, with directions; all in A's dtype."""

    def __init__(self, A: Tensor, prob: Tensor, cs: Tensor) -> None:
        self.A, self.prob, self.cs = A, prob, cs

    def of(self, chosen: Tensor) -> "_Hessian":
        """The same for some of the problems."""
        return _Hessian(self.A, self.prob[chosen], self.cs[chosen])

    def __call__(self, d: Tensor, d_b: Tensor) -> tuple[Tensor, Tensor]:
        """Directions [p, k, r] and [p, k] to products of the same shapes."""
        change = _times(d, self.A.T) + d_b[..., None]
        if d.shape[1] == 1:
            change *= self.cs * self.prob * (1 - self.prob)
            return _times(change, self.A) + d, change.sum(2)
        mean = (self.prob * change).sum(1, keepdim=True)
        change = self.cs * self.prob * (change - mean)
        # Softmax leaves a shift common to all classes open. The optimum has none; nor, then, must
        # the rounding of a product whose other parts are many times the penalty.
        return _centred(_times(change, self.A) + d), _centred(change.sum(2))


def _centred(x: Tensor) -> Tensor:
    """Less the mean over the classes, where there are several."""
    return x - x.mean(1, keepdim=True) if x.shape[1] > 1 else x


def _residual(margin: Tensor, target: Tensor, cs: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities, and the gradient of the weighted loss by the margins; both [p, k, n]."""
    prob = margin.sigmoid() if margin.shape[1] == 1 else margin.softmax(1)
    return prob, cs * (prob - target)


def _step_length(
    margin: Tensor, slope: Tensor, target: Tensor, cs: Tensor, z: Tensor, dz: Tensor
) -> Tensor:
    """Step lengths [p], at most 1, that do not run past the minimum along the direction.

    Along a line F is convex, and its derivative needs no pass over X. A step is taken where the
    derivative is still negative or has fallen to a tenth; else its secant gives a shorter one.
    """
    linear, quadratic = (z * dz).sum((1, 2)), dz.square().sum((1, 2))

    def derivative(t: Tensor) -> Tensor:
        residual = _residual(margin + t[:, None, None] * slope, target, cs)[1]
        return (residual * slope).sum((1, 2)) + linear + t * quadratic

    t = torch.ones_like(linear)
    first = derivative(torch.zeros_like(t)).abs()
    for _ in range(20):
        here = derivative(t)
        over = here > 0.1 * first
        if not over.any():
            break
        t = torch.where(over, t * (first / (first + here)).clamp(0.1, 0.9), t)
    return t


def _direction(
    basis: _Basis | _Alone,
    A: Tensor,
    prob: Tensor,
    cs: Tensor,
    g: Tensor,
    gb: Tensor,
    curvature: Tensor,
    forcing: Tensor,
    enough: Tensor,
) -> tuple[Tensor, Tensor]:
    """Newton directions [p, k, r] and [p, k] by preconditioned conjugate gradients in A's dtype.

    A problem stops when its residual has fallen by ``forcing`` in the preconditioner's norm, or
    below ``enough``, at which the step already ends the whole solve.
    """
    p, dtype = len(g), A.dtype
    # The scale keeps float32 away from the ends of its range.
    scale = torch.maximum(g.abs().amax((1, 2)), gb.abs().amax(1)).clamp_min(1e-300)
    hessian = _Hessian(A, prob.to(dtype), cs.to(dtype))
    steps = basis.steps  # of the metric that follows: solving spends the patience
    metric = basis.metric(cs * prob * (1 - prob), dtype)
    metric_b = curvature.to(dtype).clamp_min(1e-30)

    res, res_b = (-g / scale[:, None, None]).to(dtype), (-gb / scale[:, None]).to(dtype)
    x, x_b = torch.zeros_like(res), torch.zeros_like(res_b)
    d, d_b = basis.solve(metric, res), res_b / metric_b
    rho = (res * d).sum((1, 2)) + (res_b * d_b).sum(1)
    goal, enough = rho * forcing.to(dtype).square(), (enough / scale).to(dtype).square()
    out, out_b = torch.zeros_like(x), torch.zeros_like(x_b)
    live = torch.arange(p, device=g.device)
    for _ in range(steps):
        q, q_b = hessian(d, d_b)
        bend = (d * q).sum((1, 2)) + (d_b * q_b).sum(1)
        alpha = rho / torch.where(bend > 0, bend, torch.inf)
        x.addcmul_(alpha[:, None, None], d)
        x_b.addcmul_(alpha[:, None], d_b)
        res.addcmul_(alpha[:, None, None], q, value=-1)
        res_b.addcmul_(alpha[:, None], q_b, value=-1)
        pre, pre_b = basis.solve(metric, res), res_b / metric_b
        rho_new = (res * pre).sum((1, 2)) + (res_b * pre_b).sum(1)
        beta = rho_new / rho.clamp_min(1e-38)
        rho = rho_new
        more = (rho > goal) & (res.square().sum((1, 2)) > enough) & (bend > 0)
        # A problem that is done stands still until it leaves.
        d = (pre + beta[:, None, None] * d) * more[:, None, None]
        d_b = (pre_b + beta[:, None] * d_b) * more[:, None]
        count = int(more.sum())
        if count <= 0.8 * len(live):  # leaving one by one would copy the batch each time
            out[live], out_b[live] = x, x_b
            if not count:
                return out.double() * scale[:, None, None], out_b.double() * scale[:, None]
            live, goal, enough, rho = (t[more] for t in (live, goal, enough, rho))
            x, x_b, res, res_b = (t[more] for t in (x, x_b, res, res_b))
            d, d_b, metric, metric_b = (t[more] for t in (d, d_b, metric, metric_b))
            hessian = hessian.of(more)
    out[live], out_b[live] = x, x_b
    return out.double() * scale[:, None, None], out_b.double() * scale[:, None]
