"""Layers of activations, however they are given: a store, a mapping of names, or one matrix."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp.errors import DataError, ShapeError
from interp.runs import versions
from interp.store import ActivationStore

__all__ = ["as_layers", "origin", "rows_float64"]


def as_layers(source: Any) -> dict[str, Any]:
    """Name -> matrix [n, d] of each layer, read lazily where the source is a store.

    Parameters
    ----------
    source : an `interp.ActivationStore`, a mapping of names to matrices, or one matrix (``"X"``).

    Raises
    ------
    ShapeError
        A layer is no matrix, or layers have different numbers of rows.
    DataError
        There is no layer, or no row.
    """
    if isinstance(source, ActivationStore):
        layers = {name: source[name] for name in source.hookpoints}
    else:
        layers = dict(source) if isinstance(source, Mapping) else {"X": source}
    layers = {k: np.asarray(v) if isinstance(v, list) else v for k, v in layers.items()}
    if not layers or any(len(X) == 0 for X in layers.values()):
        raise DataError("there is no layer, or a layer without rows; give matrices [n, d].")
    for name, X in layers.items():
        if X.ndim != 2:
            raise ShapeError(f"layer {name} is no matrix [n, d]: it has {X.ndim} axes.")
    sizes = {len(X) for X in layers.values()}
    if len(sizes) > 1:
        raise ShapeError(f"layers have {', '.join(map(str, sorted(sizes)))} rows; give one number.")
    return layers


def rows_float64(X: Any, start: int, stop: int) -> Tensor:
    """Some rows as a float64 tensor on the device where they are."""
    part = X[start:stop]
    part = part if isinstance(part, Tensor) else torch.as_tensor(np.ascontiguousarray(part))
    return part.to(torch.float64)


def origin(source: Any, **more: Any) -> dict[str, Any]:
    """Provenance: what the store knows of its model and data, the settings, and versions."""
    known: dict[str, Any] = {}
    if isinstance(source, ActivationStore):
        known = {k: source.manifest.get(k) for k in ("model", "data", "pool", "dtype")}
        known = {k: v for k, v in known.items() if v is not None}
    return {**known, **more, "versions": versions()}
