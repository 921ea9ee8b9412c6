"""Token batches of a step: a function of the seed and the step alone, so that a resume is exact."""

import math
from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from interp.data import Dataset, read
from interp.errors import DataError, ParameterError
from interp.models import Model
from saes.codebook.tokfsm import FSM, LENGTH
from saes.rows import seeded
from saes.tallies import uniform

__all__ = ["FSMBatches", "TextBatches", "TokenBatches"]

PARTS = ("all", "train", "held out")
HELD_OUT = 0.1
"""Share of the texts that are held out."""
WINDOW = 256
"""Tokens of a window, at most, unless ``max_length`` says otherwise."""


class TokenBatches(Protocol):
    """What a training reads: ``batches(step)`` gives ``input_ids`` and ``attention_mask`` [b, t].

    Attributes
    ----------
    steps_per_epoch : batches after which rows come again.
    """

    steps_per_epoch: int

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """``input_ids`` and ``attention_mask`` of a step."""
        ...

    def identity(self) -> dict[str, Any]:
        """JSON values that differ where the batches do."""
        ...


class FSMBatches:
    """Sequences of a finite-state machine; none comes twice.

    Parameters
    ----------
    fsm : the machine.
    size : sequences of a batch.
    length : tokens of a sequence.
    seed : of the walks.
    """

    steps_per_epoch = 2**62

    def __init__(self, fsm: FSM, size: int, *, length: int = LENGTH, seed: int = 0) -> None:
        self.fsm, self.size, self.length, self.seed = fsm, size, length, seed

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """``input_ids`` and ``attention_mask`` of a step."""
        generator = seeded(self.seed, "tokfsm", step)
        ids = self.fsm.sequences(self.size, self.length, generator=generator)
        return ids, torch.ones_like(ids)

    def identity(self) -> dict[str, Any]:
        """The machine's edges, sizes and seed."""
        edges = self.fsm.neighbours.tolist()
        return {"tokfsm": edges, "size": self.size, "length": self.length, "seed": self.seed}


class TextBatches:
    """Windows of texts, in an order that is new in each epoch.

    A text longer than a window is cut into several, which do not overlap; one of a single token is
    left out.

    Parameters
    ----------
    model : whose tokenizer reads the texts.
    data : texts, as `interp.data.read` takes them.
    size : windows of a batch.
    max_length : tokens of a window; None for 256, or fewer where the model takes fewer.
    seed : of the orders.
    part : ``"train"`` or ``"held out"`` takes nine tenths or one tenth of the texts (of the groups,
        where the data has them), the same for every seed; ``"all"`` takes all.
    columns : of the data, as `interp.data.read` names them.

    Raises
    ------
    DataError
        The data are no texts, or none has two tokens.
    ParameterError
        A number is outside what it allows.
    """

    def __init__(
        self,
        model: Model,
        data: Any,
        size: int,
        *,
        max_length: int | None = None,
        seed: int = 0,
        part: str = "all",
        columns: dict[str, Any] | None = None,
    ) -> None:
        if part not in PARTS:
            raise ParameterError(f"TextBatches: part must be one of {PARTS}; got {part!r}.")
        if size < 1 or (max_length is not None and max_length < 2):
            raise ParameterError(
                "TextBatches: size must be at least 1 and max_length at least 2; got "
                f"{size} and {max_length}."
            )
        self.data = read(data, **(columns or {}))
        if self.data.kind != "text":
            raise DataError(f"{self.data.name} holds no text, which codebooks are trained on.")
        self.model, self.seed, self.part = model, seed, part
        if max_length is not None and max_length > (model.max_length or max_length):
            raise ParameterError(
                f"TextBatches: max_length must be at most {model.max_length} for {model.spec}; got "
                f"{max_length}."
            )
        texts = cast("list[str]", self.data.inputs)
        if part != "all":
            held = _held_out(self.data)
            texts = [t for t, out in zip(texts, held, strict=True) if out == (part != "train")]
        length = max_length or min(WINDOW, model.max_length or WINDOW)
        self.length = length
        self.windows = [
            row[start : start + length]
            for row in (model.tokenize(texts) if texts else [])
            for start in range(0, len(row), length)
        ]
        self.windows = [w for w in self.windows if len(w) > 1]
        if not self.windows:
            which = "" if part == "all" else f" in its part {part!r}"
            raise DataError(f"{self.data.name} holds no text of two tokens{which}.")
        self.size = min(size, len(self.windows))
        self.steps_per_epoch = math.ceil(len(self.windows) / self.size)

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """``input_ids`` and ``attention_mask`` of a step, padded on the right."""
        first = step * self.size
        places = [divmod(i, len(self.windows)) for i in range(first, first + self.size)]
        chosen = [self._order(epoch)[i] for epoch, i in places]
        padded = self.model.pad([self.windows[i] for i in chosen])
        return padded["input_ids"], padded["attention_mask"]

    def identity(self) -> dict[str, Any]:
        """The data's hash, the windows and the seed."""
        return {
            "data": self.data.hash,
            "windows": len(self.windows),
            "length": self.length,
            "size": self.size,
            "seed": self.seed,
            "part": self.part,
        }

    def _order(self, epoch: int) -> list[int]:
        held = getattr(self, "_held", (None, []))
        if held[0] != epoch:
            generator = seeded(self.seed, "windows", epoch)
            held = (epoch, torch.randperm(len(self.windows), generator=generator).tolist())
            self._held = held
        return held[1]


def _held_out(data: Dataset) -> NDArray[np.bool_]:
    """Which texts are held out; groups stay together."""
    groups = np.arange(len(data))
    if data.group is not None:
        names = data.rows[data.group].astype(str).to_numpy()
        groups = np.unique(names, return_inverse=True)[1].astype(np.int64)
    return uniform(0, groups) < HELD_OUT
