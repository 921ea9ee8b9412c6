"""What a model loses where its activations are made sparser: loss, accuracy and calibration
against density, undisturbed and under noise.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from interp.data import Dataset, read
from interp.errors import DataError, LayerNotFound, ModelError, ParameterError
from interp.feeds import Feed, TextFeed, feed
from interp.hooks import evaluating
from interp.loading import load
from interp.results import Result
from interp.runs import versions
from probes.perturb import embedding_noise
from probes.scores import BINS, bootstrap_weights, calibration_bins, calibration_of_bins
from probes.steering import check_language_model
from probes.topk import METHODS, Counting, sparsified

if TYPE_CHECKING:
    from interp.models import Model

__all__ = ["DensityCurve", "check_thinning", "density_curve"]

DENSITIES = (0.5, 0.25, 0.1, 0.05, 0.02)
CHUNK = 2**22
"""Most log-probabilities worked on at once in float64: 32 MiB a copy."""


@dataclass(frozen=True, kw_only=True)
class DensityCurve(Result):
    """What a model loses as its hook points (h of them) are made sparser in m steps.

    Arrays [r, m] have a row for the undisturbed input and, where noise was asked for, a second one
    for the noisy input.

    Attributes
    ----------
    task : ``"language"``: the next token of texts, n of them; ``"classes"``: the class of a row.
    method, ddof : as in `probes.sparsified`.
    hookpoints, widths : where, and the units there.
    densities : [m] shares of units that were asked for, falling, 1 (the model as it is) first.
    realised : [r, m, h] shares of values that are not 0 after the method; of a ReLU it is below 1
        at a density of 1 already.
    loss : [r, m] cross-entropy in nats, the mean over n; lower is better.
    increase_low, increase_high : [r, m] paired 95 % interval of the loss less that at density 1 of
        the same row; nan where there is a single document.
    accuracy : [r, m] share of right answers, 0 to 1.
    calibration_error : [r, m] over ``bins`` equal bins (`probes.calibration_error`), 0 to 1.
    noise : deviation of the noise as a share of the root mean square of the embedding, or of the
        input where the data are tensors; None where there is no second row.
    harm_low, harm_high : [m] paired 95 % interval of what the noise adds to the loss at each
        density, or None.
    bins : of the calibration error.
    documents : texts, rows, or groups where the data has them: what the bootstrap draws.
    draws, seed : of the bootstrap; the noise has the same seed.
    notes : what was chosen, in sentences.
    """

    kind: ClassVar[str] = "density_curve"

    task: str
    method: str
    ddof: int
    hookpoints: tuple[str, ...]
    widths: tuple[int, ...]
    densities: tuple[float, ...]
    realised: NDArray
    loss: NDArray
    increase_low: NDArray
    increase_high: NDArray
    accuracy: NDArray
    calibration_error: NDArray
    noise: float | None
    harm_low: NDArray | None
    harm_high: NDArray | None
    bins: int
    documents: int
    draws: int
    seed: int
    notes: tuple[str, ...] = ()

    def saved(self) -> NDArray:
        """[m] share of the second products' FLOPs that inactive neurons would save, undisturbed.

        Layers count by their width. The first products are not saved, so of the whole MLP it is
        half as much, a third where it is gated (`probes.mlp_flops`).
        Range: 0 to 1, higher saves more.
        """
        return 1 - self.realised[0] @ np.array(self.widths) / sum(self.widths)

    def to_frame(self) -> pd.DataFrame:
        """One row an input and density."""
        m = len(self.densities)
        rows = ["clean", *(["noisy"] if self.noise is not None else [])]
        columns = ("loss", "accuracy", "calibration_error", "increase_low", "increase_high")
        table = {name: getattr(self, name).ravel() for name in columns}
        spread = self.realised.reshape(-1, len(self.hookpoints))
        return pd.DataFrame(
            {
                "input": np.repeat(rows, m),
                "density": np.tile(self.densities, len(rows)),
                "realised": spread @ np.array(self.widths) / sum(self.widths),
                **table,
                **{f"realised.{h}": spread[:, i] for i, h in enumerate(self.hookpoints)},
            }
        )

    def metrics(self) -> dict[str, Any]:
        """Numbers and names for ``metrics.json``."""
        names = ("n", "task", "method", "ddof", "hookpoints", "widths", "densities", "realised",
                 "loss", "increase_low", "increase_high", "accuracy", "calibration_error", "noise",
                 "harm_low", "harm_high", "bins", "documents", "draws", "seed",
                 "reasons")  # fmt: skip
        return {**{name: getattr(self, name) for name in names}, "saved": self.saved().tolist()}


def density_curve(
    model: "Model | nn.Module | str",
    data: Any,
    densities: Sequence[float] = DENSITIES,
    *,
    hookpoints: str | Sequence[str] = "mlp_act.*",
    method: str = "topk",
    ddof: int = 0,
    noise: float | None = None,
    label: str | None = None,
    bins: int = BINS,
    batch_size: int | None = None,
    max_length: int | None = None,
    draws: int = 1000,
    seed: int = 0,
    name: str | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> DensityCurve:
    """Loss, accuracy and calibration of a model whose activations are made sparser and sparser.

    Each batch is run once a density, and once more with noise; nothing is kept but sums a row of
    the data, in float64.

    Parameters
    ----------
    data : texts for a causal language model, or rows with labels for a classifier.
    densities : shares of units to keep, above 0 and at most 1; 1 is always among them.
    hookpoints, method, ddof : as for `probes.sparsified`. The statistical method after a ReLU
        keeps another share than asked for, as its rows are not Gaussian: see ``realised``.
    noise : also run under Gaussian noise at the embedding, of this share of its root mean square
        (`probes.perturb.embedding_noise`); at the input where the data are tensors.
    label : column of the classes, for a classifier; the data's first by default.
    bins : of the calibration error.
    batch_size, max_length : of the forward, as for `interp.capture`.
    draws, seed : of the bootstrap over documents; the seed is that of the noise too.
    name : of the result; the data's by default.
    progress : called with (rows done, rows, what).

    Raises
    ------
    ParameterError
        A density, the method, the noise or ``bins`` is outside what it allows.
    ModelError
        The model is neither a causal language model nor a classifier.
    LayerNotFound
        A hook point does not exist or does not fire.
    DataError
        No text has two tokens, a classifier's data has no labels or ones that are no class of the
        model, or a loss is not finite.

    Notes
    -----
    Source: Li et al., arXiv 2210.06313, sections 4 and 5 (top-k, noise, calibration error).
    Differs: the model is not trained with the method, so it shows what the trained weights bear;
    the noise is at the input's embedding and not ImageNet-C.
    """
    model, source = load(model), read(data)
    shares = check_thinning(densities, method, ddof, noise, bins)
    if draws < 1 or (batch_size is not None and batch_size < 1):
        raise ParameterError("density_curve: draws and batch_size must be at least 1.")
    points = [p.name for p in model.resolve(hookpoints)]
    work = feed(model, source, max_length)
    answers = _Answers.of(model, work, source, label)
    noisy = _Noise(model, source, noise, seed, max_length)
    rows = [i for i, count in enumerate(answers.counts(work)) if count]
    if not rows:
        raise DataError(f"no text of {source.name} has two tokens, so nothing is predicted.")
    kinds = [False] if noise is None else [False, True]
    sums = np.zeros((3, len(kinds), len(shares), len(source)))  # loss, hits, tokens
    gaps = np.zeros((len(kinds), len(shares), bins))
    counting = [[Counting() for _ in shares] for _ in kinds]
    done = 0
    with evaluating(model.module), torch.inference_mode():
        for batch in _batches(work, rows, batch_size):
            for i, disturbed in enumerate(kinds):
                for j, share in enumerate(shares):
                    with ExitStack() as stack:
                        run = noisy.enter(stack, work) if disturbed else work
                        seen = counting[i][j]
                        seen.mask = answers.mask(work, batch)
                        stack.enter_context(
                            sparsified(model, points, density=share, method=method, ddof=ddof,
                                       counting=seen)
                        )  # fmt: skip
                        output = run.run(batch)
                    found = answers.score(output, work, batch, bins)
                    np.add.at(sums[0, i, j], found.rows, found.loss)
                    np.add.at(sums[1, i, j], found.rows, found.right)
                    np.add.at(sums[2, i, j], found.rows, 1)
                    gaps[i, j] += found.gaps
            done += len(batch)
            if progress is not None:
                progress(done, len(rows), "rows")
    missing = [h for h in points if h not in counting[0][0].nonzero]
    if missing:
        raise LayerNotFound(f"{', '.join(missing)} never fired in a forward of {model.spec}.")
    if not np.isfinite(sums).all():
        row = int((~np.isfinite(sums)).any((0, 1, 2)).argmax())
        raise DataError(f"row {row} of {source.name} has a loss that is not finite.")
    table = _by_document(source, rows, sums)
    n = int(table[2, 0, 0].sum())
    loss, accuracy = table[0].sum(-1) / n, table[1].sum(-1) / n
    intervals, reasons = _intervals(table, draws, seed)
    return DensityCurve(
        name=name or source.name,
        n=n,
        provenance={
            "model": model.identity(),
            "data": {"name": source.name, "hash": source.hash, "n": len(source)},
            "label": answers.label,
            "seed": seed,
            "versions": versions(),
        },
        reasons=reasons,
        task=answers.task,
        method=method,
        ddof=ddof,
        hookpoints=tuple(points),
        widths=tuple(counting[0][0].widths[h] for h in points),
        densities=tuple(shares),
        realised=np.array([[[c.density()[h] for h in points] for c in line] for line in counting]),
        loss=loss,
        accuracy=accuracy,
        calibration_error=np.array([[calibration_of_bins(g, n) for g in line] for line in gaps]),
        noise=noise,
        bins=bins,
        documents=table.shape[-1],
        draws=draws,
        seed=seed,
        notes=answers.notes,
        **intervals,
    )


def check_thinning(
    densities: Sequence[float], method: str, ddof: int, noise: float | None, bins: int
) -> list[float]:
    """The densities, falling, with 1 among them.

    Raises
    ------
    ParameterError
        As `density_curve` says.
    """
    for share in densities:
        if not 0 < share <= 1:
            raise ParameterError(f"densities are above 0 and at most 1; got {share!r}.")
    if method not in METHODS or ddof not in (0, 1):
        raise ParameterError(
            f"method must be one of {', '.join(METHODS)} and ddof 0 or 1; got {method!r}, {ddof!r}."
        )
    if noise is not None and not 0 < noise < float("inf"):
        raise ParameterError(f"noise must be above 0; got {noise!r}.")
    if bins < 1:
        raise ParameterError(f"bins must be at least 1; got {bins!r}.")
    return sorted({1.0, *map(float, densities)}, reverse=True)


def _batches(work: Feed, rows: Sequence[int], size: int | None) -> Iterator[list[int]]:
    order = sorted(rows, key=lambda i: (-work.lengths[i], i))
    while order:
        most = size or work.batch_rows(work.lengths[order[0]])
        yield order[:most]
        order = order[most:]


@dataclass(frozen=True)
class _Scores:
    """Of each answer: the row of the data, its loss, whether it is right; and the bins' sums."""

    rows: NDArray
    loss: NDArray
    right: NDArray
    gaps: NDArray


