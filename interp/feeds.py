"""Feeding a model: rows of data -> batches that its forward takes, and what a hook point then
holds -> tokens with a mask.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from interp.data import Dataset
from interp.errors import DataError, ParameterError, ShapeError
from interp.hookpoints import HookPoint
from interp.images import open_image
from interp.models import Model
from interp.packed import PackedIds
from interp.pooling import ORDERED, Pool

__all__ = ["Feed", "TextFeed", "as_tokens", "feed"]

BATCH_TOKENS = 4096
"""Positions of a batch where no batch size is given."""
BATCH_IMAGES = 64
"""Rows of a batch of tensors or images where no batch size is given."""
TOKENISED = 1000
"""Texts that are tokenised together."""


class Feed:
    """Rows of a tensor, given to the module as they are."""

    def __init__(self, model: Model, data: Dataset) -> None:
        shape = tuple(data.inputs.shape[1:]) if isinstance(data.inputs, Tensor) else ()
        self.key = (data.kind, *shape)  # inputs of one key have rows of one shape
        self.model = model
        self.data = data
        self.mask: Tensor | None = None
        self.pool: Pool = "all"  # how the positions are pooled, for a model that does it itself
        self.lengths: Sequence[int] = [1] * len(data)
        self.max_length: int | None = None
        self.notes: list[str] = []

    def check(self, points: list[HookPoint]) -> list[HookPoint]:
        """Refuse hook points that this data cannot reach."""
        return points

    def batch_rows(self, length: int) -> int:
        """Rows of a batch whose longest row has this length."""
        return BATCH_IMAGES

    def mask_of(self, point: HookPoint) -> Tensor | None:
        """Where a hook point's real positions were in the last run; None where all are real."""
        return self.mask

    def run(self, rows: Sequence[int]) -> Any:
        """Run the model on some rows, and set the mask of their real positions."""
        x = cast(Tensor, self.data.inputs)[torch.tensor(rows)]
        if x.is_floating_point():
            x = x.to(self.model.dtype)
        x = x.to(self.model.device)
        inner = getattr(self.model.config, "model_type", None)
        if inner is not None and x.ndim == 4:
            return _vision(self.model)(pixel_values=x)
        return self.model.module(x)


class ImageFeed(Feed):
    """Images from files, through the model's own processor."""

    def run(self, rows: Sequence[int]) -> Any:
        """Run the model on some rows, and set the mask of their real positions."""
        inputs = cast(list[Any], self.data.inputs)
        return self.model_on([open_image(inputs[row], row) for row in rows])

    def model_on(self, images: Sequence[Any]) -> Any:
        """Run the part of the model that reads images; a dual encoder's projection is part."""
        pixels = pixels_of(self.model, images)
        module: Any = self.model.module
        if hasattr(module, "vision_model") and hasattr(module, "get_image_features"):
            return module.get_image_features(pixel_values=pixels)
        return _vision(self.model)(pixel_values=pixels)


def pixels_of(model: Model, images: Sequence[Any]) -> Tensor:
    """The pixels [b, c, h, w] of PIL images, as the model's processor makes them."""
    processor = getattr(model.processor, "image_processor", model.processor)
    pixels = processor(images=list(images), return_tensors="pt")["pixel_values"]
    return pixels.to(model.device, model.dtype)


