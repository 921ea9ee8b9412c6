"""InfoMEC: does a latent stand for one factor, a factor for one latent, and can it be read off?

Notation: z [n, n_z] latents, s [n, n_s] factors that are known and take few values; NMI_ij is
I(s_i; z_j) / H(s_i).
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from interp.errors import DataError, ParameterError, ShapeError
from interp.results import Result
from probes.clusters import codes
from probes.information import entropy
from probes.layers import origin

__all__ = ["InfoMEC", "compactness", "infomec", "modularity", "mutual_information"]

Mode = Literal["recommended", "released_code"]
FEW = 64
"""Distinct values up to which a latent counts as discrete, unless it is said."""
NEIGHBOURS = 10


@dataclass(frozen=True, kw_only=True)
class InfoMEC(Result):
    """Modularity, explicitness and compactness of latents against known factors.

    Attributes
    ----------
    modularity : does an active latent tell of one factor only; 0 to 1, higher is better.
    compactness : is a factor told by one latent only; 0 to 1, higher is better.
    explicitness : can a linear reader predict the factors: the mean of ``explicitness_by_factor``;
        1 is without error, 0 as the class shares alone, below 0 worse than those (held out).
    explicitness_by_factor : [n_s].
    nmi : [n_s, n_z], 0 to 1; nan of latents that are not active.
    factors : names.
    active : [n_z] whether a latent varies.
    discrete : whether the latents were taken as discrete.
    folds : of the held-out reader; 1 where it is scored on its own rows.
    notes : what was done, in sentences.
    """

    kind: ClassVar[str] = "infomec"

    modularity: float
    compactness: float
    explicitness: float
    explicitness_by_factor: NDArray
    nmi: NDArray
    factors: tuple[str, ...]
    active: NDArray
    discrete: bool
    folds: int
    notes: tuple[str, ...] = ()

    def to_frame(self) -> pd.DataFrame:
        """A row a factor: its explicitness, the latent that tells most of it, and the next one."""
        best = np.argsort(-np.nan_to_num(self.nmi, nan=-1), axis=1)
        at = np.arange(len(self.factors))
        two = best[:, min(1, best.shape[1] - 1)]
        return pd.DataFrame(
            {
                "factor": self.factors,
                "explicitness": self.explicitness_by_factor,
                "latent": best[:, 0],
                "nmi": self.nmi[at, best[:, 0]],
                "next_latent": two,
                "next_nmi": self.nmi[at, two],
            }
        )

    def metrics(self) -> dict[str, Any]:
        """Numbers and names for ``metrics.json``."""
        names = ("n", "mode", "modularity", "explicitness", "compactness", "factors",
                 "explicitness_by_factor", "discrete", "folds", "notes", "reasons")  # fmt: skip
        found = {name: getattr(self, name) for name in names}
        return found | {"latents": len(self.active), "active": int(self.active.sum())}


def modularity(nmi: NDArray) -> float:
    """``(mean_j max_i NMI_ij / sum_i NMI_ij - 1 / n_s) / (1 - 1 / n_s)`` over latents j.

    Range: 0 (each latent tells of all factors alike) to 1 (of one). Degenerate: nan for one factor
    and where no latent tells anything; a latent that tells nothing is left out.
    Source: Hsu et al., arXiv 2305.18378, InfoM. Differs: theirs is nan where one latent has 0.
    """
    return _peaked(np.asarray(nmi, dtype=np.float64).T)


def compactness(nmi: NDArray) -> float:
    """``(mean_i max_j NMI_ij / sum_j NMI_ij - 1 / n_z) / (1 - 1 / n_z)`` over factors i.

    Range: 0 to 1, as `modularity`, with latents for factors. Give the active latents alone.
    Source: Hsu et al., arXiv 2305.18378, InfoC.
    """
    return _peaked(np.asarray(nmi, dtype=np.float64))


def _peaked(rows: NDArray) -> float:
    sums, width = rows.sum(1), rows.shape[1]
    if width < 2 or not (sums > 0).any():
        return float("nan")
    share = (rows.max(1)[sums > 0] / sums[sums > 0]).mean()
    return float((share - 1 / width) / (1 - 1 / width))


def mutual_information(z: NDArray, s: NDArray, *, discrete: bool, seed: int = 0) -> NDArray:
    """Bits [n_z] that each latent tells of one factor s [n].

    Discrete latents: from the counts. Continuous ones: from 10 nearest neighbours, after scaling
    (Ross 2014, as scikit-learn has it, whose tiny noise against ties takes ``seed``).

    Range: 0 to H(s). From counts it is too high by about (values - 1)(factors - 1) / (2 n ln 2).
    Cost: counts n log n a latent; neighbours about a hundred times as much.
    """
    if not discrete:
        from sklearn.feature_selection import mutual_info_classif
        from sklearn.preprocessing import StandardScaler

        found = mutual_info_classif(
            StandardScaler().fit_transform(z), s, n_neighbors=NEIGHBOURS, random_state=seed
        )
        return found / np.log(2)
    values = int(s.max()) + 1
    h_s, out = entropy(np.bincount(s)), np.empty(z.shape[1])
    for j in range(z.shape[1]):
        place = np.unique(z[:, j], return_inverse=True)[1]
        joint = np.bincount(place * values + s, minlength=(int(place.max()) + 1) * values)
        held = joint.reshape(-1, values)
        out[j] = max(0.0, entropy(held.sum(1)) + h_s - entropy(joint))
    return out


def infomec(
    latents: Any,
    factors: Mapping[str, Any] | pd.DataFrame,
    *,
    discrete: bool | None = None,
    mode: Mode = "recommended",
    folds: int = 5,
    penalty: float = 1.0,
    seed: int = 0,
    name: str = "InfoMEC",
) -> InfoMEC:
    """Modularity, explicitness and compactness of latents against known factors.

    Explicitness is ``mean_i 1 - H_V(s_i | z) / H_V(s_i | const)`` with V the linear readers: the
    log loss of a multinomial logistic regression over that of the class shares.

    Parameters
    ----------
    latents : [n, n_z], such as an autoencoder's codes.
    factors : name -> [n] values of a known factor, few of them.
    discrete : whether latents take few values (then counted, and read one-hot) or not (then by
        neighbours, and read standardised); by default discrete where none has more than 64 values.
    mode : ``"recommended"``: the reader is scored on rows that it did not see, with a penalty.
        ``"released_code"``: on the rows that it was fitted on, without a penalty, classes weighted
        alike, 100 iterations; too high where a latent has many values beside n.
    folds, penalty, seed : of the held-out reader: stratified folds, its inverse strength C, and
        their shuffle; the seed is that of the neighbours' noise too.

    Range: modularity and compactness 0 to 1, explicitness up to 1; higher is better in all three.
    Invariance: to the order of latents, and to relabelling of discrete ones; scale and shift of
    continuous ones. Not to rotation, which is the point.
    Degenerate: nan with the reason for one factor (modularity), one active latent (compactness), a
    factor of one value, values that are not finite. Factors that depend on each other lower
    modularity whatever the latents do; the notes say how much they share.
    Cost: at n = 10,000 and 2,048 latents of two values a minute of processor and 1.4 GB for one
    factor of ten values in two folds; more values and folds take more of both. By neighbours
    minutes a factor (`mutual_information`), so take few latents there.
    Source: Hsu et al., arXiv 2305.18378, equations of InfoM, InfoE, InfoC. Differs: held out;
    latents that tell nothing are left out of modularity.

    Raises
    ------
    ParameterError, ShapeError, DataError
        The mode or folds, the shapes, or there is no factor.
    """
    if mode not in get_args(Mode) or folds < 2 or not penalty > 0:
        raise ParameterError(
            "infomec takes mode recommended or released_code, 2 folds or more and a penalty above "
            f"0; got {mode!r}, {folds}, {penalty}."
        )
    z = np.asarray(latents.cpu() if isinstance(latents, Tensor) else latents[:], dtype=np.float64)
    if z.ndim != 2:
        raise ShapeError(f"latents are a matrix [n, n_z]; got {list(z.shape)}.")
    read = {str(k): codes(v, len(z))[1] for k, v in dict(factors).items()}
    if not read:
        raise DataError("infomec needs at least one factor; give {name: values}.")
    finite = bool(np.isfinite(z).all())
    if discrete is None:
        discrete = all(len(np.unique(c)) <= FEW for c in z.T)
    spread = np.ptp(z, 0) if finite else np.zeros(z.shape[1])
    active = spread > (0 if discrete else spread.max(initial=0) / 20)
    reasons = _why_not(z, read, active, finite)
    reader = _Reader(mode == "released_code", not discrete, folds, penalty, seed)
    nmi = np.full((len(read), z.shape[1]), np.nan)
    explicit = np.full(len(read), np.nan)
    for i, (factor, s) in enumerate(read.items()):
        if factor in reasons or not active.any():
            continue
        told = mutual_information(z[:, active], s, discrete=discrete, seed=seed)
        nmi[i, active] = told / entropy(np.bincount(s))
        seen = _one_hot(z[:, active]) if discrete else z[:, active]
        if mode == "recommended" and np.bincount(s).min() < folds:
            reasons[factor] = f"a value has fewer than {folds} rows, one a fold."
            continue
        explicit[i] = _explicitness(seen, s, reader)
    known = nmi[~np.isnan(nmi).all(1)][:, active]
    return InfoMEC(
        name=name,
        n=len(z),
        mode=mode,
        provenance=origin(latents, seed=seed, penalty=penalty),
        reasons=reasons,
        modularity=modularity(known) if known.size else float("nan"),
        compactness=compactness(known) if known.size else float("nan"),
        explicitness=float(explicit.mean()),
        explicitness_by_factor=explicit,
        nmi=nmi,
        factors=tuple(read),
        active=active,
        discrete=bool(discrete),
        folds=1 if mode == "released_code" else folds,
        notes=_notes(read, bool(discrete), mode, active),
    )


def _why_not(
    z: NDArray, read: Mapping[str, NDArray], active: NDArray, finite: bool
) -> dict[str, str]:
    reasons: dict[str, str] = {}
    if not finite:
        reasons["nmi"] = f"{int((~np.isfinite(z).all(1)).sum()):,} rows are not finite."
    elif not active.any():
        reasons["nmi"] = "no latent varies."
    for factor, s in read.items():
        if s.max() == 0:
            reasons[factor] = "the factor has one value only, so its entropy is 0."
    if len(read) - sum(f in reasons for f in read) < 2:
        reasons["modularity"] = "it compares factors, and there are not two that vary."
    if active.sum() < 2:
        reasons["compactness"] = "it compares latents, and there are not two that vary."
    return reasons


def _one_hot(z: NDArray) -> NDArray:
    """Each latent's values as columns of 0 and 1, side by side."""
    parts = []
    for column in z.T:
        values, place = np.unique(column, return_inverse=True)
        parts.append(np.eye(len(values), dtype=np.float32)[place])
    return np.concatenate(parts, axis=1)


