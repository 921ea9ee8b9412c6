"""Run folders: what ran, on what, and what it gave; every file whole or absent.

A run folder holds ``config.json`` (the resolved options), ``results/*.json``, ``metrics.json``
(numbers and names only, so that two equal runs give equal files), ``manifest.json`` (versions,
seconds, hashes) and ``report.html``.
"""

import contextlib
import errno
import hashlib
import json
import math
import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.errors import StoreError
from interp.locking import hold, let_go
from interp.stopping import undisturbed

if TYPE_CHECKING:
    from interp.results import Result

__all__ = [
    "Run",
    "find_run",
    "parse_json",
    "plain",
    "read_config",
    "read_results",
    "slug",
    "sweep",
    "versions",
    "whole_files",
    "write_bytes",
    "write_text",
]

CLEARING = "clearing"
"""In a config: the run that was here is being removed."""
LEFT = re.compile(r"\.(config|manifest|metrics|report)\.(json|html)\.\d+\.tmp")
"""What a killed write of a run leaves beside its name."""
TEMPORARY = re.compile(r"\..+\.\d+\.tmp")
"""What any killed `write_bytes` leaves."""
FULL = (errno.ENOSPC, errno.EDQUOT)
"""The disk, or what one may use of it, is full."""
DEEPEST = 50
"""How far lists and tables of a JSON text may be nested; interp writes ten."""
ADVICE = "; free some space, then start it again, with --resume where there is one"
PACKAGES = ("interp", "torch", "transformers", "scikit-learn", "numpy", "plotly", "safetensors")


def write_bytes(path: str | Path, data: bytes | Iterable[bytes | memoryview]) -> Path:
    """Write a file beside its final name, flush it to the disk, then rename it into place.

    ``data`` is all of it, or its pieces in their order.

    Raises
    ------
    StoreError
        The folder cannot be written to, or no space is left; the old file, if any, is untouched.

    A command's Ctrl-C waits for the write, so that nothing is left beside the name.
    """
    path = Path(path)
    if not path.name:
        raise StoreError(f"cannot write {str(path)!r}: it is a folder, and a file is wanted.")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with undisturbed():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "wb") as file:
                for piece in [data] if isinstance(data, bytes) else data:
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError as error:
            advice = ADVICE if error.errno in FULL else ""
            raise StoreError(f"cannot write {path}: {error.strerror or error}{advice}.") from error
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()
    return path


def write_text(path: str | Path, text: str) -> Path:
    """`write_bytes` of UTF-8 text."""
    return write_bytes(path, text.encode("utf-8", errors="surrogatepass"))


@contextmanager
def whole_files(folder: str | Path) -> Iterator[Path]:
    """A folder to write files into, which move to the one named when all are whole.

    It is for libraries that write files themselves, and it is a temporary one beside the other.

    Raises
    ------
    StoreError
        The folder cannot be written to, or no space is left; the old files are untouched.
    """
    folder = Path(folder)
    beside = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder.parent.glob(f".{folder.name}.*.tmp"))
        beside.mkdir()
        yield beside
        with undisturbed():
            for file in sorted(f for f in beside.rglob("*") if f.is_file()):
                place = folder / file.relative_to(beside)
                place.parent.mkdir(parents=True, exist_ok=True)
                os.replace(file, place)
    except OSError as error:
        advice = ADVICE if error.errno in FULL else ""
        raise StoreError(f"cannot write {folder}: {error.strerror or error}{advice}.") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text that a stranger may have written.

    Raises
    ------
    ValueError
        It is no JSON, or its lists and tables are nested so deeply that what reads, compares or
        writes them anew would fail.
    """
    try:
        found = json.loads(text)
        layer: list[Any] = [[found]]
        for _ in range(DEEPEST + 1):
            inner = (v.values() if isinstance(v, dict) else v for v in layer)
            layer = [v for values in inner for v in values if isinstance(v, dict | list)]
            if not layer:
                return found
    except RecursionError:
        pass
    raise ValueError("its lists and tables are nested too deeply")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on; no package is imported."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def read_results(path: str | Path) -> "list[Result]":
    """The results of a run folder, in the order of their names.

    Raises
    ------
    StoreError
        There is no run, or it holds no result.
    """
    from interp.results import Result

    folder = Path(path)
    files = sorted((folder / "results").glob("*.json"))
    if not files:
        raise StoreError(f"{folder} holds no results of a run.")
    return [Result.load(file) for file in files]


def find_run(path: str | Path, *, resume: bool, force: bool) -> dict[str, Any] | None:
    """The configuration of the run that a folder holds, or None where it is empty or absent.

    The folder is then this process's until its command ends (`interp.locking`).

    Raises
    ------
    StoreError
        The path is a file, the folder holds what interp did not write, or it holds a run and
        neither ``resume`` nor ``force`` is given; or another process is writing there.
    """
    path = Path(path)
    hold(path)
    return _find(path, resume=resume, force=force)


def _find(path: Path, *, resume: bool, force: bool) -> dict[str, Any] | None:
    if path.is_file():
        raise StoreError(f"{path} is a file; --out takes a folder.")
    if path.is_dir():
        sweep(path.glob(".*.tmp"), LEFT)
    if not path.is_dir() or not any(path.iterdir()):
        return None
    earlier = read_config(path)
    if not resume and not force:
        raise StoreError(
            f"{path} already holds a run; use --resume to go on with it, --force to replace it, "
            "or another --out."
        )
    for place in (".*.tmp", "results/.*.tmp", "sae/**/.*.tmp"):
        sweep(path.glob(place))
    return earlier


def read_config(path: Path) -> dict[str, Any]:
    """The options of the run that a folder holds, ``command`` among them.

    Raises
    ------
    StoreError
        The folder holds no run.
    """
    try:
        found = parse_json((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict) or "command" not in found:
        raise StoreError(f"{path} holds files that are no run of interp; name another folder.")
    return found


def sweep(files: Iterable[Path], names: re.Pattern[str] = TEMPORARY) -> None:
    """Remove the files, of some, that killed writes left: a checkpoint's can be gigabytes."""
    for left in list(files):
        if names.fullmatch(left.name) and left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        elif names.fullmatch(left.name):
            left.unlink(missing_ok=True)


