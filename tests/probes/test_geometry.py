"""The table of measures: degenerate input, invariances as claimed, and a pass over a store."""

import numpy as np
import pytest
import torch

from interp.errors import DataError, LayerNotFound, ParameterError, ShapeError
from interp.results import Result
from interp.store import ActivationStore
from probes.geometry import MEASURES, Geometry, geometry_by_layer
from probes.measured import Curve, Measured, Setting, Unit, float_rows


def rows(kind):
    """(X, labels) of a kind of input that breaks measures which do not look."""
    draw = np.random.default_rng(0)
    X, y = draw.normal(size=(24, 6)), np.arange(24) % 2
    if kind == "one class":
        y = np.zeros(24, int)
    elif kind == "constant columns":
        X[:, 2:] = 4.0
    elif kind == "all constant":
        X[:] = 1 / 3
    elif kind == "all zero":
        X[:] = 0
    elif kind == "fewer rows than dimensions":
        X = draw.normal(size=(12, 50))
        y = y[:12]
    elif kind == "duplicates":
        X = np.repeat(X[:4], 6, axis=0)
        y = np.repeat([0, 1, 0, 1], 6)
    elif kind == "one point a class":
        X = np.repeat(X[:2], 12, axis=0)
        y = np.repeat([0, 1], 12)
    elif kind == "nan":
        X[3, 2] = np.nan
    elif kind == "infinite":
        X[3, 2] = np.inf
    elif kind == "two rows":
        X, y = X[:2], y[:2]
    elif kind == "one row":
        X, y = X[:1], y[:1]
    elif kind == "large":
        X = 1e150 * X
    return float_rows(X), y


def heads(X):
    """Two projections of half the width."""
    return torch.eye(X.shape[1], dtype=torch.float64).reshape(X.shape[1], 2, -1).transpose(0, 1)


KINDS = ["one class", "constant columns", "all constant", "all zero", "fewer rows than dimensions",
         "duplicates", "one point a class", "nan", "infinite", "two rows", "one row"]  # fmt: skip
UNDEFINED = {"nan", "infinite"}
"""Where no measure has a value."""
NEEDS_CLASSES = {"gdv", "alignment_target", "rate_reduction", "prefixes"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MEASURES)
def test_degenerate_input_is_a_number_or_nan_with_a_reason(name, kind):
    X, y = rows(kind)
    found = MEASURES[name].find(
        X,
        Setting(y, X[:, :3], features={"a": y, "b": np.arange(len(y)) % 3}, heads=heads(X)),
    )
    if isinstance(found, Measured):
        assert np.isfinite(found) != bool(found.reason)
        defined = found.reason is None
    elif isinstance(found, Unit):
        defined = found.vector is not None
        assert defined != bool(found.reason)
        assert not defined or np.linalg.norm(found.vector) == pytest.approx(1)
    else:
        assert isinstance(found, Curve)
        defined = found.reason is None
        assert not defined or all(np.isfinite(v).all() for v in found.lines.values())
    if kind in UNDEFINED:
        assert not defined
    if kind == "one class" and name in NEEDS_CLASSES:
        assert not defined
    if kind in ("fewer rows than dimensions", "constant columns") and name in OWN:
        assert defined  # the arm that shows not everything is refused


OWN = {"gdv", "alignment_input", "alignment_target", "rank", "coding_rate", "rate_reduction", "cka",
       "rsa", "rank_curve", "prefixes", "sparse_rate"}  # fmt: skip


def value(name, X, y, inputs):
    found = MEASURES[name].find(float_rows(X), Setting(y, inputs))
    if isinstance(found, Measured):
        return np.array([float(found)])
    return found.vector if isinstance(found, Unit) else np.concatenate(list(found.lines.values()))


CLAIMS = {
    # name: (rotation, scale, translation, order of rows)
    "gdv": (False, True, True, True),
    "alignment_input": (True, True, True, True),
    "alignment_target": (True, True, True, True),
    "rank": (True, True, True, True),
    "coding_rate": (True, True, False, True),
    "rate_reduction": (True, True, False, True),
    "cka": (True, True, True, False),
    "rsa": (True, True, True, False),
    "rank_curve": (True, True, True, True),
    "prefixes": (False, True, True, False),
}


