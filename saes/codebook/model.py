"""Codebooks inside a model: at hook points, what flows there is replaced by codes.

Nothing of the model is copied or rewritten: codebooks act through the hooks of `interp.intervene`,
so all of its weights can be trained, and disabling the codebooks gives the model back.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.hooks import RemovableHandle

from interp.errors import (
    CheckpointError,
    DataError,
    ModelError,
    ParameterError,
    ShapeError,
    closest,
)
from interp.hookpoints import HookPoint
from interp.hooks import all_fired, evaluating, hook, hooked
from interp.loading import load
from interp.models import Model, quiet_transformers
from interp.runs import parse_json, whole_files, write_text
from probes.steering import check_language_model
from saes.base import SAE
from saes.codebook.layer import Codebook, CodebookConfig, Edit, Snap
from saes.rows import seeded

__all__ = ["Codebooks", "ModelLoss", "insert"]

FORMAT = 1
FOLDER, DOCUMENT = "codebooks", "codebooks.json"


class ModelLoss(NamedTuple):
    """What `Codebooks.loss` gives.

    ``total`` is ``language`` plus each hook point's ``reconstruction`` times its weight; 0-d
    tensors. ``language`` is in nats a token, over ``tokens`` of them; ``right`` counts those whose
    logit was the largest. ``snaps`` holds what each codebook did, and ``mask`` [n] which of its
    rows are no pads.
    """

    total: Tensor
    language: Tensor
    reconstruction: dict[str, Tensor]
    right: Tensor
    tokens: int
    snaps: dict[str, Snap]
    mask: Tensor


class Editing(NamedTuple):
    """What is done to a codebook's choice while a context lasts: `Codebook.snap` says what."""

    edit: Edit | None
    blocked: Tensor | None
    refill: bool


