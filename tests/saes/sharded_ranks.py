"""What `test_sharded` runs on several ranks: everything once, and its numbers as JSON.

Each function compares an SAE that a rank holds whole with the same one spread over all ranks.
"""

import json
import shutil
import sys
from pathlib import Path
from unittest.mock import patch

import torch

sys.path.insert(0, str(Path(__file__).parent))
from conftest import SMALL, make_batch, make_sae

import saes
from interp.distributed import world
from interp.errors import InterpError, StoreError
from saes.optimizer import OPTIMIZERS
from saes.primitives import topk
from saes.sharded import KINDS, ShardedSAE
from saes.shards import Shards, local, shard_mesh

torch.set_num_threads(1)
DEAD = torch.tensor([1, 2, 5, 13, 20, 22])


def two(name, mesh, dtype=torch.float32, **fields):
    """The same SAE twice, whole and spread."""
    whole, other = (make_sae(name, **fields).to(dtype) for _ in range(2))
    return whole, ShardedSAE.of(other, mesh)


def worst(a, b):
    return float((a - b).detach().abs().max())


def apart(a, b):
    """The greatest difference, over the greatest number where that is above 1."""
    return worst(a, b) / max(1.0, float(a.detach().abs().max()))


def compare(whole, part, rows=40):
    """Differences of loss, gradients, codes and output; whether codes are the same."""
    x = make_batch(whole, rows)
    y = make_batch(whole, rows, out=True, seed=3) if whole.transcodes else None
    a, b = (sae.loss(x, y, dead=DEAD) for sae in (whole, part))
    for found in (a, b):
        found.total.backward()
    gradients = {
        n: apart(p.grad, q.grad.full_tensor())
        for (n, p), (_, q) in zip(whole.named_parameters(), part.named_parameters(), strict=True)
    }
    whole.eval(), part.eval()
    return judge(whole, part, x, a, b, gradients)


@torch.no_grad()
def judge(whole, part, x, a, b, gradients):
    codes, others = whole.encode_sparse(x), part.encode_sparse(x)
    active = codes.values > 0
    same = codes.values.shape == others.values.shape and torch.equal(active, others.values > 0)
    return {
        "loss": worst(a.total, b.total) / a.total.item(),
        "parts": max(worst(a.parts[k], b.parts[k]) for k in a.parts) / a.total.item(),
        "gradients": max(gradients.values()),
        "b_dec": gradients["b_dec"],
        "active": a.active.equal(b.active),
        "indices": bool(same and codes.indices[active].equal(others.indices[active])),
        "values": apart(codes.values, others.values) if same else None,
        "dense": apart(whole.encode(x), part.encode(x)),
        "output": apart(whole(x).output, part(x).output),
        "decoded": apart(whole.decode(codes), part.decode(codes)),
        "decoded_dense": apart(whole.decode(whole.encode(x)), part.decode(whole.encode(x))),
    }


def kinds(mesh):
    return {
        f"{name} {dtype}".replace("torch.", ""): compare(*two(name, mesh, dtype))
        for name in KINDS
        for dtype in (torch.float32, torch.float64)
    }


def shapes(mesh):
    """Latents that the ranks do not divide, and more active ones than a shard has."""
    return {
        "uneven": compare(*two("topk", mesh, n_latents=23)),
        "uneven_batch": compare(*two("batch_topk", mesh, n_latents=23)),
        "uneven_relu": compare(*two("relu", mesh, n_latents=23)),
        "many": compare(*two("topk", mesh, k=20)),
        "many_batch": compare(*two("batch_topk", mesh, k=20)),
        "every": compare(*two("topk", mesh, k=24)),
        "numba": compare(*numba(two("topk", mesh))),
        "numba_batch": compare(*numba(two("batch_topk", mesh))),
    }


