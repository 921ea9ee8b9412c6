import csv
import io
import json

import numpy as np
import pandas as pd
import pytest

import interp
from interp import mapped, packed, pieces, resuming
from interp.capturing import Capture
from interp.data import CSV, table_of
from interp.errors import DataError
from interp.mapped import MappedTexts
from interp.packed import PackedIds

pytestmark = pytest.mark.skipif(
    mapped.strings_of(pd.Series(["a"])) is None, reason="strings are objects before pandas 3"
)
ODD = ["plain w1", "naïve ☃ 𝄞", 'a "quote"', "two\nlines, w3", "NA", "  w2 ", "null w9", "12"]
COLUMNS = {
    "whole": lambda i: i % 7,
    "half": lambda i: i / 2,
    "gaps": lambda i: i if i < 30 or i % 3 else None,
    "flag": lambda i: i % 2 == 0,
    "word": lambda i: None if i % 5 == 0 else ODD[i % 8] + str(i),
}


def records(n=100):
    return [
        {"text": f"{ODD[i % 8]} w{i % 90}"} | {k: value(i) for k, value in COLUMNS.items()}
        for i in range(n)
    ]


def write(path, rows):
    """A file of the rows, of the kind that its name says."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), "utf-8")
    elif path.suffix == ".parquet":
        frame = pd.DataFrame(rows)
        frame["when"] = pd.date_range("2020-01-01", periods=len(rows))
        frame.to_parquet(path, row_group_size=17)
    elif path.suffix == ".txt":
        path.write_text("\ufeff" + "\r\n\n".join(r["text"] for r in rows), "utf-8")
    else:
        with open(path, "w", encoding="utf-8-sig", newline="") as file:
            sheet = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
            sheet.writerow(rows[0])
            sheet.writerows([r.values() for r in rows])
    return path


def in_pieces(monkeypatch, rows=16):
    monkeypatch.setattr(mapped, "LARGE", 1)
    monkeypatch.setattr(pieces, "ROWS", rows)
    monkeypatch.setattr(packed, "HELD", 64)


def pieced(file):
    """The table in pieces, or None where the file must be read whole."""
    sep = {".csv": ",", ".tsv": "\t"}.get(file.suffix)
    return pieces.table_in_pieces(file, **({"sep": sep, **CSV} if sep else {}))


def files(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def stored(model, data, path):
    work = Capture(model, data, "resid_post.0", "last", 4, columns={"label_column": LABELS})
    work.on_disk(path, resume=False, force=False)
    return files(path)


LABELS = ["whole", "half", "gaps", "flag", "word"]


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_a_file_read_in_pieces_gives_the_same_data_and_the_same_store(
    kind, gpt2, tmp_path, monkeypatch
):
    file = write(tmp_path / f"some.{kind}", records())
    whole = interp.read(file, label_column=LABELS, group_column="word")
    kept = stored(gpt2, file, tmp_path / "whole")
    in_pieces(monkeypatch)
    data = interp.read(file, label_column=LABELS, group_column="word")
    assert pieced(file) is not None
    assert isinstance(data.inputs, MappedTexts) and isinstance(whole.inputs, list)
    assert list(data.inputs) == whole.inputs == [data.inputs[i] for i in range(len(data))]
    pd.testing.assert_frame_equal(data.rows, whole.rows)
    assert data.hash == whole.hash
    assert (data.notes, data.label_notes) == (whole.notes, whole.label_notes)
    assert stored(gpt2, file, tmp_path / "pieces") == kept


def test_lines_read_in_pieces_are_the_same(tmp_path, monkeypatch):
    file = write(tmp_path / "some.txt", records())
    whole = interp.read(file)
    in_pieces(monkeypatch)
    data = interp.read(file)
    assert pieced(file) is not None
    assert isinstance(data.inputs, MappedTexts) and list(data.inputs) == whole.inputs
    pd.testing.assert_frame_equal(data.rows, whole.rows)
    assert data.hash == whole.hash and data.notes == whole.notes


def test_lines_of_strings_are_texts(tmp_path, monkeypatch):
    file = tmp_path / "some.jsonl"
    file.write_text("".join(f'"w{i}"\n' for i in range(40)))
    in_pieces(monkeypatch)
    assert list(interp.read(file).inputs) == [f"w{i}" for i in range(40)]


CHANGED = {
    "words among numbers": lambda rows: [r | {"whole": "x"} for r in rows],
    "a kind that ends": lambda rows: [r | {"word": None} for r in rows],
    "bools and none": lambda rows: [r | {"flag": None} for r in rows],
    "numbers beyond float": lambda rows: [r | {"gaps": 2**60 + 1} for r in rows],
}


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
@pytest.mark.parametrize("change", CHANGED)
def test_what_pieces_cannot_tell_is_read_whole(change, kind, tmp_path, monkeypatch):
    rows = records(64)
    file = write(tmp_path / f"some.{kind}", [*rows[:32], *CHANGED[change](rows[32:])])
    whole = table_of(file)
    in_pieces(monkeypatch)
    assert pieced(file) is None
    pd.testing.assert_frame_equal(table_of(file), whole)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "text,y\n" + "w1,1\n" * 40 + "w2\nw3,1,2,3\n"),
        ("b.csv", "text,y\n" + "w1,1\n" * 40 + '"w2'),
        ("c.jsonl", '{"text": "w1"}\n' * 40 + "{"),
        ("d.jsonl", '{"text": "w1"}\n' * 40 + '"w2"\n'),
        ("e.jsonl", '{"text": "w1"}\n' * 40 + '{"text": 3}\n'),
        ("f.csv", "text,y\n" + "w1,1\n" * 40 + ",2\n"),
        ("g.parquet", "PAR1" + "x" * 60),
        ("h.csv", "text,text\n" * 40),
    ],
)
def test_errors_are_those_of_the_whole_file(name, text, tmp_path, monkeypatch):
    file = tmp_path / name
    file.write_text(text)

    def outcome():
        try:
            data = interp.read(file)
        except DataError as error:
            return str(error)
        return data.hash, data.notes, list(data.rows.columns)

    whole = outcome()
    in_pieces(monkeypatch)
    assert outcome() == whole


def test_columns_in_another_order_keep_their_values(tmp_path, monkeypatch):
    rows = [{"text": f"w{i}", "y": i} for i in range(40)]
    turned = [dict(reversed(r.items())) for r in rows[16:]]
    file = write(tmp_path / "some.jsonl", [*rows[:16], *turned])
    whole = table_of(file)
    in_pieces(monkeypatch)
    assert pieced(file) is not None
    pd.testing.assert_frame_equal(table_of(file), whole)


@pytest.mark.parametrize("dtype", ["category", "Int64", "string"])
def test_dtypes_of_pandas_are_kept(dtype, tmp_path, monkeypatch):
    file = tmp_path / "some.parquet"
    values = pd.Series([1, 2, 1, None] * 10, dtype="Int64")
    column = values.astype("string") if dtype == "string" else values.astype(dtype)
    pd.DataFrame({"text": ["w1", "w2"] * 20, "y": column}, index=range(40)).to_parquet(file)
    whole = table_of(file)
    in_pieces(monkeypatch)
    pd.testing.assert_frame_equal(table_of(file), whole)


def test_nothing_is_left_in_the_temporary_folder(tmp_path, monkeypatch):
    folder = tmp_path / "room"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    file = write(tmp_path / "some.csv", records())
    in_pieces(monkeypatch)
    data = interp.read(file)
    assert pieced(file) is not None
    assert isinstance(data.inputs, MappedTexts) and not list(folder.iterdir())


def test_a_full_temporary_folder_is_an_error_that_names_it(tmp_path, monkeypatch):
    file = write(tmp_path / "some.csv", records())
    in_pieces(monkeypatch)
    full = open("/dev/full", "wb", buffering=0)  # noqa: SIM115
    monkeypatch.setattr("tempfile.TemporaryFile", lambda: full)
    with pytest.raises(DataError, match=r"cannot be written to .*No space.*TMPDIR"):
        interp.read(file)


def test_ids_in_a_file_are_those_in_memory(monkeypatch):
    rows = np.split(np.arange(1000, dtype=np.int32), [0, 7, 7, 300, 999])
    held = PackedIds(r.tolist() for r in rows)
    monkeypatch.setattr(packed, "HELD", 64)
    moved = PackedIds(r.tolist() for r in rows)
    assert isinstance(moved._tokens, np.ndarray) and not isinstance(held._tokens, np.ndarray)
    assert list(moved) == list(held) == [r.tolist() for r in rows]
    assert moved[-1] == [999] and list(moved.lengths) == list(held.lengths)
    assert list(PackedIds([[], []])) == [[], []]


def test_mapped_texts_are_a_sequence(tmp_path, monkeypatch):
    file = write(tmp_path / "some.txt", records())
    in_pieces(monkeypatch)
    texts = interp.read(file).inputs
    wanted = list(texts)
    assert texts == wanted and texts != wanted[:-1] and texts != [*wanted[:-1], ""]
    for cut in (slice(3, 40), slice(90, 200), slice(50, 3), slice(None, None, -7)):
        assert texts[cut] == wanted[cut]
    assert texts[-1] == wanted[-1]
    monkeypatch.setattr(mapped, "TOUCHED", 0)  # pages are given back at every text
    assert [texts[i] for i in range(len(texts))] == wanted
    for bad in (len(wanted), -len(wanted) - 1):
        with pytest.raises(IndexError):
            texts[bad]


def test_without_strings_of_arrow_a_file_is_read_whole(tmp_path, monkeypatch):
    file = write(tmp_path / "some.csv", records())
    whole = interp.read(file)
    in_pieces(monkeypatch)
    with pd.option_context("mode.string_storage", "python"):
        assert pieced(file) is None
        data = interp.read(file)
    assert isinstance(data.inputs, list) and data.inputs == whole.inputs
    assert data.hash == whole.hash


def test_a_table_of_several_groups_is_the_table(tmp_path, monkeypatch):
    mixed = pd.DataFrame(records()).assign(mixed=[1, "two"] * 50, lists=[[i] for i in range(100)])
    kept = (["text", "mixed", "lists"], ["text", "lists", "flag"], ["whole"], [])
    for columns in kept:
        found, rows = [], pd.DataFrame({c: mixed[c] for c in columns}, index=mixed.index)
        for group in (16, 1000):
            monkeypatch.setattr(resuming, "ROW_GROUP", group)
            with resuming.table_file(rows) as file:
                file.seek(0)
                found.append(file.read())
        one, other = (pd.read_parquet(io.BytesIO(bytes)) for bytes in found)
        pd.testing.assert_frame_equal(one, other)
        assert list(one.columns) == columns
        assert (found[0] == found[1]) == (not columns)  # else in seven groups, and in one


def test_a_small_table_has_the_bytes_that_pandas_writes():
    rows = pd.DataFrame(records())
    with resuming.table_file(rows) as file:
        file.seek(0)
        assert file.read() == rows.to_parquet(index=False)
