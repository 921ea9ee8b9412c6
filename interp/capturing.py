"""A capture, checked and planned before it runs, into memory or into a folder."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from interp.data import read
from interp.distributed import world
from interp.errors import DataError, ParameterError
from interp.feeds import as_tokens, feed
from interp.hookpoints import HookPoint
from interp.loading import DTYPES, load
from interp.locking import holding
from interp.planning import Plan
from interp.pooling import POOLS, Pool, pool
from interp.resuming import drop, finish
from interp.store import ActivationStore, Part
from interp.storing import Stored, Writer
from interp.token_labels import token_labels

if TYPE_CHECKING:
    from interp.models import Model

__all__ = ["Capture", "Plan"]

Progress = Callable[[int, int, str], None]
Count = Callable[[int], None]
"""Called with the rows of a batch that is done."""


class Capture(Stored):
    """A capture that has been checked and planned; `in_memory` and `on_disk` run it."""

    def __init__(
        self,
        model: "Model | nn.Module | str",
        data: Any,
        hookpoints: str | Iterable[str],
        pool: Pool = "last",
        batch_size: int | None = None,
        dtype: str | None = None,
        max_length: int | None = None,
        columns: Mapping[str, Any] | None = None,
        *,
        shard_rows: int | None = None,
    ) -> None:
        if pool not in POOLS:
            raise ParameterError(f"pool must be one of {', '.join(POOLS)}; got {pool!r}.")
        check_run(batch_size, dtype, shard_rows)
        self.model = load(model)
        hookpoints = [hookpoints] if isinstance(hookpoints, str) else list(hookpoints)
        self.source = source_of(model, data, hookpoints, dtype, columns or {})
        self.data = read(data, **(columns or {}))
        if pool == "all" and self.data.marks:
            self.data = token_labels(self.model, self.data, max_length)
        self.pool: str = pool
        self.feed = feed(self.model, self.data, max_length)
        self.feed.pool = pool
        points = self.model.resolve(hookpoints)
        self._prepare(self.feed.check(points), batch_size, dtype, shard_rows)

    def _prepare(
        self,
        points: list[HookPoint],
        batch_size: int | None,
        dtype: str | None,
        shard_rows: int | None,
    ) -> None:
        """Run a row to see the shapes, certify batches, and plan the shards."""
        self.batch_size = batch_size
        self.dtype = None if dtype is None else DTYPES[dtype]
        self.points = points
        self.outlines = self._outlines()
        self.lengths = {p.name: self._row_lengths(p.name) for p in self.points}
        self.certificate = self._certify()
        self._plan_shards(shard_rows)

    def in_memory(self, progress: Progress | None = None) -> ActivationStore:
        """Capture into tensors; with several processes, all of it in each."""
        n = len(self.data)
        count = counting(progress, [], n)
        whole = self._buffers(0, n, torch.device("cpu"))
        starts = self._starts(0, n) if self.pool == "all" else {}
        for shard in self.shards:
            if self.model.device.type == "cpu":
                self._fill(shard, whole, (0, n), count)
                continue
            buffers = self._buffers(*shard)  # a shard at a time on the device
            self._fill(shard, buffers, shard, count)
            for name, rows in buffers.items():
                first = int(starts[name][shard[0]]) if self.pool == "all" else shard[0]
                whole[name][first : first + len(rows)] = rows.cpu()
        parts = {k: [Part(len(v), tensor=v)] for k, v in whole.items()}
        manifest = {**self._manifest(), "complete": True}
        return ActivationStore(manifest, self.data.rows, parts, tokens=self._token_tables())

    def stream(self, progress: Progress | None = None) -> Iterator[dict[str, Tensor]]:
        """The rows of every hook point, a batch at a time; nothing is kept, and the order is that
        of the batches.
        """
        done = 0
        for shard in self.shards:
            for rows in self.batches(*shard):
                yield self.pooled(rows)
                done += len(rows)
                if progress is not None:
                    progress(done, len(self.data), "rows")

    def on_disk(
        self,
        path: Path,
        *,
        resume: bool,
        force: bool,
        progress: Progress | None = None,
        say: Callable[[str], None] | None = None,
    ) -> ActivationStore:
        """Capture into a folder: each shard is written while the next one is computed.

        Every process that torchrun started must call this, and each takes its share of the shards
        that are not there yet. ``progress`` counts the rows of this process, and ``say`` is told
        how much of an earlier start was kept. The folder is held meanwhile (`interp.locking`).
        """
        with ExitStack() as held:
            world().led(lambda: held.enter_context(holding(path)))  # or all are told that it is not
            manifest = self._enter(path, resume=resume, force=force, say=say)
            self._go_on(path, manifest, progress)
            return ActivationStore.open(path)

    def _go_on(self, path: Path, manifest: dict[str, Any], progress: Progress | None) -> None:
        """Capture the shards that a store lacks, and finish it."""
        ranks = world()
        kept = {s["file"] for s in manifest["shards"]}
        left = [(name, s) for name, s in self._named().items() if name not in kept]
        mine = left[ranks.rank :: ranks.size]
        found = [stop - start for start, stop in (s["documents"] for s in manifest["shards"])]
        count = counting(progress, found, sum(found) + sum(b - a for _, (a, b) in mine))
        noted = manifest if ranks.leads else {**manifest, "shards": []}
        rooms = [self._room() for _ in range(min(2, len(mine)))]  # used in turn
        writer = Writer()
        try:
            for turn, (name, shard) in enumerate(mine):
                buffers = self._cut(rooms[turn % 2], *shard)
                self._fill(shard, buffers, shard, count)
                writer.put(lambda n=name, s=shard, b=buffers: self._write(path, n, s, b, noted))
            writer.join()
        except DataError:  # such as an image that is none: nothing was lost, and nothing is left
            writer.stop()
            if ranks.size == 1 and not noted["shards"]:
                drop(path)
            raise
        finally:
            writer.stop()
        lists = ranks.gather(noted["shards"])
        if left:
            ranks.led(lambda: finish(path, manifest, [s for shards in lists for s in shards]))

    def _fill(
        self,
        shard: tuple[int, int],
        buffers: Mapping[str, Tensor],
        span: tuple[int, int],
        count: Count,
    ) -> None:
        """Run one shard's rows and put what they give in the buffers, in the order of the data."""
        starts = self._starts(*span) if self.pool == "all" else {}

        def keep(point: HookPoint, tensor: Tensor, rows: Sequence[int]) -> None:
            x, mask = as_tokens(point, tensor, self.feed.mask_of(point), self.how(point), len(rows))
            buffer = buffers[point.name]
            pooled = pool(x, mask, self.how(point)).to(buffer.device, buffer.dtype)
            local = [r - span[0] for r in rows]
            if self.pool == "all":
                lengths, first = self.lengths[point.name], starts[point.name]
                where = torch.cat(
                    [
                        torch.arange(int(first[i]), int(first[i]) + lengths[r])
                        for i, r in zip(local, rows, strict=True)
                    ]
                )
            else:
                where = torch.tensor(local)
            self._check_finite(point, pooled, rows)
            buffer.index_copy_(0, where.to(buffer.device), pooled)

        with self._running(keep) as run:
            for rows in self.batches(*shard):
                run(rows)
                count(len(rows))

    # -- room for the rows -----------------------------------------------------------------------

    def _count(self, name: str, start: int, stop: int) -> int:
        """Rows that a hook point has for a range of the data's rows."""
        return sum(self.lengths[name][start:stop]) if self.pool == "all" else stop - start

    def _buffers(
        self, start: int, stop: int, device: torch.device | None = None
    ) -> dict[str, Tensor]:
        """Room for a range of the data's rows, on the model's device unless another is given."""
        return self._empty({p.name: self._count(p.name, start, stop) for p in self.points}, device)

    def _room(self) -> dict[str, Tensor]:
        """Room for any of the shards."""
        return self._empty(
            {p.name: max(self._count(p.name, *s) for s in self.shards) for p in self.points}
        )

    def _cut(self, room: Mapping[str, Tensor], start: int, stop: int) -> dict[str, Tensor]:
        return {name: held[: self._count(name, start, stop)] for name, held in room.items()}

    def _empty(
        self, counts: Mapping[str, int], device: torch.device | None = None
    ) -> dict[str, Tensor]:
        outlines = {name: self.outlines[name] for name in counts}
        where = device or self.model.device
        return {
            name: torch.empty((n, *outlines[name].shape), dtype=outlines[name].dtype, device=where)
            for name, n in counts.items()
        }

    def _starts(self, start: int, stop: int) -> dict[str, NDArray[np.int64]]:
        """First row of each document within a range, by hook point."""
        lengths = {p.name: np.asarray(self.lengths[p.name][start:stop]) for p in self.points}
        return {name: np.cumsum(n, dtype=np.int64) - n for name, n in lengths.items()}


