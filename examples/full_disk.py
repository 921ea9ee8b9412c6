"""Run commands on a disk that is truly full, free some space, resume, and compare.

    python examples/full_disk.py [--what capture,train,probe,report,demo] [--sizes 3]

The disk is a tmpfs, mounted in a user namespace of its own (``unshare``, Linux). For
each command it holds a share of what the command writes; there the command must fail with one
sentence that names the space, leave every file whole, and then, on a larger disk, resume to the
same files as an unbroken run's (`kills.differences`).
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from kills import COMMANDS, damaged, differences, load, prepare, resuming, run

ALL = {**COMMANDS, "demo": "demo --out out"}
INSIDE = "--inside"
AMPLE = "2g"


def main() -> int:
    """Run the commands and print their table; 1 where one went wrong."""
    parser = argparse.ArgumentParser(description="Run commands on a full disk and resume them.")
    parser.add_argument("--what", default="capture,train,probe,report")
    parser.add_argument("--sizes", type=int, default=3, help="disks for each command")
    parser.add_argument(INSIDE, action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if not given.inside:
        again = [sys.executable, *sys.argv, INSIDE]
        return subprocess.run(
            ["unshare", "--user", "--map-root-user", "--mount", *again]
        ).returncode
    load()
    wrong = 0
    print("command  disk kB  says                                              outcome", flush=True)
    for what in given.what.split(","):
        with tempfile.TemporaryDirectory() as folder:
            wrong += filled(Path(folder), what, given.sizes)
    return wrong > 0


def filled(folder: Path, what: str, sizes: int) -> int:
    """One command on disks of several sizes; how often it went wrong."""
    argv = ALL[what].split()
    if what in COMMANDS:
        prepare(folder, what, fresh=False)
    code, said = run(argv, folder / "unbroken", fresh=False)
    if code:
        raise SystemExit(f"{what} fails with {code}: {said}")
    needed = sum(-(-f.stat().st_size // 4096) * 4 for f in (folder / "unbroken").rglob("*.*"))
    wrong, disk = 0, folder / "disk"
    disk.mkdir()
    for i in range(sizes):
        room = needed * (i + 1) // (sizes + 1)
        mount(disk, f"{room}k")
        code, said = run(argv, disk, fresh=False)
        line = said.splitlines()[-1] if said else ""
        faults = damaged(disk / "out", asked=True)
        if code != 1 or "free some" not in line or "Traceback" in said:
            faults.append(f"exit {code}")
        mount(disk, AMPLE, "remount,")
        code, late = run(resuming(argv), disk, fresh=False)
        faults += (
            [f"resumed: exit {code}: {late}"] if code else differences(folder / "unbroken", disk)
        )
        print(f"{what:8} {room:7}  {line}  {'; '.join(faults) or 'identical'}", flush=True)
        wrong += bool(faults)
        subprocess.run(["umount", str(disk)], check=True)
    shutil.rmtree(disk)
    return wrong


def mount(disk: Path, size: str, how: str = "") -> None:
    """A disk in memory of a size; the log of a command needs a page of it."""
    options = f"{how}size={size}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)], check=True)


if __name__ == "__main__":
    sys.exit(main())
