"""The commands as a user calls them: results, and one clear line for each mistake."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

import mrihvae
from mrihvae.cli import reconstruct as cli_reconstruct
from mrihvae.cli.demo import SCANS
from mrihvae.cli.main import COMMANDS, main
from mrihvae.io.formats import list_files
from mrihvae.model.weights import save_weights
from mrihvae.physics.fastmri_masks import effective_acceleration, sampling_mask, seed_of
from tests.support import REPOSITORY
from tests.support.files import complex_normal, write_h5, write_scan
from tests.support.small import small_model

RANDOM = ["--mask-type", "random", "--acceleration", "4", "--center-fraction", "0.08"]
ZERO_FILLED = ["--method", "zero-filled"]
SCAN = ["reconstruct", "a.h5", "--output", "o"]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Write weights of a small network."""
    path = tmp_path / "weights" / "small.safetensors"
    path.parent.mkdir()
    save_weights(path, small_model(), {})
    return path


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """Take what was printed on standard error, which must be a single error line."""
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("mrihvae: error: ")]
    assert len(errors) == 1 and lines[-1] == errors[0], lines
    assert "Traceback" not in "".join(lines)
    return errors[0].removeprefix("mrihvae: error: ")


def files_below(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file()) if folder.exists() else []


def test_reconstructs_and_evaluates_a_real_scan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scan = list_files(SCANS)[0]
    assert main(["reconstruct", str(scan), "--output", str(tmp_path), *ZERO_FILLED, *RANDOM]) == 0
    assert files_below(tmp_path) == sorted([scan.name, f"{scan.stem}.png", "reconstruct.json"])
    with h5py.File(tmp_path / "reconstructions" / scan.name) as file, h5py.File(scan) as source:
        assert list(file) == ["reconstruction"] and file["reconstruction"].dtype == np.float32
        assert file["reconstruction"].shape == source["reconstruction_esc"].shape
        width = source["kspace"].shape[-1]
        mask = sampling_mask("random", width, 4, 0.08, seed_of(scan.name))
        zero_filled = np.fft.ifft2(np.fft.ifftshift(source["kspace"][()] * mask, axes=(-2, -1)), norm="ortho")
        expected = np.abs(np.fft.fftshift(zero_filled, axes=(-2, -1)))
        np.testing.assert_allclose(file["reconstruction"][()], expected, atol=1e-5 * expected.max())
        assert file.attrs["acceleration"] == 4
    summary = json.loads((tmp_path / "reconstruct.json").read_text())
    assert summary["volumes"][0]["effective_acceleration"] == round(effective_acceleration(mask), 3)
    assert (tmp_path / "panels" / f"{scan.stem}.png").read_bytes()[:4] == b"\x89PNG"
    capsys.readouterr()
    scores = tmp_path / "scores.json"
    arguments = ["--target-path", str(scan), "--predictions-path", str(tmp_path / "reconstructions" / scan.name)]
    arguments += ["--challenge", "singlecoil", "--acceleration", "4", "--json", str(scores)]
    assert main(["evaluate", *arguments]) == 0
    assert "PSNR = " in capsys.readouterr().out
    assert 20 < json.loads(scores.read_text())["overall"]["means"]["PSNR"] < 32


@pytest.mark.parametrize("method", ["hybrid", "amortized"])
def test_reconstructs_with_given_weights(method: str, weights: Path, tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "scans" / "a.h5", (3, 33, 29))
    sweeps = ["--sweeps", "2"] if method == "hybrid" else []
    options = ["--method", method, "--checkpoint", str(weights), *sweeps, "--batch-size", "2", *RANDOM]
    assert main(["reconstruct", str(scan), "--output", str(tmp_path / "out"), *options]) == 0
    with h5py.File(tmp_path / "out" / "reconstructions" / "a.h5") as file:
        assert file["reconstruction"].shape == (3, 33, 29) and np.isfinite(file["reconstruction"][()]).all()


