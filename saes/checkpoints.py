"""A coder on disk: a folder, or a repository of the hub, with config.json and model.safetensors."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from interp.errors import CheckpointError, closest
from interp.runs import parse_json, write_bytes, write_text
from interp.tensors import pieces

__all__ = [
    "FORMAT",
    "check_tensors",
    "is_checkpoint",
    "read_checkpoint",
    "upload_checkpoint",
    "write_checkpoint",
]

FORMAT = 1
CONFIG, WEIGHTS = "config.json", "model.safetensors"
KEYS = ("format", "architecture", "d_in", "d_out", "config", "metadata")


def write_checkpoint(
    path: str | Path, document: dict[str, Any], tensors: dict[str, Tensor]
) -> Path:
    """Write config.json and model.safetensors, each whole or absent, into a folder.

    The old config.json goes first and the new one comes last: a folder never holds one checkpoint's
    config beside another's weights.

    Raises
    ------
    CheckpointError
        The document holds what JSON cannot.
    StoreError
        The folder cannot be written.
    """
    path = Path(path)
    document = {"format": FORMAT, **document}
    try:
        text = json.dumps(document, indent=2, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{CONFIG} cannot hold this metadata: {error}.") from error
    if path.is_dir():
        (path / CONFIG).unlink(missing_ok=True)
    write_bytes(path / WEIGHTS, pieces(tensors))
    write_text(path / CONFIG, text)
    return path


def read_checkpoint(
    source: str | Path, read: Callable[[Path], dict[str, Tensor]] = load_file
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The document and the tensors of a folder, or of a repository ``"owner/name"`` of the hub.

    Parameters
    ----------
    read : gives the tensors of a safetensors file, or those parts that are wanted.

    Raises
    ------
    CheckpointError
        There is no such folder or repository, it is no checkpoint of interp's, or it is damaged.
    """
    path = Path(source)
    if not path.exists():
        path = _download(str(source))
    if not (path / CONFIG).is_file():
        raise CheckpointError(f"{source} holds no {CONFIG}, so it is no saved coder.")
    try:
        document = parse_json((path / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{source}: {CONFIG} is not readable JSON: {error}.") from error
    _check_document(str(source), document)
    try:
        return document, read(path / WEIGHTS)
    except FileNotFoundError as error:
        raise CheckpointError(f"{source} holds no {WEIGHTS}, so it is no saved coder.") from error
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{source}: {WEIGHTS} is cut short or is no safetensors file ({error}); copy it again."
        ) from error


def is_checkpoint(path: str | Path) -> bool:
    """Whether a folder has the two files of a checkpoint of interp's, sound or not."""
    return all((Path(path) / name).is_file() for name in (CONFIG, WEIGHTS))


def upload_checkpoint(folder: Path, repo_id: str, private: bool) -> str:
    """Upload a folder to the hub as the repository ``"owner/name"``; gives its address.

    Raises
    ------
    CheckpointError
        The hub refuses: no network, not logged in, no such owner.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        api = HfApi()
        url = api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="Upload a coder")
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = str(error).strip().splitlines()
        raise CheckpointError(
            f"the hub does not take {repo_id!r} ({reason[0] if reason else type(error).__name__}); "
            "log in with `hf auth login` and name it owner/name."
        ) from error
    return str(url)


def check_tensors(source: str, wanted: dict[str, Tensor], found: dict[str, Tensor]) -> None:
    """Refuse missing, extra or misshapen tensors, and mixed dtypes.

    Raises
    ------
    CheckpointError
        ``found`` are not the names and shapes of ``wanted`` in one floating-point dtype.
    """
    if missing := sorted(wanted.keys() - found.keys()):
        raise CheckpointError(f"{source}: model.safetensors lacks {', '.join(missing)}.")
    if extra := sorted(found.keys() - wanted.keys()):
        raise CheckpointError(
            f"{source}: model.safetensors holds {', '.join(extra)}, which this SAE does not have."
        )
    for name, tensor in wanted.items():
        if found[name].shape != tensor.shape:
            raise CheckpointError(
                f"{source}: {name} is {list(found[name].shape)}, where config.json makes it "
                f"{list(tensor.shape)}."
            )
    dtypes = {t.dtype for t in found.values()}
    if len(dtypes) > 1 or not next(iter(dtypes)).is_floating_point:
        raise CheckpointError(
            f"{source}: model.safetensors must hold one floating-point dtype; it holds "
            f"{', '.join(sorted(str(d) for d in dtypes))}."
        )


def _download(repo_id: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo_id, allow_patterns=[CONFIG, WEIGHTS]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(
            f"{repo_id!r} is no folder, not in the local cache, and the hub does not give it (no "
            "network, HF_HUB_OFFLINE, or no such name); give a folder that save_pretrained wrote."
        ) from error


def _check_document(source: str, document: Any) -> None:
    """Refuse what is not exactly the keys of config.json, in this format."""
    if not isinstance(document, dict) or "architecture" not in document:
        raise CheckpointError(
            f"{source}: {CONFIG} names no architecture, so it is no coder that interp saved; "
            "saes.import_checkpoint reads other libraries' files."
        )
    if document.get("format") != FORMAT:
        raise CheckpointError(
            f"{source}: {CONFIG} has format {document.get('format')!r}; this interp reads {FORMAT}."
        )
    for key in document:
        if key not in KEYS:
            hint = closest(key, KEYS) or f"the keys are {', '.join(KEYS)}."
            raise CheckpointError(f"{source}: {CONFIG} has an unknown key {key!r}; {hint}")
    for key in KEYS:
        if key not in document:
            raise CheckpointError(f"{source}: {CONFIG} lacks the key {key!r}.")
    for key in ("config", "metadata"):
        if not isinstance(document[key], dict):
            raise CheckpointError(f"{source}: in {CONFIG}, {key} must be a table of values.")
