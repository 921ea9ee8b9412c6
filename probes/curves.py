"""The result of `probes.concept_depth`: curves over the hook points, and what was done."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from interp.errors import LayerNotFound, ParameterError, closest
from interp.results import Result

if TYPE_CHECKING:
    import pandas as pd
    import torch

__all__ = ["CURVES", "MORE_CURVES", "ConceptDepth"]

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

MORE_CURVES = (
    "f1_low",
    "f1_high",
    "auc_low",
    "auc_high",
    "calibration_error",
    "calibration_error_low",
    "calibration_error_high",
    "selectivity_low",
    "selectivity_high",
    "p_value",
    "p_adjusted",
    "variation_rate",
    "random_model",
    "random_model_low",
    "random_model_high",
    "random_features",
    "random_features_low",
    "random_features_high",
)
"""Those that may be None: not asked for, or of a result saved before they were there."""


@dataclass(frozen=True, kw_only=True)
class ConceptDepth(Result):
    """How well a linear probe reads a concept at each hook point, and what it must beat.

    Arrays have one entry a hook point, in depth order. All scores are of rows that the probe was
    not trained on. Intervals are 95 %, by bootstrap over groups (rows where there are none).

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
    folds, seed, permutations, strengths : settings of the sweep; one fold is a single split.
    accuracy, accuracy_low, accuracy_high : share of rows answered rightly, 0 to 1.
    f1 : of the positive class; the classes' mean for three or more.
    auc : area under the ROC curve, the folds' mean; one against the rest, averaged, for three or
        more classes.
    shuffled, shuffled_low, shuffled_high : mean accuracy of the same probes on shuffled labels,
        and the range that holds one more such run with 95 % probability.
    selectivity : ``accuracy - shuffled``.
    strength : [hook points, folds] the C that the training folds chose; nan where there is none.
    majority, stratified : accuracy of the commonest class, and of drawing from the class shares.
    bag_of_words, bag_of_words_low, bag_of_words_high : a probe on word counts, same folds; or None.
    jump_point, converging_point : fractions of depth, or None (`jump_point`, `converging_point`).
    jump_hookpoint, converging_hookpoint : the hook points where they lie, or None.
    peak, peak_hookpoint : the highest accuracy, and the first hook point that has it.
    leakage : a sentence on matched rows that a random split would separate, or None.
    interval : how the intervals were made.
    notes : what was done to the data, in sentences.
    examples : the first rows of the data, texts clipped.
    probe : kind of probe.
    prompt : what was put around the texts, or None.
    f1_low, f1_high, auc_low, auc_high : intervals.
    calibration_error, calibration_error_low, calibration_error_high : 0 to 1, lower is better
        (`probes.calibration_error`); nan for probes without probabilities.
    selectivity_low, selectivity_high : interval of ``selectivity`` that covers at all hook points
        together with 95 % (`probes.onset.null_of`).
    p_value, p_adjusted : chance of so high an accuracy if the labels meant nothing, at a hook
        point by itself, and by Holm's rule over the places where onset may lie; nan elsewhere.
    onset_depth, onset_hookpoint : the first place whose ``p_adjusted`` is at most 0.05, or None.
        Layer i of d lies at ``i / d``, as for ``jump_point``. The embedding is a place too: what
        can be read there is not computed by the layers. Its depth is 0, as layer 0's is;
        ``onset_hookpoint`` tells them apart.
    onset_low, onset_high : its interval, in the same fractions; None where that end of the draws
        has no onset.
    variation_rate : accuracy over that of the layer before; nan at the first layer and at hook
        points that are no layers.
    converging_literal : the converging point by the rule ``literal``.
    random_model, random_model_low, random_model_high : accuracy of the same probes on a model of
        the same architecture with random weights.
    random_features, random_features_low, random_features_high : the same on Gaussian noise of the
        same width, one draw a width: what a probe of that size gets from nothing.
    directions : hook point -> [k, d], coefficients in the activation's own units of a probe of all
        rows (in the released recipe: of its training rows); k = 1 for two classes.
    warnings : what takes the meaning from a high accuracy, in sentences.
    hits, group_sizes : [hook points, groups] and [groups], how many held-out rows of each group are
        answered rightly, and how many it has (rows where there are no groups); in the smallest
        unsigned integers that hold the largest group, a byte each up to 255 rows. What a paired
        comparison draws from (`probes.paired`).
    null_spread : [hook points] standard error of ``selectivity`` if the labels meant nothing
        (`probes.onset.Null`); nan with fewer than two permutations.
    rows_hash : SHA-256 of which rows are answered, their classes, groups and folds: results that
        share it can be compared row by row.
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
    probe: str = "logistic"
    prompt: str | None = None
    f1_low: NDArray | None = None
    f1_high: NDArray | None = None
    auc_low: NDArray | None = None
    auc_high: NDArray | None = None
    calibration_error: NDArray | None = None
    calibration_error_low: NDArray | None = None
    calibration_error_high: NDArray | None = None
    selectivity_low: NDArray | None = None
    selectivity_high: NDArray | None = None
    p_value: NDArray | None = None
    p_adjusted: NDArray | None = None
    onset_depth: float | None = None
    onset_hookpoint: str | None = None
    onset_low: float | None = None
    onset_high: float | None = None
    variation_rate: NDArray | None = None
    converging_literal: float | None = None
    random_model: NDArray | None = None
    random_model_low: NDArray | None = None
    random_model_high: NDArray | None = None
    random_features: NDArray | None = None
    random_features_low: NDArray | None = None
    random_features_high: NDArray | None = None
    directions: dict[str, NDArray] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    hits: NDArray | None = None
    group_sizes: NDArray | None = None
    null_spread: NDArray | None = None
    rows_hash: str | None = None

    def direction(self, where: str | int, class_: str | None = None) -> "torch.Tensor":
        """Unit direction [d] at a hook point along which a class becomes likelier, float32.

        It is in the units of the activation, ready to be added to it (`interp.steer`).

        Parameters
        ----------
        where : a hook point's name, or the index of a layer (of ``layers``; -1 is the last).
        class_ : towards which class; the last of two by default. More classes need one.

        Raises
        ------
        LayerNotFound
            There is no such hook point or layer.
        ParameterError
            The class is missing or unknown, or the probe has no direction.
        """
        import torch

        coef = self.directions.get(self._place(where))
        if coef is None:
            raise ParameterError(
                f"{self.name} has no direction at {self._place(where)} (probe {self.probe}); use "
                "a linear probe such as probe='logistic'."
            )
        if class_ is None:
            if len(self.classes) > 2:
                raise ParameterError(
                    f"{self.name} has {len(self.classes)} classes and a direction for each; give "
                    f"class_= one of {', '.join(self.classes)}."
                )
            class_ = list(self.classes)[-1]
        if str(class_) not in self.classes:
            raise ParameterError(
                f"class_ must be one of {', '.join(self.classes)}; got {class_!r}."
            )
        at = self.classes.index(str(class_))
        vector = np.asarray(coef[at] if len(coef) > 1 else coef[0] * (1 if at else -1), np.float64)
        length = np.linalg.norm(vector)
        if not length > 0:
            raise ParameterError(
                f"the probe at {self._place(where)} has coefficients of 0 and so no direction; "
                "take another hook point."
            )
        return torch.from_numpy((vector / length).astype(np.float32))

    def _place(self, where: str | int) -> str:
        if isinstance(where, int):
            if not -len(self.layers) <= where < len(self.layers):
                raise LayerNotFound(
                    f"{self.name} has {len(self.layers)} layers, 0 to {len(self.layers) - 1}; got "
                    f"{where}."
                )
            return self.hookpoints[self.layers[where]]
        if where not in self.hookpoints:
            hint = closest(where, self.hookpoints) or f"it has {', '.join(self.hookpoints)}."
            raise LayerNotFound(f"{self.name} has no hook point {where!r}; {hint}")
        return where

    def to_frame(self) -> "pd.DataFrame":
        """One row a hook point."""
        import pandas as pd

        counted = set(self.layers)
        more = {k: v for k in MORE_CURVES if (v := getattr(self, k)) is not None}
        return pd.DataFrame(
            {
                "hookpoint": list(self.hookpoints),
                "is_layer": [i in counted for i in range(len(self.hookpoints))],
                **{name: getattr(self, name) for name in CURVES},
                "strength": np.median(self.strength, axis=1),
                **more,
            }
        )

    def metrics(self) -> dict[str, Any]:
        """The numbers and names of the result; no times and no paths. Undefined is None."""
        single = (
            "n", "mode", "probe", "prompt", "label", "groups", "n_groups", "class_counts", "folds",
            "seed", "permutations", "majority", "stratified", "bag_of_words", "bag_of_words_low",
            "bag_of_words_high", "jump_point", "jump_hookpoint", "converging_point",
            "converging_hookpoint", "converging_literal", "onset_depth", "onset_hookpoint",
            "onset_low", "onset_high", "peak", "peak_hookpoint", "interval", "reasons",
        )  # fmt: skip
        table: dict[str, Any] = {name: getattr(self, name) for name in single}
        table["classes"], table["hookpoints"] = list(self.classes), list(self.hookpoints)
        table["layers"] = list(self.layers)
        for name in (*CURVES, *MORE_CURVES):
            curve = getattr(self, name)
            table[name] = None if curve is None else [_rounded(v) for v in curve]
        table["strength"] = [[_rounded(v, None) for v in row] for row in self.strength]
        table["warnings"] = list(self.warnings)
        return table


def _rounded(value: float, digits: int | None = 6) -> float | None:
    """A number for JSON, which has no nan."""
    if not np.isfinite(value):
        return None
    return float(value) if digits is None else round(float(value), digits)
