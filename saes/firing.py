"""How often latents fire, counted over batches in whole numbers."""

import numpy as np
import torch
from numpy.typing import NDArray

from saes.codes import Codes

__all__ = ["Firing", "density_histogram"]

WIDTH = 0.25
"""Width of a bin of log10 density."""


class Firing:
    """Counts of rows in which each latent fired, and of rows with each number of active latents.

    A latent fires in a row where its value is not 0.
    """

    def __init__(self, n_latents: int, device: torch.device) -> None:
        self.n_latents = n_latents
        self.counts = torch.zeros(n_latents, dtype=torch.int64, device=device)
        self.rows = torch.zeros(n_latents + 1, dtype=torch.int64, device=device)

    def add(self, codes: Codes) -> None:
        """Take in the codes of some rows."""
        self.counts += codes.counts(self.n_latents)
        self.rows += torch.bincount(codes.l0(), minlength=self.n_latents + 1)

    def l0(self) -> float:
        """Mean number of active latents a row."""
        return int(self.counts.sum()) / int(self.rows.sum())

    def quantile(self, q: float) -> int:
        """The smallest number of active latents that at least the share q of rows stays within."""
        below = self.rows.cumsum(0)
        return int((below < q * int(below[-1])).sum())


def density_histogram(density: NDArray, n: int) -> tuple[NDArray, NDArray]:
    """Latents by the logarithm of their firing rate: edges [b + 1] of log10, and counts [b].

    Bins are 0.25 wide, the last one ends at 0 and takes both its ends in; the first begins at or
    below log10(1 / n), the smallest rate that n rows can show. Dead latents have no logarithm and
    are in no bin: the counts sum to the live ones.

    Parameters
    ----------
    density : [n_latents] share of rows in which each latent fires, 0 to 1.
    n : rows.
    """
    bins = max(1, int(np.ceil(round(np.log10(n) / WIDTH, 9))))
    edges = WIDTH * np.arange(-bins, 1)
    # Rates such as 1e-3 lie on an edge, to the left or right of it by rounding alone.
    place = np.floor(np.round(np.log10(density[density > 0]) / WIDTH, 9)).astype(int) + bins
    return edges, np.bincount(place.clip(0, bins - 1), minlength=bins)
