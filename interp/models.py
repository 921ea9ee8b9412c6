"""The model: one handle for whatever `load` takes.

``gpt2`` or a local folder (Hugging Face), ``tl:ID`` (transformer-lens), ``nnsight:ID``,
``file.py:factory``, ``package.module:factory``, ``demo:NAME``, or an ``nn.Module`` in hand.
"""

import copy
import hashlib
import inspect
import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from interp.errors import DataError, ModelError, ParameterError, one_line
from interp.hookpoints import HookPoint, HookPoints
from interp.placement import input_device, is_spread, weights
from interp.pooling import Pool

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Model", "quiet_transformers"]


_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Model:
    """A module with what it needs to read inputs: a tokenizer, an image processor, its hook points.

    Made by `load`. Calling it runs the module on text, a tensor, or a dict of keyword arguments.

    Attributes
    ----------
    module : the ``nn.Module``, in eval mode when `load` made it.
    spec : what it was loaded from.
    revision : the commit of a hub model, or None.
    tokenizer, processor : None where the model has none.
    remote : whether its forwards run on a server, as `interp.remote.RemoteModel`'s do.
    """

    remote = False

    def __init__(
        self,
        module: nn.Module,
        *,
        spec: str,
        revision: str | None = None,
        tokenizer: Any = None,
        processor: Any = None,
    ) -> None:
        self.module = module
        self.spec = spec
        self.revision = revision
        self.tokenizer = tokenizer
        self.processor = processor
        self.certificates: dict[Any, dict[str, float]] = {}  # what capture found, by what it ran
        self.outlines: dict[Any, Any] = {}

    def __repr__(self) -> str:
        return f"Model({self.spec!r}, {type(self.module).__name__}, {self.dtype}, {self.device})"

    @cached_property
    def points(self) -> HookPoints:
        """The module's hook points."""
        return HookPoints(self.module)

    def resolve(self, wanted: str | Iterable[str]) -> list[HookPoint]:
        """The hook points that names, globs, roles and slices mean."""
        return self.points.resolve(wanted)

    def hookpoints(self) -> "pd.DataFrame":
        """A table of all hook points: name, alias (its role), module type, width."""
        import pandas as pd

        return pd.DataFrame(self.points.table(), columns=["name", "alias", "type", "width"])

    @property
    def config(self) -> Any:
        """The Hugging Face configuration, or None."""
        return getattr(self.module, "config", None)

    @property
    def device(self) -> torch.device:
        """Where inputs go: at the first parameter, or where a device map runs the first part; the
        CPU for a module without parameters.
        """
        return input_device(self.module)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the first floating-point parameter."""
        floats = (p.dtype for p in self.module.parameters() if p.is_floating_point())
        return next(floats, torch.float32)

    def reinitialised(self, seed: int = 0) -> "Model":
        """The same architecture with fresh random weights, as its library initialises them.

        A transformers model is built anew from its config; of any other module a copy is made and
        every part with a ``reset_parameters`` is reset. The global random state is left alone.

        Parameters
        ----------
        seed : of the weights.

        Raises
        ------
        ModelError
            A part that holds parameters says nothing on how they begin, or the model is
            transformer-lens's, whose parts are wrapped, or it was loaded with a device map.
        """
        if is_spread(self.module):
            raise ModelError(
                f"{self.spec} was loaded with a device map, and random weights are drawn for a "
                "model that is in one place; load it without."
            )
        # the seed reaches every CUDA generator, so theirs are put back too
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(seed)
            fresh = _fresh(self.module, self.spec)
        fresh.train(self.module.training).to(device=self.device, dtype=self.dtype)
        return Model(
            fresh,
            spec=f"{self.spec} (random weights, seed {seed})",
            tokenizer=self.tokenizer,
            processor=self.processor,
        )

    def unembedding(self) -> nn.Module:
        """The linear layer that turns the last activation into a number a token.

        Raises
        ------
        ModelError
            The model has none: it is no language model.
        """
        module: Any = getattr(self.module, "original_model", self.module)
        ask = getattr(module, "get_output_embeddings", None)
        found = ask() if callable(ask) else None
        if not isinstance(getattr(found, "weight", None), Tensor):
            raise ModelError(f"{self.spec} has no unembedding, so it is no language model.")
        assert isinstance(found, nn.Module)  # noqa: S101
        return found

    def final_norm(self) -> nn.Module | None:
        """The norm between the last block and the unembedding, or None where there is none."""
        point = self.points.stacks[-1].final_norm if self.points.stacks else None
        if point is None:
            return None
        return self.module.get_submodule(point.module.removesuffix(".hook_out"))

    @property
    def max_length(self) -> int | None:
        """The most tokens the model takes, or None where nothing says."""
        config = getattr(self.config, "text_config", self.config)
        for key in ("max_position_embeddings", "n_positions", "n_ctx"):
            value = getattr(config, key, None)
            if isinstance(value, int) and value > 0:
                return value - self._first_position()
        return None

    def _first_position(self) -> int:
        """Where a table of positions starts: after its pad, as in RoBERTa; 0 in most models."""
        for name, module in self.module.named_modules():
            if isinstance(module, nn.Embedding) and name.endswith("position_embeddings"):
                return 0 if module.padding_idx is None else module.padding_idx + 1
        return 0

    @property
    def fingerprint(self) -> str:
        """A hash of the names, shapes and values of every parameter and buffer.

        A matrix enters as the exact integer sums of its rows' bits: an edit of a weight and rows
        that change places change it, and the number of threads does not.
        """
        digest = hashlib.sha256()
        for name, tensor in weights(self.module):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            flat = tensor.detach().contiguous().reshape(-1)
            if flat.is_complex():
                flat = torch.view_as_real(flat).reshape(-1)
            bits = flat.view(_BITS[flat.element_size()]) if flat.dtype != torch.bool else flat
            if tensor.ndim > 1 and tensor.numel():
                bits = bits.reshape(tensor.shape[0], -1).sum(1, dtype=torch.int64)
            digest.update(bits.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    @property
    def tokenizer_hash(self) -> str | None:
        """A hash of the tokenizer's whole definition, or None."""
        if self.tokenizer is None:
            return None
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        words = getattr(self.tokenizer, "get_vocab", dict)  # a function of your own has none
        text = backend.to_str() if backend is not None else str(sorted(words().items()))
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]

    def identity(self) -> dict[str, Any]:
        """What decides the model's numbers, for manifests and provenance."""
        return {
            "spec": self.spec,
            "class": type(self.module).__name__,
            "revision": self.revision,
            "fingerprint": self.fingerprint,
            "tokenizer": self.tokenizer_hash,
            "dtype": str(self.dtype).removeprefix("torch."),
        }

    def local(self, what: str) -> None:
        """Raise ModelError if the model is not on this machine, for what is done only here."""

    def pools(self, mask: Tensor, how: Pool) -> Tensor:
        """The mask [b, t] of what hook points hold in the next forward, of texts with this mask; a
        model that runs elsewhere pools there, and then it is [b, 1].
        """
        return mask

    def takes(self, argument: str) -> bool:
        """Whether the module's forward has an argument of this name."""
        return argument in inspect.signature(self.module.forward).parameters

    def token_text(self, i: int) -> str:
        """A token as it stands in a text: with the space before it, where it begins a word.

        Byte-level tokenizers keep that space; SentencePiece and WordPiece say it by a mark of their
        own, which is taken off. A token that is part of a character has its number beside it, as
        many look the same; without a tokenizer the number is all.
        """
        words = self.tokenizer
        if words is None:
            return str(i)
        text = words.decode([i])
        if "\ufffd" in text:
            return f"{text} (token {i})"
        if i in getattr(words, "all_special_ids", ()) or not hasattr(
            words, "convert_ids_to_tokens"
        ):
            return text
        piece = words.convert_ids_to_tokens(i)
        inner = getattr(getattr(words, "backend_tokenizer", None), "model", None)
        if type(inner).__name__ == "WordPiece":
            return piece[2:] if piece.startswith("##") else f" {text}"
        spaced = isinstance(piece, str) and piece.startswith("\u2581") and not text.startswith(" ")
        return f" {text}" if spaced else text

    def tokenize(self, texts: Sequence[str], max_length: int | None = None) -> list[list[int]]:
        """Token ids of each text, alone and without pads, with the tokenizer's special tokens."""
        if self.tokenizer is None:
            raise ModelError(
                f"{self.spec} has no tokenizer, so it cannot read text; load it with tokenizer=…"
            )
        with quiet_transformers():
            options = {} if max_length is None else {"truncation": True, "max_length": max_length}
            try:
                return self.tokenizer(list(texts), **options)["input_ids"]
            except Exception as error:  # a foreign tokenizer fails in its own ways
                text = f"the tokenizer of {self.spec} fails: {one_line(error, 200)}."
                raise ModelError(text) from error

    def pad(
        self, ids: Sequence[Sequence[int]], side: str = "right", length: int | None = None
    ) -> dict[str, Tensor]:
        """``input_ids`` and ``attention_mask`` [b, t], padded on one side, on the device.

        t is the longest row's length, or ``length``.
        """
        t = length or max(len(row) for row in ids)
        pad_id = getattr(self.tokenizer, "pad_token_id", None) or 0
        input_ids = torch.full((len(ids), t), pad_id, dtype=torch.long)
        mask = torch.zeros((len(ids), t), dtype=torch.long)
        for i, row in enumerate(ids):
            where = slice(0, len(row)) if side == "right" else slice(t - len(row), t)
            input_ids[i, where] = torch.tensor(row, dtype=torch.long)
            mask[i, where] = 1
        return {
            "input_ids": input_ids.to(self.device),
            "attention_mask": mask.to(self.device),
        }

    def inputs(self, x: Any) -> dict[str, Any] | tuple[Any, ...]:
        """Arguments for the module's forward from text, images, tensors or a dict of them."""
        if isinstance(x, str):
            x = [x]
        if isinstance(x, list | tuple) and x and all(isinstance(t, str) for t in x):
            return self.text_inputs(self.pad(self._readable(self.tokenize(x))))
        if isinstance(x, Mapping):
            return {k: v.to(self.device) if isinstance(v, Tensor) else v for k, v in x.items()}
        if isinstance(x, Tensor):
            return (x.to(self.device),)
        if isinstance(x, tuple | list) and x and all(isinstance(t, Tensor) for t in x):
            return tuple(t.to(self.device) for t in x)
        raise ParameterError(
            f"{self.spec} takes text, a list of texts, a tensor or a dict of tensors; got "
            f"{type(x).__name__}."
        )

    def _readable(self, ids: list[list[int]]) -> list[list[int]]:
        """The ids again, if the model can read them: some token, and no more than it takes."""
        limit = self.max_length
        for row in ids:
            if not row:
                raise DataError(f"a text without a token cannot be run through {self.spec}.")
            if limit is not None and len(row) > limit:
                raise DataError(f"a text has {len(row)} tokens and {self.spec} takes {limit}.")
        return ids

    def text_inputs(self, padded: dict[str, Tensor]) -> dict[str, Tensor]:
        """Padded ids with what else the forward needs: an encoder-decoder gets a start token."""
        taken = list(inspect.signature(self.module.forward).parameters.values())
        if not any(p.name == "attention_mask" or p.kind is p.VAR_KEYWORD for p in taken):
            padded = {k: v for k, v in padded.items() if k != "attention_mask"}
        if taken and taken[0].kind is taken[0].POSITIONAL_OR_KEYWORD:
            if not self.takes("input_ids"):  # as TransformerLens, which calls it input
                padded = {taken[0].name: padded["input_ids"], **padded}
                del padded["input_ids"]
        if getattr(self.config, "is_encoder_decoder", False):
            start = getattr(self.config, "decoder_start_token_id", None) or 0
            first = torch.full((len(padded["input_ids"]), 1), start, device=self.device)
            return {**padded, "decoder_input_ids": first}
        return padded

    def __call__(self, x: Any, **kwargs: Any) -> Any:
        """Run the module's forward; hooks that are set fire."""
        inputs = self.inputs(x)
        if isinstance(inputs, dict):
            return self.module(**inputs, **kwargs)
        return self.module(*inputs, **kwargs)

    def generate(self, prompt: str, max_new_tokens: int = 20, **kwargs: Any) -> str:
        """The prompt and its continuation, greedy unless ``do_sample=True`` is given.

        Raises
        ------
        ModelError
            The model cannot generate.
        """
        module: Any = getattr(self.module, "original_model", self.module)
        if not hasattr(module, "generate") or self.tokenizer is None:
            raise ModelError(f"{self.spec} is no language model that generates text.")
        encoded = self.pad(self._readable(self.tokenize([prompt])))
        kwargs.setdefault("do_sample", False)
        kwargs.setdefault("pad_token_id", self.tokenizer.pad_token_id or 0)
        with torch.no_grad():
            out = module.generate(**encoded, max_new_tokens=max_new_tokens, **kwargs)
        return self.tokenizer.decode(out[0], skip_special_tokens=True)


