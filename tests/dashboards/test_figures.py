"""The figures draw the result's own numbers, and say them in words."""

import base64
import dataclasses
import re

import numpy as np
import pytest

from dashboards import figure, heatmap
from dashboards.figures import FIGURES
from dashboards.style import COLOURS, CONFIG, PARTNERS, SCALE
from interp.errors import ParameterError
from interp.results import Result


def trace(fig, name):
    return next(t for t in fig.data if t.name == name)


def test_the_curve_and_its_controls_are_the_results_numbers(depth):
    r = depth()
    fig = figure(r)
    np.testing.assert_array_equal(trace(fig, "probe").y, r.accuracy.astype(np.float32))
    np.testing.assert_array_equal(trace(fig, "shuffled labels").y, r.shuffled.astype(np.float32))
    assert set(trace(fig, "majority class").y) == {np.float32(r.majority)}
    assert set(trace(fig, "bag of words").y) == {np.float32(r.bag_of_words)}
    band = next(t for t in fig.data if t.fillcolor == COLOURS["curve band"][0])
    np.testing.assert_array_equal(band.y[:6], r.accuracy_low.astype(np.float32))
    np.testing.assert_array_equal(band.y[:5:-1], r.accuracy_high.astype(np.float32))


def test_the_points_stand_where_the_result_puts_them(depth):
    fig = figure(depth())
    assert list(trace(fig, "jump point").x) == [2]
    assert list(trace(fig, "converging point").x) == [4]
    assert {a.text for a in fig.layout.annotations} == {"jump 0.33", "converging 0.67"}
    names = [t.name for t in figure(depth(jump_point=None, converging_point=None)).data]
    assert "jump point" not in names and "converging point" not in names


def test_points_of_one_place_share_a_label_and_are_all_seen(full):
    r = full()
    fig = figure(r)
    assert r.onset_hookpoint == r.jump_hookpoint
    texts = {a.text for a in fig.layout.annotations}
    assert texts == {
        f"onset {r.onset_depth:.2f}, jump {r.jump_point:.2f}",
        f"converging {r.converging_point:.2f}",
    }
    marks = [trace(fig, name) for name in ("onset", "converging point", "jump point")]
    sizes = [m.marker.size for m in marks]
    assert sizes == sorted(sizes, reverse=True)  # the largest is drawn first
    assert [fig.data.index(m) for m in marks] == sorted(fig.data.index(m) for m in marks)


def test_labels_that_would_meet_on_a_phone_stand_in_different_rows(full):
    layers = ("embed", *(f"resid_post.{i}" for i in range(6)))
    far = full(hookpoints=layers, onset_hookpoint="resid_post.1", jump_hookpoint="resid_post.1",
               converging_hookpoint="resid_post.5")  # fmt: skip
    rows = {a.text.split()[0]: a.yshift for a in figure(far).layout.annotations}
    assert rows == {"onset": 0, "converging": 15}  # 21 letters and 15 are more than 280 px
    alone = figure(full(hookpoints=layers, onset_hookpoint=None, jump_hookpoint="resid_post.0",
                        converging_hookpoint="resid_post.5"))  # fmt: skip
    assert {a.yshift for a in alone.layout.annotations} == {0}
    assert figure(far).layout.margin.t == alone.layout.margin.t + 15


def test_the_onset_bar_ends_at_the_hook_points_of_its_interval(full):
    r = full(onset_low=0.2, onset_high=0.6)
    bar, at = trace(figure(r), "onset"), r.hookpoints.index(r.onset_hookpoint)
    ends = at - bar.error_x.arrayminus[0], at + bar.error_x.array[0]
    assert [r.hookpoints[int(e)] for e in ends] == ["resid_post.1", "resid_post.3"]
    beyond = trace(figure(full(onset_high=None)), "onset")
    assert at + beyond.error_x.array[0] == len(r.hookpoints) - 1
    assert "to none)" in figure(full(onset_high=None)).layout.meta["alt"]
    assert trace(figure(full(onset_low=None)), "onset").error_x.array is None


