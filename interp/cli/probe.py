"""``interp probe``: at which depth does a model know a concept? Capture, probe, report."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.cli import options as o
from interp.cli.capture import show_plan
from interp.cli.directions import check_asked, check_model, read_answers, steered_labels
from interp.cli.report import command_of
from interp.cli.shell import emit, say_notes
from interp.cli.show import show
from interp.cli.study import HOOKPOINTS, MODES, Settings, Study, prompted, short_names
from interp.errors import ParameterError

if TYPE_CHECKING:
    from interp.capturing import Capture
    from interp.data import Dataset
    from interp.models import Model
    from interp.runs import Run


def run(
    model: o.Model,
    data: o.ManyData,
    hookpoints: o.Hookpoints = None,
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/probe"),
    mode: Annotated[
        str, typer.Option(help="recommended, paper or released_code (Concept Depth's recipe).")
    ] = "recommended",
    probe: Annotated[
        str,
        typer.Option(
            help="logistic, ridge, difference_of_means, lda, nearest_centroid or random_forest."
        ),
    ] = "logistic",
    prompt: Annotated[str | None, typer.Option(help="Words around every text.")] = None,
    prompt_layout: Annotated[
        str | None, typer.Option(help="after or before the text; else as the task has it.")
    ] = None,
    positive: Annotated[
        str | None, typer.Option(help="The class that counts as 1 of two; else the last.")
    ] = None,
    random_model: Annotated[
        bool | None,
        typer.Option(
            "--random-model/--no-random-model",
            help="The control of a model with random weights; by default where it is cheap.",
        ),
    ] = None,
    compare: Annotated[
        list[str] | None, typer.Option(help="Another model for the same report, repeatable.")
    ] = None,
    perturb: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND[=STRENGTH]",
            help="prefix, swap=0.05, drop=0.1, gaussian=0.1, bfloat16, int8, int4 or all; "
            "repeatable.",
        ),
    ] = None,
    lens: Annotated[
        bool,
        typer.Option(
            "--lens", help="Name the tokens that each concept's direction raises, lowers."
        ),
    ] = False,
    steer: Annotated[
        bool,
        typer.Option("--steer", help="Add each direction and see whether the answer flips."),
    ] = False,
    answer: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CLASS=WORD",
            help="For --steer: a single token that answers a class, of every concept that has it; "
            "repeatable. A space before the word counts. Else the class's name.",
        ),
    ] = None,
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
    remote: o.Remote = False,
    revision: o.Revision = None,
    trust_remote_code: o.TrustRemoteCode = False,
    resume: o.Resume = False,
    force: o.Force = False,
    dry_run: o.DryRun = False,
    as_json: o.Json = False,
    config: o.Config = None,
) -> None:
    """Concept depth: probe every layer for every label of the data, and write a report.

    By default the hook points are embed and resid_post.*: the residual stream of every block. The
    modes paper and released_code read mlp_in.*, the norm before each MLP, with a prompt.
    """
    import interp
    from interp.runs import Run, find_run

    _check(mode, probe)
    if not dry_run:
        find_run(out, resume=resume, force=force)  # refuse before the model is loaded
    sets = _read_all(data, text_column, label_column, group_column)
    for one in sets:
        _check_labels(one, mode, folds, pool, positive)
    kinds = _perturbations(perturb, sets, pool)
    answers = read_answers(answer, sets if steer and pool != "all" else ())
    asked = [flag for flag, given in (("--lens", lens), ("--steer", steer)) if given]
    check_asked(asked, answers, probe, pool, sets)
    sets, prompts = prompted(sets, mode, prompt, prompt_layout)
    specs = [model, *(compare or [])]
    wanted = o.split_commas(hookpoints) or HOOKPOINTS[mode]
    loaded: list[Model] = []
    for spec in specs:
        own = revision if spec == model else None
        found = interp.load(
            spec, device, dtype, own, trust_remote_code=trust_remote_code, remote=remote
        )
        if not hookpoints and not found.points.stacks:
            raise ParameterError(
                f"--hookpoints is needed: {spec} has no stack of blocks, so there is no residual "
                f"stream; `interp hookpoints {spec}` lists what it has, and feature maps take "
                "--pool mean."
            )
        check_model(asked, found, wanted)
        loaded.append(found)
    steered = steered_labels(loaded, sets, answers) if steer else [[()] * len(sets)] * len(specs)
    works = [[_work(m, d, wanted, pool, batch_size, max_length) for d in sets] for m in loaded]
    for d in sets:
        say_notes(d)
    if dry_run:
        plans = [w for row in works for w in row]
        if as_json:
            emit([{"model": w.model.spec, "data": w.data.name, **vars(w.plan())} for w in plans])
        else:
            for work in plans:
                show_plan(work, as_json)
        return
    settings = Settings(
        mode=mode,
        probe=probe,
        folds=folds,
        seed=seed,
        positive=positive,
        pool=pool,
        batch_size=batch_size,
        max_length=max_length,
        random_model=random_model,
        perturb=kinds,
        prompts=prompts,
        lens=lens,
        answers=answers,
    )
    options = {
        "model": loaded[0].identity(),
        "compare": [m.identity() for m in loaded[1:]],
        "data": [[d.name, d.hash, list(d.labels), d.group] for d in sets],
        "hookpoints": [[p.name for p in row[0].points] for row in works],
        "mode": mode,
        "probe": probe,
        "positive": positive,
        "random_model": random_model,
        "perturb": list(kinds),
        "lens": lens,
        "steer": steer,
        "answers": answers,
        "pool": pool,
        "batch_size": batch_size,
        "folds": folds,
        "seed": seed,
        "max_length": max_length,
    }
    started = Run(out, "probe", options, resume=resume, force=force)
    names = short_names(specs)
    for short, one, row, chosen in zip(names, loaded, works, steered, strict=True):
        for work, labels in zip(row, chosen, strict=True):
            study = Study(started, one, work, short if len(specs) > 1 else None, settings)
            study.depths()
            study.lenses()
            study.steer(labels)
            study.perturbations()
    path = finish(started, f"Concept depth of {' and '.join(names)}")
    if as_json:
        from interp.runs import metrics

        emit(metrics(started.results))
    else:
        show(started.results)
        typer.echo(f"\nreport: {path}")


def _check(mode: str, probe: str) -> None:
    """Refuse a recipe that is none, before anything is read."""
    if mode not in MODES:
        raise ParameterError(f"--mode must be one of {', '.join(MODES)}; got {mode!r}.")
    from probes.plan import PROBES

    known = PROBES if mode == "recommended" else ("logistic", "random_forest")
    if probe not in known:
        raise ParameterError(
            f"--probe must be one of {', '.join(known)} in the mode {mode}; got {probe!r}."
        )


def _perturbations(values: list[str] | None, sets: "list[Dataset]", pool: str) -> tuple[str, ...]:
    """What was asked for, checked against the data before a model is loaded."""
    kinds = tuple(o.split_commas(values))
    if kinds:
        from probes.perturb import choose_perturbations

        for data in sets:
            choose_perturbations(kinds, data, pool)
    return kinds


def finish(run: "Run", title: str) -> Path:
    """Write the metrics, the manifest and the report."""
    import dashboards

    run.finish()
    report = dashboards.Report(run.results, title=title, command=command_of([run.path]))
    return report.write(run.path / "report.html")


def _read_all(
    specs: list[str],
    text_column: str | None,
    label_column: list[str] | None,
    group_column: list[str] | None,
) -> "list[Dataset]":
    """The data sets, each under a name of its own."""
    from interp.data import name_of

    known = [name_of(spec) for spec in specs]
    for value in [*(label_column or []), *(group_column or [])]:
        name, equals, _ = value.partition("=")
        if equals and name not in known:
            raise ParameterError(
                f"{value!r} names the data set {name!r}; this run has {', '.join(known)}."
            )
    sets: list[Dataset] = []
    for spec, name in zip(specs, known, strict=True):
        own, taken = name, {d.name for d in sets}
        while own in taken:
            own = f"{name}~{int(own.rpartition('~')[2]) + 1 if '~' in own[len(name) :] else 2}"
        labels, groups = o.column_for(label_column, name), o.column_for(group_column, name)
        sets.append(_read(spec, own, text_column, labels, groups))
    return sets


def _read(
    spec: str, name: str, text_column: str | None, labels: list[str], groups: list[str]
) -> "Dataset":
    from interp.data import read
    from interp.errors import DataError

    data = read(
        spec,
        name=name,
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


def _check_labels(data: "Dataset", mode: str, folds: int, pool: str, positive: str | None) -> None:
    """Refuse labels and folds that cannot be probed, before the model runs over the data."""
    if pool == "all":
        return  # rows are tokens, which only the capture knows
    from interp.errors import InterpError
    from probes.concepts import read_concept
    from probes.plan import turned
    from probes.splits import grouped_folds

    if folds == 2:
        raise ParameterError("--folds must be at least 3: the strength is chosen inside them.")
    for label in data.labels:
        try:
            concept = turned(read_concept(data.rows, label, data.group), positive)
            if mode == "recommended":
                named = [concept.classes[i] for i in concept.y]
                grouped_folds(named, concept.groups, folds=folds, seed=0)
        except InterpError as error:
            raise type(error)(f"{data.name}.{label}: {error}") from error


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
