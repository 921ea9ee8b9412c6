"""Training: it learns, resumes bit for bit, schedules k, replaces the dead, and freezes if told."""

import copy
import json

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import interp
from interp.demo.stdlib import held_out_files, read_source
from interp.errors import DataError, ParameterError, StoreError
from interp.results import Result
from saes.codebook import (
    FSM,
    CodebookConfig,
    Codebooks,
    CodebookTraining,
    FSMBatches,
    TextBatches,
    insert,
    train_codebooks,
)
from saes.codebook.fitting import initialise_codes, k_at, kmeans, replace_dead
from saes.codebook.layer import Codebook
from saes.codebook.training import _Run, language_loss
from saes.schedules import Schedule

MACHINE = FSM(5, 2, seed=0)
CONFIG = CodebookConfig(n_codes=30, k=1)


def small_model(seed=0, dropout=0.0):
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    config = GPTNeoXConfig(
        vocab_size=11, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=32, bos_token_id=10, eos_token_id=10,
        hidden_dropout=dropout,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return interp.load(GPTNeoXForCausalLM(config))


def batches(size=16, length=17, seed=0):
    return FSMBatches(MACHINE, size, length=length, seed=seed)


def weights(books):
    return {**dict(books.named_parameters()), **dict(books.model.module.named_parameters())}


class Killed(Exception):
    pass


def kill_at(step):
    def progress(done, total, what):
        if done == step:
            raise Killed

    return progress


def test_it_learns_from_scratch():
    books = insert(small_model(), ["head_out.*", "mlp_out.*"], CONFIG)
    first = copy.deepcopy({n: p.detach() for n, p in weights(books).items()})
    floor = MACHINE.bayes_loss(17)
    log = train_codebooks(
        books, batches(), steps=100, lr=1e-2, init="normal", replace_every=20, reference=floor
    )
    found = log.metrics()
    assert found["first_loss"] > 2 and floor - 0.1 < found["loss"] < floor + 0.4
    assert found["accuracy"] > 0.4 and found["reference"] == floor
    assert all(not torch.equal(first[n], p) for n, p in weights(books).items())  # all are trained
    assert not books.training and not books.model.module.training
    assert all(p.grad is None for p in weights(books).values())
    assert set(log.fvu) == set(books.names) and log.n == 100 * 16 * 17


def test_killed_and_resumed_is_unbroken(tmp_path):
    """Bit for bit: weights, optimiser, dropout, schedules, counts and the log."""
    options = {
        "steps": 12, "lr": 1e-2, "k_start": 6, "k_steps": 8, "replace_every": 3, "accumulate": 2,
        "checkpoint_every": 5, "log_every": 2,
    }  # fmt: skip
    whole = insert(small_model(dropout=0.1), ["head_out.*", "mlp_out.1"], CONFIG)
    torch_state = torch.random.get_rng_state()
    log = train_codebooks(whole, batches(), **options)
    assert torch.equal(torch.random.get_rng_state(), torch_state)
    broken = insert(small_model(dropout=0.1), ["head_out.*", "mlp_out.1"], CONFIG)
    with pytest.raises(Killed):
        train_codebooks(broken, batches(), out=tmp_path, progress=kill_at(7), **options)
    with pytest.raises(StoreError, match="already holds a training"):
        train_codebooks(broken, batches(), out=tmp_path, **options)
    with pytest.raises(StoreError, match="another lr"):
        train_codebooks(broken, batches(), out=tmp_path, resume=True, **{**options, "lr": 1e-3})
    with pytest.raises(StoreError, match="another batches"):
        train_codebooks(broken, batches(seed=1), out=tmp_path, resume=True, **options)
    left = tmp_path / ".checkpoint.safetensors.9.tmp"
    left.write_bytes(b"half")
    fresh = insert(small_model(5, dropout=0.1), ["head_out.*", "mlp_out.1"], CONFIG, seed=5)
    again = train_codebooks(fresh, batches(), out=tmp_path, resume=True, **options)
    assert not left.exists()
    for name, parameter in weights(whole).items():
        assert torch.equal(weights(fresh)[name], parameter), name
    assert (
        again.to_frame()
        .drop(columns="cpu_seconds")
        .equals(log.to_frame().drop(columns="cpu_seconds"))
    )
    held = Codebooks.load(tmp_path / "model")
    assert torch.equal(held["mlp_out.1"].codes, whole["mlp_out.1"].codes)
    saved = Result.load(tmp_path / "model" / "training.json")
    assert isinstance(saved, CodebookTraining) and saved.metrics() == again.metrics()
    json.dumps(again.metrics(), allow_nan=False)
    other = insert(small_model(), ["head_out.*", "mlp_out.1"], CONFIG)
    train_codebooks(other, batches(), **{**options, "seed": 1})
    assert not torch.equal(other["mlp_out.1"].codes, whole["mlp_out.1"].codes)


def test_accumulated_batches_are_one_large_batch():
    """The reconstruction term is scaled with the loss, so two halves make a whole."""

    class Halves:
        steps_per_epoch = 2

        def __call__(self, step):
            ids, mask = batches(8)(0)
            return ids[4 * (step % 2) : 4 * (step % 2) + 4], mask[:4]

        def identity(self):
            return {}

    class Whole(Halves):
        def __call__(self, step):
            return batches(8)(0)

    found = []
    for kind, parts in ((Halves(), 2), (Whole(), 1)):
        books = insert(small_model(), "mlp_out.*", CONFIG)
        train_codebooks(books, kind, steps=1, accumulate=parts, init="normal", warmup=0, clip=None)
        found.append(weights(books))
    for name, parameter in found[1].items():
        assert_close(found[0][name], parameter, rtol=1e-3, atol=2e-5)


def test_what_can_be_held_is_held():
    start = dict(small_model().module.named_parameters())
    for options, held in (
        ({"model_lr": 0}, lambda n: True),
        ({"freeze_attention": True}, lambda n: ".attention." in n),
        ({}, lambda n: False),
    ):
        books = insert(small_model(), "head_out.*", CONFIG)
        train_codebooks(books, batches(), steps=2, init="normal", **options)
        for name, parameter in books.model.module.named_parameters():
            assert torch.equal(parameter, start[name]) == held(name), (options, name)


@pytest.mark.parametrize("options", [{"model_lr": 0}, {"freeze_attention": True}])
def test_weights_that_are_held_must_be_the_same_to_go_on(options, tmp_path):
    """They are not in the checkpoint, which would else be mixed with those of another model."""
    options |= {"steps": 4, "checkpoint_every": 2, "out": tmp_path, "init": "normal"}
    with pytest.raises(Killed):
        books = insert(small_model(), "head_out.*", CONFIG)
        train_codebooks(books, batches(), progress=kill_at(3), **options)
    with pytest.raises(StoreError, match="another held weights"):
        other = insert(small_model(5), "head_out.*", CONFIG)
        train_codebooks(other, batches(), resume=True, **options)
    again = insert(small_model(), "head_out.*", CONFIG)
    assert train_codebooks(again, batches(), resume=True, **options).steps[-1] == 4


def test_k_falls_on_schedule():
    for step, k in ((0, 100), (50, 54), (100, 8), (200, 8)):
        assert k_at(step, 8, k_start=100, k_steps=101) == k
    assert k_at(25, 8, k_start=100, k_steps=101, power=2) == 54  # sqrt(1/4) of the way
    for wrong in ({"k_start": 7, "k_steps": 5}, {"k_start": 9, "k_steps": 1}):
        with pytest.raises(ParameterError, match="a k schedule needs"):
            k_at(0, 8, **wrong)
    books = insert(small_model(), "mlp_out.0", CONFIG)
    seen = []

    def look(ids):
        seen.append(ids.shape[-1])
        return ids

    with books.editing("mlp_out.0", look):
        train_codebooks(books, batches(), steps=6, k_start=9, k_steps=5, init="normal")
    assert seen == [9, 7, 5, 3, 1, 1]


def test_k_falls_to_that_of_each_codebook():
    wide = CodebookConfig(n_codes=30, k=5)
    books = insert(small_model(), {"mlp_out.0": CONFIG, "mlp_out.1": wide})
    seen = {name: [] for name in books.names}

    def look(name):
        return lambda ids: seen[name].append(ids.shape[-1]) or ids

    with (
        books.editing("mlp_out.0", look("mlp_out.0")),
        books.editing("mlp_out.1", look("mlp_out.1")),
    ):
        train_codebooks(books, batches(), steps=6, k_start=9, k_steps=5, init="normal")
    assert seen == {"mlp_out.0": [9, 7, 5, 3, 1, 1], "mlp_out.1": [9, 8, 7, 6, 5, 5]}


def test_dead_codes_begin_anew_at_rows_that_are_explained_badly():
    book = Codebook(CodebookConfig(n_codes=4, k=1), 8)
    before = book.codes.detach().clone()
    rows = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    error = torch.tensor([0.0, 0, 5, 0, 7, 0])[:, None]
    replace_dead(book, torch.tensor([1, 3]), rows, error, generator=torch.Generator())
    assert torch.equal(book.codes[[0, 2]], before[[0, 2]])
    for code in (1, 3):
        assert any(torch.equal(book.codes[code], rows[i]) for i in (2, 4))
    still = book.codes.detach().clone()
    replace_dead(book, torch.tensor([0]), rows, 0 * error, generator=torch.Generator())
    assert torch.equal(book.codes, still)  # nothing is explained badly
    replace_dead(book, torch.tensor([0]), rows, error, generator=torch.Generator(), noise=0.1)
    adam = torch.optim.AdamW([book.codes])
    book.codes.grad = torch.ones_like(book.codes)
    adam.step()
    generator = torch.Generator()
    replace_dead(book, torch.tensor([3]), rows, error, generator=generator, optimizer=adam)
    for moment in ("exp_avg", "exp_avg_sq"):
        assert adam.state[book.codes][moment].any(1).tolist() == [True, True, True, False]
    replace_dead(book, torch.tensor([0]), rows, error, generator=torch.Generator(), noise=0.1)
    summed = Codebook(CodebookConfig(n_codes=4, k=4, reduce="sum"), 8)
    replace_dead(summed, torch.tensor([1]), rows, error, generator=torch.Generator())
    assert any(torch.equal(4 * summed.codes[1], rows[i]) for i in (2, 4))  # four make a row
    nearest = (book.codes[0] - rows).norm(dim=1)
    i = int(nearest.argmin())
    assert_close(nearest[i], 0.1 * rows[i].norm())


def test_replacement_in_training_counts_from_the_last_one():
    books = insert(small_model(), "mlp_out.0", CodebookConfig(n_codes=300, k=1))
    log = train_codebooks(
        books, batches(), steps=40, lr=1e-4, init="normal", replace_every=4, log_every=1
    )
    plain = insert(small_model(), "mlp_out.0", CodebookConfig(n_codes=300, k=1))
    other = train_codebooks(plain, batches(), steps=40, lr=1e-4, init="normal", log_every=1)
    name = "mlp_out.0"
    assert log.fvu[name][3] == other.fvu[name][3]
    assert log.fvu[name][4] < 0.5 * other.fvu[name][4]  # right after the first replacement
    assert log.fvu[name][-1] < 0.5 * other.fvu[name][-1]


def test_kmeans_finds_centres():
    generator = torch.Generator().manual_seed(0)
    centres = 10 * torch.randn(5, 3, generator=generator)
    rows = centres.repeat(40, 1) + 0.1 * torch.randn(200, 3, generator=generator)
    seeds = [torch.Generator().manual_seed(s) for s in range(8)]
    tries = [torch.cdist(centres, kmeans(rows, 5, generator=g)).amin(1).max() for g in seeds]
    assert min(tries) < 0.1
    same = kmeans(rows[:3], 8, generator=torch.Generator().manual_seed(1))
    assert same.shape == (8, 3) and len(same.unique(dim=0)) == 8
    assert all((same == row).all(1).any() for row in rows[:3])


@pytest.mark.parametrize("reduce, k", [("mean", 1), ("sum", 3)])
def test_kmeans_starts_near_the_activations(reduce, k):
    config = CodebookConfig(n_codes=40, k=k, reduce=reduce)
    books = insert(small_model(), ["head_out.*", "mlp_out.*"], config)
    ids, mask = batches()(0)

    def error():
        with torch.no_grad():
            snap = books.loss(ids, mask).snaps[books.names[0]]
        return (snap.reduced - snap.normed).square().sum() / snap.normed.square().sum()

    before = error()
    initialise_codes(books, batches())
    assert error() < 0.5 * before


def test_kmeans_keeps_the_size_of_what_codes_stand_for():
    """A trained model loses less where the norm gives rows back their spread than where it is 1."""
    model = interp.load("demo:pylm")
    books = insert(model, "head_out.*", CodebookConfig(n_codes=200, k=8))
    source = [read_source(file) for file in held_out_files()[:8]]
    data = TextBatches(model, [text[:600] for text in source if text], 8)
    with books.disabled():
        plain = language_loss(books, data)
    with books.disabled(), interp.record(model, ["head_out.1"]) as seen, torch.no_grad():
        ids, mask = data(0)
        model({"input_ids": ids, "attention_mask": mask})
    rows = seen["head_out.1"].reshape(*mask.shape, 4, -1)[mask.bool()]
    initialise_codes(books, data, rows=len(rows))
    scale = books["head_out.1"].norm_weight.detach().unflatten(0, (4, -1))
    assert_close(scale, rows.std(-1, correction=0).mean(0)[:, None].expand_as(scale))
    kept = language_loss(books, data)
    for name in books.names:
        with torch.no_grad():
            scale = books[name].norm_weight.unflatten(0, (4, -1))[:, 0]
            books[name].codes /= scale.repeat_interleave(200)[:, None]
            books[name].norm_weight.fill_(1)
    assert plain < kept < language_loss(books, data) - 0.5


# ---- texts


def test_text_batches_read_every_window_once_an_epoch(gpt2, texts):
    long = " ".join(f"w{i}" for i in range(2, 24))
    data = TextBatches(gpt2, [*texts, long], 4, max_length=8, seed=3)
    whole = sorted(map(tuple, data.windows))
    assert [len(w) for w in data.windows if len(w) == 8][-2:] == [8, 8] and min(map(len, whole)) > 1
    seen = []
    count = len(data.windows)
    assert data.steps_per_epoch == -(-count // 4)
    for step in range(data.steps_per_epoch * 4):
        ids, mask = data(step)
        assert ids.shape == mask.shape and (ids[mask == 0] == 0).all()
        seen += [tuple(row[m.bool()].tolist()) for row, m in zip(ids, mask, strict=True)]
    assert sorted(seen[:count]) == whole == sorted(seen[count : 2 * count])
    assert seen[:count] != seen[count : 2 * count]
    assert torch.equal(data(2)[0], TextBatches(gpt2, [*texts, long], 4, max_length=8, seed=3)(2)[0])
    held = {p: TextBatches(gpt2, texts * 9, 4, part=p).windows for p in ("train", "held out")}
    assert 0 < len(held["held out"]) < len(held["train"]) / 3
    assert len(held["held out"]) + len(held["train"]) == len(
        TextBatches(gpt2, texts * 9, 4).windows
    )
    with pytest.raises(ParameterError, match="max_length must be at most 64"):
        TextBatches(gpt2, texts, 4, max_length=65)
    with pytest.raises(DataError, match="no text of two tokens"):
        TextBatches(gpt2, ["w1", "w2"], 4)
    with pytest.raises(DataError, match="holds no text"):
        TextBatches(gpt2, torch.ones(3, 2), 4)


def test_finetuning_on_texts(gpt2, texts):
    books = insert(gpt2, ["head_out.*"], CodebookConfig(n_codes=12, k=2))
    data = TextBatches(gpt2, texts, 6)
    log = train_codebooks(books, data, steps=40, lr=1e-2, held_out=data)
    before, coded, bare = log.held_out.values()
    assert coded < before - 0.5 and bare != before and bare != coded
    assert log.metrics()["loss"] < log.metrics()["first_loss"] - 0.5
    assert np.isfinite(log.total).all()


@pytest.mark.parametrize(
    "options, said",
    [
        ({"steps": 0}, "steps must be a whole number above 0"),
        ({"lr": -1.0}, "lr must be a finite number above 0"),
        ({"init": "zeros"}, "init must be one of kmeans, normal"),
        ({"k_start": 31}, "k_start must be from 1, the largest k, to 30"),
        ({"autocast": "bfloat16"}, "on a CUDA device"),
        ({"model_lr": float("nan")}, "model_lr must be"),
        ({"resume": True}, "resume needs out"),
        ({"decay": "sudden"}, "decay must be one of"),
    ],
)
def test_settings_that_cannot_be(options, said):
    books = insert(small_model(), "mlp_out.*", CONFIG)
    with pytest.raises(ParameterError, match=said):
        train_codebooks(books, batches(), **{"steps": 2, **options})


def test_a_loss_that_is_nan_is_an_error():
    books = insert(small_model(), "mlp_out.*", CONFIG)
    with pytest.raises(ParameterError, match="the loss is .* take a smaller lr"):
        train_codebooks(books, batches(), steps=30, lr=1e30, clip=None, warmup=0)


def test_what_a_step_counts_and_forgets():
    """After replacement all counts are 0 (C7)."""
    books = insert(small_model(), "mlp_out.0", CONFIG)
    settings = {"lr": 1e-3, "model_lr": 1e-3 / 3, "weight_decay": 0.5, "freeze_attention": False,
                "seed": 0, "noise": 0.0, "k_start": None, "accumulate": 1, "autocast": None,
                "clip": None, "replace_every": 2, "steps": 10, "log_every": 1}  # fmt: skip
    run = _Run(books, batches(), Schedule(steps=10), settings)
    assert [g["weight_decay"] for g in run.optimizer.param_groups] == [0.0, 0.5]
    run.step(0)
    fired = run.fired["mlp_out.0"].clone()
    assert (fired == 0).any() and (fired > 0).any()
    run.step(1)
    dead = run.log[-1]["dead.mlp_out.0"]
    assert not run.fired["mlp_out.0"].any() and not run.silent["mlp_out.0"][fired == 0].all()
    assert dead < 1
    run.step(2)
    before = books["mlp_out.0"].codes.detach().clone()
    run.settings["replace_every"] = 1
    run.step(9)  # not in the last tenth
    assert run.fired["mlp_out.0"].any()
    assert (books["mlp_out.0"].codes - before).abs().max() < 0.01


def test_pads_fire_no_codes():
    books = insert(small_model(), "mlp_out.0", CodebookConfig(n_codes=30, k=30))
    ids, mask = batches(2)(0)
    settings = {"lr": 1e-3, "model_lr": 0, "weight_decay": 0.0, "freeze_attention": False}
    run = _Run(books, batches(), Schedule(steps=1), settings)
    loss = books.loss(ids, mask)
    run._count(loss._replace(mask=torch.zeros_like(loss.mask)))
    assert not run.fired["mlp_out.0"].any() and run.tokens == 0
    run._count(loss)
    assert (run.fired["mlp_out.0"] == 1).all() and run.tokens == mask.sum()


def test_the_model_s_rate_where_none_is_given():
    for init, share in (("kmeans", 3), ("normal", 1)):
        books = insert(small_model(), "mlp_out.0", CONFIG)
        log = train_codebooks(books, batches(), steps=1, lr=3e-3, init=init)
        assert log.provenance["training"]["model_lr"] == pytest.approx(3e-3 / share)
