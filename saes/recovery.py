"""How much of a language model's loss is kept when it reads an SAE's reconstruction."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from interp.data import read
from interp.errors import DataError, LayerNotFound, ModelError, ParameterError, ShapeError
from interp.feeds import TextFeed
from interp.hooks import evaluating
from interp.intervene import ablate, splice
from interp.live import live
from interp.loading import load
from interp.results import Result
from probes.steering import check_language_model
from saes.base import SAE
from saes.evaluation import describe

if TYPE_CHECKING:
    from interp.models import Model

__all__ = ["LossRecovered", "loss_recovered"]

CHUNK = 2**22
"""Most log-probabilities worked on at once in float64: 32 MiB a copy."""
SUMS = ("tokens", "clean", "spliced", "zero", "mean", "kl")
"""What is summed over the tokens of each document."""


@dataclass(frozen=True, kw_only=True)
class LossRecovered(Result):
    """Next-token loss of a model that reads reconstructions, beside one that reads nothing there.

    Losses are in nats a token, means over all tokens that have a token before them in their text
    (the first of a text is predicted by nothing). Pads are no tokens. Texts of one token are left
    out of everything.

    Attributes
    ----------
    hookpoint, out_hookpoint : what the SAE reads, and what its output replaces.
    ce_clean : cross-entropy of the model as it is.
    ce_spliced : with the SAE's reconstruction in place of the activation, at every position.
    ce_zero : with 0 in place of the activation, at every position.
    ce_mean : with the activation's mean over all positions of the same texts.
    recovered_zero : ``(ce_zero - ce_spliced) / (ce_zero - ce_clean)``. 1 is the clean loss, 0 that
        of the ablation; above 1 the splice lowers the loss, below 0 it is worse than ablating.
        None where the ablation does not raise the loss. Zero-ablating a residual stream costs so
        much that nearly any SAE comes near 1: read ``recovered_mean`` and ``kl`` beside it.
    recovered_mean : the same against ``ce_mean``.
    ce_increase : ``ce_spliced - ce_clean``.
    kl : mean of KL(clean || spliced) over the same positions, in nats; at least 0.
    intervals : measure -> (low, high), 95 % by bootstrap over documents, for the last four; None
        where there is one document, or where the measure is undefined in a draw.
    documents : texts, or groups where the data has them, which are drawn whole.
    n_texts : texts with at least two tokens; n counts tokens.
    draws, seed : of the bootstrap.
    """

    kind: ClassVar[str] = "loss_recovered"

    hookpoint: str
    out_hookpoint: str
    ce_clean: float
    ce_spliced: float
    ce_zero: float
    ce_mean: float
    recovered_zero: float | None
    recovered_mean: float | None
    ce_increase: float
    kl: float
    intervals: dict[str, tuple[float, float] | None]
    documents: int
    n_texts: int
    draws: int
    seed: int

    def to_frame(self) -> pd.DataFrame:
        """One row a measure, with its interval."""
        names = ("ce_clean", "ce_spliced", "ce_zero", "ce_mean", *MEASURES)
        bounds = [self.intervals.get(name) or (np.nan, np.nan) for name in names]
        values = [getattr(self, name) for name in names]
        frame = {"measure": names, "value": [np.nan if v is None else v for v in values]}
        return pd.DataFrame(
            {**frame, "low": [b[0] for b in bounds], "high": [b[1] for b in bounds]}
        )

    def metrics(self) -> dict[str, Any]:
        """Numbers and names for ``metrics.json``."""
        names = ("n", "hookpoint", "out_hookpoint", "ce_clean", "ce_spliced", "ce_zero", "ce_mean",
                 *MEASURES, "intervals", "documents", "n_texts", "draws", "seed",
                 "reasons")  # fmt: skip
        return {name: getattr(self, name) for name in names}


MEASURES = ("recovered_zero", "recovered_mean", "ce_increase", "kl")


def loss_recovered(
    model: "Model | nn.Module | str",
    sae: SAE,
    data: Any,
    hookpoint: str,
    *,
    out_hookpoint: str | None = None,
    batch_size: int | None = None,
    max_length: int | None = None,
    draws: int = 1000,
    seed: int = 0,
    name: str | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> LossRecovered:
    """How much of a causal language model's loss survives when it reads reconstructions.

    The texts are run twice: once for the mean activation, once clean, spliced, and ablated both
    ways. Nothing is kept but sums a text, in float64.

    Parameters
    ----------
    data : texts, as `interp.data.read` takes them. Where the data has a group column, groups are
        the documents of the bootstrap.
    hookpoint : one hook point, whose activation the SAE reads.
    out_hookpoint : for a transcoder, the hook point that its output replaces; it must fire later.
    batch_size : texts of a forward; None fills batches to 4,096 tokens.
    max_length : cut longer texts to so many tokens; without it they are refused.
    draws : of the bootstrap.
    seed : of the bootstrap.
    name : of the result; None for the hook point.
    progress : called with (texts done, texts, what).

    Raises
    ------
    ModelError
        The model is no causal language model.
    LayerNotFound
        The hook point does not exist, or does not fire once in a forward.
    ShapeError
        The activation does not have the SAE's width.
    DataError
        The data is no text, no text has two tokens, or a loss is not finite.
    ParameterError
        ``out_hookpoint`` is missing or not wanted, or a setting is outside what it allows.
    """
    model, texts = load(model), read(data)
    where = _site(sae, hookpoint, out_hookpoint)
    if draws < 1 or (batch_size is not None and batch_size < 1):
        raise ParameterError("loss_recovered: draws and batch_size must be at least 1.")
    if texts.kind != "text":
        raise DataError(f"{texts.name} holds no texts, and a language model's loss needs them.")
    if getattr(model.config, "is_encoder_decoder", False):
        raise ModelError(f"{model.spec} is an encoder-decoder; take a causal language model.")
    check_language_model(model)
    for point in {hookpoint, where}:
        if len(model.resolve(point)) != 1:
            raise ParameterError(f"loss_recovered takes one hook point; {point!r} means several.")
    feed = TextFeed(model, texts, max_length)
    kept = [i for i, length in enumerate(feed.lengths) if length > 1]
    if not kept:
        raise DataError(f"no text of {texts.name} has two tokens, so nothing is predicted.")
    batches = list(_batches(feed, kept, batch_size))
    sums = np.zeros((len(texts), len(SUMS)))
    with evaluating(model.module), evaluating(sae), torch.inference_mode():
        mean = _mean(model, feed, where, batches)
        runs = {
            "clean": nullcontext,
            "spliced": lambda: _spliced(model, sae, hookpoint, where),
            "zero": lambda: ablate(model, where),
            "mean": lambda: ablate(model, where, value=mean),
        }
        done, progress = 0, live(progress, "loss recovered")
        for rows in batches:
            _add_losses(sums, model, feed, rows, runs)
            done += len(rows)
            if progress is not None:
                progress(done, len(kept), "texts")
    if not np.isfinite(sums).all():
        row = int((~np.isfinite(sums)).any(1).argmax())
        raise DataError(f"row {row} of {texts.name} has a loss that is not finite.")
    groups = None if texts.group is None else texts.rows[texts.group].iloc[kept]
    units = (
        np.arange(len(kept)) if groups is None else pd.factorize(groups, use_na_sentinel=False)[0]
    )
    table = np.zeros((int(units.max()) + 1, len(SUMS)))
    np.add.at(table, units, sums[kept])
    values: dict[str, Any]
    values, reasons = _measures(table.sum(0))
    intervals, why = _intervals(table, draws, seed)
    total = table.sum(0)
    ce = total[1:5] / total[0]
    return LossRecovered(
        name=name or hookpoint,
        n=int(total[0]),
        provenance={
            **describe(sae),
            "model": model.identity(),
            "data": {"name": texts.name, "hash": texts.hash, "n": len(texts)},
            "seed": seed,
        },
        reasons={**why, **reasons},
        hookpoint=hookpoint,
        out_hookpoint=where,
        **dict(zip(("ce_clean", "ce_spliced", "ce_zero", "ce_mean"), ce.tolist(), strict=True)),
        **values,
        intervals=intervals,
        documents=len(table),
        n_texts=len(kept),
        draws=draws,
        seed=seed,
    )


def _site(sae: SAE, hookpoint: str, out_hookpoint: str | None) -> str:
    """Where the SAE's output goes."""
    if len(sae.in_shape) != 1:
        raise ParameterError("a crosscoder reads several hook points and cannot be spliced in one.")
    if sae.transcodes != (out_hookpoint is not None):
        need = (
            "a transcoder needs out_hookpoint, which its output replaces"
            if sae.transcodes
            else "out_hookpoint is for transcoders; this SAE's output replaces what it reads"
        )
        raise ParameterError(f"loss_recovered: {need}.")
    return out_hookpoint or hookpoint


