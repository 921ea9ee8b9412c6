"""Where training starts, from a sample of the activations: scale, and the decoder's bias."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import DataError, ParameterError
from saes.base import SAE
from saes.transcoder import Transcoder
from saes.vl import VLSAE

__all__ = ["CENTRES", "centre", "fold_scale", "geometric_median", "unit_scale"]

CENTRES = ("mean", "geometric_median", "zero")
PART = 4096
"""Rows that are taken to float64 at a time."""
MEDIAN_ROWS = 2**14


def unit_scale(x: Float[Tensor, "n ..."]) -> Float[Tensor, "..."]:
    """The factor that makes the mean norm of rows the square root of their width.

    Parameters
    ----------
    x : [n, d], or [n, layers, d], each layer for itself.

    Returns
    -------
    Tensor
        [1], or [layers, 1], float32.

    Raises
    ------
    DataError
        All rows are 0.

    Source: Anthropic 2024, "Scaling monosemanticity", which scales the mean squared norm; Conerly
    et al. 2024, "Update on how we train SAEs". Differs: the mean norm, on which a few rows of
    great norm weigh less.
    """
    norm = _mean(x, lambda part: part.norm(dim=-1))
    if not (norm > 0).all():
        raise DataError("train: all activations are 0.")
    return (math.sqrt(x.shape[-1]) / norm).float().unsqueeze(-1)


def centre(x: Float[Tensor, "n ..."], how: str) -> Float[Tensor, "..."]:
    """The first decoder bias: ``"mean"``, ``"geometric_median"`` or ``"zero"``; float32.

    Raises
    ------
    ParameterError
        ``how`` is none of these.
    """
    if how not in CENTRES:
        raise ParameterError(f"b_dec must be one of {', '.join(CENTRES)}; got {how!r}.")
    if how == "zero":
        return x.new_zeros(x.shape[1:], dtype=torch.float32)
    if how == "geometric_median":
        return geometric_median(x.flatten(1)).view(x.shape[1:]).float()
    return _mean(x, lambda part: part).float()


def _mean(x: Tensor, of: Callable[[Tensor], Tensor]) -> Tensor:
    """The mean over rows of what is said of them, in float64, a part at a time."""
    room = torch.empty(min(PART, len(x)), *x.shape[1:], dtype=torch.float64, device=x.device)
    total = torch.zeros((), dtype=torch.float64, device=x.device)
    for part in x.split(PART):
        total = total + of(room[: len(part)].copy_(part)).sum(0)
    return total / len(x)


def geometric_median(
    x: Float[Tensor, "n d"], *, steps: int = 100, tolerance: float = 1e-6
) -> Float[Tensor, " d"]:
    """The point with the least sum of distances to rows, by Weiszfeld's iteration; float64.

    Parameters
    ----------
    x : [n, d]; of more than 16,384 rows, evenly spaced ones are taken.
    steps : iterations at most.
    tolerance : stop where a step moves less than this share of the mean distance.

    Degenerate: rows that are all equal give that row. At a row of the data its weight, which would
    be infinite, is that of the tolerance.

    Source: Weiszfeld 1937; as in Bricken et al. 2023, "Towards monosemanticity".
    """
    rows = x[:: math.ceil(len(x) / MEDIAN_ROWS)].double()
    point = rows.mean(0)
    for _ in range(steps):
        distance = (rows - point).norm(dim=1)
        mean = distance.mean()
        if mean == 0:
            return point
        weight = 1 / distance.clamp_min(tolerance * float(mean))
        moved = (weight / weight.sum()) @ rows
        done = (moved - point).norm() < tolerance * mean
        point = moved
        if done:
            break
    return point


def fold_scale(sae: SAE, scale_in: Tensor, scale_out: Tensor) -> None:
    """Make an SAE of scaled activations one of raw ones, in place.

    With x' = scale_in x and y' = scale_out y (scale_out is scale_in for an autoencoder)::

        sae'(scale_in x) / scale_out = sae(x)

    The latents are unchanged: they keep the magnitude of the scaled activations, and decoder rows,
    of length 1 in training, have length 1 / scale_out.

    Parameters
    ----------
    scale_in, scale_out : [1], or [layers, 1]; broadcast against ``in_shape`` and ``out_shape``.
    """
    if isinstance(sae, VLSAE):  # which reads both, each in its own scale
        sae.fold_scales(scale_in, scale_out)
        return
    with torch.no_grad():
        sae.encoder.mul_(scale_in.expand(sae.in_shape).reshape(-1))
        sae.decoder.div_(scale_out.expand(sae.out_shape).reshape(-1))
        sae.b_dec.div_(scale_out.expand(sae.out_shape))
        if isinstance(sae, Transcoder) and sae.W_skip is not None:
            sae.W_skip.mul_(scale_in / scale_out)
