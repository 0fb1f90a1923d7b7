"""Options of commands. Images."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from mrihvae.cli.options.common import CHECKPOINT, DEVICE, OUTPUT, OVERWRITE, PRECISION, QUIET, RESUME
from mrihvae.cli.sections import DEGRADATION, EXPERT, INPUT, METHOD, SEVERAL, Options
from mrihvae.pnp.recommended import TASKS
from mrihvae.pnp.settings import ENCODERS, RESULTS, PnPSettings

BOUNDARIES = ("periodic", "zero")
TUNED: dict[str, Any] = {"default": None, "shown": "tuned for task and noise"}


class Restore(Options):
    """image restoration: deblur, superresolve, inpaint or denoise images (NIfTI, PNG, DICOM)

    Examples:
      mrihvae restore blurred.nii.gz --task deblur --kernel-width 1.5 --output out/
      mrihvae restore photos/ --task superresolve --factor 2 --output out/
      mrihvae restore T1.nii.gz --task denoise --noise 12 --output out/
    """

    input: Path = INPUT("NIfTI file, gray PNG, JPEG or TIFF, DICOM, or a folder of them", positional=True)
    task: str = METHOD("restoration task", choices=TASKS)
    output: Path = OUTPUT("folder for restored images, panels/ and restore.json")
    series: str | None = INPUT("DICOM series by its number or UID, if there are several", None, "the only one")
    kernel_width: tuple[float, ...] | None = DEGRADATION(
        "deblur, superresolve: SD of a Gaussian blur, in pixels of the result; or two SDs, along and across",
        None, "superresolve: 0.4 x factor", **SEVERAL,
    )  # fmt: skip
    kernel_angle: float | None = DEGRADATION(
        "deblur, superresolve: angle of two SDs, in degrees from axis 2 to axis 1", None, "0"
    )
    kernel: Path | None = DEGRADATION(
        "deblur, superresolve: the blur kernel, a 2D .npy array or a picture with odd height and width",
        None,
        "the Gaussian of --kernel-width",
    )
    boundary: str | None = DEGRADATION("deblur: boundary condition", None, "periodic", choices=BOUNDARIES)
    factor: Literal[2, 4] | None = DEGRADATION(
        "superresolve: upsampling factor along H and W; required for this task", None, "none"
    )
    mask: Path | None = DEGRADATION(
        "inpaint: image that is nonzero where pixels are known, one for all slices or one per slice", None, "none"
    )
    missing: float | None = DEGRADATION("inpaint: value that marks missing pixels, such as 0 or nan", None, "none")
    noise: float | None = DEGRADATION("SD of the noise, in units of the image", None, "estimated for each volume")
    checkpoint: str = CHECKPOINT("restoration")
    device: str = DEVICE("cpu")
    batch_size: int = METHOD("number of slices restored together; lower it to save memory", 4)
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
    overwrite: bool = OVERWRITE()
    quiet: bool = QUIET()


class Sample(Options):
    """draw images from the prior, without any data

    Examples:
      mrihvae sample --output samples/ --samples 16 --size 160 160
      mrihvae sample --output samples/ --temperature 0.8 --seed 1
    """

    output: Path = OUTPUT("folder for samples.h5, samples.png and bands.png")
    checkpoint: str = CHECKPOINT("default")
    samples: int = METHOD("number of images", 8)
    size: tuple[int, int] = METHOD("size of the images, in pixels", (128, 128), metavar="H W")
    temperature: float = METHOD(
        "factor on the SD of the prior: 1 for images with the power of scans, 0 for the mean of the prior", 1.0
    )
    seed: int = METHOD("equal seeds give equal images", 0)
    precision: str = PRECISION("auto")
