"""Images from wherever data keeps them: a file, bytes, or a PIL image in hand."""

import base64
import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["IMAGES", "encoded", "image_bytes", "open_image"]

IMAGES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"}
"""Endings of the files that are taken for images."""


def open_image(source: Any, row: int) -> "Image":
    """The image of a row, RGB; anything transparent lies on black, as PIL converts it.

    Parameters
    ----------
    source : a path, the bytes of a file, or a PIL image.
    row : named where it cannot be read.

    Raises
    ------
    DataError
        The file is missing or holds no image that can be decoded.
    """
    from PIL import Image

    try:
        if isinstance(source, Image.Image):
            return source.convert("RGB")
        held = io.BytesIO(source) if isinstance(source, bytes) else source
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(held) as image:
                return image.convert("RGB")
    except Image.DecompressionBombWarning as error:  # Pillow would go on, to twice its limit
        raise DataError(
            f"row {row}: the image has too many pixels to be opened: {error}"
        ) from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        where = source if isinstance(source, Path) else "in the data"
        text = getattr(error, "strerror", None) or str(error).split(" '")[0].rstrip(".")
        raise DataError(f"row {row}: the image {where} cannot be read: {text}.") from error


def image_bytes(source: Any) -> bytes:
    """What tells one image from another: a file's bytes, or a PIL image's size and pixels."""
    if isinstance(source, Path):
        try:
            return source.read_bytes()
        except OSError as error:
            raise DataError(f"the image {source} cannot be read: {error.strerror}.") from error
    if isinstance(source, bytes):
        return source
    return f"{source.mode} {source.size}".encode() + source.tobytes()


def encoded(image: "Image", form: str, **options: Any) -> str:
    """An image as the base64 text of a file of a form, such as ``"PNG"``; options are Pillow's."""
    held = io.BytesIO()
    image.save(held, form, **options)
    return base64.b64encode(held.getvalue()).decode("ascii")
