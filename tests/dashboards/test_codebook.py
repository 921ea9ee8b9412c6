"""Figures of codebooks: the numbers drawn, the words, and text from data as text."""

from dataclasses import replace

import numpy as np
import pytest

import dashboards
from dashboards.figures import FIGURES
from saes.codebook import CodebookTraining, CodePatterns, CodeSteering, TokFSMScores
from saes.codebook.reading import PatternCode

EVIL = "<script>alert(1)</script>"


def training(**more):
    steps = np.arange(1, 31)
    values = {"mlp_out.0": np.linspace(2, 0.5, 30), "mlp_out.1": np.linspace(3, 0.7, 30)}
    fields = {
        "name": "facts.codebooks",
        "n": 3000,
        "configs": {n: {"n_codes": 20, "k": 2} for n in values},
        "steps": steps,
        "total": 5 - steps / 10,
        "language": 4 - steps / 10,
        "accuracy": steps / 100,
        "reconstruction": values,
        "fvu": values,
        "dead": {n: np.full(30, 0.25) for n in values},
        "lr": np.full(30, 1e-3),
        "reference": 0.5,
        "held_out": {"the model as it was": 3.0, "with codebooks": 3.25},
    }
    return CodebookTraining(**{**fields, **more})


def patterns(name="facts"):
    rows = (
        PatternCode("self", "mlp_out.1", 7, 0.9, 0.5, "mlp_out.0:3", 0.6, 0.5, 0.02, 40),
        PatternCode("self", "mlp_out.0", 3, 0.2, 0.1, "mlp_out.0:3", None, 0.0, 0.02, 9),
        PatternCode(EVIL, "mlp_out.0", 5, None, 0.0, "attn_out.0:1", 0.3, 0.2, 0.1, 2),
    )
    return CodePatterns(
        name=name, n=500, documents=20, patterns={"self": "self", EVIL: "x"},
        hookpoints=("mlp_out.0", "mlp_out.1"), found=rows, fired={"mlp_out.0": 0.5},
    )  # fmt: skip


def steering():
    return CodeSteering(
        name="self", n=40, codes=(("mlp_out.1", 7),), pattern="self", prompts=("def f(",),
        counts={"without": 4, "with": 30, "random codes": 5},
        intervals={"without": (0.04, 0.23), "with": (0.6, 0.86), "random codes": (0.05, 0.26)},
        texts={"without": ("a",), "with": (f"self {EVIL}",), "random codes": ("b",)},
        tokens=20, temperature=1.0, seed=0, every_slot=True,
    )  # fmt: skip


def tokfsm():
    return TokFSMScores(
        name="tokfsm.attn", n=100, loss=1.2, floor=1.17, accuracy=0.45, best_accuracy=0.46,
        state_accuracy=0.8, state_interval=(0.78, 0.82), state_chance=0.1, first_accuracy=0.7,
        overlap=0.9, purity={"head_out.0": 0.1}, pair_purity={"head_out.0": 0.2},
        interchange={"head_out.0": 0.7, "all head_out": 0.5},
        states={"code precision": 0.9, "code recall": 0.8, "neuron precision": 0.5,
                "neuron recall": 0.7, "states": 100},
        forced={"codes": (60, 100), "clean": (10, 100), "random codes": (12, 100)},
    )  # fmt: skip


RESULTS = {"training": training, "patterns": patterns, "steering": steering, "tokfsm": tokfsm}


def test_training_curves_are_the_log():
    result = training()
    lines = {t.name: t for t in dashboards.figure(result).data}
    assert np.allclose(lines["loss of next tokens"].y, result.language, atol=1e-6)
    assert np.allclose(lines["mlp_out.1"].y, result.fvu["mlp_out.1"], atol=1e-6)
    assert set(lines["floor 0.5000"].y) == {0.5}
    alt = dashboards.figure(result).layout.meta["alt"]
    assert "from 3.9000 to" in alt and "0.5000 is the least possible" in alt and "25.0% dead" in alt
    bare = replace(result, fvu={}, configs={}, reference=None)
    assert [t.name for t in dashboards.figure(bare).data] == ["loss of next tokens"]


def test_pattern_dots_are_the_best_codes():
    code, neuron, chance = dashboards.figure(patterns()).data
    assert code.x.tolist()[0] == pytest.approx(0.9) and np.isnan(code.x[1])
    assert neuron.x.tolist() == pytest.approx([0.6, 0.3]) and chance.x.tolist()[0] == pytest.approx(
        0.02
    )
    assert "self: code 0.90, neuron 0.60" in dashboards.figure(patterns()).layout.meta["alt"]
    assert dashboards.figure(replace(patterns(), found=())).data


def test_steering_bars_hold_counts_and_intervals():
    (bar,) = dashboards.figure(steering()).data
    assert bar.x.tolist() == pytest.approx([0.1, 0.75, 0.125])
    assert bar.error_x.array[1] == pytest.approx(0.11, abs=1e-6)
    assert "with: 30 of 40" in dashboards.figure(steering()).layout.meta["alt"]


def test_tokfsm_bars_hold_shares():
    (bar,) = dashboards.figure(tokfsm()).data
    assert bar.x.tolist() == pytest.approx([0.8, 0.6, 0.1, 0.12, 0.7, 0.5])
    assert bar.error_x.array[1] > 0.05 and np.isnan(bar.error_x.array[4])
    assert "forced by codes: 60 of 100" in dashboards.figure(tokfsm()).layout.meta["alt"]


@pytest.mark.parametrize("kind", RESULTS)
def test_every_result_has_a_figure_a_page_and_a_file(kind, tmp_path):
    result = RESULTS[kind]()
    assert type(result) in FIGURES
    back = type(result).load(result.save(tmp_path / "r.json"))
    assert dashboards.figure(back).to_dict()["data"][0].keys()
    page = dashboards.Report([back]).html()
    assert EVIL not in page
    if kind in ("patterns", "steering"):
        assert "&lt;script&gt;alert(1)" in page
    assert len(back.to_frame()) and back._repr_html_()


def test_a_share_of_all_texts_is_inside_the_axis():
    all_of_them = replace(steering(), counts={"without": 0, "with": 40, "random codes": 1})
    assert dashboards.figure(all_of_them).layout.xaxis.range[1] > 1