def _fresh(module: nn.Module, spec: str) -> nn.Module:
    """A module of the same architecture with new weights, drawn on the CPU."""
    from transformers import PreTrainedModel

    if hasattr(module, "original_model"):
        raise ModelError(
            f"{spec} wraps another model, whose weights cannot be drawn anew; load that one by "
            "its own name."
        )
    if isinstance(module, PreTrainedModel):
        with quiet_transformers():
            return type(module)(copy.deepcopy(module.config))
    fresh = copy.deepcopy(module).cpu()
    for name, part in fresh.named_modules():
        reset = getattr(part, "reset_parameters", None) or getattr(part, "_reset_parameters", None)
        if callable(reset):
            reset()
        elif next(part.parameters(recurse=False), None) is not None:
            raise ModelError(
                f"{spec} cannot be drawn anew: its part {name or 'itself'} "
                f"({type(part).__name__}) holds parameters and has no reset_parameters."
            )
    return fresh


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' log lines and progress bars off stderr; warnings are put back after."""
    from transformers.utils import logging as library

    level, bars = library.get_verbosity(), library.is_progress_bar_enabled()
    others = [logging.getLogger(name) for name in ("huggingface_hub", "accelerate")]
    levels = [logger.level for logger in others]
    library.set_verbosity_error()
    library.disable_progress_bar()
    for logger in others:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        library.set_verbosity(level)
        for logger, before in zip(others, levels, strict=True):
            logger.setLevel(before)
        if bars:
            library.enable_progress_bar()
