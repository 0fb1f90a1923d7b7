"""Classical methods for several coils, of sigpy and BART, one slice at a time: what our network is compared to.

Each finds a coil-combined image x with y = M F S x + noise, from k-space y, mask M and maps S:

    zero-filled               A^H y, A = M F S
    sense, bart-sense         min_x 1/2 |A x - y|^2 + strength / 2 |x|^2, by conjugate gradients
    wavelet, bart-wavelet     min_x 1/2 |A x - y|^2 + strength |W x|_1
    tv, bart-tv               min_x 1/2 |A x - y|^2 + strength |G x|_1
    ecalib-...                the three of BART with maps of its own (ESPIRiT), whatever maps are given
    nlinv                     image and maps together, of smooth maps; what regularizes it is the number of Newton steps

Penalties are in model units: k-space is divided by the 99th percentile of the zero-filled root-sum-of-squares image.
Wavelets are those of `mrihvae.recon.classical` and benchmarks/peers/bart.py. Scores are of `to_rss`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from benchmarks.peers import bart
from mrihvae.coils import combine
from mrihvae.errors import InputError
from mrihvae.physics.fourier import ifft2c
from mrihvae.physics.scaling import image_scale
from mrihvae.recon.classical import COIL_ITERATIONS, admm_steps

APPS = {"sense": "SenseRecon", "wavelet": "L1WaveletRecon", "tv": "TotalVariationRecon"}
OWN_MAPS = "ecalib-"
BART = ("bart-sense", "bart-wavelet", "bart-tv", "ecalib-sense", "ecalib-wavelet", "ecalib-tv", "nlinv")
METHODS = ("zero-filled", *APPS, *BART)
# of BART's ADMM, steps of its conjugate gradients are counted; nlinv counts Newton steps
ITERATIONS = {"sense": 30, **COIL_ITERATIONS, "bart-sense": 30, **bart.ITERATIONS, "nlinv": 9}
# Where few central lines are measured, as at 8x, BART's own crop at eigenvalue 0.8 cuts into the object and loses 2 to
# 10 dB. The kernel matters as much: benchmarks/multicoil/tune.py finds the best by the number of lines.
ECALIB = ("-m", "1", "-c", "0")
KERNEL = 5  # of BART's ESPIRiT where none is given
UNIT = 1.01  # root-sum-of-squares of maps up to which step sizes are safe


@dataclass(frozen=True)
class Combined:
    """A coil-combined image, complex64 (H, W), in the scale of k-space, and the maps (coils, H, W) that it is for."""

    image: np.ndarray
    maps: np.ndarray


def reconstruct(
    method: str,
    kspace: np.ndarray,
    mask: np.ndarray,
    maps: np.ndarray | None = None,
    strength: float | None = None,
    iterations: int | None = None,
    kernel: int = KERNEL,
) -> Combined:
    """Reconstruct one slice.

    Parameters
    ----------
    method : one of `METHODS`
    kspace : complex (coils, H, W), centered, in any physical scale
    mask : bool (H, W), True where k-space was measured; the rest of `kspace` is ignored
    maps : complex (coils, H, W), of root-sum-of-squares 1, or 0 where there is nothing; "ecalib-..." and "nlinv" find
        maps of their own
    strength : weight of the penalty in model units; "zero-filled" and "nlinv" have none
    iterations : as in `ITERATIONS` if left out
    kernel : of BART's ESPIRiT, for "ecalib-..."

    Raises
    ------
    InputError
        Unknown method, shapes that do not fit, no maps or strength where they are needed, or BART failed or is not
        installed.
    """
    _check(method, kspace, mask, maps, strength)
    measured = np.where(mask, kspace, 0).astype(np.complex64)
    scale = float(image_scale(torch.from_numpy(root_sum_of_squares(_images(measured)))))
    posed = measured / np.float32(scale)
    if method == "nlinv":
        image, found = bart.nlinv(posed, mask, _nlinv_options(iterations))
        return Combined((image * scale).astype(np.complex64), found)
    used = (
        bart.ecalib(posed, _ecalib_options(kernel))
        if method.startswith(OWN_MAPS)
        else np.asarray(maps, dtype=np.complex64)
    )
    if method == "zero-filled":
        image = (used.conj() * _images(posed)).sum(axis=0)
    elif method in APPS:
        image = _sigpy(method, posed, mask, used, float(strength or 0), iterations)
    else:
        image = bart.pics(posed, mask, used, _pics_options(method, float(strength or 0), iterations))
    return Combined((image * scale).astype(np.complex64), used)


def kernel_for(kernels: list[dict[str, Any]], lines: int, acceleration: float) -> int:
    """Give BART's kernel that was tuned at the nearest number of calibration lines and acceleration, by their ratios.

    Parameters
    ----------
    kernels : "kernels" of results/tune_multicoil.json; `KERNEL` is the answer where there are none
    lines : calibration lines; the kernel is smaller, since BART takes an even number of them
    acceleration : of the pattern
    """

    def distance(row: dict[str, Any]) -> float:
        return abs(math.log(row["lines"] / max(lines, 1))) + abs(math.log(row["acceleration"] / acceleration))

    return min(int(min(kernels, key=distance)["kernel"]) if kernels else KERNEL, max(lines - 1, 1))


def arguments(method: str, strength: float | None = None, iterations: int | None = None, kernel: int = KERNEL) -> str:
    """Tell what is run: sigpy's application and its parameters, or BART's commands."""
    if method == "zero-filled":
        return "A^H y"
    if method == "nlinv":
        return " ".join(("bart nlinv", *_nlinv_options(iterations)))
    if method in APPS:
        chosen = {"lamda": strength, **_sigpy_options(method, float(strength or 0), iterations)}
        return f"sigpy.mri.app.{APPS[method]}({', '.join(f'{key}={value}' for key, value in chosen.items())})"
    first = " ".join(("bart ecalib", *_ecalib_options(kernel), "&& ")) if method.startswith(OWN_MAPS) else ""
    return first + " ".join(("bart pics", *_pics_options(method, float(strength or 0), iterations)))


def to_rss(image: np.ndarray, maps: np.ndarray, kspace: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Compute the root-sum-of-squares image that a combined image stands for.

    It is expanded by its maps, measured k-space is put in, and coil images are combined: the convention of fastMRI's
    targets.

    Parameters
    ----------
    image : complex (H, W)
    maps : complex (coils, H, W)
    kspace : complex (coils, H, W), in the scale of the image
    mask : bool (H, W)

    Returns
    -------
    float32 (H, W)
    """
    arrays = (np.array(image, np.complex64)[None], np.array(maps, np.complex64)[None], kspace[None], np.array(mask))
    return np.asarray(combine.root_sum_of_squares(*map(torch.from_numpy, arrays))[0].numpy())


