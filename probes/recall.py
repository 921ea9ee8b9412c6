"""Multi-query associative recall: keys with values, then the keys again, and what is their value?

A task of which the answer is known at every position, for finding induction circuits and for
patching. A model that looks for the earlier place of a token and copies what followed it there
solves it (`induction_oracle`).
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from interp.errors import ParameterError, ShapeError
from interp.results import Result
from interp.runs import versions

__all__ = ["IGNORED", "Recall", "RecallTask", "induction_oracle", "mqar", "recall_by_gap"]

IGNORED = -100
"""Label of a position where nothing is asked."""
Filler = Literal["zeros", "random"]


class RecallTask(NamedTuple):
    """Examples of multi-query associative recall.

    Attributes
    ----------
    inputs : [n, length] token ids: pairs of key and value, then keys among filler.
    labels : [n, length] the value where a key is asked for, `IGNORED` elsewhere.
    gaps : [n, length] positions from a key's first place to its query, 0 where nothing is asked.
    vocabulary, pairs : of the task.
    """

    inputs: Tensor
    labels: Tensor
    gaps: Tensor
    vocabulary: int
    pairs: int

    @property
    def chance(self) -> float:
        """Accuracy of a uniform guess among all values."""
        return 1 / (self.vocabulary - self.vocabulary // 2)

    @property
    def seen_chance(self) -> float:
        """Accuracy of a guess among the values of the example."""
        return 1 / self.pairs


@dataclass(frozen=True, kw_only=True)
class Recall(Result):
    """Accuracy of answers to a `RecallTask`, in all and by gap.

    Attributes
    ----------
    accuracy : share of right answers, 0 to 1.
    low, high : of the bins of gaps, in positions, both ends in.
    by_gap : [bins] accuracy; nan of a bin without queries.
    counts : [bins] queries.
    chance, seen_chance : of a guess among all values, and among those of the example.
    oracle : accuracy of `induction_oracle`.
    """

    kind: ClassVar[str] = "recall"

    accuracy: float
    low: NDArray
    high: NDArray
    by_gap: NDArray
    counts: NDArray
    chance: float
    seen_chance: float
    oracle: float

    def to_frame(self) -> pd.DataFrame:
        """A row a bin of gaps."""
        return pd.DataFrame(
            {"from": self.low, "to": self.high, "queries": self.counts, "accuracy": self.by_gap}
        )

    def metrics(self) -> dict[str, Any]:
        """Numbers and names for ``metrics.json``."""
        names = ("n", "accuracy", "low", "high", "by_gap", "counts", "chance", "seen_chance",
                 "oracle", "reasons")  # fmt: skip
        return {name: getattr(self, name) for name in names}


def mqar(
    n: int,
    *,
    length: int = 64,
    pairs: int = 4,
    vocabulary: int = 8192,
    power: float = 0.01,
    filler: Filler = "random",
    seed: int = 0,
) -> RecallTask:
    """Examples of multi-query associative recall, n of them; the same for the same seed, whole.

    Keys are 1 to V/2 - 1 and values V/2 to V - 1, without repeats in an example. After the pairs
    each key is asked for once, at an even place 2 (g - 1) of the rest, with the g = 1, 2, … drawn
    without repeats in proportion to ``g ^ (power - 1)``: a power of 1 spreads the queries evenly, a
    small one puts most of them near the pairs.

    Parameters
    ----------
    length : tokens of an example, an even number of at least 4 pairs.
    pairs : keys with values in an example (D).
    vocabulary : V, with more than ``pairs`` tokens in either half.
    filler : what stands where nothing is asked: ``"zeros"``, or ``"random"`` tokens.

    Source: Arora et al., arXiv 2312.04927 (Zoology), section 4 and code. Differs: random filler is
    drawn by the same seed (theirs has a generator of its own that is not seeded), and never is one
    of the example's keys (theirs may be, unlabelled). Papers use zeros; (length, pairs) of (64, 4),
    (128, 8), (256, 16).
    """
    if (n < 1 or length % 2 or not 4 <= 4 * pairs <= length or vocabulary // 2 <= pairs
            or not power > 0 or filler not in get_args(Filler)):  # fmt: skip
        raise ParameterError(
            "mqar needs an even length of at least 4 pairs, a vocabulary of more than twice the "
            f"pairs, a power above 0 and filler zeros or random; got n {n}, length {length}, pairs "
            f"{pairs}, vocabulary {vocabulary}, power {power}, filler {filler!r}."
        )
    rng = np.random.default_rng(seed)
    half, start = vocabulary // 2, 2 * pairs
    room = np.arange(1, (length - start) // 2 + 1)
    share = room ** (power - 1.0)
    share /= share.sum()
    inputs = np.zeros((n, length), dtype=np.int64)
    labels = np.full((n, length), IGNORED)
    gaps = np.zeros((n, length), dtype=np.int64)
    for row in range(n):
        keys = 1 + rng.choice(half - 1, pairs, replace=False)
        values = half + rng.choice(vocabulary - half, pairs, replace=False)
        at = start + 2 * (rng.choice(room, pairs, replace=False, p=share) - 1)
        if filler == "random":
            others = np.setdiff1d(np.arange(vocabulary), keys)
            inputs[row, start:] = rng.choice(others, length - start)
        inputs[row, 0:start:2], inputs[row, 1:start:2] = keys, values
        inputs[row, at], labels[row, at] = keys, values
        gaps[row, at] = at - np.arange(0, start, 2)
    held = (torch.from_numpy(a) for a in (inputs, labels, gaps))
    return RecallTask(*held, vocabulary=vocabulary, pairs=pairs)


def induction_oracle(inputs: Tensor) -> Tensor:
    """What an induction head says at each place: the token after the first place of the same token.

    inputs [n, length] -> [n, length]; `IGNORED` where the token was not there before.
    """
    same = inputs[:, :, None] == inputs[:, None, :]
    first = same.int().argmax(2)  # [n, length]
    before = first < torch.arange(inputs.shape[1], device=inputs.device)
    after = inputs.gather(1, (first + 1).clamp_max(inputs.shape[1] - 1))
    return torch.where(before, after, IGNORED)


def recall_by_gap(
    task: RecallTask, predicted: Tensor, *, bins: int = 8, name: str = "associative recall"
) -> Recall:
    """Accuracy of predicted tokens where something is asked, in all and by the gap to the key.

    Parameters
    ----------
    predicted : [n, length] token ids, or [n, length, V] logits, at the position of the query.
    bins : of gaps, with about as many queries each.

    Range: 0 to 1, higher is better; chance is 2 / V, and 1 / pairs where only the example's values
    are guessed. Degenerate: a bin without queries -> nan.
    """
    predicted = predicted.argmax(-1) if predicted.ndim == 3 else predicted
    if predicted.shape != task.labels.shape or bins < 1:
        raise ShapeError(
            f"answers are {list(task.labels.shape)}, or that with logits, in at least one bin; got "
            f"{list(predicted.shape)}, {bins}."
        )
    asked = task.labels != IGNORED
    gaps = task.gaps[asked].numpy()
    right = (predicted.cpu() == task.labels)[asked].numpy()
    oracle = (induction_oracle(task.inputs) == task.labels)[asked]
    edges = np.unique(np.quantile(gaps, np.linspace(0, 1, bins + 1), method="lower"))
    place = np.clip(np.searchsorted(edges, gaps, side="right") - 1, 0, max(0, len(edges) - 2))
    used = np.unique(place)
    return Recall(
        name=name,
        n=len(task.inputs),
        provenance={"vocabulary": task.vocabulary, "pairs": task.pairs, "versions": versions()},
        accuracy=float(right.mean()),
        low=np.array([gaps[place == b].min() for b in used]),
        high=np.array([gaps[place == b].max() for b in used]),
        by_gap=np.array([right[place == b].mean() for b in used]),
        counts=np.array([(place == b).sum() for b in used]),
        chance=task.chance,
        seen_chance=task.seen_chance,
        oracle=float(oracle.double().mean()),
    )
