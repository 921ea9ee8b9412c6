"""``interp hookpoints``: the places in a model that can be captured."""

from typing import Annotated

import typer

from interp.cli import options as o
from interp.cli.shell import emit, table


def run(
    model: o.Model,
    match: Annotated[
        str | None, typer.Argument(metavar="[EXPRESSION]", help="Show what this resolves to.")
    ] = None,
    roles: Annotated[bool, typer.Option("--roles", help="Only rows that have a role.")] = False,
    device: o.Device = "auto",
    remote: o.Remote = False,
    revision: o.Revision = None,
    trust_remote_code: o.TrustRemoteCode = False,
    as_json: o.Json = False,
    config: o.Config = None,
) -> None:
    """List a model's hook points: module names, roles, types and widths."""
    import interp

    loaded = interp.load(
        model,
        device=device,
        revision=revision,
        trust_remote_code=trust_remote_code,
        remote=remote,
    )
    rows = loaded.points.table()
    if match is not None:
        names = {p.name: p.place for p in loaded.resolve(match)}
        found = {(r["alias"], r["name"]): r for r in rows} | {("", r["name"]): r for r in rows}
        rows = [
            found.get((name, place)) or {**found["", place.removesuffix(":in")], "name": place}
            for name, place in names.items()
        ]
    elif roles:
        rows = [r for r in rows if r["alias"]]
    if as_json:
        emit(rows)
        return
    columns = ["alias", "name", "type", "width"]
    table("", columns, [["" if r[c] is None else r[c] for c in columns] for r in rows])
