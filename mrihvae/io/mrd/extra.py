"""The extra `mrd`: what reads and writes ISMRMRD takes the package of that name."""

from __future__ import annotations

from importlib.util import find_spec

from mrihvae.errors import InputError


def require_ismrmrd(what: str) -> None:
    """Raise InputError if `what` cannot be, for lack of the package `ismrmrd`."""
    if find_spec("ismrmrd") is None:
        raise InputError(f"{what}: needs the package ismrmrd; pip install 'mrihvae[mrd]'")
