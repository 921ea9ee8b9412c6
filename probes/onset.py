"""Onset: the first place at which a probe beats its control, with a test that allows for many."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t as student_t

__all__ = [
    "LEVEL",
    "Null",
    "depths_of",
    "first_onset",
    "holm",
    "null_of",
    "onset_in_draws",
    "onset_interval",
]

LEVEL = 0.05
"""Chance, over all places together, of an onset where there is nothing to read."""


@dataclass(frozen=True)
class Null:
    """What accuracy would be at each of h places if the labels meant nothing.

    Attributes
    ----------
    mean : [h] mean accuracy on shuffled labels.
    spread : [h] standard error of ``accuracy - mean``; nan for fewer than two shuffles.
    df : degrees of freedom, shuffles less one.
    """

    mean: NDArray
    spread: NDArray
    df: int

    def at(self, places: Sequence[int]) -> "Null":
        """The null of some of the places."""
        return Null(self.mean[list(places)], self.spread[list(places)], self.df)

    def p_values(self, accuracy: NDArray) -> NDArray:
        """One-sided p-values, of accuracies [..., h] as high as these; nan where undefined.

        Range: 0 to 1, smaller is stronger.
        """
        if self.df < 1:
            return np.full(accuracy.shape, np.nan)
        return student_t.sf((accuracy - self.mean) / self.spread, self.df)

    def interval(self, accuracy: NDArray, level: float | None = None) -> tuple[NDArray, NDArray]:
        """Interval [h], [h] of ``accuracy - mean``.

        By default it covers at all places together with ``1 - LEVEL`` (Bonferroni): a curve is
        read as a whole, and of 20 intervals at 95 % one leaves 0 by chance. ``level`` gives that
        of each place by itself.
        """
        level = 1 - LEVEL / max(1, len(accuracy)) if level is None else level
        gain = accuracy - self.mean
        if self.df < 1:
            return np.full_like(gain, np.nan), np.full_like(gain, np.nan)
        half = student_t.ppf(0.5 + level / 2, self.df) * self.spread
        return gain - half, gain + half


def null_of(shuffled: NDArray, error: NDArray, n: int) -> Null:
    """The null of h places from accuracies on shuffled labels [h, shuffles].

    The rank of an accuracy among ten shuffles gives no p below 1/11, which no correction for a
    dozen layers survives. So the shuffles give a mean and a deviation s, and an accuracy is
    compared with them as a new draw, by Student's t::

        spread^2 = max(s, error)^2 + s^2 / shuffles + 1 / (12 n^2)

    ``error`` [h] is the standard error of accuracy over draws of whole groups. It counts where it
    is the larger: shuffling may break up labels that go together within a group, and then varies
    too little. The last term is that of rounding to whole rows; it keeps the spread above 0.

    Degenerate: fewer than two shuffles give no spread.
    """
    count = shuffled.shape[1]
    mean = shuffled.mean(1) if count else np.full(len(shuffled), np.nan)
    if count < 2:
        return Null(mean, np.full(len(shuffled), np.nan), count - 1)
    deviation = shuffled.std(axis=1, ddof=1)
    largest = np.maximum(deviation, error)
    return Null(mean, np.sqrt(largest**2 + deviation**2 / count + 1 / (12 * n**2)), count - 1)


def holm(p: ArrayLike) -> NDArray:
    """p-values [..., h] adjusted for being the smallest of h, by Holm's step-down rule.

    The r-th smallest (from 0) becomes ``(h - r) * p``, at least the one before, at most 1.
    Rejecting those up to a level keeps the chance of any false rejection below the level,
    however the tests depend on each other.

    Range: 0 to 1, never below p.
    Source: Holm 1979, Scandinavian Journal of Statistics 6.
    """
    p = np.asarray(p, dtype=np.float64)
    order = np.argsort(p, axis=-1)
    factor = np.arange(p.shape[-1], 0, -1)
    ranked = np.maximum.accumulate(np.take_along_axis(p, order, -1) * factor, axis=-1)
    out = np.empty_like(p)
    np.put_along_axis(out, order, np.minimum(ranked, 1.0), -1)
    return out


def first_onset(adjusted: NDArray) -> int | None:
    """The first place whose adjusted p-value is at most `LEVEL`, or None."""
    found = np.flatnonzero(adjusted <= LEVEL)
    return int(found[0]) if len(found) else None


def depths_of(places: Sequence[int], layers: Sequence[int]) -> NDArray:
    """Depth of each of h places as a fraction, [h]: ``i / d`` of layer i of d, 0 of the others."""
    order = {layer: i for i, layer in enumerate(layers)}
    return np.array([order.get(place, 0) / max(len(layers), 1) for place in places])


def onset_in_draws(accuracy: NDArray, null: Null) -> NDArray:
    """The place of the onset for each of many accuracies [draws, h], as [draws]; h where none is.

    ``null`` is of the same places; it stays as it is in all draws.
    """
    beats = holm(null.p_values(accuracy)) <= LEVEL
    return np.where(beats.any(1), beats.argmax(1), accuracy.shape[1])


def onset_interval(accuracy: NDArray, null: Null) -> tuple[int | None, int | None]:
    """First and last place of the onset in the middle 95 % of draws of whole groups.

    Parameters
    ----------
    accuracy : [draws, h] accuracy at each place in each draw (`accuracy_in_draws`).
    null : of the same places; it stays as it is in all draws.

    Returns
    -------
    tuple
        None where that end of the draws has no onset: None as the last says that it may be
        absent, None twice that it mostly is.
    """
    places = onset_in_draws(accuracy, null)
    ends = np.quantile(places, [0.025, 0.975], method="inverted_cdf")
    low, high = (int(e) if e < accuracy.shape[1] else None for e in ends)
    return low, high
