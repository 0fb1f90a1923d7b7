"""From a scan to its reconstructed volume, of one coil or several: batches of slices, and the size to deliver."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mrihvae.coils.virtual_coils import alike
from mrihvae.data.scan import Scan, delivered_shape, encoded_lines
from mrihvae.errors import InputError
from mrihvae.inference.held_out import chosen_slices, error_ratio
from mrihvae.physics.fourier import centre_crop, masked
from mrihvae.physics.noise import missing_noise
from mrihvae.recon.methods import HybridMethod, Method, ZeroFilledMethod
from mrihvae.recon.settings import SAMPLING_METHODS
from mrihvae.recon.sliced_scan import SlicedScan

Progress = Callable[[int], None]


@dataclass(frozen=True)
class PosteriorVolume:
    """What posterior samples say of a scan; magnitudes in the scan's own scale, cropped as `delivered_shape` says.

    Attributes
    ----------
    mean : float32 (slice, h, w), magnitude of the samples' complex mean: that of magnitudes would lift the background
    std : float32 (slice, h, w), the deviation of the samples, times `factor`, and of the scan's noise where nothing
        was measured: what to expect between `mean` and a complete scan of the same noise
    samples : float32 (slice, sample, h, w), without that noise
    noise : deviation of that noise in a bright pixel
    ratio : what the scan itself says of its errors over the samples' deviation
        (`mrihvae.inference.held_out.error_ratio`)
    factor : on the deviation of the samples: `InferenceSettings.spread` times `ratio`; 1 for a single sample
    """

    mean: np.ndarray
    std: np.ndarray
    samples: np.ndarray
    noise: float
    ratio: float = 1.0
    factor: float = 1.0


def reconstruct_volume(
    scan: Scan,
    mask: np.ndarray,
    method: Method,
    batch_size: int = 8,
    progress: Progress = lambda slices: None,
) -> np.ndarray:
    """Reconstruct all slices of a scan.

    Parameters
    ----------
    scan : fully sampled or undersampled
    mask : bool (W,) or (H, W), what was acquired; the rest is ignored even where the scan holds it
    method : see `mrihvae.recon.methods`
    batch_size : coil images reconstructed together; it changes speed and memory, not results
    progress : called after each batch with the number of its slices

    Returns
    -------
    float32 magnitude (slice, h, w) in the scan's own scale, cropped to the target's or the header's matrix. Of several
    coils it is what `CoilSettings.output` says; zero-filled, root-sum-of-squares.
    """
    if scan.coils > 1 and method.coils.output == "rss" and bool((mask | ~encoded_lines(scan)).all()):
        method = ZeroFilledMethod()  # acquired k-space is all that is delivered
    slices = SlicedScan(scan, mask, method.coils, method.combines)
    found = []
    for batch in slices.batches(batch_size):
        found.append(slices.magnitude(method.reconstruct(batch), batch).cpu())
        progress(len(batch.kspace))
        del batch  # before the next one is made
    return _cropped(scan, torch.cat(found))


def sample_volume(
    scan: Scan,
    mask: np.ndarray,
    method: Method,
    seed: int = 0,
    batch_size: int = 8,
    progress: Progress = lambda slices: None,
) -> PosteriorVolume:
    """Draw `method.samples` posterior samples of all slices of a scan; parameters as for `reconstruct_volume`.

    Every slice and coil has draws of its own, which do not depend on `batch_size`.

    Raises
    ------
    InputError
        A method without posterior sampling.
    """
    if not isinstance(method, HybridMethod):
        raise InputError(f"method '{method.name}' draws no samples; choose one of {', '.join(SAMPLING_METHODS)}")
    slices = SlicedScan(scan, mask, method.coils)
    means, drawn = [], []
    for batch in slices.batches(batch_size):
        images = method.sample(batch, seed)
        means.append(slices.magnitude(images.mean(dim=0), batch).cpu())
        drawn.append(torch.stack([slices.magnitude(image, batch).cpu() for image in images], dim=1))
        progress(len(batch.kspace))
        del batch
    mean, samples = _cropped(scan, torch.cat(means)), _cropped(scan, torch.cat(drawn))
    noise = _missing_noise(scan, mask)
    if method.samples < 2:
        return PosteriorVolume(mean, np.full_like(mean, noise), samples, noise)
    ratio = _error_ratio(slices, method, seed)
    factor = method.inference.spread * ratio
    std = np.sqrt(factor**2 * samples.var(axis=1, ddof=1) + noise**2)
    return PosteriorVolume(mean, std, samples, noise, ratio, factor)


def _error_ratio(slices: SlicedScan, method: HybridMethod, seed: int) -> float:
    """Estimate from acquired samples that are held out how far posterior samples are from the truth."""
    batches = [slices.batch(k, k + 1) for k in chosen_slices(len(slices))]
    maps = None if batches[0].maps is None else alike([batch.maps[0] for batch in batches if batch.maps is not None])
    kspace = torch.cat([batch.kspace for batch in batches]) if maps is None else alike([b.kspace[0] for b in batches])
    return error_ratio(method.model, kspace, slices.measured, slices.known, method.sampling, seed, maps)


def _missing_noise(scan: Scan, mask: np.ndarray) -> float:
    """Compute the deviation that a complete scan has from its noise where nothing was measured; coils' mean power."""
    whole = np.asarray(scan.kspace)
    kspace = torch.from_numpy(whole if whole.ndim == 4 else whole[:, None])
    measured = torch.from_numpy(mask)
    known = (measured | torch.from_numpy(~encoded_lines(scan))).expand(kspace.shape[-2:])
    kept = masked(kspace, measured)
    return float(np.sqrt(np.mean([missing_noise(coil, known) ** 2 for coil in kept.unbind(1)])))


def _cropped(scan: Scan, images: Tensor) -> np.ndarray:
    """Crop images (slice, ..., H, W) to what is delivered, float32 (slice, ..., h, w)."""
    return centre_crop(images, delivered_shape(scan)).contiguous().numpy()
