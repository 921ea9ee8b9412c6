"""``nnsight:ID`` with remote=True, up to the request and from the answer on.

The server is a transport inside this process that runs what it is sent on a model of its own; the
library's real client speaks to it, and no test opens a socket.
"""

import io
import json
import pickle
import socket
from functools import cache
from pathlib import Path

import httpx
import pytest
import torch
import zstandard
from nnsight import CONFIG, TransformersModel
from nnsight.modeling import huggingface
from nnsight.schema.request import RequestModel
from nnsight.tracing import tracer as tracing
from safetensors.torch import load_file

import interp
import interp.remote
import interp.remote_job
from interp.errors import ModelError, ParameterError
from interp.models import quiet_transformers
from probes.perturb import quantised

IDS = torch.tensor([[5, 17, 33, 8, 90, 2, 41], [3, 3, 61, 7, 12, 88, 1]])
ROLES = ["embed", "resid_pre.*", "attn_out.*", "head_out.*", "mlp_in.*", "mlp_act.*"]
ROLES += ["mlp_out.*", "resid_post.*", "final_norm"]
HOST = "http://ndif.test"
SPEC = "nnsight:tiny/gpt2"


class Server:
    """Answers as NDIF does: takes a job, says its status when asked, and hands out the result."""

    def __init__(self, model):
        self.model = model
        self.requests, self.blobs, self.headers, self.tracers = [], [], [], []
        self.results, self.looks = {}, {}
        self.statuses = ["QUEUED", "RUNNING", "COMPLETED"]
        self.protocol, self.down, self.answer, self.refuse = 2, 0, None, None

    def __call__(self, request):
        path = request.url.path
        if path == "/request":
            self.headers.append(request.headers)
            if self.refuse is not None:
                return self.refuse(request)
            return self.take(request)
        job = path.rpartition("/")[2]
        if path.startswith("/results/"):
            return httpx.Response(200, content=self.results[job])
        if self.down:
            self.down -= 1
            raise httpx.ReadError("connection reset by peer", request=request)
        at = min(self.looks.get(job, 0), len(self.statuses) - 1)
        self.looks[job] = at + 1
        status = {"id": job, "status": self.statuses[at], "description": "it burst"}
        if status["status"] == "COMPLETED":
            status["data"] = f"{HOST}/results/{job}"
        return httpx.Response(200, json=status)

    def take(self, request):
        boundary = request.headers["content-type"].partition("boundary=")[2].encode()
        parts = {}
        for part in request.content.split(b"--" + boundary)[1:-1]:
            head, _, body = part.partition(b"\r\n\r\n")
            parts[head.partition(b'name="')[2].partition(b'"')[0].decode()] = body[:-2]
        told, blob = json.loads(parts["data"]), parts["blob"]
        self.requests.append(told)
        self.blobs.append(zstandard.ZstdDecompressor().decompress(blob))
        job = f"job{len(self.requests)}"
        saved = self.answer if self.answer is not None else self.run(blob)
        if not isinstance(saved, bytes):
            held = io.BytesIO()
            torch.save(saved, held, pickle_protocol=self.protocol)
            saved = zstandard.ZstdCompressor().compress(held.getvalue())
        self.results[job] = saved
        return httpx.Response(200, json={"id": job, "status": "RECEIVED"})

    def run(self, blob):
        here = self.model._remoteable_persistent_objects()
        tracer = RequestModel.deserialize(blob, here, compress=True)
        self.tracers.append(dict(tracer.kwargs))
        tracing.inc()
        try:
            tracer.execute(tracer.info.code)
            names = tracer.info.frame.f_locals
            return {k: v for k, v in names.items() if id(v) in tracing._saves()}
        finally:
            tracing.dec()


@cache
def hosted(path, task):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path)
    with quiet_transformers():
        return TransformersModel(str(path), task=task, dispatch=True, tokenizer=tokenizer)


