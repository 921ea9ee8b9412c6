"""Ranges on several threads: the same bits, errors, interrupts, forks."""

import os
import signal
import threading
import time

import pytest
import torch
from torch import nn

from saes.denormals import flushed_denormals, flushes_denormals
from saes.optimizer import Adam
from saes.threads import for_ranges


@pytest.fixture(autouse=True)
def _threads_are_put_back():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def flushing():
    """Whether each of two threads takes denormal numbers as 0."""
    together, found = threading.Barrier(2), []

    def work(start, stop):
        together.wait(timeout=10)
        found.append(flushes_denormals())

    for_ranges([0, 1, 2], work)
    return found


def test_threads_flush_denormals_where_the_caller_does():
    if not torch.set_flush_denormal(False):
        pytest.skip("this processor has no such mode")
    for _ in range(2):  # whatever a thread did before
        assert flushing() == [False, False]
        with flushed_denormals():
            assert flushing() == [True, True]


def test_moments_near_the_smallest_numbers_have_the_same_bits_on_any_number_of_threads():
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        generator = torch.Generator().manual_seed(0)
        p = nn.Parameter(torch.randn(3000, 64, generator=generator))
        optimizer = Adam([p], 1e-3, backend="numba")
        with flushed_denormals():
            for _ in range(10):
                p.grad = 1e-18 * torch.randn(3000, 64, generator=generator)
                optimizer.step()
        found.append(optimizer.state[p]["exp_avg_sq"])
    assert found[0].any() and torch.equal(*found)


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no signals to threads")
def test_an_interrupt_waits_for_what_had_begun():
    running, begun = set(), []
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job has none

    def work(start, stop):
        running.add(start)
        begun.append(start)
        if start == 0:
            time.sleep(0.1)  # until the caller waits
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        time.sleep(0.2)
        running.discard(start)

    try:
        with pytest.raises(KeyboardInterrupt):
            for_ranges(range(50), work)
    finally:
        signal.signal(signal.SIGINT, before)
    assert not running and len(begun) < 10
    assert torch.get_num_threads() == 2, "put back"


# The interpreter warns of forks beside threads, which is the case at hand.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_has_threads_of_its_own():
    for_ranges([0, 1, 2], lambda start, stop: None)
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # ends a process that waits for ever
        done = []
        for_ranges([0, 1, 2], lambda start, stop: done.append(start))
        os._exit(0 if sorted(done) == [0, 1] else 1)
    assert os.waitpid(child, 0)[1] == 0
