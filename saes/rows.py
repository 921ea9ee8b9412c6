"""Batches of activation rows in a shuffled order that is a function of the seed and the step alone.

An epoch reads every row once. Its rows come in units that are cheap to read together: a block of
neighbouring rows of a matrix, or a document that a model runs. Units are permuted and dealt into
chunks that fit in memory; a chunk is read whole, its rows are permuted, and batches are cut off
one after the other, across chunks and epochs. Nothing is remembered between batches but the chunk
at hand, so that training resumes at any step by asking for that step's batch.
"""

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from interp.distributed import World
from interp.errors import DataError, ParameterError, ShapeError
from interp.store import Matrix
from saes.ranks import Ranks

__all__ = ["Batches", "MatrixRows", "Pair", "Rows", "read_rows", "seeded"]

CHUNK_BYTES = 256 * 2**20
"""What a chunk may hold, its rows counted as float32."""
SAMPLE_ROWS = 2**16
"""Rows that the start of a training is found from, at most."""
BLOCK = 64
"""Neighbouring rows of a matrix that are read together."""
ALONE = World()


class Pair(NamedTuple):
    """Activations to read [n, ...], and those to predict [n, ...] where they are others."""

    x: Tensor
    y: Tensor | None


class Rows(ABC):
    """Activations to train on, at one or several sites that share their rows.

    Attributes
    ----------
    sites : a name a site; ``("",)`` where there is one without a name.
    lengths : [units] rows of each unit, int64.
    chunk_rows : rows that are read and shuffled together, about.
    """

    sites: tuple[str, ...]
    lengths: Tensor
    chunk_rows: int

    @property
    def n(self) -> int:
        """Rows of an epoch."""
        return int(self.lengths.sum())

    @abstractmethod
    def read(self, units: Sequence[int]) -> list[Pair]:
        """The rows of some units, in their order, a pair a site."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """JSON values that differ where the rows do."""

    def read_among(self, units: Sequence[int], world: World) -> list[Pair]:
        """`read` by all processes of torchrun's at once; all get all rows."""
        return self.read(units)

    def sample(self, world: World = ALONE) -> list[Pair]:
        """Rows from all over the data, a chunk or 65,536 at most, the same for every seed."""
        order = torch.randperm(len(self.lengths), generator=seeded(0, "sample"))
        most = min(self.chunk_rows, SAMPLE_ROWS)
        count = int((self.lengths[order].cumsum(0) <= most).sum())
        return self.read_among(sorted(order[: max(1, count)].tolist()), world)


