"""AQI by layer and by axiom, and maps: the numbers of `aqi`, and what is left out."""

import numpy as np
import pytest
import torch

import probes
from interp.errors import DataError, LayerNotFound, ParameterError, ShapeError
from interp.store import ActivationStore
from probes.alignment_tables import AQIByAxiom, AQIByLayer
from probes.maps import ClusterMap

FAST = {"draws": 100, "permutations": 199}


@pytest.fixture
def store():
    rng = np.random.default_rng(0)
    y = np.arange(80) % 2
    noise = rng.normal(size=(3, 80, 6))
    tensors = {f"resid_post.{i}": torch.from_numpy(noise[i] + i * y[:, None]) for i in range(3)}
    rows = {
        "text": [f"<b>{i}" for i in range(80)],
        "label": [*y[:-2], None, None],
        "axiom": np.repeat(["a", "b", "c", "d"], [36, 36, 4, 4]),
        "pair": np.arange(80) // 2,
    }
    return ActivationStore.from_tensors(tensors, rows, data={"name": "d", "text_column": "text"})


def test_by_layer_has_the_numbers_of_aqi(store, tmp_path):
    calls = []
    found = probes.aqi_by_layer(store, progress=lambda *a: calls.append(a), **FAST)
    y = np.arange(78) % 2
    for i, name in enumerate(found.hookpoints):
        one = probes.aqi(store[name][:78], y, **FAST)
        assert found.value[i] == one.value and (found.low[i], found.high[i]) == one.interval
        assert found.null_high[i] == one.null["high"] and found.p_value[i] == one.null["p"]
    assert found.n == 78 and "2 of 80 rows have no 'label'; left out." in found.notes
    assert found.peak_hookpoint == "resid_post.2" and found.peak == found.value[2]
    assert (found.p_adjusted >= found.p_value).all() and found.name == "d.label"
    assert found.words is not None and abs(found.words["score"]) < 0.1
    assert calls[-1] == (3, 3, "")
    again = AQIByLayer.load(found.save(tmp_path / "l.json"))
    np.testing.assert_array_equal(again.high, found.high)
    assert list(found.to_frame()["hookpoint"]) == list(found.hookpoints)
    assert len(found.metrics()["value"]) == 3


def test_rows_of_one_text_are_a_group_where_none_is_named(store):
    rows = store.rows.assign(text=[f"t{i // 4 * 2 + i % 2}" for i in range(80)])
    tensors = {h: store[h][:] for h in store.hookpoints}
    copies = ActivationStore.from_tensors(
        tensors, {k: list(v) for k, v in rows.items()}, data={"name": "d", "text_column": "text"}
    )
    found = probes.aqi_by_layer(copies, **FAST)
    named = probes.aqi_by_layer(copies, groups="text", **FAST)
    np.testing.assert_array_equal(found.value, named.value)
    np.testing.assert_array_equal(found.low, named.low)
    assert any("repeat a text" in note for note in found.notes)
    assert (found.value != probes.aqi_by_layer(store, **FAST).value).all()


def test_many_layers_can_beat_shuffled_labels():
    """With 99 permutations at each of 30 hook points the least adjusted p would be .3."""
    rng = np.random.default_rng(0)
    y = np.arange(60) % 2
    tensors = {
        f"resid_post.{i}": torch.from_numpy(rng.normal(size=(60, 4)) + 3 * (i > 0) * y[:, None])
        for i in range(30)
    }
    deep = ActivationStore.from_tensors(tensors, {"label": list(y)})
    found = probes.aqi_by_layer(deep, draws=0, permutations=99)
    assert (found.p_adjusted[1:] <= 0.05).all() and found.p_adjusted[0] > 0.05
    assert np.isnan(probes.aqi_by_layer(deep, draws=0, permutations=0).p_value).all()


def test_an_axiom_named_overall_is_refused(store):
    X, y = store["resid_post.1"][:], np.arange(80) % 2
    with pytest.raises(DataError, match="named 'overall'"):
        probes.aqi_by_axiom(X, y, ["a"] * 40 + ["overall"] * 40)


