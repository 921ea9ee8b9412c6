"""Perturbations, steering and the logit lens: the results' own numbers, drawn and said."""

import numpy as np
import pytest

from dashboards import Report, figure
from dashboards.effects import perturbed_reading, token_text

MEASURES = {
    "onset": "onset_depth",
    "jump point": "jump_point",
    "converging point": "converging_point",
    "peak accuracy": "peak",
}


def traces(fig):
    return {t.name: t for t in fig.data if t.name}


def test_the_shifts_are_the_results_against_a_line_at_zero(perturbed):
    r = perturbed()
    fig = figure(r)
    marks = traces(fig)
    for name, measure in MEASURES.items():
        key = f"{measure}_shift"
        expected = np.array([np.nan if run[key] is None else run[key] for run in r.runs])
        filled, hollow = marks[name].x, marks[f"{name}, not sure"].x
        assert not (np.isfinite(filled) & np.isfinite(hollow)).any()  # a mark is in one of them
        both = np.where(np.isfinite(filled), filled, hollow)
        np.testing.assert_array_equal(both, expected.astype(np.float32))
    assert marks["peak accuracy"].xaxis == "x2"  # accuracy is no depth: it has its own axis
    for axis in (fig.layout.xaxis, fig.layout.xaxis2):
        assert axis.zeroline is True and axis.range[0] == -axis.range[1]
    assert len({marks[name].marker.symbol for name in MEASURES}) == 4
    assert list(fig.layout.yaxis.ticktext)[:2] == ["prefix", "swap 0.05"]


def test_a_shift_that_clears_its_interval_is_filled_and_others_are_open(perturbed):
    r = perturbed()
    marks = traces(figure(r))
    for name, kinds in (
        ("onset", ["int4"]),
        ("jump point", []),
        ("converging point", ["drop"]),
        ("peak accuracy", ["swap", "drop", "int4"]),
    ):
        filled, hollow = marks[name], marks[f"{name}, not sure"]
        assert [k["kind"] for k, x in zip(r.runs, filled.x, strict=True) if x == x] == kinds
        assert hollow.marker.symbol == f"{filled.marker.symbol}-open"
        assert hollow.marker.color == filled.marker.color == hollow.error_x.color
        assert filled.showlegend and not hollow.showlegend
        assert filled.legendgroup == hollow.legendgroup == name
    sure = perturbed(runs=tuple(run for run in r.runs if run["kind"] == "drop"))
    assert set(traces(figure(sure))) == {"converging point", "peak accuracy"}  # nothing is open


def test_the_bars_are_the_intervals(perturbed):
    r = perturbed()
    fig = figure(r)
    marks = traces(fig)
    for name, measure in MEASURES.items():
        ends = [[run[f"{measure}_shift{e}"] for e in ("", "_low", "_high")] for run in r.runs]
        shift, low, high = np.array(ends, dtype=float).T
        for trace in (marks[name], marks[f"{name}, not sure"]):
            np.testing.assert_array_equal(trace.error_x.array, (high - shift).astype("f4"))
            np.testing.assert_array_equal(trace.error_x.arrayminus, (shift - low).astype("f4"))
            axis = fig.layout.xaxis2 if trace.xaxis == "x2" else fig.layout.xaxis
            assert np.nanmax(np.abs([low, high])) < axis.range[1]  # no bar is cut
    assert np.isnan(marks["jump point"].error_x.array[1])
    assert marks["jump point"].text[1] == "swap 0.05 (no interval)"
    assert marks["onset"].text[6] == "int4 (95 % interval +0.200 to +0.600)"
    outside = {**r.runs[3], "peak_shift_low": 0.01, "peak_shift_high": 0.02}  # beside its shift
    bar = traces(figure(perturbed(runs=(outside,))))["peak accuracy"].error_x
    np.testing.assert_allclose([bar.arrayminus[0], bar.array[0]], [-0.006, 0.016], rtol=1e-5)


def test_the_words_name_moves_that_clear_their_interval(perturbed):
    r = perturbed()
    alt = figure(r).layout.meta["alt"]
    assert "7 perturbations" in alt and "shift of peak accuracy is under drop 0.1, -0.12" in alt
    assert "shift of converging point is under drop 0.1, +0.40 (95 % interval +0.20 to" in alt
    assert "jump" not in alt  # it moves by 0.2, and may as well not
    assert "leaves out 0 are filled, the others open" in alt
    read = perturbed_reading(r)
    assert "5 of 26 shifts clear its interval; of twenty" in read
    assert "without a bar has no interval" in read and "No shift" not in read
    one = perturbed_reading(perturbed(runs=({**r.runs[4], "peak_shift": 0.1,
        "peak_shift_low": 0.05, "peak_shift_high": 0.2},)))  # fmt: skip
    assert "1 of 4 shifts clears its interval" in one and "without a bar" not in one
    how = "the same draws of 40 pairs."
    assert how in Report(perturbed(interval=how)).html() and how not in Report(r).html()
    for runs in (r.runs[4:5], r.runs[:1]):  # the second moves by 0.2 and is unsure of it
        still = perturbed(runs=runs)
        assert "no shift clears its interval" in figure(still).layout.meta["alt"]
        assert "No shift clears its interval." in perturbed_reading(still)