def views(mesh):
    """The whole matrices, and an evaluation that reads them."""
    found = {}
    for name in ("topk", "crosscoder"):
        whole, part = two(name, mesh, n_latents=23)
        found[name] = part.W_enc.equal(whole.W_enc) and part.W_dec.equal(whole.W_dec)
        x = make_batch(whole, 60)
        a, b = (saes.evaluate(sae, x).metrics() for sae in (whole, part))
        found[f"{name} fvu"] = abs(a.pop("fvu") - b.pop("fvu")) / (a["mse"] + 1)
        found[f"{name} counts"] = all(
            a[k] == b[k] for k in ("l0", "dead", "density_counts", "max_cosine, mean")
        )
    try:
        saes.features(two("topk", mesh)[1], None, None, "h")
    except InterpError as error:
        found["features"] = str(error)
    return found


def numba(pair):
    for sae in pair:
        sae.backend = "numba"
    return pair


def ties(mesh):
    """Whole numbers, and each latent again in every other shard: the cut falls between equals."""
    found = {}
    for name in ("topk", "batch_topk"):
        whole = make_sae(name, k=5)
        generator = torch.Generator().manual_seed(5)
        rows = torch.randint(-2, 3, (6, 8), generator=generator).float()
        with torch.no_grad():
            whole.encoder.copy_(rows.repeat(4, 1))
            whole.decoder.copy_(torch.randn(24, 8, generator=generator))
            whole.b_enc.zero_(), whole.b_dec.zero_()
        x = torch.randint(-2, 3, (30, 8), generator=generator).float()
        pre = (x @ whole.encoder.T).sort(descending=True).values
        other = make_sae(name, k=5)
        other.load_state_dict(whole.state_dict())
        part = ShardedSAE.of(other, mesh)
        a, b = whole.loss(x), part.loss(x)
        found[name] = a.active.equal(b.active) and worst(a.output, b.output) < 1e-5
        found[f"{name} tied"] = int(((pre[:, 4] == pre[:, 5]) & (pre[:, 4] > 0)).sum())
        if name == "topk":
            codes, others = whole.encode_sparse(x), part.encode_sparse(x)
            active = codes.values > 0
            found["indices"] = codes.indices[active].equal(others.indices[active])
            with patch("saes.shard_codes.topk", last_of_equals):
                found["without the rule"] = whole.loss(x).active.equal(part.loss(x).active)
    return found


def last_of_equals(pre, k):
    values, indices = topk(pre.flip(1), k)
    return values, pre.shape[1] - 1 - indices


def broken(mesh):
    """What the comparison says where one thing that ranks tell each other is left out."""

    def alone(self, tensor):
        return [tensor * (rank == self.rank) for rank in range(self.size)]

    with patch.object(Shards, "gather", alone):
        gather = compare_codes(*two("topk", mesh))
    with patch.object(Shards, "copied", lambda self, t: t):
        copied = compare(*two("topk", mesh))["b_dec"]
    with patch("saes.optimizer._over_ranks", lambda held, squares: torch.stack(squares).sum()):
        norm = train(mesh, "topk", "eager")
    return {"gather": gather, "copied": copied, "norm": norm["curve"]}


def compare_codes(whole, part):
    x = make_batch(whole, 40)
    return bool(((whole.encode(x) != 0) == (part.encode(x) != 0)).all())


def train(mesh, name, backend, optimizer="adam", steps=20):
    """The curves of twenty steps, and the weights after them."""
    pair = [saes.SAE.from_config(make_sae(name).config, 8, generator=seeded()) for _ in range(2)]
    pair[1] = ShardedSAE.from_config(pair[1].config, 8, mesh=mesh, generator=seeded())
    curves, start = [], make_batch(pair[0], 64)
    for sae in pair:
        sae.backend = backend
        named = dict(sae.named_parameters())
        unit = named["decoder"] if sae.unit_norm else None
        own = OPTIMIZERS[optimizer](named.values(), 0.01, unit=unit, clip=0.5, backend=backend)
        curve = []
        for step in range(steps):
            loss = sae.loss(start.roll(step, 1), dead=DEAD if step % 3 else None)
            own.zero_grad()
            loss.total.backward()
            own.step()
            curve.append(float(loss.total.detach()))
        curves.append(torch.tensor(curve))
    a, b = curves
    weights = [
        worst(p, q.full_tensor())
        for p, q in zip(pair[0].parameters(), pair[1].parameters(), strict=True)
    ]
    return {
        "curve": float(((a - b).abs() / a).max()),
        "fell": float(a[-1] / a[0]),
        "weights": max(weights),
        "moments": sum(
            local(m).numel() * m.element_size() for s in own.state.values() for m in s.values()
        ),
    }


