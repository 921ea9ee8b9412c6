"""``interp capture``: activations of a data set into a store."""

from pathlib import Path
from typing import Annotated, Any, cast

import typer

from interp.cli import options as o
from interp.cli.shell import bar, emit, note, say_notes
from interp.errors import ParameterError


def run(
    model: o.Model,
    data: o.Data,
    hookpoints: o.Hookpoints = None,
    out: Annotated[Path, typer.Option(help="Folder of the store.")] = Path("acts"),
    pool: o.Pool = "last",
    pairs: Annotated[
        bool, typer.Option("--pairs", help="DATA are pairs of images and texts; a row a pair.")
    ] = False,
    image_column: o.ImageColumn = None,
    text_model: o.TextModel = None,
    prompt: o.PairPrompt = None,
    batch_size: o.BatchSize = None,
    text_column: o.TextColumn = None,
    label_column: o.LabelColumn = None,
    group_column: Annotated[str | None, typer.Option(help="Column of groups.")] = None,
    dtype: o.Dtype = None,
    store_dtype: Annotated[
        str | None, typer.Option(help="Of the stored rows; else the model's.")
    ] = None,
    max_length: o.MaxLength = None,
    shard_rows: Annotated[
        int | None,
        typer.Option(
            help="Most rows of DATA in a file of the store, else 4,096; the unit that is "
            "shared among processes and resumed."
        ),
    ] = None,
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
    """Run a model over data and write what its hook points held, a row a text, image or token.

    `torchrun --nproc-per-node N -m interp capture …` shares the work; the store is the same.
    """
    wanted = o.split_commas(hookpoints)
    if not wanted and not pairs:
        raise ParameterError(
            "--hookpoints is needed, as resid_post.* or a module's name; `interp hookpoints MODEL` "
            "lists them."
        )
    import interp
    from interp.capturing import Capture

    loading: dict[str, Any] = {"device": device, "dtype": dtype, "revision": revision,
                               "trust_remote_code": trust_remote_code}  # fmt: skip
    loaded = interp.load(model, remote=remote, **loading)
    columns: dict[str, Any] = {
        "text_column": text_column,
        "label_column": label_column,
        "group_column": group_column,
    }
    if pairs:
        from interp.cli.sae.pairs import pairs_work

        work: Any = pairs_work(
            loaded, data, wanted, text_model=text_model, loading=loading, prompt=prompt,
            pool="mean" if pool == "last" else pool, batch_size=batch_size, dtype=store_dtype,
            max_length=max_length, columns={"image_column": image_column, **columns},
            shard_rows=shard_rows,
        )  # fmt: skip
    elif image_column or text_model or prompt:
        raise ParameterError("--image-column, --text-model and --prompt are for --pairs.")
    else:
        work = Capture(
            loaded,
            data,
            wanted,
            cast(Any, pool),
            batch_size,
            store_dtype,
            max_length,
            columns,
            shard_rows=shard_rows,
        )
        say_notes(work.data)
    if dry_run:
        show_plan(work, as_json, memory=True)
        return
    with bar(f"capturing {work.data.name}") as progress:
        store = work.on_disk(out, resume=resume, force=force, progress=progress, say=note)
    if as_json:
        emit({"path": str(out), **store.manifest})
    else:
        rows = len(store[store.hookpoints[0]])
        typer.echo(f"{rows} rows of {len(store.hookpoints)} hook points in {out}")


def show_plan(work: Any, as_json: bool, *, memory: bool = False) -> None:
    """Print what a capture would cost; its memory where capturing is all that is done."""
    plan = work.plan()
    if as_json:
        emit(vars(plan))
        return
    typer.echo(
        f"{work.data.name}: {plan.rows} rows, {plan.tokens} positions, "
        f"{len(work.points)} hook points: {size(plan.bytes)} in {plan.shards} shards, about "
        f"{plan.seconds:.0f} s"
        f"{', ' + size(plan.peak_bytes) + ' of memory' if memory and plan.peak_bytes else ''}"
    )


def size(n: float) -> str:
    """Bytes as a person reads them."""
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1000
    return f"{n:.1f} TB"
