"""The command line: help, exit codes, one sentence for an error, JSON, config files."""

import json
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
import typer

import interp
from interp.cli import app
from interp.cli.shell import State

COMMANDS = {
    "demo": "OUT SEED RESUME FORCE DRY JSON CONFIG",
    "hookpoints": "MODEL MATCH ROLES DEVICE REMOTE REVISION TRUST JSON CONFIG",
    "capture": "MODEL DATA HOOKPOINTS OUT POOL AS_PAIRS PAIRED BATCH COLUMNS DTYPE STORE_DTYPE MAX "
    "SHARDS DEVICE REMOTE REVISION TRUST RESUME FORCE DRY JSON CONFIG",
    "probe": "MODEL DATA HOOKPOINTS OUT MODE PROBE PROMPT RANDOM COMPARE PERTURB LENS STEER POOL "
    "BATCH COLUMNS FOLDS SEED DTYPE MAX DEVICE REMOTE REVISION TRUST RESUME FORCE DRY JSON CONFIG",
    "sparsity": "MODEL DATA HOOKPOINTS CRITERION THINNING FLOW OUT POOL BATCH COLUMNS SEED "
    "DTYPE MAX DEVICE REVISION TRUST RESUME FORCE DRY JSON CONFIG",
    "aqi": "MODEL DATA HOOKPOINTS OUT AQI COMPARE POOL BATCH COLUMNS SEED DTYPE MAX DEVICE "
    "REVISION TRUST RESUME FORCE DRY JSON CONFIG",
    "facets": "MODEL DATA HOOKPOINTS FACETS OUT BATCH COLUMNS SEED DTYPE MAX DEVICE REVISION TRUST "
    "RESUME FORCE DRY JSON CONFIG",
    "geometry": "MODEL DATA MEASURE HOOKPOINTS COMPARE OUT POOL BATCH COLUMNS SEED DTYPE MAX "
    "DEVICE REVISION TRUST RESUME FORCE DRY JSON CONFIG",
    "report": "RUNS OUT TITLE FIGURES JSON CONFIG",
    "diff": "TWO GATE OUT SEED RESUME FORCE JSON CONFIG",
    "doctor": "MODEL REPAIR DTYPE DEVICE REVISION TRUST JSON CONFIG",
    "sae train": "MODEL DATA SAE_ACTS OUT SAE_CONFIG SAE_TRAINING BOOKS POOL BATCH TEXT PAIRED "
    "SEED DTYPE MAX DEVICE REMOTE REVISION TRUST RESUME FORCE DRY JSON CONFIG",
    "sae eval": "SAE MODEL DATA SAE_READ OUT SAE_LABELS POOL BATCH COLUMNS SEED DTYPE MAX DEVICE "
    "REVISION TRUST RESUME FORCE DRY JSON CONFIG",
    "sae features": "SAE MODEL DATA SITE SAE_STORE OUT SAE_RECORDS BATCH TEXT SEED DTYPE MAX "
    "DEVICE REVISION TRUST RESUME FORCE DRY JSON CONFIG",
    "sae concepts": "SAE MODEL PAIRS SITE TOP LABEL SIMILARITY OUT PAIRED TEXT POOL BATCH MAX SEED "
    "DEVICE DTYPE REVISION TRUST RESUME FORCE DRY JSON CONFIG",
    "sae explain": "SAE MODEL CONCEPTS EXPLAINED TOP SITE READERS POOL MAX OUT DEVICE DTYPE "
    "REVISION TRUST RESUME FORCE DRY JSON CONFIG",
    "sae steer": "SAE MODEL SITE LATENT DTYPE DEVICE REVISION TRUST JSON CONFIG",
    "sae convert": "CHECKPOINT OUT TO FORCE DRY JSON CONFIG",
    "sae codes": "FOLDER DATA SITE OUT CODES MAX TEXT SEED DEVICE RESUME FORCE DRY JSON CONFIG",
    "sae force": "FOLDER OUT FORCING SEED DEVICE RESUME FORCE DRY JSON CONFIG",
}
FLAGS = {
    "MODEL": "model",
    "DATA": "data",
    "RUNS": "runs",
    "TWO": "first second",
    "GATE": "--fail-if",
    "CHECKPOINT": "path",
    "TO": "--to",
    "MATCH": "match",
    "REMOTE": "--remote",
    "ROLES": "--roles",
    "HOOKPOINTS": "--hookpoints -p",
    "OUT": "--out",
    "POOL": "--pool",
    "BATCH": "--batch-size",
    "MODE": "--mode --positive",
    "PROBE": "--probe",
    "PROMPT": "--prompt --prompt-layout",
    "RANDOM": "--random-model",
    "COMPARE": "--compare",
    "PERTURB": "--perturb",
    "AQI": "--mode --variant --tsne --safe --axiom-column --pooling --margin --map --at",
    "FACETS": "--unit --codes-at --sae --n-facets --mode --embed --cluster --n-top --threshold "
    "--nearest --schedule --stay --image-mean --image-std",
    "LENS": "--lens",
    "STEER": "--steer --answer",
    "CRITERION": "--criterion --level --norm --gated --experts --initial",
    "THINNING": "--curve --method --ddof --at --noise --bins",
    "FLOW": "--flow --flow-hookpoints --drop-first",
    "PAIRS": "pairs",
    "AS_PAIRS": "--pairs",
    "PAIRED": "--image-column --text-model --prompt",
    "READERS": "--text-model --prompt",
    "TOP": "--top",
    "LABEL": "--label-column",
    "SIMILARITY": "--mode",
    "CONCEPTS": "concepts",
    "EXPLAINED": "--image --text",
    "MEASURE": "--measure -m",
    "COLUMNS": "--text-column --label-column --group-column",
    "TEXT": "--text-column",
    "SAE_ACTS": "--store --hookpoint -p --target --buffer-rows --forward-batch-size",
    "SAE": "sae",
    "SAE_READ": "--store --hookpoint -p --target --forward-batch-size",
    "SITE": "--hookpoint -p",
    "SAE_STORE": "--store",
    "SAE_RECORDS": "--latents --probes --ablate --map --top --context --neuronpedia",
    "LATENT": "--latent --prompt --alpha --tokens",
    "SAE_LABELS": "--other --ks --absorption --first-letters --loss",
    "FOLDER": "folder",
    "CODES": "--pattern --search --documents",
    "FORCING": "--code --pattern --every-slot --prompt --samples --temperature --tokens",
    "BOOKS": "--from-scratch --init --model-lr",
    "SAE_CONFIG": "--architecture --arch --n-latents --k --l1 --l0 --set",
    "SAE_TRAINING": "--mode --steps --lr --warmup --decay --decay-steps --penalty-warmup --k-start "
    "--k-steps --dead-after --resample-every --normalize --b-dec --clip --ema --autocast "
    "--optimizer --backend --log-every --checkpoint-every --shards",
    "DTYPE": "--dtype",
    "STORE_DTYPE": "--store-dtype",
    "MAX": "--max-length",
    "REPAIR": "--repair",
    "SHARDS": "--shard-rows",
    "DEVICE": "--device",
    "REVISION": "--revision",
    "TRUST": "--trust-remote-code",
    "FOLDS": "--folds",
    "SEED": "--seed",
    "TITLE": "--title",
    "FIGURES": "--figures",
    "RESUME": "--resume",
    "FORCE": "--force",
    "DRY": "--dry-run",
    "JSON": "--json",
    "CONFIG": "--config",
}


