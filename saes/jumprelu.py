"""JumpReLU: each latent has a threshold of its own, learnt through a kernel estimate."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from saes.base import SAE
from saes.codes import Codes
from saes.configs import SAEConfig

__all__ = ["JumpReLUConfig", "JumpReLUSAE"]


@dataclass(frozen=True, kw_only=True)
class JumpReLUConfig(SAEConfig):
    """Config of `JumpReLUSAE`. The defaults are for activations of mean squared norm ``d_in``.

    They were measured in short trainings (examples/LOG.md): with a kernel as narrow as the paper's
    (0.001) and thresholds that start near 0, thresholds hardly move within thousands of steps.

    Attributes
    ----------
    n_latents : how many latents.
    l0 : weight of the sparsity penalty, in squared units of the activations.
    l0_target : active latents a row, in the batch's mean, that the penalty aims at; None to make
        them as few as the weight buys.
    bandwidth : width of the kernel, in units of the pre-activations.
    first_threshold : where thresholds start, in the same units.
    """

    architecture: ClassVar[str] = "jumprelu"

    l0: float = 1.0
    l0_target: float | None = None
    bandwidth: float = 1.0
    first_threshold: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        self._number("l0")
        self._number("bandwidth", positive=True)
        self._number("first_threshold", positive=True)
        if self.l0_target is not None:
            self._number("l0_target", positive=True)


class JumpReLUSAE(SAE[JumpReLUConfig]):
    """Latents are the pre-activations that lie above the latent's threshold.

    Loss: ``reconstruction`` and ``sparsity``, which is ``l0 * L0`` with L0 the mean number of
    active latents a row, or ``l0 * (L0 / l0_target - 1)^2``. Decoder rows are held at length 1.

    Both are steps in the threshold t, and have no gradient to it. In its place stands an estimate
    of the gradient of their mean over the data: with K the rectangle, 1 within 1/2 of 0, and e the
    bandwidth, for a pre-activation p::

        d latent / dt = -(t / e) K((p - t) / e),     d L0 / dt = -(1 / e) K((p - t) / e)

    A latent's gradient to p is 1 above t and 0 below; L0 has none to p.

    Attributes
    ----------
    log_threshold : [n_latents] parameter.
    threshold : [n_latents] its exponential, so above 0.

    Source: Rajamanoharan et al. 2024, "Jumping Ahead: Improving Reconstruction Fidelity with
    JumpReLU Sparse Autoencoders", sections 3 and 4. Differs: the paper's listing applies a ReLU to
    p first, which moves every negative p into the kernel where t < e / 2; here p is as it is. The
    target is of the batch's mean, so that rows may differ.
    """

    config_class: ClassVar[type[SAEConfig]] = JumpReLUConfig

    def __init__(
        self,
        config: JumpReLUConfig,
        d_in: int,
        d_out: int | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(config, d_in, d_out, generator=generator)
        first = math.log(config.first_threshold)
        self.log_threshold = nn.Parameter(torch.full_like(self.b_enc, first))

    def reset_latents(self, latents: Tensor) -> None:
        """Thresholds to ``first_threshold``."""
        with torch.no_grad():
            self.log_threshold[latents] = math.log(self.config.first_threshold)

    @property
    def threshold(self) -> Tensor:
        """[n_latents], above 0."""
        return self.log_threshold.exp()

    def _latents(self, rows: Tensor) -> Tensor | Codes:
        if not torch.is_grad_enabled():
            return self._above(rows, self.threshold)
        return _Jump.apply(self._pre_codes(rows), self.threshold, self.config.bandwidth)

    def _terms(
        self,
        rows: Tensor,
        target: Tensor,
        *,
        dead: Tensor | None,
        k: int | None,
        penalty_scale: float,
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        config, threshold = self.config, self.threshold
        pre = self._pre_codes(rows)
        z = _Jump.apply(pre, threshold, config.bandwidth)
        l0 = _Step.apply(pre.detach(), threshold, config.bandwidth).sum(1).mean()
        if config.l0_target is not None:
            l0 = l0 if self.ranks is None else self.ranks.mean(l0)
            l0 = (l0 / config.l0_target - 1).square()
        return self._decode(z), z, {"sparsity": penalty_scale * config.l0 * l0}


def _near(pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
    """K((p - t) / e) / e, [n, n_latents]."""
    return ((pre - threshold).abs() < bandwidth / 2).to(pre.dtype) / bandwidth


class _Jump(torch.autograd.Function):
    """The pre-activations above the threshold, the others 0."""

    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return torch.where(pre <= threshold, 0, pre)  # nan shows

    @staticmethod
    @once_differentiable  # which takes the name of ctx away
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        (grad,) = grad_outputs
        pre, threshold = ctx.saved_tensors
        to_threshold = -threshold * (grad * _near(pre, threshold, ctx.bandwidth)).sum(0)
        return grad * (pre > threshold), to_threshold, None


class _Step(torch.autograd.Function):
    """1 above the threshold, else 0."""

    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return (pre > threshold).to(pre.dtype)

    @staticmethod
    @once_differentiable  # which takes the name of ctx away
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        (grad,) = grad_outputs
        pre, threshold = ctx.saved_tensors
        return None, -(grad * _near(pre, threshold, ctx.bandwidth)).sum(0), None
