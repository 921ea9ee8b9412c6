"""Pictures that climb: what the variable is, and how it becomes an image in 0..1.

Each has ``image()`` -> [n, c, h, w] and begins at images or at random. Colours are decorrelated
where there are three channels.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from interp.errors import ParameterError, ShapeError

__all__ = ["Fourier", "Maco", "Pixels", "decorrelate", "magnitude", "recorrelate", "resized"]

EDGE = 1e-3
"""Images that begin a sigmoid picture are moved into [EDGE, 1 - EDGE], where its inverse is finite.
"""
COLOURS = ((0.26, 0.09, 0.02), (0.27, 0.0, -0.05), (0.27, -0.09, 0.03))
"""Square root of the covariance of ImageNet's colours, as lucid has it."""
LENGTH = 0.46195
"""Largest column norm of `COLOURS`."""
GAIN = 4.0
"""What lucid divides its spatial image by."""
TINY = 1e-12


class Pixels:
    """The pixels themselves.

    Attributes
    ----------
    canvas : [n, c, h, w] in 0..1; it grows with `enlarge`.
    """

    def __init__(self, images: Float[Tensor, "n c h w"]) -> None:
        self.canvas = images.clone()

    @classmethod
    def random(cls, shape: tuple[int, ...], generator: torch.Generator, like: Tensor) -> "Pixels":
        """Normal noise about 175 of 255 with a standard deviation of 8 grey levels."""
        return cls(_normal(shape, generator, like).mul_(8).add_(175).div_(255).clamp_(0, 1))

    def image(self) -> Tensor:
        """[n, c, h, w]: the canvas."""
        return self.canvas

    def enlarge(self, scale: float) -> None:
        """Let the canvas grow by cubic splines, each side rounded."""
        from scipy.ndimage import zoom

        if scale == 1:
            return
        grown = zoom(self.canvas.cpu().double().numpy(), (1, 1, scale, scale), order=3)
        self.canvas = torch.as_tensor(grown).to(self.canvas)


