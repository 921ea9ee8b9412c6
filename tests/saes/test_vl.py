"""VL-SAE by the numbers of its reference, by a plain formula, and as an SAE of two modalities."""

import json

import pytest
import torch
from torch.testing import assert_close

import saes
from interp.errors import CheckpointError, DataError, ParameterError, ShapeError
from saes import SAE, VLSAE, Codes, VLConfig
from saes.rows import seeded

W = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0], [1.0, 1.0]])
SQUARE = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
DEAD = torch.tensor([2, 5, 6, 11, 17, 23])


def reads(W, k, ties="strict"):
    sae = VLSAE(VLConfig(n_latents=len(W), k=k, ties=ties), W.shape[1])
    with torch.no_grad():
        sae.encoders["both"].copy_(W)
    return sae.eval()


def make(design="vl", d=8, f=24, seed=1, **fields):
    config = VLConfig(n_latents=f, design=design, **{"k": 3, **fields})
    return VLSAE(config, d, generator=seeded(seed, "weights"))


def rows(n, d=8, seed=2):
    return 1.5 * torch.randn(n, d, generator=seeded(seed, "rows")) + 0.3


def nearness(x, W):
    """The authors' formula, in float64, by differences."""
    x, W = x.double(), W.double()
    x, W = (t / t.norm(dim=1, keepdim=True) for t in (x, W))
    return 2 - (x[:, None] - W[None]).norm(dim=2)


designs = pytest.mark.parametrize("design", ["vl", "separate", "shared"])


# ---- the reference's numbers (V1 to V3)


def test_v1_latents_of_the_released_code():
    x = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    raw = torch.tensor([[1.105573, 1.367544, 0.211146, 1.858222], [2, 0.585786, 0, 1.234633]])
    kept = torch.tensor([[0, 1.367544, 0, 1.858222], [2, 0, 0, 1.234633]])
    with torch.no_grad():
        for scale in (1, 10):
            assert_close(reads(W, 4, "exact").encode(scale * x), raw, atol=1e-6, rtol=0)
            for ties in ("exact", "strict"):
                assert_close(reads(W, 2, ties).encode(scale * x), kept, atol=1e-6, rtol=0)


def test_v2_ties_at_the_edge_all_go_by_the_strict_rule():
    x = torch.ones(1, 2)
    two = torch.tensor([[1.234633, 1.234633, 0, 0]])
    raw = torch.tensor([[1.234633, 1.234633, 0.152241, 0.152241]])
    with torch.no_grad():
        assert_close(reads(SQUARE, 4, "exact").encode(x), raw, atol=1e-6, rtol=0)
        assert not reads(SQUARE, 1).encode(x).any()
        one = reads(SQUARE, 1, "exact").encode(x)
        assert_close(one, two * torch.tensor([1, 0, 0, 0]), atol=1e-6, rtol=0)
        for ties in ("exact", "strict"):
            assert_close(reads(SQUARE, 2, ties).encode(x), two, atol=1e-6, rtol=0)
        assert int((reads(SQUARE, 3).encode(x) > 0).sum()) == 2
    with pytest.raises(ParameterError, match="k must be at most 3; got 4. The strict rule needs"):
        VLConfig(n_latents=4, k=4, ties="strict")
    with pytest.raises(ParameterError, match="k must be at most 4; got 5. It cannot exceed"):
        VLConfig(n_latents=4, k=5)


@pytest.mark.parametrize("ties", ["exact", "strict"])
def test_v3_exactly_k_scale_free_and_within_the_triangle_bound(ties):
    sae = make(f=256, d=32, k=16, ties=ties)
    x = rows(200, 32)
    y = x + 0.7 * rows(200, 32, seed=5)
    with torch.no_grad():
        z, other = sae.encode(x), make(f=256, d=32, k=256).encode(x)
        assert ((z > 0).sum(1) == 16).all()
        assert torch.equal(z.topk(16).indices.sort().values, other.topk(16).indices.sort().values)
        assert_close(sae.encode(1e-3 * x), z, atol=1e-5, rtol=0)
        assert_close(sae.encode(1e25 * x), z, atol=1e-5, rtol=0)
        assert_close(sae.encode(1e-25 * x), z, atol=1e-5, rtol=0)
        moved = make(f=256, d=32, k=16, ties=ties)
        moved.encoders["both"] *= 0.1 + torch.rand(256, 1, generator=seeded(4))
        assert_close(moved.encode(x), z, atol=1e-5, rtol=0)
        assert not torch.allclose(sae.encode(x + 0.3), z, atol=1e-2)
        whole = make(f=256, d=32, k=256)
        apart = (whole.encode(x) - whole.encode(y)).abs().amax(1)
        bound = (x / x.norm(dim=1, keepdim=True) - y / y.norm(dim=1, keepdim=True)).norm(dim=1)
        assert (apart <= bound + 1e-6).all() and (apart > 0.5 * bound).any()