@pytest.fixture
def ndif(folder, monkeypatch):
    """``ndif("gpt2")``: a server that hosts tiny/gpt2, and nothing else to be reached."""

    def nowhere(*_, **__):
        raise AssertionError("a test opened a socket")

    monkeypatch.setattr(socket.socket, "connect", nowhere)
    monkeypatch.setattr(CONFIG.API, "HOST", HOST)
    monkeypatch.setattr(CONFIG.API, "APIKEY", "secret")
    monkeypatch.setattr(interp.remote_job, "PAUSES", (0.0, 0.0))
    real_skeleton, client = interp.remote._skeleton, httpx.Client

    def serve(name="gpt2"):
        path = folder(name)
        task = "feature-extraction" if name == "bert" else "text-generation"
        server = Server(hosted(path, task))
        monkeypatch.setitem(huggingface._ID_CACHE, str(path), f"tiny/{name}")
        monkeypatch.setattr(
            interp.remote, "_skeleton", lambda _, *more: real_skeleton(str(path), *more)
        )
        monkeypatch.setattr(
            httpx, "Client", lambda **o: client(transport=httpx.MockTransport(server), **o)
        )
        return server

    return serve


def test_loading_sends_nothing_and_holds_no_weights(ndif, tiny):
    server = ndif()
    model = interp.load(SPEC, remote=True)
    assert model.remote and model.device.type == "cpu"
    assert all(p.is_meta for p in model.module.parameters())
    here = interp.load(tiny("gpt2"))
    assert model.hookpoints().equals(here.hookpoints())
    assert model.resolve(ROLES) == here.resolve(ROLES)
    assert server.requests == []


@pytest.mark.parametrize("name", ["gpt2", "llama", "opt", "bert"])
def test_hook_points_hold_what_they_hold_here(ndif, folder, name):
    server = ndif(name)
    there = interp.load(f"nnsight:tiny/{name}", remote=True)
    here = interp.load(folder(name), device="cpu")
    wanted = [r for r in ROLES if name != "bert" or r != "final_norm"]
    x = {"input_ids": IDS, "attention_mask": torch.tensor([[1] * 7, [1] * 4 + [0] * 3])}
    _, expected = interp.run_with_cache(here, x, wanted)
    out, found = interp.run_with_cache(there, x, wanted)
    assert list(found) == list(expected)
    for key in expected:
        assert torch.equal(found[key], expected[key]), key
    with pytest.raises(ModelError, match=r"own output \(\.logits\) is kept"):
        out.logits  # noqa: B018
    assert len(server.requests) == 1
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in there.module.modules())


@pytest.mark.parametrize("pool", ["last", "first", "mean", "weighted_mean", "max", "all"])
def test_a_store_is_the_one_captured_here(ndif, folder, texts, pool, tmp_path):
    server = ndif()
    there = interp.load(SPEC, remote=True)
    here = interp.load(folder("gpt2"), device="cpu")
    wanted = ["resid_post.*", "head_out.1", "mlp_act.0"]
    options = {"pool": pool, "batch_size": 5}
    one = interp.capture(here, texts, wanted, out=tmp_path / "here", **options)
    two = interp.capture(there, texts, wanted, out=tmp_path / "there", **options)
    for key in one.hookpoints:
        assert torch.equal(two[key][:], one[key][:]), key
    assert two.rows.equals(one.rows)
    assert [s["sha256"] for s in two.manifest["shards"]] == [
        s["sha256"] for s in one.manifest["shards"]
    ]
    for key in ("hookpoints", "certificate", "pool", "dtype", "batch_size", "data", "n"):
        assert two.manifest[key] == one.manifest[key]
    assert two.manifest["model"]["remote"] == HOST
    assert two.manifest["key"] != one.manifest["key"]  # its weights cannot be known to be these
    # a row for the shapes, four rows together and alone for the certificate, and a batch each
    assert len(server.requests) == 1 + 5 + 3