def seeded(seed=7):
    return torch.Generator().manual_seed(seed)


def training(mesh):
    return {
        "topk eager": train(mesh, "topk", "eager"),
        "topk numba": train(mesh, "topk", "numba"),
        "lion": train(mesh, "topk", "eager", "lion"),
        **{n: train(mesh, n, "eager") for n in ("batch_topk", "relu", "jumprelu", "gated")},
    }


def first(mesh):
    """First weights of odd sizes, drawn in blocks; and with large ones."""
    found = {}
    for n, d_in, d_out, drawn in ((23, 8, None, 64), (50, 5, 7, 100), (33, 16, None, 2**22)):
        config = saes.TopKConfig(n_latents=n, k=3)
        whole = saes.SAE.from_config(config, d_in, d_out, generator=seeded())
        with patch("saes.shards.DRAWN", drawn):
            part = ShardedSAE.from_config(config, d_in, d_out, mesh=mesh, generator=seeded())
        whole, part = whole.state_dict(), part.state_dict()
        found[f"{n} {d_in} {d_out}"] = all(part[k].full_tensor().equal(v) for k, v in whole.items())
    return found


def files(mesh, folder):
    found = {}
    for name in KINDS:
        whole, part = two(name, mesh, n_latents=SMALL[name].get("prefixes", (23,))[-1])
        for sae in (whole, part):
            sae.metadata = {"hookpoint": "h"}
        if world().leads:
            whole.save_pretrained(folder / f"{name}-whole")
        part.save_pretrained(folder / name)
        again = ShardedSAE.from_pretrained(folder / name, mesh)
        x = make_batch(whole, 20)
        whole.eval()
        plain = saes.SAE.from_pretrained(folder / name)
        found[name] = {
            "sharded": worst(whole.encode(x), again.encode(x)),
            "plain": plain.encode(x).equal(whole.encode(x)),
            "metadata": again.metadata == whole.metadata and not again.training,
            "class": type(plain).__name__,
        }
    return found


class Stopped(Exception):
    pass


def stop_after(steps):
    def progress(done, total, words):
        if done == steps:
            raise Stopped

    return progress


def leave(folder):
    """A training that was killed in step 13; its last checkpoint is of step 8."""
    try:
        training_of("topk", out=folder, progress=stop_after(13))
    except Stopped:
        return
    raise AssertionError


TRAINED = {
    "topk": {"ema": 0.9, "dead_after": 200, "resample_every": 8},
    "batch_topk": {"k_start": 6, "dead_after": 200},
    "relu": {"optimizer": "lion", "lr": 1e-3},
    "jumprelu": {"backend": "numba"},
}
"""Options of a training of each; each brings another part of the trainer with it."""


def training_of(name, **more):
    """A short training, whose loss two ways must agree on."""
    x = torch.randn(400, 8, generator=seeded(3)) @ torch.randn(8, 8, generator=seeded(4))
    options = {"steps": 24, "batch_size": 64, "log_every": 1, "checkpoint_every": 8}
    return saes.train(x, make_sae(name).config, **{**options, **TRAINED[name], **more})