def test_each_control_is_drawn_with_its_band_where_it_is_there(full, depth):
    r = full()
    fig = figure(r)
    for name, field in (
        ("random-initialised model", "random_model"),
        ("random features", "random_features"),
        ("shuffled labels", "shuffled"),
    ):
        line = trace(fig, name)
        np.testing.assert_array_equal(line.y, getattr(r, field).astype(np.float32))
        band = next(t for t in fig.data if t.fill == "toself" and t.legendgroup == field)
        low = getattr(r, f"{field}_low").astype(np.float32)
        np.testing.assert_array_equal(band.y[: len(low)], low)
        assert band.visible == line.visible  # the legend hides and shows both
        low_high = f"{getattr(r, field).min():.2f} to {getattr(r, field).max():.2f}"
        assert f"{name} {low_high}" in fig.layout.meta["alt"]
    assert trace(fig, "random features").visible == "legendonly"
    assert trace(fig, "random-initialised model").visible is True
    names = {t.name for t in figure(depth()).data}
    assert not names & {"random-initialised model", "random features", "onset"}
    assert "onset" not in {t.name for t in figure(full(onset_hookpoint=None)).data}


def test_no_curve_is_told_by_colour_alone(depth):
    lines = [t for t in figure(depth()).data if t.mode and "lines" in t.mode and t.name]
    looks = {(t.line.dash, t.marker.symbol if "markers" in t.mode else None) for t in lines}
    assert len(lines) == 4 and len(looks) == 4


def test_no_curve_of_seven_is_told_by_colour_alone(full):
    lines = [t for t in figure(full()).data if t.mode and "lines" in t.mode and t.name]
    looks = {(t.line.dash, t.marker.symbol if "markers" in t.mode else None) for t in lines}
    assert len(lines) == 6 and len(looks) == 6


def test_numbers_are_typed_arrays_of_four_bytes(depth):
    curve = next(t for t in figure(depth()).to_dict()["data"] if t.get("name") == "probe")
    assert curve["y"]["dtype"] == "f4"
    back = np.frombuffer(base64.b64decode(curve["y"]["bdata"]), "<f4")
    np.testing.assert_array_equal(back, depth().accuracy.astype(np.float32))


def test_the_alternative_text_says_the_numbers(depth):
    accuracy = np.array([0.51, 0.52, 0.6, 0.9, 0.93, 0.91])
    r = depth(accuracy=accuracy, accuracy_low=accuracy - 0.02, accuracy_high=accuracy + 0.02)
    alt = figure(r).layout.meta["alt"]
    assert "rises from 0.51 at embed to 0.93 at resid_post.3" in alt
    assert "95 % interval 0.91 to 0.95" in alt
    assert "0.91 at resid_post.4" in alt
    assert "majority 0.50, bag of words 0.61" in alt
    assert "jump at resid_post.1, convergence at resid_post.3" in alt
    falls = figure(depth(accuracy=accuracy[::-1].copy() + [0.1, 0, 0, 0, 0, 0])).layout.meta["alt"]
    assert "highest at the first hook point, 1.01 at embed" in falls


def test_undefined_values_leave_gaps(depth):
    nothing = np.full(6, np.nan)
    r = depth(accuracy=nothing, accuracy_low=nothing, accuracy_high=nothing, bag_of_words=None)
    fig = figure(r)
    assert "undefined at every hook point" in fig.layout.meta["alt"]
    assert "bag of words" not in [t.name for t in fig.data]
    hole = depth().accuracy.copy()
    hole[2] = np.nan
    assert len(next(t for t in figure(depth(accuracy_low=hole)).data if t.fill == "toself").x) > 0
    assert "nan" not in figure(depth(accuracy=hole)).layout.meta["alt"]


def test_the_heat_map_holds_each_concept_in_order(six):
    fig = figure(six)
    np.testing.assert_array_equal(
        fig.data[0].z, np.stack([r.accuracy for r in six]).astype(np.float32)
    )
    assert list(fig.layout.yaxis.ticktext) == [r.name for r in six]
    assert list(fig.layout.xaxis.ticktext) == ["embed", "0", "1", "2", "3", "4"]
    texts = fig.data[1].text
    bold = [re.sub("<.?b>", "", t) for t in texts if t.startswith("<b>")]
    assert bold == [f"{r.accuracy.max():.2f}" for r in six]
    for r in six:
        assert f"{r.name} {r.accuracy.max():.2f} at" in fig.layout.meta["alt"]


