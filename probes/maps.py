"""Maps of activations in two dimensions: for the eye, never for a number."""

import importlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from threadpoolctl import threadpool_limits

from interp.errors import DataError, ParameterError, ShapeError
from interp.results import Result
from interp.runs import versions

__all__ = ["ClusterMap", "cluster_map"]

METHODS = ("tsne", "umap")
MOST = 2_000
"""Rows of a map; of more a sample is drawn."""
FEWEST = 10
BEFORE = 50
"""Principal components that are mapped."""


@dataclass(frozen=True, kw_only=True)
class ClusterMap(Result):
    """Where a map puts rows. Distances and gaps in it mean little: it is for the eye only.

    Attributes
    ----------
    method : ``tsne`` or ``umap``.
    xy : [m, 2] places.
    rows : [m] which rows of the matrix they are.
    labels : [m] class of each.
    texts : [m] what each is, clipped, or empty.
    settings : of the method.
    """

    kind: ClassVar[str] = "cluster_map"

    method: str
    xy: NDArray
    rows: NDArray
    labels: tuple[str, ...]
    texts: tuple[str, ...]
    settings: dict[str, Any]
    hookpoint: str | None = None
    notes: tuple[str, ...] = ()

    def to_frame(self) -> pd.DataFrame:
        """A row a point."""
        columns = {"row": self.rows, "x": self.xy[:, 0], "y": self.xy[:, 1], "label": self.labels}
        return pd.DataFrame(columns | ({"text": self.texts} if self.texts else {}))

    def metrics(self) -> dict[str, Any]:
        """What was drawn; a map has no number worth comparing."""
        return {"method": self.method, "rows": len(self.rows), "hookpoint": self.hookpoint}


def cluster_map(
    X: Any,
    labels: ArrayLike,
    *,
    method: str = "tsne",
    texts: Sequence[str] | None = None,
    seed: int = 0,
    name: str = "map",
    hookpoint: str | None = None,
) -> ClusterMap:
    """A t-SNE or UMAP map of the rows, in two dimensions.

    Rows are taken less their mean and reduced to 50 principal components first.

    Parameters
    ----------
    X : [n, d] activations, at least 10 rows; of more than 2,000 a random sample is mapped.
    labels : [n] class of each row, for its colour. The map does not read it.
    method : ``tsne`` or ``umap``.
    texts : [n] shown beside each point.
    seed : of the sample and the map.

    Raises
    ------
    DataError
        There are too few rows, or one is not finite.
    """
    if method not in METHODS:
        raise ParameterError(f"method must be one of {', '.join(METHODS)}; got {method!r}.")
    names = np.asarray(labels).astype(str)
    n = len(X)
    if names.shape != (n,) or (texts is not None and len(texts) != n):
        raise ShapeError(f"labels and texts have one entry a row, {n}; got {len(names)} labels.")
    if n < FEWEST:
        raise DataError(f"a map needs at least {FEWEST} rows; got {n}.")
    rows = np.arange(n)
    if n > MOST:
        rows = np.sort(np.random.default_rng(seed).choice(n, MOST, replace=False))
    points = np.asarray(X[rows] if n > MOST else X, dtype=np.float64)
    if not np.isfinite(points).all():
        raise DataError("a map needs finite rows; leave the others out.")
    xy, settings = _place(points, method, seed)
    notes = [f"A sample of {len(rows):,} of {n:,} rows."] if n > MOST else []
    return ClusterMap(
        name=name,
        n=len(rows),
        provenance={"seed": seed, "versions": versions()},
        method=method,
        xy=xy.astype(np.float32),
        rows=rows,
        labels=tuple(names[rows].tolist()),
        texts=tuple(str(texts[i])[:120] for i in rows.tolist()) if texts is not None else (),
        settings=settings,
        hookpoint=hookpoint,
        notes=tuple(notes),
    )


def _place(points: NDArray, method: str, seed: int) -> tuple[NDArray, dict[str, Any]]:
    from sklearn.decomposition import PCA

    n, width = points.shape
    kept = min(BEFORE, n - 1, width)
    reduced = PCA(kept, svd_solver="full" if kept < BEFORE else "randomized", random_state=seed)
    settings: dict[str, Any] = {"components": kept, "seed": seed}
    # One thread: UMAP raises their number, and a t-SNE after it waits for them most of its time.
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore")  # constant columns, and UMAP's word on its threads
        points = reduced.fit_transform(points)
        if method == "tsne":
            from sklearn.manifold import TSNE

            settings |= {"perplexity": min(30, (n - 1) // 3), "metric": "euclidean"}
            made = TSNE(2, perplexity=settings["perplexity"], init="random", random_state=seed)
            return made.fit_transform(points), settings
        umap = importlib.import_module("umap")
        settings |= {"n_neighbors": min(15, n - 1), "min_dist": 0.1}
        made = umap.UMAP(n_neighbors=settings["n_neighbors"], min_dist=0.1, random_state=seed)
        return np.asarray(made.fit_transform(points)), settings
