"""Saved coders, trainings, models and results, spoilt; judged by the sound ones."""

import json
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors.torch import load_file

from mutations.bench import POINT, TEXTS, Bench
from mutations.headers import spoil_file
from mutations.junk import spoil_json
from mutations.trial import Case


def coder(bench: Bench, folder: Path, random: Random) -> Case:
    """A saved autoencoder, read, evaluated or converted."""
    sae = bench.copy(bench.coder, folder / "sae")
    name = random.choice(["config.json", "model.safetensors"])
    what = _spoil(sae / name, random)
    way = random.choice(["read", "eval", "convert", "steer"])
    out = folder / "out"
    if way == "read":
        import saes

        def judge(got: Any) -> str | None:
            return _as_filed(got, sae / "model.safetensors", bench)

        return Case(f"{name}: {what}", call=lambda: saes.SAE.from_pretrained(sae), judge=judge)
    lines = {
        "eval": ["eval", str(sae), "--store", str(bench.store), "-p", POINT, "--out", str(out)],
        "convert": ["convert", str(sae), "--to", "interp", "--out", str(out)],
        "steer": ["steer", str(sae), str(bench.model), "-p", POINT, "--latent", "1", "--prompt",
                  "w3"],
    }  # fmt: skip

    def sound(done: Any) -> str | None:
        import saes

        return _as_filed(saes.SAE.from_pretrained(sae), sae / "model.safetensors", bench)

    return Case(f"{name}, {way}: {what}", ["sae", *lines[way]], judge=sound, keep=[out])


def _as_filed(got: Any, file: Path, bench: Bench) -> str | None:
    """The coder computes with the tensors of its file, by the equations of TopK."""
    held = load_file(file)
    state = got.state_dict()
    if state.keys() != held.keys() or not all(_same(state[k], held[k]) for k in held):
        return "its weights are not those of the file"
    x = torch.linspace(-1, 1, 3 * got.d_in).reshape(3, -1).to(got.W_dec.dtype)
    if type(got).__name__ != "TopKSAE":
        return None
    pre = (x - got.b_dec) @ got.W_enc + got.b_enc if got.config.to_dict().get("apply_b_dec", True) \
        else x @ got.W_enc + got.b_enc  # fmt: skip
    top = torch.relu(pre).topk(min(got.config.k, pre.shape[1]))
    z = torch.zeros_like(pre).scatter_(1, top.indices, top.values)
    return (
        None if torch.allclose(got.encode(x), z, atol=1e-5, equal_nan=True) else "encodes otherwise"
    )


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a.nan_to_num(), b.to(a.dtype).nan_to_num())


def training(bench: Bench, folder: Path, random: Random) -> Case:
    """A run that was cut short, whose checkpoint or options are spoilt, gone on with."""
    run = bench.copy(bench.cut, folder / "run")
    name = random.choice(["checkpoint.safetensors", "checkpoint.safetensors", "config.json"])
    what = _spoil(run / name, random)
    line = [*bench.train, "--out", str(run), "--resume"]

    def judge(done: Any) -> str | None:
        ours, theirs = (load_file(d / "sae" / "model.safetensors") for d in (run, bench.training))
        same = all(torch.equal(ours[k], theirs[k]) for k in theirs)
        return None if same else "the weights are not those of an unbroken training"

    return Case(f"{name}: {what}", line, judge=judge, keep=[run])


