"""``interp sae eval``: what an SAE keeps, what a model makes of it, and what its latents read."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from interp.cli import options as o
from interp.cli.capture import show_plan, size
from interp.cli.report import command_of
from interp.cli.sae.inputs import weights_hash, whole_numbers
from interp.cli.shell import bar, emit, note, table
from interp.errors import ModelError, ParameterError, ShapeError

if TYPE_CHECKING:
    import pandas as pd

    from interp.capturing import Capture
    from interp.data import Dataset
    from interp.models import Model
    from interp.runs import Run
    from interp.store import ActivationStore
    from saes import SAE

LETTERS = "first letters"
"""The name of that result."""
TIMED = 4096
"""Rows that a dry run evaluates."""


def run(
    sae: Annotated[str, typer.Argument(metavar="SAE", help="Folder or hub id of a saved SAE.")],
    model: o.MaybeModel = None,
    data: o.MaybeData = None,
    store: o.Store = None,
    hookpoint: Annotated[
        list[str] | None,
        typer.Option(
            "--hookpoint",
            "-p",
            help="What the SAE reads, a crosscoder several; else what it was trained on.",
        ),
    ] = None,
    target: o.Target = None,
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/sae-eval"),
    other: Annotated[
        str | None, typer.Option(help="Another SAE, such as of another seed, to be matched.")
    ] = None,
    label_column: Annotated[
        list[str] | None,
        typer.Option(help="Column of labels for k-sparse probing, repeatable."),
    ] = None,
    group_column: Annotated[
        str | None, typer.Option(help="Column whose values stay on one side of a split.")
    ] = None,
    ks: Annotated[str, typer.Option(help="Latents of a sparse probe, a comma list.")] = "1,2,5,10",
    absorption: Annotated[
        bool,
        typer.Option("--absorption", help="Feature absorption too, of each --label-column."),
    ] = False,
    first_letters: Annotated[
        bool,
        typer.Option("--first-letters", help="Feature absorption of words' first letters."),
    ] = False,
    loss: Annotated[
        bool, typer.Option("--loss/--no-loss", help="Splice the SAE into MODEL over DATA.")
    ] = True,
    pool: o.RowsPool = "all",
    batch_size: Annotated[int | None, typer.Option(help="Rows encoded at a time.")] = None,
    forward_batch_size: o.ForwardBatchSize = None,
    text_column: o.TextColumn = None,
    seed: o.Seed = 0,
    dtype: o.Dtype = None,
    max_length: o.MaxLength = None,
    device: o.Device = "auto",
    revision: o.Revision = None,
    trust_remote_code: o.TrustRemoteCode = False,
    resume: o.Resume = False,
    force: o.Force = False,
    dry_run: o.DryRun = False,
    as_json: o.Json = False,
    config: o.Config = None,
) -> None:
    """Judge a saved SAE on a store, or on a model and data, and write a report.

    MODEL and DATA are captured in memory; for more rows than fit, capture a store first. With
    texts and a causal language model the loss recovered by splicing is measured too. With --resume
    the results that the run in --out holds are kept.
    """
    if (store is None) == (model is None or data is None):
        raise ParameterError("interp sae eval takes SAE and MODEL and DATA, or --store STORE.")
    if first_letters and (store is not None or pool != "all"):
        raise ParameterError("--first-letters needs MODEL and DATA, with --pool all.")
    if absorption and not label_column:
        raise ParameterError("--absorption needs --label-column, or use --first-letters.")
    sizes = whole_numbers(ks, "--ks")
    import interp
    import saes
    from interp.capturing import Capture
    from interp.loading import device_of
    from interp.runs import Run, find_run
    from saes.similarity import Stability

    earlier = None
    if not dry_run:
        earlier = find_run(out, resume=resume, force=force)  # refuse before anything is read
    judged = saes.SAE.from_pretrained(sae)
    if judged.paired:
        from interp.cli.sae.judge_pairs import judge

        if label_column or absorption or first_letters or other is not None or target:
            raise ParameterError(
                "--label-column, --absorption, --first-letters, --other and --target are not for a "
                "VL-SAE; `interp sae concepts` takes --label-column."
            )
        judge(judged, store, o.split_commas(hookpoint), out, device, batch_size, seed,
              resume=earlier is not None, force=force, dry_run=dry_run, as_json=as_json,
              finish=_finish)  # fmt: skip
        return
    points = _hookpoints(judged, o.split_commas(hookpoint), target)
    loaded, source = None, None
    if store is None:
        loaded = interp.load(
            str(model), device, dtype, revision, trust_remote_code=trust_remote_code
        )
        columns = {"text_column": text_column, "group_column": group_column}
        source = interp.read(data, label_column=label_column, **columns)
        read = [*points, *([target] if target else [])]
        work = Capture(loaded, source, read, cast(Any, pool), forward_batch_size, None, max_length)
        _check_widths(judged, work, target)
        if dry_run:
            show_plan(work, as_json)  # splicing runs the model five times more
            return
        with bar(f"capturing {source.name}") as progress:
            held = work.in_memory(progress)
        judged.to(loaded.device)
    else:
        held = interp.ActivationStore.open(store)
        judged.to(device_of(device))
    acts = _matrix(held, points)
    if dry_run:
        _show_rows(judged, acts, held[target] if target else None, as_json)
        return
    about = {k: held.manifest.get(k) for k in ("model", "data", "pool")}
    options = {
        "sae": weights_hash(judged),
        "other": other,
        **about,
        "hookpoints": points,
        "target": target,
        "labels": label_column,
        "group": group_column,
        "ks": sizes,
        "absorption": absorption,
        "first_letters": first_letters,
        "loss": loss,
        "max_length": max_length,
        "seed": seed,
    }
    # A run that is there is compared now, a new one begins with its first result: what fails leaves
    # none behind.
    started = None if earlier is None or force else Run(out, "sae eval", options, resume=True)
    name = "+".join(points)
    if started is None or started.found(saes.Evaluation, name) is None:
        with bar("evaluating") as progress:
            found = saes.evaluate(
                judged,
                acts,
                y=held[target] if target else None,
                batch_size=batch_size,
                name=name,
                progress=progress,
            )
        started = started or Run(out, "sae eval", options, force=force)
        _add(started, found, about)
    if loaded is not None and source is not None and loss:
        _loss(started, judged, loaded, source, points, target, max_length, seed, about)
    if other is not None and started.found(Stability, name) is None:
        second = saes.SAE.from_pretrained(other)
        _add(started, saes.seed_stability(judged, second, seed=seed, name=name), about)
    rows = held.rows_of(points[0]) if label_column else None
    for label in label_column or []:
        _label(
            started, judged, acts, rows, label, held, group_column, sizes, absorption, seed, about
        )
    letters_known = first_letters and started.found(saes.Absorption, LETTERS) is not None
    if first_letters and loaded is not None and not letters_known:
        letters = saes.first_letters(loaded, source, max_length)
        absorbed = saes.feature_absorption(
            judged,
            acts,
            letters["letter"].to_numpy(),
            groups=letters["token"].to_numpy(),
            seed=seed,
            batch_size=batch_size,
            name=LETTERS,
        )
        _add(started, absorbed, about)
    _finish(started, as_json)


def _hookpoints(sae: "SAE", asked: list[str], target: str | None) -> list[str]:
    """The hook points that the SAE reads: those asked for, or the one it was trained on."""
    if sae.transcodes != (target is not None):
        need = "--target is needed: this is a transcoder" if sae.transcodes else "no transcoder"
        raise ParameterError(f"{need}; --target names what a transcoder predicts.")
    trained = sae.metadata.get("hookpoint")
    if not asked and isinstance(trained, str) and not sae.transcodes:
        asked = trained.split("+")
    layers = sae.in_shape[0] if len(sae.in_shape) > 1 else 1
    if len(asked) != layers:
        raise ParameterError(
            f"--hookpoint must name what this SAE reads, {layers} hook point"
            f"{'s' * (layers != 1)}; got {', '.join(asked) or 'none'}."
        )
    return asked


def _matrix(store: "ActivationStore", points: list[str]) -> Any:
    """The rows of one hook point, or of several side by side."""
    if len(points) == 1:
        return store[points[0]]
    import torch

    return torch.stack([store[p][:] for p in points], 1)


def _check_widths(sae: "SAE", work: "Capture", target: str | None) -> None:
    """Refuse hook points of other widths than the SAE's, before all the data is captured."""
    predicted = None if target is None else work.model.resolve(target)[0].name
    for name, outline in work.outlines.items():
        width = sae.d_out if name == predicted else sae.d_in
        if outline.shape != (width,):
            raise ShapeError(
                f"this SAE is for rows of {width} numbers, and {name} of {work.model.spec} gives "
                f"{list(outline.shape)}; give another model or --hookpoint."
            )


