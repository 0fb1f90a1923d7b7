"""Files of simulated scans: as fastMRI reads them, complete and undersampled, and whole or not there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fastmri
import h5py
import nibabel
import numpy as np
import pytest
import torch
from fastmri.data import SliceDataset
from fastmri.data.subsample import create_mask_for_mask_type
from fastmri.data.transforms import UnetDataTransform, VarNetDataTransform
from PIL import Image

from mrihvae.errors import InputError
from mrihvae.io import hdf5
from mrihvae.io.fastmri import read_scan
from mrihvae.physics.fastmri_masks import MASK_TYPES, effective_acceleration
from mrihvae.physics.fourier import ifft2c
from mrihvae.physics.sampling import Undersampling
from mrihvae.recon.undersampling import mask_of
from mrihvae.simulation.files import (
    ImageGroup,
    calibration_lines,
    draw_lines,
    image_groups,
    simulate_file,
    undersample_file,
)
from mrihvae.simulation.scanner import fields_of, noise_covariance
from mrihvae.simulation.settings import ScannerSettings
from tests.support.small import phantom

FOUR = ScannerSettings(coils=4, matrix=48)
FOURFOLD = Undersampling("random", 4, 0.08)


def volume(path: Path, slices: int = 3, **changes: Any) -> Path:
    """Write phantoms as a NIfTI volume."""
    path.parent.mkdir(parents=True, exist_ok=True)
    images = np.stack([phantom(64, 56, k) for k in range(slices)], axis=-1)
    nibabel.save(nibabel.Nifti1Image(changes.get("images", images), np.eye(4)), path)
    return path


def scan(folder: Path, settings: ScannerSettings = FOUR, name: str = "head", **options: Any) -> Path:
    """Simulate one volume; returns its file."""
    (group,) = image_groups(volume(folder / "images" / f"{name}.nii.gz"))
    path = folder / "val" / f"{name}.h5"
    assert simulate_file(group, path, settings, **options) == 3
    return path


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read the datasets and attributes of a file."""
    with h5py.File(path) as file:
        return {name: file[name][()] for name in file}, dict(file.attrs)


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# --- complete scans --------------------------------------------------------------------------------------------------


def test_complete_scan_of_several_coils(tmp_path: Path) -> None:
    arrays, attributes = read(scan(tmp_path))
    assert set(arrays) == {"kspace", "reconstruction_rss", "ismrmrd_header"}
    kspace, target = arrays["kspace"], arrays["reconstruction_rss"]
    assert kspace.shape == (3, 4, 48, 48) and kspace.dtype == np.complex64
    assert target.shape == (3, 48, 48) and target.dtype == np.float32
    images = fastmri.ifft2c(fastmri.data.transforms.to_tensor(kspace))
    np.testing.assert_allclose(target, fastmri.rss(fastmri.complex_abs(images), dim=1).numpy(), rtol=1e-5, atol=1e-6)
    assert set(attributes) == {"acquisition", "max", "norm", "patient_id", "noise"}
    assert attributes["acquisition"] == "SIMULATED_images" and attributes["patient_id"] == "head"
    assert attributes["max"] == target.max()
    assert attributes["norm"] == pytest.approx(np.linalg.norm(target), rel=1e-6)
    np.testing.assert_allclose(attributes["noise"], 0.01 * np.quantile(target, 0.99, axis=(1, 2)), rtol=0.03)
    assert b"<receiverChannels>4</receiverChannels>" in arrays["ismrmrd_header"]
    read_back = read_scan(tmp_path / "val" / "head.h5")
    assert read_back.padding == (0, 48) and read_back.matrix == (48, 48)