@pytest.fixture
def failed(invoke):
    """``failed(1, "probe", ...)``: the one sentence of a command that ends with that code."""

    def run(code, *arguments):
        done = invoke(*arguments)
        assert done.exit_code == code, done.output
        assert "Traceback" not in done.output
        lines = [x for x in done.stderr.splitlines() if x.startswith("interp: ")]
        assert len(lines) == 1 and done.stderr.rstrip().endswith(lines[0]), done.stderr
        assert done.stdout == ""
        return lines[0]

    return run


@pytest.fixture
def data(tmp_path, texts):
    path = tmp_path / "things.csv"
    frame = pd.DataFrame({"text": texts, "label": [0, 1] * 6, "city": list("aabbccddeeff")})
    frame.to_csv(path, index=False)
    return path


def test_the_commands_and_their_flags_are_these():
    commands = {}
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        inner = getattr(command, "commands", None)  # of a group, such as `interp sae`
        commands |= {f"{name} {k}": c for k, c in inner.items()} if inner else {name: command}
    found = {name: {o for p in c.params for o in p.opts} for name, c in commands.items()}
    assert {k: v for k, v in found.items() if k in COMMANDS} == {
        name: {f for key in keys.split() for f in FLAGS[key].split()}
        for name, keys in COMMANDS.items()
    }
    assert list(found) == list(COMMANDS)


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help(invoke, command):
    done = invoke(*command.split(), "--help")
    assert done.exit_code == 0 and "Usage:" in done.stdout
    assert invoke(*command.split(), "-h").stdout == done.stdout
    if command:
        assert "--json" in done.stdout and "--config" in done.stdout


