"""How a capture enters the folder of its store: empty, to be replaced, or to go on with.

With several processes the first one enters, and the others are told what it found. Each then checks
its share of the shards that are there; what is whole is kept, and the rest is captured again.
"""

import contextlib
import hashlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from interp.distributed import world
from interp.errors import StoreError
from interp.integrity import LEFT, clear, covers, rank_entries, state_of
from interp.manifest import (
    MANIFEST,
    TABLE,
    checksum,
    is_sealed,
    is_store,
    read_manifest,
    write_manifest,
)
from interp.mapped import forget, writing
from interp.runs import sweep, write_bytes

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["drop", "enter", "keep_whole", "rank_list", "table_room"]

SETTINGS = ("batch_size", "shard_rows")
"""Options that are no part of a store's key, and are those of its first start."""
ROW_GROUP = 16_384
"""Rows of the table that are written together."""
HELD = 2**20
"""Bytes of the table that are held in memory; more lie in a temporary file."""


def enter(
    path: Path, fresh: Mapping[str, Any], rows: "pd.DataFrame", *, resume: bool, force: bool
) -> dict[str, Any]:
    """The manifest to go on with: that of the same capture cut short, or a fresh one.

    Its shards are those that were noted as finished, by any process; nothing is verified yet.

    Parameters
    ----------
    path : the store's folder.
    fresh : the manifest of a capture that has done nothing yet.
    rows : the columns kept from the data.

    Raises
    ------
    StoreError
        The folder holds something else, or a store and neither ``resume`` nor ``force`` is given.
    """
    if path.is_file():
        raise StoreError(f"{path} is a file; a store is a folder.")
    if path.is_dir() and any(path.iterdir()):
        if resume or force:
            sweep(path.glob(".*.tmp"), LEFT)
        if any(path.iterdir()) and not is_store(path):
            raise StoreError(f"{path} holds files that are no activation store; name another.")
        old = _earlier(path, fresh, force=force) if resume and any(path.iterdir()) else None
        if old is not None:
            return old
        if not force and any(path.iterdir()):
            raise StoreError(
                f"{path} already holds a store; use --resume to go on with it, --force to "
                "replace it, or another folder."
            )
    with table_file(rows) as table:
        begun = {**fresh, "table": _entry(table)}
        write_manifest(path, begun)  # first: a kill from here on leaves a store to resume
        clear(path, set(), {TABLE})
        write_bytes(path / TABLE, _pieces(table))
    return begun


def _earlier(path: Path, fresh: Mapping[str, Any], *, force: bool) -> dict[str, Any] | None:
    """The manifest of an earlier start of the same capture, with what all its processes noted.

    Of one that was altered only the shards count, and only where its settings are these.
    """
    try:
        old = read_manifest(path, altered=True)
    except StoreError:
        if force:
            return None
        raise
    if old.get("key") != fresh["key"]:
        if force:
            return None
        whole = "" if is_sealed(old) else " (or its manifest was altered)"
        raise StoreError(
            f"{path} holds a store of another model, data or setting{whole}; --resume needs the "
            "same, --force replaces it."
        )
    shards = [*old["shards"], *rank_entries(path, fresh["key"])]
    if not is_sealed(old):
        same = all(old.get(k) == fresh[k] for k in SETTINGS)
        return {**fresh, "shards": shards if same else []}
    return {**old, "shards": shards}


def keep_whole(
    path: Path, manifest: dict[str, Any], plan: Mapping[str, tuple[int, int]], rows: "pd.DataFrame"
) -> tuple[dict[str, Any], list[str]]:
    """Keep, of the shards that a manifest names, those that are whole and part of the plan.

    Every process checks its share, and the first one writes what is left.

    Parameters
    ----------
    path : the store's folder.
    manifest : of `enter`.
    plan : the shards' names and their rows of the data.
    rows : the columns kept from the data; written again where they are damaged.

    Returns
    -------
    manifest, damaged
        On every process; names of the shards that are there, or were noted, and cannot be kept.
    """
    ranks = world()
    noted = manifest["shards"]
    mine = range(ranks.rank, len(noted), ranks.size)
    whole = [i for i in mine if _fits(noted[i], plan) and state_of(path, noted[i])[0] == "whole"]
    kept = {noted[i]["file"]: noted[i] for share in ranks.gather(whole) for i in share}
    damaged = sorted({s["file"] for s in noted} - set(kept))
    shards = in_order(kept.values())
    manifest = {**manifest, "shards": shards, "complete": covers(shards, manifest["n"])}
    return ranks.led(lambda: _settle(path, manifest, rows)), damaged