def root_sum_of_squares(images: np.ndarray) -> np.ndarray:
    """Combine coil images (coils, H, W) to float32 (H, W)."""
    return np.asarray(np.sqrt((np.abs(images) ** 2).sum(axis=0)), dtype=np.float32)


def _images(kspace: np.ndarray) -> np.ndarray:
    return np.asarray(ifft2c(torch.from_numpy(kspace.astype(np.complex64))).numpy())


def _check(method: str, kspace: np.ndarray, mask: np.ndarray, maps: np.ndarray | None, strength: float | None) -> None:
    if method not in METHODS:
        raise InputError(f"method '{method}' is unknown; choose one of {', '.join(METHODS)}")
    if kspace.ndim != 3 or mask.shape != kspace.shape[1:]:
        raise InputError(f"k-space {kspace.shape} is not one slice (coils, H, W) that the mask {mask.shape} fits")
    if strength is None and method not in ("zero-filled", "nlinv"):
        raise InputError(f"{method}: has a penalty, so it needs its strength")
    if strength is not None and not 0 < strength < np.inf:
        raise InputError(f"strength {strength} is not a number above 0")
    if method == "nlinv" or method.startswith(OWN_MAPS):
        return
    if maps is None or maps.shape != kspace.shape:
        shape = "none" if maps is None else maps.shape
        raise InputError(f"{method}: takes maps of the shape of k-space {kspace.shape}, not {shape}")
    if (largest := float(root_sum_of_squares(maps).max())) > UNIT:
        raise InputError(f"maps have a root-sum-of-squares of up to {largest:.3g}; divide them by it")


def _sigpy(
    method: str, kspace: np.ndarray, mask: np.ndarray, maps: np.ndarray, strength: float, iterations: int | None
) -> np.ndarray:
    """Run a sigpy application."""
    import sigpy.mri.app

    weights = np.broadcast_to(mask, kspace.shape).astype(np.float32)
    options = _sigpy_options(method, strength, iterations)
    solver = getattr(sigpy.mri.app, APPS[method])(kspace, maps, strength, weights=weights, show_pbar=False, **options)
    return np.asarray(solver.run(), dtype=np.complex64)


def _sigpy_options(method: str, strength: float, iterations: int | None) -> dict[str, Any]:
    """Choose iterations and steps; |A| is 1, so sigpy need not estimate it, at random."""
    steps: dict[str, Any] = {}
    if method == "wavelet":
        steps = {"alpha": 1.0}
    if method == "tv":
        steps = admm_steps(strength)
    return {"max_iter": iterations or ITERATIONS[method], **steps}


def _pics_options(method: str, strength: float, iterations: int | None) -> tuple[str, ...]:
    name = method.replace(OWN_MAPS, "bart-")
    if name == "bart-sense":
        return "-w", "1", "-l2", "-r", str(strength), "-i", str(iterations or ITERATIONS[name])
    return bart.arguments(name, strength, iterations or ITERATIONS[name])


def _ecalib_options(kernel: int) -> tuple[str, ...]:
    return *ECALIB, "-k", str(kernel)


def _nlinv_options(iterations: int | None) -> tuple[str, ...]:
    return "-S", "-i", str(iterations or ITERATIONS["nlinv"])
