"""`mrihvae convert`: k-space or images in one format to another, with the geometry of the scan."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mrihvae.cli import options
from mrihvae.cli.console import show_error, show_warning
from mrihvae.cli.events import log_event, run_logged
from mrihvae.errors import InputError, OutputError
from mrihvae.utils.text import printable

if TYPE_CHECKING:
    from mrihvae.cli.convert_content import Job

FORMAT_SUFFIXES = {"nii": ".nii.gz"}  # where it is not the format's name


def run(arguments: options.Convert) -> int:
    """Convert; prints the names of the files written, one for each contrast and repetition, not of those kept.

    Returns
    -------
    exit status: 1 if files of a folder could not be converted, else 0
    """
    from mrihvae.utils.memory import set_limit

    if arguments.overwrite and arguments.resume:
        raise InputError("--overwrite and --resume: contradict each other; give only one of them")
    set_limit(arguments.max_memory)
    return run_logged(arguments.log_json, "convert", partial(_run, arguments))


def _run(arguments: options.Convert) -> int:
    """Convert file by file."""
    from mrihvae.cli.convert_content import convert_file
    from mrihvae.io.like import read_reference
    from mrihvae.utils.notices import collect_notices

    with collect_notices() as notices:
        reference = None if arguments.like is None else read_reference(arguments.like)
    shown = set(_show(arguments.output, notices))
    jobs, failed = _jobs(arguments), 0
    for job in jobs:
        written: list[Path] = []
        began = time.perf_counter()
        try:
            with collect_notices() as notices:
                for path in convert_file(job, arguments, reference):
                    print(printable(str(path)))
                    written.append(path)
        except InputError as error:
            if job.source == arguments.input or isinstance(error, OutputError):  # others would not fare better
                raise
            failed += 1
            show_error(error)
            log_event("failure", "error", file=job.source.name, error=str(error))
        else:
            seconds = round(time.perf_counter() - began, 3)
            log_event("file", file=job.source.name, written=[str(path) for path in written], seconds=seconds)
        about = written[0] if len(written) == 1 else arguments.output  # several volumes lie in that folder
        shown |= set(_show(about, [text for text in notices if text not in shown]))
    if failed:
        print(f"{len(jobs) - failed} of {len(jobs)} converted, {failed} failed", file=sys.stderr)
    return 1 if failed else 0


def _show(path: Path, notices: list[str]) -> list[str]:
    """Print warnings; return them."""
    for text in notices:
        show_warning(str(path), text)
        log_event("warning", "warning", file=path.name, warning=text)
    return notices


def _jobs(arguments: options.Convert) -> Sequence[Job]:
    """List inputs and outputs: IN and OUT, or the files of a folder where it has other ones than DICOM."""
    from mrihvae.cli.convert_content import Job
    from mrihvae.io.dicom import DICOM_SUFFIX, has_dicom
    from mrihvae.io.formats import KSPACE_SUFFIXES, NIFTI_SUFFIXES, check_names, has_suffix, list_files
    from mrihvae.recon.convert import suffix_of

    source, output, form = arguments.input, arguments.output, arguments.format
    suffixes = (*KSPACE_SUFFIXES, *NIFTI_SUFFIXES)
    others = source.is_dir() and any(has_suffix(file, suffixes) for file in source.iterdir())
    many = source.is_dir() and (others or not has_dicom(source))
    if form is None and many:
        raise InputError(f"{source}: is a folder; add --format to convert its files into a folder")
    if not many and source.exists() and output.exists() and source.samefile(output):
        raise InputError(f"{output}: is also the input; choose another name")
    suffix = suffix_of(output) if form is None else FORMAT_SUFFIXES.get(form, f".{form}")
    ending = "" if suffix == DICOM_SUFFIX else suffix
    if not many:
        if output.name.lower().endswith((suffix, f".{form}")):
            return [Job(source, output, suffix)]
        if output.is_dir() and ending:
            return [Job(source, output / f"{_stem(source)}{ending}", suffix, output)]
        return [Job(source, output.with_name(output.name + ending), suffix, output)]
    hint = "give a folder of DICOM, reconstructions, NIfTI files or scans"
    files = list_files(source, suffixes, "no file to convert in it", hint)
    files = [file for file in files if not _is_beside(file, files)]
    check_names((file, f"{_stem(file)}.x") for file in files)
    return [Job(file, output / f"{_stem(file)}{ending}", suffix, output) for file in files]


def _stem(file: Path) -> str:
    """Return a file's name without its suffix."""
    return file.name.removesuffix(".gz").rpartition(".")[0] or file.name


def _is_beside(file: Path, files: Sequence[Path]) -> bool:
    """Return whether a file is the uncertainty of another one, with which it is converted."""
    from mrihvae.io.write_images import uncertainty_path

    return any(
        uncertainty_path(other, "".join(other.name[len(_stem(other)) :]).lower()) == file
        for other in files
        if other.suffix.lower() not in (".h5", ".hdf5", ".mrd", ".dat")
    )
