"""`mrihvae run`: its files and numbers, what is left out, what goes on, and what stands in its way."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

import mrihvae
from mrihvae.cli import run as cli_run
from mrihvae.cli.run import git_state
from mrihvae.evaluation.scores import METRICS, evaluate
from mrihvae.inference.settings import InferenceSettings
from mrihvae.io.fastmri import read_scan
from mrihvae.io.hdf5 import read_dataset
from mrihvae.model.shipped import SHIPPED
from mrihvae.model.weights import fingerprint, load_model, save_weights
from mrihvae.physics.fastmri_masks import effective_acceleration
from mrihvae.physics.sampling import Undersampling
from mrihvae.recon.methods import make_method
from mrihvae.recon.undersampling import mask_of
from mrihvae.recon.volumes import reconstruct_volume, sample_volume
from mrihvae.utils.config import from_dict
from tests.support.files import PROTOCOL, complex_normal, error_of, run, truncate, write_scan
from tests.support.small import small_kspace, small_model

DOUBLE = Undersampling("random", 2, 0.2)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory with three complete scans of two acquisitions."""
    for k in range(3):
        kspace = small_kspace(2, 24, 20, seed=k).numpy()
        kind = {"acquisition": "FLAIR" if k == 2 else "T2"}
        images = np.abs(np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace, (1, 2)), norm="ortho"), (1, 2)))
        name = f"file{k}.h5"
        write_scan(tmp_path / "data/val" / name, (2, 24, 20), kspace=kspace, reconstruction_esc=images, attributes=kind)
    return tmp_path / "data"