def test_mask_of_the_file(tmp_path: Path) -> None:
    mask = sampling_mask("equispaced", 20, 4, 0.1, 3)
    kspace = complex_normal((2, 24, 20)) * mask
    scan = write_scan(tmp_path / "test.h5", kspace=kspace, mask=mask.astype(np.float32), reconstruction_esc=None)
    assert main(["reconstruct", str(scan), "--output", str(tmp_path / "out"), *ZERO_FILLED]) == 0
    summary = json.loads((tmp_path / "out" / "reconstruct.json").read_text())
    assert summary["volumes"][0]["effective_acceleration"] == round(20 / mask.sum(), 3)


def test_resume_leaves_finished_volumes_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.h5", "b.h5"):
        write_scan(tmp_path / "scans" / name)
    arguments = ["reconstruct", str(tmp_path / "scans"), "--output", str(tmp_path / "out"), *ZERO_FILLED, *RANDOM]
    assert main(arguments) == 0
    done = tmp_path / "out" / "reconstructions" / "a.h5"
    done.write_bytes(b"kept")
    (tmp_path / "out" / "reconstructions" / "b.h5").unlink()
    capsys.readouterr()
    assert main([*arguments, "--resume"]) == 0
    assert done.read_bytes() == b"kept" and (tmp_path / "out" / "reconstructions" / "b.h5").stat().st_size > 100
    assert "a.h5: already there" in capsys.readouterr().out


def test_resume_refuses_another_method(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scan = write_scan(tmp_path / "a.h5")
    arguments = ["reconstruct", str(scan), "--output", str(tmp_path / "out"), *RANDOM]
    assert main([*arguments, *ZERO_FILLED]) == 0
    capsys.readouterr()
    assert main([*arguments, "--method", "tv", "--resume"]) == 2
    assert "reconstruct.json: was made with method zero-filled, not tv" in one_line(capsys)
    assert json.loads((tmp_path / "out" / "reconstruct.json").read_text())["method"] == "zero-filled"


def truncated(path: Path) -> None:
    write_scan(path, (2, 64, 64))
    path.write_bytes(path.read_bytes()[:2000])


def with_nan(path: Path) -> None:
    kspace = complex_normal((2, 24, 20))
    kspace[1, 3, 4] = np.nan
    write_scan(path, kspace=kspace)


BAD_SCANS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "file not found"),
    "truncated": (truncated, "truncated or not an HDF5 file"),
    "not HDF5": (lambda path: path.write_text("hello"), "truncated or not an HDF5 file"),
    "no k-space": (lambda path: write_h5(path, image=np.zeros(3)), "has no dataset 'kspace' (it has image)"),
    "NaN": (with_nan, "dataset 'kspace' holds NaN"),
    "magnitudes": (lambda path: write_scan(path, kspace=np.ones((2, 24, 20))), "'kspace' is float64, not complex"),
    "one slice": (lambda path: write_scan(path, kspace=complex_normal((24, 20))), "'kspace' has shape (24, 20)"),
    "zero lines": (lambda path: write_scan(path, mask=np.zeros(20)), "'mask' marks no sample as acquired"),
    "short mask": (lambda path: write_scan(path, mask=np.ones(7)), "'mask' has shape (7,) but k-space has 20 lines"),
    "zeros": (lambda path: write_scan(path, kspace=np.zeros((2, 24, 20), np.complex64)), "zero everywhere"),
    "complete": (lambda path: write_scan(path), "is fully sampled and has no mask; add --mask-type"),
}


