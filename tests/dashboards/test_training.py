"""The training page: curves, words, and names from data as text."""

from dataclasses import replace

import numpy as np
import pytest

import dashboards
from dashboards.figures import FIGURES
from saes.training import Training


@pytest.fixture
def result():
    steps = np.arange(1, 41)
    fvu = 0.2 + 0.8 * np.exp(-steps / 8)
    return Training(
        name="facts.resid_post.1.topk",
        n=40_000,
        architecture="topk",
        config={"n_latents": 64, "k": 4},
        steps=steps,
        loss={"total": 10 * fvu + 1, "reconstruction": 10 * fvu, "auxk": np.where(steps > 9, 1, 0)},
        fvu=fvu,
        l0=np.full(40, 4.0),
        dead=np.linspace(0, 0.25, 40),
        dead_after=4000,
        lr=np.full(40, 1e-3),
        rows_per_second=np.full(40, 1e4),
        scale=[0.5],
        provenance={"data": {"name": "facts"}},
    )


def test_the_curves_are_the_log(result):
    fig = dashboards.figure(result)
    lines = {t.name: t for t in fig.data}
    assert list(lines) == ["reconstruction", "auxk", "loss", "FVU", "L0", "dead"]
    assert np.allclose(lines["FVU"].y, result.fvu, atol=1e-6)
    assert np.allclose(lines["dead"].y, result.dead, atol=1e-6)
    assert np.isnan(lines["auxk"].y[:9]).all()  # nothing below 0 on a logarithmic axis
    assert np.allclose(lines["auxk"].y[9:], 1)
    assert len({lines[n].yaxis or "y" for n in ("loss", "FVU", "L0", "dead")}) == 4


def test_a_part_that_is_all_of_the_loss_is_not_drawn_twice(result):
    total = result.loss["reconstruction"]
    alone = {"total": total, "reconstruction": total, "auxk": np.zeros(40)}
    names = [t.name for t in dashboards.figure(replace(result, loss=alone)).data]
    assert names == ["loss", "FVU", "L0", "dead"]


def test_the_words_hold_the_numbers(result):
    alt = dashboards.figure(result).layout.meta["alt"]
    assert "step 1 to 40" in alt and f"{result.fvu[0]:.3f}" in alt
    assert f"{result.fvu[-10:].mean():.3f}" in alt and "25.0% of the latents are dead" in alt


def test_the_page_shows_it_with_its_table(result):
    page = dashboards.Report([result]).html()
    assert "last 4,000 rows" in page and "rows_per_second" in page and "training" in page
    assert Training in FIGURES and result.plot().data


def test_a_name_from_data_is_text(result):
    attack = "<script>window.hit=1</script>"
    page = dashboards.Report([replace(result, name=attack, provenance={})]).html()
    assert attack not in page


def test_the_ticks_of_the_logarithmic_loss_are_whole_numbers(result):
    """Plotly's own say 2 and 5 for 20 and 50."""
    axis = dashboards.figure(result).layout.yaxis
    assert axis.type == "log" and axis.tickformat == "~g"
