"""The exceptions of interp. Every error that a user can cause is one of these, one sentence long.

::

    InterpError
    ├── ParameterError   (ValueError)    an argument is outside what it allows
    ├── ShapeError       (ValueError)    tensors do not fit each other
    ├── DataError        (ValueError)    the data cannot be used as asked
    ├── ModelError       (RuntimeError)  a model cannot be loaded or run
    ├── LayerNotFound    (LookupError)   no hook point of that name, or it never fired
    ├── StoreError       (RuntimeError)  an activation store or run folder is unusable
    ├── CheckpointError  (RuntimeError)  a saved coder cannot be read or written
    ├── NotFitted        (RuntimeError)  a probe or coder is used before it was fitted
    └── MissingExtra     (ImportError)   an optional package is not installed

    UndefinedMeasure     (UserWarning)   a measure has no value here; nan is returned
"""

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = [
    "CheckpointError",
    "DataError",
    "InterpError",
    "LayerNotFound",
    "MissingExtra",
    "ModelError",
    "NotFitted",
    "ParameterError",
    "ShapeError",
    "StoreError",
    "UndefinedMeasure",
    "closest",
    "one_line",
]


class InterpError(Exception):
    """Base of all errors that a user can cause; its text is one sentence that says what to do."""


class ParameterError(InterpError, ValueError):
    """An argument or option is outside what it allows."""


class ShapeError(InterpError, ValueError):
    """Tensors do not have the shapes that fit each other."""


class DataError(InterpError, ValueError):
    """The data cannot be used as asked: missing, empty, mistyped, or not finite."""


class ModelError(InterpError, RuntimeError):
    """A model cannot be found, loaded or run."""


class LayerNotFound(InterpError, LookupError):
    """A hook point does not exist in the model, or never fired."""


class StoreError(InterpError, RuntimeError):
    """An activation store or a run folder is missing, damaged, or holds something else."""


class CheckpointError(InterpError, RuntimeError):
    """A saved coder is missing, damaged, of another kind, or cannot be written."""


class NotFitted(InterpError, RuntimeError):
    """A probe or a coder is used before it was fitted."""


class MissingExtra(InterpError, ImportError):
    """An optional package is not installed."""


class UndefinedMeasure(UserWarning):
    """A measure has no value on this input; nan is returned and the message holds the reason."""


def closest(name: str, known: Iterable[str], n: int = 3) -> str:
    """A hint such as ``did you mean 'a' or 'b'?``; the empty string where nothing is close."""
    close = get_close_matches(name, list(known), n=n, cutoff=0.5)
    return f"did you mean {' or '.join(repr(c) for c in close)}?" if close else ""


def one_line(error: BaseException, most: int = 300) -> str:
    """What an exception says, in one line without a full stop; its class where it says nothing."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:most].rstrip(".")
