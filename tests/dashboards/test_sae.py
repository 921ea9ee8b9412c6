"""The figures of an SAE's evaluation draw the result's own numbers, and say what is undefined."""

import dataclasses

import numpy as np
import pytest
import torch

from dashboards import Report, figure
from saes import LossRecovered, TopKConfig, TopKSAE, evaluate


@pytest.fixture
def evaluation():
    generator = torch.Generator().manual_seed(0)
    sae = TopKSAE(TopKConfig(n_latents=40, k=3), 8, generator=generator)
    with torch.no_grad():
        sae.b_enc[:5] = -100  # dead
        sae.b_enc[5] = 100  # dense
    return evaluate(sae, torch.randn(500, 8, generator=generator), name="resid_post.3")


@pytest.fixture
def recovered():
    return LossRecovered(
        name="resid_post.3",
        n=1000,
        hookpoint="resid_post.3",
        out_hookpoint="resid_post.3",
        ce_clean=3.0,
        ce_spliced=3.5,
        ce_zero=10.0,
        ce_mean=2.9,
        recovered_zero=6.5 / 7,
        recovered_mean=None,
        ce_increase=0.5,
        kl=0.4,
        intervals={"kl": (0.3, 0.5)},
        documents=12,
        n_texts=20,
        draws=100,
        seed=0,
    )


def test_bars_are_the_live_latents(evaluation):
    fig = figure(evaluation)
    edges, counts = evaluation.histogram()
    bars = fig.data[0]
    np.testing.assert_array_equal(bars.y, counts)
    assert sum(bars.y) == 35 == (evaluation.density > 0).sum()
    np.testing.assert_allclose(bars.x, (edges[:-1] + edges[1:]) / 2)
    (line,) = fig.layout.shapes
    assert line.x0 == line.x1 == -1
    dense = int((evaluation.density > 0.1).sum())
    assert [a.text for a in fig.layout.annotations] == [f"dense: {dense}"] and dense >= 1


def test_the_density_figure_in_words(evaluation):
    alt = figure(evaluation).layout.meta["alt"]
    assert "5 of 40 latents are dead over 500 rows" in alt
    assert f"Unexplained is {evaluation.fvu:.3f} of the variance" in alt
    nothing = dataclasses.replace(
        evaluation, density=np.zeros(40), dead=40, fvu=np.nan, reasons={"fvu": "it is constant"}
    )
    alt = figure(nothing).layout.meta["alt"]
    assert "40 of 40" in alt and "nan" not in alt and "it is constant" in alt


def test_losses_are_drawn_and_said(recovered):
    fig = figure(recovered)
    assert [float(t.x[0]) for t in fig.data] == pytest.approx([3.0, 3.5, 2.9, 10.0])
    alt = fig.layout.meta["alt"]
    assert "undefined against the mean, 0.929 against zero" in alt and "KL 0.400" in alt


def test_the_page_holds_both_with_their_tables(evaluation, recovered, reader):
    page = reader(Report([evaluation, recovered]).html())
    for text in (
        "explained_variance",
        "recovered_zero",
        "latents are dead over 500 rows",
        "fired in no row",
    ):
        assert text in page.text
    assert "resid_post.3: evaluation" in page.text and "over 1,000 tokens" in page.text


def test_a_name_from_data_stays_text(evaluation, attack, reader):
    plain = reader(Report([evaluation]).html())
    page = reader(Report([dataclasses.replace(evaluation, name=attack)]).html())
    assert page.tags == plain.tags
    assert {name for name, _ in page.attributes} == {name for name, _ in plain.attributes}
