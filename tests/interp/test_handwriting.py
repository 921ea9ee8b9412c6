"""demo:digits: three questions, their exact labels, and a network that answers them."""

import json

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

import interp
from interp.demo.handwriting import HELD_OUT, QUESTIONS, DigitsNet, digits, digits_net
from interp.errors import ModelError


def test_the_images_and_their_labels_are_exact():
    data = interp.read("demo:digits")
    known = load_digits()
    assert data.inputs.shape == (1797, 1, 8, 8) and float(data.inputs.max()) == 1
    assert np.array_equal(data.inputs[:, 0].numpy() * 16, known.images)
    assert data.rows["digit"].tolist() == known.target.tolist()
    assert data.labels == ("digit", "even", "prime", "has a loop")
    assert (data.rows["even"] == 1 - known.target % 2).all()
    assert set(data.rows.digit[data.rows["prime"] == 1]) == {2, 3, 5, 7}
    assert (data.rows["split"] == "test").sum() == HELD_OUT
    assert data.hash == digits().hash


def test_the_network_answers_what_its_card_says():
    net, data = interp.load("demo:digits"), digits()
    assert sum(p.numel() for p in net.module.parameters()) < 20_000
    test = np.array(data.rows["split"] == "test")
    with torch.no_grad():
        said = net(data.inputs[torch.from_numpy(test)]) > 0
    right = (said.numpy() == data.rows[list(QUESTIONS)].to_numpy()[test].astype(bool)).mean(0)
    card = json.loads((interp.demo.model_path("digits") / "card.json").read_text())
    assert np.allclose(right, list(card["held_out"]["accuracy"].values()), atol=0.0051)
    assert (right > 0.95).all()
    fresh = net.reinitialised()  # the arm: random weights know nothing
    with torch.no_grad():
        guess = fresh(data.inputs) > 0
    assert (guess.numpy() == data.rows[list(QUESTIONS)].to_numpy()).mean() < 0.7


def test_other_weights_are_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match="demo:digits cannot be loaded"):
        digits_net(tmp_path)
    before = torch.random.get_rng_state()
    assert isinstance(digits_net(interp.demo.model_path("digits")), DigitsNet)
    assert torch.equal(before, torch.random.get_rng_state())
