"""Token ids of many texts in one array: 4 bytes a token, where a list of numbers takes 8 to 36.

Beyond 64 MB they lie in a temporary file (`interp.mapped`), and a row takes 12 bytes of memory.
"""

import contextlib
import tempfile
from array import array
from collections.abc import Iterable, Sequence
from typing import Any, overload

import numpy as np

from interp.mapped import Reading, map_file, writing

__all__ = ["PackedIds"]

HELD = 64 * 2**20
"""Bytes of ids that are held in memory."""


class PackedIds(Sequence[list[int]]):
    """Rows of token ids, read as a list of lists is; ``ids[i]`` is a new list.

    Parameters
    ----------
    rows : ids of each text, taken one after the other.

    Attributes
    ----------
    lengths : ids of each row.
    """

    def __init__(self, rows: Iterable[Sequence[int]]) -> None:
        self._tokens: Any = array("i")
        self._reading: Reading | None = None
        self.lengths = array("i")
        with contextlib.ExitStack() as files:
            self._take(rows, files)
        lengths = np.frombuffer(self.lengths, np.int32) if self.lengths else np.empty(0, np.int32)
        self._ends = np.cumsum(lengths, dtype=np.int64)

    def _take(self, rows: Iterable[Sequence[int]], files: contextlib.ExitStack) -> None:
        held, file = self._tokens, None
        for row in rows:
            held.extend(row)
            self.lengths.append(len(row))
            if len(held) * held.itemsize >= HELD:
                with writing("the list of token ids"):
                    file = file or files.enter_context(tempfile.TemporaryFile())
                    held.tofile(file)
                del held[:]
        if file is not None:
            with writing("the list of token ids"):
                held.tofile(file)
                self._tokens = np.frombuffer(map_file(file), np.int32)
            self._reading = Reading()

    def __len__(self) -> int:
        return len(self.lengths)

    @overload
    def __getitem__(self, key: int) -> list[int]: ...
    @overload
    def __getitem__(self, key: slice) -> "list[list[int]]": ...
    def __getitem__(self, key: int | slice) -> "list[int] | list[list[int]]":
        if isinstance(key, slice):
            return [self[i] for i in range(*key.indices(len(self)))]
        n = len(self)
        if not -n <= key < n:
            raise IndexError(f"row {key} of {n}")
        i = int(key) % n
        end = int(self._ends[i])
        if self._reading is not None:
            self._reading.add(4 * self.lengths[i])
        return self._tokens[end - self.lengths[i] : end].tolist()
