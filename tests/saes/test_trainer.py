"""Training: deterministic, resumed bit for bit, the same alone and beside others, and it learns."""

import json
import shutil

import numpy as np
import pytest
import torch

import saes
from interp.errors import DataError, ParameterError, ShapeError, StoreError
from interp.results import Result
from saes import ARCHITECTURES, rows, trainee
from saes.optimizer import Adam
from saes.resample import resample
from saes.resuming import CHECKPOINT
from saes.rows import seeded
from saes.trainee import Options, Trainee
from saes.training import Training

D, F = 12, 32


def planted(n=1200, d=D, f=20, k=2, seed=0):
    """Sums of k of f directions, and the directions."""
    generator = seeded(seed, "planted")
    directions = torch.nn.functional.normalize(torch.randn(f, d, generator=generator), dim=1)
    chosen = torch.rand(n, f, generator=generator).topk(k, dim=1).indices
    z = torch.zeros(n, f).scatter_(1, chosen, 1 + torch.rand(n, k, generator=generator))
    return z @ directions + 0.3, directions


X, DIRECTIONS = planted()
TOPK = saes.TopKConfig(n_latents=F, k=2)
QUICK = {"steps": 12, "batch_size": 100, "lr": 1e-2}


def acts_for(name):
    """Activations of the shape that an architecture reads."""
    if name in ("transcoder", "vl"):
        return X, X.flip(1) * 3
    return torch.stack([X, 4 * X, -X], dim=1) if name == "crosscoder" else X


def same(a, b):
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(
        torch.equal(left[k].nan_to_num(), right[k].nan_to_num()) for k in left
    )


class Killed(Exception):
    pass


def kill_at(step):
    def progress(done, total, what):
        if done == step:
            raise Killed

    return progress


@pytest.fixture(autouse=True)
def _soon_dead(monkeypatch):
    """Dead latents are looked for often, so that short trainings have some."""
    monkeypatch.setattr(trainee, "REFRESH", 3)


# ---- determinism


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_killed_and_resumed_is_unbroken(name, small_config, tmp_path):
    """Bit for bit: optimiser, average, schedules, dead latents, place in the data, and the log."""
    config = small_config(name)
    options = {
        **QUICK, "ema": 0.9, "dead_after": 150, "resample_every": 4, "checkpoint_every": 5,
        "k_start": 6 if hasattr(config, "k") else None, "k_steps": 8,
    }  # fmt: skip
    whole = saes.train(acts_for(name), config, **options)
    with pytest.raises(Killed):
        saes.train(acts_for(name), config, out=tmp_path, progress=kill_at(8), **options)
    assert (tmp_path / CHECKPOINT).is_file() and not (tmp_path / "sae").exists()
    resumed = saes.train(acts_for(name), config, out=tmp_path, resume=True, **options)
    assert same(whole, resumed)
    assert np.array_equal(whole.training_log.fvu, resumed.training_log.fvu)
    assert whole.training_log.metrics() == resumed.training_log.metrics()
    assert not same(whole, saes.train(acts_for(name), config, **{**options, "ema": 0.4}))


def test_what_a_killed_checkpoint_left_goes(small_config, tmp_path):
    left = tmp_path / f".{CHECKPOINT}.9.tmp"
    for how in ({}, {"resume": True}, {"force": True}):
        left.write_bytes(b"half")
        saes.train(acts_for("topk"), small_config("topk"), out=tmp_path, **how, **QUICK)
        assert not left.exists()


def test_several_saes_are_resumed_and_are_those_of_single_trainings(tmp_path):
    configs = [TOPK, saes.BatchTopKConfig(n_latents=24, k=3), saes.ReLUConfig(n_latents=F)]
    sites = {"a": X, "b": (X, -X)}
    options = {**QUICK, "dead_after": 300}
    with pytest.raises(Killed):
        saes.train(sites, configs, out=tmp_path, progress=kill_at(9), checkpoint_every=4, **options)
    found = saes.train(sites, configs, out=tmp_path, resume=True, **options)
    assert len(found) == 6
    for sae, config in zip(found[:3], configs, strict=True):
        assert same(sae, saes.train(X, config, **options))
    for sae, config in zip(found[3:], configs, strict=True):
        assert same(sae, saes.train((X, -X), config, **options))
    assert not same(found[0], saes.train(X, TOPK, seed=1, **options))
    names = sorted(p.name for p in (tmp_path / "sae").iterdir())
    assert names == sorted(f"{s}.{a}" for s in "ab" for a in ("topk", "batch_topk", "relu"))


