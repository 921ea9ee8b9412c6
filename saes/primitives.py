"""What the kernels are made of, on each backend: operators that know no gradients.

===================  =======================================================================
`encode_topk`        the k largest positive pre-activations of each row, and kin
`encode_batch_topk`  the n * k largest of the batch
`encode_above`       those above a threshold
`encode_statistical` those above a quantile of a normal distribution
`order`              slots sorted by latent: one counting sort a step, shared by all
`segment_sums`       sums of weighted rows: decode, the gradients of encoder, decoder and x
`slot_products`      a product a slot: the gradients of latents
===================  =======================================================================

``"eager"`` is ATen's operators, for every device and dtype, and what the others are tested against.
``"numba"`` and ``"int8"`` (`saes._numba`) are for a CPU in float32; the second finds latents with
an integer product and then computes them as the first does. ``"triton"`` (`saes._triton`) is for
CUDA in float32, bfloat16 and float16. Each is an operator of torch's, so that ``torch.compile``
takes it as it is.
"""

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op
from torch.nn.functional import embedding_bag, linear

from interp.errors import ParameterError, closest

__all__ = [
    "BACKENDS",
    "batch_topk",
    "encode_above",
    "encode_batch_topk",
    "encode_statistical",
    "encode_topk",
    "order",
    "resolve",
    "segment_sums",
    "slot_products",
    "topk",
]

BACKENDS = ("auto", "eager", "compile", "numba", "int8", "triton")
"""What a ``backend`` argument may be; ``"compile"`` is ``"auto"`` under ``torch.compile``."""
SMALL = 2**20
"""Numbers that an operator goes through, below which ``"auto"`` stays with ATen on a CPU."""


def resolve(backend: str, like: Tensor, work: int) -> str:
    """The backend that runs: ``eager``, ``numba``, ``int8`` or ``triton``.

    Parameters
    ----------
    backend : one of `BACKENDS`.
    like : a tensor of the device and dtype.
    work : how many numbers the operator goes through. The choice depends on nothing that changes
        between equal runs.

    Raises
    ------
    ParameterError
        The backend is unknown, or cannot run on this device or dtype.
    """
    plain = like.device.type == "cpu" and like.dtype == torch.float32
    if backend in ("auto", "compile"):
        if like.is_cuda and like.dtype != torch.float64 and _has_triton():
            new = torch.cuda.get_device_capability(like.device) >= (8, 0)
            return "triton" if new else "eager"
        if not plain or work < SMALL:
            return "eager"
        return "int8" if _has_int8() else "numba"
    if backend == "eager":
        return backend
    if backend not in BACKENDS:
        hint = closest(backend, BACKENDS) or f"known are {', '.join(BACKENDS)}."
        raise ParameterError(f"backend {backend!r} is unknown; {hint}")
    if backend == "triton":
        if not _has_triton():
            raise ParameterError("backend triton needs the package triton, which is not installed.")
        from saes import _triton

        if like.dtype not in _triton.FLOATS or not (like.is_cuda or _triton.INTERPRETED):
            raise ParameterError(
                "backend triton is for float32, bfloat16 and float16 on a CUDA device; got "
                f"{like.dtype} on {like.device}."
            )
        return backend
    if not plain:
        raise ParameterError(
            f"backend {backend} is for float32 on a CPU; got {like.dtype} on {like.device}."
        )
    return backend


def _has_int8() -> bool:
    """Whether the processor multiplies int8 at more than float's speed."""
    asked = getattr(torch.cpu, "_is_vnni_supported", None)
    return bool(asked and asked())


def _has_triton() -> bool:
    from importlib.util import find_spec

    return find_spec("triton") is not None


