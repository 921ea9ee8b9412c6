"""Rows straight from a model: those of a capture, shuffled, a buffer at a time."""

import pytest
import torch

import interp
import saes
from interp.errors import ParameterError
from interp.models import Model
from saes import ModelRows
from saes.rows import Batches

CPU = torch.device("cpu")


@pytest.fixture
def model(tiny, tokenizer):
    return Model(tiny("gpt2"), tokenizer=tokenizer(), spec="tiny")


@pytest.fixture
def many(texts):
    return [f"{t} w{i}" for i in range(12) for t in texts]


def test_an_epoch_holds_the_rows_of_a_capture(model, many):
    store = interp.capture(model, many, "resid_post.1", pool="all")
    whole = store["resid_post.1"][:]
    rows = ModelRows(model, many, "resid_post.1", buffer_rows=40)
    assert rows.n == len(whole) and rows.sites == ("resid_post.1",)
    read = rows.read(range(len(many)))[0].x
    assert torch.allclose(read, whole, atol=1e-5)
    seen = Batches(rows, rows.n, 0, CPU)[0][0].x
    assert not torch.allclose(seen, whole, atol=1e-3)  # in another order
    assert torch.allclose(seen.double().sum(0), whole.double().sum(0), atol=1e-3)


def test_no_more_than_a_buffer_is_read_at_once(model, many, monkeypatch):
    rows = ModelRows(model, many, "resid_post.1", buffer_rows=40)
    held = []
    whole = ModelRows.read
    monkeypatch.setattr(ModelRows, "read", lambda s, u: held.append(whole(s, u)) or held[-1])
    batches = Batches(rows, 20, 0, CPU)
    for i in range(rows.n // 20):
        batches[i]
    assert len(held) > 2 and max(len(p[0].x) for p in held) <= 40 + int(rows.lengths.max())


def test_rows_of_several_hook_points_belong_together(model, many):
    sites = ModelRows(model, many, ["resid_post.0", "resid_post.1"], buffer_rows=64)
    layers = ModelRows(model, many, ["resid_post.0", "resid_post.1"], stack=True, buffer_rows=64)
    pair = ModelRows(model, many, "resid_post.0", target="resid_post.1", buffer_rows=64)
    (a, b), (both,), (one,) = (Batches(r, 16, 0, CPU)[1] for r in (sites, layers, pair))
    assert torch.equal(torch.stack([a.x, b.x], 1), both.x)
    assert torch.equal(one.x, a.x) and torch.equal(one.y, b.x)
    assert pair.sites == ("resid_post.0-to-resid_post.1",) and both.x.shape == (16, 2, 32)


def test_training_from_a_model_is_resumed_bit_for_bit(model, many, tmp_path):
    config = saes.TopKConfig(n_latents=16, k=2)
    options = {"steps": 8, "batch_size": 32, "checkpoint_every": 3}

    def rows():
        return ModelRows(model, many, "resid_post.1", buffer_rows=50)

    whole = saes.train(rows(), config, **options)

    def stop(done, total, what):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        saes.train(rows(), config, out=tmp_path, progress=stop, **options)
    again = saes.train(rows(), config, out=tmp_path, resume=True, **options)
    for left, right in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(left, right)
    assert again.metadata["hookpoint"] == "resid_post.1"


def test_a_pooled_row_a_document(model, many):
    rows = ModelRows(model, many, "resid_post.1", pool="mean")
    assert rows.n == len(many)
    assert rows.read([0, 5])[0].x.shape == (2, 32)


def test_hook_points_that_do_not_fit_are_refused(model, many):
    with pytest.raises(ParameterError, match="one hook point from one other"):
        ModelRows(model, many, ["resid_post.0", "resid_post.1"], target="resid_post.2")
    with pytest.raises(ParameterError, match="buffer_rows"):
        ModelRows(model, many, "resid_post.0", buffer_rows=0)
