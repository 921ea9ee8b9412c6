"""Every score by hand, what a perfect and an empty SAE get, and that batches do not matter."""

import json
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import r2_score

from interp.errors import DataError, ParameterError, ShapeError
from interp.results import Result
from interp.store import ActivationStore
from saes import ARCHITECTURES, Evaluation, TopKConfig, TopKSAE, evaluate
from saes.firing import density_histogram

every = pytest.mark.parametrize("name", sorted(set(ARCHITECTURES) - {"vl"}))


def make(encoder, decoder=None, *, k, b_dec=None, d_out=None):
    """A TopK SAE with these weights."""
    encoder = torch.tensor(encoder, dtype=torch.float32)
    decoder = encoder if decoder is None else torch.tensor(decoder, dtype=torch.float32)
    sae = TopKSAE(TopKConfig(n_latents=len(encoder), k=k), encoder.shape[1], d_out)
    with torch.no_grad():
        sae.encoder.copy_(encoder)
        sae.decoder.copy_(decoder)
        if b_dec is not None:
            sae.b_dec.copy_(torch.tensor(b_dec))
    return sae


def perfect(d):
    """Rows that are plus and minus the unit vectors, all of them allowed to fire."""
    eye = torch.eye(d).tolist()
    return make(eye + (-torch.eye(d)).tolist(), k=d)


def numbers(evaluation):
    return evaluation.to_frame().set_index("measure")["value"].to_dict()


def test_every_score_by_hand():
    # The SAE keeps the larger of the two coordinates, at half its size.
    sae = make([[1.0, 0.0], [0.0, 1.0]], [[0.5, 0.0], [0.0, 0.5]], k=1)
    x = torch.tensor([[4.0, 3.0], [0.0, 2.0], [-1.0, -2.0]])
    y_hat = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    assert torch.equal(sae(x).output, y_hat)
    r = evaluate(sae, x)
    mean = np.array([1.0, 1.0])
    residual = (4 + 9) + 1 + (1 + 4)
    variance = sum(((row - mean) ** 2).sum() for row in x.numpy())
    assert variance == (9 + 4) + (1 + 1) + (4 + 9)
    assert r.fvu == pytest.approx(residual / variance, rel=1e-14)
    assert r.explained_variance == 1 - r.fvu and r.mse == pytest.approx(residual / 3)
    assert r.relative_error == pytest.approx((13 / 25 + 1 / 4 + 5 / 5) / 3)
    assert r.cosine == pytest.approx((8 / (5 * 2) + 1) / 2)  # the last prediction is 0: left out
    assert r.norm_ratio == pytest.approx((2 / 5 + 1 / 2 + 0) / 3)
    assert r.rescale == pytest.approx((8 + 2) / (4 + 1)) and r.latent_rescale == r.rescale
    assert r.l0 == pytest.approx(2 / 3) and r.l0_quantiles == (0, 0, 1, 1, 1)
    np.testing.assert_allclose(r.density, [1 / 3, 1 / 3])
    assert (r.dead, r.dense, r.n, r.zero_rows, r.reasons) == (0, 2, 3, 0, {})
    np.testing.assert_array_equal(r.max_cosine, [0, 0])
    table = numbers(r)
    assert table["fvu"] == r.fvu and table["l0, quantile 0.5"] == 1 and table["rows"] == 3


def test_the_variance_is_about_the_mean_of_each_dimension():
    """Peers divide by the spread within rows, or about one mean for all dimensions."""
    sae = make([[1.0, 0.0], [0.0, 1.0]], k=1, b_dec=[100.0, 0.0])
    x = torch.tensor([[101.0, 1.0], [99.0, -1.0], [100.0, 0.0], [100.0, 0.0]])
    r = evaluate(sae, x)
    assert r.fvu == pytest.approx((1 + 2) / 4)  # the first row loses one coordinate, the second two
    one_mean = float((x - x.mean()).square().sum())
    assert abs(3 / one_mean - r.fvu) > 0.5


def test_the_pooled_r2_of_another_library(small, batch):
    sae = small("topk")
    x = batch(sae, 60) * torch.arange(1.0, 9)
    y_hat = sae(x).output.detach()
    r = evaluate(sae, x)
    scores = {
        m: r2_score(x, y_hat, multioutput=m) for m in ("variance_weighted", "uniform_average")
    }
    assert r.explained_variance == pytest.approx(scores["variance_weighted"], abs=1e-6)
    assert r.explained_variance != pytest.approx(scores["uniform_average"], abs=1e-3)


def test_a_constant_offset_counts_as_error():
    x = torch.tensor([[1.0], [-1.0], [2.0], [-2.0]])
    off = perfect(1)
    with torch.no_grad():  # x - b_dec goes in, b_dec is added: an autoencoder's bias cancels
        off.b_dec.fill_(3.0)
    assert evaluate(off, x).fvu == pytest.approx(0, abs=1e-12)
    shifted = make([[1.0], [-1.0]], k=1, b_dec=[3.0], d_out=1)  # a transcoder's does not
    assert evaluate(shifted, x, y=x).fvu == pytest.approx(9 * 4 / 10)


