"""The page of geometry: the table, matrices, curves, and the story in words."""

import dataclasses
import re

import numpy as np
import pytest
import torch

import probes
from dashboards import Report, figure
from dashboards.geometry import curve_figure, matrix_figure, meanings, more_figures
from dashboards.html import render
from dashboards.journey import journey
from interp.store import ActivationStore
from probes.geometry import MEASURES


def layers(n=160, seed=0):
    """Three layers in which the classes come apart; the second is the first one turned."""
    draw = np.random.default_rng(seed)
    y = np.arange(n) % 2
    first = draw.normal(size=(n, 12))
    turned = first @ np.linalg.qr(draw.normal(size=(12, 12)))[0]
    last = 0.3 * first[:, :6] + 4 * y[:, None] * np.eye(6)[0]
    return {"resid_post.0": first, "resid_post.1": turned, "resid_post.2": last}, y


@pytest.fixture(scope="module")
def found():
    tensors, y = layers()
    tensors = {k: torch.from_numpy(v) for k, v in tensors.items()}
    store = ActivationStore.from_tensors(tensors, {"label": y.tolist()}, data={"name": "toy"})
    return probes.geometry_by_layer(store, "label")


def test_the_table_draws_the_result_s_own_numbers(found):
    fig = figure(found)
    (heat,) = [t for t in fig.data if t.type == "heatmap"]
    names = list(found.values)
    assert list(fig.layout.yaxis.ticktext) == [n.replace("_", " ") for n in names]
    row = names.index("rank")
    assert heat.customdata[row][0] == f"{found.values['rank'][0]:.1f}"
    z = np.asarray(heat.z)
    assert z.min() >= 0 and z.max() <= 1 and z[row].min() == 0 and z[row].max() == pytest.approx(1)
    gdv = found.values["gdv"]
    assert z[names.index("gdv")].argmin() == gdv.argmin() == 2
    assert "from resid_post.0 to resid_post.2" in fig.layout.meta["alt"]


def test_a_row_that_hardly_moves_is_drawn_so(found):
    flat = dataclasses.replace(found, values={"gdv": np.array([-0.001, -0.002, np.nan])})
    fig = figure(flat)
    (heat,) = [t for t in fig.data if t.type == "heatmap"]
    z = np.asarray(heat.z)[0]
    assert abs(z[0] - z[1]) < 0.1 and np.isnan(z[2]) and heat.customdata[0][2] == "—"


def test_the_matrix_and_the_curves(found):
    fig = matrix_figure(found, "cka")
    np.testing.assert_allclose(fig.data[0].z, found.matrices["cka"], rtol=1e-6)
    assert "resid_post.1 and resid_post.2" in fig.layout.meta["alt"]
    fig = curve_figure(found, "rank_curve")
    assert [t.name for t in fig.data] == list(found.hookpoints)
    assert np.asarray(fig.data[2].y)[-1] == pytest.approx(1)
    assert len({t.line.color for t in fig.data}) == 3
    fig = curve_figure(found, "prefixes")
    curve = found.curves["prefixes"]["resid_post.2"]
    np.testing.assert_allclose(fig.data[0].y, curve["probe"], rtol=1e-6)
    assert [t.name for t in fig.data][-1] == "commonest class"
    wide = dataclasses.replace(found, curves={"rank_curve": {"resid_post.0": {
        "x": np.arange(1, 4097), "variance": np.linspace(0, 1, 4096)}}})  # fmt: skip
    drawn = curve_figure(wide, "rank_curve").data[0].x
    assert len(drawn) < 200 and drawn[0] == 1 and drawn[-1] == 4096


def test_the_story_says_what_happened_and_not_what_did_not(found):
    text = re.sub("<[^>]+>", "", render(journey(found)))
    assert "the 2 classes of label stand apart most at resid_post.2" in text
    assert "likeness to the input falls from 1.00" in text
    assert "likeness to the classes rises from" in text
    assert "change most from resid_post.1 to resid_post.2" in text
    assert "as good within .01 are the first 1, " in text
    tensors, y = layers()
    store = ActivationStore.from_tensors(
        {k: torch.from_numpy(v) for k, v in tensors.items()},
        {"label": np.random.default_rng(3).permutation(y).tolist()},
    )
    shuffled = probes.geometry_by_layer(store, "label")
    text = re.sub("<[^>]+>", "", render(journey(shuffled)))
    assert "hardly stand apart at any layer" in text and "no clear gain" in text
    assert "rises" not in text
    nothing = dataclasses.replace(found, values={}, matrices={}, curves={})
    assert journey(nothing) == [] and "none that is a number" in figure(nothing).layout.meta["alt"]


