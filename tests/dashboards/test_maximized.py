"""The curves of activation maximisation hold the trace."""

from dataclasses import replace

import numpy as np
import pytest

import dashboards
from dashboards.figures import FIGURES
from probes import Maximized


@pytest.fixture
def result():
    trace = np.outer(np.arange(6.0), [1.0, 2.0])
    images = np.full((2, 1, 3, 3), 0.5, np.float32)
    return Maximized(
        name="even",
        n=2,
        images=images,
        activation=trace[-1],
        start_activation=trace[0],
        trace=trace,
        objective="output[0] <b>",
        hookpoints=("output",),
        schedule="lucid",
        canvas=None,
        opacity=images[:, 0],
        mean=(0.0,),
        std=(1.0,),
        started="images",
        seed=0,
        provenance={"data": {"name": "digits"}},
    )


def test_the_curves_are_the_trace(result):
    fig = dashboards.figure(result)
    assert [t.name for t in fig.data] == ["image 0", "image 1"]
    assert np.allclose(fig.data[1].y, result.trace[:, 1])
    assert "images start between 0 and 0 and end between 5 and 10" in fig.layout.meta["alt"]
    assert Maximized in FIGURES and result.plot().data


def test_many_images_are_cut_and_said(result):
    many = replace(
        result, n=30, trace=np.ones((6, 30)), activation=np.ones(30), start_activation=np.zeros(30)
    )
    fig = dashboards.figure(many)
    assert len(fig.data) == 25 and "first 25 of 30" in fig.layout.meta["alt"]
    looks = {(t.line.color, t.line.dash) for t in fig.data}
    assert len(looks) == 25


def test_the_page_escapes_the_objective_and_has_its_table(result):
    page = dashboards.Report([result]).html()
    assert "start_activation" in page and "<b>" not in page.split("<body", 1)[1][:5000]
    assert "images that fire it" in page and result._repr_html_()


def test_the_page_shows_the_images_and_which_one_stopped(result):
    stopped = replace(result, reasons={"image 1": "the gradient was zero at <every> step"})
    page = dashboards.Report([stopped]).html()
    assert page.count('alt="Image ') == 2 and "10, from 0" in page
    assert "the gradient was zero at &lt;every&gt; step" in page
    assert "Images that fire output[0] &lt;b&gt;" in page
