import subprocess
import sys

import pytest

pytest.importorskip("resource", reason="peak memory is read by the resource module of Unix")

SWEEP = """
import resource, sys
import numpy as np, pandas as pd, torch
from probes import concept_depth

layers, n, d = map(int, sys.argv[1:])


class Lazy:
    # A store that makes a matrix when it is asked for, as one on disk reads it.
    hookpoints = tuple(f"resid_post.{i}" for i in range(layers))
    rows = pd.DataFrame({"label": np.arange(n) % 2, "group": np.arange(n) // 4})
    manifest = {"data": {"name": "lazy"}, "pool": "last"}

    def __getitem__(self, name):
        X = torch.empty(n, d, dtype=torch.float16)
        generator = torch.Generator().manual_seed(int(name.split(".")[1]))
        for i in range(0, n, 1000):
            X[i : i + 1000] = torch.randn(len(X[i : i + 1000]), d, generator=generator)
        X[:, 0] += torch.arange(n) % 2
        return X


torch.set_num_threads(1)
r = concept_depth(Lazy(), "label", "group", folds=3, strengths=1e-3, random_features=False)
assert len(r.hookpoints) == layers
unit = 1 if sys.platform == "darwin" else 1024
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
"""


def peak(layers, n, d):
    """Bytes of the largest resident set of a sweep in a process of its own."""
    command = [sys.executable, "-c", SWEEP, str(layers), str(n), str(d)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.slow
def test_the_peak_is_that_of_the_largest_layer_and_not_of_the_sum():
    # Large layers, as the allocator's slack is tens of MB; the second one may add to it.
    two, seven = peak(2, 12_000, 1024), peak(7, 12_000, 1024)
    layer = 12_000 * 1024 * 4
    assert seven - two < 2.5 * layer  # five more layers, were they kept, would add 5


@pytest.mark.slow
def test_a_layer_of_20000_by_2048_is_probed_within_4_gb():
    assert peak(1, 20_000, 2048) < 4e9
