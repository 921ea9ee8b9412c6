"""What is counted while tokens stream past: firings, activations, labels, and pairs of latents."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from interp.data import Dataset
from saes.tokens import Chunk

__all__ = ["EDGES", "Firings", "Labels", "Together", "uniform"]

EDGES = 2.0 ** (np.arange(-64, 65) / 4)
"""Edges of the histogram's bins: four an octave, from 2^-16 to 2^16."""
SLOTS = 2**25
"""Active slots that are kept to count pairs of latents by: 128 MiB."""
BLOCK = 256
"""Latents whose partners are counted at once."""


def uniform(seed: int, *parts: NDArray[np.int64]) -> NDArray[np.float64]:
    """A number in [0, 1) for each entry, decided by the seed and the entry alone.

    A chain of SplitMix64 finalisers (Steele, Lea and Flood 2014), whose upper 53 bits are taken.
    """
    with np.errstate(over="ignore"):
        state = np.full(np.broadcast(*parts).shape, seed, np.int64).astype(np.uint64)
        for part in parts:
            state = state + part.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state ^= state >> np.uint64(31)
    return (state >> np.uint64(11)).astype(np.float64) / 2.0**53


class Firings:
    """How often and how strongly each latent fires: counts, sums, and a histogram of log bins."""

    def __init__(self, n_latents: int) -> None:
        self.fires = np.zeros(n_latents, np.int64)
        self.total = np.zeros(n_latents)
        self.strongest = np.zeros(n_latents, np.float32)
        self.bins = np.zeros((n_latents, len(EDGES) - 1), np.int64)

    @property
    def nbytes(self) -> int:
        """Bytes of the tables."""
        return sum(t.nbytes for t in (self.fires, self.total, self.strongest, self.bins))

    def add(self, chunk: Chunk) -> None:
        """Count a chunk; activations beyond the edges are counted in the outermost bins."""
        f, b = self.bins.shape
        self.fires += np.bincount(chunk.latent, minlength=f)
        self.total += np.bincount(chunk.latent, chunk.value.astype(np.float64), f)
        np.maximum.at(self.strongest, chunk.latent, chunk.value)
        place = (np.searchsorted(EDGES, chunk.value, side="right") - 1).clip(0, b - 1)
        self.bins += np.bincount(chunk.latent * b + place, minlength=f * b).reshape(f, b)


class Labels:
    """How each latent's firing goes with the labels of tokens, in two halves of the data.

    With ``turned``, a seed, the labels of each text are turned among its labelled tokens, by a
    random step: a control, which keeps how many there are in a text and that like stands by like.

    Attributes
    ----------
    names : ``column=class`` of each class.
    column : [classes] which column it belongs to.
    hits : [2, latents, classes] labelled tokens of the class at which the latent fires.
    tokens : [2, classes] tokens of the class.
    """

    def __init__(
        self,
        data: Dataset,
        half: NDArray[np.int64],
        n_latents: int,
        *,
        turned: int | None = None,
    ) -> None:
        self._half = half  # [documents] 0 or 1
        self._codes: list[list[NDArray[np.int64] | None]] = []
        self.names, column = [], []
        for c, name in enumerate(data.marks):
            cells = data.rows[name].tolist()
            found = sorted({v for cell in cells if cell is not None for v in cell if v is not None})
            code = {v: len(self.names) + i for i, v in enumerate(found)} | {None: -1}
            self.names += [f"{name}={v}" for v in found]
            column += [c] * len(found)
            codes = [_coded(cell, code) for cell in cells]
            if turned is not None:
                steps = uniform(turned, np.arange(len(codes)), np.array(c))
                codes = [_turned(k, step) for k, step in zip(codes, steps, strict=True)]
            self._codes.append(codes)
        self.column = np.array(column, dtype=np.int64)
        self.hits = np.zeros((2, n_latents, len(self.names)), np.int64)
        self.tokens = np.zeros((2, len(self.names)), np.int64)

    @property
    def nbytes(self) -> int:
        """Bytes of the tables and of the tokens' labels."""
        codes = (k.nbytes for column in self._codes for k in column if k is not None)
        return self.hits.nbytes + self.tokens.nbytes + sum(codes)

    def add(self, chunk: Chunk) -> None:
        """Count a chunk."""
        _, f, c = self.hits.shape
        half = self._half[chunk.document]
        starts = np.flatnonzero(np.diff(chunk.document, prepend=-1))
        lengths = np.diff(np.append(starts, len(half)))
        for column in self._codes:
            codes = [column[d] for d in chunk.document[starts]]
            label = np.concatenate(
                [np.full(t, -1) if k is None else k for k, t in zip(codes, lengths, strict=True)]
            )
            known = label >= 0
            self.tokens += _table((half * c + label)[known], (2, c))
            slots = known[chunk.row]
            row, latent = chunk.row[slots], chunk.latent[slots]
            self.hits += _table((half[row] * f + latent) * c + label[row], (2, f, c))

    def score(self, half: int) -> dict[str, NDArray[np.float64]]:
        """Precision, recall, F1, base rate and chance's F1, each [latents, classes], of one half.

        Chance fires as often, at any token: its F1 is 2 p b / (p + b), with p the latent's rate
        and b the class's base rate. nan where there is nothing to divide by.
        """
        hits, tokens = self.hits[half].astype(np.float64), self.tokens[half].astype(np.float64)
        same = (self.column[:, None] == self.column).astype(np.float64)
        fires, labelled = hits @ same, tokens @ same  # within the column
        base = np.broadcast_to(_ratio(tokens, labelled), hits.shape)
        rate = _ratio(fires, labelled)
        return {
            "precision": _ratio(hits, fires),
            "recall": _ratio(hits, tokens),
            "f1": _ratio(2 * hits, fires + tokens),
            "base": base,
            "chance": _ratio(2 * rate * base, rate + base),
            "fires": fires,
        }


