"""``interp sae``: sparse autoencoders. A file a command."""

import typer

from interp.cli.sae import features, steer, train
from interp.cli.shell import command

__all__ = ["app"]

app = typer.Typer(
    name="sae",
    help="Sparse autoencoders: learn them, judge them, and read their features.",
    no_args_is_help=True,
)
COMMANDS = {
    "train": train.run,
    "features": features.run,
    "steer": steer.run,
}
for _name, _run in COMMANDS.items():
    command(app, _name, _run)
