"""Lines of k-space on their grid: where the header's encoding puts a line, without its readout oversampling."""

from __future__ import annotations

from dataclasses import dataclass, field

import ismrmrd
import numpy as np
import torch

from mrihvae.coils.espirit import MIN_ACS_SIZE, calibration_box
from mrihvae.data.geometry import Geometry, make_geometry
from mrihvae.errors import InputError
from mrihvae.io.mrd.header import Encoding, Limit
from mrihvae.io.partitions import centered_fft

STEPS = {1: "kspace_encoding_step_1", 2: "kspace_encoding_step_2"}  # by axis
MAX_READOUT_NUMBERS = 2**22  # numbers of a line with its oversampling, which a short one may be laid out to
MAX_GRID_NUMBERS = 2**28  # numbers of the grid of a slice or slab, 2 GiB, beyond which
MAX_GRID_RATIO = 64  # a grid must not be so many times as large as what was measured
FOV_TOLERANCE = 0.02  # by which fields of view may differ that are to be the same
MISSING_ROWS_DIVISOR = 32  # H over rows that may be missing at the ends of a readout that still counts as whole


@dataclass
class LineGroup:
    """Lines of one slice or slab: sums (coils, H) and their number, by their place (step 1, step 2)."""

    encoding: Encoding
    head: ismrmrd.AcquisitionHeader
    rows: tuple[float, float]  # first and last of H that were measured
    sums: dict[tuple[int, int], np.ndarray] = field(default_factory=dict)
    counts: dict[tuple[int, int], int] = field(default_factory=dict)

    def add(self, place: tuple[int, int], total: np.ndarray, rows: tuple[float, float], count: int = 1) -> None:
        """Add the sum of `count` lines (coils, H), whose rows were measured from the first to the last of `rows`."""
        self.sums[place] = self.sums[place] + total if place in self.sums else total
        self.counts[place] = self.counts.get(place, 0) + count
        self.rows = max(self.rows[0], rows[0]), min(self.rows[1], rows[1])

    def include(self, other: LineGroup) -> None:
        """Add the lines of another group, of the same coils and encoding."""
        for place, total in other.sums.items():
            self.add(place, total, other.rows, other.counts[place])