@pytest.mark.parametrize("options", [{"backend": "int8"}, {"optimizer": "lion", "lr": 1e-3}])
def test_resuming_is_exact_on_every_backend_and_optimiser(options, tmp_path):
    config = saes.TopKConfig(n_latents=64, k=2)
    options = {"steps": 12, "batch_size": 300, "seed": 3, **options}
    unbroken = saes.train(X, config, **options)
    with pytest.raises(Killed):
        saes.train(X, config, out=tmp_path, progress=kill_at(7), checkpoint_every=3, **options)
    assert same(unbroken, saes.train(X, config, out=tmp_path, resume=True, **options))
    other = {**options, "backend": "eager"} if "backend" in options else {**options, "lr": 2e-3}
    with pytest.raises(StoreError, match="backend" if "backend" in options else "lr"):
        saes.train(X, config, out=tmp_path, resume=True, **other)


@pytest.mark.parametrize("architecture", ["topk", "batch_topk", "matryoshka", "transcoder"])
def test_backends_train_the_same(architecture):
    config = ARCHITECTURES[architecture][0](n_latents=64, k=2)
    acts = (X, X.flip(1)) if architecture == "transcoder" else X
    options = {"steps": 15, "batch_size": 300, "lr": 1e-2, "dead_after": 300}
    first, *others = (
        saes.train(acts, config, backend=b, **options) for b in ("eager", "numba", "int8")
    )
    start = saes.train(acts, config, **{**options, "steps": 1})
    moved = (first.decoder - start.decoder).norm()
    for other in others:
        assert other.backend == "auto"
        assert (first.decoder - other.decoder).norm() < 1e-3 * moved
        assert abs(other.training_log.fvu[-1] - first.training_log.fvu[-1]) < 1e-4


# torch.compile calls deprecated parts of torch itself.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_one_graph_without_breaks_and_what_it_cost():
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("torch.compile needs a C++ compiler: install g++")
    options = {"steps": 12, "batch_size": 300, "lr": 1e-2, "dead_after": 300}
    plain = saes.train(X, TOPK, **options)
    compiled = saes.train(X, TOPK, backend="compile", **options)
    assert (plain.decoder - compiled.decoder).norm() < 1e-3
    assert compiled.training_log.compile_seconds > 0.1
    assert "_total" not in vars(compiled), "what is handed over is not compiled"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_any_number_of_trainings_are_compiled():
    """torch compiles one code but eight times, and all SAEs share theirs."""
    for n_latents in range(24, 33):
        config = saes.TopKConfig(n_latents=n_latents, k=2)
        sae = saes.train(X, config, steps=2, batch_size=300, backend="compile")
        assert sae.training_log.compile_seconds > 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_is_one_graph(name, small):
    """With ``fullgraph`` a break of the graph is an error."""
    sae = small(name, fresh=True).train()
    x = torch.randn(64, *sae.in_shape, generator=torch.Generator().manual_seed(0))
    y = torch.randn(64, *sae.out_shape, generator=torch.Generator().manual_seed(1))
    target = y if sae.transcodes else x
    x, target = (t.flatten(1) for t in (x, target))
    torch.compiler.reset()
    graph = torch.compile(sae._total, fullgraph=True)
    for dead in (None, torch.arange(5), torch.arange(9)):
        ours, theirs = (f(x, target, dead, None, 1.0).total for f in (graph, sae._total))
        assert torch.allclose(ours, theirs, rtol=1e-5)
        ours.backward()


def test_a_finished_training_is_given_back(tmp_path):
    first = saes.train(X, TOPK, out=tmp_path, **QUICK)
    steps = []
    again = saes.train(
        X, TOPK, out=tmp_path, resume=True, progress=lambda *a: steps.append(a), **QUICK
    )
    assert same(first, again) and not steps


