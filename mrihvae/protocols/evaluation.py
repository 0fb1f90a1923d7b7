"""Evaluation protocols: data, masks, weights, solver and metrics that make scores comparable, read from TOML.

kind = "evaluation"             # left out, what the keys say; others are "training" and "benchmark"
description = "fastMRI knee, single coil, random 4x"
challenge = "singlecoil"        # or "multicoil"
data = "singlecoil_val"         # folder below the data directory
acquisitions = ["CORPD_FBK"]    # optional: only files with one of these as attribute `acquisition`
weights = "default"             # a shipped name, or a .safetensors file; left out, by challenge
metrics = ["PSNR", "SSIM"]      # optional: some of fastMRI's four, for the table
seed = 0                        # optional: of posterior samples (method "samples")

[mask]                          # of fully sampled files; those with a mask keep it
type = "random"
acceleration = 4
center_fraction = 0.08
seed = "file name"              # optional: as fastMRI does for validation; there is no other

[solver]                        # optional: method, and settings of `mrihvae.inference.settings`
method = "hybrid"

[coils]                         # optional, multicoil alone: settings of `mrihvae.coils.settings.CoilSettings`
maps = "fast"

The folder holds others, too, which have other keys: of training (`mrihvae.protocols.training`), and of benchmarks,
whose `run` is the command that takes them, in a checkout of the repository.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrihvae.coils.settings import CoilSettings
from mrihvae.data.scan import TARGETS
from mrihvae.errors import InputError
from mrihvae.evaluation.scores import METRICS
from mrihvae.model.shipped import find_weights, weights_for
from mrihvae.physics.sampling import Undersampling, sampling_pattern
from mrihvae.recon.settings import MODEL_METHODS, SAMPLING, check_settings
from mrihvae.utils.config import from_dict

if TYPE_CHECKING:
    from mrihvae.recon.methods import Method

SEED = "file name"
KINDS = ("evaluation", "training", "benchmark")
MOST_BYTES = 2**15  # of a protocol: Python's reader takes time that grows with the square of a key's length
TRAINING_PREFIX = "train_"  # of the names of shipped training protocols; the command does without it


@dataclass(frozen=True)
class MaskSettings:
    """Settings of the masks that undersample fully sampled files; a protocol must give the first three.

    Attributes
    ----------
    type : one of `mrihvae.physics.sampling.PATTERNS`
    acceleration : nominal
    center_fraction : fraction of the lines that is fully sampled around DC
    seed : what seeds the mask of a file
    """

    type: str = ""
    acceleration: float = 0.0
    center_fraction: float = 0.0
    seed: str = SEED

    def __post_init__(self) -> None:
        if self.seed != SEED:
            raise InputError(f"seed '{self.seed}' is unknown; masks are seeded by the '{SEED}'")
        shape = (128, 128)  # any will do: a mistake is to show before anything is reconstructed
        sampling_pattern(self.type, shape, self.acceleration, self.center_fraction, 0)

    def undersampling(self) -> Undersampling:
        """Return the pattern as `mrihvae.recon.volumes` takes it."""
        return Undersampling(self.type, self.acceleration, self.center_fraction)


@dataclass(frozen=True)
class Protocol:
    """A protocol of an evaluation; see the module.

    Attributes
    ----------
    mask : of files that have none of their own
    challenge : "singlecoil" or "multicoil"
    data : folder of the files below the data directory
    description : one line
    acquisitions : only files with one of these; all if empty
    weights : name or path; left out in a file, those for its challenge
    solver : the method, and those of its settings that the protocol gives; see `load`
    coils : those of `CoilSettings` that the protocol gives; `coil_settings` completes them
    metrics : some of `mrihvae.evaluation.scores.METRICS`, in the order of the table
    seed : of posterior samples
    """

    mask: MaskSettings
    challenge: str = ""
    data: str = ""
    description: str = ""
    acquisitions: tuple[str, ...] = field(default_factory=tuple)
    weights: str = "default"
    solver: Mapping[str, Any] = field(default_factory=dict)
    coils: Mapping[str, Any] = field(default_factory=dict)
    metrics: tuple[str, ...] = METRICS
    seed: int = 0

    def __post_init__(self) -> None:
        if self.challenge not in TARGETS:
            raise InputError(f"challenge '{self.challenge}' is unknown; choose one of {', '.join(TARGETS)}")
        if not self.data:
            raise InputError("data is missing; name the folder of the files in the data directory")
        if not isinstance(self.acquisitions, tuple) or not all(isinstance(name, str) for name in self.acquisitions):
            raise InputError(f"acquisitions is {self.acquisitions!r}; it must be a list of names")
        if not self.metrics or set(self.metrics) - set(METRICS):
            raise InputError(f"metrics {', '.join(self.metrics) or '[]'}: must be some of {', '.join(METRICS)}")
        if self.seed < 0:
            raise InputError(f"seed {self.seed} must be at least 0")
        if self.coils and self.challenge != "multicoil":
            raise InputError("[coils] only applies to challenge 'multicoil'; leave it out")
        self._check_solver()
        self.coil_settings()

    @property
    def method(self) -> str:
        """The way to reconstruct, one of `mrihvae.recon.settings.METHODS`."""
        return str(self.solver.get("method", "hybrid"))

    def load(self, device: str = "cpu") -> Method:
        """Load the method that the protocol says, with its weights.

        Raises
        ------
        InputError
            Weights or a device that cannot be used.
        """
        from mrihvae.recon.catalog import load_method

        settings = {name: value for name, value in self.solver.items() if name != "method"}
        if self.method in MODEL_METHODS:
            try:
                find_weights(self.weights)
            except InputError as error:
                raise InputError(f"weights {error}") from error
        return load_method(self.method, self.weights, device, coils=self.coil_settings(), **settings)

    def _check_solver(self) -> None:
        """Check the settings of the method: unknown ones, bad values, and those of other methods."""
        if not isinstance(self.solver, Mapping):
            raise InputError(f"solver is {self.solver!r}; write a table [solver]")
        settings = {name: value for name, value in self.solver.items() if name != "method"}
        unused = () if self.method == "samples" else SAMPLING  # `mrihvae run` draws samples for this method alone
        check_settings(self.method, settings, "solver", unused)

    def coil_settings(self) -> CoilSettings:
        """Return the coil settings, with defaults; InputError for an unknown setting or a bad value."""
        return from_dict(CoilSettings, self.coils, "coils")


def read_protocol(path: Path | str) -> Protocol:
    """Read an evaluation protocol.

    Raises
    ------
    InputError
        File not found, no TOML, a benchmark's protocol, an unknown key (the nearest known one is named), a value of a
        wrong type or that cannot be, or a mask that cannot be drawn.
    """
    path = Path(path)
    kind, values = read_kind(path)
    if kind == "benchmark":
        command = values.get("run", "its benchmark")
        raise InputError(f"{path}: is the protocol of a benchmark; run, in a checkout of the repository: {command}")
    if kind == "training":
        name = path.stem.removeprefix(TRAINING_PREFIX) if path.parent == protocol_folder() else path
        command = f"mrihvae train --protocol {name} --data DIR --output RUN"
        raise InputError(f"{path}: is a training protocol; run: {command}")
    values.setdefault("weights", weights_for(1 if values.get("challenge") == "singlecoil" else 2))
    values["mask"] = from_dict(MaskSettings, values.get("mask", {}), f"{path}, mask")
    return from_dict(Protocol, values, str(path))


def protocol_folder() -> Path:
    """Find the protocols that come with the package: inside of it, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "protocol_files"
    return inside if inside.is_dir() else package.parent / "protocols"


