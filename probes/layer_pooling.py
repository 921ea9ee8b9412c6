"""Layers pooled by learned sparse weights, as AQI has it: learned on half the rows, judged on the
other half.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from interp.errors import DataError, ParameterError, ShapeError
from interp.results import Result
from interp.runs import versions
from probes.alignment import AQI, DRAWS, PERMUTATIONS, aqi
from probes.clusters import blocks
from probes.safety import read_safety
from probes.splits import grouped_folds

if TYPE_CHECKING:
    from interp.store import ActivationStore

__all__ = ["LayerPooling", "layers_of", "learn_layer_weights", "pool_layers", "sparsemax"]

MARGIN = 5.0
PAIRS, STEPS, RATE = 2_000, 300, 0.1
BATCH = 100
"""Pairs whose rows are read at all layers at once."""
ON_LAYER = 1e-6
"""Weight above which a layer counts as used."""


@dataclass(frozen=True, kw_only=True)
class LayerPooling(Result):
    """Weights of the layers, and how far apart the pooled rows stand that they were not learned on.

    Attributes
    ----------
    hookpoints : the layers.
    weights : [layers] 0 or more, summing to 1.
    method : ``softmax`` or ``sparsemax``.
    margin, steps, pairs : of the hinge, and of its minimisation over so many pairs of rows.
    loss : [steps + 1] the hinge on the training pairs.
    held_out : AQI of the held-out rows: value, low, high, and of shuffled labels null and p.
    trained : AQI of the rows that the weights were learned on, which flatters.
    uniform : AQI of the held-out rows with equal weights.
    best : AQI of the held-out rows at the one layer that is best on the training rows.
    best_hookpoint : that layer.
    n_train, n_held_out : rows of both halves.
    """

    kind: ClassVar[str] = "layer_pooling"

    hookpoints: tuple[str, ...]
    weights: NDArray
    method: str
    margin: float
    steps: int
    pairs: int
    loss: NDArray
    held_out: dict[str, float | None]
    trained: float
    uniform: float
    best: float
    best_hookpoint: str
    n_train: int
    n_held_out: int
    seed: int
    notes: tuple[str, ...] = ()

    def to_frame(self) -> pd.DataFrame:
        """A row a layer."""
        return pd.DataFrame({"hookpoint": self.hookpoints, "weight": self.weights})

    def metrics(self) -> dict[str, Any]:
        """Numbers and names for ``metrics.json``."""
        names = ("method", "margin", "held_out", "trained", "uniform", "best", "best_hookpoint")
        found = {name: getattr(self, name) for name in (*names, "n_train", "n_held_out")}
        return found | {
            "weights": dict(zip(self.hookpoints, self.weights.tolist(), strict=True)),
            "layers_used": int((self.weights > ON_LAYER).sum()),
            "reasons": self.reasons,
        }


def sparsemax(z: Tensor) -> Tensor:
    """The point of the simplex that is nearest to z [l]: weights that may be exactly 0.

    Source: Martins and Astudillo, arXiv 1602.02068, algorithm 1.
    """
    ordered = z.sort(descending=True).values
    sums = ordered.cumsum(0) - 1
    k = torch.arange(1, len(z) + 1, device=z.device, dtype=z.dtype)
    last = int((k * ordered > sums).sum())
    return (z - sums[last - 1] / last).clamp_min(0)


def learn_layer_weights(
    differences: Tensor, *, method: str = "sparsemax", margin: float = MARGIN, steps: int = STEPS
) -> tuple[NDArray, NDArray]:
    """Weights [layers] that push safe and unsafe rows a margin apart, and the loss by step.

    Minimises ``mean relu(margin - |sum_l a_l (h_l(safe) - h_l(unsafe))|)`` over the weights a, from
    equal ones. A pair enters through the products of its differences alone, so that a step costs
    pairs times layers squared, at any width.

    Parameters
    ----------
    differences : [pairs, layers, layers], products of a pair's differences at two layers.
    method : ``softmax`` or ``sparsemax`` makes the weights from what is learned.

    The hinge rewards distance between the classes and does not see the spread within them. Layers
    add up like independent directions, so that a mixture is shorter than its parts and one layer
    tends to win; it need not be the one of the highest AQI.

    Source: arXiv 2506.13901 learns sparse weights with a contrastive loss that it does not give;
    the hinge is the "GRACE-style" separation term of related code by the same group, whose margin
    is 5.
    """
    if method not in ("softmax", "sparsemax"):
        raise ParameterError(f"method must be softmax or sparsemax; got {method!r}.")
    if not margin > 0 or steps < 1:
        raise ParameterError(f"margin and steps are above 0; got {margin!r} and {steps!r}.")
    turn = sparsemax if method == "sparsemax" else lambda z: torch.softmax(z, 0)
    products = differences.double()

    def hinge(z: Tensor) -> Tensor:
        a = turn(z)
        squared = torch.einsum("l,plm,m->p", a, products, a)
        return (margin - (squared + 1e-12).sqrt()).clamp_min(0).mean()

    with torch.enable_grad():
        z = torch.zeros(products.shape[1], dtype=torch.float64, requires_grad=True)
        optimiser = torch.optim.Adam([z], lr=RATE)
        losses, kept, least = [], z.detach().clone(), float("inf")
        for _ in range(steps + 1):
            loss = hinge(z)
            losses.append(float(loss.detach()))
            if losses[-1] < least:
                least, kept = losses[-1], z.detach().clone()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return turn(kept).numpy(), np.asarray(losses)


def pool_layers(
    layers: Sequence[Any],
    y: ArrayLike,
    hookpoints: Sequence[str] | None = None,
    *,
    method: str = "sparsemax",
    margin: float = MARGIN,
    pairs: int = PAIRS,
    steps: int = STEPS,
    safe: Any = None,
    groups: ArrayLike | None = None,
    draws: int = DRAWS,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
    name: str = "pooled",
    progress: Callable[[int, int, str], None] | None = None,
) -> LayerPooling:
    """AQI of ``sum_l a_l h_l`` with weights a that are learned on one half of the rows.

    The rows are split in two, groups whole. Each layer is centred, and scaled so that two training
    rows lie 5 apart in root mean square, with the training rows' numbers: without that the layer
    of the largest norm would win whatever it holds. The default margin is then a typical distance.

    Parameters
    ----------
    layers : matrices [n, d] of one width, one at a time in memory.
    y, safe, groups : as for `probes.aqi`.
    hookpoints : names of the layers.
    method, margin, steps : of `learn_layer_weights`.
    pairs : safe and unsafe training rows that are paired at random.
    draws, permutations, seed : of the held-out AQI; the seed is that of the split and pairs too.

    Raises
    ------
    ShapeError
        The layers differ in shape.
    DataError
        The rows or groups are too few to split, are of one class or not finite, or labels are
        unknown.
    """
    names = tuple(hookpoints or (str(i) for i in range(len(layers))))
    shapes = {tuple(layer.shape) for layer in layers}
    if len(shapes) != 1 or len(names) != len(layers):
        raise ShapeError(
            f"layers are pooled with one shape and a name each; got {sorted(shapes)} and "
            f"{len(names)} names."
        )
    read = read_safety(y, len(layers[0]), safe)
    if 0 in read.counts:
        raise DataError(f"layers are pooled for two classes; every row is {read.labels[0]}.")
    held = None if groups is None else np.asarray(groups)
    fold = grouped_folds(read.safe, held, folds=2, seed=seed)
    train, test = np.flatnonzero(fold == 0), np.flatnonzero(fold == 1)
    rng = np.random.default_rng(seed)
    one = rng.choice(train[read.safe[train]], pairs)
    two = rng.choice(train[~read.safe[train]], pairs)
    scales, best, best_at = [], -np.inf, 0
    quick: dict[str, Any] = {"draws": 0, "permutations": 0}
    labels = read.labels
    for i, layer in enumerate(layers):
        if progress is not None:
            progress(i, len(layers), names[i])
        X = torch.cat([b for _, b in blocks(layer)])
        broken = int((~torch.isfinite(X)).any(1).sum())
        if broken:
            raise DataError(f"{names[i]} has {broken:,} rows that are not finite; leave it out.")
        mean = X[train].mean(0)
        scales.append((mean, MARGIN / _distance(X[train] - mean)))
        there = aqi(X[train], labels[train], groups=_of(held, train), **quick).value
        if there > best:
            best, best_at = there, i
    products = _products(layers, scales, one, two)
    weights, loss = learn_layer_weights(products, method=method, margin=margin, steps=steps)
    pooled = _pooled(layers, scales, weights)
    equal = _pooled(layers, scales, np.full(len(layers), 1 / len(layers)))
    found = aqi(
        pooled[test], labels[test], groups=_of(held, test), draws=draws,
        permutations=permutations, seed=seed,
    )  # fmt: skip
    best_rows = torch.cat([b for _, b in blocks(layers[best_at])])[test]
    return LayerPooling(
        name=name,
        n=len(read.safe),
        provenance={"seed": seed, "versions": versions()},
        reasons=found.reasons,
        hookpoints=names,
        weights=weights,
        method=method,
        margin=margin,
        steps=steps,
        pairs=pairs,
        loss=loss,
        held_out=_summary(found),
        trained=aqi(pooled[train], labels[train], groups=_of(held, train), **quick).value,
        uniform=aqi(equal[test], labels[test], groups=_of(held, test), **quick).value,
        best=aqi(best_rows, labels[test], groups=_of(held, test), **quick).value,
        best_hookpoint=names[best_at],
        n_train=len(train),
        n_held_out=len(test),
        seed=seed,
        notes=(
            f"Weights learned on {len(train):,} rows with a GRACE-style hinge, margin {margin:g}, "
            f"over {pairs:,} pairs; judged on the other {len(test):,}.",
            f"Layers are scaled so that two training rows lie {MARGIN:g} apart on average.",
        ),
    )


def _summary(found: AQI) -> dict[str, float | None]:
    low, high = found.interval or (None, None)
    null = found.null or {}
    return {
        "value": found.value,
        "low": low,
        "high": high,
        "null": null.get("high"),
        "p": null.get("p"),
    }


def _distance(X: Tensor) -> float:
    """Root mean square distance of two of the rows, which are centred; 1 where all are equal."""
    squared = 2 * float(X.square().sum()) / max(len(X) - 1, 1)
    return squared**0.5 if squared > 0 else 1.0


def _products(
    layers: Sequence[Any], scales: list[tuple[Tensor, float]], one: NDArray, two: NDArray
) -> Tensor:
    """[pairs, layers, layers] inner products of each pair's differences, some pairs at a time."""
    found = []
    for start in range(0, len(one), BATCH):
        a, b = one[start : start + BATCH], two[start : start + BATCH]
        gaps = [
            (torch.as_tensor(layer[a]).double() - torch.as_tensor(layer[b]).double()) * scale
            for layer, (_, scale) in zip(layers, scales, strict=True)
        ]
        stacked = torch.stack(gaps, 1)
        found.append(torch.bmm(stacked, stacked.transpose(1, 2)))
    return torch.cat(found)


def _pooled(layers: Sequence[Any], scales: list[tuple[Tensor, float]], weights: NDArray) -> Tensor:
    total: Tensor | None = None
    for layer, (mean, scale), weight in zip(layers, scales, weights.tolist(), strict=True):
        if weight <= 0:
            continue
        part = torch.cat([(b - mean) * (scale * weight) for _, b in blocks(layer)])
        total = part if total is None else total + part
    assert total is not None  # noqa: S101  the weights sum to one
    return total


def _of(values: NDArray | None, rows: NDArray) -> NDArray | None:
    return None if values is None else values[rows]


def layers_of(store: "ActivationStore") -> list[str]:
    """The hook points of a store that are layers of one role and width, the commonest; or none."""
    kinds: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for name in store.hookpoints:
        role, _, layer = name.rpartition(".")
        if role and layer.isdecimal():
            kinds.setdefault((role, tuple(store[name].shape[1:])), []).append(name)
    return max(kinds.values(), key=len, default=[])