def model(bench: Bench, folder: Path, random: Random) -> Case:
    """A model's folder, captured from; judged by what transformers makes of it."""
    net = bench.copy(bench.model, folder / "net")
    names = [
        "config.json",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    name = random.choice(names)
    what = _spoil(net / name, random)
    out = folder / "acts"
    line = ["capture", str(net), str(bench.table), "-p", POINT, "--out", str(out)]

    def judge(done: Any) -> str | None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from interp.store import ActivationStore

        store = ActivationStore.open(out)
        try:
            other = AutoModelForCausalLM.from_pretrained(net).eval()
            words = AutoTokenizer.from_pretrained(net)
        except Exception as error:
            return f"transformers refuses it: {error}"
        for i, text in enumerate(TEXTS[:6]):
            with torch.inference_mode():
                want = other(**words(text, return_tensors="pt"), output_hidden_states=True)
            hidden = want.hidden_states[1][0, -1]
            if not torch.allclose(
                store[POINT][i].float(), hidden.float(), atol=1e-3, equal_nan=True
            ):
                return f"row {i} is not what transformers finds"
        return None

    return Case(f"{name}: {what}", line, judge=judge, keep=[out])


def results(bench: Bench, folder: Path, random: Random) -> Case:
    """A run whose results, numbers, options or manifest are spoilt, reported on or compared."""
    source = random.choice([bench.probed, bench.probed, bench.training, bench.concepts])
    run = bench.copy(source, folder / "run")
    (run / "report.html").unlink()
    file = random.choice([*(run / "results").iterdir()] * 3 + [run / "config.json",
                         run / "manifest.json",
                         run / "metrics.json"])  # fmt: skip
    what = _spoil(file, random)
    out = folder / "out"
    if random.random() < 0.6:
        line = ["report", str(run), "--out", str(out / "page.html")]
        page = out / "page.html"
        return Case(f"report, {file.name}: {what}", line, keep=[out],
                    judge=lambda done: _page(page, run) or kinds(run, source))  # fmt: skip
    pair = [str(bench.probed_again), str(run)]
    random.shuffle(pair)
    line = ["diff", *pair, "--out", str(out)]
    return Case(f"diff, {file.name}: {what}", line, judge=lambda done: _diff(out, pair), keep=[out])


def _page(page: Path, run: Path) -> str | None:
    """A whole page, that names each result that the run holds, and runs nothing of it."""
    from html import escape

    text = page.read_text(encoding="utf-8")
    if not text.rstrip().endswith("</html>"):
        return "the page is cut short"
    if "<script>x</script>" in text:
        return "a text of the data is markup in the page"
    for file in (run / "results").iterdir():
        name = json.loads(file.read_text())["fields"]["name"]
        if name.isprintable() and len(name) < 40 and escape(name) not in text:
            return f"the page does not name {name!r}"
    return None


def kinds(run: Path, sound: Path) -> str | None:
    """A result's fields are of the kinds that the sound result's are, or none."""
    for file in (sound / "results").iterdir():
        ours, theirs = (json.loads((d / "results" / file.name).read_text()) for d in (run, sound))
        for name, value in theirs["fields"].items():
            got = ours["fields"].get(name, value)
            if got is not None and value is not None and _kind(got) is not _kind(value):
                return f"{name} of {file.name} is {str(got)[:40]!r}, and it was reported"
    return None


def _kind(value: Any) -> type:
    """Whole and other numbers are of one kind; nan and inf are named by a table."""
    return float if isinstance(value, int) and not isinstance(value, bool) else type(value)


def _diff(out: Path, pair: list[str]) -> str | None:
    """Each number that both runs have and differ in is in the comparison, and no other."""
    found = json.loads((out / "metrics.json").read_text())["run_changes"]
    (told,) = found.values()
    one, two = (_leaves(json.loads((Path(d) / "metrics.json").read_text())) for d in pair)
    for key, delta in told["delta"].items():
        if delta is not None and abs(two[key] - one[key] - delta) > 1e-9:
            return f"{key} differs by {two[key] - one[key]}, not by {delta}"
    differ = {k for k in one.keys() | two.keys() if one.get(k) != two.get(k)}
    return None if differ == set(told["delta"]) else f"differs too: {differ ^ set(told['delta'])}"


def _leaves(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        found: dict[str, Any] = {}
        for key, inner in value.items():
            found |= _leaves(inner, f"{prefix}.{key}" if prefix else key)
        return found
    if isinstance(value, list):
        numeric = any(isinstance(v, int | float) and not isinstance(v, bool) for v in value)
        return {} if numeric else {prefix: json.dumps(value)}
    return {prefix: value}


def _spoil(file: Path, random: Random) -> str:
    if file.suffix == ".safetensors":
        return spoil_file(file, random, data=False)
    return spoil_json(file, random)
