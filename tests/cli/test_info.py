"""`mrihvae info`: what files of every kind are said to hold, what is doubtful, and a command that works."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from mrihvae.io.bart import write_cfl
from mrihvae.io.hdf5 import read_dataset
from mrihvae.io.mrd.header import header_xml
from mrihvae.io.stored_kspace import StoredKspace
from mrihvae.physics.sampling import sampling_pattern
from tests.support import REPOSITORY
from tests.support.files import complex_normal, error_of, run, truncate, write_h5, write_scan
from tests.support.small_coils import calibrated, coil_scans

SHAPE = (3, 4, 48, 40)
KEYS = {
    "name", "slices", "coils", "matrix", "delivered_matrix", "voxel_mm", "field_of_view_mm", "mask_type",
    "mask_in_file", "fully_sampled", "lines_along", "acceleration", "calibration_lines", "calibration_region",
    "separate_calibration", "partial_fourier", "target", "noise_scan", "sensitivity_maps", "field_strength_T",
    "acquisition", "vendor",
    "peak_shift", "checks",
}  # fmt: skip
SYSTEM = """<acquisitionSystemInformation><systemVendor>ACME</systemVendor>
<systemFieldStrength_T>0.55</systemFieldStrength_T></acquisitionSystemInformation>"""


@pytest.fixture(scope="module")
def kspace() -> np.ndarray:
    return coil_scans(3, 4, 48, 40)[0].numpy()


def described(capsys: pytest.CaptureFixture[str], *words: str | Path) -> list[dict[str, Any]]:
    """Run the command with --json; return its list."""
    capsys.readouterr()
    run("info", *words, "--json")
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return found


def scan_of(capsys: pytest.CaptureFixture[str], path: Path, *words: str) -> dict[str, Any]:
    """Return the description of the only scan of a file."""
    (about,) = described(capsys, path, *words)
    assert about["error"] is None, about
    (scan,) = about["scans"]
    assert set(scan) == KEYS
    return {**scan, "command": about["command"], "warnings": about["warnings"], "format": about["format"]}


def texts(scan: dict[str, Any], level: str = "warning") -> list[str]:
    return [check["text"] for check in scan["checks"] if check["level"] == level]


def test_fully_sampled_scan(kspace: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = header_xml((48, 40), 4, (44, 40), voxel=(1.5, 2, 5)).replace("<experimental", f"{SYSTEM}<experimental")
    target = np.ones((3, 44, 40), np.float32)
    path = write_scan(tmp_path / "a b.h5", SHAPE, kspace=kspace, reconstruction_rss=target, ismrmrd_header=text)
    scan = scan_of(capsys, path)
    assert (scan["format"], scan["slices"], scan["coils"], scan["matrix"]) == ("fastmri", 3, 4, [48, 40])
    assert scan["delivered_matrix"] == [44, 40] and scan["voxel_mm"] == [1.5, 2, 5]
    assert scan["field_of_view_mm"] == [66, 80]
    assert (scan["mask_type"], scan["acceleration"], scan["calibration_region"]) == ("fully sampled", 1, [48, 40])
    assert (scan["target"], scan["noise_scan"], scan["sensitivity_maps"]) == (True, False, False)
    assert (scan["field_strength_T"], scan["vendor"], scan["acquisition"]) == (0.55, "ACME", "AXT2")
    assert scan["checks"] == [] and scan["warnings"] == []
    assert scan["command"] == f"mrihvae reconstruct '{path}' --output out/ --mask-type random --acceleration 4"
    masked = write_scan(tmp_path / "masked.h5", SHAPE, kspace=kspace, mask=np.ones(40, np.uint8))
    assert scan_of(capsys, masked)["command"].endswith("--mask-type random --acceleration 4")
    assert run("info", path) == 0
    shown = capsys.readouterr().out
    for part in (
        f"{path}: fastMRI HDF5",
        "48 x 40, delivered 44 x 40",
        "66 x 80 mm",
        "0.55 T, ACME",
        "undersamples it",
    ):
        assert part in shown


@pytest.mark.parametrize("with_mask", [False, True])
def test_undersampled_scan(
    with_mask: bool, kspace: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = sampling_pattern("equispaced", (48, 40), 4, 0.2, 0)[0]
    beside = {"mask": lines.astype(np.float32)} if with_mask else {}
    path = write_scan(
        tmp_path / "scan.h5", SHAPE, kspace=np.where(lines, kspace, 0), reconstruction_rss=None, ismrmrd_header=None,
        sensitivity_maps=kspace[:1], noise=complex_normal((4, 100)), **beside,
    )  # fmt: skip
    scan = scan_of(capsys, path)
    assert (scan["mask_type"], scan["lines_along"], scan["mask_in_file"]) == ("equispaced", "W", with_mask)
    assert scan["acceleration"] == pytest.approx(40 / lines.sum(), abs=1e-3) and scan["calibration_lines"] >= 8
    assert (scan["target"], scan["noise_scan"], scan["sensitivity_maps"]) == (False, True, True)
    assert scan["voxel_mm"] is None and scan["field_strength_T"] is None and scan["vendor"] is None
    assert scan["command"] == f"mrihvae reconstruct {path} --output out/" and scan["checks"] == []


def test_checks(kspace: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    everywhere, center = np.ones(40, bool), np.arange(40) == 20
    images = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace, (-2, -1))), (-2, -1))
    dead = np.where(np.arange(4)[:, None, None] == 2, 0, kspace)
    nan = kspace.copy()
    nan[0, 0, 3, 3] = np.nan
    cases = [
        (kspace, ~center, "warning", "the center of k-space was not acquired: contrast is not reliable"),
        (kspace, center | (np.arange(40) % 3 == 0), "warning", "no calibration region (ACS)"),
        (kspace, np.arange(40) >= 12, "warning", "partial Fourier along W: 72 % of k-space was acquired"),
        (np.where(np.arange(48)[:, None] >= 14, kspace, 0), None, "warning", "partial Fourier along H: 72 %"),
        (
            np.roll(kspace, 7, -2),
            None,
            "warning",
            "the strongest sample lies 7 samples from the center of k-space along H",
        ),
        (dead, None, "warning", "coils without signal: 2"),
        (images.astype(np.complex64), None, "error", "holds images, not k-space"),
        (0 * kspace, None, "error", "k-space is zero in all slices"),
        (nan, None, "error", "holds NaN or infinite values"),
    ]
    for stored, mask, level, text in cases:
        given = {} if mask is None else {"mask": mask & everywhere}
        scan = scan_of(capsys, write_h5(tmp_path / "scan.h5", kspace=stored.astype(np.complex64), **given))
        found = texts(scan, level)
        assert any(each.startswith(text) for each in found), (text, scan["checks"])
        assert (scan["command"] is None) == (level == "error"), text


def test_command_for_uncentered_kspace_of_another_name(
    kspace: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The mask is described as --uncentered reads it; the command gives the image of centered k-space."""
    lines = calibrated(40).numpy()
    kept = np.where(lines, kspace, 0)
    path = write_h5(
        tmp_path / "scan.h5", other=kept, ksp=np.fft.ifftshift(kept, (-2, -1)), mask=np.fft.ifftshift(lines)
    )
    scan = scan_of(capsys, path, "--key", "ksp")
    (refusal,) = texts(scan, "error")
    assert refusal.startswith("is not centered") and "--uncentered" in refusal
    assert scan["calibration_lines"] == 8 and texts(scan) == []
    assert scan["command"] == f"mrihvae reconstruct {path} --output out/ --key ksp --uncentered"
    words = shlex.split(scan["command"].replace("out/", str(tmp_path / "out")))[1:]
    assert run(*words, "--method", "sense") == 0
    right = write_h5(tmp_path / "right/scan.h5", kspace=kept, mask=lines)
    assert run("reconstruct", right, "--output", tmp_path / "right/out", "--method", "sense") == 0
    images = [
        read_dataset(tmp_path / name / "reconstructions/scan.h5", "reconstruction") for name in ("out", "right/out")
    ]
    np.testing.assert_array_equal(*images)
    assert json.loads((tmp_path / "out/reconstruct.json").read_text())["reading"] == {"key": "ksp", "uncentered": True}
    assert run("report", tmp_path / "out") == 0  # reads the scan as it was read then
    assert "no zero-filled image" not in (tmp_path / "out/report.html").read_text()
    assert error_of(capsys, *words[:4], "--resume", "--method", "sense", "--key", "other").count(
        "was made with reading"
    )
    capsys.readouterr()
    assert run("convert", path, tmp_path / "copy.h5", "--key", "ksp", "--uncentered") == 0
    np.testing.assert_array_equal(read_dataset(tmp_path / "copy.h5", "kspace"), kept)
    assert texts(scan_of(capsys, path, "--key", "ksp", "--uncentered"), "error") == []


