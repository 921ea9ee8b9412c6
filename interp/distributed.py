"""The processes that torchrun started: which one this is, and what they tell each other.

Every function works without torchrun too, where there is one process and nothing is sent.
Between processes only tensors and JSON travel, no pickles.
"""

import datetime
import json
import os
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from interp.errors import ParameterError

__all__ = ["World", "world"]

PATIENCE = datetime.timedelta(days=7)
"""How long a rank waits for the others: torchrun ends all of them when one dies."""


@dataclass(frozen=True)
class World:
    """Which process it is, among those that torchrun started.

    Attributes
    ----------
    rank : 0 to ``size - 1``.
    size : how many there are, 1 without torchrun.
    local_rank : which one it is on its host; the number of its CUDA device.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def leads(self) -> bool:
        """Whether this is the process that speaks, and writes what there is one of."""
        return self.rank == 0

    def start(self) -> None:
        """Meet the others, once; the first thing that is sent does it by itself."""
        import torch.distributed as dist

        if self.size > 1 and not dist.is_initialized():
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
            dist.init_process_group(backend, timeout=PATIENCE)

    def stop(self) -> None:
        """Part from the others, if they have met."""
        import torch.distributed as dist

        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()

    def wait(self) -> None:
        """Go on when every process has come here."""
        self.gather(None)

    def gather(self, value: Any) -> list[Any]:
        """A JSON value of each process, by rank, on all of them."""
        if self.size == 1:
            return [value]
        import torch.distributed as dist

        self.start()
        text = json.dumps(value).encode()
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        dist.all_gather(lengths, torch.tensor([len(text)]))
        longest = int(max(lengths))
        own = torch.zeros(longest, dtype=torch.uint8)
        own[: len(text)] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        texts = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.size)]
        dist.all_gather(texts, own)
        return [
            json.loads(bytes(t[: int(n)].tolist())) for t, n in zip(texts, lengths, strict=True)
        ]

    def sum_(self, tensor: Tensor) -> Tensor:
        """Add up a tensor over the processes, in place; all get the same bits."""
        if self.size > 1:
            import torch.distributed as dist

            self.start()
            dist.all_reduce(tensor)
        return tensor


@cache
def world() -> World:
    """What torchrun put into the environment; a world of one process where there is none.

    Raises
    ------
    ParameterError
        The environment is not one that torchrun makes.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    given = {name: os.environ[name] for name in names if name in os.environ}
    if "TORCHELASTIC_RUN_ID" not in os.environ or not given:
        return World()  # RANK alone is set by other things than torchrun
    try:
        rank, size, local = (int(given[name]) for name in names)
    except (KeyError, ValueError) as error:
        raise ParameterError(
            f"the environment has {given}, where torchrun sets {', '.join(names)} to numbers; "
            "start interp with torchrun, or unset them."
        ) from error
    return World(rank, size, local)
