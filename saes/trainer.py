"""Training: one loop over shuffled batches, for one SAE or for several side by side."""

import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from interp.distributed import World, world
from interp.errors import DataError, ParameterError, StoreError
from interp.live import live
from interp.loading import device_of
from interp.runs import sweep, versions
from saes.base import ARCHITECTURES, SAE, SAEConfig
from saes.denormals import flushed_denormals
from saes.optimizer import OPTIMIZERS
from saes.primitives import BACKENDS, resolve
from saes.ranks import Ranks
from saes.resuming import CHECKPOINT, check_settings, read_state, tell_state, write_state
from saes.rows import Batches, Pair, Rows, read_rows
from saes.schedules import Schedule
from saes.trainee import Options, Trainee
from saes.training import Training

__all__ = ["train"]

Progress = Callable[[int, int, str], None]
LOGGED = 200
"""Steps that are logged, about, unless ``log_every`` says otherwise."""
SETTLING = 8
"""Batches of the sample that `SAE.settle` sees."""
DEAD_AFTER = 10_000_000
"""Rows without firing after which a latent is dead, in trainings that are long enough."""


@overload
def train(acts: Any, config: SAEConfig, **options: Any) -> SAE: ...
@overload
def train(acts: Any, config: Sequence[SAEConfig], **options: Any) -> list[SAE]: ...
def train(  # pyright: ignore[reportInconsistentOverload]  options are spelled out once, here
    acts: Any,
    config: SAEConfig | Sequence[SAEConfig],
    *,
    steps: int,
    batch_size: int = 4096,
    lr: float | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    warmup: int | None = None,
    decay: str = "linear",
    decay_steps: int | None = None,
    penalty_warmup: int | None = None,
    k_start: int | None = None,
    k_steps: int | None = None,
    dead_after: int | None = None,
    resample_every: int | None = None,
    normalize: bool = True,
    b_dec: str = "mean",
    clip: float | None = 1.0,
    ema: float | None = None,
    autocast: str | None = None,
    optimizer: str = "adam",
    backend: str = "auto",
    device: str = "auto",
    log_every: int | None = None,
    checkpoint_every: int | None = None,
    resume: bool = False,
    force: bool = False,
    name: str = "sae",
    provenance: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> SAE | list[SAE]:
    """Train an SAE on activations, or several in one pass over them.

    In a script that torchrun starts, each process calls this with the same arguments. They share
    the rows of every batch (`saes.ranks`), run the training of one process up to rounding, and all
    get the result; the first writes the files. A checkpoint goes on with any number of processes:
    with as many bit for bit, with others on the same rows in the same order.

    Parameters
    ----------
    acts : [n, d_in] activations: ``store["resid_post.6"]``, an array or a tensor; a tuple (X, Y)
        for a transcoder, (X_image, X_text) for a VL-SAE; [n, layers, d], or a list of matrices
        [n, d], for a crosscoder; a mapping of names to any of these, which share their rows; or a
        `ModelRows`, which runs a model.
    config : of one SAE, or a list of them. Each SAE gets the same batches, and the same weights as
        if it were trained alone.
    steps : batches to learn from. An epoch reads each row once, in an order of its own.
    batch_size : rows of a batch, of all processes together.
    lr : the learning rate; None for 0.1 / sqrt(n_latents), for architectures without k 0.03 /
        sqrt(n_latents).
    seed : of first weights, order of rows and resampling.
    out : a folder for the checkpoint and, at the end, ``sae/`` (``sae/NAME/`` for several), each
        with the training's log as ``training.json``. None writes nothing.
    warmup : steps over which lr rises; None for a twentieth of them, at most 1,000.
    decay, decay_steps : how lr falls at the end, ``"linear"``, ``"cosine"`` or ``"constant"``, and
        over how many steps; None for a fifth of them. ``"vl_paper"`` is the schedule of VL-SAE's
        authors (`released_vl` gives the rest of their settings).
    penalty_warmup : steps over which the sparsity penalty rises; None for a twentieth.
    k_start, k_steps : let k fall from ``k_start`` to the config's over ``k_steps``, for
        architectures that have k; None for a fifth of the steps.
    dead_after : rows without firing after which a latent is dead, for AuxK, resampling and the log;
        None for a tenth of the training's rows, at most 10 million.
    resample_every : resample dead latents each so many steps (`resample`); None for never.
    normalize : scale the activations in training so that the mean norm is sqrt(d_in). The scale is
        folded into the weights at the end: the SAE takes raw activations, while its latents, and
        thresholds, keep the magnitude of the scaled ones.
    b_dec : its first value: ``"mean"``, ``"geometric_median"`` or ``"zero"``.
    clip : the gradient's norm is cut to this; None for no cut.
    ema : decay of the running mean of the weights that is handed over, such as 0.999; None hands
        over the last weights.
    autocast : ``"bfloat16"`` computes dense products so on a CUDA device; weights stay float32.
    optimizer : ``"adam"``, or ``"lion"``, which holds one moment instead of two and wants an lr
        some ten times smaller.
    backend : what runs the kernels: ``"eager"``, torch's operators; ``"numba"``, or ``"int8"``,
        which finds latents with integer products, both for a CPU; ``"triton"`` for CUDA;
        ``"compile"``, the loss under ``torch.compile``, for one k; ``"auto"`` takes the fastest of
        these for the device and the size, and does not compile. The result says what compiling
        cost.
    device : ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``.
    log_every : steps between two entries of the log; None for about 200 entries.
    checkpoint_every : steps between two checkpoints; None for a tenth of the steps.
    resume : go on from the checkpoint in ``out``, if any; the weights are then those of an unbroken
        training, bit for bit on the same machine. The settings must be the same. Processes that
        torchrun has restarted always go on.
    force : throw away the checkpoint in ``out``.
    name : of the results, such as the data set's and the hook point's.
    provenance : JSON values to keep with the results and the SAE, such as model and data.
    progress : called after each step with (steps done, steps, the last log entry in words).

    Returns
    -------
    SAE
        Of the class that the config names, in eval mode, on the device; ``sae.training_log`` its
        `Training`. A list where ``config`` is a list or ``acts`` has several names: for each name,
        each config.

    Raises
    ------
    ParameterError
        A setting is outside what it allows, or the loss became nan.
    InterpError
        Under torchrun: processes are gone, or hold different weights.
    ShapeError
        The activations do not have the shape that the architecture reads.
    DataError
        There are no rows, they hold nan or inf, or all are the same.
    StoreError
        ``out`` cannot be written, or holds a training with other settings.
    """
    who, party = device_of(device), world()
    configs = [config] if isinstance(config, SAEConfig) else list(config)
    _check(
        configs,
        who,
        batch_size,
        lr,
        dead_after,
        resample_every,
        clip,
        ema,
        autocast,
        optimizer,
        backend,
        log_every,
        checkpoint_every,
        k_start,
    )
    ranks = _share(party, batch_size, backend)
    rows = read_rows(acts)
    whole = decay == "vl_paper"
    schedule = Schedule(
        steps=steps,
        warmup=warmup or 0 if whole else _part(steps, 20, warmup, most=1000),
        decay=decay,
        decay_steps=decay_steps or 0 if whole else _part(steps, 5, decay_steps),
        penalty_warmup=_part(steps, 20, penalty_warmup),
        k_start=k_start,
        k_steps=_part(steps, 5, k_steps) if k_start is not None else 0,
    )
    options = Options(
        schedule=schedule,
        lr=lr,
        seed=seed,
        dead_after=dead_after or max(1, min(DEAD_AFTER, steps * batch_size // 10)),
        normalize=normalize,
        b_dec=b_dec,
        clip=clip,
        ema=ema,
        resample_every=resample_every,
        autocast=autocast,
        optimizer=optimizer,
        backend=backend,
    )
    batches = Batches(rows, batch_size, seed, who, ranks)
    sample = rows.sample(party)
    _check_spread(rows.sites, sample)
    trainees = [
        Trainee(label, one, site, sample[site], options, who, ranks)
        for label, one, site in _labels(rows, configs)
    ]
    del sample
    folder = None if out is None else Path(out)
    settings = {
        "acts": rows.identity(),
        "configs": [[c.architecture, c.to_dict()] for c in configs],
        "batch_size": batch_size,
        **{k: v for k, v in asdict(options).items() if k != "schedule"},
        **asdict(schedule),
        "log_every": log_every or max(1, steps // LOGGED),
    }
    again = party.restarted and folder is not None
    first = _enter(
        folder, settings, trainees, party, resume=resume or again, force=force and not again
    )
    loop = _Loop(
        batches, trainees, settings, folder, checkpoint_every, live(progress, "training"), party
    )
    with flushed_denormals():
        loop.run(first)
    about = dict(provenance or {})
    saes = [_hand_over(t, rows, name, about, settings, party) for t in trainees]
    if folder is not None:
        party.led(lambda: _save(folder, trainees))
    return saes[0] if isinstance(config, SAEConfig) and len(saes) == 1 else saes


class _Loop:
    """The steps of all SAEs, with log, progress and checkpoints."""

    def __init__(
        self,
        batches: Batches,
        trainees: list[Trainee],
        settings: dict[str, Any],
        folder: Path | None,
        checkpoint_every: int | None,
        progress: Progress | None,
        party: World,
    ) -> None:
        self.batches, self.trainees, self.settings = batches, trainees, settings
        self.folder, self.progress, self.party = folder, progress, party
        self.steps: int = settings["steps"]
        self.checkpoint_every = checkpoint_every or max(1, self.steps // 10)
        self.words = ""

    def run(self, first: int) -> None:
        """Steps from ``first`` to the end."""
        began, since = time.perf_counter(), first
        for step in range(first, self.steps):
            done = step + 1
            log = done == 1 or done % self.settings["log_every"] == 0 or done == self.steps
            pairs = self.batches[step]
            for trainee in self.trainees:
                trainee.step(pairs[trainee.site], step, log=log)
            if log:
                now = time.perf_counter()
                speed = (done - since) * self.batches.size / (now - began)
                began, since = now, done
                for trainee in self.trainees:
                    trainee.log[-1]["rows_per_second"] = speed
                self.words = _words(self.trainees[0].log[-1])
            if self.progress is not None:
                self.progress(done, self.steps, self.words)
            due = done % self.checkpoint_every == 0 or done == self.steps
            if self.folder is not None and due:
                self.party.led(lambda done=done: self.save(done))

    def save(self, done: int) -> None:
        """Write the checkpoint, in the same form whatever the number of processes."""
        assert self.folder is not None  # noqa: S101  called where there is one
        tensors = {f"{i}.{k}": v for i, t in enumerate(self.trainees) for k, v in t.state().items()}
        document = {
            "step": done,
            "processes": self.party.size,
            "settings": self.settings,
            "logs": [t.log for t in self.trainees],
        }
        write_state(self.folder, document, tensors)


def _enter(
    folder: Path | None,
    settings: dict[str, Any],
    trainees: list[Trainee],
    party: World,
    *,
    resume: bool,
    force: bool,
) -> int:
    """The step to begin with: 0, or where the checkpoint of the folder stands.

    The first process looks at the folder, and tells the others.
    """
    if folder is None:
        if resume:
            raise ParameterError("train: resume needs out, the folder of the checkpoint.")
        return 0
    tensors: dict[str, Tensor] = {}

    def find() -> dict[str, Any] | None:
        found = _find(folder, settings, resume=resume, force=force)
        tensors.update(found[1] if found else {})
        return found[0] if found else None

    document = party.led(find)
    if document is None:
        return 0
    tensors = tell_state(tensors, party)
    for i, trainee in enumerate(trainees):
        own = {k.removeprefix(f"{i}."): v for k, v in tensors.items() if k.startswith(f"{i}.")}
        trainee.restore(own, document["logs"][i])
    return document["step"]


def _find(
    folder: Path, settings: dict[str, Any], *, resume: bool, force: bool
) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """The checkpoint to go on with, if any; with ``force`` it is removed."""
    if folder.is_file():
        raise StoreError(f"{folder} is a file; out takes a folder.")
    found = None if force else read_state(folder)
    if force or resume or found is None:
        sweep(folder.glob(f".{CHECKPOINT}.*.tmp"))
    if force:
        (folder / CHECKPOINT).unlink(missing_ok=True)
        shutil.rmtree(folder / "sae", ignore_errors=True)
    if found is None:
        return None
    if not resume:
        raise StoreError(
            f"{folder} already holds a training; go on with resume (--resume), or replace it with "
            "force (--force)."
        )
    check_settings(folder, found[0]["settings"], json.loads(json.dumps(settings)))
    return found


def _hand_over(
    trainee: Trainee,
    rows: Rows,
    name: str,
    provenance: dict[str, Any],
    settings: dict[str, Any],
    party: World,
) -> SAE:
    """The finished SAE with its `Training`."""
    sae = trainee.finish(_settling(rows, trainee.site, settings["batch_size"], party))
    log = trainee.log
    skipped = ("step", "fvu", "l0", "dead", "lr", "rows_per_second")

    def column(key: str) -> np.ndarray:
        return np.array([entry[key] for entry in log])

    scales = (trainee.scale_in, trainee.scale_out)[: 1 + trainee.sae.paired]
    scale = torch.cat(scales).flatten().tolist() if trainee.scaled else None
    mode = sae.training_mode(settings)
    settings = {k: v for k, v in settings.items() if k != "configs"}
    site = rows.sites[trainee.site]
    about = {**provenance, "seed": settings["seed"], "versions": versions()}
    about["training"] = {**settings, "lr": trainee.lr}
    if site:
        about["hookpoint"] = site
    sae.training_log = Training(
        name=f"{name}.{trainee.name}",
        n=settings["steps"] * settings["batch_size"],
        mode=mode,
        provenance=about,
        architecture=sae.architecture,
        config=sae.config.to_dict(),
        steps=column("step").astype(np.int64),
        loss={k: column(k) for k in log[0] if k not in skipped},
        fvu=column("fvu"),
        l0=column("l0"),
        dead=column("dead"),
        dead_after=settings["dead_after"],
        lr=column("lr"),
        scale=scale,
        rows_per_second=column("rows_per_second"),
        compile_seconds=trainee.compile_seconds,
    )
    sae.metadata = {**provenance, "scale": scale, **({"hookpoint": site} if site else {})}
    return sae


def _save(folder: Path, trainees: list[Trainee]) -> None:
    """Write the finished SAEs with their logs."""
    for trainee in trainees:
        place = folder / "sae" if len(trainees) == 1 else folder / "sae" / trainee.name
        trainee.sae.save_pretrained(place)
        assert trainee.sae.training_log is not None  # noqa: S101  `_hand_over` has set it
        trainee.sae.training_log.save(place / "training.json")


def _share(party: World, batch_size: int, backend: str) -> Ranks | None:
    """How the processes share a batch; None where there is one."""
    if party.size == 1:
        return None
    if batch_size < party.size:
        raise ParameterError(
            f"train: batch_size must give each of {party.size} processes a row; got {batch_size}."
        )
    if backend == "compile":
        raise ParameterError("train: backend compile is for one process; take auto under torchrun.")
    return Ranks(party, batch_size)


def _settling(rows: Rows, site: int, size: int, party: World) -> Iterator[Tensor]:
    """Batches of the sample's rows, read only where they are wanted."""
    yield from rows.sample(party)[site].x[: SETTLING * size].split(size)


def _labels(rows: Rows, configs: list[SAEConfig]) -> list[tuple[str, SAEConfig, int]]:
    """A name for each SAE: site, architecture, and the fields in which configs differ."""
    fields = [c.to_dict() for c in configs]
    labels = []
    for config, own in zip(configs, fields, strict=True):
        same = [f for c, f in zip(configs, fields, strict=True) if type(c) is type(config)]
        differ = [k for k in own if len({repr(f[k]) for f in same}) > 1]
        labels.append("-".join([config.architecture, *(f"{k}{own[k]}" for k in differ)]))
    for i, label in enumerate(labels):
        earlier = labels[:i].count(label)
        labels[i] = f"{label}~{earlier + 1}" if earlier else label
    return [
        (f"{site}.{label}" if site else label, config, i)
        for i, site in enumerate(rows.sites)
        for label, config in zip(labels, configs, strict=True)
    ]


def _words(entry: Mapping[str, float]) -> str:
    return (
        f"loss {entry['total']:.4g}, FVU {entry['fvu']:.3f}, L0 {entry['l0']:.1f}, dead "
        f"{100 * entry['dead']:.1f} %, {entry['rows_per_second']:,.0f} rows/s"
    )


def _part(steps: int, share: int, given: int | None, most: int | None = None) -> int:
    """What was given, or a share of the steps."""
    if given is not None or not isinstance(steps, int):
        return given or 0
    return min(steps // share, most or steps)


def _check_spread(sites: Sequence[str], sample: Sequence[Pair]) -> None:
    """Refuse activations that are all the same: there is nothing to learn."""
    for site, (x, y) in zip(sites, sample, strict=True):
        for t in (x, y):
            if t is not None and bool((t == t[:1]).all()):
                where = f" of {site}" if site else ""
                raise DataError(
                    f"train: all {len(t)} rows looked at{where} are the same, so there is nothing "
                    "to learn; look at the hook point and the pooling."
                )


def _check(
    configs: list[SAEConfig],
    device: torch.device,
    batch_size: int,
    lr: float | None,
    dead_after: int | None,
    resample_every: int | None,
    clip: float | None,
    ema: float | None,
    autocast: str | None,
    optimizer: str,
    backend: str,
    log_every: int | None,
    checkpoint_every: int | None,
    k_start: int | None,
) -> None:
    if not configs or not all(isinstance(c, SAEConfig) for c in configs):
        known = ", ".join(c.__name__ for c, _ in ARCHITECTURES.values())
        raise ParameterError(f"train: config must be one of {known}, or a list of them.")
    for name, value in (
        ("batch_size", batch_size),
        ("dead_after", dead_after),
        ("resample_every", resample_every),
        ("log_every", log_every),
        ("checkpoint_every", checkpoint_every),
    ):
        wrong = isinstance(value, bool) or not isinstance(value, int) or value < 1
        if wrong and not (value is None and name != "batch_size"):
            raise ParameterError(f"train: {name} must be a whole number above 0; got {value!r}.")
    for name, value in (("lr", lr), ("clip", clip)):
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise ParameterError(f"train: {name} must be a finite number above 0; got {value!r}.")
    for config in configs if k_start is not None else ():
        most = config.n_latents if hasattr(config, "k") else 0
        if not (isinstance(k_start, int) and 1 <= k_start <= most):
            allowed = f"from 1 to {most}" if most else f"left out: a {config.architecture} has no k"
            raise ParameterError(f"train: k_start must be {allowed}; got {k_start!r}.")
        if backend == "compile":
            raise ParameterError("train: backend compile compiles for one k; leave k_start out.")
        if getattr(config, "selection", "exact") == "group_max":
            raise ParameterError(
                "train: k_start goes with no group_max, whose k divides n_latents."
            )
    selections = [getattr(c, "selection", "exact") for c in configs]
    if backend == "compile" and "statistical" in selections:
        raise ParameterError("train: backend compile needs a selection of fixed size.")
    if ema is not None and not 0 < ema < 1:
        raise ParameterError(f"train: ema must lie between 0 and 1; got {ema!r}.")
    if autocast not in (None, "bfloat16"):
        raise ParameterError(f"train: autocast must be None or 'bfloat16'; got {autocast!r}.")
    if autocast is not None and device.type != "cuda":
        raise ParameterError("train: autocast needs a CUDA device; leave it out on the CPU.")
    for name, value, known in (
        ("optimizer", optimizer, tuple(OPTIMIZERS)),
        ("backend", backend, BACKENDS),
    ):
        if value not in known:
            raise ParameterError(f"train: {name} must be one of {', '.join(known)}; got {value!r}.")
    resolve(backend, torch.empty(0, device=device), 0)  # refuses what this device cannot run
