"""How a training went: the log that `train` keeps, as a result."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from interp.results import Result

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Training"]

LAST = 10
"""Logged batches at the end that the headline numbers are means of."""


@dataclass(frozen=True, kw_only=True)
class Training(Result):
    """The log of one SAE's training. Each number is that of the batch of its step.

    Activations are scaled in training where ``scale`` is not None; loss parts are in squared units
    of the scaled ones. FVU, L0 and the dead share do not depend on the scale.

    Attributes
    ----------
    n : rows trained on, counted as often as they were read.
    architecture, config : of the SAE.
    steps : [m] steps logged, counted from 1.
    loss : name -> [m]; ``"total"`` and the parts that it is the sum of.
    fvu : [m] squared error over the squared distance to the batch's mean, 0 best, 1 for the mean.
    l0 : [m] active latents a row, mean.
    dead : [m] share of latents that did not fire in the last ``dead_after`` rows; 0 to 1.
    dead_after : rows without firing after which a latent counts as dead.
    lr : [m] learning rates.
    scale : factor on the activations that were read; None, one number, or one a layer.
    rows_per_second : [m] since the logged step before, reading included. Not in `metrics`: it
        differs between equal runs.
    compile_seconds : what ``torch.compile`` cost: the first step's time; None where it was off.
    """

    kind: ClassVar[str] = "sae_training"

    architecture: str
    config: dict[str, Any]
    steps: np.ndarray
    loss: dict[str, np.ndarray]
    fvu: np.ndarray
    l0: np.ndarray
    dead: np.ndarray
    dead_after: int
    lr: np.ndarray
    scale: list[float] | None = None
    rows_per_second: np.ndarray = field(default_factory=lambda: np.empty(0))
    compile_seconds: float | None = None

    def to_frame(self) -> "pd.DataFrame":
        """A row a logged step."""
        import pandas as pd

        columns = {"step": self.steps, "fvu": self.fvu, "l0": self.l0, "dead": self.dead}
        columns |= {name: values for name, values in self.loss.items()}
        columns |= {"lr": self.lr, "rows_per_second": self.rows_per_second}
        return pd.DataFrame(columns)

    def metrics(self) -> dict[str, Any]:
        """The numbers at the end: means over the last ten logged steps, and the last dead share."""
        return {
            "architecture": self.architecture,
            "n": self.n,
            "steps": int(self.steps[-1]),
            "loss": {name: float(values[-LAST:].mean()) for name, values in self.loss.items()},
            "fvu": float(self.fvu[-LAST:].mean()),
            "l0": float(self.l0[-LAST:].mean()),
            "dead": float(self.dead[-1]),
            **{name: self.config[name] for name in ("n_latents", "k") if name in self.config},
        }
