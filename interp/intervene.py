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
        after = _unit_axis(point, x) + 1
        width = x.shape[-2:] if point.d_head is not None else x.shape[after - 1 : after]
        if vector.shape not in (width, width[-1:]):
            raise ShapeError(
                f"a vector of {list(vector.shape)} cannot steer {point.name}, whose width is "
                f"{list(width)}."
            )
        new = alpha * vector.to(x.device, x.dtype)
        return x + (new if point.d_head is not None else new.reshape(-1, *[1] * (x.ndim - after)))

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
    units : indexes of neurons (of ``head_out``: heads; of a feature map: channels); None for all.
    value : a number, or one for each unit, such as their means.
    """
    chosen = None if units is None else torch.as_tensor(units).reshape(-1)
    if chosen is not None and not len(chosen):
        raise ParameterError("ablate needs at least one unit, or None for all; got an empty list.")

    def clear(point: HookPoint, x: Tensor) -> Tensor:
        axis = _unit_axis(point, x)
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
        if filled.ndim == 1:
            filled = filled.reshape(-1, *[1] * (x.ndim - axis - 1))
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
    model.local("activations are changed")
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


def _unit_axis(point: HookPoint, x: Tensor) -> int:
    """The axis of heads, of a feature map's channels, or of neurons."""
    if point.d_head is not None:
        return x.ndim - 2
    first = point.axis == "first" or (x.ndim == 4 and point.axis != "last")
    return 1 if first and x.ndim > 2 else x.ndim - 1


@contextmanager
def _at(
    model: Model | nn.Module, hookpoint: str, fn: Callable[[HookPoint, Tensor], Tensor]
) -> Iterator[None]:
    model = load(model)
    model.local("activations are changed")
    with hooked(model.module, model.resolve(hookpoint), fn):
        yield
