import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score

from interp.errors import DataError, ParameterError
from interp.store import ActivationStore
from probes import concept_depth, released_split


def published(**manifest):
    """The published check: 200 rows, of which the second half is shifted in the first feature."""
    X = np.random.RandomState(0).randn(200, 16)
    X[100:, 0] += 1.0
    table = pd.DataFrame({"label": np.repeat([0, 1], 100), "pair": np.arange(200) % 100})
    tensors = {f"mlp_in.{i}": torch.from_numpy(X) for i in range(2)}
    tensors["resid_post.0"] = torch.from_numpy(X[:, ::-1].copy())
    return ActivationStore.from_tensors(tensors, table, **manifest)


@pytest.mark.parametrize("mode", ["released_code", "paper"])
def test_the_released_recipe_gives_the_published_numbers(mode):
    r = concept_depth(published(), mode=mode, permutations=2)
    assert r.mode == mode
    assert r.hookpoints == ("mlp_in.0", "mlp_in.1")  # found by role
    np.testing.assert_allclose(r.accuracy, 0.5875)
    np.testing.assert_allclose(r.f1, 0.571429, atol=5e-7)
    np.testing.assert_allclose(r.auc, 0.661250, atol=5e-7)
    assert r.directions["mlp_in.0"][0, 0] == pytest.approx(1.14448, abs=5e-6)
    assert "tests on 80, of which 40 are '1'" in " ".join(r.notes)
    assert "not scaled" in " ".join(r.notes)
    assert (r.folds, r.n, r.warnings) == (1, 200, ())
    assert r.majority == pytest.approx(0.5)
    recommended = concept_depth(published(), hookpoints="mlp_in.0", permutations=2)
    assert abs(recommended.accuracy[0] - 0.5875) > 0.01  # another recipe, other numbers


def test_rows_stand_class_by_class_whatever_their_order():
    store = published()
    order = np.random.default_rng(0).permutation(200)
    # Within a class the order is the table's.
    order = np.concatenate([np.sort(order[order >= 100]), np.sort(order[order < 100])])
    mixed = ActivationStore.from_tensors(
        {"mlp_in.0": store["mlp_in.0"][order]}, store.rows.iloc[order]
    )
    r = concept_depth(mixed, mode="released_code", permutations=0)
    assert r.auc[0] == pytest.approx(0.661250, abs=5e-7)


def test_the_label_direction_is_the_callers():
    plain = concept_depth(published(), mode="released_code", permutations=0)
    turned = concept_depth(published(), mode="released_code", permutations=0, positive="0")
    assert turned.classes == ("1", "0")
    assert "Class '0' counts as 1" in " ".join(turned.notes)
    assert (turned.f1 != plain.f1).all()
    both = [concept_depth(published(), permutations=0, positive=p) for p in ("0", "1")]
    np.testing.assert_allclose(both[0].auc, both[1].auc, atol=1e-3)
    with pytest.raises(ParameterError, match="one of two classes; got 'yes' for 0, 1"):
        concept_depth(published(), positive="yes")


def test_the_random_forest_is_the_released_one():
    r = concept_depth(
        published(), mode="released_code", probe="random_forest", permutations=0,
        random_features=False, hookpoints="mlp_in.0",
    )  # fmt: skip
    X = published()["mlp_in.0"][:].numpy()
    y, (train, test) = np.repeat([0, 1], 100), released_split(200)
    forest = RandomForestClassifier(random_state=42).fit(X[train], y[train])
    assert r.accuracy[0] == forest.score(X[test], y[test])
    assert r.auc[0] == pytest.approx(roc_auc_score(y[test], forest.predict_proba(X[test])[:, 1]))
    with pytest.raises(ParameterError, match=r"no direction at mlp_in.0 \(probe random_forest\)"):
        r.direction("mlp_in.0")


def test_a_forest_can_be_cross_validated():
    store = published()
    r = concept_depth(
        store, groups="pair", probe="random_forest", permutations=0, folds=3,
        random_features=False, hookpoints="mlp_in.0",
    )  # fmt: skip
    assert 0.5 < r.accuracy[0] < 0.85
    assert r.folds == 3
    assert np.isnan(r.strength).all()


def test_the_split_is_warned_of():
    r = concept_depth(published(), groups="pair", mode="released_code", permutations=0)
    assert "The split separates the matched rows of" in r.warnings[0]
    assert "of 100 groups of 'pair'" in r.warnings[0]
    known = concept_depth(
        published(data={"name": "d", "group": "pair"}), mode="released_code", permutations=0
    )
    assert "separates the matched rows" in known.warnings[0]
    residual = concept_depth(
        published(), hookpoints="resid_post.0", mode="released_code", permutations=0
    )
    assert "norm before the MLP" in residual.warnings[0]


def test_shuffled_labels_go_through_the_same_recipe():
    r = concept_depth(published(), mode="released_code", permutations=10)
    assert abs(r.shuffled[0] - 0.5) < 0.1
    assert r.onset_hookpoint in (None, "mlp_in.0")
    assert 0.3 < r.random_features[0] < 0.7


def test_an_unfinished_fit_is_read_and_said():
    X = np.random.default_rng(0).standard_normal((300, 80)) * 10.0 ** np.linspace(-2, 4, 80)
    y = (X[:, 0] > 0).astype(int)
    store = ActivationStore.from_tensors({"mlp_in.0": torch.from_numpy(X)}, {"label": y})
    r = concept_depth(store, mode="released_code", permutations=0)
    assert "stopped before the optimum" in r.warnings[-1]


def test_refuses_what_the_recipe_does_not_have():
    for options, match in (
        ({"mode": "released"}, "mode must be one of recommended, released_code, paper"),
        ({"probe": "svm"}, "probe must be one of logistic"),
        ({"mode": "paper", "probe": "lda"}, "has the probes logistic and random_forest"),
    ):
        with pytest.raises(ParameterError, match=match):
            concept_depth(published(), **options)
    tiny = ActivationStore.from_tensors({"mlp_in.0": torch.eye(3)}, {"label": [0, 1, 1]})
    with pytest.raises(DataError, match="3 rows are too few for the released split"):
        concept_depth(tiny, mode="released_code")
    lone = ActivationStore.from_tensors({"mlp_in.0": torch.eye(10)}, {"label": [0] * 9 + [1]})
    train = released_split(10)[0]
    if 9 in train:
        assert concept_depth(lone, mode="released_code", permutations=0).reasons["auc"]
    else:
        with pytest.raises(DataError, match="class '1' is missing"):
            concept_depth(lone, mode="released_code", permutations=0)
