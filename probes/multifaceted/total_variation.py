"""Total-variation smoothing of a batch of images by split Bregman."""

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import ParameterError

__all__ = ["denoise_tv"]


@torch.no_grad()
def denoise_tv(
    images: Float[Tensor, "n c h w"],
    weight: float,
    *,
    max_iter: int = 100,
    eps: float = 1e-3,
    levels: float = 255.0,
    order: str | None = None,
) -> Float[Tensor, "n c h w"]:
    """Smoothed images: near the minimum of TV(u) + weight / 2 |u - image|^2, isotropic.

    Each channel of each image is a plane of its own, and stops by itself.

    Parameters
    ----------
    images : values of any range.
    weight : for pixels in grey levels; a smaller one smooths more.
    max_iter : sweeps at most.
    eps : stop when a sweep's root mean square change is this many grey levels or fewer.
    levels : grey levels in a value of 1: 255 for images in 0..1, 1 for images in 0..255.
    order : ``"rows"``, pixels one after the other, on the CPU; ``"checkerboard"``, all of one
        colour at once; None takes rows for images on the CPU, the checkerboard elsewhere.

    Degenerate: a constant image is itself.
    Source: scikit-image's ``denoise_tv_bregman`` (Goldstein and Osher 2009; Bush 2011), its
    shrinkage and its edges; rows give its numbers, within rounding.
    Differs: the checkerboard tends to the same image; after so few sweeps it is within .2 grey
    levels on natural images (`examples/LOG.md`).
    """
    if not weight > 0:
        raise ParameterError(f"denoise_tv takes a weight above 0; got {weight}.")
    n, c, h, w = images.shape
    if h < 2 or w < 2:
        return images.clone()
    if order not in (None, "rows", "checkerboard"):
        raise ParameterError(f"denoise_tv's order is rows or checkerboard; got {order!r}.")
    weight, eps = weight * levels, eps / levels
    if order == "rows" or (order is None and images.device.type == "cpu"):
        from probes.multifaceted import _numba

        wide = torch.promote_types(images.dtype, torch.float32)
        rows = images.to("cpu", wide).reshape(n * c, h, w).permute(1, 2, 0).contiguous()
        out = _numba.denoise(rows.numpy(), weight, eps, max_iter)
        return torch.from_numpy(out).permute(2, 0, 1).reshape(n, c, h, w).to(images)
    return _checkerboard(images.reshape(n * c, h, w), weight, eps, max_iter).view(n, c, h, w)


def _checkerboard(planes: Tensor, weight: float, eps: float, max_iter: int) -> Tensor:
    """Planes [p, h, w], all pixels of one colour at once."""
    solver = _Sweeps(planes, weight)
    out = planes.clone()
    running = torch.ones(len(planes), dtype=torch.bool, device=planes.device)
    for _ in range(max_iter):
        change = solver.sweep()
        ends = running & (change <= eps)
        if bool(ends.any()):
            out[ends] = solver.u[ends, 1:-1, 1:-1]
            running &= ~ends
            if not bool(running.any()):
                break
    out[running] = solver.u[running, 1:-1, 1:-1]
    return out


class _Sweeps:
    """The state of the iteration, [p, h + 2, w + 2] each: image, and auxiliary less Bregman."""

    def __init__(self, planes: Tensor, weight: float) -> None:
        p, h, w = planes.shape
        self.lam = 2 * weight
        self.norm = weight + 4 * self.lam
        self.data = planes * weight
        u = planes.new_zeros(p, h + 2, w + 2)
        u[:, 1:-1, 1:-1] = planes
        u[:, 0, 1:-1], u[:, -1, 1:-1] = planes[:, 1], planes[:, -1]
        u[:, 1:-1, 0], u[:, 1:-1, -1] = planes[:, :, 1], planes[:, :, -1]
        self.u = u
        self.ex, self.ey = torch.zeros_like(u), torch.zeros_like(u)  # d - b
        self.bx, self.by = torch.zeros_like(planes), torch.zeros_like(planes)
        rows, columns = torch.arange(h).view(-1, 1), torch.arange(w)
        red = ((rows + columns) % 2 == 0).to(planes.device)
        self.colours = (red, ~red)

    def sweep(self) -> Tensor:
        """One sweep over all pixels; the root mean square change of each plane, [p]."""
        before = self.u[:, 1:-1, 1:-1].clone()
        for colour in self.colours:
            self._visit(colour)
        return (self.u[:, 1:-1, 1:-1] - before).square_().mean((1, 2)).sqrt_()

    def _visit(self, colour: Tensor) -> None:
        u, ex, ey, lam = self.u, self.ex, self.ey, self.lam
        inner = u[:, 1:-1, 1:-1]
        down, right = u[:, 2:, 1:-1], u[:, 1:-1, 2:]
        tx = (right - inner).add_(self.bx)
        ty = (down - inner).add_(self.by)
        new = down + u[:, :-2, 1:-1]
        new.add_(right).add_(u[:, 1:-1, :-2])
        new.add_(ex[:, 1:-1, :-2]).sub_(ex[:, 1:-1, 1:-1])
        new.add_(ey[:, :-2, 1:-1]).sub_(ey[:, 1:-1, 1:-1])
        new.mul_(lam).add_(self.data).div_(self.norm)
        s = torch.hypot(tx, ty).mul_(lam)
        s.div_(s + 1)
        bx, by = tx - tx * s, ty - ty * s  # what shrinkage left over
        self.bx = torch.where(colour, bx, self.bx)
        self.by = torch.where(colour, by, self.by)
        ex[:, 1:-1, 1:-1] = torch.where(colour, tx - 2 * bx, ex[:, 1:-1, 1:-1])
        ey[:, 1:-1, 1:-1] = torch.where(colour, ty - 2 * by, ey[:, 1:-1, 1:-1])
        u[:, 1:-1, 1:-1] = torch.where(colour, new, inner)