def _coded(cell: Sequence[Any] | None, code: dict[Any, int]) -> NDArray[np.int64] | None:
    return None if cell is None else np.array([code[v] for v in cell], dtype=np.int64)


def _turned(codes: NDArray[np.int64] | None, share: float) -> NDArray[np.int64] | None:
    """The known codes moved on by a share of their number, round to the first."""
    if codes is None:
        return None
    known = np.flatnonzero(codes >= 0)
    out = codes.copy()
    out[known] = np.roll(codes[known], int(share * len(known)))
    return out


def _table(keys: NDArray[np.int64], shape: tuple[int, ...]) -> NDArray[np.int64]:
    return np.bincount(keys, minlength=int(np.prod(shape))).reshape(shape)


def _ratio(a: Any, b: Any) -> NDArray[np.float64]:
    a, b = np.broadcast_arrays(a, b)
    return np.divide(a, b, out=np.full(a.shape, np.nan), where=b > 0)


class Together:
    """Which latents fire at the same tokens, of all tokens or a uniform sample of them.

    A token is kept where its own number in [0, 1) is below ``share``; that is halved whenever the
    kept tokens have more than ``slots`` active slots. So the sample hangs on the seed and the
    tokens alone, not on their order. Pairs are counted afterwards, some latents at a time; no
    [latents, latents] table is ever made.
    """

    def __init__(self, n_latents: int, seed: int, slots: int = SLOTS) -> None:
        self.n_latents, self._seed, self._slots = n_latents, seed, slots
        self.share, self.tokens, self._held = 1.0, 0, 0
        self._kept: list[tuple[NDArray, NDArray, NDArray]] = []  # numbers, slots a token, latents

    def most(self, tokens: int) -> int:
        """Bytes that are held after so many tokens like those so far, at most."""
        slots = min(self._slots, tokens * self._held / max(self.tokens, 1))
        return int(4 * slots) + 16 * tokens

    def add(self, chunk: Chunk) -> None:
        """Keep what falls into the sample."""
        number = uniform(self._seed, chunk.document, chunk.position)
        order = np.argsort(chunk.row, kind="stable")
        slots = np.bincount(chunk.row, minlength=len(number))
        latent = chunk.latent[order].astype(np.int32)
        self._keep([(number, slots, latent)])
        while self._held > self._slots:
            self.share /= 2
            kept, self._kept, self._held, self.tokens = self._kept, [], 0, 0
            self._keep(kept)

    def _keep(self, parts: list[tuple[NDArray, NDArray, NDArray]]) -> None:
        for number, slots, latent in parts:
            chosen = number < self.share
            latent = latent[np.repeat(chosen, slots)]
            self._kept.append((number[chosen], slots[chosen], latent))
            self._held += len(latent)
            self.tokens += int(chosen.sum())

    def partners(self, latents: NDArray[np.int64], most: int) -> dict[str, NDArray]:
        """The latents that fire most often together with each of some.

        Returns
        -------
        dict
            ``index`` [latents, most], -1 where there are fewer, the commonest first and of equals
            the lowest; ``count`` of tokens at which both fire; ``expected`` by chance, the product
            of the two firing rates times the tokens.
        """
        f, n = self.n_latents, max(self.tokens, 1)
        slots = np.concatenate([k[1] for k in self._kept])
        index = np.concatenate([k[2] for k in self._kept])
        edges = np.concatenate([[0], slots.cumsum()])
        codes = csr_array((np.ones(len(index), np.int32), index, edges), shape=(len(slots), f))
        by_latent = codes.T.tocsr()
        fires = np.bincount(index, minlength=f).astype(np.float64)
        out = np.full((len(latents), most), -1, np.int64)
        count = np.zeros((len(latents), most), np.int64)
        for start in range(0, len(latents), BLOCK):
            block = latents[start : start + BLOCK]
            pairs = csr_array(by_latent[block] @ codes)
            for i, latent in enumerate(block, start):
                part = slice(pairs.indptr[i - start], pairs.indptr[i - start + 1])
                others, times = np.asarray(pairs.indices[part]), np.asarray(pairs.data[part])
                others, times = others[others != latent], times[others != latent]
                best = np.lexsort((others, np.negative(times)))[:most]
                out[i, : len(best)], count[i, : len(best)] = others[best], times[best]
        expected = np.where(out >= 0, fires[latents, None] * fires[out] / n, np.nan)
        return {"index": out, "count": count, "expected": expected}
