"""Train demo:digits, a small ReLU network of three questions, and write it into the package.

    python examples/train_digits.py              # about 20 seconds on one CPU core

It learns the three answers and nothing else; the digits are not told. Rows that ``demo:digits``
calls test are held out, and their accuracy stands in ``card.json``. Equal seed, libraries and
thread count give equal weights.
"""

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn import functional

from interp.demo.handwriting import QUESTIONS, DigitsNet, digits

OUT = Path(__file__).parents[1] / "interp" / "demo" / "digits"
STEPS, BATCH, RATE, DECAY = 1500, 128, 2e-3, 0.05


def train(seed: int, steps: int = STEPS) -> tuple[DigitsNet, dict[str, float]]:
    """The network, and the share of held-out images that each question is answered right for."""
    data = digits()
    x, y = data.inputs, torch.tensor(data.rows[list(QUESTIONS)].to_numpy(), dtype=torch.float32)
    seen = torch.tensor((data.rows["split"] == "train").to_numpy())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = DigitsNet()
    draw = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, steps)
    rows = seen.nonzero()[:, 0]
    for _ in range(steps):
        batch = rows[torch.randint(len(rows), (BATCH,), generator=draw)]
        loss = functional.binary_cross_entropy_with_logits(net(x[batch]), y[batch])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    net.eval()
    with torch.no_grad():
        right = ((net(x[~seen]) > 0) == y[~seen].bool()).double().mean(0)
    return net, {q: round(float(r), 4) for q, r in zip(QUESTIONS, right, strict=True)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    net, accuracy = train(seed)
    OUT.mkdir(parents=True, exist_ok=True)
    save_file(net.state_dict(), OUT / "model.safetensors")
    card = {
        "name": "digits",
        "images": "scikit-learn's digits, from 0 to 1",
        "questions": {k: list(v) for k, v in QUESTIONS.items()},
        "held_out": {"rows": "the last 450", "accuracy": accuracy},
        "training": {"steps": STEPS, "batch_size": BATCH, "learning_rate": RATE, "seed": seed},
        "parameters": sum(p.numel() for p in net.parameters()),
    }
    (OUT / "card.json").write_text(json.dumps(card, indent=2) + "\n")
    print(json.dumps(card["held_out"]))


if __name__ == "__main__":
    main()
