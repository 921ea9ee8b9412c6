"""Measures of representations, layer by layer: one table of them, and one pass over a store.

Each measure is a function of a matrix, which stands in a file of its own and can be called alone;
`MEASURES` says what each gives and needs, and `geometry_by_layer` runs those that are asked for.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from interp.errors import ParameterError, closest
from probes.account import provenance_of
from probes.anchors import relative, relative_similarity, stitching
from probes.concepts import column, concept_name, first_rows, groups_of, read_concept
from probes.discrimination import gdv
from probes.dissimilarity import rank_unit, rsa
from probes.generations import backward_compatibility
from probes.geometry_result import Geometry
from probes.kernels import KernelSums, cka, kernel_unit, one_hot
from probes.measured import Curve, Measure, Measured, Setting, Unit, float_rows, unusable
from probes.plan import choose_hookpoints
from probes.plane import information_plane
from probes.prefixes import prefix_curve
from probes.prototype_rows import prototypes
from probes.ranks import (
    Spectrum,
    effective_rank,
    eps_of,
    numerical_rank,
    participation_ratio,
    rank_curve,
    ranks,
    srank,
    stable_rank,
)
from probes.rates import RateSums, class_rate_reduction, coding_rate, sparse_rate_reduction

if TYPE_CHECKING:
    from interp.store import ActivationStore

__all__ = [
    "Geometry",
    "KernelSums",
    "MEASURES",
    "RateSums",
    "Spectrum",
    "backward_compatibility",
    "cka",
    "class_rate_reduction",
    "coding_rate",
    "effective_rank",
    "gdv",
    "geometry_by_layer",
    "kernel_unit",
    "numerical_rank",
    "one_hot",
    "participation_ratio",
    "prefix_curve",
    "rank_curve",
    "rank_unit",
    "relative",
    "relative_similarity",
    "rsa",
    "sparse_rate_reduction",
    "srank",
    "stable_rank",
    "stitching",
]

NOISE = 0.25
"""Variance of the noise of the information measures, as a share of the layer's variance."""


def _told(X: Tensor, labels: Any, seed: int) -> Measured:
    """Bits of the input, or of the labels where there are some."""
    plane = information_plane(X, labels, method="kernel", noise=NOISE, relative=True, seed=seed)
    value = plane.xt if labels is None else plane.ty
    why = next((r for k, r in plane.reasons.items() if labels is not None or k != "ty"), None)
    return Measured(float(value[0, 0]), why, log2_n=plane.ceiling)


def _sparse(X: Tensor, setting: Setting) -> Measured:
    if setting.heads is None:
        return Measured(0, NO_HEADS)
    return sparse_rate_reduction(X, setting.heads.to(X.device), unit_rows=True)


NO_HEADS = "no attention is known that reads this hook point."


def _rest(X: Tensor, seed: int) -> Measured:
    found = prototypes(X, min(10, len(X)), how="centroids", seed=seed)
    why = found.reasons.get("r2") or unusable(X)
    return Measured(np.nan if why else found.r2 / found.variance, why, r1=found.r1)