class _Operator:
    """A function that is one operator to ``torch.compile``, and outside of it just itself.

    Called as an operator it would import the compiler, which takes 150 MB.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.operator = custom_op(f"interp::{function.__name__}", function, mutates_args=())
        self.register_fake = self.operator.register_fake

    def __call__(self, *given: Any) -> Any:
        return self.operator(*given) if torch.compiler.is_compiling() else self.function(*given)


@_Operator
def encode_topk(
    x: Tensor, encoder: Tensor, b_enc: Tensor, k: int, rule: str, backend: str
) -> tuple[Tensor, Tensor]:
    """Values [n, k], largest first, and int64 indices of ``x @ encoder.T + b_enc`` by a rule.

    ``"topk"`` takes the k largest above 0, ``"signed"`` the k largest in magnitude with their
    signs; ``"group_max"`` the largest above 0 of each of k groups of latents, group g being those
    whose index leaves g when divided by k, in the order of the groups. Of equal values the lowest
    index comes first on a CPU and from Triton; eager on CUDA leaves it to the device. A nan counts
    as largest.
    """
    x, encoder, b_enc = x.detach(), encoder.detach(), b_enc.detach()
    if backend in ("numba", "int8") and rule != "group_max":
        from saes import _numba

        parts = (x.contiguous(), encoder.contiguous(), b_enc.contiguous())
        found = _numba.encode_topk(*parts, k, signed=rule == "signed", screen=backend == "int8")
        if found is not None:
            return found
    if backend == "triton" and rule == "topk":
        from saes import _triton

        return _triton.encode_topk(x, encoder, b_enc, k)
    pre = linear(x, encoder, b_enc)
    if rule == "topk":
        values, indices = topk(pre, k)
    elif rule == "signed":
        magnitudes, indices = topk(pre.abs(), k)
        values = pre.gather(1, indices).where(magnitudes > 0, 0)
    else:
        best = pre.view(len(pre), len(encoder) // k, k).max(dim=1)
        indices = best.indices * k + torch.arange(k, device=pre.device)
        values = best.values.relu()
    return values.to(x.dtype), indices  # autocast computes in another


@encode_topk.register_fake
def _(
    x: Tensor, encoder: Tensor, b_enc: Tensor, k: int, rule: str, backend: str
) -> tuple[Tensor, Tensor]:
    return x.new_empty(len(x), k), x.new_empty(len(x), k, dtype=torch.int64)


def topk(pre: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """`encode_topk` of pre-activations [n, f] that are there already, by ATen."""
    values, indices = pre.topk(min(k + 1, pre.shape[1]), dim=1)
    if not pre.is_cuda:  # there, to look for ties would be to wait for the device
        tied = ((values[:, 1:] == values[:, :-1]) & (values[:, 1:] > 0)).any(1)
        if tied.any():
            ranked = pre[tied].sort(dim=1, descending=True, stable=True).indices
            indices[tied] = ranked[:, : indices.shape[1]]
    return values[:, :k].relu(), indices[:, :k].contiguous()


@_Operator
def encode_batch_topk(
    x: Tensor, encoder: Tensor, b_enc: Tensor, k: int, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    """The n * k largest of the batch: values and indices [n * k], offsets [n + 1]."""
    x, encoder, b_enc = x.detach(), encoder.detach(), b_enc.detach()
    if backend in ("numba", "int8"):
        from saes import _numba

        parts = (x.contiguous(), encoder.contiguous(), b_enc.contiguous())
        found = _numba.encode_batch_topk(*parts, k, screen=backend == "int8")
        if found is not None:
            return found
    if backend == "triton":
        from saes import _triton

        return _triton.encode_batch_topk(x, encoder, b_enc, k)
    values, indices, offsets = batch_topk(linear(x, encoder, b_enc), k)
    return values.to(x.dtype), indices, offsets


@encode_batch_topk.register_fake
def _(
    x: Tensor, encoder: Tensor, b_enc: Tensor, k: int, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    m, whole = len(x) * k, torch.int64
    return x.new_empty(m), x.new_empty(m, dtype=whole), x.new_empty(len(x) + 1, dtype=whole)


def batch_topk(pre: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """`encode_batch_topk` of pre-activations [n, f] that are there already, by ATen."""
    n, f = pre.shape
    if not n:
        empty = torch.zeros(1, dtype=torch.int64, device=pre.device)
        return pre.flatten(), empty[:0].clone(), empty
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
    return pre.flatten()[taken].relu(), taken % f, offsets


@_Operator
def encode_statistical(
    x: Tensor, encoder: Tensor, b_enc: Tensor, k: int
) -> tuple[Tensor, Tensor, Tensor]:
    """What is above 0 and the row's mean plus its deviation times the (1 - k / f) normal quantile.

    Values and indices [m], offsets [n + 1]. Rows are looked through a part at a time.
    """
    n, f = len(x), len(encoder)
    quantile = NormalDist().inv_cdf(1 - k / f) if k < f else -math.inf
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    if not n:  # a deviation of nothing warns
        none = torch.zeros(1, dtype=torch.int64, device=x.device)
        return x.new_empty(0), none[:0].clone(), none
    for rows in x.detach().split(max(1, SMALL // f)):
        pre = linear(rows, encoder.detach(), b_enc.detach())
        spread = pre.std(dim=1, correction=0, keepdim=True)
        least = pre.mean(dim=1, keepdim=True) + quantile * spread if k < f else spread * 0
        r, indices = (pre > least.clamp_min(0)).nonzero(as_tuple=True)
        found.append((pre[r, indices].to(x.dtype), indices, r.bincount(minlength=len(rows))))
    values, indices, counts = map(torch.cat, zip(*found, strict=True))
    return values, indices, torch.cat([counts.new_zeros(1), counts.cumsum(0)])


@encode_statistical.register_fake
def _(x: Tensor, encoder: Tensor, b_enc: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    m, whole = torch.library.get_ctx().new_dynamic_size(), torch.int64
    return x.new_empty(m), x.new_empty(m, dtype=whole), x.new_empty(len(x) + 1, dtype=whole)


def encode_above(
    x: Tensor, encoder: Tensor, b_enc: Tensor, threshold: Tensor, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    """What is above ``threshold`` [f], itself at least 0: values and indices [m], offsets."""
    if backend in ("numba", "int8"):
        from saes import _numba

        parts = [t.detach().contiguous() for t in (x, encoder, b_enc, threshold)]
        found = _numba.encode_above(*parts, screen=backend == "int8")
        if found is not None:
            return found
    if backend == "triton":
        from saes import _triton

        return _triton.encode_above(x, encoder, b_enc, threshold)
    pre = linear(x, encoder, b_enc)
    rows, indices = (~(pre <= threshold)).nonzero(as_tuple=True)  # nan too
    edges = torch.arange(len(x) + 1, device=x.device)
    return pre[rows, indices].to(x.dtype), indices, torch.searchsorted(rows, edges)


@_Operator
def order(indices: Tensor, n_latents: int, backend: str) -> tuple[Tensor, Tensor]:
    """Slots [m] sorted by latent, then slot, and where each latent's begin, [f + 1]."""
    if backend in ("numba", "int8"):
        from saes import _numba

        return _numba.order_by_latent(indices.contiguous(), n_latents)
    slots = indices.flatten()  # a CUDA device sorts so too, stably: Triton adds nothing
    ranked, places = slots.sort(stable=True)
    return places, torch.searchsorted(ranked, torch.arange(n_latents + 1, device=slots.device))


