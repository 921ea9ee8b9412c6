"""The feature pages: the page's data are the result's, they fit, and no token becomes markup."""

import base64
import json
import re
from dataclasses import replace
from importlib import resources

import numpy as np
import pytest

from dashboards import Report, figure, html
from dashboards.features import feature_list
from dashboards.packed import pack, smallest, texts


@pytest.fixture(scope="module")
def found(features):
    return features()


def page(result, room=10**6):
    return html.render(feature_list(result, "r1", room))


def data_of(text, part="r1-list"):
    return json.loads(re.search(rf'id="{part}-data">(.*?)</script>', text, re.S)[1])


def unpacked(packed):
    values = np.frombuffer(base64.b64decode(packed["bdata"]), np.dtype(packed["dtype"]))
    return values.reshape(packed["shape"])


@pytest.mark.parametrize(
    "values, dtype",
    [([0, 255], "u1"), ([-1, 127], "i1"), ([256], "u2"), ([-129], "i2"), ([2**31 - 1], "i4"),
     ([2**40], "f8"), ([True, False], "u1"), ([], "u1")],
)  # fmt: skip
def test_whole_numbers_take_the_smallest_type_and_come_back(values, dtype):
    packed = pack(np.array(values))
    assert packed["dtype"] == dtype == smallest(np.array(values))
    assert unpacked(packed).tolist() == values


def test_halves_keep_a_thousandth_and_saturate():
    values = np.array([1.0, 1 / 3, -2e-5, np.nan, 1e9, -1e9])
    back = unpacked(pack(values, "f2")).astype(float)
    np.testing.assert_allclose(back[:3], values[:3], rtol=2e-3)
    assert np.isnan(back[3]) and back[4:].tolist() == [65504, -65504]
    assert len(pack(values, "f2")["bdata"]) < len(pack(values, "f4")["bdata"])


def test_texts_are_visible_and_cut():
    assert texts(["a\x00\u202eb", "x" * 200], 80) == ["a␀⟨U+202E⟩b", "x" * 79 + "…"]


def test_the_pages_hold_what_the_records_hold(found):
    data = data_of(page(found))
    latent = unpacked(data["latent"]).tolist()
    assert sorted(latent) == [0, 1, 2, 3, 4]  # the last is dead
    examples = data["examples"]
    tokens, acts = unpacked(examples["tokens"]), unpacked(examples["activations"])
    for i, number in enumerate(latent):
        feature = found[number]
        assert unpacked(data["fires"])[i] == feature.fires
        assert unpacked(data["strongest"])[i] == pytest.approx(feature.strongest)
        np.testing.assert_array_equal(unpacked(data["histogram"])[i], feature.histogram)
        for e, example in enumerate(feature.top):
            shown = tokens[i, e][tokens[i, e] >= 0]
            assert tuple(data["words"][t] for t in shown) == example.tokens
            np.testing.assert_allclose(
                acts[i, e][tokens[i, e] >= 0], example.activations, rtol=1e-3
            )
        # after the top examples come the bands, the highest first
        first = feature.bands[-1].examples[0]
        assert unpacked(examples["document"])[i, examples["top"]] == first.document
        assert unpacked(examples["position"])[i, examples["top"]] == first.position
        assert unpacked(data["partners"]["index"])[i][0] == feature.partners[0].latent
        assert unpacked(data["alignment"])[i][0] == pytest.approx(
            feature.aligned[0].cosine, abs=1e-3
        )
        assert unpacked(data["near"]["index"])[i].tolist() == [n.latent for n in feature.near]


def test_the_dead_are_said_and_why(found, reader):
    text = reader(page(found)).text
    assert "it fired at no token of the data" in text and "1 never fired" in text


def test_logits_share_the_words(found):
    raised = np.array([[0, len(found.words)]] * len(found))
    more = replace(
        found, words=(*found.words, " new"), raised=raised, lowered=raised,
        raised_logits=raised * 0.5, lowered_logits=raised * -0.5,
    )  # fmt: skip
    data = data_of(page(more))
    said = [data["words"][w] for w in unpacked(data["logits"]["raised"])[0]]
    assert said == [found.words[0], " new"]
    assert data_of(page(found))["logits"] is None


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


