"""The base of every SAE's config: frozen fields that check themselves."""

import math
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, ClassVar, Self

from interp.errors import ParameterError, closest

__all__ = ["SAEConfig"]


@dataclass(frozen=True, kw_only=True)
class SAEConfig:
    """What identifies an SAE beside its widths; each variant adds its own fields.

    Attributes
    ----------
    n_latents : how many latents, at least 1.

    Raises
    ------
    ParameterError
        A field is outside what it allows.
    """

    architecture: ClassVar[str] = ""

    n_latents: int

    def __post_init__(self) -> None:
        self._whole("n_latents", 1)

    def _whole(self, name: str, low: int, high: int | None = None, why: str = "") -> None:
        """Refuse a field that is no whole number from ``low`` to ``high``."""
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise ParameterError(
                f"{type(self).__name__}: {name} must be a whole number of at least {low}; got "
                f"{value!r}."
            )
        if high is not None and value > high:
            raise ParameterError(
                f"{type(self).__name__}: {name} must be at most {high}; got {value}. {why}"
            )

    def _number(self, name: str, *, positive: bool = False) -> None:
        """Refuse a field that is no finite number from 0 up (above 0 where ``positive``)."""
        value = getattr(self, name)
        good = not isinstance(value, bool) and isinstance(value, int | float)
        if not good or not math.isfinite(value) or value < 0 or (positive and value == 0):
            least = "above 0" if positive else "of at least 0"
            raise ParameterError(
                f"{type(self).__name__}: {name} must be a finite number {least}; got {value!r}."
            )

    def _flag(self, name: str) -> None:
        """Refuse a field that is neither True nor False."""
        value = getattr(self, name)
        if not isinstance(value, bool):
            raise ParameterError(
                f"{type(self).__name__}: {name} must be True or False; got {value!r}."
            )

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        given = {f.name for f in fields(self) if f.init}
        values = {k: v for k, v in asdict(self).items() if k in given}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The config that `to_dict` wrote; fields that are absent take their defaults.

        Raises
        ------
        ParameterError
            A key is unknown, ``n_latents`` or another field without a default is absent, or a
            value is outside what its field allows.
        """
        known = [f.name for f in fields(cls) if f.init]
        for name in values:
            if name not in known:
                hint = closest(name, known) or f"the fields are {', '.join(known)}."
                raise ParameterError(f"{cls.__name__} has no field {name!r}; {hint}")
        read: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
        }
        try:
            return cls(**read)
        except TypeError as error:
            needed = [f.name for f in fields(cls) if f.init and f.default is MISSING]
            absent = ", ".join(n for n in needed if n not in values)
            raise ParameterError(f"{cls.__name__} lacks a field ({absent}).") from error
