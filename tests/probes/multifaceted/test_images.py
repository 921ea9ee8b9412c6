"""Parameterisations: round trips, what each holds fixed, and starts that do not depend on n."""

import pytest
import torch

from interp.errors import ParameterError, ShapeError
from probes.multifaceted.images import (
    Fourier,
    Maco,
    Pixels,
    decorrelate,
    magnitude,
    recorrelate,
    resized,
)

LIKE = torch.empty(0, dtype=torch.float64)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(c=3, h=9, w=8, n=2):
    drawn = torch.rand(n, c, h, w, generator=generator(), dtype=torch.float64)
    return 0.01 + 0.98 * drawn


@pytest.mark.parametrize("kind", [Pixels, Fourier, Maco])
@pytest.mark.parametrize("c, h, w", [(1, 8, 8), (3, 9, 8), (3, 8, 7), (5, 6, 9)])
def test_a_picture_that_begins_at_images_is_those_images(kind, c, h, w):
    x = pictures(c, h, w)
    picture = kind(x) if kind is Pixels else kind.of(x)
    torch.testing.assert_close(picture.image(), x, rtol=0, atol=1e-12)
    if kind is not Pixels:
        with torch.no_grad():
            picture.variables[0].add_(torch.rand(picture.variables[0].shape) * 0.3)
        assert (
            picture.image().detach() - x
        ).abs().max() > 0.01  # the arm: another variable, another image


def test_fourier_begins_at_black_and_white_within_its_edge():
    x = (pictures() > 0.5).double()
    apart = (Fourier.of(x).image().detach() - x).abs()
    assert float(apart.max()) == pytest.approx(1e-3, rel=1e-6)


def test_colours_are_decorrelated_by_the_inverse_of_what_correlates_them():
    x = pictures()
    torch.testing.assert_close(recorrelate(decorrelate(x)), x, rtol=0, atol=1e-14)
    red = recorrelate(torch.tensor([1.0, 0, 0], dtype=torch.float64).view(1, 3, 1, 1))
    torch.testing.assert_close(
        red.flatten(), torch.tensor([0.26, 0.27, 0.27], dtype=torch.float64) / 0.46195
    )
    assert recorrelate(pictures(1)) is not None and torch.equal(
        recorrelate(pictures(4)), pictures(4)
    )


def test_fourier_weighs_frequencies_by_one_over_f():
    picture = Fourier(torch.zeros(1, 1, 8, 5, 2, dtype=torch.float64), (8, 8))
    scale = picture.scale[..., 0]
    assert scale[0, 0] == 8 and scale[0, 1] == 8  # f = 0 as one over the side
    assert scale[0, 4] == 2 and scale[4, 0] == 2  # half a cycle a pixel
    assert scale[1, 1] == pytest.approx(8 / 2**0.5)
    flat = Fourier(torch.zeros(1, 1, 8, 5, 2, dtype=torch.float64), (8, 8), decay=0.0)
    assert flat.scale.unique().tolist() == [1.0]
    torch.testing.assert_close(picture.image(), torch.full_like(picture.image(), 0.5))


def test_maco_keeps_magnitudes_whatever_the_phases():
    natural = magnitude(pictures(n=5))
    picture = Maco.random((2, 3, 9, 8), generator(), LIKE, natural)

    def ratios():
        inner = decorrelate(torch.logit(picture.image().detach()))
        found = torch.fft.rfft2(inner, norm="ortho").abs()[..., 1:-1]  # halves without partners
        return found / natural[..., 1:-1]

    first = ratios()
    torch.testing.assert_close(  # standardising scales all by one number an image
        first, first[:, :1, :1, :1].expand_as(first), rtol=1e-6, atol=0
    )
    with torch.no_grad():
        picture.variables[0].mul_(torch.rand(9, 5, generator=generator(1)))
    second = ratios()
    assert float((second / second[:, :1, :1, :1] - 1).abs().max()) < 1e-6
    inner = decorrelate(torch.logit(picture.image().detach()))
    assert inner.flatten(1).mean(1).abs().max() < 1e-9
    torch.testing.assert_close(
        inner.flatten(1).std(1, unbiased=False), torch.ones(2, dtype=torch.float64)
    )
    free = Fourier.random((2, 3, 9, 8), generator(), LIKE)  # the arm: Fourier moves magnitudes
    before = torch.fft.rfft2(free.image()).abs()
    with torch.no_grad():
        free.variables[0].mul_(3)
    assert not torch.allclose(torch.fft.rfft2(free.image()).abs(), before, rtol=0.1)


def test_maco_refuses_magnitudes_of_another_size():
    with pytest.raises(ShapeError, match=r"magnitudes of 9 x 8 images are \[3, 9, 5\]"):
        Maco.of(pictures(), magnitude(pictures(h=8)))
    with pytest.raises(ShapeError, match="magnitude takes images"):
        magnitude(pictures()[0])


@pytest.mark.parametrize("kind", [Pixels, Fourier, Maco])
def test_random_starts_are_the_same_for_any_n(kind):
    few = kind.random((2, 3, 6, 6), generator(7), LIKE).image()
    many = kind.random((5, 3, 6, 6), generator(7), LIKE).image()
    torch.testing.assert_close(few, many[:2], rtol=0, atol=1e-15)
    other = kind.random((2, 3, 6, 6), generator(8), LIKE).image()
    assert not torch.allclose(few, other)


def test_random_pixels_are_those_of_the_released_code():
    x = Pixels.random((4, 3, 40, 40), generator(), LIKE).image() * 255
    assert float(x.mean()) == pytest.approx(175, abs=0.3)
    assert float(x.std()) == pytest.approx(8, rel=0.03)


def test_pixels_grow_to_the_sides_of_the_released_code():
    picture = Pixels(torch.rand(1, 1, 227, 20, generator=generator()))
    picture.enlarge(1.2)
    assert picture.canvas.shape[2] == 272
    picture.enlarge(1.2)
    assert picture.canvas.shape[2] == 326
    flat = Pixels(torch.full((1, 1, 10, 10), 0.3))
    flat.enlarge(1.2)
    torch.testing.assert_close(flat.canvas, torch.full((1, 1, 12, 12), 0.3))


def test_resizing():
    x = pictures()
    assert resized(x, (9, 8)) is x
    torch.testing.assert_close(
        resized(torch.full_like(x, 0.2), (4, 12)), torch.full((2, 3, 4, 12), 0.2).double()
    )
    with pytest.raises(ParameterError, match="at least one pixel"):
        resized(x, (0, 3))
