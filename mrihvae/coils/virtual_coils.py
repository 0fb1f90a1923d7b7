"""How many virtual coils hold all but the noise, slice by slice.

Eigenvectors of the Gram matrix of a slice's k-space over the coils are its virtual coils
(`mrihvae.coils.compression`). In one that holds noise alone the mean power of a sample is that of the noise; what is
beyond it is signal. The weakest virtual coils are dropped as long as the signal that is lost with all of them is little
beside the noise of the scan. What they measured is not lost: acquired samples of the coils are put back where a
root-sum-of-squares image is delivered.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mrihvae.coils.compression import compression_matrix, mix_coils
from mrihvae.physics.noise import background_noise

MAX_LOST_ENERGY = 0.02  # of signal, over the energy of the noise of all coils, in the acquired samples
MIN_SAMPLES_PER_COIL = 200  # acquired samples a coil, below which eigenvalues of noise alone spread too widely to tell


def virtual_coils(kspace: Tensor, noise: Tensor | float) -> Tensor | None:
    """Compute the matrix to the virtual coils of one slice that keep all but the noise.

    Parameters
    ----------
    kspace : complex (coils, H, W), 0 where not acquired
    noise : standard deviation of the noise per complex sample, the root of the coils' mean power, as
        `mrihvae.physics.noise.background_noise` estimates it; above what the weakest virtual coil holds it is too high,
        and that counts

    Returns
    -------
    complex64 (virtual, coils) of orthonormal rows, the strongest virtual coil first; None where all coils are needed,
    or too little was acquired to tell
    """
    coils = len(kspace)
    samples = int((kspace != 0).any(dim=0).sum())
    if coils == 1 or samples < MIN_SAMPLES_PER_COIL * coils:
        return None
    data = kspace.flatten(1)
    gram = (data @ data.mH).to(torch.complex128)
    power = torch.linalg.eigvalsh(gram) / samples
    # the least eigenvalue of as many samples of white noise lies so far below its power (Marchenko and Pastur 1967)
    least = float(power[0]) / (1 - math.sqrt(coils / samples)) ** 2
    level = min(float(noise) ** 2, max(least, 0.0))
    lost = (power - level).cumsum(dim=0)  # with its sign: of noise alone eigenvalues lie on both sides of its power
    few = torch.nonzero(lost <= MAX_LOST_ENERGY * coils * level)
    dropped = min(int(few[-1]) + 1 if len(few) else 0, coils - 1)
    return compression_matrix(kspace, coils - dropped) if dropped else None


@dataclass(frozen=True)
class CompressedSlice:
    """One slice in virtual coils.

    Attributes
    ----------
    kspace : complex (virtual coils, H, W)
    noise : standard deviation of the noise per complex sample of a coil, (1,)
    matrix : (virtual coils, coils), or None where all coils are needed
    """

    kspace: Tensor
    noise: Tensor
    matrix: Tensor | None


def compress(whole: Tensor, kspace: Tensor, transposed: bool, open_number: bool) -> CompressedSlice:
    """Compress one slice to as many virtual coils as keep all but the noise.

    Parameters
    ----------
    whole : k-space (coils, H', W) with readout oversampling: rows beside the object show the noise best
    kspace : complex (coils, H, W) without it
    transposed : whether lines along W were acquired
    open_number : False leaves the coils as they are
    """

    def noise_of(kspace: Tensor) -> Tensor:
        return background_noise((kspace.mT if transposed else kspace)[None])

    noise = noise_of(whole)
    matrix = virtual_coils(whole, noise[0]) if open_number else None
    if matrix is None:
        return CompressedSlice(kspace, noise, None)
    return CompressedSlice(mix_coils(kspace, matrix), noise_of(mix_coils(whole, matrix)), matrix)


def compress_maps(maps: Tensor, matrices: Sequence[Tensor | None]) -> Tensor:
    """Compute the maps of each slice's virtual coils, as `stack_coils` has them, from maps (slices, coils, H, W).

    Maps are estimated from all coils: those of virtual coils would change with their number, by more than what the
    dropped coils hold.
    """
    found = [
        slice_maps if matrix is None else mix_coils(slice_maps, matrix)
        for slice_maps, matrix in zip(maps, matrices, strict=True)
    ]
    return stack_coils(
        [
            slice_maps / slice_maps.abs().square().sum(dim=0).sqrt().clamp_min(1e-12)
            if len(slice_maps) < maps.shape[1]
            else slice_maps
            for slice_maps in found
        ]
    )


def expand_maps(maps: Tensor, matrices: Sequence[Tensor | None]) -> Tensor:
    """Compute the maps of the coils, (slices, coils, H, W), from those of virtual coils, as `stack_coils` has them."""
    found = [
        slice_maps if matrix is None else mix_coils(slice_maps[: len(matrix)], torch.linalg.pinv(matrix))
        for slice_maps, matrix in zip(maps, matrices, strict=True)
    ]
    return torch.stack([slice_maps[: min(map(len, found))] for slice_maps in found])  # without coils of zeros


def stack_coils(arrays: Sequence[Tensor]) -> Tensor:
    """Stack (coils, H, W) of several numbers of coils: (slices, most coils, H, W), padded with coils of zeros.

    A coil of zeros in k-space and maps changes nothing, so no slice depends on those beside it.
    """
    most = max(len(array) for array in arrays)
    return torch.stack([torch.cat((array, array.new_zeros(most - len(array), *array.shape[1:]))) for array in arrays])
