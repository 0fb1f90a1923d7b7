"""A scan of any format as ISMRMRD lines with their header: the inverse of `mrihvae.io.mrd.sorter`."""

from __future__ import annotations

from collections.abc import Iterator

import ismrmrd
import numpy as np

from mrihvae.data.geometry import Geometry, make_geometry
from mrihvae.data.scan import Scan, acquired_samples
from mrihvae.errors import InputError
from mrihvae.io.mrd.header import header_xml
from mrihvae.io.mrd.write_messages import MessageStream, acquisition_message
from mrihvae.utils.notices import warn

NOISE_SAMPLES = 1024  # samples of a noise line: their number must fit 16 bits


def lines_of_scan(scan: Scan) -> MessageStream:
    """Return a scan as messages: noise scan, calibration lines, and the acquired lines slice by slice.

    Raises
    ------
    InputError
        K-space that was not acquired in lines along H.
    """
    rows, lines = _sampling(scan, acquired_samples(scan) if scan.mask is None else scan.mask)
    if scan.maps is not None:
        warn(f"{scan.name}: its sensitivity maps are not sent, because ISMRMRD cannot store them")
    noise = 0 if scan.noise_scan is None else -(-scan.noise_scan.shape[1] // NOISE_SAMPLES)
    count = noise + len(scan.kspace) * len(lines)
    if scan.calibration is not None:
        count += sum(len(_sampling(scan, each.mask)[1]) for each in scan.calibration)
    geometry = _geometry_of(scan)
    xml = header_xml(
        (scan.kspace.shape[-2], scan.kspace.shape[-1]), scan.coils, scan.matrix, scan.padding, geometry.voxel,
        str(scan.attributes.get("acquisition", "")),
    )  # fmt: skip
    messages = (acquisition_message(line) for line in _lines(scan, geometry, rows, lines))
    return MessageStream(xml, messages, count)


def _lines(scan: Scan, geometry: Geometry, rows: slice, lines: np.ndarray) -> Iterator[ismrmrd.Acquisition]:
    if scan.noise_scan is not None:
        for start in range(0, scan.noise_scan.shape[1], NOISE_SAMPLES):
            noise = _acquisition(scan.noise_scan[:, start : start + NOISE_SAMPLES])
            noise.set_flag(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)
            yield noise
    for k in range(len(scan.kspace)):
        if scan.calibration is not None:
            calibration = scan.calibration[k]
            own_rows, own_lines = _sampling(scan, calibration.mask)
            for line in _slice_lines(scan, geometry, calibration.kspace, k, own_rows, own_lines):
                line.set_flag(ismrmrd.ACQ_IS_PARALLEL_CALIBRATION)
                yield line
        kspace = np.asarray(scan.kspace[k])
        made = list(_slice_lines(scan, geometry, kspace.reshape(-1, *kspace.shape[-2:]), k, rows, lines))
        made[0].set_flag(ismrmrd.ACQ_FIRST_IN_SLICE)
        made[-1].set_flag(ismrmrd.ACQ_LAST_IN_SLICE)
        if k == len(scan.kspace) - 1:
            made[-1].set_flag(ismrmrd.ACQ_LAST_IN_MEASUREMENT)
        yield from made


def _slice_lines(
    scan: Scan, geometry: Geometry, kspace: np.ndarray, k: int, rows: slice, lines: np.ndarray
) -> Iterator[ismrmrd.Acquisition]:
    """Yield the lines of k-space (coils, H, W) of slice k."""
    first = scan.padding[0] if scan.padding else 0
    for column in lines:
        line = _acquisition(kspace[:, rows, column])
        line.center_sample = kspace.shape[-2] // 2 - rows.start
        line.idx.kspace_encode_step_1, line.idx.slice = int(column) - first, k
        line.position[:] = tuple(geometry.positions[k])
        line.read_dir[:], line.phase_dir[:] = tuple(geometry.read), tuple(geometry.phase)
        line.slice_dir[:] = tuple(geometry.normal)
        yield line


def _acquisition(data: np.ndarray) -> ismrmrd.Acquisition:
    """Make an acquisition of data (coils, samples)."""
    line = ismrmrd.Acquisition()
    line.resize(data.shape[1], len(data))
    line.version, line.available_channels = 1, len(data)
    line.data[:] = data
    return line


def _sampling(scan: Scan, mask: np.ndarray) -> tuple[slice, np.ndarray]:
    """Return which rows of H lines reach over, and which lines of W there are."""
    if mask.ndim == 1:
        return slice(0, scan.kspace.shape[-2]), _encoded(scan, np.flatnonzero(mask))
    rows, lines = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    reach = slice(int(rows[0]), int(rows[-1]) + 1) if len(rows) else slice(0, 0)
    if not mask[reach][:, lines].all():
        raise InputError(f"{scan.name}: was sampled point by point, and only lines along H can be sent")
    return reach, _encoded(scan, lines)


def _encoded(scan: Scan, lines: np.ndarray) -> np.ndarray:
    """Leave out lines that the scanner does not encode, whose steps would be negative."""
    first, end = scan.padding or (0, scan.kspace.shape[-1])
    kept = lines[(lines >= first) & (lines < end)]
    if not len(kept):
        raise InputError(f"{scan.name}: has no acquired lines; there is nothing to send")
    return kept


def _geometry_of(scan: Scan) -> Geometry:
    """Return the geometry of a scan; where it has none, that of axial slices without gaps."""
    if scan.geometry is not None:
        return scan.geometry
    voxel, count = scan.voxel or (1.0, 1.0, 1.0), len(scan.kspace)
    positions = (np.arange(count)[:, None] - (count - 1) / 2) * [0.0, 0.0, voxel[2]]
    return make_geometry(positions, np.zeros(3), np.zeros(3), np.zeros(3), voxel)
