"""Lines of k-space on their grid: where counters, the header's limits and the lines themselves put them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import ismrmrd
import numpy as np

from mrihvae.errors import InputError
from mrihvae.io.mrd.header import Encoding, Limit
from mrihvae.io.partitions import centered_fft

STEPS = {1: "kspace_encoding_step_1", 2: "kspace_encoding_step_2"}  # by axis
NAMES = {1: "line", 2: "partition"}  # of a step, by axis
USER_CENTERS = {1: 5, 2: 6}  # by axis, which of idx.user holds the center, as siemens_to_ismrmrd writes it
MAX_GRID_NUMBERS = 2**28  # numbers of the grid of a slice or slab, 2 GiB, beyond which
MAX_GRID_RATIO = 64  # a grid must not be so many times as large as what was measured
MAX_OUTSIDE_FRACTION = 0.25  # of lines that may lie outside of the matrix, unless the header's limits do so, too
MISSING_ROWS_DIVISOR = 32  # H over rows that may be missing at the ends of a readout that still counts as whole


@dataclass
class LineGroup:
    """Lines of one slice or slab: sums (coils, H) and their number, by their steps, and in the end by their places.

    Attributes
    ----------
    encoding : of all lines
    head : header of the first line
    rows : first and last of H that were measured
    sums, counts : by the scanner's counters (step 1, step 2); after `place_lines` by index in k-space
    centers : steps of the center that the lines themselves have, 0 where not set
    """

    encoding: Encoding
    head: ismrmrd.AcquisitionHeader
    rows: tuple[float, float]
    sums: dict[tuple[int, int], np.ndarray] = field(default_factory=dict)
    counts: dict[tuple[int, int], int] = field(default_factory=dict)
    centers: set[tuple[int, int]] = field(default_factory=set)

    def add(self, step: tuple[int, int], total: np.ndarray, rows: tuple[float, float], count: int = 1) -> None:
        """Add the sum of `count` lines (coils, H), whose rows were measured from the first to the last of `rows`."""
        self.sums[step] = self.sums[step] + total if step in self.sums else total
        self.counts[step] = self.counts.get(step, 0) + count
        self.rows = max(self.rows[0], rows[0]), min(self.rows[1], rows[1])

    def fill(self, other: LineGroup) -> None:
        """Add the lines of another group, of the same coils and encoding, that this one has not."""
        for step in other.sums.keys() - self.sums.keys():
            self.add(step, other.sums[step], other.rows, other.counts[step])

    def include(self, other: LineGroup) -> None:
        """Add the lines of another group, of the same coils and encoding."""
        for step, total in other.sums.items():
            self.add(step, total, other.rows, other.counts[step])
        self.centers = self.centers or set(other.centers)

    @property
    def coils(self) -> int:
        """Number of coils."""
        return len(next(iter(self.sums.values())))


def step_limit(encoding: Encoding, axis: int) -> Limit:
    """Return the limits of the steps along axis 1, lines, or 2, partitions; without any, those of the whole matrix.

    Limits that are all 0 are those that a writer left out.
    """
    size = encoding.encoded.matrix[axis]
    limit = encoding.limits.get(STEPS[axis], Limit())
    return Limit(0, max(size - 1, 0), size // 2) if limit == Limit() else limit


def place_of(encoding: Encoding, axis: int, step: int) -> int | None:
    """Compute the index in k-space, along axis 1 or 2, from the scanner's counter; None outside of the matrix.

    Raises
    ------
    InputError
        Outside, though the header has as many lines as the matrix at most, and this as one of them.
    """
    size, limit = encoding.encoded.matrix[axis], step_limit(encoding, axis)
    place = step - limit.center + size // 2
    if 0 <= place < size:
        return place
    if limit.count <= size and limit.minimum <= step <= limit.maximum:
        raise InputError(
            f"{NAMES[axis]} {step} lies outside of the {size} of the header, with center {limit.center}; check the "
            "header's limits"
        )
    return None


def place_lines(group: LineGroup) -> tuple[LineGroup, list[str]]:
    """Put lines in their places in k-space, and say what about these is doubtful.

    Returns
    -------
    group by index in k-space, whose encoding has the center that was used, and the doubts

    Raises
    ------
    InputError
        Lines outside of the matrix that are too many to be left out, or that the header's limits contradict.
    """
    encoding, doubts = group.encoding, []
    for axis in STEPS:
        limit, doubt = _true_limit(group, axis)
        doubts += doubt
        if limit != step_limit(encoding, axis):
            encoding = replace(encoding, limits={**encoding.limits, STEPS[axis]: limit})
    placed = LineGroup(encoding, group.head, group.rows, centers=group.centers)
    outside: dict[int, list[int]] = {1: [], 2: []}
    for (step_1, step_2), total in group.sums.items():
        place_1, place_2 = place_of(encoding, 1, step_1), place_of(encoding, 2, step_2)
        if place_1 is not None and place_2 is not None:
            placed.add((place_1, place_2), total, group.rows, group.counts[step_1, step_2])
        else:
            outside[1 if place_1 is None else 2].append(step_1 if place_1 is None else step_2)
    for axis, steps in outside.items():
        doubts += _left_out(encoding, axis, steps, len(group.sums))
    return placed, doubts


def _left_out(encoding: Encoding, axis: int, steps: list[int], count: int) -> list[str]:
    """Say which of `count` lines are left out, of these steps; an error if they are too many."""
    if not steps:
        return []
    size, limit = encoding.encoded.matrix[axis], step_limit(encoding, axis)
    numbers = _list_numbers(steps)
    if len(steps) == count or (limit.count <= size and len(steps) > MAX_OUTSIDE_FRACTION * count):
        raise InputError(
            f"{NAMES[axis]} {numbers} lies outside of the {size} of the header, with center {limit.center}; check the "
            "header's limits"
        )
    return [
        f"outside of the header's matrix of {size}, with center {limit.center}, and left out: {NAMES[axis]} {numbers}"
    ]


def _list_numbers(numbers: Iterable[int]) -> str:
    """Write numbers as ranges: "0 to 5, 190"."""
    found: list[list[int]] = []
    for number in sorted(set(numbers)):
        if found and number == found[-1][-1] + 1:
            found[-1][1:] = [number]
        else:
            found.append([number])
    return ", ".join(" to ".join(map(str, each)) for each in found)


def _true_limit(group: LineGroup, axis: int) -> tuple[Limit, list[str]]:
    """Find the limits of the steps along axis 1 or 2, with the true center of k-space, and say where it is from.

    The lines' own center counts, if they have one, and the strongest line is no nearer to that of the header.
    """
    size, limit = group.encoding.encoded.matrix[axis], step_limit(group.encoding, axis)
    name, user = NAMES[axis], f"idx.user[{USER_CENTERS[axis]}]"
    own = {centers[axis - 1] for centers in group.centers} - {0}
    center = own.pop() if len(own) == 1 else 0
    if center and center != limit.center and limit.minimum <= center <= limit.maximum:
        strongest = _strongest_step(group, axis)
        if abs(strongest - center) <= abs(strongest - limit.center):
            return replace(limit, center=center), [
                f"the center of k-space is {name} {center} according to {user}, and {name} {limit.center} according "
                f"to the header: {name} {center} is used"
            ]
        return limit, [
            f"the center of k-space is {name} {center} according to {user}, and {name} {limit.center} according "
            f"to the header: the header is used, because {name} {strongest} is the strongest"
        ]
    if size > 1 and limit.count == size and limit.minimum == limit.center == 0:
        return replace(limit, center=size // 2), [
            f"the header has {name} 0 of {size} as the center of k-space, which counts as not set: {name} "
            f"{size // 2} is used"
        ]
    steps = [step[axis - 1] for step in group.sums]
    middle = min(steps) + size // 2
    if max(steps) - min(steps) + 1 == size > 1 and limit.center != middle:  # only so all are in the matrix
        strongest = _strongest_step(group, axis)
        if abs(strongest - middle) < abs(strongest - limit.center):
            return replace(limit, center=middle), [
                f"with {name} {limit.center} as the center of k-space, as in the header, lines would lie outside of "
                f"its matrix of {size}: {name} {middle} is used"
            ]
    return limit, []


def _strongest_step(group: LineGroup, axis: int) -> int:
    """Return the counter along axis 1 or 2 of the line with the most energy."""
    energy = {
        step: float((np.abs(total.astype(np.complex128)) ** 2).sum()) / group.counts[step] ** 2
        for step, total in group.sums.items()
    }
    return max(energy, key=lambda step: energy[step])[axis - 1]


def grid_lines(group: LineGroup, partitions: int) -> tuple[np.ndarray, np.ndarray]:
    """Lay out a group on its grid: complex64 (partitions, coils, H, W), and which lines it has, bool (W, partitions).

    Partitions beyond those that are wanted, as calibration may have, are left out.
    """
    columns, own = group.encoding.encoded.matrix[1:]
    coils, height = next(iter(group.sums.values())).shape
    if partitions * columns > max(MAX_GRID_NUMBERS // (coils * height), MAX_GRID_RATIO * len(group.sums)):
        raise InputError(
            f"a slice or slab of {coils} coils, {height} x {columns} x {partitions} is more than {MAX_GRID_NUMBERS} "
            f"numbers, but {len(group.sums)} lines are there; check the header's matrix"
        )
    grid = np.zeros((partitions, coils, height, columns), np.complex64)
    lines = np.zeros((columns, partitions), bool)
    for (column, step), total in group.sums.items():
        partition = step - own // 2 + partitions // 2
        if 0 <= partition < partitions:
            grid[partition, :, :, column] = total / group.counts[column, step]
            lines[column, partition] = True
    return (centered_fft(grid, 0, inverse=True) if partitions > 1 else grid), lines


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
