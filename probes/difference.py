"""What changed from one run to another: depth curves and sparsity on the same data."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from interp.errors import DataError, ParameterError
from interp.results import Result
from interp.runs import versions
from probes.curves import ConceptDepth
from probes.firing import Sparsity
from probes.paired import check_pair, paired_shifts, simultaneous_interval
from probes.plan import BOOTSTRAP_DRAWS
from probes.scores import accuracy_in_draws, bootstrap_weights

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "DepthDifference",
    "SparsityDifference",
    "depth_difference",
    "sparsity_difference",
]


@dataclass(frozen=True, kw_only=True)
class _ByHookpoint(Result):
    """A number at each hook point that two runs share, and the second less the first.

    Attributes
    ----------
    models : what the two runs are called.
    hookpoints : those that both have; the arrays have an entry each.
    first, second, delta : the number in each run, and ``second - first``; nan where undefined.
    low, high : 95 % interval of ``delta``; nan where there is none, and ``reasons`` says why.
    """

    models: tuple[str, str]
    hookpoints: tuple[str, ...]
    first: NDArray
    second: NDArray
    delta: NDArray
    low: NDArray
    high: NDArray
    notes: tuple[str, ...] = ()

    def to_frame(self) -> "pd.DataFrame":
        """A row a hook point."""
        import pandas as pd

        names = ("first", "second", "delta", "low", "high")
        columns = {name: getattr(self, name) for name in names}
        return pd.DataFrame({"hookpoint": self.hookpoints, **columns})

    def metrics(self) -> dict[str, Any]:
        """Numbers and names for ``metrics.json``; ``largest`` is the delta farthest from 0."""
        names = ("first", "second", "delta", "low", "high")
        known = self.delta[np.isfinite(self.delta)]
        largest = float(known[np.abs(known).argmax()]) if known.size else None
        return {
            **{name: getattr(self, name) for name in names},
            "hookpoints": list(self.hookpoints),
            "largest": largest,
            "mean": float(known.mean()) if known.size else None,
            "reasons": self.reasons,
        }


@dataclass(frozen=True, kw_only=True)
class DepthDifference(_ByHookpoint):
    """Accuracy of one concept's probes in two runs, on the same held-out rows.

    Attributes
    ----------
    points : as of `probes.paired.paired_shifts`: ``onset_depth_shift``, ``peak_shift`` and so on,
        each with ``…_low`` and ``…_high``; depths are fractions, so models may differ in layers.
    draws, seed : of the paired bootstrap.

    The interval of ``delta`` holds at all hook points together.
    """

    kind: ClassVar[str] = "depth_difference"

    points: dict[str, Any]
    draws: int
    seed: int

    def metrics(self) -> dict[str, Any]:
        """Numbers and names for ``metrics.json``."""
        points = {k: v for k, v in self.points.items() if not k.endswith("_undefined")}
        return {**super().metrics(), **points, "reasons": self.reasons}


@dataclass(frozen=True, kw_only=True)
class SparsityDifference(_ByHookpoint):
    """Share of active neurons in two runs, by hook point.

    Attributes
    ----------
    rule : what counts as active.
    woke, died : [h] neurons that are active in some token of the second run alone, and of the
        first alone; -1 where the widths differ.
    """

    kind: ClassVar[str] = "sparsity_difference"

    rule: str
    woke: tuple[int, ...]
    died: tuple[int, ...]

    def to_frame(self) -> "pd.DataFrame":
        """A row a hook point."""
        counted = {
            name: [None if v < 0 else v for v in getattr(self, name)] for name in ("woke", "died")
        }
        return super().to_frame().drop(columns=["low", "high"]).assign(**counted)


def depth_difference(
    first: ConceptDepth,
    second: ConceptDepth,
    *,
    models: tuple[str, str] = ("first", "second"),
    draws: int = BOOTSTRAP_DRAWS,
    seed: int = 0,
) -> DepthDifference:
    """Accuracy at each hook point of a second run less that of a first, with a paired interval.

    The same draws of whole groups are taken from the held-out answers of both, so that what makes
    a row easy or hard cancels. The interval holds at all hook points together.

    Range: -1 to 1; above 0 the second run's probes read the concept better.
    Degenerate: no interval, with a reason, where there are fewer than two groups. Where the runs
    share no hook point the curves are empty, and the points by fraction of depth remain.

    Parameters
    ----------
    first, second : of `probes.concept_depth`, on the same rows, groups, folds and seed.
    models : what the two are called.
    draws : of the bootstrap.

    Raises
    ------
    DataError, ParameterError
        The two do not answer the same rows in the same way (`probes.paired.check_pair`).
    """
    check_pair(first, second, hookpoints=False)
    (points,) = paired_shifts(
        first, [second], draws=draws, seed=seed, hookpoints=False, names=("first run", "second run")
    )
    reasons = dict(points.pop("reasons"))
    shared = tuple(h for h in first.hookpoints if h in second.hookpoints)
    at = [[r.hookpoints.index(h) for h in shared] for r in (first, second)]
    one, two = (r.accuracy[i] for r, i in zip((first, second), at, strict=True))
    low = high = np.full(len(shared), np.nan)
    sizes = cast(NDArray, first.group_sizes)
    if not shared:
        reasons["delta"] = "the two runs share no hook point."
    elif len(sizes) < 2:
        reasons["low"] = "an interval needs two groups or more to draw from."
    else:
        weights = bootstrap_weights(np.arange(len(sizes)), draws=draws, seed=seed)
        drawn = [
            accuracy_in_draws(cast(NDArray, r.hits)[i], sizes, weights)
            for r, i in zip((first, second), at, strict=True)
        ]
        low, high = simultaneous_interval(
            np.concatenate([(two - one)[:, None], (drawn[1] - drawn[0]).T], axis=1)
        )
    return DepthDifference(
        name=first.name,
        n=first.n,
        mode=first.mode,
        provenance={**_both(first, second), "seed": seed, "versions": versions()},
        reasons=reasons,
        models=models,
        hookpoints=shared,
        first=one,
        second=two,
        delta=two - one,
        low=low,
        high=high,
        points=points,
        draws=draws,
        seed=seed,
        notes=(
            f"Paired bootstrap of {draws:,} draws over groups; the probes are not fitted anew, and "
            "the interval of the curve holds at all hook points together.",
        ),
    )


def sparsity_difference(
    first: Sparsity, second: Sparsity, *, models: tuple[str, str] = ("first", "second")
) -> SparsityDifference:
    """Density at each hook point of a second run less that of a first.

    Range: -1 to 1; below 0 fewer neurons are active in the second.
    Degenerate: there is no interval: tokens of one text are not independent, and the counts of a
    run are not kept by text.

    Parameters
    ----------
    first, second : of `probes.sparsity`, by the same criterion.
    models : what the two are called.

    Raises
    ------
    ParameterError
        The criteria differ.
    DataError
        The runs share no hook point.
    """
    if first.rule != second.rule:
        raise ParameterError(
            f"densities are compared by one criterion; the first run counts by {first.rule}, the "
            f"second by {second.rule}."
        )
    shared = tuple(h for h in first.hookpoints if h in second.hookpoints)
    if not shared:
        raise DataError("the two runs share no hook point; measure the same ones in both.")
    at = [[r.hookpoints.index(h) for h in shared] for r in (first, second)]
    one, two = (r.density[i] for r, i in zip((first, second), at, strict=True))
    woke, died = zip(
        *(_moved(first.active[i], second.active[j]) for i, j in zip(*at, strict=True)), strict=True
    )
    nothing = np.full(len(shared), np.nan)
    return SparsityDifference(
        name=first.name,
        n=min(first.n, second.n),
        mode=first.mode,
        provenance={**_both(first, second), "versions": versions()},
        reasons={"low": "tokens are not independent, and a run's counts are not kept by text."},
        models=models,
        hookpoints=shared,
        first=one,
        second=two,
        delta=two - one,
        low=nothing,
        high=nothing,
        rule=str(first.rule),
        woke=woke,
        died=died,
    )


def _moved(first: NDArray, second: NDArray) -> tuple[int, int]:
    """Neurons that only the second run, and only the first, has active in some token."""
    if len(first) != len(second):
        return -1, -1
    one, two = first > 0, second > 0
    return int((two & ~one).sum()), int((one & ~two).sum())


def _both(first: Result, second: Result) -> dict[str, Any]:
    """What the provenance of both runs agrees on."""
    return {k: v for k, v in first.provenance.items() if second.provenance.get(k) == v}
