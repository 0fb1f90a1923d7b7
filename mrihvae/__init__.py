"""mrihvae: MRI reconstruction with a hierarchical VAE prior that separates into frequency bands."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mrihvae.io.kspace import open_kspace
    from mrihvae.reconstructor import Reconstructor

__all__ = ["Reconstructor", "__version__", "open_kspace"]

try:
    __version__ = version("mrihvae")
except PackageNotFoundError:  # run from a checkout that is not installed
    __version__ = "0+unknown"


def __getattr__(name: str) -> Any:
    """Import what is asked for, not before: torch takes seconds, which `mrihvae --help` has no use for."""
    if name == "Reconstructor":
        from mrihvae.reconstructor import Reconstructor

        return Reconstructor
    if name == "open_kspace":
        from mrihvae.io.kspace import open_kspace

        return open_kspace
    raise AttributeError(f"module 'mrihvae' has no attribute '{name}'")
