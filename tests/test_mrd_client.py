"""The test client of MRD servers against itself and against the ismrmrd library."""

from __future__ import annotations

import io
import shutil
import socket
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import mrd_client as mrd
import numpy as np
import pytest
from mrd_client import Image, Line, Mutator, Replies

GENERATOR = "ismrmrd_generate_cartesian_shepp_logan"
NAMESPACE = "{http://www.ismrm.org/ISMRMRD}"


@pytest.fixture(scope="module")
def ismrmrd() -> Any:
    pytest.importorskip("ismrmrd.xsd")
    return pytest.importorskip("ismrmrd")


def odd_line(seed: int = 0, dimensions: int = 2) -> Line:
    """Make a line in which all fields differ from each other."""
    rng = np.random.default_rng(seed)
    return Line(
        mrd.white(rng, 3, 10).astype(np.complex64),
        rng.standard_normal((10, dimensions)).astype(np.float32) if dimensions else None,
        version=1,
        flags=mrd.flags(mrd.REVERSE, mrd.LAST_IN_MEASUREMENT, 64),
        measurement_uid=2**32 - 2,
        scan_counter=70000,
        acquisition_time_stamp=80000,
        physiology_time_stamp=(1, 2, 90000),
        available_channels=5,
        channel_mask=(7, *range(14), 2**64 - 1),
        discard_pre=11,
        discard_post=12,
        center_sample=13,
        encoding_space_ref=14,
        sample_time_us=2.5,
        position=(-1.5, 2.25, 3.0),
        read_dir=(0.0, 1.0, 0.0),
        phase_dir=(0.0, 0.0, 1.0),
        slice_dir=(0.5, 0.25, 0.125),
        patient_table_position=(4.0, 5.0, 6.0),
        kspace_encode_step_1=21,
        kspace_encode_step_2=22,
        average=23,
        slice=24,
        contrast=25,
        phase=26,
        repetition=27,
        set=28,
        segment=29,
        user=tuple(range(30, 38)),
        user_int=tuple(range(-4, 4)),
        user_float=tuple(k / 4 for k in range(8)),
    )


def scan(slices: int = 2, coils: int = 3, height: int = 8, width: int = 12, seed: int = 0) -> np.ndarray:
    return mrd.white(np.random.default_rng(seed), slices, coils, height, width).astype(np.complex64)


def picture(kind: str = "<f4", attributes: str = "", **fields: Any) -> Image:
    """Make an image of 2 channels, (z, y, x) = (1, 3, 4), in which all numbers differ."""
    return Image(
        (np.arange(24).reshape(2, 1, 3, 4) * (1.5 if kind[1] in "fc" else 1)).astype(kind), attributes, **fields
    )


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


# Layout


def test_headers_have_the_sizes_and_offsets_of_the_specification() -> None:
    assert (mrd.ACQUISITION_SIZE, mrd.IMAGE_SIZE, mrd.WAVEFORM_SIZE) == (340, 198, 40)
    offsets = {"flags": 2, "measurement_uid": 10, "physiology_time_stamp": 22, "number_of_samples": 34}
    offsets |= {"active_channels": 38, "channel_mask": 40, "discard_pre": 168, "center_sample": 172}
    offsets |= {"trajectory_dimensions": 176, "sample_time_us": 178, "position": 182, "slice_dir": 218}
    offsets |= {
        "patient_table_position": 230,
        "kspace_encode_step_1": 242,
        "slice": 248,
        "user_int": 276,
        "user_float": 308,
    }
    assert {name: mrd.offset_of(name) for name in offsets} == offsets
    assert mrd.offset_of("attribute_string_len", mrd.IMAGE_FIELDS) == 194


@pytest.mark.parametrize("dimensions", [0, 2])
def test_lines_round_trip(dimensions: int) -> None:
    line = odd_line(dimensions=dimensions)
    packed = line.pack()
    assert len(packed) == 340 + 10 * (4 * dimensions + 8 * 3)
    again = Line.unpack(packed)
    assert again == line and again.user_float == line.user_float and again.available_channels == 5
    np.testing.assert_array_equal(again.data, line.data)
    assert again != replace(line, segment=0) and again != "a line"
    assert line.has(mrd.REVERSE) and line.has(64) and not line.has(mrd.NOISE)


