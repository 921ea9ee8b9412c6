"""One dictionary over several ranks, each with a run of its latents: `ShardedSAE`.

Encoder and decoder have a row a latent, so both are cut along the same axis. That makes the encoder
column-parallel (every rank reads x and computes the pre-activations of its latents) and the decoder
row-parallel (every rank has a part of the reconstruction, and the parts add up). What remains is to
agree on which latents are active: each rank offers the k best of its own, all see the offers of
all, take the k best of them, and each goes on with those that it holds. That is the choice of one
process, ties included.
"""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import torch
from safetensors import safe_open
from torch import Tensor, nn

from interp.errors import CheckpointError, ParameterError
from saes.base import ARCHITECTURES, SAE, Loss, SAEConfig, SAEOutput
from saes.checkpoints import check_tensors, read_checkpoint, write_checkpoint
from saes.codes import Codes
from saes.kernels import encode_slots
from saes.optimizer import project_gradient
from saes.shard_codes import everywhere, held_here, largest, largest_of_batch, strongest_first
from saes.shard_files import fetching, hand_in, held_rows, outline
from saes.shards import DIMENSION, WHOLE, Shards, local, shard_mesh, spread_rows
from saes.topk import TopKSAE

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

__all__ = ["ShardedSAE"]

KINDS = (
    "relu", "gated", "topk", "batch_topk", "jumprelu", "matryoshka", "transcoder", "crosscoder",
)  # fmt: skip
"""Architectures that can be sharded."""


