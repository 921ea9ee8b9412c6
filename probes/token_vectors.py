"""Which token's vector holds an item of a text, and does one item leak into another's vectors?

Vectors at a hook point are kept or replaced, and what follows is run on them; a judge scores each
item in the output. Made for encoders, whose output is read from all their vectors.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from interp.activations import record
from interp.errors import DataError, ModelError, ParameterError, ShapeError
from interp.hookpoints import HookPoint
from interp.hooks import evaluating, hooked
from interp.loading import load
from interp.results import Result
from interp.runs import versions

if TYPE_CHECKING:
    from interp.models import Model

__all__ = ["TokenPatching", "keep_only", "replace_with", "token_patching"]

Judge = Callable[[Any], Any]
FLAT = 1e-6
"""A difference of scores this small, relative to them, is rounding."""


@contextmanager
def replace_with(model: Any, hookpoint: str, values: Tensor, positions: Any) -> Iterator[None]:
    """Put vectors, as those of a clean run, at some positions of a hook point.

    Parameters
    ----------
    values : [b, t, width], [t, width] or [width]; what is not asked for is left out.
    positions : [b, t] or [t] bools, or whole numbers for every row.

    Raises
    ------
    ShapeError
        The values or positions do not fit what the hook point holds.
    """
    model = load(model)

    def swap(point: HookPoint, x: Tensor) -> Tensor:
        where = _where(positions, x)
        if values.ndim > x.ndim or any(
            a != b for a, b in zip(values.shape[::-1], x.shape[::-1], strict=False)
        ):
            raise ShapeError(
                f"{point.name} holds {list(x.shape)} here; the vectors for it are "
                f"{list(values.shape)}."
            )
        return torch.where(where[..., None], values.to(x.device, x.dtype), x)

    with hooked(model.module, model.resolve(hookpoint), swap):
        yield


@contextmanager
def keep_only(model: Any, hookpoint: str, positions: Any, fill: Tensor) -> Iterator[None]:
    """Keep the vectors of some positions of a hook point, and put ``fill`` at all the others.

    Parameters
    ----------
    positions : [b, t] or [t] bools, or whole numbers for every row.
    fill : as ``values`` of `replace_with`, such as the vectors of an empty text.
    """
    model = load(model)

    def others(x: Tensor) -> Tensor:
        return ~_where(positions, x)

    with replace_with(model, hookpoint, fill, others):
        yield


def _where(positions: Any, x: Tensor) -> Tensor:
    """[b, t] bools; ``positions`` may be a function of what the hook point holds."""
    if callable(positions):
        found: Any = positions(x)
        return found
    at = torch.as_tensor(positions, device=x.device)
    if at.dtype != torch.bool:
        if at.ndim != 1 or (
            len(at) and not -x.shape[1] <= int(at.min()) <= int(at.max()) < x.shape[1]
        ):
            raise ShapeError(f"positions are 0 to {x.shape[1] - 1}; got {at.tolist()}.")
        chosen = torch.zeros(x.shape[1], dtype=torch.bool, device=x.device)
        chosen[at.long()] = True
        at = chosen
    if at.shape not in (x.shape[:2], x.shape[1:2]):
        raise ShapeError(f"positions {list(at.shape)} do not fit {list(x.shape[:2])} vectors.")
    return at.expand(x.shape[:2])


@dataclass(frozen=True, kw_only=True)
class TokenPatching(Result):
    """What each token's vector holds of each item (i), and which items leak.

    Attributes
    ----------
    text, hookpoint : what was run, and where vectors were changed.
    items, spans : names, and the positions of each.
    tokens : texts of the t tokens.
    clean, empty : [i] scores of the whole text, and with every vector of an empty text.
    sufficiency : [i, t] share of ``clean - empty`` that one token's vector alone brings back: 1 all
        of it, 0 none.
    item_alone : [i, i] the same for all vectors of the item in the column.
    leakage : [i, i] change of the score of the item in the row where its own vectors come from a
        run in which the item in the column was swapped for another; nan on the diagonal.
    isolated : [i] change of the score where its vectors come from a run in which it sees no other
        token.
    swaps : what each item was swapped for.
    """

    kind: ClassVar[str] = "token_patching"

    text: str
    hookpoint: str
    items: tuple[str, ...]
    spans: tuple[tuple[int, ...], ...]
    tokens: tuple[str, ...]
    clean: NDArray
    empty: NDArray
    sufficiency: NDArray
    item_alone: NDArray
    leakage: NDArray
    isolated: NDArray
    swaps: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def to_frame(self) -> pd.DataFrame:
        """A row an item."""
        best = [int(np.nanargmax(r)) if np.isfinite(r).any() else None for r in self.sufficiency]
        leaks = {f"leak from {item}": self.leakage[:, j] for j, item in enumerate(self.items)}
        return pd.DataFrame(
            {
                "item": self.items,
                "clean": self.clean,
                "empty": self.empty,
                "best_token": [None if b is None else self.tokens[b] for b in best],
                "sufficiency": [np.nan if b is None else r[b]
                                for b, r in zip(best, self.sufficiency, strict=True)],
                "alone": np.diag(self.item_alone),
                "isolated": self.isolated,
                **leaks,
            }
        )  # fmt: skip

    def metrics(self) -> dict[str, Any]:
        """Numbers and names for ``metrics.json``."""
        names = ("hookpoint", "items", "clean", "empty", "sufficiency", "item_alone", "leakage",
                 "isolated", "notes", "reasons")  # fmt: skip
        return {name: getattr(self, name) for name in names}


def token_patching(
    model: Any,
    text: str,
    items: Mapping[str, str] | Sequence[str],
    *,
    hookpoint: str = "resid_post.-1",
    judge: Judge | None = None,
    name: str | None = None,
) -> TokenPatching:
    """Sufficiency of each token's vector for each item of a text, and leakage between items.

    Parameters
    ----------
    model : a loaded text model with a fast tokenizer.
    items : parts of the text, each with what it is swapped for; without swaps leakage is nan.
    hookpoint : where vectors are kept and replaced; what comes after it is run on them.
    judge : output of the model (a batch of rows) -> scores [rows, items], higher where an item is
        there; by default the cosine of the mean output vector with that of the item alone.

    Range: sufficiency about 0 to 1, and beyond either where vectors work against each other;
    leakage 0 where an item's vectors know nothing of the other, of either sign. An encoder that
    mixes nothing has no leakage, and isolating changes nothing.
    Degenerate: nan with the reason for an item that scores the same in the empty text.
    Cost: a forward of t rows, and two an item.
    Source: arXiv 2504.01137 (text encoders of image generators). Differs: any encoder and judge;
    the empty text has as many tokens as the text, all of them pads that are attended to.

    Raises
    ------
    DataError
        An item is not in the text, or not in the swapped one.
    """
    model = load(model)
    swaps = dict(items) if isinstance(items, Mapping) else dict.fromkeys(items, "")
    ids, offsets, special = _encode(model, text)
    spans = [_span(text, item, offsets) for item in swaps]
    work = _Work(model, hookpoint, judge or _default_judge(model, list(swaps)))
    clean = work.vectors([ids])
    blank = torch.where(torch.tensor(special), torch.tensor(ids), _pad(model)).tolist()
    fill = work.vectors([blank])[0]
    t, k = len(ids), len(swaps)
    kept = torch.zeros(t + k + 1, t, dtype=torch.bool)  # each token, each item, nothing
    kept[range(t), range(t)] = True
    for i, span in enumerate(spans):
        kept[t + i, span] = True
    own = work.scores([ids])[0]
    with keep_only(model, hookpoint, kept, fill):
        alone = work.scores([ids] * len(kept))
    empty = alone[-1]
    gap, reasons = own - empty, {}
    for i, item in enumerate(swaps):
        if abs(gap[i]) <= FLAT * max(abs(own[i]), abs(empty[i])):
            gap[i], reasons[item] = np.nan, "it scores the same in the empty text."
    if not all(swaps.values()):
        reasons["leakage"] = "some items have nothing to be swapped for."
    share = (alone[:-1] - empty) / gap
    leakage, isolated = np.full((k, k), np.nan), np.empty(k)
    for j, (item, other) in enumerate(swaps.items()):
        isolated[j] = work.patched(ids, work.isolated(ids, spans[j], special), spans[j])[j] - own[j]
        if not other:
            continue
        swapped_text = text.replace(item, other, 1)
        swapped, places, _ = _encode(model, swapped_text)
        vectors = work.vectors([swapped])[0]
        moved = len(other) - len(item), text.find(item)
        for i, kept_item in enumerate(swaps):
            if i != j:
                start = text.find(kept_item)  # the same place, though the new words may hold it too
                start += moved[0] if start > moved[1] else 0
                at = _span(swapped_text, kept_item, places, start)
                if len(at) != len(spans[i]):
                    raise DataError(f"{kept_item!r} has other tokens beside {other!r}.")
                values = clean[0].clone()
                values[spans[i]] = vectors[at]
                leakage[i, j] = work.patched(ids, values, spans[i])[i] - own[i]
    return TokenPatching(
        name=name or "token patching",
        n=t,
        provenance={"model": model.identity(), "versions": versions()},
        reasons=reasons,
        text=text,
        hookpoint=hookpoint,
        items=tuple(swaps),
        spans=tuple(tuple(s) for s in spans),
        tokens=tuple(model.token_text(i) for i in ids),
        clean=own,
        empty=empty,
        sufficiency=share[:t].T.copy(),
        item_alone=share[t:].T.copy(),
        leakage=leakage,
        isolated=isolated,
        swaps=tuple(swaps.values()),
        notes=() if judge else ("Score: cosine of the mean vector with that of the item alone.",),
    )


@dataclass(frozen=True)
class _Work:
    """Forwards of one model, with vectors read and replaced at one hook point."""

    model: "Model"
    hookpoint: str
    judge: Judge

    def run(self, ids: list[list[int]], mask: Tensor | None = None) -> Any:
        padded = self.model.pad(ids)
        if mask is not None:
            padded["attention_mask"] = mask.to(padded["input_ids"])
        with evaluating(self.model.module), torch.inference_mode():
            return self.model(self.model.text_inputs(padded))

    def vectors(self, ids: list[list[int]], mask: Tensor | None = None) -> Tensor:
        with record(self.model, self.hookpoint) as acts:
            self.run(ids, mask)
        return next(iter(acts.values()))

    def scores(self, ids: list[list[int]]) -> NDArray:
        found = self.judge(self.run(ids))
        found = found.detach().cpu() if isinstance(found, Tensor) else found
        return np.asarray(found, dtype=np.float64)

    def patched(self, ids: list[int], values: Tensor, span: list[int]) -> NDArray:
        with replace_with(self.model, self.hookpoint, values, span):
            return self.scores([ids])[0]

    def isolated(self, ids: list[int], span: list[int], special: list[bool]) -> Tensor:
        """The item's vectors at its own positions, from a run in which it sees itself alone."""
        seen = torch.tensor(special)
        seen[span] = True
        if "attention_mask" in self.model.text_inputs(self.model.pad([ids])):
            return self.vectors([ids], seen[None])[0]
        return self.vectors([torch.where(seen, torch.tensor(ids), _pad(self.model)).tolist()])[0]


