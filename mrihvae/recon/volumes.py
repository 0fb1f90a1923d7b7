"""From a scan to its reconstructed volume: undersampling, batches of slices, coils, the size to deliver."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from mrihvae.coils.settings import CoilSettings
from mrihvae.coils.virtual_coils import alike
from mrihvae.data.scan import Scan, delivered_shape, encoded_lines
from mrihvae.errors import InputError
from mrihvae.inference.coil_problem import pose_coils
from mrihvae.inference.held_out import DRAWS, chosen_slices, error_ratio, ratio_of
from mrihvae.inference.reconstruct import draw, reconstruct, reconstruct_coils, sample
from mrihvae.inference.settings import InferenceSettings
from mrihvae.model.hvae import HVAE
from mrihvae.physics.fourier import centre_crop, fft2c, masked
from mrihvae.physics.mri import MaskedFourier
from mrihvae.physics.noise import missing_noise, noise_std
from mrihvae.physics.sampling import lines_differ_along_h
from mrihvae.pnp.reconstruct import reconstruct_scans
from mrihvae.recon import classical
from mrihvae.recon.classical import conjugate_gradient_sense
from mrihvae.recon.coil_volume import CoilBatch, CoilVolume
from mrihvae.recon.methods import MODEL_METHODS, SAMPLING_METHODS, Method, settings_of
from mrihvae.recon.oversampling import kept_rows, remove_oversampling


@dataclass(frozen=True)
class PosteriorVolume:
    """What posterior samples say of a scan; magnitudes in the scan's own scale, cropped as `delivered_shape` says.

    Attributes
    ----------
    mean : float32 (slice, h, w), magnitude of the samples' complex mean: that of magnitudes would lift the background
    std : float32 (slice, h, w), the deviation of the samples, times `widened`, and of the scan's noise where nothing
        was measured: what to expect between `mean` and a complete scan of the same noise
    samples : float32 (slice, sample, h, w), without that noise
    noise : deviation of that noise in a bright pixel
    ratio : what the scan itself says of its errors over the samples' deviation
        (`mrihvae.inference.held_out.error_ratio`)
    widened : factor on the deviation of the samples: `InferenceSettings.spread` times `ratio`; 1 for a single sample
    """

    mean: np.ndarray
    std: np.ndarray
    samples: np.ndarray
    noise: float
    ratio: float = 1.0
    widened: float = 1.0


def reconstruct_volume(
    scan: Scan,
    mask: np.ndarray,
    method: Method,
    batch_size: int = 8,
    progress: Callable[[int], None] = lambda slices: None,
) -> np.ndarray:
    """Reconstruct all slices of a scan.

    Parameters
    ----------
    scan : complete or undersampled
    mask : bool (W,) or (H, W), what was measured; the rest is ignored even where the scan holds it
    method : see `Method`
    batch_size : coil images reconstructed together; it changes speed and memory, not results
    progress : told after each batch how many slices are done

    Returns
    -------
    float32 magnitude (slice, h, w) in the scan's own scale, cropped to the target's or the header's matrix. Of several
    coils it is what `CoilSettings.output` says; zero-filled, root-sum-of-squares.
    """
    if method.name == "samples":
        return _draw(scan, mask, method, 0, batch_size, progress)[0]
    if scan.coils > 1 and _is_settled(scan, mask, method):
        method = Method("zero-filled")
    if scan.coils > 1 and method.name != "zero-filled":
        volume = coil_volume(scan, mask, method.coils)
        shown = []
        for batch in volume.batches(batch_size):
            shown.append(volume.delivered(_reconstruct_coils(batch, volume.known, method), batch).cpu())
            progress(len(batch.kspace))
            del batch  # before the next one is made
        return _cropped(scan, torch.cat(shown))
    images = [
        _reconstruct_batch(batch, known, noise, method).abs().cpu()
        for batch, known, noise in _batches(scan, mask, batch_size, progress)
    ]
    return _deliver(scan, torch.cat(images))


def sample_volume(
    scan: Scan,
    mask: np.ndarray,
    method: Method,
    seed: int = 0,
    batch_size: int = 8,
    progress: Callable[[int], None] = lambda slices: None,
) -> PosteriorVolume:
    """Draw `method.samples` posterior samples of all slices of a scan; parameters as for `reconstruct_volume`.

    Every slice and coil has draws of its own, which do not depend on `batch_size`.
    """
    if method.model is None or method.name not in SAMPLING_METHODS:
        raise InputError(f"method '{method.name}' draws no samples; choose one of {', '.join(SAMPLING_METHODS)}")
    settings = settings_of(method)
    mean, samples = _draw(scan, mask, method, seed, batch_size, progress)
    variance = samples.var(axis=1, ddof=1) if method.samples > 1 else np.zeros_like(samples[:, 0])
    noise = _missing_noise(scan, mask)
    ratio = widened = 1.0
    if method.samples > 1:
        ratio = _error_ratio(scan, mask, method, settings, seed)
        widened = settings.spread * ratio
    return PosteriorVolume(mean, np.sqrt(widened**2 * variance + noise**2), samples, noise, ratio, widened)


def _is_settled(scan: Scan, mask: np.ndarray, method: Method) -> bool:
    """Tell whether measured k-space is all that is delivered: root-sum-of-squares of a complete scan."""
    return method.coils.output == "rss" and bool((mask | ~encoded_lines(scan)).all())


def _draw(
    scan: Scan, mask: np.ndarray, method: Method, seed: int, batch_size: int, progress: Callable[[int], None]
) -> tuple[np.ndarray, np.ndarray]:
    """Draw samples: magnitude of their mean (slice, h, w), and their magnitudes (slice, sample, h, w)."""
    assert method.model is not None
    if scan.coils > 1:
        return _draw_coils(scan, mask, method, seed, batch_size, progress)
    drawn: list[Tensor] = []
    means: list[Tensor] = []
    for batch, known, noise in _batches(scan, mask, batch_size, progress):
        first = sum(images.shape[1] for images in drawn)
        images = sample(method.model, batch, known, method.samples, settings_of(method), seed, first, noise).cpu()
        means.append(images.mean(dim=0).abs())
        drawn.append(images.abs())
    samples = np.stack([_deliver(scan, images) for images in torch.cat(drawn, dim=1)], axis=1)
    return _deliver(scan, torch.cat(means)), samples


def _draw_coils(
    scan: Scan, mask: np.ndarray, method: Method, seed: int, batch_size: int, progress: Callable[[int], None]
) -> tuple[np.ndarray, np.ndarray]:
    """Draw samples of several coils, as `_draw` does."""
    assert method.model is not None
    volume = coil_volume(scan, mask, method.coils)
    drawn: list[np.ndarray] = []
    means: list[Tensor] = []
    for batch in volume.batches(batch_size):
        problem = pose_coils(method.model, batch.kspace, volume.known, batch.maps, batch.noise)
        images = draw(method.model, problem, method.samples, settings_of(method), seed, batch.first)
        means.append(volume.delivered(images.mean(dim=0), batch).cpu())
        shown = [_cropped(scan, volume.delivered(image, batch).cpu()) for image in images]
        drawn.append(np.stack(shown, axis=1))
        progress(len(batch.kspace))
    return _cropped(scan, torch.cat(means)), np.concatenate(drawn)


def _error_ratio(scan: Scan, mask: np.ndarray, method: Method, settings: InferenceSettings, seed: int) -> float:
    """Ask bins that are held out how far samples are from the truth."""
    assert method.model is not None
    model = method.model
    if scan.coils > 1:
        return _coil_error_ratio(scan, mask, model, method.coils, settings, seed)
    ((kspace, known, _),) = _batches(scan, mask, len(scan.kspace), lambda slices: None)
    return error_ratio(model, kspace, torch.from_numpy(mask), known, settings, seed)


def _coil_error_ratio(
    scan: Scan, mask: np.ndarray, model: HVAE, coils: CoilSettings, settings: InferenceSettings, seed: int
) -> float:
    """Do as `_error_ratio` does, in the k-space of all coils; maps are those of all calibration lines."""
    volume = coil_volume(scan, mask, coils)
    batches = [volume.batch(k, k + 1) for k in chosen_slices(volume.slices)]
    kspace, maps = alike([one.kspace[0] for one in batches]), alike([one.maps[0] for one in batches])

    def draws(shown: Tensor, mask: Tensor, number: int) -> Tensor:
        problem = pose_coils(model, shown.unflatten(0, maps.shape[:2]), mask, maps)
        images = draw(model, problem, DRAWS, replace(settings, sweeps=0), number).cpu()
        return fft2c(maps * images[:, :, None]).flatten(1, 2)

    return ratio_of(draws, kspace.flatten(0, 1), volume.measured, volume.known, seed)


def coil_volume(scan: Scan, mask: np.ndarray, coils: CoilSettings) -> CoilVolume:
    """Make the coils of a scan ready; bins count as known that were measured, or that the scanner did not encode."""
    measured = torch.from_numpy(mask)
    return CoilVolume(scan, measured, measured | torch.from_numpy(~encoded_lines(scan)), coils, _kept_rows(scan, mask))


def _missing_noise(scan: Scan, mask: np.ndarray) -> float:
    """Compute the deviation that a complete scan has from its noise where nothing was measured; coils' mean power."""
    whole = np.asarray(scan.kspace)
    kspace = torch.from_numpy(whole if whole.ndim == 4 else whole[:, None])
    measured = torch.from_numpy(mask)
    known = (measured | torch.from_numpy(~encoded_lines(scan))).expand(kspace.shape[-2:])
    kept = masked(kspace, measured)
    return float(np.sqrt(np.mean([missing_noise(coil, known) ** 2 for coil in kept.unbind(1)])))


