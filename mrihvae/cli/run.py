"""`mrihvae run`: an evaluation protocol: files in; reconstructions, panels, a table and all that made them out."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from mrihvae import __version__
from mrihvae.cli import options
from mrihvae.cli.common import (
    Failures,
    check_output,
    check_results,
    finished_before,
    reading_of,
    report_command,
    settings_lines,
)
from mrihvae.cli.console import show_warning
from mrihvae.cli.evaluate import as_dict
from mrihvae.cli.protocol_data import ScanEntry, field_strength, unlike_protocol
from mrihvae.cli.reconstruct_files import lines_about, open_cached, reconstruct_to_files
from mrihvae.data.scan import TARGETS
from mrihvae.errors import InputError
from mrihvae.evaluation.report.record import RECORDS
from mrihvae.evaluation.scores import METRICS, Evaluation, VolumeScores, evaluate
from mrihvae.io.fastmri import read_head
from mrihvae.io.formats import KSPACE_SUFFIXES, check_names, has_suffix
from mrihvae.io.kspace import kind_of, list_kspace
from mrihvae.physics.fastmri_masks import seed_of
from mrihvae.physics.sampling import sampling_pattern
from mrihvae.protocols.evaluation import Protocol, find_protocol, read_protocol
from mrihvae.recon.methods import Method, ModelMethod, SampleMeanMethod
from mrihvae.recon.settings import MODEL_METHODS
from mrihvae.utils.files import atomic_write
from mrihvae.utils.notices import collect_notices
from mrihvae.utils.text import printable

ROOT = Path(__file__).parents[2]  # of a checkout, if it is one
SAME = ("protocol_sha256", "weights", "versions", "git", "settings", "reading")  # in one output folder


def run(arguments: options.Run) -> int:
    """Run a protocol; prints progress on standard error and the table on standard output.

    Returns
    -------
    the exit status: 1 if some of the files failed
    """
    for name in ("batch_size", "limit"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise InputError(f"--{name.replace('_', '-')} {value}: must be at least 1")
    open_cached.cache_clear()  # files may have changed since an earlier call
    path, output = find_protocol(arguments.protocol), arguments.output
    protocol = read_protocol(path)
    check_output(output, "reconstructions", "panels")
    check_results(output, [output / name for name in RECORDS], arguments.overwrite, arguments.resume)
    files = find_files(protocol, arguments.data)
    failures = Failures(len(files))
    volumes = find_volumes(protocol, files, failures, reading_of(arguments))[: arguments.limit]
    results = [output / "reconstructions" / volume.name for volume in volumes]
    check_results(output, results, arguments.overwrite, arguments.resume)
    method = _load(path, protocol, arguments.device)
    summary = _summary(path, protocol, method, arguments)
    there = finished_before(output / "run.json", summary, SAME, "volumes") if arguments.resume else {}
    if arguments.verbose:
        print(settings_lines(summary), file=sys.stderr)
    wanted = {volume.name for volume in volumes}
    rows = {name: row for name, row in there.items() if name in wanted}
    failures.total = len(volumes) + len(failures.reasons)
    unlike = {volume.name: unlike_protocol(f"{path.stem} {protocol.description}", volume) for volume in volumes}
    shown: set[str] = set()
    for name, text in unlike.items():  # before the hours that it takes
        _show(name, [text] if text else [], shown)
    scores: list[VolumeScores] = []
    for volume, reconstruction in tqdm(list(zip(volumes, results, strict=True)), path.stem, unit="volume", leave=False):
        with failures.collect(volume.name):
            if volume.name not in rows or not reconstruction.is_file():
                rows[volume.name] = _reconstruct(volume, unlike[volume.name], protocol, method, arguments, shown)
            if volume.scored:
                scores += evaluate(volume.file, reconstruction, protocol.challenge).rows
        if volume.name in failures.reasons:
            rows.pop(volume.name, None)
        if rows:
            _write(output, summary, protocol, volumes, rows, scores, failures)
    failures.check_any_left(files[0].parent, "reconstructed")
    print(table(protocol, list(rows.values()), _in_folder_order(scores, volumes)))
    if not scores:
        print(f"\nno file has a target ({TARGETS[protocol.challenge]}): there is nothing to score")
    return failures.conclude("reconstructed", output, report_command(output))


def find_files(protocol: Protocol, data: Path) -> list[Path]:
    """Find the files of a protocol, sorted by name.

    Raises
    ------
    InputError
        No such folder, or no file in it.
    """
    folder = data / protocol.data
    if not folder.is_dir():
        if not data.is_dir() or not any(has_suffix(file, KSPACE_SUFFIXES) for file in data.iterdir()):
            raise InputError(
                f"{data}: has no folder '{protocol.data}', and no file with k-space itself; give --data with them"
            )
        folder = data
    return list_kspace(folder)


def find_volumes(
    protocol: Protocol, files: Sequence[Path], failures: Failures, reading: Mapping[str, Any]
) -> list[ScanEntry]:
    """Check the files of a protocol before any work, and list their scans; files that cannot be read go to `failures`.

    `reading` has options of `mrihvae.open_kspace`.

    Raises
    ------
    InputError
        No file of the acquisitions, one that does not fit the challenge, or a mask that no file of this size can have.
    """
    volumes = []
    folder = files[0].parent
    for file in files:
        with failures.collect(file.name):
            volumes += _volumes(file, protocol.challenge, reading)
    failures.check_any_left(folder, "reconstructed")
    for volume in volumes:
        _check_challenge(volume, protocol.challenge)
    check_names((volume.file, volume.name) for volume in volumes)
    chosen = [v for v in volumes if not protocol.acquisitions or v.acquisition in protocol.acquisitions]
    if not chosen:
        there = ", ".join(sorted({volume.acquisition for volume in volumes}))
        wanted = ", ".join(protocol.acquisitions)
        raise InputError(f"{folder}: no file has acquisition {wanted}; there are: {there}")
    mask, shapes = protocol.mask, {v.shape: v.file for v in chosen if not v.masked}
    for shape, file in shapes.items():
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
    return [
        printable(name),
        printable(kind),
        str(sum(row["slices"] for row in rows)),
        f"{effective:.2f}",
        *shown,
        f"{seconds:.2f}",
    ]


def _load(path: Path, protocol: Protocol, device: str) -> Method:
    """Load the method of a protocol."""
    if protocol.method not in MODEL_METHODS and device != "cpu":
        raise InputError(f"--device {device}: method '{protocol.method}' computes on the CPU; leave it out")
    try:
        return protocol.load(device)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _volumes(file: Path, challenge: str, reading: Mapping[str, Any]) -> list[ScanEntry]:
    """List the scans of a file."""
    if kind_of(file, reading.get("key")) == "fastmri":
        with collect_notices():  # they are said when it is reconstructed
            head = read_head(file, reading.get("key"))
        scored = TARGETS[challenge] in head.keys
        return [ScanEntry(file, file.name, head.acquisition, head.shape, head.masked, scored, field_strength(file))]
    return [
        ScanEntry(
            file,
            scan.name,
            str(scan.attributes.get("acquisition", "unknown")),
            scan.kspace.shape,
            scan.mask is not None and not scan.mask.all(),
            scored=False,
        )
        for scan in open_cached(file, **reading)
    ]


def _check_challenge(volume: ScanEntry, challenge: str) -> None:
    kind = "singlecoil" if volume.coils is None else "multicoil"
    if kind != challenge:
        raise InputError(f"{volume.file}: is {kind}, but the protocol's challenge is {challenge}; check --data")


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


def _reconstruct(
    volume: ScanEntry, unlike: str, protocol: Protocol, method: Method, arguments: options.Run, shown: set[str]
) -> dict[str, Any]:
    """Reconstruct a volume to its files, and return its row; print warnings that were not `shown` before.

    `unlike` is the warning that it does not look like the protocol's data, or empty.
    """
    undersampling = None if volume.masked else protocol.mask.undersampling()
    sampled = isinstance(method, SampleMeanMethod)
    with collect_notices() as notices:
        scan = next(scan for scan in open_cached(volume.file, **reading_of(arguments)) if scan.name == volume.name)
    row = reconstruct_to_files(
        scan, volume.file, arguments.output, method, undersampling, arguments.batch_size, sampled, False, protocol.seed,
        options="[solver] ",
    )  # fmt: skip
    row["warnings"] = sorted({*row["warnings"], *notices, *([unlike] if unlike else [])})
    if arguments.verbose:
        tqdm.write("\n".join(lines_about(row, shown, verbose=True)), file=sys.stderr)
    else:
        _show(volume.name, row["warnings"], shown)
    source = {} if volume.name == volume.file.name else {"source": volume.file.name}
    return {**row, **source, "acquisition": volume.acquisition}


def _show(name: str, warnings: Sequence[str], shown: set[str]) -> None:
    """Print the warnings that were not `shown` before."""
    for text in warnings:
        if text not in shown:
            show_warning(name, text)
        shown.add(text)


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
    failures: Failures,
) -> None:
    """Write the table and the JSON of the volumes so far, and of files that failed."""
    evaluation = _in_folder_order(scores, volumes)
    numbers = as_dict(evaluation) if scores else {"overall": None, "acquisitions": {}, "volumes": []}
    found = {row["file"]: {metric: row[metric] for metric in METRICS} for row in numbers.pop("volumes")}
    entries = [{**row, "scores": found.get(name)} for name, row in rows.items()]
    with atomic_write(output / "run.json") as temporary:
        values = {**summary, **numbers, "volumes": entries, "failed": failures.records()}
        temporary.write_text(json.dumps(values, indent=2, allow_nan=False) + "\n")
    made = [f"{package} {version}" for package, version in summary["versions"].items()]
    if summary["weights"]:
        made.append(f"weights {protocol.weights} ({summary['weights']})")
    if summary["git"]:
        made.append(f"revision {summary['git']['revision'][:12]}{', changed' if summary['git']['dirty'] else ''}")
    parts = [f"# {summary['protocol']}", protocol.description, table(protocol, list(rows.values()), evaluation)]
    with atomic_write(output / "scores.md") as temporary:
        temporary.write_text("\n\n".join([*filter(None, parts), f"{', '.join(made)}, {summary['device']}"]) + "\n")
