"""What a CNN still knows when parts of its images are taken away, in several ways of taking."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from interp.errors import ParameterError, ShapeError
from interp.hooks import evaluating
from interp.loading import load
from interp.results import Result
from interp.runs import versions
from probes.layer_masking import layer_masked

__all__ = ["WAYS", "RemovalCurve", "patch_masks", "removal_curve"]

WAYS = ("layer masking", "zeros", "image mean", "noise")
"""How pixels are taken: at every layer, or painted over at the input."""


@dataclass(frozen=True, kw_only=True)
class RemovalCurve(Result):
    """Accuracy as more of each image is taken away, by way (w) and share (s).

    Attributes
    ----------
    ways, shares : of the pixels that are taken, rising, 0 first.
    patch : side of the square patches that are taken at random.
    accuracy : [w, s] share of right answers; nan without labels.
    agreement : [w, s] share of answers that are those on the whole image.
    confidence : [w, s] mean probability of the answer on the whole image.
    """

    kind: ClassVar[str] = "removal_curve"

    ways: tuple[str, ...]
    shares: tuple[float, ...]
    patch: int
    accuracy: NDArray
    agreement: NDArray
    confidence: NDArray

    def to_frame(self) -> pd.DataFrame:
        """A row a way and share."""
        return pd.DataFrame(
            {
                "way": np.repeat(self.ways, len(self.shares)),
                "taken": np.tile(self.shares, len(self.ways)),
                "accuracy": self.accuracy.ravel(),
                "agreement": self.agreement.ravel(),
                "confidence": self.confidence.ravel(),
            }
        )

    def metrics(self) -> dict[str, Any]:
        """Numbers and names for ``metrics.json``."""
        names = ("n", "ways", "shares", "patch", "accuracy", "agreement", "confidence", "reasons")
        return {name: getattr(self, name) for name in names}


def patch_masks(
    n: int, size: tuple[int, int], taken: float, *, patch: int = 4, seed: int = 0, first: int = 0
) -> Tensor:
    """Masks [n, h, w], true where kept, without a share of their square patches drawn at random.

    They are those of the rows from ``first`` on; a row's patches are its own, in whatever batch.
    """
    h, w = (-(-side // patch) for side in size)
    draws = (np.random.default_rng([seed, row]) for row in range(first, first + n))
    order = torch.from_numpy(np.stack([draw.permutation(h * w) for draw in draws]))
    kept = (order >= round(taken * h * w)).reshape(n, h, w)
    return kept.repeat_interleave(patch, 1).repeat_interleave(patch, 2)[:, : size[0], : size[1]]


def removal_curve(
    model: Any,
    images: Tensor,
    labels: Tensor | None = None,
    *,
    shares: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 0.9),
    ways: Sequence[str] = WAYS,
    patch: int = 4,
    batch_size: int = 256,
    seed: int = 0,
    name: str = "input removal",
) -> RemovalCurve:
    """Accuracy, agreement and confidence of a classifier as patches are taken from its images.

    Parameters
    ----------
    model : a CNN that gives logits [n, classes].
    images : [n, c, h, w] as it takes them.
    labels : [n] classes, or None.
    shares : of the patches that are taken; the same patches in every way.
    ways : of `WAYS`: masked at every layer, or painted with zeros, each image's mean colour, or
        normal noise.
    patch, seed : side of a patch, and the seed of which are taken and of the noise.

    Range: 0 to 1 each. A way that stays high loses what was taken and adds nothing of its own; one
    that falls faster shows the model something that it answers to.
    Degenerate: accuracy is nan without labels.
    Cost: a forward a way and share, and that of `layer_masked`.
    Source: Balasubramanian and Feizi, arXiv 2211.14646, section 4.
    """
    if set(ways) - set(WAYS) or not all(0 <= s <= 1 for s in shares) or patch < 1:
        raise ParameterError(
            f"removal_curve takes ways of {', '.join(WAYS)}, shares from 0 to 1 and a patch from 1 "
            f"on; got {', '.join(ways)}, {list(shares)}, {patch}."
        )
    if images.ndim != 4 or not len(images) or (labels is not None and len(labels) != len(images)):
        raise ShapeError("removal_curve takes images [n, c, h, w], and a label each or none.")
    model, levels, n = load(model), sorted({0.0, *map(float, shares)}), len(images)
    sums = np.zeros((3, len(ways), len(levels)))
    with evaluating(model.module), torch.no_grad():
        for start in range(0, n, batch_size):
            x = images[start : start + batch_size]
            whole = _logits(model(x))
            said = whole.argmax(1)
            for j, share in enumerate(levels):
                size = (x.shape[2], x.shape[3])
                mask = patch_masks(len(x), size, share, patch=patch, seed=seed, first=start)
                for i, way in enumerate(ways):
                    logits = _logits(_taken(model, x, mask.to(x.device), way, (seed, start)))
                    answer, told = logits.argmax(1), logits.double().softmax(1)
                    sums[1, i, j] += float((answer == said).sum())
                    sums[2, i, j] += float(told.gather(1, said[:, None]).sum())
                    if labels is not None:
                        y = labels[start : start + batch_size].to(answer.device)
                        sums[0, i, j] += float((answer == y).sum())
    sums /= n
    return RemovalCurve(
        name=name,
        n=n,
        provenance={"model": model.identity(), "seed": seed, "versions": versions()},
        reasons={} if labels is not None else {"accuracy": "there are no labels."},
        ways=tuple(ways),
        shares=tuple(levels),
        patch=patch,
        accuracy=sums[0] if labels is not None else np.full(sums.shape[1:], np.nan),
        agreement=sums[1],
        confidence=sums[2],
    )


def _taken(model: Any, x: Tensor, mask: Tensor, way: str, seed: tuple[int, int]) -> Any:
    """The model's output without what the mask takes; ``seed`` and the row of the first image."""
    if way == "layer masking":
        return layer_masked(model, x, mask)
    paint = torch.zeros_like(x)
    if way == "image mean":
        paint = x.mean((2, 3), keepdim=True).expand_as(x)
    elif way == "noise":
        draws = (np.random.default_rng([seed[0], seed[1] + i, 1]) for i in range(len(x)))
        paint = torch.from_numpy(np.stack([d.standard_normal(x.shape[1:]) for d in draws])).to(x)
    return model(torch.where(mask[:, None], x, paint))


def _logits(output: Any) -> Tensor:
    logits = getattr(output, "logits", output)
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise ShapeError("removal_curve needs a classifier, whose output is logits [n, classes].")
    return logits
