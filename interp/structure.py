"""The structure of a transformer, read off its modules: stacks of blocks and each block's roles.

Nothing here knows a model by name. A stack is a list of blocks that hold attention; within a block
the output projection is the attention's last linear layer, and the MLP is made of the others.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from torch import Tensor, nn

__all__ = ["ROLES", "UNLAYERED", "HookPoint", "Stack", "find_stacks", "linear_shape"]

ROLES = (
    "embed",
    "resid_pre",
    "attn_out",
    "head_out",
    "mlp_in",
    "mlp_act",
    "mlp_out",
    "resid_post",
    "final_norm",
)
UNLAYERED = ("embed", "final_norm")
ATTENTION = re.compile(r"attention|attn", re.IGNORECASE)
CROSS = re.compile(r"cross|encdec|enc_dec", re.IGNORECASE)
NORM = re.compile(r"norm|^ln_?f?$", re.IGNORECASE)
MLP = re.compile(r"mlp|ffn?$|feed_?forward|fc\d|intermediate|output|dense|lin\d", re.IGNORECASE)
EXPERTS = re.compile(r"moe|expert|router", re.IGNORECASE)


@dataclass(frozen=True)
class HookPoint:
    """A place in a model.

    Attributes
    ----------
    name : how results call it: the role (``resid_post.3``) where it was asked by role, else the
        module's name, with ``:in`` for the input side.
    module : the module's name in ``named_modules()``.
    side : ``"out"`` or ``"in"``: which of the module's tensors.
    stack : the stack of blocks it belongs to, such as ``"encoder"``; empty where there is one.
    layer : index of the block, or None.
    d_head : width of a head where the tensor is split into heads, else None.
    axis : which axis of a 3-d or 4-d tensor holds the units: ``"first"`` after the rows (1-d
        convolutions), ``"last"`` (linear layers and layer norms), or empty for the common case:
        the last of [n, t, d], the first of a feature map [n, c, h, w].
    """

    name: str
    module: str
    side: Literal["in", "out"] = "out"
    stack: str = ""
    layer: int | None = None
    d_head: int | None = field(default=None, compare=False)
    axis: Literal["", "first", "last"] = field(default="", compare=False)

    @property
    def place(self) -> str:
        """The module's name with its side."""
        return self.module + (":in" if self.side == "in" else "")


@dataclass(frozen=True)
class Stack:
    """A run of blocks: where each role of each block lies."""

    name: str
    path: str
    blocks: tuple[dict[str, HookPoint], ...]
    final_norm: HookPoint | None
    d_model: int | None

    def role(self, role: str, layer: int | None) -> HookPoint | None:
        """Where a role lies in a layer, or None where this stack lacks it."""
        if role == "embed":
            point = self.blocks[0].get("resid_pre")
            return None if point is None else replace(point, name=self.prefix + "embed", layer=None)
        if role == "final_norm":
            return self.final_norm
        assert layer is not None  # noqa: S101  the parser gives layered roles a layer
        return self.blocks[layer].get(role)

    @property
    def prefix(self) -> str:
        """What a role of this stack is prefixed with."""
        return f"{self.name}." if self.name else ""


def find_stacks(module: nn.Module) -> list[Stack]:
    """The stacks of attention blocks in a model, outermost first, with each block's roles.

    A stack is a list of modules most of which hold attention; it is found by structure, not by the
    model's name. Lists inside a stack are parts of its blocks.
    """
    lists: list[tuple[str, nn.Module]] = []
    for name, child in module.named_modules():
        if not isinstance(child, nn.ModuleList | nn.Sequential) or len(child) == 0:
            continue
        if any(name.startswith(outer + ".") for outer, _ in lists):
            continue
        with_attention = sum(bool(_attention(block)) for block in child)
        layers = getattr(getattr(module, "config", None), "num_hidden_layers", None)
        if with_attention == len(child) or (with_attention and len(child) == layers):
            lists.append((name, child))
        elif layers is not None and len(child) == layers and not with_attention:
            if isinstance(child, nn.ModuleList):
                lists.append((name, child))
    names = _stack_names([name for name, _ in lists])
    return [
        _stack(module, name, path, blocks)
        for name, (path, blocks) in zip(names, lists, strict=True)
    ]


def _stack(root: nn.Module, name: str, path: str, blocks: nn.Module) -> Stack:
    prefix = f"{name}." if name else ""
    found = []
    width = None
    for i, (key, block) in enumerate(blocks.named_children()):
        roles, d_model = _block_roles(block)
        width = width or d_model
        base = f"{path}.{key}" if path else key
        found.append(
            {
                role: HookPoint(
                    f"{prefix}{role}.{i}",
                    f"{base}.{inner}" if inner else base,
                    side,
                    name,
                    i,
                    d_head,
                )
                for role, (inner, side, d_head) in roles.items()
            }
        )
    final = _final_norm(root, path)
    point = None if final is None else HookPoint(f"{prefix}final_norm", final, stack=name)
    return Stack(name, path, tuple(found), point, width)


Place = tuple[str, Literal["in", "out"], int | None]


