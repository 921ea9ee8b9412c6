"""Activation maximisation: images that fire a unit, from noise or from given images."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from interp.errors import ParameterError
from interp.loading import load
from interp.models import Model
from interp.runs import versions
from probes.multifaceted.climb import Climb, Climbed
from probes.multifaceted.frames import Frame, Normalisation, checked_images, frame_of
from probes.multifaceted.images import Fourier, Maco, Pixels, resized
from probes.multifaceted.maximized import Maximized
from probes.multifaceted.objectives import Objective
from probes.multifaceted.schedules import Schedule, named
from probes.multifaceted.watching import Watched

__all__ = ["maximize", "objective_values"]

BATCH = 64
"""Images, times their views, that pass through the model at once."""

FINEST = 8
"""Pixels of a crop below which a result says that a model of small images does not know them."""


def maximize(
    model: Model | nn.Module | str,
    objective: Objective,
    *,
    schedule: str | Schedule = "lucid",
    starts: Any = None,
    n: int | None = None,
    size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    normalise: Normalisation | None = None,
    seed: int = 0,
    batch_size: int = BATCH,
    progress: Callable[[int, int, str], None] | None = None,
    name: str | None = None,
) -> Maximized:
    """Images that make an objective large.

    Each image climbs by itself: it comes out the same alone and among others, unless the objective
    couples them (`objectives.diversity`). The model is in eval mode meanwhile, its parameters get
    no gradients, and its hooks and modes are as they were after.

    Parameters
    ----------
    model : a `Model`, a module, or what `interp.load` takes; it reads images.
    objective : from `probes.multifaceted.objectives`.
    schedule : ``"lucid"``, ``"maco"``, ``"mfv_mean"``, ``"mfv_cbr"``, or a `Schedule`.
    starts : [n, c, h, w] in 0..1, such as the mean images of facets; None begins at random.
    n : images to make; None for as many as the starts, or one.
    size, channels : of what the model reads, where neither it nor the starts say.
    normalise : (mean, std) of pixels in 0..1, each a number or one a channel; None takes the
        processor's, and without one the model reads pixels as they are.
    seed : of random starts and of what is drawn at each step.
    batch_size : images, times their views, in the model at once; it bounds the memory.
    progress : called with (steps done, steps, "steps").
    name : of the result; None for the objective's.

    Returns
    -------
    Maximized
        Degenerate: an image whose gradient is zero at every step stays as it began, and one whose
        gradient vanishes on the way (a dead ReLU) climbs no further; ``reasons`` says so.

    Raises
    ------
    ParameterError
        The schedule is unknown, the size is not told, or n is not the number of starts.
    DataError
        The starts are no finite images in 0..1.
    ModelError
        The forward fails on images, or the objective becomes nan.
    LayerNotFound
        A hook point is not there, or never fires.

    Source: Erhan et al. 2009, "Visualizing Higher-Layer Features of a Deep Network"; the schedules
    name theirs.
    """
    model = load(model)
    plan = named(schedule)
    if not isinstance(objective, Objective):
        raise ParameterError(
            f"maximize takes an objective, as objectives.unit('layer', 3); got {objective!r}."
        )
    begun = None if starts is None else checked_images(starts, "starts")
    count = _count(begun, n)
    frame = frame_of(model, starts=begun, size=size, channels=channels, normalise=normalise)
    if begun is not None and begun.shape[1] != frame.channels:
        raise ParameterError(
            f"starts have {begun.shape[1]} channels and {frame.channels} were asked for."
        )
    if batch_size < 1:
        raise ParameterError(f"batch_size must be at least 1; got {batch_size}.")
    if objective.coupled and count > batch_size:
        raise ParameterError(
            f"{objective.name} couples images, so all {count} go in one batch; raise batch_size."
        )
    like = torch.empty(
        0, device=model.device, dtype=torch.promote_types(model.dtype, torch.float32)
    )
    generator = torch.Generator().manual_seed(seed)  # runs on from batch to batch
    tell = _Progress(progress, plan.steps * -(-count // batch_size))
    parts = []
    for first in range(0, count, batch_size):
        m = min(batch_size, count - first)
        chosen = None if begun is None else begun[first : first + m].to(like)
        climb = Climb(
            model, objective, frame, plan, seed=seed, batch_size=batch_size, report=tell.step
        )
        parts.append(climb.run(_begin(plan, frame, chosen, m, generator, like)))
    notes = _notes(plan, objective, frame)
    moved = torch.cat([p.moved for p in parts]).tolist()
    reasons = {f"image {i}": _stuck(m, plan.steps) for i, m in enumerate(moved) if m < plan.steps}
    whole = {
        field: torch.cat([getattr(p, field) for p in parts], int(field == "trace")).numpy()
        for field in Climbed._fields[:-1]
    }
    canvas = whole.pop("canvas").astype(np.float32)
    images = whole.pop("images").astype(np.float32)
    return Maximized(
        name=name or objective.name,
        n=count,
        mode=plan.mode,
        provenance={"model": model.identity(), "seed": seed, "versions": versions()},
        reasons=reasons,
        images=images,
        canvas=None if canvas.shape == images.shape else canvas,
        opacity=whole.pop("opacity").astype(np.float32),
        objective=objective.name,
        hookpoints=objective.hookpoints,
        schedule=plan.name,
        mean=frame.mean,
        std=frame.std,
        started="random" if begun is None else "images",
        seed=seed,
        notes=notes,
        **whole,
    )


def _begin(
    plan: Schedule,
    frame: Frame,
    starts: Tensor | None,
    n: int,
    generator: torch.Generator,
    like: Tensor,
) -> Pixels | Fourier | Maco:
    """Pictures at given images, or at random."""
    height, width = (max(1, round(plan.canvas * side)) for side in frame.size)
    shape = (n, frame.channels, height, width)
    fixed = plan.magnitude
    if starts is not None:
        starts = resized(starts, (height, width))
        if plan.parameterisation == "pixel":
            return Pixels(starts)
        if plan.parameterisation == "maco":
            return Maco.of(starts, fixed)
        return Fourier.of(starts, plan.decay)
    if plan.parameterisation == "pixel":
        return Pixels.random(shape, generator, like)
    if plan.parameterisation == "maco":
        return Maco.random(shape, generator, like, fixed)
    return Fourier.random(shape, generator, like, plan.decay)


def _count(starts: Tensor | None, n: int | None) -> int:
    if starts is None:
        if n is not None and n < 1:
            raise ParameterError(f"n must be at least 1; got {n}.")
        return n or 1
    if n not in (None, len(starts)):
        raise ParameterError(f"n must be the number of starts, {len(starts)}, or None; got {n}.")
    return len(starts)


def _stuck(moved: int, steps: int) -> str:
    """Since when an image has not climbed."""
    if not moved:
        return "the gradient was zero at every step"
    return f"the gradient was zero in the last {steps - moved} of {steps} steps"


def _notes(plan: Schedule, objective: Objective, frame: Frame) -> tuple[str, ...]:
    """What a reader of the images should know."""
    notes = []
    if frame.source == "none":
        notes.append("no normalisation was given and the model has no processor: it read pixels "
                     "in 0..1 as they are")  # fmt: skip
    if plan.slip:
        notes.append("the TV weight ramps as released, to about the sum of its start and end")
    if any(o.probability for o in plan.octaves) and objective.probability is None:
        notes.append("octaves that climb a softmax climbed the objective itself, which is no logit")
    if plan.views is not None and plan.views.side is not None:
        last = plan.views.side[1] * plan.canvas * min(frame.size)
        if last < FINEST:
            notes.append(
                f"the last crops are {last:.0f} pixels wide, details that a model of small images "
                "does not know: try schedules.maco(side=(1.0, 0.6))"
            )
    return tuple(notes)


class _Progress:
    """Counts steps, and says so."""

    def __init__(self, tell: Callable[[int, int, str], None] | None, total: int) -> None:
        self.tell, self.total, self.done = tell, total, 0

    def step(self) -> None:
        self.done += 1
        if self.tell is not None:
            self.tell(self.done, self.total, "steps")


def objective_values(
    model: Model | nn.Module | str,
    images: Any,
    objective: Objective,
    *,
    normalise: Normalisation | None = None,
    batch_size: int = BATCH,
) -> NDArray[np.float64]:
    """[n] float64: what an objective gives images in 0..1, such as the real ones; higher is better.

    Parameters
    ----------
    images : [n, c, h, w] in 0..1, read a batch at a time.
    normalise : as for `maximize`.

    Raises
    ------
    ParameterError
        The objective couples images.
    DataError
        These are no finite images in 0..1.
    """
    model = load(model)
    if objective.coupled:
        raise ParameterError(f"{objective.name} couples images; it has no value for each alone.")
    x = checked_images(images, "images")
    frame = frame_of(model, starts=x, normalise=normalise)
    found = []
    with Watched(model, objective, frame) as watched:
        for rows in x.split(batch_size):
            # faceted objectives take a derivative, so the graph is kept for this batch
            rows = rows.to(model.device, torch.promote_types(model.dtype, torch.float32))
            if not found:
                watched.check(rows[:1])
            found.append(watched.values(rows.requires_grad_()).detach().double().cpu())
    return torch.cat(found).numpy()