MEASURES: dict[str, Measure] = {
    m.name: m
    for m in (
        Measure(
            "gdv",
            lambda X, s: gdv(X, s.labels),
            "generalized discrimination value of the classes: lower is better separated, 0 is none",
            needs=("labels",),
            rows=10_000,
        ),
        Measure(
            "alignment_input",
            lambda X, s: _aligned(X, s.inputs, s.seed),
            "CKA with the input, about 0 to 1: 1 keeps the geometry of what the model was given",
            needs=("inputs",),
            rows=2000,
        ),
        Measure(
            "alignment_target",
            lambda X, s: _aligned(X, one_hot(s.labels, len(X)), s.seed),
            "CKA with the classes, about 0 to 1: 1 has them as equidistant points",
            needs=("labels",),
            rows=2000,
        ),
        Measure(
            "rank",
            lambda X, s: ranks(X, s.eps),
            "effective rank of the rows less their mean, 1 up: dimensions in use",
        ),
        Measure(
            "coding_rate",
            lambda X, s: coding_rate(X, unit_rows=True),
            "nats to write the rows, scaled to length 1, to an error of .1: more where they spread",
        ),
        Measure(
            "rate_reduction",
            lambda X, s: class_rate_reduction(X, s.labels, unit_rows=True),
            "nats of the coding rate that knowing the class saves: higher is better",
            needs=("labels",),
        ),
        Measure(
            "sparse_rate",
            lambda X, s: _sparse(X, s),
            "nats of the coding rate less those within the value heads of the next block, which "
            "stand in for the subspaces of CRATE, and less .1 a number that is not 0",
            needs=("heads",),
        ),
        Measure(
            "cka",
            lambda X, s: kernel_unit(X),
            "CKA of each pair of layers, about 0 to 1: 1 is equal up to rotation, scale and shift",
            gives="matrix",
            rows=1000,
        ),
        Measure(
            "rsa",
            lambda X, s: rank_unit(X),
            "Spearman's correlation of the distances in each pair of layers, -1 to 1",
            gives="matrix",
            rows=1000,
        ),
        Measure(
            "rank_curve",
            lambda X, s: rank_curve(X),
            "share of the variance that the first k principal components hold",
            gives="curve",
        ),
        Measure(
            "prefixes",
            lambda X, s: prefix_curve(X, s.labels, groups=s.groups, seed=s.seed),
            "held-out accuracy on the first m dimensions, beside PCA and random orders",
            gives="curve",
            needs=("labels",),
        ),
        Measure(
            "information_input",
            lambda X, s: _told(X, None, s.seed),
            "bits of the input under noise of a quarter of the variance, 0 to log2 n",
            rows=2000,
        ),
        Measure(
            "information_label",
            lambda X, s: _told(X, s.labels, s.seed),
            "bits of the class under that noise, about 0 to its entropy: higher tells more",
            needs=("labels",),
            rows=2000,
        ),
        Measure(
            "prototype_rest",
            lambda X, s: _rest(X, s.seed),
            "share of the variance that ten prototypes leave: lower is better covered",
            rows=5000,
        ),
    )
}
"""Name -> measure; `interp geometry` and the report follow this table."""


def geometry_by_layer(
    store: "ActivationStore",
    label: str | None = None,
    *,
    groups: str | None = None,
    features: Sequence[str] = (),
    measures: Sequence[str] | None = None,
    inputs: Any = None,
    inputs_are: str | None = None,
    heads: Mapping[str, Tensor] | None = None,
    hookpoints: Sequence[str] | None = None,
    seed: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
) -> Geometry:
    """Run measures at each hook point of a store.

    Parameters
    ----------
    store : activations and the table of their rows; one hook point is in memory at a time, and of
        matrices of layers one vector a layer.
    label : column of classes, or None: what needs labels is then undefined. Rows without one are
        left out.
    groups : column whose values stay on one side of a split; documents, where rows are positions.
    features : more columns that some measures read, each with few values.
    measures : names in `MEASURES`; all by default.
    inputs : [n, ...] what the model was given, as numbers, a row a row of the store; by default the
        first hook point stands for it.
    inputs_are : what ``inputs`` is, in words.
    heads : hook point -> projections, as of `probes.head_projections`; without any, what needs them
        is left out.
    hookpoints : all of the store by default.
    seed : of draws.
    progress : called with (hook points done, of how many, the next one's name).

    Degenerate: a measure that a layer does not define is nan there and ``reasons`` says why; the
    others are not touched.

    Raises
    ------
    ParameterError, LayerNotFound, DataError
        A measure, a hook point or a column is unknown.
    """
    asked = choose_measures(measures)
    names = choose_hookpoints(store.hookpoints, hookpoints, "recommended")
    heads = {name: U for name, U in (heads or {}).items() if name in names}
    if not heads:
        asked = [m for m in asked if "heads" not in m.needs] or asked
    groups = groups_of(store, groups)
    concept = read_concept(store.rows, label, groups) if label is not None else None
    rows = concept.rows if concept is not None else np.arange(len(store.rows))
    first = None
    if inputs is None:
        inputs, inputs_are = store[names[0]], f"the first hook point, {names[0]}"
    if any("inputs" in m.needs for m in asked):
        first = inputs if len(rows) == len(store.rows) else inputs[rows]
    table = store.rows.iloc[rows]
    known = {name: pd.factorize(column(table, name, "features"))[0] for name in features}
    setting = Setting(
        concept.y if concept else None,
        first,
        concept.groups if concept else None,
        seed,
        features=known,
    )
    found: dict[str, list[Any]] = {m.name: [] for m in asked}
    widths = []
    for i, name in enumerate(names):
        if progress is not None:
            progress(i, len(names), name)
        X = _read(store[name], rows)
        widths.append(X.shape[1])
        here = replace(setting, eps=eps_of(store[name]), heads=heads.get(name))
        for m in asked:
            found[m.name].append(_find(m, X, here))
    if progress is not None:
        progress(len(names), len(names), "")
    data = store.manifest.get("data") or {}
    title, text = str(data.get("name") or "data"), data.get("text_column")
    shown = [text if text in store.rows else None, label]
    return Geometry(
        name=concept_name(title, label) if label is not None else title,
        n=len(rows),
        provenance=provenance_of(store, None, seed, torch.device("cpu")),
        reasons=_reasons(names, found),
        label=label,
        classes=concept.classes if concept else (),
        inputs=inputs_are,
        hookpoints=names,
        widths=tuple(widths),
        measures=tuple(m.name for m in asked),
        notes=(*(concept.notes if concept else ()), *_drawn(asked, len(rows))),
        examples=first_rows(store.rows, shown) if any(shown) else (),
        **cast(dict[str, Any], _gathered(names, asked, found)),
    )


