"""Mean images are exact means, in 0..1, with the normalisation undone."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import interp
from interp.errors import DataError
from probes.multifaceted.pictures import Pictures, contrast, mean_images


@pytest.fixture(scope="module")
def net():
    return interp.load("demo:digits")


def test_the_mean_of_fifteen_arrays_is_exact(net):
    data = interp.read("demo:digits")
    near = np.array([list(range(15)), [*range(15, 20), *[-1] * 10]])
    pictures = Pictures(net, data)
    means = mean_images(pictures, near)
    assert np.array_equal(means[0], data.inputs[:15].double().mean(0).float().numpy())
    assert np.array_equal(means[1], data.inputs[15:20].double().mean(0).float().numpy())


def test_normalised_images_come_back(net):
    data = interp.read("demo:digits")
    moved = replace(data, inputs=(data.inputs - 0.25) / 0.5)
    given = Pictures(net, moved, normalise=(0.25, 0.5)).read([3, 4])
    assert np.allclose(given, data.inputs[3:5].numpy(), atol=1e-6)
    with pytest.raises(DataError, match="reach from -0.5 to 1.5 .* normalise"):
        Pictures(net, moved).read(range(50))


def test_contrast_is_one_for_equal_images_and_low_for_noise(net):
    rng = torch.Generator().manual_seed(0)
    noise = torch.rand(32, 1, 8, 8, generator=rng)
    images = torch.cat([noise[:1].repeat(16, 1, 1, 1), noise[:16], torch.zeros(16, 1, 8, 8)])
    data = interp.read(images)
    near = np.arange(48).reshape(3, 16)
    pictures = Pictures(net, data)
    equal, mixed, flat = contrast(pictures, near, mean_images(pictures, near))
    assert np.isclose(equal, 1) and mixed == pytest.approx(0.25, abs=0.1) and np.isnan(flat)
