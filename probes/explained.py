"""How much of a layer's variance each feature of the data explains, alone and beside the others."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from interp.errors import DataError, ParameterError
from interp.results import Result
from probes.clusters import codes
from probes.layers import as_layers, origin, rows_float64
from probes.spectrum import eigen

__all__ = ["FoldSums", "VarianceExplained", "variance_explained"]

BLOCK = 2048
CELLS = "all combinations"
"""Name of the model with a mean for each combination of the features' values."""


@dataclass(frozen=True, kw_only=True)
class VarianceExplained(Result):
    """Shares of the variance of layers (l) that features (f) explain.

    Attributes
    ----------
    layers, features : names.
    raw : [l, f] share of the summed variance of all units that a feature alone explains.
    standardised : [l, f] the same after each unit has been put to variance 1: the mean of
        ``by_unit`` over live units.
    unique : [l, f] raw share that goes where the feature is taken out of all of them.
    shared : [l, f] ``raw - unique``: what others tell as well; below 0 where features explain more
        together than apart.
    together : [l] raw share of all features as a sum.
    interactions : [l] what a mean for each combination of values explains beyond that; nan where
        there are numbers among the features, or too many combinations.
    by_unit : layer -> [d, f] share of each unit's variance, nan of a dead unit.
    by_component : layer -> [k, f] share of the variance along each leading principal component.
    component_share : layer -> [k] share of the layer's variance along it.
    live : [l] units that vary.
    folds : of cross-validation; 1 where shares are of the rows that were fitted.
    """

    kind: ClassVar[str] = "variance_explained"

    layers: tuple[str, ...]
    features: tuple[str, ...]
    raw: NDArray
    standardised: NDArray
    unique: NDArray
    shared: NDArray
    together: NDArray
    interactions: NDArray
    by_unit: dict[str, NDArray]
    by_component: dict[str, NDArray]
    component_share: dict[str, NDArray]
    live: NDArray
    folds: int

    def to_frame(self) -> pd.DataFrame:
        """A row a layer and feature."""
        k = len(self.features)
        names = ("raw", "standardised", "unique", "shared")
        return pd.DataFrame(
            {
                "layer": np.repeat(self.layers, k),
                "feature": np.tile(self.features, len(self.layers)),
                **{name: getattr(self, name).ravel() for name in names},
                "together": np.repeat(self.together, k),
                "interactions": np.repeat(self.interactions, k),
            }
        )

    def metrics(self) -> dict[str, Any]:
        """Numbers and names for ``metrics.json``."""
        names = ("n", "layers", "features", "raw", "standardised", "unique", "shared", "together",
                 "interactions", "live", "folds", "reasons")  # fmt: skip
        return {name: getattr(self, name) for name in names}


