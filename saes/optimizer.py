"""Optimisers that hold decoder rows at length 1: projection, clipping, update and norm in one go.

On a CPU in float32 they go through the gradients once for their norm and once through everything
for the rest (`saes._numba`); elsewhere they are torch's operators one after the other.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from interp.distributed import world
from saes.primitives import resolve
from saes.shards import is_spread, local

__all__ = [
    "EPS",
    "OPTIMIZERS",
    "Adam",
    "Lion",
    "Optimizer",
    "project_gradient",
    "unit_rows",
]

BETAS, EPS = (0.9, 0.999), 6.25e-10
LION_BETAS = (0.9, 0.99)


class Optimizer:
    """What all share; no subclass of torch's, whose import of its compiler takes 150 MB.

    Parameters
    ----------
    parameters : to learn.
    lr : the rate, which may be set anew before each step.
    unit : a parameter whose rows stay at length 1: its gradient loses the part that would only
        change their length (Bricken et al. 2023, "Towards Monosemanticity"), and they are set to
        length 1 after the update, rows of zeros excepted. None for none.
    clip : the norm of all gradients together, after that projection, is cut to this; None for no
        cut.
    backend : one of `saes.primitives.BACKENDS`.
    """

    moments: tuple[str, ...]

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        *,
        unit: nn.Parameter | None = None,
        clip: float | None = None,
        backend: str = "auto",
    ) -> None:
        self.parameters, self.lr = list(parameters), lr
        self.state: dict[nn.Parameter, dict[str, Tensor]] = {}
        self.unit, self.clip, self.backend = unit, clip, backend
        self.steps = 0

    @torch.no_grad()
    def step(self) -> None:
        """Learn from the gradients that the parameters hold; they may be changed."""
        held = [p for p in self.parameters if p.grad is not None]
        self.steps += 1
        for p in held:
            if p not in self.state:
                self.state[p] = {name: torch.zeros_like(p) for name in self.moments}
        work = sum(p.numel() for p in held)
        if held and resolve(self.backend, held[0], work) in ("numba", "int8"):
            self._step_numba(held, self.lr)
        else:
            self._step_torch(held, self.lr)

    def zero_grad(self) -> None:
        """Let the gradients go."""
        for p in self.parameters:
            p.grad = None

    def _step_torch(self, held: list[nn.Parameter], lr: float) -> None:
        unit = self.unit if any(p is self.unit for p in held) else None
        if unit is not None:
            project_gradient(unit)
        if self.clip is not None:
            if any(is_spread(p) for p in held):
                squares = [_gradient(p).double().square().sum() for p in held]
                norm = _over_ranks(held, squares).sqrt()
                for p in held:
                    _gradient(p).mul_((self.clip / (norm + 1e-6)).clamp_max(1))
            else:
                nn.utils.clip_grad_norm_(held, self.clip, foreach=True)
        self._update(held, lr)
        if unit is not None:
            local(unit).copy_(unit_rows(local(unit)))

    def _step_numba(self, held: list[nn.Parameter], lr: float) -> None:
        from saes import _numba

        scale = 1.0
        if self.clip is not None:
            squares = [
                _numba.squares(_gradient(p), local(p) if p is self.unit else None) for p in held
            ]
            if any(is_spread(p) for p in held):
                total = float(_over_ranks(held, [torch.tensor(s).double() for s in squares]))
            else:
                total = sum(squares)
            scale = min(1.0, self.clip / (total**0.5 + 1e-6))
        for p in held:
            moments = [local(self.state[p][name]) for name in self.moments]
            held_at_1 = p is self.unit
            _numba.update(local(p), _gradient(p), moments, scale, held_at_1, *self._numbers(lr))

    def _update(self, held: list[nn.Parameter], lr: float) -> None:
        raise NotImplementedError

    def _numbers(self, lr: float) -> tuple[float, ...]:
        raise NotImplementedError


class Adam(Optimizer):
    """Adam with betas .9 and .999: two moments, so 28 bytes a parameter and step.

    Source: Kingma and Ba 2015, "Adam", algorithm 1; the epsilon of 6.25e-10 is that of Gao et al.
    2024, "Scaling and evaluating sparse autoencoders".
    """

    moments = ("exp_avg", "exp_avg_sq")

    def _numbers(self, lr: float) -> tuple[float, ...]:
        first, second = BETAS
        grown = 1 - second**self.steps
        mixed = (first, 1 - first, second, 1 - second)
        return (*mixed, lr / (1 - first**self.steps), grown**-0.5, EPS)

    def _update(self, held: list[nn.Parameter], lr: float) -> None:
        torch.ops.aten._fused_adam_(
            [local(p) for p in held],
            [_gradient(p) for p in held],
            [local(self.state[p]["exp_avg"]) for p in held],
            [local(self.state[p]["exp_avg_sq"]) for p in held],
            [],
            [torch.full((), float(self.steps), device=p.device) for p in held],
            lr=lr,
            beta1=BETAS[0],
            beta2=BETAS[1],
            weight_decay=0.0,
            eps=EPS,
            amsgrad=False,
            maximize=False,
        )


class Lion(Optimizer):
    """The sign of a mean of gradients: one moment, so 20 bytes a parameter and step.

    Source: Chen et al. 2023, "Symbolic Discovery of Optimization Algorithms", algorithm 2, without
    weight decay. Every weight moves by lr, so lr is to be some ten times smaller than Adam's.
    """

    moments = ("exp_avg",)

    def _numbers(self, lr: float) -> tuple[float, ...]:
        first, second = LION_BETAS
        return (first, 1 - first, second, 1 - second, lr)

    def _update(self, held: list[nn.Parameter], lr: float) -> None:
        first, second = LION_BETAS
        for p in held:
            mean, gradient = local(self.state[p]["exp_avg"]), _gradient(p)
            local(p).sub_(torch.lerp(gradient, mean, first).sign_(), alpha=lr)
            mean.lerp_(gradient, 1 - second)


OPTIMIZERS: dict[str, type[Optimizer]] = {"adam": Adam, "lion": Lion}
"""What ``optimizer`` of `saes.train` may be."""


def _gradient(p: nn.Parameter) -> Tensor:
    assert p.grad is not None  # noqa: S101  parameters without one are left out before
    return local(p.grad)


def _over_ranks(held: list[nn.Parameter], squares: list[Tensor]) -> Tensor:
    """The sum of a number a parameter, over the ranks where these hold other rows; 0-d."""
    spread = [is_spread(p) for p in held]
    total = torch.stack([s for s, here in zip(squares, spread, strict=True) if here]).sum()
    mesh = next(p for p, here in zip(held, spread, strict=True) if here).device_mesh  # pyright: ignore[reportAttributeAccessIssue]
    with world()._together() as dist:
        dist.all_reduce(total, group=mesh.get_group())
    whole = [s for s, here in zip(squares, spread, strict=True) if not here]
    return total + torch.stack(whole).sum() if whole else total


def unit_rows(rows: Tensor) -> Tensor:
    """The rows at length 1; a row of zeros stays."""
    length = rows.norm(dim=-1, keepdim=True)
    return rows / torch.where(length > 0, length, 1)


@torch.no_grad()
def project_gradient(unit: nn.Parameter) -> None:
    """Take off a gradient what would only change the length of its parameter's rows, in place."""
    rows, gradient = unit_rows(local(unit)), _gradient(unit)
    gradient.sub_(rows * (rows * gradient).sum(-1, keepdim=True))
