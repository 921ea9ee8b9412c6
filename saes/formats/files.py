"""Reading and writing the files of other libraries' checkpoints; nothing in them is executed."""

import io
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from interp.errors import CheckpointError
from interp.runs import parse_json, write_bytes, write_text

__all__ = ["read_json", "read_pickle", "read_safetensors", "write_folder"]


def read_json(path: Path) -> dict[str, Any]:
    """The object of a JSON file.

    Raises
    ------
    CheckpointError
        It is missing, not JSON, or not an object.
    """
    try:
        document = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path.parent} holds no {path.name}; copy it there too.") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not readable JSON: {error}.") from error
    if not isinstance(document, dict):
        raise CheckpointError(f"{path} must hold a JSON object; got {type(document).__name__}.")
    return document


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises
    ------
    CheckpointError
        It is missing, cut short, or something else.
    """
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path.parent} holds no {path.name}; copy it there too.") from error
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} is cut short or is no safetensors file ({error}); copy it again."
        ) from error


def read_pickle(path: Path) -> dict[str, Tensor]:
    """The tensors that `torch.save` wrote as a state dict; the loader refuses all but tensors.

    Raises
    ------
    CheckpointError
        It is missing or damaged, or holds code, objects, or anything but tensors by name.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from error
    except Exception as error:  # what a damaged or hostile pickle raises is no closed list
        raise CheckpointError(
            f"{path} is damaged, or is a pickle that holds more than tensors; nothing in it was "
            "run. Save its state_dict alone with torch.save to import it."
        ) from error
    if not isinstance(state, dict) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()
    ):
        raise CheckpointError(
            f"{path} holds something else than tensors by name, such as a backup with optimiser "
            "states; save the dictionary's state_dict alone."
        )
    return state


def write_folder(
    path: Path, config: tuple[str, dict[str, Any]], weights: tuple[str, dict[str, Tensor]]
) -> None:
    """Write a config and its weights, each whole or absent; the config goes first and comes last.

    Raises
    ------
    CheckpointError
        The config holds what JSON cannot.
    StoreError
        The folder cannot be written.
    """
    (name, document), (file, tensors) = config, weights
    try:
        text = json.dumps(document, indent=2, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{name} cannot hold this SAE's metadata: {error}.") from error
    tensors = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    if file.endswith(".safetensors"):
        data = save(tensors)
    else:
        buffer = io.BytesIO()
        torch.save(tensors, buffer)
        data = buffer.getvalue()
    if path.is_dir():
        (path / name).unlink(missing_ok=True)
    write_bytes(path / file, data)
    write_text(path / name, text)
