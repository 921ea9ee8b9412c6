"""What runs with nothing downloaded: three small models, labelled texts, and digits.

``interp.load("demo:pylm")`` and ``interp.capture(model, "demo:facts", ...)`` come here. The tables
are :data:`MODELS` (name -> folder beside this file, in Hugging Face form unless :data:`MODULES` has
the function that reads it) and :data:`DATA` (name -> the function that builds the data). Importing
this package imports nothing heavy.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from interp.data import Dataset
from interp.errors import ModelError, ParameterError, closest

__all__ = ["DATA", "MODELS", "MODULES", "dataset", "model_path"]

T = TypeVar("T")


def _digits(**options: Any) -> Dataset:
    from interp.demo.handwriting import digits

    return digits(**options)


def _digits_net(folder: Path) -> Any:
    from interp.demo.handwriting import digits_net

    return digits_net(folder)


def _digits_clip(**options: Any) -> Dataset:
    from interp.demo.captions import captioned

    return captioned(**options)


def _facts(**options: Any) -> Dataset:
    from interp.demo.facts import statements

    return statements(**options)


def _python(**options: Any) -> Dataset:
    from interp.demo.python import python_source

    return python_source(**options)


MODELS: dict[str, str] = {"digits": "digits", "digits-clip": "digits_clip", "pylm": "pylm"}
MODULES: dict[str, Callable[[Path], Any]] = {"digits": _digits_net}
DATA: dict[str, Callable[..., Dataset]] = {
    "digits": _digits,
    "digits-clip": _digits_clip,
    "facts": _facts,
    "python": _python,
}


def model_path(name: str) -> Path:
    """The folder of a demo model; without an entry in `MODULES`, as Hugging Face reads it.

    Parameters
    ----------
    name : a key of :data:`MODELS`, without the prefix ``demo:``.

    Raises
    ------
    ParameterError : no demo model has that name.
    ModelError : the weights are not in the installed package.
    """
    made = _known(name, MODELS, "model")
    folder = Path(__file__).parent / made
    if not (folder / "model.safetensors").is_file():
        raise ModelError(
            f"demo:{name} has no weights in {folder}; reinstall interp, or make them with "
            f"examples/train_{made}.py."
        )
    return folder


def dataset(name: str, **options: Any) -> Dataset:
    """A demo data set.

    Parameters
    ----------
    name : a key of :data:`DATA`, without the prefix ``demo:``.
    options : passed on: ``seed`` where something is drawn, ``n`` for ``python``.

    Raises
    ------
    ParameterError : no demo data set has that name, or an option is outside what it allows.
    """
    return _known(name, DATA, "data set")(**options)


def _known(name: str, table: Mapping[str, T], what: str) -> T:
    if name not in table:
        hint = closest(name, table)
        raise ParameterError(
            f"demo:{name} is no demo {what}; there is {', '.join(sorted(table))}"
            + (f" ({hint})." if hint else ".")
        )
    return table[name]