@dataclass(frozen=True)
class _Answers:
    """What the model is to say: the next token, or the class of each row."""

    task: str
    label: str | None = None
    classes: Tensor | None = None
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, model: "Model", work: Feed, data: Dataset, label: str | None) -> "_Answers":
        with evaluating(model.module), torch.inference_mode():
            logits = _logits(work.run([0]))
        if data.kind == "text" and logits is not None and logits.ndim == 3:
            if getattr(model.config, "is_encoder_decoder", False):
                raise ModelError(f"{model.spec} is an encoder-decoder; take a causal model.")
            check_language_model(model)
            return cls("language")
        if logits is None or logits.ndim != 2:
            raise ModelError(
                f"{model.spec} gives neither the next token's logits nor a class's for "
                f"{data.name}, so it has no loss."
            )
        column = label or next(iter(data.labels), None)
        if column is None or column not in data.rows:
            raise DataError(
                f"{data.name} has no label column for {model.spec} to answer; name one with "
                "label=… (--label-column)."
            )
        known, notes = _known_classes(data, column, model, logits.shape[1])
        return cls("classes", column, _classes(data, column, known), notes)

    def counts(self, work: Feed) -> list[int]:
        """Answers that each row of the data has."""
        if self.classes is not None:
            return (self.classes >= 0).int().tolist()
        return [length - 1 for length in work.lengths]

    def mask(self, work: Feed, batch: Sequence[int]) -> Tensor | None:
        """The real positions of a batch of texts, or None where all of them are."""
        if not isinstance(work, TextFeed):
            return None
        return work.model.pad([work.ids[r] for r in batch])["attention_mask"].bool()

    def score(self, output: Any, work: Feed, batch: Sequence[int], bins: int) -> _Scores:
        logits = _logits(output)
        assert logits is not None  # noqa: S101  the first forward had them
        if self.classes is not None:
            targets, rows = self.classes[list(batch)].to(logits.device), np.array(batch)
        else:
            assert isinstance(work, TextFeed)  # noqa: S101  a language model reads text
            ids = work.model.pad([work.ids[r] for r in batch])
            real = ids["attention_mask"][:, 1:].bool()
            targets, logits = ids["input_ids"][:, 1:][real], logits[:, :-1][real]
            rows = np.repeat(batch, real.sum(1).cpu().numpy())
        loss, right, confidence = _score(logits, targets)
        return _Scores(rows, loss, right, calibration_bins(confidence, right, bins=bins))


