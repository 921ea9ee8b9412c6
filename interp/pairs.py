"""Pairs: images and the texts that go with them, a row each.

`read_pairs` takes a table (csv, tsv, jsonl, json, parquet) with a column of image files and one of
texts, a folder of images with a text file or a metadata table beside them, ``hf:NAME[split]``,
``file.py:factory``, ``demo:digits-clip``, or in Python a DataFrame, a list of tuples, a data set of
the library datasets.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.data import (
    HF,
    TEXT_COLUMNS,
    Columns,
    Dataset,
    choose,
    existing,
    hub_table,
    made_by,
    table_of,
    texts_of,
)
from interp.errors import DataError, ParameterError
from interp.images import IMAGES

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["images_of", "read_pairs", "texts_of_pairs"]

IMAGE_COLUMNS = (
    "image",
    "image_path",
    "image_file",
    "file_name",
    "filename",
    "file",
    "path",
    "img",
)
CAPTION_COLUMNS = ("caption", *TEXT_COLUMNS)
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
"""Tables that describe a folder of images, as the library datasets names them."""


def read_pairs(
    source: Any,
    *,
    image_column: str | None = None,
    text_column: str | None = None,
    label_column: str | Sequence[str] | None = None,
    group_column: str | None = None,
    name: str | None = None,
) -> Dataset:
    """Pairs of an image and a text, from whatever holds them.

    Image files are named relative to the table or folder that names them, and are opened when they
    are needed; that each is there is looked at now. In a folder without a metadata table each image
    has a ``.txt`` file of its name.

    Parameters
    ----------
    source : see the module's docstring. A `Dataset` of pairs is taken as it is.
    image_column, text_column : found by their names where not given. Cells of the image column are
        files, bytes of files, PIL images, or what the library datasets makes of them.
    label_column, group_column : as for `interp.read`.
    name : for titles; the file's name otherwise.

    Returns
    -------
    Dataset
        Of kind ``"pair"``.

    Raises
    ------
    DataError
        The source is missing, empty or of another kind; a row lacks its image or its text.
    ParameterError
        A column that was named is not there; the message lists the columns.
    """
    wanted = Columns(text_column, label_column, group_column)
    if isinstance(source, str | Path):
        return _read_spec(str(source), wanted, image_column, name)
    return _from_value(source, wanted, image_column, name or "pairs", Path())


def images_of(data: Dataset) -> Dataset:
    """The images of pairs, as data of one input a row."""
    held = [image for image, _ in data.inputs]
    return Dataset(name=f"{data.name}, images", kind="image", inputs=held, rows=data.rows)


def texts_of_pairs(data: Dataset) -> Dataset:
    """The texts of pairs, as data of one input a row."""
    held = [text for _, text in data.inputs]
    return Dataset(name=data.name, kind="text", inputs=held, rows=data.rows)


def _read_spec(spec: str, wanted: Columns, image: str | None, name: str | None) -> Dataset:
    if spec.startswith("demo:"):
        from interp import demo

        made = demo.dataset(spec.removeprefix("demo:"))
        return _from_value(made, wanted, image, name or made.name, Path())
    if match := HF.fullmatch(spec):
        table = hub_table(match["name"], match["split"])
        return _from_table(table, wanted, image, name or match["name"].split("/")[-1], Path())
    path, colon, factory = spec.rpartition(":")
    if colon and path.endswith(".py"):
        made = made_by(path, factory, spec)
        return _from_value(made, wanted, image, name or factory, Path(path).parent)
    file = Path(spec).expanduser()
    if not file.exists():
        raise DataError(
            f"there is no file or folder {spec}; give a csv, jsonl, json or parquet file with "
            "columns of images and texts, a folder of images with texts, hf:NAME[split], "
            "file.py:factory or demo:digits-clip."
        )
    if not file.is_dir():
        return _from_table(table_of(file), wanted, image, name or file.stem, file.parent)
    for held in METADATA:
        if (file / held).is_file():
            return _from_table(table_of(file / held), wanted, image, name or file.name, file)
    return _from_table(_beside(file), wanted, image, name or file.name, file)


def _beside(folder: Path) -> "pd.DataFrame":
    """Images of a folder with the texts in files of the same names; none may lack the other."""
    import pandas as pd

    files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    images = [p for p in files if p.suffix.lower() in IMAGES]
    texts = {p.with_suffix("") for p in files if p.suffix.lower() == ".txt"}
    if not images:
        raise DataError(f"the folder {folder} holds no images ({', '.join(sorted(IMAGES))}).")
    bare = [p for p in images if p.with_suffix("") not in texts]
    left = texts - {p.with_suffix("") for p in images}
    if bare or left:
        lacking = f"{bare[0].name} has no text" if bare else f"{min(left).name}.txt has no image"
        raise DataError(
            f"the folder {folder} holds {len(images)} images and {len(texts)} texts that do not "
            f"pair: {lacking}; give each image a .txt file of its name, or one metadata.csv."
        )
    rows = []
    for path in images:
        try:
            text = path.with_suffix(".txt").read_text(encoding="utf-8-sig").strip()
        except UnicodeDecodeError as error:
            raise DataError(f"{path.with_suffix('.txt')} is not UTF-8 text.") from error
        rows.append({"image": path.relative_to(folder).as_posix(), "caption": text or None})
    return pd.DataFrame(rows)


def _from_value(value: Any, wanted: Columns, image: str | None, name: str, base: Path) -> Dataset:
    import pandas as pd

    if isinstance(value, Dataset):
        if value.kind != "pair":
            raise DataError(f"{value.name} holds inputs of kind {value.kind}, not pairs.")
        return value
    if isinstance(value, pd.DataFrame):
        return _from_table(value, wanted, image, name, base)
    if hasattr(value, "to_pandas"):  # the library datasets: an image becomes its bytes
        return _from_table(value.to_pandas(), wanted, image, name, base)
    if isinstance(value, Mapping):
        counts = {str(k): len(v) for k, v in value.items()}
        if len(set(counts.values())) > 1:
            raise DataError(f"{name} has columns of different lengths, so none pairs: {counts}.")
        return _from_table(pd.DataFrame(dict(value)), wanted, image, name, base)
    if isinstance(value, list | tuple) and value:
        if all(isinstance(v, dict) for v in value):
            return _from_table(pd.DataFrame(list(value)), wanted, image, name, base)
        if all(isinstance(v, list | tuple) and len(v) == 2 for v in value):
            columns = {"image": [v[0] for v in value], "caption": [v[1] for v in value]}
            return _from_table(pd.DataFrame(columns), wanted, image, name, base)
    raise DataError(
        "pairs must be a path, a DataFrame with columns of images and texts, or a list of tuples "
        f"of an image and a text; got {type(value).__name__}."
    )


def _from_table(
    table: "pd.DataFrame", wanted: Columns, image: str | None, name: str, base: Path
) -> Dataset:
    if len(table) == 0 or len(table.columns) == 0:
        raise DataError(f"{name} has no rows.")
    table = table.reset_index(drop=True)
    table.columns = [str(c) for c in table.columns]
    pictured, seen = _column(table, image, IMAGE_COLUMNS, "image", name)
    spoken, said = _column(table.drop(columns=pictured), wanted.text, CAPTION_COLUMNS, "text", name)
    texts = texts_of(table, spoken, name)
    images = [_image(cell, i, base, name, pictured) for i, cell in enumerate(table[pictured])]
    named = [_name(cell, i) for i, cell in enumerate(table[pictured])]
    table = table.assign(**{pictured: named})
    labels, group, notes = choose(table.drop(columns=pictured), wanted, skip=spoken)
    return Dataset(
        name=name,
        kind="pair",
        inputs=list(zip(images, texts, strict=True)),
        rows=table,
        labels=labels,
        group=group,
        text_column=spoken,
        image_column=pictured,
        notes=(
            f"{len(table)} pairs; images from column {pictured!r}{seen}, texts from "
            f"{spoken!r}{said}",
        ),
        label_notes=notes,
    )


def _column(
    table: "pd.DataFrame", given: str | None, known: Sequence[str], role: str, name: str
) -> tuple[str, str]:
    if given is not None:
        return existing(table, given, role), ""
    found = next((c for c in known if c in table.columns), None)
    if found is None:
        raise ParameterError(
            f"{name} has no column of {role}s that is known by its name; it has "
            f"{', '.join(map(str, table.columns))}. Name one with --{role}-column."
        )
    return found, " (found by its name)"


def _image(cell: Any, row: int, base: Path, name: str, column: str) -> Any:
    """What a cell of the image column means; a file must be there."""
    if isinstance(cell, Mapping):  # the library datasets: the bytes, or where they lie
        cell = cell.get("bytes") or cell.get("path")
    if isinstance(cell, bytes) or hasattr(cell, "tobytes") and hasattr(cell, "convert"):
        return cell
    if not isinstance(cell, str | Path) or not str(cell).strip():
        raise DataError(
            f"row {row} of {name} has no image in column {column!r}; drop such rows."
            if cell is None or cell != cell or isinstance(cell, str)
            else f"column {column!r} of {name} must name image files; row {row} holds {cell!r:.60}."
        )
    if "://" in str(cell):
        raise DataError(
            f"row {row} of {name} names an address, {str(cell)[:80]}; images are not fetched, "
            "download them and name the files."
        )
    file = base / Path(cell).expanduser()
    if not file.is_file():
        raise DataError(
            f"row {row} of {name} names the image {file}, and there is no such file; drop the row, "
            "or name images relative to the table."
        )
    return file


def _name(cell: Any, row: int) -> str:
    """How a row's image is called in tables."""
    if isinstance(cell, Mapping):
        cell = cell.get("path")
    return str(cell) if isinstance(cell, str | Path) and str(cell) else f"image {row}"
