"""What many volumes cost, on paper: hours and bytes from the seconds that were measured.

    python -m benchmarks.cluster.costs            # writes the table of docs/cluster.md

The seconds are those of results/fastmri_seconds_avx512.json: processor seconds of one slice in fastMRI's size, maps
included.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks import HERE
from mrihvae.utils.files import atomic_write

PAGE = HERE.parent / "docs" / "cluster.md"
MARKED = re.compile(r"(<!-- costs -->\n)(.*?)(<!-- /costs -->)", flags=re.DOTALL)
SECONDS = HERE / "results" / "fastmri_seconds_avx512.json"
SIZE = "640 x 368 x 15"  # the size that was timed
OURS, VARNET, BART = "mrihvae (hybrid)", "VarNet (default size)", "BART, ecalib + pics, without oversampling"
COMPLEX64 = 8  # bytes of a k-space sample
FILE_SYSTEMS = {"gigabit Ethernet": 0.11e9, "10 gigabit Ethernet": 1.1e9, "a parallel file system": 10e9}


@dataclass(frozen=True)
class Case:
    """Volumes, each of so many slices of (height, width) samples and coils."""

    name: str
    volumes: int
    slices_each: int
    height: int = 640
    width: int = 368
    coils: int = 15

    @property
    def slices(self) -> int:
        """Number of slices."""
        return self.volumes * self.slices_each

    @property
    def bytes(self) -> int:
        """Bytes of k-space, as they lie in the files."""
        return self.slices * self.height * self.width * self.coils * COMPLEX64


CASES = (
    Case("fastMRI knee, multi-coil test", 118, 35),
    Case("a set of 5,000 volumes", 5000, 35),
    Case("a hospital's day: 10 scanners, 20 patients each, 5 series", 1000, 25),
    Case("a million slices", 25000, 40),
)


def hours(slices: int, seconds: float) -> float:
    """Return the hours of one core for slices of so many processor seconds."""
    return slices * seconds / 3600


def read_seconds() -> dict[str, float]:
    """Return the processor seconds of a slice by method."""
    return {name: row["processor"] for name, row in json.loads(SECONDS.read_text())["seconds"][SIZE].items()}


def table(seconds: Mapping[str, float]) -> str:
    """Lay out slices, bytes and core hours of every case."""
    head = ["", "volumes", "slices", "k-space", *(f"core hours, {name}" for name in seconds)]
    lines = [head, ["---", *["--:"] * (len(head) - 1)]]
    for case in CASES:
        costs = [f"{hours(case.slices, one):,.0f}" for one in seconds.values()]
        size = f"{case.bytes / 1e12:,.2f} TB"
        lines.append([case.name, f"{case.volumes:,}", f"{case.slices:,}", size, *costs])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def in_docs() -> str:
    """Write what docs/cluster.md says of costs."""
    found = read_seconds()
    seconds = {name: found[name] for name in (OURS, VARNET, BART)}
    case = Case("a slice", 1, 1)
    rate = case.bytes / seconds[OURS]
    limits = [f"- {name}, {speed / 1e9:g} GB/s: {speed / rate:,.0f} cores" for name, speed in FILE_SYSTEMS.items()]
    many = hours(CASES[-1].slices, seconds[OURS])
    return "\n".join(
        [
            f"One slice of {SIZE} takes {seconds[OURS]:.2f} processor seconds, maps included (two threads, AVX-512);",
            f"VarNet of its default size {seconds[VARNET]:.2f}, BART's ecalib and pics {seconds[BART]:.2f}.",
            "",
            table(seconds),
            f"Core hours are slices x seconds / 3600: 1,000,000 x {seconds[OURS]:.2f} / 3600 = {many:,.0f},",
            f"which 1,000 cores do in {60 * many / 1000:.0f} minutes. K-space is slices x 640 x 368 x 15 x 8 bytes.",
            "",
            f"A core reads {case.bytes / 1e6:.1f} MB / {seconds[OURS]:.2f} s = {rate / 1e6:.1f} MB/s.",
            "This many cores use the full bandwidth of a shared file system:",
            "",
            *limits,
            "",
        ]
    )


def main() -> int:
    """Write the table of docs/cluster.md."""
    text = PAGE.read_text()
    with atomic_write(PAGE) as temporary:
        temporary.write_text(MARKED.sub(lambda found: found[1] + in_docs() + found[3], text))
    return 0


if __name__ == "__main__":
    sys.exit(main())
