"""`mrihvae restore`: image restoration of files, in the same format, with panels."""

from __future__ import annotations

import hashlib
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mrihvae import __version__
from mrihvae.cli import options
from mrihvae.cli.common import Failures, check_output, check_results, finished_before
from mrihvae.cli.console import progress
from mrihvae.errors import InputError
from mrihvae.evaluation.figures import ERROR_GAIN, volume_panel
from mrihvae.io.images import (
    Images,
    list_images,
    mask_for,
    read_images,
    read_kernel,
    read_mask,
    restored_name,
    stem_of,
    write_images,
)
from mrihvae.model.shipped import find_weights
from mrihvae.model.weights import fingerprint, load_on
from mrihvae.physics.kernels import gaussian_kernel
from mrihvae.physics.noise import NOISE_ESTIMATOR
from mrihvae.recon.restoration import (
    Degradation,
    RestorationJob,
    RestoredVolume,
    check_size,
    complete_settings,
    restore_volume,
)
from mrihvae.utils.files import atomic_write
from mrihvae.utils.memory import is_out_of_memory
from mrihvae.utils.text import counted, printable

BELONGS = {  # to which tasks an option belongs
    "kernel_width": ("deblur", "superresolve"),
    "kernel_angle": ("deblur", "superresolve"),
    "kernel": ("deblur", "superresolve"),
    "boundary": ("deblur",),
    "factor": ("superresolve",),
    "mask": ("inpaint",),
    "missing": ("inpaint",),
}
NEEDS = {"deblur": ("kernel_width", "kernel"), "superresolve": ("factor",), "inpaint": ("mask", "missing")}
DARK = 0.25  # of the brightness: images with values so far below 0 are drawn from there on
USUAL_WIDTH = 0.4  # of the blur of coarse pixels, in them
LOOP = (
    "iterations", "gamma", "tau", "tau_finest", "relaxation", "views", "encoder", "tolerance", "patience", "precision",
    "result",
)  # fmt: skip
SAME = ("task", "checkpoint", "weights", "degradation", "noise", "settings")  # in one output folder


def run(arguments: options.Restore) -> int:
    """Restore; prints progress on standard error and a line per file on standard output.

    Returns
    -------
    the exit status: 1 if some of the files failed
    """
    _check(arguments)
    check_output(arguments.output, "panels")
    files = list_images(arguments.input)
    outputs = {file: arguments.output / restored_name(file) for file in files}
    for file, output in outputs.items():
        if output.resolve().parent == file.resolve().parent:
            raise InputError(f"--output {arguments.output}: contains the input {file.name}; choose another folder")
    results = [arguments.output / "restore.json", *outputs.values()]
    check_results(arguments.output, results, arguments.overwrite, arguments.resume)
    mask = None if arguments.mask is None else read_mask(arguments.mask)
    degradation = _degradation(arguments)
    settings = _settings(arguments)
    summary = _summary(arguments, settings)
    done = finished_before(arguments.output / "restore.json", summary, SAME, "files") if arguments.resume else {}
    model = load_on(arguments.checkpoint, arguments.device)
    job = RestorationJob(model, degradation, arguments.noise, settings, arguments.batch_size)
    failures = Failures(len(files))
    for file, output in outputs.items():
        if file.name in done and output.exists():
            print(printable(f"{file.name}: already there"))
            continue
        with failures.collect(file.name):
            done[file.name] = _restore_file(file, output, job, mask, arguments)
            _write_record(arguments.output, summary, done, failures)
    failures.check_any_left(arguments.input, "restored")
    _write_record(arguments.output, summary, done, failures)
    return failures.conclude("restored", arguments.output, f"pictures of each: {arguments.output / 'panels'}")


def _write_record(folder: Path, summary: dict[str, Any], done: dict[str, Any], failures: Failures) -> None:
    """Write restore.json: settings, what was restored, and what failed."""
    with atomic_write(folder / "restore.json") as temporary:
        values = {**summary, "files": list(done.values()), "failed": failures.records()}
        temporary.write_text(json.dumps(values, indent=2) + "\n")


