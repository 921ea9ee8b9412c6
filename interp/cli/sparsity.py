"""``interp sparsity``: how many neurons are active, layer by layer, beside random weights."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from interp.cli import options as o
from interp.cli.probe import finish
from interp.cli.shell import bar, emit, note
from interp.cli.show import show
from interp.cli.study import CHEAP, short_names
from interp.errors import ModelError, ParameterError

if TYPE_CHECKING:
    from interp.models import Model
    from interp.runs import Run


def run(
    model: o.Model,
    data: o.Data,
    hookpoints: o.Hookpoints = None,
    criterion: Annotated[
        str,
        typer.Option(help="exact (ReLU), abs_eps, rel_eps, mass or topk_ratio."),
    ] = "exact",
    level: Annotated[
        float | None,
        typer.Option(help="Of the criterion; 0.001, 0.01, 0.99 and 0.1 where there is one."),
    ] = None,
    norm: Annotated[
        str | None, typer.Option(help="max or rms for rel_eps, l1 or l2 for mass.")
    ] = None,
    gated: Annotated[
        bool, typer.Option("--gated", help="exact: the product of a ReLU gate, of either sign.")
    ] = False,
    experts: Annotated[
        bool,
        typer.Option("--experts", help="Count the experts of a mixture, each over its own tokens."),
    ] = False,
    initial: Annotated[
        bool | None,
        typer.Option(
            "--initial/--no-initial",
            help="The same with random weights; unasked where it is cheap.",
        ),
    ] = None,
    curve: Annotated[
        str | None,
        typer.Option(
            help="Also run the model at these densities, such as 0.5,0.1: what does it lose?"
        ),
    ] = None,
    method: Annotated[str, typer.Option(help="Of --curve: topk or statistical.")] = "topk",
    ddof: Annotated[int, typer.Option(help="Of the statistical method: 0 or 1.")] = 0,
    at: Annotated[
        list[str] | None,
        typer.Option(help="Hook points that --curve makes sparse; else those that are counted."),
    ] = None,
    noise: Annotated[
        float | None,
        typer.Option(help="--curve again under noise, a share of the embedding's or input's size."),
    ] = None,
    bins: Annotated[int, typer.Option(help="Of the calibration error.")] = 15,
    flow: Annotated[
        str | None,
        typer.Option(
            help="Also which hidden dimensions carry the tokens (MoHD-style), by topk, mass or rms."
        ),
    ] = None,
    flow_hookpoints: Annotated[
        list[str] | None, typer.Option(help="Where --flow reads; resid_post.* by default.")
    ] = None,
    drop_first: Annotated[
        int, typer.Option(help="Positions that --flow leaves out at the start of each text.")
    ] = 0,
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/sparsity"),
    pool: o.Pool = "all",
    batch_size: o.BatchSize = None,
    text_column: o.TextColumn = None,
    label_column: o.LabelColumn = None,
    group_column: Annotated[str | None, typer.Option(help="Column of groups.")] = None,
    max_length: o.MaxLength = None,
    seed: o.Seed = 0,
    dtype: o.Dtype = None,
    device: o.Device = "auto",
    revision: o.Revision = None,
    trust_remote_code: o.TrustRemoteCode = False,
    resume: o.Resume = False,
    force: o.Force = False,
    dry_run: o.DryRun = False,
    as_json: o.Json = False,
    config: o.Config = None,
) -> None:
    """Count active neurons over every token, in one pass that keeps nothing, and write a report."""
    import interp
    import probes
    from interp.capturing import Capture
    from interp.experts import Experts
    from interp.runs import Run, find_run, metrics
    from probes.criteria import Criterion

    rule = Criterion(criterion, level, norm, gated)
    wanted = o.split_commas(hookpoints) or ["mlp_act.*"]
    thin = _thinning(curve, method, ddof, o.split_commas(at) or wanted, noise, bins)
    way = _way(flow, o.split_commas(flow_hookpoints) or ["resid_post.*"], drop_first)
    if not dry_run:
        find_run(out, resume=resume, force=force)  # refuse before anything is read
    loaded = interp.load(model, device, dtype, revision, trust_remote_code=trust_remote_code)
    source = interp.read(
        data, text_column=text_column, label_column=label_column, group_column=group_column
    )
    for line in source.notes:
        note(f"{source.name}: {line}")
    work: Any
    if experts:
        work = Experts(loaded, source, batch_size, max_length)
    else:
        work = Capture(loaded, source, wanted, cast(Any, pool), batch_size, None, max_length)
    for part in (thin, way):  # a wrong name is told before anything is counted
        if part is not None:
            loaded.resolve(part["hookpoints"])
    if dry_run:
        _plan(work, as_json)
        return
    options: dict[str, Any] = {
        "model": {k: v for k, v in loaded.identity().items() if k != "spec"},
        "data": source.hash,
        "hookpoints": [[p.name, p.place] for p in work.points],
        "pool": work.pool,
        "max_length": max_length,
        "criterion": str(rule),
        "initial": initial,
        "seed": seed,
        "curve": thin,
        "flow": way,
    }
    how = {"batch_size": batch_size, "max_length": max_length, "seed": seed}
    steps: list[Step] = [(probes.Sparsity, lambda: count(work, rule, initial, seed))]
    if thin is not None:
        steps.append((probes.DensityCurve, lambda: _curve(loaded, source, **thin, **how)))
    if way is not None:
        steps.append((probes.Flow, lambda: _flow(loaded, source, **way, **how)))
    started = take(steps, lambda: Run(out, "sparsity", options, resume=resume, force=force),
                   source.name, resume=resume and out.exists())  # fmt: skip
    path = finish(started, f"How sparse {short_names([loaded.spec])[0]} is")
    if as_json:
        emit(metrics(started.results))
    else:
        show(started.results)
        typer.echo(f"\nreport: {path}")


Step = tuple[Any, Callable[[], Any]]


def take(steps: list[Step], start: "Callable[[], Run]", name: str, *, resume: bool) -> "Run":
    """Add what the steps find to a run, which is made with its first result or resumed.

    So a run that fails at once leaves nothing behind.
    """
    run = start() if resume else None
    for kind, find in steps:
        if run is not None and run.found(kind, name) is not None:
            note(f"{name}: {kind.__name__} found in {run.path}")
            continue
        found = find()
        run = run or start()
        run.add(found)
    assert run is not None  # noqa: S101  there is at least one step
    return run


def _thinning(
    curve: str | None, method: str, ddof: int, points: list[str], noise: float | None, bins: int
) -> dict[str, Any] | None:
    """What --curve asks for, refused before anything is read; None where it is not asked."""
    from probes.thinning import check_thinning

    if curve is None:
        return None
    try:
        densities = [float(part) for part in curve.split(",")]
    except ValueError:
        raise ParameterError(f"--curve takes numbers such as 0.5,0.1; got {curve!r}.") from None
    check_thinning(densities, method, ddof, noise, bins)
    return {"densities": densities, "method": method, "ddof": ddof, "hookpoints": points,
            "noise": noise, "bins": bins}  # fmt: skip


def _way(flow: str | None, points: list[str], drop_first: int) -> dict[str, Any] | None:
    """What --flow asks for, refused before anything is read; None where it is not asked."""
    from probes.flow import RULES

    if flow is None:
        return None
    if flow not in RULES or drop_first < 0:
        raise ParameterError(
            f"--flow is one of {', '.join(RULES)} and --drop-first at least 0; got {flow!r} and "
            f"{drop_first}."
        )
    return {"rule": flow, "hookpoints": points, "drop_first": drop_first}


def _curve(model: "Model", data: Any, **options: Any) -> Any:
    """What the model loses where its activations are made sparser."""
    import probes

    with bar(f"making {data.name} sparser") as progress:
        found = probes.density_curve(model, data, progress=progress, **options)
    return signed(found, model)


def _flow(
    model: "Model",
    data: Any,
    *,
    hookpoints: list[str],
    batch_size: int | None,
    max_length: int | None,
    **options: Any,
) -> Any:
    """Which hidden dimensions carry the tokens; the activations are on disk meanwhile."""
    import probes
    from interp.capturing import Capture

    work = Capture(model, data, hookpoints, "all", batch_size, None, max_length)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "acts"
        with bar(f"capturing {data.name} for its flow") as progress:
            store = work.on_disk(path, resume=False, force=False, progress=progress)
        with bar(f"following the dimensions of {data.name}") as progress:
            found = probes.hidden_flow(store, name=data.name, progress=progress, **options)
    return signed(found, model)


def count(work: Any, rule: Any, initial: bool | None, seed: int) -> Any:
    """The sparsity of a capture's hook points, beside that of random weights."""
    import probes

    name = work.data.name
    given = {"level": rule.level, "norm": rule.norm, "gated": rule.gated, "name": name}
    with bar(f"counting active neurons on {name}") as progress:
        found = probes.sparsity(work, rule.kind, progress=progress, **given)
    fresh = _fresh(work, initial, seed)
    if fresh is not None:
        with bar(f"counting active neurons on {name}, random weights") as progress:
            found = found.beside(probes.sparsity(fresh, rule.kind, progress=progress, **given))
    return signed(found, work.model)