def test_nothing_global_is_seeded_or_changed():
    before = torch.get_rng_state()
    saes.train(X, TOPK, **QUICK)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"lr": 2e-2}, "lr"),
        ({"steps": 13}, "steps"),
        ({"seed": 1}, "seed"),
        ({"ema": 0.5}, "ema"),
        ({"batch_size": 101}, "batch_size"),
    ],
)
def test_another_setting_is_refused_by_name(tmp_path, changed, named):
    options = {**QUICK, "warmup": 1, "decay_steps": 2, "penalty_warmup": 1, "dead_after": 300}
    saes.train(X, TOPK, out=tmp_path, **options)
    saes.train(X, TOPK, out=tmp_path, resume=True, **options)
    with pytest.raises(StoreError, match=f"another {named} "):
        saes.train(X, TOPK, out=tmp_path, resume=True, **{**options, **changed})


def test_other_configs_and_other_rows_are_refused(tmp_path):
    saes.train(X, TOPK, out=tmp_path, **QUICK)
    with pytest.raises(StoreError, match="another configs"):
        saes.train(X, saes.TopKConfig(n_latents=F, k=3), out=tmp_path, resume=True, **QUICK)
    with pytest.raises(StoreError, match="another acts"):
        saes.train(X + 1, TOPK, out=tmp_path, resume=True, **QUICK)
    with pytest.raises(StoreError, match="already holds a training"):
        saes.train(X, TOPK, out=tmp_path, **QUICK)
    assert saes.train(X + 1, TOPK, out=tmp_path, force=True, **QUICK).training_log.n == 1200


def test_a_damaged_checkpoint_is_one_sentence(tmp_path):
    saes.train(X, TOPK, out=tmp_path, **QUICK)
    whole = (tmp_path / CHECKPOINT).read_bytes()
    for cut in (whole[:100], whole[:-10], b""):
        (tmp_path / CHECKPOINT).write_bytes(cut)
        with pytest.raises(StoreError, match="no whole checkpoint"):
            saes.train(X, TOPK, out=tmp_path, resume=True, **QUICK)


# ---- what is learnt


def recovered(sae):
    """Mean over the planted directions of the best cosine with a decoder row."""
    found = torch.nn.functional.normalize(sae.W_dec.detach(), dim=1)
    return float((DIRECTIONS @ found.T).max(1).values.mean())


def test_planted_directions_are_found():
    options = {"steps": 180, "batch_size": 200, "lr": 2e-2}
    sae = saes.train(X, TOPK, **options)
    log = sae.training_log
    assert recovered(sae) > 0.9 > recovered(saes.train(X, TOPK, **{**options, "steps": 1}))
    assert log.fvu[-1] < 0.2 < log.fvu[0]
    assert sae.training is False and log.l0[-1] == pytest.approx(2, abs=0.01)
    assert sae.training_log.steps[-1] == 180


def test_the_saved_sae_takes_raw_activations(tmp_path):
    """The scaling is folded in: rows of norm 1,000 and rows of norm 1 are learnt alike."""
    options = {"steps": 60, "batch_size": 200, "lr": 1e-2}
    saes.train(1000 * X, TOPK, out=tmp_path, **options)
    sae = saes.SAE.from_pretrained(tmp_path / "sae")
    plain = saes.train(X, TOPK, **options)

    @torch.no_grad()
    def fvu(sae, x):
        return float((sae(x).output - x).square().sum() / (x - x.mean(0)).square().sum())

    assert fvu(sae, 1000 * X) == pytest.approx(fvu(plain, X), rel=1e-3)
    assert fvu(sae, 1000 * X) == pytest.approx(float(sae_log(tmp_path).fvu[-1]), rel=0.2)
    assert torch.allclose(sae.encode(1000 * X), plain.encode(X), rtol=1e-2, atol=1e-2)
    assert sae.metadata["scale"][0] * 1000 == pytest.approx(plain.metadata["scale"][0])
    raw = saes.train(1000 * X, TOPK, normalize=False, **options)
    assert raw.metadata["scale"] is None
    assert torch.allclose(raw.W_dec.norm(dim=1), torch.ones(F), atol=1e-5)
    lengths = torch.full((F,), 1 / sae.metadata["scale"][0])
    assert torch.allclose(sae.W_dec.norm(dim=1), lengths, rtol=1e-5)


def sae_log(folder):
    return Result.load(folder / "sae" / "training.json")


