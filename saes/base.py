"""The contract of every sparse autoencoder: forward, loss, and files.

An SAE writes an activation as a sum of few directions out of many::

    z = step(encoder (x - b_dec) + b_enc)        [n, n_latents], mostly 0
    x_hat = z decoder + b_dec                    [n, d_in]

A variant is the step from pre-activations to latents, and the loss that trains it. A transcoder
(``d_out`` given) predicts another activation y and leaves its input as it is::

    z = step(encoder x + b_enc),  y_hat = z decoder + b_dec      [n, d_out]
"""

import math
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, Self, TypeVar, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import linear, mse_loss

from interp.errors import CheckpointError, DataError, ParameterError, ShapeError, closest
from saes.checkpoints import check_tensors, read_checkpoint, upload_checkpoint, write_checkpoint
from saes.codes import Codes
from saes.configs import SAEConfig
from saes.kernels import decode, encode_above
from saes.optimizer import project_gradient, unit_rows

if TYPE_CHECKING:
    from saes.ranks import Ranks
    from saes.training import Training

__all__ = ["ARCHITECTURES", "SAE", "Loss", "SAEOutput", "check_finite", "squared_error"]


class SAEOutput(NamedTuple):
    """What `SAE.forward` gives: ``output`` [..., d_out], and the ``codes`` of its flat rows."""

    output: Tensor
    codes: Codes


class Loss(NamedTuple):
    """What `SAE.loss` gives.

    ``total`` is the sum of ``parts``, each a 0-d tensor, weights included. ``output`` [n, d_out]
    has no gradient. ``active`` [n_latents] counts the rows in which each latent fired.
    """

    total: Tensor
    parts: dict[str, Tensor]
    output: Tensor
    active: Tensor


ARCHITECTURES: "dict[str, tuple[type[SAEConfig], type[SAE]]]" = {}
"""Architecture -> its config and its class; `saes` fills it."""


C = TypeVar("C", bound=SAEConfig)


