"""Two numbers of a depth curve: where accuracy first jumps, and from where it stays."""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from interp.errors import ParameterError

__all__ = ["converging_point", "converging_points", "jump_point", "jump_points"]

JUMP = 1.1
"""Ratio of neighbouring accuracies from which a step is a jump."""

QUIET = 0.03
"""Relative change of accuracy below which a step is quiet."""


def jump_point(accuracies: ArrayLike) -> float | None:
    """The depth, as a fraction, at which accuracy first rises by a tenth or more.

    ``min i / d`` over the layers i = 1..d-1 with ``accuracy[i] / accuracy[i - 1] >= 1.1``.

    Range: 1/d to (d-1)/d; smaller is earlier.
    Degenerate: None where no step is that large, for fewer than two layers, and where an
    accuracy is not finite. A step up from 0 counts as a jump.
    Source: Concept Depth, arXiv 2404.07066.
    """
    return _one(jump_points(_curve(accuracies)[None]))


def jump_points(curves: NDArray) -> NDArray:
    """`jump_point` of each of many curves [m, d], as [m]; nan where it is undefined."""
    d = curves.shape[1]
    jumps = _ratios(curves) >= JUMP - 1e-12
    first = np.where(jumps, np.arange(1, max(d, 1)), d).min(1, initial=d)  # d where there is none
    return np.where((first < d) & _defined(curves), first / max(d, 1), np.nan)


def converging_point(
    accuracies: ArrayLike, rule: Literal["stable_after", "literal"] = "stable_after"
) -> float | None:
    """The depth, as a fraction, from which accuracy no longer changes by 3 % or more.

    With b_i = accuracy[i] / accuracy[i - 1]:

    - ``stable_after``: ``(j + 2) / d``, j the last layer with ``|b_j - 1| >= 0.03`` (0 where there
      is none), at least 3/d and at most 1. Layers count from 1 here: the value names the first
      layer from which on every step is quiet. It gives the bars of the paper's figure.
    - ``literal``: ``max i / d`` with ``|b_i - 1| < 0.03``, as printed; near (d-1)/d for nearly any
      curve.

    Range: above 0, to 1; smaller is earlier. 1 under ``stable_after`` may mean never.
    Degenerate: None for fewer than two layers, where an accuracy is not finite, and under
    ``literal`` where no step is quiet.
    Source: Concept Depth, arXiv 2404.07066; ``stable_after`` is read off its figure.

    Raises
    ------
    ParameterError
        The rule is neither, or the accuracies are no list of numbers.
    """
    if rule not in ("stable_after", "literal"):
        raise ParameterError(f"rule must be 'stable_after' or 'literal'; got {rule!r}.")
    return _one(converging_points(_curve(accuracies)[None], rule))


def converging_points(
    curves: NDArray, rule: Literal["stable_after", "literal"] = "stable_after"
) -> NDArray:
    """`converging_point` of each of many curves [m, d], as [m]; nan where it is undefined."""
    d = curves.shape[1]
    quiet = np.abs(_ratios(curves) - 1) < QUIET
    if rule == "literal":
        return np.where(quiet.any(1) & _defined(curves), _last(quiet) / max(d, 1), np.nan)
    ends = np.minimum(1.0, np.maximum(3, _last(~quiet) + 2) / max(d, 1))
    return np.where(_defined(curves), ends, np.nan)


def _curve(accuracies: ArrayLike) -> NDArray:
    alpha = np.asarray(accuracies, dtype=np.float64)
    if alpha.ndim != 1:
        raise ParameterError(f"accuracies must be one number a layer; got shape {alpha.shape}.")
    return alpha


def _one(points: NDArray) -> float | None:
    return None if np.isnan(points[0]) else float(points[0])


def _defined(curves: NDArray) -> NDArray:
    """Which curves have a step and no accuracy that is not finite."""
    return np.isfinite(curves).all(1) & (curves.shape[1] > 1)


def _last(steps: NDArray) -> NDArray:
    """The number, from 1, of each row's last step that is true; 0 where none is."""
    return np.where(steps, np.arange(1, steps.shape[1] + 1), 0).max(1, initial=0)


def _ratios(curves: NDArray) -> NDArray:
    """Each accuracy over the one before, [m, d - 1]."""
    after, before = curves[:, 1:], curves[:, :-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = after / before
    return np.where((after == 0) & (before == 0), 1.0, ratio)
