"""Making activations sparse: the k largest of each row, exactly or by a Gaussian threshold.

Both are plain functions on the last axis, and `sparsified` puts one into a running model.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from scipy.special import ndtri
from torch import Tensor, nn

from interp.errors import ParameterError, ShapeError
from interp.hookpoints import HookPoint
from interp.hooks import hooked
from interp.loading import load
from interp.models import Model

__all__ = ["METHODS", "Counting", "hard_topk", "kept", "sparsified", "statistical_topk"]

METHODS = ("topk", "statistical")
"""How activations are made sparse."""


def hard_topk(x: Any, k: int) -> Tensor:
    """The k largest values of each row of x, the others 0; with ``k = d`` it is x itself.

    Signed values are compared, not magnitudes. Ties go to the lower index, so that k values are
    kept, never more; after a ReLU with fewer than k positive ones the rest of them are zeros. The
    gradient is that of the values kept.

    Parameters
    ----------
    x : [..., d] floats.
    k : 1 to d.

    Raises
    ------
    ParameterError
        k is outside its range.
    ShapeError
        x has no axis, or is no float.

    Notes
    -----
    Degenerate: NaN counts as the largest.
    Source: Li et al., arXiv 2210.06313, section 4 (Top-k Transformer, after the activation).
    """
    x = _rows(x, "hard_topk")
    d = x.shape[-1]
    if not 1 <= k <= d:
        raise ParameterError(f"k of hard_topk must be in [1, {d}]; got {k}.")
    if k == d:
        return x
    # a stable sort keeps the lower index first; topk alone leaves ties to the kernel
    keep = x.argsort(dim=-1, descending=True, stable=True)[..., :k]
    return torch.zeros_like(x).scatter(-1, keep, x.gather(-1, keep))


def statistical_topk(
    x: Any, k: float | None = None, s: float | None = None, ddof: int = 0
) -> Tensor:
    """``max(x - theta, 0)`` with ``theta = mean(x) + std(x) * Q(s)`` over the last axis.

    Q is the standard normal quantile. Of Gaussian rows about k of d values are above theta, with
    s = 1 - k / d; of others more or fewer, so measure what was kept. Survivors are shifted by
    theta, not kept as they are; signed values are compared, and for s below a half a negative
    value can survive as a positive one. The gradient goes through the mean and the deviation too.

    Parameters
    ----------
    x : [..., d] floats; mean and deviation are computed in its own dtype.
    k : values to keep of d, 1 to d, as the paper has it; k = d gives x itself, by definition.
    s : or the share to silence, in [0, 1), as Gemma 3n has it; 0 gives x itself.
    ddof : 0 for the population's deviation (as Gemma 3n), 1 for the sample's. The paper does not
        say which.

    Raises
    ------
    ParameterError
        Both or neither of k and s are given, or one is outside its range, or ddof is not 0 or 1,
        or d is 1 with ddof 1.
    ShapeError
        x has no axis, or is no float.

    Notes
    -----
    Degenerate: a constant row gives zeros, whatever k; NaN in a row poisons that row.
    Source: You et al., "Spark Transformer", arXiv 2506.06644, section 3; with ``s`` it is equal to
    ``_gaussian_topk`` of google-deepmind/gemma and of transformers' Gemma3nTextMLP.
    """
    x = _rows(x, "statistical_topk")
    d = x.shape[-1]
    if (k is None) == (s is None):
        raise ParameterError("statistical_topk takes k or s, one of them.")
    if ddof not in (0, 1):
        raise ParameterError(f"ddof of statistical_topk must be 0 or 1; got {ddof!r}.")
    if k is not None:
        if not 1 <= k <= d:
            raise ParameterError(f"k of statistical_topk must be in [1, {d}]; got {k!r}.")
        s = 0.0 if k == d else 1 - k / d
    if s is None or not 0 <= s < 1:
        raise ParameterError(f"s of statistical_topk must be in [0, 1); got {s!r}.")
    if s == 0:
        return x  # the quantile is -inf, and would give inf
    if d == 1 and ddof == 1:
        raise ParameterError("one value has no deviation with ddof 1; use ddof 0.")
    mean = x.mean(-1, keepdim=True)
    std = x.std(-1, keepdim=True, correction=ddof)
    return torch.relu(x - (mean + std * _quantile(s, x)))


def _quantile(s: float, x: Tensor) -> Tensor:
    """Q(s) in float32, or float64 where x is, then in x's dtype: as Gemma 3n rounds it.

    So near 0 or 1 that the rounded s has no quantile, it is that of s itself.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    share = torch.tensor(s, dtype=wide, device=x.device)
    found = torch.erfinv(2 * share - 1) * math.sqrt(2)
    if not bool(torch.isfinite(found)):
        found = torch.tensor(ndtri(s), dtype=wide, device=x.device)
    return found.to(x.dtype)


