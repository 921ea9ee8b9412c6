"""Fewer hallucinations by VL-SAE: a text is moved towards its image's concepts while it is written.

For each token the model runs once more, on the whole sequence, with the mean of the text positions
at one hook point moved (`moved_text_mean`); the logits of both runs are mixed (`mixed_logits`). In
`generate` that is a logits processor, `ConceptGuidance`.

Source: VL-SAE (arXiv 2510.21323), section 4.3, and its released code.
"""

import inspect
import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp.errors import DataError, ParameterError, ShapeError
from interp.intervene import splice
from interp.loading import load
from interp.models import Model
from saes.auxiliary import AuxiliaryAE
from saes.vl import VLSAE

__all__ = ["ConceptGuidance", "mixed_logits", "moved_text_mean"]

FORMS = ("released_code", "paper")


def moved_text_mean(
    sae: VLSAE,
    image: Float[Tensor, "n d"],
    text: Float[Tensor, "n d"],
    *,
    alpha: float = 0.8,
    beta: float = 0.9,
    form: str = "released_code",
    auxiliary: AuxiliaryAE | None = None,
) -> Float[Tensor, "n d"]:
    """The mean text activation of each row, moved towards what its image's latents say as text.

    With z the latents and D the text decoder, behind the auxiliary's maps where there is one::

        released_code   (1 - alpha) text + alpha D((1 - beta) z(text) + beta z(image))
        paper           text + alpha D(z(text) + beta z(image))

    Parameters
    ----------
    image, text : [n, d] means over image positions and over text positions.
    alpha, beta : weights, 0 to 1; alpha 0 gives the text back.
    form : as above.
    auxiliary : the maps that the SAE was trained behind; None where it reads activations.

    Raises
    ------
    ParameterError
        A weight or the form is outside what it allows.
    ShapeError
        Images and texts differ in rows or width.
    DataError
        A row is 0.

    Source: VL-SAE, equation 11. Differs: the paper's form is read from what users quote of the
    equation; the authors' experiments ran the code's.
    """
    if form not in FORMS:
        raise ParameterError(f"form must be one of {', '.join(FORMS)}; got {form!r}.")
    for name, value in (("alpha", alpha), ("beta", beta)):
        if not 0 <= value <= 1:
            raise ParameterError(f"{name} must be from 0 to 1; got {value!r}.")
    if len(image) != len(text):
        raise ShapeError(f"{len(image)} image means and {len(text)} text means do not pair.")
    latents = []
    for modality, mean in (("image", image), ("text", text)):
        if auxiliary is not None:
            mean = auxiliary.transform(mean, modality=modality)
        latents.append(sae.encode(mean, modality=modality))
    own = 1 - beta if form == "released_code" else 1
    heard = sae.decode(own * latents[1] + beta * latents[0], modality="text")
    if auxiliary is not None:
        heard = auxiliary.inverse(heard, modality="text")
    heard = heard.to(text.dtype)
    return (1 - alpha if form == "released_code" else 1) * text + alpha * heard


def mixed_logits(
    plain: Float[Tensor, "n v"],
    guided: Float[Tensor, "n v"],
    *,
    share: float = 0.6,
    cutoff: float = 0.8,
) -> Float[Tensor, "n v"]:
    """``(1 - share) plain + share guided``, -inf where the plain chance is below a cutoff.

    Parameters
    ----------
    plain, guided : [n, vocabulary] logits.
    share : of the guided logits, 0 to 1.
    cutoff : a token stays where its plain probability is at least this share of the largest, above
        0 to 1. The authors' 0.8 leaves few tokens, so that sampling is nearly greedy whatever the
        guidance: compare with share 0 at the same cutoff.

    Raises
    ------
    ParameterError
        A number is outside what it allows.
    """
    if not 0 <= share <= 1 or not 0 < cutoff <= 1:
        raise ParameterError(
            f"share must be from 0 to 1 and cutoff above 0 to 1; got {share!r} and {cutoff!r}."
        )
    least = plain.amax(-1, keepdim=True) + math.log(cutoff)
    return ((1 - share) * plain + share * guided).masked_fill(plain < least, -math.inf)


