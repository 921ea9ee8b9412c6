"""The store: what is read equals what was held; what is damaged is refused."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import interp
from interp import planning
from interp.errors import InterpError, LayerNotFound, ShapeError, StoreError

N = 23
KEYS = {
    "all": slice(None),
    "slice": slice(3, 17),
    "across shards": slice(4, 6),
    "empty slice": slice(9, 9),
    "backwards": slice(None, None, -1),
    "step": slice(1, 20, 3),
    "past the end": slice(20, 99),
    "negative slice": slice(-5, -1),
    "int": 7,
    "negative int": -1,
    "numpy int": np.int64(11),
    "list": [3, 1, 22, 1],
    "negative list": [-1, -23, 0],
    "empty list": [],
    "array": np.array([5, 4, 21]),
    "mask": np.arange(N) % 3 == 0,
    "empty mask": np.zeros(N, dtype=bool),
}


@pytest.fixture(params=["float32", "bfloat16", "float16", "float64"])
def pair(request, tmp_path, monkeypatch):
    """A store on disk in five shards, and the tensor that it holds."""
    monkeypatch.setattr(planning, "SHARD_ROWS", 5)
    x = torch.randn(N, 6, generator=torch.Generator().manual_seed(0))
    model = torch.nn.Sequential(torch.nn.Identity())
    store = interp.capture(model, x, "0", out=tmp_path / "s", dtype=request.param)
    return store, x.to(getattr(torch, request.param))


@pytest.mark.parametrize("name", list(KEYS))
def test_any_index_gives_the_rows_of_the_tensor(pair, name):
    store, x = pair
    key = KEYS[name]
    wanted = torch.from_numpy(x.double().numpy()[key].copy())
    found = store["0"][key]
    assert found.dtype == x.dtype and torch.equal(found.double(), wanted)
    memory = interp.ActivationStore.from_tensors({"0": x})["0"][key]
    assert memory.dtype == x.dtype and torch.equal(memory, found)


def test_a_tensor_indexes_as_an_array(pair):
    store, x = pair
    assert torch.equal(store["0"][torch.tensor([4, 9])], x[[4, 9]])
    assert torch.equal(store["0"][torch.arange(N) > 20], x[21:])
    assert torch.equal(store["0"][3, 2], x[3, 2])
    assert torch.equal(store["0"][:, 2], x[:, 2])
    assert torch.equal(store["0"][2:9, 1:3], x[2:9, 1:3])
    assert torch.equal(store["0"][...], x)
    assert torch.equal(torch.cat(list(store["0"].batches(7))), x)


def test_shape_and_dtype_need_no_read(pair):
    store, x = pair
    matrix = store["0"]
    assert matrix.shape == (N, 6) and len(matrix) == N and matrix.ndim == 2
    assert matrix.dtype == x.dtype
    array = np.asarray(matrix)
    assert array.shape == (N, 6) and np.array_equal(array.astype(float), x.double().numpy())


@pytest.mark.parametrize("key", [N, -N - 1, [0, N], [-N - 1], np.ones(N - 1, bool), [0.5], [[1]]])
def test_an_index_outside_is_refused(pair, key):
    with pytest.raises(ShapeError):
        pair[0]["0"][key]


def test_what_is_read_is_a_copy(pair):
    store, x = pair
    store["0"][0:2].zero_()
    store["0"][[0, 1]].zero_()
    assert torch.equal(store["0"][:], x)


def test_reading_some_rows_does_not_open_the_other_shards(pair):
    store, x = pair
    for shard in sorted(store.path.glob("shard-*"))[1:]:
        shard.write_bytes(bytes(shard.stat().st_size))
    assert torch.equal(interp.ActivationStore.open(store.path)["0"][1:4], x[1:4])
    with pytest.raises(StoreError, match="shard-00001.safetensors cannot be read.*--resume"):
        interp.ActivationStore.open(store.path)["0"][:]


@pytest.fixture
def saved(tmp_path):
    x = torch.randn(N, 6, generator=torch.Generator().manual_seed(0))
    interp.capture(torch.nn.Sequential(torch.nn.Identity()), x, "0", out=tmp_path / "s")
    return tmp_path / "s"


def rewrite(path, change):
    manifest = json.loads((path / "manifest.json").read_text())
    change(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "a/b.safetensors", ".."])
def test_a_manifest_that_points_outside_its_folder_is_refused(saved, name):
    rewrite(saved, lambda m: m["shards"][0].update(file=name))
    with pytest.raises(StoreError, match="no file of the store|lacks"):
        interp.ActivationStore.open(saved)


@pytest.mark.parametrize(
    "damage",
    [
        lambda b: b"",
        lambda b: b[:7],
        lambda b: b[:60],
        lambda b: (2**40).to_bytes(8, "little") + b[8:],
        lambda b: b[:8] + b"x" * 40 + b[48:],
        lambda b: b[:-40],
        lambda b: b.replace(b"[23,6]", b"[46,3]"),
        lambda b: b.replace(b'"F32"', b'"U64"'),
        lambda b: b.replace(b'"0"', b'"1"'),
    ],
)
def test_a_damaged_shard_is_a_store_error(saved, damage):
    shard = saved / "shard-00000.safetensors"
    data = shard.read_bytes()
    assert damage(data) != data
    shard.write_bytes(damage(data))
    with pytest.raises(StoreError, match="shard-00000.safetensors cannot be read") as caught:
        interp.ActivationStore.open(saved)["0"][:]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update(format=99),
        lambda m: m.pop("hookpoints"),
        lambda m: m.pop("shards"),
        lambda m: m.update(complete=False),
        lambda m: m["shards"][0].pop("rows"),
        lambda m: m["shards"][0].pop("file"),
        lambda m: m["hookpoints"][0].pop("name"),
        lambda m: m.update(shards=3),
    ],
)
def test_a_damaged_manifest_is_a_store_error(saved, change):
    rewrite(saved, change)
    with pytest.raises(StoreError):
        interp.ActivationStore.open(saved)


def test_a_manifest_that_is_no_json(saved):
    (saved / "manifest.json").write_text("{")
    with pytest.raises(StoreError, match="damaged"):
        interp.ActivationStore.open(saved)
    (saved / "manifest.json").write_text("[]")
    with pytest.raises(StoreError, match="damaged"):
        interp.ActivationStore.open(saved)
    (saved / "manifest.json").unlink()
    with pytest.raises(StoreError):
        interp.ActivationStore.open(saved)
    with pytest.raises(StoreError):
        interp.ActivationStore.open(saved / "nowhere")


def test_lost_or_damaged_rows(saved):
    (saved / "rows.parquet").write_bytes(b"PAR1")
    with pytest.raises(StoreError, match="rows.parquet"):
        interp.ActivationStore.open(saved)
    (saved / "rows.parquet").unlink()
    with pytest.raises(StoreError, match="rows.parquet"):
        interp.ActivationStore.open(saved)


def test_from_tensors():
    x, y = torch.randn(4, 3), np.ones((4, 2, 5), dtype=np.float32)
    rows = pd.DataFrame({"label": list("abca")}, index=[9, 8, 7, 6])
    store = interp.ActivationStore.from_tensors({"a": x, "b": y}, rows, pool="mean")
    assert store.hookpoints == ("a", "b") and store.n == 4
    assert torch.equal(store["a"][:], x) and store["b"].shape == (4, 2, 5)
    assert store.rows["label"].tolist() == list("abca") and list(store.rows.index) == [0, 1, 2, 3]
    assert store.manifest["pool"] == "mean"
    assert "a" in store and "c" not in store
    with pytest.raises(LayerNotFound, match="did you mean|it holds a, b"):
        store["c"]
    tokens = interp.ActivationStore.from_tensors({"a": x}, {"document": [0, 0, 1, 1]}, pool="all")
    assert tokens.rows["document"].tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("tensors", "rows"),
    [
        ({}, None),
        ({"a": torch.ones(3, 2), "b": torch.ones(4, 2)}, None),
        ({"a": torch.ones(3, 2)}, {"label": [1, 2]}),
        ({"a": torch.ones(3)}, None),
        ({"a": torch.ones(3, 2).int()}, None),
    ],
)
def test_from_tensors_refuses_what_does_not_fit(tensors, rows):
    with pytest.raises(ShapeError):
        interp.ActivationStore.from_tensors(tensors, rows)


def test_columns_of_any_kind_come_back(tmp_path):
    frame = pd.DataFrame(
        {
            "text": ["NA", "é\u2028ü", "null", 'x, "y"\n'],
            "label": [True, False, None, True],
            "score": [0.5, float("nan"), 1e300, -1],
            "mixed": ["a", 3, None, 2.5],
        }
    )

    class Letters(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.table = torch.nn.Embedding(300, 4)

        def forward(self, input_ids, attention_mask):
            return self.table(input_ids)

    def letters(texts, **options):
        return {"input_ids": [[min(ord(c), 299) for c in t] for t in texts]}

    model = interp.load(Letters(), tokenizer=letters)
    try:
        store = interp.capture(model, frame, "table", out=tmp_path / "s")
    except InterpError as error:
        pytest.fail(f"{error}")
    assert store.rows["text"].tolist() == frame["text"].tolist()
    assert store.rows["label"].isna().tolist() == [False, False, True, False]
    assert [str(v) for v in store.rows["mixed"][:2]] == ["a", "3"]


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="counts the bytes read in /proc")
def test_neighbouring_rows_are_read_together_and_nothing_besides(tmp_path):
    x = torch.randn(5000, 64, generator=torch.Generator().manual_seed(0))
    interp.capture(torch.nn.Sequential(torch.nn.Identity()), x, "0", out=tmp_path / "s")
    acts = interp.ActivationStore.open(tmp_path / "s")["0"]
    blocks = (np.array([3, 40, 17, 70])[:, None] * 64 + np.arange(64)).ravel()
    mixed = np.concatenate([blocks, [9, 4999, 4095, 4096, 4097]])
    _ = acts[[0, 4999]]  # the headers, which are read once

    def said():
        fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
        return int(fields["rchar"])

    said()
    before = said()
    own = said() - before  # what asking reads
    before = said()
    found = acts[blocks]
    taken = said() - before - own
    assert torch.equal(found, x[blocks]) and torch.equal(acts[mixed], x[mixed])
    assert abs(taken - 4 * 64 * 64 * 4) < 64  # the count in /proc is a digit longer then
