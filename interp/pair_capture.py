"""Capture of pairs: what an image and its text are in a model, as two hook points of one store.

Three kinds of model have both. A dual encoder (CLIP, SigLIP) has a tower for each, read at
``image_embeds`` and ``text_embeds`` or at any ``vision.`` and ``text.`` hook point. A decoder that
reads image tokens (LLaVA) is read at one hook point: the mean over the image's tokens, and over the
text's tokens after them. And any two models can be read, one for each.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from interp.capturing import Capture, Progress, check_run, source_of
from interp.data import Dataset
from interp.errors import DataError, LayerNotFound, ModelError, ParameterError
from interp.feeds import BATCH_IMAGES, BATCH_TOKENS, Feed, ImageFeed, TextFeed, pixels_of
from interp.hookpoints import EMBEDS, HookPoint
from interp.images import open_image
from interp.loading import load
from interp.models import Model
from interp.packed import PackedIds
from interp.pairs import images_of, read_pairs, texts_of_pairs
from interp.pooling import POOLS, Pool
from interp.store import ActivationStore

__all__ = ["PairCapture", "capture_pairs"]

PROMPT = "<image>\n{text}"
"""What a decoder of images reads, unless another is given."""


def capture_pairs(
    model: "Model | nn.Module | str",
    data: Any,
    hookpoints: str | Sequence[str] | None = None,
    *,
    text_model: "Model | nn.Module | str | None" = None,
    pool: str | Sequence[str] = "mean",
    prompt: str | None = None,
    batch_size: int | None = None,
    out: str | Path | None = None,
    dtype: str | None = None,
    max_length: int | None = None,
    shard_rows: int | None = None,
    resume: bool = False,
    force: bool = False,
    progress: Progress | None = None,
    image_column: str | None = None,
    text_column: str | None = None,
) -> ActivationStore:
    """Run a model over pairs of images and texts and keep what each of the two is in it.

    Row i of both hook points comes from pair i. Texts are padded as in `interp.capture`: pads
    never enter, and a few rows are run alone and in a batch. SigLIP's texts are padded to the
    model's full length, as it was trained; its text vector stands at the last position.

    Parameters
    ----------
    model : a `Model`, a module, or what `interp.load` takes. With ``text_model`` it reads images.
    data : what `interp.read_pairs` takes.
    hookpoints : the image's and the text's; by default ``image_embeds`` and ``text_embeds``. Of a
        decoder that reads images, one: it gives two columns, ``NAME@image`` and ``NAME@text``.
    text_model : reads the texts, where another model than ``model`` does.
    pool : over the positions of each hook point, or one for the image's and one for the text's.
        ``image_embeds`` and ``text_embeds`` have one position.
    prompt : what a decoder reads, with ``<image>`` before ``{text}``; by default an image, a new
        line, and the text.
    batch_size, out, dtype, max_length, shard_rows, resume, force, progress : as for
        `interp.capture`.
    image_column, text_column : of the data, where not found by their names.

    Returns
    -------
    ActivationStore
        ``manifest["pairs"]`` says which hook point is the image's and which the text's.

    Raises
    ------
    DataError
        A row lacks its image or its text, or its image cannot be read.
    LayerNotFound
        A hook point does not exist, or they are not as many as the model needs.
    ModelError
        The model reads no images or no texts.
    """
    columns = {"image_column": image_column, "text_column": text_column}
    work = PairCapture(
        model, data, hookpoints, text_model=text_model, pool=pool, prompt=prompt,
        batch_size=batch_size, dtype=dtype, max_length=max_length, columns=columns,
        shard_rows=shard_rows,
    )  # fmt: skip
    if out is None:
        if resume or force:
            raise ParameterError("resume and force need out, the store's folder.")
        return work.in_memory(progress)
    return work.on_disk(Path(out), resume=resume, force=force, progress=progress)


class PairCapture(Capture):
    """A capture of pairs that has been checked and planned; see `capture_pairs`."""

    def __init__(
        self,
        model: "Model | nn.Module | str",
        data: Any,
        hookpoints: str | Sequence[str] | None = None,
        *,
        text_model: "Model | nn.Module | str | None" = None,
        pool: str | Sequence[str] = "mean",
        prompt: str | None = None,
        batch_size: int | None = None,
        dtype: str | None = None,
        max_length: int | None = None,
        columns: dict[str, str | None] | None = None,
        shard_rows: int | None = None,
    ) -> None:
        check_run(batch_size, dtype, shard_rows)
        self._pools = _pools(pool)
        self.pool = self._pools[0] if len(set(self._pools)) == 1 else ", ".join(self._pools)
        images = load(model)
        self.data = read_pairs(data, **(columns or {}))
        wanted = [hookpoints] if isinstance(hookpoints, str) else list(hookpoints or ())
        self.source = source_of(
            model, data, wanted, dtype, columns or {}, prompt=prompt,
            text_model=getattr(text_model, "spec", None if text_model is None else str(text_model)),
        )  # fmt: skip
        if text_model is None and _reads_images(images):
            self.feed: Any = DecoderFeed(images, self.data, prompt or PROMPT, max_length)
            self.model, points = images, _twice(images, wanted)
            if set(self._pools) != {"mean"}:
                raise ParameterError(
                    f"{images.spec} is read by means over image and text tokens; got pool {pool!r}."
                )
        else:
            if prompt is not None:
                raise ParameterError(
                    f"prompt is for a decoder that reads images, and {images.spec} is none."
                )
            texts = images if text_model is None else load(text_model)
            self.model, points = _sides(images, texts, wanted)
            self.feed = PairFeed(images, texts, self.data, points, max_length)
        self.sides = {"image": points[0].name, "text": points[1].name}
        self._prepare(points, batch_size, dtype, shard_rows)

    def how(self, point: HookPoint) -> Pool:
        """How the image's, or the text's, positions are pooled."""
        return cast(Pool, self._pools[point.name != self.sides["image"]])

    def key(self) -> dict[str, Any]:
        """What changes the numbers of a store."""
        prompt = getattr(self.feed, "prompt", None)
        return {**super().key(), "pairs": self.sides, "pools": self._pools, "prompt": prompt}

    def _manifest(self) -> dict[str, Any]:
        pairs = {**self.sides, "image_column": self.data.image_column}
        return {**super()._manifest(), "pairs": pairs}


class PairFeed(Feed):
    """Images through one model or tower, then their texts through another."""

    def __init__(
        self,
        images: Model,
        texts: Model,
        data: Dataset,
        points: list[HookPoint],
        max_length: int | None,
    ) -> None:
        if images.processor is None:
            raise ModelError(
                f"{images.spec} has no image processor that says how to normalise images; load it "
                "with processor=…"
            )
        self.image = ImageFeed(images, images_of(data))
        self.text = TextFeed(texts, texts_of_pairs(data), max_length)
        self.image.check([points[0]])
        self.text.check([points[1]])
        self.text_point = points[1].name
        self.key = ("pair", *self.image.key, *self.text.key, max_length)
        self.model, self.data, self.mask = images, data, None
        self.lengths, self.max_length, self.notes = self.text.lengths, max_length, self.text.notes

    def batch_rows(self, length: int) -> int:
        """Rows of a batch whose longest text has this length."""
        return min(BATCH_IMAGES, self.text.batch_rows(length))

    def mask_of(self, point: HookPoint) -> Tensor | None:
        """The texts' real positions at their hook point; images have no pads."""
        return self.text.mask if point.name == self.text_point else None

    def run(self, rows: Sequence[int]) -> Any:
        """Run both on some rows."""
        self.image.run(rows)
        return self.text.run(rows)


