"""Two classes' separation from pairs of rows: free of n, and for many weightings of rows at once.

The squared distance of two class means, as computed from n rows, holds the noise of both means
too: with many dimensions and few rows it is mostly that noise. Left out here are a row's pairs with
itself, or with the rows of its group, which is where that noise sits. So the estimates are unbiased
at any n, and a bootstrap draw that holds a row twice does not count it as evidence for itself.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probes.clusters import blocks
from probes.controls import shuffled_labels
from probes.scores import bootstrap_weights

__all__ = ["Pairs", "Separation", "Weighting", "separation"]

CHUNK = 1024
"""Rows read at a time; more where a group is larger."""
SUMS = ("N1", "N2", "N11", "N22", "N12", "Q1", "Q2", "P11", "P22", "P12", "T11", "T22")


@dataclass(frozen=True)
class Pairs:
    """What `Separation` found, an entry a weighting.

    Attributes
    ----------
    gap : squared distance of the class means, unbiased; below 0 by chance where they coincide.
    safe, unsafe : variance of each class, summed over dimensions, unbiased.
    n1, n2 : weight of each class: its rows.
    """

    gap: NDArray
    safe: NDArray
    unsafe: NDArray
    n1: NDArray
    n2: NDArray

    def score(self) -> NDArray:
        """``q / (q + 4)`` with ``q = gap / mean variance``: the recommended AQI (`probes.aqi`)."""
        with np.errstate(divide="ignore", invalid="ignore"):
            q = self.gap / ((self.safe + self.unsafe) / 2)
            return np.where(np.isfinite(q), q / (q + 4), np.nan)

    def inverse_xie_beni(self) -> NDArray:
        """``1 / XBI`` as computed from the rows, the noise of the means included."""
        with np.errstate(divide="ignore", invalid="ignore"):
            gap = self.gap + self.safe / self.n1 + self.unsafe / self.n2
            within = (self.n1 - 1) * self.safe + (self.n2 - 1) * self.unsafe
            return (self.n1 + self.n2) * gap / within

    def paper(self, weight: float) -> NDArray:
        """The paper's AQI: ``weight / XBI + (1 - weight) CHI``."""
        n = self.n1 + self.n2
        return self.inverse_xie_beni() * (
            weight + (1 - weight) * self.n1 * self.n2 * (n - 2) / n**2
        )


class Separation:
    """Sums over rows from which `Pairs` follow, a batch at a time, in float64.

    Batches may come in any order and size, and `merge` joins what was summed apart; the rows of a
    group come in one batch.

    Parameters
    ----------
    shift : [d] point about which rows are taken, for precision: near their mean.
    scale : [d] what each dimension is divided by, or None.
    """

    def __init__(self, shift: Tensor, scale: Tensor | None = None) -> None:
        self.shift, self.scale = shift, scale
        self._sums: dict[str, Tensor] = {}

    def update(self, X: Tensor, safe: Tensor, unsafe: Tensor, groups: Tensor | None = None) -> Self:
        """Add a batch.

        Parameters
        ----------
        X : [c, d] float64.
        safe, unsafe : [r, c] weight of each row in each class, for r weightings.
        groups : [c] group of each row; pairs inside a group are left out.
        """
        x = X - self.shift
        x = x if self.scale is None else x / self.scale
        norms = x.square().sum(1)
        if groups is None:
            mine, other = safe.square(), unsafe.square()
            found = {"N11": mine.sum(1), "N22": other.sum(1), "N12": torch.zeros_like(mine[:, 0])}
            found |= {"P11": mine @ norms, "P22": other @ norms, "P12": found["N12"]}
            found |= {"T11": found["P11"], "T22": found["P22"]}
        else:
            same = (groups[:, None] == groups[None]).to(x.dtype)
            inner = same * (x @ x.T)
            near, far = safe @ same, unsafe @ same
            dot, cross = safe @ inner, unsafe @ inner
            found = {"N11": (near * safe).sum(1), "N22": (far * unsafe).sum(1)}
            found |= {"N12": (near * unsafe).sum(1), "P12": (dot * unsafe).sum(1)}
            found |= {"P11": (dot * safe).sum(1), "P22": (cross * unsafe).sum(1)}
            found |= {"T11": (near * safe) @ norms, "T22": (far * unsafe) @ norms}
        found |= {"N1": safe.sum(1), "N2": unsafe.sum(1), "Q1": safe @ norms, "Q2": unsafe @ norms}
        found |= {"S1": safe @ x, "S2": unsafe @ x}
        self._add(found)
        return self

    def merge(self, other: "Separation") -> Self:
        """Add what another has summed about the same point."""
        self._add(other._sums)
        return self

    def result(self) -> Pairs:
        """Unbiased gap and variances of each weighting; nan where a class has no pair of rows."""
        s = {k: v.cpu().numpy() for k, v in self._sums.items()}
        one, two = (s["S1"] ** 2).sum(1), (s["S2"] ** 2).sum(1)
        both = (s["S1"] * s["S2"]).sum(1)
        with np.errstate(divide="ignore", invalid="ignore"):
            pairs1, pairs2 = s["N1"] ** 2 - s["N11"], s["N2"] ** 2 - s["N22"]
            inner1, inner2 = (one - s["P11"]) / pairs1, (two - s["P22"]) / pairs2
            cross = (both - s["P12"]) / (s["N1"] * s["N2"] - s["N12"])
            return Pairs(
                gap=inner1 + inner2 - 2 * cross,
                safe=(s["Q1"] * s["N1"] - s["T11"]) / pairs1 - inner1,
                unsafe=(s["Q2"] * s["N2"] - s["T22"]) / pairs2 - inner2,
                n1=s["N1"],
                n2=s["N2"],
            )

    def _add(self, found: dict[str, Tensor]) -> None:
        for name, value in found.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value


