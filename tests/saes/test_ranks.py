"""Several processes train as one does: every architecture, its log, files, errors and resuming.

One start of torchrun serves many tests: `shared_trainings` is what it runs.
"""

import importlib.util
import json
import threading
from pathlib import Path

import pytest
import torch

import saes
from interp.errors import ParameterError
from interp.runs import read_results
from saes import kernels, primitives, trainee
from saes.ranks import Ranks
from saes.resuming import read_state

SCRIPT = Path(__file__).with_name("shared_trainings.py")
_spec = importlib.util.spec_from_file_location("shared_trainings", SCRIPT)
shared = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(shared)
BATCH, CASES = shared.BATCH, shared.CASES
CURVE = 1e-5
"""How far, relatively, a logged number may be off."""


@pytest.fixture(scope="module", autouse=True)
def _soon_dead():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainee, "REFRESH", shared.REFRESH)
        yield


class Seat:
    """What `Ranks` needs of a world, for threads in place of processes."""

    def __init__(self, rank, size, barrier, box):
        self.rank, self.size, self._barrier, self._box = rank, size, barrier, box

    def sum_(self, tensor):
        self._box[self.rank] = tensor.clone()
        self._barrier.wait(10)
        total = sum(self._box[i] for i in range(self.size))
        self._barrier.wait(10)
        return tensor.copy_(total)


def together(size, total, work):
    """What ``work(ranks)`` gives in each of several threads, by rank."""
    barrier, box, found = threading.Barrier(size), {}, {}

    def one(rank):
        found[rank] = work(Ranks(Seat(rank, size, barrier, box), total))

    threads = [threading.Thread(target=one, args=(i,)) for i in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found[i] for i in range(size)]


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ---- the whole batch, from its parts


@pytest.mark.parametrize("size", [2, 3, 5])
def test_rows_are_dealt_out_in_order_and_evenly(size):
    parts = together(size, BATCH, lambda r: (list(range(BATCH))[r.own], r.share))
    assert sum((rows for rows, _ in parts), []) == list(range(BATCH))
    assert max(len(r) for r, _ in parts) - min(len(r) for r, _ in parts) <= 1
    assert sum(share for _, share in parts) == pytest.approx(1)


def test_means_rows_and_the_least_are_those_of_the_batch():
    x, chosen = drawn(BATCH, 4), torch.tensor([100, 0, 33, 33, 67])

    def work(ranks):
        own = x[ranks.own]
        return ranks.mean(own.mean(0)), ranks.take(own, chosen), ranks.concat(own), ranks.least(
            own.amin()
        )  # fmt: skip

    for mean, taken, every, least in together(3, BATCH, work):
        assert torch.allclose(mean, x.mean(0), atol=1e-6)
        assert torch.equal(taken, x[chosen]) and torch.equal(every, x) and least == x.amin()


def test_the_gradient_of_a_mean_is_that_of_the_batch():
    """Of a function of the mean that is no mean itself: (mean - 3)^2, whose means would be off."""
    x, w = drawn(BATCH, 4), torch.full((4,), 2.0, requires_grad=True)
    ((x @ w).square().mean() - 3).square().backward()

    def work(ranks, whole=True):
        own = torch.full((4,), 2.0, requires_grad=True)
        mean = (x[ranks.own] @ own).square().mean()
        mean = ranks.mean(mean) if whole else mean
        ((mean - 3).square() * ranks.share).backward()
        return ranks.world.sum_(own.grad)

    assert all(torch.allclose(g, w.grad, rtol=1e-5) for g in together(3, BATCH, work))
    apart = together(3, BATCH, lambda r: work(r, whole=False))
    assert not any(torch.allclose(g, w.grad, rtol=1e-3) for g in apart)


@pytest.mark.parametrize("backend", ["eager", "numba", "int8"])
@pytest.mark.parametrize("kind", ["plain", "ties", "one rank has all", "few are positive"])
def test_batch_topk_of_parts_is_that_of_the_batch(kind, backend):
    """Also of whole numbers, many of them equal at the cut: the first of the batch are kept."""
    x, encoder, b_enc, k = drawn(BATCH, 8), drawn(40, 8, seed=1), torch.zeros(40), 3
    if kind == "ties":
        x, encoder = x.round(), encoder.round()
    elif kind == "one rank has all":
        x[40:] *= 1e-3
    elif kind == "few are positive":
        b_enc -= 9
    whole = kernels.encode_batch_topk(x, encoder, b_enc, k, backend=backend).dense(40)
    for size in (2, 3):
        parts = together(
            size, BATCH,
            lambda r: kernels.encode_batch_topk(
                x[r.own], encoder, b_enc, k, backend=backend, ranks=r
            ).dense(40),
        )  # fmt: skip
        found = torch.cat(parts)
        assert torch.equal(found != 0, whole != 0) and torch.allclose(found, whole, atol=1e-5)
    if kind == "one rank has all":
        assert not bool((whole[60:] != 0).any())
        alone = primitives.encode_batch_topk(x[60:], encoder, b_enc, k, "eager")[0]
        assert bool((alone > 0).any()), "a cut of each rank's own would take other latents"