def make_trainee(config=TOPK, **changes):
    options = {
        "schedule": saes.schedules.Schedule(steps=100), "lr": 1e-2, "seed": 0, "dead_after": 150,
        "normalize": False, "b_dec": "zero", "clip": None, "ema": None, "resample_every": None,
        "autocast": None, "optimizer": "adam", "backend": "auto", **changes,
    }  # fmt: skip
    pair = rows.Pair(X, None)
    return Trainee("topk", config, 0, pair, Options(**options), torch.device("cpu")), pair


def test_decoder_rows_stay_at_length_one():
    held, pair = make_trainee()
    for i in range(5):
        held.step(pair, i, log=False)
        assert torch.allclose(held.sae.decoder.norm(dim=1), torch.ones(F), atol=1e-6)
    free, pair = make_trainee(saes.ReLUConfig(n_latents=F))
    free.step(pair, 0, log=False)
    assert (free.sae.decoder.norm(dim=1) - 1).abs().max() > 1e-4


def test_dead_latents_are_those_silent_for_so_many_rows():
    held, _ = make_trainee()
    with torch.no_grad():
        held.sae.b_enc[5] = -1e6
    part = rows.Pair(X[:60], None)
    expected = np.zeros(F, int)
    for i in range(6):
        fired = set(held.sae.encode_sparse(X[:60]).indices.flatten().tolist())
        held.step(part, i, log=False)
        expected = np.array([0 if j in fired else n + 60 for j, n in enumerate(expected)])
        assert 5 not in fired and held.silent.tolist() == expected.tolist()
    assert held.dead.tolist() == [j for j, n in enumerate(expected) if n >= 150] and 5 in held.dead


def test_the_running_mean_is_what_is_handed_over():
    held, pair = make_trainee(saes.ReLUConfig(n_latents=F), ema=0.75)
    mean = held.sae.b_dec.detach().clone()
    for i in range(4):
        held.step(pair, i, log=False)
        keep = min(0.75, (1 + i) / (10 + i))  # so that the first weights are soon forgotten
        mean = keep * mean + (1 - keep) * held.sae.b_dec.detach()
    last = held.sae.b_dec.detach().clone()
    sae = held.finish([])
    assert torch.allclose(sae.b_dec, mean, atol=1e-6) and not torch.allclose(mean, last, atol=1e-3)


def test_the_gradient_is_cut_to_its_norm():
    """Adam hides the length of a gradient; its first moment, a tenth of it, does not."""
    for clip in (0.5, 2.0):
        held, pair = make_trainee(saes.ReLUConfig(n_latents=F), clip=clip)
        held.step(pair, 0, log=False)
        moments = [held.optimizer.state[p]["exp_avg"] for p in held.parameters.values()]
        total = torch.cat([m.flatten() for m in moments]).norm()
        assert float(total) == pytest.approx(0.1 * clip, rel=1e-3)


def test_resampled_latents_are_rows_that_are_explained_badly():
    held, pair = make_trainee(saes.ReLUConfig(n_latents=F))
    held.step(pair, 0, log=False)
    sae = held.sae
    x = X.clone()
    x[7] = 500 * torch.nn.functional.normalize(torch.randn(D, generator=seeded(4)), dim=0)
    alive = sae.encoder.detach()[4:].norm(dim=1).mean()
    kept = sae.encoder.detach()[4:].clone()
    resample(sae, torch.arange(4), x, None, held.optimizer, seeded(0))
    wanted = torch.nn.functional.normalize(x[7] - sae.b_dec.detach(), dim=0)
    assert torch.allclose(sae.decoder[:4], wanted.expand(4, D), atol=1e-5)
    assert torch.allclose(sae.encoder[:4], 0.2 * alive * wanted.expand(4, D), atol=1e-5)
    assert torch.equal(sae.encoder[4:], kept) and not sae.b_enc[:4].any()
    moment = held.optimizer.state[sae.encoder]["exp_avg"]
    assert not moment[:4].any() and moment[4:].any()


def test_resampling_revives_dead_latents():
    """ReLU latents that begin far from the data stay dead without it."""
    x = X + 30
    options = {"steps": 60, "batch_size": 200, "lr": 1e-2, "b_dec": "zero", "dead_after": 400}
    config = saes.ReLUConfig(n_latents=F, l1=0.1)
    dead = saes.train(x, config, **options).training_log.dead[-1]
    fewer = saes.train(x, config, resample_every=10, **options).training_log.dead[-1]
    assert fewer < dead


# ---- the result


