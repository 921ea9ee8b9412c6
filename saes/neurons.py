"""Neurons as latents: each is read as it is, and writes with its row of the layer behind it."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.errors import ParameterError
from interp.loading import load
from interp.models import Model
from saes.base import SAE
from saes.codes import Codes
from saes.configs import SAEConfig
from saes.latents import features
from saes.records import Features

__all__ = ["neuron_features", "neurons_of"]


def neuron_features(model: Any, data: Any, hookpoint: str, **options: Any) -> Features:
    """A record of each neuron of an MLP, as `saes.features` makes them of latents.

    A neuron fires where its activation is above 0, with that activation: of a ReLU that is all it
    says; of another non-linearity its small negative values are left out. Its decoder row is what
    it writes: its row of the linear layer that reads it. Directions to align with (``probes``) are
    of what that layer writes to.

    Parameters
    ----------
    model : a `Model` or what `interp.load` takes.
    hookpoint : where the neurons enter a linear layer, such as ``mlp_act.3``.
    options : for `saes.features`, such as ``top``, ``latents``, ``probes`` and ``layout``.

    Raises
    ------
    ParameterError
        The hook point is several, or no input of a linear layer.
    """
    loaded = load(model)
    point = loaded.resolve(hookpoint)[0]
    return features(neurons_of(loaded, hookpoint), loaded, data, point.name, **options)


def neurons_of(model: Model, hookpoint: str) -> SAE:
    """The neurons of a hook point in the place of an SAE's latents, for `saes.features` alone.

    Raises
    ------
    ParameterError
        As for `neuron_features`.
    """
    points = model.resolve(hookpoint)
    if len(points) != 1:
        raise ParameterError(
            f"neurons are read at one hook point; {hookpoint!r} means "
            f"{', '.join(p.name for p in points)}."
        )
    point = points[0]
    module = model.module.get_submodule(point.module)
    weight = getattr(module, "weight", None)
    if point.side != "in" or not isinstance(weight, Tensor) or weight.ndim != 2:
        raise ParameterError(
            f"neurons are read where they enter a linear layer, such as mlp_act.0; {point.name} "
            "is no such place."
        )
    rows = weight.T if isinstance(module, nn.Linear) else weight  # GPT-2's are [in, out]
    return _Neurons(rows.detach())


@dataclass(frozen=True, kw_only=True)
class _NeuronConfig(SAEConfig):
    """Config of `_Neurons`."""

    architecture: ClassVar[str] = "neurons"


class _Neurons(SAE[_NeuronConfig]):
    """Neurons in the place of latents; made for reading, never trained or saved."""

    config_class: ClassVar[type[SAEConfig]] = _NeuronConfig
    unit = "neuron"

    def __init__(self, rows: Float[Tensor, "f d_out"]) -> None:
        nn.Module.__init__(self)  # an encoder of [f, f] would be the identity
        n, width = rows.shape
        self.config = _NeuronConfig(n_latents=n)
        self.d_in, self.d_out, self.transcodes = n, width, True
        self.metadata, self.training_log, self.backend = {}, None, "auto"
        self.decoder = nn.Parameter(rows.float(), requires_grad=False)
        self.encoder = nn.Parameter(torch.ones(n, 1), requires_grad=False)  # each reads itself
        self.b_enc = nn.Parameter(torch.zeros(n), requires_grad=False)
        self.b_dec = nn.Parameter(torch.zeros(width), requires_grad=False)

    def encode_sparse(self, x: Float[Tensor, "... d_in"]) -> Codes:
        """The activations above 0."""
        return Codes.from_dense(self._rows(x, self.in_shape).relu())
