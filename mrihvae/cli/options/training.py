"""Options of commands. Training, and scans for it."""

from __future__ import annotations

from pathlib import Path

from mrihvae.cli.options.common import CHECKPOINT, DEVICE, KEY, OUTPUT, OVERWRITE, QUIET, UNCENTERED
from mrihvae.cli.sections import COILS, EXPERT, INPUT, METHOD, RESULTS, SAMPLES, SAMPLING, SEVERAL, Options
from mrihvae.io.formats import KSPACE_FORMATS
from mrihvae.physics.sampling import LINE_TYPES, PATTERNS
from mrihvae.simulation.settings import FIELDS, ScannerSettings
from mrihvae.training.adapt_settings import AdaptSettings


class Train(Options):
    """train weights on raw k-space and magnitude images

    WEIGHT is the share of a PATH among all data, 1 by default. OUTPUT gets the weights, a checkpoint to resume from, a
    log with a line for every step (log.jsonl), and curves of the losses (training.png).

    Examples:
      mrihvae train knee/ brain/=2 --output run/ --minutes 60
      mrihvae train knee/ brain/=2 --output run/ --resume
      mrihvae train --protocol knee_multicoil --data fastmri/ --output run/ --device cuda
    """

    data: tuple[str, ...] = INPUT(
        "fully sampled k-space in any format, NIfTI, DICOM, PNG or JPEG files, or folders of them; for models of real "
        "images, CIFAR10's .bin or IDX",
        (), "the folders of --protocol", name="PATH[=WEIGHT]", positional=True,
    )  # fmt: skip
    protocol: str | None = INPUT(
        "training protocol, which fixes data, settings and first weights: a name that 'mrihvae protocols' lists, or a "
        "TOML file", None, "no protocol", metavar="NAME",
    )  # fmt: skip
    root: Path | None = INPUT("folder with the data of --protocol", None, "none", name="--data", metavar="DIR")
    output: Path = OUTPUT("folder for weights, checkpoint, log and curves")
    resume: bool = RESULTS(
        "resume the run in --output exactly where it stopped, with its settings; under torchrun, also start a new run",
        False,
    )
    settings: Path | None = METHOD(
        'JSON file with settings, in sections "model", "training" and "simulation"', None, "default settings"
    )
    weights: str | None = METHOD(
        "start from these weights: the name of shipped ones, or a .safetensors file", None, "random weights"
    )
    guess_weights: str | None = METHOD(
        "start the U-Nets of the first guess from these weights", None, "random weights", metavar="WEIGHTS"
    )
    go_on: str | None = METHOD(
        "continue the run of these weights if its checkpoint is lost", None, "none", metavar="WEIGHTS"
    )
    steps: int | None = METHOD(
        "number of steps of the whole run; may change when resuming", None, "that of the settings"
    )
    accumulate: int | None = METHOD(
        "micro-batches per step, shared evenly by processes; may change when resuming", None, "that of the settings"
    )
    minutes: float | None = METHOD("stop after this many minutes, with a checkpoint", None, "no limit")
    checkpoint_seconds: float = EXPERT("seconds between checkpoints", 240.0)
    threads: int = EXPERT("CPU threads of each process", 1)
    workers: int = EXPERT("number of processes that prepare batches ahead of a GPU", 0)
    stream: bool | None = EXPERT(
        "read slices when they are needed, so that memory does not grow with the data",
        None, "for more than 1 GB of data", negative="--no-stream",
    )  # fmt: skip
    cache_megabytes: float = EXPERT("memory for slices of --stream, in MB per process", 512.0)
    validation: tuple[str, ...] | None = INPUT(
        "score the weights on scans made from these, one set per PATH, every 'validate_every' steps (500 unless the "
        "settings say otherwise), in validation.jsonl", None, "no scores", metavar="PATH...", **SEVERAL,
    )  # fmt: skip
    device: str = DEVICE("cpu")
    quiet: bool = QUIET()


class Adapt(Options):
    """adapt weights to your own undersampled scans; no fully sampled ones are needed

    Training holds out some acquired lines and learns to predict them; the prior does not change. Other lines are never
    used for training: they select the best weights, or the starting weights if none are better.

    Examples:
      mrihvae adapt scans/ --output site/
      mrihvae adapt scans/ --output site/ --minutes 30 --resume
    """

    scans: tuple[str, ...] = INPUT(
        f"undersampled scans: {KSPACE_FORMATS}; or folders of them", (), name="SCANS", positional=True
    )
    output: Path = OUTPUT("folder for checkpoint, weights and log")
    resume: bool = RESULTS("resume the run in --output exactly where it stopped, with the same SCANS", False)
    key: str | None = KEY()
    uncentered: bool = UNCENTERED()
    checkpoint: str | None = CHECKPOINT(None, "chosen by the number of coils")
    minutes: float = METHOD("stop after this many minutes, with a checkpoint", 10.0)
    steps: int | None = METHOD.setting(AdaptSettings, "steps", unset=True)
    slices: int = METHOD("use at most this many slices, spread evenly over all scans", 64)
    seed: int | None = METHOD.setting(AdaptSettings, "seed", unset=True)
    checkpoint_seconds: float = EXPERT("seconds between checkpoints", 60.0)
    threads: int | None = EXPERT("CPU threads", None, "all")
    device: str = DEVICE("cpu")
    quiet: bool = QUIET()


