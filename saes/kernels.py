"""Sparse encode and decode, forward and backward: a step's cost is one dense product, or less.

With k of N latents active a row, only the product ``x @ encoder.T`` that finds them is dense; on a
processor with int8 dot products not even that is needed in float (`saes._numba`). All else touches
active slots alone, forward and backward: no gradient of shape [n, N] is ever made, and except in
the eager backend no pre-activations [n, N] either.

A slot s has a row r(s), a latent j(s) and a value v(s). The products that occur are two::

    over the slots of a row      out[r] += v(s) * table[j(s)]     decode; gradient of x
    over the slots of a latent   out[j] += v(s) * table[r(s)]     gradients of encoder and decoder

and both are `segment_sums` of `saes.primitives`, which adds rows of a table by segments. The second
needs the slots sorted by latent, which is done once a step. The gradient of a value is the product
of a row and a decoder row, taken slot by slot: [n, k, d] is never made either. Sums run in a fixed
order, so that equal input gives equal bits on the same machine and backend.

Higher derivatives are not defined.
"""

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from interp.errors import ParameterError, ShapeError
from saes import primitives
from saes.codes import Codes
from saes.primitives import resolve

if TYPE_CHECKING:
    from saes.ranks import Ranks

__all__ = [
    "batch_topk_codes",
    "decode",
    "encode_above",
    "encode_batch_topk",
    "encode_topk",
    "topk_codes",
]

RULES = ("topk", "signed", "group_max", "statistical")
"""What ``rule`` of `encode_topk` may be."""


def topk_codes(pre: Float[Tensor, "n f"], k: int) -> Codes:
    """The k largest positive entries of each row as codes [n, k], largest first; no gradient.

    A row with fewer than k positive entries fills its last slots with 0. Of equal entries the one
    of lowest index comes first on the CPU; on a CUDA device, which of them is the device's choice.

    Degenerate: a nan counts as largest.
    """
    with torch.no_grad():
        return Codes(*primitives.topk(pre, k))


def batch_topk_codes(pre: Float[Tensor, "n f"], k: int) -> Codes:
    """The n * k largest positive entries of the whole batch as compressed rows; no gradient.

    There are n * k slots always, by rising row, then latent; where fewer entries are positive, the
    rest hold 0. Of equal entries the first in that order is taken on the CPU; on a CUDA device,
    which of them is the device's choice.

    Source: Bussmann et al. 2024, "BatchTopK Sparse Autoencoders", section 3.
    """
    with torch.no_grad():
        return Codes(*primitives.batch_topk(pre, k))


def encode_topk(
    x: Float[Tensor, "n d"],
    encoder: Float[Tensor, "f d"],
    b_enc: Float[Tensor, " f"],
    k: int,
    *,
    b_pre: Float[Tensor, " d"] | None = None,
    rule: str = "topk",
    backend: str = "auto",
) -> Codes:
    """`topk_codes` of the pre-activations ``(x - b_pre) @ encoder.T + b_enc``, with gradients.

    Parameters
    ----------
    x : [n, d] rows.
    encoder : [f, d], a row a latent.
    b_enc : [f].
    k : slots a row, from 1 to f.
    b_pre : [d], taken off x first; None for 0.
    rule : ``"topk"``; ``"signed"`` for the k largest in magnitude, with their signs (AbsTopK); or
        one of two that are cheaper than the exact choice and differ from it: ``"group_max"``, the
        largest of each of k groups of latents (f must be a multiple of k), and ``"statistical"``,
        what is above the k-th of f normal variates of the row's mean and deviation, compressed
        rows of about k slots.
    backend : one of `saes.primitives.BACKENDS`. All give the codes that float products decide;
        which of two pre-activations within rounding of each other is larger can differ.

    Returns
    -------
    Codes
        [n, k], values from 0 up. Gradients reach x, encoder, b_enc and b_pre from slots whose value
        is not 0, as through a ReLU.

    Raises
    ------
    ParameterError
        The backend is unknown or not for this device and dtype; the rule is unknown, or
        ``"group_max"`` does not divide; k is outside 1 to f.
    ShapeError
        There is not a bias a latent.
    """
    _check("encode_topk", encoder, b_enc, k)
    if rule not in RULES or (rule == "group_max" and len(encoder) % k):
        raise ParameterError(
            f"encode_topk: rule must be one of {', '.join(RULES)}, and group_max needs latents in "
            f"multiples of k; got {rule!r} with {len(encoder)} latents and k={k}."
        )
    return _encode(rule, x, encoder, b_enc, k, b_pre, backend)


