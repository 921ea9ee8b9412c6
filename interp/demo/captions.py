"""``demo:digits-clip``: handwritten digits with captions that say some of what is true of them.

The images are scikit-learn's 1,797 digits of 8 x 8 pixels. Four things are true of each: which
digit it is, whether that is even, how many loops the digit has as it is printed, and how much ink
was used. A caption says one to four of them, so that words such as "odd" or "thick" are shared by
images of many digits, and an image is shown with captions that stress different things.
"""

import hashlib
import random
from typing import Any

import numpy as np
import pandas as pd

from interp.data import Dataset
from interp.demo.handwriting import scans
from interp.errors import ParameterError

__all__ = ["FACTS", "captioned", "is_held_out", "prompts"]

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LOOPS = {0: "one loop", 6: "one loop", 8: "two loops", 9: "one loop"}
"""Loops of the printed digit; a handwritten four may have one of its own, which is not counted."""
THIN, THICK = 0.29, 0.32
"""Mean ink, of 0 to 1 a pixel, below which strokes are thin and above which they are thick."""
FACTS = ("digit", "parity", "loops", "strokes")
"""Columns that say what is true of an image."""
SAID = 0.6
"""Chance that a caption says one of the four, before those that say nothing are drawn again."""


def captioned(seed: int = 0, captions: int = 2, split: str | None = None) -> Dataset:
    """The digits, each with some captions, as pairs.

    Parameters
    ----------
    seed : of what the captions say.
    captions : of each image, at least 1.
    split : ``"train"`` or ``"held out"`` (`is_held_out`); None for both.

    Returns
    -------
    Dataset
        Pairs, the captions of an image on neighbouring rows: ``image`` (its number in
        scikit-learn's data), ``caption``, `FACTS`, ``says`` (the facts that the caption states) and
        ``split``. The image is the group.

    Raises
    ------
    ParameterError
        There would be no captions, or no such split.
    """
    if captions < 1:
        raise ParameterError(f"captions must be at least 1; got {captions}.")
    if split not in (None, "train", "held out"):
        raise ParameterError(f"split is 'train', 'held out' or None; got {split!r}.")
    from PIL import Image

    rng = random.Random(seed)
    images, rows = [], []
    for i, (picture, digit) in enumerate(zip(*scans(), strict=True)):
        grey = np.round(picture * (255 / 16)).astype(np.uint8)
        part = "held out" if is_held_out(grey) else "train"
        true = facts(int(digit), float(picture.mean() / 16))
        for _ in range(captions):
            says = _says(rng)
            if split in (None, part):
                images.append(Image.fromarray(grey).convert("RGB"))
                text = caption(true, says)
                rows.append({"image": i, "caption": text, **true, "says": " ".join(says),
                             "split": part})  # fmt: skip
    table = pd.DataFrame(rows)
    return Dataset(
        name="digits-clip",
        kind="pair",
        inputs=list(zip(images, table["caption"].tolist(), strict=True)),
        rows=table,
        labels=("digit",),
        group="image",
        text_column="caption",
        image_column="image",
        about={"digit": "the image shows this digit"},
        notes=(
            f"{len(table)} pairs of {table['image'].nunique()} images, seed {seed}; a caption is "
            "true of its image and of many others",
        ),
    )


def facts(digit: int, ink: float) -> dict[str, str]:
    """What is true of an image, by `FACTS`; ``ink`` is the mean of its pixels, 0 to 1."""
    strokes = "thin" if ink < THIN else "thick" if ink > THICK else "medium"
    return {
        "digit": WORDS[digit],
        "parity": "odd" if digit % 2 else "even",
        "loops": LOOPS.get(digit, "no loop"),
        "strokes": strokes,
    }


def caption(true: dict[str, str], says: tuple[str, ...]) -> str:
    """A caption that states some facts, such as ``"the odd digit nine with one loop"``."""
    parity = f"{true['parity']} " if "parity" in says else ""
    if "digit" in says:
        text = f"the {parity}digit {true['digit']}"
    else:
        text = f"{'an' if parity else 'a'} {parity}digit"
    if "loops" in says:
        text += f" with {true['loops']}"
    if "strokes" in says:
        text += f" in {true['strokes']} strokes"
    return text


def is_held_out(grey: np.ndarray[Any, Any]) -> bool:
    """Whether an image [8, 8], uint8, was kept from training: one in five, by a hash of it."""
    return int.from_bytes(hashlib.sha256(grey.tobytes()).digest()[:4], "big") % 5 == 0


def prompts() -> list[str]:
    """A caption for each digit, 0 to 9, to classify images with."""
    return [f"the digit {word}" for word in WORDS]


def _says(rng: random.Random) -> tuple[str, ...]:
    while True:
        says = tuple(fact for fact in FACTS if rng.random() < SAID)
        if says:
            return says
