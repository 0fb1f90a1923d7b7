"""BART's `pics` for one coil: L1-wavelet and total variation of the strongest classical toolbox, by subprocess.

Solves min_x 1/2 |M F x - y|^2 + strength R(x) in model units, with one coil of sensitivity 1: `-R W:3:0:strength`
(FISTA, Haar, with BART's random shifts, worth 2 dB) or `-R T:3:0:strength` (isotropic total variation,
ADMM). Bitmask 3 is dimensions 0 and 1, here H and W. `-w 1` keeps BART from scaling the data once more. Measured bins
are put back at the end, as for sigpy's methods. On sizes that are no multiple of 4, `pics` has the image shifted or its
sign changed against a centered Fourier transform, so k-space is padded with bins known to be 0, and cropped after.

For several coils there are `pics` with maps, `ecalib` and `nlinv` as they are, on any size: there, what BART does to
phases on sizes that are no multiple of 4 is undone (`modulation`).

Arrays go through BART's own files in a temporary folder.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch

from mrihvae.errors import InputError
from mrihvae.inference.preparation import padded_shape
from mrihvae.io.bart import read_cfl, write_cfl
from mrihvae.physics.fourier import center_crop, center_pad, fft2c, ifft2c, resize_kspace
from mrihvae.physics.scaling import kspace_scale

REGULARIZERS = {"bart-wavelet": "W", "bart-tv": "T"}
ITERATIONS = {"bart-wavelet": 100, "bart-tv": 200}  # of ADMM, steps of its conjugate gradients are counted
# With BART's default rho, 0.5, total variation is 1.5 dB from converged after 300 iterations. A rho as great as the
# strength thresholds gradients at 1, the size of the image.
# Haar wavelets beat BART's default, Daubechies 2, by 0.2 to 0.6 dB on training scans, and CDF 4/4 by more.
OPTIONS = {"bart-wavelet": ("--wavelet", "haar"), "bart-tv": ("-u", "{strength}")}


@cache
def version() -> str | None:
    """Tell BART's version, or None where it is not installed."""
    if shutil.which("bart") is None:
        return None
    answer = subprocess.run(["bart", "version"], capture_output=True, text=True, check=False)
    return answer.stdout.strip() if answer.returncode == 0 else None


def reconstruct(
    kspace: np.ndarray, mask: np.ndarray, method: str, strength: float, iterations: int | None = None
) -> np.ndarray:
    """Reconstruct one slice with `bart pics`.

    Parameters
    ----------
    kspace : complex (H, W), centered, in any physical scale
    mask : bool, broadcast to (H, W), True where k-space was measured; the rest of `kspace` is ignored
    method : "bart-wavelet" or "bart-tv"
    strength : weight of the penalty in model units
    iterations : `ITERATIONS[method]` if left out

    Returns
    -------
    complex64 (H, W), in the scale of the input

    Raises
    ------
    InputError
        BART is not installed, or it failed.
    """
    shape = (kspace.shape[0], kspace.shape[1])
    padded = padded_shape(shape, 4)
    known = torch.from_numpy(np.broadcast_to(mask, shape).copy())
    measured = torch.where(known, torch.from_numpy(kspace.astype(np.complex64)), 0)
    scale = kspace_scale(measured)
    posed = resize_kspace(measured / scale, padded).numpy(), center_pad(known, padded, value=True).numpy()
    image = torch.from_numpy(_pics(*posed, np.ones((1, *padded)), arguments(method, strength, iterations)))
    completed = torch.where(known, measured, center_crop(fft2c(image * scale), shape))
    return ifft2c(completed).numpy()


def pics(kspace: np.ndarray, mask: np.ndarray, maps: np.ndarray, options: Sequence[str]) -> np.ndarray:
    """Reconstruct one slice of several coils with `bart pics`.

    Parameters
    ----------
    kspace : complex (coils, H, W), centered, any size, 0 where not measured
    mask : bool (H, W)
    maps : complex (coils, H, W), of root-sum-of-squares at most 1
    options : of `bart pics`; with "-w 1" there is no scaling but that of the data

    Returns
    -------
    complex64 (H, W)

    Raises
    ------
    InputError
        BART is not installed, or it failed.
    """
    return _pics(kspace * modulation(mask.shape), mask, maps, tuple(options))


