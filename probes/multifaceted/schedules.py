"""How an image climbs: parameterisation, steps, step sizes and smoothing, as data.

============  ==============  =====================================================
schedule      variable        step
============  ==============  =====================================================
``lucid``     Fourier         Adam .05, 512 steps, seen jittered, scaled and turned
``maco``      phases alone    NAdam 1.0, 256 steps, seen as 32 random crops
``mfv_mean``  pixels          g / mean|g|, then TV; 370 steps, grows by 1.2
``mfv_cbr``   pixels          the same; 530 steps, grows by 1.2 twice; begins smooth
============  ==============  =====================================================
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from torch import Tensor

from interp.errors import ParameterError, closest
from probes.multifaceted.views import Views

__all__ = ["SCHEDULES", "Octave", "Schedule", "lucid", "maco", "mfv_cbr", "mfv_mean", "named"]

SIDE = 227
"""Side in pixels of the images for which the mfv schedules were written."""
Ramp = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Octave:
    """A run of steps at one size of the picture.

    Attributes
    ----------
    steps : how many.
    rate : step size at the start and the end, linear in i / steps; for pixels in grey levels of
        0..255, else the optimiser's learning rate.
    tv : weight of total-variation smoothing at the start and the end, for pixels of 0..255; smaller
        is smoother. None for none.
    scale : the picture grows by this before the first step.
    window : standard deviation of the crop's offset, as a share of the room it has.
    margin : share of a side at whose edges no pixel gets a gradient.
    probability : climb the softmax of a logit in place of the logit.
    """

    steps: int
    rate: Ramp
    tv: Ramp | None = None
    scale: float = 1.0
    window: float = 0.3
    margin: float = 0.0
    probability: bool = False

    def rate_at(self, i: int) -> float:
        """The step size of step i."""
        start, end = self.rate
        return start + (end - start) * i / self.steps

    def tv_at(self, i: int, slip: bool) -> float | None:
        """The weight of TV at step i.

        Parameters
        ----------
        slip : as released: ``s - (s - e i) / n``, whose missing brackets make it end near s + e.
        """
        if self.tv is None:
            return None
        (start, end), n = self.tv, self.steps
        return start - (start - end * i) / n if slip else start + (end - start) * i / n


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """All that `probes.maximize` does to a picture, but for the objective and the seed.

    Attributes
    ----------
    name : how results call it.
    parameterisation : ``"pixel"``, ``"fourier"`` or ``"maco"``.
    octaves : runs of steps, in order.
    optimiser : ``"mean_abs"`` (pixels: the gradient over the mean of its absolute values),
        ``"adam"`` or ``"nadam"``.
    views : how the model sees the picture at each step; None for crops (pixels) or as it is.
    redirect : first steps in which a ReLU through which nothing flows lets the gradient pass.
    decay : power of 1/f by which Fourier coefficients are scaled.
    slip : the TV weight's formula as released (`Octave.tv_at`).
    canvas : side of the picture over that of the model's input.
    magnitude : [c, h, w // 2 + 1] of natural images (`images.magnitude`), for MACO; None takes the
        start's own, or 1 / f.
    mode : ``"released_code"`` where every constant is as released, else ``"recommended"``.
    """

    name: str
    parameterisation: str
    octaves: tuple[Octave, ...]
    optimiser: str
    views: Views | None = None
    redirect: int = 0
    decay: float = 1.0
    slip: bool = False
    canvas: float = 1.0
    magnitude: Tensor | None = field(default=None, compare=False)
    mode: str = "recommended"

    def __post_init__(self) -> None:
        kinds = {"pixel": ("mean_abs",), "fourier": ("adam", "nadam"), "maco": ("adam", "nadam")}
        if self.parameterisation not in kinds:
            raise ParameterError(
                f"Schedule: parameterisation must be one of {', '.join(kinds)}; got "
                f"{self.parameterisation!r}."
            )
        if self.optimiser not in kinds[self.parameterisation]:
            raise ParameterError(
                f"Schedule: the optimiser of {self.parameterisation} must be one of "
                f"{', '.join(kinds[self.parameterisation])}; got {self.optimiser!r}."
            )
        if not self.octaves or any(o.steps < 1 for o in self.octaves):
            raise ParameterError("Schedule: octaves must hold at least one, of at least one step.")
        weights = [w for o in self.octaves for i in (0, o.steps - 1) if (w := o.tv_at(i, self.slip))
                   is not None]  # fmt: skip
        if any(w <= 0 for w in weights):
            raise ParameterError(
                "Schedule: TV weights must be above 0; with the released formula an octave needs "
                "two steps or more for that."
            )
        if self.canvas <= 0 or any(o.scale < 1 for o in self.octaves):
            raise ParameterError("Schedule: canvas must be above 0, and no scale below 1.")

    @property
    def steps(self) -> int:
        """Steps of all octaves."""
        return sum(o.steps for o in self.octaves)

    def shortened(self, share: float) -> "Schedule":
        """The same with fewer steps in each octave, at least two.

        Parameters
        ----------
        share : of the steps, above 0, at most 1.
        """
        if not 0 < share <= 1:
            raise ParameterError(f"shortened takes a share above 0, at most 1; got {share}.")
        octaves = tuple(
            replace(o, steps=max(min(2, o.steps), round(o.steps * share))) for o in self.octaves
        )
        return replace(self, octaves=octaves, mode="recommended")


def lucid(steps: int = 512, rate: float = 0.05, *, redirect: int = 16) -> Schedule:
    """Fourier coefficients with decorrelated colours and Adam.

    Source: lucid (constants of its code; Olah et al. 2017, "Feature Visualization").
    Differs: its pad, jitter, scaling, turn and jitter are one bilinear resampling to the model's
    own size; shifts are shares of the side, those of its 128 pixels.
    """
    shifts = (8 / 128, 4 / 128)
    scales = tuple(1 + (i - 5) / 50 for i in range(11))
    angles = (*map(float, range(-10, 11)), *[0.0] * 5)
    views = Views(shifts=shifts, scales=scales, angles=angles)
    octave = Octave(steps=steps, rate=(rate, rate))
    return Schedule(
        name="lucid",
        parameterisation="fourier",
        octaves=(octave,),
        optimiser="adam",
        views=views,
        redirect=redirect,
    )


def maco(
    steps: int = 256,
    rate: float = 1.0,
    *,
    crops: int = 32,
    side: Ramp = (0.5, 0.05),
    noise: float = 0.08,
    canvas: float = 512 / 224,
    magnitude: Tensor | None = None,
) -> Schedule:
    """Phases alone, at fixed magnitudes, and NAdam on random crops.

    Parameters
    ----------
    crops, side, noise : views of a step, their side at the first and last one as a share of the
        picture's, and the deviation of the noise. A model of small images knows no such details:
        at 32 pixels ``side=(1.0, 0.6)`` and ``canvas=1`` fire a logit and the defaults do not.
    canvas : side of the picture over that of the model's input.
    magnitude : of natural images at the picture's size (`images.magnitude`).

    Source: Fel et al. 2023, "Unlocking Feature Visualization for Deeper Networks with MAgnitude
    Constrained Optimization" (arXiv 2306.06805); constants of Xplique's code.
    Differs: the magnitudes are those of images you give (`images.magnitude`), of the start, or
    1 / f, where theirs are ImageNet's.
    """
    views = Views(count=crops, side=side, side_sd=0.05, centre_sd=0.15, noise=noise)
    return Schedule(
        name="maco",
        parameterisation="maco",
        octaves=(Octave(steps=steps, rate=(rate, rate)),),
        optimiser="nadam",
        views=views,
        canvas=canvas,
        magnitude=magnitude,
    )


def mfv_mean(*, corrected: bool = False, redirect: int = 0) -> Schedule:
    """Pixels from a mean image, as released with Multifaceted Feature Visualization.

    Parameters
    ----------
    corrected : the TV weight ends where its table says, and dead ReLUs pass gradients for 16 steps.
    redirect : steps in which they do, as released none.

    Source: Nguyen, Yosinski, Clune 2016 (arXiv 1602.03616), act_max.tvd.mean.py.
    Differs: a gradient of zero leaves the image as it is, where theirs becomes nan; margins are
    shares of the side, those of 227 pixels; the final picture is clipped.
    """
    octaves = (
        Octave(steps=190, rate=(1, 2), tv=(0.4, 0.4)),
        Octave(steps=150, rate=(1, 1), tv=(0.01, 2), scale=1.2),
        Octave(steps=20, rate=(2, 2), tv=(0.1, 2), window=0.2, margin=50 / SIDE),
        Octave(steps=10, rate=(2, 2), tv=(0.4, 2)),
    )
    return _mfv("mfv_mean", octaves, corrected, redirect)


def mfv_cbr(*, corrected: bool = False, redirect: int = 0) -> Schedule:
    """Pixels with centre-biased regularisation: one smooth object first, its details after.

    Parameters, Source and Differs: as `mfv_mean`; act_max.tvd.center.py. Its first two octaves
    climb a logit's softmax; another objective is climbed as it is.
    """
    octaves = (
        Octave(steps=190, rate=(11, 11), tv=(0.001, 0.05), probability=True),
        Octave(steps=150, rate=(6, 6), tv=(0.01, 0.08), scale=1.2, probability=True),
        Octave(steps=150, rate=(1, 1), tv=(0.01, 2), scale=1.2),
        Octave(steps=30, rate=(3, 3), tv=(0.1, 2), window=0.1, margin=50 / SIDE),
        Octave(steps=10, rate=(6, 3), tv=(0.01, 2)),
    )
    return _mfv("mfv_cbr", octaves, corrected, redirect)


def _mfv(name: str, octaves: tuple[Octave, ...], corrected: bool, redirect: int) -> Schedule:
    return Schedule(
        name=name,
        parameterisation="pixel",
        octaves=octaves,
        optimiser="mean_abs",
        redirect=16 if corrected and not redirect else redirect,
        slip=not corrected,
        mode="recommended" if corrected or redirect else "released_code",
    )


SCHEDULES: dict[str, Callable[[], Schedule]] = {
    "lucid": lucid,
    "maco": maco,
    "mfv_cbr": mfv_cbr,
    "mfv_mean": mfv_mean,
}
"""Name -> the schedule with its defaults."""


def named(schedule: str | Schedule) -> Schedule:
    """A schedule from its name, or itself."""
    if isinstance(schedule, Schedule):
        return schedule
    if schedule not in SCHEDULES:
        hint = closest(str(schedule), SCHEDULES)
        raise ParameterError(
            f"schedule must be one of {', '.join(SCHEDULES)} or a Schedule; got {schedule!r}"
            f"{'; ' + hint if hint else '.'}"
        )
    return SCHEDULES[schedule]()
