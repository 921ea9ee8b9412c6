"""What a latent means: tokens that it raises, probes that it lies along, labels it predicts."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from interp.errors import ModelError, ParameterError, ShapeError
from interp.models import Model
from probes.curves import ConceptDepth
from probes.steering import check_language_model, lens_logits
from saes.base import SAE
from saes.tallies import Labels
from saes.windows import Words

__all__ = ["RANDOM", "Probes", "alignment", "logit_effect", "names", "unit_directions"]

Probes = Mapping[str, Any] | Sequence[ConceptDepth]

BLOCK = 256
"""Decoder rows that are read through the unembedding at once."""
RANDOM = 100
"""Random directions for the control of the probe alignment."""
NAMED = 0.5
"""Least ``(precision - base rate) / (1 - base rate)`` of a label that becomes a name."""
FEWEST = 30
"""Least labelled tokens, of either half, at which a latent that gets a name fires."""


def logit_effect(
    sae: SAE,
    model: Model | None,
    chosen: NDArray,
    k: int,
    vocabulary: Words,
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


def unit_directions(probes: Probes, hookpoint: str, sae: SAE) -> dict[str, Tensor]:
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


def alignment(
    sae: SAE, chosen: NDArray, directions: dict[str, Tensor], seed: int
) -> dict[str, Any]:
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


def names(labels: Labels | None, chosen: NDArray) -> dict[str, Any]:
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
