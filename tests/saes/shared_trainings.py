"""Small trainings of every architecture, run by one process or, as a script, by those of torchrun.

``shared_trainings.py FOLDER [whole] [resume] [broken]`` writes what rank 0 saw into
``FOLDER/logs.json``.
"""

import json
import sys
from pathlib import Path

import torch

import saes
from interp.distributed import World, world
from interp.errors import InterpError
from saes import rows, trainee
from saes.ranks import Ranks
from saes.rows import MatrixRows, seeded

N, D, F, BATCH = 700, 12, 120, 101
"""The batch splits into unequal parts, and epochs and chunks end in the middle of one."""


def planted():
    """[N, D] sums of 2 of 20 directions."""
    generator = seeded(0, "planted")
    directions = torch.nn.functional.normalize(torch.randn(20, D, generator=generator), dim=1)
    chosen = torch.rand(N, 20, generator=generator).topk(2, dim=1).indices
    weights = 1 + torch.rand(N, 2, generator=generator)
    return torch.zeros(N, 20).scatter_(1, chosen, weights) @ directions + 0.3


X = planted()
CASES = {
    "topk": saes.TopKConfig(n_latents=F, k=2),
    "topk multi_k": saes.TopKConfig(n_latents=F, k=2, multi_k=True),
    "topk group_max": saes.TopKConfig(n_latents=F, k=2, selection="group_max"),
    "topk statistical": saes.TopKConfig(n_latents=F, k=2, selection="statistical"),
    "batch_topk": saes.BatchTopKConfig(n_latents=F, k=2),
    "matryoshka": saes.MatryoshkaConfig(n_latents=F, k=2, prefixes=(4, 9, F)),
    "relu": saes.ReLUConfig(n_latents=F),
    "gated": saes.GatedConfig(n_latents=F),
    "jumprelu": saes.JumpReLUConfig(n_latents=F, first_threshold=0.2),
    "jumprelu l0_target": saes.JumpReLUConfig(n_latents=F, first_threshold=0.2, l0_target=2),
    "transcoder": saes.TranscoderConfig(n_latents=F, k=2, skip=True),
    "crosscoder": saes.CrosscoderConfig(n_latents=F, n_layers=3),
    "codebook": saes.CodebookConfig(n_codes=F, k=2, layer_norm=False),
    "vl": saes.VLConfig(n_latents=F, k=2),
    "vl strict": saes.VLConfig(n_latents=F, k=2, ties="strict"),
    "vl shared": saes.VLConfig(n_latents=F, k=2, design="shared"),
    "vl separate": saes.VLConfig(n_latents=F, k=2, design="separate"),
}
USUAL = {
    "steps": 16, "batch_size": BATCH, "lr": 1e-2, "warmup": 4, "ema": 0.9, "dead_after": 110,
    "checkpoint_every": 5, "log_every": 1,
}  # fmt: skip


def acts_for(architecture):
    """Activations of the shape that an architecture reads."""
    if architecture in ("transcoder", "vl"):
        return X, X.flip(1) * 3
    return torch.stack([X, 4 * X, -X], dim=1) if architecture == "crosscoder" else X


def options_for(name):
    """Each resamples at one step, and what has k comes down to it."""
    found = {**USUAL, "resample_every": 9}
    if hasattr(CASES[name], "k") and "group" not in name:
        found |= {"k_start": 4, "k_steps": 8}
    return found


class Recorded(MatrixRows):
    """Rows in small chunks."""

    def __init__(self, sites):
        super().__init__(sites)
        self.chunk_rows = 256


def learn(name, **more):
    config = CASES[name]
    acts = Recorded({"": acts_for(config.architecture)})
    return saes.train(acts, config, **{**options_for(name), **more})


def log_of(sae):
    log = sae.training_log
    columns = {"fvu": log.fvu, "l0": log.l0, "dead": log.dead, **log.loss}
    weights = sum(float(v.double().abs().nan_to_num().sum()) for v in sae.state_dict().values())
    return {**{k: v.tolist() for k, v in columns.items()}, "weights": weights}


def run_all(folder=None):
    trainee.REFRESH = 3  # dead latents are looked for often, so that short trainings have some
    return {name: log_of(learn(name)) for name in CASES}


if __name__ == "__main__":
    folder, *flags = sys.argv[1:]
    if "broken" in flags:
        Ranks.add_gradients = lambda self, parameters: None
        Ranks.check_equal = lambda self, *a: None
    logs = run_all()
    if world().leads:
        Path(folder, "logs.json").write_text(json.dumps(logs))
    world().stop()