@pytest.fixture
def protocol(tmp_path: Path) -> Path:
    return changed(tmp_path)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a small untrained network, which tell how far samples spread."""
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_weights(path, small_model(), {"temperature": 0.5, "spread": 2.0})
    return path


def changed(folder: Path, *changes: tuple[str, str]) -> Path:
    """Write the protocol with these changes."""
    text = PROTOCOL
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = folder / "small.toml"
    path.write_text(text)
    return path


def with_weights(path: Path, *solver: str) -> tuple[tuple[str, str], ...]:
    """The changes that make the protocol use these weights and settings."""
    return ('data = "val"', f'data = "val"\nweights = "{path}"'), ('method = "zero-filled"', "\n".join(solver))


def told(output: Path) -> dict[str, Any]:
    return dict(json.loads((output / "run.json").read_text()))


def test_files_and_numbers(protocol: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    assert run("run", protocol, "--data", data, "--output", output) == 0
    shown = capsys.readouterr().out
    names = [f"file{k}" for k in range(3)]
    assert sorted(path.name for path in output.iterdir()) == ["panels", "reconstructions", "run.json", "scores.md"]
    assert sorted(path.name for path in (output / "reconstructions").iterdir()) == [f"{name}.h5" for name in names]
    for name in names:
        with Image.open(output / "panels" / f"{name}.png") as picture:
            assert picture.format == "PNG" and min(picture.size) > 100
        scan = read_scan(data / "val" / f"{name}.h5")
        expected = reconstruct_volume(scan, mask_of(scan, DOUBLE), make_method("zero-filled"))
        with h5py.File(output / "reconstructions" / f"{name}.h5") as file:
            assert np.array_equal(file["reconstruction"][()], expected) and file.attrs["acceleration"] == 2

    summary, evaluation = told(output), evaluate(data / "val", output / "reconstructions", "singlecoil")
    assert summary["overall"] == {"volumes": 3, "means": evaluation.means(), "stddevs": evaluation.stddevs()}
    assert {name: part["volumes"] for name, part in summary["acquisitions"].items()} == {"FLAIR": 1, "T2": 2}
    assert summary["acquisitions"]["T2"]["means"] == evaluation.of("T2").means()
    scores = {row.file: row.scores() for row in evaluation.rows}
    for row in summary["volumes"]:
        scan = read_scan(data / "val" / row["file"])
        effective = effective_acceleration(mask_of(scan, DOUBLE))
        assert row["scores"] == scores[row["file"]] and row["slices"] == 2 and row["seconds_per_slice"] > 0
        assert row["effective_acceleration"] == pytest.approx(effective, abs=5e-4)
        assert row["acquisition"] == scan.attributes["acquisition"]

    assert summary["protocol"] == "small"
    assert summary["protocol_sha256"] == hashlib.sha256(protocol.read_bytes()).hexdigest()
    expected_mask = {"type": "random", "acceleration": 2, "center_fraction": 0.2, "seed": "file name"}
    assert summary["settings"]["mask"] == expected_mask and summary["settings"]["metrics"] == list(METRICS)
    assert summary["settings"]["solver"] == {"method": "zero-filled"} and summary["weights"] is None
    versions = {"mrihvae": mrihvae.__version__, "torch": str(torch.__version__), "numpy": np.__version__}
    assert summary["versions"] == {**versions, "fastmri": metadata.version("fastmri")}
    assert summary["git"] == git_state() and summary["device"] == "cpu" and summary["limit"] is None

    lines = shown.splitlines()
    assert shown.rstrip() in (output / "scores.md").read_text() and "small scans" in (output / "scores.md").read_text()
    assert len(lines) == 2 + 3 + 3 and len(set(map(len, lines))) == 1
    cells = [cell.strip() for cell in lines[-1].strip("|").split("|")]
    means = evaluation.means()
    assert cells[:3] == ["mean of 3", "", "6"] and cells[4:8] == [f"{means[name]:#.4g}" for name in METRICS]
    assert [line.split("|")[1].strip() for line in lines[5:7]] == ["mean of 1", "mean of 2"]


def test_table_shows_the_metrics_of_the_protocol(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = changed(tmp_path, ('data = "val"', 'data = "val"\nmetrics = ["SSIM", "NMSE"]\nacquisitions = ["T2"]'))
    assert run("run", path, "--data", data, "--output", tmp_path / "out") == 0
    header, *lines = capsys.readouterr().out.splitlines()
    cells = [cell.strip() for cell in header.strip("|").split("|")]
    assert cells == ["file", "acquisition", "slices", "R", "SSIM", "NMSE", "s / slice"]
    assert len(lines) == 1 + 2 + 1  # one acquisition: one line of means
    assert [row["file"] for row in told(tmp_path / "out")["volumes"]] == ["file0.h5", "file1.h5"]


def test_hybrid_inference_with_settings_and_weights(data: Path, tmp_path: Path, checkpoint: Path) -> None:
    changes = with_weights(checkpoint, 'method = "hybrid"', "sweeps = 2", "views = 1", "temperature = 0.25")
    assert run("run", changed(tmp_path, *changes), "--data", data, "--output", tmp_path / "out", "--limit", "1") == 0
    summary = told(tmp_path / "out")
    settings = summary["settings"]["solver"]
    assert settings.pop("method") == "hybrid" and summary["weights"] == fingerprint(checkpoint)
    assert (settings["sweeps"], settings["views"], settings["temperature"], settings["spread"]) == (2, 1, 0.25, 2.0)
    (row,) = summary["volumes"]  # --limit
    scan = read_scan(data / "val" / "file0.h5")
    method = make_method("hybrid", load_model(str(checkpoint)), from_dict(InferenceSettings, settings, ""))
    found = read_dataset(tmp_path / "out/reconstructions/file0.h5", "reconstruction")
    np.testing.assert_array_equal(found, reconstruct_volume(scan, mask_of(scan, DOUBLE), method))
    assert row["file"] == "file0.h5" and summary["limit"] == 1


def test_samples_are_drawn_with_the_protocols_seed(data: Path, tmp_path: Path, checkpoint: Path) -> None:
    (weights, solver) = with_weights(checkpoint, 'method = "samples"', "samples = 3", "views = 1", "rounds = 1")
    path = changed(tmp_path, (weights[0], f"{weights[1]}\nseed = 5"), solver)
    assert run("run", path, "--data", data, "--output", tmp_path / "out", "--limit", "1") == 0
    summary = told(tmp_path / "out")
    assert summary["settings"]["solver"]["samples"] == 3 and summary["settings"]["solver"]["sweeps"] == 0
    scan = read_scan(data / "val" / "file0.h5")
    inference = InferenceSettings(views=1, rounds=1, temperature=0.5, spread=2.0)
    method = make_method("samples", load_model(str(checkpoint)), inference, samples=3)
    posterior = sample_volume(scan, mask_of(scan, DOUBLE), method, seed=5)
    written = tmp_path / "out/reconstructions/file0.h5"
    np.testing.assert_array_equal(read_dataset(written, "reconstruction"), posterior.magnitude)
    np.testing.assert_array_equal(read_dataset(written, "uncertainty"), posterior.std.astype(np.float32))


def test_files_keep_their_own_mask_and_need_no_target(
    protocol: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in a test split: undersampled already, and nothing to score."""
    lines = np.arange(20) % 4 == 0
    kspace = np.where(lines, complex_normal((2, 24, 20)), 0)
    folder = tmp_path / "singlecoil_test"
    write_scan(folder / "a.h5", kspace=kspace, mask=lines, reconstruction_esc=None, attributes={"acceleration": 4})
    assert run("run", protocol, "--data", folder, "--output", tmp_path / "out") == 0  # the folder itself
    shown = capsys.readouterr().out
    assert "there is nothing to score" in shown and "reconstruction_esc" in shown
    summary = told(tmp_path / "out")
    (row,) = summary["volumes"]
    assert row["effective_acceleration"] == 4.0 and row["scores"] is None and summary["overall"] is None
    with h5py.File(tmp_path / "out/reconstructions/a.h5") as file:
        assert file.attrs["acceleration"] == 4
    write_scan(folder / "b.h5")
    assert run("run", protocol, "--data", folder, "--output", tmp_path / "out", "--overwrite") == 0
    assert "mean of 2, 1 scored" in capsys.readouterr().out and told(tmp_path / "out")["overall"]["volumes"] == 1


