"""Total variation, for one coil and for several: what the network's first guess starts from.

An encoder that is fed the zero-filled image spends itself on undoing aliasing that a convex prior undoes as well. So
r sees, beside the zero-filled image, the image x that minimizes in model units

    1/2 |A x - y|^2 + strength * (|D_h x|_1 + |D_w x|_1)

with D circular differences to the neighbors, by ADMM (Boyd et al. 2011, section 6.4). Of one coil A is M F, which is
diagonal in k-space as D is, so that every step has a closed form; with several coils the x-step takes a few iterations
of conjugate gradients. All slices are solved together.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mrihvae.physics.conjugate_gradients import conjugate_gradients
from mrihvae.physics.mri import Sense

GUESS_STRENGTH = 0.01
EDGE_SIZE = 0.1  # edges of this size, in model units, are split off first: it sets the penalty parameter of ADMM
ADMM_ITERATIONS = 15  # to 60 the PSNR changes by less than 0.1 dB
# with these images of any phase converge; where it is white, edges are as large as the image is bright
TV_ITERATIONS, TV_EDGE = 60, 1.0


def first_guess(
    measured: Tensor,
    mask: Tensor,
    strength: float = GUESS_STRENGTH,
    iterations: int = ADMM_ITERATIONS,
    edge: float = EDGE_SIZE,
) -> Tensor:
    """Complete k-space by total variation; acquired samples stay as they are.

    Parameters
    ----------
    measured : y, complex (slices, H, W), centered, in model units, 0 where not acquired
    mask : bool (slices, H, W)
    strength : weight of the penalty
    iterations : of ADMM
    edge : size of the edges that are split off first, in model units

    Returns
    -------
    complex (slices, H, W)
    """
    axes = (-2, -1)
    y, m = torch.fft.ifftshift(measured, dim=axes), torch.fft.ifftshift(mask, dim=axes)
    rho = strength / edge
    h, w = (2 - 2 * torch.cos(2 * torch.pi * torch.fft.fftfreq(n, device=y.device)) for n in y.shape[-2:])
    denominator = m + rho * (h[:, None] + w)
    inverse = torch.where(denominator > 1e-6 * rho, 1 / denominator, 0)  # DC that was not measured stays 0
    k, u = y, torch.zeros((2, *y.shape), dtype=y.dtype, device=y.device)
    for _ in range(iterations):
        x = torch.fft.ifft2(k, norm="ortho")
        u = u + _differences(x)
        split = u * (1 - edge / torch.view_as_real(u).square().sum(-1).clamp_min(1e-24).sqrt()).clamp_min(0)
        u = u - split
        d = split - u
        adjoint = d[0] - d[0].roll(-1, -2) + d[1] - d[1].roll(-1, -1)
        k = (y + rho * torch.fft.fft2(adjoint, norm="ortho")) * inverse
    guess: Tensor = torch.fft.fftshift(torch.where(m, y, k), dim=axes)
    return guess


TV_CG_TOLERANCE = 1e-3  # relative residual that is enough for it
# Strength of total variation in the first guess: the first number, and the second times the noise. These, and WEIGHT,
# were the best on simulated scans of training images, of noises from 0.004 to 0.04, at 4x and 8x.
TV_STRENGTH = (0.0015, 0.1)
ADMM_CG_ITERATIONS = (20, 3)  # of ADMM, and of conjugate gradients in each
MIN_DENSITY = 1e-3  # of k-space that no coil sees, in the preconditioner


def total_variation(
    sense: Sense, combined: Tensor, strength: Tensor | float, iterations: tuple[int, int] = ADMM_CG_ITERATIONS
) -> Tensor:
    """Compute argmin_x 1/2 |A x - y|^2 + strength |D x|_1, D of circular differences, for slices of several coils.

    As `mrihvae.physics.total_variation.first_guess` by ADMM (Boyd et al. 2011), whose x-step has no closed form with
    coils: a few iterations of conjugate gradients from the last x, preconditioned by what is diagonal in k-space.

    Parameters
    ----------
    sense, combined : A, and A^H y, complex (slices, H, W), in model units
    strength : weight of the penalty, a number or (slices, 1, 1)
    iterations : of ADMM, and of conjugate gradients in each

    Returns
    -------
    complex (slices, H, W)
    """
    rho = strength / EDGE_SIZE
    x, u = combined, torch.zeros((2, *combined.shape), dtype=combined.dtype, device=combined.device)
    h, w = (2 - 2 * torch.cos(2 * torch.pi * torch.fft.fftfreq(n, device=x.device)) for n in x.shape[-2:])
    inverse = 1 / (sense.density() + rho * (h[:, None] + w) + MIN_DENSITY)

    def normal(image: Tensor) -> Tensor:
        return sense.normal(image) + rho * _laplacian(image)

    def precondition(image: Tensor) -> Tensor:
        filtered: Tensor = torch.fft.ifft2(torch.fft.fft2(image).mul_(inverse))
        return filtered

    outer, inner = iterations
    applied = normal(x)  # what conjugate gradients leave tells it of each further x
    for number in range(outer):
        u = u + _differences(x)
        size = torch.view_as_real(u).square().sum(dim=-1).sqrt_()  # faster than the absolute of complex numbers
        split = u * (1 - EDGE_SIZE / size.clamp_min_(1e-12)).clamp_min_(0)
        u = u - split
        right = combined + rho * _adjoint_differences(split - u) - applied
        cap = inner if number else 2 * inner  # the zero-filled image is far from the first solution
        found = conjugate_gradients(normal, right, 0.0, precondition, TV_CG_TOLERANCE, cap, double=False)
        x, applied = x + found.image, applied + right - found.remainder
    return x


def _differences(image: Tensor) -> Tensor:
    """Compute circular differences along H and W, (2, slices, H, W)."""
    d = image.expand(2, *image.shape).clone()
    d[0, ..., 1:, :] -= image[..., :-1, :]
    d[0, ..., 0, :] -= image[..., -1, :]
    d[1, ..., 1:] -= image[..., :-1]
    d[1, ..., 0] -= image[..., -1]
    return d


def _adjoint_differences(d: Tensor) -> Tensor:
    image = d[0] + d[1]
    image[..., :-1, :] -= d[0, ..., 1:, :]
    image[..., -1, :] -= d[0, ..., 0, :]
    image[..., :-1] -= d[1, ..., 1:]
    image[..., -1] -= d[1, ..., 0]
    return image


def _laplacian(image: Tensor) -> Tensor:
    """Compute D^T D x, of circular differences, (slices, H, W)."""
    d = 4 * image
    d[..., 1:, :] -= image[..., :-1, :]
    d[..., 0, :] -= image[..., -1, :]
    d[..., :-1, :] -= image[..., 1:, :]
    d[..., -1, :] -= image[..., 0, :]
    d[..., 1:] -= image[..., :-1]
    d[..., 0] -= image[..., -1]
    d[..., :-1] -= image[..., 1:]
    d[..., -1] -= image[..., 0]
    return d
