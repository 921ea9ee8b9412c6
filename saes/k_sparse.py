"""k-sparse probing: what a probe of k latents reads, beside one of k raw dimensions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from interp.errors import ParameterError, ShapeError
from interp.results import Result
from probes.concepts import Concept, read_concept
from probes.controls import majority, shuffled_labels
from probes.linear import LinearProbe
from probes.scores import area_under_curve, bootstrap_weights, weighted_interval
from probes.splits import grouped_folds
from saes.base import SAE
from saes.evaluation import describe, sae_name
from saes.reading import Acts, Reader, batch_rows, latents_of

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["SparseProbing", "associations", "labelled", "sparse_probing"]

DRAWS = 1000
TOL = 1e-6
"""Of the probes' coefficients: far below what moves an answer."""


@dataclass(frozen=True, kw_only=True)
class SparseProbing(Result):
    """How well k latents tell the classes of labelled rows apart, beside k raw dimensions.

    Arrays have one entry a k, in the order of ``ks``. Every row is answered by a probe that was
    neither trained on its fold nor had its features chosen there.

    Attributes
    ----------
    classes, class_counts : names of the classes, and rows of each.
    ks : how many features a probe has.
    accuracy, accuracy_low, accuracy_high : share of rows that a probe of k latents answers
        rightly, and its 95 % bootstrap interval over groups (rows where there are none).
    raw_accuracy, raw_low, raw_high : the same for k dimensions of the activations.
    auc, raw_auc : area under the ROC curve (`probes.scores.area_under_curve`).
    shuffled, raw_shuffled : mean accuracy of the same procedure on shuffled labels, the choice of
        features included.
    full_accuracy : of a probe of all raw dimensions.
    majority : of the commonest class of the training rows.
    chosen : [folds, max(ks)] the latents chosen in each fold, the best first.
    folds, permutations, seed, C : settings.
    notes : what was left out, in sentences.
    """

    kind: ClassVar[str] = "sparse_probing"

    classes: tuple[str, ...]
    class_counts: dict[str, int]
    ks: tuple[int, ...]
    accuracy: NDArray
    accuracy_low: NDArray
    accuracy_high: NDArray
    raw_accuracy: NDArray
    raw_low: NDArray
    raw_high: NDArray
    auc: NDArray
    raw_auc: NDArray
    shuffled: NDArray
    raw_shuffled: NDArray
    full_accuracy: float
    majority: float
    chosen: NDArray
    folds: int
    permutations: int
    seed: int
    C: float
    notes: tuple[str, ...] = ()

    def to_frame(self) -> "pd.DataFrame":
        """One row a k."""
        import pandas as pd

        return pd.DataFrame({"k": self.ks, **{name: getattr(self, name) for name in _CURVES}})

    def metrics(self) -> dict[str, Any]:
        """Numbers and names for ``metrics.json``."""
        names = ("n", "class_counts", "full_accuracy", "majority", "folds", "permutations", "seed",
                 "C", "reasons")  # fmt: skip
        table: dict[str, Any] = {name: getattr(self, name) for name in names}
        table |= {name: [round(float(v), 6) for v in getattr(self, name)] for name in _CURVES}
        return {**table, "ks": list(self.ks), "chosen": self.chosen.tolist()}


_CURVES = ("accuracy", "accuracy_low", "accuracy_high", "raw_accuracy", "raw_low", "raw_high",
           "auc", "raw_auc", "shuffled", "raw_shuffled")  # fmt: skip


def sparse_probing(
    sae: SAE,
    acts: Acts,
    labels: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    ks: Sequence[int] = (1, 2, 5, 10),
    folds: int = 5,
    permutations: int = 3,
    C: float = 1.0,
    seed: int = 0,
    batch_size: int | None = None,
    name: str | None = None,
) -> SparseProbing:
    """How well k latents tell classes apart, beside k raw dimensions.

    In each fold the k features with the largest share of variance between the classes (of two
    classes, the largest squared correlation with the label) are chosen on the other folds' rows,
    and a logistic probe (`probes.LinearProbe`, standardised) is fitted on those rows. Latents and
    raw dimensions are treated alike.

    Parameters
    ----------
    acts : [n, d_in] rows. Acts pooled over a text are encoded as they are.
    labels : [n] classes; a missing value leaves its row out.
    groups : [n] group of each row, never split between training and test rows; or None.
    ks : how many features, each at most n_latents and d_in.
    folds : of the cross-validation.
    permutations : shuffles of the labels.
    C : inverse strength of the penalty.
    seed : of the folds, shuffles and intervals.
    batch_size : rows encoded at a time.
    name : of the result.

    Raises
    ------
    DataError
        There is one class only, too few rows or groups, or a row holds nan.
    ShapeError
        Labels, groups and rows do not fit each other, or the width is not the SAE's.
    ParameterError
        A setting is outside what it allows.

    Notes
    -----
    Source: Gurnee et al. 2023, "Finding neurons in a haystack"; Karvonen et al. 2025, "SAEBench".
    Differs: features are ranked by explained variance instead of the difference of means, so that
    a dimension's scale does not matter; folds are grouped; raw dimensions are at equal k.
    """
    ks = tuple(sorted(set(ks)))
    width = min(sae.n_latents, sae.d_in)
    if not ks or ks[0] < 1 or ks[-1] > width:
        raise ParameterError(f"ks must be from 1 to {width}, the features there are; got {ks}.")
    if permutations < 1:
        raise ParameterError(f"permutations must be at least 1; got {permutations}.")
    concept, X, Z = labelled(sae, acts, labels, groups, batch_size)
    y = concept.y
    fold = grouped_folds(y, concept.groups, folds=folds, seed=seed)
    shuffles = shuffled_labels(y, fold, concept.groups, permutations=permutations, seed=seed)
    weights = bootstrap_weights(concept.units, draws=DRAWS, seed=seed)
    found: dict[str, Any] = {}
    for prefix, features in (("", Z), ("raw_", X)):
        right, auc, chosen = _cross_validated(features, y, fold, ks, C)
        bounds = [weighted_interval(r, concept.units, weights) for r in right]
        chance = [_cross_validated(features, s, fold, ks, C)[0].mean(1) for s in shuffles]
        low, high = (f"{prefix or 'accuracy_'}{end}" for end in ("low", "high"))
        found |= {
            f"{prefix}accuracy": right.mean(1),
            low: np.array([b[0] for b in bounds]),
            high: np.array([b[1] for b in bounds]),
            f"{prefix}auc": auc,
            f"{prefix}shuffled": np.mean(chance, axis=0),
        }
        if not prefix:
            found["chosen"] = chosen
    full = np.zeros(len(y), dtype=bool)
    for k in range(folds):
        probe = LinearProbe(C, standardize=True, tol=TOL).fit(X[fold != k], y[fold != k])
        full[fold == k] = probe.predict(X[fold == k]) == y[fold == k]
    counts = np.bincount(y).tolist()
    return SparseProbing(
        name=name or sae_name(sae),
        n=len(y),
        provenance={**describe(sae), "seed": seed},
        classes=concept.classes,
        class_counts=dict(zip(concept.classes, counts, strict=True)),
        ks=ks,
        **found,
        full_accuracy=float(full.mean()),
        majority=majority(y, fold),
        folds=folds,
        permutations=permutations,
        seed=seed,
        C=C,
        notes=concept.notes,
    )


