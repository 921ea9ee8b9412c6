"""Command lines and config files: every command and option, given what it does not expect."""

import json
from pathlib import Path
from random import Random
from typing import Any

import typer

from interp.cli import app
from mutations.bench import POINT, Bench
from mutations.junk import NUMBERS, TEXTS, Sound, bend, value
from mutations.trial import Case

NEVER = {"nan", "inf", "-inf", "", " ", "\t", str(10**30), str(-(10**30)), "1e999"}
"""What no number, path or name may be."""


def commands() -> dict[str, Any]:
    """The commands by name, as typer has them."""
    found: dict[str, Any] = {}
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        inner = getattr(command, "commands", None)
        found |= {f"{name} {k}": c for k, c in inner.items()} if inner else {name: command}
    return found


def usual(bench: Bench, name: str, out: Path) -> list[str]:
    """A sound and quick command line of a command."""
    model, data, coder, store = (
        str(p) for p in (bench.model, bench.table, bench.coder, bench.store)
    )
    texts, pairs = [model, data], ["demo:digits-clip", str(bench.captions)]
    lines: dict[str, list[str]] = {
        "demo": ["--dry-run"],
        "hookpoints": [model],
        "capture": [*texts, "-p", POINT],
        "probe": [*texts, "--folds", "3", "--no-random-model"],
        "sparsity": [*texts, "--criterion", "rel_eps"],
        "aqi": [*texts, "--label-column", "label", "--safe", "yes"],
        "facets": ["demo:digits", "demo:digits", "--unit", "0", "--dry-run"],
        "geometry": [*texts, "-m", "rank"],
        "report": [str(bench.probed)],
        "diff": [str(bench.probed), str(bench.probed_again)],
        "doctor": [model],
        "sae train": ["--store", store, "-p", POINT, "--steps", "3", "--k", "2",
                      "--n-latents", "24",
                      "--batch-size", "8"],
        "sae eval": [coder, "--store", store],
        "sae features": [coder, model, data, "--context", "4", "--top", "2"],
        "sae concepts": [str(bench.pairs), *pairs, "--top", "2"],
        "sae explain": [str(bench.pairs), pairs[0], str(bench.concepts), "--text", "a 3"],
        "sae steer": [coder, model, "--latent", "1", "--prompt", "w3", "--tokens", "2"],
        "sae convert": [coder, "--to", "saelens"],
        "sae codes": [str(bench.books), data, "-p", POINT],
        "sae force": [str(bench.books), "--code", f"{POINT}:1", "--samples", "2", "--tokens", "2"],
    }  # fmt: skip
    line = [*name.split(), *lines[name]]
    return line if name in ("hookpoints", "doctor", "sae steer") else [*line, "--out", str(out)]


def case(bench: Bench, folder: Path, random: Random) -> Case:
    """A command line with one or two things that are wrong, or merely odd."""
    found = commands()
    name = random.choice([n for n in found if n != "demo"])  # which takes a minute, and no data
    line = usual(bench, name, folder / "out")
    said = []
    for _ in range(0 if isinstance(random, Sound) else random.choice([1, 1, 2])):
        param = random.choice(found[name].params)
        line, how = _with(line, param, folder, bench, random)
        said.append(how)
    return _case(bench, folder, name, line, f"{name}: {', '.join(said)}")


def configured(bench: Bench, folder: Path, random: Random) -> Case:
    """A config file with what is wrong: types, names, nesting, bytes."""
    found = commands()
    name = random.choice(["capture", "probe", "geometry", "sae train", "sparsity", "aqi"])
    line = usual(bench, name, folder / "out")
    options: dict[str, Any] = {
        "seed": 0, "force": False, "json": True, "device": "cpu", "batch-size": 8,
        "dtype": "float32",
        "hookpoints": [POINT], "pool": "last", "label-column": ["label"], "group-column": None,
        "max-length": 30,
    }  # fmt: skip
    known = {o.removeprefix("--") for p in found[name].params for o in p.opts}
    options = {k: v for k, v in options.items() if k in known and v is not None}
    others = sorted(known - options.keys() - {"out", "config", "resume", "help", "dry-run"})
    for key in [] if isinstance(random, Sound) else random.sample(others, random.choice([0, 0, 1])):
        options[key] = value(random)
    what, text = bend(options, random)
    if random.random() < 0.3:
        file = folder / "options.toml"
        text = _toml(json.loads(text)) if "deep" not in what else "seed = " + "[" * 90_000
    else:
        file = folder / "options.json"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    line += ["--config", str(file)]
    return _case(bench, folder, name, line, f"{name} {file.suffix[1:]}: {what}")


