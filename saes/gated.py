"""Gated: one half of the encoder says which latents are active, the other how strongly."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from saes.base import SAE, squared_error
from saes.configs import SAEConfig

__all__ = ["GatedConfig", "GatedSAE"]


@dataclass(frozen=True, kw_only=True)
class GatedConfig(SAEConfig):
    """Config of `GatedSAE`.

    Attributes
    ----------
    n_latents : how many latents.
    l1 : weight of the L1 penalty, in units of the activations; the default is for activations whose
        squared norm is ``d_in`` in the mean.
    """

    architecture: ClassVar[str] = "gated"

    l1: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._number("l1")


class GatedSAE(SAE[GatedConfig]):
    """Latents are ``magnitude`` where ``gate`` is positive.

    With ``u = (x - b_dec) @ encoder.T``, shared by both::

        gate = u + b_enc,   magnitude = relu(exp(r_mag) * u + b_mag)

    Loss: ``reconstruction``; ``sparsity``, ``l1`` times the sum of the positive gates, its mean
    over rows; and ``gate``, the squared error of what the positive gates alone reconstruct through
    the decoder and ``b_dec`` held fixed, by which the gate learns. The first has no gradient to
    ``b_enc``, the other two have none to ``b_mag`` and ``r_mag``. Decoder rows are held at length
    1.

    Attributes
    ----------
    b_enc : [n_latents] the gate's bias (``b_gate`` in the paper).
    b_mag, r_mag : [n_latents] the magnitude's bias, and the logarithm of its scale.

    Source: Rajamanoharan et al. 2024, "Improving Dictionary Learning with Gated Sparse
    Autoencoders". Differs: no.
    """

    config_class: ClassVar[type[SAEConfig]] = GatedConfig

    def __init__(
        self,
        config: GatedConfig,
        d_in: int,
        d_out: int | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(config, d_in, d_out, generator=generator)
        self.b_mag = nn.Parameter(torch.zeros_like(self.b_enc))
        self.r_mag = nn.Parameter(torch.zeros_like(self.b_enc))

    def reset_latents(self, latents: Tensor) -> None:
        """Magnitudes without a bias and a scale of their own."""
        with torch.no_grad():
            self.b_mag[latents] = 0
            self.r_mag[latents] = 0

    def _gates(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Gates and latents, both [n, n_latents]."""
        shared = linear(rows if self._b_pre is None else rows - self._b_pre, self.encoder)
        gate = shared + self.b_enc
        return gate, (self.r_mag.exp() * shared + self.b_mag).relu() * (gate > 0)

    def _latents(self, rows: Tensor) -> Tensor:
        return self._gates(rows)[1]

    def _terms(
        self,
        rows: Tensor,
        target: Tensor,
        *,
        dead: Tensor | None,
        k: int | None,
        penalty_scale: float,
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        gate, z = self._gates(rows)
        open_gates = gate.relu()
        from_gates = self._summed(open_gates @ self.decoder.detach()) + self.b_dec.detach()
        open_sum = self._summed(open_gates.sum(1).mean())
        parts = {
            "sparsity": penalty_scale * self.config.l1 * open_sum,
            "gate": squared_error(from_gates, target),
        }
        return self._decode(z), z, parts
