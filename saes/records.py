"""The result of `saes.features`: for each latent when it fires, with what, and what it does."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from interp.errors import ParameterError
from interp.results import Result

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Aligned", "Band", "Example", "Feature", "Features", "Name", "Near", "Partner"]


class Example(NamedTuple):
    """A token at which a latent fires, and what stands around it.

    ``tokens`` and ``activations`` are the window, cut at the document's ends; ``at`` is the index
    in it of the token itself. ``position`` counts tokens from 0 within ``document``.
    """

    document: int
    position: int
    activation: float
    tokens: tuple[str, ...]
    activations: tuple[float, ...]
    at: int


class Band(NamedTuple):
    """Examples between two quantiles (``low``, ``high``, of 0 to 1) of a latent's activations.

    ``least`` and ``most`` are those quantiles, in the activation's units.
    """

    low: float
    high: float
    least: float
    most: float
    examples: tuple[Example, ...]


class Partner(NamedTuple):
    """A latent that fires at the same tokens: how many, how many by chance, and the log2 ratio."""

    latent: int
    tokens: int
    expected: float
    pmi: float


class Near(NamedTuple):
    """A latent whose decoder row points nearly the same way, and the cosine of the two, -1 to 1."""

    latent: int
    cosine: float


class Aligned(NamedTuple):
    """A probe's direction and its cosine with the latent's decoder row."""

    probe: str
    cosine: float


class Name(NamedTuple):
    """The label that a latent's firing predicts best, on documents that did not choose it.

    ``precision``, ``recall``, ``f1`` and ``base_rate`` are 0 to 1; ``chance_f1`` is that of firing
    as often at any token.
    """

    label: str
    precision: float
    recall: float
    f1: float
    base_rate: float
    chance_f1: float


class Feature(NamedTuple):
    """One latent. ``dead`` is the reason why it never fired, None for one that did.

    ``name`` is None where no label of the data is predicted well enough (`Features.named`);
    ``predicts`` is the best label in any case, None where the data has none. ``density`` is the
    share of tokens at which it fires, ``mean`` and ``strongest`` are of activations above 0.
    """

    latent: int
    fires: int
    density: float
    mean: float
    strongest: float
    histogram: NDArray[np.int64]
    top: tuple[Example, ...]
    bands: tuple[Band, ...]
    partners: tuple[Partner, ...]
    raised: tuple[tuple[str, float], ...]
    lowered: tuple[tuple[str, float], ...]
    aligned: tuple[Aligned, ...]
    predicts: Name | None
    name: str | None
    dead: str | None
    near: tuple[Near, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Features(Result):
    """What the latents of an SAE fire for, and what they do: `features[17]` is a `Feature`.

    Arrays have one entry a latent, in the order of ``latents``. ``n`` counts tokens.

    Attributes
    ----------
    hookpoint : where the SAE reads.
    architecture, n_latents : of the SAE.
    documents : how many texts.
    latents : [f] indices in the SAE.
    fires : [f] tokens at which the latent is above 0.
    mean, strongest : [f] mean and greatest activation above 0; nan for a dead latent.
    edges, histogram : [b + 1] and [f, b]: activations above 0, in bins of a quarter octave.
    context : tokens shown on either side of an example.
    words : token texts that ``tokens``, ``raised`` and ``lowered`` are indices of.
    top : ``document``, ``position`` [f, t] (-1: none), ``tokens`` (-1: outside the text) and
        ``activations`` [f, t, 2 context + 1]: the documents in which it fires most strongly.
    bands : the same, [f, bands, e] and [f, bands, e, 2 context + 1]: uniform examples between
        quantiles, the lowest band first.
    quantiles : the bands' edges, 0 to 1.
    band_edges : [f, bands + 1] activations at them, of ``sample`` uniform firings (all, where the
        latent has no more); nan for a dead latent.
    sample : see above.
    partners : ``index`` [f, p] (-1: none), ``count`` and ``expected`` tokens at which both fire.
    paired_tokens : tokens that partners were counted on; fewer than ``n`` where they were sampled.
    raised, lowered : [f, l] tokens whose logits the decoder row raises and lowers most, or None.
    raised_logits, lowered_logits : by how much, as `probes.logit_lens` reads it; or None.
    probes : names of the directions that decoder rows are compared with.
    alignment : [f, probes] cosines, or None.
    random_alignment : 95 % of random directions have no greater |cosine| with any of the latents
        than this; or None.
    labels : ``column=class`` of each class that tokens are labelled with.
    about : column -> what its labels ask, where the data says so.
    predicts : [f] the label that firing predicts best, chosen on half of the documents (of the
        groups); -1 where there is none.
    precision, recall, f1, base_rate, chance_f1 : [f] of that label, on the other half.
    named : [f] whether the label is a name: see `saes.features`.
    named_control : how many would have a name if labels were turned within their texts.
    dead : latent -> why it never fired.
    seed : of the samples, the halves and the random directions.
    notes : what was done, in sentences.
    unit : what a latent is called: ``latent``, ``code`` or ``neuron``.
    neighbours : ``index`` [f, p] (-1: none) and ``cosine`` of the nearest decoder rows of all
        latents; None in results of earlier versions.
    places : [f, 2] a map of the decoder rows, nan for what it leaves out; or None.
    layout : how it was made: ``umap``, ``pca``, or None.
    images : of a vision store's data: ``document`` [m], ``pixels`` [m, h, w, 3] bytes, small
        pictures of the documents of the examples, and ``grid`` [2], the rows and columns of
        positions in each; or None.
    """

    kind: ClassVar[str] = "sae_features"

    hookpoint: str
    architecture: str
    n_latents: int
    documents: int
    latents: NDArray
    fires: NDArray
    mean: NDArray
    strongest: NDArray
    edges: NDArray
    histogram: NDArray
    context: int
    words: tuple[str, ...]
    top: dict[str, NDArray]
    bands: dict[str, NDArray]
    quantiles: tuple[float, ...]
    band_edges: NDArray
    sample: int
    partners: dict[str, NDArray]
    paired_tokens: int
    raised: NDArray | None
    lowered: NDArray | None
    raised_logits: NDArray | None
    lowered_logits: NDArray | None
    probes: tuple[str, ...]
    alignment: NDArray | None
    random_alignment: float | None
    labels: tuple[str, ...]
    about: dict[str, str]
    predicts: NDArray
    precision: NDArray
    recall: NDArray
    f1: NDArray
    base_rate: NDArray
    chance_f1: NDArray
    named: NDArray
    named_control: int
    dead: dict[str, str]
    seed: int
    notes: tuple[str, ...] = field(default_factory=tuple)
    unit: str = "latent"
    neighbours: dict[str, NDArray] | None = None
    places: NDArray | None = None
    layout: str | None = None
    images: dict[str, NDArray] | None = None

    def __len__(self) -> int:
        return len(self.latents)

    def __iter__(self) -> Iterator[Feature]:
        return (self._record(i) for i in range(len(self)))

    def __getitem__(self, latent: int) -> Feature:
        """The record of a latent, by its index in the SAE.

        Raises
        ------
        ParameterError
            The latent is not among those that were looked at.
        """
        found = np.flatnonzero(self.latents == latent)
        if not len(found):
            raise ParameterError(
                f"{self.name} has no record of latent {latent}; it holds {len(self)} of the "
                f"{self.n_latents} latents, 0 to {self.n_latents - 1}."
            )
        return self._record(int(found[0]))

    @property
    def density(self) -> NDArray[np.float64]:
        """[f] share of tokens at which each latent fires, 0 to 1."""
        return self.fires / self.n

    def to_frame(self) -> "pd.DataFrame":
        """One row a latent."""
        import pandas as pd

        columns: dict[str, Any] = {
            "latent": self.latents,
            "name": [self._name(i) for i in range(len(self))],
            "fires": self.fires,
            "density": self.density,
            "mean": self.mean,
            "strongest": self.strongest,
            "predicts": [self.labels[p] if p >= 0 else None for p in self.predicts],
        }
        columns |= {k: getattr(self, k) for k in _SCORES}
        columns["partner"] = [
            int(row[0]) if len(row) and row[0] >= 0 else None for row in self.partners["index"]
        ]
        for side, table in (("raised", self.raised), ("lowered", self.lowered)):
            if table is not None:
                columns[side] = [" ".join(repr(self.words[w]) for w in row) for row in table]
        if self.alignment is not None:
            columns |= {f"cosine {p}": self.alignment[:, i] for i, p in enumerate(self.probes)}
        return pd.DataFrame(columns)

    def metrics(self) -> dict[str, Any]:
        """Numbers and names for ``metrics.json``."""
        single = ("n", "hookpoint", "architecture", "n_latents", "documents", "paired_tokens",
                  "random_alignment", "named_control", "seed", "reasons")  # fmt: skip
        table: dict[str, Any] = {name: getattr(self, name) for name in single}
        names = {str(self.latents[i]): self._name(int(i)) for i in np.flatnonzero(self.named)}
        return table | {
            "latents": len(self),
            "dead": len(self.dead),
            "median_density": round(float(np.median(self.density)), 9),
            "names": names,
            "probes": list(self.probes),
        }

    def _name(self, i: int) -> str | None:
        return self.labels[self.predicts[i]] if self.named[i] else None

    def _record(self, i: int) -> Feature:
        latent, best = int(self.latents[i]), int(self.predicts[i])
        scores = [float(getattr(self, k)[i]) for k in _SCORES]
        mine = [self.partners[k][i] for k in ("index", "count", "expected")]
        cosines = [] if self.alignment is None else self.alignment[i].tolist()
        aligned = map(Aligned, self.probes, cosines)
        return Feature(
            latent=latent,
            fires=int(self.fires[i]),
            density=float(self.density[i]),
            mean=float(self.mean[i]),
            strongest=float(self.strongest[i]),
            histogram=self.histogram[i],
            top=tuple(self._examples(self.top, (i,))),
            bands=tuple(self._band(i, b) for b in range(len(self.quantiles) - 1)),
            partners=tuple(
                Partner(int(j), int(c), float(e), float(np.log2(c / e)))
                for j, c, e in zip(*mine, strict=True)
                if j >= 0
            ),
            raised=self._words(self.raised, self.raised_logits, i),
            lowered=self._words(self.lowered, self.lowered_logits, i),
            aligned=tuple(sorted(aligned, key=lambda a: -abs(a.cosine))),
            predicts=Name(self.labels[best], *scores) if best >= 0 else None,
            name=self._name(i),
            dead=self.dead.get(str(latent)),
            near=self._near(i),
        )

    def _near(self, i: int) -> tuple[Near, ...]:
        if self.neighbours is None:
            return ()
        pairs = zip(self.neighbours["index"][i], self.neighbours["cosine"][i], strict=True)
        return tuple(Near(int(j), float(c)) for j, c in pairs if j >= 0)

    def _band(self, i: int, b: int) -> Band:
        low, high = self.quantiles[b : b + 2]
        least, most = map(float, self.band_edges[i, b : b + 2])
        return Band(low, high, least, most, tuple(self._examples(self.bands, (i, b))))

    def _examples(self, table: dict[str, NDArray], at: tuple[int, ...]) -> Iterator[Example]:
        rows = (table[k][at] for k in ("document", "position", "tokens", "activations"))
        for document, position, tokens, activations in zip(*rows, strict=True):
            if document < 0:
                continue
            inside = tokens >= 0
            yield Example(
                int(document),
                int(position),
                float(activations[self.context]),
                tuple(self.words[t] for t in tokens[inside]),
                tuple(activations[inside].tolist()),
                int(inside[: self.context].sum()),
            )

    def _words(
        self, table: NDArray | None, logits: NDArray | None, i: int
    ) -> tuple[tuple[str, float], ...]:
        if table is None or logits is None:
            return ()
        pairs = zip(table[i], logits[i], strict=True)
        return tuple((self.words[w], float(v)) for w, v in pairs if w >= 0)


_SCORES = ("precision", "recall", "f1", "base_rate", "chance_f1")
