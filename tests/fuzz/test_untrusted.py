"""Folders that a stranger made are read, and nothing in them runs: a canary and an audit hook."""

import io
import json
import os
import pickle
import sys
from pathlib import Path

import pytest
from mutations.bench import POINT, TEXTS
from mutations.trial import CLEAR, CORRECT, Case, run

import saes
from interp.data import read
from interp.errors import DataError, InterpError
from interp.store import ActivationStore

WATCHED = ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect",
           "pickle.find_class")  # fmt: skip
heard: list[str] | None = None


def _listen(event, arguments):
    if heard is not None and event in WATCHED:
        heard.append(f"{event} {arguments}")


sys.addaudithook(_listen)  # it stays for the process, and is deaf outside the fixture


@pytest.fixture
def canary(tmp_path):
    """A file that is there if code of a stranger ran; at the end nothing may have been heard."""
    global heard
    heard = []
    yield tmp_path / "canary"
    found, heard = heard, None
    assert not found and not (tmp_path / "canary").exists()


class Bomb:
    """What a pickle of it does when it is loaded."""

    def __init__(self, canary):
        self.canary = str(canary)

    def __reduce__(self):
        return os.system, (f"touch {self.canary}",)


def code(canary):
    return f"from pathlib import Path\nPath({str(canary)!r}).touch()\n"


def capture(bench, model, data, out, *more):
    return ["capture", str(model), str(data), "-p", POINT, "--out", str(out), *more]


def test_the_canary_and_the_hook_can_be_seen(tmp_path):
    global heard
    heard = []
    pickle.loads(pickle.dumps(Bomb(tmp_path / "canary")))
    found, heard = heard, None
    assert (tmp_path / "canary").exists()
    assert {f.split()[0] for f in found} >= {"pickle.find_class", "os.system"}


@pytest.mark.parametrize("prefix", ["", "tl:", "nnsight:"])
def test_pickled_weights(bench, canary, tmp_path, prefix):
    model = bench.copy(bench.model, tmp_path / "model")
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(canary)))
    outcome = run(Case("", capture(bench, f"{prefix}{model}", bench.table, tmp_path / "acts")))
    assert outcome.kind == CLEAR and "holds its weights as a pickle" in outcome.why