def test_a_perfect_sae():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 5, generator=generator)
    r = evaluate(perfect(5), x, batch_size=64)
    assert r.fvu == r.mse == r.relative_error == 0 and r.explained_variance == 1
    for score in (r.cosine, r.norm_ratio, r.rescale, r.latent_rescale):
        assert score == pytest.approx(1, rel=1e-12)
    assert (r.l0, r.l0_quantiles, r.dead) == (5, (5,) * 5, 0)
    broken = perfect(5)
    with torch.no_grad():
        broken.decoder[0] = 0
    worse = evaluate(broken, x)
    assert worse.fvu > 0.05 and worse.norm_ratio < 1 and worse.rescale == pytest.approx(1)


def test_the_mean_alone_explains_nothing():
    x = torch.tensor([[2.0, 4.0], [0.0, -4.0], [4.0, 0.0], [2.0, 8.0]])
    sae = make([[0.0, 0.0]] * 3, k=2, b_dec=x.mean(0).tolist())
    r = evaluate(sae, x, batch_size=3)
    assert r.fvu == 1 and r.explained_variance == 0 and r.l0 == 0
    assert math.isnan(r.latent_rescale) and "no latent adds" in r.reasons["latent_rescale"]
    assert (r.dead, r.dense) == (3, 0) and np.isnan(r.max_cosine).all()
    with torch.no_grad():
        sae.b_dec[0] += 1
    assert evaluate(sae, x).fvu == pytest.approx(1 + 4 / (8 + 80))


def test_shrinkage_is_the_factor_that_undoes_it():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(100, 4, generator=generator) + 50
    for factor in (0.5, 0.8, 1.25):
        sae = perfect(4)
        with torch.no_grad():
            sae.decoder *= factor
            sae.b_dec.fill_(50.0)
        r = evaluate(sae, x)
        assert r.latent_rescale == pytest.approx(1 / factor, rel=1e-5)
        assert r.rescale == pytest.approx(1, abs=0.01)  # hidden by the bias
        assert r.fvu == pytest.approx((1 - factor) ** 2, rel=0.05)


def test_undefined_is_nan_with_a_reason():
    sae = perfect(3)
    constant = evaluate(sae, torch.full((5, 3), 0.1))
    assert math.isnan(constant.fvu) and math.isnan(constant.explained_variance)
    assert "constant" in constant.reasons["fvu"] and constant.cosine == pytest.approx(1)
    zeros = evaluate(sae, torch.zeros(5, 3))
    assert {"fvu", "cosine", "norm_ratio", "relative_error", "rescale"} <= zeros.reasons.keys()
    assert math.isnan(zeros.cosine) and zeros.mse == 0 and zeros.zero_rows == 5
    assert zeros.dead == 6
    x = torch.zeros(4, 3)
    x[:2, 0] = torch.tensor([1.0, 2.0])
    some = evaluate(sae, x)  # zero rows are left out, and counted
    assert some.zero_rows == 2 and some.cosine == some.norm_ratio == 1 and not some.reasons
    json.dumps(zeros.metrics()["reasons"])


@every
def test_the_split_into_batches_changes_nothing(name, small, batch):
    sae = small(name)
    x = batch(sae, 101) + 1000
    y = batch(sae, 101, seed=3, out=True) if sae.transcodes else None
    whole = evaluate(sae, x, y=y)
    for size in (1, 7, 100):
        split = evaluate(sae, x, y=y, batch_size=size)
        np.testing.assert_allclose(
            list(numbers(split).values()), list(numbers(whole).values()), rtol=1e-6
        )
        np.testing.assert_array_equal(split.density, whole.density)
        assert split.l0_quantiles == whole.l0_quantiles
    half = evaluate(sae, x[:50], y=None if y is None else y[:50])
    assert abs(half.fvu - whole.fvu) > 1e-6 * whole.fvu


