"""`features`: a record of each latent of an SAE, from one pass over the tokens."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from interp.capturing import Progress
from interp.errors import ModelError, ParameterError, ShapeError
from interp.models import Model
from interp.runs import versions
from probes.curves import ConceptDepth
from probes.steering import check_language_model, lens_logits
from saes.base import SAE
from saes.records import Features
from saes.samples import Kept, Sample, Top
from saes.tallies import EDGES, Firings, Labels, Together, uniform
from saes.tokens import Chunk, Tokens

__all__ = ["features"]

Probes = Mapping[str, Any] | Sequence[ConceptDepth]

SAMPLE = 32
"""Firings, at least, that a latent's quantiles are read from."""
BLOCK = 256
"""Decoder rows that are read through the unembedding at once."""
RANDOM = 100
"""Random directions for the control of the probe alignment."""
NAMED = 0.5
"""Least ``(precision - base rate) / (1 - base rate)`` of a label that becomes a name."""
FEWEST = 30
"""Least labelled tokens, of either half, at which a latent that gets a name fires."""


def features(
    sae: SAE,
    model_or_store: Any,
    data: Any,
    hookpoint: str,
    *,
    latents: Sequence[int] | None = None,
    top: int = 10,
    quantiles: Sequence[float] = (0.25, 0.5, 0.75),
    per_band: int = 2,
    context: int = 10,
    partners: int = 5,
    words: int = 8,
    probes: Probes = (),
    model: Any = None,
    batch_size: int | None = None,
    max_length: int | None = None,
    seed: int = 0,
    name: str | None = None,
    progress: Progress | None = None,
) -> Features:
    """What each latent fires for and what it does, from one pass over the tokens.

    Nothing is read twice and no table grows with the tokens: of each latent are kept its counts,
    ``top`` examples and a sample of firings with their surroundings; and for co-occurrence the
    codes of at most 2^25 active slots, beyond which tokens are sampled (``paired_tokens`` says how
    many were counted). What is kept is decided by the tokens and the seed, not by their order, so
    the batch size changes nothing but the rounding of the model's own forward.

    A label becomes a latent's name where the data has labels of single tokens
    (`interp.Dataset.marks`, as `demo:python`). Half of the documents (of the groups) choose the
    label whose F1 exceeds most that of firing as often at any token; the other half scores it. It
    is a name where its precision there lies at least halfway from the base rate to 1, and both
    halves have at least 30 labelled tokens at which the latent fires. ``named_control`` counts the
    names under labels that are turned within their texts. A name says of what a firing
    is a good sign; the recall beside it says how much of that the latent sees.

    Parameters
    ----------
    sae : an autoencoder or transcoder; its input is what is read.
    model_or_store : a model to run, or an `interp.ActivationStore` captured with ``pool="all"``.
    data : texts; for a store those that it was captured from, or None.
    hookpoint : where the SAE reads.
    latents : which ones to record; None for all. Partners are sought among all.
    top : documents in which the latent fires most strongly, each with its strongest token.
    quantiles : cuts of a latent's activations above 0, rising, between 0 and 1, into bands.
    per_band : examples of each band, at most, drawn uniformly.
    context : tokens shown on either side.
    partners : latents that fire most often at the same tokens.
    words : tokens that the decoder row raises and lowers most.
    probes : directions to compare decoder rows with: {name: [d_out]}, or results of
        `probes.concept_depth`, read at the same hook point.
    model : of a store: for its tokenizer and its unembedding.
    batch_size : documents of a forward, or rows of a store that are read at once.
    max_length : cut longer texts to so many tokens.
    seed : of the samples, the halves and the random directions.

    Raises
    ------
    ParameterError
        An option is outside what it allows, or the SAE reads several hook points.
    ShapeError
        The SAE or a probe does not have the width of the hook point.
    DataError
        The data are no texts, or not those of the store.

    Notes
    -----
    The logit effect is that of `probes.logit_lens`, read linearly; where the decoder does not
    write to the residual stream, it is that of adding the row there.
    """
    chosen = _chosen(sae, latents)
    cuts = _cuts(quantiles)
    for option, value, low in (
        ("top", top, 1), ("per_band", per_band, 1), ("context", context, 0),
        ("partners", partners, 1), ("words", words, 1),
    ):  # fmt: skip
        if value < low:
            raise ParameterError(f"{option} must be at least {low}; got {value}.")
    source = Tokens(
        model_or_store, data, hookpoint, model=model, batch_size=batch_size, max_length=max_length
    )
    table = np.full(sae.n_latents, -1)
    table[chosen] = np.arange(len(chosen))
    sample = max(SAMPLE, 2 * per_band * (len(cuts) - 1))
    best = Top(len(chosen), top, context)
    uniformly = Sample(len(chosen), sample, context, seed)
    firings, together = Firings(sae.n_latents), Together(sae.n_latents, seed)
    labels = _labels(source, sae.n_latents, seed)
    control = _labels(source, sae.n_latents, seed, turned=seed)

    def take(chunk: Chunk) -> None:
        firings.add(chunk)
        together.add(chunk)
        best.add(chunk, table)
        uniformly.add(chunk, table)
        for counts in (labels, control):
            if counts is not None:
                counts.add(chunk)

    source.each(sae, take, progress)
    vocabulary = _Words(source)
    bands, band_edges = _banded(uniformly, cuts, per_band)
    used = np.flatnonzero(firings.bins.any(0))
    span = slice(used[0], used[-1] + 1) if len(used) else slice(0, 1)
    fires = firings.fires[chosen]
    mean = np.divide(
        firings.total[chosen], fires, out=np.full(len(chosen), np.nan), where=fires > 0
    )
    reasons: dict[str, str] = {}
    logits = _logits(sae, source.model, chosen, words, vocabulary, reasons)
    directions = _directions(probes, source.hookpoint, sae)
    if not directions:
        reasons["alignment"] = "no probes were given"
    if labels is None:
        reasons["predicts"] = "the data has no labels of single tokens"
    if source.ids is None:
        reasons["words"] = "the store was given without its texts and model; places stand for words"
    aligned = _aligned(sae, chosen, directions, seed)
    return Features(
        name=name
        or f"{source.data.name if source.data is not None else 'store'}.{source.hookpoint}",
        n=int(source.lengths.sum()),
        provenance=_provenance(sae, source, seed),
        reasons=reasons,
        hookpoint=source.hookpoint,
        architecture=sae.architecture,
        n_latents=sae.n_latents,
        documents=int((source.lengths > 0).sum()),
        latents=chosen,
        fires=fires,
        mean=mean,
        strongest=np.where(fires > 0, firings.strongest[chosen].astype(np.float64), np.nan),
        edges=EDGES[span.start : span.stop + 1],
        histogram=firings.bins[chosen, span],
        context=context,
        top=_windows(best.document, best.position, best.values, vocabulary, source),
        bands=_windows(*bands, vocabulary, source),
        quantiles=cuts,
        band_edges=band_edges,
        sample=sample,
        partners=together.partners(chosen, partners),
        paired_tokens=together.tokens,
        **logits,
        **aligned,
        **_names(labels, chosen),
        named_control=int(_names(control, chosen)["named"].sum()),
        about={} if labels is None or source.data is None else dict(source.data.about),
        words=vocabulary.texts,
        dead={str(i): _why_dead(sae, int(i)) for i in chosen[fires == 0]},
        seed=seed,
        notes=_notes(source, together, sample, labels, directions),
    )


