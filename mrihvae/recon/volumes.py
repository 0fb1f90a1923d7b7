"""Reconstruction of scans, single-coil or multi-coil: batches of slices, and the size to deliver."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mrihvae.data.scan import Scan, delivered_shape, encoded_lines
from mrihvae.errors import InputError
from mrihvae.inference.error_map import Evidence
from mrihvae.physics.fourier import center_crop
from mrihvae.recon.catalog import change_method, load_method
from mrihvae.recon.methods import HybridMethod, Method, ZeroFilledMethod
from mrihvae.recon.reconstruction import Reconstruction
from mrihvae.recon.settings import SAMPLING_METHODS
from mrihvae.recon.sliced_scan import SlicedScan
from mrihvae.recon.uncertainty import add_uncertainty, gather_evidence, local_powers
from mrihvae.recon.undersampling import mask_of
from mrihvae.utils.stages import stage

Progress = Callable[[int], None]


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
    mask : bool (W,) or (H, W), True where acquired; other samples of the scan are ignored; None for the scan's own mask
        (`mrihvae.recon.mask_of`)
    method : see `mrihvae.load_method`; a name, or None for "hybrid", uses shipped weights
    samples : number of posterior samples, for the uncertainty of the image; 0 for none
    seed : random seed of the samples
    batch_size : number of coil images that are reconstructed together; it changes speed and memory, not results
    progress : called after each batch with its number of slices
    complex_image : whether to keep complex images as well
    first : number of the first slice in its volume: every slice has its own samples
    part : slices to reconstruct, without `samples`; None for all. Where it begins with a batch of the whole scan, its
        images are the same, to the last bit, as those of the whole

    Returns
    -------
    see `Reconstruction`; several coils are combined as set by `CoilSettings.output`, or by root-sum-of-squares if
    zero-filled

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
    drawn = _draw(scan, mask, method, seed, batch_size, progress, complex_image, first)
    with stage("check"):
        return add_uncertainty(drawn.found, drawn.slices, drawn.method, drawn.powers, seed)


def observe_volume(
    scan: Scan, mask: np.ndarray, method: HybridMethod, seed: int = 0
) -> tuple[Reconstruction, Evidence] | None:
    """Reconstruct a scan with posterior samples, and gather what it says of its error, in the units of the image.

    Returns
    -------
    None, with a warning, where too few lines lie outside of the calibration region to be held out
    """
    drawn = _draw(scan, mask, method, seed, observed=True)
    assert drawn.powers is not None
    evidence = gather_evidence(drawn.found, drawn.slices, drawn.method, drawn.powers)
    return None if evidence is None else (drawn.found, evidence)


@dataclass(frozen=True)
class _Drawn:
    """Images and samples of a scan, the method fitted to it, and local powers of its error if they are needed."""

    found: Reconstruction
    slices: SlicedScan
    method: HybridMethod
    powers: np.ndarray | None


def _draw(
    scan: Scan,
    mask: np.ndarray,
    method: HybridMethod,
    seed: int,
    batch_size: int = 8,
    progress: Progress = lambda slices: None,
    complex_image: bool = False,
    first: int = 0,
    observed: bool = False,
) -> _Drawn:
    """Reconstruct a scan and draw samples; with local powers if they are `observed`, or the method is calibrated."""
    slices = SlicedScan(scan, mask, method.coils, first=first)
    fitted = fit_method(scan, mask, method, slices)
    assert isinstance(fitted, HybridMethod)
    observed = observed or (method.samples > 1 and fitted.calibration_for(scan.coils) is not None)
    magnitudes, drawn, kept, powers = [], [], [], []
    for batch in slices.batches(batch_size):
        with stage("inference"):
            samples = fitted.sample(batch, seed)
            image = fitted.reconstruct_with(batch, samples)
        magnitudes.append(slices.magnitude(image, batch).cpu())
        drawn.append(torch.stack([slices.magnitude(sample, batch).cpu() for sample in samples], dim=1))
        kept += [slices.restore(image).cpu()] if complex_image else []
        powers += [_crop(scan, local_powers(fitted.model, batch, image, samples))] if observed else []
        progress(len(batch.kspace))
        del batch, samples, image
    found = Reconstruction(
        _crop(scan, torch.cat(magnitudes)),
        _crop(scan, torch.cat(kept)) if kept else None,
        samples=_crop(scan, torch.cat(drawn)),
        tv_shares=fitted.tv_shares or (),
    )
    return _Drawn(found, slices, fitted, np.concatenate(powers, axis=1) if powers else None)


def _checked_mask(scan: Scan, mask: np.ndarray) -> np.ndarray:
    """Check a mask: bool (W,) or (H, W)."""
    shape = scan.kspace.shape[-2:]
    if min(shape) < 2:
        raise InputError(f"{scan.name}: k-space of {shape[0]} x {shape[1]} samples; H and W must be at least 2")
    if not isinstance(mask, np.ndarray) or mask.shape not in (shape, shape[-1:]):
        found = f"of shape {mask.shape}" if isinstance(mask, np.ndarray) else type(mask).__name__
        raise InputError(f"{scan.name}: mask is {found}; give a NumPy array (W,) or (H, W) for k-space of {shape}")
    if mask.dtype != bool and not np.isin(mask, (0, 1)).all():
        raise InputError(f"{scan.name}: mask must hold only True and False, or 1 and 0")
    return mask.astype(bool, copy=False)


def _crop(scan: Scan, images: Tensor) -> np.ndarray:
    """Crop images (slice, ..., H, W) to what is delivered, (slice, ..., h, w)."""
    cropped: np.ndarray = center_crop(images, delivered_shape(scan)).contiguous().numpy()
    return cropped
