"""What pairs share: each score by hand, its control, and planted concepts."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import saes
from interp.errors import DataError, ParameterError, ShapeError
from interp.results import Result
from interp.store import ActivationStore
from saes import VLSAE, VLConfig, evaluate_pairs
from saes.rows import seeded

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
from planted_pairs import PlantedPairs, measure, recovered


def plain(d=4, k=1, design="vl"):
    """A latent an axis."""
    sae = VLSAE(VLConfig(n_latents=d, k=k, design=design), d)
    with torch.no_grad():
        for table in (*sae.encoders.values(), *sae.decoders.values()):
            table.copy_(torch.eye(d))
        for bias in (*sae.b_encs.values(), *sae.b_decs.values()):
            bias.zero_()
    return sae.eval()


def test_every_score_by_hand():
    # Latents 0, 1, 2 fire for the images, 0, 1, 1 for the texts; latent 3 is dead.
    images, texts = torch.eye(4)[[0, 1, 2]], torch.eye(4)[[0, 1, 1]]
    r = evaluate_pairs(plain(), images, texts, top=2)
    assert r.latent_cosine == pytest.approx(2 / 3)
    # of the six wrong pairs (0,1) (0,2) (1,0) (1,2) (2,0) (2,1) only (1,2) has one latent
    assert r.shuffled_cosine == pytest.approx(1 / 6)
    # latent 0: {0} and {0}; 1: {1} and {1, 2}; 2: {2} and {}; 3 is left out
    assert r.overlap == pytest.approx((1 + 1 / 2 + 0) / 3) and r.overlap_chance == 2 / 3
    # image 0 finds text 0; image 1 two equal ones; image 2 finds all three equally far
    assert r.image_to_text == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
    assert r.text_to_image == pytest.approx((1 + 1 + 0) / 3)
    assert (r.dead, r.one_sided, r.n, r.pool) == (1, 1, 3, 3)
    assert r.l0 == {"image": 1, "text": 1}
    assert r.fvu["image"] == pytest.approx(3 / 2)  # z is 2 where x is 1; the variance is 2
    frame = r.to_frame().set_index("measure")["value"]
    assert frame["retrieval_chance"] == 1 / 3 and frame["fvu, image"] == r.fvu["image"]


def test_batches_and_stores_change_nothing(tmp_path):
    sae = VLSAE(VLConfig(n_latents=32, k=4), 8, generator=seeded(0))
    x = torch.randn(90, 8, generator=seeded(1))
    y = x + 0.5 * torch.randn(90, 8, generator=seeded(2))
    whole = evaluate_pairs(sae, x, y, pool=40)
    store = ActivationStore.from_tensors({"i": x, "t": y})
    for acts in ((x, y), (store["i"], store["t"])):
        parts = evaluate_pairs(sae, *acts, pool=40, batch_size=7)
        for key, value in whole.metrics().items():
            if key != "reasons":
                same = value if isinstance(value, str) else pytest.approx(value, rel=1e-6)
                assert parts.metrics()[key] == same, key
    assert whole.pool == 40 and whole.latent_cosine > whole.shuffled_cosine
    shuffled = evaluate_pairs(sae, x, y.roll(1, 0), pool=40)
    assert abs(shuffled.latent_cosine - shuffled.shuffled_cosine) < 0.05
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    whole.save(tmp_path / "r.json")
    assert Result.load(tmp_path / "r.json").metrics() == whole.metrics()


def test_where_nothing_fires_there_is_no_cosine():
    sae = plain(design="shared")
    with torch.no_grad():
        sae.b_encs["both"].fill_(-10)
    r = evaluate_pairs(sae, torch.eye(4), torch.eye(4), top=2)
    assert np.isnan(r.latent_cosine) and np.isnan(r.shuffled_cosine) and np.isnan(r.overlap)
    assert set(r.reasons) == {"latent_cosine", "shuffled_cosine", "overlap"}
    assert "active latent" in r.reasons["latent_cosine"] and r.dead == 4


def test_bad_input_is_refused_in_a_sentence():
    sae, x = plain(), torch.rand(6, 4, generator=seeded(0)) + 0.1
    with pytest.raises(ShapeError, match="6 images and 5 texts are no pairs"):
        evaluate_pairs(sae, x, x[:5])
    with pytest.raises(DataError, match="at least two pairs"):
        evaluate_pairs(sae, x[:1], x[:1])
    for options in ({"top": 7}, {"top": 0}, {"pool": 0, "top": 2}):
        with pytest.raises(ParameterError, match=next(iter(options))):
            evaluate_pairs(sae, x, x, **options)
    with pytest.raises(ParameterError, match="takes a VLSAE; got TopKSAE"):
        evaluate_pairs(saes.TopKSAE(saes.TopKConfig(n_latents=4, k=1), 4), x, x)
    zero = x.clone()
    zero[2] = 0
    with pytest.raises(DataError, match="row 2 of a batch of 6 is 0"):
        evaluate_pairs(sae, x, zero, top=2)


def test_planted_concepts_are_shared_by_vl_alone():
    """A small case of the example: five seeds at full size are in its log."""
    size = {"n": 2048, "held": 512, "steps": 200, "latents": 96, "k": 8}
    found = measure(0, **size, concepts=32, d=32, active=4)
    vl, *others = (found[design] for design in ("vl", "separate", "shared"))
    for r, matched in others:
        assert vl[0].latent_cosine > r.latent_cosine + 0.1
        assert vl[0].overlap > r.overlap + 0.1
        assert vl[1] > matched
        assert vl[0].fvu["image"] > r.fvu["image"]  # the price
    assert vl[0].latent_cosine > 3 * vl[0].shuffled_cosine


def test_recovery_is_one_for_the_codes_themselves_and_low_for_noise():
    data = PlantedPairs(400, 0, concepts=6, d=6, active=2)

    class Reads:
        def __init__(self, z):
            self.z = z

        def encode(self, x, *, modality):
            return self.z

    assert recovered(Reads(data.codes[:, [3, 0, 1, 5, 4, 2]]), data.codes, data.rows) > 0.999
    noise = torch.rand(400, 6, generator=seeded(3))
    assert recovered(Reads(noise), data.codes, data.rows) < 0.2
