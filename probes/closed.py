"""Probes that need no iteration: ridge, difference of means, LDA and nearest centroid.

As in `probes.logistic`, many problems on one matrix are solved together, and each solution is a
linear one: coefficients [p, k, d] and intercepts [p, k] in the coordinates of X, with k = 1 for
two classes. With class sums of (weighted, centred) rows S_c, class sizes N_c and means m_c:

- ``ridge``: least squares to targets of 1 and -1, ``|w|^2 / (2 C)`` added; one against the rest.
  It is scikit-learn's `RidgeClassifier(alpha=1 / (2 C))`.
- ``lda``: Gaussian classes of one covariance, ``(within-class scatter + I / (2 C)) / n``; margins
  are log odds. As C grows it is scikit-learn's `LinearDiscriminantAnalysis`.
- ``difference_of_means``: along the difference of the class means, with the log odds of two
  Gaussians of one variance on that line; one against the rest.
- ``nearest_centroid``: the class whose mean is nearest; margins are half differences of squared
  distances.

Ridge and LDA work in coordinates in which the scatter is diagonal, found from the smaller of X'X
and XX', so that all strengths and label sets share one decomposition.
"""

import torch
from torch import Tensor

from probes.logistic import Fits
from probes.spectrum import eigen

__all__ = ["CLOSED", "PENALISED", "PROBABILISTIC", "fit_closed"]

CLOSED = ("ridge", "difference_of_means", "lda", "nearest_centroid")
"""Kinds that are solved here."""

PENALISED = ("logistic", "ridge", "lda")
"""Kinds that have a strength C."""

PROBABILISTIC = ("logistic", "lda", "difference_of_means")
"""Kinds whose margins are log odds."""


def fit_closed(
    kind: str,
    X: Tensor,
    y: Tensor,
    C: Tensor,
    *,
    n_classes: int = 2,
    weights: Tensor | None = None,
) -> Fits:
    """Fit p probes of a kind on one matrix.

    Parameters
    ----------
    kind : one of `CLOSED`.
    X : [n, d] float64.
    y : [p, n] classes from 0 to ``n_classes - 1``.
    C : [p] strengths; of no effect on the kinds without a penalty.
    weights : [p, n] sample weights, or None for all one. Every class needs some.
    """
    p, n = y.shape
    member = y[:, None] == torch.arange(n_classes, device=y.device)[:, None]  # [p, c, n]
    member = member.to(X) if weights is None else member * weights[:, None].to(X)
    if kind == "nearest_centroid":
        coef, b = _nearest(*_means(X, member))
    elif kind == "difference_of_means":
        coef, b = _difference(X, member)
    else:
        coef, b = _by_weights(kind, X, member, C.to(X), weights)
    if n_classes == 2 and len(coef) and coef.shape[1] == 2:
        coef, b = coef[:, 1:] - coef[:, :1], b[:, 1:] - b[:, :1]
    zero = torch.zeros(p, device=X.device, dtype=X.dtype)
    return Fits(coef, b, zero.long(), zero, torch.ones_like(zero, dtype=torch.bool))


def _means(X: Tensor, member: Tensor) -> tuple[Tensor, Tensor]:
    """Class means [p, c, d] and sizes [p, c]."""
    size = member.sum(2)
    p, c, n = member.shape
    return (member.view(p * c, n) @ X).view(p, c, -1) / size[..., None], size


def _nearest(mean: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
    return mean, -mean.square().sum(2) / 2


def _difference(X: Tensor, member: Tensor) -> tuple[Tensor, Tensor]:
    """Log odds of each class against the rest, on the line through their means; [p, k, d]."""
    mean, size = _means(X, member)
    rest = size.sum(1, keepdim=True) - size
    other = (mean * size[..., None]).sum(1, keepdim=True) - mean * size[..., None]
    other = other / rest[..., None]
    if mean.shape[1] == 2:
        mean, other, size, rest = mean[:, 1:], other[:, 1:], size[:, 1:], rest[:, 1:]
        member = torch.stack([member[:, 1], member[:, 0]], 1)[:, None]  # [p, 1, (in, out), n]
    else:
        member = torch.stack([member, member.sum(1, keepdim=True) - member], 2)
    line = mean - other
    p, k, d = line.shape
    at = (line.view(p * k, d) @ X.T).view(p, k, -1)  # rows on the line
    inside, outside = (line * mean).sum(2), (line * other).sum(2)
    scatter = (member[:, :, 0] * (at - inside[..., None]).square()).sum(2)
    scatter = scatter + (member[:, :, 1] * (at - outside[..., None]).square()).sum(2)
    variance = scatter / (size + rest)
    gap = line.square().sum(2)  # = inside - outside
    # Classes that do not overlap at all would have infinite odds.
    variance = torch.maximum(variance, 1e-12 * gap.square()).clamp_min(1e-300)
    slope = torch.where(gap > 0, gap / variance, 0.0)
    b = torch.log(size / rest) - slope * (inside + outside) / 2
    return slope[..., None] * line, b


def _by_weights(
    kind: str, X: Tensor, member: Tensor, C: Tensor, weights: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Ridge or LDA; problems that weigh the rows alike share a decomposition."""
    if weights is None:
        return _spectral(kind, X, member, C, None)
    rows, which = torch.unique(weights.to(X), dim=0, return_inverse=True)
    parts = []
    for i, row in enumerate(rows):
        mine = (which == i).nonzero()[:, 0]
        parts.append((mine, *_spectral(kind, X, member[mine], C[mine], row)))
    order = torch.cat([part[0] for part in parts]).argsort()
    return torch.cat([p[1] for p in parts])[order], torch.cat([p[2] for p in parts])[order]


def _spectral(
    kind: str, X: Tensor, member: Tensor, C: Tensor, weight: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Coefficients [p, c, d] and intercepts [p, c], one vector a class."""
    n, d = X.shape
    root = None if weight is None else weight.sqrt()
    total = float(n) if weight is None else weight.sum()
    mean = X.mean(0) if weight is None else weight @ X / total
    Z = X - mean
    if root is not None:
        Z *= root[:, None]
    p, c, _ = member.shape
    size = member.sum(2)
    # Members hold the weights, Z their roots: the class sums need one root more.
    scaled = member if root is None else member / root.clamp_min(1e-150)
    scaled = scaled.reshape(p * c, n)
    if d <= n:
        power, V = eigen(Z.T @ Z)
        sums = (scaled @ Z) @ V
    else:
        power, V = eigen(Z @ Z.T)  # V here are the rows' coordinates
        sums = (scaled @ V) * power.clamp_min(0).sqrt()
    power = power.clamp_min(0)
    sums, ridge = sums.view(p, c, -1), power + 1 / (2 * C[:, None])  # [p, r]
    if kind == "ridge":
        z = 2 * sums / ridge[:, None]
        b = 2 * size / total - 1
        if c == 2:  # the difference of the two would count twice
            z, b = z / 2, b / 2
    else:
        centre = sums / size[..., None]
        near = centre / ridge[:, None]
        mixed = torch.eye(c).to(X) - (near @ centre.mT) * size[:, None]
        z = total * torch.linalg.solve(mixed, near)
        b = torch.log(size / total) - (z * centre).sum(2) / 2
    z = z.reshape(p * c, -1)
    if d <= n:
        coef = z @ V.T
    else:
        kept = power > 1e-14 * power[-1]
        coef = (torch.where(kept, z / power.clamp_min(1e-300).sqrt(), 0.0) @ V.T) @ Z
    coef = coef.view(p, c, d)
    return coef, b - coef @ mean
