"""What several measures say of each layer, as one result."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import pandas as pd
from numpy.typing import NDArray

from interp.results import Result

__all__ = ["Geometry"]


@dataclass(frozen=True, kw_only=True)
class Geometry(Result):
    """What the measures say of each layer.

    Attributes
    ----------
    label, classes : column of the labels and their names; None and empty without labels.
    inputs : what stands for the model's input, in words, or None.
    hookpoints, widths : in depth order.
    measures : names of what was measured, in order.
    values : measure -> [h] a number a hook point; nan where undefined.
    parts : measure -> {name: [h]}, numbers that belong to it.
    matrices : measure -> [h, h], likeness of each pair of hook points.
    curves : measure -> {hook point: {"x": [m], line: [m], ...}}; a hook point without a curve is
        not there.
    reasons : ``"hook point: measure"`` -> why that is undefined.
    """

    kind: ClassVar[str] = "geometry"

    label: str | None
    classes: tuple[str, ...]
    inputs: str | None
    hookpoints: tuple[str, ...]
    widths: tuple[int, ...]
    measures: tuple[str, ...]
    values: dict[str, NDArray] = field(default_factory=dict)
    parts: dict[str, dict[str, NDArray]] = field(default_factory=dict)
    matrices: dict[str, NDArray] = field(default_factory=dict)
    curves: dict[str, dict[str, dict[str, NDArray]]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    examples: list[dict[str, Any]] | tuple[()] = ()

    def to_frame(self) -> pd.DataFrame:
        """A row a hook point, a column a measure and each of its parts."""
        columns: dict[str, Any] = {"hookpoint": self.hookpoints, "width": self.widths}
        for name, values in self.values.items():
            columns[name] = values
            columns |= {f"{name}.{part}": v for part, v in self.parts.get(name, {}).items()}
        return pd.DataFrame(columns)

    def metrics(self) -> dict[str, Any]:
        """Numbers and names for ``metrics.json``; of curves only that they are in the result."""
        names = ("label", "inputs", "values", "parts", "matrices", "reasons")
        found = {name: getattr(self, name) for name in names}
        lists = {name: list(getattr(self, name)) for name in ("hookpoints", "widths", "classes")}
        return {"n": self.n, **lists, **found, "curves": sorted(self.curves)}