def _chosen(sae: SAE, latents: Sequence[int] | None) -> NDArray[np.int64]:
    if len(sae.in_shape) > 1:
        raise ParameterError("features reads one hook point; a crosscoder reads several.")
    if latents is None:
        return np.arange(sae.n_latents)
    chosen = np.asarray(latents, dtype=np.int64).reshape(-1)
    if not len(chosen) or len(np.unique(chosen)) < len(chosen):
        raise ParameterError("latents must name at least one latent, each once.")
    if chosen.min() < 0 or chosen.max() >= sae.n_latents:
        raise ParameterError(
            f"latents are 0 to {sae.n_latents - 1}; got {chosen.min()} to {chosen.max()}."
        )
    return chosen


def _cuts(quantiles: Sequence[float]) -> tuple[float, ...]:
    cuts = (0.0, *map(float, quantiles), 1.0)
    if not all(a < b for a, b in zip(cuts, cuts[1:], strict=False)):
        raise ParameterError(f"quantiles must rise and lie between 0 and 1; got {list(quantiles)}.")
    return cuts


def _labels(source: Tokens, n_latents: int, seed: int, turned: int | None = None) -> Labels | None:
    if source.data is None or source.ids is None or not source.data.marks:
        return None
    half = (uniform(seed, source.groups) < 0.5).astype(np.int64)
    return Labels(source.data, half, n_latents, turned=turned)


class _Words:
    """Texts of tokens, each held once, by the order in which they were first asked for."""

    def __init__(self, source: Tokens) -> None:
        self._source = source
        self._index: dict[int | str, int] = {}
        self._texts: list[str] = []

    @property
    def texts(self) -> tuple[str, ...]:
        return tuple(self._texts)

    def token(self, i: int) -> int:
        """Index of the text of a token id."""
        if i not in self._index:
            self._index[i] = len(self._texts)
            model = self._source.model
            self._texts.append(str(i) if model is None else model.token_text(i))
        return self._index[i]

    def place(self, document: int, position: int) -> int:
        """Index of the text of the token at a place of the data."""
        if self._source.ids is not None:
            return self.token(self._source.ids[document][position])
        key = f"[{position}]"
        if key not in self._index:
            self._index[key] = len(self._texts)
            self._texts.append(key)
        return self._index[key]


