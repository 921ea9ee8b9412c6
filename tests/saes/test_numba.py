"""The CPU kernels against ATen in float64: selection, screening by integers, and its bound."""

import copy
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from numba.core.caching import IndexDataCacheFile
from scipy.stats import norm
from torch.testing import assert_close

import saes
from interp.errors import ParameterError, ShapeError
from saes import Codes, _numba, primitives
from saes.kernels import RULES, decode, encode_above, encode_batch_topk, encode_topk
from saes.threads import for_ranges

BACKENDS = ["numba", "int8"]


def case(n=300, d=24, f=700, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    x = scale * torch.randn(n, d, generator=generator)
    encoder = torch.nn.functional.normalize(torch.randn(f, d, generator=generator), dim=1)
    return x, encoder, 0.1 * torch.randn(f, generator=generator)


def pre_activations(x, encoder, b_enc):
    return x.double() @ encoder.double().T + b_enc.double()


def check_rows(values, indices, pre, k, tolerance=1e-5):
    """The k largest of each row, judged in float64; what they are may differ within rounding."""
    best = pre.topk(k, dim=1).values.relu()
    assert_close(values.double(), best, rtol=tolerance, atol=tolerance)
    own = pre.gather(1, indices).relu().where(values > 0, 0)
    assert_close(values.double(), own, rtol=tolerance, atol=tolerance)
    used = indices + (values <= 0) * torch.arange(1, k + 1) * 10**9  # zeros may name anything
    assert (used.sort(dim=1).values.diff(dim=1) > 0).all(), "no latent twice"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("n", "d", "f", "k"),
    [(300, 24, 700, 8), (257, 7, 33, 1), (300, 5, 31, 31), (1, 3, 64, 2), (513, 16, 1000, 31),
     (300, 24, 700, 200), (400, 1, 40, 3)],
)  # fmt: skip
def test_the_largest_of_each_row(backend, n, d, f, k):
    x, encoder, b_enc = case(n, d, f)
    values, indices = primitives.encode_topk(x, encoder, b_enc, k, "topk", backend)
    pre = pre_activations(x, encoder, b_enc)
    check_rows(values, indices, pre, k)
    assert (values.diff(dim=1) <= 0).all(), "largest first"
    wrong = indices.clone()
    wrong[:, 0] = pre.argmin(dim=1)
    with pytest.raises(AssertionError):
        check_rows(values, wrong, pre, k)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_largest_in_magnitude(backend):
    x, encoder, b_enc = case()
    values, indices = primitives.encode_topk(x, encoder, b_enc, 9, "signed", backend)
    pre = pre_activations(x, encoder, b_enc)
    best = pre.abs().topk(9, dim=1)
    assert_close(values.abs().double(), best.values, rtol=1e-5, atol=1e-5)
    assert_close(values.double(), pre.gather(1, indices), rtol=1e-5, atol=1e-5)
    assert (values < 0).any() and (values > 0).any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_of_equal_latents_the_lowest_index_comes_first(backend):
    x, encoder, b_enc = case(f=320)
    encoder, b_enc = encoder[:40].repeat(8, 1), b_enc[:40].repeat(8)
    _, indices = primitives.encode_topk(x, encoder, b_enc, 6, "topk", backend)
    best = pre_activations(x, encoder[:40], b_enc[:40]).argmax(dim=1)
    expected = best[:, None] + 40 * torch.arange(6)
    assert torch.equal(indices, expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_with_too_few_above_zero_end_in_zeros(backend):
    x, encoder, b_enc = case()
    b_enc = b_enc - 2.5
    values, indices = primitives.encode_topk(x, encoder, b_enc, 12, "topk", backend)
    positive = (pre_activations(x, encoder, b_enc) > 0).sum(1)
    assert torch.equal((values > 0).sum(1), positive.clamp_max(12))
    assert (positive < 12).any() and (positive == 0).any()
    assert ((indices >= 0) & (indices < 700)).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("what", ["x", "encoder", "b_enc"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_goes_to_aten(backend, what, value):
    given = dict(zip(("x", "encoder", "b_enc"), case(), strict=True))
    given[what].view(-1)[5] = value
    ours = primitives.encode_topk(*given.values(), 4, "topk", backend)
    theirs = primitives.encode_topk(*given.values(), 4, "topk", "eager")
    assert_close(ours, theirs, equal_nan=True)


def bound_and_error(x, encoder):
    rows, latents = _numba._Rounded(x.contiguous()), _numba._Rounded(encoder)
    reach_w, reach_e, length, error = _numba._bounds(rows, latents, x.shape[1])
    scales = np.outer(rows.scale.astype(float), latents.scale.astype(float))
    rough = (rows.q.double() @ latents.q.double().T).numpy() * scales
    true = (x.double() @ encoder.double().T).numpy()
    reach_w, reach_e, length, error = (a.astype(float) for a in (reach_w, reach_e, length, error))
    return np.outer(reach_w, length) + np.outer(reach_e, error), np.abs(true - rough)


def test_rounding_is_never_off_by_more_than_the_bound():
    generator = torch.Generator().manual_seed(0)
    d, f = 40, 256
    signs = torch.randn(f, d, generator=generator).sign()
    grid = torch.randint(-100, 100, (f, d), generator=generator).float()
    worst = grid + 0.4999 * signs  # what rounding takes off lies along the latent
    worst[:, 0] = 127  # the scale is 1
    spiky = torch.randn(f, d, generator=generator)
    spiky *= 10.0 ** torch.randint(-6, 6, (f, d), generator=generator)
    for x in (worst, spiky, grid, 0 * grid, 1e-38 * grid, 1e30 * grid):
        for encoder in (signs, spiky, 1e-20 * grid):
            bound, off = bound_and_error(x, encoder)
            assert (off <= bound).all()
    bound, off = bound_and_error(worst, signs)
    assert (np.diag(off) > 0.9 * np.diag(bound)).mean() > 0.5, "nine tenths of it would not do"


@pytest.mark.parametrize("kind", ["outliers", "alike", "tiny", "zero rows"])
def test_screening_stays_exact_where_it_does_not_pay(kind):
    x, encoder, b_enc = case(n=600)
    if kind == "outliers":
        x[:, 3] = 1e4 * (1 + torch.arange(600) / 600)  # swamps int8: every latent is a candidate
    if kind == "alike":
        encoder = encoder[:1] + 1e-5 * encoder
    if kind == "tiny":
        x, b_enc = x * 1e-30, b_enc * 0
    if kind == "zero rows":
        x[::2] = 0
    values, indices = primitives.encode_topk(x, encoder, b_enc, 5, "topk", "int8")
    pre = pre_activations(x, encoder, b_enc)
    largest = float(pre.abs().max())
    best = pre.topk(5, dim=1).values.relu()
    assert_close(values.double() / largest, best / largest, rtol=0, atol=1e-6)
    chosen = pre.gather(1, indices).relu().where(values > 0, 0)
    assert_close(chosen / largest, best / largest, rtol=0, atol=1e-6)


def test_few_true_products_are_needed():
    """What screening saves is the point of it: of 4,096 latents most are never computed."""
    x, encoder, b_enc = case(n=512, d=64, f=4096)
    rows, latents = _numba._Rounded(x), _numba._Rounded(encoder)
    products = torch.ops.aten._int_mm(rows.q, latents.q.T).numpy()
    out = np.empty((512, 16), np.float32), np.empty((512, 16), np.int64)
    bias = b_enc.numpy()
    computed = _numba._screen(
        products, 0, 512, 0, rows.scale, latents.scale, bias + 2.0**-20 * np.abs(bias),
        *_numba._bounds(rows, latents, 64), x.numpy(), encoder.numpy(), bias, 16, False, *out,
    )  # fmt: skip
    assert 16 * 512 <= computed < 512 * 4096 // 30


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("k", [1, 6, 40])
def test_batch_topk_is_that_of_aten(backend, k):
    x, encoder, b_enc = case(n=400, f=320)
    x[3] *= 40  # one row takes all it can
    ours = encode_batch_topk(x, encoder, b_enc, k, backend=backend)
    theirs = encode_batch_topk(x, encoder, b_enc, k, backend="eager")
    assert_close(ours.dense(320), theirs.dense(320), rtol=1e-5, atol=1e-5)
    assert len(ours.values) == 400 * k and torch.equal(ours.offsets, theirs.offsets)
    key = ours.rows * 320 + ours.indices
    assert torch.equal(key, key.sort().values), "by rising row, then latent"


@pytest.mark.parametrize("backend", BACKENDS)
def test_batch_topk_with_ties_and_with_too_few(backend):
    x, encoder, b_enc = case(n=300, f=64)
    x = x[:10].repeat(30, 1)
    ours = encode_batch_topk(x, encoder, b_enc, 3, backend=backend)
    theirs = encode_batch_topk(x, encoder, b_enc, 3, backend="eager")
    assert ours.l0().sum() == theirs.l0().sum() == 900
    few = encode_batch_topk(x, encoder, b_enc - 3, 3, backend=backend)
    pre = pre_activations(x, encoder, b_enc - 3).relu()
    assert len(few.values) == 900 and few.l0().sum() == (pre > 0).sum() < 900
    assert_close(few.dense(64).double(), pre, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", ["eager", *BACKENDS])
def test_what_is_above_a_threshold(backend):
    x, encoder, b_enc = case(n=400)
    threshold = torch.linspace(-1, 2, 700)
    codes = encode_above(x, encoder, b_enc, threshold, b_pre=torch.full((24,), 0.1),
                         backend=backend)  # fmt: skip
    pre = pre_activations(x - 0.1, encoder, b_enc)
    expected = pre.where(pre > threshold.clamp_min(0), 0)
    assert_close(codes.dense(700).double(), expected, rtol=1e-5, atol=1e-5)
    assert codes.offsets.tolist() == [0, *(expected > 0).sum(1).cumsum(0).tolist()]
    empty = encode_above(x[:0], encoder, b_enc, threshold, backend=backend)
    assert len(empty) == 0 and len(empty.values) == 0


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("encode", [encode_topk, encode_batch_topk])
def test_values_and_all_gradients_are_those_of_float64(backend, encode):
    generator = torch.Generator().manual_seed(1)
    x, encoder, b_enc = case(n=300, f=320)
    given = [x, encoder, b_enc, torch.randn(24, generator=generator) / 5]
    W = torch.randn(320, 9, generator=generator)
    weight = torch.randn(300, 9, generator=generator)

    def run(dtype, backend):
        parts = [t.to(dtype).requires_grad_() for t in (*given, W)]
        codes = encode(*parts[:3], 7, b_pre=parts[3], backend=backend)
        out = decode(codes, parts[4], backend=backend)
        loss = (out * weight.to(dtype)).sum() + codes.values.square().sum()
        return [codes.dense(320).detach(), out.detach(), *torch.autograd.grad(loss, parts)]

    ours, theirs = run(torch.float32, backend), run(torch.float64, "eager")
    for mine, reference in zip(ours, theirs, strict=True):
        size = float(reference.abs().max())
        assert_close(mine.double() / size, reference / size, rtol=0, atol=2e-6)
    for mine in ours[2:]:
        assert mine.any()


@pytest.mark.parametrize("backend", ["eager", *BACKENDS])
def test_gathered_sums_and_products(backend):
    """Rows without slots, a latent twice in a row, more slots than one loop takes at a time."""
    generator = torch.Generator().manual_seed(0)
    counts = torch.tensor([0, 1, 2, 3, 4, 5, 9, 0, 2000, 1])
    edges = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    m = int(edges[-1])
    values, picks = torch.randn(m, generator=generator), torch.randint(0, 6, (m,))
    table, left = torch.randn(6, 11), torch.randn(len(counts), 11)
    rows = torch.arange(len(counts)).repeat_interleave(counts)
    sums = primitives.segment_sums(values, picks, edges, table, backend)
    expected = torch.zeros(len(counts), 11, dtype=torch.float64)
    expected.index_add_(0, rows, (values[:, None] * table[picks]).double())
    assert_close(sums.double(), expected, rtol=1e-4, atol=1e-4)
    products = primitives.slot_products(left, table, picks, edges, backend)
    assert_close(products, (left[rows] * table[picks]).sum(1), rtol=1e-5, atol=1e-5)
    order, begins = primitives.order(picks, 6, backend)
    assert torch.equal(order, picks.argsort(stable=True))
    assert begins.tolist() == [0, *picks.bincount(minlength=6).cumsum(0).tolist()]


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_empty_batch(backend):
    x, encoder, b_enc = case(n=0)
    encoder.requires_grad_()
    codes = encode_topk(x, encoder, b_enc, 4, backend=backend)
    assert codes.values.shape == (0, 4)
    decode(codes, encoder, backend=backend).sum().backward()
    assert not encoder.grad.any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_input_that_is_not_contiguous(backend):
    x, encoder, b_enc = case()
    strided = torch.stack([x, x], dim=2)[..., 0]
    assert not strided.is_contiguous()
    ours = encode_topk(strided, encoder.T.contiguous().T, b_enc, 5, backend=backend)
    same = encode_topk(x, encoder, b_enc, 5, backend=backend)
    assert torch.equal(ours.values, same.values) and torch.equal(ours.indices, same.indices)


def test_equal_input_gives_equal_bits_on_any_number_of_threads():
    x, encoder, b_enc = case(n=2000, f=1024)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            codes = encode_topk(x, encoder, b_enc, 8, backend="int8")
            found.append((codes.values, codes.indices, decode(codes, encoder, backend="numba")))
            assert torch.get_num_threads() == threads, "put back"
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_an_error_in_a_range_is_raised():
    done = []

    def work(start, stop):
        if start == 20:
            raise ValueError("here")
        done.append(start)

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(ValueError, match="here"):
            for_ranges([0, 10, 20, 30, 40], work)
    finally:
        torch.set_num_threads(before)
    assert 0 in done


@pytest.mark.parametrize("backend", BACKENDS)
def test_backends_for_the_cpu_in_float32_say_so(backend):
    x, encoder, b_enc = (t.double() for t in case())
    with pytest.raises(ParameterError, match=f"backend {backend} is for float32 on a CPU"):
        encode_topk(x, encoder, b_enc, 4, backend=backend)
    with pytest.raises(ParameterError, match="'fats' is unknown"):
        encode_topk(x, encoder, b_enc, 4, backend="fats")


def test_what_auto_takes():
    x = torch.zeros(1)
    small, large = primitives.SMALL - 1, primitives.SMALL
    assert primitives.resolve("auto", x, small) == "eager"
    assert primitives.resolve("auto", x, large) in ("numba", "int8")
    assert primitives.resolve("auto", x.double(), large) == "eager"


def test_approximate_choices_are_what_they_say():
    x, encoder, b_enc = case(f=704)
    pre = pre_activations(x, encoder, b_enc).float()
    grouped = encode_topk(x, encoder, b_enc, 8, rule="group_max")
    assert torch.equal(grouped.indices % 8, torch.arange(8).expand(300, 8))
    best = torch.stack([pre[:, g::8].max(dim=1).values.relu() for g in range(8)], dim=1)
    assert_close(grouped.values, best, rtol=1e-5, atol=1e-5)
    with pytest.raises(ParameterError, match="multiples of k"):
        encode_topk(x, encoder, b_enc, 9, rule="group_max")
    statistical = encode_topk(x, encoder, b_enc, 8, rule="statistical")
    least = pre.mean(1) + pre.std(1, correction=0) * float(norm.ppf(1 - 8 / 704))
    assert_close(statistical.dense(704), pre.where(pre > least[:, None], 0), rtol=1e-4, atol=1e-4)
    assert 6 < statistical.l0().float().mean() < 10 and len(statistical.l0().unique()) > 1
    exact = encode_topk(x, encoder, b_enc, 8)
    assert exact.values.sum() > grouped.values.sum()
    with pytest.raises(ParameterError, match="rule must be one of"):
        encode_topk(x, encoder, b_enc, 8, rule="best")


@pytest.mark.parametrize("rule", ["topk", "signed", "group_max", "statistical"])
def test_gradcheck(rule):
    generator = torch.Generator().manual_seed(3)
    shapes = ((5, 3), (8, 3), (8,), (3,), (8, 2))
    parts = [torch.randn(*s, generator=generator, dtype=torch.float64) for s in shapes]

    def run(x, encoder, b_enc, b_pre, W):
        codes = encode_topk(x, encoder, b_enc, 2, b_pre=b_pre, rule=rule, backend="eager")
        return decode(codes, W, backend="eager"), codes.values

    assert torch.autograd.gradcheck(run, [p.requires_grad_() for p in parts])


def test_gradcheck_of_a_whole_batch():
    generator = torch.Generator().manual_seed(3)
    shapes = ((5, 3), (8, 3), (8,), (8, 2))
    parts = [torch.randn(*s, generator=generator, dtype=torch.float64) for s in shapes]

    def run(x, encoder, b_enc, W):
        codes = encode_batch_topk(x, encoder, b_enc, 2, backend="eager")
        return decode(codes, W, backend="eager"), codes.values

    assert torch.autograd.gradcheck(run, [p.requires_grad_() for p in parts])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("multi_k", [False, True])
def test_auxk_and_multi_topk_are_those_of_float64(backend, multi_k):
    config = saes.TopKConfig(n_latents=320, k=4, k_aux=9, auxk=0.5, multi_k=multi_k)
    generator = torch.Generator().manual_seed(0)
    x, dead = torch.randn(300, 24, generator=generator), torch.arange(5, 200, 3)
    sae = saes.SAE.from_config(config, 24, generator=generator)
    with torch.no_grad():
        sae.b_dec.copy_(torch.randn(24, generator=generator) / 5)

    def gradients(dtype, backend, dead):
        made = copy.deepcopy(sae).to(dtype)
        made.backend = backend
        found = made.loss(x.to(dtype), dead=dead)
        names, parameters = zip(*made.named_parameters(), strict=True)
        grads = torch.autograd.grad(found.total, parameters)
        return dict(zip(names, grads, strict=True)), found.parts

    ours, parts = gradients(torch.float32, backend, dead)
    theirs, expected = gradients(torch.float64, "eager", dead)
    without, _ = gradients(torch.float64, "eager", None)
    for name, reference in theirs.items():
        size = float(reference.abs().max())
        assert_close(ours[name].double() / size, reference / size, rtol=0, atol=3e-6)
    for name, part in expected.items():
        assert_close(parts[name].double(), part, rtol=1e-5, atol=1e-6)
    assert (theirs["encoder"] - without["encoder"])[dead].abs().max() > 1e-3, "AuxK reaches it"


def test_without_gradients_nothing_is_sorted():
    x, encoder, b_enc = case(n=40, f=64)
    with torch.no_grad():
        assert encode_topk(x, encoder.requires_grad_(), b_enc, 4).sorted_slots == (None, None)


def test_codes_that_an_encoder_made_are_sorted_once():
    x, encoder, b_enc = case(n=40, f=64)
    codes = encode_topk(x, encoder.requires_grad_(), b_enc, 4)
    order, begins = codes.sorted_slots
    assert codes.with_values(codes.values * 2).sorted_slots[0] is order
    latents = codes.indices.flatten()[order]
    for j in range(64):
        assert (latents[begins[j] : begins[j + 1]] == j).all()
    assert Codes(codes.values, codes.indices).sorted_slots == (None, None)


@pytest.mark.parametrize("backend", ["eager", *BACKENDS])
@pytest.mark.parametrize("rule", [*RULES, "batch_topk"])
def test_an_empty_batch_by_every_rule(backend, rule):
    x, encoder, b_enc = case(n=0)
    encoder.requires_grad_()
    if rule == "batch_topk":
        codes = encode_batch_topk(x, encoder, b_enc, 4, backend=backend)
    else:
        codes = encode_topk(x, encoder, b_enc, 4, rule=rule, backend=backend)
    assert len(codes) == 0 and codes.values.numel() == 0
    decode(codes, encoder, backend=backend).sum().backward()
    assert not encoder.grad.any()


@pytest.mark.parametrize("backend", ["eager", *BACKENDS])
def test_what_is_out_of_bounds_is_refused(backend):
    """Compiled kernels look at no bounds: they would read, and write, what is not theirs."""
    x, encoder, b_enc = case()
    for k in (0, 701):
        with pytest.raises(ParameterError, match="k must be from 1 to 700"):
            encode_topk(x, encoder, b_enc, k, backend=backend)
        with pytest.raises(ParameterError, match="k must be from 1 to 700"):
            encode_batch_topk(x, encoder, b_enc, k, backend=backend)
    with pytest.raises(ShapeError, match=r"must be \[700\]; got \[1\]"):
        encode_topk(x, encoder, b_enc[:1], 4, backend=backend)
    with pytest.raises(ShapeError, match=r"must be \[700\]; got \[1\]"):
        encode_above(x, encoder, b_enc, b_enc[:1], backend=backend)
    for wrong in (-1, 700):
        codes = Codes(torch.ones(2, 2), torch.tensor([[0, 3], [wrong, 1]]))
        with pytest.raises(ShapeError, match=f"codes name latent {wrong}; the decoder has 700"):
            decode(codes, encoder, backend=backend)
    for offsets in ([0, 3], [1, 2], [0, 2, 1, 2]):
        codes = Codes(torch.ones(2), torch.tensor([0, 1]), torch.tensor(offsets))
        with pytest.raises(ShapeError, match="must rise from 0 to 2"):
            decode(codes, encoder, backend=backend)


@pytest.mark.parametrize("backend", ["eager", *BACKENDS])
def test_codes_of_a_larger_encoder_are_sorted_anew_for_a_smaller_decoder(backend):
    x, encoder, b_enc = case(f=64)
    b_enc[40:] = -100
    codes = encode_topk(x, encoder.requires_grad_(), b_enc, 2, backend=backend)
    W = torch.ones(40, 3, requires_grad=True)
    used = codes.with_values(codes.values.detach())
    decode(used, W, backend=backend).sum().backward()
    assert_close(W.grad[:, 0], used.dense(64).sum(0)[:40])


@pytest.mark.parametrize("backend", BACKENDS)
def test_products_that_overflow_are_those_of_aten(backend):
    x, encoder, b_enc = case()
    x[5] *= 1e25
    ours = primitives.encode_topk(x, encoder * 1e15, b_enc, 3, "topk", backend)
    theirs = primitives.encode_topk(x, encoder * 1e15, b_enc, 3, "topk", "eager")
    assert theirs[0][5].isinf().all()
    assert_close(ours[0], theirs[0], equal_nan=True)


def test_rows_too_wide_for_integer_sums_get_float_products(monkeypatch):
    monkeypatch.setattr(_numba, "FEW_ROWS", 1)
    x, encoder = torch.ones(33, 140_000), torch.full((64, 140_000), 0.5)
    encoder[7] = 1
    values, indices = primitives.encode_topk(x, encoder, torch.zeros(64), 2, "topk", "int8")
    assert (indices[:, 0] == 7).all() and torch.equal(values[0], torch.tensor([140e3, 70e3]))


SATURATING = """
import torch
from saes import primitives
x = torch.ones(300, 64)
encoder = torch.cat([torch.ones(8, 64), 0.1 * torch.randn(500, 64)])
values, indices = primitives.encode_topk(x, encoder, torch.zeros(508), 8, "topk", "int8")
assert (values == 64).all() and torch.equal(indices, torch.arange(8).expand(300, 8)), values[0]
"""


def test_a_processor_whose_integer_products_saturate():
    """Without VNNI the library adds pairs of products in int16."""
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run(
        [sys.executable, "-c", SATURATING], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_where_nothing_can_be_kept_on_disk(monkeypatch):
    def refuse(**options):
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: (function, options)

    monkeypatch.setattr(_numba, "njit", refuse)
    function, options = _numba._kernel(len)
    assert function is len and options["nogil"] and "nnan" not in options["fastmath"]


@pytest.mark.parametrize("own", [True, False])
def test_code_that_is_not_written_yet_is_not_taken_for_another(own, tmp_path):
    """Of two releases, and of two processes that compile at a time."""
    old = IndexDataCacheFile(str(tmp_path), "kernel", "release 1")
    old.save("float32", "code of release 1")
    new = IndexDataCacheFile(str(tmp_path), "kernel", "release 2")
    if own:
        _numba.own_names(new)
    other = IndexDataCacheFile(str(tmp_path), "kernel", "release 2")
    seen = []
    write = new._save_data
    new._save_data = lambda name, data: (seen.append(other.load("float32")), write(name, data))
    new.save("float32", "code of release 2")
    assert seen == ([None] if own else ["code of release 1"])  # None: it compiles by itself
    assert other.load("float32") == "code of release 2"


def test_every_kernel_has_names_of_its_own():
    kernels = [v for v in vars(_numba).values() if hasattr(v, "_cache")]
    files = [k._cache._cache_file for k in kernels]
    assert len(files) > 10
    assert all(f._data_name(1) != f._data_name(1) for f in files)
