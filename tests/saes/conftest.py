"""Small SAEs of every architecture."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from saes import ARCHITECTURES, SAE

SMALL: dict[str, dict[str, Any]] = {
    "topk": {"k": 3},
    "batch_topk": {"k": 3},
    "matryoshka": {"k": 3, "prefixes": (4, 9, 24)},
    "transcoder": {"k": 3, "skip": False},
    "relu": {},
    "gated": {},
    "jumprelu": {"first_threshold": 0.2, "bandwidth": 0.5},
    "crosscoder": {"n_layers": 3},
    "codebook": {"k": 3, "layer_norm": False},
    "vl": {"k": 3},
}
"""Fields of a small config of each architecture, beside n_latents."""


def make_config(name: str, n_latents: int = 24, **fields: Any) -> Any:
    width = {"n_codes" if name == "codebook" else "n_latents": n_latents}
    return ARCHITECTURES[name][0](**width, **{**SMALL[name], **fields})


def make_sae(name: str, *, fresh: bool = False, d_out: int | None = None, **fields: Any) -> SAE:
    generator = torch.Generator().manual_seed(1)
    sae = ARCHITECTURES[name][1](make_config(name, **fields), 8, d_out, generator=generator)
    if fresh:
        return sae
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
        for buffer in sae.buffers():
            buffer.fill_(0.3)
    return sae


def make_batch(sae: SAE, *leading: int, seed: int = 2, out: bool = False) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = sae.out_shape if out else sae.in_shape
    x = 1.5 * torch.randn(*leading, *shape, generator=generator) + 0.3
    return x.to(sae.decoder.dtype)


@pytest.fixture
def small_config() -> Callable[..., Any]:
    """``small_config("topk", k=5)``: a config of 24 latents."""
    return make_config


@pytest.fixture
def small() -> Callable[..., SAE]:
    """``small("topk", k=5)``: a float32 SAE of width 8 with 24 latents, in train mode.

    All parameters have been moved off their first values and buffers set, unless ``fresh``.
    """
    return make_sae


@pytest.fixture
def batch() -> Callable[..., torch.Tensor]:
    """``batch(sae, 4, 5)``: activations with these leading axes; ``out`` gives targets."""
    return make_batch


@pytest.fixture
def loss_of(batch: Callable[..., torch.Tensor]) -> Callable[..., Any]:
    """``loss_of(sae, x, dead=…)``: the loss, with targets where the SAE is a transcoder."""

    def loss(sae: SAE, x: torch.Tensor, **options: Any) -> Any:
        leading = x.shape[: x.ndim - len(sae.in_shape)]
        y = batch(sae, *leading, seed=3, out=True) if sae.transcodes else None
        return sae.loss(x, y, **options)

    return loss
