"""Feature absorption: tokens on which a concept's own latent is silent because another one,
made for those tokens, has taken the concept's direction in.
"""

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from interp.data import read
from interp.errors import DataError, ModelError, ParameterError
from interp.feeds import TextFeed
from interp.loading import load
from interp.models import quiet_transformers
from interp.results import Result
from probes.concepts import Concept
from probes.linear import LinearProbe
from probes.scores import f1_score
from probes.splits import grouped_folds
from saes.base import SAE
from saes.evaluation import describe, sae_name
from saes.k_sparse import associations, columns, labelled
from saes.reading import Acts

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Absorption", "feature_absorption", "first_letters"]

TOL = 1e-4
ABSORBERS = 5
GROUPS = 10
"""Fewest groups of a class: a direction of fewer words is a direction of those words."""


@dataclass(frozen=True, kw_only=True)
class Absorption(Result):
    """How often a concept's latents are silent where an aligned latent does their work.

    Attributes
    ----------
    concepts : a record a class, counts being of held-out rows: ``class``; ``positives``, its rows;
        ``probe_f1``, of the probe on the activations; ``main_f1``, of a probe on the main latents;
        ``main``, those of each fold; ``found``, rows of the class that the probe on the
        activations finds; ``missed``, those of them in which no main latent fires; ``absorbed``,
        those of them in which one latent does their work; ``rate``, absorbed / found, 0 to 1,
        lower is better; ``absorbers``, the latents that did it
        most often, and how often.
        ``rate`` is None where ``probe_f1`` is below ``min_f1``: the activations do not hold
        the concept as a direction, so there is none to absorb.
    rate : mean of the concepts' rates that are defined; nan where none is.
    missed_rate : mean of missed / found over the same classes; what is missed and not absorbed is
        simply not read.
    min_f1, cosine, share, gain, max_main, folds, seed : settings.
    notes : what was left out, in sentences.
    """

    kind: ClassVar[str] = "absorption"

    concepts: list[dict[str, Any]]
    rate: float
    missed_rate: float
    min_f1: float
    cosine: float
    share: float
    gain: float
    max_main: int
    folds: int
    seed: int
    notes: tuple[str, ...] = ()

    def to_frame(self) -> "pd.DataFrame":
        """One row a class."""
        import pandas as pd

        frame = pd.DataFrame(self.concepts)
        frame["rate"] = frame["rate"].astype(float)
        for name in ("main", "absorbers"):
            frame[name] = frame[name].map(str)
        return frame

    def metrics(self) -> dict[str, Any]:
        """Numbers and names for ``metrics.json``."""
        names = ("n", "rate", "missed_rate", "concepts", "min_f1", "cosine", "share", "gain",
                 "max_main", "folds", "seed", "reasons")  # fmt: skip
        return {name: getattr(self, name) for name in names}


