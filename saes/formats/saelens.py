"""SAELens: ``cfg.json`` and ``sae_weights.safetensors``, by version 6 and by those before.

An inference file and a training file have the same layout. A training file's activations may have
been scaled or whitened; the norm then lies beside it in ``activation_scaler.json``.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interp.errors import CheckpointError
from saes.base import SAE
from saes.formats.files import read_json, read_safetensors, write_folder
from saes.formats.weights import Weights, take_tensors, whole

__all__ = ["CONFIG", "FILE", "read", "write"]

CONFIG, FILE = "cfg.json", "sae_weights.safetensors"
KEYS = "6.0.0"
"""Version whose keys are written; without one SAELens takes a file for an older one."""
RENAMED = {"hook_point": "hook_name", "activation_fn_str": "activation_fn"}
FOLLOWS = {
    "standard": "relu",
    "gated": "gated",
    "jumprelu": "jumprelu",
    "topk": "topk",
    "batchtopk": "batch_topk",
    "matryoshka_batchtopk": "matryoshka",
    "transcoder": "relu",
    "jumprelu_transcoder": "jumprelu",
}
"""Their architecture -> ours."""
WRITTEN = {
    ("relu", False): "standard",
    ("gated", False): "gated",
    ("jumprelu", False): "jumprelu",
    ("topk", False): "topk",
    ("batch_topk", False): "jumprelu",
    ("matryoshka", False): "jumprelu",
    ("relu", True): "transcoder",
    ("jumprelu", True): "jumprelu_transcoder",
    ("batch_topk", True): "jumprelu_transcoder",
    ("matryoshka", True): "jumprelu_transcoder",
}
"""(Our architecture, whether it transcodes) -> theirs for inference."""


def read(folder: Path, file: str = FILE) -> Weights:
    """The weights of a checkpoint, its norms folded in.

    Raises
    ------
    CheckpointError
        A file is missing or damaged, or it does what interp does not.
    """
    source = str(folder)
    config = _current(read_json(folder / CONFIG))
    theirs = str(config.get("architecture"))
    if theirs not in FOLLOWS:
        raise CheckpointError(
            f"{source} holds a SAELens SAE of architecture {theirs!r}; interp reads "
            f"{', '.join(FOLLOWS)}."
        )
    _check_supported(source, config)
    n, d_in = whole(source, config, "d_sae"), whole(source, config, "d_in")
    transcodes = theirs.endswith("transcoder")
    d_out = whole(source, config, "d_out") if transcodes else d_in
    fields = _fields(source, theirs, config, n)
    tensors = _tensors(folder / file, theirs, n, d_in, d_out)
    extra = {k: tensors[k] for k in ("threshold", "r_mag", "b_mag") if k in tensors}
    if "topk_threshold" in tensors:
        extra["threshold"] = tensors["topk_threshold"]
    metadata = config.get("metadata")
    weights = Weights(
        architecture=FOLLOWS[theirs],
        encoder=tensors["W_enc"].T,
        decoder=tensors["W_dec"],
        b_enc=tensors["b_gate" if theirs == "gated" else "b_enc"],
        b_dec=tensors["b_dec"],
        centred=not transcodes and config.get("apply_b_dec_to_input", True),
        transcodes=transcodes,
        config=fields,
        extra=extra,
        metadata={"imported_from": "saelens", **(metadata if isinstance(metadata, dict) else {})},
    )
    _fold(folder, config, weights, rescales=theirs.endswith("topk"))
    return weights


def write(sae: SAE, folder: Path) -> None:
    """Write an SAE as SAELens saves one for inference.

    Raises
    ------
    CheckpointError
        SAELens has no such SAE.
    """
    weights = Weights.of(sae)
    theirs = WRITTEN.get((weights.architecture, weights.transcodes))
    if theirs is None:
        raise CheckpointError(f"SAELens has no {weights.kind} to export to.")
    tensors = {"W_enc": weights.encoder.T, "W_dec": weights.decoder, "b_dec": weights.b_dec}
    metadata = {k: v for k, v in weights.metadata.items() if k != "imported_from"}
    config: dict[str, Any] = {
        "architecture": theirs,
        "d_in": sae.d_in,
        "d_sae": sae.n_latents,
        "dtype": str(weights.encoder.dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": weights.centred,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {**metadata, "sae_lens_version": KEYS},
    }
    if theirs == "gated":
        tensors |= {"b_gate": weights.b_enc, **weights.extra}
    else:
        tensors["b_enc"] = weights.b_enc
    if theirs.startswith("jumprelu"):
        threshold = weights.extra["threshold"]
        if threshold.isnan().any():
            raise CheckpointError(
                f"this {type(sae).__name__} has no threshold yet, and SAELens stores one; train "
                "it, or set sae.threshold."
            )
        tensors["threshold"] = threshold.to(weights.b_enc.dtype).expand(sae.n_latents)
        config["metadata"] |= _training(weights)
    if theirs == "topk":
        config |= {"k": weights.config["k"], "rescale_acts_by_decoder_norm": False}
    if weights.transcodes:
        config["d_out"] = sae.d_out
    write_folder(folder, (CONFIG, config), (FILE, tensors))


def _training(weights: Weights) -> dict[str, Any]:
    """What SAELens says about an SAE that became a jumprelu one when it was saved."""
    theirs = {"batch_topk": "batchtopk", "matryoshka": "matryoshka_batchtopk"}
    if weights.architecture not in theirs:
        return {}
    details = {"k": weights.config["k"]}
    if weights.architecture == "matryoshka":
        details["matryoshka_widths"] = weights.config["prefixes"]
    name = theirs[weights.architecture]
    return {"training_architecture": name, "training_architecture_details": details}


def _current(config: dict[str, Any]) -> dict[str, Any]:
    """A config with the keys of version 6; those before it were flat and said less."""
    inner = config.get("metadata")
    inner = inner if isinstance(inner, dict) else {}
    version = str(config.get("sae_lens_version") or inner.get("sae_lens_version") or "0")
    major = version.split(".")[0]
    if major.isdigit() and int(major) >= 6:
        return config
    new = {RENAMED.get(key, key): value for key, value in config.items()}
    activation, settings = new.get("activation_fn"), new.get("activation_fn_kwargs")
    if activation == "topk" and isinstance(settings, dict):
        new |= {"architecture": "topk", "k": settings.get("k"), "activation_fn": "relu"}
    new.setdefault("architecture", "standard")
    norm = new.get("normalize_activations")
    if norm is None or isinstance(norm, bool):
        new["normalize_activations"] = "expected_average_only_in" if norm else "none"
    if "hook_z" in str(new.get("hook_name")):
        new.setdefault("reshape_activations", "hook_z")
    new["metadata"] = {k: new[k] for k in ("model_name", "hook_name") if k in new}
    return new


def _check_supported(source: str, config: dict[str, Any]) -> None:
    """Refuse what would change codes and has no place in the weights."""
    norm = config.get("normalize_activations", "none")
    if norm in ("layer_norm", "constant_norm_rescale"):
        raise CheckpointError(
            f"{source} normalises each activation as it runs ({norm}), which interp's SAEs do not; "
            "it is no affine map, so it cannot be folded in."
        )
    if norm not in ("none", "expected_average_only_in", "covariance_whitening"):
        raise CheckpointError(f"{source} has an unknown normalize_activations, {norm!r}.")
    if config.get("reshape_activations", "none") != "none":
        raise CheckpointError(
            f"{source} reshapes heads into one axis (reshape_activations="
            f"{config['reshape_activations']!r}), which interp's SAEs do not."
        )
    if config.get("activation_fn", "relu") != "relu":
        raise CheckpointError(
            f"{source} uses the activation {config['activation_fn']!r}; interp reads relu and topk."
        )
    transcodes = str(config.get("architecture")).endswith("transcoder")
    if not isinstance(config.get("apply_b_dec_to_input", True), bool) or (
        transcodes and (config.get("apply_b_dec_to_input", True) or norm != "none")
    ):
        raise CheckpointError(
            f"{source}: apply_b_dec_to_input must be true or false, and a transcoder's must be "
            "false, with normalize_activations 'none'."
        )


def _tensors(path: Path, theirs: str, n: int, d_in: int, d_out: int) -> dict[str, Tensor]:
    """The tensors that an architecture has, checked."""
    found = read_safetensors(path)
    scaling = found.pop("scaling_factor", None)
    if scaling is not None and not torch.allclose(scaling, torch.ones_like(scaling)):
        raise CheckpointError(
            f"{path} holds a scaling_factor from fine-tuning, which interp's SAEs do not have."
        )
    if "log_threshold" in found and "threshold" not in found:
        found["threshold"] = found.pop("log_threshold").exp()
    shapes: dict[str, tuple[int, ...]] = {
        "W_enc": (d_in, n),
        "W_dec": (n, d_out),
        "b_dec": (d_out,),
    }
    per_latent = ("b_gate", "b_mag", "r_mag") if theirs == "gated" else ("b_enc",)
    if theirs.startswith("jumprelu"):
        per_latent += ("threshold",)
    shapes |= dict.fromkeys(per_latent, (n,))
    if theirs.endswith("batchtopk"):
        shapes["topk_threshold"] = ()
    return take_tensors(str(path), found, shapes)


def _fields(source: str, theirs: str, config: dict[str, Any], n: int) -> dict[str, Any]:
    """Fields of our config."""
    if not theirs.endswith("topk"):
        return {}
    if theirs == "batchtopk" and isinstance(config.get("k"), float) and config["k"] % 1:
        raise CheckpointError(
            f"{source} trains with k={config['k']}, and interp's k is whole; import the file that "
            "save_inference_model writes, which has a threshold instead."
        )
    fields: dict[str, Any] = {"k": whole(source, config, "k")}
    if theirs == "matryoshka_batchtopk":
        fields["prefixes"] = _widths(source, config, n)
    return fields


def _widths(source: str, config: dict[str, Any], n: int) -> tuple[int, ...]:
    """The prefixes of a Matryoshka SAE, the last of them all latents."""
    widths = config.get("matryoshka_widths")
    if not isinstance(widths, list) or not all(isinstance(w, int) for w in widths):
        raise CheckpointError(f"{source}: matryoshka_widths must be whole numbers; got {widths!r}.")
    return (*widths, n) if not widths or widths[-1] != n else tuple(widths)


def _fold(folder: Path, config: dict[str, Any], weights: Weights, *, rescales: bool) -> None:
    """Fold in what SAELens does to activations and latents, in the order in which it folds."""
    rescales = rescales and bool(config.get("rescale_acts_by_decoder_norm", False))
    norm = config.get("normalize_activations", "none")
    scaler: dict[str, Any] = {}
    if norm != "none":
        path = folder / "activation_scaler.json"
        if not path.is_file():
            raise CheckpointError(
                f"{folder} was trained on normalised activations ({norm}) and does not say by how "
                "much; put its activation_scaler.json beside cfg.json, or import the final file."
            )
        scaler = read_json(path)
    if norm == "expected_average_only_in":
        scale = scaler.get("scaling_factor")
        if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 < scale < 1e30:
            raise CheckpointError(
                f"{folder}: scaling_factor must be a number above 0; got {scale!r}."
            )
        weights.scale_input(scale)
        if rescales and "threshold" in weights.extra:  # it is in units of the decoder's length
            weights.extra["threshold"] = weights.extra["threshold"] / scale
    if rescales:
        length = weights.decoder.double().norm(dim=1)
        if (length == 0).any():
            raise CheckpointError(f"{folder} rescales by decoder norms, and some of them are 0.")
        weights.scale_latents(length)
    if norm == "covariance_whitening":
        path = folder / "activation_whitening.safetensors"
        d = weights.encoder.shape[1]
        shapes = {"mean": (d,), "matrix": (d, d), "inverse_matrix": (d, d)}
        found = take_tensors(str(path), read_safetensors(path), shapes)
        weights.whiten_input(found["mean"], found["matrix"], found["inverse_matrix"])
