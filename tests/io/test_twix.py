"""Siemens raw data: scans of VB and VD files against what was measured, and why others are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tests.support.files import complex_normal, error_of, run

pytest.importorskip("ismrmrd")
pytest.importorskip("twixtools")

from mrihvae import open_kspace
from mrihvae.data.scan import Scan
from mrihvae.errors import InputError
from mrihvae.io.kspace import head_of, kind_of, list_kspace
from mrihvae.io.partitions import centered_fft
from mrihvae.io.twix import extra
from mrihvae.utils.notices import collect_notices
from tests.support import twix

SHAPE = (3, 2, 16, 12)  # slices, coils, H, W
EXACT = 1e-12
REAL_NMSE = 1e-9  # of root-sum-of-squares images, against those of the same scans in HDF5
REAL = {
    "brain_gre_16ch_3t": "pulseq_brain16",
    "brain_gre_bodycoil_3t": "pulseq_brain_bodycoil2",
    "phantom_gre_16ch_3t": "pulseq_phantom16",
}


def write(path: Path, *measurements: bytes, **options: Any) -> Path:
    path.write_bytes(twix.vd(*measurements, **options))
    return path


def scan_of(folder: Path, lines: list[twix.Line], **changes: Any) -> Scan:
    """Read the one scan of a VD file with these lines."""
    (scan,) = open_kspace(write(folder / "scan.dat", twix.measurement(twix.protocol(**changes), lines)))
    return scan


def nmse(found: Any, truth: np.ndarray) -> float:
    assert found.shape == truth.shape and found.dtype == np.complex64
    return float((np.abs(found - truth) ** 2).sum() / (np.abs(truth) ** 2).sum())


def refused(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        open_kspace(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("vb", [False, True])
def test_scan_is_read(vb: bool, tmp_path: Path) -> None:
    """Slices that were measured in another order lie in that of their places; noise and sensors stay apart."""
    kspace = complex_normal(SHAPE)
    noise = twix.Line(complex_normal((2, 64), seed=1), flags=(twix.NOISE,))
    lines = [noise, twix.sync(vb), *twix.cartesian(kspace, spacing_mm=6), twix.sync(vb)]
    whole = twix.measurement(twix.protocol(), lines, vb)
    path = tmp_path / "scan.dat"
    path.write_bytes(whole if vb else twix.vd(whole))
    assert kind_of(path) == "twix" and list_kspace(tmp_path) == [path] and head_of(path) == (["scan.h5"], 2)
    with collect_notices() as warnings:
        (scan,) = open_kspace(path)
    assert not warnings
    assert (
        scan.name == "scan.h5"
        and scan.attributes == {"acquisition": "t2_head", "vendor": "SIEMENS"}
        and scan.coils == 2
    )
    assert nmse(scan.kspace, kspace) < EXACT
    assert scan.mask is not None and scan.mask.tolist() == [True] * 12
    assert scan.matrix == (16, 12) and scan.padding is None and scan.calibration is None
    assert scan.noise_scan is not None and nmse(scan.noise_scan, noise.data) < EXACT
    assert scan.geometry is not None and scan.geometry.voxel == (2, 3, 5)
    np.testing.assert_allclose(scan.geometry.positions, [[0, 0, -6], [0, 0, 0], [0, 0, 6]])


def test_slices_numbered_as_they_were_measured_are_sorted_by_place(tmp_path: Path) -> None:
    kspace = complex_normal((5, 2, 16, 12))
    numbers = {1: 0, 3: 1, 0: 2, 2: 3, 4: 4}
    lines = [
        replace(one, counters={**one.counters, "Sli": numbers[one.counters["Sli"]]}) for one in twix.cartesian(kspace)
    ]
    scan = scan_of(tmp_path, lines)
    assert nmse(scan.kspace, kspace) < EXACT
    assert scan.geometry is not None and scan.geometry.positions[:, 2].tolist() == [-10, -5, 0, 5, 10]


def test_one_coil_without_oversampling(tmp_path: Path) -> None:
    kspace = complex_normal((1, 1, 16, 12))
    scan = scan_of(tmp_path, twix.cartesian(kspace, 1), flReadoutOSFactor=1.0)
    assert scan.coils == 1 and nmse(scan.kspace, kspace[:, 0]) < EXACT
    assert scan.voxel == (2, 3, 5)


def test_oversampling_that_the_protocol_does_not_tell_is_found(tmp_path: Path) -> None:
    kspace = complex_normal((1, 2, 16, 12))
    assert nmse(scan_of(tmp_path, twix.cartesian(kspace), flReadoutOSFactor=None).kspace, kspace) < EXACT


def test_averages_contrasts_and_repetitions(tmp_path: Path) -> None:
    """Of averages the mean; three echoes and two repetitions are scans, the second echo read backwards."""
    echoes = complex_normal((2, 3, *SHAPE))
    lines = []
    for repetition in range(2):
        for echo in range(3):
            for average, part in enumerate((0.5, 1.5)):
                kspace = part * echoes[repetition, echo]
                lines += twix.cartesian(kspace, Rep=repetition, Eco=echo, Ave=average)
    lines = [
        replace(one, data=one.data[:, ::-1], flags=(twix.REFLECT,), center=(15, *one.center[1:]))
        if one.counters["Eco"] == 1
        else one
        for one in lines
    ]
    with collect_notices() as warnings:
        scans = open_kspace(write(tmp_path / "scan.dat", twix.measurement(twix.protocol(), lines)))
    assert not warnings
    names = [f"scan_contrast{echo}_repetition{repetition}.h5" for echo in range(3) for repetition in range(2)]
    assert [scan.name for scan in scans] == names
    for scan, name in zip(scans, names):
        repetition, echo = int(name[-4]), int(name[13])
        assert nmse(scan.kspace, echoes[repetition, echo]) < EXACT


def test_partial_fourier_and_phase_oversampling(tmp_path: Path) -> None:
    """Counters begin at the first line that is measured; fields of view are cropped to the one that was asked for."""
    kspace = complex_normal((1, 2, 16, 12))
    lines = [
        replace(one, counters={"Lin": one.counters["Lin"] - 4}, center=(16, 2, 0))
        for one in twix.cartesian(kspace)
        if one.counters["Lin"] >= 4
    ]
    changes = {"sKSpace__lPhaseEncodingLines": 8, "sKSpace__dPhaseOversamplingForDialog": 0.5}
    scan = scan_of(tmp_path, lines, **changes)
    assert scan.mask is not None and scan.mask.tolist() == [False] * 4 + [True] * 8 and scan.padding is None
    assert nmse(scan.kspace, np.where(scan.mask, kspace, 0)) < EXACT
    assert scan.matrix == (16, 8) and scan.voxel == (2, 4.5, 5)


def test_lines_that_are_never_encoded_are_padding(tmp_path: Path) -> None:
    kspace = complex_normal((1, 2, 16, 12))
    lines = [
        replace(one, counters={"Lin": one.counters["Lin"] - 2}, center=(16, 4, 0))
        for one in twix.cartesian(kspace)
        if 2 <= one.counters["Lin"] < 10
    ]
    assert scan_of(tmp_path, lines).padding == (2, 10)


def test_asymmetric_echo_and_discarded_samples(tmp_path: Path) -> None:
    kspace = complex_normal((1, 2, 32, 12))
    whole = twix.cartesian(kspace)
    odd = complex_normal((2, 5), seed=2)  # that were recorded and are not to be used
    padded = [
        replace(one, data=np.concatenate((odd, one.data, odd[:, :3]), 1), cutoff=(5, 3), center=(37, 6, 0))
        for one in whole
    ]
    sizes = {"matrix": (32, 12, 1)}
    assert nmse(scan_of(tmp_path, padded, **sizes).kspace, kspace) < EXACT
    short = [replace(one, data=one.data[:, 16:], center=(16, 6, 0)) for one in whole]
    scan = scan_of(tmp_path, short, **sizes)
    assert scan.mask is not None and scan.mask.shape == (32, 12) and scan.kspace.shape == (1, 2, 32, 12)
    assert scan.mask.all(axis=1).tolist() == [False] * 8 + [True] * 24


@pytest.mark.parametrize("mode", [2, 4])
def test_calibration(mode: int, tmp_path: Path) -> None:
    """Lines for calibration alone are of the image where they were measured within it, and apart from it else."""
    kspace = complex_normal((1, 2, 16, 12))
    measured, reference = twix.cartesian(kspace), twix.cartesian(kspace if mode == 2 else 2 * kspace)
    lines = [one for one in measured if one.counters["Lin"] % 2 == 0]
    used = range(5, 9, 2) if mode == 2 else range(4, 9)
    lines += [replace(one, flags=(twix.PATREFSCAN,)) for one in reference if one.counters["Lin"] in used]
    scan = scan_of(tmp_path, lines, sPat__ucRefScanMode=mode)
    image, central = np.arange(12) % 2 == 0, (np.arange(12) >= 4) & (np.arange(12) < 9)
    expected = image | central if mode == 2 else image
    assert scan.mask is not None and scan.mask.tolist() == expected.tolist()
    assert nmse(scan.kspace, np.where(expected, kspace, 0)) < EXACT
    if mode == 2:
        assert scan.calibration is None
    else:
        assert scan.calibration is not None and scan.calibration[0].mask[8].tolist() == central.tolist()
        assert nmse(scan.calibration[0].kspace, np.where(central, 2 * kspace[0], 0)) < EXACT


def test_both_flags_are_image_and_calibration(tmp_path: Path) -> None:
    kspace = complex_normal((1, 2, 16, 12))
    lines = [
        replace(one, flags=(twix.PATREFSCAN, twix.PATREFANDIMASCAN)) if 4 <= one.counters["Lin"] < 8 else one
        for one in twix.cartesian(kspace)
    ]
    scan = scan_of(tmp_path, lines, sPat__ucRefScanMode=2)
    assert nmse(scan.kspace, kspace) < EXACT


def test_slab_with_oversampled_partitions(tmp_path: Path) -> None:
    """Partitions run against the direction of the header, as Siemens data do; the outer ones are left out."""
    kspace = complex_normal((6, 2, 16, 12))
    changes = {"matrix": (16, 12, 6), "fov_mm": (32, 36, 12), "sKSpace__dSliceOversamplingForDialog": 0.5}
    scan = scan_of(tmp_path, twix.slab(kspace), **changes)
    assert nmse(scan.kspace, centered_fft(kspace, 0, inverse=True)[1:5]) < EXACT
    assert scan.geometry is not None and scan.geometry.voxel == (2, 3, 3)
    np.testing.assert_allclose(scan.geometry.positions[:, 2], [6, 3, 0, -3], atol=1e-6)


def marked_voxel(read: Any, phase: Any, normal: Any, slices: int) -> tuple[np.ndarray, np.ndarray]:
    """Simulate the k-space (slices, 1, 16, 12) of a point at a corner as Siemens measures it, and tell its place, mm.

    The image is the forward transform of k-space in the directions of the header.
    """
    index = np.array([2, 3, 1 if slices > 1 else 0])
    image = np.zeros((slices, 16, 12), np.complex64)
    image[index[2], index[0], index[1]] = 1
    kspace = centered_fft(centered_fft(image, 1, inverse=True), 2, inverse=True)
    if slices > 1:
        kspace = centered_fft(kspace, 0, inverse=True)
    steps = (index - (8, 6, slices // 2)) * (2, 3, 5)
    return kspace[:, None], np.array([10, 20, 30]) + steps @ np.array([read, phase, normal])


@pytest.mark.parametrize("slices", [1, 4])
def test_a_marked_corner_lies_where_it_was(slices: int, tmp_path: Path) -> None:
    read, phase, normal = (-1, 0, 0), (0, 1, 0), (0, 0, 1)  # what the quaternion says
    kspace, place = marked_voxel(read, phase, normal, slices)
    lines = [replace(one, position=(10, 20, 30)) for one in (twix.slab if slices > 1 else twix.cartesian)(kspace)]
    scan = scan_of(tmp_path, lines, matrix=(16, 12, slices), fov_mm=(32, 36, 5 * slices))
    image = np.abs(centered_fft(centered_fft(np.asarray(scan.kspace), 1, inverse=True), 2, inverse=True))
    z, x, y = np.unravel_index(image.argmax(), image.shape)
    assert scan.geometry is not None
    right, front, head = scan.geometry.affine((16, 12))[:3] @ (x, y, z, 1)
    np.testing.assert_allclose((-right, -front, head), place, atol=1e-5)


def test_noise_of_a_measurement_before_and_adjustments(tmp_path: Path) -> None:
    """As scanners write them: noise first, then a low-resolution adjustment, then two measurements."""
    first, second, small = complex_normal(SHAPE), complex_normal(SHAPE, seed=1), complex_normal((1, 2, 8, 8))
    noise = twix.Line(complex_normal((2, 64), seed=2), flags=(twix.NOISE,))
    dwell = "sRXSPEC.alDwellTime[0]"
    adjustment = twix.protocol((8, 8, 1), tSequenceFileName='""%AdjustSeq%/AdjCoilSensSeq""')
    path = write(
        tmp_path / "scan.dat",
        twix.measurement({**adjustment, dwell: 4000}, [noise, *twix.cartesian(small)]),
        twix.measurement({**twix.protocol(), dwell: 1000}, twix.cartesian(first)),
        twix.measurement(twix.protocol(), twix.cartesian(second)),
    )
    scans = open_kspace(path)
    assert [scan.name for scan in scans] == ["scan_measurement1.h5", "scan_measurement2.h5"]
    for scan, kspace, factor in zip(scans, (first, second), (2, 1)):
        assert nmse(scan.kspace, kspace) < EXACT
        assert scan.noise_scan is not None and nmse(scan.noise_scan, factor * noise.data) < EXACT


def test_a_sequence_that_does_not_know_its_matrix(tmp_path: Path) -> None:
    """Pulseq: the protocol's matrix is any, and lines do not tell their center."""
    kspace = complex_normal((1, 2, 24, 20))
    lines = [replace(one, center=(12, 0, 0)) for one in twix.cartesian(kspace, 1)]
    with collect_notices() as warnings:
        scan = scan_of(tmp_path, lines, tSequenceFileName='""%CustomerSeq%\\pulseq""', flReadoutOSFactor=1.0)
    assert nmse(scan.kspace, kspace) < EXACT and scan.padding is None
    assert len(warnings) == 1 and "Pulseq" in warnings[0]


