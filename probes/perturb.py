"""Perturbations: how far do the depth measures move when the input, the embedding or the weights
are disturbed?

Every run captures anew and probes with the settings of the clean run; the labels, groups and folds
stay. Source: Concept Depth, arXiv 2404.07066, which tries a random prefix, 16-bit and 8-bit
weights. Differs: the prefix is seeded, characters and words are disturbed too, noise is added at
the embedding, weights are rounded in place with no further library, and there is a 4-bit run.
"""

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from interp.capturing import Capture
from interp.data import Dataset, read
from interp.errors import DataError, ModelError, ParameterError, closest
from interp.hookpoints import HookPoint
from interp.hooks import hooked
from interp.loading import load
from interp.models import Model
from interp.placement import resident
from interp.pooling import Pool
from interp.results import Result
from interp.runs import versions
from probes.concepts import concept_name
from probes.curves import ConceptDepth
from probes.depth import concept_depth
from probes.paired import MEASURES, check_pair, paired_shifts
from probes.plan import BOOTSTRAP_DRAWS

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "PERTURBATIONS",
    "Perturbation",
    "Perturbed",
    "choose_perturbations",
    "embedding_noise",
    "noisy",
    "perturbation_effect",
    "quantised",
    "read_perturbation",
]

PERTURBATIONS: dict[str, float | None] = {
    "prefix": None,
    "swap": 0.05,
    "drop": 0.1,
    "gaussian": 0.1,
    "bfloat16": None,
    "int8": None,
    "int4": None,
}
"""Kinds, in the order of ``all``, with the default strength; None where there is none to choose."""

TEXT_NOISE = ("prefix", "swap", "drop")
BITS = {"int8": 8, "int4": 4}
EMBED = "embed"


@dataclass(frozen=True)
class Perturbation:
    """A kind of disturbance and its strength.

    Attributes
    ----------
    kind : a key of `PERTURBATIONS`.
    strength : ``swap``: share of letters that change place with the next one; ``drop``: share of
        words left out; ``gaussian``: deviation of the noise as a share of the embedding's root
        mean square. None for the others.
    """

    kind: str
    strength: float | None = None

    def __str__(self) -> str:
        return self.kind if self.strength is None else f"{self.kind}={self.strength:g}"


def read_perturbation(spec: str) -> Perturbation:
    """``"swap=0.05"`` or ``"int8"`` as a `Perturbation`; a strength left out is the default.

    Raises
    ------
    ParameterError
        No such kind, a strength where there is none to choose, or one outside its range.
    """
    kind, equals, value = spec.strip().partition("=")
    if kind not in PERTURBATIONS:
        hint = closest(kind, PERTURBATIONS) or f"there is {', '.join(PERTURBATIONS)}."
        raise ParameterError(f"{kind!r} is no perturbation; {hint}")
    default = PERTURBATIONS[kind]
    if not equals:
        return Perturbation(kind, default)
    if default is None:
        raise ParameterError(f"the perturbation {kind} has no strength to choose; got {spec!r}.")
    try:
        strength = float(value)
    except ValueError:
        strength = float("nan")
    top = float("inf") if kind == "gaussian" else 1.0
    if not 0 < strength <= top or not np.isfinite(strength):
        allowed = "above 0" if kind == "gaussian" else "above 0 and at most 1"
        raise ParameterError(f"the strength of {kind} is {allowed}; got {value!r}.")
    return Perturbation(kind, strength)


