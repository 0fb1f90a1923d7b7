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
from PIL import Image

import mrihvae
from mrihvae.evaluation.scores import evaluate
from mrihvae.inference.reconstruct import reconstruct, sample
from mrihvae.inference.settings import RULES, InferenceSettings, RefinementSettings
from mrihvae.io.fastmri import read_scan
from mrihvae.io.hdf5 import read_dataset
from mrihvae.model.weights import load_model, save_weights
from mrihvae.physics.fastmri_masks import effective_acceleration, seed_of
from mrihvae.physics.fourier import ifft2c
from mrihvae.physics.sampling import Undersampling, sampling_pattern
from mrihvae.recon.catalog import make_method
from mrihvae.recon.settings import METHODS, MODEL_METHODS
from mrihvae.recon.undersampling import mask_of
from mrihvae.recon.volumes import reconstruct_volume, sample_volume
from mrihvae.utils.config import from_dict
from tests.support.files import complex_normal, error_of, run, truncate, write_scan
from tests.support.small import small_kspace, small_model

DEMO = Path(mrihvae.__file__).parent / "demo_scans" / "patient_6A_FLAIR.h5"
ZERO_FILLED = ("--method", "zero-filled", "--mask-type", "random")
LINES = np.arange(20) % 3 == 0


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
    lines = mask_of(scan, Undersampling("random", 4, 0.08))
    with h5py.File(output / "reconstructions" / DEMO.name) as file:
        assert list(file) == ["reconstruction"] and file["reconstruction"].dtype == np.float32
        assert np.array_equal(file["reconstruction"][()], reconstruct_volume(scan, lines, make_method("zero-filled")))
        attributes = dict(file.attrs)
        assert attributes.pop("voxel_mm") == pytest.approx([1.8, 1.8, 5])
        assert attributes == {
            "method": "zero-filled",
            "acceleration": 4,
            "effective_acceleration": round(effective_acceleration(lines), 3),
        }
    with Image.open(output / "panels" / "patient_6A_FLAIR.png") as picture:
        assert picture.format == "PNG" and min(picture.size) > 100
    summary = json.loads((output / "reconstruct.json").read_text())
    assert summary["method"] == "zero-filled" and summary["checkpoint"] is None and summary["inference"] is None
    expected = {"mask_type": "random", "acceleration": 4, "center_fraction": 0.08, "axis": -1}
    assert summary["undersampling"] == expected and summary["samples"] is None
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


@pytest.mark.parametrize("method", ["tv", "sense", "zero-filled"])
def test_strength_that_is_written_is_that_which_was_used(method: str, tmp_path: Path) -> None:
    """Files of one coil and of several may lie in one folder, and have strengths of their own."""
    scan, output = write_scan(tmp_path / "file0.h5", (1, 24, 20), mask=LINES), tmp_path / "out"
    assert run("reconstruct", scan, "--output", output, "--method", method) == 0
    one, several = {"tv": (0.01, 0.001), "sense": (None, 0.003), "zero-filled": (None, None)}[method]
    expected = None if method == "zero-filled" else {"one coil": one, "several coils": several}
    assert json.loads((output / "reconstruct.json").read_text())["strength"] == expected


def test_seconds_of_maps_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = abs(np.arange(20) - 10) < 5
    scan, output = write_scan(tmp_path / "file0.h5", (2, 4, 24, 20), mask=lines), tmp_path / "out"
    assert run("reconstruct", scan, "--output", output, "--method", "sense") == 0
    (volume,) = json.loads((output / "reconstruct.json").read_text())["volumes"]
    assert 0 < volume["stages"]["maps"] < volume["seconds_per_slice"]
    assert f"s per slice (maps {volume['stages']['maps']:.2f})" in capsys.readouterr().out


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
    weights = ("--checkpoint", checkpoint) if method in MODEL_METHODS else ()
    sweeps = ("--sweeps", "1") if method in ("hybrid", "samples", "pnp") else ()
    words = ("--method", method, *weights, *sweeps)
    assert run("reconstruct", scans / "file0.h5", "--output", tmp_path / "out", *words) == 0
    volume = read_dataset(tmp_path / "out" / "reconstructions" / "file0.h5", "reconstruction")
    assert volume.shape == (2, 24, 20) and volume.dtype == np.float32 and volume.max() > 0


