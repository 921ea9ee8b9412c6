"""Reading latents in batches leaves torch and the SAE as they were, whatever runs in between."""

import torch

import saes
from saes.reading import latents_of
from saes.rows import seeded


def test_interleaved_readings_leave_no_mode_behind():
    sae = saes.TopKSAE(saes.TopKConfig(n_latents=8, k=2), 4, generator=seeded(0)).train()
    x = torch.randn(6, 4, generator=seeded(1))
    first, second = (latents_of(sae, iter(x.split(2))) for _ in range(2))
    a, b = next(first), next(second)
    assert not torch.is_inference_mode_enabled() and sae.training
    assert torch.equal(a.values, b.values)
    rest = [*first, *second]  # the one that began first ends first
    assert len(rest) == 4 and torch.equal(rest[1].values, rest[3].values)
    assert not torch.is_inference_mode_enabled() and torch.is_grad_enabled() and sae.training
    next(latents_of(sae, iter(x.split(2))))  # one that is never finished
    assert not torch.is_inference_mode_enabled() and sae.training
