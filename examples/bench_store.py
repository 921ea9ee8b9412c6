"""The memory that a sweep over a large store on disk takes.

    python examples/bench_store.py [--layers 50] [--rows 20000] [--d 2048] [--folder TMP]

A store of float16 activations is written layer by layer into shards and then probed, in a process
of its own whose largest resident set is printed, beside the bytes of the store and of one layer as
float32. The sweep is the recommended one with one strength and two shuffles instead of seven and
ten: those change the time, while the peak is that of the largest layer.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from interp.manifest import FORMAT, write_manifest
from interp.store import ActivationStore, write_shard
from probes import concept_depth

SHARD = 1000
"""Rows of a shard: all layers of them are in memory while it is written."""


def write(folder, layers, n, d):
    """A complete store whose label is ever easier to read."""
    y = np.arange(n) % 2
    names = [f"resid_post.{i}" for i in range(layers)]
    shards = []
    for start in range(0, n, SHARD):
        rows = range(start, min(start + SHARD, n))
        generator = torch.Generator().manual_seed(start)
        label = torch.from_numpy(y[rows.start : rows.stop]).float()
        noise = torch.randn(len(rows), d, generator=generator)
        tensors = {}
        for i, name in enumerate(names):
            X = noise.roll(i, 1)
            X[:, :8] += 0.3 * (i + 1) / layers * label[:, None]
            tensors[name] = X.half()
        file = f"shard-{len(shards):05d}.safetensors"
        digest = write_shard(folder / file, tensors)
        held = {"documents": [rows.start, rows.stop], "rows": dict.fromkeys(names, len(rows))}
        shards.append({"file": file, "sha256": digest, **held})
    table = pd.DataFrame({"label": y, "group": np.arange(n) // 4})
    table.to_parquet(folder / "rows.parquet")
    points = [{"name": k, "module": k, "shape": [d]} for k in names]
    about = {"format": FORMAT, "hookpoints": points, "pool": "last", "dtype": "float16", "n": n}
    rest = {"model": {}, "data": {"name": "planted"}, "shards": shards, "complete": True}
    write_manifest(folder, {**about, **rest})


def probe(folder):
    """The sweep, and what this process held at most."""
    start = time.perf_counter()
    store = ActivationStore.open(folder)
    depth = concept_depth(
        store, "label", "group", strengths=1e-3, permutations=2, random_features=False, device="cpu"
    )
    unit = 1 if sys.platform == "darwin" else 1024
    found = {
        "seconds": time.perf_counter() - start,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
        "accuracy": [float(depth.accuracy[0]), float(depth.accuracy[-1])],
    }
    print(json.dumps(found))


def main():
    parser = argparse.ArgumentParser(
        description="the memory that a sweep over a large store on disk takes"
    )
    parser.add_argument("--layers", type=int, default=50)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--d", type=int, default=2048)
    parser.add_argument("--folder", type=Path, help="where to write; a temporary folder by default")
    parser.add_argument("--probe", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.probe:
        probe(args.probe)
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        write(Path(folder), args.layers, args.rows, args.d)
        size = sum(p.stat().st_size for p in Path(folder).iterdir())
        command = [sys.executable, __file__, "--probe", folder]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)
    print(
        f"{args.layers} layers x {args.rows:,} x {args.d:,}, float16: {size / 1e9:.2f} GB on disk"
    )
    print(f"  a layer as float32  {args.rows * args.d * 4 / 1e9:6.2f} GB")
    print(f"  largest resident set{found['peak'] / 1e9:6.2f} GB  in {found['seconds']:.0f} s")
    print("  accuracy {:.3f} to {:.3f}".format(*found["accuracy"]))


if __name__ == "__main__":
    main()
