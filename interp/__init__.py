"""interp: see what is inside a trained network.

`load` a model, look at its hook points, `capture` activations into an `ActivationStore`, `record`
or `run_with_cache` for a single forward, and `steer`, `ablate`, `patch` or `splice` to intervene.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interp.activations import Activations, capture, record, run_with_cache
    from interp.data import Dataset, read
    from interp.hookpoints import HookPoint
    from interp.intervene import ablate, patch, splice, steer
    from interp.loading import load
    from interp.models import Model
    from interp.pair_capture import capture_pairs
    from interp.pairs import read_pairs
    from interp.results import Result
    from interp.store import ActivationStore, Matrix

__version__ = "0.1.0"

_HOMES = {
    "ActivationStore": "interp.store",
    "Activations": "interp.activations",
    "Dataset": "interp.data",
    "HookPoint": "interp.hookpoints",
    "Matrix": "interp.store",
    "Model": "interp.models",
    "Result": "interp.results",
    "ablate": "interp.intervene",
    "capture": "interp.activations",
    "capture_pairs": "interp.pair_capture",
    "load": "interp.loading",
    "patch": "interp.intervene",
    "read": "interp.data",
    "read_pairs": "interp.pairs",
    "record": "interp.activations",
    "run_with_cache": "interp.activations",
    "splice": "interp.intervene",
    "steer": "interp.intervene",
}

__all__ = [
    "ActivationStore",
    "Activations",
    "Dataset",
    "HookPoint",
    "Matrix",
    "Model",
    "Result",
    "ablate",
    "capture",
    "capture_pairs",
    "load",
    "patch",
    "read",
    "read_pairs",
    "record",
    "run_with_cache",
    "splice",
    "steer",
]


def __getattr__(name: str) -> Any:
    """Import a public name's home when it is first used: the command line needs no torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'interp' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