class _Reader(NamedTuple):
    """How factors are read linearly; ``scaled`` puts latents to variance 1 first."""

    released: bool
    scaled: bool
    folds: int
    penalty: float
    seed: int

    def splits(self, s: NDArray) -> list[tuple[NDArray, NDArray]]:
        """Rows to fit on and rows to score."""
        at = np.arange(len(s))
        if self.released:
            return [(at, at)]
        from sklearn.model_selection import StratifiedKFold

        folds = StratifiedKFold(self.folds, shuffle=True, random_state=self.seed)
        return list(folds.split(at, s))

    def read(self, x: NDArray, s: NDArray, held: NDArray) -> NDArray:
        """Probabilities of each value in the held rows."""
        from sklearn.linear_model import LogisticRegression

        if self.scaled:
            deviation = x.std(0)
            deviation = np.where(deviation > 0, deviation, 1)
            x, held = (x - x.mean(0)) / deviation, (held - x.mean(0)) / deviation
        if self.released:
            model = LogisticRegression(C=np.inf, class_weight="balanced", max_iter=100)
        else:
            model = LogisticRegression(C=self.penalty, max_iter=1000)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its limit of iterations is part of the recipe
            return model.fit(x, s).predict_proba(held)


def _explicitness(z: NDArray, s: NDArray, reader: _Reader) -> float:
    """``1 - log loss of the reader / log loss of the class shares``."""
    loss, base, values = 0.0, 0.0, int(s.max()) + 1
    for train, test in reader.splits(s):
        told = reader.read(z[train], s[train], z[test])[np.arange(len(test)), s[test]]
        shares = np.bincount(s[train], minlength=values) / len(train)
        if reader.released:  # classes weighted alike: a constant reader says the same of each
            shares = np.full(values, 1 / values)
        loss -= float(np.log(np.maximum(told, np.finfo(np.float64).tiny)).sum())
        base -= float(np.log(shares[s[test]]).sum())
    return 1 - loss / base


def _notes(
    read: Mapping[str, NDArray], discrete: bool, mode: str, active: NDArray
) -> tuple[str, ...]:
    notes = [
        f"Latents are {'counted' if discrete else 'compared by 10 nearest neighbours'}; "
        f"{int(active.sum())} of {len(active)} vary.",
        "The linear reader is scored on rows that it did not see."
        if mode == "recommended"
        else "The linear reader is scored on the rows that it was fitted on.",
    ]
    names = list(read)
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            h = entropy(np.bincount(read[b]))
            if not h > 0 or not read[a].max():
                continue
            shared = mutual_information(read[a][:, None].astype(float), read[b], discrete=True)
            chance = read[a].max() * read[b].max() / (2 * len(read[a]) * np.log(2))
            if shared[0] > max(4 * chance, 0.01 * h):
                notes.append(
                    f"{a} tells {shared[0] / h:.0%} of {b}: factors that depend on each other "
                    "lower modularity whatever the latents do."
                )
    return tuple(notes)
