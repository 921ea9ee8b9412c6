"""The first table of the page: every analysis with its headline number, in the order of reading."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from dashboards import html, tables
from interp.changes import Changes
from interp.results import Result

__all__ = ["analyses", "headline"]

ORDER = (
    "delta_aqi", "depth_difference", "sparsity_difference", "latent_match", "run_changes",
    "perturbation", "steering",
    "sparsity", "density_curve", "hidden_flow",
    "aqi", "aqi_by_layer", "aqi_by_axiom", "layer_pooling", "cluster_map",
    "geometry", "spaces", "information_plane", "variance_explained",
    "sae_evaluation", "loss_recovered", "sae_features", "sae_training",
    "codebook_training", "code_patterns", "codebook_steering",
    "facets", "vl_concepts", "vl_explanation", "logit_lens",
)  # fmt: skip
"""Kinds as they are read: differences, sparsity, alignment, geometry, features, concepts."""


def analyses(
    results: Sequence[Result],
    titles: Mapping[int, str],
    targets: Mapping[int, str],
    units: Mapping[str, str],
) -> html.Table:
    """A row a result: its link, what was found, and over how many rows.

    Parameters
    ----------
    results : of any kinds.
    titles, targets : heading and anchor of each result's section, by ``id``.
    units : what a kind's n counts, where it is no rows.
    """
    known = {kind: i for i, kind in enumerate(ORDER)}
    order = sorted(results, key=lambda r: known.get(r.kind, len(ORDER)))
    rows = tuple(
        (
            html.Link(titles[id(r)], targets[id(r)]),
            html.Data(headline(r), 300),
            f"{r.n:,} {units.get(r.kind, 'rows')}",
        )
        for r in order[: tables.ROWS]
    )
    columns = (html.Column("analysis"), html.Column("found"), html.Column("over", True))
    return html.Table("All analyses", columns, rows)


def headline(result: Result) -> str:
    """What was found, in a few words with its interval or its control; empty where nothing fits."""
    write = HEADLINES.get(result.kind)
    return write(result) if write else ""


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
}
"""Kind -> what the overview says of it."""
