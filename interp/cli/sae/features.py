"""``interp sae features``: what the latents of an SAE fire for and what they do, and the report."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.cli import options as o
from interp.cli.shell import bar, emit, note
from interp.cli.show import show
from interp.errors import ParameterError

if TYPE_CHECKING:
    from probes.curves import ConceptDepth


def run(
    sae: Annotated[str, typer.Argument(metavar="SAE", help="Folder or hub id of a saved SAE.")],
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
    as_json: o.Json = False,
    config: o.Config = None,
) -> None:
    """Find what each latent fires for, in one pass over the data, and write a searchable report."""
    from interp.runs import Run, find_run

    find_run(out, resume=resume, force=force)  # refuse before anything is read
    only, removed = whole_numbers(latents, "--latents"), whole_numbers(ablate, "--ablate")
    options = {
        "sae": sae,
        "model": model,
        "data": data,
        "hookpoint": hookpoint,
        "store": None if store is None else str(store),
        "latents": only,
        "probes": [str(p) for p in probes or []],
        "ablate": removed,
        "top": top,
        "context": context,
        "text_column": text_column,
        "max_length": max_length,
        "seed": seed,
    }
    import dashboards
    import interp
    import saes

    coder = saes.SAE.from_pretrained(sae)
    place = hookpoint or site(coder)
    loaded = interp.load(model, device, dtype, revision, trust_remote_code=trust_remote_code)
    coder.to(loaded.device)
    texts = interp.read(data, text_column=text_column)
    for line in texts.notes:
        note(f"{texts.name}: {line}")
    source: Any = loaded if store is None else interp.ActivationStore.open(store)
    with bar(f"reading {texts.name}") as progress:
        found = saes.features(
            coder,
            source,
            texts,
            place,
            latents=only,
            top=top,
            context=context,
            probes=_depths(probes or []),
            model=None if store is None else loaded,
            batch_size=batch_size,
            max_length=max_length,
            seed=seed,
            progress=progress,
        )
    work = Run(out, "sae features", options, resume=resume, force=force)
    work.add(found)
    if removed:
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
                progress=progress,
            )
        work.add(effect)
    work.finish()
    command = f"interp sae features {sae} {model} {data} --hookpoint {place}"
    page = dashboards.Report(work.results, command=command).write(out / "report.html")
    if as_json:
        emit({"path": str(out), "report": str(page), **{r.kind: r.metrics() for r in work.results}})
        return
    show(work.results)
    typer.echo(f"report: {page}")


def whole_numbers(text: str | None, option: str) -> list[int] | None:
    """A comma list of whole numbers, or None where there is none."""
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ParameterError(f"{option} takes whole numbers such as 3,17; got {text!r}.") from None


def site(coder: Any) -> str:
    """The hook point that a saved SAE says it was trained on."""
    found = coder.metadata.get("hookpoint") or coder.metadata.get("site")
    if not isinstance(found, str):
        raise ParameterError("the SAE does not say where it reads; give --hookpoint.")
    return found


def _depths(runs: list[Path]) -> "list[ConceptDepth]":
    from interp.runs import read_results
    from probes.curves import ConceptDepth

    return [r for run in runs for r in read_results(run) if isinstance(r, ConceptDepth)]
