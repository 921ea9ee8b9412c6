"""The concept page: what it says, that text from data stays text, and that it keeps its size."""

import re

import numpy as np
import pytest
import torch
from PIL import Image

import dashboards
import saes
from dashboards import html
from dashboards.concepts import concept_list
from interp.pairs import read_pairs
from interp.store import ActivationStore

NASTY = '<script>alert("x")</script> & "red"'


@pytest.fixture(scope="module")
def pair():
    """Concepts of two kinds of pair, and an explanation; one word of the texts is nasty."""
    n = 80
    rng = np.random.default_rng(0)
    kind = np.arange(n) % 2
    x = torch.tensor(np.eye(4)[kind] + 0.05 * rng.standard_normal((n, 4))).float()
    texts = [f"{NASTY if k else 'plain words'} {i}" for i, k in enumerate(kind)]
    images = [Image.new("RGB", (8, 8), (3 * i, 0, 0)) for i in range(n)]
    rows = {"image": [f"{NASTY}{i}.png" for i in range(n)], "caption": texts, "kind": kind}
    store = ActivationStore.from_tensors(
        {"a": x, "b": x},
        rows,
        pairs={"image": "a", "text": "b", "image_column": "image"},
        data={"name": "things", "text_column": "caption", "labels": ["kind"]},
    )
    sae = saes.VLSAE(saes.VLConfig(n_latents=4, k=1), 4)
    with torch.no_grad():
        sae.encoder.copy_(torch.cat([torch.eye(4)[:2], -torch.ones(1, 4), torch.eye(4)[2:3]]))
    data = read_pairs(list(zip(images, texts, strict=True)))
    found = saes.concepts(sae, store, data, top=4)
    return found, saes.explain(sae, found, image=x[1], text=x[3], said=NASTY, shown="one.png")


def test_the_page_shows_images_and_texts_side_by_side(pair):
    page = dashboards.Report(pair).html()
    assert len(re.findall(r'<img class="thumb" src="data:image/png;base64,[\w+/]+=*"', page)) >= 8
    assert all('alt="' in tag and 'alt=""' not in tag for tag in re.findall("<img [^>]*>", page))
    assert "Search the concepts" in page and "Latent 0 · plain" in page
    assert "of 4 latents 2 have a name from their texts (blind draws give 0), 2 never fire" in page
    assert "kind = 1" in page and "Concepts of one.png and" in page
    assert "1 input" in page and "80 pairs" in page


def test_text_from_data_stays_text(pair):
    page = dashboards.Report(pair).html()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt; &amp; &quot;red&quot;" in page


def test_a_picture_is_base64_or_words():
    assert 'src="data:image/png;base64,AAAA"' in html.Picture("AAAA", "a dot").html()
    for bad in ('"><script>', "", "A A", "https://a.b"):
        text = html.Picture(bad, "a dot").html()
        assert "<img" not in text and "a dot" in text
    assert "&lt;b&gt;" in html.Picture("AAAA", "<b>").html()


def test_what_does_not_fit_is_said(pair):
    whole = html.render(concept_list(pair[0], "r", 10**6))
    cut = html.render(concept_list(pair[0], "r", 4_000 + len(whole) // 2))
    assert "1 of the 2 that fire are shown" in cut and "are shown" not in whole
    assert len(cut) < len(whole)


def test_the_figures_say_what_they_show(pair):
    found, explained = pair
    assert "of 4 latents 2 agree on a label" in found.plot().layout.meta["alt"]
    assert explained.plot().layout.meta["alt"].startswith("Concepts of the pair: 1 ")
    assert "4" in found._repr_html_()
