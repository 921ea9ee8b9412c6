"""Loading: a specification -> a `Model`, each kind of source in its own function."""

import contextlib
import importlib
import importlib.util
import io
import os
import socket
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import nn

from interp.distributed import world
from interp.errors import InterpError, ModelError, ParameterError, one_line
from interp.models import Model, quiet_transformers
from interp.placement import PREFIX, DeviceMap, device_map_of, is_spread

__all__ = ["DTYPES", "device_of", "import_factory", "load"]

DTYPES = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
}


def load(
    spec: "str | Path | nn.Module | Model",
    device: str | torch.device = "auto",
    dtype: str | torch.dtype | None = None,
    revision: str | None = None,
    *,
    tokenizer: Any = None,
    processor: Any = None,
    trust_remote_code: bool = False,
    device_map: str | Mapping[str, Any] | None = None,
    max_memory: Mapping[Any, Any] | None = None,
    offload_folder: str | Path | None = None,
    remote: bool = False,
) -> Model:
    """A `Model` from a specification.

    Parameters
    ----------
    spec : a Hugging Face id or folder, ``tl:ID``, ``nnsight:ID``, ``file.py:factory``,
        ``package.module:factory``, ``demo:NAME``, or an ``nn.Module`` (kept where it is, and as
        it is, unless device or dtype are given).
    device : ``"auto"`` takes CUDA where there is one; ``"map"``, ``"map:balanced"`` and
        ``"map:FILE.json"`` are a device map, as a command line can give it.
    dtype : of the weights; None keeps the checkpoint's own.
    revision : branch, tag or commit of a hub model.
    tokenizer, processor : in place of the model's own.
    trust_remote_code : let a hub model run its own code.
    device_map : spread a Hugging Face model over devices, memory and disk, as its own
        ``from_pretrained`` does: ``"auto"``, ``"balanced"``, or a device or ``"disk"`` for each
        part. All that looks at activations or changes them works; what reads weights one by one
        needs them in memory, and says so.
    max_memory, offload_folder : of a device map, as for ``from_pretrained``.
    remote : run an ``nnsight:`` model on the server that NDIF_HOST names, with the key in
        NDIF_API_KEY; only its config and tokenizer come here, and hook points are read there.

    Raises
    ------
    ModelError
        Nothing is there, the weights are missing or pickled, or the factory gives no module.
    """
    if isinstance(spec, Model):
        return spec
    if isinstance(dtype, str):
        if dtype not in DTYPES:
            raise ParameterError(f"dtype must be one of {', '.join(DTYPES)}; got {dtype!r}.")
        dtype = DTYPES[dtype]
    spread = device_map_of(device, device_map, max_memory, offload_folder)
    if isinstance(spec, nn.Module):
        if spread is not None:
            raise ParameterError("a device map is for a model by name; a module is where it is.")
        name = type(spec).__name__
        model = Model(spec, spec=name, tokenizer=tokenizer, processor=processor)
        return _place(model, None if device == "auto" else device, dtype)
    spec = str(spec)
    prefix, colon, rest = spec.partition(":")
    if remote:
        if prefix != "nnsight" or spread is not None:
            alone = "" if spread is None else ", without a device map here"
            raise ParameterError(f"--remote runs nnsight:ID on a server{alone}; got {spec}.")
        from interp.remote import remote_model

        model = remote_model(rest, spec, dtype, revision, trust_remote_code)
        model.tokenizer = tokenizer or model.tokenizer
        return model
    target = device_of(device)
    if colon and prefix in LOADERS:
        model = LOADERS[prefix](rest, spec, dtype, revision, trust_remote_code, spread)
    elif colon and (prefix.endswith(".py") or rest.isidentifier()):
        if spread is not None:
            raise ModelError(f"{spec} places its module itself, so it takes no device map.")
        model = _from_factory(prefix, rest, spec)
    else:
        model = _from_hugging_face(spec, spec, dtype, revision, trust_remote_code, spread)
    model.tokenizer = tokenizer or model.tokenizer
    model.processor = processor or model.processor
    model.module.eval()
    return model if spread is not None else _place(model, target, dtype)


