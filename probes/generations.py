"""Can a new model's queries be answered from rows that an old model encoded?"""

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from interp.errors import ShapeError
from probes.measured import Measured, class_codes, paired_rows, unusable

__all__ = ["backward_compatibility"]

BLOCK = 1024


def backward_compatibility(old: Any, new: Any, labels: ArrayLike) -> Measured:
    """``M(new, old) - M(old, old)``: what new queries gain on a gallery that was not encoded anew.

    M(a, b) is the share of rows, encoded by a, whose nearest other row by cosine, encoded by b, is
    of their class.

    Parameters
    ----------
    old, new : [n, d], the same rows in both spaces.
    labels : [n] classes.

    Returns
    -------
    Measured
        The difference. Its parts: ``old`` M(old, old), ``cross`` M(new, old), ``new`` M(new, new),
        and ``gain``, the difference over ``new - old``, nan where new is not better than old.

    Range: -1 to 1; above 0 the new model is backward compatible, and ``gain`` 1 says that encoding
    the gallery anew would bring nothing more. A rotation of one space alone destroys it, of both
    alike does not; scale does not matter, translation does.
    Degenerate: nan with the reason for one class, fewer than three rows, rows that are not finite,
    are one point, or have length 0.
    Cost: three times n^2 d products in float32, a block at a time: 14 s at n = 10,000,
    d = 2,048.
    Source: Shen et al. 2020 (2003.11942), equations 1 and 4.

    Raises
    ------
    ShapeError
        The widths or the numbers of rows differ: `probes.geometry.relative` makes them alike.
    """
    old, new = paired_rows(old, new)
    if old.shape[1] != new.shape[1]:
        raise ShapeError(
            f"the new space must have the old one's width {old.shape[1]}; got {new.shape[1]}."
        )
    y = torch.from_numpy(class_codes(labels, len(old)))
    why = unusable(old, 3) or unusable(new, 3)
    if why is None:
        zero = int(((old.norm(dim=1) == 0) | (new.norm(dim=1) == 0)).sum())
        why = f"{zero:,} rows have length 0, and no direction." if zero else None
    if why is None and not y.any():
        why = "there is one class only; two are needed."
    if why is not None:
        return Measured(0, why)
    a, b = ((X / X.norm(dim=1, keepdim=True)).float() for X in (old, new))
    was, cross, now = _matched(a, a, y), _matched(b, a, y), _matched(b, b, y)
    gain = (cross - was) / (now - was) if now > was else float("nan")
    return Measured(cross - was, old=was, cross=cross, new=now, gain=gain)


def _matched(queries: Tensor, gallery: Tensor, y: Tensor) -> float:
    """Share of queries whose nearest other row of the gallery is of their class."""
    y, right = y.to(gallery.device), 0
    for start in range(0, len(queries), BLOCK):
        rows = torch.arange(start, min(start + BLOCK, len(queries)), device=gallery.device)
        near = queries[rows] @ gallery.T
        near[torch.arange(len(rows)), rows] = -np.inf
        right += int((y[near.argmax(1)] == y[rows]).sum())
    return right / len(queries)
