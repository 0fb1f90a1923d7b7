"""`mrihvae restore`: its files, what it takes and gives, --resume, and what stands in its way."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

import mrihvae
from mrihvae.model.weights import load_model, save_weights
from mrihvae.physics.degradations import Blur, Inpainting, PaddedBlur, SuperResolution, denoising
from mrihvae.physics.kernels import gaussian_kernel, sinc_upsample, transfer_of
from mrihvae.physics.operators import Operator
from mrihvae.pnp.loop import Restored
from mrihvae.pnp.recommended import RECOMMENDED
from mrihvae.pnp.restore import restore_images
from mrihvae.pnp.settings import PnPSettings
from mrihvae.recon import restoration as restored_volumes
from tests.support.files import error_of, run, truncate
from tests.support.small import SMALL, phantom, small_model

AFFINE = np.array([[0.9, -0.4, 0.1, -80], [0.4, 0.85, -0.3, 20], [0.05, 0.3, 4.0, 7], [0, 0, 0, 1]])
FAST = ("--views", "1", "--iterations", "1", "--precision", "float32")
KEEPING = ("--gamma", "100", "--relaxation", "1", "--result", "image")  # the data say all
DEBLUR = ("--task", "deblur", "--kernel-width", "1")


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def stack(slices: int = 3, height: int = 24, width: int = 20, noise: float = 0.05) -> np.ndarray:
    """Draw noisy phantoms with some unit: float32 (H, W, slices)."""
    images = np.stack([phantom(height, width, k) for k in range(slices)], axis=-1)
    white = np.random.default_rng(0).standard_normal(images.shape).astype(np.float32)
    return 200 * (images + np.float32(noise) * white)


def write(path: Path, array: np.ndarray) -> Path:
    """Write a NIfTI file or a picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if ".nii" in path.name:
        nibabel.save(nibabel.Nifti1Image(array, AFFINE), path)
    else:
        Image.fromarray(array).save(path)
    return path


def read(path: Path) -> np.ndarray:
    """Read the array of a NIfTI file or a picture."""
    if ".nii" in path.name:
        return np.asanyarray(nibabel.load(path).dataobj)
    with Image.open(path) as picture:
        return np.asarray(picture)


def slices_of(array: np.ndarray) -> torch.Tensor:
    """Turn (H, W, slices) into (slices, H, W)."""
    return torch.from_numpy(np.moveaxis(array, -1, 0).copy())


