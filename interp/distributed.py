"""The processes that torchrun started: which one this is, and what they tell each other.

Every function works without torchrun too, where there is one process and nothing is sent.
Between processes only tensors and JSON travel, no pickles.
"""

import atexit
import datetime
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from interp import errors
from interp.errors import InterpError, ParameterError, one_line

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
    restarted : whether torchrun started this process again, after one had died; the processes of
        other hosts need not know (`again`).
    group : the processes that rank and size are of, where they are not all.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    restarted: bool = False
    group: Any = None

    @property
    def leads(self) -> bool:
        """Whether this is the process that speaks, and writes what there is one of."""
        return self.rank == 0

    def again(self) -> bool:
        """Whether torchrun started any of the processes again, to go on with what they did."""
        return any(self.gather(self.restarted))

    def start(self) -> None:
        """Meet the others, once; the first thing that is sent does it by itself."""
        import torch.distributed as dist
        from torch.distributed.distributed_c10d import PrefixStore
        from torch.distributed.rendezvous import rendezvous

        if self.size == 1 or dist.is_initialized():
            return
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        atexit.register(self.stop)  # its threads must not outlive the interpreter
        if not self.restarted or os.environ.get("LOCAL_WORLD_SIZE") != str(self.size):
            dist.init_process_group(backend, timeout=PATIENCE)
            return
        # torchrun keeps one store over its restarts, where the addresses of the dead still are. The
        # count of restarts is a host's own, so it can tell them apart on one host alone.
        store, rank, size = next(rendezvous("env://", timeout=PATIENCE))
        fresh = PrefixStore(os.environ["TORCHELASTIC_RESTART_COUNT"], store)
        dist.init_process_group(backend, timeout=PATIENCE, world_size=size, rank=rank, store=fresh)

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
        text = json.dumps(value).encode()
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        with self._together() as dist:
            dist.all_gather(lengths, torch.tensor([len(text)]), group=self.group)
        longest = int(max(lengths))
        own = torch.zeros(longest, dtype=torch.uint8)
        own[: len(text)] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        texts = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.size)]
        with self._together() as dist:
            dist.all_gather(texts, own, group=self.group)
        return [
            json.loads(bytes(t[: int(n)].tolist())) for t, n in zip(texts, lengths, strict=True)
        ]

    def sum_(self, tensor: Tensor) -> Tensor:
        """Add up a tensor over the processes, in place; all get the same bits."""
        if self.size > 1:
            with self._together() as dist:
                dist.all_reduce(tensor, group=self.group)
        return tensor

    def tell(self, tensor: Tensor) -> Tensor:
        """Put the first process's numbers into the tensor of each, in place."""
        if self.size > 1:
            with self._together() as dist:
                first = 0 if self.group is None else dist.get_global_rank(self.group, 0)
                dist.broadcast(tensor, first, group=self.group)
        return tensor

    def led(self, work: Callable[[], Any]) -> Any:
        """What the first process does alone, while the others wait; its JSON value on all of them.

        Raises
        ------
        InterpError
            What ``work`` raised, of the same class, on all processes.
        """
        if self.size == 1:
            return work()
        told: dict[str, Any] = {}
        kept = None
        if self.leads:
            try:
                told = {"value": work()}
            except InterpError as error:
                kept, told = error, {"error": type(error).__name__, "sentence": str(error)}
        told = self.gather(told)[0]
        if kept is not None:
            raise kept
        if "error" in told:
            raise getattr(errors, told["error"])(told["sentence"])
        return told["value"]

    @contextmanager
    def _together(self) -> Iterator[Any]:
        """torch.distributed, met; an error there is almost always that another rank is gone."""
        import torch.distributed as dist

        self.start()
        try:
            yield dist
        except RuntimeError as error:
            line = one_line(error, 200)
            raise InterpError(
                f"rank {self.rank} of {self.size} has lost the others; what ended the first of "
                f"them is in its own message ({line})."
            ) from error


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
    restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return World(rank, size, local, restarted=restarts != "0")
