"""Ctrl-C, SIGTERM and SIGHUP: they end a command at once, or where its work can be cut.

A command installs the handlers (`heeding`) and takes them back when it ends. Nothing is installed
for a notebook or a program that calls the library: there Ctrl-C does what Python makes of it.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["Interrupted", "heeding", "undisturbed"]

HEEDED = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
LATER = "stopping as soon as the work can be gone on with; again to stop at once\n"


class Interrupted(KeyboardInterrupt):
    """A signal came. ``except KeyboardInterrupt`` and ``finally`` see it as they see Ctrl-C.

    Attributes
    ----------
    code : 128 and the signal's number, as shells have it: 130 for Ctrl-C, 143 for SIGTERM.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.code = 128 + number


class _State:
    """Of this process: how many blocks wait, whether one says so, and the signal that came."""

    waiting = 0
    telling = 0
    came: int | None = None


@contextmanager
def heeding(*, leave: bool = False) -> Iterator[None]:
    """Within, the signals raise `Interrupted`; afterwards they do again what they did before.

    A signal that the process was started to ignore, as ``nohup`` has it, stays ignored.

    Parameters
    ----------
    leave : end the process instead: for where nothing has begun, or all is done.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers, and only it is interrupted
        return
    before: dict[int, Any] = {}
    try:
        for number in HEEDED:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, _leave if leave else _handle)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def undisturbed(tell: bool = False) -> Iterator[Any]:
    """Within, a first signal waits for the block's end, and a second one ends it at once.

    What comes out is a function that says whether a signal waits, for a loop to leave early.
    It is for the main thread, and for one process: several would leave at different steps.

    Parameters
    ----------
    tell : say on stderr that the signal was heard, for a block that takes long.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    _State.waiting += 1
    _State.telling += tell
    try:
        yield lambda: _State.came is not None
    except BaseException:
        if _State.waiting == 1:
            _State.came = None  # what went wrong ends the work too
        raise
    finally:
        _State.waiting -= 1
        _State.telling -= tell
    if _State.waiting == 0 and _State.came is not None:
        number, _State.came = _State.came, None
        raise Interrupted(number)


def _handle(number: int, frame: Any) -> None:
    if _State.waiting and _State.came is None:
        _State.came = number
        if _State.telling:
            _say(LATER)
        return
    _State.came = None
    raise Interrupted(number)


def _leave(number: int, frame: Any) -> None:
    _say("interp: interrupted.\n")
    os._exit(128 + number)


def _say(text: str) -> None:
    """Write to stderr past its buffer, which whom the signal struck may hold."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.write(sys.__stderr__.fileno(), text.encode())  # pyright: ignore[reportOptionalMemberAccess]
