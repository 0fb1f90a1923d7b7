"""`mrihvae reconstruct`: its files, --resume, and what stands in its way."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from conftest import complex_normal, write_scan
from PIL import Image
from small import small_model

import mrihvae
from mrihvae.cli import main
from mrihvae.evaluate import evaluate
from mrihvae.fastmri_files import read_dataset, read_scan
from mrihvae.masks import effective_acceleration
from mrihvae.volumes import METHODS, Method, Undersampling, lines_of, reconstruct_volume
from mrihvae.weights import save_weights

DEMO = Path(mrihvae.__file__).parent / "demo_scans" / "patient_6A_FLAIR.h5"
ZERO_FILLED = ("--method", "zero-filled", "--mask-type", "random")
LINES = np.arange(20) % 3 == 0


def run(*words: str | Path) -> int:
    return main([str(word) for word in words])


def error_of(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    """Run a command that must fail with one line and status 2; return the line."""
    capsys.readouterr()
    assert run(*words) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    lines = [line for line in shown.err.splitlines() if line.strip() and "%|" not in line]  # without progress bars
    assert len(lines) == 1 and lines[0].startswith("mrihvae: error: "), shown.err
    return lines[0].removeprefix("mrihvae: error: ")


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a small untrained network."""
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_weights(path, small_model(), {})
    return path


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """A folder with three undersampled scans."""
    for k in range(3):
        kspace = np.where(LINES, complex_normal((2, 24, 20), k), 0)
        write_scan(tmp_path / "scans" / f"file{k}.h5", seed=k, kspace=kspace, mask=LINES)
    return tmp_path / "scans"


def test_reconstruct_then_evaluate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    assert run("reconstruct", DEMO, "--output", output, *ZERO_FILLED) == 0
    line = capsys.readouterr().out
    assert line.startswith(f"{DEMO.name}: 4 slices, R = ") and line.count("\n") == 1
    assert files_below(output) == [
        "panels/patient_6A_FLAIR.png",
        "reconstruct.json",
        "reconstructions/patient_6A_FLAIR.h5",
    ]
    scan = read_scan(DEMO)
    lines = lines_of(scan, Undersampling("random", 4, 0.08))
    with h5py.File(output / "reconstructions" / DEMO.name) as file:
        assert list(file) == ["reconstruction"] and file["reconstruction"].dtype == np.float32
        assert np.array_equal(file["reconstruction"][()], reconstruct_volume(scan, lines, Method("zero-filled")))
        assert dict(file.attrs) == {
            "method": "zero-filled",
            "acceleration": 4,
            "effective_acceleration": round(effective_acceleration(lines), 3),
        }
    with Image.open(output / "panels" / "patient_6A_FLAIR.png") as picture:
        assert picture.format == "PNG" and min(picture.size) > 100
    summary = json.loads((output / "reconstruct.json").read_text())
    assert summary["method"] == "zero-filled" and summary["checkpoint"] is None and summary["inference"] is None
    assert summary["undersampling"] == {"mask_type": "random", "acceleration": 4, "center_fraction": 0.08}
    assert summary["mrihvae"] == mrihvae.__version__
    (volume,) = summary["volumes"]
    assert volume["file"] == DEMO.name and volume["slices"] == 4 and volume["seconds_per_slice"] > 0

    words = ("--target-path", DEMO, "--predictions-path", output / "reconstructions" / DEMO.name)
    scores = tmp_path / "scores.json"
    assert run("evaluate", *words, "--challenge", "singlecoil", "--acceleration", "4", "--json", scores) == 0
    means = json.loads(scores.read_text())["overall"]["means"]
    assert means == evaluate(DEMO, output / "reconstructions" / DEMO.name, "singlecoil").means()
    assert 0.5 < means["SSIM"] < 1 and 20 < means["PSNR"] < 40 and 0 < means["NMSE"] < 0.2
    assert f"PSNR = {means['PSNR']:.4g} +/- 0" in capsys.readouterr().out


def test_folder_of_scans_with_their_own_masks(scans: Path, tmp_path: Path, checkpoint: Path) -> None:
    (scans / "notes.txt").write_text("left alone")
    output = tmp_path / "out"
    assert run("reconstruct", scans, "--output", output, "--checkpoint", checkpoint, "--sweeps", "1") == 0
    names = [f"file{k}" for k in range(3)]
    assert sorted(path.stem for path in (output / "reconstructions").iterdir()) == names
    assert sorted(path.stem for path in (output / "panels").iterdir()) == names
    summary = json.loads((output / "reconstruct.json").read_text())
    assert summary["undersampling"] is None and summary["checkpoint"] == str(checkpoint)
    assert summary["inference"]["sweeps"] == 1 and [v["file"] for v in summary["volumes"]] == [f"{n}.h5" for n in names]
    assert {volume["effective_acceleration"] for volume in summary["volumes"]} == {round(20 / 7, 3)}
    again = tmp_path / "again"
    words = ("--checkpoint", checkpoint, "--sweeps", "1", "--batch-size", "1")
    assert run("reconstruct", scans / "file1.h5", "--output", again, *words) == 0
    paths = [folder / "reconstructions" / "file1.h5" for folder in (output, again)]
    first, second = (read_dataset(path, "reconstruction") for path in paths)
    np.testing.assert_allclose(second, first, atol=1e-5 * first.max())


