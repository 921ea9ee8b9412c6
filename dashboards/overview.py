"""The first table of the page: every analysis with its headline number, in the order of reading."""

from collections.abc import Mapping, Sequence

from dashboards import html, tables
from dashboards.found import HEADLINES
from interp.results import Result

__all__ = ["analyses", "headline"]

ORDER = (
    "delta_aqi", "depth_difference", "sparsity_difference", "latent_match", "run_changes",
    "perturbation", "steering",
    "sparsity", "density_curve", "hidden_flow",
    "aqi", "aqi_by_layer", "aqi_by_axiom", "layer_pooling", "cluster_map",
    "geometry", "spaces", "information_plane", "variance_explained", "infomec", "shortcut_bias",
    "feature_complexity", "removal_curve", "token_patching", "prototypes", "recall",
    "sae_evaluation", "loss_recovered", "sae_features", "sae_ablation", "sparse_probing",
    "absorption", "seed_stability", "sae_training",
    "codebook_training", "code_patterns", "codebook_steering", "tokfsm",
    "facets", "maximized", "facet_scores",
    "vl_concepts", "vl_pairs", "vl_zero_shot", "vl_explanation", "logit_lens",
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
