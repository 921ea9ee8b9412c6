"""The result of `probes.facets`: the different things that make one unit fire."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from interp.results import Result
from probes.multifaceted.words import Snippet

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Facets"]


@dataclass(frozen=True, kw_only=True)
class Facets(Result):
    """The facets of a unit. ``n`` counts the inputs that fire it and were grouped.

    Facets are numbered from 0, the largest first; arrays with ``k`` have an entry a facet.

    Attributes
    ----------
    hookpoint, unit, index : where the unit is, its name and number (None for a direction).
    codes_at : hook point of the codes that were grouped.
    modality : ``image``, ``text`` or ``tensor``.
    read, firing : inputs that were read, and that fire; more than ``n`` where only the strongest
        were grouped.
    strongest : greatest activation of all inputs.
    rows : [n] which rows of the data.
    activation, position : [n] greatest activation over an input's positions, and where.
    labels : [n] facet of each; -1 is in none (HDBSCAN).
    xy : [n, 2] places in the map.
    settings : of components, map and groups.
    tried : number of facets -> silhouette in the map.
    tightness, silhouettes : [k], as `probes.multifaceted.discover.Grouping` says.
    silhouette, code_silhouette : of all, in the map and in the principal components.
    control : ``agreement`` with k-means in the principal components, its ``silhouette``, and its
        ``adjusted_rand_index`` where classes are known.
    null : ``found``, ``p``, and ``drawn``: the comparison with Gaussians of the same covariance.
    valley : p value that no valley parts two groups.
    several : whether both tests find more than one facet; None where they cannot say.
    label : column of known classes, or None.
    classes : of that column.
    truth : [n] class of each, -1 unknown.
    adjusted_rand_index : of facets and classes; nan without.
    purity : [k] share of a facet's rows of its commonest class; ``common`` : [k] that class, -1.
    nearest : [k, m] rows of the data that stand for each facet, -1 where there are fewer.
    means : [k, c, h, w] mean image of those, in 0..1; None where there are no images.
    contrast : [k] of the mean image over that of its images; low is grey.
    shown : [k, e, c, h, w] the first of them, as bytes 0..255; or None.
    images : [k, c, h, w] synthesised from each mean image, in 0..1; or None.
    image_scores : of these: ``activation``, ``ratio`` to the best real input's, ``own_cosine`` of
        the code with that of the facet, ``other_cosine`` with the nearest other facet, ``facet``
        whose mean code is nearest by cosine, -1 for a code of zero.
    diversity : mean over pairs of synthesised images of 1 - cosine of their codes.
    schedule : of the synthesis.
    snippets : of texts: for each facet (tokens, activations, which one fires).
    words : of texts: for each facet words that its contexts have more often, with z.
    notes : what was done, in sentences.
    """

    kind: ClassVar[str] = "facets"

    hookpoint: str
    unit: str
    index: int | None
    codes_at: str
    modality: str
    read: int
    firing: int
    strongest: float
    rows: NDArray
    activation: NDArray
    position: NDArray
    labels: NDArray
    xy: NDArray
    settings: dict[str, Any]
    tried: dict[str, float]
    tightness: NDArray
    silhouettes: NDArray
    silhouette: float
    code_silhouette: float
    control: dict[str, float]
    null: dict[str, Any]
    valley: float
    several: bool | None
    label: str | None
    classes: tuple[str, ...]
    truth: NDArray
    adjusted_rand_index: float
    purity: NDArray
    common: NDArray
    nearest: NDArray
    means: NDArray | None = None
    contrast: NDArray | None = None
    shown: NDArray | None = None
    images: NDArray | None = None
    image_scores: dict[str, NDArray] = field(default_factory=dict)
    diversity: float = float("nan")
    schedule: str | None = None
    snippets: tuple[tuple[Snippet, ...], ...] = ()
    words: tuple[tuple[tuple[str, float], ...], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def n_facets(self) -> int:
        """How many facets there are; 0 where nothing fires the unit."""
        return int(self.labels.max(initial=-1)) + 1

    @property
    def sizes(self) -> NDArray:
        """[k] inputs of each facet."""
        return np.bincount(self.labels[self.labels >= 0], minlength=self.n_facets)

    @property
    def scores(self) -> "pd.DataFrame":
        """One row a facet: the same as `to_frame`."""
        return self.to_frame()

    def title(self, facet: int) -> str:
        """A facet's name: its commonest class, its most distinctive words, or its number."""
        if self.label is not None and len(self.common) and self.common[facet] >= 0:
            return f"{self.label} {self.classes[self.common[facet]]}"
        if self.words and self.words[facet]:
            return " ".join(word for word, _ in self.words[facet][:3])
        return f"facet {facet}"

    def to_frame(self) -> "pd.DataFrame":
        """One row a facet."""
        import pandas as pd

        k = self.n_facets
        columns: dict[str, Any] = {
            "facet": np.arange(k),
            "name": [self.title(i) for i in range(k)],
            "inputs": self.sizes,
            "activation": [float(self.activation[self.labels == i].mean()) for i in range(k)],
            "tightness": self.tightness,
            "silhouette": self.silhouettes,
        }
        if self.label is not None:
            columns["purity"] = self.purity
        if self.contrast is not None:
            columns["contrast"] = self.contrast
        columns |= {f"image {k.replace('_', ' ')}": v for k, v in self.image_scores.items()}
        return pd.DataFrame(columns)

    def metrics(self) -> dict[str, Any]:
        """Numbers and names for ``metrics.json``."""
        single = ("n", "hookpoint", "unit", "index", "codes_at", "mode", "read", "firing",
                  "n_facets", "several", "schedule", "label", "reasons")  # fmt: skip
        numbers = ("strongest", "silhouette", "code_silhouette", "valley", "adjusted_rand_index",
                   "diversity")  # fmt: skip
        table: dict[str, Any] = {name: getattr(self, name) for name in single}
        table |= {name: round(float(getattr(self, name)), 6) for name in numbers}
        table["null_p"] = self.null["p"]
        table["control"] = {k: round(float(v), 6) for k, v in self.control.items()}
        table["sizes"] = self.sizes.tolist()
        table["names"] = [self.title(i) for i in range(self.n_facets)]
        arrays = {"tightness": self.tightness, "silhouettes": self.silhouettes,
                  "purity": self.purity, **self.image_scores}  # fmt: skip
        return table | {k: [round(float(x), 6) for x in v] for k, v in arrays.items()}
