"""The information plane: what each layer tells of the input and of the label, over training."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from interp.errors import ParameterError, ShapeError
from interp.results import Result
from probes.information import (
    CAVEATS,
    BinCounter,
    Information,
    check_labels,
    kernel_information,
    observed_range,
    total_variance,
)
from probes.layers import as_layers, origin

__all__ = ["InformationPlane", "Method", "information_plane"]

Method = Literal["bins", "kernel"]
FULL = 0.9
"""Share of rows with a symbol of their own from which the plane says that it is full."""


@dataclass(frozen=True, kw_only=True)
class InformationPlane(Result):
    """Bits [steps, layers] that layers tell of their input and of the label.

    Attributes
    ----------
    layers, steps : names of both; one step where there is no training.
    method : ``bins`` or ``kernel``.
    xt, ty : of the input and the label; of the kernel upper estimates.
    xt_low, ty_low : lower estimates of the kernel; nan of bins.
    distinct : share of rows with a symbol of their own; nan of the kernel.
    ceiling : log2 n, which no estimate exceeds.
    label_entropy : bits of the labels, nan without any.
    setting : bins, width, ends and noise.
    caveats : what to beware of, in sentences.
    """

    kind: ClassVar[str] = "information_plane"

    layers: tuple[str, ...]
    steps: tuple[int, ...]
    method: str
    xt: NDArray
    ty: NDArray
    xt_low: NDArray
    ty_low: NDArray
    distinct: NDArray
    ceiling: float
    label_entropy: float
    setting: dict[str, Any]
    caveats: tuple[str, ...]

    def to_frame(self) -> pd.DataFrame:
        """A row a step and layer."""
        s, k = len(self.steps), len(self.layers)
        columns = {name: getattr(self, name).ravel() for name in ("xt", "ty")}
        more = ("xt_low", "ty_low") if self.method == "kernel" else ("distinct",)
        columns |= {name: getattr(self, name).ravel() for name in more}
        return pd.DataFrame(
            {
                "step": np.repeat(self.steps, k),
                "layer": np.tile(self.layers, s),
                **columns,
                "share_of_log2_n": self.xt.ravel() / self.ceiling if self.ceiling else np.nan,
            }
        )

    def metrics(self) -> dict[str, Any]:
        """Numbers and names for ``metrics.json``."""
        names = ("n", "method", "layers", "steps", "xt", "ty", "xt_low", "ty_low", "distinct",
                 "ceiling", "label_entropy", "setting", "caveats", "reasons")  # fmt: skip
        return {name: getattr(self, name) for name in names}


def information_plane(
    source: Any,
    y: ArrayLike | None = None,
    *,
    steps: Sequence[int] | None = None,
    method: Method = "bins",
    bins: int = 30,
    ends: tuple[float, float] | None = None,
    width: float | None = None,
    noise: float = 0.1,
    relative: bool = False,
    most: int | None = None,
    seed: int = 0,
    name: str = "information plane",
) -> InformationPlane:
    """I(X;T) and I(T;Y) of every layer, by binning or by a kernel; also over training steps.

    Parameters
    ----------
    source : a store, a mapping of names to matrices [n, d], or one matrix; with ``steps`` a list of
        them, one a step, over the same rows and layers.
    y : [n] classes, or None.
    steps : when each of a list was captured, such as steps of training.
    method : ``"bins"`` or ``"kernel"``.
    bins, ends : equal bins between two ends; without ends between the least and the greatest value
        of each layer at each step, so that the bins move with the layer.
    width : instead, bins of this width from 0 on.
    noise, relative : of the kernel, its variance in each unit; relative to the layer's variance,
        summed over its units, where asked: wide layers are full at any noise that is not.
    most, seed : rows that are read of each layer, drawn by the seed where there are more.

    Range: bits, 0 to log2 n (xt) and to the labels' entropy (ty); higher says more.
    Degenerate: nan, with the reason under ``"layer, step"``, for rows that are not finite, and for
    ty where there is one class or no label.
    Invariance: bins between observed ends: to one scale and shift of the whole layer and to the
    order of units, not to rotation. Kernel: to rotation and translation, to scale only where
    ``relative``.
    Cost: bins n d and a hash a row; kernel n^2 d in float64 (`kernel_information`).
    Source: as `BinCounter` and `kernel_information` say.

    Raises
    ------
    ParameterError
        The method is unknown, or steps do not fit the sources.
    ShapeError
        The layers differ from step to step.
    """
    if method not in get_args(Method):
        raise ParameterError(f"method must be one of bins, kernel; got {method!r}.")
    several = [source] if steps is None else list(source)
    if steps is not None and len(several) != len(steps):
        raise ParameterError(f"steps are one a source; got {len(steps)} for {len(several)}.")
    held = [as_layers(each) for each in several]
    names = tuple(held[0])
    sizes = {len(X) for layers in held for X in layers.values()}
    if any(tuple(layers) != names for layers in held) or len(sizes) > 1:
        raise ShapeError("every step needs the same layers and rows as the first one.")
    label_entropy, n = check_labels(y, held[0]), sizes.pop()
    if most is not None and most < n:
        rows = np.sort(np.random.default_rng(seed).permutation(n)[:most])
        held = [{k: X[rows] for k, X in layers.items()} for layers in held]
        y, n = None if y is None else np.asarray(y)[rows], most

    def measure(X: Any) -> Information:
        if method == "kernel":
            scale = total_variance(X) if relative else 1.0
            return kernel_information(X, y, noise=noise * scale if scale > 0 else noise)
        low, high = ends or ((0.0, 0.0) if width else observed_range(X))
        finite = np.isfinite([low, high]).all()
        return BinCounter(*((low, high) if finite else (0, 1)), bins=bins, width=width).update(
            X, y
        ).result()  # fmt: skip

    found = [[measure(X) for X in layers.values()] for layers in held]
    numbers = np.array(found, dtype=object)[..., :5].astype(np.float64)
    at = tuple(steps) if steps is not None else (0,)
    setting = (
        {"noise": noise, "relative": relative}
        if method == "kernel"
        else {"width": width} if width else {"bins": bins, "ends": ends or "observed"}
    )  # fmt: skip
    return InformationPlane(
        name=name,
        n=n,
        provenance=origin(several[0], method=method, **setting),
        reasons=_reasons(found, names, at),
        layers=names,
        steps=tuple(int(s) for s in at),
        method=method,
        xt=numbers[..., 0],
        ty=numbers[..., 1],
        xt_low=numbers[..., 2],
        ty_low=numbers[..., 3],
        distinct=numbers[..., 4],
        ceiling=float(np.log2(n)),
        label_entropy=label_entropy,
        setting=setting,
        caveats=(*CAVEATS, *_fullness(found, names)),
    )


def _reasons(
    found: Sequence[Sequence[Information]], names: Sequence[str], steps: Sequence[int]
) -> dict[str, str]:
    reasons: dict[str, str] = {}
    for step, row in zip(steps, found, strict=True):
        for layer, info in zip(names, row, strict=True):
            if info.why:
                reasons[f"{layer}, {step}"] = info.why
            elif info.why_ty:
                reasons["ty"] = info.why_ty
    return reasons


def _fullness(found: Sequence[Sequence[Information]], names: Sequence[str]) -> tuple[str, ...]:
    full = [name for i, name in enumerate(names) if any(row[i].distinct >= FULL for row in found)]
    if not full:
        return ()
    return (
        f"In {', '.join(full)} at least {FULL:.0%} of the rows have a symbol of their own, so the "
        "bins say nothing there: take wider bins, more rows or fewer units.",
    )
