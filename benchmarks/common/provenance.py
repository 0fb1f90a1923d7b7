"""What made results: version, processor, threads, SHA-256 of weights and protocol; it heads every results file."""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path
from typing import Any

import torch

from mrihvae import __version__
from mrihvae.errors import InputError
from mrihvae.model.shipped import find_weights
from mrihvae.model.weights import fingerprint

DIGITS = 12  # of a SHA-256 that are written down, as `mrihvae.model.weights.fingerprint` does


def provenance(protocol: Path | None = None, weights: str | tuple[str, ...] | None = None) -> dict[str, Any]:
    """Describe what makes results, for the head of their file.

    Parameters
    ----------
    protocol : file that says what is run, if there is one
    weights : a shipped name or a .safetensors file, or several, if the caller does not record their fingerprint itself

    Returns
    -------
    version, processor, its instructions, threads; names and the first 12 digits of the SHA-256 of protocol and weights

    Raises
    ------
    InputError
        A protocol or weights that cannot be read.

    Examples
    --------
    >>> from benchmarks.common.provenance import provenance
    >>> sorted(provenance(weights="default"))[:3]
    ['checkpoint', 'instructions', 'mrihvae']
    """
    found: dict[str, Any] = {
        "mrihvae": __version__,
        "torch": str(torch.__version__),
        "processor": processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }
    if protocol is not None:
        found |= {"protocol": protocol.name, "protocol_sha256": file_digest(protocol)}
    if isinstance(weights, tuple):
        found["weights"] = {find_weights(name).stem: fingerprint(find_weights(name)) for name in weights}
    elif weights is not None:
        path = find_weights(weights)
        found |= {"checkpoint": path.stem, "weights": fingerprint(path)}
    return found


def file_digest(path: Path) -> str:
    """Compute the first digits of the SHA-256 of a file.

    Raises
    ------
    InputError
        Not readable.
    """
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:DIGITS]
    except OSError as error:
        raise InputError(f"{path}: not readable ({error}); check the path") from error


def processor() -> str:
    """Name the processor, as Linux does; elsewhere by its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
