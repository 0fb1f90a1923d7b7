"""Options of commands. Images."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from mrihvae.cli.options.common import CHECKPOINT, DEVICE, OUTPUT, OVERWRITE, PRECISION, QUIET, RESUME
from mrihvae.cli.sections import DEGRADATION, EXPERT, FILES, METHOD, SEVERAL, Options
from mrihvae.pnp.recommended import TASKS
from mrihvae.pnp.settings import ENCODERS, RESULTS, PnPSettings

BOUNDARIES = ("periodic", "zero")
TUNED: dict[str, Any] = {"default": None, "shown": "tuned for task and noise"}


class Restore(Options):
    """image restoration: deblur, superresolve, inpaint or denoise images (NIfTI, PNG, DICOM)

    Examples:
      mrihvae restore blurred.nii.gz --task deblur --kernel-width 1.5 --output out/
      mrihvae restore photos/ --task superresolve --factor 2 --output out/
    """

    input: Path = FILES("NIfTI file, gray PNG, JPEG or TIFF, DICOM, or a folder of them", positional=True)
    task: str = METHOD("what is wrong with the images", choices=TASKS)
    output: Path = OUTPUT("folder for restored images, panels/ and restore.json")
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
    overwrite: bool = OVERWRITE()
    quiet: bool = QUIET()


class Sample(Options):
    """draw images from the prior, without any data

    Example:
      mrihvae sample --output samples/ --samples 16 --size 160 160
    """

    output: Path = OUTPUT("folder for samples.h5, samples.png and bands.png")
    checkpoint: str = CHECKPOINT("default")
    samples: int = METHOD("number of images", 8)
    size: tuple[int, int] = METHOD("size of the images", (128, 128), metavar="H W")
    temperature: float = METHOD("factor on the prior's SD: 1 for the power of scans, 0 for the prior's means", 1.0)
    seed: int = METHOD("equal seeds give equal images", 0)
    precision: str = PRECISION("auto")