class Fourier:
    """The sigmoid of an image whose Fourier coefficients, times f ** decay, are the variable.

    Source: lucid's ``fft_image`` and ``to_valid_rgb``.
    Differs: a width w has w // 2 + 1 frequencies, also where it is odd; images of other than three
    channels keep their colours as they are.

    Attributes
    ----------
    variables : one tensor [n, c, h, w // 2 + 1, 2]: real and imaginary parts.
    """

    def __init__(self, spectrum: Tensor, size: tuple[int, int], decay: float = 1.0) -> None:
        self.size, self.decay = size, decay
        self.scale = _scale(size, decay).to(spectrum)[..., None]
        self.variables = [spectrum.requires_grad_()]

    @classmethod
    def of(cls, images: Float[Tensor, "n c h w"], decay: float = 1.0) -> "Fourier":
        """The picture that is these images, values moved into [EDGE, 1 - EDGE]."""
        size = (images.shape[-2], images.shape[-1])
        inner = GAIN * decorrelate(torch.logit(images.clamp(EDGE, 1 - EDGE)))
        spectrum = torch.view_as_real(torch.fft.rfft2(inner, norm="ortho"))
        return cls(spectrum / _scale(size, decay).to(spectrum)[..., None], size, decay)

    @classmethod
    def random(
        cls,
        shape: tuple[int, ...],
        generator: torch.Generator,
        like: Tensor,
        decay: float = 1.0,
    ) -> "Fourier":
        """Coefficients with a standard deviation of .01."""
        n, c, h, w = shape
        spectrum = _normal((n, c, h, w // 2 + 1, 2), generator, like).mul_(0.01)
        return cls(spectrum, (h, w), decay)

    def image(self) -> Tensor:
        """[n, c, h, w], with the graph to the variable."""
        spectrum = torch.view_as_complex(self.variables[0] * self.scale)
        inner = torch.fft.irfft2(spectrum, s=self.size, norm="ortho") / GAIN
        return torch.sigmoid(recorrelate(inner))


class Maco:
    """The sigmoid of an image whose phases alone are the variable; magnitudes are fixed.

    From random phases: these are standardised at each step, and so is the image. From images: the
    variable is added to their phases, and the image keeps their mean and standard deviation, so
    that it begins as they are where the magnitudes are their own.

    Source: Fel et al. 2023, MACO (arXiv 2306.06805), equation 4; Xplique's code.
    Differs: beginning at an image is ours; theirs always begins at random.

    Attributes
    ----------
    variables : one tensor [n, c, h, w // 2 + 1]: phases in radians, or what is added to them.
    """

    def __init__(
        self, phases: Tensor, magnitudes: Tensor, size: tuple[int, int], about: Tensor | None = None
    ) -> None:
        self.size, self.magnitudes = size, magnitudes.to(phases)
        wanted = (*phases.shape[1:],)
        if self.magnitudes.shape[-3:] != wanted:
            raise ShapeError(
                f"the magnitudes of {size[0]} x {size[1]} images are {list(wanted)}; got "
                f"{list(self.magnitudes.shape)}: use images.magnitude on images of that size."
            )
        self.about = about
        start = phases
        self.base: Tensor | None = None
        if about is not None:
            self.base, start = phases, torch.zeros_like(phases)
        self.variables = [start.requires_grad_()]

    @classmethod
    def of(
        cls, images: Float[Tensor, "n c h w"], magnitudes: Float[Tensor, "c h f"] | None = None
    ) -> "Maco":
        """The picture with these images' phases, and their magnitudes unless others are given."""
        size = (images.shape[-2], images.shape[-1])
        inner = decorrelate(torch.logit(images.clamp(EDGE, 1 - EDGE)))
        spectrum = torch.fft.rfft2(inner, norm="ortho")
        own = spectrum.abs() if magnitudes is None else magnitudes
        return cls(spectrum.angle(), own, size, _moments(inner))

    @classmethod
    def random(
        cls,
        shape: tuple[int, ...],
        generator: torch.Generator,
        like: Tensor,
        magnitudes: Float[Tensor, "c h f"] | None = None,
    ) -> "Maco":
        """Standard normal phases, and magnitudes of 1 / f unless others are given."""
        n, c, h, w = shape
        phases = _normal((n, c, h, w // 2 + 1), generator, like)
        natural = _scale((h, w), 1.0).expand(c, -1, -1)
        return cls(phases, natural if magnitudes is None else magnitudes, (h, w))

    def image(self) -> Tensor:
        """[n, c, h, w], with the graph to the variable."""
        phases = self.variables[0]
        if self.base is None:
            mean, deviation = _moments(phases)
            phases = (phases - mean) / (deviation + TINY)
        else:
            phases = self.base + phases
        spectrum = torch.polar(self.magnitudes.expand_as(phases).contiguous(), phases)
        inner = torch.fft.irfft2(spectrum, s=self.size, norm="ortho")
        mean, deviation = _moments(inner)
        inner = (inner - mean) / (deviation + TINY)
        if self.about is not None:
            inner = inner * self.about[1] + self.about[0]
        return torch.sigmoid(recorrelate(inner))


def magnitude(images: Float[Tensor, "n c h w"]) -> Float[Tensor, "c h f"]:
    """Mean magnitude of the Fourier coefficients of images in 0..1, colours decorrelated.

    Real images of the model's kind; MACO keeps them (``schedules.maco(magnitude=…)``), and their
    size is that of the picture: the model's times the schedule's ``canvas``.

    Raises
    ------
    ShapeError
        The images are not [n, c, h, w], or there is none.
    """
    if images.ndim != 4 or not len(images):
        raise ShapeError(f"magnitude takes images [n, c, h, w]; got {list(images.shape)}.")
    spectra = torch.fft.rfft2(decorrelate(images.double()), norm="ortho")
    return spectra.abs().mean(0)


def recorrelate(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """Independent colours -> those of natural images; other than three channels stay."""
    return x if x.shape[1] != 3 else torch.einsum("nchw,dc->ndhw", x, _colours(x))


def decorrelate(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """The inverse of `recorrelate`."""
    if x.shape[1] != 3:
        return x
    return torch.einsum("nchw,dc->ndhw", x, torch.linalg.inv(_colours(x.double())).to(x))


def resized(images: Float[Tensor, "n c h w"], size: tuple[int, int]) -> Float[Tensor, "n c h w"]:
    """Images of another size, bilinear, smoothed before they shrink; themselves at their own."""
    if images.shape[-2:] == size:
        return images
    if min(size) < 1:
        raise ParameterError(f"an image has sides of at least one pixel; got {list(size)}.")
    return interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)


def _colours(x: Tensor) -> Tensor:
    return torch.tensor(COLOURS, dtype=torch.float64).div_(LENGTH).to(x)


def _scale(size: tuple[int, int], decay: float) -> Tensor:
    """[h, w // 2 + 1]: 1 / f ** decay, in cycles a pixel, that of f = 0 as of 1 / the long side."""
    h, w = size
    rows = torch.fft.fftfreq(h, dtype=torch.float64)[:, None]
    columns = torch.fft.rfftfreq(w, dtype=torch.float64)
    return torch.hypot(rows, columns).clamp_min(1 / max(h, w)) ** -decay


def _moments(x: Tensor) -> Tensor:
    """[2, n, 1, 1, 1]: mean and standard deviation of each image."""
    flat = x.flatten(1)
    return torch.stack([flat.mean(1), flat.std(1, unbiased=False)]).view(2, -1, 1, 1, 1)


def _normal(shape: tuple[int, ...], generator: torch.Generator, like: Tensor) -> Tensor:
    """Standard normal, image after image, so that the first ones are those of a larger batch."""
    drawn = [
        torch.randn(shape[1:], generator=generator, dtype=torch.float64) for _ in range(shape[0])
    ]
    return torch.stack(drawn).to(like)