def test_the_heat_map_of_selectivity(six):
    fig = heatmap(six, "selectivity")
    np.testing.assert_array_equal(
        fig.data[0].z, np.stack([r.selectivity for r in six]).astype(np.float32)
    )


def test_a_large_heat_map_prints_no_numbers(depth):
    layers = tuple(f"resid_post.{i}" for i in range(40))
    fig = heatmap([depth(f"c{i}", hookpoints=layers) for i in range(20)])
    assert len(fig.data) == 1
    assert len(fig.layout.xaxis.ticktext) <= 16


def test_what_cannot_be_drawn_is_refused(depth):
    class Other(Result):
        pass

    with pytest.raises(ParameterError, match="Other has no figure"):
        figure(Other(name="x", n=1))
    with pytest.raises(ParameterError, match="hook points"):
        figure([depth(), depth(hookpoints=("a", "b"))])
    with pytest.raises(ParameterError, match="one or more"):
        heatmap([])
    with pytest.raises(ParameterError, match="accuracy or selectivity"):
        heatmap([depth()], "loss")  # pyright: ignore[reportArgumentType]


def test_a_subclass_is_drawn_as_its_base(depth):
    base = next(iter(FIGURES))
    sub = type("Sub", (base,), {"kind": ""})
    r = depth()
    fields = {f.name: getattr(r, f.name) for f in dataclasses.fields(r)}
    assert figure(sub(**fields)).layout.meta == figure(r).layout.meta


def test_names_from_data_are_not_read_as_markup(depth):
    name = "<a href='https://example.org'>%{x}</a>"
    hookpoints = ("<b>in</b>", "b", "c")
    texts = str([figure(depth(name, hookpoints=hookpoints)).layout, heatmap([depth(name)]).layout])
    for text in re.findall(r"'(?:text|ticktext)': .*", texts):
        assert "<a" not in text and "<b>in" not in text and "%{x}" not in text


def test_every_way_to_show_a_figure_switches_the_upload_off(depth, monkeypatch):
    import plotly.io as pio

    fig = figure(depth())
    seen = []
    monkeypatch.setattr(pio, "show", lambda *a, **k: seen.append(k["config"]))
    fig.show()
    page = fig.to_html(include_plotlyjs=False)
    assert seen[0] == CONFIG and CONFIG["showSendToCloud"] is False
    assert '"showSendToCloud": false' in page and "cloud.plotly.com" not in page
    monkeypatch.setattr(pio.renderers, "default", "plotly_mimetype")
    bundle = fig._repr_mimebundle_()["application/vnd.plotly.v1+json"]
    assert bundle["config"]["showSendToCloud"] is False


def test_colours_read_on_their_paper():
    """Contrast as WCAG 2 counts it: 4.5 for text, 3 for lines, 4.5 for the numbers in cells."""

    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return float(np.dot([0.2126, 0.7152, 0.0722], linear))

    def contrast(a, b):
        low, high = sorted((luminance(a), luminance(b)))
        return (high + 0.05) / (low + 0.05)

    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    for mode in (0, 1):
        paper = COLOURS["paper"][mode]
        for name in (
            "ink",
            "soft",
            "bag",
            "shuffled",
            "majority",
            "curve",
            "untrained",
            "features",
        ):
            assert contrast(COLOURS[name][mode], paper) >= 4.5, name
    middle = len(SCALE) // 2
    for i, colour in enumerate(SCALE):
        if i <= middle:
            assert contrast(colour, "#000001") >= 4.5
        if i >= middle:
            assert contrast(colour, "#fffffe") >= 4.5
    assert all(PARTNERS[PARTNERS[c]] == c for c in SCALE)


@pytest.mark.parametrize("n", [1, 2, 7, 16, 17, 25, 26, 33, 40, 81])
def test_the_first_and_the_last_hook_point_are_always_named(n):
    from dashboards.style import Plot, depth_axis, spread

    fig = Plot()
    depth_axis(fig, [f"resid_post.{i}" for i in range(n)])
    shown = fig.layout.xaxis.tickvals.tolist()
    assert shown[0] == 0 and shown[-1] == n - 1 and len(shown) <= 16
    assert max(fig.layout.xaxis.autotickangles) == 0  # none falls beyond the right edge
    step = -(-n // 16)
    assert n == 1 or min(np.diff(shown)) >= step and max(np.diff(shown)) < 2 * step
    assert spread(0, 16) == []
