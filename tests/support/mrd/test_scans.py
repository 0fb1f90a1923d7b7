"""Scans for MRD servers: their headers and files as the ismrmrd library sees them, their lines sorted into k-space."""

from __future__ import annotations

import shutil
import subprocess
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tests.support import mrd
from tests.support.mrd import Line
from tests.support.mrd.test_messages import assert_same_line, odd_line

GENERATOR = "ismrmrd_generate_cartesian_shepp_logan"
NAMESPACE = "{http://www.ismrm.org/ISMRMRD}"


@pytest.fixture(scope="module")
def ismrmrd() -> Any:
    pytest.importorskip("ismrmrd.xsd")
    return pytest.importorskip("ismrmrd")


def scan(slices: int = 2, coils: int = 3, height: int = 8, width: int = 12, seed: int = 0) -> np.ndarray:
    return mrd.white(np.random.default_rng(seed), slices, coils, height, width).astype(np.complex64)


def gather(lines: list[Line], shape: tuple[int, ...]) -> np.ndarray:
    """Sort imaging lines into k-space (repetitions, slices, coils, H, W), as a server would, and average."""
    total = np.zeros(shape, np.complex128)
    count = np.zeros((shape[0], shape[1], shape[-1]))
    skipped = (mrd.NOISE, mrd.CALIBRATION, mrd.NAVIGATION, mrd.PHASE_CORRECTION, mrd.DUMMY)
    for line in lines:
        if any(line.has(flag) for flag in skipped):
            continue
        data = line.data[:, line.discard_pre : line.number_of_samples - line.discard_post]
        data = data[:, ::-1] if line.has(mrd.REVERSE) else data
        where = line.repetition, line.slice, line.kspace_encode_step_1
        total[where[0], where[1], :, :, where[2]] += mrd.remove_oversampling(data, shape[-2])
        count[where] += 1
    return total / np.maximum(count, 1)[:, :, None, None, :]


def test_the_library_parses_the_header(ismrmrd: Any) -> None:
    user: dict[str, int | float | str] = {"seed": 7, "strength": 0.25, "method": "pnp & <more>", "quoted": '"x"'}
    limits = {"kspace_encoding_step_1": (1, 29, 14), "slice": (0, 4, 2), "average": (0, 1, 0), "set": (0, 2, 1)}
    spaces: dict[str, Any] = {"encoded_fov_mm": (400, 200.5, 5), "recon_fov_mm": (200, 214.0, 5), "limits": limits}
    parallel: dict[str, Any] = {"calibration_mode": "embedded", "interleaving_dimension": "repetition"}
    system: dict[str, Any] = {"channels": 8, "field_strength": 0.55, "encodings": 2, "trajectory": "epi", "user": user}
    measurement = {"protocolName": "knee", "patientPosition": "FFS"}
    settings = spaces | parallel | system
    xml = mrd.write_xml((64, 30, 1), (32, 32, 1), acceleration=(4, 1), measurement=measurement, **settings)
    head = ismrmrd.xsd.CreateFromDocument(xml)
    assert len(head.encoding) == 2
    encoding = head.encoding[1]
    matrices = [(space.matrixSize.x, space.matrixSize.y) for space in (encoding.encodedSpace, encoding.reconSpace)]
    assert matrices == [(64, 30), (32, 32)]
    assert (encoding.encodedSpace.fieldOfView_mm.y, encoding.reconSpace.fieldOfView_mm.y) == (200.5, 214.0)
    found = encoding.encodingLimits
    for name, bounds in limits.items():
        assert (getattr(found, name).minimum, getattr(found, name).maximum, getattr(found, name).center) == bounds
    assert found.repetition is None and encoding.trajectory.value == "epi"
    accelerated = encoding.parallelImaging
    assert accelerated.accelerationFactor.kspace_encoding_step_1 == 4
    assert (accelerated.calibrationMode.value, accelerated.interleavingDimension.value) == tuple(parallel.values())
    assert head.acquisitionSystemInformation.receiverChannels == 8
    assert head.acquisitionSystemInformation.systemFieldStrength_T == pytest.approx(0.55)
    assert head.measurementInformation.protocolName == "knee"
    assert head.measurementInformation.patientPosition.value == "FFS"
    named = head.userParameters
    each = [*named.userParameterLong, *named.userParameterDouble, *named.userParameterString]
    assert {parameter.name: parameter.value for parameter in each} == user


