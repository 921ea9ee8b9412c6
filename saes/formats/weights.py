"""A coder between two formats: its weights in interp's layout, and the exact ways to rewrite them.

Formats differ in whether b_dec is taken off the input, in whether the activations are scaled or
whitened first, and in the length of decoder rows. Each difference is affine, so it folds into the
weights without changing codes or outputs. Folding is in float64.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import CheckpointError, InterpError
from saes.base import ARCHITECTURES, SAE

__all__ = ["Weights", "take_tensors", "whole"]


@dataclass
class Weights:
    """z = step(encoder x + b_enc), x_hat = z decoder + b_dec; x - b_dec for x where ``centred``.

    Attributes
    ----------
    architecture : the name in `ARCHITECTURES`.
    encoder, decoder : [n_latents, d_in] and [n_latents, d_out].
    b_enc, b_dec : [n_latents] and [d_out]; of a gated coder ``b_enc`` is the gate's.
    centred : whether ``b_dec`` is taken off the input.
    transcodes : whether another activation than the input is predicted.
    config : fields of the architecture's config beside ``n_latents``.
    extra : ``threshold`` ([n_latents], or 0-d for one that all share), ``r_mag``, ``b_mag``,
        ``W_skip`` ([d_out, d_in]).
    metadata : what the file says about model and hook point.
    """

    architecture: str
    encoder: Float[Tensor, "f d_in"]
    decoder: Float[Tensor, "f d_out"]
    b_enc: Float[Tensor, " f"]
    b_dec: Float[Tensor, " d_out"]
    centred: bool
    transcodes: bool = False
    config: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Tensor] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """What it is, in words."""
        if not self.transcodes:
            return f"{self.architecture} SAE"
        step = "topk" if self.architecture == "transcoder" else self.architecture
        return f"{step} transcoder"

    def set_centred(self, centred: bool) -> None:
        """Take b_dec off the input, or leave the input as it is, with the same codes."""
        if centred != self.centred:
            self._read_from(-self.b_dec if centred else self.b_dec)
            self.centred = centred

    def scale_latents(self, factor: Float[Tensor, " f"]) -> None:
        """Multiply latents by positive factors and divide the decoder by them; thresholds stay."""
        self._widen()
        factor = factor.double()
        self.encoder, self.decoder = self.encoder * factor[:, None], self.decoder / factor[:, None]
        self.b_enc = self.b_enc * factor
        if "b_mag" in self.extra:
            self.extra["b_mag"] = self.extra["b_mag"] * factor

    def scale_input(self, scale: float) -> None:
        """Read and predict x where the weights are for ``scale * x``; latents keep their size."""
        self._widen()
        self.encoder, self.decoder = self.encoder * scale, self.decoder / scale
        self.b_dec = self.b_dec / scale

    def whiten_input(
        self,
        mean: Float[Tensor, " d"],
        matrix: Float[Tensor, "d d"],
        inverse: Float[Tensor, "d d"],
    ) -> None:
        """Read and predict x where the weights are for ``(x - mean) @ matrix``."""
        self._widen()
        mean, matrix, inverse = mean.double(), matrix.double(), inverse.double()
        self.encoder, self.decoder = self.encoder @ matrix.T, self.decoder @ inverse
        if not self.centred:  # else the new b_dec takes the mean off
            self._read_from(mean)
        self.b_dec = self.b_dec @ inverse + mean

    def build(self, source: str) -> SAE:
        """The SAE of these weights, in eval mode; half precision is widened to float32.

        Raises
        ------
        CheckpointError
            A field of the config is outside what it allows.
        """
        self.set_centred(not self.transcodes)
        config_class, sae_class = ARCHITECTURES[self.architecture]
        n, d_in = self.encoder.shape
        try:
            config = config_class(n_latents=n, **self.config)
            with torch.device("meta"):
                sae = sae_class(config, d_in, self.decoder.shape[1] if self.transcodes else None)
        except InterpError as error:
            raise CheckpointError(f"{source}: {error}") from error
        own = {"encoder": self.encoder, "decoder": self.decoder, "b_enc": self.b_enc,
               "b_dec": self.b_dec, **self.extra}  # fmt: skip
        if "log_threshold" in sae.state_dict():
            tiny = torch.finfo(torch.float32).tiny  # above 0 is above a threshold of 0 or less
            own["log_threshold"] = own.pop("threshold").double().clamp_min(tiny).log()
        dtype = torch.float64 if self.stored == torch.float64 else torch.float32
        state = {name: tensor.to(dtype).contiguous() for name, tensor in own.items()}
        sae.load_state_dict(state, assign=True)
        sae.metadata = self.metadata
        return sae.eval()

    @classmethod
    def of(cls, sae: SAE) -> "Weights":
        """The weights of an SAE."""
        state = {name: tensor.detach().cpu() for name, tensor in sae.state_dict().items()}
        main = {name: state.pop(name) for name in ("encoder", "decoder", "b_enc", "b_dec")}
        if "log_threshold" in state:
            state["threshold"] = state.pop("log_threshold").exp()
        return cls(
            architecture=sae.architecture,
            **main,
            centred=not sae.transcodes,
            transcodes=sae.transcodes,
            config=sae.config.to_dict(),
            extra=state,
            metadata=dict(sae.metadata),
        )

    def __post_init__(self) -> None:
        self.stored = self.encoder.dtype

    def _widen(self) -> None:
        for name in ("encoder", "decoder", "b_enc", "b_dec"):
            setattr(self, name, getattr(self, name).double())
        self.extra = {name: tensor.double() for name, tensor in self.extra.items()}

    def _read_from(self, origin: Tensor) -> None:
        """Let the encoder read ``x - origin`` where it read x."""
        self._widen()
        shift = self.encoder @ origin.double()
        self.b_enc = self.b_enc - shift
        if "b_mag" in self.extra:
            self.extra["b_mag"] = self.extra["b_mag"] - self.extra["r_mag"].exp() * shift


def take_tensors(
    source: str, found: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Tensor]:
    """The tensors, detached, where they are exactly those of ``shapes``, floating and finite.

    Raises
    ------
    CheckpointError
        One is missing, unknown, of another shape, not floating-point, or holds nan or inf.
    """
    if missing := [name for name in shapes if name not in found]:
        raise CheckpointError(f"{source} lacks the tensor {', '.join(missing)}.")
    if unknown := [name for name in found if name not in shapes]:
        raise CheckpointError(
            f"{source} holds {', '.join(map(repr, unknown))}, which import_checkpoint does not "
            f"know beside {', '.join(shapes)}."
        )
    for name, shape in shapes.items():
        tensor = found[name]
        if tuple(tensor.shape) != shape:
            raise CheckpointError(
                f"{source}: {name} is {list(tensor.shape)}; the rest of the checkpoint makes it "
                f"{list(shape)}."
            )
        if not tensor.is_floating_point() or not tensor.isfinite().all():
            raise CheckpointError(f"{source}: {name} must hold finite floating-point numbers.")
    return {name: found[name].detach() for name in shapes}


def whole(source: str, config: Mapping[str, Any], name: str) -> int:
    """A whole number above 0 of a config.

    Raises
    ------
    CheckpointError
        It is absent, or something else.
    """
    value = config.get(name)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise CheckpointError(
            f"{source}: {name} must be a whole number of at least 1; got {value!r}."
        )
    return value
