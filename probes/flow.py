"""MoHD-style flow: which hidden dimensions carry each token, and which of them stay from one
token to the next.

The measure is ours. The paper that names the effect (Mixture of Hidden-Dimensions, arXiv
2412.05644) does not say, in what could be read of it, which tensor it measures or by which rule.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from interp.errors import DataError, ParameterError, ShapeError
from interp.results import Result
from interp.runs import versions
from interp.store import ActivationStore, Matrix
from probes.criteria import Criterion

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Flow", "FlowCounter", "hidden_flow"]

RULES = {"topk": ("topk_ratio", 0.1), "mass": ("mass", 0.5), "rms": ("rel_eps", 1.0)}
"""Rule -> the criterion that it is, and its level where none is given."""
SHARED, SPECIALISED = 0.9, 0.1
"""Rates from which on a dimension counts as shared, and up to which as specialised; both ours."""
ROWS = 8192
"""Rows that are read at a time, in whole documents."""


@dataclass(frozen=True, kw_only=True)
class Flow(Result):
    """Which of d hidden dimensions are active, in h hook points, beside two controls.

    ``rotated`` has the same numbers after a random rotation of the space: what is left there does
    not depend on the basis and is an artefact of the rule. ``shuffled`` is the tokens of each
    document in random order: what is left there is no flow.

    Attributes
    ----------
    rule, level, norm : what "active" means (`hidden_flow`).
    hookpoints, tokens, pairs : names, tokens that count, and pairs of neighbours among them.
    zero_tokens : [h] tokens that are all zeros, which are left out.
    rates : [h, d] share of tokens in which each dimension is active.
    density : [h] mean of the rates. Under ``topk`` it is the level and says nothing.
    effective : [h] mean number of active dimensions a token.
    shared, specialised, never : [h] dimensions with a rate of at least ``tau_shared``, above 0 and
        at most ``tau_special``, and of 0.
    shared_mass : [h] mean share of a token's ``sum |x|`` in the shared dimensions; 0 for none.
    jaccard : [h] mean overlap of the active sets of neighbouring tokens, 0 to 1; nan where no
        token has a neighbour.
    jaccard_shuffled : [h] the same for tokens in random order within their documents.
    run_length : [h] mean number of tokens in a row in which a dimension stays active; nan where
        none is active.
    rotated : ``density``, ``effective``, ``shared``, ``specialised``, ``never``, ``jaccard``,
        ``jaccard_shuffled`` of the rotated rows, [h] each, and ``rates`` [h, d].
    overlap : [h, h] overlap of the sets of shared dimensions; nan where both are empty, and where
        widths differ.
    per_dim_rms : whether each dimension was divided by its root mean square first.
    dropped : positions dropped at the start of each document.
    tau_shared, tau_special : the two rates.
    seed : of the rotation and of the order.
    """

    kind: ClassVar[str] = "hidden_flow"

    rule: str
    level: float
    norm: str | None
    hookpoints: tuple[str, ...]
    tokens: tuple[int, ...]
    pairs: tuple[int, ...]
    zero_tokens: tuple[int, ...]
    rates: tuple[NDArray, ...]
    density: NDArray
    effective: NDArray
    shared: NDArray
    specialised: NDArray
    never: NDArray
    shared_mass: NDArray
    jaccard: NDArray
    jaccard_shuffled: NDArray
    run_length: NDArray
    rotated: dict[str, Any]
    overlap: NDArray
    per_dim_rms: bool
    dropped: int
    tau_shared: float
    tau_special: float
    seed: int
    label: str = field(default="MoHD-style")

    def to_frame(self) -> "pd.DataFrame":
        """One row a hook point."""
        import pandas as pd

        names = ("tokens", "density", "effective", "shared", "specialised", "never", "shared_mass",
                 "jaccard", "jaccard_shuffled", "run_length")  # fmt: skip
        turned = ("density", "shared", "specialised", "never", "jaccard")
        return pd.DataFrame(
            {
                "hookpoint": self.hookpoints,
                **{name: getattr(self, name) for name in names},
                **{f"rotated_{name}": self.rotated[name] for name in turned},
            }
        )

    def metrics(self) -> dict[str, Any]:
        """Numbers and names for ``metrics.json``; without the single dimensions' rates."""
        names = ("label", "n", "rule", "level", "norm", "hookpoints", "tokens", "pairs",
                 "zero_tokens", "density", "effective", "shared", "specialised", "never",
                 "shared_mass", "jaccard", "jaccard_shuffled", "run_length", "overlap",
                 "per_dim_rms", "dropped", "tau_shared", "tau_special", "seed",
                 "reasons")  # fmt: skip
        turned = {k: v for k, v in self.rotated.items() if k != "rates"}
        return {**{name: getattr(self, name) for name in names}, "rotated": turned}


