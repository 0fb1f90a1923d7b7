"""Slices of a scan reconstructed apart, in processes of their own, and joined to what the whole scan gives.

A piece begins where a batch of the whole scan begins, so that it has the same batches, and with them the same images
to the last bit. What a method takes from the whole scan it takes in every piece: units, compression, the fit to the
slice in the middle. The standard deviation of posterior samples does not come in pieces.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mrihvae.data.scan import Scan
from mrihvae.errors import InputError
from mrihvae.recon.methods import HybridMethod, Method, PnPMethod
from mrihvae.recon.reconstruction import Reconstruction
from mrihvae.recon.volumes import reconstruct_scan
from mrihvae.utils.memory import is_out_of_memory, peak_memory
from mrihvae.utils.notices import collect_notices
from mrihvae.utils.stages import record_stages

LARGE = 64  # slices, from which a volume is done in pieces of about so many


@dataclass(frozen=True)
class Piece:
    """Slices of a scan, reconstructed.

    Attributes
    ----------
    found : their images
    seconds : that it took
    stages : seconds of its stages
    notices : warnings
    peak : bytes of memory that the process held at most
    """

    found: Reconstruction
    seconds: float
    stages: Mapping[str, float]
    notices: Sequence[str]
    peak: int = 0

    def after(self, stages: Mapping[str, float]) -> Piece:
        """Return it with the seconds of what came before."""
        return replace(self, stages=add_stages(stages, self.stages))


def split_slices(slices: int, coils: int, batch_size: int) -> list[range]:
    """Split a large volume at the beginnings of batches; nothing for one that is not large.

    Parameters
    ----------
    slices, coils : of the volume
    batch_size : coil images in a batch, as for `mrihvae.recon.volumes.reconstruct_scan`
    """
    if slices <= LARGE:
        return []
    batch = max(1, batch_size // coils)
    size = batch * -(-LARGE // batch)
    return [range(first, min(first + size, slices)) for first in range(0, slices, size)]


def reconstruct_piece(
    scan: Scan,
    file: Path,
    mask: np.ndarray,
    method: Method,
    batch_size: int,
    sampled: bool = False,
    seed: int = 0,
    options: str = "--",
    progress: Callable[[int], None] = lambda slices: None,
    part: range | None = None,
) -> Piece:
    """Reconstruct slices of a scan, or draw posterior samples of all.

    Parameters
    ----------
    mask : bool (W,) or (H, W), as `mask_of` returns it
    part : the slices; None for all
    others : as for `mrihvae.cli.reconstruct_files.reconstruct_to_files`

    Raises
    ------
    InputError
        Too little memory, or a reconstruction that is not finite.
    """
    began = time.perf_counter()
    count = method.samples if sampled and isinstance(method, HybridMethod) else 0
    with collect_notices() as notices, record_stages() as stages:
        try:
            found = reconstruct_scan(
                scan, mask, method, samples=count, seed=seed, batch_size=batch_size, progress=progress, part=part
            )
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            size = " x ".join(map(str, scan.kspace.shape[-2:]))
            fewer = f"--batch-size or {options}samples" if sampled else "--batch-size"
            raise InputError(f"{file}: too little memory for slices of {size}; lower {fewer}") from error
    if not np.isfinite(found.magnitude).all():
        hint = f"lower {options}step, or leave {options}rule and {options}step out"
        hint = f"lower {options}gamma or {options}tau" if isinstance(method, PnPMethod) else hint
        raise InputError(f"{file}: the reconstruction is not finite; {hint}")
    return Piece(found, time.perf_counter() - began, stages, notices, peak_memory())


def join_pieces(pieces: Sequence[Piece]) -> Piece:
    """Join the pieces of a scan, in their order."""
    found = pieces[0].found
    if len(pieces) > 1:
        found = replace(found, magnitude=np.concatenate([piece.found.magnitude for piece in pieces]))
    notices = list(dict.fromkeys(text for piece in pieces for text in piece.notices))
    seconds, stages = sum(piece.seconds for piece in pieces), add_stages(*(piece.stages for piece in pieces))
    return Piece(found, seconds, stages, notices, max(piece.peak for piece in pieces))


def add_stages(*records: Mapping[str, float]) -> dict[str, float]:
    """Add up the seconds of stages of the same name."""
    total: dict[str, float] = {}
    for record in records:
        for name, seconds in record.items():
            total[name] = total.get(name, 0.0) + seconds
    return total
