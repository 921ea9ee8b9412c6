"""What a training step of a TopK SAE costs, beside a dense step, the floor and other libraries.

    python examples/bench_sae.py [--latents 3072,12288] [--rounds 3] [--peers FOLDER] [--scaling F]

65,536 x 384 synthetic activations in float32 (2,048 sparse directions with power-law frequencies, a
bias and noise), k = 32, batches of 4,096. All contenders run in turn, each in a process of its own,
for some rounds; figures are medians over rounds of the median step, with the range.

interp       `saes.train`, the whole of it: reading, scaling, AuxK's bookkeeping, clipping, norms
eager        the same on torch's operators
dense        the step that autograd makes of a dense decoder, with the same bookkeeping
floor        the encoder's product in float and fused Adam on all parameters, nothing else

``--dead 0.1`` lets AuxK revive a tenth of the latents (the dense step and the others' scripts:
all of them).
``--peers`` names a folder that holds, for each other
library, an environment and a script that prints a JSON line with ``peer`` and ``ms_step``; see
``PEERS`` below. ``--scaling`` writes a figure of the time a row against latents, k, width and
threads.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch

D, K, BATCH, ROWS, WARM, STEPS = 384, 32, 4096, 65536, 5, 30
PEERS = {
    "sparsify": ("sparsify", "peer_sparsify.py", "adam"),
    "dictionary_learning": ("dictionary_learning", "peer_dictionary_learning.py", ""),
    "overcomplete": ("overcomplete", "peer_overcomplete.py", "mse"),
    "SAELens": ("saelens", "peer_saelens.py", "dense"),
}
"""Name -> folder of the environment, script, its argument."""


def activations(rows=ROWS, d=D):
    """Sums of 24 of 2,048 directions a row, a bias and noise."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(2048, d, generator=generator), dim=1)
    chance = 1 / torch.arange(1, 2049).float() ** 0.7
    X, bias = torch.empty(rows, d), 0.3 * torch.randn(d, generator=generator)
    for start in range(0, rows, 4096):
        n = min(4096, rows - start)
        which = torch.multinomial(chance.expand(n, -1), 24, generator=generator)
        size = 0.5 + 1.5 * torch.rand(n, 24, generator=generator)
        X[start : start + n] = torch.nn.functional.embedding_bag(
            which, directions, per_sample_weights=size, mode="sum"
        )
        X[start : start + n] += bias + 0.05 * torch.randn(n, d, generator=generator)
    return X


def interp_step(X, n_latents, k, dead, backend):
    """Seconds a step, the FVU of the last batches, and seconds a kind of operator."""
    import saes
    from saes import primitives, trainee

    spent = {}

    def timed(name):
        inner = getattr(primitives, name)

        def run(*given):
            began = time.perf_counter()
            out = inner(*given)
            spent[name] = spent.get(name, 0.0) + time.perf_counter() - began
            return out

        return run

    names = ("encode_topk", "order", "segment_sums", "slot_products")
    before = {name: getattr(primitives, name) for name in names}
    for name in names:
        setattr(primitives, name, timed(name))
    optimizer = trainee.OPTIMIZERS["adam"]
    step = optimizer.step

    def update(self):
        began = time.perf_counter()
        step(self)
        spent["optimizer"] = spent.get("optimizer", 0.0) + time.perf_counter() - began

    optimizer.step = update
    marks = []

    def progress(done, steps, words):
        marks.append(time.perf_counter())
        if done == WARM:
            spent.clear()

    config = saes.TopKConfig(n_latents=n_latents, k=k, auxk=1 / 32 if dead else 0.0)
    options: dict = {"warmup": 0, "decay": "constant"}  # as the dense step
    learn = trainee.Trainee.step

    def all_dead(self, *given, **named):
        self.dead = torch.arange(int(dead * n_latents))
        learn(self, *given, **named)

    trainee.Trainee.step = all_dead if dead else learn
    try:
        sae = saes.train(
            X, config, steps=WARM + STEPS, batch_size=BATCH, lr=3e-4, backend=backend,
            log_every=WARM + STEPS, progress=progress, **options,
        )  # fmt: skip
    finally:
        trainee.Trainee.step = learn
        optimizer.step = step
        for name, inner in before.items():
            setattr(primitives, name, inner)
    seconds = [b - a for a, b in zip(marks[WARM - 1 : -1], marks[WARM:], strict=True)]
    return seconds, fvu(sae, X[:BATCH]), {k: v / STEPS for k, v in spent.items()}


def fvu(sae, x):
    with torch.no_grad():
        error = (sae(x).output - x).square().sum()
    return float(error / (x - x.mean(0)).square().sum())