def _encode(model: "Model", text: str) -> tuple[list[int], list[tuple[int, int]], list[bool]]:
    """Ids, where each token lies in the text, and which tokens are special."""
    if model.tokenizer is None or not getattr(model.tokenizer, "is_fast", False):
        raise ModelError(f"{model.spec} needs a fast tokenizer, which says where its tokens lie.")
    found = model.tokenizer(text, return_offsets_mapping=True, return_special_tokens_mask=True)
    special = [bool(v) for v in found["special_tokens_mask"]]
    return list(found["input_ids"]), list(found["offset_mapping"]), special


def _span(
    text: str, item: str, offsets: Sequence[tuple[int, int]], start: int | None = None
) -> list[int]:
    """Tokens of an item, at its first place in the text, or where it is said to start."""
    start = text.find(item) if start is None else start
    if not item or start < 0 or not text.startswith(item, start):
        raise DataError(f"item {item!r} is not in the text {text[:60]!r}.")
    end = start + len(item)
    return [i for i, (a, b) in enumerate(offsets) if a < end and b > start and b > a]


def _pad(model: "Model") -> Tensor:
    return torch.tensor(getattr(model.tokenizer, "pad_token_id", None) or 0)


def _default_judge(model: "Model", items: list[str]) -> Judge:
    """Cosine of the mean of a row's output vectors with that of each item alone."""

    def mean(output: Any) -> Tensor:
        hidden = getattr(output, "last_hidden_state", output)
        if not isinstance(hidden, Tensor) or hidden.ndim != 3:
            raise ParameterError("the model's output has no vector a token; give a judge.")
        return torch.nn.functional.normalize(hidden.double().mean(1), dim=1)

    work = _Work(model, "", mean)
    references = torch.cat([mean(work.run([_encode(model, item)[0]])) for item in items])
    return lambda output: mean(output) @ references.T