def _windows(
    document: NDArray, position: NDArray, values: NDArray, vocabulary: _Words, source: Tokens
) -> dict[str, NDArray]:
    """The tokens around places, -1 outside the document, beside what is known of the places."""
    context = values.shape[-1] // 2
    tokens = np.full(values.shape, -1, np.int32)
    for at in zip(*np.nonzero(document >= 0), strict=True):
        d, p = int(document[at]), int(position[at])
        for place in range(max(0, p - context), min(int(source.lengths[d]), p + context + 1)):
            tokens[(*at, place - p + context)] = vocabulary.place(d, place)
    return {"document": document, "position": position, "tokens": tokens, "activations": values}


def _banded(
    kept: Kept, cuts: tuple[float, ...], per_band: int
) -> tuple[tuple[NDArray, NDArray, NDArray], NDArray]:
    """Some examples of each band [f, bands, per_band], and the activations at the bands' edges."""
    f, bands = len(kept.key), len(cuts) - 1
    context = kept.context
    document, position = (np.full((f, bands, per_band), -1, np.int64) for _ in range(2))
    values = np.zeros((f, bands, per_band, 2 * context + 1), np.float32)
    edges = np.full((f, bands + 1), np.nan)
    for i in range(f):
        held = np.flatnonzero(kept.document[i] >= 0)
        if not len(held):
            continue
        activation = kept.values[i, held, context].astype(np.float64)
        edges[i] = np.quantile(activation, cuts)
        rank = np.empty(len(held))
        rank[np.argsort(activation, kind="stable")] = (np.arange(len(held)) + 0.5) / len(held)
        band = np.searchsorted(cuts, rank) - 1
        for b in range(bands):
            some = held[band == b][:per_band]  # the slots of a sample are in random order
            some = some[np.argsort(-kept.values[i, some, context], kind="stable")]
            document[i, b, : len(some)] = kept.document[i, some]
            position[i, b, : len(some)] = kept.position[i, some]
            values[i, b, : len(some)] = kept.values[i, some]
    return (document, position, values), edges


def _logits(
    sae: SAE,
    model: Model | None,
    chosen: NDArray,
    k: int,
    vocabulary: _Words,
    reasons: dict[str, str],
) -> dict[str, Any]:
    """The tokens that decoder rows raise and lower most, read in batches of rows."""
    names = ("raised", "raised_logits", "lowered", "lowered_logits")
    why = "no model was given" if model is None else ""
    if model is not None:
        try:
            check_language_model(model)
            width = cast(Any, model.unembedding()).weight.shape[-1]
            if width != sae.d_out:
                why = f"the unembedding reads {width} numbers and the decoder writes {sae.d_out}"
        except ModelError as error:
            why = str(error).rstrip(".")
    if why or model is None:
        reasons |= {n: why for n in names}
        return dict.fromkeys(names)
    found: dict[str, list[NDArray]] = {n: [] for n in names}
    rows = sae.decoder.detach()[torch.from_numpy(chosen).to(sae.decoder.device)].to(model.device)
    for block in rows.split(BLOCK):
        logits = lens_logits(model, block)
        for side, sign in (("raised", 1), ("lowered", -1)):
            best = (sign * logits).topk(min(k, logits.shape[1]), dim=1)
            ids, zero = best.indices.cpu().numpy(), logits[:, 0].isnan().cpu().numpy()
            indices = np.array([[vocabulary.token(int(i)) for i in row] for row in ids])
            indices[zero] = -1
            found[side].append(indices)
            found[f"{side}_logits"].append(sign * best.values.cpu().numpy())
    return {n: np.concatenate(v) for n, v in found.items()}


def _directions(probes: Probes, hookpoint: str, sae: SAE) -> dict[str, Tensor]:
    """Name -> unit direction [d_out], float64."""
    given: dict[str, ArrayLike | Tensor] = {}
    if isinstance(probes, Mapping):
        given = dict(probes)
    else:
        for depth in probes:
            if not isinstance(depth, ConceptDepth):
                raise ParameterError(
                    "probes are {name: direction} or results of concept_depth; got "
                    f"{type(depth).__name__}."
                )
            if len(depth.classes) == 2:
                given[depth.name] = depth.direction(hookpoint)
            else:
                given |= {f"{depth.name}={c}": depth.direction(hookpoint, c) for c in depth.classes}
    units = {}
    for name, value in given.items():
        vector = torch.as_tensor(value).detach().double().cpu().reshape(-1)
        if len(vector) != sae.d_out:
            raise ShapeError(
                f"the probe {name} has {len(vector)} numbers and decoder rows have {sae.d_out}."
            )
        length = vector.norm()
        if not (length.isfinite() and length > 0):
            raise ParameterError(f"the probe {name} is zero or not finite; it has no direction.")
        units[name] = vector / length
    return units


