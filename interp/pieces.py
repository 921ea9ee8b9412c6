"""A table read from a large file in pieces, into temporary files that are mapped into memory.

The pieces are read as the whole file would be, and the table is the same, dtypes included. Where
pieces cannot tell what the whole would give, such as a column with numbers in one and words in
another, there is no table, and the caller reads the whole.
"""

import contextlib
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from interp.errors import InterpError
from interp.mapped import map_file, strings_of, writing
from interp.runs import parse_json

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["table_in_pieces"]

ROWS = 4096
"""Rows of a piece: a divisor of the rows of which pandas finds the types of a csv together."""
COLUMNS = 128
"""Columns of a csv up to which pandas takes as many rows."""
EXACT = 2**53
"""Whole numbers up to this one are the same as float64."""


class _Whole(Exception):
    """Only the whole file tells what its table is."""


def table_in_pieces(file: Path, **csv: Any) -> "pd.DataFrame | None":
    """The table in a csv, tsv, jsonl, txt or parquet file, its columns in temporary files.

    Parameters
    ----------
    file : whose suffix names its kind.
    csv : how ``pandas.read_csv`` reads a file with separators.

    Returns
    -------
    DataFrame or None
        Numbers are mapped arrays, strings views of mapped Arrow arrays. None where the file must be
        read whole, as one that is damaged (whose error that tells), or pandas is older than 3.

    Raises
    ------
    DataError
        The temporary folder has no room.
    """
    import pandas as pd

    readers = {".csv": _csv, ".tsv": _csv, ".jsonl": _jsonl, ".txt": _txt, ".parquet": _parquet}
    read = readers.get(file.suffix.lower())
    if read is None or strings_of(pd.Series(["a"])) is None:
        return None
    try:
        with contextlib.ExitStack() as files, warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # an error of the whole file
            table = _Table(str(file), files)
            for piece in read(file, **csv):
                table.add(piece)
            return table.finish()
    except InterpError:
        raise
    except Exception:  # whatever fails in a piece: the whole file has the right error for it
        return None


def _csv(file: Path, **csv: Any) -> "Iterator[pd.DataFrame]":
    import pandas as pd

    opened: Any = pd.read_csv(file, chunksize=ROWS, **csv)
    with opened as pieces:
        for piece in pieces:
            if len(piece.columns) > COLUMNS:
                raise _Whole
            yield piece


def _lines(file: Path) -> Iterator[list[str]]:
    """The lines that are not blank, so many at a time."""
    held: list[str] = []
    with open(file, encoding="utf-8-sig") as opened:
        for line in opened:
            if line.strip():
                held.append(line.removesuffix("\n"))
            if len(held) == ROWS:
                yield held
                held = []
    if held:
        yield held


def _txt(file: Path) -> "Iterator[pd.DataFrame]":
    import pandas as pd

    for lines in _lines(file):
        yield pd.DataFrame({"text": lines})


def _jsonl(file: Path) -> "Iterator[pd.DataFrame]":
    import pandas as pd

    kinds: set[type] = set()
    for lines in _lines(file):
        records = [parse_json(line) for line in lines]
        kinds.update(map(type, records))
        if kinds == {str}:
            yield pd.DataFrame({"text": records})
        elif kinds == {dict}:
            yield pd.DataFrame(records)
        else:
            raise _Whole


def _parquet(file: Path) -> "Iterator[pd.DataFrame]":
    from pyarrow import parquet

    with parquet.ParquetFile(file, buffer_size=2**20) as opened:
        for group in range(opened.num_row_groups):  # of several at once, all stays in memory
            for batch in opened.iter_batches(batch_size=ROWS, row_groups=[group]):
                yield batch.to_pandas()


