"""The kernels of `saes.kernels` for a CPU in float32, compiled by numba when they are first used.

**Selection from float products** (`_select`): in as many groups of neighbours as there are, the
k-th largest of the groups' maxima is a value that at least k entries of the row reach, and few
others reach it. What reaches it is sorted. Nothing is guessed, so nothing needs repair.

**Exact codes for less than the float product** (`_screen`). Rows and latents are rounded to int8
with a scale each: x = x' + e_x, w = w' + e_w. The integer product of the rounded is exact and cheap
on a processor with int8 dot products, and is off by a known bound::

    |x w - x' w'| = |e_x w + x' e_w| <= |e_x| |w| + |x'| |e_w|            (Cauchy-Schwarz)

so that u = x' w' + b + bound is never below the true pre-activation p. The k largest group maxima
of u name at least k latents; the k-th largest p among these, computed as float products, is a value
that at least k latents reach. What has u below it is not among the k largest; of all else p is
computed, and p decides. The codes are those of a float product, for all data whose products are not
themselves within 1e-37 of 0; what the data decide is how many products that takes. Where the first
rows of a range need more than an eighth of the latents, the range gets the float product instead.
The bound also holds the rounding errors of the float arithmetic on either side:
(d + 16) 2^-23 |x| |w| + 2^-20 |b|.
"""

import threading
import uuid
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from saes.threads import for_ranges, one_torch_thread

__all__ = [
    "encode_above",
    "encode_batch_topk",
    "encode_topk",
    "order_by_latent",
    "segment_sums",
    "slot_products",
    "squares",
    "update",
]

GROUP = 32
"""Neighbouring latents in a group."""
TILE = 2**22
"""Products of a range of rows with all latents, about: small enough to stay in a cache."""
FEW_ROWS = 256
"""Rows below which rounding all latents to int8 costs more than it saves."""
WIDEST = 2**31 // 127**2
"""Width up to which no sum of products of int8 leaves int32."""
HUGE = 1e37
"""Bound of pre-activations above which float32 might overflow on the way."""


def _kernel(function: Callable[..., Any]) -> Any:
    """Compiled when it is first called, and kept on disk where there is a place to write to."""
    options = {"fastmath": {"reassoc", "contract", "nsz", "arcp"}, "error_model": "numpy"}
    try:
        kernel: Any = njit(nogil=True, cache=True, **options)(function)
    except RuntimeError:  # neither this folder nor the user's can be written
        return njit(nogil=True, **options)(function)
    own_names(kernel._cache._cache_file)
    return kernel


def own_names(file: Any) -> None:
    """Give everything that numba keeps of a kernel a file name that nothing else has had.

    numba numbers its files from 1 and lists a file before it writes it. Until then other processes
    load what lies under that number: the code of an older release, or for other arguments.
    """
    base = file._index_name.removesuffix(".nbi")
    file._data_name = lambda number: f"{base}.{uuid.uuid4().hex}.nbc"


_BUFFERS = threading.local()


def encode_topk(
    x: Tensor, encoder: Tensor, b_enc: Tensor, k: int, *, screen: bool, signed: bool = False
) -> tuple[Tensor, Tensor] | None:
    """The k largest positive ``x @ encoder.T + b_enc`` of each row, [n, k], largest first.

    Of equal ones the lowest index comes first; a row with fewer than k ends in 0. None where the
    input is not finite, or so large that a product might not be: these kernels give nan no order.

    Parameters
    ----------
    x, encoder, b_enc : [n, d], [f, d] and [f], float32, contiguous.
    k : from 1 to f.
    screen : whether an int8 product finds the candidates.
    signed : take the largest in magnitude instead, with their signs.
    """
    values, indices = x.new_empty(len(x), k), torch.empty(len(x), k, dtype=torch.int64)
    out = (values.numpy(), indices.numpy())

    def by_product(pre: np.ndarray, start: int) -> None:
        _select(pre, k, signed, start, *out)

    def by_screen(products: np.ndarray, first: int, last: int, start: int, known: tuple) -> int:
        return _screen(products, first, last, start, *known, k, signed, *out)

    few = 8 * k <= len(encoder)  # else most true products are needed
    done = _encode(x, encoder, b_enc, by_product, by_screen if screen and few else None)
    return (values, indices) if done else None


