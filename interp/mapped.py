"""Arrays and texts in a temporary file that is mapped into memory, for data larger than memory.

The file has no name: it lies in the folder that ``tempfile`` chooses (``TMPDIR``, else ``/tmp``; a
folder in memory saves none) and its room is free again when nothing reads it any more, or when
the process ends, be it by Ctrl-C or a kill.
"""

import contextlib
import mmap
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from typing import IO, TYPE_CHECKING, Any, overload

from interp.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["MappedTexts", "forget", "map_file", "strings_of", "writing"]

LARGE = 256 * 2**20
"""Bytes of a file, or of a column of text, beyond which it is not held in memory."""
TOUCHED = 16 * 2**20
"""Bytes read from mapped files before their pages are given back."""
AROUND = 2**16
"""Bytes that the system brings in around one that is read."""
TOGETHER = 1000
"""Texts that are decoded together."""

_maps: "weakref.WeakSet[mmap.mmap]" = weakref.WeakSet()


@contextlib.contextmanager
def writing(what: str) -> Iterator[None]:
    """Raise DataError where a temporary file cannot be written, as on a full disk."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{what} is larger than what is held in memory, and cannot be written to "
            f"{tempfile.gettempdir()} ({error.strerror or error}); name a folder with room by "
            "TMPDIR."
        ) from error


def map_file(file: IO[bytes]) -> mmap.mmap:
    """All that a temporary file holds, which must be something; the file is closed."""
    file.flush()
    held = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    file.close()
    _maps.add(held)
    return held


def forget() -> None:
    """Give the pages of mapped files that were read back to the system; they can be read again."""
    if hasattr(mmap, "MADV_DONTNEED"):  # not on Windows, which takes them back itself
        for held in list(_maps):
            held.madvise(mmap.MADV_DONTNEED)


class Reading:
    """Counts what is read from mapped files, and gives their pages back at every 16 MB."""

    def __init__(self) -> None:
        self._bytes = 0

    def add(self, n: int) -> None:
        """Count bytes that were read in one place."""
        self._bytes += n + AROUND
        if self._bytes > TOUCHED:
            self._bytes = 0
            forget()


class MappedTexts(Sequence[str]):
    """A column of texts, each decoded when it is asked for; a slice is a list."""

    def __init__(self, column: "pa.ChunkedArray") -> None:
        self._column = column
        self._reading = Reading()

    def __len__(self) -> int:
        return len(self._column)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(other) != len(self):
            return NotImplemented
        return all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # pyright: ignore[reportAssignmentType] # as of a list

    @overload
    def __getitem__(self, key: int) -> str: ...
    @overload
    def __getitem__(self, key: slice) -> list[str]: ...
    def __getitem__(self, key: int | slice) -> str | list[str]:
        if not isinstance(key, slice):
            if not -len(self) <= key < len(self):
                raise IndexError(f"row {key} of {len(self)}")
            text: str = self._column[int(key) % len(self)].as_py()
            self._reading.add(len(text))
            return text
        start, stop, step = key.indices(len(self))
        if step != 1:
            return [self[i] for i in range(start, stop, step)]
        part = self._column.slice(start, max(0, stop - start))
        texts: list[str] = part.to_pylist()
        self._reading.add(part.nbytes)
        return texts

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), TOGETHER):
            yield from self[start : start + TOGETHER]


def strings_of(column: Any) -> "pa.ChunkedArray | None":
    """The Arrow array that a Series of strings is a view of; None where it is made of objects."""
    import pandas as pd
    import pyarrow as pa

    if not isinstance(column.dtype, pd.StringDtype) or column.dtype.storage != "pyarrow":
        return None
    held = column.array.__arrow_array__()
    return held if isinstance(held, pa.ChunkedArray) else pa.chunked_array([held])
