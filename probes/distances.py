"""All distances between rows in one pass, a block of pairs at a time: for Dunn and silhouette."""

from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Distances", "distances"]

BLOCK = 2048
"""Rows of each side of a block of pairs."""
RECHECKED = 16
"""Pairs of a block whose distance is computed anew, without cancellation."""


class Distances:
    """Sums and extremes of distances by class, a block of pairs of rows at a time.

    Each unordered pair of rows is given once, in any order of blocks; `merge` joins what was summed
    apart. Memory: n * K sums.

    Parameters
    ----------
    y : [n] class of each row, 0 to K - 1.
    """

    def __init__(self, y: NDArray) -> None:
        self.y = np.asarray(y)
        self.counts = np.bincount(self.y)
        self.sums = torch.zeros(len(self.y), len(self.counts), dtype=torch.float64)
        self.least_between = float("inf")
        self.most_within = 0.0

    def update(self, rows: NDArray, X: Tensor, others: NDArray, Z: Tensor) -> Self:
        """Add the pairs of two blocks: rows numbered ``rows`` [a], X [a, d], with ``others``, Z.

        The blocks have no row in common, or are the same one, whose pairs then count once. The
        matrices are centred about one point, the nearer the rows to it the better.
        """
        same = X is Z
        rows, X = _by_class(rows, X, self.y)
        others, Z = (rows, X) if same else _by_class(others, Z, self.y)
        a, b = X.square().sum(1), Z.square().sum(1)
        D = torch.addmm(b[None], X, Z.T, alpha=-2).add_(a[:, None]).clamp_(min=0)
        if same:
            D.fill_diagonal_(0)
        D.sqrt_()
        here, there = _segments(self.y[rows]), _segments(self.y[others])
        self._sum(D, rows, others, here, there, same)
        for k, part in here.items():
            if k in there:
                self._within(D[part, there[k]], X[part], Z[there[k]])
                D[part, there[k]] = float("inf")
        self._between(D, X, Z)
        return self

    def merge(self, other: "Distances") -> Self:
        """Add what another has summed over other pairs of the same rows."""
        self.sums += other.sums
        self.least_between = min(self.least_between, other.least_between)
        self.most_within = max(self.most_within, other.most_within)
        return self

    def dunn(self) -> float:
        """Least distance between classes over the greatest within one; nan if that is 0."""
        return self.least_between / self.most_within if self.most_within > 0 else float("nan")

    def silhouettes(self) -> NDArray:
        """The silhouette of each row [n], -1 to 1; 0 where it is alone in its class."""
        sums, mine = self.sums.cpu().numpy(), self.counts[self.y]
        own = np.arange(len(self.y)), self.y
        a = sums[own] / np.maximum(mine - 1, 1)
        means = sums / self.counts
        means[own] = np.inf
        b = means.min(1)
        longer = np.maximum(a, b)
        value = np.divide(b - a, longer, out=np.zeros_like(a), where=longer > 0)
        return np.where(mine > 1, value, 0.0)

    def silhouette(self) -> float:
        """The mean silhouette."""
        return float(self.silhouettes().mean())

    def _sum(
        self, D: Tensor, rows: NDArray, others: NDArray, here: dict, there: dict, same: bool
    ) -> None:
        """Sums of each row's distances to each class, in float64."""
        at, to = torch.from_numpy(rows), torch.from_numpy(others)
        for k, part in there.items():
            self.sums[at, k] += D[:, part].sum(1, dtype=torch.float64).cpu()
        if not same:
            for k, part in here.items():
                self.sums[to, k] += D[part].sum(0, dtype=torch.float64).cpu()

    def _within(self, D: Tensor, X: Tensor, Z: Tensor) -> None:
        at = int(D.argmax())
        if float(D.flatten()[at]) > self.most_within * (1 - 1e-5):
            i, j = divmod(at, D.shape[1])
            exact = float((X[i].double() - Z[j].double()).norm())
            self.most_within = max(self.most_within, exact)

    def _between(self, D: Tensor, X: Tensor, Z: Tensor) -> None:
        """The least distance, of the nearest pairs as found, each computed anew."""
        least = float(D.min())
        # Cancellation moves a squared distance by about eps * (|x|^2 + |z|^2), so a pair that
        # seems a little farther than the nearest so far may still be nearer.
        size = float(X.norm(dim=1).max() + Z.norm(dim=1).max())
        slack = 8 * torch.finfo(X.dtype).eps * size**2
        if not np.isfinite(least) or least**2 > self.least_between**2 + slack:
            return
        count = min(RECHECKED, D.numel())
        for at in D.flatten().topk(count, largest=False).indices.tolist():
            i, j = divmod(at, D.shape[1])
            if bool(torch.isfinite(D[i, j])):
                exact = float((X[i].double() - Z[j].double()).norm())
                self.least_between = min(self.least_between, exact)


def distances(X: Any, y: NDArray, *, block: int = BLOCK) -> Distances:
    """One pass over all pairs of rows; at most a few blocks of them are in memory at a time.

    Products are float64 for float64 input and float32 for all other, of rows less their mean;
    distances are summed in float64.

    Error: with float32 products a squared distance is off by about 1e-6 of the squared norms of its
    rows about the mean, so a distance that is a thousandth of them has no digit right. The mean
    silhouette is off by about 1e-6. The two pairs that the Dunn index rests on are measured anew in
    float64; where more than a few pairs are closer than the error, the nearest may be missed.

    Parameters
    ----------
    X : [n, d] array, tensor, or matrix of a store: finite.
    y : [n] classes, 0 to K - 1.
    block : rows of each side of a block.
    """
    wide = str(getattr(X, "dtype", "float64")).endswith(("float64", "int64", "int32"))
    dtype = torch.float64 if wide else torch.float32
    starts = range(0, len(X), block)
    mean = _mean(X, starts, block)

    def read(start: int) -> tuple[NDArray, Tensor]:
        part = torch.as_tensor(X[start : start + block]).detach()
        centred = part.to(dtype) - mean.to(device=part.device, dtype=dtype)
        return np.arange(start, start + len(part)), centred

    found = Distances(y)
    for start in starts:
        rows, one = read(start)
        found.update(rows, one, rows, one)
        for other in range(start + block, len(X), block):
            found.update(rows, one, *read(other))
    return found


def _mean(X: Any, starts: range, block: int) -> Tensor:
    total = sum(
        torch.as_tensor(X[s : s + block]).detach().sum(0, dtype=torch.float64) for s in starts
    )
    return torch.as_tensor(total) / len(X)


def _by_class(rows: NDArray, X: Tensor, y: NDArray) -> tuple[NDArray, Tensor]:
    """The rows in the order of their classes, so that each class is a slice."""
    order = np.argsort(y[rows], kind="stable")
    if (np.diff(order) == 1).all():
        return rows, X
    return rows[order], X[torch.from_numpy(order).to(X.device)]


def _segments(y: NDArray) -> dict[int, slice]:
    """Class -> the slice of sorted rows that are of it."""
    classes, first = np.unique(y, return_index=True)
    ends = [*first[1:].tolist(), len(y)]
    return {int(k): slice(int(a), int(b)) for k, a, b in zip(classes, first, ends, strict=True)}
