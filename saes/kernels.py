"""Sparse encode and decode, forward and backward: a step's cost is one dense product.

With k of N latents active a row, only the product ``x @ encoder.T`` that finds them is dense. All
else touches active slots alone, forward and backward: no gradient of shape [n, N] is ever made.

A slot s has a row r(s), a latent j(s) and a value v(s). The products that occur are two::

    over the slots of a row      out[r] += v(s) * table[j(s)]     decode; gradient of x
    over the slots of a latent   out[j] += v(s) * table[r(s)]     gradients of encoder and decoder

and both are one `embedding_bag`, which adds rows of a table by bags. The second needs the slots
sorted by latent; `Codes` sorts once a step. The gradient of a value is the product of a row and a
decoder row, taken slot by slot: [n, k, d] is never made either. Sums run in a fixed order, so that
equal input gives equal bits on the same machine.

Higher derivatives are not defined.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import embedding_bag, linear

from saes.codes import Codes

__all__ = [
    "batch_topk_codes",
    "encode_batch_topk",
    "encode_topk",
    "sparse_decode",
    "topk_codes",
]


def topk_codes(pre: Float[Tensor, "n f"], k: int) -> Codes:
    """The k largest positive entries of each row as codes [n, k], largest first; no gradient.

    A row with fewer than k positive entries fills its last slots with 0. Of equal entries the one
    of lowest index comes first on the CPU; on a CUDA device, which of them is the device's choice.

    Degenerate: a nan counts as largest.
    """
    with torch.no_grad():
        values, indices = pre.topk(min(k + 1, pre.shape[1]), dim=1)
        if not pre.is_cuda:  # there, to look for ties would be to wait for the device
            tied = ((values[:, 1:] == values[:, :-1]) & (values[:, 1:] > 0)).any(1)
            if tied.any():
                ranked = pre[tied].sort(dim=1, descending=True, stable=True).indices
                indices[tied] = ranked[:, : indices.shape[1]]
        return Codes(values[:, :k].relu(), indices[:, :k].contiguous())


def batch_topk_codes(pre: Float[Tensor, "n f"], k: int) -> Codes:
    """The n * k largest positive entries of the whole batch as compressed rows; no gradient.

    There are n * k slots always, by rising row, then latent; where fewer entries are positive, the
    rest hold 0. Of equal entries the first in that order is taken on the CPU; on a CUDA device,
    which of them is the device's choice.

    Source: Bussmann et al. 2024, "BatchTopK Sparse Autoencoders", section 3.
    """
    with torch.no_grad():
        n, f = pre.shape
        width = f if pre.is_cuda else min(f, 4 * k)  # a CPU is slow to rank a whole batch at once
        while True:
            values, indices = pre.topk(width, dim=1)
            best, chosen = values.flatten().topk(n * k)
            least = best[-1:]
            beyond = (values[:, -1] >= least) & (least > 0)  # rows that may have left some out
            if width == f or not beyond.any():
                break
            width = min(f, 2 * width)
        place = indices + torch.arange(n, device=pre.device)[:, None] * f
        taken = place.flatten()[chosen]
        if not pre.is_cuda and ((values == least).sum() > (best == least).sum()) & (least > 0):
            place = place.flatten().sort()
            ranked = values.flatten()[place.indices].sort(descending=True, stable=True)
            taken = place.values[ranked.indices[: n * k]]
        taken = taken.sort().values
        offsets = torch.searchsorted(taken, torch.arange(n + 1, device=pre.device) * f)
        return Codes(pre.flatten()[taken].relu(), taken % f, offsets)


def encode_topk(
    x: Float[Tensor, "n d"],
    encoder: Float[Tensor, "f d"],
    b_enc: Float[Tensor, " f"],
    k: int,
    *,
    b_pre: Float[Tensor, " d"] | None = None,
) -> Codes:
    """`topk_codes` of the pre-activations ``(x - b_pre) @ encoder.T + b_enc``, with gradients.

    Parameters
    ----------
    x : [n, d] rows.
    encoder : [f, d], a row a latent.
    b_enc : [f].
    k : slots a row, from 1 to f.
    b_pre : [d], taken off x first; None for 0.

    Returns
    -------
    Codes
        [n, k], values from 0 up. Gradients reach x, encoder, b_enc and b_pre from slots whose value
        is above 0, as through a ReLU.
    """
    return _encode(topk_codes, x, encoder, b_enc, k, b_pre)


def encode_batch_topk(
    x: Float[Tensor, "n d"],
    encoder: Float[Tensor, "f d"],
    b_enc: Float[Tensor, " f"],
    k: int,
    *,
    b_pre: Float[Tensor, " d"] | None = None,
) -> Codes:
    """`encode_topk` by `batch_topk_codes`: n * k slots in all, compressed rows."""
    return _encode(batch_topk_codes, x, encoder, b_enc, k, b_pre)


def sparse_decode(
    codes: Codes, W_dec: Float[Tensor, "f d"], b_dec: Float[Tensor, " d"] | None = None
) -> Float[Tensor, "n d"]:
    """``codes.dense(f) @ W_dec + b_dec`` by the active slots alone, with gradients.

    Parameters
    ----------
    codes : of n rows. Gradients reach ``codes.values``.
    W_dec : [f, d], a row a latent.
    b_dec : [d]; None for 0.

    Returns
    -------
    Tensor
        [n, d]; ``b_dec`` in a row without slots.
    """
    out = _Decode.apply(codes.values, W_dec, codes)
    return out if b_dec is None else out + b_dec


def _encode(
    select: Callable[[Tensor, int], Codes],
    x: Tensor,
    encoder: Tensor,
    b_enc: Tensor,
    k: int,
    b_pre: Tensor | None,
) -> Codes:
    with torch.no_grad():
        centred = x if b_pre is None else x - b_pre
        codes = select(linear(centred, encoder, b_enc), k)
        codes = codes.with_values(codes.values.to(x.dtype))  # autocast computes in another
    return codes.with_values(_Chosen.apply(x, encoder, b_enc, b_pre, centred, codes))


class _Chosen(torch.autograd.Function):
    """Values that are known already, as a function of what they were computed from."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        encoder: Tensor,
        b_enc: Tensor,
        b_pre: Tensor | None,
        centred: Tensor,
        codes: Codes,
    ) -> Tensor:
        ctx.save_for_backward(centred, encoder)
        ctx.codes = codes
        return codes.values.clone()

    @staticmethod
    @once_differentiable  # which takes the name of ctx away
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        (grad,) = grad_outputs
        centred, encoder = ctx.saved_tensors
        for_x, for_encoder, for_b_enc, for_b_pre, _, _ = ctx.needs_input_grad
        codes = ctx.codes.with_values(grad * (ctx.codes.values > 0))
        f = len(encoder)
        bias = None
        if for_b_enc or for_b_pre:
            bias = _over_latents(codes, torch.ones_like(centred[:, :1]), f)[:, 0]
        return (
            _over_rows(codes, encoder) if for_x else None,
            _over_latents(codes, centred, f) if for_encoder else None,
            bias,
            -(bias @ encoder) if for_b_pre and bias is not None else None,
            None,
            None,
        )


