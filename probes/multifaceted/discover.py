"""The groups in the codes of the inputs that fire one unit, and whether there is more than one."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import pdist, squareform

from interp.errors import DataError, ParameterError, ShapeError
from probes.multifaceted.embedding import EMBEDS, Components, components, place
from probes.multifaceted.grouping import CLUSTERS, group, k_means, silhouette_of, silhouettes
from probes.multifaceted.null import gaussian_null, valley

__all__ = ["MODES", "Grouping", "adjusted_rand_index", "check_options", "find_facets", "purity"]

MODES = ("recommended", "paper")
PAPER_FACETS = 10
NEAREST = 15
KS = tuple(range(2, 11))
"""Numbers of facets that are tried."""
LEVEL = 0.05
"""p value up to which both tests must go for more than one facet to be found."""
MOST = 10_000
"""Rows at most, whose distances from one another take 8 bytes a pair."""
FEWEST = 20
"""Inputs below which the tests say nothing."""
DRAWS = 99


@dataclass(frozen=True)
class Grouping:
    """What `find_facets` found.

    Attributes
    ----------
    labels : [n] facet of each row, the largest first; -1 is HDBSCAN's noise.
    xy : [n, 2] places in the map.
    parts : the principal components of the codes.
    nearest : [k, m] rows nearest to each facet's centre, the nearest first; -1 where it has fewer.
    centres : [k, d] mean code of each facet's rows.
    tightness : [k] 1 less the facet's mean squared distance to its centre over that of all rows to
        theirs. Range: at most 1, higher is tighter; 0 is as spread as all rows.
    silhouettes : [k] mean silhouette of a facet's rows in the map.
    silhouette, code_silhouette : of all rows, in the map and in the principal components.
    control : ``agreement``, the adjusted Rand index of the labels with k-means of as many groups in
        the principal components, where distances mean something; ``silhouette`` of that.
    control_labels : [n] those groups.
    tried : silhouette in the map by number of facets.
    null : ``found``, ``p`` and ``drawn`` of `probes.multifaceted.null.gaussian_null`.
    valley : p value that no two groups have a valley between them.
    several : whether both tests say that there is more than one facet; None where they cannot.
    settings, reasons : what was done, and what is undefined and why.
    """

    labels: NDArray
    xy: NDArray
    parts: Components
    nearest: NDArray
    centres: NDArray
    tightness: NDArray
    silhouettes: NDArray
    silhouette: float
    code_silhouette: float
    control: dict[str, float]
    control_labels: NDArray
    tried: dict[int, float]
    null: dict[str, Any]
    valley: float
    several: bool | None
    settings: dict[str, Any]
    reasons: dict[str, str] = field(default_factory=dict)

    @property
    def k(self) -> int:
        """How many facets there are."""
        return int(self.labels.max(initial=-1)) + 1


def find_facets(
    codes: ArrayLike,
    n_facets: int | None = None,
    *,
    mode: str = "recommended",
    embed: str = "tsne",
    cluster: str = "kmeans",
    nearest: int = NEAREST,
    draws: int = DRAWS,
    seed: int = 0,
) -> Grouping:
    """Facets of codes: 50 principal components, a map, groups in the map, and two tests.

    The mode ``paper`` makes ten groups (or ``n_facets``) whatever the tests say, from a random
    start of t-SNE, and takes the rows nearest to a group's centre in the map. ``recommended``
    chooses the number by the silhouette in the map, keeps to one facet unless both tests find more,
    and takes the nearest rows in the principal components, whose distances mean something.

    Parameters
    ----------
    codes : [n, d].
    n_facets : None lets the mode choose.
    embed : ``tsne``, ``umap`` or ``pca``, the map in which groups are looked for.
    cluster : ``kmeans`` or ``hdbscan``, which finds its own number.
    nearest : rows that stand for a facet.
    draws : Gaussians of the null.
    seed : of map, groups and tests.

    Degenerate: one facet where the codes are one point, or too few to test; the reasons say so.

    Raises
    ------
    DataError
        There are fewer rows than facets, more than 10,000, or one is not finite.

    Source: Nguyen et al. 2016, "Multifaceted Feature Visualization" (arXiv 1602.03616), section 3;
    its code for this step is not released. Differs: perplexity and start of t-SNE are not
    published; the silhouette, the control and the tests are not in the paper.
    """
    X = np.asarray(codes, dtype=np.float64)
    check_options(n_facets, mode=mode, embed=embed, cluster=cluster, nearest=nearest, draws=draws)
    if X.ndim != 2:
        raise ShapeError(f"codes must be a matrix [rows, width]; got {list(X.shape)}.")
    if len(X) > MOST:
        raise DataError(
            f"find_facets compares all pairs of at most {MOST:,} rows; got {len(X):,}: take those "
            "that fire most (n_top)."
        )
    if not np.isfinite(X).all():
        raise DataError("codes must be finite; leave the other rows out.")
    parts = components(X)
    wanted = n_facets
    if mode == "paper" and wanted is None and cluster == "kmeans":
        wanted = PAPER_FACETS
    reasons: dict[str, str] = {}
    start = "random" if mode == "paper" else "pca"
    xy, settings = place(parts.points, embed, seed=seed, start=start)
    settings |= {"components": parts.points.shape[1], "variance": parts.share, "cluster": cluster,
                 "nearest": nearest, "seed": seed}  # fmt: skip
    if wanted is not None and wanted > len(X):
        raise DataError(
            f"{wanted} facets need at least so many inputs that fire the unit; there are {len(X)}."
        )
    tested = _tested(parts, wanted, mode, cluster, len(X), reasons)
    made = group(xy, cluster, k=wanted if not parts.constant else 1, ks=KS, seed=seed)
    null, dip, several = _tests(parts, made.k, draws, seed) if tested else _untested()
    if wanted is not None and made.k < wanted:
        reasons.setdefault("labels", f"{wanted} facets were asked for and the map has {made.k} "
                                     "different places.")  # fmt: skip
    labels = made.labels
    if wanted is None and mode == "recommended" and not several and made.k > 1:
        labels = np.zeros(len(X), dtype=np.int64)
    return _described(X, xy, labels, parts, made.tried, null, dip, several, settings, reasons,
                      mode=mode, nearest=nearest, seed=seed)  # fmt: skip


def adjusted_rand_index(labels: ArrayLike, truth: ArrayLike) -> float:
    """How well groups agree with known classes, corrected for chance.

    Range: 1 for the same partition, 0 in the mean for random ones; can be below 0.
    Degenerate: nan where there are no rows, or the truth is one class, which any group would fit.
    Source: Hubert and Arabie 1985.
    """
    from sklearn.metrics import adjusted_rand_score

    known = np.asarray(truth)
    if len(known) == 0 or len(np.unique(known)) < 2:
        return float("nan")
    return float(adjusted_rand_score(known, np.asarray(labels)))


def purity(labels: NDArray, truth: NDArray, k: int) -> tuple[NDArray, NDArray]:
    """Share [k] of each facet's rows that have its commonest class, and that class [k].

    Range: 0 to 1, higher is purer. Degenerate: nan and -1 for a facet without rows of known class
    (classes are numbered from 0; -1 is unknown).
    """
    share, common = np.full(k, np.nan), np.full(k, -1, dtype=np.int64)
    for i in range(k):
        mine = truth[(labels == i) & (truth >= 0)]
        if len(mine):
            counts = np.bincount(mine)
            common[i] = int(counts.argmax())
            share[i] = counts.max() / len(mine)
    return share, common


# ---- its steps


def check_options(
    n_facets: int | None, *, mode: str, embed: str, cluster: str, nearest: int, draws: int
) -> None:
    """Refuse options of `find_facets` that are not there, before anything is read."""
    for name, value, known in (
        ("mode", mode, MODES),
        ("embed", embed, EMBEDS),
        ("cluster", cluster, CLUSTERS),
    ):
        if value not in known:
            raise ParameterError(f"{name} must be one of {', '.join(known)}; got {value!r}.")
    for name, value in (("n_facets", n_facets), ("nearest", nearest), ("draws", draws)):
        if value is not None and value < 1:
            raise ParameterError(f"{name} must be at least 1; got {value}.")
    if cluster == "hdbscan" and n_facets is not None:
        raise ParameterError("hdbscan finds its own number of facets; leave n_facets out.")


def _tested(
    parts: Components,
    wanted: int | None,
    mode: str,
    cluster: str,
    n: int,
    reasons: dict[str, str],
) -> bool:
    """Whether the tests can say something; else why not."""
    if parts.constant and n:
        reasons["several"] = "all codes are one point, so there is one facet."
        if wanted is not None and wanted > 1:
            reasons["labels"] = f"all codes are one point, which {wanted} facets cannot share out."
    elif n < FEWEST:
        reasons["several"] = f"{n} inputs fire the unit, and the tests need {FEWEST}."
    return "several" not in reasons


def _untested() -> tuple[dict[str, Any], float, bool | None]:
    nan = float("nan")
    return {"found": nan, "p": nan, "drawn": np.zeros(0)}, nan, None


def _tests(parts: Components, k: int, draws: int, seed: int) -> tuple[dict[str, Any], float, bool]:
    """The two tests, of two groups and of as many as were found."""
    ks = sorted({2, max(k, 2)})
    null = gaussian_null(parts.points, ks, draws=draws, seed=seed)
    ps = [valley(parts.points, i, seed=seed) for i in ks]
    dip = min(1.0, len(ks) * min((p for p in ps if p == p), default=float("nan")))
    several = null.p <= LEVEL and dip <= LEVEL
    return {"found": null.found, "p": null.p, "drawn": null.drawn}, dip, several


def _described(
    X: NDArray,
    xy: NDArray,
    labels: NDArray,
    parts: Components,
    tried: dict[int, float],
    null: dict[str, Any],
    dip: float,
    several: bool | None,
    settings: dict[str, Any],
    reasons: dict[str, str],
    *,
    mode: str,
    nearest: int,
    seed: int,
) -> Grouping:
    k = int(labels.max(initial=-1)) + 1
    centres = np.array([X[labels == i].mean(0) for i in range(k)]).reshape(k, X.shape[1])
    near = _nearest(xy if mode == "paper" else parts.points, labels, k, nearest)
    in_map = silhouettes(squareform(pdist(xy)), labels) if len(X) > 1 else np.full(len(X), np.nan)
    known = in_map[np.isfinite(in_map)]
    control = k_means(parts.points, k, seed=seed)[0] if k > 1 else np.zeros(len(X), dtype=np.int64)
    nan = float("nan")
    scores = {"agreement": nan, "silhouette": nan}
    code_silhouette = nan
    if k > 1:
        apart = squareform(pdist(parts.points))
        code_silhouette = silhouette_of(apart, labels)
        scores = {"agreement": adjusted_rand_index(control, labels),
                  "silhouette": silhouette_of(apart, control)}  # fmt: skip
    else:
        reasons.setdefault("silhouette", "one facet has no other to be told from.")
    return Grouping(
        labels=labels,
        xy=xy,
        parts=parts,
        nearest=near,
        centres=centres,
        tightness=_tightness(X, labels, centres),
        silhouettes=np.array([_mean(in_map[labels == i]) for i in range(k)]),
        silhouette=float(known.mean()) if len(known) else nan,
        code_silhouette=code_silhouette,
        control=scores,
        control_labels=control,
        tried=tried,
        null=null,
        valley=dip,
        several=several,
        settings=settings,
        reasons=reasons,
    )


def _mean(values: NDArray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def _nearest(points: NDArray, labels: NDArray, k: int, m: int) -> NDArray:
    found = np.full((k, m), -1, dtype=np.int64)
    for i in range(k):
        mine = np.flatnonzero(labels == i)
        gap = ((points[mine] - points[mine].mean(0)) ** 2).sum(1)
        order = mine[np.argsort(gap, kind="stable")][:m]
        found[i, : len(order)] = order
    return found


def _tightness(X: NDArray, labels: NDArray, centres: NDArray) -> NDArray:
    whole = float(((X - X.mean(0)) ** 2).sum(1).mean()) if len(X) else 0.0
    size = float((X**2).sum(1).mean()) if len(X) else 0.0
    if whole <= 1e-18 * size:
        return np.full(len(centres), np.nan)
    return np.array(
        [1 - ((X[labels == i] - c) ** 2).sum(1).mean() / whole for i, c in enumerate(centres)]
    )
