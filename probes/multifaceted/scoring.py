"""How good a set of facet images is: do they fire the unit, are they their facets, do they differ?

The paper has no such scores; these are ours.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from interp.errors import ShapeError
from interp.loading import load
from interp.models import Model
from interp.results import Result
from probes.multifaceted.frames import Frame
from probes.multifaceted.maximized import Maximized
from probes.multifaceted.objectives import Objective
from probes.multifaceted.watching import Watched

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FacetScores", "deep_codes", "diversity_of", "facet_scores", "likeness"]


@dataclass(frozen=True, kw_only=True)
class FacetScores(Result):
    """Scores of facet images; arrays have one entry a facet. Undefined is nan.

    Attributes
    ----------
    n : facets.
    hookpoint : where the deep codes were read.
    activation : of each image.
    best_real : the largest of the unit on real inputs.
    gain : activation less best_real; above 0 fires the unit more than any real input.
    own_cosine : of an image's deep code with the centroid of its own facet, -1..1; 1 is best.
    other_cosine : with the nearest other centroid.
    nearest : index of the centroid nearest to each image, by cosine.
    recognised : share of images whose nearest centroid is their own, 0..1; chance is 1 / n.
    diversity : mean over pairs of 1 - cosine of their deep codes, 0..2; 0 for equal images.
    purity : share of a facet's real members that have its commonest label, 0..1.
    """

    kind: ClassVar[str] = "facet_scores"

    hookpoint: str
    activation: NDArray
    best_real: float
    gain: NDArray
    own_cosine: NDArray
    other_cosine: NDArray
    nearest: tuple[int | None, ...]
    recognised: float
    diversity: float
    purity: NDArray
    notes: tuple[str, ...] = field(default_factory=tuple)

    def to_frame(self) -> "pd.DataFrame":
        """One row a facet."""
        import pandas as pd

        columns = {name: getattr(self, name) for name in _COLUMNS}
        return pd.DataFrame({"facet": np.arange(self.n), **columns, "nearest": list(self.nearest)})

    def metrics(self) -> dict[str, Any]:
        """Numbers and names for ``metrics.json``."""
        single = ("n", "hookpoint", "best_real", "recognised", "diversity", "reasons")
        table: dict[str, Any] = {name: getattr(self, name) for name in single}
        for name in _COLUMNS:
            table[name] = [round(float(v), 6) for v in getattr(self, name)]
        return table


_COLUMNS = ("activation", "gain", "own_cosine", "other_cosine", "purity")


def facet_scores(
    model: Model | nn.Module | str,
    maximized: Maximized,
    *,
    hookpoint: str | None = None,
    centroids: Any = None,
    best_real: float = float("nan"),
    labels: Sequence[Sequence[Any]] | None = None,
    name: str | None = None,
) -> FacetScores:
    """Scores of facet images: activation, likeness to their own facets, diversity, purity.

    Parameters
    ----------
    maximized : n images, one a facet, as `probes.maximize` made them.
    hookpoint : the layer of the deep codes, the mean over its positions; None leaves out what
        needs them.
    centroids : [n, d] mean deep code of each facet's real members; None leaves out likeness.
    best_real : the unit's largest activation on real inputs (`probes.objective_values`).
    labels : for each facet the labels of its real members.

    Returns
    -------
    FacetScores
        Degenerate: a score that needs what was not given, two facets, or codes other than zero is
        nan and ``reasons`` says why.

    Raises
    ------
    ShapeError
        There is not one centroid, or one list of labels, for each image.
    """
    model = load(model)
    n, reasons = maximized.n, {}
    missing = np.full(n, np.nan)
    codes = None if hookpoint is None else deep_codes(model, maximized.inputs, hookpoint)
    own, other, nearest, recognised = missing, missing, (None,) * n, float("nan")
    purity, diversity = missing, float("nan") if codes is None else diversity_of(codes)
    if codes is None:
        reasons["diversity"] = "no hook point of deep codes was given"
    elif n < 2:
        reasons["diversity"] = "one image has nothing to differ from"
    elif np.isnan(diversity):
        silent = int(np.linalg.norm(codes, axis=1).argmin())
        reasons["diversity"] = f"the deep code of image {silent} is zero"
    if codes is None or centroids is None:
        reasons["own_cosine"] = "centroids and their hook point are needed"
    else:
        table = np.asarray(centroids, np.float64)
        if table.shape != codes.shape:
            raise ShapeError(
                f"facet_scores takes a centroid for each of {n} images, of {codes.shape[1]} "
                f"entries; got {list(table.shape)}."
            )
        own, other, nearest = likeness(codes, table)
        known = [i == j for i, j in enumerate(nearest) if j is not None]
        recognised = float(np.mean(known)) if known and n > 1 else float("nan")
        if n < 2:
            reasons["other_cosine"] = reasons["recognised"] = "there is no other facet"
        elif np.isnan(own).any():
            reasons["own_cosine"] = "a deep code or centroid is zero and has no direction"
    if labels is None:
        reasons["purity"] = "no labels were given"
    else:
        if len(labels) != n:
            raise ShapeError(f"facet_scores takes labels of {n} facets; got {len(labels)} lists.")
        purity = np.array([_purity(members) for members in labels])
        if len({label for members in labels for label in np.asarray(members).tolist()}) == 1:
            purity, reasons["purity"] = missing, "all labels are one, so any facet is pure"
        elif np.isnan(purity).any():
            reasons["purity"] = "a facet has no labelled member"
    if np.isnan(best_real):
        reasons["gain"] = "no best real activation was given"
    return FacetScores(
        name=name or maximized.name,
        n=n,
        mode=maximized.mode,
        provenance=maximized.provenance,
        reasons=reasons,
        hookpoint=hookpoint or "",
        activation=maximized.activation,
        best_real=float(best_real),
        gain=maximized.activation - best_real,
        own_cosine=own,
        other_cosine=other,
        nearest=nearest,
        recognised=recognised,
        diversity=diversity,
        purity=purity,
    )


def deep_codes(
    model: Model | nn.Module | str, inputs: Any, hookpoint: str, *, batch_size: int = 64
) -> NDArray[np.float64]:
    """[n, d] float64: a hook point's mean over positions, for inputs [n, c, h, w] as it reads them.

    The same as `interp.capture` with ``pool="mean"`` of those inputs.
    """
    model = load(model)
    x = torch.as_tensor(inputs)
    ones = tuple(1.0 for _ in range(x.shape[1]))
    frame = Frame(
        channels=x.shape[1],
        height=x.shape[2],
        width=x.shape[3],
        mean=tuple(0.0 for _ in ones),
        std=ones,
        source="none",
    )
    found: list[Tensor] = []

    def value(seen: Any) -> Tensor:
        found.append(seen.units(hookpoint).double().mean(1).cpu())
        return found[-1].sum(1)

    with Watched(model, Objective("deep codes", (hookpoint,), value), frame) as watched:
        with torch.no_grad():
            watched.check(x[:1].to(model.device))
            for rows in x.split(batch_size):
                watched.values(rows.to(model.device))
    return torch.cat(found).numpy()


def _cosines(a: NDArray, b: NDArray) -> NDArray:
    """[n, m]; nan where a row is zero."""
    with np.errstate(invalid="ignore", divide="ignore"):
        a = a / np.linalg.norm(a, axis=1, keepdims=True)
        b = b / np.linalg.norm(b, axis=1, keepdims=True)
    return a @ b.T


def diversity_of(codes: NDArray) -> float:
    """Mean over pairs of 1 - cosine of codes [n, d]; nan for one code, or where one is zero."""
    n = len(codes)
    if n < 2:
        return float("nan")
    cosines = _cosines(codes, codes)
    return float(1 - (cosines.sum() - np.trace(cosines)) / (n * (n - 1)))


def likeness(codes: NDArray, centroids: NDArray) -> tuple[NDArray, NDArray, tuple[int | None, ...]]:
    """Own cosine, the largest other one, and the nearest centroid of each image.

    Codes and centroids are [n, d] in one order. Degenerate: nan and None where one is zero.
    """
    cosines = _cosines(codes, centroids)
    n = len(cosines)
    own = cosines.diagonal().copy()
    off = np.where(np.eye(n, dtype=bool), -np.inf, cosines)
    other = off.max(1) if n > 1 else np.full(n, np.nan)
    nearest = tuple(None if np.isnan(row).any() else int(row.argmax()) for row in cosines)
    return own, other, nearest


def _purity(members: Sequence[Any]) -> float:
    counts = Counter(np.asarray(members).tolist())
    return max(counts.values()) / sum(counts.values()) if counts else float("nan")
