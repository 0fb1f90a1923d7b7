"""Options of commands. Reconstructing scans."""

from __future__ import annotations

from pathlib import Path

from mrihvae.cli.options.common import (
    AXES,
    BATCH_SIZE,
    CHALLENGES,
    CHECKPOINT,
    DEVICE,
    KEY,
    LOG_JSON,
    MAX_MEMORY,
    OUTPUT,
    OVERWRITE,
    PRECISION,
    QUIET,
    RESUME,
    SCHEDULER,
    THREADS,
    UNCENTERED,
    VERBOSE,
    WORKER_MEMORY,
    WORKERS_COUNT,
)
from mrihvae.cli.sections import COILS, EXPERT, FILES, METHOD, SAMPLES, SAMPLING, Options
from mrihvae.coils.settings import MAPS, OUTPUTS, CoilSettings
from mrihvae.inference.settings import ANCHORS, COMBINATIONS, RULES, InferenceSettings, RefinementSettings
from mrihvae.io.formats import KSPACE_FORMATS
from mrihvae.physics.sampling import PATTERNS
from mrihvae.pnp.settings import ENCODERS, FOR_SCANS
from mrihvae.recon.settings import METHODS


class Demo(Options):
    """reconstruct real scans that come with the package, beside two baselines, and write a report

    A head at 3 T with 16 coils and two heads at 0.055 T are undersampled by random masks. The demo prints PSNR and SSIM
    as fastMRI defines them, and seconds. It needs no network connection.

    Examples:
      mrihvae demo
      mrihvae demo --acceleration 6 --output demo6/
    """

    output: Path = OUTPUT("folder for comparison/, reconstructions/, panels/ and report.html", Path("mrihvae-demo"))
    acceleration: int = SAMPLING("nominal acceleration of the random masks", 4)
    checkpoint: str | None = CHECKPOINT(None, "chosen by the number of coils")


