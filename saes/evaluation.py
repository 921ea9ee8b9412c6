"""What an SAE keeps of activations, and how sparsely: `evaluate`, in one pass."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from interp.errors import ParameterError, ShapeError
from interp.hooks import evaluating
from interp.results import Result
from interp.runs import versions
from saes.base import SAE
from saes.fidelity import Fidelity
from saes.firing import Firing, density_histogram
from saes.reading import Acts, Reader, batch_rows
from saes.similarity import max_cosine

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Evaluation", "describe", "evaluate", "sae_name"]

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
ALIKE = 0.9
"""Cosine from which a latent counts as much like another."""


@dataclass(frozen=True, kw_only=True)
class Evaluation(Result):
    """What an SAE keeps of n activation rows y, as y_hat; sums and means run over the rows.

    A measure that has no value here is nan, and ``reasons`` says why.

    Attributes
    ----------
    architecture : as in `saes.ARCHITECTURES`.
    n_latents : how many latents.
    fvu : fraction of variance unexplained, ``sum |y - y_hat|^2 / sum |y - mean(y)|^2`` with the
        mean of each dimension over all n rows. One ratio of two sums: dimensions and rows count
        by their variance. 0 is perfect; 1 is as good as always predicting the mean; above 1 worse.
    explained_variance : ``1 - fvu``; at most 1.
    mse : mean squared error, summed over dimensions, in squared units of the activations.
    relative_error : mean of each row's own ``|y - y_hat|^2 / |y|^2``; rows of zeros are left out.
        Short rows count as much as long ones, and the mean activation is not taken off.
    cosine : mean cosine of y and y_hat, -1 to 1; rows where either is 0 are left out.
    norm_ratio : mean of ``|y_hat| / |y|``, rows of zeros left out; below 1 is shrinkage.
    rescale : the factor on y_hat with the least squared error, ``sum y.y_hat / sum |y_hat|^2``;
        above 1 is shrinkage. 1 / rescale is the relative reconstruction bias of Rajamanoharan et
        al. 2024, "Improving dictionary learning with gated sparse autoencoders", section 2.
    latent_rescale : the same factor for what is added to the bias, y_hat - b_dec, towards
        y - b_dec: a large bias cannot hide the latents' shrinkage.
    l0 : mean number of latents that fire in a row.
    l0_quantiles : the quantiles 0.05, 0.25, 0.5, 0.75 and 0.95 of that number: the smallest one
        that at least so large a share of rows stays within.
    density : [n_latents] share of the n rows in which each latent fires.
    dead : latents that fire in none of the n rows. It falls as n grows.
    dense : latents that fire in more than ``dense_above`` of the rows.
    dense_above : 0 to 1.
    max_cosine : [n_latents] cosine of each decoder direction to the one most like it; None where
        not asked for.
    zero_rows : rows of y that are 0.
    batch_size : rows at a time; it decides memory and not numbers.
    """

    kind: ClassVar[str] = "sae_evaluation"

    architecture: str
    n_latents: int
    fvu: float
    explained_variance: float
    mse: float
    relative_error: float
    cosine: float
    norm_ratio: float
    rescale: float
    latent_rescale: float
    l0: float
    l0_quantiles: tuple[int, ...]
    density: NDArray
    dead: int
    dense: int
    dense_above: float
    max_cosine: NDArray | None
    zero_rows: int
    batch_size: int

    def histogram(self) -> tuple[NDArray, NDArray]:
        """Live latents by log10 of their density: edges [b + 1] and counts [b]."""
        return density_histogram(self.density, self.n)

    def to_frame(self) -> "pd.DataFrame":
        """One row a measure."""
        import pandas as pd

        rows = [(name, value) for name, value in self._headline().items()]
        return pd.DataFrame(rows, columns=["measure", "value"]).astype({"value": float})

    def _headline(self) -> dict[str, float]:
        names = ("fvu", "explained_variance", "mse", "relative_error", "cosine", "norm_ratio",
                 "rescale", "latent_rescale", "l0")  # fmt: skip
        table = {name: getattr(self, name) for name in names}
        for q, value in zip(QUANTILES, self.l0_quantiles, strict=True):
            table[f"l0, quantile {q:g}"] = value
        table |= {"latents": self.n_latents, "dead": self.dead, "dense": self.dense}
        if self.max_cosine is not None:
            known = self.max_cosine[np.isfinite(self.max_cosine)]
            mean = known.mean() if len(known) else float("nan")
            table["max_cosine, mean"] = float(mean)
            table[f"max_cosine, at least {ALIKE}"] = int((known >= ALIKE).sum())
        return {**table, "rows": self.n}

    def metrics(self) -> dict[str, Any]:
        """Numbers and names for ``metrics.json``; the densities as their histogram."""
        edges, counts = self.histogram()
        return {
            "architecture": self.architecture,
            **self._headline(),
            "zero_rows": self.zero_rows,
            "dense_above": self.dense_above,
            "density_log10_edges": edges.tolist(),
            "density_counts": counts.tolist(),
            "reasons": self.reasons,
        }


def evaluate(
    sae: SAE,
    acts: Acts,
    *,
    y: Acts | None = None,
    batch_size: int | None = None,
    dense_above: float = 0.1,
    similarity: bool = True,
    name: str | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Evaluation:
    """What an SAE keeps of activations, and how sparsely.

    The rows are read once, in batches, and nothing is kept of them but sums in float64. The SAE is
    in eval mode meanwhile, so it encodes as it will in use (BatchTopK by its threshold).

    Parameters
    ----------
    acts : [n, d_in] rows, such as ``store["resid_post.3"]``; of a tensor or an array all leading
        axes are rows.
    y : [n, d_out] rows to predict: for transcoders only.
    batch_size : rows at a time; None for 4,096, or fewer where dense latents of so many would
        exceed 256 MiB.
    dense_above : density above which a latent counts as dense.
    similarity : compare the decoder's directions (`max_cosine`), at n_latents^2 d_out products.
    name : of the result; None for the hook point that the SAE's metadata names, or else the
        architecture.
    progress : called with (rows done, rows, what).

    Raises
    ------
    ShapeError
        The width is not the SAE's, or y has other rows.
    DataError
        There are no rows, or one holds nan or inf (the row is named).
    ParameterError
        y is missing or not wanted, or a setting is outside what it allows.
    NotFitted
        The SAE cannot encode yet.

    Notes
    -----
    Definitions that differ between toolkits: the variance is about the mean of each dimension over
    all rows, never over a batch or over dimensions; and errors are not centred, so a constant
    offset of y_hat counts against it.
    """
    if not 0 <= dense_above <= 1:
        raise ParameterError(f"dense_above must be from 0 to 1; got {dense_above!r}.")
    if sae.transcodes != (y is not None):
        need = "needs y, the activations to predict" if y is None else "predicts acts; give no y"
        raise ParameterError(f"evaluate: this SAE {need}.")
    size = batch_rows(sae, batch_size)
    device = sae.decoder.device
    fidelity = Fidelity(sae.b_dec.detach().flatten())
    firing = Firing(sae.n_latents, device)
    inputs = Reader(acts, sae.in_shape, size, "evaluate: acts")
    targets = inputs if y is None else Reader(y, sae.out_shape, size, "evaluate: y")
    if inputs.n != targets.n:
        raise ShapeError(f"evaluate: acts has {inputs.n} rows and y {targets.n}.")
    with evaluating(sae), torch.inference_mode():
        pairs = ((x, x) for x in inputs) if y is None else zip(inputs, targets, strict=True)
        for x, target in pairs:
            output, codes = sae(x.to(device, sae.decoder.dtype))
            fidelity.add(target.to(device).flatten(1), output.flatten(1))
            firing.add(codes)
            if progress is not None:
                progress(fidelity.n, inputs.n, "rows")
    scores: dict[str, Any]
    scores, reasons = fidelity.scores()
    density = firing.counts.cpu().numpy() / fidelity.n
    return Evaluation(
        name=name or sae_name(sae),
        n=fidelity.n,
        provenance=describe(sae),
        reasons=reasons,
        architecture=sae.architecture,
        n_latents=sae.n_latents,
        **scores,
        l0=firing.l0(),
        l0_quantiles=tuple(firing.quantile(q) for q in QUANTILES),
        density=density,
        dead=int((density == 0).sum()),
        dense=int((density > dense_above).sum()),
        dense_above=dense_above,
        max_cosine=max_cosine(sae).numpy() if similarity else None,
        zero_rows=fidelity.zero_rows,
        batch_size=size,
    )


def sae_name(sae: SAE) -> str:
    """What to call results of an SAE: the hook point it was trained at, else its architecture."""
    hookpoint = sae.metadata.get("hookpoint")
    return hookpoint if isinstance(hookpoint, str) and hookpoint else sae.architecture


def describe(sae: SAE) -> dict[str, Any]:
    """Provenance: what the SAE is and where it came from."""
    widths = {"d_in": math.prod(sae.in_shape), "d_out": math.prod(sae.out_shape)}
    about = {"architecture": sae.architecture, **widths, "config": sae.config.to_dict()}
    return {"sae": {**about, "metadata": sae.metadata}, "versions": versions()}
