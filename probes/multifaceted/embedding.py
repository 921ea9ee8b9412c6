"""Codes -> 50 principal components -> a map of two dimensions in which groups are looked for."""

import importlib
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from threadpoolctl import threadpool_limits

from interp.errors import ParameterError

__all__ = ["EMBEDS", "Components", "components", "place"]

EMBEDS = ("tsne", "umap", "pca")
COMPONENTS = 50
FLAT = 1e-9
"""Codes whose spread is this small beside their size are one point."""


@dataclass(frozen=True)
class Components:
    """Codes in their principal axes.

    Attributes
    ----------
    points : [n, c] float64, their mean taken off, the widest axis first.
    axes : [c, d] orthonormal rows; ``points = (codes - mean) @ axes.T``.
    mean : [d].
    share : of the codes' variance that the c axes hold, 0 to 1; nan for constant codes.
    """

    points: NDArray
    axes: NDArray
    mean: NDArray
    share: float

    @property
    def constant(self) -> bool:
        """Whether all codes are one point."""
        return self.points.shape[1] == 0

    def project(self, codes: ArrayLike) -> NDArray:
        """Other codes [m, d] in the same axes."""
        return (np.asarray(codes, dtype=np.float64) - self.mean) @ self.axes.T


def components(codes: ArrayLike, most: int = COMPONENTS) -> Components:
    """The principal components of codes [n, d], at most ``most``, fewer where the rank is lower.

    An axis points to where its largest entry is positive, so that equal codes give equal axes.

    Degenerate: codes that are one point have no axis.
    """
    X = np.asarray(codes, dtype=np.float64)
    mean = X.mean(0) if len(X) else np.zeros(X.shape[1])
    centred = X - mean
    total = float((centred**2).sum())
    size = float((X**2).sum())
    if not len(X) or total <= FLAT**2 * size:
        return Components(np.zeros((len(X), 0)), np.zeros((0, X.shape[1])), mean, float("nan"))
    with threadpool_limits(1):
        if X.shape[1] <= len(X):
            values, vectors = np.linalg.eigh(centred.T @ centred)
            axes = vectors.T[::-1]
        else:
            values, vectors = np.linalg.eigh(centred @ centred.T)
            root = np.sqrt(np.maximum(values, np.finfo(float).tiny))
            axes = (centred.T @ (vectors / root)).T[::-1]
    values = values[::-1]
    kept = min(most, int((values > FLAT**2 * values[0]).sum()))
    axes = axes[:kept]
    at = np.abs(axes).argmax(1)
    axes = axes * np.sign(axes[np.arange(kept), at])[:, None]
    return Components(centred @ axes.T, axes, mean, float(values[:kept].sum() / total))


def place(
    points: NDArray, how: str, *, seed: int = 0, start: str = "pca"
) -> tuple[NDArray, dict[str, Any]]:
    """Places [n, 2] of rows, and the settings of the map.

    Parameters
    ----------
    points : [n, c] principal components.
    how : ``tsne``, ``umap``, or ``pca``, the first two components.
    seed : of the map.
    start : of t-SNE: ``pca`` or ``random``.
    """
    n = len(points)
    if how not in EMBEDS:
        raise ParameterError(f"embed must be one of {', '.join(EMBEDS)}; got {how!r}.")
    if how == "pca" or n < 5 or points.shape[1] < 2:
        flat = np.zeros((n, 2))
        flat[:, : min(2, points.shape[1])] = points[:, :2]
        return flat, {"embed": "pca"}
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore")  # UMAP's word on its threads
        if how == "tsne":
            from sklearn.manifold import TSNE

            settings: dict[str, Any] = {"embed": how, "perplexity": min(30, (n - 1) // 3),
                                        "start": start, "steps": 1000}  # fmt: skip
            made = TSNE(
                2, perplexity=settings["perplexity"], init=start, random_state=seed,
                max_iter=settings["steps"],
            )  # fmt: skip
            return np.asarray(made.fit_transform(points), dtype=np.float64), settings
        umap = importlib.import_module("umap")
        settings = {"embed": how, "n_neighbors": min(15, n - 1), "min_dist": 0.0}
        made = umap.UMAP(
            n_neighbors=settings["n_neighbors"], min_dist=0.0, random_state=seed, n_jobs=1
        )
        return np.asarray(made.fit_transform(points), dtype=np.float64), settings
