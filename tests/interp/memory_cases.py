"""What a capture or a training states as its peak, and what it takes: `test_memory` runs this.

Imports come first, and each number is that of a child forked then, so that none sees what another
took. Prints JSON: case -> [bytes before, bytes stated, bytes taken].
"""

import json
import os
import random
import sys
import tempfile
import traceback
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
import transformers

import interp
import interp.planning
import saes
from interp import capturing
from interp.manifest import write_manifest
from interp.memory import peak, resident
from interp.models import Model
from interp.store import write_shard
from saes.planning import plan_training

sys.path.insert(0, str(Path(__file__).parents[1]))
from conftest import make_tokenizer

torch.set_num_threads(1)
MB = 2**20
ALIVE = {"batch": 64, "dead_after": 10**6}
"""Nothing is dead in so few rows, so that AuxK takes nothing."""


def model(width: int, layers: int) -> Model:
    config = transformers.GPT2Config(
        n_embd=width, n_layer=layers, n_head=4, vocab_size=100, n_positions=256, bos_token_id=1,
        eos_token_id=1,
    )  # fmt: skip
    module = transformers.GPT2LMHeadModel(config).eval()
    return Model(module, spec="random", tokenizer=make_tokenizer())


def texts(rows: int, tokens: int) -> list[str]:
    draw = random.Random(0)
    lengths = [draw.randrange(tokens // 2, tokens) for _ in range(rows)]
    return [" ".join(f"w{draw.randrange(2, 98)}" for _ in range(n)) for n in lengths]


def planted(rows: int, width: int) -> torch.Tensor:
    """Sums of few of 64 directions."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(64, width, generator=generator)
    x = torch.empty(rows, width)
    for part in x.split(4096):
        chosen = torch.rand(len(part), 64, generator=generator)
        torch.matmul(torch.where(chosen < 0.1, chosen, 0), directions, out=part)
    return x


def store_of(folder: Path, rows: int, width: int) -> interp.ActivationStore:
    """A store on disk of one shard."""
    digest = write_shard(folder / "shard-00000.safetensors", {"a": planted(rows, width)})
    pd.DataFrame({"i": np.arange(rows)}).to_parquet(folder / "rows.parquet")
    point = {"name": "a", "module": "a", "shape": [width]}
    shard = {"file": "shard-00000.safetensors", "sha256": digest, "rows": {"a": rows}}
    shard["documents"] = [0, rows]
    about = {"format": 1, "complete": True, "hookpoints": [point], "shards": [shard], "n": rows}
    rest = {"pool": "last", "dtype": "float32", "model": {}, "data": {"name": "planted"}}
    write_manifest(folder, {**about, **rest})
    return interp.ActivationStore.open(folder)


def capture(folder, planning, hookpoints, pool, width, layers, rows):
    """Many shards for pool all; a batch's activations for pool last."""
    work = capturing.Capture(model(width, layers), texts(rows, 250), hookpoints, pool)
    if planning:
        return work.plan().peak_bytes
    work.on_disk(folder / "acts", resume=False, force=False)
    return peak()


def capture_table(folder, planning):
    """Small rows beside long texts: the table of the columns is what takes memory."""
    draw = random.Random(0)
    parts = [pa.array([draw.randbytes(5000).hex() for _ in range(500)]) for _ in range(60)]
    rows = pd.DataFrame({"note": pd.array(pa.chunked_array(parts), dtype="string[pyarrow]")})
    x = torch.zeros(len(rows), 8)
    data = interp.Dataset(name="noted", kind="tensor", inputs=x, rows=rows)
    work = capturing.Capture(torch.nn.Sequential(torch.nn.Linear(8, 8)), data, ["0"])
    if planning:
        return work.plan().peak_bytes
    work.on_disk(folder / "acts", resume=False, force=False)
    return peak()


def learn(folder, planning, acts, n_latents, steps=12, batch=512, **more):
    config = saes.TopKConfig(n_latents=n_latents, k=8)
    if planning:
        return plan_training(acts, config, steps=steps, batch_size=batch, **more).peak_bytes
    saes.train(acts, config, steps=steps, batch_size=batch, out=folder / "run", **more)
    return peak()


def from_store(folder, planning, name, n_latents, **more):
    acts = interp.ActivationStore.open(folder.parent / name)["a"]
    return learn(folder, planning, acts, n_latents, **more)


def from_model(folder, planning):
    rows = saes.ModelRows(model(256, 2), texts(900, 250), "resid_post.0", buffer_rows=100_000)
    return learn(folder, planning, rows, 1024, batch=4096, steps=50)


CASES = {
    "capture all": lambda f, p: capture(f, p, "embed", "all", 1024, 1, 900),
    "capture a long table": capture_table,
    "train from a store": lambda f, p: from_store(f, p, "tall", 1024),
    "capture last": lambda f, p: capture(f, p, "resid_post.*", "last", 1024, 2, 120),
    "train wide": lambda f, p: from_store(f, p, "short", 32768, ema=0.9, **ALIVE),
    "train from a model": from_model,
}
"""The name of a case -> what states, or takes, its memory."""


def child(work) -> int:
    """What a function gives in a fork of this process."""
    reads, writes = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.write(writes, str(int(work())).encode())
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writes)
    with os.fdopen(reads, "rb") as file:
        text = file.read()
    _, status = os.waitpid(pid, 0)
    if status or not text:
        raise SystemExit(f"a child failed: {status}")
    return int(text)


def main() -> None:
    interp.planning.SHARD_BYTES = 160 * MB
    found = {}
    with tempfile.TemporaryDirectory() as top:
        for name, rows, width in (("tall", 100_000, 512), ("short", 4000, 256)):
            (Path(top) / name).mkdir()
            child(lambda n=name, r=rows, w=width: store_of(Path(top) / n, r, w).n)
        for name in sys.argv[1:]:
            folder = Path(top) / name
            folder.mkdir()
            before = resident()
            stated = child(lambda n=name, f=folder: CASES[n](f, True))
            found[name] = [before, stated, child(lambda n=name, f=folder: CASES[n](f, False))]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
