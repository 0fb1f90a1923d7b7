"""Every command that writes, on a full disk, a read-only one, and one that goes away: one line, and nothing is lost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("ismrmrd")
pytest.importorskip("pydicom")

from mrihvae.cli import calibrate, demo, doctor, serve
from mrihvae.model.weights import load_card, load_model, save_weights
from tests.inference.test_calibration import calibration
from tests.support.files import PROTOCOL, run, write_scan
from tests.support.serving import HOST, scan, serving, stream
from tests.support.small import SMALL, small_kspace, small_model

SHAPE = (2, 48, 40)
LINES = (np.arange(SHAPE[-1]) % 2 == 0) | (np.abs(np.arange(SHAPE[-1]) - SHAPE[-1] // 2) < 5)
MIB = 2**20
LEFT = 2**12  # bytes that are free on a disk that is all but full
WORDS = {  # IN: the inputs, OUT: what is written
    "reconstruct": "reconstruct IN/scans --output OUT --method zero-filled",
    "run": "run IN/small.toml --data IN/data --output OUT",
    "convert a file": "convert IN/results/reconstructions/a.h5 OUT/a.nii.gz",
    "convert a folder": "convert IN/results/reconstructions OUT --format nii",
    "convert to DICOM": "convert IN/results/reconstructions/a.h5 OUT --format dcm",
    "convert to BART": "convert IN/scans/a.h5 OUT/a.cfl",
    "convert to NumPy": "convert IN/scans/a.h5 OUT/a.npy",
    "restore": "restore IN/pictures --task denoise --output OUT --checkpoint IN/images.safetensors --iterations 1",
    "evaluate, JSON": "evaluate --target-path IN/data/val --predictions-path IN/results/reconstructions "
    "--challenge singlecoil --json OUT/scores.json",
    "evaluate, CSV": "evaluate --target-path IN/data/val --predictions-path IN/results/reconstructions "
    "--challenge singlecoil --csv OUT/scores.csv",
    "report": "report IN/results --output OUT/report.html",
    "simulate": "simulate IN/pictures --output OUT --matrix 64 --coils 1 --acceleration 2",
    "sample": "sample --output OUT --checkpoint IN/w.safetensors --samples 2 --size 16 16",
    "train": "train IN/data --output OUT --settings IN/settings.json --steps 2 --checkpoint-seconds 0",
    "adapt": "adapt IN/scans --output OUT --checkpoint IN/w.safetensors --steps 2 --checkpoint-seconds 0",
    "calibrate": "calibrate IN/data/val --checkpoint IN/w.safetensors --output OUT/w.calibration.json",
    "reconstruct to DICOM": "reconstruct IN/scans --output OUT --method zero-filled --format dcm",
    "filter": "filter --input IN/scan.bin --output OUT/images.bin --protocol IN/small.toml",
    "send": "send IN/scans/a.h5 HOST --output OUT --parameter method=zero-filled",
    "demo": "demo --output OUT --checkpoint IN/w.safetensors",
}
SEVERAL = {  # commands that write one file after another, and how many at least
    "reconstruct": 3, "reconstruct to DICOM": 2, "run": 3, "convert a folder": 3, "restore": 3, "simulate": 2,
    "train": 3, "demo": 3,
}  # fmt: skip


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What commands read."""
    folder = tmp_path_factory.mktemp("inputs")
    for seed, name in enumerate(("a.h5", "b.h5", "c.h5")):
        kspace = small_kspace(*SHAPE, seed=seed).numpy()
        write_scan(folder / "data" / "val" / name, SHAPE, seed, kspace=kspace)
        write_scan(folder / "scans" / name, SHAPE, seed, kspace=np.where(LINES, kspace, 0), mask=LINES)
        image = np.abs(np.fft.fftshift(np.fft.ifft2(kspace[0])))
        (folder / "pictures").mkdir(exist_ok=True)
        pixels = np.uint8(255 * image / image.max()).repeat(2, 0).repeat(2, 1)
        Image.fromarray(pixels).save(folder / "pictures" / f"{name[0]}.png")
    (folder / "small.toml").write_text(PROTOCOL)
    save_weights(folder / "w.safetensors", small_model(), {})
    save_weights(folder / "images.safetensors", small_model(settings=replace(SMALL, degraded=True)), {})
    (folder / "scan.bin").write_bytes(stream(*scan(slices=1)))
    sections = {"model": asdict(SMALL), "training": {"shapes": [[16, 24]], "pixels": 384}}
    (folder / "settings.json").write_text(json.dumps(sections))
    assert run("reconstruct", folder / "scans", "--output", folder / "results", "--method", "zero-filled", "-q") == 0
    return folder


