"""The manifest of a store: read with suspicion, written whole, with a checksum of its own."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from interp.errors import StoreError
from interp.loading import DTYPES
from interp.runs import parse_json, write_text

__all__ = ["checksum", "inside", "is_sealed", "is_store", "read_manifest", "write_manifest"]

FORMAT = 1
"""That of the stores before these checksums, too: they open, and what has none is unchecked."""
MANIFEST, TABLE = "manifest.json", "rows.parquet"
SHARD_NAME = r"shard-\d{5,}\.safetensors"
RANK_LIST = r"manifest-\d+\.json"
"""What a process of several keeps of its finished shards while a capture runs."""

MALFORMED = (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError)
"""What reading JSON of another form than expected raises."""


def read_manifest(path: Path, *, altered: bool = False, name: str = MANIFEST) -> dict[str, Any]:
    """The manifest of a store folder, checked: its format, its parts, its own checksum.

    ``altered`` takes one whose checksum differs, too.

    Raises
    ------
    StoreError
        There is none, it is damaged or altered, of another format, or names a file elsewhere.
    """
    file = inside(path, name)
    if not file.is_file():
        raise StoreError(f"there is no activation store in {path}.")
    try:
        manifest = parse_json(file.read_text(encoding="utf-8"))
        version = manifest["format"]
        if version == FORMAT:
            _refuse_odd(manifest)
        sealed = is_sealed(manifest)
    except (*MALFORMED, OSError) as error:
        text = " ".join(f"{type(error).__name__} {error}".split())[:200]
        raise StoreError(
            f"the manifest of the store {path} is damaged ({text}); capture it again with --force."
        ) from error
    if version != FORMAT:
        raise StoreError(
            f"the store {path} has format {version!r:.40}; this interp reads {FORMAT}."
        )
    if not sealed and not altered:
        raise StoreError(
            f"the manifest of the store {path} is not as it was written: its checksum differs; its "
            "capture with --resume keeps the shards that fit and writes it anew."
        )
    return manifest


def _refuse_odd(manifest: Mapping[str, Any]) -> None:
    """Raise where a part of a manifest is missing, of another kind, or points elsewhere."""
    points = {h["name"]: h for h in manifest["hookpoints"]}
    whole = [*(i for h in points.values() for i in h["shape"]), manifest["n"]]
    named = all(isinstance(name, str) for name in points)
    if len(points) != len(manifest["hookpoints"]) or not points or not named:
        raise ValueError("hook points that are none or the same")
    for h in points.values():
        _ = DTYPES[h.get("dtype", manifest["dtype"])]
    start = 0
    for shard in manifest["shards"]:
        if not re.fullmatch(SHARD_NAME, shard["file"]):
            raise StoreError(
                f"the manifest names {shard['file']!r}, which is no file of the store; capture it "
                "again with --force."
            )
        first, stop = shard["documents"]
        counts = [shard["rows"][name] for name in points]
        whole += [first, stop, *counts, shard.get("bytes", 0)]
        if manifest.get("complete") and first != start:
            raise ValueError(
                f"{shard['file']} begins at {first}, and the one before ends at {start}"
            )
        if manifest.get("pool") != "all" and set(counts) != {stop - first}:
            raise ValueError(f"{shard['file']} has {counts} rows for {stop - first} of the data")
        start = stop
    if manifest.get("complete") and start != manifest["n"]:
        raise ValueError(f"{start} rows in shards of {manifest['n']}")
    table = manifest.get("table", {"file": TABLE, "bytes": 0, "sha256": ""})  # older stores' none
    if table["file"] != TABLE:
        raise ValueError(f"the table of the rows is {table['file']!r:.40}")
    whole += [table["bytes"], *(manifest.get(k) or 0 for k in ("batch_size", "shard_rows"))]
    if not all(type(i) is int and i >= 0 for i in whole):
        raise TypeError("a number of rows, bytes or a shape is no whole number")
    digests = [e.get(k, "") for e in (table, *manifest["shards"]) for k in ("sha256", "header")]
    if not all(isinstance(digest, str) for digest in digests):
        raise TypeError("a checksum is no text")


def checksum(manifest: Mapping[str, Any]) -> str:
    """sha256 of a manifest's canonical JSON: sorted, without spaces, and without ``"sha256"``."""
    rest = {k: v for k, v in manifest.items() if k != "sha256"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def is_sealed(manifest: Mapping[str, Any]) -> bool:
    """Whether a manifest is what was written; those of older stores cannot tell, and pass."""
    return "sha256" not in manifest or manifest["sha256"] == checksum(manifest)


def is_store(path: Path) -> bool:
    """Whether a folder holds an activation store, whole or cut short, and nothing else."""
    ours = rf"{re.escape(MANIFEST)}|{re.escape(TABLE)}|{SHARD_NAME}|{RANK_LIST}"
    names = {p.name for p in path.iterdir()}
    if MANIFEST not in names or not all(re.fullmatch(ours, n) for n in names):
        return False
    try:
        manifest = parse_json((path / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return len(names) > 1  # a damaged manifest beside shards or rows
    return isinstance(manifest, dict) and "hookpoints" in manifest and "format" in manifest


def inside(path: Path, name: str) -> Path:
    """A file of a store's folder.

    Raises
    ------
    StoreError
        It is a link that leads outside.
    """
    file = path / name
    try:
        away = file.is_symlink() and not file.resolve().is_relative_to(path.resolve())
    except (OSError, RuntimeError):  # a circle of links
        away = True
    if away:
        raise StoreError(
            f"{file} is a link that leads outside the store; put the file itself there."
        )
    return file


def write_manifest(path: Path, manifest: Mapping[str, Any], name: str = MANIFEST) -> None:
    """Write a store's manifest whole, with its checksum."""
    sealed = {**manifest, "sha256": checksum(manifest)}
    write_text(path / name, json.dumps(sealed, indent=1, allow_nan=False) + "\n")
