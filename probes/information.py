"""How much a layer tells of its input and of the labels: two estimates of mutual information.

Neither is the information that a layer holds. In a deterministic network on continuous inputs that
is infinite or constant; what is counted here depends on the width of the bins, or on the noise that
is thought to be added. `CAVEATS` goes into every result.

Notation: T is a layer, X its input, Y the label; n rows, so that no estimate exceeds log2 n.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from interp.errors import DataError, ParameterError
from probes.clusters import codes
from probes.layers import rows_float64

__all__ = ["CAVEATS", "BinCounter", "Information", "entropy", "kernel_information"]

CAVEATS = (
    "What is measured is the bins or the noise: I(X;T) of a deterministic layer with continuous "
    "values is infinite or constant.",
    "A fall of I(X;T) in training comes of units that saturate on both sides, and bins of fixed "
    "width; linear and ReLU layers mostly show none, and it is not the cause of generalisation "
    "(Saxe et al. 2018).",
    "No estimate can exceed log2 n. Where each row has a symbol of its own, I(X;T) is log2 n and "
    "I(T;Y) is H(Y) whatever the labels mean.",
)
BLOCK = 1024
"""Rows of a block of the kernel: 8 MiB a copy."""


class Information(NamedTuple):
    """Bits that a layer tells.

    Attributes
    ----------
    xt, ty : of the input and of the label; of the kernel the upper estimates.
    xt_low, ty_low : the kernel's lower estimates; nan of bins.
    distinct : share of rows with a symbol of their own, among the rows; nan of the kernel.
    n : rows.
    why : what makes xt undefined, or None.
    why_ty : what makes ty undefined, or None.
    """

    xt: float
    ty: float
    xt_low: float
    ty_low: float
    distinct: float
    n: int
    why: str | None = None
    why_ty: str | None = None


def entropy(counts: ArrayLike) -> float:
    """Bits of a distribution given by counts.

    Range: 0 to log2 of their number. Degenerate: no count above 0 -> nan.
    """
    counts = np.asarray(counts, dtype=np.float64)
    counts = counts[counts > 0]
    if not counts.size:
        return float("nan")
    p = counts / counts.sum()
    return float(max(0.0, -(p * np.log2(p)).sum()))


class BinCounter:
    """``I(X;T) = H(T)`` and ``I(T;Y) = H(T) - sum_y p(y) H(T|y)`` of binned rows, in bits.

    A row is one symbol: the bins of all its units. Batches may come in any order and size, and
    `merge` joins what was counted apart; results are equal, bit for bit. Memory: a digest of 16
    bytes for each symbol that was seen.

    Parameters
    ----------
    low, high, bins : equal bins between them, and one more on either side for what lies outside.
    width : instead, bins of this width from 0 on, without ends.

    Range: xt 0 to log2 n; ty 0 to the entropy of the labels, and at most xt. Higher says more.
    Degenerate: nan with the reason for no rows, rows that are not finite, and (ty) one class or no
    labels. A constant layer has 0.
    Source: Shwartz-Ziv and Tishby, arXiv 1703.00810 (30 bins from -1 to 1, for tanh); Saxe et al.
    2018 (width .07 and .5). Differs: their code puts what lies below -1 into the top bin and joins
    all above 1; here either end has a bin of its own.
    """

    def __init__(
        self, low: float = -1.0, high: float = 1.0, *, bins: int = 30, width: float | None = None
    ) -> None:
        if bins < 1 or not high >= low or (width is not None and not 0 < width < float("inf")):
            raise ParameterError(
                "BinCounter needs low up to high, at least one bin, and a width above 0; got "
                f"low {low}, high {high}, bins {bins}, width {width}."
            )
        self.low, self.high, self.bins, self.width = low, high, bins, width
        self._seen: dict[Any, Counter[bytes]] = {}
        self._bad = 0

    def update(self, X: Any, y: ArrayLike | None = None) -> Self:
        """Count a batch: X [n, d], and a class a row where there are labels."""
        names, classes = (
            ([None], np.zeros(len(X), dtype=np.int64)) if y is None else codes(y, len(X))
        )
        for start in range(0, len(X), BLOCK):
            block = rows_float64(X, start, start + BLOCK)
            finite = torch.isfinite(block).all(1).cpu().numpy()
            self._bad += int((~finite).sum())
            symbols = self._symbols(block.cpu().numpy()[finite])
            for row, k in zip(symbols, classes[start : start + BLOCK][finite], strict=True):
                digest = blake2b(row.tobytes(), digest_size=16).digest()
                self._seen.setdefault(names[k], Counter())[digest] += 1
        return self

    def merge(self, other: "BinCounter") -> Self:
        """Add what another has counted in the same bins."""
        mine, theirs = ((c.low, c.high, c.bins, c.width) for c in (self, other))
        if mine != theirs:
            raise ParameterError(f"counters of other bins cannot be joined: {mine}, {theirs}.")
        for name, counts in other._seen.items():
            self._seen.setdefault(name, Counter()).update(counts)
        self._bad += other._bad
        return self

    def result(self) -> Information:
        """What was counted so far."""
        nan = float("nan")
        total = sum(self._seen.values(), Counter())
        n = total.total()
        if self._bad or not n:
            why = f"{self._bad:,} rows are not finite." if self._bad else "there are no rows."
            return Information(nan, nan, nan, nan, nan, n, why, why)
        h = entropy(sorted(total.values()))
        why_ty = why_no_label(tuple(self._seen))
        parts = [(c.total() / n, entropy(sorted(c.values()))) for c in self._seen.values()]
        ty = nan if why_ty else max(0.0, h - sum(sorted(p * each for p, each in parts)))
        alone = sum(1 for c in total.values() if c == 1) / n
        return Information(h, ty, nan, nan, alone, n, None, why_ty)

    def _symbols(self, rows: NDArray) -> NDArray:
        if self.width is not None:
            return np.floor(rows / self.width).astype(np.int64)
        span = (self.high - self.low) or 1.0
        place = np.floor((rows - self.low) / span * self.bins)
        place[rows == self.high] = self.bins - 1
        return place.clip(-1, self.bins).astype(np.int32)


def kernel_information(X: Any, y: ArrayLike | None = None, *, noise: float = 0.1) -> Information:
    """Bits that T + Gaussian noise tells of the input and of the label, from pairs of rows.

    ``I(X;T) <= -mean_i log2 mean_j exp(-|x_i - x_j|^2 / (2 s))`` with s the noise, and at least the
    same with 4 s for s. ``I(T;Y)`` is that of all rows less the mean of that within classes, and as
    a difference of two bounds it is no bound itself.

    Parameters
    ----------
    X : [n, d] array, tensor, or matrix of a store.
    y : [n] classes, or None.
    noise : variance of the noise in each unit, in the units of X, squared.

    Range: xt 0 to log2 n, ty about 0 to the entropy of the labels; higher says more.
    Invariant to rotation and translation; not to scale, as the noise stays what it is.
    Degenerate: nan with the reason for rows that are not finite and (ty) one class or no labels.
    Equal rows give 0.
    Cost: n^2 d multiplications and n^2 / 2 exponentials in float64, and n d 8 bytes: at n = 10,000
    and d = 2,048 13 s of processor.
    Source: Kolchinsky and Tracey 2017; Saxe et al. 2018 (noise 1e-3 and 1e-1).
    """
    if not 0 < noise < float("inf"):
        raise ParameterError(f"noise is a variance above 0; got {noise!r}.")
    n, nan = len(X), float("nan")
    names, classes = ((None,), np.zeros(n, dtype=np.int64)) if y is None else codes(y, n)
    x = rows_float64(X, 0, n)
    bad = int((~torch.isfinite(x).all(1)).sum())
    if bad or not n:
        why = f"{bad:,} rows are not finite." if bad else "there are no rows."
        return Information(nan, nan, nan, nan, nan, n, why, why)
    one_hot = torch.nn.functional.one_hot(torch.from_numpy(classes), len(names)).to(x)
    sums = _kernel_sums(x - x.mean(0), one_hot, noise)  # [2, 2, n]: low and high, all and own class
    sizes = one_hot.sum(0)[torch.from_numpy(classes).to(x.device)]
    low, high = (-(sums[:, 0] / n).log2().mean(1)).tolist()
    within = (-(sums[:, 1] / sizes).log2().mean(1)).tolist()
    why_ty = why_no_label(tuple(names))
    ty_low, ty = (nan, nan) if why_ty else (low - within[0], high - within[1])
    return Information(max(high, 0.0), ty, max(low, 0.0), ty_low, nan, n, None, why_ty)


def _kernel_sums(x: torch.Tensor, one_hot: torch.Tensor, noise: float) -> torch.Tensor:
    """Sums [2, 2, n] of the kernels over all rows, and over those of a row's class."""
    n, norms = len(x), x.square().sum(1)
    sums = torch.zeros(2, 2, n, dtype=x.dtype, device=x.device)
    for i in range(0, n, BLOCK):
        for j in range(i, n, BLOCK):  # the kernel is symmetric: one half of the blocks is enough
            a, b = slice(i, min(i + BLOCK, n)), slice(j, min(j + BLOCK, n))
            squared = norms[a, None] + norms[None, b] - 2 * (x[a] @ x[b].T)
            if i == j:
                squared.fill_diagonal_(0)
            kernel = squared.clamp_min_(0).mul_(-1 / (8 * noise)).exp_()
            for k in range(2):
                sums[k, 0, a] += kernel.sum(1)
                sums[k, 1, a] += ((kernel @ one_hot[b]) * one_hot[a]).sum(1)
                if i != j:
                    sums[k, 0, b] += kernel.sum(0)
                    sums[k, 1, b] += ((kernel.T @ one_hot[a]) * one_hot[b]).sum(1)
                kernel = kernel.square_().square_()  # 4 s to s is a fourth power
    return sums


def why_no_label(names: Sequence[Any]) -> str | None:
    """Why nothing can be told of the label; None where something can."""
    if None in names:
        return "there are no labels."
    if len(names) < 2:
        return f"there is one class only ({names[0]!r}), whose entropy is 0."
    return None


def observed_range(X: Any) -> tuple[float, float]:
    """Least and greatest value of a matrix, read some rows at a time."""
    low, high = float("inf"), -float("inf")
    for start in range(0, len(X), BLOCK):
        block = rows_float64(X, start, start + BLOCK)
        low, high = min(low, float(block.min())), max(high, float(block.max()))
    return low, high


def total_variance(X: Any) -> float:
    """Sum over units of their variance."""
    return float(rows_float64(X, 0, len(X)).var(0, correction=0).sum())


def check_labels(y: ArrayLike | None, layers: Mapping[str, Any]) -> float:
    """Entropy of the labels in bits, nan where there are none.

    Raises
    ------
    DataError
        There is not one label a row.
    """
    n = len(next(iter(layers.values())))
    if y is None:
        return float("nan")
    if len(np.asarray(y)) != n:
        raise DataError(f"there are {len(np.asarray(y))} labels for {n} rows; give one a row.")
    return entropy(np.bincount(codes(y, n)[1]))