def choose_measures(asked: Sequence[str] | None) -> list[Measure]:
    """The measures asked for, in the order of the table; all where None.

    Raises
    ------
    ParameterError
        A name is in no row of the table, or there are none.
    """
    if asked is None:
        return list(MEASURES.values())
    for name in asked:
        if name not in MEASURES:
            hint = closest(name, MEASURES) or f"known are {', '.join(MEASURES)}."
            raise ParameterError(f"there is no measure {name!r}; {hint}")
    if not asked:
        raise ParameterError("measures is empty; name at least one, or leave it out for all.")
    return [m for m in MEASURES.values() if m.name in asked]


def _aligned(X: Tensor, target: Any, seed: int) -> Measured:
    """CKA with a target, and as its part RSA on some of the rows."""
    found = cka(X, target)
    return Measured(found, found.reason, rsa=float(rsa(X, target, rows=1000, seed=seed)))


def _read(X: Any, rows: NDArray) -> Tensor:
    everything = len(rows) == len(X)
    return float_rows(X[:] if everything else X[rows])


def _find(measure: Measure, X: Tensor, setting: Setting) -> Any:
    """What a measure gives, or the reason why this run lacks what it needs."""
    why = None
    if "labels" in measure.needs and setting.labels is None:
        why = "there are no labels."
    if "inputs" in measure.needs and setting.inputs is None:
        why = "there are no inputs."
    if why is not None:
        nothing: dict[str, Any] = {
            "number": Measured(0, why),
            "curve": Curve(np.zeros(0), {}, why),
            "matrix": Unit(None, why),
        }
        return nothing[measure.gives]
    if measure.rows is not None and len(X) > measure.rows:
        # The same rows at every layer, else no two layers could be held together.
        kept = np.sort(np.random.default_rng(setting.seed).permutation(len(X))[: measure.rows])
        X, setting = X[torch.from_numpy(kept)], setting.at(kept)
    return measure.find(X, setting)


def _gathered(
    names: Sequence[str], asked: Sequence[Measure], found: dict[str, list[Any]]
) -> dict[str, dict[str, Any]]:
    """Values, parts, matrices and curves, from what each measure gave at each hook point."""
    values, parts, matrices, curves = {}, {}, {}, {}
    for m in asked:
        some = found[m.name]
        if m.gives == "number":
            values[m.name] = np.array([float(v) for v in some])
            known = dict.fromkeys(k for v in some for k in v.parts)
            parts |= (
                {m.name: {k: np.array([v.parts.get(k, np.nan) for v in some]) for k in known}}
                if known
                else {}
            )
        elif m.gives == "matrix":
            matrices[m.name] = _products(some)
        else:
            curves[m.name] = {
                name: {"x": c.x, **c.lines}
                for name, c in zip(names, some, strict=True)
                if c.reason is None
            }
    return {"values": values, "parts": parts, "matrices": matrices, "curves": curves}


def _products(units: Sequence[Unit]) -> NDArray:
    """The product of each pair of unit vectors; nan in the row and column of a layer without."""
    known = [i for i, u in enumerate(units) if u.vector is not None]
    M = np.full((len(units), len(units)), np.nan)
    if known:
        V = np.stack([u.vector for u in units if u.vector is not None])
        M[np.ix_(known, known)] = V @ V.T
    return M


def _reasons(names: Sequence[str], found: dict[str, list[Any]]) -> dict[str, str]:
    return {
        f"{name}: {measure}": one.reason
        for measure, some in found.items()
        for name, one in zip(names, some, strict=True)
        if one.reason is not None
    }


def _drawn(asked: Sequence[Measure], n: int) -> list[str]:
    """Which measures read only some of the rows."""
    some = [m for m in asked if m.rows is not None and n > m.rows]
    return [f"{m.name} reads {m.rows:,} of the {n:,} rows, drawn by the seed." for m in some]
