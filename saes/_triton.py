"""The kernels of `saes.kernels` in Triton, for a CUDA device in float32, bfloat16 or float16.

No GPU was at hand when they were written. Triton's interpreter runs them on a CPU in the tests, and
Triton compiles them for two generations of GPUs; how fast they are is not known, and the sizes of
tiles and blocks below are reasoned, not measured.

**Encode.** Pre-activations are torch's product, as autocast and TF32 have it, in tiles of rows:
[n, f] is never held whole. Floats above 0 order as their bits do, so that a largest number is found
bit by bit, by counting what reaches a bound. `_candidates` takes the maxima of as many groups of
latents as there are lanes, and the k-th largest of them: at least k entries of the row reach it,
and few others do. These are written down. `_choose` finds the k-th largest of what is written down,
or of the row itself where there was no room for all, such as in a row of ties. It decides so on the
device: nothing is guessed, and the host waits for nothing.

**Sums** of segments of very different length: a program has a segment and a tile of columns. The
longest segments start first, so that no long one is left to run alone at the end; one segment is
never split. **Products** of slots go in blocks of slots, which balance whatever the rows.

There are no atomics, and each sum has an order that nothing but the slots decides: equal input
gives equal bits on the same device. Widths are not padded; a last tile is masked.
"""

from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton import knobs

__all__ = [
    "INTERPRETED",
    "encode_above",
    "encode_batch_topk",
    "encode_topk",
    "segment_sums",
    "slot_products",
]

INTERPRETED = bool(knobs.runtime.interpret)
"""Whether Triton's interpreter runs the kernels, on any device: TRITON_INTERPRET=1."""
TILE = 2**27
"""Bytes of pre-activations held at a time: many rows a product, which reads all latents again."""
GROUPS = (1024, 8192)
"""Groups of latents in a row, at least and at most; four to each of the k where that lies between.

With k above the most, all that is above 0 is a candidate.
"""
ROOM = 4
"""Candidates that are written down a row, as a multiple of k: about 1.15 are needed of noise."""
BLOCK = 1024
"""Candidates looked at together."""
SLOTS, COLUMNS = 16, 128
"""Slots and columns that a program takes together."""
FLOATS = {
    torch.float32: (31, 0x7F800000),
    torch.bfloat16: (15, 0x7F80),
    torch.float16: (15, 0x7C00),
}
"""Bits beside the sign, and the bits of infinity."""
_kernel: Any = triton.jit