def labelled(
    sae: SAE,
    acts: Acts,
    labels: ArrayLike,
    groups: ArrayLike | None,
    batch_size: int | None,
) -> tuple[Concept, NDArray, sparse.csr_array]:
    """The rows that have a label: their classes, activations [n, d], and latents [n, f]."""
    import pandas as pd

    batches = Reader(acts, (sae.d_in,), batch_rows(sae, batch_size), "acts")
    table = pd.DataFrame({"label": pd.Series(list(np.asarray(labels, dtype=object)))})
    if len(table) != batches.n:
        raise ShapeError(f"labels must have one entry a row; got {len(table)} for {batches.n}.")
    concept = read_concept(table, "label", groups)
    X = torch.cat(list(batches.take(concept.rows))).double().numpy()
    parts = []
    for codes in latents_of(sae, batches.take(concept.rows)):
        where = (codes.rows.numpy(), codes.indices.flatten().numpy())
        values = codes.values.flatten().double().numpy()
        parts.append(sparse.csr_array((values, where), shape=(len(codes), sae.n_latents)))
    Z = sparse.csr_array(sparse.vstack(parts))
    Z.eliminate_zeros()
    return concept, X, Z


def associations(
    features: "NDArray | sparse.csr_array", y: NDArray, fold: NDArray, k: int
) -> tuple[NDArray, NDArray]:
    """How each feature goes with the classes on the rows outside fold k.

    Returns
    -------
    explained : [f] share of the feature's variance that lies between the classes, 0 to 1; 0 for a
        constant feature.
    means : [classes, f] its mean in each class.
    """
    train = fold != k
    rows, classes = features[train], y[train]
    n_classes = int(y.max()) + 1
    ones = np.ones(len(classes))
    member = sparse.csr_array((ones, (classes, np.arange(len(classes)))), (n_classes, len(classes)))
    count = np.bincount(classes, minlength=n_classes)[:, None].astype(np.float64)
    if isinstance(rows, np.ndarray):
        sums, squares = member @ rows, (rows**2).sum(0)
    else:
        sums = (member @ rows).toarray()
        squares = np.asarray((rows * rows).sum(axis=0)).ravel()
    mean = sums.sum(0) / count.sum()
    means = sums / np.maximum(count, 1)
    total = squares - count.sum() * mean**2
    between = (count * (means - mean) ** 2).sum(0)
    varies = total > 1e-12 * squares
    return np.divide(between, total, out=np.zeros(len(total)), where=varies), means


def columns(features: "NDArray | sparse.csr_array", chosen: NDArray) -> NDArray:
    """Some features as a dense matrix."""
    some = features[:, chosen]
    return some if isinstance(some, np.ndarray) else some.toarray()


def _cross_validated(
    features: "NDArray | sparse.csr_array",
    y: NDArray,
    fold: NDArray,
    ks: Sequence[int],
    C: float,
) -> tuple[NDArray, NDArray, NDArray]:
    """Whether each row is answered rightly [ks, n], areas [ks], and what was chosen [folds, k]."""
    n_classes = int(y.max()) + 1
    right = np.zeros((len(ks), len(y)), dtype=bool)
    shape = (len(ks), len(y)) if n_classes == 2 else (len(ks), n_classes, len(y))
    margins = np.zeros(shape)
    chosen = []
    for k in range(int(fold.max()) + 1):
        explained, _ = associations(features, y, fold, k)
        best = np.argsort(-explained, kind="stable")[: max(ks)]
        chosen.append(best)
        train, test = fold != k, fold == k
        matrix = columns(features, best)
        for i, size in enumerate(ks):
            some = matrix[:, :size]
            probe = LinearProbe(C, standardize=True, tol=TOL).fit(some[train], y[train])
            right[i, test] = probe.predict(some[test]) == y[test]
            margins[i, ..., test] = probe.decision_function(some[test])
    areas = [area_under_curve(y, m, fold) for m in margins]
    return right, np.array(areas), np.stack(chosen)
