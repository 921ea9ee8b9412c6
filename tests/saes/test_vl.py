"""VL-SAE by the numbers of its reference, by a plain formula, and as an SAE of two modalities."""

import json

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import saes
from interp.errors import CheckpointError, DataError, ParameterError, ShapeError
from saes import SAE, VLSAE, Codes, VLConfig
from saes.rows import seeded

W = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0], [1.0, 1.0]])
SQUARE = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])


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
        loss = sae.loss(x, x.flip(0))
        loss.total.backward()
        z = sae.encode(torch.cat([x, same])).detach()
        found[name] = (z, [p.grad.clone() for p in sae.parameters()])
    assert_close(found["eager"][0], found[backend][0], atol=1e-5, rtol=0)
    for a, b in zip(found["eager"][1], found[backend][1], strict=True):
        assert_close(a, b, atol=1e-4, rtol=1e-3)


# ---- the loss against a formula


def plain(sae, x, y):
    """Dense float64 arithmetic."""

    def z_of(x, m):
        key = m if m in sae.encoders else "both"
        W = sae.encoders[key]
        if sae.config.design == "vl":
            pre = nearness(x, W)
        else:
            pre = (x @ W.T + sae.b_encs[key]).clamp_min(0)
        kept = torch.zeros_like(pre).scatter(1, pre.topk(sae.config.k).indices, 1.0)
        return pre * kept

    def squared(a, b):
        return (a - b).pow(2).sum() / len(a)

    parts = {}
    for m, t in (("image", x), ("text", y)):
        key = m if m in sae.decoders else "both"
        D, b = sae.decoders[key], sae.b_decs[key]
        out = z_of(t, m) @ D + b
        parts[m] = squared(out, t)
    return parts


@designs
def test_the_loss_and_all_gradients_are_those_of_the_formula(design):
    sae = make(design).double()
    x, y = rows(60).double(), rows(60, seed=3).double()
    ours, theirs = sae.loss(x, y), plain(sae, x, y)
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
        with pytest.raises(DataError, match="row 3 of a batch of 5 is 0, which has none"):
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


# ---- training


def pairs(n=1200, seed=0):
    """Sums of 2 of 20 directions, seen twice with noise, about two middles."""
    draw = seeded(seed, "pairs")
    directions = torch.nn.functional.normalize(torch.randn(20, 12, generator=draw), dim=1)
    chosen = torch.rand(n, 20, generator=draw).topk(2, dim=1).indices
    z = torch.zeros(n, 20).scatter_(1, chosen, 1 + torch.rand(n, 2, generator=draw))
    noise = 0.1 * torch.randn(2, n, 12, generator=draw)
    return 5 * (z @ directions + 0.3 + noise[0]), z @ directions - 0.2 + noise[1]


@designs
def test_it_learns_and_takes_raw_activations(design):
    x, y = pairs()
    config = VLConfig(n_latents=48, k=4, design=design)
    sae = saes.train((x, y), config, steps=150, batch_size=200, lr=2e-2)
    log = sae.training_log
    assert log.fvu[-1] < 0.5 * log.fvu[0] and log.l0[-1] == pytest.approx(4, abs=0.2)
    assert set(log.loss) == {"total", "image", "text"}
    assert len(log.scale) == 2 and (log.scale[0] == log.scale[1]) == (design == "shared")
    found = [saes.evaluate(sae.side(m), t) for m, t in (("image", x), ("text", y))]
    squares = np.array(log.scale) ** 2  # errors of scaled rows, as in training
    error = squares @ [r.mse for r in found]
    spread = squares @ [r.mse / r.fvu for r in found]
    assert error / spread == pytest.approx(log.fvu[-1], rel=0.3)


