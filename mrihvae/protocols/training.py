"""Training protocols: data and settings by which weights are trained with `mrihvae train --protocol`, read from TOML.

kind = "training"               # left out, what the keys say
description = "fastMRI knee, single coil"
weights = "default"             # optional: to start from
data = { singlecoil_train = 1 } # folders below the data directory, and their shares of the slices drawn

[model]                         # each optional: settings of `mrihvae.model.settings.ModelSettings`,
[training]                      # `mrihvae.training.run.TrainSettings`
[simulation]                    # and `mrihvae.training.draw.SimulationSettings`
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mrihvae.errors import InputError
from mrihvae.protocols.evaluation import TRAINING_PREFIX, find_among, protocol_folder, read_kind
from mrihvae.utils.config import from_dict

SECTIONS = ("model", "training", "simulation")  # of a training run's settings


@dataclass(frozen=True)
class TrainingProtocol:
    """A protocol of a training; see the module.

    Attributes
    ----------
    data : folders below the data directory, with their shares
    model, training, simulation : settings that are not the default, or not those of the weights to start from
    description : one line
    weights : name or path of weights to start from; empty for random ones
    """

    data: Mapping[str, float]
    model: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    simulation: Mapping[str, Any] = field(default_factory=dict)
    description: str = ""
    weights: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.data, Mapping) or not self.data:
            raise InputError(f"data is {self.data!r}; write a table [data] of folders and their shares")
        for folder, share in self.data.items():
            if not _is_number(share) or not 0 < share < math.inf:
                raise InputError(f"data: the share of '{folder}' is {share!r}; it must be a number above 0")
        for name in SECTIONS:
            if not isinstance(getattr(self, name), Mapping):
                raise InputError(f"{name} is {getattr(self, name)!r}; write a table [{name}]")

    @property
    def settings(self) -> dict[str, Mapping[str, Any]]:
        """Settings by section, as a settings file of `mrihvae train` has them."""
        return {name: getattr(self, name) for name in SECTIONS}


def find_training_protocol(name_or_path: str) -> Path:
    """Return the path of a training protocol by shipped name, with "train_" in front or without, or by path.

    Raises
    ------
    InputError
        Neither of them; shipped names that are near to it are named.
    """
    paths = sorted(protocol_folder().glob(f"{TRAINING_PREFIX}*.toml"))
    shipped = {path.stem.removeprefix(TRAINING_PREFIX): path for path in paths}
    name = name_or_path.removeprefix(TRAINING_PREFIX)
    return find_among(shipped, name if name in shipped else name_or_path, "training protocol")


def read_training_protocol(path: Path | str) -> TrainingProtocol:
    """Read a training protocol; what its sections say is checked when a run is made of them.

    Raises
    ------
    InputError
        Not there, no TOML, a protocol of another kind, an unknown key (the nearest known one is named), or a value of a
        wrong type or that cannot be.
    """
    path = Path(path)
    kind, values = read_kind(path)
    if kind == "benchmark" or isinstance(values.get("challenge"), str):
        raise InputError(
            f"{path}: is not a training protocol; 'mrihvae protocols' lists those and what runs the others"
        )
    if "data" not in values:
        raise InputError(f"{path}: data is missing; write a table [data] of folders and their shares")
    return from_dict(TrainingProtocol, values, str(path))


def data_paths(protocol: TrainingProtocol, data: Path) -> list[str]:
    """Find the folders of a protocol below the data directory, or that is the only one itself: PATH=SHARE of each.

    Raises
    ------
    InputError
        A folder that is not found.
    """
    missing = [folder for folder in protocol.data if not (data / folder).exists()]
    alone = len(protocol.data) == 1
    if missing and alone and data.is_dir() and any(data.glob("*.h5")):
        return [str(data)]
    if missing:
        itself = ", and no .h5 files itself" if alone else ""
        raise InputError(f"{data}: has no folder '{missing[0]}'{itself}; give --data with it")
    return [f"{data / folder}={float(share)!r}" for folder, share in protocol.data.items()]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