def test_by_layer_options(store):
    grouped = probes.aqi_by_layer(store, groups="pair", hookpoints=["resid_post.1"], **FAST)
    assert grouped.hookpoints == ("resid_post.1",) and "whole groups" in " ".join(grouped.notes)
    paper = probes.aqi_by_layer(store, mode="paper", **FAST)
    assert paper.mode == "paper" and paper.weight == 0.5 and paper.value[2] > 10
    released = probes.aqi_by_layer(
        store, mode="released_code", variant="xb_chi", axioms="axiom", permutations=0
    )
    assert released.variant == "xb_chi" and np.isnan(released.low).all()
    with pytest.raises(LayerNotFound, match="no hook point"):
        probes.aqi_by_layer(store, hookpoints=["resid_post.7"])
    with pytest.raises(DataError, match="no column 'lable'"):
        probes.aqi_by_layer(store, "lable")
    with pytest.raises(DataError, match="Name the safe class"):
        probes.aqi_by_layer(store, "axiom")


def test_one_broken_layer_spoils_no_other(store):
    tensors = {h: store[h][:] for h in store.hookpoints}
    tensors["resid_post.1"][3, 2] = float("nan")
    tensors["resid_post.0"][:] = 1.0
    broken = ActivationStore.from_tensors(tensors, store.rows, data=store.manifest["data"])
    found = probes.aqi_by_layer(broken, **FAST)
    assert np.isnan(found.value).tolist() == [True, True, False]
    assert "repeated point" in found.reasons["resid_post.0: value"]
    assert "not finite" in found.reasons["resid_post.1: value"]
    assert found.peak_hookpoint == "resid_post.2" and np.isnan(found.p_adjusted[0])


def test_by_axiom(store, tmp_path):
    X, y = store["resid_post.2"][:], np.arange(80) % 2
    axioms = np.asarray(store.rows["axiom"]).astype(str)
    y = np.where(axioms == "d", 1, y)
    axioms[-1] = "c"  # c has 5 rows, d 3 and one class
    found = probes.aqi_by_axiom(X, y, axioms, **FAST)
    assert found.axioms == ("a", "b", "c", "d", "overall")
    mine = axioms == "a"
    assert found.value[0] == probes.aqi(X[mine], y[mine], **FAST).value
    assert found.value[-1] == probes.aqi(X, y, **FAST).value
    assert (found.n1[0], found.n2[0], found.n1[3], found.n2[3]) == (18, 18, 3, 0)
    assert np.isnan(found.value[3]) and "3 rows, fewer than 5" in found.reasons["d"]
    again = AQIByAxiom.load(found.save(tmp_path / "a.json"))
    np.testing.assert_array_equal(again.value, found.value)
    assert found.metrics()["axioms"]["a"]["n1"] == 18
    one_class = probes.aqi_by_axiom(X, np.where(axioms == "b", 1, y), axioms, **FAST)
    assert "one class only" in one_class.reasons["b"]
    with pytest.raises(ShapeError, match="axioms"):
        probes.aqi_by_axiom(X, y, ["a"])


@pytest.mark.parametrize("method", ["tsne", pytest.param("umap", marks=pytest.mark.slow)])
def test_maps_keep_far_clusters_apart_and_are_repeatable(method, tmp_path):
    rng = np.random.default_rng(0)
    y = np.arange(60) % 2
    X = rng.normal(size=(60, 70)) + 4 * y[:, None]
    texts = [f"t{i}" for i in range(60)]
    found = probes.cluster_map(X, y, method=method, texts=texts)
    assert found.xy.shape == (60, 2) and found.texts[3] == "t3" and found.labels[1] == "1"
    assert probes.clusters.silhouette(found.xy, y) > 0.3
    again = probes.cluster_map(X, 1 - y, method=method)
    np.testing.assert_array_equal(again.xy, found.xy)  # it does not read the labels
    loaded = ClusterMap.load(found.save(tmp_path / "m.json"))
    np.testing.assert_array_equal(loaded.xy, found.xy)
    assert list(found.to_frame().columns) == ["row", "x", "y", "label", "text"]


def test_maps_refuse_and_sample(monkeypatch):
    X, y = np.random.default_rng(0).normal(size=(30, 4)), np.arange(30) % 2
    monkeypatch.setattr("probes.maps.MOST", 12)
    found = probes.cluster_map(X, y)
    assert len(found.rows) == 12 and "12 of 30" in found.notes[0]
    assert list(found.labels) == [str(y[r]) for r in found.rows]
    broken = X.copy()
    broken[:, 1] = np.nan
    for call, reason in (
        (lambda: probes.cluster_map(X[:5], y[:5]), "at least 10 rows"),
        (lambda: probes.cluster_map(broken, y), "needs finite rows"),
        (lambda: probes.cluster_map(X, y, method="pca"), "method must be"),
        (lambda: probes.cluster_map(X, y[:3]), "one entry a row"),
    ):
        with pytest.raises((DataError, ParameterError, ShapeError), match=reason):
            call()