@pytest.mark.parametrize("ties", ["exact", "strict"])
def test_v3_gradient_reaches_kept_units_alone(ties):
    sae = make(f=64, ties=ties)
    x = rows(5)
    z = sae.encode(x)
    z.sum().backward()
    kept = (z > 0).any(0)
    grad = sae.encoders["both"].grad.abs().sum(1)
    assert 0 < int(kept.sum()) < 64
    assert (grad[kept] > 0).all() and not grad[~kept].any()


# ---- exactness


def test_nearly_equal_vectors_stay_exact():
    """From products alone the distance of vectors 1e-4 apart would be off by as much."""
    d = 512
    x = rows(40, d)
    apart = torch.logspace(-5, 0, 40)[:, None]
    W = x + apart * x.norm(dim=1, keepdim=True) / d**0.5 * rows(40, d, seed=9)
    W[0] = x[0]
    true = nearness(x, W)
    sae = reads(W, 40, "exact")
    with torch.no_grad():
        z = sae.encode(x).double()
        u, w = (t / t.norm(dim=1, keepdim=True) for t in (x, W))
        product = 2 - (2 - 2 * u @ w.T).clamp_min(0).sqrt().double()
    assert (z - true).abs().max() < 2e-6
    assert z[0, 0] == 2
    assert (product - true).abs().max() > 5e-5


def test_blocks_change_nothing(monkeypatch):
    sae, x = make(f=64), rows(100)
    with torch.no_grad():
        whole = sae.encode_sparse(x)
        monkeypatch.setattr("saes.distances.BLOCK", 64 * 7)
        parts = sae.encode_sparse(x)
    assert torch.equal(whole.indices, parts.indices)
    assert_close(whole.values, parts.values, atol=1e-6, rtol=0)


@pytest.mark.parametrize("backend", ["numba", "int8"])
def test_backends_agree(backend):
    sae, x = make(f=64, d=16, k=5), rows(300, 16)
    same = sae.encoders["both"][3:4].detach().clone()
    found = {}
    for name in ("eager", backend):
        sae.backend = name
        sae.zero_grad()
        loss = sae.loss(x, x.flip(0), dead=DEAD)
        loss.total.backward()
        z = sae.encode(torch.cat([x, same])).detach()
        found[name] = (z, [p.grad.clone() for p in sae.parameters()])
    assert_close(found["eager"][0], found[backend][0], atol=1e-5, rtol=0)
    for a, b in zip(found["eager"][1], found[backend][1], strict=True):
        assert_close(a, b, atol=1e-4, rtol=1e-3)


# ---- the loss against a formula