def test_lies_stand_in_the_header_alone() -> None:
    line = odd_line()
    packed = line.pack(number_of_samples=65535)
    assert len(packed) == len(line.pack())
    assert sum(a != b for a, b in zip(packed, line.pack())) == 2


def test_messages_are_framed() -> None:
    assert mrd.config_file("hybrid") == b"\x01\x00hybrid" + bytes(1018)
    assert mrd.config_text("a: b") == b"\x02\x00\x04\x00\x00\x00a: b"
    assert mrd.header("<a/>") == b"\x03\x00\x05\x00\x00\x00<a/>\0"
    assert mrd.header("<a/>", nul=False) == b"\x03\x00\x04\x00\x00\x00<a/>"
    assert mrd.text("é") == b"\x05\x00\x02\x00\x00\x00\xc3\xa9"
    assert mrd.close() == b"\x04\x00"
    assert mrd.acquisition(odd_line())[:2] == b"\xf0\x03"
    wave = mrd.waveform(np.arange(6).reshape(2, 3), waveform_id=1)
    assert wave[:2] == b"\x02\x04" and len(wave) == 2 + 40 + 24 and wave[30:34] == b"\x03\x00\x02\x00"
    with pytest.raises(AssertionError, match="1024 bytes of name"):
        mrd.config_file("a" * 1024)


def test_streams_split_into_their_messages() -> None:
    lines = [odd_line(k, k) for k in range(3)]
    payload = mrd.stream("<a/>", lines, parameters={"samples": 4}, waveforms=[mrd.waveform([1, 2])])
    messages = mrd.split(payload)
    assert [message.identifier for message in messages] == [1, 3, 5, 1026, 1008, 1008, 1008, 4]
    assert payload[messages[2].start + 6 : messages[2].end] == b'{"samples": 4}\0'
    found = [Line.unpack(payload[m.start + 2 : m.end]) for m in messages if m.identifier == mrd.ACQUISITION]
    assert found == lines
    assert mrd.split(mrd.stream("", [], config=mrd.config_text("c"), closing=False)) == [(2, 0, 7), (3, 7, 14)]
    assert mrd.stream("", [], config=None, closing=False) == mrd.header("")
    for broken, what in ((payload[:-1], "half an id"), (payload[:-3], "is cut"), (payload[:1100], "is cut")):
        with pytest.raises(AssertionError, match=what):
            mrd.split(broken)
    with pytest.raises(AssertionError, match="cut in its header"):
        mrd.split(payload[: messages[4].start + 100])
    with pytest.raises(AssertionError, match="unknown message 77"):
        mrd.split(b"\x4d\x00")


# The ismrmrd library reads the same


def assert_same_line(found: Any, line: Line) -> None:
    head = found.getHead()
    for field in mrd.ACQUISITION_FIELDS:
        owner = head.idx if hasattr(head.idx, field.name) else head
        value, want = getattr(owner, field.name), getattr(line, field.name)
        want = line.active_channels if field.name == "available_channels" and want is None else want
        assert (tuple(value) if field.size > 1 else value) == want, field.name
    np.testing.assert_array_equal(found.data, line.data)
    if line.trajectory is not None:
        np.testing.assert_array_equal(found.traj, line.trajectory)


def test_the_library_reads_lines(ismrmrd: Any) -> None:
    for line in (odd_line(), odd_line(1, 0)):
        found = ismrmrd.Acquisition.from_bytes(line.pack())
        assert_same_line(found, line)
        assert found.is_flag_set(ismrmrd.ACQ_IS_REVERSE) and found.is_flag_set(ismrmrd.ACQ_LAST_IN_MEASUREMENT)
        assert found.to_bytes() == line.pack()