def test_complete_scan_of_one_coil(tmp_path: Path) -> None:
    arrays, _ = read(scan(tmp_path, ScannerSettings(matrix=48)))
    assert set(arrays) == {"kspace", "reconstruction_esc", "ismrmrd_header"}
    assert arrays["kspace"].shape == arrays["reconstruction_esc"].shape == (3, 48, 48)
    image = ifft2c(torch.from_numpy(arrays["kspace"])).abs().numpy()
    np.testing.assert_allclose(arrays["reconstruction_esc"], image, rtol=1e-6)
    assert b"receiverChannels" not in arrays["ismrmrd_header"]  # the bytes that the benchmarks' files have
    dataset = SliceDataset(tmp_path / "val", "singlecoil", UnetDataTransform("singlecoil"))
    assert len(dataset) == 3 and dataset[1].target.shape == (48, 48)


@pytest.mark.parametrize("matrix", [48, 49])
def test_fastmri_reads_both_kinds_alike(matrix: int, tmp_path: Path) -> None:
    """The undersampled file is what fastMRI makes of the complete one with its own mask."""
    path = scan(tmp_path, ScannerSettings(coils=4, matrix=matrix))
    undersample_file(path, tmp_path / "test" / path.name, FOURFOLD)
    mask = create_mask_for_mask_type("random", [0.08], [4])
    complete = SliceDataset(tmp_path / "val", "multicoil", VarNetDataTransform(mask))
    undersampled = SliceDataset(tmp_path / "test", "multicoil", VarNetDataTransform())
    assert len(complete) == len(undersampled) == 3
    for ours, theirs in zip(undersampled, complete):
        assert ours.masked_kspace.shape == (4, matrix, matrix, 2)
        assert torch.equal(ours.masked_kspace, theirs.masked_kspace)
        assert torch.equal(ours.mask, theirs.mask)
        assert ours.crop_size == theirs.crop_size == (matrix, matrix)
        assert theirs.target.shape == (matrix, matrix) and ours.target.ndim == 0
        assert theirs.max_value == read(path)[1]["max"]
    attributes = read(tmp_path / "test" / path.name)[1]
    assert attributes["num_low_frequency"] == complete[0].num_low_frequencies
    raw = SliceDataset(tmp_path / "test", "multicoil")[0]
    assert raw[2] is None and raw[3]["padding_left"] == 0 and raw[3]["padding_right"] == matrix
    assert raw[3]["encoding_size"] == raw[3]["recon_size"] == (matrix, matrix, 1)


def test_equal_names_give_equal_bits(tmp_path: Path) -> None:
    settings = ScannerSettings(coils=3, fields="random", matrix=48, noise_correlation=0.3)
    first = scan(tmp_path / "a", settings, keep_maps=True)
    np.random.default_rng()
    assert scan(tmp_path / "b", settings, keep_maps=True).read_bytes() == first.read_bytes()
    other, _ = read(scan(tmp_path / "c", settings, name="other", keep_maps=True))
    arrays, _ = read(first)
    for name in ("sensitivity_maps", "noise", "kspace"):
        assert np.abs(other[name] - arrays[name]).max() > 0.01 * np.abs(arrays[name]).max()


def test_seed_changes_fields_phase_and_noise(tmp_path: Path) -> None:
    paths = [
        scan(tmp_path / str(seed), ScannerSettings(3, "random", 48, noise=0.0, seed=seed), keep_maps=True)
        for seed in (0, 1)
    ]
    (first, _), (second, _) = (read(path) for path in paths)
    assert not np.allclose(np.abs(first["sensitivity_maps"]), np.abs(second["sensitivity_maps"]), atol=0.01)
    images = [
        (np.conj(arrays["sensitivity_maps"]) * ifft2c(torch.from_numpy(arrays["kspace"])).numpy()).sum(axis=1)
        for arrays in (first, second)
    ]
    bright = np.abs(images[0]) > 0.2
    assert np.abs(np.angle(images[0] * np.conj(images[1])))[bright].std() > 0.1