def plain(sae, x, y, dead):
    """Dense float64 arithmetic."""

    def z_of(x, m, units, k):
        key = m if m in sae.encoders else "both"
        W = sae.encoders[key][units]
        if sae.config.design == "vl":
            pre = nearness(x, W)
        else:
            pre = (x @ W.T + sae.b_encs[key][units]).clamp_min(0)
        kept = torch.zeros_like(pre).scatter(1, pre.topk(k).indices, 1.0)
        return pre * kept

    def squared(a, b):
        return (a - b).pow(2).sum() / len(a)

    parts, every = {"image": 0, "text": 0, "auxk": 0}, torch.arange(sae.n_latents)
    for m, t in (("image", x), ("text", y)):
        key = m if m in sae.decoders else "both"
        D, b = sae.decoders[key], sae.b_decs[key]
        out = z_of(t, m, every, sae.config.k) @ D + b
        parts[m] = squared(out, t)
        e = (t - out).detach()
        k_aux = min(sae.config.k_aux or t.shape[1] // 2, len(dead))
        e_hat = z_of(t, m, dead, k_aux) @ D[dead]
        scale = squared(t, t.mean(0)) / squared(e, e.mean(0))
        parts["auxk"] = parts["auxk"] + sae.config.auxk * scale.detach() * squared(e_hat, e)
    return parts


@designs
def test_the_loss_and_all_gradients_are_those_of_the_formula(design):
    sae = make(design).double()
    x, y = rows(60).double(), rows(60, seed=3).double()
    ours, theirs = sae.loss(x, y, dead=DEAD), plain(sae, x, y, DEAD)
    assert ours.parts.keys() == theirs.keys()
    for part, value in theirs.items():
        assert value > 0
        assert_close(ours.parts[part], value)
    assert_close(ours.total, sum(theirs.values()))
    names, parameters = zip(*sae.named_parameters(), strict=True)
    got = torch.autograd.grad(ours.total, parameters)
    expected = torch.autograd.grad(sum(theirs.values()), parameters)
    for name, a, b in zip(names, got, expected, strict=True):
        assert b.any(), name
        assert_close(a, b, rtol=1e-8, atol=1e-10)


@designs
def test_no_part_compares_the_two_of_a_pair(design):
    """Texts in another order give the same loss: what pairs share comes from the encoder."""
    sae = make(design).double()
    x, y = rows(60).double(), rows(60, seed=3).double()
    assert_close(sae.loss(x, y).total, sae.loss(x, y.flip(0)).total)
    assert not torch.isclose(sae.loss(x, y).total, sae.loss(x, y + 0.1).total)


# ---- the contract


@designs
def test_saved_and_loaded(design, tmp_path):
    sae = make(design, ties="strict")
    sae.metadata = {"hookpoints": {"image": "a", "text": "b"}}
    sae.save_pretrained(tmp_path)
    for cls in (SAE, VLSAE):
        back = cls.from_pretrained(tmp_path)
        assert type(back) is VLSAE and back.config == sae.config and not back.training
        assert back.metadata == sae.metadata
        for m in saes.vl.MODALITIES:
            assert torch.equal(back(rows(5), modality=m).output, sae(rows(5), modality=m).output)
    with pytest.raises(CheckpointError, match="holds a vl SAE"):
        saes.TopKSAE.from_pretrained(tmp_path)
    document = json.loads((tmp_path / "config.json").read_text())
    document["config"]["tie"] = "strict"
    (tmp_path / "config.json").write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match="no field 'tie'; did you mean 'ties'"):
        SAE.from_pretrained(tmp_path)


@designs
def test_dense_sparse_and_both_decoders_agree(design):
    sae = make(design)
    x = rows(35).view(7, 5, 8)
    for m in saes.vl.MODALITIES:
        z, codes, out = (
            sae.encode(x, modality=m),
            sae.encode_sparse(x, modality=m),
            sae(x, modality=m),
        )
        assert z.shape == (7, 5, 24) and out.output.shape == x.shape
        assert torch.equal(codes.dense(24), z.view(35, 24))
        assert_close(sae.decode(z, modality=m), out.output)
        assert_close(sae.decode(codes, modality=m).view(7, 5, 8), out.output)
        side = sae.side(m)
        assert torch.equal(side.encode(x), z) and torch.equal(side(x).output, out.output)
        assert_close(side.decode(z), out.output)
        assert torch.equal(side.W_dec, sae.W_dec[m]) and side.W_enc.shape == (8, 24)
        assert sae.encode(x.half(), modality=m).dtype == torch.float16
        assert sae.encode(x[:0], modality=m).shape == (0, 5, 24)
    differ = not torch.equal(*(sae.decode(z, modality=m) for m in saes.vl.MODALITIES))
    assert differ == (design != "shared")


def test_the_encoder_is_shared_and_weights_are_named():
    sae = make()
    assert sae.W_enc.shape == (8, 24) and sae.W_enc.data_ptr() == sae.encoder.data_ptr()
    assert torch.equal(sae.encode(rows(4)), sae.encode(rows(4), modality="text"))
    separate = make("separate")
    assert not torch.equal(*(separate.encode(rows(4), modality=m) for m in saes.vl.MODALITIES))
    with pytest.raises(ParameterError, match="has a encoder a modality|has an encoder a modality"):
        _ = separate.encoder
    for attribute in ("decoder", "b_dec"):
        with pytest.raises(ParameterError, match="take sae.side"):
            getattr(sae, attribute)


