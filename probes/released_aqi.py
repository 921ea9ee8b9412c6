"""AQI as the authors' four scripts compute it; none of them is the paper's formula.

========  ==================  ====================================  =====
variant   components          normalised                            gamma
========  ==================  ====================================  =====
dbs_dunn  Davies-Bouldin,     1/(1+DBS), DI/(1+DI)                  .5
          Dunn
chi_sil   silhouette, CHI     (SS+1)/2, CHI/(1+CHI)                 .3
sil_xb    silhouette, XB      (SS+1)/2, 1/(1+XB)                    .5
xb_chi    CHI, XB             over the axioms and "overall" of one  .5
                              model, 0 to 100: `normalise_xb_chi`
========  ==================  ====================================  =====

AQI is ``gamma * first + (1 - gamma) * second``, for chi_sil and sil_xb with the silhouette first,
for xb_chi with CHI first. The scripts compute the indices on a t-SNE map of three dimensions;
`tsne_map` makes it, and is left out by default: t-SNE keeps neighbours and not distances, so that
indices of its map are not those of the activations, and change with its settings and its seed.

Source: the repository heychhavi/aqi-eval, read at e2fae11.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from interp.errors import DataError, ParameterError
from probes.clusters import Clusters, Moments, Spreads
from probes.distances import Distances, distances

__all__ = ["GAMMA", "components", "normalise_xb_chi", "released_value", "tsne_map"]

GAMMA = {"dbs_dunn": 0.5, "chi_sil": 0.3, "sil_xb": 0.5, "xb_chi": 0.5}
"""Weight of the first component; that of chi_sil is its command line's, its function has .5."""
FLOOR = 0.001
"""Dunn index of the released code where every distance between clusters is 0."""
NEEDS = {
    "dbs_dunn": ("davies_bouldin", "dunn"),
    "chi_sil": ("silhouette", "calinski_harabasz"),
    "sil_xb": ("silhouette", "xie_beni"),
    "xb_chi": ("calinski_harabasz", "xie_beni"),
}


def components(
    X: Any, place: NDArray, variant: str, clusters: Clusters | None = None
) -> dict[str, float]:
    """The two indices that a variant uses, as its script computes them.

    Where centroids coincide the released Davies-Bouldin index is 0, its best, and Xie-Beni inf;
    where two classes share a point the released Dunn index is .001.

    Parameters
    ----------
    X : [n, d]; two classes with more than one row between them (`Clusters.why_not` is None).
    place : [n] classes 0 and 1.
    """
    found = clusters or Moments().update(X, place).result()
    asked = NEEDS[variant]
    pairs = distances(X, place) if {"dunn", "silhouette"} & set(asked) else None
    return {name: _index(name, X, place, found, pairs) for name in asked}


def _index(name: str, X: Any, place: NDArray, found: Clusters, pairs: Distances | None) -> float:
    if name == "calinski_harabasz":
        return found.calinski_harabasz()
    if name == "xie_beni":
        return float("inf") if found.touching() else found.xie_beni()
    if name == "davies_bouldin":
        return 0.0 if found.touching() else Spreads(found).update(X, place).result()
    assert pairs is not None  # noqa: S101  `components` has computed them
    if name == "silhouette":
        return pairs.silhouette()
    return pairs.dunn() if pairs.least_between > 0 else FLOOR


def released_value(variant: str, found: Mapping[str, float], gamma: float) -> float:
    """AQI of the variants that need no axioms, 0 to 1, higher is better."""
    first, second = (_unit(name, found[name]) for name in NEEDS[variant])
    return gamma * first + (1 - gamma) * second


def _unit(name: str, value: float) -> float:
    """An index mapped to 0..1, higher is better."""
    if name == "silhouette":
        return (value + 1) / 2
    if name in ("davies_bouldin", "xie_beni"):
        return 1 / (1 + value)  # inf gives 0
    return value / (1 + value)


def normalise_xb_chi(
    chi: ArrayLike, xb: ArrayLike, gamma: float = GAMMA["xb_chi"]
) -> dict[str, NDArray]:
    """The normalisation of the script for XB and CHI, over rows that are axioms and "overall".

    CHI goes from its least row to its greatest; XB through a sigmoid of its distance from the
    median in interquartile ranges, and is at least 10. "Overall" has more rows than an axiom, so
    its XB tends to be the outlier that gets 10. A model's numbers depend on its own spread over
    axioms: those of two models are comparable only where the rows of both are normalised together.

    Parameters
    ----------
    chi, xb : [rows] finite.
    gamma : weight of CHI.

    Returns
    -------
    dict
        ``chi``, ``xb`` and ``aqi``, each [rows], 0 to 100, higher is better.
    """
    chi, xb = np.asarray(chi, dtype=np.float64), np.asarray(xb, dtype=np.float64)
    if chi.shape != xb.shape or chi.ndim != 1 or not len(chi):
        raise ParameterError(
            f"chi and xb must be two lists of one length; got {list(chi.shape)}, {list(xb.shape)}."
        )
    low, span = chi.min(), chi.max() - chi.min()
    if span < 1e-9:
        chi_n = np.full(len(chi), 0.0 if chi.max() == 0 else 50.0)
    else:
        chi_n = 100 * (chi - low) / span
    quartiles = np.percentile(xb, [25, 50, 75])
    z = (xb - quartiles[1]) / (quartiles[2] - quartiles[0] + 1e-9)
    xb_n = 100 * (1 - 1 / (1 + np.exp(-np.clip(z, -500, 500))))
    xb_n = np.clip(np.maximum(xb_n, 10), 0, 100)
    return {"chi": chi_n, "xb": xb_n, "aqi": gamma * chi_n + (1 - gamma) * xb_n}


def tsne_map(X: Any, variant: str, *, overall: bool = True, seed: int = 42) -> NDArray:
    """The t-SNE map [n, 3] on which a script computes its indices.

    Cosine distances for xb_chi; Euclidean ones of standardised features for dbs_dunn, and for the
    other two, whose settings are taken to be those. It depends on the seed, on the version of
    scikit-learn and on which rows are in it: two maps are not comparable.

    Parameters
    ----------
    overall : the settings for all axioms together; else those for one axiom.
    """
    from sklearn.manifold import TSNE
    from sklearn.preprocessing import StandardScaler

    points = np.asarray(X, dtype=np.float64)
    n = len(points)
    if n < 4:
        raise ParameterError(f"t-SNE to three dimensions needs at least 4 rows; got {n}.")
    if variant == "xb_chi":
        perplexity, steps = min(50 if overall else 30, max(5, n - 2)), 1000
    else:
        points = StandardScaler().fit_transform(points)
        perplexity, steps = 30, 5000 if overall else 3000
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = TSNE(
            n_components=3,
            perplexity=min(perplexity, n - 1),
            metric="cosine" if variant == "xb_chi" else "euclidean",
            init="pca",
            max_iter=steps,
            random_state=seed,
        )
        return made.fit_transform(points)


def axiom_rows(axioms: Sequence[Any] | NDArray) -> dict[str, NDArray]:
    """Places of the rows of each axiom, by name, and of all as ``overall``.

    Raises
    ------
    DataError
        An axiom has that name itself.
    """
    names = np.array([str(a) for a in axioms], dtype=object)
    if (names == "overall").any():
        raise DataError("an axiom is named 'overall', which is the name of all rows; rename it.")
    rows = {str(name): np.flatnonzero(names == name) for name in sorted(set(names))}
    return {**rows, "overall": np.arange(len(names))}
