"""``interp doctor``: versions and devices, and whether a model's activations can be trusted."""

import platform
from typing import Annotated, Any

import typer

from interp.cli import options as o
from interp.cli.shell import emit, table
from interp.errors import ModelError


def run(
    model: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="Also certify this model.")
    ] = None,
    dtype: o.Dtype = None,
    device: o.Device = "auto",
    revision: o.Revision = None,
    trust_remote_code: o.TrustRemoteCode = False,
    as_json: o.Json = False,
    config: o.Config = None,
) -> None:
    """Versions, devices, and for a MODEL the batch-invariance certificate.

    The certificate compares texts run alone with the same texts in a batch, padded on the right
    (as capture does) and on the left, at every block.
    """
    import torch

    from interp.runs import versions

    found: dict[str, Any] = {
        "versions": versions(),
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "devices": ["cpu"] + [torch.cuda.get_device_name(i) for i in _cuda(torch)],
    }
    if model is not None:
        import interp
        from interp.certificate import certify

        loaded = interp.load(model, device, dtype, revision, trust_remote_code=trust_remote_code)
        found["model"] = loaded.identity()
        try:
            found["certificate"] = certify(loaded)
        except ModelError as error:  # nothing to pad: the versions are still worth having
            found["certificate"], found["reason"] = None, str(error)
    if as_json:
        emit(found)
        return
    rows = [[k, v] for k, v in found["versions"].items()]
    rows += [[k, str(found[k])] for k in ("platform", "threads")]
    rows += [["device", d] for d in found["devices"]]
    table("", ["what", "found"], rows)
    if model is not None:
        certificate = found["certificate"]
        if certificate is None:
            typer.echo(f"\nno certificate: {found['reason']}")
            return
        typer.echo(f"\nbatch invariance of {model} ({certificate['dtype']})")
        columns = ["hook point", "right padding", "left padding"]
        worst = certificate["deviation"]
        names = list(worst["right"] or worst["left"] or {})
        cells = [
            [name, *(_deviation(worst[side], name) for side in ("right", "left"))] for name in names
        ]
        table("", columns, cells)
        for line in certificate["verdict"]:
            typer.echo(line)


def _deviation(found: dict[str, float] | None, name: str) -> str:
    return "-" if found is None else f"{found[name]:.2e}"


def _cuda(torch: Any) -> range:
    return range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
