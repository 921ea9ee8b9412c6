"""The memory that this process takes, and how much a piece of work takes at most.

Memory is the resident set, as ``top`` and ``/usr/bin/time -v`` count it: what the program holds,
and the pages of libraries and of mapped files that it has touched. The latter the system can take
back where memory is short; a figure that counts them is on the safe side.
"""

import sys
import threading
from types import TracebackType
from typing import Self

__all__ = ["PeakMemory", "peak", "resident"]

INTERVAL = 0.002
"""Seconds between two looks at the memory of a piece of work."""


def resident() -> int | None:
    """Bytes that are resident now; where the system tells only the peak, that; None on Windows."""
    return _status("VmRSS")


def peak() -> int | None:
    """The most bytes that were resident at a time since the process began; None on Windows."""
    return _status("VmHWM")


class PeakMemory:
    """The most bytes that were resident while a piece of work ran: ``with PeakMemory() as held``.

    The system keeps the peak of the whole process, which says what the work took where it raised
    it. Where it did not, a thread looks every two milliseconds.

    Attributes
    ----------
    before : bytes when it began.
    most : the largest number seen, at the end.
    """

    def __init__(self) -> None:
        self.before = resident() or 0
        self.most = self.before
        self._earlier = peak() or 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    @property
    def added(self) -> int:
        """Bytes at the peak beyond those that were there before."""
        return self.most - self.before

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()
        now = peak() or 0
        self.most = max(self.most, resident() or 0, now if now > self._earlier else 0)

    def _watch(self) -> None:
        while not self._done.wait(INTERVAL):
            self.most = max(self.most, resident() or 0)


def _status(key: str) -> int | None:
    try:
        with open("/proc/self/status", "rb") as file:
            for line in file:
                if line.startswith(key.encode()):
                    return 1024 * int(line.split()[1])
    except OSError:
        pass
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
