"""``interp doctor``: versions and devices, whether a model's activations can be trusted, and
whether a store's or a run's files are whole.
"""

import platform
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from interp.cli import options as o
from interp.cli.shell import bar, emit, note, table
from interp.errors import ModelError, ParameterError, StoreError
from interp.runs import parse_json, versions


def run(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL|STORE]",
            help="Also certify this model, or verify this store or run folder.",
        ),
    ] = None,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Remove from STORE what is damaged, for a capture to fill."),
    ] = False,
    dtype: o.Dtype = None,
    device: o.Device = "auto",
    revision: o.Revision = None,
    trust_remote_code: o.TrustRemoteCode = False,
    as_json: o.Json = False,
    config: o.Config = None,
) -> None:
    """Versions, devices; for a MODEL the batch-invariance certificate; for a STORE its checksums.

    The certificate compares texts run alone with the same texts in a batch, padded on the right
    (as capture does) and on the left, at every block. Of a STORE every file is read and compared
    with the manifest; exit code 1 where one is damaged. Of a run folder every JSON is read, its
    stores are verified, and its other safetensors must be as long as their headers say.
    """
    kind = _kind(model)
    if repair and kind != "store":
        raise ParameterError("--repair takes the folder of a store.")
    if kind == "store":
        check_store(Path(model or ""), repair=repair, as_json=as_json)
    elif kind == "run":
        check_run_folder(Path(model or ""), as_json=as_json)
    else:
        check_model(model, dtype, device, revision, trust_remote_code, as_json)


