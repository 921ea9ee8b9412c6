"""Training of codebooks in a model: one loop, whose state is on disk and goes on bit for bit."""

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from interp.distributed import world
from interp.errors import ParameterError
from interp.hooks import evaluating
from interp.live import live
from interp.placement import resident
from interp.runs import versions
from interp.stopping import undisturbed
from saes.codebook.data import TokenBatches
from saes.codebook.fitting import initialise_codes, k_at, replace_dead
from saes.codebook.log import CodebookTraining
from saes.codebook.model import Codebooks, ModelLoss
from saes.denormals import flushed_denormals
from saes.resuming import find_state, write_state
from saes.rows import seeded
from saes.schedules import Schedule

__all__ = ["language_loss", "train_codebooks"]

INITS = ("kmeans", "normal")
HELD_OUT = 8
"""Batches that the loss before and after is measured on."""
LOGGED = 200
"""Steps that are logged, about."""
DEAD_AFTER = 1_000_000
"""Tokens without firing after which a code counts as dead in the log, in long trainings."""


def train_codebooks(
    books: Codebooks,
    batches: TokenBatches,
    *,
    steps: int,
    lr: float = 1e-3,
    model_lr: float | None = None,
    weight_decay: float = 0.0,
    clip: float | None = 1.0,
    warmup: int | None = None,
    decay: str = "linear",
    decay_steps: int | None = None,
    init: str = "kmeans",
    k_start: int | None = None,
    k_steps: int | None = None,
    k_power: float = 1.0,
    replace_every: int | None = None,
    noise: float = 1e-4,
    freeze_attention: bool = False,
    accumulate: int = 1,
    autocast: str | None = None,
    seed: int = 0,
    reference: float | None = None,
    held_out: TokenBatches | None = None,
    out: str | Path | None = None,
    log_every: int | None = None,
    checkpoint_every: int | None = None,
    resume: bool = False,
    force: bool = False,
    name: str = "codebooks",
    provenance: Mapping[str, Any] | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> CodebookTraining:
    """Train a model and its codebooks together on next tokens, in place.

    Parameters
    ----------
    books : the codebooks in their model, from `insert`; with none, the model alone is trained.
    batches : `TextBatches`, `FSMBatches`, or anything like them.
    steps : of the optimiser, AdamW.
    lr : of the codebooks.
    model_lr : of the model's own weights; 0 holds them. None for the same, or where codes begin at
        k-means, so in a model that has learnt its language, a third of it.
    weight_decay : of the model's weights; codebooks have none.
    clip : the gradient's norm is cut to this; None for no cut.
    warmup, decay, decay_steps : as for `saes.train`; a twentieth, ``"linear"``, a fifth.
    init : ``"kmeans"`` of the model's activations, or ``"normal"`` for the codes as they are.
    k_start, k_steps, k_power : let every k fall from ``k_start`` (`k_at`); ``k_steps`` None for
        half of the steps.
    replace_every : replace codes that did not fire since the last time, each so many steps and not
        in the last tenth (`replace_dead`); None for never.
    noise : of replaced codes.
    freeze_attention : hold the attention's weights where codebooks stand at ``head_out``, as a
        fault of the paper's code does.
    accumulate : batches a step, whose losses are averaged.
    autocast : ``"bfloat16"`` computes dense products so, on a CUDA device.
    seed : of replacement, k-means and dropout.
    reference : a loss to compare with, such as `FSM.bayes_loss`; it goes into the result.
    held_out : batches, 8 at most, whose loss is measured before and after.
    out : a folder for the checkpoint and, at the end, ``model/`` with the model and ``codebooks/``.
    log_every, checkpoint_every, resume, force, progress : as for `saes.train`.
    name, provenance : of the result.

    Returns
    -------
    CodebookTraining
        The log. The model and the codebooks are left trained, in eval mode.

    Raises
    ------
    ParameterError
        A setting is outside what it allows, the loss became nan, or torchrun started several
        processes.
    StoreError
        ``out`` cannot be written, or holds a training with other settings.
    """
    if world().size > 1:
        raise ParameterError("train_codebooks runs in one process; start it without torchrun.")
    _check(books, steps, lr, model_lr, clip, init, replace_every, accumulate, autocast, k_start)
    k_steps = k_steps or max(2, steps // 2)
    schedule = Schedule(
        steps=steps,
        warmup=min(steps // 20, 1000) if warmup is None else warmup,
        decay=decay,
        decay_steps=steps // 5 if decay_steps is None else decay_steps,
    )
    if model_lr is None:
        model_lr = lr / 3 if init == "kmeans" and books.names else lr
    settings = {
        "batches": batches.identity(),
        "books": {n: books[n].config.to_dict() for n in books.names},
        "lr": lr, "model_lr": model_lr, "weight_decay": weight_decay,
        "clip": clip, "steps": steps, "warmup": schedule.warmup, "decay": decay,
        "decay_steps": schedule.decay_steps, "init": init, "k_start": k_start, "k_steps": k_steps,
        "k_power": k_power, "replace_every": replace_every, "noise": noise,
        "freeze_attention": freeze_attention, "accumulate": accumulate, "autocast": autocast,
        "seed": seed, "log_every": log_every or max(1, steps // LOGGED),
    }  # fmt: skip
    folder = None if out is None else Path(out)
    run = _Run(books, batches, schedule, settings)
    settings["held weights"] = run.held_weights()
    first = _enter(folder, run, resume=resume, force=force)
    if first == 0 and held_out is not None:
        with books.disabled():
            run.held_out["the model as it was"] = language_loss(books, held_out)
    if first == 0 and init == "kmeans":
        initialise_codes(books, batches, seed=seed)
    every = checkpoint_every or max(1, steps // 10)
    module, training = books.model.module, books.model.module.training
    module.train()
    books.train()
    progress = live(progress, "training")
    try:
        with flushed_denormals(), undisturbed(tell=True) as stopping:
            for step in range(first, steps):
                run.step(step)
                done = step + 1
                if progress is not None:
                    progress(done, steps, run.words())
                stop = stopping()
                if folder is not None and (done % every == 0 or done == steps or stop):
                    run.save(folder, done)
                if stop:
                    break
    finally:
        module.train(training)
        books.eval()
        run.zero_grad()
    module.eval()
    if held_out is not None:
        run.held_out["with codebooks"] = language_loss(books, held_out)
        with books.disabled():
            run.held_out["trained, without codebooks"] = language_loss(books, held_out)
    about = {**(provenance or {}), "seed": seed, "versions": versions(), "training": settings}
    result = run.result(name, about, reference)
    if folder is not None and hasattr(module, "save_pretrained"):
        books.save_pretrained(folder / "model")
        result.save(folder / "model" / "training.json")
    return result


def language_loss(books: Codebooks, batches: TokenBatches, *, most: int = HELD_OUT) -> float:
    """The loss of next tokens on an epoch of batches, or ``most`` of them, in nats a token."""
    total, tokens, device = 0.0, 0, books.model.device
    with evaluating(books.model.module), torch.no_grad():
        for step in range(min(most, batches.steps_per_epoch)):
            ids, mask = batches(step)
            loss = books.loss(ids.to(device), mask.to(device))
            total, tokens = total + float(loss.language) * loss.tokens, tokens + loss.tokens
    return total / tokens


class _Run:
    """The optimiser, what is counted, and the log."""

    def __init__(
        self,
        books: Codebooks,
        batches: TokenBatches,
        schedule: Schedule,
        settings: dict[str, Any],
    ) -> None:
        self.books, self.batches = books, batches
        self.schedule, self.settings = schedule, settings
        own = dict(books.named_parameters())
        frozen = _attention(books) if settings["freeze_attention"] else set()
        others = {
            f"model.{n}": p
            for n, p in books.model.module.named_parameters()
            if p.requires_grad and n not in frozen
        }
        if not settings["model_lr"]:
            others = {}
        if others:
            resident(books.model.module, "training its weights")
        self.parameters: dict[str, nn.Parameter] = {**own, **others}
        groups = [
            {"params": list(own.values()), "lr": settings["lr"], "weight_decay": 0.0},
            {
                "params": list(others.values()),
                "lr": settings["model_lr"],
                "weight_decay": settings["weight_decay"],
            },
        ]
        groups = [g for g in groups if g["params"]]
        self.optimizer = torch.optim.AdamW(groups, fused=True)
        self.base = [g["lr"] for g in groups]
        device = books.model.device
        sizes = {n: books[n].n_latents for n in books.names}
        self.silent = {n: torch.zeros(f, dtype=torch.long, device=device) for n, f in sizes.items()}
        self.fired = {n: torch.zeros(f, dtype=torch.long, device=device) for n, f in sizes.items()}
        self.tokens = 0
        self.log: list[dict[str, float]] = []
        self.held_out: dict[str, float] = {}
        self.cpu = 0.0
        self.dropout = any(
            isinstance(m, nn.Dropout) and m.p > 0 for m in books.model.module.modules()
        )

    def step(self, step: int) -> None:
        """Learn from the batches of a step."""
        began = time.process_time()
        settings, done, loss = self.settings, step + 1, None
        k = None
        if settings["k_start"] is not None and step < settings["k_steps"]:
            k = {
                name: k_at(
                    step,
                    self.books[name].config.k,
                    k_start=settings["k_start"],
                    k_steps=settings["k_steps"],
                    power=settings["k_power"],
                )
                for name in self.books.names
            }
        self.zero_grad()
        parts = settings["accumulate"]
        half = settings["autocast"] == "bfloat16"
        for part in range(parts):
            ids, mask = self.batches(step * parts + part)
            device = self.books.model.device
            with (
                _dropout(self.dropout, settings["seed"], step * parts + part, device),
                torch.autocast("cuda", torch.bfloat16, enabled=half),
            ):
                loss = self.books.loss(ids.to(device), mask.to(device), k=k)
            (loss.total / parts).backward()
            self._count(loss)
        assert loss is not None  # noqa: S101  there is at least one part
        if settings["clip"] is not None:
            nn.utils.clip_grad_norm_(self.parameters.values(), settings["clip"], foreach=True)
        scale = self.schedule.lr_scale(step)
        for group, lr in zip(self.optimizer.param_groups, self.base, strict=True):
            group["lr"] = lr * scale
        self.optimizer.step()
        every = settings["replace_every"]
        if every and done % every == 0 and done <= 0.9 * settings["steps"]:
            self._replace(loss, done)
        self.cpu += time.process_time() - began
        if done == 1 or done % settings["log_every"] == 0 or done == settings["steps"]:
            self._note(loss, done, scale)

    def zero_grad(self) -> None:
        """Drop all gradients, also those of weights that are held."""
        self.books.zero_grad()
        self.books.model.module.zero_grad()

    def held_weights(self) -> str | None:
        """A hash of the model's weights that are not trained, so not in the checkpoint."""
        digest, found = hashlib.sha256(), None
        for name, tensor in sorted(self.books.model.module.named_parameters()):
            if f"model.{name}" not in self.parameters:
                found = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
                digest.update(name.encode() + found.numpy().tobytes())
        return None if found is None else digest.hexdigest()[:16]

    def words(self) -> str:
        """The last log entry in words."""
        if not self.log:
            return ""
        last = self.log[-1]
        return f"loss {last['language']:.4f}, accuracy {last['accuracy']:.2%}"

    def _count(self, loss: ModelLoss) -> None:
        rows = int(loss.mask.sum())
        self.tokens += rows
        for name, snap in loss.snaps.items():
            latents = self.books[name].latents(snap.ids)[loss.mask]
            latents = latents[latents >= 0]
            hit = torch.bincount(latents, minlength=self.books[name].n_latents) > 0
            self.silent[name] = torch.where(hit, 0, self.silent[name] + rows)
            self.fired[name] += hit

    def _replace(self, loss: ModelLoss, done: int) -> None:
        for name, snap in loss.snaps.items():
            book = self.books[name]
            dead = (self.fired[name] == 0).nonzero().flatten()
            target = snap.normed.detach()[loss.mask]
            error = snap.reduced.detach()[loss.mask] - target
            error = error.unflatten(1, (book.config.groups, -1)).square().sum(2)
            replace_dead(
                book,
                dead,
                target,
                error,
                generator=seeded(self.settings["seed"], "replace", name, done),
                noise=self.settings["noise"],
                optimizer=self.optimizer,
            )
            self.silent[name][dead] = 0
            self.fired[name].zero_()

    def _note(self, loss: ModelLoss, done: int, scale: float) -> None:
        """Log a step: the one place where the host waits for the device."""
        entry = {"step": done, "total": float(loss.total.detach())}
        entry["language"] = float(loss.language.detach())
        if not math.isfinite(entry["total"]):
            raise ParameterError(
                f"train_codebooks: the loss is {entry['total']} at step {done}; take a smaller lr "
                f"than {self.settings['lr']:g}, or a longer warmup."
            )
        entry["accuracy"] = int(loss.right) / loss.tokens
        for name, snap in loss.snaps.items():
            target = snap.normed.detach()[loss.mask].double()
            error = (snap.reduced.detach()[loss.mask].double() - target).square().sum()
            spread = (target - target.mean(0)).square().sum()
            entry[f"reconstruction.{name}"] = float(loss.reconstruction[name].detach())
            entry[f"fvu.{name}"] = float(error / spread) if spread > 0 else math.nan
            entry[f"dead.{name}"] = float((self.silent[name] >= self._dead_after).double().mean())
        entry |= {"lr": self.settings["lr"] * scale, "tokens": self.tokens, "cpu": self.cpu}
        self.log.append(entry)

    @property
    def _dead_after(self) -> int:
        """Tokens: a tenth of those so far expected, 1 million at most."""
        return max(1, min(DEAD_AFTER, self.tokens // 10))

    def save(self, folder: Path, done: int) -> None:
        """Write the checkpoint."""
        tensors = {f"parameter.{n}": p for n, p in self.parameters.items()}
        for name, parameter in self.parameters.items():
            held = self.optimizer.state.get(parameter, {})
            tensors |= {f"adam.{k}.{name}": v for k, v in held.items()}
        tensors |= {f"silent.{n}": v for n, v in self.silent.items()}
        tensors |= {f"fired.{n}": v for n, v in self.fired.items()}
        tensors = {n: t.detach().cpu().clone().contiguous() for n, t in tensors.items()}
        document = {"step": done, "settings": self.settings, "log": self.log,
                    "held_out": self.held_out, "tokens": self.tokens, "cpu": self.cpu}  # fmt: skip
        write_state(folder, document, tensors)

    def restore(self, document: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Go back to what `save` wrote."""
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(tensors[f"parameter.{name}"])
                self.optimizer.state[parameter] = {
                    k: tensors[f"adam.{k}.{name}"].to(parameter.device)
                    for k in ("step", "exp_avg", "exp_avg_sq")
                }
        for table, kind in ((self.silent, "silent"), (self.fired, "fired")):
            for name in table:
                table[name] = tensors[f"{kind}.{name}"].to(table[name].device)
        self.log, self.held_out = document["log"], document["held_out"]
        self.tokens, self.cpu = document["tokens"], document["cpu"]

    def result(
        self, name: str, provenance: dict[str, Any], reference: float | None
    ) -> CodebookTraining:
        """The log as a result."""

        def column(key: str) -> np.ndarray:
            return np.array([entry[key] for entry in self.log])

        def table(kind: str) -> dict[str, np.ndarray]:
            return {n: column(f"{kind}.{n}") for n in self.books.names}

        return CodebookTraining(
            name=name,
            n=self.tokens,
            provenance=provenance,
            configs={n: self.books[n].config.to_dict() for n in self.books.names},
            steps=column("step").astype(np.int64),
            total=column("total"),
            language=column("language"),
            accuracy=column("accuracy"),
            reconstruction=table("reconstruction"),
            fvu=table("fvu"),
            dead=table("dead"),
            lr=column("lr"),
            reference=reference,
            held_out=self.held_out,
            cpu_seconds=column("cpu"),
        )


def _enter(folder: Path | None, run: _Run, *, resume: bool, force: bool) -> int:
    """The step to begin with: 0, or where the checkpoint of the folder stands."""
    if folder is None:
        if resume:
            raise ParameterError("train_codebooks: resume needs out, the folder of the checkpoint.")
        return 0
    found = find_state(folder, run.settings, made="model", resume=resume, force=force)
    if found is None:
        return 0
    document, tensors = found
    run.restore(document, tensors)
    return document["step"]


def _attention(books: Codebooks) -> set[str]:
    """Names of the parameters of the attention that codebooks at ``head_out`` read."""
    held = set()
    for point in books.points:
        if point.d_head is not None:
            prefix = point.module.rpartition(".")[0] + "."
            names = (n for n, _ in books.model.module.named_parameters())
            held |= {n for n in names if n.startswith(prefix)}
    return held


@contextmanager
def _dropout(active: bool, seed: int, batch: int, device: torch.device) -> Iterator[None]:
    """Dropout that is a function of the seed and the batch; the global state is left alone."""
    if not active:
        yield
        return
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seeded(seed, "dropout", batch).initial_seed() % 2**63)
        yield


def _check(
    books: Codebooks,
    steps: int,
    lr: float,
    model_lr: float | None,
    clip: float | None,
    init: str,
    replace_every: int | None,
    accumulate: int,
    autocast: str | None,
    k_start: int | None,
) -> None:
    """Refuse settings that nothing else refuses."""
    for name, value in (("steps", steps), ("accumulate", accumulate),
                        ("replace_every", replace_every)):  # fmt: skip
        wrong = isinstance(value, bool) or not isinstance(value, int) or value < 1
        if wrong and not (value is None and name == "replace_every"):
            raise ParameterError(
                f"train_codebooks: {name} must be a whole number above 0; got {value!r}."
            )
    for name, value in (("lr", lr), ("clip", clip)):
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise ParameterError(
                f"train_codebooks: {name} must be a finite number above 0; got {value!r}."
            )
    if model_lr is not None and not (model_lr >= 0 and math.isfinite(model_lr)):
        raise ParameterError(
            f"train_codebooks: model_lr must be a finite number of at least 0; got {model_lr!r}."
        )
    if init not in INITS:
        raise ParameterError(
            f"train_codebooks: init must be one of {', '.join(INITS)}; got {init!r}."
        )
    if autocast not in (None, "bfloat16") or (autocast and books.model.device.type != "cuda"):
        raise ParameterError(
            "train_codebooks: autocast must be None, or 'bfloat16' on a CUDA device; got "
            f"{autocast!r} on {books.model.device}."
        )
    books.check_enabled()
    least = min((books[n].config.n_codes for n in books.names), default=0)
    own = max((books[n].config.k for n in books.names), default=1)
    if k_start is not None and not own <= k_start <= least:
        raise ParameterError(
            f"train_codebooks: k_start must be from {own}, the largest k, to {least}, the fewest "
            f"codes of a codebook; got {k_start}."
        )
    if not books.names and model_lr == 0:
        raise ParameterError("train_codebooks: with no codebook and model_lr 0 nothing is trained.")