def result_of(found: Restored, settings: PnPSettings) -> torch.Tensor:
    """Take the image that settings ask for."""
    return found.decoded if settings.result == "decoded" else found.image


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a small untrained network with r for degraded images."""
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_weights(path, small_model(settings=dataclasses.replace(SMALL, degraded=True)), {})
    return path


@pytest.fixture
def words(tmp_path: Path, checkpoint: Path) -> tuple[str | Path, ...]:
    """Options that all calls have."""
    return ("--output", tmp_path / "out", "--checkpoint", checkpoint, *FAST)


# --- results ---------------------------------------------------------------------------------------------------------


def test_denoise_then_look(
    tmp_path: Path, words: tuple[str | Path, ...], checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    volume = write(tmp_path / "a.nii.gz", stack(height=64, width=48))
    assert run("restore", volume, "--task", "denoise", *words) == 0
    line = capsys.readouterr().out
    assert line.startswith("a.nii.gz: 3 slices, noise ") and " (estimated), " in line and line.count("\n") == 1
    output = tmp_path / "out"
    assert files_below(output) == ["a.nii.gz", "panels/a.png", "restore.json"]
    restored = nibabel.load(output / "a.nii.gz")
    assert restored.shape == (64, 48, 3) and restored.get_data_dtype() == np.float32
    np.testing.assert_allclose(restored.affine, AFFINE, atol=1e-5)
    summary = json.loads((output / "restore.json").read_text())
    assert summary["mrihvae"] == mrihvae.__version__ and summary["task"] == "denoise"
    assert "median" in summary["noise"] and len(summary["weights"]) == 12
    assert summary["settings"] == {"views": 1, "iterations": 1, "precision": "float32"}
    (file,) = summary["files"]
    (found,) = file["volumes"]
    assert file["slices"] == 3 and file["seconds_per_slice"] > 0 and file["output"] == "a.nii.gz"
    assert found["noise"] == pytest.approx(10, rel=0.1) and found["relative"] == pytest.approx(0.05, rel=0.5)
    assert found["diverged"] == [] and found["left"] == [] and found["iterations"] == [1, 1, 1]
    settings = PnPSettings(**found["settings"])
    gamma = {value.gamma for value in RECOMMENDED["data"]["denoise"].values()}
    assert settings.views == settings.iterations == 1 and settings.gamma in gamma
    expected = restore_images(
        load_model(str(checkpoint)), denoising(), slices_of(read(volume)), found["noise"], settings
    )
    np.testing.assert_allclose(slices_of(read(output / "a.nii.gz")), result_of(expected, settings), atol=1e-3)
    with Image.open(output / "panels" / "a.png") as picture:
        assert picture.format == "PNG" and picture.width > 2 * picture.height > 200
        gray = np.asarray(picture.convert("L"))
    columns = [gray[:, k * gray.shape[1] // 4 : (k + 1) * gray.shape[1] // 4] for k in range(3)]
    assert all(column.std() > 5 for column in columns)


def kernel_file(folder: Path) -> Path:
    np.save(folder / "kernel.npy", np.full((3, 1), 7.0))
    return folder / "kernel.npy"


TASKS: dict[str, tuple[Callable[[Path], tuple[str | Path, ...]], Callable[[tuple[int, int]], Operator]]] = {
    "round": (lambda _: DEBLUR, lambda shape: Blur(transfer_of(gaussian_kernel(1.0), shape))),
    "long": (
        lambda _: ("--task", "deblur", "--kernel-width", "1.5", "0.5", "--kernel-angle", "-30"),
        lambda shape: Blur(transfer_of(gaussian_kernel((1.5, 0.5), -np.pi / 6), shape)),
    ),
    "file": (
        lambda folder: ("--task", "deblur", "--kernel", kernel_file(folder)),
        lambda shape: Blur(transfer_of(torch.full((3, 1), 1 / 3), shape)),
    ),
    "zero": (lambda _: (*DEBLUR, "--boundary", "zero"), lambda _: PaddedBlur(gaussian_kernel(1.0)[None])),
    "twice": (
        lambda _: ("--task", "superresolve", "--factor", "2"),
        lambda shape: SuperResolution(transfer_of(gaussian_kernel(0.8), tuple(2 * n for n in shape)), 2),
    ),
    "four times": (
        lambda _: ("--task", "superresolve", "--factor", "4", "--kernel-width", "1.2"),
        lambda shape: SuperResolution(transfer_of(gaussian_kernel(1.2), tuple(4 * n for n in shape)), 4),
    ),
}


@pytest.mark.parametrize("name", TASKS)
def test_operators(name: str, tmp_path: Path, words: tuple[str | Path, ...], checkpoint: Path) -> None:
    """The command is `restore_images` with the operator that its options say."""
    array = stack()
    options, make = TASKS[name]
    assert run("restore", write(tmp_path / "a.nii", array), *options(tmp_path), "--noise", "8", *words) == 0
    settings = PnPSettings(
        **json.loads((tmp_path / "out/restore.json").read_text())["files"][0]["volumes"][0]["settings"]
    )
    model, operator = load_model(str(checkpoint)), make((24, 20))
    expected = result_of(restore_images(model, operator, slices_of(array), 8.0, settings), settings)
    found = slices_of(read(tmp_path / "out" / "a.nii"))
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("factor", [2, 4])
def test_finer_images_lie_where_the_coarse_ones_did(factor: int, tmp_path: Path, words: tuple[str | Path, ...]) -> None:
    """A point of the phantom has the same place in the patient by either affine."""
    fine = np.zeros((64, 64, 2), np.float32)
    fine[24, 40] = fine[8:40, 16] = 100
    wide = transfer_of(gaussian_kernel(0.4 * factor), (64, 64))
    data = np.moveaxis(SuperResolution(wide, factor).forward(slices_of(fine)).numpy(), 0, -1)
    options = ("--task", "superresolve", "--factor", factor, "--noise", "0", *KEEPING)
    assert run("restore", write(tmp_path / "a.nii", data), *options, *words) == 0
    source, finer = nibabel.load(tmp_path / "a.nii"), nibabel.load(tmp_path / "out" / "a.nii")
    found = np.asanyarray(finer.dataobj)
    assert found.shape == (64, 64, 2)
    zooms = [source.header.get_zooms()[k] / (factor, factor, 1)[k] for k in range(3)]
    np.testing.assert_allclose(finer.header.get_zooms(), zooms, rtol=1e-5)
    for point in ((24, 40, 1), (8, 16, 0)):
        coarse = [point[0] / factor, point[1] / factor, point[2], 1]
        np.testing.assert_allclose(finer.affine @ (*point, 1), source.affine @ coarse, atol=1e-4)
    again = SuperResolution(wide, factor).forward(slices_of(found))
    np.testing.assert_allclose(again, slices_of(data), atol=2)  # seen as the data are, it is the data


def test_known_pixels_by_mask_and_by_value(tmp_path: Path, words: tuple[str | Path, ...], checkpoint: Path) -> None:
    array, known = stack(), np.random.default_rng(1).random((24, 20, 3)) < 0.7
    model = load_model(str(checkpoint))
    write(tmp_path / "mask.nii", known.astype(np.uint8))
    write(tmp_path / "mask.png", 255 * known[..., 0].astype(np.uint8))
    cases: dict[str, tuple[np.ndarray, np.ndarray, tuple[str | Path, ...]]] = {
        "each": (array, known, ("--mask", tmp_path / "mask.nii")),
        "one": (array, np.repeat(known[..., :1], 3, axis=-1), ("--mask", tmp_path / "mask.png")),
        "nan": (np.where(known, array, np.nan), known, ("--missing", "nan")),
        "value": (np.where(known, array, -7.5), known, ("--missing", "-7.5")),
        "both": (
            np.where(known, array, 0),
            known & known[..., :1],
            ("--missing", "0", "--mask", tmp_path / "mask.png"),
        ),
        "under": (np.where(known, array, np.nan), known, ("--mask", tmp_path / "mask.nii")),
    }
    for name, (data, where, options) in cases.items():
        file = write(tmp_path / f"{name}.nii", data.astype(np.float32))
        assert run("restore", file, "--task", "inpaint", *options, "--noise", "4", *words, "--overwrite") == 0
        record = json.loads((tmp_path / "out/restore.json").read_text())["files"][0]["volumes"][0]
        operator = Inpainting(slices_of(where))
        filled = slices_of(np.where(where, array, 0))
        settings = PnPSettings(**record["settings"])
        expected = result_of(restore_images(model, operator, filled, 4.0, settings), settings)
        np.testing.assert_allclose(slices_of(read(tmp_path / "out" / file.name)), expected, atol=1e-3, err_msg=name)
    told = json.loads((tmp_path / "out/restore.json").read_text())["degradation"]
    assert told == {"mask": f"mask.nii {hashlib.sha256((tmp_path / 'mask.nii').read_bytes()).hexdigest()[:12]}"}


@pytest.mark.parametrize(("depth", "bits"), [(np.uint8, 8), (np.uint16, 16)])
def test_pictures_keep_their_bit_depth(depth: type, bits: int, tmp_path: Path, words: tuple[str | Path, ...]) -> None:
    array = (np.clip(stack(1)[..., 0] / 250, 0, 1) * (2**bits - 1)).astype(depth)
    write(tmp_path / "in" / "a.png", array)
    write(tmp_path / "in" / "b.tif", array)
    assert run("restore", tmp_path / "in", "--task", "denoise", *KEEPING, *words) == 0
    assert files_below(tmp_path / "out") == ["a.png", "b.png", "panels/a.png", "panels/b.png", "restore.json"]
    first, second = (read(tmp_path / "out" / name) for name in ("a.png", "b.png"))
    assert np.array_equal(first, array) and np.array_equal(second, array)
    assert (tmp_path / "out" / "a.png").read_bytes()[24] == bits  # pillow before 10.3 reads 16 bits as int32
    words = (*words, "--task", "superresolve", "--factor", "2")
    assert run("restore", tmp_path / "in" / "a.png", *words, "--overwrite") == 0
    assert read(tmp_path / "out" / "a.png").shape == (48, 40)
    assert (tmp_path / "out" / "a.png").read_bytes()[24] == bits


def test_further_volumes_have_noise_of_their_own(
    tmp_path: Path, words: tuple[str | Path, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    array = np.stack([stack(2, 64, 64, noise) for noise in (0.02, 0.1)], axis=-1)
    assert run("restore", write(tmp_path / "a.nii", array), "--task", "denoise", *words) == 0
    assert read(tmp_path / "out" / "a.nii").shape == (64, 64, 2, 2)
    assert "a.nii: 4 slices, noise " in (line := capsys.readouterr().out) and " to " in line
    volumes = json.loads((tmp_path / "out/restore.json").read_text())["files"][0]["volumes"]
    assert [volume["noise"] for volume in volumes] == [pytest.approx(4, rel=0.1), pytest.approx(20, rel=0.1)]
    for k in range(2):
        assert (
            run("restore", write(tmp_path / f"{k}.nii", array[..., k]), "--task", "denoise", *words, "--overwrite") == 0
        )
        alone = read(tmp_path / "out" / f"{k}.nii")
        np.testing.assert_allclose(read(tmp_path / "out" / "a.nii")[..., k], alone, atol=1e-3)


def test_image_without_slices(tmp_path: Path, words: tuple[str | Path, ...]) -> None:
    assert (
        run("restore", write(tmp_path / "a.nii", stack(1)[..., 0]), "--task", "superresolve", "--factor", "2", *words)
        == 0
    )
    assert nibabel.load(tmp_path / "out" / "a.nii").shape == (48, 40)


@pytest.mark.parametrize(
    "options",
    [("denoise",), ("deblur", "--kernel-width", "1", "--boundary", "zero"), ("superresolve", "--factor", "2")],
)
def test_batches_make_no_difference(options: tuple[str, ...], tmp_path: Path, words: tuple[str | Path, ...]) -> None:
    file = write(tmp_path / "a.nii", stack(5) * np.array([1, 3, 0.2, 1, 10], np.float32))
    found = []
    for size in ("1", "3"):
        assert (
            run("restore", file, "--task", *options, "--views", "2", *words, "--batch-size", size, "--overwrite") == 0
        )
        found.append(read(tmp_path / "out" / "a.nii"))
    np.testing.assert_allclose(found[1], found[0], atol=1e-5 * found[0].max())


@pytest.mark.parametrize("task", ["denoise", "superresolve", "inpaint"])
def test_empty_slices_are_left_as_they_are(
    task: str, tmp_path: Path, words: tuple[str | Path, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    array = stack(5)
    array[..., 0], array[..., 2] = 0, 3
    array[..., 4] = 0
    array[5, 5, 4] = 1  # one bright pixel
    options = {"superresolve": ("--factor", "2"), "inpaint": ("--missing", "0")}.get(task, ())
    assert run("restore", write(tmp_path / "a.nii", array), "--task", task, *options, *words) == 0
    found = slices_of(read(tmp_path / "out" / "a.nii"))
    record = json.loads((tmp_path / "out/restore.json").read_text())["files"][0]["volumes"][0]
    if task == "superresolve":
        assert record["left"] == [0, 2]  # interpolated, one pixel is many
        np.testing.assert_allclose(found[:3:2], sinc_upsample(slices_of(array), 2)[:3:2], atol=1e-4)
    elif task == "inpaint":
        assert record["left"] == [0, 2, 4]
        assert not found[0].any() and bool((found[2] == 3).all())
        assert bool((found[4] - 1).abs().max() < 1e-3) or float(found[4, 5, 5]) == 1
    else:
        assert record["left"] == [0, 2, 4] and torch.equal(found[::2], slices_of(array)[::2])
    assert f", {len(record['left'])} unchanged" in capsys.readouterr().out
    alone = write(tmp_path / "b.nii", array[..., [1, 3]])
    assert run("restore", alone, "--task", task, *options, *words, "--noise", record["noise"], "--overwrite") == 0
    np.testing.assert_allclose(found[1::2], slices_of(read(tmp_path / "out" / "b.nii")), atol=1e-2)


def test_negative_intensities(tmp_path: Path, words: tuple[str | Path, ...]) -> None:
    """A negative image is restored as such, and is no black picture."""
    array = stack(2)
    assert run("restore", write(tmp_path / "a.nii", array - 200), "--task", "denoise", *KEEPING, *words) == 0
    found = read(tmp_path / "out" / "a.nii")
    np.testing.assert_allclose(found, array - 200, atol=0.01)
    with Image.open(tmp_path / "out" / "panels" / "a.png") as picture:
        gray = np.asarray(picture.convert("L"))
    assert gray[gray.shape[0] // 2, 20 : gray.shape[1] // 4].std() > 20


@pytest.mark.parametrize("result", ["decoded", "image"])
def test_slices_that_run_away_or_do_not_settle(
    result: str,
    tmp_path: Path,
    words: tuple[str | Path, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """They are told of; one that ran away at once is what the loop began with."""

    def run_away(model: object, operator: object, data: torch.Tensor, *_: object) -> Restored:
        decoded = torch.stack([data[0] + 1, *data[1:] + 2])
        begun = torch.tensor([0, *[2] * (len(data) - 1)])
        which = torch.arange(len(data))
        return Restored(decoded, data + 1, iterations=begun, diverged=which < 2, unsettled=which == 2)

    monkeypatch.setattr(restored_volumes, "restore_images", run_away)
    file = write(tmp_path / "a.nii", stack(3))
    assert run("restore", file, "--task", "denoise", *words, "--result", result, "--overwrite") == 0
    told = (
        "2 diverged and keep the result of the previous iteration, 1 did not converge: use fewer --iterations, or lower"
    )
    assert told in capsys.readouterr().out
    record = json.loads((tmp_path / "out/restore.json").read_text())["files"][0]["volumes"][0]
    assert record["diverged"] == [0, 1] and record["unsettled"] == [2] and record["iterations"] == [0, 2, 2]
    added = np.array([1, 2, 2] if result == "decoded" else [1, 1, 1], np.float32)
    np.testing.assert_allclose(read(tmp_path / "out" / "a.nii"), stack(3) + added, atol=1e-4)


def test_settings_that_are_given_replace_recommended_ones(tmp_path: Path, words: tuple[str | Path, ...]) -> None:
    file = write(tmp_path / "a.nii", stack(1))
    given = ("--gamma", "0.2", "--tau", "0.5", "0.6", "0.7", "--encoder", "complete", "--result", "image")
    assert run("restore", file, "--task", "denoise", *words, *given) == 0
    summary = json.loads((tmp_path / "out/restore.json").read_text())
    settings = summary["files"][0]["volumes"][0]["settings"]
    assert settings["gamma"] == 0.2 and settings["tau"] == [0.5, 0.6, 0.7] and settings["encoder"] == "complete"
    assert run("restore", file, "--task", "denoise", *words, *given, "--resume") == 0
    assert run("restore", file, "--task", "denoise", *words, "--tau", "0.9", "--tau-finest", "0.5", "--overwrite") == 0
    settings = json.loads((tmp_path / "out/restore.json").read_text())["files"][0]["volumes"][0]["settings"]
    assert settings["tau"] == 0.9 and settings["tau_finest"] == 0.5


# --- an earlier call -------------------------------------------------------------------------------------------------


def test_resume_leaves_out_finished_files(
    tmp_path: Path, words: tuple[str | Path, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    for k in range(3):
        write(tmp_path / "in" / f"{k}.nii", stack(2) + k)
    words = ("restore", tmp_path / "in", *DEBLUR, *words)
    assert run(*words) == 0
    output = tmp_path / "out"
    before = (output / "0.nii").stat().st_mtime_ns
    (output / "1.nii").unlink()
    capsys.readouterr()
    assert run(*words, "--resume") == 0
    told = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[1].split(",")[0] for line in told] == ["already there", "2 slices", "already there"]
    assert (output / "0.nii").stat().st_mtime_ns == before and (output / "1.nii").is_file()
    assert [one["file"] for one in json.loads((output / "restore.json").read_text())["files"]] == [
        "0.nii",
        "1.nii",
        "2.nii",
    ]
    text = error_of(capsys, *words, "--resume", "--kernel-width", "1.5")
    assert text.startswith(f"{output / 'restore.json'}: was made with degradation ") and "choose another --out" in text
    for options in (("--noise", "3"), ("--gamma", "0.3"), ("--tau", "0.5", "0.6", "0.7")):
        assert "was made with " in error_of(capsys, *words, "--resume", *options)
    hint = "add --resume to continue, --overwrite to replace them, or choose another --output"
    assert error_of(capsys, *words) == f"{output}: has results already (restore.json); {hint}"
    assert run(*words, "--overwrite") == 0
    assert (output / "0.nii").stat().st_mtime_ns != before
    (output / "restore.json").write_text("[]")
    assert "not a summary of this command" in error_of(capsys, *words, "--resume")


# --- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("deblur",), "--task deblur: needs --kernel-width or --kernel; add it"),
        (("superresolve",), "--task superresolve: needs --factor; add it"),
        (("inpaint",), "--task inpaint: needs --mask or --missing; add it"),
        (("denoise", "--factor", "2"), "--factor: only applies to --task superresolve, not denoise; leave it out"),
        (
            ("inpaint", "--missing", "0", "--kernel-width", "1"),
            "--kernel-width: only applies to --task deblur or superresolve",
        ),
        (("deblur", "--kernel-width", "1", "--missing", "0"), "--missing: only applies to --task inpaint, not deblur"),
        (("superresolve", "--factor", "2", "--boundary", "zero"), "--boundary: only applies to --task deblur"),
        (("denoise", "--mask", "mask.png"), "--mask: only applies to --task inpaint"),
        (("deblur", "--kernel-width", "1", "--kernel", "k.npy"), "--kernel-width and --kernel: give only one of them"),
        (("deblur", "--kernel-width", "0"), "--kernel-width 0.0: give one or two numbers above 0"),
        (("deblur", "--kernel-width", "1", "nan"), "--kernel-width 1.0 nan: give one or two numbers above 0"),
        (("deblur", "--kernel-width", "1", "2", "3"), "--kernel-width 1.0 2.0 3.0: give one or two numbers"),
        (("deblur", "--kernel-width", "1", "--kernel-angle", "20"), "--kernel-angle 20.0: must be a number, and needs"),
        (("deblur", "--kernel-width", "9"), "the kernel, 73 x 73, is larger than the image, 24 x 20; give a smaller"),
        (("deblur", "--kernel", "nowhere.npy"), "nowhere.npy: not readable as a .npy array"),
        (("inpaint", "--mask", "nowhere.png"), "nowhere.png: file not found"),
        (("denoise", "--noise", "-1"), "--noise -1.0: must be at least 0"),
        (("denoise", "--noise", "nan"), "--noise nan: must be at least 0"),
        (("denoise", "--batch-size", "0"), "--batch-size 0: must be at least 1"),
        (("denoise", "--iterations", "0"), "restoration settings: iterations 0 must be at least 1"),
        (("denoise", "--gamma", "nan"), "restoration settings: gamma is nan"),
        (("denoise", "--tau", "1.5"), "restoration settings: tau 1.5 must be in [0, 1]"),
        (("denoise", "--tau", "0.5", "0.6"), "2 numbers for 3 levels; give one, or one per level"),
        (("denoise", "--checkpoint", "nowhere"), "nowhere: neither shipped weights"),
        (("denoise", "--device", "nonsense"), "--device nonsense: cannot be used ("),
    ],
)
def test_options_that_make_no_sense(
    options: tuple[str, ...],
    message: str,
    tmp_path: Path,
    words: tuple[str | Path, ...],
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = write(tmp_path / "a.nii", stack())
    assert message in error_of(capsys, "restore", file, *words, "--task", *options)
    assert not (tmp_path / "out").exists()


def holed() -> np.ndarray:
    array = stack()
    array[3, 4, 1] = np.nan
    return array


@pytest.mark.parametrize(
    ("name", "array", "options", "message"),
    [
        ("a.nii", holed(), ("denoise",), "holds NaN or infinite values; with --task inpaint, --missing nan fills them"),
        ("a.nii", holed(), ("deblur", "--kernel-width", "1"), "holds NaN or infinite values; replace them"),
        (
            "a.nii",
            holed(),
            ("inpaint", "--missing", "0"),
            "holds NaN or infinite values; with --task inpaint, --missing",
        ),
        ("a.nii", stack() * np.inf, ("inpaint", "--missing", "nan"), "holds NaN or infinite values"),
        ("a.nii", stack() * np.nan, ("inpaint", "--missing", "nan"), "no pixel is marked as known"),
        ("a.nii", np.zeros((24, 20, 2), np.float32), ("denoise",), "every slice is constant or nearly all zero"),
        ("a.nii", np.ones((24, 20), np.float32), ("deblur", "--kernel-width", "1"), "every slice is constant"),
        (
            "a.nii",
            np.ones((1, 1), np.float32),
            ("denoise",),
            "1 x 1 pixels are too few for these weights; at least 4 x 4",
        ),
        ("a.png", np.ones((1, 1), np.uint8), ("superresolve", "--factor", "2"), "2 x 2 pixels are too few"),
        ("a.nii", stack(1, 40, 3), ("denoise",), "40 x 3 pixels are too few"),
        ("a.png", np.zeros((24, 20, 3), np.uint8), ("denoise",), "is in color (RGB)"),
        ("a.nii", stack(1), ("inpaint", "--mask", "MASK"), "a mask of 8 x 8 x 1 slices x 1 volumes for "),
        (
            "a.nii",
            stack(1) * (np.arange(20) % 2)[:, None].astype(np.float32),
            ("inpaint", "--missing", "0"),
            "give --noise",
        ),
    ],
)
def test_images_that_cannot_be_restored(
    name: str,
    array: np.ndarray,
    options: tuple[str, ...],
    message: str,
    tmp_path: Path,
    words: tuple[str | Path, ...],
    capsys: pytest.CaptureFixture[str],
) -> None:
    file, mask = write(tmp_path / name, array), write(tmp_path / "mask.png", np.ones((8, 8), np.uint8))
    given = [str(mask) if option == "MASK" else option for option in options]
    text = error_of(capsys, "restore", file, *words, "--task", *given)
    assert message in text and str(file) in text
    assert not (tmp_path / "out").exists()


def test_too_many_pixels(
    tmp_path: Path,
    words: tuple[str | Path, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = write(tmp_path / "a.nii", stack())
    monkeypatch.setattr(restored_volumes, "LARGEST", 400)
    text = error_of(capsys, "restore", file, "--task", "denoise", *words)
    assert text == f"{file}: 24 x 20 pixels are too many for one slice; cut it into parts"


def test_too_little_memory(
    tmp_path: Path,
    words: tuple[str | Path, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def no_memory(*_: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    file = write(tmp_path / "a.nii", stack())
    monkeypatch.setattr(restored_volumes, "restore_images", no_memory)
    text = error_of(capsys, "restore", file, "--task", "denoise", *words)
    assert text == f"{file}: too little memory for slices of 24 x 20; lower --batch-size"


def test_restoration_that_is_not_finite(
    tmp_path: Path,
    words: tuple[str | Path, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def burst(model: object, operator: object, data: torch.Tensor, *_: object) -> Restored:
        nothing = torch.full_like(data, torch.nan)
        ones = torch.ones(len(data), dtype=torch.int64)
        return Restored(nothing, nothing, iterations=ones, diverged=ones > 1, unsettled=ones > 1)

    monkeypatch.setattr(restored_volumes, "restore_images", burst)
    text = error_of(capsys, "restore", write(tmp_path / "a.nii", stack()), "--task", "denoise", *words)
    assert text.endswith("a.nii: the restoration is not finite; lower --gamma or --tau")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({}, (), "these weights have no posterior for degraded images; choose restoration, or encoder complete"),
        ({"real": True, "masked": False, "cascades": 0}, ("--encoder", "complete"), "these weights are for pictures"),
    ],
)
def test_weights_without_the_posterior(
    changes: dict[str, Any],
    options: tuple[str, ...],
    message: str,
    tmp_path: Path,
    words: tuple[str | Path, ...],
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = tmp_path / "weights" / "other.safetensors"
    save_weights(other, small_model(settings=dataclasses.replace(SMALL, **changes)), {})
    file = write(tmp_path / "a.nii", stack())
    text = error_of(capsys, "restore", file, "--task", "denoise", *words, "--checkpoint", other, *options)
    assert message in text and not (tmp_path / "out").exists()


def test_weights_for_scans_with_the_complete_encoder(tmp_path: Path, words: tuple[str | Path, ...]) -> None:
    other = tmp_path / "weights" / "other.safetensors"
    save_weights(other, small_model(), {})
    words = (*words, "--checkpoint", other, "--encoder", "complete")
    assert run("restore", write(tmp_path / "a.nii", stack()), "--task", "denoise", *words) == 0


def test_folders(tmp_path: Path, words: tuple[str | Path, ...], capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    words = ("--task", "denoise", *words)
    assert "empty: no image in it" in error_of(capsys, "restore", tmp_path / "empty", *words)
    assert "nowhere: file not found" in error_of(capsys, "restore", tmp_path / "nowhere", *words)
    file = write(tmp_path / "in" / "a.png", stack(1)[..., 0].clip(0, 255).astype(np.uint8))
    for given in (file, file.parent):
        text = error_of(capsys, "restore", given, *words, "--output", file.parent)
        assert text == f"--output {file.parent}: contains the input a.png; choose another folder"
    write(tmp_path / "in" / "a.jpg", read(file))
    assert "a.jpg and a.png would have results with the same name" in error_of(capsys, "restore", file.parent, *words)
    assert not (tmp_path / "out").exists()


def test_bad_file_among_good_ones_keeps_what_is_finished(
    tmp_path: Path, words: tuple[str | Path, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    for k in range(3):
        write(tmp_path / "in" / f"{k}.nii.gz", stack())
    truncate(tmp_path / "in" / "1.nii.gz")
    assert run("restore", tmp_path / "in", "--task", "denoise", *words) == 1
    shown, reason = capsys.readouterr().err, f"{tmp_path / 'in' / '1.nii.gz'}: not readable ("
    assert f"mrihvae: error: {reason}" in shown and "Traceback" not in shown
    out = tmp_path / "out"
    assert shown.endswith(f"2 of 3 restored, 1 failed: {out}; pictures of each: {out / 'panels'}\n")
    (failed,) = json.loads((out / "restore.json").read_text())["failed"]
    assert failed["file"] == "1.nii.gz" and failed["error"].startswith(reason)
    assert files_below(out) == ["0.nii.gz", "2.nii.gz", "panels/0.png", "panels/2.png", "restore.json"]


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("owner", "name", "input_name", "file"),
    [
        (Path, "write_bytes", "a.nii", "a.nii"),
        (Image.Image, "save", "a.png", "a.png"),
        ("matplotlib.figure.Figure", "savefig", "a.nii", "panels/a.png"),
        (Path, "write_text", "a.nii", "restore.json"),
    ],
)
def test_full_disk(
    owner: Any,
    name: str,
    input_name: str,
    file: str,
    tmp_path: Path,
    words: tuple[str | Path, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    array = stack(1)[..., 0]
    source = write(tmp_path / input_name, array if "nii" in input_name else array.clip(0, 255).astype(np.uint8))
    if isinstance(owner, str):
        monkeypatch.setattr(f"{owner}.{name}", full)
    else:
        monkeypatch.setattr(owner, name, full)
    output = tmp_path / "out"
    assert run("restore", source, "--task", "denoise", *words) == 2
    errors = [line for line in capsys.readouterr().err.replace("\r", "\n").splitlines() if line.startswith("mrihvae")]
    assert errors == [
        f"mrihvae: error: {output / file}: cannot be written (No space left on device); free space or choose another "
        "place"
    ]
    assert file not in files_below(output) and not list(output.rglob("*.part"))
