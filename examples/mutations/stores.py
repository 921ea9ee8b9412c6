"""Stores with a spoilt manifest, table of rows or shard; judged by the sound store."""

import json
import os
from pathlib import Path
from random import Random
from typing import Any

import torch

from interp.manifest import write_manifest
from interp.store import ActivationStore
from mutations.bench import POINT, Bench
from mutations.headers import spoil_file
from mutations.junk import Sound, spoil, spoil_json
from mutations.trial import Case


def case(bench: Bench, folder: Path, random: Random) -> Case:
    """A store whose manifest, rows or shards' headers are spoilt, read whole or by a command."""
    store = bench.copy(bench.store, folder / "acts")
    part = random.choice(["manifest", "manifest", "manifest", "path", "rows", "shard", "entries"])
    what = PARTS[part](store, random) + _sealed(store, random)
    if isinstance(random, Sound):
        store, what = bench.copy(bench.store, folder / "sound"), "sound"
    out = folder / "out"
    way = random.choice(["read", "read", "train", "geometry"])
    if way == "read":
        return Case(
            f"{part}: {what}", call=lambda: _all(store), judge=lambda got: _equal(got, bench)
        )
    if way == "train":
        line = ["sae", "train", "--store", str(store), "-p", POINT, "--steps", "3", "--k", "2"]
        line += ["--n-latents", "24", "--batch-size", "8", "--out", str(out)]
    else:
        line = ["geometry", str(store), "-m", "rank", "-p", POINT, "--out", str(out)]

    def judge(done: Any) -> str | None:
        usual = bench.usual(f"{way}-store", lambda b, n, o: _usual(line, store, b.store, out, o))
        theirs, ours = (numbers(d) for d in (usual, out))
        return None if ours == theirs else f"numbers are not those of the sound store: {ours}"

    return Case(f"{part}, {way}: {what}", line, judge=judge, keep=[out])


def resumed(bench: Bench, folder: Path, random: Random) -> Case:
    """A capture that goes on in a store of which anything at all is spoilt."""
    store = bench.copy(bench.store, folder / "acts")
    names = [p.name for p in store.iterdir()]
    name = random.choice(sorted(names))
    file = store / name
    if isinstance(random, Sound):
        what = "sound"
    elif file.suffix == ".safetensors" and random.random() < 0.8:
        what = spoil_file(file, random)
    elif file.suffix == ".json" and random.random() < 0.8:
        what = PARTS[random.choice(["manifest", "path", "entries"])](store, random)
    elif random.random() < 0.3:
        file.unlink()
        what = "gone"
    else:
        what, data = spoil(file.read_bytes(), random)
        file.write_bytes(data)
    both = f"{POINT},resid_post.1"
    line = ["capture", str(bench.model), str(bench.table), "-p", both, "--out", str(store)]
    return Case(
        f"resume, {name}: {what}",
        [*line, "--resume"],
        judge=lambda done: _equal(_all(store), bench, whole=True),
        keep=[store] if name != "manifest.json" else [],
    )


def _all(store: Path) -> dict[str, Any]:
    """Everything in a store."""
    held = ActivationStore.open(store)
    found: dict[str, Any] = {name: held[name][:] for name in held.hookpoints}
    for name in held.hookpoints:
        rows = held.rows_of(name)
        if len(rows) != len(held[name]):
            raise AssertionError(f"{len(rows)} rows for {len(held[name])} activations")
        if not torch.equal(held[name][[1, 0]], held[name][:][[1, 0]]):
            raise AssertionError("rows by index are other rows")
    return {**found, "rows": held.rows.to_dict("records"), "n": held.n}


def _equal(got: dict[str, Any], bench: Bench, whole: bool = False) -> str | None:
    """What was read is the sound store, or a part of it; a part only where that may be."""
    want = bench.sound(_all)
    if whole and got.keys() != want.keys():
        return f"holds {', '.join(got)}"
    for name, value in got.items():
        if name not in want:
            return f"{name!r} is in no sound store"
        same = torch.equal(value, want[name]) if torch.is_tensor(value) else value == want[name]
        if not same:
            return f"{name} is not what the sound store holds"
    return None