def signed(result: Any, model: "Model") -> Any:
    """The result with the short name under which the report groups its model."""
    about = {**result.provenance.get("model", {}), "short": short_names([model.spec])[0]}
    return replace(result, provenance={**result.provenance, "model": about})


def _plan(work: Any, as_json: bool) -> None:
    """Print what a count would cost; it stores nothing."""
    timed = work
    if not hasattr(work, "plan"):  # experts: a forward costs what it costs with any hook point
        from interp.capturing import Capture

        last = "resid_post.-1" if work.model.points.stacks else work.points[0].place.split(" ")[0]
        timed = Capture(work.model, work.data, last, "all", work.batch_size)
    plan = {**vars(timed.plan()), "bytes": 0, "shards": 0, "hookpoints": len(work.points)}
    del plan["peak_bytes"]  # that of a capture into a store
    if as_json:
        emit(plan)
        return
    typer.echo(
        f"{work.data.name}: {plan['rows']} rows, {plan['tokens']} positions, "
        f"{len(work.points)} hook points: nothing is stored, about {plan['seconds']:.0f} s"
    )


def _fresh(work: Any, initial: bool | None, seed: int) -> Any:
    """The same capture with random weights, or None and why."""
    if initial is False:
        return None
    from interp.capturing import Capture
    from interp.experts import Experts

    size = sum(p.numel() for p in work.model.module.parameters())
    positions = sum(work.feed.lengths)
    if initial is None and size * positions > CHEAP:
        note(f"{work.data.name}: no random weights, for their cost; ask: --initial")
        return None
    try:
        model = work.model.reinitialised(seed)
    except ModelError as error:
        if initial:
            raise
        note(f"{work.data.name}: no random weights: {error}")
        return None
    if isinstance(work, Experts):
        return Experts(model, work.data, work.batch_size, work.feed.max_length)
    names = [p.name for p in work.points]
    return Capture(model, work.data, names, work.pool, work.batch_size, None, work.feed.max_length)