def _known_classes(
    data: Dataset, column: str, model: "Model", c: int
) -> tuple[dict[str, int], tuple[str, ...]]:
    """Label -> index of its class: as the model's config names them, their numbers, or in order."""
    names = getattr(model.config, "id2label", None) or {}
    known = {str(v): int(k) for k, v in names.items() if int(k) < c}
    known |= {str(i): i for i in range(c)}
    found = sorted({_as_text(v) for v in data.rows[column].dropna()})
    unknown = [v for v in found if v not in known]
    if not unknown:
        return known, ()
    if len(found) == c:
        note = f"the labels of {column} are the model's {c} classes in alphabetical order"
        return {v: i for i, v in enumerate(found)}, (note,)
    raise DataError(
        f"the label {unknown[0]!r} of {data.name} is none of the {c} classes of {model.spec}: "
        f"give their indexes 0..{c - 1}, or all {c} names."
    )


def _classes(data: Dataset, column: str, known: dict[str, int]) -> Tensor:
    """The class index of each row, -1 where the label is missing."""
    values = data.rows[column]
    return torch.tensor([-1 if pd.isna(v) else known[_as_text(v)] for v in values])


def _as_text(value: Any) -> str:
    """A label as text; a whole number that a column with gaps keeps as a float is that number."""
    return str(int(value)) if isinstance(value, float) and value == int(value) else str(value)


