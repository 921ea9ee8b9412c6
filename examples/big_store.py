"""A store many times larger than memory: written, read in a shuffled order, and trained from.

    python examples/big_store.py [--gigabytes 20] [--limit 2] [--steps 200] [--folder TMP]

The store is an ordinary capture of every token's embedding, 1,024 wide in float32: a row costs the
model next to nothing, so that the time is that of the bytes. Then an epoch of its rows is read in
the order that a training reads them, and an SAE is trained from it. Each of the three runs in a
process of its own, which the system refuses more than ``--limit`` GB of memory: RLIMIT_DATA counts
all memory that a process may write to, touched or not, and not the pages of files, which the system
takes back when it needs them. A fourth process asks for more than the limit, to see that it holds.
Arrow's own allocator reserves a gigabyte that it leaves untouched, so the system's is used instead.
The peak that is printed is the largest resident set, pages of files included. The store is removed.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WIDTH, TEXT = 1024, 256
"""Width of a row, and tokens of a text."""
GB = 10**9


def model():
    """A model that embeds a hundred words, with a tokenizer of them."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    from interp.models import Model

    torch.manual_seed(0)
    config = GPT2Config(
        n_embd=WIDTH, n_layer=1, n_head=4, vocab_size=100, n_positions=TEXT, bos_token_id=1,
        eos_token_id=1,
    )  # fmt: skip
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(100)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="w0", unk_token="w0")
    return Model(GPT2LMHeadModel(config).eval(), spec="embedding", tokenizer=tokenizer)


def write(store, size, steps):
    """Capture so many bytes; returns the bytes of the store."""
    import interp

    draw = random.Random(0)
    n = max(1, round(size / (TEXT * WIDTH * 4)))
    texts = [" ".join(f"w{draw.randrange(2, 100)}" for _ in range(TEXT)) for _ in range(n)]
    interp.capture(model(), texts, "embed", pool="all", out=store)
    return sum(p.stat().st_size for p in store.iterdir())


def read(store, size, steps):
    """Read an epoch of shuffled batches; returns the bytes."""
    import torch

    import interp
    from saes.rows import Batches, read_rows

    rows = read_rows(interp.ActivationStore.open(store)["embed"])
    batches = Batches(rows, 4096, seed=0, device=torch.device("cpu"))
    return sum(batches[i][0].x.nbytes for i in range(rows.n // 4096))


def train(store, size, steps):
    """Train an SAE; returns the bytes of the rows that it saw."""
    import interp
    import saes

    acts = interp.ActivationStore.open(store)["embed"]
    config = saes.TopKConfig(n_latents=1024, k=16)
    sae = saes.train(acts, config, steps=steps, batch_size=1024, out=store.parent / "run")
    print(f"FVU {sae.training_log.fvu[0]:.3f} to {sae.training_log.fvu[-1]:.3f}", file=sys.stderr)
    return steps * 1024 * WIDTH * 4


def stage(name, store, size, limit, steps):
    """One of the three under the limit; prints what it took as JSON."""
    import resource

    from interp.memory import peak

    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    if name == "exceed":
        import torch

        try:
            torch.empty(limit, dtype=torch.uint8)
        except RuntimeError:
            print("{}")
            return
        raise SystemExit("the limit does not hold on this system")
    began = time.perf_counter()
    moved = {"write": write, "read": read, "train": train}[name](store, size, steps)
    print(json.dumps({"bytes": moved, "seconds": time.perf_counter() - began, "peak": peak()}))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=20)
    parser.add_argument("--limit", type=float, default=2, help="GB of memory of a process")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--folder", type=Path, help="where to write; a temporary folder by default")
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    args = parser.parse_args()
    size, limit = int(args.gigabytes * GB), int(args.limit * GB)
    if args.stage:
        stage(args.stage, args.folder, size, limit, args.steps)
        return
    free = shutil.disk_usage(args.folder or tempfile.gettempdir()).free
    if free < 1.05 * size:
        raise SystemExit(f"{size / GB:.1f} GB do not fit: {free / GB:.1f} GB are free")
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        for name in ("exceed", "write", "read", "train"):
            command = [sys.executable, __file__, "--stage", name, "--folder", f"{folder}/store"]
            numbers = ("--gigabytes", args.gigabytes, "--limit", args.limit, "--steps", args.steps)
            done = subprocess.run(
                [*command, *map(str, numbers)], stdout=subprocess.PIPE, text=True, check=True,
                env={**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system"},
            )  # fmt: skip
            if name == "exceed":
                print(f"{size / GB:.1f} GB, and {args.limit:g} GB of memory a process")
                continue
            found = json.loads(done.stdout)
            print(
                f"  {name:6} {found['bytes'] / GB:6.2f} GB {found['seconds']:6.0f} s "
                f"{found['bytes'] / found['seconds'] / 1e6:6.0f} MB/s  peak "
                f"{found['peak'] / GB:.2f} GB",
                flush=True,
            )


if __name__ == "__main__":
    main()
