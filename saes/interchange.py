"""Checkpoints of SAELens, sparsify and dictionary_learning, both ways, none of them installed.

Where another library's convention is not ours (whether b_dec is taken off the input, scaled or
whitened activations, decoder rows of any length, a threshold a latent), it is folded into the
weights exactly: codes and outputs are those that the library itself gives. What cannot be folded is
refused.
"""

from pathlib import Path
from types import ModuleType

from interp.errors import CheckpointError, ParameterError, closest
from saes.base import SAE
from saes.formats import dictionary_learning, saelens, sparsify

__all__ = ["export_checkpoint", "import_checkpoint"]

FORMATS: dict[str, ModuleType] = {
    "saelens": saelens,
    "sparsify": sparsify,
    "dictionary_learning": dictionary_learning,
}


def import_checkpoint(path: str | Path) -> SAE:
    """The SAE of another library's checkpoint, recognised by its files.

    SAELens (``cfg.json`` and ``sae_weights.safetensors``): standard, gated, topk, jumprelu,
    transcoder and jumprelu_transcoder, with the keys of version 6 or of those before it; batchtopk
    and matryoshka_batchtopk as saved in training. What it saves of these for inference is a
    jumprelu SAE, and becomes one. sparsify (``cfg.json`` and ``sae.safetensors``): topk
    autoencoders and transcoders. dictionary_learning (``ae.pt`` or ``checkpoints/ae_N.pt``, with
    ``config.json``): every class that its ``load_dictionary`` knows; a threshold that training has
    not set stays unset.

    Weights are float32, or float64 where the file's are, and lie on the CPU. What the file says
    about its model is in ``metadata``. A pickle is read by ``torch.load(weights_only=True)``, which
    refuses all but tensors; nothing is executed.

    Parameters
    ----------
    path : the folder, or the weights or config in it.

    Returns
    -------
    SAE
        Of the class that fits, in eval mode. Its codes are those of the library's own loader, to
        the rounding of the dtype.

    Raises
    ------
    CheckpointError
        There is no such checkpoint; it is damaged or its shapes do not fit; or it does what
        interp's SAEs do not: normalising each activation as it runs, activations scaled by a factor
        that the files do not hold, reshaped heads, a skip connection, another activation function.
    """
    folder, module, file = _recognise(Path(path))
    return module.read(folder, file).build(str(folder))


def export_checkpoint(sae: SAE, path: str | Path, format: str) -> Path:
    """Write an SAE into a folder as another library saves its own, and give the folder.

    The library gives its codes and outputs from it, to the rounding of the dtype. BatchTopK and
    Matryoshka become jumprelu SAEs in SAELens, as its own do. What is of use in training alone
    (AuxK, penalties) is not written.

    Parameters
    ----------
    sae : an SAE or transcoder.
    path : the folder; made if absent. The same format's files in it are replaced.
    format : ``"saelens"``, ``"sparsify"`` or ``"dictionary_learning"``.

    Raises
    ------
    ParameterError
        There is no such format.
    CheckpointError
        The format has no such SAE (a crosscoder, a VL-SAE or an approximate selection anywhere, a
        gated one in sparsify, a transcoder in dictionary_learning), a threshold is not set yet, or
        the folder holds another format.
    StoreError
        The folder cannot be written.
    """
    if format not in FORMATS:
        hint = closest(str(format), FORMATS)
        known = ", ".join(repr(name) for name in FORMATS)
        raise ParameterError(f"format must be one of {known}; got {format!r}. {hint}".rstrip())
    if sae.architecture == "codebook":
        raise CheckpointError(f"{format} has no codebooks; save them with save_pretrained.")
    if sae.paired:
        raise CheckpointError(f"{format} has no SAE of pairs; save it with save_pretrained.")
    selection = getattr(sae.config, "selection", "exact")
    if selection != "exact":
        raise CheckpointError(f"no format keeps selection={selection!r}; train with exact.")
    folder = Path(path)
    for name, module in FORMATS.items():
        if name != format and (folder / module.FILE).exists():
            raise CheckpointError(
                f"{folder} already holds {module.FILE} of {name}; export to another folder."
            )
    FORMATS[format].write(sae, folder)
    return folder


def _recognise(path: Path) -> tuple[Path, ModuleType, str]:
    """The folder, its format, and the file with the weights."""
    if not path.exists():
        raise CheckpointError(f"{path} does not exist; give the folder of a checkpoint.")
    if path.is_file():
        if path.suffix == ".pt":
            return path.parent, dictionary_learning, path.name
        for module in FORMATS.values():
            if path.name == module.FILE:
                return path.parent, module, module.FILE
        if path.name not in {module.CONFIG for module in FORMATS.values()}:
            raise CheckpointError(
                f"{path} is no file of a checkpoint; give its folder, or its "
                f"{', '.join(module.FILE for module in FORMATS.values())}."
            )
        return _recognise(path.parent)
    found = [m for m in FORMATS.values() if (path / m.FILE).is_file()]
    if len(found) == 1:
        return path, found[0], found[0].FILE
    if found:
        files = " and ".join(m.FILE for m in found)
        raise CheckpointError(f"{path} holds {files}, of two libraries; give one its own folder.")
    if (path / "model.safetensors").is_file():
        raise CheckpointError(
            f"{path} holds model.safetensors, which interp itself writes; load it with "
            "saes.SAE.from_pretrained."
        )
    inside = _inside(path)
    files = ", ".join(m.FILE for m in FORMATS.values())
    hint = (
        f"give one of the folders in it: {', '.join(inside[:5])}"
        if inside
        else ("give the folder that SAELens, sparsify or dictionary_learning wrote")
    )
    raise CheckpointError(f"{path} holds none of {files}; {hint}.")


def _inside(path: Path) -> list[str]:
    """Checkpoints nearest below: a run has a folder a hook point, a release a folder a run."""
    for depth in ("*", "*/*", "*/*/*"):
        files = (p for m in FORMATS.values() for p in path.glob(f"{depth}/{m.FILE}"))
        if found := sorted(p.parent.relative_to(path).as_posix() for p in files):
            return found
    return []
