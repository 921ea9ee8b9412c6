"""The page as text: alone, inert, within its size, and with the result's own numbers."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import plotly.offline
import pytest

from dashboards import Report, figure, summary_html
from dashboards.figures import FIGURES
from interp.errors import ParameterError, StoreError
from interp.results import Result


@pytest.fixture(scope="module")
def page(six):
    return Report(six, command="interp probe demo:pylm demo:facts").html()


@pytest.fixture(scope="module")
def bare(page):
    """The page without plotly.js."""
    return page.replace(plotly.offline.get_plotlyjs(), "")


def figures_of(bare):
    return [
        json.loads(text)
        for text in re.findall(
            r'<script type="application/json" id="[a-z0-9]+-spec">(.*?)</s', bare
        )
    ]


def test_plotly_is_there_once(page, bare):
    assert page.count("plotly.js v") == 1
    assert bare.count("plotly.js v") == 0
    assert len(re.findall(r"<script(?! type=\"application/json\")", bare)) == 2


def test_nothing_points_at_the_network(bare):
    assert re.findall(r"https?:|//[a-z]+\.|@import|url\(", bare) == []
    assert re.search(r"\bsrc=|<link|<iframe", bare) is None
    assert "default-src 'none'" in bare and "unsafe-eval" not in bare


def test_the_upload_is_off_for_every_figure(bare, six):
    settings = json.loads(re.findall(r'id="settings">(.*?)</script>', bare)[0])
    assert settings["config"]["showSendToCloud"] is False
    assert settings["config"]["plotlyServerURL"] == ""
    assert settings["config"]["displaylogo"] is False
    # Every figure is drawn in one place, with that configuration.
    script = Path(__file__).parents[2] / "dashboards/assets/report.js"
    calls = re.findall(r"Plotly\.\w+\(.*", script.read_text())
    assert len(calls) == 1 and calls[0].endswith("settings.config);")
    assert len(figures_of(bare)) == len(six) + 2  # and the heat map, and the points


def test_headings_never_skip_a_level(bare):
    levels = [int(n) for n in re.findall(r"<h([1-6])", bare)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b - a <= 1 for a, b in zip(levels, levels[1:], strict=False))


def test_ids_are_unique_and_links_have_a_target(bare):
    ids = re.findall(r'\bid="([^"]+)"', bare)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', bare)) <= set(ids)


def test_every_figure_has_alternative_text_and_a_table(bare, six, reader):
    text = reader(bare).text
    for part in re.findall(r"<figure.*?</figure>", bare, re.S):
        assert re.search(r'role="img" aria-label="[^"]{40,}"', part)
        assert "<figcaption>" in part and "<details>" in part and "<table>" in part
    for result in six:
        assert figure(result).layout.meta["alt"] in text


def test_tables_hold_the_results_numbers(depth, reader):
    r = depth()
    text = Report(r).html().replace(plotly.offline.get_plotlyjs(), "")
    part = re.search(r'<figure id="fig1">.*?</figure>', text, re.S)[0]
    rows = re.findall(r"<tr>(.*?)</tr>", part, re.S)[1:]
    assert len(rows) == len(r.hookpoints)
    frame = r.to_frame()
    for row, (_, expected) in zip(rows, frame.iterrows(), strict=True):
        cells = [reader(c).text for c in re.findall(r"<t[hd].*?</t[hd]>", row)]
        numbers = [v for v in expected if isinstance(v, float | np.floating)]
        shown = [float(v) for c in cells[1:] for v in re.findall(r"-?\d+\.\d{4}", c)]
        np.testing.assert_allclose(shown, [v for v in numbers if v == v], atol=5e-5)
        assert cells[0] == expected.iloc[0]


def test_the_overview_holds_the_headline_numbers(depth, reader):
    r = depth(jump_point=None, reasons={"jump_point": "no step multiplies accuracy by 1.1."})
    text = reader(Report(r).html().replace(plotly.offline.get_plotlyjs(), "")).text
    i = int(r.accuracy.argmax())
    interval = f"[{r.accuracy_low[i]:.3f}, {r.accuracy_high[i]:.3f}]"
    assert f"{r.accuracy[i]:.3f} {interval}" in text
    assert r.hookpoints[i] in text and "0.610" in text and "0.500" in text
    assert "—1" in text and "no step multiplies accuracy by 1.1." in text


def test_a_bag_of_words_as_good_as_the_probe_is_a_warning(depth):
    assert "words alone may carry" in Report(depth(bag_of_words=0.95)).html()
    assert "words alone may carry" not in Report(depth(bag_of_words=0.61)).html()
    assert "words alone may carry" not in Report(depth(bag_of_words=None)).html()


def test_a_bag_of_words_below_the_majority_is_a_warning(depth):
    said = "rows that match in all but the label"
    low = depth(bag_of_words=0.25, bag_of_words_low=0.2, bag_of_words_high=0.3)
    assert said in Report(low).html()
    near = depth(bag_of_words=0.48, bag_of_words_low=0.45, bag_of_words_high=0.51)
    assert said not in Report(near).html()


def test_what_was_done_is_said_and_what_is_careful_stands_out(depth):
    notes = ("Features are standardised.", "Careful: the split mixes matched rows.")
    data = {"data": {"name": "facts", "notes": ["The text column is 'statement'."]}}
    text = Report(depth(notes=notes, provenance=data)).html()
    assert 'class="warning"><strong>Warning.</strong> ' in text
    assert text.count("the split mixes matched rows.") == 1
    for part in ("Features are standardised.", "600 rows (False: 300, True: 300) in 120 groups"):
        assert part in text
    assert "Is the statement true?" in text and "The text column is" in text


def test_warnings_of_the_new_kind_and_of_the_old_stand_out(full):
    notes = ("Features are standardised.", "Careful: an old result says this.")
    text = Report(full(notes=notes, warnings=("The bag is full.", "Mind <b>this</b>."))).html()
    for sentence in (
        "The bag is full.",
        "Mind &lt;b&gt;this&lt;/b&gt;.",
        "an old result says this.",
    ):
        assert f'Warning.</strong> <bdi class="data">{sentence}' in text
    assert "Careful:" not in text


def test_how_it_was_measured_names_mode_probe_and_prompt(full, reader):
    r = full(mode="released_code", probe="random_forest", prompt="Is it <so>?")
    text = reader(Report(r).html().replace(plotly.offline.get_plotlyjs(), "")).text
    for part in ("Mode: released code.", "Probe: random forest.", "Prompt: “Is it <so>?”"):
        assert part in text
    assert "Prompt:" not in Report(full(prompt=None)).html()


def test_the_headlines_hold_the_new_numbers_only_where_there_are_some(full, depth, reader):
    r = full()
    at = int(r.accuracy.argmax())
    tables = [t for t in re.findall(r"<table>.*?</table>", Report(r).html(), re.S)][:2]
    scores, depths = (reader(t).text for t in tables)
    for name in ("selectivity", "calibration_error", "random_model"):
        assert f"{getattr(r, name)[at]:.3f}" in scores
    assert f"{r.onset_depth:.2f} [{r.onset_low:.2f}, {r.onset_high:.2f}]" in depths
    assert f"{r.converging_literal:.2f}" in depths and f"{r.p_adjusted.min():.3f}" in depths
    assert r.onset_hookpoint in depths and "literal rule" in depths
    old = Report(depth()).html().replace(plotly.offline.get_plotlyjs(), "")
    for name in ("calibration error", "random model", "literal rule", "p (Holm)", "Onset is"):
        assert name not in old
    none = full(onset_depth=None, onset_hookpoint=None, reasons={"onset_depth": "beats nothing."})
    assert "beats nothing." in Report(none).html() and "No onset: beats" in Report(none).html()


def test_several_models_have_their_figures_and_each_its_heat_map(everything, reader):
    page = Report(everything, command="interp probe").html()
    bare = page.replace(plotly.offline.get_plotlyjs(), "")
    specs = re.findall(r'id="([a-z0-9]+)-spec"', bare)
    assert [s for s in specs if s.startswith("models")] == ["models1", "models2", "models3"]
    assert [s for s in specs if s.startswith("map")] == ["map1", "map2", "map3"]
    assert "points" in specs and len(page.encode()) < 8_000_000
    ids = re.findall(r'\bid="([^"]+)"', bare)
    assert len(ids) == len(set(ids)) and set(re.findall(r'href="#([^"]+)"', bare)) <= set(ids)
    levels = [int(n) for n in re.findall(r"<h([1-6])", bare)]
    assert all(b - a <= 1 for a, b in zip(levels, levels[1:], strict=False))
    for part in re.findall(r"<figure.*?</figure>", bare, re.S):
        assert re.search(r'role="img" aria-label="[^"]{40,}"', part) and "<table>" in part
    heads = [reader(h).text for h in re.findall(r"<h3>.*?</h3>", bare)]
    first = heads.index("facts.label: demo:pylm")
    assert heads[first + 1 : first + 6] == [
        "facts.label: small/model",
        "facts.label: org/larger-model",
        "facts.label: perturbations, demo:pylm",
        "facts.label: steering, demo:pylm",
        "facts.label: logit lens, demo:pylm",
    ]
    assert "What demo:pylm, small/model and org/larger-model represent" in bare


def test_a_lens_stands_with_its_concept_and_says_towards_which_class(
    depth, lens, steering, attack, reader
):
    """Also where the results come in the order of their files, all of one kind together."""
    hostile = attack[:60]
    about = {"concept": "b.kind", "data": {"name": "b"}}
    lenses = [lens(f"b.kind={c}", towards=c, provenance=about) for c in ("calm", hostile)]
    results = [
        depth("a.x"),
        depth("b.kind"),
        depth("b.other"),
        *lenses,
        lens("a.x"),
        steering("a.x"),
    ]
    bare = Report(results).html().replace(plotly.offline.get_plotlyjs(), "")
    assert "<script>window" not in bare and "<img" not in bare
    heads = [reader(h).text for h in re.findall(r"<h3>.*?</h3>", bare)]
    a, b = heads.index("a.x"), heads.index("b.kind")
    assert heads[a + 1 : a + 3] == ["a.x: logit lens", "a.x: steering"]
    assert heads[b + 1] == "b.kind: logit lens towards calm"
    assert heads[b + 2].startswith("b.kind: logit lens towards ") and heads[b + 3] == "b.other"
    text = reader(bare).text
    assert "The direction is the probe's at resid_post.3, towards the class calm." in text
    assert text.count("Of each logit the mean over all 32,000 tokens is taken off.") == 3
    assert text.count("32,000 tokens") == 6 and "200 rows" in text  # listed with what n counts


def test_one_result_has_no_heat_map_and_two_have_one(depth):
    assert 'id="map1"' not in Report([depth()]).html()
    assert 'id="map1"' in Report([depth(), depth("facts.other")]).html()
    two = [depth(f"a.{i}", hookpoints=h) for h in (("x", "y"), ("u", "v", "w")) for i in range(2)]
    assert 'id="map2"' in Report(two).html()


def test_the_page_states_its_size(tmp_path, six):
    path = Report(six).write(tmp_path / "deep" / "report.html")
    size = path.stat().st_size
    assert size < 8_000_000
    text = path.read_text(encoding="utf-8")
    library = len(plotly.offline.get_plotlyjs().encode())
    assert f"This page is {size / 1e6:.1f} MB, of which plotly.js is {library / 1e6:.1f} MB" in text
    assert "its budget is 12.0 MB" in text


def test_a_page_is_cut_to_its_budget_and_says_what_is_gone(six):
    whole = Report(six).html()
    budget = len(whole.encode()) + 20_000 - 9_000
    cut = Report(six, budget=budget).html()
    assert len(cut.encode()) <= budget
    assert "Left out to stay within it" not in whole
    assert "Left out to stay within it: the figure and tables of" in cut
    bare = Report(six, budget=len(plotly.offline.get_plotlyjs()) + 35_000).html()
    assert "Left out to stay within it: the sections of 6 results" in bare
    assert '<figure id="fig' not in bare and "facts.label" in bare


def test_many_models_and_concepts_stay_within_the_budget(full):
    layers = tuple(f"resid_post.{i}" for i in range(40))
    many = [
        full(f"set.c{i}", model=f"m{j}", hookpoints=layers, seed=i)
        for i in range(12)
        for j in range(2)
    ]
    page = Report(many, budget=len(plotly.offline.get_plotlyjs()) + 335_000).html()
    assert len(page.encode()) <= 5_150_000
    assert "not drawn, for the page's size" in html_text(page) and 'id="models1"' in page
    assert "Left out to stay within it" in page


def html_text(page):
    return page.replace(plotly.offline.get_plotlyjs(), "").replace("&#x27;", "'")


def test_long_tables_are_cut_and_say_so(depth, monkeypatch):
    monkeypatch.setattr("dashboards.tables.ROWS", 10)
    layers = tuple(f"resid_post.{i}" for i in range(80))
    text = Report([depth(f"set.c{i}", hookpoints=layers) for i in range(25)]).html()
    assert "15 more are not shown" in text
    assert "(10 of 80 rows)" in text
    assert "10 of 25 concepts, 10 of 80 hook points" in text


def test_attacks_in_every_text_stay_text(depth, attack, reader):
    def report(text):
        module = text.replace("\ud800", "\ufffe")  # pandas holds no lone surrogates
        r = depth(
            f"a.{text}",
            hookpoints=("embed", module, f"{module}2"),
            notes=(text, f"Careful: {text}"),
            about=text,
            interval=text,
            class_counts={text: 1},
            reasons={"jump_point": text},
            jump_point=None,
            converging_point=None,
            examples=[{text: text, "label": text}],
            provenance={
                "model": {"spec": text, text: text},
                "data": {"name": text, "notes": [text]},
            },
        )
        other = depth("a.b", hookpoints=r.hookpoints, provenance=r.provenance)
        page = Report([r, other], title=text, command=text).html()
        return reader(page.replace(plotly.offline.get_plotlyjs(), "")), page

    attacked, page = report(attack)
    plain, _ = report("plain")
    assert attacked.tags == plain.tags
    assert [n for n, _ in attacked.attributes] == [n for n, _ in plain.attributes]
    assert len(page.encode()) < 5_100_000
    assert not set(page.replace(plotly.offline.get_plotlyjs(), "")) & set("\x00\x1b\u202e\u2066")


def test_a_summary_is_small_and_runs_nothing(depth, six):
    r = depth("<script>x</script>", examples=[{"text": "y" * 1_000_000}])
    for text in (summary_html(r), r._repr_html_(), Report(six)._repr_html_()):
        assert len(text) < 200_000
        assert "<script" not in text and "<svg" in text
    i = int(r.accuracy.argmax())
    assert f"{r.accuracy[i]:.3f} [" in summary_html(r)


def test_other_results_get_a_table(six, reader):
    import pandas as pd

    class Plain(Result):
        def to_frame(self):
            return pd.DataFrame({"layer": ["a<b", "c"], "value": [0.25, float("nan")]})

    plain = Plain(name="p", n=2)
    text = reader(Report([plain, *six]).html().replace(plotly.offline.get_plotlyjs(), "")).text
    assert "a<b" in text and "0.2500" in text
    assert "0.2500" in summary_html(plain)
    assert Plain not in FIGURES


def test_what_is_no_result_is_refused(tmp_path, depth):
    with pytest.raises(ParameterError, match="at least one"):
        Report([])
    with pytest.raises(ParameterError, match="str"):
        Report(["x"])  # pyright: ignore[reportArgumentType]
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="cannot write"):
        Report(depth()).write(tmp_path / "file" / "report.html")


def test_two_equal_reports_are_equal_files(six):
    assert Report(six).html() == Report(six).html()


def test_importing_dashboards_knows_every_kind_and_prints_nothing():
    code = "import dashboards; from interp.results import Result; print(*Result.KINDS)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "concept_depth" in done.stdout.split() and done.stderr == ""


def test_a_saved_result_gives_the_same_page(tmp_path, depth):
    r = depth(jump_point=None, bag_of_words=None, reasons={"bag_of_words": "no text."})
    assert Report(Result.load(r.save(tmp_path / "r.json"))).html() == Report(r).html()
