"""How a training of codebooks went: the log, as a result."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from interp.results import Result

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["CodebookTraining"]

LAST = 10
"""Logged batches at the end that the headline numbers are means of."""


@dataclass(frozen=True, kw_only=True)
class CodebookTraining(Result):
    """The log of a model and its codebooks in training. Each number is that of its step's batch.

    Attributes
    ----------
    n : tokens trained on, counted as often as they were read.
    configs : of the codebooks, by hook point.
    steps : [m] steps logged, counted from 1.
    total : [m] what was minimised.
    language : [m] loss of next tokens, in nats a token.
    accuracy : [m] share of next tokens that had the largest logit, 0 to 1.
    reconstruction : hook point -> [m] squared error of codes, summed over the width, unweighted.
    fvu : hook point -> [m] the same over the squared distance to the mean; 0 best, 1 for the mean.
    dead : hook point -> [m] share of codes without firing in the last tenth of the tokens, at most
        1 million; 0 to 1.
    lr : [m] learning rate of the codebooks.
    reference : a loss to compare with, such as the Bayes floor; or None.
    held_out : which model -> nats a token on texts that were held out; empty where none were.
    cpu_seconds : [m] processor time since the start. Not in `metrics`: it differs between equal
        runs.
    """

    kind: ClassVar[str] = "codebook_training"

    configs: dict[str, dict[str, Any]]
    steps: np.ndarray
    total: np.ndarray
    language: np.ndarray
    accuracy: np.ndarray
    reconstruction: dict[str, np.ndarray]
    fvu: dict[str, np.ndarray]
    dead: dict[str, np.ndarray]
    lr: np.ndarray
    reference: float | None = None
    held_out: dict[str, float] = field(default_factory=dict)
    cpu_seconds: np.ndarray = field(default_factory=lambda: np.empty(0))

    def to_frame(self) -> "pd.DataFrame":
        """A row a logged step."""
        import pandas as pd

        columns = {"step": self.steps, "total": self.total, "language": self.language}
        columns["accuracy"] = self.accuracy
        for kind in ("reconstruction", "fvu", "dead"):
            columns |= {f"{kind} {n}": v for n, v in getattr(self, kind).items()}
        columns["lr"] = self.lr
        if len(self.cpu_seconds):
            columns["cpu_seconds"] = self.cpu_seconds
        return pd.DataFrame(columns)

    def metrics(self) -> dict[str, Any]:
        """The numbers at the end: means over the last ten logged steps, and the last dead share."""

        def last(values: np.ndarray) -> float:
            return float(values[-LAST:].mean())

        return {
            "n": self.n,
            "steps": int(self.steps[-1]),
            "loss": last(self.language),
            "first_loss": float(self.language[0]),
            "reference": self.reference,
            "held_out": self.held_out,
            "accuracy": last(self.accuracy),
            "codebooks": {
                name: {
                    "n_codes": self.configs[name]["n_codes"],
                    "k": self.configs[name]["k"],
                    "fvu": last(self.fvu[name]),
                    "dead": float(self.dead[name][-1]),
                }
                for name in self.configs
            },
        }
