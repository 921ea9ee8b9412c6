"""``interp sae eval`` of a VL-SAE: what pairs share, and what is kept of each modality."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from interp.cli.capture import size
from interp.cli.sae.inputs import weights_hash
from interp.cli.shell import bar, emit
from interp.errors import ParameterError

if TYPE_CHECKING:
    from saes import SAE

__all__ = ["judge"]

TOP = 10
"""Exemplars of a latent, where there are as many pairs."""


def judge(
    sae: "SAE",
    store: Path | None,
    points: list[str],
    out: Path,
    device: str,
    batch_size: int | None,
    seed: int,
    *,
    resume: bool,
    force: bool,
    dry_run: bool,
    as_json: bool,
    finish: Callable[[Any, bool], None],
) -> None:
    """Judge a VL-SAE on a store of pairs, at the hook points it learnt from or at others.

    Raises
    ------
    ParameterError
        There is no store, or not one hook point a modality.
    """
    import interp
    import saes
    from interp.loading import device_of
    from interp.runs import Run
    from saes.evaluation import sae_name
    from saes.vl import MODALITIES

    known = sae.metadata.get("hookpoints")
    if not points and isinstance(known, dict):
        points = [known[m] for m in MODALITIES]
    if store is None or len(points) != 2:
        raise ParameterError(
            "interp sae eval takes a VL-SAE with --store STORE of pairs, and two --hookpoint, "
            f"image then text, where the SAE names none; got {', '.join(points) or 'none'}."
        )
    held = interp.ActivationStore.open(store)
    images, texts = (held[p] for p in points)
    if dry_run:
        moved = sum(len(m) * m.shape[-1] * m.dtype.itemsize for m in (images, texts))
        if as_json:
            emit({"rows": len(images), "bytes": 3 * moved})
        else:
            typer.echo(f"{len(images)} pairs, {size(3 * moved)} to read")
        return
    sae.to(device_of(device))
    about = {k: held.manifest.get(k) for k in ("model", "data", "pool")}
    identity = {"sae": weights_hash(sae), **about, "hookpoints": points, "seed": seed}
    started = Run(out, "sae eval", identity, resume=True) if resume and not force else None

    def add(kind: Any, name: str, find: Callable[[], Any]) -> None:
        nonlocal started
        if started is None or started.found(kind, name) is None:
            result = find()
            started = started or Run(out, "sae eval", identity, force=force)
            started.add(replace(result, provenance={**about, **result.provenance}))

    with bar("evaluating"):
        how: dict[str, Any] = {"top": min(TOP, len(images)), "batch_size": batch_size, "seed": seed}
        add(
            saes.PairEvaluation,
            sae_name(sae),
            lambda: saes.evaluate_pairs(sae, images, texts, **how),  # pyright: ignore[reportArgumentType]  it refuses others
        )
        for modality, acts in zip(MODALITIES, (images, texts), strict=True):
            side = sae.side(modality)  # pyright: ignore[reportCallIssue]  a paired SAE has sides
            add(
                saes.Evaluation,
                modality,
                lambda s=side, a=acts, m=modality: saes.evaluate(
                    s, a, batch_size=batch_size, name=m
                ),
            )
    finish(started, as_json)
