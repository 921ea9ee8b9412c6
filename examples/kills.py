"""Kill a command at random moments, go on with --resume, and compare with an unbroken run.

    python examples/kills.py --what capture|train|probe|report|demo --times 50 --seed 0

Each trial starts the command in a process of its own and sends it SIGKILL, SIGTERM or SIGINT at a
moment drawn uniformly over the time that an unbroken run takes; then it resumes it, and kills that
too, up to three kills in a row. After every kill each file under its final name must be whole: JSON
parses, safetensors have all bytes that their header names, shards and pages end where they should,
and after SIGTERM and SIGINT no temporary file is left. At the end every file must equal the
unbroken run's, byte for byte, but for what says how long things took: ``seconds`` and ``argv`` in a
run's manifest.json, ``rows_per_second``, ``cpu_seconds`` and ``compile_seconds`` in a log. A
training's page shows its rows a second: it must be, byte for byte, what `interp report` makes of
its results. The demo's page has them in the order of the run, so that its words are compared.

The processes are forks of this one, which has imported everything: a run is then work, not imports.
``--fresh`` starts new interpreters instead, and ``--ranks 2`` the processes of torchrun, of which
one, drawn at random, gets the signal: torchrun then ends the others.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FORK = 0
"""Ranks of a run that is a fork of this process; 1 is a new interpreter, more are torchrun's."""
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
CODES = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}
TEXTS, SHARD = 320, 20
"""Texts that are captured, and of a shard: 16 shards."""
STEPS, EVERY = 480, 24
"""Steps of the training, and between its checkpoints."""
PATIENCE = 1500.0
"""Seconds after which a process has hung."""
TIMES = ("seconds", "argv", "rows_per_second", "cpu_seconds", "compile_seconds")
"""What of a file may differ: how long things took, and that the last start had --resume."""
TITLE = b"Training of sparse autoencoders"
"""Of a training's page."""
COMMANDS = {
    "capture": "capture demo:pylm ../texts.csv -p resid_post.* --batch-size 8"
    f" --shard-rows {SHARD} --out out",
    "train": f"sae train --store ../acts -p resid_post.2 --out out --steps {STEPS} --batch-size 128"
    f" --n-latents 512 --k 16 --checkpoint-every {EVERY} --log-every 4 --backend eager",
    "probe": "probe demo:pylm ../texts.csv -p resid_post.1 -p resid_post.2 --label-column many"
    " --label-column vowel --label-column third --no-random-model --lens --out out",
    "report": "report ../run --out out/report.html",
    "demo": "demo --out out",
}


@dataclass
class Kill:
    """One kill: which trial, what was sent, when, how the process ended, and what it left."""

    trial: int
    name: str
    moment: float
    code: int
    left: str
    faults: list[str]


def main() -> int:
    """Run the trials and print their table; 1 where one went wrong."""
    parser = argparse.ArgumentParser(description="Kill a command at random moments and resume it.")
    parser.add_argument("--what", choices=COMMANDS, default="capture")
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fresh", action="store_true", help="new interpreters, not forks")
    parser.add_argument("--ranks", type=int, default=FORK, help="torchrun's; one of them is killed")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return trials(
            Path(folder), given.what, given.times, given.seed, 1 if given.fresh else given.ranks
        )


def trials(folder: Path, what: str, times: int, seed: int, ranks: int = FORK) -> int:
    """All trials of one command in a folder; how many went wrong."""
    load()
    argv, draw = COMMANDS[what].split(), random.Random(seed)
    prepare(folder, what, ranks)
    took = []
    for name in ("unbroken", "again"):
        began = time.perf_counter()
        code, said = run(argv, folder / name, ranks)
        took.append(time.perf_counter() - began)
        if code:
            raise SystemExit(f"the unbroken run fails with {code}: {said}")
    if found := differences(folder / "unbroken", folder / "again"):
        raise SystemExit(f"two unbroken runs differ: {found}")
    print(f"{what}: unbroken {took[0]:.1f} s and {took[1]:.1f} s; seed {seed}")
    print("trial  signal   at s  exit  left                                  outcome", flush=True)
    wrong = kills = 0
    for trial in range(times):
        place, rows = folder / f"trial-{trial}", []
        while not rows:  # a run that ended before its kill was no trial
            shutil.rmtree(place, ignore_errors=True)
            rows = list(killed(argv, place, draw, min(took), trial, what, ranks))
        code, said = run(resuming(argv), place, ranks)
        faults = [fault for row in rows for fault in row.faults]
        faults += [f"resumed: exit {code}: {said}"] if code else []
        faults += differences(folder / "unbroken", place)
        for row in rows:
            last = row is rows[-1]
            outcome = "; ".join(faults) or "identical" if last else "killed again"
            print(f"{row.trial:5}  {row.name:7} {row.moment:5.2f} {row.code:5}  {row.left:36}  "
                  f"{outcome}", flush=True)  # fmt: skip
        wrong += bool(faults)
        kills += len(rows)
        shutil.rmtree(place)
    print(f"{what}: {times - wrong} of {times} identical, after {kills} kills")
    return wrong


