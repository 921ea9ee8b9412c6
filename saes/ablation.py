"""Taking latents out of a running model, and what the model then loses."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import interp
from interp.capturing import Capture, Progress
from interp.errors import DataError, ParameterError
from interp.feeds import TextFeed
from interp.hooks import evaluating
from interp.models import Model
from interp.results import Result
from interp.runs import versions
from probes.scores import bootstrap_weights
from probes.steering import check_language_model
from saes.base import SAE
from saes.kernels import decode

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Ablation", "ablate_latents", "ablation_effect"]

DRAWS = 1000
NEAREST = 10
"""Random latents are drawn from this many of the nearest density, for each that is drawn."""


@contextmanager
def ablate_latents(
    model: Model | nn.Module,
    sae: SAE,
    hookpoint: str,
    latents: Sequence[int] | None,
    *,
    bias: bool = False,
) -> Iterator[None]:
    """Subtract what latents add to a hook point, at every position, while the context lasts.

    From each activation x is taken the sum over the latents of z_i W_dec[i], with z the codes of x.
    What the SAE does not explain, x less its reconstruction, stays: the model does not run on the
    reconstruction, as under `interp.splice`. Where no chosen latent fires x is the same, bit for
    bit.

    Parameters
    ----------
    sae : an autoencoder of the hook point, on any device.
    latents : indices; None for all.
    bias : subtract b_dec too. With all latents this leaves the error alone.

    Raises
    ------
    ParameterError
        A latent is outside the SAE, or the SAE does not write where it reads.
    ShapeError
        The SAE does not have the width of the hook point.
    """
    chosen = _chosen(sae, latents)

    def without(x: Tensor) -> Tensor:
        rows = x.to(sae.decoder.device, sae.decoder.dtype)
        with torch.no_grad():
            codes = sae.encode_sparse(rows)
            kept = codes.values * chosen.to(codes.indices.device)[codes.indices]
            b_dec = sae.b_dec if bias else None
            part = decode(codes.with_values(kept), sae.W_dec, b_dec)
        return x - part.view(x.shape).to(x.device, x.dtype)

    with interp.splice(model, hookpoint, without):
        yield


@dataclass(frozen=True, kw_only=True)
class Ablation(Result):
    """What a language model loses when each latent is taken out, one at a time.

    Arrays have one entry a latent, in the order of ``latents``. ``n`` counts predicted tokens.
    Changes are means over them, ablated less not, in nats; intervals are 95 %, by bootstrap over
    documents (over groups, where the data has them).

    Attributes
    ----------
    hookpoint : where the latents are read and taken out.
    latents : [l] indices in the SAE.
    density : [l] share of the predicting tokens at which the latent fires.
    loss : cross-entropy of the next token without ablation.
    loss_change, loss_low, loss_high : [l] by how much it rises.
    kl, kl_low, kl_high : [l] KL divergence of the ablated predictions from the others, at least 0.
    loss_change_firing, kl_firing : [l] the same means over the tokens at which the latent fires;
        nan where it fires at none.
    controls : [l, c] random latents of similar density, -1 where there are fewer.
    control_density, control_loss_change, control_kl : [l, c] of those, nan where there are fewer.
    seed : of the controls and the bootstrap.
    notes : what was done, in sentences.
    """

    kind: ClassVar[str] = "sae_ablation"

    hookpoint: str
    latents: NDArray
    density: NDArray
    loss: float
    loss_change: NDArray
    loss_low: NDArray
    loss_high: NDArray
    kl: NDArray
    kl_low: NDArray
    kl_high: NDArray
    loss_change_firing: NDArray
    kl_firing: NDArray
    controls: NDArray
    control_density: NDArray
    control_loss_change: NDArray
    control_kl: NDArray
    seed: int
    notes: tuple[str, ...] = field(default_factory=tuple)

    def to_frame(self) -> "pd.DataFrame":
        """One row a latent; of its controls the mean and the greatest."""
        import pandas as pd

        columns = {"latent": self.latents} | {k: getattr(self, k) for k in _COLUMNS}
        for name in ("loss_change", "kl"):
            values = getattr(self, f"control_{name}")
            known = np.isfinite(values)
            count = known.sum(1)
            total = np.where(known, values, 0).sum(1)
            mean = np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)
            most = np.where(known, values, -np.inf).max(1, initial=-np.inf)
            columns[f"control_{name}"] = mean
            columns[f"control_{name}_most"] = np.where(count > 0, most, np.nan)
        return pd.DataFrame(columns)

    def metrics(self) -> dict[str, Any]:
        """Numbers and names for ``metrics.json``."""
        table: dict[str, Any] = {
            "n": self.n,
            "hookpoint": self.hookpoint,
            "loss": round(self.loss, 6),
            "seed": self.seed,
            "reasons": self.reasons,
        }
        for column, values in self.to_frame().items():
            table[str(column)] = [round(v, 6) if np.isfinite(v) else None for v in values.tolist()]
        return table


_COLUMNS = ("density", "loss_change", "loss_low", "loss_high", "kl", "kl_low", "kl_high",
            "loss_change_firing", "kl_firing")  # fmt: skip


def ablation_effect(
    sae: SAE,
    model: Model | nn.Module | str,
    data: Any,
    hookpoint: str,
    latents: Sequence[int],
    *,
    controls: int = 3,
    batch_size: int | None = None,
    max_length: int | None = None,
    seed: int = 0,
    name: str | None = None,
    progress: Progress | None = None,
) -> Ablation:
    """Change of loss and KL when each latent is ablated, beside random latents of similar density.

    Each latent is taken out by itself (`ablate_latents`: the SAE's error stays). A batch in which
    it fires at no token is not run again, as nothing changes there. A control is drawn from the 10
    ``controls`` latents, not among ``latents``, whose density is nearest, of those that fire.

    Parameters
    ----------
    data : texts.
    latents : those to ablate, each once.
    controls : random latents for each; 0 for none.
    batch_size : texts of a forward; None fills batches to 4,096 tokens.
    max_length : cut longer texts to so many tokens.
    seed : of the controls and the bootstrap.
    progress : called with (batches done, batches, what).

    Raises
    ------
    DataError
        The data are no texts, or none has two tokens.
    ParameterError
        A latent is outside the SAE or named twice, or the SAE does not write where it reads.
    ModelError
        The model has no unembedding, or reads texts from both sides.
    """
    wanted = [int(i) for i in latents]
    if not wanted or len(set(wanted)) < len(wanted) or controls < 0:
        raise ParameterError(
            "latents must name at least one latent, each once, and controls be at least 0."
        )
    _chosen(sae, wanted)
    work = Capture(model, data, hookpoint, "all", batch_size, None, max_length)
    if not isinstance(work.feed, TextFeed):
        raise DataError(f"{work.data.name} holds no texts, and a loss is of the next token.")
    check_language_model(work.model)
    point = work.points[0].name
    run = _Runs(sae, work, point)
    rng = np.random.default_rng(seed)
    chosen = np.full((len(wanted), controls), -1, np.int64)
    for i, latent in enumerate(wanted):
        alike = _similar(run.fires, latent, wanted, NEAREST * controls)
        drawn = rng.permutation(alike)[:controls]
        chosen[i, : len(drawn)] = drawn
    every = list(dict.fromkeys([*wanted, *chosen[chosen >= 0].tolist()]))
    found = run.without(every, progress)

    n = run.counts.sum()
    ids = _groups(work)
    weights = bootstrap_weights(ids, draws=DRAWS, seed=seed).astype(np.float64)
    size = weights @ np.bincount(ids, run.counts)

    def interval(change: NDArray) -> NDArray:
        sums = weights @ np.bincount(ids, change)
        draws = sums[size > 0] / size[size > 0]
        return np.quantile(draws, [0.025, 0.975])

    bounds = np.array([[interval(found[i][k]) for k in ("loss", "kl")] for i in wanted])
    table = {k: np.array([found[i][k].sum() / n for i in wanted]) for k in ("loss", "kl")}
    firing = {k: np.array([_mean(found[i], k, run.fires[i]) for i in wanted]) for k in table}

    def of(values: dict[int, float]) -> NDArray:
        return np.array([[values.get(int(c), np.nan) for c in row] for row in chosen]).reshape(
            chosen.shape
        )

    reasons = {}
    if any(run.fires[i] == 0 for i in wanted):
        silent = [i for i in wanted if run.fires[i] == 0]
        reasons["loss_change_firing"] = f"these latents fire at no token: {silent}"
    return Ablation(
        name=name or f"{work.data.name}.{point}",
        n=int(n),
        provenance={
            "model": work.model.identity(),
            "data": {"name": work.data.name, "hash": work.data.hash, "n": len(work.data)},
            "sae": {"architecture": sae.architecture, "d_in": sae.d_in, **sae.config.to_dict()},
            "site": point,
            "seed": seed,
            "versions": versions(),
        },
        reasons=reasons,
        hookpoint=point,
        latents=np.array(wanted),
        density=run.fires[wanted] / n,
        loss=float(run.loss.sum() / n),
        loss_change=table["loss"],
        loss_low=bounds[:, 0, 0],
        loss_high=bounds[:, 0, 1],
        kl=table["kl"],
        kl_low=bounds[:, 1, 0],
        kl_high=bounds[:, 1, 1],
        loss_change_firing=firing["loss"],
        kl_firing=firing["kl"],
        controls=chosen,
        control_density=of({i: float(run.fires[i] / n) for i in every}),
        control_loss_change=of({i: float(found[i]["loss"].sum() / n) for i in every}),
        control_kl=of({i: float(found[i]["kl"].sum() / n) for i in every}),
        seed=seed,
        notes=(
            "What a latent adds is subtracted at every position; the SAE's error stays in place.",
            "A control is a random latent of similar density, ablated in the same way.",
            f"Intervals: 95 % percentile bootstrap over {int(ids.max()) + 1} "
            f"{'documents' if work.data.group is None else 'groups'}, {DRAWS} draws.",
        ),
    )


class _Runs:
    """The model's predictions of the next token, with and without a latent, batch by batch.

    Attributes
    ----------
    counts, loss : [documents] predicted tokens, and their summed cross-entropy.
    fires : [n_latents] predicting tokens at which each latent fires.
    """

    def __init__(self, sae: SAE, work: Capture, point: str) -> None:
        self._sae, self._work, self._point = sae, work, point
        self._batches = [b for shard in work.shards for b in work.batches(*shard)]
        lengths = np.array(work.feed.lengths)
        self.counts = (lengths - 1).astype(np.float64)
        if not self.counts.sum():
            raise DataError(f"{work.data.name} has no text of two tokens, so none is predicted.")
        self.loss = np.zeros(len(lengths))
        self.fires = np.zeros(sae.n_latents, np.int64)
        self._active: list[set[int]] = []  # latents that fire in each batch, at any token
        for batch in self._batches:
            with interp.record(work.model, point) as acts:
                logits = self._logits(batch)
            x = acts[point]
            mask = self._mask(batch, x)
            codes = sae.encode_sparse(x[mask].to(sae.decoder.device, sae.decoder.dtype))
            fired = codes.indices.flatten()[(codes.values > 0).flatten()]
            self._active.append(set(fired.unique().tolist()))
            predicting = self._predicting(batch, x)[mask].to(fired.device)
            held = predicting[codes.rows[(codes.values > 0).flatten()]]
            self.fires += np.bincount(fired[held].cpu().numpy(), minlength=sae.n_latents)
            p = logits[:, :-1].double().log_softmax(-1)
            self._add(self.loss, batch, self._cross_entropy(batch, p))

    def without(
        self, latents: Sequence[int], progress: Progress | None
    ) -> dict[int, dict[str, NDArray]]:
        """For each latent sums over each document's tokens: changes of loss, KL, both where it
        fires.
        """
        names = ("loss", "kl", "loss firing", "kl firing")
        found = {i: {name: np.zeros(len(self.counts)) for name in names} for i in latents}
        for done, (batch, active) in enumerate(zip(self._batches, self._active, strict=True), 1):
            with interp.record(self._work.model, self._point) as acts:
                before = self._logits(batch)
            x = acts[self._point]
            z = self._sae.encode_sparse(x.to(self._sae.decoder.device, self._sae.decoder.dtype))
            p = before[:, :-1].double().log_softmax(-1)
            mask = self._predicting(batch, x)[:, :-1].to(p.device)
            for latent in latents:
                if latent not in active:
                    continue
                with ablate_latents(self._work.model, self._sae, self._point, [latent]):
                    q = self._logits(batch)[:, :-1].double().log_softmax(-1)
                hit = ((z.indices.flatten() == latent) & (z.values.flatten() > 0)).double()
                fires = hit.new_zeros(len(z)).index_add_(0, z.rows, hit).view(x.shape[:2])
                fires = fires[:, :-1].to(p.device)
                changes = {
                    "loss": self._cross_entropy(batch, q) - self._cross_entropy(batch, p),
                    "kl": (p.exp() * (p - q)).sum(-1).where(mask, 0),
                }
                for name, values in changes.items():
                    self._add(found[latent][name], batch, values)
                    self._add(found[latent][f"{name} firing"], batch, values * fires)
            if progress is not None:
                progress(done, len(self._batches), "batches")
        return found

    def _logits(self, batch: Sequence[int]) -> Tensor:
        with evaluating(self._work.model.module), torch.inference_mode():
            output = self._work.feed.run(batch)
        return output if isinstance(output, Tensor) else output.logits

    def _mask(self, batch: Sequence[int], x: Tensor) -> Tensor:
        """[b, t] real positions; texts are padded on the right."""
        length = torch.tensor([self._work.feed.lengths[i] for i in batch], device=x.device)
        return torch.arange(x.shape[1], device=x.device) < length[:, None]

    def _predicting(self, batch: Sequence[int], x: Tensor) -> Tensor:
        """[b, t] positions that a real token follows."""
        mask = self._mask(batch, x)
        return torch.cat([mask[:, 1:], torch.zeros_like(mask[:, :1])], 1)

    def _cross_entropy(self, batch: Sequence[int], p: Tensor) -> Tensor:
        """[b, t - 1] of each next token, 0 where there is none; p [b, t - 1, tokens] are logs."""
        ids = cast(Any, self._work.feed).ids
        padded = self._work.model.pad([ids[i] for i in batch])["input_ids"].to(p.device)
        loss = -p.gather(-1, padded[:, 1:, None])[..., 0]
        return loss.where(self._predicting(batch, padded)[:, :-1], 0)

    @staticmethod
    def _add(out: NDArray, batch: Sequence[int], values: Tensor) -> None:
        out[list(batch)] += values.sum(1).cpu().numpy()


def _chosen(sae: SAE, latents: Sequence[int] | None) -> Tensor:
    """[n_latents] true at the latents."""
    if sae.transcodes or len(sae.in_shape) > 1:
        raise ParameterError(
            f"{type(sae).__name__} does not write where it reads, so its latents cannot be taken "
            "out of one hook point; use an autoencoder."
        )
    mask = torch.zeros(sae.n_latents, dtype=torch.bool)
    index = torch.arange(sae.n_latents) if latents is None else torch.as_tensor(list(latents))
    if len(index) == 0 or int(index.min()) < 0 or int(index.max()) >= sae.n_latents:
        raise ParameterError(
            f"latents must be one or more of 0 to {sae.n_latents - 1}; got {list(latents or [])}."
        )
    mask[index.long()] = True
    return mask


def _similar(fires: NDArray, latent: int, wanted: Sequence[int], most: int) -> NDArray[np.int64]:
    """The firing latents, not among the wanted, whose density is nearest by its ratio."""
    others = np.setdiff1d(np.flatnonzero(fires > 0), wanted)
    if not fires[latent]:
        return others[:0]  # nothing is like a latent that never fires
    far = np.abs(np.log(fires[others]) - np.log(fires[latent]))
    return others[np.lexsort((others, far))][:most]


def _groups(work: Capture) -> NDArray[np.int64]:
    """What is drawn whole in the bootstrap, [documents]."""
    if work.data.group is None:
        return np.arange(len(work.data))
    names = work.data.rows[work.data.group].astype(str).to_numpy()
    return np.unique(names, return_inverse=True)[1].astype(np.int64)


def _mean(found: dict[str, NDArray], name: str, fires: int) -> float:
    return float(found[f"{name} firing"].sum() / fires) if fires else float("nan")
