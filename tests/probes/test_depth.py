import json

import numpy as np
import pandas as pd
import pytest
import torch

from interp.errors import DataError, LayerNotFound, ParameterError
from interp.results import Result
from interp.runs import metrics
from interp.store import ActivationStore
from probes import ConceptDepth, concept_depth

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