def _fits(entry: Mapping[str, Any], plan: Mapping[str, tuple[int, int]]) -> bool:
    return list(plan.get(entry["file"], ())) == list(entry["documents"])


def _settle(path: Path, manifest: dict[str, Any], rows: "pd.DataFrame") -> dict[str, Any]:
    """Write the manifest of what is kept, and remove everything else."""
    table = manifest.get("table")
    if table is None or state_of(path, table)[0] != "whole":
        with table_file(rows) as made:
            manifest = {**manifest, "table": _entry(made)}
            write_manifest(path, manifest)
            (path / TABLE).unlink(missing_ok=True)  # it may be a link that leads elsewhere
            write_bytes(path / TABLE, _pieces(made))
    elif {**manifest, "sha256": checksum(manifest)} != read_manifest(path, altered=True):
        write_manifest(path, manifest)
    clear(path, {s["file"] for s in manifest["shards"]}, set())
    return manifest


def in_order(shards: Any) -> list[dict[str, Any]]:
    """Shards by their place in the data."""
    return sorted(shards, key=lambda s: s["documents"])


def rank_list(rank: int) -> str:
    """The file in which a process notes the shards that it finished: the first, the manifest."""
    return f"manifest-{rank}.json" if rank else MANIFEST


def finish(path: Path, manifest: dict[str, Any], shards: Sequence[dict[str, Any]]) -> None:
    """Write the manifest of a store that is complete, then remove the lists of the processes."""
    whole = {**manifest, "shards": in_order(shards), "complete": True}
    write_manifest(path, whole)
    clear(path, {s["file"] for s in shards}, set())


def drop(path: Path) -> None:
    """Take back a store that has come to nothing: no shard of it was written."""
    for name in (MANIFEST, TABLE):
        (path / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        path.rmdir()


@contextlib.contextmanager
def table_file(rows: "pd.DataFrame") -> Iterator[IO[bytes]]:
    """The columns kept from the data, as a parquet file without a name."""
    with tempfile.SpooledTemporaryFile(max_size=HELD) as spooled:
        file = cast(IO[bytes], spooled)
        with writing("the table of the data's columns"):
            try:
                _write_parquet(rows, file)
            except (
                TypeError,
                ValueError,
                OverflowError,
            ):  # mixed text and numbers are kept as text
                file.seek(0)
                file.truncate()
                _write_parquet(cast("pd.DataFrame", rows.apply(_as_text)), file)
        yield file


def table_room(rows: "pd.DataFrame") -> int:
    """Bytes of memory that writing the table takes, about: a group of its rows, and a column of
    objects whole, whose kind is looked for. From some hundreds of the rows.
    """
    import pandas as pd

    if not len(rows):
        return 0
    starts = range(0, len(rows), len(rows) // 20 + 1)  # of neighbours: a step would copy columns
    some = pd.concat([rows.iloc[start : start + 50] for start in starts])
    sizes = some.memory_usage(index=False, deep=True).tolist()
    objects = [n for n, kind in zip(sizes, some.dtypes, strict=True) if str(kind) == "object"]
    with table_file(some) as file:
        group = file.seek(0, 2) * min(len(rows), ROW_GROUP) / len(some)
    return int(HELD + 2 * group + max(objects, default=0) * len(rows) / len(some))


def _write_parquet(rows: "pd.DataFrame", file: IO[bytes]) -> None:
    """Write rows some at a time; the bytes are the same, however the rows were read."""
    import pyarrow as pa
    from pyarrow import parquet

    if not len(rows.columns):
        rows.to_parquet(file, index=False)
        return
    schema = pa.Schema.from_pandas(rows, preserve_index=False)
    with parquet.ParquetWriter(file, schema) as writer:
        for start in range(0, len(rows), ROW_GROUP):
            some = rows.iloc[start : start + ROW_GROUP]
            part = pa.Table.from_pandas(some, schema=schema, preserve_index=False)
            writer.write_table(part.combine_chunks())
            forget()


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    file.seek(0)
    while piece := file.read(2**22):
        yield piece


def _entry(file: IO[bytes]) -> dict[str, Any]:
    digest, size = hashlib.sha256(), 0
    for piece in _pieces(file):
        digest.update(piece)
        size += len(piece)
    return {"file": TABLE, "bytes": size, "sha256": digest.hexdigest()}


def _as_text(column: "pd.Series") -> "pd.Series":
    if column.dtype != object:
        return column
    return column.map(lambda v: v if isinstance(v, str) else str(v), na_action="ignore")
