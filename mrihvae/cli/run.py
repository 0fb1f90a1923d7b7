"""`mrihvae run`: an evaluation protocol: files in; reconstructions, panels, a table and all that made them out."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from mrihvae import __version__
from mrihvae.cli import options
from mrihvae.cli.common import finished_before, reading_of
from mrihvae.cli.evaluate import as_dict
from mrihvae.cli.reconstruct_files import open_cached, reconstruct_to_files
from mrihvae.data.scan import TARGETS
from mrihvae.errors import InputError
from mrihvae.evaluation.scores import METRICS, Evaluation, VolumeScores, evaluate
from mrihvae.io.fastmri import read_head
from mrihvae.io.formats import KSPACE_SUFFIXES, check_names, has_suffix
from mrihvae.io.kspace import kind_of, list_kspace
from mrihvae.physics.fastmri_masks import seed_of
from mrihvae.physics.sampling import sampling_pattern
from mrihvae.protocols.evaluation import Protocol, find_protocol, read_protocol
from mrihvae.recon.methods import Method, ModelMethod, SampleMeanMethod
from mrihvae.utils.files import atomic_write
from mrihvae.utils.notices import collect_notices

ROOT = Path(__file__).parents[2]  # of a checkout, if it is one
SAME = ("protocol_sha256", "weights", "versions", "git", "settings", "reading")  # in one output folder


@dataclass(frozen=True)
class ScanEntry:
    """Description of a scan, without its arrays.

    Attributes
    ----------
    file : path
    name : of the scan; that of the file where it holds one scan in fastMRI's format
    acquisition : attribute of that name, or "unknown"
    shape : (H, W) of k-space
    masked : whether it has a mask of its own
    scored : whether it has the challenge's target
    """

    file: Path
    name: str
    acquisition: str
    shape: tuple[int, int]
    masked: bool
    scored: bool


def run(arguments: options.Run) -> None:
    """Run a protocol; prints progress on standard error and the table on standard output."""
    for name in ("batch_size", "limit"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise InputError(f"--{name.replace('_', '-')} {value}: must be at least 1")
    open_cached.cache_clear()  # files may have changed since an earlier call
    path = find_protocol(arguments.protocol)
    protocol = read_protocol(path)
    volumes = find_volumes(protocol, arguments.data, reading_of(arguments))[: arguments.limit]
    try:
        method = protocol.load(arguments.device)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    summary = _summary(path, protocol, method, arguments)
    there = finished_before(arguments.output / "run.json", summary, SAME, "volumes") if arguments.resume else {}
    wanted = {volume.name for volume in volumes}
    rows = {name: row for name, row in there.items() if name in wanted}
    scores: list[VolumeScores] = []
    for volume in tqdm(volumes, path.stem, unit="volume", leave=False):
        name = volume.name
        reconstruction = arguments.output / "reconstructions" / name
        if name not in rows or not reconstruction.is_file():
            rows[name] = _reconstruct(volume, protocol, method, arguments)
        if volume.scored:
            scores += evaluate(volume.file, reconstruction, protocol.challenge).rows
        _write(arguments.output, summary, protocol, volumes, rows, scores)
    print(table(protocol, list(rows.values()), _in_folder_order(scores, volumes)))
    if not scores:
        print(f"\nno file has a target ({TARGETS[protocol.challenge]}): there is nothing to score")


def find_volumes(protocol: Protocol, data: Path, reading: Mapping[str, Any] | None = None) -> list[ScanEntry]:
    """Find the files of a protocol, sorted by name; `reading` has options of `mrihvae.open_kspace`.

    Raises
    ------
    InputError
        No such folder, no file of the acquisitions, a file that cannot be read, one that does not fit the challenge, or
        a mask that no file of this size can have.
    """
    folder = data / protocol.data
    if not folder.is_dir():
        if not data.is_dir() or not any(has_suffix(file, KSPACE_SUFFIXES) for file in data.iterdir()):
            raise InputError(
                f"{data}: has no folder '{protocol.data}', and no file with k-space itself; give --data with them"
            )
        folder = data
    volumes = [volume for file in list_kspace(folder) for volume in _volumes(file, protocol.challenge, reading or {})]
    check_names((volume.file, volume.name) for volume in volumes)
    chosen = [v for v in volumes if not protocol.acquisitions or v.acquisition in protocol.acquisitions]
    if not chosen:
        there = ", ".join(sorted({volume.acquisition for volume in volumes}))
        wanted = ", ".join(protocol.acquisitions)
        raise InputError(f"{folder}: no file has acquisition {wanted}; there are: {there}")
    mask, shapes = protocol.mask, {v.shape: v.file for v in chosen if not v.masked}
    for shape, file in shapes.items():  # before anything is reconstructed
        try:
            sampling_pattern(mask.type, shape, mask.acceleration, mask.center_fraction, seed_of(file.name))
        except InputError as error:
            raise InputError(f"{file}: the protocol's mask cannot be drawn for it ({error})") from error
    return chosen


def git_state(root: Path = ROOT) -> dict[str, Any] | None:
    """Return the revision of a checkout, and whether tracked files differ from it; None outside of a checkout."""
    if not (root / ".git").exists():
        return None  # an installed package may lie in the folder of another project, whose revision says nothing
    command = ["git", "--no-optional-locks", "-C", str(root)]
    try:
        answers = [
            subprocess.run([*command, *words], capture_output=True, text=True, check=True, timeout=30).stdout.strip()
            for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        ]
    except (OSError, subprocess.SubprocessError):
        return None
    return {"revision": answers[0], "dirty": bool(answers[1])}


def table(protocol: Protocol, rows: Sequence[Mapping[str, Any]], evaluation: Evaluation) -> str:
    """Lay out the volumes as a Markdown table, with means per acquisition, if there are several, and of all."""
    scores = {row.file: row.scores() for row in evaluation.rows}
    lines = [["file", "acquisition", "slices", "R", *protocol.metrics, "s / slice"]]
    for row in rows:
        lines.append(_line(protocol, [row], row["file"], row["acquisition"], scores.get(row["file"])))
    names = sorted({row["acquisition"] for row in rows})
    for name in [*names, None] if len(names) > 1 else [None]:
        part = evaluation if name is None else evaluation.of(name)
        those = [row for row in rows if name in (None, row["acquisition"])]
        count = f"{len(those)}" if len(part.rows) in (0, len(those)) else f"{len(those)}, {len(part.rows)} scored"
        lines.append(_line(protocol, those, f"mean of {count}", name or "", part.means() if part.rows else None))
    widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
    lines.insert(1, ["-" * width if k < 2 else "-" * (width - 1) + ":" for k, width in enumerate(widths)])
    texts = [
        [cell.ljust(width) if k < 2 else cell.rjust(width) for k, (cell, width) in enumerate(zip(line, widths))]
        for line in lines
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in texts)


def _line(
    protocol: Protocol, rows: Sequence[Mapping[str, Any]], name: str, kind: str, scores: Mapping[str, float] | None
) -> list[str]:
    """Fill in a line of the table: numbers of one volume, or of several with means."""
    effective, seconds = (
        float(np.mean([row[key] for row in rows])) for key in ("effective_acceleration", "seconds_per_slice")
    )
    shown = ["" if scores is None else f"{scores[metric]:#.4g}" for metric in protocol.metrics]
    return [name, kind, str(sum(row["slices"] for row in rows)), f"{effective:.2f}", *shown, f"{seconds:.2f}"]


def _volumes(file: Path, challenge: str, reading: Mapping[str, Any]) -> list[ScanEntry]:
    """Return the scans of a file, which must be of the challenge."""
    if kind_of(file, reading.get("key")) == "fastmri":
        return [_head(file, challenge, reading.get("key"))]
    volumes = []
    for scan in open_cached(file, **reading):
        _check_challenge(file, scan.kspace.shape, challenge)
        acquisition = str(scan.attributes.get("acquisition", "unknown"))
        shape = (scan.kspace.shape[-2], scan.kspace.shape[-1])
        masked = scan.mask is not None and not scan.mask.all()
        volumes.append(ScanEntry(file, scan.name, acquisition, shape, masked, False))
    return volumes


def _check_challenge(file: Path, shape: tuple[int, ...], challenge: str) -> None:
    kind = "singlecoil" if len(shape) == 3 else "multicoil"
    if kind != challenge:
        raise InputError(f"{file}: is {kind}, but the protocol's challenge is {challenge}; check --data")


def _head(file: Path, challenge: str, key: str | None) -> ScanEntry:
    """Read the head of a fastMRI file."""
    with collect_notices():  # they are said when it is reconstructed
        head = read_head(file, key)
    _check_challenge(file, head.shape, challenge)
    height, width = head.shape[-2:]
    return ScanEntry(file, file.name, head.acquisition, (height, width), head.masked, TARGETS[challenge] in head.keys)


def _summary(path: Path, protocol: Protocol, method: Method, arguments: options.Run) -> dict[str, Any]:
    """Return all that made the results, as plain JSON values."""
    solver = {**method.settings(), "method": method.name}
    if isinstance(method, SampleMeanMethod):
        solver["samples"] = method.samples
    summary = {
        "protocol": path.stem,
        "protocol_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "settings": {
            **dataclasses.asdict(protocol),
            "solver": solver,
            "coils": dataclasses.asdict(method.coils) if protocol.challenge == "multicoil" else {},
        },
        "weights": method.weights if isinstance(method, ModelMethod) else None,
        "versions": {
            "mrihvae": __version__,
            "torch": str(torch.__version__),
            "numpy": np.__version__,
            "fastmri": metadata.version("fastmri"),
        },
        "git": git_state(),
        "data": str(arguments.data),
        "reading": reading_of(arguments) or None,
        "limit": arguments.limit,
        "device": arguments.device,
        "threads": torch.get_num_threads(),
        "batch_size": arguments.batch_size,
    }
    return dict(json.loads(json.dumps(summary)))  # lists for tuples, to compare with what is read


def _reconstruct(volume: ScanEntry, protocol: Protocol, method: Method, arguments: options.Run) -> dict[str, Any]:
    """Reconstruct a volume to its files, and return its row."""
    undersampling = None if volume.masked else protocol.mask.undersampling()
    sampled = isinstance(method, SampleMeanMethod)
    with collect_notices() as notices:
        scan = next(scan for scan in open_cached(volume.file, **reading_of(arguments)) if scan.name == volume.name)
    row = reconstruct_to_files(
        scan, volume.file, arguments.output, method, undersampling, arguments.batch_size, sampled, False, protocol.seed,
        options="[solver] ",
    )  # fmt: skip
    row["warnings"] = sorted({*row["warnings"], *notices})
    for warning in row["warnings"]:
        tqdm.write(f"{volume.name}: {warning}", file=sys.stderr)
    source = {} if volume.name == volume.file.name else {"source": volume.file.name}
    return {**row, **source, "acquisition": volume.acquisition}


def _in_folder_order(scores: Sequence[VolumeScores], volumes: Sequence[ScanEntry]) -> Evaluation:
    """Return scores in the order of the folder, as fastMRI adds them up, so that means round alike."""
    by_name = {row.file: row for row in scores}
    return Evaluation(tuple(by_name[p.name] for p in volumes[0].file.parent.iterdir() if p.name in by_name))


def _write(
    output: Path,
    summary: Mapping[str, Any],
    protocol: Protocol,
    volumes: Sequence[ScanEntry],
    rows: Mapping[str, Mapping[str, Any]],
    scores: Sequence[VolumeScores],
) -> None:
    """Write the table and the JSON of the volumes so far."""
    evaluation = _in_folder_order(scores, volumes)
    numbers = as_dict(evaluation) if scores else {"overall": None, "acquisitions": {}, "volumes": []}
    found = {row["file"]: {metric: row[metric] for metric in METRICS} for row in numbers.pop("volumes")}
    entries = [{**row, "scores": found.get(name)} for name, row in rows.items()]
    with atomic_write(output / "run.json") as temporary:
        temporary.write_text(json.dumps({**summary, **numbers, "volumes": entries}, indent=2, allow_nan=False) + "\n")
    made = [f"{package} {version}" for package, version in summary["versions"].items()]
    if summary["weights"]:
        made.append(f"weights {protocol.weights} ({summary['weights']})")
    if summary["git"]:
        made.append(f"revision {summary['git']['revision'][:12]}{', changed' if summary['git']['dirty'] else ''}")
    parts = [f"# {summary['protocol']}", protocol.description, table(protocol, list(rows.values()), evaluation)]
    with atomic_write(output / "scores.md") as temporary:
        temporary.write_text("\n\n".join([*filter(None, parts), f"{', '.join(made)}, {summary['device']}"]) + "\n")
