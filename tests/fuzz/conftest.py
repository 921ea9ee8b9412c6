"""The bench that cases are mutations of, made once; and where its parts lie."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))


@pytest.fixture(scope="session")
def bench(tmp_path_factory):
    import transformers
    from mutations.bench import Bench

    transformers.logging.disable_progress_bar()
    return Bench(tmp_path_factory.mktemp("fuzz") / "bench")


@pytest.fixture(autouse=True)
def _wide(monkeypatch, tmp_path):
    from interp.cli.shell import State

    monkeypatch.setattr(State, "debug", False)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    assert os.environ["HF_HUB_OFFLINE"] == "1"