def test_what_is_sent(ndif, texts, monkeypatch):
    server = ndif()
    model = interp.load(SPEC, remote=True)
    answers = []
    run = server.run
    monkeypatch.setattr(server, "run", lambda blob: answers.append(run(blob)) or answers[-1])
    interp.capture(model, texts, ["resid_post.1", "mlp_act.2"], batch_size=12)
    request = server.requests[-1]
    assert json.loads(request["model_key"].partition(":")[2]) == {
        "repo_id": "tiny/gpt2", "revision": None, "task": "text-generation"
    }  # fmt: skip
    assert server.headers[-1]["ndif-api-key"] == "secret"
    assert request["compress"] is True and request["env"] == {"attn_implementation": "sdpa"}
    # the whole batch, longest first, padded on the right as here
    feed = interp.feeds.feed(model, interp.data.read(texts))
    order = sorted(range(12), key=lambda i: (-feed.lengths[i], i))
    expected = model.pad([feed.ids[i] for i in order])
    assert server.tracers[-1].keys() == expected.keys()
    assert all(torch.equal(server.tracers[-1][k], expected[k]) for k in expected)
    # two values come back, one vector a row
    assert answers[-1].keys() == {"rows"}
    shapes = {k: [list(x.shape) for x in v] for k, v in answers[-1]["rows"].items()}
    last = model.resolve("mlp_act.2")[0]
    assert shapes == {
        "transformer.h.1:out": [[12, 1, 32]], f"{last.module}:{last.side}": [[12, 1, 48]]
    }  # fmt: skip
    blob = server.blobs[-1]
    assert len(blob) < 40_000  # no weights
    assert b"tracer.cache" in blob  # the block, as source
    for secret in (b"secret", str(Path(interp.__file__).parent).encode(), texts[1].encode()):
        assert secret not in blob


REFUSED = "only on this machine, and nnsight:tiny/gpt2 runs on http://ndif.test"


def test_what_is_done_here_only(ndif):
    server = ndif()
    model = interp.load(SPEC, remote=True)
    vector = torch.ones(32)
    changes = [
        lambda: interp.steer(model, "resid_post.1", vector),
        lambda: interp.ablate(model, "mlp_act.1", [1]),
        lambda: interp.patch(model, {"resid_post.1": torch.zeros(1, 2, 32)}),
        lambda: interp.splice(model, "attn_out.2", torch.tanh),
    ]
    for change in changes:
        with pytest.raises(ModelError, match=REFUSED):
            with change():
                pass
    for ask in (model.reinitialised, model.unembedding, lambda: model.generate("w2 w3")):
        with pytest.raises(ModelError, match=REFUSED):
            ask()
    with pytest.raises(ModelError, match="rounding its weights needs all weights"):
        with quantised(model, "int8"):
            pass
    with pytest.raises(ModelError, match="reads token ids and their mask here; got pixel_values"):
        model({"pixel_values": torch.zeros(1, 3, 4, 4)})
    model(IDS)  # nothing is hooked, nothing is asked
    assert server.requests == []
    from interp.hooks import hooked

    for wanted in ("resid_post.1", "mlp_act.1"):  # an output, an input
        with hooked(model.module, model.resolve(wanted), lambda p, x: x + 1):
            with pytest.raises(ModelError, match="was changed by a hook.*" + REFUSED):
                model(IDS)


@pytest.mark.parametrize(
    ("spec", "options", "said"),
    [
        ("tiny/gpt2", {}, "--remote runs nnsight:ID on a server"),
        ("demo:pylm", {}, "--remote runs nnsight:ID on a server"),
        ("nnsight:demo:pylm", {}, "is on this machine"),
        ("nnsight:/", {}, "is on this machine"),
        (SPEC, {"dtype": "float32"}, "in the server's dtype"),
        (SPEC, {"device_map": "auto"}, "without a device map"),
    ],
)
def test_what_cannot_be_loaded(ndif, spec, options, said):
    server = ndif()
    with pytest.raises(ParameterError, match=said):
        interp.load(spec, remote=True, **options)
    assert server.requests == []


def test_a_key_is_needed_where_the_server_is_ndif(ndif, monkeypatch):
    ndif()
    monkeypatch.setattr(CONFIG.API, "APIKEY", None)
    assert interp.load(SPEC, remote=True).remote  # a server of your own
    monkeypatch.setattr(CONFIG.API, "HOST", "https://api.ndif.us")
    with pytest.raises(ParameterError, match="needs a key of https://api.ndif.us in NDIF_API_KEY"):
        interp.load(SPEC, remote=True)


