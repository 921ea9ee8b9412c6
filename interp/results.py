"""The base of every result: frozen numbers that draw, save and load themselves."""

import base64
import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import UnionType
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Literal,
    Self,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import numpy as np

from interp.errors import ParameterError, StoreError
from interp.runs import parse_json, write_text

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

__all__ = ["Result"]

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Result:
    """What an analysis found: the numbers, how many rows they rest on, and how they came about.

    A subclass sets ``kind``, the name of its analysis (the key in ``metrics.json``), and gives
    `to_frame` and `metrics`. Anything undefined is None or nan, and ``reasons`` says why, by the
    field's name.

    Attributes
    ----------
    name : the data set and concept, such as ``"facts"`` or ``"python.keyword"``.
    n : rows that the numbers rest on.
    mode : ``"released_code"``, ``"paper"`` or ``"recommended"``.
    provenance : model, data, site, pooling, dtype, seed and versions.
    reasons : field name -> why it is undefined.
    """

    kind: ClassVar[str] = ""
    KINDS: ClassVar[dict[str, type["Result"]]] = {}

    name: str
    n: int
    mode: str = "recommended"
    provenance: dict[str, Any] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.kind:
            Result.KINDS[cls.kind] = cls

    def to_frame(self) -> "pd.DataFrame":
        """The numbers as one table."""
        raise NotImplementedError

    def metrics(self) -> dict[str, Any]:
        """Numbers and names for ``metrics.json``: no times and no paths."""
        raise NotImplementedError

    def plot(self) -> "go.Figure":
        """The result's figure (`dashboards.figure`)."""
        import dashboards  # upward, and only when called

        return dashboards.figure(self)

    def _repr_html_(self) -> str:
        import dashboards  # upward, and only when called

        return dashboards.summary_html(self)

    def save(self, path: str | Path) -> Path:
        """Write the result as one JSON file, beside its name first, then renamed."""
        fields = {f.name: _encode(getattr(self, f.name)) for f in dataclasses.fields(self)}
        document = {"format": FORMAT, "kind": self.kind, "fields": fields}
        return write_text(path, json.dumps(document, indent=1, allow_nan=False) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote. Nothing in the file is executed.

        Raises
        ------
        StoreError
            The file is missing, is not a result, or holds a result of another kind.
        """
        path = Path(path)
        try:
            document = parse_json(path.read_text(encoding="utf-8"))
            kind, fields = str(document["kind"]), dict(document["fields"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{path} is not a result that interp wrote: {error}.") from error
        if document.get("format") != FORMAT:
            raise StoreError(f"{path} has format {document.get('format')}; this interp reads 1.")
        if kind not in cls.KINDS:
            import dashboards  # noqa: F401  upward: it imports every kind of result
        found = cls.KINDS.get(kind)
        if found is None or not issubclass(found, cls):
            known = ", ".join(sorted(k for k, c in cls.KINDS.items() if issubclass(c, cls)))
            raise StoreError(f"{path} holds a result of kind {kind!r}; expected one of {known}.")
        try:
            held = {name: _decode(value) for name, value in fields.items()}
            for name, kind_of in _hints(found).items():
                if name in held and not _fits(held[name], kind_of):
                    raise TypeError(f"{name} is {str(held[name])[:80]!r}")
            return found(**held)
        except (TypeError, ValueError, KeyError, AttributeError, RecursionError) as error:
            raise StoreError(f"{path} holds a damaged {kind} result: {error}.") from error


@cache
def _hints(kind: type[Result]) -> dict[str, Any]:
    """The types of a result's fields; none where they cannot be found out."""
    try:
        return get_type_hints(kind)
    except NameError:  # of a library that is imported for types only
        return {}


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a field's type, as far as numbers, text, lists and tables go."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, h) for h in inner)
    if origin is Literal:
        return value in inner
    if hint in (float, int):
        whole = isinstance(value, int) or (hint is float and isinstance(value, float))
        return whole and not isinstance(value, bool)
    if hint in (str, bool, None, type(None)):
        return value is None if hint in (None, type(None)) else isinstance(value, hint)
    if origin in (tuple, list):
        if not isinstance(value, tuple | list):
            return False
        if origin is tuple and inner and inner[-1] is not Ellipsis:
            return len(value) == len(inner) and all(map(_fits, value, inner))
        return not inner or all(_fits(v, inner[0]) for v in value)
    if origin in (dict, Mapping):
        good = isinstance(value, dict)
        return good and (len(inner) < 2 or all(_fits(v, inner[1]) for v in value.values()))
    if hint is np.ndarray or origin is np.ndarray:
        return isinstance(value, np.ndarray)
    return True


def _encode(value: Any) -> Any:
    """JSON for numbers, text, lists, dicts, tuples and numpy arrays; nan and inf by name."""
    if isinstance(value, np.ndarray):
        if value.dtype == object:
            return {"__list__": [_encode(v) for v in value.tolist()]}
        data = np.ascontiguousarray(value).astype(value.dtype.newbyteorder("<"))
        text = base64.b64encode(data.tobytes()).decode("ascii")
        return {"__array__": text, "dtype": data.dtype.str, "shape": list(value.shape)}
    if isinstance(value, np.generic):
        return _encode(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return {"__float__": repr(value)}
    if isinstance(value, dict):
        return {str(k): _encode(v) for k, v in value.items()}
    if isinstance(value, tuple):
        return {"__tuple__": [_encode(v) for v in value]}
    if isinstance(value, list):
        return [_encode(v) for v in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise ParameterError(f"a result cannot hold a {type(value).__name__}.")


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return [_decode(v) for v in value]
    if not isinstance(value, dict):
        return value
    if "__array__" in value:
        dtype = np.dtype(value["dtype"])
        if dtype.hasobject:
            raise ValueError("an array of Python objects")
        flat = np.frombuffer(base64.b64decode(value["__array__"]), dtype=dtype)
        return flat.reshape(value["shape"]).copy()
    if "__float__" in value:
        return float(value["__float__"])
    if "__tuple__" in value:
        return tuple(_decode(v) for v in value["__tuple__"])
    if "__list__" in value:
        return np.array([_decode(v) for v in value["__list__"]], dtype=object)
    return {k: _decode(v) for k, v in value.items()}
