"""Data files, spoilt; judged by a reading with other means and by the model run text by text."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch

from interp.store import ActivationStore
from mutations.bench import POINT, ROWS, SHARDS, Bench
from mutations.junk import DEEP, NUMBERS, TEXTS, Sound, spoil, value
from mutations.trial import Case

KINDS = ("csv", "tsv", "jsonl", "json", "parquet", "txt")


def case(bench: Bench, folder: Path, random: Random) -> Case:
    """A table of texts, spoilt, captured with ``--force`` over an earlier store."""
    kind = random.choice(KINDS)
    file = folder / f"data.{kind}"
    what = _write(file, kind, random)
    out = bench.copy(bench.store, folder / "acts")
    argv = ["capture", str(bench.model), str(file), "-p", POINT, "--out", str(out), "--force"]
    argv += SHARDS
    if random.random() < 0.25 and not isinstance(random, Sound):
        name = random.choice(["text", "label", "city", *TEXTS])
        option = random.choice(["--text-column", "--label-column", "--group-column"])
        argv += [f"{option}={name}"]
        what += f", {option} {name[:20]!r}"
    return Case(f"{kind}: {what}", argv, judge=lambda done: captured(bench, file, out), keep=[out])


def probed(bench: Bench, folder: Path, random: Random) -> Case:
    """A table whose labels and groups are spoilt, probed over an earlier run."""
    rows: list[dict[str, Any]] = [dict(row) for row in ROWS]
    column = random.choice(["label", "city"])
    what = _labels(rows, column, random)
    file = folder / "data.jsonl"
    file.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    out = bench.copy(bench.probed, folder / "run")
    argv = ["probe", str(bench.model), str(file), "--no-random-model", "--folds", "3", "--force"]
    argv += ["--label-column", "label", "--group-column", "city", "--out", str(out)]
    return Case(f"{column} {what}", argv, judge=lambda done: _scores(rows, out), keep=[out])


def _labels(rows: list[dict[str, Any]], column: str, random: Random) -> str:
    """Change a column of labels in place."""
    ways: dict[str, Callable[[int], Any]] = {
        "one class": lambda i: "yes",
        "all different": lambda i: f"v{i}",
        "numbers": lambda i: i % 2,
        "floats": lambda i: i / 7,
        "booleans": lambda i: bool(i % 2),
        "none everywhere": lambda i: None,
        "none here and there": lambda i: None if i % 3 == 0 else str(i % 2),
        "lists": lambda i: [i % 2],
        "tables": lambda i: {"a": i % 2},
        "empty texts": lambda i: "" if i % 2 else "x",
        "spaces": lambda i: " x" if i % 2 else "x",
        "case": lambda i: "X" if i % 2 else "x",
        "junk": lambda i: value(random),
        "one odd one": lambda i: value(random) if i == 5 else rows[i][column],
        "nan": lambda i: float("nan") if i % 4 == 0 else i % 2,
        "a rare class": lambda i: "rare" if i == 3 else str(i % 2),
        "mixed types": lambda i: [1, "1", 1.0, True][i % 4],
        "huge numbers": lambda i: 10**30 if i % 2 else -(10**30),
        "odd texts": lambda i: random.choice(TEXTS),
    }
    if isinstance(random, Sound):
        return "sound"
    way = random.choice(list(ways))
    for i, row in enumerate(rows):
        row[column] = ways[way](i)
    return way


def _scores(rows: list[dict[str, Any]], out: Path) -> str | None:
    """The run counts the rows and classes that the labels have, and scores lie in 0..1."""
    from interp.runs import read_results

    (depth,) = read_results(out)
    told: Any = depth
    have = [r["label"] for r in rows if not _missing(r["label"])]
    if told.n != len(have):
        return f"{told.n} rows were probed, {len(have)} have a label"
    kinds = {f"{float(v):g}" if isinstance(v, int | float) else str(v) for v in have}
    if len(kinds) != len(set(told.classes)):
        return f"classes {told.classes} of {sorted(kinds)}"
    scores = torch.as_tensor(told.to_frame()["accuracy"].to_numpy())
    return None if bool(((scores >= 0) & (scores <= 1)).all()) else f"scores {scores}"


def _missing(label: Any) -> bool:
    return label is None or label != label


def _write(file: Path, kind: str, random: Random) -> str:
    """Write a spoilt table of a kind."""
    if isinstance(random, Sound):
        import pandas as pd

        rows = [dict(r) for r in ROWS]
        data = pd.DataFrame(rows).to_parquet() if kind == "parquet" else encoded(rows, kind)
        file.write_bytes(data)
        return "sound"
    if kind == "parquet":
        return _parquet(file, random)
    if random.random() < 0.3:
        way, data = spoil(encoded([dict(r) for r in ROWS], kind), random)
        file.write_bytes(data)
        return way
    way, data = _bent(kind, random)
    file.write_bytes(data)
    return way


def encoded(rows: list[dict[str, Any]], kind: str, **how: Any) -> bytes:
    """A sound file of rows."""
    if kind in ("csv", "tsv"):
        held = io.StringIO()
        writer = csv.writer(held, delimiter="," if kind == "csv" else "\t", **how)
        writer.writerow(rows[0])
        writer.writerows(list(r.values()) for r in rows)
        text = held.getvalue()
    elif kind == "jsonl":
        text = "".join(json.dumps(r) + "\n" for r in rows)
    elif kind == "json":
        text = json.dumps(rows)
    else:
        text = "\n".join(str(next(iter(r.values()), "")) for r in rows)
    return text.encode("utf-8", "surrogatepass")


def _bent(kind: str, random: Random) -> tuple[str, bytes]:
    """A table changed as a table: cells, columns, rows, ends of lines."""
    rows: list[dict[str, Any]] = [dict(r) for r in ROWS]
    row = random.randrange(len(rows))
    name = random.choice(["text", "label", "city"])
    new = random.choice(TEXTS)
    data = encoded(rows, kind)
    way = random.choice(
        ["a cell", "a cell", "a cell", "a number", "a column's name", "no column",
         "one row", "no rows",
         "CRLF", "CR", "a blank line", "a longer row", "a shorter row", "two columns of one name",
         "a huge cell", "nothing but a header", "deep", "nul", "a quote left open", "all empty",
         "many columns", "a list", "a table", "mark and CRLF"]
    )  # fmt: skip
    lines = data.split(b"\n")
    if way == "a cell":
        rows[row][name] = new
        return f"{name} {row} is {new[:20]!r}", encoded(rows, kind)
    if way == "a number":
        rows[row][name] = random.choice(NUMBERS)
        return f"{name} {row} is {rows[row][name]!r}", encoded(rows, kind)
    if way == "a column's name":
        rows = [{(new if k == name else k): v for k, v in r.items()} for r in rows]
    elif way == "no column":
        rows = [{k: v for k, v in r.items() if k != name} for r in rows]
    elif way == "one row":
        rows = rows[:1]
    elif way == "no rows":
        return way, b"[]" if kind == "json" else b"\n\n"
    elif way == "CRLF":
        return way, data.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    elif way == "mark and CRLF":
        return way, b"\xef\xbb\xbf" + data.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    elif way == "CR":
        return way, data.replace(b"\r\n", b"\n").replace(b"\n", b"\r")
    elif way == "a blank line":
        return way, b"\n".join([*lines[: row + 1], b"", *lines[row + 1 :]])
    elif way in ("a longer row", "a shorter row"):
        at = min(row, len(lines) - 1)
        lines[at] = (
            lines[at] + b",more" if way == "a longer row" else lines[at][: len(lines[at]) // 2]
        )
        return way, b"\n".join(lines)
    elif way == "two columns of one name":
        return way, data.replace(b"city", b"label")
    elif way == "a huge cell":
        rows[row][name] = "w5 " * 60_000
    elif way == "nothing but a header":
        return way, lines[0]
    elif way == "deep":
        deep = b"[" * DEEP + b"]" * DEEP
        return way, b'{"text": ' + deep + b"}" if kind == "jsonl" else deep
    elif way == "nul":
        at = random.randrange(len(data))
        return way, data[:at] + b"\x00" + data[at:]
    elif way == "a quote left open":
        at = random.randrange(len(data))
        return way, data[:at] + b'"' + data[at:]
    elif way == "all empty":
        rows = [{k: "" for k in r} for r in rows]
    elif way == "many columns":
        rows = [{**r, **{f"c{i}": i for i in range(300)}} for r in rows]
    elif way == "a list":
        rows[row][name] = ["a", 1]
    else:
        rows[row][name] = {"a": {"b": 1}}
    return way, encoded(rows, kind)


def _parquet(file: Path, random: Random) -> str:
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pylist([dict(r) for r in ROWS])
    kind = random.choice(["bytes", "bytes", "bytes", "types", "index", "metadata", "twice", "rows"])
    if kind == "types":
        n = len(ROWS)
        columns: dict[str, Any] = {
            "bytes": pa.array([b"w1"] * n),
            "lists": pa.array([["w1"]] * n),
            "times": pa.array([0] * n, pa.timestamp("ns", "UTC")),
            "decimals": pa.array([1] * n, pa.decimal128(5)),
            "words": pa.array([r["text"] for r in ROWS]).dictionary_encode(),
            "large": pa.array([r["text"] for r in ROWS], pa.large_string()),
            "nulls": pa.nulls(n),
            "halves": pa.array([0.5] * n, pa.float16()),
        }
        name = random.choice(list(columns))
        at = random.choice(["text", "label", "city"])
        table = table.set_column(table.column_names.index(at), at, columns[name])
        kind = f"{at} holds {name}"
    elif kind == "index":
        table = pa.Table.from_pandas(pd.DataFrame(ROWS).set_index("city"))
    elif kind == "metadata":
        junk = random.choice([b"{", b"[]", b"1", b'{"index_columns": ["__no__"], "columns": []}'])
        table = table.replace_schema_metadata({b"pandas": junk})
        kind = f"pandas metadata {junk!r}"
    elif kind == "twice":
        table = table.append_column("text", table["text"])
    elif kind == "rows":
        table = table.slice(0, random.choice([0, 1]))
    pq.write_table(table, file)
    if kind == "bytes":
        kind, data = spoil(file.read_bytes(), random)
        file.write_bytes(data)
    return kind


def captured(bench: Bench, file: Path, out: Path) -> str | None:
    """The store has the rows that another reader finds, and what the model holds for each."""
    store = ActivationStore.open(out)
    column = store.manifest["data"]["text_column"]
    try:
        texts = _read_otherwise(file, column)
    except Exception as error:
        return f"another reader refuses the file: {type(error).__name__}: {error}"
    if store.n != len(texts):
        return f"{store.n} rows, another reader finds {len(texts)}"
    held = store.rows[column].tolist()
    for i, text in enumerate(texts):
        if held[i] != text:
            return f"row {i} is {held[i]!r}, another reader finds {text!r}"
        if not torch.allclose(store[POINT][i], bench.expected(text), atol=1e-4):
            return f"row {i} is not what the model holds for {text!r}"
    return None


def _read_otherwise(file: Path, column: str) -> list[Any]:
    """The texts of a file, with the csv and json modules and pyarrow."""
    kind = file.suffix[1:]
    if kind == "parquet":
        import pyarrow.parquet as pq

        table = pq.ParquetFile(file).read()
        return table.column(table.column_names.index(column)).to_pylist()
    if kind in ("txt", "jsonl"):
        text = file.read_text(encoding="utf-8-sig")  # any end of a line is one
    else:
        text = file.read_bytes().decode("utf-8-sig")
    if kind == "txt":
        return _lines(text)
    if kind in ("csv", "tsv"):
        csv.field_size_limit(2**30)
        delimiter = "," if kind == "csv" else "\t"
        read = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        header, *rows = [row for row in read if row]
        if any(len(row) > len(header) for row in rows):
            raise ValueError("a row has more fields than the header")
        header = [name or f"Unnamed: {i}" for i, name in enumerate(header)]  # as pandas names it
        at = header.index(column)
        return [row[at] for row in rows]
    if kind == "jsonl":
        return [r if isinstance(r, str) else r[column] for r in map(json.loads, _lines(text))]
    found = json.loads(text)
    return [r if isinstance(r, str) else r[column] for r in found]


def _lines(text: str) -> list[str]:
    return [line for line in text.split("\n") if line.strip()]