def _kind(what: str | None) -> str:
    """Whether an argument names a store, a run, or a model."""
    folder = Path(what or "")
    if not what or not folder.is_dir():
        return "model"
    if (folder / "config.json").is_file():
        try:
            config = parse_json((folder / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            config = None
        ours = isinstance(config, dict) and "command" in config
        return "run" if ours or (folder / "metrics.json").is_file() else "model"
    if (folder / "manifest.json").exists() or any(folder.glob("shard-*.safetensors")):
        return "store"
    raise StoreError(
        f"the folder {what} is no store (no manifest.json), and no run or model (no config.json)."
    )


# -- stores ----------------------------------------------------------------------------------------


def check_store(path: Path, *, repair: bool, as_json: bool) -> None:
    """Verify a store, and repair it where that is asked; a `StoreError` where it is damaged."""
    from interp import integrity

    done: tuple[str, ...] = ()
    if repair:
        with bar(f"checking {path}") as progress:
            done = integrity.repair(path, progress)
        for line in done:
            note(line)
    with bar(f"checking {path}") as progress:
        found = integrity.verify(path, progress)
    command = None if found.whole else resume_command(path)
    if as_json:
        files = [{**vars(f), "damaged": f.damaged} for f in found.files]
        emit({"path": str(path), "whole": found.whole, "complete": found.complete, "files": files,
              "repaired": done, "command": command})  # fmt: skip
    else:
        cells = [[f.file, "-" if f.rows is None else f.rows, f.state, f.detail or "-"]
                 for f in found.files]  # fmt: skip
        table("", ["file", "rows", "state", "seen"], cells)
    if not found.whole:
        raise StoreError(f"{found.sentence}; {_advice(path, found, command, repair)}.")
    if not as_json:
        left = f"; {len(found.left)} files that a kill left are removed by --repair"
        typer.echo(f"{found.sentence}{left if found.left else ''}")


def _advice(path: Path, found: Any, command: str | None, repaired: bool) -> str:
    """What to do about a store that is not whole."""
    if found.files[0].state == "unreadable":
        return "nothing tells what its shards are, so capture it again with --force"
    again = f"`{command}`" if command else "the same capture with --resume (resume=True)"
    if found.files[0].state == "altered":
        return f"{again} writes it anew and keeps the shards that fit; read it before you run it"
    if found.damaged and not repaired:
        again += f" (or first `interp doctor {shlex.quote(str(path))} --repair`)"
    return f"{again} captures what is missing"


def resume_command(path: Path) -> str | None:
    """The command line that goes on with a store's capture, from its manifest, or None.

    It is printed, never run: a manifest can name a model whose code would be executed.
    """
    from interp.loading import DTYPES
    from interp.manifest import read_manifest

    try:
        manifest = read_manifest(path, altered=True)
        source, model = manifest["source"], manifest["model"]
        words = ["interp", "capture", source["model"], source["data"]]
        options = {
            "hookpoints": ",".join(source["hookpoints"]),
            "out": str(path),
            "pool": manifest["pool"].replace(", ", ","),
            "batch-size": manifest["batch_size"],
            "shard-rows": manifest["shard_rows"],
            "dtype": model["dtype"] if model["dtype"] in DTYPES else None,
            "store-dtype": source["store_dtype"],
            "revision": model["revision"],
            "max-length": manifest["max_length"],
            "text-model": source.get("text_model"),
            "prompt": source.get("prompt"),
            **{name.replace("_", "-"): value for name, value in source["columns"].items()},
        }
        for name, value in options.items():
            for one in value if isinstance(value, list) else [value]:
                words += [] if one in (None, "") else [f"--{name}", str(one)]
        words += ["--pairs"] if "pairs" in manifest else []
        words.append("--resume")
    except (StoreError, KeyError, TypeError, AttributeError):
        return None  # of an older store
    plain = all(isinstance(w, str) and w.isprintable() for w in words)
    if not plain or any(w.startswith("-") for w in words[2:4]):
        return None  # captured from Python, or no text for a terminal
    return shlex.join(words)


# -- runs ------------------------------------------------------------------------------------------


def check_run_folder(path: Path, *, as_json: bool) -> None:
    """Look at the files of a run folder; a `StoreError` where one is damaged."""
    from interp import integrity

    states = {}
    stores = [f.parent for f in path.rglob("manifest.json") if _kind(str(f.parent)) == "store"]
    for file in sorted((*path.rglob("*.json"), *path.rglob("*.safetensors"))):
        if file.parent not in stores:
            states[str(file.relative_to(path))] = _state(file)
    with bar(f"checking {path}") as progress:
        for store in sorted(stores):
            for found in integrity.verify(store, progress).files:
                states[str((store / found.file).relative_to(path))] = found.state
    bad = [name for name, state in states.items() if state in integrity.DAMAGED]
    if as_json:
        emit({"path": str(path), "whole": not bad, "files": states})
    else:
        table("", ["file", "state"], [[k, v] for k, v in states.items()])
    if bad:
        more = f", and {len(bad) - 1} more of its files are damaged" if bad[1:] else ""
        raise StoreError(
            f"{bad[0]} of the run {path} is {states[bad[0]]}{more}; the run's command with --force "
            "makes it anew."
        )
    if not as_json:
        typer.echo(f"the run {path} is undamaged, as far as these files tell")


def _state(file: Path) -> str:
    """Whether a file of JSON or of tensors, which nothing holds a checksum of, can be read."""
    from interp.manifest import MALFORMED
    from interp.store import read_header

    try:
        if file.suffix == ".json":
            parse_json(file.read_text(encoding="utf-8"))
            return "whole"
        text, start, length = read_header(file)
        entries = [v for k, v in parse_json(text[8:]).items() if k != "__metadata__"]
        end = start + max((entry["data_offsets"][1] for entry in entries), default=0)
    except (*MALFORMED, OSError):
        return "unreadable"
    return "whole" if length == end else "truncated" if length < end else "altered"


# -- models ----------------------------------------------------------------------------------------


def check_model(
    model: str | None,
    dtype: str | None,
    device: str,
    revision: str | None,
    trust_remote_code: bool,
    as_json: bool,
) -> None:
    """Print versions and devices, and certify a model where one is given."""
    import torch

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