def test_the_library_reads_files(ismrmrd: Any, tmp_path: Path) -> None:
    lines = [odd_line(), odd_line(0), *mrd.cartesian_lines(scan())]
    path = tmp_path / "scan.h5"
    path.write_bytes(b"not HDF5")
    mrd.write_mrd(path, "<é/>", lines)
    with ismrmrd.Dataset(path, "dataset", mode="r") as dataset:
        assert dataset.read_xml_header() == "<é/>".encode()
        assert dataset.number_of_acquisitions() == len(lines)
        for k, line in enumerate(lines):
            assert_same_line(dataset.read_acquisition(k), line)
    assert mrd.read_mrd(path) == ("<é/>", lines)


def test_files_of_the_library_are_read(ismrmrd: Any, tmp_path: Path) -> None:
    lines = [odd_line(), odd_line(0)]
    with ismrmrd.Dataset(tmp_path / "scan.h5", "dataset") as dataset:
        dataset.write_xml_header("<a/>")
        for line in lines:
            dataset.append_acquisition(ismrmrd.Acquisition.from_bytes(line.pack()))
    assert mrd.read_mrd(tmp_path / "scan.h5") == ("<a/>", lines)


@pytest.mark.skipif(shutil.which(GENERATOR) is None, reason=f"{GENERATOR} is not installed")
def test_generator_files_are_read_quickly_and_give_their_truth(tmp_path: Path) -> None:
    path = tmp_path / "phantom.h5"
    command = [GENERATOR, "-o", str(path), "-m", "64", "-c", "4", "-C", "-n", "1e-4", "-r", "30"]
    subprocess.run(command, check=True, capture_output=True)
    start = time.perf_counter()
    xml, lines = mrd.read_mrd(path)
    seconds = time.perf_counter() - start
    assert len(lines) == 1 + 30 * 64 and seconds < 5
    assert lines[0].has(mrd.NOISE) and lines[0].data.shape == (4, 128)
    encoding = ET.fromstring(xml).find(f"{NAMESPACE}encoding")
    assert encoding is not None
    assert encoding.findtext(f"{NAMESPACE}encodedSpace/{NAMESPACE}matrixSize/{NAMESPACE}x") == "128"
    kspace = gather([line for line in lines if line.repetition == 0], (1, 1, 4, 64, 64))[0, 0]
    image = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace, (-2, -1)), norm="ortho"), (-2, -1))
    with h5py.File(path) as file:
        maps, truth = (file["dataset"][name][0] for name in ("csm", "phantom"))
    maps, truth = (x["real"] + 1j * x["imag"] for x in (maps, truth))
    combined = (maps.conj().swapaxes(-1, -2) * image).sum(0) / (abs(maps.swapaxes(-1, -2)) ** 2).sum(0)
    inner = abs(truth.T) > 0
    scale = np.vdot(combined[inner], truth.T[inner]) / np.vdot(combined[inner], combined[inner])
    assert np.abs(scale * combined - truth.T)[inner].max() < 0.01
    mrd.write_mrd(tmp_path / "again.h5", xml, lines)
    assert mrd.read_mrd(tmp_path / "again.h5") == (xml, lines)


