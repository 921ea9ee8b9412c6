"""Figures as files: drawn by a browser where there is one, and one sentence where there is none."""

import shutil
import sys

import pytest

from dashboards import save_figures
from interp.errors import MissingExtra, ParameterError, StoreError


def test_each_figure_becomes_a_png_and_an_svg(depth, tmp_path, monkeypatch):
    pytest.importorskip("kaleido", reason="kaleido is not installed: pip install interp[pictures]")
    browser = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")
    if browser is None:
        pytest.skip("no Chromium on the PATH: apt install chromium")
    monkeypatch.setenv("BROWSER_PATH", browser)
    files = save_figures([depth(), depth("a/b.label")], tmp_path / "figures")
    assert len(files) == len({f.name for f in files}) == 4
    assert all(f.parent == tmp_path / "figures" for f in files)
    assert files[0].read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    text = files[1].read_text(encoding="utf-8")
    assert text.startswith("<svg") and "<script" not in text


def test_without_kaleido_it_says_what_to_install(depth, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "kaleido", None)
    monkeypatch.setattr("plotly.io._kaleido.kaleido_available", lambda: False)
    with pytest.raises(MissingExtra, match=r"pip install 'interp\[pictures\]'"):
        save_figures([depth()], tmp_path)


def test_what_is_refused(depth, tmp_path):
    with pytest.raises(ParameterError, match="formats are of png"):
        save_figures([depth()], tmp_path, formats=["gif"])
    with pytest.raises(ParameterError, match="none of these results"):
        save_figures([], tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot write"):
        save_figures([depth()], tmp_path / "file" / "x")
