"""What all commands share: errors as one sentence, progress on stderr, output, ``--config``."""

import contextlib
import errno
import functools
import inspect
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from interp.errors import InterpError, ParameterError
from interp.locking import let_go_of_all
from interp.stopping import heeding

if TYPE_CHECKING:
    from interp.data import Dataset

__all__ = ["State", "bar", "command", "emit", "note", "say_notes", "speaks", "table"]


LONGEST = 900
"""Characters of an error's sentence: a name in it may be a page long."""


class State:
    """Flags that hold for the whole process."""

    debug = False
    quiet = False


def command(
    app: typer.Typer, name: str, run: Callable[..., None], *, distributed: bool = False
) -> None:
    """Add a command whose failures end in one sentence and the exit code that fits.

    ``distributed`` commands share their work where torchrun starts several processes; others
    would all do the same, in the same folder.
    """

    @functools.wraps(run)
    def guarded(*args: Any, **kwargs: Any) -> None:
        try:
            if _others() and not distributed:
                raise ParameterError(
                    f"{name} runs in one process; start it without torchrun, which is for capture "
                    "and sae train."
                )
            with heeding():
                run(*args, **kwargs)
        except KeyboardInterrupt as stop:
            _fail(_interrupted(run, kwargs), getattr(stop, "code", 130))
        except ParameterError as error:
            _fail(str(error), 2)
        except InterpError as error:
            _fail(str(error), 1)
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except BrokenPipeError:
            sys.stderr.close()  # the reader of our output has gone; there is nobody to tell
            raise typer.Exit(1) from None
        except Exception as error:
            if State.debug:
                raise
            _fail(f"{_sentence(error)} (--debug shows where).", 1)
        finally:
            let_go_of_all()

    guarded.__signature__ = inspect.signature(run)  # type: ignore[attr-defined]  typer reads it
    app.command(name, no_args_is_help=_needs_arguments(run))(guarded)


def _interrupted(run: Callable[..., None], given: Mapping[str, Any]) -> str:
    """What to do after an interruption; every file is whole, or absent."""
    if "resume" not in inspect.signature(run).parameters:
        return "interrupted; nothing is half written, start it again."
    instead = " in place of --force" if given.get("force") else ""
    return f"interrupted; the same command with --resume{instead} goes on where it stopped."


def _needs_arguments(run: Callable[..., None]) -> bool:
    first = next(iter(inspect.signature(run).parameters.values()))
    return first.default is inspect.Parameter.empty


def _fail(sentence: str, code: int) -> None:
    if State.debug and code <= 2:
        raise  # noqa: PLE0704  inside an except clause of `guarded`
    sentence = _readable(sentence)
    _tell_torchrun(sentence)
    who = "interp" if not _others() else f"interp, rank {os.environ['RANK']}"
    typer.echo(f"{who}: {sentence}", err=True)
    raise typer.Exit(code) from None


def _readable(sentence: str) -> str:
    """A sentence as one line that a terminal only shows: what data put into it is spelt out."""
    if len(sentence) > LONGEST:
        sentence = f"{sentence[: LONGEST - 200]} … {sentence[-200:]}"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in sentence)


def _others() -> bool:
    """Whether torchrun started several of this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1"


def speaks() -> bool:
    """Whether this process writes to the terminal: of several, the first."""
    return not _others() or os.environ.get("RANK") == "0"


def _tell_torchrun(sentence: str) -> None:
    """Leave the sentence where torchrun looks for what its report says of a failed rank."""
    if file := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        extra = {"py_callstack": sentence, "timestamp": str(int(time.time()))}
        with contextlib.suppress(OSError):
            text = json.dumps({"message": {"message": sentence, "extraInfo": extra}})
            Path(file).write_text(text, encoding="utf-8")


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "no space is left on the device; free some and start it again with --resume"
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        return "out of memory; use a smaller --batch-size or fewer --hookpoints"
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename} cannot be used: {error.strerror}"
    text = " ".join(str(error).split())[:300].rstrip(".")
    return f"unexpected {type(error).__name__}: {text}" if text else type(error).__name__


def note(text: str) -> None:
    """A line for the person at the terminal, on stderr."""
    if not State.quiet and speaks():
        typer.echo(text, err=True)


def say_notes(data: "Dataset", *, labels: bool = True) -> None:
    """What was found and chosen while data was read; of its labels only where they are used."""
    for line in (*data.notes, *(data.label_notes if labels else ())):
        note(f"{data.name}: {line}")


@contextmanager
def bar(title: str) -> Iterator[Callable[[int, int, str], None]]:
    """A progress bar on stderr, and a line when it is done; no bar where there is no terminal."""
    began = time.monotonic()
    if not sys.stderr.isatty() or State.quiet or not speaks():
        yield lambda done, total, what: None
    else:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[what]}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task(title, total=None, what="")

            def update(done: int, total: int, what: str) -> None:
                progress.update(task, completed=done, total=total, what=what)

            yield update
    note(f"{title}: {time.monotonic() - began:.1f} s")


def emit(value: Any) -> None:
    """JSON on stdout, nothing else: for ``--json``."""
    from interp.runs import plain

    typer.echo(json.dumps(plain(value), indent=2, allow_nan=False))


def table(title: str, columns: list[str], rows: list[list[Any]]) -> None:
    """A table on stdout; numbers to the right."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(title=title or None, title_justify="left", box=None, pad_edge=False)
    for i, column in enumerate(columns):
        numeric = all(isinstance(r[i], int | float) or r[i] in ("", "-") for r in rows)
        grid.add_column(column, justify="right" if numeric and rows else "left", overflow="fold")
    for row in rows:
        grid.add_row(*(Text(_cell(v)) for v in row))  # Text: data is never read as markup
    console = Console()
    Console(width=None if console.is_terminal else 160, highlight=False).print(grid)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def read_config(ctx: typer.Context, path: Path | None) -> Path | None:
    """Take a TOML or JSON file's entries as the command's defaults; unknown keys are refused."""
    if path is None:
        return None
    from interp.runs import parse_json

    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix.lower() == ".json":
            values = parse_json(text)
        else:
            import tomllib

            values = tomllib.loads(text)  # which recurses where lists are nested
        if not isinstance(values, Mapping):
            raise ValueError("expected a table of options")
    except (OSError, ValueError, RecursionError) as error:
        raise typer.BadParameter(f"{path} cannot be read: {error}") from error
    names = {  # as the command line spells it -> as the function does
        option.removeprefix("--"): p.name or ""
        for p in ctx.command.params
        for option in p.opts
        if (option.startswith("--") or p.param_type_name == "argument") and p.name != "config"
    }
    flat = {str(k).replace("_", "-"): v for k, v in values.items()}
    unknown = sorted(set(flat) - set(names))
    if unknown:
        known = ", ".join(sorted(names))
        raise typer.BadParameter(f"{path} holds unknown options {unknown}; known are {known}")
    given = {names[k]: v for k, v in flat.items()}
    many = {p.name for p in ctx.command.params if getattr(p, "multiple", False) or p.nargs == -1}
    given = {k: [v] if k in many and not isinstance(v, list) else v for k, v in given.items()}
    for name, value in given.items():
        for v in value if name in many else [value]:
            if isinstance(v, list | dict):
                raise typer.BadParameter(f"{path}: {name} takes no {type(v).__name__}")
    ctx.default_map = {**(ctx.default_map or {}), **given}
    return path