def test_flags_are_those_of_the_library(ismrmrd: Any) -> None:
    names = {
        "FIRST_IN_SLICE": "FIRST_IN_SLICE",
        "LAST_IN_SLICE": "LAST_IN_SLICE",
        "LAST_IN_MEASUREMENT": "LAST_IN_MEASUREMENT",
        "NOISE": "IS_NOISE_MEASUREMENT",
        "CALIBRATION": "IS_PARALLEL_CALIBRATION",
        "CALIBRATION_AND_IMAGING": "IS_PARALLEL_CALIBRATION_AND_IMAGING",
        "REVERSE": "IS_REVERSE",
        "NAVIGATION": "IS_NAVIGATION_DATA",
        "PHASE_CORRECTION": "IS_PHASECORR_DATA",
        "HP_FEEDBACK": "IS_HPFEEDBACK_DATA",
        "DUMMY": "IS_DUMMYSCAN_DATA",
        "RT_FEEDBACK": "IS_RTFEEDBACK_DATA",
    }
    for ours, theirs in names.items():
        assert getattr(mrd, ours) == getattr(ismrmrd, f"ACQ_{theirs}"), ours


def test_the_library_reads_a_stream(ismrmrd: Any) -> None:
    from ismrmrd.serialization import ConfigFile, ProtocolDeserializer

    kspace = scan()
    lines = mrd.cartesian_lines(kspace, noise_scans=1)
    xml = mrd.cartesian_xml(kspace.shape)
    wave = mrd.waveform(np.arange(6).reshape(2, 3), flags=3, scan_counter=4, time_stamp=5, waveform_id=6)
    payload = mrd.stream(xml, lines, parameters={"seed": 1}, waveforms=[wave], nul=False)
    config, head, parameters, found_wave, *found = ProtocolDeserializer(io.BytesIO(payload)).deserialize()
    assert isinstance(config, ConfigFile) and config == "hybrid" and parameters == '{"seed": 1}'
    assert head.encoding[0].encodedSpace.matrixSize.x == 16
    assert (found_wave.flags, found_wave.scan_counter, found_wave.time_stamp, found_wave.waveform_id) == (3, 4, 5, 6)
    np.testing.assert_array_equal(found_wave.data, np.arange(6).reshape(2, 3))
    for acquisition, line in zip(found, lines, strict=True):
        assert_same_line(acquisition, line)


def test_the_library_parses_the_header(ismrmrd: Any) -> None:
    user: dict[str, int | float | str] = {"seed": 7, "strength": 0.25, "method": "pnp & <more>", "quoted": '"x"'}
    xml = mrd.write_xml(
        (64, 30, 1),
        (32, 32, 1),
        encoded_fov_mm=(400, 200.5, 5),
        recon_fov_mm=(200, 214.0, 5),
        limits={"kspace_encoding_step_1": (1, 29, 14), "slice": (0, 4, 2), "average": (0, 1, 0), "set": (0, 2, 1)},
        trajectory="epi",
        acceleration=(4, 1),
        calibration_mode="embedded",
        interleaving_dimension="repetition",
        user=user,
        channels=8,
        field_strength=0.55,
        measurement={"protocolName": "knee", "patientPosition": "FFS"},
        encodings=2,
    )
    head = ismrmrd.xsd.CreateFromDocument(xml)
    assert len(head.encoding) == 2
    encoding = head.encoding[1]
    encoded, recon = encoding.encodedSpace, encoding.reconSpace
    assert (encoded.matrixSize.x, encoded.matrixSize.y, encoded.matrixSize.z) == (64, 30, 1)
    assert (recon.matrixSize.x, recon.matrixSize.y) == (32, 32)
    assert (encoded.fieldOfView_mm.y, recon.fieldOfView_mm.y) == (200.5, 214.0)
    steps = encoding.encodingLimits.kspace_encoding_step_1
    assert (steps.minimum, steps.maximum, steps.center) == (1, 29, 14)
    assert (encoding.encodingLimits.slice.maximum, encoding.encodingLimits.set.center) == (4, 1)
    assert encoding.encodingLimits.repetition is None
    assert encoding.trajectory.value == "epi"
    assert encoding.parallelImaging.accelerationFactor.kspace_encoding_step_1 == 4
    assert encoding.parallelImaging.calibrationMode.value == "embedded"
    assert encoding.parallelImaging.interleavingDimension.value == "repetition"
    assert head.acquisitionSystemInformation.receiverChannels == 8
    assert head.acquisitionSystemInformation.systemFieldStrength_T == pytest.approx(0.55)
    assert head.measurementInformation.protocolName == "knee"
    assert head.measurementInformation.patientPosition.value == "FFS"
    found = head.userParameters
    both = [*found.userParameterLong, *found.userParameterDouble, *found.userParameterString]
    assert {parameter.name: parameter.value for parameter in both} == user


