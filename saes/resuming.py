"""A training on disk: one safetensors file that holds every tensor, and the rest as JSON in it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from interp.distributed import World
from interp.errors import ParameterError, StoreError
from interp.runs import parse_json, sweep, write_bytes
from interp.tensors import pieces

if TYPE_CHECKING:
    from saes.trainee import Trainee

__all__ = ["CHECKPOINT", "enter", "find_state", "read_state", "write_state"]

FORMAT = 2
CHECKPOINT = "checkpoint.safetensors"


def enter(
    folder: Path | None,
    settings: dict[str, Any],
    trainees: list["Trainee"],
    party: World,
    *,
    resume: bool,
    force: bool,
) -> int:
    """The step to begin with: 0, or where the checkpoint of the folder stands.

    The first process looks at the folder, and tells the others; of shards each reads its own.
    """
    if folder is None:
        if resume:
            raise ParameterError("train: resume needs out, the folder of the checkpoint.")
        return 0
    tensors: dict[str, Tensor] = {}

    def find() -> dict[str, Any] | None:
        read = (lambda file, key: torch.empty(0)) if trainees[0].shards > 1 else None
        found = find_state(folder, settings, read, made="sae", resume=resume, force=force)
        tensors.update(found[1] if found else {})
        return found[0] if found else None

    def part(file: Any, key: str) -> Tensor:
        i, _, name = key.partition(".")
        return trainees[int(i)].part(name, file, key)

    document = party.led(find)
    if document is None:
        return 0
    if trainees[0].shards > 1:
        own = read_state(folder, part)
        if own is None:
            raise StoreError(
                f"rank {party.rank} does not see {folder}; shards need one that all do."
            )
        tensors = own[1]
    else:
        tensors = _tell(tensors, party)
    for i, trainee in enumerate(trainees):
        own = {k.removeprefix(f"{i}."): v for k, v in tensors.items() if k.startswith(f"{i}.")}
        trainee.restore(own, document["logs"][i])
    return document["step"]


def find_state(
    folder: Path,
    settings: dict[str, Any],
    read: Callable[[Any, str], Tensor] | None = None,
    *,
    made: str,
    resume: bool,
    force: bool,
) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """The checkpoint to go on with, if any.

    Parameters
    ----------
    settings : of the training that begins.
    read : as ``part`` of `read_state`.
    made : what a training leaves in the folder in the end.
    resume, force : to go on with what is there, or to remove it. Either takes away what a killed
        process had half written.

    Raises
    ------
    StoreError
        There is one that is not to be gone on with, or of other settings.
    """
    if folder.is_file():
        raise StoreError(f"{folder} is a file; out takes a folder.")
    found = None if force else read_state(folder, read)
    if force or resume or found is None:
        sweep(folder.glob(f".{CHECKPOINT}.*.tmp"))
    if force:
        (folder / CHECKPOINT).unlink(missing_ok=True)
        shutil.rmtree(folder / made, ignore_errors=True)
    if found is None:
        return None
    if not resume:
        raise StoreError(
            f"{folder} already holds a training; go on with resume (--resume), or replace it with "
            "force (--force)."
        )
    _check(folder, found[0]["settings"], json.loads(json.dumps(settings)))
    return found


def write_state(folder: Path, document: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write the checkpoint of a folder, whole or not at all: one file, so that nothing can mix.

    Raises
    ------
    StoreError
        The folder cannot be written.
    """
    text = json.dumps({"format": FORMAT, **document})
    write_bytes(folder / CHECKPOINT, pieces(tensors, {"interp": text}))


def read_state(
    folder: Path, part: Callable[[Any, str], Tensor] | None = None
) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """What `write_state` wrote; None where there is none.

    Parameters
    ----------
    part : gives a tensor of the open file, or what is wanted of it, by its name.

    Raises
    ------
    StoreError
        The file is damaged, or of another format.
    """
    path = folder / CHECKPOINT
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            document = parse_json((file.metadata() or {})["interp"])
            read = part or type(file).get_tensor
            tensors = {name: read(file, name) for name in file.keys()}  # noqa: SIM118
        version = document.pop("format")
    except (OSError, SafetensorError, ValueError, KeyError, AttributeError) as error:
        raise StoreError(
            f"{path} is no whole checkpoint of a training ({error}); train again with force "
            "(--force)."
        ) from error
    if version != FORMAT:
        raise StoreError(f"{path} has format {version!r}; this interp reads {FORMAT}.")
    return document, tensors


def _tell(tensors: dict[str, Tensor], world: World) -> dict[str, Tensor]:
    """The tensors that the first process has read, in all of them."""
    shapes = {k: [str(v.dtype).removeprefix("torch."), *v.shape] for k, v in tensors.items()}
    for name, (dtype, *shape) in world.gather(shapes)[0].items():
        held = tensors.get(name)
        tensors[name] = world.tell(
            torch.empty(shape, dtype=getattr(torch, dtype)) if held is None else held
        )
    return tensors


def _check(folder: Path, earlier: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse to go on with a training under other settings.

    Raises
    ------
    StoreError
        A setting differs; it is named, with both values.
    """
    for name in sorted(earlier.keys() | now.keys()):
        was, is_now = earlier.get(name), now.get(name)
        if was != is_now:
            raise StoreError(
                f"{folder} holds a training with another {name} ({_short(was)}; now "
                f"{_short(is_now)}); resume with the same, or replace it with force (--force)."
            )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