@pytest.mark.parametrize("kind", BAD_SCANS)
def test_bad_scan(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, what = BAD_SCANS[kind]
    path = tmp_path / "scan.h5"
    make(path)
    assert main(["reconstruct", str(path), "--output", str(tmp_path / "out"), *ZERO_FILLED]) == 2
    line = one_line(capsys)
    assert "scan.h5" in line and what in line and ("; " in line or "there is nothing" in line)
    assert files_below(tmp_path / "out") == []


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (["--checkpoint", "nowhere"], "nowhere: neither shipped weights"),
        (["--mask-type", "random", "--acceleration", "0"], "acceleration 0 is not a number of at least 1"),
        (["--mask-type", "random", "--acceleration", "2.5"], "acceleration 2.5 is not a whole number of at least 1"),
        (["--mask-type", "random", "--center-fraction", "2"], "center fraction 2.0 is not in (0, 1]"),
        (["--center-fraction", "0.1"], "--center-fraction: needs --mask-type"),
        (["--batch-size", "0"], "--batch-size 0: must be at least 1"),
        (["--sweeps", "-1"], "sweeps -1 and beta 1.0 must be at least 0"),
        (["--step", "nan"], "step"),
        (["--method", "tv", "--strength", "-1"], "--strength -1.0: must be above 0"),
        (["--method", "hybrid", "--device", "cuda:99"], "--device cuda:99: cannot be used"),
    ],
)
def test_bad_option(
    options: list[str], what: str, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scan = write_scan(tmp_path / "scan.h5")
    given = [] if "--checkpoint" in options else ["--checkpoint", str(weights)]
    assert main(["reconstruct", str(scan), "--output", str(tmp_path / "out"), *given, *options]) == 2
    assert what in one_line(capsys)
    assert files_below(tmp_path / "out") == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["reconstuct"], 'Unknown command "reconstuct". Did you mean "reconstruct"? Available commands: demo, recon'),
        (["--nonsense", "reconstruct"], 'Unknown command "--nonsense". Available commands: demo, reconstruct,'),
        (["reconstruct", "a.h5"], 'Command "reconstruct" parameter --output is missing; add it.'),
        (["reconstruct", "a.h5", "-o"], 'Command "reconstruct" parameter -o requires an argument.'),
        (["restore", "--task", "deblur", "--output", "o"], 'Command "restore" parameter INPUT is missing; add it.'),
        ([*SCAN, "--method", "magic"], 'Invalid value "magic" for --method. Choose from: "hybrid", "amortized",'),
        ([*SCAN, "--mask-type", "circus"], 'Invalid value "circus" for --mask-type. Choose from: "random", "equi'),
        ([*SCAN, "--combine", "mean"], 'Invalid value "mean" for --combine. Choose from: "measured", "variance".'),
        ([*SCAN, "--combine=measurd"], 'Did you mean "measured"?'),
        ([*SCAN, "--sweeps", "many"], "Invalid value for --sweeps: 'many' is not a whole number"),
        ([*SCAN, "--sweeps", "2.5"], "Invalid value for --sweeps: '2.5' is not a whole number"),
        ([*SCAN, "--acceleration", "fast"], 'Invalid value for --acceleration: unable to convert "fast" into float.'),
        ([*SCAN, "--sweeps"], 'Command "reconstruct" parameter --sweeps requires an argument.'),
        ([*SCAN, "b.h5"], "Unused Tokens: ['b.h5']."),
        ([*SCAN, "--virtual-coil", "2"], "Unknown option: --virtual-coil. Did you mean --virtual-coils?"),
        ([*SCAN, "--no-resume"], "Unknown option: --no-resume. Did you mean --resume?"),
        (["sample", "--output", "o", "--size", "1"], "parameter --size requires 2 positional arguments. Only got 1."),
        (["restore", "a", "--task", "deblur", "--output", "o", "--tau"], "parameter --tau requires at least 1 element"),
        (["restore", "a", "--task", "deblur", "--output", "o", "--factor", "3"], "for --factor. Choose from: 2, 4."),
        (["evaluate", "--target-path", "a", "--predictions-path", "b"], "parameter --challenge is missing; add it."),
        (["train", "data"], 'Command "train" parameter --output is missing; add it.'),
        (["train", "--output", "o"], "PATH: nothing to train on; give data, or --protocol NAME and --data DIR"),
        (["demo", "--methods", "tv"], "Unknown option: --methods"),
    ],
)
def test_bad_words(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert message in one_line(capsys)


def test_without_a_command_there_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in COMMANDS)


