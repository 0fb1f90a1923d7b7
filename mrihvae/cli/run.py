"""`mrihvae run`: an evaluation protocol: files in; reconstructions, panels, a table and all that made them out."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
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
    next_command,
    reading_of,
    settings_lines,
)
from mrihvae.cli.console import show_warning
from mrihvae.cli.engine import open_runner, workers_of
from mrihvae.cli.events import log_volume, run_logged
from mrihvae.cli.output_folder import SharedRecord, claim_results, remove_parts
from mrihvae.cli.pieces import Piece, split_slices
from mrihvae.cli.protocol_data import ScanEntry, unlike_protocol
from mrihvae.cli.protocol_volumes import find_files, find_volumes
from mrihvae.cli.reconstruct_files import add_reading, lines_about, open_cached, reconstruct_to_files
from mrihvae.cli.run_record import RunRecord, table
from mrihvae.cli.tasks import Result, Task, Workers
from mrihvae.cli.volume_tasks import MethodSource, reconstruct_part
from mrihvae.data.scan import TARGETS, Scan
from mrihvae.errors import InputError
from mrihvae.evaluation.report.record import RECORDS
from mrihvae.evaluation.scores import VolumeScores, evaluate
from mrihvae.physics.sampling import Undersampling
from mrihvae.protocols.evaluation import Protocol, find_protocol, read_protocol
from mrihvae.recon.methods import Method, ModelMethod, SampleMeanMethod
from mrihvae.recon.settings import MODEL_METHODS
from mrihvae.utils.memory import reset_peak_memory, set_limit
from mrihvae.utils.notices import collect_notices
from mrihvae.utils.stages import record_stages, stage

ROOT = Path(__file__).parents[2]  # of a checkout, if it is one
FOLDERS = ("reconstructions", "panels")  # in the output folder
OPTIONS = "[solver] "  # what stands before the name of a setting in errors
SAME = ("protocol_sha256", "weights", "versions", "git", "settings", "reading")  # in one output folder


@dataclass(frozen=True)
class VolumeJob:
    """The reconstruction of a volume by a protocol, and its scores.

    Attributes
    ----------
    volume : to reconstruct
    unlike : warning that it does not look like the protocol's data, or empty
    protocol : says how
    source : of its method
    output : folder of results
    batch_size : coil images that are reconstructed together
    reading : options of `mrihvae.open_kspace`
    """

    volume: ScanEntry
    unlike: str
    protocol: Protocol
    source: MethodSource
    output: Path
    batch_size: int
    reading: Mapping[str, Any]

    def finish(self, pieces: Sequence[Piece] = ()) -> tuple[dict[str, Any], list[VolumeScores]]:
        """Reconstruct the volume to its files, or write what pieces of it are; return its row, and its scores."""
        method, seed, volume = self.source.get(), self.protocol.seed, self.volume
        reset_peak_memory()
        with collect_notices() as notices, record_stages() as stages, stage("read"):
            scan = self._open()
        row = reconstruct_to_files(
            scan, volume.file, self.output, method, self._undersampling(), self.batch_size,
            isinstance(method, SampleMeanMethod), False, seed, options=OPTIONS, pieces=pieces,
        )  # fmt: skip
        row["warnings"] = sorted({*row["warnings"], *notices, *([self.unlike] if self.unlike else [])})
        row["stages"] = add_reading(row, stages["read"])
        source = {} if volume.name == volume.file.name else {"source": volume.file.name}
        return {**row, **source, "acquisition": volume.acquisition}, self.score()

    def reconstruct(self, part: range) -> Piece:
        """Reconstruct slices of the volume."""
        source, volume = self.source, self.volume
        return reconstruct_part(
            self._open, volume.file, source, self._undersampling(), self.batch_size, part, options=OPTIONS
        )

    def score(self) -> list[VolumeScores]:
        """Score the reconstruction, if the volume has a target."""
        if not self.volume.scored:
            return []
        path = self.output / "reconstructions" / self.volume.name
        return list(evaluate(self.volume.file, path, self.protocol.challenge).rows)

    def task(self, split: bool) -> Task:
        """Return the task of this job, of a large volume in pieces if they may be, and if `split`."""
        volume, parts = self.volume, []
        if split and self.protocol.method != "samples" and volume.name == volume.file.name:
            parts = split_slices(volume.kspace[0], volume.coils or 1, self.batch_size)
        return Task(volume.name, volume.file, self.finish, tuple(partial(self.reconstruct, part) for part in parts))

    def _open(self) -> Scan:
        return next(scan for scan in open_cached(self.volume.file, **self.reading) if scan.name == self.volume.name)

    def _undersampling(self) -> Undersampling | None:
        return None if self.volume.masked else self.protocol.mask.undersampling()


def run(arguments: options.Run) -> int:
    """Run a protocol; prints progress on standard error and the table on standard output.

    Returns
    -------
    the exit status: 1 if some of the files failed
    """
    set_limit(arguments.max_memory)
    return run_logged(arguments.log_json, "run", partial(_run, arguments))


def _run(arguments: options.Run) -> int:
    """Check options, inputs and output, then reconstruct all volumes without a result, and score all."""
    for name in ("batch_size", "limit"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise InputError(f"--{name.replace('_', '-')} {value}: must be at least 1")
    workers = workers_of(arguments)
    open_cached.cache_clear()  # files may have changed since an earlier call
    path, output = find_protocol(arguments.protocol), arguments.output
    protocol = read_protocol(path)
    check_output(output, *FOLDERS)
    check_results(output, [output / name for name in RECORDS], arguments.overwrite, arguments.resume)
    files = find_files(protocol, arguments.data)
    record = SharedRecord(output / "run.json", SAME, (file.name for file in files), keep=not arguments.overwrite)
    failures = Failures(len(files))
    volumes = find_volumes(protocol, files, failures, reading_of(arguments))[: arguments.limit]
    results = {volume.name: output / "reconstructions" / volume.name for volume in volumes}
    check_results(output, results.values(), arguments.overwrite, arguments.resume)
    method = _load(path, protocol, arguments.device)
    summary = _summary(path, protocol, method, arguments)
    there = finished_before(record.path, summary, SAME, "volumes") if arguments.resume else {}
    if arguments.verbose:
        print(settings_lines(summary), file=sys.stderr)
    rows = {name: there[name] for name in results if name in there and results[name].is_file()}
    failures.total = len(volumes) + len(failures.reasons)
    source = MethodSource.of(method, partial(_load, path, protocol, arguments.device))
    jobs = _jobs(volumes, path, protocol, source, arguments, workers)
    written = RunRecord(record, summary, protocol, volumes, rows, failures)
    shown = {job.unlike for job in jobs} - {""}
    for name in [name for name in results if name in rows]:
        with failures.collect(name):
            written.scores += next(job for job in jobs if job.volume.name == name).score()
    tasks = [job.task(split=workers is not None) for job in jobs if job.volume.name not in rows]
    names = [task.name for task in tasks]
    with claim_results(output, names), open_runner(workers, arguments.verbose, path.stem) as runner:
        try:
            _run_all(runner(tasks), written, shown, arguments.verbose)
        finally:
            panels = [output / "panels" / f"{Path(name).stem}.png" for name in names]
            remove_parts([*panels, *(results[name] for name in names)])
    failures.check_any_left(files[0].parent, "reconstructed")
    written.write(last=True)
    print(table(protocol, written.rows_in_order(), written.evaluation()))
    if not written.scores:
        print(f"\nno file has a target ({TARGETS[protocol.challenge]}): there is nothing to score")
    return failures.conclude("reconstructed", output, next_command("report", str(output)))


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


def _load(path: Path, protocol: Protocol, device: str) -> Method:
    """Load the method of a protocol."""
    if protocol.method not in MODEL_METHODS and device != "cpu":
        raise InputError(f"--device {device}: method '{protocol.method}' computes on the CPU; leave it out")
    try:
        return protocol.load(device)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


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


def _jobs(
    volumes: Sequence[ScanEntry],
    path: Path,
    protocol: Protocol,
    source: MethodSource,
    arguments: options.Run,
    workers: Workers | None,
) -> list[VolumeJob]:
    """Return the jobs of volumes; print which of them do not look like the protocol's data.

    For workers elsewhere paths do not depend on where they were started.
    """
    jobs, shown, output = [], set[str](), arguments.output
    if workers is not None and workers.scheduler is not None:
        output = output.absolute()
        volumes = [dataclasses.replace(volume, file=volume.file.absolute()) for volume in volumes]
    for volume in volumes:  # before the hours that it takes
        unlike = unlike_protocol(f"{path.stem} {protocol.description}", volume)
        _show(volume.name, [unlike] if unlike else [], shown)
        jobs.append(VolumeJob(volume, unlike, protocol, source, output, arguments.batch_size, reading_of(arguments)))
    return jobs


def _run_all(finished: Iterator[tuple[Task, Result]], written: RunRecord, shown: set[str], verbose: bool) -> None:
    """Record the results of tasks, and print what was not `shown` before."""
    try:
        for task, result in finished:
            with written.failures.collect(task.name):
                row, scores = result()
                written.rows[task.name] = row
                written.scores += scores
                _tell(row, shown, verbose)
            written.write()
    except BaseException:
        with suppress(InputError):  # the error that is on its way says more
            written.write(last=True)
        raise


def _tell(row: Mapping[str, Any], shown: set[str], verbose: bool) -> None:
    """Print the warnings of a volume that were not `shown` before, or with `verbose` all about it; log it."""
    log_volume(row)
    if verbose:
        tqdm.write("\n".join(lines_about(row, shown, verbose=True)), file=sys.stderr)
    else:
        _show(row["file"], row["warnings"], shown)


def _show(name: str, warnings: Sequence[str], shown: set[str]) -> None:
    """Print the warnings that were not `shown` before."""
    for text in warnings:
        if text not in shown:
            show_warning(name, text)
        shown.add(text)
