"""``interp diff``: what changed from one run to another, and whether it may."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.cli import options as o
from interp.cli.shell import bar, emit, note
from interp.cli.show import show
from interp.errors import InterpError, StoreError

if TYPE_CHECKING:
    from interp.results import Result

GATE = 3
"""Exit code where a --fail-if holds."""


def run(
    first: Annotated[Path, typer.Argument(metavar="RUN_A", help="Run folder: what there was.")],
    second: Annotated[Path, typer.Argument(metavar="RUN_B", help="Run folder: what there is now.")],
    fail_if: Annotated[
        list[str] | None,
        typer.Option(
            help="End with exit code 3 where this holds, such as 'aqi.delta < -0.1' or "
            "'depth.peak_shift < -0.05'; repeatable."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder of the comparison, with its report.")
    ] = None,
    seed: o.Seed = 0,
    resume: o.Resume = False,
    force: o.Force = False,
    as_json: o.Json = False,
    config: o.Config = None,
) -> None:
    """Compare two runs on the same data: another model, checkpoint, seed or setting.

    Depth curves with a paired interval, sparsity, AQI, latents matched one to one, and every
    option and number that differs.
    """
    from interp.gates import Gate, holding

    gates = [Gate.parse(text) for text in fail_if or ()]  # before anything is computed
    results = list(_differences(first, second, seed))
    failed = holding(gates, results)
    if out is not None:
        _write(out, results, first, second, seed, resume=resume, force=force)
    if as_json:
        from interp.runs import metrics

        emit({**metrics(results), "fail_if": failed})
    else:
        show(results)
    for text, places in failed.items():
        more = f" and {len(places) - 3} more" if len(places) > 3 else ""
        typer.echo(f"interp: {text} holds: {'; '.join(places[:3])}{more}.", err=True)
    if failed:
        raise typer.Exit(GATE)


def _differences(first: Path, second: Path, seed: int) -> Iterator["Result"]:
    """Every comparison that two runs allow, and then what else differs."""
    import probes
    from interp.changes import changes
    from interp.runs import read_results

    for folder in (first, second):
        if not folder.is_dir():
            raise StoreError(f"{folder} is no run folder; give what --out named.")
    models = _names(first, second)
    found = [{(r.kind, r.name): r for r in _results(read_results, f)} for f in (first, second)]
    coders = _coders(first).keys() & _coders(second).keys()
    shared = [key for key in found[0] if key in found[1]]
    if not shared and not coders:
        held = [", ".join(sorted({k for k, _ in f})) or "no results" for f in found]
        raise StoreError(
            f"{first} and {second} have no result in common: the first holds {held[0]}, the second "
            f"{held[1]}; compare two runs of one command on the same data."
        )
    compare: dict[str, Any] = {
        "concept_depth": lambda a, b: probes.depth_difference(a, b, models=models, seed=seed),
        "sparsity": lambda a, b: probes.sparsity_difference(a, b, models=models),
        "aqi_by_layer": lambda a, b: _delta_aqi(first, second, a, models, seed),
    }
    left: dict[str, str] = {
        f"{kind} {name}": f"only in {models[i]}"
        for i in (0, 1)
        for kind, name in found[i]
        if (kind, name) not in found[1 - i]
    }
    for key in shared:
        kind, name = key
        a, b = (f[key] for f in found)
        hashes = [(r.provenance.get("data") or {}).get("hash") for r in (a, b)]
        if all(hashes) and hashes[0] != hashes[1]:
            left[f"{kind} {name}"] = "the two runs read other data."
        elif kind in compare:
            try:
                yield compare[kind](a, b)
            except InterpError as error:
                left[f"{kind} {name}"] = str(error)
    for name in sorted(coders):
        try:
            yield _latents(_coders(first)[name], _coders(second)[name], name, models, seed)
        except InterpError as error:
            left[f"latents of {name}"] = str(error)
    for name, why in left.items():
        note(f"{name} is not compared: {why}")
    yield changes(first, second, models=models, not_compared=left)


def _results(read_results: Any, folder: Path) -> list["Result"]:
    if not (folder / "results").is_dir() and _coders(folder):
        return []
    return read_results(folder)


def _names(first: Path, second: Path) -> tuple[str, str]:
    """What the runs are called: their folders, with as much of the path as tells them apart."""
    one, two = first.resolve().parts, second.resolve().parts
    for i in range(1, max(len(one), len(two)) + 1):
        if one[-i:] != two[-i:]:
            return "/".join(one[-i:]), "/".join(two[-i:])
    raise StoreError(f"{first} and {second} are one folder; give two runs.")


def _coders(folder: Path) -> dict[str, Path]:
    """The autoencoders of a run by their path below it."""
    root = folder / "sae"
    places = sorted(root.rglob("config.json")) if root.is_dir() else []
    return {str(p.parent.relative_to(folder)): p.parent for p in places}


def _latents(first: Path, second: Path, name: str, models: tuple[str, str], seed: int) -> "Result":
    """The latents of two coders of one hook point, matched."""
    from dataclasses import replace

    import saes
    from interp.errors import DataError

    one, two = saes.SAE.from_pretrained(first), saes.SAE.from_pretrained(second)
    points = [sae.metadata.get("hookpoint") for sae in (one, two)]
    if points[0] != points[1]:
        raise DataError(f"the coders read {points[0]} and {points[1]}, which are other spaces.")
    with bar(f"matching latents of {name}"):
        found = saes.match_latents(one, two, models=models, seed=seed, name=name)
    prints = [(sae.metadata.get("model") or {}).get("fingerprint") for sae in (one, two)]
    if prints[0] != prints[1]:
        more = (
            "The coders read two models; their directions have common axes only where one model "
            "was trained from the other."
        )
        found = replace(found, notes=(*found.notes, more))
    return found


def _delta_aqi(
    first: Path, second: Path, result: Any, models: tuple[str, str], seed: int
) -> "Result":
    """Delta-AQI from the activations that both runs keep."""
    import probes
    from interp.runs import parse_json
    from interp.store import ActivationStore

    stores = [f / "acts" / result.provenance["data"]["name"] for f in (first, second)]
    for store in stores:
        if not store.is_dir():
            raise StoreError(
                f"delta-AQI needs the activations of both runs, and {store} is gone; run interp "
                "aqi again."
            )
    options = parse_json((first / "config.json").read_text(encoding="utf-8"))
    data = options.get("data")
    groups = data[3] if isinstance(data, list) and len(data) > 3 else None
    with bar(f"delta-AQI of {result.name}") as progress:
        return probes.delta_aqi_by_layer(
            ActivationStore.open(stores[0]), ActivationStore.open(stores[1]), result.label,
            safe=options.get("safe"), groups=groups, seed=seed, models=models, progress=progress,
        )  # fmt: skip


def _write(
    out: Path, results: list["Result"], first: Path, second: Path, seed: int, **how: bool
) -> None:
    """A run folder of the comparison."""
    import dashboards
    from interp.runs import Run

    options = {"first": str(first), "second": str(second), "seed": seed}
    work = Run(out, "diff", options, **how)
    for result in results:
        work.add(result)
    work.finish()
    title = "What changed from {} to {}".format(*_names(first, second))
    path = dashboards.Report(results, title=title).write(out / "report.html")
    note(f"report: {path}")
