"""What a training states before it runs, alone and under torchrun."""

import pytest
import torch

import saes
from saes import planning

CONFIG = saes.TopKConfig(n_latents=64, k=4)
WEIGHTS = 4 * (2 * 64 * 12 + 64 + 12)


@pytest.fixture
def x():
    return torch.randn(300, 12, generator=torch.Generator().manual_seed(0))


class Two:
    """The first of two processes, of which the other is slower and larger."""

    size = 2

    def gather(self, value):
        seconds, most = value
        return [value, [seconds + 1000, most + 12345]]


def plan(acts, **options):
    return planning.plan_training(acts, CONFIG, steps=100, batch_size=50, device="cpu", **options)


def test_a_checkpoint_has_the_size_that_is_stated(x, tmp_path):
    """Weights and moments: Adam two, Lion one; and a mean of weights."""
    for options, times in (({}, 3), ({"optimizer": "lion"}, 2), ({"ema": 0.9}, 4)):
        stated = plan(x, **options)
        assert stated.bytes == WEIGHTS and stated.checkpoint_bytes == times * WEIGHTS
        out = tmp_path / str(times)
        saes.train(x, CONFIG, steps=2, batch_size=50, out=out, device="cpu", **options)
        size = (out / "checkpoint.safetensors").stat().st_size
        assert 0 < size - stated.checkpoint_bytes < 6000, "header, log, and a count a latent"


def test_of_several_processes_the_slowest_and_the_largest_is_stated(x, monkeypatch):
    monkeypatch.setattr(planning, "peak", lambda: 10**15)
    alone = plan(x)
    assert (alone.processes, alone.peak_bytes) == (1, 10**15) and alone.seconds < 1000
    monkeypatch.setattr(planning, "world", Two)
    both = plan(x)
    assert (both.processes, both.peak_bytes) == (2, 10**15 + 12345) and both.seconds > 1000


def test_processes_share_the_time_that_a_model_takes(gpt2, texts, monkeypatch):
    rows = saes.ModelRows(gpt2, texts, "resid_post.0", buffer_rows=40)

    class Even(Two):
        def gather(self, value):
            return [value, value]

    class Slow:
        seconds = 10**6

    monkeypatch.setattr(rows.work, "plan", Slow)
    epochs = 100 * 20 / rows.n

    def stated():
        found = planning.plan_training(rows, CONFIG, steps=100, batch_size=20, device="cpu")
        return found.seconds / epochs

    assert stated() == pytest.approx(10**6, rel=1e-3)
    monkeypatch.setattr(planning, "world", Even)
    assert stated() == pytest.approx(10**6 / 2, rel=1e-3)


def test_what_a_checkpoint_copies_is_counted():
    """On a CPU nothing; of shards a whole tensor, and the part that another process sends."""
    assert planning._copied(100, 1000, 1, "cpu") == 0
    assert planning._copied(100, 1000, 2, "cpu") == 150
