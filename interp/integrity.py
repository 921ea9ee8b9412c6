"""Whether the files of a store are what was written, and the removal of those that are not."""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp.errors import StoreError
from interp.locking import holding
from interp.manifest import (
    MANIFEST,
    RANK_LIST,
    SHARD_NAME,
    TABLE,
    inside,
    is_sealed,
    read_manifest,
    write_manifest,
)
from interp.runs import sweep

__all__ = ["FileState", "Verification", "repair", "state_of", "verify"]

LEFT = re.compile(rf"\.({MANIFEST}|{RANK_LIST}|{TABLE}|{SHARD_NAME})\.\d+\.tmp")
"""What a killed write of a store leaves beside its final name."""
DAMAGED = ("missing", "truncated", "altered", "outside", "unreadable")
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class FileState:
    """What became of a file of a store.

    Attributes
    ----------
    file : its name.
    state : ``"whole"``; ``"unchecked"`` (there, but of an older store that holds no checksum of
        it); damaged, so that it cannot be used: ``"missing"``, ``"truncated"``, ``"altered"``,
        ``"outside"`` (a link that leads out of the folder), ``"unreadable"``; or left by a kill
        and in nobody's way: ``"left over"``, ``"unlisted"``, ``"rank list"``.
    rows : rows of the data that it holds, where it holds some.
    detail : what was seen.
    """

    file: str
    state: str
    rows: int | None = None
    detail: str = ""

    @property
    def damaged(self) -> bool:
        """Whether the file cannot be used."""
        return self.state in DAMAGED


@dataclass(frozen=True)
class Verification:
    """A store compared with its checksums, file by file.

    Attributes
    ----------
    path : the store's folder.
    files : the manifest, the table of rows, the shards in order, then what a kill left.
    complete : whether the capture was finished.
    """

    path: Path
    files: tuple[FileState, ...]
    complete: bool

    @property
    def damaged(self) -> tuple[FileState, ...]:
        """The files that cannot be used."""
        return tuple(f for f in self.files if f.damaged)

    @property
    def left(self) -> tuple[FileState, ...]:
        """What a kill left beside the store's files."""
        return tuple(f for f in self.files if f.state in ("left over", "unlisted", "rank list"))

    @property
    def whole(self) -> bool:
        """Whether the store can be trusted as it is."""
        return self.complete and not self.damaged

    @property
    def sentence(self) -> str:
        """What was found, in short: the first damaged file, and how many more."""
        if not self.damaged:
            missing = "" if self.complete else ", but not complete"
            unchecked = sum(f.state == "unchecked" for f in self.files)
            older = f" ({unchecked} files of an older store have no checksum)" if unchecked else ""
            return f"the store {self.path} is undamaged{missing}{older}"
        first, more = self.damaged[0], len(self.damaged) - 1
        also = f", and {more} more of its files are damaged" if more else ""
        detail = f" ({first.detail})" if first.detail else ""
        return f"{first.file} of the store {self.path} is {first.state}{detail}{also}"


def verify(path: str | Path, progress: Progress | None = None) -> Verification:
    """Read every file of a store, finished or not, and compare it with the manifest's checksums.

    Parameters
    ----------
    path : the store's folder.
    progress : called with (bytes read, bytes, file).

    Raises
    ------
    StoreError
        The folder holds no manifest.
    """
    path = Path(path)
    if not (path / MANIFEST).is_file():
        raise StoreError(
            f"{path} holds no manifest.json, so it is no activation store; capture it again."
        )
    try:
        manifest = read_manifest(path, altered=True)
    except StoreError as error:
        found = FileState(MANIFEST, "unreadable", detail=str(error).rstrip("."))
        return Verification(path, (found, *_left(path, set())), False)
    read = _Counter(path, manifest["shards"], progress)
    files = [_manifest_state(manifest), _table_state(path, manifest, read)]
    for entry in manifest["shards"]:
        state, detail = state_of(path, entry, read)
        start, stop = entry["documents"]
        files.append(FileState(entry["file"], state, stop - start, detail))
    listed = {f.file for f in files}
    return Verification(path, (*files, *_left(path, listed)), bool(manifest.get("complete")))


def repair(path: str | Path, progress: Progress | None = None) -> tuple[str, ...]:
    """Remove from a store what cannot be trusted, so that a capture with ``resume`` fills the rest.

    Shards that a killed process of several finished are taken into the manifest, as its own list
    holds their checksum. Other shards that the manifest does not name are removed: nothing proves
    them. A manifest that was altered proves nothing either, and the capture's resume writes it
    anew: then only what a kill left half-written is removed.

    Returns
    -------
    tuple
        A line on each thing done; empty where there was nothing to do.

    Raises
    ------
    StoreError
        There is no manifest, it cannot be read or written, or another process writes here.
    """
    path = Path(path)
    with holding(path):
        return _repair(path, progress)