def encode_topk(x: Tensor, encoder: Tensor, b_enc: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest positive ``x @ encoder.T + b_enc`` of each row, [n, k], largest first.

    Of equal ones the lowest index comes first; a row with fewer than k ends in 0, of latents that
    mean nothing. A nan counts as largest.

    Parameters
    ----------
    x, encoder, b_enc : [n, d], [f, d] and [f]. Autocast's dtype, or theirs, is the product's.
    k : from 1 to f.
    """
    n, f = len(x), len(encoder)
    dtype, most = _tile(x, f)
    (bits, infinite), whole = FLOATS[dtype], torch.int32 if dtype.itemsize == 4 else torch.int16
    values = torch.empty(n, k, dtype=dtype, device=x.device)
    indices = torch.empty(n, k, dtype=torch.int64, device=x.device)
    lanes = min(_power(f), max(GROUPS[0], min(_power(4 * k), GROUPS[1])))
    room = min(f, ROOM * k + 64)
    found = torch.empty(2, min(most, n), room, dtype=torch.int32, device=x.device)
    counts = found.new_empty(min(most, n))
    for start, pre in _tiles(x, encoder, b_enc):
        rows = slice(start, start + len(pre))
        parts = (pre.view(whole), found[0], found[1], counts)
        out = (values[rows].view(whole), indices[rows])
        warps = max(4, lanes // 512)
        _run(_candidates, (len(pre),), *parts, f, k, room, lanes, bits, infinite, warps=warps)
        _run(_choose, (len(pre),), *parts, *out, f, k, room, BLOCK, bits, infinite)
    values, order = values.sort(dim=1, descending=True, stable=True)  # they came by rising latent
    return values.to(x.dtype), indices.gather(1, order)


def encode_batch_topk(
    x: Tensor, encoder: Tensor, b_enc: Tensor, k: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The n * k largest of the batch: values and indices [n * k], offsets [n + 1].

    By torch's operators: the best of each tile compete with the best so far, so that shapes are
    fixed, the host waits for nothing and [n, f] is not held. Of equal ones the device chooses.
    """
    n, f = len(x), len(encoder)
    slots = torch.arange(n * k, device=x.device)
    places = slots // k * f + slots % k  # of slots that hold 0
    best = torch.zeros(n * k, dtype=_tile(x, f)[0], device=x.device)
    for start, pre in _tiles(x, encoder, b_enc):
        flat = pre.flatten()
        own, at = flat.topk(min(n * k, len(flat)), sorted=False)
        best, kept = torch.cat([best, own.relu()]).topk(n * k, sorted=False)
        places = torch.cat([places, at + start * f])[kept]
    places, order = places.sort()
    offsets = torch.searchsorted(places, torch.arange(n + 1, device=x.device) * f)
    return best[order].to(x.dtype), places % f, offsets


def encode_above(
    x: Tensor, encoder: Tensor, b_enc: Tensor, threshold: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The pre-activations above ``threshold`` [f]: values and indices [m], offsets [n + 1].

    How many there are the data decide: the host waits for the device once a tile.
    """
    empty = torch.empty(0, dtype=torch.int64, device=x.device)
    parts = [(x.new_empty(0), empty, empty)]
    for start, pre in _tiles(x, encoder, b_enc):
        rows, latents = (pre > threshold).nonzero(as_tuple=True)
        parts.append((pre[rows, latents].to(x.dtype), latents, rows + start))
    values, indices, rows = (torch.cat(column) for column in zip(*parts, strict=True))
    return values, indices, torch.searchsorted(rows, torch.arange(len(x) + 1, device=x.device))


def segment_sums(values: Tensor, picks: Tensor, edges: Tensor, table: Tensor) -> Tensor:
    """[segments, d]: over the slots between two edges, the sum of value times picked table row.

    In float32, whatever the dtypes: of a segment's slots the 1st, 17th, ... add up in this order,
    the 2nd, 18th, ..., and then these sixteen sums.
    """
    values, picks, edges, table = (t.contiguous() for t in (values, picks, edges, table))
    segments, d = len(edges) - 1, table.shape[1]
    out = table.new_empty(segments, d)
    columns = min(COLUMNS, _power(d))
    longest = edges.diff().argsort(descending=True, stable=True)
    parts = (values, picks, edges, longest, table, out)
    _run(_segment_sums, (segments, triton.cdiv(d, columns)), *parts, d, SLOTS, columns)
    return out


def slot_products(left: Tensor, right: Tensor, picks: Tensor, edges: Tensor) -> Tensor:
    """[m]: for each slot, the product of its segment's row of ``left`` and its row of ``right``.

    In float32, whatever the dtypes.
    """
    left, right, picks = left.contiguous(), right.contiguous(), picks.contiguous()
    m, d = len(picks), left.shape[1]
    out = left.new_empty(m)
    segments = torch.arange(len(left), device=left.device)
    rows = segments.repeat_interleave(edges.diff(), output_size=m)
    parts = (left, right, picks, rows, out)
    _run(_slot_products, (triton.cdiv(m, SLOTS),), *parts, m, d, SLOTS, min(COLUMNS, _power(d)))
    return out


def _tiles(x: Tensor, encoder: Tensor, b_enc: Tensor) -> Iterator[tuple[int, Tensor]]:
    """First row and pre-activations of each range of rows; a range writes over the one before."""
    f = len(encoder)
    dtype, step = _tile(x, f)
    encoder, b_enc = encoder.to(dtype), b_enc.to(dtype)
    held = torch.empty(min(step, len(x)), f, dtype=dtype, device=x.device)
    for start in range(0, len(x), step):
        rows = x[start : start + step].to(dtype)
        yield start, torch.addmm(b_enc, rows, encoder.T, out=held[: len(rows)])


def _run(kernel: Any, grid: tuple[int, ...], first: Tensor, *rest: Any, warps: int = 4) -> None:
    """Start a kernel on the device of its first argument, unless there is nothing to do."""
    if all(grid):
        with torch.cuda.device_of(first):
            kernel[grid](first, *rest, num_warps=warps, enable_fp_fusion=True)


def _tile(x: Tensor, f: int) -> tuple[torch.dtype, int]:
    """The dtype of the product, as `torch.nn.functional.linear` has it, and rows a tile."""
    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
    rows = TILE // (f * dtype.itemsize)
    return dtype, rows // 128 * 128 or max(1, rows)


def _power(n: int) -> int:
    """The first power of two from n up, and from 16 up."""
    return max(16, triton.next_power_of_2(n))


@_kernel
def _ordered(pre, p, length, BITS: tl.constexpr, INFINITE: tl.constexpr):
    """Entries p of a row as whole numbers in their order, nan above all; 0 from ``length`` on."""
    own = tl.load(pre + p, mask=p < length, other=0).to(tl.int32)
    most: tl.constexpr = 2**BITS - 1
    return tl.where((own & most) > INFINITE, most, own)


@_kernel
def _candidates(
    pre, found, bits, counts, f, k, room,
    LANES: tl.constexpr, BITS: tl.constexpr, INFINITE: tl.constexpr,
):  # fmt: skip
    """Write down, by rising latent, what of a row reaches the k-th largest of the groups' maxima.

    A group is every LANES-th latent. Where fewer than k groups have anything above 0, all that is
    above 0 is written down. ``counts`` says how much that is, beyond ``room`` too.
    """
    row = tl.program_id(0).to(tl.int64)
    pre += row * f
    found += row * room
    bits += row * room
    lane = tl.arange(0, LANES)
    maxima = tl.full([LANES], 0, tl.int32)
    for first in range(0, f, LANES):
        maxima = tl.maximum(maxima, _ordered(pre, first + lane, f, BITS, INFINITE))
    least = tl.full([], 0, tl.int32)
    for place in range(0, BITS):
        bound = least | (2 ** (BITS - 1) >> place)
        least = tl.where(tl.sum((maxima >= bound).to(tl.int32), 0) >= k, bound, least)
    least = tl.maximum(least, 1)
    count = tl.full([], 0, tl.int32)
    for first in range(0, f, LANES):
        own = _ordered(pre, first + lane, f, BITS, INFINITE)
        reach = (own >= least).to(tl.int32)
        slot = count + tl.cumsum(reach, 0) - reach
        fits = (own >= least) & (slot < room)
        tl.store(found + slot, first + lane, mask=fits)
        tl.store(bits + slot, own, mask=fits)
        count += tl.sum(reach, 0)
    tl.store(counts + row, count)


@_kernel
def _choose(
    pre, found, bits, counts, values, indices, f, k, room,
    BLOCK: tl.constexpr, BITS: tl.constexpr, INFINITE: tl.constexpr,
):  # fmt: skip
    """The k largest of a row by rising latent, of equal ones the first; then 0 up to k.

    Entries are what was written down, or the row: the length of the other is 0.
    """
    row = tl.program_id(0).to(tl.int64)
    pre += row * f
    found += row * room
    bits += row * room
    values += row * k
    indices += row * k
    count = tl.load(counts + row)
    written = tl.where(count <= room, count, 0)
    whole = tl.where(count <= room, 0, f)
    length = tl.maximum(written, whole)
    lane = tl.arange(0, BLOCK)
    least, above = tl.full([], 0, tl.int32), tl.full([], 0, tl.int32)
    for place in range(0, BITS):
        bound = least | (2 ** (BITS - 1) >> place)
        reach = tl.full([BLOCK], 0, tl.int32)
        for first in range(0, length, BLOCK):
            own = tl.load(bits + first + lane, mask=first + lane < written, other=0)
            own |= _ordered(pre, first + lane, whole, BITS, INFINITE)
            reach += (own >= bound).to(tl.int32)
        reached = tl.sum(reach, 0)
        above = tl.where(reached >= k, above, reached)  # in the end: how many are above the least
        least = tl.where(reached >= k, bound, least)
    ties, kept = k - above, tl.full([], 0, tl.int32)
    for first in range(0, length, BLOCK):
        p = first + lane
        own = tl.load(bits + p, mask=p < written, other=0)
        own |= _ordered(pre, p, whole, BITS, INFINITE)
        equal = ((own == least) & (least > 0)).to(tl.int32)
        before = tl.cumsum(equal, 0) - equal
        taken = (own > least) | ((equal > 0) & (before < ties))
        ones = taken.to(tl.int32)
        slot = kept + tl.cumsum(ones, 0) - ones
        latent = tl.load(found + p, mask=p < written, other=0) + tl.where(p < whole, p, 0)
        tl.store(values + slot, own, mask=taken)
        tl.store(indices + slot, latent, mask=taken)
        ties -= tl.sum(equal, 0)
        kept += tl.sum(ones, 0)
    for first in range(0, k, BLOCK):
        p = first + lane
        rest = (p >= kept) & (p < k)
        tl.store(values + p, tl.full([BLOCK], 0, tl.int32), mask=rest)
        tl.store(indices + p, (row + p) % f, mask=rest)  # spread, so that no latent gets all


@_kernel
def _segment_sums(
    values, picks, edges, longest, table, out, d, SLOTS: tl.constexpr, COLUMNS: tl.constexpr
):
    segment = tl.load(longest + tl.program_id(0))
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    start, stop = tl.load(edges + segment), tl.load(edges + segment + 1)
    total = tl.zeros([SLOTS, COLUMNS], tl.float32)
    for first in range(start, stop, SLOTS):
        slot = first + tl.arange(0, SLOTS)
        weight = tl.load(values + slot, mask=slot < stop, other=0.0).to(tl.float32)
        pick = tl.load(picks + slot, mask=slot < stop, other=0).to(tl.int64)
        mask = (slot < stop)[:, None] & (column < d)[None, :]
        rows = tl.load(table + pick[:, None] * d + column[None, :], mask=mask, other=0.0)
        total += weight[:, None] * rows.to(tl.float32)
    tl.store(out + segment * d + column, tl.sum(total, 0), mask=column < d)


@_kernel
def _slot_products(left, right, picks, rows, out, m, d, SLOTS: tl.constexpr, COLUMNS: tl.constexpr):
    slot = tl.program_id(0).to(tl.int64) * SLOTS + tl.arange(0, SLOTS)
    one = tl.load(rows + slot, mask=slot < m, other=0)
    other = tl.load(picks + slot, mask=slot < m, other=0).to(tl.int64)
    total = tl.zeros([SLOTS, COLUMNS], tl.float32)
    for first in range(0, d, COLUMNS):
        column = first + tl.arange(0, COLUMNS)
        mask = (slot < m)[:, None] & (column < d)[None, :]
        a = tl.load(left + one[:, None] * d + column[None, :], mask=mask, other=0.0)
        b = tl.load(right + other[:, None] * d + column[None, :], mask=mask, other=0.0)
        total += a.to(tl.float32) * b.to(tl.float32)
    tl.store(out + slot, tl.sum(total, 1), mask=slot < m)