class TextFeed(Feed):
    """Texts, tokenised once; batches are padded on the right."""

    def __init__(self, model: Model, data: Dataset, max_length: int | None) -> None:
        super().__init__(model, data)
        texts = cast(list[str], data.inputs)
        limit = model.max_length
        if max_length is not None and max_length < 1:
            raise ParameterError(f"max_length must be at least 1; got {max_length}.")
        if max_length is not None and limit is not None and max_length > limit:
            raise ParameterError(f"max_length must be at most {limit} for {model.spec}.")
        pieces = (texts[i : i + TOKENISED] for i in range(0, len(texts), TOKENISED))
        self.ids = PackedIds(row for some in pieces for row in model.tokenize(some, max_length))
        self.lengths = self.ids.lengths
        self.max_length = max_length
        self.stack: str | None = None
        self.fixed = _fixed_length(model)
        for row, length in enumerate(self.lengths):
            if length == 0:
                raise DataError(f"row {row} of {data.name} has no token; drop it from the data.")
            if limit is not None and length > limit:
                raise DataError(
                    f"row {row} of {data.name} has {length} tokens and {model.spec} takes {limit}; "
                    f"cut it, or give max_length={limit} (--max-length {limit}) to keep the first "
                    f"{limit} tokens."
                )
        if max_length is not None:
            cut = sum(length == max_length for length in self.lengths)
            self.notes.append(f"{cut} texts were cut to {max_length} tokens or have just so many")

    def check(self, points: list[HookPoint]) -> list[HookPoint]:
        """Which stacks are asked for: text towers and encoders run alone."""
        stacks = {p.stack for p in points}
        if "vision" in stacks and "text" not in stacks:
            raise DataError(f"{points[0].name} reads images, and the data is text.")
        if len(stacks - {""}) > 1:
            raise DataError(
                f"the stacks {' and '.join(sorted(stacks))} have different positions; capture one "
                "at a time."
            )
        self.stack = next(iter(stacks)) if len(stacks) == 1 else None
        return points

    def batch_rows(self, length: int) -> int:
        """Rows of a batch whose longest row has this length."""
        return max(1, BATCH_TOKENS // length)

    def run(self, rows: Sequence[int]) -> Any:
        """Run the model on some rows, and set the mask of their real positions."""
        padded = self.model.pad([self.ids[r] for r in rows], length=self.fixed)
        self.mask = padded["attention_mask"].bool()
        module: Any = self.model.module
        if self.stack == "text" and hasattr(module, "text_model"):
            if self.fixed is not None:
                del padded["attention_mask"]  # it learnt with its pads in sight
            run = getattr(module, "get_text_features", module.text_model)
            return run(**padded)
        if self.stack == "encoder" and getattr(self.model.config, "is_encoder_decoder", False):
            return module.get_encoder()(**padded)
        if self.stack == "decoder":
            self.mask = None
        if self.mask is not None:
            self.mask = self.model.pools(self.mask, self.pool)
        return module(**self.model.text_inputs(padded))


def feed(model: Model, data: Dataset, max_length: int | None = None) -> Feed:
    """What turns rows of the data into forwards of the model."""
    if len(data) == 0:
        raise DataError(f"{data.name} has no rows.")
    if data.kind == "text":
        return TextFeed(model, data, max_length)
    if data.kind == "image":
        if model.processor is None:
            raise DataError(
                f"{data.name} holds image files, and {model.spec} has no processor that says how "
                "to normalise them; give a tensor of normalised floats (file.py:factory)."
            )
        return ImageFeed(model, data)
    if data.kind == "pair":
        raise DataError(
            f"{data.name} holds pairs of images and texts; capture them with interp.capture_pairs "
            "(`interp capture --pairs`)."
        )
    x = cast(Tensor, data.inputs)
    if not x.is_floating_point() and x.ndim == 4:
        raise DataError(
            f"{data.name} holds raw {str(x.dtype).removeprefix('torch.')} images; normalise them "
            "as the model was trained, mostly (x / 255 - mean) / std per channel, and give floats."
        )
    return Feed(model, data)


def _fixed_length(model: Model) -> int | None:
    """The length to which all texts are padded where the model reads them so, as SigLIP does.

    Its text vector is the last position's, pads included, and it is trained without a mask.
    """
    config = getattr(model.config, "text_config", None)
    named = str(getattr(config, "model_type", ""))
    return model.max_length if named.startswith("siglip") else None


def _vision(model: Model) -> nn.Module:
    """The tower that reads pixels: the vision model of a dual encoder, else the whole."""
    return getattr(model.module, "vision_model", model.module)


def as_tokens(
    point: HookPoint, x: Tensor, mask: Tensor | None, how: Pool, rows: int
) -> tuple[Tensor, Tensor | None]:
    """What a hook point held as [b, t, width], with the mask where it has the text's positions.

    A feature map is [b, c, h, w], or [b, h, w, c] at linear layers and layer norms.

    Raises
    ------
    ShapeError
        The tensor does not have a row for each of the inputs, or the text's positions.
    """
    if not x.is_floating_point():
        raise ShapeError(
            f"{point.name} holds {str(x.dtype).removeprefix('torch.')} numbers, not activations."
        )
    mask = None if mask is None else mask.to(x.device)  # a device map's blocks have their own
    if x.ndim and mask is not None and x.shape[:2] != mask.shape and len(x) == mask.numel():
        x = x.unflatten(0, mask.shape)  # [b * t, width], as in OPT's MLP
    if point.axis == "first" and x.ndim == 3:
        x = x.transpose(1, 2)
    elif x.ndim == 4 and point.d_head is None:
        if how in ORDERED:
            raise ParameterError(
                f"{point.name} is a feature map {list(x.shape)}, whose positions have no "
                f"order, as {how} needs; use pool mean, max or all."
            )
        x = x.flatten(1, 2) if point.axis == "last" else x.flatten(2).transpose(1, 2)
    elif x.ndim == 2:
        x, mask = x[:, None], None
    elif x.ndim < 2:
        raise ShapeError(f"{point.name} holds a tensor {list(x.shape)} without rows.")
    if len(x) != rows:
        raise ShapeError(
            f"{point.name} holds {len(x)} rows for {rows} inputs, so none has its own."
        )
    if mask is None:
        return x, None
    if x.shape[:2] == mask.shape:
        return x, mask
    raise ShapeError(
        f"{point.name} holds {list(x.shape)}, which does not have the text's positions "
        f"{list(mask.shape)}."
    )
