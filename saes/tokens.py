"""Tokens and what an SAE makes of them: whole documents at a time, from a model or from a store."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from interp.capturing import Capture, Progress
from interp.data import Dataset, read
from interp.errors import DataError, ParameterError
from interp.loading import load
from interp.models import Model
from interp.store import ActivationStore
from interp.token_labels import token_labels
from saes.base import SAE

__all__ = ["Chunk", "Tokens"]

ROWS = 4096
"""Rows of a store that are read at once, where no batch size is given."""
DENSE = 2**24
"""Dense latents that are made at once: 64 MiB in float32."""


@dataclass(frozen=True)
class Chunk:
    """Active slots of some whole documents, sorted by latent, then row.

    Attributes
    ----------
    document, position : [m] of each row.
    latent, row, value : [s] of each active slot; values are above 0.
    """

    document: NDArray[np.int64]
    position: NDArray[np.int64]
    latent: NDArray[np.int64]
    row: NDArray[np.int64]
    value: NDArray[np.float32]

    def around(self, slots: NDArray[np.int64], context: int) -> NDArray[np.float32]:
        """What the slots' latents do near them: [slots, 2 context + 1], 0 outside the document."""
        m = len(self.document)
        places = self.row[slots, None] + np.arange(-context, context + 1)
        inside = (places >= 0) & (places < m)
        places = places.clip(0, m - 1)
        inside &= self.document[places] == self.document[self.row[slots], None]
        keys, wanted = self.latent * m + self.row, self.latent[slots, None] * m + places
        found = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
        return np.where(inside & (keys[found] == wanted), self.value[found], np.float32(0))