def _check(arguments: options.Restore) -> None:
    """Check the options that the parser cannot."""
    task = arguments.task
    for name, tasks in BELONGS.items():
        if getattr(arguments, name) is not None and task not in tasks:
            raise InputError(f"{_option(name)}: only applies to --task {' or '.join(tasks)}, not {task}; leave it out")
    needed = NEEDS.get(task, ())
    if needed and all(getattr(arguments, name) is None for name in needed):
        raise InputError(f"--task {task}: needs {' or '.join(map(_option, needed))}; add it")
    widths = arguments.kernel_width
    if widths is not None and arguments.kernel is not None:
        raise InputError("--kernel-width and --kernel: give only one of them")
    if widths is not None and (len(widths) > 2 or not all(0 < width < math.inf for width in widths)):
        raise InputError(f"--kernel-width {' '.join(map(str, widths))}: give one or two numbers above 0")
    angle = arguments.kernel_angle
    if angle is not None and (widths is None or len(widths) < 2 or not math.isfinite(angle)):
        raise InputError(f"--kernel-angle {angle}: must be a number, and needs two numbers for --kernel-width")
    if arguments.noise is not None and not 0 <= arguments.noise < math.inf:
        raise InputError(f"--noise {arguments.noise}: must be at least 0; leave it out to have it estimated")
    if arguments.batch_size < 1:
        raise InputError(f"--batch-size {arguments.batch_size}: must be at least 1")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _degradation(arguments: options.Restore) -> Degradation:
    """Read the options of the degradation."""
    factor = arguments.factor or 1
    kernel = None
    if arguments.kernel is not None:
        kernel = read_kernel(arguments.kernel)
    elif arguments.task in ("deblur", "superresolve"):
        widths = arguments.kernel_width or [USUAL_WIDTH * factor]
        kernel = gaussian_kernel((widths[0], widths[-1]), math.radians(arguments.kernel_angle or 0))
    return Degradation(arguments.task, kernel, factor, arguments.boundary or "periodic")


def _settings(arguments: options.Restore) -> dict[str, Any]:
    """Read the options of the loop that were given."""
    given = {name: getattr(arguments, name) for name in LOOP if getattr(arguments, name) is not None}
    if "tau" in given:
        given["tau"] = given["tau"][0] if len(given["tau"]) == 1 else tuple(given["tau"])
        given.setdefault("tau_finest", None)  # a tau that is given counts for all levels
    complete_settings(arguments.task, 0.0, given)
    return given


