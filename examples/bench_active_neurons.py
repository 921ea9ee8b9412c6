"""Time of an MLP's second product on active neurons only, beside the dense one, on a CPU.

    python examples/bench_active_neurons.py --d-model 768 --d-ff 3072

One token at a time (as in decoding) the active rows of W are gathered and multiplied; many tokens
at once, each with its own active neurons, go through ``embedding_bag``, which sums weighted rows.
Both find the active neurons first, which is in the time. Activations are those of a ReLU whose
share of active neurons is set; the last lines are demo:pylm's own, layer by layer.
"""

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

import interp
from interp.demo.python import python_source
from probes import mlp_flops


def dense(a: Tensor, w: Tensor) -> Tensor:
    """[t, d_ff] @ [d_ff, d_model]."""
    return a @ w


def active_only(a: Tensor, w: Tensor) -> Tensor:
    """The same product from the rows of w whose neuron is not 0."""
    if len(a) == 1:
        (at,) = a[0].nonzero(as_tuple=True)
        return (a[0, at] @ w[at])[None]
    token, neuron = a.nonzero(as_tuple=True)
    starts = torch.searchsorted(token, torch.arange(len(a)))
    return F.embedding_bag(neuron, w, starts, mode="sum", per_sample_weights=a[token, neuron])


def median_seconds(run: Callable[[], Tensor], rounds: int) -> float:
    """Median over rounds, each long enough for the clock."""
    run()
    times = []
    for _ in range(rounds):
        began, n = time.perf_counter(), 0
        while (spent := time.perf_counter() - began) < 0.02:
            run()
            n += 1
        times.append(spent / n)
    return sorted(times)[rounds // 2]


def compare(name: str, a: Tensor, w: Tensor, rounds: int) -> None:
    """Print one line: both times, and how many times as fast active neurons alone are."""
    torch.testing.assert_close(active_only(a, w), dense(a, w), rtol=1e-3, atol=1e-3)
    slow, fast = (median_seconds(lambda f=f: f(a, w), rounds) for f in (dense, active_only))
    d_ff, d_model = w.shape
    density = float((a != 0).double().mean())
    flops = mlp_flops(d_model, d_ff, density * d_ff) / mlp_flops(d_model, d_ff)
    print(
        f"{name:16} {len(a):6} {density:8.3f} {slow * 1e6:10.1f} {fast * 1e6:10.1f} "
        f"{slow / fast:8.2f}x {flops:12.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="The second product on active neurons only.")
    parser.add_argument("--d-model", type=int, default=768)
    parser.add_argument("--d-ff", type=int, default=3072)
    parser.add_argument("--densities", type=float, nargs="+", default=[0.5, 0.25, 0.1, 0.03, 0.01])
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    print(f"{torch.get_num_threads()} threads, float32; FLOPs are of the whole MLP")
    print("activations      tokens  density   dense us  active us    faster  FLOPs ratio")
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(options.d_ff, options.d_model, generator=generator) / options.d_ff**0.5
    for t in options.tokens:
        for density in options.densities:
            a = torch.rand(t, options.d_ff, generator=generator) + 0.1
            a *= torch.rand(t, options.d_ff, generator=generator) < density
            compare(f"{options.d_model} x {options.d_ff}", a, w, options.rounds)
    model = interp.load("demo:pylm")
    text = str(python_source(60).inputs[0])
    _, acts = interp.run_with_cache(model, text, ["mlp_act.*"])
    weights = dict(model.module.named_parameters())
    for i, name in enumerate(acts):
        w = weights[f"transformer.h.{i}.mlp.c_proj.weight"].detach()  # [d_ff, d_model]
        for t in (1, len(acts[name][0])):
            compare(f"pylm {name}", acts[name][0, -t:].clone(), w, options.rounds)


if __name__ == "__main__":
    main()
