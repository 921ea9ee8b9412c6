"""Tiny random models, a word-level tokenizer, and the folder of real inputs.

Nothing is downloaded: every model is built from a config. Fixtures that build return a copy that
the test may change.
"""

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch

torch.set_num_threads(1)

VOCABULARY = 100
WIDE = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 64,
}
IMAGE = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 16,
    "patch_size": 8,
}


def _grouped(**more: Any) -> dict[str, Any]:
    return {**WIDE, "num_key_value_heads": 2, **more}


def _builders() -> dict[str, Callable[[], Any]]:
    import transformers as t

    return {
        "gpt2": lambda: t.GPT2LMHeadModel(
            t.GPT2Config(
                n_embd=32,
                n_layer=3,
                n_head=4,
                n_inner=48,
                vocab_size=VOCABULARY,
                n_positions=64,
                bos_token_id=1,
                eos_token_id=1,
            )
        ),
        "neox": lambda: t.GPTNeoXForCausalLM(t.GPTNeoXConfig(**WIDE)),
        "llama": lambda: t.LlamaForCausalLM(t.LlamaConfig(**_grouped())),
        "qwen2": lambda: t.Qwen2ForCausalLM(t.Qwen2Config(**_grouped())),
        "qwen3": lambda: t.Qwen3ForCausalLM(t.Qwen3Config(**_grouped(head_dim=16))),
        "gemma": lambda: t.GemmaForCausalLM(t.GemmaConfig(**_grouped(head_dim=8))),
        "gemma2": lambda: t.Gemma2ForCausalLM(t.Gemma2Config(**_grouped(head_dim=8))),
        "gemma3": lambda: t.Gemma3ForCausalLM(t.Gemma3TextConfig(**_grouped(head_dim=8))),
        "mistral": lambda: t.MistralForCausalLM(t.MistralConfig(**_grouped())),
        "opt": lambda: t.OPTForCausalLM(
            t.OPTConfig(
                hidden_size=32,
                num_hidden_layers=3,
                num_attention_heads=4,
                ffn_dim=48,
                vocab_size=VOCABULARY,
                max_position_embeddings=64,
                word_embed_proj_dim=32,
            )
        ),
        "bert": lambda: t.BertModel(t.BertConfig(**WIDE)),
        "roberta": lambda: t.RobertaModel(
            t.RobertaConfig(**WIDE, pad_token_id=1, bos_token_id=0, eos_token_id=2)
        ),
        "albert": lambda: t.AlbertModel(t.AlbertConfig(embedding_size=16, **WIDE)),
        "distilbert": lambda: t.DistilBertModel(
            t.DistilBertConfig(
                dim=32,
                n_layers=3,
                n_heads=4,
                hidden_dim=48,
                vocab_size=VOCABULARY,
                max_position_embeddings=64,
            )
        ),
        "vit": lambda: t.ViTForImageClassification(t.ViTConfig(**IMAGE)),
        "clip": lambda: t.CLIPModel(
            t.CLIPConfig(
                text_config={**WIDE, "eos_token_id": 1, "bos_token_id": 1, "pad_token_id": 0},
                vision_config=IMAGE,
                projection_dim=16,
            )
        ),
        "t5": lambda: t.T5ForConditionalGeneration(
            t.T5Config(
                d_model=32, d_kv=8, d_ff=48, num_layers=3, num_heads=4, vocab_size=VOCABULARY
            )
        ),
        "mamba": lambda: t.MambaForCausalLM(
            t.MambaConfig(hidden_size=32, num_hidden_layers=3, vocab_size=VOCABULARY, state_size=4)
        ),
    }


@cache
def _built(name: str) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = _builders()[name]()
        for key, parameter in model.named_parameters():  # zeros and ones would hide mistakes
            if parameter.ndim == 1:
                noise = torch.randn_like(parameter) * 0.1
                parameter.data += noise if "bias" in key or "norm" in key or "ln_" in key else 0
            elif parameter.ndim == 2:
                parameter.data *= 4
    return model.eval()


@pytest.fixture(scope="session")
def tiny() -> Callable[[str], Any]:
    """``tiny("llama")``: a random model of three layers, in eval mode, new at each call."""
    return lambda name: copy.deepcopy(_built(name))


def make_tokenizer(padding_side: str = "right") -> Any:
    """Words ``w2`` .. ``w97`` are the ids 2 .. 97; 0 pads, 1 ends, 99 is unknown."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"[PAD]": 0, "[END]": 1} | {f"w{i}": i for i in range(2, 98)} | {"[M]": 98, "[UNK]": 99}
    inner = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        unk_token="[UNK]",
        pad_token="[PAD]",
        eos_token="[END]",
        bos_token="[END]",
        padding_side=padding_side,
    )


@pytest.fixture(scope="session")
def tokenizer() -> Callable[..., Any]:
    """``tokenizer(padding_side="left")``: a word-level fast tokenizer."""
    return make_tokenizer


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``folder("gpt2")``: the tiny model and tokenizer as Hugging Face saves them; do not write."""

    @cache
    def save(name: str) -> Path:
        path = tmp_path_factory.mktemp(f"hf-{name}")
        _built(name).save_pretrained(path)
        if name not in ("vit",):
            make_tokenizer().save_pretrained(path)
        return path

    return save


@pytest.fixture
def gpt2(tiny: Callable[[str], Any], tokenizer: Callable[..., Any]) -> Any:
    """A tiny GPT-2 that reads text: an `interp.Model`, new for each test."""
    from interp.models import Model

    return Model(tiny("gpt2"), spec="tiny", tokenizer=tokenizer())


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """``invoke("probe", path, "--help")``: a command of interp in this process, lines 200 wide."""
    from typer.testing import CliRunner

    from interp.cli import app
    from interp.cli.shell import State

    monkeypatch.setattr(State, "debug", False)
    monkeypatch.setattr(State, "quiet", False)
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *arguments: CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture
def texts() -> list[str]:
    """Twelve texts of one to nine words, in no order of length."""
    lengths = [3, 9, 1, 5, 2, 8, 4, 9, 6, 1, 7, 5]
    return [
        " ".join(f"w{2 + (7 * i + 11 * j) % 96}" for j in range(n)) for i, n in enumerate(lengths)
    ]


@pytest.fixture(scope="session")
def real() -> Path:
    """The folder that INTERP_REAL names."""
    path = os.environ.get("INTERP_REAL")
    if not path or not Path(path).is_dir():
        pytest.skip(
            "set INTERP_REAL to the folder with cities.csv, sentiment.csv, coin_flip.jsonl, "
            "resnet20.py and its safetensors files to run this"
        )
    return Path(path)


@pytest.fixture(scope="session")
def torchrun() -> Callable[..., subprocess.CompletedProcess[str]]:
    """``torchrun(n, "script.py", …)`` or ``torchrun(n, "-m", "interp", …)`` on this host."""

    def run(n: int, *arguments: Any, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        root = str(Path(__file__).parents[1])
        return subprocess.run(
            [*command, "--nproc-per-node", str(n), *map(str, arguments)],
            capture_output=True, text=True, timeout=120,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root, **environment},
        )  # fmt: skip

    return run
