"""Data: text, images and tensors with the columns that label and group them.

`read` takes a path (csv, tsv, jsonl, json, parquet, txt, safetensors, a folder of images in class
folders), ``hf:NAME[split]``, ``file.py:factory``, ``demo:NAME``, or in Python a list of strings, a
DataFrame, a tensor. Columns are named or found; what was found is in the data set's notes.

A csv, tsv, jsonl, txt or parquet file of more than 256 MB is read in pieces into temporary files,
which are mapped into memory (`interp.mapped`: ``TMPDIR`` says where, and nothing of them is left);
the data set is the same. What is held in memory even so: one row group of a parquet file; a json
file; a file with a column that mixes kinds, or has no value in 4,096 rows; any file where pandas is
older than 3; and what ``hf:NAME`` gives, which can be captured in parts, a store each:
``hf:NAME[train[:10%]]``, ``hf:NAME[train[10%:20%]]``, ….
"""

import hashlib
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from interp import mapped
from interp.errors import DataError, ParameterError, closest, one_line
from interp.images import IMAGES, image_bytes
from interp.runs import parse_json

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

__all__ = ["Dataset", "read"]

TEXT_COLUMNS = ("text", "statement", "sentence", "question", "prompt", "content", "input", "review")
LABEL_COLUMNS = ("label", "labels", "target", "class", "answer", "y")
GROUP_COLUMNS = ("group", "group_id", "pair", "pair_id", "document", "file")
PICKLES = {".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt", ".npy", ".npz"}
HF = re.compile(r"hf:(?P<name>[^\[\]]+)(?:\[(?P<split>[^\[\]]+(?:\[[^\[\]]*\])?)\])?")


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Inputs for a model, and a table with a row for each.

    Attributes
    ----------
    name : short name for titles and ``metrics.json``, such as ``"cities"``.
    kind : what ``inputs`` are: ``"text"`` (list of strings, or `interp.mapped.MappedTexts`),
        ``"image"`` (list of paths or of PIL images), ``"tensor"`` ([n, ...], fed to the model as it
        is) or ``"pair"`` (list of tuples of an image and its text, `interp.read_pairs`).
    inputs : one a row.
    rows : DataFrame of the columns kept from the data, indexed 0..n-1.
    labels : names of the label columns; a missing value leaves that row out of that concept.
    group : name of the column whose values must not be split between train and test, or None.
    text_column : the column that holds the texts, or None.
    image_column : the column that names the images of pairs, or None.
    about : label column -> one line that says what the concept asks.
    marks : label column -> for each row the labels within its text, {offset in characters: label}
        of the token that ends there; they are the labels where each token has a row.
    notes : sentences on what was found and chosen while reading the inputs.
    label_notes : the same of the labels and groups, which not every use of the inputs needs.
    """

    name: str
    kind: Literal["text", "image", "tensor", "pair"]
    inputs: "Sequence[str] | list[Any] | Tensor"
    rows: "pd.DataFrame"
    labels: tuple[str, ...] = ()
    group: str | None = None
    text_column: str | None = None
    image_column: str | None = None
    about: dict[str, str] = field(default_factory=dict)
    marks: "dict[str, list[dict[int, Any]]]" = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    label_notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.inputs)

    @cached_property
    def hash(self) -> str:
        """sha256 of the inputs and of the label and group columns, 16 hex digits."""
        digest = hashlib.sha256(self.kind.encode())
        if self.kind == "tensor":
            x = cast("Tensor", self.inputs).detach().cpu().contiguous()
            digest.update(f"{x.dtype} {tuple(x.shape)}".encode())
            digest.update(memoryview(_bytes_of(x)))
        else:
            for item in cast("list[Any]", self.inputs):
                for part in item if self.kind == "pair" else (item,):
                    data = part.encode(*_UTF8) if isinstance(part, str) else image_bytes(part)
                    digest.update(len(data).to_bytes(8, "little") + data)
        for column in (*self.labels, *([self.group] if self.group else [])):
            digest.update(f"{column}:".encode(*_UTF8))
            for piece in _listed(self.rows[column]):
                digest.update(piece.encode(*_UTF8))
        return digest.hexdigest()[:16]


_UTF8 = ("utf-8", "surrogatepass")
LISTED = 10_000
"""Values of a column that are made Python objects at a time."""


def _listed(column: Any) -> Iterator[str]:
    """A Series as the list that Python writes, in pieces."""
    yield "["
    for start in range(0, len(column), LISTED):
        values = column.iloc[start : start + LISTED].tolist()
        yield (", " if start else "") + repr(values)[1:-1]
    yield "]"


def read(
    source: Any,
    *,
    text_column: str | None = None,
    label_column: str | Sequence[str] | None = None,
    group_column: str | None = None,
    name: str | None = None,
) -> Dataset:
    """A `Dataset` from whatever holds the data.

    Parameters
    ----------
    source : see the module's docstring. A `Dataset` is taken as it is.
    text_column, label_column, group_column : names of columns; found by their names where not
        given. Several label columns are several concepts.
    name : for titles; the file's name otherwise.

    Raises
    ------
    DataError
        The file is missing, empty, of an unknown kind, or cannot be parsed.
    ParameterError
        A column that was named is not there; the message lists the columns.
    """
    wanted = Columns(text_column, label_column, group_column)
    if isinstance(source, Dataset):
        return _rename_columns(source, wanted, name)
    if isinstance(source, str | Path):
        return _read_spec(str(source), wanted, name)
    return _from_value(source, wanted, name or "data")


def name_of(spec: str) -> str:
    """The name that `read` gives the data of a specification, without reading it."""
    if spec.startswith("demo:"):
        return spec.removeprefix("demo:")
    if match := HF.fullmatch(spec):
        return match["name"].split("/")[-1]
    path, colon, factory = spec.rpartition(":")
    return factory if colon and path.endswith(".py") else Path(spec).stem


@dataclass(frozen=True)
class Columns:
    """Columns that were asked for by name."""

    text: str | None = None
    label: str | Sequence[str] | None = None
    group: str | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """The label columns, none, one or several."""
        if self.label is None:
            return ()
        return (self.label,) if isinstance(self.label, str) else tuple(self.label)


def _read_spec(spec: str, wanted: Columns, name: str | None) -> Dataset:
    if spec.startswith("demo:"):
        from interp import demo

        return _rename_columns(demo.dataset(spec.removeprefix("demo:")), wanted, name)
    if match := HF.fullmatch(spec):
        return _from_hub(match["name"], match["split"], wanted, name)
    path, colon, factory = spec.rpartition(":")
    if colon and path.endswith(".py"):
        return _from_value(made_by(path, factory, spec), wanted, name or factory, spec)
    file = Path(spec).expanduser()
    if not file.exists():
        raise DataError(
            f"there is no file or folder {spec}; give a csv, jsonl, json, parquet, txt or "
            "safetensors file, a folder of images, hf:NAME[split], file.py:factory or demo:facts."
        )
    return _from_path(file, wanted, name or file.stem)


def made_by(path: str, factory: str, spec: str) -> Any:
    """What the function ``factory`` of a Python file gives."""
    from interp.loading import import_factory

    make = import_factory(path, factory, spec)
    try:
        return make()
    except Exception as error:  # the user's own code: any error of it is about the data
        raise DataError(f"{spec}: {factory}() failed: {one_line(error, 200)}.") from error


def _from_path(file: Path, wanted: Columns, name: str) -> Dataset:
    if file.is_dir():
        return _from_folder(file, wanted, name)
    if file.suffix.lower() == ".safetensors" and file.stat().st_size:
        return _from_safetensors(file, wanted, name)
    return _from_table(table_of(file), wanted, name)


def table_of(file: Path) -> "pd.DataFrame":
    """The table in a file: csv, tsv, jsonl, json, parquet or txt.

    Raises
    ------
    DataError
        It may be a pickle, is empty or of an unknown kind, or cannot be parsed.
    """
    suffix = file.suffix.lower()
    if suffix in PICKLES:
        raise DataError(
            f"{file} may be a pickle, which is not loaded; save its tensors with "
            "safetensors.torch.save_file."
        )
    if not file.is_file():
        raise DataError(f"{file} is no file that can be read twice; copy its rows into one.")
    if file.stat().st_size == 0:
        raise DataError(f"{file} is empty.")
    if suffix not in PARSERS:
        known = ", ".join([*PARSERS, ".safetensors"])
        raise DataError(f"{file} is of no known kind; known are {known} and folders of images.")
    if file.stat().st_size > mapped.LARGE:
        from interp.pieces import table_in_pieces

        options = {} if suffix not in SEPARATORS else {"sep": SEPARATORS[suffix], **CSV}
        table = table_in_pieces(file, **options)
        if table is not None:
            return table
    try:
        return PARSERS[suffix](file)
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 text ({error.reason} at {error.start}).") from error
    except (ValueError, OSError, KeyError, TypeError) as error:
        text = one_line(error, 200)
        raise DataError(f"{file} cannot be read as {suffix[1:]}: {text}.") from error


CSV: dict[str, Any] = {
    "index_col": False,
    "encoding": "utf-8-sig",
    "keep_default_na": False,  # text stays text: "NA" and "null" are words,
    "na_values": [""],  # and an empty field is missing
}
SEPARATORS = {".csv": ",", ".tsv": "\t"}


def _read_csv(file: Path, sep: str = ",") -> "pd.DataFrame":
    import pandas as pd

    with warnings.catch_warnings():  # it would drop the fields that the header does not name
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            return pd.read_csv(file, sep=sep, **CSV)
        except pd.errors.ParserWarning as error:
            raise ValueError(
                "rows have more fields than the header; put texts with commas in quotes"
            ) from error


def _read_lines(file: Path) -> "pd.DataFrame":
    import pandas as pd

    lines = file.read_text(encoding="utf-8-sig").split("\n")  # U+2028 is part of a text
    return pd.DataFrame({"text": [line for line in lines if line.strip()]})


def _read_json(file: Path, lines: bool = False) -> "pd.DataFrame":
    import pandas as pd

    text = file.read_text(encoding="utf-8-sig")
    if lines:
        records = [parse_json(line) for line in text.split("\n") if line.strip()]
    else:
        records = parse_json(text)
        if isinstance(records, dict) and not all(isinstance(v, list) for v in records.values()):
            lists = [v for v in records.values() if isinstance(v, list)]
            records = lists[0] if len(lists) == 1 else records
    if isinstance(records, list) and all(isinstance(r, str) for r in records):
        return pd.DataFrame({"text": records})
    if isinstance(records, list) and not all(isinstance(r, dict) for r in records):
        raise ValueError("expected a list of objects or of strings")
    return pd.DataFrame(records)


def _read_parquet(file: Path) -> "pd.DataFrame":
    import pandas as pd

    return pd.read_parquet(file)


PARSERS = {
    ".csv": _read_csv,
    ".tsv": lambda file: _read_csv(file, "\t"),
    ".jsonl": lambda file: _read_json(file, lines=True),
    ".json": _read_json,
    ".parquet": _read_parquet,
    ".txt": _read_lines,
}


def _from_folder(folder: Path, wanted: Columns, name: str) -> Dataset:
    """Images in class folders; images at the top have no class."""
    import pandas as pd

    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGES and p.is_file())
    if not files:
        raise DataError(f"the folder {folder} holds no images ({', '.join(sorted(IMAGES))}).")
    inside = [f.relative_to(folder) for f in files]
    rows = pd.DataFrame({"file": [p.as_posix() for p in inside]})
    labels: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    if all(len(p.parts) > 1 for p in inside):
        rows["label"] = [p.parts[0] for p in inside]
        labels = ("label",)
        notes = (f"labels are the {rows['label'].nunique()} class folders",)
    data = Dataset(
        name=name,
        kind="image",
        inputs=files,
        rows=rows,
        labels=labels,
        notes=(f"{len(files)} images",),
        label_notes=notes,
    )
    return _rename_columns(data, wanted, None)


def _from_safetensors(file: Path, wanted: Columns, name: str) -> Dataset:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(file)
    except (SafetensorError, OSError) as error:
        raise DataError(f"{file} is no safetensors file: {error}.") from error
    labels = {k: v for k, v in tensors.items() if v.ndim == 1 and not v.is_floating_point()}
    inputs = {k: v for k, v in tensors.items() if k not in labels}
    if len(inputs) != 1:
        raise DataError(
            f"{file} must hold one tensor of inputs, and integer vectors as columns; it holds "
            f"{', '.join(f'{k} {list(v.shape)}' for k, v in tensors.items())}."
        )
    x = next(iter(inputs.values()))
    return _from_tensor(x, {k: v.tolist() for k, v in labels.items()}, wanted, name)


def _from_hub(source: str, split: str | None, wanted: Columns, name: str | None) -> Dataset:
    return _from_table(hub_table(source, split), wanted, name or source.split("/")[-1])


def hub_table(source: str, split: str | None) -> "pd.DataFrame":
    """The table of a data set of the hub or its cache."""
    import datasets

    try:
        loaded = datasets.load_dataset(source, split=split or "train")
    except Exception as error:  # the library raises many kinds; each means "not to be had"
        raise DataError(
            f"the data set {source!r} is not to be had from the hub or its cache "
            f"({one_line(error, 200)}); give a local file instead."
        ) from error
    return cast("pd.DataFrame", loaded.to_pandas())


def _from_value(value: Any, wanted: Columns, name: str, spec: str = "") -> Dataset:
    import pandas as pd
    from torch import Tensor

    if isinstance(value, Dataset):
        return _rename_columns(value, wanted, None)
    if isinstance(value, pd.DataFrame):
        return _from_table(value, wanted, name)
    if isinstance(value, Tensor):
        return _from_tensor(value, {}, wanted, name)
    if isinstance(value, tuple) and 0 < len(value) <= 3 and isinstance(value[0], Tensor):
        labels, names = (*value[1:], None, None)[:2]
        columns: dict[str, Any] = {}
        if labels is not None:
            codes = labels.tolist() if isinstance(labels, Tensor) else list(labels)
            columns["label"] = [names[c] for c in codes] if names is not None else codes
        return _from_tensor(value[0], columns, wanted, name)
    if isinstance(value, Mapping):
        return _from_table(pd.DataFrame(dict(value)), wanted, name)
    if isinstance(value, list | tuple) and all(isinstance(v, str) for v in value):
        return _from_table(pd.DataFrame({"text": list(value)}), wanted, name)
    if isinstance(value, list | tuple) and all(isinstance(v, dict) for v in value):
        return _from_table(pd.DataFrame(list(value)), wanted, name)
    where = f"{spec} gave" if spec else "got"
    raise DataError(
        f"data must be a path, a list of strings, a DataFrame, a tensor or a tensor with labels; "
        f"{where} {type(value).__name__}."
    )


def _from_tensor(x: "Tensor", columns: dict[str, Any], wanted: Columns, name: str) -> Dataset:
    import pandas as pd

    if x.ndim < 2 or len(x) == 0:
        raise DataError(f"{name} must be a tensor [rows, ...] with rows; got {list(x.shape)}.")
    wrong = {k: len(v) for k, v in columns.items() if len(v) != len(x)}
    if wrong:
        raise DataError(f"{name} has {len(x)} rows and columns of other lengths: {wrong}.")
    rows = pd.DataFrame(columns, index=range(len(x)))
    chosen, group, notes = choose(rows, wanted)
    return Dataset(
        name=name,
        kind="tensor",
        inputs=x,
        rows=rows,
        labels=chosen,
        group=group,
        notes=(f"{len(x)} rows of {list(x.shape[1:])}",),
        label_notes=notes,
    )


def _from_table(table: "pd.DataFrame", wanted: Columns, name: str) -> Dataset:
    if len(table) == 0 or len(table.columns) == 0:
        raise DataError(f"{name} has no rows.")
    table = table.reset_index(drop=True)
    table.columns = [str(c) for c in table.columns]
    twice = table.columns[table.columns.duplicated()]
    if len(twice):
        raise DataError(f"{name} has two columns named {twice[0]!r}; rename one.")
    text, found = _text_column(table, wanted, name)
    texts = texts_of(table, text, name)
    labels, group, notes = choose(table, wanted, skip=text)
    return Dataset(
        name=name,
        kind="text",
        inputs=texts,
        rows=table,
        labels=labels,
        group=group,
        text_column=text,
        notes=(f"{len(table)} rows; texts from column {text!r}{found}",),
        label_notes=notes,
    )


def texts_of(table: "pd.DataFrame", column: str, name: str) -> Sequence[str]:
    """The texts of a column, decoded when asked for where they are large; refused where a row has
    none.
    """
    missing = table[column].isna().to_numpy()
    if missing.any():
        raise DataError(
            f"row {int(missing.argmax())} of {name} has no text in column {column!r}; drop such "
            "rows."
        )
    held = mapped.strings_of(table[column])
    if held is not None and held.nbytes > mapped.LARGE:
        return mapped.MappedTexts(held)
    texts = table[column].tolist()
    wrong = next((i for i, t in enumerate(texts) if not isinstance(t, str)), None)
    if wrong is not None:
        raise DataError(
            f"column {column!r} of {name} must hold text; row {wrong} holds {texts[wrong]!r}. Name "
            "another with --text-column."
        )
    return texts


def _text_column(table: "pd.DataFrame", wanted: Columns, name: str) -> tuple[str, str]:
    if wanted.text is not None:
        return existing(table, wanted.text, "text"), ""
    for column in TEXT_COLUMNS:
        if column in table.columns:
            return column, " (found by its name)"
    strings = [c for c in table.columns if all(isinstance(v, str) for v in table[c].head(50))]
    if not strings:
        raise DataError(
            f"{name} has no column of text; it has {', '.join(table.columns)}. Name one with "
            "--text-column."
        )
    longest = max(strings, key=lambda c: table[c].head(200).str.len().mean())
    return longest, " (the longest column of text)"


def choose(
    table: "pd.DataFrame", wanted: Columns, skip: str | None = None
) -> tuple[tuple[str, ...], str | None, tuple[str, ...]]:
    """Label columns, group column, and sentences on what was found."""
    notes: list[str] = []
    labels: tuple[str, ...] = tuple(existing(table, c, "label") for c in wanted.labels)
    if not labels:
        found = next((c for c in LABEL_COLUMNS if c in table.columns and c != skip), None)
        labels = () if found is None else (found,)
        if found is not None:
            notes.append(f"labels from column {found!r} (found by its name)")
    group = None if wanted.group is None else existing(table, wanted.group, "group")
    if group is None:
        free = [c for c in GROUP_COLUMNS if c in table.columns and c not in (*labels, skip)]
        group = free[0] if free else None
        if group is not None:
            notes.append(f"groups from column {group!r} (found by its name)")
    return labels, group, tuple(notes)


def existing(table: "pd.DataFrame", column: str, role: str) -> str:
    """The column again, if the table has it."""
    if column in table.columns:
        return column
    hint = closest(column, table.columns)
    raise ParameterError(
        f"there is no {role} column {column!r}; the data has "
        f"{', '.join(map(str, table.columns)) or 'none'}{'; ' + hint if hint else '.'}"
    )


def _rename_columns(data: Dataset, wanted: Columns, name: str | None) -> Dataset:
    """A data set with other label and group columns of its table chosen."""
    changes: dict[str, Any] = {} if name is None else {"name": name}
    if wanted.labels:
        changes["labels"] = tuple(existing(data.rows, c, "label") for c in wanted.labels)
    if wanted.group is not None:
        changes["group"] = existing(data.rows, wanted.group, "group")
    if wanted.text is not None and wanted.text != data.text_column:
        column = existing(data.rows, wanted.text, "text")
        changes |= {"text_column": column, "inputs": texts_of(data.rows, column, data.name)}
    return replace(data, **changes) if changes else data


def _bytes_of(x: "Tensor") -> Any:
    import torch

    return x.reshape(-1).view(torch.uint8).numpy()