def feature_absorption(
    sae: SAE,
    acts: Acts,
    labels: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    folds: int = 2,
    min_f1: float = 0.5,
    max_main: int = 10,
    gain: float = 0.03,
    cosine: float = 0.025,
    share: float = 0.4,
    seed: int = 0,
    batch_size: int | None = None,
    name: str | None = None,
) -> Absorption:
    """How often a concept's latents are silent where an aligned latent does their work.

    The rule, for each class against the rest (of two classes, the last) and for each fold, all
    fits being on the other folds' rows and all counts on its own:

    1. A logistic probe on the activations gives the direction p, of length 1.
    2. Latents that are larger in the class are ranked by their correlation with it. The first is
       a main latent; the next ones are too, as long as each raises the training F1 of a logistic
       probe on the main latents by more than ``gain`` (a concept may be split over several).
    3. Of the class's rows that the probe finds, those in which no main latent fires are missed.
    4. A missed row is absorbed if the latent j with the largest contribution ``z_j (W_dec_j . p)``
       has a decoder whose cosine with p is at least ``cosine``, and contributes at least ``share``
       of the row's own ``(x - b_dec) . p``, which is positive.

    Parameters
    ----------
    acts : [n, d_in] rows, mostly one a token.
    labels : [n] classes, such as `first_letters`; a missing value leaves its row out.
    groups : [n] group of each row, such as its token or document; never split.
    folds : of the cross-fitting.
    min_f1 : F1 of the probe on the activations from which a class has a rate.
    max_main : most main latents.
    gain, cosine, share : as above.
    seed : of the folds.
    batch_size : rows encoded at a time.
    name : of the result.

    Raises
    ------
    DataError
        Fewer than two classes have at least 10 groups (rows where there are none; rarer classes
        are left out), or a row holds nan.
    ShapeError
        Labels, groups and rows do not fit each other, or the width is not the SAE's.
    ParameterError
        The SAE is no autoencoder, or a setting is outside what it allows.

    Notes
    -----
    Source: Chanin et al. 2024, "A is for absorption", in the form of Karvonen et al. 2025,
    "SAEBench" (its full absorption), whose thresholds these are: step 4 reads the contribution to
    the probe's direction. The first paper ablates each latent in place of that, and asks for the
    effect on the answer to a spelling prompt; no ablation is made here, so that any label can be
    asked for, and a rate says what latents write, not what the model does with it. Differs from
    SAEBench: step 2 ranks by correlation; a row is missed where no main latent fires, whatever a
    probe on these latents answers; in step 4 ``b_dec`` is taken off the row and decoder rows are
    taken at their own length; every row is held out once. As there, absorption by several latents
    together, or beside a main latent that still fires weakly, is not counted.
    """
    if sae.transcodes or len(sae.in_shape) != 1:
        raise ParameterError("feature_absorption reads an autoencoder, whose latents rebuild acts.")
    if max_main < 1 or not (0 <= share and -1 <= cosine <= 1 and gain >= 0):
        raise ParameterError(
            "max_main must be at least 1, share and gain at least 0, cosine from -1 to 1; got "
            f"{max_main}, {share}, {gain}, {cosine}."
        )
    concept, X, Z = labelled(sae, acts, labels, groups, batch_size)
    keep, wanted, notes = _common(concept)
    X, Z, classes = X[keep], Z[keep], concept.y[keep]
    units = None if concept.groups is None else concept.groups[keep]
    fold = grouped_folds(classes, units, folds=folds, seed=seed)
    decoder = sae._directions().detach().cpu().double().numpy()
    centred = X - sae.b_dec.detach().cpu().double().numpy()
    found = []
    for c in wanted[1:] if len(wanted) == 2 else wanted:
        y = (classes == c).astype(np.int64)
        parts = [
            _fold(X, centred, Z, decoder, y, fold, k, max_main, gain, cosine, share)
            for k in range(folds)
        ]
        found.append(_record(concept.classes[c], y, parts, min_f1))
    rates = [r["rate"] for r in found if r["rate"] is not None]
    missed = [r["missed"] / r["found"] for r in found if r["rate"] is not None]
    why = f"no class has a probe on the activations with an F1 of at least {min_f1:g}"
    reason = {} if rates else {"rate": why, "missed_rate": why}
    return Absorption(
        name=name or sae_name(sae),
        n=len(classes),
        provenance={**describe(sae), "seed": seed},
        reasons=reason,
        concepts=found,
        rate=float(np.mean(rates)) if rates else float("nan"),
        missed_rate=float(np.mean(missed)) if missed else float("nan"),
        min_f1=min_f1,
        cosine=cosine,
        share=share,
        gain=gain,
        max_main=max_main,
        folds=folds,
        seed=seed,
        notes=(*concept.notes, *notes),
    )


def _common(concept: Concept) -> tuple[NDArray, list[int], tuple[str, ...]]:
    """Rows of classes that have enough groups to be read anew in each fold, and those classes."""
    counts = [len(np.unique(concept.units[concept.y == c])) for c in range(len(concept.classes))]
    wanted = [c for c, count in enumerate(counts) if count >= GROUPS]
    rare = [name for name, count in zip(concept.classes, counts, strict=True) if count < GROUPS]
    unit = "rows" if concept.groups is None else "groups"
    if len(wanted) < 2:
        raise DataError(
            f"feature_absorption needs two classes of at least {GROUPS} {unit} each; "
            f"{', '.join(rare)} {'has' if len(rare) == 1 else 'have'} fewer."
        )
    said = f"classes with fewer than {GROUPS} {unit} are left out: {', '.join(rare)}."
    return np.isin(concept.y, wanted), wanted, (said,) if rare else ()


def _fold(
    X: NDArray,
    centred: NDArray,
    Z: sparse.csr_array,
    decoder: NDArray,
    y: NDArray,
    fold: NDArray,
    k: int,
    max_main: int,
    gain: float,
    cosine: float,
    share: float,
) -> dict[str, Any]:
    """What is found, missed and absorbed among the rows of fold k."""
    train, test = fold != k, fold == k
    probe = _probe().fit(X[train], y[train])
    answers = probe.predict(X[test])
    direction = probe.coef_[0] / (np.linalg.norm(probe.coef_[0]) or 1)
    main, main_answers = _main_latents(Z, y, fold, k, max_main, gain)
    rows = np.flatnonzero(test)[(answers == 1) & (y[test] == 1)]
    fires = columns(Z, main)[rows].any(1)
    missed = rows[~fires]
    along = decoder @ direction
    length = np.linalg.norm(decoder, axis=1)
    cosines = np.divide(along, length, out=np.zeros(len(along)), where=length > 0)
    absorbers = []
    for row in missed:
        begin, end = Z.indptr[row], Z.indptr[row + 1]
        if begin == end:
            continue
        latents = Z.indices[begin:end]
        work = Z.data[begin:end] * along[latents]
        top, whole = int(work.argmax()), float(centred[row] @ direction)
        j = int(latents[top])
        if whole > 0 and work[top] >= share * whole and cosines[j] >= cosine:
            absorbers.append(j)
    return {
        "rows": test,
        "answers": answers,
        "main": main.tolist(),
        "main_answers": main_answers,
        "found": len(rows),
        "missed": len(missed),
        "absorbers": absorbers,
    }


