"""Reading data: every format, what was found, and one sentence for what cannot be read."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import interp
from interp.data import name_of
from interp.errors import DataError, InterpError, ParameterError

TEXTS = ["NA", "null", "é \u2028 ü\u0085 x", '"quoted, text"', "  spaced  "]
LABELS = ["yes", "no", "NA", "yes", "no"]


def table():
    return pd.DataFrame({"text": TEXTS, "label": LABELS, "n": range(5)})


def write_csv(path):
    table().to_csv(path, index=False)


def write_bom(path):
    table().to_csv(path, index=False, encoding="utf-8-sig")


def write_tsv(path):
    table().to_csv(path, index=False, sep="\t")


def write_jsonl(path):
    lines = [json.dumps(r, ensure_ascii=False) for r in table().to_dict("records")]
    path.write_text("\n".join(lines) + "\n\n", encoding="utf-8")


def write_json(path):
    path.write_text(json.dumps(table().to_dict("records")), encoding="utf-8")


def write_columns(path):
    path.write_text(json.dumps(table().to_dict("list")), encoding="utf-8")


def write_nested(path):
    path.write_text(json.dumps({"version": 1, "data": table().to_dict("records")}))


def write_parquet(path):
    table().to_parquet(path)


FORMATS = {
    "csv": (".csv", write_csv),
    "csv with a byte order mark": (".csv", write_bom),
    "tsv": (".tsv", write_tsv),
    "jsonl": (".jsonl", write_jsonl),
    "json": (".json", write_json),
    "json of columns": (".json", write_columns),
    "json with one list": (".json", write_nested),
    "parquet": (".parquet", write_parquet),
    "an upper-case suffix": (".CSV", write_csv),
}


@pytest.mark.parametrize("name", list(FORMATS))
def test_each_format_gives_the_same_rows(tmp_path, name):
    suffix, write = FORMATS[name]
    path = tmp_path / f"things{suffix}"
    write(path)
    data = interp.read(path)
    assert data.inputs == TEXTS
    assert data.rows["label"].tolist() == LABELS
    assert (data.name, data.kind, data.text_column) == ("things", "text", "text")
    assert data.labels == ("label",) and data.group is None
    assert any("'text' (found by its name)" in n for n in data.notes)
    assert any("'label' (found by its name)" in n for n in data.label_notes)
    assert len(data) == 5
    assert interp.read(str(path)).hash == data.hash == interp.read(table()).hash


def test_lines_and_lists(tmp_path):
    (tmp_path / "a.txt").write_bytes("one\r\ntwo\u2028two\n\n  \nthree".encode())
    assert interp.read(tmp_path / "a.txt").inputs == ["one", "two\u2028two", "three"]
    (tmp_path / "a.json").write_text('["one", "two"]')
    assert interp.read(tmp_path / "a.json").inputs == ["one", "two"]
    (tmp_path / "a.jsonl").write_text('"one"\n"two"\n')
    assert interp.read(tmp_path / "a.jsonl").inputs == ["one", "two"]
    assert interp.read(["one", "two"]).inputs == ["one", "two"]
    assert interp.read([{"text": "one", "label": 1}]).labels == ("label",)
    assert interp.read({"text": ["one"], "label": [1]}).labels == ("label",)


def test_columns_are_named_or_found(tmp_path):
    frame = pd.DataFrame(
        {"city": ["Rome", "Oslo"], "statement": ["a b", "c d"], "big": [1, 0], "file": ["x", "y"]}
    )
    data = interp.read(frame)
    assert data.text_column == "statement" and data.labels == () and data.group == "file"
    assert any("groups from column 'file'" in n for n in data.label_notes)
    data = interp.read(frame, text_column="city", label_column=["big", "file"], group_column="city")
    assert data.inputs == ["Rome", "Oslo"]
    assert data.labels == ("big", "file") and data.group == "city"
    assert not any("found" in n for n in (*data.notes, *data.label_notes))
    longest = interp.read(pd.DataFrame({"a": ["x", "y"], "b": ["longer text", "still longer"]}))
    assert longest.text_column == "b" and "longest column" in longest.notes[0]


def test_a_text_column_is_not_its_own_group():
    data = interp.read(pd.DataFrame({"document": ["a b c", "d e f"], "label": [0, 1]}))
    assert data.text_column == "document" and data.group is None


def test_the_table_that_was_given_is_left_alone():
    frame = pd.DataFrame({"text": ["a", "b"], 3: [0, 1]}, index=[7, 7])
    data = interp.read(frame, label_column="3")
    assert list(frame.columns) == ["text", 3] and list(frame.index) == [7, 7]
    assert list(data.rows.index) == [0, 1] and data.labels == ("3",)


@pytest.mark.parametrize("argument", ["text_column", "label_column", "group_column"])
def test_a_missing_column_lists_the_columns(argument):
    with pytest.raises(ParameterError, match=r"'labell'; the data has text, label, n.*'label'"):
        interp.read(table(), **{argument: "labell"})


def test_text_as_a_label_is_fine_and_numbers_as_text_are_not():
    assert interp.read(table()).rows["label"][2] == "NA"
    for read in (lambda d: d, interp.read):  # from a table, and from a data set
        with pytest.raises(DataError, match="column 'n' of data must hold text; row 0 holds 0"):
            interp.read(read(table()), text_column="n")
    holes = pd.DataFrame({"text": ["a", None], "other": ["b", "c"]})
    for source in (holes, interp.read(holes, text_column="other")):
        with pytest.raises(DataError, match="row 1 of data has no text in column 'text'"):
            interp.read(source, text_column="text")
    with pytest.raises(DataError, match="no column of text; it has a, b"):
        interp.read(pd.DataFrame({"a": [1], "b": [2]}))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", b"", "is empty"),
        ("a.csv", b"text,label\n", "has no rows"),
        ("a.csv", b"text\n\xff\xfe\xfa\n", "is not UTF-8"),
        ("a.csv", b'text,label\n"a,1\n', "cannot be read as csv"),
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', "cannot be read as jsonl"),
        ("a.jsonl", b'{"text": "a"}\n3\n', "list of objects or of strings"),
        ("a.json", b"3", "cannot be read as json"),
        ("a.json", b"[]", "has no rows"),
        ("a.json", b'{"text": ["a"], "label": [1, 2]}', "cannot be read as json"),
        ("a.txt", b"\n \n", "has no rows"),
        ("a.parquet", b"PAR1 not really", "cannot be read as parquet"),
        ("a.safetensors", b"\x10\0\0\0\0\0\0\0{}", "is no safetensors file"),
        ("a.docx", b"PK", "known are .csv"),
        ("a.pt", b"PK", "pickle, which is not loaded; save its tensors"),
        ("a.pkl", b"\x80\x04N.", "pickle"),
        ("a.npy", b"\x93NUMPY", "pickle"),
        ("a.bin", b"x", "pickle"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_sentence(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        interp.read(tmp_path / name)
    text = str(caught.value)
    assert says in text and "\n" not in text and len(text) < 500
    assert name.split(".")[0] in text


def test_a_pickle_is_not_run(tmp_path):
    import pickle

    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    (tmp_path / "a.pkl").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(DataError, match="pickle"):
        interp.read(tmp_path / "a.pkl")
    assert not (tmp_path / "sprung").exists()


def test_a_missing_file_and_a_wrong_value():
    with pytest.raises(DataError, match="there is no file or folder nowhere.csv; give a csv"):
        interp.read("nowhere.csv")
    for value in (3, None, ["a", 3], object()):
        with pytest.raises(DataError, match="data must be a path, a list of strings"):
            interp.read(value)
    with pytest.raises(InterpError, match="demo:nothing is no demo data set"):
        interp.read("demo:nothing")
    with pytest.raises(DataError, match="not to be had.*give a local file"):
        interp.read("hf:nobody/has-this-7f3a[train]")


def test_a_part_of_a_split_is_asked_for(monkeypatch):
    import datasets

    asked = []
    table = datasets.Dataset.from_dict({"text": ["a", "b"]})
    monkeypatch.setattr(
        datasets, "load_dataset", lambda name, split: asked.append((name, split)) or table
    )
    for spec in ("hf:us/it", "hf:us/it[test]", "hf:us/it[train[10%:20%]]"):
        assert interp.read(spec).inputs == ["a", "b"] and name_of(spec) == "it"
    assert asked == [("us/it", s) for s in ("train", "test", "train[10%:20%]")]
    with pytest.raises(DataError, match="no file or folder"):
        interp.read("hf:us/it[train[1][2]]")


def make_images(folder):
    for label in ("cat", "dog"):
        (folder / label).mkdir(parents=True)
        for i in range(2):
            pixels = np.full((8, 8, 3), 40 * i + (100 if label == "cat" else 0), np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{i}.png")


def test_a_folder_of_images_in_class_folders(tmp_path):
    make_images(tmp_path / "pets")
    (tmp_path / "pets" / "notes.txt").write_text("not an image")
    data = interp.read(tmp_path / "pets")
    assert (data.name, data.kind, data.labels) == ("pets", "image", ("label",))
    assert data.rows["file"].tolist() == ["cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png"]
    assert data.rows["label"].tolist() == ["cat", "cat", "dog", "dog"]
    assert any("2 class folders" in n for n in data.label_notes)
    before = data.hash
    Image.new("RGB", (8, 8), (1, 2, 3)).save(tmp_path / "pets" / "dog" / "1.png")
    assert interp.read(tmp_path / "pets").hash != before
    Image.new("RGB", (8, 8)).save(tmp_path / "pets" / "loose.png")
    assert interp.read(tmp_path / "pets").labels == ()


def test_a_folder_without_images(tmp_path):
    with pytest.raises(DataError, match="holds no images"):
        interp.read(tmp_path)


def test_image_files_need_a_processor(tmp_path, tiny):
    make_images(tmp_path / "pets")
    with pytest.raises(DataError, match="has no processor"):
        interp.capture(tiny("vit"), tmp_path / "pets", "resid_post.0", pool="mean")


def test_image_files_go_through_the_processor(tmp_path, tiny):
    from transformers import ViTImageProcessor

    make_images(tmp_path / "pets")
    processor = ViTImageProcessor(size={"height": 16, "width": 16})
    model = interp.load(tiny("vit"), processor=processor)
    store = interp.capture(model, tmp_path / "pets", "resid_post.1", pool="mean", batch_size=3)
    image = Image.open(tmp_path / "pets" / "dog" / "1.png").convert("RGB")
    pixels = processor(images=[image], return_tensors="pt")["pixel_values"]
    _, acts = interp.run_with_cache(model, {"pixel_values": pixels}, "resid_post.1")
    by_hand = acts["resid_post.1"].mean(1)[0]
    torch.testing.assert_close(store["resid_post.1"][3], by_hand, atol=1e-5, rtol=1e-5)
    assert store.rows["label"].tolist() == ["cat", "cat", "dog", "dog"]
    (tmp_path / "pets" / "dog" / "1.png").write_bytes(b"not a png")
    with pytest.raises(DataError, match="row 3: the image .* cannot be read"):
        interp.capture(model, tmp_path / "pets", "resid_post.1", pool="mean", batch_size=3)


def test_safetensors(tmp_path):
    x, y = torch.randn(5, 3), torch.arange(5)
    save_file({"x": x, "label": y}, tmp_path / "a.safetensors")
    data = interp.read(tmp_path / "a.safetensors")
    assert data.kind == "tensor" and torch.equal(data.inputs, x)
    assert data.labels == ("label",) and data.rows["label"].tolist() == [0, 1, 2, 3, 4]
    save_file({"x": x, "z": x + 1}, tmp_path / "b.safetensors")
    with pytest.raises(DataError, match="must hold one tensor of inputs"):
        interp.read(tmp_path / "b.safetensors")
    save_file({"x": x, "label": torch.arange(4)}, tmp_path / "c.safetensors")
    with pytest.raises(DataError, match="columns of other lengths: {'label': 4}"):
        interp.read(tmp_path / "c.safetensors")
    with pytest.raises(DataError, match=r"must be a tensor \[rows"):
        interp.read(torch.ones(3))


def test_a_factory_of_data(tmp_path):
    (tmp_path / "made.py").write_text(
        "import torch\n"
        "def images():\n    return torch.ones(3, 2), torch.tensor([0, 1, 1]), ['no', 'yes']\n"
        "def texts():\n    return ['a', 'b']\n"
        "def number():\n    return 3\n"
        "def broken():\n    raise RuntimeError('no disk')\n"
    )
    data = interp.read(f"{tmp_path / 'made.py'}:images")
    assert data.rows["label"].tolist() == ["no", "yes", "yes"] and data.name == "images"
    assert interp.read(f"{tmp_path / 'made.py'}:texts").inputs == ["a", "b"]
    with pytest.raises(DataError, match="made.py:number gave int"):
        interp.read(f"{tmp_path / 'made.py'}:number")
    with pytest.raises(InterpError, match=r"broken\(\) failed: no disk"):
        interp.read(f"{tmp_path / 'made.py'}:broken")
    with pytest.raises(InterpError, match="there is no file"):
        interp.read(f"{tmp_path / 'none.py'}:texts")


def test_the_hash_is_of_inputs_labels_and_groups_alone():
    base = interp.read(table()).hash
    assert interp.read(table(), name="other").hash == base
    assert interp.read(table().assign(n=0)).hash == base  # neither text, label nor group
    assert interp.read(table(), label_column="n").hash != base
    assert interp.read(table().assign(label="x")).hash != base
    assert interp.read(table()[::-1]).hash != base
    assert interp.read(table(), group_column="n").hash != base
    x = torch.randn(4, 3)
    assert interp.read(x).hash == interp.read(x.clone()).hash != interp.read(x + 1).hash
    assert interp.read(x).hash != interp.read(x.reshape(2, 6)).hash


@pytest.mark.real
def test_the_real_files(real):
    cities = interp.read(real / "cities.csv")
    assert cities.text_column == "statement" and cities.labels == ("label",) and len(cities) > 1000
    assert interp.read(real / "cities.csv", group_column="city").group == "city"
    assert interp.read(real / "sentiment.csv").kind == "text"
    assert len(interp.read(real / "coin_flip.jsonl")) > 10


def test_fields_that_the_header_does_not_name_are_refused(tmp_path):
    shifted = tmp_path / "shifted.csv"
    shifted.write_text("text,label\n" + "hello, world,1\n" * 4)
    with pytest.raises(DataError, match="more fields than the header"):
        interp.read(shifted)
    quoted = tmp_path / "quoted.csv"
    quoted.write_text("text,label\n" + '"hello, world",1\n' * 4)
    assert interp.read(quoted).inputs == ["hello, world"] * 4


def test_two_columns_of_one_name_are_refused():
    table = pd.DataFrame([["a", 1, 2]], columns=["text", "label", "label"])
    with pytest.raises(DataError, match="two columns named 'label'"):
        interp.read(table)