class FoldSums:
    """Sums from which least squares of a layer on a design follow, held out, a batch at a time.

    Batches may come in any order and size, and `merge` joins what was summed apart. Memory: folds
    times the design's width times d.

    Parameters
    ----------
    shift : [d] point about which rows are taken, for precision: near their mean.
    folds : of cross-validation; 1 fits and scores the same rows.
    """

    def __init__(self, shift: Tensor, folds: int) -> None:
        self.shift, self.folds = shift, folds
        self._sums: list[dict[str, Tensor]] = [{} for _ in range(folds)]

    def update(self, X: Tensor, design: Tensor, fold: Tensor) -> Self:
        """Add a batch: X [c, d] and design [c, p] in float64, the fold of each row."""
        x = X - self.shift
        for k in range(self.folds):
            mine = fold == k
            a, b = design[mine], x[mine]
            self._add(k, {"DD": a.T @ a, "DX": a.T @ b, "XX": b.square().sum(0)})
            self._add(k, {"X": b.sum(0), "n": mine.sum().to(b)})
        return self

    def merge(self, other: "FoldSums") -> Self:
        """Add what another has summed about the same point and folds; ParameterError for others."""
        if self.folds != other.folds or not torch.equal(self.shift, other.shift):
            raise ParameterError("sums about other points or folds cannot be joined; use the same.")
        for k, sums in enumerate(other._sums):
            self._add(k, sums)
        return self

    def residuals(self, columns: list[int]) -> tuple[Tensor, Tensor]:
        """Sums of squares [d] that are left by a fit on columns of the design, and by the mean.

        Held out: each fold is predicted by what the others were fitted on.
        """
        total = {k: torch.stack([s[k] for s in self._sums]).sum(0) for k in self._sums[0]}
        left, around = torch.zeros_like(self.shift), torch.zeros_like(self.shift)
        at = torch.tensor(columns, device=self.shift.device)
        for held in self._sums:
            train = total if self.folds == 1 else {k: total[k] - held[k] for k in total}
            mean = train["X"] / train["n"]
            around += held["XX"] - 2 * mean * held["X"] + held["n"] * mean.square()
            dd, dx = train["DD"][at][:, at], train["DX"][at]
            beta = torch.linalg.pinv(dd, hermitian=True) @ dx
            fitted = (held["DD"][at][:, at] @ beta * beta).sum(0)
            left += held["XX"] - 2 * (beta * held["DX"][at]).sum(0) + fitted
        return left.clamp_min(0), around.clamp_min(0)

    def _add(self, k: int, found: Mapping[str, Tensor]) -> None:
        held = self._sums[k]
        for name, value in found.items():
            held[name] = held[name] + value if name in held else value


def variance_explained(
    source: Any,
    features: Mapping[str, Any] | pd.DataFrame,
    *,
    folds: int = 5,
    components: int = 10,
    groups: Any = None,
    seed: int = 0,
    name: str = "variance explained",
) -> VarianceExplained:
    """Shares of each layer's variance that features explain, held out, by least squares.

    ``VE_f = 1 - sum_units |h - h_f|^2 / sum_units |h - mean|^2`` over held-out rows, with h_f the
    prediction of the layer from feature f: one-hot where it is a class, as it is where it is a
    number. In the rows that were fitted this is ``sum Var(h_f) / sum Var(h)``.

    Parameters
    ----------
    source : a store, a mapping of names to matrices [n, d], or one matrix.
    features : name -> [n]; texts, bools and whole numbers are classes, floats are numbers.
    folds : rows are held out fold by fold; 1 fits and scores the same rows.
    components : leading principal components whose shares are told too; 0 for none.
    groups : [n] rows of a group share a fold, or None.
    seed : of the folds.

    Range: up to 1, higher explains more; held out it is below 0 where a feature tells nothing, by
    about its columns / n. The shares of independent features sum to ``together``.
    Invariance: raw to rotation, one scale and shift; standardised to the scale and shift of each
    unit, not to rotation. Units of large variance decide the raw share by design.
    Degenerate: nan with the reason for a constant layer, a constant feature, values that are not
    finite. Dead units count in no mean.
    Cost: n d p for a design of p columns, one pass a layer and another with ``components``, whose
    eigenvectors take n d^2 + d^3: at n = 10,000 and d = 2,048 15 s of processor for two features
    and ten components.
    Source: Lampinen et al., arXiv 2405.05847. Differs: held out, unique and shared parts,
    interactions, the standardised share beside the raw one.

    Raises
    ------
    ParameterError, ShapeError, DataError
        Folds, the shapes, or there is no feature.
    """
    layers = as_layers(source)
    n = len(next(iter(layers.values())))
    if folds < 1 or folds > n or components < 0:
        raise ParameterError(
            f"variance_explained takes 1 to n = {n} folds and 0 components or more; got {folds}, "
            f"{components}."
        )
    design, columns, reasons = _design(features, n)
    names = tuple(k for k in columns if k != CELLS)
    fold = torch.from_numpy(_folds(n, folds, groups, seed))
    tables: dict[str, list[Any]] = {}
    by_unit, by_component, share = {}, {}, {}
    for layer, X in layers.items():
        found = _one_layer(X, design, columns, fold, folds, components)
        if isinstance(found, str):
            reasons[layer] = found
            d, k = X.shape[1], len(names)
            none = np.full((d, k), np.nan)
            found = _Explained(none[0], none[0], none[0], np.nan, np.nan, none, none[:0], [], 0)
        by_unit[layer], by_component[layer] = found.by_unit, found.by_component
        share[layer] = np.asarray(found.component_share, dtype=np.float64)
        for key in ("raw", "standardised", "unique", "together", "interactions", "live"):
            tables.setdefault(key, []).append(getattr(found, key))
    held = {key: np.array(values) for key, values in tables.items()}
    return VarianceExplained(
        name=name,
        n=n,
        provenance=origin(source, seed=seed, folds=folds),
        reasons=reasons,
        layers=tuple(layers),
        features=names,
        shared=held["raw"] - held["unique"],
        by_unit=by_unit,
        by_component=by_component,
        component_share=share,
        folds=folds,
        **held,  # pyright: ignore[reportArgumentType]
    )


