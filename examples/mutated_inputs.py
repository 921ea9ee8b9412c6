"""Mutated inputs, hundreds of them: each ends in a clear error or in a correct result.

``python examples/mutated_inputs.py --count 500 --seed 0`` spoils data, columns, options, config
files, stores, shards, coders, trainings, models, results and hook point expressions, runs `interp`
on each in this process, and prints what came of them: a row a surface. A clear error is exit code 1
or 2 and one sentence, with nothing written; a correct result agrees with a reading by other means.
Anything else is listed, kept in ``--keep``, run again by ``--only SURFACE:NUMBER``; exit code 1.
"""

import argparse
import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import transformers
from mutations import expressions, lines, pixels, saved, stores, tables
from mutations.bench import Bench
from mutations.trial import CLEAR, CORRECT, Case, Outcome, run

SURFACES: dict[str, tuple[Callable[[Bench, Path, Random], Case], int]] = {
    "data files": (tables.case, 14),
    "labels and groups": (tables.probed, 6),
    "tensors": (pixels.tensors, 5),
    "images": (pixels.images, 4),
    "command lines": (lines.case, 16),
    "config files": (lines.configured, 8),
    "stores": (stores.case, 12),
    "stores, resumed": (stores.resumed, 6),
    "coders": (saved.coder, 6),
    "trainings, resumed": (saved.training, 5),
    "models": (saved.model, 5),
    "results": (saved.results, 7),
    "hook points": (expressions.case, 6),
}
"""Surface -> what makes a case of it, and how many there are in a hundred."""


def shares(count: int) -> dict[str, int]:
    """How many cases each surface has."""
    given = {name: count * weight // 100 for name, (_, weight) in SURFACES.items()}
    for name in list(given)[: count - sum(given.values())]:
        given[name] += 1
    return given


def trials(
    bench: Bench, folder: Path, count: int, seed: int, only: str | None = None
) -> Iterator[tuple[str, int, str, Outcome, Path]]:
    """Surface, number, mutation, outcome and folder of each case; the folder goes with the next."""
    asked = shares(count)
    if only is not None:
        name, _, number = only.rpartition(":")
        asked = {name: int(number) + 1}
    for name, many in asked.items():
        for i in range(int(number) if only is not None else 0, many):
            place = folder / f"{name.replace(' ', '-')}-{i}"
            (place / "here").mkdir(parents=True)
            case = SURFACES[name][0](bench, place, Random(f"{seed} {name} {i}"))
            with contextlib.chdir(place / "here"):
                outcome = run(case)
            yield name, i, case.what, outcome, place
            shutil.rmtree(place, ignore_errors=True)


def table(found: dict[str, Counter[str]]) -> str:
    """The outcomes, a row a surface."""
    kinds = [CLEAR, CORRECT, *sorted({k for c in found.values() for k in c} - {CLEAR, CORRECT})]
    total: Counter[str] = sum(found.values(), Counter())
    rows = [*found.items(), ("all", total)]
    width = max(len(name) for name, _ in rows)
    out = [" ".join([" " * width, *(f"{k:>14}" for k in kinds)])]
    out += [" ".join([f"{n:{width}}", *(f"{c[k]:>14}" for k in kinds)]) for n, c in rows]
    return "\n".join(out)


def main() -> int:
    """Run the cases and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="SURFACE:NUMBER, to run one again")
    parser.add_argument("--keep", type=Path, help="folder for the inputs of what went wrong")
    parser.add_argument("--say", action="store_true", help="print every case")
    asked = parser.parse_args()
    transformers.logging.disable_progress_bar()
    os.environ["COLUMNS"] = "200"
    found: dict[str, Counter[str]] = {}
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as held:
        with contextlib.redirect_stderr(open(os.devnull, "w")):
            bench = Bench(Path(held) / "bench")
        for name, i, what, outcome, place in trials(
            bench, Path(held), asked.count, asked.seed, asked.only
        ):
            found.setdefault(name, Counter())[outcome.kind] += 1
            if not outcome.good or asked.say:
                line = f"{name}:{i}  {what[:120]}  ->  {outcome.kind}: {outcome.why[:300]}"
                print(line.encode("ascii", "backslashreplace").decode(), flush=True)
            if not outcome.good and asked.keep:
                shutil.copytree(place, asked.keep / place.name, symlinks=True, dirs_exist_ok=True)
    print(table(found))
    print(f"{sum(map(Counter.total, found.values()))} mutated inputs, seed {asked.seed}, "
          f"{time.monotonic() - began:.0f} s")  # fmt: skip
    return int(any(set(c) - {CLEAR, CORRECT} for c in found.values()))


if __name__ == "__main__":
    sys.exit(main())
