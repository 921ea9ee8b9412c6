"""Feature complexity by iterative feature merging: how many channels a layer needs, from its
weights alone.

Two channels are near where both what makes them and what reads them are near. Merging sums what
makes them and averages what reads them, which changes nothing for two equal channels before a
positively homogeneous function such as ReLU.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from interp.errors import ModelError, ParameterError, one_line
from interp.placement import resident
from interp.results import Result
from interp.runs import versions

__all__ = ["FeatureComplexity", "channel_axes", "feature_complexity", "merge_channels"]

Distance = Literal["balanced", "paper"]
BETAS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.3)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
SAME = (nn.ReLU, nn.LeakyReLU, nn.Identity, nn.Dropout, nn.Dropout2d, nn.MaxPool2d, nn.AvgPool2d,
        nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Flatten)  # fmt: skip
"""Modules that keep channels apart and commute with a positive factor."""
FUNCTIONS = (F.relu, torch.relu, F.leaky_relu, F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d,
             F.dropout, torch.flatten)  # fmt: skip


@dataclass(frozen=True)
class Axis:
    """The channels of one hidden layer: what makes them, scales them, and reads them, by name."""

    producer: str
    consumer: str
    norm: str | None = None


@dataclass(frozen=True, kw_only=True)
class FeatureComplexity(Result):
    """Channels that are left after merging, by threshold.

    Attributes
    ----------
    layers : what makes the channels, by name.
    widths : [l] channels before.
    betas : thresholds, rising: the nearest pair is merged while its squared distance is at most so
        many times that of the farthest pair.
    kept : [betas, l] channels left: the complexity; fewer is simpler.
    distance : ``balanced`` or ``paper``.
    merges : layer -> (channel kept, channel merged into it, squared distance over the greatest), in
        order, at the last threshold.
    """

    kind: ClassVar[str] = "feature_complexity"

    layers: tuple[str, ...]
    widths: tuple[int, ...]
    betas: tuple[float, ...]
    kept: NDArray
    distance: str
    merges: dict[str, list[tuple[int, int, float]]]
    notes: tuple[str, ...] = ()

    def to_frame(self) -> pd.DataFrame:
        """A row a layer, a column a threshold."""
        table = {f"beta {b:g}": self.kept[i] for i, b in enumerate(self.betas)}
        return pd.DataFrame({"layer": self.layers, "channels": self.widths, **table})

    def metrics(self) -> dict[str, Any]:
        """Numbers and names for ``metrics.json``."""
        names = ("layers", "widths", "betas", "kept", "distance", "notes", "reasons")
        return {name: getattr(self, name) for name in names}


def channel_axes(module: nn.Module) -> list[Axis]:
    """Hidden layers whose channels have one maker and one reader, found by tracing the forward.

    Between them may stand one batch norm and what keeps channels apart and commutes with a positive
    factor: ReLU, pooling, dropout, flattening. Channels that are added to others, as those of a
    residual stream, are left alone: they would have to be merged in all their makers at once.

    Raises
    ------
    ModelError
        The forward cannot be traced by `torch.fx`, or there is no such layer.
    """
    try:
        graph = torch.fx.symbolic_trace(module).graph
    except Exception as error:  # a foreign forward fails in its own ways
        text = one_line(error, 160)
        raise ModelError(
            f"the forward of {type(module).__name__} cannot be traced: {text}."
        ) from error
    modules, axes = dict(module.named_modules()), []
    uses = [n.target for n in graph.nodes if n.op == "call_module"]
    for node in graph.nodes:
        made = modules.get(str(node.target)) if node.op == "call_module" else None
        if not _whole(made) or uses.count(node.target) > 1:
            continue
        norm, at = None, node
        while len(at.users) == 1:
            at = next(iter(at.users))
            one = modules.get(str(at.target)) if at.op == "call_module" else None
            if isinstance(one, NORMS) and norm is None and at.prev is node:
                norm = str(at.target)
            elif _whole(one) and uses.count(at.target) == 1:
                axes.append(Axis(str(node.target), str(at.target), norm))
                break
            elif not (
                isinstance(one, SAME) or (at.op == "call_function" and at.target in FUNCTIONS)
            ):
                break
    if not axes:
        raise ModelError(
            f"{type(module).__name__} has no hidden layer with one maker and one reader to merge."
        )
    return axes


def _whole(module: Any) -> bool:
    """Whether each channel that comes out reads every channel that goes in."""
    kinds = nn.Linear | nn.Conv1d | nn.Conv2d
    return isinstance(module, kinds) and getattr(module, "groups", 1) == 1


@dataclass
class _Channels:
    """The weights of one hidden layer in float64, by channel, while channels are merged."""

    axis: Axis
    vectors: dict[str, Tensor]  # producer weight, bias; norm weight, bias, mean, deviation
    reader: Tensor  # [channels, what is read of each]
    counts: Tensor
    alive: Tensor
    merges: list[tuple[int, int, float]] = field(default_factory=list)

    @classmethod
    def of(cls, module: nn.Module, axis: Axis) -> "_Channels":
        modules = dict(module.named_modules())
        producer: Any = modules[axis.producer]
        vectors = {"weight": producer.weight.detach().double().flatten(1)}
        n = len(vectors["weight"])
        if producer.bias is not None:
            vectors["bias"] = producer.bias.detach().double()
        if axis.norm is not None:
            norm: Any = modules[axis.norm]
            if norm.running_var is None:
                raise ModelError(f"{axis.norm} keeps no running variance, so it cannot be merged.")
            ones = torch.ones(n, dtype=torch.float64)
            vectors["gain"] = ones if norm.weight is None else norm.weight.detach().double()
            vectors["offset"] = 0 * ones if norm.bias is None else norm.bias.detach().double()
            vectors["mean"] = norm.running_mean.double()
            vectors["deviation"] = (norm.running_var.double() + norm.eps).sqrt()
        w: Any = modules[axis.consumer].weight
        w = w.detach().double()
        reader = w.unflatten(1, (n, -1)).transpose(0, 1).flatten(1)
        counts = torch.ones(n, dtype=torch.float64)
        return cls(axis, vectors, reader, counts, torch.ones(n, dtype=torch.bool))

    def points(self, distance: str) -> Tensor:
        """What the distance of two channels is taken of, [channels, m]."""
        made, read = self.vectors["weight"], self.reader
        if distance == "paper":
            return torch.cat([made, read], 1)
        if "gain" in self.vectors:
            made = made * (self.vectors["gain"] / self.vectors["deviation"])[:, None]
        norms = made.norm(dim=1), read.norm(dim=1)
        balance = (norms[1] / norms[0]).sqrt()
        balance = torch.where((norms[0] > 0) & (norms[1] > 0), balance, 1.0)[:, None]
        return torch.cat([made * balance, read / balance], 1)

    def merge(self, i: int, j: int, ratio: float) -> None:
        """Put channel j into channel i: sums of what makes it, the mean of what reads it."""
        for values in self.vectors.values():
            values[i] += values[j]  # deviations too: (sqrt v_i + sqrt v_j)^2 is the variance
        total = self.counts[i] + self.counts[j]
        self.reader[i] += (self.reader[j] - self.reader[i]) * (self.counts[j] / total)
        self.counts[i], self.alive[j] = total, False
        self.merges.append((i, j, ratio))

    def nearest(self, distance: str) -> tuple[float, int, int]:
        """The least squared distance over the greatest, and which two channels have it."""
        at = self.alive.nonzero()[:, 0]
        points = self.points(distance)[at]
        squared = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist").square()
        most = float(squared.max())
        squared.fill_diagonal_(torch.inf)
        place = int(squared.argmin())
        i, j = divmod(place, len(at))
        least = float(squared[i, j])
        ratio = 0.0 if least <= 1e-24 * float(points.square().sum(1).max()) else least / most
        return ratio, int(at[min(i, j)]), int(at[max(i, j)])

    def put(self, module: nn.Module) -> None:
        """Write the channels that are left into a module, which becomes smaller."""
        modules: dict[str, Any] = dict(module.named_modules())
        at, axis = self.alive, self.axis
        producer, consumer = modules[axis.producer], modules[axis.consumer]
        kept = int(at.sum())

        def put(owner: Any, name: str, values: Tensor) -> None:
            old = getattr(owner, name)
            new = values.to(old.device, old.dtype)
            if isinstance(old, nn.Parameter):
                new = nn.Parameter(new, requires_grad=old.requires_grad)
            setattr(owner, name, new)

        put(producer, "weight", self.vectors["weight"][at].reshape(-1, *producer.weight.shape[1:]))
        if producer.bias is not None:
            put(producer, "bias", self.vectors["bias"][at])
        if axis.norm is not None:
            norm = modules[axis.norm]
            if norm.weight is not None:
                put(norm, "weight", self.vectors["gain"][at])
                put(norm, "bias", self.vectors["offset"][at])
            put(norm, "running_mean", self.vectors["mean"][at])
            put(norm, "running_var", self.vectors["deviation"][at].square() - norm.eps)
            norm.num_features = kept
        w, n = consumer.weight, len(at)
        block = w.shape[1] // n  # places of a flattened channel
        read = self.reader[at].unflatten(1, (len(w), -1)).transpose(0, 1)
        put(consumer, "weight", read.reshape(len(w), kept * block, *w.shape[2:]))
        for owner, names in ((producer, ("out_channels", "out_features")),
                             (consumer, ("in_channels", "in_features"))):  # fmt: skip
            for name in names:
                if hasattr(owner, name):
                    setattr(owner, name, kept if owner is producer else kept * block)


def merge_channels(
    module: nn.Module,
    beta: float = 0.1,
    *,
    axes: Sequence[Axis] | None = None,
    distance: Distance = "balanced",
    most: float = 1.0,
) -> tuple[nn.Module, dict[str, list[tuple[int, int, float]]]]:
    """A smaller copy of a module, its near channels merged, and the merges of each layer in order.

    Layers are visited in turn, one merge a visit: of the nearest pair while ``D_min <= beta D_max``
    over the channels that are left. Sums on the side that makes a channel, its bias and batch norm,
    with ``var' = (sqrt var_i + sqrt var_j)^2``; a mean by count on the side that reads it.

    Parameters
    ----------
    beta : threshold, 0 or more and below 1.
    axes : hidden layers; those of `channel_axes` by default.
    distance : as for `feature_complexity`.
    most : share of a layer's channels that may be merged away.
    """
    if not 0 <= beta < 1 or not 0 < most <= 1 or distance not in get_args(Distance):
        raise ParameterError(
            "merging takes beta from 0 to below 1, most above 0 and at most 1, and distance "
            f"balanced or paper; got {beta}, {most}, {distance!r}."
        )
    resident(module, "merging its channels")
    smaller = copy.deepcopy(module)
    axes = list(axes or channel_axes(module))
    merges: dict[str, list[tuple[int, int, float]]] = {a.producer: [] for a in axes}
    names = {a.producer: np.arange(_width(module, a)) for a in axes}
    widths = {a: _width(module, a) for a in axes}
    open_ = set(axes)
    while open_:
        for axis in [a for a in axes if a in open_]:
            left, done = _width(smaller, axis), merges[axis.producer]
            channels = _Channels.of(smaller, axis)
            ratio, i, j = channels.nearest(distance) if left > 1 else (2.0, 0, 0)
            if ratio > beta or len(done) >= int(most * widths[axis]):
                open_.discard(axis)  # others' merges may bring its channels nearer
                continue
            channels.counts = _counts(names[axis.producer], done)
            channels.merge(i, j, ratio)
            own = names[axis.producer]
            done.append((int(own[i]), int(own[j]), ratio))
            names[axis.producer] = np.delete(own, j)
            channels.put(smaller)
            open_ |= {a for a in axes if a.producer == axis.consumer or a.consumer == axis.producer}
    return smaller, merges


def _counts(names: NDArray, merges: Sequence[tuple[int, int, float]]) -> Tensor:
    """How many channels each one that is left stands for."""
    held = dict.fromkeys([*names.tolist(), *(j for _, j, _ in merges)], 1)
    for i, j, _ in merges:
        held[i] += held[j]
    return torch.tensor([held[k] for k in names.tolist()], dtype=torch.float64)


def _width(module: nn.Module, axis: Axis) -> int:
    weight: Any = module.get_submodule(axis.producer).weight
    return len(weight)


def feature_complexity(
    model: Any,
    betas: Sequence[float] = BETAS,
    *,
    distance: Distance = "balanced",
    name: str = "feature complexity",
) -> FeatureComplexity:
    """Channels that each hidden layer keeps when near ones are merged, by threshold; no data.

    ``D_ij`` is the squared distance of channels i and j over all that makes and reads them.

    Parameters
    ----------
    model : a module, or a loaded model.
    betas : thresholds of `merge_channels`.
    distance : ``"paper"`` takes the weights as they are. ``"balanced"`` folds batch norm into what
        makes a channel and puts both sides of each channel to one length, so that scaling a layer
        up and its readers down, which changes nothing, does not change the count either.

    Range: 1 to the width, fewer is simpler; falls as beta rises, mostly. Invariant to the order of
    channels; ``balanced`` to the scale of a layer, ``paper`` not.
    Degenerate: equal channels are merged at any beta, 0 included; two different channels are each
    the nearest and the farthest, so they are never merged. Zero channels have no balance.
    Cost: merges times channels^2 times weights a channel; a layer of 2,048 channels that merges
    most of them takes hours, one of 512 some minutes. It needs no rows, so n is 0.
    Source: arXiv 2310.06756, iterative feature merging. Differs: the released code sums running
    variances, which is wrong by a factor sqrt 2 for two equal channels, and trips on exact
    duplicates; balanced distances are ours.
    """
    module: nn.Module = getattr(model, "module", model)
    axes = channel_axes(module)
    ordered = sorted(set(map(float, betas)))
    if not ordered:
        raise ParameterError("feature_complexity needs a threshold.")
    widths = [_width(module, a) for a in axes]
    kept, merges = np.empty((len(ordered), len(axes)), dtype=np.int64), {}
    for i, beta in enumerate(ordered):
        _, merges = merge_channels(module, beta, axes=axes, distance=distance)
        kept[i] = [w - len(merges[a.producer]) for w, a in zip(widths, axes, strict=True)]
    return FeatureComplexity(
        name=name,
        n=0,
        mode="paper" if distance == "paper" else "recommended",
        provenance={"module": type(module).__name__, "versions": versions()},
        layers=tuple(a.producer for a in axes),
        widths=tuple(widths),
        betas=tuple(ordered),
        kept=kept,
        distance=distance,
        merges=merges,
        notes=("Channels that are added to others, as in a residual stream, are left out.",),
    )
