"""The frame that a model puts around images: size, channels, and how it normalises them."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.errors import DataError, ParameterError, ShapeError
from interp.models import Model

__all__ = ["Frame", "Normalisation", "frame_of"]

Normalisation = tuple[float | tuple[float, ...], float | tuple[float, ...]]


@dataclass(frozen=True, kw_only=True)
class Frame:
    """Images in 0..1 on one side, what the model reads on the other.

    Attributes
    ----------
    channels, height, width : of what the model reads.
    mean, std : of each channel: an input is (image - mean) / std.
    source : where mean and std are from: ``"processor"``, ``"argument"``, or ``"none"``.
    """

    channels: int
    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: str

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width

    def inputs(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """What the model reads, from images in 0..1."""
        if self.source == "none":
            return images
        return (images - self._column(self.mean, images)) / self._column(self.std, images)

    def images(self, inputs: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Images in 0..1 from what the model reads; within rounding of where they were."""
        return inputs * self._column(self.std, inputs) + self._column(self.mean, inputs)

    def _column(self, values: tuple[float, ...], like: Tensor) -> Tensor:
        return torch.tensor(values, dtype=torch.float64).view(-1, 1, 1).to(like)


def frame_of(
    model: Model,
    *,
    starts: Tensor | None = None,
    size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    normalise: Normalisation | None = None,
) -> Frame:
    """The frame of a model: what is given, else the images' own, else what model and processor say.

    Parameters
    ----------
    starts : images [n, c, h, w] that are at hand.
    size : side of a square, or (height, width).
    channels : of an image.
    normalise : (mean, std), each a number or one a channel, of pixels in 0..1; None takes the
        processor's, and without one nothing is normalised.

    Raises
    ------
    ParameterError
        Size or channels are neither given nor said by the model.
    """
    if starts is not None and starts.ndim != 4:
        raise ShapeError(f"images must be [n, c, h, w]; got {list(starts.shape)}.")
    mean, std, source = _normalisation(model, normalise)
    found = channels or (starts.shape[1] if starts is not None else None) or _channels(model)
    if found is None and len(mean) > 1:
        found = len(mean)
    if found is None:
        raise ParameterError(
            f"{model.spec} does not say how many channels it reads; give channels."
        )
    for name, values in (("mean", mean), ("std", std)):
        if len(values) not in (1, found):
            raise ParameterError(
                f"the {name} of the normalisation has {len(values)} entries for {found} channels."
            )
    if any(v <= 0 for v in std):
        raise ParameterError(f"the std of the normalisation must be above 0; got {list(std)}.")
    sides = _sides(size) or (_sides(tuple(starts.shape[2:])) if starts is not None else None)
    sides = sides or _model_size(model)
    if sides is None:
        raise ParameterError(f"{model.spec} does not say the size of its images; give size.")
    height, width = sides
    return Frame(
        channels=found,
        height=height,
        width=width,
        mean=mean * (found // len(mean)),
        std=std * (found // len(std)),
        source=source,
    )


def checked_images(images: Any, who: str) -> Tensor:
    """Images as a tensor [n, c, h, w] of floats in 0..1, or the sentence on why they are not."""
    x = torch.as_tensor(images)
    if x.ndim != 4 or not len(x):
        raise ShapeError(f"{who} must be images [n, c, h, w], at least one; got {list(x.shape)}.")
    if not x.is_floating_point():
        raise DataError(f"{who} must be floats in 0..1; got {str(x.dtype).split('.')[-1]}.")
    if not bool(torch.isfinite(x).all()):
        raise DataError(f"{who} hold NaN or infinity.")
    low, high = float(x.min()), float(x.max())
    if low < -1e-4 or high > 1 + 1e-4:
        raise DataError(
            f"{who} must lie in 0..1 and reach from {low:.3g} to {high:.3g}; undo the "
            "normalisation first (Frame.images)."
        )
    return x.detach().clamp(0, 1)


def _normalisation(model: Model, given: Normalisation | None) -> tuple[Any, Any, str]:
    if given is not None:
        if len(given) != 2:
            raise ParameterError("normalise takes (mean, std).")
        return _tuple(given[0]), _tuple(given[1]), "argument"
    processor = model.processor
    if processor is None:
        return (0.0,), (1.0,), "none"
    levels = 255.0
    if getattr(processor, "do_rescale", False):
        levels *= getattr(processor, "rescale_factor", 1 / 255)
    mean, std = (0.0,), (1.0,)
    if getattr(processor, "do_normalize", False):
        mean, std = _tuple(processor.image_mean), _tuple(processor.image_std)
    return tuple(m / levels for m in mean), tuple(s / levels for s in std), "processor"


def _tuple(values: Any) -> tuple[float, ...]:
    flat = torch.as_tensor(values, dtype=torch.float64).flatten().tolist()
    return tuple(flat)


def _sides(size: Any) -> tuple[int, int] | None:
    if size is None:
        return None
    sides = (size, size) if isinstance(size, int) else tuple(int(s) for s in size)
    if len(sides) != 2 or min(sides) < 1:
        raise ParameterError(f"size must be a side or (height, width), at least 1; got {size!r}.")
    return sides[0], sides[1]


def _model_size(model: Model) -> tuple[int, int] | None:
    config = getattr(model.config, "vision_config", None) or model.config
    told = getattr(config, "image_size", None)
    if told is not None:
        return _sides(told)
    processor = model.processor
    cropped = getattr(processor, "do_center_crop", False)
    sizes = getattr(processor, "crop_size" if cropped else "size", None)
    if sizes is None:
        return None
    edge = sizes.get("shortest_edge")
    return _sides(edge if edge else (sizes["height"], sizes["width"]))


def _channels(model: Model) -> int | None:
    config = getattr(model.config, "vision_config", None) or model.config
    told = getattr(config, "num_channels", None)
    if told is not None:
        return int(told)
    first = next((m for m in model.module.modules() if isinstance(m, nn.Conv2d)), None)
    return None if first is None else first.in_channels