def encode_batch_topk(
    x: Float[Tensor, "n d"],
    encoder: Float[Tensor, "f d"],
    b_enc: Float[Tensor, " f"],
    k: int,
    *,
    b_pre: Float[Tensor, " d"] | None = None,
    backend: str = "auto",
    ranks: "Ranks | None" = None,
) -> Codes:
    """`encode_topk` by `batch_topk_codes`: n * k slots in all, compressed rows.

    With ``ranks`` the rows are this process's of their batch, which has the n * k slots; those that
    hold 0 are left out.
    """
    _check("encode_batch_topk", encoder, b_enc, k)
    return _encode("batch_topk", x, encoder, b_enc, k, b_pre, backend, ranks)


def encode_above(
    x: Float[Tensor, "n d"],
    encoder: Float[Tensor, "f d"],
    b_enc: Float[Tensor, " f"],
    threshold: Float[Tensor, " f"],
    *,
    b_pre: Float[Tensor, " d"] | None = None,
    backend: str = "auto",
) -> Codes:
    """The pre-activations above a threshold of their latent, and above 0, as compressed rows.

    How BatchTopK and JumpReLU encode; no gradient. Parameters as of `encode_topk`; ``threshold``
    is [f].

    Returns
    -------
    Codes
        By rising row, then latent. A nan counts as above, so that it shows.
    """
    _check("encode_above", encoder, b_enc, 1)
    _check("encode_above", encoder, threshold, 1)
    with torch.no_grad():
        centred = x if b_pre is None else x - b_pre
        chosen = resolve(backend, x, len(x) * len(encoder))
        found = primitives.encode_above(centred, encoder, b_enc, threshold.clamp_min(0), chosen)
        return Codes(*found)


def decode(
    codes: Codes,
    W_dec: Float[Tensor, "f d"],
    b_dec: Float[Tensor, " d"] | None = None,
    *,
    backend: str = "auto",
) -> Float[Tensor, "n d"]:
    """``codes.dense(f) @ W_dec + b_dec`` by the active slots alone, with gradients.

    Parameters
    ----------
    codes : of n rows. Gradients reach ``codes.values``.
    W_dec : [f, d], a row a latent.
    b_dec : [d]; None for 0.
    backend : as for `encode_topk`.

    Returns
    -------
    Tensor
        [n, d]; ``b_dec`` in a row without slots.

    Raises
    ------
    ShapeError
        A slot names a latent that W_dec has not, or offsets do not rise from 0 to m; looked for on
        the CPU.
    """
    chosen = resolve(backend, W_dec, codes.indices.numel() * W_dec.shape[1])
    if W_dec.device.type == "cpu" and not torch.compiler.is_compiling():
        _check_slots(codes, len(W_dec))
    order, begins = codes.sorted_slots
    if begins is not None and len(begins) != len(W_dec) + 1:  # sorted for more latents, or fewer
        order = begins = None
    out = _Decode.apply(
        codes.values, W_dec, codes.indices, codes.edges, codes.rows, order, begins, chosen
    )
    return out if b_dec is None else out + b_dec


def _check(who: str, encoder: Tensor, of_latents: Tensor, k: int) -> None:
    """Kernels look at no bounds, so that all that reaches them must be within."""
    f = len(encoder)
    if of_latents.shape != (f,):
        raise ShapeError(
            f"{who}: a bias or threshold a latent must be [{f}]; got {list(of_latents.shape)}."
        )
    if not 1 <= k <= f:
        raise ParameterError(f"{who}: k must be from 1 to {f}, the latents; got {k}.")


def _check_slots(codes: Codes, n_latents: int) -> None:
    m = codes.indices.numel()
    if m:
        least, most = map(int, codes.indices.aminmax())
        if least < 0 or most >= n_latents:
            wrong = least if least < 0 else most
            raise ShapeError(f"decode: codes name latent {wrong}; the decoder has {n_latents}.")
    edges = codes.edges
    if int(edges[0]) != 0 or int(edges[-1]) != m or bool((edges.diff() < 0).any()):
        raise ShapeError(f"decode: offsets of codes must rise from 0 to {m}, the slots.")


