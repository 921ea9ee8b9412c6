"""One batch of pictures on its way up: steps, views, and what is kept of them."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from interp.errors import ModelError
from interp.models import Model
from probes.multifaceted.frames import Frame
from probes.multifaceted.images import Fourier, Maco, Pixels, resized
from probes.multifaceted.objectives import Objective
from probes.multifaceted.schedules import Octave, Schedule
from probes.multifaceted.total_variation import denoise_tv
from probes.multifaceted.views import crop_offset, look
from probes.multifaceted.watching import Watched

__all__ = ["Climb", "Climbed"]

VIEWS_SEED = 2**32
"""Added to the seed for what is drawn at each step, so that starts and views are apart."""
LEVELS = 255.0


class Climbed(NamedTuple):
    """What came of a batch of n pictures; tensors lie on the CPU.

    Attributes
    ----------
    images, canvas : [n, c, h, w] at the model's size, and [n, c, H, W] whole.
    start_activation, activation : [n] float64.
    trace : [steps, n] float64.
    opacity : [n, h, w] in 0..1.
    moved : [n] steps up to the last one whose gradient was not zero; 0 where all were.
    """

    images: Tensor
    canvas: Tensor
    start_activation: Tensor
    activation: Tensor
    trace: Tensor
    opacity: Tensor
    moved: Tensor


class Climb:
    """Takes pictures of one batch through a schedule.

    Parameters
    ----------
    batch_size : views in the model at once.
    report : called after each step.
    """

    def __init__(
        self,
        model: Model,
        objective: Objective,
        frame: Frame,
        plan: Schedule,
        *,
        seed: int,
        batch_size: int,
        report: Callable[[], None],
    ) -> None:
        self.objective, self.frame, self.plan = objective, frame, plan
        self.watched = Watched(model, objective, frame)
        self.batch_size, self.report = batch_size, report
        self.generator = torch.Generator().manual_seed(seed + VIEWS_SEED)
        self.done = 0

    def run(self, picture: Pixels | Fourier | Maco) -> Climbed:
        """The schedule from beginning to end; hooks and modes are put back whatever happens."""
        with self.watched as watched:
            first = self._shown(picture)
            watched.check(first[:1])
            start = self._measured(first)
            trace, shade = [], torch.zeros_like(first[:, 0])
            moved = torch.zeros(len(first), dtype=torch.long, device=first.device)
            optimizer = self._optimizer(picture)
            for octave in self.plan.octaves:
                watched.objective = self.objective
                if octave.probability and self.objective.probability is not None:
                    watched.objective = self.objective.probability
                if isinstance(picture, Pixels):
                    picture.enlarge(octave.scale)
                for i in range(octave.steps):
                    watched.redirect = self.done < self.plan.redirect
                    if isinstance(picture, Pixels):
                        values, slope = self._pixel_step(picture, octave, i)
                    else:
                        assert optimizer is not None  # noqa: S101  _optimizer made it
                        values, slope = self._step(picture, optimizer, octave.rate_at(i))
                    self._check(values)
                    trace.append(values)
                    shade += resized(slope.abs().mean(1, keepdim=True), self.frame.size)[:, 0]
                    self.done += 1
                    moved[slope.flatten(1).any(1)] = self.done
                    self.report()
            watched.redirect, watched.objective = False, self.objective
            last = self._shown(picture)
            found = self._measured(last)
            self._check(found)
        shade = shade / shade.amax((1, 2), keepdim=True).clamp_min(torch.finfo(shade.dtype).tiny)
        canvas = picture.image().detach().clamp(0, 1)
        kept = (last, canvas, start, found, torch.stack(trace), shade, moved)
        return Climbed(*(t.cpu() for t in kept))

    def _optimizer(self, picture: Pixels | Fourier | Maco) -> torch.optim.Optimizer | None:
        if isinstance(picture, Pixels):
            return None
        kind = {"adam": torch.optim.Adam, "nadam": torch.optim.NAdam}[self.plan.optimiser]
        return kind(picture.variables)

    def _step(
        self, picture: Fourier | Maco, optimizer: torch.optim.Optimizer, rate: float
    ) -> tuple[Tensor, Tensor]:
        """One step of the optimiser; values [n] before it, and the gradient at the image."""
        image = picture.image()
        values, slope = self._slope(image.detach())
        found = torch.autograd.grad(image, picture.variables, grad_outputs=-slope)
        for variable, gradient in zip(picture.variables, found, strict=True):
            variable.grad = gradient
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        return values, slope

    def _pixel_step(self, picture: Pixels, octave: Octave, i: int) -> tuple[Tensor, Tensor]:
        """Add g / mean|g| to a crop, clip, smooth, and put it back."""
        sides = zip(picture.canvas.shape[2:], self.frame.size, strict=True)
        where = []
        for whole, side in sides:
            offset = crop_offset(whole - side, octave.window, self.generator)
            where.append(slice(offset, offset + side))
        crop = picture.canvas[:, :, where[0], where[1]]
        values, slope = self._slope(crop)
        slope = slope * self._mask(octave.margin, slope)
        size = slope.abs().mean((1, 2, 3), keepdim=True)
        direction = torch.where(size > 0, slope / size, 0)
        new = (crop + octave.rate_at(i) / LEVELS * direction).clamp_(0, 1)
        weight = octave.tv_at(i, self.plan.slip)
        if weight is not None:
            new = denoise_tv(new, weight)
        picture.canvas[:, :, where[0], where[1]] = new
        return values, slope

    def _mask(self, margin: float, like: Tensor) -> Tensor:
        """1 within the margins, 0 outside, [h, w]."""
        mask = torch.zeros(self.frame.size, dtype=like.dtype, device=like.device)
        rows, columns = (round(margin * side) for side in self.frame.size)
        mask[rows : self.frame.height - rows, columns : self.frame.width - columns] = 1
        return mask

    def _slope(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The objective [n] and its gradient at images, both means over this step's views."""
        n = len(images)
        leaf = images.requires_grad_(False).clone().requires_grad_()
        if self.plan.views is None or self.plan.parameterisation == "pixel":
            values = self.watched.values(resized(leaf, self.frame.size))
            return values.detach().double(), _gradient(values.sum(), leaf)
        views, (h, w) = self.plan.views, leaf.shape[2:]
        maps = views.draw(self.done / self.plan.steps, h / w, self.generator)
        total = torch.zeros(n, dtype=torch.float64, device=images.device)
        slope = torch.zeros_like(images)
        for group in maps.split(max(1, self.batch_size // n)):
            x = look(leaf, group, self.frame.size)
            if views.noise:
                x = x + self._noise(len(group), x, views.noise).repeat_interleave(n, 0)
            values = self.watched.values(x)
            total += values.detach().double().view(len(group), n).sum(0)
            slope += _gradient(values.sum(), leaf)
        return total / len(maps), slope / len(maps)

    def _noise(self, views: int, like: Tensor, size: float) -> Tensor:
        shape = (views, *like.shape[1:])
        drawn = torch.randn(shape, generator=self.generator, dtype=torch.float64)
        return drawn.to(like) * size

    def _shown(self, picture: Pixels | Fourier | Maco) -> Tensor:
        """The picture at the model's size: the middle of pixels that grew, else resized."""
        image = picture.image().detach()
        h, w = self.frame.size
        if isinstance(picture, Pixels):
            top, left = (image.shape[2] - h) // 2, (image.shape[3] - w) // 2
            return image[:, :, top : top + h, left : left + w].clamp(0, 1)
        return resized(image, (h, w)).clamp(0, 1)

    def _measured(self, images: Tensor) -> Tensor:
        return self.watched.values(images.clone().requires_grad_()).detach().double()

    def _check(self, values: Tensor) -> None:
        if not bool(torch.isfinite(values).all()):
            raise ModelError(
                f"{self.objective.name} becomes NaN or infinity at step {self.done}; use a smaller "
                "rate, or float32."
            )


def _gradient(value: Tensor, leaf: Tensor) -> Tensor:
    """The derivative of a value; zero where it does not depend on the leaf."""
    if not value.requires_grad:
        return torch.zeros_like(leaf)
    (found,) = torch.autograd.grad(value, leaf, allow_unused=True)
    return torch.zeros_like(leaf) if found is None else found
