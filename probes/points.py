"""Two numbers of a depth curve: where accuracy first jumps, and from where it stays."""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from interp.errors import ParameterError

__all__ = ["converging_point", "jump_point"]

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
    alpha = _curve(accuracies)
    ratio = _ratios(alpha)
    if ratio is None:
        return None
    jumps = np.flatnonzero(ratio >= JUMP - 1e-12)
    return float((jumps[0] + 1) / len(alpha)) if len(jumps) else None


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
    alpha = _curve(accuracies)
    ratio = _ratios(alpha)
    if ratio is None:
        return None
    d = len(alpha)
    quiet = np.abs(ratio - 1) < QUIET
    if rule == "literal":
        return float((np.flatnonzero(quiet)[-1] + 1) / d) if quiet.any() else None
    last = 0 if quiet.all() else int(np.flatnonzero(~quiet)[-1]) + 1
    return min(1.0, max(3, last + 2) / d)


def _curve(accuracies: ArrayLike) -> NDArray:
    alpha = np.asarray(accuracies, dtype=np.float64)
    if alpha.ndim != 1:
        raise ParameterError(f"accuracies must be one number a layer; got shape {alpha.shape}.")
    return alpha


def _ratios(alpha: NDArray) -> NDArray | None:
    """Each accuracy over the one before; None where there is none, or one is not finite."""
    if len(alpha) < 2 or not np.isfinite(alpha).all():
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = alpha[1:] / alpha[:-1]
    return np.where((alpha[1:] == 0) & (alpha[:-1] == 0), 1.0, ratio)
