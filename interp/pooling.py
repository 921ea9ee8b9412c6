"""Pooling: one vector a row out of a tensor with a position axis; pads never enter."""

from typing import Literal, get_args

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor

from interp.errors import ParameterError

__all__ = ["Pool", "pool"]

Pool = Literal["last", "first", "mean", "max", "all"]
POOLS: tuple[str, ...] = get_args(Pool)


def pool(
    x: Shaped[Tensor, "b t ..."], mask: Bool[Tensor, "b t"] | None, how: Pool
) -> Shaped[Tensor, "m ..."]:
    """Reduce the position axis of x over the real positions.

    Parameters
    ----------
    x : [b, t, ...] activations.
    mask : [b, t], true at real positions, either padding side; None where all are real.
    how : ``"last"`` and ``"first"`` real position, ``"mean"`` (summed in float32 at least),
        ``"max"``, or ``"all"``: the real positions themselves, row after row.

    Returns
    -------
    Tensor
        [b, ...], or [number of real positions, ...] for ``"all"``; in the dtype of x.

    Raises
    ------
    ParameterError
        A row has no real position, or ``how`` is none of the five.
    """
    if how not in POOLS:
        raise ParameterError(f"pool must be one of {', '.join(POOLS)}; got {how!r}.")
    b, t = x.shape[:2]
    if mask is not None and not bool(mask.any(1).all()):
        empty = int((~mask.any(1)).nonzero()[0])
        raise ParameterError(f"row {empty} has no real position to pool.")
    rows = torch.arange(b, device=x.device)
    if how == "all":
        return x.flatten(0, 1) if mask is None else x[mask]
    if how == "first":
        return x[:, 0] if mask is None else x[rows, mask.int().argmax(1)]
    if how == "last":
        return x[:, -1] if mask is None else x[rows, t - 1 - mask.int().flip(1).argmax(1)]
    weights = None if mask is None else mask.reshape(b, t, *[1] * (x.ndim - 2))
    if how == "max":
        return (x if weights is None else x.masked_fill(~weights, _lowest(x))).amax(1)
    wide = x if x.dtype in (torch.float32, torch.float64) else x.float()
    if weights is None:
        return wide.mean(1).to(x.dtype)
    kept = wide.masked_fill(~weights, 0)  # not a product: 0 * nan in a pad would be nan
    return (kept.sum(1) / weights.sum(1)).to(x.dtype)


def _lowest(x: Tensor) -> float:
    return float("-inf") if x.is_floating_point() else torch.iinfo(x.dtype).min