def encode_batch_topk(
    x: Tensor, encoder: Tensor, b_enc: Tensor, k: int, *, screen: bool
) -> tuple[Tensor, Tensor, Tensor] | None:
    """The n * k largest of the whole batch: values, indices [n * k], offsets [n + 1].

    As `encode_topk` with more than k a row, twice as many as long as a row may have left some out,
    and a cut through all of them.
    """
    n, f = len(x), len(encoder)
    width = min(f, 4 * k)
    while True:
        found = encode_topk(x, encoder, b_enc, width, screen=screen)
        if found is None:
            return None
        values, indices = (t.numpy() for t in found)
        bits = values.view(np.int32)
        least = _least(bits.reshape(-1), n * width, n * k)
        if width == f or not (n and (bits[:, -1] >= least).any()):
            break
        width = min(f, 2 * width)
    kept, latents = np.zeros(n * k, np.float32), np.empty(n * k, np.int64)
    offsets = np.empty(n + 1, np.int64)
    _cut(bits, indices, least, f, kept.view(np.int32), latents, offsets)
    return torch.from_numpy(kept), torch.from_numpy(latents), torch.from_numpy(offsets)


def encode_above(
    x: Tensor, encoder: Tensor, b_enc: Tensor, threshold: Tensor, *, screen: bool
) -> tuple[Tensor, Tensor, Tensor] | None:
    """The pre-activations above ``threshold`` [f]: values and indices [m], offsets [n + 1]."""
    least = threshold.numpy()
    parts: dict[int, list[np.ndarray]] = {}

    def by_product(pre: np.ndarray, start: int) -> None:
        parts[start] = [*_above(pre, least)]

    def by_screen(products: np.ndarray, first: int, last: int, start: int, known: tuple) -> int:
        *found, computed = _screen_above(products, first, last, start, *known, least)
        before = parts.get(start) if first else None
        both = found if before is None else map(np.concatenate, zip(before, found, strict=True))
        parts[start] = [*both]
        return computed

    if not _encode(x, encoder, b_enc, by_product, by_screen if screen else None):
        return None
    empty = [[np.empty(0, np.float32), np.empty(0, np.int64), np.empty(0, np.int64)]]
    ranges = [parts[start] for start in sorted(parts)] or empty
    values, indices, counts = (
        torch.from_numpy(np.concatenate(column)) for column in zip(*ranges, strict=True)
    )
    return values, indices, torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def _encode(
    x: Tensor,
    encoder: Tensor,
    b_enc: Tensor,
    by_product: Callable[[np.ndarray, int], None],
    by_screen: "Callable[[np.ndarray, int, int, int, tuple], int] | None",
) -> bool:
    """Hand each range of rows its products; False where one might not be finite.

    ``by_product(pre, start)`` gets float pre-activations. ``by_screen(products, first, last, start,
    known)`` gets integer ones of a range that begins at row ``start``, is to look through the rows
    of the range from ``first`` to ``last``, and says how many true products it computed.
    """
    n, f = len(x), len(encoder)
    edges = _spread(n, max(32, min(256, TILE // f)))

    def with_product(start: int, stop: int) -> None:
        pre = _buffer(torch.float32, stop - start, f)
        torch.addmm(b_enc, x[start:stop], encoder.T, out=pre)
        by_product(pre.numpy(), start)

    exact = x.shape[1] <= WIDEST and _products_are_exact()
    if by_screen is None or n < FEW_ROWS or not exact:
        longest = (float(torch.linalg.vector_norm(t)) for t in (x, encoder, b_enc))
        if not _bounded(*longest):
            return False
        for_ranges(edges, with_product)
        return True
    rows, latents = _Rounded(x), _Rounded(encoder)
    bias = b_enc.numpy()
    if not _bounded(*(float(a.max()) for a in (rows.length, latents.length, np.abs(bias)))):
        return False
    known = (
        rows.scale,
        latents.scale,
        bias + 2.0**-20 * np.abs(bias),
        *_bounds(rows, latents, x.shape[1]),
        x.numpy(),
        encoder.numpy(),
        bias,
    )

    def with_screen(start: int, stop: int) -> None:
        products = _buffer(torch.int32, stop - start, f)
        torch.ops.aten._int_mm.out(rows.q[start:stop], latents.q.T, out=products)
        first = min(GROUP, stop - start)
        computed = by_screen(products.numpy(), 0, first, start, known)
        if computed * 8 > first * f:
            with_product(start, stop)
        else:
            by_screen(products.numpy(), first, stop - start, start, known)

    for_ranges(edges, with_screen)
    return True


def _bounded(row: float, latent: float, bias: float) -> bool:
    """Whether pre-activations of such lengths cannot overflow; False for nan."""
    return row * latent + bias < HUGE and max(row, latent) < HUGE


@cache
def _products_are_exact() -> bool:
    """Whether torch's integer product is exact here.

    On a processor without int8 dot products its library adds pairs in int16, which saturates.
    """
    rows = torch.full((32, 64), 127, dtype=torch.int8)
    latents = rows * torch.tensor([1, -1], dtype=torch.int8).repeat(16)[:, None]
    with one_torch_thread():
        products = torch.ops.aten._int_mm(rows, latents.T)
    return bool((products.abs() == 64 * 127**2).all())


def order_by_latent(indices: Tensor, n_latents: int) -> tuple[Tensor, Tensor]:
    """Slots sorted by latent, then slot, [m]; and where each latent's begin, [f + 1]."""
    order, begins = torch.empty(indices.numel(), dtype=torch.int64), np.zeros(n_latents + 1, int)
    _counting_sort(indices.reshape(-1).numpy(), order.numpy(), begins)
    return order, torch.from_numpy(begins)


def segment_sums(
    values: Tensor, picks: Tensor, edges: Tensor, table: Tensor, order: Tensor | None
) -> Tensor:
    """[segments, d]: over the slots between two edges, the sum of value times picked table row."""
    out = table.new_empty(len(edges) - 1, table.shape[1])
    arrays = [t.contiguous().numpy() for t in (values, picks, edges, table, out)]
    kernel = _segment_sums
    if order is not None:
        kernel, arrays = _ordered_sums, [order.numpy(), *arrays]
    for_ranges(_even(edges.numpy()), lambda a, b: kernel(a, b, *arrays))
    return out


def slot_products(left: Tensor, right: Tensor, picks: Tensor, edges: Tensor) -> Tensor:
    """[m]: for each slot, the product of its segment's row of ``left`` and its row of ``right``."""
    out = left.new_empty(len(picks))
    arrays = [t.contiguous().numpy() for t in (left, right, picks, edges, out)]
    for_ranges(_even(arrays[3]), lambda a, b: _slot_products(a, b, *arrays))
    return out


def squares(gradient: Tensor, unit: Tensor | None) -> float:
    """The sum of squares; of what is left of a gradient beside the rows of ``unit``, if given."""
    g = _matrix(gradient.contiguous())
    rows = g if unit is None else _matrix(unit)
    edges = _spread(len(g), max(1, 2**15 // g.shape[1]))
    sums = np.zeros(len(edges) - 1)

    def work(start: int, stop: int) -> None:
        sums[start // edges[1]] = _squares(start, stop, g, rows, unit is not None)

    for_ranges(edges, work)
    return float(sums.sum())


def update(
    p: Tensor, gradient: Tensor, moments: list[Tensor], scale: float, unit: bool, *numbers: float
) -> None:
    """A step of Adam (two moments) or Lion (one), in place; see `saes.optimizer`."""
    arrays = [_matrix(t) for t in (p, gradient.contiguous(), *moments)]
    kernel = _adam if len(moments) == 2 else _lion
    settings = [np.float32(number) for number in (scale, *numbers)]
    edges = _spread(len(arrays[0]), max(1, 2**15 // arrays[0].shape[1]))
    for_ranges(edges, lambda a, b: kernel(a, b, *arrays, unit, *settings))


def _matrix(t: Tensor) -> np.ndarray:
    """A contiguous tensor as rows of its last axis, without a copy."""
    return t.detach().view(-1, t.shape[-1]).numpy()


class _Rounded:
    """Rows as int8 with a scale each, their lengths, and the lengths of what rounding took off."""

    def __init__(self, table: Tensor) -> None:
        self.q = torch.empty(table.shape, dtype=torch.int8)
        self.scale, self.length, self.error = np.empty((3, len(table)), np.float32)
        arrays = (table.numpy(), self.q.numpy(), self.scale, self.length, self.error)
        for_ranges(_spread(len(table), 1024), lambda a, b: _round(a, b, *arrays))


def _bounds(rows: _Rounded, latents: _Rounded, d: int) -> tuple[np.ndarray, ...]:
    """Factors of the bound: of a row with |w| and with |e_w|, and both of these of a latent."""
    slack = np.float32((d + 16) * 2.0**-23)
    up = np.float32(1 + 2.0**-20)
    return (
        up * (rows.error + slack * rows.length),
        up * (rows.length + rows.error),
        up * latents.length,
        up * latents.error,
    )


def _buffer(dtype: torch.dtype, rows: int, width: int) -> Tensor:
    """A matrix that this thread may write over, as the last one that it asked for."""
    held = getattr(_BUFFERS, "bytes", None)
    size = rows * width * dtype.itemsize
    if held is None or len(held) < size or len(held) > 4 * size:
        held = _BUFFERS.bytes = torch.empty(size, dtype=torch.uint8)
    return held[:size].view(dtype).view(rows, width)


def _spread(n: int, size: int) -> list[int]:
    """Edges of ranges of at most ``size``, from 0 to n."""
    return [*range(0, n, size), n]


def _even(edges: np.ndarray) -> list[int]:
    """Ranges of segments with about as many slots each; one for little work."""
    parts = min(64, 1 + int(edges[-1]) // 1024, max(1, len(edges) - 1))
    inner = np.searchsorted(edges, np.linspace(0, int(edges[-1]), parts + 1)[1:-1])
    return sorted({0, *inner.tolist(), len(edges) - 1})


@_kernel
def _round(start, stop, table, q, scale, length, error):
    d = table.shape[1]
    for r in range(start, stop):
        row = table[r]
        most = np.float32(0)
        for i in range(d):
            most = max(most, abs(row[i]))
        s = most / np.float32(127)
        if not s > np.float32(1e-36):  # 0, too small to divide by, or nan
            q[r] = 0
            scale[r] = 0
            length[r] = error[r] = most * np.sqrt(np.float32(d)) + np.float32(0) * row.sum()
            continue
        inverse = np.float32(1) / s
        squares, lost = np.float32(0), np.float32(0)
        for i in range(d):  # in units of the scale, where no square overflows or vanishes
            own = row[i] * inverse
            near = np.rint(own)
            q[r, i] = np.int8(near)
            squares += own * own
            lost += (own - near) * (own - near)
        scale[r], length[r], error[r] = s, s * np.sqrt(squares), s * np.sqrt(lost)


@_kernel
def _least(bits, count, k):
    """The k-th largest of the first ``count``, as bits; 1 where fewer than k are above 0.

    The bits of floats above 0 are whole numbers in the same order; those of others are below 0, or
    0. The answer is found bit by bit: counting what reaches a bound takes a processor less time
    than moving numbers about.
    """
    found = np.int32(0)
    for bit in range(30, -1, -1):
        bound = found | np.int32(1 << bit)
        reached = np.int32(0)
        for i in range(count):
            reached += np.int32(bits[i] >= bound)
        found = bound if reached >= k else found
    return max(found, np.int32(1))


@_kernel
def _maxima(row, maxima):
    """The largest of each group of neighbours."""
    f = len(row)
    for g in range(f // GROUP):
        most = row[g * GROUP]
        for i in range(GROUP):
            v = row[g * GROUP + i]
            most = v if v > most else most
        maxima[g] = most
    if f % GROUP:
        maxima[f // GROUP] = row[f // GROUP * GROUP :].max()


@_kernel
def _first_bound(row, bits, maxima, highest, k):
    """A value that at least k entries reach, and few more; the groups' maxima are set."""
    _maxima(row, maxima)
    if 2 * k <= len(maxima):
        return _least(highest, len(maxima), k)
    return _least(bits, len(bits), k)


@_kernel
def _reaching(bits, maxima, least, most, which, found, count):
    """Append to ``found`` what is from ``least`` up to below ``most``; how many it holds then.

    There are no branches on data, which a processor could not foresee.
    """
    reached = 0
    for g in range(len(maxima)):
        which[reached] = g
        reached += maxima[g] >= least
    for h in range(reached):
        first = which[h] * GROUP
        for i in range(first, min(first + GROUP, len(bits))):
            found[count] = i
            count += (bits[i] >= least) & (bits[i] < most)
    return count


@_kernel
def _write(bits, found, count, least, k, keys, values, indices, row):
    """The k largest, of which ``least`` is the last: by falling value, then rising latent."""
    low = np.uint64(0xFFFFFFFF)
    kept = 0
    for p in range(count):
        keys[kept] = (np.uint64(bits[p]) << np.uint64(32)) | np.uint64(0xFFFFFFFF - found[p])
        kept += bits[p] >= least
    many = kept > 192
    if many:
        keys[:kept] = np.sort(keys[:kept])[::-1]
    out = values.view(np.int32)
    for p in range(kept):
        place = p
        if not many:  # to count what is larger is faster than to sort
            place = 0
            for other in range(kept):
                place += keys[other] > keys[p]
        if place < k:
            out[row, place] = np.int32(keys[p] >> np.uint64(32))
            indices[row, place] = np.int64(low - (keys[p] & low))
    for p in range(kept, k):
        out[row, p] = 0
        indices[row, p] = (row + p) % k  # some latent: spread, so that none gets all of them


@_kernel
def _select(pre, k, signed, base, values, indices):
    n, f = pre.shape
    maxima = np.empty((f + GROUP - 1) // GROUP, np.float32)
    highest = maxima.view(np.int32)
    which = np.empty(len(maxima) + 1, np.int64)
    found = np.empty(f + 1, np.int64)
    keys = np.empty(f + 1, np.uint64)
    chosen = np.empty(f + 1, np.int32)
    magnitude = np.empty(f, np.float32)
    for r in range(n):
        row = pre[r]
        if signed:
            for i in range(f):
                magnitude[i] = abs(pre[r, i])
            row = magnitude
        bits = row.view(np.int32)
        least = _first_bound(row, bits, maxima, highest, k)
        count = _reaching(bits, highest, least, np.int32(0x7FFFFFFF), which, found, 0)
        for p in range(count):
            chosen[p] = bits[found[p]]
        least = _least(chosen, count, k)
        _write(chosen, found, count, least, k, keys, values, indices, base + r)
        if signed:
            for p in range(k):
                if values[base + r, p] > 0:
                    values[base + r, p] = pre[r, indices[base + r, p]]


@_kernel
def _upper(product, s, a, e, scale_w, bias_up, length_w, error_w, upper):
    """What no pre-activation of a row is above."""
    for i in range(len(upper)):
        upper[i] = (
            np.float32(product[i]) * (s * scale_w[i])
            + bias_up[i]
            + (a * length_w[i] + e * error_w[i])
        )


@_kernel
def _exactly(row, encoder, b_enc, found, first, stop, exact):
    """The pre-activations of some latents."""
    d = len(row)
    for p in range(first, stop):
        latent = encoder[found[p]]
        dot = np.float32(0)
        for q in range(d):
            dot += row[q] * latent[q]
        exact[p] = dot + b_enc[found[p]]


@_kernel
def _screen(
    products, start, stop, base, scale_x, scale_w, bias_up, reach_w, reach_e, length_w, error_w,
    x, encoder, b_enc, k, signed, values, indices,
):  # fmt: skip
    """Codes of some rows; how many float products that took."""
    f = len(encoder)
    upper = np.empty(f, np.float32)
    bits = upper.view(np.int32)
    maxima = np.empty((f + GROUP - 1) // GROUP, np.float32)
    highest = maxima.view(np.int32)
    which = np.empty(len(maxima) + 1, np.int64)
    found = np.empty(f + 1, np.int64)
    keys = np.empty(f + 1, np.uint64)
    exact = np.empty(f, np.float32)
    exact_bits = exact.view(np.int32)
    truth, other, mirrored = np.empty(f, np.float32), np.empty(f, np.float32), bias_up.copy()
    if signed:
        for i in range(f):
            mirrored[i] = bias_up[i] - 2 * b_enc[i]
    computed = 0
    for r in range(start, stop):
        at = base + r
        row = x[at]
        product = products[r]
        s, a, e = scale_x[at], reach_w[at], reach_e[at]
        _upper(product, s, a, e, scale_w, bias_up, length_w, error_w, upper)
        if signed:  # nor is any of the mirrored latents' above what this says of them
            _upper(product, -s, a, e, scale_w, mirrored, length_w, error_w, other)
            for i in range(f):
                upper[i] = max(upper[i], other[i])
        least = _first_bound(upper, bits, maxima, highest, k)
        most = np.int32(0x7FFFFFFF)
        count = 0
        for _ in range(2):
            first = count
            count = _reaching(bits, highest, least, most, which, found, count)
            _exactly(row, encoder, b_enc, found, first, count, exact)
            for p in range(first, count):
                truth[p] = exact[p]
                exact[p] = abs(exact[p]) if signed else exact[p]
            most = least
            least = _least(exact_bits, count, k)
        computed += count
        _write(exact_bits, found, count, least, k, keys, values, indices, at)
        if signed:
            for p in range(k):
                for c in range(count):
                    if found[c] == indices[at, p] and values[at, p] > 0:
                        values[at, p] = truth[c]
    return computed


@_kernel
def _cut(bits, indices, least, f, kept, latents, offsets):
    """What is above ``least``, and of what equals it the first; by rising row, then latent."""
    n, width = bits.shape
    above = 0
    for r in range(n):
        for p in range(width):
            above += bits[r, p] > least
    equal = len(kept) - above
    count = 0
    row = np.empty(width, np.int64)
    for r in range(n):
        offsets[r] = count
        taken = 0
        while taken < width and bits[r, taken] > least:
            taken += 1
        while taken < width and equal > 0 and bits[r, taken] == least:
            taken += 1
            equal -= 1
        for p in range(taken):
            row[p] = indices[r, p] * width + p
        row[:taken].sort()
        for p in range(taken):
            latents[count] = row[p] // width
            kept[count] = bits[r, row[p] % width]
            count += 1
    latents[count:] = f - 1  # slots of the last row that hold 0
    offsets[n] = len(kept)


@_kernel
def _room(array, needed):
    """The array, or one of twice the size that begins with it."""
    if needed <= len(array):
        return array
    larger = np.empty(max(needed, 2 * len(array)), array.dtype)
    larger[: len(array)] = array
    return larger


@_kernel
def _above(pre, threshold):
    n, f = pre.shape
    values, indices = np.empty(64 * n, np.float32), np.empty(64 * n, np.int64)
    counts = np.empty(n, np.int64)
    found = np.empty(f + 1, np.int64)
    total = 0
    for r in range(n):
        count = 0
        for i in range(f):
            found[count] = i
            count += pre[r, i] > threshold[i]
        values, indices = _room(values, total + count), _room(indices, total + count)
        for p in range(count):
            values[total + p] = pre[r, found[p]]
            indices[total + p] = found[p]
        counts[r] = count
        total += count
    return values[:total], indices[:total], counts


@_kernel
def _screen_above(
    products, start, stop, base, scale_x, scale_w, bias_up, reach_w, reach_e, length_w, error_w,
    x, encoder, b_enc, threshold,
):  # fmt: skip
    """What is above the threshold in some rows; and how many float products that took."""
    f, n = len(encoder), stop - start
    upper, exact = np.empty(f, np.float32), np.empty(f, np.float32)
    values, indices = np.empty(64 * n, np.float32), np.empty(64 * n, np.int64)
    counts = np.empty(n, np.int64)
    found = np.empty(f + 1, np.int64)
    total = computed = 0
    for r in range(start, stop):
        at = base + r
        s, a, e = scale_x[at], reach_w[at], reach_e[at]
        _upper(products[r], s, a, e, scale_w, bias_up, length_w, error_w, upper)
        count = 0
        for i in range(f):
            found[count] = i
            count += upper[i] > threshold[i]
        _exactly(x[at], encoder, b_enc, found, 0, count, exact)
        values, indices = _room(values, total + count), _room(indices, total + count)
        before = total
        for p in range(count):
            if exact[p] > threshold[found[p]]:
                values[total], indices[total] = exact[p], found[p]
                total += 1
        counts[r - start] = total - before
        computed += count
    return values[:total], indices[:total], counts, computed


@_kernel
def _counting_sort(latents, order, begins):
    f = len(begins) - 1
    for s in range(len(latents)):
        begins[latents[s] + 1] += 1
    for j in range(f):
        begins[j + 1] += begins[j]
    place = begins[:-1].copy()
    for s in range(len(latents)):
        j = latents[s]
        order[place[j]] = s
        place[j] += 1


@_kernel
def _segment_sums(start, stop, values, picks, edges, table, out):
    d = table.shape[1]
    for j in range(start, stop):
        total = out[j]
        total[:] = 0
        p, end = edges[j], edges[j + 1]
        while p + 4 <= end:
            a, b, c, e = values[p], values[p + 1], values[p + 2], values[p + 3]
            ta, tb = table[picks[p]], table[picks[p + 1]]
            tc, te = table[picks[p + 2]], table[picks[p + 3]]
            for q in range(d):
                total[q] += (a * ta[q] + b * tb[q]) + (c * tc[q] + e * te[q])
            p += 4
        while p < end:
            a, ta = values[p], table[picks[p]]
            for q in range(d):
                total[q] += a * ta[q]
            p += 1


@_kernel
def _ordered_sums(start, stop, order, values, picks, edges, table, out):
    """`_segment_sums` of slots that an order names, gathered as they are needed."""
    first, last = edges[start], edges[stop]
    v, p = np.empty(last - first, np.float32), np.empty(last - first, np.int64)
    for at in range(first, last):
        v[at - first] = values[order[at]]
        p[at - first] = picks[order[at]]
    _segment_sums(0, stop - start, v, p, edges[start : stop + 1] - first, table, out[start:stop])


@_kernel
def _slot_products(start, stop, left, right, picks, edges, out):
    d = left.shape[1]
    for j in range(start, stop):
        row = left[j]
        for p in range(edges[j], edges[j + 1]):
            other = right[picks[p]]
            dot = np.float32(0)
            for q in range(d):
                dot += row[q] * other[q]
            out[p] = dot


@_kernel
def _squares(start, stop, gradient, unit, project):
    """Of some rows' gradient, less its part along the unit rows."""
    d = gradient.shape[1]
    total = np.float64(0)
    for r in range(start, stop):
        g, u = gradient[r], unit[r]
        part = np.float32(0)
        if project:
            part = _along(g, u)
        row = np.float32(0)
        for i in range(d):
            left = g[i] - part * u[i]
            row += left * left
        total += row
    return total


@_kernel
def _along(g, u):
    """The product of g and u over that of u and itself; 0 where u is 0."""
    both, own = np.float32(0), np.float32(0)
    for i in range(len(g)):
        both += g[i] * u[i]
        own += u[i] * u[i]
    return both / own if own > 0 else np.float32(0)


@_kernel
def _to_unit(row):
    own = np.float32(0)
    for i in range(len(row)):
        own += row[i] * row[i]
    if own > 0:
        inverse = np.float32(1) / np.sqrt(own)
        for i in range(len(row)):
            row[i] *= inverse


@_kernel
def _adam(
    start, stop, p, gradient, mean, square, unit, scale, keep1, add1, keep2, add2, rate, grown, eps
):
    tiny = np.float32(1.2e-38)  # below it a processor is slow; it becomes 0
    for r in range(start, stop):
        row, g, m, v = p[r], gradient[r], mean[r], square[r]
        part = np.float32(0)
        if unit:
            part = _along(g, row)
        for i in range(len(row)):
            own = (g[i] - part * row[i]) * scale
            a = keep1 * m[i] + add1 * own
            b = keep2 * v[i] + add2 * own * own
            m[i] = np.float32(0) if abs(a) <= tiny else a  # nan stays, and shows
            v[i] = np.float32(0) if b <= tiny else b
            row[i] -= rate * m[i] / (np.sqrt(v[i]) * grown + eps)
        if unit:
            _to_unit(row)


@_kernel
def _lion(start, stop, p, gradient, mean, unit, scale, keep1, add1, keep2, add2, rate):
    tiny = np.float32(1.2e-38)
    for r in range(start, stop):
        row, g, m = p[r], gradient[r], mean[r]
        part = np.float32(0)
        if unit:
            part = _along(g, row)
        for i in range(len(row)):
            own = (g[i] - part * row[i]) * scale
            row[i] -= rate * np.sign(keep1 * m[i] + add1 * own)
            a = keep2 * m[i] + add2 * own
            m[i] = np.float32(0) if abs(a) <= tiny else a
        if unit:
            _to_unit(row)
