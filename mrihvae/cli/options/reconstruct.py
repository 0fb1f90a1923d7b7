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
from mrihvae.cli.sections import COILS, EXPERT, INPUT, METHOD, RESULTS, SAMPLES, SAMPLING, Options
from mrihvae.coils.settings import MAPS, OUTPUTS, CoilSettings
from mrihvae.inference.settings import ANCHORS, COMBINATIONS, RULES, InferenceSettings, RefinementSettings
from mrihvae.io.formats import KSPACE_FORMATS
from mrihvae.physics.sampling import PATTERNS
from mrihvae.pnp.settings import ENCODERS, FOR_SCANS
from mrihvae.recon.settings import METHODS


class Demo(Options):
    """reconstruct real scans that come with the package, compare with two baselines, and write a report

    The scans are a head at 3 T with 16 coils and two heads at 0.055 T, undersampled with random masks. The demo prints
    PSNR and SSIM as fastMRI defines them, and seconds. It takes a minute or two, and needs no network connection.

    Examples:
      mrihvae demo
      mrihvae demo --acceleration 6 --output demo6/
    """

    output: Path = OUTPUT("folder for comparison/, reconstructions/, panels/ and report.html", Path("mrihvae-demo"))
    acceleration: int = SAMPLING("nominal acceleration of the random masks", 4)
    checkpoint: str | None = CHECKPOINT(None, "chosen by the number of coils")


class Reconstruct(Options):
    """reconstruct undersampled scans: fastMRI, ISMRMRD (MRD), Siemens (TWIX), BART, MATLAB or NumPy

    Multi-coil scans need no option. The images are written to OUTPUT/reconstructions, a picture of each volume to
    OUTPUT/panels, and settings and times to OUTPUT/reconstruct.json.

    Examples:
      mrihvae reconstruct scan.h5 --output out/
      mrihvae reconstruct scans/ --output out/ --samples 16
      mrihvae reconstruct full/ --output out/ --mask-type random --acceleration 4
    """

    input: Path | None = INPUT(f"{KSPACE_FORMATS}; or a folder of them", None, positional=True)
    data_path: Path | None = INPUT(
        "another name for INPUT, as in fastMRI's scripts", None, "INPUT", alias="--data_path"
    )
    output: Path = RESULTS("folder for the results", alias=("-o", "--output_path", "--output-path"))
    challenge: str | None = INPUT(
        "accept only single-coil or only multi-coil files", None, "both kinds", choices=tuple(CHALLENGES)
    )
    key: str | None = KEY()
    uncentered: bool = UNCENTERED()
    format: str = RESULTS(
        "format of the images; HDF5 is always written, nii or dcm in addition", "h5", choices=("h5", "nii", "dcm")
    )
    resume: bool = RESUME()
    overwrite: bool = OVERWRITE()
    verbose: bool = VERBOSE()
    quiet: bool = QUIET()
    max_memory: float | None = MAX_MEMORY()
    log_json: Path | None = LOG_JSON()

    mask_type: str | None = SAMPLING(
        "mask pattern, to undersample fully sampled scans", None, "the mask of the file", choices=PATTERNS
    )
    acceleration: float | None = SAMPLING("nominal acceleration of --mask-type", None, "4")
    center_fraction: float | None = SAMPLING(
        "fraction of the lines of --mask-type that are acquired around DC", None, "0.32 / acceleration"
    )
    axis: str | None = SAMPLING("axis along which --mask-type leaves out lines", None, "W", choices=tuple(AXES))

    method: str = METHOD(
        "how to reconstruct; sense, wavelet, tv and zero-filled use no network", "hybrid", choices=METHODS
    )
    checkpoint: str | None = CHECKPOINT(
        None, "chosen by the number of coils", alias=("--state_dict_file", "--state-dict-file")
    )
    strength: float | None = METHOD("regularization strength of sense, wavelet and tv", None, "tuned")
    device: str = DEVICE("cpu")
    batch_size: int = BATCH_SIZE(8)
    precision: str | None = PRECISION(None, InferenceSettings.precision)

    samples: int | None = SAMPLES(
        "number of posterior samples; adds a map of the uncertainty (SD), and bounds of PSNR and SSIM",
        None,
        "no samples",
    )
    keep_samples: bool = SAMPLES("also write the samples themselves", False)
    seed: int | None = SAMPLES("random seed; equal seeds give equal samples", None, "0")
    temperature: float | None = SAMPLES.setting(
        InferenceSettings, "temperature", default=None, shown="as tuned with the weights"
    )

    maps: str | None = COILS.setting(CoilSettings, "maps", unset=True, choices=MAPS)
    refine_maps: int | None = COILS.setting(CoilSettings, "refine_maps", unset=True)
    virtual_coils: int | None = COILS.setting(CoilSettings, "compress", shown="all but those of noise")
    whiten: bool | None = COILS.setting(
        CoilSettings, "whiten", shown="if there is a noise scan", negative="--no-whiten"
    )
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
    """run an evaluation protocol: reconstruct its scans, score them, and write tables and pictures

    A protocol fixes data, masks, seeds, weights and metrics. 'mrihvae protocols' lists those of the package.

    Examples:
      mrihvae run fastmri_knee_singlecoil_4x --data data/ --output out/ --limit 2
      mrihvae run own.toml --data data/ --output out/ --resume
    """

    protocol: str = INPUT("name of a protocol, or a TOML file", positional=True)
    data: Path = INPUT("folder with the data, or the protocol's own folder in it")
    key: str | None = KEY()
    uncentered: bool = UNCENTERED()
    output: Path = OUTPUT("folder for reconstructions/, panels/, scores.md and run.json")
    device: str = DEVICE("cpu")
    batch_size: int = BATCH_SIZE(8)
    limit: int | None = INPUT("reconstruct only the first N files, as a trial", None, "all files", metavar="N")
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
    """list the protocols that come with the package, or print one

    Examples:
      mrihvae protocols
      mrihvae protocols fastmri_knee_singlecoil_4x > own.toml
    """

    name: str | None = INPUT("print this protocol, for example to edit a copy", None, "list all", positional=True)