def _logits(output: Any) -> Tensor | None:
    found = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    return found if isinstance(found, Tensor) else None


def _score(logits: Tensor, targets: Tensor) -> tuple[NDArray, NDArray, NDArray]:
    """Cross-entropy, whether the likeliest is right, and its probability: [m] each, in float64."""
    size = max(1, CHUNK // logits.shape[1])
    losses, right, confidence = [], [], []
    for start in range(0, len(logits), size):
        rows = slice(start, start + size)
        log_p = logits[rows].double().log_softmax(1)
        best, answer = log_p.max(1)
        losses.append(-log_p.gather(1, targets[rows, None])[:, 0])
        right.append(answer == targets[rows])
        confidence.append(best.exp())
    parts = (torch.cat(p).cpu().numpy() for p in (losses, right, confidence))
    one, two, three = parts
    return one, two, three


class _Noise:
    """Runs rows with noise: at the input where the data are tensors, else at the embedding."""

    def __init__(
        self, model: "Model", data: Dataset, noise: float | None, seed: int, max_length: int | None
    ) -> None:
        self.model, self.noise, self.seed = model, noise, seed
        self.feed: Feed | None = None
        if noise is not None and isinstance(data.inputs, Tensor):
            x = data.inputs
            generator = torch.Generator().manual_seed(seed)
            size = x.double().flatten(1).square().mean(1).sqrt().to(x.dtype)
            added = torch.randn(x.shape, generator=generator, dtype=x.dtype)
            scaled = noise * size.reshape(-1, *[1] * (x.ndim - 1)) * added
            self.feed = feed(model, replace(data, inputs=x + scaled), max_length)

    def enter(self, stack: ExitStack, clean: Feed) -> Feed:
        """What runs the rows while the stack is open."""
        if self.feed is not None:
            return self.feed
        assert self.noise is not None  # noqa: S101  only then a noisy row is run
        stack.enter_context(embedding_noise(self.model, self.noise, seed=self.seed))
        return clean


def _by_document(data: Dataset, rows: list[int], sums: NDArray) -> NDArray:
    """The sums of each group, or of each row where there are no groups, [3, r, m, documents]."""
    kept = sums[..., rows]
    if data.group is None:
        return kept
    units = pd.factorize(data.rows[data.group].iloc[rows], use_na_sentinel=False)[0]
    table = np.zeros((int(units.max()) + 1, *kept.shape[:-1]))
    np.add.at(table, units, np.moveaxis(kept, -1, 0))
    return np.moveaxis(table, 0, -1)


def _intervals(table: NDArray, draws: int, seed: int) -> tuple[dict[str, Any], dict[str, str]]:
    """Percentile intervals over draws of whole documents, the same ones for all runs."""
    _, r, m, g = table.shape
    blank = np.full((r, m), np.nan)
    noisy = r == 2
    if g == 1:
        line = np.full(m, np.nan) if noisy else None
        why = "one document has no interval"
        return {
            "increase_low": blank, "increase_high": blank, "harm_low": line, "harm_high": line,
        }, {"increase_low": why, "increase_high": why}  # fmt: skip
    weights = bootstrap_weights(np.arange(g), draws=draws, seed=seed).astype(np.float64)
    losses, tokens = table[0], table[2]
    drawn = np.einsum("dg,rmg->drm", weights, losses) / np.einsum("dg,rmg->drm", weights, tokens)
    low, high = np.quantile(drawn - drawn[:, :, :1], [0.025, 0.975], axis=0)
    ends: list[Any] = [None, None]
    if noisy:
        ends = list(np.quantile(drawn[:, 1] - drawn[:, 0], [0.025, 0.975], axis=0))
    return {
        "increase_low": low, "increase_high": high, "harm_low": ends[0], "harm_high": ends[1],
    }, {}  # fmt: skip
