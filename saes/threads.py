"""Kernels on all the threads that torch may use, without torch's own thread pool.

A pool of Python threads takes ranges of rows one after the other; the kernels that they run let go
of the interpreter's lock. torch's pool stays out of it: its threads spin for milliseconds after
each operator, and would take the cores from ours.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from threading import Barrier, Lock
from time import sleep

import torch

from saes.denormals import flushes_denormals

__all__ = ["for_ranges", "one_torch_thread"]

_POOLS: dict[int, ThreadPoolExecutor] = {}
_LOCK = Lock()
_WANTED: list[int] = []
"""The thread count that `one_torch_thread` will put back, while it is on."""


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Run torch's own operators on this thread alone inside; `for_ranges` keeps its threads."""
    before = torch.get_num_threads()
    _WANTED.append(_WANTED[-1] if _WANTED else before)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        _WANTED.pop()
        torch.set_num_threads(before)


def for_ranges(edges: Sequence[int], work: Callable[[int, int], None]) -> None:
    """Call ``work(start, stop)`` for neighbouring edges, on as many threads as torch may use.

    Each call must write to places of its own; which thread makes it, and when, is not said. All
    take denormal numbers as the thread that asks does, so that equal input gives equal bits. The
    first exception is raised here, as is an interrupt, after the calls that had begun have ended.
    """
    ranges = list(zip(edges[:-1], edges[1:], strict=True))
    threads = min(_WANTED[-1] if _WANTED else torch.get_num_threads(), len(ranges))
    if threads <= 1:
        with one_torch_thread():
            for start, stop in ranges:
                work(start, stop)
        return
    todo, flushes, busy = iter(ranges), flushes_denormals(), [0]

    def take() -> None:
        torch.set_flush_denormal(flushes)
        while True:
            with _LOCK:
                found = next(todo, None)
                busy[0] += found is not None
            if found is None:
                return
            try:
                work(*found)
            finally:
                with _LOCK:
                    busy[0] -= 1

    with one_torch_thread():
        try:
            futures = [_pool(threads).submit(take) for _ in range(threads)]
            wait(futures)
        except BaseException:
            with _LOCK:
                deque(todo, maxlen=0)  # no call begins now
            while busy[0]:  # an interrupt may have come before a future was at hand
                sleep(0.001)
            raise
        for future in futures:
            future.result()


def _pool(threads: int) -> ThreadPoolExecutor:
    with _LOCK:
        if threads not in _POOLS:
            pool = ThreadPoolExecutor(threads, thread_name_prefix="saes")
            together = Barrier(threads)  # so that each thread gets one of the calls

            def begin() -> None:
                torch.set_num_threads(1)  # of operators that this thread calls
                together.wait()

            for future in [pool.submit(begin) for _ in range(threads)]:
                future.result()
            _POOLS[threads] = pool
        return _POOLS[threads]


def _forget() -> None:
    """In a forked process: its copy of the pools has no threads, and the lock may be held."""
    global _LOCK
    _LOCK = Lock()
    _POOLS.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