class ShardedSAE(SAE[Any]):
    """An SAE whose latents are spread over the ranks of torchrun, with the results of an unsharded.

    It is an SAE of its architecture in all respects; only it is made otherwise, by `from_config`,
    `from_pretrained` or `of`. With ``n_latents`` N on S ranks, each holds ceil(N / S) rows of
    encoder, decoder and biases, the last maybe fewer, and ``b_dec`` whole.

    Every method is collective: all ranks of a group must call it, with the same rows x. What goes
    in and comes out is of the whole dictionary on every rank: latents, codes, indices of dead
    latents, the loss, its counts. Loss and output have gradients to the parameters; the latents of
    `encode`, `encode_sparse` and `forward` have none.

    Attributes
    ----------
    shards : which latents are here (`Shards.start`, `Shards.stop`), and their ranks.
    encoder, decoder, b_enc : this rank's rows, as tensors; so other parameters. ``parameters()``
        and ``state_dict()`` give them as DTensors [N, ...], Shard(0) or Replicate.
    W_enc, W_dec : whole on every rank, as analyses take them: they are fetched at each use.

    Raises
    ------
    ParameterError
        The architecture cannot be sharded, or the choice of latents is none that can be made in two
        steps (``multi_k``, ``selection`` other than exact); there are too few latents; x needs a
        gradient.

    Notes
    -----
    Sent and received in a step by each rank, for n rows of width d, in float32, with c = min(k,
    ceil(N / S)): n c S 4 bytes of offers (BatchTopK 12, as it sends places too), twice n d_out 4
    for the sum of reconstructions (as a ring does), the same two again for AuxK with k_aux for c,
    N 4 bytes of counts, and d 4 for the gradient of ``b_dec``. The penalties of other architectures
    send a number, Matryoshka n d_out 4 a prefix. A rank computes 1 / S of the encoder's product and
    of the update, and holds 1 / S of parameters, gradients and moments.

    Source: Gao et al. 2024, "Scaling and evaluating sparse autoencoders", appendix D.1, where
    latents are spread and a gather decides on the global k; Shoeybi et al. 2019, "Megatron-LM",
    section 3, on column and row parallel layers. Differs: Gao et al. let a rank offer twice its
    even share of k, so that a latent can be missed; here it offers k.
    """

    shards: Shards
    _pre: Tensor | None = None  # b_pre of the loss that runs: one place where its gradients add up

    @classmethod
    def from_config(  # pyright: ignore[reportIncompatibleMethodOverride]  a mesh is new
        cls,
        config: SAEConfig,
        d_in: int,
        d_out: int | None = None,
        *,
        mesh: "DeviceMesh | None" = None,
        generator: torch.Generator | None = None,
    ) -> Self:
        """A new SAE with the first weights that `SAE.from_config` gives it, a part on each rank.

        No rank ever holds more than its part: each draws all the numbers, 4 million at a time, and
        drops those of others. That takes each rank as long as one would alone.

        Parameters
        ----------
        config, d_in, d_out : as for `SAE.from_config`.
        mesh : of the ranks that share it, as by `shard_mesh`; None for all ranks.
        generator : on the CPU, seeded alike on all ranks.
        """
        sae = cls._empty(config, mesh)
        sae.__init__(config, d_in, d_out, generator=generator)
        sae._spread(dict(sae.named_parameters()))
        return sae

    @classmethod
    def of(cls, sae: SAE, mesh: "DeviceMesh | None" = None) -> Self:
        """Spread an SAE that every rank holds whole: in place, and what is of others is let go."""
        shards = cls._shards(sae.config, mesh)
        own = {k: _part(k, p.detach(), shards).clone() for k, p in sae.named_parameters()}
        sae.__class__ = _sharded(type(sae))
        found = cast(Self, sae)
        found.__dict__["shards"] = shards
        found._spread(own)
        return found

    @classmethod
    def from_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls, source: str | Path, mesh: "DeviceMesh | None" = None
    ) -> Self:
        """What `save_pretrained` wrote, of a sharded SAE or not, of which a rank reads its rows.

        Raises
        ------
        CheckpointError
            As by `SAE.from_pretrained`.
        """
        config_path = {}

        def read(path: Path) -> dict[str, Tensor]:
            config_path["weights"] = path
            with safe_open(path, "pt") as file:
                return {name: outline(file, name) for name in file.keys()}  # noqa: SIM118

        document, outlines = read_checkpoint(source, read)
        name = document["architecture"]
        if name not in KINDS:
            raise CheckpointError(
                f"{source} holds a {name} SAE; only {', '.join(KINDS)} can be sharded."
            )
        config_class, sae_class = ARCHITECTURES[name]
        try:
            config = config_class.from_dict(document["config"])
            with torch.device("meta"):
                whole = sae_class(config, document["d_in"], document["d_out"])
        except (ParameterError, AttributeError, TypeError) as error:
            raise CheckpointError(f"{source}: config.json: {error}") from error
        check_tensors(str(source), whole.state_dict(), outlines)
        sae = cls._empty(config, mesh)
        sae.__dict__.update(whole.__dict__)
        with safe_open(config_path["weights"], "pt") as file:
            found = {k: held_rows(file, k, sae.shards) for k in outlines}
        sae._spread({k: v for k, v in found.items() if k in sae._parameters})
        for k in sae._buffers:
            sae._buffers[k] = found[k].to(sae.shards.mesh.device_type)
        sae.metadata = document["metadata"]
        return sae.eval()

    @classmethod
    def _empty(cls, config: SAEConfig, mesh: "DeviceMesh | None") -> Self:
        shards = cls._shards(config, mesh)
        kind = _sharded(ARCHITECTURES[config.architecture][1])
        sae = kind.__new__(kind)
        sae.__dict__["shards"] = shards
        return cast(Self, sae)

    @staticmethod
    def _shards(config: SAEConfig, mesh: "DeviceMesh | None") -> Shards:
        if config.architecture not in KINDS:
            raise ParameterError(
                f"ShardedSAE takes an SAE of {', '.join(KINDS)}; got {config.architecture}."
            )
        if getattr(config, "multi_k", False) or getattr(config, "selection", "exact") != "exact":
            raise ParameterError(
                "ShardedSAE chooses the k largest latents alone; leave multi_k out and selection "
                "at exact."
            )
        mesh = shard_mesh() if mesh is None else mesh
        return Shards(mesh[DIMENSION] if mesh.ndim > 1 else mesh, config.n_latents)

    def _spread(self, own: dict[str, Tensor]) -> None:
        """Take this rank's parts of the parameters as DTensors."""
        shards = self.shards
        for name, part in own.items():
            part = part.detach().to(shards.mesh.device_type)
            whole = shards.repeated(part) if name in WHOLE else shards.spread(part)
            self._parameters[name] = nn.Parameter(whole)
        self._begin = shards.start

    def __getattr__(self, name: str) -> Any:
        found = super().__getattr__(name)
        return local(found) if isinstance(found, Tensor) else found

    @property
    def W_enc(self) -> Tensor:
        """As of the whole SAE, fetched from all ranks, without gradients."""
        rows = self.shards.gather_uneven(self.encoder.detach())
        if len(self.in_shape) == 1:
            return rows.T
        return rows.view(-1, *self.in_shape).permute(1, 2, 0)

    @property
    def W_dec(self) -> Tensor:
        """As of the whole SAE, fetched from all ranks, without gradients."""
        rows = self._directions()
        if len(self.out_shape) == 1:
            return rows
        return rows.view(-1, *self.out_shape).transpose(0, 1)

    def encode(self, x: Tensor) -> Tensor:
        """Dense latents [..., n_latents] of activations [..., d_in], as of `SAE.encode`."""
        z = self.encode_sparse(x).dense(self.n_latents)
        return z.view(*self._leading(x), self.n_latents)

    def encode_sparse(self, x: Tensor) -> Codes:
        """The same latents as `Codes`, as of `SAE.encode_sparse`."""
        rows = self._rows(x, self.in_shape)
        with torch.no_grad():
            codes = self._everywhere(self._latents(rows))
        return codes.with_values(codes.values.to(x.dtype))

    def decode(self, codes: Codes | Tensor) -> Tensor:
        """What latents of the whole dictionary stand for, as of `SAE.decode`."""
        if isinstance(codes, Codes):
            self._refuse_gradient(codes.values)
            codes = held_here(self.shards, codes)
        return super().decode(codes)

    def forward(self, x: Tensor) -> SAEOutput:
        """The prediction [..., d_out], and the codes of the flattened rows."""
        rows = self._rows(x, self.in_shape)
        latents = self._latents(rows)
        output = self._predict(latents, rows).to(x.dtype)
        with torch.no_grad():
            codes = self._everywhere(latents)
        codes = codes.with_values(codes.values.to(x.dtype))
        return SAEOutput(output.view(*self._leading(x), *self.out_shape), codes)

    def save_pretrained(self, path: str | Path) -> Path:
        """Write what the unsharded SAE would, from the first rank of the group.

        That rank holds one whole tensor at a time beside its part. Where it fails, it alone raises.
        """
        tensors = self.state_dict()
        try:
            if self.shards.rank:
                hand_in(tensors)
                return Path(path)
            with fetching(tensors) as whole:
                return write_checkpoint(path, self._document(), whole)
        finally:
            self.shards.wait()

    def push_to_hub(self, repo_id: str, *, private: bool = False) -> str:
        """Refused, as each rank would upload: push what `save_pretrained` wrote.

        Raises
        ------
        ParameterError
            Always.
        """
        raise ParameterError(
            f"a sharded SAE is not pushed to {repo_id}; save it, and push that from one process "
            "with SAE.from_pretrained(PATH).push_to_hub."
        )

    def project_decoder_gradient(self) -> None:
        """As `SAE.project_decoder_gradient`, of this rank's rows."""
        parameter = self._parameters["decoder"]
        if parameter is not None and parameter.grad is not None:
            project_gradient(parameter)

    def _total(
        self,
        rows: Tensor,
        target: Tensor,
        dead: Tensor | None,
        k: int | None,
        penalty_scale: float,
    ) -> Loss:
        self.__dict__["_pre"] = self._b_pre
        try:
            return super()._total(rows, target, dead, k, penalty_scale)
        finally:
            self.__dict__["_pre"] = None

    @property
    def _b_pre(self) -> Tensor | None:
        if self.transcodes or self._pre is not None:
            return self._pre
        return self.shards.copied(self.b_dec.flatten())

    def _rows(self, x: Tensor, shape: tuple[int, ...], name: str = "x") -> Tensor:
        self._refuse_gradient(x)
        return super()._rows(x, shape, name)

    def _refuse_gradient(self, x: Tensor) -> None:
        if x.requires_grad and torch.is_grad_enabled():
            raise ParameterError(
                f"{type(self).__name__}: no gradient reaches what a sharded SAE reads; detach it, "
                "or load the SAE whole, with SAE.from_pretrained."
            )

    def _first_rows(self, n: int, width: int, generator: torch.Generator | None) -> Tensor:
        rows = spread_rows(n, width, generator, self.shards)
        return rows / rows.norm(dim=1, keepdim=True)

    def _counts(self, latents: Tensor | Codes) -> Tensor:
        if isinstance(latents, Codes):
            own = latents.counts(len(self.encoder))
        else:
            own = (latents.detach() != 0).sum(0)
        padded = own.new_zeros(self.shards.most, dtype=torch.int32)
        padded[: len(own)] = own
        return torch.cat(self.shards.gather(padded))[: self.n_latents].to(own.dtype)

    def _summed(self, partial: Tensor) -> Tensor:
        return self.shards.summed(partial)

    def _decode(self, latents: Tensor | Codes) -> Tensor:
        if not isinstance(latents, Codes) and latents.shape[1] == self.n_latents:
            latents = latents[:, self.shards.start : self.shards.stop]
        return super()._decode(latents)

    def _rows_of(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        begin, end = self.shards.start, self.shards.stop
        here = (latents >= begin) & (latents < end)
        return here, latents[here] - begin

    def _directions(self) -> Tensor:
        return self.shards.gather_uneven(self.decoder.detach())

    def _encoder_norms(self) -> Tensor:
        return self.shards.gather_uneven(super()._encoder_norms())

    def _largest(
        self, rows: Tensor, encoder: Tensor, b_enc: Tensor, k: int, rule: str = "topk"
    ) -> Codes:
        b_pre = self._b_pre
        with torch.no_grad():
            centred = rows if b_pre is None else rows - b_pre
            codes = largest(self.shards, centred, encoder, b_enc, k, self.backend)
        return encode_slots(rows, encoder, b_enc, codes, b_pre=b_pre, backend=self.backend)

    def _chosen(self, rows: Tensor, k: int) -> Codes:
        b_pre, encoder, b_enc = self._b_pre, self.encoder, self.b_enc
        with torch.no_grad():
            centred = rows if b_pre is None else rows - b_pre
            codes = largest_of_batch(self.shards, centred, encoder, b_enc, k, self.backend)
        return encode_slots(rows, encoder, b_enc, codes, b_pre=b_pre, backend=self.backend)

    def _least(self, values: Tensor) -> Tensor:
        own = super()._least(values)  # pyright: ignore[reportAttributeAccessIssue]  BatchTopK's
        return self.shards.least_(own)

    def _everywhere(self, latents: Tensor | Codes) -> Codes:
        codes = latents if isinstance(latents, Codes) else Codes.from_dense(latents)
        found = everywhere(self.shards, codes)
        return strongest_first(found, self.config.k) if isinstance(self, TopKSAE) else found


@cache
def _sharded(kind: type[SAE]) -> type[ShardedSAE]:
    """The class of a kind's sharded SAEs."""
    return type(f"Sharded{kind.__name__}", (ShardedSAE, kind), {"__doc__": ShardedSAE.__doc__})


def _part(name: str, tensor: Tensor, shards: Shards) -> Tensor:
    return tensor if name in WHOLE or not tensor.ndim else tensor[shards.start : shards.stop]