TIMED = """
import resource, sys
try:
    from interp.cli import main
    sys.argv = ["interp", "--help"]
    main()
except SystemExit as stop:
    assert not stop.code
heavy = [m for m in ("torch", "numpy", "pandas", "transformers", "plotly") if m in sys.modules]
assert not heavy, heavy
print(resource.getrusage(resource.RUSAGE_SELF).ru_utime)
"""


def test_help_is_quick_and_imports_nothing_heavy():
    seconds = []
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", TIMED], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        seconds.append(float(done.stdout.splitlines()[-1]))
        if seconds[-1] < 0.5:
            break
    assert min(seconds) < 0.5


def test_version_and_no_arguments(invoke):
    assert invoke("--version").stdout.strip() == f"interp {interp.__version__}"
    for arguments in ([], ["capture"], ["probe"]):
        done = invoke(*arguments)
        assert done.exit_code == 2 and "Usage:" in done.output


def test_wrong_usage_is_2(invoke, failed, folder, data):
    assert invoke("nothing").exit_code == 2
    assert invoke("capture", folder("gpt2"), data, "--nonsense").exit_code == 2
    assert invoke("capture", folder("gpt2"), data, "--batch-size", "many").exit_code == 2
    model = folder("gpt2")
    assert "--hookpoints is needed" in failed(2, "capture", model, data)
    says = failed(2, "capture", model, data, "-p", "embed", "--pool", "median")
    assert "pool must be one of last, first, mean, weighted_mean, max, all" in says
    says = failed(2, "capture", model, data, "-p", "embed", "--label-column", "lable")
    assert "the data has text, label, city" in says and "did you mean 'label'" in says
    assert "got 'int8'" in failed(2, "capture", model, data, "-p", "embed", "--dtype", "int8")


def test_failures_are_1_and_one_sentence(failed, folder, data, tmp_path):
    model = folder("gpt2")
    assert "no file or folder" in failed(1, "capture", model, "nowhere.csv", "-p", "embed")
    assert "no model folder" in failed(1, "capture", "./nowhere", data, "-p", "embed")
    assert "demo:pylm" in failed(1, "hookpoints", "nobody/has-this-model-7f3a")
    says = failed(1, "capture", model, data, "-p", "resid_psot.1", "--out", tmp_path / "acts")
    assert "did you mean 'resid_post" in says
    assert not (tmp_path / "acts").exists()
    empty = tmp_path / "empty.csv"
    empty.write_bytes(b"")
    assert "is empty" in failed(1, "capture", model, empty, "-p", "embed")
    assert "holds no results" in failed(1, "report", tmp_path)


def test_an_unexpected_error_is_a_sentence_and_debug_shows_it(
    invoke, failed, folder, data, monkeypatch
):
    def broken(*a, **k):
        raise ZeroDivisionError("a bug\nof two lines")

    monkeypatch.setattr("interp.loading.load", broken)
    monkeypatch.setattr(interp, "load", broken, raising=False)
    says = failed(1, "hookpoints", folder("gpt2"))
    assert "unexpected ZeroDivisionError: a bug of two lines (--debug shows where)" in says
    monkeypatch.setattr(State, "debug", True)
    assert isinstance(invoke("hookpoints", folder("gpt2")).exception, ZeroDivisionError)


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (KeyboardInterrupt(), 130, "--resume goes on where it stopped"),
        (OSError(28, "No space left on device"), 1, "no space is left on the device"),
        (MemoryError(), 1, "out of memory; use a smaller --batch-size"),
    ],
)
def test_what_can_go_wrong_while_running(
    failed, folder, data, tmp_path, monkeypatch, error, code, says
):
    def stop(self, *a, **k):
        raise error

    monkeypatch.setattr("interp.capturing.Capture.on_disk", stop)
    out = tmp_path / "acts"
    assert says in failed(code, "capture", folder("gpt2"), data, "-p", "embed", "--out", out)


