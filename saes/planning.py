"""What a training will cost, from a few steps of it."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from interp.distributed import world
from interp.errors import ParameterError
from interp.loading import device_of
from interp.memory import PeakMemory, peak, resident
from saes.base import SAEConfig
from saes.model_rows import ModelRows
from saes.optimizer import OPTIMIZERS
from saes.rows import read_rows
from saes.trainer import train

__all__ = ["TrainingPlan", "plan_training"]

TIMED = 4
"""Steps that are taken."""


@dataclass(frozen=True)
class TrainingPlan:
    """What a training will cost.

    Attributes
    ----------
    rows : of the activations.
    steps, batch_size : as asked for.
    epochs : how often each row is read.
    saes : how many are trained.
    bytes : of their weights, of all shards together.
    checkpoint_bytes : size of a checkpoint.
    processes : how many of torchrun's train together; 1 without it.
    seconds : estimated from a few steps.
    peak_bytes : the most memory that a process takes, all of it together (`interp.memory`): the
        weights, gradients, moments and a mean of weights, the chunk of rows that is shuffled, a
        model that gives them, and what a step and a checkpoint need besides. Not counted is AuxK,
        as no latent is dead in the first steps: while nearly all are, it takes twice the weights
        more. Of several processes it is that of the one that takes most. 0 where the system does
        not tell.
    """

    rows: int
    steps: int
    batch_size: int
    epochs: float
    saes: int
    bytes: int
    checkpoint_bytes: int
    processes: int
    seconds: float
    peak_bytes: int


def plan_training(
    acts: Any,
    config: SAEConfig | Sequence[SAEConfig],
    *,
    steps: int,
    batch_size: int = 4096,
    device: str = "auto",
    **options: Any,
) -> TrainingPlan:
    """Take a few steps of a training, keep nothing, and say what all of it will cost.

    Under torchrun all processes call it, as they call `saes.train`, and are told the same.

    Parameters
    ----------
    acts, config, steps, batch_size, device, options : as for `saes.train`; nothing is written.

    Raises
    ------
    InterpError
        As for `saes.train`.
    """
    if not isinstance(steps, int) or steps < 1:
        raise ParameterError(f"train: steps must be a whole number above 0; got {steps!r}.")
    rows = read_rows(acts)
    unwanted = {"out", "resume", "force", "name", "provenance", "progress", "checkpoint_every"}
    kept = {k: v for k, v in options.items() if k not in unwanted}
    few: dict[str, Any] = {
        "steps": TIMED, "log_every": TIMED, "warmup": 0, "decay_steps": 0, "penalty_warmup": 0,
        "k_start": None, "resample_every": None,
    }  # fmt: skip
    stamps: list[float] = []
    rests: list[int] = []

    def note(done: int, total: int, what: str) -> None:
        stamps.append(time.perf_counter())
        rests.append(resident() or 0)

    with PeakMemory() as held:
        learnt = train(
            rows,
            [config] if isinstance(config, SAEConfig) else list(config),
            batch_size=batch_size,
            device=device,
            progress=note,
            **{**kept, **few},
        )
    party = world()
    seconds = (stamps[-1] - stamps[0]) / (TIMED - 1) * steps
    if isinstance(rows, ModelRows):  # of whose documents each process runs its share
        seconds += rows.work.plan().seconds * steps * batch_size / rows.n / party.size
    sizes = [4 * p.numel() for sae in learnt for p in sae.parameters()]
    kinds = 1 + len(OPTIMIZERS[options.get("optimizer", "adam")].moments)
    saved = sum(sizes) * (kinds + (options.get("ema") is not None))
    copied = _copied(max(sizes), saved, options.get("shards", 1), device)
    most = max(peak() or 0, held.most, max(rests) + copied) if held.most else 0
    every = party.gather([seconds, most])
    return TrainingPlan(
        rows=rows.n,
        steps=steps,
        batch_size=batch_size,
        epochs=steps * batch_size / rows.n,
        saes=len(learnt),
        bytes=sum(sizes),
        checkpoint_bytes=saved,
        processes=party.size,
        seconds=max(s for s, _ in every),
        peak_bytes=max(m for _, m in every),
    )


def _copied(largest: int, saved: int, shards: int, device: str) -> int:
    """Bytes on the host that writing a checkpoint takes beside what lies there."""
    if shards > 1:  # the first process holds a tensor whole, and the part of it that comes
        return largest * (shards + 1) // shards
    return 0 if device_of(device).type == "cpu" else saved
