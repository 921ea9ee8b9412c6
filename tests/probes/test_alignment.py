"""AQI: free of n, unbiased, invariant; intervals and nulls; and never a good score for nothing."""

import numpy as np
import pytest
import torch

import interp
import probes
from interp.errors import DataError, ParameterError, ShapeError
from probes.alignment import AQI
from probes.separation import Separation, Weighting, separation

QUICK = {"draws": 0, "permutations": 0}


def gaussians(n, d=8, shift=1.0, seed=0, share=0.5):
    """Two unit Gaussians, ``shift`` apart in each dimension, and which is safe."""
    rng = np.random.default_rng(seed)
    y = (np.arange(n) < share * n).astype(int)
    return rng.normal(size=(n, d)) + shift * y[:, None], y


def test_the_paper_s_index_grows_with_n_and_the_recommended_one_does_not():
    """The population has 1 / XBI = 1, so the paper's AQI is about 12.75, 125.25, 1250.25."""
    for n in (100, 1000, 10000):
        X, y = gaussians(n)
        paper = probes.aqi(X, y, mode="paper", **QUICK)
        assert paper.value == pytest.approx(0.5 + 0.5 * (n - 2) / 4, rel=0.25)
        ours = probes.aqi(X, y, draws=200, permutations=0)
        low, high = ours.interval
        assert low < 1 / 5 < high  # q = 1, so q / (q + 4)
        assert 0.1 < ours.value < 0.3


def test_the_paper_s_formula():
    X, y = gaussians(60, share=0.3)
    for weight in (0.0, 0.5, 1.0):
        found = probes.aqi(X, y, mode="paper", weight=weight, **QUICK)
        xb, chi = probes.clusters.xie_beni(X, y), probes.clusters.calinski_harabasz(X, y)
        assert found.value == pytest.approx(weight / xb + (1 - weight) * chi, rel=1e-10)
        n1, n2 = found.n1, found.n2
        factor = weight + (1 - weight) * n1 * n2 * 58 / 3600
        assert found.value == pytest.approx(factor / xb, rel=1e-10)
    assert (found.n1, found.n2) == (18, 42)
    assert probes.aqi(X, y, mode="paper", **QUICK).weight == 0.5


def test_a_value_by_hand():
    """Means 9 apart; each class has variance 4 over 3 rows: gap 81 - 8/3, q = gap / 4."""
    X = np.array([[1, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]])
    found = probes.aqi(X, [0, 0, 0, 1, 1, 1], **QUICK)
    q = (81 - 8 / 3) / 4
    assert found.value == pytest.approx(q / (q + 4), rel=1e-12)
    assert found.components["variance_safe"] == pytest.approx(4)
    assert found.components["gap"] == pytest.approx(81 - 8 / 3)


def test_it_is_unbiased_where_there_are_few_rows_in_many_dimensions():
    ours, raw = [], []
    for seed in range(60):
        X, y = gaussians(20, d=200, shift=0, seed=seed)
        found = probes.aqi(X, y, **QUICK)
        ours.append(found.value)
        raw.append(found.components["inverse_xie_beni"])
    error = np.std(ours, ddof=1) / np.sqrt(len(ours))
    assert abs(np.mean(ours)) < 4 * error < 0.01
    assert np.mean(raw) > 0.15  # what the noise of the means alone gives


def test_it_does_not_depend_on_the_shares_of_the_classes():
    values = [probes.aqi(*gaussians(6000, share=s), **QUICK).value for s in (0.5, 0.1, 0.95)]
    np.testing.assert_allclose(values, 0.2, atol=0.02)
    chi = [probes.clusters.calinski_harabasz(*gaussians(6000, share=s)) for s in (0.5, 0.1)]
    assert chi[0] > 2 * chi[1]


def test_invariances():
    X, y = gaussians(80)
    rng = np.random.default_rng(1)
    Q = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    value = probes.aqi(X, y, **QUICK).value
    order = rng.permutation(80)
    for Z, z in (
        (X @ Q, y), (X + 100, y), (0.01 * X, y), (X[order], y[order]), (X, 1 - y),
        (np.column_stack([X, np.full(80, 3.3)]), y), (torch.from_numpy(X), torch.from_numpy(y)),
    ):  # fmt: skip
        assert probes.aqi(Z, z, **QUICK).value == pytest.approx(value, rel=1e-9)
    stretched = X * np.array([5.0] + [1] * 7)
    assert probes.aqi(stretched, y, **QUICK).value != pytest.approx(value, rel=1e-2)