def test_no_such_model_on_the_hub(monkeypatch):
    monkeypatch.setattr(CONFIG.API, "APIKEY", "secret")
    with pytest.raises(ModelError, match="the hub does not give it"):
        interp.load("nnsight:tiny/nothing", remote=True)


class Evil:
    def __reduce__(self):
        return (Path.touch, (Evil.path,))


def refusing(code, detail):
    return lambda request: httpx.Response(code, json={"detail": detail})


def unreachable(request):
    raise httpx.ConnectError("no route to host", request=request)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"refuse": refusing(401, "bad key")}, r"refuses the key in NDIF_API_KEY \(bad key\)"),
        ({"refuse": refusing(404, "not hosted")}, r"does not take .*\(404: not hosted\)"),
        ({"refuse": refusing(503, "busy")}, r"does not take .*\(503: busy\)"),
        ({"refuse": unreachable}, r"cannot be reached for .*no route to host"),
        ({"statuses": ["QUEUED", "ERROR"]}, "failed on nnsight:tiny/gpt2: it burst"),
        ({"statuses": ["QUEUED"]}, "the job job1 .* has been queued for 0 minutes"),
        ({"refuse": lambda _: httpx.Response(200, text="<html>")}, "as an NDIF server does"),
        ({"statuses": ["LOST"]}, "as an NDIF server does"),
        ({"down": 99}, "does not answer for the job job1"),
        ({"answer": b"not zstd"}, "is not the plain tensors"),
        (
            {"answer": zstandard.ZstdCompressor().compress(b"no tensors")},
            "is not the plain tensors",
        ),
        ({"answer": {"rows": {"other:out": [torch.ones(1)]}}}, "something else than was asked"),
        ({"answer": {"rows": {}}}, "never fired"),
        ({"answer": [1]}, "a list in place of a dict"),
        ({"protocol": 4}, "is not the plain tensors"),
    ],
)
def test_one_sentence_for_what_goes_wrong(ndif, texts, monkeypatch, change, said):
    server = ndif()
    if change.get("statuses") == ["QUEUED"]:
        monkeypatch.setattr(interp.remote_job, "PATIENCE", 0.01)
    vars(server).update(change)
    model = interp.load(SPEC, remote=True)
    with pytest.raises(interp.errors.InterpError, match=said) as caught:
        interp.capture(model, texts, "resid_post.1")
    assert "\n" not in str(caught.value)
    assert not any(m._forward_hooks for m in model.module.modules())
    vars(server).update(vars(Server(server.model)))
    monkeypatch.setattr(interp.remote_job, "PATIENCE", 9.0)
    server.down = interp.remote_job.LOST - 1  # a drop of the network is waited out
    assert interp.capture(model, texts, "resid_post.1").n == len(texts)


def test_a_pickle_that_would_run_is_not_run(ndif, texts, tmp_path):
    server = ndif()
    Evil.path = tmp_path / "ran"
    server.answer = {"rows": {"transformer.h.1:out": [Evil()]}}
    model = interp.load(SPEC, remote=True)
    with pytest.raises(ModelError, match="is not the plain tensors .* nothing of it was used"):
        interp.capture(model, texts, "resid_post.1")
    assert not Evil.path.exists()
    server.answer = zstandard.ZstdCompressor().compress(pickle.dumps(Evil()))
    with pytest.raises(ModelError, match="is not the plain tensors"):
        interp.capture(model, texts, "resid_post.1")
    assert not Evil.path.exists()
    pickle.loads(pickle.dumps(Evil()))  # it would have
    assert Evil.path.exists()


def test_too_large_an_answer(monkeypatch):
    monkeypatch.setattr(interp.remote_job, "MOST_BYTES", 1000)
    held = io.BytesIO()
    torch.save({"rows": torch.zeros(10_000)}, held)
    packed = zstandard.ZstdCompressor().compress(held.getvalue())
    with pytest.raises(ModelError, match="answers with more than 0 GiB"):
        interp.remote_job.plain_tensors(packed, True, HOST)


