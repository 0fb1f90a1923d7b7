"""ISMRMRD files: their scans, names, order, noise, and what is wrong with those that cannot be read."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from tests.support.files import complex_normal, error_of, truncate, write_h5
from tests.support.small_coils import calibrated, coil_scans, distance

pytest.importorskip("ismrmrd")

from mrihvae import open_kspace
from mrihvae.coils.settings import CoilSettings
from mrihvae.data.scan import Scan
from mrihvae.errors import InputError
from mrihvae.io.mrd.files import read_mrd
from mrihvae.io.partitions import centered_fft
from mrihvae.recon.catalog import make_method
from mrihvae.recon.sliced_scan import SlicedScan
from mrihvae.recon.undersampling import mask_of
from mrihvae.recon.volumes import reconstruct_volume
from mrihvae.utils.notices import collect_notices
from tests.support import mrd
from tests.support.assembly import phantom, psnr, scan_3d, slab_xml

GENERATOR = "ismrmrd_generate_cartesian_shepp_logan"
SHAPE = (3, 2, 16, 12)  # slices, coils, H, W
EXACT = 1e-12


def written(path: Path, kspace: np.ndarray, header: dict[str, Any] | None = None, **options: Any) -> Path:
    """Write the file of a 2D scan."""
    mrd.write_mrd(path, mrd.cartesian_xml(kspace.shape, **(header or {})), mrd.cartesian_lines(kspace, **options))
    return path


def nmse(found: np.ndarray, truth: np.ndarray) -> float:
    assert found.shape == truth.shape and found.dtype == np.complex64
    return float((np.abs(found - truth) ** 2).sum() / (np.abs(truth) ** 2).sum())


def test_scan_is_read(tmp_path: Path) -> None:
    kspace = complex_normal(SHAPE)
    directions = {"read_dir": (0, 0, -1), "phase_dir": (0, 1, 0), "slice_dir": (1, 0, 0)}
    header = {"measurement": {"protocolName": "AXT2"}, "pixel_mm": (1.5, 2.0), "thickness_mm": 3.0}
    path = written(tmp_path / "scan.h5", kspace, header, noise_scans=2, thickness_mm=4.0, shuffle=True, **directions)
    (scan,) = read_mrd(path)
    assert (
        scan.name == "scan.h5"
        and scan.attributes == {"acquisition": "AXT2", "field_strength_T": 3.0}
        and scan.coils == 2
    )
    assert nmse(scan.kspace, kspace) < EXACT
    assert scan.mask is not None and scan.mask.tolist() == [True] * 12
    assert scan.matrix == (16, 12) and scan.padding is None and scan.target is None and scan.calibration is None
    assert scan.noise_scan is not None and scan.noise_scan.shape == (2, 64)
    assert scan.geometry is not None and scan.geometry.voxel == (1.5, 2, 3)
    np.testing.assert_allclose(scan.geometry.positions, [[-4, 0, 0], [0, 0, 0], [4, 0, 0]])
    np.testing.assert_allclose(scan.geometry.affine((16, 12))[:3, 2], [-4, 0, 0], atol=1e-6)


def test_one_coil(tmp_path: Path) -> None:
    kspace = complex_normal((3, 1, 16, 12))
    (scan,) = read_mrd(written(tmp_path / "scan.h5", kspace))
    assert scan.coils == 1 and nmse(scan.kspace, kspace[:, 0]) < EXACT


def test_scans_are_named_by_what_differs(tmp_path: Path) -> None:
    """Contrasts, repetitions and so on are scans, sorted; the names tell only what there are several of."""
    truth = {}
    lines = []
    for contrast in (1, 0):
        for repetition in (0, 1):
            kspace = complex_normal(SHAPE, seed=2 * contrast + repetition)
            truth[f"scan_contrast{contrast}_repetition{repetition}.h5"] = kspace
            counters = {"contrast": contrast, "repetition": repetition, "set": 3}
            lines += mrd.cartesian_lines(kspace, counters=counters, last_in_measurement=False)
    mrd.write_mrd(tmp_path / "scan.h5", mrd.cartesian_xml(SHAPE, repetitions=2), lines)
    scans = read_mrd(tmp_path / "scan.h5")
    assert [scan.name for scan in scans] == sorted(truth)
    assert [scan.attributes.get("repetition") for scan in scans] == [None, 1, None, 1]
    assert [scan.attributes.get("contrast") for scan in scans] == [None, None, 1, 1]
    assert {scan.attributes["set"] for scan in scans} == {3}
    for scan in scans:
        assert nmse(scan.kspace, truth[scan.name]) < EXACT
    for first, second in (scans[:2], scans[2:]):
        assert first.calibration is not None and second.calibration is not None
        assert [id(one) for one in first.calibration] == [id(one) for one in second.calibration]
    assert scans[0].calibration is not None and scans[0].calibration[0] is not scans[2].calibration[0]  # type: ignore[index]


@pytest.mark.parametrize("slice_order", ["ascending", "odd_even", "by_line"])
@pytest.mark.parametrize("numbers", [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [0, 3, 1, 4, 2]])
def test_slices_are_in_the_order_of_their_places(numbers: list[int], slice_order: str, tmp_path: Path) -> None:
    """However they were numbered and measured: upwards, or downwards where the numbers count down themselves."""
    kspace = complex_normal((5, 2, 16, 12))  # from bottom to top
    positions = [[0.0, 0.0, 4.0 * place] for place in numbers]
    path = written(tmp_path / "scan.h5", kspace[numbers], slice_order=slice_order, positions=positions)
    (scan,) = read_mrd(path)
    downwards = numbers[0] == 4
    assert nmse(scan.kspace, kspace[::-1] if downwards else kspace) < EXACT
    assert scan.geometry is not None
    heights = [0.0, 4.0, 8.0, 12.0, 16.0]
    np.testing.assert_allclose(scan.geometry.positions[:, 2], heights[::-1] if downwards else heights)


def test_slices_of_other_directions_or_lines_are_scans_of_their_own(tmp_path: Path) -> None:
    """As of a localizer, which has slices of all three directions in one scan."""
    kspace = complex_normal((4, 2, 16, 12))
    masks = np.ones((4, 12), bool)
    masks[3, 1::2] = False
    lines = mrd.cartesian_lines(kspace, mask=masks)
    turned = {"read_dir": (0.0, 0.0, -1.0), "phase_dir": (0.0, 1.0, 0.0), "slice_dir": (1.0, 0.0, 0.0)}
    lines = [replace(line, **turned) if line.slice == 1 else line for line in lines]
    mrd.write_mrd(tmp_path / "scan.h5", mrd.cartesian_xml(kspace.shape), lines)
    with collect_notices() as notices:
        scans = read_mrd(tmp_path / "scan.h5")
    assert notices == ["slices of a volume have different lines: slices with the same lines form a scan"]
    assert [scan.name for scan in scans] == ["scan_slice0.h5", "scan_slice1.h5", "scan_slice3.h5"]
    assert [len(scan.kspace) for scan in scans] == [2, 1, 1]
    assert nmse(scans[0].kspace, kspace[[0, 2]]) < EXACT and nmse(scans[1].kspace, kspace[[1]]) < EXACT
    assert scans[1].geometry is not None and scans[1].geometry.normal.tolist() == [1, 0, 0]
    assert scans[2].mask is not None and scans[2].mask.tolist() == masks[3].tolist()


def test_two_slices_of_other_directions_are_told_apart_by_their_numbers(tmp_path: Path) -> None:
    lines = mrd.cartesian_lines(complex_normal((2, 2, 16, 12)))
    lines = [
        replace(line, read_dir=(0.0, 1.0, 0.0), phase_dir=(1.0, 0.0, 0.0)) if line.slice else line for line in lines
    ]
    mrd.write_mrd(tmp_path / "scan.h5", mrd.cartesian_xml((2, 2, 16, 12)), lines)
    assert [scan.name for scan in read_mrd(tmp_path / "scan.h5")] == ["scan_slice0.h5", "scan_slice1.h5"]


def test_slices_without_a_place_stay_in_their_order(tmp_path: Path) -> None:
    kspace, nowhere = complex_normal(SHAPE), (0.0, 0.0, 0.0)
    options = {"positions": np.zeros((3, 3)), "read_dir": nowhere, "phase_dir": nowhere, "slice_dir": nowhere}
    (scan,) = read_mrd(written(tmp_path / "scan.h5", kspace, **options))
    assert nmse(scan.kspace, kspace) < EXACT


def test_noise_scans_whiten_unless_told_not_to(tmp_path: Path) -> None:
    """The noise of the mixed coils is white; without a noise scan, or when told so, coils stay as they are."""
    kspace, _, _ = coil_scans(1, 4, 32, 30, noise=0.0)
    root = np.tril(np.random.default_rng(0).standard_normal((4, 4))) + 3 * np.eye(4)
    lines = calibrated(30)
    options: dict[str, Any] = {"mask": lines.numpy(), "noise_covariance": root @ root.T}
    (noisy,) = read_mrd(written(tmp_path / "noisy.h5", kspace.numpy(), noise_scans=64, **options))
    (plain,) = read_mrd(written(tmp_path / "plain.h5", kspace.numpy(), **options))

    def mixing(scan: Scan, whiten: bool | None) -> torch.Tensor | None:
        return SlicedScan(scan, lines.numpy(), CoilSettings(whiten=whiten)).mixing

    assert mixing(plain, None) is None and mixing(noisy, False) is None
    matrix = mixing(noisy, None)
    assert matrix is not None
    white = matrix.numpy() @ (root @ root.T) @ matrix.numpy().conj().T
    np.testing.assert_allclose(white / white.trace() * 4, np.eye(4), atol=0.1)


def test_maps_of_calibration_lines_are_used(tmp_path: Path) -> None:
    """Without lines around the center in the image, it is that of the maps which a complete scan gives."""
    kspace, _, images = coil_scans(2, 4, 32, 32, noise=0.0)
    taken = np.arange(32) % 2 == 0
    options: dict[str, Any] = {"mask": taken, "calibration": np.abs(np.arange(32) - 16) < 9, "calibration_apart": True}
    header = {"calibration_mode": "separate", "acceleration": (2, 1)}
    (scan,) = read_mrd(written(tmp_path / "scan.h5", kspace.numpy(), header, **options))
    assert scan.mask is not None and scan.mask.tolist() == taken.tolist()
    method = make_method("sense", strength=1e-4)
    found = torch.from_numpy(reconstruct_volume(scan, mask_of(scan, None), method))
    assert distance(found, images.abs()) < 0.01
    alone = replace(scan, calibration=None)
    with pytest.raises(
        InputError, match=r"slice 0: the fully acquired region around the center of k-space is only \d+ x \d+"
    ):
        reconstruct_volume(alone, mask_of(alone, None), method)


def test_any_name_of_the_group(tmp_path: Path) -> None:
    path = written(tmp_path / "scan.h5", complex_normal(SHAPE))
    with h5py.File(path, "a") as file:
        file.move("dataset", "2024-01-01")
        file["1999/xml"] = b""  # a part of one
    assert [len(scan.kspace) for scan in open_kspace(path)] == [3]


def test_file_with_padding_between_its_fields(tmp_path: Path) -> None:
    """The C++ library writes records as its compiler lays them out."""
    path = written(tmp_path / "scan.h5", kspace := complex_normal(SHAPE))
    with h5py.File(path, "a") as file:
        rows = file["dataset/data"][()]
        fields = rows.dtype["head"].fields
        head = np.dtype(
            {
                "names": list(fields),
                "formats": [kind for kind, _ in fields.values()],
                "offsets": [8 * k + at for k, (_, at) in enumerate(fields.values())],
            }
        )
        kind = np.dtype([("head", head), *((name, rows.dtype[name]) for name in ("traj", "data"))])
        wider = np.empty(len(rows), kind)
        for name in fields:
            wider["head"][name] = rows["head"][name]
        for name in ("traj", "data"):
            wider[name] = rows[name]
        del file["dataset/data"]
        file.create_dataset("dataset/data", data=wider)
    (scan,) = read_mrd(path)
    assert nmse(scan.kspace, kspace) < EXACT


def test_trajectories_do_not_matter(tmp_path: Path) -> None:
    kspace = complex_normal(SHAPE)
    lines = [replace(line, trajectory=np.zeros((32, 2), np.float32)) for line in mrd.cartesian_lines(kspace)]
    mrd.write_mrd(tmp_path / "scan.h5", mrd.cartesian_xml(SHAPE), lines)
    (scan,) = read_mrd(tmp_path / "scan.h5")
    assert nmse(scan.kspace, kspace) < EXACT


# Several measurements in one file, and slabs


SMALL = (1, 2, 8, 8)  # an adjustment's slices, coils, H, W


def measured(path: Path, group: str, kspace: np.ndarray, noise: int = 0, **options: Any) -> None:
    """Append a measurement to a file."""
    lines = mrd.cartesian_lines(kspace, noise_scans=noise, **options)
    mrd.write_mrd(path, mrd.cartesian_xml(kspace.shape), lines, group, append=True)


def only_noise(path: Path, group: str, coils: int = 2, seed: int = 5) -> np.ndarray:
    """Append a measurement of noise to a file, and return this."""
    noise = complex_normal((coils, 64), seed=seed)
    header = mrd.cartesian_xml((1, coils, 64, 2))
    mrd.write_mrd(path, header, [mrd.Line(noise, flags=mrd.flags(mrd.NOISE))], group, append=True)
    return noise


def test_each_measurement_with_an_image_is_a_scan(tmp_path: Path) -> None:
    """In the order of their numbers, and a warning says what there is."""
    path, small, large = tmp_path / "scan.h5", phantom(*SMALL), phantom(*SHAPE)
    measured(path, "dataset_10", large)
    measured(path, "dataset_2", small)
    measured(path, "adjustments/1", small)
    with collect_notices() as notices:
        scans = open_kspace(path)
    assert [scan.name for scan in scans] == ["scan_adjustments_1.h5", "scan_dataset_2.h5", "scan_dataset_10.h5"]
    for scan, truth in zip(scans, (small, small, large)):
        assert psnr(scan.kspace, truth) > 100 and scan.noise_scan is None
    assert notices == [
        "scan.h5: holds 3 measurements: adjustments/1 (1 slice of 8 x 8); dataset_2 (1 slice of 8 x 8); dataset_10 (3 "
        "slices of 16 x 12)"
    ]


@pytest.mark.parametrize("group", ["dataset_1", "dataset_3"])
def test_measurement_of_noise_alone_whitens_the_others(group: str, tmp_path: Path) -> None:
    """Before or behind them; other coils do not count; a single image keeps the name of the file."""
    path, kspace = tmp_path / "scan.h5", phantom(*SHAPE)
    measured(path, "dataset_2", kspace)
    noise = only_noise(path, group)
    only_noise(path, "dataset_4", coils=3)
    with collect_notices() as notices:
        (scan,) = open_kspace(path)
    assert scan.name == "scan.h5" and psnr(scan.kspace, kspace) > 100
    assert scan.noise_scan is not None
    np.testing.assert_array_equal(scan.noise_scan, noise)
    assert f"{group} (noise alone)" in notices[-1]


def test_own_noise_comes_before_that_of_others(tmp_path: Path) -> None:
    """And that of an earlier measurement before none."""
    path = tmp_path / "scan.h5"
    other = only_noise(path, "dataset_1")
    measured(path, "dataset_2", phantom(*SHAPE), noise=3)
    measured(path, "dataset_3", phantom(*SHAPE))
    second, third = open_kspace(path)
    assert second.noise_scan is not None and third.noise_scan is not None
    assert second.noise_scan.shape == (2, 96) and other.shape == (2, 64)
    np.testing.assert_array_equal(third.noise_scan, second.noise_scan)


def test_measurement_that_cannot_be_read_is_left_out_with_a_warning(tmp_path: Path) -> None:
    path, kspace = tmp_path / "scan.h5", phantom(*SHAPE)
    header = mrd.cartesian_xml(SHAPE, trajectory="epi")
    mrd.write_mrd(path, header, mrd.cartesian_lines(kspace), "dataset_1", append=True)
    with pytest.raises(InputError, match="trajectory 'epi'"):
        open_kspace(path)
    measured(path, "dataset_2", kspace)
    with collect_notices() as notices:
        (scan,) = open_kspace(path)
    assert psnr(scan.kspace, kspace) > 100
    assert notices[0].startswith("scan.h5: group 'dataset_1': ") and "trajectory 'epi'" in notices[0]
    assert notices[0].endswith("this measurement is left out")
    assert "dataset_1 (not readable)" in notices[1]


@pytest.mark.parametrize("distance", [0.0, 5.0, 8.0, -8.0])
def test_slabs_that_overlap_are_scans_of_their_own(distance: float, tmp_path: Path) -> None:
    """Of 4 partitions of 2 mm each; without an overlap they are one volume, in the order of their places."""
    slices = [phantom(4, 2, 16, 12, seed) for seed in (0, 1)]
    lines = []
    for k, each in enumerate(slices):
        slab = centered_fft(each, 0)
        made = scan_3d(slab, positions=[[0.0, 0.0, distance * k]])
        lines += [replace(line, slice=k) for line in made]
    mrd.write_mrd(tmp_path / "scan.h5", slab_xml(slab), lines)
    with collect_notices() as notices:
        scans = open_kspace(tmp_path / "scan.h5")
    if abs(distance) < 8:
        assert [scan.name for scan in scans] == ["scan_slab0.h5", "scan_slab1.h5"]
        assert "2 slabs overlap" in notices[0]
        assert all(psnr(scan.kspace, each) > 100 for scan, each in zip(scans, slices))
    else:
        (scan,) = scans
        assert psnr(scan.kspace, np.concatenate(slices if distance > 0 else slices[::-1])) > 100 and not notices
        assert scan.geometry is not None and (np.diff(scan.geometry.positions[:, 2]) == 2).all()


# What is refused


def without(name: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        with h5py.File(path, "a") as file:
            del file[f"dataset/{name}"]

    return change


def with_head(**values: int) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        with h5py.File(path, "a") as file:
            row = file["dataset/data"][3]
            for name, value in values.items():
                row["head"][name] = value
            file["dataset/data"][3] = row

    return change


def with_xml(text: bytes) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        with h5py.File(path, "a") as file:
            del file["dataset/xml"]
            file["dataset"].create_dataset("xml", (1,), h5py.special_dtype(vlen=bytes))[0] = text

    return change


def empty(path: Path) -> None:
    with h5py.File(path, "a") as file:
        file["dataset/data"].resize((0,))


def numbers_for_lines(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["dataset/data"]
        file["dataset/data"] = np.zeros((4, 4), np.float32)


def only_garbage(path: Path) -> None:
    lines = mrd.cartesian_lines(complex_normal(SHAPE))
    flags = mrd.flags(mrd.NAVIGATION)
    mrd.write_mrd(path, mrd.cartesian_xml(SHAPE), [replace(line, flags=flags) for line in lines])


def nan(path: Path) -> None:
    lines = mrd.cartesian_lines(complex_normal(SHAPE))
    lines[7].data[0, 3] = np.nan
    mrd.write_mrd(path, mrd.cartesian_xml(SHAPE), lines)


def images_alone(path: Path) -> None:
    path.unlink()
    with h5py.File(path, "w") as file:
        for name in ("header", "data", "attributes"):
            file[f"dataset/image_0/{name}"] = np.zeros(3)


def radial(path: Path) -> None:
    mrd.write_mrd(path, mrd.cartesian_xml(SHAPE, trajectory="radial"), mrd.cartesian_lines(complex_normal(SHAPE)))


WRONG: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated": (truncate, "truncated or not an HDF5 file"),
    "no header": (without("xml"), "its group 'dataset' has no 'xml' (it has data)"),
    "no lines": (without("data"), "its group 'dataset' has no 'data' (it has xml)"),
    "empty": (empty, "has no lines"),
    "numbers": (numbers_for_lines, "truncated or not an ISMRMRD file"),
    "too many samples": (with_head(number_of_samples=40), "line 3 holds 128 numbers, its header says 160"),
    "huge line": (with_head(number_of_samples=65535, active_channels=65535), "line 3 holds 128 numbers"),
    "no coils": (with_head(active_channels=0), "line 3 holds 128 numbers, its header says 0"),
    "outside": (with_head(center_sample=9), "32 samples to use with the center at 9"),
    "no XML": (with_xml(b"ismrmrd"), "the header is not XML"),
    "no text": (with_xml(b"\xff\xfe\xff"), "truncated or not an ISMRMRD file"),
    "document type": (with_xml(b"<!DOCTYPE a><ismrmrdHeader/>"), "document type"),
    "no encoding": (with_xml(b"<ismrmrdHeader/>"), "no 'encoding'"),
    "only garbage": (only_garbage, "no image lines"),
    "NaN": (nan, "line 7: holds NaN"),
    "images": (
        images_alone,
        "holds images (dataset/image_0), not k-space; 'mrihvae convert' writes them in other formats",
    ),
    "radial": (radial, "trajectory 'radial'"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_files_that_are_refused(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line that names the file, and status 2."""
    path = written(tmp_path / "scan.h5", complex_normal(SHAPE))
    change, message = WRONG[kind]
    change(path)
    text = error_of(capsys, "reconstruct", path, "--output", tmp_path / "out", "--method", "zero-filled")
    assert text.startswith(str(path)) and text.count(str(path)) == 1 and message in text
    assert not (tmp_path / "out").exists()


