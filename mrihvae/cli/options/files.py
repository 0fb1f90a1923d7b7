"""Options of commands. Files: conversion, scores and reports."""

from __future__ import annotations

from pathlib import Path

from mrihvae.cli.options.common import KEY, LOG_JSON, MAX_MEMORY, OUTPUT, QUIET, UNCENTERED
from mrihvae.cli.sections import FILES, Options
from mrihvae.data.scan import TARGETS

CONVERTED = ("h5", "nii", "mrd", "cfl", "npy", "png", "dcm")


class Convert(Options):
    """convert k-space and images: fastMRI HDF5, NIfTI, DICOM, MRD, BART, NumPy, PNG

    K-space: fastMRI HDF5 (.h5), BART (.cfl), NumPy (.npy with .json). Images: NIfTI (.nii, .nii.gz), MRD images (.mrd),
    PNG (.png), DICOM (--format dcm, a folder; or .dcm, one slice), .h5, .cfl, .npy. Folders are converted file by file.
    An uncertainty map goes into the same file or folder, or into NAME_uncertainty beside it.

    Examples:
      mrihvae convert scan.h5 scan.cfl
      mrihvae convert out/reconstructions/scan.h5 scan.nii.gz
      mrihvae convert result.h5 dicom/ --format dcm --like original/
      mrihvae convert stored.h5 nifti/ --format nii --contrast 0
    """

    input: Path = FILES("k-space, a reconstruction, MRD images, NIfTI, DICOM, or a folder", name="IN", positional=True)
    output: Path = FILES("file or folder to write; its suffix is the format", name="OUT", positional=True)
    format: str | None = FILES("format to write", None, "suffix of OUT", choices=CONVERTED)
    slice: int | None = FILES("write one slice of the images, from 0 on", None, "all")
    dataset: str | None = FILES("a dataset, or a series by number or UID", None, "the reconstruction", alias="--series")
    contrast: int | None = FILES("images or scans of this contrast alone, of ISMRMRD", None, "all")
    repetition: int | None = FILES("images or scans of this repetition alone, of ISMRMRD", None, "all")
    like: Path | None = FILES("take geometry, and of DICOM patient and study, from this NIfTI file or folder", None)
    key: str | None = KEY()
    uncentered: bool = UNCENTERED()
    max_memory: float | None = MAX_MEMORY()
    images: bool = FILES("write images of fully sampled k-space where OUT could be both", False)
    overwrite: bool = FILES("replace files that are there", False)
    log_json: Path | None = LOG_JSON()
    resume: bool = FILES("keep files that are there, and write those that an interrupted call has not written", False)


class Evaluate(Options):
    """score reconstructions with fastMRI's metrics

    Example:
      mrihvae evaluate --target-path full/ --predictions-path out/reconstructions \
          --challenge singlecoil --csv scores.csv
    """

    target_path: Path = FILES("fastMRI HDF5 with references, or a folder")
    predictions_path: Path = FILES("reconstructions of the same names")
    challenge: str = FILES("which dataset is the target", choices=tuple(TARGETS))
    acquisition: str | None = FILES("score only volumes of this acquisition", None, "all")
    acceleration: float | None = FILES("score only volumes of this acceleration", None, "all")
    json: Path | None = FILES("write all numbers here", None)
    csv: Path | None = FILES("write one row per volume here", None)
    quiet: bool = QUIET()


class Report(Options):
    """make one HTML page of a run: scores, slices, settings

    Example:
      mrihvae report out/ --slices 4
    """

    folder: Path = FILES("--output of 'mrihvae run' or 'mrihvae reconstruct'", name="DIR", positional=True)
    data: Path | None = FILES("folder with the scans, matched by file name", None, "where they were")
    output: Path | None = OUTPUT("HTML file to write", None, "DIR/report.html")
    title: str | None = FILES("heading of the report", None, "what was run")
    slices: int | None = FILES("pictures of at most this many slices of a volume, evenly spaced", None, "all")
    quiet: bool = QUIET()
