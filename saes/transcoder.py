"""Transcoder: TopK latents of one activation predict another, such as an MLP's output its input."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from saes.codes import Codes
from saes.configs import SAEConfig
from saes.topk import TopKConfig, TopKSAE

__all__ = ["Transcoder", "TranscoderConfig"]


@dataclass(frozen=True, kw_only=True)
class TranscoderConfig(TopKConfig):
    """Config of `Transcoder`.

    Attributes
    ----------
    n_latents : how many latents.
    k : active latents a row, from 1 to ``n_latents``.
    k_aux : dead latents a row that AuxK reads; None for half the width of the output.
    auxk : weight of AuxK; 0 switches it off.
    multi_k : add an eighth of the reconstruction error at 4 k.
    selection : how the k are chosen, as for `TopKConfig`.
    skip : add a linear map of the input to the output, which leaves to the latents what is not
        linear.
    """

    architecture: ClassVar[str] = "transcoder"

    skip: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._flag("skip")


class Transcoder(TopKSAE):
    """`TopKSAE` from activations x to others y; `loss` takes both.

    ::

        y_hat = topk(x @ encoder.T + b_enc) @ decoder + b_dec  (+ x @ W_skip.T)

    ``decode`` gives the part that the latents make, ``forward`` adds the skip connection. The loss
    is `TopKSAE`'s. Any other architecture transcodes too, given ``d_out``.

    Parameters
    ----------
    config, d_in, generator : as for `SAE`.
    d_out : width of y; None for ``d_in``.

    Attributes
    ----------
    W_skip : [d_out, d_in] parameter, 0 at first; None without ``skip``.

    Source: Dunefsky et al. 2024, "Transcoders Find Interpretable LLM Feature Circuits"; the
    TopK step and the skip connection from Paulo et al. 2025, "Transcoders Beat Sparse
    Autoencoders for Interpretability". Differs: the decoder starts at unit rows, not at 0.
    """

    config: TranscoderConfig  # pyright: ignore[reportIncompatibleVariableOverride]  never assigned
    config_class: ClassVar[type[SAEConfig]] = TranscoderConfig
    W_skip: nn.Parameter | None

    def __init__(
        self,
        config: TranscoderConfig,
        d_in: int,
        d_out: int | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(config, d_in, d_in if d_out is None else d_out, generator=generator)
        skip = torch.zeros(self.d_out, d_in, dtype=torch.float32) if config.skip else None
        self.register_parameter("W_skip", None if skip is None else nn.Parameter(skip))

    def _predict(self, latents: Tensor | Codes, rows: Tensor) -> Tensor:
        output = self._decode(latents)
        return output if self.W_skip is None else output + linear(rows, self.W_skip)
