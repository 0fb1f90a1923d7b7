"""A scan prepared slice by slice: undersampled, without readout oversampling, its coils whitened and compressed.

A single-coil scan has no maps and nothing to combine. Sensitivity maps are estimated once for each slice, and kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from mrihvae.coils.combine import root_sum_of_squares
from mrihvae.coils.compression import compression_matrix, mix_coils
from mrihvae.coils.fit import describe_misfit
from mrihvae.coils.maps import estimate_maps
from mrihvae.coils.prewhitening import corner_covariance, noise_covariance, whitening_matrix
from mrihvae.coils.settings import CoilSettings
from mrihvae.coils.virtual_coils import compress, compress_maps, expand_maps, stack_coils
from mrihvae.data.calibration import Calibration
from mrihvae.data.scan import Scan, delivered_shape, encoded_lines
from mrihvae.errors import InputError
from mrihvae.physics.fourier import apply_mask, center_crop
from mrihvae.physics.noise import noise_std
from mrihvae.physics.sampling import lines_differ_along_h
from mrihvae.recon.normalization import find_normalization, unit_of
from mrihvae.recon.oversampling import kept_rows, remove_oversampling
from mrihvae.utils.notices import warn
from mrihvae.utils.stages import stage

_shared_maps: WeakKeyDictionary[Calibration, tuple[object, Tensor]] = WeakKeyDictionary()
KEPT = 2**24  # bytes of maps that are kept; those of further slices are estimated anew when they are needed


@dataclass(frozen=True)
class Batch:
    """Slices of a scan.

    Attributes
    ----------
    kspace : complex64 (slices, H, W) of one coil, or with maps (slices, coils, H, W), of coils or virtual coils,
        normalized (`mrihvae.recon.normalization`); 0 where not acquired
    known : bool (W,) or (H, W), which samples were acquired, or are known to be 0
    maps : complex64 (slices, coils, H, W), or None where coils are not combined by maps
    first : number of the first slice in its volume
    noise : standard deviation of the noise per complex sample of a coil, (slices,), in the units of `kspace`
    mixing : of each slice, the matrix (virtual coils, coils) that whitened and compressed its coils, or None; slices
        of fewer virtual coils than others have coils of zeros
    original : k-space of the coils before it, complex64 (slices, coils, H, W)
    """

    kspace: Tensor
    known: Tensor
    maps: Tensor | None
    first: int
    noise: Tensor
    mixing: Sequence[Tensor | None]
    original: Tensor


class SlicedScan:
    """The slices of a scan, ready to be reconstructed.

    Parameters
    ----------
    scan : its own maps and noise scan are used, if it has them
    mask : bool (W,) or (H, W), what was acquired; the rest is ignored, even where the scan holds it
    settings : what is done with several coils
    combine : whether several coils are combined by maps; otherwise nothing is done to them
    calibration : bool (H, W), the acquired samples in which the calibration region is searched; None for all
    first : number of the first slice in its volume, by which posterior samples are seeded
    inspect : whether what is wrong or doubtful about k-space and maps is refused or warned of

    Raises
    ------
    InputError
        Maps that do not fit; on the way also coils that are zero all over, a noise covariance that is singular, or too
        few calibration lines.
    """

    def __init__(
        self,
        scan: Scan,
        mask: np.ndarray,
        settings: CoilSettings,
        combine: bool = True,
        calibration: Tensor | None = None,
        first: int = 0,
        inspect: bool = True,
    ) -> None:
        if mask.ndim > 1 and bool((mask == mask[:1]).all()):
            mask = mask[0]  # whole lines along H
        self.first = first
        self.scan, self.settings, self.combine = scan, settings, combine and scan.coils > 1
        self.rows = _rows(scan, mask)
        self._acquired = torch.from_numpy(mask)
        # lines that the scanner did not encode are known to be zero, not missing
        known = self._acquired | torch.from_numpy(~encoded_lines(scan))
        self._transposed = lines_differ_along_h(known.expand(scan.kspace.shape[-2:]))
        with stage("checks"):
            self.normalization = find_normalization(scan, mask, quiet=not inspect)
        self.all_known = self.normalization.center(known).expand(scan.kspace.shape[-2:])  # with oversampled rows, too
        self.measured, self.known = self._centered(self._acquired), self._centered(known)
        self._calibration = self.measured if calibration is None else self._centered(calibration)
        self._maps: dict[int, Tensor] = {}
        own, shape = scan.maps, scan.kspace.shape
        if self.combine and own is not None and (own.shape[1:] != shape[1:] or own.shape[0] not in (1, shape[0])):
            raise InputError(
                f"{scan.name}: sensitivity maps of shape {own.shape} do not fit k-space of {shape}; give (slices or 1, "
                "coils, H, W)"
            )
        if self.combine and own is not None and inspect:
            self._check_fit(own)

    def _check_fit(self, maps: np.ndarray) -> None:
        """Warn of given maps that do not fit the middle slice."""
        middle = len(self) // 2
        kspace = remove_oversampling(self.original(middle, middle + 1), self.rows)[0]
        chosen = torch.from_numpy(maps[middle if len(maps) > 1 else 0]).to(torch.complex64)
        misfit = describe_misfit(kspace, center_crop(chosen, (self.rows, chosen.shape[-1])), self._calibration)
        if misfit:
            warn(misfit)

    def _centered(self, pattern: Tensor) -> Tensor:
        """Move a mask as k-space is moved; where rows are left out, all rows of it are the same."""
        centered = self.normalization.center(pattern)
        return centered[: self.rows] if centered.ndim > 1 else centered

    def restore(self, image: Tensor) -> Tensor:
        """Give complex images (..., H, W) the units of the scan, and the phase that moving its peak took from them."""
        return self.normalization.restore(image)

    def __len__(self) -> int:
        """Return the number of slices."""
        return len(self.scan.kspace)

    @cached_property
    def mixing(self) -> Tensor | None:
        """The matrix (virtual coils, coils) that whitens and compresses all slices alike; None where coils stay."""
        matrix, settings, coils = None, self.settings, self.scan.kspace.shape[1]
        if settings.whiten or (settings.whiten is None and self.scan.noise_scan is not None):
            try:
                if self.scan.noise_scan is not None:
                    noise = torch.from_numpy(self.scan.noise_scan)
                    covariance = noise_covariance(noise / unit_of(float(noise.abs().max())))
                else:
                    covariance = corner_covariance(
                        self.original(0, len(self)), self.normalization.center(self._acquired)
                    )
                matrix = whitening_matrix(covariance)
            except InputError as error:
                raise InputError(f"{self.scan.name}: {error}") from error
        if settings.compress and settings.compress < coils:
            kspace = self.original(0, len(self))
            mixed = kspace if matrix is None else mix_coils(kspace, matrix)
            rows = compression_matrix(mixed, settings.compress, self.normalization.center(self._acquired))
            matrix = rows if matrix is None else rows @ matrix
        return matrix

    def batches(self, batch_size: int, part: range | None = None) -> Iterator[Batch]:
        """Yield batches of about `batch_size` coil images, of one slice at least; of all slices, or those of `part`."""
        count, part = max(1, batch_size // self.scan.coils), part or range(len(self))
        for first in range(part.start, part.stop, count):
            yield self.batch(first, min(first + count, part.stop))

    def batch(self, first: int, end: int) -> Batch:
        """Return slices `first` to `end` - 1."""
        whole = self.original(first, end)
        original = remove_oversampling(whole, self.rows)
        if not self.combine:
            noise = noise_std(whole.mT if self._transposed else whole)
            one_coil = whole.shape[1] == 1
            kspace = original[:, 0] if one_coil else original
            noise = noise[:, 0] if one_coil else noise.square().mean(dim=1).sqrt()
            return Batch(kspace, self.known, None, self.first + first, noise, [None] * len(whole), original)
        mixed, kspace = whole, original
        if self.mixing is not None:
            mixed, kspace = mix_coils(whole, self.mixing), mix_coils(original, self.mixing)
        few = self.settings.compress is None
        found = [compress(*pair, self._transposed, few) for pair in zip(mixed, kspace, strict=True)]
        del whole, mixed  # large, and of no use any more
        with stage("maps"):
            estimated = self._maps_of(kspace, first, end)
        maps = compress_maps(estimated, [compressed.matrix for compressed in found])
        noise, mixing = (
            torch.cat([compressed.noise for compressed in found]),
            [self._total_mixing(compressed.matrix) for compressed in found],
        )
        virtual = stack_coils([compressed.kspace for compressed in found])
        return Batch(virtual, self.known, maps, self.first + first, noise, mixing, original)

    def original(self, first: int, end: int) -> Tensor:
        """Return the acquired k-space of the original coils, with readout oversampling: (slices, coils, H, W).

        It is normalized (`mrihvae.recon.normalization`).
        """
        with stage("read"):
            kspace = torch.from_numpy(self.scan.kspace[first:end])
        acquired = apply_mask(kspace if kspace.ndim == 4 else kspace[:, None], self._acquired)
        return self.normalization.apply(acquired)

    def magnitude(self, image: Tensor, batch: Batch) -> Tensor:
        """Compute the magnitude images to deliver: real (slices, H, W).

        Of coil-combined images (slices, H, W) it is what `CoilSettings.output` says; of coil images (slices, coils, H,
        W) their root-sum-of-squares.
        """
        if image.ndim == 4:
            return self.normalization.unit * image.abs().square().sum(dim=1).sqrt()
        if batch.maps is None or self.settings.output == "combined":
            return self.normalization.unit * image.abs()
        maps, known = expand_maps(batch.maps, batch.mixing).to(image.device), self.known.to(image.device)
        return self.normalization.unit * root_sum_of_squares(image, maps, batch.original.to(image.device), known)

    def _total_mixing(self, matrix: Tensor | None) -> Tensor | None:
        """Return the matrix of whitening and compression of a slice: `matrix` after that of all slices."""
        if matrix is None or self.mixing is None:
            return self.mixing if matrix is None else matrix
        return matrix @ self.mixing

    def _maps_of(self, kspace: Tensor, first: int, end: int) -> Tensor:
        """Return the maps of slices: the scan's own, or estimated ones."""
        own = self.scan.maps
        if own is not None:
            maps = torch.from_numpy(own if len(own) == 1 else own[first:end]).to(torch.complex64)
            maps = center_crop(maps, (self.rows, maps.shape[-1]))
            maps = maps if self.mixing is None else mix_coils(maps, self.mixing)
            maps = maps / maps.abs().square().sum(dim=1, keepdim=True).sqrt().clamp_min(1e-12)
            return maps.expand(end - first, -1, -1, -1)
        return torch.stack([self._estimate_maps(coils, k) for k, coils in enumerate(kspace, first)])

    def _estimate_maps(self, kspace: Tensor, k: int) -> Tensor:
        """Estimate the maps of slice k; those of the slices before it are kept while they are not too many."""
        if k in self._maps:
            return self._maps[k]
        if not kspace.any():  # an empty slice stays one, whatever its maps
            return torch.full_like(kspace, len(kspace) ** -0.5)
        calibration = None if self.scan.calibration is None else self.scan.calibration[k]
        try:
            if calibration is not None:
                return calibration_maps(calibration, self.settings, self.mixing)
            maps = estimate_maps(kspace[None], self._calibration, self.settings, self.known)[0]
        except InputError as error:
            raise InputError(f"{self.scan.name}, slice {k}: {error}") from error
        if self._maps and (len(self._maps) + 1) * maps.nbytes > KEPT:
            self._maps.pop(next(iter(self._maps)))
        self._maps[k] = maps
        return maps


