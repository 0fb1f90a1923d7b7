"""Files that were made to do harm end in one line and status 2, or give the right result."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import h5py
import numpy as np
import pytest

from mrihvae.cli.main import main
from mrihvae.errors import InputError
from mrihvae.io.images import read_images, read_kernel
from mrihvae.io.magnitudes import magnitude_slices
from mrihvae.utils import memory
from tests.support import REPOSITORY
from tests.support.attacks import (
    SHAPE,
    damage,
    write_claim,
    write_external,
    write_fastmri,
    write_nifti_bomb,
    write_npy_header,
    write_small_mrd,
    write_virtual,
)
from tests.support.files import error_of, write_h5

DEEP = 100_000


def convert(path: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """Convert a file, which must end in one line; return it."""
    out = path.parent / "out.npy"
    line = error_of(capsys, "convert", path, out, *options)
    assert not out.exists()
    return line


def test_data_outside_of_a_file_are_not_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(np.arange(1024, dtype="<f4").tobytes())
    other = write_fastmri(tmp_path / "other.h5")
    assert "'kspace' has its data in other files" in convert(write_external(tmp_path / "a.h5", secret), capsys)
    assert "'kspace' has its data in other files" in convert(write_virtual(tmp_path / "b.h5", other), capsys)
    linked = write_fastmri(tmp_path / "c.h5", kspace=False, kspace_=0)
    with h5py.File(linked, "a") as file:
        file["kspace"] = h5py.ExternalLink(str(other), "/kspace")
    assert f"'kspace' is a link to another file, {other}" in convert(linked, capsys)
    nothing = write_fastmri(tmp_path / "d.h5", ismrmrd_header=h5py.SoftLink("/nope"))
    assert "'ismrmrd_header' is a link to '/nope', which does not exist" in convert(nothing, capsys)


def test_groups_images_and_attributes_of_other_files_are_not_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = write_h5(tmp_path / "other.h5", reconstruction=np.ones(SHAPE, np.float32))
    for name in ("reconstruction", "dataset"):
        path = tmp_path / f"{name}_linked.h5"
        with h5py.File(path, "w") as file:
            file[name] = h5py.ExternalLink(str(images), "/reconstruction")
        assert f"'{name}' is a link to another file" in convert(path, capsys)
    target = write_h5(tmp_path / "t" / "a.h5", reconstruction_esc=np.ones(SHAPE, np.float32))
    prediction = tmp_path / "p" / "a.h5"
    prediction.parent.mkdir()
    with h5py.File(prediction, "w") as file:
        file["reconstruction"] = h5py.ExternalLink(str(images), "/reconstruction")
    words = ["--target-path", str(target), "--predictions-path", str(prediction), "--challenge", "singlecoil"]
    assert "is a link to another file" in error_of(capsys, "evaluate", *words)


def test_links_within_a_file_are_followed(tmp_path: Path) -> None:
    path = write_fastmri(tmp_path / "a.h5", kspace=False, raw=np.ones(SHAPE, np.complex64))
    with h5py.File(path, "a") as file:
        file["kspace"] = h5py.SoftLink("raw")
    assert main(["convert", str(path), str(tmp_path / "out.npy")]) == 0
    assert (np.load(tmp_path / "out.npy") == 1).all()


@pytest.mark.parametrize(
    ("shape", "chunks", "options", "message"),
    [
        ((1, 10**6, 10**6), (1, 10**4, 10**4), {}, "slices of 1000000 x 1000000"),
        ((1, 17000, 17000), (1, 8500, 8500), {"compression": "gzip"}, "slices of 17000 x 17000"),
        ((100, 4000, 4000), (1, 1000, 1000), {"compression": "gzip"}, "claims 11.9 GiB but stores 0 bytes"),
        ((100, 4000, 4000), None, {}, "claims 11.9 GiB but stores 0 bytes"),
    ],
)
def test_small_files_that_claim_much(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    shape: tuple[int, ...],
    chunks: tuple[int, ...],
    options: dict[str, str],
    message: str,
) -> None:
    path = write_claim(tmp_path / "a.h5", shape, chunks, **options)
    with h5py.File(path, "a") as file:
        del file["mask"]
    assert path.stat().st_size < 2**14
    assert message in convert(path, capsys, "--max-memory", "100")


def test_compressed_data_have_the_limit_of_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_fastmri(tmp_path / "a.h5", kspace=False, mask=False)
    with h5py.File(path, "a") as file:
        file.create_dataset("kspace", data=np.zeros((4, 1024, 1024), np.complex64), chunks=(1, 256, 256), compression=9)
    assert path.stat().st_size < 2**18
    line = convert(path, capsys, "--max-memory", "0.005")
    assert (
        "'kspace' takes 0.00781 GiB of memory, and the limit is 0.005 GiB; raise MRIHVAE_MAX_MEMORY, or split the file"
        in line
    )
    assert "the limit is 0.005 GiB" in error_of(capsys, "info", path, "--max-memory", "0.005")
    memory.set_limit(None)


def test_empty_and_nested_descriptions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = write_fastmri(tmp_path / "a.h5", kspace=False, kspace_=0)
    with h5py.File(empty, "a") as file:
        file["kspace"] = h5py.Empty("c8")
    words = ["reconstruct", str(empty), "--output", str(tmp_path / "o"), "--method", "zero-filled"]
    assert "'kspace' has shape ()" in error_of(capsys, *words)
    np.save(tmp_path / "x.npy", np.ones(SHAPE, np.complex64))
    (tmp_path / "x.json").write_text("[" * DEEP)
    assert "not readable as JSON" in convert(tmp_path / "x.npy", capsys)
    directions = {"read_dir": [1, 0, 0], "phase_dir": [0, 1, 0], "slice_dir": [0, 0, 1], "voxel_mm": [1, 1, 5]}
    about = {"axes": ["slice", "H", "W"], "positions_mm": [[10**400, 0, 0], [0, 0, 5]], **directions}
    (tmp_path / "x.json").write_text(json.dumps(about))
    assert "attributes of its geometry are no numbers" in convert(tmp_path / "x.npy", capsys)
    (tmp_path / "p.toml").write_text("a=" + "[" * DEEP)
    words = ["run", str(tmp_path / "p.toml"), "--data", str(tmp_path), "--output", str(tmp_path / "o")]
    assert "not a readable protocol" in error_of(capsys, *words)


@pytest.mark.parametrize("text", ['{"training":{"learning_rate":1' + "0" * 400 + "}}", "[" * DEEP])
def test_settings_of_training(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    scan, settings = write_fastmri(tmp_path / "a.h5", mask=False), tmp_path / "s.json"
    settings.write_text(text)
    words = ["train", str(scan), "--output", str(tmp_path / "o"), "--settings", str(settings)]
    assert error_of(capsys, *words).startswith(f"{settings}")


def test_headers_of_numpy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_npy_header(tmp_path / "x.npy", "{'descr': 'c', 'fortran_order': False, 'shape': (True,2), }")
    (tmp_path / "x.json").write_text('{"axes":["H","W"]}')
    assert "truncated or no NumPy array" in convert(path, capsys)
    write_npy_header(path, "{'descr': '<c8', 'fortran_order': False, 'shape': (1000000,1000000), }")
    assert "it holds 64 of 8000000000000 bytes" in convert(path, capsys)
    for header in (
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1000001,1000001), }",
        "{'descr': ('<f4', 'fortran_order': False, ",
    ):
        with pytest.raises(InputError, match=re.escape(str(tmp_path / "k.npy"))):
            read_kernel(write_npy_header(tmp_path / "k.npy", header))


@pytest.mark.parametrize("name", ["a$\\frac{$.h5", os.fsdecode(b"M\xfcller.h5"), "a\x1b[2J\n.h5"])
def test_names_break_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    scan, output = write_fastmri(tmp_path / "scan.h5"), tmp_path / "o"
    path = scan.rename(tmp_path / name)
    words = ["--output", str(output), "--method", "zero-filled"]
    assert main(["reconstruct", str(path), *words]) == 0
    assert (output / "reconstruct.json").is_file() and len(list((output / "panels").glob("*.png"))) == 1
    assert main(["reconstruct", str(path), *words]) == 2
    assert main(["report", str(output)]) == 0
    assert main(["info", str(path)]) in (0, 1)
    assert main(["convert", str(path), str(tmp_path / f"{name}.npy")]) == 0
    shown = capsys.readouterr()
    assert "\x1b[2J" not in shown.out + shown.err
    (shown.out + shown.err).encode()


def test_images_that_claim_much(tmp_path: Path) -> None:
    import nibabel
    from PIL import Image

    path = write_nifti_bomb(tmp_path / "x.nii.gz", 16000, 16000)
    assert path.stat().st_size < 2**20
    with pytest.raises(InputError, match="slices of 16000 x 16000"):
        read_images(path)
    nibabel.Nifti1Image(np.zeros((12, 10, 0), np.float32), np.eye(4)).to_filename(tmp_path / "e.nii")
    with pytest.raises(InputError, match=r"has shape \(12, 10, 0\)"):
        magnitude_slices(tmp_path / "e.nii")
    for suffix in ("png", "tif"):
        picture = tmp_path / f"x.{suffix}"
        Image.fromarray(np.zeros((9000, 9000), bool)).save(picture)
        with pytest.raises(InputError, match="slices of 9000 x 9000"):
            read_images(picture)


@pytest.mark.parametrize("seed", [151, 411, 682, 871])  # of these some crash HDF5 2.0, and one makes it hang
def test_damage_ends_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setenv("MRIHVAE_READ_SECONDS", "2")
    for write in (write_fastmri, write_small_mrd):
        (tmp_path / "out.npy").unlink(missing_ok=True)
        path = damage(write(tmp_path / f"{write.__name__}.h5"), seed)
        status = main(["convert", str(path), str(tmp_path / "out.npy")])
        shown = capsys.readouterr().err.splitlines()
        assert status == 0 or (status == 2 and len(shown) == 1 and shown[0].startswith("mrihvae: error: "))


def test_one_module_opens_hdf5() -> None:
    found = {
        str(path.relative_to(REPOSITORY / "mrihvae"))
        for path in (REPOSITORY / "mrihvae").rglob("*.py")
        if re.search(r"""h5py\.File\((?!.*["']w["'])""", path.read_text())
    }
    assert found == {"io/probe.py"}  # the worker, which opens what others then read by `open_checked`
