"""Neurons as latents, against their own activations and the weights they write with."""

import numpy as np
import pytest
import torch

import interp
import saes
from interp.errors import ParameterError

TEXTS = ["w2 w3 w4", "w5 w6 w7 w8", "w9"]


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_neuron_fires_where_it_is_above_0_and_writes_its_row(tiny, tokenizer, kind):
    model = interp.load(tiny(kind), tokenizer=tokenizer())
    found = saes.neuron_features(model, TEXTS, "mlp_act.1", top=2)
    store = interp.capture(model, TEXTS, ["mlp_act.1"], pool="all")
    x = store["mlp_act.1"][:].numpy()
    assert found.unit == "neuron" and len(found) == x.shape[1]
    np.testing.assert_array_equal(found.fires, (x > 0).sum(0))
    alive = found.fires > 0
    np.testing.assert_allclose(found.strongest[alive], x.max(0)[alive], rtol=1e-5)
    # what it writes: adding the neuron's unit of activation moves the MLP's output by its row
    point = model.resolve("mlp_act.1")[0]
    down = model.module.get_submodule(point.module)
    with torch.no_grad():
        eye = torch.eye(x.shape[1])
        written = down(eye) - down(torch.zeros_like(eye))
    unit = (written / written.norm(dim=1, keepdim=True)).numpy()
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -2)
    np.testing.assert_array_equal(found.neighbours["index"][:, 0], cosines.argmax(1))


def test_what_is_no_input_of_a_linear_layer_is_refused(tiny, tokenizer):
    model = interp.load(tiny("gpt2"), tokenizer=tokenizer())
    for wrong in ("resid_post.1", "embed"):
        with pytest.raises(ParameterError, match="where they enter a linear layer"):
            saes.neuron_features(model, TEXTS, wrong)
    with pytest.raises(ParameterError, match="at one hook point"):
        saes.neuron_features(model, TEXTS, "mlp_act.*")