def check_run(batch_size: int | None, dtype: str | None, shard_rows: int | None = None) -> None:
    """Refuse a batch size, a shard or a dtype of the store that there is not."""
    for name, rows in (("batch_size", batch_size), ("shard_rows", shard_rows)):
        if rows is not None and rows < 1:
            raise ParameterError(f"{name} must be at least 1; got {rows}.")
    if dtype is not None and dtype not in DTYPES:
        raise ParameterError(f"dtype must be one of {', '.join(DTYPES)}; got {dtype!r}.")


def counting(progress: Progress | None, found: Sequence[int], total: int) -> Count:
    """A callback of batches, for one of rows done; first of the shards that were found."""
    if progress is None:
        return lambda rows: None
    done = 0
    for rows in found:
        done += rows
        progress(done, total, "found")

    def count(rows: int) -> None:
        nonlocal done
        done += rows
        progress(done, total, "rows")

    return count


def source_of(
    model: Any,
    data: Any,
    hookpoints: Sequence[str],
    dtype: str | None,
    columns: Mapping[str, Any],
    **more: Any,
) -> dict[str, Any]:
    """What was asked for, as far as a command line can say it again; None where it cannot."""
    spec = getattr(model, "spec", model)
    named = isinstance(spec, str | Path) and not isinstance(model, nn.Module)
    if spec == type(getattr(model, "module", None)).__name__:  # a module, named after its class
        named = False
    return {
        "model": str(spec) if named else None,
        "data": str(data) if isinstance(data, str | Path) else None,
        "hookpoints": list(hookpoints),
        "store_dtype": dtype,
        "columns": {k: v for k, v in columns.items() if v is not None},
        **more,
    }
