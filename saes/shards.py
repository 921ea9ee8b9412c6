"""Rows of large tensors over ranks: which are here, and what the ranks tell each other of them.

The two operators at the ends of a layer whose rows are spread are those of Shoeybi et al. 2019,
"Megatron-LM", section 3: what every rank reads is copied forward and its gradient summed backward
(`Shards.copied`), partial results are summed forward and the gradient copied backward
(`Shards.summed`).
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.distributed import World, world
from interp.errors import ParameterError

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh

__all__ = ["WHOLE", "Shards", "data_world", "is_spread", "local", "shard_mesh", "spread_rows"]

DIMENSION = "shards"
"""The dimension of a mesh along which latents are spread."""
WHOLE = ("b_dec", "b_decs", "W_skip")
"""Parameters that are of no latent; all others have a row a latent."""
DRAWN = 2**22
"""Numbers that are drawn at a time for first weights."""


def shard_mesh(shards: int | None = None, device: str = "cpu") -> "DeviceMesh":
    """The ranks of torchrun as a mesh (data, shards): a row of it holds one whole dictionary.

    Parameters
    ----------
    shards : ranks that share a dictionary, neighbours; None for all. Must divide the ranks.
    device : ``"cpu"`` or ``"cuda"``.

    Raises
    ------
    ParameterError
        There is one process, or the ranks are no multiple of ``shards``.
    """
    from torch.distributed.device_mesh import init_device_mesh

    ranks = world()
    shards = ranks.size if shards is None else shards
    if shards < 2 or ranks.size % shards:
        raise ParameterError(
            f"shards must be from 2 up and divide the {ranks.size} process(es) of torchrun; got "
            f"{shards!r}. Start with torchrun --nproc-per-node N, N a multiple of it."
        )
    ranks.start()
    shape = (ranks.size // shards, shards)
    return init_device_mesh(device, shape, mesh_dim_names=("data", DIMENSION))


def data_world(party: World, mesh: "DeviceMesh") -> World:
    """Of all ranks those that hold the same latents as this one: they share the rows of a batch."""
    rank, size = mesh.get_local_rank("data"), mesh.size(0)
    return replace(party, rank=rank, size=size, group=mesh.get_group("data"))


def local(tensor: Tensor) -> Tensor:
    """The part of a DTensor that is here, which shares its memory; any other tensor as it is."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor  # pyright: ignore


def is_spread(tensor: Tensor | None) -> bool:
    """Whether a tensor is a DTensor of which this rank holds some rows alone."""
    placements = getattr(tensor, "placements", ())
    return any(placement.is_shard() for placement in placements)


@dataclass(frozen=True)
class Shards:
    """n rows over the ranks of a mesh, in blocks of ceil(n / ranks): the last may be shorter.

    Attributes
    ----------
    mesh : of one dimension.
    n : rows of all ranks together.
    """

    mesh: "DeviceMesh"
    n: int

    def __post_init__(self) -> None:
        if self.n <= self.most * (self.size - 1):
            raise ParameterError(
                f"{self.n} latents in blocks of {self.most} leave nothing for the last of "
                f"{self.size} shards; take fewer shards."
            )

    @property
    def group(self) -> "ProcessGroup":
        """The ranks that share the rows."""
        return self.mesh.get_group()

    @property
    def rank(self) -> int:
        """Which block is here."""
        return self.mesh.get_local_rank()

    @property
    def size(self) -> int:
        """How many ranks share the rows."""
        return self.mesh.size()

    @property
    def most(self) -> int:
        """Rows of the largest block."""
        return -(-self.n // self.size)

    @property
    def start(self) -> int:
        """The first row that is here."""
        return self.begin(self.rank)

    @property
    def stop(self) -> int:
        """One past the last row that is here."""
        return self.begin(self.rank + 1)

    def begin(self, rank: int) -> int:
        """The first row of a rank; of the rank after the last, n."""
        return min(self.n, rank * self.most)

    def spread(self, rows: Tensor) -> Tensor:
        """A DTensor [n, ...] of the rows that are here: no copy."""
        from torch.distributed.tensor import DTensor, Shard

        shape = torch.Size((self.n, *rows.shape[1:]))
        stride = rows.stride() if rows.ndim > 1 else (1,)
        return DTensor.from_local(
            rows, self.mesh, [Shard(0)], run_check=False, shape=shape, stride=stride
        )

    def repeated(self, tensor: Tensor) -> Tensor:
        """A DTensor of what is the same on every rank: no copy."""
        from torch.distributed.tensor import DTensor, Replicate

        return DTensor.from_local(tensor, self.mesh, [Replicate()], run_check=False)

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """A tensor of each rank, by rank, on all of them; shapes must be the same."""
        tensor = tensor.contiguous()
        found = [torch.empty_like(tensor) for _ in range(self.size)]
        with world()._together() as dist:
            dist.all_gather(found, tensor, group=self.group)
        return found

    def gather_uneven(self, tensor: Tensor) -> Tensor:
        """Rows of all ranks one after the other, of each as many as it has."""
        counts = [int(t) for t in self.gather(torch.tensor([len(tensor)], device=tensor.device))]
        padded = tensor.new_zeros(max(counts), *tensor.shape[1:])
        padded[: len(tensor)] = tensor
        return torch.cat([t[:n] for t, n in zip(self.gather(padded), counts, strict=True)])

    def add_(self, tensor: Tensor) -> Tensor:
        """Add up a tensor over the ranks, in place; all get the same bits."""
        with world()._together() as dist:
            dist.all_reduce(tensor, group=self.group)
        return tensor

    def wait(self) -> None:
        """Go on when every rank has come here."""
        self.add_(torch.zeros(1, device=self.mesh.device_type))

    def least_(self, tensor: Tensor) -> Tensor:
        """The smallest of a tensor's entries over the ranks, in place."""
        with world()._together() as dist:
            dist.all_reduce(tensor, dist.ReduceOp.MIN, group=self.group)
        return tensor

    def summed(self, partial: Tensor) -> Tensor:
        """The sum over ranks; each rank's part gets the whole gradient."""
        return _Summed.apply(partial, self)

    def copied(self, tensor: Tensor) -> Tensor:
        """What every rank reads; its gradient is the sum over ranks."""
        return _Copied.apply(tensor, self)


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, partial: Tensor, shards: Shards) -> Tensor:
        return shards.add_(partial.contiguous().clone())

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor, None]:
        return grad_outputs[0], None


class _Copied(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, shards: Shards) -> Tensor:
        ctx.shards = shards
        return tensor.view_as(tensor)

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor, None]:
        return ctx.shards.add_(grad_outputs[0].contiguous().clone()), None


def spread_rows(n: int, width: int, generator: torch.Generator | None, shards: Shards) -> Tensor:
    """Of ``torch.randn(n, width, generator=generator)`` the rows that are here.

    Drawn in blocks of a multiple of 16 numbers, which is how torch draws them itself.
    """
    own = torch.empty(shards.stop - shards.start, width, dtype=torch.float32)
    size = max(16, DRAWN // width // 16 * 16)
    begins = list(range(0, n, size))
    if len(begins) > 1 and n - begins[-1] < 16:
        begins.pop()
    for begin, end in zip(begins, [*begins[1:], n], strict=True):
        block = torch.randn(end - begin, width, generator=generator, dtype=torch.float32)
        low, high = max(begin, shards.start), min(end, shards.stop)
        if low < high:
            own[low - shards.start : high - shards.start] = block[low - begin : high - begin]
    return own
