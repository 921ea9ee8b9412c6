"""What a training will cost, from a few steps of it."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from interp.errors import ParameterError
from interp.loading import device_of
from interp.memory import PeakMemory, peak
from saes.base import SAEConfig
from saes.model_rows import ModelRows
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
    bytes : of their weights.
    checkpoint_bytes : size of a checkpoint.
    seconds : estimated from a few steps.
    peak_bytes : the most memory that it takes, all of this process together (`interp.memory`): the
        weights, gradients, moments and a mean of weights, the chunk of rows that is shuffled, a
        model that gives them, and what a step needs besides. Not counted is the loss of dead
        latents, as none is dead in the first steps. 0 where the system does not tell.
    """

    rows: int
    steps: int
    batch_size: int
    epochs: float
    saes: int
    bytes: int
    checkpoint_bytes: int
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
    few: dict[str, Any] = {"steps": TIMED, "log_every": TIMED, "warmup": 0, "decay_steps": 0,
                           "penalty_warmup": 0, "k_start": None, "resample_every": None}  # fmt: skip
    stamps: list[float] = []
    with PeakMemory() as held:
        learnt = train(
            rows,
            [config] if isinstance(config, SAEConfig) else list(config),
            batch_size=batch_size,
            device=device,
            progress=lambda done, total, what: stamps.append(time.perf_counter()),
            **{**kept, **few},
        )
    seconds = (stamps[-1] - stamps[0]) / (TIMED - 1) * steps
    if isinstance(rows, ModelRows):
        seconds += rows.work.plan().seconds * steps * batch_size / rows.n
    weights = 4 * sum(p.numel() for sae in learnt for p in sae.parameters())
    saved = 0 if device_of(device).type == "cpu" else 3 * weights  # its copy on the host
    return TrainingPlan(
        rows=rows.n,
        steps=steps,
        batch_size=batch_size,
        epochs=steps * batch_size / rows.n,
        saes=len(learnt),
        bytes=weights,
        checkpoint_bytes=3 * weights,
        seconds=seconds,
        peak_bytes=max(peak() or 0, held.most + saved) if held.most else 0,
    )