def test_interruption_has_its_own_status(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli_reconstruct, "run", interrupt)
    assert main(["reconstruct", "a.h5", "--output", "o"]) == 130
    assert capsys.readouterr().err == "mrihvae: interrupted; finished files are kept\n"


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["protocols"]])
def test_a_reader_that_leaves_early_is_no_mistake(words: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "mrihvae", *words]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, cwd=REPOSITORY, check=False)
    os.close(writing)
    assert done.returncode == 0 and done.stderr == b""


def test_output_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scan = write_scan(tmp_path / "scan.h5")
    (tmp_path / "file").write_text("in the way")
    assert main(["reconstruct", str(scan), "--output", str(tmp_path / "file"), *ZERO_FILLED, *RANDOM]) == 2
    assert "cannot be written" in one_line(capsys)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_keeps_the_old_reconstruction(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = write_scan(tmp_path / "scan.h5")
    arguments = ["reconstruct", str(scan), "--output", str(tmp_path / "out"), *ZERO_FILLED, *RANDOM]
    assert main(arguments) == 0
    before = (tmp_path / "out" / "reconstructions" / "scan.h5").read_bytes()
    written = h5py.File

    def full(path: Path, mode: str = "r") -> h5py.File:
        return written("/dev/full" if mode == "w" else path, mode)

    monkeypatch.setattr(h5py, "File", full)
    capsys.readouterr()
    assert main([*arguments, "--overwrite"]) == 2
    assert "scan.h5: cannot be written (No space left on device)" in one_line(capsys)
    assert (tmp_path / "out" / "reconstructions" / "scan.h5").read_bytes() == before
    assert len(files_below(tmp_path / "out" / "reconstructions")) == 1


def test_killed_reconstruction_leaves_no_half_file(tmp_path: Path, weights: Path) -> None:
    for k in range(40):
        write_scan(tmp_path / "scans" / f"{k:02d}.h5", (4, 64, 64), seed=k)
    out = tmp_path / "out"
    options = ["--checkpoint", str(weights), "--sweeps", "1", *RANDOM]
    command = [sys.executable, "-m", "mrihvae", "reconstruct", str(tmp_path / "scans"), "--output", str(out), *options]
    environment, quiet = {**os.environ, "OMP_NUM_THREADS": "1"}, subprocess.DEVNULL
    process = subprocess.Popen(command, env=environment, cwd=REPOSITORY, stdout=quiet, stderr=quiet)
    finished = out / "reconstructions"
    until = time.monotonic() + 60
    while not (finished.exists() and len(list(finished.glob("*.h5"))) >= 3) and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    whole = [path for path in finished.glob("*.h5") if not path.name.startswith(".")]
    assert 3 <= len(whole) < 40
    for path in whole:
        with h5py.File(path) as file:
            assert file["reconstruction"].shape == (4, 64, 64)


def test_version_and_help() -> None:
    for option, text in (("--version", mrihvae.__version__), ("--help", "reconstruct")):
        found = subprocess.run(
            [sys.executable, "-m", "mrihvae", option], capture_output=True, text=True, cwd=REPOSITORY, check=True
        )
        assert text in found.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_every_command(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    shown = capsys.readouterr().out
    summary = (COMMANDS[name].__doc__ or "").splitlines()[0]
    assert f"mrihvae {name}" in shown and summary in " ".join(shown.split())


def test_status_of_a_mistake(tmp_path: Path) -> None:
    words = ["evaluate", "--target-path", str(tmp_path), "--predictions-path", ".", "--challenge", "singlecoil"]
    wrong = subprocess.run(
        [sys.executable, "-m", "mrihvae", *words], capture_output=True, text=True, cwd=REPOSITORY, check=False
    )
    assert wrong.returncode == 2 and wrong.stdout == ""
    assert wrong.stderr.startswith(f"mrihvae: error: {tmp_path}: no .h5 file in this folder")
    assert len(wrong.stderr.splitlines()) == 1
