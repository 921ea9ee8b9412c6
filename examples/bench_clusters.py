"""What the cluster indices cost: seconds and peak memory at n x d, each part in its own process.

    python examples/bench_clusters.py --rows 20000 --width 4096 --threads 2

The matrix is float32, two Gaussians; its own bytes are part of the peak. The processor's seconds
tell what a busy machine adds to the wall's.
"""

import argparse
import resource
import subprocess
import sys
import time


def measure(part: str, rows: int, width: int, threads: int) -> None:
    import numpy as np
    import torch

    from probes.alignment import aqi
    from probes.clusters import Moments, Spreads
    from probes.distances import distances

    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(rows, width, generator=generator)
    y = np.arange(rows) % 2
    X[1::2] += 0.1
    began, used = time.perf_counter(), time.process_time()
    if part == "moments":
        found = Moments().update(X, y).result()
        numbers = {
            "CHI": found.calinski_harabasz(),
            "XB": found.xie_beni(),
            "DB": Spreads(found).update(X, y).result(),
        }
    elif part == "pairs":
        pairs = distances(X, y)
        numbers = {"Dunn": pairs.dunn(), "silhouette": pairs.silhouette()}
    else:
        result = aqi(X, y, draws=200, permutations=199)
        numbers = {"AQI": result.value}
    wall, cpu = time.perf_counter() - began, time.process_time() - used
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    shown = ", ".join(f"{k} {v:.5g}" for k, v in numbers.items())
    print(f"{part}: {wall:.1f} s ({cpu:.1f} s of processor), peak {peak:.2f} GB; {shown}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--width", type=int, default=4_096)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--part", choices=("moments", "pairs", "aqi"))
    given = parser.parse_args()
    if given.part:
        measure(given.part, given.rows, given.width, given.threads)
        return
    for part in ("moments", "pairs", "aqi"):
        command = [sys.executable, __file__, "--part", part, "--rows", str(given.rows)]
        command += ["--width", str(given.width), "--threads", str(given.threads)]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