def trained(folder, shards):
    """Trainings with shards, one of them broken off and resumed."""
    found = {}
    for name in TRAINED:
        own = world().size if name == "batch_topk" else shards
        whole = training_of(name, out=folder / f"run-{name}", shards=own)
        found[name] = type(whole).__name__
    out = folder / "broken"
    try:
        training_of("topk", out=out, shards=shards, progress=stop_after(13))
    except Stopped:
        if world().leads:
            shutil.copytree(out, folder / "other")
        world().wait()
    again = training_of("topk", out=out, shards=shards, resume=True)
    unbroken = ShardedSAE.from_pretrained(folder / "run-topk/sae", again.shards.mesh)
    steps = []
    one = training_of(
        "topk", out=folder / "alone", shards=shards, resume=True,
        progress=lambda done, total, words: steps.append(done),
    )  # fmt: skip
    found["of one"] = (
        steps[0],
        max(worst(local(one.state_dict()[k]), local(v)) for k, v in unbroken.state_dict().items()),
    )
    found["resumed"] = all(
        local(again.state_dict()[k]).equal(local(v)) for k, v in unbroken.state_dict().items()
    )
    try:
        with patch("saes.resuming.write_bytes", disk_full):
            training_of("topk", out=folder / "full", shards=shards)
    except StoreError as error:
        found["full"] = str(error)
    return found


def disk_full(path, data):
    next(iter(data))
    raise StoreError("no space")


def memory(mesh):
    """Bytes of the tensors of a rank, against those of one that holds all."""
    config = saes.TopKConfig(n_latents=4096, k=8)
    part = ShardedSAE.from_config(config, 64, mesh=mesh, generator=seeded())
    own = OPTIMIZERS["adam"](part.parameters(), 1e-3, clip=1.0)
    part.loss(make_batch(part, 64)).total.backward()
    own.step()
    moments = [m for s in own.state.values() for m in s.values()]
    held = [*part.parameters(), *moments]
    return {
        "here": sum(local(t.detach()).untyped_storage().nbytes() for t in held),
        "whole": sum(t.numel() * t.element_size() for t in held),
        "b_dec": 3 * 4 * 64,
        "placements": {k: str(v.placements[0]) for k, v in part.state_dict().items()},
    }


def refused(mesh):
    """What is refused, in which words."""
    x = make_batch(make_sae("topk"), 3).requires_grad_()
    calls = {
        "vl": lambda: ShardedSAE.of(make_sae("vl"), mesh),
        "multi_k": lambda: ShardedSAE.of(make_sae("topk", multi_k=True), mesh),
        "few": lambda: ShardedSAE.from_config(saes.TopKConfig(n_latents=1, k=1), 8, mesh=mesh),
        "gradient": lambda: ShardedSAE.of(make_sae("topk"), mesh).loss(x),
        "mesh": lambda: shard_mesh(3),
        "folder": lambda: ShardedSAE.from_pretrained("no/such", mesh),
        "width": lambda: ShardedSAE.of(make_sae("topk"), mesh).encode(torch.zeros(2, 5)),
        "slots": lambda: ShardedSAE.of(make_sae("topk"), mesh).decode(
            saes.Codes(torch.ones(1, 1), torch.tensor([[24]]))
        ),
    }
    if mesh.size() == 4:
        calls["data"] = lambda: training_of("batch_topk", shards=2)
    found = {}
    for name, call in calls.items():
        try:
            call()
            found[name] = None
        except InterpError as error:
            found[name] = f"{type(error).__name__}: {error}"
    return found


if __name__ == "__main__":
    out = Path(sys.argv[1])
    everyone = shard_mesh()
    result = {
        f.__name__: f(everyone["shards"])
        for f in (kinds, shapes, views, ties, broken, training, first, memory, refused)
    }
    result["trained"] = trained(out, 2)  # so that of four ranks each two share a batch
    result["files"] = files(everyone, out)  # of a mesh the axis of shards is taken
    every = world().gather(result)
    if world().leads:
        (out / "found.json").write_text(json.dumps(every))
    world().stop()
