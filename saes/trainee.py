"""One SAE in training: a step, its optimiser, dead latents, the log, and all of it as tensors."""

import math
import time
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from types import FunctionType

import torch
from torch import Tensor

from interp.errors import ParameterError, ShapeError
from saes.base import SAE, Loss, SAEConfig, squared_error
from saes.initialise import centre, fold_scale, unit_scale
from saes.optimizer import OPTIMIZERS
from saes.primitives import resolve
from saes.ranks import Ranks
from saes.resample import resample
from saes.rows import Pair, seeded
from saes.schedules import Schedule
from saes.threads import one_torch_thread
from saes.vl import VLSAE

__all__ = ["Options", "Trainee", "default_lr"]

REFRESH = 10
"""Steps between two looks at which latents are dead: each look waits for the device."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How every SAE of a training is trained; `saes.train` says what each means."""

    schedule: Schedule
    lr: float | None
    seed: int
    dead_after: int
    normalize: bool
    b_dec: str
    clip: float | None
    ema: float | None
    resample_every: int | None
    autocast: str | None
    optimizer: str
    backend: str


class Trainee:
    """An SAE and what its training remembers.

    Parameters
    ----------
    name : of the SAE among those of the training.
    config : of its architecture.
    site : which site of the rows it reads.
    sample : rows that say the widths, the scale and the first decoder bias.
    options : of the training.
    device : where it is trained.
    ranks : the processes that share the batches, of which `step` then takes the own rows; all of
        them make the same calls, and stay equal bit for bit. None where there is one.

    Raises
    ------
    ShapeError
        The activations do not have the shape that the architecture reads.
    """

    def __init__(
        self,
        name: str,
        config: SAEConfig,
        site: int,
        sample: Pair,
        options: Options,
        device: torch.device,
        ranks: Ranks | None = None,
    ) -> None:
        self.name, self.site, self.options, self.ranks = name, site, options, ranks
        self.sae = _fresh(config, sample, options.seed)
        x, y = sample
        target = x if y is None else y
        one = torch.ones(1)
        self.scale_in = unit_scale(x) if options.normalize else one
        scale_out = self.scale_in if y is None else unit_scale(y) if options.normalize else one
        if getattr(config, "design", "") == "shared":  # whose one encoder has one scale
            self.scale_in = scale_out = 2 / (1 / self.scale_in + 1 / scale_out)
        firsts = [centre(t, options.b_dec) for t in ((x, target) if self.sae.paired else (target,))]
        _start_biases(self.sae, firsts, (self.scale_in, scale_out))
        self.scaled = options.normalize
        self.sae.train().to(device)
        self.scale_in, self.scale_out = self.scale_in.to(device), scale_out.to(device)
        self.lr = default_lr(config) if options.lr is None else options.lr
        self.parameters = dict(self.sae.named_parameters())
        n = config.n_latents
        self.sae.backend, self.sae.ranks = options.backend, ranks
        self.optimizer = OPTIMIZERS[options.optimizer](
            self.parameters.values(),
            self.lr,
            unit=self.sae.decoder if self.sae.unit_norm else None,
            clip=options.clip,
            backend=options.backend,
        )
        like = next(iter(self.parameters.values()))
        chosen = resolve(options.backend, like, len(x) * n)
        self._own_threads = chosen in ("numba", "int8") and self.sae.threaded
        self.silent = torch.zeros(n, dtype=torch.int64, device=device)
        self.dead = torch.empty(0, dtype=torch.int64, device=device)
        self.average = {}
        if options.ema is not None:
            self.average = {k: p.detach().clone() for k, p in self.parameters.items()}
        self.log: list[dict[str, float]] = []
        self.compile_seconds: float | None = None
        self._compiled = options.backend == "compile"
        if self._compiled:
            own = _copy(type(self.sae)._total).__get__(self.sae)
            self.sae._total = torch.compile(own, fullgraph=True)

    def step(self, pair: Pair, step: int, *, log: bool) -> None:
        """Learn from a batch."""
        with one_torch_thread() if self._own_threads else nullcontext():
            self._step(pair, step, log=log)

    def _step(self, pair: Pair, step: int, *, log: bool) -> None:
        options, schedule = self.options, self.options.schedule
        x = pair.x * self.scale_in
        y = None if pair.y is None else pair.y * self.scale_out
        began = time.perf_counter()
        with torch.autocast("cuda", torch.bfloat16, enabled=options.autocast == "bfloat16"):
            loss = self.sae.loss(
                x,
                y,
                dead=self.dead,
                k=schedule.k(step, getattr(self.sae.config, "k", 0)),
                penalty_scale=schedule.penalty_scale(step),
            )
        self.optimizer.zero_grad()
        rows = len(x)
        if self.ranks is None:
            loss.total.backward()
        else:
            rows = self.ranks.total
            (loss.total * self.ranks.share).backward()
            self.ranks.add_gradients(self.optimizer.parameters)
            loss = loss._replace(active=self.ranks.world.sum_(loss.active))
        if self._compiled and self.compile_seconds is None:
            self.compile_seconds = time.perf_counter() - began
        lr = self.lr * schedule.lr_scale(step)
        self.optimizer.lr = lr
        self.optimizer.step()
        self.silent = torch.where(loss.active > 0, 0, self.silent + rows)
        done = step + 1
        if options.resample_every and done % options.resample_every == 0 and done < schedule.steps:
            self._resample(x, y, done, rows)
        if self.average:
            assert options.ema is not None  # noqa: S101  the average is kept where it is given
            for name, parameter in self.parameters.items():
                # Early on the mean is of fewer steps: else it would keep the first weights.
                keep = min(options.ema, done / (done + 9))
                self.average[name].lerp_(parameter.detach(), 1 - keep)
        if done % REFRESH == 0:
            self.dead = (self.silent >= options.dead_after).nonzero().flatten()
        if log:
            target = x if y is None else torch.cat([x, y], 1) if self.sae.paired else y
            self._note(loss, target, done, lr, rows)

    def finish(self, batches: Iterable[Tensor]) -> SAE:
        """The SAE as it is handed over: averaged weights if kept, for raw activations, in eval.

        ``batches`` of raw rows are what `SAE.settle` sees.
        """
        with torch.no_grad():
            for name, mean in self.average.items():
                self.parameters[name].copy_(mean)
        if self.average and self.sae.unit_norm:
            self.sae.normalize_decoder()
        self.sae.ranks = None  # what is left is the same on each of them
        self.sae.settle(x.to(self.scale_in.device) * self.scale_in for x in batches)
        fold_scale(self.sae, self.scale_in, self.scale_out)
        self.optimizer.zero_grad()
        self.sae.backend = "auto"
        self.sae.__dict__.pop("_total", None)  # the compiled one
        return self.sae.eval()

    def state(self) -> dict[str, Tensor]:
        """Every tensor that the next step depends on."""
        state = {f"sae.{k}": v for k, v in self.sae.state_dict().items()}
        for name, parameter in self.parameters.items():
            held = self.optimizer.state.get(parameter, {})
            state |= {f"moments.{name}.{k}": v for k, v in held.items()}
        state |= {f"average.{k}": v for k, v in self.average.items()}
        state |= {"silent": self.silent, "dead": self.dead}
        state["steps"] = torch.tensor(self.optimizer.steps)
        return {k: v.detach().cpu().contiguous() for k, v in state.items()}

    def restore(self, state: dict[str, Tensor], log: list[dict[str, float]]) -> None:
        """Go back to what `state` gave; the scale follows from the sample and is not in it."""
        device = self.silent.device
        own = {k.removeprefix("sae."): v for k, v in state.items() if k.startswith("sae.")}
        self.sae.load_state_dict(own)
        for name, parameter in self.parameters.items():
            self.optimizer.state[parameter] = {
                k: state[f"moments.{name}.{k}"].to(device) for k in self.optimizer.moments
            }
        self.average = {k: state[f"average.{k}"].to(device) for k in self.average}
        self.optimizer.steps = int(state["steps"])
        self.silent, self.dead = state["silent"].to(device), state["dead"].to(device)
        self.log = [dict(entry) for entry in log]

    def _resample(self, x: Tensor, y: Tensor | None, done: int, rows: int) -> None:
        every = self.options.resample_every or 0
        silent = (self.silent >= min(self.options.dead_after, every * rows // 2)).nonzero()
        latents = silent.flatten()
        if len(latents):
            resample(
                self.sae, latents, x, y, self.optimizer, seeded(self.options.seed, "resample", done)
            )
            self.silent[latents] = 0

    def _note(self, loss: Loss, target: Tensor, done: int, lr: float, n: int) -> None:
        """Log a step of n rows: the one place where the host waits for the device."""
        rows = target.reshape(len(target), -1).float()
        middle = rows.mean(0) if self.ranks is None else self.ranks.mean(rows.mean(0))
        error = squared_error(loss.output.view_as(rows), rows)
        means = [loss.total, *loss.parts.values(), error, squared_error(rows, middle)]
        if self.ranks is not None:
            own = torch.stack([v.detach().double() for v in means])
            means = self.ranks.mean(own).unbind()
            self.ranks.check_equal(self.optimizer.parameters, self.name, done)
        *losses, error, spread = means
        fired = loss.active.sum() / (n * (1 + self.sae.paired))
        numbers = [*losses, error / spread, fired]
        numbers.append((self.silent >= self.options.dead_after).float().mean())
        values = torch.stack([v.detach().double() for v in numbers]).tolist()
        if not math.isfinite(values[0]):
            raise ParameterError(
                f"train: the loss of {self.name} is {values[0]} at step {done}; take a smaller lr "
                f"than {self.lr:g}, or a longer warmup."
            )
        names = ["total", *loss.parts, "fvu", "l0", "dead"]
        self.log.append({"step": done, **dict(zip(names, values, strict=True)), "lr": lr})


def _start_biases(sae: SAE, firsts: list[Tensor], scales: tuple[Tensor, Tensor]) -> None:
    """Begin with decoder biases at the middle of what is predicted."""
    if isinstance(sae, VLSAE):
        image, text = (first * scale for first, scale in zip(firsts, scales, strict=True))
        sae.start_biases(image, text)
        return
    with torch.no_grad():
        sae.b_dec.copy_((firsts[0] * scales[1]).view_as(sae.b_dec))


def default_lr(config: SAEConfig) -> float:
    """0.1 / sqrt(n_latents) for architectures with k, 0.03 / sqrt(n_latents) for others.

    Gao et al. 2024 scale theirs with the width likewise. The factors were measured on scaled
    activations in trainings of some hundred to some thousand steps: about the largest that kill
    few latents, which a sparsity penalty does at lower rates than k.
    """
    return (0.1 if hasattr(config, "k") else 0.03) / math.sqrt(config.n_latents)


def _copy(function: FunctionType) -> FunctionType:
    """The same function with code of its own.

    torch.compile allows few graphs of one code; the SAEs of a training, and of a session, share it.
    """
    own = function.__code__.replace()
    return FunctionType(own, function.__globals__, function.__name__, function.__defaults__)


def _fresh(config: SAEConfig, sample: Pair, seed: int) -> SAE:
    """A new SAE of the widths of the sample."""
    x, y = sample
    d_out = None if y is None else y.shape[-1]
    sae = SAE.from_config(config, x.shape[-1], d_out, generator=seeded(seed, "weights"))
    who = type(sae).__name__
    if sae.transcodes and y is None:
        raise ShapeError(f"{who} predicts other activations; give train a tuple (X, Y).")
    if sae.paired and y is None:
        raise ShapeError(f"{who} learns from pairs; give train a tuple (X_image, X_text).")
    for shape, t, which in ((sae.in_shape, x, "x"), (sae.out_shape, x if y is None else y, "y")):
        if tuple(t.shape[1:]) != shape:
            wanted = ", ".join(map(str, shape))
            raise ShapeError(
                f"{who} takes {which} as [n, {wanted}]; got [n, "
                f"{', '.join(map(str, t.shape[1:]))}]."
            )
    return sae