class Simulate(Options):
    """simulate single-coil or multi-coil fastMRI scans from images

    OUTPUT/multicoil_val/NAME.h5 (singlecoil_val for one coil) holds a fully sampled scan: kspace, complex64 (slices,
    coils, H, W), or (slices, H, W) for one coil; the target reconstruction_rss, or reconstruction_esc for one coil,
    with the noise of the scan; ismrmrd_header; and the attributes acquisition, patient_id, max, norm and noise, the
    standard deviation per complex sample in each slice.

    With --acceleration or --mask-type, OUTPUT/multicoil_test/NAME.h5 (singlecoil_test) holds the same scan
    undersampled: kspace with zeros where nothing was acquired, mask (W,), the attributes acceleration and
    num_low_frequency, and no target.

    Each NIfTI volume becomes one file, without empty slices. Every 10 pictures also become one file.

    Examples:
      mrihvae simulate images/ --output scans/ --coils 8 --acceleration 4
      mrihvae simulate brain.nii.gz --output scans/ --noise 0.02
    """

    images: Path = INPUT("a NIfTI volume, a JPEG or PNG picture, or a folder of them", positional=True)
    output: Path = OUTPUT("folder for multicoil_val/ and multicoil_test/, or singlecoil_...")
    coils: int = COILS.setting(ScannerSettings, "coils")
    fields: str | None = COILS.setting(ScannerSettings, "fields", default=None, shown="birdcage", choices=FIELDS)
    matrix: int = METHOD.setting(ScannerSettings, "matrix")
    noise: float = METHOD.setting(ScannerSettings, "noise")
    noise_correlation: float | None = COILS.setting(ScannerSettings, "noise_correlation", shown="no noise scan")
    keep_maps: bool = RESULTS(
        "also write the true sensitivity_maps, complex64 (1, coils, H, W) with a root-sum-of-squares of 1", False
    )
    every: int = INPUT("use every N-th slice that shows an object, or every N-th picture", 1, metavar="N")
    limit: int | None = INPUT("write at most N scans, spread evenly over the folder", None, "no limit", metavar="N")
    mask_type: str | None = SAMPLING(
        "also write undersampled scans, with masks seeded by the name of the file as in fastMRI",
        None, "random, with --acceleration", choices=LINE_TYPES,
    )  # fmt: skip
    acceleration: float | None = SAMPLING("nominal acceleration of the masks", None, "4, with --mask-type")
    center_fraction: float | None = SAMPLING(
        "fraction of the lines that are acquired around DC", None, "0.32 / acceleration"
    )
    seed: int = METHOD.setting(ScannerSettings, "seed")
    quiet: bool = QUIET()


class Calibrate(Options):
    """calibrate the uncertainty of weights, with fully sampled scans

    Without a calibration, 'mrihvae reconstruct --samples' gives an uncertainty that is not calibrated, and no bounds.

    Examples:
      mrihvae calibrate brain/ --checkpoint run/weights.safetensors
      mrihvae calibrate brain/ knee/ --checkpoint run/weights.safetensors --work work/
    """

    input: tuple[Path, ...] = INPUT(
        "fully sampled k-space with targets, from at least 14 subjects (attribute patient_id, or one file per subject)",
        name="SCANS", positional=True,
    )  # fmt: skip
    checkpoint: str = CHECKPOINT("default")
    output: Path | None = OUTPUT(
        "file for the calibration", None, "beside the weights, where mrihvae looks for it", metavar="FILE.json"
    )
    overwrite: bool = OVERWRITE()
    work: Path | None = INPUT("folder for measurements, from which an interrupted run can resume", None, "no folder")
    mask_type: str = SAMPLING("pattern of the masks", "random", choices=PATTERNS)
    acceleration: tuple[float, ...] = SAMPLING("nominal accelerations", (4.0, 8.0), **SEVERAL)
    samples: int = SAMPLES("number of posterior samples", 4)
    device: str = DEVICE("cpu")
    quiet: bool = QUIET()