def find_protocol(name_or_path: str) -> Path:
    """Return the path of a protocol by shipped name or by path.

    Raises
    ------
    InputError
        Neither of them; shipped names that are near to it are named.

    Examples
    --------
    >>> from mrihvae.protocols import find_protocol, list_protocols, read_protocol
    >>> name = sorted(list_protocols()[0])[0]
    >>> read_protocol(find_protocol(name)).challenge in ("singlecoil", "multicoil")
    True
    """
    shipped = {path.stem: path for path in sorted(protocol_folder().glob("*.toml"))}
    return find_among(shipped, name_or_path, "protocol")


def find_among(shipped: Mapping[str, Path], name_or_path: str, what: str) -> Path:
    """Find a file by shipped name or by path, as `find_protocol` does; `what` describes them in errors."""
    if name_or_path in shipped:
        return shipped[name_or_path]
    path = Path(name_or_path)
    if path.is_file():
        return path
    near = difflib.get_close_matches(path.stem, shipped, n=3, cutoff=0.5)
    known = f"near ones are {', '.join(near)}" if near else "'mrihvae protocols' lists them"
    raise InputError(f"{name_or_path}: neither a {what} of the package ({known}) nor a TOML file; give one of them")


def list_protocols() -> tuple[dict[str, str], dict[str, tuple[str, str]]]:
    """Return the shipped protocols by name: descriptions of evaluations; those of benchmarks, and commands."""
    evaluations: dict[str, str] = {}
    benchmarks: dict[str, tuple[str, str]] = {}
    for path in sorted(protocol_folder().glob("*.toml")):
        kind, values = read_kind(path)
        if kind == "benchmark":
            about = path.read_text().partition("\n")[0].lstrip("# ")
            whole, dot, rest = about.rpartition(". ")
            about = whole + "." if dot and not rest.endswith(".") else about  # the rest goes on in the next line
            benchmarks[path.stem] = about, str(values.get("run", ""))
        elif kind == "evaluation":
            evaluations[path.stem] = values.get("description", "")
    return evaluations, benchmarks


def list_training_protocols() -> dict[str, str]:
    """Return the descriptions of the shipped training protocols by name."""
    read = {path.stem: read_kind(path) for path in sorted(protocol_folder().glob("*.toml"))}
    return {name: values.get("description", "") for name, (kind, values) in read.items() if kind == "training"}


def kind_of(values: Mapping[str, Any]) -> str:
    """Return the kind of a protocol, one of `KINDS`, by its content; left out, by its keys: [[patterns]], [data]...

    Raises
    ------
    InputError
        An unknown kind.
    """
    if "kind" not in values:
        if "patterns" in values:
            return "benchmark"
        tables = isinstance(values.get("data"), Mapping) or "training" in values
        return "training" if tables and "challenge" not in values else "evaluation"
    kind = values["kind"]
    if kind not in KINDS:
        raise InputError(f"kind is {kind!r}; it must be one of {', '.join(KINDS)}")
    return str(kind)


def read_kind(path: Path) -> tuple[str, dict[str, Any]]:
    """Read a protocol of any kind: its kind, and what it says beside it; errors as of `read_toml` and `kind_of`."""
    values = read_toml(path)
    try:
        kind = kind_of(values)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    values.pop("kind", None)
    return kind, values


def read_toml(path: Path) -> dict[str, Any]:
    """Read a protocol of any kind; InputError if it is not found, larger than `MOST_BYTES`, or no TOML."""
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"{path}: is not a file; give a protocol, a TOML file")
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise InputError(
                f"{path}: is larger than {MOST_BYTES // 2**10} KiB, too large for a protocol; check the file"
            )
        return tomllib.loads(content.decode())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a readable protocol ({error}); check the file") from error
