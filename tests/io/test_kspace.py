"""K-space of every format: told by content, the same arrays and images of all, and what is wrong with bad files."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tests.support.files import PROTOCOL, complex_normal, error_of, run, write_h5, write_scan
from tests.support.small import small_kspace
from tests.support.small_coils import calibrated, coil_scans

pytest.importorskip("ismrmrd")

from mrihvae import open_kspace
from mrihvae.data.geometry import GEOMETRY_KEYS
from mrihvae.datasets.mixture import Reading, load_mixture
from mrihvae.errors import InputError
from mrihvae.io.bart import write_cfl
from mrihvae.io.kspace import head_of, kind_of, list_kspace
from mrihvae.io.partitions import centered_fft
from mrihvae.recon.undersampling import mask_of
from tests.support import mrd

FORMATS = ("fastmri", "mrd", "bart", "numpy")
NAMES = {"fastmri": "a.h5", "mrd": "b.mrd", "bart": "c.cfl", "numpy": "d.npy"}
MOST = 1e-6  # by which MRD's arrays may differ, which went through the Fourier transform of the readout
AXES = ["slice", "coil", "H", "W"]
GEOMETRY = {
    "positions_mm": [[0, 0, 5.0 * k] for k in range(3)], "read_dir": [0, 1, 0], "phase_dir": [0, 0, 1],
    "slice_dir": [1, 0, 0], "voxel_mm": [1.5, 2, 5],
}  # fmt: skip


def write_numpy(path: Path, array: np.ndarray, **about: Any) -> Path:
    np.save(path, array)
    path.with_suffix(".json").write_text(json.dumps({"axes": AXES[-array.ndim :], **about}))
    return path


def write_bart(path: Path, kspace: np.ndarray) -> Path:
    """Write k-space (slices, coils, H, W)."""
    slices, coils, height, width = kspace.shape
    write_cfl(path, kspace.transpose(2, 3, 1, 0).reshape(height, width, 1, coils, *[1] * 9, slices))
    return path


def write(folder: Path, kind: str, kspace: np.ndarray, mask: np.ndarray | None = None) -> Path:
    """Write k-space (slices, coils, H, W) in a format, with the mask of its lines."""
    folder.mkdir(exist_ok=True)
    path = folder / NAMES[kind]
    measured = kspace if mask is None else np.where(mask, kspace, 0)
    whole = measured[:, 0] if kspace.shape[1] == 1 else measured
    if kind == "fastmri":
        datasets = {"kspace": whole} if mask is None else {"kspace": whole, "mask": mask}
        return write_h5(path, **datasets)
    if kind == "mrd":
        mrd.write_mrd(path, mrd.cartesian_xml(kspace.shape), mrd.cartesian_lines(kspace, mask=mask, shuffle=True))
        return path
    if kind == "bart":
        return write_bart(path, measured)
    return write_numpy(path, measured, **({} if mask is None else {"mask": mask.astype(int).tolist()}))


@pytest.mark.parametrize("coils", [1, 3])
@pytest.mark.parametrize("undersampled", [False, True])
@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_gives_the_same(kind: str, undersampled: bool, coils: int, tmp_path: Path) -> None:
    kspace = complex_normal((3, coils, 16, 12))
    mask = np.arange(12) % 3 == 0 if undersampled else None
    path = write(tmp_path, kind, kspace, mask)
    (scan,) = open_kspace(str(path))
    truth = kspace if mask is None else np.where(mask, kspace, 0)
    truth = truth[:, 0] if coils == 1 else truth
    assert scan.kspace.dtype == np.complex64 and scan.coils == coils and head_of(path) == ([scan.name], coils)
    np.testing.assert_allclose(scan.kspace, truth, atol=MOST if kind == "mrd" else 0)
    assert kind_of(path) == kind and Path(scan.name).stem == path.stem
    if mask is not None:
        np.testing.assert_array_equal(mask_of(scan, None), mask)


@pytest.mark.parametrize("kind", ["fastmri", "mrd", "numpy"])  # BART's is a pair of names
@pytest.mark.parametrize("name", ["scan.h5", "scan.hdf5", "scan.mrd"])
def test_content_counts_and_not_the_name(kind: str, name: str, tmp_path: Path) -> None:
    kspace = complex_normal((3, 2, 16, 12))
    path = write(tmp_path, kind, kspace).rename(tmp_path / name)
    if kind == "numpy":
        (tmp_path / "d.json").rename(tmp_path / "scan.json")
    assert kind_of(path) == kind
    np.testing.assert_allclose(open_kspace(path)[0].kspace, kspace, atol=MOST)


# NumPy


@pytest.mark.parametrize("axes", [list(axes) for axes in permutations(AXES)], ids="-".join)
def test_numpy_axes_in_any_order(axes: list[str], tmp_path: Path) -> None:
    kspace = complex_normal((3, 2, 16, 12))
    array = kspace.transpose([AXES.index(axis) for axis in axes])
    (scan,) = open_kspace(write_numpy(tmp_path / "scan.npy", array, axes=axes))
    np.testing.assert_array_equal(scan.kspace, kspace)
    assert scan.kspace.flags.c_contiguous and scan.name == "scan.h5" and scan.mask is None and scan.geometry is None


@pytest.mark.parametrize(
    ("axes", "shape", "expected"),
    [
        (["W", "H"], (12, 16), (1, 16, 12)),
        (["coil", "H", "W"], (2, 16, 12), (1, 2, 16, 12)),
        (["H", "slice", "W"], (16, 3, 12), (3, 16, 12)),
        (["slice", "coil", "H", "W"], (3, 1, 16, 12), (3, 16, 12)),
    ],
)
def test_numpy_axes_that_are_left_out(
    axes: list[str], shape: tuple[int, ...], expected: tuple[int, ...], tmp_path: Path
) -> None:
    array = complex_normal(shape).astype(np.complex128)
    (scan,) = open_kspace(write_numpy(tmp_path / "scan.npy", array, axes=axes))
    assert scan.kspace.shape == expected and scan.kspace.dtype == np.complex64
    assert np.abs(scan.kspace).sum() == pytest.approx(np.abs(array).sum())


def test_numpy_mask_geometry_and_acquisition(tmp_path: Path) -> None:
    lines = [1, 0, 0, 1] * 3
    path = tmp_path / "scan.npy"
    write_numpy(path, complex_normal((3, 2, 16, 12)), mask=lines, acquisition="T2", **GEOMETRY)
    (scan,) = open_kspace(path)
    assert scan.mask is not None and scan.mask.dtype == bool and scan.mask.tolist() == [one == 1 for one in lines]
    assert scan.attributes == {"acquisition": "T2"} and scan.geometry is not None
    for name, value in scan.geometry.attributes().items():
        np.testing.assert_array_equal(value, GEOMETRY[name])


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"axes": ["coil", "H"]}, "'axes' is ['coil', 'H']"),
        ({"axes": "HW"}, "'axes' is 'HW'"),
        ({"axes": None}, "'axes' is None"),
        ({"axes": ["slice", "coil", "H", "H"]}, "'axes' is"),
        ({"axes": ["slice", "coil", "h", "w"]}, "'axes' is"),
        ({"axes": ["slice", ["coil"], "H", 3]}, "'axes' is"),
        ({"axes": ["coil", "H", "W"]}, "complex64 of shape (3, 2, 16, 12); give complex numbers with axes"),
        ({"mask": [1] * 11}, "'mask' must be a list of 12 numbers"),
        ({"mask": [0] * 12}, "'mask' must be"),
        ({"mask": [[1], [1, 0]] * 6}, "'mask' must be"),
        ({"mask": [2] * 12}, "'mask' must be"),
        ({"mask": [0.5] * 12}, "'mask' must be"),
        ({"mask": "101010101010"}, "'mask' must be"),
        ({"masks": [1] * 12}, "unknown entry 'masks'; the nearest known one is 'mask'"),
        ({"voxel_mm": [1, 1, 1]}, "has part of the geometry, but no 'positions_mm'"),
        ({**GEOMETRY, "positions_mm": [[0, 0, 0]]}, "there are 3 slices"),
        ({**GEOMETRY, "read_dir": [0, 0, 1]}, "not at right angles"),
        ({**GEOMETRY, "voxel_mm": [1, 0, 1]}, "no extent"),
        ({**GEOMETRY, "voxel_mm": "wide"}, "not numbers"),
        ({**GEOMETRY, "voxel_mm": [1, [2], 3]}, "not numbers"),
    ],
    ids=range(20),
)
def test_numpy_json_that_is_wrong(
    about: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_numpy(tmp_path / "scan.npy", complex_normal((3, 2, 16, 12)), **about)
    text = error_of(capsys, "reconstruct", path, "--output", tmp_path / "out", "--method", "zero-filled")
    assert message in text and text.startswith(str(path.with_suffix(""))) and not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [None, b"", b"{", b"[1]", b"3", b"\xff\xfe", b"null"])
def test_numpy_json_that_is_none(content: bytes | None, tmp_path: Path) -> None:
    path = write_numpy(tmp_path / "scan.npy", complex_normal((3, 2, 16, 12)))
    path.with_suffix(".json").unlink()
    if content is not None:
        path.with_suffix(".json").write_bytes(content)
    with pytest.raises(InputError, match=r"scan\.json: (not readable as JSON|is not a dictionary)"):
        open_kspace(path)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones((16, 12), np.float32), "is float32 of shape (16, 12); give complex numbers"),
        (np.array(["a", "b"]), "give complex numbers"),
        (complex_normal((1, 12)), "H and W must be at least 2"),
        (complex_normal((0, 12)), "H and W must be at least 2"),
        (np.full((16, 12), np.nan, np.complex64), "NaN"),
        (np.full((16, 12), 1e39 + 0j, np.complex128), "holds NaN or infinite values"),  # beyond single precision
        (np.zeros((16, 12), np.complex64), "zero everywhere"),
        (np.array([[{}]]), "not a NumPy array of numbers"),
    ],
    ids=range(8),
)
def test_numpy_arrays_that_are_wrong(
    array: np.ndarray, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "scan.npy", array, allow_pickle=True)
    (tmp_path / "scan.json").write_text('{"axes": ["H", "W"]}')
    words = ("--output", tmp_path / "out", "--method", "zero-filled")
    assert message in error_of(capsys, "reconstruct", tmp_path / "scan.npy", *words)


@pytest.mark.parametrize("kept", [8, 40, 100, 200])
def test_numpy_arrays_that_are_cut(kept: int, tmp_path: Path) -> None:
    path = write_numpy(tmp_path / "scan.npy", complex_normal((16, 12)))
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InputError, match=r"scan\.npy: truncated or not a NumPy array"):
        open_kspace(path)


@pytest.mark.parametrize(("old", "new"), [(b", }", b", {"), (b"(16, 12)", b"(9999,9)"), (b"<c8", b"<q9")])
def test_numpy_headers_that_are_damaged(old: bytes, new: bytes, tmp_path: Path) -> None:
    path = write_numpy(tmp_path / "scan.npy", complex_normal((16, 12)))
    whole = path.read_bytes()
    assert whole.count(old) == 1
    path.write_bytes(whole.replace(old, new))
    with pytest.raises(InputError, match=r"scan\.npy: truncated or not a NumPy array"):
        open_kspace(path)


# BART


@pytest.mark.parametrize("name", ["scan", "scan.cfl", "scan.hdr"])
def test_bart_names(name: str, tmp_path: Path) -> None:
    kspace = complex_normal((3, 2, 16, 12))
    write_bart(tmp_path / "scan.cfl", kspace)
    (scan,) = open_kspace(tmp_path / name)
    np.testing.assert_array_equal(scan.kspace, kspace)
    assert scan.name == "scan.h5" and list_kspace(tmp_path / name) == [tmp_path / name]


def test_bart_2d(tmp_path: Path) -> None:
    kspace = complex_normal((16, 12))
    write_cfl(tmp_path / "scan", kspace)
    (scan,) = open_kspace(tmp_path / "scan.cfl")
    np.testing.assert_array_equal(scan.kspace, kspace[None])


def test_bart_3d_equals_that_of_mrd(tmp_path: Path) -> None:
    """READ, PHS1, PHS2 and COIL: slices are those of the Fourier transform across PHS2."""
    kspace = complex_normal((6, 2, 16, 12))  # partitions, coils, H, W
    write_cfl(tmp_path / "a.cfl", kspace.transpose(2, 3, 0, 1))
    lines = [
        line
        for z, one in enumerate(kspace)
        for line in mrd.cartesian_lines(one[None], counters={"kspace_encode_step_2": z}, last_in_measurement=False)
    ]
    limits = {"kspace_encoding_step_1": (0, 11, 6), "kspace_encoding_step_2": (0, 5, 3)}
    xml = mrd.write_xml((32, 12, 6), (16, 12, 6), limits=limits)
    mrd.write_mrd(tmp_path / "b.h5", xml, lines)
    (bart,), (found,) = open_kspace(tmp_path / "a.cfl"), open_kspace(tmp_path / "b.h5")
    np.testing.assert_allclose(bart.kspace, centered_fft(kspace, 0, inverse=True), atol=1e-6)
    np.testing.assert_allclose(found.kspace, bart.kspace, atol=1e-6)


def test_bart_undersampled_lines_of_3d_and_partitions(tmp_path: Path) -> None:
    kspace = complex_normal((6, 2, 16, 12))
    kspace[..., 1::2] = 0
    write_cfl(tmp_path / "scan.cfl", kspace.transpose(2, 3, 0, 1))
    (scan,) = open_kspace(tmp_path / "scan.cfl")
    assert mask_of(scan, None).tolist() == [True, False] * 6
    kspace[::2] = 0
    write_cfl(tmp_path / "scan.cfl", kspace.transpose(2, 3, 0, 1))
    with pytest.raises(InputError, match=r"scan\.cfl: partitions are missing"):
        open_kspace(tmp_path / "scan.cfl")


def test_bart_times_and_echoes_are_scans(tmp_path: Path) -> None:
    kspace = complex_normal((2, 3, 4, 2, 16, 12))  # times, echoes, slices, coils, H, W
    array = kspace.transpose(4, 5, 3, 1, 0, 2).reshape(16, 12, 1, 2, 1, 3, 1, 1, 1, 1, 2, 1, 1, 4)
    write_cfl(tmp_path / "scan.cfl", array)
    scans = open_kspace(tmp_path / "scan.cfl")
    assert [scan.name for scan in scans] == [f"scan_te{e}_time{t}.h5" for e in range(3) for t in range(2)]
    for scan, (e, t) in zip(scans, ((e, t) for e in range(3) for t in range(2))):
        np.testing.assert_array_equal(scan.kspace, kspace[t, e])


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((16, 12, 1, 2, 2), "has 2 numbers along dimension 4 (MAPS), where k-space has one"),
        ((16, 12, *[1] * 10, 3), "dimension 12 (LEVEL)"),
        ((16, 12, 4, *[1] * 10, 3), "both partitions (PHS2) and slices"),
        ((16,), "H and W must be at least 2"),
        ((1, 16, 12), "H and W must be at least 2"),
    ],
)
def test_bart_dimensions_that_are_none_of_kspace(sizes: tuple[int, ...], message: str, tmp_path: Path) -> None:
    write_cfl(tmp_path / "scan.cfl", complex_normal(sizes))
    with pytest.raises(InputError) as caught:
        open_kspace(tmp_path / "scan.cfl")
    assert message in str(caught.value) and str(tmp_path / "scan.cfl") in str(caught.value)


def test_bart_files_that_are_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("reconstruct", tmp_path / "scan.cfl", "--output", tmp_path / "out", "--method", "zero-filled")
    kspace = complex_normal((3, 2, 16, 12))
    kspace[1, 1, 4, 4] = np.inf
    write_bart(tmp_path / "scan.cfl", kspace)
    assert "scan.cfl: holds NaN or infinite values" in error_of(capsys, *words)
    (tmp_path / "scan.hdr").write_text(f"# Dimensions\n16 12 {'1 ' * 15}6\n")
    (tmp_path / "scan.cfl").write_bytes(complex_normal((16, 12, 6)).tobytes())
    assert "scan.cfl: has 18 dimensions; BART's arrays have 16" in error_of(capsys, *words)
    (tmp_path / "scan.hdr").write_text("# Dimensions\n16 12 3\n")
    assert "scan.cfl: has 9216 bytes, and scan.hdr says 16 x 12 x 3 numbers" in error_of(capsys, *words)
    (tmp_path / "scan.hdr").write_text("16 12\n")
    assert "scan.hdr: has no sizes" in error_of(capsys, *words)
    (tmp_path / "scan.hdr").unlink()
    assert "scan.cfl: incomplete, as scan.hdr is missing" in error_of(capsys, *words)


# Files and folders


def test_files_of_no_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "note.txt").write_text("hello")
    (tmp_path / "scan.h5").write_text("hello")
    for name, message in (
        ("note.txt", "unrecognized format; give fastMRI HDF5, ISMRMRD"),
        ("scan.h5", "truncated or not an HDF5 file"),
        ("none.h5", "file not found; give fastMRI"),
        (".", "is a folder"),
    ):
        with pytest.raises(InputError) as caught:
            open_kspace(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value) and message in str(caught.value)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="is a folder"):
        open_kspace(".")


def test_fastmri_files_with_groups_stay_fastmri(tmp_path: Path) -> None:
    """Groups beside `kspace`, with anything in them, do not make it another format."""
    path = write_scan(tmp_path / "scan.h5")
    with h5py.File(path, "a") as file:
        file["dataset/xml"], file["dataset/data"] = b"", np.zeros(3)
        file["gone"] = h5py.SoftLink("/nowhere")
    assert kind_of(path) == "fastmri" and open_kspace(path)[0].kspace.shape == (2, 24, 20)


def test_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="no file with k-space in this folder"):
        list_kspace(tmp_path)
    kspace = complex_normal((3, 2, 16, 12))
    files = [write(tmp_path, kind, kspace) for kind in FORMATS]
    (tmp_path / ".hidden.h5").touch()
    (tmp_path / "note.txt").touch()
    assert list_kspace(tmp_path) == files
    write_numpy(tmp_path / "c.npy", kspace)
    text = error_of(capsys, "reconstruct", tmp_path, "--output", tmp_path / "out", "--method", "zero-filled")
    assert text.endswith(f"{tmp_path}: c.cfl and c.npy would have results with the same name; rename one")


# Commands


@pytest.fixture(scope="module")
def truth() -> tuple[np.ndarray, np.ndarray]:
    """Complete k-space of a slice and 2 coils, and lines that are measured."""
    return coil_scans(1, 2, 24, 20)[0].numpy(), calibrated(20).numpy()


def reconstructed(folder: Path) -> dict[str, np.ndarray]:
    found = {}
    for path in (folder / "reconstructions").iterdir():
        with h5py.File(path) as file:
            found[path.name] = file["reconstruction"][()]
    return found


@pytest.mark.parametrize("method", ["zero-filled", "tv"])
def test_reconstructions_of_all_formats_are_the_same(
    method: str, truth: tuple[np.ndarray, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a folder with all of them, and of each file alone."""
    files = [write(tmp_path / "scans", kind, *truth) for kind in FORMATS]
    words = ("--method", method)
    assert run("reconstruct", tmp_path / "scans", "--output", tmp_path / "all", *words) == 0
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == ["a.h5", "b.h5", "c.h5", "d.h5"]
    images = reconstructed(tmp_path / "all")
    assert sorted(images) == ["a.h5", "b.h5", "c.h5", "d.h5"]
    for image in images.values():
        np.testing.assert_allclose(image, images["a.h5"], atol=1e-4 * images["a.h5"].max())
    for file in files[1:] if method == "zero-filled" else files[1:2]:
        assert run("reconstruct", file, "--output", tmp_path / file.stem, *words) == 0
        ((name, image),) = reconstructed(tmp_path / file.stem).items()
        np.testing.assert_array_equal(image, images[name])