def test_the_library_reads_files(ismrmrd: Any, tmp_path: Path) -> None:
    lines = [odd_line(), odd_line(1, 0), *mrd.cartesian_lines(scan())]
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
    lines = [odd_line(), odd_line(1, 0)]
    with ismrmrd.Dataset(tmp_path / "scan.h5", "dataset") as dataset:
        dataset.write_xml_header("<a/>")
        for line in lines:
            dataset.append_acquisition(ismrmrd.Acquisition.from_bytes(line.pack()))
    assert mrd.read_mrd(tmp_path / "scan.h5") == ("<a/>", lines)


@pytest.mark.parametrize("kind", ["uint16", "int16", "uint32", "float32", "float64", "complex64", "complex128"])
def test_images_of_the_library_are_read(ismrmrd: Any, kind: str) -> None:
    values = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5).astype(kind) * (1 + 2j if kind[0] == "c" else 1)
    fields = {"image_index": 3, "image_series_index": 4, "image_type": 5, "slice": 6, "repetition": 7, "set": 8}
    sent = ismrmrd.Image.from_array(values.astype(kind), **fields)
    sent.field_of_view, sent.position, sent.read_dir = (1.5, 2.5, 3.5), (4.0, 5.0, 6.0), (0.0, 1.0, 0.0)
    sent.user_int, sent.user_float, sent.measurement_uid = tuple(range(8)), (0.5,) * 8, 2**32 - 1
    sent.meta = ismrmrd.Meta(
        {"DataRole": ["Image", "AVE"], "RescaleSlope": 0.5, "Note": "é < & ö", "Keep_image_geometry": 1}
    )
    payload = b"\xfe\x03" + sent.to_bytes() + mrd.text("done") + mrd.close()
    found, text = mrd.parse_replies(payload)
    assert text == "done" and isinstance(found, Image)
    assert found.data.dtype == np.dtype(kind) and found.data_type == sent.data_type
    np.testing.assert_array_equal(found.data, values)
    assert found.matrix_size == (5, 4, 3) == sent.matrix_size and found.channels == 2
    head = sent.getHead()
    for field in mrd.IMAGE_FIELDS:
        value = getattr(head, field.name)
        assert getattr(found, field.name) == (tuple(value) if field.size > 1 else value), field.name
    assert found.meta == {
        "DataRole": ["Image", "AVE"],
        "RescaleSlope": "0.5",
        "Note": "é < & ö",
        "Keep_image_geometry": "1",
    }
    assert mrd.image(found) == b"\xfe\x03" + sent.to_bytes()


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


# Scans


