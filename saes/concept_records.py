"""The result of `saes.concepts`: for each latent its images, its texts, and a name."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from interp.errors import ParameterError
from interp.results import Result
from saes.distinctive import Distinctive

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Concept", "Concepts", "Exemplar", "Meaning"]


class Exemplar(NamedTuple):
    """A row of the data at which a concept is strong.

    ``text`` is the text itself, or the name of the image; ``thumbnail`` a PNG in base64, empty for
    texts and where none was kept.
    """

    row: int
    activation: float
    text: str
    thumbnail: str = ""


class Meaning(NamedTuple):
    """The value of a label column that a concept's images and texts share more than by chance.

    ``image_purity`` and ``text_purity`` are the shares of its 30 strongest images and texts with
    that value, ``base_rate`` that of all rows; ``p`` the greater of both adjusted probabilities.
    """

    column: str
    value: str
    image_purity: float
    text_purity: float
    base_rate: float
    p: float


class Concept(NamedTuple):
    """One latent. ``dead`` is why it has no exemplars, ``unnamed`` why it has no name; else None.

    ``mean_activation`` is half the mean over all images and half that over all texts, zeros
    included; ``similarity`` the cosine of the means of its top images and texts, nan where one
    of the two is missing.
    """

    latent: int
    name: str | None
    words: tuple[Distinctive, ...]
    images: tuple[Exemplar, ...]
    texts: tuple[Exemplar, ...]
    image_fires: int
    text_fires: int
    mean_activation: float
    similarity: float
    meaning: Meaning | None
    unnamed: str | None
    dead: str | None


@dataclass(frozen=True, kw_only=True)
class Concepts(Result):
    """What the latents of a VL-SAE stand for: ``concepts[17]`` is a `Concept`.

    Arrays have an entry a latent. ``n`` counts pairs.

    Attributes
    ----------
    hookpoints : ``{"image": …, "text": …}``: where the SAE reads.
    n_latents, k : of the SAE.
    image_fires, text_fires : [f] images and texts at which the latent is above 0.
    mean_activation : [f]; see `Concept`.
    image_rows, text_rows : [f, top] rows of the data, strongest first; -1 where there is none.
    image_values, text_values : [f, top] the latent there.
    similarity : [f] cosine of the means of its top images and top texts.
    intra, inter : means of that over latents, and over the images of one and the texts of another.
        Higher and lower is better. None where fewer than two latents have both.
    names : latent -> its words, for those that have a name.
    named_control : latents that would have one if each image and text stood for another row.
    meanings : latent -> `Meaning`, of those whose images and texts agree on a label.
    meant_control : likewise, with rows that stand for others.
    columns : label columns that were looked at.
    unnamed, dead : latent -> why.
    texts, images : row -> its text, and the name of its image.
    thumbnails : row -> a PNG in base64.
    notes : sentences on how it was measured.
    """

    kind: ClassVar[str] = "vl_concepts"

    hookpoints: dict[str, str]
    n_latents: int
    k: int
    image_fires: NDArray[np.int64]
    text_fires: NDArray[np.int64]
    mean_activation: NDArray[np.float64]
    image_rows: NDArray[np.int64]
    text_rows: NDArray[np.int64]
    image_values: NDArray[np.float32]
    text_values: NDArray[np.float32]
    similarity: NDArray[np.float64]
    intra: float | None
    inter: float | None
    names: dict[str, list[Any]]
    named_control: int
    meanings: dict[str, Any]
    meant_control: int
    columns: tuple[str, ...] = ()
    unnamed: dict[str, str] = field(default_factory=dict)
    dead: dict[str, str] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    images: dict[str, str] = field(default_factory=dict)
    thumbnails: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return self.n_latents

    def __iter__(self) -> Iterator[Concept]:
        return (self[i] for i in range(self.n_latents))

    def __getitem__(self, latent: int) -> Concept:
        if not 0 <= latent < self.n_latents:
            raise ParameterError(f"there are latents 0 to {self.n_latents - 1}; got {latent}.")
        key = str(latent)
        words = tuple(Distinctive(*w) for w in self.names.get(key, ()))
        meaning = self.meanings.get(key)
        return Concept(
            latent=latent,
            name=", ".join(w.term for w in words) or None,
            words=words,
            images=self._exemplars(self.image_rows, self.image_values, latent, self.images, True),
            texts=self._exemplars(self.text_rows, self.text_values, latent, self.texts, False),
            image_fires=int(self.image_fires[latent]),
            text_fires=int(self.text_fires[latent]),
            mean_activation=float(self.mean_activation[latent]),
            similarity=float(self.similarity[latent]),
            meaning=None if meaning is None else Meaning(*meaning),
            unnamed=self.unnamed.get(key),
            dead=self.dead.get(key),
        )

    def _exemplars(
        self, rows: Any, values: Any, latent: int, said: dict[str, str], seen: bool
    ) -> tuple[Exemplar, ...]:
        return tuple(
            Exemplar(int(r), float(v), said.get(str(r), ""), self.thumbnails.get(str(r), "") * seen)
            for r, v in zip(rows[latent], values[latent], strict=True)
            if r >= 0
        )

    def to_frame(self) -> "pd.DataFrame":
        """A row a latent: name, meaning, counts, mean activation and similarity."""
        import pandas as pd

        rows = []
        for c in self:
            m = c.meaning
            rows.append(
                {
                    "latent": c.latent,
                    "name": c.name,
                    "meaning": None if m is None else f"{m.column}={m.value}",
                    "image_purity": None if m is None else m.image_purity,
                    "text_purity": None if m is None else m.text_purity,
                    "images": c.image_fires,
                    "texts": c.text_fires,
                    "mean_activation": c.mean_activation,
                    "similarity": c.similarity,
                    "why": c.dead or c.unnamed,
                }
            )
        return pd.DataFrame(rows)

    def metrics(self) -> dict[str, Any]:
        """Counts of latents, those named and those that agree on a label, and both similarities."""
        meanings = [Meaning(*m) for m in self.meanings.values()]
        return {
            "n": self.n,
            "latents": self.n_latents,
            "dead": len(self.dead),
            "named": len(self.names),
            "named_control": self.named_control,
            "meant": len(meanings),
            "meant_control": self.meant_control,
            "purity": float(np.mean([min(m.image_purity, m.text_purity) for m in meanings]))
            if meanings
            else None,
            "intra": self.intra,
            "inter": self.inter,
        }