@pytest.mark.parametrize("move", ["rotation", "scale", "translation", "order"])
@pytest.mark.parametrize("name", CLAIMS)
def test_invariances_as_claimed_and_not_where_none_is(name, move):
    draw = np.random.default_rng(1)
    y = np.arange(80) % 2
    X = draw.normal(size=(80, 6)) * np.geomspace(1, 6, 6) + np.outer(y, [2, 0, 0, 1, 0, 3])
    inputs, at = X[:, :4] + draw.normal(size=(80, 4)), np.arange(80)
    clean = value(name, X, y, inputs)
    if move == "rotation":
        X = X @ np.linalg.qr(draw.normal(size=(6, 6)))[0]
    elif move == "scale":
        X = 7 * X
    elif move == "translation":
        X = X + 5
    else:
        at = draw.permutation(80)
    moved = value(name, X[at], y[at], inputs[at])
    claims = dict(zip(("rotation", "scale", "translation", "order"), CLAIMS[name], strict=True))
    assert np.allclose(moved, clean, atol=1e-8) == claims[move]


@pytest.fixture(scope="module")
def store():
    draw = torch.Generator().manual_seed(0)
    y = torch.arange(60) % 2
    X = torch.randn(60, 8, generator=draw) + y[:, None]
    tensors = {
        "first": X,
        "heads": torch.randn(60, 2, 4, generator=draw),
        "flat": torch.ones(60, 3),
    }
    rows = {
        "text": [f"t{i}" for i in range(60)],
        "label": y.tolist(),
        "group": [i // 2 for i in range(60)],
    }
    return ActivationStore.from_tensors(tensors, rows, data={"name": "toy", "text_column": "text"})


def test_a_pass_over_a_store(store, tmp_path):
    said = []
    found = geometry_by_layer(store, "label", progress=lambda *a: said.append(a))
    assert said == [(0, 3, "first"), (1, 3, "heads"), (2, 3, "flat"), (3, 3, "")]
    assert found.name == "toy.label" and found.n == 60 and found.widths == (8, 8, 3)
    assert set(MEASURES) - set(found.measures) == {"sparse_rate"}  # no model, so no heads
    assert found.inputs == "the first hook point, first"
    assert found.values["alignment_input"][0] == pytest.approx(1)
    assert found.values["gdv"][0] < -0.05 < found.values["gdv"][1]
    assert np.isnan(found.values["rank"][2])
    assert found.reasons["flat: rank"] == "all rows are one point."
    M = found.matrices["cka"]
    assert np.allclose(M[:2, :2], M[:2, :2].T) and M[0, 0] == pytest.approx(1)
    assert np.isnan(M[2]).all() and np.isnan(M[:, 2]).all()
    assert list(found.curves["prefixes"]) == ["first", "heads"]
    frame = found.to_frame()
    assert frame["rank.stable_rank"][0] <= frame["rank"][0]
    loaded = Result.load(found.save(tmp_path / "g.json"))
    assert isinstance(loaded, Geometry) and loaded.to_frame().equals(frame)
    assert loaded.metrics().keys() == found.metrics().keys()


def test_what_is_asked_for_and_what_it_needs(store):
    found = geometry_by_layer(store, measures=["cka", "gdv"], hookpoints=["heads"])
    assert (
        found.measures == ("gdv", "cka") and found.name == "toy" and found.hookpoints == ("heads",)
    )
    assert found.reasons == {"heads: gdv": "there are no labels."}
    given = geometry_by_layer(
        store, measures=["alignment_input"], inputs=store["heads"][:], inputs_are="x"
    )
    assert given.values["alignment_input"][1] == pytest.approx(1) and given.inputs == "x"
    with pytest.raises(ParameterError, match="no measure 'gvd'; did you mean 'gdv'"):
        geometry_by_layer(store, measures=["gvd"])
    with pytest.raises(ParameterError, match="measures is empty"):
        geometry_by_layer(store, measures=[])
    with pytest.raises(LayerNotFound, match="no hook point 'last'"):
        geometry_by_layer(store, hookpoints=["last"])
    with pytest.raises(DataError, match="no column 'labl'"):
        geometry_by_layer(store, "labl")


def test_rows_without_a_label_are_left_out_of_everything(store):
    labels = [None if i < 10 else i % 2 for i in range(60)]
    partly = ActivationStore.from_tensors({"first": store["first"][:]}, {"label": labels})
    kept = ActivationStore.from_tensors({"first": store["first"][10:]}, {"label": labels[10:]})
    some, all_of = (geometry_by_layer(s, "label") for s in (partly, kept))
    assert some.n == 50 and "10 of 60 rows" in some.notes[0]
    for name, numbers in all_of.values.items():
        np.testing.assert_allclose(some.values[name], numbers)


def test_positions_of_a_document_stay_on_one_side():
    draw = np.random.default_rng(0)
    y = draw.permutation(np.arange(40) % 2)
    own = draw.normal(size=(40, 6)).repeat(5, axis=0) + 0.01 * draw.normal(size=(200, 6))
    rows = {"document": np.arange(200) // 5, "position": np.arange(200) % 5, "label": y.repeat(5)}
    stores = [ActivationStore.from_tensors({"a": torch.from_numpy(own)}, rows) for _ in range(2)]
    stores[1].manifest["pool"] = "all"
    leaky, kept = (
        geometry_by_layer(s, "label", measures=["prefixes"]).curves["prefixes"]["a"] for s in stores
    )
    assert leaky["neighbour"][-1] == 1 and kept["neighbour"][-1] < 0.8
    assert (kept["probe"] <= 0.85).all()


def test_the_rounding_of_what_is_stored_is_no_dimension():
    draw = torch.Generator().manual_seed(0)
    X = torch.randn(50, 2, generator=draw) @ torch.randn(2, 8, generator=draw)  # rounded to float32
    store = ActivationStore.from_tensors({"a": X})
    found = geometry_by_layer(store, measures=["rank"])
    assert found.parts["rank"]["numerical_rank"].tolist() == [2]


def test_rows_are_drawn_alike_at_every_layer():
    X = torch.randn(1100, 4, generator=torch.Generator().manual_seed(0))
    store = ActivationStore.from_tensors({"a": X, "b": 2 * X + 1})
    found = geometry_by_layer(store, measures=["cka", "rsa"])
    assert found.matrices["cka"] == pytest.approx(1) and found.matrices["rsa"] == pytest.approx(1)
    assert found.notes == tuple(
        f"{m} reads 1,000 of the 1,100 rows, drawn by the seed." for m in ("cka", "rsa")
    )
    y = np.random.default_rng(0).permutation(2100) % 3
    labelled = ActivationStore.from_tensors({"a": torch.eye(3)[y]}, {"label": y.tolist()})
    told = geometry_by_layer(labelled, "label", measures=["alignment_target", "information_label"])
    assert told.values["alignment_target"] == pytest.approx(1) and len(told.notes) == 2
    assert told.values["information_label"][0] > 0.3
    again = geometry_by_layer(store, measures=["cka"], seed=1)
    assert "seed" in again.provenance and again.provenance["seed"] == 1


def test_a_number_keeps_its_reason():
    import copy
    import pickle

    found = Measured(3, "why.", part=1.0)
    assert np.isnan(found) and repr(found) == "nan (why.)" and Measured(2.0).reason is None
    assert copy.copy(found).reason == "why." and pickle.loads(pickle.dumps(found)).parts == {
        "part": 1
    }
    for wrong in (np.zeros(3), np.zeros((3, 0)), torch.zeros(2, 0, 4)):
        with pytest.raises(ShapeError, match="X must be a matrix"):
            float_rows(wrong)