@pytest.mark.parametrize(("height", "factor"), [(8, 2), (9, 2), (8, 1), (7, 3)])
def test_oversampling_is_removed(height: int, factor: int) -> None:
    lines = scan(height=height).swapaxes(-1, -2)
    wide = mrd.oversample(lines, factor)
    assert wide.shape[-1] == factor * height and wide.dtype == np.complex64
    np.testing.assert_allclose(mrd.remove_oversampling(wide, height), lines, atol=1e-6)
    np.testing.assert_allclose((abs(wide) ** 2).sum(), (abs(lines) ** 2).sum(), rtol=1e-5)
    flat = np.zeros((1, factor * height), np.complex64)
    flat[0, factor * height // 2] = 1  # an image centred in both: the centre of k-space stays in the centre
    assert abs(mrd.remove_oversampling(flat, height)[0]).argmax() == height // 2


@pytest.mark.parametrize("order", ["ascending", "odd_even", "by_line"])
@pytest.mark.parametrize("shuffle", [False, True])
def test_lines_give_kspace_back(order: Any, shuffle: bool) -> None:
    kspace = np.stack([scan(slices=3, seed=k) for k in range(2)])
    mask = np.arange(12) % 3 == 0
    calibration = abs(np.arange(12) - 6) < 2
    lines = mrd.cartesian_lines(
        kspace,
        mask=mask,
        slice_order=order,
        shuffle=shuffle,
        averages=2,
        average_noise=0.5,
        noise_scans=2,
        reverse=np.arange(12) % 2 == 1,
        garbage={mrd.NAVIGATION: 2, mrd.PHASE_CORRECTION: 3, mrd.DUMMY: 1},
        discard=(2, 3),
        calibration=calibration,
        margin_noise=True,
        seed=4,
    )
    found = gather(lines, kspace.shape)
    np.testing.assert_allclose(found[..., mask], kspace[..., mask], atol=1e-5)
    assert not found[..., ~mask].any()
    assert [line.scan_counter for line in lines] == list(range(len(lines)))
    flagged = {flag: sum(line.has(flag) for line in lines) for flag in range(1, 65)}
    groups = 2 * 3  # of repetitions and slices
    assert {flag: count for flag, count in flagged.items() if count} == {
        mrd.FIRST_IN_SLICE: groups,
        mrd.LAST_IN_SLICE: groups,
        mrd.NOISE: 2,
        mrd.CALIBRATION: groups * 2 * 2,  # lines 5 and 7
        mrd.CALIBRATION_AND_IMAGING: groups * 2 * 1,  # line 6
        mrd.REVERSE: groups * 2 * 4,  # lines 3 and 9 of the mask, 5 and 7 of the calibration
        mrd.NAVIGATION: 2,
        mrd.PHASE_CORRECTION: 3,
        mrd.DUMMY: 1,
        mrd.LAST_IN_MEASUREMENT: 1,
    }
    assert lines[-1].has(mrd.LAST_IN_MEASUREMENT) and lines[-1].has(mrd.LAST_IN_SLICE)
    assert all(line.has(mrd.NOISE) for line in lines[:2]) and not any(line.has(mrd.NOISE) for line in lines[2:])
    last: dict[tuple[int, int], Line] = {}
    for line in lines:
        if not any(map(line.has, (mrd.NOISE, mrd.NAVIGATION, mrd.PHASE_CORRECTION, mrd.DUMMY))):
            last[line.repetition, line.slice] = line
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


def test_the_centre_sample_is_where_it_says() -> None:
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
    lines = mrd.cartesian_lines(
        scan(coils=2, height=512),
        noise_scans=40,
        noise_covariance=covariance,
        noise_sample_time_us=8,
        mask=np.zeros(12),
    )
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


# Replies


@pytest.mark.parametrize("data_type", range(1, 9))
def test_images_round_trip(data_type: int) -> None:
    kind = mrd.DATA_TYPES[data_type]
    meta = "<ismrmrdMeta><meta><name>a</name><value>1</value></meta><meta><name>a</name><value/></meta></ismrmrdMeta>"
    sent = picture(kind.str, meta, slice=2, user_float=(0.5,) * 8)
    (found,) = mrd.parse_replies(mrd.image(sent) + mrd.close())
    assert isinstance(found, Image) and found.data.dtype == kind and found.data_type == data_type
    np.testing.assert_array_equal(found.data, sent.data)
    assert (found.slice, found.matrix_size, found.channels, found.meta) == (2, (4, 3, 1), 2, {"a": ["1", ""]})
    assert len(sent.pack()) == 198 + 8 + len(meta) + 24 * kind.itemsize


GOOD = mrd.image(picture(attributes="<ismrmrdMeta/>")) + mrd.text("t")


@pytest.mark.parametrize(
    ("payload", "what"),
    [
        (b"", "after 0 messages without close"),
        (GOOD, "after 2 messages without close"),
        (GOOD + mrd.close() + b"\0", "bytes after close"),
        (GOOD + mrd.close() + mrd.close(), "bytes after close"),
        (GOOD + b"\x04", "1 bytes before the end of a message id"),
        (GOOD[:100], "before the end of an image header"),
        (GOOD[:202], "before the end of the length of attributes"),
        (GOOD[:220], "before the end of attributes"),
        (GOOD[:230], "before the end of image data"),
        (GOOD[:-1], "before the end of a text"),
        (mrd.header("<a/>") + mrd.close(), "message 3 from the server"),
        (mrd.acquisition(odd_line()) + mrd.close(), "message 1008 from the server"),
        (mrd.image(picture(), data_type=0), "data type 0"),
        (mrd.image(picture(), data_type=9), "data type 9"),
        (mrd.image(picture(), version=0), "version 0"),
        (mrd.image(picture(), channels=0), "0 channels"),
        (mrd.image(picture(), matrix_size=(4, 0, 1)), "matrix"),
        (mrd.image(picture(), attribute_string_len=1), "counts 1 bytes of attributes, 0 are sent"),
        (mrd.image(picture(attributes="<ismrmrdMeta/>\0")), "NUL in attributes"),
        (mrd.image(picture(attributes="<meta/>")), "attributes in meta"),
        (mrd.image(picture(attributes="<ismrmrdMeta><meta><value/></meta></ismrmrdMeta>")), "without name"),
    ],
)
def test_wrong_replies_are_named(payload: bytes, what: str) -> None:
    with pytest.raises(AssertionError, match=what):
        mrd.parse_replies(payload)


# Transport


@contextmanager
def serving(handle: Callable[[socket.socket], Any]) -> Iterator[int]:
    """Serve one connection by `handle`, then close it."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def run() -> None:
            connection, _ = server.accept()
            with connection:
                handle(connection)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        thread.join(10)
        assert not thread.is_alive()


def receive(connection: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size and (piece := connection.recv(size - len(received))):
        received += piece
    return received


PAYLOAD = mrd.stream(mrd.cartesian_xml((2, 3, 8, 12)), mrd.cartesian_lines(scan()))
ANSWER = mrd.image(picture(slice=0)) + mrd.text("half") + mrd.image(picture(slice=1)) + mrd.close()


@pytest.mark.parametrize("chunk", [None, 1000, 1 << 20])
def test_reconstruct_sends_all_and_reads_all(chunk: int | None) -> None:
    got: list[bytes] = []

    def handle(connection: socket.socket) -> None:
        got.append(receive(connection, len(PAYLOAD)))
        time.sleep(0.1)
        connection.sendall(ANSWER)

    seen: list[int] = []
    with serving(handle) as port:
        replies = mrd.reconstruct("127.0.0.1", port, PAYLOAD, 10, chunk, on_image=lambda im: seen.append(im.slice))
    assert got == [PAYLOAD] and seen == [0, 1]
    assert [image.slice for image in replies.images] == seen and replies.texts == ["half"]
    assert replies.close and replies.connection_closed and not replies.reset and replies.send_error is None
    assert len(replies.acquisition_times) == 24 and replies.sent is not None
    times = [replies.started, *replies.acquisition_times, replies.sent]
    assert times == sorted(times)
    assert replies.sent <= replies.image_times[0] <= replies.image_times[1] <= replies.finished


def test_images_that_come_while_lines_are_sent_are_timed() -> None:
    def handle(connection: socket.socket) -> None:
        receive(connection, len(PAYLOAD) // 2)
        connection.sendall(ANSWER[:320])  # the first image and a part of the text
        receive(connection, len(PAYLOAD) - len(PAYLOAD) // 2)
        time.sleep(0.1)
        connection.sendall(ANSWER[320:])

    with serving(handle) as port:
        replies = mrd.reconstruct("127.0.0.1", port, PAYLOAD, 20, delay=0.005)
    assert replies.sent is not None and len(replies.images) == 2
    assert replies.acquisition_times[4] < replies.image_times[0] < replies.sent < replies.image_times[1]
    assert replies.acquisition_times[-1] - replies.acquisition_times[0] > 23 * 0.005


def test_a_large_answer_while_nothing_is_read_does_not_lock() -> None:
    large = mrd.image(Image(np.zeros((1, 1, 2000, 1000), np.float32)))
    payload = mrd.stream("<a/>", [Line(np.ones((16, 4096), np.complex64))] * 20)

    def handle(connection: socket.socket) -> None:
        connection.sendall(large * 2)  # before anything is received
        receive(connection, len(payload))
        connection.sendall(mrd.close())

    with serving(handle) as port:
        replies = mrd.reconstruct("127.0.0.1", port, payload, 20)
    assert len(replies.images) == 2 and replies.close and replies.sent is not None


def test_a_server_that_goes_away_is_told_apart() -> None:
    def short(connection: socket.socket) -> None:
        receive(connection, len(PAYLOAD))
        connection.sendall(mrd.text("no"))

    with serving(short) as port:
        replies = mrd.reconstruct("127.0.0.1", port, PAYLOAD, 10)
    assert replies.texts == ["no"] and not replies.close and replies.connection_closed and not replies.reset

    def reset(connection: socket.socket) -> None:
        connection.recv(10)  # what is left unread resets the connection

    with serving(reset) as port:
        replies = mrd.reconstruct("127.0.0.1", port, PAYLOAD * 50, 10)
    assert replies.connection_closed and not replies.close and (replies.reset or replies.send_error)

    def cut(connection: socket.socket) -> None:
        receive(connection, len(PAYLOAD))
        connection.sendall(ANSWER[:-20])

    with serving(cut) as port, pytest.raises(AssertionError, match="before the end of image data"):
        mrd.reconstruct("127.0.0.1", port, PAYLOAD, 10)


def test_a_silent_server_runs_into_the_timeout_and_one_that_stays_is_seen() -> None:
    def wait(connection: socket.socket) -> None:
        connection.sendall(mrd.text("thinking"))
        while connection.recv(1 << 16):
            pass

    with serving(wait) as port, pytest.raises(TimeoutError, match=r"after 1 s: 0 images.*thinking.*24 lines sent"):
        mrd.reconstruct("127.0.0.1", port, PAYLOAD, 1)

    def stay(connection: socket.socket) -> None:
        connection.sendall(ANSWER)
        while connection.recv(1 << 16):
            pass

    with serving(stay) as port:
        replies = mrd.reconstruct("127.0.0.1", port, PAYLOAD, 10, linger=0.2)
    assert replies.close and not replies.connection_closed


def test_half_close_ends_a_cut_stream() -> None:
    got: list[bytes] = []

    def handle(connection: socket.socket) -> None:
        got.append(receive(connection, 1 << 30))
        connection.sendall(mrd.close())

    with serving(handle) as port:
        replies = mrd.reconstruct("127.0.0.1", port, PAYLOAD[:-500], 10, half_close=True)
    assert got == [PAYLOAD[:-500]] and replies.close and replies.connection_closed


def pipe(code: str, payload: bytes = PAYLOAD, timeout: float = 20, **options: Any) -> Replies:
    """Run code that has stdin `i`, stdout `o`, the payload's `size` and an `answer`."""
    given = f"import sys, time; i, o = sys.stdin.buffer, sys.stdout.buffer; size, answer = {len(PAYLOAD)}, {ANSWER!r}"
    return mrd.reconstruct_pipe([sys.executable, "-c", f"{given}\n{code}"], payload, timeout, **options)


@pytest.mark.parametrize("half_close", [True, False])
def test_a_pipe_answers(half_close: bool) -> None:
    seen: list[int] = []
    replies = pipe(
        "assert len(i.read(size)) == size\nsys.stderr.write('well')\no.write(answer)",
        half_close=half_close,
        on_image=lambda im: seen.append(im.slice),
    )
    assert seen == [0, 1] and replies.texts == ["half"] and replies.close and replies.connection_closed
    assert (replies.returncode, replies.stderr, replies.send_error) == (0, "well", None)
    assert len(replies.acquisition_times) == 24 and replies.sent is not None


def test_a_pipe_that_fails_says_so() -> None:
    replies = pipe("sys.exit('no such scan')", PAYLOAD * 20)
    assert replies.returncode == 1 and "no such scan" in replies.stderr and not replies.close
    assert replies.send_error is not None and replies.sent is None
    with pytest.raises(AssertionError, match="message 26952 from the server"):
        pipe("print('Hi there'); i.read()")
    with pytest.raises(AssertionError, match="bytes after close"):
        pipe("i.read(); o.write(answer + b'more')")
    with pytest.raises(TimeoutError, match=r"after 3 s: 2 images, a close message.*\n.*stays"):
        pipe("sys.stderr.write('stays'); sys.stderr.flush(); o.write(answer); o.flush(); time.sleep(60)", timeout=3)
    with pytest.raises(TimeoutError, match="0 images, no close"):  # waits for an end of stdin that does not come
        pipe("i.read(); o.write(answer)", timeout=1, half_close=False)


# Broken streams


@pytest.fixture(scope="module")
def mutator() -> Mutator:
    lines = mrd.cartesian_lines(scan(height=4, width=6))
    return Mutator(mrd.stream(mrd.cartesian_xml((2, 3, 4, 6)), lines, parameters={"samples": 2}))


def test_mutations_are_drawn_by_seed_and_of_all_kinds(mutator: Mutator) -> None:
    assert mutator.kinds == mrd.KINDS
    drawn = [mutator.draw(np.random.default_rng(seed)) for seed in range(300)]
    again = [mutator.draw(np.random.default_rng(seed)) for seed in range(300)]
    assert drawn == again
    assert {kind for kind, _ in drawn} == set(mrd.KINDS)
    assert all(broken != mutator.payload for _, broken in drawn)
    assert len({broken for _, broken in drawn}) > 280
    assert mrd.mutations(mutator.payload, np.random.default_rng(5)) == drawn[5][1]
    few = Mutator(mrd.close())
    assert "xml" not in few.kinds and "count" not in few.kinds
    assert all(few.mutate(np.random.default_rng(seed)) != few.payload for seed in range(50))


@pytest.mark.parametrize("kind", mrd.KINDS)
def test_mutations_do_what_their_kind_says(mutator: Mutator, kind: str) -> None:
    whole = 0
    for seed in range(60):
        broken = mutator.mutate(np.random.default_rng(seed), kind)
        if kind == "cut":
            assert mutator.payload.startswith(broken)
        if kind in ("bits", "identifier", "length", "count", "counter", "floats", "swap", "random"):
            assert len(broken) == len(mutator.payload)
        if kind in ("repeat", "insert"):
            assert len(broken) > len(mutator.payload)
        if kind == "drop":
            assert len(broken) < len(mutator.payload)
        try:
            messages = mrd.split(broken)
            whole += len(messages) == len(mutator.messages)
        except AssertionError:
            continue
        if kind == "xml":
            assert [m.identifier for m in messages] == [m.identifier for m in mutator.messages]
        if kind == "floats":
            lines = [Line.unpack(broken[m.start + 2 : m.end]) for m in messages if m.identifier == mrd.ACQUISITION]
            old = [Line.unpack(mutator.payload[at + 2 : mutator._end(at)]) for at in mutator.lines]
            assert sum(a != b for a, b in zip(lines, old, strict=True)) == 1
    if kind in ("counter", "floats", "swap", "xml"):
        assert whole == 60
    if kind in ("count", "length"):
        assert whole < 30


def test_xml_mutations_reach_the_matrix(mutator: Mutator) -> None:
    matrix = {b"<x>0</x>", b"<x>-1</x>", b"<x>4294967296</x>", b"<x>99999</x>", b"<y>0</y>", b"<y>99999</y>"}
    found: set[bytes] = set()
    for seed in range(600):
        broken = mutator.mutate(np.random.default_rng(seed), "xml")
        found |= {piece for piece in matrix if piece in broken}
    assert found == matrix