def test_the_last_tenth_of_the_authors_schedule_learns_nothing(tmp_path):
    config = VLConfig(n_latents=48, k=4, ties="strict")
    options = {"batch_size": 100, "lr": 1e-2, "normalize": False, "b_dec": "zero", "clip": None}
    sae = saes.train(pairs(), config, steps=20, decay="vl_paper", log_every=1, **options)
    lr = sae.training_log.lr
    assert not lr[-2:].any() and lr[:18].all() and lr[2] == 1e-2 and lr[0] == 5e-3
    held = []

    def keep(done, total, words):
        held.append(done)

    saes.train(pairs(), config, steps=20, decay="vl_paper", out=tmp_path, checkpoint_every=18,
               progress=keep, **options)  # fmt: skip
    from safetensors.torch import load_file

    end = load_file(tmp_path / "checkpoint.safetensors")
    assert torch.equal(end["0.sae.encoders.both"], sae.encoders["both"])
    assert held[-1] == 20
    with pytest.raises(ParameterError, match="a whole schedule"):
        saes.train(pairs(), config, steps=20, decay="vl_paper", warmup=3, **options)


def test_resampling_brings_back_the_dead(monkeypatch):
    """A third of the latents begin pointing away from all data; nothing revives them by itself."""
    first = VLSAE.start_biases

    def far(self, *args):
        first(self, *args)
        with torch.no_grad():
            for table in self.encoders.values():
                table[:16] = -5 + 0.1 * table[:16]

    monkeypatch.setattr(VLSAE, "start_biases", far)
    x, y = (t + 3 for t in pairs())
    options = {"steps": 90, "batch_size": 200, "lr": 1e-2, "dead_after": 1000}
    dead = {}
    for design in ("vl", "separate", "shared"):
        for every in (None, 20):
            config = VLConfig(n_latents=48, k=4, design=design)
            sae = saes.train((x, y), config, resample_every=every, **options)
            z = torch.stack([sae.encode(t, modality=m) for t, m in ((x, "image"), (y, "text"))])
            dead[design, every] = int((~(z > 0).flatten(0, 1).any(0)).sum())
        assert dead[design, None] >= 16 and dead[design, 20] < dead[design, None] - 8, dead


def test_unpaired_activations_are_refused_and_say_why():
    x, y = pairs(300)
    config = VLConfig(n_latents=24, k=3)
    with pytest.raises(
        ShapeError, match="have 300 and 299 rows; row i of one must belong to row i"
    ):
        saes.train((x, y[:-1]), config, steps=2, batch_size=50)
    with pytest.raises(ShapeError, match="learns from pairs; give train a tuple"):
        saes.train(x, config, steps=2, batch_size=50)
    y[17] = 0
    with pytest.raises(DataError, match="is 0, which has none; drop such pairs"):
        saes.train((x, y), config, steps=6, batch_size=50)


def test_the_authors_settings_name_the_result():
    x, y = pairs(300)
    settings = saes.released_vl(300, batch_size=100)
    assert (settings["steps"], settings["batch_size"], settings["lr"]) == (30, 100, 1e-3)
    assert saes.released_vl(300)["batch_size"] == 300 and saes.released_vl(5120)["steps"] == 100
    modes = {}
    for name, ties, design, more in (
        ("theirs", "strict", "vl", {}),
        ("ties", "exact", "vl", {}),
        ("design", "strict", "shared", {}),
        ("clip", "strict", "vl", {"clip": 1.0}),
        ("resampled", "strict", "vl", {"resample_every": 10}),
    ):
        config = VLConfig(n_latents=24, k=3, ties=ties, design=design)
        sae = saes.train((x, y), config, **(settings | more))
        modes[name] = sae.training_log.mode
    assert modes.pop("theirs") == "released_code" and set(modes.values()) == {"recommended"}
    sae = saes.train(x, saes.TopKConfig(n_latents=24, k=3), steps=2, batch_size=50)
    assert sae.training_log.mode == "recommended"
    with pytest.raises(ParameterError, match="must be above 0"):
        saes.released_vl(0)