def _block_roles(block: nn.Module) -> tuple[dict[str, Place], int | None]:
    """Role -> (module within the block, side, d_head), and d_model if it can be told.

    The output projection is the attention's last linear layer; the MLP's linear layers are the
    others of the block: the first reads the stream, the last one that gives d_model writes to it.
    """
    roles: dict[str, Place] = {"resid_pre": ("", "in", None), "resid_post": ("", "out", None)}
    attentions = _attention(block)
    selfs = [a for a in attentions if not CROSS.search(f"{a} {_class(block, a)}")]
    d_model = None
    if selfs:
        inside = [(n, s) for n, s in _linears(block) if _under(n, selfs[0])]
        if inside:
            out, (d_in, d_model) = inside[-1]
            roles["attn_out"] = (out, "out", None)
            roles["head_out"] = (out, "in", _d_head(block, selfs[0], d_in))
    if not attentions:
        return roles, d_model  # a block of another kind, as a state-space mixer: the stream alone
    rest = [(n, s) for n, s in _linears(block) if not any(_under(n, a) for a in attentions)]
    named = [(n, s) for n, s in rest if any(MLP.search(part) for part in n.split("."))]
    rest = named or rest
    experts = [n for n, m in block.named_modules() if n and EXPERTS.search(type(m).__name__)]
    top = experts[0].split(".")[0] if experts else None
    if top is not None:
        roles["mlp_in"], roles["mlp_out"] = (top, "in", None), (top, "out", None)
    elif rest:
        writers = [(n, s) for n, s in rest if d_model is None or s[1] == d_model]
        readers = [(n, s) for n, s in rest if d_model is None or s[0] == d_model]
        if writers and readers and writers[-1][0] != readers[0][0]:
            down, first = writers[-1][0], readers[0][0]
            roles["mlp_in"] = (first, "in", None)
            roles["mlp_act"] = (down, "in", None)
            roles["mlp_out"] = (down, "out", None)
    return roles, d_model


def _attention(block: nn.Module) -> list[str]:
    """Names of the outermost attention modules inside a block."""
    found: list[str] = []
    for name, module in block.named_modules():
        inside = any(_under(name, outer) for outer in found)
        if name and not inside and ATTENTION.search(type(module).__name__):
            found.append(name)
    return found


def _linears(block: nn.Module) -> list[tuple[str, tuple[int, int]]]:
    shapes = [(n, linear_shape(m)) for n, m in block.named_modules() if n]
    return [(n, s) for n, s in shapes if s is not None]


def linear_shape(module: nn.Module) -> tuple[int, int] | None:
    """(width in, width out) of a linear layer of any make, else None."""
    d_in, d_out = getattr(module, "in_features", None), getattr(module, "out_features", None)
    if isinstance(d_in, int) and isinstance(d_out, int):
        return d_in, d_out
    weight = getattr(module, "weight", None)
    if type(module).__name__ == "Conv1D" and isinstance(weight, Tensor) and weight.ndim == 2:
        return weight.shape[0], weight.shape[1]  # GPT-2's layer keeps its weight as [in, out]
    return None


def _d_head(block: nn.Module, attention: str, width: int) -> int | None:
    """Width of one head: told by the attention module, one of its parts, or its config."""
    module = block.get_submodule(attention)
    for part in module.modules():
        if isinstance(d := getattr(part, "head_dim", None), int) and d and width % d == 0:
            return d
        for key in ("num_heads", "n_heads", "num_attention_heads", "n_head"):
            heads = getattr(part, key, None)
            if isinstance(heads, int) and heads and width % heads == 0:
                return width // heads
    for part in (*module.modules(), *block.modules()):
        heads = getattr(getattr(part, "config", None), "num_attention_heads", None)
        if isinstance(heads, int) and heads and width % heads == 0:
            return width // heads
    return None


def _final_norm(root: nn.Module, path: str) -> str | None:
    """The norm that follows a stack: beside it, or beside one of its parents."""
    parts = path.split(".")
    for depth in range(len(parts) - 1, -1, -1):
        parent_name = ".".join(parts[:depth])
        parent = root.get_submodule(parent_name)
        before, seen = [], False
        for name, child in parent.named_children():
            if name == parts[depth]:
                seen = True
            elif NORM.search(type(child).__name__):
                full = f"{parent_name}.{name}" if parent_name else name
                if seen:
                    return full
                if re.search(r"final|post", name):
                    before.append(full)
        if before:
            return before[-1]
        if hasattr(parent, "embeddings") or isinstance(
            getattr(parent, "embed_tokens", None), nn.Module
        ):
            return None  # the level that embeds also norms; above it are heads
    return None


def _stack_names(paths: Sequence[str]) -> list[str]:
    """Short names for several stacks, from the words of their paths; empty for a single one."""
    if len(paths) == 1:
        return [""]
    names = []
    for path in paths:
        word = next(
            (w for p, w in _STACK_WORDS if re.search(p, path)),
            path.split(".")[0],
        )
        names.append(word)
    if len(set(names)) < len(names):
        names = [path.replace(".", "_") for path in paths]
    return names


_STACK_WORDS = (
    (r"text|language", "text"),
    (r"vision|visual|image", "vision"),
    (r"decoder", "decoder"),
    (r"encoder", "encoder"),
)


def _class(block: nn.Module, name: str) -> str:
    return type(block.get_submodule(name)).__name__


def _under(name: str, outer: str) -> bool:
    return name == outer or name.startswith(outer + ".")
