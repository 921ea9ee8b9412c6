"""Damage of every kind to a store: found, named, repaired, and captured again bit for bit."""

import json
import re
import shutil

import pandas as pd
import pytest
import torch

import interp
from interp import capturing, planning
from interp.errors import StoreError
from interp.integrity import repair, verify
from interp.manifest import checksum
from interp.resuming import rank_list

N, ROWS = 11, 3
X = torch.randn(N, 2, 5, 5, generator=torch.Generator().manual_seed(0))
SECOND = "shard-00001.safetensors"


def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Conv2d(2, 4, 3), torch.nn.ReLU())


def data():
    rows = pd.DataFrame({"label": [f"l{i}" for i in range(N)]})
    return interp.Dataset(name="images", kind="tensor", inputs=X, rows=rows, labels=("label",))


def capture(out, **options):
    options = {"batch_size": 2, "shard_rows": ROWS, "pool": "all", **options}
    return interp.capture(network(), data(), ["0", "1"], out=out, **options)


def content(path):
    return {p.name: p.read_bytes() for p in sorted(path.iterdir())}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    path = tmp_path_factory.mktemp("made") / "s"
    capture(path)
    return path


@pytest.fixture
def store(made, tmp_path):
    shutil.copytree(made, tmp_path / "s")
    return tmp_path / "s"


