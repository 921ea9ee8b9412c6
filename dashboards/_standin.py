"""TEMPORARY stand-in."""

from dataclasses import dataclass, field
from typing import ClassVar
import numpy as np
import pandas as pd
from interp.results import Result


@dataclass(frozen=True, kw_only=True)
class ConceptDepth(Result):
    kind: ClassVar[str] = "concept_depth"
    hookpoints: tuple[str, ...] = ()
    accuracy: np.ndarray = None
    accuracy_low: np.ndarray = None
    accuracy_high: np.ndarray = None
    f1: np.ndarray = None
    auc: np.ndarray = None
    shuffled: np.ndarray = None
    shuffled_low: np.ndarray = None
    shuffled_high: np.ndarray = None
    selectivity: np.ndarray = None
    majority: float = 0.5
    bag_of_words: float | None = None
    jump_point: float | None = None
    converging_point: float | None = None
    peak: str = ""
    class_counts: dict = field(default_factory=dict)
    notes: tuple = ()
    examples: list = field(default_factory=list)

    def to_frame(self):
        return pd.DataFrame(
            {
                k: getattr(self, k)
                for k in (
                    "accuracy",
                    "accuracy_low",
                    "accuracy_high",
                    "f1",
                    "auc",
                    "shuffled",
                    "selectivity",
                )
            },
            index=pd.Index(self.hookpoints, name="hookpoint"),
        ).reset_index()

    def metrics(self):
        return {}