def test_a_store_goes_on_where_the_server_failed(ndif, texts, tmp_path, monkeypatch):
    monkeypatch.setattr("interp.planning.SHARD_ROWS", 3)
    server = ndif()
    whole = interp.capture(interp.load(SPEC, remote=True), texts, "resid_post.*", batch_size=3)
    asked = len(server.requests)
    assert asked == 1 + 5 + 4

    def fails_late(request):
        return refusing(503, "busy")(request) if len(server.requests) >= 8 else server.take(request)

    server = ndif()
    server.refuse = fails_late
    out = tmp_path / "acts"
    with pytest.raises(ModelError, match="--resume goes on"):
        interp.capture(interp.load(SPEC, remote=True), texts, "resid_post.*", batch_size=3, out=out)
    server.refuse = None
    before = len(server.requests)
    store = interp.capture(
        interp.load(SPEC, remote=True), texts, "resid_post.*", batch_size=3, out=out, resume=True
    )
    assert len(server.requests) - before == 1 + 5 + 4 - (before - 6)  # whole shards are kept
    for key in whole.hookpoints:
        assert torch.equal(store[key][:], whole[key][:])


def test_commands(ndif, folder, texts, tmp_path, invoke, monkeypatch):
    monkeypatch.setattr(interp.remote.RemoteModel, "tell", staticmethod(lambda text: None))
    server = ndif()
    data = tmp_path / "data.csv"
    data.write_text("text,label\n" + "".join(f"{t},{i % 2}\n" for i, t in enumerate(texts)))
    done = invoke("hookpoints", SPEC, "--remote", "--roles", "--json")
    assert done.exit_code == 0 and len(json.loads(done.stdout)) > 10
    assert server.requests == []
    arguments = [data, "-p", "resid_post.*", "--out"]
    assert invoke("capture", folder("gpt2"), *arguments, tmp_path / "here").exit_code == 0
    done = invoke("capture", SPEC, *arguments, tmp_path / "there", "--remote")
    assert done.exit_code == 0, done.output
    assert "nnsight:tiny/gpt2: queued (job job1)" in done.stderr
    here, there = (interp.ActivationStore.open(tmp_path / n) for n in ("here", "there"))
    assert here.manifest["shards"] == there.manifest["shards"]
    found = {}
    for name, more in ((folder("gpt2"), []), (SPEC, ["--remote"])):
        where = tmp_path / f"probe{len(more)}"
        done = invoke(
            "probe", name, data, "-p", "resid_post.*", "--folds", 3, "--out", where, "--json", *more
        )
        assert done.exit_code == 0, done.output
        found[len(more)] = json.loads((where / "metrics.json").read_text())
    assert "no random-initialised control" in done.stderr
    one, two = (
        {k: v for k, v in f["concept_depth"]["data.label"].items() if k[:12] != "random_model"}
        for f in found.values()
    )
    assert two.pop("reasons").pop("random_model")  # the one thing that needs the weights
    del one["reasons"]
    assert two == one and len(one["accuracy"]) == 3
    sae = ["--hookpoint", "resid_post.1", "--n-latents", 8, "--k", 2, "--steps", 5,
           "--batch-size", 16]  # fmt: skip
    for name, more in ((folder("gpt2"), []), (SPEC, ["--remote"])):
        done = invoke(
            "sae", "train", name, data, *sae, "--out", tmp_path / f"sae{len(more)}", *more
        )
        assert done.exit_code == 0, done.output
    one, two = (
        [load_file(p) for p in sorted((tmp_path / f"sae{i}").rglob("*.safetensors"))]
        for i in (0, 1)
    )
    assert one and len(one) == len(two)
    for ours, theirs in zip(one, two, strict=True):
        assert all(torch.equal(theirs[k], ours[k]) for k in ours)
    done = invoke("probe", SPEC, data, "--lens", "--out", tmp_path / "lens", "--remote")
    assert done.exit_code == 1 and "only on this machine" in done.output
    done = invoke(
        "sae", "train", SPEC, data, *sae, "--architecture", "codebook", "--out", tmp_path / "b",
        "--remote",
    )  # fmt: skip
    assert done.exit_code == 2 and "--remote is for MODEL and texts" in done.output
