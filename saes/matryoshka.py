"""Matryoshka: every prefix of the latents is an SAE of its own, so that broad ones come first."""

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from interp.errors import ParameterError
from saes.base import squared_error
from saes.codes import Codes
from saes.configs import SAEConfig
from saes.kernels import decode
from saes.topk import BatchTopKConfig, BatchTopKSAE

__all__ = ["MatryoshkaConfig", "MatryoshkaSAE"]


@dataclass(frozen=True, kw_only=True)
class MatryoshkaConfig(BatchTopKConfig):
    """Config of `MatryoshkaSAE`.

    Attributes
    ----------
    n_latents : how many latents.
    k : active latents a row in the batch's mean, from 1 to ``n_latents``.
    k_aux : dead latents a row that AuxK reads; None for half the width of the output.
    auxk : weight of AuxK; 0 switches it off.
    prefixes : how many of the first latents each nested SAE has, rising; the last is ``n_latents``.
        None for a 16th, an 8th, a quarter, half and all.
    """

    architecture: ClassVar[str] = "matryoshka"

    prefixes: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prefixes is None:
            parts = sorted({self.n_latents // share for share in (16, 8, 4, 2, 1)} - {0})
            object.__setattr__(self, "prefixes", tuple(parts))
        prefixes = self.prefixes
        whole = isinstance(prefixes, tuple) and all(type(p) is int for p in prefixes)
        if not prefixes or not whole or prefixes[0] < 1 or prefixes[-1] != self.n_latents:
            rising = False
        else:
            rising = all(a < b for a, b in pairwise(prefixes))
        if not rising:
            raise ParameterError(
                f"{type(self).__name__}: prefixes must be whole numbers that rise from at least 1 "
                f"to n_latents ({self.n_latents}); got {prefixes!r}."
            )


class MatryoshkaSAE(BatchTopKSAE):
    """`BatchTopKSAE` whose first latents must reconstruct without the others.

    Loss: ``reconstruction`` with all latents, ``prefixes``, the sum of the same error of each
    shorter prefix (its latents of the one code, and ``b_dec``), and ``auxk``.

    Source: Bussmann et al. 2025, "Learning Multi-Level Features with Matryoshka Sparse
    Autoencoders". Differs: no; with one prefix it is BatchTopK.
    """

    config: MatryoshkaConfig  # pyright: ignore[reportIncompatibleVariableOverride]  never assigned
    config_class: ClassVar[type[SAEConfig]] = MatryoshkaConfig
    _begin: int = 0  # which latent is the first one here

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
        outputs = self._nested(codes)
        *shorter, output = outputs.unbind(1)
        prefixes = sum((squared_error(part, target) for part in shorter), target.new_zeros(()))
        auxk = self._auxk(rows, target, output, dead)
        return output, codes, {"prefixes": prefixes, "auxk": auxk}

    def _nested(self, codes: Codes) -> Tensor:
        """[n, prefixes, d_out]: what each prefix of the latents reconstructs, in one pass.

        Slots stand by rising row and latent, so those between two prefixes of a row are neighbours:
        each such run is decoded as a row of its own, and runs add up.
        """
        n, (*starts, _) = len(codes), (0, *(self.config.prefixes or ()))
        place = codes.rows * self.n_latents + codes.indices + self._begin
        rows = torch.arange(n + 1, device=place.device)[:, None] * self.n_latents
        begins = (rows + torch.tensor(starts, device=place.device)).flatten()
        edges = torch.searchsorted(place, begins[: n * len(starts) + 1])
        runs = decode(codes.regrouped(edges), self.decoder, backend=self.backend)
        return self._summed(runs.view(n, len(starts), -1).cumsum(1)) + self.b_dec