def step_limit(encoding: Encoding, axis: int) -> Limit:
    """Return the limits of the steps along axis 1, lines, or 2, partitions; without any, those of the whole matrix."""
    size = encoding.encoded.matrix[axis]
    return encoding.limits.get(STEPS[axis]) or Limit(0, max(size - 1, 0), size // 2)


def place_of(encoding: Encoding, axis: int, step: int) -> int:
    """Compute the index in k-space, along axis 1 or 2, from the scanner's counter."""
    size, limit = encoding.encoded.matrix[axis], step_limit(encoding, axis)
    place = step - limit.center + size // 2
    if not 0 <= place < size:
        raise InputError(
            f"{'line' if axis == 1 else 'partition'} {step} lies outside of the {size} of the header, with "
            f"center {limit.center}; check the header's limits"
        )
    return place


def readout(line: ismrmrd.Acquisition, encoding: Encoding) -> tuple[np.ndarray, tuple[float, float]]:
    """Return a line without readout oversampling, complex64 (coils, H), and the first and last acquired row."""
    size, before, after = encoding.encoded.matrix[0], line.discard_pre, line.discard_post
    data = line.data[:, before : max(line.number_of_samples - after, 0)]
    count, center = data.shape[1], line.center_sample - before
    if count == size and (line.center_sample == 0 or abs(center - size // 2) == 1):  # not set, or off by one
        center = size // 2

    def fits(center: int) -> bool:
        return bool(0 <= center < count and 0 <= size // 2 - center <= size - count)

    if line.is_flag_set(ismrmrd.ACQ_IS_REVERSE):
        data, stored = data[:, ::-1], count - 1 - center
        if fits(stored) or not fits(center):  # else the center is that of lines that are read forwards
            center = stored
    start = size // 2 - center
    if len(data) == 0:
        raise InputError(f"line {line.scan_counter}: has no coil; check how it was written")
    if not fits(center):
        raise InputError(
            f"line {line.scan_counter}: has {count} samples to use with the center at {center}, which do not fit the "
            f"header's {size}; check its 'encodedSpace'"
        )
    kept = encoding.imaged_size(0)
    if line.number_of_samples == count == kept and center == kept // 2:  # whoever sent it took oversampling away
        return data.astype(np.complex64), (0.0, kept - 1.0)
    if len(data) * size > MAX_READOUT_NUMBERS:
        raise InputError(
            f"line {line.scan_counter}: has {len(data)} coils, and the header's readout is {size} long, together more "
            f"than {MAX_READOUT_NUMBERS} numbers; check its 'encodedSpace'"
        )
    whole = np.zeros((len(data), size), np.complex64)
    whole[:, start : start + count] = data
    factor = size / kept
    rows = (start - size // 2) / factor + kept // 2, (start + count - 1 - size // 2) / factor + kept // 2
    if kept == size:
        return whole, rows
    image = centered_fft(whole, 1, inverse=True)
    return centered_fft(image[:, encoding.imaged_slice(0)], 1), rows


def grid_lines(group: LineGroup, partitions: int) -> tuple[np.ndarray, np.ndarray]:
    """Lay out a group on its grid: complex64 (partitions, coils, H, W), and which lines it has, bool (W, partitions).

    Partitions beyond those that are wanted, as calibration may have, are left out.
    """
    columns, own = group.encoding.encoded.matrix[1:]
    coils, height = next(iter(group.sums.values())).shape
    if partitions * columns > max(MAX_GRID_NUMBERS // (coils * height), MAX_GRID_RATIO * len(group.sums)):
        raise InputError(
            f"a slice or slab of {coils} coils, {height} x {columns} x {partitions} is more than {MAX_GRID_NUMBERS} "
            f"numbers, of which {len(group.sums)} lines are there; check the header's matrix"
        )
    grid = np.zeros((partitions, coils, height, columns), np.complex64)
    lines = np.zeros((columns, partitions), bool)
    for (column, step), total in group.sums.items():
        partition = step - own // 2 + partitions // 2
        if 0 <= partition < partitions:
            grid[partition, :, :, column] = total / group.counts[column, step]
            lines[column, partition] = True
    return (centered_fft(grid, 0, inverse=True) if partitions > 1 else grid), lines


def fit_calibration(group: LineGroup, image: Encoding) -> tuple[np.ndarray, np.ndarray]:
    """Lay out calibration lines on the grid of the image: (partitions, coils, H, W), and the mask, (H, W)."""
    own = group.encoding
    for axis, name in enumerate("xyz"):
        ratio = own.voxel()[axis] * own.encoded.matrix[axis] / (image.voxel()[axis] * image.encoded.matrix[axis])
        if own != image and not abs(ratio - 1) < FOV_TOLERANCE:
            raise InputError(
                f"calibration lines are of another field of view along {name} than the image, {ratio:.3g} times as "
                "large; measure them with the same"
            )
    partitions = image.encoded.matrix[2]
    shape = (image.imaged_size(0), image.encoded.matrix[1])
    kspaces, lines = grid_lines(group, partitions)
    mask = np.broadcast_to(mask_of_lines(own, np.asarray(lines.any(axis=1)), group.rows), kspaces.shape[-2:])
    return _resize(kspaces, shape), _resize(mask, shape)


def _resize(array: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Crop or zero-pad (..., H, W) per axis, as `physics.fourier.resize_kspace` does, without torch's threads."""
    resized = np.zeros((*array.shape[:-2], *shape), array.dtype)
    ours, theirs = [], []
    for new, old in zip(shape, array.shape[-2:]):
        kept = min(new, old)
        ours.append(slice(new // 2 - kept // 2, new // 2 - kept // 2 + kept))
        theirs.append(slice(old // 2 - kept // 2, old // 2 - kept // 2 + kept))
    resized[..., ours[0], ours[1]] = array[..., theirs[0], theirs[1]]
    return resized


def has_calibration_region(group: LineGroup, image: Encoding) -> bool:
    """Return whether lines have the calibration region (ACS) that maps are estimated from."""
    return min(calibration_box(torch.from_numpy(fit_calibration(group, image)[1]))) >= MIN_ACS_SIZE


def mask_of_lines(encoding: Encoding, lines: np.ndarray, rows: tuple[float, float]) -> np.ndarray:
    """Mark what was acquired: (W,), or (H, W) where the readout is partial.

    Rows beyond what either side of the center of k-space reaches count as acquired: they are known to be 0.
    """
    height = encoding.imaged_size(0)
    reach = max(height // 2 - rows[0], rows[1] + 1 - height // 2)
    row = np.arange(height)
    encoded = (row >= height // 2 - reach) & (row < height // 2 + reach)
    missing = encoded & ((row < rows[0] - 0.5) | (row > rows[1] + 0.5))
    if np.count_nonzero(missing) * MISSING_ROWS_DIVISOR <= height:
        return lines
    return np.asarray(~missing[:, None] & lines)


def partitions_of(encoding: Encoding) -> int:
    """Compute the number of partitions of a fully sampled scan: twice those on the longer side of the center."""
    size = encoding.encoded.matrix[2]
    limit = step_limit(encoding, 2)
    return min(size, max(2 * (limit.center - limit.minimum), 2 * (limit.maximum - limit.center) + 1))


def padding_of(encoding: Encoding) -> tuple[int, int] | None:
    """Return which lines a full encoding has: as many on both sides of the center as on the longer one."""
    size = encoding.encoded.matrix[1]
    limit = step_limit(encoding, 1)
    reach = max(limit.center - limit.minimum, limit.maximum + 1 - limit.center)
    first, end = max(0, size // 2 - reach), min(size, size // 2 + reach)
    return None if (first, end) == (0, size) or first >= end else (first, end)


def geometry_of_line(head: ismrmrd.AcquisitionHeader, encoding: Encoding, z: int) -> Geometry:
    """Compute where a slice, or partition z of a slab, lies in the patient."""
    x, y, thickness = encoding.voxel()
    geometry = make_geometry(
        np.array(head.position[:]), np.array(head.read_dir[:]), np.array(head.phase_dir[:]),
        np.array(head.slice_dir[:]), (x, y, thickness),
    )  # fmt: skip
    offset = (z - encoding.encoded.matrix[2] // 2) * thickness * geometry.normal
    return Geometry(geometry.positions + offset, geometry.read, geometry.phase, geometry.normal, geometry.voxel)
