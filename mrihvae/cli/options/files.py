"""Options of commands. Files: conversion, scores and reports."""

from __future__ import annotations

from pathlib import Path

from mrihvae.cli.options.common import KEY, LOG_JSON, MAX_MEMORY, OUTPUT, QUIET, UNCENTERED
from mrihvae.cli.sections import INPUT, RESULTS, Options
from mrihvae.data.scan import TARGETS

CONVERTED = ("h5", "nii", "mrd", "cfl", "npy", "png", "dcm")


class Convert(Options):
    """convert k-space and images: fastMRI HDF5, NIfTI, DICOM, MRD, BART, NumPy, PNG

    The suffix of OUT chooses the format. K-space: fastMRI HDF5 (.h5), BART (.cfl), NumPy (.npy with .json). Images:
    NIfTI (.nii, .nii.gz), MRD images (.mrd), PNG (.png), DICOM (a folder, with --format dcm; or .dcm, one slice), .h5,
    .cfl, .npy. A folder is converted file by file. An uncertainty map goes into the same file or folder, or into
    NAME_uncertainty beside it.

    Examples:
      mrihvae convert scan.h5 scan.cfl
      mrihvae convert out/reconstructions/scan.h5 scan.nii.gz
      mrihvae convert result.h5 dicom/ --format dcm --like original/
      mrihvae convert stored.h5 nifti/ --format nii --contrast 0
    """

    input: Path = INPUT("k-space, a reconstruction, MRD images, NIfTI, DICOM, or a folder", name="IN", positional=True)
    output: Path = RESULTS("file or folder to write", name="OUT", positional=True)
    format: str | None = RESULTS("format to write", None, "from the suffix of OUT", choices=CONVERTED)
    slice: int | None = INPUT("write this slice only, counted from 0", None, "all slices")
    dataset: str | None = INPUT(
        "dataset of IN, or series by its number or UID", None, "the reconstruction", alias="--series"
    )
    contrast: int | None = INPUT("ISMRMRD: convert this contrast only", None, "all")
    repetition: int | None = INPUT("ISMRMRD: convert this repetition only", None, "all")
    like: Path | None = INPUT(
        "copy the geometry from this NIfTI file, or geometry, patient and study from this folder of DICOM",
        None,
        "those of IN",
    )
    key: str | None = KEY()
    uncentered: bool = UNCENTERED()
    max_memory: float | None = MAX_MEMORY()
    images: bool = INPUT("write images of fully sampled k-space, if OUT could hold either", False)
    overwrite: bool = RESULTS("replace files that are already there", False)
    log_json: Path | None = LOG_JSON()
    resume: bool = RESULTS("resume an interrupted run: write only missing files", False)


class Evaluate(Options):
    """score reconstructions with fastMRI's metrics

    It prints NMSE, PSNR and SSIM of every volume, and the means.

    Examples:
      mrihvae evaluate --target-path full/ --predictions-path out/reconstructions \
          --challenge singlecoil --csv scores.csv
      mrihvae evaluate --target-path full/ --predictions-path out/reconstructions \
          --challenge multicoil --acceleration 4
    """

    target_path: Path = INPUT("fastMRI HDF5 file with the reference images, or a folder of them")
    predictions_path: Path = INPUT("reconstruction of the same name, or the folder of them")
    challenge: str = INPUT(
        "kind of the target: reconstruction_esc (singlecoil) or reconstruction_rss (multicoil)", choices=tuple(TARGETS)
    )
    acquisition: str | None = INPUT("score only volumes of this acquisition", None, "all")
    acceleration: float | None = INPUT("score only volumes of this acceleration", None, "all")
    json: Path | None = RESULTS("also write all scores to this JSON file", None, "no file")
    csv: Path | None = RESULTS("also write a table to this CSV file, one row per volume", None, "no file")
    quiet: bool = QUIET()


class Report(Options):
    """make one HTML page of a run: scores, slices, settings

    The page needs no network connection: open it in any browser, send it, or print it. It shows scores and quality by
    slice if the scans have references, and warnings, times, bounds and uncertainty if the results have them.

    Examples:
      mrihvae report out/
      mrihvae report out/ --slices 4 --title Knee --output knee.html
    """

    folder: Path = INPUT(
        "results: the --output folder of 'mrihvae reconstruct' or 'mrihvae run'", name="DIR", positional=True
    )
    data: Path | None = INPUT("folder with the scans, matched by file name", None, "where they were read from")
    output: Path | None = OUTPUT("HTML file to write", None, "DIR/report.html")
    title: str | None = RESULTS("heading of the report", None, "the protocol or method")
    slices: int | None = RESULTS("show at most this many slices of a volume, evenly spaced", None, "all")
    quiet: bool = QUIET()
