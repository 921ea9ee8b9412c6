"""A model spread over devices, memory and disk: its device map, where its inputs go, and what its
weights are where they lie on the disk.

The spreading is Hugging Face's (``device_map`` of ``from_pretrained``, by accelerate): each block
runs on its device, and what lies on the disk is read when it runs and forgotten after.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from interp.distributed import world
from interp.errors import ModelError, ParameterError, closest, one_line
from interp.runs import parse_json

__all__ = ["DeviceMap", "device_map_of", "input_device", "is_spread", "real", "resident", "weights"]

NAMES = ("auto", "balanced", "balanced_low_0", "sequential")
PREFIX = "map"
"""What ``device`` says in place of a device: ``map``, ``map:balanced`` or ``map:FILE.json``."""


@dataclass(frozen=True)
class DeviceMap:
    """Where the parts of a model go.

    Attributes
    ----------
    where : a device or ``"disk"`` for each part by the start of its name, or how to find that:
        ``auto``, ``balanced``, ``balanced_low_0``, ``sequential``.
    max_memory : the most that a device, by number or ``"cpu"``, is given: bytes, or ``"10GiB"``.
    offload_folder : for weights on the disk that the checkpoint does not hold as they are used.
    """

    where: str | Mapping[str, Any]
    max_memory: Mapping[Any, Any] | None = None
    offload_folder: str | None = None

    def __post_init__(self) -> None:
        named = isinstance(self.where, str) and (self.where in NAMES or _is_device(self.where))
        listed = isinstance(self.where, Mapping) and all(
            isinstance(k, str) and (v == "disk" or _is_device(v)) for k, v in self.where.items()
        )
        if not self.where or not (named or listed):
            raise ParameterError(
                f"device_map must be {', '.join(NAMES)}, a device, or a device or 'disk' for each "
                f"part of the model by name; got {str(self.where)[:100]!r}."
            )
        for place, most in (self.max_memory or {}).items():
            bytes_of = isinstance(most, int) and not isinstance(most, bool) and most >= 0
            if not (bytes_of or isinstance(most, str)):
                raise ParameterError(
                    f"max_memory must be bytes, or a text such as '10GiB'; got {str(most)[:100]} "
                    f"for {str(place)[:100]}."
                )
        if isinstance(self.where, str) and world().size > 1:
            raise ParameterError(
                f"device_map={self.where!r} gives all devices to each process that torchrun "
                "started; give a map of names to devices, or start without torchrun."
            )

    def options(self) -> dict[str, Any]:
        """Keyword arguments of ``from_pretrained``."""
        where = self.where if isinstance(self.where, str) else dict(self.where)
        found: dict[str, Any] = {"device_map": where}
        if self.max_memory is not None:
            found["max_memory"] = dict(self.max_memory)
        if self.offload_folder is not None:
            found["offload_folder"] = str(self.offload_folder)
        return found

    def check(self, module: nn.Module) -> None:
        """Raise ParameterError where the map names what is no part of the module."""
        if isinstance(self.where, str):
            return
        parts = [*dict(module.named_modules()), *module.state_dict()]
        for name in self.where:
            if name not in parts:
                near = closest(name, parts) or "its parts are those of named_modules()."
                raise ParameterError(
                    f"the device map names {name[:100]!r}, which is no part of the model; {near}"
                )


def device_map_of(
    device: Any, device_map: Any = None, max_memory: Any = None, offload_folder: Any = None
) -> DeviceMap | None:
    """The device map that a caller asked for, by ``device_map`` or by ``device``; None for none.

    ``device`` may be ``"map"`` (``auto``), ``"map:balanced"`` or ``"map:FILE.json"``, for command
    lines; the file holds a map, or ``device_map``, ``max_memory`` and ``offload_folder``.

    Raises
    ------
    ParameterError
        Both say where, the file cannot be read, or the map is none.
    """
    by_name = isinstance(device, str) and device.partition(":")[0] == PREFIX
    if by_name:
        if device_map is not None:
            raise ParameterError(f"device={device!r} and device_map both say where; give one.")
        name = device.partition(":")[2] or "auto"
        if not name.endswith(".json"):
            device_map = name
        else:
            told = _read(Path(name))
            device_map = told["device_map"] or {}
            max_memory = told["max_memory"] if max_memory is None else max_memory
            offload_folder = offload_folder or told["offload_folder"]
    elif device_map is not None and device != "auto":
        raise ParameterError(f"device={str(device)!r} and device_map both say where; give one.")
    if device_map is None:
        if max_memory is not None or offload_folder is not None:
            raise ParameterError("max_memory and offload_folder are for a model with a device_map.")
        return None
    return DeviceMap(device_map, max_memory, offload_folder)


def _read(path: Path) -> dict[str, Any]:
    try:
        told = parse_json(path.expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        text = f"the device map {path} cannot be read: {one_line(error, 200)}."
        raise ParameterError(text) from error
    if not isinstance(told, dict):
        raise ParameterError(f"the device map {path} must be a JSON object.")
    if "device_map" not in told:
        told = {"device_map": told}
    unknown = sorted(set(told) - {"device_map", "max_memory", "offload_folder"})
    if unknown:
        raise ParameterError(
            f"the device map {path} holds {', '.join(unknown)} beside device_map; it may hold "
            "max_memory and offload_folder."
        )
    memory = told.get("max_memory")
    if memory is not None:
        if not isinstance(memory, dict):
            raise ParameterError(f"max_memory of {path} must be an object; got {memory!r}.")
        memory = {int(k) if k.isdecimal() else k: v for k, v in memory.items()}
    offload = told.get("offload_folder")
    if not isinstance(offload, str | None):
        raise ParameterError(f"offload_folder of {path} must be a text; got {offload!r:.100}.")
    return {
        "device_map": told["device_map"],
        "max_memory": memory,
        "offload_folder": offload,
    }


def _is_device(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | str | torch.device):
        return False
    try:
        found = torch.device("cuda", value) if isinstance(value, int) else torch.device(value)
    except (RuntimeError, ValueError):  # a number may be too large for one
        return False
    return found.type != "meta"  # which has shapes, and no numbers


def is_spread(module: nn.Module) -> bool:
    """Whether a device map placed the module's parts, so that it must not be moved as a whole."""
    return hasattr(module, "_hf_hook") or any(hasattr(m, "_hf_hook") for m in module.modules())


