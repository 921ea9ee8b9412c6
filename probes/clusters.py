"""How well labelled clusters stand apart: five indices, each with what makes it undefined.

The classes are given, not found. `Moments` and `Spreads` go through the rows once each, a batch at
a time; `dunn` and `silhouette` share one pass over the pairs of rows (`probes.distances`).

Notation: n rows [n, d], K classes, m_k their centroids, n_k their rows; W is the sum of squared
distances of all rows to their own centroid, B the sum over k of n_k |m_k - m|^2.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from interp.errors import DataError, ShapeError, UndefinedMeasure
from probes.distances import Distances, distances

__all__ = [
    "Clusters",
    "Moments",
    "Spreads",
    "blocks",
    "calinski_harabasz",
    "codes",
    "davies_bouldin",
    "dunn",
    "silhouette",
    "xie_beni",
]

BLOCK = 1024
"""Rows that are in float64 at a time: 32 MiB a copy at width 4,096."""
EQUAL = 1e-12
"""Centroids, or a class's rows, this close relative to the size of the data are one point."""


# ---- one pass: counts, centroids, sums of squares


@dataclass(frozen=True)
class Clusters:
    """What `Moments` found.

    Attributes
    ----------
    classes : names of the classes, in rising order.
    counts : [K] rows of each.
    centroids : [K, d] float64.
    squares : [K] sum of squared distances of a class's rows to its centroid.
    size : root mean square norm of the rows: what "equal" is relative to.
    not_finite : rows with a nan or inf, which are in none of the above.
    """

    classes: tuple[Any, ...]
    counts: NDArray
    centroids: NDArray
    squares: NDArray
    size: float
    not_finite: int

    @property
    def n(self) -> int:
        """Rows counted."""
        return int(self.counts.sum())

    @property
    def within(self) -> float:
        """W, the sum of squared distances of all rows to their own centroid."""
        return float(self.squares.sum())

    @property
    def gaps(self) -> NDArray:
        """Squared distances [K, K] of the centroids."""
        return ((self.centroids[:, None] - self.centroids[None]) ** 2).sum(2)

    @property
    def closest(self) -> float:
        """Least squared distance of two centroids."""
        gaps = self.gaps
        return float(gaps[np.triu_indices(len(gaps), 1)].min())

    def why_not(self) -> str | None:
        """Why no index is defined on these rows; None where they are."""
        k = len(self.classes)
        if self.not_finite:
            return f"{self.not_finite:,} rows are not finite."
        if self.n == 0:
            return "there are no rows."
        if k < 2:
            return f"there is one class only ({self.classes[0]!r}); separation needs two."
        if self.n <= k:
            return f"each of the {k} classes has one row, so none has any spread."
        if self.within <= self.n * (EQUAL * self.size) ** 2:
            return "the rows of each class are one repeated point, so no class has any spread."
        return None

    def touching(self) -> str | None:
        """Which two centroids coincide, in words; None where all differ."""
        gaps = self.gaps
        rows, columns = np.triu_indices(len(gaps), 1)
        at = int(gaps[rows, columns].argmin())
        a, b = int(rows[at]), int(columns[at])
        if gaps[a, b] > (EQUAL * self.size) ** 2:
            return None
        return f"the centroids of {self.classes[a]!r} and {self.classes[b]!r} coincide."

    def calinski_harabasz(self) -> float:
        """The index of `calinski_harabasz`, without its warnings."""
        k, n = len(self.classes), self.n
        if self.why_not():
            return float("nan")
        mean = self.counts @ self.centroids / n
        between = float(self.counts @ ((self.centroids - mean) ** 2).sum(1))
        return between / (k - 1) / (self.within / (n - k))

    def xie_beni(self) -> float:
        """The index of `xie_beni`, without its warnings."""
        if self.why_not() or self.touching():
            return float("nan")
        return self.within / (self.n * self.closest)


