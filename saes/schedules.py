"""What changes over a training: learning rate, weight of the sparsity penalty, and k."""

import math
from dataclasses import dataclass

from interp.errors import ParameterError

__all__ = ["DECAYS", "Schedule"]

DECAYS = ("linear", "cosine", "constant", "vl_paper")
VL_EPOCHS, VL_WARMUP = 10, 2
"""Equal parts of a training under ``vl_paper``, and those in which the rate rises."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Numbers by step, counted from 0; a training holds no other state of them.

    Attributes
    ----------
    steps : of the training.
    warmup : steps over which the learning rate rises from ``lr / warmup`` to its full value.
    decay : how it falls over the last ``decay_steps``: ``"linear"`` or ``"cosine"`` towards 0, or
        ``"constant"`` for not at all; or ``"vl_paper"``, the whole schedule of VL-SAE's authors,
        which takes no warmup: ten parts of equal length (their epochs) at .5, 1, .962, .854, .691,
        .5, .309, .146, .038 and 0 times the rate. In the last part nothing is learnt.
    decay_steps : steps of the fall; the last step is one step above 0.
    penalty_warmup : steps over which the sparsity penalty rises from 0 to its full weight.
    k_start : k of the first step; None for no schedule of k.
    k_steps : steps over which k falls to that of the config, linearly.

    Raises
    ------
    ParameterError
        A number is outside what it allows.
    """

    steps: int
    warmup: int = 0
    decay: str = "linear"
    decay_steps: int = 0
    penalty_warmup: int = 0
    k_start: int | None = None
    k_steps: int = 0

    def __post_init__(self) -> None:
        if self.decay not in DECAYS:
            raise ParameterError(f"decay must be one of {', '.join(DECAYS)}; got {self.decay!r}.")
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            raise ParameterError(f"steps must be a whole number above 0; got {self.steps!r}.")
        for name, low in (("warmup", 0), ("decay_steps", 0), ("penalty_warmup", 0)):
            value = getattr(self, name)
            wrong = isinstance(value, bool) or not isinstance(value, int)
            if wrong or not low <= value <= max(self.steps, low):
                raise ParameterError(
                    f"{name} must be a whole number from {low} to the steps; got {value!r}."
                )
        if self.decay == "vl_paper" and (self.warmup or self.decay_steps):
            raise ParameterError(
                "decay vl_paper is a whole schedule; leave warmup and decay_steps out."
            )
        if self.k_start is not None and not (self.k_start >= 1 and 1 <= self.k_steps <= self.steps):
            raise ParameterError(
                f"k_start must be at least 1 and k_steps from 1 to {self.steps}; got "
                f"{self.k_start} and {self.k_steps}."
            )

    def lr_scale(self, step: int) -> float:
        """Factor on the learning rate, above 0 (``"vl_paper"``: from 0) and at most 1."""
        if self.decay == "vl_paper":
            return _vl_factor(step * VL_EPOCHS // self.steps)
        scale = 1.0
        if step < self.warmup:
            scale = (step + 1) / self.warmup
        left = self.steps - step
        if self.decay != "constant" and left < self.decay_steps:
            share = left / self.decay_steps
            scale *= share if self.decay == "linear" else (1 - math.cos(math.pi * share)) / 2
        return scale

    def penalty_scale(self, step: int) -> float:
        """Factor on the sparsity penalty, from 0 to 1."""
        return min(1.0, step / self.penalty_warmup) if self.penalty_warmup else 1.0

    def k(self, step: int, k: int) -> int | None:
        """The k of a step on the way down to ``k``; None where no schedule runs any more."""
        if self.k_start is None or step >= self.k_steps or self.k_start <= k:
            return None
        return round(self.k_start + (k - self.k_start) * step / self.k_steps)


def _vl_factor(epoch: int) -> float:
    """The rate of an epoch, 0 to 9, of VL-SAE's code (arXiv 2510.21323).

    Two epochs of warm-up by hand, then a cosine over the eight that are left, which is moved on at
    the start of an epoch: so it begins below 1 and ends at 0.
    """
    if epoch < VL_WARMUP:
        return (epoch + 1) / VL_WARMUP
    share = (epoch - VL_WARMUP + 1) / (VL_EPOCHS - VL_WARMUP)
    return (1 + math.cos(math.pi * share)) / 2