def calibration_maps(calibration: Calibration, settings: CoilSettings, mixing: Tensor | None) -> Tensor:
    """Estimate the maps of a separate calibration scan; shared ones are kept for the last request.

    Parameters
    ----------
    calibration : of one slice
    settings : how
    mixing : (virtual coils, coils), by which the coils of the slice were whitened and compressed, or None

    Returns
    -------
    complex64 (coils, H, W)

    Raises
    ------
    InputError
        As `mrihvae.coils.maps.estimate_maps`.
    """
    key = (settings, None if mixing is None else mixing.cpu().numpy().tobytes())
    kept = _shared_maps.get(calibration)
    if kept is not None and kept[0] == key:
        return kept[1]
    kspace = torch.from_numpy(calibration.kspace)
    if mixing is not None:
        kspace = mix_coils(kspace, mixing)
    maps = estimate_maps(kspace[None], torch.from_numpy(calibration.mask), settings)[0]
    if calibration.shared:
        _shared_maps[calibration] = key, maps
    return maps


def _rows(scan: Scan, mask: np.ndarray) -> int:
    """Choose the rows of the image that are reconstructed; all where the readout is not sampled fully."""
    height = scan.kspace.shape[-2]
    if scan.calibration is not None or scan.matrix is None or scan.matrix[0] >= height:
        return height
    rows = kept_rows(height, delivered_shape(scan)[0], scan.matrix, mask)
    return rows if rows == height or _fills_readout(scan, mask) else height


def _fills_readout(scan: Scan, mask: np.ndarray) -> bool:
    """Return whether all rows of k-space were acquired, by the first slice that is not empty."""
    for k in range(len(scan.kspace)):
        there = (np.asarray(scan.kspace[k : k + 1]) != 0) & mask
        rows = there.any(axis=tuple(axis for axis in range(there.ndim) if axis != there.ndim - 2))
        if rows.any():
            return bool(rows.all())
    return False
