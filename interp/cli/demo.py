"""``interp demo``: the analyses on the embedded model and data, and one report."""

from pathlib import Path
from typing import Annotated

import typer

from interp.cli import options as o
from interp.cli.probe import run as probe


def run(
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/demo"),
    seed: o.Seed = 0,
    resume: o.Resume = False,
    force: o.Force = False,
    dry_run: o.DryRun = False,
    as_json: o.Json = False,
    config: o.Config = None,
) -> None:
    """Probe demo:pylm on demo:facts and demo:python; nothing is downloaded."""
    probe(
        "demo:pylm",
        ["demo:facts", "demo:python"],
        out=out,
        seed=seed,
        resume=resume,
        force=force,
        random_model=False,  # a second capture: the demo is to be short
        lens=True,
        dry_run=dry_run,
        as_json=as_json,
    )
