"""Hook point expressions: made by a grammar, then spoilt; judged by a matcher of another kind."""

import re
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from mutations.bench import Bench
from mutations.junk import TEXTS, Sound
from mutations.trial import Case

ROLES = ["resid_pre", "resid_post", "attn_out", "head_out", "mlp_in", "mlp_act", "mlp_out"]
NAMES = ["transformer", "h", "0", "1", "mlp", "attn", "c_proj", "c_fc", "ln_1", "lm_head", "act"]


def case(bench: Bench, folder: Path, random: Random) -> Case:
    """An expression that the tiny GPT-2 is asked for."""
    text = "resid_post.*" if isinstance(random, Sound) else expression(random)
    if not isinstance(random, Sound) and random.random() < 0.3:
        at = random.randrange(len(text) + 1)
        text = text[:at] + random.choice([*TEXTS, "*", "**", "[", "]", "-", ":", "."]) + text[at:]
    points = bench.points()
    return Case(
        repr(text[:80]),
        call=lambda: [(p.name, p.module) for p in points.resolve(text)],
        judge=lambda found: judge(text, found, list(points.modules)),
    )


def expression(random: Random) -> str:
    """A role, a slice of a role, a module's name, a glob, or many stars."""
    way = random.choice(["role", "slice", "name", "glob", "glob", "stars", "class"])
    if way == "role":
        layer = random.choice(["0", "1", "-1", "-2", "2", "*", "99999999999"])
        return f"{random.choice(ROLES)}.{layer}"
    if way == "slice":
        ends = [random.choice(["", "0", "1", "2", "-1", "-9", "9" * 30]) for _ in range(3)]
        return f"{random.choice(ROLES)}." + ":".join(ends[: random.choice([2, 3])])
    if way == "stars":
        unit = random.choice(["*", "**", "*a", "**a", "**.", "?*", "[a-z]*", "**_"])
        return unit * random.choice([5, 40, 400]) + random.choice(["", "b", "mlp", "zz"])
    parts = random.choices(NAMES, k=random.choice([1, 2, 3, 4, 5]))
    if way != "name":
        parts = [random.choice([p, "*", p[:1] + "*", "**", "?", "[!a]*", "[a-m]*"]) for p in parts]
    return ".".join(parts) + random.choice(["", "", ":in", ":out"])


def judge(text: str, found: list[tuple[str, Any]], modules: list[str]) -> str | None:
    """What a slice of Python's, or a matcher of segments, gives for the same text."""
    text = text.strip()
    role = re.fullmatch(rf"(?:\w+\.)?({'|'.join(ROLES)})\.([-\d:*]+)", text)
    if role and text not in modules:
        layers = _layers(role[2], 2)
        have = [name for name, _ in found]
        want = [f"{role[1]}.{i}" for i in layers]
        return None if have == want else f"gives {have}, not {want}"
    name = re.sub(r":(in|out)$", "", text)
    if name in modules or re.fullmatch(r"(\w+\.)?(embed|final_norm)|blocks\..*", name):
        return None if len(found) == 1 or name not in modules else f"a name gives {len(found)}"
    want = {m for m in modules if m and matches(name, m)}
    have = {module for _, module in found}
    if not have <= want:
        return f"gives {sorted(have - want)[:3]} too"
    held = {m for m in want - have if not re.fullmatch(r"transformer\.h", m)}  # it is never called
    return f"misses {sorted(held)[:3]}" if held else None


def _layers(index: str, n: int) -> list[int]:
    if index == "*":
        return list(range(n))
    parts = [int(p) if p else None for p in index.split(":")]
    return [range(n)[parts[0] or 0]] if len(parts) == 1 else sorted(range(n)[slice(*parts)])


def matches(pattern: str, name: str) -> bool:
    """Whether a glob is all of a name, by trying the pieces one after the other, remembered."""
    pieces = re.findall(r"\*+|\[[^\]]*\]|.", pattern, re.DOTALL)

    @cache
    def rest(i: int, j: int) -> bool:
        if i == len(pieces):
            return j == len(name)
        piece = pieces[i]
        if piece[0] == "*":
            stays = piece == "*"
            return rest(i + 1, j) or (
                j < len(name) and not (stays and name[j] == ".") and rest(i, j + 1)
            )
        return j < len(name) and _takes(piece, name[j]) and rest(i + 1, j + 1)

    import sys

    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(100_000)
    try:
        return rest(0, 0)
    finally:
        sys.setrecursionlimit(limit)


def _takes(piece: str, c: str) -> bool:
    if len(piece) > 1 and piece[0] == "[":
        import fnmatch

        inner = piece[1:-1]
        inner = "!" + inner[1:] if inner[:1] == "^" else inner
        return fnmatch.fnmatchcase(c, f"[{inner}]")
    return c != "." if piece == "?" else c == piece
