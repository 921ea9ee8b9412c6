"""Denormal numbers as 0 while a training runs."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["flushed_denormals", "flushes_denormals"]


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Take numbers below 1.2e-38 as 0 inside, and put the mode back.

    Adam's averages of latents that stopped firing sink into that range, where a CPU is up to
    twenty times slower. The mode belongs to a thread: worker threads that torch started before keep
    theirs; those of `saes.threads` take it over. Where the processor has no such mode nothing
    changes.
    """
    was = flushes_denormals()
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(was)


def flushes_denormals() -> bool:
    """Whether this thread flushes: torch has no question for it, so a product answers."""
    return float(torch.tensor(1e-39, dtype=torch.float32) * 1.0) == 0