def test_the_log_is_a_result(tmp_path):
    sae = saes.train(X, TOPK, out=tmp_path, name="acts", provenance={"data": "acts"}, **QUICK)
    log = sae_log(tmp_path)
    assert isinstance(log, Training) and log.name == "acts.topk" and log.n == 1200
    assert log.metrics() == sae.training_log.metrics()
    assert log.steps.tolist() == list(range(1, 13))
    assert np.allclose(log.loss["total"], log.loss["reconstruction"] + log.loss["auxk"])
    assert "rows_per_second" in log.to_frame() and "rows_per_second" not in json.dumps(
        log.metrics()
    )
    assert (log.rows_per_second > 0).all() and log.compile_seconds is None
    assert log.lr[0] == 1e-2 and log.lr[-1] == pytest.approx(5e-3)
    assert log.provenance["training"]["steps"] == 12 and log.provenance["data"] == "acts"
    assert saes.SAE.from_pretrained(tmp_path / "sae").metadata["data"] == "acts"


def test_the_default_rate_falls_with_the_width():
    assert trainee.default_lr(saes.TopKConfig(n_latents=400, k=2)) == pytest.approx(0.005)
    assert trainee.default_lr(saes.ReLUConfig(n_latents=400)) == pytest.approx(0.0015)
    log = saes.train(X, TOPK, **{**QUICK, "lr": None}).training_log
    assert log.lr[0] == pytest.approx(0.1 / F**0.5)
    assert log.provenance["training"]["lr"] == pytest.approx(0.1 / F**0.5)


def test_fvu_is_one_for_a_mean_and_l0_counts():
    """With weights at 0 and b_dec at the mean, FVU is 1 and nothing is active."""
    held, pair = make_trainee(saes.ReLUConfig(n_latents=F), b_dec="mean")
    with torch.no_grad():
        held.sae.encoder.zero_()
    held.step(pair, 0, log=True)
    assert held.log[0]["fvu"] == pytest.approx(1, abs=1e-5) and held.log[0]["l0"] == 0
    assert held.log[0]["total"] == pytest.approx(
        float((X - X.mean(0)).square().sum(1).mean()), rel=1e-4
    )


def test_progress_counts_steps_and_speaks():
    calls = []
    saes.train(X, TOPK, progress=lambda *a: calls.append(a), log_every=5, **QUICK)
    assert [c[:2] for c in calls] == [(i, 12) for i in range(1, 13)]
    assert all(w in calls[-1][2] for w in ("loss", "FVU", "L0", "dead", "rows/s"))


# ---- what is refused


def test_bad_activations_are_one_sentence():
    with pytest.raises(DataError, match="are the same"):
        saes.train(torch.ones(200, D), TOPK, **QUICK)
    with pytest.raises(DataError, match="row 3 holds nan"):
        saes.train(torch.cat([X[:3], torch.full((1, D), torch.nan), X]), TOPK, **QUICK)
    with pytest.raises(ShapeError, match="takes x as"):
        saes.train(acts_for("crosscoder"), TOPK, **QUICK)
    with pytest.raises(ShapeError, match=r"give train a tuple \(X, Y\)"):
        saes.train(X, saes.TranscoderConfig(n_latents=F, k=2), **QUICK)


def test_a_loss_that_explodes_is_one_sentence():
    with pytest.raises(ParameterError, match="take a smaller lr"):
        saes.train(X, saes.ReLUConfig(n_latents=F), **{**QUICK, "lr": 1e30})


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch_size": 0},
        {"batch_size": 2.0},
        {"lr": 0},
        {"lr": float("nan")},
        {"clip": -1},
        {"ema": 1},
        {"dead_after": 0},
        {"resample_every": 0},
        {"autocast": "float16"},
        {"autocast": "bfloat16"},
        {"backend": "fast"},
        {"optimizer": "sgd"},
        {"steps": 0},
        {"steps": "many"},
        {"resume": True},
        {"b_dec": "median"},
    ],
)
def test_a_setting_outside_its_range_is_refused(wrong):
    with pytest.raises(ParameterError, match=next(iter(wrong))):
        saes.train(X, TOPK, **{**QUICK, "device": "cpu", **wrong})


