"""What the geometry of the layers says, from input to output, in plain sentences."""

import math

import numpy as np

from dashboards import html
from dashboards.lines import said
from probes.geometry_result import Geometry

__all__ = ["journey"]

STILL = 0.02
"""A likeness that moves less than this is said to stay."""
APART = -0.01
"""A GDV above this is said to be none."""
CLOSE = 0.01
"""Accuracy this near to that of all dimensions is as good."""


def journey(result: Geometry) -> list[html.Part]:
    """A sentence a question: dimensions, classes, input and target, the largest step, prefixes."""
    told = (
        _dimensions(result),
        _classes(result),
        _alignment(result),
        _step(result),
        _prefix(result),
    )
    items = tuple(s for s in told if s)
    return [html.Items(items, kind="findings")] if items else []


def _row(result: Geometry, name: str) -> np.ndarray | None:
    """A measure by layer, where it is defined at the first and the last of two layers or more."""
    row = result.values.get(name)
    if row is None or len(row) < 2 or not math.isfinite(row[0] + row[-1]):
        return None
    return row


def _at(result: Geometry, i: int) -> html.Cell:
    return html.Code(result.hookpoints[i], 40)


def _dimensions(result: Geometry) -> tuple[html.Cell, ...] | None:
    row = _row(result, "rank")
    if row is None:
        return None
    first = "" if row[0] >= 10 else f" ({row[0]:.1f})"
    text: list[html.Cell] = [
        html.Strong("Dimensions"), f": the {result.n:,} rows spread over {row[0]:.0f}{first} of "
        f"{result.widths[0]} at ", _at(result, 0), f" and {row[-1]:.0f} of {result.widths[-1]} at ",
        _at(result, -1),
    ]  # fmt: skip
    low, high = int(np.nanargmin(row)), int(np.nanargmax(row))
    inner = [(i, word) for i, word in ((high, "most"), (low, "fewest")) if 0 < i < len(row) - 1]
    for i, word in inner:
        text += [f", {word}, {row[i]:.0f} of {result.widths[i]}, at ", _at(result, i)]
    return (*text, " (effective rank).")


def _classes(result: Geometry) -> tuple[html.Cell, ...] | None:
    row = _row(result, "gdv")
    if row is None or result.label is None:
        return None
    best = int(np.nanargmin(row))
    lead: tuple[html.Cell, ...] = (
        html.Strong("Classes"), f": the {len(result.classes)} classes of ",
        html.Code(result.label, 60),
    )  # fmt: skip
    if row[best] > APART:
        return (*lead, f" hardly stand apart at any layer (GDV {said(row[best], 3)} at best, at ",
                _at(result, best), ").")  # fmt: skip
    more = [] if best == len(row) - 1 else [f", and {said(row[-1], 3)} at the end"]
    return (
        *lead, " stand apart most at ", _at(result, best), f", with a GDV of {said(row[best], 3)} "
        "where ", _at(result, 0), f" has {said(row[0], 3)}", *more, ".",
    )  # fmt: skip


def _alignment(result: Geometry) -> tuple[html.Cell, ...] | None:
    told = []
    for name, what in (("alignment_input", "the input"), ("alignment_target", "the classes")):
        row = _row(result, name)
        if row is not None:
            told.append(f"likeness to {what} {_moves(row)}")
    if not told:
        return None
    inputs = f" (for the input stand {result.inputs})" if result.inputs and len(told) else ""
    return (
        html.Strong("Input and target"),
        f": {', and '.join(told)} (CKA)",
        html.Data(inputs),
        ".",
    )


def _moves(row: np.ndarray) -> str:
    change = row[-1] - row[0]
    if abs(change) < STILL:
        return f"stays at {said(row[-1])}"
    return f"{'rises' if change > 0 else 'falls'} from {said(row[0])} to {said(row[-1])}"


def _step(result: Geometry) -> tuple[html.Cell, ...] | None:
    matrix = result.matrices.get("cka")
    if matrix is None or len(matrix) < 3 or not np.isfinite(np.diag(matrix, 1)).all():
        return None
    beside = np.diag(matrix, 1)
    i = int(np.argmin(beside))
    return (
        html.Strong("Steps"), ": the layers change most from ", _at(result, i), " to ",
        _at(result, i + 1), f" (CKA {said(beside[i])}; between other neighbours at least "
        f"{said(np.delete(beside, i).min())}); the first and the last are {said(matrix[0, -1])} "
        "alike.",
    )  # fmt: skip


def _prefix(result: Geometry) -> tuple[html.Cell, ...] | None:
    curves = result.curves.get("prefixes") or {}
    if result.hookpoints[-1] not in curves:
        return None
    curve = curves[result.hookpoints[-1]]
    full, common = float(curve["probe"][-1]), float(curve["majority"][-1])
    error = math.sqrt(max(full * (1 - full), 0.01) / (result.n / 4))  # a quarter is held out
    if full <= common + 2 * error:
        return (html.Strong("Prefixes"), ": a probe of all dimensions of ", _at(result, -1),
                f" is right in {full:.0%} of held-out rows, which is no clear gain over the "
                f"commonest class ({common:.0%}).")  # fmt: skip
    need = {
        k: int(curve["x"][int(np.argmax(curve[k] >= full - CLOSE))])
        for k in ("probe", "probe, PCA", "probe, permuted")
    }
    return (
        html.Strong("Prefixes"), ": at ", _at(result, -1), f" a probe of all {int(curve['x'][-1])} "
        f"dimensions is right in {full:.0%} of held-out rows (the commonest class: {common:.0%}); "
        f"as good within .01 are the first {need['probe']}, {need['probe, permuted']} in a random "
        f"order, and {need['probe, PCA']} principal components.",
    )  # fmt: skip