class MatrixRows(Rows):
    """Rows of matrices in memory or in a store.

    Parameters
    ----------
    sites : name -> a matrix [n, ...], a tuple (X, Y) of matrices, or a list of matrices [n, d] to
        stack into [n, layers, d].

    Raises
    ------
    ShapeError
        Matrices differ in rows, or have no row axis and no width.
    DataError
        There are no rows, or they hold no floating-point numbers.
    """

    def __init__(self, sites: Mapping[str, Any]) -> None:
        if not sites:
            raise DataError("train needs activations, and got no matrix.")
        self.sites = tuple(sites)
        self._inputs: list[list[Any]] = []
        self._stacked: list[bool] = []
        self._targets: list[Any] = []
        for given in sites.values():
            x, y = given if isinstance(given, tuple) and len(given) == 2 else (given, None)
            self._stacked.append(isinstance(x, list))
            self._inputs.append([_matrix(m) for m in (x if isinstance(x, list) else [x])])
            self._targets.append(None if y is None else _matrix(y))
            if y is not None and not isinstance(x, list) and len(x) != len(y):
                raise ShapeError(
                    f"train: the two of a pair have {len(x)} and {len(y)} rows; row i of one must "
                    "belong to row i of the other, so drop the rows that have no partner."
                )
        every = [m for ms in self._inputs for m in ms] + [m for m in self._targets if m is not None]
        counts = {len(m) for m in every}
        if len(counts) > 1:
            raise ShapeError(f"train: matrices of {sorted(counts)} rows do not share their rows.")
        (n,) = counts
        if n == 0:
            raise DataError("train: the activations have no rows.")
        self.lengths = torch.full((math.ceil(n / BLOCK),), BLOCK)
        self.lengths[-1] = n - BLOCK * (len(self.lengths) - 1)
        width = sum(math.prod(m.shape[1:]) for m in every)
        self.chunk_rows = max(BLOCK, CHUNK_BYTES // (4 * width))

    def read(self, units: Sequence[int]) -> list[Pair]:
        """The rows of some blocks, in their order, a pair a site.

        Raises
        ------
        DataError
            A row holds nan or inf.
        """
        starts = np.asarray(units)[:, None] * BLOCK
        index = (starts + np.arange(BLOCK)).ravel()
        index = index[index < self.n]
        pairs = []
        for site, inputs, stacked, target in zip(
            self.sites, self._inputs, self._stacked, self._targets, strict=True
        ):
            read = [_take(m, index, site) for m in inputs]
            x = torch.stack(read, dim=1) if stacked else read[0]
            pairs.append(Pair(x, None if target is None else _take(target, index, site)))
        return pairs

    def identity(self) -> dict[str, Any]:
        """Rows, shapes, and a hash of blocks from all over the rows."""
        count = len(self.lengths)
        first = self.read(sorted({round(i * (count - 1) / 7) for i in range(8)}))
        digest = hashlib.sha256()
        for t in (t for pair in first for t in pair if t is not None):
            digest.update(t.contiguous().view(torch.uint8).numpy().tobytes())
        shapes = [[list(t.shape[1:]) for t in pair if t is not None] for pair in first]
        return {
            "rows": self.n,
            "sites": list(self.sites),
            "shapes": shapes,
            "some_rows": digest.hexdigest(),
        }


class Batches:
    """The batches of a training by step: ``batches[step]`` is a pair a site.

    Parameters
    ----------
    rows : what is read.
    size : rows of a batch.
    seed : of the shuffles.
    device : where the batches lie.
    ranks : the processes that share each batch; this one gets its own rows of it, and all must ask
        for the same steps. The order of the rows does not depend on how many there are.

    Raises
    ------
    ParameterError
        A batch would hold a row twice.
    """

    def __init__(
        self,
        rows: Rows,
        size: int,
        seed: int,
        device: torch.device,
        ranks: Ranks | None = None,
    ) -> None:
        if size > rows.n:
            raise ParameterError(
                f"batch_size must be at most {rows.n}, the rows of the activations; got {size}."
            )
        self.rows, self.size, self.seed, self.device = rows, size, seed, device
        self._world = ALONE if ranks is None else ranks.world
        self._own = slice(0, size) if ranks is None else ranks.own
        self._plan: tuple[int, list[list[int]], list[int]] | None = None
        self._held: tuple[int, int, list[Pair], Tensor] | None = None

    def __getitem__(self, step: int) -> list[Pair]:
        first, stop = step * self.size, (step + 1) * self.size
        own = (first + self._own.start, first + self._own.stop)
        parts: list[list[Pair]] = []
        while first < stop:  # through all chunks of the batch: they are read by all processes
            epoch, within = divmod(first, self.rows.n)
            pairs, order, begin = self._chunk(epoch, within)
            here = order[within - begin : within - begin + stop - first]
            low, high = (min(max(edge - first, 0), len(here)) for edge in own)
            mine = here[low:high]
            if len(mine):
                parts.append([Pair(x[mine], None if y is None else y[mine]) for x, y in pairs])
            first += len(here)
        return [_joined(site) for site in zip(*parts, strict=True)]

    def _chunk(self, epoch: int, within: int) -> tuple[list[Pair], Tensor, int]:
        """The chunk that holds an epoch's row, the order of its rows, and its first row."""
        if self._plan is None or self._plan[0] != epoch:
            self._plan = (epoch, *self._deal(epoch))
        _, chunks, starts = self._plan
        i = int(np.searchsorted(starts, within, side="right")) - 1
        if self._held is None or self._held[:2] != (epoch, i):
            self._held = None  # let the old chunk go before the new one comes
            read = self.rows.read_among(chunks[i], self._world)
            to = self.device
            pairs = [Pair(x.to(to), None if y is None else y.to(to)) for x, y in read]
            generator = seeded(self.seed, "rows", epoch, i)
            order = torch.randperm(len(pairs[0].x), generator=generator).to(self.device)
            self._held = (epoch, i, pairs, order)
        return self._held[2], self._held[3], starts[i]

    def _deal(self, epoch: int) -> tuple[list[list[int]], list[int]]:
        """An epoch's chunks of units, each sorted so that it is read in order, and their starts."""
        lengths = self.rows.lengths
        order = torch.randperm(len(lengths), generator=seeded(self.seed, "units", epoch))
        before = lengths[order].cumsum(0) - lengths[order]
        count = math.ceil(self.rows.n / self.rows.chunk_rows)
        which = before * count // self.rows.n
        chunks = [sorted(order[which == i].tolist()) for i in range(count)]
        chunks = [c for c in chunks if c]
        sizes = [int(lengths[c].sum()) for c in chunks]
        return chunks, [0, *np.cumsum(sizes)[:-1].tolist()]


def read_rows(acts: Any) -> Rows:
    """What `train` takes as `Rows`: rows already, a mapping of sites, or one site."""
    if isinstance(acts, Rows):
        return acts
    return MatrixRows(acts if isinstance(acts, Mapping) else {"": acts})


def seeded(seed: int, *parts: str | int) -> torch.Generator:
    """A generator on the CPU for one purpose, such as ``seeded(0, "rows", epoch, chunk)``."""
    text = "/".join(map(str, (seed, *parts)))
    value = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
    return torch.Generator().manual_seed(value >> 1)


def _matrix(given: Any) -> Any:
    """A matrix that is indexed by row; refused where it is none."""
    shape = getattr(given, "shape", None)
    if not isinstance(given, Matrix | Tensor | np.ndarray) or shape is None:
        raise DataError(
            "train takes a store's matrix, an array or a tensor, a tuple (X, Y) of them, a list "
            f"of layers, or rows; got {type(given).__name__}."
        )
    if len(shape) < 2:
        raise ShapeError(f"train: activations must be [n, width]; got {list(shape)}.")
    floating = (
        np.issubdtype(given.dtype, np.floating)
        if isinstance(given, np.ndarray)
        else given.dtype.is_floating_point
    )
    if not floating:
        raise DataError(f"train: activations must be floating-point numbers; got {given.dtype}.")
    return given.detach() if isinstance(given, Tensor) else given


def _take(matrix: Any, index: np.ndarray, site: str) -> Tensor:
    """Some rows of a matrix, checked to be finite; all in their order are the tensor itself."""
    if isinstance(matrix, Tensor) and np.array_equal(index, np.arange(len(matrix))):
        x = matrix.cpu()
    elif isinstance(matrix, np.ndarray):
        x = torch.from_numpy(np.ascontiguousarray(matrix[index]))
    elif isinstance(matrix, Tensor):
        x = matrix[torch.from_numpy(index).to(matrix.device)].cpu()
    else:
        x = matrix[index]
    if not x.sum(dtype=torch.promote_types(x.dtype, torch.float32)).isfinite():
        wrong = ~x.isfinite().flatten(1).all(1)
        if wrong.any():
            where = f" of {site}" if site else ""
            row = int(index[int(wrong.nonzero()[0])])
            raise DataError(
                f"train: row {row}{where} holds nan or inf; drop such rows, or capture in a wider "
                "dtype."
            )
    return x


def _joined(parts: Sequence[Pair]) -> Pair:
    if len(parts) == 1:
        return parts[0]
    x = torch.cat([p.x for p in parts])
    targets = [p.y for p in parts if p.y is not None]
    return Pair(x, torch.cat(targets) if targets else None)
