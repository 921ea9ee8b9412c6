"""The overview's table: every analysis with its number, escaped, in the order of reading."""

from dataclasses import replace

import numpy as np
import torch

import saes
from dashboards import Report
from dashboards.found import HEADLINES
from dashboards.overview import ORDER, headline
from interp.store import ActivationStore
from probes import aqi_by_layer, sparsity


def test_what_has_a_headline_has_a_place_and_is_a_kind_of_result():
    from interp.results import Result

    assert set(HEADLINES) <= set(ORDER) and len(set(ORDER)) == len(ORDER)
    assert set(ORDER) <= set(Result.KINDS)


def test_a_headline_is_the_results_own_number():
    x = torch.ones(10, 4)
    x[:, :3] = 0
    found = sparsity({"a": x}, "exact")
    assert headline(found) == "25.0% of the neurons active"
    beside = replace(found, initial_density=np.array([0.5]))
    assert headline(beside).endswith("50.0% with random weights")
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], 20)
    tensors = {"a": torch.from_numpy(rng.standard_normal((40, 3)) + 3 * y[:, None])}
    store = ActivationStore.from_tensors(tensors, {"label": y})
    layers = aqi_by_layer(store, "label", safe="0")
    assert headline(layers).startswith(f"AQI {layers.peak:.3f} [{layers.low[0]:.3f}, ")
    nothing = replace(layers, peak=None, peak_hookpoint=None)
    assert headline(nothing) == "undefined at every hook point"


def test_the_table_is_in_the_order_of_reading_and_escapes(features):
    a = torch.randn(20, 32, generator=torch.Generator().manual_seed(0))
    match = saes.match_latents(a, a, models=("x", "y"))
    named = replace(features(), unit="<i>latent")
    page = Report([named, match]).html()
    assert "&lt;i&gt;latents" in page and "<i>latent" not in page
    assert page.index("20 kept, 0 changed") < page.index("never fire")
