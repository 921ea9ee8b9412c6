"""What a training takes: its settings, alike in all processes, and rows that differ."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from interp.distributed import World
from interp.errors import DataError, ParameterError
from saes.base import ARCHITECTURES, SAEConfig
from saes.optimizer import OPTIMIZERS
from saes.primitives import BACKENDS, resolve
from saes.rows import Pair

__all__ = ["check_alike", "check_options", "check_variety"]


def check_options(
    configs: list[SAEConfig],
    *,
    device: torch.device,
    batch_size: int,
    lr: float | None,
    dead_after: int | None,
    resample_every: int | None,
    clip: float | None,
    ema: float | None,
    autocast: str | None,
    optimizer: str,
    backend: str,
    log_every: int | None,
    checkpoint_every: int | None,
    k_start: int | None,
    shards: int,
) -> None:
    """Refuse what `saes.train` cannot take, before anything is read.

    Raises
    ------
    ParameterError
        A setting is outside what it allows.
    """
    if not configs or not all(isinstance(c, SAEConfig) for c in configs):
        known = ", ".join(c.__name__ for c, _ in ARCHITECTURES.values())
        raise ParameterError(f"train: config must be one of {known}, or a list of them.")
    for name, value in (
        ("batch_size", batch_size),
        ("shards", shards),
        ("dead_after", dead_after),
        ("resample_every", resample_every),
        ("log_every", log_every),
        ("checkpoint_every", checkpoint_every),
    ):
        wrong = isinstance(value, bool) or not isinstance(value, int) or value < 1
        if wrong and not (value is None and name not in ("batch_size", "shards")):
            raise ParameterError(f"train: {name} must be a whole number above 0; got {value!r}.")
    for name, value in (("lr", lr), ("clip", clip)):
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise ParameterError(f"train: {name} must be a finite number above 0; got {value!r}.")
    for config in configs if k_start is not None else ():
        most = config.n_latents if hasattr(config, "k") else 0
        if not (isinstance(k_start, int) and 1 <= k_start <= most):
            allowed = f"from 1 to {most}" if most else f"left out: a {config.architecture} has no k"
            raise ParameterError(f"train: k_start must be {allowed}; got {k_start!r}.")
        if backend == "compile":
            raise ParameterError("train: backend compile compiles for one k; leave k_start out.")
        if getattr(config, "selection", "exact") == "group_max":
            raise ParameterError(
                "train: k_start goes with no group_max, whose k divides n_latents."
            )
    selections = [getattr(c, "selection", "exact") for c in configs]
    if backend == "compile" and "statistical" in selections:
        raise ParameterError("train: backend compile needs a selection of fixed size.")
    if ema is not None and not 0 < ema < 1:
        raise ParameterError(f"train: ema must lie between 0 and 1; got {ema!r}.")
    if autocast not in (None, "bfloat16"):
        raise ParameterError(f"train: autocast must be None or 'bfloat16'; got {autocast!r}.")
    if autocast is not None and device.type != "cuda":
        raise ParameterError("train: autocast needs a CUDA device; leave it out on the CPU.")
    for name, value, known in (
        ("optimizer", optimizer, tuple(OPTIMIZERS)),
        ("backend", backend, BACKENDS),
    ):
        if value not in known:
            raise ParameterError(f"train: {name} must be one of {', '.join(known)}; got {value!r}.")
    resolve(backend, torch.empty(0, device=device), 0)  # refuses what this device cannot run


def check_alike(given: Mapping[str, Any], party: World) -> None:
    """Refuse processes that were given different things: they would learn from a mixture of them.

    Raises
    ------
    ParameterError
        Something differs; so it is raised in all of them.
    """
    own = {k: json.dumps(v, sort_keys=True, default=repr) for k, v in given.items()}
    every = party.gather(own)
    differ = [name for name, value in every[0].items() if any(e[name] != value for e in every)]
    if differ:
        raise ParameterError(
            f"train: the processes of torchrun were given different {', '.join(differ)}; call it "
            "with the same arguments, and rows, in each."
        )


def check_variety(sites: Sequence[str], sample: Sequence[Pair]) -> None:
    """Refuse activations that are all the same: there is nothing to learn.

    Raises
    ------
    DataError
        All rows of the sample are equal.
    """
    for site, (x, y) in zip(sites, sample, strict=True):
        for t in (x, y):
            if t is not None and bool((t == t[:1]).all()):
                where = f" of {site}" if site else ""
                raise DataError(
                    f"train: all {len(t)} rows looked at{where} are the same, so there is nothing "
                    "to learn; look at the hook point and the pooling."
                )
