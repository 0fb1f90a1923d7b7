"""`mrihvae reconstruct`: undersampled scans of any format in, reconstructions in fastMRI's form and pictures out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from mrihvae import __version__
from mrihvae.cli.common import (
    Failures,
    check_output,
    check_results,
    finished_before,
    next_command,
    reading_of,
    settings_lines,
)
from mrihvae.cli.engine import open_runner, workers_of
from mrihvae.cli.events import log_volume, run_logged
from mrihvae.cli.options import Reconstruct
from mrihvae.cli.options.common import CHALLENGES
from mrihvae.cli.output_folder import SharedRecord, claim_results, remove_parts
from mrihvae.cli.reconstruct_files import lines_about
from mrihvae.cli.reconstruct_options import check_coil_options, check_options, read_method, read_undersampling
from mrihvae.cli.reconstruction_images import check_format, images_path
from mrihvae.cli.tasks import Result, Task, Workers
from mrihvae.cli.volume_tasks import FileJob, MethodSource
from mrihvae.errors import InputError
from mrihvae.evaluation.report.record import RECORDS
from mrihvae.io.formats import check_names
from mrihvae.io.kspace import head_of, list_kspace, open_kspace
from mrihvae.model.shipped import weights_for
from mrihvae.physics.sampling import Undersampling
from mrihvae.recon.methods import ClassicalMethod, HybridMethod, Method, ModelMethod, PnPMethod, SampleMeanMethod
from mrihvae.utils.config import as_dict
from mrihvae.utils.memory import set_limit
from mrihvae.utils.text import printable

SAME = (  # in a folder
    "method", "checkpoint", "weights", "inference", "samples", "sampling", "seed", "pnp", "strength", "coils",
    "undersampling", "reading",
)  # fmt: skip
FOLDERS = ("reconstructions", "panels")  # in the output folder


def run(arguments: Reconstruct) -> int:
    """Reconstruct; prints progress on standard error and a line per volume on standard output.

    Returns
    -------
    the exit status: 1 if some of the files failed
    """
    set_limit(arguments.max_memory)
    return run_logged(arguments.log_json, "reconstruct", partial(_run, arguments))


def _run(arguments: Reconstruct) -> int:
    """Check options, inputs and output, then reconstruct all scans without a result."""
    output, undersampling, workers = arguments.output, read_undersampling(arguments), workers_of(arguments)
    check_options(arguments)
    check_format(arguments.format)
    check_output(output, *FOLDERS)
    check_results(output, [output / name for name in RECORDS], arguments.overwrite, arguments.resume)
    files = list_kspace(_input(arguments), arguments.key)
    record = SharedRecord(
        output / "reconstruct.json", SAME, (file.name for file in files), keep=not arguments.overwrite
    )
    failures = Failures(len(files))
    heads = _heads(files, arguments, failures)
    check_coil_options(arguments, [coils for _, coils in heads.values()])
    checkpoints = {file: arguments.checkpoint or weights_for(coils or 1) for file, (_, coils) in heads.items()}
    methods = {name: read_method(arguments, name) for name in dict.fromkeys(checkpoints.values())}
    summary = summarize(arguments, methods, undersampling)
    done = finished_before(record.path, summary, SAME, "volumes") if arguments.resume else {}
    if arguments.verbose:
        print(settings_lines(summary))
    names = [name for names, _ in heads.values() for name in names]
    results = _Results(record, summary, done, failures, {name: place for place, name in enumerate(names)})
    sources = {name: MethodSource.of(methods[name], partial(read_method, arguments, name)) for name in methods}
    there = {file for file in heads if _is_done(file, done, output, arguments.format)}
    tasks = [
        _task(file, coils, sources[checkpoints[file]], arguments, workers)
        for file, (_, coils) in heads.items()
        if file not in there
    ]
    waiting = [name for file, (names, _) in heads.items() if file not in there for name in names]
    title = "reconstructing" if len(tasks) > 1 else None
    with claim_results(output, waiting), open_runner(workers, arguments.verbose, title) as runner:
        try:
            _reconstruct_all(runner(tasks), [file.name for file in heads], there, results, arguments.verbose)
        finally:
            _remove_parts(output, waiting, arguments.format)
    failures.check_any_left(_input(arguments), "reconstructed")
    results.write(last=True)
    return failures.conclude("reconstructed", output / "reconstructions", next_command("report", str(output)))


@dataclass
class _Results:
    """What is there of a reconstruction.

    Attributes
    ----------
    record : reconstruct.json, to which other processes may write, too
    summary : settings
    done : rows, by name of the scan
    failures : files that failed
    order : of scans in the record, by name
    """

    record: SharedRecord
    summary: Mapping[str, Any]
    done: dict[str, Any]
    failures: Failures
    order: Mapping[str, int]

    def write(self, last: bool = False) -> None:
        """Write reconstruct.json, if anything is there: settings, what was reconstructed, and what failed."""
        if self.done:
            self.record.write(self.done, self.failures.records(), self._complete, last)

    def _complete(self, rows: Mapping[str, Any], failed: list[dict[str, str]]) -> dict[str, Any]:
        volumes = sorted(rows.values(), key=lambda row: self.order.get(row["file"], -1))
        return {**self.summary, "volumes": volumes, "failed": failed}


def _reconstruct_all(
    finished: Iterator[tuple[Task, Result]], files: Sequence[str], there: set[Path], results: _Results, verbose: bool
) -> None:
    """Print and record the results of tasks; say of the files before each one which are there already."""
    skipped, shown = {file.name for file in there}, set[str]()
    left = [name for name in files if name in skipped]
    try:
        for task, result in finished:
            while left and files.index(left[0]) < files.index(task.name):
                tqdm.write(printable(f"{left.pop(0)}: already there"))
            with results.failures.collect(task.name):
                for row in result():
                    tqdm.write("\n".join(lines_about(row, shown, verbose)))
                    log_volume(row)
                    results.done[row["file"]] = row
            results.write()
    except BaseException:
        with suppress(InputError):  # the error that is on its way says more
            results.write(last=True)
        raise
    for name in left:
        tqdm.write(printable(f"{name}: already there"))


def _task(file: Path, coils: int | None, source: MethodSource, arguments: Reconstruct, workers: Workers | None) -> Task:
    """Return the task of a file; for workers elsewhere with paths that do not depend on where they were started."""
    output, use_samples = arguments.output, arguments.samples is not None
    if workers is not None and workers.scheduler is not None:
        file, output = file.absolute(), output.absolute()
    job = FileJob(
        file, output, source, read_undersampling(arguments), arguments.batch_size, use_samples,
        arguments.keep_samples, arguments.seed or 0, arguments.format, reading_of(arguments),
    )  # fmt: skip
    parts = job.split(coils) if workers is not None else []
    return Task(file.name, file, job.finish, tuple(partial(job.reconstruct, part) for part in parts))


def _heads(files: list[Path], arguments: Reconstruct, failures: Failures) -> dict[Path, tuple[list[str], int | None]]:
    """Check all files before any work: names of scans and the number of coils of those that can be read.

    Raises
    ------
    InputError
        Nothing that can be read, two results of one name, or results that are there already.
    """
    heads = {}
    for file in files:
        with failures.collect(file.name):
            names, coils = head_of(file, arguments.key)
            if coils is None:
                open_kspace(file, lazy=True, key=arguments.key)  # says what is wrong
            _check_challenge(file, coils, arguments.challenge)
            heads[file] = names, coils
    failures.check_any_left(_input(arguments), "reconstructed")
    check_names((file, name) for file, (names, _) in heads.items() for name in names)
    folder, forms = arguments.output, {"h5", arguments.format}
    results = [images_path(folder, name, form) for names, _ in heads.values() for name in names for form in forms]
    check_results(folder, results, arguments.overwrite, arguments.resume)
    return heads


def _remove_parts(folder: Path, names: list[str], form: str) -> None:
    """Remove what workers that were killed left behind."""
    panels = [folder / "panels" / f"{Path(name).stem}.png" for name in names]
    remove_parts([*panels, *(images_path(folder, name, one) for name in names for one in {"h5", form})])


def _is_done(file: Path, done: Mapping[str, Any], folder: Path, form: str) -> bool:
    """Tell whether all scans of a file were reconstructed, and their files are there still."""
    rows = [row for row in done.values() if row.get("source", row["file"]) == file.name]
    whole = bool(rows) and len(rows) == rows[0].get("scans", 1)
    return whole and all(images_path(folder, row["file"], one).exists() for row in rows for one in {"h5", form})


def _input(arguments: Reconstruct) -> Path:
    """Return INPUT, or --data_path in its place."""
    path = arguments.input or arguments.data_path
    if path is None or None not in (arguments.input, arguments.data_path):
        raise InputError("INPUT: give a file with k-space or a folder of them, here or with --data_path")
    return path


def _check_challenge(file: Path, coils: int | None, challenge: str | None) -> None:
    """Raise InputError for a file that is not of the challenge."""
    if challenge is not None and coils is not None and min(coils, 2) != CHALLENGES[challenge]:
        kind = "one coil" if coils == 1 else f"{coils} coils"
        raise InputError(
            f"{file}: has {kind}, which does not match challenge '{challenge}'; leave out the file or the option"
        )


def summarize(
    arguments: Reconstruct, methods: dict[str, Method], undersampling: Undersampling | None
) -> dict[str, Any]:
    """Return the settings of a reconstruction, which must be the same in one output folder."""
    method = next(iter(methods.values()))
    use_samples = isinstance(method, SampleMeanMethod) or arguments.samples is not None
    inference = sampling = None
    if isinstance(method, HybridMethod):
        inference = as_dict(method.sampling if isinstance(method, SampleMeanMethod) else method.point)
        sampling = as_dict(method.sampling) if use_samples else None
    return {
        "mrihvae": __version__,
        "input": str(_input(arguments)),
        "reading": reading_of(arguments) or None,
        "torch": str(torch.__version__),
        "method": method.name,
        "checkpoint": ", ".join(methods) if isinstance(method, ModelMethod) else None,
        "weights": ", ".join(m.weights for m in methods.values() if isinstance(m, ModelMethod)) or None,
        "inference": inference,
        "samples": method.samples if use_samples and isinstance(method, HybridMethod) else None,
        "sampling": sampling,
        "seed": (arguments.seed or 0) if use_samples else None,
        "pnp": as_dict(method.pnp) if isinstance(method, PnPMethod) else None,
        "strength": _strength(method),
        "coils": as_dict(method.coils),
        "undersampling": as_dict(undersampling) if undersampling else None,
        "device": arguments.device,
        "threads": torch.get_num_threads(),
    }


def _strength(method: Method) -> float | dict[str, float | None] | None:
    """Return the strength of a classical method, or the tuned ones for one coil and for several; None for others."""
    if not isinstance(method, ClassicalMethod):
        return None
    usual = dict(zip(("one coil", "several coils"), method.usual_strengths(), strict=True))
    return usual if method.strength is None else method.strength
