"""What each measure of representations costs: seconds and peak memory, each in its own process.

    python examples/bench_geometry.py --rows 10000 --width 2048 --threads 2

The matrix is float64 noise with two classes a little apart, made before the clock starts; its own
bytes, and those of a second matrix where two are compared, are part of the peak. The processor's
seconds tell what a busy machine adds to the wall's.
"""

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

LABELS = 10
"""Classes of the rows."""


def others() -> dict[str, Callable[[Any, Any, Any], Any]]:
    """Measures that compare two spaces or need more than rows: name -> (X, Y, labels) -> number."""
    import probes as p
    from probes import geometry as g

    return {
        "cka of two": lambda X, Y, y: g.cka(X, Y),
        "rsa of two": lambda X, Y, y: g.rsa(X, Y),
        "relative": lambda X, Y, y: g.relative_similarity(X, Y),
        "stitching": lambda X, Y, y: g.stitching(X, Y, y),
        "compatibility": lambda X, Y, y: g.backward_compatibility(X, Y, y),
        "plane, bins": lambda X, Y, y: p.information_plane(X, y).xt[0, 0],
        "plane, kernel": lambda X, Y, y: p.information_plane(X, y, method="kernel").xt[0, 0],
        "infomec": lambda X, Y, y: p.infomec(X > 0, {"y": y}, folds=2).explicitness,
        "explained": lambda X, Y, y: p.variance_explained(X, {"y": y, "half": y % 2}).raw[0, 0],
        "prototypes": lambda X, Y, y: p.prototypes(X, 15, y).r2,
    }


def _heads(d: int) -> Any:
    """Sixteen projections side by side, as of a model's heads."""
    import torch

    return torch.eye(d, dtype=torch.float64).reshape(d, 16, -1).transpose(0, 1)


def measure(name: str, rows: int, width: int, threads: int) -> None:
    import numpy as np
    import torch

    from probes.geometry import MEASURES
    from probes.measured import Setting

    torch.set_num_threads(threads)
    draw = torch.Generator().manual_seed(0)
    X = torch.randn(rows, width, generator=draw, dtype=torch.float64)
    y = np.arange(rows) % LABELS
    X[:, :LABELS] += torch.nn.functional.one_hot(torch.from_numpy(y)) * 3
    pair = others().get(name)
    Y = 0.5 * X.flip(1) + torch.randn(X.shape, generator=draw, dtype=X.dtype) if pair else X[:, :64]
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    began, used = time.perf_counter(), time.process_time()
    if pair is not None:
        found = pair(X, Y, y)
    else:
        m = MEASURES[name]
        setting = Setting(y, Y, features={"class": y, "half": y % 2}, heads=_heads(width))
        kept = np.arange(rows)[: m.rows]
        found = m.find(X[: m.rows], setting.at(kept))
    wall, cpu = time.perf_counter() - began, time.process_time() - used
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    said = f"{float(found):.4g}" if isinstance(found, float) else type(found).__name__
    print(
        f"{name:18s} {wall:7.1f} s {cpu:7.1f} s of processor, peak {peak:.2f} GB "
        f"(before {held:.2f})  {said}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=2_048)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="*", help="Names; all by default.")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        measure(given.one, given.rows, given.width, given.threads)
        return
    from probes.geometry import MEASURES

    for name in given.only or [*MEASURES, *others()]:
        command = [sys.executable, __file__, "--one", name, "--rows", str(given.rows)]
        command += ["--width", str(given.width), "--threads", str(given.threads)]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
