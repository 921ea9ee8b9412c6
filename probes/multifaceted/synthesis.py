"""Images that show facets: activation maximisation from each facet's mean image, and their scores.

Climbing the unit alone leaves most facets for the one that fires it most, however it began (on
demo:digits all five images of "even" end as a 4). So the recommended objective adds how far an
image's code lies towards its own facet, which the paper's has not.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cosine_similarity

from interp.capturing import Capture
from interp.data import read
from interp.errors import ParameterError
from interp.models import Model
from probes.multifaceted import objectives
from probes.multifaceted.fired import collect
from probes.multifaceted.frames import Normalisation, frame_of
from probes.multifaceted.maximize import BATCH, maximize
from probes.multifaceted.objectives import Objective, Seen
from probes.multifaceted.schedules import Schedule
from probes.multifaceted.scoring import diversity_of, likeness
from probes.multifaceted.units import Unit

__all__ = ["Synthesised", "kept_near", "objective_of", "synthesise", "towards", "typical_cosines"]


@dataclass(frozen=True)
class Synthesised:
    """Images [k, c, h, w] in 0..1, and their ``scores`` and ``diversity`` (see `Facets`)."""

    images: NDArray
    scores: dict[str, NDArray]
    diversity: float
    schedule: str
    notes: tuple[str, ...] = ()
    reasons: dict[str, str] = field(default_factory=dict)


def objective_of(unit: Unit, position: str = "max") -> Objective:
    """What fires a unit, as `probes.maximize` climbs it: its greatest activation over positions."""
    if unit.vector is not None:
        return objectives.direction(unit.hookpoint, unit.vector, position=position)
    assert unit.index is not None  # noqa: S101  a unit without a direction has an index
    if unit.coder is None:
        return objectives.unit(unit.hookpoint, unit.index, position=position)
    make = objectives.code if hasattr(unit.coder, "snap") else objectives.latent
    return make(unit.hookpoint, unit.coder, unit.index, position=position)


def towards(hookpoint: str, centres: NDArray, mean: NDArray) -> Objective:
    """Cosine of an image's code with its own facet's, both less the mean code of all inputs.

    Image i of the batch is drawn to facet i; views of it follow one another a whole batch at a
    time. Codes are means over positions.

    Parameters
    ----------
    centres : [k, d] mean code of each facet; ``mean`` [d] of all.

    Range: -1 to 1, higher is nearer. Degenerate: 0 for a facet whose centre is the mean, as a
    single one's.
    """
    ways = torch.as_tensor(centres - mean)

    def value(seen: Seen) -> Tensor:
        codes = seen.units(hookpoint).mean(1)
        own = ways.to(codes)[torch.arange(len(codes), device=codes.device) % len(ways)]
        return cosine_similarity(codes - torch.as_tensor(mean).to(codes), own, dim=1)

    return Objective(f"towards its facet at {hookpoint}", (hookpoint,), value, coupled=True)


def kept_near(goal: Objective, near: Objective, least: NDArray, weight: float) -> Objective:
    """``goal - weight * max(least - near, 0)``: free to climb while an image is near its facet.

    Parameters
    ----------
    near : as `towards` makes it.
    least : [k] cosine below which image i is pulled back.
    weight : of a missing cosine of 1, in the goal's units.
    """
    bounds = torch.as_tensor(least)

    def value(seen: Seen) -> Tensor:
        found = near.value(seen)
        turn = torch.arange(len(found), device=found.device) % len(bounds)
        missing = (bounds.to(found)[turn] - found).clamp_min(0)
        return goal.value(seen) - weight * missing

    points = tuple(dict.fromkeys([*goal.hookpoints, *near.hookpoints]))
    return Objective(f"{goal.name}, kept near its facet", points, value, coupled=True)


def typical_cosines(codes: NDArray, labels: NDArray, centres: NDArray, mean: NDArray) -> NDArray:
    """[k]: median cosine of a facet's inputs with its centre, both less the mean of all inputs.

    Degenerate: 0 for a facet whose centre is the mean.
    """
    found = []
    for i, centre in enumerate(centres):
        own, way = codes[labels == i] - mean, centre - mean
        size = np.linalg.norm(own, axis=1) * np.linalg.norm(way)
        cosines = np.divide(own @ way, size, out=np.zeros(len(own)), where=size > 0)
        found.append(float(np.median(cosines)))
    return np.array(found)


def synthesise(
    model: Model,
    unit: Unit,
    codes_at: str,
    means: NDArray,
    centres: NDArray,
    mean: NDArray,
    least: NDArray,
    *,
    best: float,
    stay: float,
    schedule: str | Schedule,
    normalise: Normalisation | None = None,
    seed: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
) -> Synthesised:
    """An image a facet, all climbed together, each from the mean of its nearest images.

    Parameters
    ----------
    means : [k, c, h, w] in 0..1.
    centres, mean : [k, d] and [d], the mean codes of facets and of all inputs.
    least : [k] of `typical_cosines`: an image is kept as near its facet as half of its inputs are.
    best : greatest activation of a real input, the unit of ``stay`` and of the ratio.
    stay : weight of `kept_near`; 0 climbs the unit alone, as the paper.
    """
    if stay < 0:
        raise ParameterError(f"stay must be at least 0; got {stay}.")
    goal = objective_of(unit)
    if stay > 0 and 1 < len(means) <= BATCH:
        near = towards(codes_at, centres, mean)
        goal = kept_near(goal, near, least, stay * (abs(best) or 1.0))
    made = maximize(model, goal, schedule=schedule, starts=means, normalise=normalise, seed=seed,
                    progress=progress)  # fmt: skip
    images = np.clip(made.images, 0, 1)
    activation, codes = _seen(model, unit, codes_at, images, normalise)
    scores, diversity = image_scores(activation, codes, centres, best)
    reasons = dict(made.reasons)
    if np.isnan(scores["own_cosine"]).any():
        reasons["own_cosine"] = "a code of an image or a facet is zero and has no direction"
    if not best > 0:
        reasons["ratio"] = "the best real input's activation is not above 0, so nothing is a share."
    return Synthesised(images, scores, diversity, made.schedule, made.notes, reasons)


def image_scores(
    activation: NDArray, codes: NDArray, centres: NDArray, best: float
) -> tuple[dict[str, NDArray], float]:
    """Whether images fire the unit and look, to the model, like their own facet.

    Parameters
    ----------
    activation, codes : [k] and [k, d] of the images, in the facets' order.
    centres : [k, d] mean codes of the facets' real inputs.
    best : greatest activation of a real input.

    Range: ``ratio`` above 1 fires more than any real input; cosines are -1 to 1; ``facet`` is the
    facet whose mean code has the greatest cosine, its own where the image is right; the diversity
    is 0 for equal codes, 1 for orthogonal ones.
    Degenerate: ratio is nan where best is not above 0; other_cosine and the diversity are nan for
    one facet; a code of zero has cosines of nan and the facet -1.
    """
    own, other, nearest = likeness(codes, centres)
    scores = {
        "activation": activation,
        "ratio": activation / best if best > 0 else np.full(len(centres), np.nan),
        "own_cosine": own,
        "other_cosine": other,
        "facet": np.array([-1 if i is None else i for i in nearest], dtype=np.int64),
    }
    return scores, diversity_of(codes)


def _seen(
    model: Model, unit: Unit, codes_at: str, images: NDArray, normalise: Normalisation | None
) -> tuple[NDArray, NDArray]:
    """Activation [k] and codes [k, d] of images, read as those of the data were."""
    x = torch.from_numpy(images)
    inputs = frame_of(model, starts=x, normalise=normalise).inputs(x.double())
    work = Capture(model, read(inputs), [unit.hookpoint, codes_at], "all", None, None, None)
    found = collect(work, unit, codes_at, n_top=len(x), among=range(len(x)))
    return found.activation, found.codes.astype(np.float64)