class FlowCounter:
    """Sums over documents of one hook point; two counters merge into one.

    Parameters
    ----------
    d : dimensions.
    criterion : what "active" means.
    """

    def __init__(self, d: int, criterion: Criterion) -> None:
        self.d, self.criterion = d, criterion
        self.active = torch.zeros(d, dtype=torch.int64)
        self.starts = torch.zeros(d, dtype=torch.int64)
        self.mass = torch.zeros(d, dtype=torch.float64)
        self.tokens = self.zeros = self.pairs = 0
        self.overlap = self.overlap_shuffled = 0.0

    def update(
        self, x: Tensor, documents: Tensor, generator: torch.Generator | None = None
    ) -> "FlowCounter":
        """Take in whole documents: rows [n, d] in order, and the document [n] of each.

        Raises
        ------
        DataError
            A row holds NaN or infinity.
        """
        x = x.double()
        if not bool(torch.isfinite(x).all()):
            row = int((~torch.isfinite(x)).any(1).nonzero()[0])
            raise DataError(f"row {row} of a batch holds NaN or infinity; look at that token.")
        full = (x != 0).any(1)
        self.zeros += int((~full).sum())
        x, documents = x[full], documents[full]
        if not len(x):
            return self
        a = self.criterion.active(x)
        self.tokens += len(a)
        self.active += a.sum(0)
        size = x.abs()
        self.mass += (size / size.sum(1, keepdim=True)).sum(0)
        same = documents[1:] == documents[:-1]
        before = torch.zeros_like(a)
        before[1:][same] = a[:-1][same]
        self.starts += (a & ~before).sum(0)
        self.pairs += int(same.sum())
        self.overlap += float(_jaccard(a[1:][same], a[:-1][same]))
        order = _shuffled_within(documents, generator)
        b = a[order]
        self.overlap_shuffled += float(_jaccard(b[1:][same], b[:-1][same]))
        return self

    def merge(self, other: "FlowCounter") -> "FlowCounter":
        """Take in another counter's sums.

        Raises
        ------
        ShapeError
            The widths differ.
        ParameterError
            The rules differ.
        """
        if other.d != self.d:
            raise ShapeError(f"counters of {self.d} and {other.d} dimensions do not merge.")
        if other.criterion != self.criterion:
            raise ParameterError(
                f"counters of {self.criterion} and {other.criterion} do not merge."
            )
        for name in ("active", "starts", "mass", "tokens", "zeros", "pairs", "overlap",
                     "overlap_shuffled"):  # fmt: skip
            setattr(self, name, getattr(self, name) + getattr(other, name))
        return self

    def result(self, tau_shared: float = SHARED, tau_special: float = SPECIALISED) -> dict:
        """The numbers of `Flow` for this hook point.

        Raises
        ------
        DataError
            No token was counted.
        """
        if not self.tokens:
            raise DataError("no token with a value other than 0 was seen, so there is no flow.")
        rates = self.active.numpy() / self.tokens
        shared, starts = rates >= tau_shared, int(self.starts.sum())
        return {
            "tokens": self.tokens,
            "pairs": self.pairs,
            "zero_tokens": self.zeros,
            "rates": rates,
            "density": float(self.active.sum()) / (self.tokens * self.d),
            "effective": float(self.active.sum()) / self.tokens,
            "shared": int(shared.sum()),
            "specialised": int(((rates > 0) & (rates <= tau_special)).sum()),
            "never": int((rates == 0).sum()),
            "shared_mass": float(self.mass.numpy()[shared].sum()) / self.tokens,
            "jaccard": self.overlap / self.pairs if self.pairs else float("nan"),
            "jaccard_shuffled": self.overlap_shuffled / self.pairs if self.pairs else float("nan"),
            "run_length": int(self.active.sum()) / starts if starts else float("nan"),
        }


