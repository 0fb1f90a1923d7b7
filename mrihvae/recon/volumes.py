"""Reconstruction of scans, single-coil or multi-coil: batches of slices, and the size to deliver."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mrihvae.coils.virtual_coils import stack_coils
from mrihvae.data.scan import Scan, delivered_shape, encoded_lines
from mrihvae.errors import InputError
from mrihvae.inference.held_out import error_ratio, spread_slices
from mrihvae.physics.fourier import center_crop
from mrihvae.physics.noise import missing_noise
from mrihvae.recon.catalog import change_method, load_method
from mrihvae.recon.methods import HybridMethod, Method, ZeroFilledMethod
from mrihvae.recon.settings import SAMPLING_METHODS
from mrihvae.recon.sliced_scan import SlicedScan
from mrihvae.recon.undersampling import mask_of
from mrihvae.utils.stages import stage

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Reconstruction:
    """The reconstruction of a scan, in the scan's own scale, cropped to `mrihvae.data.delivered_shape`.

    Attributes
    ----------
    magnitude : float32 (slice, h, w); with samples the magnitude of their complex mean: a mean of magnitudes would
        lift the background
    image : complex64 (slice, h, w), of several coils combined by the maps, or coil images (slice, coil, h, w) where a
        method does not combine; None where it was not requested
    std : float32 (slice, h, w), the standard deviation of the samples, times `factor`, and of the scan's noise where
        nothing was acquired: what to expect between `magnitude` and a fully sampled scan of the same noise; None
        without samples
    samples : float32 (slice, sample, h, w), magnitudes without that noise; None without samples
    noise : standard deviation of that noise in a bright pixel
    ratio : error over the samples' standard deviation, by the scan itself (`mrihvae.inference.error_ratio`)
    factor : on the standard deviation of the samples: `InferenceSettings.spread` times `ratio`; 1 for a single sample
    tv_shares : of total variation in each band, coarsest first, where the scan asked for it
        (`mrihvae.inference.tv_shares`); none where the image is the method's alone
    """

    magnitude: np.ndarray
    image: np.ndarray | None = None
    std: np.ndarray | None = None
    samples: np.ndarray | None = None
    noise: float = 0.0
    ratio: float = 1.0
    factor: float = 1.0
    tv_shares: tuple[float, ...] = ()


def reconstruct_volume(
    scan: Scan,
    mask: np.ndarray,
    method: Method,
    batch_size: int = 8,
    progress: Progress = lambda slices: None,
) -> np.ndarray:
    """Reconstruct all slices of a scan: `Reconstruction.magnitude`; parameters as for `reconstruct_scan`."""
    return reconstruct_scan(scan, mask, method, batch_size=batch_size, progress=progress).magnitude


def zero_filled_volume(scan: Scan, mask: np.ndarray, batch_size: int = 8) -> np.ndarray:
    """Compute zero-filled images to show beside a reconstruction, without warnings: float32 (slice, h, w)."""
    method = ZeroFilledMethod()
    slices = SlicedScan(scan, mask, method.coils, method.combines, inspect=False)
    found = [slices.magnitude(method.reconstruct(batch), batch) for batch in slices.batches(batch_size)]
    return _crop(scan, torch.cat(found))


def reconstruct_scan(
    scan: Scan,
    mask: np.ndarray | None = None,
    method: Method | str | None = None,
    *,
    samples: int = 0,
    seed: int = 0,
    batch_size: int = 8,
    progress: Progress = lambda slices: None,
    complex_image: bool = False,
    first: int = 0,
    part: range | None = None,
) -> Reconstruction:
    """Reconstruct all slices of a scan, y = M F S x + n.

    Parameters
    ----------
    scan : fully sampled or undersampled; k-space complex64 (slice, H, W) or (slice, coil, H, W)
    mask : bool (W,) or (H, W), True where acquired; the rest is ignored even where the scan holds it; None for the
        scan's own (`mrihvae.recon.mask_of`)
    method : see `mrihvae.load_method`; a name, or None for the hybrid one, takes shipped weights
    samples : number of posterior samples, whose mean is then returned, with the uncertainty; 0 for none
    seed : of the samples
    batch_size : number of coil images that are reconstructed together; it changes speed and memory, not results
    progress : called after each batch with the number of its slices
    complex_image : whether complex images are kept, too
    first : number of the first slice in its volume: every slice has samples of its own
    part : slices to reconstruct, without `samples`; None for all. Where it begins with a batch of the whole scan, its
        images are the same, to the last bit, as those of the whole

    Returns
    -------
    see `Reconstruction`; magnitudes of several coils are what `CoilSettings.output` says, zero-filled ones
    root-sum-of-squares

    Raises
    ------
    InputError
        A scan without a mask of its own, a calibration region (ACS) that is too small, or a method that does not
        support posterior sampling.

    Examples
    --------
    >>> import numpy as np
    >>> import mrihvae
    >>> rng = np.random.default_rng(0)
    >>> kspace = rng.standard_normal((2, 32, 32)) + 1j * rng.standard_normal((2, 32, 32))
    >>> scan = mrihvae.Scan("phantom", kspace.astype(np.complex64))
    >>> mask = mrihvae.sampling_pattern("random", (32, 32), acceleration=2, center_fraction=0.2, seed=0)
    >>> found = mrihvae.reconstruct_scan(scan, mask, mrihvae.load_method("zero-filled"))
    >>> found.magnitude.shape
    (2, 32, 32)

    References
    ----------
    * "Iterative Amortized Hierarchical VAE" (IA-HVAE), https://doi.org/10.48550/arXiv.2601.15894
    * Zbontar et al. 2018 (fastMRI), https://doi.org/10.48550/arXiv.1811.08839
    """
    if not isinstance(scan, Scan):
        raise InputError(f"scan is {type(scan).__name__}; give one of the scans that mrihvae.open_kspace returns")
    mask = mask_of(scan, None) if mask is None else _checked_mask(scan, mask)
    if method is None or isinstance(method, str):
        method = load_method(method or "hybrid", several_coils=scan.coils > 1)
    if not isinstance(method, Method):
        raise InputError(f"method is {method!r}; load one with mrihvae.load_method")
    if samples:
        sampling = change_method(method, "", samples)
        return sample_volume(scan, mask, sampling, seed, batch_size, progress, complex_image, first)
    complete = bool((mask | ~encoded_lines(scan)).all())
    if scan.coils > 1 and method.coils.output == "rss" and complete and not complex_image:
        method = ZeroFilledMethod()  # acquired k-space is all that is delivered
    slices = SlicedScan(scan, mask, method.coils, method.combines, first=first)
    method = fit_method(scan, mask, method, slices)
    magnitudes, images = [], []
    for batch in slices.batches(batch_size, part):
        with stage("inference"):
            image = method.reconstruct(batch)
        magnitudes.append(slices.magnitude(image, batch).cpu())
        images += [slices.restore(image).cpu()] if complex_image else []
        progress(len(batch.kspace))
        del batch, image  # before the next ones are made
    found = _crop(scan, torch.cat(magnitudes))
    shares = method.tv_shares or () if isinstance(method, HybridMethod) else ()
    return Reconstruction(found, _crop(scan, torch.cat(images)) if images else None, tv_shares=shares)


def fit_method(scan: Scan, mask: np.ndarray, method: Method, slices: SlicedScan | None = None) -> Method:
    """Return a method fitted to the middle slice of a scan, for scans that come slice by slice.

    With several coils nothing is fitted: the network is far ahead of total variation.

    Parameters
    ----------
    scan, mask, method : as for `reconstruct_scan`
    slices : of the scan, if they are made ready already
    """
    if scan.coils > 1 or not method.takes_fit:
        return method
    slices = slices or SlicedScan(scan, mask, method.coils, method.combines, inspect=False)
    middle = len(slices) // 2
    with stage("check"):
        return method.fit(slices.batch(middle, middle + 1), slices.measured)


def sample_volume(
    scan: Scan,
    mask: np.ndarray,
    method: Method,
    seed: int = 0,
    batch_size: int = 8,
    progress: Progress = lambda slices: None,
    complex_image: bool = False,
    first: int = 0,
) -> Reconstruction:
    """Draw `method.samples` posterior samples of all slices of a scan; parameters as for `reconstruct_scan`.

    Every slice and coil has random numbers of its own, which do not depend on `batch_size`.

    Raises
    ------
    InputError
        A method without posterior sampling.
    """
    if not isinstance(method, HybridMethod):
        raise InputError(
            f"method '{method.name}' does not support posterior sampling; choose one of {', '.join(SAMPLING_METHODS)}"
        )
    slices = SlicedScan(scan, mask, method.coils, first=first)
    means, drawn, kept = [], [], []
    for batch in slices.batches(batch_size):
        with stage("inference"):
            images = method.sample(batch, seed)
        mean = images.mean(dim=0)
        means.append(slices.magnitude(mean, batch).cpu())
        drawn.append(torch.stack([slices.magnitude(image, batch).cpu() for image in images], dim=1))
        kept += [slices.restore(mean).cpu()] if complex_image else []
        progress(len(batch.kspace))
        del batch, images
    magnitude, samples = _crop(scan, torch.cat(means)), _crop(scan, torch.cat(drawn))
    image = _crop(scan, torch.cat(kept)) if kept else None
    noise = _missing_noise(slices)
    if method.samples < 2:
        return Reconstruction(magnitude, image, np.full_like(magnitude, noise), samples, noise)
    ratio = _error_ratio(slices, method, seed)
    factor = method.inference.spread * ratio
    unit = slices.normalization.unit  # squares of what is far larger than 1 leave single precision
    variance = factor**2 * (samples / unit).var(axis=1, ddof=1) + (noise / unit) ** 2
    std = unit * np.sqrt(variance, dtype=np.float32)
    return Reconstruction(magnitude, image, std, samples, noise, ratio, factor)


def _checked_mask(scan: Scan, mask: np.ndarray) -> np.ndarray:
    """Check a mask: bool (W,) or (H, W)."""
    shape = scan.kspace.shape[-2:]
    if not isinstance(mask, np.ndarray) or mask.shape not in (shape, shape[-1:]):
        found = f"of shape {mask.shape}" if isinstance(mask, np.ndarray) else type(mask).__name__
        raise InputError(f"{scan.name}: mask is {found}; give a NumPy array (W,) or (H, W) for k-space of {shape}")
    if mask.dtype != bool and not np.isin(mask, (0, 1)).all():
        raise InputError(f"{scan.name}: mask must hold True and False, or 1 and 0, alone")
    return mask.astype(bool, copy=False)


def _error_ratio(slices: SlicedScan, method: HybridMethod, seed: int) -> float:
    """Estimate errors over the standard deviation of posterior samples, from held-out k-space samples."""
    batches = [slices.batch(k, k + 1) for k in spread_slices(len(slices))]
    maps = (
        None if batches[0].maps is None else stack_coils([batch.maps[0] for batch in batches if batch.maps is not None])
    )
    kspace = (
        torch.cat([batch.kspace for batch in batches]) if maps is None else stack_coils([b.kspace[0] for b in batches])
    )
    return error_ratio(method.model, kspace, slices.measured, slices.known, method.sampling, seed, maps)


def _missing_noise(slices: SlicedScan) -> float:
    """Compute the standard deviation of a full scan's noise in the image, where nothing was acquired."""
    kspace, known = slices.original(0, len(slices)), slices.all_known
    power = np.mean([missing_noise(coil, known) ** 2 for coil in kspace.unbind(1)])
    return slices.normalization.unit * float(np.sqrt(power))


def _crop(scan: Scan, images: Tensor) -> np.ndarray:
    """Crop images (slice, ..., H, W) to what is delivered, (slice, ..., h, w)."""
    cropped: np.ndarray = center_crop(images, delivered_shape(scan)).contiguous().numpy()
    return cropped
