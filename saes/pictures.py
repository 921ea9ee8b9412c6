"""Small pictures of the images whose positions are a latent's examples."""

import math
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saes.tokens import Tokens

__all__ = ["pictures"]

SIDE = 48
"""Pixels of the longer side."""
MOST = 4_000
"""Pictures that are kept: 28 MB."""


def pictures(
    source: Tokens, examples: tuple[NDArray, ...], reasons: dict[str, str]
) -> dict[str, NDArray] | None:
    """The documents of some examples as pictures, where the data is images; else None.

    Positions must fill a square grid, row by row, as those of a CNN's map do; those of a ViT with a
    class token do not.

    Parameters
    ----------
    examples : tables of documents, -1 for none.
    reasons : gets the reason where there are images and no pictures.
    """
    data = source.data
    if data is None or data.kind == "text":
        return None
    lengths = np.unique(source.lengths[source.lengths > 0])
    side = math.isqrt(int(lengths[0]))
    if len(lengths) > 1 or side * side != lengths[0] or len(data) != len(source.lengths):
        reasons["images"] = "the positions of an image fill no square grid"
        return None
    wanted = np.unique(np.concatenate([t[t >= 0].ravel() for t in examples]))[:MOST]
    made = [_picture(data.inputs[int(d)]) for d in wanted]
    if len({p.shape for p in made}) > 1:
        made = [_square(p) for p in made]
    return {
        "document": wanted.astype(np.int64),
        "pixels": np.stack(made) if made else np.zeros((0, SIDE, SIDE, 3), np.uint8),
        "grid": np.array([side, side]),
    }


def _picture(image: Any) -> NDArray[np.uint8]:
    """An image's file, or a tensor [c, h, w] of any range, as bytes [h, w, 3]."""
    from PIL import Image

    if isinstance(image, Tensor):
        x = cast(Tensor, image).detach().cpu().float()
        x = x[None] if x.ndim == 2 else x
        x = x.mean(0, keepdim=True).expand(3, -1, -1) if len(x) != 3 else x
        low, high = x.min(), x.max()
        x = (x - low) / (high - low).clamp_min(torch.finfo(x.dtype).tiny)
        picture = Image.fromarray((255 * x.permute(1, 2, 0)).round().byte().numpy())
        scale = max(1, SIDE // max(picture.size))
        picture = picture.resize((picture.width * scale, picture.height * scale), 0)
    else:
        with Image.open(image) as opened:
            picture = opened.convert("RGB")
    picture.thumbnail((SIDE, SIDE))
    return np.asarray(picture, dtype=np.uint8)


def _square(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Stretched to a square: the grid over it is one, and pictures are of one shape."""
    from PIL import Image

    return np.asarray(Image.fromarray(pixels).resize((SIDE, SIDE)), dtype=np.uint8)
