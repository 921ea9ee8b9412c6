"""Small trainings of every architecture, run by one process or, as a script, by those of torchrun.

``shared_trainings.py FOLDER`` writes what it saw into ``FOLDER/logs.json``; ``FOLDER/one`` is a
training that one process left.
"""

import json
import sys
from pathlib import Path

import torch

import saes
from interp.distributed import world
from interp.errors import InterpError
from saes import trainee
from saes.ranks import Ranks
from saes.rows import MatrixRows, seeded

N, D, F, BATCH = 700, 12, 64, 101
"""The batch splits into unequal parts, and epochs and chunks end in the middle of one."""


def planted():
    """[N, D] sums of 2 of 20 directions."""
    generator = seeded(0, "planted")
    directions = torch.nn.functional.normalize(torch.randn(20, D, generator=generator), dim=1)
    chosen = torch.rand(N, 20, generator=generator).topk(2, dim=1).indices
    weights = 1 + torch.rand(N, 2, generator=generator)
    return torch.zeros(N, 20).scatter_(1, chosen, weights) @ directions + 0.3


X = planted()
REFRESH = 3
"""Dead latents are looked for often, so that short trainings have some."""
CASES = {
    "topk": saes.TopKConfig(n_latents=F, k=2),
    "topk multi_k": saes.TopKConfig(n_latents=F, k=2, multi_k=True),
    "topk group_max": saes.TopKConfig(n_latents=F, k=2, selection="group_max"),
    "topk statistical": saes.TopKConfig(n_latents=F, k=2, selection="statistical"),
    "batch_topk": saes.BatchTopKConfig(n_latents=F, k=2),
    "matryoshka": saes.MatryoshkaConfig(n_latents=F, k=2, prefixes=(4, 9, F)),
    "relu": saes.ReLUConfig(n_latents=F, l1=20),
    "gated": saes.GatedConfig(n_latents=F, l1=20),
    "jumprelu": saes.JumpReLUConfig(n_latents=F, first_threshold=1.5),
    "jumprelu l0_target": saes.JumpReLUConfig(n_latents=F, first_threshold=1.5, l0_target=8),
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
    """Each resamples once, and what has k comes down to it.

    It begins with a k of 8: of a row with one latent alone, at tied first weights, the gradient is
    0 up to rounding, which Adam makes a step of full size.
    """
    found = {**USUAL, "resample_every": 13}
    if hasattr(CASES[name], "k") and "group" not in name:
        found |= {"k_start": 8, "k_steps": 10}
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
    """What was logged, and the size of all weights."""
    log = sae.training_log
    columns = {"fvu": log.fvu, "l0": log.l0, "dead": log.dead, **log.loss}
    weights = sum(float(v.double().abs().nan_to_num().sum()) for v in sae.state_dict().values())
    return {**{k: v.tolist() for k, v in columns.items()}, "weights": [weights]}


def run_all():
    """The log of each case, and how many latents it resampled."""
    found = {}
    whole = trainee.resample
    for name in CASES:
        counts = []
        trainee.resample = lambda sae, latents, *a, c=counts: (
            c.append(len(latents)), whole(sae, latents, *a)
        )  # fmt: skip
        found[name] = log_of(learn(name)) | {"resampled": [sum(counts)]}
    trainee.resample = whole
    return found


class Killed(Exception):
    pass


def kill_at(step):
    def progress(done, total, what):
        if done == step:
            raise Killed

    return progress


def recorded(run):
    """What ``run`` gives, and the rows that each step learnt from, of all processes in order."""
    steps, whole = [], trainee.Trainee.step

    def step(self, pair, i, **options):
        own = [int((X[:, 0] == v).nonzero()) for v in pair.x[:, 0]]
        steps.append(sum(world().gather(own), []))
        whole(self, pair, i, **options)

    trainee.Trainee.step = step
    try:
        return run(), steps
    finally:
        trainee.Trainee.step = whole


def kill_in(folder):
    """Leave a training in a folder that was killed in step 8; its last checkpoint is of step 5."""
    try:
        learn("batch_topk", out=folder, progress=kill_at(8))
    except Killed:
        return
    raise AssertionError


def resume_in(folder):
    sae, steps = recorded(lambda: learn("batch_topk", out=folder, resume=True))
    return log_of(sae) | {"rows": steps}


def side_by_side(**more):
    """Two SAEs at each of two sites in one pass, which read the same rows; the log of each."""
    acts = Recorded({"a": X, "b": X.flip(1)})
    options = {**options_for("batch_topk"), **more}
    learnt = saes.train(acts, [CASES["batch_topk"], CASES["topk"]], **options)
    return {sae.training_log.name: log_of(sae) for sae in learnt}


def same(a, b):
    left, right = a.state_dict(), b.state_dict()
    return all(torch.equal(left[k].nan_to_num(), right[k].nan_to_num()) for k in left)


def said(run):
    """The errors of all processes."""
    try:
        run()
        own = ["nothing", ""]
    except InterpError as error:
        own = [type(error).__name__, str(error)]
    return world().gather(own)


def several(folder):
    """What several processes have to show beside `run_all`."""
    found = {}
    kill_in(folder / "here")
    found["others_checkpoint"] = resume_in(folder / "one")  # which one process left
    unbroken, rows_read = recorded(lambda: learn("batch_topk"))
    found["rows"] = rows_read
    again = learn("batch_topk", out=folder / "here", resume=True)
    found["exact"] = same(unbroken, again) and log_of(unbroken) == log_of(again)
    kill_in(folder / "left")  # for one process to go on with
    try:
        side_by_side(out=folder / "beside", progress=kill_at(8))
    except Killed:
        found["beside"] = side_by_side(out=folder / "beside", resume=True)
    found["errors"] = {
        "nan": said(lambda: learn("relu", lr=1e30, clip=None)),
        "few": said(lambda: learn("relu", batch_size=1)),
        "compile": said(lambda: learn("relu", backend="compile")),
        "there": said(lambda: learn("batch_topk", out=folder / "here")),
        "other": said(lambda: learn("batch_topk", out=folder / "here", resume=True, seed=1)),
    }
    own = world().rank
    found["errors"] |= {
        "data": said(lambda: saes.train(X + own, CASES["relu"], **USUAL)),
        "folder": said(lambda: learn("relu", out=None if own else folder / "new", seed=own)),
    }
    Ranks.add_gradients = lambda self, parameters: None
    found["errors"]["apart"] = said(lambda: learn("relu"))
    Ranks.check_equal = lambda self, *a: None
    found["broken"] = log_of(learn("relu"))
    return found


if __name__ == "__main__":
    trainee.REFRESH = REFRESH
    place = Path(sys.argv[1])
    logs = {"logs": run_all(), **several(place)}
    if world().leads:
        (place / "logs.json").write_text(json.dumps(logs))
    world().stop()
