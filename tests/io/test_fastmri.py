"""Reading and writing fastMRI files, and every bad file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from mrihvae.data.scan import delivered_shape
from mrihvae.errors import InputError
from mrihvae.io.fastmri import read_head, read_scan, write_reconstruction
from mrihvae.io.formats import list_files
from mrihvae.io.hdf5 import read_dataset
from tests.support.files import complex_normal, header, truncate, write_h5, write_scan


def one_line(caught: pytest.ExceptionInfo[InputError], path: Path) -> str:
    """Check that the message is one line that starts with the file and says what to do; return it."""
    text = str(caught.value)
    assert text.startswith(f"{path}: ") and "\n" not in text and ";" in text
    return text


@pytest.mark.parametrize("shape", [(2, 24, 20), (2, 3, 24, 20), (1, 7, 2), (1, 1, 340, 255)])
def test_good_file(tmp_path: Path, shape: tuple[int, ...]) -> None:
    scan = read_scan(write_scan(tmp_path / "file1.h5", shape))
    assert scan.name == "file1.h5"
    assert scan.kspace.dtype == np.complex64 and np.array_equal(scan.kspace, complex_normal(shape))
    assert scan.mask is None
    assert scan.target is not None and scan.target.shape == (shape[0], *shape[-2:])
    assert scan.target.dtype == np.float32
    assert scan.padding == (0, shape[-1])
    assert scan.attributes == {"acquisition": "AXT2", "patient_id": "none"}


def test_good_undersampled_file(tmp_path: Path) -> None:
    mask = np.arange(20) % 3 == 0
    for stored in (mask, mask.astype(np.float32), mask.astype(np.uint8)[None]):
        path = write_scan(tmp_path / "file1.h5", mask=stored, reconstruction_esc=None, attributes={"acceleration": 4})
        scan = read_scan(path)
        assert scan.mask is not None and scan.mask.dtype == bool and np.array_equal(scan.mask, mask)
        assert scan.target is None and scan.attributes["acceleration"] == 4


def test_mask_of_single_bins(tmp_path: Path) -> None:
    mask = np.random.default_rng(0).random((24, 20)) < 0.3
    for stored in (mask, mask.astype(np.float32), np.broadcast_to(np.arange(24)[:, None] % 3 == 0, (24, 20))):
        for shape in ((2, 24, 20), (2, 3, 24, 20)):
            scan = read_scan(write_scan(tmp_path / "file1.h5", shape, mask=stored))
            assert scan.mask is not None and scan.mask.dtype == bool and np.array_equal(scan.mask, stored > 0)
    lines = np.arange(20) % 3 == 0
    for shape, expected in (((20,), lines), ((1, 20), lines), ((20, 1), np.broadcast_to(lines[:, None], (20, 20)))):
        scan = read_scan(write_scan(tmp_path / "file1.h5", (2, 20, 20), mask=lines.reshape(shape)))
        assert scan.mask is not None and np.array_equal(scan.mask, expected)  # of lines along W, or along H


def test_masks_as_batches_have_them(tmp_path: Path) -> None:
    """Axes of 1 around W lines, or around (H, W)."""
    lines, bins = np.arange(20) % 3 == 0, np.random.default_rng(0).random((24, 20)) < 0.3
    for shape in ((1, 20), (1, 1, 20), (1, 20, 1), (1, 1, 20, 1), (1, 1, 1, 20, 1)):
        for kind in (bool, np.uint8, ">f4", float):
            path = write_scan(tmp_path / "file1.h5", (2, 3, 24, 20), mask=lines.reshape(shape).astype(kind))
            scan = read_scan(path)
            assert scan.mask is not None and scan.mask.tolist() == lines.tolist()
    scan = read_scan(write_scan(tmp_path / "file1.h5", mask=bins.reshape(1, 1, 24, 20)))
    assert scan.mask is not None and np.array_equal(scan.mask, bins)
    rows = np.arange(24) % 3 == 0
    scan = read_scan(write_scan(tmp_path / "file1.h5", mask=rows.reshape(1, 24, 1)))
    assert scan.mask is not None and np.array_equal(scan.mask, np.repeat(rows[:, None], 20, axis=1))


@pytest.mark.parametrize("value", [b"AXT2", np.bytes_(b"AXT2"), np.array([b"AXT2"]), "AXT2"])
def test_attributes_of_any_text_type(value: object, tmp_path: Path) -> None:
    path = write_scan(tmp_path / "file1.h5", attributes={"acquisition": value, "empty": h5py.Empty("f4"), "max": 3.0})
    scan = read_scan(path)
    assert scan.attributes == {"acquisition": "AXT2", "patient_id": "none", "max": 3.0}
    assert read_head(path).acquisition == "AXT2"


def test_files_without_attributes(tmp_path: Path) -> None:
    path = write_h5(tmp_path / "file1.h5", kspace=complex_normal((2, 24, 20)))
    assert read_scan(path).attributes == {} and read_head(path).acquisition == "unknown"


@pytest.mark.parametrize("kind", ["text", "bytes", "array", "letters"])
def test_headers_of_any_text_type(kind: str, tmp_path: Path) -> None:
    text = header(24, 20, 8, 15)
    letters = np.frombuffer(text.encode(), np.uint8)
    stored = {"text": text, "bytes": np.bytes_(text), "array": np.array([text.encode()]), "letters": letters}[kind]
    assert read_scan(write_scan(tmp_path / "file1.h5", ismrmrd_header=stored)).padding == (2, 18)


def test_header_that_is_a_group_says_nothing(tmp_path: Path) -> None:
    path = write_scan(tmp_path / "file1.h5", ismrmrd_header=None, **{"ismrmrd_header/xml": "<a/>"})
    assert read_scan(path).padding is None


def test_field_strength_and_vendor_are_attributes(tmp_path: Path) -> None:
    system = "<acquisitionSystemInformation><systemVendor>ACME</systemVendor>{}</acquisitionSystemInformation>"
    hertz = (
        "<experimentalConditions><H1resonanceFrequency_Hz>63866217</H1resonanceFrequency_Hz></experimentalConditions>"
    )
    tesla = "<systemFieldStrength_T>2.89</systemFieldStrength_T>"
    for text, expected in ((system.format(tesla) + hertz, 2.89), (system.format("") + hertz, 1.5)):
        whole = header(24, 20).replace("<encoding>", f"{text}<encoding>", 1)
        attributes = read_scan(write_scan(tmp_path / "file1.h5", ismrmrd_header=whole)).attributes
        assert attributes["vendor"] == "ACME" and attributes["field_strength_T"] == expected


def test_double_precision_is_read_as_complex64(tmp_path: Path) -> None:
    path = write_scan(tmp_path / "file1.h5", kspace=complex_normal((2, 24, 20)).astype(np.complex128))
    assert read_scan(path).kspace.dtype == np.complex64


def test_target_is_that_of_the_challenge(tmp_path: Path) -> None:
    images = np.ones((2, 24, 20), np.float32)
    scan = read_scan(write_scan(tmp_path / "file1.h5", (2, 3, 24, 20), reconstruction_esc=5 * images))
    assert scan.target is not None and not np.array_equal(scan.target, 5 * images)


NAN = complex_normal((2, 24, 20))
NAN[1, 3, 4] = np.nan
BAD: list[tuple[Callable[[Path], object], str]] = [
    (lambda path: path.unlink(missing_ok=True), "file not found"),
    (lambda path: truncate(write_scan(path)), "truncated or not an HDF5 file"),
    (lambda path: path.write_text("no scan"), "truncated or not an HDF5 file"),
    (lambda path: path.write_bytes(b""), "truncated or not an HDF5 file"),
    (lambda path: path.mkdir(), "truncated or not an HDF5 file"),
    (lambda path: write_scan(path, kspace=None), "has no dataset 'kspace' (it has ismrmrd_header, reconstruction_esc)"),
    (lambda path: write_h5(path), "has no dataset 'kspace' (it has none)"),
    (lambda path: write_h5(path, None, **{"kspace/inner": np.ones(3)}), "has no dataset 'kspace' (it has kspace)"),
    (lambda path: write_h5(path, kspace=h5py.ExternalLink("none.h5", "/k")), "'kspace' is a link to another file"),
    (lambda path: write_scan(path, kspace=NAN), "'kspace' holds NaN or infinite values"),
    (
        lambda path: write_scan(path, kspace=np.full((2, 24, 20), np.inf, np.complex64)),
        "'kspace' holds NaN or infinite values",
    ),
    (lambda path: write_scan(path, kspace=np.ones((2, 24, 20), np.float32)), "'kspace' is float32, not complex"),
    (lambda path: write_scan(path, kspace=complex_normal((24, 20))), "'kspace' has shape (24, 20); it must be"),
    (lambda path: write_scan(path, kspace=complex_normal((1, 1, 2, 24, 20))), "'kspace' has shape (1, 1, 2, 24, 20)"),
    (lambda path: write_scan(path, kspace=complex_normal((0, 24, 20))), "'kspace' has shape (0, 24, 20)"),
    (lambda path: write_scan(path, kspace=complex_normal((2, 24, 1))), "'kspace' has shape (2, 24, 1)"),
    (
        lambda path: write_scan(path, mask=np.ones(19)),
        "'mask' has shape (19,) but k-space has 20 lines and slices of (24, 20)",
    ),
    (lambda path: write_scan(path, mask=np.ones((20, 24))), "'mask' has shape (20, 24) but k-space has 20 lines"),
    (lambda path: write_scan(path, mask=np.ones((2, 24, 20))), "; store one entry per line, or per sample"),
    (lambda path: write_scan(path, mask=np.array([b"1"] * 20)), "'mask' is |S1, not numbers; store 1 where"),
    (lambda path: write_scan(path, mask=np.zeros(20)), "'mask' marks no sample as acquired"),
    (lambda path: write_scan(path, mask=np.zeros((24, 20))), "'mask' marks no sample as acquired"),
    (lambda path: write_scan(path, mask=np.full(20, np.nan)), "'mask' holds NaN or infinite values"),
    (
        lambda path: write_scan(path, reconstruction_esc=np.ones((3, 24, 20), np.float32)),
        "has shape (3, 24, 20), not (slices, h, w) with 2 slices",
    ),
    (
        lambda path: write_scan(path, (2, 3, 24, 20), reconstruction_rss=np.ones((24, 20), np.float32)),
        "has shape (24, 20), not (slices, h, w) with 2 slices",
    ),
    (
        lambda path: write_scan(path, reconstruction_esc=complex_normal((2, 24, 20))),
        "'reconstruction_esc' is complex64",
    ),
    (lambda path: write_scan(path, reconstruction_esc=NAN.real), "'reconstruction_esc' holds NaN or infinite values"),
]


@pytest.mark.parametrize(("spoil", "message"), BAD)
def test_bad_file(tmp_path: Path, spoil: Callable[[Path], object], message: str) -> None:
    path = tmp_path / "file1.h5"
    spoil(path)
    with pytest.raises(InputError) as caught:
        read_scan(path)
    assert message in one_line(caught, path)


# --- of several coils ------------------------------------------------------------------------------------------------

COILS = (2, 3, 24, 20)
MAPS, NOISE = complex_normal((1, 3, 24, 20), 1), complex_normal((3, 60), 2)


def test_maps_and_noise_scan(tmp_path: Path) -> None:
    path = tmp_path / "file1.h5"
    for stored in (MAPS[0], MAPS, np.repeat(MAPS, 2, axis=0), MAPS.astype(np.complex128)):
        scan = read_scan(write_scan(path, COILS, sensitivity_maps=stored, noise=NOISE))
        assert scan.maps is not None and np.array_equal(scan.maps, stored.reshape(-1, 3, 24, 20)) and scan.coils == 3
        assert scan.noise_scan is not None and np.array_equal(scan.noise_scan, NOISE)
        for k in range(2):
            one = scan.single_slice(k)
            assert np.array_equal(one.kspace, scan.kspace[k : k + 1]) and one.noise_scan is scan.noise_scan
            assert one.maps is not None and np.array_equal(one.maps, scan.maps[k if len(scan.maps) > 1 else 0][None])
            assert one.target is not None and scan.target is not None
            assert np.array_equal(one.target, scan.target[k : k + 1])
    plain = read_scan(write_scan(path, COILS))
    assert plain.maps is None and plain.noise_scan is None
    single = read_scan(write_scan(path, sensitivity_maps=MAPS, noise=NOISE))  # of no use for one coil
    assert single.maps is None and single.noise_scan is None and single.coils == 1
    assert read_scan(write_scan(path, (2, 1, 24, 20))).coils == 1


NAN_MAPS = MAPS.copy()
NAN_MAPS[0, 1, 2, 3] = np.inf
BAD_COILS: list[tuple[dict[str, np.ndarray], str]] = [
    ({"sensitivity_maps": MAPS[:, 1:]}, "'sensitivity_maps' is complex64 of shape (1, 2, 24, 20), and k-space has"),
    ({"sensitivity_maps": MAPS.swapaxes(2, 3)}, "of shape (1, 3, 20, 24), and k-space has shape (2, 3, 24, 20); store"),
    ({"sensitivity_maps": np.repeat(MAPS, 3, axis=0)}, "of shape (3, 3, 24, 20), and k-space has shape"),
    ({"sensitivity_maps": MAPS[0, 0]}, "of shape (24, 20), and k-space has shape"),
    ({"sensitivity_maps": MAPS.real}, "'sensitivity_maps' is float32 of shape (1, 3, 24, 20)"),
    ({"sensitivity_maps": NAN_MAPS}, "'sensitivity_maps' holds NaN or infinite values"),
    ({"noise": NOISE.real}, "'noise' is float32, not complex; store it as complex64"),
    ({"noise": NOISE.T}, "'noise' has shape (60, 3), not (coils, samples) with 3 coils; transpose it"),
    ({"noise": NOISE[:2]}, "'noise' has shape (2, 60), not (coils, samples) with 3 coils; give the noise scan of thes"),
    (
        {"noise": NOISE[:, :20]},
        "'noise' has 20 samples for 3 coils, shape (coils, samples); at least 10 per coil are needed",
    ),
    ({"noise": NOISE * np.array([[1], [0], [1]])}, "'noise': coil 1, counted from 0, has no noise at all; leave"),
    ({"noise": np.full((3, 60), np.nan, np.complex64)}, "'noise' holds NaN or infinite values"),
]


@pytest.mark.parametrize(("arrays", "message"), BAD_COILS)
def test_bad_maps_and_noise_scans(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    path = write_scan(tmp_path / "file1.h5", COILS, **arrays)
    with pytest.raises(InputError) as caught:
        read_scan(path)
    assert message in one_line(caught, path)


def test_read_dataset(tmp_path: Path) -> None:
    path = write_h5(tmp_path / "file1.h5", reconstruction=np.arange(6.0).reshape(1, 2, 3))
    assert read_dataset(path, "reconstruction").tolist() == [[[0, 1, 2], [3, 4, 5]]]


@pytest.mark.parametrize(
    ("center", "last", "padding"),
    [(10, 19, (0, 20)), (8, 15, (2, 18)), (7, 16, (3, 20)), (10, 14, (0, 15))],
)
def test_padding_equals_fastmri(tmp_path: Path, center: int, last: int, padding: tuple[int, int]) -> None:
    from fastmri.data import SliceDataset

    path = write_scan(tmp_path / "file1.h5", ismrmrd_header=header(24, 20, center, last))
    metadata = SliceDataset(tmp_path, "singlecoil").raw_samples[0].metadata
    assert (metadata["padding_left"], metadata["padding_right"]) == padding
    assert read_scan(path).padding == padding


@pytest.mark.parametrize("folder", ["ulf_singlecoil/train", "ulf_singlecoil/val", "multicoil"])
def test_padding_equals_fastmri_on_real_scans(data_dir: Path, folder: str) -> None:
    from fastmri.data import SliceDataset

    challenge = "multicoil" if folder == "multicoil" else "singlecoil"
    theirs = {sample.fname: sample.metadata for sample in SliceDataset(data_dir / folder, challenge).raw_samples}
    assert len(theirs) == len(list_files(data_dir / folder))
    for path in list_files(data_dir / folder):
        metadata = theirs[path]
        scan = read_scan(path)
        assert scan.padding == (metadata["padding_left"], metadata["padding_right"])
        assert scan.kspace.dtype == np.complex64 and scan.target is not None


@pytest.mark.parametrize(
    "text",
    ["", "<broken", "<a/>", header(24, 22), header(24, 20, 11, 19), header(24, 20, 5, 19), header(24, 20, last=-2)],
)
def test_padding_that_makes_no_sense_is_ignored(tmp_path: Path, text: str) -> None:
    assert read_scan(write_scan(tmp_path / "file1.h5", ismrmrd_header=text)).padding is None


def test_header_in_another_encoding_is_read(tmp_path: Path) -> None:
    """Names of protocols and places are not always UTF-8."""
    named = header(24, 20, 8, 15).replace("</encoding>", "</encoding><a>Kopf \u00e4</a>").encode("latin-1")
    scans = [
        read_scan(write_scan(tmp_path / f"file{k}.h5", ismrmrd_header=np.bytes_(text)))
        for k, text in enumerate((named, header(24, 20, 8, 15).encode()))
    ]
    assert scans[0].padding == scans[1].padding is not None and scans[0].matrix == scans[1].matrix == (24, 20)


def test_header_without_reconspace_says_nothing_of_the_image(tmp_path: Path) -> None:
    """Its encoded matrix, here of more lines than were stored, is not that of the image; fastMRI takes no such file."""
    from fastmri.data import SliceDataset

    before, _, rest = header(24, 22).partition("<reconSpace>")
    text = before + rest.partition("</reconSpace>")[2]
    scan = read_scan(write_scan(tmp_path / "file1.h5", reconstruction_esc=None, ismrmrd_header=text))
    assert scan.matrix is None and delivered_shape(scan) == (24, 20)
    with pytest.raises(RuntimeError, match="Element not found"):
        SliceDataset(tmp_path, "singlecoil")


def test_no_header_is_no_padding(tmp_path: Path) -> None:
    assert read_scan(write_scan(tmp_path / "file1.h5", ismrmrd_header=None)).padding is None


def test_reconstruction_is_written_as_fastmri_does(tmp_path: Path) -> None:
    import fastmri

    images = np.random.default_rng(0).random((2, 24, 20))
    write_reconstruction(tmp_path / "ours" / "file1.h5", images)
    fastmri.save_reconstructions({"file1.h5": images.astype(np.float32)}, tmp_path / "theirs")
    for folder in ("ours", "theirs"):
        with h5py.File(tmp_path / folder / "file1.h5") as file:
            assert list(file) == ["reconstruction"] and file["reconstruction"].dtype == np.float32
            assert np.array_equal(file["reconstruction"][()], images.astype(np.float32))
    assert [path.name for path in (tmp_path / "ours").iterdir()] == ["file1.h5"]


def test_datasets_beside_the_reconstruction(tmp_path: Path) -> None:
    images = np.random.default_rng(0).random((3, 2, 24, 20))
    further = {"uncertainty": images[1], "samples": images.swapaxes(0, 1)}
    write_reconstruction(tmp_path / "file1.h5", images[0], {"method": "samples"}, further)
    with h5py.File(tmp_path / "file1.h5") as file:
        assert set(file) == {"reconstruction", "uncertainty", "samples"} and dict(file.attrs) == {"method": "samples"}
        for name, array in {"reconstruction": images[0], **further}.items():
            assert file[name].dtype == np.float32 and np.array_equal(file[name][()], array.astype(np.float32))
    assert np.array_equal(read_dataset(tmp_path / "file1.h5", "uncertainty"), images[1].astype(np.float32))
    with pytest.raises(ValueError):
        write_reconstruction(tmp_path / "file2.h5", images[0], None, {"uncertainty": np.array([["no number"]])})
    assert [path.name for path in tmp_path.iterdir()] == ["file1.h5"]


def test_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    images = np.ones((2, 24, 20))
    path = tmp_path / "file1.h5"
    with monkeypatch.context() as patch:
        patch.setattr(h5py.File, "create_dataset", full)
        with pytest.raises(InputError) as caught:
            write_reconstruction(path, images)
    assert "cannot be written (No space left on device)" in one_line(caught, path)
    assert list(tmp_path.iterdir()) == []

    write_reconstruction(path, images)
    with pytest.raises(ValueError):
        write_reconstruction(path, np.array([["no number"]]))
    assert [file.name for file in tmp_path.iterdir()] == ["file1.h5"]
    assert np.array_equal(read_dataset(path, "reconstruction"), images)


def test_write_where_a_folder_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file1.h5").mkdir()
    with pytest.raises(InputError) as caught:
        write_reconstruction(tmp_path / "file1.h5", np.ones((2, 24, 20)))
    assert "cannot be written" in one_line(caught, tmp_path / "file1.h5")
    assert [file.name for file in tmp_path.iterdir()] == ["file1.h5"]


def test_write_below_a_file_and_under_too_long_a_name(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "file1.h5", tmp_path / ("a" * 300 + ".h5")):
        with pytest.raises(InputError) as caught:
            write_reconstruction(path, np.ones((2, 24, 20)))
        assert "cannot be written" in one_line(caught, path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_full_disk_leaves_nothing(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    path = tmp_path / "file1.h5"
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # a write beyond this fails as on a full disk
    try:
        with pytest.raises(InputError) as caught:
            write_reconstruction(path, np.ones((10, 100, 100)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "cannot be written" in one_line(caught, path)
    assert list(tmp_path.iterdir()) == []