def test_a_result_without_intervals_is_drawn_open(perturbed):
    ends = ("_low", "_high", "reasons")
    old = [{k: v for k, v in run.items() if not k.endswith(ends)} for run in perturbed().runs]
    fig = figure(perturbed(runs=tuple({**r, "accuracy_low": [], "accuracy_high": []} for r in old)))
    assert not any(np.isfinite(traces(fig)[name].x).any() for name in MEASURES)
    assert "no shift clears its interval" in fig.layout.meta["alt"]


def test_undefined_shifts_are_left_out_and_explained(perturbed):
    none = {k: None for k in perturbed().runs[0] if k.endswith("_shift")}
    r = perturbed(runs=tuple({**run, **none} for run in perturbed().runs))
    assert traces(figure(r)) == {} and "no measure is defined" in figure(r).layout.meta["alt"]
    assert "A mark is missing" in Report(r).html()
    whole = perturbed(runs=perturbed().runs[:1])
    assert "A mark is missing" not in Report(whole).html()
    assert figure(perturbed(runs=())).layout.meta["alt"]


def test_steering_stands_beside_its_control(steering):
    r = steering()
    fig = figure(r)
    lines = traces(fig)
    np.testing.assert_array_equal(lines["probe's direction"].y, r.log_odds.astype(np.float32))
    np.testing.assert_array_equal(
        lines["random directions"].y, r.random_log_odds.astype(np.float32)
    )
    assert list(lines["probe's direction"].x) == list(r.alphas)
    bands = [t for t in fig.data if t.fill == "toself"]
    np.testing.assert_array_equal(bands[1].y[:7], r.log_odds_low.astype(np.float32))
    assert {t.legendgroup for t in bands} == {"random", "probe"}
    alt = fig.layout.meta["alt"]
    assert "from -4.00 at strength -4 to 3.20 at 4 (+0.90 a unit; random directions +0.05" in alt
    assert "flips 0.80 of the answers, random directions 0.03" in alt
    assert "0.310 of the probability" in Report(r).html()


def test_the_lens_lists_both_kinds_of_tokens(lens):
    r = lens()
    fig = figure(r)
    raised, lowered = fig.data
    np.testing.assert_array_equal(raised.x, r.raised_logits.astype(np.float32))
    np.testing.assert_array_equal(lowered.x, r.lowered_logits[::-1].astype(np.float32))
    ticks = list(fig.layout.yaxis.ticktext)
    assert ticks[0] == "␣true" and ticks[-1] == "␣false" and len(ticks) == 20
    assert len(set(fig.layout.yaxis.tickvals)) == 20
    alt = fig.layout.meta["alt"]
    assert "raises most “␣true” +9.00" in alt and "lowers most “␣false” -8.00" in alt


@pytest.mark.parametrize(
    ("token", "shown"),
    [(" a", "␣a"), ("\n", "⏎"), ("\t\t", "⇥⇥"), ("", "(empty)"), ("<b>", "&lt;b&gt;")],
)
def test_a_token_s_spaces_are_seen_and_its_markup_is_not_read(token, shown):
    assert token_text(token) == shown


def test_no_text_of_theirs_is_read_as_markup(attack, perturbed, steering, lens, reader):
    import plotly.offline

    def page(text):
        short = text[:200].replace("\ud800", "\ufffe")
        run = {**perturbed().runs[0], "kind": short}
        about = {"model": {"spec": text}, "data": {"name": text}}
        results = [
            perturbed(f"a.{text}", runs=(run,), notes=(text,), provenance=about),
            steering(
                f"a.{text}", classes=(text, f"{text}2"), hookpoint=text, notes=(text,),
                provenance=about,
            ),
            lens(f"a.{text}", raised=(short,) * 10, notes=(text,), provenance=about),
        ]  # fmt: skip
        return reader(Report(results).html().replace(plotly.offline.get_plotlyjs(), ""))

    attacked, plain = page(attack), page("plain")
    assert attacked.tags == plain.tags
    assert [n for n, _ in attacked.attributes] == [n for n, _ in plain.attributes]


def test_they_come_back_from_a_file_as_they_were(tmp_path, perturbed, steering, lens):
    from interp.results import Result

    for i, r in enumerate((perturbed(), steering(), lens())):
        again = Result.load(r.save(tmp_path / f"{i}.json"))
        assert Report(again).html() == Report(r).html()