def _probe() -> LinearProbe:
    # Classes such as a first letter are rare: unweighted, a probe would answer "no" to all.
    return LinearProbe(standardize=True, class_weight="balanced", tol=TOL)


def _main_latents(
    Z: sparse.csr_array, y: NDArray, fold: NDArray, k: int, max_main: int, gain: float
) -> tuple[NDArray, NDArray]:
    """The concept's latents by step 2, and the answers of a probe on them in fold k."""
    train, test = fold != k, fold == k
    explained, means = associations(Z, y, fold, k)
    ranked = np.argsort(-np.where(means[1] > means[0], explained, -1), kind="stable")
    matrix = columns(Z, ranked[:max_main])
    best, size, kept = -1.0, 1, None
    for more in range(1, matrix.shape[1] + 1):
        some = matrix[:, :more]
        probe = _probe().fit(some[train], y[train])
        score = np.nan_to_num(f1_score(y[train], probe.predict(some[train]), 2))
        if kept is not None and score - best <= gain:
            break
        best, size, kept = score, more, probe
    assert kept is not None  # noqa: S101  the first is always kept
    return ranked[:size], kept.predict(matrix[test, :size])


def _record(name: str, y: NDArray, parts: list[dict[str, Any]], min_f1: float) -> dict[str, Any]:
    """The folds' counts as one."""
    answers, main_answers = np.zeros_like(y), np.zeros_like(y)
    for part in parts:
        answers[part["rows"]], main_answers[part["rows"]] = part["answers"], part["main_answers"]
    found, missed = (sum(part[key] for part in parts) for key in ("found", "missed"))
    absorbers = Counter(j for part in parts for j in part["absorbers"])
    absorbed = absorbers.total()
    probe_f1 = f1_score(y, answers, 2)
    return {
        "class": name,
        "positives": int(y.sum()),
        "probe_f1": probe_f1,
        "main_f1": f1_score(y, main_answers, 2),
        "main": [part["main"] for part in parts],
        "found": found,
        "missed": missed,
        "absorbed": absorbed,
        "rate": absorbed / found if found and probe_f1 >= min_f1 else None,
        "absorbers": [list(pair) for pair in absorbers.most_common(ABSORBERS)],
    }


def first_letters(model: Any, data: Any, max_length: int | None = None) -> "pd.DataFrame":
    """The first letter of each token that begins a word, for rows captured with ``pool="all"``.

    Returns
    -------
    DataFrame
        A row a token, in the order of such a capture of the same data: ``document``, ``position``,
        ``token`` (its text without spaces, which groups rows for `feature_absorption`: the same
        word must not be in training and test) and ``letter``, a to z. The letter is None for a
        token that does not begin a word, holds anything but ASCII letters, or has one alone.

    Raises
    ------
    DataError
        The data is no text.
    ModelError
        The tokenizer does not say where its tokens lie in the text.
    """
    import pandas as pd

    model, texts = load(model), read(data)
    if texts.kind != "text":
        raise DataError(f"{texts.name} holds no texts, so its rows have no letters.")
    feed = TextFeed(model, texts, max_length)
    options = {} if max_length is None else {"truncation": True, "max_length": max_length}
    strings: Any = list(texts.inputs)
    with quiet_transformers():
        try:
            spans = model.tokenizer(strings, return_offsets_mapping=True, **options)
            offsets = spans["offset_mapping"]
        except (NotImplementedError, KeyError, TypeError) as error:
            raise ModelError(
                f"the tokenizer of {model.spec} does not say where its tokens lie in the text."
            ) from error
    rows = []
    for document, (text, own) in enumerate(zip(strings, offsets, strict=True)):
        for position, (start, end) in enumerate(own[: feed.lengths[document]]):
            token = text[start:end].strip()
            begin = end - len(token)
            after = begin > 0 and (text[begin - 1].isalnum() or text[begin - 1] == "_")
            word = len(token) > 1 and token.isascii() and token.isalpha() and not after
            letter = token[0].lower() if word else None
            rows.append((document, position, token, letter))
    table = pd.DataFrame(rows, columns=["document", "position", "token", "letter"])
    letters = [letter for *_, letter in rows]
    return table.assign(letter=pd.Series(letters, dtype=object))  # None stays None
