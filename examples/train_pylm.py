"""Train demo:pylm, a small language model of Python source, and write it into the package.

    python examples/train_pylm.py                # about 25 minutes on one CPU core
    python examples/train_pylm.py --resume       # go on after a stop

The text is the standard library of the Python that runs this script, without the files that
``interp.demo.stdlib.is_held_out`` holds out. The held-out loss stands beside a unigram and a bigram
baseline in ``card.json``. Equal seed, Python, libraries and thread count give equal weights.
"""

import argparse
import json
import math
import os
import platform
import sys
import time
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from interp.demo.stdlib import is_held_out, read_source, source_files

OUT = Path(__file__).parents[1] / "interp" / "demo" / "pylm"
END = "<|endoftext|>"
VOCABULARY, WINDOW, STRIDE = 2048, 256, 128
SMOOTHING = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)


def log(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def documents(held_out: bool) -> list[str]:
    """The source files of one side, in the order of their paths."""
    texts = (read_source(path) for path in source_files() if is_held_out(path) == held_out)
    return [text for text in texts if text is not None]


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE; nothing is ever unknown, and decoding gives the text back."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END,
        eos_token=END,
        pad_token=END,
        model_max_length=WINDOW,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )


def stream(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> torch.Tensor:
    """All documents in one row of ids, with an end-of-text token before each and after the last."""
    backend, end = tokenizer.backend_tokenizer, tokenizer.eos_token_id
    ids: list[int] = [end]
    for text in texts:
        ids += [*backend.encode(text, add_special_tokens=False).ids, end]
    return torch.tensor(ids, dtype=torch.int64)


def new_model(seed: int) -> GPT2LMHeadModel:
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=WINDOW,
        n_embd=128,
        n_layer=4,
        n_head=4,
        n_inner=512,
        activation_function="relu",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return GPT2LMHeadModel(config)


def batch_at(step: int, ids: torch.Tensor, size: int, seed: int) -> torch.Tensor:
    """The windows of a step. They depend on the seed and the step alone, so a resume is exact."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    starts = torch.randint(len(ids) - WINDOW, (size, 1), generator=generator)
    return ids[starts + torch.arange(WINDOW + 1)]


def learning_rate(step: int, steps: int, peak: float, warm_up: int) -> float:
    """Linear warm-up, then a cosine down to a twentieth of the peak."""
    if step < warm_up:
        return peak * (step + 1) / warm_up
    done = (step - warm_up) / max(1, steps - warm_up)
    return peak * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done)))


def checkpoint_save(
    path: Path, model: GPT2LMHeadModel, optimizer: torch.optim.Optimizer, step: int
) -> None:
    tensors = {f"model.{name}": tensor.detach() for name, tensor in model.named_parameters()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".partial")
    save_file(tensors, beside, metadata={"step": str(step)})
    os.replace(beside, path)


def checkpoint_load(path: Path, model: GPT2LMHeadModel, optimizer: torch.optim.Optimizer) -> int:
    tensors = load_file(path)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[f"model.{name}"])
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".")
            state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
    # AdamW counts the steps itself, so the count and the weights cannot come apart.
    return int(state[0]["step"].item())


def loss_of(model: GPT2LMHeadModel, batch: torch.Tensor) -> torch.Tensor:
    logits = model(batch[:, :-1]).logits
    return functional.cross_entropy(
        logits.reshape(-1, VOCABULARY).float(), batch[:, 1:].reshape(-1)
    )


def train(
    model: GPT2LMHeadModel,
    ids: torch.Tensor,
    arguments: argparse.Namespace,
    until: int | None = None,
) -> int:
    """Train in place, to the last step or to ``until``; returns the number of steps done."""
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
        lr=arguments.lr,
        betas=(0.9, 0.98),
        fused=True,
    )
    step = 0
    if arguments.resume and arguments.checkpoint.exists():
        step = checkpoint_load(arguments.checkpoint, model, optimizer)
        log(f"resumed at step {step}")
    began, began_at, running = time.monotonic(), step, math.nan
    model.train()
    while step < (arguments.steps if until is None else until):
        if arguments.minutes and time.monotonic() - began > 60 * arguments.minutes:
            log(f"stopped after {arguments.minutes} minutes, at step {step}")
            break
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, arguments.steps, arguments.lr, arguments.warm_up)
        loss = loss_of(model, batch_at(step, ids, arguments.batch_size, arguments.seed))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        value = loss.item()
        running = value if math.isnan(running) else 0.98 * running + 0.02 * value
        if step % 50 == 0:
            pace = (time.monotonic() - began) / (step - began_at)
            left = pace * (arguments.steps - step) / 60
            log(f"step {step}  loss {running:.3f}  {pace:.3f} s/step  {left:.1f} min left")
        if step % 200 == 0:
            checkpoint_save(arguments.checkpoint, model, optimizer, step)
    checkpoint_save(arguments.checkpoint, model, optimizer, step)
    return step


@torch.inference_mode()
def model_loss(model: GPT2LMHeadModel, ids: torch.Tensor) -> float:
    """Mean loss in nats a token over all tokens but the first.

    Windows overlap by half and each scores the half that no earlier one has scored, so that every
    token past the first 128 has at least 128 before it.
    """
    model.eval()
    n, none = len(ids) - 1, -100
    count = max(1, math.ceil((n - WINDOW) / STRIDE) + 1)
    padded = functional.pad(ids, (0, (count - 1) * STRIDE + WINDOW - n), value=none)
    rows = padded.unfold(0, WINDOW + 1, STRIDE).clone()
    rows[1:, 1 : 1 + WINDOW - STRIDE] = none
    inputs = padded.unfold(0, WINDOW + 1, STRIDE)[:, :-1].clamp(min=0)
    if int((rows[:, 1:] != none).sum()) != n:
        raise RuntimeError(f"the windows score {int((rows[:, 1:] != none).sum())} of {n} tokens")
    total = 0.0
    for x, y in zip(inputs.split(32), rows[:, 1:].split(32), strict=True):
        logits = model(x).logits.reshape(-1, VOCABULARY)
        losses = functional.cross_entropy(
            logits, y.reshape(-1), ignore_index=none, reduction="none"
        )
        total += losses.sum(dtype=torch.float64).item()
    return total / n


def unigram_loss(train_ids: torch.Tensor, ids: torch.Tensor, k: float) -> float:
    """Mean loss in nats a token of add-k smoothed token frequencies."""
    counts = np.bincount(train_ids.numpy(), minlength=VOCABULARY) + k
    return float(-np.log(counts / counts.sum())[ids[1:].numpy()].mean())


def bigram_loss(train_ids: torch.Tensor, ids: torch.Tensor, k: float) -> float:
    """Mean loss in nats a token of add-k smoothed frequencies given the token before."""
    a, b = train_ids[:-1].numpy(), train_ids[1:].numpy()
    counts = np.bincount(a * VOCABULARY + b, minlength=VOCABULARY**2).reshape(VOCABULARY, -1)
    before, after = ids[:-1].numpy(), ids[1:].numpy()
    seen = counts.sum(axis=1)
    return float(
        -np.log((counts[before, after] + k) / (seen[before] + k * VOCABULARY)).mean(dtype=float)
    )


def card(
    model: GPT2LMHeadModel,
    train_ids: torch.Tensor,
    ids: torch.Tensor,
    n_bytes: int,
    steps: int,
    arguments: argparse.Namespace,
) -> dict[str, object]:
    """The figures. The baselines take the k that serves them best on the held-out tokens."""
    log("evaluating on the held-out files")
    loss = model_loss(model, ids)
    unigram, unigram_k = min((unigram_loss(train_ids, ids, k), k) for k in SMOOTHING)
    bigram, bigram_k = min((bigram_loss(train_ids, ids, k), k) for k in SMOOTHING)
    return {
        "name": "pylm",
        "text": "Python standard library, without tests and encodings",
        "python": platform.python_version(),
        "held_out": {
            "rule": "interp.demo.stdlib.is_held_out",
            "files": len(documents(held_out=True)),
            "tokens": len(ids) - 1,
            "bytes": n_bytes,
            "loss_nats_per_token": round(loss, 4),
            "bits_per_byte": round(loss * (len(ids) - 1) / math.log(2) / n_bytes, 4),
            "unigram_nats_per_token": round(unigram, 4),
            "unigram_k": unigram_k,
            "bigram_nats_per_token": round(bigram, 4),
            "bigram_k": bigram_k,
        },
        "training": {
            "files": len(documents(held_out=False)),
            "tokens": len(train_ids),
            "steps": steps,
            "batch_size": arguments.batch_size,
            "window": WINDOW,
            "tokens_seen": steps * arguments.batch_size * WINDOW,
            "learning_rate": arguments.lr,
            "seed": arguments.seed,
        },
        "parameters": sum(p.numel() for p in model.parameters()),
    }


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--minutes", type=float, default=0, help="stop early after so long")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--warm-up", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--checkpoint", type=Path, default=Path("build/pylm/last.safetensors"))
    return parser


def main() -> None:
    arguments = parser().parse_args()
    torch.set_num_threads(arguments.threads)

    texts, held_out_texts = documents(held_out=False), documents(held_out=True)
    tokenizer = train_tokenizer(texts)
    train_ids, ids = stream(tokenizer, texts), stream(tokenizer, held_out_texts)
    log(f"{len(texts)} files, {len(train_ids)} tokens; {len(held_out_texts)} files held out")
    model = new_model(arguments.seed)
    steps = train(model, train_ids, arguments)

    arguments.out.mkdir(parents=True, exist_ok=True)
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(arguments.out)
    tokenizer.save_pretrained(arguments.out)
    n_bytes = sum(len(text.encode()) for text in held_out_texts)
    figures = card(model, train_ids, ids, n_bytes, steps, arguments)
    (arguments.out / "card.json").write_text(json.dumps(figures, indent=2) + "\n")
    log(json.dumps(figures["held_out"], indent=2))


if __name__ == "__main__":
    main()
