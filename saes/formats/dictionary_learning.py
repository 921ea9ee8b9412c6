"""dictionary_learning: ``ae.pt``, a pickled state dict, and ``config.json``, which names its class.

The activations' norm is already in the biases of every file that its training loop writes. Codes
are those of its ``load_dictionary``, which gives an AutoEncoder decoder rows of length 1.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interp.errors import CheckpointError
from saes.base import SAE
from saes.formats.files import read_json, read_pickle, write_folder
from saes.formats.weights import Weights, take_tensors, whole

__all__ = ["CONFIG", "FILE", "read", "write"]

CONFIG, FILE = "config.json", "ae.pt"
FOLLOWS = {
    "AutoEncoder": "relu",
    "AutoEncoderNew": "relu",
    "GatedAutoEncoder": "gated",
    "JumpReluAutoEncoder": "jumprelu",
    "AutoEncoderTopK": "topk",
    "BatchTopKSAE": "batch_topk",
    "MatryoshkaBatchTopKSAE": "matryoshka",
}
"""Their class -> our architecture."""
LINEAR = {"encoder": "encoder.weight", "b_enc": "encoder.bias", "decoder": "decoder.weight"}
PLAIN = {"encoder": "W_enc", "b_enc": "b_enc", "decoder": "W_dec", "b_dec": "b_dec"}
NAMES: dict[str, dict[str, str]] = {
    "AutoEncoder": {**LINEAR, "b_dec": "bias"},
    "AutoEncoderNew": {**LINEAR, "b_dec": "decoder.bias"},
    "GatedAutoEncoder": {
        **LINEAR, "b_enc": "gate_bias", "b_dec": "decoder_bias", "r_mag": "r_mag",
        "b_mag": "mag_bias",
    },
    "JumpReluAutoEncoder": {**PLAIN, "threshold": "threshold"},
    "AutoEncoderTopK": {**LINEAR, "b_dec": "b_dec"},
    "BatchTopKSAE": {**LINEAR, "b_dec": "b_dec", "threshold": "threshold"},
    "MatryoshkaBatchTopKSAE": {**PLAIN, "threshold": "threshold"},
}  # fmt: skip
"""Their class -> our name of a tensor -> theirs."""
SHARED = ("BatchTopKSAE", "MatryoshkaBatchTopKSAE")
"""Classes with one threshold for all latents."""
RAW_INPUT = ("AutoEncoderNew", "JumpReluAutoEncoder")
"""Classes that leave b_dec on the input."""
TRAINERS = {
    "AutoEncoder": "StandardTrainer",
    "AutoEncoderNew": "StandardTrainerAprilUpdate",
    "GatedAutoEncoder": "GatedSAETrainer",
    "JumpReluAutoEncoder": "JumpReluTrainer",
    "AutoEncoderTopK": "TopKTrainer",
    "BatchTopKSAE": "BatchTopKTrainer",
    "MatryoshkaBatchTopKSAE": "MatryoshkaBatchTopKTrainer",
}
UNSET = -1.0
"""What a threshold is before training sets it."""


def read(folder: Path, file: str = FILE) -> Weights:
    """The weights of a checkpoint; ``checkpoints/ae_N.pt`` takes the config of the folder above.

    Raises
    ------
    CheckpointError
        A file is missing or damaged, or it does what interp does not.
    """
    path = folder / file
    source = str(path)
    above = not (folder / CONFIG).is_file() and (folder.parent / CONFIG).is_file()
    trainer = read_json((folder.parent if above else folder) / CONFIG).get("trainer")
    theirs = str(trainer.get("dict_class")) if isinstance(trainer, dict) else "unknown"
    if not isinstance(trainer, dict) or theirs not in FOLLOWS:
        raise CheckpointError(
            f"{source} holds a dictionary of class {theirs!r}; interp reads {', '.join(FOLLOWS)}."
        )
    state = read_pickle(path)
    k, groups = state.pop("k", None), state.pop("group_sizes", None)
    if theirs == "AutoEncoderTopK":
        state.pop("threshold", None)  # for encoding without top-k, which is not its default
    tensors = _by_our_names(source, state, theirs)
    weights = Weights(
        architecture=FOLLOWS[theirs],
        encoder=tensors.pop("encoder"),
        decoder=tensors.pop("decoder"),
        b_enc=tensors.pop("b_enc"),
        b_dec=tensors.pop("b_dec"),
        centred=theirs not in RAW_INPUT,
        config=_fields(source, theirs, trainer, k, groups),
        extra=tensors,
        metadata={"imported_from": "dictionary_learning", "trainer": trainer},
    )
    if theirs == "AutoEncoder":
        length = weights.decoder.double().norm(dim=1)
        if (length == 0).any():
            raise CheckpointError(f"{source} is normalised on loading, and decoder rows are 0.")
        if not torch.allclose(length, torch.ones_like(length)):
            weights.scale_latents(length)
    threshold = weights.extra.get("threshold")
    if threshold is not None and threshold.ndim == 0 and threshold < 0:
        weights.extra["threshold"] = torch.full_like(threshold, torch.nan)
    return weights


def write(sae: SAE, folder: Path) -> None:
    """Write an autoencoder as dictionary_learning's training loop does.

    A ReLU SAE whose decoder rows are not of length 1 becomes an AutoEncoderNew, as an AutoEncoder
    is rescaled where it is loaded.

    Raises
    ------
    CheckpointError
        dictionary_learning has no such SAE.
    """
    weights = Weights.of(sae)
    classes = [name for name, ours in FOLLOWS.items() if ours == weights.architecture]
    if not classes or weights.transcodes:
        raise CheckpointError(f"dictionary_learning has no {weights.kind} to export to.")
    length = weights.decoder.double().norm(dim=1)
    unit = torch.allclose(length, torch.ones_like(length))
    theirs = classes[-1] if not unit else classes[0]
    weights.set_centred(theirs not in RAW_INPUT)
    main = {name: getattr(weights, name) for name in ("encoder", "decoder", "b_enc", "b_dec")}
    dtype = weights.stored
    names = NAMES[theirs]
    tensors = {
        names[ours]: (tensor.T if _turned(names, ours) else tensor).to(dtype)
        for ours, tensor in {**main, **weights.extra}.items()
    }
    trainer: dict[str, Any] = {
        "trainer_class": TRAINERS[theirs],
        "dict_class": theirs,
        "activation_dim": sae.d_in,
        "dict_size": sae.n_latents,
        "layer": None,
        "lm_name": None,
        "submodule_name": None,
    }
    if isinstance(kept := weights.metadata.get("trainer"), dict):
        trainer |= {k: kept[k] for k in ("layer", "lm_name", "submodule_name") if k in kept}
    if "k" in weights.config:
        trainer["k"] = weights.config["k"]
        tensors["k"] = torch.tensor(weights.config["k"], dtype=torch.int32)
        threshold = weights.extra.get("threshold", torch.tensor(UNSET)).float()
        tensors["threshold"] = torch.nan_to_num(threshold, nan=UNSET)
    if weights.architecture == "matryoshka":
        widths = [0, *weights.config["prefixes"]]
        sizes = [b - a for a, b in zip(widths[:-1], widths[1:], strict=True)]
        trainer["group_sizes"] = sizes
        tensors["group_sizes"] = torch.tensor(sizes)
    write_folder(folder, (CONFIG, {"trainer": trainer}), (FILE, tensors))


def _turned(names: dict[str, str], ours: str) -> bool:
    """Whether their tensor is the transpose of ours."""
    return names[ours] in ("W_enc", "decoder.weight")


def _by_our_names(source: str, state: dict[str, Tensor], theirs: str) -> dict[str, Tensor]:
    """The tensors under our names and the way round of ours, checked."""
    names = NAMES[theirs]
    first = state.get(names["encoder"])
    if first is None or first.ndim != 2:
        raise CheckpointError(f"{source} lacks the matrix {names['encoder']}.")
    n, d = first.shape[::-1] if _turned(names, "encoder") else first.shape
    ours: dict[str, tuple[int, ...]] = {"encoder": (n, d), "decoder": (n, d), "b_dec": (d,)}
    if theirs in SHARED:
        ours["threshold"] = ()
    shapes = {
        their: ours.get(name, (n,))[:: -1 if _turned(names, name) else 1]
        for name, their in names.items()
    }
    found = take_tensors(source, state, shapes)
    return {
        name: found[their].T if _turned(names, name) else found[their]
        for name, their in names.items()
    }


def _fields(
    source: str, theirs: str, trainer: dict[str, Any], k: Tensor | None, groups: Tensor | None
) -> dict[str, Any]:
    """Fields of our config; what the config and the tensors both say must agree."""
    if "TopK" not in theirs:
        return {}
    said = whole(source, trainer, "k")
    if k is not None and (k.numel() != 1 or int(k) != said):
        raise CheckpointError(f"{source}: k is {k.tolist()}, and {CONFIG} says {said}.")
    if theirs != "MatryoshkaBatchTopKSAE":
        return {"k": said}
    if groups is None or groups.ndim != 1 or groups.is_floating_point():
        raise CheckpointError(f"{source} lacks group_sizes, whole numbers in one axis.")
    return {"k": said, "prefixes": tuple(groups.cumsum(0).tolist())}
