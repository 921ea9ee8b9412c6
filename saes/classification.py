"""Zero-shot classification with latents beside embeddings: does VL-SAE's enhancement help?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from interp.errors import DataError, ParameterError, ShapeError
from interp.hooks import evaluating
from interp.results import Result
from saes.distances import unit_directions
from saes.evaluation import describe, sae_name
from saes.reading import Acts, Reader, batch_rows
from saes.vl import VLSAE

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ZeroShot", "zero_shot", "zero_shot_cosines"]

FORMS = ("latents", "reconstruction")
ALPHAS = (0.0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0)
RESAMPLES = 10_000


@dataclass(frozen=True, kw_only=True)
class ZeroShot(Result):
    """Accuracy with and without the enhancement, on images that did not choose its weight.

    Attributes
    ----------
    form : ``"latents"`` or ``"reconstruction"``: whose cosine is added.
    classes : how many.
    alpha : the weight with the best accuracy on the validation images, of equals the smallest.
    alphas, validation : [a] weights tried, and the accuracy of each there.
    n_validation : images that chose alpha.
    plain, enhanced : accuracy on the n test images, 0 to 1, without and with the enhancement.
    added : accuracy there by the added cosine alone.
    gain : ``enhanced - plain``.
    low, high : 95 % interval of the gain, a bootstrap over test images, which keeps each image's
        two answers together.
    helps : whether the interval lies above 0.
    chance : accuracy of the commonest test class.
    seed : of the split and the bootstrap.
    """

    kind: ClassVar[str] = "vl_zero_shot"

    form: str
    classes: int
    alpha: float
    alphas: NDArray
    validation: NDArray
    n_validation: int
    plain: float
    enhanced: float
    added: float
    gain: float
    low: float
    high: float
    helps: bool
    chance: float
    seed: int

    @property
    def verdict(self) -> str:
        """One sentence that says whether the enhancement helps."""
        interval = f"{100 * self.low:+.1f} to {100 * self.high:+.1f}"
        change = f"accuracy goes from {100 * self.plain:.1f} % to {100 * self.enhanced:.1f} %"
        if self.alpha == 0:
            return (
                "It does not help: no weight above 0 does better on the "
                f"{self.n_validation} validation images, so it is left off."
            )
        if self.helps:
            return f"It helps: {change} (points: {interval}, n = {self.n})."
        if self.high < 0:
            return f"It harms: {change} (points: {interval}, n = {self.n})."
        return f"It is not shown to help: {change} (points: {interval}, n = {self.n})."

    def to_frame(self) -> "pd.DataFrame":
        """One row a weight that was tried."""
        import pandas as pd

        return pd.DataFrame({"alpha": self.alphas, "validation accuracy": self.validation})

    def metrics(self) -> dict[str, Any]:
        """Numbers and names for ``metrics.json``."""
        names = ("form", "classes", "alpha", "n_validation", "plain", "enhanced", "added", "gain",
                 "low", "high", "helps", "chance", "verdict")  # fmt: skip
        return {"n": self.n, **{name: getattr(self, name) for name in names}}


def zero_shot_cosines(
    sae: VLSAE,
    images: Float[Tensor, "n d"],
    texts: Float[Tensor, "c d"],
    *,
    form: str = "latents",
) -> tuple[Float[Tensor, "n c"], Float[Tensor, "n c"]]:
    """The two parts of the enhanced score ``cos(x, t) + alpha cos(z_x, z_t)``, each [n, classes].

    Parameters
    ----------
    images : [n, d_in] embeddings.
    texts : [c, d_in] embeddings, one a class.
    form : ``"latents"``, the paper's; or ``"reconstruction"``, the cosine of what the two decoders
        make of the latents, as the released demo's embeddings are.

    Range: -1 to 1; of latents from 0. Degenerate: where no latent is active the second part is 0;
    rows of 0 raise.

    Raises
    ------
    DataError
        A row is 0.
    ParameterError
        The form is unknown.

    Source: VL-SAE (arXiv 2510.21323), equation 10.
    """
    if form not in FORMS:
        raise ParameterError(f"zero_shot: form must be one of {', '.join(FORMS)}; got {form!r}.")
    with evaluating(sae), torch.no_grad():
        z = [sae.encode(images, modality="image"), sae.encode(texts, modality="text")]
        if form == "reconstruction":
            z = [sae.decode(t, modality=m) for t, m in zip(z, ("image", "text"), strict=True)]
        lengths = [t.norm(dim=1, keepdim=True) for t in z]
        units = [t / torch.where(n > 0, n, 1) for t, n in zip(z, lengths, strict=True)]
        plain = unit_directions(images) @ unit_directions(texts).T
        return plain, units[0] @ units[1].T


def zero_shot(
    sae: VLSAE,
    images: Acts,
    labels: Sequence[int] | NDArray | Tensor,
    texts: Float[Tensor, "c d"],
    *,
    form: str = "latents",
    alphas: Sequence[float] = ALPHAS,
    validation: float | Sequence[bool] | NDArray = 0.5,
    batch_size: int | None = None,
    seed: int = 0,
    name: str | None = None,
) -> ZeroShot:
    """Whether latents improve zero-shot classification: ``cos(x, t) + alpha cos(z_x, z_t)``.

    The class whose text scores highest is the answer, of equals the first. alpha is chosen on
    validation images and judged on the others alone.

    Parameters
    ----------
    images : [n, d_in] embeddings; not those that the SAE learnt from.
    labels : [n] class of each, 0 to c - 1.
    texts : [c, d_in] embeddings, one a class.
    form : as for `zero_shot_cosines`.
    alphas : weights to try, from 0 up; 0 is always among them.
    validation : share of the images that choose alpha, drawn by ``seed``; or a mask [n] of them.
    batch_size : images at a time.
    name : of the result; None for the hook points that the metadata names.

    Raises
    ------
    ShapeError
        Widths or counts do not fit.
    DataError
        A label names no class, a row is 0 or not finite, or one of the two parts is empty.
    ParameterError
        A setting is outside what it allows.

    Source: VL-SAE (arXiv 2510.21323), equation 10. Differs: the authors give an alpha a data set
    without saying what chose it; users of the released weights could not reproduce the gains.
    """
    size = batch_rows(sae, batch_size)
    reader = Reader(images, sae.in_shape, size, "zero_shot: images")
    y = torch.as_tensor(labels).long()
    if texts.ndim != 2 or texts.shape[1] != sae.d_in or len(texts) < 2:
        raise ShapeError(
            f"zero_shot: texts must be [classes, {sae.d_in}], two classes at least; got "
            f"{list(texts.shape)}."
        )
    if y.shape != (reader.n,):
        raise ShapeError(f"zero_shot: {reader.n} images and labels of {list(y.shape)}.")
    if int(y.min()) < 0 or int(y.max()) >= len(texts):
        raise DataError(
            f"zero_shot: labels must be from 0 to {len(texts) - 1}, the classes; got "
            f"{int(y.min())} to {int(y.max())}."
        )
    tried = sorted({0.0, *map(float, alphas)})
    if not np.isfinite(tried).all() or tried[0] < 0:
        raise ParameterError(f"zero_shot: alphas must be finite and from 0 up; got {alphas!r}.")
    chooses = _split(validation, reader.n, seed)
    like = next(sae.parameters())
    classes = texts.to(like.device, like.dtype)
    with torch.no_grad():
        parts = [
            [t.cpu().double() for t in zero_shot_cosines(sae, x.to(like), classes, form=form)]
            for x in reader
        ]
    plain, extra = (torch.cat(t) for t in zip(*parts, strict=True))

    def right(scores: Tensor) -> NDArray:
        return (scores.argmax(1) == y).numpy()

    table = np.array([right(plain + a * extra)[chooses].mean() for a in tried])
    alpha = tried[int(table.argmax())]
    test = ~chooses
    before, after = right(plain)[test], right(plain + alpha * extra)[test]
    low, high = _interval(after.astype(int) - before.astype(int), seed)
    return ZeroShot(
        name=name or sae_name(sae),
        n=int(test.sum()),
        provenance=describe(sae),
        form=form,
        classes=len(texts),
        alpha=alpha,
        alphas=np.array(tried),
        validation=table,
        n_validation=int(chooses.sum()),
        plain=float(before.mean()),
        enhanced=float(after.mean()),
        added=float(right(extra)[test].mean()),
        gain=float(after.mean() - before.mean()),
        low=low,
        high=high,
        helps=low > 0,
        chance=float(np.bincount(y.numpy()[test]).max() / test.sum()),
        seed=seed,
    )


def _split(validation: Any, n: int, seed: int) -> NDArray:
    """[n] True for images that choose alpha."""
    if isinstance(validation, float | int) and not isinstance(validation, bool):
        if not 0 < validation < 1:
            raise ParameterError(
                f"zero_shot: validation must be a share between 0 and 1; got {validation!r}."
            )
        mask = np.zeros(n, bool)
        order = np.random.default_rng([seed, 1]).permutation(n)
        mask[order[: round(validation * n)]] = True
    else:
        mask = np.asarray(validation)
        if mask.shape != (n,) or mask.dtype != bool:
            raise ShapeError(f"zero_shot: a validation mask must be {n} times True or False.")
    if not mask.any() or mask.all():
        raise DataError(
            f"zero_shot: of {n} images {int(mask.sum())} choose alpha; both parts need some."
        )
    return mask


def _interval(gains: NDArray, seed: int) -> tuple[float, float]:
    """95 % bootstrap interval of a mean of -1, 0 and 1."""
    n = len(gains)
    shares = [float((gains == g).mean()) for g in (-1, 0, 1)]
    drawn = np.random.default_rng([seed, 2]).multinomial(n, shares, size=RESAMPLES)
    low, high = np.quantile((drawn[:, 2] - drawn[:, 0]) / n, (0.025, 0.975))
    return float(low), float(high)
