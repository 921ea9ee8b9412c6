"""Examples as they are shown: the tokens around places, each text held once."""

import numpy as np
from numpy.typing import NDArray

from saes.samples import Kept
from saes.tokens import Tokens

__all__ = ["Words", "banded", "windows"]


class Words:
    """Texts of tokens, each held once, by the order in which they were first asked for."""

    def __init__(self, source: Tokens) -> None:
        self._source = source
        self._index: dict[int | str, int] = {}
        self._texts: list[str] = []

    @property
    def texts(self) -> tuple[str, ...]:
        """All texts, by their index."""
        return tuple(self._texts)

    def token(self, i: int) -> int:
        """Index of the text of a token id."""
        if i not in self._index:
            self._index[i] = len(self._texts)
            model = self._source.model
            self._texts.append(str(i) if model is None else model.token_text(i))
        return self._index[i]

    def place(self, document: int, position: int) -> int:
        """Index of the text of the token at a place of the data."""
        if self._source.ids is not None:
            return self.token(self._source.ids[document][position])
        key = f"[{position}]"
        if key not in self._index:
            self._index[key] = len(self._texts)
            self._texts.append(key)
        return self._index[key]


def windows(
    document: NDArray, position: NDArray, values: NDArray, vocabulary: Words, source: Tokens
) -> dict[str, NDArray]:
    """The tokens around places, -1 outside the document, beside what is known of the places."""
    context = values.shape[-1] // 2
    tokens = np.full(values.shape, -1, np.int32)
    for at in zip(*np.nonzero(document >= 0), strict=True):
        d, p = int(document[at]), int(position[at])
        for place in range(max(0, p - context), min(int(source.lengths[d]), p + context + 1)):
            tokens[(*at, place - p + context)] = vocabulary.place(d, place)
    return {"document": document, "position": position, "tokens": tokens, "activations": values}


def banded(
    kept: Kept, cuts: tuple[float, ...], per_band: int
) -> tuple[tuple[NDArray, NDArray, NDArray], NDArray]:
    """Some examples of each band [f, bands, per_band], and the activations at the bands' edges."""
    f, bands = len(kept.key), len(cuts) - 1
    context = kept.context
    document, position = (np.full((f, bands, per_band), -1, np.int64) for _ in range(2))
    values = np.zeros((f, bands, per_band, 2 * context + 1), np.float32)
    edges = np.full((f, bands + 1), np.nan)
    for i in range(f):
        held = np.flatnonzero(kept.document[i] >= 0)
        if not len(held):
            continue
        activation = kept.values[i, held, context].astype(np.float64)
        edges[i] = np.quantile(activation, cuts)
        rank = np.empty(len(held))
        rank[np.argsort(activation, kind="stable")] = (np.arange(len(held)) + 0.5) / len(held)
        band = np.searchsorted(cuts, rank) - 1
        for b in range(bands):
            some = held[band == b][:per_band]  # the slots of a sample are in random order
            some = some[np.argsort(-kept.values[i, some, context], kind="stable")]
            document[i, b, : len(some)] = kept.document[i, some]
            position[i, b, : len(some)] = kept.position[i, some]
            values[i, b, : len(some)] = kept.values[i, some]
    return (document, position, values), edges
