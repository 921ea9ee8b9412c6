"""What a sweep did to the data and what to beware of, in sentences."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from interp.runs import versions
from probes.closed import PENALISED
from probes.plan import Plan
from probes.splits import leakage

if TYPE_CHECKING:
    import pandas as pd

    from interp.store import ActivationStore
    from probes.concepts import Concept

__all__ = [
    "below_chance",
    "matched_rows",
    "notes_of",
    "provenance_of",
    "suspects",
    "warnings_of",
]

FEATURES = {
    "difference_of_means": "Features are in the activation's own units.",
    "random_forest": "Features are in the activation's own units.",
}
PROBE_NOTES = {
    "ridge": "The probe is a ridge regression to targets of 1 and -1, penalty 1 / (2 C).",
    "lda": "The probe is LDA with its covariance shrunk by 1 / (2 C n).",
    "difference_of_means": "The probe reads along the difference of the class means.",
    "nearest_centroid": "The probe answers with the class whose mean is nearest.",
    "random_forest": "The probe is scikit-learn's random forest at its defaults, random_state 42.",
}


def notes_of(
    plan: Plan, groups: str | None, permutations: int, names: Sequence[str], layers: Sequence[int]
) -> list[str]:
    """What was done to the data, in sentences."""
    notes = _released_notes(plan) if plan.single else _recommended_notes(plan, groups)
    if plan.probe in PROBE_NOTES:
        notes.append(PROBE_NOTES[plan.probe])
    if plan.weighing.sample is not None:
        notes.append("Training rows count by their sample weights; scores count each row once.")
    if plan.class_weight is not None:
        notes.append(f"Classes are weighted in training ({plan.class_weight}).")
    if permutations:
        part = "of training and test rows" if plan.single else "of each fold"
        notes.append(
            f"Shuffled labels: {permutations} times the labels {part} are permuted among "
            "them, in training and test alike, and probed in the same way."
        )
    off = [names[i] for i in range(len(names)) if i not in set(layers)]
    if off:
        notes.append(
            f"{', '.join(off)} {'is' if len(off) == 1 else 'are'} on the curve and no layer: the "
            "jump and converging points leave it out. Onset may lie at the embedding."
        )
    return notes


def _recommended_notes(plan: Plan, groups: str | None) -> list[str]:
    concept, strengths = plan.concept, plan.strengths
    held = "rows at random"
    if concept.groups is not None:
        held = f"whole groups{f' of {groups!r}' if groups else ''} ({concept.n_groups:,} of them)"
    notes = [
        f"{len(plan.splits)} folds, stratified by class, hold out {held}; each row is answered by "
        "the probe that did not see it.",
        FEATURES.get(
            plan.probe,
            "Features are standardised with the mean and deviation of the training rows.",
        ),
    ]
    if plan.probe not in PENALISED:
        return notes
    if len(strengths) > 1:
        loss = "squared error" if plan.probe == "ridge" else "log loss"
        notes.append(
            f"The penalty is chosen among {len(strengths)} strengths (C = {strengths[0]:g} to "
            f"{strengths[-1]:g}) by the {loss} of a cross-validation inside the training rows."
        )
    else:
        notes.append(f"The penalty is fixed at C = {min(strengths):g}.")
    return notes


def _released_notes(plan: Plan) -> list[str]:
    train, test = plan.splits[0]
    y, classes = plan.concept.y, plan.concept.classes
    notes = [
        f"Rows stand class by class ({', then '.join(classes)}); one shuffled split with seed 42, "
        f"neither stratified nor grouped, trains on {len(train):,} rows and tests on "
        f"{len(test):,}, of which {int((y[test] == len(classes) - 1).sum()):,} are "
        f"{classes[-1]!r}.",
        "Features are not scaled, and nothing is tuned.",
    ]
    if len(classes) == 2:
        notes.append(f"Class {classes[1]!r} counts as 1 in F1 and AUC; `positive` changes that.")
    if plan.probe == "logistic":
        notes.append("The probe is scikit-learn's LogisticRegression at its defaults (C = 1).")
    return notes


def matched_rows(plan: Plan, groups: str | None) -> str | None:
    """A sentence on groups that hold more than one class, or None."""
    if plan.concept.groups is None:
        return None
    unit = f"groups of {groups!r}" if groups else "groups"
    return leakage(plan.concept.y, plan.concept.groups, unit=unit)


def warnings_of(
    plan: Plan, table: "pd.DataFrame", data: dict[str, Any], groups: str | None, pool: str | None
) -> list[str]:
    """What splits between training and test though it belongs together."""
    found, concept = [], plan.concept
    if plan.single and concept.groups is not None:
        unit = f"groups of {groups!r}" if groups else "groups"
        found.append(leakage(concept.y, concept.groups, plan.fold, unit=unit))
    name = data.get("group")
    if concept.groups is None and name and name in table.columns:
        ids = table[name].iloc[concept.rows].astype(str).to_numpy()
        fold = plan.fold if plan.single else None
        sentence = leakage(concept.y, ids, fold, unit=f"groups of {name!r}")
        if sentence and not plan.single:
            sentence += f" Give groups={name!r}."
        found.append(sentence)
    if pool == "all" and "document" in table.columns:
        documents = np.unique(table["document"].iloc[concept.rows], return_inverse=True)[1]
        split = _split(documents, plan.fold)
        if split:
            found.append(
                f"tokens of {split:,} of {documents.max() + 1:,} documents are in training and "
                "test at once, and tokens of a text are alike: scores are too high; give "
                "groups='document'."
            )
    return [sentence[0].upper() + sentence[1:] for sentence in found if sentence]


def suspects(table: "pd.DataFrame", concept: "Concept", skip: Sequence[str | None]) -> list[str]:
    """Columns that look as if they matched rows: small groups, most of which mix classes."""
    if concept.groups is not None:
        return []
    found = []
    for name in table.columns:
        ids = np.unique(table[name].iloc[concept.rows].astype(str), return_inverse=True)[1]
        groups = int(ids.max()) + 1
        if name in skip or not 2 <= len(ids) / groups <= 20 or groups < 10:
            continue
        pairs = np.unique(np.stack([ids, concept.y]), axis=1)[0]
        if (np.bincount(pairs, minlength=groups) > 1).mean() > 0.5:
            found.append(str(name))
    return found


def below_chance(
    base: float,
    arrays: "dict[str, Any]",
    words: "dict[str, Any]",
    names: Sequence[str],
    points: "dict[str, Any]",
    matched: Sequence[str],
) -> list[str]:
    """Warnings where numbers say that rows are matched, or that a point rests on noise."""
    found = []
    high = arrays["accuracy_high"]
    low = [name for name, value in zip(names, high, strict=True) if value < base]
    controls = words.get("bag_of_words_high")
    if low or (controls is not None and controls < base):
        what = f"the probe at {', '.join(low)}" if low else "the bag of words"
        advice = (
            f"group by {' or '.join(repr(m) for m in matched[:2])}."
            if matched
            else "group the rows that belong together."
        )
        found.append(
            f"{what[0].upper()}{what[1:]} is below the majority class: rows that are matched seem "
            f"to lie in training and test; {advice}"
        )
    jump = points.get("jump_hookpoint")
    if jump is not None and not arrays["accuracy_low"][list(names).index(jump)] > base:
        found.append(
            f"The jump point lies at {jump}, where accuracy is not above the majority class: it "
            "rests on noise."
        )
    return found


def _split(ids: np.ndarray, fold: np.ndarray) -> int:
    """How many ids lie in more than one fold."""
    pairs = np.unique(np.stack([ids, fold]), axis=1)[0]
    return int((np.bincount(pairs) > 1).sum())


def provenance_of(
    store: "ActivationStore",
    random_model: "ActivationStore | None",
    seed: int,
    device: torch.device,
) -> dict[str, Any]:
    """Model, data, pooling, dtype, seed and versions."""
    manifest = store.manifest
    model, data = manifest.get("model") or {}, manifest.get("data") or {}
    found = {
        "model": {k: model[k] for k in ("spec", "class", "fingerprint") if k in model},
        "data": {k: data[k] for k in ("name", "hash", "n", "notes") if k in data},
        "pool": manifest.get("pool"),
        "dtype": manifest.get("dtype"),
        "seed": seed,
        "device": device.type,
        "versions": versions(),
    }
    if random_model is not None:
        other = random_model.manifest.get("model") or {}
        found["random_model"] = {k: other[k] for k in ("spec", "fingerprint") if k in other}
    return found
