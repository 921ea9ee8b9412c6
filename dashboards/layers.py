"""Beside a depth curve: for each hook point the latents that lie along the probe, and sparsity."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from dashboards import html
from dashboards.packed import pack, texts
from interp.results import Result
from probes.depth import ConceptDepth
from probes.firing import Sparsity
from saes.records import Features

__all__ = ["layer_views"]

PLACE = re.compile(r"(?:^|\.)(\d+)(?:\.|:|$)")
"""The number of the layer in the name of a hook point."""


def layer_views(
    result: ConceptDepth,
    results: Sequence[Result],
    ids: dict[int, str],
    part_id: str,
    figure_id: str,
) -> list[html.Part]:
    """What a click on the curve shows, where the report has something to show; else nothing.

    Parameters
    ----------
    results : all of the report; those of another model are left out.
    ids : of the parts of results, by the identity of the result.
    """
    mine = [r for r in results if _model(r) == _model(result)]
    dictionaries = [
        {"layer": result.hookpoints.index(r.hookpoint), "list": f"{ids[id(r)]}-list", "columns": c}
        for r in mine
        if isinstance(r, Features)
        and r.hookpoint in result.hookpoints
        and (c := _columns(r, result))
    ]
    if not dictionaries:
        return []
    data: dict[str, Any] = {
        "figure": figure_id,
        "hookpoints": texts(result.hookpoints),
        "accuracy": pack(result.accuracy, "f4"),
        "low": pack(result.accuracy_low, "f4"),
        "high": pack(result.accuracy_high, "f4"),
        "dictionaries": dictionaries,
        "sparsity": [row for r in mine if isinstance(r, Sparsity) for row in _sparse(r, result)],
        "first": dictionaries[0]["layer"],
    }
    said = "What a hook point holds is shown here where scripts run."
    note = html.Paragraph((said,), "note")
    return [html.Live(f"{part_id}-layers", "layers", data, (note,))]


def _columns(found: Features, result: ConceptDepth) -> list[int]:
    """Which of the directions that latents are compared with are the probe's of this result."""
    if found.alignment is None or not (found.fires > 0).any():
        return []
    names = {result.name, *(f"{result.name}={c}" for c in result.classes)}
    return [i for i, probe in enumerate(found.probes) if probe in names]


def _sparse(found: Sparsity, result: ConceptDepth) -> list[tuple[int, str, float]]:
    """Hook point of the curve, where neurons were counted in that layer, and their density."""
    by_layer: dict[str, list[int]] = {}
    for i, name in enumerate(result.hookpoints):
        if match := PLACE.search(name):
            by_layer.setdefault(match[1], []).append(i)
    rows = []
    for name, density in zip(found.hookpoints, found.density, strict=True):
        match = PLACE.search(name)
        if match and np.isfinite(density):
            shown = texts([name])[0]
            rows += [(i, shown, round(float(density), 6)) for i in by_layer.get(match[1], [])]
    return rows


def _model(result: Result) -> str:
    about = result.provenance.get("model", "")
    return (
        str(about.get("fingerprint") or about.get("spec") or "")
        if isinstance(about, dict)
        else str(about)
    )
