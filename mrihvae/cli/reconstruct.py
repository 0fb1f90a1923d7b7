"""`mrihvae reconstruct`: undersampled scans of any format in, reconstructions in fastMRI's form and pictures out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mrihvae import __version__
from mrihvae.cli.common import (
    Failures,
    check_output,
    check_results,
    finished_before,
    reading_of,
    report_command,
    settings_lines,
)
from mrihvae.cli.options import Reconstruct
from mrihvae.cli.options.common import CHALLENGES
from mrihvae.cli.reconstruct_files import lines_about, reconstruct_file
from mrihvae.cli.reconstruct_options import check_coil_options, check_options, read_method, read_undersampling
from mrihvae.cli.reconstruction_images import check_format, images_path
from mrihvae.errors import InputError
from mrihvae.evaluation.report.record import RECORDS
from mrihvae.io.formats import check_names
from mrihvae.io.kspace import head_of, list_kspace, open_kspace
from mrihvae.model.shipped import weights_for
from mrihvae.physics.sampling import Undersampling
from mrihvae.recon.methods import ClassicalMethod, HybridMethod, Method, ModelMethod, PnPMethod, SampleMeanMethod
from mrihvae.utils.config import as_dict
from mrihvae.utils.files import atomic_write
from mrihvae.utils.text import printable

SAME = (  # in a folder
    "method", "checkpoint", "weights", "inference", "samples", "seed", "pnp", "strength", "coils", "undersampling",
    "reading",
)  # fmt: skip
FOLDERS = ("reconstructions", "panels")  # in the output folder


def run(arguments: Reconstruct) -> int:
    """Reconstruct; prints progress on standard error and a line per volume on standard output.

    Returns
    -------
    the exit status: 1 if some of the files failed
    """
    output, undersampling = arguments.output, read_undersampling(arguments)
    check_options(arguments)
    check_format(arguments.format)
    check_output(output, *FOLDERS)
    check_results(output, [output / name for name in RECORDS], arguments.overwrite, arguments.resume)
    files = list_kspace(_input(arguments), arguments.key)
    failures = Failures(len(files))
    heads = _heads(files, arguments, failures)
    check_coil_options(arguments, [coils for _, coils in heads.values()])
    checkpoints = {file: arguments.checkpoint or weights_for(coils or 1) for file, (_, coils) in heads.items()}
    methods = {name: read_method(arguments, name) for name in dict.fromkeys(checkpoints.values())}
    summary = _summary(arguments, methods, undersampling)
    done = finished_before(output / "reconstruct.json", summary, SAME, "volumes") if arguments.resume else {}
    if arguments.verbose:
        print(settings_lines(summary))
    shown: set[str] = set()
    for file in heads:
        if _is_done(file, done, output, arguments.format):
            print(printable(f"{file.name}: already there"))
            continue
        use_samples, kept, seed = arguments.samples is not None, arguments.keep_samples, arguments.seed or 0
        method = methods[checkpoints[file]]
        settings = (method, undersampling, arguments.batch_size, use_samples, kept, seed, "--", arguments.format)
        with failures.collect(file.name):
            for row in reconstruct_file(file, output, *settings, reading=reading_of(arguments)):
                print("\n".join(lines_about(row, shown, arguments.verbose)))
                done[row["file"]] = row
            _write_record(output, summary, done, failures)
    failures.check_any_left(_input(arguments), "reconstructed")
    _write_record(output, summary, done, failures)
    return failures.conclude("reconstructed", output / "reconstructions", report_command(output))


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


def _write_record(folder: Path, summary: Mapping[str, Any], done: Mapping[str, Any], failures: Failures) -> None:
    """Write reconstruct.json: settings, what was reconstructed, and what failed."""
    with atomic_write(folder / "reconstruct.json") as temporary:
        values = {**summary, "volumes": list(done.values()), "failed": failures.records()}
        temporary.write_text(json.dumps(values, indent=2) + "\n")


def _is_done(file: Path, done: Mapping[str, Any], folder: Path, form: str) -> bool:
    """Tell whether all scans of a file were reconstructed, and their files are there still."""
    rows = [row for row in done.values() if row.get("source", row["file"]) == file.name]
    whole = bool(rows) and len(rows) == rows[0].get("scans", 1)
    return whole and all(images_path(folder, row["file"], one).exists() for row in rows for one in {"h5", form})


def _input(arguments: Reconstruct) -> Path:
    """Return INPUT, or --data_path in its place."""
    path = arguments.input or arguments.data_path
    if path is None or None not in (arguments.input, arguments.data_path):
        raise InputError("INPUT: give a file with k-space or a folder of them, here or by --data_path")
    return path


def _check_challenge(file: Path, coils: int | None, challenge: str | None) -> None:
    """Raise InputError for a file that is not of the challenge."""
    if challenge is not None and coils is not None and min(coils, 2) != CHALLENGES[challenge]:
        kind = "one coil" if coils == 1 else f"{coils} coils"
        raise InputError(f"{file}: is of {kind}, not of challenge '{challenge}'; leave it out, or the option")


def _summary(arguments: Reconstruct, methods: dict[str, Method], undersampling: Undersampling | None) -> dict[str, Any]:
    """Return the settings of a reconstruction, which must be the same in one output folder."""
    method = next(iter(methods.values()))
    use_samples = isinstance(method, SampleMeanMethod) or arguments.samples is not None
    inference = None
    if isinstance(method, HybridMethod):
        inference = as_dict(method.sampling if use_samples else method.inference)
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
