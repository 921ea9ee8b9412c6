"""Make a notebook of each tutorial: cells begin at ``# %%``, those of text at ``# %% [markdown]``.

python examples/notebooks.py          # writes examples/tutorial_*.ipynb
python examples/notebooks.py --check  # exit code 1 where a notebook is not its script's
"""

import argparse
import json
import sys
from pathlib import Path

FOLDER = Path(__file__).parent


def cells(text: str) -> list[dict[str, object]]:
    """The cells of a script; outputs are left empty, for whoever runs it."""
    found = []
    for part in text.split("# %%")[1:]:
        head, _, body = part.partition("\n")
        lines = body.strip("\n").splitlines(keepends=True)
        if head.strip() == "[markdown]":
            lines = [line.removeprefix("#").removeprefix(" ") for line in lines]
            found.append({"cell_type": "markdown", "metadata": {}, "source": lines})
        else:
            code = {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": []}
            found.append({**code, "source": lines})
    return [{"id": f"cell-{i}", **cell} for i, cell in enumerate(found)]


def notebook(script: Path) -> str:
    """A script as the text of a notebook."""
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    document = {
        "cells": cells(script.read_text(encoding="utf-8")),
        "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="notebooks of the tutorials")
    parser.add_argument("--check", action="store_true", help="write nothing; say what differs")
    check = parser.parse_args().check
    stale = []
    for script in sorted(FOLDER.glob("tutorial_*.py")):
        path, text = script.with_suffix(".ipynb"), notebook(script)
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(path.name)
        if not check:
            path.write_text(text, encoding="utf-8")
    if check and stale:
        sys.exit(
            f"not made from their scripts: {', '.join(stale)}; run python examples/notebooks.py."
        )


if __name__ == "__main__":
    main()
