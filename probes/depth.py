"""Concept depth: at which layer can a linear probe read a concept from the activations?"""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t as student_t

from interp.errors import DataError, ParameterError, ShapeError
from interp.live import live
from probes.account import (
    below_chance,
    matched_rows,
    notes_of,
    provenance_of,
    suspects,
    warnings_of,
)
from probes.concepts import concept_name, first_rows, text_column_of
from probes.controls import bag_of_words, majority, stratified
from probes.curves import CURVES, MORE_CURVES, ConceptDepth
from probes.onset import LEVEL, depths_of, first_onset, holm, null_of, onset_interval
from probes.plan import BOOTSTRAP_DRAWS, Plan, choose_hookpoints, make_plan, matrix
from probes.points import converging_point, jump_point
from probes.scores import (
    accuracy_in_draws,
    area_interval,
    area_under_curve,
    calibration_error,
    calibration_interval,
    f1_interval,
    f1_score,
    hits_of_groups,
    weighted_interval,
)
from probes.sweep import STRENGTHS, HeldOut

if TYPE_CHECKING:
    import pandas as pd

    from interp.store import ActivationStore

__all__ = ["concept_depth"]

NO_LAYERS = ("embed", "final_norm")
"""Roles that are on the curve and are not layers: jump and converging points leave them out."""

ROLES = ("resid_pre", "resid_post", "attn_out", "head_out", "mlp_in", "mlp_act", "mlp_out")
"""Roles that have a hook point a layer."""

NAN = float("nan")