def _toml(found: Any) -> str:
    """A flat table as TOML; what it cannot say is left as JSON, which mostly is no TOML."""
    if not isinstance(found, dict):
        return json.dumps(found)
    return "".join(f"{json.dumps(k)} = {json.dumps(v)}\n" for k, v in found.items())


def _with(
    line: list[str], param: Any, folder: Path, bench: Bench, random: Random
) -> tuple[list[str], str]:
    """A command line with another value of one parameter."""
    if getattr(param, "is_flag", False):
        flag = random.choice([*param.opts, *param.secondary_opts])
        return [*line, flag], flag
    new = random.choice([*TEXTS, *map(str, NUMBERS), *_paths(folder, bench), *WORDS])
    if param.param_type_name == "argument":
        values = [i for i in range(1, len(line)) if not line[i - 1].startswith("-")]
        at = next((i for i in values if line[i][:1] in "/d"), None)
        if at is None:
            return [*line, new], f"more: {new[:30]!r}"
        return [*line[:at], new, *line[at + 1 :]], f"{param.name} {new[:30]!r}"
    option = param.opts[-1]
    joined = f"{option}={new}" if option.startswith("--") else f"{option}{new}"
    return [*line, joined], f"{option} {new[:30]!r}"


WORDS = ["all", "cpu", "meta", "cuda:99", "mps", "cpu:7", "float16", "int8", "x=y", "n_latents=3",
         "k=2", "k=nan", "1,2", "1:2", "mean", "relu", "demo:digits", "demo:none", "tl:",
         "nnsight:x",
         "hf:x[y]", "a.py:b", "json:loads", "resid_post.*", "embed", "label", "text", "city", "3",
         "32", "1e-3", "0.1"]  # fmt: skip


def _paths(folder: Path, bench: Bench) -> list[str]:
    """Paths that are there, are not, or are of another kind."""
    (folder / "full").mkdir(exist_ok=True)
    (folder / "full" / "mine.txt").write_text("kept")
    (folder / "void").mkdir(exist_ok=True)
    (folder / "loop").unlink(missing_ok=True)
    (folder / "loop").symlink_to(folder / "loop")
    inside = ["full", "void", "absent", "full/mine.txt", "full/mine.txt/below", "loop"]
    sound = [bench.model, bench.table, bench.store, bench.coder, bench.probed]
    return [
        *(str(folder / p) for p in inside),
        *map(str, sound),
        "/dev/null",
        "/dev/zero",
        "/proc/x",
    ]


def _case(bench: Bench, folder: Path, name: str, line: list[str], what: str) -> Case:
    own = folder / "full" / "mine.txt"

    def judge(done: Any) -> str | None:
        if own.exists() and own.read_text() != "kept":
            return "a foreign file was changed"
        for arg in line:
            option, equals, given = arg.partition("=")
            if equals and option in NUMERIC and given in NEVER:
                return f"{arg} was accepted"
        if "--json" in line:
            json.loads(done.stdout, parse_constant=_refuse)
        return _same_law(bench, name, folder / "out")

    return Case(what, line, judge=judge, keep=[bench.folder, own])


NUMERIC = {
    f"--{name}" for name in "seed folds batch-size max-length steps k n-latents lr warmup "
    "decay-steps penalty-warmup k-start k-steps dead-after resample-every clip ema model-lr "
    "buffer-rows forward-batch-size log-every checkpoint-every level drop-first bins margin "
    "n-facets n-top "
    "threshold nearest stay top context alpha tokens samples temperature documents".split()
}  # fmt: skip


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _same_law(bench: Bench, name: str, out: Path) -> str | None:
    """Runs whose recorded options are equal give equal numbers."""
    if not (out / "metrics.json").is_file():
        return None
    usually = bench.usual(name, usual)
    ours, theirs = (json.loads((d / "config.json").read_text()) for d in (out, usually))
    numbers = [(d / "metrics.json").read_bytes() for d in (out, usually)]
    if ours == theirs and numbers[0] != numbers[1]:
        return "the recorded options are the usual ones, and the numbers are not"
    return None