def _batches(feed: TextFeed, rows: Sequence[int], size: int | None) -> Iterator[list[int]]:
    order = sorted(rows, key=lambda i: (-feed.lengths[i], i))
    while order:
        most = size or feed.batch_rows(feed.lengths[order[0]])
        yield order[:most]
        order = order[most:]


@contextmanager
def _spliced(model: "Model", sae: SAE, hookpoint: str, where: str) -> Iterator[None]:
    """The SAE in place of an activation; a transcoder holds its input until its output is due."""
    device = sae.decoder.device
    held: list[Tensor] = []

    def hold(x: Tensor) -> Tensor:
        held.append(x)
        return x

    def replace(x: Tensor) -> Tensor:
        if not held:
            raise ParameterError(f"{where} fires before {hookpoint}, which a transcoder reads.")
        return sae(held.pop().to(device)).output.to(x.device)

    with splice(model, hookpoint, hold), splice(model, where, replace):
        yield


def _mean(model: "Model", feed: TextFeed, where: str, batches: list[list[int]]) -> Tensor:
    """The mean activation over the real positions of all texts, in float64."""
    total: Tensor | None = None
    count, fired = 0, 0

    def see(x: Tensor) -> Tensor:
        nonlocal total, count, fired
        mask = feed.mask
        assert mask is not None  # noqa: S101  a causal model's text has one
        if x.shape[:2] == mask.shape:
            real = x[mask]
        elif len(x) == mask.numel():  # [b * t, width], as in OPT's MLP
            real = x[mask.flatten()]
        else:
            raise ShapeError(
                f"{where} holds {list(x.shape)}, which does not have the text's positions "
                f"{list(mask.shape)}."
            )
        part = real.double().sum(0)
        total = part if total is None else total + part
        count, fired = count + len(real), fired + 1
        return x

    with splice(model, where, see):
        for rows in batches:
            feed.run(rows)
    if total is None or fired != len(batches):
        raise LayerNotFound(
            f"{where} fired {fired} times in {len(batches)} forwards of {model.spec}; it must fire "
            "once in each."
        )
    return total / count


