"""Directions compared: within a dictionary, with a known one, and between two seeds."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from interp.errors import DataError, ShapeError
from interp.results import Result
from interp.runs import versions
from saes.base import SAE

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "Stability",
    "matched",
    "max_cosine",
    "mean_max_cosine",
    "seed_stability",
    "unit_directions",
]

BLOCK = 2**24
"""Most cosines held at once: 128 MiB."""
SHARED = 0.7
"""Cosine from which two matched latents count as the same."""

Dictionary = SAE | Tensor | ArrayLike


@dataclass(frozen=True, kw_only=True)
class Stability(Result):
    """Which latents of one SAE another has too, matched one to one.

    Attributes
    ----------
    latents_a, latents_b : [m] matched latents, m being the number of the smaller dictionary; in
        the order of ``latents_a``.
    cosine : [m] cosine of the matched decoder directions, -1 to 1.
    mean, median : of ``cosine``; 1 is the same dictionary in another order.
    shared : share of matched pairs whose cosine is at least 0.7, 0 to 1.
    mmcs_ab, mmcs_ba : `mean_max_cosine`: how well b holds the directions of a, and a those of b.
        Several latents may share a best partner there, so each is at least its matched mean where
        the dictionaries are equally large.
    chance : mean matched cosine of two random dictionaries of the same sizes.
    seed : of the random dictionaries.
    """

    kind: ClassVar[str] = "seed_stability"

    latents_a: NDArray
    latents_b: NDArray
    cosine: NDArray
    mean: float
    median: float
    shared: float
    mmcs_ab: float
    mmcs_ba: float
    chance: float
    seed: int

    def to_frame(self) -> "pd.DataFrame":
        """One row a measure; the pairs are ``latents_a``, ``latents_b`` and ``cosine``."""
        import pandas as pd

        names = ("mean", "median", "shared", "mmcs_ab", "mmcs_ba", "chance")
        values = [getattr(self, name) for name in names]
        return pd.DataFrame({"measure": names, "value": values})

    def metrics(self) -> dict[str, Any]:
        """Numbers and names for ``metrics.json``."""
        names = ("n", "mean", "median", "shared", "mmcs_ab", "mmcs_ba", "chance", "seed", "reasons")
        return {name: getattr(self, name) for name in names}


def max_cosine(directions: Dictionary) -> Float[Tensor, " f"]:
    """Cosine [f] of each direction to the one most like it, of the same dictionary; float64.

    Range: -1 to 1; near 1 the dictionary holds a direction twice. Directions in d random
    dimensions reach about ``sqrt(2 log(f) / d)`` by chance.
    Degenerate: nan for a row of zeros, and where there is no other direction.
    Cost: f * f * d products, in blocks of bounded memory.

    Parameters
    ----------
    directions : an SAE, whose decoder rows are taken, or [f, d].
    """
    unit = _unit(directions, "directions")
    return _best(unit, unit, skip_self=True)


def mean_max_cosine(found: Dictionary, true: Dictionary) -> float:
    """How well a dictionary holds known directions: the mean over ``true`` of the best cosine.

    Range: -1 to 1, higher is better; 1 where every true direction is in ``found``. Signs count:
    latents are not negative, so a direction that points the other way is another feature.
    Degenerate: rows of zeros in ``found`` are no directions and are left out; nan where all are.
    Source: Sharkey et al. 2022, "Taking features out of superposition with sparse autoencoders"
    (MMCS). Differs: the mean is over the true directions, so that a dictionary does not gain by
    being small nor lose by being large.

    Parameters
    ----------
    found : an SAE, whose decoder rows are taken, or [f, d].
    true : the same; [m, d].

    Raises
    ------
    ShapeError
        The widths differ, or something is no matrix.
    DataError
        A true direction is 0, or something is not finite.
    """
    among, wanted = _unit(found, "found"), _unit(true, "true")
    _same_width(among, wanted)
    _no_zero(wanted, "true")
    return float(_best(wanted, among).mean())


def seed_stability(
    a: Dictionary, b: Dictionary, *, seed: int = 0, name: str = "stability"
) -> Stability:
    """How far two SAEs, such as two seeds of one training, found the same directions.

    Decoder directions are matched one to one so that the sum of their cosines is largest (the
    Hungarian method). Of dictionaries of two sizes, all latents of the smaller are matched.

    Parameters
    ----------
    a, b : SAEs, whose decoder rows are taken, or [f, d] directions. Dead latents keep about their
        first directions and match nothing: to leave them out give ``sae.W_dec[density > 0]``.
    seed : of the random dictionaries that give ``chance``.
    name : of the result.

    Raises
    ------
    ShapeError
        The widths differ, or something is no matrix.
    DataError
        A row is 0 or not finite.

    Notes
    -----
    Source: Paulo and Belrose 2025, "Sparse autoencoders trained on the same data learn different
    features", with its threshold of 0.7. Differs: decoder directions alone are matched.
    Cost: memory for f_a * f_b cosines; time grows with the cube of f (seconds at 4,096).
    """
    first, second = _unit(a, "a"), _unit(b, "b")
    _no_zero(first, "a")
    _no_zero(second, "b")
    rows, columns, cosine = matched(first, second)
    generator = torch.Generator().manual_seed(seed)
    random = [
        _unit(torch.randn(u.shape, generator=generator, dtype=torch.float64), "random")
        for u in (first, second)
    ]
    return Stability(
        name=name,
        n=len(cosine),
        provenance={"seed": seed, "versions": versions()},
        latents_a=rows,
        latents_b=columns,
        cosine=cosine,
        mean=float(cosine.mean()),
        median=float(np.median(cosine)),
        shared=float((cosine >= SHARED).mean()),
        mmcs_ab=float(_best(first, second).mean()),
        mmcs_ba=float(_best(second, first).mean()),
        chance=float(matched(*random)[2].mean()),
        seed=seed,
    )


def matched(a: Tensor, b: Tensor) -> tuple[NDArray, NDArray, NDArray]:
    """Rows of two sets of unit directions, one to one, so that the sum of cosines is largest.

    Returns
    -------
    tuple
            Rows of ``a``, rows of ``b``, and the cosines of the pairs: as many as the smaller has.

    Raises
    ------
    ShapeError
        The widths differ.
    """
    _same_width(a, b)
    cosines = (a @ b.T).numpy()
    rows, columns = linear_sum_assignment(cosines, maximize=True)
    return rows, columns, cosines[rows, columns]


def unit_directions(directions: Dictionary, which: str) -> tuple[Tensor, Tensor]:
    """The directions that are not 0, of length 1 in float64, and which rows they are [f].

    Raises
    ------
    ShapeError, DataError
        There is no matrix, something in it is not finite, or all of it is 0; ``which`` names it.
    """
    unit = _unit(directions, which)
    live = ~unit.isnan().any(1)
    if not live.any():
        raise DataError(f"all directions of {which} are 0.")
    return unit[live], live


def _unit(directions: Dictionary, which: str) -> Tensor:
    """Rows [f, d] of length 1 in float64 on the CPU; a row of zeros is nan."""
    raw: Any = directions._directions() if isinstance(directions, SAE) else directions
    x = torch.as_tensor(raw).detach().cpu().double()
    if x.ndim != 2 or not len(x):
        raise ShapeError(f"{which} must be directions [f, d]; got {list(x.shape)}.")
    if not x.isfinite().all():
        raise DataError(f"{which} holds nan or inf.")
    return x / x.norm(dim=1, keepdim=True)


def _same_width(a: Tensor, b: Tensor) -> None:
    if a.shape[1] != b.shape[1]:
        raise ShapeError(
            f"directions of {a.shape[1]} and {b.shape[1]} dimensions cannot be compared."
        )


def _no_zero(unit: Tensor, which: str) -> None:
    zero = unit.isnan().any(1)
    if zero.any():
        row = int(zero.nonzero()[0])
        raise DataError(f"row {row} of {which} is 0 and has no direction; leave it out.")


def _best(of: Tensor, among: Tensor, *, skip_self: bool = False) -> Tensor:
    """For each row of ``of`` the largest cosine among the rows of ``among`` that are directions."""
    real = ~among.isnan().any(1)
    size = max(1, BLOCK // len(among))
    best = torch.empty(len(of), dtype=torch.float64)
    for start in range(0, len(of), size):
        cosine = of[start : start + size] @ among.T
        cosine[:, ~real] = -torch.inf
        if skip_self:
            cosine.diagonal(start).fill_(-torch.inf)
        best[start : start + size] = cosine.amax(1)
    # A row of zeros is nan on one side, or has nothing to be compared with.
    return best.where(best.isfinite() & ~of.isnan().any(1), torch.nan)