@dataclass(frozen=True)
class Ending:
    """How a command ended.

    Attributes
    ----------
    status : its exit status
    errors : the lines of standard error that are errors, and those that Python shows of its own
    """

    status: int
    errors: list[str]


Command = Callable[[str, Path], Ending]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A server that answers scans, for `mrihvae send`."""
    with serving() as running:
        yield f"{HOST}:{running.port}"


@pytest.fixture
def command(
    inputs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Command:
    """Run a command of `WORDS` that writes to a folder."""
    monkeypatch.setattr(demo, "SCANS", inputs / "data" / "val")
    monkeypatch.setattr(calibrate, "fit_calibration", lambda *_: calibration())  # which takes scans of 14 persons

    def start(name: str, output: Path) -> Ending:
        capsys.readouterr()
        words = [word.replace("IN", str(inputs)).replace("OUT", str(output)) for word in WORDS[name].split()]
        words = [word.replace("HOST", request.getfixturevalue("server")) if word == "HOST" else word for word in words]
        status = run(*words)
        lines = capsys.readouterr().err.replace("\r", "\n").splitlines()
        return Ending(status, [line for line in lines if "error" in line.lower() or line.startswith("Traceback")])

    return start


def mount(path: Path, size: int) -> None:
    """Mount a file system in memory, or skip the test."""
    path.mkdir()
    if os.name != "posix" or os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("file systems are mounted by root alone")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own."""
    path = tmp_path / "disk"
    mount(path, 4 * MIB)
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=False)


def fill(disk: Path, left: int = 0) -> None:
    """Write until so many bytes are left."""
    with (disk / "filler").open("wb", buffering=0) as file, pytest.raises(OSError):
        while True:
            file.write(b"\0" * 4096)
    if left:
        os.truncate(disk / "filler", (disk / "filler").stat().st_size - left)


def check(ending: Ending, output: Path, places: tuple[Path, ...] = ()) -> None:
    """Check that there is one line, of what cannot be written, and nothing half written."""
    assert ending.status == 2, ending
    assert len(ending.errors) == 1 and ending.errors[0].startswith("mrihvae: error: "), ending
    assert "cannot be written" in ending.errors[0] and str(output) in ending.errors[0], ending
    for place in (output, *places):
        assert not [path for path in place.rglob("*") if ".part" in path.name], list(place.rglob("*"))
        whole(place)


def whole(folder: Path) -> None:
    """Read what was finished."""
    for path in folder.rglob("*") if folder.is_dir() else ():
        if path.suffix == ".h5":
            with h5py.File(path) as file:
                assert all(np.isfinite(file[name][()]).all() for name in file if file[name].dtype.kind == "f")
        elif path.suffix == ".png":
            Image.open(path).load()
        elif path.suffix == ".json":
            json.loads(path.read_text())


@pytest.mark.parametrize("name", WORDS)
def test_full_disk(name: str, disk: Path, command: Command) -> None:
    fill(disk)
    check(command(name, disk / "out"), disk)


