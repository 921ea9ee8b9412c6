"""TopK and BatchTopK: the k largest pre-activations are the latents, so k is the sparsity."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from torch import Tensor

from interp.errors import NotFitted, ParameterError
from saes.base import SAE, squared_error
from saes.codes import Codes
from saes.configs import SAEConfig
from saes.kernels import decode, encode_batch_topk, encode_topk

if TYPE_CHECKING:
    from saes.ranks import Ranks

__all__ = ["BatchTopKConfig", "BatchTopKSAE", "TopKConfig", "TopKSAE"]

SELECTIONS = {"exact": "topk", "group_max": "group_max", "statistical": "statistical"}
"""What ``selection`` may be, and the kernels' rule for it."""
THRESHOLD_RATE = 0.01
"""Weight of the newest batch in BatchTopK's threshold: a mean over about the last 100 batches."""


@dataclass(frozen=True, kw_only=True)
class _KConfig(SAEConfig):
    k: int
    k_aux: int | None = None
    auxk: float = 1 / 32

    def __post_init__(self) -> None:
        super().__post_init__()
        self._whole("k", 1, self.n_latents, "It cannot exceed n_latents.")
        if self.k_aux is not None:
            self._whole("k_aux", 1)
        self._number("auxk")


@dataclass(frozen=True, kw_only=True)
class TopKConfig(_KConfig):
    """Config of `TopKSAE`.

    Attributes
    ----------
    n_latents : how many latents.
    k : active latents a row, from 1 to ``n_latents``.
    k_aux : dead latents a row that AuxK reads; None for half the width of the output.
    auxk : weight of AuxK; 0 switches it off.
    multi_k : add an eighth of the reconstruction error at 4 k (Multi-TopK), which keeps the SAE
        useful at other k than its own.
    selection : ``"exact"``; or, for speed, ``"group_max"``, the largest of each of k groups of
        latents, or ``"statistical"``, those above the k-th of as many normal variates, about k a
        row (`encode_topk` says how). The latter two are other models: an SAE is used as trained.
    """

    architecture: ClassVar[str] = "topk"

    multi_k: bool = False
    selection: str = "exact"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._flag("multi_k")
        who = type(self).__name__
        if self.selection not in SELECTIONS:
            raise ParameterError(
                f"{who}: selection must be one of {', '.join(SELECTIONS)}; got {self.selection!r}."
            )
        if self.selection != "exact" and self.multi_k:
            raise ParameterError(f"{who}: multi_k needs the exact selection; got {self.selection}.")
        if self.selection == "group_max" and self.n_latents % self.k:
            raise ParameterError(
                f"{who}: group_max needs n_latents in multiples of k; got {self.n_latents} and "
                f"k={self.k}."
            )


@dataclass(frozen=True, kw_only=True)
class BatchTopKConfig(_KConfig):
    """Config of `BatchTopKSAE`.

    Attributes
    ----------
    n_latents : how many latents.
    k : active latents a row in the batch's mean, from 1 to ``n_latents``.
    k_aux : dead latents a row that AuxK reads; None for half the width of the output.
    auxk : weight of AuxK; 0 switches it off.
    """

    architecture: ClassVar[str] = "batch_topk"


K = TypeVar("K", bound=_KConfig)


