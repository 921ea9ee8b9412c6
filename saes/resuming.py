"""A training on disk: one safetensors file that holds every tensor, and the rest as JSON in it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from interp.distributed import World
from interp.errors import StoreError
from interp.runs import parse_json, write_bytes
from interp.tensors import pieces

__all__ = ["CHECKPOINT", "check_settings", "read_state", "tell_state", "write_state"]

FORMAT = 2
CHECKPOINT = "checkpoint.safetensors"


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


def tell_state(tensors: dict[str, Tensor], world: World) -> dict[str, Tensor]:
    """The tensors that the first process has read, in all of them."""
    shapes = {k: [str(v.dtype).removeprefix("torch."), *v.shape] for k, v in tensors.items()}
    for name, (dtype, *shape) in world.gather(shapes)[0].items():
        held = tensors.get(name)
        tensors[name] = world.tell(
            torch.empty(shape, dtype=getattr(torch, dtype)) if held is None else held
        )
    return tensors


def check_settings(folder: Path, earlier: dict[str, Any], now: dict[str, Any]) -> None:
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