@pytest.mark.parametrize("name", WORDS)
def test_disk_that_is_full_once_it_is_written_to(
    name: str, disk: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is room when a command looks, and none when it writes."""
    real = shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda path: real(path)._replace(free=2 * MIB))
    (disk / "out").mkdir()
    fill(disk, 0 if name.startswith(("evaluate", "filter", "calibrate")) else LEFT)  # of what takes little
    check(command(name, disk / "out"), disk)


@pytest.mark.parametrize("name", WORDS)
def test_read_only_disk(name: str, disk: Path, command: Command) -> None:
    (disk / "out").mkdir()
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    check(command(name, disk / "out"), disk)


@pytest.mark.parametrize("name", WORDS)
@pytest.mark.parametrize("finished", [0, 1, 2])
def test_disk_that_goes_away(
    name: str, finished: int, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it was there is a file, so that no folder can be made; what was finished stays whole."""
    if finished >= SEVERAL.get(name, 1):
        pytest.skip("writes fewer files")
    place, gone = tmp_path / "disk", tmp_path / "gone"
    (place / "out").mkdir(parents=True)
    replace, count = Path.replace, []

    def vanish(self: Path, target: Path) -> Path:
        if len(count) == finished and place.is_dir():
            place.rename(gone)
            place.write_text("")
        count.append(target)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", vanish)
    ending = command(name, place / "out")
    monkeypatch.undo()
    check(ending, place)
    whole(gone)
    kept = [path for path in gone.rglob("*") if path.is_file() and ".part" not in path.name]
    assert len(kept) >= finished
    assert all((gone / path.relative_to(place)).is_file() for path in count[:finished])


FULL = Path("/dev/full")  # a file that is always on a full disk
needs_full = pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")


@needs_full
@pytest.mark.parametrize(
    "words",
    ["info IN/scans/a.h5", "info IN/scans --json", "doctor --json", "protocols", "serve --port 0", "--version",
     "filter --input IN/scan.bin --protocol IN/small.toml"]
)  # fmt: skip
def test_standard_output_on_a_full_disk(
    words: str, inputs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "_load", lambda _: None)
    monkeypatch.setattr(doctor, "examine", lambda: {"ok": True})
    with FULL.open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        status = run(*words.replace("IN", str(inputs)).split())
        monkeypatch.undo()
    lines = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert status == 2 and len(lines) == 1
    assert lines[0].startswith("mrihvae: error: standard output: cannot be written (No space left on device)")


@needs_full
@pytest.mark.parametrize("name", ["reconstruct", "run"])
def test_log_on_a_full_disk(name: str, inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And once there is room again, all else is written."""
    words = [*WORDS[name].replace("IN", str(inputs)).replace("OUT", str(tmp_path)).split(), "--log-json"]
    assert run(*words, FULL) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(lines) == 1 and "--log-json /dev/full: cannot be written (No space left on device)" in lines[0]
    assert run(*words, tmp_path / "log.jsonl", "--resume") == 0


def test_interrupted_folder_is_resumed(disk: Path, command: Command, inputs: Path) -> None:
    """Once there is room again, what was finished is not done again."""
    fill(disk, 2 * MIB)
    words = ("reconstruct", inputs / "scans", "--output", disk / "out", "--method", "zero-filled")
    assert run(*words) == 0
    (disk / "out" / "reconstructions" / "c.h5").unlink()
    before = (disk / "out" / "reconstructions" / "a.h5").stat().st_mtime_ns
    with (disk / "filler2").open("wb", buffering=0) as file, pytest.raises(OSError):
        while True:
            file.write(b"\0" * 4096)
    assert command("reconstruct", disk / "out").status == 2
    (disk / "filler2").unlink()
    assert run(*words, "--resume") == 0
    assert (disk / "out" / "reconstructions" / "c.h5").is_file()
    assert (disk / "out" / "reconstructions" / "a.h5").stat().st_mtime_ns == before


def test_weights_on_a_full_disk_stay(disk: Path, command: Command) -> None:
    """A run that cannot write its checkpoint leaves the last one, which fits its card."""
    assert command("train", disk / "out").status == 0
    weights = disk / "out" / "weights.safetensors"
    card = load_card(weights)
    fill(disk)
    words = WORDS["train"].replace("OUT", str(disk / "out"))
    assert "--resume" not in words
    load_model(str(weights))
    assert load_card(weights) == card