def import_factory(path: str, name: str, spec: str) -> Callable[[], Any]:
    """The function ``name`` of a Python file or module that the user named."""
    try:
        if path.endswith(".py"):
            file = Path(path).expanduser()
            if not file.is_file():
                raise ModelError(f"{spec}: there is no file {path}.")
            found = importlib.util.spec_from_file_location(file.stem, file)
            if found is None or found.loader is None:
                raise ModelError(f"{spec}: {path} is no Python file.")
            module = importlib.util.module_from_spec(found)
            sys.modules.setdefault(file.stem, module)  # dataclasses and pickling look it up
            found.loader.exec_module(module)
        else:
            module = importlib.import_module(path)
    except InterpError:
        raise
    except Exception as error:
        raise ModelError(f"{spec}: importing {path} failed: {one_line(error)}.") from error
    factory = getattr(module, name, None)
    if not callable(factory):
        raise ModelError(f"{spec}: {path} has no function {name!r}.")
    return factory


def _from_factory(path: str, name: str, spec: str) -> Model:
    factory = import_factory(path, name, spec)
    try:
        made = factory()
    except Exception as error:
        raise ModelError(f"{spec}: {name}() failed: {one_line(error)}.") from error
    tokenizer = None
    if isinstance(made, tuple) and len(made) == 2:
        made, tokenizer = made
    if isinstance(made, Model):
        return made
    if not isinstance(made, nn.Module):
        raise ModelError(
            f"{spec}: {name}() must give an nn.Module, or one and its tokenizer; got "
            f"{type(made).__name__}."
        )
    return Model(made, spec=spec, tokenizer=tokenizer)


def _from_demo(
    name: str, spec: str, dtype: Any, revision: Any, trust: bool, spread: DeviceMap | None
) -> Model:
    from interp import demo

    folder = demo.model_path(name)
    if name not in demo.MODULES:
        return _from_hugging_face(str(folder), spec, dtype, None, False, spread)
    if spread is not None:
        raise ModelError(f"{spec} is no Hugging Face model, so it takes no device map.")
    return Model(demo.MODULES[name](folder), spec=spec)


def _from_hugging_face(
    source: str,
    spec: str,
    dtype: torch.dtype | None,
    revision: str | None,
    trust: bool,
    spread: DeviceMap | None,
) -> Model:
    """A causal LM, encoder, ViT, CLIP, …: the class that the checkpoint's config names."""
    import transformers

    local = Path(source).expanduser()
    if source.endswith(".py"):
        raise ModelError(f"{source} needs the name of its function: {source}:FUNCTION.")
    if local.is_file():
        raise ModelError(
            f"{source} is a file, and a model is a folder with config.json and model.safetensors, "
            "a Hugging Face id, file.py:factory or demo:pylm."
        )
    if not local.is_dir() and (source.startswith((".", "/", "~")) or source.count("/") > 1):
        raise ModelError(
            f"there is no model folder {source}; give a folder with config.json and "
            "model.safetensors, a Hugging Face id, or demo:pylm."
        )
    source = str(local) if local.is_dir() else source
    options: dict[str, Any] = {"revision": revision, "trust_remote_code": trust}
    if revision is None:
        del options["revision"]
    if not local.is_dir() and _offline():
        options["local_files_only"] = True  # the cache or nothing: no minute of retries
    with quiet_transformers():
        try:
            config = transformers.AutoConfig.from_pretrained(source, **options)
            cls = _auto_class(config, trust)
            module, info = cls.from_pretrained(
                source,
                config=config,
                dtype=dtype or "auto",
                use_safetensors=True,
                output_loading_info=True,
                **({} if spread is None else spread.options()),
                **options,
            )
        except Exception as error:
            raise explain(source, local.is_dir(), error) from error
        tokenizer = _optional(transformers.AutoTokenizer, source, options)
        processor = None
        if getattr(config, "vision_config", None) is not None or hasattr(config, "image_size"):
            processor = _optional(transformers.AutoImageProcessor, source, options)
    _check_complete(module, sorted(info["missing_keys"]), spec)
    if spread is not None:
        spread.check(module)
    commit = getattr(config, "_commit_hash", None)
    return Model(module, spec=spec, revision=commit, tokenizer=tokenizer, processor=processor)


