"""The auxiliary autoencoder: linear maps that bring two unaligned spaces to one, for VL-SAE.

::

    e_image = x_image E_image + b,  e_text = x_text E_text + b      a common width, pairs alike
    x_hat   = e D + b                                               a modality, each back to itself

CLIP needs none: its two spaces are aligned. The decoder of a language model is another matter.

Source: VL-SAE (arXiv 2510.21323), section 3.1, and its released code.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from interp.errors import CheckpointError, DataError, ParameterError, ShapeError
from interp.loading import device_of
from saes.checkpoints import check_tensors, read_checkpoint, write_checkpoint
from saes.distances import unit_directions
from saes.rows import Batches, Pair, Rows, read_rows, seeded
from saes.vl import MODALITIES

__all__ = ["AlignedRows", "AuxiliaryAE", "AuxiliaryConfig", "info_nce"]

MODES = ("paper", "released_code")
NAME = "auxiliary_ae"


@dataclass(frozen=True, kw_only=True)
class AuxiliaryConfig:
    """Config of `AuxiliaryAE`.

    Attributes
    ----------
    width : of the common space; the authors keep that of the activations.
    mode : what is compared: ``"paper"``, cosines, or ``"released_code"``, dot products.
    temperature : what they are divided by, above 0.
    """

    width: int
    mode: str = "paper"
    temperature: float = 0.07

    def __post_init__(self) -> None:
        wrong = isinstance(self.width, bool) or not isinstance(self.width, int) or self.width < 1
        if wrong:
            raise ParameterError(
                f"AuxiliaryConfig: width must be a whole number above 0; got {self.width!r}."
            )
        if self.mode not in MODES:
            raise ParameterError(
                f"AuxiliaryConfig: mode must be one of {', '.join(MODES)}; got {self.mode!r}."
            )
        if not (isinstance(self.temperature, int | float) and self.temperature > 0):
            raise ParameterError(
                f"AuxiliaryConfig: temperature must be above 0; got {self.temperature!r}."
            )


def info_nce(
    images: Float[Tensor, "n d"],
    texts: Float[Tensor, "n d"],
    *,
    temperature: float = 0.07,
    mode: str = "paper",
) -> Tensor:
    """How badly each image picks its own text out of the batch, and back, in nats; 0-d.

    Half the sum of the two cross-entropies of ``S = images @ texts.T / temperature``, of unit rows
    in mode ``"paper"``.

    Range: at least 0; log n where all are alike. Degenerate: one pair gives 0; a row of zeros is an
    error in mode ``"paper"``, on the CPU.

    Source: the paper's equation 2. Differs: mode ``"released_code"`` takes the rows as they are, as
    the code does, where the paper has cosines.
    """
    if mode == "paper":
        images, texts = unit_directions(images), unit_directions(texts)
    table = images @ texts.T / temperature
    own = torch.arange(len(table), device=table.device)
    return (cross_entropy(table, own) + cross_entropy(table.T, own)) / 2


class AuxiliaryAE(nn.Module):
    """Two linear encoders into one space, and a linear decoder back for each.

    Parameters
    ----------
    config : an `AuxiliaryConfig`.
    d_image, d_text : widths of the activations.
    generator : of the first weights, uniform within 1 / sqrt(width of the input).

    Attributes
    ----------
    encoders, decoders : modality -> linear map.
    losses : [epochs] mean loss of each epoch of `fit`; empty for one that was loaded.
    """

    def __init__(
        self,
        config: AuxiliaryConfig,
        d_image: int,
        d_text: int,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.config, self.widths = config, {"image": d_image, "text": d_text}
        self.metadata: dict[str, Any] = {}
        self.losses: list[float] = []
        self.encoders = nn.ModuleDict(
            {m: nn.Linear(self.widths[m], config.width) for m in MODALITIES}
        )
        self.decoders = nn.ModuleDict(
            {m: nn.Linear(config.width, self.widths[m]) for m in MODALITIES}
        )
        with torch.no_grad():
            for linear in (*self.encoders.values(), *self.decoders.values()):
                assert isinstance(linear, nn.Linear)  # noqa: S101  they are made above
                for p in (linear.weight, linear.bias):
                    p.uniform_(-(linear.in_features**-0.5), linear.in_features**-0.5,
                               generator=generator)  # fmt: skip

    def transform(self, x: Float[Tensor, "... d"], *, modality: str) -> Float[Tensor, "... width"]:
        """Activations of a modality in the common space."""
        return self.encoders[_known(modality)](self._fits(x, self.widths[modality]))

    def inverse(self, e: Float[Tensor, "... width"], *, modality: str) -> Float[Tensor, "... d"]:
        """What stands for points of the common space in a modality."""
        return self.decoders[_known(modality)](self._fits(e, self.config.width))

    def loss(self, x: Float[Tensor, "n d"], y: Float[Tensor, "n d"]) -> Tensor:
        """InfoNCE of the common space plus both mean squared errors (means over features); 0-d."""
        e = [self.transform(t, modality=m) for m, t in zip(MODALITIES, (x, y), strict=True)]
        config = self.config
        total = info_nce(*e, temperature=config.temperature, mode=config.mode)
        for m, t, at in zip(MODALITIES, (x, y), e, strict=True):
            total = total + mse_loss(self.inverse(at, modality=m), t)
        return total

    @classmethod
    def fit(
        cls,
        acts: Any,
        config: AuxiliaryConfig,
        *,
        epochs: int = 50,
        batch_size: int = 2048,
        lr: float = 5e-5,
        weight_decay: float = 0.01,
        seed: int = 0,
        device: str = "auto",
        progress: Callable[[int, int, str], None] | None = None,
    ) -> Self:
        """Learn from pairs, streamed in batches; AdamW, with a cosine over the epochs.

        Parameters
        ----------
        acts : a tuple (X_image, X_text) of matrices of equal rows, such as a store's.
        epochs, batch_size, lr, weight_decay : the authors' by default.
        seed : of first weights and order.
        progress : called after each step with (steps done, steps, the loss in words).

        Raises
        ------
        ShapeError
            The two have other rows.
        DataError
            ``acts`` is no pair, or a row holds nan or inf.
        ParameterError
            A setting is outside what it allows, or the loss became nan.
        """
        for name, value in (("epochs", epochs), ("batch_size", batch_size)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ParameterError(
                    f"AuxiliaryAE.fit: {name} must be a whole number above 0; got {value!r}."
                )
        if not (lr > 0 and math.isfinite(lr)):
            raise ParameterError(f"AuxiliaryAE.fit: lr must be above 0; got {lr!r}.")
        rows = read_rows(acts)
        first = _pair_of(rows, rows.read([0]))
        where = device_of(device)
        widths = [t.shape[1] for t in first]
        own = cls(config, *widths, generator=seeded(seed, "auxiliary")).to(where)
        optimizer = torch.optim.AdamW(own.parameters(), lr=lr, weight_decay=weight_decay)
        batches = Batches(rows, min(batch_size, rows.n), seed, where)
        each = max(1, rows.n // batches.size)
        for epoch in range(epochs):
            optimizer.param_groups[0]["lr"] = lr * (1 + math.cos(math.pi * epoch / epochs)) / 2
            total = 0.0
            for step in range(epoch * each, (epoch + 1) * each):
                x, y = (t.float() for t in _pair_of(rows, batches[step]))
                loss = own.loss(x, y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += float(loss.detach())
                if progress is not None:
                    progress(step + 1, epochs * each, f"loss {float(loss.detach()):.4g}")
            own.losses.append(total / each)
            if not math.isfinite(total):
                raise ParameterError(
                    f"AuxiliaryAE.fit: the loss is {total / each} in epoch {epoch + 1}; take a "
                    f"smaller lr than {lr:g}."
                )
        return own.eval()

    def rows(self, acts: Any) -> "AlignedRows":
        """Pairs in the common space, mapped as they are read: what `saes.train` takes."""
        return AlignedRows(self, read_rows(acts))

    def save_pretrained(self, path: str | Path) -> Path:
        """Write ``config.json`` and ``model.safetensors`` into a folder, and give the folder.

        Raises
        ------
        CheckpointError
            ``metadata`` holds what JSON cannot.
        StoreError
            The folder cannot be written.
        """
        document = {
            "architecture": NAME,
            "d_in": self.widths["image"],
            "d_out": self.widths["text"],
            "config": asdict(self.config),
            "metadata": self.metadata,
        }
        return write_checkpoint(path, document, self.state_dict())

    @classmethod
    def from_pretrained(cls, source: str | Path) -> Self:
        """What `save_pretrained` wrote, in eval mode on the CPU.

        Raises
        ------
        CheckpointError
            There is no such folder, or it is damaged or holds something else.
        """
        document, tensors = read_checkpoint(source)
        if document["architecture"] != NAME:
            raise CheckpointError(
                f"{source} holds a {document['architecture']} SAE, which is no AuxiliaryAE; "
                "load it with SAE.from_pretrained."
            )
        try:
            config = AuxiliaryConfig(**document["config"])
            own = cls(config, document["d_in"], document["d_out"], generator=seeded(0))
        except (ParameterError, TypeError, RuntimeError) as error:
            raise CheckpointError(f"{source}: config.json: {error}") from error
        check_tensors(str(source), own.state_dict(), tensors)
        own.load_state_dict(tensors, assign=True)
        own.metadata = document["metadata"]
        return own.eval()

    def _fits(self, x: Tensor, width: int) -> Tensor:
        if x.shape[-1:] != (width,):
            raise ShapeError(f"AuxiliaryAE: x must be [..., {width}]; got {list(x.shape)}.")
        return x.to(next(self.parameters()).dtype)


class AlignedRows(Rows):
    """Pairs that are mapped to the common space whenever they are read.

    Parameters
    ----------
    auxiliary : the fitted maps.
    rows : pairs of activations.
    """

    def __init__(self, auxiliary: AuxiliaryAE, rows: Rows) -> None:
        self.auxiliary, self._rows = auxiliary, rows
        self.sites, self.lengths, self.chunk_rows = rows.sites, rows.lengths, rows.chunk_rows
        self._pairs(rows.read([0]))

    def read(self, units: Any) -> list[Pair]:
        """The rows of some units in the common space, a pair a site."""
        return self._pairs(self._rows.read(units))

    def identity(self) -> dict[str, Any]:
        """That of the rows, and the maps' weights."""
        sums = {k: float(v.double().abs().sum()) for k, v in self.auxiliary.state_dict().items()}
        return {**self._rows.identity(), "auxiliary": sums}

    def _pairs(self, pairs: list[Pair]) -> list[Pair]:
        device = next(self.auxiliary.parameters()).device
        found = []
        with torch.no_grad():
            for pair in pairs:
                both = _pair_of(self._rows, [pair])
                found.append(Pair(*(
                    self.auxiliary.transform(t.to(device), modality=m).cpu()
                    for m, t in zip(MODALITIES, both, strict=True)
                )))  # fmt: skip
        return found


def _known(modality: str) -> str:
    if modality not in MODALITIES:
        raise ParameterError(
            f"AuxiliaryAE: modality must be {' or '.join(MODALITIES)}; got {modality!r}."
        )
    return modality


def _pair_of(rows: Rows, pairs: list[Pair]) -> tuple[Tensor, Tensor]:
    x, y = pairs[0]
    if len(rows.sites) != 1 or y is None:
        raise DataError("AuxiliaryAE learns from pairs; give a tuple (X_image, X_text).")
    return x, y
