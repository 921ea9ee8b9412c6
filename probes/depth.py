"""Concept depth: at which layer can a linear probe read a concept from the activations?"""

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t as student_t

from interp.errors import DataError, LayerNotFound, ParameterError, closest
from interp.runs import versions
from probes.concepts import Concept, concept_name, first_rows, read_concept, text_column_of
from probes.controls import bag_of_words, majority, shuffled_labels, stratified
from probes.curves import CURVES, ConceptDepth
from probes.points import converging_point, jump_point
from probes.scores import area_under_curve, bootstrap_weights, f1_score, weighted_interval
from probes.splits import grouped_folds, leakage
from probes.sweep import STRENGTHS, held_out

if TYPE_CHECKING:
    import pandas as pd

    from interp.store import ActivationStore

__all__ = ["concept_depth"]

NO_LAYERS = ("embed", "final_norm")
"""Roles that are on the curve and are not layers: jump and converging points leave them out."""

ROLES = ("resid_pre", "resid_post", "attn_out", "head_out", "mlp_in", "mlp_act", "mlp_out")
"""Roles that have a hook point a layer."""

BOOTSTRAP_DRAWS = 1000


def concept_depth(
    store: "ActivationStore",
    label: str = "label",
    groups: str | ArrayLike | None = None,
    *,
    hookpoints: Sequence[str] | None = None,
    text_column: str | None = None,
    folds: int = 5,
    permutations: int = 10,
    strengths: float | Sequence[float] = STRENGTHS,
    seed: int = 0,
    device: str | torch.device | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> ConceptDepth:
    """How well linear probes read a concept at each hook point of a store.

    Each fold's rows are answered by a logistic probe trained on the other folds. Features are
    standardised, and the strength of the penalty is chosen, on training rows alone. The controls
    use the same folds; shuffled labels go through the same choices as the real ones. One hook
    point's matrix is in memory at a time.

    Parameters
    ----------
    store : activations and the table of their rows.
    label : column of the classes: bools, numbers with few values, or texts. Rows without one are
        left out.
    groups : column, or one entry a row: rows of a group are never in training and test at once.
        None splits rows at random, stratified by class.
    hookpoints : which, in the order given; all of the store by default.
    text_column : texts for the bag of words; the one that the store names by default.
    folds : at least 2; with 2, ``strengths`` must be one number.
    permutations : label shuffles; 0 leaves the control out.
    strengths : values of C to choose from, or one to use.
    seed : of the folds, the shuffles and the bootstrap.
    device : where to compute; CUDA where there is a device by default.
    progress : called with (hook points done, of how many, the next one's name).

    Raises
    ------
    DataError
        A column is missing, the labels are no classes, an activation is not finite, or the rows
        or groups are too few to split.
    LayerNotFound
        The store has no such hook point.
    ParameterError
        A setting is outside what it allows.

    Notes
    -----
    Source: Concept Depth, arXiv 2404.07066. Differs: grouped stratified cross-validation for a
    random 60/40 split, standardised features, a chosen strength, intervals and controls; and
    the embedding is on the curve. The paper probes L layers and no embedding, so the jump and
    converging points are taken over ``layers`` alone, as are those of the result.
    """
    names = _hookpoints(store, hookpoints)
    values = _strengths(strengths, folds)
    if permutations < 0:
        raise ParameterError(f"permutations must be 0 or more; got {permutations}.")
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    table, data = store.rows, store.manifest.get("data") or {}
    texts = text_column_of(table, text_column, data.get("text_column"))
    concept = read_concept(table, label, groups)
    named = np.asarray(concept.classes)[concept.y]  # so that an error can name the class
    fold = grouped_folds(named, concept.groups, folds=folds, seed=seed)
    labels = concept.y[None]
    if permutations:
        noise = shuffled_labels(
            concept.y, fold, concept.groups, permutations=permutations, seed=seed
        )
        labels = np.concatenate([labels, noise])
    weights = bootstrap_weights(concept.units, draws=BOOTSTRAP_DRAWS, seed=seed)

    curves: dict[str, list[float]] = {name: [] for name in CURVES}
    strength, exact, constant = [], True, []
    for i, name in enumerate(names):
        if progress is not None:
            progress(i, len(names), name)
        X = _matrix(store, name, concept.rows).to(where)
        if not (X != X[0]).any():
            constant.append(name)
        found = held_out(X, labels, fold, len(concept.classes), values)
        del X
        for key, value in _scores(found, labels, fold, concept, weights).items():
            curves[key].append(value)
        strength.append(found.strength[0])
        exact &= found.converged
    if progress is not None:
        progress(len(names), len(names), "")

    reasons: dict[str, str] = {}
    arrays: dict[str, Any] = {key: np.asarray(curve) for key, curve in curves.items()}
    layers = _layers(names)
    points = _points(arrays["accuracy"], names, layers, reasons)
    words = _words(store, table, texts, concept, fold, weights, reasons)
    if np.isnan(arrays["auc"]).any():
        reasons["auc"] = "no fold's held-out rows hold a class beside another."
    if permutations < 2:
        for key in ("shuffled_low", "shuffled_high"):
            reasons[key] = "a range needs at least two permutations."
    if not permutations:
        reasons["shuffled"] = reasons["selectivity"] = "no permutations were asked for."
    shown = groups if isinstance(groups, str) else None
    matched = None
    if concept.groups is not None:
        unit = f"groups of {shown!r}" if shown else "groups"
        matched = leakage(concept.y, concept.groups, unit=unit)
    notes = [*concept.notes, *_notes(concept, shown, folds, values, permutations, names, layers)]
    notes += [matched + " Here whole groups are held out."] if matched else []
    notes += _ungrouped(concept, table, data)
    notes += [f"All rows are equal at {', '.join(constant)}: nothing can be read."] * bool(constant)
    if not exact:
        notes.append("Some probes stopped before the optimum; their scores are as found.")
    accuracy = arrays["accuracy"]
    return ConceptDepth(
        name=concept_name(str(data.get("name") or "data"), label),
        n=len(concept.y),
        provenance=_provenance(store, seed, where),
        reasons=reasons,
        label=label,
        groups=shown,
        about=str((data.get("about") or {}).get(label, "")),
        hookpoints=names,
        layers=layers,
        classes=concept.classes,
        class_counts=dict(zip(concept.classes, np.bincount(concept.y).tolist(), strict=True)),
        n_groups=concept.n_groups,
        folds=folds,
        seed=seed,
        permutations=permutations,
        strengths=values,
        strength=np.asarray(strength),
        majority=majority(concept.y, fold),
        stratified=stratified(concept.y, fold),
        peak=float(accuracy.max()),
        peak_hookpoint=names[int(accuracy.argmax())],
        leakage=matched,
        interval=(
            f"95 % percentile bootstrap, {BOOTSTRAP_DRAWS:,} draws over "
            f"{'rows' if concept.groups is None else 'groups'}, seed {seed}; the probes are not "
            "fitted anew. Shuffled labels: 95 % prediction range for one more shuffle."
        ),
        notes=tuple(notes),
        examples=first_rows(table, [texts, label, shown]),
        **arrays,
        **points,
        **words,
    )


def _hookpoints(store: "ActivationStore", asked: Sequence[str] | None) -> tuple[str, ...]:
    known = tuple(store.hookpoints)
    if asked is None:
        return known
    asked = (asked,) if isinstance(asked, str) else tuple(asked)
    for name in asked:
        if name not in known:
            hint = closest(name, known) or f"it holds {', '.join(known)}."
            raise LayerNotFound(f"the store has no hook point {name!r}; {hint}")
    if not asked:
        raise ParameterError("hookpoints is empty; name at least one, or leave it out for all.")
    return asked


def _strengths(strengths: float | Sequence[float], folds: int) -> tuple[float, ...]:
    values = (strengths,) if isinstance(strengths, int | float) else tuple(strengths)
    if not values or any(not (np.isfinite(v) and v > 0) for v in values):
        raise ParameterError(f"strengths must be positive numbers; got {strengths!r}.")
    if len(values) > 1 and folds == 2:
        raise ParameterError(
            "two folds leave none to choose a strength in; give three folds or more, or one "
            "strength."
        )
    return tuple(sorted(float(v) for v in values))


def _matrix(store: "ActivationStore", name: str, rows: NDArray) -> torch.Tensor:
    """Rows [n, width] of a hook point in float64; heads lie side by side."""
    stored = store[name]
    everything = len(rows) == len(stored)
    X = (stored[:] if everything else stored[rows]).flatten(1).double()
    bad = ~torch.isfinite(X).all(1)
    if bad.any():
        row = int(rows[int(bad.nonzero()[0, 0])])
        raise DataError(
            f"the activations of row {row} at {name} are not finite ({int(bad.sum()):,} such "
            "rows); capture them in a wider dtype, or leave the rows out."
        )
    return X


def _scores(
    found: Any, labels: NDArray, fold: NDArray, concept: Concept, weights: NDArray
) -> dict[str, float]:
    """The numbers of one hook point, by the names in `CURVES`."""
    y, k = concept.y, len(concept.classes)
    right = found.predicted == labels
    low, high = weighted_interval(right[0], concept.units, weights)
    accuracy, shuffled = float(right[0].mean()), right[1:].mean(1)
    mean, spread = float("nan"), float("nan")
    if len(shuffled):
        mean = float(shuffled.mean())
    if len(shuffled) > 1:
        count = len(shuffled)
        deviation = shuffled.std(ddof=1) * np.sqrt(1 + 1 / count)
        spread = float(student_t.ppf(0.975, count - 1) * deviation)
    margin = found.margin[0]
    return {
        "accuracy": accuracy,
        "accuracy_low": low,
        "accuracy_high": high,
        "f1": f1_score(y, found.predicted[0], k),
        "auc": area_under_curve(y, margin[0] if k == 2 else margin, fold),
        "shuffled": mean,
        "shuffled_low": max(0.0, mean - spread) if spread == spread else float("nan"),
        "shuffled_high": min(1.0, mean + spread) if spread == spread else float("nan"),
        "selectivity": accuracy - mean,
    }


def _layers(names: Sequence[str]) -> tuple[int, ...]:
    """Indexes of the hook points that count as layers."""
    return tuple(i for i, n in enumerate(names) if n.split(":")[0].split(".")[-1] not in NO_LAYERS)


def _points(
    accuracy: NDArray, names: Sequence[str], layers: Sequence[int], reasons: dict[str, str]
) -> dict[str, Any]:
    """Jump and converging points over the layers, and the hook points where they lie."""
    out: dict[str, Any] = dict.fromkeys(
        ("jump_point", "jump_hookpoint", "converging_point", "converging_hookpoint")
    )
    roles = {m[1] for i in layers if (m := re.search(rf"\b({'|'.join(ROLES)})\.\d+", names[i]))}
    reason = ""
    if len(layers) < 2:
        reason = f"it needs two layers or more; {len(layers)} of the hook points are layers."
    elif len(roles) > 1:
        reason = f"the hook points mix roles ({', '.join(sorted(roles))}): there is no one depth."
    if reason:
        reasons |= dict.fromkeys(("jump_point", "converging_point"), reason)
        return out
    d, alpha = len(layers), accuracy[list(layers)]
    jump, converging = jump_point(alpha), converging_point(alpha)
    if jump is None:
        reasons["jump_point"] = "accuracy rises by less than a tenth at every step."
    else:
        out |= {"jump_point": jump, "jump_hookpoint": names[layers[round(jump * d)]]}
    if converging is not None:  # its layers count from 1
        at = layers[min(round(converging * d), d) - 1]
        out |= {"converging_point": converging, "converging_hookpoint": names[at]}
    return out


def _words(
    store: "ActivationStore",
    table: "pd.DataFrame",
    column: str | None,
    concept: Concept,
    fold: NDArray,
    weights: NDArray,
    reasons: dict[str, str],
) -> dict[str, Any]:
    """Accuracy of the bag of words with its interval, or None and the reason."""
    keys = ("bag_of_words", "bag_of_words_low", "bag_of_words_high")
    if store.manifest.get("pool") == "all":
        reasons["bag_of_words"] = "rows are single positions, which are no texts."
    elif column is None:
        reasons["bag_of_words"] = "the rows have no text."
    else:
        texts = table[column].iloc[concept.rows].fillna("").astype(str).tolist()
        try:
            right = bag_of_words(texts, concept.y, fold) == concept.y
        except DataError as error:
            reasons["bag_of_words"] = str(error)
        else:
            bounds = weighted_interval(right, concept.units, weights)
            return dict(zip(keys, (float(right.mean()), *bounds), strict=True))
    return dict.fromkeys(keys)


def _notes(
    concept: Concept,
    groups: str | None,
    folds: int,
    strengths: Sequence[float],
    permutations: int,
    names: Sequence[str],
    layers: Sequence[int],
) -> list[str]:
    """What was done to the data, in sentences."""
    held = "rows at random"
    if concept.groups is not None:
        held = f"whole groups{f' of {groups!r}' if groups else ''} ({concept.n_groups:,} of them)"
    notes = [
        f"{folds} folds, stratified by class, hold out {held}; each row is answered by the probe "
        "that did not see it.",
        "Features are standardised with the mean and deviation of the training rows.",
    ]
    if len(strengths) > 1:
        notes.append(
            f"The penalty is chosen among {len(strengths)} strengths (C = {strengths[0]:g} to "
            f"{strengths[-1]:g}) by the log loss of a cross-validation inside the training rows."
        )
    else:
        notes.append(f"The penalty is fixed at C = {strengths[0]:g}.")
    if permutations:
        notes.append(
            f"Shuffled labels: {permutations} times the labels of each fold are permuted among its "
            "rows, in training and test alike, and probed in the same way."
        )
    off = [names[i] for i in range(len(names)) if i not in set(layers)]
    if off:
        notes.append(
            f"{', '.join(off)} {'is' if len(off) == 1 else 'are'} on the curve and no layer: the "
            "jump and converging points leave it out."
        )
    return notes


def _ungrouped(concept: Concept, table: "pd.DataFrame", data: dict[str, Any]) -> list[str]:
    """A warning where rows are split at random though the data names groups that match them."""
    name = data.get("group")
    if concept.groups is not None or not name or name not in table.columns:
        return []
    ids = table[name].iloc[concept.rows].astype(str).to_numpy()
    sentence = leakage(concept.y, ids, unit=f"groups of {name!r}")
    return [f"Careful: {sentence} Give groups={name!r}."] if sentence else []


def _provenance(store: "ActivationStore", seed: int, device: torch.device) -> dict[str, Any]:
    manifest = store.manifest
    model, data = manifest.get("model") or {}, manifest.get("data") or {}
    return {
        "model": {k: model[k] for k in ("spec", "class", "fingerprint") if k in model},
        "data": {k: data[k] for k in ("name", "hash", "n", "notes") if k in data},
        "pool": manifest.get("pool"),
        "dtype": manifest.get("dtype"),
        "seed": seed,
        "device": device.type,
        "versions": versions(),
    }
