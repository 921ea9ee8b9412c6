"""Do the two of a pair have the same latents? `evaluate_pairs`, beside what the latents keep."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from interp.errors import DataError, ParameterError, ShapeError
from interp.hooks import evaluating
from interp.results import Result
from saes.base import SAE
from saes.evaluation import describe, evaluate, sae_name
from saes.reading import Acts, Reader, batch_rows
from saes.rows import seeded
from saes.vl import MODALITIES, VLSAE

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["PairEvaluation", "evaluate_pairs"]


@dataclass(frozen=True, kw_only=True)
class PairEvaluation(Result):
    """How alike the latents of an image and of its text are, and the price of it.

    Attributes
    ----------
    design : of the `VLConfig`.
    n_latents : how many latents.
    latent_cosine : mean cosine of a pair's latents, 0 to 1; pairs where either has no latent are
        left out.
    shuffled_cosine : the same over all images with all texts but their own: what latents that say
        nothing of the pair would have.
    overlap : mean over latents of the share that its ``top`` images and the pairs of its ``top``
        texts have in common, 0 to 1; a latent that fires in one modality alone counts as 0, one
        that fires in none is left out. By chance ``overlap_chance``. Equal texts under other images
        lower it.
    image_to_text, text_to_image : share of rows whose own partner has the largest latent cosine
        among ``pool`` (recall at 1), 0 to 1; t partners of equal cosine count as 1 / t. By chance
        1 / ``pool``.
    fvu, l0 : modality -> as in `saes.Evaluation`.
    dead : latents that fire in no row of either modality.
    one_sided : latents that fire in one modality alone.
    top, pool, seed : settings.
    """

    kind: ClassVar[str] = "vl_pairs"

    design: str
    n_latents: int
    latent_cosine: float
    shuffled_cosine: float
    overlap: float
    overlap_chance: float
    image_to_text: float
    text_to_image: float
    fvu: dict[str, float]
    l0: dict[str, float]
    dead: int
    one_sided: int
    top: int
    pool: int
    seed: int

    def to_frame(self) -> "pd.DataFrame":
        """One row a measure."""
        import pandas as pd

        table = pd.DataFrame(list(self._table().items()), columns=["measure", "value"])
        return table.astype({"value": float})

    def metrics(self) -> dict[str, Any]:
        """Numbers and names for ``metrics.json``."""
        return {"design": self.design, **self._table(), "reasons": self.reasons}

    def _table(self) -> dict[str, float]:
        names = ("latent_cosine", "shuffled_cosine", "overlap", "overlap_chance", "image_to_text",
                 "text_to_image")  # fmt: skip
        table: dict[str, float] = {name: getattr(self, name) for name in names}
        table["retrieval_chance"] = 1 / self.pool
        for name in ("fvu", "l0"):
            table |= {f"{name}, {m}": getattr(self, name)[m] for m in MODALITIES}
        table |= {"latents": self.n_latents, "dead": self.dead, "one_sided": self.one_sided}
        return {**table, "pairs": self.n}


def evaluate_pairs(
    sae: VLSAE,
    images: Acts,
    texts: Acts,
    *,
    top: int = 10,
    pool: int = 1000,
    batch_size: int | None = None,
    seed: int = 0,
    name: str | None = None,
) -> PairEvaluation:
    """What the latents of pairs share, with controls, and what they keep of each modality.

    Read three times, in batches; what is held are ``2 top n_latents`` numbers and the latents of
    ``pool`` pairs.

    Parameters
    ----------
    images, texts : [n, d_in] rows, such as a store's matrices; row i of one belongs to row i of the
        other.
    top : exemplars of a latent, at most n.
    pool : pairs that are searched for a partner, drawn by ``seed``; all where there are fewer.
    batch_size : rows at a time; None for as many as keep dense latents within 256 MiB.
    name : of the result; None for the hook points that the metadata names.

    Raises
    ------
    ShapeError
        Images and texts differ in rows, or are not ``d_in`` wide.
    DataError
        There are fewer than two pairs, or a row holds nan or inf or is 0.
    ParameterError
        A setting is outside what it allows, or the SAE reads no pairs.
    """
    if not isinstance(sae, VLSAE):
        raise ParameterError(
            f"evaluate_pairs takes a VLSAE; got {type(sae).__name__}, which saes.evaluate judges."
        )
    size = batch_rows(sae, batch_size)
    readers = [
        Reader(acts, sae.in_shape, size, f"evaluate_pairs: {m}s")
        for m, acts in zip(MODALITIES, (images, texts), strict=True)
    ]
    n = readers[0].n
    if n != readers[1].n:
        raise ShapeError(
            f"evaluate_pairs: {n} images and {readers[1].n} texts are no pairs; row i of one must "
            "belong to row i of the other."
        )
    if n < 2:
        raise DataError("evaluate_pairs needs at least two pairs, so that one can be wrong.")
    for setting, value, most in (("top", top, n), ("pool", pool, None)):
        wrong = isinstance(value, bool) or not isinstance(value, int) or value < 1
        if wrong or (most is not None and value > most):
            span = f"from 1 to {most}, the pairs" if most else "at least 1"
            raise ParameterError(f"evaluate_pairs: {setting} must be {span}; got {value!r}.")
    sides = [sae.side(m) for m in MODALITIES]
    kept = {
        m: evaluate(side, acts, batch_size=size, similarity=False)
        for m, side, acts in zip(MODALITIES, sides, (images, texts), strict=True)
    }
    seen = _Together(sae.n_latents, top)
    drawn = np.sort(torch.randperm(n, generator=seeded(seed, "pool"))[:pool].numpy())
    with evaluating(sae), torch.inference_mode():

        def encode(side: SAE, x: Tensor) -> Tensor:
            like = side.decoder
            return side.encode(x.to(like.device, like.dtype)).cpu()

        for pair in zip(*readers, strict=True):
            seen.add([encode(s, x) for s, x in zip(sides, pair, strict=True)])
        forth, back = _recall(*(
            torch.cat([encode(s, x) for x in r.take(drawn)])
            for s, r in zip(sides, readers, strict=True)
        ))  # fmt: skip
    fires = np.array([kept[m].density > 0 for m in MODALITIES])
    cosine, shuffled, reasons = seen.cosines()
    if not fires.any():
        reasons["overlap"] = "no latent fires"
    return PairEvaluation(
        name=name or sae_name(sae),
        n=n,
        provenance=describe(sae),
        reasons=reasons,
        design=sae.config.design,
        n_latents=sae.n_latents,
        latent_cosine=cosine,
        shuffled_cosine=shuffled,
        overlap=seen.overlap(),
        overlap_chance=top / n,
        image_to_text=forth,
        text_to_image=back,
        fvu={m: kept[m].fvu for m in MODALITIES},
        l0={m: kept[m].l0 for m in MODALITIES},
        dead=int((~fires.any(0)).sum()),
        one_sided=int((fires[0] != fires[1]).sum()),
        top=top,
        pool=len(drawn),
        seed=seed,
    )


class _Together:
    """Sums of cosines in float64, and each latent's strongest rows in each modality."""

    def __init__(self, n_latents: int, top: int) -> None:
        self.top, self.n, self.whole, self.own = top, 0, 0, 0.0
        self.sums = torch.zeros(2, n_latents, dtype=torch.float64)
        self.counts = torch.zeros(2, dtype=torch.int64)
        self.values = torch.zeros(2, 0, n_latents)
        self.rows = torch.zeros(2, 0, n_latents, dtype=torch.int64)

    def add(self, latents: list[Tensor]) -> None:
        """Take in dense latents [b, n_latents] of images, and of their texts."""
        units = [_unit(z) for z in latents]
        both = (units[0] * units[1]).sum(1)
        there = [z.any(1) for z in latents]
        self.own += float(both.sum())
        self.whole += int((there[0] & there[1]).sum())
        self.sums += torch.stack([u.sum(0) for u in units])
        self.counts += torch.stack([t.sum() for t in there])
        z = torch.stack(latents).float()
        rows = (self.n + torch.arange(z.shape[1]))[None, :, None].expand(z.shape)
        values, rows = torch.cat([self.values, z], 1), torch.cat([self.rows, rows], 1)
        best = values.topk(min(self.top, values.shape[1]), dim=1)
        self.values, self.rows = best.values, rows.gather(1, best.indices)
        self.n += z.shape[1]

    def cosines(self) -> tuple[float, float, dict[str, str]]:
        """Of pairs, of all that are no pairs, and why one is undefined."""
        others = int(self.counts[0] * self.counts[1]) - self.whole
        apart = float(self.sums[0] @ self.sums[1]) - self.own
        why = "there is none where both have an active latent"
        reasons = {}
        if not self.whole:
            reasons["latent_cosine"] = f"of the pairs, {why}"
        if not others:
            reasons["shuffled_cosine"] = f"of images with other texts, {why}"
        nan = float("nan")
        pair = self.own / self.whole if self.whole else nan
        return pair, apart / others if others else nan, reasons

    def overlap(self) -> float:
        """Mean share of exemplars in common, over latents that fire; nan where none does."""
        fires = self.values > 0
        same = self.rows[0][:, None] == self.rows[1][None]
        common = (same & fires[0][:, None] & fires[1][None]).sum((0, 1)).double()
        most = fires.sum(1).amax(0)
        live = most > 0
        return float((common[live] / most[live]).mean()) if bool(live.any()) else float("nan")


def _recall(images: Tensor, texts: Tensor) -> tuple[float, float]:
    """Recall at 1 by latent cosine, from images to texts and back."""
    cosine = _unit(images) @ _unit(texts).T
    found = []
    for table in (cosine, cosine.T):
        best = table >= table.amax(1, keepdim=True) - 1e-9  # equal but for rounding
        found.append(float((best.diagonal() / best.sum(1)).mean()))
    return found[0], found[1]


def _unit(z: Tensor) -> Tensor:
    """Rows at length 1 in float64; a row of zeros stays."""
    z = z.double()
    length = z.norm(dim=1, keepdim=True)
    return z / torch.where(length > 0, length, 1)