def test_capture_writes_a_store_once(invoke, failed, folder, data, tmp_path):
    out = tmp_path / "acts"
    arguments = ["capture", folder("gpt2"), data, "-p", "resid_post.*,embed", "--out", out]
    done = invoke(*arguments)
    assert done.exit_code == 0, done.output
    assert "12 rows of 4 hook points" in done.stdout
    assert "texts from column 'text'" in done.stderr  # what was found is said
    store = interp.ActivationStore.open(out)
    assert store.hookpoints == ("resid_post.0", "resid_post.1", "resid_post.2", "embed")
    assert "--resume" in failed(1, *arguments)
    assert invoke(*arguments, "--resume").exit_code == 0
    assert invoke(*arguments, "--force", "--pool", "mean").exit_code == 0
    assert interp.ActivationStore.open(out).manifest["pool"] == "mean"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis").write_text("x")
    says = failed(1, *arguments[:-1], tmp_path / "mine", "--force")
    assert "no activation store" in says and (tmp_path / "mine" / "thesis").exists()


def test_json_is_json_and_the_rest_is_on_stderr(invoke, folder, data, tmp_path):
    model, out = folder("gpt2"), tmp_path / "acts"
    done = invoke("capture", model, data, "-p", "embed", "--out", out, "--json")
    assert json.loads(done.stdout)["n"] == 12
    rows = json.loads(invoke("hookpoints", model, "--json").stdout)
    assert {"name", "alias", "type", "width"} == set(rows[0])
    assert json.loads(invoke("doctor", "--json").stdout)["versions"]["interp"]
    plan = json.loads(invoke("capture", model, data, "-p", "embed", "--dry-run", "--json").stdout)
    assert plan["rows"] == 12 and plan["bytes"] == 12 * 32 * 4


def test_a_dry_run_writes_nothing(invoke, folder, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    done = invoke("capture", folder("gpt2"), data, "-p", "resid_post.*", "--dry-run")
    assert done.exit_code == 0 and sorted(tmp_path.rglob("*")) == before
    assert "things: 12 rows, 60 positions, 3 hook points: 4.6 kB in 1 shards" in done.stdout


def test_hookpoints_lists_and_resolves(invoke, failed, folder):
    model = folder("llama")
    done = invoke("hookpoints", model)
    assert done.exit_code == 0 and "model.layers.0.mlp.gate_proj" in done.stdout
    roles = invoke("hookpoints", model, "--roles").stdout
    assert "mlp_act.2" in roles and "up_proj" not in roles
    rows = json.loads(invoke("hookpoints", model, "resid_post.::2", "--json").stdout)
    assert [r["alias"] for r in rows] == ["resid_post.0", "resid_post.2"]
    rows = json.loads(invoke("hookpoints", model, "model.layers.*.mlp", "--json").stdout)
    assert [r["name"] for r in rows] == [f"model.layers.{i}.mlp" for i in range(3)]
    assert "layers 0..2" in failed(1, "hookpoints", model, "resid_post.7")


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert", "t5", "clip", "tl:gpt2"])
def test_doctor_certifies_both_sides(invoke, folder, name):
    prefix, _, bare = name.rpartition(":")
    spec = f"{prefix}:{folder(bare)}" if prefix else folder(bare)
    done = invoke("doctor", spec, "--json")
    assert done.exit_code == 0, done.output
    certificate = json.loads(done.stdout)["certificate"]
    assert len(certificate["deviation"]["right"]) == 3
    assert all(v <= 1 for v in certificate["deviation"]["right"].values())
    assert any("capture pads on this side" in line for line in certificate["verdict"])


def test_doctor_says_where_left_padding_differs(invoke, folder):
    bert = json.loads(invoke("doctor", folder("bert"), "--json").stdout)["certificate"]
    assert bert["deviation"]["left"] is not None  # position_ids are given, so it is exact
    assert all(v <= 1 for v in bert["deviation"]["left"].values())
    roberta = json.loads(invoke("doctor", folder("roberta"), "--json").stdout)["certificate"]
    assert any(v > 1 for v in roberta["deviation"]["left"].values())  # its table starts at 2
    done = invoke("doctor", folder("gpt2"))
    assert "right padding: exact within rounding; capture pads on this side." in done.stdout
    nothing = invoke("doctor", folder("vit"))  # the versions are still worth having
    assert nothing.exit_code == 0 and "no padding to certify" in nothing.stdout


@pytest.mark.parametrize("kind", ["toml", "json"])
def test_a_config_file_gives_defaults_and_the_command_line_wins(
    invoke, folder, data, tmp_path, kind
):
    values = {"hookpoints": ["embed", "resid_post.1"], "pool": "mean", "batch-size": 3}
    config = tmp_path / f"run.{kind}"
    lines = [f"{k} = {json.dumps(v)}" for k, v in values.items()]
    config.write_text(json.dumps(values) if kind == "json" else "\n".join(lines))
    arguments = ["capture", folder("gpt2"), data, "--out", tmp_path / "acts", "--config", config]
    assert invoke(*arguments).exit_code == 0
    manifest = interp.ActivationStore.open(tmp_path / "acts").manifest
    assert (manifest["pool"], manifest["batch_size"], len(manifest["hookpoints"])) == ("mean", 3, 2)
    assert invoke(*arguments, "--pool", "max", "-p", "embed", "--force").exit_code == 0
    manifest = interp.ActivationStore.open(tmp_path / "acts").manifest
    assert (manifest["pool"], manifest["batch_size"], len(manifest["hookpoints"])) == ("max", 3, 1)


def test_a_config_file_takes_every_flag_by_its_name(invoke, folder, data, tmp_path):
    config = tmp_path / "run.toml"
    config.write_text(
        f'model = "{folder("gpt2")}"\ndata = "{data}"\nhookpoints = ["embed"]\n'
        "json = true\ndry-run = true\nmax-length = 5\n"
    )
    done = invoke("capture", "--config", config)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["rows"] == 12


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.toml", "pol = 'mean'", "unknown options"),
        ("a.toml", "pool = ", "cannot be read"),
        ("a.json", "[1]", "expected a table"),
        ("a.json", "{", "cannot be read"),
        ("none.toml", None, "cannot be read"),
        ("a.toml", "batch-size = 'many'", "valid integer"),
        ("a.toml", "max-length = [1]", "max_length takes no list"),
        ("a.json", '{"hookpoints": ["embed", {}]}', "hookpoints takes no dict"),
    ],
)
def test_a_wrong_config_file_is_wrong_usage(invoke, folder, data, tmp_path, name, text, says):
    if text is not None:
        (tmp_path / name).write_text(text)
    done = invoke("capture", folder("gpt2"), data, "-p", "embed", "--config", tmp_path / name)
    assert done.exit_code == 2 and "Traceback" not in done.output
    assert says in " ".join(done.output.replace("│", " ").split())
    if says == "unknown options":
        assert "batch-size" in done.output and "pol" in done.output