def test_a_modality_is_asked_for_where_it_matters():
    x = rows(4)
    for wrong in (None, "audio", 3):
        with pytest.raises(ParameterError, match=f"modality must be image or text; got {wrong!r}"):
            make()(x, modality=wrong)
        with pytest.raises(ParameterError, match="decode: modality"):
            make().decode(torch.zeros(2, 24), modality=wrong)
        with pytest.raises(ParameterError, match="encode: modality"):
            make("separate").encode(x, modality=wrong)
    with pytest.raises(ParameterError, match="encode: modality must be image or text; got 'img'"):
        make().encode(x, modality="img")
    shared = make("shared")
    assert torch.equal(shared(x).output, shared(x, modality="text").output)


def test_bad_input_is_refused_in_a_sentence():
    sae, x = make(), rows(5)
    with pytest.raises(ParameterError, match="needs y, the texts"):
        sae.loss(x)
    with pytest.raises(ShapeError, match="x has 5 rows and y 4"):
        sae.loss(x, x[:4])
    with pytest.raises(DataError, match="no rows"):
        sae.loss(x[:0], x[:0])
    with pytest.raises(ShapeError, match=r"y must be \[\.\.\., 8\]"):
        sae.loss(x, x[:, :7])
    with pytest.raises(DataError, match="floating-point"):
        sae.encode(x.long())
    zero = x.clone()
    zero[3] = 0
    for bad in (lambda: sae.encode(zero), lambda: sae.loss(x, zero)):
        with pytest.raises(DataError, match="row 3 of 5 is 0, which has none"):
            bad()
    zero[3, 1] = torch.nan
    with pytest.raises(DataError, match=r"y holds nan or inf \(first in row 3 of 5\)"):
        sae.loss(x, zero)
    assert sae.encode(zero)[3].isnan().any() and sae.encode(zero)[[0, 4]].isfinite().all()
    with pytest.raises(ParameterError, match="one width; got 8 and 5. .*AuxiliaryAE"):
        VLSAE(sae.config, 8, 5)
    for fields, said in (
        ({"ties": "loose"}, "ties must be one of exact, strict"),
        ({"design": "tied"}, "design must be one of vl, separate, shared"),
        ({"k": 0}, "k must be a whole number"),
        ({"auxk": -1.0}, "auxk"),
        ({"k_aux": 0}, "k_aux"),
    ):
        with pytest.raises(ParameterError, match=said):
            VLConfig(**{"n_latents": 4, "k": 2, **fields})
    with pytest.raises(ParameterError, match="k must be from 1 to 24; got k=25"):
        sae.loss(x, x, k=25)
    with pytest.raises(ParameterError, match="save the VLSAE"):
        sae.side("image").save_pretrained("x")


def test_latents_without_a_slot_decode_to_the_bias():
    sae = make()
    none = Codes(torch.zeros(3, 2), torch.zeros(3, 2, dtype=torch.long))
    for m in saes.vl.MODALITIES:
        assert torch.equal(sae.decode(none, modality=m), sae.b_decs[m].expand(3, 8))


@designs
def test_scales_fold_into_the_weights(design):
    s, t = torch.full((1,), 3.0), torch.full((1,), 0.5)
    t = s if design == "shared" else t
    inner, folded, x = make(design), make(design), rows(9)
    folded.fold_scales(s, t)
    for m, scale in (("image", s), ("text", t)):
        assert_close(folded.encode(x, modality=m), inner.encode(scale * x, modality=m))
        want = inner(scale * x, modality=m).output / scale
        assert_close(folded(x, modality=m).output, want, atol=1e-5, rtol=1e-4)


# ---- evaluation of a side


def test_a_side_is_evaluated_and_the_whole_is_refused():
    sae, x = make(), rows(50)
    found = saes.evaluate(sae.side("text"), x)
    out = sae(x, modality="text").output.detach()
    fvu = (out - x).double().pow(2).sum() / (x - x.mean(0)).double().pow(2).sum()
    assert found.fvu == pytest.approx(float(fvu), rel=1e-5) and found.l0 == 3
    with pytest.raises(ParameterError, match="take sae.side"):
        saes.evaluate(sae, x)