def _add_losses(
    sums: NDArray, model: "Model", feed: TextFeed, rows: list[int], runs: dict[str, Callable]
) -> None:
    """Add to each text's sums what its tokens lose in every run."""
    ids = model.pad([feed.ids[r] for r in rows])
    real = ids["attention_mask"][:, 1:].bool()
    targets = ids["input_ids"][:, 1:][real]
    texts = np.repeat(rows, real.sum(1).cpu().numpy())
    np.add.at(sums[:, 0], texts, 1)
    clean = None
    for column, run in enumerate(runs.values(), start=1):
        with run():
            output = feed.run(rows)
        logits = (output if isinstance(output, Tensor) else output.logits)[:, :-1][real]
        clean = logits if clean is None else clean
        losses, divergences = _losses(logits, targets, clean if column == 2 else None)
        np.add.at(sums[:, column], texts, losses)
        if divergences is not None:
            np.add.at(sums[:, SUMS.index("kl")], texts, divergences)


def _losses(
    logits: Tensor, targets: Tensor, clean: Tensor | None
) -> tuple[NDArray, NDArray | None]:
    """Cross-entropy [m] of tokens, and KL(clean || these) [m], in float64."""
    size = max(1, CHUNK // logits.shape[1])
    losses, divergences = [], []
    for start in range(0, len(logits), size):
        rows = slice(start, start + size)
        q = logits[rows].double().log_softmax(1)
        losses.append(-q.gather(1, targets[rows, None])[:, 0])
        if clean is not None:
            p = clean[rows].double().log_softmax(1)
            divergences.append((p.exp() * (p - q)).sum(1))
    kl = torch.cat(divergences).cpu().numpy() if divergences else None
    return torch.cat(losses).cpu().numpy(), kl


def _measures(total: NDArray) -> tuple[dict[str, float | None], dict[str, str]]:
    """The four measures from summed tokens, losses and divergences."""
    _, clean, spliced, zero, mean, kl = total / total[0]
    values: dict[str, float | None] = {}
    reasons = {}
    for name, ablated in (("zero", zero), ("mean", mean)):
        harm = ablated - clean
        values[f"recovered_{name}"] = float((ablated - spliced) / harm) if harm > 0 else None
        if not harm > 0:
            reasons[f"recovered_{name}"] = (
                f"the {name}-ablation does not raise the loss ({ablated:.4f} from {clean:.4f}), so "
                "there is nothing to recover"
            )
    return {**values, "ce_increase": float(spliced - clean), "kl": float(kl)}, reasons


def _intervals(
    table: NDArray, draws: int, seed: int
) -> tuple[dict[str, tuple[float, float] | None], dict[str, str]]:
    """Percentile intervals of the measures over draws of whole documents."""
    if len(table) == 1:
        return dict.fromkeys(MEASURES), {"intervals": "one document has no interval"}
    rng, g = np.random.default_rng(seed), len(table)
    drawn: dict[str, list[float]] = {name: [] for name in MEASURES}
    for _ in range(draws):
        weights = np.bincount(rng.integers(0, g, g), minlength=g)
        for name, value in _measures(weights @ table)[0].items():
            if value is not None:
                drawn[name].append(value)
    found: dict[str, tuple[float, float] | None] = {}
    reasons = {}
    for name, values in drawn.items():
        found[name] = None
        if len(values) == draws:
            low, high = np.quantile(values, [0.025, 0.975])
            found[name] = (float(low), float(high))
        else:
            reasons[f"intervals.{name}"] = (
                f"in {draws - len(values)} of {draws} draws the ablation does not raise the loss"
            )
    return found, reasons
