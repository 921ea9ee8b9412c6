"""VL-SAE: one set of latents for images and texts, an encoder of distances, two decoders.

::

    z_i = 2 - |x / |x| - w_i / |w_i||            from 0 to 2; the k largest are kept
    image_hat = z image_decoder + image_b_dec,   text_hat = z text_decoder + text_b_dec

The same encoder reads both, so an image and a text of like directions have like latents: by the
triangle inequality ``|z_i(x) - z_i(y)| <= |x / |x| - y / |y||``. Lengths are not read, and cannot
be predicted. Where the two spaces are not aligned, `saes.AuxiliaryAE` comes first.

Source: Shen et al. 2025, "VL-SAE: Interpreting and Enhancing Vision-Language Alignment with a
Unified Concept Set" (arXiv 2510.21323), section 3, and its released code.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp.errors import DataError, ParameterError, ShapeError
from saes.base import SAE, Loss, SAEOutput, check_finite, squared_error
from saes.codes import Codes
from saes.configs import SAEConfig
from saes.distances import encode_distance
from saes.kernels import decode, encode_topk
from saes.vl_modes import training_mode

__all__ = ["MODALITIES", "VLConfig", "VLSAE", "Side"]

MODALITIES = ("image", "text")
DESIGNS = ("vl", "separate", "shared")
TIES = ("exact", "strict")


@dataclass(frozen=True, kw_only=True)
class VLConfig(SAEConfig):
    """Config of `VLSAE`.

    Attributes
    ----------
    n_latents : how many latents, which both modalities share.
    k : active latents a row, from 1 to ``n_latents``.
    ties : ``"exact"`` keeps k, of equal ones the first; ``"strict"``, the authors' rule, keeps what
        is above the (k + 1)-th largest, so that equals at the edge all go, and k must be below
        ``n_latents``.
    design : ``"vl"``; or one of the two that the method is compared with, whose encoders are linear
        with a ReLU: ``"separate"``, two encoders and two decoders, and ``"shared"``, one of each.
    """

    architecture: ClassVar[str] = "vl"

    k: int
    ties: str = "exact"
    design: str = "vl"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, known in (("ties", TIES), ("design", DESIGNS)):
            if getattr(self, name) not in known:
                raise ParameterError(
                    f"VLConfig: {name} must be one of {', '.join(known)}; got "
                    f"{getattr(self, name)!r}."
                )
        if self.ties == "strict":
            why = "The strict rule needs a latent more than k."
            self._whole("k", 1, self.n_latents - 1, why)
        self._whole("k", 1, self.n_latents, "It cannot exceed n_latents.")


class VLSAE(SAE[VLConfig]):
    """Latents of images and texts; it learns from pairs, and decodes into either.

    Loss: ``image`` and ``text``, the squared error of each summed over features, its mean over
    rows. No part compares the two of a pair: what pairs share is due to the encoder alone.

    Nothing in the loss revives dead latents (AuxK, tried here, did not); ``resample_every`` of
    `saes.train` does. Where the two modalities lie far apart (a gap between their means as large as
    what varies within), latents take sides, and those revived do so too: look at ``one_sided`` of
    `saes.evaluate_pairs`, and take the means off first.

    Parameters
    ----------
    config : a `VLConfig`.
    d_in : width of both modalities.
    d_out : None or ``d_in``.
    generator : of the first weights.

    Attributes
    ----------
    encoders : ``"both"``, or ``"image"`` and ``"text"``: [n_latents, d_in] parameters. Of a vl
        design their lengths do not count.
    decoders : likewise, [n_latents, d_in]; only the shared design has ``"both"``.
    b_encs : [n_latents] of linear encoders; empty for vl.
    b_decs : [d_in], a decoder each.

    Raises
    ------
    ParameterError
        ``d_out`` is another width than ``d_in``.

    Notes
    -----
    First weights: encoders uniform within 1 / sqrt(d_in), decoders and their biases within
    1 / sqrt(n_latents), as the authors'; `saes.train` begins with biases that are means.
    Differs: their error is a mean over features too (a factor of the width), and near equal
    directions their distances are off by up to 1e-3, ours are exact. Distances are never computed
    in half precision.

    The authors' training is ``ties="strict"`` with the settings of `saes.released_vl`; the result's
    ``mode`` is then ``"released_code"``.

    Source: the paper's section 3.2; the rule for ties and the first weights are the code's.
    """

    config_class: ClassVar[type[SAEConfig]] = VLConfig
    unit_norm: ClassVar[bool] = False
    threaded: ClassVar[bool] = True
    paired: ClassVar[bool] = True

    def __init__(
        self,
        config: VLConfig,
        d_in: int,
        d_out: int | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        nn.Module.__init__(self)
        self._check_widths(config, d_in, d_out)
        if d_out not in (None, d_in):
            raise ParameterError(
                f"VLSAE: images and texts must have one width; got {d_in} and {d_out}. Bring them "
                "to one with saes.AuxiliaryAE."
            )
        self.config, self.d_in, self.d_out = config, d_in, d_in
        self.transcodes, self.metadata, self.training_log = False, {}, None
        self.backend = "auto"
        f = config.n_latents
        ins = MODALITIES if config.design == "separate" else ("both",)
        outs = ("both",) if config.design == "shared" else MODALITIES

        def drawn(shape: tuple[int, ...], width: int) -> nn.Parameter:
            t = torch.empty(shape, dtype=torch.float32)
            return nn.Parameter(t.uniform_(-(width**-0.5), width**-0.5, generator=generator))

        self.encoders = nn.ParameterDict({m: drawn((f, d_in), d_in) for m in ins})
        self.decoders = nn.ParameterDict({m: drawn((f, d_in), f) for m in outs})
        linear = ins if config.design != "vl" else ()
        self.b_encs = nn.ParameterDict({m: drawn((f,), d_in) for m in linear})
        self.b_decs = nn.ParameterDict({m: drawn((d_in,), f) for m in outs})

    @property
    def encoder(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """[n_latents, d_in]: the encoder; the separate design has one a side."""
        return self._one(self.encoders, "encoder")

    @property
    def decoder(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """[n_latents, d_in]: of the shared design alone."""
        return self._one(self.decoders, "decoder")

    @property
    def b_enc(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """[n_latents]: 0 for vl."""
        if self.config.design == "vl":
            return self.encoder.new_zeros(self.n_latents)
        return self._one(self.b_encs, "b_enc")

    @property
    def b_dec(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """[d_in]: of the shared design alone."""
        return self._one(self.b_decs, "b_dec")

    @property
    def W_dec(self) -> dict[str, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Modality -> [n_latents, d_in], the decoder itself."""
        return {m: _of(self.decoders, m) for m in MODALITIES}

    def side(self, modality: str) -> "Side":
        """The SAE of one modality, with these weights, for what takes an SAE of one.

        Raises
        ------
        ParameterError
            The modality is neither ``"image"`` nor ``"text"``.
        """
        return Side(self, self._known(modality, "side"))

    def encode(
        self, x: Float[Tensor, "... d_in"], *, modality: str | None = None
    ) -> Float[Tensor, "... f"]:
        """Dense latents [..., n_latents] of activations [..., d_in].

        Parameters
        ----------
        modality : ``"image"`` or ``"text"``: needed for the separate design alone.

        Raises
        ------
        ShapeError
            The last axis is not ``d_in`` wide.
        DataError
            A row is 0 and so has no direction (looked for on the CPU; elsewhere its latents are
            nan), or x is not of a floating-point dtype.
        ParameterError
            The modality is unknown, or missing where it is needed.
        """
        codes = self.encode_sparse(x, modality=modality)
        return codes.dense(self.n_latents).view(*x.shape[:-1], self.n_latents)

    def encode_sparse(self, x: Float[Tensor, "... d_in"], *, modality: str | None = None) -> Codes:
        """The same latents as `Codes`, whose rows are those of x flattened to [n, d_in]."""
        rows = self._rows(x, self.in_shape)
        codes = self._codes(rows, modality)
        return codes.with_values(codes.values.to(x.dtype))

    def decode(
        self, codes: Codes | Float[Tensor, "... f"], *, modality: str | None = None
    ) -> Float[Tensor, "... d_in"]:
        """What latents stand for in a modality: [n, d_in] of codes, [..., d_in] of dense latents.

        Parameters
        ----------
        modality : ``"image"`` or ``"text"``; the shared design alone does without.

        Raises
        ------
        ParameterError
            The modality is unknown, or missing where it is needed.
        ShapeError
            Dense latents are not ``n_latents`` wide.
        """
        which = self._which(self.decoders, modality, "decode")
        if isinstance(codes, Codes):
            latents = codes.with_values(codes.values.to(self._like.dtype))
            return self._decoded(latents, which).to(codes.values.dtype)
        rows = self._rows(codes, (self.n_latents,), "z")
        out = rows @ self.decoders[which] + self.b_decs[which]
        return out.to(codes.dtype).view(*codes.shape[:-1], self.d_in)

    def forward(self, x: Float[Tensor, "... d_in"], *, modality: str | None = None) -> SAEOutput:
        """The reconstruction [..., d_in] within a modality, and the codes it was made from."""
        which = self._which(self.decoders, modality, "forward")
        codes = self._codes(self._rows(x, self.in_shape), modality)
        output = self._decoded(codes, which).to(x.dtype)
        return SAEOutput(output.view(x.shape), codes.with_values(codes.values.to(x.dtype)))

    def loss(
        self,
        x: Float[Tensor, "... d_in"],
        y: Float[Tensor, "... d_in"] | None = None,
        *,
        dead: Int[Tensor, " m"] | None = None,
        k: int | None = None,
        penalty_scale: float = 1.0,
    ) -> Loss:
        """The loss of images x and texts y, row for row; see the class for its parts.

        As `SAE.loss`; but ``output`` is [n, 2 d_in], images before texts, and ``active`` counts
        both modalities.

        Raises
        ------
        ShapeError
            A width is wrong, or x and y differ in rows.
        DataError
            The batch is empty, holds nan or inf, or a row of a vl design is 0.
        ParameterError
            y is missing, or k is outside 1 to ``n_latents``.
        """
        if y is None:
            raise ParameterError("VLSAE.loss: needs y, the texts of the images x.")
        rows, texts = self._rows(x, self.in_shape, "x"), self._rows(y, self.in_shape, "y")
        if len(rows) != len(texts):
            raise ShapeError(f"VLSAE.loss: x has {len(rows)} rows and y {len(texts)}.")
        if not len(rows):
            raise DataError("VLSAE.loss: the batch has no rows.")
        for name, batch in (("x", rows), ("y", texts)):
            if batch.device.type == "cpu" and not batch.sum().isfinite():
                check_finite(batch, f"VLSAE.loss: {name}")
        most = self.n_latents - (self.config.ties == "strict")
        if k is not None and not 1 <= k <= most:
            raise ParameterError(f"VLSAE.loss: k must be from 1 to {most}; got k={k}.")
        return self._total(rows, texts, dead, k, penalty_scale)

    def _total(
        self,
        rows: Tensor,
        target: Tensor,
        dead: Tensor | None,
        k: int | None,
        penalty_scale: float,
    ) -> Loss:
        parts: dict[str, Tensor] = {}
        outputs, active = [], 0
        for modality, batch in zip(MODALITIES, (rows, target), strict=True):
            codes = self._codes(batch, modality, k)
            output = self._decoded(codes, self._which(self.decoders, modality, "loss"))
            parts[modality] = squared_error(output, batch)
            outputs.append(output.detach())
            active = active + codes.counts(self.n_latents)
        total = torch.stack(list(parts.values())).sum()
        return Loss(total, parts, torch.cat(outputs, 1), active)  # pyright: ignore[reportArgumentType]  two modalities

    def training_mode(self, settings: Mapping[str, Any]) -> str:
        """As `SAE.training_mode`; ``"released_code"`` with the authors' settings."""
        return training_mode(self.config.ties, self.config.design, settings)

    def start_biases(self, image: Float[Tensor, " d"], text: Float[Tensor, " d"]) -> None:
        """Set the decoders' biases, in place; one that both share becomes their mean."""
        with torch.no_grad():
            if "both" in self.b_decs:
                self.b_decs["both"].copy_((image + text) / 2)
            else:
                self.b_decs["image"].copy_(image)
                self.b_decs["text"].copy_(text)

    def fold_scales(self, image: Tensor, text: Tensor) -> None:
        """Make an SAE of scaled activations one of raw ones, in place; latents stay.

        Parameters
        ----------
        image, text : [1] factors; equal ones for the shared design.
        """
        with torch.no_grad():
            for m, scale in (("image", image), ("text", text), ("both", image)):
                if m in self.decoders:
                    self.decoders[m].div_(scale)
                    self.b_decs[m].div_(scale)
                if m in self.b_encs:
                    self.encoders[m].mul_(scale)

    def _codes(self, rows: Tensor, modality: str | None, k: int | None = None) -> Codes:
        """[n, k] codes of rows, gradients included."""
        k = k or self.config.k
        strict = self.config.ties == "strict"
        which = self._which(self.encoders, modality, "encode")
        codes = self._nearest(rows, self.encoders[which], self._linear_bias(which), k + strict)
        if not strict:
            return codes
        kept = codes.values[:, :k] > codes.values[:, k:]
        return Codes(codes.values[:, :k] * kept, codes.indices[:, :k])

    def _nearest(self, rows: Tensor, encoder: Tensor, b_enc: Tensor | None, k: int) -> Codes:
        if b_enc is None:
            return encode_distance(rows, encoder, k, backend=self.backend)
        return encode_topk(rows, encoder, b_enc, k, backend=self.backend)

    def _linear_bias(self, which: str) -> Tensor | None:
        return None if self.config.design == "vl" else self.b_encs[which]

    def _decoded(self, codes: Codes, which: str) -> Tensor:
        return decode(codes, self.decoders[which], self.b_decs[which], backend=self.backend)

    @property
    def _like(self) -> Tensor:
        return next(iter(self.decoders.values()))

    def _known(self, modality: Any, who: str) -> str:
        if modality not in MODALITIES:
            raise ParameterError(
                f"VLSAE.{who}: modality must be {' or '.join(MODALITIES)}; got {modality!r}."
            )
        return modality

    def _which(self, table: Mapping[str, Any] | nn.ParameterDict, modality: Any, who: str) -> str:
        """The key of a modality's weights; a modality that is given must be known."""
        if "both" in table:
            if modality is not None:
                self._known(modality, who)
            return "both"
        return self._known(modality, who)

    def _one(self, table: nn.ParameterDict, name: str) -> Tensor:
        if "both" not in table:
            raise ParameterError(
                f"VLSAE: this one has a {name} a modality; take sae.side('image') or "
                "sae.side('text')."
            )
        return table["both"]

    def _latents(self, rows: Tensor) -> Codes:
        return self._codes(rows, None)

    def _terms(
        self, rows: Tensor, target: Tensor, **options: Any
    ) -> tuple[Tensor, Codes, dict[str, Tensor]]:
        raise NotImplementedError  # `_total` knows both modalities


