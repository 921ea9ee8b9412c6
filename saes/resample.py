"""Dead latents begin anew at rows that are explained badly."""

import torch
from torch import Tensor

from saes.base import SAE
from saes.optimizer import Optimizer
from saes.ranks import Ranks
from saes.vl import VLSAE

__all__ = ["resample"]

SHARE = 0.2
"""Norm of a new encoder row, as a share of the mean norm of the living ones."""

WHOLE = ("b_dec", "b_decs", "W_skip")
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
    x, y : the batch, [n, ...]; where processes share it (``sae.ranks``), the rows that are here.
    optimizer : over the SAE's parameters.
    generator : on the CPU; draws the rows, the same in each process.

    Source: Bricken et al. 2023, "Towards monosemanticity", appendix "Neuron resampling". Differs:
    losses are those of one batch, where the paper takes 819,200 rows.
    """
    if isinstance(sae, VLSAE) and y is not None:
        _resample_pairs(sae, latents, {"image": x, "text": y}, optimizer, generator)
        return
    with torch.no_grad():
        target = x if y is None else y
        loss = (sae(x).output - target).flatten(1).square().sum(1)
        chosen = _drawn(loss, len(latents), sae.ranks, generator)
        if chosen is None:
            return
        read = _taken(x, chosen, sae.ranks)
        inputs = _unit((read if y is not None else read - sae.b_dec).flatten(1))
        outputs = inputs
        if y is not None:
            outputs = _unit((_taken(y, chosen, sae.ranks) - sae.b_dec).flatten(1))
        alive = torch.ones(sae.n_latents, dtype=torch.bool, device=x.device)
        alive[latents] = False
        norms = sae.encoder.norm(dim=1)
        length = norms[alive].mean() if bool(alive.any()) else norms.mean()
        sae.encoder[latents] = SHARE * length * inputs
        sae.decoder[latents] = outputs
        sae.b_enc[latents] = 0
        sae.reset_latents(latents)
        _forget(sae, latents, optimizer)


def _resample_pairs(
    sae: VLSAE,
    latents: Tensor,
    pair: dict[str, Tensor],
    optimizer: Optimizer | torch.optim.Optimizer,
    generator: torch.Generator,
) -> None:
    """`resample` of a VL-SAE: encoders turn to drawn rows, decoders to what is left of these.

    A weight that both modalities share takes the mean of their unit rows. Lengths are the mean of
    the living.
    """
    with torch.no_grad():
        left = {m: t - sae(t, modality=m).output for m, t in pair.items()}
        loss = torch.stack([e.square().sum(1) for e in left.values()]).sum(0)
        chosen = _drawn(loss, len(latents), sae.ranks, generator)
        if chosen is None:
            return
        alive = torch.ones(sae.n_latents, dtype=torch.bool, device=latents.device)
        alive[latents] = False
        for tables, rows in ((sae.encoders, pair), (sae.decoders, left)):
            new = {m: _unit(_taken(t, chosen, sae.ranks)) for m, t in rows.items()}
            new["both"] = _unit(new["image"] + new["text"])
            for m, table in tables.items():
                norms = table.norm(dim=1)
                length = norms[alive].mean() if bool(alive.any()) else norms.mean()
                table[latents] = length * new[m]
        for bias in sae.b_encs.values():
            bias[latents] = 0
        _forget(sae, latents, optimizer)


def _drawn(
    loss: Tensor, count: int, ranks: Ranks | None, generator: torch.Generator
) -> Tensor | None:
    """Rows of the batch, drawn by their losses squared; None where all losses are 0."""
    every = (loss if ranks is None else ranks.concat(loss)).double().cpu()
    if not (every > 0).any():
        return None
    chosen = torch.multinomial(every**2, count, replacement=True, generator=generator)
    return chosen.to(loss.device)


def _taken(rows: Tensor, chosen: Tensor, ranks: Ranks | None) -> Tensor:
    """Some rows of the batch, wherever they are."""
    return rows[chosen] if ranks is None else ranks.take(rows, chosen)


def _forget(sae: SAE, latents: Tensor, optimizer: Optimizer | torch.optim.Optimizer) -> None:
    """Set the optimiser's moments of some latents to 0."""
    for which, parameter in sae.named_parameters():
        if which.split(".")[0] in WHOLE:
            continue
        for moment in optimizer.state[parameter].values():
            if moment.shape == parameter.shape:
                moment[latents] = 0


def _unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-12)
