"""The one hook primitive: call a function on what hook points hold, and let it change that."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from interp.errors import LayerNotFound, ShapeError
from interp.hookpoints import HookPoint

__all__ = ["all_fired", "evaluating", "hook", "hooked"]

Seen = Callable[[HookPoint, Tensor], Tensor | None]


@contextmanager
def hooked(
    module: nn.Module, points: Sequence[HookPoint], fn: Seen, *, first: bool = False
) -> Iterator[None]:
    """Call ``fn(point, tensor)`` whenever a hook point fires; a returned tensor takes its place.

    The hooks are removed when the context ends, whatever happened inside it.

    Parameters
    ----------
    first : see what is there before hooks that are set already change it.
    """
    handles = hook(module, points, fn, first=first)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def hook(
    module: nn.Module, points: Sequence[HookPoint], fn: Seen, *, first: bool = False
) -> list[RemovableHandle]:
    """Set the hooks of `hooked` until each of the handles is removed: all of them, or none."""
    modules = dict(module.named_modules())
    targets = [(point, modules[point.module]) for point in points]  # what is missing fails here
    handles: list[RemovableHandle] = []
    for point, target in targets:
        if point.side == "in":
            handle = target.register_forward_pre_hook(
                partial(_on_input, point, fn), with_kwargs=True, prepend=first
            )
        else:
            handle = target.register_forward_hook(partial(_on_output, point, fn), prepend=first)
        handles.append(handle)
    return handles


def _on_output(point: HookPoint, fn: Seen, module: nn.Module, args: Any, output: Any) -> Any:
    key, tensor = _find_tensor(output)
    if tensor is None:
        kind = type(output).__name__
        raise ShapeError(f"the output of {point.name} is a {kind} without a tensor in it.")
    new = fn(point, _split_heads(point, tensor))
    if new is None:
        return None
    new = new.reshape(tensor.shape)
    if isinstance(output, Tensor):
        return new
    if isinstance(output, tuple):
        items = [new if i == key else item for i, item in enumerate(output)]
        return type(output)(*items) if hasattr(output, "_fields") else tuple(items)
    if isinstance(output, list):
        return [new if i == key else item for i, item in enumerate(output)]
    changed = type(output)(output)
    changed[key] = new
    return changed


def _on_input(point: HookPoint, fn: Seen, module: nn.Module, args: Any, kwargs: Any) -> Any:
    for i, value in enumerate(args):
        if isinstance(value, Tensor):
            new = fn(point, _split_heads(point, value))
            if new is None:
                return None
            return (*args[:i], new.reshape(value.shape), *args[i + 1 :]), kwargs
    for key, value in kwargs.items():
        if isinstance(value, Tensor) and value.is_floating_point():
            new = fn(point, _split_heads(point, value))
            return None if new is None else (args, {**kwargs, key: new.reshape(value.shape)})
    raise ShapeError(f"the input of {point.name} holds no tensor.")


def _find_tensor(output: Any) -> tuple[Any, Tensor | None]:
    """The main tensor of what a module returns, and where it lies in it."""
    if isinstance(output, Tensor):
        return None, output
    if isinstance(output, tuple | list):
        return next(((i, v) for i, v in enumerate(output) if isinstance(v, Tensor)), (None, None))
    if isinstance(output, Mapping):  # a ModelOutput is one
        for key in ("last_hidden_state", "logits"):
            if isinstance(output.get(key), Tensor):
                return key, output[key]
        return next(((k, v) for k, v in output.items() if isinstance(v, Tensor)), (None, None))
    return None, None


def _split_heads(point: HookPoint, tensor: Tensor) -> Tensor:
    if point.d_head is None or tensor.ndim > 3:
        return tensor
    return tensor.unflatten(-1, (-1, point.d_head))


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode inside, each module's own mode again after."""
    training = [m for m in module.modules() if m.training]
    for m in training:
        m.training = False
    try:
        yield
    finally:
        for m in training:
            m.training = True


def all_fired(fired: Mapping[str, int], spec: str) -> None:
    """Raise LayerNotFound with the names of the hook points that never fired."""
    silent = [name for name, times in fired.items() if times == 0]
    if silent:
        raise LayerNotFound(
            f"{', '.join(silent)} never fired in a forward of {spec}: the module is not "
            "called (its weights may be used by a parent); name another."
        )
