"""Seeing activations: `record` around your own forward, `run_with_cache` for one, `capture` for
a whole data set into a store.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from interp.capturing import Capture, Progress
from interp.data import Dataset
from interp.errors import LayerNotFound
from interp.hookpoints import HookPoint
from interp.hooks import all_fired, evaluating, hooked
from interp.live import live
from interp.loading import load
from interp.models import Model
from interp.pooling import Pool
from interp.store import ActivationStore

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Activations", "capture", "record", "run_with_cache"]


class Activations(Mapping[str, Tensor]):
    """What hook points held, by name.

    ``acts["mlp_act.3"]`` is the tensor of the one time that it fired; where it fired more often,
    as over several forwards, ``acts.calls("mlp_act.3")`` is the list.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._calls: dict[str, list[Tensor]] = {name: [] for name in names}

    def __getitem__(self, name: str) -> Tensor:
        calls = self.calls(name)
        if not calls:
            raise LayerNotFound(f"{name} has not fired; run the model inside the context.")
        if len(calls) > 1:
            raise LayerNotFound(f"{name} fired {len(calls)} times; use .calls({name!r}).")
        return calls[0]

    def calls(self, name: str) -> list[Tensor]:
        """Every tensor that the hook point held, in order."""
        if name not in self._calls:
            raise LayerNotFound(f"{name!r} was not recorded; there are {', '.join(self._calls)}.")
        return self._calls[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._calls)

    def __len__(self) -> int:
        return len(self._calls)

    def __repr__(self) -> str:
        shapes = (f"{k}: {[list(v.shape) for v in c]}" for k, c in self._calls.items())
        return f"Activations({', '.join(shapes)})"

    def to(self, *args: Any, **kwargs: Any) -> "Activations":
        """A copy with every tensor moved or cast, as ``Tensor.to``."""
        moved = Activations(list(self._calls))
        moved._calls = {k: [t.to(*args, **kwargs) for t in c] for k, c in self._calls.items()}
        return moved


@contextmanager
def record(
    model: "Model | nn.Module", hookpoints: str | Iterable[str], *, grad: bool = False
) -> Iterator[Activations]:
    """Record what hook points hold while you run the model inside the context.

    Parameters
    ----------
    model : a `Model`, or any ``nn.Module``.
    hookpoints : names, globs, roles, slices.
    grad : keep the tensors in the graph, so that gradients flow; detached otherwise.

    Raises
    ------
    LayerNotFound
        On leaving: a hook point never fired. The hooks are gone in any case.
    """
    model = load(model)
    points = model.resolve(hookpoints)
    acts = Activations([p.name for p in points])

    def keep(point: HookPoint, tensor: Tensor) -> None:
        acts._calls[point.name].append(tensor if grad else tensor.detach())

    with hooked(model.module, points, keep):
        yield acts
    all_fired({name: len(acts.calls(name)) for name in acts}, model.spec)


def run_with_cache(
    model: "Model | nn.Module | str",
    inputs: Any,
    hookpoints: str | Iterable[str],
    *,
    grad: bool = False,
) -> tuple[Any, Activations]:
    """The model's output on some inputs, and what the hook points held.

    Parameters
    ----------
    model : a `Model`, a module, or what `load` takes.
    inputs : text, a list of texts (padded on the right), a tensor, or a dict of tensors.
    hookpoints : names, globs, roles, slices. There is no "everything": say what you want.
    grad : build the graph; without it the forward runs under ``no_grad``.

    Returns
    -------
    (output, Activations)
        Activations are whole: [b, t, width], pads included.
    """
    model = load(model)
    with evaluating(model.module), torch.set_grad_enabled(grad):
        with record(model, hookpoints, grad=grad) as acts:
            out = model(inputs)
    return out, acts


def capture(
    model: "Model | nn.Module | str",
    data: "Dataset | str | Path | Sequence[str] | pd.DataFrame | Tensor",
    hookpoints: str | Iterable[str],
    *,
    pool: Pool = "last",
    batch_size: int | None = None,
    out: str | Path | None = None,
    dtype: str | None = None,
    max_length: int | None = None,
    shard_rows: int | None = None,
    resume: bool = False,
    force: bool = False,
    progress: Progress | None = None,
    text_column: str | None = None,
    label_column: str | Sequence[str] | None = None,
    group_column: str | None = None,
) -> ActivationStore:
    """Run a model over data and keep what the hook points held: a row a text or image.

    The forward stops after the last hook point asked for. Pads never enter: rows are padded on the
    right, where causal and masked attention are exact, and at the first use a few rows are run
    alone and in a batch; where they differ beyond the dtype's rounding, the capture is refused.

    Parameters
    ----------
    model : a `Model`, a module, or what `load` takes.
    data : a `Dataset`, or what `interp.data.read` takes.
    hookpoints : names, globs, roles, slices.
    pool : ``"last"``, ``"first"``, ``"mean"``, ``"weighted_mean"``, ``"max"``, or ``"all"`` for a
        row a token. The positions of a feature map [n, c, h, w] are its tokens, without an order.
    batch_size : rows of a forward; None fills batches to 4,096 tokens (64 images).
    out : a folder for the store; None keeps it in memory.
    dtype : of the stored rows; None keeps the model's.
    max_length : cut longer texts to so many tokens; without it they are refused.
    shard_rows : most rows of the data in a file of the store; None is 4,096. Batches are cut
        within shards, so it changes the numbers by rounding at most; a resumed store keeps its own.
    resume : go on with an incomplete capture of the same things in ``out``; of a damaged store
        only the shards that are missing, cut short or altered are captured again.
    force : replace a store in ``out``.
    progress : called with (rows done, rows, what).
    text_column, label_column, group_column : of the data, where not found by their names.

    Under torchrun all processes write one store in ``out``, a shard at a time each, equal bit for
    bit to that of one process with as many threads. Every process must make the call. With
    ``out=None`` each of them captures all of the data for itself.

    Returns
    -------
    ActivationStore
        Rows in the order of the data. A store on disk is the same, bit for bit, whether it was
        written in one go or resumed.

    Raises
    ------
    LayerNotFound
        A hook point does not exist, or never fires.
    DataError
        A text is empty or too long, or an activation is not finite (row and hook point named).
    ModelError
        The model is not batch invariant, or its forward fails.
    StoreError
        ``out`` holds something else, or cannot be written.
    """
    columns = {
        "text_column": text_column,
        "label_column": label_column,
        "group_column": group_column,
    }
    work = Capture(model, data, hookpoints, pool, batch_size, dtype, max_length, columns,
                   shard_rows=shard_rows)  # fmt: skip
    progress = live(progress, "capturing")
    if out is None:
        return work.in_memory(progress)
    return work.on_disk(Path(out), resume=resume, force=force, progress=progress)
