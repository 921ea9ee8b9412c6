"""Zero-shot classification: the score by the reference's numbers, and an honest verdict."""

import numpy as np
import pytest
import torch

from interp.errors import DataError, ParameterError, ShapeError
from interp.results import Result
from saes import VLSAE, VLConfig, zero_shot, zero_shot_cosines
from saes.rows import seeded

W = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0], [1.0, 1.0]])


def reads(W, k):
    sae = VLSAE(VLConfig(n_latents=len(W), k=k), W.shape[1], generator=seeded(0))
    with torch.no_grad():
        sae.encoders["both"].copy_(W)
    return sae.eval()


def test_v8_the_two_cosines_of_the_score():
    images, texts = torch.tensor([[1.0, 0.2]]), torch.tensor([[1.0, 0.9], [1.0, 0.2]])
    plain, added = zero_shot_cosines(reads(W, 2), images, texts)
    assert float(plain[0, 0]) == pytest.approx(0.860055, abs=1e-6)
    assert float(added[0, 0]) == pytest.approx(0.948987, abs=1e-6)
    assert plain[0, 1] == pytest.approx(1) and added[0, 1] == pytest.approx(1)


def test_the_form_by_reconstructions_is_the_cosine_of_both_decoders():
    sae = reads(W, 2)
    images, texts = torch.rand(5, 2, generator=seeded(1)), torch.rand(3, 2, generator=seeded(2))
    _, added = zero_shot_cosines(sae, images, texts, form="reconstruction")
    a = sae(images, modality="image").output.detach()
    b = sae(texts, modality="text").output.detach()
    want = torch.nn.functional.cosine_similarity(a[:, None], b[None], dim=2)
    assert torch.allclose(added, want, atol=1e-6)


def clouds(n, noise, seed=0):
    """Images about two class directions; the first coordinate misleads, alike for all."""
    draw = seeded(seed, "clouds")
    y = torch.randint(2, (n,), generator=draw)
    x = torch.eye(4)[2 + y] + noise * torch.randn(n, 4, generator=draw)
    return x, y, torch.eye(4)[2:]


def test_an_enhancement_that_helps_is_chosen_and_shown():
    """Latents read the two telling axes alone, where embeddings carry two axes of noise."""
    draw = seeded(0, "help")
    y = torch.randint(2, (800,), generator=draw)
    x = torch.eye(4)[2 + y] + 0.2 * torch.randn(800, 4, generator=draw)
    texts = torch.eye(4)[2:] + torch.tensor([[0.0, 3, 0, 0], [3, 0, 0, 0]])
    x[:, :2] = 3 * torch.rand(800, 2, generator=draw)
    sae = VLSAE(VLConfig(n_latents=2, k=1, design="shared"), 4)
    with torch.no_grad():
        sae.encoders["both"].copy_(10 * torch.eye(4)[2:])
        sae.b_encs["both"].zero_()
    r = zero_shot(sae, x, y, texts)
    assert r.helps and r.alpha > 0 and r.gain > 0.1 and r.low > 0
    assert r.enhanced == pytest.approx(r.plain + r.gain) and r.low < r.gain < r.high
    assert r.verdict.startswith("It helps: accuracy goes from")
    assert r.n == r.n_validation == 400 and len(r.alphas) == len(r.validation)
    again = zero_shot(sae, x, y, texts, batch_size=7)
    assert again.metrics() == r.metrics()


def test_one_that_does_not_help_says_so():
    x, y, texts = clouds(300, 0.1)
    r = zero_shot(reads(torch.eye(4), 2), x, y, texts)
    assert r.alpha == 0 and r.gain == 0 and not r.helps and (r.low, r.high) == (0, 0)
    assert r.verdict.startswith("It does not help: no weight above 0 does better on the 150")


def test_alpha_is_chosen_without_the_test_images(tmp_path):
    """Wrong test labels change the accuracy and nothing that was chosen."""
    x, y, texts = clouds(400, 0.8)
    sae = reads(torch.randn(12, 4, generator=seeded(5)), 3)
    chooses = np.arange(400) < 200
    r = zero_shot(sae, x, y, texts, validation=chooses)
    wrong = y.clone()
    wrong[200:] = 1 - wrong[200:]
    other = zero_shot(sae, x, wrong, texts, validation=chooses)
    assert other.alpha == r.alpha and np.array_equal(other.validation, r.validation)
    assert other.plain == pytest.approx(1 - r.plain)
    turned = wrong.clone()
    turned[:200] = 1 - turned[:200]
    assert not np.array_equal(zero_shot(sae, x, turned, texts, validation=chooses).validation,
                              r.validation)  # fmt: skip
    r.save(tmp_path / "r.json")
    assert Result.load(tmp_path / "r.json").metrics() == r.metrics()


def test_the_interval_covers_a_gain_of_nothing():
    """Two answers that differ at random: 95 % of intervals hold 0, within three deviations."""
    from saes.classification import _interval

    held = 0
    for seed in range(200):
        gains = np.random.default_rng(seed).choice([-1, 0, 1], size=300, p=[0.2, 0.6, 0.2])
        low, high = _interval(gains, seed)
        held += low <= 0 <= high
    assert 190 - 3 * (200 * 0.05 * 0.95) ** 0.5 <= held
    low, _ = _interval(np.ones(10, int), 0)
    assert low == 1


def test_bad_input_is_refused_in_a_sentence():
    x, y, texts = clouds(20, 0.1)
    sae = reads(torch.eye(4), 2)
    for change, error, said in (
        ({"labels": y[:5]}, ShapeError, "20 images and labels of"),
        ({"labels": y + 1}, DataError, "labels must be from 0 to 1"),
        ({"texts": texts[:1]}, ShapeError, "two classes at least"),
        ({"texts": texts[:, :3]}, ShapeError, r"\[classes, 4\]"),
        ({"form": "both"}, ParameterError, "form must be"),
        ({"alphas": [-1.0]}, ParameterError, "from 0 up"),
        ({"validation": 1.0}, ParameterError, "between 0 and 1"),
        ({"validation": np.ones(20, bool)}, DataError, "both parts need some"),
        ({"validation": [True]}, ShapeError, "20 times"),
    ):
        given = {"labels": y, "texts": texts, **change}
        with pytest.raises(error, match=said):
            zero_shot(sae, x, given.pop("labels"), given.pop("texts"), **given)
    x[3] = 0
    with pytest.raises(DataError, match="row 3 of a batch of 20 is 0"):
        zero_shot(sae, x, y, texts)
