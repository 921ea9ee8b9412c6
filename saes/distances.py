"""The latents nearest to a row by direction, valued by nearness: a top-k of a product.

Nearness is 2 less the distance of unit vectors, ``2 - |x/|x| - w/|w|| = 2 - sqrt(2 - 2 cos)``. It
rises with the cosine, so that the kernels' top-k of a product finds the k nearest. The product says
little about vectors that are nearly equal: an error of 1e-7 in the cosine is one of 4e-4 in the
distance. There the distance is that of the difference.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import DataError
from saes.codes import Codes
from saes.kernels import encode_topk
from saes.optimizer import unit_rows

__all__ = ["encode_distance", "unit_directions"]

NEAR = 1.98
"""1 + cosine from which the difference is taken: below, the distance is good to 1e-6."""
BLOCK = 2**24
"""Cosines, rows times latents, that are made at once where nothing learns: 64 MiB."""


def encode_distance(
    x: Float[Tensor, "n d"], encoder: Float[Tensor, "f d"], k: int, *, backend: str = "auto"
) -> Codes:
    """The k latents nearest to each row by direction, nearest first, as codes [n, k].

    Values are nearness, 0 to 2: 2 for the same direction, .59 at right angles, 0 for the opposite.
    Gradients reach x and encoder from the chosen slots; at a distance of 0 the gradient is 0.

    Parameters
    ----------
    x : [n, d] rows; their lengths do not count.
    encoder : [f, d], a row a latent, likewise.
    k : slots a row, from 1 to f.
    backend : one of `saes.primitives.BACKENDS`.

    Degenerate: a row of zeros has no direction: an error on the CPU, nan elsewhere. A latent of
    zeros is at right angles to everything.

    Raises
    ------
    DataError
        A row is 0.

    Source: VL-SAE (arXiv 2510.21323), section 3.2, by the released code. Differs: that takes all
    distances from products, off by up to 1e-3 where vectors are nearly equal; training on other
    devices than a CPU does so here too, as looking for such slots would be a wait.
    """
    learns = torch.is_grad_enabled() and (x.requires_grad or encoder.requires_grad)
    with torch.autocast(x.device.type, enabled=False):
        latents = unit_rows(encoder if encoder.dtype.itemsize > 2 else encoder.float())
        if learns or len(x) * len(encoder) <= BLOCK:
            return _encode(x, latents, k, backend)
        parts = [_encode(p, latents, k, backend) for p in x.split(max(1, BLOCK // len(encoder)))]
    values, indices = (torch.cat([getattr(p, n) for p in parts]) for n in ("values", "indices"))
    return Codes(values, indices)


def _encode(x: Tensor, latents: Tensor, k: int, backend: str) -> Codes:
    rows = unit_directions(x.to(latents.dtype))
    # 1 + cosine is above 0, and the kernels' ReLU takes nothing off.
    codes = encode_topk(rows, latents, latents.new_ones(len(latents)), k, backend=backend)
    raised = codes.values
    with torch.no_grad():
        distance = (4 - 2 * raised).clamp_min(0).sqrt()
        if not torch.compiler.is_compiling() and (x.device.type == "cpu" or not x.requires_grad):
            distance = _exact_where_near(distance, codes, rows, latents)
        slope = torch.where(distance > 0, 1 / distance, 0)
    value = 2 - distance
    if raised.requires_grad:
        value = value + (raised - raised.detach()) * slope
    return codes.with_values(value.to(x.dtype))


def _exact_where_near(distance: Tensor, codes: Codes, rows: Tensor, latents: Tensor) -> Tensor:
    near = (codes.values > NEAR).nonzero(as_tuple=True)
    if not len(near[0]):
        return distance
    step = max(1, BLOCK // rows.shape[1])
    found = [
        (rows[r] - latents[codes.indices[r, s]]).norm(dim=1)
        for r, s in zip(*(t.split(step) for t in near), strict=True)
    ]
    return distance.index_put(near, torch.cat(found))


def unit_directions(x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Rows at length 1, whatever their size: no square over- or underflows.

    Degenerate: a row of zeros is an error on the CPU and nan elsewhere.

    Raises
    ------
    DataError
        A row is 0.
    """
    largest = x.detach().abs().amax(1, keepdim=True)
    if x.device.type == "cpu" and not torch.compiler.is_compiling() and bool((largest == 0).any()):
        row = int((largest == 0).nonzero()[0, 0])
        raise DataError(
            f"only directions are compared, and row {row} of a batch of {len(x)} is 0, which has "
            "none; drop such pairs."
        )
    scaled = x / largest
    return scaled / scaled.norm(dim=1, keepdim=True)
