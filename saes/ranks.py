"""Processes that learn from one batch together: whose rows are whose, and what the batch is like.

Each process of torchrun's holds the whole SAE and its optimiser, and learns from a run of
neighbouring rows of every batch. What a loss says of its rows is a mean over them, so the gradient
of the batch is the sum of the processes' own, each weighted by its share of the rows. What is no
mean of rows (AuxK's variances, BatchTopK's cut, a target of the batch's L0) is found for the whole
batch by the functions here, so that the processes compute what one would, up to rounding.

Cost: the gradients of P parameters are added up once a step, which sends and receives about 8 P
bytes a process (twice 4 bytes, as a ring does). Of n rows a process multiplies n P for TopK and its
kin and 6 n P for the dense architectures, so there are n / 8 operations a byte, or 6 n / 8: with
2,048 rows 256 for TopK. All else that is sent is of a latent, a feature or a slot.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from interp.distributed import World
from interp.errors import InterpError
from saes import primitives

__all__ = ["Ranks"]


@dataclass(frozen=True)
class Ranks:
    """The processes among which the rows of each batch are shared, and which of them this is.

    All of them must call each of the methods, at the same point. Sums are of the same bits on all.

    Parameters
    ----------
    world : says rank and size, and adds up tensors (`interp.distributed.World.sum_`).
    total : rows of a batch, at least as many as there are processes.
    """

    world: World
    total: int

    def rows(self, rank: int) -> slice:
        """The rows of a batch that are a rank's; ranks differ by a row at most."""
        size = self.world.size
        return slice(rank * self.total // size, (rank + 1) * self.total // size)

    @property
    def own(self) -> slice:
        """The rows of a batch that are this process's."""
        return self.rows(self.world.rank)

    @property
    def share(self) -> float:
        """Own rows over the batch's."""
        return (self.own.stop - self.own.start) / self.total

    def mean(self, value: Tensor) -> Tensor:
        """The batch's mean, from a mean of this process's rows, of any shape.

        Its gradient is that of the own mean: weighted by `share`, as losses are, and added up over
        the processes, it is the gradient of the batch's mean.
        """
        whole = self.world.sum_(value.detach() * self.share)
        return value + (whole - value).detach() if value.requires_grad else whole

    def least(self, value: Tensor) -> Tensor:
        """The least of the processes' 0-d tensors."""
        return self._side_by_side(value.detach().reshape(1)).amin()

    def concat(self, values: Tensor) -> Tensor:
        """[total, ...] of the processes' [own rows, ...]."""
        every = values.new_zeros(self.total, *values.shape[1:])
        every[self.own] = values
        return self.world.sum_(every)

    def take(self, x: Tensor, chosen: Tensor) -> Tensor:
        """[m, ...]: some rows of the batch [total, ...], of which x [own rows, ...] are here."""
        here = (chosen >= self.own.start) & (chosen < self.own.stop)
        picked = x.new_zeros(len(chosen), *x.shape[1:])
        picked[here] = x[chosen[here] - self.own.start]
        return self.world.sum_(picked)

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Make gradients of `share` times the own loss those of the batch's loss, in place."""
        for p in parameters:
            if p.grad is not None:  # on all processes alike: they run the same graph
                p.grad = self.world.sum_(p.grad.contiguous())

    def check_equal(self, parameters: Iterable[nn.Parameter], name: str, step: int) -> None:
        """Refuse to go on where the processes no longer hold the same weights, bit for bit.

        Raises
        ------
        InterpError
            They differ; so do all processes' next steps.
        """
        bits = [
            p.detach().contiguous().view(torch.int32).sum(dtype=torch.int64) for p in parameters
        ]
        sums = self._side_by_side(torch.stack(bits))
        if bool((sums != sums[0]).any()):
            raise InterpError(
                f"train: the ranks hold different weights of {name} after step {step}, as they "
                "will on different processors; start torchrun on equal ones."
            )

    def encode_batch_topk(
        self, x: Tensor, encoder: Tensor, b_enc: Tensor, k: int, backend: str
    ) -> tuple[Tensor, Tensor, Tensor]:
        """This process's part of `primitives.encode_batch_topk` of the batch.

        Values [m], indices [m], offsets [own rows + 1]: of the total * k slots those of its rows,
        without the ones that hold 0. Of equal values at the cut the first of the batch are taken.

        Each process offers its greatest values, twice as many as its part would be and more as
        long as one may have held some back; all find the same cut in them.
        """
        f, wanted = len(encoder), self.total * k
        sizes = [s.stop - s.start for s in map(self.rows, range(self.world.size))]
        width = min(f, 2 * k)
        while True:
            found = primitives.encode_batch_topk(x, encoder, b_enc, width, backend)
            values, indices, offsets = found
            table = self._side_by_side(values, max(sizes) * width)
            cut = table.flatten().topk(wanted).values[-1]
            ends = torch.stack([t[: n * width].amin() for t, n in zip(table, sizes, strict=True)])
            if width == f or not bool(((ends >= cut) & (cut > 0)).any()):
                break
            width = min(f, 2 * width)
        left = wanted - (~(table <= cut)).sum()  # a nan counts as greatest
        earlier = (table[: self.world.rank] == cut).sum()
        tied = (values == cut) & (cut > 0)
        kept = ~(values <= cut) | (tied & (tied.cumsum(0) <= left - earlier))
        before = torch.cat([kept.new_zeros(1, dtype=torch.int64), kept.cumsum(0)])
        return values[kept], indices[kept], before[offsets]

    def _side_by_side(self, values: Tensor, width: int | None = None) -> Tensor:
        """[size, width] of the processes' [m], a row a rank, filled up with 0."""
        table = values.new_zeros(self.world.size, len(values) if width is None else width)
        table[self.world.rank, : len(values)] = values
        return self.world.sum_(table)
