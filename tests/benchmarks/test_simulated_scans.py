"""The simulated scans that benchmarks use: fastMRI files, the same bits every time."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import h5py
import numpy as np
import pytest
import torch
from numpy.random import RandomState

from benchmarks.common import simulated_scans
from mrihvae.physics.fourier import ifft2c


def zero_filled(kspace: np.ndarray) -> np.ndarray:
    """Compute F^H y."""
    image: np.ndarray = ifft2c(torch.from_numpy(kspace)).numpy()
    return image


@pytest.fixture(scope="module")
def simulated() -> ModuleType:
    return simulated_scans


def ellipse(height: int, width: int) -> np.ndarray:
    """Draw a magnitude image, float (H, W), 0 to 1."""
    v, u = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    return 0.5 * ((v / 0.8) ** 2 + (u / 0.6) ** 2 < 1) + 0.5 * (v**2 + u**2 < 0.1)


def write_pictures(folder: Path, numbers: range, size: int = 300) -> None:
    image_module = pytest.importorskip("PIL.Image")
    folder.mkdir(parents=True)
    for number in numbers:
        picture = (255 * np.roll(ellipse(size, size), number, axis=0)).astype(np.uint8)
        image_module.fromarray(picture).save(folder / f"{number}.png")


def test_simulated_scans_load_with_fastmri(simulated: ModuleType, tmp_path: Path) -> None:
    from fastmri.data import SliceDataset
    from fastmri.data.subsample import create_mask_for_mask_type
    from fastmri.data.transforms import UnetDataTransform

    write_pictures(tmp_path / "t1" / "val", range(8, 20))
    assert simulated.main([str(tmp_path / "t1" / "val"), "--output", str(tmp_path / "scans")]) == 0
    files = sorted((tmp_path / "scans").iterdir())
    assert [file.name for file in files] == ["t1_18_to_19.h5", "t1_8_to_17.h5"]
    mask = create_mask_for_mask_type("random", [0.08], [4])
    dataset = SliceDataset(tmp_path / "scans", "singlecoil", UnetDataTransform("singlecoil", mask, use_seed=True))
    assert len(dataset) == 12
    sample = dataset[0]
    assert sample.image.shape == sample.target.shape == (256, 256)
    with h5py.File(files[0]) as scan:
        kspace, target = scan["kspace"][()], scan["reconstruction_esc"][()]
        attributes = dict(scan.attrs)
    assert kspace.shape == target.shape == (2, 256, 256)
    assert (kspace.dtype, target.dtype) == (np.complex64, np.float32)
    assert attributes["acquisition"] == "SIMULATED_t1" and attributes["patient_id"] == "t1_18_to_19"
    assert attributes["max"] == target.max()
    np.testing.assert_allclose(target, np.abs(zero_filled(kspace)), rtol=1e-6)
    assert sample.max_value == pytest.approx(target.max())


def test_simulated_scans_repeat_bit_for_bit(simulated: ModuleType, tmp_path: Path) -> None:
    write_pictures(tmp_path / "some", range(12))
    first = list(simulated.simulate_folder(tmp_path / "some", tmp_path / "a"))
    np.random.default_rng()
    second = list(simulated.simulate_folder(tmp_path / "some", tmp_path / "b", limit=2))
    part = list(simulated.simulate_folder(tmp_path / "some", tmp_path / "c", every=3, limit=1))
    kspaces = [h5py.File(files[0])["kspace"][()] for files in (first, second, part)]
    np.testing.assert_array_equal(kspaces[0], kspaces[1])
    np.testing.assert_array_equal(kspaces[0][::3], kspaces[2])  # pictures 0, 3, 6, 9 of the same names
    assert [path.name for path in part] == ["some_0_to_9.h5"]
    phases = np.angle(zero_filled(kspaces[0]))[:, 128, 128]
    assert len(np.unique(phases.round(3))) == 10


def test_simulated_volumes_keep_16_bit_and_the_field_of_view(simulated: ModuleType, tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    magnitude = ellipse(200, 320) * 60000
    volume = np.stack([0 * magnitude, magnitude, magnitude + 1, 0.5 * magnitude], axis=-1).astype(np.uint16)
    (tmp_path / "in").mkdir()
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "in" / "head.nii.gz")
    (path,) = simulated.simulate_folder(tmp_path / "in", tmp_path / "out")
    assert path.name == "head.h5"
    with h5py.File(path) as scan:
        kspace = scan["kspace"][()]
    assert kspace.shape == (3, 256, 256)  # the empty slice is left out
    image = np.abs(zero_filled(kspace))
    # cropping k-space from 320 to 256 on both axes: 200 becomes 160, and the brightness scales by 256 / 320
    rows, columns = (np.flatnonzero((image[0] > 10000).any(axis=axis)) for axis in (1, 0))
    assert len(rows) == pytest.approx(0.8 * 160, abs=3) and len(columns) == pytest.approx(0.6 * 256, abs=3)
    background = image[0][:20]
    assert np.sqrt((background**2).mean()) == pytest.approx(0.01 * np.percentile(image[0], 99), rel=0.1)
    every_second = list(simulated.simulate_folder(tmp_path / "in", tmp_path / "half", every=2))
    with h5py.File(every_second[0]) as scan:
        np.testing.assert_array_equal(scan["kspace"][()], kspace[::2])


def test_simulation_keeps_the_magnitude(simulated: ModuleType) -> None:
    magnitude = ellipse(256, 256).astype(np.float32)
    kspace = simulated.simulate(magnitude, RandomState(3))
    error = ifft2c(kspace).abs().numpy() - magnitude
    assert np.sqrt((error[magnitude > 0] ** 2).mean()) == pytest.approx(0.01 / np.sqrt(2), rel=0.05)
    phase = ifft2c(kspace).numpy()[magnitude > 0]
    coherence = np.abs((phase / np.abs(phase)).mean())
    assert 0.3 < coherence < 0.99  # 1 for a constant phase


def test_folder_without_images_is_named(
    simulated: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert simulated.main([str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    assert "no NIfTI volume, JPEG or PNG picture" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert simulated.main([str(tmp_path), "--output", str(tmp_path / "out"), "--every", "0"]) == 2