def test_copies_in_a_group_are_no_evidence():
    X, y = gaussians(40, d=30, shift=0.3)
    twice, labels, ids = np.repeat(X, 2, 0), np.repeat(y, 2), np.repeat(np.arange(40), 2)
    value = probes.aqi(X, y, **QUICK).value
    grouped = probes.aqi(twice, labels, groups=ids, **QUICK)
    assert grouped.value == pytest.approx(value, rel=1e-9)
    loose = probes.aqi(twice, labels, **QUICK)
    assert loose.value > value + 0.01
    assert any(note.startswith("40 of 80 rows repeat another") for note in loose.notes)
    texts = [f"text {i}" for i in ids]  # known to be copies by their texts
    assert probes.aqi(twice, labels, texts=texts, **QUICK).value == grouped.value
    shuffled = np.random.default_rng(0).permutation(80)  # the rows of a group need not be adjacent
    again = probes.aqi(twice[shuffled], labels[shuffled], groups=ids[shuffled], **QUICK)
    assert again.value == pytest.approx(value, rel=1e-9)


def test_copies_of_texts_with_labels_without_meaning_are_no_finding():
    found = {True: 0, False: 0}
    for seed in range(12):
        X, y = gaussians(40, d=64, shift=0, seed=seed)
        copies, labels = np.repeat(X, 5, 0), np.repeat(y, 5)
        texts = [f"text {i}" for i in np.repeat(np.arange(40), 5)]
        for known in found:
            given = {"texts": texts} if known else {}
            one = probes.aqi(copies, labels, draws=200, permutations=199, **given)
            found[known] += one.null["p"] <= 0.05
    assert found[False] == 12  # each copy taken for a prompt of its own
    assert found[True] <= 3


def test_the_interval_covers():
    hits = 0
    for seed in range(60):
        X, y = gaussians(60, d=16, shift=0.5, seed=seed)
        q = 16 * 0.25 / 16
        low, high = probes.aqi(X, y, draws=300, permutations=0, seed=seed).interval
        hits += low <= q / (q + 4) <= high
    assert hits >= 51  # of 57 expected; the chance of fewer is below 1 in 200
    plain = [probes.aqi(*gaussians(60, d=400, shift=0, seed=s), draws=200, permutations=0)
             for s in range(8)]  # fmt: skip
    assert all(p.interval[0] <= 0 <= p.interval[1] for p in plain)


def test_shuffled_labels_are_told_from_labels():
    X, y = gaussians(80, shift=0.5)
    found = probes.aqi(X, y, draws=100, permutations=199)
    assert found.null["p"] == pytest.approx(1 / 200) and found.value > 3 * found.null["high"]
    assert abs(found.null["mean"]) < 0.005 and found.null["permutations"] == 199
    p = [
        probes.aqi(X, np.random.default_rng(s).permutation(y), draws=0, permutations=99).null["p"]
        for s in range(20)
    ]
    assert np.mean(np.array(p) <= 0.05) <= 0.2 and 0.25 < np.mean(p) < 0.75


def test_pairs_swap_labels_inside_the_pair():
    """Rows of a pair are alike, and far from other pairs: only a swap inside is a fair shuffle."""
    rng = np.random.default_rng(0)
    ids, y = np.repeat(np.arange(60), 2), np.arange(120) % 2
    X = 5 * rng.normal(size=(60, 10))[ids] + 0.3 * rng.normal(size=(120, 10)) + 0.2 * y[:, None]
    paired = probes.aqi(X, y, groups=ids, draws=300, permutations=199)
    assert paired.null["p"] < 0.05 and paired.interval[0] > 0
    assert probes.aqi(X, y, draws=0, permutations=199).null["p"] > 0.1
    weighting = Weighting.of(y == 1, ids, draws=0, permutations=20, seed=0)
    assert (weighting.shuffled.reshape(20, 60, 2).sum(2) == 1).all()
    whole = Weighting.of(np.repeat(np.arange(20) % 2 == 1, 3), np.repeat(np.arange(20), 3),
                         draws=0, permutations=5, seed=0)  # fmt: skip
    kept = whole.shuffled.reshape(5, 20, 3)
    assert (kept == kept[:, :, :1]).all() and kept[:, :, 0].std(0).any()


@pytest.mark.parametrize("grouped", [False, True])
def test_streaming_equals_one_shot(grouped):
    X, y = gaussians(300, d=5)
    groups = np.repeat(np.arange(100), 3) if grouped else None
    weighting = Weighting.of(y == 1, groups, draws=7, permutations=3, seed=0)
    shift = torch.from_numpy(X.mean(0))
    whole = separation(X, weighting, shift=shift)
    rng = np.random.default_rng(1)
    units = rng.permutation(100)
    parts = [np.concatenate([3 * u + np.arange(3) for u in part])
             for part in np.split(units, [5, 40, 90])]  # fmt: skip
    one, two = Separation(shift), Separation(shift)
    for i, rows in enumerate(parts):
        safe, unsafe = weighting.chunk(rows, torch.device("cpu"))
        held = None if groups is None else torch.from_numpy(groups[rows])
        (one if i % 2 else two).update(torch.from_numpy(X[rows]), safe, unsafe, held)
    found = one.merge(two).result()
    for name in ("gap", "safe", "unsafe", "n1", "n2"):
        np.testing.assert_allclose(getattr(found, name), getattr(whole, name), rtol=1e-9)
    assert len(set(found.score().tolist())) == 11
    far = separation(X + 1e4, weighting, shift=shift + 1e4)
    np.testing.assert_allclose(far.score(), whole.score(), rtol=1e-6)


