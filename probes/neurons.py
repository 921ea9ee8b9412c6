"""Activation sparsity: what share of a layer's neurons is active, and how often each one is.

Everything is counted in whole numbers over batches, so that a stream gives what one matrix gives.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp.capturing import Capture
from interp.errors import DataError, ParameterError, ShapeError
from interp.experts import Experts
from interp.runs import versions
from interp.store import ActivationStore, Matrix
from probes.criteria import Criterion
from probes.firing import Sparsity

__all__ = ["SparsityCounter", "sparsity"]

BATCH = 4096
"""Rows of a matrix or store that are read at a time."""


@dataclass
class _Counts:
    """Whole numbers of one hook point with d neurons."""

    active: Tensor  # [d] tokens in which each neuron is active
    valid: Tensor  # [d] tokens in which its value is finite
    per_token: Tensor  # [d + 1] tokens with each number of active neurons
    zeros: int = 0
    dtype: str = ""

    @classmethod
    def of(cls, d: int, dtype: str) -> "_Counts":
        def blank(size: int) -> Tensor:
            return torch.zeros(size, dtype=torch.int64)

        return cls(blank(d), blank(d), blank(d + 1), dtype=dtype)

    def add(self, other: "_Counts") -> None:
        self.active += other.active
        self.valid += other.valid
        self.per_token += other.per_token
        self.zeros += other.zeros


class SparsityCounter:
    """Counts of active neurons over batches of rows; two counters merge into one.

    Whole numbers alone are kept, three a neuron, so batches of any size and order give the same
    result to the last bit.

    Parameters
    ----------
    criterion, level, norm, gated : as for `sparsity`.
    """

    def __init__(
        self,
        criterion: str,
        level: float | None = None,
        norm: str | None = None,
        gated: bool = False,
    ) -> None:
        self.criterion = Criterion(criterion, level, norm, gated)
        self._counts: dict[str, _Counts] = {}

    def update(self, x: Any, hookpoint: str = "activations") -> "SparsityCounter":
        """Take in rows [n, d] of a hook point; n may be 0 (an expert that no token reached).

        Raises
        ------
        ShapeError
            The rows are no matrix of floats, or have another width than before.
        ParameterError
            The criterion is ``"exact"`` and a value is negative. Nothing is counted then.
        """
        rows = _matrix(x, hookpoint)
        dtype = str(rows.dtype).removeprefix("torch.")
        new = _Counts.of(rows.shape[1], dtype)
        exact = self.criterion.kind == "exact"
        if exact and not self.criterion.gated and bool((rows < 0).any()):
            raise ParameterError(
                f"{hookpoint} has negative values ({float(rows[rows < 0][0]):.3g}), so it is no "
                "ReLU and exact zeros do not say which neurons are active; use rel_eps, abs_eps, "
                "mass or topk_ratio, or gated=True (--gated) for the product of a ReLU gate."
            )
        active = self.criterion.active(rows)
        new.active += active.sum(0).cpu()
        new.valid += rows.isfinite().sum(0).cpu()
        new.per_token += torch.bincount(active.sum(1), minlength=rows.shape[1] + 1).cpu()
        new.zeros = int((rows == 0).sum())
        self._take(hookpoint, new)
        return self

    def merge(self, other: "SparsityCounter") -> "SparsityCounter":
        """Take in the counts of another counter of the same criterion.

        Raises
        ------
        ParameterError
            The criteria differ.
        ShapeError
            A hook point has another width there.
        """
        if other.criterion != self.criterion:
            raise ParameterError(
                f"counters of {self.criterion} and {other.criterion} do not merge."
            )
        for hookpoint, counts in other._counts.items():
            self._take(hookpoint, counts)
        return self

    def result(self, name: str = "activations", **about: Any) -> Sparsity:
        """What was counted so far.

        Parameters
        ----------
        about : ``sites``, ``initial``, ``provenance`` of the result.

        Raises
        ------
        DataError
            No row was counted.
        ParameterError
            The criterion is ``"exact"``, and a hook point holds no exact zero at all.
        """
        counted = self._counts
        if not any(int(c.per_token.sum()) for c in counted.values()):
            raise DataError(f"{name} has no rows, so no neuron was seen.")
        if self.criterion.kind == "exact":
            for hookpoint, c in counted.items():
                if int(c.valid.sum()) and not c.zeros:
                    raise ParameterError(
                        f"{hookpoint} has no exact zero among {int(c.valid.sum()):,} values, so "
                        "it is no ReLU; use rel_eps, abs_eps, mass or topk_ratio."
                    )
        return Sparsity.of_counts(
            name,
            self.criterion,
            {h: (c.active.numpy(), c.valid.numpy(), c.per_token.numpy(), c.dtype)
             for h, c in counted.items()},
            **about,
        )  # fmt: skip

    def _take(self, hookpoint: str, new: _Counts) -> None:
        counts = self._counts.get(hookpoint)
        if counts is None:
            counts = self._counts[hookpoint] = _Counts.of(len(new.active), new.dtype)
        if len(counts.active) != len(new.active):
            raise ShapeError(
                f"{hookpoint} has {len(counts.active)} neurons, and rows of {len(new.active)} came."
            )
        if counts.dtype != new.dtype:
            raise ShapeError(f"{hookpoint} has {counts.dtype} rows, and {new.dtype} ones came.")
        counts.add(new)


Source = ActivationStore | Capture | Experts | Mapping[str, Any] | Any


def sparsity(
    source: Source,
    criterion: str,
    *,
    level: float | None = None,
    norm: str | None = None,
    gated: bool = False,
    initial: "Source | Sparsity | None" = None,
    name: str | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Sparsity:
    """How sparse activations are: the share of active neurons by layer, and each neuron's rate.

    Parameters
    ----------
    source : a store, one of its matrices, an array or tensor [n, d]; a mapping of names to those
        (as the experts of a mixture, each with the rows that were routed to it); a
        `interp.capturing.Capture` or `interp.experts.Experts`, whose rows are counted as they come
        and not kept; or an iterable of mappings, a batch each. A row is a token or position:
        capture with ``pool="all"``, which leaves pads out. Further axes (heads) are flattened into
        neurons.
    criterion : which values count as active: ``"exact"``, ``"abs_eps"``, ``"rel_eps"``,
        ``"mass"`` or ``"topk_ratio"`` (`probes.criteria.Criterion`). There is no default, as a
        density means nothing without it.
    level, norm, gated : of the criterion.
    initial : the same of the model with random weights (`interp.Model.reinitialised`), a source or
        a result, so that it shows what training did.
    name : of the result; the data's name otherwise.
    progress : called with (rows done, rows, what).

    Returns
    -------
    Sparsity
        Range: densities and rates are 0 to 1; lower is sparser.
        Degenerate: a hook point without rows has a density of nan, with the reason; a map of zeros
        has 0, and all its neurons are dead, which is said beside it. NaN and infinity are counted
        apart, and are neither active nor inactive.

    Raises
    ------
    ParameterError
        ``exact`` was asked of what is no ReLU: a value is negative, or not one is exactly zero;
        or the initial result has another criterion.
    DataError
        There are no rows.
    ShapeError
        The rows are no floats, or the initial ones have other hook points or widths.

    Notes
    -----
    Source: Li et al., "The Lazy Neuron Phenomenon", arXiv 2210.06313, section 2: ``exact`` on the
    ReLU's output, by layer over tokens, and by neuron. Differs: pads are left out (the paper does
    not say), and the other criteria and the density of the live neurons are added.
    """
    counter = SparsityCounter(criterion, level, norm, gated)
    for hookpoint, rows in _batches(source, progress):
        counter.update(rows, hookpoint)
    if initial is not None and not isinstance(initial, Sparsity):
        initial = sparsity(
            initial, criterion, level=level, norm=norm, gated=gated, progress=progress
        )
    about = _about(source)
    found = counter.result(
        name or about.get("data", {}).get("name") or "activations",
        sites=_sites(source),
        provenance={**about, "versions": versions()},
    )
    return found if initial is None else found.beside(initial)


def _matrix(x: Any, hookpoint: str) -> Tensor:
    rows = x[:] if isinstance(x, Matrix) else torch.as_tensor(x)
    if not rows.is_floating_point():
        kind = str(rows.dtype).removeprefix("torch.")
        raise ShapeError(f"{hookpoint} holds {kind} numbers, and activations are floats.")
    if rows.ndim < 2 or 0 in rows.shape[1:]:
        raise ShapeError(f"{hookpoint} must be [n, d], a row a token; got {list(rows.shape)}.")
    return rows.detach().flatten(1)


def _batches(
    source: Source, progress: Callable[[int, int, str], None] | None
) -> Iterator[tuple[str, Any]]:
    """(hook point, rows) of whatever holds activations."""
    if isinstance(source, Capture | Experts):
        for batch in source.stream(progress):
            yield from batch.items()
        return
    if isinstance(source, ActivationStore):
        source = {h: source[h] for h in source.hookpoints}
    if isinstance(source, Matrix | Tensor | np.ndarray | list | tuple):
        source = {"activations": source}
    if not isinstance(source, Mapping):
        if not isinstance(source, Iterable):
            raise ParameterError(
                "sparsity takes a store, a matrix, a mapping of names to matrices or a Capture; "
                f"got {type(source).__name__}."
            )
        for batch in source:
            yield from batch.items()
        return
    for i, (hookpoint, matrix) in enumerate(source.items()):
        rows = matrix if isinstance(matrix, Matrix) else _matrix(matrix, hookpoint)
        for start in range(0, max(1, len(rows)), BATCH):
            yield hookpoint, rows[start : start + BATCH]
        if progress is not None:
            progress(i + 1, len(source), "hook points")


def _about(source: Source) -> dict[str, Any]:
    """Model, data and pooling, as far as the source knows them."""
    if isinstance(source, Capture | Experts):
        data = source.data
        return {
            "model": source.model.identity(),
            "data": {"name": data.name, "hash": data.hash, "n": len(data)},
            "pool": source.pool,
        }
    if isinstance(source, ActivationStore):
        kept = {k: source.manifest.get(k) for k in ("model", "data", "pool")}
        return {k: v for k, v in kept.items() if v is not None}
    return {}


def _sites(source: Source) -> dict[str, str]:
    """Hook point -> where it lies in the model."""
    if isinstance(source, Capture | Experts):
        return {p.name: p.place for p in source.points}
    if isinstance(source, ActivationStore):
        found = source.manifest["hookpoints"]
        return {h["name"]: h["module"] for h in found if "module" in h}
    return {}