@order.register_fake
def _(indices: Tensor, n_latents: int, backend: str) -> tuple[Tensor, Tensor]:
    return indices.new_empty(indices.numel()), indices.new_empty(n_latents + 1)


@_Operator
def segment_sums(
    values: Tensor,
    picks: Tensor,
    edges: Tensor,
    table: Tensor,
    backend: str,
    order: Tensor | None = None,
) -> Tensor:
    """[s, d]: over the slots of each of s segments, the sum of value times picked table row.

    values, picks : [m], of slots. edges : [s + 1]. With ``order`` [m] the slots stand in the
    segments in its order. Sums run in an order that the slots fix.
    """
    values, table = values.detach(), table.detach()
    if backend in ("numba", "int8"):
        from saes import _numba

        return _numba.segment_sums(values, picks, edges, table, order)
    if order is not None:
        values, picks = values[order], picks[order]
    if backend == "triton":
        from saes import _triton

        return _triton.segment_sums(values, picks, edges, table)
    return embedding_bag(
        picks, table, edges, mode="sum", per_sample_weights=values, include_last_offset=True
    )


@segment_sums.register_fake
def _(
    values: Tensor,
    picks: Tensor,
    edges: Tensor,
    table: Tensor,
    backend: str,
    order: Tensor | None = None,
) -> Tensor:
    return table.new_empty(len(edges) - 1, table.shape[1])


@_Operator
def slot_products(
    left: Tensor, right: Tensor, picks: Tensor, edges: Tensor, backend: str
) -> Tensor:
    """[m]: for each slot, the product of its segment's row of ``left`` and its row of ``right``."""
    left, right = left.detach(), right.detach()
    if backend in ("numba", "int8"):
        from saes import _numba

        return _numba.slot_products(left, right, picks, edges)
    if backend == "triton":
        from saes import _triton

        return _triton.slot_products(left, right, picks, edges)
    segments = torch.arange(len(left), device=left.device)
    rows = segments.repeat_interleave(edges.diff(), output_size=len(picks))
    # The operator behind the gradient of `embedding_bag`'s weights: it gathers nothing.
    return torch.ops.aten._embedding_bag_per_sample_weights_backward(
        left.contiguous(), right, picks, edges[:-1], rows, 0, -1
    )


@slot_products.register_fake
def _(left: Tensor, right: Tensor, picks: Tensor, edges: Tensor, backend: str) -> Tensor:
    return left.new_empty(len(picks))