def edit(path, change):
    manifest = json.loads((path / "manifest.json").read_text())
    change(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


def flip(file, at):
    held = bytearray(file.read_bytes())
    held[at] ^= 1
    file.write_bytes(held)


def swap(path):
    a, b = path / "shard-00000.safetensors", path / SECOND
    kept = a.read_bytes()
    a.write_bytes(b.read_bytes())
    b.write_bytes(kept)


def link_out(path, name):
    away = path.parent / "away"
    (path / name).rename(away)
    (path / name).symlink_to(away)


DAMAGE = {  # name: (what is done, {file: state} that must be found)
    "truncated shard": (
        lambda p: (p / SECOND).write_bytes((p / SECOND).read_bytes()[:-1]),
        {SECOND: "truncated"},
    ),
    "empty shard": (lambda p: (p / SECOND).write_bytes(b""), {SECOND: "truncated"}),
    "longer shard": (
        lambda p: (p / SECOND).write_bytes((p / SECOND).read_bytes() + b"x"),
        {SECOND: "altered"},
    ),
    "a bit of the data": (lambda p: flip(p / SECOND, -5), {SECOND: "altered"}),
    "a bit of the header": (lambda p: flip(p / SECOND, 12), {SECOND: "altered"}),
    "deleted shard": (lambda p: (p / SECOND).unlink(), {SECOND: "missing"}),
    "swapped shards": (swap, {"shard-00000.safetensors": "altered", SECOND: "altered"}),
    "a link out": (lambda p: link_out(p, SECOND), {SECOND: "outside"}),
    "a link of the table": (lambda p: link_out(p, "rows.parquet"), {"rows.parquet": "outside"}),
    "a bit of the table": (lambda p: flip(p / "rows.parquet", 9), {"rows.parquet": "altered"}),
    "deleted table": (lambda p: (p / "rows.parquet").unlink(), {"rows.parquet": "missing"}),
    "a changed number": (
        lambda p: edit(p, lambda m: m.update(certificate={"0": 0.5})),
        {"manifest.json": "altered"},
    ),
    "a changed checksum": (
        lambda p: edit(p, lambda m: m["shards"][1].update(sha256="0" * 64)),
        {"manifest.json": "altered", SECOND: "altered"},
    ),
}
HOPELESS = {
    "empty manifest": lambda p: (p / "manifest.json").write_text(""),
    "cut manifest": lambda p: (p / "manifest.json").write_text("{"),
    "deep manifest": lambda p: (p / "manifest.json").write_text("[" * 100_000),
    "a path out": lambda p: edit(p, lambda m: m["shards"][1].update(file="../x")),
    "an absolute path": lambda p: edit(p, lambda m: m["shards"][1].update(file="/etc/passwd")),
    "a table out": lambda p: edit(p, lambda m: m["table"].update(file="../x")),
    "a table that is none": lambda p: edit(p, lambda m: m.update(table=[1])),
    "bytes in words": lambda p: edit(p, lambda m: m["table"].update(bytes="many")),
    "a checksum that is none": lambda p: edit(p, lambda m: m["shards"][1].update(header=None)),
    "a batch of less than none": lambda p: edit(p, lambda m: m.update(batch_size=-1)),
    "rows of a shard in words": lambda p: edit(p, lambda m: m.update(shard_rows="three")),
    "rows of another number": lambda p: edit(p, lambda m: m["shards"][1].update(documents=[3, 7])),
    "a link of the manifest": lambda p: link_out(p, "manifest.json"),
}


def test_an_undamaged_store_is_whole(store):
    seen = []
    found = interp.ActivationStore.open(store).verify(lambda d, n, file: seen.append((d, n)))
    assert found.whole and found.complete and not found.damaged and not found.left
    assert [(f.file, f.state, f.rows) for f in found.files] == [
        ("manifest.json", "whole", None),
        ("rows.parquet", "whole", N),
        *((f"shard-0000{i}.safetensors", "whole", n) for i, n in enumerate((3, 3, 3, 2))),
    ]
    sizes = sum(len(b) for name, b in content(store).items() if name != "manifest.json")
    assert seen[-1] == (sizes, sizes) and "undamaged" in found.sentence
    memory = interp.capture(network(), data(), "0", pool="mean")
    with pytest.raises(StoreError, match="in memory has no files"):
        memory.verify()


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_found_named_and_captured_again(made, store, name):
    damage, wanted = DAMAGE[name]
    damage(store)
    found = verify(store)
    assert {f.file: f.state for f in found.damaged} == wanted and not found.whole
    assert found.sentence.startswith(f"{found.damaged[0].file} of the store {store} is ")
    said = []
    capture_into(store, said)
    assert content(store) == content(made) and verify(store).whole
    assert not any(p.is_symlink() for p in store.iterdir())
    shards = [f for f in wanted if f.startswith("shard")]
    left = 4 - len(shards)
    assert said[0].startswith(f"{left} of 4 shards are whole; {4 - left} to capture")
    assert all(f in said[0] for f in shards)


def capture_into(store, said, **options):
    options = {"shard_rows": ROWS, **options}
    work = capturing.Capture(network(), data(), ["0", "1"], "all", 2, **options)
    return work.on_disk(store, resume=True, force=False, say=said.append)


READ = ("a bit of", "swapped")  # what is found only where the files are read


@pytest.mark.parametrize("name", [n for n in DAMAGE if not n.startswith(READ)])
def test_opening_refuses_what_can_be_seen_without_reading(store, name):
    damage, wanted = DAMAGE[name]
    damage(store)
    with pytest.raises(StoreError) as caught:
        interp.ActivationStore.open(store)
    says = str(caught.value)
    assert "\n" not in says and re.search("--resume|put the file itself there", says)
    assert any(f in says or "manifest" in f for f in wanted)


@pytest.mark.parametrize("name", HOPELESS)
def test_a_manifest_that_cannot_be_used_is_refused_everywhere(store, name):
    HOPELESS[name](store)
    before = content(store)
    found = verify(store)
    assert [(f.file, f.state) for f in found.damaged] == [("manifest.json", "unreadable")]
    for refused in (
        lambda: interp.ActivationStore.open(store),
        lambda: capture(store, resume=True),
        lambda: repair(store),
    ):
        with pytest.raises(StoreError) as caught:
            refused()
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    assert content(store) == before  # nothing is lost by trying
    capture(store, force=True)
    assert verify(store).whole and not (store / "manifest.json").is_symlink()


def test_a_mutated_header_is_refused_at_the_first_read(store):
    shard = store / SECOND
    held = shard.read_bytes()
    size = 8 + int.from_bytes(held[:8], "little")
    header = json.loads(held[8:size])
    header["0"]["data_offsets"], header["1"]["data_offsets"] = (
        header["1"]["data_offsets"],
        header["0"]["data_offsets"],
    )
    text = json.dumps(header, separators=(",", ":")).encode().ljust(size - 8)
    assert len(text) == size - 8
    shard.write_bytes(held[:8] + text + held[size:])
    opened = interp.ActivationStore.open(store)
    assert len(opened["0"][:10])  # of the first shard
    with pytest.raises(StoreError, match=f"{SECOND} cannot be read.*header is not as it was"):
        opened["0"][:]
    edit(store, lambda m: m["shards"][1].pop("header"))  # the arm that shows why it is there
    edit(store, lambda m: m.pop("sha256"))
    swapped = interp.ActivationStore.open(store)["0"][:]
    assert not torch.equal(swapped, capture(None)["0"][:])


def test_an_older_store_opens_and_says_what_is_unchecked(made, store, monkeypatch):
    monkeypatch.setattr(planning, "SHARD_ROWS", ROWS)  # all stores' then

    def older(manifest):
        for key in ("sha256", "table", "source", "shard_rows"):
            del manifest[key]
        for shard in manifest["shards"]:
            del shard["bytes"], shard["header"]

    edit(store, older)
    opened = interp.ActivationStore.open(store)
    assert torch.equal(opened["0"][:], interp.ActivationStore.open(made)["0"][:])
    found = opened.verify()
    assert found.whole and [f.state for f in found.files] == [*["unchecked"] * 2, *["whole"] * 4]
    assert "2 files of an older store have no checksum" in found.sentence
    flip(store / SECOND, -5)
    assert [f.file for f in verify(store).damaged] == [SECOND]
    capture(store, resume=True)
    shards = {k: v for k, v in content(made).items() if k != "manifest.json"}
    assert shards.items() < content(store).items()
    assert [f.state for f in verify(store).files] == ["whole"] * 6  # it has checksums now


def test_a_changed_batch_size_keeps_no_shard(made, store):
    edit(store, lambda m: m.update(batch_size=3))
    said = []
    capture_into(store, said)
    assert said == [] and content(store) == content(made)


def test_the_checksum_of_a_manifest_is_of_its_values(made):
    manifest = json.loads((made / "manifest.json").read_text())
    assert manifest["sha256"] == checksum(manifest)
    backwards = dict(reversed(manifest.items()))
    assert checksum(backwards) == manifest["sha256"]
    assert checksum({**manifest, "n": 12}) != manifest["sha256"]


# -- repair ----------------------------------------------------------------------------------------


def test_repair_removes_what_cannot_be_trusted_and_nothing_else(made, store):
    assert repair(store) == () and content(store) == content(made)  # nothing to do
    flip(store / SECOND, -5)
    (store / ".shard-00001.safetensors.77.tmp").write_bytes(b"half")
    (store / "shard-00009.safetensors").write_bytes(b"from somewhere")
    (store / "notes.txt").write_text("mine")
    done = repair(store)
    assert set(done) == {
        "removed .shard-00001.safetensors.77.tmp",
        "marked the store as not complete",
        f"removed {SECOND}",
        "removed shard-00009.safetensors",
    }
    found = verify(store)
    assert not found.damaged and not found.complete and not found.left
    assert (store / "notes.txt").read_text() == "mine"
    (store / "notes.txt").unlink()
    capture(store, resume=True)
    assert content(store) == content(made)


def cut(store, ranks):
    """The store as several processes leave it that are killed after all shards but the last."""
    manifest = json.loads((store / "manifest.json").read_text())
    from interp.manifest import write_manifest

    shards = manifest["shards"][:-1]
    for rank in range(ranks):
        noted = {**manifest, "complete": False, "shards": shards[rank::ranks]}
        write_manifest(store, noted, rank_list(rank))
    return shards


@pytest.mark.parametrize("ranks", [2, 3])
def test_repair_takes_in_what_other_processes_finished(made, store, ranks):
    shards = cut(store, ranks)
    assert [f.state for f in verify(store).left] == ["rank list"] * (ranks - 1) + ["unlisted"] * (
        4 - len(shards[::ranks])
    )
    done = repair(store)
    assert f"took {SECOND} into the manifest" in done
    assert "removed shard-00003.safetensors" in done  # nothing proves it
    assert [f.state for f in verify(store).files] == ["whole"] * 5
    capture(store, resume=True)
    assert content(store) == content(made)


def test_a_list_of_another_capture_or_a_damaged_one_is_not_believed(made, store):
    cut(store, 3)
    other = json.loads((store / "manifest-1.json").read_text())
    (store / "manifest-1.json").write_text(json.dumps({**other, "key": "another"}))
    (store / "manifest-2.json").write_text("{")
    assert not any(line.startswith("took") for line in repair(store))
    capture(store, resume=True)
    assert content(store) == content(made)


def test_resume_takes_in_what_other_processes_finished(made, store):
    cut(store, 3)
    flip(store / SECOND, -5)
    said = []
    capture_into(store, said)
    assert said == [f"2 of 4 shards are whole; 2 to capture, 1 of them damaged ({SECOND})"]
    assert content(store) == content(made)


def test_a_store_that_no_capture_made_is_repaired_too(store):
    edit(store, lambda m: [m.pop(k) for k in ("key", "sha256")])
    (store / SECOND).unlink()
    assert repair(store) == ("marked the store as not complete",)


def test_repair_leaves_an_altered_manifest_to_the_capture(made, store):
    edit(store, lambda m: m.update(n_rows=3))
    flip(store / SECOND, -5)
    before = content(store)
    assert repair(store) == () and content(store) == before
    capture(store, resume=True)
    assert content(store) == content(made)


# -- shards ----------------------------------------------------------------------------------------


def test_a_resumed_store_keeps_the_size_of_its_shards(made, store):
    (store / SECOND).unlink()
    capture_into(store, [], shard_rows=5)
    assert content(store) == content(made)


def test_the_size_of_shards_changes_no_number(made, tmp_path):
    other = capture(tmp_path / "o", shard_rows=5)
    assert len(other.manifest["shards"]) == 3 and other.manifest["shard_rows"] == 5
    assert other.manifest["key"] == interp.ActivationStore.open(made).manifest["key"]
    for name in ("0", "1"):
        held = interp.ActivationStore.open(made)[name][:]
        torch.testing.assert_close(other[name][:], held, rtol=1e-6, atol=1e-6)
    with pytest.raises(interp.errors.ParameterError, match="shard_rows must be at least 1; got 0"):
        capture(tmp_path / "p", shard_rows=0)


def test_a_tensor_without_columns_keeps_its_number_of_rows(tmp_path):
    store = interp.capture(network(), X, "0", pool="mean", out=tmp_path / "s")
    assert store.n == N == len(store.rows)
    assert interp.ActivationStore.open(tmp_path / "s").n == N