class _KSAE(SAE[K]):
    """What TopK, BatchTopK and their kin share: AuxK."""

    threaded: ClassVar[bool] = True

    def _auxk(self, rows: Tensor, target: Tensor, output: Tensor, dead: Tensor | None) -> Tensor:
        """How badly the dead latents explain what the live ones left, times its weight; 0-d.

        With e = target - output, held fixed, and e_hat the sum of the k_aux largest dead latents
        in each row (no bias)::

            auxk * Var(target) * |e - e_hat|^2 / Var(e)

        where |.|^2 is summed over features and averaged over rows, and Var is the same about the
        batch's mean. Divided by Var(target) the whole loss is that of Gao et al. 2024, "Scaling
        and evaluating sparse autoencoders", appendix A.2; kept in units of the reconstruction, it
        scales as that does. Gradients reach encoder, decoder and biases alike.

        Degenerate: 0 where no latent is dead, or Var(e) is 0.
        """
        config = self.config
        if dead is None or not len(dead) or config.auxk == 0:
            return output.new_zeros(())
        encoder, decoder, b_enc = (
            _Rows.apply(p, dead) for p in (self.encoder, self.decoder, self.b_enc)
        )
        k_aux = min(config.k_aux or max(1, output.shape[1] // 2), len(dead))
        codes = encode_topk(rows, encoder, b_enc, k_aux, b_pre=self._b_pre, backend=self.backend)
        residual = (target - output).detach()
        spread = _spread(residual, self.ranks)
        scale = _spread(target, self.ranks) / torch.where(spread > 0, spread, 1)
        scale = torch.where(spread > 0, scale, 0)
        error = squared_error(decode(codes, decoder, backend=self.backend), residual)
        return config.auxk * scale.detach() * error


def _spread(rows: Tensor, ranks: "Ranks | None") -> Tensor:
    """Squared distance to the batch's mean, its mean over rows; 0 where that is within rounding.

    Not the mean square less the squared mean, of which float32 keeps nothing where means are large.
    """
    mean = rows.mean(0) if ranks is None else ranks.mean(rows.mean(0))
    apart = squared_error(rows, mean)
    apart = apart if ranks is None else ranks.mean(apart)
    return torch.where(apart > 1e-12 * mean.square().sum(), apart, 0)


class _Rows(torch.autograd.Function):
    """Some rows of a parameter, each once: their gradient is put into its place, not added."""

    @staticmethod
    def forward(ctx: Any, parameter: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.shape = parameter.shape
        return parameter.index_select(0, rows)

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor, None]:
        (rows,) = ctx.saved_tensors
        return grad_outputs[0].new_zeros(ctx.shape).index_copy(0, rows, grad_outputs[0]), None


class TopKSAE(_KSAE[TopKConfig]):
    """Keeps the k largest pre-activations of each row, those below 0 as 0.

    Loss: ``reconstruction``, ``auxk`` (`TopKConfig.auxk`), and with ``multi_k`` also ``multi_k``,
    an eighth of the reconstruction error with the 4 k largest (at most ``n_latents``).

    Source: Gao et al. 2024, "Scaling and evaluating sparse autoencoders", section 2.3 and
    appendix A. Differs: the reconstruction error is not divided by the variance of the activations,
    and AuxK is multiplied by it instead.
    """

    config_class: ClassVar[type[SAEConfig]] = TopKConfig

    def _codes(self, rows: Tensor, k: int) -> Codes:
        rule = SELECTIONS[self.config.selection]
        return encode_topk(
            rows, self.encoder, self.b_enc, k, b_pre=self._b_pre, rule=rule, backend=self.backend
        )

    def _latents(self, rows: Tensor) -> Codes:
        return self._codes(rows, self.config.k)

    def _terms(
        self,
        rows: Tensor,
        target: Tensor,
        *,
        dead: Tensor | None,
        k: int | None,
        penalty_scale: float,
    ) -> tuple[Tensor, Codes, dict[str, Tensor]]:
        k = k or self.config.k
        if not self.config.multi_k:
            codes = self._codes(rows, k)
            output = self._predict(codes, rows)
            return output, codes, {"auxk": self._auxk(rows, target, output, dead)}
        wide = self._codes(rows, min(4 * k, self.n_latents))
        codes = Codes(wide.values[:, :k], wide.indices[:, :k])
        output = self._predict(codes, rows)
        multi_k = squared_error(self._predict(wide, rows), target) / 8
        return output, codes, {"multi_k": multi_k, "auxk": self._auxk(rows, target, output, dead)}


class BatchTopKSAE(_KSAE[BatchTopKConfig]):
    """Keeps the n * k largest pre-activations of a batch of n rows, so that rows may differ.

    That is the rule of `loss`. To encode, a row must not hang on the others: latents are then the
    pre-activations above ``threshold``, the mean over batches of the smallest one that is kept.
    `saes.train` sets it by `settle` when the weights are final; until then it follows the
    training batches (module in train mode), each of which counts by 0.01, the first setting it.

    Loss: ``reconstruction`` and ``auxk``.

    Attributes
    ----------
    threshold : 0-d buffer; nan before the first batch.

    Raises
    ------
    NotFitted
        Something is encoded before ``threshold`` is set.

    Source: Bussmann et al. 2024, "BatchTopK Sparse Autoencoders", sections 3 and 3.1. Differs: a
    running mean stands in for the threshold while training goes on.
    """

    config_class: ClassVar[type[SAEConfig]] = BatchTopKConfig
    threshold: Tensor

    def __init__(
        self,
        config: BatchTopKConfig,
        d_in: int,
        d_out: int | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(config, d_in, d_out, generator=generator)
        self.register_buffer("threshold", torch.tensor(float("nan"), dtype=torch.float32))

    def settle(self, batches: Iterable[Tensor]) -> None:
        """Set ``threshold`` to the mean, over the batches, of the smallest latent that is kept.

        Source: Bussmann et al. 2024, section 3.1, equation for theta. Degenerate: batches in which
        nothing is positive are passed over; if all are, the threshold stays.
        """
        found = []
        with torch.no_grad():
            for rows in batches:
                values = self._chosen(rows, self.config.k).values
                found.append(values.where(values > 0, torch.inf).amin())
            least = torch.stack(found)
            least = least[least.isfinite()]
            if len(least):
                self.threshold.copy_(least.mean())

    def _latents(self, rows: Tensor) -> Tensor | Codes:
        if self.threshold.isnan():
            raise NotFitted(
                f"{type(self).__name__} has no threshold to encode with; train it, or set "
                "sae.threshold."
            )
        least = self.threshold.clamp_min(0)
        if not torch.is_grad_enabled():
            return self._above(rows, least.expand(self.n_latents))
        pre = self._pre_codes(rows)
        return torch.where(pre <= least, 0, pre)  # nan shows

    def _terms(
        self,
        rows: Tensor,
        target: Tensor,
        *,
        dead: Tensor | None,
        k: int | None,
        penalty_scale: float,
    ) -> tuple[Tensor, Codes, dict[str, Tensor]]:
        codes = self._batch_codes(rows, k or self.config.k)
        output = self._predict(codes, rows)
        return output, codes, {"auxk": self._auxk(rows, target, output, dead)}

    def _chosen(self, rows: Tensor, k: int) -> Codes:
        return encode_batch_topk(
            rows,
            self.encoder,
            self.b_enc,
            k,
            b_pre=self._b_pre,
            backend=self.backend,
            ranks=self.ranks,
        )

    def _batch_codes(self, rows: Tensor, k: int) -> Codes:
        codes = self._chosen(rows, k)
        if self.training:
            self._follow(codes.values.detach())
        return codes

    def _follow(self, values: Tensor) -> None:
        """Move the threshold towards the smallest positive value; a batch without one is passed."""
        least = values.where(values > 0, torch.inf)
        least = torch.cat([least, least.new_full((1,), torch.inf)]).amin()  # a rank may have none
        if self.ranks is not None:
            least = self.ranks.least(least)
        moved = torch.lerp(self.threshold, least, THRESHOLD_RATE)
        moved = torch.where(self.threshold.isnan(), least, moved)
        self.threshold.copy_(torch.where(least.isinf(), self.threshold, moved))