def _rows(x: Any, who: str) -> Tensor:
    x = torch.as_tensor(x)
    if x.ndim == 0 or x.shape[-1] == 0:
        raise ShapeError(f"{who} works along the last axis; got {list(x.shape)}.")
    if not x.is_floating_point():
        raise ShapeError(f"{who} takes floats; got {str(x.dtype).removeprefix('torch.')}.")
    return x


class Counting:
    """How many values are not 0 at each hook point, in whole numbers: the realised density."""

    def __init__(self) -> None:
        self.nonzero: dict[str, int] = {}
        self.values: dict[str, int] = {}
        self.widths: dict[str, int] = {}
        self.mask: Tensor | None = None

    def add(self, name: str, x: Tensor) -> None:
        """Take in what a hook point holds [..., d]; positions that `mask` leaves out do not count.

        The mask is [b, t]; x is [b, t, d], or [b * t, d] as in OPT's MLP.
        """
        mask = self.mask
        if mask is not None:
            if x.shape[:2] == mask.shape:
                x = x[mask]
            elif len(x) == mask.numel():
                x = x[mask.flatten()]
        self.nonzero[name] = self.nonzero.get(name, 0) + int((x != 0).sum())
        self.values[name] = self.values.get(name, 0) + x.numel()
        self.widths[name] = x.shape[-1]

    def density(self) -> dict[str, float]:
        """Hook point -> share of values that are not 0, 0 to 1."""
        return {name: self.nonzero[name] / self.values[name] for name in self.nonzero}


@contextmanager
def sparsified(
    model: Model | nn.Module | str,
    hookpoints: Any = "mlp_act.*",
    *,
    density: float | Mapping[str, float],
    method: str = "topk",
    ddof: int = 0,
    counting: Counting | None = None,
) -> Iterator[None]:
    """Make hook points sparse in a running model, until the context ends.

    Parameters
    ----------
    hookpoints : names, globs, roles: ``mlp_act.*`` is after the non-linearity, as in the Lazy
        Neuron paper; for the place of Spark and Gemma 3n name the modules before it, such as
        ``model.layers.*.mlp.gate_proj``.
    density : share of the units to keep, above 0 and at most 1, or one for each hook point by its
        resolved name; those left out, and those at 1, are left as they are.
    method : ``"topk"`` (`hard_topk`) or ``"statistical"`` (`statistical_topk`, whose realised
        density differs off Gaussian).
    ddof : of the statistical one.
    counting : counts what is not 0 after it, also where the density is 1.

    Raises
    ------
    ParameterError
        A density or the method is outside what it allows, or a density names no hook point.
    """
    if method not in METHODS:
        raise ParameterError(f"method must be one of {', '.join(METHODS)}; got {method!r}.")
    model = load(model)
    points = model.resolve(hookpoints)
    wanted = _densities(density, [p.name for p in points])

    def thin(point: HookPoint, x: Tensor) -> Tensor | None:
        share = wanted.get(point.name, 1.0)
        new = x if share == 1 else _along_units(point, x, _operator(method, share, ddof))
        if counting is not None:
            counting.add(point.name, _units_last(point, new))
        return None if share == 1 else new.to(x.dtype)

    with hooked(model.module, points, thin):
        yield


def kept(density: float, d: int) -> int:
    """How many of d units a density keeps: rounded, at least one."""
    return max(1, round(density * d))


def _operator(method: str, share: float, ddof: int) -> Callable[[Tensor], Tensor]:
    if method == "topk":
        return lambda x: hard_topk(x, kept(share, x.shape[-1]))
    return lambda x: statistical_topk(x, k=kept(share, x.shape[-1]), ddof=ddof)


def _densities(density: float | Mapping[str, float], names: list[str]) -> dict[str, float]:
    wanted = density if isinstance(density, Mapping) else dict.fromkeys(names, density)
    unknown = sorted(set(wanted) - set(names))
    if unknown:
        raise ParameterError(
            f"density names {unknown[0]!r}, and the hook points are {', '.join(names)}."
        )
    for name, share in wanted.items():
        if not 0 < share <= 1 or not np.isfinite(share):
            raise ParameterError(
                f"the density of {name} must be above 0 and at most 1; got {share!r}."
            )
    return dict(wanted)


def _units_last(point: HookPoint, x: Tensor) -> Tensor:
    """The units as the last axis: a feature map's channels lie before its positions."""
    first = point.axis == "first" or (x.ndim == 4 and point.axis != "last")
    return x.movedim(1, -1) if first and x.ndim > 2 and point.d_head is None else x


def _along_units(point: HookPoint, x: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
    moved = _units_last(point, x)
    new = f(moved)
    return new if moved is x else new.movedim(-1, 1)
