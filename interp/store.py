"""The activation store: safetensors shards and a manifest, read lazily, written so that a kill
loses at most one shard.

A store folder holds ``manifest.json``, ``rows.parquet`` (the columns kept from the data) and
``shard-00000.safetensors``, …; a shard holds a fixed range of the data's rows for every hook point.
The manifest holds a sha256 of every file, of every shard's header, and of itself. Nothing that a
store says is executed, and no name or link in it may lead outside its folder.
"""

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from interp.errors import LayerNotFound, ShapeError, StoreError, closest, one_line
from interp.loading import DTYPES
from interp.manifest import FORMAT, TABLE, inside, read_manifest
from interp.runs import write_bytes
from interp.tensors import pieces

if TYPE_CHECKING:
    import pandas as pd

    from interp.integrity import Verification

__all__ = ["ActivationStore", "Matrix"]

SAFETENSORS: dict[str, tuple[torch.dtype, str]] = {
    "F16": (torch.float16, "<f2"),
    "BF16": (torch.bfloat16, "<i2"),
    "F32": (torch.float32, "<f4"),
    "F64": (torch.float64, "<f8"),
    "I32": (torch.int32, "<i4"),
    "I64": (torch.int64, "<i8"),
}


class Matrix:
    """The rows of one hook point, read only where they are asked for.

    ``m[:]``, ``m[10:20]``, ``m[-1]`` and ``m[[3, 1, 2]]`` give tensors [rows, width], or
    [rows, heads, d_head]; ``np.asarray(m)`` reads all of it.
    """

    def __init__(self, parts: Sequence["Part"], shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self._parts = parts
        self._starts = np.cumsum([0, *(p.rows for p in parts)])
        self.shape = (int(self._starts[-1]), *shape)
        self.dtype = dtype

    def __repr__(self) -> str:
        return f"Matrix({list(self.shape)}, {self.dtype}, {len(self._parts)} shards)"

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def ndim(self) -> int:
        """Axes of the matrix."""
        return len(self.shape)

    def __getitem__(self, key: Any) -> Tensor:
        n = len(self)
        if isinstance(key, int | np.integer):
            if not -n <= key < n:
                raise ShapeError(f"row {key} is outside the {n} rows of the store.")
            return self._gather(np.array([int(key) % n]))[0]
        if isinstance(key, slice):
            start, stop, step = key.indices(n)
            if step == 1:
                return self._range(start, max(start, stop))
            return self._gather(np.arange(start, stop, step))
        if key is Ellipsis:
            return self[:]
        if isinstance(key, tuple):
            rows, rest = self[key[0]], key[1:]
            return rows[rest] if isinstance(key[0], int | np.integer) else rows[:, *rest]
        index = np.asarray(key.cpu() if isinstance(key, Tensor) else key)
        if index.dtype == bool:
            if index.shape != (n,):
                raise ShapeError(f"a mask of {index.shape} does not fit {n} rows.")
            index = np.flatnonzero(index)
        if index.size and (index.ndim != 1 or not np.issubdtype(index.dtype, np.integer)):
            raise ShapeError(
                f"rows are an int, a slice, a mask or a list of ints; got {index.dtype} "
                f"{list(index.shape)}."
            )
        index = index.astype(np.int64).reshape(-1)
        if len(index) and (index.min() < -n or index.max() >= n):
            raise ShapeError(f"row {index.max()} is outside the {n} rows of the store.")
        return self._gather(index % max(n, 1))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        x = self[:]
        x = x.float() if x.dtype == torch.bfloat16 else x
        return x.numpy().astype(dtype) if dtype is not None else x.numpy()

    def batches(self, size: int = 4096) -> Iterator[Tensor]:
        """The rows in order, ``size`` at a time."""
        for start in range(0, len(self), size):
            yield self[start : start + size]

    def _range(self, start: int, stop: int) -> Tensor:
        if stop == start:
            return torch.empty((0, *self.shape[1:]), dtype=self.dtype)
        out = None
        for part, first in zip(self._parts, self._starts, strict=False):
            a, b = max(start - first, 0), min(stop - first, part.rows)
            if a >= b:
                continue
            rows = part.read(slice(int(a), int(b)))
            if len(rows) == stop - start:
                return rows
            if out is None:
                out = torch.empty((stop - start, *self.shape[1:]), dtype=self.dtype)
            out[first + a - start : first + b - start] = rows
        assert out is not None  # noqa: S101  the range is one of the store's
        return out

    def _gather(self, index: np.ndarray) -> Tensor:
        which = np.searchsorted(self._starts, index, side="right") - 1
        found = np.unique(which)
        if len(found) == 1:
            return self._parts[found[0]].read(index - self._starts[found[0]])
        out = torch.empty((len(index), *self.shape[1:]), dtype=self.dtype)
        for i in found:
            mine = np.flatnonzero(which == i)
            out[torch.from_numpy(mine)] = self._parts[i].read(index[mine] - self._starts[i])
        return out


@dataclass(frozen=True)
class Part:
    """One hook point's rows in one shard: a place in a file, or a tensor in memory.

    Of a file, ``shape`` (of a row), ``dtype`` and ``header`` (sha256 of the safetensors header) are
    what it must hold, where they are known.
    """

    rows: int
    path: Path | None = None
    key: str = ""
    tensor: Tensor | None = None
    shape: tuple[int, ...] | None = None
    dtype: torch.dtype | None = None
    header: str | None = None

    def read(self, rows: slice | np.ndarray) -> Tensor:
        """A copy of some rows; from a file only the pages that hold them are read."""
        if self.tensor is not None:
            return self.tensor[rows if isinstance(rows, slice) else torch.from_numpy(rows)]
        index = np.arange(self.rows)[rows] if isinstance(rows, slice) else rows
        _, shape, dtype, stored = self._place
        try:
            out = np.empty((len(index), *shape[1:]), stored)
            self._fill(out, index)
        except (OSError, ValueError) as error:
            raise self._unreadable(error) from error
        copied = torch.from_numpy(out)
        return copied.view(dtype) if copied.dtype != dtype else copied

    def _fill(self, out: np.ndarray, index: np.ndarray) -> None:
        """Read rows into their place, neighbours together, and no byte besides."""
        offset, shape, _, stored = self._place
        assert self.path is not None  # noqa: S101  a part is a tensor or a file
        row = np.dtype(stored).itemsize * math.prod(shape[1:])
        edges = np.flatnonzero(np.diff(index) != 1) + 1
        with open(self.path, "rb", buffering=0) as file:
            if os.fstat(file.fileno()).st_size < offset + self.rows * row:
                raise ValueError("it is cut short")
            if not len(index):
                return
            if 8 * len(edges) > len(index):  # single rows: fewer calls, and pages of the file
                out[:] = np.memmap(file, stored, "r", offset=offset, shape=shape)[index]
                return
            if len(edges) and hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)  # reads nothing ahead
            held = out.reshape(-1).view(np.uint8).data
            for start, stop in zip([0, *edges], [*edges, len(index)], strict=True):
                file.seek(offset + int(index[start]) * row)
                at, end = int(start) * row, int(stop) * row
                while at < end:
                    got = file.readinto(held[at:end])
                    if not got:
                        raise ValueError("it is cut short")
                    at += got

    def _unreadable(self, error: Exception) -> StoreError:
        return StoreError(
            f"the shard {self.path} cannot be read ({error}); delete it and capture again with "
            "--resume."
        )

    @cached_property
    def _place(self) -> tuple[int, tuple[int, ...], torch.dtype, str]:
        """Where the tensor lies in the file: offset, shape, dtype, and numpy's name for it.

        bfloat16, which numpy lacks, is read as int16.
        """
        assert self.path is not None  # noqa: S101  a part is a tensor or a file
        try:
            text, start_of_data, length = read_header(self.path)
            if self.header not in (None, hashlib.sha256(text).hexdigest()):
                raise ValueError("its header is not as it was written")
            entry = json.loads(text[8:])[self.key]
            dtype, stored = SAFETENSORS[entry["dtype"]]
            start, stop = entry["data_offsets"]
            shape = tuple(entry["shape"])
            if not all(type(i) is int and i >= 0 for i in (start, stop, *shape)):
                raise ValueError(f"{self.key} has the shape {shape} at {start} to {stop}")
            fits = self.shape in (None, shape[1:]) and self.dtype in (None, dtype)
            size = np.dtype(stored).itemsize * math.prod(shape)
            if not fits or shape[0] != self.rows or size != stop - start:
                raise ValueError(f"{self.key} has the shape {shape} in {entry['dtype']}")
            if start_of_data + stop > length:
                raise ValueError("its data are cut off")
            return start_of_data + start, shape, dtype, stored
        except (OSError, ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
            raise self._unreadable(error) from error


class ActivationStore:
    """Activations by hook point, with the table of the rows they came from.

    ``store["resid_post.3"]`` is a `Matrix`; ``store.rows`` the DataFrame of the data's columns.
    Made by `interp.capture`, `open` or `from_tensors`.

    Attributes
    ----------
    manifest : model, data, hook points, pooling, dtype and rows; what made the store.
    path : its folder, or None in memory.
    """

    def __init__(
        self,
        manifest: dict[str, Any],
        rows: "pd.DataFrame | None",
        parts: Mapping[str, Sequence[Part]],
        path: Path | None = None,
        tokens: Mapping[str, "pd.DataFrame"] | None = None,
    ) -> None:
        self.manifest = manifest
        self.path = path
        if rows is not None:
            self._documents = rows
        self._parts = parts
        self._tokens = dict(tokens or {})

    @classmethod
    def from_tensors(
        cls,
        tensors: "Mapping[str, Tensor | np.ndarray]",
        rows: "pd.DataFrame | Mapping[str, Sequence[Any]] | None" = None,
        **manifest: Any,
    ) -> "ActivationStore":
        """A store in memory from matrices that you hold: {hook point: [rows, width]}.

        Raises
        ------
        ShapeError
            The matrices, or the table, do not have the same number of rows.
        """
        import pandas as pd

        held = {k: torch.as_tensor(v) for k, v in tensors.items()}
        if not held:
            raise ShapeError("a store needs at least one matrix.")
        counts = {k: len(v) for k, v in held.items()}
        n = next(iter(counts.values()))
        table = pd.DataFrame(rows) if rows is not None else pd.DataFrame(index=range(n))
        if set(counts.values()) != {n} or len(table) != n:
            raise ShapeError(f"matrices of {counts} rows do not fit a table of {len(table)} rows.")
        for name, x in held.items():
            if x.ndim < 2 or not x.is_floating_point():
                raise ShapeError(
                    f"{name} must be a floating-point matrix [rows, width]; got "
                    f"{x.dtype} {list(x.shape)}."
                )
        described = {
            "format": FORMAT,
            "hookpoints": [
                {"name": k, "module": k, "shape": list(v.shape[1:])} for k, v in held.items()
            ],
            "pool": None,
            "dtype": str(next(iter(held.values())).dtype).removeprefix("torch."),
            "n": n,
            "model": {},
            "data": {"name": "data"},
            **manifest,
        }
        parts = {k: [Part(len(v), tensor=v)] for k, v in held.items()}
        return cls(described, table.reset_index(drop=True), parts)

    @classmethod
    def open(cls, path: str | Path) -> "ActivationStore":
        """Read a store's manifest; activations stay on disk until they are asked for.

        Raises
        ------
        StoreError
            There is no store, it is of another format, it is not complete, a file is missing or cut
            short, a name or a link leads outside the folder, or the manifest was altered. The
            activations are not read here: `verify` does.
        """
        path = Path(path)
        manifest = read_manifest(path)
        if not manifest.get("complete"):
            raise StoreError(
                f"the store {path} is not complete; go on with its capture (--resume)."
            )
        parts = _parts(path, manifest)
        _read_table(path, manifest, whole=False)
        return cls(manifest, None, parts, path)

    def verify(self, progress: "Callable[[int, int, str], None] | None" = None) -> "Verification":
        """Read every file of the store and compare it with the checksums of the manifest.

        Parameters
        ----------
        progress : called with (bytes read, bytes, file).

        Raises
        ------
        StoreError
            The store is in memory: there is no file to verify.
        """
        if self.path is None:
            raise StoreError("a store in memory has no files to verify; open one from a folder.")
        from interp.integrity import verify

        return verify(self.path, progress)

    def __repr__(self) -> str:
        where = self.path or "in memory"
        return f"ActivationStore({self.n} rows, {len(self.hookpoints)} hook points, {where})"

    @property
    def hookpoints(self) -> tuple[str, ...]:
        """Names of the hook points, in the order captured."""
        return tuple(h["name"] for h in self.manifest["hookpoints"])

    @property
    def n(self) -> int:
        """Rows of the data: documents, or images."""
        return int(self.manifest["n"]) if self.path is not None else len(self._documents)

    @cached_property
    def _documents(self) -> "pd.DataFrame":
        """The columns kept from the data: texts take memory, so only where they are wanted."""
        assert self.path is not None  # noqa: S101  a store in memory was given them
        return _read_table(self.path, self.manifest)

    def __getitem__(self, hookpoint: str) -> Matrix:
        for entry in self.manifest["hookpoints"]:
            if entry["name"] == hookpoint:
                dtype = DTYPES[entry.get("dtype", self.manifest["dtype"])]
                return Matrix(self._parts[hookpoint], tuple(entry["shape"]), dtype)
        hint = closest(hookpoint, self.hookpoints) or f"it holds {', '.join(self.hookpoints)}."
        raise LayerNotFound(f"the store has no hook point {hookpoint!r}; {hint}")

    def __contains__(self, hookpoint: object) -> bool:
        return hookpoint in self.hookpoints

    @cached_property
    def rows(self) -> "pd.DataFrame":
        """A row an activation row: the data's columns, and with ``pool="all"`` before them
        ``document`` and ``position``.

        Raises
        ------
        StoreError
            The hook points have different positions; use `rows_of`.
        """
        counts = {h: len(self[h]) for h in self.hookpoints}
        if len(set(counts.values())) > 1:
            raise StoreError(
                f"the hook points of this store have different positions ({counts}); use "
                "store.rows_of(hookpoint)."
            )
        return self.rows_of(self.hookpoints[0])

    def rows_of(self, hookpoint: str) -> "pd.DataFrame":
        """The table of one hook point's rows."""
        held = self.path is None and hookpoint not in self._tokens
        if self.manifest.get("pool") != "all" or held:
            return self._documents
        if hookpoint not in self._tokens:
            import pandas as pd

            columns = [
                torch.cat([_column(part, f"{hookpoint}/{c}") for part in self._parts[hookpoint]])
                for c in ("document", "position")
            ]
            self._tokens[hookpoint] = pd.DataFrame(
                {"document": columns[0].numpy(), "position": columns[1].numpy()}
            )
        tokens = self._tokens[hookpoint]
        if len(tokens) and not tokens["document"].between(0, self.n - 1).all():
            raise StoreError(
                f"{hookpoint} of the store {self.path} names documents that it does not have; "
                f"`interp doctor {self.path}` finds the damaged file."
            )
        kept = self._documents.drop(columns=["document", "position"], errors="ignore")
        repeated = kept.iloc[tokens["document"].to_numpy()].reset_index(drop=True)
        return tokens.join(repeated)


def _column(part: Part, key: str) -> Tensor:
    return Part(part.rows, part.path, key, header=part.header).read(slice(0, part.rows))


def _parts(path: Path, manifest: Mapping[str, Any]) -> dict[str, list[Part]]:
    """Where the rows of each hook point lie; every shard is there and has its size."""
    for shard in manifest["shards"]:
        file, size = inside(path, shard["file"]), shard.get("bytes")
        if not file.is_file():
            raise StoreError(f"the store {path} lacks {file.name}; capture it again with --resume.")
        found = file.stat().st_size
        if size is not None and found != size:
            raise StoreError(
                f"the shard {file} cannot be read (it has {found:,} bytes where {size:,} were "
                "written); capture again with --resume, which replaces it."
            )
    return {
        h["name"]: [
            Part(
                s["rows"][h["name"]],
                path / s["file"],
                h["name"],
                shape=tuple(h["shape"]),
                dtype=DTYPES[h.get("dtype", manifest["dtype"])],
                header=s.get("header"),
            )
            for s in manifest["shards"]
        ]
        for h in manifest["hookpoints"]
    }


def _read_table(path: Path, manifest: Mapping[str, Any], *, whole: bool = True) -> "pd.DataFrame":
    """The columns kept from the data; not ``whole``, only the file's end is read and checked."""
    import pandas as pd

    try:
        file, entry = inside(path, TABLE), manifest.get("table")
        if not file.is_file():
            raise ValueError("it is missing")
        if entry is not None and file.stat().st_size != entry["bytes"]:
            raise ValueError(f"it has not the {entry['bytes']:,} bytes that were written")
        rows = pd.read_parquet(file, columns=None if whole else [])
        if whole and not len(rows.columns):  # of a tensor: parquet then counts no rows
            rows = pd.DataFrame(index=range(manifest["n"]))
        if whole and len(rows) != manifest["n"]:
            raise ValueError(f"it has {len(rows)} rows, and the store {manifest['n']}")
    except StoreError:
        raise
    except Exception as error:  # a damaged parquet file fails in many ways
        text = one_line(error, 200)
        raise StoreError(
            f"the store {path} has no readable rows.parquet ({text}); its capture with --resume "
            "writes it again."
        ) from error
    return rows


def read_header(file: Path) -> tuple[bytes, int, int]:
    """The header of a safetensors file with its length before it, where the data begin, and the
    file's length.
    """
    with open(file, "rb") as opened:
        first = opened.read(8)
        size = int.from_bytes(first, "little")
        if size > 100_000_000:
            raise ValueError("its header is too long")
        text = first + opened.read(size)
        return text, 8 + size, opened.seek(0, 2)


def write_shard(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write a shard beside its name, then rename it; its sha256."""
    digest = hashlib.sha256()

    def hashed() -> Iterator[bytes | memoryview]:
        for piece in pieces(tensors, {"file": path.name}):
            digest.update(piece)
            yield piece

    write_bytes(path, hashed())
    return digest.hexdigest()
