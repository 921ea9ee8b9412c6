"""The experts of a mixture, each with the tokens that were routed to it: rows for counting.

An expert sees some of the tokens, so it is no hook point with a row a token; `Experts` streams
what each one held after its non-linearity (gated: the product), and its tokens are its own.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from interp.data import read
from interp.errors import ModelError, ParameterError
from interp.feeds import feed
from interp.hooks import evaluating
from interp.loading import load
from interp.models import Model
from interp.structure import linear_shape

__all__ = ["Experts"]


@dataclass(frozen=True)
class ExpertPoint:
    """An expert: its name in results, ``expert_act.LAYER.EXPERT``, and where it lies."""

    name: str
    place: str


class Experts:
    """The experts of a model's mixtures over a data set, streamed; nothing is kept.

    Two layouts are known: a list of expert MLPs, whose down projection is hooked; and weights of
    all experts in one tensor, as transformers 5 keeps them (``gate_up_proj`` [experts, 2 d_ff,
    d_model], an activation ``act_fn``), where the rows are computed again from what enters.

    Parameters
    ----------
    model, data : as for `interp.capture`.
    batch_size : rows of a forward; texts of one length share a batch, so that no pad is routed.
    max_length : as for `interp.capture`.

    Raises
    ------
    ModelError
        The model has no mixture of experts in a layout that is known.
    """

    pool = "all"

    def __init__(
        self,
        model: "Model | nn.Module | str",
        data: Any,
        batch_size: int | None = None,
        max_length: int | None = None,
    ) -> None:
        if batch_size is not None and batch_size < 1:
            raise ParameterError(f"batch_size must be at least 1; got {batch_size}.")
        self.model, self.data = load(model), read(data)
        self.batch_size = batch_size
        self.feed = feed(self.model, self.data, max_length)
        self._mixtures = _mixtures(self.model.module)
        if not self._mixtures:
            raise ModelError(
                f"{self.model.spec} has no mixture of experts in a layout that interp knows: a "
                "list of MLPs, or gate_up_proj [experts, 2 d_ff, d_model] with an act_fn."
            )
        self.points = [
            ExpertPoint(f"expert_act.{i}.{e}", f"{name} ({e})")
            for i, (name, mixture) in enumerate(self._mixtures)
            for e in range(_count(mixture))
        ]

    def stream(
        self, progress: Callable[[int, int, str], None] | None = None
    ) -> Iterator[dict[str, Tensor]]:
        """The rows of every expert, a batch at a time; an expert that none reached has none."""
        done = 0
        for batch in self.batches():
            held: dict[str, list[Tensor]] = {p.name: [] for p in self.points}
            with evaluating(self.model.module), torch.inference_mode(), self._watching(held):
                self.feed.run(batch)
            widths = {n: parts[0].shape[-1] for n, parts in held.items() if parts}
            d_ff = next(iter(widths.values()), 0)
            yield {
                name: torch.cat(parts) if parts else torch.empty(0, widths.get(name, d_ff))
                for name, parts in held.items()
                if parts or d_ff
            }
            done += len(batch)
            if progress is not None:
                progress(done, len(self.data), "rows")

    def batches(self) -> Iterator[list[int]]:
        """Rows of one length, in batches."""
        lengths = self.feed.lengths
        for length in sorted(set(lengths), reverse=True):
            rows = [i for i, n in enumerate(lengths) if n == length]
            size = self.batch_size or self.feed.batch_rows(length)
            for start in range(0, len(rows), size):
                yield rows[start : start + size]

    @contextmanager
    def _watching(self, held: dict[str, list[Tensor]]) -> Iterator[None]:
        handles = []
        try:
            for i, (name, mixture) in enumerate(self._mixtures):
                if isinstance(mixture, nn.ModuleList):
                    for e, expert in enumerate(mixture):
                        keep = _keeper(held[f"expert_act.{i}.{e}"])
                        handles.append(_down(expert).register_forward_pre_hook(keep))
                    continue
                rows = [held[f"expert_act.{i}.{e}"] for e in range(_count(mixture))]
                look = _fused(name, mixture, rows)
                handles.append(mixture.register_forward_pre_hook(look, with_kwargs=True))
            yield
        finally:
            for handle in handles:
                handle.remove()


def _mixtures(module: nn.Module) -> list[tuple[str, Any]]:
    """Modules that hold experts, in the order of the layers."""
    found = []
    for name, part in module.named_modules():
        listed = isinstance(part, nn.ModuleList) and name.endswith("experts") and len(part) > 0
        known = listed and all(_down(e, missing_ok=True) for e in part.children())
        if known or _is_fused(part):
            found.append((name, part))
    return found


def _is_fused(module: nn.Module) -> bool:
    first, second = getattr(module, "gate_up_proj", None), getattr(module, "down_proj", None)
    if not isinstance(first, Tensor) or not isinstance(second, Tensor):
        return False
    if first.ndim != 3 or second.ndim != 3 or not callable(getattr(module, "act_fn", None)):
        return False
    e, d_model, d_ff = second.shape
    return tuple(first.shape) == (e, 2 * d_ff, d_model)


def _count(mixture: Any) -> int:
    return len(mixture) if isinstance(mixture, nn.ModuleList) else len(mixture.down_proj)


def _down(expert: nn.Module, missing_ok: bool = False) -> Any:
    """The linear layer of an expert that writes: from d_ff back to d_model."""
    linears = [(n, m, linear_shape(m)) for n, m in expert.named_modules()]
    known = [(n, m, s) for n, m, s in linears if s is not None]
    if len(known) > 1:
        reads = known[0][2]
        for n, m, shape in known[1:]:
            named = any(word in n for word in ("down", "w2", "fc2", "c_proj", "wo"))
            if shape == reads[::-1] and (named or reads[0] != reads[1]):
                return m
    if missing_ok:
        return None
    raise ModelError("an expert has no down projection that could be told from its shape.")


def _keeper(rows: list[Tensor]) -> Callable[..., None]:
    def keep(module: nn.Module, args: tuple[Any, ...]) -> None:
        rows.append(args[0].reshape(-1, args[0].shape[-1]).detach())

    return keep


def _fused(name: str, mixture: Any, rows: list[list[Tensor]]) -> Callable[..., None]:
    """A hook that computes each expert's product from the tokens that are routed to it."""

    def look(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = [*args, *kwargs.values()]
        routes = [x for x in given if isinstance(x, Tensor) and not x.is_floating_point()]
        if not given or len(routes) != 1 or len(routes[0]) != len(given[0]):
            raise ModelError(f"{name} is not called with tokens and the experts chosen for each.")
        for e, held in enumerate(rows):
            tokens = given[0][(routes[0] == e).any(-1)]
            gate, up = F.linear(tokens, mixture.gate_up_proj[e]).chunk(2, dim=-1)
            held.append((mixture.act_fn(gate) * up).detach())

    return look
