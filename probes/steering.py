"""Using a probe's direction: does adding it flip the model's answer, and which words does it name?

`steering_effect` adds the direction while the model runs; `logit_lens` reads it through the final
norm and the unembedding.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import interp
from interp.capturing import Capture
from interp.data import Dataset, read
from interp.errors import DataError, ParameterError, ShapeError
from interp.feeds import TextFeed
from interp.hooks import evaluating
from interp.loading import load
from interp.models import Model
from interp.pooling import Pool
from interp.results import Result
from interp.runs import versions
from probes.concepts import Concept, read_concept
from probes.curves import ConceptDepth
from probes.scores import bootstrap_weights, weighted_interval

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["LogitLens", "Steering", "logit_lens", "steering_effect"]

ALPHAS = (-4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 4.0)
DRAWS = 1000
RARE = 0.01
"""Mean probability of all answers below which the result says that they are rare."""


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
    hookpoint : where the direction was read, or None.
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
    name: str | None = None,
) -> LogitLens:
    """The tokens that a direction raises and lowers most, through final norm and unembedding.

    The reading is linear: a vector v becomes ``W (norm(v) - norm(0))``. Of a layer norm that keeps
    the centring and the gain and drops its bias; of an RMS norm it keeps the gain. The norm's
    scale, which at a real position is that of the whole stream and not of v, is that of v here,
    so the numbers rank tokens and say nothing on how far a given alpha moves them
    (`steering_effect` measures that). A bias of the unembedding and a cap on the logits are left
    out.

    Parameters
    ----------
    direction : [d_model] of the residual stream, or a `ConceptDepth`, whose direction at
        ``hookpoint`` (by default the one of its peak) is taken.
    k : tokens of each kind.

    Raises
    ------
    ModelError
        The model has no unembedding.
    ShapeError
        The direction does not have the width of the stream.
    ParameterError
        k is below 1, or the direction is zero or not finite.

    Notes
    -----
    Source: nostalgebraist, "interpreting GPT: the logit lens" (2020), applied to a direction.
    """
    if k < 1:
        raise ParameterError(f"k must be at least 1; got {k}.")
    model = load(model)
    if isinstance(direction, ConceptDepth):
        hookpoint = hookpoint or direction.peak_hookpoint
        name = name or direction.name
        direction = direction.direction(hookpoint)
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
        provenance={"model": model.identity(), "versions": versions()},
        hookpoint=hookpoint,
        raised=tuple(_word(model, i) for i in up),
        lowered=tuple(_word(model, i) for i in down),
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
    weight: Any = unembed.weight
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
        logits = v.double() @ weight.detach().double().T
    words = len(model.tokenizer) if model.tokenizer is not None else logits.shape[1]
    logits = logits[:, :words]  # rows beyond the vocabulary only round up the matrix
    return logits - logits.mean(1, keepdim=True)


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
    batch_size: int = 16,
    seed: int = 0,
) -> Steering:
    """Whether adding a probe's direction moves the model's answer, beside random directions.

    The vector ``alpha * step * direction`` is added at every position of the hook point, and the
    answer is read at the last position of each text: the log-odds of two sets of tokens. ``step``
    is the difference of the classes' mean activations, measured along the direction on the same
    rows.

    Parameters
    ----------
    data : texts that end where the model is to answer (`interp.prompts.with_prompt`).
    depth : a result of `concept_depth` with two classes; its label is read from ``data``.
    hookpoint : where to add; by default where ``depth`` peaks.
    alphas : strengths; 0 is added if it is missing.
    answers : class -> words that answer it, each a single token of the model's. By default the
        classes' names, as they are and after a space.
    directions : how many random directions of equal length are the control; at least 1.
    rows : at most so many rows, drawn at random; None takes all.
    pool : how ``depth`` pooled its rows; for the class means.
    batch_size : texts of a forward.
    seed : of the rows, the random directions and the bootstrap.

    Raises
    ------
    DataError
        The data are no texts or lack the label.
    ParameterError
        The concept has not two classes, an answer is no single token, or a setting is outside
        what it allows.
    ModelError
        The model has no unembedding or no tokenizer.
    """
    model, data = load(model), read(data)
    if data.kind != "text":
        raise DataError(f"{data.name} holds no texts, and an answer is read after a text.")
    if len(depth.classes) != 2:
        raise ParameterError(
            f"steering needs a concept of two classes; {depth.name} has {len(depth.classes)}."
        )
    if directions < 1 or batch_size < 1 or (rows is not None and rows < 2):
        raise ParameterError("directions and batch_size must be at least 1, and rows at least 2.")
    if not len(alphas) or not np.isfinite(alphas).all():
        raise ParameterError(f"alphas must be finite numbers; got {alphas!r}.")
    model.unembedding()
    hookpoint = hookpoint or depth.peak_hookpoint
    strengths = tuple(sorted({0.0, *map(float, alphas)}))
    sets = _answer_sets(model, depth.classes, answers)
    concept, data = _some_rows(data, depth, rows, seed)
    unit = torch.as_tensor(depth.direction(hookpoint)).double().reshape(-1)
    step = _step(model, data, concept, hookpoint, unit, pool, batch_size)

    feed = TextFeed(model, data, None)
    odds, mass = _log_odds(model, feed, hookpoint, unit * step, strengths, sets, batch_size)
    noise = np.random.default_rng(seed).standard_normal((directions, len(unit)))
    noise *= abs(step) / np.linalg.norm(noise, axis=1, keepdims=True)
    control = np.stack(
        [
            _log_odds(model, feed, hookpoint, torch.from_numpy(v), strengths, sets, batch_size)[0]
            for v in noise
        ]
    )  # [directions, alphas, n]
    zero = strengths.index(0.0)
    answer, wanted = odds > 0, concept.y == 1
    weights = bootstrap_weights(concept.units, draws=DRAWS, seed=seed)
    bounds = np.array([weighted_interval(v, concept.units, weights) for v in odds])
    means = control.mean(2)
    slopes = [_slope(strengths, m) for m in means]
    notes = [
        f"alpha = 1 adds a vector of length {abs(step):.3g} at every position of {hookpoint}: the "
        "difference of the classes' means along the direction.",
        f"The answer is read at the last position of each text; {directions} random directions of "
        "equal length are the control.",
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
            "seed": seed,
            "versions": versions(),
        },
        label=depth.label,
        hookpoint=hookpoint,
        classes=depth.classes,
        answers={
            c: [model.tokenizer.decode([i]) for i in ids]
            for c, ids in zip(depth.classes, sets, strict=True)
        },  # fmt: skip
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


def _answer_sets(
    model: Model, classes: Sequence[str], answers: Mapping[str, Sequence[str]] | None
) -> list[list[int]]:
    """Token ids that count as answering each class; disjoint."""
    if answers is not None and set(answers) != set(classes):
        raise ParameterError(
            f"answers must name the classes {', '.join(classes)}; got {', '.join(answers)}."
        )
    if answers is None and all(_is_number(c) for c in classes):
        raise ParameterError(
            f"the classes {' and '.join(classes)} are numbers, which no text is answered by; give "
            f"answers={{{classes[0]!r}: [' No'], {classes[1]!r}: [' Yes']}} or the like."
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
                "answer each class with answers={class: [words]}."
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
    """The labelled rows, at most so many, and the data cut to them."""
    concept = read_concept(data.rows, depth.label, depth.groups)
    if set(concept.classes) != set(depth.classes):
        raise DataError(
            f"the classes of {depth.label!r} in {data.name} are {', '.join(concept.classes)}; the "
            f"direction was fitted for {', '.join(depth.classes)}."
        )
    keep = concept.rows
    if rows is not None and rows < len(keep):
        keep = np.sort(np.random.default_rng(seed).choice(keep, rows, replace=False))
    table = data.rows.iloc[keep].reset_index(drop=True)
    texts: Any = data.inputs
    cut = replace(data, inputs=[texts[i] for i in keep], rows=table, marks={})
    return read_concept(table, depth.label, depth.groups), cut


def _step(
    model: Model,
    data: Dataset,
    concept: Concept,
    hookpoint: str,
    unit: Tensor,
    pool: Pool,
    batch_size: int,
) -> float:
    """The difference of the classes' means along the direction, in the activation's units."""
    store = Capture(model, data, [hookpoint], pool, batch_size).in_memory()
    X = store[hookpoint][:].flatten(1).double()
    if X.shape[1] != len(unit):
        raise ShapeError(f"{hookpoint} has width {X.shape[1]}; the direction has {len(unit)}.")
    along = (X @ unit.to(X)).cpu().numpy()
    step = float(along[concept.y == 1].mean() - along[concept.y == 0].mean())
    if step == 0 or not np.isfinite(step):
        raise ParameterError(
            f"the classes do not differ along the direction at {hookpoint}; there is no unit to "
            "steer by."
        )
    return step


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
            last = torch.tensor([feed.lengths[i] - 1 for i in some], device=model.device)
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


def _logits(output: Any) -> Tensor:
    """[b, t, vocabulary] of what a language model returns."""
    return output if isinstance(output, Tensor) else output.logits


def _slope(x: Sequence[float], y: NDArray) -> float:
    """Least-squares slope; nan for one point."""
    a = np.asarray(x) - np.mean(x)
    return float(a @ y / (a @ a)) if (a != 0).any() else float("nan")


def _word(model: Model, i: int) -> str:
    return str(i) if model.tokenizer is None else model.tokenizer.decode([i])
