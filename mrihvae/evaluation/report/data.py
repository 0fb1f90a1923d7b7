"""What a report shows, as plain data that the templates lay out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mrihvae.evaluation.scores import VolumeScores


@dataclass(frozen=True)
class Panel:
    """Pictures of one kind of image of a volume.

    Attributes
    ----------
    kind : "zero-filled", "reconstruction", "target", "error" or "uncertainty"
    title : heading above the pictures
    range : values that the colors stand for; empty where level and window say what black and white mean
    pictures : slice to data URL
    """

    kind: str
    title: str
    range: str
    pictures: Mapping[int, str]


@dataclass(frozen=True)
class Pictures:
    """All pictures of a volume.

    Attributes
    ----------
    size : (h, w), pixels
    shown : slices that have pictures
    panels : in the order in which they are shown
    white : value of the brightest pixel, white in the pictures
    window : fraction of `white` that is white at first
    voxel : size of a voxel along h and w, mm; None where it is not known, and pixels are drawn square
    """

    size: tuple[int, int]
    shown: tuple[int, ...]
    panels: tuple[Panel, ...]
    white: float
    window: float
    voxel: tuple[float, float] | None = None


@dataclass(frozen=True)
class ScoreRow:
    """A row of the table of scores.

    Attributes
    ----------
    name : file name of a volume, or how many volumes these are the means of
    acquisition : as the source file says; empty if it is not known, or for several
    slices : number of slices
    acceleration, seconds : effective acceleration, and seconds per slice, or None
    scores : fastMRI's metrics, or None
    """

    name: str
    acquisition: str
    slices: int
    acceleration: float | None
    seconds: float | None
    scores: Mapping[str, float] | None


@dataclass(frozen=True)
class ReportVolume(ScoreRow):
    """A volume: its row of the table, and what else the report shows of it.

    Attributes
    ----------
    evaluated : the scores as fastMRI's functions return them, for means that round as fastMRI's do, or None
    by_slice : metric to its values, slice by slice; empty without a target
    pictures : images of the slices
    notes : what is missing, and why
    warnings : of its reconstruction
    promises : terms of `mrihvae.evaluation.report.terms` to what holds of them for this volume: bounds and the like
    stages : seconds per slice by stage; empty if they were not recorded
    peak_memory : MB, or None
    """

    evaluated: VolumeScores | None
    by_slice: Mapping[str, Sequence[float | None]]
    pictures: Pictures
    notes: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    promises: Mapping[str, str] = field(default_factory=dict)
    stages: Mapping[str, float] = field(default_factory=dict)
    peak_memory: int | None = None


@dataclass(frozen=True)
class Report:
    """The whole page.

    Attributes
    ----------
    title : its heading
    about : lines below
    volumes : all that are reported
    means : of each acquisition, if there are several, and of all volumes
    settings : settings and provenance, nested to any depth
    record_name, record_text : name and text of the JSON that the settings are from
    method : by which volumes were reconstructed
    failed : files that could not be reconstructed, and why
    """

    title: str
    about: Sequence[str]
    volumes: Sequence[ReportVolume]
    means: Sequence[ScoreRow]
    settings: Mapping[str, Any]
    record_name: str
    record_text: str
    method: str = ""
    failed: Sequence[tuple[str, str]] = ()

    def warnings(self) -> dict[str, list[int]]:
        """List the warnings of all volumes, each with the numbers of those that have it."""
        found: dict[str, list[int]] = {}
        for number, volume in enumerate(self.volumes):
            for text in volume.warnings:
                found.setdefault(text, []).append(number)
        return found

    def scored(self) -> bool:
        """Return whether any volume has scores, which take a target."""
        return any(volume.scores or volume.by_slice for volume in self.volumes)

    def stages(self) -> list[str]:
        """List the stages whose seconds are known of any volume, in their order."""
        return list(dict.fromkeys(name for volume in self.volumes for name in volume.stages))
