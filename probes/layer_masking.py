"""Taking parts of an image away from a CNN, layer by layer, in place of painting them over.

A mask travels with the activations: what it takes away is no input to any layer, so it has neither
a colour nor an edge. The mask is on the tensor (`MaskedImage`), not in hooks, so that functional
code between modules, such as a residual sum or a mean over positions, is masked too, and the model
is never changed.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from interp.errors import ModelError, ShapeError
from interp.hooks import evaluating
from interp.loading import load

__all__ = ["MaskedImage", "fill_from_neighbours", "layer_masked"]


def layer_masked(model: Any, images: Tensor, mask: Tensor, *, neighbours: bool = True) -> Any:
    """The output of a CNN with pixels taken away at every layer.

    Before a convolution, taken places next to kept ones get the mean of the kept ones around them,
    as many rings as the kernel is wide; after it a place is kept if any place under its kernel was.
    Values of taken places are 0 after every layer; a mean over positions is one over kept places.

    Parameters
    ----------
    model : a module or a loaded model, made of convolutions, pooling and element-wise layers.
    images : [n, c, h, w] as the model takes them.
    mask : [n, h, w] or [h, w], true where a pixel is kept.
    neighbours : False leaves the rings out, so that taken places are zeros under a kernel.

    Returns
    -------
    The model's output; `interp.record` around it sees every layer.
        All kept: the model's own output, bit for bit. Taken pixels never matter, nan included. All
        taken: the output for an empty feature map. Differentiable; the rings carry no gradient.
    Cost: a forward, and for each convolution a 3 x 3 mean as many times as its kernel is wide.
    Source: Balasubramanian and Feizi, arXiv 2211.14646, and its code, which pads before every
    convolution as this does. Differs: no squeeze-and-excitation and no partial convolution.

    Raises
    ------
    ShapeError
        The mask does not fit the images.
    ModelError
        A layer mixes positions in a way that has no mask, as attention does.
    """
    model = load(model)
    mask = torch.as_tensor(mask, device=images.device).bool()
    if images.ndim != 4 or mask.shape not in (images.shape[2:], (len(images), *images.shape[2:])):
        raise ShapeError(
            f"a mask for images {list(images.shape)} is [h, w] or [n, h, w]; got "
            f"{list(mask.shape)}."
        )
    mask = mask.expand(len(images), *images.shape[2:])[:, None]
    wrapped = MaskedImage.of(images.masked_fill(~mask, 0), mask, neighbours)
    with evaluating(model.module):
        output = model(wrapped)
    return output.plain() if isinstance(output, MaskedImage) else output


def fill_from_neighbours(x: Tensor, mask: Tensor, rings: int = 1) -> Tensor:
    """Taken places beside kept ones become the mean of the kept ones of their 3 x 3 neighbours.

    Each ring counts as kept for the next. x [n, c, h, w], mask [n, 1, h, w] true where kept.
    diag(1, 0, 3) with zeros taken becomes [[1, 1, 0], [1, 2, 3], [0, 3, 3]] after one ring.
    """
    ones = torch.ones(1, 1, 3, 3, dtype=x.dtype, device=x.device)
    kernel = ones.expand(x.shape[1], 1, 3, 3)
    for _ in range(rings):
        if bool(mask.all()):
            break
        weight = F.conv2d(mask.to(x.dtype), ones, padding=1)
        around = F.conv2d(x.masked_fill(~mask, 0), kernel, padding=1, groups=x.shape[1])
        edge = ~mask & (weight > 0)
        x = torch.where(edge, (around / weight.clamp_min(1)).detach(), x)
        mask = mask | edge
    return x


class MaskedImage(Tensor):
    """Feature maps [n, c, h, w] with a mask [n, 1, h, w] of the places that are kept.

    Every torch function that is called on one goes through `__torch_function__`, which carries the
    mask along or refuses.
    """

    mask: Tensor
    neighbours: bool

    @classmethod
    def of(cls, x: Tensor, mask: Tensor, neighbours: bool) -> "MaskedImage":
        """Feature maps, 0 where they are taken, with their mask."""
        found = x.as_subclass(cls)
        found.mask, found.neighbours = mask, neighbours
        return found

    def plain(self) -> Tensor:
        """The feature maps alone."""
        return self.as_subclass(Tensor)

    @classmethod
    def __torch_function__(
        cls, func: Callable, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """What func gives on the feature maps, with the mask that belongs to it."""
        kwargs = kwargs or {}
        held = [a for a in _flat((args, kwargs)) if isinstance(a, MaskedImage)]
        with torch._C.DisableTorchFunctionSubclass():
            if not held or any(getattr(a, "mask", None) is None for a in held):
                return func(*args, **kwargs)
            name = getattr(func, "__name__", "")
            if name.strip("_") in MIXING:
                raise ModelError(REFUSAL.format(name=name, was=list(held[0].shape)))
            plain, named = _unwrap(args), _unwrap(kwargs)
            if name in SPECIAL:
                return SPECIAL[name](held, func, plain, named)
            out = func(*plain, **named)
            if not isinstance(out, Tensor) or not out.is_floating_point():
                return out  # a shape, a flag, a device
            return _same_places(held, out, name)


def _same_places(held: list[MaskedImage], out: Tensor, name: str) -> Any:
    """The result of what keeps places apart: element-wise functions, sums of maps, batch norm."""
    mask = held[0].mask
    for other in held[1:]:
        mask = mask | other.mask if other.mask.shape == mask.shape else mask
    if out.ndim == 4 and out.shape[2:] == mask.shape[2:] and len(out) == len(mask):
        return MaskedImage.of(out.masked_fill(~mask, 0), mask, held[0].neighbours)
    was = f"{list(held[0].shape)}, {list(out.shape)}"
    raise ModelError(REFUSAL.format(name=name or "a function", was=was))


REFUSAL = (
    "layer masking has no mask for what {name} makes of feature maps {was}: it is for CNNs; of a "
    "transformer drop tokens."
)
MIXING = frozenset(
    ("permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "t", "roll", "flip",
     "rot90", "matmul", "rmatmul", "bmm", "einsum", "linear", "layer_norm", "group_norm",
     "instance_norm", "cumsum")
)  # fmt: skip
"""Functions that move or mix positions, though what they give may have the shape of the maps."""
PLACING = ("stride", "padding", "dilation")


def _convolution(held: list[MaskedImage], func: Callable, args: Any, kwargs: Any) -> Any:
    x, weight = args[0], args[1]
    given = dict(zip(("bias", "stride", "padding", "dilation"), args[2:], strict=False)) | kwargs
    mask, size = held[0].mask, weight.shape[2:]
    if held[0].neighbours and max(size) > 1:
        x = fill_from_neighbours(x, mask, max(size))
    out = func(x, *args[1:], **kwargs)
    ones = torch.ones(1, 1, *size, dtype=x.dtype, device=x.device)
    places: dict[str, Any] = {k: v for k, v in given.items() if k in PLACING}
    reached = F.conv2d(mask.to(x.dtype), ones, **places) > 0
    return MaskedImage.of(out.masked_fill(~reached, 0), reached, held[0].neighbours)


def _pooling(held: list[MaskedImage], func: Callable, args: Any, kwargs: Any) -> Any:
    """Max and mean pooling over windows: a place is kept if any place of its window is."""
    mask, x = held[0].mask, args[0]
    if "max" in getattr(func, "__name__", "") and not bool(mask.all()):
        x = x.masked_fill(~mask, float("-inf"))
    out = func(x, *args[1:], **kwargs)
    windows = {k: v for k, v in kwargs.items() if k != "return_indices"}
    if "adaptive" in func.__name__:
        reached = F.adaptive_max_pool2d(mask.to(x.dtype), out.shape[2:])
    else:
        sizes: dict[str, Any] = (
            dict(zip(("kernel_size", "stride", "padding"), args[1:], strict=False)) | windows
        )
        sizes = {k: v for k, v in sizes.items() if v is not None and v != []}
        allowed: tuple[str, ...] = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
        reached = F.max_pool2d(mask.to(x.dtype), **{k: sizes[k] for k in allowed if k in sizes})
    reached = reached > 0
    return MaskedImage.of(out.masked_fill(~reached, 0), reached, held[0].neighbours)


def _global_mean(held: list[MaskedImage], func: Callable, args: Any, kwargs: Any) -> Any:
    """A mean over all positions, as a mean or as adaptive pooling to 1 x 1: over kept places."""
    x, mask = args[0], held[0].mask
    adaptive = "adaptive" in func.__name__
    if adaptive and tuple(func(x, *args[1:], **kwargs).shape[2:]) != (1, 1):
        return _pooling(held, func, args, kwargs)
    axes = kwargs.get("dim", args[1] if len(args) > 1 else None)
    if not adaptive and sorted(a % 4 for a in _tuple(axes)) != [2, 3]:
        return _same_places(held, func(*args, **kwargs), func.__name__)
    own = func(*args, **kwargs)
    count = mask.sum((2, 3)).clamp_min(1)
    over = (x.masked_fill(~mask, 0).sum((2, 3)) / count).reshape(own.shape)
    whole = mask.flatten(1).all(1).reshape(-1, *[1] * (own.ndim - 1))
    return torch.where(whole, own, over)  # untouched images keep the model's own bits


def _index(held: list[MaskedImage], func: Callable, args: Any, kwargs: Any) -> Any:
    """Slices of the axes; the mask is sliced in rows and places, not in channels."""
    x, key = args[0], args[1] if isinstance(args[1], tuple) else (args[1],)
    out = func(x, args[1])
    if any(k is None for k in key) or out.ndim != 4:
        return _same_places(held, out, "indexing")
    if any(k is Ellipsis for k in key):
        at = key.index(Ellipsis)
        key = (*key[:at], *[slice(None)] * (5 - len(key)), *key[at + 1 :])
    key = tuple(slice(None) if i == 1 else k for i, k in enumerate(key))
    return MaskedImage.of(out, held[0].mask[key], held[0].neighbours)


def _pad(held: list[MaskedImage], func: Callable, args: Any, kwargs: Any) -> Any:
    """Padding adds no kept place; zeros that are padded on are as taken."""
    out, width = func(*args, **kwargs), list(kwargs.get("pad", args[1] if len(args) > 1 else ()))
    reached = F.pad(held[0].mask, width[:4])
    return MaskedImage.of(out, reached, held[0].neighbours)


def _flatten(held: list[MaskedImage], func: Callable, args: Any, kwargs: Any) -> Any:
    """Feature maps become features a row; taken places are zeros among them."""
    out = func(*args, **kwargs)
    if out.ndim == 2 and len(out) == len(held[0].mask):
        return out
    return _same_places(held, out, func.__name__)


SPECIAL: dict[str, Callable[..., Any]] = {
    "conv2d": _convolution,
    "max_pool2d": _pooling,
    "_max_pool2d": _pooling,
    "boolean_dispatch": _pooling,
    "avg_pool2d": _pooling,
    "adaptive_avg_pool2d": _global_mean,
    "adaptive_max_pool2d": _pooling,
    "mean": _global_mean,
    "__getitem__": _index,
    "pad": _pad,
    "flatten": _flatten,
    "view": _flatten,
    "reshape": _flatten,
}
"""Name of a torch function -> what becomes of maps and mask."""


def _tuple(axes: Any) -> tuple[int, ...]:
    return (axes,) if isinstance(axes, int) else tuple(axes or ())


def _flat(value: Any) -> list[Any]:
    if isinstance(value, tuple | list):
        return [leaf for v in value for leaf in _flat(v)]
    return _flat(list(value.values())) if isinstance(value, dict) else [value]


def _unwrap(value: Any) -> Any:
    if isinstance(value, MaskedImage):
        return value.as_subclass(Tensor)
    if isinstance(value, tuple | list):
        return type(value)(_unwrap(v) for v in value)
    return {k: _unwrap(v) for k, v in value.items()} if isinstance(value, dict) else value
