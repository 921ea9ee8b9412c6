"""`explain`: which concepts an image, a text, or the two together show."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import ParameterError, ShapeError
from interp.results import Result
from saes.concept_records import Concepts

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Explanation", "explain"]


@dataclass(frozen=True, kw_only=True)
class Explanation(Result):
    """The concepts of an image, a text or a pair, the highest score first.

    Attributes
    ----------
    of : ``"image"``, ``"text"`` or ``"pair"``.
    text : the text, where there is one.
    image : the image's name, where there is one.
    latents : [m] indices.
    scores : [m]; see `explain`. Range: [0, inf).
    image_values, text_values : [m] of the latent; nan of what was not given.
    names : [m] names of the concepts, empty where one has none.
    rows : [m] the row of the strongest image of each, -1 where there is none.
    thumbnails : [m] PNGs in base64 of those images, empty where none was kept.
    """

    kind: ClassVar[str] = "vl_explanation"

    of: str
    latents: np.ndarray
    scores: np.ndarray
    image_values: np.ndarray
    text_values: np.ndarray
    names: tuple[str, ...]
    rows: tuple[int, ...]
    thumbnails: tuple[str, ...]
    text: str = ""
    image: str = ""

    def to_frame(self) -> "pd.DataFrame":
        """A row a concept."""
        import pandas as pd

        return pd.DataFrame(
            {
                "latent": self.latents,
                "name": [n or None for n in self.names],
                "score": self.scores,
                "image": self.image_values,
                "text": self.text_values,
            }
        )

    def metrics(self) -> dict[str, Any]:
        """Latents, names and scores."""
        return {
            "of": self.of,
            "latents": self.latents.tolist(),
            "names": list(self.names),
            "scores": self.scores.tolist(),
        }


def explain(
    sae: Any,
    found: Concepts,
    *,
    image: Float[Tensor, " d"] | None = None,
    text: Float[Tensor, " d"] | None = None,
    top: int = 5,
    name: str = "explanation",
    said: str = "",
    shown: str = "",
) -> Explanation:
    """The concepts at which an image, a text, or both at once stand out.

    The score of a latent is ``z / mean_activation``, where z is its value at the image or the text,
    or for a pair the product of both: only what the two share counts. Latents whose mean is 0 have
    the score 0: the data never saw them fire.

    Parameters
    ----------
    sae : the `saes.VLSAE`.
    found : its concepts, whose means and names are taken.
    image, text : activations at the SAE's hook points; one or both.
    top : concepts at most; those with score 0 are left out.
    name, said, shown : the result's name, the text, and the image's name, for titles.

    Raises
    ------
    ParameterError
        Neither is given, or top is below 1.
    ShapeError
        An activation is no vector of the SAE's width, or the concepts are another SAE's.

    Notes
    -----
    Source: the released code of Shen et al. 2025 (arXiv 2510.21323), its demo.
    """
    if image is None and text is None or top < 1:
        raise ParameterError(f"explain needs an image or a text, and top of at least 1; got {top}.")
    if found.n_latents != sae.n_latents:
        raise ShapeError(
            f"the concepts are of {found.n_latents} latents and the SAE has {sae.n_latents}."
        )
    z = {}
    for side, x in (("image", image), ("text", text)):
        if x is None:
            continue
        if x.shape != (sae.d_in,):
            raise ShapeError(f"{side} must be a vector of {sae.d_in}; got {list(x.shape)}.")
        with torch.inference_mode():
            there = x[None].to(sae.W_dec[side].device).float()
            codes = sae.encode(there, modality=side)[0]
        z[side] = codes.cpu().double().numpy()
    both = np.prod(list(z.values()), axis=0)
    mean = found.mean_activation
    scores = np.divide(both, mean, out=np.zeros_like(both), where=mean > 0)
    order = np.lexsort((np.arange(len(scores)), -scores))[:top]
    order = order[scores[order] > 0]
    nothing = np.full(len(scores), np.nan)
    rows = tuple(int(found.image_rows[i, 0]) for i in order)
    return Explanation(
        name=name,
        n=1,
        provenance=found.provenance,
        reasons={} if len(order) else {"latents": "no concept of the data is active here"},
        of="pair" if len(z) == 2 else next(iter(z)),
        latents=order.astype(np.int64),
        scores=scores[order],
        image_values=z.get("image", nothing)[order],
        text_values=z.get("text", nothing)[order],
        names=tuple(found[int(i)].name or "" for i in order),
        rows=rows,
        thumbnails=tuple(found.thumbnails.get(str(r), "") for r in rows),
        text=said,
        image=shown,
    )