def killed(
    argv: list[str],
    place: Path,
    draw: random.Random,
    seconds: float,
    trial: int,
    what: str,
    ranks: int,
) -> Iterator[Kill]:
    """Start a command and kill it, then its resumption, one to three times."""
    for turn in range(draw.choice((1, 1, 2, 3))):
        imports = seconds / 2 if ranks > 1 else 0  # of torchrun and its processes, about
        number, moment = draw.choice(SIGNALS), draw.uniform(imports, seconds)
        pid = start(resuming(argv) if turn else argv, place, ranks)
        time.sleep(moment)
        os.kill(one_of(pid, draw) if ranks > 1 else pid, number)
        code, said = ended(pid, place)
        if code == 0:
            return  # it had ended, or was about to
        name = signal.Signals(number).name
        faults = damaged(place / "out", asked=number != signal.SIGKILL and ranks < 2)
        if ranks > 1:
            pass  # torchrun's own code and report
        elif code != CODES[number]:
            faults.append(f"{name} gives exit {code}: {said}")
        elif number != signal.SIGKILL and "interp: interrupted" not in said or "Traceback" in said:
            faults.append(f"{name} says {said!r}")
        yield Kill(trial, name, moment, code, left(place / "out", what), faults)


def load() -> None:
    """Import what the commands import, before forking; no thread may run."""
    import pandas  # noqa: F401
    import pyarrow.parquet  # noqa: F401
    import sklearn.linear_model  # noqa: F401
    import torch
    import transformers.models.gpt2.modeling_gpt2  # noqa: F401

    import dashboards  # noqa: F401
    import interp.capturing
    import interp.cli
    import interp.planning
    import probes.steering  # noqa: F401
    import saes.trainer  # noqa: F401

    torch.set_num_threads(1)
    interp.planning.SHARD_ROWS = SHARD


def prepare(folder: Path, what: str, ranks: int) -> None:
    """The texts, and the store or the run that a command reads."""
    import pandas as pd

    words = (
        "time list name self path value open read line text word code key data file node".split()
    )
    draw = random.Random(7)
    texts = [" ".join(draw.choices(words, k=draw.randint(4, 40))) for _ in range(TEXTS)]
    table = pd.DataFrame({"text": texts})
    table["many"] = [int(len(t.split()) > 20) for t in texts]
    table["vowel"] = [int(t[0] in "aeiou" or t[-1] in "aeiou") for t in texts]
    table["third"] = [sum(w == "self" for w in t.split()) % 3 for t in texts]
    table.to_csv(folder / "texts.csv", index=False)
    first = {"train": "capture", "report": "probe"}.get(what)
    if first is not None:
        name = {"train": "acts", "report": "run"}[what]
        argv = COMMANDS[first].split()
        argv += ["--pool", "all"] if what == "train" else []
        code, said = run(argv, folder / "made", ranks)
        if code:
            raise SystemExit(f"{first} fails with {code}: {said}")
        (folder / "made" / "out").rename(folder / name)


def resuming(argv: list[str]) -> list[str]:
    """The command line that goes on; `interp report` simply starts again."""
    return argv if argv[0] == "report" else [*argv, "--resume"]