class Moments:
    """Counts, centroids and sums of squares of classes, a batch of rows at a time.

    Batches may come in any order and size, and `merge` joins what was counted apart: Chan's update,
    in float64, so all agree to rounding. Memory: K vectors of width d and one block of rows.
    """

    def __init__(self) -> None:
        self._held: dict[Any, tuple[int, Tensor, float]] = {}
        self._squared_norms = 0.0
        self._bad = 0

    def update(self, X: Any, y: ArrayLike) -> Self:
        """Count a batch: X [n, d], a class a row."""
        names, y = codes(y, len(X))
        for start, block in blocks(X):
            part, finite = y[start : start + len(block)], torch.isfinite(block).all(1)
            self._bad += int((~finite).sum())
            for k in np.unique(part).tolist():
                mine = block[torch.from_numpy(part == k).to(block.device) & finite]
                if len(mine):
                    mean = mine.mean(0)
                    self._squared_norms += float(mine.square().sum())
                    squares = float((mine - mean).square().sum())
                    self._join(names[k], len(mine), mean, squares)
                elif names[k] not in self._held:
                    self._held[names[k]] = (0, torch.zeros_like(block[0]), 0.0)
        return self

    def merge(self, other: "Moments") -> Self:
        """Add what another has counted."""
        for name, (n, mean, squares) in other._held.items():
            self._join(name, n, mean, squares)
        self._squared_norms += other._squared_norms
        self._bad += other._bad
        return self

    def result(self) -> Clusters:
        """What was counted so far."""
        names = sorted(self._held)
        held = [self._held[name] for name in names]
        n = sum(h[0] for h in held)
        return Clusters(
            classes=tuple(names),
            counts=np.array([h[0] for h in held]),
            centroids=np.array([h[1].cpu().numpy() for h in held]),
            squares=np.array([h[2] for h in held]),
            size=float(np.sqrt(self._squared_norms / n)) if n else 0.0,
            not_finite=self._bad,
        )

    def _join(self, name: Any, n: int, mean: Tensor, squares: float) -> None:
        was, old, before = self._held.get(name, (0, mean, 0.0))
        total = was + n
        if len(old) != len(mean):
            raise ShapeError(f"batches have widths {len(old)} and {len(mean)}; give one width.")
        step = mean - old
        between = float(step.square().sum()) * was * n / max(total, 1)
        self._held[name] = (total, old + step * (n / max(total, 1)), before + squares + between)


class Spreads:
    """Mean distance of each class's rows to its centroid: a second pass, after `Moments`."""

    def __init__(self, clusters: Clusters) -> None:
        self.clusters = clusters
        self._sums = np.zeros(len(clusters.classes))

    def update(self, X: Any, y: ArrayLike) -> Self:
        """Add a batch: X [n, d], a class a row, of those that were counted."""
        names, y = codes(y, len(X))
        place = {name: i for i, name in enumerate(self.clusters.classes)}
        known = np.array([place[name] for name in names])[y]
        for start, block in blocks(X):
            part = known[start : start + len(block)]
            for k in np.unique(part).tolist():
                mine = block[torch.from_numpy(part == k).to(block.device)]
                centre = torch.from_numpy(self.clusters.centroids[k]).to(block.device)
                self._sums[k] += float((mine - centre).norm(dim=1).sum())
        return self

    def merge(self, other: "Spreads") -> Self:
        """Add what another has summed about the same centroids."""
        self._sums += other._sums
        return self

    def result(self) -> float:
        """The Davies-Bouldin index; nan where it is undefined (`davies_bouldin`)."""
        if self.clusters.why_not() or self.clusters.touching():
            return float("nan")
        s = self._sums / self.clusters.counts
        gaps = np.sqrt(self.clusters.gaps)
        np.fill_diagonal(gaps, np.inf)
        return float(((s[:, None] + s[None]) / gaps).max(1).mean())


# ---- the five indices


def calinski_harabasz(X: Any, y: ArrayLike) -> float:
    """``[B / (K - 1)] / [W / (n - K)]``, the variance ratio: the F of the class means.

    For two classes ``CHI * XBI = n1 n2 (n - 2) / n^2`` (`xie_beni`): given the counts, each of the
    two indices says what the other says, and CHI grows with n.

    Parameters
    ----------
    X : [n, d] array, tensor, or matrix of a store.
    y : [n] classes: whole numbers, bools or texts.

    Range: 0 up, higher is better; about 1 for labels without meaning. Grows with n: two data sets
    of different n are not comparable.
    Degenerate: nan with `UndefinedMeasure` for one class, n = K, rows that are not finite, and
    classes that are one repeated point each (scikit-learn gives 1 there). Equal centroids give 0.
    Source: Calinski and Harabasz 1974.
    """
    found = Moments().update(X, y).result()
    return _warned("the Calinski-Harabasz index", found.calinski_harabasz(), found.why_not())


def xie_beni(X: Any, y: ArrayLike) -> float:
    """``W / (n min_{i<j} |m_i - m_j|^2)``: spread within over the gap of the nearest centroids.

    For two classes ``CHI * XBI = n1 n2 (n - 2) / n^2`` (`calinski_harabasz`).

    Parameters
    ----------
    X, y : as for `calinski_harabasz`.

    Range: 0 up, lower is better. Does not grow with n, but noise in the centroids lowers it where
    classes have few rows beside many dimensions.
    Degenerate: nan with `UndefinedMeasure` as for `calinski_harabasz`, and for equal centroids,
    towards which it grows without bound.
    Source: Xie and Beni 1991, with hard labels.
    """
    found = Moments().update(X, y).result()
    why = found.why_not() or found.touching()
    return _warned("the Xie-Beni index", found.xie_beni(), why)


