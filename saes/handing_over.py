"""The end of a training: finished SAEs with their logs, in memory and on disk."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp.distributed import World
from interp.runs import versions
from saes.base import SAE
from saes.rows import Rows
from saes.trainee import Trainee
from saes.training import Training

__all__ = ["hand_over", "save_all"]

SETTLING = 8
"""Batches of the sample that `SAE.settle` sees."""


def hand_over(
    trainee: Trainee,
    rows: Rows,
    name: str,
    provenance: dict[str, Any],
    settings: dict[str, Any],
    party: World,
) -> SAE:
    """The finished SAE with its `Training`."""
    sae = trainee.finish(_settling(rows, trainee.site, settings["batch_size"], party))
    log = trainee.log
    skipped = ("step", "fvu", "l0", "dead", "lr", "rows_per_second")

    def column(key: str) -> np.ndarray:
        return np.array([entry[key] for entry in log])

    scales = (trainee.scale_in, trainee.scale_out)[: 1 + trainee.sae.paired]
    scale = torch.cat(scales).flatten().tolist() if trainee.scaled else None
    mode = sae.training_mode(settings)
    settings = {k: v for k, v in settings.items() if k != "configs"}
    site = rows.sites[trainee.site]
    about = {**provenance, "seed": settings["seed"], "versions": versions()}
    about["training"] = {**settings, "lr": trainee.lr}
    if site:
        about["hookpoint"] = site
    sae.training_log = Training(
        name=f"{name}.{trainee.name}",
        n=settings["steps"] * settings["batch_size"],
        mode=mode,
        provenance=about,
        architecture=sae.architecture,
        config=sae.config.to_dict(),
        steps=column("step").astype(np.int64),
        loss={k: column(k) for k in log[0] if k not in skipped},
        fvu=column("fvu"),
        l0=column("l0"),
        dead=column("dead"),
        dead_after=settings["dead_after"],
        lr=column("lr"),
        scale=scale,
        rows_per_second=column("rows_per_second"),
        compile_seconds=trainee.compile_seconds,
    )
    sae.metadata = {**provenance, "scale": scale, **({"hookpoint": site} if site else {})}
    return sae


def save_all(folder: Path, trainees: list[Trainee], party: World, *, first: bool) -> None:
    """Write the finished SAEs with their logs; ``first`` are those who hold the SAEs to write."""
    for trainee in trainees:
        place = folder / "sae" if len(trainees) == 1 else folder / "sae" / trainee.name

        def write(trainee: Trainee = trainee, place: Path = place) -> None:
            trainee.sae.save_pretrained(place)
            assert trainee.sae.training_log is not None  # noqa: S101  `hand_over` has set it
            trainee.sae.training_log.save(place / "training.json")

        if first and not party.leads:
            trainee.sae.save_pretrained(place)  # which gives its shards to the first
        party.led(write)


def _settling(rows: Rows, site: int, size: int, party: World) -> Iterator[Tensor]:
    """Batches of the sample's rows, read only where they are wanted."""
    yield from rows.sample(party)[site].x[: SETTLING * size].split(size)
