"""A codebook and a TopK autoencoder on the same activations, judged by the same measures.

    python examples/codebook_and_sae.py            # a minute on one CPU core

Both are trained by `saes.train` on the same rows and batches of demo:pylm, with silent latents set
to rows that are explained badly. They are judged on texts that training did not see: L0, the share
of variance left over (FVU), the share of latents that never fire, how much of the model's loss is
kept where their output takes the activation's place, and how far what the model says then moves.
"""

import argparse

import pandas as pd

import interp
import saes
from interp.demo.python import python_source


def compared(model, site, configs, train, held_out, *, steps=300, batch_size=1024, seed=0):
    """A table with a row a config: everything but the config is the same."""
    rows = interp.capture(model, train, [site], pool="all")[site]
    unseen = interp.capture(model, held_out, [site], pool="all")[site]
    table = []
    for name, config in configs.items():
        coder = saes.train(rows, config, steps=steps, batch_size=batch_size, seed=seed, name=name,
                           resample_every=max(1, steps // 8))  # fmt: skip
        found = saes.evaluate(coder, unseen)
        loss = saes.loss_recovered(model, coder, held_out, site)
        dead = found.dead / config.n_latents
        table.append(
            (name, config.n_latents, found.l0, found.fvu, dead, loss.recovered_mean, loss.kl)
        )
    columns = ["coder", "latents", "L0", "FVU", "dead", "loss recovered", "KL"]
    return pd.DataFrame(table, columns=columns)


def main():
    parser = argparse.ArgumentParser(description="codebook and SAE compared")
    parser.add_argument("--site", default="mlp_out.1")
    parser.add_argument("--latents", type=int, default=512)
    parser.add_argument("--steps", type=int, default=300)
    args = parser.parse_args()
    n = args.latents
    configs = {f"topk, k={k}": saes.TopKConfig(n_latents=n, k=k) for k in (1, 8)}
    for k in (1, 8):
        config = saes.CodebookConfig(n_codes=n, k=k, layer_norm=False, similarity="euclidean")
        configs[f"codebook, k={k}"] = config
    data = python_source(750)
    files = sorted(set(data.rows["file"]))
    unseen = data.rows["file"].isin(files[::6])
    train = [t for t, out in zip(data.inputs, unseen, strict=True) if not out]
    held_out = [t for t, out in zip(data.inputs, unseen, strict=True) if out]
    table = compared(
        interp.load("demo:pylm"), args.site, configs, train, held_out, steps=args.steps
    )
    print(table.round(3).to_string(index=False))


if __name__ == "__main__":
    main()