@dataclass(frozen=True, kw_only=True)
class Perturbed(Result):
    """Depth measures of a concept, undisturbed and under each perturbation.

    Attributes
    ----------
    label, groups : columns of the classes and of what is never split, or None.
    hookpoints, layers : as in `ConceptDepth`.
    majority : accuracy of the commonest class, the same for all runs.
    clean : of the undisturbed run: ``accuracy``, ``accuracy_low``, ``accuracy_high`` (lists, one
        entry a hook point), ``jump_point``, ``converging_point``, ``onset_depth`` (fractions of
        depth or None), ``peak``.
    runs : the same for each perturbation, with ``kind``, ``strength`` (or None) and, for each
        depth measure, ``…_shift``: its value less the clean one, None where either is undefined.
        Above 0 is later (of ``peak``: higher). ``…_shift_low`` and ``…_shift_high`` are its paired
        95 % interval or None, ``…_shift_undefined`` is the share of draws that lack the measure,
        and ``reasons`` says why something is None (`probes.paired.paired_shifts`).
    seed : of the noise, of the folds and of the draws.
    notes : what was done, in sentences.
    interval : how the intervals of the shifts were made.
    """

    kind: ClassVar[str] = "perturbation"

    label: str
    groups: str | None
    hookpoints: tuple[str, ...]
    layers: tuple[int, ...]
    majority: float
    clean: dict[str, Any]
    runs: tuple[dict[str, Any], ...]
    seed: int
    notes: tuple[str, ...] = field(default_factory=tuple)
    interval: str = ""

    def to_frame(self) -> "pd.DataFrame":
        """One row a run, the clean one first."""
        import pandas as pd

        ends = ("", "_low", "_high")
        shifts = [f"{m}_shift{end}" for m in MEASURES for end in ends]
        columns = ["kind", "strength", *MEASURES, *shifts]
        rows = [{"kind": "clean", "strength": None, **self.clean}, *self.runs]
        return pd.DataFrame([{c: row.get(c) for c in columns} for row in rows])

    def metrics(self) -> dict[str, Any]:
        """Numbers and names for ``metrics.json``."""
        return {
            "n": self.n,
            "mode": self.mode,
            "label": self.label,
            "groups": self.groups,
            "hookpoints": list(self.hookpoints),
            "majority": self.majority,
            "clean": _rounded(self.clean),
            "runs": [_rounded(run) for run in self.runs],
            "seed": self.seed,
            "interval": self.interval,
            "reasons": self.reasons,
        }


def _rounded(run: Mapping[str, Any]) -> dict[str, Any]:
    return {k: [round(v, 6) for v in x] if isinstance(x, list) else x for k, x in run.items()}