def _show_rows(sae: "SAE", acts: Any, y: Any, as_json: bool) -> None:
    """Rows, bytes and seconds of a pass over a store, from a timed batch."""
    import time

    import saes

    rows = min(len(acts), TIMED)
    began = time.perf_counter()
    saes.evaluate(sae, acts[:rows], y=None if y is None else y[:rows], similarity=False)
    seconds = (time.perf_counter() - began) * len(acts) / rows
    size_of = math.prod(acts.shape) * acts.dtype.itemsize
    if as_json:
        emit({"rows": len(acts), "bytes": size_of, "seconds": seconds})
    else:
        typer.echo(f"{len(acts)} rows, {size(size_of)} to read, about {seconds:.0f} s")


def _add(run: "Run", result: Any, about: dict[str, Any]) -> None:
    """Save a result, which then names the model and data too."""
    from dataclasses import replace

    run.add(replace(result, provenance={**about, **result.provenance}))


def _loss(
    run: "Run",
    sae: "SAE",
    model: "Model",
    data: "Dataset",
    points: list[str],
    target: str | None,
    max_length: int | None,
    seed: int,
    about: dict[str, Any],
) -> None:
    """The loss recovered, where there is one to recover."""
    import saes

    if data.kind != "text" or len(points) > 1:
        note("no loss is recovered: that takes texts, and an SAE of one hook point.")
        return
    if run.found(saes.LossRecovered, points[0]) is not None:
        return
    try:
        with bar("splicing") as progress:
            found = saes.loss_recovered(
                model,
                sae,
                data,
                points[0],
                out_hookpoint=target,
                max_length=max_length,
                seed=seed,
                name=points[0],
                progress=progress,
            )
    except ModelError as error:
        note(f"no loss is recovered: {error}")
        return
    _add(run, found, about)