class SAE(nn.Module, Generic[C]):
    """A sparse autoencoder, or with ``d_out`` a transcoder; the base of every variant.

    Parameters
    ----------
    config : of the class's own kind.
    d_in : width of the activations read.
    d_out : width of the activations predicted; None for an autoencoder, which predicts its input.
    generator : the randomness of the first weights; None for torch's own.

    Attributes
    ----------
    encoder : [n_latents, d_in] parameter, a row a latent.
    decoder : [n_latents, d_out] parameter, a row a latent.
    b_enc, b_dec : [n_latents] and [d_out] parameters.
    W_enc, W_dec : ``encoder`` as [d_in, n_latents], a view, and ``decoder`` itself.
    in_shape, out_shape : the last axes of what is read and predicted.
    transcodes : whether ``d_out`` was given.
    unit_norm : whether decoder rows are held at length 1 in training.
    paired : whether it learns from pairs (X, Y) of which it reads both.
    threaded : whether its loss runs on kernels that bring threads of their own on a CPU.
    metadata : JSON values to keep with the weights, such as model and hook point.
    training_log : the `saes.Training` of an SAE that `saes.train` made; None for others.
    backend : what runs the kernels, one of `saes.primitives.BACKENDS`; not saved.
    ranks : the processes that share each batch, while `saes.train` runs under torchrun; else None.

    Raises
    ------
    ParameterError
        The config is another class's, or a width is no whole number above 0.

    Notes
    -----
    First weights: decoder rows are uniform on the unit sphere. An autoencoder's encoder starts as a
    copy of its decoder (tied initialisation, Gao et al. 2024, appendix A.1), a transcoder's as
    unit rows of its own. Biases start at 0.

    Arithmetic is in the parameters' dtype, whatever dtype comes in; what goes out has the dtype
    that came in.
    """

    config: C
    config_class: ClassVar[type[SAEConfig]]
    unit_norm: ClassVar[bool] = True
    threaded: ClassVar[bool] = False
    paired: ClassVar[bool] = False
    ranks: "Ranks | None" = None

    def __init__(
        self,
        config: C,
        d_in: int,
        d_out: int | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self._check_widths(config, d_in, d_out)
        self.config = config
        self.d_in, self.d_out = d_in, d_in if d_out is None else d_out
        self.transcodes = d_out is not None
        self.metadata: dict[str, Any] = {}
        self.training_log: "Training | None" = None
        self.backend = "auto"
        n, wide_in, wide_out = config.n_latents, math.prod(self.in_shape), math.prod(self.out_shape)
        decoder = self._first_rows(n, wide_out, generator)
        encoder = self._first_rows(n, wide_in, generator) if self.transcodes else decoder.clone()
        self.encoder, self.decoder = nn.Parameter(encoder), nn.Parameter(decoder)
        self.b_enc = nn.Parameter(torch.zeros(len(decoder), dtype=torch.float32))
        self.b_dec = nn.Parameter(torch.zeros(self.out_shape, dtype=torch.float32))

    def _check_widths(self, config: SAEConfig, d_in: int, d_out: int | None) -> None:
        """Refuse a config of another class, and widths that are no whole numbers above 0."""
        who = type(self).__name__
        if type(config) is not self.config_class:
            raise ParameterError(
                f"{who} takes a {self.config_class.__name__}; got {type(config).__name__}."
            )
        for name, width in (("d_in", d_in), ("d_out", d_out)):
            wrong = isinstance(width, bool) or not isinstance(width, int) or width < 1
            if wrong and not (name == "d_out" and width is None):
                raise ParameterError(
                    f"{who}: {name} must be a whole number above 0; got {width!r:.100}."
                )

    @staticmethod
    def from_config(
        config: SAEConfig,
        d_in: int,
        d_out: int | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> "SAE[Any]":
        """A new SAE of the class that the config belongs to.

        Raises
        ------
        ParameterError
            The config is of no architecture, or as for the class itself.
        """
        if config.architecture not in ARCHITECTURES:
            raise ParameterError(
                f"SAE.from_config takes a config of {', '.join(ARCHITECTURES)}; got a "
                f"{type(config).__name__}."
            )
        return ARCHITECTURES[config.architecture][1](config, d_in, d_out, generator=generator)

    @property
    def architecture(self) -> str:
        """The name in `ARCHITECTURES`."""
        return self.config.architecture

    @property
    def n_latents(self) -> int:
        """How many latents."""
        return self.config.n_latents

    @property
    def in_shape(self) -> tuple[int, ...]:
        """The last axes of what is read."""
        return (self.d_in,)

    @property
    def out_shape(self) -> tuple[int, ...]:
        """The last axes of what is predicted."""
        return (self.d_out,)

    @property
    def W_enc(self) -> Float[Tensor, "..."]:
        """[d_in, n_latents], a view of ``encoder``."""
        return self.encoder.T

    @property
    def W_dec(self) -> Float[Tensor, "..."]:
        """[n_latents, d_out]: ``decoder``."""
        return self.decoder

    def encode(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... f"]:
        """Dense latents [..., n_latents] of activations [..., d_in], at least 0.

        Raises
        ------
        ShapeError
            The last axis is not ``d_in`` wide.
        DataError
            x is not of a floating-point dtype.
        """
        latents = self._latents(self._rows(x, self.in_shape))
        z = latents.dense(self.n_latents) if isinstance(latents, Codes) else latents
        return z.to(x.dtype).view(*self._leading(x), self.n_latents)

    def encode_sparse(self, x: Float[Tensor, "... d_in"]) -> Codes:
        """The same latents as `Codes`, whose rows are those of x flattened to [n, d_in]."""
        latents = self._latents(self._rows(x, self.in_shape))
        codes = latents if isinstance(latents, Codes) else Codes.from_dense(latents)
        return codes.with_values(codes.values.to(x.dtype))

    def decode(self, codes: Codes | Float[Tensor, "... f"]) -> Float[Tensor, "... d_out"]:
        """What latents stand for: [n, d_out] of codes, [..., d_out] of dense latents.

        Degenerate: a row with no active latent gives ``b_dec``.

        Raises
        ------
        ShapeError
            Dense latents are not ``n_latents`` wide.
        """
        if isinstance(codes, Codes):
            dtype = codes.values.dtype
            latents = codes.with_values(codes.values.to(self._like.dtype))
            return self._decode(latents).to(dtype).view(-1, *self.out_shape)
        rows = self._rows(codes, (self.n_latents,))
        leading = codes.shape[:-1]
        return self._decode(rows).to(codes.dtype).view(*leading, *self.out_shape)

    def forward(self, x: Float[Tensor, "... d_in"]) -> SAEOutput:
        """The prediction [..., d_out], and the codes of the flattened rows it was made from."""
        rows = self._rows(x, self.in_shape)
        latents = self._latents(rows)
        output = self._predict(latents, rows).to(x.dtype)
        codes = latents if isinstance(latents, Codes) else Codes.from_dense(latents)
        codes = codes.with_values(codes.values.to(x.dtype))
        return SAEOutput(output.view(*self._leading(x), *self.out_shape), codes)

    def loss(
        self,
        x: Float[Tensor, "... d_in"],
        y: Float[Tensor, "... d_out"] | None = None,
        *,
        dead: Int[Tensor, " m"] | None = None,
        k: int | None = None,
        penalty_scale: float = 1.0,
    ) -> Loss:
        """The loss of one batch, which the trainer minimises.

        The part ``reconstruction`` is the squared error summed over features, its mean over rows:
        it is in squared units of the activations, and nothing divides it. The other parts are the
        variant's; its class says which.

        Parameters
        ----------
        x : [..., d_in] activations; leading axes are flattened to n rows.
        y : [..., d_out] activations to predict: for transcoders only.
        dead : [m] indices of the latents that AuxK may revive, each once; None or empty for none.
            Variants without AuxK leave it unread.
        k : latents a row, in place of the config's, while a schedule runs.
        penalty_scale : factor on the sparsity penalty, for a warm-up; variants that have k instead
            of a penalty leave it unread.

        Returns
        -------
        Loss

        Raises
        ------
        ShapeError
            A width is wrong, or x and y differ in rows.
        DataError
            The batch is empty, or holds nan or inf (looked for on the CPU; on other devices it
            would cost a wait, and the total is then nan).
        ParameterError
            y is missing or not wanted, or k is outside 1 to ``n_latents``, or there is no k.
        """
        who = type(self).__name__
        if self.transcodes != (y is not None):
            need = "needs y, the activations to predict" if y is None else "predicts x; give no y"
            raise ParameterError(f"{who}.loss: this SAE {need}.")
        rows = self._rows(x, self.in_shape, "x")
        target = rows if y is None else self._rows(y, self.out_shape, "y")
        if len(rows) != len(target):
            raise ShapeError(f"{who}.loss: x has {len(rows)} rows and y {len(target)}.")
        if not len(rows):
            raise DataError(f"{who}.loss: the batch has no rows.")
        for name, batch in (("x", rows), ("y", target))[: 1 + self.transcodes]:
            if batch.device.type == "cpu" and not batch.sum().isfinite():
                check_finite(batch, f"{who}.loss: {name}")
        if k is not None and not (hasattr(self.config, "k") and 1 <= k <= self.n_latents):
            has = f"k must be from 1 to {self.n_latents}" if hasattr(self.config, "k") else "no k"
            raise ParameterError(f"{who}.loss: {has}; got k={k}.")
        return self._total(rows, target, dead, k, penalty_scale)

    def _total(
        self,
        rows: Tensor,
        target: Tensor,
        dead: Tensor | None,
        k: int | None,
        penalty_scale: float,
    ) -> Loss:
        """`loss` of what it has checked: one graph, which waits for no device."""
        output, latents, parts = self._terms(
            rows, target, dead=dead, k=k, penalty_scale=penalty_scale
        )
        parts = {"reconstruction": squared_error(output, target), **parts}
        total = torch.stack(list(parts.values())).sum()
        return Loss(total, parts, output.detach(), self._counts(latents))

    def normalize_decoder(self) -> None:
        """Set every decoder row to length 1, in place; a row of zeros stays."""
        with torch.no_grad():
            self.decoder.copy_(unit_rows(self.decoder))

    def project_decoder_gradient(self) -> None:
        """Take off the decoder's gradient what would only change the length of its rows, in place.

        Source: Bricken et al. 2023, "Towards Monosemanticity", on advice about Adam and unit rows.
        """
        if self.decoder.grad is not None:
            project_gradient(cast(nn.Parameter, self.decoder))

    def settle(self, batches: Iterable[Float[Tensor, "n d_in"]]) -> None:
        """Set what encoding needs beside the weights, from batches of rows, once these are final.

        Most variants need nothing; then no batch is read.
        """

    def training_mode(self, settings: Mapping[str, Any]) -> str:
        """The ``mode`` of a `saes.Training` with these settings."""
        return "recommended"

    def reset_latents(self, latents: Int[Tensor, " m"]) -> None:
        """Give a variant's own parameters of some latents their first values, in place."""

    def save_pretrained(self, path: str | Path) -> Path:
        """Write ``config.json`` and ``model.safetensors`` into a folder, and give the folder.

        Raises
        ------
        CheckpointError
            ``metadata`` holds what JSON cannot.
        StoreError
            The folder cannot be written.
        """
        return write_checkpoint(path, self._document(), self.state_dict())

    def _document(self) -> dict[str, Any]:
        """What ``config.json`` says."""
        return {
            "architecture": self.architecture,
            "d_in": self.d_in,
            "d_out": self.d_out if self.transcodes else None,
            "config": self.config.to_dict(),
            "metadata": self.metadata,
        }

    @classmethod
    def from_pretrained(cls, source: str | Path) -> Self:
        """The SAE of a folder that `save_pretrained` wrote, or of a repository of the hub.

        It has the class that the folder names, the dtype of its weights, lies on the CPU, and is in
        eval mode.

        Raises
        ------
        CheckpointError
            There is no such folder; it is damaged or holds an unknown key, architecture, or tensor;
            or it holds another architecture than the class it was asked of.
        """
        document, tensors = read_checkpoint(source)
        name = document["architecture"]
        if name not in ARCHITECTURES:
            hint = closest(str(name), ARCHITECTURES) or f"known are {', '.join(ARCHITECTURES)}."
            raise CheckpointError(f"{source} holds an unknown architecture, {name!r}; {hint}")
        config_class, sae_class = ARCHITECTURES[name]
        if cls not in (SAE, sae_class):
            raise CheckpointError(
                f"{source} holds a {name} SAE, which is no {cls.__name__}; load it with "
                f"{sae_class.__name__}.from_pretrained or SAE.from_pretrained."
            )
        try:
            config = config_class.from_dict(document["config"])
            with torch.device("meta"):
                sae = sae_class(config, document["d_in"], document["d_out"])
        except (ParameterError, AttributeError, TypeError) as error:
            raise CheckpointError(f"{source}: config.json: {error}") from error
        check_tensors(str(source), sae.state_dict(), tensors)
        sae.load_state_dict(tensors, assign=True)
        sae.metadata = document["metadata"]
        return cast(Self, sae.eval())

    def push_to_hub(self, repo_id: str, *, private: bool = False) -> str:
        """Upload what `save_pretrained` writes to the hub as ``"owner/name"``; gives its address.

        Raises
        ------
        CheckpointError
            The hub refuses: no network, not logged in, no such owner.
        """
        with TemporaryDirectory() as folder:
            return upload_checkpoint(self.save_pretrained(folder), repo_id, private)

    @abstractmethod
    def _latents(self, rows: Tensor) -> Tensor | Codes:
        """The variant's step at inference: rows [n, d_in] to dense latents or to codes."""

    @abstractmethod
    def _terms(
        self,
        rows: Tensor,
        target: Tensor,
        *,
        dead: Tensor | None,
        k: int | None,
        penalty_scale: float,
    ) -> tuple[Tensor, Tensor | Codes, dict[str, Tensor]]:
        """The variant's prediction [n, d_out], its latents, and the loss's other parts."""

    @property
    def _b_pre(self) -> Tensor | None:
        """What is taken off the rows before the encoder: [d_in], or None."""
        return None if self.transcodes else self.b_dec.flatten()

    @property
    def _like(self) -> Tensor:
        """A parameter, for its device and dtype."""
        return self.decoder

    def _pre_codes(self, rows: Tensor) -> Tensor:
        """Pre-activations [n, n_latents] of rows."""
        return linear(rows if self._b_pre is None else rows - self._b_pre, self.encoder, self.b_enc)

    def _above(self, rows: Tensor, threshold: Tensor) -> Codes:
        """The pre-activations above a threshold [n_latents], and above 0; no gradient."""
        return encode_above(
            rows, self.encoder, self.b_enc, threshold, b_pre=self._b_pre, backend=self.backend
        )

    def _decode(self, latents: Tensor | Codes) -> Tensor:
        """[n, d_out] flat."""
        b_dec = self.b_dec.flatten()
        if isinstance(latents, Codes):
            return self._summed(decode(latents, self.decoder, backend=self.backend)) + b_dec
        return self._summed(latents @ self.decoder) + b_dec

    def _first_rows(self, n: int, width: int, generator: torch.Generator | None) -> Tensor:
        """Random unit rows [n, width], of which `ShardedSAE` keeps its own."""
        return _unit_rows(torch.randn(n, width, generator=generator, dtype=torch.float32))

    def _rows_of(self, latents: Tensor) -> tuple[Any, Tensor]:
        """Which of some latents are here, an index, and the rows of the parameters they have."""
        return slice(None), latents

    def _directions(self) -> Tensor:
        """The decoder's rows, of all latents."""
        return self.decoder

    def _encoder_norms(self) -> Tensor:
        """[n_latents] lengths of the encoder's rows."""
        return self.encoder.norm(dim=1)

    def _counts(self, latents: Tensor | Codes) -> Tensor:
        """[n_latents] rows in which each latent is active."""
        if isinstance(latents, Codes):
            return latents.counts(self.n_latents)
        return (latents.detach() != 0).sum(0)

    def _summed(self, partial: Tensor) -> Tensor:
        """A sum over the latents that are here; `ShardedSAE` adds those of the other ranks."""
        return partial

    def _predict(self, latents: Tensor | Codes, rows: Tensor) -> Tensor:
        """The output [n, d_out] of rows whose latents are known."""
        return self._decode(latents)

    def _leading(self, x: Tensor) -> tuple[int, ...]:
        return tuple(x.shape[: x.ndim - len(self.in_shape)])

    def _rows(self, x: Tensor, shape: tuple[int, ...], name: str = "x") -> Tensor:
        """Flat rows, in the parameters' dtype, of x [..., *shape]."""
        who = type(self).__name__
        if x.ndim <= len(shape) - 1 or tuple(x.shape[x.ndim - len(shape) :]) != shape:
            wanted = ", ".join(map(str, shape))
            raise ShapeError(f"{who}: {name} must be [..., {wanted}]; got {list(x.shape)}.")
        if not x.is_floating_point():
            raise DataError(f"{who}: {name} must hold floating-point numbers; got {x.dtype}.")
        return x.reshape(-1, math.prod(shape)).to(self._like.dtype)


def squared_error(output: Float[Tensor, "n d"], target: Float[Tensor, "n d"]) -> Tensor:
    """Squared error summed over features, its mean over rows; 0-d."""
    if output.dtype == torch.float16:  # whose sum over a batch overflows
        return squared_error(output.float(), target.float()).to(output.dtype)
    return mse_loss(output, target.expand_as(output), reduction="sum") / len(output)


def check_finite(x: Float[Tensor, "n d"], who: str) -> None:
    """Refuse a batch that holds nan or inf, naming the first such row.

    Raises
    ------
    DataError
        With ``who`` in front.
    """
    wrong = ~x.isfinite().all(1)
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise DataError(
            f"{who} holds nan or inf (first in row {row} of {len(x)}); drop such rows, or capture "
            "in a wider dtype."
        )


def _unit_rows(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=1, keepdim=True)
