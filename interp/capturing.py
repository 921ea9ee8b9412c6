"""A capture, checked and planned before it runs: batch invariance, shards, batches, resuming."""

import hashlib
import json
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from interp.certificate import deviation
from interp.data import read
from interp.distributed import world
from interp.errors import (
    DataError,
    InterpError,
    LayerNotFound,
    ModelError,
    ParameterError,
    StoreError,
)
from interp.feeds import as_tokens, feed
from interp.hookpoints import HookPoint
from interp.hooks import all_fired, evaluating, hooked
from interp.loading import DTYPES, load
from interp.manifest import FORMAT, write_manifest
from interp.memory import PeakMemory, peak
from interp.pooling import POOLS, Pool, pool
from interp.resuming import drop, enter, finish, in_order, keep_whole, rank_list
from interp.store import ActivationStore, Part, read_header, write_shard
from interp.token_labels import token_labels

if TYPE_CHECKING:
    import pandas as pd

    from interp.models import Model

__all__ = ["Capture", "Plan"]

SHARD_BYTES = 256 * 2**20
SHARD_ROWS = 4096
Progress = Callable[[int, int, str], None]
Count = Callable[[int], None]
"""Called with the rows of a batch that is done."""


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
        (`interp.memory`), from what it holds now, a batch of the longest rows, and the shards; 0
        where the system does not tell.
    """

    rows: int
    tokens: int
    bytes: int
    shards: int
    seconds: float
    peak_bytes: int = 0


class Capture:
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
        self.shard_rows = shard_rows or SHARD_ROWS
        self.dtype = None if dtype is None else DTYPES[dtype]
        self.points = points
        self.outlines = self._outlines()
        self.lengths = {p.name: self._row_lengths(p.name) for p in self.points}
        self.certificate = self._certify()
        self.shards = self._plan_shards()

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
                text = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
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
                    f"times the tolerance of {_name(dtype)}: this model is not batch invariant; "
                    "capture with batch_size=1 (--batch-size 1)."
                )
        return {name: round(ratio, 9) for name, ratio in worst.items()}

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

    # -- planning --------------------------------------------------------------------------------

    def row_bytes(self) -> NDArray[np.int64]:
        """Bytes that each row of the data takes in the store."""
        total = np.zeros(len(self.data), np.int64)
        for point in self.points:
            count = np.asarray(self.lengths[point.name]) if self.pool == "all" else 1
            total += np.int64(self.outlines[point.name].bytes) * count
        return total

    def _plan_shards(self) -> list[tuple[int, int]]:
        """Fixed row ranges of the data, at most ``shard_rows`` and 256 MB each."""
        n, ends = len(self.data), np.cumsum(self.row_bytes())
        shards, start = [], 0
        while start < n:
            before = int(ends[start - 1]) if start else 0
            full = int(np.searchsorted(ends, before + SHARD_BYTES, side="right"))
            stop = min(max(full, start + 1), start + self.shard_rows, n)
            shards.append((start, stop))
            start = stop
        return shards

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
        return Plan(
            rows=len(self.data),
            tokens=sum(self.feed.lengths),
            bytes=int(self.row_bytes().sum()),
            shards=len(self.shards),
            seconds=taken * sum(padded) / sum(padded[i] for i in tried) / share,
            peak_bytes=max(peak() or 0, held.most + self._shard_room()) if held.most else 0,
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

    # -- running ---------------------------------------------------------------------------------

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
        how much of an earlier start was kept.
        """
        ranks = world()
        manifest = self._enter(path, resume=resume, force=force, say=say)
        kept = {s["file"] for s in manifest["shards"]}
        left = [(name, s) for name, s in self._named().items() if name not in kept]
        mine = left[ranks.rank :: ranks.size]
        found = [stop - start for start, stop in (s["documents"] for s in manifest["shards"])]
        count = counting(progress, found, sum(found) + sum(b - a for _, (a, b) in mine))
        noted = manifest if ranks.leads else {**manifest, "shards": []}
        writer = _Writer()
        rooms = [self._room() for _ in range(min(2, len(mine)))]  # used in turn
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
        return ActivationStore.open(path)

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
            f"{_name(pooled.dtype)}; {cause}."
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

    def _tokens(self, name: str, start: int, stop: int) -> dict[str, Tensor]:
        """``document`` and ``position`` of each row of a hook point."""
        lengths = np.asarray(self.lengths[name][start:stop])
        documents = np.repeat(np.arange(start, stop, dtype=np.int32), lengths)
        firsts = np.cumsum(lengths, dtype=np.int64) - lengths
        positions = np.arange(len(documents), dtype=np.int32)
        positions -= np.repeat(firsts.astype(np.int32), lengths)
        return {"document": torch.from_numpy(documents), "position": torch.from_numpy(positions)}

    def _token_tables(self) -> "dict[str, pd.DataFrame]":
        if self.pool != "all":
            return {}
        import pandas as pd

        n = len(self.data)
        return {
            p.name: pd.DataFrame({k: v.numpy() for k, v in self._tokens(p.name, 0, n).items()})
            for p in self.points
        }

    # -- the store -------------------------------------------------------------------------------

    def key(self) -> dict[str, Any]:
        """What changes the numbers of a store."""
        return {
            "model": {k: v for k, v in self.model.identity().items() if k != "spec"},
            "data": self.data.hash,
            "hookpoints": [[p.name, p.place] for p in self.points],
            "pool": self.pool,
            "dtype": [str(self.outlines[p.name].dtype) for p in self.points],
            "max_length": self.feed.max_length,
        }

    def _manifest(self) -> dict[str, Any]:
        data = self.data
        dtypes = [_name(self.outlines[p.name].dtype) for p in self.points]
        return {
            "format": FORMAT,
            "complete": False,
            "key": hashlib.sha256(json.dumps(self.key(), sort_keys=True).encode()).hexdigest(),
            "model": self.model.identity(),
            "data": {
                "name": data.name,
                "hash": data.hash,
                "n": len(data),
                "kind": data.kind,
                "labels": list(data.labels),
                "group": data.group,
                "text_column": data.text_column,
                "about": data.about,
                "notes": [*data.notes, *data.label_notes, *self.feed.notes],
            },
            "pool": self.pool,
            "dtype": dtypes[0],
            "batch_size": self.batch_size,
            "shard_rows": self.shard_rows,
            "max_length": self.feed.max_length,
            "source": self.source,
            "hookpoints": [
                {
                    "name": p.name,
                    "module": p.place,
                    "shape": list(self.outlines[p.name].shape),
                    "dtype": dtype,
                }
                for p, dtype in zip(self.points, dtypes, strict=True)
            ],
            "n": len(data),
            "certificate": self.certificate,
            "shards": [],
        }

    def _named(self) -> dict[str, tuple[int, int]]:
        """The shards' files, and their rows of the data."""
        return {f"shard-{i:05d}.safetensors": shard for i, shard in enumerate(self.shards)}

    def _enter(
        self, path: Path, *, resume: bool, force: bool, say: Callable[[str], None] | None
    ) -> dict[str, Any]:
        """The manifest to go on with, of what is whole; the same on every process."""
        ranks, fresh = world(), self._manifest()
        keys = ranks.gather(fresh["key"])
        if len(set(keys)) > 1:
            odd = next(i for i, key in enumerate(keys) if key != keys[0])
            raise StoreError(
                f"rank {odd} reads another model, data or setting than rank 0; start all ranks "
                "with the same command on the same files."
            )
        again = resume or ranks.again()
        manifest = ranks.led(lambda: enter(path, fresh, self.data.rows, resume=again, force=force))
        self.batch_size = manifest["batch_size"]
        self.shard_rows = manifest.setdefault("shard_rows", SHARD_ROWS)
        self.shards = self._plan_shards()
        manifest, damaged = keep_whole(path, manifest, self._named(), self.data.rows)
        if say is not None:
            for line in self._found(len(manifest["shards"]), damaged, again):
                say(line)
        return manifest

    def _found(self, kept: int, damaged: list[str], again: bool) -> Iterator[str]:
        """What a person is told of a store that is gone on with, and of processes without work."""
        shards, size = len(self.shards), world().size
        if again and (kept or damaged):
            bad = f", {len(damaged)} of them damaged ({', '.join(damaged[:5])})" if damaged else ""
            yield f"{kept} of {shards} shards are whole; {shards - kept} to capture{bad}"
        if 0 < shards - kept < size:
            yield (
                f"{shards - kept} shards for {size} processes: some have nothing to do; "
                "--shard-rows makes shards smaller"
            )

    def _write(
        self,
        path: Path,
        name: str,
        shard: tuple[int, int],
        buffers: Mapping[str, Tensor],
        noted: dict[str, Any],
    ) -> None:
        """Write a shard, then note it in this process's list of finished ones."""
        tensors = {k: v.cpu() for k, v in buffers.items()}
        if self.pool == "all":
            for hookpoint in buffers:
                for column, values in self._tokens(hookpoint, *shard).items():
                    tensors[f"{hookpoint}/{column}"] = values
        digest = write_shard(path / name, tensors)
        entry = {
            "file": name,
            "documents": list(shard),
            "rows": {k: len(v) for k, v in buffers.items()},
            "bytes": (path / name).stat().st_size,
            "header": hashlib.sha256(read_header(path / name)[0]).hexdigest(),
            "sha256": digest,
        }
        noted["shards"] = in_order([*noted["shards"], entry])
        write_manifest(path, noted, rank_list(world().rank))


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


class _Enough(Exception):
    """Ends a forward whose last hook point has fired."""


class _Writer:
    """One thread that writes shards, so that the next forward does not wait for the disk."""

    def __init__(self) -> None:
        self._queue: queue.Queue[Callable[[], None] | None] = queue.Queue(maxsize=1)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            try:
                if self._error is None:
                    job()
            except BaseException as error:  # carried to the caller's thread
                self._error = error
            finally:
                self._queue.task_done()
        self._queue.task_done()

    def put(self, job: Callable[[], None]) -> None:
        self.join()  # one at a time: its shard's room is used again after the next
        self._queue.put(job)

    def join(self) -> None:
        self._queue.join()
        self._raise()

    def stop(self) -> None:
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error


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


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
