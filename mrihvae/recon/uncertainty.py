"""The uncertainty of a scan: calibrated intervals and bounds, or else the standard deviation of samples."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from mrihvae.coils.virtual_coils import stack_coils
from mrihvae.inference import evidence
from mrihvae.inference.calibration import ONE_COIL, SEVERAL_COILS, Bounds, Calibration, apply_calibration
from mrihvae.inference.error_map import Evidence
from mrihvae.inference.evidence import held_out_misfit
from mrihvae.inference.held_out import error_ratio, spread_slices
from mrihvae.model.hvae import HVAE
from mrihvae.physics.noise import missing_noise
from mrihvae.recon.methods import HybridMethod
from mrihvae.recon.reconstruction import Reconstruction
from mrihvae.recon.sliced_scan import Batch, SlicedScan
from mrihvae.utils.notices import warn


def add_uncertainty(
    found: Reconstruction,
    slices: SlicedScan,
    method: HybridMethod,
    powers: np.ndarray | None,
    seed: int,
) -> Reconstruction:
    """Return a reconstruction with its standard deviation and, where the method is calibrated, bounds.

    Parameters
    ----------
    found : with samples, float32 (slice, sample, h, w)
    powers : local ones (feature, slice, h, w), in normalized units, as `local_powers` returns them; None where the
        method is not calibrated
    seed : of lines that are held out
    """
    assert found.samples is not None
    noise = missing_noise_of(slices)
    calibration = method.calibration_for(slices.scan.coils)
    known = None
    if calibration is not None and powers is not None:
        known = gather_evidence(found, slices, method, powers)
    elif method.name == "hybrid" and method.samples > 1:
        warn(_why_uncalibrated(method, slices.scan.coils))
    if calibration is not None and known is not None:
        std, bounds = apply_calibration(calibration, known)
        _warn_of_doubts(calibration, known, bounds)
        return replace(found, std=std, noise=noise, bounds=bounds)
    if method.samples < 2:
        return replace(found, std=np.full_like(found.magnitude, noise), noise=noise)
    ratio = _error_ratio(slices, method, seed)
    factor = method.inference.spread * ratio
    unit = slices.normalization.unit  # squares of what is far larger than 1 leave single precision
    variance = factor**2 * (found.samples / unit).var(axis=1, ddof=1) + (noise / unit) ** 2
    return replace(found, std=unit * np.sqrt(variance, dtype=np.float32), noise=noise, ratio=ratio, factor=factor)


def _why_uncalibrated(method: HybridMethod, coils: int) -> str:
    """Say why intervals are not calibrated, and what to do."""
    kind = SEVERAL_COILS if coils > 1 else ONE_COIL
    if kind in (method.calibrations or {}):
        return "uncertainty: not calibrated with these settings; leave them out for calibrated intervals and bounds"
    return f"uncertainty: not calibrated, since these weights have no calibration of {kind}; see 'mrihvae calibrate'"


def _warn_of_doubts(calibration: Calibration, known: Evidence, bounds: Bounds) -> None:
    """Warn where intervals and bounds may not hold."""
    if not calibration.reaches(known.acceleration):
        fitted = ", ".join(f"{one.acceleration:g}x" for one in calibration.quantiles)
        warn(f"uncertainty: calibrated at {fitted}; intervals and bounds may not hold at R = {known.acceleration:.1f}")
    if bounds.is_unusual:
        warn(
            "uncertainty: held-out acquired lines are predicted worse than in scans of the calibration (p = "
            "{bounds.p_value:.2f}); intervals and bounds may not hold"
        )


def gather_evidence(
    found: Reconstruction, slices: SlicedScan, method: HybridMethod, powers: np.ndarray
) -> Evidence | None:
    """Return what a scan says of its error, in the units of the image.

    Parameters
    ----------
    powers : local ones (feature, slice, h, w), in normalized units, as `local_powers` returns them

    Returns
    -------
    None, with a warning, where too few lines can be held out
    """
    kspace, maps = _spread(slices)
    misfit = held_out_misfit(method.model, kspace, slices.measured, slices.known, method.point, maps)
    unit = slices.normalization.unit
    peak = float(found.magnitude.max())
    if misfit is None or not peak > 0:
        warn("uncertainty: not calibrated, since too few lines lie outside the calibration region to be held out")
        return None
    acceleration = slices.measured.numel() / max(1, int(slices.measured.sum()))
    return Evidence(powers, missing_noise_of(slices) / unit, misfit, acceleration, peak / unit, unit)


def local_powers(model: HVAE, batch: Batch, image: Tensor, samples: Tensor) -> Tensor:
    """Compute local powers (feature, slices, H, W) of a batch, by `mrihvae.inference.evidence.local_powers`."""
    return evidence.local_powers(model, batch.kspace, batch.known, batch.maps, batch.noise, image, samples)


def missing_noise_of(slices: SlicedScan) -> float:
    """Compute the standard deviation of a full scan's noise in the image, where nothing was acquired."""
    kspace, known = slices.original(0, len(slices)), slices.all_known
    power = np.mean([missing_noise(coil, known) ** 2 for coil in kspace.unbind(1)])
    return slices.normalization.unit * float(np.sqrt(power))


def _error_ratio(slices: SlicedScan, method: HybridMethod, seed: int) -> float:
    """Estimate errors over the standard deviation of posterior samples, from held-out k-space samples."""
    kspace, maps = _spread(slices)
    return error_ratio(method.model, kspace, slices.measured, slices.known, method.sampling, seed, maps)


def _spread(slices: SlicedScan) -> tuple[Tensor, Tensor | None]:
    """Return k-space of slices evenly spread over a scan, and their maps if coils are combined by maps."""
    batches = [slices.batch(k, k + 1) for k in spread_slices(len(slices))]
    maps = [batch.maps[0] for batch in batches if batch.maps is not None]
    if not maps:
        return torch.cat([batch.kspace for batch in batches]), None
    return stack_coils([batch.kspace[0] for batch in batches]), stack_coils(maps)
