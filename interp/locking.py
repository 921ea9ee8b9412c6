"""One writer a folder: a lock on the folder itself, which vanishes with the process.

It is advisory and leaves no file. Where folders cannot be locked, as on some network drives and on
Windows, nothing is locked and all goes on as before.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from interp.errors import StoreError

__all__ = ["hold", "holding", "let_go", "let_go_of_all"]

_held: dict[tuple[int, int], tuple[int, int]] = {}
"""Device and inode of each folder that this process holds: its descriptor, and how many hold it."""


def hold(folder: Path) -> None:
    """Be the one process that writes to a folder, until `let_go` or the process's end.

    The same process may hold a folder several times. Of torchrun's processes, which share their
    folder, only the first one holds it. A folder that is not there is not held.

    Raises
    ------
    StoreError
        Another process holds it.
    """
    try:
        import fcntl

        found = os.stat(folder)
        if os.environ.get("RANK", "0") != "0" and "TORCHELASTIC_RUN_ID" in os.environ:
            return
        key = found.st_dev, found.st_ino
        if key in _held:
            _held[key] = _held[key][0], _held[key][1] + 1
            return
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except (ImportError, OSError):
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            return  # this file system locks no folders
        raise StoreError(
            f"{folder} is being written by another process{_whose(found.st_ino)}; wait for it, or "
            "name another folder."
        ) from error
    _held[key] = handle, 1


def let_go(folder: Path) -> None:
    """Take back one `hold` of a folder; of one that was removed meanwhile, all."""
    try:
        found = os.stat(folder)
        key = found.st_dev, found.st_ino
    except OSError:
        key = None
    for gone in [k for k, (handle, _) in _held.items() if not os.fstat(handle).st_nlink]:
        os.close(_held.pop(gone)[0])
    if key in _held:
        handle, times = _held.pop(key)
        if times > 1:
            _held[key] = handle, times - 1
        else:
            os.close(handle)


def let_go_of_all() -> None:
    """Let go of every folder: a command has ended."""
    for handle, _ in _held.values():
        os.close(handle)
    _held.clear()


@contextmanager
def holding(folder: Path) -> Iterator[None]:
    """`hold` a folder for the length of a block; it is made, and goes again if it stays empty.

    Raises
    ------
    StoreError
        Another process holds the folder.
    """
    ours = not folder.exists()
    if ours:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            ours = False  # who writes there says why it cannot be made
    hold(folder)
    try:
        yield
    finally:
        let_go(folder)
        if ours:
            with suppress(OSError):
                folder.rmdir()  # nothing came into it


def _whose(inode: int) -> str:
    """The number of the process that has locked a file, where the system says it."""
    try:
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return ""
    for line in lines:
        fields = line.split()
        if len(fields) > 5 and fields[1] == "FLOCK" and fields[5].endswith(f":{inode}"):
            return f" ({fields[4]})" if int(fields[4]) > 0 else ""
    return ""