def _summary(arguments: options.Restore, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a restoration, for restore.json."""
    degradation = {name: getattr(arguments, name) for name in BELONGS if getattr(arguments, name) is not None}
    plain = {
        name: _file(value) if isinstance(value, Path) else str(value) if name == "missing" else value
        for name, value in degradation.items()
    }
    if arguments.kernel_width is not None:
        plain["kernel_width"] = list(arguments.kernel_width)  # as JSON has it
    return {
        "mrihvae": __version__,
        "torch": str(torch.__version__),
        "task": arguments.task,
        "checkpoint": arguments.checkpoint,
        "weights": fingerprint(find_weights(arguments.checkpoint)),
        "degradation": plain,
        "noise": arguments.noise if arguments.noise is not None else NOISE_ESTIMATOR,
        "settings": {name: list(v) if isinstance(v, tuple) else v for name, v in settings.items()},
        "device": arguments.device,
        "threads": torch.get_num_threads(),
    }


def _file(path: Path) -> str:
    """Identify a file by its name and the first 12 digits of its SHA-256."""
    return f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"


def _restore_file(
    file: Path, output: Path, job: RestorationJob, mask: np.ndarray | None, arguments: options.Restore
) -> dict[str, Any]:
    """Restore one file and write the result and its panel."""
    images = read_images(file, arguments.series)
    values = images.values
    known = np.ones(values.shape, dtype=bool)
    if mask is not None and arguments.mask is not None:
        known = mask_for(images, mask, arguments.mask).copy()
    if arguments.missing is not None:
        missing = np.float32(arguments.missing)
        known &= ~np.isnan(values) if np.isnan(missing) else values != missing
    if not known.any():
        raise InputError(f"{file}: no pixel is marked as known; check --mask and --missing")
    if not np.isfinite(values[known]).all():
        hint = "with --task inpaint, --missing nan fills them" if job.degradation.kernel is None else "replace them"
        raise InputError(f"{file}: holds NaN or infinite values; {hint}")
    values = np.where(known, values, 0)
    check_size(file, (values.shape[-2], values.shape[-1]), job)
    began = time.perf_counter()
    with progress(title=file.name, unit="slice", total=values.shape[0] * values.shape[1]) as bar:
        try:
            parts = [restore_volume(file, v, k, job, bar.update) for v, k in zip(values, known)]
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            size = " x ".join(map(str, values.shape[-2:]))
            raise InputError(f"{file}: too little memory for slices of {size}; lower --batch-size") from error
    if all(part.noise is None for part in parts):
        raise InputError(f"{file}: every slice is constant or nearly all zero; there is nothing to restore")
    restored = np.stack([part.restored for part in parts])
    if not np.isfinite(restored).all():
        raise InputError(f"{file}: the restoration is not finite; lower --gamma or --tau")
    seconds = (time.perf_counter() - began) / (values.shape[0] * values.shape[1])
    write_images(output, restored, images, job.degradation.factor)
    _panel(arguments.output / "panels" / f"{stem_of(file)}.png", images, values, parts, job.degradation.task)
    noises = [part.noise for part in parts if part.noise is not None]
    low, high = f"{min(noises):.3g}", f"{max(noises):.3g}"
    ran_away, unsettled, left = (
        sum(len(getattr(part, name)) for part in parts) for name in ("diverged", "unsettled", "left")
    )
    notes = f"{counted(values.shape[0] * values.shape[1], 'slice')}, noise {low if low == high else f'{low} to {high}'}"
    notes += " (estimated)" if job.noise is None else ""
    notes += f", {left} unchanged" if left else ""
    notes += f", {ran_away} diverged and keep the result of the previous iteration" if ran_away else ""
    notes += (
        f", {unsettled} did not converge: use fewer --iterations, or lower --tau or --relaxation" if unsettled else ""
    )
    notes += "".join(f", {warning}" for warning in sorted({warning for part in parts for warning in part.warnings}))
    print(printable(f"{file.name}: {notes}, {seconds:.2f} s per slice"))
    return {
        "file": file.name,
        "output": output.name,
        "slices": values.shape[0] * values.shape[1],
        "seconds_per_slice": seconds,
        "volumes": [part.record() for part in parts],
    }


def _panel(path: Path, images: Images, values: np.ndarray, parts: list[RestoredVolume], task: str) -> None:
    """Draw the middle slice that was restored: as it was, as it is, and how much they differ."""
    number = next(number for number, part in enumerate(parts) if part.noise is not None)
    part = parts[number]
    chosen = [k for k in range(len(part.first)) if k not in part.left]
    index = chosen[len(chosen) // 2]
    before, first, after = values[number, index], part.first[index], part.restored[index]
    low, high = (float(value) for value in np.percentile(before, (1, 99)))
    floor = low if -low > DARK * high else 0.0  # what is black, where negative values are more than noise about 0
    panels = {
        "input": before - floor,
        "restored": after - floor,
        f"difference x {ERROR_GAIN}": ERROR_GAIN * np.abs(after - first),
    }
    if images.header is not None:  # as anatomy is shown: the first axis to the right, the second upwards
        panels = {name: np.rot90(image) for name, image in panels.items()}
    title = f"{images.file.name}, slice {index}, {task}, noise {part.noise:.3g}"
    title += f", black is {floor:.3g}" if floor else ""
    volume_panel(path, title, {name: image[None] for name, image in panels.items()}, None)