def test_lines_in_both_directions_have_a_warning(tmp_path: Path) -> None:
    kspace = complex_normal((1, 2, 16, 12))
    lines = twix.cartesian(kspace)
    lines[1::2] = [
        replace(one, data=one.data[:, ::-1], flags=(twix.REFLECT,), center=(15, 6, 0)) for one in lines[1::2]
    ]
    with collect_notices() as warnings:
        scan = scan_of(tmp_path, lines)
    assert nmse(scan.kspace, kspace) < EXACT
    assert len(warnings) == 1 and "both directions" in warnings[0]


REFUSED = {
    "EPI": [
        {"sFastImaging__lEPIFactor": 64},
        {"alRegridMode": 2},
        {"tSequenceFileName": '""%SiemensSeq%\\ep2d_bold""'},
        {"tSequenceFileName": '""%CustomerSeq%\\cmrr_mbep2d_se""'},
        {"tSequenceFileName": '""%CustomerSeq%\\pulseq""', "tProtocolName": '""epi_rs""'},
    ],
    "radial": [{"sKSpace__ucTrajectory": "0x2"}, {"tSequenceFileName": '""%CustomerSeq%\\radial_vibe""'}],
    "spiral": [{"sKSpace__ucTrajectory": 4}],
    "PROPELLER": [{"sKSpace__ucTrajectory": 8}],
    "multi-slice": [{"sSliceAcceleration__lMultiBandFactor": 3}],
}


