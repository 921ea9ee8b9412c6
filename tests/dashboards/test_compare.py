"""Several models in one figure, and where each point of a curve is placed."""

import math

import numpy as np
import pytest

from dashboards import compare, depth_points, figure
from dashboards.compare import by_concept, fractions, placed, series
from interp.errors import ParameterError

MODELS = (("a/small", 4), ("b/large", 9))


def pair(full, name="facts.label", **changes):
    return [
        full(name, model=m, hookpoints=("embed", *(f"resid_post.{i}" for i in range(d))), **changes)
        for m, d in MODELS
    ]


def traces(fig):
    return {t.name: t for t in fig.data if t.name}


def test_depth_is_layers_passed_over_all_layers(full):
    r = full(hookpoints=("embed", "resid_post.0", "resid_post.1", "resid_post.2", "final_norm"))
    r = full(hookpoints=r.hookpoints, layers=(1, 2, 3))
    np.testing.assert_allclose(fractions(r), [0, 1 / 3, 2 / 3, 1, 3.5 / 3])
    assert placed(r, "resid_post.1") == pytest.approx(2 / 3)
    assert math.isnan(placed(r, None)) and math.isnan(placed(r, "elsewhere"))
    assert np.isnan(fractions(full(layers=()))).all()


def test_a_line_a_model_with_its_interval_at_its_own_depths(full):
    small, large = pair(full)
    lines = traces(compare([small, large]))
    assert list(lines) == ["a/small", "b/large"]
    for r, line in zip((small, large), lines.values(), strict=True):
        np.testing.assert_array_equal(line.y, r.accuracy.astype(np.float32))
        np.testing.assert_array_equal(line.customdata[:, 0], r.accuracy_low.astype(np.float32))
        assert (line.x[0], line.x[-1]) == (0, 1) and len(line.x) == len(r.hookpoints)
    looks = {(t.line.color, t.line.dash, t.marker.symbol) for t in lines.values()}
    assert len({look[1:] for look in looks}) == 2  # told apart without colour
    bands = [t for t in compare([small, large]).data if t.fill == "toself"]
    assert [b.legendgroup for b in bands] == [t.legendgroup for t in lines.values()]


def test_the_points_stand_at_their_hook_points(full):
    small, large = pair(full)
    fig = depth_points([small, large])
    marks = traces(fig)
    assert set(marks) == {"onset", "jump point", "converging point", "peak"}
    for name, field in (
        ("onset", "onset"),
        ("jump point", "jump"),
        ("converging point", "converging"),
        ("peak", "peak"),
    ):
        expected = [placed(r, getattr(r, f"{field}_hookpoint")) for r in (small, large)]
        np.testing.assert_allclose(marks[name].x, expected, rtol=1e-6)
    assert len({t.marker.symbol for t in marks.values()}) == 4
    # The interval counts layers from 0, the axis layers passed: both ends move by one layer.
    low = marks["onset"].x[1] - marks["onset"].error_x.arrayminus[1]
    assert low == pytest.approx(large.onset_low + 1 / 9, abs=1e-6)
    absent = depth_points([full(onset_hookpoint=None, onset_depth=None, onset_low=None)] * 2)
    assert "onset" not in traces(absent)


def test_concepts_are_ordered_by_onset_and_those_without_come_last(full):
    late, early = full("z.late", seed=5), full("a.early", seed=0)
    never = full("b.never", onset_hookpoint=None, onset_depth=None)
    assert list(by_concept([never, late, early])) == ["a.early", "z.late", "b.never"]
    old = [full(n, seed=s, onset_hookpoint=None) for n, s in (("late", 5), ("early", 0))]
    assert list(by_concept(old)) == ["early", "late"]  # by convergence where no onset is known


def test_what_differs_is_named(full, depth):
    assert series([depth(), depth("other")]) == ["demo:pylm", "demo:pylm"]
    assert series([full(), full(mode="released_code")]) == [
        "demo:pylm, recommended",
        "demo:pylm, released code",
    ]
    assert series([full(probe="lda"), full()])[0] == "demo:pylm, lda"
    assert series([full(prompt=None), full()]) == ["demo:pylm, no prompt", "demo:pylm, a prompt"]


def test_a_study_of_several_models_is_read_by_concept_and_short_name(full):
    def of(short, spec):
        about = {"model": {"spec": spec, "short": short}, "concept": "facts.label"}
        return full(f"{short}/facts.label", provenance=about)

    two = [of("gpt2", "org/gpt2"), of("pylm", "demo:pylm")]
    assert list(by_concept(two)) == ["facts.label"] and series(two) == ["gpt2", "pylm"]
    assert set(traces(figure(two))) == {"gpt2", "pylm"}
    same = [of("gpt2", "org/gpt2"), of("gpt2", "other/gpt2")]  # of two runs
    assert series(same) == ["org/gpt2", "other/gpt2"]


def test_the_figure_of_a_list_is_the_one_that_fits(full):
    two = [*pair(full), *pair(full, "python.keyword")]
    assert figure(two[:2]).layout.meta == compare(two[:2]).layout.meta
    assert figure(two).layout.meta == depth_points(two).layout.meta
    assert figure(two[::2]).data[0].type == "heatmap"


def test_the_words_hold_the_numbers(full):
    small, large = pair(full)
    alt = compare([small, large]).layout.meta["alt"]
    assert f"a/small peaks at {small.accuracy.max():.2f}" in alt and "b/large peaks at" in alt
    alt = depth_points([small, large]).layout.meta["alt"]
    assert f"a/small: onset {placed(small, small.onset_hookpoint):.2f}" in alt
    nothing = np.full(5, np.nan)
    gone = [pair(full, accuracy=nothing)[0], large]
    assert "a/small is undefined" in compare(gone).layout.meta["alt"]


def test_what_cannot_be_compared_is_refused(full, lens):
    for draw in (compare, depth_points):
        with pytest.raises(ParameterError, match="one or more"):
            draw([])
        with pytest.raises(ParameterError, match="no others"):
            draw([full(), lens()])
    with pytest.raises(ParameterError, match="one concept"):
        compare([full(), full("a.b")])


def test_names_are_not_read_as_markup(full):
    name = "<a href='https://example.org'>%{x}</a>"
    two = [full(name, model=f"{name}{i}") for i in range(2)]
    for fig in (compare(two), depth_points(two)):
        plain = fig.to_dict()
        plain["layout"].pop("meta")
        assert "<a" not in str(plain) and "%{x}</a" not in str(plain)