@pytest.mark.parametrize("method", METHODS)
def test_every_method(method: str, scans: Path, tmp_path: Path, checkpoint: Path) -> None:
    words = ("--method", method, "--checkpoint", checkpoint, "--sweeps", "1")
    assert run("reconstruct", scans / "file0.h5", "--output", tmp_path / "out", *words) == 0
    volume = read_dataset(tmp_path / "out" / "reconstructions" / "file0.h5", "reconstruction")
    assert volume.shape == (2, 24, 20) and volume.dtype == np.float32 and volume.max() > 0


def test_weights_are_not_needed_for_the_other_methods(scans: Path, tmp_path: Path) -> None:
    words = ("--method", "zero-filled", "--checkpoint", "nowhere")
    assert run("reconstruct", scans, "--output", tmp_path / "out", *words) == 0


def test_resume_leaves_out_finished_volumes(scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    words = ("reconstruct", scans, "--output", output, "--method", "zero-filled")
    assert run(*words) == 0
    kept = output / "reconstructions" / "file0.h5"
    before = kept.stat().st_mtime_ns, kept.read_bytes()
    (output / "reconstructions" / "file1.h5").unlink()
    capsys.readouterr()
    assert run(*words, "--resume") == 0
    told = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[1].split(",")[0] for line in told] == ["already there", "2 slices", "already there"]
    assert (kept.stat().st_mtime_ns, kept.read_bytes()) == before
    assert sorted(path.name for path in (output / "reconstructions").iterdir()) == ["file0.h5", "file1.h5", "file2.h5"]
    summary = json.loads((output / "reconstruct.json").read_text())
    assert sorted(volume["file"] for volume in summary["volumes"]) == ["file0.h5", "file1.h5", "file2.h5"]
    assert run(*words, "--resume") == 0
    assert json.loads((output / "reconstruct.json").read_text()) == summary
    assert run(*words) == 0  # without --resume all is done again
    assert kept.stat().st_mtime_ns != before[0]


def test_input_is_left_alone_when_the_output_folder_is_its_own(scans: Path) -> None:
    before = {path: path.read_bytes() for path in scans.iterdir()}
    assert run("reconstruct", scans, "--output", scans, "--method", "zero-filled") == 0
    assert {path: path.read_bytes() for path in scans.iterdir() if path.suffix == ".h5"} == before


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_bad_scan_among_good_ones_keeps_what_is_finished(
    scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truncate(scans / "file1.h5")
    assert run("reconstruct", scans, "--output", tmp_path / "out", "--method", "zero-filled") == 2
    errors = capsys.readouterr().err.splitlines()
    assert errors[-1].startswith(f"mrihvae: error: {scans / 'file1.h5'}: truncated or not an HDF5 file")
    assert files_below(tmp_path / "out") == ["panels/file0.png", "reconstruct.json", "reconstructions/file0.h5"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="has CUDA")
def test_device_that_is_not_there(
    scans: Path, tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--output", tmp_path / "out", "--checkpoint", checkpoint, "--device", "cuda")
    assert error_of(capsys, "reconstruct", scans, *words).startswith("--device cuda: cannot be used (")


@pytest.mark.parametrize("spoil", [truncate, lambda path: path.with_suffix(".json").unlink()])
def test_damaged_weights(
    spoil: Callable[[Path], object], scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "weights" / "small.safetensors"
    save_weights(path, small_model(), {})
    spoil(path)
    text = error_of(capsys, "reconstruct", scans, "--output", tmp_path / "out", "--checkpoint", path)
    assert text.startswith(str(path.with_suffix("")))
    assert not (tmp_path / "out").exists()


def test_output_that_cannot_be_written(scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    for output in (tmp_path / "file", tmp_path / "file" / "below"):
        text = error_of(capsys, "reconstruct", scans, "--output", output, "--method", "zero-filled")
        assert text.startswith(f"{output / 'reconstructions' / 'file0.h5'}: cannot be written (")
    assert files_below(tmp_path / "file") == []


@pytest.mark.parametrize("where", ["reconstructions", "panels", "reconstruct.json"])
def test_something_in_the_way(where: str, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    output.mkdir()
    if where == "reconstruct.json":
        (output / where).mkdir()
    else:
        (output / where).touch()
    assert run("reconstruct", scans / "file0.h5", "--output", output, "--method", "zero-filled") == 2
    text = capsys.readouterr().err.splitlines()[-1]
    assert text.startswith(f"mrihvae: error: {output / where}") and "cannot be written (" in text
    assert not list(output.rglob("*.part"))


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("owner", "name", "file"),
    [
        (h5py.File, "create_dataset", "reconstructions/file0.h5"),
        ("matplotlib.figure.Figure", "savefig", "panels/file0.png"),
        (Path, "write_text", "reconstruct.json"),
    ],
)
def test_full_disk(
    owner: Any,
    name: str,
    file: str,
    scans: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if isinstance(owner, str):
        monkeypatch.setattr(f"{owner}.{name}", full)
    else:
        monkeypatch.setattr(owner, name, full)
    output = tmp_path / "out"
    assert run("reconstruct", scans / "file0.h5", "--output", output, "--method", "zero-filled") == 2
    errors = capsys.readouterr().err.replace("\r", "\n").splitlines()
    assert [line for line in errors if line.startswith("mrihvae")] == [
        f"mrihvae: error: {output / file}: cannot be written (No space left on device); free space or choose another "
        "place"
    ]
    assert "Traceback" not in "".join(errors)
    assert file not in files_below(output) and not list(output.rglob("*.part"))
