"""`mrihvae simulate`: what it writes where, and what stands in its way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import nibabel
import numpy as np
import pytest
from fastmri.data import SliceDataset
from fastmri.data.transforms import VarNetDataTransform

from mrihvae.cli import simulate as cli_simulate
from mrihvae.physics.fastmri_masks import sampling_mask, seed_of
from tests.support.files import error_of, run
from tests.support.small import phantom


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Write two volumes of phantoms."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number, name in enumerate(("a", "b")):
        volume = np.stack([phantom(64, 48, number + 2 * k) for k in range(3)], axis=-1)
        nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), folder / f"{name}.nii.gz")
    return folder


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def attributes_of(path: Path) -> dict[str, Any]:
    with h5py.File(path) as file:
        return dict(file.attrs)


def mask_of(path: Path) -> np.ndarray:
    with h5py.File(path) as file:
        return np.asarray(file["mask"][()])


def test_several_coils_complete_and_undersampled(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run("simulate", images, "--coils", "8", "--acceleration", "4", "--output", out, "--matrix", "48") == 0
    assert files_below(out) == [f"multicoil_{kind}/{name}.h5" for kind in ("test", "val") for name in ("a", "b")]
    lines = capsys.readouterr().out.splitlines()
    mask = sampling_mask("random", 48, 4, 0.08, seed_of("a.h5"))
    assert lines[0] == f"a.h5: 3 slices, R = {48 / mask.sum():.2f}" and lines[1].startswith("b.h5: 3 slices, R = ")
    assert lines[2:] == [f"48 x 48, 8 coils: {out / 'multicoil_val'}   undersampled: {out / 'multicoil_test'}"]
    np.testing.assert_array_equal(mask_of(out / "multicoil_test" / "a.h5"), mask)
    attributes = attributes_of(out / "multicoil_test" / "a.h5")
    assert attributes["acceleration"] == 4 and attributes["num_low_frequency"] == 4
    dataset = SliceDataset(out / "multicoil_test", "multicoil", VarNetDataTransform())
    assert len(dataset) == 6 and dataset[0].masked_kspace.shape == (8, 48, 48, 2)


def test_one_coil_complete(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("simulate", images, "--output", tmp_path / "out", "--every", "2", "--limit", "1") == 0
    assert files_below(tmp_path / "out") == ["singlecoil_val/a.h5"]
    assert capsys.readouterr().out == f"a.h5: 2 slices\n256 x 256, 1 coil: {tmp_path / 'out' / 'singlecoil_val'}\n"
    with h5py.File(tmp_path / "out" / "singlecoil_val" / "a.h5") as file:
        assert file["kspace"].shape == file["reconstruction_esc"].shape == (2, 256, 256)


def test_what_else_can_be_asked_for(images: Path, tmp_path: Path) -> None:
    words = ("--coils", "3", "--fields", "random", "--noise-correlation", "0.4", "--keep-maps", "--matrix", "40")
    seeded = ("--noise", "0.05", "--seed", "7", "--limit", "1")
    assert run("simulate", images / "b.nii.gz", *words, *seeded, "--output", tmp_path / "out") == 0
    with h5py.File(tmp_path / "out" / "multicoil_val" / "b.h5") as file:
        assert set(file) == {"kspace", "reconstruction_rss", "ismrmrd_header", "noise", "sensitivity_maps"}
        assert file["kspace"].shape == (3, 3, 40, 40) and file["sensitivity_maps"].shape == (1, 3, 40, 40)
        target, noise = file["reconstruction_rss"][()], file.attrs["noise"]
    assert noise[0] == pytest.approx(0.05 * np.quantile(target[0], 0.99), rel=0.1)


@pytest.mark.parametrize(
    ("words", "acceleration", "low", "lines"),
    [
        (("--mask-type", "equispaced"), 4, 4, sampling_mask("equispaced", 48, 4, 0.08, seed_of("a.h5"))),
        (("--acceleration", "8"), 8, 2, sampling_mask("random", 48, 8, 0.04, seed_of("a.h5"))),
        (
            ("--mask-type", "magic", "--acceleration", "2", "--center-fraction", "0.25"),
            2,
            12,
            sampling_mask("magic", 48, 2, 0.25, seed_of("a.h5")),
        ),
        (("--mask-type", "center", "--acceleration", "1.5"), 1.5, 32, (np.arange(48) >= 8) & (np.arange(48) < 40)),
        (("--acceleration", "1", "--center-fraction", "1", "--seed", "3"), 1, 48, np.ones(48, dtype=bool)),
    ],
)
def test_masks(
    words: tuple[str, ...], acceleration: float, low: int, lines: np.ndarray, images: Path, tmp_path: Path
) -> None:
    assert run("simulate", images / "a.nii.gz", "--matrix", "48", *words, "--output", tmp_path / "out") == 0
    path = tmp_path / "out" / "singlecoil_test" / "a.h5"
    np.testing.assert_array_equal(mask_of(path), lines)
    attributes = attributes_of(path)
    assert attributes["acceleration"] == acceleration and attributes["num_low_frequency"] == low


def test_both_kinds_reconstruct_alike(images: Path, tmp_path: Path) -> None:
    """A complete file that `reconstruct` undersamples is the undersampled file."""
    size = ("--coils", "4", "--matrix", "48")
    assert run("simulate", images / "a.nii.gz", *size, "--acceleration", "4", "--output", tmp_path / "scans") == 0
    zero_filled = ("--method", "zero-filled")
    complete, undersampled = (tmp_path / "scans" / f"multicoil_{kind}" for kind in ("val", "test"))
    assert run("reconstruct", complete, *zero_filled, "--mask-type", "random", "--output", tmp_path / "first") == 0
    assert run("reconstruct", undersampled, *zero_filled, "--output", tmp_path / "second") == 0
    volumes = []
    for folder in ("first", "second"):
        with h5py.File(tmp_path / folder / "reconstructions" / "a.h5") as file:
            volumes.append(file["reconstruction"][()])
    assert volumes[0].shape == (3, 48, 48)
    np.testing.assert_array_equal(*volumes)


def test_help_says_what_is_written_where(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("simulate", "--help") == 0
    text = " ".join(capsys.readouterr().out.split())
    for part in (
        "OUTPUT/multicoil_val/NAME.h5",
        "OUTPUT/multicoil_test/NAME.h5",
        "reconstruction_rss",
        "num_low_frequency",
        "sensitivity_maps",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--coils", "0"), "coils 0: must be at least 1"),
        (("--matrix", "3"), "matrix 3: must be 16 to 4096"),
        (("--noise", "-1"), "noise -1.0: must be a number of at least 0"),
        (("--seed", "-1"), "seed -1: must be 0 to"),
        (("--coils", "2", "--noise-correlation", "1"), "noise correlation 1.0: must be at least 0 and below 1"),
        (("--noise-correlation", "0"), "--noise-correlation: needs several --coils; add them, or leave it out"),
        (("--fields", "random"), "--fields: needs several --coils"),
        (("--keep-maps",), "--keep-maps: needs several --coils"),
        (("--every", "0"), "every 0: must be at least 1"),
        (("--center-fraction", "0.1"), "--center-fraction: needs --acceleration"),
        (("--acceleration", "0.5"), "acceleration 0.5 is not a number of at least 1"),
        (("--acceleration", "nan"), "acceleration nan is not a number of at least 1"),
        (("--acceleration", "2.5"), "acceleration 2.5 is not a whole number"),
        (("--acceleration", "8", "--center-fraction", "0.5"), "lower one of them"),
        (("--mask-type", "partial_fourier"), "lower the acceleration to at most"),
    ],
)
def test_options_that_cannot_be(
    words: tuple[str, ...], message: str, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in error_of(capsys, "simulate", images, "--output", tmp_path / "out", *words)
    assert not (tmp_path / "out").exists()


def test_images_that_cannot_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ("--output", tmp_path / "out")
    assert "none: file not found; give NIfTI" in error_of(capsys, "simulate", tmp_path / "none", *out)
    (tmp_path / "empty").mkdir()
    assert "empty: no NIfTI volume" in error_of(capsys, "simulate", tmp_path / "empty", *out)
    (tmp_path / "empty" / "a.nii").write_bytes(b"no volume")
    assert "a.nii: not readable (" in error_of(capsys, "simulate", tmp_path / "empty", *out)
    assert not (tmp_path / "out").exists()


def test_volumes_without_an_object(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nibabel.save(nibabel.Nifti1Image(np.zeros((64, 48, 3)), np.eye(4)), images / "a.nii.gz")
    words = ("--matrix", "32", "--acceleration", "4", "--output", tmp_path / "out")
    assert run("simulate", images, *words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "a.h5: no slice with an object in it; left out" and lines[1].startswith("b.h5: 3 slices")
    assert files_below(tmp_path / "out") == ["singlecoil_test/b.h5", "singlecoil_val/b.h5"]
    assert run("simulate", images / "a.nii.gz", *words) == 2
    assert "a.nii.gz: no slice with an object in it; give other images" in capsys.readouterr().err


def test_too_little_memory(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("simulate", images, "--coils", "2", "--output", tmp_path / "out")

    def fail(error: BaseException) -> None:
        def simulate(*_: object) -> None:
            raise error

        monkeypatch.setattr(cli_simulate, "simulate_file", simulate)

    fail(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    message = "a.h5: too little memory for slices of 2 x 256 x 256; lower --coils or --matrix"
    assert message in error_of(capsys, *words)
    fail(MemoryError())
    assert message in error_of(capsys, *words)
    fail(RuntimeError("a fault of ours"))
    with pytest.raises(RuntimeError, match="a fault of ours"):
        run(*words)


def test_output_that_cannot_be_written(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    text = error_of(capsys, "simulate", images, "--output", tmp_path / "file")
    place = tmp_path / "file"
    assert text == f"{place}: cannot be written (it is a file); choose another --output"
