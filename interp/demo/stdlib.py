"""The source of the running Python's standard library, and which files of it are held out.

``examples/train_pylm.py`` trains ``demo:pylm`` on the files that are not held out;
``demo:python`` is drawn from those that are. Both ask :func:`is_held_out`, so that they cannot
drift apart. The answer depends on a file's path alone: a file that exists in several versions of
Python is on the same side in all of them.
"""

import hashlib
import os
import sysconfig
from pathlib import Path, PurePosixPath

__all__ = ["held_out_files", "is_held_out", "read_source", "source_files", "stdlib_root"]

# Tests are another kind of text, site-packages is not the standard library, and encodings is
# mostly tables of characters.
_EXCLUDED = frozenset(
    {
        "__pycache__",
        "dist-packages",
        "encodings",
        "idle_test",
        "site-packages",
        "test",
        "tests",
    }
)
_HELD_OUT_ONE_IN = 7


def stdlib_root() -> Path:
    """The folder of the running Python's standard library."""
    return Path(sysconfig.get_path("stdlib"))


def is_held_out(relative: str | PurePosixPath) -> bool:
    """Whether a file of the standard library is held out from the training of ``demo:pylm``.

    Parameters
    ----------
    relative : its path relative to the standard library's folder in POSIX form, such as
        ``"json/decoder.py"``. About one path in seven is held out, by the SHA-256 of the path.
    """
    digest = hashlib.sha256(str(relative).encode()).hexdigest()
    return int(digest[:8], 16) % _HELD_OUT_ONE_IN == 0


def source_files(root: Path | None = None) -> list[str]:
    """Paths of all source files in use, relative to the root, in POSIX form, sorted.

    Tests, ``site-packages``, ``encodings`` and the ``_sysconfigdata`` files, which describe the
    machine, are left out.
    """
    root = stdlib_root() if root is None else root
    found = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if name not in _EXCLUDED]
        found += [
            (Path(folder) / name).relative_to(root).as_posix()
            for name in names
            if name.endswith(".py") and not name.startswith("_sysconfigdata")
        ]
    return sorted(found)


def held_out_files(root: Path | None = None) -> list[str]:
    """Those of :func:`source_files` that :func:`is_held_out` holds out."""
    return [path for path in source_files(root) if is_held_out(path)]


def read_source(relative: str, root: Path | None = None) -> str | None:
    """The text of a file, with plain newlines; None where it is empty or is not UTF-8."""
    root = stdlib_root() if root is None else root
    try:
        text = (root / relative).read_text(encoding="utf-8")
    except (UnicodeDecodeError, OSError):
        return None
    return text if text.strip() else None