def test_files_of_other_formats(kspace: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "n.npy", kspace)
    (tmp_path / "n.json").write_text('{"axes": ["slice", "coil", "H", "W"]}')
    write_cfl(tmp_path / "b.cfl", kspace[0].transpose(1, 2, 0)[:, :, None])
    write_h5(tmp_path / "k.h5", ksp=kspace)
    formats = {Path(about["file"]).name: about for about in described(capsys, tmp_path)}
    assert {name: about["format"] for name, about in formats.items()} == {
        "b.cfl": "bart", "k.h5": "fastmri", "n.npy": "numpy",
    }  # fmt: skip
    assert all(about["scans"][0]["coils"] == 4 for about in formats.values())
    assert formats["k.h5"]["warnings"] == [
        "k-space was read from 'ksp', the only array that can be k-space; use --key for another"
    ]


def test_scans_of_an_mrd_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ismrmrd")
    from tests.support import mrd

    lines = mrd.cartesian_lines(complex_normal((2, 3, 2, 16, 12)), mask=np.arange(12) % 2 == 0)
    mrd.write_mrd(tmp_path / "scan.h5", mrd.cartesian_xml((2, 3, 2, 16, 12)), lines)
    (about,) = described(capsys, tmp_path / "scan.h5")
    assert about["format"] == "mrd" and about["command"] == f"mrihvae reconstruct {tmp_path / 'scan.h5'} --output out/"
    assert [scan["name"] for scan in about["scans"]] == ["scan_repetition0.h5", "scan_repetition1.h5"]
    for scan in about["scans"]:
        assert (scan["mask_type"], scan["acceleration"], scan["slices"], scan["coils"]) == ("equispaced", 2, 3, 2)
        assert scan["voxel_mm"] == [1, 1, 5]


