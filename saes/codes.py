"""Sparse codes: which latents are active in each row, and how strongly."""

from dataclasses import dataclass, field, replace
from typing import Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import ShapeError

__all__ = ["Codes"]


@dataclass(frozen=True, eq=False)
class Codes:
    """The active latents of n rows, each a slot with a value and the index of its latent.

    Where each row has k slots, ``values`` and ``indices`` are [n, k] and ``offsets`` is None. Where
    rows differ, the slots of all rows stand one after the other, [m], and those of row i are
    ``offsets[i]`` to ``offsets[i + 1]`` (compressed rows).

    A slot may hold a value of 0: a row with fewer than k positive pre-activations still has k
    slots. Then its index means nothing. A latent may stand in several slots of a row; they add up.

    Attributes
    ----------
    values : [n, k] or [m].
    indices : [n, k] or [m], int64, each from 0 to n_latents - 1.
    offsets : None or [n + 1], int64, rising from 0 to m.
    """

    values: Float[Tensor, "..."]
    indices: Int[Tensor, "..."]
    offsets: Int[Tensor, " n_plus_1"] | None = None
    _found: dict[str, Tensor] = field(default_factory=dict, repr=False)  # of the indices alone

    def __post_init__(self) -> None:
        wanted = 2 if self.offsets is None else 1
        if self.values.shape != self.indices.shape or self.values.ndim != wanted:
            shape = "[n, k]" if self.offsets is None else "[m] beside offsets [n + 1]"
            raise ShapeError(
                f"Codes: values and indices must both be {shape}; got {list(self.values.shape)} "
                f"and {list(self.indices.shape)}."
            )

    @classmethod
    def from_dense(cls, z: Float[Tensor, "n f"]) -> "Codes":
        """Compressed rows of dense latents: the entries that are not 0, by rising index."""
        rows, indices = z.nonzero(as_tuple=True)
        edges = torch.arange(len(z) + 1, device=z.device)
        return cls(z[rows, indices], indices, torch.searchsorted(rows, edges))

    def __len__(self) -> int:
        return len(self.values) if self.offsets is None else len(self.offsets) - 1

    def __getitem__(self, rows: "int | slice | list[int] | Tensor") -> "Codes":
        """The codes of some rows, chosen as those of a tensor are; an int gives one row."""
        chosen = torch.arange(len(self), device=self.values.device)[rows].reshape(-1)
        if self.offsets is None:
            return Codes(self.values[chosen], self.indices[chosen])
        counts = self.offsets.diff()[chosen]
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        shift = (self.offsets[chosen] - offsets[:-1]).repeat_interleave(counts)
        slots = shift + torch.arange(len(shift), device=shift.device)
        return Codes(self.values[slots], self.indices[slots], offsets)

    def with_values(self, values: Float[Tensor, "..."]) -> Self:
        """The same slots with other values."""
        return replace(self, values=values)

    def regrouped(self, offsets: Int[Tensor, " n_plus_1"]) -> "Codes":
        """The same slots in other rows; all slots must be in some."""
        found = {k: v for k, v in self._found.items() if k != "rows"}
        return Codes(self.values.flatten(), self.indices.flatten(), offsets, found)

    @property
    def rows(self) -> Int[Tensor, " m"]:
        """The row of each slot, slots in the order of ``indices.flatten()``."""
        if "rows" not in self._found:
            every = torch.arange(len(self), device=self.indices.device)
            if self.offsets is None:
                rows = every.repeat_interleave(self.indices.shape[1])
            else:
                m = len(self.indices)
                rows = every.repeat_interleave(self.offsets.diff(), output_size=m)
            self._found["rows"] = rows
        return self._found["rows"]

    @property
    def edges(self) -> Int[Tensor, " n_plus_1"]:
        """``offsets``, also where each row has k slots."""
        if self.offsets is not None:
            return self.offsets
        n, k = self.indices.shape
        return torch.arange(n + 1, device=self.indices.device) * k

    @property
    def sorted_slots(
        self,
    ) -> tuple[Int[Tensor, " m"], Int[Tensor, " f_plus_1"]] | tuple[None, None]:
        """The slots by latent, and where each latent's begin, if an encoder sorted them."""
        if "order" not in self._found:
            return None, None
        return self._found["order"], self._found["begins"]

    def dense(self, n_latents: int) -> Float[Tensor, "n f"]:
        """Dense latents [n, n_latents]."""
        z = self.values.new_zeros(len(self), n_latents)
        if self.offsets is None:
            return z.scatter_add(1, self.indices, self.values)
        return z.index_put((self.rows, self.indices), self.values, accumulate=True)

    def padded(self) -> "Codes":
        """The same codes with k slots a row, k being the longest row; a pad is latent 0 at 0."""
        if self.offsets is None:
            return self
        counts = self.offsets.diff()
        k = int(counts.max()) if len(counts) else 0
        place = torch.arange(len(self.indices), device=self.indices.device)
        place = place - self.offsets[:-1].repeat_interleave(counts)
        where = (self.rows, place)
        values = self.values.new_zeros(len(self), k).index_put(where, self.values)
        return Codes(values, self.indices.new_zeros(len(self), k).index_put(where, self.indices))

    def l0(self) -> Int[Tensor, " n"]:
        """How many latents are active in each row: slots whose value is not 0."""
        active = (self.values != 0).flatten().long()
        return active.new_zeros(len(self)).index_add_(0, self.rows, active)

    def counts(self, n_latents: int) -> Int[Tensor, " f"]:
        """In how many slots each latent is active: rows, as a row of an SAE repeats none."""
        active = (self.values != 0).flatten().long()
        return active.new_zeros(n_latents).index_add_(0, self.indices.flatten(), active)
