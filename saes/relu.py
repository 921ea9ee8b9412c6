"""ReLU with an L1 penalty: the plain sparse autoencoder."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from saes.base import SAE
from saes.codes import Codes
from saes.configs import SAEConfig

__all__ = ["ReLUConfig", "ReLUSAE"]


@dataclass(frozen=True, kw_only=True)
class ReLUConfig(SAEConfig):
    """Config of `ReLUSAE`.

    Attributes
    ----------
    n_latents : how many latents.
    l1 : weight of the L1 penalty, in units of the activations; the default is for activations whose
        squared norm is ``d_in`` in the mean.
    """

    architecture: ClassVar[str] = "relu"

    l1: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._number("l1")


class ReLUSAE(SAE[ReLUConfig]):
    """Latents are the positive pre-activations.

    Loss: ``reconstruction``, and ``sparsity``: ``l1`` times the sum over latents of value times
    length of the decoder row, its mean over rows. Weighing by that length leaves nothing to gain
    from long decoder rows and small latents, so that rows need not be held at length 1.

    Source: Conerly et al. 2024, "Update on how we train SAEs" (Transformer Circuits, April 2024).
    Differs: ``b_dec`` is taken off the input, which changes what ``b_enc`` means and nothing else.
    """

    config_class: ClassVar[type[SAEConfig]] = ReLUConfig
    unit_norm: ClassVar[bool] = False

    def _latents(self, rows: Tensor) -> Tensor | Codes:
        if not torch.is_grad_enabled():
            return self._above(rows, torch.zeros_like(self.b_enc))
        return self._pre_codes(rows).relu()

    def _terms(
        self,
        rows: Tensor,
        target: Tensor,
        *,
        dead: Tensor | None,
        k: int | None,
        penalty_scale: float,
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        z = self._pre_codes(rows).relu()
        l1 = self._summed((z @ self._lengths()).mean())
        return self._decode(z), z, {"sparsity": penalty_scale * self.config.l1 * l1}

    def _lengths(self) -> Tensor:
        """[n_latents] of the decoder rows."""
        return self.decoder.norm(dim=1)
