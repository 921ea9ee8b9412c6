"""What the cases are mutations of: a tiny model, data, a store, coders and runs, all sound."""

import csv
import json
import os
import shutil
from functools import cache
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from typer.testing import CliRunner

from interp.cli import app

WORDS = 40
TEXTS = [
    " ".join(f"w{2 + (7 * i + 11 * j + i * j) % 36}" for j in range(1 + (5 * i) % 7))
    for i in range(24)
]
ROWS = [
    {"text": t, "label": "yes" if i % 2 else "no", "city": f"c{i // 2}"}
    for i, t in enumerate(TEXTS)
]
POINT = "resid_post.0"
SHARDS = ("--shard-rows", "8")
"""Options of a capture that writes the few rows in three files."""


class Bench:
    """A folder of sound inputs; cases copy what they spoil.

    Attributes
    ----------
    model : the folder of a GPT-2 of two layers, 16 wide, that reads words.
    table : a csv of 24 rows: text, label, city.
    store : its activations at resid_post.0 and resid_post.1.
    coder, training : an autoencoder, and the run of `interp sae train` that it is of.
    cut, train : that run, interrupted, and the command line of both.
    probed, probed_again : runs of `interp probe` with two seeds.
    books : the model with codebooks.
    pairs, concepts : a VL-SAE of demo:digits-clip, and the run that holds its concepts.
    captions : the csv of its 40 pairs.
    digits : a safetensors file of inputs for demo:digits.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model, self.table = folder / "model", folder / "things.csv"
        self.store, self.digits = folder / "acts", folder / "digits.safetensors"
        self.training, self.probed = folder / "trained", folder / "probed"
        self.coder = self.training / "sae"
        _save_model(self.model)
        with open(self.table, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(ROWS[0]))
            writer.writeheader()
            writer.writerows(ROWS)
        both = f"{POINT},resid_post.1"
        self.do("capture", self.model, self.table, "-p", both, *SHARDS, "--out", self.store)
        train = (
            "sae train --k 2 --n-latents 24 --steps 8 --batch-size 8 --checkpoint-every 4 --store"
        )
        self.train = [*train.split(), str(self.store), "-p", POINT]
        self.do(*self.train, "--out", self.training)
        self.cut = self._cut_short(folder / "cut")
        self.do(
            "probe", self.model, self.table, "--folds", 3, "--no-random-model", "--out", self.probed
        )
        self.probed_again = folder / "probed-again"
        self.do("probe", self.model, self.table, "--folds", 3, "--no-random-model", "--seed", 1,
                "--out", self.probed_again)  # fmt: skip
        self.do(
            "sae", "train", self.model, self.table, "--arch", "codebook", "-p", POINT, "--k", 1,
            "--n-latents", 8, "--steps", 2, "--out", folder / "books",
        )  # fmt: skip
        self.books = folder / "books" / "model"
        self._save_digits()
        self._learn_pairs()
        self._sound: Any = None
        self._points: Any = None
        self._usual: dict[str, Path] = {}

    def do(self, *argv: Any) -> Any:
        """Run a command that must succeed."""
        done = CliRunner().invoke(app, [str(a) for a in argv])
        assert done.exit_code == 0, done.output
        return done

    def copy(self, source: Path, to: Path) -> Path:
        """A copy that a case may spoil."""
        return Path(shutil.copytree(source, to) if source.is_dir() else shutil.copy(source, to))

    def usual(self, name: str, line: Any) -> Path:
        """The run that a command's sound line makes, beside the bench."""
        if name not in self._usual:
            out = self.folder.with_name(f"{self.folder.name}-usual") / name.replace(" ", "-")
            self.do(*line(self, name, out))
            self._usual[name] = out
        return self._usual[name]

    def points(self) -> Any:
        """The hook points of the model."""
        if self._points is None:
            import interp

            self._points = interp.load(str(self.model)).points
        return self._points

    def sound(self, read: Any) -> Any:
        """What a reader of stores finds in the sound one."""
        if self._sound is None:
            self._sound = read(self.store)
        return self._sound

    def expected(self, text: str) -> torch.Tensor:
        """The last token's activation at `POINT`, by transformers alone."""
        return _hidden(str(self.model), text)

    def _cut_short(self, out: Path) -> Path:
        """The training, interrupted after its first checkpoint."""
        import saes.trainer as trainer

        write = trainer.write_state

        def stop(*args: Any) -> None:
            write(*args)
            raise KeyboardInterrupt

        trainer.write_state = stop
        try:
            done = CliRunner().invoke(app, [*self.train, "--out", str(out)])
        finally:
            trainer.write_state = write
        assert done.exit_code == 130 and (out / "checkpoint.safetensors").is_file(), done.output
        return out

    def _learn_pairs(self) -> None:
        from interp.demo import dataset

        self.captions = self.folder / "pairs" / "captions.csv"
        self.captions.parent.mkdir()
        data = dataset("digits-clip")
        lines = ["image,text,label"]
        for i, (image, text) in enumerate(list(data.inputs)[:40]):
            image.save(self.captions.with_name(f"{i}.png"))
            lines.append(f"{i}.png,{text},{i % 2}")
        self.captions.write_text("\n".join(lines) + "\n")
        pairs = ("demo:digits-clip", self.captions)
        run, self.concepts = self.folder / "pairs" / "run", self.folder / "pairs" / "concepts"
        self.do("sae", "train", *pairs, "--arch", "vl", "--steps", 3, "--batch-size", 8,
                "--n-latents", 16, "--k", 4, "--out", run)  # fmt: skip
        self.pairs = run / "sae"
        self.do("sae", "concepts", self.pairs, *pairs, "--top", 2, "--out", self.concepts)

    def _save_digits(self) -> None:
        from safetensors.torch import save_file

        from interp.demo import dataset

        data = dataset("digits")
        assert isinstance(data.inputs, torch.Tensor)
        x = data.inputs[:16].contiguous()
        save_file({"x": x, "label": torch.arange(16) % 2}, self.digits)


@cache
def _network(folder: str) -> Any:
    from transformers import AutoTokenizer, GPT2LMHeadModel

    return GPT2LMHeadModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


@cache
def _hidden(folder: str, text: str) -> torch.Tensor:
    net, tokenizer = _network(folder)
    with torch.inference_mode():
        found = net(**tokenizer(text, return_tensors="pt"), output_hidden_states=True)
    return found.hidden_states[1][0, -1]


def _save_model(folder: Path) -> None:
    import transformers as t
    from tokenizers import Tokenizer, models, pre_tokenizers

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = t.GPT2Config(
            n_embd=16, n_layer=2, n_head=2, n_inner=24, vocab_size=WORDS, n_positions=32,
            bos_token_id=1, eos_token_id=1,
        )  # fmt: skip
        net = t.GPT2LMHeadModel(config)
        for weight in net.parameters():
            weight.data.mul_(4)
    net.save_pretrained(folder)
    words = {"[PAD]": 0, "[END]": 1, "[UNK]": WORDS - 1} | {f"w{i}": i for i in range(2, WORDS - 1)}
    inner = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = t.PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="[UNK]", pad_token="[PAD]", eos_token="[END]",
        bos_token="[END]",
    )  # fmt: skip
    tokenizer.save_pretrained(folder)


def edit_json(path: Path, change: Any) -> None:
    """Rewrite a JSON file through a function of its value."""
    path.write_text(json.dumps(change(json.loads(path.read_text()))), encoding="utf-8")