def start(argv: list[str], place: Path, ranks: int) -> int:
    """Begin the command in a folder, in a process of its own; the process's number."""
    place.mkdir(exist_ok=True)
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        os.chdir(place)
        log = os.open("said.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if ranks:
            root = str(Path(__file__).parents[1])
            os.environ["PYTHONPATH"] = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
            several = [
                "-m",
                "torch.distributed.run",
                "--standalone",
                "--nproc-per-node",
                str(ranks),
            ]
            launcher = several if ranks > 1 else []
            os.execv(sys.executable, [sys.executable, *launcher, "-m", "interp", *argv])
        from interp.cli import main

        sys.argv = ["interp", *argv]
        main()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def one_of(pid: int, draw: random.Random) -> int:
    """A child of torchrun, as soon as there is one; torchrun itself where it ends before."""
    for _ in range(400):
        children = Path(f"/proc/{pid}/task/{pid}/children")
        found = children.read_text().split() if children.exists() else []
        if found:
            return int(draw.choice(found))
        time.sleep(0.05)
    return pid


def ended(pid: int, place: Path) -> tuple[int, str]:
    """Wait for a process: its exit code, or minus the signal's number, and what it said last."""
    until = time.monotonic() + PATIENCE
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            break
        if time.monotonic() > until:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise SystemExit(f"a process hangs in {place}")
        time.sleep(0.02)
    log = place / "said.txt"
    said = log.read_text(errors="replace")[-1500:] if log.is_file() else ""
    log.unlink(missing_ok=True)
    return os.waitstatus_to_exitcode(status), said.strip()


def run(argv: list[str], place: Path, ranks: int) -> tuple[int, str]:
    """Run a command to its end."""
    return ended(start(argv, place, ranks), place)


# -- what is on the disk ---------------------------------------------------------------------------


def damaged(folder: Path, *, asked: bool) -> list[str]:
    """Files under a final name that are not whole; where the end was asked for, temporary ones too.

    A temporary name begins with a dot and ends in .tmp.
    """
    faults = []
    for path in sorted(folder.rglob("*")):
        temporary = any(p.startswith(".") and p.endswith(".tmp") for p in path.parts)
        if temporary:
            faults += [f"{path.name} is left"] if asked else []
        elif path.is_file() and not whole(path):
            faults.append(f"{path.relative_to(folder)} is half written")
    return faults


def whole(path: Path) -> bool:
    """Whether a file holds all that it should."""
    data = path.read_bytes()
    try:
        if path.suffix == ".json":
            found = json.loads(data)
            return all(_sha256(path.with_name(s["file"])) == s["sha256"] for s in _shards(found))
        if path.suffix == ".safetensors":
            size = int.from_bytes(data[:8], "little")
            header = json.loads(data[8 : 8 + size])
            ends = [v["data_offsets"][1] for k, v in header.items() if k != "__metadata__"]
            return len(data) == 8 + size + max(ends)
    except (ValueError, KeyError, OSError):
        return False
    if path.suffix == ".parquet":
        return data[:4] == data[-4:] == b"PAR1"
    return data.rstrip().endswith(b"</html>") if path.suffix == ".html" else True


def _shards(document: Any) -> list[dict[str, Any]]:
    return document.get("shards", []) if isinstance(document, dict) else []


def _sha256(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


def differences(one: Path, two: Path) -> list[str]:
    """Files that only one of two folders has, or in which they differ beyond `TIMES`."""
    names = [{p.relative_to(f) for p in f.rglob("*") if p.is_file()} for f in (one, two)]
    found = [f"{n} is in one only" for n in sorted(names[0] ^ names[1])]
    for name in sorted(names[0] & names[1]):
        if (one / name).read_bytes() == (two / name).read_bytes():
            continue
        if name.suffix == ".html" and b"rows_per_second" in (two / name).read_bytes():
            training = b"<title>" + TITLE in (two / name).read_bytes()
            same = words(one / name) == words(two / name)
            if not (shows_its_results(two, name) if training else same):
                found.append(f"{name} is not the page of the results")
        elif known(one / name) is None or known(one / name) != known(two / name):
            found.append(f"{name} differs")
    return found


def shows_its_results(place: Path, name: Path) -> bool:
    """Whether a page is what `interp report` makes of the run's results."""
    title = TITLE.decode()
    code, _ = run(["report", "out", "--title", title, "--out", "again.html"], place, ranks=FORK)
    again = place / "again.html"
    same = code == 0 and again.read_bytes() == (place / name).read_bytes()
    again.unlink(missing_ok=True)
    return same


def words(page: Path) -> bytes:
    """A page without its numbers and the data of its figures, which hold rows a second too."""
    return re.sub(rb'"bdata":"[^"]*"|-?\d[\d.,e+-]*', b"", page.read_bytes())


def known(path: Path) -> Any:
    """What of a file must be equal, where that is not all of it."""
    if path.suffix == ".json":
        return timeless(json.loads(path.read_bytes()))
    if path.name == "checkpoint.safetensors":
        data = path.read_bytes()
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size])
        document = json.loads(header.pop("__metadata__")["interp"])
        return header, timeless(document), data[8 + size :]
    return None


def timeless(value: Any) -> Any:
    """A JSON value without what tells times."""
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if k not in TIMES}
    return [timeless(v) for v in value] if isinstance(value, list) else value


def left(folder: Path, what: str) -> str:
    """In words, how far a killed command had come: what it will be resumed from."""
    finders: dict[str, Callable[[Path], str]] = {
        "capture": _store,
        "train": _training,
        "probe": _run,
        "demo": _run,
        "report": lambda f: "the page" if (f / "report.html").is_file() else "",
    }
    return finders[what](folder) or "nothing"


def _store(folder: Path) -> str:
    path = folder / "manifest.json"
    if not path.is_file():
        return ""
    manifest = json.loads(path.read_bytes())
    done = ", complete" if manifest["complete"] else ""
    planned = -(-manifest["n"] // manifest["shard_rows"])
    return f"{len(manifest['shards'])} of {planned} shards{done}"


def _training(folder: Path) -> str:
    path = folder / "checkpoint.safetensors"
    if not path.is_file():
        return "the config" if (folder / "config.json").is_file() else ""
    data = path.read_bytes()[:2_000_000]
    size = int.from_bytes(data[:8], "little")
    step = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["interp"])["step"]
    return ", ".join([f"step {step} of {STEPS}", *_last(folder)])


def _last(folder: Path) -> list[str]:
    """What a run writes at its end."""
    ends = {"sae/config.json": "sae", "metrics.json": "metrics", "report.html": "report"}
    return [word for name, word in ends.items() if (folder / name).exists()]


def _run(folder: Path) -> str:
    if not (folder / "config.json").is_file():
        return ""
    results = len(list((folder / "results").glob("*.json")))
    stores = [_store(f.parent) for f in folder.glob("acts/*/manifest.json")]
    return ", ".join([*stores, f"{results} results", *_last(folder)])


if __name__ == "__main__":
    sys.exit(main() > 0)