def _of(table: nn.ParameterDict, modality: str) -> Tensor:
    return table["both"] if "both" in table else table[modality]


class Side(SAE[VLConfig]):
    """One modality of a `VLSAE`: the same weights, for whatever takes an SAE of one input.

    Attributes
    ----------
    whole, modality : what it is a side of, and which.

    Raises
    ------
    ParameterError
        It is to be trained or saved by itself.
    """

    config_class: ClassVar[type[SAEConfig]] = VLConfig
    unit_norm: ClassVar[bool] = False

    def __init__(self, whole: VLSAE, modality: str) -> None:
        nn.Module.__init__(self)
        self.whole, self.modality = whole, modality
        self.config, self.d_in, self.d_out = whole.config, whole.d_in, whole.d_out
        self.transcodes, self.training_log = False, None
        points = whole.metadata.get("hookpoints")
        held = {"hookpoint": points[modality]} if isinstance(points, dict) else {}
        self.metadata = {**whole.metadata, **held, "modality": modality}
        self.backend = "auto"
        self.train(whole.training)

    @property
    def encoder(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """[n_latents, d_in]."""
        return _of(self.whole.encoders, self.modality)

    @property
    def decoder(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """[n_latents, d_in]."""
        return _of(self.whole.decoders, self.modality)

    @property
    def b_enc(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """[n_latents]: 0 for vl."""
        if self.config.design == "vl":
            return self.encoder.new_zeros(self.n_latents)
        return _of(self.whole.b_encs, self.modality)

    @property
    def b_dec(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """[d_in]."""
        return _of(self.whole.b_decs, self.modality)

    def _latents(self, rows: Tensor) -> Codes:
        return self.whole._codes(rows, self.modality)

    def _terms(
        self, rows: Tensor, target: Tensor, **options: Any
    ) -> tuple[Tensor, Codes, dict[str, Tensor]]:
        raise ParameterError("a side of a VLSAE is not trained by itself; train the VLSAE.")

    def save_pretrained(self, path: Any) -> Any:
        """Refused: the whole is what is saved."""
        raise ParameterError("a side of a VLSAE is not saved by itself; save the VLSAE.")