class Run:
    """A run folder that refuses to mix two runs.

    Parameters
    ----------
    path : the folder; made if absent.
    command : the command's name, such as ``"probe"``.
    config : the resolved options, JSON values only. They identify the run.
    resume : go on with a run of the same command and options.
    force : throw away what an earlier run left here.

    Raises
    ------
    StoreError
        The folder holds another run, or something that interp did not write; or another process
        is writing there.
    """

    def __init__(
        self,
        path: str | Path,
        command: str,
        config: Mapping[str, Any],
        *,
        resume: bool = False,
        force: bool = False,
    ) -> None:
        self.path = Path(path)
        self.command = command
        self.config = json.loads(_json({"command": command, **config}))
        self.results: list[Result] = []
        self.started = time.monotonic()  # a clock that is set meanwhile changes no duration
        if not self.path.exists():
            with contextlib.suppress(OSError):  # what cannot be made cannot be written, below
                self.path.mkdir(parents=True)
        hold(self.path)
        try:
            self._enter(resume=resume, force=force)
        except BaseException:
            let_go(self.path)
            raise

    def _enter(self, *, resume: bool, force: bool) -> None:
        """Take over the folder: what is there goes, stays, or is another run's."""
        earlier = _find(self.path, resume=resume, force=force)
        if earlier is not None and (force or earlier.get(CLEARING)):
            self._clear()
            earlier = None
        elif earlier is not None and earlier != self.config:
            keys = earlier.keys() | self.config.keys()
            changed = sorted(k for k in keys if earlier.get(k) != self.config.get(k))
            raise StoreError(
                f"{self.path} holds a run with other options ({', '.join(changed)}); --resume "
                "needs the same ones, --force replaces the run."
            )
        if earlier != self.config:
            write_text(self.path / "config.json", _json(self.config))

    def _clear(self) -> None:
        """Remove what a run of interp writes, and nothing else.

        The config goes last, and says so from the start: a run that was killed half cleared is
        cleared by the next one, whatever its options.
        """
        write_text(self.path / "config.json", _json({"command": self.command, CLEARING: True}))
        for name in ("results", "acts", "neuronpedia", "sae"):
            shutil.rmtree(self.path / name, ignore_errors=True)
        for name in ("manifest.json", "metrics.json", "report.html", "checkpoint.safetensors"):
            (self.path / name).unlink(missing_ok=True)

    def drop(self) -> None:
        """Take back a run that has come to nothing: the config, and the folder, if it is alone."""
        if [p.name for p in self.path.iterdir()] == ["config.json"]:
            shutil.rmtree(self.path)
        let_go(self.path)

    def found(self, kind: type["Result"], name: str) -> "Result | None":
        """A result that an earlier start of this run saved; it then counts as added."""
        path = self._result(kind.kind, name)
        if not path.is_file():
            return None
        result = kind.load(path)
        self.results.append(result)
        return result

    def add(self, result: "Result") -> None:
        """Save a result in the folder; it appears in ``metrics.json`` when the run is finished.

        It takes the place of one of the same kind and name, such as one that was `found`.
        """
        result.save(self._result(result.kind, result.name))
        named = [(r.kind, r.name) for r in self.results]
        if (result.kind, result.name) in named:
            self.results[named.index((result.kind, result.name))] = result
        else:
            self.results.append(result)

    def _result(self, kind: str, name: str) -> Path:
        return self.path / "results" / f"{kind}.{slug(name)}.json"

    def finish(self) -> None:
        """Write ``metrics.json`` and the manifest; the run is then whole."""
        write_text(self.path / "metrics.json", _json(metrics(self.results)))
        manifest = {
            "command": self.command,
            "argv": sys.argv[1:],
            "versions": versions(),
            "platform": platform.platform(),
            "seconds": round(time.monotonic() - self.started, 2),
        }
        write_text(self.path / "manifest.json", _json(manifest))
        let_go(self.path)


def metrics(results: "Iterable[Result]") -> dict[str, Any]:
    """``{kind: {name: numbers}}`` of the results."""
    table: dict[str, Any] = {}
    for result in results:
        table.setdefault(result.kind, {})[result.name] = result.metrics()
    return table


def slug(name: str) -> str:
    """A file name for a result's name; a changed one carries a hash: no two share a file."""
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "-" for c in name)[:80]
    return safe if safe == name else f"{safe}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _json(value: Any) -> str:
    return json.dumps(plain(value), indent=2, sort_keys=True, allow_nan=False) + "\n"


def plain(value: Any) -> Any:
    """JSON values: numpy numbers become numbers, nan and inf become null."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Path):
        return str(value)
    return value