def test_every_measure_has_its_place_on_the_page(found, tmp_path):
    text = Report([found]).write(tmp_path / "r.html").read_text(encoding="utf-8")
    for name in MEASURES:
        if name in found.values:
            assert name.replace("_", " ") in text
            assert render(meanings(found)).count("<li>") == len(found.values)
    parts = more_figures(found, "fig1")
    assert len(parts) == 1 + len(found.matrices) + len(found.curves)
    for part in parts[1:]:
        assert part.id in text and part.alt
    assert len(text) < 6_000_000


def test_names_from_data_are_text(found):
    bad = '<img src=x onerror="alert(1)">'
    names = (bad, *found.hookpoints[1:])
    curves = {
        k: {bad if h == "resid_post.0" else h: c for h, c in v.items()}
        for k, v in found.curves.items()
    }
    odd = dataclasses.replace(found, hookpoints=names, label=bad, inputs=bad, curves=curves)
    assert "<img" not in Report([odd]).html()


def test_two_spaces_are_drawn_and_told(tmp_path):
    tensors, y = layers()
    other = {
        "a": 2
        * tensors["resid_post.2"]
        @ np.linalg.qr(np.random.default_rng(5).normal(size=(6, 6)))[0]
    }
    stores = [
        ActivationStore.from_tensors(
            {k: torch.from_numpy(v) for k, v in t.items()}, {"label": y.tolist()}
        )
        for t in (tensors, other)
    ]
    found = probes.compare_spaces(*stores, "label", models=("old", "new"), anchors=50)
    assert found.cka.shape == (3, 1) and found.cka[2, 0] == pytest.approx(1)
    assert found.numbers["relative"]["value"] == pytest.approx(1)
    assert found.numbers["stitching"]["x_to_y"] == found.numbers["stitching"]["x"] > 0.9
    fig = figure(found)
    np.testing.assert_allclose(fig.data[0].z, found.cka, rtol=1e-6)
    assert "highest 1.00, resid_post.2 with a" in fig.layout.meta["alt"]
    text = Report([found]).html()
    assert "finds itself among those of new at a with a mean reciprocal rank of 1.00" in text
    assert "backward compatible with old" in text
    bare = probes.compare_spaces(*stores, anchors=50)
    assert bare.reasons["stitching"] == "there are no labels." and np.isnan(
        bare.numbers["stitching"]["value"]
    )
    apart = probes.compare_spaces(
        stores[0], stores[1], "label", at=("resid_post.0", "a"), anchors=50
    )
    assert "widths 12 and 6" in apart.reasons["compatibility"]
    assert type(found).load(found.save(tmp_path / "s.json")).to_frame().equals(found.to_frame())


def test_two_stores_of_other_rows_are_refused():
    from interp.errors import DataError

    a, b = (ActivationStore.from_tensors({"x": torch.randn(n, 3)}) for n in (8, 9))
    with pytest.raises(DataError, match="8 rows of unknown data and 9"):
        probes.compare_spaces(a, b)


def test_no_minus_stands_before_a_zero(found):
    values = dict(found.values)
    values["gdv"] = np.array([-0.0002, -0.1, -0.2])
    values["alignment_input"] = np.array([1.0, 0.5, -0.003])
    likeness = np.array([[1, -0.004, -0.003], [-0.004, 1, 0.5], [-0.003, 0.5, 1]])
    odd = dataclasses.replace(found, values=values, matrices={"cka": likeness})
    said = (
        "".join(render(part) for part in journey(odd))
        + matrix_figure(odd, "cka").layout.meta["alt"]
    )
    assert "has 0.000" in said and "1.00 to 0.00" in said and "-0.200" in said
    assert not re.search(r"-0\.0+(?![\d.]*[1-9])\b", said)
