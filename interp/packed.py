"""Token ids of many texts in one array: 4 bytes a token, where a list of numbers takes 8 to 36."""

from array import array
from collections.abc import Iterable, Sequence
from typing import overload

import numpy as np

__all__ = ["PackedIds"]


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
        self._tokens = array("i")
        self.lengths = array("i")
        for row in rows:
            self._tokens.extend(row)
            self.lengths.append(len(row))
        lengths = np.frombuffer(self.lengths, np.int32) if self.lengths else np.empty(0, np.int32)
        self._ends = np.cumsum(lengths, dtype=np.int64)

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
        return self._tokens[end - self.lengths[i] : end].tolist()