def test_a_rank_without_a_slot_has_gradients_of_zero():
    x = drawn(BATCH, 8)
    x[40:] *= 1e-3

    def work(ranks):
        sae = saes.BatchTopKSAE(
            saes.BatchTopKConfig(n_latents=40, k=3), 8, generator=torch.Generator().manual_seed(0)
        )
        sae.ranks = ranks
        loss = sae.loss(x[ranks.own], k=3)
        loss.total.backward()
        return int(loss.active.sum()), sae.encoder.grad.abs().max(), sae.threshold

    parts = together(4, BATCH, work)
    assert sum(n for n, *_ in parts) == 3 * BATCH and parts[-1][0] == 0
    assert parts[-1][1] == 0 < parts[0][1]
    assert len({float(t) for *_, t in parts}) == 1


# ---- processes


@pytest.fixture(scope="module")
def one():
    """What one process logs."""
    return shared.run_all()


@pytest.fixture(scope="module")
def two(tmp_path_factory, torchrun):
    """What two processes saw, and the folder that they wrote into."""
    folder = tmp_path_factory.mktemp("two")
    shared.kill_in(folder / "one")
    done = torchrun(2, SCRIPT, folder)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "logs.json").read_text()), folder


def off(log, other):
    """The largest relative distance of two logs' numbers, and where."""
    assert log.keys() == other.keys()
    found = [
        (abs(a - b) / max(abs(a), abs(b), 1e-9), f"{name} of step {i + 1}")
        for name in log
        for i, (a, b) in enumerate(zip(log[name], other[name], strict=True))
    ]
    return max(found)


@pytest.mark.parametrize("name", CASES)
def test_two_processes_have_the_curve_of_one(name, one, two):
    """Loss parts, FVU, L0, dead latents, and how many were resampled; of each architecture."""
    assert len(one[name]["total"]) == 16
    assert off(one[name], two[0]["logs"][name]) < (CURVE, "")


def test_the_cases_are_what_they_stand_for(one):
    """Latents die, are read by AuxK, and are resampled."""
    assert sum(log["resampled"][0] > 0 for log in one.values()) >= 12
    for name, log in one.items():
        assert "auxk" not in log or max(log["auxk"]) > 0, name


def test_without_the_sum_of_gradients_the_curve_is_another(one, two):
    assert off({**two[0]["broken"], "resampled": [0]}, one["relu"])[0] > 1e-3


@pytest.mark.slow
def test_four_processes_have_the_curve_of_one(one, tmp_path, torchrun):
    shared.kill_in(tmp_path / "one")
    done = torchrun(4, SCRIPT, tmp_path)
    assert done.returncode == 0, done.stderr
    four = json.loads((tmp_path / "logs.json").read_text())
    for name in CASES:
        assert off(one[name], four["logs"][name]) < (CURVE, ""), name
    assert four["exact"] and len(four["errors"]["nan"]) == 4
    unbroken, steps = shared.recorded(lambda: shared.learn("batch_topk"))
    assert four["rows"] == steps


def test_resumed_with_as_many_it_is_the_unbroken_one(two):
    assert two[0]["exact"]


def test_any_number_of_processes_reads_the_same_rows_in_the_same_order(two):
    """A process goes on where two were killed, and two where one was."""
    found, folder = two
    unbroken, steps = shared.recorded(lambda: shared.learn("batch_topk"))
    assert found["rows"] == steps and sorted(sum(steps[:6], [])) == sorted(set(sum(steps[:6], [])))
    assert found["others_checkpoint"].pop("rows") == steps[5:]
    assert off(found["others_checkpoint"], shared.log_of(unbroken)) < (CURVE, "")
    resumed = shared.resume_in(folder / "left")
    assert resumed.pop("rows") == steps[5:] and len(steps[5]) == BATCH < shared.N
    assert off(resumed, shared.log_of(unbroken)) < (CURVE, "")


def test_one_of_them_writes_what_one_process_would(two, tmp_path):
    _, folder = two
    shared.learn("batch_topk", out=tmp_path)
    names = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*"))
    assert (
        sorted(str(p.relative_to(folder / "here")) for p in (folder / "here").rglob("*")) == names
    )
    (ours, tensors), (theirs, others) = map(read_state, (tmp_path, folder / "here"))
    assert ours.pop("processes") == 1 and theirs.pop("processes") == 2
    assert ours["settings"] == theirs["settings"] and ours["step"] == theirs["step"] == 16
    assert {k: v.shape for k, v in tensors.items()} == {k: v.shape for k, v in others.items()}
    sae = saes.SAE.from_pretrained(folder / "here" / "sae")
    assert sae.n_latents == shared.F and float(sae.threshold) > 0


