"""Whether memory and speed stay as they are over a long run.

    python examples/long_run.py [--steps 10000] [--leak]

A training of so many steps and a capture of so many batches, each in a process of its own, with a
small model. After a tenth, when allocators and caches have settled, until the end the resident set
is looked at two hundred times. Printed are its first and its last value, the slope with its
standard error (of means of ten neighbouring values, which are nearly independent), and steps per
second in the first and in the last fifth of that time: of the processor's seconds, which do not
depend on what else the machine does, and of the clock's. With ``--leak`` a list keeps 16 kB of each
step, to see that such a leak is found.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

LOOKS = 200
LEAKED = 16384
"""Bytes that each step leaves behind with ``--leak``."""


class Watch:
    """Called at each step: keeps the resident set and the time, in arrays made before."""

    def __init__(self, steps, leak):
        self.first, self.every = steps // 10, max(1, steps * 9 // 10 // LOOKS)
        self.at = np.zeros((LOOKS + 1, 4))
        self.step = self.seen = 0
        self.kept = [] if leak else None

    def __call__(self, *_):
        """Count a step, and look."""
        import torch

        from interp.memory import resident

        self.step += 1
        if self.kept is not None:
            self.kept.append(torch.ones(LEAKED, dtype=torch.uint8))
        past = self.step - self.first
        if past >= 0 and past % self.every == 0 and self.seen < len(self.at):
            clocks = time.process_time(), time.perf_counter()
            self.at[self.seen] = self.step, resident(), *clocks
            self.seen += 1


def train(steps, watch):
    """A training that writes ten checkpoints, has a log, a mean of weights and dead latents."""
    import torch

    import saes

    x = torch.randn(4000, 16, generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as folder:
        saes.train(
            x, saes.TopKConfig(n_latents=64, k=4), steps=steps, batch_size=64, out=folder, ema=0.99,
            progress=watch, resample_every=max(1, steps // 20),
        )  # fmt: skip


def capture(steps, watch):
    """A capture of every token into a store of many shards, a batch of four texts at a time."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    from interp import capturing, planning
    from interp.models import Model

    torch.manual_seed(0)
    config = GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=100, n_positions=16,
                        bos_token_id=1, eos_token_id=1)  # fmt: skip
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(100)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="w0", unk_token="w0")
    model = Model(GPT2LMHeadModel(config).eval(), spec="random", tokenizer=tokenizer)
    draw = random.Random(0)
    texts = [
        " ".join(f"w{draw.randrange(2, 100)}" for _ in range(draw.randrange(4, 16)))
        for _ in range(4 * steps)
    ]
    planning.SHARD_ROWS = max(4, 4 * steps // 40)  # forty shards
    work = capturing.Capture(model, texts, "resid_post.*", "all", batch_size=4)
    with tempfile.TemporaryDirectory() as folder:
        work.on_disk(Path(folder) / "acts", resume=False, force=False, progress=watch)


def judge(at):
    """First and last memory, slope and its error in bytes a step, and the speeds."""
    step, memory, *clocks = at.T
    tens = len(at) // 10 * 10
    x, y = (v[:tens].reshape(-1, 10).mean(1) for v in (step, memory))
    x = x - x.mean()
    slope = x @ y / (x @ x)
    left = y - y.mean() - slope * x
    error = np.sqrt(left @ left / (len(x) - 2) / (x @ x))
    fifth = len(at) // 5
    ends = ((0, fifth), (len(at) - 1 - fifth, len(at) - 1))
    speeds = [[(step[b] - step[a]) / (s[b] - s[a]) for a, b in ends] for s in clocks]
    return {
        "first": memory[0],
        "last": memory[-1],
        "growth": y[-2:].mean() - y[:2].mean(),
        "slope": slope,
        "error": error,
        "speeds": speeds[0],
        "by the clock": speeds[1],
    }


def main():
    parser = argparse.ArgumentParser(description="memory and speed over a long run")
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--leak", action="store_true", help="keep 16 kB of each step")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--run", choices=("train", "capture"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        watch = Watch(args.steps, args.leak)
        {"train": train, "capture": capture}[args.run](args.steps, watch)
        print(json.dumps(judge(watch.at[: watch.seen])))
        return
    found = {}
    for name in ("train", "capture"):
        command = [sys.executable, __file__, "--run", name, "--steps", str(args.steps)]
        command += ["--leak"] if args.leak else []
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found[name] = json.loads(done.stdout)
    if args.json:
        print(json.dumps(found))
        return
    print(f"{args.steps:,} steps, looked at from step {args.steps // 10:,} on")
    columns = ("MB first", "last", "bytes a step", "steps/s", "last", "ratio", "by the clock")
    print(" " * 8 + "".join(f"{c:>14}" for c in columns))
    for name, f in found.items():
        (first, last), (early, late) = f["speeds"], f["by the clock"]
        cells = (
            f"{f['first'] / 1e6:.1f}", f"{f['last'] / 1e6:.1f}",
            f"{f['slope']:.1f} ± {f['error']:.1f}", f"{first:.0f}", f"{last:.0f}",
            f"{last / first:.2f}", f"{late / early:.2f}",
        )  # fmt: skip
        print(f"{name:8}" + "".join(f"{c:>14}" for c in cells))


if __name__ == "__main__":
    main()