class Reconstruct(Options):
    """reconstruct undersampled scans in files of fastMRI, ISMRMRD (MRD), Siemens (TWIX), BART, MATLAB or NumPy

    Examples:
      mrihvae reconstruct scan.h5 --output out/
      mrihvae reconstruct full/ --output out/ --mask-type random --samples 8
    """

    input: Path | None = FILES(f"{KSPACE_FORMATS}; or a folder of them", None, positional=True)
    data_path: Path | None = FILES("INPUT, as fastMRI's scripts call it", None, alias="--data_path")
    output: Path = FILES("folder for the results", alias=("-o", "--output_path", "--output-path"))
    challenge: str | None = FILES("refuse files of the other kind", None, choices=tuple(CHALLENGES))
    key: str | None = KEY()
    uncentered: bool = UNCENTERED()
    format: str = FILES("write images in this form, too: NIfTI or DICOM", "h5", choices=("h5", "nii", "dcm"))
    resume: bool = RESUME()
    overwrite: bool = OVERWRITE()
    verbose: bool = VERBOSE()
    quiet: bool = QUIET()
    max_memory: float | None = MAX_MEMORY()
    log_json: Path | None = LOG_JSON()

    mask_type: str | None = SAMPLING("undersample fully sampled scans", None, "the file's mask", choices=PATTERNS)
    acceleration: float | None = SAMPLING("nominal acceleration of --mask-type", None, "4")
    center_fraction: float | None = SAMPLING("fraction of an axis acquired around DC", None, "0.32 / acceleration")
    axis: str | None = SAMPLING("axis along which lines of --mask-type differ", None, "W", choices=tuple(AXES))

    method: str = METHOD("how to reconstruct", "hybrid", choices=METHODS)
    checkpoint: str | None = CHECKPOINT(
        None, "chosen by the number of coils", alias=("--state_dict_file", "--state-dict-file")
    )
    strength: float | None = METHOD("regularization of sense, wavelet and tv", None, "tuned")
    device: str = DEVICE("cpu")
    batch_size: int = BATCH_SIZE(8)
    precision: str | None = PRECISION(None, InferenceSettings.precision)

    samples: int | None = SAMPLES(
        "number of posterior samples, for the uncertainty (SD) of the image and bounds of PSNR and SSIM", None, "0"
    )
    keep_samples: bool = SAMPLES("write the samples, too", False)
    seed: int | None = SAMPLES("equal seeds give equal samples", None, "0")
    temperature: float | None = SAMPLES.setting(
        InferenceSettings, "temperature", default=None, shown="as tuned with the weights"
    )

    maps: str | None = COILS.setting(CoilSettings, "maps", unset=True, choices=MAPS)
    refine_maps: int | None = COILS.setting(CoilSettings, "refine_maps", unset=True)
    virtual_coils: int | None = COILS.setting(CoilSettings, "compress", shown="as many as keep all but the noise")
    whiten: bool | None = COILS.setting(CoilSettings, "whiten", shown="with a noise scan", negative="--no-whiten")
    combine_coils: str | None = COILS.setting(CoilSettings, "output", unset=True, choices=OUTPUTS)

    workers: int | None = WORKERS_COUNT()
    scheduler: str | None = SCHEDULER()
    threads_per_worker: int | None = THREADS()
    worker_memory: float | None = WORKER_MEMORY()

    views: int | None = EXPERT.setting(InferenceSettings, "views", "hybrid: ", unset=True)
    rounds: int | None = EXPERT.setting(InferenceSettings, "rounds", "hybrid: ", unset=True)
    sweeps: int | None = EXPERT.setting(
        RefinementSettings, "sweeps", "hybrid: ", default=None, shown="1, or 0 with --samples"
    )
    rule: str | None = EXPERT.setting(RefinementSettings, "rule", "hybrid: ", unset=True, choices=RULES)
    step: float | None = EXPERT.setting(RefinementSettings, "step", "hybrid: ", shown="tuned")
    anchor: str | None = EXPERT.setting(RefinementSettings, "anchor", "hybrid: ", unset=True, choices=ANCHORS)
    combine: str | None = EXPERT.setting(InferenceSettings, "combine", "hybrid: ", unset=True, choices=COMBINATIONS)
    tv_blend: bool | None = EXPERT.setting(
        InferenceSettings, "tv_blend", "hybrid: ", default=None, shown="--tv-blend", negative="--no-tv-blend"
    )
    iterations: int | None = EXPERT.setting(FOR_SCANS, "iterations", "pnp: ", unset=True)
    gamma: float | None = EXPERT.setting(FOR_SCANS, "gamma", "pnp: ", unset=True)
    tau: float | None = EXPERT.setting(FOR_SCANS, "tau", "pnp: ", unset=True)
    encoder: str | None = EXPERT.setting(FOR_SCANS, "encoder", "pnp: ", unset=True, choices=ENCODERS)


class Run(Options):
    """run a protocol: reconstruct, evaluate, tabulate, draw

    Example:
      mrihvae run fastmri_knee_singlecoil_4x --data data/ --output out/ --limit 2
    """

    protocol: str = FILES("name, as 'mrihvae protocols' lists them, or a TOML file", positional=True)
    data: Path = FILES("data directory, or the protocol's folder itself")
    key: str | None = KEY()
    uncentered: bool = UNCENTERED()
    output: Path = OUTPUT("folder for reconstructions/, panels/, scores.md and run.json")
    device: str = DEVICE("cpu")
    batch_size: int = BATCH_SIZE(8)
    limit: int | None = FILES("only the first N files, to try it", None, "all", metavar="N")
    resume: bool = RESUME()
    overwrite: bool = OVERWRITE()
    verbose: bool = VERBOSE()
    quiet: bool = QUIET()
    max_memory: float | None = MAX_MEMORY()
    log_json: Path | None = LOG_JSON()

    workers: int | None = WORKERS_COUNT()
    scheduler: str | None = SCHEDULER()
    threads_per_worker: int | None = THREADS()
    worker_memory: float | None = WORKER_MEMORY()


class Protocols(Options):
    """list the protocols that come with the package

    Example:
      mrihvae protocols fastmri_knee_singlecoil_4x > own.toml
    """

    name: str | None = FILES("print the file of this protocol, to change it and run the copy", None, positional=True)
