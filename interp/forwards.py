"""Rows of data through a model: what its hook points hold for them, pooled, and whether that can be
trusted: every hook point fires once, batches change nothing, all numbers are finite.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from interp.certificate import deviation
from interp.errors import DataError, InterpError, LayerNotFound, ModelError, one_line
from interp.feeds import as_tokens
from interp.hookpoints import HookPoint
from interp.hooks import all_fired, evaluating, hooked
from interp.pooling import Pool, pool

if TYPE_CHECKING:
    from interp.models import Model

__all__ = ["Forwards", "Outline", "name_of"]


@dataclass(frozen=True)
class Outline:
    """The rows of a hook point: their shape, dtype, and positions a row where that is fixed."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    tokens: int | None

    @property
    def bytes(self) -> int:
        """Bytes of one row."""
        return self.dtype.itemsize * (torch.Size(self.shape).numel() if self.shape else 1)


class Forwards:
    """Forwards of a model over rows of data, up to the last hook point asked for."""

    model: "Model"
    data: Any
    feed: Any
    pool: str
    points: list[HookPoint]
    batch_size: int | None
    dtype: torch.dtype | None
    outlines: dict[str, Outline]
    lengths: dict[str, Sequence[int]]
    """Positions of each row of the data at a hook point."""

    def how(self, point: HookPoint) -> Pool:
        """How a hook point's positions are pooled."""
        return cast(Pool, self.pool)

    # -- checking --------------------------------------------------------------------------------

    def _outlines(self) -> "dict[str, Outline]":
        """The shapes of the rows: from a first forward, once for a model and a kind of input."""
        names = tuple(p.name for p in self.points)
        key = (names, self.pool, self.dtype, self.feed.key, self.model.dtype)
        if key not in self.model.outlines:
            self.model.outlines[key] = self._first_forward()
        return self.model.outlines[key]

    def _first_forward(self) -> "dict[str, Outline]":
        """Run the longest row to the end: what fires, how often, and the shape of its rows."""
        longest = max(range(len(self.data)), key=lambda i: self.feed.lengths[i])
        fired: dict[str, int] = {p.name: 0 for p in self.points}
        outlines: dict[str, Outline] = {}

        def look(point: HookPoint, tensor: Tensor) -> None:
            fired[point.name] += 1
            x, mask = as_tokens(point, tensor, self.feed.mask_of(point), self.how(point), 1)
            fixed = None if mask is not None else x.shape[1]
            outlines[point.name] = Outline(tuple(x.shape[2:]), self.dtype or x.dtype, fixed)

        module = self.model.module
        with evaluating(module), torch.inference_mode(), hooked(module, self.points, look):
            try:
                self.feed.run([longest])
            except (InterpError, MemoryError, torch.OutOfMemoryError):
                raise
            except Exception as error:  # a foreign forward fails in its own ways
                text = one_line(error, 200)
                raise ModelError(
                    f"the forward of {self.model.spec} fails on {self.data.name} "
                    f"({self.data.kind}): {text}."
                ) from error
        all_fired(fired, self.model.spec)
        for name, times in fired.items():
            if times > 1:
                raise LayerNotFound(
                    f"{name} fires {times} times in one forward (a shared module), so it has no "
                    "one activation a row; use interp.record and its .calls()."
                )
        return outlines

    def _row_lengths(self, name: str) -> Sequence[int]:
        """Positions that each row of the data has at a hook point."""
        fixed = self.outlines[name].tokens
        return self.feed.lengths if fixed is None else [fixed] * len(self.data)

    def _certify(self) -> dict[str, float]:
        """Largest deviation, in units of the tolerance, between a row alone and in a batch."""
        if self.batch_size == 1:
            return {}
        ragged = len(set(self.feed.lengths)) > 1  # without pads, padding is not tested
        names = tuple(p.name for p in self.points)
        key = (names, self.pool, self.feed.key, ragged, self.model.dtype, self.model.device)
        if len(self.data) > 1 and key not in self.model.certificates:
            self.model.certificates[key] = self._alone_and_batched()
        return self.model.certificates.get(key, {})

    def _alone_and_batched(self) -> dict[str, float]:
        n = len(self.data)
        order = np.argsort(self.feed.lengths, kind="stable")
        chosen = sorted({int(order[i]) for i in (0, n // 3, 2 * n // 3, -1)})
        dtype = self.model.dtype
        batched = self.pooled(chosen)
        worst = {p.name: 0.0 for p in self.points}
        seen = {p.name: 0 for p in self.points}
        for row in chosen:
            for name, alone in self.pooled([row]).items():
                start = seen[name]
                seen[name] += len(alone)
                found = deviation(alone, batched[name][start : start + len(alone)], dtype)
                worst[name] = found if found != found else max(worst[name], found)
        for name, ratio in worst.items():
            if not ratio <= 1:
                raise ModelError(
                    f"{name} differs between a row alone and in a padded batch, by {ratio:.3g} "
                    f"times the tolerance of {name_of(dtype)}: this model is not batch invariant; "
                    "capture with batch_size=1 (--batch-size 1)."
                )
        return {name: round(ratio, 9) for name, ratio in worst.items()}

    # -- running ---------------------------------------------------------------------------------

    def pooled(self, rows: Sequence[int]) -> dict[str, Tensor]:
        """What the hook points hold for some rows of the data, run as one batch, in their order."""
        found: dict[str, Tensor] = {}

        def keep(point: HookPoint, tensor: Tensor, rows: Sequence[int]) -> None:
            x, mask = as_tokens(point, tensor, self.feed.mask_of(point), self.how(point), len(rows))
            found[point.name] = pool(x, mask, self.how(point)).clone()
            self._check_finite(point, found[point.name], rows)

        with self._running(keep) as run:
            run(rows)
        return found

    def _check_finite(self, point: HookPoint, pooled: Tensor, rows: Sequence[int]) -> None:
        wide = torch.promote_types(pooled.dtype, torch.float32)
        if bool(torch.isfinite(pooled.sum(dtype=wide))):
            return  # one pass: a sum is finite only if every term is
        bad = (~torch.isfinite(pooled)).flatten(1).any(1).nonzero()
        if not len(bad):
            return  # finite terms whose sum overflows
        row, count = rows[0], int(bad[0])
        for row in rows:
            count -= self.lengths[point.name][row] if self.pool == "all" else 1
            if count < 0:
                break
        cause = "use float32 or bfloat16" if pooled.dtype == torch.float16 else "look at that row"
        raise DataError(
            f"row {row} of {self.data.name} gives NaN or infinity at {point.name} in "
            f"{name_of(pooled.dtype)}; {cause}."
        )

    @contextmanager
    def _running(
        self, keep: Callable[[HookPoint, Tensor, Sequence[int]], None]
    ) -> Iterator[Callable[[Sequence[int]], None]]:
        """A function that runs some rows, up to the last hook point asked for."""
        waiting: set[str] = set()
        current: Sequence[int] = ()

        def see(point: HookPoint, tensor: Tensor) -> None:
            keep(point, tensor, current)
            waiting.discard(point.name)
            if not waiting:
                raise _Enough

        def run(rows: Sequence[int]) -> None:
            nonlocal current
            current = rows
            waiting.update(p.name for p in self.points)
            try:
                self.feed.run(rows)
            except _Enough:
                return
            raise LayerNotFound(
                f"row {rows[0]}: {', '.join(waiting)} did not fire, as they did on the longest row."
            )

        module = self.model.module
        with evaluating(module), torch.inference_mode(), hooked(module, self.points, see):
            yield run


class _Enough(Exception):
    """Ends a forward whose last hook point has fired."""


def name_of(dtype: torch.dtype) -> str:
    """``float32`` of ``torch.float32``."""
    return str(dtype).removeprefix("torch.")
