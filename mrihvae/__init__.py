"""mrihvae: MRI reconstruction with a hierarchical VAE prior that separates into frequency bands."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("mrihvae")
except PackageNotFoundError:  # run from a checkout that is not installed
    __version__ = "0+unknown"