def test_complete_scans_of_all_formats_are_undersampled_alike(
    truth: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    for kind in FORMATS:
        path = write(tmp_path / kind, kind, truth[0])
        for beside in list(path.parent.iterdir()):  # seeds of masks are names of scans
            beside.rename(path.parent / f"scan{beside.suffix.replace('.mrd', '.h5')}")
        name = f"scan{path.suffix.replace('.mrd', '.h5')}"
        words = ("--method", "zero-filled", "--mask-type", "random", "--acceleration", "3")
        assert run("reconstruct", path.parent / name, "--output", tmp_path / f"out_{kind}", *words) == 0
    images = [reconstructed(tmp_path / f"out_{kind}")["scan.h5"] for kind in FORMATS]
    for image in images:
        np.testing.assert_allclose(image, images[0], atol=1e-5 * images[0].max())


def several(path: Path, repetitions: int = 3) -> np.ndarray:
    """Write an MRD file with several repetitions; gives its k-space."""
    kspace = np.stack([small_kspace(2, 24, 20, seed=k).numpy()[:, None] for k in range(repetitions)])
    path.parent.mkdir(exist_ok=True)
    lines = mrd.cartesian_lines(kspace, mask=np.arange(20) % 2 == 0)
    mrd.write_mrd(path, mrd.cartesian_xml(kspace.shape), lines)
    return kspace


def test_resume_with_several_scans_in_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    several(tmp_path / "scans/a.h5")
    write_scan(tmp_path / "scans/b.h5", mask=np.arange(20) % 2 == 0)
    words = ("reconstruct", tmp_path / "scans", "--output", tmp_path / "out", "--method", "zero-filled")
    assert run(*words) == 0
    names = ["a_repetition0.h5", "a_repetition1.h5", "a_repetition2.h5", "b.h5"]
    assert sorted(path.name for path in (tmp_path / "out/reconstructions").iterdir()) == names
    told = json.loads((tmp_path / "out/reconstruct.json").read_text())["volumes"]
    assert [(row["file"], row.get("source"), row.get("scans")) for row in told] == [
        *((name, "a.h5", 3) for name in names[:3]),
        ("b.h5", None, None),
    ]
    images = reconstructed(tmp_path / "out")
    assert not np.allclose(images[names[0]], images[names[1]])
    capsys.readouterr()
    assert run(*words, "--resume") == 0
    assert capsys.readouterr().out.splitlines() == ["a.h5: already there", "b.h5: already there"]
    (tmp_path / "out/reconstructions" / names[1]).unlink()
    assert run(*words, "--resume") == 0
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 4 and out[-1] == "b.h5: already there"
    again = reconstructed(tmp_path / "out")
    assert sorted(again) == names
    for name in names:
        np.testing.assert_array_equal(again[name], images[name])


def test_protocols_take_all_formats(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """MRD files with several scans, complete BART and fastMRI files; those without a target are not scored."""
    (tmp_path / "small.toml").write_text(PROTOCOL)
    folder = tmp_path / "data/val"
    write_scan(folder / "a.h5", (2, 24, 20))
    write_bart(folder / "b.cfl", small_kspace(2, 24, 20).numpy()[:, None])
    several(folder / "c.h5")
    words = ("run", tmp_path / "small.toml", "--data", tmp_path / "data", "--output", tmp_path / "out")
    assert run(*words) == 0
    names = ["a.h5", "b.h5", "c_repetition0.h5", "c_repetition1.h5", "c_repetition2.h5"]
    told = json.loads((tmp_path / "out/run.json").read_text())["volumes"]
    assert [row["file"] for row in told] == names
    assert [row["scores"] is not None for row in told] == [True, False, False, False, False]
    assert [row["effective_acceleration"] for row in told][2:] == [2.0, 2.0, 2.0]
    images = reconstructed(tmp_path / "out")
    assert sorted(images) == names and all(image.shape == (2, 24, 20) for image in images.values())
    assert "mean of 5, 1 scored" in capsys.readouterr().out
    for name in ("a.h5", "b.cfl", "b.hdr"):
        (folder / name).unlink()
    several(folder / "c.h5", repetitions=1)  # other content under the same name is read anew
    assert run(*words, "--overwrite") == 0
    assert [row["file"] for row in json.loads((tmp_path / "out/run.json").read_text())["volumes"]] == ["c.h5"]


def test_scans_of_one_name_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "small.toml").write_text(PROTOCOL)
    several(tmp_path / "data/b.h5")
    write_scan(tmp_path / "data/b_repetition1.h5")
    words = ("run", tmp_path / "small.toml", "--data", tmp_path / "data", "--output", tmp_path / "out")
    told = "data: b.h5 and b_repetition1.h5 would have results with the same name; rename one"
    assert error_of(capsys, *words).endswith(told)
    words = ("reconstruct", tmp_path / "data", "--output", tmp_path / "out", "--method", "zero-filled")
    assert error_of(capsys, *words).endswith(told) and not (tmp_path / "out").exists()


@pytest.mark.parametrize("together", [False, True])
def test_training_reads_all_formats(together: bool, tmp_path: Path) -> None:
    """Slices of complete scans, each coil one of its own unless they are read together."""
    kspace = complex_normal((3, 2, 16, 12))
    truth = kspace if together else kspace.reshape(-1, 16, 12)
    for kind in FORMATS:
        (dataset,) = load_mixture(
            [str(write(tmp_path / kind, kind, kspace))], reading=Reading(together=together)
        ).datasets
        assert dataset.raw and len(dataset.arrays) == len(truth)
        np.testing.assert_allclose(np.stack(list(dataset.arrays)), truth, atol=MOST)
    for kind in FORMATS:
        write(tmp_path / "all", kind, kspace)
    (dataset,) = load_mixture([str(tmp_path / "all")], reading=Reading(together=together)).datasets
    assert len(dataset.arrays) == 4 * len(truth)


@pytest.mark.parametrize("kind", FORMATS)
def test_training_refuses_undersampled_scans(kind: str, tmp_path: Path) -> None:
    path = write(tmp_path, kind, complex_normal((3, 2, 16, 12)), np.arange(12) % 2 == 0)
    with pytest.raises(InputError, match="is undersampled.*; training needs fully sampled scans"):
        load_mixture([str(path)])


def test_training_takes_scans_of_reduced_resolution(tmp_path: Path) -> None:
    """All lines are there that the scanner encodes."""
    taken = (np.arange(12) >= 2) & (np.arange(12) < 10)
    lines = mrd.cartesian_lines(complex_normal((3, 2, 16, 12)), mask=taken)
    limits = {"kspace_encoding_step_1": (2, 9, 6)}
    mrd.write_mrd(tmp_path / "scan.h5", mrd.cartesian_xml((3, 2, 16, 12), limits=limits), lines)
    (dataset,) = load_mixture([str(tmp_path / "scan.h5")]).datasets
    assert len(dataset.arrays) == 6


def test_all_names_of_the_geometry_are_known() -> None:
    assert set(GEOMETRY) == set(GEOMETRY_KEYS)


def test_commands_of_one_coil_and_several_choose_by_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--challenge looks into every format."""
    for kind in FORMATS:
        path = write(tmp_path / kind, kind, complex_normal((2, 3, 16, 12)), np.arange(12) % 2 == 0)
        words = ("reconstruct", path, "--output", tmp_path / "out", "--method", "zero-filled")
        assert "has 3 coils, which does not match challenge 'singlecoil'" in error_of(
            capsys, *words, "--challenge", "singlecoil"
        )