def input_device(module: nn.Module) -> torch.device:
    """Where a module's inputs go: with a device map, where that runs; else at its parameters."""
    first = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
    if first is not None:
        return torch.device("cuda", first) if isinstance(first, int) else torch.device(first)
    parameter = next((p for p in module.parameters() if not p.is_meta), None)
    return torch.device("cpu") if parameter is None else parameter.device


def weights(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every parameter and buffer that is saved, by name, read from the disk where it lies there;
    one at a time, so that memory holds no more than the largest.
    """
    for name, tensor in sorted(module.state_dict().items()):
        if isinstance(tensor, Tensor):
            owner, _, leaf = name.rpartition(".")
            yield name, real(module.get_submodule(owner), leaf) if tensor.is_meta else tensor


def real(module: nn.Module, name: str = "weight") -> Tensor:
    """A module's own parameter or buffer, read from the disk where it lies there.

    Raises
    ------
    ModelError
        It is nowhere: a model of which only the shapes are known.
    """
    tensor = getattr(module, name)
    if not tensor.is_meta:
        return tensor
    for hook in _hooks(module):
        held = getattr(hook, "weights_map", None)
        if held is not None:
            return held[name]
    raise ModelError(
        f"the {name} of a {type(module).__name__} is not on this machine, only its shape."
    )


def _hooks(module: nn.Module) -> list[Any]:
    """What accelerate put around a module's forward."""
    hook = getattr(module, "_hf_hook", None)
    return [] if hook is None else list(getattr(hook, "hooks", (hook,)))


def resident(module: nn.Module, what: str) -> None:
    """Refuse what reads or changes weights in place where some are not in memory.

    Parameters
    ----------
    what : names the work in the message, as ``"rounding its weights"``.

    Raises
    ------
    ModelError
        Some parameters lie on the disk, are loaded only while they run, or are elsewhere.
    """
    away = [name for name, p in module.named_parameters() if p.is_meta]
    if away:
        raise ModelError(
            f"{what} needs all weights of {type(module).__name__} in memory, and {len(away)} are "
            f"not, {away[0]} among them; load it on this machine without a device map, or with one "
            "that keeps all on devices."
        )
