"""Latents of two dictionaries matched one to one: kept, changed, gone, new."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from interp.errors import ParameterError
from interp.results import Result
from interp.runs import versions
from saes.similarity import SHARED, Dictionary, matched, unit_directions

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["LatentMatch", "match_latents"]

STATES = ("kept", "changed", "gone", "new")


@dataclass(frozen=True, kw_only=True)
class LatentMatch(Result):
    """What became of each latent of one dictionary in another.

    Attributes
    ----------
    latent_a, latent_b : [m] a row a latent of either; -1 where it has no partner.
    cosine : [m] of the decoder directions of partners, -1 to 1; nan without a partner.
    state : [m] ``kept`` (cosine at least ``same``), ``changed`` (below that, and above
        ``chance``), ``gone`` (a latent of the first without a partner like it), ``new`` (one of
        the second).
    counts : how many latents have each state.
    same : cosine from which two latents count as the same.
    chance : the cosine that 95 % of the matched pairs of random dictionaries of these sizes stay
        below: less is no likeness.
    n_a, n_b : latents of each; dead ones, with a direction of 0, are in neither.
    mean : mean cosine of the matched pairs.
    models : what the two runs are called.
    """

    kind: ClassVar[str] = "latent_match"

    latent_a: NDArray
    latent_b: NDArray
    cosine: NDArray
    state: tuple[str, ...]
    counts: dict[str, int]
    same: float
    chance: float
    n_a: int
    n_b: int
    mean: float
    models: tuple[str, str]
    seed: int
    notes: tuple[str, ...] = ()

    def to_frame(self) -> "pd.DataFrame":
        """A row a latent or pair of latents; those least alike come first."""
        import pandas as pd

        frame = pd.DataFrame(
            {
                "state": self.state,
                "first": [None if i < 0 else int(i) for i in self.latent_a],
                "second": [None if i < 0 else int(i) for i in self.latent_b],
                "cosine": self.cosine,
            }
        )
        return frame.sort_values("cosine", kind="stable", na_position="first", ignore_index=True)

    def metrics(self) -> dict[str, Any]:
        """Numbers and names for ``metrics.json``."""
        names = ("n_a", "n_b", "mean", "same", "chance", "seed", "reasons")
        shares = {f"{s}_share": self.counts[s] / (self.n_b if s == "new" else self.n_a)
                  for s in STATES}  # fmt: skip
        return {**self.counts, **shares, **{name: getattr(self, name) for name in names}}


def match_latents(
    a: Dictionary,
    b: Dictionary,
    *,
    same: float = SHARED,
    seed: int = 0,
    models: tuple[str, str] = ("first", "second"),
    name: str = "latents",
) -> LatentMatch:
    """Match the latents of two dictionaries, and say which were kept, changed, lost or gained.

    Decoder directions are matched one to one so that the sum of their cosines is largest (the
    Hungarian method). A pair that is no more alike than matched random directions is no pair: its
    latents are ``gone`` and ``new``.

    Degenerate: rows of 0 are dead and left out; the notes say how many.

    Parameters
    ----------
    a, b : SAEs, whose decoder rows are taken, or [f, d] directions in the same space: of one model
        and hook point. Directions of two models have no common axes, whatever their widths.
    same : cosine from which two latents are the same, above 0 and at most 1.
    seed : of the random dictionaries that give ``chance``.

    Raises
    ------
    ShapeError
        The widths differ, or something is no matrix.
    DataError
        Something is not finite, or all of a dictionary's rows are 0.
    ParameterError
        ``same`` is outside its range.

    Notes
    -----
    Source: the matching and 0.7 of Paulo and Belrose 2025 (`seed_stability`); the four states and
    the floor of chance are ours.
    Cost: memory for f_a * f_b cosines, twice; time grows with the cube of f (seconds at 4,096).
    """
    if not 0 < same <= 1:
        raise ParameterError(f"same is a cosine above 0 and at most 1; got {same}.")
    (first, live_a), (second, live_b) = (unit_directions(x, w) for x, w in ((a, "a"), (b, "b")))
    rows, columns, cosine = matched(first, second)
    generator = torch.Generator().manual_seed(seed)
    noise = [
        torch.randn(u.shape, generator=generator, dtype=torch.float64) for u in (first, second)
    ]
    chance = float(np.quantile(matched(*(x / x.norm(dim=1, keepdim=True) for x in noise))[2], 0.95))
    alike = cosine > chance
    lost = np.setdiff1d(np.arange(len(first)), rows[alike])
    gained = np.setdiff1d(np.arange(len(second)), columns[alike])
    pairs = cosine[alike]
    state = (
        *("kept" if c >= same else "changed" for c in pairs),
        *("gone",) * len(lost),
        *("new",) * len(gained),
    )
    none = np.full(len(lost), -1), np.full(len(gained), -1)
    dead = [int(len(live) - live.sum()) for live in (live_a, live_b)]
    index_a, index_b = (np.flatnonzero(live.numpy()) for live in (live_a, live_b))
    return LatentMatch(
        name=name,
        n=len(state),
        provenance={"seed": seed, "versions": versions()},
        latent_a=np.concatenate([index_a[rows[alike]], index_a[lost], none[1]]),
        latent_b=np.concatenate([index_b[columns[alike]], none[0], index_b[gained]]),
        cosine=np.concatenate([pairs, np.full(len(lost) + len(gained), np.nan)]),
        state=state,
        counts={s: state.count(s) for s in STATES},
        same=same,
        chance=chance,
        n_a=len(first),
        n_b=len(second),
        mean=float(cosine.mean()),
        models=models,
        seed=seed,
        notes=(f"Left out as dead: {dead[0]} latents of the first and {dead[1]} of the second.",)
        if any(dead)
        else (),
    )
