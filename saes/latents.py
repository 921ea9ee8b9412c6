"""`features`: a record of each latent of an SAE, from one pass over the tokens."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from interp.capturing import Progress
from interp.errors import ParameterError
from interp.live import live
from interp.runs import versions
from saes.base import SAE
from saes.directions import nearest, spread
from saes.meanings import RANDOM, Probes, alignment, logit_effect, names, unit_directions
from saes.pictures import pictures
from saes.records import Features
from saes.survey import Survey
from saes.tallies import EDGES
from saes.tokens import Tokens
from saes.windows import Words, banded, windows

__all__ = ["features"]


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
    neighbours: int = 5,
    words: int = 8,
    probes: Probes = (),
    layout: str | None = None,
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
    neighbours : latents with the nearest decoder rows.
    words : tokens that the decoder row raises and lowers most.
    probes : directions to compare decoder rows with: {name: [d_out]}, or results of
        `probes.concept_depth`, read at the same hook point.
    layout : of a map of the decoder rows: ``umap``, ``pca``, or None for none. Fewer than 50
        latents that fire are drawn by PCA.
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
    for option, value in (("partners", partners), ("neighbours", neighbours), ("words", words)):
        if value < 1:
            raise ParameterError(f"{option} must be at least 1; got {value}.")
    if hasattr(sae, "shards"):
        raise ParameterError("features reads a whole SAE; load it with SAE.from_pretrained.")
    survey = Survey(
        sae,
        model_or_store,
        data,
        hookpoint,
        latents=latents,
        top=top,
        quantiles=quantiles,
        per_band=per_band,
        context=context,
        model=model,
        batch_size=batch_size,
        max_length=max_length,
        seed=seed,
    )
    survey.run(live(progress, "features"))
    source, chosen, firings = survey.source, survey.chosen, survey.firings
    vocabulary = Words(source)
    best = survey.best
    bands, band_edges = banded(survey.sample, survey.cuts, per_band)
    used = np.flatnonzero(firings.bins.any(0))
    span = slice(used[0], used[-1] + 1) if len(used) else slice(0, 1)
    fires = firings.fires[chosen]
    mean = np.divide(
        firings.total[chosen], fires, out=np.full(len(chosen), np.nan), where=fires > 0
    )
    reasons: dict[str, str] = {}
    logits = logit_effect(sae, source.model, chosen, words, vocabulary, reasons)
    directions = unit_directions(probes, source.hookpoint, sae)
    if not directions:
        reasons["alignment"] = "no probes were given"
    if survey.labels is None:
        reasons["predicts"] = "the data has no labels of single tokens"
    if source.ids is None:
        reasons["words"] = "the store was given without its texts and model; places stand for words"
    aligned = alignment(sae, chosen, directions, seed)
    places, drawn, why = spread(sae, chosen, fires, layout, seed)
    reasons |= {"places": why} if why else {}
    images = pictures(source, (best.document, bands[0]), reasons)
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
        top=windows(best.document, best.position, best.values, vocabulary, source),
        bands=windows(*bands, vocabulary, source),
        quantiles=survey.cuts,
        band_edges=band_edges,
        sample=survey.size,
        partners=survey.together.partners(chosen, partners),
        paired_tokens=survey.together.tokens,
        **logits,
        **aligned,
        **names(survey.labels, chosen),
        named_control=int(names(survey.control, chosen)["named"].sum()),
        about={} if survey.labels is None or source.data is None else dict(source.data.about),
        words=vocabulary.texts,
        dead={str(i): _why_dead(sae, int(i)) for i in chosen[fires == 0]},
        seed=seed,
        notes=_notes(survey, directions),
        unit=getattr(sae, "unit", "latent"),
        neighbours=nearest(sae, chosen, neighbours),
        places=places,
        layout=drawn,
        images=images,
    )


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


def _notes(survey: Survey, directions: dict[str, Tensor]) -> tuple[str, ...]:
    source, paired = survey.source, survey.together.tokens
    n = int(source.lengths.sum())
    notes = [
        f"One pass over {n:,} tokens of {int((source.lengths > 0).sum()):,} documents at "
        f"{source.hookpoint}; pads never enter.",
        "A top example is a document's strongest token, so that no document shows twice.",
        f"Quantiles are of a uniform sample of {survey.size} firings (all, of a rarer latent).",
    ]
    if paired < n:
        notes.append(f"Partners are counted on a uniform sample of {paired:,} of the tokens.")
    if source.model is not None:
        notes.append(
            "Raised and lowered tokens are a linear reading of the decoder row through the final "
            "norm and the unembedding; they say nothing on how far the logits move."
        )
    if survey.labels is not None:
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
