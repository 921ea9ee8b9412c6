"""Changing activations while a model runs: add, remove, replace, or pass through a coder.

Each is a context; the model is its old self when the context ends, also after an exception.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from interp.errors import ParameterError, ShapeError
from interp.hookpoints import HookPoint
from interp.hooks import hooked
from interp.loading import load
from interp.models import Model

__all__ = ["ablate", "patch", "splice", "steer"]


@contextmanager
def steer(
    model: Model | nn.Module, hookpoint: str, vector: Tensor, alpha: float = 1.0
) -> Iterator[None]:
    """Add ``alpha * vector`` at every position of a hook point.

    Parameters
    ----------
    vector : [width] of the hook point, in the activation's own units.
    alpha : how many times; negative steers away.

    Raises
    ------
    ShapeError
        The vector does not have the hook point's width.
    """

    def add(point: HookPoint, x: Tensor) -> Tensor:
        if vector.shape != x.shape[-1:] and vector.shape != x.shape[2:]:
            raise ShapeError(
                f"a vector of {list(vector.shape)} cannot steer {point.name}, whose width is "
                f"{list(x.shape[2:])}."
            )
        return x + alpha * vector.to(x.device, x.dtype)

    with _at(model, hookpoint, add):
        yield


@contextmanager
def ablate(
    model: Model | nn.Module,
    hookpoint: str,
    units: int | Sequence[int] | None = None,
    value: float | Tensor = 0.0,
) -> Iterator[None]:
    """Set units of a hook point to a value at every position.

    Parameters
    ----------
    units : indexes on the last axis (of ``head_out``: heads); None for all.
    value : a number, or one for each unit, such as their means.
    """
    chosen = None if units is None else torch.as_tensor(units).reshape(-1)

    def clear(point: HookPoint, x: Tensor) -> Tensor:
        axis = x.ndim - 2 if point.d_head is not None else x.ndim - 1
        new = x.clone()
        if chosen is None:
            return new.copy_(torch.as_tensor(value).to(x).expand_as(x))
        width = x.shape[axis]
        if int(chosen.max()) >= width or int(chosen.min()) < -width:
            raise ParameterError(
                f"units of {point.name} are 0..{width - 1}; got {chosen.tolist()}."
            )
        index = (slice(None),) * axis + (chosen.to(x.device),)
        filled = torch.as_tensor(value).to(x)
        if axis < x.ndim - 1 and filled.ndim == 1:
            filled = filled[:, None]
        new[index] = filled.expand_as(new[index])
        return new

    with _at(model, hookpoint, clear):
        yield


@contextmanager
def patch(model: Model | nn.Module, values: Mapping[str, Tensor]) -> Iterator[None]:
    """Replace what hook points hold by tensors of the same shape, as those of another run.

    Raises
    ------
    ShapeError
        A tensor does not have the shape of what it replaces.
    """
    model = load(model)
    points = model.resolve(list(values))
    names = {p.name: p for p in points}
    held = {name: values[name] for name in names if name in values}
    if len(held) < len(values):
        raise ParameterError("patch takes exact names, one tensor for each; no globs or slices.")

    def swap(point: HookPoint, x: Tensor) -> Tensor:
        new = held[point.name]
        if new.shape != x.shape:
            raise ShapeError(
                f"{point.name} holds {list(x.shape)} here; the tensor for it is {list(new.shape)}."
            )
        return new.to(x.device, x.dtype)

    with hooked(model.module, points, swap):
        yield


@contextmanager
def splice(
    model: Model | nn.Module, hookpoint: str, coder: Callable[[Tensor], Tensor]
) -> Iterator[None]:
    """Pass a hook point through a function of the same shape, such as a coder's reconstruction."""

    def through(point: HookPoint, x: Tensor) -> Tensor:
        new = coder(x)
        if new.shape != x.shape:
            raise ShapeError(
                f"what is spliced into {point.name} must keep {list(x.shape)}; it gave "
                f"{list(new.shape)}."
            )
        return new.to(x.dtype)

    with _at(model, hookpoint, through):
        yield


@contextmanager
def _at(
    model: Model | nn.Module, hookpoint: str, fn: Callable[[HookPoint, Tensor], Tensor]
) -> Iterator[None]:
    model = load(model)
    with hooked(model.module, model.resolve(hookpoint), fn):
        yield
