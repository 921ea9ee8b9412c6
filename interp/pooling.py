"""Pooling: one vector a row out of a tensor with a position axis, pads never enter; and, trained on
labels, one vector out of several layers.
"""

from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Integer, Shaped
from torch import Tensor, nn

from interp.errors import DataError, ParameterError, ShapeError

__all__ = ["ORDERED", "POOLS", "LayerPool", "Pool", "fit_layer_pool", "pool"]

Pool = Literal["last", "first", "mean", "weighted_mean", "max", "all"]
POOLS: tuple[str, ...] = get_args(Pool)
ORDERED = ("last", "first", "weighted_mean")
"""Poolings that need positions in an order, which those of an image have not."""


def pool(
    x: Shaped[Tensor, "b t ..."], mask: Bool[Tensor, "b t"] | None, how: Pool
) -> Shaped[Tensor, "m ..."]:
    """Reduce the position axis of x over the real positions.

    Parameters
    ----------
    x : [b, t, ...] activations.
    mask : [b, t], true at real positions, either padding side; None where all are real.
    how : ``"last"`` and ``"first"`` real position, ``"mean"`` (summed in float32 at least),
        ``"weighted_mean"`` (the i-th real position counts i times, which suits causal models, whose
        later positions have seen more), ``"max"``, or ``"all"``: the real positions themselves, row
        after row.

    Returns
    -------
    Tensor
        [b, ...], or [number of real positions, ...] for ``"all"``; in the dtype of x.

    Raises
    ------
    ParameterError
        A row has no real position, or ``how`` is none of the six.

    Notes
    -----
    Source: Tang and Yang, arXiv 2409.02727 (last, mean); Muennighoff, arXiv 2202.08904, equation 3
    (the weights i / sum of i).
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
    spread = (b, t, *[1] * (x.ndim - 2))
    if how == "max":
        if mask is None:
            return x.amax(1)
        return x.masked_fill(~mask.reshape(spread), _lowest(x)).amax(1)
    wide = x if x.dtype in (torch.float32, torch.float64) else x.float()
    if mask is None and how == "mean":
        return wide.mean(1).to(x.dtype)
    real = torch.ones(b, t, dtype=torch.bool, device=x.device) if mask is None else mask
    weights = (real.cumsum(1) * real if how == "weighted_mean" else real).reshape(spread)
    kept = wide.masked_fill(~real.reshape(spread), 0)  # not a product: 0 * nan in a pad is nan
    kept = kept * weights if how == "weighted_mean" else kept
    return (kept.sum(1) / weights.sum(1)).to(x.dtype)


def _lowest(x: Tensor) -> float:
    return float("-inf") if x.is_floating_point() else torch.iinfo(x.dtype).min


class LayerPool(nn.Module):
    """One vector out of a row's vectors at several layers, with weights that are learned.

    Learned queries attend to the layers' vectors, each with a learned embedding of its layer; what
    they find is averaged over the queries, added to the mean of the layers, and put to length 1.

    Parameters
    ----------
    layers, d : how many vectors a row has, and their width.
    queries : how many learned queries look at them.
    heads : of the attention; must divide d.
    seed : of the first weights.

    Notes
    -----
    Source: Tang and Yang, arXiv 2409.02727, multi-layers trainable pooling. Differs: a few queries
    and heads and no feed-forward block, so that some hundred labelled rows can train it (theirs has
    768 queries and about 1.3e9 parameters at d = 4,096); the mean of the layers stands in for their
    residual, so the first weights are near the untrained mean.
    """

    def __init__(
        self, layers: int, d: int, *, queries: int = 4, heads: int = 2, seed: int = 0
    ) -> None:
        super().__init__()
        if min(layers, d, queries, heads) < 1 or d % heads:
            raise ParameterError(
                "LayerPool needs at least one layer, query and head, and heads that divide d; got "
                f"layers {layers}, d {d}, queries {queries}, heads {heads}."
            )
        generator = torch.Generator().manual_seed(seed)

        def drawn(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape, generator=generator) / shape[-1] ** 0.5)

        self.heads = heads
        self.layer = drawn(layers, d)
        self.query = drawn(queries, d)
        self.key, self.value, self.out = drawn(d, d), drawn(d, d), nn.Parameter(torch.zeros(d, d))

    def forward(self, x: Float[Tensor, "n l d"]) -> Float[Tensor, "n d"]:
        """Vectors of length 1, [n, d], from those of the layers, [n, layers, d]."""
        if x.ndim != 3 or x.shape[1:] != self.layer.shape:
            raise ShapeError(
                f"this LayerPool takes [n, {', '.join(map(str, self.layer.shape))}]; got "
                f"{list(x.shape)}."
            )
        x = nn.functional.normalize(x, dim=2)
        seen = x + self.layer
        keys, values = self._split(seen @ self.key), self._split(seen @ self.value)
        queries = self._split(self.query.expand(len(x), -1, -1))
        found = nn.functional.scaled_dot_product_attention(queries, keys, values)
        mixed = found.transpose(1, 2).flatten(2).mean(1) @ self.out
        return nn.functional.normalize(x.mean(1) + mixed, dim=1)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


def fit_layer_pool(
    x: Float[Tensor, "n l d"],
    y: Integer[Tensor, " n"],
    *,
    queries: int = 4,
    heads: int = 2,
    steps: int = 200,
    lr: float = 1e-2,
    weight_decay: float = 1e-2,
    seed: int = 0,
) -> LayerPool:
    """A `LayerPool` trained with a linear head to tell the classes y; the head is thrown away.

    Every step takes all rows (AdamW), so the cost is ``steps`` forwards and backwards of [n, l, d]
    against two d x d products. Score it on other rows than these.

    Parameters
    ----------
    x : [n, layers, d] a row's vectors, such as ``torch.stack([store[h][:] for h in names], 1)``.
    y : [n] classes as whole numbers from 0.

    Raises
    ------
    DataError
        There is one class only, or x is not finite.
    """
    if x.ndim != 3 or len(y) != len(x):
        raise ShapeError(f"x is [n, layers, d] with a class a row; got {list(x.shape)}, {len(y)}.")
    if len(torch.unique(y)) < 2 or not bool(torch.isfinite(x).all()):
        raise DataError("fit_layer_pool needs finite rows of two classes or more.")
    x = x.float()
    learned = LayerPool(*x.shape[1:], queries=queries, heads=heads, seed=seed).to(x.device)
    head = nn.Parameter(torch.zeros(x.shape[2], int(y.max()) + 1, device=x.device))
    chosen = [*learned.parameters(), head]
    optimizer = torch.optim.AdamW(chosen, lr=lr, weight_decay=weight_decay)
    with torch.enable_grad():
        for _ in range(steps):
            loss = nn.functional.cross_entropy(10 * learned(x) @ head, y.long())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return learned.eval().requires_grad_(False)