def test_bad_files_do_not_stop_it(kspace: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_h5(tmp_path / "a.h5", kspace=kspace)
    truncate(write_h5(tmp_path / "b.h5", kspace=kspace))
    write_h5(tmp_path / "c.h5", kspace=kspace)
    (tmp_path / "d.dat").write_text("a stray file")
    (tmp_path / "note.txt").write_text("not looked at")
    assert run("info", tmp_path) == 1
    shown = capsys.readouterr().out
    assert "b.h5: truncated or not an HDF5 file" in shown and "c.h5: fastMRI HDF5" in shown and "d.dat" in shown
    assert "note" not in shown
    assert run("info", tmp_path, "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert [about["error"] is None for about in found] == [True, False, True, False]
    assert all(about["command"] is None and about["scans"] == [] for about in found if about["error"])
    assert run("info", tmp_path / "a.h5", tmp_path / "c.h5") == 0
    assert error_of(capsys, "info", tmp_path / "b.h5").startswith(f"{tmp_path / 'b.h5'}: truncated")
    assert error_of(capsys, "info", tmp_path / "none.h5").startswith(f"{tmp_path / 'none.h5'}: file not found")
    assert "no file with k-space in this folder" in error_of(
        capsys, "info", (tmp_path / "empty").mkdir() or tmp_path / "empty"
    )
    assert run("info", tmp_path / "b.h5", "--json") == 2
    assert len(json.loads(capsys.readouterr().out)) == 1


def test_large_files_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four slices, each once, and neither maps nor references."""
    shape = (40, 2, 16, 12)
    path = write_scan(tmp_path / "scan.h5", shape, sensitivity_maps=np.full(shape, np.nan, np.complex64))
    asked: list[int] = []
    read = StoredKspace._read

    def counting(self: StoredKspace, begin: int, end: int) -> np.ndarray:
        asked.append(end - begin)
        return read(self, begin, end)

    monkeypatch.setattr(StoredKspace, "_read", counting)
    assert run("info", path) == 0
    assert sum(asked) <= 8  # the next slice is read ahead


def test_no_torch_is_loaded_and_no_terminal_is_driven(kspace: np.ndarray, tmp_path: Path) -> None:
    path = write_h5(tmp_path / "scan.h5", {"acquisition": "T2\x1b[31m"}, kspace=kspace)
    code = "import sys; from mrihvae.cli.main import main; main(); assert not {'torch', 'fastmri'} & set(sys.modules)"
    words = [sys.executable, "-c", code, "info", str(path)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert "T2?[31m" in done.stdout and "\x1b" not in done.stdout


def test_protocols_take_a_key(kspace: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.support.files import PROTOCOL

    (tmp_path / "small.toml").write_text(PROTOCOL)
    with h5py.File((tmp_path / "val").mkdir() or tmp_path / "val/a.h5", "w") as file:
        file["scan/ksp"], file["other"] = kspace[:, 0], kspace[:, 1]
    words = ("run", tmp_path / "small.toml", "--data", tmp_path, "--output", tmp_path / "out")
    assert "several arrays may be k-space" in error_of(capsys, *words)
    assert run(*words, "--key", "scan/ksp") == 0
    assert json.loads((tmp_path / "out/run.json").read_text())["reading"] == {"key": "scan/ksp"}
