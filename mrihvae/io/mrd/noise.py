"""Noise scans of a measurement: coil sets of a scanner may differ, and only noise of the image's coils whitens it."""

from __future__ import annotations

import numpy as np

MAX_NOISE_NUMBERS = 2**22  # numbers of noise scans of a set of coils that are kept: more say no more of the covariance
MAX_COIL_SETS = 16  # numbers of coils of which noise is kept


class NoiseScans:
    """Noise, by the number of coils.

    Parameters
    ----------
    earlier : noise of another measurement, which counts for coils that this one has no noise of
    """

    def __init__(self, earlier: NoiseScans | None = None) -> None:
        self.earlier = earlier
        self._scans: dict[int, list[np.ndarray]] = {}
        self._sizes: dict[int, int] = {}  # numbers of them

    def add(self, data: np.ndarray) -> None:
        """Add noise (coils, samples)."""
        coils = len(data)
        if coils not in self._scans and len(self._scans) >= MAX_COIL_SETS:
            return
        scans = self._scans.setdefault(coils, [])
        if self._sizes.get(coils, 0) < MAX_NOISE_NUMBERS:
            scans.append(np.array(data))
            self._sizes[coils] = self._sizes.get(coils, 0) + data.size

    @property
    def size(self) -> int:
        """The number of noise samples that are kept."""
        return sum(self._sizes.values())

    def find(self, coils: int | None = None) -> np.ndarray | None:
        """Return the noise of a number of coils, complex64 (coils, samples); None without any.

        Where the number is not known yet, None, it is that of the last noise.
        """
        if coils is None:
            coils = next(reversed(self._scans), None)
        if coils in self._scans:
            return np.concatenate(self._scans[coils], axis=1)
        return None if self.earlier is None else self.earlier.find(coils)

    def doubts(self, coils: int) -> list[str]:
        """Return which noise cannot be used for an image of so many coils."""
        others = [count for count in self._scans if count != coils]
        return [f"the noise scan of {count} coils is left out, because lines have {coils}" for count in others]
