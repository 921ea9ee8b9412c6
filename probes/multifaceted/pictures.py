"""The images behind rows of data, in 0..1, and the mean of those that stand for a facet."""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from interp.data import Dataset
from interp.errors import DataError
from interp.feeds import pixels_of
from interp.images import open_image
from interp.models import Model
from probes.multifaceted.frames import Normalisation, frame_of

__all__ = ["Pictures", "contrast", "mean_images"]

ROUNDING = 1e-3
"""How far outside 0..1 rounding may put a pixel."""


class Pictures:
    """Images of a data set as the model sees them, without its normalisation.

    Parameters
    ----------
    model, data : images [n, c, h, w] of floats, or image files and a processor.
    normalise : (mean, std) as for `probes.maximize`; None takes the processor's.

    Raises
    ------
    DataError
        An image does not lie in 0..1 once the normalisation is undone.
    """

    def __init__(self, model: Model, data: Dataset, normalise: Normalisation | None = None) -> None:
        self.model, self.data = model, data
        self.normalise = normalise

    def read(self, rows: Sequence[int] | NDArray) -> NDArray:
        """[m, c, h, w] float32 in 0..1."""
        inputs = self._inputs([int(r) for r in rows])
        frame = frame_of(self.model, starts=inputs, normalise=self.normalise)
        images = frame.images(inputs.double())
        low, high = float(images.min()), float(images.max())
        if low < -ROUNDING or high > 1 + ROUNDING:
            raise DataError(
                f"images of {self.data.name} reach from {low:.3g} to {high:.3g} and not from 0 to "
                "1; say how they were normalised with normalise=(mean, std) "
                "(--image-mean, --image-std)."
            )
        return images.clamp(0, 1).float().numpy()

    def _inputs(self, rows: list[int]) -> Tensor:
        if self.data.kind == "tensor":
            return cast(Tensor, self.data.inputs)[rows].detach().cpu().float()
        inputs = cast(list[Any], self.data.inputs)
        return pixels_of(self.model, [open_image(inputs[row], row) for row in rows]).cpu().float()


def mean_images(pictures: Pictures, nearest: NDArray) -> NDArray:
    """[k, c, h, w] float32: the plain mean of the images of each facet's rows, in float64.

    Parameters
    ----------
    nearest : [k, m] rows of the data; -1 is none.

    Source: Nguyen et al. 2016, section 3: the mean of the 15 images nearest to a cluster's centre.
    """
    means = [pictures.read(row[row >= 0]).astype(np.float64).mean(0) for row in nearest]
    return np.array(means, dtype=np.float32)


def contrast(pictures: Pictures, nearest: NDArray, means: NDArray) -> NDArray:
    """[k]: standard deviation of a mean image's pixels over the mean one of its images'.

    Range: 0 to 1; 1 for equal images; about 1 / sqrt(m) for images without anything in common,
    whose mean is grey. Degenerate: nan where the images are flat.
    """
    found = []
    for row, mean in zip(nearest, means, strict=True):
        own = pictures.read(row[row >= 0]).astype(np.float64)
        spread = own.reshape(len(own), -1).std(1).mean()
        found.append(float(mean.std() / spread) if spread > 0 else float("nan"))
    return np.array(found)
