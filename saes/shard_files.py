"""Tensors whose rows are spread over ranks, on their way to one file and from it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from interp.distributed import world
from saes.shards import WHOLE, Shards, is_spread, local

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

__all__ = ["fetching", "hand_in", "held_rows", "outline"]


@contextmanager
def fetching(tensors: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Tensors for the first rank of a group to write: each comes whole when its turn comes.

    The others call `hand_in` meanwhile. Those that are spread must be of one dtype and asked for by
    rising name; what was not asked for, as a disk was full, is taken in the end and let go.
    """
    later = {k: _Later(tensors[k]) for k in sorted(tensors) if is_spread(tensors[k])}
    try:
        yield {k: cast(Tensor, later.get(k, local(t))) for k, t in tensors.items()}
    finally:
        for tensor in later.values():
            tensor.let_go()


def hand_in(tensors: Mapping[str, Tensor]) -> None:
    """Give the rows that are here to the first rank of the group, tensor by tensor."""
    for name in sorted(k for k, t in tensors.items() if is_spread(t)):
        group = _mesh(tensors[name]).get_group()
        rows = local(tensors[name].detach()).contiguous()
        with world()._together() as dist:
            dist.send(rows, dist.get_global_rank(group, 0), group=group)


class _Later:
    """A spread tensor on the first rank, as what writes a file sees it."""

    def __init__(self, tensor: Tensor) -> None:
        self.shards = Shards(_mesh(tensor), len(tensor))
        self.own, self.waits = local(tensor.detach()), True
        self.dtype, self.shape = tensor.dtype, tensor.shape
        self.numel, self.element_size = tensor.numel, tensor.element_size

    def detach(self) -> Tensor:
        """The whole tensor, on the CPU."""
        found = torch.empty(self.shape, dtype=self.dtype)
        found[: len(self.own)] = self.own
        for begin, rows in self._others():
            found[begin : begin + len(rows)] = rows
        return found

    def let_go(self) -> None:
        """Take in what the others send, if it has not been asked for."""
        for _ in self._others():
            pass

    def _others(self) -> Iterator[tuple[int, Tensor]]:
        shards, waits = self.shards, self.waits
        self.waits = False
        for rank in range(1, shards.size if waits else 0):
            begin, end = shards.begin(rank), shards.begin(rank + 1)
            rows = self.own.new_empty(end - begin, *self.shape[1:])
            with world()._together() as dist:
                dist.recv(rows, dist.get_global_rank(shards.group, rank), group=shards.group)
            yield begin, rows


def outline(file: Any, name: str) -> Tensor:
    """A tensor of a file without its numbers."""
    rows = file.get_slice(name)
    shape = rows.get_shape()
    like = rows[:0] if shape else file.get_tensor(name)
    return torch.empty(shape, dtype=like.dtype, device="meta")


def held_rows(file: Any, name: str, shards: Shards) -> Tensor:
    """The part of a file's tensor that is here."""
    rows = file.get_slice(name)
    if name in WHOLE or not rows.get_shape():
        return file.get_tensor(name)
    return rows[shards.start : shards.stop]


def _mesh(tensor: Tensor) -> "DeviceMesh":
    return tensor.device_mesh  # pyright: ignore[reportAttributeAccessIssue]  a DTensor's
