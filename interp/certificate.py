"""The batch-invariance certificate: is an activation the same alone and in a padded batch?"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from interp.errors import ModelError
from interp.hookpoints import HookPoint
from interp.hooks import evaluating, hooked
from interp.models import Model

__all__ = ["TOLERANCE", "certify", "deviation"]

# |alone - batched| <= absolute * rms + relative * |alone|: a few roundings of each dtype through
# dozens of layers, and far below what a pad that is attended to does
TOLERANCE = {
    torch.float64: (1e-9, 1e-9),
    torch.float32: (1e-3, 1e-3),
    torch.float16: (5e-2, 5e-2),
    torch.bfloat16: (0.25, 0.1),
}
TEXTS = (
    "A short one.",
    "The committee that met on Tuesday has not said a word about what it decided.",
    "x",
    "import os\nfor name in os.listdir('.'):\n    print(name)",
)


def deviation(alone: Tensor, batched: Tensor, dtype: torch.dtype) -> float:
    """Largest difference in units of the dtype's tolerance; up to 1 is rounding. NaN stays NaN."""
    absolute, relative = TOLERANCE.get(dtype, TOLERANCE[torch.float32])
    a, b = alone.double(), batched.double()
    a, b = a.flatten(1), b.flatten(1)  # a row is judged by its own size
    rms = a.square().mean(1, keepdim=True).sqrt()
    allowed = absolute * rms + relative * a.abs() + 1e-12
    return float(((a - b).abs() / allowed).max())


def certify(model: Model, texts: Sequence[str] = TEXTS) -> dict[str, Any]:
    """Compare texts alone with the same texts in one batch, padded on either side.

    Left padding is given ``position_ids`` where the forward takes them. Capture pads on the right.

    Returns
    -------
    dict
        ``dtype``, ``deviation`` ({side: {hook point: in units of the tolerance} or None where the
        forward failed}) and ``verdict``, a sentence a side.

    Raises
    ------
    ModelError
        The model reads no text, or has no stack of blocks to look at.
    """
    if model.tokenizer is None or not model.points.stacks:
        raise ModelError(
            f"{model.spec} reads no text or has no blocks, so there is no padding to certify; "
            "capture compares alone and batched by itself."
        )
    stack = model.points.stacks[0]
    points = [p for b in stack.blocks if (p := b.get("resid_post")) is not None]
    ids = model.tokenize(list(texts))
    alone = [_run(model, points, [row], "right")[0] for row in ids]
    sides: dict[str, dict[str, float] | None] = {}
    verdict = []
    for side in ("right", "left"):
        try:
            batched = _run(model, points, ids, side)
        except (RuntimeError, ValueError, TypeError) as error:
            sides[side] = None
            verdict.append(f"{side} padding: the forward fails ({str(error)[:100]}).")
            continue
        worst = {
            p.name: max(
                deviation(a[p.name], b[p.name], model.dtype)
                for a, b in zip(alone, batched, strict=True)
            )
            for p in points
        }
        sides[side] = worst
        bad = [name for name, value in worst.items() if not value <= 1]
        result = "exact within rounding" if not bad else f"differs from {bad[0]} on"
        used = "; capture pads on this side" if side == "right" else ""
        verdict.append(f"{side} padding: {result}{used}.")
    dtype = str(model.dtype).removeprefix("torch.")
    return {"dtype": dtype, "deviation": sides, "verdict": verdict}


def _run(
    model: Model, points: list[HookPoint], ids: Sequence[Sequence[int]], side: str
) -> list[dict[str, Tensor]]:
    """What the points hold at each row's real positions."""
    padded = model.pad(ids, side)
    mask = padded["attention_mask"].bool()
    if side == "left" and model.takes("position_ids"):
        padded["position_ids"] = (padded["attention_mask"].cumsum(1) - 1).clamp(min=0)
    held: dict[str, Tensor] = {}

    def keep(point: HookPoint, x: Tensor) -> None:
        held[point.name] = x

    module: Any = model.module
    if getattr(model.config, "is_encoder_decoder", False):
        module = module.get_encoder()
    elif hasattr(module, "text_model"):
        module = module.text_model
    if module is model.module:
        padded = model.text_inputs(padded)
    with evaluating(model.module), torch.inference_mode(), hooked(model.module, points, keep):
        module(**padded)
    return [{k: v[i][mask[i].to(v.device)] for k, v in held.items()} for i in range(len(ids))]
