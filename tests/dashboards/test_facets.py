"""The facets' figure and page: every input is drawn, pictures are the pixels, text is escaped."""

import base64
import io
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import dashboards
import interp
import probes
from dashboards.facets import facet_map, facet_parts, picture, strip
from dashboards.html import render


@pytest.fixture(scope="module")
def found():
    data = interp.read("demo:digits")
    return probes.facets("demo:digits", data, unit="even", n_top=60, n_facets=3, embed="pca",
                         draws=5, schedule=None)  # fmt: skip


def test_every_input_is_drawn_once(found):
    fig = facet_map(found)
    assert sum(len(t.x) for t in fig.data) == found.n == 60
    assert len({(t.marker.color, t.marker.symbol) for t in fig.data}) == 3
    assert "60 inputs that fire the unit in 3 facets" in fig.layout.meta["alt"]
    noisy = replace(found, labels=np.where(np.arange(60) < 5, -1, found.labels))
    assert sum(len(t.x) for t in facet_map(noisy).data) == 60


def test_a_picture_is_its_pixels():
    image = np.arange(64, dtype=np.float32).reshape(1, 8, 8) / 63
    part = picture(image, "grey <b>")
    html = render(part)
    assert 'alt="grey &lt;b&gt;"' in html and 'width="64" height="64"' in html
    bytes_ = base64.b64decode(re.search(r"base64,([^\"]+)", html)[1])
    pixels = np.asarray(Image.open(io.BytesIO(bytes_)))
    assert np.array_equal(pixels, np.round(image[0] * 255).astype(np.uint8))
    colour = np.random.default_rng(0).random((3, 300, 400)).astype(np.float32)
    assert picture(colour, "").height == 128
    assert strip(np.zeros((3, 1, 8, 8))).shape == (1, 8, 26)
    assert picture(np.zeros((5, 4, 4)), "").width == 64


def test_the_page_says_the_verdict_and_escapes_names(found, tmp_path):
    text = render(facet_parts(found))
    assert "3 facets" in text and text.count("<img") == 6 and "p = " in text
    evil = replace(found, classes=tuple("<script>alert(1)</script>" for _ in found.classes))
    page = dashboards.Report([evil]).write(tmp_path / "r.html").read_text()
    assert "<script>alert(1)" not in page
    assert "inputs" in page


def test_a_unit_that_never_fires_is_said(found):
    data = interp.read("demo:digits")
    none = probes.facets("demo:digits", data, unit="even", threshold=1e6)
    assert "none of 1,797 inputs" in render(facet_parts(none))
    assert "no input fires" in facet_map(none).layout.meta["alt"]
    assert "no input fires" in dashboards.Report([none]).html()


def test_contexts_are_marked(gpt2, texts):
    found = probes.facets(gpt2, texts * 3, unit=5, hookpoint="mlp_act.1", threshold=-9, n_facets=2,
                          embed="pca", draws=5)  # fmt: skip
    text = render(facet_parts(found))
    assert text.count("<details") >= 2 and "Facet 1" in text
