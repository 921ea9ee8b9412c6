"""Results as Plotly figures, each with its alternative text in ``layout.meta["alt"]``."""

from collections.abc import Callable, Sequence
from typing import Any

from dashboards.depth import depth_curve, heatmap
from dashboards.style import COLOURS, CONFIG, PARTNERS, SCALE, Plot
from interp.errors import ParameterError
from interp.results import Result
from probes.depth import ConceptDepth

__all__ = ["COLOURS", "CONFIG", "FIGURES", "PARTNERS", "SCALE", "Plot", "figure"]


def figure(result: Result | Sequence[Result]) -> Plot:
    """The figure of a result, or one figure that compares several.

    Parameters
    ----------
    result : a result of a kind in `FIGURES`, or several of concept depth over the same hook points.

    Returns
    -------
    Plot
        A `plotly.graph_objects.Figure`; ``layout.meta["alt"]`` says in words what it shows.

    Raises
    ------
    ParameterError
        No figure is known for this type, or the results cannot be drawn together.
    """
    if isinstance(result, Sequence):
        return heatmap(result)
    for known in type(result).__mro__:
        if known in FIGURES:
            return FIGURES[known](result)
    kinds = ", ".join(t.__name__ for t in FIGURES)
    raise ParameterError(
        f"figure draws {kinds}, or a list of results, and got {type(result).__name__}."
    )


FIGURES: dict[type[Result], Callable[[Any], Plot]] = {ConceptDepth: depth_curve}
"""Result type -> what draws it; subclasses are drawn as their base."""
