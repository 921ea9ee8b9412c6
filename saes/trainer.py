"""Training: one loop over shuffled batches, for one SAE or for several side by side."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from torch import Tensor

from interp.distributed import World, world
from interp.errors import ParameterError
from interp.live import live
from interp.loading import device_of
from interp.stopping import undisturbed
from saes.allowed import check_alike, check_options, check_variety
from saes.base import SAE, SAEConfig
from saes.denormals import flushed_denormals
from saes.handing_over import hand_over, save_all
from saes.ranks import Ranks
from saes.resuming import enter, write_state
from saes.rows import Batches, Rows, read_rows
from saes.schedules import Schedule
from saes.shard_files import fetching, hand_in
from saes.shards import data_world, shard_mesh
from saes.topk import BatchTopKConfig
from saes.trainee import Options, Trainee

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

__all__ = ["train"]

Progress = Callable[[int, int, str], None]
LOGGED = 200
"""Steps that are logged, about, unless ``log_every`` says otherwise."""
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
    shards: int = 1,
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
    shards : how many processes of torchrun's, neighbours, share the latents of each SAE, so that
        none holds more than its part (`ShardedSAE`, which the result then is). It must divide the
        processes; the batch is shared among the others. A checkpoint is of the whole SAE, so that
        any number of shards goes on with it; all processes must see ``out``.
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
    check_options(
        configs,
        device=who,
        batch_size=batch_size,
        lr=lr,
        dead_after=dead_after,
        resample_every=resample_every,
        clip=clip,
        ema=ema,
        autocast=autocast,
        optimizer=optimizer,
        backend=backend,
        log_every=log_every,
        checkpoint_every=checkpoint_every,
        k_start=k_start,
        shards=shards,
    )
    mesh = None if shards == 1 else shard_mesh(shards, who.type)
    ranks = _share(party, batch_size, backend, configs, mesh)
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
    batches = Batches(rows, batch_size, seed, who, ranks, party)
    folder = None if out is None else Path(out)
    settings = {
        "acts": rows.identity(),
        "configs": [[c.architecture, c.to_dict()] for c in configs],
        "batch_size": batch_size,
        **{k: v for k, v in asdict(options).items() if k != "schedule"},
        **asdict(schedule),
        "log_every": log_every or max(1, steps // LOGGED),
    }
    written = {"out": folder is not None, "checkpoint_every": checkpoint_every}
    check_alike(settings | written | {"resume": resume, "force": force}, party)
    sample = rows.sample(party)
    check_variety(rows.sites, sample)
    trainees = [
        Trainee(label, one, site, sample[site], options, who, ranks, mesh)
        for label, one, site in _labels(rows, configs)
    ]
    del sample
    again = folder is not None and party.again()
    first = enter(
        folder, settings, trainees, party, resume=resume or again, force=force and not again
    )
    loop = _Loop(
        batches, trainees, settings, folder, checkpoint_every, live(progress, "training"), party
    )
    with flushed_denormals():
        loop.run(first)
    batches.release()  # before the sample is read once more
    about = dict(provenance or {})
    saes = [hand_over(t, rows, name, about, settings, party) for t in trainees]
    if folder is not None:
        save_all(folder, trainees, party, first=party.rank < shards)
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
        """Steps from ``first`` to the end; a command's Ctrl-C waits for one, and a checkpoint."""
        alone = self.party.size == 1  # several processes would stop at different steps
        with undisturbed(tell=True) if alone else nullcontext(lambda: False) as stopping:
            self._steps(first, stopping)

    def _steps(self, first: int, stopping: Callable[[], bool]) -> None:
        began, since = time.perf_counter(), first
        for step in range(first, self.steps):
            done = step + 1
            log = done == 1 or done % self.settings["log_every"] == 0 or done == self.steps
            pairs = self.batches[step]
            for trainee in self.trainees:
                trainee.step(pairs[trainee.site], step, log=log)
            if log:
                now = time.perf_counter()
                speed = (done - since) * self.batches.size / max(now - began, 1e-9)
                began, since = now, done
                for trainee in self.trainees:
                    trainee.log[-1]["rows_per_second"] = speed
                self.words = _words(self.trainees[0].log[-1])
            if self.progress is not None:
                self.progress(done, self.steps, self.words)
            stop = stopping()
            due = done % self.checkpoint_every == 0 or done == self.steps
            if self.folder is not None and (due or stop):
                self.save(self.folder, done)
            if stop:
                return

    def save(self, folder: Path, done: int) -> None:
        """Write the checkpoint, in the same form whatever the number of processes."""
        tensors: dict[str, Tensor] = {}
        if self.party.rank < self.trainees[0].shards:  # the others hold the same
            for i, trainee in enumerate(self.trainees):
                tensors |= {f"{i}.{k}": v for k, v in trainee.state().items()}
        document = {
            "step": done,
            "processes": self.party.size,
            "settings": self.settings,
            "logs": [t.log for t in self.trainees],
        }

        def write() -> None:
            with fetching(tensors) as whole:
                write_state(folder, document, whole)

        if not self.party.leads:
            hand_in(tensors)
        self.party.led(write)


def _share(
    party: World,
    batch_size: int,
    backend: str,
    configs: list[SAEConfig],
    mesh: "DeviceMesh | None",
) -> Ranks | None:
    """How the processes share a batch; None where there is one, or all share the latents."""
    if party.size == 1:
        return None
    if backend == "compile":
        raise ParameterError("train: backend compile is for one process; take auto under torchrun.")
    if mesh is not None:
        party = data_world(party, mesh)
        batched = [c.architecture for c in configs if isinstance(c, BatchTopKConfig)]
        if batched and party.size > 1:
            raise ParameterError(
                f"train: shards of a {batched[0]} SAE, which looks at a batch as a whole, take all "
                f"processes; start with as many shards as processes."
            )
    if batch_size < party.size:
        raise ParameterError(
            f"train: batch_size must give each of {party.size} processes a row; got {batch_size}."
        )
    return Ranks(party, batch_size) if party.size > 1 else None


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
