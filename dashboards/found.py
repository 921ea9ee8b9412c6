"""What each analysis found, in a few words with its interval or its control."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from dashboards import tables
from interp.changes import Changes

__all__ = ["HEADLINES"]


def _sparsity(r: Any) -> str:
    text = f"{_range(r.density, '.1%')} of the neurons active"
    if r.initial_density is not None:
        text += f", {_range(r.initial_density, '.1%')} with random weights"
    return text


def _aqi(r: Any) -> str:
    if r.peak_hookpoint is None:
        return "undefined at every hook point"
    i = r.hookpoints.index(r.peak_hookpoint)
    return (
        f"AQI {r.peak:.3f} [{r.low[i]:.3f}, {r.high[i]:.3f}] at {r.peak_hookpoint}, shuffled "
        f"labels stay below {r.null_high[i]:.3f}"
    )


def _delta(r: Any) -> str:
    if not np.isfinite(r.delta).any():
        return "undefined at every hook point"
    i = int(np.nanargmin(r.delta))
    said = f"{r.delta[i]:+.3f} [{r.low[i]:+.3f}, {r.high[i]:+.3f}] at {r.hookpoints[i]}"
    return f"least {said}" + (f"; alarm at {', '.join(r.alarms)}" if r.alarms else "")


def _difference(r: Any) -> str:
    found = r.metrics()["largest"]
    if found is None:
        return "undefined at every hook point"
    i = int(np.nanargmax(np.abs(r.delta)))
    ends = f" [{r.low[i]:+.3f}, {r.high[i]:+.3f}]" if math.isfinite(r.low[i]) else ""
    return f"largest {found:+.3f}{ends} at {r.hookpoints[i]}"


def _pooling(r: Any) -> str:
    value = r.held_out["value"]
    return f"{_number(value)} held out, the best layer alone {_number(r.best)}"


def _recovered(r: Any) -> str:
    m = r.metrics()
    share, rise = m["recovered_mean"], m["ce_increase"]
    ends = m["intervals"].get("recovered_mean")
    ends = f" [{ends[0]:.3f}, {ends[1]:.3f}]" if ends else ""
    return f"{_number(share)}{ends} of the loss recovered; {_number(rise)} nats a token are lost"


def _evaluation(r: Any) -> str:
    m = r.metrics()
    return f"FVU {_number(m['fvu'])} at L0 {_number(m['l0'])}, {m['dead']:,} dead latents"


def _features(r: Any) -> str:
    return (
        f"{len(r):,} {r.unit}s, {int(r.named.sum()):,} with a name (turned labels give "
        f"{r.named_control:,}), {len(r.dead):,} never fire"
    )


def _training(r: Any) -> str:
    m = r.metrics()
    return f"FVU {_number(m.get('fvu'))} after {m['steps']:,} steps"


def _codes(r: Any) -> str:
    loss = r.metrics()["held_out"]
    return "; ".join(f"{which} {value:.2f}" for which, value in loss.items()) + " nats a token"


def _patterns(r: Any) -> str:
    best = r.best()
    won = sum((row.precision or 0) > (row.neuron_precision or 0) for row in best)
    return f"the code is more precise than the best neuron for {won} of {len(best)} patterns"


def _steered(r: Any) -> str:
    counts = ", ".join(f"{k} {v}" for k, v in r.metrics()["counts"].items())
    return f"texts of {r.n} with a match: {counts}"


def _facets(r: Any) -> str:
    text = tables.plural(r.n_facets, "facet")
    rand = r.adjusted_rand_index
    return f"{text}, adjusted Rand index {rand:.3f} with {r.label}" if rand == rand else text


def _concepts(r: Any) -> str:
    m = r.metrics()
    return (
        f"{m['named']:,} of {m['latents']:,} named (blind draws {m['named_control']:,}), "
        f"{m['meant']:,} agree on a label (blind draws {m['meant_control']:,})"
    )


def _match(r: Any) -> str:
    return ", ".join(f"{v:,} {k}" for k, v in r.counts.items())


def _changes(r: Any) -> str:
    m = r.metrics()
    return f"{m['options']} options, {m['versions']} versions and {m['numbers']} numbers differ"


def _lens(r: Any) -> str:
    return "raises " + " ".join(map(repr, r.raised[:5]))


def _variance(r: Any) -> str:
    together = np.asarray(r.metrics()["together"], dtype=float)
    return f"{_range(together, '.1%')} of a layer's variance explained, held out"


def _aqi_once(r: Any) -> str:
    text = f"AQI {_number(r.value)}{_ends(r.interval)}"
    return text + (f", shuffled labels stay below {_number(r.null['high'])}" if r.null else "")


def _axioms(r: Any) -> str:
    text = f"overall AQI {_number(r.value[-1])}{_ends((r.low[-1], r.high[-1]))}"
    known = np.flatnonzero(np.isfinite(r.value[:-1]))
    if not known.size:
        return text
    i = known[r.value[known].argmin()]
    return f"{text}; least {r.value[i]:.3f} for {r.axioms[i]}"


def _perturbed(r: Any) -> str:
    shifts = [(run["peak_shift"], run) for run in r.runs if run.get("peak_shift") is not None]
    if not shifts:
        return "undefined for every perturbation"
    value, run = max(shifts, key=lambda pair: abs(pair[0]))
    ends = _ends((run.get("peak_shift_low"), run.get("peak_shift_high")), "+.3f")
    return f"the peak accuracy moves most by {run['kind']}: {value:+.3f}{ends}"


def _steering(r: Any) -> str:
    most = float(np.nanmax(r.flipped))
    return (
        f"flips up to {most:.0%} of the answers, random directions "
        f"{float(np.nanmax(r.random_flipped)):.0%}"
    )


def _thinned(r: Any) -> str:
    ends = _ends((r.increase_low[0, -1], r.increase_high[0, -1]), "+.3f")
    return (
        f"loss {_number(r.loss[0, 0])} nats of the whole model, "
        f"{r.loss[0, -1] - r.loss[0, 0]:+.3f}{ends} with {r.densities[-1]:.3g} of the units"
    )


def _flow(r: Any) -> str:
    return (
        f"neighbouring tokens share {_range(r.jaccard, '.2f')} of their active dimensions, "
        f"shuffled ones {_range(r.jaccard_shuffled, '.2f')}"
    )


def _map(r: Any) -> str:
    return f"{len(r.rows):,} rows for the eye; no number is computed on it"


def _geometry(r: Any) -> str:
    gdv, rank = r.values.get("gdv"), r.values.get("rank")
    parts = []
    if gdv is not None and np.isfinite(gdv).any():
        i = int(np.nanargmin(gdv))
        parts.append(f"classes stand apart most at {r.hookpoints[i]} (GDV {gdv[i]:.3f})")
    if rank is not None and np.isfinite(rank).any():
        parts.append(f"effective rank {_range(rank, '.1f')}")
    return "; ".join(parts) or tables.plural(len(r.values), "measure")


def _spaces(r: Any) -> str:
    if not np.isfinite(r.cka).any():
        return "undefined for every pair of layers"
    i, j = np.unravel_index(int(np.nanargmax(r.cka)), r.cka.shape)
    return f"most alike {r.hookpoints[i]} and {r.others[j]}, CKA {r.cka[i, j]:.3f}"


def _plane(r: Any) -> str:
    text = f"{_range(r.xt[-1], '.2f')} bits of the input of {r.ceiling:.2f}"
    if not np.isfinite(r.ty).any():
        return text
    return f"{text}, {_range(r.ty[-1], '.2f')} of the label of {r.label_entropy:.2f}"


def _infomec(r: Any) -> str:
    names = ("modularity", "explicitness", "compactness")
    return ", ".join(f"{name} {_number(getattr(r, name))}" for name in names)


def _shortcut(r: Any) -> str:
    return f"bias {_range(r.bias, '+.3f')}; the best classifier has 0"


def _complexity(r: Any) -> str:
    return (
        f"{int(r.kept[-1].sum()):,} of {int(np.sum(r.widths)):,} channels left at the last "
        f"threshold, {r.betas[-1]:.3g}"
    )


def _removed(r: Any) -> str:
    said = (f"{way} {a:.0%}" for way, a in zip(r.ways, r.agreement[:, -1], strict=True))
    return f"answers kept with {r.shares[-1]:.0%} of the input gone: {', '.join(said)}"


def _patched(r: Any) -> str:
    whole = np.diagonal(r.item_alone)
    leak = np.abs(r.leakage[np.isfinite(r.leakage)])
    text = f"an item's own vectors bring back {_range(whole, '.0%')} of its score"
    return text + (f"; leakage up to {leak.max():.3f}" if leak.size else "")


def _prototypes(r: Any) -> str:
    share = r.r2 / r.variance if r.variance else math.nan
    return f"{len(r.sizes)} {r.how}: r2 is {_number(share)} of the variance of the rows"


def _recall(r: Any) -> str:
    return f"accuracy {_number(r.accuracy)}, a guess among the values seen {r.seen_chance:.3f}"


def _maximized(r: Any) -> str:
    return f"activation {_range(r.start_activation, '.3g')}, then {_range(r.activation, '.3g')}"


def _facet_scores(r: Any) -> str:
    return f"{_number(r.recognised)} of the images nearest to their own facet, chance {1 / r.n:.3f}"


def _tokfsm(r: Any) -> str:
    return (
        f"loss {r.loss:.3f}, the floor {r.floor:.3f}; state read rightly {r.state_accuracy:.3f}"
        f"{_ends(r.state_interval)}, chance {r.state_chance:.3f}"
    )


def _absorption(r: Any) -> str:
    return f"{_number(r.rate)} of what the probe finds is absorbed, {_number(r.missed_rate)} missed"


def _ablation(r: Any) -> str:
    if not np.isfinite(r.kl).any():
        return "undefined for every latent"
    i = int(np.nanargmax(r.kl))
    return f"most by latent {r.latents[i]}: KL {r.kl[i]:.2g}{_ends((r.kl_low[i], r.kl_high[i]))}"


def _stability(r: Any) -> str:
    return f"mean matched cosine {r.mean:.3f}, random dictionaries {r.chance:.3f}"


def _k_sparse(r: Any) -> str:
    return (
        f"accuracy of {tables.plural(r.ks[0], 'latent')} {r.accuracy[0]:.3f}"
        f"{_ends((r.accuracy_low[0], r.accuracy_high[0]))}, of as many raw dimensions "
        f"{r.raw_accuracy[0]:.3f}, of the commonest class {r.majority:.3f}"
    )


def _pairs(r: Any) -> str:
    return (
        f"latent cosine {_number(r.latent_cosine)}, of shuffled pairs {_number(r.shuffled_cosine)}"
    )


def _explained(r: Any) -> str:
    if not len(r.latents):
        return "0 concepts"
    return f"strongest {r.names[0] or 'without a name'} (latent {r.latents[0]}, {r.scores[0]:.3g})"


def _ends(ends: Any, form: str = ".3f") -> str:
    """An interval in brackets, or nothing where there is none."""
    if ends is None or any(end is None or not math.isfinite(end) for end in ends):
        return ""
    return f" [{ends[0]:{form}}, {ends[1]:{form}}]"


def _range(values: Any, form: str) -> str:
    finite = np.asarray(values, dtype=float)
    finite = finite[np.isfinite(finite)]
    if not finite.size:
        return "undefined"
    low, high = (format(float(v), form) for v in (finite.min(), finite.max()))
    return low if low == high else f"{low} to {high}"


def _number(value: float | None) -> str:
    return f"{value:.3f}" if value is not None and math.isfinite(value) else "undefined"


HEADLINES: dict[str, Callable[[Any], str]] = {
    "sparsity": _sparsity,
    "aqi_by_layer": _aqi,
    "delta_aqi": _delta,
    "depth_difference": _difference,
    "sparsity_difference": _difference,
    "layer_pooling": _pooling,
    "sae_evaluation": _evaluation,
    "loss_recovered": _recovered,
    "sae_features": _features,
    "sae_training": _training,
    "codebook_training": _codes,
    "code_patterns": _patterns,
    "codebook_steering": _steered,
    "facets": _facets,
    "vl_concepts": _concepts,
    "latent_match": _match,
    Changes.kind: _changes,
    "logit_lens": _lens,
    "variance_explained": _variance,
    "absorption": _absorption,
    "aqi": _aqi_once,
    "aqi_by_axiom": _axioms,
    "cluster_map": _map,
    "density_curve": _thinned,
    "facet_scores": _facet_scores,
    "feature_complexity": _complexity,
    "geometry": _geometry,
    "hidden_flow": _flow,
    "infomec": _infomec,
    "information_plane": _plane,
    "maximized": _maximized,
    "perturbation": _perturbed,
    "prototypes": _prototypes,
    "recall": _recall,
    "removal_curve": _removed,
    "sae_ablation": _ablation,
    "seed_stability": _stability,
    "shortcut_bias": _shortcut,
    "spaces": _spaces,
    "sparse_probing": _k_sparse,
    "steering": _steering,
    "token_patching": _patched,
    "tokfsm": _tokfsm,
    "vl_explanation": _explained,
    "vl_pairs": _pairs,
    "vl_zero_shot": lambda r: r.verdict,
}
"""Kind -> what the overview says of it."""