def perturbation_effect(
    model: Model | nn.Module | str,
    data: Any,
    kinds: str | Sequence[str] = "all",
    *,
    labels: str | Sequence[str] | None = None,
    groups: str | None = None,
    hookpoints: str | Sequence[str] = (EMBED, "resid_post.*"),
    pool: Pool = "last",
    batch_size: int | None = None,
    max_length: int | None = None,
    seed: int = 0,
    clean: Mapping[str, ConceptDepth] | None = None,
    folder: str | Path | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    **options: Any,
) -> tuple[Perturbed, ...]:
    """Concept depth under each perturbation, and how far each measure moves: one result a label.

    The model is disturbed in place and put back, also after an exception. One capture serves all
    labels of the data. Labels are kept: noise that takes away what a label rests on lowers the
    score too. Texts that noise makes too long for the model are cut.

    Parameters
    ----------
    kinds : such as ``["prefix", "swap=0.05", "int8"]``; ``"all"`` is every kind at its default
        strength but those that the data or the model cannot take (noise in the text of images, or
        at the embedding of a model without a stack of blocks).
    labels : columns; all labels of the data by default.
    groups : column; the data's own by default.
    hookpoints, pool, batch_size, max_length : as for `interp.capture`.
    seed : of the noise and of `concept_depth`.
    clean : label -> the undisturbed result of the same model, data and settings, where it is
        already known; made otherwise, also where it was saved without ``hits``.
    folder : where to keep the captured activations; in memory by default.
    progress : called with (runs done, of how many, the next one's name).
    options : passed on to `concept_depth`.

    Raises
    ------
    DataError
        There is no label, or a clean result is of other data, another model or other rows.
    ParameterError
        A clean result has other settings.
    InterpError
        As `choose_perturbations`, `interp.capture` and `concept_depth` say.

    Notes
    -----
    Each shift has a paired 95 % percentile interval: 1,000 draws of whole groups (rows where there
    are none), the same ones for the clean and the disturbed run, in which the measures are computed
    anew from the held-out answers (`probes.paired`). The probes are not fitted anew, and the noise
    is not drawn anew, so it says how the shift would vary with the rows, under this noise. An
    interval is for its shift alone: of twenty that should hold 0, one leaves it out by chance. It
    is None, with the reason, where more than 5 % of the draws lack the measure in one of the runs.
    """
    model, data = load(model), read(data)
    chosen = choose_perturbations(kinds, data, pool, model)
    columns = [labels] if isinstance(labels, str) else list(labels or data.labels)
    if not columns:
        raise DataError(f"{data.name} has no label column; name one with labels=….")
    group = groups if groups is not None else data.group
    wanted = [hookpoints] if isinstance(hookpoints, str) else list(hookpoints)
    at = None if folder is None else Path(folder)
    depths = {c: d for c, d in (clean or {}).items() if d.hits is not None}
    for column in columns:
        if column in depths:
            _same_source(depths[column], model, data)
    steps: list[Perturbation | None] = [*chosen]
    if any(c not in depths for c in columns):
        steps.insert(0, None)
    found: dict[str, list[tuple[Perturbation, ConceptDepth]]] = {c: [] for c in columns}
    notes: list[str] = []
    for i, step in enumerate(steps):
        if progress is not None:
            progress(i, len(steps), str(step or "clean"))
        with ExitStack() as stack:
            rows, said = data, None
            if step is not None:
                rows, said = _disturbed(stack, model, data, step, seed)
            place = None if at is None else at / f"{step or 'clean'}-{seed}"
            longest = max_length
            if step is not None and step.kind in TEXT_NOISE and longest is None:
                longest = model.max_length  # noise makes texts longer; what is too long is cut
            work = Capture(model, rows, wanted, pool, batch_size, None, longest)
            if place is None:
                store = work.in_memory()
            else:
                store = work.on_disk(place, resume=True, force=False)
        notes += [said] if said else []
        for column in columns:
            settings = {"random_features": False, **options}  # the clean result has that control
            depth = concept_depth(store, column, group, seed=seed, **settings)
            if step is None:
                depths.setdefault(column, depth)
            else:
                check_pair(depths[column], depth)  # now, not when all runs are done
                found[column].append((step, depth))
    if progress is not None:
        progress(len(steps), len(steps), "")
    return tuple(_result(depths[c], found[c], model, data, seed, notes) for c in columns)


def choose_perturbations(
    kinds: str | Sequence[str], data: Dataset, pool: str = "last", model: Model | None = None
) -> list[Perturbation]:
    """What is asked for, each once; ``"all"`` leaves out what the data or the model cannot take.

    Raises
    ------
    ParameterError
        Nothing is asked for, a kind is unknown (`read_perturbation`), or one disturbs text where
        each token has a row.
    DataError
        A kind disturbs text, and the data are no texts.
    """
    asked = [kinds] if isinstance(kinds, str) else list(kinds)
    chosen: list[Perturbation] = []
    for spec in asked:
        if spec.strip() != "all":
            chosen.append(read_perturbation(spec))
            continue
        left = set()
        if data.kind != "text" or pool == "all":
            left |= set(TEXT_NOISE)
        if model is not None and len(model.points.stacks) != 1:
            left.add("gaussian")
        chosen += [Perturbation(k, v) for k, v in PERTURBATIONS.items() if k not in left]
    chosen = list(dict.fromkeys(chosen))
    if not chosen:
        raise ParameterError(f"no perturbation was asked for; there is {', '.join(PERTURBATIONS)}.")
    for p in chosen:
        if p.kind in TEXT_NOISE and data.kind != "text":
            raise DataError(f"{p.kind} disturbs text, and {data.name} holds none ({data.kind}).")
        if p.kind in TEXT_NOISE and pool == "all":
            raise ParameterError(
                f"{p.kind} changes which tokens a text has, and with pool='all' each has a row; "
                "use gaussian, bfloat16, int8 or int4."
            )
    return chosen