def test_text_of_the_data_is_not_markup(invoke, folder, tmp_path):
    frame = pd.DataFrame({"text": ["w3 [bold]w4[/bold]", "[/] w5"], "label": ["[red]", "[/]"]})
    frame.to_csv(tmp_path / "[b]odd.csv", index=False)
    done = invoke(
        "capture", folder("gpt2"), tmp_path / "[b]odd.csv", "-p", "embed", "--out", tmp_path / "a"
    )
    assert done.exit_code == 0 and "[b]odd" in done.stderr


def test_python_m_interp_and_a_pipe_that_closes(folder):
    done = subprocess.run(
        [sys.executable, "-m", "interp", "--version"], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout.strip()) == (0, f"interp {interp.__version__}")


SLOW = """
import sys, time
import interp.planning
import interp.storing as c
write = c.write_shard
def slow(*a):
    digest = write(*a)
    print("written", flush=True)
    time.sleep(0.5)
    return digest
c.write_shard = slow
interp.planning.SHARD_ROWS = 2
import torch
torch.set_num_threads(1)
from interp.cli import main
sys.argv = ["interp", *sys.argv[1:]]
main()
"""


def test_ctrl_c_is_130_and_resumable(invoke, folder, data, tmp_path):
    arguments = ["capture", str(folder("gpt2")), str(data), "-p", "embed", "--out"]
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, *arguments, str(tmp_path / "acts")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == "written":
            break
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert stderr.rstrip().endswith("--resume goes on where it stopped.")
    assert "Traceback" not in stderr
    with pytest.raises(interp.errors.StoreError, match="not complete"):
        interp.ActivationStore.open(tmp_path / "acts")
    assert invoke(*arguments, tmp_path / "acts", "--resume").exit_code == 0
    assert interp.ActivationStore.open(tmp_path / "acts").n == 12
