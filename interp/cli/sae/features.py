"""``interp sae features``: what the latents of an SAE fire for and what they do, and the report."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.cli import options as o
from interp.cli.capture import size
from interp.cli.report import command_of
from interp.cli.sae.inputs import site, weights_hash, whole_numbers
from interp.cli.shell import bar, emit, note, say_notes
from interp.cli.show import show
from interp.errors import ParameterError

if TYPE_CHECKING:
    from interp.data import Dataset
    from interp.models import Model
    from interp.runs import Run
    from interp.store import ActivationStore
    from probes.curves import ConceptDepth
    from saes import SAE

NEURONS = "neurons"
"""What stands in the place of an SAE to read neurons."""
TIMED = 16
"""Texts that a dry run ablates on."""


def run(
    sae: Annotated[
        str,
        typer.Argument(
            metavar="SAE",
            help="Folder or hub id of a saved SAE; or neurons, with -p such as mlp_act.3.",
        ),
    ],
    model: o.Model,
    data: o.Data,
    hookpoint: Annotated[
        str | None,
        typer.Option("--hookpoint", "-p", help="Where the SAE reads; else what it was trained on."),
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option(help="Read activations from this store (pool all) of MODEL and DATA."),
    ] = None,
    latents: Annotated[
        str | None, typer.Option(help="Only these, such as 3,17,40; else all.")
    ] = None,
    probes: Annotated[
        list[Path] | None,
        typer.Option(help="Run folder of `interp probe` to align with; repeatable."),
    ] = None,
    ablate: Annotated[
        str | None,
        typer.Option(help="Also take these latents out, such as 3,17, and measure the effect."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/features"),
    top: Annotated[int, typer.Option(help="Top examples of a latent.")] = 10,
    context: Annotated[int, typer.Option(help="Tokens on either side of an example.")] = 10,
    layout: Annotated[
        str, typer.Option("--map", help="Of the decoder directions: umap, pca, or none.")
    ] = "umap",
    neuronpedia: Annotated[
        str | None,
        typer.Option(help="Also write the features as Neuronpedia reads them, as a set so named."),
    ] = None,
    batch_size: o.BatchSize = None,
    text_column: o.TextColumn = None,
    max_length: o.MaxLength = None,
    seed: o.Seed = 0,
    device: o.Device = "auto",
    dtype: o.Dtype = None,
    revision: o.Revision = None,
    trust_remote_code: o.TrustRemoteCode = False,
    resume: o.Resume = False,
    force: o.Force = False,
    dry_run: o.DryRun = False,
    as_json: o.Json = False,
    config: o.Config = None,
) -> None:
    """Find what each latent fires for, in one pass over the data, and write a searchable report.

    With --resume the results that the run in --out holds are kept, and only what is missing is
    computed; a pass that was cut short holds nothing and starts over.
    """
    import interp
    import saes
    from interp.runs import Run, find_run
    from saes.directions import LAYOUTS
    from saes.neurons import neurons_of

    earlier = None
    if not dry_run:
        earlier = find_run(out, resume=resume, force=force)  # refuse before anything is read
    if layout not in (*LAYOUTS, "none"):
        raise ParameterError(f"--map must be one of {', '.join(LAYOUTS)}, none; got {layout!r}.")
    only = None if latents is None else whole_numbers(latents, "--latents")
    removed = None if ablate is None else whole_numbers(ablate, "--ablate")
    coder = None if sae == NEURONS else saes.SAE.from_pretrained(sae)
    if coder is None and (hookpoint is None or removed):
        raise ParameterError(
            "neurons are read where --hookpoint says, and --ablate takes an SAE's."
        )
    loaded = interp.load(model, device, dtype, revision, trust_remote_code=trust_remote_code)
    if coder is None:
        coder = neurons_of(loaded, str(hookpoint))
    place = hookpoint or site(coder)
    coder.to(loaded.device)
    texts = interp.read(data, text_column=text_column)
    held = None if store is None else interp.ActivationStore.open(store)
    place = place if held is not None else _one(loaded, place)
    say_notes(texts)
    reading: dict[str, Any] = {
        "latents": only,
        "top": top,
        "context": context,
        "model": None if held is None else loaded,
        "batch_size": batch_size,
        "max_length": max_length,
        "seed": seed,
    }
    if dry_run:
        _show_plan(coder, loaded, held, texts, place, reading, removed, as_json)
        return
    options = {
        "sae": weights_hash(coder),
        "model": loaded.identity(),
        "data": [texts.name, texts.hash],
        "hookpoint": place,
        "store": held and {k: held.manifest.get(k) for k in ("model", "data", "pool")},
        "latents": only,
        "probes": [str(p) for p in probes or []],
        "ablate": removed,
        "top": top,
        "context": context,
        "map": layout,
        "max_length": max_length,
        "seed": seed,
    }
    # A run that is there is compared before the work, a new one begins after it: what fails leaves
    # none behind.
    work = None if earlier is None or force else Run(out, "sae features", options, resume=True)
    name = f"{texts.name}.{place}"
    found = work and work.found(saes.Features, name)
    if resume:
        _say_resumed(out, work, found)
    if found is None:
        with bar(f"reading {texts.name}") as progress:
            found = saes.features(
                coder,
                loaded if held is None else held,
                texts,
                place,
                probes=_depths(probes or []),
                layout=None if layout == "none" else layout,
                name=name,
                progress=progress,
                **reading,
            )
        work = work or Run(out, "sae features", options, force=force)
        work.add(found)
    assert work is not None  # noqa: S101  what was found came from it
    if removed and work.found(saes.Ablation, name) is None:
        with bar("ablating") as progress:
            effect = saes.ablation_effect(
                coder,
                loaded,
                texts,
                place,
                removed,
                batch_size=batch_size,
                max_length=max_length,
                seed=seed,
                name=name,
                progress=progress,
            )
        work.add(effect)
    if neuronpedia is not None:
        assert isinstance(found, saes.Features)  # noqa: S101  what a run holds under that name
        files = saes.export_neuronpedia(found, work.path / "neuronpedia", source=neuronpedia)
        note(f"for Neuronpedia: {', '.join(str(f) for f in files)}")
    _finish(work, as_json)


def _one(model: "Model", hookpoint: str) -> str:
    """The name of the one hook point that an expression means."""
    names = [point.name for point in model.resolve(hookpoint)]
    if len(names) > 1:
        raise ParameterError(
            f"--hookpoint must name the one hook point that the SAE reads; {hookpoint!r} means "
            f"{', '.join(names)}."
        )
    return names[0]


def _say_resumed(out: Path, work: "Run | None", found: Any) -> None:
    """What --resume came upon."""
    if work is None:
        note(f"{out} holds no run; this one begins.")
    elif found is None:
        note(f"the pass over the tokens in {out} was cut short; it starts over.")
    else:
        note(f"the features in {out} are complete and are kept.")


def _finish(work: "Run", as_json: bool) -> None:
    """Metrics, report, and the headline numbers."""
    import dashboards

    work.finish()
    report = dashboards.Report(work.results, command=command_of([work.path]))
    page = report.write(work.path / "report.html")
    if as_json:
        numbers = {r.kind: r.metrics() for r in work.results}
        emit({"path": str(work.path), "report": str(page), **numbers})
        return
    show(work.results)
    typer.echo(f"report: {page}")


def _show_plan(
    sae: "SAE",
    model: "Model",
    store: "ActivationStore | None",
    texts: "Dataset",
    place: str,
    reading: dict[str, Any],
    removed: list[int] | None,
    as_json: bool,
) -> None:
    """Print tokens, bytes and seconds; what --ablate adds is measured on a few texts."""
    from saes.survey import Survey

    plan = vars(Survey(sae, store or model, texts, place, **reading).plan())
    if removed:
        plan["ablation_seconds"] = _ablation_seconds(sae, model, texts, place, reading, removed)
    if as_json:
        emit(plan)
        return
    more = f", and about {plan['ablation_seconds']:.0f} s for --ablate" if removed else ""
    typer.echo(
        f"{plan['documents']} texts, {plan['tokens']} tokens at {place}: {size(plan['bytes'])} for "
        f"examples and counts of {plan['latents']} latents, about {plan['seconds']:.0f} s{more}"
    )


def _ablation_seconds(
    sae: "SAE",
    model: "Model",
    texts: "Dataset",
    place: str,
    reading: dict[str, Any],
    removed: list[int],
) -> float:
    """What ablating costs at most, by the time that some of the texts take."""
    import time

    import saes

    share = max(1, len(texts) // TIMED)
    some = texts.inputs[::share]
    options = {k: reading[k] for k in ("batch_size", "max_length", "seed")}
    began = time.perf_counter()
    saes.ablation_effect(sae, model, some, place, removed, **options)
    return (time.perf_counter() - began) * len(texts) / len(some)


def _depths(runs: list[Path]) -> "list[ConceptDepth]":
    from interp.runs import read_results
    from probes.curves import ConceptDepth

    return [r for run in runs for r in read_results(run) if isinstance(r, ConceptDepth)]