def hostile(found, text):
    """The features with one text wherever text from data can stand."""
    raised = np.zeros((len(found), 2), np.int64)
    return replace(
        found,
        words=tuple(text for _ in found.words),
        labels=(text,),
        about={text: text},
        predicts=np.zeros(len(found), np.int64),
        named=np.ones(len(found), bool),
        raised=raised,
        lowered=raised,
        raised_logits=raised.astype(float),
        lowered_logits=raised.astype(float),
        probes=(text,),
        places=np.zeros((len(found), 2), np.float32),
        layout="pca",
    )


def test_tokens_are_text(found, attack, reader):
    safe, text = page(hostile(found, "plain")), page(hostile(found, attack), 10**7)
    read = reader(text)
    assert read.tags == reader(safe).tags
    assert [k for k, _ in read.attributes] == [k for k, _ in reader(safe).attributes]
    assert "\u202e" not in read.text and "\x00" not in read.text and "\ud800" not in read.text
    for part in ("r1-list", "r1-map"):
        held = json.dumps(data_of(text, part), ensure_ascii=False)
        assert not set(held) & set("\u202e\u2066\x00\x1b\ud800\u2028\u2029")
    assert len(text) < 10**6


def test_what_does_not_fit_is_left_out_and_said(found, reader):
    whole = page(found)
    size = len(whole) * 3 // 4 + 12_000
    assert "Examples are there" not in whole and "are shown" not in whole
    some = page(found, size)
    assert len(some) <= size
    count = data_of(some)["examples"]["document"]["shape"][0]
    assert 0 < count < 5 and f"Examples are there for the first {count} of 5" in reader(some).text
    assert len(unpacked(data_of(some)["latent"])) == 5  # the table is whole
    none = page(found, 10)
    assert "0 of the 5 that fire are shown" in reader(none).text and "r1-list" not in none


def test_without_a_script_the_first_stand_in_a_table(found, reader):
    text = page(found)
    still = re.search(r'<div class="still">(.*?)</div></div>', text, re.S)[1]
    rows = re.findall(r"<tr>(.*?)</tr>", still, re.S)[1:]
    assert len(rows) == 5 and "latent 0" in reader(still).text and "<button" not in text


def test_named_features_come_first(found):
    named = np.array([False, False, True, False, False, False])
    predicts = np.where(named, 0, -1)
    changed = replace(found, labels=("odd=1",), named=named, predicts=predicts, f1=named * 0.5)
    data = data_of(page(changed))
    assert unpacked(data["latent"])[0] == 2
    assert unpacked(data["predicts"]["named"]).tolist() == [1, 0, 0, 0, 0]
    rest = [found.fires[i] for i in unpacked(data["latent"])[1:]]
    assert rest == sorted(rest, reverse=True)


def test_a_map_stands_where_there_are_places(found):
    assert "r1-map" not in page(found)
    places = np.arange(12, dtype=np.float32).reshape(6, 2)
    places[3] = np.nan
    text = page(replace(found, places=places, layout="umap"))
    data = data_of(text, "r1-map")
    assert "UMAP map of the decoder directions of 4 latents" in data["alt"]
    numbers = unpacked(data["number"]).tolist()
    assert sorted(numbers) == [0, 1, 2, 4]
    np.testing.assert_array_equal(unpacked(data["x"]), places[numbers, 0])
    assert data["link"] == "r1-"


def test_the_report_places_it_with_its_figure(found):
    text = Report([found]).html()
    assert 'id="result1-list"' in text and 'id="fig1"' in text
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


def test_the_figure_calls_codes_codes(found):
    fig = figure(replace(found, unit="code"))
    assert fig.layout.yaxis.title.text == "codes" and " codes fire" in fig.layout.meta["alt"]
    assert "latent" not in str(fig.to_dict()["layout"]["xaxis"])