def _disturbed(
    stack: ExitStack, model: Model, data: Dataset, step: Perturbation, seed: int
) -> tuple[Dataset, str]:
    """The data to run, with the model disturbed for as long as the stack is open."""
    if step.kind in TEXT_NOISE:
        changed = noisy(data, step, seed=seed)
        return changed, changed.notes[-1]
    if step.kind == "gaussian":
        strength = cast(float, step.strength)
        stack.enter_context(embedding_noise(model, strength, seed=seed))
        return data, (
            f"gaussian={strength:g}: noise of {strength:g} times the embedding's root mean square "
            "of the text is added to the embedding; equal inputs get equal noise."
        )
    count = stack.enter_context(quantised(model, step.kind))
    if step.kind == "bfloat16":
        return data, f"bfloat16: {count} weights and biases are rounded to bfloat16."
    return data, (
        f"{step.kind}: the weights of {count} linear and convolution layers are rounded to "
        f"{BITS[step.kind]} bits, symmetric, scaled by each output channel's largest size."
    )


def _same_source(clean: ConceptDepth, model: Model, data: Dataset) -> None:
    """Refuse a clean result that is known to be of other data or of another model."""
    for what, key, other, true in (
        ("data", "hash", f"other data than {data.name}", data.hash),
        ("model", "fingerprint", f"another model than {model.spec}", model.fingerprint),
    ):
        said = (clean.provenance.get(what) or {}).get(key)
        if said is not None and said != true:
            raise DataError(
                f"the clean result {clean.name} is of {other} ({key} {said[:8]}, expected "
                f"{true[:8]}); leave it out of clean=, and it is made."
            )


def _run(depth: ConceptDepth) -> dict[str, Any]:
    run: dict[str, Any] = {}
    for name in ("accuracy", "accuracy_low", "accuracy_high"):
        run[name] = [float(v) for v in getattr(depth, name)]
    return run | {name: getattr(depth, name) for name in MEASURES}


def _result(
    depth: ConceptDepth,
    found: Sequence[tuple[Perturbation, ConceptDepth]],
    model: Model,
    data: Dataset,
    seed: int,
    notes: Sequence[str],
) -> Perturbed:
    clean, units = _run(depth), "rows" if depth.n_groups is None else "groups"
    shifts = paired_shifts(depth, [other for _, other in found], seed=seed)
    runs = [
        {"kind": step.kind, "strength": step.strength, **_run(other), **moves}
        for (step, other), moves in zip(found, shifts, strict=True)
    ]
    reasons = {m: depth.reasons.get(m, "it is undefined in the clean run.")
               for m in MEASURES if clean[m] is None}  # fmt: skip
    return Perturbed(
        name=concept_name(data.name, depth.label),
        n=depth.n,
        mode=depth.mode,
        provenance={
            "model": model.identity(),
            "data": {"name": data.name, "hash": data.hash, "n": len(data)},
            "seed": seed,
            "versions": versions(),
        },
        reasons=reasons,
        label=depth.label,
        groups=depth.groups,
        hookpoints=depth.hookpoints,
        layers=depth.layers,
        majority=depth.majority,
        clean=clean,
        runs=tuple(runs),
        seed=seed,
        notes=tuple(notes),
        interval=(
            f"95 % percentile bootstrap of each shift by itself, {BOOTSTRAP_DRAWS:,} draws over "
            f"{units}, the same ones for the clean and the disturbed run, seed {seed}; neither the "
            "probes nor the noise are made anew."
        ),
    )


# -- the text ------------------------------------------------------------------------------------


