"""Progress in a notebook: one line under the cell, where nobody asked for a callback."""

import sys
import time
from collections.abc import Callable
from typing import Any

__all__ = ["Progress", "live"]

Progress = Callable[[int, int, str], None]
"""Called with (done, of how many, what)."""
AFTER, EVERY = 1.0, 0.25
"""Seconds before the line appears, and between its changes."""
WIDTH = 30


def live(progress: Progress | None, title: str) -> Progress | None:
    """The callback that was given; where there is none, in a notebook, one that shows a line.

    Elsewhere None, and nothing is printed. The line appears after a second, so that what is quick
    leaves no trace, and says at the end how long it took.

    Parameters
    ----------
    progress : what the caller gave.
    title : what is being done.
    """
    if progress is not None or not _in_notebook():
        return progress
    return _Line(title)


def _in_notebook() -> bool:
    """Whether this is a Jupyter kernel; IPython is not imported to find out."""
    python = sys.modules.get("IPython")
    shell = python.get_ipython() if python is not None else None
    return shell is not None and hasattr(shell, "kernel")


class _Line:
    """A line of text that changes in place."""

    def __init__(self, title: str) -> None:
        self.title, self.handle = title, None
        self.began = self.shown = time.monotonic()

    def __call__(self, done: int, total: int, what: str) -> None:
        now = time.monotonic()
        if self.handle is None and now - self.began < AFTER:
            return
        ended = done >= total
        if self.handle is not None and not ended and now - self.shown < EVERY:
            return
        self.shown = now
        full = round(WIDTH * done / total) if total else 0
        text = f"{self.title} {'█' * full}{'░' * (WIDTH - full)} {done:,} of {total:,}"
        self._show(f"{text}, {now - self.began:.0f} s{' ' if what else ''}{what[:80]}")

    def _show(self, text: str) -> None:
        data: dict[str, Any] = {"text/plain": text}
        if self.handle is None:
            self.handle = sys.modules["IPython"].display.display(data, raw=True, display_id=True)
        else:
            self.handle.update(data, raw=True)
