"""Features as the JSON batches that Neuronpedia's importer reads; nothing is sent anywhere."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from interp.errors import ParameterError
from interp.runs import write_text
from saes.records import Example, Feature, Features

__all__ = ["export_neuronpedia"]

BATCH = 128
"""Features of one file, as its own dashboards have."""
TOP = (-1.0, -1.0, -1.0)
"""Bin of the strongest examples, which belong to none."""


def export_neuronpedia(
    features: Features, folder: str | Path, *, source: str, layer: int | None = None
) -> list[Path]:
    """Write ``batch-0.json`` and on, in the layout of SAEDashboard's Neuronpedia runner.

    A file holds the model, the layer, the name of the set and up to 128 features: share of tokens
    at which each fires, histogram of its activations, tokens whose logits its decoder row raises
    and lowers, and its examples, each with all its tokens and activations. What interp does not
    measure (correlated neurons, a histogram of all logits) is an empty list there.

    Parameters
    ----------
    features : of `saes.features`.
    folder : where the files go; made if absent.
    source : name of the set, such as ``"res-topk-k16"``.
    layer : of the model; by default the number in the hook point's name.

    Returns
    -------
    list
        The files.

    Raises
    ------
    ParameterError
        The hook point's name holds no number and ``layer`` is not given, or ``source`` is empty.
    StoreError
        A file cannot be written.
    """
    if not source:
        raise ParameterError("source names the set on Neuronpedia, and must not be empty.")
    if layer is None:
        numbers = re.findall(r"\d+", features.hookpoint)
        if not numbers:
            raise ParameterError(
                f"{features.hookpoint} names no layer; give layer, the one Neuronpedia shows."
            )
        layer = int(numbers[0])
    model = features.provenance.get("model") or {}
    about = {
        "model_id": str(model.get("spec") or "model"),
        "layer": layer,
        "sae_set": source,
        "sae_id_suffix": None,
    }
    data = str((features.provenance.get("data") or {}).get("name") or "")
    files = []
    for i, start in enumerate(range(0, len(features), BATCH)):
        chosen = features.latents[start : start + BATCH]
        rows = [_row(features, features[int(latent)], data) for latent in chosen]
        path = Path(folder) / f"batch-{i}.json"
        files.append(write_text(path, json.dumps({**about, "features": rows}, allow_nan=False)))
    return files


def _row(features: Features, feature: Feature, data: str) -> dict[str, Any]:
    """One feature; what fires nowhere has no examples, and no histogram."""
    filled = np.flatnonzero(feature.histogram)
    bins = slice(filled[0], filled[-1] + 1) if filled.size else slice(0, 0)
    centres = np.sqrt(features.edges[:-1] * features.edges[1:])  # bins are equal in the logarithm
    empty = (
        "neuron_alignment_indices", "neuron_alignment_values", "neuron_alignment_l1",
        "correlated_neurons_indices", "correlated_neurons_pearson", "correlated_neurons_l1",
        "correlated_features_indices", "correlated_features_pearson", "correlated_features_l1",
        "logits_hist_data_bar_heights", "logits_hist_data_bar_values",
    )  # fmt: skip
    return {
        "feature_index": feature.latent,
        **{name: [] for name in empty},
        "neg_str": [token for token, _ in feature.lowered],
        "neg_values": [value for _, value in feature.lowered],
        "pos_str": [token for token, _ in feature.raised],
        "pos_values": [value for _, value in feature.raised],
        "frac_nonzero": feature.density,
        "freq_hist_data_bar_values": centres[bins].tolist(),
        "freq_hist_data_bar_heights": feature.histogram[bins].tolist(),
        "n_prompts_total": features.documents,
        "n_tokens_in_prompt": 2 * features.context + 1,
        "dataset": data,
        "decoder_weights_dist": [],
        "activations": list(_examples(feature)),
        "vector": [],
    }


def _examples(feature: Feature) -> Iterator[dict[str, Any]]:
    for example in feature.top:
        yield _example(example, *TOP)
    total = sum(band.high - band.low for band in feature.bands) or 1.0
    for band in feature.bands:
        for example in band.examples:
            yield _example(example, band.least, band.most, (band.high - band.low) / total)


def _example(example: Example, least: float, most: float, share: float) -> dict[str, Any]:
    return {
        "bin_min": least,
        "bin_max": most,
        "bin_contains": share,
        "tokens": list(example.tokens),
        "values": list(example.activations),
        "qualifying_token_index": example.at,
    }
