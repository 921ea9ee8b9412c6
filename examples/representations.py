"""What decides representations of two real models: removal, merging, patching, variance, recall.

    INTERP_REAL=folder python examples/representations.py --images 500 --out representations.html

The folder is that of the tests (CONTRIBUTING.md): resnet20.py with its images, minilm, cities.csv.
"""

import argparse
import os
import sys
import time
from pathlib import Path

import pandas as pd

import interp
import probes
from dashboards import Report

TEXT = "A black dog sits beside a wooden chair while the old woman reads a long letter."
SWAPS = {"black dog": "small boat", "wooden chair": "red apple", "old woman": "young king"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--rows", type=int, default=600)
    parser.add_argument("--out", type=Path, default=Path("representations.html"))
    given = parser.parse_args()
    real = Path(os.environ["INTERP_REAL"])
    sys.path.insert(0, str(real))
    import resnet20

    images, labels, _ = resnet20.images()
    step = max(1, len(images) // given.images)
    images, labels = images[::step], labels[::step]
    minilm = interp.load(str(real / "minilm"))
    table = pd.read_csv(real / "cities.csv")
    table = table.sample(min(given.rows, len(table)), random_state=0)
    acts = interp.capture(
        minilm, table["statement"].tolist(), ["embed", "resid_post.*"], pool="mean"
    )
    features = {
        "true": table["label"].to_numpy(),
        "country": table["country"].to_numpy(),
        "words": table["statement"].str.split().str.len().to_numpy(float),
    }
    task = probes.mqar(200, length=64, pairs=8, vocabulary=512)
    parts = {
        "removal": lambda: probes.removal_curve(resnet20.load(), images, labels, name="ResNet-20"),
        "complexity": lambda: probes.feature_complexity(resnet20.load(), name="ResNet-20 channels"),
        "patching": lambda: probes.token_patching(minilm, TEXT, SWAPS, name="MiniLM tokens"),
        "explained": lambda: probes.variance_explained(acts, features, name="cities"),
        "plane": lambda: probes.information_plane(
            acts, features["true"], method="kernel", noise=0.25, relative=True, name="cities"
        ),
        "prototypes": lambda: probes.prototypes(acts["resid_post.5"], 8, features["true"]),
        "recall": lambda: probes.recall_by_gap(task, probes.induction_oracle(task.inputs)),
        "shortcut": lambda: probes.shortcut_bias(
            probes.shortcut.mlp_fit(()), nesting=(0, 4), model="a linear model, core nested 4 deep"
        ),
    }
    results = []
    for name, run in parts.items():
        began = time.perf_counter()
        results.append(run())
        print(f"\n{name} ({time.perf_counter() - began:.1f} s)")
        print(results[-1].to_frame().round(3).to_string(index=False))
    print(Report(results, title="What decides representations").write(given.out))


if __name__ == "__main__":
    main()