def davies_bouldin(X: Any, y: ArrayLike) -> float:
    """``mean_k max_{j != k} (s_k + s_j) / |m_k - m_j|``, s_k the mean distance to the centroid.

    Reads the rows twice: for the centroids, then for the distances to them.

    Parameters
    ----------
    X, y : as for `calinski_harabasz`.

    Range: 0 up, lower is better.
    Degenerate: nan with `UndefinedMeasure` as for `xie_beni`.
    Source: Davies and Bouldin 1979.
    Differs: scikit-learn gives 0, the best score, where centroids coincide; here that is nan.
    """
    found = Moments().update(X, y).result()
    why = found.why_not() or found.touching()
    value = float("nan") if why else Spreads(found).update(X, y).result()
    return _warned("the Davies-Bouldin index", value, why)


def dunn(X: Any, y: ArrayLike) -> float:
    """Least distance of two rows of different classes over the greatest of two of one class.

    Parameters
    ----------
    X, y : as for `calinski_harabasz`.

    Range: 0 up, higher is better; 0 where two classes share a point. It rests on two pairs of rows,
    falls as n grows, and one outlier decides it.
    Degenerate: nan with `UndefinedMeasure` as for `calinski_harabasz`.
    Error: as `probes.distances.distances` says.
    Source: Dunn 1974.
    """
    found, why = _pairs(X, y)
    return _warned("the Dunn index", float("nan") if why else found.dunn(), why)


def silhouette(X: Any, y: ArrayLike) -> float:
    """Mean over rows of ``(b - a) / max(a, b)``: how much nearer the own class is than the next.

    a is a row's mean distance to the other rows of its class, b the least mean distance to the rows
    of another class. A row that is alone in its class counts as 0, as does one with a = b = 0.

    Parameters
    ----------
    X, y : as for `calinski_harabasz`.

    Range: -1 to 1, higher is better; about 0 for labels without meaning.
    Degenerate: nan with `UndefinedMeasure` as for `calinski_harabasz`.
    Error: as `probes.distances.distances` says.
    Source: Rousseeuw 1987.
    """
    found, why = _pairs(X, y)
    return _warned("the silhouette", float("nan") if why else found.silhouette(), why)


# ---- what they share


def codes(y: ArrayLike, n: int) -> tuple[list[Any], NDArray]:
    """Names of the classes in rising order, and the place of each row's class among them.

    Raises
    ------
    ShapeError
        There is not one class a row.
    DataError
        A class is missing (nan, None), or numbers and texts are mixed.
    """
    y = y.detach().cpu().numpy() if isinstance(y, Tensor) else np.asarray(y)
    if y.shape != (n,):
        raise ShapeError(f"y must have one class a row, [{n}]; got {list(y.shape)}.")
    missing = [v for v in y.tolist() if v is None or v != v]
    if missing:
        raise DataError(f"{len(missing):,} rows have no class; leave them out of X and y.")
    try:
        names, place = np.unique(y, return_inverse=True)
    except TypeError:
        raise DataError("classes are all numbers or all texts; y mixes them.") from None
    return names.tolist(), place


def blocks(X: Any, size: int = BLOCK) -> Iterator[tuple[int, Tensor]]:
    """The rows of a matrix in float64, some at a time, each block with the place where it starts.

    Raises
    ------
    ShapeError
        X is no matrix.
    """
    if not hasattr(X, "ndim"):
        X = np.asarray(X)
    if X.ndim != 2:
        raise ShapeError(f"X must be a matrix [rows, width]; got {list(X.shape)}.")
    for start in range(0, len(X), size):
        part = X[start : start + size]
        yield start, torch.as_tensor(part).detach().to(torch.float64)


def _pairs(X: Any, y: ArrayLike) -> tuple[Distances, str | None]:
    """Distances by class, and why they say nothing, which is found before they are computed."""
    found = Moments().update(X, y).result()
    why = found.why_not()
    place = codes(y, len(X))[1]
    return (Distances(place) if why else distances(X, place)), why


def _warned(name: str, value: float, why: str | None) -> float:
    if why is not None:
        warnings.warn(f"{name} is undefined: {why}", UndefinedMeasure, stacklevel=3)
    return value
