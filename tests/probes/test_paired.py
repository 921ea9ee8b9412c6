"""Paired intervals of shifts: the draws are the rows', the pairing is exact, and it pays."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from interp.errors import DataError, ParameterError
from interp.results import Result
from interp.store import ActivationStore
from probes import concept_depth, converging_point, jump_point
from probes.onset import Null, depths_of, first_onset, holm
from probes.paired import (
    MEASURES,
    check_pair,
    clears_zero,
    measures_in_draws,
    paired_interval,
    paired_shifts,
)
from probes.scores import bootstrap_weights, hits_of_groups

NAMES = ("embed", *(f"resid_post.{i}" for i in range(4)))
QUICK = {"folds": 3, "strengths": 0.1, "permutations": 4, "random_features": False}


def store(onset=2, seed=0, n=90, size=4.0):
    """A residual stream to which layer ``onset`` adds the label; the noise is the seed's."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    X, tensors = rng.standard_normal((n, 6)), {}
    for i, name in enumerate(NAMES):
        X = X + 0.3 * rng.standard_normal(X.shape)
        if i == onset:
            X = X + size * y[:, None] * np.eye(6)[0]
        tensors[name] = torch.from_numpy(X)
    rows = pd.DataFrame({"label": y, "pair": np.arange(n) // 2})
    return ActivationStore.from_tensors(tensors, rows)


@pytest.fixture(scope="module")
def base():
    return concept_depth(store(), groups="pair", **QUICK)


@pytest.fixture
def made(base):
    """Makes a result of given answers: right [5, n] and the group of each row."""

    def make(right, ids, spread=0.05):
        hits, sizes = hits_of_groups(np.asarray(right, dtype=bool), np.asarray(ids))
        accuracy = hits.sum(1) / sizes.sum()
        null = Null(np.full(5, 0.5), np.full(5, spread), base.permutations - 1)
        adjusted = holm(null.p_values(accuracy))
        first, depths = first_onset(adjusted), depths_of(range(5), base.layers)
        return replace(
            base, hits=hits, group_sizes=sizes, accuracy=accuracy, peak=float(accuracy.max()),
            shuffled=null.mean, null_spread=null.spread, p_adjusted=adjusted,
            onset_depth=None if first is None else float(depths[first]),
            jump_point=jump_point(accuracy[1:]), converging_point=converging_point(accuracy[1:]),
        )  # fmt: skip

    return make


def answers(shares, n, seed=0):
    """Right answers [h, n] with exact shares; a row that is hard is hard at every place."""
    hard = np.random.default_rng(seed).permutation(n) / n
    return np.stack([hard < share for share in shares])


# -- the draws -----------------------------------------------------------------------------------


def test_a_draw_of_every_group_once_is_the_result_itself(base):
    once = np.ones((1, len(base.group_sizes)), dtype=np.float32)
    found = measures_in_draws(base, once)
    assert base.jump_point is not None and base.onset_depth is not None
    assert {name: v[0] for name, v in found.items()} == {m: getattr(base, m) for m in MEASURES}
    np.testing.assert_array_equal(base.hits.sum(1) / base.group_sizes.sum(), base.accuracy)
    once[0, :20] = 0  # another draw is another number
    assert measures_in_draws(base, once)["peak"][0] != base.peak


def test_the_draws_are_those_of_a_loop_over_rows(made):
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 30, 200)
    ids = np.unique(ids, return_inverse=True)[1]
    right = rng.random((5, 200)) < np.array([0.5, 0.58, 0.6, 0.62, 0.65])[:, None]
    depth = made(right, ids)
    weights = bootstrap_weights(ids, draws=200, seed=3)
    found = measures_in_draws(depth, weights)
    null = Null(depth.shuffled, depth.null_spread, depth.permutations - 1)
    expected = {m: [] for m in MEASURES}
    for w in weights.astype(int):
        accuracy = right[:, np.repeat(np.arange(200), w[ids])].mean(1)
        first = first_onset(holm(null.p_values(accuracy)))
        expected["jump_point"].append(jump_point(accuracy[1:]))
        expected["converging_point"].append(converging_point(accuracy[1:]))
        expected["onset_depth"].append(None if first is None else [0, 0, 0.25, 0.5, 0.75][first])
        expected["peak"].append(accuracy.max())
    for name in MEASURES:
        np.testing.assert_array_equal(found[name], np.array(expected[name], dtype=float))
        assert len(np.unique(found[name])) > 1  # the draws do differ
    assert np.isnan(found["jump_point"]).any() and np.isnan(found["onset_depth"]).any()


def test_three_draws_by_hand(made):
    # Two groups of a row. Layers 0 to 3 are places 1 to 4; the second row is learnt by layer 1.
    clean = made([[1, 0]] * 5, [0, 1])
    other = made([[1, 0], [1, 0], [1, 1], [1, 1], [1, 1]], [0, 1])
    weights = np.array([[2, 0], [1, 1], [0, 2]], dtype=np.float32)
    before, after = measures_in_draws(clean, weights), measures_in_draws(other, weights)
    np.testing.assert_array_equal(before["peak"], [1, 0.5, 0])
    np.testing.assert_array_equal(after["peak"], [1, 1, 1])
    np.testing.assert_array_equal(before["jump_point"], [np.nan] * 3)
    np.testing.assert_array_equal(after["jump_point"], [np.nan, 1 / 4, 1 / 4])
    np.testing.assert_array_equal(before["converging_point"], [3 / 4] * 3)


def test_the_interval_by_hand():
    draws = np.random.default_rng(0).permutation(np.arange(-20, 21)) / 4
    zero = np.zeros(41)
    # 40 steps between 41 draws: the ends stand one step inside.
    assert paired_interval(zero, draws) == (-19 / 4, 19 / 4, 0.0)
    assert paired_interval(draws, draws) == (0.0, 0.0, 0.0)
    low, high, _ = paired_interval(zero, draws**2)
    assert paired_interval(draws**2, zero)[:2] == (-high, -low)  # the runs exchanged
    two, three = draws.copy(), draws.copy()
    two[:2], three[:3] = np.nan, np.nan
    # 38 steps between the 39 that are left: 0.95 of a step inside is the outer one.
    kept = np.sort(two[2:])
    assert paired_interval(zero, two) == (kept[0], kept[-1], pytest.approx(2 / 41))
    assert paired_interval(zero, three) == (None, None, pytest.approx(3 / 41))
    assert paired_interval(three, two)[0] is None  # either run counts


# -- what it is for ------------------------------------------------------------------------------


def test_identical_runs_do_not_move(made, base):
    sharp = made(answers((0.5, 0.5, 0.95, 0.95, 0.95), 400), np.arange(400) // 2)
    for depth in (base, sharp):
        (table,) = paired_shifts(depth, [depth])
        assert table["reasons"] == {}
        for m in MEASURES:
            assert [table[f"{m}_shift{end}"] for end in ("", "_low", "_high")] == [0, 0, 0]
            assert not clears_zero(table, m)
    later = made(answers((0.5, 0.5, 0.5, 0.5, 0.8), 400), np.arange(400) // 2)
    (table,) = paired_shifts(sharp, [later])
    assert all(clears_zero(table, m) for m in MEASURES)  # the arm: one that moves is found
    assert table["onset_depth_shift_low"] > 0 > table["peak_shift_high"]


def test_pairing_narrows_the_interval_of_runs_that_share_their_hard_rows(made):
    rng, ids = np.random.default_rng(1), np.arange(500)
    right = answers((0.5, 0.5, 0.6, 0.8, 0.8), 500)
    flips = rng.random(500) < 0.03

    def widths(other):
        clean, run = made(right, ids), made(other, ids)
        (table,) = paired_shifts(clean, [run])
        one, two = (bootstrap_weights(ids, draws=1000, seed=s) for s in (0, 1))
        apart = paired_interval(
            measures_in_draws(clean, one)["peak"], measures_in_draws(run, two)["peak"]
        )
        return table["peak_shift_high"] - table["peak_shift_low"], apart[1] - apart[0]

    paired, apart = widths(right ^ flips)
    assert paired < apart / 2
    # The arm: the same accuracies on rows that have nothing in common gain nothing.
    paired, apart = widths((right ^ flips)[:, rng.permutation(500)])
    assert paired == pytest.approx(apart, rel=0.2)


def test_the_interval_holds_the_true_shift_in_95_of_100_samples(made):
    ids, reps = np.arange(120), 400
    weights = bootstrap_weights(ids, draws=400, seed=0)
    rng, held, narrow = np.random.default_rng(2), 0, 0
    for _ in range(reps):
        # Rows are right in the clean run with 0.7, and disturbed a tenth of those is lost.
        clean = rng.random(120) < 0.7
        other = clean & (rng.random(120) < 0.9)
        peaks = [
            weights @ right / weights.sum(1) for right in (clean.astype(float), other.astype(float))
        ]
        low, high, _ = paired_interval(*peaks)
        held += low <= -0.07 <= high
        middle, half = (low + high) / 2, (high - low) / 4
        narrow += middle - half <= -0.07 <= middle + half
    assert 0.91 <= held / reps <= 0.985  # three deviations of 400 samples, and few lost rows
    assert narrow / reps < 0.8  # half the width does not do it


# -- what is undefined ---------------------------------------------------------------------------


def test_a_measure_that_many_draws_lack_has_no_interval(made):
    clean = made(answers((0.5, 0.5, 0.5, 0.9, 0.9), 300), np.arange(300))
    edge = made(answers((0.5, 0.8, 0.8, 0.8, 0.885), 300), np.arange(300))  # just above a tenth
    assert edge.jump_point is not None
    (table,) = paired_shifts(clean, [edge])
    share = table["jump_point_shift_undefined"]
    assert 0.05 < share < 0.95 and table["jump_point_shift"] == pytest.approx(1 / 4)
    assert table["jump_point_shift_low"] is table["jump_point_shift_high"] is None
    assert table["reasons"]["jump_point_shift_low"].startswith(f"{100 * share:.1f} % of the draws")
    assert not clears_zero(table, "jump_point")
    (table,) = paired_shifts(clean, [clean])
    assert table["jump_point_shift_low"] == 0.0 and table["jump_point_shift_undefined"] == 0.0


def test_a_measure_that_a_run_lacks_has_no_shift(made, base):
    clean = made(answers((0.5, 0.5, 0.5, 0.9, 0.9), 300), np.arange(300))
    flat = made(answers((0.5,) * 5, 300), np.arange(300))
    flat = replace(flat, reasons={"jump_point": "it does not rise."})
    for runs, which in (((clean, flat), "perturbed run"), ((flat, clean), "clean run")):
        (table,) = paired_shifts(runs[0], [runs[1]])
        for end in ("", "_low", "_high"):
            assert table[f"jump_point_shift{end}"] is table[f"onset_depth_shift{end}"] is None
        assert (
            table["reasons"]["jump_point_shift"] == f"undefined in the {which}: it does not rise."
        )
        assert table["peak_shift_low"] is not None
    few = concept_depth(store(), groups="pair", **{**QUICK, "permutations": 0})
    (table,) = paired_shifts(few, [few])
    assert table["onset_depth_shift"] is None and table["onset_depth_shift_undefined"] == 1.0
    assert "two permutations" in table["reasons"]["onset_depth_shift"]
    mixed = ActivationStore.from_tensors(
        {"resid_post.0": store()["embed"][:], "mlp_out.0": store()["resid_post.3"][:]},
        store().rows,
    )
    mixed = concept_depth(mixed, **QUICK)
    (table,) = paired_shifts(mixed, [mixed])
    for m in ("jump_point", "converging_point", "onset_depth"):
        assert table[f"{m}_shift"] is None and "mix roles" in table["reasons"][f"{m}_shift"]
    assert table["peak_shift_high"] == 0.0


def test_one_group_gives_no_interval(made):
    clean = made([[1, 0]] * 5, [0, 0])
    other = made([[1, 1]] * 5, [0, 0])
    (table,) = paired_shifts(clean, [other])
    assert table["peak_shift"] == 0.5 and table["peak_shift_low"] is None
    assert "two groups" in table["reasons"]["peak_shift_low"]
    assert not clears_zero(table, "peak")  # every draw is the data: it would be a sure point


@pytest.mark.parametrize(
    ("shift", "low", "high", "clears"),
    [
        (0.2, 0.1, 0.3, True),
        (-0.2, -0.3, -0.1, True),
        (0.2, 0.0, 0.3, False),
        (0.2, -0.1, 0.3, False),
        (0.0, 0.1, 0.3, False),  # the draws move and the runs do not
        (-0.1, 0.1, 0.3, False),
        (0.2, None, None, False),
        (None, None, None, False),
    ],
)
def test_what_clears_zero(shift, low, high, clears):
    run = {"peak_shift": shift, "peak_shift_low": low, "peak_shift_high": high}
    assert clears_zero(run, "peak") is clears
    assert not clears_zero({"peak_shift": 0.5}, "peak")  # of a result without intervals


# -- what is a pair ------------------------------------------------------------------------------


def test_other_rows_folds_or_groups_are_refused(base):
    check_pair(base, concept_depth(store(onset=1, seed=1), groups="pair", **QUICK))
    swapped, regrouped, fewer = store(), store(), store(n=60)
    swapped.rows["label"] = 1 - swapped.rows["label"]
    regrouped.rows["pair"] = np.roll(regrouped.rows["pair"], 1)
    for other, options in (
        (swapped, {}),
        (regrouped, {}),
        (fewer, {}),
        (store(), {"seed": 1}),
        (store(), {"groups": None}),
    ):
        run = concept_depth(other, **{"groups": "pair", **QUICK, **options})
        with pytest.raises(DataError, match="same rows, classes, groups and folds; those of"):
            paired_shifts(base, [run])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"probe": "ridge"}, "same probe; data.label has 'logistic' in the clean run and 'ridge'"),
        ({"folds": 4}, "same folds; .* has 3 in the clean run and 4"),
        ({"strengths": 1.0}, "same strengths"),
        ({"permutations": 3}, "same permutations"),
        ({"hookpoints": NAMES[:3]}, "same hookpoints"),
        ({"positive": "0"}, "same classes"),
    ],
)
def test_other_settings_are_refused(base, options, says):
    run = concept_depth(store(), groups="pair", **{**QUICK, **options})
    with pytest.raises(ParameterError, match=says):
        paired_shifts(base, [run])


def test_a_result_without_answers_is_refused(base):
    with pytest.raises(ParameterError, match="keeps no answers of its groups"):
        paired_shifts(replace(base, hits=None), [base])


def test_a_result_from_a_file_pairs_as_it_did(base, tmp_path):
    other = concept_depth(store(onset=3, seed=4), groups="pair", **QUICK)
    again = Result.load(base.save(tmp_path / "clean.json"))
    assert again.hits.dtype == base.hits.dtype == np.uint8
    np.testing.assert_array_equal(again.hits, base.hits)
    tables = [paired_shifts(depth, [other]) for depth in (base, again)]
    assert tables[0] == tables[1]
    assert paired_shifts(base, [other], seed=1) != tables[0]  # the draws are the seed's
