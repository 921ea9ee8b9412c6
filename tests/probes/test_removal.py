"""Curves of removal: nothing taken is the model, and patches are taken as asked."""

import numpy as np
import pytest
import torch
from torch import nn

from interp.errors import ParameterError, ShapeError
from probes.removal import WAYS, patch_masks, removal_curve


class Bright(nn.Module):
    """Answers 1 where the mean of the image is above 0."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1, bias=False)
        nn.init.constant_(self.conv.weight, 0.0)
        with torch.no_grad():
            self.conv.weight[0, 0, 1, 1] = 1.0

    def forward(self, x):
        mean = self.conv(x).mean((2, 3))
        return torch.cat([torch.zeros_like(mean), 10 * (mean - 0.4)], 1)


Y = torch.arange(40) % 2
IMAGES = (0.5 * Y).reshape(40, 1, 1, 1).expand(40, 1, 16, 16) + 0.1 * torch.rand(
    40, 1, 16, 16, generator=torch.Generator().manual_seed(0)
)


def test_nothing_taken_is_the_model_and_masking_keeps_the_mean_where_paint_moves_it(tmp_path):
    found = removal_curve(Bright(), IMAGES, Y, shares=(0.5, 0.75))
    assert found.shares == (0.0, 0.5, 0.75) and found.ways == WAYS
    assert (found.accuracy[:, 0] == 1).all() and (found.agreement[:, 0] == 1).all()
    masked, zeros = found.accuracy[0], found.accuracy[1]
    assert (masked == 1).all() and zeros[1] == 0.5 == zeros[2]  # half of it black is dark
    assert (found.accuracy[2] == 1).all()  # its own mean colour leaves the mean
    loaded = type(found).load(found.save(tmp_path / "r.json"))
    assert np.array_equal(loaded.confidence, found.confidence) and len(found.to_frame()) == 12


def test_batches_and_seeds():
    one, two = (removal_curve(Bright(), IMAGES, shares=(0.5,), seed=s) for s in (0, 0))
    assert np.array_equal(one.confidence, two.confidence)
    assert np.isnan(one.accuracy).all() and one.reasons["accuracy"] == "there are no labels."
    small = removal_curve(Bright(), IMAGES, shares=(0.5,), batch_size=7)
    np.testing.assert_allclose(small.confidence, one.confidence, rtol=1e-6)
    assert torch.equal(patch_masks(3, (16, 16), 0.5, first=2), patch_masks(5, (16, 16), 0.5)[2:])
    other = removal_curve(Bright(), IMAGES, shares=(0.5,), seed=1)
    assert not np.array_equal(one.confidence, other.confidence)


@pytest.mark.parametrize("taken", [0.0, 0.25, 0.5, 1.0])
def test_patches_are_squares_and_as_many_as_asked(taken):
    mask = patch_masks(5, (16, 16), taken, patch=4)
    blocks = mask.reshape(5, 4, 4, 4, 4).transpose(2, 3).flatten(3)
    assert bool((blocks.all(3) | ~blocks.any(3)).all())
    assert (~mask).double().mean((1, 2)).tolist() == pytest.approx([taken] * 5)
    assert patch_masks(2, (10, 7), 0.5, patch=4).shape == (2, 10, 7)


def test_refusals():
    with pytest.raises(ParameterError, match="ways of layer masking"):
        removal_curve(Bright(), IMAGES, ways=("blur",))
    with pytest.raises(ShapeError, match="takes images"):
        removal_curve(Bright(), IMAGES[:0])
    with pytest.raises(ShapeError, match="a label each"):
        removal_curve(Bright(), IMAGES, Y[:-1])
    with pytest.raises(ShapeError, match="needs a classifier"):
        removal_curve(nn.Conv2d(1, 1, 3), IMAGES)
