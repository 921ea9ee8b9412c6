"""AuxK: dead latents learn to explain what the live ones left."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saes.base import squared_error
from saes.codes import Codes
from saes.kernels import decode

__all__ = ["auxk_error", "rows_of"]


def auxk_error(
    codes: Codes,
    decoder: Float[Tensor, "m d"],
    target: Float[Tensor, "n d"],
    output: Float[Tensor, "n d"],
    *,
    backend: str = "auto",
) -> Tensor:
    """How badly dead latents explain what an output left, in units of the reconstruction; 0-d.

    With e = target - output, held fixed, and e_hat the decoded codes (no bias)::

        Var(target) * |e - e_hat|^2 / Var(e)

    where |.|^2 is summed over features and averaged over rows, and Var is the same about the
    batch's mean.

    Parameters
    ----------
    codes : of the n rows, over the m dead latents.
    decoder : [m, d] their decoder rows.

    Degenerate: 0 where Var(e) is 0.
    """
    residual = (target - output).detach()
    spread = _spread(residual)
    scale = _spread(target) / torch.where(spread > 0, spread, 1)
    scale = torch.where(spread > 0, scale, 0)
    return scale.detach() * squared_error(decode(codes, decoder, backend=backend), residual)


def rows_of(parameter: Float[Tensor, "f ..."], rows: Int[Tensor, " m"]) -> Float[Tensor, "m ..."]:
    """Some rows of a parameter, each once: their gradient is put into its place, not added."""
    return _Rows.apply(parameter, rows)


def _spread(rows: Tensor) -> Tensor:
    """Squared distance to the rows' mean, its mean over rows; 0 where that is within rounding.

    Not the mean square less the squared mean, of which float32 keeps nothing where means are large.
    """
    mean = rows.mean(0)
    apart = squared_error(rows, mean)
    return torch.where(apart > 1e-12 * mean.square().sum(), apart, 0)


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, parameter: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.shape = parameter.shape
        return parameter.index_select(0, rows)

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor, None]:
        (rows,) = ctx.saved_tensors
        return grad_outputs[0].new_zeros(ctx.shape).index_copy(0, rows, grad_outputs[0]), None
