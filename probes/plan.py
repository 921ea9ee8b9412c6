"""What a sweep does at every hook point: rows, folds, labels, weights and the kind of probe."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from interp.errors import DataError, LayerNotFound, ParameterError, ShapeError, closest
from probes.concepts import Concept, column, read_concept
from probes.controls import shuffled_labels
from probes.linear import KINDS
from probes.released import released_answers, released_probe, split_folds
from probes.scores import bootstrap_weights
from probes.splits import grouped_folds, released_split
from probes.sweep import HeldOut, Weighing, held_out

if TYPE_CHECKING:
    import pandas as pd

    from interp.store import ActivationStore

__all__ = [
    "BOOTSTRAP_DRAWS",
    "MODES",
    "PROBES",
    "Plan",
    "choose_hookpoints",
    "make_plan",
    "matrix",
    "strengths_of",
    "turned",
]

MODES = ("recommended", "released_code", "paper")

PROBES = (*KINDS, "random_forest")
"""Kinds of probe that a sweep can run."""

BOOTSTRAP_DRAWS = 1000


@dataclass(frozen=True)
class Plan:
    """The same for all hook points.

    Attributes
    ----------
    concept : rows that have a label, their classes and groups.
    mode, probe, strengths : as asked.
    fold : [n] fold of each row; in a single split 0 for training and 1 for test.
    splits : training and test rows of each probe.
    scored : rows that are answered, in the order of the answers.
    labels : [1 + permutations, n]; the first are the real ones.
    weighing : of training rows.
    class_weight : as scikit-learn takes it, by class number.
    draws : [draws, groups] how often each group of the answered rows is drawn.
    ids : [scored] group of each answered row, 0 to g - 1.
    """

    concept: Concept
    mode: str
    probe: str
    strengths: tuple[float, ...]
    fold: NDArray
    splits: list[tuple[NDArray, NDArray]]
    scored: NDArray
    labels: NDArray
    weighing: Weighing
    class_weight: Any
    draws: NDArray
    ids: NDArray

    @property
    def single(self) -> bool:
        """Whether there is one split and no cross-validation."""
        return self.mode != "recommended"

    def answers(self, X: torch.Tensor, labels: NDArray, *, whole: bool = False) -> HeldOut:
        """Answers to the rows ``scored`` of probes for each of the label sets."""
        k = len(self.concept.classes)
        if not self.single and self.probe != "random_forest":
            return held_out(
                X, labels, self.fold, k, self.strengths,
                kind=self.probe, weighing=self.weighing, whole=whole,
            )  # fmt: skip
        return released_answers(
            X.cpu().numpy(), labels, self.splits, self.concept.classes,
            released_probe(self.probe, self.class_weight), self.weighing,
        )  # fmt: skip


def make_plan(
    table: "pd.DataFrame",
    label: str,
    groups: str | ArrayLike | None,
    *,
    mode: str,
    probe: str,
    positive: str | None,
    folds: int,
    permutations: int,
    strengths: float | Sequence[float],
    sample_weight: str | ArrayLike | None,
    class_weight: str | Mapping[Any, float] | None,
    seed: int,
) -> Plan:
    """Read the labels, split the rows and shuffle labels; errors are those of `concept_depth`."""
    for name, value, known in (("mode", mode, MODES), ("probe", probe, PROBES)):
        if value not in known:
            raise ParameterError(f"{name} must be one of {', '.join(known)}; got {value!r}.")
    if mode != "recommended" and probe not in ("logistic", "random_forest"):
        raise ParameterError(
            f"mode {mode!r} has the probes logistic and random_forest; got {probe!r}."
        )
    if permutations < 0:
        raise ParameterError(f"permutations must be 0 or more; got {permutations}.")
    values = strengths_of(strengths, folds)
    concept = _ordered(read_concept(table, label, groups), positive, mode)
    k, n = len(concept.classes), len(concept.y)
    if mode == "recommended":
        named = np.asarray(concept.classes)[concept.y]  # so that an error can name the class
        fold = grouped_folds(named, concept.groups, folds=folds, seed=seed)
        splits = [(np.flatnonzero(fold != a), np.flatnonzero(fold == a)) for a in range(folds)]
    else:
        if n < 4:
            raise DataError(f"{n} rows are too few for the released split; give 4 or more.")
        splits = [released_split(n)]
        fold = split_folds(n, splits[0][0])
        values = (1.0,) if probe == "logistic" else ()
    in_turn = mode != "recommended" or probe == "random_forest"
    scored = np.concatenate([test for _, test in splits]) if in_turn else np.arange(n)
    labels = concept.y[None]
    if permutations:
        noise = shuffled_labels(
            concept.y, fold, concept.groups, permutations=permutations, seed=seed
        )
        labels = np.concatenate([labels, noise])
    sample = _sample_weight(sample_weight, table, concept)
    per_class, by_number = _class_weight(class_weight, concept.classes)
    if sample is not None:
        for train, _ in splits:
            held = np.bincount(concept.y[train], weights=sample[train], minlength=k)
            if (held <= 0).any():
                raise DataError(
                    f"class {concept.classes[int(held.argmin())]!r} has no weight in the training "
                    "rows of a fold; give some of its rows a positive sample_weight."
                )
    ids = np.unique(concept.units[scored], return_inverse=True)[1].astype(np.int64)
    return Plan(
        concept=concept,
        mode=mode,
        probe=probe,
        strengths=values,
        fold=fold,
        splits=splits,
        scored=scored,
        labels=labels,
        weighing=Weighing(sample, per_class),
        class_weight=by_number,
        draws=bootstrap_weights(ids, draws=BOOTSTRAP_DRAWS, seed=seed),
        ids=ids,
    )


def turned(concept: Concept, positive: str | None) -> Concept:
    """The concept with the class ``positive`` last of two; as it is for None.

    Raises
    ------
    ParameterError
        ``positive`` is no class, or the classes are not two.
    """
    if positive is None:
        return concept
    if len(concept.classes) != 2 or str(positive) not in concept.classes:
        raise ParameterError(
            f"positive names one of two classes; got {str(positive)!r} for "
            f"{', '.join(concept.classes)}."
        )
    if concept.classes[0] == str(positive):
        return replace(concept, y=1 - concept.y, classes=concept.classes[::-1])
    return concept


def _ordered(concept: Concept, positive: str | None, mode: str) -> Concept:
    """The concept with the positive class last, and, as released, its rows class by class."""
    concept = turned(concept, positive)
    if mode == "recommended":
        return concept
    order = np.argsort(concept.y, kind="stable")
    groups = None if concept.groups is None else concept.groups[order]
    return replace(concept, rows=concept.rows[order], y=concept.y[order], groups=groups)


def _sample_weight(
    given: str | ArrayLike | None, table: "pd.DataFrame", concept: Concept
) -> NDArray | None:
    if given is None:
        return None
    values: Any = column(table, given, "sample weights") if isinstance(given, str) else given
    try:
        weight = np.asarray(values, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError) as error:
        raise DataError("sample_weight must be numbers, one a row.") from error
    if len(weight) != len(table):
        raise ShapeError(
            f"sample_weight must have one entry a row; got {len(weight)} for {len(table)} rows."
        )
    weight = weight[concept.rows]
    if not (np.isfinite(weight).all() and (weight >= 0).all()):
        raise DataError("sample_weight must be finite and 0 or more on every labelled row.")
    return weight


def _class_weight(
    given: str | Mapping[Any, float] | None, classes: Sequence[str]
) -> tuple[NDArray | str | None, Any]:
    """Class weights as an array or ``"balanced"``, and as scikit-learn takes them."""
    if given is None or given == "balanced":
        return (None, None) if given is None else ("balanced", "balanced")
    if isinstance(given, str):
        raise ParameterError(f"class_weight is None, 'balanced' or a dict; got {given!r}.")
    named = {str(k): float(v) for k, v in given.items()}
    unknown = sorted(set(named) - set(classes))
    if unknown or any(not (np.isfinite(v) and v > 0) for v in named.values()):
        raise ParameterError(
            f"class_weight gives each of {', '.join(classes)} a positive number; got {given!r}."
        )
    weights = np.array([named.get(c, 1.0) for c in classes])
    return weights, dict(enumerate(weights.tolist()))


def strengths_of(strengths: float | Sequence[float], folds: int) -> tuple[float, ...]:
    """Values of C in rising order, checked."""
    values = (strengths,) if isinstance(strengths, int | float) else tuple(strengths)
    if not values or any(not (np.isfinite(v) and v > 0) for v in values):
        raise ParameterError(f"strengths must be positive numbers; got {strengths!r}.")
    if len(values) > 1 and folds == 2:
        raise ParameterError(
            "two folds leave none to choose a strength in; give three folds or more, or one "
            "strength."
        )
    return tuple(sorted(float(v) for v in values))


def choose_hookpoints(
    known: Sequence[str], asked: Sequence[str] | None, mode: str
) -> tuple[str, ...]:
    """The hook points asked for; by default all, and in the released recipes ``mlp_in.*``."""
    known = tuple(known)
    if asked is None:
        released = tuple(n for n in known if "mlp_in." in n)
        return released if mode != "recommended" and released else known
    asked = (asked,) if isinstance(asked, str) else tuple(asked)
    for name in asked:
        if name not in known:
            hint = closest(name, known) or f"it holds {', '.join(known)}."
            raise LayerNotFound(f"the store has no hook point {name!r}; {hint}")
    if not asked:
        raise ParameterError("hookpoints is empty; name at least one, or leave it out for all.")
    return asked


def matrix(store: "ActivationStore", name: str, rows: NDArray) -> torch.Tensor:
    """Rows [n, width] of a hook point; heads lie side by side.

    Half precision comes as float32, which holds it exactly; the sweep takes the training rows of
    one fold at a time to float64. So a hook point's peak is about 4 bytes a number for all rows
    and 20 for the training rows of a fold.
    """
    stored = store[name]
    everything = len(rows) == len(stored) and bool((np.diff(rows) == 1).all())
    X = (stored[:] if everything else stored[rows]).flatten(1)
    X = X if X.dtype == torch.float64 else X.float()
    bad = ~torch.isfinite(X).all(1)
    if bad.any():
        row = int(rows[int(bad.nonzero()[0, 0])])
        raise DataError(
            f"the activations of row {row} at {name} are not finite ({int(bad.sum()):,} such "
            "rows); capture them in a wider dtype, or leave the rows out."
        )
    return X