class Tokens:
    """Where activations come from, and what is known of their tokens.

    Parameters
    ----------
    source : a `Model` or what `interp.load` takes, to run; or an `ActivationStore` with a row a
        token (columns ``document`` and ``position``; without them each row is a document).
    data : texts; of a store the ones that it was captured from, or None.
    model : of a store: whose tokenizer cut the texts.
    batch_size : documents of a forward, or rows read at once.

    Attributes
    ----------
    model : None for a store without one.
    ids : token ids of each document, or None where they are not known.
    data : None for a store without texts.
    groups : [documents] what stays together where documents are halved.
    """

    def __init__(
        self,
        source: Any,
        data: Any,
        hookpoint: str,
        *,
        model: Any = None,
        batch_size: int | None = None,
        max_length: int | None = None,
    ) -> None:
        self.hookpoint, self.batch_size = hookpoint, batch_size
        self.data: Dataset | None
        self.ids: Sequence[Sequence[int]] | None = None
        self.store = source if isinstance(source, ActivationStore) else None
        if self.store is None:
            if model is not None:
                raise ParameterError("model= is for a store; the model to run comes second.")
            self.work = Capture(
                cast(Any, source), data, hookpoint, "all", batch_size, None, max_length
            )
            if self.work.data.kind != "text" or len(self.work.points) > 1:
                raise DataError(
                    "features reads texts at one hook point; capture anything else with "
                    'interp.capture(pool="all") and give the store.'
                )
            self.model: Model | None = self.work.model
            self.data, self.ids = self.work.data, cast(Any, self.work.feed).ids
            self.hookpoint = self.work.points[0].name
            self.lengths = np.array(self.work.lengths[self.hookpoint], dtype=np.int64)
        else:
            self._read_store(self.store, data, model)
        self.groups = self._groups()

    def _read_store(self, store: ActivationStore, data: Any, model: Any) -> None:
        rows = store.rows_of(self.hookpoint)
        n = len(store[self.hookpoint])
        if {"document", "position"} <= set(rows.columns):
            self._document = rows["document"].to_numpy(np.int64)
            self._position = rows["position"].to_numpy(np.int64)
        else:
            self._document, self._position = np.arange(n), np.zeros(n, np.int64)
        if n == 0:
            raise DataError(f"the store has no rows of {self.hookpoint}.")
        new = np.diff(self._document, prepend=self._document[0] - 1) != 0
        starts = np.flatnonzero(new)
        if len(np.unique(self._document[starts])) < len(starts):
            raise DataError("the rows of a document must stand together in the store.")
        self._edges = np.append(starts, n)
        self.lengths = np.zeros(int(self._document.max()) + 1, np.int64)
        self.lengths[self._document[starts]] = np.diff(self._edges)
        self.model = None if model is None else load(model)
        self.data = None if data is None else read(data)
        if self.model is None or self.data is None:
            return
        limit = store.manifest.get("max_length")
        if self.data.marks:
            self.data = token_labels(self.model, self.data, limit)
        self.ids = self.model.tokenize(cast("list[str]", self.data.inputs), limit)
        if [len(row) for row in self.ids] != self.lengths.tolist():
            raise DataError(
                f"{self.data.name} gives other tokens than the store holds; give the texts and the "
                "model that it was captured from."
            )

    def _groups(self) -> NDArray[np.int64]:
        if self.data is None or self.data.group is None or len(self.data) != len(self.lengths):
            return np.arange(len(self.lengths))
        names = self.data.rows[self.data.group].astype(str).to_numpy()
        return np.unique(names, return_inverse=True)[1].astype(np.int64)

    def parts(self) -> list[Any]:
        """What is read at once: lists of documents, or slices of a store's rows."""
        if self.store is None:
            return [b for shard in self.work.shards for b in self.work.batches(*shard)]
        return [slice(*span) for span in self._spans()]

    def weight(self, part: Any) -> int:
        """Rows that it costs to read a part, pads included."""
        if self.store is None:
            return len(part) * int(self.lengths[part].max())
        return part.stop - part.start

    def read(self, part: Any) -> tuple[Tensor, NDArray[np.int64], NDArray[np.int64]]:
        """The activations of a part [m, ...], with the document and position of each row."""
        if self.store is None:
            length = self.lengths[part]
            document = np.repeat(np.asarray(part, np.int64), length)
            position = np.concatenate([np.arange(t) for t in length])
            return self.work.pooled(part)[self.hookpoint], document, position
        return self.store[self.hookpoint][part], self._document[part], self._position[part]

    def each(
        self, sae: SAE, take: Callable[[Chunk], None], progress: Progress | None = None
    ) -> None:
        """Give every token's codes to ``take``, each document whole, in no certain order."""
        done, total = 0, int(self.lengths.sum())
        for part in self.parts():
            x, document, position = self.read(part)
            take(encoded(sae, x, document, position))
            done += len(document)
            if progress is not None:
                progress(done, total, "tokens")

    def _spans(self) -> Iterator[tuple[int, int]]:
        """Rows of whole documents, about ``batch_size`` at a time."""
        start, size = 0, self.batch_size or ROWS
        for edge, after in zip(self._edges[1:], [*self._edges[2:], None], strict=True):
            if after is None or after - start > size:
                yield int(start), int(edge)
                start = edge


def encoded(sae: SAE, x: Tensor, document: NDArray[np.int64], position: NDArray[np.int64]) -> Chunk:
    """The active slots of rows [m, d_in]."""
    rows = x.flatten(1)
    step = max(1, DENSE // sae.n_latents)
    latent, row, value = [], [], []
    with torch.inference_mode():
        for start in range(0, len(rows), step):
            part = rows[start : start + step].to(sae.decoder.device, sae.decoder.dtype)
            codes = sae.encode_sparse(part)
            active = (codes.values > 0).flatten()
            latent.append(codes.indices.flatten()[active].cpu().numpy())
            row.append(codes.rows[active].cpu().numpy() + start)
            value.append(codes.values.flatten()[active].float().cpu().numpy())
    latents, places = np.concatenate(latent), np.concatenate(row)
    order = np.lexsort((places, latents))
    return Chunk(document, position, latents[order], places[order], np.concatenate(value)[order])
