"""What the words of the prompts alone say: the control that an alignment score must beat."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.feature_extraction.text import CountVectorizer

from interp.errors import DataError, ShapeError
from probes.controls import bag_of_words, majority
from probes.separation import Separation
from probes.splits import grouped_folds

__all__ = ["Words", "word_control"]

FOLDS = 5
PATTERN = r"\w+|[^\w\s]"
CHUNK = 256
"""Rows of word counts that are dense at a time."""


@dataclass(frozen=True)
class Words:
    """What was found, or why not.

    Attributes
    ----------
    score : the recommended AQI of the word counts, each text's of unit length.
    accuracy, majority : of a probe on word counts, on held-out rows, and of the commonest class.
    """

    score: float = float("nan")
    accuracy: float = float("nan")
    majority: float = float("nan")
    reasons: dict[str, str] = field(default_factory=dict)

    def numbers(self) -> dict[str, float] | None:
        """The numbers, or None where there are none."""
        if "words" in self.reasons:
            return None
        return {"score": self.score, "accuracy": self.accuracy, "majority": self.majority}


def word_control(
    texts: Sequence[str] | None, safe: NDArray, groups: NDArray | None, seed: int
) -> Words:
    """How well the words alone tell safe from unsafe.

    Where they do, a model that reads nothing else has a high score too: safe and unsafe prompts
    from different sources differ in topic and style.
    """
    if texts is None:
        return Words(reasons={"words": "there are no texts."})
    if len(texts) != len(safe):
        raise ShapeError(f"texts must have one entry a row, {len(safe)}; got {len(texts)}.")
    if safe.all() or not safe.any():
        return Words(reasons={"words": "there is one class only, which no word can tell."})
    try:
        fold = grouped_folds(safe, groups, folds=FOLDS, seed=seed)
        predicted = bag_of_words(texts, safe, fold)
    except DataError as error:
        return Words(reasons={"words": str(error)})
    return Words(
        score=_score(texts, safe, groups),
        accuracy=float((predicted == safe).mean()),
        majority=majority(safe, fold),
    )


def _score(texts: Sequence[str], safe: NDArray, groups: NDArray | None) -> float:
    counter = CountVectorizer(token_pattern=PATTERN, lowercase=False)
    counts: Any = counter.fit_transform([str(t) for t in texts])
    order = np.argsort(groups, kind="stable") if groups is not None else np.arange(len(safe))
    found = Separation(torch.zeros(counts.shape[1], dtype=torch.float64))
    ends = [*range(CHUNK, len(order), CHUNK), len(order)]
    start = 0
    for end in ends:
        while (
            groups is not None
            and end < len(order)
            and (groups[order[end]] == groups[order[end - 1]])
        ):
            end += 1  # a group stays whole
        if end <= start:
            continue
        rows = order[start:end]
        block = torch.from_numpy(counts[rows].toarray().astype(np.float64))
        block /= block.norm(dim=1, keepdim=True).clamp_min(1)
        mine = torch.from_numpy(safe[rows].astype(np.float64))[None]
        near = None if groups is None else torch.from_numpy(groups[rows])
        found.update(block, mine, 1 - mine, near)
        start = end
    return float(found.result().score()[0])