def hidden_flow(
    source: ActivationStore | Mapping[str, Any] | Any,
    rule: str = "topk",
    *,
    level: float | None = None,
    norm: str | None = None,
    documents: Sequence[int] | NDArray | Tensor | None = None,
    drop_first: int = 0,
    per_dim_rms: bool = False,
    tau_shared: float = SHARED,
    tau_special: float = SPECIALISED,
    seed: int = 0,
    name: str | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Flow:
    """Which hidden dimensions carry each token, which carry all, and which stay along the text.

    Parameters
    ----------
    source : a store captured with ``pool="all"``, such as of ``resid_post.*``; one of its
        matrices or an array [n, d], the tokens in order; or a mapping of names to those.
    rule : a dimension of a token is active where ``|x|`` is among the ``level * d`` largest
        (``"topk"``, 0.1), in the smallest set that holds ``level`` of the sum (``"mass"``, 0.5;
        of squares with ``norm="l2"``), or above ``level`` times the token's root mean square
        (``"rms"``, 1).
    documents : [n] the document of each row, whose rows lie together; neighbours are within a
        document. A store knows it; an array without it is one document.
    drop_first : positions to leave out at the start of each document: 1 for a token that begins
        every text, whose activations are of another size.
    per_dim_rms : divide each dimension by its root mean square over all tokens first, in a pass of
        its own: a few massive dimensions are otherwise active everywhere.
    tau_shared, tau_special : rates that make a dimension shared or specialised.
    seed : of the rotation and of the shuffled order.
    name : of the result; the data's name otherwise.
    progress : called with (hook points done, of how many, what).

    Returns
    -------
    Flow
        Range: rates and overlaps are 0 to 1, counts 0 to d. Under ``topk`` two random sets overlap
        by about ``level / (2 - level)``.
        Degenerate: a single token has no neighbour, and overlaps are nan, with the reason; tokens
        of zeros are left out and counted.

    Raises
    ------
    DataError
        There are no tokens, or one holds NaN or infinity.
    ShapeError
        The rows are no matrix of floats, or ``documents`` does not fit them.
    ParameterError
        The rule, its level or a rate is outside what it allows.

    Notes
    -----
    Source: ours, after the observation of Mixture of Hidden-Dimensions, arXiv 2412.05644
    (abstract). Differs: its own measurement is not known.
    """
    if rule not in RULES:
        raise ParameterError(f"rule must be one of {', '.join(RULES)}; got {rule!r}.")
    if not 0 <= tau_special < tau_shared <= 1:
        raise ParameterError("0 <= tau_special < tau_shared <= 1 must hold.")
    if drop_first < 0:
        raise ParameterError(f"drop_first must be at least 0; got {drop_first}.")
    kind, default = RULES[rule]
    norm = "rms" if rule == "rms" else norm
    criterion = Criterion(kind, default if level is None else level, norm)
    found, turned = [], []
    matrices = _matrices(source, documents)
    for i, (hookpoint, rows, where) in enumerate(matrices):
        if progress is not None:
            progress(i, len(matrices), hookpoint)
        one, other = _count(rows, where, criterion, drop_first, per_dim_rms, seed, hookpoint)
        found.append(one.result(tau_shared, tau_special))
        turned.append(other.result(tau_shared, tau_special))
    names = tuple(h for h, *_ in matrices)
    about = source.manifest if isinstance(source, ActivationStore) else {}
    columns = {k: [f[k] for f in found] for k in found[0]}
    fields: dict[str, Any] = {
        k: tuple(v) if k in TUPLES else np.array(v) for k, v in columns.items()
    }
    return Flow(
        name=name or (about.get("data") or {}).get("name") or "activations",
        n=max(columns["tokens"]),
        provenance={
            **{k: about[k] for k in ("model", "data", "pool") if about.get(k) is not None},
            "seed": seed,
            "versions": versions(),
        },
        reasons={
            f"jaccard.{h}": "no token has a neighbour in its document"
            for h, f in zip(names, found, strict=True)
            if not f["pairs"]
        },
        rule=rule,
        level=float(criterion.level or 0),
        norm=criterion.norm,
        hookpoints=names,
        **fields,
        rotated={
            **{k: np.array([t[k] for t in turned]) for k in TURNED},
            "rates": tuple(t["rates"] for t in turned),
        },
        overlap=_overlaps([f["rates"] >= tau_shared for f in found]),
        per_dim_rms=per_dim_rms,
        dropped=drop_first,
        tau_shared=tau_shared,
        tau_special=tau_special,
        seed=seed,
    )


TUPLES = ("tokens", "pairs", "zero_tokens", "rates")
TURNED = ("density", "effective", "shared", "specialised", "never", "jaccard", "jaccard_shuffled")


def rotation(d: int, seed: int) -> Tensor:
    """A random orthogonal matrix [d, d] in float64, uniform over all of them."""
    generator = torch.Generator().manual_seed(seed)
    q, r = torch.linalg.qr(torch.randn(d, d, dtype=torch.float64, generator=generator))
    return q * r.diagonal().sign()


def _count(
    rows: Any,
    documents: Tensor,
    criterion: Criterion,
    drop_first: int,
    per_dim_rms: bool,
    seed: int,
    hookpoint: str,
) -> tuple[FlowCounter, FlowCounter]:
    """The sums of a hook point as it is, and rotated."""
    keep = _positions(documents) >= drop_first
    d = rows.shape[1]
    scale = _per_dim(rows, documents, keep) if per_dim_rms else torch.ones(d, dtype=torch.float64)
    turn = rotation(d, seed)
    one, other = FlowCounter(d, criterion), FlowCounter(d, criterion)
    generator = torch.Generator().manual_seed(seed)
    for start, stop in _chunks(documents):
        x = rows[start:stop].double()[keep[start:stop]] / scale
        where = documents[start:stop][keep[start:stop]]
        try:
            one.update(x, where, generator)
        except DataError as error:
            raise DataError(
                f"{hookpoint} holds NaN or infinity in rows {start} to {stop - 1}; look there."
            ) from error
        other.update(x @ turn, where, generator)
    return one, other


def _per_dim(rows: Any, documents: Tensor, keep: Tensor) -> Tensor:
    """Root mean square of each dimension over the tokens that count; 1 where it is 0."""
    total = torch.zeros(rows.shape[1], dtype=torch.float64)
    for start, stop in _chunks(documents):
        total += rows[start:stop].double()[keep[start:stop]].square().sum(0)
    size = (total / max(int(keep.sum()), 1)).sqrt()
    return torch.where(size > 0, size, 1.0)


def _chunks(documents: Tensor) -> Iterator[tuple[int, int]]:
    """Row ranges of whole documents, about `ROWS` rows each."""
    n = len(documents)
    ends = [*((documents[1:] != documents[:-1]).nonzero().flatten() + 1).tolist(), n]
    start = last = 0
    for end in ends:
        if end - start > ROWS and last > start:
            yield start, last
            start = last
        last = end
    if n:
        yield start, n


def _positions(documents: Tensor) -> Tensor:
    """Position of each row in its run of equal documents."""
    index = torch.arange(len(documents))
    begins = torch.ones(len(documents), dtype=torch.bool)
    begins[1:] = documents[1:] != documents[:-1]
    return index - torch.where(begins, index, 0).cummax(0).values


def _shuffled_within(documents: Tensor, generator: torch.Generator | None) -> Tensor:
    """A random order of the rows in which documents stay where they are."""
    order = torch.randperm(len(documents), generator=generator)
    run = (documents[1:] != documents[:-1]).cumsum(0)
    run = torch.cat([torch.zeros(1, dtype=run.dtype), run])
    return order[run[order].argsort(stable=True)]


def _jaccard(a: Tensor, b: Tensor) -> Tensor:
    """Sum over rows of the overlap of two sets; two empty ones overlap wholly."""
    union = (a | b).sum(1).double()
    return torch.where(union > 0, (a & b).sum(1) / union, 1.0).sum()


def _matrices(source: Any, documents: Any) -> list[tuple[str, Any, Tensor]]:
    """(name, matrix, document of each row) of whatever holds activations."""
    if isinstance(source, ActivationStore):
        if source.manifest.get("pool") not in ("all", None):
            raise DataError(
                "hidden_flow follows tokens, and this store has a row a text; capture it with "
                "pool='all'."
            )
        found = []
        for h in source.hookpoints:
            rows = source.rows_of(h)
            where = documents if documents is not None else rows.get("document")
            found.append((h, source[h], where))
    elif isinstance(source, Mapping):
        found = [(h, x, documents) for h, x in source.items()]
    else:
        found = [("activations", source, documents)]
    out = []
    for h, x, where in found:
        rows = x if isinstance(x, Matrix) else torch.as_tensor(x)
        if rows.ndim != 2 or 0 in rows.shape[1:] or not rows.dtype.is_floating_point:
            raise ShapeError(f"{h} must be floats [n, d], a row a token; got {list(rows.shape)}.")
        if not len(rows):
            raise DataError(f"{h} has no rows.")
        ids = torch.zeros(len(rows), dtype=torch.int64)
        if where is not None:
            ids = torch.from_numpy(np.array(where, dtype=np.int64))
        if ids.shape != (len(rows),):
            raise ShapeError(f"documents must be [{len(rows)}] for {h}; got {list(ids.shape)}.")
        out.append((h, rows, ids))
    return out


def _overlaps(sets: list[NDArray]) -> NDArray:
    """Jaccard overlap of the shared sets of all pairs of hook points."""
    table = np.full((len(sets), len(sets)), np.nan)
    for i, a in enumerate(sets):
        for j, b in enumerate(sets):
            if len(a) == len(b) and (a | b).any():
                table[i, j] = (a & b).sum() / (a | b).sum()
    return table