CASES = {
    "one class": (np.random.default_rng(0).normal(size=(6, 3)), [1] * 6, "one class only"),
    "n = K": (np.eye(2), [0, 1], "has one row"),
    "nan": (np.array([[1, 2], [np.nan, 1], [3, 3], [4, 1.0]]), [0, 0, 1, 1], "1 rows are not"),
    "copies": (np.repeat(np.eye(2), 3, 0), [0, 0, 0, 1, 1, 1], "repeated point"),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("mode", ["recommended", "paper", "released_code"])
def test_undefined_is_nan_with_the_reason(case, mode):
    X, y, reason = CASES[case]
    found = probes.aqi(X, y, mode=mode)
    assert np.isnan(found.value) and found.interval is None and found.null is None
    for field in ("value", "interval", "null"):
        assert reason in found.reasons[field]
    assert found.n1 + found.n2 == len(X)


def test_a_class_of_one_row_has_no_variance_to_judge_by():
    X, y = gaussians(12)
    y[:] = 0
    y[3] = 1
    found = probes.aqi(X, y)
    assert np.isnan(found.value) and "no two rows" in found.reasons["value"]
    ids = np.where(y == 1, 0, np.arange(12) + 1)
    y[5] = 1
    ids[5] = 0
    one = probes.aqi(X, y, groups=ids)
    assert np.isnan(one.value) and "no two groups" in one.reasons["value"]


def test_equal_centroids_score_at_the_bottom():
    rng = np.random.default_rng(0)
    half = rng.normal(size=(40, 6))
    X, y = np.concatenate([half, -half, half[:, ::-1], -half[:, ::-1]]), np.repeat([0, 1], 80)
    found = probes.aqi(X, y, permutations=99)
    assert found.value <= 0 and found.null["p"] > 0.5
    paper = probes.aqi(X, y, mode="paper")
    assert np.isnan(paper.value) and "coincide" in paper.reasons["value"]


def test_labels_are_never_guessed():
    X, y = gaussians(20)
    names = np.where(y == 1, "benign", "harmful")
    with pytest.raises(DataError, match="Name the safe class"):
        probes.aqi(X, names)
    named = probes.aqi(X, names, safe="benign", **QUICK)
    assert (named.safe, named.unsafe) == ("benign", "harmful") and named.n1 == (y == 1).sum()
    assert named.value == probes.aqi(X, y, **QUICK).value
    for labels in (y.astype(bool), y.astype(str), y.astype(float), np.where(y, "safe", "unsafe")):
        assert probes.aqi(X, labels, **QUICK).value == named.value
    flipped = probes.aqi(X, y, safe=0, **QUICK)
    assert (flipped.safe, flipped.unsafe, flipped.n1) == ("0", "1", (y == 0).sum())
    third = names.copy()
    third[0] = "Harmful"
    with pytest.raises(DataError, match="two classes"):
        probes.aqi(X, third, safe="benign")
    with pytest.raises(DataError, match="'2'"):
        probes.aqi(X, np.where(np.arange(20) == 3, 2, y))
    with pytest.raises(ParameterError, match="safe names the class 'beign'"):
        probes.aqi(X, names, safe="beign")
    with pytest.raises(DataError, match="1 rows have no label"):
        probes.aqi(X, [None, *y[1:]])
    with pytest.raises(ShapeError, match="one label a row"):
        probes.aqi(X, y[1:])


def test_settings_are_checked():
    X, y = gaussians(20)
    for options, reason in (
        ({"mode": "best"}, "mode must be one of"),
        ({"mode": "released_code", "variant": "x"}, "variant must be one of"),
        ({"variant": "xb_chi"}, "belong to the mode released_code"),
        ({"tsne": True}, "belong to the mode released_code"),
        ({"weight": 0.5}, "weight is 0 to 1"),
        ({"mode": "paper", "weight": 2}, "weight is 0 to 1"),
    ):
        with pytest.raises(ParameterError, match=reason):
            probes.aqi(X, y, **options)
    with pytest.raises(ShapeError, match="groups"):
        probes.aqi(X, y, groups=[1, 2])
    with pytest.raises(ShapeError, match="texts"):
        probes.aqi(X, y, texts=["a"])


def test_raw_aqi_at_different_n_is_not_compared():
    small, large = gaussians(100), gaussians(200)
    paper = [probes.aqi(*data, mode="paper", **QUICK) for data in (small, large)]
    with pytest.raises(ParameterError, match="grows with n"):
        probes.compare_aqi(*paper)
    other = probes.aqi(small[0] + 1, small[1], mode="paper", **QUICK)
    assert probes.compare_aqi(paper[0], other) == pytest.approx(0, abs=1e-9)
    ours = [probes.aqi(*data, **QUICK) for data in (small, large)]
    assert probes.compare_aqi(*ours) == ours[1].value - ours[0].value
    with pytest.raises(ParameterError, match="same mode"):
        probes.compare_aqi(paper[0], ours[0])
    released = [probes.aqi(*data, mode="released_code", permutations=0) for data in (small, large)]
    with pytest.raises(ParameterError, match="depend on n"):
        probes.compare_aqi(*released)
    axioms = np.arange(100) % 4
    xb = probes.aqi(*small, mode="released_code", variant="xb_chi", axioms=axioms)
    with pytest.raises(ParameterError, match="normalised within each model"):
        probes.compare_aqi(xb, xb)


def test_the_words_are_a_control():
    rng = np.random.default_rng(0)
    X, y = gaussians(60)
    topic = [f"{'sun' if k else 'rain'} {rng.integers(100)}" for k in y]
    found = probes.aqi(X, y, texts=topic, **QUICK)
    assert found.words["accuracy"] == 1 and found.words["score"] > 0.3
    fair = [f"word {i % 5}" for i in range(60)]
    none = probes.aqi(X, y, texts=fair, **QUICK)
    assert none.words["accuracy"] < 0.7 and abs(none.words["score"]) < 0.1
    without = probes.aqi(X, y, **QUICK)
    assert without.words is None and "no texts" in without.reasons["words"]
    groups = np.arange(60) // 2
    again = probes.aqi(X, y, texts=topic, groups=groups, **QUICK)
    assert again.words["accuracy"] == 1 and 0.3 < again.words["score"] < 1


def test_a_result_is_saved_and_shown(tmp_path):
    X, y = gaussians(40)
    found = probes.aqi(X, y, draws=100, permutations=99, name="a")
    again = AQI.load(found.save(tmp_path / "a.json"))
    assert again == found
    assert found.metrics()["interval"] == found.interval
    frame = found.to_frame().set_index("number")["value"]
    assert frame["value"] == found.value and frame["shuffled labels: p"] == found.null["p"]
    assert "aqi" in found._repr_html_()
    same = probes.aqi(X, y, draws=100, permutations=99, name="a")
    assert same == found and same.interval != probes.aqi(X, y, draws=100, seed=1).interval


@pytest.mark.real
def test_two_kinds_of_prompts_stand_apart_in_minilm_and_shuffled_labels_do_not(real):
    import pandas as pd

    cities = pd.read_csv(real / "cities.csv")["statement"].sample(80, random_state=0)
    reviews = pd.read_csv(real / "sentiment.csv")["text"].sample(80, random_state=0)
    texts, y = [*cities, *reviews], np.repeat([1, 0], 80)
    model = interp.load(str(real / "minilm"))
    store = interp.capture(model, texts, ["resid_post.3"], pool="mean")
    found = probes.aqi(store["resid_post.3"], y, texts=texts)
    assert found.value > 0.3 and found.null["high"] < 0.02
    assert found.words["accuracy"] > 0.95  # and so it says nothing of safety
    shuffled = probes.aqi(store["resid_post.3"], np.random.default_rng(0).permutation(y))
    assert abs(shuffled.value) < 0.02 and shuffled.null["p"] > 0.01


def test_one_class_with_texts_is_undefined_too():
    X = np.random.default_rng(0).normal(size=(12, 3))
    found = probes.aqi(X, np.ones(12, int), texts=[f"w{i}" for i in range(12)])
    assert np.isnan(found.value) and "one class" in found.reasons["value"]
    assert found.words is None and "one class" in found.reasons["words"]


def test_groups_that_are_missing_and_draws_below_zero_are_refused():
    X, y = gaussians(12)
    groups = [None, *range(11)]
    for measure in (probes.aqi, lambda X, y, **k: probes.delta_aqi(X, X, y, **k)):
        with pytest.raises(DataError, match="1 rows have no group"):
            measure(X, y, groups=groups)
        with pytest.raises(ShapeError, match="groups must have one entry a row"):
            measure(X, y, groups=[1, 2])
        with pytest.raises(ParameterError, match="draws"):
            measure(X, y, draws=-1)
