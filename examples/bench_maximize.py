"""ms a step of activation maximisation, beside a bare forward and backward of the same images.

``python examples/bench_maximize.py resnet20.py:load``; processor seconds of one thread, the median
of rounds that alternate.
"""

import argparse
import time
from statistics import median

import torch

import interp
import probes
from probes.multifaceted import objectives, schedules
from probes.multifaceted.total_variation import denoise_tv


def seconds(fn):
    began = time.process_time()
    fn()
    return time.process_time() - began


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--index", type=int, default=8)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=10)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = interp.load(arguments.model)
    objective = objectives.logit(arguments.index)
    n, size = arguments.batch, arguments.size
    drawn = torch.Generator().manual_seed(0)
    x = torch.rand(n, 3, size, size, generator=drawn)
    wanted = [p for p in model.module.parameters() if p.requires_grad]

    def bare():
        for p in wanted:
            p.requires_grad_(False)
        for _ in range(arguments.steps):
            leaf = x.clone().requires_grad_()
            torch.autograd.grad(model.module(leaf)[:, arguments.index].sum(), leaf)
        for p in wanted:
            p.requires_grad_(True)

    def climb(steps, redirect):
        plan = schedules.lucid(steps=steps, redirect=redirect)
        return lambda: probes.maximize(model, objective, starts=x, schedule=plan)

    def pixels(steps):
        octave = schedules.Octave(steps=steps, rate=(1, 2), tv=(0.4, 0.4))
        plan = schedules.Schedule(
            name="mfv", parameterisation="pixel", octaves=(octave,), optimiser="mean_abs"
        )
        return lambda: probes.maximize(model, objective, starts=x, schedule=plan)

    k = arguments.steps
    kinds = {
        "lucid": lambda: seconds(climb(k + 1, 0)) - seconds(climb(1, 0)),
        "lucid, redirected ReLUs": lambda: seconds(climb(k + 1, 999)) - seconds(climb(1, 999)),
        "mfv pixels with TV": lambda: seconds(pixels(k + 1)) - seconds(pixels(1)),
        "bare forward and backward": lambda: seconds(bare),
        "TV alone": lambda: k * seconds(lambda: denoise_tv(x, 0.4)),
    }
    for kind in kinds.values():
        kind()  # imports, and what is compiled at the first use
    found = {name: [] for name in kinds}
    for _ in range(arguments.rounds):
        for name, kind in kinds.items():
            found[name].append(kind() / k * 1e3)
    floor = median(found["bare forward and backward"])
    for name, times in found.items():
        ms = median(times)
        print(f"{name:28s} {ms:6.1f} ms a step of {n}, {ms / floor:.2f} x the floor")


if __name__ == "__main__":
    main()