PATTERN_OPTIONS: list[tuple[tuple[str, ...], float]] = [
    (("radial",), 4.0),
    (("spiral", "--acceleration", "2.5"), 2.5),
    (("poisson", "--acceleration", "3"), 3.0),
    (("center",), 4.0),
    (("center", "--axis", "H"), 4.0),
    (("partial_fourier", "--acceleration", "1.5", "--center-fraction", "0.1"), 20 / 13),
    (("partial_fourier", "--acceleration", "1.5", "--center-fraction", "0.1", "--axis", "H"), 1.5),
    (("random", "--axis", "H"), 4.0),
]


@pytest.mark.parametrize(
    ("options", "nominal"), PATTERN_OPTIONS, ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_every_pattern(options: tuple[str, ...], nominal: float, tmp_path: Path) -> None:
    scan, output = write_scan(tmp_path / "file0.h5"), tmp_path / "out"
    assert run("reconstruct", scan, "--output", output, "--method", "zero-filled", "--mask-type", *options) == 0
    given = dict(zip(options[1::2], options[2::2], strict=True))
    acceleration = float(given.get("--acceleration", 4))
    fraction = float(given.get("--center-fraction", 0.32 / acceleration))
    axis = -2 if given.get("--axis") == "H" else -1
    pattern = sampling_pattern(options[0], (24, 20), acceleration, fraction, seed_of("file0.h5"), axis)
    volume = read_dataset(output / "reconstructions" / "file0.h5", "reconstruction")
    np.testing.assert_allclose(
        volume, reconstruct_volume(read_scan(scan), pattern, make_method("zero-filled")), atol=1e-5
    )
    summary = json.loads((output / "reconstruct.json").read_text())
    effective = summary["volumes"][0]["effective_acceleration"]
    assert effective == round(480 / pattern.sum(), 3) == pytest.approx(nominal, rel=0.3)
    expected = {"mask_type": options[0], "acceleration": acceleration, "center_fraction": fraction, "axis": axis}
    assert summary["undersampling"] == expected
    with h5py.File(output / "reconstructions" / "file0.h5") as file:
        assert file.attrs["acceleration"] == acceleration and file.attrs["effective_acceleration"] == effective
    assert (output / "panels" / "file0.png").is_file()


def test_whole_accelerations_are_told_as_such(tmp_path: Path) -> None:
    write_scan(tmp_path / "file0.h5")
    words = ("--output", tmp_path / "out", "--method", "zero-filled", "--mask-type", "random", "--acceleration", "4.0")
    assert run("reconstruct", tmp_path / "file0.h5", *words) == 0
    text = (tmp_path / "out" / "reconstruct.json").read_text()
    assert '"acceleration": 4,' in text
    with h5py.File(tmp_path / "out" / "reconstructions" / "file0.h5") as file:
        assert file.attrs["acceleration"].dtype.kind == "i"


def test_scan_whose_own_mask_is_of_single_bins(tmp_path: Path, checkpoint: Path) -> None:
    mask = np.random.default_rng(0).random((24, 20)) < 0.4
    kspace = np.where(mask, complex_normal((2, 24, 20)), 0)
    volumes = []
    for name, stored in (("with", mask), ("without", None)):
        scan = write_scan(tmp_path / name / "file0.h5", kspace=kspace, mask=stored, reconstruction_esc=None)
        output = tmp_path / f"out-{name}"
        assert run("reconstruct", scan, "--output", output, "--checkpoint", checkpoint, "--views", "1") == 0
        volumes.append(read_dataset(output / "reconstructions" / "file0.h5", "reconstruction"))
        summary = json.loads((output / "reconstruct.json").read_text())
        assert summary["volumes"][0]["effective_acceleration"] == round(480 / mask.sum(), 3)
    assert np.array_equal(volumes[0], volumes[1])


# --- samples ---------------------------------------------------------------------------------------------------------


def test_samples(scans: Path, tmp_path: Path, checkpoint: Path) -> None:
    """The image is that of the method, beside it lies the deviation, and each sample if asked for."""
    words = ("reconstruct", scans / "file0.h5", "--checkpoint", checkpoint, "--samples", "3", "--views", "2")
    assert run(*words, "--output", tmp_path / "out") == 0
    assert run(*words, "--output", tmp_path / "kept", "--keep-samples") == 0
    scan = read_scan(scans / "file0.h5")
    method = make_method(
        "hybrid",
        load_model(str(checkpoint)),
        InferenceSettings(views=2),
        samples=3,
    )
    expected = sample_volume(scan, LINES, method)
    assert np.array_equal(expected.magnitude, reconstruct_volume(scan, LINES, method))
    for folder, names in (
        ("out", ["reconstruction", "uncertainty"]),
        ("kept", ["reconstruction", "samples", "uncertainty"]),
    ):
        path = tmp_path / folder / "reconstructions" / "file0.h5"
        with h5py.File(path) as file:
            assert sorted(file) == names and all(file[name].dtype == np.float32 for name in names)
            assert file.attrs["method"] == "hybrid" and file.attrs["uncertainty_factor"] == expected.factor
        assert np.array_equal(read_dataset(path, "reconstruction"), expected.magnitude)
        assert np.array_equal(read_dataset(path, "uncertainty"), expected.std)
        assert (tmp_path / folder / "panels" / "file0.png").is_file()
    samples = read_dataset(tmp_path / "kept" / "reconstructions" / "file0.h5", "samples")
    assert samples.shape == (2, 3, 24, 20) and np.array_equal(samples, expected.samples)
    assert expected.std.min() > 0 and samples.std(axis=1).max() > 0
    summary = json.loads((tmp_path / "kept" / "reconstruct.json").read_text())
    assert summary["samples"] == 3 and summary["method"] == "hybrid"
    assert summary["inference"]["sweeps"] == 1 and summary["inference"]["views"] == 2
    assert summary["sampling"]["sweeps"] == 0 and summary["sampling"]["views"] == 2


def test_seed_of_samples(scans: Path, tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("reconstruct", scans / "file0.h5", "--checkpoint", checkpoint, "--samples", "2", "--views", "1")
    found = {}
    for name, seed in (("usual", ()), ("zero", ("--seed", "0")), ("one", ("--seed", "1"))):
        assert run(*words, "--output", tmp_path / name, *seed) == 0
        found[name] = read_dataset(tmp_path / name / "reconstructions" / "file0.h5", "uncertainty")
    assert np.array_equal(found["usual"], found["zero"]) and not np.array_equal(found["usual"], found["one"])
    assert json.loads((tmp_path / "one" / "reconstruct.json").read_text())["seed"] == 1
    assert "was made with seed 1, not 0" in error_of(capsys, *words, "--output", tmp_path / "one", "--resume")


def test_picture_of_samples_shows_their_deviation(scans: Path, tmp_path: Path, checkpoint: Path) -> None:
    words = ("reconstruct", scans / "file0.h5", "--checkpoint", checkpoint, "--views", "1")
    assert run(*words, "--output", tmp_path / "one") == 0
    assert run(*words, "--output", tmp_path / "two", "--samples", "2") == 0
    kspace = read_dataset(scans / "file0.h5", "kspace")
    blind = write_scan(tmp_path / "blind" / "file0.h5", kspace=kspace, mask=LINES, reconstruction_esc=None)
    assert run("reconstruct", blind, *words[2:], "--output", tmp_path / "three", "--samples", "2") == 0
    sizes, pictures = {}, {}
    for folder in ("one", "two", "three"):
        with Image.open(tmp_path / folder / "panels" / "file0.png") as picture:
            sizes[folder], pictures[folder] = picture.size, np.asarray(picture.convert("L"))
    assert sizes["one"] == sizes["two"] and not np.array_equal(pictures["one"], pictures["two"])
    assert sizes["three"][1] < sizes["two"][1] and sizes["three"][0] == pytest.approx(sizes["two"][0], rel=0.1)


def test_volume_of_samples_without_their_deviation(scans: Path, tmp_path: Path, checkpoint: Path) -> None:
    words = ("--method", "samples", "--checkpoint", checkpoint, "--views", "1")
    assert run("reconstruct", scans / "file0.h5", "--output", tmp_path / "out", *words) == 0
    with h5py.File(tmp_path / "out" / "reconstructions" / "file0.h5") as file:
        assert list(file) == ["reconstruction"] and file.attrs["method"] == "samples"
    assert json.loads((tmp_path / "out" / "reconstruct.json").read_text())["inference"]["sweeps"] == 0


def test_temperature_is_that_of_the_weights_unless_given(scans: Path, tmp_path: Path) -> None:
    fitted, plain = tmp_path / "weights" / "fitted.safetensors", tmp_path / "weights" / "plain.safetensors"
    save_weights(fitted, small_model(), {"temperature": 0.25})
    save_weights(plain, small_model(), {})
    found, deviations = {}, {}
    for name, words in {
        "fitted": ("--checkpoint", fitted),
        "plain": ("--checkpoint", plain),
        "given": ("--checkpoint", fitted, "--temperature", "0.5"),
        "same": ("--checkpoint", plain, "--temperature", "0.25"),
    }.items():
        options = ("--samples", "3", "--views", "1", "--output", tmp_path / name)
        assert run("reconstruct", scans / "file0.h5", *words, *options) == 0
        found[name] = json.loads((tmp_path / name / "reconstruct.json").read_text())["inference"]["temperature"]
        deviations[name] = read_dataset(tmp_path / name / "reconstructions" / "file0.h5", "uncertainty").mean()
    assert found == {"fitted": 0.25, "plain": 1.0, "given": 0.5, "same": 0.25}
    assert deviations["fitted"] == deviations["same"] < deviations["given"] < deviations["plain"]


@pytest.mark.parametrize("value", ["warm", -1.0, None])
def test_temperature_of_the_weights_that_makes_no_sense(
    value: object, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "weights" / "small.safetensors"
    save_weights(path, small_model(), {"temperature": value})
    text = error_of(capsys, "reconstruct", scans, "--output", tmp_path / "out", "--checkpoint", path)
    assert text.startswith("inference settings: temperature ")


@pytest.mark.parametrize("method", ["hybrid", "samples", "amortized"])
def test_summary_says_how_samples_were_drawn(method: str, scans: Path, tmp_path: Path, checkpoint: Path) -> None:
    """Drawing them again with the settings in reconstruct.json gives the same."""
    words = ("--method", method, "--checkpoint", checkpoint, "--samples", "2", "--sweeps", "1", "--keep-samples")
    views = () if method == "amortized" else ("--views", "2")
    assert run("reconstruct", scans / "file0.h5", "--output", tmp_path / "out", *views, *words) == 0
    summary = json.loads((tmp_path / "out" / "reconstruct.json").read_text())
    settings = from_dict(InferenceSettings, summary["sampling"], "summary")
    kspace = torch.from_numpy(read_dataset(scans / "file0.h5", "kspace"))
    drawn = sample(load_model(str(checkpoint)), kspace, torch.from_numpy(LINES), 2, None, settings).abs().numpy()
    samples = read_dataset(tmp_path / "out" / "reconstructions" / "file0.h5", "samples")
    np.testing.assert_allclose(samples, drawn.swapaxes(0, 1), atol=1e-5 * drawn.max())


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (("--samples", "2"), ("--samples", "3"), "was made with samples 2, not 3; choose another --output"),
        (("--samples", "2"), (), "was made with samples 2, not None"),
        ((), ("--samples", "2"), "was made with samples None, not 2"),
        (("--samples", "2"), ("--samples", "2", "--temperature", "0.5"), "was made with inference {"),
        (("--rounds", "1"), ("--rounds", "2"), "was made with inference {"),
        (("--views", "1"), ("--views", "2"), "was made with inference {"),
    ],
)
def test_resume_refuses_other_samples(
    before: tuple[str, ...],
    after: tuple[str, ...],
    message: str,
    scans: Path,
    tmp_path: Path,
    checkpoint: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ("reconstruct", scans / "file0.h5", "--output", tmp_path / "out", "--checkpoint", checkpoint)
    assert run(*words, *before) == 0
    text = error_of(capsys, *words, *after, "--resume")
    assert text.startswith(f"{tmp_path / 'out' / 'reconstruct.json'}: ") and message in text
    assert run(*words, *before, "--resume") == 0
    assert capsys.readouterr().out == "file0.h5: already there\n"


def test_resume_refuses_another_axis(scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scan = write_scan(tmp_path / "complete" / "file0.h5")
    words = ("reconstruct", scan, "--output", tmp_path / "out", *ZERO_FILLED)
    assert run(*words) == 0
    assert "was made with undersampling {" in error_of(capsys, *words, "--axis", "H", "--resume")
    assert run(*words, "--axis", "W", "--resume") == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--samples", "1"), "--samples 1: a standard deviation needs at least 2"),
        (("--samples", "-3"), "--samples -3: a standard deviation needs at least 2"),
        (
            ("--samples", "4", "--method", "tv"),
            "--samples: tv does not support posterior sampling; choose --method hybrid or amortized or samples",
        ),
        (
            ("--samples", "4", "--method", "pnp"),
            "--samples: pnp does not support posterior sampling; choose --method hybrid or amortized",
        ),
        (("--method", "pnp", "--tau", "1.5"), "pnp settings: tau 1.5 must be in [0, 1]: above 1, the prior would have"),
        (("--method", "pnp", "--gamma", "0"), "pnp settings: gamma 0.0 must be above 0"),
        (("--method", "pnp", "--iterations", "0"), "pnp settings: iterations 0 must be at least 1"),
        (("--keep-samples",), "--keep-samples and --temperature: need --samples; add it, or leave them out"),
        (("--temperature", "0.5"), "--keep-samples and --temperature: need --samples; add it, or leave them out"),
        (("--samples", "2", "--temperature", "-1"), "inference settings: temperature -1.0 must be at least 0"),
        (("--samples", "2", "--temperature", "nan"), "inference settings: temperature is nan; it must"),
        (("--rounds", "0", "--views", "3"), "inference settings: views 3 must be 1 to 8, and rounds 0 at least 1"),
        (("--views", "9"), "inference settings: views 9 must be 1 to 8"),
        (("--mask-type", "radial", "--acceleration", "0.5"), "acceleration 0.5 is not a number of at least 1"),
        (("--mask-type", "radial", "--acceleration", "nan"), "acceleration nan is not a number of at least 1"),
        (("--mask-type", "radial", "--acceleration", "inf"), "acceleration inf is not a number of at least 1"),
        (("--mask-type", "spiral", "--acceleration", "1.1"), "the corners of k-space: "),
        (("--mask-type", "partial_fourier", "--acceleration", "2"), "lower the acceleration to at most "),
        (("--mask-type", "poisson", "--acceleration", "1.1"), "acceleration is 1, or at least 1.3"),
        (("--center-fraction", "0.1"), "--center-fraction: needs --mask-type"),
        (("--axis", "H"), "--axis: needs --mask-type"),
        (("--step", "0.1"), "rule 'gauss-newton' finds its own step; leave out step"),
    ],
)
def test_options_that_do_not_go_together(
    options: tuple[str, ...], message: str, tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scan = write_scan(tmp_path / "file0.h5")
    text = error_of(capsys, "reconstruct", scan, "--output", tmp_path / "out", "--checkpoint", checkpoint, *options)
    assert message in text
    assert not (tmp_path / "out").exists()


def test_undersampled_scans_are_not_undersampled_again(
    scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--output", tmp_path / "out", "--method", "zero-filled", "--mask-type", "radial")
    text = error_of(capsys, "reconstruct", scans / "file0.h5", *words)
    assert text == "file0.h5: is already undersampled (it has a mask); leave out --mask-type"


def test_weights_are_not_needed_for_the_other_methods(
    scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--output", tmp_path / "out", "--method", "zero-filled")
    text = error_of(capsys, "reconstruct", scans, *words, "--checkpoint", "nowhere")
    assert text == (
        "--checkpoint: does not apply to --method zero-filled (it applies to hybrid, amortized, samples, pnp); "
        "leave it out"
    )
    assert run("reconstruct", scans, *words) == 0


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
    hint = "add --resume to continue, --overwrite to replace them, or choose another --output"
    assert error_of(capsys, *words) == f"{output}: has results already (reconstruct.json); {hint}"
    assert "--overwrite and --resume: contradict" in error_of(capsys, *words, "--resume", "--overwrite")
    assert kept.stat().st_mtime_ns == before[0]
    assert run(*words, "--overwrite") == 0  # all is done again
    assert kept.stat().st_mtime_ns != before[0]


def test_input_is_left_alone_when_the_output_folder_is_its_own(scans: Path) -> None:
    before = {path: path.read_bytes() for path in scans.iterdir()}
    assert run("reconstruct", scans, "--output", scans, "--method", "zero-filled") == 0
    assert {path: path.read_bytes() for path in scans.iterdir() if path.suffix == ".h5"} == before


def test_bad_scan_among_good_ones_keeps_what_is_finished(
    scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truncate(scans / "file1.h5")
    kspace = read_dataset(scans / "file2.h5", "kspace")
    kspace[1, 2, 3] = np.nan  # which shows only when it is read
    write_scan(scans / "file2.h5", kspace=kspace, mask=LINES)
    out, words = tmp_path / "out", ("reconstruct", scans, "--output", tmp_path / "out", "--method", "zero-filled")
    assert run(*words) == 1
    shown = capsys.readouterr().err
    reasons = [
        f"{scans / 'file1.h5'}: truncated or not an HDF5 file",
        f"{scans / 'file2.h5'}: dataset 'kspace' holds NaN or infinite values",
    ]
    assert all(f"mrihvae: error: {reason}" in shown for reason in reasons)
    assert shown.endswith(f"1 of 3 reconstructed, 2 failed: {out / 'reconstructions'}; next: mrihvae report {out}\n")
    assert files_below(out) == ["panels/file0.png", "reconstruct.json", "reconstructions/file0.h5"]
    failed = json.loads((out / "reconstruct.json").read_text())["failed"]
    assert [one["file"] for one in failed] == ["file1.h5", "file2.h5"]
    assert all(one["error"].startswith(reason) for one, reason in zip(failed, reasons, strict=True))
    for name in ("file1.h5", "file2.h5"):  # once they are mended
        write_scan(scans / name, kspace=np.where(LINES, complex_normal((2, 24, 20)), 0), mask=LINES)
    assert run(*words, "--resume") == 0
    assert json.loads((out / "reconstruct.json").read_text())["failed"] == []


def test_folder_without_a_good_scan(scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in scans.iterdir():
        write_scan(file)  # fully sampled, which no option undersamples
    assert run("reconstruct", scans, "--output", tmp_path / "out", "--method", "zero-filled") == 2
    *lines, last = capsys.readouterr().err.splitlines()
    assert [f"file{k}.h5: k-space is fully sampled and has no mask" in line for k, line in enumerate(lines)] == 3 * [
        True
    ]
    assert last == f"mrihvae: error: {scans}: none of its 3 files was reconstructed; the lines above say why"
    assert not (tmp_path / "out").exists()


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
        what = "it" if output.name == "file" else tmp_path / "file"
        assert text == f"{output}: cannot be written ({what} is a file); choose another --output"
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


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_has_a_step_that_suits_the_shipped_weights(rule: str) -> None:
    model, kspace = load_model("default"), small_kspace(1, 64, 64)
    mask = torch.arange(64) % 4 == 0
    mask[28:36] = True
    once = reconstruct(
        model, kspace, mask, None, InferenceSettings(views=1, rounds=1, refinement=RefinementSettings(sweeps=0))
    )
    image = ifft2c(kspace)
    found = reconstruct(
        model,
        kspace,
        mask,
        None,
        InferenceSettings(views=1, rounds=1, refinement=RefinementSettings(sweeps=8, rule=rule)),
    )
    error, before = (float((x - image).abs().square().mean()) for x in (found, once))
    assert error < 1.1 * before


def test_volumes_that_are_not_finite_are_not_written(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scan = write_scan(tmp_path / "file0.h5")
    words = ("reconstruct", scan, "--output", tmp_path / "out", "--checkpoint", checkpoint, "--mask-type", "random")
    text = error_of(capsys, *words, "--rule", "gradient", "--step", "1e8", "--sweeps", "30")
    assert f"{scan}: the reconstruction is not finite; lower --step" in text
    assert not (tmp_path / "out").exists()