def dense_step(X, n_latents, k, dead, backend):
    """A plain step: dense latents, autograd, fused Adam; AuxK as a second dense pass."""
    import saes
    from saes.optimizer import EPS
    from saes.rows import Batches, read_rows, seeded

    config = saes.TopKConfig(n_latents=n_latents, k=k)
    sae = saes.SAE.from_config(config, X.shape[1], generator=seeded(0, "weights"))
    scale = X.shape[1] ** 0.5 / X.norm(dim=1).mean()
    with torch.no_grad():
        sae.b_dec.copy_(X.mean(0) * scale)
    optimizer = torch.optim.Adam(sae.parameters(), lr=3e-4, eps=EPS, fused=True)
    silent = torch.zeros(n_latents, dtype=torch.int64)
    batches, seconds = Batches(read_rows(X), BATCH, 0, torch.device("cpu")), []
    for step in range(WARM + STEPS):
        began = time.perf_counter()
        x = batches[step][0].x * scale
        pre = torch.nn.functional.linear(x - sae.b_dec, sae.encoder, sae.b_enc)
        values, indices = pre.topk(k, dim=1, sorted=False)
        z = torch.zeros_like(pre).scatter(1, indices, values.relu())
        output = z @ sae.decoder + sae.b_dec
        loss = (output - x).square().sum(1).mean()
        if dead:
            best = pre.topk(X.shape[1] // 2, dim=1, sorted=False)
            aux = torch.zeros_like(pre).scatter(1, best.indices, best.values.relu())
            residual = (x - output).detach()
            loss = loss + (aux @ sae.decoder - residual).square().sum(1).mean() / 32
        loss.backward()
        with torch.no_grad():
            fired = torch.zeros(n_latents, dtype=torch.bool)
            fired[indices.flatten()] = True
            silent = torch.where(fired, 0, silent + BATCH)
        sae.project_decoder_gradient()
        torch.nn.utils.clip_grad_norm_(sae.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        sae.normalize_decoder()
        seconds.append(time.perf_counter() - began)
    with torch.no_grad():
        sae.b_dec /= scale
        sae.encoder *= scale
        sae.decoder /= scale
    return seconds[WARM:], fvu(sae, X[:BATCH]), {}


def floor_step(X, n_latents, k, dead, backend):
    """The encoder's product into a matrix that is there, and Adam: what no dense step is below."""
    encoder, decoder = (torch.nn.Parameter(torch.randn(n_latents, X.shape[1])) for _ in range(2))
    for p in (encoder, decoder):
        p.grad = torch.randn_like(p)
    optimizer = torch.optim.Adam([encoder, decoder], lr=1e-9, fused=True)
    out, seconds, product = torch.empty(BATCH, n_latents), [], 0.0
    for step in range(WARM + STEPS):
        x = X[step % 16 * BATCH :][:BATCH]
        began = time.perf_counter()
        torch.mm(x, encoder.detach().T, out=out)
        between = time.perf_counter()
        optimizer.step()
        seconds.append(time.perf_counter() - began)
        product += between - began if step >= WARM else 0.0
    return seconds[WARM:], None, {"product": product / STEPS}


CONTENDERS = {
    "interp": (interp_step, "auto"),
    "eager": (interp_step, "eager"),
    "numba": (interp_step, "numba"),
    "dense": (dense_step, ""),
    "floor": (floor_step, ""),
}


def one(args):
    """Run one contender here and print a line of JSON."""
    torch.set_num_threads(args.threads)
    work, backend = CONTENDERS[args.one]
    X = activations()
    seconds, found, spent = work(X, args.n, args.k, args.dead, backend)
    middle = sorted(seconds)[len(seconds) // 2]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"ms_step": 1e3 * middle, "peak_mb": peak, "fvu": found, "spent": spent}))


def run(name, n_latents, args):
    """One contender, or another library, in a process of its own; its line of JSON."""
    threads = str(args.threads)
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    environment = {**os.environ, **dict.fromkeys(names, threads)}
    if name in CONTENDERS:
        command = [
            sys.executable, __file__, "--one", name, "--n", str(n_latents), "--threads", threads
        ]  # fmt: skip
        command += ["--dead", str(args.dead)]
        folder = None
    else:
        place, script, mode = PEERS[name]
        folder = Path(args.peers)
        environment |= {"BENCH_NLAT": str(n_latents), "BENCH_WORK": str(folder / "envs")}
        environment |= {"BENCH_DEAD": "1"} if args.dead else {}
        python = str(folder / "envs" / place / "bin" / "python")
        command = [python, "-W", "ignore", script, *([mode] if mode else [])]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        print(f"{name} failed: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return None
    return json.loads(lines[-1])


def table(n_latents, args):
    """Every contender in turn, for some rounds."""
    names = list(CONTENDERS) + [
        name
        for name, (place, *_) in PEERS.items()
        if args.peers and (Path(args.peers) / "envs" / place).is_dir()
    ]
    found = {name: [] for name in names}
    for _ in range(args.rounds):
        for name in names:
            line = run(name, n_latents, args)
            if line is not None:
                found[name].append(line)
    steps = {k: sorted(line["ms_step"] for line in v) for k, v in found.items() if v}
    middle = {k: v[len(v) // 2] for k, v in steps.items()}
    print(f"\n{n_latents:,} latents, d={D}, k={K}, batch {BATCH:,}, {args.threads} threads"
          f"{f', AuxK on {args.dead:.0%} of them' if args.dead else ''}")  # fmt: skip
    print(f"{'':20s} {'ms a step':>20s} {'rows/s':>9s} {'x floor':>8s} {'peak MB':>8s}    FVU")
    for name, each in steps.items():
        last = found[name][-1]
        error = "" if last.get("fvu") is None else f"{last['fvu']:.4f}"
        spread = f"{middle[name]:.0f} [{each[0]:.0f}-{each[-1]:.0f}]"
        print(
            f"{name:20s} {spread:>20s} {1e3 * BATCH / middle[name]:9,.0f} "
            f"{middle[name] / middle['floor']:8.2f} {last['peak_mb']:8,.0f}  {error}",
            flush=True,
        )
    spent = found["interp"][-1]["spent"]
    product = 1e3 * found["floor"][-1]["spent"]["product"]
    print(f"\nwhere interp's step goes (ms); the float product alone would take {product:.0f}")
    parts = {
        "encode: products and top-k": spent["encode_topk"],
        "sort of the slots": spent["order"],
        "decode, gradients of both matrices and of biases": spent["segment_sums"],
        "gradients of the latents": spent["slot_products"],
        "optimiser: clip, project, Adam, norms": spent["optimizer"],
    }
    rest = middle["interp"] / 1e3 - sum(parts.values())
    for what, seconds in {**parts, "reading, scaling, loss, bookkeeping": rest}.items():
        print(f"  {what:50s} {1e3 * seconds:7.1f}")


def scaling(path, args):
    """Microseconds a row against latents, k, width and threads, with the floor drawn in."""
    from plotly.subplots import make_subplots

    base = {"latents": 4096, "k": 32, "width": 384, "threads": args.threads}
    most = os.cpu_count() or 1
    grid = {
        "latents": [1024, 2048, 4096, 8192, 16384],
        "k": [8, 16, 32, 64, 128],
        "width": [128, 256, 384, 768, 1536],
        "threads": sorted({1, 2, most // 2 or 1, most}),
    }
    fig = make_subplots(rows=1, cols=4, shared_yaxes=True, subplot_titles=list(grid))
    colours = {"interp": "#1f77b4", "floor": "#888888"}
    for column, (what, values) in enumerate(grid.items(), start=1):
        for name in ("interp", "floor"):
            times = []
            for value in values:
                case = {**base, what: value}
                torch.set_num_threads(case["threads"])
                work, backend = CONTENDERS[name]
                X = activations(2 * BATCH * 8, case["width"])
                seconds, *_ = work(X, case["latents"], case["k"], False, backend)
                times.append(1e6 * sorted(seconds)[len(seconds) // 2] / BATCH)
                print(f"{what}={value} {name}: {times[-1]:.2f} us a row", flush=True)
            fig.add_scatter(
                x=values, y=times, name=name, mode="lines+markers", row=1, col=column,
                line={"color": colours[name], "dash": "dash" if name == "floor" else "solid"},
                showlegend=column == 1,
            )  # fmt: skip
        fig.update_xaxes(type="log", tickvals=values, row=1, col=column)
    fig.update_yaxes(type="log")
    fig.update_yaxes(title_text="microseconds a row", row=1, col=1)
    fig.update_layout(title="A training step's time; floor: the float product and Adam", width=1100)
    fig.write_html(path, include_plotlyjs=True)
    print(f"figure: {path}")


def main():
    parser = argparse.ArgumentParser(description="a training step of a TopK SAE, timed")
    parser.add_argument("--latents", default="3072,12288", help="a comma list")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--dead", type=float, default=0.0, help="share of latents AuxK is to revive"
    )
    parser.add_argument("--peers", help="folder with other libraries' environments and scripts")
    parser.add_argument("--scaling", help="write a figure of the scaling here, and nothing else")
    parser.add_argument("--one", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--n", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--k", type=int, default=K, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        one(args)
    elif args.scaling:
        scaling(args.scaling, args)
    else:
        for n_latents in map(int, args.latents.split(",")):
            table(n_latents, args)


if __name__ == "__main__":
    main()
