"""The figures of pairs and of zero-shot classification draw the results' numbers."""

import numpy as np
import torch

import dashboards
from saes import VLSAE, VLConfig, evaluate_pairs, zero_shot
from saes.rows import seeded


def reads(d, k, design="vl"):
    """A latent an axis."""
    sae = VLSAE(VLConfig(n_latents=d, k=k, design=design), d, generator=seeded(0))
    with torch.no_grad():
        for table in (*sae.encoders.values(), *sae.decoders.values()):
            table.copy_(torch.eye(d))
        for bias in (*sae.b_encs.values(), *sae.b_decs.values()):
            bias.fill_(-10 if design == "shared" else 0)
    return sae.eval()


def test_the_bars_are_what_pairs_share_beside_chance():
    images, texts = torch.eye(4)[[0, 1, 2]], torch.eye(4)[[0, 1, 1]]
    r = evaluate_pairs(reads(4, 1), images, texts, top=2, name="<b>pairs</b>")
    bars, marks = r.plot().data
    np.testing.assert_allclose(bars.x, [r.latent_cosine, r.overlap, r.image_to_text,
                                        r.text_to_image], rtol=1e-6)  # fmt: skip
    np.testing.assert_allclose(marks.x, [r.shuffled_cosine, r.overlap_chance, 1 / 3, 1 / 3],
                               rtol=1e-6)  # fmt: skip
    alt = r.plot().layout.meta["alt"]
    assert f"cosine of latents {r.latent_cosine:.3f} (without the pairing" in alt
    assert "1 never fire and 1 fire for one modality alone" in alt
    page = dashboards.Report([r]).html()
    assert "what pairs share" in page and "<b>pairs" not in page and "3 pairs" in page


def test_where_nothing_fires_the_alternative_text_says_so():
    r = evaluate_pairs(reads(4, 1, "shared"), torch.eye(4), torch.eye(4), top=2)
    assert (
        "cosine of latents undefined (without the pairing undefined)"
        in (r.plot().layout.meta["alt"])
    )


def test_the_curve_is_the_accuracy_that_chose_and_says_the_verdict():
    draw = seeded(0, "clouds")
    y = torch.randint(2, (200,), generator=draw)
    x = torch.eye(4)[2 + y] + 0.6 * torch.randn(200, 4, generator=draw)
    r = zero_shot(reads(4, 2), x, y, torch.eye(4)[2:])
    curve, without, with_ = r.plot().data
    np.testing.assert_array_equal(curve.y, r.validation.astype(np.float32))
    assert without.y == np.float32(r.plain) and with_.y == np.float32(r.enhanced)
    assert r.alphas[int(with_.x[0])] == r.alpha and curve.y[int(with_.x[0])] == max(curve.y)
    assert r.verdict in r.plot().layout.meta["alt"]
    page = dashboards.Report([r]).html()
    # in the overview, beneath the figure, and for those who do not see it
    assert page.count(r.verdict) == 3 and "zero-shot classification" in page
    assert "100 images" in page