def _usual(line: list[str], store: Path, sound: Path, out: Path, new: Path) -> list[str]:
    swap = {str(store): str(sound), str(out): str(new)}
    return [swap.get(a, a) for a in line]


def numbers(run: Path) -> list[Any]:
    """The numbers of a run, in order."""
    found: list[Any] = []

    def walk(value: Any) -> None:
        for inner in value.values() if isinstance(value, dict) else value:
            if isinstance(inner, dict | list):
                walk(inner)
            elif isinstance(inner, int | float):
                found.append(inner)

    walk(json.loads((run / "metrics.json").read_text()))
    return found


def _sealed(store: Path, random: Random) -> str:
    """Perhaps put the checksum right, as one who means harm would, or leave it out."""
    way = random.choice(["", "", ", sealed", ", unsealed"])
    try:
        manifest = json.loads((store / "manifest.json").read_text(encoding="utf-8"))
        manifest.pop("sha256")
        if way == ", sealed":
            write_manifest(store, manifest)
        elif way:
            (store / "manifest.json").write_text(json.dumps(manifest))
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
        return ""  # it is no manifest any more
    return way


def _manifest(store: Path, random: Random) -> str:
    return spoil_json(store / "manifest.json", random)


def _path(store: Path, random: Random) -> str:
    """A manifest that points outside, or at what is no file of its own."""
    file = store / "manifest.json"
    manifest = json.loads(file.read_text())
    outside = store.parent / "outside.safetensors"
    outside.write_bytes((store / manifest["shards"][0]["file"]).read_bytes())
    entry = random.choice(manifest["shards"])
    names = ["../outside.safetensors", str(outside), "", ".", "..", "/", "a\x00b", "rows.parquet",
             "manifest.json", "a/../b", "shard-00000.safetensors/", "CON", "x" * 300,
             "~", "/dev/zero"]  # fmt: skip
    way = random.choice([*names, "symlink", "folder", "rows symlink", "fifo"])
    own = store / entry["file"]
    if way == "symlink":
        own.unlink()
        own.symlink_to(outside)
    elif way == "rows symlink":
        rows = store / "rows.parquet"
        (store.parent / "rows.parquet").write_bytes(rows.read_bytes())
        rows.unlink()
        rows.symlink_to(store.parent / "rows.parquet")
    elif way in ("folder", "fifo"):
        own.unlink()
        os.mkfifo(own) if way == "fifo" else own.mkdir()
    else:
        entry["file"] = way
        file.write_text(json.dumps(manifest))
    return repr(way[:40])


def _rows(store: Path, random: Random) -> str:
    import pyarrow.parquet as pq

    file = store / "rows.parquet"
    way = random.choice(["bytes", "bytes", "fewer", "more", "no columns", "gone"])
    table = pq.read_table(file)
    if way == "bytes":
        way, data = spoil(file.read_bytes(), random)
        file.write_bytes(data)
    elif way == "gone":
        file.unlink()
    elif way == "no columns":
        pq.write_table(table.select([]), file)
    else:
        import pyarrow as pa

        pq.write_table(table.slice(0, 5) if way == "fewer" else pa.concat_tables([table] * 2), file)
    return way


def _shard(store: Path, random: Random) -> str:
    return spoil_file(random.choice(sorted(store.glob("shard-*"))), random, data=False)


def _entries(store: Path, random: Random) -> str:
    """A list of shards that is not the one written."""
    file = store / "manifest.json"
    manifest = json.loads(file.read_text())
    shards = manifest["shards"]
    way = random.choice(["twice", "none", "turned", "one less", "files changed places", "counts"])
    if way == "twice":
        shards.append(shards[-1])
    elif way == "none":
        shards.clear()
    elif way == "turned":
        shards.reverse()
    elif way == "one less":
        shards.pop(random.randrange(len(shards)))
    elif way == "files changed places":
        shards[0]["file"], shards[1]["file"] = shards[1]["file"], shards[0]["file"]
    else:
        shards[0]["rows"][POINT] = random.choice([0, 7, 9, -8, 8.0, "8", True, 10**30])
        way = f"{shards[0]['rows'][POINT]!r} rows"
    file.write_text(json.dumps(manifest))
    return way


PARTS = {"manifest": _manifest, "path": _path, "rows": _rows, "shard": _shard, "entries": _entries}
