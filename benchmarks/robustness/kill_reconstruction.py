"""Reconstructions, protocols and reports that are killed."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from benchmarks.robustness.kill_work import phantom_scan, small_network, succeed
from mrihvae.model.weights import save_weights
from mrihvae.recon.convert import save

NAMES = ("a", "b", "c")
CHANGING = ("seconds_per_slice", "stages", "peak_memory_mb")  # of rows, from call to call
PROTOCOL = """
description = "small scans"
challenge = "singlecoil"
data = "val"

[mask]
type = "random"
acceleration = 2
center_fraction = 0.2

[solver]
method = "zero-filled"
"""
MASK = ["--mask-type", "random", "--acceleration", "2", "--center-fraction", "0.2"]


class Reconstruction:
    """`mrihvae reconstruct --resume` of a folder, by zero-filling."""

    RECORD, METHOD = "reconstruct.json", "zero-filled"

    def __init__(self, folder: Path) -> None:
        self.folder, self.output, self.whole = folder, folder / "out", folder / "whole"
        self.kept: dict[str, int] = {}
        (folder / "val").mkdir()
        for number, name in enumerate(NAMES):
            save(folder / "val" / f"{name}.h5", phantom_scan(number))
        (folder / "small.toml").write_text(PROTOCOL)

    def words(self) -> list[str]:
        """Return the command, without its output."""
        return ["reconstruct", str(self.folder / "val"), "--method", self.METHOD, *MASK]

    def work(self) -> None:
        """Reconstruct what is left; the first time, without a kill."""
        output = self.output if self.whole.exists() else self.whole
        succeed([*self.words(), "--resume", "--output", str(output), "--quiet"])

    def after_kill(self) -> list[str]:
        """Check that each file is whole, that the record lists what is there, and that it is not made again."""
        found = []
        for path in files_of(self.output):
            if path.suffix in (".h5", ".png") and not is_same(path, self.whole / path.relative_to(self.output)):
                found.append(f"{path.name}: is not that of an uninterrupted run")
        for name, ino in self.kept.items():
            path = self.output / name
            if not path.exists() or path.stat().st_ino != ino:
                found.append(f"{name}: was finished, and is gone or has been made again")
        self.kept = {}
        for row in self._rows(self.output, found):
            for name in (f"reconstructions/{row['file']}", f"panels/{Path(row['file']).stem}.png"):
                if (path := self.output / name).is_file():
                    self.kept[name] = path.stat().st_ino
                else:
                    found.append(f"{name}: is in the record, and not there")
        return found + self.further_problems()

    def further_problems(self) -> list[str]:
        """Return what is wrong with other files that a kill left."""
        return []

    def after_end(self) -> list[str]:
        """Compare with the run that was not interrupted, and remove it."""
        if not self.output.exists():  # the first time
            return []
        found = self.after_kill()
        ours, theirs = ({str(p.relative_to(at)) for p in files_of(at)} for at in (self.output, self.whole))
        found += [f"{name}: left over or missing" for name in ours ^ theirs]
        if self._rows(self.output, found) != self._rows(self.whole, found):
            found.append("the record is not that of an uninterrupted run")
        shutil.rmtree(self.output)
        self.kept = {}
        return found

    def _rows(self, at: Path, found: list[str]) -> list[dict[str, Any]]:
        """Return the rows of a record without what changes; of none, if there is none."""
        path = at / self.RECORD
        if not path.exists():
            return []
        try:
            values = json.loads(path.read_text())
            if values["failed"]:
                found.append(f"{path.name}: lists failures, {values['failed']}")
            return [{key: value for key, value in row.items() if key not in CHANGING} for row in values["volumes"]]
        except (ValueError, KeyError) as error:
            found.append(f"{path.name}: {type(error).__name__}: {error}")
            return []


class NetworkReconstruction(Reconstruction):
    """The same with the network."""

    METHOD = "hybrid"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        torch.manual_seed(0)
        save_weights(folder / "w.safetensors", small_network(), {})

    def words(self) -> list[str]:
        """Return the command, without its output."""
        return [*super().words(), "--checkpoint", str(self.folder / "w.safetensors")]


class ProtocolRun(Reconstruction):
    """`mrihvae run --resume` of a small protocol."""

    RECORD = "run.json"

    def words(self) -> list[str]:
        """Return the command, without its output."""
        return ["run", str(self.folder / "small.toml"), "--data", str(self.folder)]

    def further_problems(self) -> list[str]:
        """Check that the table has rows of an uninterrupted run, but for their seconds."""
        ours, theirs = (rows_of(at / "scores.md") for at in (self.output, self.whole))
        foreign = [row for row in ours if row not in theirs and row[0].removesuffix(".h5") in NAMES]
        torn = bool(ours) and {len(row) for row in ours} != {len(row) for row in theirs}
        return [f"scores.md: is torn, or has others' rows: {ours}"] if foreign or torn else []


class Reporting:
    """`mrihvae report` of a folder, by turns with one of two titles, into the same page."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.turns, self.pages = folder, 0, dict[int, str]()
        self.page = folder / "page.html"
        case = Reconstruction(folder)
        case.work()
        for self.turns in (1, 0):
            self.work()
            self.pages[self.turns] = self._text()

    def work(self) -> None:
        """Make the page."""
        words = ["report", str(self.folder / "whole"), "--output", str(self.page), "--title", f"Turn {self.turns % 2}"]
        succeed([*words, "--quiet"])

    def after_kill(self) -> list[str]:
        """Check that the page is the old one or the new one."""
        text = self._text() if self.page.exists() else ""
        return [] if text in self.pages.values() else ["the page is neither the old one nor the new one"]

    def after_end(self) -> list[str]:
        """Check that the page is the new one, with nothing beside it; turn to the other one."""
        found = [] if self._text() == self.pages[self.turns % 2] else ["the page is not the new one"]
        found += [f"{path.name} is left over" for path in self.folder.glob(".*")]
        self.turns += 1
        return found

    def _text(self) -> str:
        return re.sub(r"\d{4}-\d{2}-\d{2} \d{2}:\d{2} [+-]\d{4}", "DATE", self.page.read_text())


def files_of(folder: Path) -> list[Path]:
    """List all files below a folder, hidden ones, too."""
    return [path for path in folder.rglob("*") if path.is_file()]


def is_same(path: Path, other: Path) -> bool:
    """Return whether two files hold the same: HDF5 by its datasets, others by their bytes."""
    if path.suffix != ".h5":
        return path.read_bytes() == other.read_bytes()
    try:
        with h5py.File(path) as ours, h5py.File(other) as theirs:
            same = ours.keys() == theirs.keys() and ours.attrs.keys() == theirs.attrs.keys()
            return same and all(np.array_equal(ours[name][()], theirs[name][()]) for name in ours)
    except OSError:
        return False


def rows_of(path: Path) -> list[list[str]]:
    """Return the rows of a table without their last cell, which has seconds; none, if there is none."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [[cell.strip() for cell in line.strip("|").split("|")[:-1]] for line in lines if line.startswith("|")]