def noisy(data: Dataset, step: Perturbation | str, *, seed: int = 0) -> Dataset:
    """The data with every text disturbed; the table of the rows stays.

    ``prefix`` puts ``aaa`` or ``bbb`` before every text by a coin flip, as Concept Depth's
    released code does (unseeded there; its paper speaks of half of the texts). ``swap`` exchanges
    a share of the letters with the next letter of the same word, no letter twice. ``drop`` leaves
    out a share of the words, one at least being kept; what is between words becomes one space.

    Parameters
    ----------
    step : `Perturbation` or its text, such as ``"swap=0.05"``.
    seed : the same seed, text and row give the same noise.

    Raises
    ------
    DataError
        The data are no texts.
    ParameterError
        The perturbation is not one of text.
    """
    step = read_perturbation(step) if isinstance(step, str) else step
    if step.kind not in TEXT_NOISE:
        raise ParameterError(f"{step.kind} disturbs no text; {', '.join(TEXT_NOISE)} do.")
    if data.kind != "text":
        raise DataError(f"{data.name} holds no texts ({data.kind}).")
    texts = cast("list[str]", data.inputs)
    change = {"prefix": _prefix, "swap": _swap, "drop": _drop}[step.kind]
    share = step.strength or 0.0
    inputs = [change(t, share, random.Random(f"{seed} {i}")) for i, t in enumerate(texts)]
    altered = sum(a != b for a, b in zip(inputs, texts, strict=True))
    note = f"{step}: {altered:,} of {len(texts):,} texts are changed (seed {seed})."
    return replace(data, inputs=inputs, marks={}, notes=(*data.notes, note))


def _prefix(text: str, share: float, rng: random.Random) -> str:
    return rng.choice(("aaa", "bbb")) + text


def _swap(text: str, share: float, rng: random.Random) -> str:
    letters = list(text)
    i = 0
    while i + 1 < len(letters):
        pair = letters[i].isalnum() and letters[i + 1].isalnum()
        if pair and rng.random() < share:
            letters[i], letters[i + 1] = letters[i + 1], letters[i]
            i += 1
        i += 1
    return "".join(letters)


def _drop(text: str, share: float, rng: random.Random) -> str:
    words = text.split()
    kept = [w for w in words if rng.random() >= share]
    return " ".join(kept or words[:1]) or text


# -- the embedding -------------------------------------------------------------------------------


@contextmanager
def embedding_noise(model: Model, strength: float, *, seed: int = 0) -> Iterator[None]:
    """Add Gaussian noise to what enters the first block, while the context is open.

    Its deviation is ``strength`` times the root mean square of the row's own embedding (pads left
    out). The noise is drawn from the seed and the row's input, so a row gets the same noise alone
    and in a batch, and equal texts get equal noise.

    Raises
    ------
    ModelError
        The model has no stack of blocks, so no embedding to disturb.
    """
    if len(model.points.stacks) != 1:
        raise ModelError(
            f"{model.spec} has {len(model.points.stacks)} stacks of blocks; noise at the embedding "
            "needs a model of one."
        )
    held: dict[str, Any] = {}

    def look(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        values = [*args, *(v for k, v in kwargs.items() if k != "attention_mask")]
        held["inputs"] = next((v for v in values if isinstance(v, Tensor)), None)
        held["mask"] = kwargs.get("attention_mask")

    def add(point: HookPoint, x: Tensor) -> Tensor:
        inputs, mask = held.get("inputs"), held.get("mask")
        if not isinstance(inputs, Tensor) or len(inputs) != len(x):
            raise ModelError(f"{model.spec} gives no input to draw the embedding's noise from.")
        new = x.clone()
        for i in range(len(x)):
            row, real = inputs[i], slice(None)
            if isinstance(mask, Tensor) and mask.shape[:2] == x.shape[:2]:
                real = mask[i].bool()
                row = row[real] if row.shape[:1] == real.shape else row
            spot = x[i, real]
            noise = _noise(row, spot.shape, seed).to(x.device, x.dtype)
            size = spot.double().pow(2).mean().sqrt().to(x.dtype)
            new[i, real] = spot + strength * size * noise
        return new

    handle = model.module.register_forward_pre_hook(look, with_kwargs=True)
    try:
        with hooked(model.module, model.resolve(EMBED), add):
            yield
    finally:
        handle.remove()


def _noise(row: Tensor, shape: Sequence[int], seed: int) -> Tensor:
    """Standard normal numbers that depend on the row's input and the seed alone."""
    values = row.detach().cpu().contiguous()
    if values.dtype == torch.bfloat16:
        values = values.float()
    digest = hashlib.sha256(f"{seed} {tuple(values.shape)} ".encode() + values.numpy().tobytes())
    start = int.from_bytes(digest.digest()[:7], "little")
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(start))