class Codebooks(nn.Module):
    """The codebooks of a model, one a hook point; `insert` makes them.

    They act while enabled, as they are when made. Their parameters are those of the codebooks; the
    model keeps its own.

    Attributes
    ----------
    model : the `interp.Model` that they act in.
    points : the hook points, in the order asked for.
    books : the codebooks, in that order; ``codebooks["attn_out.3"]`` gives one by name.
    flat : a hook point holds the batch's positions in one row after the other, as OPT's MLPs do.
    """

    def __init__(
        self,
        model: Model,
        points: Sequence[HookPoint],
        books: Sequence[Codebook],
        *,
        flat: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.points = tuple(points)
        self.flat = flat
        self.books = nn.ModuleList(books)
        self._edits: dict[str, list[Editing]] = {}
        self._k: int | Mapping[str, int] | None = None
        self._batch: torch.Size | None = None
        self._seen: dict[str, Snap] | None = None
        self._shapes: dict[str, torch.Size] = {}
        self._hooks: list[RemovableHandle] | None = None
        self.enable()

    @property
    def names(self) -> tuple[str, ...]:
        """The hook points' names."""
        return tuple(p.name for p in self.points)

    @property
    def enabled(self) -> bool:
        """Whether the model reads codes."""
        return self._hooks is not None

    def __getitem__(self, name: str) -> Codebook:
        """The codebook of a hook point.

        Raises
        ------
        ParameterError
            There is none of that name.
        """
        if name not in self.names:
            hint = closest(name, self.names) or f"they are at {', '.join(self.names) or 'none'}."
            raise ParameterError(f"there is no codebook at {name!r}; {hint}")
        book = self.books[self.names.index(name)]
        assert isinstance(book, Codebook)  # noqa: S101
        return book

    def __len__(self) -> int:
        return len(self.points)

    def enable(self) -> Self:
        """Let the model read codes.

        What `torch.compile` made so far in this process is made again when it is next called, for
        the compiler does not notice hooks that are new.
        """
        if self._hooks is None:
            self._hooks = hook(self.model.module, self.points, self._replace)
            if self.flat:
                module = self.model.module
                note = module.register_forward_pre_hook(self._note_batch, with_kwargs=True)
                self._hooks.append(note)
            _forget_compiled()
        return self

    def disable(self) -> Self:
        """Give the model back as it is without codebooks."""
        for handle in self._hooks or ():
            handle.remove()
        self._hooks = None
        return self

    def check_enabled(self) -> None:
        """Refuse to be read while disabled: no codes are chosen then."""
        if not self.enabled:
            raise ParameterError("the codebooks are disabled and choose no codes; enable() first.")

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """The model without codebooks inside; as it was after."""
        was = self.enabled
        self.disable()
        try:
            yield
        finally:
            self.enable() if was else self.disable()

    @contextmanager
    def editing(
        self,
        name: str,
        edit: Edit | None = None,
        *,
        blocked: Tensor | None = None,
        refill: bool = True,
    ) -> Iterator[None]:
        """Change what a codebook chooses; several contexts act in the order entered.

        Parameters
        ----------
        name : of the hook point.
        edit : called with ids [b, t, groups, k] and gives them back changed; -1 empties a slot.
        blocked, refill : as for `Codebook.snap`.

        Raises
        ------
        ParameterError
            There is no codebook of that name, or the codebooks are disabled.
        """
        self[name]  # refuses a name that is not there
        self.check_enabled()
        mine = Editing(edit, blocked, refill)
        self._edits.setdefault(name, []).append(mine)
        try:
            yield
        finally:
            self._edits[name] = [e for e in self._edits[name] if e is not mine]

    @contextmanager
    def watching(self) -> Iterator[dict[str, Snap]]:
        """What each codebook does in the last forward inside, by hook point."""
        before, self._seen = self._seen, {}
        try:
            yield self._seen
        finally:
            self._seen = before

    def codes(self, inputs: Any) -> dict[str, Int[Tensor, "b t groups k"]]:
        """The codes that are chosen at each position of text or token ids, by hook point.

        Text is padded on the right to the longest; what stands at pads means nothing.

        Raises
        ------
        ParameterError
            The codebooks are disabled.
        """
        self.check_enabled()
        ids = {"input_ids": inputs} if isinstance(inputs, Tensor) else inputs
        with evaluating(self.model.module), torch.no_grad(), self.watching() as seen:
            self.model(ids)
        return {n: s.ids.unflatten(0, self._shapes[n]) for n, s in seen.items()}

    def loss(
        self,
        input_ids: Int[Tensor, "b t"],
        attention_mask: Int[Tensor, "b t"] | None = None,
        *,
        k: int | Mapping[str, int] | None = None,
    ) -> ModelLoss:
        """The loss of next tokens, and how badly codes explain what they replace.

        Parameters
        ----------
        input_ids : [b, t].
        attention_mask : [b, t], 0 at pads, which lie on the right; None for no pads.
        k : codes a row in place of the configs', while a schedule runs; or of each hook point.

        Raises
        ------
        DataError
            There is no token to predict.
        """
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        wanted = mask[:, 1:].bool()
        tokens = int(wanted.sum())
        if not tokens:
            raise DataError("Codebooks.loss: no row has two tokens, so there is none to predict.")
        inputs = {"input_ids": input_ids, "attention_mask": mask}
        whole = bool(wanted.all())
        if whole or not self.model.takes("attention_mask"):
            del inputs["attention_mask"]
        was, self._k = self._k, k
        try:
            with self.watching() as seen:
                logits = self.model(inputs).logits[:, :-1].float()
        finally:
            self._k = was
        logits, targets = logits[wanted], input_ids[:, 1:][wanted]
        language = cross_entropy(logits, targets)
        rows = mask.flatten().bool()
        parts = {n: self[n].reconstruction(s, None if whole else rows) for n, s in seen.items()}
        total = language + sum(self[n].config.weight * part for n, part in parts.items())
        right = (logits.detach().argmax(-1) == targets).sum()
        return ModelLoss(total, language, parts, right, tokens, dict(seen), rows)

    def save_pretrained(self, path: str | Path, *, weights: bool = True) -> Path:
        """Write the model, its tokenizer, and ``codebooks/`` beside them; gives the folder.

        Each codebook is a folder of its own, which `saes.SAE.from_pretrained` reads too.

        Parameters
        ----------
        weights : False writes the codebooks alone; the model is then given to `load`.

        Raises
        ------
        CheckpointError
            The model is none of Hugging Face's, so that only the codebooks can be written.
        StoreError
            The folder cannot be written.
        """
        folder, module = Path(path), self.model.module
        (folder / FOLDER / DOCUMENT).unlink(missing_ok=True)
        if weights:
            keep = getattr(module, "save_pretrained", None)
            if not callable(keep):
                raise CheckpointError(
                    f"{self.model.spec} has no save_pretrained; save its weights yourself, and the "
                    "codebooks with weights=False."
                )
            with quiet_transformers(), whole_files(folder) as beside:
                keep(beside)
                if self.model.tokenizer is not None:
                    self.model.tokenizer.save_pretrained(beside)
        for point in self.points:
            book = self[point.name]
            book.metadata = {**book.metadata, "hookpoint": point.name}
            book.save_pretrained(folder / FOLDER / point.name)
        document = {"format": FORMAT, "points": list(self.names), "model": self.model.identity()}
        write_text(folder / FOLDER / DOCUMENT, json.dumps(document, indent=2) + "\n")
        return folder

    @classmethod
    def load(cls, path: str | Path, model: Any = None, **options: Any) -> Self:
        """The codebooks of a folder that `save_pretrained` wrote, in their model, in eval mode.

        Parameters
        ----------
        model : the model that they belong to, where the folder does not hold it.
        options : for `interp.load`, such as ``device``.

        Raises
        ------
        CheckpointError
            The folder holds no codebooks, or the model is not the one that they were saved with.
        """
        folder = Path(path)
        try:
            document = parse_json((folder / FOLDER / DOCUMENT).read_text(encoding="utf-8"))
            names, identity = document["points"], document["model"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{folder} holds no codebooks of interp: {error}.") from error
        if document.get("format") != FORMAT:
            raise CheckpointError(
                f"{folder} has format {document.get('format')!r}; this interp reads {FORMAT}."
            )
        held = load(folder if model is None else model, **options)
        if held.fingerprint != identity["fingerprint"]:
            raise CheckpointError(
                f"{folder} holds codebooks of {identity['spec']} (weights "
                f"{identity['fingerprint']}); {held.spec} has other weights "
                f"({held.fingerprint}); give the model that they were saved with."
            )
        books = [SAE.from_pretrained(folder / FOLDER / name) for name in names]
        for name, book in zip(names, books, strict=True):
            if not isinstance(book, Codebook):
                raise CheckpointError(f"{folder}: {name} is a {book.architecture}, no codebook.")
        points = held.resolve(names) if names else []
        flat = any(shape.flat for shape in _shapes(held, points).values())
        found = cls(held, points, books, flat=flat)  # pyright: ignore[reportArgumentType]
        return found.to(held.device).eval()

    def _note_batch(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        given = (x for x in (*args, *kwargs.values()) if isinstance(x, Tensor) and x.ndim > 1)
        self._batch = next(given).shape[:2]

    def _replace(self, point: HookPoint, x: Tensor) -> Tensor:
        book = self[point.name]
        rows = x.reshape(-1, book.d_in)
        leading = x.shape[: x.ndim - (1 if point.d_head is None else 2)]
        if len(leading) == 1 and self._batch is not None:
            leading = self._batch
        edits = self._edits.get(point.name, [])
        blocked = [e.blocked for e in edits if e.blocked is not None]

        def edit(ids: Tensor) -> Tensor:
            shaped = ids.unflatten(0, leading)
            for one in edits:
                shaped = shaped if one.edit is None else one.edit(shaped)
            return shaped.flatten(0, len(leading) - 1)

        snap = book.snap(
            rows.to(book.codes.dtype),
            self._k[point.name] if isinstance(self._k, Mapping) else self._k,
            edit=edit if edits else None,
            blocked=torch.cat(blocked) if blocked else None,
            refill=all(e.refill for e in edits),
        )
        if self._seen is not None:
            self._seen[point.name], self._shapes[point.name] = snap, leading
        return snap.output.view(x.shape).to(x.dtype)


def insert(
    model: Any,
    hookpoints: str | Sequence[str] | Mapping[str, CodebookConfig],
    config: CodebookConfig | None = None,
    *,
    seed: int = 0,
) -> Codebooks:
    """Put codebooks into a model, enabled; the model itself is left as it is.

    Parameters
    ----------
    model : a `Model`, or what `interp.load` takes.
    hookpoints : names, roles and slices, such as ``["head_out.*", "mlp_out.*"]``, or a mapping of
        these to configs.
    config : of all codebooks, where no mapping is given. At ``head_out`` a config of one group
        becomes one group a head.
    seed : of the first codes.

    Raises
    ------
    ModelError
        The model is no causal language model.
    LayerNotFound
        The model lacks a role or a name that is asked for, or it never fires.
    ParameterError
        There is no config, or groups do not divide a width.
    """
    model = load(model)
    if isinstance(hookpoints, Mapping):
        asked = dict(hookpoints)
    elif config is None:
        raise ParameterError("insert needs a CodebookConfig, or a mapping of hook points to them.")
    else:
        asked = dict.fromkeys([hookpoints] if isinstance(hookpoints, str) else hookpoints, config)
    check_language_model(model)
    if getattr(model.config, "is_encoder_decoder", False):
        raise ModelError(
            f"{model.spec} reads one text and says another; codebooks take a causal language model."
        )
    points: dict[str, tuple[HookPoint, CodebookConfig]] = {}
    for expression, one in asked.items():
        for point in model.resolve(expression):
            if points.setdefault(point.name, (point, one))[1] != one:
                raise ParameterError(f"insert: {point.name} is asked for with two configs.")
    shapes = _shapes(model, [p for p, _ in points.values()])
    books = []
    for name, (point, one) in points.items():
        heads, width, _ = shapes[name]
        if point.d_head is not None and one.groups == 1:
            one = replace(one, groups=heads)
        books.append(Codebook(one, width, generator=seeded(seed, "codebook", name)))
    flat = any(shape.flat for shape in shapes.values())
    found = Codebooks(model, [p for p, _ in points.values()], books, flat=flat)
    return found.to(model.device).train(model.module.training)


def _forget_compiled() -> None:
    compiler = sys.modules.get("torch._dynamo")  # not there: nothing was compiled
    if compiler is not None:
        compiler.reset()


class _Shape(NamedTuple):
    heads: int
    width: int
    flat: bool


def _shapes(model: Model, points: Sequence[HookPoint]) -> dict[str, _Shape]:
    """Heads (1 where there are none) and width of each hook point, from a forward of one token."""
    shapes: dict[str, _Shape] = {}
    fired = {p.name: 0 for p in points}

    def look(point: HookPoint, x: Tensor) -> None:
        fired[point.name] += 1
        heads = 1 if point.d_head is None else x.shape[-2]
        if not x.is_floating_point() or x.ndim < 2 + (point.d_head is not None):
            raise ShapeError(f"{point.name} holds {list(x.shape)}, where a codebook needs rows.")
        flat = x.ndim == 2 + (point.d_head is not None)
        shapes[point.name] = _Shape(heads, heads * x.shape[-1], flat)

    if not points:
        return shapes
    with evaluating(model.module), torch.no_grad(), hooked(model.module, points, look):
        model({"input_ids": torch.zeros((1, 1), dtype=torch.long)})
    all_fired(fired, model.spec)
    return shapes
