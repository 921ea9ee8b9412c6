"""The Triton kernels, by Triton's interpreter in a process of its own, and on a GPU where one is.

The interpreter must be chosen before triton is imported, so that `test_in_the_interpreter` runs
this file again: there, the tests that take a ``device`` run on the CPU.
"""

import os
import re
import subprocess
import sys

import pytest
import torch
from torch.testing import assert_close

import saes
from interp.errors import ParameterError
from saes import primitives
from saes.kernels import decode, encode_above, encode_batch_topk, encode_topk

triton = pytest.importorskip("triton")
from saes import _triton  # noqa: E402

ATOMIC = re.compile(r"\b(atom|red)\.")
HERE = _triton.INTERPRETED
NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
ON = pytest.mark.parametrize(
    "device", ["cpu"] if HERE else [pytest.param("cuda", marks=[pytest.mark.gpu, NO_GPU])]
)
OUTSIDE = pytest.mark.skipif(HERE, reason="of a process without the interpreter")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# Half the last place of a number that is rounded once; and the places of numbers near 1.
HALF = {torch.float32: 1e-5, torch.bfloat16: 2**-8, torch.float16: 2**-11}


@OUTSIDE
def test_in_the_interpreter():
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", __file__]
    settings = {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=1200, env=os.environ | settings
    )
    assert done.returncode == 0 and "passed" in done.stdout, done.stdout + done.stderr


@OUTSIDE
def test_a_cpu_without_the_interpreter_is_refused():
    rows = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    config = saes.TopKConfig(n_latents=12, k=2)
    with pytest.raises(ParameterError, match=r"triton is for float32.*on a CUDA device; got .*cpu"):
        saes.train(rows, config, steps=1, backend="triton", device="cpu")


@ON
def test_float64_is_refused(device):
    with pytest.raises(ParameterError, match="got torch.float64"):
        primitives.resolve("triton", torch.zeros(1, dtype=torch.float64, device=device), 0)
    assert primitives.resolve("triton", torch.zeros(1, device=device), 0) == "triton"


@_triton._kernel
def _adds_atomically(out, COLUMNS: triton.language.constexpr):
    triton.language.atomic_add(out + triton.language.arange(0, COLUMNS), 1.0)


