"""``interp sae concepts``: what the latents of a VL-SAE stand for in images and texts."""

from pathlib import Path
from typing import Annotated, Any

import typer

from interp.cli import options as o
from interp.cli.capture import show_plan
from interp.cli.report import command_of
from interp.cli.sae.inputs import weights_hash
from interp.cli.sae.pairs import pair_sites, pairs_work, stored
from interp.cli.shell import bar, emit
from interp.cli.show import show


def run(
    sae: Annotated[str, typer.Argument(metavar="SAE", help="Folder of a saved VL-SAE.")],
    model: o.Model,
    pairs: o.Pairs,
    hookpoint: Annotated[
        list[str] | None,
        typer.Option(
            "--hookpoint", "-p", help="The image's and the text's; else what it was trained on."
        ),
    ] = None,
    top: Annotated[int, typer.Option(help="Images and texts of a concept.")] = 10,
    label_column: o.LabelColumn = None,
    mode: Annotated[
        str, typer.Option(help="Of the similarity of concepts: recommended or released_code.")
    ] = "recommended",
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/concepts"),
    image_column: o.ImageColumn = None,
    text_column: o.TextColumn = None,
    text_model: o.TextModel = None,
    prompt: o.PairPrompt = None,
    pool: o.PairPool = "mean",
    batch_size: o.BatchSize = None,
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
    """Find each concept's images and texts, name it, and write a page with both side by side."""
    import interp
    import saes
    from interp.runs import Run, find_run

    if not dry_run:
        find_run(out, resume=resume, force=force)  # refuse before anything is read
    coder = saes.SAE.from_pretrained(sae)
    loading: dict[str, Any] = {"device": device, "dtype": dtype, "revision": revision,
                               "trust_remote_code": trust_remote_code}  # fmt: skip
    loaded = interp.load(model, **loading)
    columns = {"image_column": image_column, "text_column": text_column}
    work = pairs_work(
        loaded, pairs, pair_sites(coder, o.split_commas(hookpoint)), text_model=text_model,
        loading=loading, pool=pool, prompt=prompt, batch_size=batch_size, max_length=max_length,
        columns=columns,
    )  # fmt: skip
    if dry_run:
        show_plan(work, as_json)
        return
    options = {"sae": weights_hash(coder), "acts": work.key(), "top": top, "mode": mode,
               "columns": label_column, "seed": seed}  # fmt: skip
    started = Run(out, "sae concepts", options, resume=resume, force=force)
    name = f"{work.data.name}.concepts"
    if started.found(saes.Concepts, name) is None:
        store = stored(work, started.path / "acts", resume=True, force=False)
        with bar("reading concepts") as progress:
            found = saes.concepts(
                coder, store, work.data, top=top, columns=label_column, mode=mode, seed=seed,
                name=name, progress=progress,
            )  # fmt: skip
        started.add(found)
    finish_pairs(started, as_json)


def finish_pairs(work: Any, as_json: bool) -> None:
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