def test_multicoil(tmp_path: Path) -> None:
    write_scan(tmp_path / "data/val/a.h5", (1, 3, 24, 20))
    path = changed(tmp_path, ('"singlecoil"', '"multicoil"'))
    assert run("run", path, "--data", tmp_path / "data", "--output", tmp_path / "out") == 0
    means = evaluate(tmp_path / "data/val", tmp_path / "out/reconstructions", "multicoil").means()
    assert told(tmp_path / "out")["overall"]["means"] == means


def test_resume_goes_on_and_tells_the_same(data: Path, protocol: Path, tmp_path: Path) -> None:
    output, words = tmp_path / "out", ("run", protocol, "--data", data, "--output")
    assert run(*words, tmp_path / "whole") == 0 and run(*words, output, "--limit", "1") == 0
    before = (output / "reconstructions/file0.h5").stat().st_mtime_ns
    assert run(*words, output, "--resume") == 0
    assert (output / "reconstructions/file0.h5").stat().st_mtime_ns == before
    summary, whole = told(output), told(tmp_path / "whole")
    for key in ("overall", "acquisitions", "settings"):
        assert summary[key] == whole[key]
    assert [row["scores"] for row in summary["volumes"]] == [row["scores"] for row in whole["volumes"]]
    (output / "reconstructions/file0.h5").unlink()
    assert run(*words, output, "--resume") == 0 and (output / "reconstructions/file0.h5").is_file()


