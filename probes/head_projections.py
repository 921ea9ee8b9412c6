"""The subspaces that a model's attention reads: the value or key projections of its heads."""

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from interp.errors import ParameterError
from interp.structure import HookPoint, linear_shape

__all__ = ["Which", "head_projections"]

Which = Literal["value", "key"]
NAMES = {
    "value": ("v_proj", "value", "v_lin", "to_v", "v"),
    "key": ("k_proj", "key", "k_lin", "to_k", "k"),
}
FUSED = ("c_attn", "qkv")
"""Layers that hold queries, keys and values one after the other."""
THIRD = {"key": 1, "value": 2}


def head_projections(model: Any, which: Which = "value") -> dict[str, Tensor]:
    """Hook point -> projections [heads, d, d_head] of the block that reads it.

    A surrogate of CRATE's subspaces, for models that were not built with them. Hook points are
    those between blocks: ``embed``, ``resid_pre.i`` and ``resid_post.i``; nothing reads the last.
    What a norm before the attention does to its input is left out, and so is the bias.

    Parameters
    ----------
    model : a loaded model.
    which : ``"value"`` or ``"key"``. Where heads share them there are as many as are kept apart.

    Degenerate: empty where the model has no attention, or keeps its projections in a layout that is
    not known, such as heads with queries, keys and values each (GPT-NeoX).
    """
    if which not in get_args(Which):
        raise ParameterError(f"which must be value or key; got {which!r}.")
    found: dict[str, Tensor] = {}
    for stack in model.points.stacks:
        prefix = f"{stack.name}." if stack.name else ""
        for i, block in enumerate(stack.blocks):
            U = _heads(model.module, block["resid_post"], block.get("head_out"), which)
            if U is not None:
                before = f"{prefix}resid_post.{i - 1}" if i else f"{prefix}embed"
                found |= {f"{prefix}resid_pre.{i}": U, before: U}
    return found


def _heads(
    root: nn.Module, block: HookPoint, head_out: HookPoint | None, which: Which
) -> Tensor | None:
    """The projections of one block: beside its output projection, or beside one of its parents."""
    if head_out is None or not head_out.d_head:
        return None
    path = head_out.module
    while len(path := path.rpartition(".")[0]) > len(block.module):
        W = _weight(root.get_submodule(path), which)
        if W is not None:
            if W.shape[1] % head_out.d_head:
                return None
            return W.detach().unflatten(1, (-1, head_out.d_head)).transpose(0, 1)
    return None


def _weight(attention: nn.Module, which: Which) -> Tensor | None:
    """[d, heads * d_head]"""
    whole = getattr(attention, "in_proj_weight", None)
    if isinstance(whole, Tensor):
        return whole.T.chunk(3, 1)[THIRD[which]]
    for name, module in attention.named_modules():
        shape, last = linear_shape(module), name.rpartition(".")[2]
        if shape is None or not torch.is_floating_point(weight := getattr(module, "weight")):  # noqa: B009
            continue
        W = weight if type(module).__name__ == "Conv1D" else weight.T
        if last in NAMES[which]:
            return W
        if last in FUSED and shape[1] == 3 * shape[0]:
            return W.chunk(3, 1)[THIRD[which]]
    return None