def _aligned(sae: SAE, chosen: NDArray, directions: dict[str, Tensor], seed: int) -> dict[str, Any]:
    """Cosines of decoder rows with the probes, and the level that random directions reach."""
    if not directions:
        return {"probes": (), "alignment": None, "random_alignment": None}
    rows = sae.decoder.detach().cpu()[torch.from_numpy(chosen)].double()
    length = rows.norm(dim=1, keepdim=True)
    rows = rows / length  # a row of zeros gives nan: it has no direction
    cosines = rows @ torch.stack(list(directions.values())).T
    noise = np.random.default_rng(seed).standard_normal((RANDOM, sae.d_out))
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    level = (torch.from_numpy(noise) @ rows.nan_to_num().T).abs().amax(1).numpy()
    return {
        "probes": tuple(directions),
        "alignment": cosines.numpy(),
        "random_alignment": float(np.quantile(level, 0.95)),
    }


def _names(labels: Labels | None, chosen: NDArray) -> dict[str, Any]:
    """The label that each latent predicts best, how well, and whether it is a name."""
    scores = ("precision", "recall", "f1", "base_rate", "chance_f1")
    if labels is None or not labels.names:
        nothing = {k: np.full(len(chosen), np.nan) for k in scores}
        none = np.full(len(chosen), -1), np.zeros(len(chosen), bool)
        return {"labels": (), "predicts": none[0], "named": none[1], **nothing}
    choosing, scoring = labels.score(0), labels.score(1)
    excess = (choosing["f1"] - choosing["chance"])[chosen]
    excess = np.where(np.isfinite(excess), excess, -np.inf)
    best = excess.argmax(1)
    at = chosen, best
    gain = scoring["precision"] - scoring["base"]
    with np.errstate(invalid="ignore", divide="ignore"):
        gain = gain / (1 - scoring["base"])
    often = np.minimum(choosing["fires"][at], scoring["fires"][at]) >= FEWEST
    found = {k: scoring[v][at] for k, v in zip(
        scores, ("precision", "recall", "f1", "base", "chance"), strict=True)}  # fmt: skip
    predicts = np.where(excess.max(1) > 0, best, -1)
    for values in found.values():
        values[predicts < 0] = np.nan
    named = often & (gain[at] >= NAMED) & (predicts >= 0)
    return {"labels": tuple(labels.names), "predicts": predicts, "named": named, **found}


def _why_dead(sae: SAE, latent: int) -> str:
    if not sae.encoder[latent].any() and sae.b_enc[latent] <= 0:
        return "its encoder row is 0 and its bias is not above 0, so it cannot fire"
    return "it fired at no token of the data"


def _provenance(sae: SAE, source: Tokens, seed: int) -> dict[str, Any]:
    data = source.data
    return {
        "model": {} if source.model is None else source.model.identity(),
        "data": {} if data is None else {"name": data.name, "hash": data.hash, "n": len(data)},
        "sae": {"architecture": sae.architecture, "d_in": sae.d_in, **sae.config.to_dict()},
        "site": source.hookpoint,
        "seed": seed,
        "versions": versions(),
    }


def _notes(
    source: Tokens, together: Together, sample: int, labels: Labels | None, directions: Any
) -> tuple[str, ...]:
    n = int(source.lengths.sum())
    notes = [
        f"One pass over {n:,} tokens of {int((source.lengths > 0).sum()):,} documents at "
        f"{source.hookpoint}; pads never enter.",
        "A top example is a document's strongest token, so that no document shows twice.",
        f"Quantiles are those of a uniform sample of {sample} firings (all, of a rarer latent).",
    ]
    if together.tokens < n:
        notes.append(
            f"Partners are counted on a uniform sample of {together.tokens:,} of the tokens."
        )
    if source.model is not None:
        notes.append(
            "Raised and lowered tokens are a linear reading of the decoder row through the final "
            "norm and the unembedding; they say nothing on how far the logits move."
        )
    if labels is not None:
        notes.append(
            "A label was chosen on half of the documents (groups) and scored on the other half. It "
            "is a name where its precision lies at least halfway from the base rate to 1. The "
            "control turns the labels of each text among its labelled tokens."
        )
    if directions:
        notes.append(
            f"The level of random directions is the 95th percentile, over {RANDOM} of them, of the "
            "greatest |cosine| with any of the latents."
        )
    return tuple(notes)