def test_resume_refuses_another_protocol(
    data: Path, protocol: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("run", protocol, "--data", data, "--output", tmp_path / "out")
    assert run(*words) == 0
    changed(tmp_path, ("acceleration = 2", "acceleration = 3"))
    assert "was made with protocol_sha256" in error_of(capsys, *words, "--resume")
    assert run(*words, "--overwrite") == 0


def interrupt(call: int) -> Callable[..., Any]:
    """Interrupt at this call, as a user does."""
    calls = iter(range(call + 1))

    def stopped(*arguments: Any, **options: Any) -> dict[str, Any]:
        if next(calls) == call:
            raise KeyboardInterrupt
        return dict(reconstruct(*arguments, **options))

    reconstruct = cli_run.reconstruct_to_files
    return stopped


def test_interrupted_runs_keep_what_is_finished(
    data: Path, protocol: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("run", protocol, "--data", data, "--output", tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(cli_run, "reconstruct_to_files", interrupt(2))
        assert run(*words) == 130
    summary = told(tmp_path / "out")
    assert [row["file"] for row in summary["volumes"]] == ["file0.h5", "file1.h5"]
    assert summary["overall"]["volumes"] == 2 and "mean of 2" in (tmp_path / "out/scores.md").read_text()
    monkeypatch.setattr(cli_run, "reconstruct_to_files", interrupt(1))
    assert run(*words, "--resume") == 0
    assert told(tmp_path / "out")["overall"]["volumes"] == 3


# --- the revision ----------------------------------------------------------------------------------------------------


def test_revision_is_that_of_the_checkout_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "checkout"
    (root / "inside").mkdir(parents=True)
    (root / "file").write_text("1")
    me = ("-c", "user.name=me", "-c", "user.email=me@example.org")
    for words in (("init", "-q"), ("add", "file"), (*me, "commit", "-q", "-m", "first")):
        subprocess.run(["git", "-C", str(root), *words], check=True)
    state = git_state(root)
    assert state is not None and len(state["revision"]) == 40 and state["dirty"] is False
    (root / "file").write_text("2")
    assert git_state(root) == {**state, "dirty": True}
    assert git_state(root / "inside") is None  # an environment inside of another project's checkout
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(root) is None  # git is not installed


# --- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([('data = "val"', 'data = "test"')], "data: has no folder 'test', and no file with k-space itself"),
        ([('data = "val"', 'data = "empty"')], "empty: no file with k-space in this folder"),
        ([('data = "val"', 'data = "val"\nacquisitions = ["PD"]')], "no file has acquisition PD; there are: FLAIR, T2"),
        ([('"singlecoil"', '"multicoil"')], "file0.h5: is singlecoil, but the protocol's challenge is multicoil"),
        ([("method", "metod")], "solver: unknown setting 'metod'; the nearest known one is 'method'"),
        ([("= 0.2", "= 0.6")], "center fraction 0.6 alone takes"),
        ([('"random"', '"poisonous"')], "mask type 'poisonous' is unknown"),
        ([('"zero-filled"', '"hybrid"'), ('"val"', '"val"\nweights = "nowhere"')], "weights nowhere: neither shipped"),
        ([('"zero-filled"', '"hybrid"'), ('"val"', '"val"\nweights = "default"\n')], "--device moon: cannot be used"),
    ],
)
def test_mistakes(
    changes: list[tuple[str, str]], message: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data / "empty").mkdir()
    words = ("run", changed(tmp_path, *changes), "--data", data, "--output", tmp_path / "out", "--device", "moon")
    assert message in error_of(capsys, *words)
    assert not (tmp_path / "out").exists()


def test_mask_that_a_file_cannot_have(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A center of 31 of 128 lines, which is tried when the protocol is read, goes with 4x; one of 3 of 11 does not."""
    write_scan(tmp_path / "data/val/a.h5", (2, 24, 11))
    path = changed(tmp_path, ("acceleration = 2", "acceleration = 4"), ("= 0.2", "= 0.246"))
    text = error_of(capsys, "run", path, "--data", tmp_path / "data", "--output", tmp_path / "out")
    assert "a.h5: the protocol's mask cannot be drawn for it (center fraction 0.246 alone takes 3 of 11 lines" in text


def test_benchmarks_are_not_run_but_tell_their_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = error_of(capsys, "run", "pnp_temperature", "--data", tmp_path, "--output", tmp_path / "out")
    assert text.endswith("python -m benchmarks.pnp.temperatures protocols/pnp_temperature.toml --data DIR")
    text = error_of(capsys, "run", "fastmri_knee_singelcoil_4x", "--data", tmp_path, "--output", tmp_path / "out")
    assert "near ones are fastmri_knee_singlecoil_4x" in text


@pytest.mark.parametrize("option", ["--limit", "--batch-size"])
def test_numbers_below_1(
    option: str, data: Path, protocol: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = error_of(capsys, "run", protocol, "--data", data, "--output", tmp_path / "out", option, "0")
    assert text == f"{option} 0: must be at least 1"


def test_bad_files_show_before_anything_is_reconstructed_and_do_not_stop_the_rest(
    data: Path, protocol: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("run", protocol, "--data", data, "--output", tmp_path / "out")
    bad, good = data / "val/file2.h5", {"file0.h5", "file1.h5"}
    for spoil, message in (
        (truncate, "truncated or not an HDF5 file"),
        (lambda path: write_scan(path, kspace=None), "has no dataset 'kspace'"),
        (lambda path: write_scan(path, kspace=complex_normal((24, 20))), "'kspace' has shape (24, 20)"),
    ):
        spoil(bad)
        capsys.readouterr()
        assert run(*words, "--overwrite") == 1
        first, *_, last = capsys.readouterr().err.splitlines()
        assert first.startswith(f"mrihvae: error: {bad}: {message}")
        out = tmp_path / "out"
        assert last.endswith(f"2 of 3 reconstructed, 1 failed: {out}; next: mrihvae report {out}")
        (failed,) = told(out)["failed"]
        assert failed["file"] == "file2.h5" and failed["error"].startswith(f"{bad}: {message}")
        assert {row["file"] for row in told(out)["volumes"]} == good and told(out)["overall"]["volumes"] == 2


def test_no_file_that_can_be_read(
    data: Path, protocol: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in (data / "val").iterdir():
        truncate(file)
    assert run("run", protocol, "--data", data, "--output", tmp_path / "out") == 2
    *lines, last = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert last == f"mrihvae: error: {data / 'val'}: none of its 3 files was reconstructed; the lines above say why"
    assert not (tmp_path / "out").exists()


def test_results_are_not_replaced_without_a_word(
    data: Path, protocol: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    words = ("run", protocol, "--data", data, "--output", output)
    assert run(*words) == 0
    hint = "add --resume to continue, --overwrite to replace them, or choose another --output"
    assert error_of(capsys, *words) == f"{output}: has results already (run.json); {hint}"
    (output / "run.json").unlink()
    assert error_of(capsys, *words) == f"{output}: has results already (reconstructions/file0.h5); {hint}"
    assert run(*words, "--overwrite") == 0


def test_data_that_do_not_look_like_the_protocols(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = changed(tmp_path, ('"small scans"', '"fastMRI knee, a test"'))
    assert run("run", path, "--data", data, "--output", tmp_path / "out") == 0
    warning = (
        "does not look like the protocol's data, fastMRI knee: its acquisition is T2, not CORPD_FBK or CORPDFS_FBK; "
        "its k-space is 24 high, not 640. Check --data and the protocol"
    )
    rows = told(tmp_path / "out")["volumes"]
    assert [row["warnings"] for row in rows] == [[warning], [warning], [warning.replace("T2", "FLAIR")]]
    shown = [line for line in capsys.readouterr().err.splitlines() if "does not look like" in line]
    assert len(shown) == 2  # a warning is shown once
    assert run("run", path, "--data", data, "--output", tmp_path / "again", "--verbose") == 0
    printed = capsys.readouterr().err
    assert printed.index("does not look like") < printed.index("file0.h5: 2 slices, R = 2.50")
    assert 'protocol: "small"' in printed and printed.count(f"  warning: {warning}") == 2


def test_reconstructions_that_are_not_finite_tell_the_protocols_setting(
    data: Path, tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = with_weights(checkpoint, 'method = "hybrid"', 'rule = "gradient"', "step = 1e8", "sweeps = 30")
    words = ("run", changed(tmp_path, *changes), "--data", data, "--output", tmp_path / "out")
    assert run(*words) == 2
    assert "file0.h5: the reconstruction is not finite; lower [solver] step" in capsys.readouterr().err


# --- on real data ----------------------------------------------------------------------------------------------------


def test_raw_scans(data_dir: Path, tmp_path: Path) -> None:
    """The shipped protocol of raw scans, on the first of them: what its table has for this volume."""
    assert run("run", "ulf_singlecoil_4x", "--data", data_dir, "--output", tmp_path / "out", "--limit", "1") == 0
    summary = told(tmp_path / "out")
    (row,) = summary["volumes"]
    assert row["file"] == "patient_6A_FLAIR.h5" and row["acquisition"] == "ULF_FLAIR"
    assert row["effective_acceleration"] == 3.6 and summary["weights"] == fingerprint(SHIPPED / "default.safetensors")
    assert row["scores"]["PSNR"] > 30.2 and row["scores"]["SSIM"] > 0.72
