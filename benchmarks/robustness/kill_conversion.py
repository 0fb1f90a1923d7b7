"""Conversions that are killed: into files that are there already, and of folders that are resumed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.robustness.kill_work import SHAPE, phantom_scan, succeed
from mrihvae.data.scan import Scan
from mrihvae.data.volume import ImageVolume
from mrihvae.errors import InputError
from mrihvae.io.bart import read_cfl
from mrihvae.io.dicom import read_dicom
from mrihvae.io.nifti import read_nifti_volume
from mrihvae.io.npy import read_numpy_images
from mrihvae.io.write_images import write_hdf5
from mrihvae.recon.convert import save

INDEX = {".npy": ".json", ".cfl": ".hdr"}  # of data in a file of their own


class Conversion:
    """`mrihvae convert` of two scans, by turns, into the same files of every form, single ones and pairs."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.turns = folder, 0
        for number in (0, 1):
            save(folder / f"in{number}.h5", phantom_scan(number))

    def work(self) -> None:
        """Convert one of the scans."""
        for name in ("out.npy", "out.cfl", "out.h5", "out.nii.gz", "dicom"):
            words = ["convert", str(self.folder / f"in{self.turns % 2}.h5"), str(self.folder / name), "--overwrite"]
            succeed([*words, *(["--format", "dcm"] if name == "dicom" else [])])

    def after_kill(self) -> list[str]:
        """Check that each output is that of one of the scans, or not there."""
        return self._problems((0, 1))

    def after_end(self) -> list[str]:
        """Check that each output is that of the scan converted last, and turn to the other one."""
        found = self._problems((self.turns % 2,), complete=True)
        found += [f"{path.name} is left over" for path in self.folder.glob(".*.part")]
        self.turns += 1
        return found

    def _problems(self, numbers: tuple[int, ...], complete: bool = False) -> list[str]:
        scans = {number: phantom_scan(number) for number in numbers}
        readers: dict[str, Callable[[Path], np.ndarray]] = {
            "out.npy": _numpy_kspace,
            "out.cfl": lambda path: read_cfl(path).reshape(*SHAPE[1:], -1).transpose(2, 0, 1),
            "out.h5": lambda path: _open(path).kspace[()],
            "out.nii.gz": lambda path: read_nifti_volume(path).pixels,
            "dicom": lambda path: read_dicom(path).pixels,
        }
        found = []
        for name, read in readers.items():
            path = self.folder / name
            try:
                array = read(path)
            except InputError as error:
                if complete or path.exists():  # an index without data is no output
                    found.append(f"{name}: {error}")
                continue
            wanted = [scan.kspace if np.iscomplexobj(array) else _images(scan) for scan in scans.values()]
            if not any(array.shape == one.shape and np.allclose(array, one, atol=1e-3) for one in wanted):
                found.append(f"{name}: is that of none of the scans, or mixed")
        return found


class FolderConversion:
    """`mrihvae convert` of a folder of scans and a reconstruction with its uncertainty, into pairs of files.

    By turns it is resumed with `--resume`, and without, where files that are there are errors and all others are
    written: the latter with scans alone, which have one output each.
    """

    SCANS = ("a", "b", "c")

    def __init__(self, folder: Path) -> None:
        self.folder, self.turns, self.kept = folder, 0, dict[str, int]()
        self.output = folder / "out"
        for name in ("both", "scans"):
            (folder / name).mkdir()
            for number, scan in enumerate(self.SCANS):
                save(folder / name / f"{scan}.h5", phantom_scan(number))
        self.images = _images(phantom_scan(5))
        volume = ImageVolume(self.images, None, {}, uncertainty=self.images / 8)
        write_hdf5(folder / "both" / "images.h5", volume)

    @property
    def resumed(self) -> bool:
        """Whether this turn is resumed by the option."""
        return self.turns % 2 == 0

    def work(self) -> None:
        """Convert what is left."""
        words = ["convert", str(self.folder / ("both" if self.resumed else "scans")), str(self.output), "--format"]
        succeed([*words, "npy", "--resume"] if self.resumed else [*words, "cfl"], (0,) if self.resumed else (0, 1, 2))

    def after_kill(self) -> list[str]:
        """Check that data are whole, with their index, and note them."""
        found = []
        for path in (file for file in self.output.glob("*") if file.suffix in INDEX):
            if not path.with_suffix(INDEX[path.suffix]).exists():
                found.append(f"{path.name}: has no index")
            elif not np.allclose(*self._pair(path), atol=1e-4):
                found.append(f"{path.name}: is not that of its input")
            elif path.stem in self.SCANS and self.kept.setdefault(path.name, path.stat().st_ino) != path.stat().st_ino:
                found.append(f"{path.name}: was there, and has been written again")
        return found

    def after_end(self) -> list[str]:
        """Check that all is there, and no more; turn to the other way."""
        names = [*self.SCANS, *(["images", "images_uncertainty"] if self.resumed else [])]
        suffixes = (".npy", ".json") if self.resumed else (".cfl", ".hdr")
        wanted = {f"{name}{suffix}" for name in names for suffix in suffixes}
        found = self.after_kill()
        found += [f"{name}: left over or missing" for name in {path.name for path in self.output.iterdir()} ^ wanted]
        shutil.rmtree(self.output)
        self.kept.clear()
        self.turns += 1
        return found

    def _pair(self, path: Path) -> tuple[np.ndarray, np.ndarray]:
        """Return an output, and what it should be."""
        if path.stem in self.SCANS:
            return np.asarray(_open(path).kspace[()]), phantom_scan(self.SCANS.index(path.stem)).kspace
        return read_numpy_images(path).pixels, self.images / (8 if path.stem.endswith("uncertainty") else 1)


def _open(path: Path) -> Scan:
    from mrihvae.io.kspace import open_kspace

    return open_kspace(path)[0]


def _numpy_kspace(path: Path) -> np.ndarray:
    """Read k-space; that of another scan than its JSON says is returned as zeros."""
    scan = _open(path)
    number = int(str(scan.attributes["acquisition"])[-1])
    fits = np.allclose(scan.kspace, phantom_scan(number).kspace, atol=1e-6)
    return np.asarray(scan.kspace if fits else np.zeros_like(scan.kspace))


def _images(scan: Scan) -> np.ndarray:
    from mrihvae.recon.convert import images_of

    return images_of(scan).pixels
