"""``interp sparsity``: how many neurons are active, layer by layer, beside random weights."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.cli import options as o
from interp.cli.capture import show_plan
from interp.cli.probe import finish
from interp.cli.shell import bar, emit, note
from interp.cli.show import show
from interp.cli.study import CHEAP, short_names
from interp.errors import ModelError, ParameterError

if TYPE_CHECKING:
    from interp.capturing import Capture
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
    batch_size: o.BatchSize = None,
    text_column: o.TextColumn = None,
    label_column: o.LabelColumn = None,
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
    from interp.runs import Run, find_run, metrics
    from probes.criteria import Criterion

    rule = Criterion(criterion, level, norm, gated)
    densities = _numbers(curve, "--curve")
    if not dry_run:
        find_run(out, resume=resume, force=force)  # refuse before anything is read
    loaded = interp.load(model, device, dtype, revision, trust_remote_code=trust_remote_code)
    source = interp.read(data, text_column=text_column, label_column=label_column)
    for line in source.notes:
        note(f"{source.name}: {line}")
    wanted = o.split_commas(hookpoints) or ["mlp_act.*"]
    work = Capture(loaded, source, wanted, "all", batch_size, None, max_length)
    if dry_run:
        show_plan(work, as_json)
        return
    key = work.key()
    options = {
        **key,
        "dtype": [str(d) for d in key["dtype"]],
        "criterion": str(rule),
        "initial": initial,
        "seed": seed,
    }
    steps: list[Step] = [(probes.Sparsity, lambda: count(work, rule, initial, seed))]
    if densities is not None:
        options["curve"] = {"densities": densities, "method": method, "ddof": ddof, "noise": noise,
                            "bins": bins, "hookpoints": o.split_commas(at)}  # fmt: skip
        given = {
            **options["curve"],
            "hookpoints": o.split_commas(at) or [p.name for p in work.points],
        }
        more = {"batch_size": batch_size, "max_length": max_length, "seed": seed}
        steps.append((probes.DensityCurve, lambda: _curve(work, **given, **more)))
    if flow is not None:
        way: dict[str, Any] = {"rule": flow, "drop_first": drop_first}
        where = o.split_commas(flow_hookpoints) or ["resid_post.*"]
        options["flow"] = {**way, "hookpoints": where}
        steps.append(
            (
                probes.Flow,
                lambda: _flow(loaded, source, where, batch_size, max_length, seed=seed, **way),
            )
        )
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


def _flow(
    model: "Model", data: Any, points: list[str], batch_size: Any, max_length: Any, **options: Any
) -> Any:
    """Which hidden dimensions carry the tokens; the activations are on disk meanwhile."""
    import probes
    from interp.capturing import Capture

    work = Capture(model, data, points, "all", batch_size, None, max_length)
    with TemporaryDirectory() as folder:
        with bar(f"capturing {data.name} for its flow") as progress:
            store = work.on_disk(
                Path(folder) / "acts", resume=False, force=False, progress=progress
            )
        with bar(f"following the dimensions of {data.name}") as progress:
            found = probes.hidden_flow(store, name=data.name, progress=progress, **options)
    return signed(found, model)


def _curve(work: "Capture", **options: Any) -> Any:
    """What the model loses where its activations are made sparser."""
    import probes

    with bar(f"making {work.data.name} sparser") as progress:
        found = probes.density_curve(work.model, work.data, progress=progress, **options)
    return signed(found, work.model)


def _numbers(text: str | None, option: str) -> list[float] | None:
    """A comma list of numbers, or None where there is none."""
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ParameterError(f"{option} takes numbers such as 0.5,0.1; got {text!r}.") from None


def count(work: "Capture", rule: Any, initial: bool | None, seed: int) -> Any:
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


def _fresh(work: "Capture", initial: bool | None, seed: int) -> "Capture | None":
    """The same capture with random weights, or None and why."""
    if initial is False:
        return None
    from interp.capturing import Capture

    size = sum(p.numel() for p in work.model.module.parameters())
    positions = max(sum(lengths) for lengths in work.lengths.values())
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
    names = [p.name for p in work.points]
    return Capture(model, work.data, names, work.pool, work.batch_size, None, work.feed.max_length)
