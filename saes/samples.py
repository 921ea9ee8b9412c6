"""The tokens that are kept as examples of each latent while all tokens stream past."""

import numpy as np
from numpy.typing import NDArray

from saes.tallies import uniform
from saes.tokens import Chunk

__all__ = ["Kept", "Sample", "Top"]


class Kept:
    """For each latent the n tokens of the greatest key, with the latent's activations around them.

    Of equal keys the earlier document comes first, then the earlier position: what is kept hangs
    on the tokens alone, not on the order in which they come.

    Attributes
    ----------
    key : [latents, n], falling; -inf where there are fewer tokens.
    document, position : [latents, n]; -1 where there are fewer.
    values : [latents, n, 2 context + 1].
    """

    def __init__(self, n_latents: int, n: int, context: int) -> None:
        self.key = np.full((n_latents, n), -np.inf)
        self.document = np.full((n_latents, n), -1, np.int64)
        self.position = np.full((n_latents, n), -1, np.int64)
        self.values = np.zeros((n_latents, n, 2 * context + 1), np.float32)
        self.context = context

    @property
    def nbytes(self) -> int:
        """Bytes of the tables."""
        tables = (self.key, self.document, self.position, self.values)
        return sum(table.nbytes for table in tables)

    def keep(
        self,
        chunk: Chunk,
        place: NDArray[np.int64],
        slots: NDArray[np.int64],
        key: NDArray[np.float64],
    ) -> None:
        """Take in some slots of a chunk; ``place`` [slots] is the row of each in the tables."""
        n = self.key.shape[1]
        open_ = key >= self.key[place, -1]
        place, slots, key = place[open_], slots[open_], key[open_]
        if not len(slots):
            return
        document = chunk.document[chunk.row[slots]]
        position = chunk.position[chunk.row[slots]]
        order = np.lexsort((position, document, -key, place))
        place, slots, key = place[order], slots[order], key[order]
        document, position = document[order], position[order]
        rows, first, which = np.unique(place, return_index=True, return_inverse=True)
        rank = np.arange(len(place)) - first[which]
        best = rank < n
        which, rank, slots = which[best], rank[best], slots[best]

        def beside(old: NDArray, new: NDArray, empty: float) -> NDArray:
            block = np.full((len(rows), n), empty, old.dtype)
            block[which, rank] = new[best]
            return np.concatenate([old[rows], block], axis=1)

        keys = beside(self.key, key, -np.inf)
        documents = beside(self.document, document, -1)
        positions = beside(self.position, position, -1)
        order = np.lexsort((positions, documents, -keys), axis=1)[:, :n]
        self.key[rows], self.document[rows], self.position[rows] = (
            np.take_along_axis(a, order, 1) for a in (keys, documents, positions)
        )
        source = np.full((len(rows), n), -1)
        source[which, rank] = slots
        source = np.concatenate([np.full_like(source, -1), source], axis=1)
        source = np.take_along_axis(source, order, 1)
        old = np.take_along_axis(self.values[rows], (order % n)[:, :, None], 1)
        fresh = source >= 0
        old[fresh] = chunk.around(source[fresh], self.context)
        old[self.document[rows] < 0] = 0
        self.values[rows] = old


class Top(Kept):
    """The documents in which each latent fires most strongly, at the token where it does."""

    def add(self, chunk: Chunk, table: NDArray[np.int64]) -> None:
        """Take in a chunk; ``table`` [n_latents] gives each latent's row, -1 for none."""
        wanted = np.flatnonzero(table[chunk.latent] >= 0)
        if not len(wanted):
            return
        latent, document = chunk.latent[wanted], chunk.document[chunk.row[wanted]]
        new = np.diff(latent, prepend=-1) != 0
        new[1:] |= np.diff(document) != 0
        starts = np.flatnonzero(new)
        value = chunk.value[wanted]
        most = np.maximum.reduceat(value, starts)
        of = new.cumsum() - 1
        hits = np.flatnonzero(value == most[of])
        hits = hits[np.unique(of[hits], return_index=True)[1]]  # of equals the first in the text
        slots = wanted[hits]
        self.keep(chunk, table[chunk.latent[slots]], slots, value[hits].astype(np.float64))


class Sample(Kept):
    """A uniform sample, without replacement, of the tokens at which each latent fires."""

    def __init__(self, n_latents: int, n: int, context: int, seed: int) -> None:
        super().__init__(n_latents, n, context)
        self._seed = seed

    def add(self, chunk: Chunk, table: NDArray[np.int64]) -> None:
        """Take in a chunk; ``table`` [n_latents] gives each latent's row, -1 for none."""
        slots = np.flatnonzero(table[chunk.latent] >= 0)
        row = chunk.row[slots]
        number = uniform(self._seed, chunk.latent[slots], chunk.document[row], chunk.position[row])
        self.keep(chunk, table[chunk.latent[slots]], slots, number)
