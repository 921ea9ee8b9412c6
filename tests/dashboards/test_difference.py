"""Differences as pictures: the alt text says what moved, and the page shows what was kept."""

import numpy as np
import torch

import saes
from dashboards import Report, figure
from probes import sparsity, sparsity_difference
from probes.difference import DepthDifference


def depth_difference(**changes):
    fields = dict(
        name="facts.label",
        n=100,
        models=("base", "tuned"),
        hookpoints=("resid_post.0", "resid_post.1", "resid_post.2"),
        first=np.array([0.5, 0.6, 0.9]),
        second=np.array([0.5, 0.5, 0.6]),
        delta=np.array([0.0, -0.1, -0.3]),
        low=np.array([-0.1, -0.2, -0.4]),
        high=np.array([0.1, 0.05, -0.2]),
        points={"peak_shift": -0.3, "peak_shift_low": -0.4, "peak_shift_high": -0.2},
        draws=1000,
        seed=0,
    )
    return DepthDifference(**{**fields, **changes})


def alt_of(result):
    return figure(result).to_dict()["layout"]["meta"]["alt"]


def test_the_alt_text_names_the_largest_difference_and_what_is_clear_of_0():
    alt = alt_of(depth_difference())
    assert "largest at resid_post.2, -0.300, interval -0.400 to -0.200" in alt
    assert "clear of 0 at 1 of 3" in alt
    none = np.full(3, np.nan)
    assert "without an interval" in alt_of(depth_difference(low=none, high=none))
    nothing = depth_difference(
        hookpoints=(), **{k: np.empty(0) for k in ("first", "second", "delta", "low", "high")}
    )
    assert "no hook point is in both" in alt_of(nothing)


def test_a_page_of_all_of_them():
    x = torch.ones(10, 4)
    x[::2] = 0
    quiet = x.clone()
    quiet[:, 0] = 0
    shift = sparsity_difference(sparsity({"a": x}, "exact"), sparsity({"a": quiet}, "exact"))
    a = torch.randn(20, 32, generator=torch.Generator().manual_seed(0))
    match = saes.match_latents(a, torch.cat([a[:15], -a[15:]]), models=("<b>one", "two"))
    page = Report([depth_difference(), shift, match]).html()
    assert "peak -0.300 (-0.400 to -0.200)" in page
    assert "15 kept" in page and "5 gone" in page
    assert "&lt;b&gt;one" in page and "<b>one" not in page.replace("\\u003cb>one", "")
    counted = [sum(trace.y) for trace in figure(match).select_traces()]
    assert counted == [15, match.counts["changed"]]
