"""Settings of what is done with several coils."""

from __future__ import annotations

from dataclasses import dataclass

from mrihvae.errors import InputError

MAPS = ("fast", "espirit")
OUTPUTS = ("rss", "combined")
MAX_REPETITIONS = 10  # of refined maps; from the third on they hardly change


@dataclass(frozen=True)
class CoilSettings:
    """Settings of how several coils are processed.

    Attributes
    ----------
    maps : how sensitivity maps are estimated from the calibration region: "fast" (ESPIRiT on a coarse grid) or
        "espirit" (sigpy's, pixel by pixel, which is many times slower)
    refine_maps : maximum number of times that maps are estimated again, from the k-space of a quick reconstruction, if
        the calibration region is small for the number of coils; 0 for never
    crop : eigenvalue of ESPIRiT below which maps are 0; 0 keeps them everywhere
    compress : number of virtual coils, found by singular value decomposition; 0 keeps the coils as they are; None for
        the number that keeps all but the noise, in each slice (`mrihvae.coils.virtual_coils`)
    whiten : whether coils are prewhitened, with the noise covariance of the noise scan or, without one, of the corners
        of k-space; None to prewhiten only if there is a noise scan
    output : coil combination: "rss", root-sum-of-squares of coil images with the acquired k-space put back, as in
        fastMRI's targets, or "combined", the magnitude of the sensitivity-weighted combination
    """

    maps: str = "fast"
    refine_maps: int = 2
    crop: float = 0.0
    compress: int | None = None
    whiten: bool | None = None
    output: str = "rss"

    def __post_init__(self) -> None:
        for name, known in (("maps", MAPS), ("output", OUTPUTS)):
            if getattr(self, name) not in known:
                raise InputError(f"{name} '{getattr(self, name)}' is unknown; choose one of {', '.join(known)}")
        if (self.compress or 0) < 0 or not 0 <= self.crop < 1:
            raise InputError(f"compress {self.compress} must be at least 0, and crop {self.crop} in [0, 1)")
        if not 0 <= self.refine_maps <= MAX_REPETITIONS:
            raise InputError(f"refine_maps {self.refine_maps} must be 0 to {MAX_REPETITIONS}")