def test_a_large_mean_costs_no_digits():
    """Sums of squares in place of deviations lose the variance at such a mean, in float64 too."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 3, generator=generator, dtype=torch.float64)
    plain = make([[0.0] * 3], k=1, b_dec=[0.0] * 3).double()
    moved = make([[0.0] * 3], k=1, b_dec=[1e8] * 3).double()
    assert evaluate(moved, x + 1e8, batch_size=5).fvu == pytest.approx(
        evaluate(plain, x).fvu, rel=1e-6
    )
    big = x + 1e8
    naive = float((big.square().sum(0) - 64 * big.mean(0).square()).sum())
    assert naive != pytest.approx(float((x - x.mean(0)).square().sum()), rel=1e-2)


def test_counts_are_of_rows_in_which_a_latent_fires():
    sae = make(torch.eye(4).tolist(), k=2)
    x = torch.zeros(20, 4)
    x[:, 0], x[:3, 1], x[0, 2] = 1, 2, 3
    r = evaluate(sae, x, dense_above=0.15)
    np.testing.assert_allclose(r.density, [19 / 20, 3 / 20, 1 / 20, 0])
    assert (r.dead, r.dense) == (1, 1)  # density above 0.15, not from it on
    assert evaluate(sae, x, dense_above=0.1).dense == 2
    assert r.l0 == pytest.approx(23 / 20) and r.l0_quantiles == (1, 1, 1, 1, 2)
    edges, counts = r.histogram()
    assert counts.sum() == 3 and edges[-1] == 0 and edges[0] <= math.log10(1 / 20)


def test_the_density_histogram_by_hand():
    edges, counts = density_histogram(np.array([0, 1e-3, 1e-2, 0.1, 0.1, 0.99, 1.0]), 1000)
    assert edges[0] == -3 and len(edges) == 13 and counts.sum() == 6
    assert {edges[i]: c for i, c in enumerate(counts) if c} == {-3: 1, -2: 1, -1: 2, -0.25: 2}
    edges, counts = density_histogram(np.zeros(3), 1)
    assert len(edges) == 2 and counts.sum() == 0


def test_stores_arrays_and_leading_axes_are_read_alike(small, batch):
    sae = small("topk")
    x = batch(sae, 6, 5)
    flat = x.reshape(30, -1)
    store = ActivationStore.from_tensors({"h": flat})
    wanted = evaluate(sae, flat, batch_size=7).fvu
    for acts in (x, x.numpy(), flat, store["h"]):
        assert evaluate(sae, acts, batch_size=7).fvu == pytest.approx(wanted, rel=1e-12)
    half = evaluate(sae, flat.half()).fvu  # the SAE reads them in its own dtype
    assert half == pytest.approx(evaluate(sae, flat.half().float()).fvu, rel=1e-12)


def test_bad_input_is_refused(small, batch):
    sae = small("topk")
    x = batch(sae, 10)
    with pytest.raises(ShapeError, match=r"acts must be \[n, 8\]; got \[10, 7\]"):
        evaluate(sae, x[:, :7])
    with pytest.raises(ShapeError, match=r"\[n, 8\]; got \[8\]"):
        evaluate(sae, x[0])
    with pytest.raises(DataError, match="no rows"):
        evaluate(sae, x[:0])
    with pytest.raises(DataError, match="floating-point"):
        evaluate(sae, x.long())
    for size in (0, 1.5, True):
        with pytest.raises(ParameterError, match="batch_size must be a whole number above 0"):
            evaluate(sae, x, batch_size=size)
    with pytest.raises(ParameterError, match="dense_above"):
        evaluate(sae, x, dense_above=2)
    with pytest.raises(ParameterError, match="predicts acts; give no y"):
        evaluate(sae, x, y=x)
    for bad in (torch.nan, torch.inf):
        x[7, 3] = bad
        with pytest.raises(DataError, match=r"nan or inf \(first in row 7 of 10\)"):
            evaluate(sae, x, batch_size=4)


def test_a_transcoder_is_judged_by_what_it_predicts():
    sae = make(torch.eye(2).tolist(), [[2.0, 0.0, 0.0], [0.0, 3.0, 0.0]], k=2, d_out=3)
    x = torch.tensor([[1.0, 2.0], [3.0, 1.0]])
    y = torch.tensor([[2.0, 6.0, 1.0], [6.0, 3.0, -1.0]])
    assert evaluate(sae, x, y=y).mse == 1
    with pytest.raises(ParameterError, match="needs y"):
        evaluate(sae, x)
    with pytest.raises(ShapeError, match="2 rows and y 1"):
        evaluate(sae, x, y=y[:1])


def test_the_sae_is_left_as_it_was(small, batch):
    sae = small("batch_topk").train()
    before = {k: v.clone() for k, v in sae.state_dict().items()}
    r = evaluate(sae, batch(sae, 50), similarity=False)
    assert sae.training and all(torch.equal(v, before[k]) for k, v in sae.state_dict().items())
    assert r.max_cosine is None and not any("max_cosine" in m for m in numbers(r))


def test_saved_and_loaded(small, batch, tmp_path):
    sae = small("topk")
    sae.metadata = {"hookpoint": "resid_post.3"}
    r = evaluate(sae, batch(sae, 50))
    assert r.name == "resid_post.3" and r.provenance["sae"]["config"]["k"] == 3
    back = Result.load(r.save(tmp_path / "r.json"))
    assert isinstance(back, Evaluation) and back.metrics() == r.metrics()
    np.testing.assert_array_equal(back.density, r.density)
    json.dumps(r.metrics(), allow_nan=False)
