"""Train demo:digits-clip, a small CLIP of handwritten digits, and write it into the package.

    python examples/train_digits_clip.py         # about two minutes on one CPU core

A ViT reads 8 x 8 pixels, a causal transformer reads captions of some twenty words, and both end in
32 dimensions. The captions of an epoch are drawn anew; a caption is true of many images of a batch,
so the target of the contrastive loss is every pair of which it holds. Images that
``interp.demo.captions.is_held_out`` keeps are not seen; ``card.json`` says what the model does on
them. Equal seed, libraries and thread count give equal weights.
"""

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch.nn import functional
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    PreTrainedTokenizerFast,
)

from interp.data import Dataset
from interp.demo.captions import FACTS, captioned, prompts

OUT = Path(__file__).parents[1] / "interp" / "demo" / "digits_clip"
SPECIAL = ("<pad>", "<start>", "<unknown>", "<end>")
LENGTH, WIDTH, PROJECTED = 24, 64, 32


def log(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def make_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """A token a word; a caption stands between a start and an end, where CLIP reads it."""
    words = sorted({word for text in texts for word in text.split()})
    vocabulary = {word: i for i, word in enumerate((*SPECIAL, *words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unknown>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 1), ("<end>", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<start>",
        unk_token="<unknown>",
        eos_token="<end>",
        model_max_length=LENGTH,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )


def new_model(words: int, seed: int) -> CLIPModel:
    shared = {
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_attention_heads": 4,
        "projection_dim": PROJECTED,
    }
    config = CLIPConfig(
        text_config={
            **shared,
            "num_hidden_layers": 2,
            "vocab_size": words,
            "max_position_embeddings": LENGTH,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 3,
        },
        vision_config={**shared, "num_hidden_layers": 3, "image_size": 8, "patch_size": 2},
        projection_dim=PROJECTED,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CLIPModel(config)


def pixels(data: Dataset) -> torch.Tensor:
    """The images [n, 3, 8, 8], from -1 to 1."""
    held = np.stack([np.asarray(image) for image, _ in data.inputs])
    return torch.from_numpy(held).permute(0, 3, 1, 2).float() / 127.5 - 1


def shifted(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Each image moved by up to one pixel each way, on background."""
    padded = functional.pad(x, (1, 1, 1, 1), value=-1.0)
    moves = torch.randint(3, (len(x), 2), generator=generator).tolist()
    return torch.stack(
        [p[:, a : a + 8, b : b + 8] for p, (a, b) in zip(padded, moves, strict=True)]
    )


def truths(rows: pd.DataFrame) -> torch.Tensor:
    """[images, captions]: whether the caption of one row is true of the image of another."""
    true = torch.ones(len(rows), len(rows), dtype=torch.bool)
    for fact in FACTS:
        held = rows[fact].to_numpy()
        equal = held[:, None] == held[None]
        silent = np.array([fact not in s.split() for s in rows["says"]])
        true &= torch.from_numpy(equal | silent)
    return true


def encode_texts(
    model: CLIPModel, tokenizer: PreTrainedTokenizerFast, texts: list[str]
) -> torch.Tensor:
    ids = tokenizer(texts, padding=True, return_tensors="pt")
    taken = {k: ids[k] for k in ("input_ids", "attention_mask")}
    found: Any = model.get_text_features(**taken)
    return functional.normalize(found.pooler_output, dim=-1)


def encode_images(model: CLIPModel, x: torch.Tensor) -> torch.Tensor:
    found: Any = model.get_image_features(pixel_values=x)
    return functional.normalize(found.pooler_output, dim=-1)


def train(
    model: CLIPModel, tokenizer: PreTrainedTokenizerFast, seed: int, epochs: int, batch: int
) -> None:
    data = captioned(seed, captions=1, split="train")
    x = pixels(data)
    steps = epochs * (len(data) // batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda s: min(1, (s + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * s / steps))),
    )
    generator = torch.Generator().manual_seed(seed)
    loss = torch.tensor(0.0)
    for epoch in range(epochs):
        drawn = captioned(seed * 10_000 + epoch + 1, captions=1, split="train")
        order = torch.randperm(len(data), generator=generator)
        for rows in order.split(batch):
            if len(rows) < batch:
                continue
            picked = drawn.rows.iloc[rows.tolist()].reset_index(drop=True)
            true = truths(picked).float()
            v = encode_images(model, shifted(x[rows], generator))
            t = encode_texts(model, tokenizer, picked["caption"].tolist())
            scores = model.logit_scale.exp().clamp(max=100) * v @ t.T
            loss = 0.5 * (_soft(scores, true) + _soft(scores.T, true.T))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        if epoch % 10 == 9:
            log(f"epoch {epoch + 1}: loss {loss.item():.4f}")


def _soft(scores: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """Cross-entropy with the true pairs of a row, equally."""
    target = true / true.sum(1, keepdim=True)
    return -(target * scores.log_softmax(1)).sum(1).mean()


@torch.inference_mode()
def score(model: CLIPModel, tokenizer: PreTrainedTokenizerFast, split: str) -> dict[str, float]:
    """Zero-shot accuracy and retrieval on one split; chance beside them."""
    data = captioned(0, captions=1, split=split)
    v = encode_images(model, pixels(data))
    t = encode_texts(model, tokenizer, data.rows["caption"].tolist())
    classes = encode_texts(model, tokenizer, prompts())
    digits = torch.tensor([prompts().index(f"the digit {d}") for d in data.rows["digit"]])
    true, scores = truths(data.rows), v @ t.T
    every = torch.arange(len(data))
    return {
        "images": len(data),
        "zero_shot_accuracy": float(((v @ classes.T).argmax(1) == digits).double().mean()),
        "image_to_true_caption": float(true[every, scores.argmax(1)].double().mean()),
        "caption_to_true_image": float(true.T[every, scores.argmax(0)].double().mean()),
        "chance_true": float(true.double().mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--batch", type=int, default=128)
    args = parser.parse_args()
    torch.set_num_threads(1)
    texts = [text for seed in range(20) for text in captioned(seed, 1).rows["caption"]]
    tokenizer = make_tokenizer(texts)
    model = new_model(len(tokenizer), args.seed)
    train(model, tokenizer, args.seed, args.epochs, args.batch)
    model.eval()
    card = {
        "about": "a small CLIP of scikit-learn's digits; made by examples/train_digits_clip.py",
        "seed": args.seed,
        "epochs": args.epochs,
        "parameters": sum(p.numel() for p in model.parameters()),
        "held_out": score(model, tokenizer, "held out"),
        "train": score(model, tokenizer, "train"),
    }
    log(json.dumps(card, indent=1))
    processor = CLIPImageProcessor(
        size={"shortest_edge": 8},
        crop_size={"height": 8, "width": 8},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    for part in (model, tokenizer, processor):
        part.save_pretrained(args.out)
    (args.out / "card.json").write_text(json.dumps(card, indent=1) + "\n")


if __name__ == "__main__":
    main()