def test_trajectory_of_the_wrong_size_is_not_read(tmp_path: Path) -> None:
    """A header that tells of a huge trajectory takes no memory."""
    path = written(tmp_path / "scan.h5", kspace := complex_normal(SHAPE))
    with_head(trajectory_dimensions=65535)(path)
    (scan,) = read_mrd(path)
    assert nmse(scan.kspace, kspace) < EXACT


def test_too_little_memory_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mrihvae.io.mrd import slices

    def grid_lines(*words: object) -> None:
        raise MemoryError

    monkeypatch.setattr(slices, "grid_lines", grid_lines)
    path = written(tmp_path / "scan.h5", complex_normal(SHAPE))
    with pytest.raises(InputError, match=r"scan\.h5: too little memory"):
        read_mrd(path)


def test_without_the_package_the_error_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path / "scan.h5", complex_normal(SHAPE))
    monkeypatch.setitem(__import__("sys").modules, "ismrmrd", None)
    text = error_of(capsys, "reconstruct", path, "--output", tmp_path / "out")
    assert text == f"{path}: ISMRMRD: needs the package ismrmrd; pip install 'mrihvae[mrd]'"
    other = write_h5(tmp_path / "fastmri.h5", kspace=complex_normal((2, 16, 12)))
    assert len(open_kspace(other)) == 1  # the others do without


