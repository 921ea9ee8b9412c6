"""The activation store: safetensors shards and a manifest, read lazily, written so that a kill
loses at most one shard.

A store folder holds ``manifest.json``, ``rows.parquet`` (the columns kept from the data) and
``shard-00000.safetensors``, …; a shard holds a fixed range of the data's rows for every hook point.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from interp.errors import LayerNotFound, ShapeError, StoreError, closest
from interp.runs import write_bytes, write_text
from interp.tensors import pieces

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ActivationStore", "Matrix"]

FORMAT = 1
SHARD_NAME = r"shard-\d{5,}\.safetensors"
SAFETENSORS: dict[str, tuple[torch.dtype, str]] = {
    "F16": (torch.float16, "<f2"),
    "BF16": (torch.bfloat16, "<i2"),
    "F32": (torch.float32, "<f4"),
    "F64": (torch.float64, "<f8"),
    "I32": (torch.int32, "<i4"),
    "I64": (torch.int64, "<i8"),
}
DTYPES = {
    str(d).removeprefix("torch."): d
    for d in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
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
    """One hook point's rows in one shard: a place in a file, or a tensor in memory."""

    rows: int
    path: Path | None = None
    key: str = ""
    tensor: Tensor | None = None

    def read(self, rows: slice | np.ndarray) -> Tensor:
        """A copy of some rows; from a file only the pages that hold them are read."""
        if self.tensor is not None:
            return self.tensor[rows if isinstance(rows, slice) else torch.from_numpy(rows)]
        offset, shape, dtype, stored = self._place
        assert self.path is not None  # noqa: S101  a part is a tensor or a file
        try:
            # Mapped anew at each read: the pages of a map that stays count as memory of ours.
            array = np.memmap(self.path, stored, "r", offset=offset, shape=shape)
        except (OSError, ValueError) as error:
            raise self._unreadable(error) from error
        read = array[rows]  # a view for a slice, a copy for a list of rows
        copied = torch.from_numpy(np.array(read) if isinstance(rows, slice) else np.asarray(read))
        return copied.view(dtype) if copied.dtype != dtype else copied

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
            with open(self.path, "rb") as file:
                size = int.from_bytes(file.read(8), "little")
                if size > 100_000_000:
                    raise ValueError("its header is too long")
                entry = json.loads(file.read(size))[self.key]
            dtype, stored = SAFETENSORS[entry["dtype"]]
            start, stop = entry["data_offsets"]
            shape = tuple(entry["shape"])
            if (
                shape[0] != self.rows
                or np.dtype(stored).itemsize * math.prod(shape) != stop - start
            ):
                raise ValueError(f"{self.key} has the shape {shape}")
            return 8 + size + start, tuple(shape), dtype, stored
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
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
            There is no store, it is of another format, or it is not complete.
        """
        path = Path(path)
        manifest = read_manifest(path)
        if not manifest.get("complete"):
            raise StoreError(
                f"the store {path} is not complete; go on with its capture (--resume)."
            )
        try:
            parts = {
                h["name"]: [
                    Part(s["rows"][h["name"]], path / _inside(s["file"]), h["name"])
                    for s in manifest["shards"]
                ]
                for h in manifest["hookpoints"]
            }
            _ = int(manifest["n"])
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(f"the manifest of the store {path} is damaged: {error}.") from error
        missing = [s["file"] for s in manifest["shards"] if not (path / s["file"]).is_file()]
        if missing:
            raise StoreError(
                f"the store {path} lacks {missing[0]}; capture it again with --resume."
            )
        _read_rows(path, columns=[])
        return cls(manifest, None, parts, path)

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
        import pandas as pd

        read = _read_rows(self.path, columns=None)
        return read if len(read.columns) else pd.DataFrame(index=range(self.n))

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
        kept = self._documents.drop(columns=["document", "position"], errors="ignore")
        repeated = kept.iloc[tokens["document"].to_numpy()].reset_index(drop=True)
        return tokens.join(repeated)


def _read_rows(path: Path, columns: list[str] | None) -> "pd.DataFrame":
    """Columns of a store's table, all of them for None; without any only the file's end is read."""
    import pandas as pd

    try:
        return pd.read_parquet(path / "rows.parquet", columns=columns)
    except (OSError, ValueError) as error:
        text = " ".join(str(error).split())[:200]
        raise StoreError(
            f"the store {path} has no readable rows.parquet ({text}); capture it again."
        ) from error


def _column(part: Part, key: str) -> Tensor:
    return Part(part.rows, part.path, key).read(slice(0, part.rows))


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a store folder, checked for its format."""
    file = path / "manifest.json"
    if not file.is_file():
        raise StoreError(f"there is no activation store in {path}.")
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        version = manifest["format"]
        _ = manifest["hookpoints"], manifest["shards"], manifest["dtype"]
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"the manifest of the store {path} is damaged: {error}.") from error
    if version != FORMAT:
        raise StoreError(f"the store {path} has format {version}; this interp reads {FORMAT}.")
    return manifest


def is_store(path: Path) -> bool:
    """Whether a folder holds an activation store, whole or cut short, and nothing else."""
    ours = ("manifest.json", "rows.parquet")
    names = {p.name for p in path.iterdir()}
    foreign = {n for n in names if n not in ours and not re.fullmatch(SHARD_NAME, n)}
    if foreign or "manifest.json" not in names:
        return False
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return len(names) > 1  # a damaged manifest beside shards or rows
    return isinstance(manifest, dict) and "hookpoints" in manifest and "format" in manifest


def _inside(name: str) -> str:
    """A shard's file name; a manifest cannot point outside its folder."""
    if Path(name).name != name:
        raise StoreError(f"the manifest names {name!r}, which is no file of the store.")
    return name


def write_manifest(path: Path, manifest: Mapping[str, Any]) -> None:
    """Write a store's manifest whole."""
    write_text(path / "manifest.json", json.dumps(manifest, indent=1, allow_nan=False) + "\n")


def write_shard(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write a shard beside its name, then rename it; its sha256."""
    digest = hashlib.sha256()

    def hashed() -> Iterator[bytes | memoryview]:
        for piece in pieces(tensors):
            digest.update(piece)
            yield piece

    write_bytes(path, hashed())
    return digest.hexdigest()


def shard_is_whole(path: Path, digest: str) -> bool:
    """Whether a shard is there and holds what was written."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == digest
    except OSError:
        return False