def concept_depth(
    store: "ActivationStore",
    label: str = "label",
    groups: str | ArrayLike | Literal[False] | None = None,
    *,
    mode: str = "recommended",
    probe: str = "logistic",
    hookpoints: Sequence[str] | None = None,
    random_model: "ActivationStore | None" = None,
    random_features: bool = True,
    positive: str | None = None,
    sample_weight: str | ArrayLike | None = None,
    class_weight: str | Mapping[Any, float] | None = None,
    prompt: str | None = None,
    text_column: str | None = None,
    folds: int = 5,
    permutations: int = 10,
    strengths: float | Sequence[float] = STRENGTHS,
    seed: int = 0,
    device: str | torch.device | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> ConceptDepth:
    """How well linear probes read a concept at each hook point of a store.

    In the mode ``recommended`` each fold's rows are answered by a probe trained on the other
    folds. Features are standardised, and the strength of the penalty is chosen, on training rows
    alone. ``released_code`` does what the code of the paper does: rows class by class, one 60/40
    split with seed 42, scikit-learn's LogisticRegression at its defaults on features as they are.
    ``paper`` is the same on data with the paper's prompts (`interp.prompts`). The controls use the
    same splits and go through the same choices. One hook point's matrix is in memory at a time.

    Parameters
    ----------
    store : activations and the table of their rows.
    label : column of the classes: bools, numbers with few values, or texts; where rows are single
        positions, also a list a document with an entry a token. Rows without one are left out.
    groups : column, or one entry a row: rows of a group are never in training and test at once.
        None splits rows at random, stratified by class, and where rows are single positions holds
        whole documents together; False splits those at random too. The released modes group
        nothing, and read groups to warn and to draw intervals.
    mode : ``recommended``, ``released_code`` or ``paper``.
    probe : ``logistic``, ``ridge``, ``lda``, ``difference_of_means``, ``nearest_centroid`` or
        ``random_forest``; the released modes have the first and the last.
    hookpoints : which, in the order given; all of the store by default, and in the released modes
        ``mlp_in.*``, the norm before the MLP, where the store has it.
    random_model : the same rows captured from the same architecture with random weights.
    random_features : whether to probe Gaussian noise of the same width too.
    positive : of two classes, the one that counts as 1; the last in rising order by default.
    sample_weight : column, or one number a row, 0 or more: how training rows count.
    class_weight : None, ``"balanced"``, or {class: weight}, for training rows.
    prompt : what was put around the texts, for the record; what the store says by default.
    text_column : texts for the bag of words; the one that the store names by default.
    folds : at least 2; with 2, ``strengths`` must be one number. Recommended mode only.
    permutations : label shuffles; 0 leaves the control out. Onset needs 2 or more.
    strengths : values of C to choose from, or one to use. Recommended mode only.
    seed : of the folds, the shuffles, the noise and the bootstrap.
    device : where to compute; CUDA where there is a device by default.
    progress : called with (hook points done, of how many, the next one's name).

    Raises
    ------
    DataError
        A column is missing, the labels are no classes, an activation is not finite, or the rows
        or groups are too few to split.
    LayerNotFound
        The store, or the random model's, has no such hook point.
    ParameterError
        A setting is outside what it allows.
    ShapeError
        Groups, weights or the random model's rows do not fit the rows.

    Notes
    -----
    Source: Concept Depth, arXiv 2404.07066. Differs in the recommended mode: grouped stratified
    cross-validation for a random 60/40 split, standardised features, a chosen strength, intervals
    and controls; and the embedding is on the curve. The paper probes L layers and no embedding, so
    the jump and converging points are taken over ``layers`` alone, as are those of the result.
    """
    names = choose_hookpoints(store.hookpoints, hookpoints, mode)
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    table, data, pool = store.rows, store.manifest.get("data") or {}, store.manifest.get("pool")
    texts = text_column_of(table, text_column, data.get("text_column"))
    if groups is None and pool == "all" and "document" in table.columns:
        groups = "document"
    plan = make_plan(
        table, label, None if groups is False else groups,
        mode=mode, probe=probe, positive=positive, folds=folds, permutations=permutations,
        strengths=strengths, sample_weight=sample_weight, class_weight=class_weight, seed=seed,
    )  # fmt: skip
    if random_model is not None:
        _same_rows(table, random_model, names, label)
    concept, noise = plan.concept, _Noise(plan, seed, where)
    curves: dict[str, list[float]] = {name: [] for name in (*CURVES, *MORE_CURVES)}
    strength, directions, constant, right, shuffles = [], {}, [], [], []
    stopped = 0
    progress = live(progress, f"probing {label}")
    for i, name in enumerate(names):
        if progress is not None:
            progress(i, len(names), name)
        X = matrix(store, name, concept.rows).to(where)
        width = X.shape[1]
        if not (X != X[0]).any():
            constant.append(name)
        found = plan.answers(X, plan.labels, whole=True)
        del X
        if found.coef is not None:
            directions[name] = found.coef.astype(np.float32)
        hit = found.predicted == plan.labels[:, plan.scored]
        scores = _scores(found, hit, plan)
        scores |= noise.scores(width) if random_features else _missing("random_features")
        scores |= _missing("random_model")
        if random_model is not None:
            other = matrix(random_model, name, concept.rows).to(where)
            scores |= _control("random_model", plan.answers(other, plan.labels[:1]), plan)
            del other
        for key, value in scores.items():
            curves[key].append(value)
        right.append(hit[0])
        shuffles.append(hit[1:].mean(1))
        strength.append(found.strength[0])
        stopped += not found.converged
    if progress is not None:
        progress(len(names), len(names), "")

    reasons: dict[str, str] = {}
    layers = _layers(names)
    arrays: dict[str, Any] = {key: np.asarray(curve) for key, curve in curves.items() if curve}
    if random_model is None:
        arrays |= dict.fromkeys(k for k in arrays if k.startswith("random_model"))
        reasons["random_model"] = "no store of a random-initialised model was given."
    if not random_features:
        arrays |= dict.fromkeys(k for k in arrays if k.startswith("random_features"))
        reasons["random_features"] = "they were not asked for."
    points = _points(arrays["accuracy"], names, layers, reasons)
    hits, sizes = hits_of_groups(np.asarray(right), plan.ids)
    onset = _onset(hits, sizes, np.asarray(shuffles), names, layers, plan, reasons)
    words = _words(pool, table, texts, plan, reasons)
    _say_why(arrays, permutations, probe, reasons)
    shown = groups if isinstance(groups, str) else None
    matched = matched_rows(plan, shown)
    notes = [*concept.notes, *notes_of(plan, shown, permutations, names, layers)]
    if matched and not plan.single:
        notes.append(f"{matched[0].upper()}{matched[1:]} Here whole groups are held out.")
    warnings = warnings_of(plan, table, data, shown, pool)
    if plan.single and not all("mlp_in" in n for n in names):
        warnings.append(
            "The released recipe reads the norm before the MLP (mlp_in.*); these hook points are "
            "others."
        )
    if constant:
        warnings.append(f"All rows are equal at {', '.join(constant)}: nothing can be read.")
    if stopped:
        warnings.append(
            f"At {stopped} of {len(names)} hook points some probes stopped before the optimum; "
            "their scores are as found."
        )
    accuracy = arrays["accuracy"]
    base = majority(concept.y, plan.fold, plan.scored)
    warnings += below_chance(
        base, arrays, words, names, points, suspects(table, concept, [texts, label])
    )
    over = "rows" if concept.groups is None else "groups"
    return ConceptDepth(
        name=concept_name(str(data.get("name") or "data"), label),
        n=len(concept.y),
        mode=mode,
        provenance=provenance_of(store, random_model, seed, where),
        reasons=reasons,
        probe=probe,
        prompt=prompt if prompt is not None else data.get("prompt"),
        label=label,
        groups=shown,
        about=str((data.get("about") or {}).get(label, "")),
        hookpoints=names,
        layers=layers,
        classes=concept.classes,
        class_counts=dict(zip(concept.classes, np.bincount(concept.y).tolist(), strict=True)),
        n_groups=concept.n_groups,
        folds=len(plan.splits),
        seed=seed,
        permutations=permutations,
        strengths=plan.strengths,
        strength=np.asarray(strength),
        majority=base,
        stratified=stratified(concept.y, plan.fold, plan.scored),
        peak=float(accuracy.max()),
        peak_hookpoint=names[int(accuracy.argmax())],
        leakage=matched,
        interval=(
            f"95 % percentile bootstrap, {BOOTSTRAP_DRAWS:,} draws over {over}, seed {seed}; the "
            "probes are not fitted anew. Shuffled labels: 95 % prediction range for one more "
            f"shuffle. Selectivity and onset: Student's t on the shuffles, at {LEVEL:g} over "
            "all hook points together (Bonferroni for the interval, Holm for the onset)."
        ),
        notes=tuple(notes),
        warnings=tuple(warnings),
        examples=first_rows(table, [texts, label, shown]),
        directions=directions,
        hits=hits,
        group_sizes=sizes,
        rows_hash=_rows_hash(plan),
        **{**arrays, **onset, **points, **words},
    )


def _same_rows(
    table: "pd.DataFrame", other: "ActivationStore", names: Sequence[str], label: str
) -> None:
    """Refuse a random model's store that is not of the same rows and hook points."""
    choose_hookpoints(other.hookpoints, names, "recommended")
    rows = other.rows
    if len(rows) != len(table):
        raise ShapeError(
            f"random_model has {len(rows):,} rows and the store {len(table):,}; capture the same "
            "data from both."
        )
    if label in rows.columns and list(map(str, rows[label])) != list(map(str, table[label])):
        raise DataError(f"random_model has other values of {label!r}; capture the same data.")


class _Noise:
    """Probes on Gaussian features, once for each width."""

    def __init__(self, plan: Plan, seed: int, device: torch.device) -> None:
        self.plan, self.seed, self.device = plan, seed, device
        self.known: dict[int, dict[str, float]] = {}

    def scores(self, width: int) -> dict[str, float]:
        if width not in self.known:
            n, rng = len(self.plan.concept.y), np.random.default_rng([self.seed, width])
            X = torch.from_numpy(rng.standard_normal((n, width), dtype=np.float32))
            found = self.plan.answers(X.to(self.device), self.plan.labels[:1])
            self.known[width] = _control("random_features", found, self.plan)
        return self.known[width]


def _control(name: str, found: HeldOut, plan: Plan) -> dict[str, float]:
    """Accuracy of a control with its interval."""
    right = found.predicted[0] == plan.labels[0, plan.scored]
    low, high = weighted_interval(right, plan.ids, plan.draws)
    return {name: float(right.mean()), f"{name}_low": low, f"{name}_high": high}


def _missing(name: str) -> dict[str, float]:
    return dict.fromkeys((name, f"{name}_low", f"{name}_high"), NAN)


def _scores(found: HeldOut, hit: NDArray, plan: Plan) -> dict[str, float]:
    """The numbers of one hook point."""
    y, k = plan.labels[0, plan.scored], len(plan.concept.classes)
    fold, ids, draws = plan.fold[plan.scored], plan.ids, plan.draws
    accuracy, shuffled = float(hit[0].mean()), hit[1:].mean(1)
    mean, spread = NAN, NAN
    if len(shuffled):
        mean = float(shuffled.mean())
    if len(shuffled) > 1:
        count = len(shuffled)
        deviation = shuffled.std(ddof=1) * np.sqrt(1 + 1 / count)
        spread = float(student_t.ppf(0.975, count - 1) * deviation)
    margin = found.margin[0, 0] if k == 2 else found.margin[0]
    scores = {
        "accuracy": accuracy,
        "f1": f1_score(y, found.predicted[0], k),
        "auc": area_under_curve(y, margin, fold),
        "calibration_error": NAN,
        "shuffled": mean,
        "shuffled_low": max(0.0, mean - spread) if spread == spread else NAN,
        "shuffled_high": min(1.0, mean + spread) if spread == spread else NAN,
        "selectivity": accuracy - mean,
    }
    bounds = {
        "accuracy": weighted_interval(hit[0], ids, draws),
        "f1": f1_interval(y, found.predicted[0], k, ids, draws),
        "auc": area_interval(y, margin, fold, ids, draws),
        "calibration_error": (NAN, NAN),
    }
    if found.probability is not None:
        scores["calibration_error"] = calibration_error(y, found.probability)
        bounds["calibration_error"] = calibration_interval(y, found.probability, ids, draws)
    for name, (low, high) in bounds.items():
        scores |= {f"{name}_low": low, f"{name}_high": high}
    return scores


def _layers(names: Sequence[str]) -> tuple[int, ...]:
    """Indexes of the hook points that count as layers."""
    return tuple(i for i, n in enumerate(names) if _role(n) not in NO_LAYERS)


def _role(name: str) -> str:
    return name.split(":")[0].split(".")[-1]


def _one_depth(names: Sequence[str], layers: Sequence[int]) -> str:
    """Why the layers are no one sequence; the empty string where they are."""
    roles = {m[1] for i in layers if (m := re.search(rf"\b({'|'.join(ROLES)})\.\d+", names[i]))}
    if len(roles) > 1:
        return f"the hook points mix roles ({', '.join(sorted(roles))}): there is no one depth."
    return "" if layers else "none of the hook points is a layer."


def _points(
    accuracy: NDArray, names: Sequence[str], layers: Sequence[int], reasons: dict[str, str]
) -> dict[str, Any]:
    """Variation rates, jump and converging points over the layers, and where they lie."""
    out: dict[str, Any] = dict.fromkeys(
        (
            "jump_point", "jump_hookpoint", "converging_point", "converging_hookpoint",
            "converging_literal",
        )
    )  # fmt: skip
    rate = out["variation_rate"] = np.full(len(names), NAN)
    reason = _one_depth(names, layers)
    if len(layers) < 2:
        reason = f"it needs two layers or more; {len(layers)} of the hook points are layers."
    if reason:
        reasons |= dict.fromkeys(
            ("jump_point", "converging_point", "converging_literal", "variation_rate"), reason
        )
        return out
    d, alpha = len(layers), accuracy[list(layers)]
    with np.errstate(divide="ignore", invalid="ignore"):
        rate[list(layers[1:])] = alpha[1:] / alpha[:-1]
    jump, converging = jump_point(alpha), converging_point(alpha)
    out["converging_literal"] = converging_point(alpha, rule="literal")
    if out["converging_literal"] is None:
        reasons["converging_literal"] = "accuracy changes by 3 % or more at every step."
    if jump is None:
        reasons["jump_point"] = "accuracy rises by less than a tenth at every step."
    else:
        out |= {"jump_point": jump, "jump_hookpoint": names[layers[round(jump * d)]]}
    if converging is not None:  # its layers count from 1
        at = layers[min(round(converging * d), d) - 1]
        out |= {"converging_point": converging, "converging_hookpoint": names[at]}
    return out


def _rows_hash(plan: Plan) -> str:
    """What two results have in common that answer the same rows in the same folds."""
    concept = plan.concept
    digest = hashlib.sha256()
    for part in (concept.rows, concept.y, plan.fold, plan.scored, plan.ids):
        digest.update(f"{len(part)} ".encode() + np.asarray(part, dtype="<i8").tobytes())
    return digest.hexdigest()


def _onset(
    hits: NDArray,
    sizes: NDArray,
    shuffles: NDArray,
    names: Sequence[str],
    layers: Sequence[int],
    plan: Plan,
    reasons: dict[str, str],
) -> dict[str, Any]:
    """Selectivity's intervals, p-values, and the first place that beats its control.

    ``hits`` [h, groups] and ``shuffles`` [h, permutations] are of all hook points.
    """
    rows = int(sizes.sum())
    accuracy, drawn = hits.sum(1) / rows, accuracy_in_draws(hits, sizes, plan.draws)
    null = null_of(shuffles, drawn.std(0), rows)
    low, high = null.interval(accuracy)
    p = null.p_values(accuracy)
    adjusted = np.full(len(names), NAN)
    out: dict[str, Any] = {
        "selectivity_low": low,
        "selectivity_high": high,
        "p_value": p,
        "p_adjusted": adjusted,
        "null_spread": null.spread,
        **dict.fromkeys(("onset_depth", "onset_hookpoint", "onset_low", "onset_high")),
    }
    reason = _one_depth(names, layers)
    if shuffles.shape[1] < 2:
        reason = "it needs two permutations or more."
    if reason:
        reasons["onset_depth"] = reason
        return out
    places = sorted({*layers, *(i for i, n in enumerate(names) if _role(n) == "embed")})
    adjusted[places] = holm(p[places])
    first = first_onset(adjusted[places])
    if first is None:
        reasons["onset_depth"] = (
            f"no layer beats shuffled labels: the smallest adjusted p is "
            f"{np.nanmin(adjusted):.2g}, above {LEVEL:g}."
        )
        return out

    depths = depths_of(places, layers).tolist()
    ends = onset_interval(drawn[:, places], null.at(places))
    low, high = (None if end is None else depths[end] for end in ends)
    out |= {"onset_depth": depths[first], "onset_hookpoint": names[places[first]]}
    out |= {"onset_low": low, "onset_high": high}
    if ends[1] is None:
        reasons["onset_high"] = "in more than 2.5 % of the draws no layer beats shuffled labels."
    return out


def _words(
    pool: str | None,
    table: "pd.DataFrame",
    column: str | None,
    plan: Plan,
    reasons: dict[str, str],
) -> dict[str, Any]:
    """Accuracy of the bag of words with its interval, or None and the reason."""
    keys = ("bag_of_words", "bag_of_words_low", "bag_of_words_high")
    concept = plan.concept
    if pool == "all":
        reasons["bag_of_words"] = "rows are single positions, which are no texts."
    elif column is None:
        reasons["bag_of_words"] = "the rows have no text."
    else:
        texts = table[column].iloc[concept.rows].fillna("").astype(str).tolist()
        try:
            right = (bag_of_words(texts, concept.y, plan.fold, marks=not plan.single) == concept.y)[
                plan.scored
            ]
        except (DataError, ParameterError) as error:
            reasons["bag_of_words"] = str(error)
        else:
            bounds = weighted_interval(right, plan.ids, plan.draws)
            return dict(zip(keys, (float(right.mean()), *bounds), strict=True))
    return dict.fromkeys(keys)


def _say_why(
    arrays: dict[str, Any], permutations: int, probe: str, reasons: dict[str, str]
) -> None:
    """Reasons for what is nan on the curves."""
    if np.isnan(arrays["auc"]).any():
        reasons["auc"] = "no fold's held-out rows hold a class beside another."
    if np.isnan(arrays["f1"]).any():
        reasons["f1"] = "the positive class is neither among the held-out rows nor the answers."
    if np.isnan(arrays["calibration_error"]).any():
        reasons["calibration_error"] = f"a {probe} probe gives no probabilities."
    if permutations < 2:
        for key in ("shuffled_low", "shuffled_high", "selectivity_low", "p_value"):
            reasons[key] = "a range needs at least two permutations."
    if not permutations:
        reasons["shuffled"] = reasons["selectivity"] = "no permutations were asked for."