def custom(bench, canary, tmp_path):
    """A model folder that names code of its own, for the model and its config."""
    model = bench.copy(bench.model, tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    config |= {"model_type": "stranger", "architectures": ["Stranger"],
               "auto_map": {"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"}}  # fmt: skip
    (model / "config.json").write_text(json.dumps(config))
    (model / "own.py").write_text(code(canary))
    return model


@pytest.mark.parametrize("prefix", ["", "tl:", "nnsight:"])
def test_a_model_s_own_code(bench, canary, tmp_path, prefix, monkeypatch):
    """Nobody is asked at the terminal either, where one would say yes."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    model = custom(bench, canary, tmp_path)
    outcome = run(Case("", capture(bench, f"{prefix}{model}", bench.table, tmp_path / "acts")))
    assert outcome.kind == CLEAR and "trust_remote_code" in outcome.why


def test_a_model_s_own_code_runs_where_it_is_trusted(bench, tmp_path, monkeypatch):
    """The arm that shows that the folder's code would have run."""
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    model = custom(bench, tmp_path / "canary", tmp_path)
    run(Case("", [*capture(bench, model, bench.table, tmp_path / "acts"), "--trust-remote-code"]))
    assert (tmp_path / "canary").exists()


@pytest.mark.parametrize("prefix", ["", "tl:", "nnsight:"])
def test_a_known_model_beside_strange_files(bench, canary, tmp_path, prefix):
    """Code of a tokenizer, templates and tables of names are there, and nothing uses them."""
    model = bench.copy(bench.model, tmp_path / "model")
    file = model / "tokenizer_config.json"
    template = "{{ ''.__class__.__mro__[1].__subclasses__() }}{% include '/etc/passwd' %}"
    more = {"auto_map": {"AutoTokenizer": ["own.T", "own.T"]}, "chat_template": template,
            "__class__": "os.system", "__reduce__": ["touch", str(canary)]}  # fmt: skip
    file.write_text(json.dumps({**json.loads(file.read_text()), **more}))
    config = json.loads((model / "config.json").read_text())
    config |= {"auto_map": {"AutoModelForCausalLM": "own.M"}, "__class__": "os.system"}
    (model / "config.json").write_text(json.dumps(config))
    for name in ("own.py", "setup.py", "__init__.py", "sitecustomize.py"):
        (model / name).write_text(code(canary))
    (model / "training_args.bin").write_bytes(pickle.dumps(Bomb(canary)))
    line = capture(bench, f"{prefix}{model}", bench.table, tmp_path / "acts")
    outcome = run(Case("", line, judge=lambda done: None))
    assert outcome.kind in (CORRECT, CLEAR)
    if not prefix and outcome.kind == CORRECT:
        store = ActivationStore.open(tmp_path / "acts")
        assert all(
            abs(store[POINT][i] - bench.expected(t)).max() < 1e-4 for i, t in enumerate(TEXTS)
        )


@pytest.mark.parametrize("suffix", [".pkl", ".pt", ".bin", ".npy", ".npz", ".ckpt"])
def test_pickles_for_data(canary, tmp_path, suffix):
    file = tmp_path / f"data{suffix}"
    file.write_bytes(pickle.dumps(Bomb(canary)))
    with pytest.raises(DataError, match="pickle"):
        read(str(file))


def test_a_store_and_a_coder_beside_strange_files(bench, canary, tmp_path):
    store, coder = (bench.copy(p, tmp_path / p.name) for p in (bench.store, bench.coder))
    for folder in (store, coder):
        (folder / "extra.pkl").write_bytes(pickle.dumps(Bomb(canary)))
        (folder / "own.py").write_text(code(canary))
    assert len(ActivationStore.open(store)[POINT][:]) == len(TEXTS)
    assert saes.SAE.from_pretrained(coder).n_latents == 24


def test_parquet_with_a_pickled_type(bench, canary, tmp_path):
    """pyarrow's first extension types were pickles inside a column's metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    strange = {b"ARROW:extension:name": b"arrow.py_extension_type",
               b"ARROW:extension:metadata": pickle.dumps(Bomb(canary))}  # fmt: skip
    fields = [pa.field("text", pa.string(), metadata=strange), pa.field("label", pa.int64())]
    table = pa.table([pa.array(TEXTS[:6]), pa.array([0, 1] * 3)], schema=pa.schema(fields))
    pq.write_table(table, tmp_path / "data.parquet")
    assert read(str(tmp_path / "data.parquet")).inputs == TEXTS[:6]


def test_a_result_is_data(bench, canary, tmp_path):
    run_folder = bench.copy(bench.probed, tmp_path / "run")
    (file,) = (run_folder / "results").iterdir()
    document = json.loads(file.read_text())
    held = io.BytesIO()
    pickle.dump(Bomb(canary), held)
    document["fields"]["scores"] = {"__array__": held.getvalue().hex(), "dtype": "O", "shape": [1]}
    document["fields"]["__class__"] = {"__reduce__": "os.system"}
    file.write_text(json.dumps(document))
    from interp.runs import read_results

    with pytest.raises(InterpError):
        read_results(run_folder)


def test_a_picture_that_unpacks_to_gigabytes(tmp_path):
    from PIL import Image

    from interp.images import open_image

    for size in ((12_000, 10_000), (20_000, 10_000)):  # Pillow warns of the first only
        Image.new("1", size).save(tmp_path / "large.png")
        with pytest.raises(DataError, match="pixels"):
            open_image(Path(tmp_path / "large.png"), 0)


def test_markup_in_texts_stays_text(bench, tmp_path):
    attack = "</script><script>window.hit=1</script><svg onload=alert(1)>"
    lines = [f'"{t} {attack}",{i % 2},{i // 2}' for i, t in enumerate(TEXTS)]
    (tmp_path / "data.csv").write_text("\n".join(["text,<b>label,city", *lines]))
    out = tmp_path / "run"
    line = ["probe", str(bench.model), str(tmp_path / "data.csv"), "--label-column", "<b>label",
            "--folds", "3", "--no-random-model", "--out", str(out)]  # fmt: skip
    assert run(Case("", line, judge=lambda done: None)).kind == CORRECT
    page = (out / "report.html").read_text()
    assert "window.hit" in page and attack not in page and "<svg onload" not in page
    assert "<b>label" not in page
