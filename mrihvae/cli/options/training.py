"""Options of commands. Training, and scans for it."""

from __future__ import annotations

from pathlib import Path

from mrihvae.cli.options.common import CHECKPOINT, DEVICE, KEY, OUTPUT, OVERWRITE, QUIET, UNCENTERED
from mrihvae.cli.sections import COILS, EXPERT, FILES, METHOD, SAMPLES, SAMPLING, SEVERAL, Options
from mrihvae.io.formats import KSPACE_FORMATS
from mrihvae.physics.sampling import LINE_TYPES, PATTERNS
from mrihvae.simulation.settings import FIELDS, ScannerSettings
from mrihvae.training.adapt_settings import AdaptSettings


class Train(Options):
    """train a model from raw k-space and magnitude images

    Examples:
      mrihvae train knee/ brain/=2 --output run/ --minutes 60
      mrihvae train knee/ brain/=2 --output run/ --resume
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
    output: Path = OUTPUT("folder for checkpoint, weights, log and plot")
    resume: bool = FILES(
        "resume the run in --output exactly where it stopped; under torchrun, start it if there is none", False
    )
    settings: Path | None = METHOD('JSON with any of "model", "training", "simulation"', None)
    weights: str | None = METHOD("start from these: a name of shipped weights, or a .safetensors file", None)
    guess_weights: str | None = METHOD("start the U-Nets of the first guess from these", None, metavar="WEIGHTS")
    go_on: str | None = METHOD("resume the run of these weights, whose checkpoint is lost", None, metavar="WEIGHTS")
    steps: int | None = METHOD("steps of the whole run; also when resuming", None, "as the settings have it")
    accumulate: int | None = METHOD(
        "micro-batches per step, which processes share evenly; also when resuming", None, "as the settings have it"
    )
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
    quiet: bool = QUIET()


class Adapt(Options):
    """adapt weights to a site by its own undersampled scans, without fully sampled ones

    Acquired lines are held out and predicted; the prior stays as it is. Further lines are never trained on: by these
    the best weights are chosen, and the start is kept where nothing is better.

    Example:
      mrihvae adapt scans/ --output site/
    """

    scans: tuple[str, ...] = FILES(
        f"undersampled scans: {KSPACE_FORMATS}; or folders of them", (), name="SCANS", positional=True
    )
    output: Path = OUTPUT("folder for checkpoint, weights and log")
    resume: bool = FILES("resume the run in --output exactly where it stopped; SCANS are the same", False)
    key: str | None = KEY()
    uncentered: bool = UNCENTERED()
    checkpoint: str | None = CHECKPOINT(None, "chosen by the number of coils")
    minutes: float = METHOD("stop, with a checkpoint, after this long", 10.0)
    steps: int | None = METHOD.setting(AdaptSettings, "steps", unset=True)
    slices: int = METHOD("use at most this many slices, evenly spread over all", 64)
    seed: int | None = METHOD.setting(AdaptSettings, "seed", unset=True)
    checkpoint_seconds: float = EXPERT("time between checkpoints", 60.0)
    threads: int | None = EXPERT("CPU threads", None, "all")
    device: str = DEVICE("cpu")
    quiet: bool = QUIET()


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
    output: Path = OUTPUT("folder for multicoil_val/ and multicoil_test/, or singlecoil_...")
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
    quiet: bool = QUIET()


class Calibrate(Options):
    """calibrate the uncertainty of weights on fully sampled scans

    Example:
      mrihvae calibrate brain/ knee/ --checkpoint run/weights.safetensors --work run/calibration
    """

    input: tuple[Path, ...] = FILES(
        "fully sampled k-space with targets, of at least 14 persons (attribute patient_id, or a file each), or folders",
        name="SCANS", positional=True,
    )  # fmt: skip
    checkpoint: str = CHECKPOINT("default")
    output: Path | None = OUTPUT(
        "where to write the calibration", None, "beside the weights, where it is found", metavar="FILE.json"
    )
    overwrite: bool = OVERWRITE()
    work: Path | None = FILES("folder of what was measured, from which another call resumes", None, "none")
    mask_type: str = SAMPLING("pattern of undersampling", "random", choices=PATTERNS)
    acceleration: tuple[float, ...] = SAMPLING("nominal accelerations", (4.0, 8.0), **SEVERAL)
    samples: int = SAMPLES("number of posterior samples", 4)
    device: str = DEVICE("cpu")
    quiet: bool = QUIET()
