"""What `probes.sparsity` finds: how dense each layer is, and how often each neuron of it fires."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from interp.errors import ParameterError, ShapeError
from interp.results import Result
from probes.criteria import Criterion

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Sparsity"]

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
RARE = 0.1
"""Rate below which a neuron counts as rare, as in the Lazy Neuron paper's figure 3."""


@dataclass(frozen=True, kw_only=True)
class Sparsity(Result):
    """How sparse activations are, by hook point (h of them) and by neuron.

    Attributes
    ----------
    criterion, level, norm, gated : what "active" means (`probes.criteria.Criterion`).
    hookpoints : names; of a gated MLP ``mlp_act`` is the product of both halves.
    sites : where each lies in the model, or an empty text where it is not known.
    dtypes : of the rows.
    tokens : rows that each hook point has: its own denominator.
    active : an array [d] a hook point: tokens in which each neuron is active.
    valid : the same: tokens in which its value is finite.
    density : [h] share of the finite values that are active, 0 to 1; nan for no rows.
    live_density : [h] the same over the neurons that were active at least once: what is left of
        the density once dead neurons cannot lower it. nan where none was.
    dead : neurons that are active in no token; it falls as tokens grow. Neurons without a finite
        value are not among them.
    always_on : neurons that are active in every token.
    not_finite : values that are NaN or infinite; they are in no other number.
    quantiles : [h, 5] of the number of active neurons in a token, at 0.05, 0.25, 0.5, 0.75, 0.95:
        the smallest number that at least so large a share of tokens stays within.
    initial_density : [h] density with random weights, or None.
    initial : provenance of the random weights' result, or None.
    """

    kind: ClassVar[str] = "sparsity"

    criterion: str
    level: float | None
    norm: str | None
    gated: bool
    hookpoints: tuple[str, ...]
    sites: tuple[str, ...]
    dtypes: tuple[str, ...]
    tokens: tuple[int, ...]
    active: tuple[NDArray, ...]
    valid: tuple[NDArray, ...]
    density: NDArray
    live_density: NDArray
    dead: tuple[int, ...]
    always_on: tuple[int, ...]
    not_finite: tuple[int, ...]
    quantiles: NDArray
    initial_density: NDArray | None = None
    initial: dict[str, Any] | None = field(default=None)

    @classmethod
    def of_counts(
        cls,
        name: str,
        criterion: Criterion,
        counts: Mapping[str, tuple[NDArray, NDArray, NDArray, str]],
        *,
        sites: Mapping[str, str] | None = None,
        provenance: dict[str, Any] | None = None,
    ) -> "Sparsity":
        """The result of (active [d], valid [d], per token [d + 1], dtype) of each hook point."""
        rows = [_Layer(*c) for c in counts.values()]
        reasons = {}
        for hookpoint, layer in zip(counts, rows, strict=True):
            if not layer.valid.sum():
                reasons[f"density.{hookpoint}"] = "no token, or no finite value, was seen there"
            elif not layer.active.any():
                reasons[f"live_density.{hookpoint}"] = "no neuron was active in any token"
        return cls(
            name=name,
            n=max(layer.tokens for layer in rows),
            provenance=provenance or {},
            reasons=reasons,
            criterion=criterion.kind,
            level=criterion.level,
            norm=criterion.norm,
            gated=criterion.gated,
            hookpoints=tuple(counts),
            sites=tuple((sites or {}).get(h, "") for h in counts),
            dtypes=tuple(layer.dtype for layer in rows),
            tokens=tuple(layer.tokens for layer in rows),
            active=tuple(layer.active for layer in rows),
            valid=tuple(layer.valid for layer in rows),
            density=np.array([layer.density() for layer in rows]),
            live_density=np.array([layer.density(layer.active > 0) for layer in rows]),
            dead=tuple(int(((r.active == 0) & (r.valid > 0)).sum()) for r in rows),
            always_on=tuple(int(((r.active == r.valid) & (r.valid > 0)).sum()) for r in rows),
            not_finite=tuple(r.tokens * len(r.valid) - int(r.valid.sum()) for r in rows),
            quantiles=np.array([layer.quantiles() for layer in rows]),
        )

    def beside(self, initial: "Sparsity") -> "Sparsity":
        """A copy with the densities of another result, that of random weights, beside its own.

        Raises
        ------
        ParameterError
            The criteria differ.
        ShapeError
            The hook points or their widths differ.
        """
        if initial.rule != self.rule:
            raise ParameterError(
                f"the initial result counts by {initial.rule}, and this one by {self.rule}."
            )
        same = initial.hookpoints == self.hookpoints and initial.widths == self.widths
        if not same:
            raise ShapeError("the initial result has other hook points or widths than this one.")
        return replace(
            self,
            initial_density=initial.density,
            initial={**initial.provenance, "tokens": list(initial.tokens)},
        )

    @property
    def rule(self) -> str:
        """The criterion with its level, in short."""
        return str(Criterion(self.criterion, self.level, self.norm, self.gated))

    @property
    def widths(self) -> tuple[int, ...]:
        """Neurons of each hook point."""
        return tuple(len(a) for a in self.active)

    @property
    def rates(self) -> tuple[NDArray, ...]:
        """Share of tokens in which each neuron is active, an array [d] a hook point; nan for none.

        Range: 0 to 1. Degenerate: nan for a neuron without a finite value.
        """
        return tuple(_share(a, v) for a, v in zip(self.active, self.valid, strict=True))

    def histogram(self, bins: int = 20) -> tuple[NDArray, NDArray]:
        """Neurons by firing rate: edges [bins + 1] from 0 to 1, and counts [h, bins].

        A rate on an edge is in the bin above it; the last bin holds 1 too. Dead neurons are in the
        first bin.
        """
        if bins < 1:
            raise ParameterError(f"a histogram has at least one bin; got {bins}.")
        counts = []
        for a, v in zip(self.active, self.valid, strict=True):
            known = v > 0  # whole numbers: a rate of 0.3 falls where it belongs
            place = np.minimum(a[known] * bins // v[known], bins - 1)
            counts.append(np.bincount(place, minlength=bins))
        return np.linspace(0, 1, bins + 1), np.stack(counts)

    def rare(self, below: float = RARE) -> NDArray:
        """[h] share of the neurons that fire in fewer than ``below`` of the tokens; nan for none.

        Range: 0 to 1.
        """
        known = [r[np.isfinite(r)] for r in self.rates]
        return np.array([float((r < below).mean()) if len(r) else np.nan for r in known])

    def saved(self) -> NDArray:
        """[h] share of the second product's FLOPs that inactive neurons would save: 1 - density.

        The first product is not saved: it is what tells which neurons are active.
        Range: 0 to 1, higher saves more. Source: arXiv 2210.06313, section 2.
        """
        return 1 - self.density

    def to_frame(self) -> "pd.DataFrame":
        """One row a hook point."""
        import pandas as pd

        initial = self.initial_density
        return pd.DataFrame(
            {
                "hookpoint": self.hookpoints,
                "neurons": self.widths,
                "tokens": self.tokens,
                "density": self.density,
                **({} if initial is None else {"initial_density": initial}),
                "live_density": self.live_density,
                "rare": self.rare(),
                "dead": self.dead,
                "always_on": self.always_on,
                "active_median": self.quantiles[:, 2],
                "active_q95": self.quantiles[:, 4],
                "not_finite": self.not_finite,
                "dtype": self.dtypes,
            }
        )

    def metrics(self) -> dict[str, Any]:
        """Numbers and names for ``metrics.json``; the rates as their histogram."""
        edges, counts = self.histogram()
        initial = self.initial_density
        return {
            "n": self.n,
            "criterion": self.criterion,
            "level": self.level,
            "norm": self.norm,
            "gated": self.gated,
            "hookpoints": list(self.hookpoints),
            "sites": list(self.sites),
            "dtypes": list(self.dtypes),
            "tokens": list(self.tokens),
            "neurons": list(self.widths),
            "density": self.density.tolist(),
            "live_density": self.live_density.tolist(),
            "initial_density": None if initial is None else initial.tolist(),
            "rare": self.rare().tolist(),
            "dead": list(self.dead),
            "always_on": list(self.always_on),
            "not_finite": list(self.not_finite),
            "active_quantiles": self.quantiles.tolist(),
            "rate_edges": edges.tolist(),
            "rate_counts": counts.tolist(),
            "reasons": self.reasons,
        }


@dataclass(frozen=True)
class _Layer:
    active: NDArray
    valid: NDArray
    per_token: NDArray
    dtype: str

    @property
    def tokens(self) -> int:
        return int(self.per_token.sum())

    def density(self, of: NDArray | slice = slice(None)) -> float:
        """One ratio of two whole numbers."""
        values = int(self.valid[of].sum())
        return int(self.active[of].sum()) / values if values else float("nan")

    def quantiles(self) -> list[float]:
        if not self.tokens:
            return [float("nan")] * len(QUANTILES)
        below = self.per_token.cumsum()
        return [float((below < q * self.tokens).sum()) for q in QUANTILES]


def _share(active: NDArray, valid: NDArray) -> NDArray:
    out = np.full(len(active), np.nan)
    return np.divide(active, valid, out=out, where=valid > 0)