def _encode(
    rule: str,
    x: Tensor,
    encoder: Tensor,
    b_enc: Tensor,
    k: int,
    b_pre: Tensor | None,
    backend: str,
    ranks: "Ranks | None" = None,
) -> Codes:
    chosen = resolve(backend, x, len(x) * len(encoder))
    inputs = (x, encoder, b_enc, b_pre)
    learns = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs)
    values, indices, offsets, rows, order, begins = _Encode.apply(
        *inputs, k, rule, chosen, learns, ranks
    )
    found = {"rows": rows}
    if order is not None:
        found |= {"order": order, "begins": begins}
    return Codes(values, indices, offsets, found)


class _Encode(torch.autograd.Function):
    """The values that a rule takes, as a function of x, encoder and biases."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        encoder: Tensor,
        b_enc: Tensor,
        b_pre: Tensor | None,
        k: int,
        rule: str,
        backend: str,
        learns: bool,
        ranks: "Ranks | None",
    ) -> tuple[Tensor | None, ...]:
        centred = x if b_pre is None else x - b_pre
        every = torch.arange(len(x), device=x.device)
        offsets = order = begins = None
        if rule in ("batch_topk", "statistical"):
            if rule == "batch_topk":
                of = primitives if ranks is None else ranks
                found = of.encode_batch_topk(centred, encoder, b_enc, k, backend)
            else:
                found = primitives.encode_statistical(centred, encoder, b_enc, k)
            values, indices, offsets = found
            rows = every.repeat_interleave(offsets.diff(), output_size=len(indices))
        else:
            values, indices = primitives.encode_topk(centred, encoder, b_enc, k, rule, backend)
            rows = every.repeat_interleave(k)
        if learns:
            order, begins = primitives.order(indices.flatten(), len(encoder), backend)
        edges = torch.arange(len(x) + 1, device=x.device) * k if offsets is None else offsets
        ctx.save_for_backward(centred, encoder, values, indices, edges, rows, order, begins)
        ctx.backend = backend
        still = (indices, offsets, rows, order, begins)
        ctx.mark_non_differentiable(*(t for t in still if t is not None))
        return values, *still

    @staticmethod
    @once_differentiable  # which takes the name of ctx away
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        centred, encoder, values, indices, edges, rows, order, begins = ctx.saved_tensors
        for_x, for_encoder, for_b_enc, for_b_pre, *_ = ctx.needs_input_grad
        backend = ctx.backend
        slots = (grad_outputs[0] * (values != 0)).flatten()
        to_x = to_encoder = bias = None
        if for_x:
            to_x = primitives.segment_sums(slots, indices.flatten(), edges, encoder, backend)
        if for_encoder:
            to_encoder = primitives.segment_sums(slots, rows, begins, centred, backend, order)
        if for_b_enc or for_b_pre:
            one = torch.ones_like(centred[:, :1])
            bias = primitives.segment_sums(slots, rows, begins, one, backend, order)[:, 0]
        to_b_pre = -(bias @ encoder) if for_b_pre and bias is not None else None
        return to_x, to_encoder, bias, to_b_pre, None, None, None, None, None


class _Decode(torch.autograd.Function):
    """The values' weighted sum of decoder rows."""

    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        W_dec: Tensor,
        indices: Tensor,
        edges: Tensor,
        rows: Tensor,
        order: Tensor | None,
        begins: Tensor | None,
        backend: str,
    ) -> Tensor:
        ctx.save_for_backward(values, W_dec, indices, edges, rows, order, begins)
        ctx.backend = backend
        return primitives.segment_sums(values.flatten(), indices.flatten(), edges, W_dec, backend)

    @staticmethod
    @once_differentiable  # which takes the name of ctx away
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        (grad,) = grad_outputs
        values, W_dec, indices, edges, rows, order, begins = ctx.saved_tensors
        for_values, for_W_dec, *_ = ctx.needs_input_grad
        picks = indices.flatten()
        to_values = to_W_dec = None
        if for_values:
            products = primitives.slot_products(grad, W_dec, picks, edges, ctx.backend)
            to_values = products.view_as(values)
        if for_W_dec:
            if order is None:
                order, begins = primitives.order(picks, len(W_dec), ctx.backend)
            slots = values.flatten()
            to_W_dec = primitives.segment_sums(slots, rows, begins, grad, ctx.backend, order)
        return to_values, to_W_dec, None, None, None, None, None, None
