"""Measurements that lines on a Cartesian grid cannot stand for, which are refused by their names."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from mrihvae.errors import InputError
from mrihvae.io.twix.measurements import Line
from mrihvae.io.twix.protocol import Protocol

TRAJECTORIES = {2: "radial", 4: "spiral", 8: "PROPELLER (BLADE)"}  # ucTrajectory; 1 is Cartesian
SEQUENCES = {  # in the name of the sequence's file, or of the protocol, if the sequence is Pulseq's
    "EPI": re.compile(r"(^|[^a-z])(mb|se|ge)?(ep2d|ep3d|epse|epi([^a-z]|$))"),
    "spiral": re.compile(r"spiral"),
    "radial": re.compile(r"radial"),
}
REGRIDDED = 2  # alRegridMode from which on readouts are sampled on ramps
LINES_PER_TICK = 2  # above which a Pulseq sequence must be EPI: time stamps count 2.5 ms
GAP_RATIO = 3  # of times between lines, above which another excitation lies between them
GAP_FRACTIONS = 0.1, 0.9  # of such gaps, between which lines come in trains of echoes


def check_supported(protocol: Protocol, lines: Sequence[Line]) -> None:
    """Refuse what cannot be reconstructed from single lines on a grid.

    Raises
    ------
    InputError
        EPI, radial, spiral, PROPELLER, or slices that were excited together.
    """
    kind = _kind(protocol, lines)
    if kind:
        raise InputError(
            f"measurement '{protocol.name}' ({protocol.sequence or 'unnamed sequence'}) is {kind}; only single lines "
            "on a Cartesian grid can be reconstructed: use the scanner's own images, or grid the data"
        )


def _kind(protocol: Protocol, lines: Sequence[Line]) -> str:
    """Return the name of what is refused; empty if the measurement is supported."""
    trajectory = protocol.whole("sKSpace.ucTrajectory", 1)
    if trajectory in TRAJECTORIES:
        return TRAJECTORIES[trajectory]
    if protocol.whole("sSliceAcceleration.lMultiBandFactor", 1) > 1:
        return "of slices that were excited together (simultaneous multi-slice)"
    if protocol.whole("sFastImaging.lEPIFactor", 1) > 1 or (protocol.parameter("alRegridMode") or 1) >= REGRIDDED:
        return "EPI"
    if any(line.has("PHASCOR") and line.has("REFLECT") for line in lines):
        return "EPI"
    sequence = re.split(r"[\\/%]", protocol.sequence)[-1]
    name = protocol.name if protocol.is_pulseq else sequence
    found = [kind for kind, pattern in SEQUENCES.items() if pattern.search(name.lower())]
    if found:
        return found[0]
    if not protocol.is_pulseq:
        return ""
    return "EPI" if _is_fast(lines) else "of several echoes without labels" if _is_unlabeled_train(lines) else ""


def _is_fast(lines: Sequence[Line]) -> bool:
    """Return whether lines follow each other as fast as echoes of EPI alone do."""
    ticks = {line.head.TimeStamp for line in lines}
    return len(ticks) > 1 and len(lines) > LINES_PER_TICK * len(ticks)


def _is_unlabeled_train(lines: Sequence[Line]) -> bool:
    """Return whether lines come in trains of echoes, and their counter does no more than count them."""
    if any(line.head.Counter.Lin != k or line.head.Counter.Eco for k, line in enumerate(lines)):
        return False
    times = np.diff([float(line.head.TimeStamp) for line in lines])
    if len(times) == 0 or times.min() < 0:
        return False
    gaps = times > GAP_RATIO * max(float(np.quantile(times, GAP_FRACTIONS[0])), 1.0)
    return GAP_FRACTIONS[0] < float(gaps.mean()) < GAP_FRACTIONS[1]