@pytest.mark.parametrize("fields", ["birdcage", "random"])
def test_maps_are_the_true_ones(fields: str, tmp_path: Path) -> None:
    arrays, _ = read(scan(tmp_path, ScannerSettings(4, fields, 48, noise=0.0), keep_maps=True))
    maps = arrays["sensitivity_maps"]
    assert maps.shape == (1, 4, 48, 48) and maps.dtype == np.complex64
    np.testing.assert_allclose((np.abs(maps) ** 2).sum(axis=1), 1, rtol=1e-5)
    images = ifft2c(torch.from_numpy(arrays["kspace"])).numpy()
    combined = (maps.conj() * images).sum(axis=1)
    np.testing.assert_allclose(np.abs(combined), arrays["reconstruction_rss"], atol=1e-5)
    np.testing.assert_allclose(maps * combined[:, None], images, atol=1e-5)


def test_noise_scan_has_the_covariance_of_the_noise(tmp_path: Path) -> None:
    settings = ScannerSettings(4, "random", 48, noise=0.05, noise_correlation=0.8)
    path = scan(tmp_path, settings)
    arrays, attributes = read(path)
    noise = arrays["noise"]
    assert noise.shape == (4, 16384) and noise.dtype == np.complex64
    found = noise @ noise.conj().T / noise.shape[1]
    level = np.mean(np.square(attributes["noise"]))
    fields = fields_of(settings, np.random.default_rng([0, *map(ord, "head.h5")]))
    assert fields is not None
    wanted = noise_covariance(fields, 0.8).numpy()
    np.testing.assert_allclose(found / level, wanted, atol=0.03)
    # the corners of k-space hold nearly nothing but noise, which it must make white
    whitening = np.linalg.inv(np.linalg.cholesky(found))
    corners = arrays["kspace"][:, :, :10, :10].transpose(1, 0, 2, 3).reshape(4, -1)
    white = whitening @ corners
    np.testing.assert_allclose(white @ white.conj().T / white.shape[1], np.eye(4), atol=0.35)
    colored = corners / np.sqrt(level)
    assert np.abs(colored @ colored.conj().T / white.shape[1] - np.eye(4)).max() > 0.5
    undersample_file(path, tmp_path / "test" / path.name, FOURFOLD)
    np.testing.assert_array_equal(read(tmp_path / "test" / path.name)[0]["noise"], noise)


def test_progress_is_over_slices(tmp_path: Path) -> None:
    lengths = []

    def progress(slices: list[Any]) -> Iterator[Any]:
        lengths.append(len(slices))
        return iter(slices)

    scan(tmp_path, progress=progress)
    assert lengths == [3]


# --- undersampled scans ----------------------------------------------------------------------------------------------


def test_undersampled_scan(tmp_path: Path) -> None:
    path = scan(tmp_path, ScannerSettings(4, matrix=48, noise_correlation=0.1), keep_maps=True)
    acceleration = undersample_file(path, tmp_path / "test" / path.name, FOURFOLD)
    complete, known = read(path)
    arrays, attributes = read(tmp_path / "test" / path.name)
    assert set(arrays) == {"kspace", "mask", "ismrmrd_header", "noise", "sensitivity_maps"}
    mask = arrays["mask"]
    assert mask.shape == (48,) and mask.dtype == bool
    assert acceleration == effective_acceleration(mask)
    np.testing.assert_array_equal(mask, mask_of(read_scan(path), FOURFOLD))
    np.testing.assert_array_equal(arrays["kspace"][..., mask], complete["kspace"][..., mask])
    rest = arrays["kspace"][..., ~mask]
    assert rest.size and not rest.any() and not np.signbit(rest.real).any() and not np.signbit(rest.imag).any()
    assert arrays["kspace"].dtype == np.complex64
    for name in ("ismrmrd_header", "noise", "sensitivity_maps"):
        assert np.array_equal(arrays[name], complete[name])
    assert set(attributes) == {"acquisition", "patient_id", "noise", "acceleration", "num_low_frequency"}
    assert attributes["acceleration"] == 4 and attributes["acceleration"].dtype.kind == "i"
    np.testing.assert_array_equal(attributes["noise"], known["noise"])


