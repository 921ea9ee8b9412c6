"""Using a probe's direction: does adding it flip the model's answer, and which words does it name?

`steering_effect` adds the direction while the model runs; `logit_lens` reads it through the final
norm and the unembedding.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import interp
from interp.capturing import Capture
from interp.data import Dataset, read
from interp.errors import DataError, ModelError, ParameterError, ShapeError
from interp.feeds import TextFeed
from interp.hooks import evaluating
from interp.loading import load
from interp.models import Model
from interp.placement import real
from interp.pooling import Pool
from interp.results import Result
from interp.runs import versions
from probes.concepts import Concept, read_concept
from probes.curves import ConceptDepth
from probes.scores import bootstrap_weights, weighted_interval

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "LogitLens",
    "Steering",
    "answer_tokens",
    "check_language_model",
    "logit_lens",
    "steering_effect",
    "stream_hookpoints",
]

ALPHAS = (-4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 4.0)
DRAWS = 1000
BATCH = 16
EPSILONS = 8
"""Rounding steps of the largest logit by which a later token may move an earlier position's."""
RARE = 0.01
"""Mean probability of all answers below which the result says that they are rare."""
ROUNDING = 1e-6
"""Share of the largest activation along a direction below which a difference is rounding."""


@dataclass(frozen=True, kw_only=True)
class Steering(Result):
    """What a model answers while a multiple of a direction is added to one hook point.

    Arrays have one entry a strength, in the order of ``alphas``.

    Attributes
    ----------
    label : column of the classes that the direction tells apart.
    hookpoint : where it is added, at every position.
    classes : the two classes; the direction points towards the last.
    answers : class -> the tokens, as text, that count as answering it.
    alphas : strengths; 1 moves an activation by the difference of the two classes' means, as far
        as it lies along the direction.
    step : length of the vector that alpha = 1 adds, in the activation's own units.
    log_odds, log_odds_low, log_odds_high : mean over rows of log p(tokens of the last class) less
        log p(tokens of the first) at the last position, in nats, and its 95 % bootstrap interval
        over groups (rows where there are none).
    positive : share of rows that answer the last class (log-odds above 0), 0 to 1.
    flipped : share of rows whose answer differs from theirs at alpha = 0, 0 to 1.
    right : share of rows whose answer is their label, 0 to 1.
    random_log_odds, random_low, random_high : the same mean for random directions of equal length
        (their mean, their smallest and their largest).
    random_flipped : share of rows that random directions flip, their mean.
    directions : how many random directions.
    slope, random_slope : least-squares slope of the mean log-odds over alpha, nats a unit; for the
        random directions the one of largest size.
    answer_mass : mean probability that the model without steering gives to all the answer tokens
        together, 0 to 1; a small one says that the model does not take the text for a question.
    seed : of the random directions, the choice of rows and the bootstrap.
    notes : what was done, in sentences.
    """

    kind: ClassVar[str] = "steering"

    label: str
    hookpoint: str
    classes: tuple[str, ...]
    answers: dict[str, list[str]]
    alphas: tuple[float, ...]
    step: float
    log_odds: NDArray
    log_odds_low: NDArray
    log_odds_high: NDArray
    positive: NDArray
    flipped: NDArray
    right: NDArray
    random_log_odds: NDArray
    random_low: NDArray
    random_high: NDArray
    random_flipped: NDArray
    directions: int
    slope: float
    random_slope: float
    answer_mass: float
    seed: int
    notes: tuple[str, ...] = field(default_factory=tuple)

    def to_frame(self) -> "pd.DataFrame":
        """One row a strength."""
        import pandas as pd

        columns = {name: getattr(self, name) for name in _CURVES}
        return pd.DataFrame({"alpha": list(self.alphas), **columns})

    def metrics(self) -> dict[str, Any]:
        """Numbers and names for ``metrics.json``."""
        single = ("n", "label", "hookpoint", "answers", "step", "slope", "random_slope",
                  "answer_mass", "directions", "seed", "reasons")  # fmt: skip
        table: dict[str, Any] = {name: getattr(self, name) for name in single}
        table |= {"classes": list(self.classes), "alphas": list(self.alphas)}
        for name in _CURVES:
            table[name] = [round(float(v), 6) for v in getattr(self, name)]
        return table


