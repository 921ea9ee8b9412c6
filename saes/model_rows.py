"""Rows straight from a model: a mixing buffer of documents from all over the data."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from interp.capturing import Capture
from interp.distributed import World
from interp.errors import ParameterError
from saes.rows import Pair, Rows

__all__ = ["ModelRows"]


class ModelRows(Rows):
    """Activations that a model computes while an SAE is trained; nothing is written.

    Each epoch deals the documents, in a new order, into buffers of about ``buffer_rows`` rows; a
    buffer is captured, its rows are shuffled, and the next one is captured when they are used up.
    No more than one buffer is held. Under torchrun each process runs the model on its share of a
    buffer's documents, and all hold the buffer.

    Parameters
    ----------
    model, data : as for `interp.capture`.
    hookpoint : what is read: one hook point; or several, each a site with SAEs of its own.
    target : the hook point to predict, for a transcoder.
    stack : read the hook points as layers [n, layers, d] of one site, for a crosscoder.
    pool : ``"all"`` for a row a token, or as for `interp.capture`.
    buffer_rows : rows that are captured and shuffled together, about.
    batch_size, max_length, columns : of the forward, as for `interp.capture`.

    Raises
    ------
    ParameterError
        ``target`` or ``stack`` do not fit the hook points, or ``buffer_rows`` is below 1.
    InterpError
        As for `interp.capture`.
    """

    def __init__(
        self,
        model: Any,
        data: Any,
        hookpoint: str | Sequence[str],
        *,
        target: str | None = None,
        stack: bool = False,
        pool: Any = "all",
        buffer_rows: int = 2**16,
        batch_size: int | None = None,
        max_length: int | None = None,
        columns: dict[str, Any] | None = None,
    ) -> None:
        if buffer_rows < 1:
            raise ParameterError(f"buffer_rows must be at least 1; got {buffer_rows}.")
        read = [hookpoint] if isinstance(hookpoint, str) else list(hookpoint)
        wanted = [*read, target] if target else read
        self.work = Capture(model, data, wanted, pool, batch_size, None, max_length, columns)
        names = [p.name for p in self.work.points]
        self._target = self.work.model.resolve(target)[0].name if target else None
        self._layers = [n for n in names if n != self._target] if target else names
        self._stack = stack
        if self._target and (stack or len(self._layers) != 1):
            raise ParameterError(
                "target predicts one hook point from one other; got "
                f"{', '.join(self._layers) or 'none'}."
            )
        self.sites = ("+".join(self._layers),) if stack else tuple(self._layers)
        if self._target:
            self.sites = (f"{self._layers[0]}-to-{self._target}",)
        counts = {
            tuple(self.work.lengths[n]) if pool == "all" else len(self.work.data) for n in names
        }
        if len(counts) > 1:
            raise ParameterError(f"{', '.join(names)} have different positions; train them apart.")
        first = self.work.lengths[names[0]]
        self.lengths = torch.tensor(first if pool == "all" else [1] * len(first))
        self.chunk_rows = buffer_rows

    def read(self, units: Sequence[int]) -> list[Pair]:
        """The rows of some documents, in their order, a pair a site."""
        return self._read(units, World())

    def read_among(self, units: Sequence[int], world: World) -> list[Pair]:
        """`read`, where each process runs the model on its share of the documents.

        A document's rows are added to zeros, so that all get them as its process computed them.
        """
        if world.size == 1 or len(units) < world.size:
            return self.read(units)
        return self._read(units, world)

    def _read(self, units: Sequence[int], world: World) -> list[Pair]:
        starts = self.lengths[list(units)].cumsum(0) - self.lengths[list(units)]
        first = dict(zip(units, starts.tolist(), strict=True))
        total = int(self.lengths[list(units)].sum())
        held: dict[str, Tensor] = {}
        # Documents of like length share a batch, longest first: memory fails at once or never.
        lengths = self.work.feed.lengths
        order = sorted(units, key=lambda i: (-lengths[i], i))[world.rank :: world.size]
        new = torch.empty if world.size == 1 else torch.zeros
        while order:
            size = self.work.batch_size or self.work.feed.batch_rows(lengths[order[0]])
            batch, order = order[:size], order[size:]
            where = torch.cat([first[i] + torch.arange(int(self.lengths[i])) for i in batch])
            for name, rows in self.work.pooled(batch).items():
                if name not in held:
                    held[name] = new((total, *rows.shape[1:]), dtype=rows.dtype)
                held[name][where] = rows.cpu()
        for name in sorted(held):
            world.sum_(held[name])
        if self._stack:
            return [Pair(torch.stack([held[n] for n in self._layers], dim=1), None)]
        target = None if self._target is None else held[self._target]
        return [Pair(held[n], target) for n in self._layers]

    def identity(self) -> dict[str, Any]:
        """Model, data, hook points, pooling and buffer."""
        key = self.work.key()
        key["dtype"] = [str(d) for d in key["dtype"]]
        return {**key, "sites": list(self.sites), "buffer_rows": self.chunk_rows}
