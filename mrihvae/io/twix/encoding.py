"""The grid of a TWIX measurement: from its protocol where that holds, else from its lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from mrihvae.errors import InputError
from mrihvae.io.mrd.header import MAX_HEADER_MATRIX, Encoding, Limit, Space
from mrihvae.io.twix.measurements import Line
from mrihvae.io.twix.protocol import Protocol

DIMENSION_3D = 4
CALIBRATION_MODES = {2: "embedded", 4: "separate", 8: "separate", 16: "interleaved", 32: "interleaved"}
SIDE_TOLERANCE = 2  # by which sides of the center may differ in a readout that is whole
COUNTER_LIMIT = 2**16  # of the unsigned numbers that lines have


@dataclass(frozen=True)
class Axis:
    """Phase encoding or partitions: the size of the grid, and which counter is its center.

    Attributes
    ----------
    size : of the grid
    center : counter of the line at the center, of lines that do not tell it themselves
    is_known : whether lines tell it; sequences that do not know it leave it at 0
    """

    size: int
    center: int
    is_known: bool

    def step(self, counter: int, own: int) -> int:
        """Compute the place in the grid from a line's counter and its own center, 0 where not known."""
        center = own if self.is_known and own else self.center
        return (counter - center + self.size // 2) % COUNTER_LIMIT

    def limit(self, steps: Sequence[int]) -> Limit:
        """Compute which places are encoded, the first of which is counter 0, if the center is known."""
        first = self.size // 2 - self.center if self.is_known else min(steps)
        return Limit(min(max(first, 0), min(steps)), max(steps), self.size // 2)


@dataclass(frozen=True)
class Centers:
    """Where lines belong."""

    lines: Axis
    partitions: Axis

    def steps(self, line: Line) -> tuple[int, int]:
        """Compute the place of a line along phase encoding and partitions."""
        head = line.head
        return (
            self.lines.step(head.Counter.Lin, head.CenterLin),
            self.partitions.step(head.Counter.Par, head.CenterPar),
        )

    @staticmethod
    def sample(line: Line) -> int:
        """Return the sample at the center, before any is discarded; the middle one where it is not known."""
        head = line.head
        used = head.SamplesInScan - head.CutOff.Pre - head.CutOff.Post
        return int(head.CenterCol or max(head.CutOff.Pre + used // 2, 0))


def centers_of(protocol: Protocol, lines: Sequence[Line]) -> Centers:
    """Compute the grid along phase encoding and partitions.

    Parameters
    ----------
    lines : of image and calibration

    Raises
    ------
    InputError
        Larger than any header's.
    """
    phase = 1 + max(protocol.number("sKSpace.dPhaseOversamplingForDialog"), 0.0)
    columns = round(protocol.number("sKSpace.lPhaseEncodingLines") * phase)
    partitions = protocol.whole("sKSpace.lPartitions") if protocol.whole("sKSpace.ucDimension") == DIMENSION_3D else 1
    if protocol.is_pulseq:
        columns = partitions = 1
    heads = [line.head for line in lines]
    return Centers(
        _axis([(head.Counter.Lin, head.CenterLin) for head in heads], columns),
        _axis([(head.Counter.Par, head.CenterPar) for head in heads], partitions),
    )


def _axis(pairs: Sequence[tuple[int, int]], size: int) -> Axis:
    """Compute an axis from the counter and center of each line, and the size that the protocol tells."""
    known = Counter(center for _, center in pairs if center)
    if not known:
        size = max(counter for counter, _ in pairs) + 1
        _check(size)
        return Axis(size, size // 2, False)
    usual = known.most_common(1)[0][0]
    away = [counter - (center or usual) for counter, center in pairs]
    size = max(size, _whole_size(-min(away), max(away) + 1, 1))
    _check(size)
    return Axis(size, usual, True)


def _check(size: int) -> None:
    if not 1 <= size <= MAX_HEADER_MATRIX:
        raise InputError(f"is damaged: its lines or its protocol take a matrix of {size}, above {MAX_HEADER_MATRIX}")


def _whole_size(before: int, after: int, tolerance: int) -> int:
    """Compute the size of a grid with so much before its center, and after its center and with it."""
    if 0 <= after - before <= tolerance:
        return before + after
    return 2 * max(before, after)


def _readout_size(line: Line) -> int:
    """Compute the size of the grid along the readout, oversampling included, that a line takes."""
    head = line.head
    used = head.SamplesInScan - head.CutOff.Pre - head.CutOff.Post
    before = Centers.sample(line) - head.CutOff.Pre
    after = used - before
    if used < 1 or before < 0 or after < 0:
        raise InputError(
            f"line {head.ScanCounter}: of {head.SamplesInScan} samples {head.CutOff.Pre} and {head.CutOff.Post} are to "
            f"be discarded, and the center is {head.CenterCol}; the scan is damaged"
        )
    return int(used if abs(after - before) <= SIDE_TOLERANCE else 2 * max(before, after))


def encoding_of(protocol: Protocol, lines: Sequence[Line], image: Sequence[Line], centers: Centers) -> Encoding:
    """Compute the encoding of a measurement.

    Parameters
    ----------
    lines : of image and calibration
    image : those of the image

    Raises
    ------
    InputError
        Lines whose center lies outside of them, or a matrix larger than any.
    """
    base = protocol.whole("sKSpace.lBaseResolution")
    x = max(_readout_size(line) for line in image)
    oversampling = protocol.parameter("flReadoutOSFactor") or 0.0
    if not 1 <= oversampling <= MAX_HEADER_MATRIX:
        oversampling = max(round(x / base), 1) if base > 0 and not protocol.is_pulseq else 1
    if not protocol.is_pulseq:
        x = max(x, round(base * oversampling))
    _check(x)
    encoded = (x, centers.lines.size, centers.partitions.size)
    factors = (
        float(oversampling),
        1 + max(protocol.number("sKSpace.dPhaseOversamplingForDialog"), 0.0),
        1 + max(protocol.number("sKSpace.dSliceOversamplingForDialog"), 0.0) if encoded[2] > 1 else 1.0,
    )
    names = ("dReadoutFOV", "dPhaseFOV", "dThickness")
    fov = [max(protocol.number(f"sSliceArray.asSlice[0].{name}"), 0.0) for name in names]
    wanted = [max(1, round(size / factor)) for size, factor in zip(encoded, factors)]
    steps = [centers.steps(line) for line in lines]
    repetitions = max(line.head.Counter.Rep for line in image)
    return Encoding(
        Space(encoded, (fov[0] * factors[0], fov[1] * factors[1], fov[2] * factors[2])),
        Space((wanted[0], wanted[1], wanted[2]), (fov[0], fov[1], fov[2])),
        "cartesian",
        {
            "kspace_encoding_step_1": centers.lines.limit([step for step, _ in steps]),
            "kspace_encoding_step_2": centers.partitions.limit([step for _, step in steps]),
            "repetition": Limit(0, repetitions, 0),
        },
        CALIBRATION_MODES.get(protocol.whole("sPat.ucRefScanMode"), ""),
    )