def ecalib(kspace: np.ndarray, options: Sequence[str] = ("-m", "1")) -> np.ndarray:
    """Estimate maps by BART's ESPIRiT, `bart ecalib`, from the center that was measured: (coils, H, W).

    Parameters, result and errors are those of `pics`; maps have root-sum-of-squares 1, or 0 where cropped.
    """
    [maps] = call(("ecalib", *options), [_coils_last(kspace)], 1)
    return _coils_first(maps, kspace.shape)


def nlinv(kspace: np.ndarray, mask: np.ndarray, options: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Find image and maps together by BART's nonlinear inversion (Uecker et al. 2008), `bart nlinv`.

    Parameters and errors are those of `pics`. BART multiplies the image by the root-sum-of-squares of the maps; here
    they are divided by that. Its scale, up to 6 % off, is set such that coil images fit the data best.

    Returns
    -------
    complex64 image (H, W) and maps (coils, H, W)
    """
    words = "nlinv", *options, "-p"
    image, maps = call(words, [mask[:, :, None, None], _coils_last(kspace)], 2)
    maps = _coils_first(maps, kspace.shape)
    length = np.sqrt((np.abs(maps) ** 2).sum(axis=0))
    maps = np.divide(maps, length, out=np.zeros_like(maps), where=length > 0)
    image = (image.reshape(mask.shape) * modulation(mask.shape)).astype(np.complex64)
    expanded = mask * fft2c(torch.from_numpy(maps * image)).numpy()
    energy = np.vdot(expanded, expanded).real
    return image * np.float32(np.vdot(expanded, kspace).real / energy if energy > 0 else 1.0), maps


def modulation(shape: tuple[int, ...]) -> np.ndarray:
    """Compute by what BART's centering is wrong: complex128 (H, W), 1 if both sizes are multiples of 4.

    Fourier transforms are centered by factors exp(2 pi i (k - c / 2) c / N), c = N // 2, before and after one that is
    not. `pics` multiplies k-space by them and `nlinv` the image, where it should divide: of no account on multiples of
    4, a sign on other even sizes, a shift by a bin on odd ones.
    """

    def along(size: int) -> np.ndarray:
        center = size // 2
        return np.exp(-4j * np.pi * (np.arange(size) - center / 2) * center / size)

    return along(shape[-2])[:, None] * along(shape[-1])


def call(words: Sequence[str], inputs: Sequence[np.ndarray], outputs: int) -> list[np.ndarray]:
    """Call BART with arrays in and out, whose names come after `words`, on as many threads as torch.

    Raises
    ------
    InputError
        BART is not installed, or it failed.
    """
    if version() is None:
        raise InputError("bart: not installed; install it (apt-get install bart), or leave its methods out")
    with tempfile.TemporaryDirectory() as temporary:
        names = [Path(temporary) / f"array{number}" for number in range(len(inputs) + outputs)]
        for path, array in zip(names, inputs):
            write_cfl(path, array)
        command = ["bart", *words, *map(str, names)]
        threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **threads})
        if done.returncode:
            said = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()] or ["no message"]
            raise InputError(f"bart {' '.join(words)}: failed ({said[-1].strip()}); check its version")
        return [read_cfl(path) for path in names[len(inputs) :]]


def arguments(method: str, strength: float, iterations: int | None = None) -> tuple[str, ...]:
    """Give the options of `bart pics`."""
    options = [option.format(strength=strength) for option in OPTIONS[method]]
    penalty = f"{REGULARIZERS[method]}:3:0:{strength}"
    return "-w", "1", *options, "-i", str(iterations or ITERATIONS[method]), "-R", penalty


def _pics(kspace: np.ndarray, mask: np.ndarray, maps: np.ndarray, options: tuple[str, ...]) -> np.ndarray:
    """Call `bart pics` on k-space (H, W), or (coils, H, W), in model units, as BART has it."""
    arrays = mask[:, :, None, None], _coils_last(kspace.reshape(maps.shape)), _coils_last(maps)
    [image] = call(("pics", *options, "-p"), arrays, 1)
    return image.reshape(mask.shape)


def _coils_last(array: np.ndarray) -> np.ndarray:
    """Turn (coils, H, W) into BART's dimensions: x, y, z, coil."""
    return np.moveaxis(array, 0, -1)[:, :, None]


def _coils_first(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Turn BART's dimensions into `shape`, (coils, H, W)."""
    coils, height, width = shape
    return np.ascontiguousarray(np.moveaxis(array.reshape(height, width, coils), -1, 0))
