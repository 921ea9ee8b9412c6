"""Frames: size, channels and normalisation from arguments, images, model and processor."""

import pytest
import torch
from torch import nn

import interp
from interp.errors import DataError, ParameterError, ShapeError
from probes.multifaceted.frames import checked_images, frame_of


def conv(c=3):
    return interp.load(nn.Sequential(nn.Conv2d(c, 2, 3)))


class Processor:
    do_rescale, rescale_factor = True, 1 / 255
    do_normalize, image_mean, image_std = True, [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]
    do_center_crop, crop_size, size = True, {"height": 20, "width": 30}, {"shortest_edge": 99}


def test_inputs_and_images_are_inverse():
    frame = frame_of(conv(), size=8, normalise=((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)))
    x = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(frame.images(frame.inputs(x)), x, rtol=0, atol=1e-15)
    assert float(frame.inputs(x)[0, 2, 0, 0]) == pytest.approx((float(x[0, 2, 0, 0]) - 0.3) / 0.4)
    assert frame.inputs(x).dtype == x.dtype


def test_the_processor_says_how_to_normalise_and_the_size():
    model = conv()
    model.processor = Processor()
    frame = frame_of(model)
    assert (frame.size, frame.source) == ((20, 30), "processor")
    assert frame.mean == pytest.approx((0.5, 0.4, 0.3)) and frame.std[2] == pytest.approx(0.4)
    model.processor.do_rescale = False  # pixels of 0..255 are normalised
    raw = frame_of(model)
    assert float(raw.inputs(torch.ones(1, 3, 1, 1))[0, 0]) == pytest.approx((255 - 0.5) / 0.2)
    assert frame_of(model, normalise=(0.0, 1.0)).source == "argument"


def test_a_vit_s_config_says_size_and_channels(tiny):
    frame = frame_of(interp.load(tiny("vit")))
    assert (frame.channels, frame.size, frame.source) == (3, (16, 16), "none")


@pytest.mark.parametrize("c", [1, 3, 6])
def test_channels_come_from_the_first_convolution_or_the_images(c):
    assert frame_of(conv(c), size=(4, 5)).channels == c
    flat = interp.load(nn.Sequential(nn.Flatten(), nn.Linear(16 * c, 2)))
    assert frame_of(flat, starts=torch.rand(1, c, 4, 4)).channels == c
    with pytest.raises(ParameterError, match="how many channels it reads; give channels"):
        frame_of(flat, size=4)


def test_what_nobody_says_is_asked_for():
    with pytest.raises(ParameterError, match="the size of its images; give size"):
        frame_of(conv())
    with pytest.raises(ParameterError, match="2 entries for 3 channels"):
        frame_of(conv(), size=4, normalise=((0.1, 0.2), 1.0))
    with pytest.raises(ParameterError, match="std of the normalisation must be above 0"):
        frame_of(conv(), size=4, normalise=(0.0, 0.0))
    with pytest.raises(ParameterError, match="a side or"):
        frame_of(conv(), size=0)


def test_images_that_are_none_are_refused():
    good = torch.rand(2, 3, 4, 4)
    assert torch.equal(checked_images(good.numpy(), "starts"), good)
    for bad, error, words in [
        (good[0], ShapeError, r"starts must be images \[n, c, h, w\]"),
        (good[:0], ShapeError, "at least one"),
        ((good * 255).byte(), DataError, "floats in 0..1; got uint8"),
        (good * 2 - 1, DataError, "undo the normalisation first"),
        (good / 0, DataError, "NaN or infinity"),
    ]:
        with pytest.raises(error, match=words):
            checked_images(bad, "starts")
