"""What is killed: work that is done again until it is finished, and what must hold after every kill and at the end.

A case is a class with the methods of `Case`; `CASES` lists them. Work runs in a process of its own.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.torch import load_file
from sigpy import shepp_logan

from benchmarks.training import publish
from mrihvae.cli.main import main
from mrihvae.data.scan import Scan
from mrihvae.errors import InputError
from mrihvae.io.bart import read_cfl
from mrihvae.io.dicom import read_dicom
from mrihvae.io.nifti import read_nifti_volume
from mrihvae.model import weights
from mrihvae.model.digests import read_metadata
from mrihvae.model.hvae import HVAE
from mrihvae.model.settings import ModelSettings
from mrihvae.model.weights import fingerprint, load_card, save_weights, verify_weights
from mrihvae.recon.convert import save
from mrihvae.training.checkpoints import NEWEST, PREVIOUS, read_checkpoint
from mrihvae.utils.notices import collect_notices

MODEL = {"widths": [16, 16], "layers": 1, "cascades": 1, "guess_widths": [16, 16], "guess_memory": 2}
TRAINING = {
    "steps": 10, "warmup": 3, "shapes": [[16, 24], [16, 16]], "pixels": 400, "kl_warmup": 4, "guess_only": 1,
    "masked_start": 3, "prior_every": 2, "second_every": 3, "bf16": False,
}  # fmt: skip
LARGEST_FILE = 50_000  # bytes of tensors in a file of weights, so that there are many
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


class Training:
    """`mrihvae train` with a checkpoint after every step, and weights of many parts."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.run, self.whole = folder, folder / "run", folder / "whole"
        (folder / "data").mkdir()
        save(folder / "data" / "scan.h5", phantom_scan(0))
        (folder / "settings.json").write_text(json.dumps({"model": MODEL, "training": TRAINING}))

    def work(self) -> None:
        """Train, or resume; the first time, without a kill."""
        weights.LARGEST_FILE = LARGEST_FILE
        output = self.run if self.whole.exists() else self.whole
        words = ["train", str(self.folder / "data"), "--output", str(output), "--checkpoint-seconds", "-1"]
        there = (output / NEWEST).exists()
        succeed([*words, *(["--resume"] if there else ["--settings", str(self.folder / "settings.json")])])

    def after_kill(self) -> list[str]:
        """Check that both checkpoints and the weights are whole, and of one step each."""
        found = []
        for name in (NEWEST, PREVIOUS):
            if (path := self.run / name).exists():
                with collect_notices() as notices:
                    found += problems_of(lambda path=path: _read_alone(path))  # type: ignore[misc]
                found += notices
        path = self.run / "weights.safetensors"
        if path.exists():
            found += problems_of(lambda: check_set(path))
        return found

    def after_end(self) -> list[str]:
        """Compare with the run that was not interrupted, bit for bit, and remove it."""
        if not self.run.exists():
            return []
        found = self.after_kill()
        for name in (NEWEST, "weights.safetensors", *load_card(self.run / "weights.safetensors")["parts"]):
            ours, theirs = load_file(self.run / name), load_file(self.whole / name)
            if ours.keys() != theirs.keys() or not all(torch.equal(ours[key], theirs[key]) for key in ours):
                found.append(f"{name} is not that of the uninterrupted run")
        steps = [json.loads(line)["step"] for line in (self.run / "log.jsonl").read_text().splitlines()]
        if steps != list(range(1, TRAINING["steps"] + 1)):  # type: ignore[operator]
            found.append("log.jsonl has not every step once")
        others = {path.name for path in self.run.iterdir()} ^ {path.name for path in self.whole.iterdir()} - {PREVIOUS}
        found += [f"{name} is left over or missing" for name in others - {PREVIOUS}]
        shutil.rmtree(self.run)
        return found