_CURVES = ("log_odds", "log_odds_low", "log_odds_high", "positive", "flipped", "right",
           "random_log_odds", "random_low", "random_high", "random_flipped")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class LogitLens(Result):
    """The tokens that a direction of the residual stream raises and lowers most.

    Attributes
    ----------
    n : tokens of the vocabulary.
    hookpoint : where the direction was read, or None.
    towards : the class that it points to, or None where it is not that of a concept.
    raised, lowered : the tokens as text, the strongest first.
    raised_ids, lowered_ids : their ids.
    raised_logits, lowered_logits : what the direction adds to their logits, the mean over the
        vocabulary taken off: a shift that all tokens share changes no probability. For a
        direction whose root mean square, as the final norm takes it, is 1.
    spread : standard deviation over the vocabulary of what it adds.
    notes : what was done, in sentences.
    """

    kind: ClassVar[str] = "logit_lens"

    hookpoint: str | None
    towards: str | None = None
    raised: tuple[str, ...]
    lowered: tuple[str, ...]
    raised_ids: tuple[int, ...]
    lowered_ids: tuple[int, ...]
    raised_logits: NDArray
    lowered_logits: NDArray
    spread: float
    notes: tuple[str, ...] = field(default_factory=tuple)

    def to_frame(self) -> "pd.DataFrame":
        """One row a token: those raised, strongest first, then those lowered."""
        import pandas as pd

        return pd.DataFrame(
            {
                "token": [*self.raised, *self.lowered],
                "id": [*self.raised_ids, *self.lowered_ids],
                "logit": [*self.raised_logits, *self.lowered_logits],
            }
        )

    def metrics(self) -> dict[str, Any]:
        """Numbers and names for ``metrics.json``."""
        return {
            "hookpoint": self.hookpoint,
            "towards": self.towards,
            "spread": self.spread,
            "raised": list(self.raised),
            "lowered": list(self.lowered),
            "raised_logits": [round(float(v), 6) for v in self.raised_logits],
            "lowered_logits": [round(float(v), 6) for v in self.lowered_logits],
        }


def logit_lens(
    model: Model | torch.nn.Module | str,
    direction: Tensor | ConceptDepth,
    k: int = 10,
    *,
    hookpoint: str | None = None,
    class_: str | None = None,
    name: str | None = None,
) -> LogitLens:
    """The tokens that a direction raises and lowers most, through final norm and unembedding.

    The reading is linear: a vector v becomes ``W (norm(v) - norm(0))``. Of a layer norm that keeps
    the centring and the gain and drops its bias; of an RMS norm it keeps the gain. The norm's
    scale, which at a real position is that of the whole stream and not of v, is that of v here,
    so the numbers rank tokens and say nothing on how far a given alpha moves them
    (`steering_effect` measures that). A bias of the unembedding, and a scale of the logits or a cap
    on them, are left out.

    Parameters
    ----------
    direction : [d_model] of the residual stream, or a `ConceptDepth`, whose direction at
        ``hookpoint`` (by default the one of its peak) is taken.
    k : tokens of each kind.
    class_ : of a `ConceptDepth`, towards which class; the last of two by default. More classes
        need one.

    Raises
    ------
    ModelError
        The model is no language model (`check_language_model`).
    ShapeError
        The direction does not have the width of the stream.
    ParameterError
        k is below 1, the direction is zero or not finite, the concept has no direction towards the
        class, or the hook point does not lie in the residual stream (`stream_hookpoints`).

    Notes
    -----
    Source: nostalgebraist, "interpreting GPT: the logit lens" (2020), applied to a direction.
    """
    if k < 1:
        raise ParameterError(f"k must be at least 1; got {k}.")
    model = load(model)
    check_language_model(model)
    towards, about = None, {}
    doubt: dict[str, str] = {}
    if isinstance(direction, ConceptDepth):
        depth = direction
        hookpoint, name = hookpoint or depth.peak_hookpoint, name or depth.name
        direction = depth.direction(hookpoint, class_)
        doubt = _doubt(depth)
        towards = class_ or depth.classes[-1]
        about = {k: v for k, v in depth.provenance.items() if k == "data"}
    if hookpoint is not None and not stream_hookpoints(model, [hookpoint]):
        raise ParameterError(
            f"the logit lens reads directions of the residual stream that {model.spec} unembeds, "
            f"and {hookpoint} is not known to lie in it; take embed, resid_pre or resid_post, or "
            "give the direction itself as a tensor."
        )
    vector = torch.as_tensor(direction).detach().reshape(1, -1).double()
    size = float(vector.pow(2).mean().sqrt())
    if not np.isfinite(size) or size == 0:
        raise ParameterError("the direction is zero or not finite; it names no token.")
    logits = lens_logits(model, vector)[0].cpu()
    order = logits.argsort(descending=True, stable=True)
    k = min(k, len(order))
    up, down = order[:k].tolist(), order.flip(0)[:k].tolist()
    return LogitLens(
        name=name or hookpoint or "direction",
        n=len(logits),
        provenance={"model": model.identity(), **about, "versions": versions()},
        hookpoint=hookpoint,
        towards=towards,
        raised=tuple(model.token_text(i) for i in up),
        lowered=tuple(model.token_text(i) for i in down),
        raised_ids=tuple(up),
        lowered_ids=tuple(down),
        raised_logits=logits[up].numpy(),
        lowered_logits=logits[down].numpy(),
        spread=float(logits.std(correction=0)),
        notes=(
            "A linear reading: the final norm's centring and gain are applied, its bias and the "
            "scale of the stream are not."
            if model.final_norm() is not None
            else "No final norm was found; the direction goes to the unembedding as it is.",
        ),
        reasons=doubt,
    )


