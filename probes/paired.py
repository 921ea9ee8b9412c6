"""Paired comparison: how sure is a shift of a depth measure between two runs on the same rows?

The same draws of whole groups are taken from the held-out answers of both runs, and the measures
are computed anew in each draw. What makes a row easy or hard is in both runs and cancels, so the
interval of the difference is narrower than two intervals side by side would say.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from interp.errors import DataError, ParameterError
from probes.curves import ConceptDepth
from probes.onset import Null, depths_of, onset_in_draws
from probes.plan import BOOTSTRAP_DRAWS
from probes.points import converging_points, jump_points
from probes.scores import accuracy_in_draws, bootstrap_weights

__all__ = [
    "MEASURES",
    "UNDEFINED",
    "check_pair",
    "clears_zero",
    "measures_in_draws",
    "paired_interval",
    "paired_shifts",
    "simultaneous_interval",
]

MEASURES = ("jump_point", "converging_point", "onset_depth", "peak")
"""Measures that are compared, by their names in `ConceptDepth`."""

UNDEFINED = 0.05
"""Largest share of draws that may lack a measure before its shift has no interval."""

LEVEL = 0.05
"""Chance that an interval misses, over all hook points together."""

SETTINGS = ("mode", "probe", "folds", "strengths", "permutations", "classes")


def check_pair(clean: ConceptDepth, other: ConceptDepth, *, hookpoints: bool = True) -> None:
    """Refuse two results that do not answer the same rows in the same way.

    Parameters
    ----------
    hookpoints : whether they must also be read at the same hook points: two models need not have
        the same layers for their points as fractions of depth to be compared.

    Raises
    ------
    DataError
        They answer other rows, or their classes, groups or folds differ.
    ParameterError
        They were probed with other settings, or one keeps no answers.
    """
    for depth in (clean, other):
        if depth.hits is None or depth.rows_hash is None:
            raise ParameterError(
                f"{depth.name} keeps no answers of its groups (hits), so it cannot be paired; run "
                "probes.concept_depth anew."
            )
    for name in (*SETTINGS, "hookpoints") if hookpoints else SETTINGS:
        was, now = getattr(clean, name), getattr(other, name)
        if was != now:
            raise ParameterError(
                f"two runs are compared with the same {name}; {clean.name} has {was!r} in the "
                f"clean run and {now!r} in the other. Probe both with one setting."
            )
    if clean.rows_hash != other.rows_hash:
        raise DataError(
            f"two runs are compared on the same rows, classes, groups and folds; those of "
            f"{clean.name} differ between the clean run and the other. Use the same data, groups "
            "and seed for both."
        )


def measures_in_draws(depth: ConceptDepth, weights: NDArray) -> dict[str, NDArray]:
    """Each of `MEASURES` in each draw of whole groups, [draws]; nan where it is undefined.

    The probes are not fitted anew, and the null of the onset stays as it is in all draws, as for
    the result's own intervals. ``weights`` [draws, groups] are of `bootstrap_weights`; a draw that
    takes every group once gives the result's own numbers.

    Parameters
    ----------
    depth : with ``hits``.
    """
    hits, sizes = cast(NDArray, depth.hits), cast(NDArray, depth.group_sizes)
    accuracy = accuracy_in_draws(hits, sizes, weights)
    nothing = np.full(len(weights), np.nan)
    found = dict.fromkeys(MEASURES, nothing) | {"peak": accuracy.max(1)}
    # It is undefined only where the hook points are no one sequence of layers.
    if depth.converging_point is not None:
        layers = accuracy[:, list(depth.layers)]
        found["jump_point"] = jump_points(layers)
        found["converging_point"] = converging_points(layers)
    adjusted = cast(NDArray, depth.p_adjusted)
    places = np.flatnonzero(np.isfinite(adjusted)).tolist()
    if places:
        null = Null(depth.shuffled, cast(NDArray, depth.null_spread), depth.permutations - 1)
        where = onset_in_draws(accuracy[:, places], null.at(places))
        found["onset_depth"] = np.append(depths_of(places, depth.layers), np.nan)[where]
    return found


def paired_interval(clean: NDArray, other: NDArray) -> tuple[float | None, float | None, float]:
    """95 % percentile interval of ``other - clean`` over the draws in which both are defined.

    Its ends are values of draws, the outer ones where a percentile lies between two: a depth
    takes few values, and no draw has the ones between. Exchanging the runs turns its sign.

    Parameters
    ----------
    clean, other : [draws] of `measures_in_draws` with the same weights.

    Returns
    -------
    tuple
        Low, high, and the share of draws (0 to 1) in which either is undefined. Low and high are
        None where that share is above `UNDEFINED`. Draws that lack a measure lie beyond either
        end for all one knows; up to that share the interval still holds 0.95 * 0.95, nine tenths,
        of all draws.
    """
    shift = other - clean
    shift = shift[np.isfinite(shift)]
    missing = 1 - len(shift) / len(clean)
    if missing > UNDEFINED:
        return None, None, missing
    low, high = (s * np.quantile(s * shift, 0.025, method="lower") for s in (1, -1))
    return float(low), float(high), missing


def paired_shifts(
    clean: ConceptDepth,
    others: Sequence[ConceptDepth],
    *,
    draws: int = BOOTSTRAP_DRAWS,
    seed: int = 0,
    hookpoints: bool = True,
    names: tuple[str, str] = ("clean run", "perturbed run"),
) -> list[dict[str, Any]]:
    """How far each measure of other runs lies from that of the clean one, with its interval.

    Parameters
    ----------
    hookpoints : as for `check_pair`.
    names : what reasons call the first run, and another.

    Returns
    -------
    list
        A table a run. For each of `MEASURES`: ``…_shift``, the other's value less the clean one,
        None where either is undefined; ``…_shift_low`` and ``…_shift_high`` (`paired_interval`),
        None too where there are fewer than two groups to draw; ``…_shift_undefined``, the share
        of draws that lack it. ``reasons`` says why something is None, by its name.

    Raises
    ------
    DataError, ParameterError
        As `check_pair`.
    """
    for other in others:
        check_pair(clean, other, hookpoints=hookpoints)
    if not others:
        return []
    groups = np.arange(len(cast(NDArray, clean.group_sizes)))
    weights = bootstrap_weights(groups, draws=draws, seed=seed)
    before = measures_in_draws(clean, weights)
    tables = []
    for other in others:
        after, table, reasons = measures_in_draws(other, weights), {}, {}
        for name in MEASURES:
            was, now = getattr(clean, name), getattr(other, name)
            low, high, missing = paired_interval(before[name], after[name])
            key, shift = f"{name}_shift", None
            if was is None or now is None:
                run, depth = (names[0], clean) if was is None else (names[1], other)
                reasons[key] = f"undefined in the {run}: {depth.reasons.get(name, 'no reason.')}"
                low = high = None
            else:
                shift = float(now - was)
                if len(groups) < 2:
                    reasons[f"{key}_low"] = "an interval needs two groups or more to draw from."
                    low = high = None
                elif low is None:
                    reasons[f"{key}_low"] = (
                        f"{100 * missing:.1f} % of the draws lack the measure in one of the runs; "
                        f"an interval allows {100 * UNDEFINED:g} %."
                    )
            table |= {key: shift, f"{key}_low": low, f"{key}_high": high}
            table[f"{key}_undefined"] = missing
        tables.append({**table, "reasons": reasons})
    return tables


def clears_zero(run: Mapping[str, Any], name: str) -> bool:
    """Whether a run's shift of a measure, and all of its interval, lie on one side of 0.

    False where there is no interval.
    """
    ends = [run.get(f"{name}_shift{end}") for end in ("", "_low", "_high")]
    known = [e for e in ends if e is not None]
    return len(known) == len(ends) and (min(known) > 0 or max(known) < 0)


def simultaneous_interval(delta: NDArray) -> tuple[NDArray, NDArray]:
    """95 % interval of each row's first entry, for all rows together, from its other entries.

    The largest deviation over rows, in standard errors, is within the half-width in 95 % of draws.

    Parameters
    ----------
    delta : [h, 1 + draws], a difference and its draws at each of h hook points.

    Returns
    -------
    tuple
        Low and high [h]; nan where more than 5 % of the draws are undefined.
    """
    value, drawn = delta[:, 0], delta[:, 1:]
    whole = np.isfinite(drawn).mean(1) >= 1 - LEVEL
    nothing = np.full(len(value), np.nan)
    if not whole.any():
        return nothing, nothing.copy()
    known = drawn[whole][:, np.isfinite(drawn[whole]).all(0)]
    error = known.std(1, ddof=1)
    spread = np.abs(known - value[whole, None]) / np.where(error > 0, error, 1)[:, None]
    half = np.percentile(spread.max(0), 100 * (1 - LEVEL)) * error
    low, high = nothing, nothing.copy()
    low[whole], high[whole] = value[whole] - half, value[whole] + half
    return low, high