class DecoderFeed(TextFeed):
    """Prompts with an image's tokens in them, for a decoder that reads both."""

    def __init__(self, model: Model, data: Dataset, prompt: str, max_length: int | None) -> None:
        before, _, after = prompt.partition("<image>")
        if "{text}" not in after or "{text}" in before:
            raise ParameterError(
                f"prompt must hold <image>, and {{text}} after it; got {prompt!r}."
            )
        if model.processor is None or model.tokenizer is None:
            raise ModelError(
                f"{model.spec} lacks its image processor or its tokenizer; load it with "
                "processor=… and tokenizer=…"
            )
        self.prompt = prompt
        self.token: int = model.config.image_token_id
        self.images = [image for image, _ in data.inputs]
        word = model.tokenizer.convert_ids_to_tokens(self.token)
        texts = [
            prompt.replace("<image>", str(word)).replace("{text}", str(text))
            for _, text in data.inputs
        ]
        read = Dataset(name=data.name, kind="text", inputs=texts, rows=data.rows)
        super().__init__(model, read, max_length)
        self.key = ("decoder", prompt, max_length)
        self._expand()

    def _expand(self) -> None:
        """Give each image as many tokens as it has features."""
        n = self._features()
        self.ids = PackedIds(self._expanded(row, ids, n) for row, ids in enumerate(self.ids))
        self.lengths = self.ids.lengths

    def _expanded(self, row: int, ids: list[int], n: int) -> list[int]:
        limit = self.model.max_length
        if ids.count(self.token) != 1:
            raise DataError(
                f"row {row} of {self.data.name} has {ids.count(self.token)} image tokens where "
                "one is needed: the tokenizer must know it, and no text may hold it."
            )
        at = ids.index(self.token)
        if at == len(ids) - 1:
            raise DataError(f"row {row} of {self.data.name} has no text token after its image.")
        expanded = [*ids[:at], *[self.token] * n, *ids[at + 1 :]]
        if limit is not None and len(expanded) > limit:
            raise DataError(
                f"row {row} of {self.data.name} has {len(expanded)} tokens, {n} of them "
                f"of its image, and {self.model.spec} takes {limit}; cut its text with "
                f"max_length={limit - n + 1} (--max-length)."
            )
        return expanded

    @torch.inference_mode()
    def _features(self) -> int:
        """Features of an image, from the first."""
        module: Any = self.model.module
        pixels = pixels_of(self.model, [open_image(self.images[0], 0)])
        found = module.get_image_features(pixel_values=pixels)
        return len(getattr(found, "pooler_output", found)[0])

    def batch_rows(self, length: int) -> int:
        """Rows of a batch whose longest row has this length."""
        return max(1, min(BATCH_IMAGES, BATCH_TOKENS // length))

    def mask_of(self, point: HookPoint) -> Tensor | None:
        """The image's tokens, or those of the text after them."""
        return self.masks[point.name.rpartition("@")[2]]

    def run(self, rows: Sequence[int]) -> Any:
        """Run the model on some rows, and set the masks of both."""
        padded = self.model.pad([self.ids[r] for r in rows])
        image = padded["input_ids"] == self.token
        after = image.flip(1).cumsum(1).flip(1) == 0
        self.mask = padded["attention_mask"].bool()
        self.masks = {"image": image & self.mask, "text": after & self.mask}
        pixels = pixels_of(self.model, [open_image(self.images[r], r) for r in rows])
        return self.model.module(**padded, pixel_values=pixels)


def _pools(pool: str | Sequence[str]) -> tuple[str, str]:
    both = (pool, pool) if isinstance(pool, str) else tuple(pool)
    known = [p for p in POOLS if p != "all"]
    if len(both) != 2 or not set(both) <= set(known):
        raise ParameterError(
            f"pool of pairs must be one of {', '.join(known)}, or two of them, the image's and the "
            f"text's; got {pool!r}."
        )
    return both[0], both[1]


def _reads_images(model: Model) -> bool:
    """Whether a model puts an image's tokens among those of a text."""
    known = getattr(model.config, "image_token_id", None) is not None
    return known and hasattr(model.module, "get_image_features")


def _twice(model: Model, wanted: list[str]) -> list[HookPoint]:
    """One hook point of a decoder, for its image's tokens and for its text's."""
    points = model.resolve(wanted) if wanted else []
    if len(points) != 1:
        raise LayerNotFound(
            f"{model.spec} reads images and texts in one sequence, so pairs need one hook point, "
            f"such as text.resid_post.-2; got {', '.join(p.name for p in points) or 'none'}."
        )
    if points[0].stack == "vision":
        raise LayerNotFound(f"{points[0].name} sees no text; name a hook point of the decoder.")
    return [replace(points[0], name=f"{points[0].name}@{side}") for side in ("image", "text")]


def _sides(images: Model, texts: Model, wanted: list[str]) -> tuple[Model, list[HookPoint]]:
    """The model of both, and the hook point of each."""
    wanted = wanted or list(EMBEDS)
    if len(wanted) != 2:
        raise LayerNotFound(
            f"pairs need two hook points, the image's and the text's; got {', '.join(wanted)}."
        )
    points = []
    for model, name, side in zip((images, texts), wanted, ("image", "text"), strict=True):
        found = model.resolve(name)
        if len(found) != 1:
            raise LayerNotFound(
                f"{name!r} means {len(found)} hook points, and pairs need one for each {side}."
            )
        points.append(found[0])
    same = points[0].name == points[1].name
    if images is texts:
        if same:
            raise LayerNotFound(f"{points[0].name} cannot be the image's and the text's at once.")
        return images, points
    both = nn.ModuleDict({"image": images.module, "text": texts.module})
    model = Model(both, spec=f"{images.spec} + {texts.spec}", tokenizer=texts.tokenizer)
    named = [
        replace(p, module=f"{side}.{p.module}", name=f"{p.name}@{side}" if same else p.name)
        for p, side in zip(points, both, strict=True)
    ]
    return model, named