def lens_logits(model: Model, directions: Tensor) -> Tensor:
    """What each direction adds to the logit of each token, as `logit_lens` reads one direction.

    Parameters
    ----------
    directions : [n, d_model]; each is brought to a root mean square of 1 first.

    Returns
    -------
    Tensor
        [n, tokens], float64, on the model's device, the mean over tokens taken off each row; nan
        for a direction of zeros.

    Raises
    ------
    ModelError
        The model has no unembedding.
    ShapeError
        The directions do not have the width of the stream.
    """
    unembed, norm = model.unembedding(), model.final_norm()
    weight = real(unembed)
    if directions.shape[1] != weight.shape[-1]:
        raise ShapeError(
            f"the unembedding of {model.spec} reads vectors of {weight.shape[-1]}; the direction "
            f"has {directions.shape[1]}."
        )
    vectors = directions.detach().double()
    vectors = vectors / vectors.pow(2).mean(1, keepdim=True).sqrt()
    v = vectors.to(model.device, weight.dtype)
    with torch.no_grad():
        if norm is not None:
            v = (norm(v[:, None]) - norm(torch.zeros_like(v[:1])[:, None]))[:, 0]
        logits = v.to(weight.device).double() @ weight.detach().double().T
    words = len(model.tokenizer) if model.tokenizer is not None else logits.shape[1]
    logits = logits[:, :words]  # rows beyond the vocabulary only round up the matrix
    return logits - logits.mean(1, keepdim=True)


def _doubt(depth: ConceptDepth) -> dict[str, str]:
    """The reason to doubt a direction that was fitted to what no layer reads; else nothing."""
    tested = depth.p_adjusted is not None and np.isfinite(depth.p_adjusted).any()
    if depth.onset_hookpoint is not None or not tested:
        return {}
    return {"direction": "No layer beats shuffled labels here: the direction may be noise."}