def _batches(
    scan: Scan, mask: np.ndarray, batch_size: int, progress: Callable[[int], None]
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Cut a scan into batches of undersampled coil images (batch, H, W), without readout oversampling.

    Gives what is known of k-space, too, and the noise of each image, which is that of the readout as it was.
    """
    measured = torch.from_numpy(mask)
    # lines that the scanner did not encode are known to be zero, not missing
    known, rows = measured | torch.from_numpy(~encoded_lines(scan)), _kept_rows(scan, mask)
    count, turned = max(1, batch_size // scan.coils), lines_differ_along_h(known.expand(scan.kspace.shape[-2:]))
    for first in range(0, len(scan.kspace), count):
        kspace = torch.from_numpy(scan.kspace[first : first + count])
        kept = masked(kspace, measured).reshape(-1, *kspace.shape[-2:])
        yield remove_oversampling(kept, rows), known, noise_std(kept.mT if turned else kept)
        progress(len(kspace))


def _kept_rows(scan: Scan, mask: np.ndarray) -> int:
    """Choose the rows of the image that are reconstructed; all where the readout is not sampled fully."""
    height = scan.kspace.shape[-2]
    if scan.calibration is not None or scan.matrix is None or scan.matrix[0] >= height:
        return height
    rows = kept_rows(height, delivered_shape(scan)[0], scan.matrix, mask)
    return rows if rows == height or _fills_readout(scan, mask) else height


def _fills_readout(scan: Scan, mask: np.ndarray) -> bool:
    """Tell whether all rows of k-space were acquired, by the first slice that is not empty."""
    for k in range(len(scan.kspace)):
        there = (np.asarray(scan.kspace[k : k + 1]) != 0) & mask
        rows = there.any(axis=tuple(axis for axis in range(there.ndim) if axis != there.ndim - 2))
        if rows.any():
            return bool(rows.all())
    return False


def _deliver(scan: Scan, magnitude: Tensor) -> np.ndarray:
    """Combine the coils of magnitudes (slice * coil, H, W) and crop them: float32 (slice, h, w)."""
    split = magnitude.unflatten(0, (-1, scan.coils))
    return _cropped(scan, split[:, 0] if scan.coils == 1 else split.square().sum(dim=1).sqrt())


def _cropped(scan: Scan, images: Tensor) -> np.ndarray:
    """Crop images (slice, H, W) to what is delivered, float32 (slice, h, w)."""
    return centre_crop(images, delivered_shape(scan)).contiguous().numpy()


def _reconstruct_batch(kspace: Tensor, mask: Tensor, noise: Tensor, method: Method) -> Tensor:
    """Reconstruct undersampled k-space (slices, H, W) to complex images of the same shape."""
    if method.model is not None and method.name == "pnp":
        return reconstruct_scans(method.model, kspace, mask, method.pnp, noise=noise)[0]
    if method.model is not None and method.name in MODEL_METHODS:
        return reconstruct(method.model, kspace, mask, settings_of(method), noise)
    if method.name in ("zero-filled", "sense"):  # the same with one coil of sensitivity 1
        return MaskedFourier(mask).adjoint(kspace)
    solve = classical.wavelet if method.name == "wavelet" else classical.total_variation
    strength = classical.DEFAULT_STRENGTH[method.name] if method.strength is None else method.strength
    pattern = mask.expand(kspace.shape[-2:]).numpy()
    return torch.from_numpy(np.stack([solve(y, pattern, strength) for y in kspace.numpy()]))


def _reconstruct_coils(batch: CoilBatch, known: Tensor, method: Method) -> Tensor:
    """Reconstruct undersampled k-space of several coils to coil-combined complex images (slices, H, W)."""
    if method.model is not None and method.name == "pnp":
        return reconstruct_scans(method.model, batch.kspace, known, method.pnp, batch.maps, batch.noise)[0]
    if method.model is not None and method.name in MODEL_METHODS:
        return reconstruct_coils(method.model, batch.kspace, known, batch.maps, settings_of(method), batch.noise)
    strength = classical.COIL_STRENGTH[method.name] if method.strength is None else method.strength
    if method.name == "sense":
        return conjugate_gradient_sense(batch.kspace, known, batch.maps, strength)
    solve = classical.wavelet if method.name == "wavelet" else classical.total_variation
    pattern = known.expand(batch.kspace.shape[-2:]).numpy()
    images = [solve(y, pattern, strength, maps=maps) for y, maps in zip(batch.kspace.numpy(), batch.maps.numpy())]
    return torch.from_numpy(np.stack(images))
