"""One mutated input: run it in this process, and say what came of it.

An outcome is ``clear error`` (exit code 1 or 2 and one sentence), ``correct result`` (exit code 0
and a judge that compares with an independent reading), or what is wrong.
"""

import hashlib
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from interp.cli import app
from interp.errors import InterpError

CLEAR, CORRECT = "clear error", "correct result"
LONGEST = 1000
"""Characters that a sentence may have."""


class TimeUp(BaseException):
    """A case ran past its limit; nothing in the program may catch it."""


@dataclass
class Case:
    """What is run, and how its success is judged.

    Attributes
    ----------
    what : the mutation, in words.
    argv : the command line; or ``call``, a function of the library, in its place.
    judge : from what came out (a result of the runner, or the call's value), None where it is
        right, else what is wrong with it. Without a judge a success is wrong.
    keep : folders and files that a failure must leave as they were, absent ones absent.
    """

    what: str
    argv: list[str] = field(default_factory=list)
    call: Callable[[], Any] | None = None
    judge: Callable[[Any], str | None] | None = None
    keep: list[Path] = field(default_factory=list)


@dataclass(frozen=True)
class Outcome:
    """What came of a case: its kind, why, and the seconds it took."""

    kind: str
    why: str = ""
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        """Whether it is one of the two that may be."""
        return self.kind in (CLEAR, CORRECT)


def run(case: Case, limit: float = 20.0) -> Outcome:
    """Run a case within a limit of seconds."""
    before = [digest(p) for p in case.keep]
    began = time.monotonic()
    try:
        with alarm(limit), warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            kind, why = _called(case) if case.call is not None else _commanded(case)
    except TimeUp:
        kind, why = "hang", f"longer than {limit:g} s"
    noise = [w for w in said if not issubclass(w.category, UserWarning | DeprecationWarning)]
    if kind in (CLEAR, CORRECT) and noise:
        kind, why = "noise", f"{noise[0].category.__name__}: {noise[0].message}"
    changed = [p for p, was in zip(case.keep, before, strict=True) if digest(p) != was]
    if kind != CORRECT and changed:
        kind, why = "touched", f"{changed[0].name} is not as it was; {kind}: {why}"
    return Outcome(kind, why, time.monotonic() - began)


def _called(case: Case) -> tuple[str, str]:
    assert case.call is not None
    try:
        value = case.call()
    except InterpError as error:
        return _sentence(str(error))
    except Exception as error:
        return "traceback", f"{type(error).__name__}: {error}"
    return _judged(case, value)


def _commanded(case: Case) -> tuple[str, str]:
    done = CliRunner().invoke(app, case.argv)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        return "traceback", f"{type(done.exception).__name__}: {done.exception}"
    if "Traceback" in done.output:
        return "traceback", done.output[-300:]
    if done.exit_code == 0:
        return _judged(case, done)
    if done.exit_code not in (1, 2):
        return "exit code", str(done.exit_code)
    ours = [line for line in done.stderr.splitlines() if line.startswith("interp: ")]
    if done.exit_code == 2 and not ours and "Usage:" in done.stderr:
        return CLEAR, ""  # the parser's own refusal, framed
    if len(ours) != 1 or done.stderr.rstrip("\n").split("\n")[-1] != ours[0]:
        return "unclear", f"not one sentence: {done.stderr[-300:]!r}"
    return _sentence(ours[0].removeprefix("interp: "))


def _sentence(text: str) -> tuple[str, str]:
    if "unexpected " in text and "--debug" in text:
        return "unexpected", text
    if not text.strip() or len(text) > LONGEST:
        return "unclear", f"{len(text)} characters: {text[:100]!r}"
    return CLEAR, text


def _judged(case: Case, value: Any) -> tuple[str, str]:
    if case.judge is None:
        return "silent success", ""
    try:
        wrong = case.judge(value)
    except Exception as error:  # what a success left behind cannot be read
        wrong = f"{type(error).__name__}: {error}"
    return (CORRECT, "") if wrong is None else ("wrong result", wrong)


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """`TimeUp` in the main thread when the seconds are over."""

    def ring(*_: Any) -> None:
        raise TimeUp

    earlier = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, earlier)


def digest(path: Path) -> str:
    """What tells one state of a file or folder from another."""
    found = hashlib.sha256()
    for file in [path, *sorted(path.rglob("*"))] if path.is_dir() else [path]:
        found.update(str(file).encode())
        found.update(b"dir" if file.is_dir() else b"")
        if file.is_file():
            found.update(file.read_bytes())
    return found.hexdigest()