def test_what_is_no_config_is_refused(tmp_path):
    for config in ([], "topk", [TOPK, "topk"]):
        with pytest.raises(ParameterError, match="config must be one of"):
            saes.train(X, config, **QUICK)
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="is a file"):
        saes.train(X, TOPK, out=tmp_path / "file", **QUICK)


@pytest.mark.parametrize("name", ["batch_topk", "matryoshka"])
@pytest.mark.parametrize("changes", [{}, {"ema": 0.9}, {"k_start": 12, "k_steps": 50}])
def test_a_short_training_ends_with_the_threshold_of_its_last_weights(small_config, name, changes):
    """The running threshold would still be that of the first weights, or of another k."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(24, 8, generator=generator), dim=1)
    on = torch.rand(4096, 24, generator=generator) < 0.15
    X = (on * (0.5 + torch.rand(4096, 24, generator=generator))) @ directions
    options = {"steps": 60, "batch_size": 512, "seed": 0, **changes}
    sae = saes.train(X, small_config(name), **options)
    l0 = float(sae.encode_sparse(X).l0().float().mean())
    assert l0 == pytest.approx(sae.config.k, rel=0.1)
    sae.threshold *= 1.5
    assert float(sae.encode_sparse(X).l0().float().mean()) < 0.8 * sae.config.k


@pytest.mark.parametrize("name", ["relu", "gated", "topk", "jumprelu"])
def test_a_resampled_latent_fires_again(small_config, small, name):
    sae = small(name, fresh=True)
    with torch.no_grad():
        for which, parameter in sae.named_parameters():
            if which in ("log_threshold", "b_enc", "b_mag"):
                parameter[3] = 5.0 if which == "log_threshold" else -50.0
    x = 3 * torch.randn(64, 8, generator=torch.Generator().manual_seed(1))
    assert not (sae.encode(x)[:, 3] > 0).any()
    optimizer = Adam(sae.parameters(), 1e-3)
    sae.loss(x).total.backward()
    optimizer.step()
    generator = torch.Generator().manual_seed(0)
    resample(sae, torch.tensor([3]), x, None, optimizer, generator)
    pre = (x - sae.b_dec) @ sae.encoder[3] + sae.b_enc[3]
    threshold = sae.threshold[3] if name == "jumprelu" else 0.0
    assert (pre > threshold).any()
    if name != "topk":  # whether it is among the k largest is the row's affair
        assert (sae.encode(x)[:, 3] > 0).any()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"log_every": 0}, "log_every"),
        ({"checkpoint_every": -1}, "checkpoint_every"),
        ({"steps": "5"}, "steps must be a whole number above 0"),
        ({"k_start": 99}, "k_start must be from 1 to 24"),
        ({"shards": None}, "shards must be a whole number above 0; got None"),
        ({"shards": 0}, "shards must be a whole number above 0; got 0"),
        ({"shards": 2}, "shards must be from 2 up and divide the 1 process"),
        ({"device": "foo"}, "device 'foo' is not there"),
        ({"device": "meta"}, "device 'meta' is not there"),
    ],
)
def test_settings_are_checked_before_the_first_step(small_config, options, says):
    with pytest.raises(ParameterError, match=says):
        saes.train(
            torch.randn(64, 8), small_config("topk"), **{"steps": 2, "batch_size": 8, **options}
        )


def test_force_leaves_no_older_sae_beside_the_new_one(small_config, tmp_path):
    X = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    options = {"steps": 2, "batch_size": 8, "out": tmp_path}
    saes.train(X, [small_config("topk", k=2), small_config("topk", k=4)], **options)
    saes.train(X, small_config("topk"), force=True, **options)
    assert {p.name for p in (tmp_path / "sae").iterdir()} == {
        "config.json", "model.safetensors", "training.json"
    }  # fmt: skip


def test_what_a_selection_or_a_backend_cannot_is_refused_at_the_start():
    def config(selection):
        return saes.TopKConfig(n_latents=64, k=4, selection=selection)

    options = {"steps": 10, "batch_size": 64}
    with pytest.raises(ParameterError, match="k_start goes with no group_max"):
        saes.train(X, config("group_max"), k_start=16, **options)
    with pytest.raises(ParameterError, match="compiles for one k; leave k_start out"):
        saes.train(X, config("exact"), backend="compile", k_start=16, **options)
    with pytest.raises(ParameterError, match="needs a selection of fixed size"):
        saes.train(X, config("statistical"), backend="compile", **options)
