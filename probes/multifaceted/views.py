"""How the model sees a picture at a step: shifted, scaled, turned, cropped, under noise.

What is drawn at a step is shared by all images, so that an image comes out the same alone and among
others.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

__all__ = ["Views", "crop_offset", "look"]

GREY = 0.5
"""What lies around a picture."""


@dataclass(frozen=True, kw_only=True)
class Views:
    """Random views of a picture, each resampled to the model's size.

    Attributes
    ----------
    count : views of a step; the gradient is their mean.
    shifts : widths of uniform shifts that add up, as shares of the side.
    scales : magnifications, one drawn evenly.
    angles : turns in degrees, one drawn evenly.
    side : side of a crop at the first and the last step, as a share of the picture's; None for the
        whole picture.
    side_sd, centre_sd : standard deviations of a crop's side and centre, as shares; sides stay
        within [.05, 1].
    noise : standard deviation of Gaussian noise, pixels being 0..1.
    """

    count: int = 1
    shifts: tuple[float, ...] = ()
    scales: tuple[float, ...] = (1.0,)
    angles: tuple[float, ...] = (0.0,)
    side: tuple[float, float] | None = None
    side_sd: float = 0.0
    centre_sd: float = 0.0
    noise: float = 0.0

    def draw(self, done: float, aspect: float, generator: torch.Generator) -> Tensor:
        """[count, 2, 3]: affine maps from the view's coordinates to the picture's, both -1..1.

        Parameters
        ----------
        done : share of the steps that are done, 0 to 1.
        aspect : height over width, so that turns stay turns.
        """
        maps = []
        for _ in range(self.count):
            scale = 1 / self.scales[_index(len(self.scales), generator)]
            angle = math.radians(self.angles[_index(len(self.angles), generator)])
            x, y = (2 * sum(w * (_uniform(generator) - 0.5) for w in self.shifts) for _ in "xy")
            if self.side is not None:
                start, end = self.side
                side = start + (end - start) * done + self.side_sd * _normal(generator)
                scale *= min(max(side, 0.05), 1.0)
                x, y = (x + 2 * self.centre_sd * _normal(generator),
                        y + 2 * self.centre_sd * _normal(generator))  # fmt: skip
                room = max(0.0, 1 - scale)
                x, y = min(max(x, -room), room), min(max(y, -room), room)
            cos, sin = scale * math.cos(angle), scale * math.sin(angle)
            maps.append([[cos, -sin * aspect, x], [sin / aspect, cos, y]])
        return torch.tensor(maps, dtype=torch.float64)


def look(images: Tensor, maps: Tensor, size: tuple[int, int]) -> Tensor:
    """[v * n, c, *size]: each of v maps of n images [n, c, h, w], view after view."""
    v, n = len(maps), len(images)
    grid = affine_grid(maps.to(images), [v, 1, *size], align_corners=False)
    grid = grid.repeat_interleave(n, 0)
    pictures = images - GREY
    if v > 1:
        pictures = pictures.repeat(v, 1, 1, 1)
    return grid_sample(pictures, grid, align_corners=False) + GREY


def crop_offset(room: int, window: float, generator: torch.Generator) -> int:
    """Where a crop begins: a normal draw about the middle, truncated, within 0..room.

    Parameters
    ----------
    room : pixels by which the picture exceeds the crop.
    window : standard deviation as a share of the room.
    """
    offset = room / 2 + room * window * _normal(generator)
    return min(max(int(offset), 0), room)


def _uniform(generator: torch.Generator) -> float:
    return float(torch.rand((), generator=generator, dtype=torch.float64))


def _normal(generator: torch.Generator) -> float:
    return float(torch.randn((), generator=generator, dtype=torch.float64))


def _index(n: int, generator: torch.Generator) -> int:
    return int(torch.randint(n, (), generator=generator)) if n > 1 else 0
