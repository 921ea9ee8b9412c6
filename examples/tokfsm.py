"""TokFSM: models of a finite-state language, without and with codebooks.

    python examples/tokfsm.py --rows none,attn --out runs/tokfsm        # CPU
    python examples/tokfsm.py --full --out runs/tokfsm                  # a GPU: the whole table

Rows of the table: ``none`` no codebooks; ``attn`` one at each head's output; ``all-k1``,
``all-k4``, ``all-k16``, ``all-k128`` one at each head's output and at each MLP's output, with that
k. Each row is trained from random weights, the codes too; with ``--finetune`` rows with codebooks
begin at the trained model of ``none``, the codes at k-means. Without ``--full`` it is a reduced
form: smaller batches and fewer steps. A row that was begun goes on; a finished one is read. The
scores of all rows end up in ``report.html``.
"""

import argparse
import time
from pathlib import Path

import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

import dashboards
import interp
from saes.codebook import (
    FSM,
    CodebookConfig,
    Codebooks,
    CodebookTraining,
    FSMBatches,
    evaluate_tokfsm,
    insert,
    train_codebooks,
)

ROWS = {
    "none": ((), 1),
    "attn": (("head_out.*",), 1),
    "all-k1": (("head_out.*", "mlp_out.*"), 1),
    "all-k4": (("head_out.*", "mlp_out.*"), 4),
    "all-k16": (("head_out.*", "mlp_out.*"), 16),
    "all-k128": (("head_out.*", "mlp_out.*"), 128),
}
PAPER = {
    "none": (1.179, 0.9677),
    "attn": (1.18, 0.9639),
    "all-k1": (1.254, 0.6381),
    "all-k4": (1.192, 0.8069),
    "all-k16": (1.183, 0.9153),
    "all-k128": (1.178, 0.9582),
}
"""Loss and state accuracy of the paper's table 1."""


def new_model(fsm, seed, device):
    """The paper's model: 4 layers, 4 heads, width 128."""
    config = GPTNeoXConfig(
        vocab_size=fsm.vocabulary,
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=512,
        max_position_embeddings=128,
        bos_token_id=fsm.bos,
        eos_token_id=fsm.bos,
        pad_token_id=fsm.bos,
    )
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        return interp.load(GPTNeoXForCausalLM(config), device)


def train_row(row, fsm, args, out):
    points, k = ROWS[row]
    n_codes = args.n_codes or (2000 if row == "attn" else 20_000)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    finetune = bool(args.finetune) and row != "none"
    if finetune:
        model = Codebooks.load(args.out / "none" / "model", device=device).model
    else:
        model = new_model(fsm, args.seed, device)
    books = insert(model, points, CodebookConfig(n_codes=n_codes, k=k), seed=args.seed)
    began, last = time.time(), [0.0]

    def progress(done, steps, words):
        if time.time() - last[0] > 30 or done == steps:
            last[0] = time.time()
            print(
                f"{row}: step {done:,} of {steps:,}, {words}, {last[0] - began:.0f} s", flush=True
            )

    training = train_codebooks(
        books,
        FSMBatches(fsm, args.batch, seed=args.seed + finetune),
        steps=args.finetune if finetune else args.steps,
        lr=args.lr,
        decay_steps=(args.finetune if finetune else args.steps) // 2,
        init="kmeans" if finetune else "normal",
        seed=args.seed,
        reference=fsm.bayes_loss(),
        autocast="bfloat16" if args.bfloat16 else None,
        out=out,
        resume=True,
        checkpoint_every=max(1, args.steps // 50),
        name=f"tokfsm.{row}",
        progress=progress,
    )
    return books, training


def main():
    parser = argparse.ArgumentParser(description="TokFSM, with and without codebooks")
    parser.add_argument("--rows", default="none,attn", help="a comma list, or all")
    parser.add_argument("--out", type=Path, default=Path("runs/tokfsm"))
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--n-codes", type=int, help="else 2,000 at heads, 20,000 with MLPs")
    parser.add_argument("--finetune", type=int, metavar="STEPS", help="begin at the row none")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bfloat16", action="store_true", help="on a GPU")
    parser.add_argument("--full", action="store_true", help="the paper's rows, batch and steps")
    args = parser.parse_args()
    if args.full:
        args.rows, args.steps, args.batch, args.lr = "all", 20_000, 512, 1e-3
    rows = list(ROWS) if args.rows == "all" else args.rows.split(",")
    fsm = FSM(100, 10, seed=42)
    print(f"Bayes floor {fsm.bayes_loss():.5f} nats, accuracy {fsm.bayes_accuracy():.3%}")
    results, pairs = [], None if args.full else 1000
    for row in rows:
        folder = args.out / row / "model"
        if (folder / "training.json").is_file():
            books, training = (
                Codebooks.load(folder),
                CodebookTraining.load(folder / "training.json"),
            )
        else:
            books, training = train_row(row, fsm, args, args.out / row)
        found = evaluate_tokfsm(books, fsm, pairs=pairs, seed=args.seed, name=f"tokfsm.{row}")
        found.save(args.out / row / "scores.json")
        results += [training, found]
        loss, states = PAPER[row]
        print(
            f"{row}: loss {found.loss:.4f} (paper {loss}), accuracy {found.accuracy:.2%}, state "
            f"accuracy {found.state_accuracy:.2%} (paper {states:.2%}), "
            f"{training.cpu_seconds[-1]:.0f} s of processor time\n{found.to_frame().to_string()}",
            flush=True,
        )
    print(dashboards.Report(results, title="TokFSM").write(args.out / "report.html"))


if __name__ == "__main__":
    main()
