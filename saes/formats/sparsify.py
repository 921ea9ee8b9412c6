"""sparsify: a hook point's folder with ``cfg.json`` and ``sae.safetensors``."""

from pathlib import Path

import torch

from interp.errors import CheckpointError
from saes.base import SAE
from saes.formats.files import read_json, read_safetensors, write_folder
from saes.formats.weights import Weights, take_tensors, whole

__all__ = ["CONFIG", "FILE", "read", "write"]

CONFIG, FILE = "cfg.json", "sae.safetensors"


def read(folder: Path, file: str = FILE) -> Weights:
    """The weights of a checkpoint. Its ReLU before the top-k gives what ours gives after it.

    Raises
    ------
    CheckpointError
        A file is missing or damaged, or it does what interp does not.
    """
    source = str(folder)
    config = read_json(folder / CONFIG)
    activation = config.get("activation", "topk")
    if activation != "topk":
        raise CheckpointError(f"{source} uses the activation {activation!r}; interp reads topk.")
    if config.get("signed"):
        raise CheckpointError(f"{source} keeps negative latents (signed); interp's SAEs do not.")
    transcodes, skip = (bool(config.get(name)) for name in ("transcode", "skip_connection"))
    if skip and not transcodes:
        raise CheckpointError(
            f"{source} is an autoencoder with a skip_connection, which interp's transcoders alone "
            "have."
        )
    d = whole(source, config, "d_in")
    n = whole(source, config, "num_latents") if config.get("num_latents") else 0
    n = n or d * whole(source, config, "expansion_factor")
    shapes = {"encoder.weight": (n, d), "encoder.bias": (n,), "W_dec": (n, d), "b_dec": (d,)}
    if skip:
        shapes["W_skip"] = (d, d)
    path = folder / file
    tensors = take_tensors(str(path), read_safetensors(path), shapes)
    fields = {"k": whole(source, config, "k"), "multi_k": bool(config.get("multi_topk"))}
    return Weights(
        architecture="transcoder" if transcodes else "topk",
        encoder=tensors["encoder.weight"],
        decoder=tensors["W_dec"],
        b_enc=tensors["encoder.bias"],
        b_dec=tensors["b_dec"],
        centred=not transcodes,
        transcodes=transcodes,
        config=fields | ({"skip": skip} if transcodes else {}),
        extra={"W_skip": tensors["W_skip"]} if skip else {},
        metadata={"imported_from": "sparsify"},
    )


def write(sae: SAE, folder: Path) -> None:
    """Write a TopK SAE, or a TopK transcoder between activations of one width.

    Raises
    ------
    CheckpointError
        sparsify has no such SAE.
    """
    weights = Weights.of(sae)
    if weights.architecture not in ("topk", "transcoder"):
        raise CheckpointError(
            f"sparsify stores topk SAEs and transcoders alone; this is a {weights.kind}."
        )
    if sae.d_in != sae.d_out:
        raise CheckpointError(
            f"sparsify's transcoders have one width; this one goes from {sae.d_in} to {sae.d_out}."
        )
    length = weights.decoder.double().norm(dim=1)
    config = {
        "activation": "topk",
        "expansion_factor": max(1, sae.n_latents // sae.d_in),
        "normalize_decoder": bool(torch.allclose(length, torch.ones_like(length), atol=1e-3)),
        "num_latents": sae.n_latents,
        "k": weights.config["k"],
        "multi_topk": weights.config["multi_k"],
        "skip_connection": "W_skip" in weights.extra,
        "transcode": weights.transcodes,
        "d_in": sae.d_in,
    }
    tensors = {
        "encoder.weight": weights.encoder,
        "encoder.bias": weights.b_enc,
        "W_dec": weights.decoder,
        "b_dec": weights.b_dec,
        **weights.extra,
    }
    write_folder(folder, (CONFIG, config), (FILE, tensors))
