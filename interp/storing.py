"""What a capture writes: its key, its manifest, and its shards, each noted when it is whole."""

import hashlib
import json
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from interp.distributed import world
from interp.errors import StoreError
from interp.forwards import name_of
from interp.manifest import FORMAT, write_manifest
from interp.planning import Planned
from interp.resuming import enter, in_order, keep_whole, rank_list
from interp.store import read_header, write_shard

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Stored", "Writer"]


class Stored(Planned):
    """A planned capture as its store describes and holds it."""

    source: dict[str, Any]
    certificate: dict[str, float]

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
        dtypes = [name_of(self.outlines[p.name].dtype) for p in self.points]
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
        self.batch_size = manifest.get("batch_size")
        self._plan_shards(manifest.get("shard_rows"))
        manifest["shard_rows"] = self.shard_rows  # older stores have none
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


class Writer:
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
        """Have a job done, when the one before it is."""
        self.join()  # one at a time: its shard's room is used again after the next
        self._queue.put(job)

    def join(self) -> None:
        """Wait for the last job; what it raised is raised here."""
        self._queue.join()
        self._raise()

    def stop(self) -> None:
        """End the thread."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error
