"""The pass of `features`: what is kept of each latent while tokens stream past, and its cost."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from interp.capturing import Progress
from interp.errors import ParameterError
from saes.base import SAE
from saes.samples import Sample, Top
from saes.tallies import Firings, Labels, Together, uniform
from saes.tokens import Chunk, Tokens, encoded

__all__ = ["Plan", "Survey"]

SAMPLE = 32
"""Firings, at least, that a latent's quantiles are read from."""


@dataclass(frozen=True)
class Plan:
    """What `features` will cost.

    Attributes
    ----------
    documents, tokens : that are read.
    latents : that are recorded.
    bytes : that are held for them, beside model and SAE.
    seconds : of the pass over the tokens, estimated from a timed batch.
    """

    documents: int
    tokens: int
    latents: int
    bytes: int
    seconds: float


class Survey:
    """One pass over tokens, checked before it runs; parameters as for `features`.

    Attributes
    ----------
    source : the tokens.
    chosen : [f] latents that are recorded.
    cuts : the bands' edges, 0 and 1 included.
    size : firings of a latent that are sampled.
    best, sample : examples of each chosen latent.
    firings, together : counts of all latents.
    labels, control : how firing goes with the labels of tokens, as they are and turned; None where
        tokens have none.
    """

    def __init__(
        self,
        sae: SAE,
        model_or_store: Any,
        data: Any,
        hookpoint: str,
        *,
        latents: Sequence[int] | None = None,
        top: int = 10,
        quantiles: Sequence[float] = (0.25, 0.5, 0.75),
        per_band: int = 2,
        context: int = 10,
        model: Any = None,
        batch_size: int | None = None,
        max_length: int | None = None,
        seed: int = 0,
    ) -> None:
        self.sae, self.chosen, self.cuts = sae, _chosen(sae, latents), _cuts(quantiles)
        for option, value, low in (("top", top, 1), ("per_band", per_band, 1),
                                   ("context", context, 0)):  # fmt: skip
            if value < low:
                raise ParameterError(f"{option} must be at least {low}; got {value}.")
        self.source = Tokens(
            model_or_store,
            data,
            hookpoint,
            model=model,
            batch_size=batch_size,
            max_length=max_length,
        )
        self._place = np.full(sae.n_latents, -1)
        self._place[self.chosen] = np.arange(len(self.chosen))
        self.size = max(SAMPLE, 2 * per_band * (len(self.cuts) - 1))
        self.best = Top(len(self.chosen), top, context)
        self.sample = Sample(len(self.chosen), self.size, context, seed)
        self.firings, self.together = Firings(sae.n_latents), Together(sae.n_latents, seed)
        self.labels = _labels(self.source, sae.n_latents, seed)
        self.control = _labels(self.source, sae.n_latents, seed, turned=seed)

    def take(self, chunk: Chunk) -> None:
        """Keep what is to be kept of some whole documents."""
        self.firings.add(chunk)
        self.together.add(chunk)
        self.best.add(chunk, self._place)
        self.sample.add(chunk, self._place)
        for counts in (self.labels, self.control):
            if counts is not None:
                counts.add(chunk)

    def run(self, progress: Progress | None = None) -> None:
        """Read all tokens."""
        self.source.each(self.sae, self.take, progress)

    def plan(self) -> Plan:
        """What `run` will cost; a batch is read for it, and kept: plan and run two surveys."""
        parts = self.source.parts()
        middle = parts[len(parts) // 2]
        seconds = 0.0
        for _ in range(2):  # the first warms up
            began = time.perf_counter()
            self.take(encoded(self.sae, *self.source.read(middle)))
            seconds = time.perf_counter() - began
        tokens = int(self.source.lengths.sum())
        weights = [self.source.weight(part) for part in parts]
        held = self.best.nbytes + self.sample.nbytes + self.firings.nbytes
        held += self.together.most(tokens)
        held += sum(c.nbytes for c in (self.labels, self.control) if c is not None)
        return Plan(
            documents=int((self.source.lengths > 0).sum()),
            tokens=tokens,
            latents=len(self.chosen),
            bytes=held,
            seconds=seconds * sum(weights) / weights[len(parts) // 2],
        )


def _chosen(sae: SAE, latents: Sequence[int] | None) -> NDArray[np.int64]:
    if len(sae.in_shape) > 1:
        raise ParameterError("features reads one hook point; a crosscoder reads several.")
    if latents is None:
        return np.arange(sae.n_latents)
    chosen = np.asarray(latents, dtype=np.int64).reshape(-1)
    if not len(chosen) or len(np.unique(chosen)) < len(chosen):
        raise ParameterError("latents must name at least one latent, each once.")
    if chosen.min() < 0 or chosen.max() >= sae.n_latents:
        raise ParameterError(
            f"latents are 0 to {sae.n_latents - 1}; got {chosen.min()} to {chosen.max()}."
        )
    return chosen


def _cuts(quantiles: Sequence[float]) -> tuple[float, ...]:
    cuts = (0.0, *map(float, quantiles), 1.0)
    if not all(a < b for a, b in zip(cuts, cuts[1:], strict=False)):
        raise ParameterError(f"quantiles must rise and lie between 0 and 1; got {list(quantiles)}.")
    return cuts


def _labels(source: Tokens, n_latents: int, seed: int, turned: int | None = None) -> Labels | None:
    if source.data is None or source.ids is None or not source.data.marks:
        return None
    half = (uniform(seed, source.groups) < 0.5).astype(np.int64)
    return Labels(source.data, half, n_latents, turned=turned)
