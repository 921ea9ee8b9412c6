"""A unit: what is read at a hook point as one number a position."""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from interp.errors import ParameterError, ShapeError, closest
from interp.models import Model
from interp.structure import linear_shape

__all__ = ["Unit", "coder_identity", "deep_point", "find_unit", "output_names", "output_point"]


@dataclass(frozen=True)
class Unit:
    """A unit, channel, latent, code or direction at a hook point.

    Attributes
    ----------
    hookpoint : its name.
    name : for titles, such as ``"even"`` or ``"relu3[7]"``.
    index : of the unit or latent; None for a direction.
    coder : the autoencoder or codebook whose latent it is, or None.
    vector : the direction [d], or None.
    """

    hookpoint: str
    name: str
    index: int | None = None
    coder: Any = None
    vector: Tensor | None = None

    def read(self, rows: Tensor) -> Tensor:
        """[r] activations, from what the hook point holds at r positions [r, d]."""
        rows = rows.detach().flatten(1)
        if self.vector is not None:
            return rows.double() @ self.vector.to(rows.device)
        if self.coder is not None:
            like = next(self.coder.parameters(), rows)
            with torch.no_grad():
                z = self.coder.encode(rows.to(like.device, like.dtype))
            return z[:, self.index].double()
        return rows[:, self.index].double()

    def check(self, width: int) -> None:
        """Refuse a unit that a hook point of this width does not have."""
        if self.vector is not None and len(self.vector) != width:
            raise ShapeError(
                f"the direction has {len(self.vector)} numbers and {self.hookpoint} holds {width}."
            )
        if self.coder is not None:
            reads = int(getattr(self.coder, "d_in", width))
            if reads != width:
                raise ShapeError(f"the coder reads {reads} numbers and {self.hookpoint} holds "
                                 f"{width}; name the hook point it was trained on.")  # fmt: skip
            width = int(getattr(self.coder, "n_latents", self.coder.W_enc.shape[1]))
        if self.index is not None and not 0 <= self.index < width:
            what = "latents" if self.coder is not None else f"{self.hookpoint} has units"
            raise ParameterError(f"unit {self.index} is not there: {what} 0 to {width - 1}.")


def find_unit(
    model: Model, hookpoint: str | None, unit: Any, *, coder: Any = None, name: str | None = None
) -> Unit:
    """The unit that is meant.

    Parameters
    ----------
    hookpoint : one place; None means the model's output.
    unit : an index, the name of an output, or a direction [d], which is taken at unit length.
    coder : with ``encode``: the unit is then its latent, or its code.
    name : for titles.

    Raises
    ------
    ParameterError
        No such output, or the hook point is several.
    """
    point = output_point(model) if hookpoint is None else _one(model, hookpoint)
    if isinstance(unit, str) and unit.lstrip("-").isdecimal():
        unit = int(unit)
    if isinstance(unit, str):
        if coder is not None:
            raise ParameterError(f"a latent is named by its index; got {unit!r}.")
        return Unit(point, name or unit, _named(model, point, unit))
    if isinstance(unit, bool) or not isinstance(unit, int):
        vector = torch.as_tensor(unit).detach().double().cpu().reshape(-1)
        length = vector.norm()
        if not (len(vector) > 1 and length.isfinite() and length > 0):
            raise ParameterError(
                f"unit must be an index, an output's name, or a finite direction [d] that is not "
                f"0; got {type(unit).__name__}."
            )
        return Unit(point, name or f"direction at {point}", vector=vector / length)
    if coder is not None:
        kind = "code" if hasattr(coder, "snap") else "latent"
        return Unit(point, name or f"{kind} {unit} at {point}", unit, coder)
    names = output_names(model) if point == _output(model) else ()
    known = names[unit] if 0 <= unit < len(names) else f"{point}[{unit}]"
    return Unit(point, name or known, unit)


def coder_identity(coder: Any) -> dict[str, Any]:
    """Which autoencoder or codebook it is: its class, and a hash of its weights."""
    found = {"class": type(coder).__name__}
    if isinstance(coder, nn.Module):
        found["fingerprint"] = Model(coder, spec=found["class"]).fingerprint
    return found


def output_names(model: Model) -> tuple[str, ...]:
    """What the outputs are called: the module's ``output_names``, or its config's ``id2label``."""
    names = getattr(model.module, "output_names", None)
    if names is None:
        table = getattr(model.config, "id2label", None) or {}
        names = [table[i] for i in sorted(table)]
    return tuple(map(str, names))


def output_point(model: Model) -> str:
    """The hook point of the output: the last linear layer, or what follows it in the module.

    Raises
    ------
    ParameterError
        The model has no linear layer.
    """
    name = _output(model)
    if name is None:
        raise ParameterError(
            f"{model.spec} has no linear layer to be its output; name the unit's hook point."
        )
    return name


def deep_point(model: Model, text: bool) -> str:
    """Where codes are read unless a place is named: the input of the last linear layer (fc7, where
    the paper reads), of a language model the stream after its last block.
    """
    if text and len(model.points.stacks) == 1:
        return "resid_post.-1"
    if model.points.stacks and len(model.points.stacks) > 1:
        names = " or ".join(f"{s.name}.resid_post.-1" for s in model.points.stacks)
        raise ParameterError(
            f"{model.spec} has several stacks; name where codes are read: {names}."
        )
    return f"{output_point(model)}:in"


def _output(model: Model) -> str | None:
    linear = [n for n, m in model.points.modules.items() if n and linear_shape(m) is not None]
    return linear[-1] if linear else None


def _one(model: Model, hookpoint: str) -> str:
    points = model.resolve(hookpoint)
    if len(points) != 1:
        raise ParameterError(
            f"a unit is at one hook point, and {hookpoint!r} means {len(points)}; name one."
        )
    return points[0].name


def _named(model: Model, point: str, unit: str) -> int:
    names = output_names(model)
    if point != _output(model):
        raise ParameterError(f"units of {point} have no names; give an index, not {unit!r}.")
    if unit in names:
        return names.index(unit)
    if not names:
        raise ParameterError(f"the outputs of {model.spec} have no names; give an index, "
                             f"not {unit!r}.")  # fmt: skip
    hint = closest(unit, names)
    raise ParameterError(
        f"no output of {model.spec} is called {unit!r}; there are "
        f"{', '.join(cast(Any, names[:20]))}{' (' + hint + ')' if hint else ''}."
    )
