"""Pairs of images and texts: every source, and one sentence for what is wrong with a row."""

import datasets
import numpy as np
import pandas as pd
import pytest
from PIL import Image

import interp
from interp.data import Dataset
from interp.errors import DataError, ParameterError
from interp.images import open_image
from interp.pairs import images_of, read_pairs, texts_of_pairs


def picture(shade):
    return Image.new("RGB", (4, 4), (shade, 0, 0))


@pytest.fixture
def album(tmp_path):
    """Three images in a folder, and their captions."""
    for i in range(3):
        picture(80 * i).save(tmp_path / f"{i}.png")
    return tmp_path, ["a dark one", "a red one", "a bright one"]


def shades(data):
    """The red of each image, which tells which one it is."""
    return [open_image(image, i).getpixel((0, 0))[0] for i, (image, _) in enumerate(data.inputs)]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "json", "parquet"])
def test_a_table_names_images_beside_it(album, suffix):
    folder, captions = album
    table = pd.DataFrame({"image": ["2.png", "0.png", "1.png"], "caption": captions, "label": 1})
    path = folder / f"pairs.{suffix}"
    match suffix:
        case "csv" | "tsv":
            table.to_csv(path, index=False, sep="\t" if suffix == "tsv" else ",")
        case "parquet":
            table.to_parquet(path)
        case _:
            table.to_json(path, orient="records", lines=suffix == "jsonl")
    data = read_pairs(path)
    assert data.kind == "pair" and shades(data) == [160, 0, 80]
    assert [text for _, text in data.inputs] == captions
    assert (data.image_column, data.text_column, data.labels) == ("image", "caption", ("label",))
    assert "found by its name" in data.notes[0]


def test_columns_are_taken_by_name_and_missing_ones_are_named(album):
    folder, captions = album
    table = pd.DataFrame({"photo": [str(folder / f"{i}.png") for i in range(3)], "said": captions})
    data = read_pairs(table, image_column="photo", text_column="said")
    assert shades(data) == [0, 80, 160] and "found" not in data.notes[0]
    with pytest.raises(ParameterError, match="no column of images .* photo, said.*--image-column"):
        read_pairs(table)
    with pytest.raises(ParameterError, match="no column of texts .*--text-column"):
        read_pairs(table, image_column="photo")
    with pytest.raises(ParameterError, match="no image column 'foto'.*did you mean 'photo'"):
        read_pairs(table, image_column="foto")


def test_a_folder_pairs_by_name_or_by_its_metadata(album):
    folder, captions = album
    for i, text in enumerate(captions):
        (folder / f"{i}.txt").write_text(f"{text}\n", encoding="utf-8")
    data = read_pairs(folder)
    assert shades(data) == [0, 80, 160] and [t for _, t in data.inputs] == captions
    pd.DataFrame({"file_name": ["1.png"], "text": ["the red one"]}).to_csv(
        folder / "metadata.csv", index=False
    )
    data = read_pairs(folder)
    assert shades(data) == [80] and data.inputs[0][1] == "the red one"


def test_what_does_not_pair_is_refused(album):
    folder, captions = album
    for i in range(2):
        (folder / f"{i}.txt").write_text(captions[i], encoding="utf-8")
    with pytest.raises(DataError, match=r"3 images and 2 texts that do not pair: 2\.png has no"):
        read_pairs(folder)
    (folder / "2.txt").write_text("c", encoding="utf-8")
    (folder / "9.txt").write_text("c", encoding="utf-8")
    with pytest.raises(DataError, match=r"9\.txt has no image"):
        read_pairs(folder)
    with pytest.raises(DataError, match="different lengths.*'image': 1, 'caption': 2"):
        read_pairs({"image": [picture(0)], "caption": ["a", "b"]})


