"""`mrihvae calibrate`: beside weights, for `reconstruct --samples`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import mrihvae
from mrihvae.cli.main import main
from mrihvae.io.hdf5 import read_dataset
from mrihvae.model.weights import save_weights
from tests.support.files import write_scan
from tests.support.small import small_model

SAMPLED = ("--mask-type", "random", "--acceleration", "2", "--center-fraction", "0.16", "--samples", "2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scans of 14 persons, weights, and their calibration."""
    folder = tmp_path_factory.mktemp("calibrate")
    for k in range(14):
        write_scan(folder / "scans" / f"file{k:02}.h5", (1, 32, 40), k, {"patient_id": f"person {k}"})
    save_weights(folder / "small.safetensors", small_model(), {})
    words = ["calibrate", folder / "scans", "--checkpoint", folder / "small.safetensors", "--work", folder / "work"]
    assert main([*map(str, words), "--acceleration", "2", "--samples", "2"]) == 0
    return folder


def reconstruct(folder: Path, output: Path, *further: str, weights: str = "small") -> dict:
    words = [
        "reconstruct",
        folder / "scans/file03.h5",
        "--output",
        output,
        "--checkpoint",
        folder / f"{weights}.safetensors",
    ]
    assert main([*map(str, words), *(further or SAMPLED)]) == 0
    return json.loads((output / "reconstruct.json").read_text())["volumes"][0]


def test_bounds_of_a_volume(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = reconstruct(folder, tmp_path / "out")
    shown = capsys.readouterr().out
    assert f"PSNR at least {row['psnr_at_least']:.1f} dB and SSIM at least" in shown and "with 90 % confidence" in shown
    assert row["level"] == 0.9 and 9 <= row["calibration_persons"] < 14 and 0 < row["shift_p_value"] <= 1
    assert not any("not calibrated" in text for text in row["warnings"])
    plain = reconstruct(folder, tmp_path / "plain", *SAMPLED[:-2])
    assert "psnr_at_least" not in plain
    images = [
        read_dataset(tmp_path / name / "reconstructions/file03.h5", "reconstruction") for name in ("out", "plain")
    ]
    np.testing.assert_array_equal(*images)
    assert main(["report", str(tmp_path / "out")]) == 0
    assert "their scans resemble those of the calibration" in (tmp_path / "out/report.html").read_text()


def test_other_weights_and_settings_are_not_calibrated(folder: Path, tmp_path: Path) -> None:
    save_weights(folder / "other.safetensors", small_model(seed=1), {})
    shutil.copy(folder / "small.calibration.json", folder / "other.calibration.json")
    for name, weights, further in (("a", "other", ()), ("b", "small", ("--views", "1"))):
        row = reconstruct(folder, tmp_path / name, *SAMPLED, *further, weights=weights)
        assert "psnr_at_least" not in row and sum("not calibrated" in text for text in row["warnings"]) == 1


def test_arrays_have_the_same_bounds(folder: Path) -> None:
    (scan,) = mrihvae.open_kspace(str(folder / "scans/file05.h5"))
    mask = mrihvae.sampling_pattern("random", (32, 40), acceleration=2, center_fraction=0.16, seed=0)
    method = mrihvae.load_method("hybrid", str(folder / "small.safetensors"))
    whole = mrihvae.reconstruct_scan(scan, mask, method, samples=2)
    found = mrihvae.reconstruct(np.asarray(scan.kspace), mask, axes="slice H W", method=method, samples=2)
    assert found.bounds == (whole.bounds,) and whole.bounds.persons >= 9


def test_what_is_measured_stays(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (folder / "small.calibration.json").read_text()
    words = ["calibrate", folder / "scans", "--checkpoint", folder / "small.safetensors", "--work", folder / "work"]
    words = [*map(str, words), "--acceleration", "2", "--samples", "2"]
    assert main(words) == 2 and "is already there; add --overwrite" in capsys.readouterr().err
    for path in (folder / "scans").iterdir():
        assert (folder / "work" / f"{path.stem}_random_2_{json.loads(before)['weights']}.npz").is_file()
    assert main([*words, "--overwrite"]) == 0 and (folder / "small.calibration.json").read_text() == before
