"""Which latents are active, where each rank has some: the choice of one process, in two steps.

Each rank offers the k best of its own latents, all see all offers and choose alike. Functions give
codes of the latents that are here, as rows of this rank's parameters, unless they say otherwise.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from interp.errors import ShapeError
from saes.codes import Codes
from saes.primitives import encode_batch_topk, encode_topk, resolve, topk
from saes.shards import Shards

__all__ = ["everywhere", "held_here", "largest", "largest_of_batch", "strongest_first"]


def largest(
    shards: Shards, centred: Tensor, encoder: Tensor, b_enc: Tensor, k: int, backend: str
) -> Codes:
    """Of the k largest positive pre-activations of each row those that are here, compressed rows.

    Of equal ones the lowest index is taken on the CPU, whichever rank has it; on a CUDA device the
    device chooses, as it does without shards.

    Parameters
    ----------
    centred : [n, d] rows, less what is taken off before the encoder.
    encoder, b_enc : [m, d] and [m], of this rank; m may be 0, where k is not more than all have.
    """
    n, width, own = len(centred), min(k, shards.most), min(k, len(encoder))
    offered = centred.new_zeros(n, width)
    indices = torch.zeros_like(offered, dtype=torch.int64)
    if own:
        chosen = resolve(backend, centred, n * len(encoder))
        found = encode_topk(centred, encoder, b_enc, own, "topk", chosen)
        offered[:, :own], indices[:, :own] = found
    # Offers stand by rank and, where equal, by index: the first of equals has the lowest index.
    values, places = topk(torch.cat(shards.gather(offered), 1), k)
    here = (places // width == shards.rank) & (values != 0)
    picks = indices.gather(1, places % width)[here]
    return Codes(values[here], picks, _edges(here.sum(1)))


def largest_of_batch(
    shards: Shards, centred: Tensor, encoder: Tensor, b_enc: Tensor, k: int, backend: str
) -> Codes:
    """`largest` of the whole batch: of the n * k largest those that are here, by row and latent."""
    n, f = len(centred), len(encoder)
    chosen = resolve(backend, centred, n * f)
    found = encode_batch_topk(centred, encoder, b_enc, min(k, f), chosen)
    values, indices, offsets = found
    row = torch.arange(n, device=centred.device).repeat_interleave(offsets.diff())
    width = n * min(k, shards.most)
    offered, place = values.new_zeros(width), indices.new_zeros(width)
    offered[: len(values)] = values
    place[: len(values)] = row * shards.n + indices + shards.start
    every, places = (torch.cat(shards.gather(t)) for t in (offered, place))
    by_place = places.sort().indices  # of equals the first of the batch is taken
    ranked = every[by_place].sort(descending=True, stable=True).indices
    taken = by_place[ranked[: n * k]]
    mine = (taken[taken // width == shards.rank] % width).sort().values
    mine = mine[offered[mine] != 0]
    return Codes(values[mine], indices[mine], _edges(torch.bincount(row[mine], minlength=n)))


def held_here(shards: Shards, codes: Codes) -> Codes:
    """Of the slots of whole codes those of latents that are here.

    Raises
    ------
    ShapeError
        A slot names a latent that no rank has.
    """
    begin, end = shards.start, shards.stop
    if bool(((codes.indices < 0) | (codes.indices >= shards.n)).any()):
        raise ShapeError(f"decode: codes name latents beyond the {shards.n} there are.")
    here = ((codes.indices >= begin) & (codes.indices < end)).flatten()
    counts = torch.bincount(codes.rows[here], minlength=len(codes))
    picks = codes.indices.flatten()[here] - begin
    return Codes(codes.values.flatten()[here], picks, _edges(counts))


def everywhere(shards: Shards, codes: Codes) -> Codes:
    """The codes of the whole dictionary, compressed rows by rising latent, from those of all ranks.

    Without slots that hold 0, and without gradients.
    """
    values = codes.values.detach().flatten()
    active = values != 0
    place = codes.rows * shards.n + codes.indices.flatten() + shards.start
    values = shards.gather_uneven(values[active])
    place, order = shards.gather_uneven(place[active]).sort()
    rows = torch.arange(len(codes) + 1, device=place.device) * shards.n
    return Codes(values[order], place % shards.n, torch.searchsorted(place, rows))


def strongest_first(codes: Codes, k: int) -> Codes:
    """The same codes as [n, k], the largest first, as `topk_codes` gives them."""
    codes = codes.padded()
    gap = (0, k - codes.values.shape[1])
    values, ranked = pad(codes.values, gap).sort(dim=1, descending=True, stable=True)
    return Codes(values, pad(codes.indices, gap).gather(1, ranked))


def _edges(counts: Tensor) -> Tensor:
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])