class ConceptGuidance:
    """A logits processor: ``model.generate(**inputs, logits_processor=[guidance])``.

    Each token costs one more forward of the whole sequence, without cache. Its hook is set for that
    forward alone and removed after, also after an exception.

    Parameters
    ----------
    model : an image-text model of the LLaVA kind, whose ``input_ids`` have a token for each image
        position; a `Model` or the module itself.
    sae : learnt from the means of image and text positions at the hook point.
    inputs : what `generate` gets beside ``input_ids``, such as ``pixel_values`` and
        ``attention_mask``.
    hookpoint : where the means are moved; None for the one that the SAE's metadata names.
    image_token : id of the image positions; None for the model's configuration's.
    alpha, beta, form, auxiliary : as for `moved_text_mean`.
    share, cutoff : as for `mixed_logits`.

    Notes
    -----
    Text positions are all that follow the last image position, tokens written so far included;
    image positions stay as they are. The sequences of a batch must be padded on the left, as for
    any `generate`.

    Raises
    ------
    ParameterError
        There is no hook point or image token, or a number is outside what it allows.
    DataError
        While it runs: a sequence has no image, or no text after it.
    """

    def __init__(
        self,
        model: Model | nn.Module,
        sae: VLSAE,
        inputs: dict[str, Any],
        *,
        hookpoint: str | None = None,
        image_token: int | None = None,
        alpha: float = 0.8,
        beta: float = 0.9,
        share: float = 0.6,
        cutoff: float = 0.8,
        form: str = "released_code",
        auxiliary: AuxiliaryAE | None = None,
    ) -> None:
        self.model, self.sae = load(model), sae
        points = sae.metadata.get("hookpoints")
        named = str(points.get("text") or "") if isinstance(points, dict) else ""
        # Pairs of one decoder are columns NAME@image and NAME@text of the hook point NAME.
        self.hookpoint = hookpoint or named.removesuffix("@text")
        if not self.hookpoint:
            raise ParameterError("ConceptGuidance: the SAE names no hook point; give hookpoint.")
        config = self.model.config
        found = [getattr(config, n, None) for n in ("image_token_id", "image_token_index")]
        known = [i for i in (image_token, *found) if i is not None]
        if not known:
            raise ParameterError(
                "ConceptGuidance: the model's configuration names no image token; give image_token."
            )
        self.image_token = known[0]
        self.edit = {"alpha": alpha, "beta": beta, "form": form, "auxiliary": auxiliary}
        self.mix = {"share": share, "cutoff": cutoff}
        width = sae.d_in if auxiliary is None else auxiliary.widths["text"]
        probe = torch.ones(1, width)
        like = next(sae.parameters())
        with torch.no_grad():  # refuses now what would be refused at the first token
            moved_text_mean(sae, *(probe.to(like) for _ in range(2)), **self.edit)
            mixed_logits(probe, probe, **self.mix)
        takes = inspect.signature(self.model.module.forward).parameters
        self.inputs = {k: v for k, v in inputs.items() if k != "input_ids" and k in takes}

    def __call__(
        self, input_ids: Int[Tensor, "n t"], scores: Float[Tensor, "n v"]
    ) -> Float[Tensor, "n v"]:
        """The mixed logits of the next token, but for a constant a row."""
        # Beam search adds up log-probabilities; to all else a constant a row is the same.
        guided = self.guided(input_ids).log_softmax(-1)
        return mixed_logits(scores, guided.to(scores), **self.mix)

    @torch.no_grad()
    def guided(self, input_ids: Int[Tensor, "n t"]) -> Float[Tensor, "n v"]:
        """Logits of the next token with the text moved, in float32."""
        images, texts = self._positions(input_ids)

        def move(x: Tensor) -> Tensor:
            if x.ndim != 3 or x.shape[:2] != input_ids.shape:
                raise ShapeError(
                    f"ConceptGuidance: {self.hookpoint} must hold [n, tokens, width] of the whole "
                    f"sequence; got {list(x.shape)} for ids of {list(input_ids.shape)}."
                )
            like = next(self.sae.parameters())
            image, text = (_mean(x, where).to(like) for where in (images, texts))
            shift = moved_text_mean(self.sae, image, text, **self.edit) - text
            return x + (shift[:, None] * texts[..., None].to(shift)).to(x.device, x.dtype)

        with splice(self.model, self.hookpoint, move):
            out = self.model.module(
                input_ids=input_ids, **self._rest(input_ids), use_cache=False, return_dict=True
            )
        return out.logits[:, -1].float()

    def _positions(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """[n, t] True at image positions, and at those after the last of them."""
        images = ids == self.image_token
        places = torch.arange(ids.shape[1], device=ids.device)
        last = (images * (places + 1)).amax(1, keepdim=True)  # 0 where there is none
        texts = (places + 1 > last) & (last > 0)
        for where, what in ((images, "no image position"), (texts, "no text after its image")):
            if not where.any(1).all():
                row = int((~where.any(1)).nonzero()[0, 0])
                raise DataError(f"ConceptGuidance: sequence {row} has {what}.")
        return images, texts

    def _rest(self, ids: Tensor) -> dict[str, Any]:
        """The other inputs, for as many sequences and tokens as there are now."""
        rest = {}
        for name, value in self.inputs.items():
            if isinstance(value, Tensor) and len(ids) % len(value) == 0:
                value = value.repeat_interleave(len(ids) // len(value), 0)
            if name in ("attention_mask", "token_type_ids") and isinstance(value, Tensor):
                more = ids.shape[1] - value.shape[1]
                fill = value.new_full((len(value), more), int(name == "attention_mask"))
                value = torch.cat([value, fill], 1)
            rest[name] = value
        return rest


def _mean(x: Float[Tensor, "n t d"], where: Tensor) -> Float[Tensor, "n d"]:
    """Mean over some positions, in float32 at least."""
    x = x if x.dtype.itemsize > 2 else x.float()
    weight = where.to(x.dtype)[..., None]
    return (x * weight).sum(1) / weight.sum(1)