def _repair(path: Path, progress: Progress | None) -> tuple[str, ...]:
    found = verify(path, progress)
    manifest = read_manifest(path, altered=True)
    temporary = [path / f.file for f in found.left if f.state == "left over"]
    done = [f"removed {file.name}" for file in temporary]
    sweep(temporary, LEFT)
    if not is_sealed(manifest):
        return tuple(done)
    bad = {f.file for f in found.damaged}
    kept = {s["file"]: s for s in manifest["shards"] if s["file"] not in bad}
    for entry in rank_entries(path, manifest.get("key")):
        if entry["file"] not in kept and state_of(path, entry)[0] == "whole":
            kept[entry["file"]] = entry
            done.append(f"took {entry['file']} into the manifest")
    changed = {**manifest, "shards": sorted(kept.values(), key=lambda s: s["documents"])}
    changed["complete"] = TABLE not in bad and covers(changed["shards"], manifest["n"])
    if changed != manifest:
        write_manifest(path, changed)
    if manifest.get("complete") and not changed["complete"]:
        done.append("marked the store as not complete")
    removed = clear(path, set(kept), bad)
    return (*done, *(f"removed {name}" for name in removed))


def clear(path: Path, kept: set[str], bad: set[str]) -> list[str]:
    """Remove the shards that are not kept, the lists of ranks, and what is bad; their names."""
    removed = []
    for file in sorted(path.iterdir()):
        stray = re.fullmatch(SHARD_NAME, file.name) and file.name not in kept
        if stray or re.fullmatch(RANK_LIST, file.name) or file.name in bad:
            try:
                file.unlink()
            except OSError as error:
                raise StoreError(
                    f"cannot remove {file}: {error.strerror or error}; remove it by hand."
                ) from error
            removed.append(file.name)
    return removed


def covers(shards: Sequence[Mapping[str, Any]], n: int) -> bool:
    """Whether shards, in order, hold all rows of the data."""
    ends = [0, *(s["documents"][1] for s in shards)]
    return [s["documents"][0] for s in shards] == ends[:-1] and ends[-1] == n


def rank_entries(path: Path, key: str | None) -> list[dict[str, Any]]:
    """The shards that processes of a capture of this key noted as finished, before they ended."""
    entries = []
    for file in sorted(path.glob("manifest-*.json")):
        if re.fullmatch(RANK_LIST, file.name):
            try:
                noted = read_manifest(path, name=file.name)
            except StoreError:  # altered or cut short: its shards are captured again
                continue
            entries += noted["shards"] if noted.get("key") == key else []
    return entries


def state_of(
    path: Path, entry: Mapping[str, Any], read: "_Counter | None" = None
) -> tuple[str, str]:
    """The state of a file that a manifest's entry describes, and what was seen."""
    try:
        file = inside(path, entry["file"])
    except StoreError:
        return "outside", "a link that leads out of the folder"
    if not file.is_file():
        return "missing", ""
    try:
        found, wanted = file.stat().st_size, entry.get("bytes")
        if wanted is not None and found != wanted:
            state = "truncated" if found < wanted else "altered"
            return state, f"{found:,} bytes where {wanted:,} were written"
        if "sha256" not in entry:
            return "unchecked", "an older store holds no checksum of it"
        if sha256(file, read) != entry["sha256"]:
            return "altered", "its checksum differs"
    except OSError as error:
        return "unreadable", error.strerror or str(error)
    return "whole", ""


def sha256(file: Path, read: "_Counter | None" = None) -> str:
    """The checksum of a file, read a piece at a time."""
    digest = hashlib.sha256()
    with open(file, "rb") as opened:
        while piece := opened.read(2**22):
            digest.update(piece)
            if read is not None:
                read.add(len(piece), file.name)
    return digest.hexdigest()


class _Counter:
    """Bytes read, of all that will be, for a progress bar."""

    def __init__(
        self, path: Path, shards: Sequence[Mapping[str, Any]], progress: Progress | None
    ) -> None:
        files = [path / TABLE, *(path / s["file"] for s in shards)]
        self.total = sum(f.stat().st_size for f in files if f.is_file())
        self.done, self.progress = 0, progress

    def add(self, n: int, name: str) -> None:
        self.done += n
        if self.progress is not None:
            self.progress(self.done, self.total, name)


def _manifest_state(manifest: Mapping[str, Any]) -> FileState:
    if "sha256" not in manifest:
        return FileState(MANIFEST, "unchecked", detail="an older store holds no checksum of it")
    if is_sealed(manifest):
        return FileState(MANIFEST, "whole")
    return FileState(MANIFEST, "altered", detail="its checksum differs")


def _table_state(path: Path, manifest: Mapping[str, Any], read: _Counter) -> FileState:
    state, detail = state_of(path, manifest.get("table") or {"file": TABLE}, read)
    return FileState(TABLE, state, manifest["n"], detail)


def _left(path: Path, listed: set[str]) -> list[FileState]:
    """What a kill left: files half-written, shards that no manifest names, lists of ranks."""
    found = []
    for name in sorted(p.name for p in path.iterdir()):
        if LEFT.fullmatch(name):
            found.append(FileState(name, "left over", detail="half-written when it was killed"))
        elif re.fullmatch(RANK_LIST, name):
            found.append(FileState(name, "rank list", detail="shards finished before a kill"))
        elif listed and re.fullmatch(SHARD_NAME, name) and name not in listed:
            found.append(FileState(name, "unlisted", detail="written as the capture was killed"))
    return found
