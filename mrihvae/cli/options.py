"""What users type: the options of each command, in the order in which `mrihvae --help` lists them.

A class is a command. The first line of its docstring is the command's summary; the rest is printed below its options.
No torch is loaded to show them.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Literal

from mrihvae.cli.sections import COILS, DEGRADATION, EXPERT, FILES, METHOD, SAMPLES, SAMPLING, SEVERAL, Options
from mrihvae.coils.settings import MAPS, OUTPUTS, CoilSettings
from mrihvae.data.scan import TARGETS
from mrihvae.inference.settings import ANCHORS, COMBINATIONS, RULES, InferenceSettings, RefinementSettings
from mrihvae.io.formats import KSPACE_FORMATS
from mrihvae.physics.sampling import LINE_TYPES, PATTERNS
from mrihvae.pnp.recommended import TASKS
from mrihvae.pnp.settings import ENCODERS, FOR_SCANS, RESULTS, PnPSettings
from mrihvae.recon.settings import METHODS
from mrihvae.server.request import PIXELS, Request
from mrihvae.simulation.settings import FIELDS, ScannerSettings
from mrihvae.utils.precision import PRECISIONS

AXES = {"W": -1, "H": -2}
BOUNDARIES = ("periodic", "zero")
CONVERTED = ("h5", "nii", "mrd", "cfl", "npy", "png", "dcm")
CHALLENGES = {  # as fastMRI's own inference scripts call them, and the number of coils
    "singlecoil": 1, "multicoil": 2, "unet_knee_sc": 1, "unet_knee_mc": 2, "unet_brain_mc": 2, "varnet_knee_mc": 2,
    "varnet_brain_mc": 2,
}  # fmt: skip

BATCH_SIZE = partial(METHOD, "coil images reconstructed together; lower it to save memory")
CHECKPOINT = partial(METHOD, "name of shipped weights, or a .safetensors file")
DEVICE = partial(METHOD, "cpu, cuda, cuda:1, ...")
PIXEL_TYPE = partial(METHOD, "type of pixels, where the scan requests none", choices=PIXELS)
PRECISION = partial(METHOD, "precision of the network; auto takes bfloat16 where that is faster", choices=PRECISIONS)
PROTOCOL = partial(METHOD, "how to reconstruct: a protocol's name or file", None, "the usual way")
RESUME = partial(FILES, "resume an interrupted run: skip what is in --output already", False)
TUNED: dict[str, Any] = {"default": None, "shown": "tuned for task and noise"}


class Demo(Options):
    """reconstruct a real undersampled scan that comes with the package, beside two baselines

    Example:
      mrihvae demo --acceleration 6
    """

    output: Path = FILES("folder for pictures and results", Path("mrihvae-demo"))
    acceleration: int = SAMPLING("nominal acceleration of the random mask", 4)
    checkpoint: str = CHECKPOINT("default")


class Reconstruct(Options):
    """reconstruct undersampled scans in files of fastMRI, ISMRMRD (MRD), Siemens (TWIX), BART or NumPy

    Examples:
      mrihvae reconstruct scan.h5 --output out/
      mrihvae reconstruct full/ --output out/ --mask-type random --samples 8
    """

    input: Path | None = FILES(f"{KSPACE_FORMATS}; or a folder of them", None, positional=True)
    data_path: Path | None = FILES("INPUT, as fastMRI's scripts call it", None, alias="--data_path")
    output: Path = FILES("folder for the results", alias=("--output_path", "--output-path"))
    challenge: str | None = FILES("refuse files of the other kind", None, choices=tuple(CHALLENGES))
    format: str = FILES("write images in this form, too: NIfTI or DICOM", "h5", choices=("h5", "nii", "dcm"))
    resume: bool = RESUME()

    mask_type: str | None = SAMPLING("undersample fully sampled scans", None, "the file's mask", choices=PATTERNS)
    acceleration: float = SAMPLING("nominal acceleration of --mask-type", 4)
    center_fraction: float | None = SAMPLING("fraction of an axis acquired around DC", None, "0.32 / acceleration")
    axis: str | None = SAMPLING("axis along which lines of --mask-type differ", None, "W", choices=tuple(AXES))

    method: str = METHOD("how to reconstruct", "hybrid", choices=METHODS)
    checkpoint: str | None = CHECKPOINT(
        None, "chosen by the number of coils", alias=("--state_dict_file", "--state-dict-file")
    )
    strength: float | None = METHOD("regularization of sense, wavelet and tv", None, "tuned")
    device: str = DEVICE("cpu")
    batch_size: int = BATCH_SIZE(8)
    precision: str = PRECISION(InferenceSettings.precision)

    samples: int | None = SAMPLES("number of posterior samples; writes their mean and uncertainty (SD)", None, "0")
    keep_samples: bool = SAMPLES("write the samples, too", False)
    temperature: float | None = SAMPLES.setting(
        InferenceSettings, "temperature", default=None, shown="as tuned with the weights"
    )

    maps: str = COILS.setting(CoilSettings, "maps", choices=MAPS)
    refine_maps: int = COILS.setting(CoilSettings, "refine_maps")
    virtual_coils: int | None = COILS.setting(CoilSettings, "compress", shown="as many as keep all but the noise")
    whiten: bool | None = COILS.setting(CoilSettings, "whiten", shown="with a noise scan", negative="--no-whiten")
    combine_coils: str = COILS.setting(CoilSettings, "output", choices=OUTPUTS)

    views: int = EXPERT.setting(InferenceSettings, "views", "hybrid: ")
    rounds: int = EXPERT.setting(InferenceSettings, "rounds", "hybrid: ")
    sweeps: int | None = EXPERT.setting(
        RefinementSettings, "sweeps", "hybrid: ", default=None, shown="1, or 0 with --samples"
    )
    rule: str = EXPERT.setting(RefinementSettings, "rule", "hybrid: ", choices=RULES)
    step: float | None = EXPERT.setting(RefinementSettings, "step", "hybrid: ", shown="tuned")
    anchor: str = EXPERT.setting(RefinementSettings, "anchor", "hybrid: ", choices=ANCHORS)
    combine: str = EXPERT.setting(InferenceSettings, "combine", "hybrid: ", choices=COMBINATIONS)
    iterations: int = EXPERT.setting(FOR_SCANS, "iterations", "pnp: ")
    gamma: float = EXPERT.setting(FOR_SCANS, "gamma", "pnp: ")
    tau: float = EXPERT.setting(FOR_SCANS, "tau", "pnp: ")
    encoder: str = EXPERT.setting(FOR_SCANS, "encoder", "pnp: ", choices=ENCODERS)


class Restore(Options):
    """image restoration: deblur, superresolve, inpaint or denoise images (NIfTI, PNG, DICOM)

    Examples:
      mrihvae restore blurred.nii.gz --task deblur --kernel-width 1.5 --output out/
      mrihvae restore photos/ --task superresolve --factor 2 --output out/
    """

    input: Path = FILES("NIfTI file, gray PNG, JPEG or TIFF, DICOM, or a folder of them", positional=True)
    task: str = METHOD("what is wrong with the images", choices=TASKS)
    output: Path = FILES("folder for restored images, panels/ and restore.json")
    series: str | None = FILES("number or UID of the DICOM series to take, where there are several", None)
    kernel_width: tuple[float, ...] | None = DEGRADATION(
        "standard deviation of a Gaussian blur, in pixels of the result; or two, along and across",
        None, "superresolve: 0.4 x factor", **SEVERAL,
    )  # fmt: skip
    kernel_angle: float | None = DEGRADATION("angle of two widths, in degrees from axis 2 to axis 1", None, "0")
    kernel: Path | None = DEGRADATION("blur as a 2D .npy array or a picture, of odd sizes, not --kernel-width", None)
    boundary: str | None = DEGRADATION("what is beyond the edge (deblur)", None, "periodic", choices=BOUNDARIES)
    factor: Literal[2, 4] | None = DEGRADATION("how many times finer the result is, along H and W (superresolve)", None)
    mask: Path | None = DEGRADATION("image, not 0 where pixels are known, for all slices or for each (inpaint)", None)
    missing: float | None = DEGRADATION("value of pixels that are not known, such as 0 or nan (inpaint)", None)
    noise: float | None = DEGRADATION("standard deviation, in the image's unit", None, "estimated for each volume")
    checkpoint: str = CHECKPOINT("restoration")
    device: str = DEVICE("cpu")
    batch_size: int = METHOD("slices restored together; lower it to save memory", 4)
    iterations: int | None = EXPERT.setting(PnPSettings, "iterations", **TUNED)
    gamma: float | None = EXPERT.setting(PnPSettings, "gamma", **TUNED)
    tau: tuple[float, ...] | None = EXPERT.setting(PnPSettings, "tau", **TUNED, **SEVERAL)
    tau_finest: float | None = EXPERT.setting(PnPSettings, "tau_finest", shown="--tau")
    relaxation: float | None = EXPERT.setting(PnPSettings, "relaxation", **TUNED)
    views: int | None = EXPERT.setting(PnPSettings, "views", **TUNED)
    encoder: str | None = EXPERT.setting(PnPSettings, "encoder", default=None, shown="data", choices=ENCODERS)
    result: str | None = EXPERT.setting(PnPSettings, "result", **TUNED, choices=RESULTS)
    tolerance: float | None = EXPERT.setting(PnPSettings, "tolerance", default=None, shown="0")
    patience: int | None = EXPERT.setting(PnPSettings, "patience", default=None, shown="0")
    precision: str = PRECISION("auto")
    resume: bool = RESUME()


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


class Convert(Options):
    """convert k-space and images: fastMRI HDF5, NIfTI, DICOM, MRD, BART, NumPy, PNG

    K-space: fastMRI HDF5 (.h5), BART (.cfl), NumPy (.npy with .json). Images: NIfTI (.nii, .nii.gz), MRD images (.mrd),
    PNG (.png), DICOM (--format dcm, a folder; or .dcm, one slice), .h5, .cfl, .npy. Folders are converted file by file.

    Examples:
      mrihvae convert scan.h5 scan.cfl
      mrihvae convert out/reconstructions/scan.h5 scan.nii.gz
      mrihvae convert result.h5 dicom/ --format dcm --like original/
    """

    input: Path = FILES("k-space, a reconstruction, MRD images, NIfTI, DICOM, or a folder", name="IN", positional=True)
    output: Path = FILES("file or folder to write; its suffix is the format", name="OUT", positional=True)
    format: str | None = FILES("format to write", None, "suffix of OUT", choices=CONVERTED)
    slice: int | None = FILES("write one slice of the images, from 0 on", None, "all")
    dataset: str | None = FILES("a dataset, or a series by number or UID", None, "the reconstruction", alias="--series")
    like: Path | None = FILES("take geometry, and of DICOM patient and study, from this NIfTI file or folder", None)
    images: bool = FILES("write images of fully sampled k-space where OUT could be both", False)


class Report(Options):
    """make one HTML page of a run: scores, slices, settings

    Example:
      mrihvae report out/ --slices 4
    """

    folder: Path = FILES("--output of 'mrihvae run' or 'mrihvae reconstruct'", name="DIR", positional=True)
    data: Path | None = FILES("folder with the scans, matched by file name", None, "where they were")
    output: Path | None = FILES("HTML file to write", None, "DIR/report.html")
    title: str | None = FILES("heading of the report", None, "what was run")
    slices: int | None = FILES("pictures of at most this many slices of a volume, evenly spaced", None, "all")


class Serve(Options):
    """reconstruct scans as a scanner sends them over TCP (MRD)

    Example:
      mrihvae serve --host 0.0.0.0 --device cuda
    """

    host: str = FILES("address to listen on; 0.0.0.0 for all, without protection", "127.0.0.1")
    port: int = FILES("port to listen on; 0 for one that is free", 9002)
    protocol: str | None = PROTOCOL()
    pixels: str = PIXEL_TYPE(Request.pixels)
    max_connections: int = EXPERT("scans at once; further ones wait", 4)
    max_memory: float = EXPERT("GiB of k-space that are held of a scan at most", 8.0)
    timeout: float = EXPERT("seconds within which a client must send its next message", 300.0)
    device: str = DEVICE("cpu")


class Filter(Options):
    """reconstruct a scan from standard input to standard output (MRD)

    Example:
      mrihvae filter --pixels short < scan.bin > images.bin
    """

    protocol: str | None = PROTOCOL()
    pixels: str = PIXEL_TYPE(Request.pixels)
    device: str = DEVICE("cpu")


class Protocols(Options):
    """list the protocols that come with the package

    Example:
      mrihvae protocols fastmri_knee_singlecoil_4x > own.toml
    """

    name: str | None = FILES("print the file of this protocol, to change it and run the copy", None, positional=True)


class Run(Options):
    """run a protocol: reconstruct, evaluate, tabulate, draw

    Example:
      mrihvae run fastmri_knee_singlecoil_4x --data data/ --output out/ --limit 2
    """

    protocol: str = FILES("name, as 'mrihvae protocols' lists them, or a TOML file", positional=True)
    data: Path = FILES("data directory, or the protocol's folder itself")
    output: Path = FILES("folder for reconstructions/, panels/, scores.md and run.json")
    device: str = DEVICE("cpu")
    batch_size: int = BATCH_SIZE(8)
    limit: int | None = FILES("only the first N files, to try it", None, "all", metavar="N")
    resume: bool = RESUME()


class Sample(Options):
    """draw images from the prior, without any data

    Example:
      mrihvae sample --output samples/ --samples 16 --size 160 160
    """

    output: Path = FILES("folder for samples.h5, samples.png and bands.png")
    checkpoint: str = CHECKPOINT("default")
    samples: int = METHOD("number of images", 8)
    size: tuple[int, int] = METHOD("size of the images", (128, 128), metavar="H W")
    temperature: float = METHOD("factor on the prior's standard deviations; 0 for its means", 1.0)
    seed: int = METHOD("equal seeds give equal images", 0)
    precision: str = PRECISION("auto")


class Simulate(Options):
    """simulate fastMRI scans of one or several coils from images

    OUTPUT/multicoil_val/NAME.h5 (singlecoil_val for one coil) are fully sampled scans: kspace, complex64 (slices,
    coils, H, W), or (slices, H, W) of one coil; the target reconstruction_rss, or reconstruction_esc of one coil, with
    the scan's noise; ismrmrd_header; the attributes acquisition, patient_id, max, norm, and noise, the standard
    deviation per complex sample in each slice. With --acceleration or --mask-type, OUTPUT/multicoil_test/NAME.h5
    (singlecoil_test) are the same scans undersampled: kspace with zeros in place of what was not acquired, mask (W,),
    the attributes acceleration and num_low_frequency, and no target. Every NIfTI volume becomes a file, of its slices
    with an object in them, and so do 10 pictures.

    Examples:
      mrihvae simulate images/ --output scans/ --coils 8 --acceleration 4
      mrihvae simulate brain.nii.gz --output scans/ --noise 0.02
    """

    images: Path = FILES("folder of NIfTI volumes, JPEG or PNG pictures, or one of them", positional=True)
    output: Path = FILES("folder for multicoil_val/ and multicoil_test/, or singlecoil_...")
    coils: int = COILS.setting(ScannerSettings, "coils")
    fields: str | None = COILS.setting(ScannerSettings, "fields", default=None, shown="birdcage", choices=FIELDS)
    matrix: int = METHOD.setting(ScannerSettings, "matrix")
    noise: float = METHOD.setting(ScannerSettings, "noise")
    noise_correlation: float | None = COILS.setting(ScannerSettings, "noise_correlation", shown="no noise scan")
    keep_maps: bool = FILES("write the true sensitivity_maps, complex64 (1, coils, H, W), root-sum-of-squares 1", False)
    every: int = FILES("take every N-th slice with an object in it, or every N-th picture", 1, metavar="N")
    limit: int | None = FILES("write at most N scans, spread evenly over the folder", None, "all", metavar="N")
    mask_type: str | None = SAMPLING(
        "write undersampled scans, too, with these masks, seeded by the file's name as fastMRI does",
        None, "random if --acceleration is given", choices=LINE_TYPES,
    )  # fmt: skip
    acceleration: float | None = SAMPLING("nominal acceleration of the masks", None, "4 if --mask-type is given")
    center_fraction: float | None = SAMPLING("fraction of W acquired around DC", None, "0.32 / acceleration")
    seed: int = METHOD.setting(ScannerSettings, "seed")


class Train(Options):
    """train a model from raw k-space and magnitude images

    Examples:
      mrihvae train knee/ brain/=2 --output run/ --minutes 60
      mrihvae train --output run/ --resume
    """

    data: tuple[str, ...] = FILES(
        "fastMRI HDF5, NIfTI, DICOM, PNG, JPEG, folders of them; for real images CIFAR10's .bin or MNIST-like IDX",
        (), "the folders of --protocol", name="PATH[=WEIGHT]", positional=True,
    )  # fmt: skip
    protocol: str | None = FILES(
        "data, settings and weights to start from: a training protocol, as 'mrihvae protocols' lists them, with "
        "'train_' in front or without, or a TOML file; a resumed run keeps its settings", None, metavar="NAME",
    )  # fmt: skip
    root: Path | None = FILES("data directory of --protocol", None, name="--data", metavar="DIR")
    output: Path = FILES("folder for checkpoint, weights, log and plot")
    resume: bool = FILES("resume the run in --output exactly where it stopped", False)
    settings: Path | None = METHOD('JSON with any of "model", "training", "simulation"', None)
    weights: str | None = METHOD("start from these: a name of shipped weights, or a .safetensors file", None)
    guess_weights: str | None = METHOD("start the U-Nets of the first guess from these", None, metavar="WEIGHTS")
    go_on: str | None = METHOD("resume the run of these weights, whose checkpoint is lost", None, metavar="WEIGHTS")
    steps: int | None = METHOD("steps of the whole run; also when resuming", None, "as the settings have it")
    minutes: float | None = METHOD("stop, with a checkpoint, after this long", None, "after all steps")
    checkpoint_seconds: float = EXPERT("time between checkpoints", 240.0)
    threads: int = EXPERT("CPU threads per process", 1)
    workers: int = EXPERT("processes that draw batches ahead; for a GPU", 0)
    stream: bool | None = EXPERT(
        "read slices when they are drawn, so that memory does not grow with the data",
        None, "where they would take more than 1 GB of it", negative="--no-stream",
    )  # fmt: skip
    cache_megabytes: float = EXPERT("memory for slices that are read so, in each process", 512.0)
    validation: tuple[str, ...] | None = FILES(
        "score the weights on scans made from these, one set each, every 'validate_every' steps (500 if the settings "
        "say nothing), into validation.jsonl", None, metavar="PATH...", **SEVERAL,
    )  # fmt: skip
    device: str = DEVICE("cpu")


COMMANDS = {command.__name__.lower(): command for command in Options.__subclasses__()}
