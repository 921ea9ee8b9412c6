"""Two models' spaces of the same data: which layers agree, and can one stand in for the other?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from interp.errors import DataError
from interp.results import Result
from probes.account import provenance_of
from probes.anchors import ANCHORS, relative_similarity, stitching
from probes.concepts import concept_name, groups_of, read_concept
from probes.generations import backward_compatibility
from probes.kernels import kernel_unit
from probes.measured import Measured, Unit, float_rows
from probes.plan import choose_hookpoints

if TYPE_CHECKING:
    from interp.store import ActivationStore

__all__ = ["Spaces", "compare_spaces"]

ROWS = 1000
"""Most rows that layers are held together on."""


@dataclass(frozen=True, kw_only=True)
class Spaces(Result):
    """What two models' spaces have in common.

    Attributes
    ----------
    models : their names.
    label : column of the labels, or None.
    hookpoints, others : of the first and of the second, in depth order.
    cka : [hookpoints, others] likeness of each layer of the first to each of the second.
    at : the two hook points that the numbers are of.
    numbers : question -> {name: value}: ``relative`` and ``relative, centred``
        (`probes.geometry.relative_similarity`), ``stitching`` (that function, centred) and
        ``compatibility`` (`probes.geometry.backward_compatibility`, the first model being the
        old one). The first name of each is ``value``.
    reasons : question, or ``"model: hook point"`` -> why it is undefined.
    """

    kind: ClassVar[str] = "spaces"

    models: tuple[str, str]
    label: str | None
    hookpoints: tuple[str, ...]
    others: tuple[str, ...]
    cka: NDArray
    at: tuple[str, str]
    numbers: dict[str, dict[str, float]]
    notes: tuple[str, ...] = ()

    def to_frame(self) -> pd.DataFrame:
        """A row a number."""
        rows = [(q, name, v) for q, some in self.numbers.items() for name, v in some.items()]
        return pd.DataFrame(rows, columns=["question", "number", "value"])

    def metrics(self) -> dict[str, Any]:
        """Numbers and names for ``metrics.json``."""
        names = ("n", "label", "cka", "numbers", "reasons")
        lists = {k: list(getattr(self, k)) for k in ("models", "hookpoints", "others", "at")}
        return lists | {name: getattr(self, name) for name in names}


def compare_spaces(
    first: "ActivationStore",
    second: "ActivationStore",
    label: str | None = None,
    *,
    groups: str | None = None,
    at: tuple[str, str] | None = None,
    models: tuple[str, str] = ("first", "second"),
    anchors: int = ANCHORS,
    seed: int = 0,
) -> Spaces:
    """Hold two stores of the same rows together.

    Parameters
    ----------
    first, second : activations of two models on the same data, in the same order.
    label, groups : columns of the first store's table, or None: what needs labels is undefined.
    at : hook points that the numbers are of; the last ones by default.
    models : names of the two.
    anchors : rows that both spaces are described by.
    seed : of draws.

    Degenerate: what a pair of layers does not define is nan, and ``reasons`` says why. Spaces of
    different widths have no backward compatibility.

    Raises
    ------
    DataError
        The stores are of different data.
    """
    _same_data(first, second)
    names, others = (choose_hookpoints(s.hookpoints, None, "recommended") for s in (first, second))
    groups = groups_of(first, groups)
    concept = read_concept(first.rows, label, groups) if label is not None else None
    rows = concept.rows if concept is not None else np.arange(len(first.rows))
    kept = rows[np.sort(np.random.default_rng(seed).permutation(len(rows))[:ROWS])]
    units = [_units(s, hooks, kept) for s, hooks in ((first, names), (second, others))]
    at = at or (names[-1], others[-1])
    X, Y = float_rows(first[at[0]][rows]), float_rows(second[at[1]][rows])
    found = {
        "relative": relative_similarity(X, Y, anchors=anchors, seed=seed),
        "relative, centred": relative_similarity(X, Y, anchors=anchors, centre=True, seed=seed),
    }
    no_labels = Measured(0, "there are no labels.")
    found["stitching"] = found["compatibility"] = no_labels
    if concept is not None:
        found["stitching"] = stitching(
            X, Y, concept.y, groups=concept.groups, anchors=anchors, centre=True, seed=seed
        )
        found["compatibility"] = (
            backward_compatibility(X, Y, concept.y)
            if X.shape[1] == Y.shape[1]
            else Measured(0, f"the spaces have widths {X.shape[1]} and {Y.shape[1]}.")
        )
    reasons = {q: m.reason for q, m in found.items() if m.reason is not None}
    for model, hooks, some in zip(models, (names, others), units, strict=True):
        reasons |= {f"{model}: {h}": u.reason for h, u in zip(hooks, some, strict=True) if u.reason}
    data = str((first.manifest.get("data") or {}).get("name") or "data")
    return Spaces(
        name=concept_name(data, label) if label is not None else data,
        n=len(rows),
        provenance=provenance_of(first, second, seed, torch.device("cpu")),
        reasons=reasons,
        models=models,
        label=label,
        hookpoints=names,
        others=others,
        cka=_products(*units),
        at=at,
        numbers={q: {"value": float(m), **m.parts} for q, m in found.items()},
        notes=(
            *(concept.notes if concept else ()),
            *([f"CKA reads {ROWS:,} of the {len(rows):,} rows."] if len(rows) > ROWS else []),
        ),
    )


def _same_data(first: "ActivationStore", second: "ActivationStore") -> None:
    """Refuse stores whose rows are not the same things."""
    a, b = ((s.manifest.get("data") or {}).get("hash") for s in (first, second))
    if len(first.rows) != len(second.rows) or (a and b and a != b):
        raise DataError(
            f"two spaces are compared on the same rows; the stores hold {len(first.rows)} rows of "
            f"{a or 'unknown data'} and {len(second.rows)} of {b or 'unknown data'}."
        )


def _units(store: "ActivationStore", names: Sequence[str], rows: NDArray) -> list[Unit]:
    return [kernel_unit(float_rows(store[name][rows])) for name in names]


def _products(a: Sequence[Unit], b: Sequence[Unit]) -> NDArray:
    """The product of each unit vector of one model with each of the other; nan where one lacks."""
    M = np.full((len(a), len(b)), np.nan)
    for i, u in enumerate(a):
        for j, v in enumerate(b):
            if u.vector is not None and v.vector is not None:
                M[i, j] = u.vector @ v.vector
    return M
