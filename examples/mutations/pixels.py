"""Folders of images, pairs and files of tensors, spoilt; judged by pixels read otherwise."""

from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from mutations.bench import Bench
from mutations.headers import Sound, spoil_file
from mutations.junk import spoil
from mutations.trial import Case


def tensors(bench: Bench, folder: Path, random: Random) -> Case:
    """A safetensors file of inputs and labels for a small network."""
    file = folder / "data.safetensors"
    held: dict[str, Any] = load_file(bench.digits)
    x = held["x"]
    n = len(x)
    ways: dict[str, Any] = {
        "spoilt": lambda: held,
        "nan": lambda: {**held, "x": x.clone().index_fill_(0, torch.tensor([3]), float("nan"))},
        "inf": lambda: {**held, "x": x.clone().index_fill_(0, torch.tensor([3]), float("inf"))},
        "whole numbers": lambda: {**held, "x": (x * 255).to(torch.uint8)},
        "halves": lambda: {**held, "x": x.half()},
        "doubles": lambda: {**held, "x": x.double()},
        "no rows": lambda: {"x": x[:0], "label": held["label"][:0]},
        "one row": lambda: {"x": x[:1], "label": held["label"][:1]},
        "fewer labels": lambda: {**held, "label": held["label"][:5]},
        "two inputs": lambda: {**held, "y": x.clone()},
        "no inputs": lambda: {"label": held["label"]},
        "a vector": lambda: {"x": torch.rand(n)},
        "another shape": lambda: {"x": torch.rand(n, 3, 5)},
        "empty images": lambda: {"x": x[:, :, :0].contiguous()},
        "labels of floats": lambda: {**held, "label": held["label"].float()},
        "bools": lambda: {**held, "label": held["label"].bool()},
        "odd names": lambda: {"../x": x, "[red]": held["label"]},
        "complex": lambda: {"x": x.to(torch.complex64)},
    }
    way = "spoilt" if isinstance(random, Sound) else random.choice(["spoilt"] * 8 + list(ways))
    save_file(ways[way](), file)
    if way == "spoilt":
        way = spoil_file(file, random)
    out = folder / "acts"
    line = ["capture", "demo:digits", str(file), "-p", "conv1", "--pool", "mean", "--out", str(out)]

    def judge(done: Any) -> str | None:
        import interp
        from interp.store import ActivationStore

        store = ActivationStore.open(out)
        found = load_file(file)
        (inputs,) = [v for v in found.values() if v.ndim > 1 or v.is_floating_point()]
        first = interp.load("demo:digits").module.get_submodule("conv1")
        with torch.inference_mode():
            want = first(inputs.float()).flatten(2).mean(2)
        same = torch.allclose(store["conv1"][:], want, atol=1e-4)
        return None if same else "the activations are not those of the file's tensor"

    return Case(way, line, judge=judge, keep=[out])


def images(bench: Bench, folder: Path, random: Random) -> Case:
    """A folder of pairs of images and texts of which a file, or the table, is spoilt."""
    place = bench.copy(bench.captions.parent, folder / "pairs")
    table = place / "captions.csv"
    files = sorted(place.glob("*.png"), key=lambda p: int(p.stem))
    file = random.choice(files[:8])
    table.write_text("\n".join(table.read_text().split("\n")[:9]) + "\n")
    way = random.choice(["bytes", "bytes", "gone", "text", "folder", "link", "outside", "bomb",
                         "svg",
                         "big", "grey", "clear", "table", "empty"])  # fmt: skip
    way = "bytes" if isinstance(random, Sound) else way
    if way in ("big", "grey", "clear", "bomb"):
        from PIL import Image

        size, mode = {"big": ((3000, 2), "RGB"), "grey": ((8, 8), "L"), "clear": ((8, 8), "RGBA"),
                      "bomb": ((20_000, 10_000), "1")}[way]  # fmt: skip
        Image.new(mode, size).save(file)
    elif way == "table":
        way, data = spoil(table.read_bytes(), random)
        table.write_bytes(data)
    elif way == "outside":
        table.write_text(table.read_text().replace(file.name, "../../things.png"))
    elif way == "bytes":
        way, data = spoil(file.read_bytes(), random)
        file.write_bytes(data)
    else:
        file.unlink()
        if way == "folder":
            file.mkdir()
        elif way == "link":
            file.symlink_to(file)
        elif way != "gone":
            file.write_text({"text": "no image", "svg": "<svg onload='x()'/>", "empty": ""}[way])
    out = folder / "acts"
    line = ["capture", "demo:digits-clip", str(table), "--pairs", "--out", str(out)]

    def judge(done: Any) -> str | None:
        return _pixels(table, out)

    return Case(f"{file.name}: {way}", line, judge=judge, keep=[out])


def _pixels(table: Path, out: Path) -> str | None:
    """A pair is a row, its image's vector that of transformers."""
    import csv

    from PIL import Image

    import interp
    from interp.store import ActivationStore

    store = ActivationStore.open(out)
    with open(table, newline="", encoding="utf-8-sig") as opened:
        rows = list(csv.DictReader(opened))
    if store.n != len(rows):
        return f"{store.n} rows of {len(rows)}"
    model = interp.load("demo:digits-clip")
    column = next(c for c in rows[0] if rows[0][c].endswith(".png"))
    for i, row in enumerate(rows):
        image = Image.open(table.parent / row[column]).convert("RGB")
        pixels = model.processor(images=[image], return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            want = model.module.get_image_features(pixel_values=pixels)
        want = want if torch.is_tensor(want) else want.pooler_output
        got = store[store.hookpoints[0]][i]
        if got.shape == want[0].shape and not torch.allclose(got, want[0], atol=1e-4):
            return f"row {i} is not what the model holds for {row[column]}"
    return None
