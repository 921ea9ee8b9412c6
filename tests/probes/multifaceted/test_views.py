"""Views: crops as released, resampling that is exact where nothing is resampled."""

import pytest
import torch

from probes.multifaceted.schedules import lucid, maco
from probes.multifaceted.views import Views, crop_offset, look

SHIFT = torch.tensor([[[1.0, 0, 0.25], [0, 1, 0]]], dtype=torch.float64)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_crop_offsets_lie_within_the_room_about_its_middle():
    drawn = generator()
    room = 326 - 227
    offsets = torch.tensor([crop_offset(room, 0.3, drawn) for _ in range(4000)]).double()
    assert offsets.min() >= 0 and offsets.max() <= room
    assert (offsets == 0).any() and (offsets == room).any()  # clipped: .5 / .3 = 1.67 sd
    assert offsets.mean() == pytest.approx(room / 2, abs=1.5)
    narrow = [crop_offset(room, 0.1, drawn) for _ in range(4000)]
    assert torch.tensor(narrow).double().std() == pytest.approx(0.1 * room, rel=0.05)
    assert {crop_offset(0, 0.3, drawn) for _ in range(9)} == {0}  # no jitter without room


def test_the_plain_view_is_the_picture():
    x = torch.rand(2, 3, 5, 7, generator=generator(), dtype=torch.float64)
    same = look(x, Views().draw(0, 5 / 7, generator()), (5, 7))
    torch.testing.assert_close(same, x, rtol=0, atol=1e-14)
    shifted = look(x, SHIFT, (5, 7))
    assert not torch.allclose(shifted, x, atol=0.01)  # the arm


def test_a_view_shifts_by_pixels_and_is_grey_outside():
    x = torch.rand(1, 1, 4, 8, generator=generator(), dtype=torch.float64)
    seen = look(x, SHIFT, (4, 8))  # .25 of -1..1 is one pixel of 8
    torch.testing.assert_close(seen[..., :-1], x[..., 1:])
    torch.testing.assert_close(seen[..., -1], torch.full_like(seen[..., -1], 0.5))


def test_a_quarter_turn_is_a_quarter_turn_of_a_picture_that_is_not_square():
    x = torch.zeros(1, 1, 9, 21, dtype=torch.float64)
    x[0, 0, 4, 10:14] = 1.0  # from the centre to the right
    turned = look(x, Views(angles=(90.0,)).draw(0, 9 / 21, generator()), (9, 21))
    column = turned[0, 0, :, 10]
    assert column.sum() > 3.9 and turned[0, 0, 4, 11:14].max() < 1e-9


def test_views_come_view_after_view():
    x = torch.rand(3, 1, 4, 4, generator=generator(), dtype=torch.float64)
    maps = torch.cat([Views().draw(0, 1, generator()), SHIFT])
    seen = look(x, maps, (4, 4))
    torch.testing.assert_close(seen[:3], x, rtol=0, atol=1e-14)
    torch.testing.assert_close(seen[3:], look(x, SHIFT, (4, 4)))


def test_crops_shrink_and_stay_within_the_picture():
    views, drawn = maco().views, generator()
    early, late = views.draw(0.0, 1, drawn), views.draw(1.0, 1, drawn)
    assert early.shape == (32, 2, 3)
    assert early[:, 0, 0].mean() == pytest.approx(0.5, abs=0.05)
    assert late[:, 0, 0].mean() < 0.12 and late[:, 0, 0].min() >= 0.05
    for maps in (early, late):
        reach = maps[:, :, 2].abs().amax(1) + maps[:, 0, 0]
        assert reach.max() <= 1 + 1e-12


def test_the_same_seed_draws_the_same_views():
    views = lucid().views
    one, two = (views.draw(0, 1, generator(3)) for _ in range(2))
    assert torch.equal(one, two)
    assert not torch.equal(one, views.draw(0, 1, generator(4)))
