"""Results: what is saved comes back, nothing is executed, and undefined stays undefined."""

import json
import os
import pickle
from dataclasses import FrozenInstanceError, dataclass, field
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest

from interp.errors import ParameterError, StoreError
from interp.results import Result
from interp.runs import plain


@dataclass(frozen=True, kw_only=True)
class Thing(Result):
    kind: ClassVar[str] = "test_thing"
    value: Any = None
    scores: dict[str, Any] = field(default_factory=dict)

    def to_frame(self) -> pd.DataFrame:
        return pd.DataFrame({"value": [self.value]})

    def metrics(self) -> dict[str, Any]:
        return {"value": self.value}


@dataclass(frozen=True, kw_only=True)
class Other(Result):
    kind: ClassVar[str] = "test_other"


@pytest.fixture(autouse=True)
def _forget():
    yield
    Result.KINDS.setdefault("test_thing", Thing)


VALUES = [
    None,
    3,
    2.5,
    True,
    "text \u2028 <b>",
    (1, (2.0, "x"), []),
    [1, [2, None]],
    {"a": {"b": (1, 2)}},
    float("inf"),
    -float("inf"),
    1e-300,
    0.1 + 0.2,
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_plain_values_come_back_as_they_were(tmp_path, value):
    found = Thing.load(Thing(name="n", n=3, value=value).save(tmp_path / "a.json"))
    assert found.value == value and type(found.value) is type(value)
    assert (found.name, found.n, found.mode) == ("n", 3, "recommended")


def test_nan_comes_back_as_nan_and_its_reason_with_it(tmp_path):
    thing = Thing(name="n", n=0, value=float("nan"), reasons={"value": "one class only"})
    found = Result.load(thing.save(tmp_path / "a.json"))
    assert isinstance(found, Thing) and found.value != found.value
    assert found.reasons == {"value": "one class only"}


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.arange(6).reshape(2, 3).T,
        np.array([1.0, np.nan, -np.inf]),
        np.array([True, False]),
        np.zeros((0, 4)),
        np.array(3.5),
        np.arange(4, dtype=">i4"),
        np.array(["a", "bcd"]),
    ],
    ids=str,
)
def test_arrays_come_back_bit_for_bit(tmp_path, array):
    found = Thing.load(Thing(name="n", n=1, value=array).save(tmp_path / "a.json")).value
    assert found.shape == array.shape and found.dtype == array.dtype.newbyteorder("=")
    np.testing.assert_array_equal(found, array)
    found.flags.writeable  # noqa: B018
    assert found.size == 0 or found.base is None or found.flags.writeable


def test_arrays_inside_dicts_and_of_objects(tmp_path):
    thing = Thing(name="n", n=1, scores={"x": np.float64(2.5), "y": [np.arange(3)]})
    found = Thing.load(thing.save(tmp_path / "a.json"))
    assert found.scores["x"] == 2.5 and found.scores["y"][0].tolist() == [0, 1, 2]
    mixed = np.array(["a", None, 3], dtype=object)
    found = Thing.load(Thing(name="n", n=1, value=mixed).save(tmp_path / "b.json"))
    assert found.value.tolist() == ["a", None, 3]


def test_a_result_is_frozen():
    with pytest.raises(FrozenInstanceError):
        Thing(name="n", n=1).n = 2  # type: ignore[misc]


def test_what_json_cannot_hold_is_refused_and_nothing_is_left(tmp_path):
    with pytest.raises(ParameterError, match="cannot hold a set"):
        Thing(name="n", n=1, value={1, 2}).save(tmp_path / "a.json")
    assert list(tmp_path.iterdir()) == []


def test_another_kind_is_refused(tmp_path):
    path = Thing(name="n", n=1).save(tmp_path / "a.json")
    with pytest.raises(StoreError, match="kind 'test_thing'; expected one of test_other"):
        Other.load(path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not a result"),
        (b"[]", "not a result"),
        (b'{"format": 1}', "not a result"),
        (b'{"format": 2, "kind": "test_thing", "fields": {}}', "format 2"),
        (b'{"format": 1, "kind": "test_thing", "fields": {}}', "damaged"),
        (b'{"format": 1, "kind": "test_thing", "fields": {"nonsense": 1}}', "damaged"),
        (b'{"format": 1, "kind": "test_thing", "fields": []}', "damaged|not a result"),
        (b'{"format": 1, "kind": [], "fields": {}}', "damaged|not a result|kind"),
        (b"\xff\xfe", "not a result"),
    ],
)
def test_a_damaged_file_is_a_store_error(tmp_path, content, says):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(StoreError, match=says) as caught:
        Thing.load(tmp_path / "a.json")
    assert "\n" not in str(caught.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(StoreError, match="not a result"):
        Thing.load(tmp_path / "none.json")


def test_a_pickled_array_in_a_file_is_not_unpickled(tmp_path):
    import base64

    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    path = Thing(name="n", n=1, value=np.arange(2)).save(tmp_path / "a.json")
    document = json.loads(path.read_text())
    text = base64.b64encode(pickle.dumps(Trap())).decode()
    document["fields"]["value"] = {"__array__": text, "dtype": "|O", "shape": [1]}
    path.write_text(json.dumps(document))
    with pytest.raises(StoreError, match="damaged"):
        Thing.load(path)
    assert not (tmp_path / "sprung").exists()


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = Thing(name="old", n=1).save(tmp_path / "a.json")

    def full(handle):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(StoreError, match=r"cannot write .*a.json: No space left on device"):
            Thing(name="new", n=1).save(path)
    assert Thing.load(path).name == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    assert Thing.load(Thing(name="new", n=1).save(path)).name == "new"


def test_plain_makes_json_of_numbers():
    value = {1: np.float32(0.5), "a": (np.arange(2), float("nan"), np.inf), "b": np.bool_(True)}
    assert plain(value) == {"1": 0.5, "a": [[0, 1], None, None], "b": True}
    json.dumps(plain(value), allow_nan=False)
