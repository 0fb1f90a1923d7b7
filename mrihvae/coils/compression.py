"""Coil compression: virtual coils from the eigenvectors of k-space's Gram matrix (Buehrer et al. 2007)."""

from __future__ import annotations

import torch
from torch import Tensor

from mrihvae.coils.checks import _check_finite
from mrihvae.errors import InputError

TIE_FRACTION = 0.99  # entries of at least this share of the largest one count as largest, for phases that are stable


def mix_coils(kspace: Tensor, matrix: Tensor) -> Tensor:
    """Apply a matrix along the coil axis, as whitening and compression do, to k-space, images or maps.

    Parameters
    ----------
    kspace : complex (..., coils, H, W), k-space or images
    matrix : complex (new, coils)

    Returns
    -------
    complex (..., new, H, W), of the type of `kspace`; zeros stay zeros

    Raises
    ------
    InputError
        Numbers of coils that differ.
    """
    if matrix.ndim != 2 or kspace.ndim < 3 or matrix.shape[1] != kspace.shape[-3]:
        raise InputError(
            f"matrix over coils has shape {tuple(matrix.shape)} and k-space {tuple(kspace.shape)}; they must be "
            "(new, coils) and (..., coils, H, W)"
        )
    mixed: Tensor = (matrix.to(kspace) @ kspace.flatten(-2)).unflatten(-1, kspace.shape[-2:])
    return mixed


def compression_matrix(kspace: Tensor, coils: int, mask: Tensor | None = None) -> Tensor:
    """Compute the matrix to the virtual coils that keep the most energy, by singular value decomposition.

    It is made of the left singular vectors of the data (coils, samples), the eigenvectors of their Gram matrix: Buehrer
    et al. 2007 (Magn Reson Med 57:1131), Huang et al. 2008 (Magn Reson Imaging 26:133). Whiten first: otherwise, strong
    noise counts as signal.

    Parameters
    ----------
    kspace : complex (..., coils, H, W), all slices of a volume, which then share the same virtual coils
    coils : number of virtual coils; at least the number of coils gives a unitary matrix
    mask : bool, broadcast to `kspace`: samples to use, such as a calibration region; None for all

    Returns
    -------
    complex64 (virtual, coils) of orthonormal rows, the strongest first; the largest entry of a row is real and above 0,
    or the first one if several are equal, so equal data give equal phases

    Raises
    ------
    InputError
        No virtual coil, another shape, NaN or infinite values, or only zeros.

    Examples
    --------
    >>> import torch
    >>> from mrihvae.coils import compression_matrix, mix_coils
    >>> _ = torch.manual_seed(0)
    >>> kspace = torch.randn(8, 16, 16, dtype=torch.complex64)
    >>> mix_coils(kspace, compression_matrix(kspace, coils=4)).shape
    torch.Size([4, 16, 16])
    """
    if coils < 1:
        raise InputError(f"coils {coils} must be at least 1; give the number of virtual coils")
    rows = torch.linalg.eigh(_gram(kspace, mask)).eigenvectors.flip(-1)[:, :coils].mH
    magnitude = rows.abs()
    largest = (magnitude >= TIE_FRACTION * magnitude.amax(dim=1, keepdim=True)).int().argmax(dim=1, keepdim=True)
    fixed: Tensor = rows / torch.sgn(rows.gather(1, largest))
    return fixed.to(torch.complex64)


def kept_energy(kspace: Tensor, matrix: Tensor) -> float:
    """Compute the share of the energy of k-space (..., coils, H, W) that a compression matrix (new, coils) keeps.

    Raises
    ------
    InputError
        As `mix_coils` and `compression_matrix`.
    """
    gram = _gram(kspace)
    if matrix.ndim != 2 or matrix.shape[1] != len(gram):
        raise InputError(f"matrix over coils has shape {tuple(matrix.shape)}, not (new, {len(gram)}) as the data need")
    matrix = matrix.to(gram)
    return float((matrix @ gram @ matrix.mH).trace().real / gram.trace().real)


def _gram(kspace: Tensor, mask: Tensor | None = None) -> Tensor:
    """Compute the sum of k k^H over the samples of (..., coils, H, W), slice by slice: complex128 (coils, coils)."""
    if kspace.ndim < 3:
        raise InputError(f"k-space has shape {tuple(kspace.shape)}; it must be (..., coils, H, W)")
    _check_finite(kspace, "k-space")
    coils = kspace.shape[-3]
    gram = torch.zeros(coils, coils, dtype=torch.complex128, device=kspace.device)
    masks = None if mask is None else mask.expand(kspace.shape).reshape(-1, *kspace.shape[-3:])
    for number, slice_kspace in enumerate(kspace.reshape(-1, *kspace.shape[-3:])):
        used = slice_kspace if masks is None else torch.where(masks[number], slice_kspace, 0)
        data = used.flatten(1).to(torch.complex128)
        gram += data @ data.mH
    if not float(gram.trace().real) > 0:
        raise InputError("k-space is zero in all acquired samples; there are no coils to compress")
    return gram
