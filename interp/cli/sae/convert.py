"""``interp sae convert``: an SAE between interp's files and those of other libraries."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from interp.cli import options as o
from interp.cli.shell import emit, note
from interp.errors import ParameterError, StoreError

if TYPE_CHECKING:
    from saes import SAE


def run(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="CHECKPOINT",
            help="Folder of interp, SAELens, sparsify or dictionary_learning; told by its files.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    to: Annotated[
        str, typer.Option(help="interp, saelens, sparsify or dictionary_learning.")
    ] = "interp",
    force: Annotated[bool, typer.Option("--force", help="Write into a folder with files.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read and check the checkpoint; write nothing.")
    ] = False,
    as_json: o.Json = False,
    config: o.Config = None,
) -> None:
    """Convert a sparse autoencoder; the other library need not be installed.

    Its conventions are folded into the weights exactly; what cannot be folded is refused.
    """
    import saes
    from saes.interchange import FORMATS

    if to != "interp" and to not in FORMATS:
        raise ParameterError(f"--to must be one of interp, {', '.join(FORMATS)}; got {to!r}.")
    sae = _read(path)
    if not dry_run and out.is_dir() and any(out.iterdir()) and not force:
        raise StoreError(f"{out} is not empty; give another --out, or --force to write into it.")
    about = {
        "architecture": sae.architecture,
        "d_in": sae.d_in,
        "d_out": sae.d_out,
        "n_latents": sae.n_latents,
        "to": to,
    }
    if not dry_run:
        sae.save_pretrained(out) if to == "interp" else saes.export_checkpoint(sae, out, to)
    if as_json:
        emit(about)
    else:
        verb = "would be written" if dry_run else "written"
        note(f"{sae.architecture}, {sae.n_latents:,} latents of width {sae.d_in}: {verb} as {to}")
        if not dry_run:
            typer.echo(out)


def _read(path: Path) -> "SAE":
    """The SAE of a folder, interp's own or another library's."""
    import saes
    from saes.checkpoints import is_checkpoint

    return saes.SAE.from_pretrained(path) if is_checkpoint(path) else saes.import_checkpoint(path)
