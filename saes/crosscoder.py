"""Crosscoder: one set of latents reads and writes several layers, or models, at once."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from interp.errors import ParameterError
from saes.configs import SAEConfig
from saes.relu import ReLUConfig, ReLUSAE

__all__ = ["Crosscoder", "CrosscoderConfig"]


@dataclass(frozen=True, kw_only=True)
class CrosscoderConfig(ReLUConfig):
    """Config of `Crosscoder`.

    Attributes
    ----------
    n_latents : how many latents.
    n_layers : how many layers are read and written.
    l1 : weight of the L1 penalty, in units of the activations.
    """

    architecture: ClassVar[str] = "crosscoder"

    n_layers: int

    def __post_init__(self) -> None:
        super().__post_init__()
        self._whole("n_layers", 1)


class Crosscoder(ReLUSAE):
    """`ReLUSAE` of activations [..., n_layers, d_in], with a decoder for each layer.

    ::

        z = relu(sum_l (x_l - b_dec_l) @ W_enc_l + b_enc),   x_hat_l = z @ W_dec_l + b_dec_l

    Loss: ``reconstruction``, summed over layers and features, and ``sparsity``: ``l1`` times the
    sum over latents of value times the lengths of its decoder rows, summed over layers, which lets
    a latent keep to few layers. Rows are not held at length 1.

    Attributes
    ----------
    encoder, decoder : [n_latents, n_layers * d_in] parameters.
    W_enc, W_dec : views of them, [n_layers, d_in, n_latents] and [n_layers, n_latents, d_in].
    b_dec : [n_layers, d_in] parameter.

    Raises
    ------
    ParameterError
        ``d_out`` is given: a crosscoder writes what it reads.

    Source: Lindsey et al. 2024, "Sparse Crosscoders for Cross-Layer Features and Model Diffing"
    (Transformer Circuits, October 2024). Differs: ``b_dec`` is taken off the input, as in
    `ReLUSAE`; with one layer it is that.
    """

    config: CrosscoderConfig  # pyright: ignore[reportIncompatibleVariableOverride]  never assigned
    config_class: ClassVar[type[SAEConfig]] = CrosscoderConfig

    def __init__(
        self,
        config: CrosscoderConfig,
        d_in: int,
        d_out: int | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        if d_out is not None:
            raise ParameterError(f"Crosscoder writes what it reads; give no d_out (got {d_out!r}).")
        super().__init__(config, d_in, generator=generator)

    @property
    def in_shape(self) -> tuple[int, ...]:
        """``(n_layers, d_in)``."""
        return (self.config.n_layers, self.d_in)

    @property
    def out_shape(self) -> tuple[int, ...]:
        """``(n_layers, d_in)``."""
        return self.in_shape

    @property
    def W_enc(self) -> Tensor:
        """[n_layers, d_in, n_latents], a view of ``encoder``."""
        return self.encoder.view(-1, *self.in_shape).permute(1, 2, 0)

    @property
    def W_dec(self) -> Tensor:
        """[n_layers, n_latents, d_in], a view of ``decoder``."""
        return self.decoder.view(-1, *self.in_shape).transpose(0, 1)

    def _lengths(self) -> Tensor:
        """[n_latents] of the decoder rows, summed over layers."""
        return self.decoder.view(-1, *self.out_shape).norm(dim=2).sum(1)