def _read_alone(path: Path) -> None:
    """Read one of the two checkpoints."""
    alone = path.parent / "alone"
    alone.mkdir(exist_ok=True)
    (alone / NEWEST).hardlink_to(path)
    try:
        read_checkpoint(alone, "cpu")
    finally:
        shutil.rmtree(alone)


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
        """Check that each output is that of one of the scans, or not there; a pair may say that it is incomplete."""
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
                index = path.with_suffix({".npy": ".json", ".cfl": ".hdr"}.get(path.suffix, path.suffix))
                if complete or index.exists():  # data without their index are no output
                    found.append(f"{name}: {error}")
                continue
            wanted = [scan.kspace if np.iscomplexobj(array) else _images(scan) for scan in scans.values()]
            if not any(array.shape == one.shape and np.allclose(array, one, atol=1e-3) for one in wanted):
                found.append(f"{name}: is that of none of the scans, or mixed")
        return found


class Publication:
    """`benchmarks.training.publish` of two runs, by turns, as weights of many parts."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.turns = folder, 0
        self.path = folder / "weights" / "mine.safetensors"
        weights.LARGEST_FILE, usual = LARGEST_FILE, weights.LARGEST_FILE
        for number in (0, 1):
            run = folder / f"run{number}"
            run.mkdir()
            torch.manual_seed(number)
            model = HVAE(ModelSettings(**{name: _tuple(value) for name, value in MODEL.items()}))
            save_weights(run / "weights.safetensors", model, {"data": [], "counters": {"step": number + 1}})
            zeros = {"skipped_prior": 0, "skipped_masked": 0, "distortion": 1.0, "matching": [0.0], "active": [1.0]}
            lines = [json.dumps({"step": step, "elbo": 1.0, "kl": [0.1], **zeros}) for step in (1, 2)]
            (run / "log.jsonl").write_text("\n".join(lines) + "\n")
        weights.LARGEST_FILE = usual
        (folder / "results").mkdir()

    def work(self) -> None:
        """Publish one of the runs."""
        weights.LARGEST_FILE = LARGEST_FILE
        publish.HERE, publish.RESULTS = self.folder, self.folder / "results"
        publish.publish(self.folder / f"run{self.turns % 2}", "mine", None)

    def after_kill(self) -> list[str]:
        """Check that the weights are those of one of the runs."""
        return self._problems((0, 1)) if self.path.exists() else []

    def after_end(self) -> list[str]:
        """Check that the weights are those of the run published last, and turn to the other one."""
        found = self._problems((self.turns % 2,))
        listed = {"mine.json", "mine.safetensors", *load_card(self.path).get("parts", [])}
        found += [f"{path.name} is left over" for path in self.path.parent.iterdir() if path.name not in listed]
        self.turns += 1
        return found

    def _problems(self, numbers: tuple[int, ...]) -> list[str]:
        found = problems_of(lambda: check_set(self.path))
        if not found:
            runs = {fingerprint(self.folder / f"run{number}" / "weights.safetensors"): number for number in numbers}
            number = runs.get(fingerprint(self.path))
            if number is None or load_card(self.path)["counters"]["step"] != number + 1:
                found.append("the weights are those of none of the runs, or mixed")
        return found


def check_set(path: Path) -> None:
    """Check that weights are whole, and that their card is of the step of all files."""
    if not verify_weights(path):
        raise InputError(f"{path}: its card has no SHA-256")
    step = str(load_card(path)["counters"]["step"])
    if read_metadata(path)["step"] != step:
        raise InputError(f"{path}: is of step {read_metadata(path)['step']}, and its card of {step}")


def problems_of(check: Callable[[], Any]) -> list[str]:
    """Return the error of a check, if it has any, in a list."""
    try:
        check()
    except Exception as error:  # any is a defect
        return [f"{type(error).__name__}: {error}"]
    return []


def succeed(words: list[str]) -> None:
    """Run mrihvae; RuntimeError unless its status is 0."""
    if status := main(words):
        raise RuntimeError(f"mrihvae {' '.join(words)}: status {status}")


def phantom_scan(number: int) -> Scan:
    """Make a fully sampled scan of one coil; its values, and the name of its acquisition, tell the number."""
    image = np.abs(shepp_logan(SHAPE[1:])) * np.array([[[1.0]], [[0.5]]]) * (number + 1)
    kspace = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(image, axes=(1, 2)), norm="ortho"), axes=(1, 2))
    return Scan("scan.h5", kspace.astype(np.complex64), attributes={"acquisition": f"SCAN{number}"})


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


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


CASES: dict[str, type[Case]] = {"train": Training, "convert": Conversion, "publish": Publication}