class _Decode(torch.autograd.Function):
    """The values' weighted sum of decoder rows."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, W_dec: Tensor, codes: Codes) -> Tensor:
        ctx.save_for_backward(values, W_dec)
        ctx.codes = codes.with_values(values.detach())
        return _over_rows(ctx.codes, W_dec)

    @staticmethod
    @once_differentiable  # which takes the name of ctx away
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        (grad,) = grad_outputs
        values, W_dec = ctx.saved_tensors
        for_values, for_W_dec, _ = ctx.needs_input_grad
        return (
            _slot_products(ctx.codes, grad, W_dec).view_as(values) if for_values else None,
            _over_latents(ctx.codes, grad, len(W_dec)) if for_W_dec else None,
            None,
        )


def _over_rows(codes: Codes, table: Tensor) -> Tensor:
    """[n, d]: for each row, the sum over its slots of value times the latent's row of the table."""
    return embedding_bag(
        codes.indices.flatten(),
        table,
        codes.edges,
        mode="sum",
        per_sample_weights=codes.values.flatten(),
        include_last_offset=True,
    )


def _over_latents(codes: Codes, table: Tensor, n_latents: int) -> Tensor:
    """[f, d]: for each latent, the sum over its slots of value times the row's row of the table."""
    order, edges = codes.by_latent(n_latents)
    return embedding_bag(
        codes.rows[order],
        table,
        edges,
        mode="sum",
        per_sample_weights=codes.values.flatten()[order],
        include_last_offset=True,
    )


def _slot_products(codes: Codes, left: Tensor, right: Tensor) -> Tensor:
    """[m]: for each slot, the product of its row of ``left`` [n, d] and its latent of ``right``.

    The operator behind the gradient of `embedding_bag`'s weights: it gathers nothing.
    """
    return torch.ops.aten._embedding_bag_per_sample_weights_backward(
        left.contiguous(), right, codes.indices.flatten(), codes.edges[:-1], codes.rows, 0, -1
    )
