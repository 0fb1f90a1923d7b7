"""From the measurements of a TWIX file to scans: lines become those of ISMRMRD, and are sorted as these are."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import ismrmrd
import numpy as np

from mrihvae.data.scan import Scan
from mrihvae.errors import InputError
from mrihvae.io.checks import read_errors
from mrihvae.io.mrd.files import scans_of
from mrihvae.io.mrd.header import ScanHeader
from mrihvae.io.mrd.orientation import SIEMENS
from mrihvae.io.mrd.sorter import SliceAssembler
from mrihvae.io.twix.encoding import Centers, centers_of, encoding_of
from mrihvae.io.twix.measurements import Line, Measurement, read_measurements
from mrihvae.io.twix.protocol import Protocol
from mrihvae.io.twix.refusals import check_supported
from mrihvae.utils.notices import warn

UNUSED = (  # lines that hold no part of the image
    "RTFEEDBACK", "HPFEEDBACK", "PHASCOR", "REFPHASESTABSCAN", "PHASESTABSCAN", "noname60", "RETRO_DUMMYSCAN",
)  # fmt: skip
NOISE, CALIBRATION, BOTH = "NOISEADJSCAN", "PATREFSCAN", "PATREFANDIMASCAN"
FLAGS = {
    NOISE: ismrmrd.ACQ_IS_NOISE_MEASUREMENT,
    CALIBRATION: ismrmrd.ACQ_IS_PARALLEL_CALIBRATION,
    BOTH: ismrmrd.ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING,
    "REFLECT": ismrmrd.ACQ_IS_REVERSE,
}
COUNTERS = {
    "average": "Ave", "slice": "Sli", "contrast": "Eco", "phase": "Phs", "repetition": "Rep", "set": "Set",
    "segment": "Seg",
}  # fmt: skip
DWELL_TIME = "sRXSPEC.alDwellTime[0]"  # ns between samples


def read_twix(path: Path | str) -> list[Scan]:
    """Read the scans of a file: each measurement with an image, contrast, repetition, phase and set is one.

    Noise that was measured alone is the noise scan of the measurements behind it. Adjustments of the scanner are left
    out.

    Raises
    ------
    InputError
        Truncated, damaged or not TWIX; no line of an image; EPI, radial, spiral or simultaneous slices alone; or lines
        that cannot be sorted (see `mrihvae.io.mrd.sorter.SliceAssembler`).
    """
    path = Path(path)
    with (
        read_errors(path, "truncated or damaged, or not Siemens raw data", "copy it again"),
        path.open("rb") as file,
    ):
        measurements = read_measurements(file, path.stat().st_size)
        imaging = [one for one in measurements if not one.protocol.is_adjustment and _split(one)[1]]
        if not imaging:
            held = ", ".join(f"'{one.protocol.name}'" for one in measurements)
            raise InputError(f"has no image lines ({held}); there is nothing to reconstruct")
        scans, refusals = [], []
        for one in imaging:
            name = path.name if len(imaging) == 1 else f"{path.stem}_measurement{one.number}.dat"
            try:
                check_supported(one.protocol, [line for line in one.lines if not line.has(NOISE)])
            except InputError as error:
                refusals.append(error)
                continue
            before = [other for other in measurements[: one.number] if _split(other)[0]]
            scans += _scans(file, one, before[-1] if before else None, name)
        if not scans:
            raise refusals[0]
    for refusal in refusals:
        warn(f"{path}: {refusal}; this measurement is left out")
    return scans


def _split(measurement: Measurement) -> tuple[list[Line], list[Line]]:
    """Return the lines of a measurement that hold noise, and those of the image or for calibration."""
    used = [line for line in measurement.lines if not line.has(*UNUSED)]
    noise = [line for line in used if line.has(NOISE)]
    image = [line for line in used if not line.has(NOISE)]
    return noise, image if any(_is_image(line) for line in image) else []


def _is_image(line: Line) -> bool:
    return line.has(BOTH) or not line.has(CALIBRATION)


def _scans(file: BinaryIO, measurement: Measurement, before: Measurement | None, name: str) -> list[Scan]:
    """Read the scans of a measurement.

    Parameters
    ----------
    before : the last one before it with noise, if there is one
    name : of the scans, with suffix
    """
    protocol = measurement.protocol
    noise, lines = _split(measurement)
    image = [line for line in lines if _is_image(line)]
    centers = centers_of(protocol, lines)
    encoding = encoding_of(protocol, lines, image, centers)
    field_strength = protocol.number("sProtConsistencyInfo.flNominalB0") or protocol.parameter("flNominalB0") or 0.0
    header = ScanHeader((encoding,), {}, protocol.text("tProtocolName"), SIEMENS, field_strength)
    assembler = SliceAssembler(header, early=False, max_held=sys.maxsize)
    factor = 1.0
    if not noise and before is not None:
        noise, factor = _split(before)[0], _noise_factor(before.protocol, protocol)
    with np.errstate(over="ignore", invalid="ignore"):
        for line in noise:
            assembler.add(_acquisition(line, factor * line.samples(file), centers))
        slices = [one for line in lines for one in assembler.add(_acquisition(line, line.samples(file), centers))]
        slices += assembler.end()
    if not all(np.isfinite(one.kspace).all() for one in slices):
        raise InputError("holds values beyond single precision; the scan is damaged")
    scans = scans_of(slices, header, name, assembler.noise)
    for warning in (*assembler.warnings, *_doubts(measurement, image)):
        warn(f"{name}: {warning}")
    return scans


def _acquisition(line: Line, samples: np.ndarray, centers: Centers) -> ismrmrd.Acquisition:
    """Return the line as ISMRMRD has it: centers of k-space are counted in the grid."""
    source, head = line.head, ismrmrd.AcquisitionHeader()
    head.version, head.scan_counter = 1, source.ScanCounter
    head.active_channels, head.number_of_samples = samples.shape
    head.available_channels = head.active_channels
    head.discard_pre, head.discard_post = source.CutOff.Pre, source.CutOff.Post
    head.center_sample = centers.sample(line)
    place = source.SliceData.SlicePos
    head.position[:] = place.Sag, place.Cor, place.Tra
    directions = _directions(source.SliceData.Quaternion)
    head.phase_dir[:], head.read_dir[:], head.slice_dir[:] = (tuple(each) for each in directions.T)
    for name, counter in COUNTERS.items():
        setattr(head.idx, name, getattr(source.Counter, counter))
    if not line.has(NOISE):
        head.idx.kspace_encode_step_1, head.idx.kspace_encode_step_2 = centers.steps(line)
    acquisition = ismrmrd.Acquisition(head)
    acquisition.data[:] = samples
    for name, flag in FLAGS.items():
        if line.has(name):
            acquisition.set_flag(flag)
    return acquisition


def _directions(quaternion: np.ndarray) -> np.ndarray:
    """Compute the directions of phase encoding, readout and slice, columns of (3, 3), from (w, x, y, z)."""
    w, x, y, z = (float(each) for each in quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def _noise_factor(noise: Protocol, image: Protocol) -> float:
    """Compute by how much noise is larger at the image's bandwidth, for which the times between samples stand."""
    own, other = noise.number(DWELL_TIME), image.number(DWELL_TIME)
    return float(np.sqrt(own / other)) if min(own, other) > 0 else 1.0


def _doubts(measurement: Measurement, image: Sequence[Line]) -> list[str]:
    """Return what may be wrong with a measurement that can be read."""
    found = []
    if not measurement.finished:
        found.append("the measurement has no end; it may have been stopped, and lines may be missing")
    if measurement.protocol.is_pulseq:
        found.append(
            "a Pulseq sequence, whose matrix the protocol does not have: the matrix comes from the lines, and "
            "the voxel size from the protocol's field of view, which may be wrong"
        )
    both = Counter(key for key, _ in {(line.head.Counter.Eco, line.has("REFLECT")) for line in image})
    if any(count > 1 for count in both.values()):
        found.append("lines of one contrast were read in both directions, and phase is not corrected for this")
    return found