@pytest.mark.parametrize(("kind", "changes"), [(kind, one) for kind, all_of in REFUSED.items() for one in all_of])
def test_what_is_not_cartesian_is_refused_by_name(kind: str, changes: dict[str, Any], tmp_path: Path) -> None:
    lines = twix.cartesian(complex_normal((1, 2, 16, 12)))
    path = write(tmp_path / "scan.dat", twix.measurement(twix.protocol(**changes), lines))
    message = refused(path)
    name = "epi_rs" if "tProtocolName" in changes else "t2_head"
    assert f"measurement '{name}'" in message and kind in message and "Cartesian" in message


def test_navigators_of_epi_are_known(tmp_path: Path) -> None:
    lines = twix.cartesian(complex_normal((1, 2, 16, 12)))
    lines[0] = replace(lines[0], flags=(twix.PHASCOR, twix.REFLECT))
    assert "EPI" in refused(write(tmp_path / "scan.dat", twix.measurement(twix.protocol(), lines)))


def test_lines_of_pulseq_as_fast_as_epi(tmp_path: Path) -> None:
    lines = [replace(one, time=100 + k // 4) for k, one in enumerate(twix.cartesian(complex_normal((1, 2, 16, 12))))]
    values = twix.protocol(tSequenceFileName='""pulseq""')
    assert "EPI" in refused(write(tmp_path / "scan.dat", twix.measurement(values, lines)))


@pytest.mark.parametrize(("echoes", "is_refused"), [(1, False), (2, True), (3, True)])
def test_echoes_of_pulseq_without_labels(echoes: int, is_refused: bool, tmp_path: Path) -> None:
    """Lines that are merely counted have no place in k-space where an excitation has several echoes."""
    lines = [
        replace(one, time=40 * (k // echoes) + 2 * (k % echoes), center=(16, 0, 0))
        for k, one in enumerate(twix.cartesian(complex_normal((1, 2, 16, 12))))
    ]
    path = write(tmp_path / "scan.dat", twix.measurement(twix.protocol(tSequenceFileName='""pulseq""'), lines))
    if is_refused:
        assert "several echoes without labels" in refused(path)
    else:
        assert len(open_kspace(path)) == 1


@pytest.mark.parametrize("name", ["gre", "tse_epilepsy", "t1_mprage", "separate", "space", "deep2d", "se"])
def test_other_sequences_are_not_taken_for_epi(name: str, tmp_path: Path) -> None:
    lines = twix.cartesian(complex_normal((1, 2, 16, 12)))
    assert scan_of(tmp_path, lines, tSequenceFileName=f'""%SiemensSeq%\\{name}""').coils == 2


def test_measurement_that_is_refused_leaves_the_others(tmp_path: Path) -> None:
    kspace = complex_normal((1, 2, 16, 12))
    lines = twix.cartesian(kspace)
    epi = twix.measurement(twix.protocol(sFastImaging__lEPIFactor=8), lines)
    path = write(tmp_path / "scan.dat", epi, twix.measurement(twix.protocol(), lines))
    with collect_notices() as warnings:
        (scan,) = open_kspace(path)
    assert nmse(scan.kspace, kspace) < EXACT
    assert len(warnings) == 1 and "EPI" in warnings[0] and "left out" in warnings[0]


def test_noise_alone_is_no_scan(tmp_path: Path) -> None:
    noise = twix.Line(complex_normal((2, 64)), flags=(twix.NOISE,))
    message = refused(write(tmp_path / "scan.dat", twix.measurement(twix.protocol(), [noise])))
    assert "no image lines ('t2_head')" in message


@pytest.mark.parametrize("sized", [True, False])
@pytest.mark.parametrize("vb", [True, False])
def test_truncated_files(vb: bool, sized: bool, tmp_path: Path) -> None:
    """Wherever a file ends early, one line says so."""
    whole = twix.measurement(twix.protocol(), twix.cartesian(complex_normal((1, 2, 16, 12))), vb)
    content = whole if vb else twix.vd(whole, sized=sized)
    path = tmp_path / "scan.dat"
    end = len(content) if vb else 10240 + len(whole)
    for size in (0, 3, 8, 20, 100, 5000, 10250, end // 2, end - 5000, end - 600, end - 200):
        path.write_bytes(content[: min(size, end - 200)])
        assert len(refused(path)) < 400


def test_damaged_files_end_in_one_line_or_in_a_scan(tmp_path: Path) -> None:
    """Random bytes in the headers raise nothing else, and take no time or memory beyond the file's."""
    lines = twix.cartesian(complex_normal((1, 2, 16, 4)))
    content = twix.vd(twix.measurement(twix.protocol((16, 4, 1)), lines))
    rng = np.random.default_rng(0)
    path = tmp_path / "scan.dat"
    first = content.index(b"MeasYaps") - 8
    for trial in range(300):
        damaged = bytearray(content)
        start, stop = ((0, 64), (10240, 10280), (first, len(content)))[trial % 3]
        for place in rng.integers(start, stop, 1 + trial % 5):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            open_kspace(path)
        except InputError as error:
            assert str(path) in str(error)


@pytest.mark.parametrize(
    ("position", "value", "what"),
    [
        (24, b"\xff" * 6 + b"\0\0", "truncated"),  # length of a measurement
        (10240, b"\xff\xff\xff\x7f", "claims"),  # of its header
        (10244, b"\xff\xff\xff\x7f", "parts"),
        (10254, b"\xff\xff\xff\x7f", "a part claims"),
    ],
)
def test_claims_beyond_the_file(position: int, value: bytes, what: str, tmp_path: Path) -> None:
    lines = twix.cartesian(complex_normal((1, 2, 16, 12)))
    content = bytearray(twix.vd(twix.measurement(twix.protocol(), lines)))
    content[position : position + len(value)] = value
    (tmp_path / "scan.dat").write_bytes(content)
    assert what in refused(tmp_path / "scan.dat")


def test_lines_that_claim_what_is_not_there(tmp_path: Path) -> None:
    kspace = complex_normal((1, 2, 16, 12))
    lines = twix.cartesian(kspace)
    path = write(tmp_path / "scan.dat", twix.measurement(twix.protocol(), [*lines, replace(lines[0], cutoff=(20, 20))]))
    assert "discarded" in refused(path)
    write(path, twix.measurement(twix.protocol(sKSpace__lPhaseEncodingLines=100000), lines))
    assert "matrix of 100000" in refused(path)
    large = replace(lines[0], data=np.full_like(lines[0].data, 3e38))
    write(path, twix.measurement(twix.protocol(), [large, *lines[1:]]))
    assert "beyond single precision" in refused(path)
    write(path, twix.measurement(twix.protocol(), [*lines, bytes(192)]))
    assert nmse(open_kspace(path)[0].kspace, kspace) < EXACT  # zeros fill the file up


def test_a_measurement_that_was_stopped_has_a_warning(tmp_path: Path) -> None:
    lines = twix.cartesian(complex_normal((1, 2, 16, 12)))
    path = write(tmp_path / "scan.dat", twix.measurement(twix.protocol(), lines, finished=False))
    with collect_notices() as warnings:
        open_kspace(path)
    assert len(warnings) == 1 and "no end" in warnings[0]


def test_what_is_no_raw_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "notes.dat"
    path.write_text("1 2 3\n" * 100)
    assert "is not Siemens raw data (VB, VD or VE)" in refused(path)
    assert "is not Siemens raw data" in error_of(
        capsys, "reconstruct", path, "--output", tmp_path / "o", "--method", "zero-filled"
    )


def test_the_command_reconstructs(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    kspace = complex_normal((2, 2, 32, 24))
    values = twix.protocol((32, 24, 1))
    path = write(tmp_path / "scan.dat", twix.measurement(values, twix.cartesian(kspace)))
    assert run("reconstruct", path, "--output", tmp_path / "o", "--method", "zero-filled") == 0
    with h5py.File(tmp_path / "o" / "reconstructions" / "scan.h5") as file:
        assert file["reconstruction"].shape == (2, 32, 24)
    assert "WARNING" not in capfd.readouterr().out  # nor does the library say anything


def test_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = write(tmp_path / "scan.dat", twix.measurement(twix.protocol(), []))
    monkeypatch.setattr(extra, "find_spec", lambda name: None if name == "twixtools" else object())
    assert refused(path) == f"{path}: Siemens TWIX: needs the package twixtools; pip install 'mrihvae[twix]'"


def rss(kspace: np.ndarray) -> np.ndarray:
    image = centered_fft(centered_fft(kspace, -1, inverse=True), -2, inverse=True)
    return np.asarray(np.sqrt((np.abs(image if image.ndim == 4 else image[:, None]) ** 2).sum(axis=1)))


@pytest.mark.parametrize("name", REAL)
def test_real_files_equal_the_same_scans_in_hdf5(name: str, data_dir: Path) -> None:
    """There the peak of k-space lies at the center, moved by whole samples, which magnitude images do not see."""
    (scan,) = open_kspace(data_dir / "twix" / f"{name}.dat")
    with h5py.File(data_dir / "multicoil" / f"{REAL[name]}.h5") as file:
        truth, kspace = file["reconstruction_rss"][()], file["kspace"][()]
    found = rss(np.asarray(scan.kspace))
    assert ((found - truth) ** 2).sum() < REAL_NMSE * (truth**2).sum()
    centers = [
        np.unravel_index((np.abs(one[0]) ** 2).sum(axis=0).argmax(), (128, 128)) for one in (scan.kspace, kspace)
    ]
    shift = tuple(int(b - a) for a, b in zip(*centers))
    moved = np.roll(np.asarray(scan.kspace), shift, (-2, -1))
    assert nmse(moved, kspace) < REAL_NMSE and max(map(abs, shift)) <= 2
    assert scan.mask is not None and scan.mask.all() and scan.padding is None
    assert scan.geometry is not None and scan.geometry.voxel == (2, 2, 3)


def test_real_file_with_readout_oversampling(data_dir: Path) -> None:
    (scan,) = open_kspace(data_dir / "twix" / "gre_2ch_oversampled.dat")
    assert scan.kspace.shape == (1, 2, 160, 160) and scan.matrix == (160, 160)
    assert np.unravel_index(np.abs(np.asarray(scan.kspace)).sum(axis=(0, 1)).argmax(), (160, 160)) == (80, 80)
    assert scan.geometry is not None and scan.geometry.voxel == (1.25, 1.25, 4)
    np.testing.assert_allclose(scan.geometry.positions, [[-2.5897, 53.9224, -53.9995]], atol=1e-4)
    np.testing.assert_allclose(scan.geometry.normal, [0, 0.03839, 0.99926], atol=1e-5)  # as the protocol has it


def test_real_file_of_one_coil(data_dir: Path) -> None:
    (scan,) = open_kspace(data_dir / "twix" / "resolution_gre_1ch_3t.dat")
    assert scan.kspace.shape == (1, 256, 256) and scan.coils == 1 and scan.voxel == (1, 1, 3)