def test_several_saes_of_several_sites_are_those_of_one_process_though_broken_off(two):
    found, folder = two
    alone = shared.side_by_side()
    assert len(alone) == 4 and found["beside"].keys() == alone.keys()
    for name, log in alone.items():
        assert off(found["beside"][name], log) < (CURVE, ""), name
    assert len(list((folder / "beside" / "sae").glob("*/training.json"))) == 4


@pytest.mark.parametrize(
    ("kind", "cls", "sentence"),
    [
        ("nan", "ParameterError", "the loss of relu is nan at step 2; take a smaller lr than 1e"),
        ("few", "ParameterError", "batch_size must give each of 2 processes a row; got 1."),
        ("compile", "ParameterError", "compile is for one process"),
        ("there", "StoreError", "already holds a training; go on with resume"),
        ("other", "StoreError", "holds a training with another seed (0; now 1)"),
        ("data", "ParameterError", "the processes of torchrun were given different acts; call it"),
        ("folder", "ParameterError", "were given different seed, out; call it with the same"),
        ("apart", "InterpError", "the ranks hold different weights of relu after step 1"),
    ],
)
def test_errors_are_those_of_all_processes(kind, cls, sentence, two):
    first, second = two[0]["errors"][kind]
    assert first == second and first[0] == cls and sentence in first[1]


# ---- the command


def test_what_is_trained_in_one_process_says_so():
    from interp.cli.sae.train import _one_process

    for architecture, sentence in (("codebook", "without torchrun"), ("vl", "give --store")):
        with pytest.raises(ParameterError, match=sentence):
            _one_process(2, architecture, stored=False)
        _one_process(2, architecture, stored=True)
        _one_process(1, architecture, stored=False)


KILLED = """
import os, signal, sys
from saes import trainee
whole = trainee.Trainee.step
def step(self, pair, i, **options):
    if i == 7 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    whole(self, pair, i, **options)
trainee.Trainee.step = step
from interp.cli import app
app(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def command(torchrun, folder, tmp_path_factory):
    """The arguments of a training from a model, and the folder of a run of two processes."""
    place = tmp_path_factory.mktemp("command")
    texts = place / "texts.txt"
    lines = [" ".join(f"w{2 + (7 * i + 3 * j) % 90}" for j in range(1 + i % 5)) for i in range(60)]
    texts.write_text("\n".join(lines))
    arguments = (
        "sae", "train", folder("gpt2"), texts, "-p", "resid_post.1", "--k", 3, "--n-latents", 24,
        "--steps", 10, "--batch-size", 33, "--buffer-rows", 60, "--checkpoint-every", 3, "--json",
    )  # fmt: skip
    done = torchrun(2, "-m", "interp", *arguments, "--out", place / "two")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads((place / "two" / "metrics.json").read_text())
    return arguments, place / "two"


def files(run):
    return sorted(str(p.relative_to(run)) for p in run.rglob("*"))


def test_the_command_from_a_model_has_the_curve_of_one_process(
    invoke, command, tmp_path, monkeypatch
):
    """Each process runs the model on its share of the documents."""
    monkeypatch.setattr(trainee, "REFRESH", 10)  # as in the other processes
    arguments, run = command
    done = invoke(*arguments, "--out", tmp_path / "one")
    assert done.exit_code == 0, done.output
    logs = []
    for place in (tmp_path / "one", run):
        (log,) = read_results(place)
        logs.append({"fvu": log.fvu, "l0": log.l0, "dead": log.dead, **log.loss})
    assert off(*logs) < (CURVE, "")
    assert files(tmp_path / "one") == files(run)


@pytest.mark.slow
def test_a_rank_that_is_killed_and_restarted_changes_no_bit(command, torchrun, tmp_path):
    """Though the command says --force, which is for the first start."""
    arguments, run = command
    (tmp_path / "killed.py").write_text(KILLED)
    out = tmp_path / "run"
    done = torchrun(
        2, "--max-restarts", 1, tmp_path / "killed.py", *arguments, "--force", "--out", out
    )
    assert done.returncode == 0, done.stderr
    assert "failed (exitcode: " in done.stderr
    for file in ("metrics.json", "sae/model.safetensors", "config.json"):
        assert (run / file).read_bytes() == (out / file).read_bytes(), file
    assert files(run) == files(out) and read_state(out)[0]["processes"] == 2
