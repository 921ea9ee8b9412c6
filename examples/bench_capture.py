"""What capture costs: ratios to the bare forward and to two peers, in one run.

``python examples/bench_capture.py [--rounds 5] [--layers 12] [--width 768] [--rows 64]``

Everything runs the same batches (the ones that our capture plans: sorted by length, padded on the
right) through the same randomly initialised GPT-2, in float32, in turn, several rounds; the first
round is not counted. A row's ratio is the median over rounds of its time to the bare forward's in
the same round. The floor of a capture is the bare forward (ratio 1): a hook's work is a copy.
``bare`` is the whole model under inference mode; with a vocabulary of 2,048 its head is 2 % of it.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

import interp
from interp import demo
from interp.capturing import Capture
from interp.models import Model, quiet_transformers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--rows", type=int, default=64)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        contenders = build(Path(folder), args.layers, args.width, args.rows)
        times: dict[str, list[float]] = {name: [] for name in contenders}
        for round_ in range(args.rounds + 1):
            for name, run in contenders.items():
                began = time.perf_counter()
                run()
                if round_ > 0:
                    times[name].append(time.perf_counter() - began)
    print(f"{args.layers} layers, d={args.width}, {args.rows} rows, {args.rounds} rounds, ", end="")
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"{'':34}{'seconds':>9}{'ratio to bare':>15}{'min':>7}{'max':>7}")
    for name, taken in times.items():
        ratios = [t / b for t, b in zip(taken, times["bare forward"], strict=True)]
        print(
            f"{name:34}{statistics.median(taken):9.2f}{statistics.median(ratios):15.3f}"
            f"{min(ratios):7.3f}{max(ratios):7.3f}"
        )


def build(folder: Path, layers: int, width: int, rows: int) -> dict[str, Callable[[], Any]]:
    """The contenders by name, each a function that goes over the data once."""
    config = transformers.GPT2Config(
        n_layer=layers,
        n_embd=width,
        n_head=width // 64,
        vocab_size=2048,
        n_positions=256,
        bos_token_id=0,
        eos_token_id=0,
    )
    with quiet_transformers():
        module = transformers.GPT2LMHeadModel(config).eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(demo.model_path("pylm"))
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        module.save_pretrained(folder / "model")
        tokenizer.save_pretrained(folder / "model")
    model = Model(module, spec="gpt2-random", tokenizer=tokenizer)
    data = interp.read(demo.dataset("python").inputs[:rows])
    work = Capture(model, data, "resid_post.*")
    batches = [
        model.pad([work.feed.ids[r] for r in b]) for s in work.shards for b in work.batches(*s)
    ]
    stored = iter(range(1_000_000))

    def bare() -> None:
        with torch.inference_mode():
            for batch in batches:
                module(**batch)

    def captured(points: str, pool: Any = "last") -> None:
        interp.capture(model, data, points, pool=pool)

    def to_disk(pool: Any) -> None:
        out = folder / f"acts-{next(stored)}"
        interp.capture(model, data, "resid_post.*", pool=pool, out=out)

    return {
        "bare forward": bare,
        "interp, all resid_post, last": lambda: captured("resid_post.*"),
        "interp, all resid_post, all tokens": lambda: captured("resid_post.*", "all"),
        "interp, to disk, last": lambda: to_disk("last"),
        "interp, to disk, all tokens": lambda: to_disk("all"),
        "interp, resid_post.2 alone": lambda: captured("resid_post.2"),
        "transformer-lens run_with_cache": transformer_lens(folder / "model", batches),
        "nnsight trace": nnsight(folder / "model", batches, layers),
    }


def transformer_lens(folder: Path, batches: list[dict[str, torch.Tensor]]) -> Callable[[], Any]:
    bridge = interp.load(f"tl:{folder}").module

    def run() -> None:
        with torch.inference_mode():
            for batch in batches:
                _, cache = bridge.run_with_cache(
                    batch["input_ids"],
                    attention_mask=batch["attention_mask"],
                    names_filter=lambda name: name.endswith("hook_resid_post"),
                )
                last = batch["attention_mask"].sum(1) - 1
                rows = torch.arange(len(last))
                _ = [value[rows, last] for value in cache.values()]

    return run


def nnsight(folder: Path, batches: list[dict[str, torch.Tensor]], layers: int) -> Callable[[], Any]:
    from nnsight import TransformersModel

    with quiet_transformers():
        model = TransformersModel(str(folder), task="text-generation", dispatch=True)

    def run() -> None:
        for batch in batches:
            last = batch["attention_mask"].sum(1) - 1
            rows = torch.arange(len(last))
            inputs = dict(batch)
            with torch.inference_mode():
                with model.trace(inputs):
                    kept = list().save()
                    for i in range(layers):
                        kept.append(model.transformer.h[i].output[rows, last])
            assert len(kept) == layers

    return run


if __name__ == "__main__":
    main()
