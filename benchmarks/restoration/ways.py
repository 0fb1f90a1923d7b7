"""The protocol of the benchmark of image restoration: what is degraded how, and the ways to restore it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from benchmarks.common.complete_scans import left_out, read_toml
from benchmarks.peers.joint import JointSettings, joint
from benchmarks.peers.restoration_peers import (
    DenoiserSettings,
    PlainSettings,
    Restore,
    TVSettings,
    WaveletSettings,
    denoiser,
    first_image,
    pnp,
    total_variation,
    unets,
    wavelet,
)
from benchmarks.pnp.degraded_images import TASKS, Problem, TaskSettings
from mrihvae.errors import InputError
from mrihvae.model.hvae import HVAE
from mrihvae.model.weights import fingerprint
from mrihvae.pnp.settings import PnPSettings
from mrihvae.utils.config import from_dict

NOT_STEPWISE = ("tolerance", "patience", "beta_start", "beta_steps", "draw")  # of loops that are run step by step


@dataclass(frozen=True)
class Kind:
    """What a way is: its label, function and settings.

    Attributes
    ----------
    network : which part of the network it has, see `fingerprints`
    grows : whether its grids may grow
    """

    label: str
    restore: Restore
    settings: type
    network: str = ""
    grows: bool = False


WAYS = {
    "first": Kind("first image", first_image, PlainSettings),
    "tv": Kind("TV", total_variation, TVSettings, grows=True),
    "wavelet": Kind("L1-wavelet", wavelet, WaveletSettings, grows=True),
    "denoiser": Kind("non-local means in the loop", denoiser, DenoiserSettings, grows=True),
    "pnp": Kind("PnP-HVAE", pnp, PnPSettings, network="all"),
    "complete": Kind("PnP-HVAE with q", pnp, PnPSettings, network="prior"),
    "r": Kind("r alone", pnp, PnPSettings, network="all"),
    "unets": Kind("U-Nets of r alone", unets, PnPSettings, network="all"),
    "joint": Kind("joint gradient descent", joint, JointSettings, network="prior"),
}


@dataclass(frozen=True)
class RestorationSettings:
    """What is restored.

    Attributes
    ----------
    weights : shipped weights, or of benchmarks/weights
    sets, images : folders of images below the data directory, and how many of each
    tuning, tuned_on : the same for tuning
    matrix : images come to (matrix, matrix)
    picture : the set whose first image is shown
    """

    weights: str = "restoration"
    sets: tuple[str, ...] = ("images/t1ce/val",)
    images: int = 5
    tuning: tuple[str, ...] = ("images/t1ce/train",)
    tuned_on: int = 2
    matrix: int = 256
    picture: str = ""

    def __post_init__(self) -> None:
        if not self.sets or not self.tuning or min(self.images, self.tuned_on, self.matrix) < 1:
            raise ValueError("all numbers must be at least 1, and sets and tuning not empty")
        if set(self.sets) & set(self.tuning):
            raise ValueError("sets that are measured must not be tuned on")


@dataclass(frozen=True)
class Way:
    """How a way is run.

    Attributes
    ----------
    fixed : its settings
    tuned : values to try of some settings
    tasks : settings of some tasks that differ
    images, tuned_on : of each set, if fewer than of other ways; 0 for as many
    middle : whether what is best at the middle noise of a task is taken for all
    """

    name: str
    fixed: dict[str, Any] = field(default_factory=dict)
    tuned: dict[str, tuple[float, ...]] = field(default_factory=dict)
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    images: int = 0
    tuned_on: int = 0
    middle: bool = False

    @property
    def kind(self) -> Kind:
        """What it is."""
        return WAYS[self.name]

    def settings(self, task: str, chosen: Mapping[str, Any] | None = None) -> Any:
        """Make its settings for a task, with what was chosen.

        Raises
        ------
        InputError
            Unknown settings, or refused ones.
        """
        values = {**self.fixed, **self.tasks.get(task, {}), **(chosen or {})}
        return from_dict(self.kind.settings, values, f"way {self.name}")

    def tuned_at(self, noise: float, task: TaskSettings) -> float:
        """Tell at which noise what is used at `noise` is tuned."""
        return task.middle if self.middle else noise


@dataclass(frozen=True)
class Protocol:
    """All of it; ways and tasks by name."""

    settings: RestorationSettings
    tasks: dict[str, TaskSettings]
    ways: dict[str, Way]


def read_protocol(path: Path) -> Protocol:
    """Read a protocol.

    Raises
    ------
    InputError
        Not readable, or with unknown tasks, ways or settings.
    """
    found = read_toml(path)
    tasks, ways = found.pop("tasks", {}), found.pop("ways", {})
    for tables, names, what in ((tasks, TASKS, "task"), (ways, WAYS, "way")):
        for name in tables:
            if name not in names:
                raise InputError(f"{path}: unknown {what} '{name}'; choose of {', '.join(names)}")
    protocol = Protocol(
        from_dict(RestorationSettings, found, str(path)),
        {name: from_dict(TaskSettings, tasks[name], f"{path}, tasks.{name}") for name in TASKS if name in tasks},
        {name: _way(name, ways[name], f"{path}, ways.{name}") for name in WAYS if name in ways},
    )
    if not tasks or not ways:
        raise InputError(f"{path}: needs [tasks.NAME] and [ways.NAME]")
    return protocol


def _way(name: str, table: dict[str, Any], where: str) -> Way:
    own = {key: table.pop(key) for key in ("tuned", "tasks", "images", "tuned_on", "middle") if key in table}
    grids = {key: tuple(values) for key, values in own.pop("tuned", {}).items()}
    if any(len(values) < 2 for values in grids.values()):
        raise InputError(f"{where}: give at least two values of what is tuned")
    way = Way(name, table, grids, own.pop("tasks", {}), **own)
    for part in (table, *way.tasks.values()):
        left_out(part, (*grids, *(("result",) if grids else ()), *NOT_STEPWISE), where)
    for task in way.tasks:
        if task not in TASKS:
            raise InputError(f"{where}: unknown task '{task}'; choose of {', '.join(TASKS)}")
    for task in TASKS:
        for key, values in grids.items():
            for value in values:
                way.settings(task, {key: value})
        way.settings(task)
    return way


def fingerprints(model: HVAE, file: Path) -> dict[str, str]:
    """Identify what a way may have of the network: nothing, prior with decoder and q ("prior"), or r, too ("all")."""
    digest = hashlib.sha256()
    for parameter in model.prior_parameters():
        digest.update(parameter.detach().cpu().numpy().tobytes())
    return {"": "", "prior": digest.hexdigest()[:12], "all": fingerprint(file)}


def not_default(settings: Any) -> dict[str, Any]:
    """Give the settings of a way that are not its default ones, so that results outlive new settings.

    Where a default itself changes, results must be measured anew.
    """
    usual = asdict(type(settings)())
    return {name: value for name, value in asdict(settings).items() if value != usual[name]}


def identity(*parts: Any) -> str:
    """Give 12 digits that tell whether anything of what a number depends on has changed."""
    text = json.dumps(parts, sort_keys=True, default=asdict)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def psnr(image: Tensor, problem: Problem) -> float:
    """Compute the PSNR in dB over the greatest value of the true image."""
    error = float((image - problem.truth).double().square().mean())
    return float(20 * np.log10(float(problem.truth.max())) - 10 * np.log10(max(error, 1e-20)))


def ssim(image: Tensor, problem: Problem) -> float:
    """Compute the SSIM over the range up to the greatest value of the true image."""
    from skimage.metrics import structural_similarity

    truth = problem.truth[0].numpy()
    return float(structural_similarity(truth, image[0].numpy(), data_range=float(truth.max())))


def layout(results: Mapping[str, Any]) -> str:
    """Write results as JSON with one row of a table per line."""
    parts = []
    for key, value in results.items():
        lines = ",\n".join(f"  {json.dumps(row)}" for row in value) if isinstance(value, list) else ""
        parts.append(f" {json.dumps(key)}: " + (f"[\n{lines}\n ]" if lines else json.dumps(value)))
    return "{\n" + ",\n".join(parts) + "\n}\n"


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read the rows of results; none if the file is not there.

    Raises
    ------
    InputError
        Not such a file.
    """
    try:
        rows: list[dict[str, Any]] = json.loads(path.read_text())["rows"]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not readable as results ({type(error).__name__}: {error}); remove it") from error
    return rows