@pytest.mark.parametrize(("height", "factor"), [(8, 2), (9, 2), (8, 1), (7, 3)])
def test_oversampling_is_removed(height: int, factor: int) -> None:
    lines = scan(height=height).swapaxes(-1, -2)
    wide = mrd.oversample(lines, factor)
    assert wide.shape[-1] == factor * height and wide.dtype == np.complex64
    np.testing.assert_allclose(mrd.remove_oversampling(wide, height), lines, atol=1e-6)
    np.testing.assert_allclose((abs(wide) ** 2).sum(), (abs(lines) ** 2).sum(), rtol=1e-5)
    flat = np.zeros((1, factor * height), np.complex64)
    flat[0, factor * height // 2] = 1  # an image centered in both: the center of k-space stays in the center
    assert abs(mrd.remove_oversampling(flat, height)[0]).argmax() == height // 2


@pytest.mark.parametrize("order", ["ascending", "odd_even", "by_line"])
@pytest.mark.parametrize("shuffle", [False, True])
def test_lines_give_kspace_back(order: Any, shuffle: bool) -> None:
    kspace = np.stack([scan(slices=3, seed=k) for k in range(2)])
    mask = np.arange(12) % 3 == 0
    calibration = abs(np.arange(12) - 6) < 2
    every: dict[str, Any] = {"averages": 2, "average_noise": 0.5, "noise_scans": 2, "margin_noise": True, "seed": 4}
    every |= {"garbage": {mrd.NAVIGATION: 2, mrd.PHASE_CORRECTION: 3, mrd.DUMMY: 1}, "discard": (2, 3)}
    every |= {"mask": mask, "calibration": calibration, "reverse": np.arange(12) % 2 == 1}
    lines = mrd.cartesian_lines(kspace, slice_order=order, shuffle=shuffle, **every)
    found = gather(lines, kspace.shape)
    np.testing.assert_allclose(found[..., mask], kspace[..., mask], atol=1e-5)
    assert not found[..., ~mask].any()
    assert [line.scan_counter for line in lines] == list(range(len(lines)))
    flagged = {flag: sum(line.has(flag) for line in lines) for flag in range(1, 65)}
    groups = 2 * 3  # of repetitions and slices
    expected = dict.fromkeys((mrd.FIRST_IN_SLICE, mrd.LAST_IN_SLICE), groups)
    expected |= {mrd.NOISE: 2, mrd.LAST_IN_MEASUREMENT: 1, **every["garbage"]}
    expected |= {mrd.CALIBRATION: groups * 2 * 2, mrd.CALIBRATION_AND_IMAGING: groups * 2 * 1}  # lines 5 and 7; 6
    expected |= {mrd.REVERSE: groups * 2 * 4}  # lines 3 and 9 of the mask, 5 and 7 of the calibration
    assert {flag: number for flag, number in flagged.items() if number} == expected
    assert lines[-1].has(mrd.LAST_IN_MEASUREMENT) and lines[-1].has(mrd.LAST_IN_SLICE)
    assert all(line.has(mrd.NOISE) for line in lines[:2]) and not any(line.has(mrd.NOISE) for line in lines[2:])
    imaging = [line for line in lines if not any(map(line.has, (mrd.NOISE, *every["garbage"])))]
    last = {(line.repetition, line.slice): line for line in imaging}
    assert all(line.has(mrd.LAST_IN_SLICE) for line in last.values())


def test_slices_come_in_the_order_asked_for() -> None:
    def order(**options: Any) -> list[tuple[int, int]]:
        lines = mrd.cartesian_lines(scan(slices=4, width=2), **options)
        return [(line.slice, line.kspace_encode_step_1) for line in lines]

    assert order() == [(s, k) for s in range(4) for k in range(2)]
    assert order(slice_order="odd_even") == [(s, k) for s in (0, 2, 1, 3) for k in range(2)]
    assert order(slice_order="by_line") == [(s, k) for k in range(2) for s in range(4)]
    wide = {"mask": np.ones(2, bool), "shuffle": True}
    assert len({tuple(order(seed=k, **wide)) for k in range(6)}) > 1 and order(seed=1, **wide) == order(seed=1, **wide)


def test_slices_have_their_places() -> None:
    tilted: dict[str, Any] = {"read_dir": (0.0, 1.0, 0.0), "phase_dir": (0.0, 0.0, 1.0), "slice_dir": (1.0, 0.0, 0.0)}
    lines = mrd.cartesian_lines(scan(slices=3), thickness_mm=4, **tilted)
    assert {line.slice: line.position for line in lines} == {0: (-4.0, 0, 0), 1: (0.0, 0, 0), 2: (4.0, 0, 0)}
    assert {(line.read_dir, line.phase_dir, line.slice_dir) for line in lines} == {tuple(tilted.values())}
    places = np.arange(9).reshape(3, 3)
    assert mrd.cartesian_lines(scan(slices=3), positions=places)[-1].position == (6.0, 7.0, 8.0)


def test_averages_differ_and_cancel() -> None:
    kspace = scan()
    lines = mrd.cartesian_lines(kspace, averages=3, average_noise=1.0, slice_flags="average")
    assert len(lines) == 3 * 24 and sum(line.has(mrd.LAST_IN_SLICE) for line in lines) == 6
    same = [line.data for line in lines if (line.slice, line.kspace_encode_step_1) == (0, 0)]
    assert abs(same[0] - same[1]).max() > 0.1
    np.testing.assert_allclose(gather(lines, (1, *kspace.shape))[0], kspace, atol=1e-5)


def test_calibration_apart_comes_first_and_again() -> None:
    kspace, mask = scan(slices=1), np.arange(12) % 2 == 0
    calibration = abs(np.arange(12) - 6) < 2
    lines = mrd.cartesian_lines(kspace, mask=mask, calibration=calibration, calibration_apart=True)
    assert [line.kspace_encode_step_1 for line in lines] == [5, 6, 7, 0, 2, 4, 6, 8, 10]
    assert [line.has(mrd.CALIBRATION) for line in lines] == [True] * 3 + [False] * 6
    assert lines[3].has(mrd.FIRST_IN_SLICE) and not any(line.has(mrd.CALIBRATION_AND_IMAGING) for line in lines)


def test_the_center_sample_is_where_it_says() -> None:
    kspace = np.zeros((1, 1, 8, 2), np.complex64)
    kspace[0, 0, 4] = 1
    options: dict[str, Any] = {"oversampling": 1, "reverse": [False, True], "discard": (3, 1), "missing": 2}
    forward, backward = mrd.cartesian_lines(kspace, **options)
    assert forward.number_of_samples == 8 - 2 + 4
    assert forward.center_sample == 3 + 2 and backward.center_sample == 3 + 3
    for line in (forward, backward):
        inner = line.data[0, 3:-1]
        assert abs(inner).argmax() + 3 == line.center_sample and abs(inner).sum() == pytest.approx(1, abs=1e-6)
    assert [line.center_sample for line in mrd.cartesian_lines(kspace, nominal_center=True, **options)] == [5, 5]


def test_noise_scans_have_their_covariance() -> None:
    covariance = np.array([[2, 0.5j], [-0.5j, 1]])
    options: dict[str, Any] = {"noise_scans": 40, "noise_covariance": covariance, "noise_sample_time_us": 8}
    lines = mrd.cartesian_lines(scan(coils=2, height=512), mask=np.zeros(12), **options)
    noise = np.concatenate([line.data for line in lines], axis=1)
    assert noise.shape == (2, 40 * 1024) and lines[0].sample_time_us == 8
    np.testing.assert_allclose(noise @ noise.conj().T / noise.shape[1], covariance, atol=0.05)
    silent = np.zeros((1, 2, 256, 12), np.complex64)
    margin = mrd.cartesian_lines(silent, noise_covariance=covariance, margin_noise=True)
    found = np.concatenate([line.data for line in margin], axis=1)
    np.testing.assert_allclose(2 * found @ found.conj().T / found.shape[1], covariance, atol=0.15)


def test_a_header_goes_with_the_lines() -> None:
    root = ET.fromstring(mrd.cartesian_xml((2, 3, 4, 8, 12), pixel_mm=(2, 0.5), averages=5, namespace=False))
    numbers = [element.text for element in root.findall("encoding/encodedSpace/*/*")]
    assert numbers == ["16", "12", "1", "32", "6.0", "5.0"]
    found = {limit.tag: [number.text for number in limit] for limit in root.findall("encoding/encodingLimits/*")}
    assert found["kspace_encoding_step_1"] == ["0", "11", "6"]
    assert [found[name][1] for name in ("average", "slice", "repetition")] == ["4", "2", "1"]
    changed = ET.fromstring(mrd.cartesian_xml((1, 1, 8, 12), recon=(8, 16, 1), trajectory="radial", namespace=False))
    assert changed.findtext("encoding/reconSpace/matrixSize/y") == "16"
    assert changed.findtext("encoding/trajectory") == "radial"
