"""Prototypes of a layer: a few points that stand for its rows, and the examples nearest to them."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from interp.errors import ParameterError, ShapeError
from interp.results import Result
from probes.clusters import codes
from probes.layers import as_layers, origin, rows_float64

__all__ = ["Distortion", "Prototypes", "prototype_distances", "prototypes"]

How = Literal["medoids", "centroids"]
BLOCK = 2048


@dataclass(frozen=True, kw_only=True)
class Prototypes(Result):
    """k prototypes of a layer and how well they stand for its rows.

    Attributes
    ----------
    vectors : [k, d] the prototypes.
    r1 : mean over prototypes of the squared distance to the nearest row; 0 for medoids, high where
        prototypes lie in the void.
    r2 : mean over rows of the squared distance to the nearest prototype; lower covers better.
    variance : mean squared distance of rows to their mean, which is r2 of that one prototype.
    nearest : [k] row that is nearest to each prototype.
    sizes : [k] rows nearest to each; 0 is a dead one.
    classes : names of the classes, empty without labels.
    counts : [k, classes] rows of each class among those nearest to each prototype.
    how : ``medoids`` or ``centroids``, or ``given``.
    """

    kind: ClassVar[str] = "prototypes"

    vectors: NDArray
    r1: float
    r2: float
    variance: float
    nearest: NDArray
    sizes: NDArray
    classes: tuple[str, ...]
    counts: NDArray
    how: str

    @property
    def purity(self) -> float:
        """Share of rows of the class that their prototype has most of; nan without labels."""
        return float(self.counts.max(1).sum() / self.n) if self.counts.size else float("nan")

    def to_frame(self) -> pd.DataFrame:
        """A row a prototype."""
        return pd.DataFrame(
            {"prototype": np.arange(len(self.sizes)), "rows": self.sizes, "nearest": self.nearest}
            | {name: self.counts[:, i] for i, name in enumerate(self.classes)}
        )

    def metrics(self) -> dict[str, Any]:
        """Numbers and names for ``metrics.json``."""
        names = ("n", "how", "r1", "r2", "variance", "purity", "nearest", "sizes", "classes",
                 "counts", "reasons")  # fmt: skip
        return {name: getattr(self, name) for name in names}


class Distortion:
    """Squared distances of rows to prototypes, a batch of rows at a time.

    Batches come in the order of the rows; `merge` adds what was seen of later rows.
    """

    def __init__(self, vectors: Tensor) -> None:
        self.vectors = vectors.double()
        k = len(vectors)
        self.least = torch.full((k,), torch.inf, dtype=torch.float64, device=vectors.device)
        self.nearest = torch.full((k,), -1, dtype=torch.long, device=vectors.device)
        self.total, self.n = 0.0, 0
        self.place: list[Tensor] = []

    def update(self, X: Tensor) -> "Distortion":
        """Add a batch [c, d]."""
        shift = self.vectors.mean(0)
        x, p = X.double() - shift, self.vectors - shift
        squared = x.square().sum(1)[:, None] - 2 * x @ p.T + p.square().sum(1)
        squared.clamp_min_(0)
        least, row = squared.min(0)
        # The expansion has rounding of its own; what is nearest is measured again, by difference.
        least = (x[row] - p).square().sum(1)
        own, place = squared.min(1)
        own = (x - p[place]).square().sum(1)
        better = least < self.least
        self.nearest = torch.where(better, row + self.n, self.nearest)
        self.least = torch.where(better, least, self.least)
        self.total += float(own.sum())
        self.n += len(X)
        self.place.append(place)
        return self

    def merge(self, other: "Distortion") -> "Distortion":
        """Add what another has seen of the rows that follow, with the same prototypes."""
        better = other.least < self.least
        self.nearest = torch.where(better, other.nearest + self.n, self.nearest)
        self.least = torch.minimum(self.least, other.least)
        self.total, self.n = self.total + other.total, self.n + other.n
        self.place += other.place
        return self

    def result(self) -> tuple[float, float, NDArray, NDArray]:
        """R1, R2, the row nearest to each prototype, and the prototype nearest to each row."""
        place = torch.cat(self.place).cpu().numpy()
        return float(self.least.mean()), self.total / self.n, self.nearest.cpu().numpy(), place


def prototype_distances(X: Any, vectors: Any) -> tuple[float, float, NDArray, NDArray]:
    """R1, R2, the row nearest to each prototype, and the prototype nearest to each row.

    ``R1 = mean_j min_i |p_j - x_i|^2`` and ``R2 = mean_i min_j |p_j - x_i|^2``.

    Range: 0 up, lower is better; in squared units of X. R1 falls as rows are added.
    Invariance: to rotation and translation of both; they scale with the square of X.
    Source: Li et al., arXiv 1710.04806, equations 2 and 3. Differs: over all rows, not a batch.
    """
    vectors = torch.as_tensor(vectors)
    if vectors.ndim != 2 or not len(vectors) or vectors.shape[1] != X.shape[1]:
        raise ShapeError(
            f"prototypes are [k, {X.shape[1]}] for rows of that width; got {list(vectors.shape)}."
        )
    found: Distortion | None = None
    for start in range(0, len(X), BLOCK):
        block = rows_float64(X, start, start + BLOCK)
        found = found or Distortion(vectors.to(block.device))
        found.update(block)
    assert found is not None  # noqa: S101  the caller has counted the rows
    return found.result()


def prototypes(
    X: Any,
    k: int = 15,
    y: ArrayLike | None = None,
    *,
    how: How = "medoids",
    vectors: Any = None,
    seed: int = 0,
    name: str = "prototypes",
) -> Prototypes:
    """Prototypes of a layer's rows, with R1, R2, the nearest example and the classes of each.

    Parameters
    ----------
    X : [n, d] array, tensor, or matrix of a store.
    k : prototypes.
    y : [n] classes, or None.
    how : ``"medoids"``: the rows nearest to the centroids of k-means; ``"centroids"`` themselves.
    vectors : [k, d] prototypes that you have; nothing is fitted then.
    seed : of k-means.

    Range: r1 and r2 0 up, lower is better; compare r2 with ``variance``.
    Degenerate: nan with the reason for rows that are not finite. Fewer distinct rows than k give
    prototypes without rows of their own (sizes 0).
    Cost: n k d; k-means about twenty passes of it. n d 8 bytes.
    Source: Li et al., arXiv 1710.04806; 15 prototypes there. Differs: chosen after training, from
    captured activations, where theirs are learned with a decoder.
    """
    layer = next(iter(as_layers(X).values()))
    n, d = layer.shape
    if how not in get_args(How) or (vectors is None and not 1 <= k <= n):
        raise ParameterError(
            f"prototypes takes how medoids or centroids and k from 1 to n = {n}; got {how!r}, {k}."
        )
    names, place_of = ([], np.zeros(n, dtype=np.int64)) if y is None else codes(y, n)
    x = rows_float64(layer, 0, n).cpu().numpy()
    bad = int((~np.isfinite(x).all(1)).sum())
    if vectors is not None:
        vectors = np.asarray(vectors.cpu() if isinstance(vectors, Tensor) else vectors, np.float64)
        k = len(vectors)
        if not np.isfinite(vectors).all():
            raise ParameterError("prototypes needs vectors that are finite; some are not.")
    common = {
        "name": name,
        "n": n,
        "provenance": origin(X, seed=seed, k=k),
        "classes": tuple(str(c) for c in names),
        "how": how if vectors is None else "given",
    }
    if bad:
        nan = float("nan")
        return Prototypes(
            **common, r1=nan, r2=nan, variance=nan, vectors=np.full((k, d), np.nan),
            nearest=np.full(k, -1), sizes=np.zeros(k, dtype=np.int64),
            counts=np.zeros((k, len(names)), dtype=np.int64),
            reasons={"r1": f"{bad:,} rows are not finite.", "r2": f"{bad:,} rows are not finite."},
        )  # fmt: skip
    if vectors is None:
        vectors = _centroids(x, k, seed)
        if how == "medoids":
            vectors = x[prototype_distances(x, vectors)[2]]
    vectors = np.asarray(vectors, dtype=np.float64)
    r1, r2, nearest, place = prototype_distances(x, vectors)
    counts = np.zeros((len(vectors), len(names)), dtype=np.int64)
    if names is not None and len(names):
        np.add.at(counts, (place, place_of), 1)
    return Prototypes(
        **common,
        vectors=vectors,
        r1=r1,
        r2=r2,
        variance=float(((x - x.mean(0)) ** 2).sum(1).mean()),
        nearest=nearest,
        sizes=np.bincount(place, minlength=len(vectors)),
        counts=counts,
    )


def _centroids(x: NDArray, k: int, seed: int) -> NDArray:
    import warnings

    from sklearn.cluster import KMeans

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fewer distinct rows than k: sizes of 0 say so
        return KMeans(k, random_state=seed).fit(x).cluster_centers_