class _Table:
    """Takes the pieces of a table, and gives the table."""

    def __init__(self, what: str, files: contextlib.ExitStack) -> None:
        self.what, self.files = what, files
        self.columns: list[Any] = []
        self.numbers: dict[Any, _Numbers] = {}
        self.strings: _Strings | None = None
        self.rows = 0

    def add(self, piece: "pd.DataFrame") -> None:
        """Take the next rows."""
        if not self.rows:
            self._begin(piece)
        if len(piece.columns) != len(self.columns) or set(piece.columns) != set(self.columns):
            raise _Whole
        self.rows += len(piece)
        with writing(self.what):
            for name, column in self.numbers.items():
                column.add(piece[name])
            if self.strings is not None:
                self.strings.add(piece)

    def _begin(self, piece: "pd.DataFrame") -> None:
        self.columns = list(piece.columns)
        if len(set(self.columns)) != len(self.columns):
            raise _Whole
        texts = [c for c in self.columns if strings_of(piece[c]) is not None]
        self.numbers = {c: _Numbers(self.files) for c in self.columns if c not in texts}
        self.strings = _Strings({c: piece[c].dtype for c in texts}, self.files) if texts else None

    def finish(self) -> "pd.DataFrame | None":
        """The table of all pieces."""
        import pandas as pd

        if not self.rows:
            return None
        with writing(self.what):
            held: dict[Any, Any] = {c: n.finish() for c, n in self.numbers.items()}
            if self.strings is not None:
                held |= self.strings.finish()
        return pd.DataFrame({c: held[c] for c in self.columns}, copy=False)


class _Numbers:
    """A column of numbers, bools or times, one after the other in a file."""

    def __init__(self, files: contextlib.ExitStack) -> None:
        self.files = files
        self.file: IO[bytes] = files.enter_context(tempfile.TemporaryFile())
        self.runs: list[tuple[np.dtype[Any], int]] = []

    def add(self, column: Any) -> None:
        if not isinstance(column.dtype, np.dtype) or column.dtype.kind not in "biufmM":
            raise _Whole
        self.runs.append((column.dtype, len(column)))
        self.file.write(column.to_numpy().tobytes())

    def finish(self) -> NDArray[Any]:
        kinds = {dtype for dtype, _ in self.runs}
        if len(kinds) > 1:
            self.file = self._floats(kinds)
            kinds = {np.dtype(np.float64)}
        return np.frombuffer(map_file(self.file), kinds.pop())

    def _floats(self, kinds: set[np.dtype[Any]]) -> IO[bytes]:
        """The column again, whose whole numbers become floats, as where some are missing."""
        whole = {k for k in kinds if k.kind in "iu"}
        if len(whole) != 1 or kinds - whole != {np.dtype(np.float64)}:
            raise _Whole
        held, at = map_file(self.file), 0
        file: IO[bytes] = self.files.enter_context(tempfile.TemporaryFile())
        for dtype, n in self.runs:
            values = np.frombuffer(held, dtype, n, at)
            at += values.nbytes
            if dtype in whole and (values.min() < -EXACT or values.max() > EXACT):
                raise _Whole
            file.write(values.astype(np.float64).tobytes())
        return file


class _Strings:
    """The columns of strings, in one Arrow file."""

    def __init__(self, dtypes: dict[Any, Any], files: contextlib.ExitStack) -> None:
        import pyarrow as pa

        self.dtypes = dtypes
        self.schema = pa.schema([(str(i), pa.large_string()) for i in range(len(dtypes))])
        self.file: IO[bytes] = files.enter_context(tempfile.TemporaryFile())
        self.writer = pa.ipc.new_file(self.file, self.schema)

    def add(self, piece: "pd.DataFrame") -> None:
        import pyarrow as pa

        if any(piece[c].dtype != dtype for c, dtype in self.dtypes.items()):
            raise _Whole
        held = [strings_of(piece[c]) for c in self.dtypes]
        arrays = [pa.concat_arrays(h.chunks) for h in held if h is not None]
        self.writer.write_batch(pa.record_batch(arrays, schema=self.schema))

    def finish(self) -> dict[Any, Any]:
        import pyarrow as pa

        self.writer.close()
        held = pa.py_buffer(map_file(self.file))
        table = pa.ipc.open_file(pa.BufferReader(held)).read_all()
        dtypes = self.dtypes.items()
        return {c: dtype.__from_arrow__(table.column(i)) for i, (c, dtype) in enumerate(dtypes)}