# The generator of Debian's ismrmrd-tools


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Path, np.ndarray]]:
    """Run the generator of the ISMRMRD project; gives the file, and the root-sum-of-squares of its truth."""
    if shutil.which(GENERATOR) is None:
        pytest.skip(f"{GENERATOR} is not installed")

    def generate(*words: str) -> tuple[Path, np.ndarray]:
        path = tmp_path_factory.mktemp("generated") / "phantom.h5"
        fixed = ["-m", "128", "-c", "8", "-n", "1e-4", "-C"]
        subprocess.run([GENERATOR, "-o", path, *fixed, *words], check=True, capture_output=True, timeout=60)
        with h5py.File(path, "r") as file:
            phantom, csm = (file[f"dataset/{name}"][()] for name in ("phantom", "csm"))
        whole, fields = (one["real"] + 1j * one["imag"] for one in (phantom, csm))
        truth = np.abs(whole.reshape(128, 128)) * np.sqrt((np.abs(fields.reshape(-1, 128, 128)) ** 2).sum(axis=0))
        return path, truth.T

    return generate


def image_of(scan: Scan, method: str = "zero-filled", whiten: bool = False) -> torch.Tensor:
    chosen = make_method(method, coils=CoilSettings(whiten=whiten), strength=None if method == "zero-filled" else 1e-4)
    return torch.from_numpy(reconstruct_volume(scan, mask_of(scan, None), chosen))[0]


