"""What an image should fire: units, directions, latents, and sums and products of them.

An objective gives one number an image; higher is better. ``a + b``, ``a - 2 * b`` and ``a * b`` are
objectives too.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from interp.errors import ParameterError, ShapeError
from interp.hookpoints import HookPoint

__all__ = [
    "OUTPUT",
    "Objective",
    "Seen",
    "channel",
    "code",
    "direction",
    "diversity",
    "faceted",
    "grey",
    "latent",
    "logit",
    "neuron",
    "unit",
]

OUTPUT = "output"
"""The hook point that means the model's own output, unless a module has this name."""
Position = str | int | tuple[int, int]


class Coder(Protocol):
    """What `latent` needs of a sparse autoencoder."""

    @property
    def W_enc(self) -> Tensor:
        """[d_in, n_latents]."""
        ...

    def encode(self, x: Tensor) -> Tensor:
        """Dense latents [.., n_latents] of rows [.., d_in]."""
        ...


@dataclass(frozen=True)
class Seen:
    """What a forward showed.

    Attributes
    ----------
    images : [n, c, h, w] in 0..1, as the model saw them.
    held : hook point as asked -> the tensor it held, with its graph.
    points : hook point as asked -> where it is.
    """

    images: Tensor
    held: Mapping[str, Tensor]
    points: Mapping[str, HookPoint]

    def units(self, hookpoint: str) -> Float[Tensor, "n p d"]:
        """The hook point's units at each of its p positions; heads are laid side by side."""
        return self.spread(hookpoint, self.held[hookpoint])[0]

    def spread(self, hookpoint: str, x: Tensor) -> tuple[Tensor, tuple[int, int] | None]:
        """A tensor of the hook point's shape as [n, p, d], and the positions' grid if any."""
        return _spread(self.points[hookpoint], x, len(self.images))


Value = Callable[[Seen], Tensor]


@dataclass(frozen=True, eq=False)
class Objective:
    """A number an image.

    Attributes
    ----------
    name : in words, for results.
    hookpoints : what must be seen.
    value : what was seen -> [n].
    coupled : whether an image's number depends on the others of its batch.
    probability : the softmax of the logit, where the objective is one.
    """

    name: str
    hookpoints: tuple[str, ...]
    value: Value
    coupled: bool = False
    probability: "Objective | None" = None

    def __add__(self, other: "Objective | float") -> "Objective":
        return _combined("+", self, other, torch.add)

    def __sub__(self, other: "Objective | float") -> "Objective":
        return _combined("-", self, other, torch.sub)

    def __mul__(self, other: "Objective | float") -> "Objective":
        return _combined("*", self, other, torch.mul)

    def __radd__(self, other: float) -> "Objective":
        return self + other

    def __rmul__(self, other: float) -> "Objective":
        return self * other

    def __rsub__(self, other: float) -> "Objective":
        return self * -1.0 + other

    def __neg__(self) -> "Objective":
        return self * -1.0

    def __repr__(self) -> str:
        return f"Objective({self.name})"


def unit(hookpoint: str, index: int, *, position: Position = "mean") -> Objective:
    """The activation of one unit: of a neuron, a channel of a feature map, or a logit.

    Parameters
    ----------
    hookpoint : one name, or ``"output"`` for what the model returns.
    index : of the unit, from 0.
    position : ``"mean"`` or ``"max"`` over the positions of a feature map or a ViT's tokens;
        ``"center"`` or (row, column) of a map; a token's index. A hook point with one row an image
        has only that one.

    Raises
    ------
    ParameterError
        The index or position is not there (when the model is first seen).
    """
    _check_index(index, "unit")

    def value(seen: Seen) -> Tensor:
        return _at(seen, hookpoint, position, lambda x: x[..., _within(index, x, hookpoint)])

    where = "" if position == "mean" else f" at {position}"
    soft = None
    if hookpoint == OUTPUT:
        soft = Objective(
            f"p({index})",
            (hookpoint,),
            lambda s: _at(
                s, hookpoint, position, lambda x: x.softmax(-1)[..., _within(index, x, hookpoint)]
            ),
        )
    return Objective(f"{hookpoint}[{index}]{where}", (hookpoint,), value, probability=soft)


def logit(index: int) -> Objective:
    """A number of the model's output, such as a class's logit; mfv_cbr may climb its softmax."""
    return unit(OUTPUT, index)


def neuron(hookpoint: str, index: int, position: Position = "center") -> Objective:
    """A channel at one place of its feature map, the middle unless another is given."""
    return unit(hookpoint, index, position=position)


def channel(hookpoint: str, index: int) -> Objective:
    """A channel's mean over its feature map."""
    return unit(hookpoint, index)


