"""The result of `probes.concept_depth`: curves over the hook points, and what was done."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from interp.results import Result

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["CURVES", "ConceptDepth"]

CURVES = (
    "accuracy",
    "accuracy_low",
    "accuracy_high",
    "f1",
    "auc",
    "shuffled",
    "shuffled_low",
    "shuffled_high",
    "selectivity",
)
"""Fields of `ConceptDepth` that have one number a hook point."""


@dataclass(frozen=True, kw_only=True)
class ConceptDepth(Result):
    """How well a linear probe reads a concept at each hook point, and what it must beat.

    Arrays have one entry a hook point, in depth order. All scores are of rows that the probe was
    not trained on.

    Attributes
    ----------
    label, groups : columns of the classes and of what is never split, or None.
    about : one line that says what the concept asks.
    hookpoints : where the probes read.
    layers : indexes into ``hookpoints`` of those that count as layers; the embedding and the
        final norm are on the curve but are none.
    classes : names of the classes in rising order; the last is the positive one of two.
    class_counts : class -> rows.
    n_groups : how many groups, or None.
    folds, seed, permutations, strengths : settings of the sweep.
    accuracy, accuracy_low, accuracy_high : share of rows answered rightly, 0 to 1, and its 95 %
        bootstrap interval over groups (rows where there are none).
    f1 : of the positive class; the classes' mean for three or more.
    auc : area under the ROC curve, the folds' mean; one against the rest, averaged, for three or
        more classes.
    shuffled, shuffled_low, shuffled_high : mean accuracy of the same probes on shuffled labels,
        and the range that holds one more such run with 95 % probability.
    selectivity : ``accuracy - shuffled``.
    strength : [hook points, folds] the C that the training folds chose.
    majority, stratified : accuracy of the commonest class, and of drawing from the class shares.
    bag_of_words, bag_of_words_low, bag_of_words_high : a probe on word counts, same folds; or None.
    jump_point, converging_point : fractions of depth, or None (`jump_point`, `converging_point`).
    jump_hookpoint, converging_hookpoint : the hook points where they lie, or None.
    peak, peak_hookpoint : the highest accuracy, and the first hook point that has it.
    leakage : a sentence on matched rows that a random split would separate, or None.
    interval : how the intervals were made.
    notes : what was done to the data, in sentences.
    examples : the first rows of the data, texts clipped.
    """

    kind: ClassVar[str] = "concept_depth"

    label: str
    groups: str | None
    about: str
    hookpoints: tuple[str, ...]
    layers: tuple[int, ...]
    classes: tuple[str, ...]
    class_counts: dict[str, int]
    n_groups: int | None
    folds: int
    seed: int
    permutations: int
    strengths: tuple[float, ...]
    accuracy: NDArray
    accuracy_low: NDArray
    accuracy_high: NDArray
    f1: NDArray
    auc: NDArray
    shuffled: NDArray
    shuffled_low: NDArray
    shuffled_high: NDArray
    selectivity: NDArray
    strength: NDArray
    majority: float
    stratified: float
    bag_of_words: float | None
    bag_of_words_low: float | None
    bag_of_words_high: float | None
    jump_point: float | None
    jump_hookpoint: str | None
    converging_point: float | None
    converging_hookpoint: str | None
    peak: float
    peak_hookpoint: str
    leakage: str | None
    interval: str
    notes: tuple[str, ...] = ()
    examples: list[dict[str, Any]] = field(default_factory=list)

    def to_frame(self) -> "pd.DataFrame":
        """One row a hook point."""
        import pandas as pd

        counted = set(self.layers)
        return pd.DataFrame(
            {
                "hookpoint": list(self.hookpoints),
                "is_layer": [i in counted for i in range(len(self.hookpoints))],
                **{name: getattr(self, name) for name in CURVES},
                "strength": np.median(self.strength, axis=1),
            }
        )

    def metrics(self) -> dict[str, Any]:
        """The numbers and names of the result; no times and no paths."""
        single = (
            "n", "mode", "label", "groups", "n_groups", "class_counts", "folds", "seed",
            "permutations", "majority", "stratified", "bag_of_words", "bag_of_words_low",
            "bag_of_words_high", "jump_point", "jump_hookpoint", "converging_point",
            "converging_hookpoint", "peak", "peak_hookpoint", "interval", "reasons",
        )  # fmt: skip
        table: dict[str, Any] = {name: getattr(self, name) for name in single}
        table["classes"], table["hookpoints"] = list(self.classes), list(self.hookpoints)
        table["layers"] = list(self.layers)
        for name in CURVES:
            table[name] = [round(float(v), 6) for v in getattr(self, name)]
        table["strength"] = self.strength.tolist()
        return table
