"""Conditions on the numbers of a comparison: ``aqi.delta < -0.1``; nothing is executed."""

import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from interp.changes import Changes
from interp.errors import DataError, ParameterError, closest
from interp.results import Result

__all__ = ["Gate", "holding"]

SHORT = {
    "depth_difference": "depth",
    "sparsity_difference": "sparsity",
    "delta_aqi": "aqi",
    "latent_match": "latents",
    "run_changes": "run",
}
"""Kind of result -> what a condition calls it."""
ANALYSES = {"depth": "concept_depth", "aqi": "aqi_by_layer"}
"""What a condition calls a comparison -> the kind of result that is compared, by another name."""
OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
}
FORM = re.compile(
    r"\s*([^<>=!\s][^<>=!]*?)\s*(<=|>=|==|!=|<|>)\s*([-+]?[0-9.]+(?:[eE][-+]?\d+)?)\s*"
)


@dataclass(frozen=True)
class Gate:
    """A comparison of a named measure with a number.

    Attributes
    ----------
    text : as it was written.
    name : ``analysis.measure``, or ``analysis.result.measure`` for one result alone.
    sign, bound : what it is compared by, and with.
    """

    text: str
    name: str
    sign: str
    bound: float

    @classmethod
    def parse(cls, text: str) -> "Gate":
        """Read ``NAME < NUMBER``; the signs are ``< <= > >= == !=``.

        Raises
        ------
        ParameterError
            It has another form.
        """
        found = FORM.fullmatch(text)
        try:
            bound = float(found[3]) if found else math.nan
        except ValueError:
            bound = math.nan
        if found is None or not math.isfinite(bound):
            raise ParameterError(
                f"a condition has the form NAME < NUMBER, such as 'aqi.delta < -0.1'; got {text!r}."
            )
        return cls(text, found[1], found[2], bound)

    def holds(self, values: Mapping[str, float]) -> list[str]:
        """Places where it holds, with the value there; undefined values hold nowhere.

        Raises
        ------
        DataError
            Every value is undefined: there is nothing to pass or fail.
        """
        defined = {place: v for place, v in values.items() if math.isfinite(v)}
        if not defined:
            raise DataError(f"{self.text!r} cannot be judged: {self.name} is undefined everywhere.")
        rule = OPERATORS[self.sign]
        return [f"{place} = {v:.4g}" for place, v in defined.items() if rule(v, self.bound)]


def holding(gates: Sequence[Gate], results: Sequence[Result]) -> dict[str, list[str]]:
    """Which conditions hold for the results of a comparison, and where.

    A measure with an entry a hook point, and one that several results have, holds where any of
    its values does. One on all results of an analysis passes only where all of them could be
    compared (`interp.changes.Changes.not_compared`).

    Raises
    ------
    ParameterError
        No result has a measure of that name.
    DataError
        A measure is undefined everywhere, or a condition would pass for want of a comparison.
    """
    values = _measures(results)
    found = {}
    for gate in gates:
        if gate.name not in values:
            near = closest(gate.name, values)
            known = ", ".join(sorted(values)[:20])
            raise ParameterError(
                f"{gate.name!r} is no measure of this comparison; {near or f'known are {known}.'}"
            )
        where = gate.holds(values[gate.name])
        if where:
            found[gate.text] = where
            continue
        short, _, rest = gate.name.partition(".")
        one = any(rest.startswith(f"{r.name}.") for r in results if _short(r) == short)
        missing = [] if one else _not_compared(short, results)
        if missing:
            raise DataError(
                f"{gate.text!r} cannot pass, for {missing[0]}; compare all, or name one result, as "
                f"in {short}.RESULT.MEASURE."
            )
    return found


def _not_compared(short: str, results: Iterable[Result]) -> list[str]:
    """Results of an analysis that could not be compared, each with the reason."""
    begins = f"{ANALYSES.get(short, short)} "
    return [
        f"{name} is not compared: {why.removesuffix('.')}"
        for result in results
        if isinstance(result, Changes)
        for name, why in result.not_compared.items()
        if name.startswith(begins)
    ]


def _short(result: Result) -> str:
    return SHORT.get(result.kind, result.kind)


def _measures(results: Iterable[Result]) -> dict[str, dict[str, float]]:
    """Name of a measure -> place -> value."""
    table: dict[str, dict[str, float]] = {}
    for result in results:
        short = _short(result)
        metrics = result.metrics()
        places = [str(h) for h in metrics.get("hookpoints", ())]
        for field, value in _numbers(metrics):
            entries = value if isinstance(value, list) else [value]
            if isinstance(value, list) and len(value) != len(places):
                continue
            for i, entry in enumerate(entries):
                at = f" at {places[i]}" if isinstance(value, list) else ""
                for name in (f"{short}.{field}", f"{short}.{result.name}.{field}"):
                    where = f"{short} of {result.name}: {field}{at}"
                    table.setdefault(name, {})[where] = entry
    return table


def _numbers(metrics: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Single numbers and lists of them; None is nan."""
    for key, raw in metrics.items():
        value = raw.tolist() if hasattr(raw, "tolist") else raw
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple):
            if value and all(v is None or isinstance(v, int | float) for v in value):
                yield f"{prefix}{key}", [math.nan if v is None else float(v) for v in value]
        elif value is None or isinstance(value, int | float):
            yield f"{prefix}{key}", math.nan if value is None else float(value)