# -- the weights ---------------------------------------------------------------------------------


@contextmanager
def quantised(model: Model | nn.Module, kind: str) -> Iterator[int]:
    """Round the weights in place while the context is open; they come back bit for bit.

    ``int8`` and ``int4`` round the weight of every linear layer (also GPT-2's ``Conv1D``) and 2-d
    convolution: each output channel is scaled by its largest size a, and w becomes the nearest of
    the 2 q + 1 multiples of a / q, with q = 127 or 7; so ``|w - rounded| <= a / (2 q)``. A channel
    of zeros stays. The unembedding, and a weight that an embedding shares, stay as they are, as in
    common practice. ``bfloat16`` rounds every parameter of a wider dtype. The arithmetic stays in
    the model's own dtype: this measures what the rounding loses, not speed.

    Yields
    ------
    int
        How many weights are rounded.

    Raises
    ------
    ParameterError
        The kind is none of the three.
    ModelError
        There is nothing to round, or a device map keeps weights out of memory.
    """
    if kind not in (*BITS, "bfloat16"):
        raise ParameterError(f"weights are rounded to bfloat16, int8 or int4; got {kind!r}.")
    module = model.module if isinstance(model, Model) else model
    resident(module, "rounding its weights")
    if kind == "bfloat16":
        wide = [p for p in module.parameters() if p.dtype in (torch.float32, torch.float64)]
        targets = [(p, -1) for p in wide]
    else:
        targets = _linear_weights(module)
    if not targets:
        raise ModelError(f"there is no weight in {type(module).__name__} to round to {kind}.")
    kept: list[tuple[nn.Parameter, Tensor]] = []
    try:
        with torch.no_grad():
            for weight, axis in targets:
                kept.append((weight, weight.detach().to("cpu", copy=True)))
                if axis < 0:
                    weight.copy_(weight.to(torch.bfloat16))
                else:
                    weight.copy_(fake_quantised(weight, axis, BITS[kind]))
        yield len(targets)
    finally:
        with torch.no_grad():
            for weight, original in kept:
                weight.copy_(original)


def fake_quantised(weight: Tensor, axis: int, bits: int) -> Tensor:
    """The weight rounded to a symmetric grid of ``2**bits - 1`` values a channel of ``axis``."""
    top = 2 ** (bits - 1) - 1
    wide = weight.detach().to(torch.promote_types(weight.dtype, torch.float32))
    others = [i for i in range(wide.ndim) if i != axis]
    scale = wide.abs().amax(others, keepdim=True) / top
    steps = (wide / torch.where(scale > 0, scale, 1)).round().clamp(-top, top)
    return (steps * scale).to(weight.dtype)


def _linear_weights(module: nn.Module) -> list[tuple[nn.Parameter, int]]:
    """Weights of linear and convolution layers, with the axis of their output channels."""
    tables = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
    ask = getattr(getattr(module, "original_model", module), "get_output_embeddings", None)
    head = ask() if callable(ask) else None
    tables.add(id(getattr(head, "weight", None)))
    found: dict[int, tuple[nn.Parameter, int]] = {}
    for part in module.modules():
        weight = getattr(part, "weight", None)
        if not isinstance(weight, nn.Parameter) or id(weight) in tables:
            continue
        if isinstance(part, nn.Linear | nn.Conv2d):
            found[id(weight)] = (weight, 0)  # [out, in, ...]
        elif type(part).__name__ == "Conv1D" and weight.ndim == 2:
            found[id(weight)] = (weight, 1)  # GPT-2 keeps [in, out]
    return list(found.values())
