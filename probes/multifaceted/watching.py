"""A model watched while images pass through it: an objective's values, and their gradient."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from interp.errors import InterpError, LayerNotFound, ModelError, ParameterError, one_line
from interp.hookpoints import HookPoint
from interp.hooks import all_fired, evaluating, hooked
from interp.models import Model
from probes.multifaceted.frames import Frame
from probes.multifaceted.objectives import OUTPUT, Objective, Seen

__all__ = ["Watched", "redirected_relu"]


class Watched:
    """A model whose hook points are seen, and whose ReLUs may let gradients pass where all is dead.

    Use it as a context: inside, the model is in eval mode, its parameters want no gradients and the
    hooks are set; after, all is as it was.

    Attributes
    ----------
    redirect : whether ReLUs redirect gradients (`redirected_relu`).
    """

    def __init__(self, model: Model, objective: Objective, frame: Frame) -> None:
        self.model, self.objective, self.frame = model, objective, frame
        self.called = _tower(model)
        self.points = {name: self._resolve(name) for name in objective.hookpoints}
        self.redirect = False
        self._names: dict[str, list[str]] = {}
        for name, point in self.points.items():
            self._names.setdefault(point.place, []).append(name)
        self._held: dict[str, Tensor] = {}
        self._fired: dict[str, int] = {}
        self._whole = True
        self._stack = ExitStack()

    def _resolve(self, name: str) -> HookPoint:
        modules = dict(self.model.module.named_modules())
        if name == OUTPUT and OUTPUT not in modules:
            top = next(n for n, m in modules.items() if m is self.called)
            return HookPoint(OUTPUT, top)
        points = self.model.resolve(name)
        if len(points) != 1:
            raise ParameterError(
                f"an objective looks at one hook point; {name!r} means {len(points)}."
            )
        return points[0]

    def __enter__(self) -> "Watched":
        module = self.model.module
        places = {p.place: p for p in self.points.values()}
        with ExitStack() as stack:  # closes again if one of them fails
            stack.enter_context(evaluating(module))
            stack.enter_context(_frozen(module))
            stack.enter_context(hooked(module, list(places.values()), self._see))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()
        self._held = {}

    def check(self, images: Tensor) -> None:
        """Run images [1, c, h, w] to the end, and refuse what does not work.

        Raises
        ------
        ModelError
            The forward fails on such images, or the objective is not finite.
        LayerNotFound
            A hook point never fires.
        """
        self._fired = {p.place: 0 for p in self.points.values()}
        try:
            self._forward(images, whole=True)
        except (InterpError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # a foreign forward fails in its own ways
            text = one_line(error, 200)
            raise ModelError(
                f"the forward of {self.model.spec} fails on images {list(images.shape)}: {text}."
            ) from error
        all_fired(self._fired, self.model.spec)
        for place, times in self._fired.items():
            if times > 1:
                raise LayerNotFound(
                    f"{place} fires {times} times in one forward (a shared module), so it has no "
                    "one activation an image; name another."
                )

    def values(self, images: Tensor) -> Tensor:
        """The objective [n] of images [n, c, h, w] in 0..1, with its graph; float32 or wider.

        The forward ends where the last hook point has fired.
        """
        seen = self._forward(images, whole=False)
        found = self.objective.value(seen)
        return found.to(torch.promote_types(found.dtype, torch.float32))

    def _forward(self, images: Tensor, whole: bool) -> Seen:
        self._held, self._whole = {}, whole
        if self.points or whole:
            x = self.frame.inputs(images).to(self.model.dtype)
            try:
                with _Redirecting() if self.redirect else nullcontext():
                    self._run(x)
            except _Enough:
                pass
        held = {name: self._held[p.place] for name, p in self.points.items() if p.place in
                self._held}  # fmt: skip
        self._held = {}
        return Seen(images, held, self.points)

    def _run(self, x: Tensor) -> None:
        if getattr(self.model.config, "model_type", None) is None:
            self.called(x)
            return
        options: dict[str, Any] = {}
        told = getattr(getattr(self.called, "config", None), "image_size", None)
        sides = (told, told) if isinstance(told, int) else told
        if sides is not None and tuple(sides) != tuple(x.shape[2:]):
            if _takes(self.called, "interpolate_pos_encoding"):
                options["interpolate_pos_encoding"] = True
        self.called(pixel_values=x, **options)

    def _see(self, point: HookPoint, x: Tensor) -> Tensor | None:
        if self._whole:
            self._fired[point.place] += 1
        self._held[point.place] = x
        if not self._whole and len(self._held) == len(self._names):
            raise _Enough
        return x.clone()  # what works in place downstream leaves what was seen as it is


class _Enough(Exception):
    """Ends a forward whose last hook point has fired."""


class _Redirected(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp_min(0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (x,), (gradient,) = ctx.saved_tensors, gradients
        plain = gradient * (x > 0)
        dead = ~plain.flatten(1).any(1)
        if not bool(dead.any()):
            return plain
        lower = (x < 0) & (gradient < 0)
        passed = gradient.masked_fill(lower, 0)
        return torch.where(dead.view(-1, *[1] * (x.ndim - 1)), passed, plain)


def redirected_relu(x: Tensor) -> Tensor:
    """A ReLU whose gradient, for an image in which none gets through, passes where it would raise.

    In a schedule's first steps every ReLU becomes one, be it a module or a function; ReLU6 and
    ``clamp`` stay as they are.

    Parameters
    ----------
    x : [n, ...]; the gradient that arrives is that of something to be made larger.

    Source: lucid's ``redirected_relu_grad``.
    """
    return _Redirected.apply(x)  # pyright: ignore[reportReturnType]


class _Redirecting(TorchFunctionMode):
    """Inside, ReLUs redirect gradients; those that work in place still do."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func not in _RELUS:
            return func(*args, **(kwargs or {}))
        given = dict(zip(("input", "inplace"), args, strict=False)) | (kwargs or {})
        x = given["input"]
        if func in _IN_PLACE or given.get("inplace"):
            return x.copy_(redirected_relu(x.clone()))
        return redirected_relu(x)


_IN_PLACE = (torch.relu_, Tensor.relu_)
_RELUS = (functional.relu, torch.relu, Tensor.relu, *_IN_PLACE)


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """No parameter wants a gradient inside; each is as it was after."""
    wanting = [p for p in module.parameters() if p.requires_grad]
    for p in wanting:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in wanting:
            p.requires_grad_(True)


def _tower(model: Model) -> nn.Module:
    """What reads pixels: the vision model of a dual encoder, else the whole."""
    return getattr(model.module, "vision_model", model.module)


def _takes(module: nn.Module, argument: str) -> bool:
    import inspect

    return argument in inspect.signature(module.forward).parameters
