"""A file of text larger than what is held in memory: read, tokenised and captured in pieces.

    python examples/big_text.py [--megabytes 200] [--kinds csv,jsonl,parquet,txt] [--json]

A file of so many megabytes and one of a tenth are captured, each in a process forked after the
imports, and what counts is by how much more memory the larger one takes at its peak
(`interp.memory`, pages of mapped files included). Then the same with the whole file read at once,
as a small one is. The stores of the two ways are compared, byte by byte.
"""

import argparse
import hashlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from interp import mapped, packed
from interp.capturing import Capture
from interp.memory import peak
from interp.models import Model

MB = 10**6
FILLER = "naïve " + "x" * 440
"""Most of a text, in few words: reading is what is measured, and tokenising takes long."""


def model():
    """A small model of a hundred words, with their tokenizer."""
    torch.manual_seed(0)
    config = GPT2Config(
        n_embd=8, n_layer=1, n_head=1, vocab_size=100, n_positions=8, bos_token_id=1, eos_token_id=1
    )
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(100)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="w0", unk_token="w0")
    return Model(GPT2LMHeadModel(config).eval(), spec="small", tokenizer=tokenizer)


def write(file, size):
    """A file of about so many bytes: texts of few distinct lines, a label and a group."""
    rows = size // 480
    with open(file, "w", encoding="utf-8") as opened:
        if file.suffix == ".csv":
            opened.write("text,label,group\n")
        for i in range(rows):
            text, label, group = f"w{i % 97} w{i % 89} {FILLER}", i % 2, f"g{i // 4}"
            if file.suffix == ".csv":
                opened.write(f'"{text}",{label},{group}\n')
            elif file.suffix == ".jsonl":
                opened.write(json.dumps({"text": text, "label": label, "group": group}) + "\n")
            else:
                opened.write(text + "\n")


def write_parquet(file, size):
    """The same rows as a parquet file."""
    import pyarrow as pa
    from pyarrow import parquet

    names = ("text", "label", "group")
    schema = pa.schema(list(zip(names, (pa.string(), pa.int64(), pa.string()), strict=True)))
    with parquet.ParquetWriter(file, schema, compression="none", use_dictionary=False) as writer:
        for start in range(0, size // 480, 10_000):
            some = range(start, min(start + 10_000, size // 480))
            texts = [f"w{i % 97} w{i % 89} {FILLER}" for i in some]
            columns = [texts, [i % 2 for i in some], [f"g{i // 4}" for i in some]]
            writer.write_table(pa.table(dict(zip(names, columns, strict=True)), schema=schema))


def captured(file, store, *, whole):
    """Bytes at the peak of a capture, stated and taken, and seconds; ``whole`` reads at once."""
    mapped.LARGE, packed.HELD = (2**60, 2**60) if whole else (MB, MB)
    work = Capture(model(), file, "embed", "last", max_length=8)
    stated = work.plan().peak_bytes
    began = time.perf_counter()
    work.on_disk(store, resume=False, force=False)
    return {"stated": stated, "peak": peak(), "rows": len(work.data),
            "seconds": time.perf_counter() - began, "store": digest(store)}  # fmt: skip


def digest(store):
    """One number for all files of a store."""
    found = hashlib.sha256()
    for path in sorted(store.iterdir()):
        with open(path, "rb") as file:
            found.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()[:16]


def child(work):
    """What a function gives in a fork of this process."""
    reads, writes = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.write(writes, json.dumps(work()).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(writes)
    with os.fdopen(reads, "rb") as file:
        text = file.read()
    if os.waitpid(pid, 0)[1]:
        raise SystemExit("a child failed")
    return json.loads(text)


def measured(kind, size, folder):
    """Of a kind of file: what a capture takes for a tenth and for all, in pieces and whole."""
    found = {}
    for name, bytes in (("tenth", size // 10), ("all", size)):
        file = folder / f"{name}.{kind}"
        child(lambda f=file, b=bytes: (write_parquet if kind == "parquet" else write)(f, b))
        for way in ("pieces", "whole"):
            store = folder / f"{kind}-{way}-{name}"
            run = lambda f=file, s=store, w=way: captured(f, s, whole=w == "whole")  # noqa: E731
            found[f"{way} {name}"] = child(run)
        file.unlink()
    growth = {
        w: found[f"{w} all"]["peak"] - found[f"{w} tenth"]["peak"] for w in ("pieces", "whole")
    }
    same = all(
        found[f"pieces {n}"]["store"] == found[f"whole {n}"]["store"] for n in ("tenth", "all")
    )
    return {"growth": growth, "same": same, **found}


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--megabytes", type=float, default=200)
    parser.add_argument("--kinds", default="csv,jsonl,parquet,txt")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    found = {}
    with tempfile.TemporaryDirectory() as top:
        for kind in asked.kinds.split(","):
            found[kind] = measured(kind, int(asked.megabytes * MB), Path(top))
    if asked.json:
        print(json.dumps(found))
        return
    print("kind     rows      growth in pieces  growth whole  peak in pieces (stated)  same store")
    for kind, f in found.items():
        a = f["pieces all"]
        print(
            f"{kind:8} {a['rows']:<9,} {f['growth']['pieces'] / MB:>9.1f} MB "
            f"{f['growth']['whole'] / MB:>15.1f} MB {a['peak'] / MB:>13.0f} MB "
            f"({a['stated'] / MB:.0f}) {f['same']!s:>12}"
        )


if __name__ == "__main__":
    sys.exit(main())
