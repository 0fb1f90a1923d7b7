"""mrihvae: MRI reconstruction with a hierarchical VAE prior that separates into frequency bands.

`reconstruct` takes arrays, `open_kspace` and `reconstruct_scan` take files, and `Reconstructor` stands in for fastMRI's
VarNet. Names are imported when they are used: torch takes seconds, for which `mrihvae --help` has no use.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ += ["__version__"]

try:
    __version__ = version("mrihvae")
except PackageNotFoundError:  # run from a checkout that is not installed
    __version__ = "0+unknown"