def direction(
    hookpoint: str, vector: Float[Tensor, " d"], *, position: Position = "mean"
) -> Objective:
    """The inner product of activations with a vector, such as a probe's direction.

    Parameters
    ----------
    vector : [d], of the hook point's width; its length scales the number.
    """
    held = torch.as_tensor(vector).detach()
    if held.ndim != 1 or not bool(torch.isfinite(held).all()):
        raise ShapeError(f"a direction is one finite vector [d]; got {list(held.shape)}.")

    def along(x: Tensor) -> Tensor:
        if x.shape[-1] != len(held):
            raise ShapeError(
                f"a direction of {len(held)} does not fit {hookpoint}, which is {x.shape[-1]} wide."
            )
        return x @ held.to(x)

    return Objective(
        f"{hookpoint} . v", (hookpoint,), lambda seen: _at(seen, hookpoint, position, along)
    )


def latent(hookpoint: str, sae: Coder, index: int, *, position: Position = "mean") -> Objective:
    """A latent of a sparse autoencoder that reads the hook point.

    The number is the latent itself. Where it is 0 its gradient is that of its encoder's row, so
    that a silent latent is climbed too.

    Parameters
    ----------
    sae : with ``encode`` and ``W_enc``, as the coders of `saes`.
    """
    _check_index(index, "latent")

    def coded(x: Tensor) -> Tensor:
        rows = x.flatten(0, -2)
        table = sae.W_enc.detach()
        i = _within(index, table, "the coder")
        z = sae.encode(rows)[..., i]
        towards = rows @ table[:, i].to(rows)
        silent = (z == 0).to(towards.dtype)
        return (z + (towards - towards.detach()) * silent).view(x.shape[:-1])

    return Objective(
        f"latent {index} at {hookpoint}",
        (hookpoint,),
        lambda seen: _at(seen, hookpoint, position, coded),
    )


def code(hookpoint: str, book: Any, index: int, *, position: Position = "mean") -> Objective:
    """How near activations are to a code of a codebook: the number that ranks its codes.

    Being chosen is yes or no and has no gradient; this has: the product of the normed activation
    with the code (by cosine: with the code's direction).

    Parameters
    ----------
    book : with ``normed``, ``encoder`` and ``b_enc``, as `saes.Codebook`.
    """
    _check_index(index, "code")

    def near(x: Tensor) -> Tensor:
        rows = book.normed(x.flatten(0, -2))
        i = _within(index, book.encoder.T, "the codebook")
        return (rows @ book.encoder.detach()[i].to(rows) + book.b_enc.detach()[i]).view(
            x.shape[:-1]
        )

    return Objective(
        f"code {index} at {hookpoint}",
        (hookpoint,),
        lambda seen: _at(seen, hookpoint, position, near),
    )


def diversity(hookpoint: str) -> Objective:
    """How alike the images of a batch are in style; subtract it to push them apart.

    For image i the sum over others j of <G_i, G_j> / B, G a Gram matrix of the hook point's units
    over its positions, at unit length. Added up over B equal images it is B - 1, over images with
    orthogonal Gram matrices 0.

    Source: lucid's notebook on diversity (Olah et al. 2017).
    """

    def value(seen: Seen) -> Tensor:
        x = seen.units(hookpoint)
        grams = normalize(torch.einsum("npd,npe->nde", x, x).flatten(1), dim=1)
        alike = grams @ grams.T
        return (alike.sum(1) - alike.diagonal()) / len(x)

    return Objective(f"diversity of {hookpoint}", (hookpoint,), value, coupled=True)


def grey() -> Objective:
    """The mean of (pixel - .5)^2: subtract it to keep an image near grey."""
    return Objective(
        "distance from grey", (), lambda seen: (seen.images - 0.5).square().mean((1, 2, 3))
    )


def faceted(
    base: Objective, styles: Mapping[str, Tensor], *, strength: float = 5.0, away: float = 10.0
) -> Objective:
    """An objective in the style of a facet: activations that help it count more where they fit.

    base + strength / L * sum over L layers of sum(style_l * a_l * relu(d base / d a_l)) - away *
    mean((pixel - .5)^2). The derivative is held fixed, so no second derivative is taken.

    Parameters
    ----------
    styles : hook point -> a vector [d], as a linear probe's, or a map [d, h, w], which is resized.
    strength, away : with both 0 it is the base.

    Source: Goh et al. 2021, "Multimodal Neurons in Artificial Neural Networks"; its code.
    """
    held = {name: torch.as_tensor(style).detach() for name, style in styles.items()}
    if not held or any(s.ndim not in (1, 3) for s in held.values()):
        raise ShapeError("faceted takes styles by hook point, each [d] or [d, h, w].")

    def value(seen: Seen) -> Tensor:
        plain = base.value(seen)
        total = plain - away * grey().value(seen)
        if strength == 0:
            return total
        raw = [seen.held[name] for name in held]
        slopes = torch.autograd.grad(plain.sum(), raw, retain_graph=True, allow_unused=True)
        for (name, style), x, slope in zip(held.items(), raw, slopes, strict=True):
            if slope is None:
                raise ParameterError(
                    f"{base.name} does not depend on {name}, whose style was given."
                )
            acts, grid = seen.spread(name, x)
            helpful = seen.spread(name, slope.detach().relu())[0]
            weighed = (_styled(style, acts, grid, name) * acts * helpful).sum((1, 2))
            total = total + strength / len(held) * weighed
        return total

    points = tuple(dict.fromkeys([*held, *base.hookpoints]))
    return Objective(f"{base.name} in a style of {', '.join(held)}", points, value, base.coupled)


