"""The inputs that fire a unit, and their codes at a deeper hook point: one pass over the data."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from interp.capturing import Capture
from interp.errors import ParameterError
from interp.hooks import evaluating
from probes.multifaceted.units import Unit

__all__ = ["Fired", "collect"]

SPARE = 4
"""So many times the inputs that are kept are held before the weakest are dropped."""


@dataclass
class Fired:
    """Inputs that fire a unit, in the data's order.

    Attributes
    ----------
    rows : [m] rows of the data.
    activation : [m] float64: the greatest over an input's positions.
    position : [m] where that is.
    codes : [m, d] at the deeper hook point: of an image the mean over positions, of a text those of
        the token that fires most.
    traces : of texts, the activation at each token up to that one, and a few after it.
    read : inputs that were read.
    firing : of them above the threshold.
    taken : inputs that fire, or all of a class; more than m where only the strongest are kept.
    chosen : whether rows were taken whether they fire or not.
    strongest : the greatest activation of all inputs, firing or not; nan where none was read.
    """

    rows: NDArray
    activation: NDArray
    position: NDArray
    codes: NDArray
    traces: list[NDArray] = field(default_factory=list)
    read: int = 0
    firing: int = 0
    taken: int = 0
    chosen: bool = False
    strongest: float = float("nan")


class Kept:
    """The strongest inputs so far."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.held: list[tuple[float, int, int, NDArray, NDArray]] = []
        self.firing = self.taken = 0
        self.strongest = float("nan")

    def add(self, item: tuple[float, int, int, NDArray, NDArray], *, fires: bool) -> None:
        self.taken += 1
        self.firing += fires
        self.held.append(item)
        if len(self.held) >= SPARE * self.most:
            self._prune()

    def _prune(self) -> None:
        self.held.sort(key=lambda h: (-h[0], h[1]))
        del self.held[self.most :]

    def result(self, read: int, width: int) -> Fired:
        self._prune()
        self.held.sort(key=lambda h: h[1])
        codes = np.array([h[3] for h in self.held], dtype=np.float32)
        return Fired(
            rows=np.array([h[1] for h in self.held], dtype=np.int64),
            activation=np.array([h[0] for h in self.held], dtype=np.float64),
            position=np.array([h[2] for h in self.held], dtype=np.int64),
            codes=codes.reshape(len(self.held), width),
            traces=[h[4] for h in self.held],
            read=read,
            firing=self.firing,
            taken=self.taken,
            strongest=self.strongest,
        )


def collect(
    work: Capture,
    unit: Unit,
    codes_at: str,
    *,
    n_top: int,
    threshold: float = 0.0,
    among: Sequence[int] | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Fired:
    """Read the unit and the codes of every input, and keep those that fire it.

    Parameters
    ----------
    work : a capture of both hook points with pool ``all``.
    unit, codes_at : what is read.
    n_top : inputs kept: the strongest. Memory is bounded by four times as many codes.
    threshold : an input fires where its greatest activation is above this.
    among : rows that are taken whether they fire or not, and no others (the paper's images of a
        class); None reads all.
    progress : called with (inputs done, inputs, what).

    Raises
    ------
    ParameterError
        The hook point has no such unit.
    """
    if n_top < 1:
        raise ParameterError(f"n_top must be at least 1; got {n_top}.")
    unit.check(torch.Size(work.outlines[unit.hookpoint].shape).numel())
    width = torch.Size(work.outlines[codes_at].shape).numel()
    chosen = None if among is None else set(among)
    kept, done, text = Kept(n_top), 0, work.data.kind == "text"
    best = -np.inf
    with evaluating(work.model.module):
        for shard in work.shards:
            for rows in work.batches(*shard):
                if chosen is not None:
                    rows = [r for r in rows if r in chosen]
                done += len(rows)
                if not rows:
                    continue
                held = work.pooled(rows)
                acts = unit.read(held[unit.hookpoint]).cpu()
                codes = held[codes_at].flatten(1)
                best = max(best, float(acts.max()))
                _keep(kept, work, unit, codes_at, rows, acts, codes, text=text,
                      threshold=threshold, all_of_them=chosen is not None)  # fmt: skip
                if progress is not None:
                    progress(done, len(work.data), "inputs")
    kept.strongest = best if np.isfinite(best) else float("nan")
    found = kept.result(done, width)
    found.chosen = chosen is not None
    return found


AFTER = 3
"""Tokens after the one that fires that a snippet shows."""


def _keep(
    kept: Kept,
    work: Capture,
    unit: Unit,
    codes_at: str,
    rows: Sequence[int],
    acts: Tensor,
    codes: Tensor,
    *,
    text: bool,
    threshold: float,
    all_of_them: bool,
) -> None:
    """Of a batch, the inputs whose greatest activation is above the threshold."""
    start, deep = 0, 0
    for row in rows:
        n, m = work.lengths[unit.hookpoint][row], work.lengths[codes_at][row]
        mine, code = acts[start : start + n], codes[deep : deep + m]
        start, deep = start + n, deep + m
        at = int(mine.argmax())
        value = float(mine[at])
        if not (all_of_them or value > threshold):
            continue
        vector = code[at] if text and m == n else code.double().mean(0)
        trace: Any = mine[: at + AFTER + 1].float().numpy() if text else np.zeros(0)
        item = (value, row, at, vector.float().cpu().numpy(), trace)
        kept.add(item, fires=value > threshold)
