"""The codebook layer: an activation becomes the mean, or the sum, of the k codes nearest to it.

::

    a = LayerNorm(x)                      or x - b_dec without the norm
    S = the k codes nearest to a          by cosine, inner product or distance
    output = mean of the codes in S       or their sum; + b_dec without the norm

In groups (one a head), each chunk of the width has a norm, codes and choices of its own.

Source: Tamkin, Taufeeque, Goodman 2023, "Codebook Features", section 2 (arXiv 2310.17230).
Differs: their text sums and their code, whose checkpoints are published, takes the mean, which is
the default here; the norm is their code's.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from interp.errors import ParameterError
from saes.base import SAE
from saes.codes import Codes
from saes.configs import SAEConfig
from saes.kernels import decode

__all__ = ["SIMILARITIES", "Codebook", "CodebookConfig", "Snap"]

SIMILARITIES = ("cosine", "inner_product", "euclidean")
REDUCTIONS = ("mean", "sum")
EPS = 1e-5
"""Added to the variance in the layer norm."""
BLOCK = 2**22
"""Similarities, rows times codes, that are made at once: 16 MiB in float32."""

Edit = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class CodebookConfig(SAEConfig):
    """Config of `Codebook`.

    Attributes
    ----------
    n_codes : codes of each group.
    k : codes chosen for each row and group, from 1 to ``n_codes``.
    groups : chunks of the width, each with codes of its own; heads have one each.
    similarity : ``"cosine"``, by which the length of a code does not count; ``"inner_product"``;
        or ``"euclidean"``, the nearest first.
    reduce : ``"mean"`` or ``"sum"`` of the chosen codes.
    layer_norm : norm each row, or each chunk of it, first, with trainable scale and shift.
    weight : of the reconstruction term beside a model's loss.
    commitment : pulls rows towards their codes, within that term; 0 for not at all.
    n_latents : ``groups * n_codes``, not given: the codes of all groups, numbered through.
    """

    architecture: ClassVar[str] = "codebook"

    n_codes: int
    k: int
    groups: int = 1
    similarity: str = "cosine"
    reduce: str = "mean"
    layer_norm: bool = True
    weight: float = 1.0
    commitment: float = 0.0
    n_latents: int = field(init=False)

    def __post_init__(self) -> None:
        self._whole("n_codes", 1)
        self._whole("k", 1, self.n_codes, "It cannot exceed n_codes.")
        self._whole("groups", 1)
        self._number("weight")
        self._number("commitment")
        self._flag("layer_norm")
        for name, known in (("similarity", SIMILARITIES), ("reduce", REDUCTIONS)):
            if getattr(self, name) not in known:
                raise ParameterError(
                    f"CodebookConfig: {name} must be one of {', '.join(known)}; got "
                    f"{getattr(self, name)!r}."
                )
        object.__setattr__(self, "n_latents", self.groups * self.n_codes)


class Snap(NamedTuple):
    """What a codebook does to n rows.

    Attributes
    ----------
    output : [n, d_in] what stands for the rows. Gradients reach the codes, and pass straight
        through to the rows and the norm.
    reduced : [n, d_in] the mean or sum of the chosen codes; gradients reach them alone.
    normed : [n, d_in] what the codes were compared with; gradients reach the rows and the norm.
    ids : [n, groups, k] chosen codes of each group, 0 to n_codes - 1, nearest first; -1 where an
        edit leaves a slot empty.
    """

    output: Tensor
    reduced: Tensor
    normed: Tensor
    ids: Tensor


class Codebook(SAE[CodebookConfig]):
    """Replaces rows by their nearest codes.

    As an SAE it has ``n_latents`` latents, one a code, of value 1 / k (mean) or 1 (sum) where
    chosen. It is trained inside a model (`saes.codebook.insert`, `saes.codebook.train_codebooks`);
    without layer norm and groups also on activations, by `saes.train`.

    Parameters
    ----------
    config : a `CodebookConfig`.
    d_in : width; a multiple of the groups.
    generator : of the first codes, standard normal.

    Attributes
    ----------
    codes : [n_latents, d_in / groups] parameter, group after group.
    norm_weight, norm_bias : [d_in] parameters of the layer norm; None without it.
    b_dec : [d_in] buffer, 0 unless `saes.train` set it: taken off rows and added to the output.
    decoder, encoder : [n_latents, d_in] the codes, each in its group's columns; and what rows are
        multiplied with to rank them.

    Raises
    ------
    ParameterError
        The groups do not divide the width.
    """

    config_class: ClassVar[type[SAEConfig]] = CodebookConfig
    unit_norm: ClassVar[bool] = False
    norm_weight: nn.Parameter | None
    norm_bias: nn.Parameter | None

    def __init__(
        self,
        config: CodebookConfig,
        d_in: int,
        d_out: int | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        nn.Module.__init__(self)
        self._check_widths(config, d_in, d_out)
        if d_out is not None:
            raise ParameterError("Codebook predicts its input; give no d_out.")
        if d_in % config.groups:
            raise ParameterError(
                f"Codebook: groups must divide the width; got {config.groups} groups and a width "
                f"of {d_in}."
            )
        self.config = config
        self.d_in = self.d_out = d_in
        self.transcodes, self.metadata, self.training_log = False, {}, None
        self.backend = "auto"
        width = d_in // config.groups
        codes = torch.randn(config.n_latents, width, generator=generator, dtype=torch.float32)
        self.codes = nn.Parameter(codes)
        self.register_parameter("norm_weight", None)
        self.register_parameter("norm_bias", None)
        if config.layer_norm:
            self.norm_weight = nn.Parameter(torch.ones(d_in, dtype=torch.float32))
            self.norm_bias = nn.Parameter(torch.zeros(d_in, dtype=torch.float32))
        self.register_buffer("b_dec", torch.zeros(d_in, dtype=torch.float32))

    @property
    def decoder(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """[n_latents, d_in]: the codes themselves; of several groups a new tensor, mostly 0."""
        return self.codes if self.config.groups == 1 else torch.block_diag(*self._grouped())

    @property
    def encoder(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """[n_latents, d_in]: what rows are multiplied with to rank the codes; a new tensor."""
        wide = self.decoder.detach().clone()
        return wide / _lengths(wide) if self.config.similarity == "cosine" else wide

    @property
    def b_enc(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """[n_latents]: what is added to the ranking; a new tensor."""
        return self._ranking()[1].flatten().clone()

    def normed(self, rows: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """What the codes are compared with: each chunk normed, or rows less ``b_dec``.

        Degenerate: a chunk whose entries are all equal becomes the shift.
        """
        if self.norm_weight is None or self.norm_bias is None:
            return rows - self.b_dec
        groups = self.config.groups
        chunks = rows.unflatten(-1, (groups, -1))
        chunks = layer_norm(chunks, chunks.shape[-1:], eps=EPS)
        return chunks.flatten(-2) * self.norm_weight + self.norm_bias

    @torch.no_grad()
    def nearest(
        self,
        a: Float[Tensor, "n d"],
        k: int | None = None,
        *,
        blocked: Int[Tensor, " m"] | None = None,
    ) -> tuple[Int[Tensor, "n groups k"], Float[Tensor, "n groups k"]]:
        """The k codes nearest to normed rows, and their similarities; nearest first.

        No more than 2^22 similarities are held at once. Of equal codes, which comes first is the
        device's choice, but for k = 1 on the CPU, where it is the one of lowest index.

        Parameters
        ----------
        a : [n, d_in], as `normed` gives them.
        k : None for the config's.
        blocked : latents that are passed over.

        Returns
        -------
        ids, similarity : [n, groups, k]. The similarity is the cosine, the inner product, or less
            the distance. An id is -1 where too few codes are left.
        """
        k, groups = k or self.config.k, self.config.groups
        table, shift = self._ranking()
        if blocked is not None and len(blocked):
            shift = shift.flatten().clone()
            shift[blocked.to(shift.device)] = -torch.inf
            shift = shift.view(groups, -1)
        chunks = a.unflatten(-1, (groups, -1))
        step = max(1, BLOCK // (groups * self.config.n_codes))
        found = [_best(part, table, shift, k) for part in chunks.split(step)]
        empty = [(a.new_zeros(0, groups, k, dtype=torch.long), a.new_zeros(0, groups, k))]
        ids, score = (torch.cat(t) for t in zip(*(found or empty), strict=True))
        if blocked is not None:
            ids = ids.where(score > -torch.inf, -1)
        square = chunks.square().sum(-1, keepdim=True)
        if self.config.similarity == "cosine":
            score = score / square.sqrt().clamp_min(1e-30)
        elif self.config.similarity == "euclidean":
            score = -(square - 2 * score).clamp_min(0).sqrt()
        return ids, score

    def snap(
        self,
        rows: Float[Tensor, "n d"],
        k: int | None = None,
        *,
        edit: Edit | None = None,
        blocked: Int[Tensor, " m"] | None = None,
        refill: bool = True,
    ) -> Snap:
        """Rows replaced by their codes.

        Parameters
        ----------
        rows : [n, d_in].
        k : codes a row; None for the config's.
        edit : called with the ids; what it gives takes their place, -1 for an empty slot.
        blocked : latents that are not to be chosen.
        refill : give their slots to the next nearest; else the slots stay empty, and the mean is
            still taken over k.
        """
        a = self.normed(rows)
        ids = self.nearest(a.detach(), k, blocked=blocked if refill else None)[0]
        if blocked is not None and not refill:
            out = torch.isin(self.latents(ids), blocked.to(ids.device))
            ids = ids.where(~out, -1)
        if edit is not None:
            ids = edit(ids)
        reduced = self.of_ids(ids)
        output = reduced + (a - a.detach())
        return Snap(output + self.b_dec, reduced, a, ids)

    def of_ids(self, ids: Int[Tensor, "n groups k"]) -> Float[Tensor, "n d"]:
        """[n, d_in] the reduced codes of each row, without ``b_dec``; a slot of -1 adds nothing."""
        held = self._slots(ids)
        chunks = Codes(held.values.flatten(0, 1), held.indices.flatten(0, 1))
        return decode(chunks, self.codes, backend=self.backend).view(len(ids), self.d_in)

    def latents(self, ids: Int[Tensor, "n groups k"]) -> Int[Tensor, "n groups k"]:
        """Codes numbered through all groups; -1 stays."""
        first = torch.arange(self.config.groups, device=ids.device) * self.config.n_codes
        return (ids + first[:, None]).where(ids >= 0, -1)

    def reconstruction(self, snap: Snap, mask: Tensor | None = None) -> Tensor:
        """How far the codes are from what they stand for, unweighted; 0-d.

        With a the normed row and r its reduced codes, the mean over rows of
        ``|r - sg(a)|^2 + commitment |sg(r) - a|^2``, summed over the width; sg stops gradients. The
        first part moves the codes alone, the second the rows and the norm.

        Parameters
        ----------
        mask : [n] True for rows that count; None for all.

        Source: the paper's code, "aeloss", with a commitment "fullaeloss". Differs: it is part of
        the loss that one sees, so that accumulation and loss scaling reach it.
        """
        error = (snap.reduced - snap.normed.detach()).square().sum(1)
        if self.config.commitment:
            held = (snap.reduced.detach() - snap.normed).square().sum(1)
            error = error + self.config.commitment * held
        return error.mean() if mask is None else (error * mask).sum() / mask.sum()

    def reset_latents(self, latents: Int[Tensor, " m"]) -> None:
        """Give codes that `resample` set the mean length of the others, in place."""
        others = torch.ones(self.n_latents, dtype=torch.bool, device=self.codes.device)
        others[latents] = False
        if bool(others.any()):
            self.codes[latents] *= self.codes[others].norm(dim=1).mean()

    def _latents(self, rows: Tensor) -> Codes:
        return self._codes(self.nearest(self.normed(rows))[0])

    def _predict(self, latents: Tensor | Codes, rows: Tensor) -> Tensor:
        through = self.normed(rows)
        return self._decode(latents) + (through - through.detach())

    def _terms(
        self,
        rows: Tensor,
        target: Tensor,
        *,
        dead: Tensor | None,
        k: int | None,
        penalty_scale: float,
    ) -> tuple[Tensor, Codes, dict[str, Tensor]]:
        if self.config.layer_norm or self.config.groups > 1:
            raise ParameterError(
                "Codebook: with a layer norm or in groups it is trained in a model "
                "(saes.codebook.train_codebooks); on activations alone take layer_norm=False and "
                "groups=1."
            )
        codes = self._codes(self.nearest(self.normed(rows), k)[0])
        return self._decode(codes), codes, {}

    def _codes(self, ids: Tensor) -> Codes:
        """[n, groups * k] of chosen ids."""
        held = self._slots(ids)
        return Codes(held.values.flatten(1), held.indices.flatten(1))

    def _slots(self, ids: Tensor) -> "_Slots":
        """Values and latents [n, groups, k] of ids; an empty slot is latent 0 at 0."""
        share = 1 / ids.shape[-1] if self.config.reduce == "mean" else 1.0
        values = (ids >= 0).to(self.codes.dtype) * share
        return _Slots(values, self.latents(ids).clamp_min(0))

    def _grouped(self) -> Tensor:
        return self.codes.view(self.config.groups, self.config.n_codes, -1)

    def _ranking(self) -> tuple[Tensor, Tensor]:
        """[groups, n_codes, width] and [groups, n_codes]: rows times the one, plus the other."""
        codes = self._grouped().detach()
        shift = codes.new_zeros(codes.shape[:2])
        if self.config.similarity == "cosine":
            return codes / _lengths(codes), shift
        if self.config.similarity == "euclidean":
            shift = -codes.square().sum(-1) / 2  # orders as the distance does
        return codes, shift


class _Slots(NamedTuple):
    values: Tensor
    indices: Tensor


def _lengths(codes: Tensor) -> Tensor:
    """Lengths [..., 1]; 1 for a code of zeros, whose cosine then is 0."""
    length = codes.norm(dim=-1, keepdim=True)
    return torch.where(length > 0, length, 1)


def _best(chunks: Tensor, table: Tensor, shift: Tensor, k: int) -> tuple[Any, Any]:
    """The k greatest of ``chunks . table + shift``: ids and values [n, groups, k]."""
    score = torch.baddbmm(shift[:, None], chunks.transpose(0, 1), table.transpose(1, 2))
    best = score.max(-1, keepdim=True) if k == 1 else score.topk(k)
    return best.indices.transpose(0, 1), best.values.transpose(0, 1)