@dataclass(frozen=True)
class _Explained:
    raw: NDArray
    standardised: NDArray
    unique: NDArray
    together: float
    interactions: float
    by_unit: NDArray
    by_component: NDArray
    component_share: Any
    live: int


def _design(
    features: Mapping[str, Any] | pd.DataFrame, n: int
) -> tuple[Tensor, dict[str, list[int]], dict[str, str]]:
    """Columns of all features after a column of ones, which of them are whose, and reasons."""
    if not len(dict(features)):
        raise DataError("variance_explained needs at least one feature; give {name: values}.")
    parts, columns, reasons = [np.ones((n, 1))], {}, {}
    cells, width = np.zeros(n, dtype=np.int64), 1
    for name, values in dict(features).items():
        raw = np.asarray(values)
        if raw.dtype.kind == "f":
            if raw.shape != (n,) or not np.isfinite(raw).all():
                raise DataError(f"feature {name} has a value that is missing or not finite.")
            apart = (raw.astype(np.float64) - raw.mean(dtype=np.float64))[:, None]
            part, cells = apart / (np.abs(apart).max() or 1.0), None  # its unit must not matter
        else:
            classes, place = codes(raw, n)
            part = np.eye(len(classes))[place][:, 1:]
            cells = None if cells is None else cells * len(classes) + place
        if not part.size or not np.ptp(part, 0).any():
            reasons[str(name)] = "the feature has one value only."
        columns[str(name)] = list(range(width, width + part.shape[1]))
        width += part.shape[1]
        parts.append(part)
    if cells is not None and len(columns) > 1:
        seen, place = np.unique(cells, return_inverse=True)
        if len(seen) <= min(n // 10, 512):
            parts.append(np.eye(len(seen))[place])
            columns[CELLS] = list(range(width, width + len(seen)))
        else:
            reasons["interactions"] = f"{len(seen):,} combinations are too many for {n:,} rows."
    else:
        reasons["interactions"] = "they need two features or more, all of them classes."
    return torch.from_numpy(np.concatenate(parts, 1)), columns, reasons


def _folds(n: int, folds: int, groups: Any, seed: int) -> NDArray[np.int64]:
    """The fold of each row; rows of a group share one."""
    rng = np.random.default_rng(seed)
    place = np.arange(n) if groups is None else codes(groups, n)[1]
    units = int(place.max()) + 1
    if folds > 1 and units < 2:
        raise DataError("all rows are of one group, so none can be held out; give folds=1.")
    return (rng.permutation(units) % folds)[place].astype(np.int64)


def _sums(X: Any, design: Tensor, fold: Tensor, folds: int, turn: Tensor | None) -> FoldSums:
    sums: FoldSums | None = None
    for start in range(0, len(X), BLOCK):
        block = rows_float64(X, start, start + BLOCK)
        block = block if turn is None else block @ turn
        if sums is None:
            sums = FoldSums(block.mean(0), folds)
        rows = slice(start, start + BLOCK)
        sums.update(block, design[rows].to(block.device), fold[rows].to(block.device))
    assert sums is not None  # noqa: S101  the caller has counted the rows
    return sums


def _one_layer(
    X: Any, design: Tensor, columns: dict[str, list[int]], fold: Tensor, folds: int, k: int
) -> "_Explained | str":
    """The shares of one layer, or why it has none."""
    sums = _sums(X, design, fold, folds, None)
    names = [c for c in columns if c != CELLS]
    _, around = sums.residuals([0])
    if not bool(torch.isfinite(around).all()):
        return "the layer has values that are not finite."
    level = sums.shift.square() + around / len(X)
    live = around / len(X) > 1e-24 * level  # what is left is rounding
    if not bool(live.any()):
        return "no unit of the layer varies."

    def share(used: list[int]) -> tuple[float, NDArray]:
        left = torch.where(live, sums.residuals([0, *used])[0], 0)
        unit = torch.where(live, 1 - left / around, torch.nan)
        return float(1 - left.sum() / around[live].sum()), unit.cpu().numpy()

    apart = {name: share(columns[name]) for name in names}
    every = [c for name in names for c in columns[name]]
    together = share(every)[0]
    rest = [share([c for c in every if c not in set(columns[name])])[0] for name in names]
    usable = [float("nan") if not _varies(design, columns[name]) else 1.0 for name in names]
    by_unit = np.stack([apart[name][1] for name in names], 1) * usable
    crossed = share([*every, *columns[CELLS]])[0] - together if CELLS in columns else float("nan")
    turn, shares = _components(X, k)
    part = np.empty((len(shares), len(names)))
    if len(shares):
        turned = _sums(X, design, fold, folds, turn)
        part = np.stack([_ratio(turned, columns[name]) for name in names], 1) * usable
    return _Explained(
        raw=np.array([apart[name][0] for name in names]) * usable,
        standardised=np.nanmean(by_unit[live.cpu().numpy()], 0) if np.isfinite(usable).all()
        else by_unit[live.cpu().numpy()].mean(0),
        unique=(together - np.array(rest)) * usable,
        together=together,
        interactions=crossed,
        by_unit=by_unit,
        by_component=part,
        component_share=shares,
        live=int(live.sum()),
    )  # fmt: skip


def _varies(design: Tensor, used: list[int]) -> bool:
    return bool(used) and bool((design[:, used].amax(0) > design[:, used].amin(0)).any())


def _ratio(sums: FoldSums, used: list[int]) -> NDArray:
    left, around = sums.residuals([0, *used])
    return (1 - left / around).cpu().numpy()


def _components(X: Any, k: int) -> tuple[Tensor, NDArray]:
    """Leading principal components [d, k] and their shares of the variance."""
    d, n = X.shape[1], len(X)
    k = min(k, d, n - 1)
    if k < 1:
        return torch.empty(d, 0), np.empty(0)
    first = rows_float64(X, 0, BLOCK)
    shift = first.mean(0)
    total, mean = (
        torch.zeros(d, d, dtype=torch.float64, device=shift.device),
        torch.zeros_like(shift),
    )
    for start in range(0, n, BLOCK):
        block = rows_float64(X, start, start + BLOCK) - shift
        total += block.T @ block
        mean += block.sum(0) / n
    total -= n * torch.outer(mean, mean)
    values, vectors = eigen(total)
    lead = values.flip(0)[:k].clamp_min(0)
    seen = lead > 1e-12 * values.clamp_min(0).sum()
    share = (lead / values.clamp_min(0).sum())[seen]
    return vectors.flip(1)[:, :k][:, seen].contiguous(), share.cpu().numpy()
