"""Values that nobody expects, and ways to spoil bytes and JSON."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

TEXTS = [
    "", " ", "\t", "nan", "NA", "null", "None", "True", "-1", "0", "1e999", "--out", "-p",
    "[red]x[/]",
    "[/nothing]", "{0}", "%s", "$(touch x)", "; rm x", "../..", "a\x00b", "a\nb", "a\rb",
    "\x1b[31mred",
    "\u202ereversed", "\ufeffmark", "e\u0301", "\u2028", "\ud800", "😀" * 3, "ﬁ", "١٢", "x" * 5000,
    "<script>x</script>", "'; --", "*" * 40, "a,b", 'a"b', "\\", "/dev/null", "con", "résumé",
]  # fmt: skip
NUMBERS: list[Any] = [
    0, -1, 1, 2, 3, -(10**30), 10**30, 2**31, 2**63, 2**64, 0.5, -0.5, 1e308, float("nan"),
    float("inf"), -float("inf"), True, False,
]  # fmt: skip
DEEP = 100_000


def value(random: Random) -> Any:
    """A JSON value of any kind."""
    nested: list[Any] = [None, [], {}, [1, "a", None], {"a": 1}, {"__class__": "os.system"}, [[]]]
    return random.choice([random.choice(TEXTS), random.choice(NUMBERS), random.choice(nested)])


class Sound(Random):
    """Chooses as `Random` does, and spoils nothing: what a case does with sound input."""


def spoil(data: bytes, random: Random) -> tuple[str, bytes]:
    """Bytes cut, flipped, doubled, filled, or something else altogether."""
    if isinstance(random, Sound):
        return "sound", data
    n = len(data)
    at = random.randrange(n) if n else 0
    end = min(n, at + random.randrange(1, 64))
    ways: dict[str, Any] = {
        "cut short": lambda: data[:at],
        "head gone": lambda: data[at:],
        "a bit flipped": lambda: (
            data[:at] + bytes([data[at] ^ (1 << random.randrange(8))]) + data[at + 1 :]
            if n
            else b""
        ),
        "zeros inside": lambda: data[:at] + bytes(end - at) + data[end:],
        "noise inside": lambda: data[:at] + random.randbytes(end - at) + data[end:],
        "a part twice": lambda: data[:end] + data[at:],
        "a part gone": lambda: data[:at] + data[end:],
        "empty": lambda: b"",
        "noise": lambda: random.randbytes(200),
        "a pickle": lambda: b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94.",
        "more at the end": lambda: data + random.randbytes(16),
        "utf-16": lambda: data.decode("utf-8", "replace").encode("utf-16"),
        "latin": lambda: b"\xe9\xff" + data,
        "a mark before": lambda: b"\xef\xbb\xbf" + data,
    }
    way = random.choice(list(ways))
    return way, ways[way]()


def places(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths to every value inside a JSON document."""
    items: Any = ()
    if isinstance(document, dict):
        items = document.items()
    elif isinstance(document, list):
        items = list(enumerate(document))[:5]
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


def bend(document: Any, random: Random) -> tuple[str, str]:
    """A JSON document with one place removed, retyped, renamed, moved or doubled, as text."""
    if isinstance(random, Sound):
        return "sound", json.dumps(document)
    document = copy.deepcopy(document)
    found = list(places(document))
    where = random.choice(found)
    holder = document
    for key in where[:-1]:
        holder = holder[key]
    key = where[-1]
    name = ".".join(map(str, where))
    way = random.choice(
        ["removed", "another value", "another value", "another value", "a near number", "renamed",
         "an unknown key", "deep", "twice", "the whole"]
    )  # fmt: skip
    if way == "removed":
        del holder[key]
    elif way == "another value":
        holder[key] = value(random)
        way = f"is {str(holder[key])[:40]!r}"
    elif way == "a near number" and isinstance(holder[key], int | float):
        holder[key] = holder[key] + random.choice([-1, 1, 0.5])
    elif way == "renamed" and isinstance(holder, dict):
        holder[random.choice(TEXTS)] = holder.pop(key)
    elif way == "deep":
        text = json.dumps(document)
        old = json.dumps(holder[key])
        deep = random.choice([90, 300, 600, 990, DEEP])
        return f"{name} {way} {deep}", text.replace(old, "[" * deep + "]" * deep, 1)
    elif way == "twice":
        text = json.dumps(document)
        return f"{name} {way}", text[:-1] + ", " + text[1:] if text.startswith("{") else text
    elif way == "the whole":
        return "the whole is another value", json.dumps(value(random))
    elif isinstance(holder, dict):
        holder[random.choice(["unknown", "__class__", "../x", ""])] = value(random)
        way = f"beside {way}"
    else:
        holder.insert(0, value(random))
        way = "has a new neighbour"
    return f"{name} {way}", json.dumps(document)


def spoil_json(file: Path, random: Random) -> str:
    """Spoil a JSON file in place: its bytes, or more often what it says."""
    if random.random() < 0.2:
        what, data = spoil(file.read_bytes(), random)
        file.write_bytes(data)
        return what
    what, text = bend(json.loads(file.read_text()), random)
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    return what
