"""AQI along the layers of a model, and axiom by axiom at one of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray

from interp.errors import ShapeError
from interp.live import live
from interp.results import Result
from interp.runs import versions
from probes.account import provenance_of
from probes.alignment import AQI, DRAWS, PERMUTATIONS, aqi
from probes.concepts import concept_name, first_rows
from probes.onset import holm
from probes.plan import choose_hookpoints
from probes.released_aqi import axiom_rows
from probes.safety import labelled_rows, read_safety

if TYPE_CHECKING:
    from interp.store import ActivationStore

__all__ = ["AQIByAxiom", "AQIByLayer", "aqi_by_axiom", "aqi_by_layer"]

FEWEST = 5
"""Rows below which an axiom has no value, as in the released code."""
ARRAYS = ("value", "low", "high", "null_mean", "null_high", "p_value", "p_adjusted")


@dataclass(frozen=True, kw_only=True)
class AQIByLayer(Result):
    """AQI at each hook point, beside shuffled labels and the words alone.

    Attributes
    ----------
    label, axiom : columns of the labels, and of the axioms or None.
    hookpoints : in depth order; the arrays have an entry each.
    value, low, high : AQI and its 95 % interval; nan where undefined.
    null_mean, null_high : mean and 95 % point over shuffled labels.
    p_value, p_adjusted : chance of so high a value if the labels meant nothing, at a hook point by
        itself, and by Holm's rule over all.
    inverse_xie_beni : ``1 / XBI`` as computed from the rows; it holds the noise of the means.
    variant, weight, n1, n2, safe, unsafe, words : as in `AQI`.
    peak, peak_hookpoint : the highest value and where it is; None where none is defined.
    """

    kind: ClassVar[str] = "aqi_by_layer"

    label: str
    axiom: str | None
    hookpoints: tuple[str, ...]
    value: NDArray
    low: NDArray
    high: NDArray
    null_mean: NDArray
    null_high: NDArray
    p_value: NDArray
    p_adjusted: NDArray
    inverse_xie_beni: NDArray
    variant: str | None
    weight: float | None
    n1: int
    n2: int
    safe: str
    unsafe: str
    words: dict[str, float] | None
    peak: float | None
    peak_hookpoint: str | None
    notes: tuple[str, ...] = ()
    examples: list[dict[str, Any]] | tuple[()] = ()

    def to_frame(self) -> pd.DataFrame:
        """A row a hook point."""
        names = (*ARRAYS, "inverse_xie_beni")
        columns = {name: getattr(self, name) for name in names}
        return pd.DataFrame({"hookpoint": self.hookpoints, **columns})

    def metrics(self) -> dict[str, Any]:
        """Numbers and names for ``metrics.json``."""
        names = ("mode", "variant", "weight", "n1", "n2", "safe", "unsafe", "words", "peak")
        found = {name: getattr(self, name) for name in (*names, "peak_hookpoint")}
        found["hookpoints"] = list(self.hookpoints)
        return found | {k: getattr(self, k) for k in ARRAYS} | {"reasons": self.reasons}


@dataclass(frozen=True, kw_only=True)
class AQIByAxiom(Result):
    """AQI of each axiom at one hook point, and of all rows together.

    Attributes
    ----------
    axioms : names; the last is ``overall``. The arrays have an entry each.
    n1, n2 : safe and unsafe rows of each.
    value, low, high, null_high, p_value : as in `AQIByLayer`; nan where undefined, and ``reasons``
        says why by the axiom's name.
    hookpoint : where the rows were read, or None.
    """

    kind: ClassVar[str] = "aqi_by_axiom"

    axioms: tuple[str, ...]
    n1: NDArray
    n2: NDArray
    value: NDArray
    low: NDArray
    high: NDArray
    null_high: NDArray
    p_value: NDArray
    hookpoint: str | None = None
    notes: tuple[str, ...] = ()

    def to_frame(self) -> pd.DataFrame:
        """A row an axiom."""
        names = ("n1", "n2", "value", "low", "high", "null_high", "p_value")
        columns = {name: getattr(self, name) for name in names}
        why = [self.reasons.get(name, "") for name in self.axioms]
        return pd.DataFrame({"axiom": self.axioms, **columns, "undefined because": why})

    def metrics(self) -> dict[str, Any]:
        """Numbers and names for ``metrics.json``."""
        frame = self.to_frame().drop(columns="undefined because").set_index("axiom")
        found = {str(name): row.to_dict() for name, row in frame.iterrows()}
        return {"mode": self.mode, "hookpoint": self.hookpoint, "axioms": found,
                "reasons": self.reasons}  # fmt: skip


def aqi_by_layer(
    store: "ActivationStore",
    label: str = "label",
    *,
    axioms: str | None = None,
    groups: str | None = None,
    hookpoints: Sequence[str] | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    **options: Any,
) -> AQIByLayer:
    """`aqi` at each hook point of a store, on the same draws and shuffles.

    Parameters
    ----------
    store : activations and the table of their rows; one hook point is in memory at a time.
    label : column of 1 (safe) and 0 (unsafe), or of two names with ``safe``. Rows without one are
        left out.
    axioms, groups : columns, or None.
    hookpoints : all of the store by default.
    progress : called with (hook points done, of how many, the next one's name).
    options : ``mode``, ``variant``, ``safe``, ``weight``, ``tsne``, ``draws``, ``permutations`` and
        ``seed`` of `probes.aqi`. There are 40 permutations a hook point or more, unless there are
        none: with fewer, Holm's rule could call nothing significant.

    Raises
    ------
    DataError
        A column is missing or the labels are not of two known classes.
    """
    names = choose_hookpoints(store.hookpoints, hookpoints, "recommended")
    read = labelled_rows(store, label, safe=options.pop("safe", None), groups=groups, axioms=axioms)
    found: list[AQI] = []
    progress = live(progress, "AQI")
    if options.setdefault("permutations", PERMUTATIONS) > 0:
        options["permutations"] = max(options["permutations"], 40 * len(names) - 1)
    for i, name in enumerate(names):
        if progress is not None:
            progress(i, len(names), name)
        found.append(
            aqi(
                rows_of(store, name, read.rows),
                read.safety.labels,
                groups=read.groups,
                axioms=read.axioms,
                texts=read.texts if i == 0 else None,
                **options,
            )
        )
    if progress is not None:
        progress(len(names), len(names), "")
    arrays = _arrays(found)
    value, known = arrays["value"], np.isfinite(arrays["value"])
    peak = int(np.nanargmax(value)) if known.any() else None
    data = store.manifest.get("data") or {}
    first = found[0]
    reasons = {k: v for k, v in first.reasons.items() if k == "words"}
    for name, one in zip(names, found, strict=True):
        reasons |= {f"{name}: {k}": v for k, v in one.reasons.items() if k != "words"}
    text = data.get("text_column")
    return AQIByLayer(
        name=concept_name(str(data.get("name") or "data"), label),
        n=len(read.rows),
        mode=first.mode,
        provenance=provenance_of(store, None, options.get("seed", 0), torch.device("cpu")),
        reasons=reasons,
        label=label,
        axiom=axioms,
        hookpoints=names,
        variant=first.variant,
        weight=first.weight,
        n1=first.n1,
        n2=first.n2,
        safe=read.safety.names[0],
        unsafe=read.safety.names[1],
        words=first.words,
        peak=None if peak is None else float(value[peak]),
        peak_hookpoint=None if peak is None else names[peak],
        notes=(*read.notes, *_joined(names, found)),
        examples=first_rows(store.rows, [text if text in store.rows else None, label, axioms]),
        **cast(dict[str, Any], arrays),
    )


def aqi_by_axiom(
    X: Any,
    y: ArrayLike,
    axioms: Sequence[Any] | NDArray,
    *,
    safe: Any = None,
    groups: ArrayLike | None = None,
    mode: str = "recommended",
    weight: float | None = None,
    draws: int = DRAWS,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
    name: str = "axioms",
    hookpoint: str | None = None,
) -> AQIByAxiom:
    """`aqi` of the rows of each axiom by themselves, and of all.

    In the mode ``paper`` axioms of different n are not comparable; in ``recommended`` they are.

    Parameters
    ----------
    axioms : [n] what each prompt is about.
    X, y, safe, groups, mode, weight, draws, permutations, seed, name : as for `probes.aqi`.
    hookpoint : where X was read, for the record.

    Degenerate: nan with a reason for an axiom of fewer than 5 rows, or as for `probes.aqi`.
    """
    if len(axioms) != len(X):
        raise ShapeError(f"axioms must have one entry a row, {len(X)}; got {len(axioms)}.")
    read = read_safety(y, len(X), safe)
    held = None if groups is None else np.asarray(groups)
    labels, reasons, found = read.labels, {}, []
    rows_by_name = axiom_rows(axioms)
    for axiom, rows in rows_by_name.items():
        part = X if axiom == "overall" else X[rows]
        one = aqi(
            part, labels[rows], mode=mode, weight=weight, draws=draws, permutations=permutations,
            seed=seed, groups=None if held is None else held[rows],
        )  # fmt: skip
        few = f"it has {len(rows)} rows, fewer than {FEWEST}." if len(rows) < FEWEST else None
        if few or "value" in one.reasons:
            reasons[axiom] = few or one.reasons["value"]
        found.append(None if few else one)
    count = [read.safe[rows] for rows in rows_by_name.values()]
    arrays = _arrays(found)
    for unused in ("null_mean", "p_adjusted", "inverse_xie_beni"):
        arrays.pop(unused)
    return AQIByAxiom(
        name=name,
        n=len(X),
        mode=mode,
        provenance={"seed": seed, "versions": versions()},
        reasons=reasons,
        axioms=tuple(rows_by_name),
        n1=np.array([int(c.sum()) for c in count]),
        n2=np.array([int((~c).sum()) for c in count]),
        hookpoint=hookpoint,
        **cast(dict[str, Any], arrays),
    )


def rows_of(store: "ActivationStore", name: str, rows: NDArray) -> torch.Tensor:
    """Rows [n, width] of a hook point as they are stored; heads lie side by side."""
    stored = store[name]
    return (stored[:] if len(rows) == len(stored) else stored[rows]).flatten(1)


def _joined(names: Sequence[str], found: Sequence[AQI]) -> list[str]:
    """The notes of all: those of every hook point once, others with where they hold."""
    where: dict[str, list[str]] = {}
    for name, one in zip(names, found, strict=True):
        for text in one.notes:
            where.setdefault(text, []).append(name)
    return [
        text if len(at) == len(names) else f"{', '.join(at)}: {text}" for text, at in where.items()
    ]


def _arrays(found: Sequence[AQI | None]) -> dict[str, NDArray]:
    """The numbers of several AQI as arrays, nan where there are none."""
    nan = float("nan")
    rows = []
    for one in found:
        low, high = (one and one.interval) or (nan, nan)
        null = (one and one.null) or {}
        shuffled = [null.get(k, nan) for k in ("mean", "high", "p")]
        inverse = one.components.get("inverse_xie_beni", nan) if one else nan
        rows.append([one.value if one else nan, low, high, *shuffled, inverse])
    columns = np.array(rows, dtype=np.float64).T
    names = ("value", "low", "high", "null_mean", "null_high", "p_value", "inverse_xie_beni")
    arrays = dict(zip(names, columns, strict=True))
    p = arrays["p_value"]
    adjusted, known = np.full(len(p), nan), np.isfinite(p)
    if known.any():
        adjusted[known] = holm(p[known])
    return arrays | {"p_adjusted": adjusted}
