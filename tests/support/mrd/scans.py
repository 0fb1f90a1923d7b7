"""Scans to send to MRD servers: their XML headers, their lines, and files of both, from the specification alone."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal, NamedTuple

import h5py
import numpy as np
from numpy.typing import ArrayLike, NDArray

from tests.support.mrd import messages as mrd
from tests.support.mrd.messages import Line, Vector, flags


def write_xml(
    encoded: Sequence[int],
    recon: Sequence[int] | None = None,
    *,
    encoded_fov_mm: Sequence[float] | None = None,
    recon_fov_mm: Sequence[float] | None = None,
    limits: Mapping[str, tuple[int, int, int]] | None = None,
    trajectory: str = "cartesian",
    acceleration: tuple[int, int] | None = None,
    calibration_mode: str | None = None,
    interleaving_dimension: str | None = None,
    user: Mapping[str, int | float | str] | None = None,
    channels: int | None = None,
    field_strength: float | None = 3.0,
    measurement: Mapping[str, str] | None = None,
    encodings: int = 1,
    namespace: bool = True,
) -> str:
    """Write an XML header.

    Matrices and fields of view (mm; pixels of 1 mm if not given) are (x, y, z). `limits` are (minimum, maximum,
    center) of counters by name. `user` becomes userParameterLong, -Double or -String by type, `measurement`
    measurementInformation. `encodings` repeats the encoding.
    """

    def space(matrix: Sequence[int], fov: Sequence[float] | None) -> dict[str, Any]:
        return {"matrixSize": dict(zip("xyz", matrix)), "fieldOfView_mm": dict(zip("xyz", fov or matrix))}

    informed = {"measurementID": None, "patientPosition": "HFS", **(measurement or {})}  # the order of the schema
    bounds = {name: dict(zip(("minimum", "maximum", "center"), numbers)) for name, numbers in (limits or {}).items()}
    parallel = {
        "accelerationFactor": {f"kspace_encoding_step_{k}": factor for k, factor in enumerate(acceleration or (), 1)},
        "calibrationMode": calibration_mode,
        "interleavingDimension": interleaving_dimension,
    }
    encoding = {
        "encodedSpace": space(encoded, encoded_fov_mm),
        "reconSpace": space(recon or encoded, recon_fov_mm),
        "encodingLimits": bounds,
        "trajectory": trajectory,
        "parallelImaging": parallel if acceleration else None,
    }
    parameters: dict[str, list[dict[str, Any]]] = {"Long": [], "Double": [], "String": []}
    for name, value in (user or {}).items():
        parameters[{int: "Long", float: "Double", str: "String"}[type(value)]] += [{"name": name, "value": value}]
    content = {
        "measurementInformation": informed if measurement is not None else None,
        "acquisitionSystemInformation": {"systemFieldStrength_T": field_strength, "receiverChannels": channels},
        "experimentalConditions": {"H1resonanceFrequency_Hz": round(42577478 * (field_strength or 3.0))},
        "encoding": [encoding] * encodings,
        "userParameters": {f"userParameter{k}": values for k, values in parameters.items()} if user else None,
    }
    root = ET.Element("ismrmrdHeader", {"xmlns": "http://www.ismrm.org/ISMRMRD"} if namespace else {})
    _append(root, content)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode")


def _append(parent: ET.Element, content: Mapping[str, Any]) -> None:
    """Append elements by name: text, elements, or a list of these; None is left out."""
    for name, value in content.items():
        for item in value if isinstance(value, list) else [] if value is None else [value]:
            element = ET.SubElement(parent, name)
            if isinstance(item, Mapping):
                _append(element, item)
            else:
                element.text = str(item)


def cartesian_xml(
    shape: Sequence[int],
    oversampling: float = 2,
    *,
    pixel_mm: tuple[float, float] = (1.0, 1.0),
    thickness_mm: float = 5.0,
    repetitions: int = 1,
    averages: int = 1,
    **changes: Any,
) -> str:
    """Write the header that goes with `cartesian_lines` of k-space (..., slices, coils, H, W); see `write_xml`."""
    slices, coils, height, width = shape[-4:]
    counts = {"average": averages, "slice": slices, "repetition": shape[0] if len(shape) == 5 else repetitions}
    limits = {"kspace_encoding_step_1": (0, width - 1, width // 2), "kspace_encoding_step_2": (0, 0, 0)}
    fov = (height * pixel_mm[0], width * pixel_mm[1], thickness_mm)
    settings: dict[str, Any] = {
        "encoded": (round(height * oversampling), width, 1),
        "recon": (height, width, 1),
        "encoded_fov_mm": (fov[0] * oversampling, *fov[1:]),
        "recon_fov_mm": fov,
        "limits": limits | {name: (0, count - 1, 0) for name, count in counts.items()},
        "channels": coils,
    }
    return write_xml(**(settings | changes))


def _transform(fft: Callable[..., Any], data: NDArray[Any]) -> NDArray[Any]:
    shifted = fft(np.fft.ifftshift(data, axes=-1), axis=-1, norm="ortho")
    return np.asarray(np.fft.fftshift(shifted, axes=-1))


def oversample(lines: NDArray[Any], factor: float = 2) -> NDArray[np.complex64]:
    """Put zeros around the image along the readout, the last axis: k-space with `factor` times as many samples."""
    size = lines.shape[-1]
    samples = round(factor * size)
    before = samples // 2 - size // 2
    pads = [(0, 0)] * (lines.ndim - 1) + [(before, samples - size - before)]
    image = np.pad(_transform(np.fft.ifft, lines.astype(np.complex128)), pads)
    return _transform(np.fft.fft, image).astype(np.complex64)


def remove_oversampling(lines: NDArray[Any], size: int) -> NDArray[np.complex64]:
    """Crop the image along the readout, the last axis, to `size`: the inverse of `oversample`."""
    before = lines.shape[-1] // 2 - size // 2
    image = _transform(np.fft.ifft, lines.astype(np.complex128))[..., before : before + size]
    return _transform(np.fft.fft, image).astype(np.complex64)


def white(rng: np.random.Generator, *shape: int) -> NDArray[np.complex128]:
    """Draw complex white noise of mean square magnitude 1."""
    pair = rng.standard_normal((2, *shape)) / 2**0.5
    return np.asarray(pair[0] + 1j * pair[1])


class _Event(NamedTuple):
    slice: int
    line: int
    average: int = 0
    calibration: int = 0  # its flag, or 0
    apart: bool = False


def cartesian_lines(
    kspace: NDArray[np.complex64],
    *,
    mask: ArrayLike | None = None,  # what of W is acquired, bool (W,), (slices, W) or (repetitions, slices, W)
    oversampling: float = 2,
    slice_order: Literal["ascending", "odd_even", "by_line"] = "ascending",  # 0, 2, ..., 1, 3, ...; a line of each
    shuffle: bool = False,  # the lines of each slice
    repetitions: int = 1,
    averages: int = 1,
    average_noise: float = 0.0,  # standard deviation of white noise that cancels in the mean of the averages
    noise_scans: int = 0,  # come first
    noise_covariance: ArrayLike = 1.0,  # (coils, coils), or one variance for all
    noise_sample_time_us: float = 5.0,
    margin_noise: bool = False,  # around the image is such noise, as a receiver has it, not zeros
    reverse: ArrayLike | None = None,  # lines read backwards, bool (W,); center_sample is where k = 0 is stored, or,
    nominal_center: bool = False,  # as converters of vendors' data write it, what it is for forward lines
    calibration: ArrayLike | None = None,  # lines that calibrate, bool (W,): flag 21 in the mask, 20 outside
    calibration_apart: bool = False,  # they come with flag 20 before the imaging lines of the slice, which have none
    garbage: Mapping[int, int] | None = None,  # flag -> how many lines with it come at random places but the last
    discard: tuple[int, int] = (0, 0),  # garbage samples before and behind every readout
    missing: int = 0,  # samples at the low end of k of every readout (asymmetric echo)
    slice_flags: Literal["repetition", "average", "none"] = "repetition",  # FIRST_ and LAST_IN_SLICE in each of these
    last_in_measurement: bool = True,
    positions: ArrayLike | None = None,  # of slices (slices, 3), mm; along slice_dir around the isocenter if not given
    thickness_mm: float = 5.0,
    read_dir: Vector = (1.0, 0.0, 0.0),
    phase_dir: Vector = (0.0, 1.0, 0.0),
    slice_dir: Vector = (0.0, 0.0, 1.0),
    counters: Mapping[str, Any] | None = None,  # further fields of every line
    first_scan: int = 0,  # scan_counter of the first line
    seed: int = 0,
) -> list[Line]:
    """Make the lines of a 2D scan of slices.

    Of k-space ([repetitions,] slices, coils, H, W), centered, H lies along the readout, W along the phase encoding.
    With the oversampling removed after the readout transform, the lines give it back.
    """
    rng = np.random.default_rng(seed)
    volumes = np.broadcast_to(kspace, (repetitions, *kspace.shape)) if kspace.ndim == 4 else kspace
    repetitions, slices, coils, height, width = volumes.shape
    samples = round(oversampling * height)
    taken = np.broadcast_to(True if mask is None else np.asarray(mask, bool), (repetitions, slices, width))
    backwards = np.broadcast_to(False if reverse is None else np.asarray(reverse, bool), width)
    calibrates = np.broadcast_to(False if calibration is None else np.asarray(calibration, bool), width)
    if positions is None:
        positions = np.outer(np.arange(slices) - (slices - 1) / 2, np.multiply(slice_dir, thickness_mm))
    places = np.asarray(positions, float).tolist()
    variance = np.asarray(noise_covariance)
    root = np.linalg.cholesky(variance if variance.ndim else variance * np.eye(coils))

    def make(data: NDArray[Any], event: _Event, repetition: int, backward: bool, marks: set[int]) -> Line:
        center = samples // 2 - missing
        data = data[:, missing:]
        if backward:
            data, marks = data[:, ::-1], marks | {mrd.REVERSE}
            center = center if nominal_center else samples - 1 - samples // 2
        before, behind = (1e3 * white(rng, coils, count) for count in discard)
        line = Line(
            np.concatenate([before, data, behind], axis=1).astype(np.complex64),
            flags=flags(*marks),
            center_sample=center + discard[0],
            discard_pre=discard[0],
            discard_post=discard[1],
            position=tuple(places[event.slice]),
            read_dir=read_dir,
            phase_dir=phase_dir,
            slice_dir=slice_dir,
            kspace_encode_step_1=event.line,
            average=event.average,
            slice=event.slice,
            repetition=repetition,
        )
        return replace(line, **(counters or {}))

    def acquire(slice_: int, imaged: NDArray[np.bool_]) -> list[_Event]:
        ahead = [_Event(slice_, line, 0, mrd.CALIBRATION, True) for line in np.flatnonzero(calibrates).tolist()]
        among = calibrates & (not calibration_apart)
        marks = among * np.where(imaged, mrd.CALIBRATION_AND_IMAGING, mrd.CALIBRATION)
        events = [
            _Event(slice_, line, average, int(marks[line]))
            for average in range(averages)
            for line in np.flatnonzero(imaged | among).tolist()
        ]
        if shuffle:
            rng.shuffle(events)
        return ahead * calibration_apart + events

    noise = (root @ white(rng, noise_scans, coils, samples)).astype(np.complex64)
    made = [Line(data, flags=flags(mrd.NOISE), sample_time_us=noise_sample_time_us) for data in noise]
    for repetition, volume in enumerate(volumes):
        readouts = oversample(np.moveaxis(volume, -1, 1), oversampling)  # (slices, W, coils, samples)
        if margin_noise:
            around = root @ white(rng, *readouts.shape)
            readouts += (around - oversample(remove_oversampling(around, height), oversampling)).astype(np.complex64)
        averaged: NDArray[Any] = np.broadcast_to(readouts, (averages, *readouts.shape))
        if average_noise:
            spread = average_noise * white(rng, *averaged.shape)
            averaged = averaged + spread - spread.mean(axis=0)
        sequences = [acquire(s, taken[repetition, s]) for s in range(slices)]
        if slice_order == "odd_even":
            sequences = sequences[::2] + sequences[1::2]
        turns = zip_longest(*sequences) if slice_order == "by_line" else sequences
        events = [event for turn in turns for event in turn if event is not None]
        for event, marks in zip(events, _edges(events, slice_flags)):
            data = (readouts if event.apart else averaged[event.average])[event.slice, event.line]
            marks |= {event.calibration} - {0}
            made.append(make(data, event, repetition, bool(backwards[event.line]), marks))
    for flag, count in (garbage or {}).items():
        for _ in range(count):
            event = _Event(int(rng.integers(slices)), int(rng.integers(width)))
            line = make(1e3 * white(rng, coils, samples), event, int(rng.integers(repetitions)), False, {flag})
            made.insert(int(rng.integers(noise_scans, len(made))), line)
    if last_in_measurement:
        made[-1] = replace(made[-1], flags=made[-1].flags | flags(mrd.LAST_IN_MEASUREMENT))
    return [replace(line, scan_counter=first_scan + k, acquisition_time_stamp=4 * k) for k, line in enumerate(made)]


def _edges(events: Sequence[_Event], each: str) -> list[set[int]]:
    """Flag the first and the last event of each slice."""
    marks: list[set[int]] = [set() for _ in events]
    groups: dict[tuple[int, int], list[set[int]]] = {}
    for event, its in zip(events, marks):
        if each != "none" and not event.apart:
            groups.setdefault((event.slice, event.average if each == "average" else 0), []).append(its)
    for group in groups.values():
        group[0].add(mrd.FIRST_IN_SLICE)
        group[-1].add(mrd.LAST_IN_SLICE)
    return marks


def _file_type() -> np.dtype[Any]:
    fields = [(name, mrd.ACQUISITION_FIELDS[name]) for name in mrd.ACQUISITION_FIELDS.names or ()]
    names = [name for name, _ in fields]
    start, end = names.index("kspace_encode_step_1"), names.index("user") + 1  # the counters lie in one of their own
    floats = h5py.vlen_dtype(np.dtype("<f4"))
    head = [*fields[:start], ("idx", fields[start:end]), *fields[end:]]
    return np.dtype([("head", head), ("traj", floats), ("data", floats)])


def write_mrd(path: str | Path, xml: str, lines: Sequence[Line], group: str = "dataset", append: bool = False) -> None:
    """Write an MRD file in HDF5 with a group; a file that is there is replaced, unless the group is to be appended."""
    kind = _file_type()
    rows = np.empty(len(lines), kind)
    rows["head"] = np.frombuffer(b"".join(line.pack()[: mrd.ACQUISITION_SIZE] for line in lines), kind["head"])
    for k, line in enumerate(lines):
        rows["traj"][k] = np.ravel([] if line.trajectory is None else line.trajectory).astype("<f4")
        rows["data"][k] = line.data.astype("<c8").view("<f4").ravel()
    with h5py.File(path, "a" if append else "w") as file:
        datasets = file.create_group(group)
        datasets.create_dataset("xml", (1,), h5py.string_dtype("ascii"))[0] = xml.encode()
        datasets.create_dataset("data", data=rows, maxshape=(None,), chunks=(64,))


def read_mrd(path: str | Path) -> tuple[str, list[Line]]:
    """Read header and lines of an MRD file in HDF5."""
    with h5py.File(path, "r") as file:
        xml = file["dataset/xml"][0]
        rows = file["dataset/data"].astype(_file_type())[:]
    lines = [Line.unpack(b"".join(part.tobytes() for part in row)) for row in rows[["head", "traj", "data"]]]
    return xml.decode() if isinstance(xml, bytes) else str(xml), lines
