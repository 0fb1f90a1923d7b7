"""Settings of the simulated scanner."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mrihvae.errors import InputError

FIELDS = ("birdcage", "random")
MIN_MATRIX, MAX_MATRIX = 16, 4096


@dataclass(frozen=True)
class ScannerSettings:
    """Settings of a simulated scanner.

    Attributes
    ----------
    coils : number of receive coils; a single coil has a uniform sensitivity of 1
    fields : coil sensitivities of multi-coil scans: "birdcage", identical coils around the object, or "random" for each
        file
    matrix : H and W; larger images are resampled to it by cropping k-space, smaller ones are zero-padded
    noise : standard deviation per complex sample and coil, relative to the 99th percentile of the noise-free
        root-sum-of-squares image of the slice, so images of any number of coils are equally noisy
    noise_correlation : fraction of the noise power, from 0 to below 1, that is shared by coils through their
        sensitivities; files then have a noise scan, noise, complex64 (coils, samples); None for uncorrelated noise and
        no noise scan
    seed : equal seeds give equal scans; fields, phase and noise depend on it, sampling patterns do not

    Raises
    ------
    InputError
        A value that nothing can be simulated with.
    """

    coils: int = 1
    fields: str = "birdcage"
    matrix: int = 256
    noise: float = 0.01
    noise_correlation: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.coils < 1:
            raise InputError(f"coils {self.coils}: must be at least 1")
        if self.fields not in FIELDS:
            raise InputError(f"fields '{self.fields}' are unknown; choose one of {', '.join(FIELDS)}")
        if not MIN_MATRIX <= self.matrix <= MAX_MATRIX:
            raise InputError(f"matrix {self.matrix}: must be {MIN_MATRIX} to {MAX_MATRIX}")
        if not 0 <= self.noise < math.inf:
            raise InputError(f"noise {self.noise}: must be a number of at least 0")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"seed {self.seed}: must be 0 to {2**32 - 1}")
        if self.noise_correlation is not None:
            if not 0 <= self.noise_correlation < 1:
                raise InputError(f"noise correlation {self.noise_correlation}: must be at least 0 and below 1")
            if self.coils == 1 or self.noise == 0:
                lacking = "several coils" if self.coils == 1 else "noise above 0"
                raise InputError(f"noise correlation: takes {lacking}; leave it out")