def _styled(style: Tensor, acts: Tensor, grid: tuple[int, int] | None, name: str) -> Tensor:
    """A style as [d] or [p, d]."""
    if len(style) != acts.shape[-1]:
        raise ShapeError(
            f"a style of {len(style)} does not fit {name}, which is {acts.shape[-1]} wide."
        )
    if style.ndim == 1:
        return style.to(acts)
    if grid is None:
        raise ShapeError(f"{name} is no feature map, so its style is a vector [d].")
    full = interpolate(style[None].to(acts), grid, mode="bilinear", align_corners=False)[0]
    return full.flatten(1).T


def _combined(
    sign: str, one: Objective, other: "Objective | float", fn: Callable[..., Tensor]
) -> Objective:
    def left(o: Objective) -> Objective:
        return o.probability or o

    if not isinstance(other, Objective):
        if not isinstance(other, int | float) or not math.isfinite(other):
            raise ParameterError(
                f"an objective combines with objectives and finite numbers; got {other!r}."
            )
        number = float(other)

        def plain(o: Objective) -> Objective:
            name = f"({o.name} {sign} {number:g})"
            return Objective(name, o.hookpoints, lambda s: fn(o.value(s), number), o.coupled)

        whole, soft = plain(one), one.probability and plain(one.probability)
    else:

        def both(a: Objective, b: Objective) -> Objective:
            name = f"({a.name} {sign} {b.name})"
            points = tuple(dict.fromkeys([*a.hookpoints, *b.hookpoints]))
            return Objective(
                name, points, lambda s: fn(a.value(s), b.value(s)), a.coupled or b.coupled
            )

        whole = both(one, other)
        soft = both(left(one), left(other)) if one.probability or other.probability else None
    return Objective(whole.name, whole.hookpoints, whole.value, whole.coupled, soft)


def _at(seen: Seen, hookpoint: str, position: Position, read: Callable[[Tensor], Tensor]) -> Tensor:
    """[n]: what ``read`` makes of the units, at one position or over all of them."""
    x, grid = seen.spread(hookpoint, seen.held[hookpoint])
    if position in ("mean", "max"):
        values = read(x)
        return values.mean(1) if position == "mean" else values.amax(1)
    return read(x[:, _place(position, x.shape[1], grid, hookpoint)])


def _place(position: Position, p: int, grid: tuple[int, int] | None, hookpoint: str) -> int:
    if p == 1:
        return 0
    if isinstance(position, int):
        if not -p <= position < p:
            raise ParameterError(f"{hookpoint} has positions 0..{p - 1}; got {position}.")
        return position
    if grid is None or isinstance(position, str) and position != "center":
        raise ParameterError(
            f"the position at {hookpoint} must be mean, max or an index"
            f"{'' if grid is None else ', center or (row, column)'}; got {position!r}."
        )
    row, column = (grid[0] // 2, grid[1] // 2) if isinstance(position, str) else position
    if not (0 <= row < grid[0] and 0 <= column < grid[1]):
        raise ParameterError(
            f"the map of {hookpoint} is {grid[0]} x {grid[1]}; there is no {position!r}."
        )
    return row * grid[1] + column


def _spread(point: HookPoint, x: Tensor, n: int) -> tuple[Tensor, tuple[int, int] | None]:
    if not x.is_floating_point():
        raise ShapeError(f"{point.name} holds {str(x.dtype).split('.')[-1]}, not activations.")
    grid = None
    if point.d_head is not None and x.ndim == 4:
        x = x.flatten(2)
    elif x.ndim == 4:
        last = point.axis == "last"
        grid = (x.shape[1], x.shape[2]) if last else (x.shape[2], x.shape[3])
        x = x.flatten(1, 2) if last else x.flatten(2).transpose(1, 2)
    elif x.ndim == 3 and point.axis == "first":
        x = x.transpose(1, 2)
    elif x.ndim == 2:
        x = x.view(n, -1, x.shape[1]) if len(x) != n and len(x) % n == 0 else x[:, None]
    if x.ndim != 3 or len(x) != n:
        raise ShapeError(f"{point.name} holds {list(x.shape)} for {n} images, so none has its own.")
    return x, grid


def _check_index(index: int, what: str) -> None:
    if isinstance(index, bool) or not isinstance(index, int) or index < 0:
        raise ParameterError(f"the index of a {what} is a whole number from 0; got {index!r}.")


def _within(index: int, x: Tensor, who: str) -> int:
    if index >= x.shape[-1]:
        raise ParameterError(f"the units of {who} are 0..{x.shape[-1] - 1}; got {index}.")
    return index