def check_language_model(model: Model) -> None:
    """Refuse a model that does not say which token comes next.

    What a model says at a position may not hang on later ones: two texts of two tokens that begin
    alike are run. The head of a masked language model does more than unembed, and its last
    position is no answer. An encoder-decoder is taken as it is.

    Raises
    ------
    ModelError
        The model has no unembedding, or reads texts from both sides.
    """
    model.unembedding()
    if _is_encoder_decoder(model):
        return
    ids = torch.tensor([[2, 3], [2, 4]], device=model.device)
    inputs = model.text_inputs({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    with evaluating(model.module), torch.inference_mode():
        one, other = _logits(model.module(**inputs))[:, 0]
    rounding = EPSILONS * torch.finfo(one.dtype).eps * float(one.abs().max())
    if not float((one - other).abs().max()) <= rounding:
        raise ModelError(
            f"{model.spec} reads texts from both sides and does not say which token comes next; "
            "take a causal language model."
        )


def stream_hookpoints(model: Model, names: Sequence[str]) -> tuple[str, ...]:
    """Those among some hook points that lie in the residual stream that the unembedding reads.

    These are ``embed``, ``resid_pre`` and ``resid_post`` of the last stack of blocks, under any
    name. None is known in a model without a stack.

    Raises
    ------
    LayerNotFound
        The model has no such hook point.
    """
    blocks = model.points.stacks[-1].blocks if model.points.stacks else ()
    stream = {p.place for b in blocks for p in (b.get("resid_pre"), b.get("resid_post")) if p}
    return tuple(n for n in names if all(p.place in stream for p in model.resolve(n)))


def steering_effect(
    model: Model | torch.nn.Module | str,
    data: Any,
    depth: ConceptDepth,
    hookpoint: str | None = None,
    alphas: Sequence[float] = ALPHAS,
    *,
    answers: Mapping[str, Sequence[str]] | None = None,
    directions: int = 5,
    rows: int | None = 200,
    pool: Pool = "last",
    batch_size: int | None = None,
    max_length: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
) -> Steering:
    """Whether adding a probe's direction moves the model's answer, beside random directions.

    The vector ``alpha * step * direction`` is added at every position of the hook point, and the
    answer is read at the last position of each text (of an encoder-decoder: at the decoder's
    first): the log-odds of two sets of tokens. ``step`` is the difference of the classes' mean
    activations, measured along the direction on the same rows.

    Parameters
    ----------
    data : texts that end where the model is to answer (`interp.prompts.with_prompt`).
    depth : a result of `concept_depth` with two classes; its label is read from ``data``.
    hookpoint : where to add; by default where ``depth`` peaks.
    alphas : strengths; 0 is added if it is missing.
    answers : class -> words that answer it, each a single token of the model's. By default the
        classes' names, as they are and after a space.
    directions : how many random directions of equal length are the control; at least 1.
    rows : at most so many rows, drawn at random, of each class its share and at least one; None
        takes all.
    pool : how ``depth`` pooled its rows; for the class means. Not ``all``: a text has one answer.
    batch_size : texts of a forward; 16 by default.
    max_length : cut texts to so many tokens, as the capture did.
    seed : of the rows, the random directions and the bootstrap.
    progress : called with (directions done, of how many, the next one's name).

    Raises
    ------
    DataError
        The data are no texts or lack the label.
    ParameterError
        The concept has not two classes, an answer is no single token, the classes do not differ
        along the direction, or a setting is outside what it allows.
    ModelError
        The model is no language model (`check_language_model`) or has no tokenizer.
    """
    model, data = load(model), read(data)
    if data.kind != "text":
        raise DataError(f"{data.name} holds no texts, and an answer is read after a text.")
    if len(depth.classes) != 2:
        raise ParameterError(
            f"steering needs a concept of two classes; {depth.name} has {len(depth.classes)}."
        )
    size = BATCH if batch_size is None else batch_size
    if directions < 1 or size < 1 or (rows is not None and rows < 2):
        raise ParameterError("directions and batch_size must be at least 1, and rows at least 2.")
    if pool == "all":
        raise ParameterError(
            "steering reads one answer a text, and with pool='all' each token has a row; use "
            "another pool."
        )
    if not len(alphas) or not np.isfinite(alphas).all():
        raise ParameterError(f"alphas must be finite numbers; got {alphas!r}.")
    check_language_model(model)
    hookpoint = hookpoint or depth.peak_hookpoint
    strengths = tuple(sorted({0.0, *map(float, alphas)}))
    sets = answer_tokens(model, depth.classes, answers)
    concept, data = _some_rows(data, depth, rows, seed)
    unit = torch.as_tensor(depth.direction(hookpoint)).double().reshape(-1)
    store = Capture(model, data, [hookpoint], pool, size, None, max_length).in_memory()
    step, doubts = _step(store[hookpoint][:].flatten(1), concept, hookpoint, unit)

    feed = TextFeed(model, data, max_length)
    noise = np.random.default_rng(seed).standard_normal((directions, len(unit)))
    noise *= abs(step) / np.linalg.norm(noise, axis=1, keepdims=True)
    found = []
    for i, vector in enumerate([unit * step, *torch.from_numpy(noise)]):
        if progress is not None:
            what = f"random direction {i} of {directions}" if i else "the probe's direction"
            progress(i, directions + 1, what)
        found.append(_log_odds(model, feed, hookpoint, vector, strengths, sets, size))
    if progress is not None:
        progress(directions + 1, directions + 1, "")
    odds, mass = found[0]
    control = np.stack([f[0] for f in found[1:]])  # [directions, alphas, n]
    zero = strengths.index(0.0)
    answer, wanted = odds > 0, concept.y == 1
    weights = bootstrap_weights(concept.units, draws=DRAWS, seed=seed)
    bounds = np.array([weighted_interval(v, concept.units, weights) for v in odds])
    means = control.mean(2)
    slopes = [_slope(strengths, m) for m in means]
    said = {
        c: [model.tokenizer.decode([i]) for i in ids]
        for c, ids in zip(depth.classes, sets, strict=True)
    }
    where = "the decoder's first" if _is_encoder_decoder(model) else "the last"
    notes = [
        f"alpha = 1 adds a vector of length {abs(step):.3g} at every position of {hookpoint}: the "
        "difference of the classes' means along the direction.",
        f"The answer is read at {where} position of each text; {directions} random directions of "
        "equal length are the control.",
        "; ".join(f"{c} is answered by {', '.join(map(repr, said[c]))}" for c in said) + ".",
        *doubts,
    ]
    if mass < RARE:
        notes.append(
            f"Without steering the answers hold {mass:.2g} of the probability: the model does not "
            "take these texts for questions, and the log-odds compare two words it hardly says."
        )
    return Steering(
        name=depth.name,
        n=len(concept.y),
        provenance={
            "model": model.identity(),
            "data": {"name": data.name, "hash": data.hash, "n": len(data)},
            "pool": pool,
            "seed": seed,
            "versions": versions(),
        },
        reasons=_doubt(depth)
        | (dict.fromkeys(("slope", "random_slope"), "alpha is 0") if len(strengths) < 2 else {}),
        label=depth.label,
        hookpoint=hookpoint,
        classes=depth.classes,
        answers=said,
        alphas=strengths,
        step=float(step),
        log_odds=odds.mean(1),
        log_odds_low=bounds[:, 0],
        log_odds_high=bounds[:, 1],
        positive=answer.mean(1),
        flipped=(answer != answer[zero]).mean(1),
        right=(answer == wanted).mean(1),
        random_log_odds=means.mean(0),
        random_low=means.min(0),
        random_high=means.max(0),
        random_flipped=((control > 0) != answer[zero]).mean((0, 2)),
        directions=directions,
        slope=_slope(strengths, odds.mean(1)),
        random_slope=max(slopes, key=abs),
        answer_mass=mass,
        seed=seed,
        notes=tuple(notes),
    )


def answer_tokens(
    model: Model, classes: Sequence[str], answers: Mapping[str, Sequence[str]] | None = None
) -> list[list[int]]:
    """The ids of the tokens that count as answering each of two classes; none answers both.

    Parameters
    ----------
    answers : as for `steering_effect`.

    Raises
    ------
    ParameterError
        The answers do not name the classes, one is no single token, both share one, or the
        classes are numbers and no answers are given.
    ModelError
        The model has no tokenizer.
    """
    if answers is not None and set(answers) != set(classes):
        raise ParameterError(
            f"every class needs its answer: the classes are {', '.join(classes)}, and answers were "
            f"given for {', '.join(answers)}."
        )
    if answers is None and all(_is_number(c) for c in classes):
        raise ParameterError(
            f"the classes {' and '.join(classes)} are numbers, which no text is answered by; say "
            f"what does, such as answers={{{classes[0]!r}: [' No'], {classes[1]!r}: [' Yes']}} "
            f"(--answer '{classes[0]}= No' --answer '{classes[1]}= Yes')."
        )
    sets = []
    for name in classes:
        words = [name, " " + name] if answers is None else list(answers[name])
        ids = [_token(model, word) for word in words]
        if answers is not None and None in ids:
            word = words[ids.index(None)]
            raise ParameterError(
                f"the answer {word!r} is no single token of {model.spec}; give one that is, such "
                "as its first word with a space before it."
            )
        found = sorted({i for i in ids if i is not None})
        if not found:
            raise ParameterError(
                f"the class {name!r} is no single token of {model.spec}; name the tokens that "
                "answer each class with answers={class: [words]} (--answer CLASS=WORD)."
            )
        sets.append(found)
    if set(sets[0]) & set(sets[1]):
        raise ParameterError("the answers of the two classes share a token; they must differ.")
    return sets


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _token(model: Model, word: str) -> int | None:
    """The id of a word that is one token, else None."""
    model.tokenize([word])  # refuses a model without a tokenizer
    ids = model.tokenizer(word, add_special_tokens=False)["input_ids"]
    unknown = getattr(model.tokenizer, "unk_token_id", None)
    return ids[0] if len(ids) == 1 and ids[0] != unknown else None


def _some_rows(
    data: Dataset, depth: ConceptDepth, rows: int | None, seed: int
) -> tuple[Concept, Dataset]:
    """The labelled rows, at most so many, with class 1 the last of ``depth``, and their data."""
    concept = read_concept(data.rows, depth.label, depth.groups)
    if set(concept.classes) != set(depth.classes):
        raise DataError(
            f"the classes of {depth.label!r} in {data.name} are {', '.join(concept.classes)}; the "
            f"direction was fitted for {', '.join(depth.classes)}."
        )
    keep = concept.rows
    if rows is not None and rows < len(keep):
        keep = keep[_shares(concept.y, rows, seed)]
    table = data.rows.iloc[keep].reset_index(drop=True)
    texts: Any = data.inputs
    cut = replace(data, inputs=[texts[i] for i in keep], rows=table, marks={})
    chosen = read_concept(table, depth.label, depth.groups)
    y = (chosen.y == chosen.classes.index(depth.classes[-1])).astype(np.int64)
    return replace(chosen, y=y, classes=depth.classes), cut


def _shares(y: NDArray, rows: int, seed: int) -> NDArray:
    """So many of two classes' rows at random: of each its share, and at least one."""
    rng = np.random.default_rng(seed)
    first = min(max(1, round(rows * float((y == 0).mean()))), rows - 1)
    picks = [
        rng.choice(np.flatnonzero(y == c), count, replace=False)
        for c, count in ((0, first), (1, rows - first))
    ]
    return np.sort(np.concatenate(picks))


def _step(X: Tensor, concept: Concept, hookpoint: str, unit: Tensor) -> tuple[float, list[str]]:
    """The difference of the classes' means along the direction, and what makes it doubtful."""
    if X.shape[1] != len(unit):
        raise ShapeError(f"{hookpoint} has width {X.shape[1]}; the direction has {len(unit)}.")
    along = (X.double() @ unit.to(X.device)).cpu().numpy()
    first, last = along[concept.y == 0], along[concept.y == 1]
    step = float(last.mean() - first.mean())
    if not abs(step) > ROUNDING * np.abs(along).max():
        raise ParameterError(
            f"the classes do not differ along the direction at {hookpoint}; there is no unit to "
            "steer by."
        )
    doubts = []
    if step < 0:
        doubts.append(
            "On these rows the classes' means lie the other way round than the direction points: "
            "an alpha above 0 moves against it."
        )
    if abs(step) < 2 * np.sqrt(first.var() / len(first) + last.var() / len(last)):
        doubts.append(
            "On these rows the classes' means differ along the direction by less than two standard "
            "errors: the unit of alpha is little more than noise."
        )
    return step, doubts


def _log_odds(
    model: Model,
    feed: TextFeed,
    hookpoint: str,
    vector: Tensor,
    alphas: Sequence[float],
    sets: Sequence[Sequence[int]],
    batch_size: int,
) -> tuple[NDArray, float]:
    """Log-odds [alphas, n] of the answers, and the answers' mean probability at alpha = 0."""
    n = len(feed.lengths)
    out = np.empty((len(alphas), n))
    mass = 0.0
    order = sorted(range(n), key=lambda i: -feed.lengths[i])
    with evaluating(model.module), torch.inference_mode():
        for start in range(0, n, batch_size):
            some = order[start : start + batch_size]
            ends = [0 if _is_encoder_decoder(model) else feed.lengths[i] - 1 for i in some]
            last = torch.tensor(ends, device=model.device)
            for a, alpha in enumerate(alphas):
                with interp.steer(model, hookpoint, vector, alpha):
                    logits = _logits(feed.run(some))
                final = logits[torch.arange(len(some), device=model.device), last].double()
                p = final.log_softmax(-1)
                first, second = (p[:, list(ids)].logsumexp(-1) for ids in sets)
                out[a, some] = (second - first).cpu().numpy()
                if alpha == 0:
                    mass += float((first.exp() + second.exp()).sum())
    return out, mass / n


def _is_encoder_decoder(model: Model) -> bool:
    """Whether a decoder of its own answers, which has read one start token and no text."""
    return bool(getattr(model.config, "is_encoder_decoder", False))


def _logits(output: Any) -> Tensor:
    """[b, t, vocabulary] of what a language model returns."""
    return output if isinstance(output, Tensor) else output.logits


def _slope(x: Sequence[float], y: NDArray) -> float:
    """Least-squares slope; nan for one point."""
    a = np.asarray(x) - np.mean(x)
    return float(a @ y / (a @ a)) if (a != 0).any() else float("nan")