@dataclass(frozen=True)
class Weighting:
    """The rows as they are, bootstrap draws of them, and permutations of their labels.

    Attributes
    ----------
    safe : [n] whether a row is of the safe class.
    groups : [n] group of each row, 0 to g - 1, or None.
    draws : [draws, groups or rows] how often each is drawn.
    shuffled : [permutations, n] safe or not, with the labels permuted.
    """

    safe: NDArray
    groups: NDArray | None
    draws: NDArray
    shuffled: NDArray

    @classmethod
    def of(
        cls, safe: NDArray, groups: NDArray | None, *, draws: int, permutations: int, seed: int
    ) -> Self:
        """Draw whole groups, and permute labels as the groups allow.

        Whole groups swap labels where each has one; the rows of a group swap theirs where each
        group has both, as matched pairs have; else labels are permuted among all rows.
        """
        units = np.arange(len(safe)) if groups is None else groups
        one = np.zeros(len(safe), dtype=np.int64)
        if not permutations:
            shuffled = np.empty((0, len(safe)), dtype=bool)
        elif groups is not None and _all_mixed(safe, groups):
            shuffled = _shuffled_within(safe, groups, permutations, seed)
        else:
            shuffled = shuffled_labels(safe, one, groups, permutations=permutations, seed=seed)
        return cls(safe, groups, bootstrap_weights(units, draws=draws, seed=seed), shuffled)

    def chunk(self, rows: NDArray, device: torch.device) -> tuple[Tensor, Tensor]:
        """Weights [1 + draws + permutations, rows] in the safe class, and in the other."""
        units = rows if self.groups is None else self.groups[rows]
        drawn = np.concatenate(
            [
                np.ones((1, len(rows))),
                self.draws[:, units],
                np.ones((len(self.shuffled), len(rows))),
            ]
        )
        own = np.broadcast_to(self.safe[rows], (1 + len(self.draws), len(rows)))
        safe = torch.from_numpy(np.concatenate([own, self.shuffled[:, rows]])).to(device)
        weights = torch.from_numpy(drawn).to(device)
        return weights * safe, weights * ~safe

    def split(self, values: NDArray) -> tuple[float, NDArray, NDArray]:
        """The value, those of the draws, and those of the permutations."""
        ends = 1 + len(self.draws)
        return float(values[0]), values[1:ends], values[ends:]


def separation(
    X: Any,
    weighting: Weighting,
    *,
    shift: Tensor,
    scale: Tensor | None = None,
    within_groups: bool = False,
) -> Pairs:
    """`Pairs` of a matrix [n, d] for every weighting, read some rows at a time.

    ``within_groups`` keeps the pairs inside a group, and leaves out a row's pair with itself alone.
    """
    found: Separation | None = None
    apart = None if within_groups else weighting.groups
    for rows in _chunks(len(weighting.safe), apart):
        part = X[rows] if apart is not None else X[int(rows[0]) : int(rows[-1]) + 1]
        block = torch.cat([b for _, b in blocks(part)])
        if found is None:
            put = {"device": block.device, "dtype": torch.float64}
            found = Separation(shift.to(**put), None if scale is None else scale.to(**put))
        safe, unsafe = weighting.chunk(rows, block.device)
        groups = None if apart is None else torch.from_numpy(apart[rows]).to(block.device)
        found.update(block, safe, unsafe, groups)
    assert found is not None  # noqa: S101  the caller has counted the rows
    return found.result()


def _chunks(n: int, groups: NDArray | None) -> Iterator[NDArray]:
    """Places of rows, some at a time, whole groups together."""
    if groups is None:
        yield from (np.arange(s, min(s + CHUNK, n)) for s in range(0, n, CHUNK))
        return
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    first = 0
    for start, end in zip(starts, [*starts[1:], n], strict=True):
        if end - first > CHUNK and start > first:
            yield order[first:start]
            first = start
    yield order[first:]


def _all_mixed(safe: NDArray, groups: NDArray) -> bool:
    """Whether every group has rows of both classes."""
    sizes, mine = np.bincount(groups), np.bincount(groups, weights=safe)
    return bool(((mine > 0) & (mine < sizes))[sizes > 0].all())


def _shuffled_within(safe: NDArray, groups: NDArray, permutations: int, seed: int) -> NDArray:
    """Labels [permutations, n] permuted among the rows of each group."""
    rng = np.random.default_rng(seed)
    place = np.argsort(groups, kind="stable")
    out = np.empty((permutations, len(safe)), dtype=bool)
    for row in out:
        row[place] = safe[np.lexsort((rng.random(len(safe)), groups))]
    return out