def test_values_in_hand(album):
    folder, captions = album
    tuples = [(picture(80 * i), text) for i, text in enumerate(captions)]
    data = read_pairs(tuples)
    assert shades(data) == [0, 80, 160] and data.rows["image"].tolist()[1] == "image 1"
    bytes_ = [(folder / f"{i}.png").read_bytes() for i in range(3)]
    held = datasets.Dataset.from_dict({"image": bytes_, "caption": captions})
    assert shades(read_pairs(held)) == [0, 80, 160]
    cells = [{"bytes": None, "path": str(folder / f"{i}.png")} for i in range(3)]
    assert shades(read_pairs(pd.DataFrame({"image": cells, "caption": captions}))) == [0, 80, 160]
    assert read_pairs(data) is data
    assert images_of(data).kind == "image" and texts_of_pairs(data).inputs == captions


def test_the_hash_knows_images_texts_and_their_order():
    one, two = picture(10), picture(20)
    hashes = {
        read_pairs(pairs).hash
        for pairs in (
            [(one, "a"), (two, "b")],
            [(two, "a"), (one, "b")],
            [(one, "b"), (two, "a")],
            [(one, "a"), (two, "c")],
            [(one.resize((2, 8)), "a"), (two, "b")],
        )
    }
    assert len(hashes) == 5
    assert read_pairs([(one, "a"), (two, "b")]).hash in hashes


@pytest.mark.parametrize(
    ("cells", "texts", "says"),
    [
        (["0.png", "9.png"], ["a", "b"], r"row 1 of pairs names the image .*9\.png.*no such file"),
        (["0.png", None], ["a", "b"], "row 1 of pairs has no image in column 'image'"),
        (["0.png", float("nan")], ["a", "b"], "row 1 of pairs has no image"),
        (["0.png", ""], ["a", "b"], "row 1 of pairs has no image"),
        (["0.png", 7], ["a", "b"], "must name image files; row 1 holds 7"),
        (["0.png", "https://a.b/c.png"], ["a", "b"], "row 1 of pairs names an address"),
        (["0.png", "1.png"], ["a", None], "row 1 of pairs has no text in column 'caption'"),
        (["0.png", "1.png"], ["a", float("nan")], "row 1 of pairs has no text"),
        (["0.png", "1.png"], ["a", 3], "must hold text; row 1 holds 3"),
    ],
)
def test_a_bad_row_is_named(album, monkeypatch, cells, texts, says):
    monkeypatch.chdir(album[0])
    with pytest.raises(DataError, match=says):
        read_pairs(pd.DataFrame({"image": cells, "caption": texts}))


def test_other_sources_are_refused(tmp_path):
    for value in (7, [], ["a"], [("a",)]):
        with pytest.raises(DataError, match="pairs must be a path|has no rows"):
            read_pairs(value)
    with pytest.raises(DataError, match="no file or folder nowhere.csv"):
        read_pairs("nowhere.csv")
    with pytest.raises(DataError, match="holds no images"):
        read_pairs(tmp_path)
    with pytest.raises(DataError, match="kind text, not pairs"):
        read_pairs(interp.read(["a text"]))
    with pytest.raises(DataError, match="kind text, not pairs"):
        read_pairs("demo:facts")


def test_an_image_that_cannot_be_decoded_names_its_row(tmp_path):
    path = tmp_path / "bad.png"
    picture(9).save(path)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError, match=r"row 3: the image .*bad\.png cannot be read"):
        open_image(path, 3)
    with pytest.raises(DataError, match="row 4: the image in the data cannot be read"):
        open_image(b"no image", 4)
    with pytest.raises(DataError, match=r"the image .*gone\.png cannot be read"):
        _ = Dataset(
            name="x", kind="pair", inputs=[(tmp_path / "gone.png", "a")], rows=pd.DataFrame([0])
        ).hash
    grey = Image.fromarray(np.full((2, 2), 7, np.uint8))
    assert open_image(grey, 0).getpixel((0, 0)) == (7, 7, 7)
