"""What a worker does for `reconstruct`: it loads the method once, and reconstructs files, or slices of large ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from mrihvae.cli.pieces import Piece, reconstruct_piece, split_slices
from mrihvae.cli.reconstruct_files import reconstruct_file
from mrihvae.data.scan import Scan
from mrihvae.errors import InputError
from mrihvae.io.fastmri import read_head
from mrihvae.io.kspace import kind_of, open_kspace
from mrihvae.physics.sampling import Undersampling
from mrihvae.recon.methods import Method, ModelMethod
from mrihvae.recon.undersampling import check_signal, mask_of
from mrihvae.utils.memory import reset_peak_memory, return_large_blocks
from mrihvae.utils.notices import collect_notices
from mrihvae.utils.stages import record_stages, stage

KEPT = 4  # methods that a process keeps: of one coil and of several, of this run and the one before
_methods: dict[str, Method] = {}


@dataclass(frozen=True)
class MethodSource:
    """A method that is loaded once in every process.

    Attributes
    ----------
    load : loads it
    weights : fingerprint of the weights that it must have; empty without weights
    token : by which a process finds it again
    """

    load: Callable[[], Method]
    weights: str
    token: str

    @classmethod
    def of(cls, method: Method, load: Callable[[], Method]) -> MethodSource:
        """Return the source of a method that is loaded in this process."""
        source = cls(load, method.weights if isinstance(method, ModelMethod) else "", uuid4().hex)
        source._keep(method)
        return source

    def get(self) -> Method:
        """Return the method.

        Raises
        ------
        InputError
            Weights that cannot be loaded, or other ones than those of the command that sent the task.
        """
        if self.token not in _methods:
            method = self.load()
            weights = method.weights if isinstance(method, ModelMethod) else ""
            if weights != self.weights:
                raise InputError(f"a worker has weights {weights}, not {self.weights}; give it the same files")
            self._keep(method)
        return _methods[self.token]

    def _keep(self, method: Method) -> None:
        while len(_methods) >= KEPT:
            _methods.pop(next(iter(_methods)))
        _methods[self.token] = method


@dataclass(frozen=True)
class FileJob:
    """The reconstruction of a file; attributes as for `mrihvae.cli.reconstruct_files.reconstruct_to_files`."""

    file: Path
    folder: Path
    source: MethodSource
    undersampling: Undersampling | None
    batch_size: int
    sampled: bool = False
    kept: bool = False
    seed: int = 0
    form: str = "h5"
    reading: Mapping[str, Any] = field(default_factory=dict)

    def finish(self, pieces: Sequence[Piece] = ()) -> list[dict[str, Any]]:
        """Reconstruct the file, or write what pieces of it are; return the rows of its scans."""
        settings = (self.undersampling, self.batch_size, self.sampled, self.kept, self.seed, "--", self.form)
        return reconstruct_file(
            self.file, self.folder, self.source.get(), *settings, reading=self.reading, pieces=pieces
        )

    def reconstruct(self, part: range) -> Piece:
        """Reconstruct slices of the file's one scan."""
        return reconstruct_part(self._open, self.file, self.source, self.undersampling, self.batch_size, part)

    def split(self, coils: int | None) -> list[range]:
        """Split the slices of a large file, if their results are the same in pieces."""
        key = self.reading.get("key")
        if self.sampled or coils is None or kind_of(self.file, key) != "fastmri":
            return []
        return split_slices(read_head(self.file, key).shape[0], coils, self.batch_size)

    def _open(self) -> Scan:
        (scan,) = open_kspace(self.file, lazy=True, **self.reading)
        return scan


def reconstruct_part(
    open_scan: Callable[[], Scan],
    file: Path,
    source: MethodSource,
    undersampling: Undersampling | None,
    batch_size: int,
    part: range,
    options: str = "--",
) -> Piece:
    """Open a scan and reconstruct slices of it; parameters as for `mrihvae.cli.pieces.reconstruct_piece`.

    What opening says is left out: it is said again when the scan is opened to be written.
    """
    return_large_blocks()
    reset_peak_memory()
    with collect_notices(), record_stages() as stages:
        with stage("read"):
            scan = open_scan()
        with stage("checks"):
            mask = mask_of(scan, undersampling)
            check_signal(scan, mask)
    piece = reconstruct_piece(scan, file, mask, source.get(), batch_size, options=options, part=part)
    return piece.after(stages)
