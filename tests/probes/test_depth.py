import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from interp.errors import DataError, LayerNotFound, ParameterError, ShapeError
from interp.results import Result
from interp.runs import metrics
from interp.store import ActivationStore
from probes import ConceptDepth, concept_depth
from probes.curves import MORE_CURVES
from probes.onset import Null
from probes.scores import bootstrap_weights

NAMES = ("embed", *(f"resid_post.{i}" for i in range(6)))


def planted(n=200, d=20, onset=3, k=2, seed=0, groups=50, names=NAMES, **columns):
    """Activations in which a concept can be read from layer ``onset`` on."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % k)
    tensors = {}
    for i, name in enumerate(names):
        X = rng.standard_normal((n, d))
        if i > onset:
            X[np.arange(n), y] += 4.0
        tensors[name] = torch.from_numpy(X * 3 + 1).float()
    rows = {
        "text": [f"word{v}x" for v in rng.integers(0, 5, n)],
        "label": y,
        "city": rng.integers(0, groups, n),
        **columns,
    }
    data = {"name": "planted", "text_column": "text", "about": {"label": "which one?"}}
    return ActivationStore.from_tensors(tensors, pd.DataFrame(rows), data=data)


@pytest.fixture(scope="module")
def depth():
    return concept_depth(planted(), "label", "city")


def test_a_planted_concept_is_found_where_it_is(depth):
    assert (depth.accuracy[:4] < 0.62).all()
    assert (depth.accuracy[4:] > 0.95).all()
    assert (depth.auc[4:] > 0.98).all()
    assert (depth.f1[4:] > 0.95).all()
    assert (depth.accuracy_low <= depth.accuracy).all()
    assert (depth.accuracy <= depth.accuracy_high).all()
    assert depth.jump_point == pytest.approx(3 / 6)
    assert depth.jump_hookpoint == "resid_post.3"
    assert depth.converging_point == pytest.approx(5 / 6)
    assert depth.converging_hookpoint == "resid_post.4"
    assert depth.peak == depth.accuracy.max()
    assert depth.peak_hookpoint == NAMES[int(depth.accuracy.argmax())]


def test_controls_are_at_chance(depth):
    assert (np.abs(depth.shuffled - 0.5) < 0.08).all()
    assert ((depth.shuffled_low < 0.5) & (0.5 < depth.shuffled_high)).all()
    np.testing.assert_allclose(depth.selectivity, depth.accuracy - depth.shuffled)
    assert depth.majority == pytest.approx(0.5, abs=0.05)
    assert 0.35 < depth.bag_of_words < 0.65
    assert depth.bag_of_words_low < depth.bag_of_words < depth.bag_of_words_high


def test_random_labels_are_within_what_shuffled_labels_reach():
    inside = []
    for seed in range(10):
        store = planted(n=80, d=10, onset=9, seed=seed, names=("resid_post.0",))
        r = concept_depth(store, seed=seed)
        inside.append(bool(r.shuffled_low[0] <= r.accuracy[0] <= r.shuffled_high[0]))
    assert sum(inside) >= 8


def test_it_says_what_it_did(depth):
    assert (depth.n, depth.label, depth.groups, depth.n_groups) == (200, "label", "city", 48)
    assert depth.name == "planted.label"
    assert depth.about == "which one?"
    assert depth.class_counts == {"0": 100, "1": 100}
    assert depth.layers == (1, 2, 3, 4, 5, 6)
    notes = " ".join(depth.notes)
    assert "whole groups of 'city' (48 of them)" in notes
    assert "embed is on the curve and no layer" in notes
    assert "38 of 48 groups of 'city' hold more than one class" in depth.leakage
    assert depth.examples[0].keys() == {"text", "label", "city"}
    assert depth.provenance["seed"] == 0
    assert "1,000 draws over groups" in depth.interval


def test_table_metrics_and_file(depth, tmp_path):
    frame = depth.to_frame()
    assert frame["hookpoint"].tolist() == list(NAMES)
    assert frame["is_layer"].tolist() == [False] + [True] * 6
    numbers = metrics([depth])["concept_depth"]["planted.label"]
    json.dumps(numbers)
    assert numbers["accuracy"] == pytest.approx(depth.accuracy, abs=1e-6)
    assert numbers["classes"] == ["0", "1"]
    again = Result.load(depth.save(tmp_path / "r.json"))
    assert isinstance(again, ConceptDepth)
    assert again.metrics() == depth.metrics()
    assert again.notes == depth.notes


def test_two_runs_give_equal_numbers():
    store = planted(n=80, names=NAMES[:3])
    assert concept_depth(store).metrics() == concept_depth(store).metrics()
    assert concept_depth(store, seed=1).metrics() != concept_depth(store).metrics()


def test_many_classes_and_text_labels():
    store = planted(n=150, k=3, names=NAMES[:6])
    store.rows["label"] = np.array(["red", "blue", "green"])[store.rows["label"]]
    r = concept_depth(store, groups="city", permutations=3)
    assert r.classes == ("blue", "green", "red")
    assert r.accuracy[-1] > 0.9
    assert r.f1[-1] > 0.9
    assert r.auc[-1] > 0.95
    assert r.accuracy[0] < 0.5


def test_one_matrix_is_read_at_a_time(monkeypatch):
    store = planted(n=60, names=NAMES[:3])
    seen = []
    result = concept_depth(
        store, permutations=0, progress=lambda i, total, name: seen.append((i, total, name))
    )
    assert seen == [(0, 3, NAMES[0]), (1, 3, NAMES[1]), (2, 3, NAMES[2]), (3, 3, "")]
    assert np.isnan(result.shuffled).all()
    assert "no permutations" in result.reasons["selectivity"]


def test_rows_without_label_are_left_out():
    store = planted(n=80, names=NAMES[:2])
    label = store.rows["label"].astype(object)
    label.iloc[:10] = None
    store.rows["label"] = label
    store["embed"]._parts[0].tensor[3] = float("nan")  # of a row that is left out
    r = concept_depth(store)
    assert r.n == 70
    assert r.notes[0] == "10 of 80 rows have no 'label'; left out."


def test_heads_lie_side_by_side():
    store = planted(n=60, d=12, onset=-1, names=("head_out.0",))
    flat = concept_depth(store, permutations=2)
    heads = {"head_out.0": store["head_out.0"][:].view(60, 3, 4)}
    r = concept_depth(ActivationStore.from_tensors(heads, store.rows), permutations=2)
    np.testing.assert_array_equal(r.accuracy, flat.accuracy)


def test_undefined_points_have_a_reason():
    flat = concept_depth(planted(n=100, onset=-1, names=NAMES[1:4]), permutations=2)
    assert flat.jump_point is None
    assert "less than a tenth" in flat.reasons["jump_point"]
    one = concept_depth(planted(n=60, names=NAMES[:2]), permutations=2)
    assert one.converging_point is None
    assert "two layers or more; 1 of" in one.reasons["converging_point"]
    mixed = concept_depth(planted(n=60, names=("resid_post.0", "mlp_out.0")), permutations=1)
    assert "mix roles (mlp_out, resid_post)" in mixed.reasons["jump_point"]
    assert "two permutations" in mixed.reasons["shuffled_low"]


def test_no_texts_no_bag_of_words():
    store = planted(n=60, names=NAMES[:1])
    store.manifest["data"]["text_column"] = None
    r = concept_depth(store, permutations=2)
    assert r.bag_of_words is None
    assert r.reasons["bag_of_words"] == "the rows have no text."
    assert concept_depth(store, permutations=2, text_column="text").bag_of_words is not None
    store.manifest["pool"] = "all"
    store._tokens["embed"] = pd.DataFrame({"document": np.arange(60), "position": 0})
    assert "single positions" in concept_depth(store, permutations=2).reasons["bag_of_words"]


def test_a_random_split_through_known_groups_is_warned_of():
    store = planted(n=60, names=NAMES[:1], groups=10)
    store.manifest["data"]["group"] = "city"
    assert "Give groups='city'." in concept_depth(store, permutations=2).warnings[0]
    grouped = concept_depth(store, groups="city", permutations=2)
    assert grouped.warnings == ()


def test_constant_features_are_at_chance_and_noted():
    store = planted(n=60, names=NAMES[:2])
    store["embed"]._parts[0].tensor[:] = 0.5
    r = concept_depth(store, permutations=2)
    assert r.accuracy[0] <= 0.55
    assert r.auc[0] == 0.5
    assert "All rows are equal at embed" in r.warnings[0]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_activation_that_is_not_finite_is_named(value):
    store = planted(n=60, names=NAMES[:3])
    store["resid_post.0"]._parts[0].tensor[17, 2] = value
    with pytest.raises(DataError, match="row 17 at resid_post.0 are not finite"):
        concept_depth(store)


def test_settings_are_checked():
    store = planted(n=60, names=NAMES[:2])
    for options, error, match in (
        ({"hookpoints": ["resid_pots.0"]}, LayerNotFound, "did you mean 'resid_post.0'"),
        ({"hookpoints": []}, ParameterError, "empty"),
        ({"folds": 2}, ParameterError, "three folds or more"),
        ({"folds": 1}, ParameterError, "at least 2"),
        ({"strengths": 0.0}, ParameterError, "positive"),
        ({"permutations": -1}, ParameterError, "0 or more"),
        ({"text_column": "txt"}, DataError, "did you mean 'text'"),
        ({"groups": "town"}, DataError, "no column 'town'"),
        ({"groups": np.zeros(60)}, DataError, "1 group cannot"),
    ):
        with pytest.raises(error, match=match):
            concept_depth(store, **options)
    with pytest.raises(DataError, match="no column 'lable'"):
        concept_depth(store, "lable")
    with pytest.raises(DataError, match="3 rows cannot be split into 5 folds"):
        concept_depth(planted(n=3, names=NAMES[:1]))
    assert concept_depth(store, folds=2, strengths=0.1, permutations=2).strengths == (0.1,)


def test_every_score_has_its_interval(depth):
    for name in ("accuracy", "f1", "auc", "calibration_error", "selectivity"):
        low, value, high = (getattr(depth, name + end) for end in ("_low", "", "_high"))
        assert ((low <= value + 1e-9) & (value <= high + 1e-9)).all(), name
    assert (depth.f1_low < depth.f1_high)[:4].all()
    assert (depth.calibration_error < 0.25).all()


def test_depth_measures(depth):
    assert np.isnan(depth.variation_rate[:2]).all()
    np.testing.assert_allclose(depth.variation_rate[2:], depth.accuracy[2:] / depth.accuracy[1:-1])
    assert depth.converging_literal == pytest.approx(5 / 6)
    r = concept_depth(planted(seed=1), "label", "city")
    assert (r.onset_hookpoint, r.onset_depth) == ("resid_post.3", pytest.approx(3 / 6))
    assert r.onset_low <= r.onset_depth <= r.onset_high
    assert depth.probe == "logistic"
    assert depth.warnings == ()


def test_controls_on_random_features_and_a_random_model():
    store, noise = planted(), planted(onset=9, seed=1)
    noise.rows["label"] = store.rows["label"]
    r = concept_depth(store, groups="city", random_model=noise, permutations=2)
    assert (np.abs(r.random_model - 0.5) < 0.15).all()
    assert (np.abs(r.random_features - 0.5) < 0.15).all()
    assert np.ptp(r.random_features) == 0  # one width, one draw
    assert (r.random_model_low <= r.random_model).all()
    assert (r.random_features_high >= r.random_features).all()
    assert r.accuracy[-1] > r.random_model_high[-1]
    same = concept_depth(store, groups="city", random_model=store, permutations=0)
    np.testing.assert_array_equal(same.random_model, same.accuracy)
    without = concept_depth(store, permutations=0, random_features=False)
    assert without.random_features is None
    assert without.random_model is None
    assert "no store of a random" in without.reasons["random_model"]


def test_a_random_model_of_other_rows_is_refused():
    store = planted(n=60, names=NAMES[:2])
    with pytest.raises(ShapeError, match="has 50 rows and the store 60"):
        concept_depth(store, random_model=planted(n=50, names=NAMES[:2]))
    with pytest.raises(LayerNotFound, match="no hook point 'resid_post.0'"):
        concept_depth(store, random_model=planted(n=60, names=NAMES[:1]))
    with pytest.raises(DataError, match="other values of 'label'"):
        concept_depth(store, random_model=planted(n=60, names=NAMES[:2], seed=1))


@pytest.mark.parametrize(
    "probe", ["logistic", "ridge", "lda", "difference_of_means", "nearest_centroid"]
)
def test_every_linear_probe_finds_it_and_points_to_it(probe):
    store = planted(names=NAMES[:6])
    r = concept_depth(store, groups="city", probe=probe, permutations=5)
    assert r.accuracy[-1] > 0.9
    assert (r.accuracy[:3] < 0.65).all()
    assert r.onset_hookpoint == "resid_post.3"
    v = r.direction("resid_post.4")
    assert v.dtype == torch.float32
    assert float(v.norm()) == pytest.approx(1)
    torch.testing.assert_close(v, r.direction(-1))
    torch.testing.assert_close(-v, r.direction(4, class_="0"))
    # Feature 1 is raised in class 1 and feature 0 in class 0.
    assert v[1] > 0.4 and v[0] < -0.4
    assert np.isnan(r.calibration_error).all() == (probe in ("ridge", "nearest_centroid"))
    if probe in ("ridge", "nearest_centroid"):
        assert probe in r.reasons["calibration_error"]
    assert np.isnan(r.strength).all() == (probe in ("difference_of_means", "nearest_centroid"))
    json.dumps(r.metrics(), allow_nan=False)


def test_directions_are_in_the_activations_own_units():
    store = planted(n=300, onset=-1, names=("resid_post.0",))
    scaled = {"resid_post.0": store["resid_post.0"][:] * torch.linspace(0.1, 10, 20)}
    one = concept_depth(store, permutations=0)
    other = concept_depth(ActivationStore.from_tensors(scaled, store.rows), permutations=0)
    x, z = store["resid_post.0"][:], scaled["resid_post.0"]
    a = x @ torch.from_numpy(one.directions["resid_post.0"][0])
    b = z @ torch.from_numpy(other.directions["resid_post.0"][0])
    torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)  # the same scores of the same rows


def test_direction_says_what_it_needs():
    many = concept_depth(planted(n=150, k=3, names=NAMES[:5]), permutations=0)
    assert many.direction(3, class_="2").shape == (20,)
    for where, options, error, match in (
        (3, {}, ParameterError, "3 classes and a direction for each; give class_= one of 0, 1, 2"),
        (3, {"class_": "x"}, ParameterError, "one of 0, 1, 2; got 'x'"),
        (9, {}, LayerNotFound, "4 layers, 0 to 3; got 9"),
        ("resid_pst.1", {}, LayerNotFound, "did you mean 'resid_post.1'"),
    ):
        with pytest.raises(error, match=match):
            many.direction(where, **options)
    store = planted(n=60, names=NAMES[:2])
    store["embed"]._parts[0].tensor[:] = 0.5
    with pytest.raises(ParameterError, match="coefficients of 0 and so no direction"):
        concept_depth(store, permutations=0).direction("embed")


def test_results_saved_before_load(depth, tmp_path):
    path = depth.save(tmp_path / "r.json")
    document = json.loads(path.read_text())
    later = ("probe", "directions", "hits", "group_sizes", "null_spread", "rows_hash")
    new = [k for k in document["fields"] if k in (*MORE_CURVES, *later)]
    for name in new:
        del document["fields"][name]
    path.write_text(json.dumps(document))
    old = Result.load(path)
    assert old.f1_low is None and old.hits is None
    assert old.metrics()["f1_low"] is None
    assert "f1_low" not in old.to_frame()
    assert "f1_low" in depth.to_frame()


def test_hits_are_the_answers_behind_the_curve(depth, tmp_path):
    assert depth.hits.shape == (7, 48) and depth.group_sizes.sum() == depth.n
    assert depth.hits.dtype == depth.group_sizes.dtype == np.uint8
    assert (depth.hits <= depth.group_sizes).all() and (depth.hits < depth.group_sizes).any()
    np.testing.assert_array_equal(depth.hits.sum(1) / depth.n, depth.accuracy)
    # The interval of accuracy is that of these groups, and of no others.
    weights = bootstrap_weights(np.arange(48), draws=1000, seed=0)
    ends = np.quantile((weights @ depth.hits[4]) / (weights @ depth.group_sizes), [0.025, 0.975])
    np.testing.assert_allclose(ends, [depth.accuracy_low[4], depth.accuracy_high[4]], rtol=1e-6)
    null = Null(depth.shuffled, depth.null_spread, depth.permutations - 1)
    np.testing.assert_array_equal(null.p_values(depth.accuracy), depth.p_value)
    again = Result.load(depth.save(tmp_path / "r.json"))
    for name in ("hits", "group_sizes", "null_spread"):
        np.testing.assert_array_equal(getattr(again, name), getattr(depth, name))
        assert getattr(again, name).dtype == getattr(depth, name).dtype
    assert again.rows_hash == depth.rows_hash


def test_without_groups_a_row_is_its_own():
    store = planted(n=60, names=NAMES[:2])
    r = concept_depth(store, permutations=0)
    assert r.hits.shape == (2, 60) and set(r.group_sizes) == {1}
    assert np.isnan(r.null_spread).all()
    split = concept_depth(store, mode="released_code", permutations=2)
    assert split.group_sizes.sum() == split.hits.shape[1] == 24  # only test rows have an answer
    np.testing.assert_array_equal(split.hits.mean(1), split.accuracy)


def test_the_rows_hash_is_that_of_rows_labels_groups_and_folds():
    store = planted(n=60, names=NAMES[:2])
    quick = {"groups": "city", "permutations": 0, "strengths": 1.0, "random_features": False}
    first = concept_depth(store, **quick)
    other = planted(n=60, names=NAMES[:3], seed=1)
    other.rows[:] = store.rows
    for same in (store, other):  # what is read at them does not count
        r = concept_depth(same, **{**quick, "permutations": 2, "probe": "ridge"})
        assert r.rows_hash == first.rows_hash
    missing, moved = (planted(n=60, names=NAMES[:2]) for _ in range(2))
    missing.rows["label"] = missing.rows["label"].astype(object).where(np.arange(60) > 0, None)
    moved.rows["city"] = np.arange(60)
    for changed, options in (
        (missing, {}),
        (moved, {}),
        (store, {"seed": 1}),
        (store, {"folds": 4}),
        (store, {"positive": "0"}),
        (store, {"mode": "released_code"}),
    ):
        r = concept_depth(changed, **{**quick, **options})
        assert r.rows_hash != first.rows_hash, options


def test_hits_of_a_large_result_take_little_room(depth, tmp_path):
    wide = replace(depth, hits=np.ones((50, 20_000), np.uint8), group_sizes=np.ones(20_000, "u1"))
    more = wide.save(tmp_path / "w.json").stat().st_size
    less = replace(wide, hits=None, group_sizes=None).save(tmp_path / "r.json").stat().st_size
    assert more - less < 1.4e6  # a byte each, as text


def test_directions_and_warnings_survive_a_file(depth, tmp_path):
    again = Result.load(depth.save(tmp_path / "r.json"))
    torch.testing.assert_close(again.direction(-1), depth.direction(-1))
    assert again.warnings == depth.warnings


def test_weights_of_rows_and_classes():
    store = planted(n=120, names=NAMES[:5])
    zero = np.ones(120)
    zero[:30] = 0
    store.rows["weight"] = zero
    wrong = store["resid_post.3"]._parts[0].tensor
    wrong[:30] = wrong[:30].flip(1) * 9  # rows of no weight teach nothing
    kept = concept_depth(store, sample_weight="weight", permutations=2)
    assert "sample weights" in " ".join(kept.notes)
    assert kept.accuracy[4] > concept_depth(store, permutations=2).accuracy[4] - 0.02
    equal = concept_depth(store, sample_weight=np.full(120, 1.0), permutations=2)
    plain = concept_depth(store, permutations=2)
    np.testing.assert_allclose(equal.accuracy, plain.accuracy, atol=0.02)
    rare = planted(n=120, names=NAMES[:2])
    rare.rows["label"] = (np.arange(120) % 6 == 0).astype(int)
    plain, even = (concept_depth(rare, class_weight=w, permutations=0) for w in (None, "balanced"))
    assert even.f1[0] > plain.f1[0]  # answers the rare class now
    heavy = concept_depth(rare, class_weight={1: 5.0, 0: 1.0}, permutations=0)
    assert heavy.f1[0] > plain.f1[0]
    for options, error, match in (
        ({"sample_weight": "wieght"}, DataError, "no column 'wieght' for the sample weights"),
        ({"sample_weight": np.ones(7)}, ShapeError, "one entry a row; got 7 for 120"),
        ({"sample_weight": -np.ones(120)}, DataError, "0 or more"),
        ({"sample_weight": store.rows["label"]}, DataError, "class '0' has no weight"),
        ({"class_weight": "even"}, ParameterError, "'balanced' or a dict; got 'even'"),
        ({"class_weight": {"x": 1.0}}, ParameterError, "each of 0, 1 a positive number"),
    ):
        with pytest.raises(error, match=match):
            concept_depth(store, permutations=0, **options)


def tokens(n_documents=40, length=6, seed=0, **columns):
    """A store of single positions; the label can be read, and texts have a mark of their own."""
    rng = np.random.default_rng(seed)
    document = np.repeat(np.arange(n_documents), length)
    position = np.tile(np.arange(length), n_documents)
    of_text = rng.integers(0, 2, n_documents)
    label = rng.integers(0, 2, (n_documents, length))
    X = rng.standard_normal((len(document), 30))
    X[:, 0] += 5 * label.reshape(-1)
    X[:, 1:] += 3 * rng.standard_normal((n_documents, 29))[document]
    rows = pd.DataFrame({"topic": of_text, "keyword": list(label), **columns})
    store = ActivationStore.from_tensors({"resid_post.0": torch.from_numpy(X)}, pool="all")
    store._documents = rows
    store._tokens["resid_post.0"] = pd.DataFrame({"document": document, "position": position})
    return store


def test_a_label_for_each_token():
    r = concept_depth(tokens(), "keyword", permutations=2)
    assert r.n == 240
    assert r.accuracy[0] > 0.9
    assert (r.groups, r.n_groups) == ("document", 40)
    assert r.warnings == ()
    assert "single positions" in r.reasons["bag_of_words"]
    store = tokens()
    sparse = [list(v) for v in store._documents["keyword"]]
    sparse[0] = [None] * 6
    sparse[1][2] = None
    sparse[2] = None
    store._documents["keyword"] = pd.Series(sparse, dtype=object)
    assert concept_depth(store, "keyword", permutations=0).n == 240 - 6 - 1 - 6
    sparse[3] = [1]
    short = tokens()
    short._documents["keyword"] = pd.Series(sparse, dtype=object)
    with pytest.raises(DataError, match="has 1 entries for the document of row 19"):
        concept_depth(short, "keyword", permutations=0)


def test_tokens_of_a_text_are_kept_together_unless_told_otherwise():
    together = concept_depth(tokens(), "topic", permutations=0)
    apart = concept_depth(tokens(), "topic", groups=False, permutations=0)
    assert together.accuracy[0] < 0.65
    assert apart.accuracy[0] > 0.75  # it knows the texts again
    assert "tokens of 40 of 40 documents are in training and test" in apart.warnings[0].lower()
    assert apart.groups is None


def test_a_class_missing_from_a_fold_and_very_few_rows():
    store = planted(n=60, names=NAMES[:2])
    store.rows["label"] = (np.arange(60) >= 57).astype(int)
    r = concept_depth(store, permutations=2)  # three of a class in five folds
    assert np.isfinite(r.auc).all()
    assert r.majority == pytest.approx(0.95)
    three = planted(n=3, names=NAMES[:1])
    for options in ({"folds": 2, "strengths": 1.0}, {"folds": 3, "strengths": 1.0}):
        with pytest.raises(DataError, match="class . has only one row"):
            concept_depth(three, **options)
    four = concept_depth(planted(n=4, names=NAMES[:1]), folds=2, strengths=1.0, permutations=3)
    assert 0 <= four.accuracy[0] <= 1
    assert four.onset_depth is None
