"""A multi-coil scan made ready slice by slice: coils whitened and compressed, maps estimated once and kept."""

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
from mrihvae.coils.maps import estimate_maps
from mrihvae.coils.prewhitening import corner_covariance, noise_covariance, whitening_matrix
from mrihvae.coils.settings import CoilSettings
from mrihvae.coils.virtual_coils import alike, compress, compressed_maps, expanded
from mrihvae.data.calibration import Calibration
from mrihvae.data.scan import Scan
from mrihvae.errors import InputError
from mrihvae.physics.fourier import centre_crop, masked
from mrihvae.physics.sampling import lines_differ_along_h
from mrihvae.recon.oversampling import remove_oversampling
from mrihvae.utils.stages import stage

_shared_maps: WeakKeyDictionary[Calibration, tuple[object, Tensor]] = WeakKeyDictionary()
KEPT = 2**24  # bytes of maps that are kept; those of further slices are estimated anew when they are asked for


@dataclass(frozen=True)
class CoilBatch:
    """Slices of a multi-coil scan.

    Attributes
    ----------
    kspace : complex64 (slices, coils, H, W), of coils or virtual coils, 0 where not measured
    maps : complex64 (slices, coils, H, W)
    first : number of the first slice in its volume
    noise : standard deviation of the noise per complex sample of a coil, (slices,)
    mixing : of each slice, the matrix (virtual coils, coils) that whitened and compressed its coils, or None; slices
        of fewer virtual coils than others have coils of zeros
    original : k-space of the coils before it, complex64 (slices, coils, H, W)
    """

    kspace: Tensor
    maps: Tensor
    first: int
    noise: Tensor
    mixing: Sequence[Tensor | None]
    original: Tensor