def _label(
    run: "Run",
    sae: "SAE",
    acts: Any,
    rows: "pd.DataFrame | None",
    label: str,
    store: "ActivationStore",
    group_column: str | None,
    ks: list[int],
    absorption: bool,
    seed: int,
    about: dict[str, Any],
) -> None:
    """What latents read of one label."""
    import numpy as np

    import saes
    from probes.concepts import read_concept

    assert rows is not None  # noqa: S101  they are read where there are labels
    group = group_column or (store.manifest.get("data") or {}).get("group")
    concept = read_concept(rows, label, group)
    labels = np.full(len(rows), None, dtype=object)
    labels[concept.rows] = [concept.classes[c] for c in concept.y]
    if group is None and store.manifest.get("pool") == "all":
        group = "document"  # tokens of one text must not be in training and test
    groups = None if group is None else rows[group].to_numpy()
    name = f"{(store.manifest.get('data') or {}).get('name', 'data')}.{label}"
    if run.found(saes.SparseProbing, name) is None:
        found = saes.sparse_probing(sae, acts, labels, groups=groups, ks=ks, seed=seed, name=name)
        _add(run, found, about)
    if absorption and run.found(saes.Absorption, name) is None:
        absorbed = saes.feature_absorption(sae, acts, labels, groups=groups, seed=seed, name=name)
        _add(run, absorbed, about)


def _finish(run: "Run", as_json: bool) -> None:
    """Metrics, report, and the headline numbers."""
    import dashboards
    from interp.runs import metrics

    run.finish()
    report = dashboards.Report(
        run.results, title="Evaluation of a sparse autoencoder", command=command_of([run.path])
    )
    path = report.write(run.path / "report.html")
    if as_json:
        emit(metrics(run.results))
        return
    for result in run.results:
        frame = result.to_frame().head(30).astype(object)
        frame = frame.where(frame.notna(), None)
        columns = [str(c) for c in frame.columns]
        table(f"{result.kind} {result.name}", columns, frame.to_numpy().tolist())
        typer.echo("")
    typer.echo(f"report: {path}")
