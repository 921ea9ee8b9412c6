"""``demo:digits``: a small ReLU network that asks three things of a handwritten digit.

Its output units answer "is it even", "is it prime", "has it a loop". Nobody told it the digits, and
each answer holds for several of them, so the facets of each unit are known: the digits.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from interp.data import Dataset
from interp.errors import ModelError, one_line

__all__ = ["HELD_OUT", "QUESTIONS", "DigitsNet", "digits", "digits_net", "scans"]

QUESTIONS = {
    "even": (0, 2, 4, 6, 8),
    "prime": (2, 3, 5, 7),
    "has a loop": (0, 6, 8, 9),
}
"""Output unit -> the digits for which it is to answer yes."""
HELD_OUT = 450
"""Rows at the end that the network was not trained on; other people wrote most of them."""


class DigitsNet(nn.Module):
    """Images [n, 1, 8, 8] from 0 to 1 -> a logit for each of `QUESTIONS` [n, 3].

    ``relu3`` holds the last feature map, [n, 32, 4, 4]; ``flatten`` the same as a row, which the
    one linear layer reads.
    """

    output_names = tuple(QUESTIONS)

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.relu2 = nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.conv3 = nn.Conv2d(32, 32, 3, padding=1)
        self.relu3 = nn.ReLU()
        self.flatten = nn.Flatten()
        self.out = nn.Linear(512, len(QUESTIONS))

    def forward(self, x: Tensor) -> Tensor:
        """Logits; above 0 the answer is yes."""
        x = self.relu1(self.conv1(x))
        x = self.pool(self.relu2(self.conv2(x)))
        return self.out(self.flatten(self.relu3(self.conv3(x))))


def digits_net(folder: Path) -> DigitsNet:
    """The trained network, in eval mode.

    Raises
    ------
    ModelError
        The weights are not those of this network.
    """
    from safetensors.torch import load_file

    with torch.random.fork_rng(devices=[]):  # the weights it begins with are thrown away
        net = DigitsNet()
    try:
        net.load_state_dict(load_file(folder / "model.safetensors"))
    except (RuntimeError, OSError) as error:
        text = one_line(error, 200)
        raise ModelError(f"demo:digits cannot be loaded: {text}; reinstall interp.") from error
    return net.eval()


def digits() -> Dataset:
    """The 1,797 images of scikit-learn's digits, from 0 to 1, in their order.

    Returns
    -------
    Dataset
        ``inputs`` [1797, 1, 8, 8]; columns ``digit``, one for each of `QUESTIONS` (1 for yes), and
        ``split``: the last `HELD_OUT` rows are ``test``.
    """
    pixels, digit = scans()
    rows = pd.DataFrame({"digit": digit})
    for question, yes in QUESTIONS.items():
        rows[question] = np.isin(digit, yes).astype(int)
    rows["split"] = np.where(np.arange(len(digit)) < len(digit) - HELD_OUT, "train", "test")
    images = torch.tensor(pixels / 16, dtype=torch.float32)[:, None]
    return Dataset(
        name="digits",
        kind="tensor",
        inputs=images,
        rows=rows,
        labels=("digit", *QUESTIONS),
        about={"digit": "which digit it is"}
        | {k: f"it is one of {', '.join(map(str, v))}" for k, v in QUESTIONS.items()},
        notes=(f"{len(rows):,} images of [1, 8, 8]",),
    )


def scans() -> tuple[NDArray, NDArray]:
    """Scikit-learn's digits in their order: images [1797, 8, 8], 0 to 16, and the digits."""
    from sklearn.datasets import load_digits

    found: Any = load_digits()
    return np.asarray(found.images), np.asarray(found.target)
