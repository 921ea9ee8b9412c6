"""The feature page: what it says, that it fits, and that no token becomes markup."""

import re
from dataclasses import replace
from importlib import resources

import numpy as np
import pytest

from dashboards import Report, figure, html
from dashboards.features import feature_list


@pytest.fixture(scope="module")
def found(features):
    return features()


def page(result, room=10**6):
    return html.render(feature_list(result, "r1", room))


def test_every_firing_latent_has_a_card_and_the_dead_are_said(found, reader):
    read = reader(page(found))
    for feature in list(found)[:-1]:
        assert f"Latent {feature.latent} · " in read.text
        assert f"({feature.fires:,}), with {feature.mean:.3g} in the mean" in read.text
    assert "Latent 5 · " not in read.text and "it fired at no token of the data" in read.text
    assert "1 never fired" in read.text
    assert f"random directions reach {found.random_alignment:.2f}" in read.text
    first = found[0].partners[0]
    assert f"latent {first.latent} ({first.tokens:,} times" in read.text
    links = {v for k, v in read.attributes if k == "href"}
    ids = {v for k, v in read.attributes if k == "id"}
    assert links and {link[1:] for link in links} <= ids


def test_a_background_is_the_share_of_the_strongest(reader):
    part = html.Highlight(["a", "b", "c", "d"], [0.0, 1.0, 4.0, 8.0], most=4.0, at=2)
    read = reader(part.html())
    shares = [v for k, v in read.attributes if k == "style"]
    assert shares == ["--a:25", "--a:100", "--a:100"]
    titles = [v for k, v in read.attributes if k == "title"]
    assert titles == ["1", "4", "8"] and read.tags.count("mark") == 3
    assert read.text == "abc (4) d"  # the value of the token itself is there to be heard
    assert [v for k, v in read.attributes if v == "at"] == ["at"]


def test_a_histogram_has_a_bar_a_bin(reader):
    read = reader(html.Bars([4, 0, 1], "counts").html())
    heights = [float(v) for k, v in read.attributes if k == "height"][1:]
    assert heights == [28.0, 7.0] and ("aria-label", "counts") in read.attributes
    assert reader(html.Bars([], "none").html()).tags == ["svg"]


def test_tokens_are_text(found, attack, reader):
    words = tuple(attack for _ in found.words)
    raised = np.zeros((len(found), 2), np.int64)
    hostile = replace(
        found,
        words=words,
        labels=(attack,),
        predicts=np.zeros(len(found), np.int64),
        named=np.ones(len(found), bool),
        raised=raised,
        lowered=raised,
        raised_logits=raised.astype(float),
        lowered_logits=raised.astype(float),
        probes=(attack,),
    )
    safe, read = reader(page(found)), reader(page(hostile, 10**7))
    assert set(read.tags) <= {*safe.tags, "code", "bdi", "span"}
    assert not {"script", "img"} & set(read.tags)
    assert not [k for k, _ in read.attributes if k.startswith("on") or k == "autofocus"]
    assert "\u202e" not in read.text and "\x00" not in read.text and "\ud800" not in read.text
    assert len(page(hostile, 10**7)) < 10**6


def test_what_does_not_fit_is_left_out_and_said(found, reader):
    whole = page(found)
    cut = page(found, len(whole.encode()) // 2)
    assert len(cut) < len(whole) // 2 + 200
    count = reader(cut).text.count("tokens (")
    assert 0 < count < 5
    assert f"{count} of the 5 that fire are shown" in reader(cut).text
    assert "are shown" not in reader(whole).text
    assert "0 of the 5 that fire are shown" in reader(page(found, 10)).text


def test_without_a_script_all_stands_and_no_field_is_offered(found):
    text = page(found)
    assert '<div class="filter" hidden>' in text and "<label for=" in text
    items = text.split('<ul class="filtered"')[1]
    assert "<li hidden" not in items and "display" not in items


def test_named_features_come_first(found, reader):
    named = np.array([False, False, True, False, False, False])
    predicts = np.where(named, 0, -1)
    text = reader(
        page(replace(found, labels=("odd=1",), named=named, predicts=predicts, f1=named * 0.5))
    ).text
    assert text.index("Latent 2 · odd=1") < text.index("Latent 0 ·")


def test_the_report_places_it_with_its_figure(found):
    text = Report([found]).html()
    assert 'data-filter="result1-list"' in text and 'id="fig1"' in text
    fig = figure(found)
    assert "5 of 6 latents fire" in fig.layout.meta["alt"]
    assert int(np.sum(fig.data[0].y)) == 5
    always = replace(found, fires=np.full(6, found.n))
    assert int(np.sum(figure(always).data[0].y)) == 6
    silent = replace(found, fires=np.zeros(6, np.int64))
    assert "no latent fires" in figure(silent).layout.meta["alt"]
    small = Report([found], budget=4_950_000).html()
    assert len(small.encode()) < 5_100_000


def luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one, two):
    high, low = sorted((luminance(one), luminance(two)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_text_reads_on_every_strength_of_background():
    css = resources.files("dashboards").joinpath("assets/report.css").read_text("utf-8")
    schemes = css.split("prefers-color-scheme: dark", 1)
    for scheme in schemes:
        ink, paper, heat = (
            re.search(rf"--{name}: (#\w+)", scheme)[1] for name in ("ink", "paper", "heat")
        )
        # what lies between paper and heat has a luminance between theirs
        assert contrast(ink, heat) >= 4.5 and contrast(ink, paper) >= 4.5
    assert contrast("#e4e8ec", "#f5b04c") < 4.5  # the light heat would not do on dark