def _check_complete(module: nn.Module, missing: list[str], spec: str) -> None:
    """Refuse a model that lacks weights; a head or a pooler without them is a warning."""
    base = getattr(module, "base_model_prefix", "")
    whole = not base or not hasattr(module, base)  # the base model itself, without a head
    inner = [k for k in missing if whole or k.startswith(base + ".")]
    inner = [k for k in inner if "pooler" not in k.split(".")]
    if inner:
        raise ModelError(
            f"{spec} lacks {len(inner)} of its weights, {inner[0]} among them; is the folder "
            "complete?"
        )
    if missing:
        warnings.warn(
            f"{spec} has no weights for {', '.join(missing[:3])}: they are random.",
            stacklevel=4,
        )


def _auto_class(config: Any, trust: bool) -> Any:
    import transformers

    for name in config.architectures or ():
        cls = getattr(transformers, name, None)
        if isinstance(cls, type) and issubclass(cls, transformers.PreTrainedModel):
            return cls
    causal = transformers.AutoModelForCausalLM
    custom = trust and "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    known = type(config) in causal._model_mapping and getattr(config, "is_decoder", True)
    return causal if custom or known else transformers.AutoModel


def explain(source: str, local: bool, error: Exception) -> ModelError:
    """One sentence for what went wrong while a checkpoint was loaded."""
    text = one_line(error)
    if local:
        folder = Path(source)
        if not (folder / "config.json").is_file():
            return ModelError(f"the folder {source} holds no config.json, so it is no model.")
        if (pickle := _pickle_of(folder)) is not None:
            return ModelError(
                f"the folder {source} holds its weights as a pickle ({pickle}), which is not "
                "loaded; convert it once with save_pretrained(folder, safe_serialization=True)."
            )
        if not list(folder.glob("*.safetensors")):
            return ModelError(f"the folder {source} holds no weights (no *.safetensors).")
        if "trust_remote_code" in str(error):
            return ModelError(
                f"{source} brings its own code; allow it with trust_remote_code=True."
            )
        return ModelError(f"the model in {source} cannot be loaded: {text}.")
    if "trust_remote_code" in str(error):
        return ModelError(f"{source} brings its own code; allow it with trust_remote_code=True.")
    return ModelError(
        f"the model {source!r} is not in the local cache and the hub does not give it (no network, "
        "HF_HUB_OFFLINE, or no such name); give a local folder with config.json and "
        "model.safetensors, or demo:pylm, which needs no download."
    )


def _pickle_of(folder: Path) -> str | None:
    """The file of a folder that holds its weights as a pickle, where no other file holds them."""
    if not folder.is_dir() or any(folder.glob("*.safetensors")):
        return None
    return next((p.name for kind in ("*.bin", "*.pt*") for p in sorted(folder.glob(kind))), None)


def _local_or_demo(name: str) -> str:
    """What follows ``tl:`` or ``nnsight:``; ``tl:demo:pylm`` reads the embedded model.

    Raises
    ------
    ModelError
        It is a folder of pickled weights, which these libraries would read.
    """
    if name.startswith("demo:"):
        from interp import demo

        return str(demo.model_path(name.removeprefix("demo:")))
    if _pickle_of(Path(name)) is not None:
        raise explain(name, True, ValueError("a pickle"))
    return name


def _from_transformer_lens(
    name: str,
    spec: str,
    dtype: torch.dtype | None,
    revision: str | None,
    trust: bool,
    spread: DeviceMap | None,
) -> Model:
    _no_map(spread, spec, name)
    try:
        from transformer_lens.model_bridge import TransformerBridge
    except ImportError as error:
        raise ModelError(f"{spec} needs transformer-lens 4 or later: {one_line(error)}.") from error
    import transformers

    source = _local_or_demo(name)
    with quiet_transformers(), contextlib.redirect_stdout(io.StringIO()):  # it prints
        try:
            bridge = TransformerBridge.boot_transformers(
                source,
                device="cpu",
                dtype=dtype or torch.float32,
                revision=revision,
                trust_remote_code=trust,
            )
        except Exception as error:
            here = Path(source).is_dir()
            if "trust_remote_code" in str(error) or (not here and isinstance(error, OSError)):
                raise explain(source, here, error) from error
            raise ModelError(f"transformer-lens cannot load {name}: {one_line(error)}.") from error
        # its own tokenizer adds a start token that Hugging Face's does not; ours gives equal rows
        options: dict[str, Any] = {"trust_remote_code": trust}
        if revision is not None:
            options["revision"] = revision
        tokenizer = _optional(transformers.AutoTokenizer, source, options) or bridge.tokenizer
    return Model(bridge, spec=spec, revision=revision, tokenizer=tokenizer)


