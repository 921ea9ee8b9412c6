"""The result of activation maximisation: images, what they fire, and how they got there."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from interp.results import Result

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Maximized"]


@dataclass(frozen=True, kw_only=True)
class Maximized(Result):
    """Images that fire an objective.

    Attributes
    ----------
    n : how many images.
    images : [n, c, h, w] float32 in 0..1, at the size that the model reads.
    activation : [n] the objective of each; higher is better.
    start_activation : [n] of the images that they began as.
    trace : [steps, n] the objective at each step, as the model saw the image then.
    objective, schedule : in words.
    hookpoints : that the objective looks at.
    canvas : [n, c, H, W] the whole picture, where it is larger than what the model reads.
    opacity : [n, h, w] where the gradients were, 0 to 1 (sum over steps of their size).
    mean, std : an input of the model is (image - mean) / std, by channel.
    started : ``"images"`` or ``"random"``.
    seed : of starts and views.
    notes : what was done, in sentences.
    """

    kind: ClassVar[str] = "maximized"

    images: NDArray
    activation: NDArray
    start_activation: NDArray
    trace: NDArray
    objective: str
    hookpoints: tuple[str, ...]
    schedule: str
    canvas: NDArray | None
    opacity: NDArray
    mean: tuple[float, ...]
    std: tuple[float, ...]
    started: str
    seed: int
    notes: tuple[str, ...] = field(default_factory=tuple)

    @property
    def inputs(self) -> NDArray:
        """[n, c, h, w] float32: the images as the model reads them."""
        column = (-1, 1, 1)
        mean = np.asarray(self.mean, np.float32).reshape(column)
        return (self.images - mean) / np.asarray(self.std, np.float32).reshape(column)

    def to_frame(self) -> "pd.DataFrame":
        """One row an image."""
        import pandas as pd

        return pd.DataFrame(
            {
                "image": np.arange(self.n),
                "start_activation": self.start_activation,
                "activation": self.activation,
            }
        )

    def metrics(self) -> dict[str, Any]:
        """Numbers and names for ``metrics.json``."""
        return {
            "n": self.n,
            "objective": self.objective,
            "schedule": self.schedule,
            "started": self.started,
            "steps": len(self.trace),
            "seed": self.seed,
            "activation": [round(float(v), 6) for v in self.activation],
            "start_activation": [round(float(v), 6) for v in self.start_activation],
            "reasons": self.reasons,
        }
