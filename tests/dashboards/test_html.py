"""The parts: everything from data is text, whatever it holds."""

import json

import pytest

from dashboards import html


def parts(text):
    """Every part, with the text in every field that takes one."""
    table = html.Table(
        text,
        (html.Column(text), html.Column("n", True)),
        ((text, 1), (html.Data(text), 2)),
        (text,),
    )
    spec = {"data": [{"name": text, text: text}], "layout": {}}
    return [
        html.Data(text),
        html.Code(text),
        html.Strong(text),
        html.Link(text, text),
        html.Missing(text, text),
        html.Missing(text),
        html.Sparkline([0.1, 0.9], text),
        html.Paragraph((text, html.Data(text)), "warning"),
        html.Items((text, (html.Data(text), text))),
        table,
        html.Details(text, (table,)),
        html.Figure("f1", spec, text, (text,), table),
        html.Section(text, (html.Section(text, ()),), text),
    ]


def test_markup_in_text_adds_no_tag_and_no_attribute(attack, reader):
    for attacked, plain in zip(parts(attack), parts("plain"), strict=True):
        a, b = reader(html.render(attacked)), reader(html.render(plain))
        assert a.tags == b.tags
        assert [name for name, _ in a.attributes] == [name for name, _ in b.attributes]


def test_the_reader_of_tags_sees_an_attack_that_is_not_escaped(reader, attacks):
    raw = f"<bdi>{attacks['handler']}</bdi>"
    assert "img" in reader(raw).tags and "onerror" in dict(reader(raw).attributes)


@pytest.mark.parametrize("name", ["script", "end", "handler", "attribute", "entity", "comment"])
def test_text_reads_as_it_was_written(name, reader, attacks):
    assert reader(html.render(html.Data(attacks[name]))).text == attacks[name]


def test_hidden_characters_are_shown(attacks):
    assert html.visible("a\x00b") == "a␀b"
    assert html.visible("a\u202eb") == "a⟨U+202E⟩b"
    assert html.visible("a\ud800b") == "a⟨U+D800⟩b"
    assert html.visible("one\ttwo\r\nthree") == "one\ttwo\nthree"
    for text in attacks.values():
        shown = html.visible(text)
        assert shown.encode("utf-8") and not set(shown) & set("\x00\x1b\u202e\u2066\u2028")


def test_a_long_text_is_cut_and_says_so():
    shown = html.render(html.Data("x" * 1_000_000))
    assert len(shown) < 500
    assert "300 of 1,000,000 characters" in shown
    assert html.clip("x" * 300) == "x" * 300


def test_json_in_a_script_is_inert_and_comes_back_whole(attacks):
    for text in attacks.values():
        spec = {"data": [{"name": text}], "layout": {}}
        page = html.render(html.Figure("f", spec, "alt"))
        payload = page.split('id="f-spec">')[1].split("</script>")[0]
        assert not set(payload) & set("<>&\u2028\u2029\x00")
        assert json.loads(payload) == spec


def test_plotly_labels_hold_no_markup_and_no_template():
    assert html.label("<a href='x'>b</a>") == "&lt;a href='x'&gt;b&lt;/a&gt;"
    assert "%{" not in html.label("%{customdata}")
    assert len(html.label("x" * 1000)) == 60


def test_headings_follow_the_nesting(reader):
    nested = html.Section("a", (html.Section("b", (html.Details("s", (html.Section("c", ()),)),)),))
    assert [t for t in reader(html.render(nested)).tags if t[0] == "h"] == ["h2", "h3", "h4"]


def test_numbers():
    assert html.render(1234567) == "1,234,567"
    assert html.render(0.5) == "0.5000"
    assert html.render(float("nan")) == html.render(None) == "—"
    assert html.render(True) == "yes"


def test_a_sparkline_marks_its_peak_and_leaves_gaps():
    svg = html.render(html.Sparkline([0.0, 1.0, float("nan"), 0.5], "alt", width=104, height=28))
    assert 'd="M4.0 24.0L36.0 4.0M100.0 14.0"' in svg
    assert 'cx="36.0" cy="4.0"' in svg
    assert "nan" not in html.render(html.Sparkline([float("nan")] * 3, "alt", rule=float("nan")))
