"""Which unit is meant, what it reads, and what is refused."""

import numpy as np
import pytest
import torch
from torch import nn

import interp
import saes
from interp.capturing import Capture
from interp.errors import LayerNotFound, ParameterError, ShapeError
from probes.multifaceted.fired import collect
from probes.multifaceted.units import deep_point, find_unit, output_names


@pytest.fixture(scope="module")
def net():
    return interp.load("demo:digits")


def test_outputs_have_names(net):
    assert output_names(net) == ("even", "prime", "has a loop")
    assert find_unit(net, None, "prime").index == find_unit(net, None, 1).index == 1
    assert find_unit(net, None, "1").name == "prime"
    assert find_unit(net, "relu3", 4).name == "relu3[4]"
    assert deep_point(net, False) == "out:in"
    with pytest.raises(ParameterError, match="'evn'; there are even, prime, .* 'even'"):
        find_unit(net, None, "evn")
    with pytest.raises(ParameterError, match="units of relu3 have no names"):
        find_unit(net, "relu3", "even")
    with pytest.raises(ParameterError, match="means 3"):
        find_unit(net, "conv*", 0)
    with pytest.raises(LayerNotFound):
        find_unit(net, "nothing", 0)
    with pytest.raises(ParameterError, match="not called|have no names"):
        find_unit(interp.load(nn.Sequential(nn.Linear(2, 2))), None, "x")
    with pytest.raises(ParameterError, match="no linear layer"):
        find_unit(interp.load(nn.Sequential(nn.ReLU())), None, 0)


def test_a_direction_along_a_unit_reads_that_unit(net):
    rows = torch.randn(5, 32)
    way = np.zeros(32)
    way[7] = 2.0  # taken at unit length
    unit, direction = find_unit(net, "relu3", 7), find_unit(net, "relu3", way)
    assert torch.allclose(unit.read(rows), direction.read(rows))
    with pytest.raises(ShapeError, match="32 numbers and relu3 holds 9"):
        direction.check(9)
    with pytest.raises(ParameterError, match="relu3 has units 0 to 31"):
        find_unit(net, "relu3", 32).check(32)
    with pytest.raises(ParameterError, match="not 0"):
        find_unit(net, "relu3", np.zeros(32))


def test_a_latent_reads_the_coder(net):
    sae = saes.TopKSAE(saes.TopKConfig(n_latents=20, k=4), d_in=32)
    unit = find_unit(net, "relu3", 3, coder=sae)
    rows = torch.randn(6, 32)
    assert torch.allclose(unit.read(rows), sae.encode(rows)[:, 3].double())
    assert unit.name == "latent 3 at relu3"
    with pytest.raises(ParameterError, match="latents 0 to 19"):
        find_unit(net, "relu3", 20, coder=sae).check(32)
    with pytest.raises(ShapeError, match="reads 32 numbers"):
        unit.check(16)


def test_images_fire_at_their_greatest_position_and_codes_are_means(net):
    data = interp.read("demo:digits")
    few = interp.data.replace(data, inputs=data.inputs[:70], rows=data.rows[:70])
    unit = find_unit(net, "relu3", 5)
    work = Capture(net, few, ["relu3", "relu2"], "all")
    found = collect(work, unit, "relu2", n_top=20)
    _, acts = interp.run_with_cache(net, few.inputs, ["relu3", "relu2"])
    most = acts["relu3"][:, 5].flatten(1).amax(1)
    best = most.argsort(descending=True)[:20].sort().values
    assert found.rows.tolist() == best.tolist() and found.read == 70
    assert found.firing == int((most > 0).sum()) and np.isclose(found.strongest, float(most.max()))
    assert np.allclose(found.activation, most[best], atol=1e-5)
    assert np.allclose(found.codes, acts["relu2"][best].mean((2, 3)), atol=1e-5)
    none = collect(work, unit, "relu2", n_top=20, threshold=1e6)
    assert len(none.rows) == 0 and none.strongest == found.strongest
    among = collect(work, unit, "relu2", n_top=20, among=[3, 60], threshold=1e6)
    assert among.rows.tolist() == [3, 60]


def test_texts_have_the_code_of_the_token_that_fires(gpt2, texts):
    data = interp.read(texts)
    unit = find_unit(gpt2, "mlp_act.0", 9)
    work = Capture(gpt2, data, ["mlp_act.0", "resid_post.-1"], "all")
    found = collect(work, unit, "resid_post.2", n_top=50, threshold=-10)
    assert len(found.rows) == len(texts)
    for i, text in enumerate(texts):
        _, acts = interp.run_with_cache(gpt2, [text], ["mlp_act.0", "resid_post.2"])
        values = acts["mlp_act.0"][0, :, 9]
        at = int(values.argmax())
        assert found.position[i] == at and np.isclose(found.activation[i], values[at], atol=1e-5)
        assert np.allclose(found.codes[i], acts["resid_post.2"][0, at], atol=1e-4)
        assert np.allclose(found.traces[i], values[: at + 4], atol=1e-5)
