"""Do SAEs find the directions that made the data? Mean maximum cosine similarity, by architecture.

    python examples/planted_dictionary.py [--architectures topk,relu] [--seeds 0,1,2] [--quick]

Rows are sums of few out of 2,048 random unit directions in 384 dimensions, 16 a row on average,
feature i with a chance proportional to (i + 1) ** -0.5 (a power law) and a uniform size from 0.5 to
1.5, plus noise of deviation 0.01; 524,288 rows, which 9,000 steps read 17 times. The similarity is
the mean, over the planted directions, of the best cosine among decoder rows; random directions of
the same number stand beside it. ``--quick``: 128 directions in 48 dimensions, 4 a row. k is the
planted number of active directions, penalties are the defaults.
"""

import argparse
import time

import torch

import saes
from saes.similarity import mean_max_cosine


class Planted:
    """The directions, how often each is active, and the rows made of them."""

    def __init__(self, features, d, active, rows, seed):
        generator = torch.Generator().manual_seed(seed)
        directions = torch.randn(features, d, generator=generator)
        self.directions = torch.nn.functional.normalize(directions, dim=1)
        chance = (1 + torch.arange(features)).float() ** -0.5
        self.chance = (chance * active / chance.sum()).clamp_max(1)
        self.X = torch.empty(rows, d)
        for start in range(0, rows, 8192):
            n = min(8192, rows - start)
            on = torch.rand(n, features, generator=generator) < self.chance
            size = 0.5 + torch.rand(n, features, generator=generator)
            self.X[start : start + n] = (on * size) @ self.directions
            self.X[start : start + n] += 0.01 * torch.randn(n, d, generator=generator)


def config_of(name, n_latents, active):
    config = saes.ARCHITECTURES[name][0]
    fields = {"n_latents": n_latents}
    if name == "codebook":
        fields = {"n_codes": n_latents, "layer_norm": False}
    if "k" in config.__dataclass_fields__:
        fields["k"] = active
    if name == "crosscoder":
        fields["n_layers"] = 1
    return config(**fields)


def main():
    parser = argparse.ArgumentParser(description="planted directions found, by architecture")
    parser.add_argument("--architectures", default="all", help="a comma list")
    parser.add_argument("--seeds", default="0,1,2", help="a comma list")
    parser.add_argument("--steps", type=int, default=9000)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--rows", type=int, default=2**19)
    parser.add_argument("--quick", action="store_true", help="a small case, in seconds")
    args = parser.parse_args()
    features, d, active = 2048, 384, 16
    if args.quick:
        features, d, active, args.steps, args.batch, args.rows = 128, 48, 4, 1500, 256, 2**16
    chosen = saes.ARCHITECTURES if args.architectures == "all" else args.architectures.split(",")
    print(f"{features:,} directions in {d}, {active} a row; {args.steps:,} steps of {args.batch:,}")
    for seed in map(int, args.seeds.split(",")):
        data = Planted(features, d, active, args.rows, seed)
        noise = torch.randn(features, d, generator=torch.Generator().manual_seed(99))
        chance = mean_max_cosine(noise, data.directions)
        print(f"seed {seed}: random directions {chance:.3f}", flush=True)
        for name in chosen:
            X = data.X[:, None] if name == "crosscoder" else data.X
            acts = (X, X) if name == "transcoder" else X
            start = time.perf_counter()
            sae = saes.train(
                acts,
                config_of(name, features, active),
                steps=args.steps,
                batch_size=args.batch,
                seed=seed,
            )
            seconds = time.perf_counter() - start
            decoder = sae.decoder.detach()
            held = X[:4096]
            with torch.no_grad():
                out = sae(held)
            fvu = float((out.output - held).square().sum() / (held - held.mean(0)).square().sum())
            print(
                f"  {name:13s} similarity {mean_max_cosine(decoder, data.directions):.3f}  "
                f"FVU {fvu:.3f}  L0 {float(out.codes.l0().float().mean()):.1f}  {seconds:.0f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