@pytest.mark.parametrize("mask_type", MASK_TYPES)
@pytest.mark.parametrize(("acceleration", "fraction"), [(4, 0.08), (8, 0.04), (3, 0.3)])
def test_lines_are_those_of_fastmri(mask_type: str, acceleration: int, fraction: float) -> None:
    undersampling = Undersampling(mask_type, acceleration, fraction)
    theirs = create_mask_for_mask_type(mask_type, [fraction], [acceleration])
    for width in (48, 65, 320):
        mask, low = theirs((1, width, 2), seed=tuple(map(ord, "scan.h5")))
        ours = draw_lines(undersampling, width, "scan.h5")
        np.testing.assert_array_equal(ours, mask.numpy().ravel() > 0)
        assert calibration_lines(undersampling, width) == low


def test_lines_that_fastmri_lacks() -> None:
    center = Undersampling("center", 4, 0.08)
    lines = np.flatnonzero(draw_lines(center, 48, "a.h5"))
    np.testing.assert_array_equal(lines, np.arange(18, 30))
    assert calibration_lines(center, 48) == 12
    partial = Undersampling("partial_fourier", 1.5, 0.08)
    assert draw_lines(partial, 48, "a.h5").sum() == 32 and calibration_lines(partial, 48) == 4
    for undersampling in (Undersampling("poisson", 4, 0.08), Undersampling("random", 4, 0.08, axis=-2)):
        with pytest.raises(InputError, match="masks in fastMRI files are of lines along H; choose one of random"):
            draw_lines(undersampling, 48, "a.h5")
    with pytest.raises(InputError, match="more than acceleration 8 allows"):
        draw_lines(Undersampling("random", 8, 0.5), 48, "a.h5")


# --- the images ------------------------------------------------------------------------------------------------------


def picture(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((255 * np.clip(image, 0, 1)).astype(np.uint8)).save(path)
    return path


def test_images_are_sorted_into_scans(tmp_path: Path) -> None:
    for number in range(1, 24):
        picture(tmp_path / "t1" / "val" / f"{number}.png", phantom(16, 16))
    volume(tmp_path / "t1" / "val" / "b.nii.gz")
    volume(tmp_path / "t1" / "val" / "a.NII")
    (tmp_path / "t1" / "val" / "notes.txt").write_text("no image")
    (tmp_path / "t1" / "val" / "._1.png").write_text("a shadow of another system")
    (tmp_path / "t1" / "val" / "folder.png").mkdir()
    groups = image_groups(tmp_path / "t1" / "val", every=2)
    assert [group.name for group in groups] == ["a", "b", "t1_1_to_19", "t1_21_to_23"]
    assert [file.name for file in groups[2].files] == [f"{number}.png" for number in range(1, 20, 2)]
    assert {group.acquisition for group in groups} == {"t1"}
    assert [group.every for group in groups] == [2, 2, 1, 1]  # pictures are counted off already
    assert [group.name for group in image_groups(tmp_path / "t1" / "val", every=2, limit=2)] == ["a", "t1_1_to_19"]
    (single,) = image_groups(tmp_path / "t1" / "val" / "7.png")
    assert single == ImageGroup("7", "t1", (tmp_path / "t1" / "val" / "7.png",))


def test_empty_slices_are_left_out(tmp_path: Path) -> None:
    images = np.stack([phantom(64, 56), 0 * phantom(64, 56), phantom(64, 56, 1)], axis=-1)
    (group,) = image_groups(volume(tmp_path / "a.nii", images=images))
    assert simulate_file(group, tmp_path / "out" / "a.h5", FOUR) == 2
    (nothing,) = image_groups(volume(tmp_path / "b.nii", images=0 * images))
    assert simulate_file(nothing, tmp_path / "out" / "b.h5", FOUR) == 0
    assert files_below(tmp_path / "out") == ["a.h5"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "in: file not found; give NIfTI volumes"),
        (lambda folder: folder.mkdir(), "in: no NIfTI volume, JPEG or PNG picture in it; give NIfTI"),
        (lambda folder: folder.write_text("text"), "in: ends in none of .nii, .nii.gz, .png, .jpg, .jpeg; give NIfTI"),
        (
            lambda folder: [volume(folder / name) for name in ("a.nii", "a.nii.gz")],
            "in: a.nii and a.nii.gz would have results with the same name; rename one",
        ),
    ],
)
def test_images_that_are_no_scans(make: Any, message: str, tmp_path: Path) -> None:
    make(tmp_path / "in")
    with pytest.raises(InputError) as caught:
        image_groups(tmp_path / "in")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_numbers_below_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="every 0: must be at least 1"):
        image_groups(tmp_path, every=0)
    with pytest.raises(InputError, match="limit 0: must be at least 1"):
        image_groups(tmp_path, limit=0)


