"""The README holds: its code runs, its commands exist, its figures are those of the files."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from interp import demo
from interp.cli import COMMANDS, app

README = Path(__file__).parent.parent / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    source, features = blocks("python")
    exec(compile(source, "README.md", "exec"), {})
    assert (tmp_path / "report.html").stat().st_size > 1_000_000
    assert "def area(" in capsys.readouterr().out
    exec(compile(features, "README.md", "exec"), {})
    assert (tmp_path / "sae" / "model.safetensors").is_file()
    with pytest.raises(NameError):  # the arm that shows the block is really run
        exec(compile(source.replace("import interp, probes", "import probes"), "", "exec"), {})


def test_every_command_is_in_the_readme_and_every_option_it_shows_exists():
    text = README.read_text(encoding="utf-8")
    for name in COMMANDS:
        assert f"`interp {name}" in text
    for line in "\n".join(blocks("sh")).splitlines():
        if not line.startswith("interp "):
            continue
        command = line.split()[1 : 3 if line.split()[1] == "sae" else 2]
        usage = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "200"}).stdout
        for option in re.findall(r"--[a-z-]+", line):
            assert option in usage, (command, option)


def test_the_figures_of_the_demo_model_are_those_of_its_card():
    card = json.loads((demo.model_path("pylm") / "card.json").read_text())["held_out"]
    text = README.read_text(encoding="utf-8")
    own, bigram, unigram = (
        f"{card[key]:.3f}"
        for key in ("loss_nats_per_token", "bigram_nats_per_token", "unigram_nats_per_token")
    )
    words = " ".join(text.split())
    assert f"has {own} nats a token; the best bigram {bigram}, a unigram {unigram}" in words