class CoilVolume:
    """The coils of a scan, ready to be reconstructed.

    Parameters
    ----------
    scan : of several coils; its own maps and noise scan are used, if it has them
    measured : bool (W,) or (H, W), which bins were measured
    known : the same, with those that are known to be 0
    settings : see `CoilSettings`
    rows : rows of the image that are kept of its readout (`mrihvae.recon.oversampling`); left out, all

    Raises
    ------
    InputError
        Coils that are zero all over, maps that do not fit, a noise covariance that is singular; on the way also too
        few calibration lines.
    """

    def __init__(
        self, scan: Scan, measured: Tensor, known: Tensor, settings: CoilSettings, rows: int | None = None
    ) -> None:
        if scan.kspace.ndim != 4:
            raise InputError(f"{scan.name}: is of one coil; coils need k-space of (slices, coils, H, W)")
        self.scan, self.measured, self.known, self.settings = scan, measured, known, settings
        self.rows = scan.kspace.shape[-2] if rows is None else rows
        self._turned = lines_differ_along_h(known.expand(scan.kspace.shape[-2:]))
        self._maps: dict[int, Tensor] = {}
        own, shape = scan.maps, scan.kspace.shape
        if own is not None and (own.shape[1:] != shape[1:] or own.shape[0] not in (1, shape[0])):
            raise InputError(
                f"{scan.name}: sensitivity maps of shape {own.shape} do not fit k-space of {shape}; give (slices or 1, "
                "coils, H, W)"
            )

    @property
    def slices(self) -> int:
        """Number of slices."""
        return len(self.scan.kspace)

    @cached_property
    def mixing(self) -> Tensor | None:
        """The matrix (virtual coils, coils) that whitens and compresses all slices alike; None where coils stay."""
        matrix, settings, coils = None, self.settings, self.scan.kspace.shape[1]
        if settings.whiten or (settings.whiten is None and self.scan.noise_scan is not None):
            try:
                if self.scan.noise_scan is not None:
                    covariance = noise_covariance(torch.from_numpy(self.scan.noise_scan))
                else:
                    covariance = corner_covariance(torch.from_numpy(np.asarray(self.scan.kspace)), self.measured)
                matrix = whitening_matrix(covariance)
            except InputError as error:
                raise InputError(f"{self.scan.name}: {error}") from error
        if settings.compress and settings.compress < coils:
            kspace = torch.from_numpy(np.asarray(self.scan.kspace))
            mixed = kspace if matrix is None else mix_coils(kspace, matrix)
            rows = compression_matrix(mixed, settings.compress, self.measured)
            matrix = rows if matrix is None else rows @ matrix
        return matrix

    def batches(self, batch_size: int) -> Iterator[CoilBatch]:
        """Cut the scan into batches of about so many coil images, one slice at least."""
        count = max(1, batch_size // self.scan.kspace.shape[1])
        for first in range(0, self.slices, count):
            yield self.batch(first, min(first + count, self.slices))

    def batch(self, first: int, end: int) -> CoilBatch:
        """Take slices `first` to `end` - 1."""
        whole = self.original(first, end)
        original = remove_oversampling(whole, self.rows)
        mixed, kspace = whole, original
        if self.mixing is not None:
            mixed, kspace = mix_coils(whole, self.mixing), mix_coils(original, self.mixing)
        few = self.settings.compress is None
        found = [compress(*one, self._turned, few) for one in zip(mixed, kspace, strict=True)]
        del whole, mixed  # large, and of no use any more
        with stage("maps"):
            estimated = self._maps_of(kspace, first, end)
        maps = compressed_maps(estimated, [one.matrix for one in found])
        noise, mixing = torch.cat([one.noise for one in found]), [self._mixed_by(one.matrix) for one in found]
        return CoilBatch(alike([one.kspace for one in found]), maps, first, noise, mixing, original)

    def original(self, first: int, end: int) -> Tensor:
        """Take the acquired k-space of the coils as they are, with readout oversampling."""
        kspace = torch.from_numpy(self.scan.kspace[first:end])
        return masked(kspace, self.measured)

    def delivered(self, image: Tensor, batch: CoilBatch) -> Tensor:
        """Make real (slices, H, W) of coil-combined images, as `CoilSettings.output` says."""
        if self.settings.output == "combined":
            return image.abs()
        maps = expanded(batch.maps, batch.mixing).to(image.device)
        return root_sum_of_squares(image, maps, batch.original.to(image.device), self.known.to(image.device))

    def _mixed_by(self, matrix: Tensor | None) -> Tensor | None:
        """Give the matrix of whitening and compression of a slice, compressed by `matrix` beyond what all are."""
        if matrix is None or self.mixing is None:
            return self.mixing if matrix is None else matrix
        return matrix @ self.mixing

    def _maps_of(self, kspace: Tensor, first: int, end: int) -> Tensor:
        """Give the maps of slices: the scan's own, or those estimated."""
        own = self.scan.maps
        if own is not None:
            maps = torch.from_numpy(own if len(own) == 1 else own[first:end]).to(torch.complex64)
            maps = centre_crop(maps, (self.rows, maps.shape[-1]))
            maps = maps if self.mixing is None else mix_coils(maps, self.mixing)
            maps = maps / maps.abs().square().sum(dim=1, keepdim=True).sqrt().clamp_min(1e-12)
            return maps.expand(end - first, -1, -1, -1)
        return torch.stack([self._estimated(one, k) for k, one in enumerate(kspace, first)])

    def _estimated(self, kspace: Tensor, k: int) -> Tensor:
        """Estimate the maps of slice k; those of the slices before it are kept while they are not too many."""
        if k in self._maps:
            return self._maps[k]
        if not kspace.any():  # an empty slice stays one, whatever its maps
            return torch.full_like(kspace, len(kspace) ** -0.5)
        calibration = None if self.scan.calibration is None else self.scan.calibration[k]
        try:
            if calibration is not None:
                return calibration_maps(calibration, self.settings, self.mixing)
            maps = estimate_maps(kspace[None], self.measured, self.settings, self.known)[0]
        except InputError as error:
            raise InputError(f"{self.scan.name}, slice {k}: {error}") from error
        if self._maps and (len(self._maps) + 1) * maps.nbytes > KEPT:
            self._maps.pop(next(iter(self._maps)))
        self._maps[k] = maps
        return maps


def calibration_maps(calibration: Calibration, settings: CoilSettings, mixing: Tensor | None) -> Tensor:
    """Estimate the maps of calibration lines that stand beside slices; shared ones are kept for those asked for last.

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
