"""`mrihvae convert`: k-space or images in one format to another, with the geometry of the scan."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from mrihvae.cli import options
from mrihvae.errors import InputError

FORMAT_SUFFIXES = {"nii": ".nii.gz"}  # where it is not the format's name


def run(arguments: options.Convert) -> None:
    """Convert; prints the names of the files written, one for each contrast and repetition."""
    from mrihvae.cli.convert_content import convert_file
    from mrihvae.io.like import read_reference
    from mrihvae.recon.convert import suffix_of
    from mrihvae.utils.notices import collect_notices

    with collect_notices() as notices:
        reference = None if arguments.like is None else read_reference(arguments.like)
    shown = set(_show(arguments.output, notices))
    for source, output in _jobs(arguments):
        if _same(source, output):
            raise InputError(f"{output}: is the input, too; choose another name")
        suffix = suffix_of(output) if arguments.format is None else _suffix(arguments.format)
        with collect_notices() as notices:
            for path in convert_file(source, output, suffix, arguments, reference):
                print(path)
        shown |= set(_show(output, [text for text in notices if text not in shown]))


def _show(path: Path, notices: list[str]) -> list[str]:
    """Print warnings; return them."""
    for text in notices:
        print(f"{path}: {text}", file=sys.stderr)
    return notices


def _suffix(form: str) -> str:
    return FORMAT_SUFFIXES.get(form, f".{form}")


def _jobs(arguments: options.Convert) -> Iterator[tuple[Path, Path]]:
    """List inputs and outputs: IN and OUT, or the files of a folder where it has other ones than DICOM."""
    from mrihvae.io.dicom import has_dicom
    from mrihvae.io.formats import KSPACE_SUFFIXES, NIFTI_SUFFIXES, check_names, has_suffix, list_files

    source, output = arguments.input, arguments.output
    suffix = "" if arguments.format in (None, "dcm") else _suffix(str(arguments.format))
    suffixes = (*KSPACE_SUFFIXES, *NIFTI_SUFFIXES)
    others = source.is_dir() and any(has_suffix(file, suffixes) for file in source.iterdir())
    if not source.is_dir() or (has_dicom(source) and not others):
        there = output.name.lower().endswith((suffix, f".{arguments.format}"))
        yield source, output if there else output.with_name(output.name + suffix)
        return
    if arguments.format is None:
        raise InputError(f"{source}: is a folder, whose files are converted into a folder; add --format")
    hint = "give a folder of DICOM, reconstructions, NIfTI files or scans"
    files = list_files(source, suffixes, "no file to convert in it", hint)
    stems = {file: file.name.removesuffix(".gz").rpartition(".")[0] for file in files}
    check_names((file, f"{stem}.x") for file, stem in stems.items())
    for file, stem in stems.items():
        yield file, output / f"{stem}{suffix}"


def _same(first: Path, second: Path) -> bool:
    return second.exists() and first.exists() and first.samefile(second)
