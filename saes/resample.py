"""Dead latents begin anew at rows that are explained badly."""

import torch
from torch import Tensor

from saes.base import SAE
from saes.optimizer import Optimizer

__all__ = ["resample"]

SHARE = 0.2
"""Norm of a new encoder row, as a share of the mean norm of the living ones."""

WHOLE = ("b_dec", "W_skip")
"""Parameters that are of no latent; all others have a row a latent."""


def resample(
    sae: SAE,
    latents: Tensor,
    x: Tensor,
    y: Tensor | None,
    optimizer: Optimizer | torch.optim.Optimizer,
    generator: torch.Generator,
) -> None:
    """Give dead latents new weights, in place.

    Each latent draws a row of the batch with a chance in proportion to its squared loss squared.
    The row, less ``b_dec`` where the encoder takes that off, becomes at length 1 its decoder row,
    and at 0.2 of the living encoder rows' mean norm its encoder row; its bias becomes 0, what a
    variant has beside these its first value, and the optimiser forgets it.

    Parameters
    ----------
    latents : [m] indices of the dead.
    x, y : the batch, [n, ...].
    optimizer : over the SAE's parameters.
    generator : on the CPU; draws the rows.

    Source: Bricken et al. 2023, "Towards monosemanticity", appendix "Neuron resampling". Differs:
    losses are those of one batch, where the paper takes 819,200 rows.
    """
    with torch.no_grad():
        target = x if y is None else y
        loss = (sae(x).output - target).flatten(1).square().sum(1).double().cpu()
        if not (loss > 0).any():
            return
        chosen = torch.multinomial(loss**2, len(latents), replacement=True, generator=generator)
        chosen = chosen.to(x.device)
        centred = x if y is not None else x - sae.b_dec
        inputs = _unit(centred[chosen].flatten(1))
        outputs = inputs if y is None else _unit((y - sae.b_dec)[chosen].flatten(1))
        alive = torch.ones(sae.n_latents, dtype=torch.bool, device=x.device)
        alive[latents] = False
        norms = sae.encoder.norm(dim=1)
        length = norms[alive].mean() if bool(alive.any()) else norms.mean()
        sae.encoder[latents] = SHARE * length * inputs
        sae.decoder[latents] = outputs
        sae.b_enc[latents] = 0
        sae.reset_latents(latents)
        for which, parameter in sae.named_parameters():
            if which in WHOLE:
                continue
            for moment in optimizer.state[parameter].values():
                if moment.shape == parameter.shape:
                    moment[latents] = 0


def _unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-12)
