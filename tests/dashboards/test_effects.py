"""Perturbations, steering and the logit lens: the results' own numbers, drawn and said."""

import numpy as np
import pytest

from dashboards import Report, figure
from dashboards.effects import token_text


def traces(fig):
    return {t.name: t for t in fig.data if t.name}


def test_the_shifts_are_the_results_against_a_line_at_zero(perturbed):
    r = perturbed()
    fig = figure(r)
    marks = traces(fig)
    for name, key in (
        ("onset", "onset_depth_shift"),
        ("jump point", "jump_point_shift"),
        ("converging point", "converging_point_shift"),
        ("peak accuracy", "peak_shift"),
    ):
        expected = np.array([np.nan if run[key] is None else run[key] for run in r.runs])
        np.testing.assert_array_equal(marks[name].x, expected.astype(np.float32))
    assert marks["peak accuracy"].xaxis == "x2"  # accuracy is no depth: it has its own axis
    for axis in (fig.layout.xaxis, fig.layout.xaxis2):
        assert axis.zeroline is True and axis.range[0] == -axis.range[1]
    assert len({t.marker.symbol for t in marks.values()}) == 4
    assert list(fig.layout.yaxis.ticktext)[:2] == ["prefix", "swap 0.05"]


def test_the_words_name_the_strongest(perturbed):
    alt = figure(perturbed()).layout.meta["alt"]
    assert "7 perturbations" in alt and "peak accuracy moves most under drop 0.1, by -0.12" in alt
    assert "converging point moves most under drop 0.1, by +0.40" in alt
    still = perturbed(runs=perturbed().runs[4:5])
    assert "onset does not move" in figure(still).layout.meta["alt"]


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
    assert "raises most “true” +9.00" in alt and "lowers most “false” -8.00" in alt


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