def with_nan() -> np.ndarray:
    images = np.stack([phantom(64, 56, k) for k in range(3)], axis=-1)
    images[3, 4, 2] = np.nan
    return images


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.with_name("a.nii").write_bytes(b"none"), "a.nii: not readable ("),
        (lambda path: path.with_name("a.png").write_bytes(b"none"), "a.png: not readable ("),
        (lambda path: volume(path.with_name("a.nii"), images=with_nan()), "a.nii: holds NaN or infinite values"),
        (lambda path: picture(path.with_name("a.png"), np.zeros((9, 9))), "a.png: almost only zeros in a matrix"),
        (lambda path: picture(path.with_name("a.png"), np.ones((3, 3))), "a matrix of 48 x 48; lower the matrix"),
    ],
)
def test_images_that_cannot_be_used(write: Any, message: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write(tmp_path / "in" / "a")
    (group,) = image_groups(tmp_path / "in")
    with pytest.raises(InputError) as caught:
        simulate_file(group, tmp_path / "out" / "a.h5", FOUR)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists() or files_below(tmp_path / "out") == []


# --- whole or not there ----------------------------------------------------------------------------------------------


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond `size` bytes."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.skipif(not hasattr(hdf5.os, "posix_fallocate"), reason="needs posix_fallocate")
def test_no_room(tmp_path: Path) -> None:
    """HDF5 that finds out by itself, when it closes a file, takes the process with it."""
    path = scan(tmp_path)
    before, (group,) = path.read_bytes(), image_groups(tmp_path / "images" / "head.nii.gz")
    for room in (1000, 100_000, len(before) - 1000, len(before)):
        with files_up_to(room), pytest.raises(InputError, match=r"head.h5: cannot be written \(File too large\); free"):
            simulate_file(group, path, FOUR)
        with files_up_to(room), pytest.raises(InputError, match=r"head.h5: cannot be written \(File too large\); free"):
            undersample_file(path, tmp_path / "test" / "head.h5", FOURFOLD)
    assert path.read_bytes() == before and files_below(tmp_path) == ["images/head.nii.gz", "val/head.h5"]


def test_file_systems_that_reserve_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(hdf5.errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(hdf5.os, "posix_fallocate", refuse, raising=False)
    scan(tmp_path / "a")
    monkeypatch.delattr(hdf5.os, "posix_fallocate")
    scan(tmp_path / "b")


def test_failures_while_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = scan(tmp_path)
    before, (group,) = path.read_bytes(), image_groups(tmp_path / "images" / "head.nii.gz")
    close = h5py.File.close

    def fail(file: h5py.File) -> None:
        close(file)
        raise RuntimeError("Can't decrement id ref count\nerrno = 28")

    with monkeypatch.context() as patch:
        patch.setattr(h5py.File, "close", fail)
        with pytest.raises(InputError, match=r"cannot be written \(Can't decrement id ref count\); free space"):
            simulate_file(group, path, FOUR)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot be written"):
        simulate_file(group, tmp_path / "file" / "head.h5", FOUR)

    def interrupted(slices: list[Any]) -> Iterator[Any]:
        yield slices[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate_file(group, path, FOUR, progress=interrupted)
    assert path.read_bytes() == before
    assert files_below(tmp_path) == ["file", "images/head.nii.gz", "val/head.h5"]
