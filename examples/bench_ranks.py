"""What a step of 4,096 rows costs one process with two threads, and two processes with one each.

    python examples/bench_ranks.py
    torchrun --standalone --nproc-per-node 2 examples/bench_ranks.py

4,096 latents of width 512, 8 steps; the least and the median time, and the last FVU.
"""

import time

import torch

import saes
from interp.distributed import world


def main() -> None:
    torch.set_num_threads(2 if world().size == 1 else 1)
    X = torch.randn(16384, 512, generator=torch.Generator().manual_seed(0))
    for config in (saes.TopKConfig(n_latents=4096, k=32), saes.ReLUConfig(n_latents=4096)):
        times: list[float] = []
        sae = saes.train(
            X, config, steps=8, batch_size=4096, log_every=1,
            progress=lambda done, total, what, t=times: t.append(time.perf_counter()),
        )  # fmt: skip
        took = sorted(b - a for a, b in zip(times[:-1], times[1:], strict=True))
        if world().leads and sae.training_log is not None:
            name = f"{world().size} processes, {config.architecture}"
            print(f"{name}: {took[0]:.2f} s, median {took[len(took) // 2]:.2f} s a step, "
                  f"FVU {sae.training_log.fvu[-1]:.6g}")  # fmt: skip
    world().stop()


if __name__ == "__main__":
    main()
