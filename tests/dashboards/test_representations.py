"""Figures of information, bias, removal, prototypes, recall: numbers, words and escapes."""

import numpy as np
import plotly.offline
import pytest
import torch
from torch import nn

import probes
from dashboards import Report, figure
from dashboards.figures import FIGURES
from dashboards.report import READING
from probes.shortcut import mlp_fit

EVIL = "<img src=x onerror=alert(1)>"
RNG = np.random.default_rng(0)
Y = np.repeat([0, 1, 2], 20)
X = RNG.normal(size=(60, 5)) + 3 * np.eye(5)[Y]


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.conv(x).relu().mean((2, 3)))


def patched():
    return probes.TokenPatching(
        name="p", n=4, text=f"a dog {EVIL}", hookpoint="resid_post.1", items=("dog", EVIL),
        spans=((1,), (2,)), tokens=("[CLS]", " dog", EVIL, "[SEP]"), clean=np.array([0.9, 0.8]),
        empty=np.array([0.1, 0.2]), sufficiency=np.array([[0.0, 0.8, 0.1, 0.0], [np.nan] * 4]),
        item_alone=np.eye(2), leakage=np.array([[np.nan, -0.02], [0.01, np.nan]]),
        isolated=np.array([-0.1, 0.0]), swaps=("cat", "x"), reasons={EVIL: "none."},
    )  # fmt: skip


@pytest.fixture(scope="module")
def results():
    task = probes.mqar(20, length=32, pairs=4, vocabulary=64)
    torch_images = torch.randn(12, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    names = np.array(["a", EVIL, "c"])[Y]
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    return {
        "plane": probes.information_plane({"l.0": X, EVIL: X[:, :1]}, Y, bins=3),
        "training": probes.information_plane([X, 2 * X], Y, steps=[0, 9], method="kernel"),
        "infomec": probes.infomec(np.stack([Y, Y % 2], 1), {EVIL: Y, "odd": Y % 2}),
        "explained": probes.variance_explained(
            {"l.0": X, "l.1": X**2}, {EVIL: names, "odd": Y % 2}
        ),
        "shortcut": probes.shortcut_bias(
            mlp_fit((), steps=3), availability=(1.0, 2.0), predictivity=(0.8,), n=32, seeds=1
        ),
        "complexity": probes.feature_complexity(net),
        "removal": probes.removal_curve(Small(), torch_images, shares=(0.5,)),
        "patching": patched(),
        "prototypes": probes.prototypes(X, 4, names),
        "unlabelled": probes.prototypes(X, 4),
        "recall": probes.recall_by_gap(task, probes.induction_oracle(task.inputs)),
    }


KEYS = ("plane", "training", "infomec", "explained", "shortcut", "complexity", "removal",
        "patching", "prototypes", "unlabelled", "recall")  # fmt: skip


@pytest.mark.parametrize("key", KEYS)
def test_each_is_drawn_with_words_and_nothing_of_the_data_is_markup(results, key):
    result = results[key]
    assert type(result) in FIGURES and type(result) in READING
    fig = figure(result)
    assert len(fig.data) and len(fig.layout.meta["alt"]) > 40
    drawn = fig.to_dict()
    drawn["layout"].pop("meta")  # the page escapes it
    assert "<img" not in repr(drawn)
    page = Report([result]).html().replace(plotly.offline.get_plotlyjs(), "")
    assert "<img" not in page
    assert len(result.to_frame()) and result.metrics()


def test_the_plane_draws_its_numbers_and_its_ceiling(results):
    r = results["plane"]
    fig = figure(r)
    np.testing.assert_array_equal(fig.data[0].x, r.xt[0].astype(np.float32))
    np.testing.assert_array_equal(fig.data[0].y, r.ty[0].astype(np.float32))
    ceiling = next(t for t in fig.data if t.name.startswith("log2 n"))
    assert ceiling.x[0] == pytest.approx(np.log2(60))
    assert len([t for t in figure(results["training"]).data if t.name.startswith("step")]) == 2
    assert all(c in READING[type(r)](r) for c in r.caveats)


def test_lines_and_cells_are_the_results_numbers(results):
    r = results["explained"]
    np.testing.assert_array_equal(figure(r).data[0].y, r.raw[:, 0].astype(np.float32))
    r = results["removal"]
    np.testing.assert_array_equal(figure(r).data[0].y, r.agreement[0].astype(np.float32))
    r = results["patching"]
    cells = [t for t in figure(r).data if t.type == "heatmap"]
    np.testing.assert_array_equal(cells[0].z, r.sufficiency.astype(np.float32))
    np.testing.assert_array_equal(cells[1].z[:, :2], r.leakage.astype(np.float32))
    assert "undefined" in figure(r).layout.meta["alt"]


def test_a_report_of_all_is_one_file(results):
    page = Report(results.values()).html()
    assert "information plane" in page and "token patching" in page
    assert len(page) < 6_500_000
