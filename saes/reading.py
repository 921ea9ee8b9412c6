"""Activations in batches, each checked, and their latents."""

from collections.abc import Iterator
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from interp.errors import DataError, ParameterError, ShapeError
from interp.hooks import evaluating
from interp.store import Matrix
from saes.base import SAE
from saes.codes import Codes

__all__ = ["Reader", "Acts", "batch_rows", "latents_of"]

BATCH_LATENTS = 2**26
"""Most dense latents of a batch where no batch size is given: 256 MiB."""
BATCH_ROWS = 4096

Acts = Tensor | Matrix | NDArray
"""Activations, a row each: a tensor, an array, or the matrix of a store."""


class Reader:
    """Acts of activations in order, ``size`` at a time, each batch checked.

    Raises
    ------
    ShapeError
        The rows do not have this shape.
    DataError
        There are none, they are no floating-point numbers, or one holds nan or inf.
    """

    def __init__(self, acts: Acts, shape: tuple[int, ...], size: int, who: str) -> None:
        rows: Any = acts if isinstance(acts, Matrix) else torch.as_tensor(acts)
        found = tuple(rows.shape[max(0, rows.ndim - len(shape)) :])
        wide = rows.ndim - len(shape) == 1 or not isinstance(acts, Matrix)
        if found != shape or not wide or rows.ndim <= len(shape):
            wanted = ", ".join(map(str, shape))
            raise ShapeError(f"{who} must be [n, {wanted}]; got {list(rows.shape)}.")
        if not rows.dtype.is_floating_point:
            raise DataError(f"{who} must hold floating-point numbers; got {rows.dtype}.")
        self.rows = rows if isinstance(acts, Matrix) else rows.reshape(-1, *shape)
        self.n, self.size, self.who = len(self.rows), size, who
        if not self.n:
            raise DataError(f"{who} has no rows.")

    def __iter__(self) -> Iterator[Tensor]:
        for start in range(0, self.n, self.size):
            yield self._checked(self.rows[start : start + self.size], range(start, self.n))

    def take(self, rows: NDArray) -> Iterator[Tensor]:
        """Some rows, in the order given."""
        for start in range(0, len(rows), self.size):
            some = rows[start : start + self.size]
            index: Any = some if isinstance(self.rows, Matrix) else torch.from_numpy(some)
            yield self._checked(self.rows[index], some)

    def _checked(self, batch: Tensor, numbers: Any) -> Tensor:
        wrong = ~batch.isfinite().flatten(1).all(1)
        if wrong.any():
            row = int(numbers[int(wrong.nonzero()[0])])
            raise DataError(
                f"{self.who} holds nan or inf (first in row {row} of {self.n}); drop such rows, or "
                "capture in a wider dtype."
            )
        return batch


def batch_rows(sae: SAE, batch_size: int | None) -> int:
    """Acts of a batch: those asked for, or as many as keep dense latents within bounds."""
    if batch_size is None:
        return max(1, min(BATCH_ROWS, BATCH_LATENTS // sae.n_latents))
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ParameterError(f"batch_size must be a whole number above 0; got {batch_size!r}.")
    return batch_size


def latents_of(sae: SAE, batches: Iterator[Tensor]) -> Iterator[Codes]:
    """The codes of batches of rows, on the CPU, the SAE being in eval mode.

    Modes are set for each batch and set back before it is handed over: what runs between two
    batches, such as another such reading, sees its own.
    """
    for x in batches:
        with evaluating(sae), torch.inference_mode():
            codes = sae.encode_sparse(x.to(sae.decoder.device, sae.decoder.dtype))
            offsets = None if codes.offsets is None else codes.offsets.cpu()
            read = Codes(codes.values.cpu(), codes.indices.cpu(), offsets)
        yield read