def _from_nnsight(
    name: str,
    spec: str,
    dtype: torch.dtype | None,
    revision: str | None,
    trust: bool,
    spread: DeviceMap | None,
) -> Model:
    _no_map(spread, spec, name)
    try:
        from nnsight import TransformersModel
    except ImportError as error:
        raise ModelError(f"{spec} needs nnsight: {one_line(error)}.") from error
    source = _local_or_demo(name)
    options: dict[str, Any] = {} if revision is None else {"revision": revision}
    options["trust_remote_code"] = trust  # where it is not said, transformers asks at the terminal
    with quiet_transformers():
        try:
            task = task_of(source, options)  # named, for the library would ask the hub for it
            options["use_safetensors"] = True
            if dtype is not None:
                options["dtype"] = dtype
            envoy = TransformersModel(source, dispatch=True, task=task, **options)
        except Exception as error:
            here = Path(source).is_dir()
            if "trust_remote_code" in str(error) or not here:
                raise explain(source, here, error) from error
            raise ModelError(f"nnsight cannot load {name}: {one_line(error)}.") from error
    module = envoy._module
    return Model(module, spec=spec, revision=revision, tokenizer=envoy.tokenizer)


def _no_map(spread: DeviceMap | None, spec: str, name: str) -> None:
    if spread is not None:
        raise ModelError(f"{spec} takes no device map; load {name} by its plain name for that.")


def task_of(source: str, options: dict[str, Any]) -> str:
    """The transformers pipeline that a checkpoint's class stands for."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(source, **options)
    names = " ".join(config.architectures or ())
    if "ImageClassification" in names:
        return "image-classification"
    return "text-generation" if "CausalLM" in names or "LMHead" in names else "feature-extraction"


LOADERS: dict[str, Callable[[str, str, Any, Any, bool, DeviceMap | None], Model]] = {
    "demo": _from_demo,
    "tl": _from_transformer_lens,
    "nnsight": _from_nnsight,
    "hf": lambda rest, spec, *more: _from_hugging_face(rest, spec, *more),
}


def _optional(auto: Any, source: str, options: dict[str, Any]) -> Any:
    """A tokenizer or processor, or None where the checkpoint has none."""
    try:
        return auto.from_pretrained(source, **options)
    except Exception:  # each of the many formats fails in its own way; absence is legal
        return None


def _offline() -> bool:
    """Whether the hub's name cannot even be looked up; a proxy is given the benefit of doubt."""
    if any(os.environ.get(k) for k in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return False
    host = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co")).hostname
    try:
        socket.getaddrinfo(host, 443)
    except OSError:
        return True
    return False


def device_of(device: str | torch.device) -> torch.device:
    """The device of a name, tried by putting a number on it.

    ``"auto"`` is CUDA where there is one, and under torchrun the one of the process's rank; so is
    ``"map"``, for what is beside a model with a device map.

    Raises
    ------
    ParameterError
        There is no device of that name.
    """
    own = f"cuda:{world().local_rank}" if world().size > 1 else "cuda"
    if str(device) == "auto" or str(device).partition(":")[0] == PREFIX:
        device = own if torch.cuda.is_available() else "cpu"
    try:
        found = torch.zeros(1, device=device).device
        if found.type == "meta":
            raise RuntimeError("it has shapes, and no numbers")
        return found
    except (RuntimeError, AssertionError) as error:
        raise ParameterError(
            f"device {str(device)!r} is not there; use auto, cpu, cuda, cuda:1 or map."
        ) from error


def _place(model: Model, device: Any, dtype: Any) -> Model:
    if is_spread(model.module):
        if device is not None or dtype is not None:
            raise ModelError(
                f"{model.spec} lies where its device map put it; load it anew to move or cast it."
            )
        return model
    there = device is None or model.device == device
    if not there or (dtype is not None and model.dtype != dtype):
        try:
            model.module.to(device=device, dtype=dtype)
        except (RuntimeError, AssertionError) as error:
            raise ModelError(f"{model.spec} cannot go to {device}: {one_line(error)}.") from error
    return model
