"""Hook points: names, globs, roles and slices -> places in a model to see or change tensors.

Three spellings reach a place:

- a module's name from ``named_modules()`` or a glob over them: ``transformer.h.*.mlp``; ``*`` stays
  within one dotted segment, ``**`` crosses; ``:in`` or ``:out`` (the default) picks the side;
- a role, the same for every decoder, encoder and ViT: ``resid_post.3``, ``mlp_act.*``,
  ``resid_post.0:12:2``, ``resid_post.-1``; roles are found from the modules' structure;
- TransformerLens names: those that mean the same everywhere (``blocks.3.hook_resid_post``), and on
  a ``tl:`` model every name of its ``hook_dict``.

=============== ======================================================================
role            tensor
=============== ======================================================================
``embed``       [.., d_model]: the residual stream before the first block
``resid_pre``   [.., d_model]: the input of block i
``resid_post``  [.., d_model]: the output of block i (before any final norm)
``attn_out``    [.., d_model]: the attention's output projection, before any norm or addition
``head_out``    [.., heads, d_head]: each head's output, before the output projection
``mlp_in``      [.., d_model]: the input of the MLP, after its norm
``mlp_act``     [.., d_ff]: after the non-linearity; in a gated MLP the product
``mlp_out``     [.., d_model]: the MLP's last projection, before any norm or addition
``final_norm``  [.., d_model]: the output of the norm after the last block
=============== ======================================================================

A dual encoder of images and texts, such as CLIP, has ``image_embeds`` and ``text_embeds`` [n, d]
beside them: what its towers end in, projected, not normalised.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

from torch import Tensor, nn

from interp.errors import LayerNotFound, closest
from interp.structure import ROLES, UNLAYERED, HookPoint, Stack, find_stacks, linear_shape

__all__ = ["ROLES", "HookPoint", "HookPoints"]

CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)
"""Modules that are never called, so that nothing fires there."""
LONGEST = 300
"""Characters of an expression; the names of modules are far shorter."""
EMBEDS = {
    "image_embeds": (("visual_projection", "vision_model.head"), "vision"),
    "text_embeds": (("text_projection", "text_model.head"), "text"),
}
"""What the towers of a dual encoder end in: where it lies (CLIP's, SigLIP's), and its stack."""
TL_NAMES = {
    "hook_resid_pre": "resid_pre",
    "hook_resid_post": "resid_post",
    "attn.hook_z": "head_out",
    "mlp.hook_post": "mlp_act",
}
TL_ROLES = {
    "resid_pre": "blocks.{i}.hook_in",
    "attn_out": "blocks.{i}.attn.o.hook_out",
    "head_out": "blocks.{i}.attn.o.hook_in",
    "mlp_in": "blocks.{i}.mlp.hook_in",
    "mlp_act": "blocks.{i}.mlp.out.hook_in",
    "mlp_out": "blocks.{i}.mlp.hook_out",
    "resid_post": "blocks.{i}.hook_out",
}
ROLE = re.compile(rf"(?:(?P<stack>\w+)\.)?(?P<role>{'|'.join(ROLES)})(?:\.(?P<index>[-\d:*]+))?")
TL_NAME = re.compile(rf"blocks\.(?P<index>[-\d:*]+)\.(?P<tail>{'|'.join(TL_NAMES)})")


class HookPoints:
    """All the hook points of a module, and the resolution of the names that users write.

    Parameters
    ----------
    module : any ``nn.Module``. A TransformerLens bridge is known by its ``hook_dict``.
    """

    def __init__(self, module: nn.Module) -> None:
        self.modules = dict(module.named_modules())
        self.hook_dict: dict[str, str] = {}
        hooks = getattr(module, "hook_dict", None)
        if isinstance(hooks, Mapping):
            names = {id(m): n for n, m in self.modules.items()}
            self.hook_dict = {k: names[id(m)] for k, m in hooks.items() if id(m) in names}
        self.stacks = self._bridge_stack() if self.hook_dict else find_stacks(module)

    def resolve(self, wanted: str | Iterable[str]) -> list[HookPoint]:
        """Hook points for one expression or several, in the order asked, layers ascending.

        Raises
        ------
        LayerNotFound
            Nothing has that name; the message holds the closest ones.
        """
        expressions = [wanted] if isinstance(wanted, str) else list(wanted)
        if not expressions:
            raise LayerNotFound("no hook point was asked for; name at least one, as resid_post.*.")
        found: dict[str, HookPoint] = {}
        for expression in expressions:
            for point in self._resolve_one(str(expression).strip()):
                found.setdefault(point.name, point)
        return list(found.values())

    def table(self) -> list[dict[str, Any]]:
        """A row a hook point: name, alias (its role), module type and width (None if unknown)."""
        rows = []
        seen = set()
        for stack in self.stacks:
            points = [stack.role("embed", None)]
            for block in stack.blocks:
                points += [block.get(r) for r in ROLES if r not in UNLAYERED]
            points.append(stack.final_norm)
            for point in points:
                if point is not None:
                    seen.add(point.place)
                    rows.append(self._row(point.place, point.name, point, stack.d_model))
        for name in EMBEDS:
            point = self._embeds(name)
            if point is not None and name not in self.modules:
                seen.add(point.place)
                rows.append(self._row(point.place, name, None, None))
        for name, module in self.modules.items():
            if name and name not in seen and not isinstance(module, CONTAINERS):
                rows.append(self._row(name, "", None, None))
        return rows

    def _row(
        self, place: str, alias: str, point: HookPoint | None, d_model: int | None
    ) -> dict[str, Any]:
        module = self.modules[place.removesuffix(":in")]
        shape = linear_shape(module)
        width: Any = None
        if shape is not None:
            width = shape[0] if place.endswith(":in") else shape[1]
        elif point is not None and "act" not in point.name:
            width = d_model
        elif isinstance(module, nn.Embedding):
            width = module.embedding_dim
        elif isinstance(weight := getattr(module, "weight", None), Tensor) and weight.ndim:
            width = weight.shape[0]
        if point is not None and point.d_head and width:
            width = f"{width // point.d_head} x {point.d_head}"
        return {"name": place, "alias": alias, "type": type(module).__name__, "width": width}

    def _resolve_one(self, text: str) -> list[HookPoint]:
        if len(text) > LONGEST:
            raise LayerNotFound(
                f"a hook point has at most {LONGEST} characters; {text[:40]!r} and so on has "
                f"{len(text):,}."
            )
        name, side = _split_side(text)
        exact = name in self.modules and name != ""
        embeds = None if exact or side == "in" else self._embeds(name)
        if embeds is not None:
            return [embeds]
        if (not exact or self.hook_dict) and side != "in":  # a bridge has a module named embed
            if match := ROLE.fullmatch(name):
                return self._resolve_role(text, match["stack"], match["role"], match["index"])
            if (match := TL_NAME.fullmatch(name)) and name not in self.hook_dict and self.stacks:
                return self._resolve_role(text, None, TL_NAMES[match["tail"]], match["index"])
        if side == "in" and not exact and ROLE.fullmatch(name):
            raise LayerNotFound(f"{text!r}: a role is one place and takes no :in; write {name}.")
        if name in self.hook_dict:
            return [HookPoint(name, self.hook_dict[name])]
        pattern = Glob(name)
        names = [name] if exact else [n for n in self.modules if n and pattern.matches(n)]
        names = [n for n in names if exact or not isinstance(self.modules[n], CONTAINERS)]
        if not names and self.hook_dict:
            return [HookPoint(n, m) for n, m in self.hook_dict.items() if pattern.matches(n)] or (
                self._miss(text)
            )
        if not names:
            self._miss(text)
        return [self._module_point(n, side) for n in names]

    def _embeds(self, name: str) -> HookPoint | None:
        """One of the two vectors that a dual encoder compares, or None where it has none."""
        places, stack = EMBEDS.get(name, ((), ""))
        if not {"vision_model", "text_model"} <= self.modules.keys():
            return None
        place = next((p for p in places if p in self.modules), None)
        return None if place is None else HookPoint(name, place, stack=stack)

    def _module_point(self, name: str, side: Literal["in", "out"]) -> HookPoint:
        module = self.modules[name]
        axis: Literal["", "first", "last"] = ""
        if isinstance(module, nn.Conv1d | nn.BatchNorm1d | nn.MaxPool1d | nn.AvgPool1d):
            axis = "first"
        elif linear_shape(module) is not None or isinstance(module, nn.LayerNorm | nn.RMSNorm):
            axis = "last"
        return HookPoint(name + (":in" if side == "in" else ""), name, side, axis=axis)

    def _resolve_role(
        self, text: str, prefix: str | None, role: str, index: str | None
    ) -> list[HookPoint]:
        stack = self._stack(text, prefix)
        if role in UNLAYERED:
            layers: list[int | None] = [None]
            if index is not None:
                raise LayerNotFound(f"{text!r}: {role} has no layers; write {stack.prefix}{role}.")
        else:
            layers = [*_layers(text, role, index, len(stack.blocks))]
        points = [stack.role(role, layer) for layer in layers]
        found = [p for p in points if p is not None]
        if not found:
            raise LayerNotFound(
                f"{text!r}: no {role} was found in this model's {len(stack.blocks)} blocks"
                f"{' (' + stack.name + ')' if stack.name else ''}; it has "
                f"{', '.join(_roles_of(stack))}, and every name of named_modules()."
            )
        return found

    def _stack(self, text: str, prefix: str | None) -> Stack:
        names = [s.name for s in self.stacks]
        if not self.stacks:
            raise LayerNotFound(
                f"{text!r}: this model has no stack of attention blocks, so roles mean nothing in "
                f"it; use module names such as {', '.join(list(self.modules)[1:4])}."
            )
        if prefix is None and len(names) > 1:
            options = " or ".join(f"{n}.{text}" for n in names)
            raise LayerNotFound(f"{text!r}: this model has several stacks; write {options}.")
        if prefix is None or (prefix in names):
            return self.stacks[0 if prefix is None else names.index(prefix)]
        hint = f"it has {', '.join(names)}" if len(names) > 1 else "it has one, and takes no prefix"
        raise LayerNotFound(f"{text!r}: this model has no stack {prefix!r}; {hint}.")

    def _miss(self, text: str) -> list[HookPoint]:
        name = _split_side(text)[0]
        known = [n for n in self.modules if n] + list(self.hook_dict)
        known += [p.name for s in self.stacks for b in s.blocks for p in b.values()]
        ends = [n for n in known if n.endswith("." + name)]
        hint = f"did you mean {ends[0]!r}?" if ends else closest(name, known)
        hint = hint or "list them with model.hookpoints() or `interp hookpoints MODEL`."
        raise LayerNotFound(f"no hook point matches {text!r}; {hint}")

    def _bridge_stack(self) -> list[Stack]:
        """The one stack of a TransformerLens bridge, whose hook names hold for every family."""
        blocks: list[dict[str, HookPoint]] = []
        while f"blocks.{len(blocks)}.hook_out" in self.hook_dict:
            i = len(blocks)
            block = {}
            for role, pattern in TL_ROLES.items():
                if (hook := pattern.format(i=i)) in self.hook_dict:
                    block[role] = HookPoint(f"{role}.{i}", self.hook_dict[hook], layer=i)
            if "head_out" in block:
                width = self._bridge_d_head(i)
                block["head_out"] = replace(block["head_out"], d_head=width)
            blocks.append(block)
        final = self.hook_dict.get("ln_final.hook_out")
        point = None if final is None else HookPoint("final_norm", final)
        return [Stack("", "blocks", tuple(blocks), point, None)] if blocks else []

    def _bridge_d_head(self, layer: int) -> int | None:
        bridge = self.modules[""]
        return getattr(getattr(bridge, "cfg", None), "d_head", None)


def _roles_of(stack: Stack) -> list[str]:
    return sorted({role for block in stack.blocks for role in block}, key=ROLES.index)


def _split_side(text: str) -> tuple[str, Literal["in", "out"]]:
    name, colon, side = text.rpartition(":")
    if colon and side in ("in", "out"):
        return name, "in" if side == "in" else "out"
    return text, "out"


class Glob:
    """``*`` stays within a dotted segment, ``**`` crosses, ``?`` and ``[12]`` as in a shell.

    The places in the pattern that a name may have reached are kept together, as the bits of a
    number: the time is the length of the pattern times that of the name, whatever the stars.

    Raises
    ------
    LayerNotFound
        What stands in brackets is no set of characters.
    """

    def __init__(self, pattern: str) -> None:
        self._tests: list[Callable[[str], bool]] = []  # of the piece at each place
        self._stars = 0  # the places whose piece may be passed over, and may hold on
        for piece in re.findall(r"\*+|\[[^\]]*\]|.", pattern, re.DOTALL):
            if piece[0] == "*":
                self._stars |= 1 << len(self._tests)
            self._tests.append(_piece(pattern, piece))
        self._masks: dict[str, int] = {}

    def matches(self, name: str) -> bool:
        """Whether the pattern is all of a name."""
        reached = self._skip(1)
        for c in name:
            if c not in self._masks:
                tests = enumerate(self._tests)
                self._masks[c] = sum(1 << i for i, test in tests if test(c))
            here = reached & self._masks[c]
            reached = self._skip((here & self._stars) | (here & ~self._stars) << 1)
            if not reached:
                return False
        return bool(reached >> len(self._tests))

    def _skip(self, reached: int) -> int:
        """With the places behind stars that stand for nothing; no two stars are neighbours."""
        return reached | (reached & self._stars) << 1


def _piece(pattern: str, piece: str) -> Callable[[str], bool]:
    """Which characters a piece of a pattern takes."""
    if piece[0] == "*":
        return (lambda c: c != ".") if piece == "*" else (lambda c: True)
    if piece == "?":
        return lambda c: c != "."
    if len(piece) == 1:
        return lambda c: c == piece
    other = piece[1] in "!^"
    ranges = re.findall(r"(.)-(.)|(.)", piece[1 + other : -1], re.DOTALL)
    wrong = next((f"{a}-{b}" for a, b, _ in ranges if a > b), None)
    if wrong is not None or not ranges:
        raise LayerNotFound(
            f"{pattern!r} is no pattern of hook points: {piece} "
            f"{'is empty' if wrong is None else f'holds {wrong}, which runs backwards'}."
        )
    return lambda c: other != any(c == one or (a <= c <= b if a else False) for a, b, one in ranges)


def _layers(text: str, role: str, index: str | None, n: int) -> Iterator[int]:
    """Layers that ``3``, ``-1``, ``*`` or ``0:12:2`` name among n."""
    if index is None:
        raise LayerNotFound(f"{text!r} names no layer; write {role}.*, {role}.0 or {role}.0:{n}:2.")
    if index == "*":
        yield from range(n)
        return
    parts = index.split(":")
    try:
        numbers = [int(p) if p else None for p in parts]
        if len(parts) > 3 or (len(parts) > 1 and numbers[2:] == [0]):
            raise ValueError
    except ValueError as error:
        raise LayerNotFound(f"{text!r}: {index!r} is no layer, slice or *.") from error
    if len(parts) > 1:
        layers = sorted(range(n)[slice(*numbers)])
        if not layers:
            raise LayerNotFound(f"{text!r} selects none of the {n} layers 0..{n - 1}.")
        yield from layers
        return
    layer = numbers[0]
    if layer is None or not -n <= layer < n:
        raise LayerNotFound(f"{text!r}: this model has layers 0..{n - 1} (or -{n}..-1).")
    yield layer % n
