"""What all work has that is killed, and its phantoms."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from sigpy import shepp_logan

from mrihvae.cli.main import main
from mrihvae.data.scan import Scan
from mrihvae.model.hvae import HVAE
from mrihvae.model.settings import ModelSettings

MODEL = {"widths": [16, 16], "layers": 1, "cascades": 1, "guess_widths": [16, 16], "guess_memory": 2}
SHAPE = (2, 24, 24)


class Case(Protocol):
    """Work to be killed."""

    def __init__(self, folder: Path) -> None:
        """Write inputs below a new folder, where all outputs go, too."""

    def work(self) -> None:
        """Do the work, or what is left of it: in a process that may be killed at any moment."""

    def after_kill(self) -> list[str]:
        """Return what is wrong with the files that a kill left."""

    def after_end(self) -> list[str]:
        """Return what is wrong with the files of finished work, and make it possible to begin anew."""


def small_network() -> HVAE:
    """Make a network with the settings of `MODEL`."""
    return HVAE(ModelSettings(**{name: _tuple(value) for name, value in MODEL.items()}))


def problems_of(check: Callable[[], Any]) -> list[str]:
    """Return the error of a check, if it has any, in a list."""
    try:
        check()
    except Exception as error:  # any is a defect
        return [f"{type(error).__name__}: {error}"]
    return []


def succeed(words: list[str], statuses: tuple[int, ...] = (0,)) -> None:
    """Run mrihvae; RuntimeError unless its status is 0, or one of others."""
    if (status := main(words)) not in statuses:
        raise RuntimeError(f"mrihvae {' '.join(words)}: status {status}")


def phantom_scan(number: int) -> Scan:
    """Make a fully sampled scan of one coil; its values, and the name of its acquisition, tell the number."""
    image = np.abs(shepp_logan(SHAPE[1:])) * np.array([[[1.0]], [[0.5]]]) * (number + 1)
    kspace = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(image, axes=(1, 2)), norm="ortho"), axes=(1, 2))
    return Scan("scan.h5", kspace.astype(np.complex64), attributes={"acquisition": f"SCAN{number}"})


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