def scaled(image: torch.Tensor, truth: np.ndarray) -> float:
    """Compute NMSE after the best scale."""
    whole = torch.from_numpy(truth).float()
    factor = (image * whole).sum() / image.square().sum()
    return distance(factor * image, whole)


def test_phantom_of_the_generator(generated: Callable[..., tuple[Path, np.ndarray]]) -> None:
    """The noise scan comes first; the image is the phantom's, transposed as (readout, phase)."""
    path, truth = generated()
    (scan,) = open_kspace(path)
    assert scan.kspace.shape == (1, 8, 128, 128) and scan.noise_scan is not None
    assert scaled(image_of(scan), truth) < 1e-5


def test_interleaved_phantom_of_the_generator(generated: Callable[..., tuple[Path, np.ndarray]]) -> None:
    """Four repetitions with every fourth line each, and without calibration lines: maps come from all of them."""
    path, truth = generated("-a", "4")
    scans = open_kspace(path)
    assert [scan.name for scan in scans] == [f"phantom_repetition{k}.h5" for k in range(4)]
    whole = np.stack([scan.mask for scan in scans if scan.mask is not None])
    assert (whole.sum(axis=0) == 1).all()
    both = replace(scans[0], kspace=sum(scan.kspace for scan in scans), mask=np.ones(128, bool), calibration=None)
    assert scaled(image_of(both), truth) < 1e-5
    for scan in scans:
        assert scaled(image_of(scan, "sense"), truth) < 0.01
