"""What a capture will cost: its shards, its batches, its bytes, its seconds, and its memory."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from interp.feeds import as_tokens
from interp.forwards import Forwards
from interp.hookpoints import HookPoint
from interp.memory import PeakMemory, peak
from interp.pooling import pool
from interp.resuming import table_room

__all__ = ["Plan", "Planned"]

SHARD_BYTES = 256 * 2**20
SHARD_ROWS = 4096


@dataclass(frozen=True)
class Plan:
    """What a capture will cost.

    Attributes
    ----------
    rows : rows of the data.
    tokens : positions that the model reads, pads excluded.
    bytes : size of the store.
    shards : files of it.
    seconds : estimated from a few timed batches.
    peak_bytes : the most memory that capturing into a store takes, all of this process together
        (`interp.memory`), from what it holds now, a batch of the longest rows, and the shards, or
        before them the table of the data's columns; 0 where the system does not tell.
    """

    rows: int
    tokens: int
    bytes: int
    shards: int
    seconds: float
    peak_bytes: int = 0


class Planned(Forwards):
    """Forwards over all of the data, a shard after the other, in batches."""

    shard_rows: int
    shards: list[tuple[int, int]]
    """Ranges of the data's rows."""

    def row_bytes(self) -> NDArray[np.int64]:
        """Bytes that each row of the data takes in the store."""
        total = np.zeros(len(self.data), np.int64)
        for point in self.points:
            count = np.asarray(self.lengths[point.name]) if self.pool == "all" else 1
            total += np.int64(self.outlines[point.name].bytes) * count
        return total

    def _plan_shards(self, shard_rows: int | None) -> None:
        """Cut the data into fixed ranges of rows, at most ``shard_rows`` and 256 MB each."""
        self.shard_rows = shard_rows or SHARD_ROWS
        n, ends = len(self.data), np.cumsum(self.row_bytes())
        shards, start = [], 0
        while start < n:
            before = int(ends[start - 1]) if start else 0
            full = int(np.searchsorted(ends, before + SHARD_BYTES, side="right"))
            stop = min(max(full, start + 1), start + self.shard_rows, n)
            shards.append((start, stop))
            start = stop
        self.shards = shards

    def batches(self, start: int, stop: int) -> Iterator[list[int]]:
        """The rows of a shard, longest first (memory fails at once or never), in batches."""
        lengths = self.feed.lengths
        order = sorted(range(start, stop), key=lambda i: (-lengths[i], i))
        while order:
            size = self.batch_size or self.feed.batch_rows(lengths[order[0]])
            yield order[:size]
            order = order[size:]

    def plan(self) -> Plan:
        """Rows, bytes, and from a few batches, the largest first, seconds and memory."""
        shards = [self.shards[i] for i in range(0, len(self.shards), len(self.shards) // 64 + 1)]
        batches = [b for s in shards for b in self.batches(*s)]
        padded = [len(b) * max(self.feed.lengths[i] for i in b) for b in batches]
        with PeakMemory() as held:
            self._try(batches[int(np.argmax(padded))])
            tried = [i * (len(batches) - 1) // 3 for i in range(4)]  # several shapes: free memory
            began = time.perf_counter()  # between blocks of other sizes is not all used again
            for i in tried:
                self._try(batches[i])
            taken = time.perf_counter() - began
        share = sum(b - a for a, b in shards) / len(self.data)
        begins, fills = held.before + table_room(self.data.rows), held.most + self._shard_room()
        return Plan(
            rows=len(self.data),
            tokens=sum(self.feed.lengths),
            bytes=int(self.row_bytes().sum()),
            shards=len(self.shards),
            seconds=taken * sum(padded) / sum(padded[i] for i in tried) / share,
            peak_bytes=max(peak() or 0, begins, fills) if held.most else 0,
        )

    def _try(self, rows: Sequence[int]) -> None:
        """Run some rows as a capture does, and keep nothing."""

        def drop(point: HookPoint, tensor: Tensor, rows: Sequence[int]) -> None:
            x, mask = as_tokens(point, tensor, self.feed.mask_of(point), self.how(point), len(rows))
            self._check_finite(point, pool(x, mask, self.how(point)), rows)

        with self._running(drop) as run:
            run(rows)

    def _shard_room(self) -> int:
        """Bytes of host memory for shards: one is filled while the one before it is written."""
        sizes = np.add.reduceat(self.row_bytes(), [start for start, _ in self.shards])
        if self.model.device.type != "cpu":
            return int(sizes.max())  # filled on the device, and copied to be written
        room = min(2, len(sizes)) * int(sizes.max())
        if self.pool == "all":  # document and position of each token
            tokens = sum(np.asarray(self.lengths[p.name]) for p in self.points)
            most = int(np.add.reduceat(tokens, [start for start, _ in self.shards]).max())
            room += 8 * most
        return room
