"""What two runs were asked and found: options, versions and numbers, side by side."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from interp.errors import StoreError
from interp.results import Result
from interp.runs import parse_json

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Changes", "changes"]

PARTS = {"config.json": "option", "manifest.json": "version", "metrics.json": "number"}
MISSING = "—"


@dataclass(frozen=True, kw_only=True)
class Changes(Result):
    """What differs between two runs, an entry a difference.

    Attributes
    ----------
    what : ``option``, ``version`` or ``number``.
    key : its name, dotted: in a number's, the analysis, the result and the measure.
    first, second : the value of each run; "—" where one has none.
    delta : ``second - first`` of numbers, else nan.
    models : what the two runs are called.
    equal : numbers that do not differ.
    not_compared : results that could not be compared, and why.
    """

    kind: ClassVar[str] = "run_changes"

    what: tuple[str, ...]
    key: tuple[str, ...]
    first: tuple[Any, ...]
    second: tuple[Any, ...]
    delta: tuple[float, ...]
    models: tuple[str, str]
    equal: int
    not_compared: dict[str, str]

    def to_frame(self) -> "pd.DataFrame":
        """A row a difference."""
        import pandas as pd

        names = ("what", "key", "first", "second", "delta")
        columns = {name: list(getattr(self, name)) for name in names}
        values = {name: pd.Series(columns[name], dtype=object) for name in ("first", "second")}
        return pd.DataFrame({**columns, **values})  # a count stays a count

    @property
    def notes(self) -> tuple[str, ...]:
        """What the table does not show."""
        same = (f"{self.equal:,} numbers are equal in both runs.",) if self.equal else ()
        return (*same, *(f"{name}: not compared: {why}" for name, why in self.not_compared.items()))

    def metrics(self) -> dict[str, Any]:
        """Numbers and names for ``metrics.json``: how many differ, and each number's delta."""
        counts = {f"{p}s": self.what.count(p) for p in PARTS.values()}
        deltas = {
            k: d for w, k, d in zip(self.what, self.key, self.delta, strict=True) if w == "number"
        }
        return {**counts, "equal": self.equal, "delta": deltas, "not_compared": self.not_compared}


def changes(
    first: str | Path,
    second: str | Path,
    *,
    models: tuple[str, str] = ("first", "second"),
    not_compared: Mapping[str, str] | None = None,
) -> Changes:
    """Compare the options, the versions and the single numbers of two run folders.

    Curves and other lists of numbers are left to the analyses' own comparisons.

    Parameters
    ----------
    first, second : run folders.
    not_compared : results that could not be compared, and why: kept in the result.

    Raises
    ------
    StoreError
        A folder holds no run that has ended.
    """
    rows, equal = [], 0
    for file, what in PARTS.items():
        one, two = (_flat(_read(Path(folder), file, what)) for folder in (first, second))
        for key in sorted(one.keys() | two.keys()):
            a, b = one.get(key, MISSING), two.get(key, MISSING)
            if a == b:
                equal += what == "number"
                continue
            numbers = what == "number" and all(_number(v) for v in (a, b))
            rows.append((what, key, a, b, float(b - a) if numbers else math.nan))
    what, key, a, b, delta = zip(*rows, strict=True) if rows else ((),) * 5
    return Changes(
        name=" and ".join(models),
        n=len(rows),
        what=what,
        key=key,
        first=a,
        second=b,
        delta=delta,
        models=models,
        equal=equal,
        not_compared=dict(not_compared or {}),
    )


def _read(folder: Path, file: str, what: str) -> dict[str, Any]:
    """What a file of a run says: of its numbers, those that stand alone."""
    try:
        found = parse_json((folder / file).read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("expected a table")
    except (OSError, ValueError) as error:
        raise StoreError(
            f"{folder} is no run that has ended: {file} cannot be read ({error}); finish it with "
            "--resume."
        ) from error
    if what == "version":
        versions = found.get("versions")
        return versions if isinstance(versions, dict) else {}
    return found


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Single values by dotted name; a list of them is left out, unless it is short text."""
    if isinstance(value, Mapping):
        found: dict[str, Any] = {}
        for key, inner in value.items():
            found |= _flat(inner, f"{prefix}.{key}" if prefix else str(key))
        return found
    if isinstance(value, list):
        return {} if any(_number(v) for v in value) else {prefix: json.dumps(value)}
    return {prefix: value}


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
