"""What a rank holds, and how long a step takes, of a TopK SAE alone and over the ranks of torchrun.

python examples/bench_shards.py
torchrun --standalone --nproc-per-node 2 examples/bench_shards.py
"""

import argparse
import json
import statistics
import time

import torch

import saes
from interp.distributed import world
from interp.memory import peak
from saes.optimizer import Adam
from saes.shards import local


def main() -> None:
    """Train for a few steps and print a line of JSON: of each rank what it held."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--n-latents", type=int, default=131_072)
    options.add_argument("--width", type=int, default=256)
    options.add_argument("--k", type=int, default=32)
    options.add_argument("--rows", type=int, default=256)
    options.add_argument("--steps", type=int, default=8)
    given = options.parse_args()
    torch.set_num_threads(1)
    step(make(saes.TopKConfig(n_latents=64, k=8), 16), torch.randn(8, 16), 1)  # imports, threads
    before = peak() or 0
    sae = make(saes.TopKConfig(n_latents=given.n_latents, k=given.k), given.width)
    x = torch.randn(given.rows, given.width, generator=torch.Generator().manual_seed(1))
    seconds, held, loss = step(sae, x, given.steps)
    found = {"bytes": held, "peak_bytes": (peak() or 0) - before, "seconds": seconds, "loss": loss}
    every = world().gather(found)
    if world().leads:
        print(json.dumps(every))
    world().stop()


def make(config: saes.TopKConfig, width: int) -> saes.SAE:
    """The SAE whole, or under torchrun this rank's part."""
    generator = torch.Generator().manual_seed(0)
    if world().size == 1:
        return saes.SAE.from_config(config, width, generator=generator)
    return saes.ShardedSAE.from_config(config, width, generator=generator)


def step(sae: saes.SAE, x: torch.Tensor, steps: int) -> tuple[float, int, float]:
    """The median seconds of steps, bytes of parameters and moments here, and the last loss."""
    named = dict(sae.named_parameters())
    optimizer = Adam(named.values(), 1e-3, unit=named["decoder"], clip=1.0)
    times, loss = [], 0.0
    for _ in range(steps):
        began = time.perf_counter()
        total = sae.loss(x).total
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        times.append(time.perf_counter() - began)
        loss = float(total.detach())
    moments = (m for state in optimizer.state.values() for m in state.values())
    held = (local(t.detach()) for t in (*named.values(), *moments))
    return statistics.median(times), sum(t.numel() * t.element_size() for t in held), loss


if __name__ == "__main__":
    main()
