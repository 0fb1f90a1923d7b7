"""How far a map on images is from a contraction: ratios of distances on noisy pairs, and norms of its Jacobian.

The loop of PnP-HVAE converges where x -> HVAE_tau(x) brings any two images nearer to each other (Prost et al. 2023,
section 4). Ratios on pairs are what the paper measures; the largest singular value of the Jacobian is the worst ratio
of images that are near to one. Neither proves anything of images that were not tried.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mrihvae.model.hvae import HVAE
from mrihvae.physics.data_fidelity import DataTerm
from mrihvae.physics.kernels import abs2
from mrihvae.pnp.loop import PosteriorView, hvae_tau, relax
from mrihvae.pnp.settings import PnPSettings

Map = Callable[[Tensor], Tensor]


def encode_and_decode(model: HVAE, posterior: PosteriorView, settings: PnPSettings) -> Map:
    """Return the map x -> HVAE_tau(x) of images (slices, H, W) in model units, through which gradients pass."""
    return lambda x: hvae_tau(model, [posterior], x, settings, settings.beta)[0]


def whole_loop(model: HVAE, posterior: PosteriorView, term: DataTerm, settings: PnPSettings) -> Map:
    """Return the map of an iteration, x -> prox(HVAE_tau(x)), relaxed as settings say."""
    function, gamma = encode_and_decode(model, posterior, settings), settings.gamma / math.sqrt(settings.beta)
    return lambda x: relax(x, term.prox(function(x), gamma), settings.relaxation)


def contraction_ratios(function: Map, images: Tensor, noise: float, pairs: int, seed: int = 0) -> Tensor:
    """Compute |F(x1) - F(x2)| / |x1 - x2|, x1 and x2 the same image with independent noise (PnP-HVAE, section 4).

    The loop converges if F is a contraction. Ratios below 1 suggest this; one above 1 disproves it.

    Parameters
    ----------
    function : F, of images (slices, H, W), slices apart
    images : real or complex (slices, H, W)
    noise : its standard deviation in a pixel, sqrt(E|n|^2) if complex
    pairs : number of pairs of each image
    seed : of noise

    Returns
    -------
    (pairs, slices)

    Examples
    --------
    >>> import torch
    >>> from mrihvae.pnp import contraction_ratios
    >>> contraction_ratios(lambda x: 0.5 * x, torch.ones(1, 8, 8), noise=0.1, pairs=2)
    tensor([[0.5000],
            [0.5000]])

    References
    ----------
    * Prost et al. 2023 (PnP-HVAE), https://doi.org/10.48550/arXiv.2303.11217
    """
    with torch.no_grad():
        ratios = [ratio((function(a), function(b)), (a, b)) for a, b in noisy_pairs(images, noise, pairs, seed)]
    return torch.stack(ratios)


def noisy_pairs(images: Tensor, noise: float, pairs: int, seed: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """Draw images (slices, H, W) twice with independent noise, as often as there are pairs."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(pairs):
        first, second = (
            images + noise * torch.randn(images.shape, dtype=images.dtype, generator=generator).to(images.device)
            for _ in range(2)
        )
        yield first, second


def ratio(mapped: tuple[Tensor, Tensor], pair: tuple[Tensor, Tensor]) -> Tensor:
    """Compute the distance of two images after a map over that before it, (slices,)."""
    return _norm(mapped[0] - mapped[1]) / _norm(pair[0] - pair[1]).clamp_min(torch.finfo(torch.float32).tiny)


@dataclass(frozen=True)
class SpectralNorm:
    """The result of power iteration.

    Attributes
    ----------
    history : bound of each iteration, (iterations, slices); it increases, except for rounding
    direction : the current singular vector, of norm 1 and the shape of the image; use it as `start` to continue, or to
        start at a nearby image
    """

    history: Tensor
    direction: Tensor

    @property
    def bound(self) -> Tensor:
        """The largest singular value is at least this, (slices,)."""
        return self.history[-1]


def spectral_norm(
    function: Map, image: Tensor, iterations: int, seed: int = 0, start: Tensor | None = None
) -> SpectralNorm:
    """Compute a lower bound of the largest singular value of a map's Jacobian J at an image, by power iteration.

    The iteration is on J^T J. J^T w is linear in w, and J v the derivative of <J^T w, v> along w: both go through
    graphs that are recorded once. Of complex images, real and imaginary part are numbers of their own.

    Parameters
    ----------
    function : differentiable twice, of images (slices, H, W), slices apart
    image : where, real or complex (slices, H, W)
    iterations : one or more
    seed : random seed of the initial direction
    start : initial direction, to continue an earlier call

    Returns
    -------
    see `SpectralNorm`

    Examples
    --------
    >>> import torch
    >>> from mrihvae.pnp import spectral_norm
    >>> round(float(spectral_norm(lambda x: 0.5 * x, torch.ones(1, 8, 8), iterations=2).bound), 4)
    0.5
    """
    if start is None:
        generator = torch.Generator().manual_seed(seed)
        start = torch.randn(image.shape, dtype=image.dtype, generator=generator).to(image.device)
    v = _normalize(_parts(start))
    with torch.enable_grad():
        at = _parts(image).detach().clone().requires_grad_()
        mapped = _parts(function(torch.view_as_complex(at) if image.is_complex() else at))
        weights = torch.zeros_like(mapped).requires_grad_()
        (pulled,) = torch.autograd.grad(mapped, at, weights, create_graph=True)  # J^T w
    history = []
    for _ in range(iterations):
        (pushed,) = torch.autograd.grad(pulled, weights, v, retain_graph=True)  # J v
        (back,) = torch.autograd.grad(mapped, at, pushed, retain_graph=True)
        history.append(_norm(pushed))
        v = _normalize(back)
    return SpectralNorm(torch.stack(history), torch.view_as_complex(v) if image.is_complex() else v)


def _parts(image: Tensor) -> Tensor:
    """Return complex images with an axis of real and imaginary parts."""
    return torch.view_as_real(image).contiguous() if image.is_complex() else image


def _norm(values: Tensor) -> Tensor:
    return abs2(values).flatten(1).sum(dim=1).sqrt()


def _normalize(values: Tensor) -> Tensor:
    size = _norm(values).clamp_min(torch.finfo(values.dtype).tiny)
    return values / size.view(-1, *[1] * (values.ndim - 1))