def ptx(kernel, capability, types, **constants):
    """The kernel compiled for a GPU that need not be there; arguments without a type: int32."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = kernel.arg_names
    constants = {name: value for name, value in constants.items() if name in names}
    kinds = {name: "constexpr" if name in constants else types.get(name, "i32") for name in names}
    source = ASTSource(kernel, kinds, constants)
    target = GPUTarget("cuda", capability, 32)
    built = triton.compile(source, target, options={"num_warps": 4, "enable_fp_fusion": True})
    assert len(built.asm["cubin"])
    return built.asm["ptx"]


@OUTSIDE
@pytest.mark.parametrize(
    "capability, dtype, kind, ones",  # Triton writes numbers that are 1 into the kernel
    [
        (80, torch.float32, "fp32", {}),
        (90, torch.bfloat16, "bf16", {}),
        (90, torch.float16, "fp16", {"k": 1, "d": 1}),
    ],
)
def test_every_kernel_compiles_for_a_gpu_and_has_no_atomics(
    capability, dtype, kind, ones, monkeypatch, tmp_path
):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    bits, infinite = _triton.FLOATS[dtype]
    whole = "*i32" if bits == 31 else "*i16"
    slots = dict.fromkeys(("picks", "edges", "longest", "rows", "indices"), "*i64")
    select = {"pre": whole, "values": whole, "found": "*i32", "bits": "*i32", "counts": "*i32"}
    sums = dict.fromkeys(("table", "left", "right", "out", "values"), f"*{kind}")
    limits = {"BITS": bits, "INFINITE": infinite, "LANES": 1024, "BLOCK": _triton.BLOCK}
    sizes = {"SLOTS": _triton.SLOTS, "COLUMNS": _triton.COLUMNS}
    for kernel, types, constants in (
        (_triton._candidates, select, limits),
        (_triton._choose, select, limits),
        (_triton._segment_sums, sums, sizes),
        (_triton._slot_products, sums, sizes),
    ):
        text = ptx(kernel, capability, slots | types, **constants, **ones)
        assert kernel.__name__ in text and not ATOMIC.search(text)
    shown = ptx(_adds_atomically, capability, {"out": "*fp32"}, COLUMNS=32)
    assert ATOMIC.search(shown), "an atomic addition would be seen"


def made(device, dtype, *shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*s, generator=generator).to(device, dtype) for s in shapes]


def from_pre(pre, device):
    """Inputs whose product is these pre-activations, exactly."""
    f = pre.shape[1]
    return torch.eye(len(pre), device=device), pre.T.to(device).contiguous(), pre.new_zeros(f)


def ranked(pre, k):
    """The k largest by a plain stable sort, and where."""
    values, indices = pre.sort(dim=1, descending=True, stable=True)
    return values[:, :k].relu(), indices[:, :k]


@ON
@pytest.mark.parametrize(
    "dtype, n, d, f, k",
    [
        *((dtype, 4, 7, 53, 4) for dtype in DTYPES),
        (torch.float32, 3, 5, 20, 20),
        (torch.float32, 3, 3, 1, 1),
        (torch.bfloat16, 2, 3, 2100, 3),  # more than lanes
    ],
)
def test_topk_is_a_sort_of_the_product(device, dtype, n, d, f, k):
    x, encoder, b_enc = made(device, dtype, (n, d), (f, d), (f,))
    values, indices = _triton.encode_topk(x, encoder, b_enc, k)
    assert values.dtype == dtype and values.shape == (n, k) and indices.dtype == torch.int64
    exact = x.double() @ encoder.double().T + b_enc.double()
    assert_close(values.double(), ranked(exact, k)[0], rtol=HALF[dtype], atol=HALF[dtype])
    own = ranked(torch.addmm(b_enc, x, encoder.T), k)
    assert torch.equal(values, own[0])
    assert torch.equal(indices[values > 0], own[1][values > 0])
    assert ((indices >= 0) & (indices < f)).all()
    if f > k:
        wrong = ranked(-exact, k)[0]
        assert not torch.allclose(values.double(), wrong, rtol=HALF[dtype], atol=HALF[dtype])


@ON
def test_of_ties_the_lowest_index_comes_first(device):
    generator = torch.Generator().manual_seed(0)
    pre = torch.randint(-1, 4, (6, 300), generator=generator).float().to(device)
    pre[1] = 2  # more than there is room for
    pre[2, :250] = -1
    pre[3] = -2
    k = 9
    assert 300 > _triton.ROOM * k + 64 >= 64
    values, indices = _triton.encode_topk(*from_pre(pre, device), k)
    expected = ranked(pre, k)
    assert torch.equal(values, expected[0])
    assert torch.equal(indices[values > 0], expected[1][values > 0])
    assert indices[1].tolist() == list(range(9)) and not values[3].any()
    assert not torch.equal(indices[:3], pre[:3].flip(1).topk(k).indices), "ties are decided"


@ON
def test_a_row_with_more_candidates_than_room_is_searched_whole(device, monkeypatch):
    monkeypatch.setattr(_triton, "GROUPS", (16, 16))
    (pre,) = made("cpu", torch.float32, (4, 203))
    pre[:, torch.arange(203) % 16 < 8] += 10  # 104 in the eight groups that hold the eight largest
    inputs = from_pre(pre.to(device), device)
    with_room = _triton.encode_topk(*inputs, 8)
    many = _triton.encode_topk(*inputs, 150)  # more than groups: all that is above 0 competes
    assert torch.equal(many[0], ranked(pre.to(device), 150)[0])
    monkeypatch.setattr(_triton, "ROOM", -7)  # room for 8
    without = _triton.encode_topk(*inputs, 8)
    expected = ranked(pre.to(device), 8)
    for found in (with_room, without):
        assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])
    maxima = torch.nn.functional.pad(pre, (0, 5), value=-9).view(4, 13, 16).amax(1)
    reach = (pre >= maxima.sort(dim=1).values[:, -8, None]).sum(1)
    assert (reach > 8).all(), "there was no room"


@ON
def test_nan_counts_as_largest_and_infinity_as_a_number(device):
    (pre,) = made(device, torch.float32, (3, 40))
    for dtype in DTYPES:
        x, encoder, b_enc = (t.to(dtype) for t in from_pre(pre, device))
        b_enc[7], b_enc[3], b_enc[20], b_enc[2] = torch.nan, -torch.nan, torch.inf, -torch.inf
        values, indices = _triton.encode_topk(x, encoder, b_enc, 5)
        assert (indices[:, :3] == torch.tensor([3, 7, 20], device=device)).all()
        assert values[:, :2].isnan().all() and (values[:, 2] == torch.inf).all()
        rest = pre.to(dtype).index_fill(1, torch.tensor([2, 3, 7, 20], device=device), 0)
        assert torch.equal(values[:, 3:], ranked(rest, 2)[0])


@ON
def test_tiles_of_rows_change_nothing(device, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-3, 4, (5, 4), generator=generator).float().to(device)
    encoder = torch.randint(-3, 4, (30, 4), generator=generator).float().to(device)
    inputs = (x, encoder, torch.zeros(30, device=device))
    threshold = torch.full((30,), 2.5, device=device)

    def all_codes():
        return (
            *_triton.encode_topk(*inputs, 3),
            *_triton.encode_above(*inputs, threshold),
            _triton.encode_batch_topk(*inputs, 3)[0].sort().values,  # which of ties is not fixed
        )

    before = all_codes()
    monkeypatch.setattr(_triton, "TILE", 2 * 30 * 4)
    assert [len(pre) for _, pre in _triton._tiles(*inputs)] == [2, 2, 1]
    assert all(torch.equal(a, b) for a, b in zip(before, all_codes(), strict=True))


@ON
@pytest.mark.parametrize("k", [1, 3, 40])
def test_batch_topk_is_a_sort_of_the_whole_batch(device, k, monkeypatch):
    monkeypatch.setattr(_triton, "TILE", 3 * 40 * 4)
    (pre,) = made(device, torch.float32, (8, 40))
    pre[4] += 20  # one row takes all it can
    values, indices, offsets = _triton.encode_batch_topk(*from_pre(pre, device), k)
    best = ranked(pre.view(1, -1), 8 * k)
    expected = torch.zeros_like(pre).flatten().scatter(0, best[1][0], best[0][0]).view_as(pre)
    codes = saes.Codes(values, indices, offsets)
    assert len(values) == 8 * k and torch.equal(codes.dense(40), expected)
    key = codes.rows * 40 + codes.indices
    assert torch.equal(key, key.sort().values), "by rising row, then latent"
    if k == 3:
        each = torch.zeros_like(pre).scatter(1, pre.topk(3).indices, pre.topk(3).values)
        assert not torch.equal(each.relu(), expected)


@ON
def test_encode_above_is_a_mask(device):
    x, encoder, b_enc, threshold = made(device, torch.float32, (6, 5), (33, 5), (33,), (33,))
    b_enc[4] = torch.nan
    codes = encode_above(x, encoder, b_enc, threshold, backend="triton")
    pre = torch.addmm(b_enc, x, encoder.T)
    assert torch.equal(codes.dense(33), torch.where(pre > threshold.relu(), pre, 0))
    assert not torch.equal(codes.dense(33), pre.relu().nan_to_num(0))


def uneven(device, most=70):
    """Slots of segments of no, few and many slots; and picks into 9 rows."""
    counts = torch.tensor([3, 0, most, 1, 17, 0])
    edges = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    generator = torch.Generator().manual_seed(1)
    picks = torch.randint(0, 9, (int(edges[-1]),), generator=generator)
    return edges.to(device), picks.to(device)


@ON
@pytest.mark.parametrize(
    "dtype, d", [(torch.float32, 1), (torch.float32, 130), *((dtype, 7) for dtype in DTYPES)]
)
def test_sums_and_products_are_those_of_float64(device, dtype, d):
    edges, picks = uneven(device)
    values, table, left = made(device, dtype, (len(picks),), (9, d), (6, d))
    rows = torch.arange(6, device=device).repeat_interleave(edges.diff())
    weighted = values.double()[:, None] * table.double()[picks]
    sums = torch.zeros(6, d, dtype=torch.float64, device=device).index_add(0, rows, weighted)
    products = (left.double()[rows] * table.double()[picks]).sum(1)

    # The interpreter cuts what becomes a bfloat16 off, where a GPU rounds it.
    cut = 2 if HERE and dtype == torch.bfloat16 else 1
    near = {"rtol": cut * HALF[dtype], "atol": 1e-5}
    ours = _triton.segment_sums(values, picks, edges, table)
    assert ours.dtype == dtype and not ours[[1, 5]].any()
    assert_close(ours.double(), sums, **near)
    dots = _triton.slot_products(left, table, picks, edges)
    assert dots.dtype == dtype
    assert_close(dots.double(), products, **near)

    last = _triton.segment_sums(values, picks, edges.clamp(max=len(picks) - 1), table)
    assert not torch.allclose(last.double(), sums, **near), "a slot left out shows"
    assert not torch.allclose(dots.double(), products.flip(0), **near)


@ON
def test_sums_are_in_float32(device):
    m = 16 * 300
    edges = torch.tensor([0, m], device=device)
    ones = torch.ones(m, 1, dtype=torch.bfloat16, device=device)
    total = _triton.segment_sums(ones[:, 0], torch.arange(m, device=device), edges, ones)
    assert total.item() == m
    assert (torch.tensor(256.0).bfloat16() + 1).item() == 256, "bfloat16 would stay there"
    wide = torch.ones(1, m, dtype=torch.bfloat16, device=device)
    one = torch.zeros(1, dtype=torch.int64, device=device)
    dot = _triton.slot_products(wide, wide, one, torch.tensor([0, 1], device=device))
    assert dot.item() == m


@ON
def test_equal_input_gives_equal_bits(device):
    edges, picks = uneven(device)
    values, table = made(device, torch.float32, (len(picks),), (9, 7))
    first, again = (_triton.segment_sums(values, picks, edges, table) for _ in range(2))
    assert torch.equal(first, again)
    back = torch.arange(len(picks), device=device)
    back[3:73] = back[3:73].flip(0)
    other = _triton.segment_sums(values[back], picks[back], edges, table)
    assert_close(first, other)
    assert not torch.equal(first, other), "another order would show"
    x, encoder, b_enc = made(device, torch.float32, (3, 4), (30, 4), (30,))
    for rule in (_triton.encode_topk, _triton.encode_batch_topk):
        pair = (rule(x, encoder, b_enc, 3) for _ in range(2))
        assert all(torch.equal(a, b) for a, b in zip(*pair, strict=True))


@ON
@pytest.mark.parametrize("rule", [encode_topk, encode_batch_topk])
@pytest.mark.parametrize("k", [3, 14])  # with 14 most rows lack positive pre-activations
def test_gradients_are_those_of_dense_float64_autograd(device, rule, k):
    n, d, f, out = 6, 5, 19, 4
    shapes = {"x": (n, d), "encoder": (f, d), "b_enc": (f,), "b_pre": (d,), "W_dec": (f, out)}
    shapes["b_dec"] = (out,)
    w = dict(zip(shapes, made(device, torch.float32, *shapes.values()), strict=True))
    wide = {name: t.double().requires_grad_() for name, t in w.items()}
    for t in w.values():
        t.requires_grad_()
    (weight,) = made(device, torch.float32, (n, out), seed=9)

    codes = rule(w["x"], w["encoder"], w["b_enc"], k, b_pre=w["b_pre"], backend="triton")
    x_hat = decode(codes, w["W_dec"], w["b_dec"], backend="triton")
    loss = (x_hat * weight).sum() + codes.values.square().sum()
    ours = torch.autograd.grad(loss, [*w.values()])

    pre = (wide["x"] - wide["b_pre"]) @ wide["encoder"].T + wide["b_enc"]
    flat = pre.detach() if rule is encode_topk else pre.detach().view(1, -1)
    best = flat.topk(k if rule is encode_topk else n * k).indices
    chosen = torch.zeros_like(flat).scatter(1, best, 1).view_as(pre)
    z = chosen * pre.relu()
    expected = z @ wide["W_dec"] + wide["b_dec"]
    loss = (expected * weight.double()).sum() + z.square().sum()
    theirs = torch.autograd.grad(loss, [*wide.values()])

    near = {"rtol": 1e-4, "atol": 1e-4}
    assert_close(codes.dense(f).double(), z, **near)
    assert_close(x_hat.double(), expected, **near)
    for name, one, other in zip(w, ours, theirs, strict=True):
        assert one.any(), name
        assert_close(one.double(), other, **near)
        assert not torch.allclose(-one.double(), other, **near)
    if k == 14:
        assert (codes.l0() < k).any(), "some rows lack k positive pre-activations"


@ON
def test_autocast_computes_the_product_in_bfloat16(device):
    x, encoder, b_enc = made(device, torch.float32, (4, 6), (50, 6), (50,))
    full = encode_topk(x, encoder, b_enc, 3, backend="triton")
    with torch.autocast(device, torch.bfloat16):
        codes = encode_topk(x, encoder, b_enc, 3, backend="triton")
    pre = torch.addmm(b_enc.bfloat16(), x.bfloat16(), encoder.bfloat16().T)
    assert codes.values.dtype == torch.float32
    assert torch.equal(codes.values, ranked(pre, 3)[0].float())
    assert torch.equal(codes.indices, ranked(pre, 3)[1])
    assert not torch.equal(codes.values, full.values)


@ON
def test_no_rows_and_no_slots(device):
    x, encoder, b_enc = made(device, torch.float32, (0, 4), (9, 4), (9,))
    for t in (x, encoder, b_enc):
        t.requires_grad_()
    codes = encode_topk(x, encoder, b_enc, 2, backend="triton")
    assert codes.values.shape == codes.indices.shape == (0, 2)
    out = decode(codes, encoder, backend="triton")
    out.sum().backward()
    assert out.shape == (0, 4) and x.grad.shape == (0, 4)
    assert not encoder.grad.any() and not b_enc.grad.any()
    for codes in (
        encode_batch_topk(x, encoder, b_enc, 2, backend="triton"),
        encode_above(x, encoder, b_enc, b_enc, backend="triton"),
    ):
        assert len(codes) == len(codes.values) == 0
    none = torch.zeros(0, device=device)
    sums = _triton.segment_sums(none, none.long(), torch.zeros(3).long().to(device), b_enc[:, None])
    assert sums.shape == (2, 1) and not sums.any()


@ON
def test_views_are_read_as_they_stand(device):
    edges, picks = uneven(device, most=5)
    values, table, left = made(device, torch.float32, (len(picks), 2), (7, 9), (7, 6))
    sparse, tall, lefts = values[:, 0], table.T, left.T
    assert torch.equal(
        _triton.segment_sums(sparse, picks, edges, tall),
        _triton.segment_sums(sparse.clone(), picks, edges, tall.contiguous()),
    )
    assert torch.equal(
        _triton.slot_products(lefts, tall, picks, edges),
        _triton.slot_products(lefts.contiguous(), tall.contiguous(), picks, edges),
    )
    assert not torch.equal(values[:, 0], values.flatten()[: len(picks)])


@ON
def test_training_goes_as_with_eager(device):
    rows = torch.randn(24, 6, generator=torch.Generator().manual_seed(0))
    options = {"steps": 2, "batch_size": 4, "device": device, "lr": 0.01}
    config = saes.TopKConfig(n_latents=20, k=3)
    first, eager, ours = (
        saes.train(rows, config, **options | changed)
        for changed in (
            {"backend": "eager", "steps": 1},
            {"backend": "eager"},
            {"backend": "triton"},
        )
    )
    for one, other in zip(ours.parameters(), eager.parameters(), strict=True):
        assert_close(one, other, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(first.encoder, eager.encoder, atol=1e-3), "training changes it"
