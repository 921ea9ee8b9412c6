"""``interp probe``: at which depth does a model know a concept? Capture, probe, report."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.cli import options as o
from interp.cli.capture import show_plan
from interp.cli.shell import bar, emit, note, table

if TYPE_CHECKING:
    from interp.capturing import Capture
    from interp.data import Dataset
    from interp.models import Model
    from interp.runs import Run
    from interp.store import ActivationStore


def run(
    model: o.Model,
    data: o.ManyData,
    hookpoints: o.Hookpoints = None,
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/probe"),
    pool: o.Pool = "last",
    batch_size: o.BatchSize = None,
    text_column: o.TextColumn = None,
    label_column: o.LabelColumn = None,
    group_column: o.GroupColumn = None,
    folds: Annotated[int, typer.Option(help="Of the cross-validation.")] = 5,
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
    """Concept depth: probe every layer for every label of the data, and write a report.

    By default the hook points are embed and resid_post.*: the residual stream of every block.
    """
    import interp
    from interp.runs import Run, find_run

    if not dry_run:
        find_run(out, resume=resume, force=force)  # refuse before the model is loaded
    sets = _read_all(data, text_column, label_column, group_column)
    loaded = interp.load(model, device, dtype, revision, trust_remote_code=trust_remote_code)
    wanted = o.split_commas(hookpoints) or ["embed", "resid_post.*"]
    works = [_work(loaded, d, wanted, pool, batch_size, max_length) for d in sets]
    for work in works:
        for line in work.data.notes:
            note(f"{work.data.name}: {line}")
    if dry_run:
        for work in works:
            show_plan(work, as_json)
        return
    options = {
        "model": loaded.identity(),
        "data": [[d.name, d.hash, list(d.labels), d.group] for d in sets],
        "hookpoints": [p.name for p in works[0].points],
        "pool": pool,
        "batch_size": batch_size,
        "folds": folds,
        "seed": seed,
        "max_length": max_length,
    }
    started = Run(out, "probe", options, resume=resume, force=force)
    for work in works:
        with bar(f"capturing {work.data.name}") as progress:
            store = work.on_disk(
                out / "acts" / work.data.name, resume=True, force=False, progress=progress
            )
        probe(started, store, work.data, folds, seed)
    path = finish(started, f"Concept depth of {model}")
    if as_json:
        from interp.runs import metrics

        emit(metrics(started.results))
    else:
        show(started.results)
        typer.echo(f"\nreport: {path}")


def probe(run: "Run", store: "ActivationStore", data: "Dataset", folds: int, seed: int) -> None:
    """Concept depth of every label of a data set, saved as it comes."""
    import probes

    for label in data.labels:
        name = probes.concept_name(data.name, label)
        if run.found(probes.ConceptDepth, name) is not None:
            note(f"{name}: found in {run.path}")
            continue
        with bar(f"probing {name}") as progress:
            run.add(
                probes.concept_depth(
                    store, label, data.group, folds=folds, seed=seed, progress=progress
                )
            )


def finish(run: "Run", title: str) -> Path:
    """Write the metrics, the manifest and the report."""
    import dashboards

    run.finish()
    return dashboards.Report(run.results, title=title).write(run.path / "report.html")


def show(results: Any) -> None:
    """The headline numbers as a table on stdout."""
    columns = ["concept", "n", "peak", "at", "majority", "bag of words", "jump", "converges"]
    rows = [
        [
            r.name,
            r.n,
            r.peak,
            r.peak_hookpoint,
            r.majority,
            r.bag_of_words,
            r.jump_point,
            r.converging_point,
        ]
        for r in results
    ]
    table("", columns, rows)


def _read_all(
    specs: list[str],
    text_column: str | None,
    label_column: list[str] | None,
    group_column: list[str] | None,
) -> "list[Dataset]":
    """The data sets, each under a name of its own."""
    sets: list[Dataset] = []
    for spec in specs:
        data = _read(spec, text_column, label_column, group_column)
        same = sum(d.name.split("~")[0] == data.name for d in sets)
        sets.append(replace(data, name=f"{data.name}~{same + 1}") if same else data)
    return sets


def _read(
    spec: str,
    text_column: str | None,
    label_column: list[str] | None,
    group_column: list[str] | None,
) -> "Dataset":
    from interp.data import read
    from interp.errors import DataError

    data = read(spec)
    labels = o.column_for(label_column, data.name)
    groups = o.column_for(group_column, data.name)
    if text_column or labels or groups:
        data = read(
            spec,
            text_column=text_column,
            label_column=labels or None,
            group_column=groups[-1] if groups else None,
        )
    if not data.labels:
        raise DataError(
            f"{data.name} has no label column; name one with --label-column among "
            f"{', '.join(map(str, data.rows.columns)) or 'none'}."
        )
    return data


def _work(
    model: "Model",
    data: "Dataset",
    hookpoints: list[str],
    pool: Any,
    batch_size: int | None,
    max_length: int | None,
) -> "Capture":
    from interp.capturing import Capture

    return Capture(model, data, hookpoints, pool, batch_size, None, max_length)
